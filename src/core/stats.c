/* SPDX-License-Identifier: BSD-2-Clause */
/* Counters. */
#include "core/object.h"

void virtx_vcpu_stats(const struct virtx_vcpu *vcpu, struct virtx_stats *stats)
{
    *stats = vcpu->stats;
}

/* Of a vcpu that may be in run: its thread adds to the word without more ado, since an atomic
 * addition would cost the loop something. What is read is what it was a moment ago. */
__attribute__((no_sanitize("thread"))) static uint64_t glance(const volatile uint64_t *counter)
{
    return *counter;
}

void virtx_vm_stats(struct virtx_vm *vm, struct virtx_stats *stats)
{
    uint64_t *sum = (uint64_t *)stats;
    uint64_t flags;

    _Static_assert(sizeof(*stats) % sizeof(*sum) == 0, "nothing but 64-bit counters");
    memset(stats, 0, sizeof(*stats));
    flags = virtx_vm_lock(vm);
    for (const struct virtx_vcpu *vcpu = vm->vcpus; vcpu; vcpu = vcpu->next) {
        const uint64_t *one = (const uint64_t *)&vcpu->stats;

        for (size_t i = 0; i < sizeof(*stats) / sizeof(*sum); i++)
            sum[i] += glance(&one[i]);
    }
    virtx_lock(&vm->page_lock);
    stats->table_pages = vm->pool_used;
    virtx_unlock(&vm->page_lock);
    virtx_vm_unlock(vm, flags);
}
