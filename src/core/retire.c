/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Generations: when is nobody using any more what has been taken away?
 *
 * Two things are taken away. Tables of the objects (slots, rules, logs) are read by vcpus without a
 * lock; a vcpu that looks at its requests holds no pointer into them, and notes the generation it
 * saw (`quiescent`). Translations live on in TLBs; a vcpu that has taken VIRTX_REQUEST_MEMORY owes
 * a flush which no entry precedes, and notes the generation it saw (`settled`).
 *
 * A vcpu with `running` clear needs neither. It holds no pointers, and it enters the guest only
 * after the exchange that sets `running` and a look at its requests behind it: if `running` was
 * seen clear after the request was left, that look finds the request, and pays. What other CPUs'
 * TLBs still hold of such a vcpu can be used by nobody but a vcpu of this VM on that CPU, which has
 * the same debt, or pays on arrival (src/hw/tags.c).
 */
#include "core/object.h"

uint64_t virtx_generation_coming(struct virtx_vm *vm)
{
    return atomic_load(&vm->generation) + 1;
}

uint64_t virtx_generation_next(struct virtx_vm *vm)
{
    uint64_t generation;

    /* First the number, then the requests: one taken in between has seen the number. The page lock
     * keeps virtx_pool_get() from asking in between. */
    virtx_lock(&vm->page_lock);
    generation = atomic_fetch_add(&vm->generation, 1) + 1;
    atomic_store(&vm->debt_generation, generation);
    for (struct virtx_vcpu *vcpu = vm->vcpus; vcpu; vcpu = vcpu->next)
        virtx_request_lazily(vcpu, VIRTX_REQUEST_MEMORY);
    virtx_unlock(&vm->page_lock);
    return generation;
}

static bool vcpu_is_settled(struct virtx_vcpu *vcpu, uint64_t generation, uint64_t debt)
{
    return !atomic_load(&vcpu->running) ||
           (atomic_load(&vcpu->quiescent) >= generation && atomic_load(&vcpu->settled) >= debt);
}

bool virtx_is_settled(struct virtx_vm *vm, uint64_t generation)
{
    /* The debts of generations up to this one are at most those of the last that left any. */
    uint64_t debt = min_u64(generation, atomic_load(&vm->debt_generation));

    if (generation > atomic_load(&vm->generation))
        return false; /* being made: the vcpus have not been asked yet */
    for (struct virtx_vcpu *vcpu = vm->vcpus; vcpu; vcpu = vcpu->next)
        if (!vcpu_is_settled(vcpu, generation, debt))
            return false;
    return true;
}

/* Makes the running vcpus that are behind look at their requests, once for each generation. */
void virtx_hurry(struct virtx_vm *vm, uint64_t generation)
{
    uint64_t debt = min_u64(generation, atomic_load(&vm->debt_generation));

    for (struct virtx_vcpu *vcpu = vm->vcpus; vcpu; vcpu = vcpu->next) {
        if (vcpu->hurried >= generation || vcpu_is_settled(vcpu, generation, debt))
            continue;
        vcpu->hurried = generation;
        /* The look is skipped where there is no request, so let there be one. */
        virtx_request_lazily(vcpu, VIRTX_REQUEST_EVENT);
        vm->virtx->backend->kick(vcpu);
    }
}

bool virtx_vm_settled(struct virtx_vm *vm, uint64_t generation, bool hurry)
{
    uint64_t flags = virtx_vm_lock(vm);
    bool settled = virtx_is_settled(vm, generation);

    if (settled)
        virtx_reap(vm);
    else if (hurry && generation <= atomic_load(&vm->generation))
        virtx_hurry(vm, generation);
    virtx_vm_unlock(vm, flags);
    return settled;
}

uint64_t virtx_vm_generation(struct virtx_vm *vm)
{
    return atomic_load(&vm->generation);
}

void virtx_retire(struct virtx_vm *vm, void *memory, uint32_t pages)
{
    struct retired *retired = memory;

    retired->generation = atomic_fetch_add(&vm->generation, 1) + 1;
    retired->pages = pages;
    retired->next = vm->retired;
    vm->retired = retired;
}

void virtx_retired_free(struct virtx *virtx, struct retired *retired)
{
    if (retired->pages == VIRTX_RETIRED_LOG)
        virtx_log_free(virtx, (struct dirty_log *)(void *)retired);
    else
        virtx_pages_free(virtx, retired, retired->pages);
}

void virtx_reap(struct virtx_vm *vm)
{
    struct retired **link = &vm->retired;

    /* The newest stands first, and where one has settled all behind it have. */
    while (*link && !virtx_is_settled(vm, (*link)->generation))
        link = &(*link)->next;
    while (*link) {
        struct retired *retired = *link;

        *link = retired->next;
        virtx_retired_free(vm->virtx, retired);
    }
    virtx_pool_reap(vm);
}

uint32_t virtx_backend_requests(struct virtx_vcpu *vcpu, uint32_t mask)
{
    uint32_t taken = atomic_fetch_and(&vcpu->requests, ~mask) & mask;

    /* Tables that were replaced before this number may be freed from here on. */
    memset(vcpu->found, 0, sizeof(vcpu->found));
    /* What the vcpu reads from here on is at least as new as this number. */
    atomic_store_explicit(&vcpu->quiescent, atomic_load(&vcpu->vm->generation),
                          memory_order_release);
    return taken;
}

uint8_t virtx_backend_sipi(struct virtx_vcpu *vcpu)
{
    return atomic_load(&vcpu->sipi);
}

void virtx_backend_settle(struct virtx_vcpu *vcpu, uint64_t generation)
{
    atomic_store_explicit(&vcpu->settled, generation, memory_order_release);
}
