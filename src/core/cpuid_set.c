/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Changes of CPUID tables: a VM's, and what one vcpu has otherwise; also while vcpus run.
 *
 * A change publishes a new table and leaves VIRTX_REQUEST_INTERCEPT with the vcpus, as a change of
 * the intercepts does; the old one is freed when its generation has settled.
 */
#include "core/object.h"

#define EXTENDED  0x80000000u
#define ADDRESSES 0x80000008u

/*
 * What the guest's memory is translated by and what its FPU state consists of: made into tables and
 * areas when a vcpu is created, and the same for all vcpus of a VM, which share the former.
 */
struct common {
    uint64_t xcr0, xss;
    uint32_t vendor, physical_bits;
    bool large_1g, xsaves;
};

static struct common common_of(struct cpuid_view view)
{
    struct virtx_cpuid_entry e;
    struct common c = {0};
    uint32_t max;

    virtx_cpuid_answer(view, 0, 0, &e);
    c.vendor = e.ebx;
    max = e.eax;
    virtx_cpuid_answer(view, EXTENDED + 1, 0, &e);
    c.large_1g = e.edx >> 26 & 1;
    virtx_cpuid_answer(view, ADDRESSES, 0, &e);
    c.physical_bits = e.leaf == ADDRESSES ? e.eax & 0xff : 0;
    virtx_cpuid_answer(view, 1, 0, &e);
    if (max < 0xd || !(e.ecx >> 26 & 1))
        return c;
    virtx_cpuid_answer(view, 0xd, 0, &e);
    c.xcr0 = (uint64_t)e.edx << 32 | e.eax;
    virtx_cpuid_answer(view, 0xd, 1, &e);
    c.xsaves = e.eax >> 3 & 1;
    c.xss = (uint64_t)e.edx << 32 | e.ecx;
    return c;
}

static enum virtx_status differ(struct virtx_vm *vm, const char *rule, uint64_t value)
{
    return virtx_fail(&vm->error, VIRTX_E_BUSY, "entry", rule, value);
}

/* [lock] Whether vcpus that exist can go over from one view to another. */
static enum virtx_status check_common(struct virtx_vm *vm, struct cpuid_view from,
                                      struct cpuid_view to)
{
    struct common a = common_of(from), b = common_of(to);

    if (a.vendor != b.vendor)
        return differ(vm, "leaves the vendor alone once a vcpu exists", b.vendor);
    if (a.physical_bits != b.physical_bits)
        return differ(vm, "leaves the width of addresses alone once a vcpu exists",
                      b.physical_bits);
    if (a.large_1g != b.large_1g)
        return differ(vm, "leaves 1-GiB pages alone once a vcpu exists", b.large_1g);
    if (a.xcr0 != b.xcr0 || a.xss != b.xss || a.xsaves != b.xsaves)
        return differ(vm, "leaves the components of XSAVE alone once a vcpu exists", b.xcr0);
    return VIRTX_OK;
}

static enum virtx_status check_entry(struct virtx_vm *vm, const struct virtx_cpuid_entry *entry)
{
    uint64_t offending = virtx_cpuid_cannot_work(vm, entry);

    if (offending)
        return virtx_fail(&vm->error, VIRTX_E_UNSUPPORTED, "entry",
                          "has only features that the processor has and the library virtualizes",
                          offending);
    if (entry->leaf == ADDRESSES && (entry->eax & 0xff) > vm->virtx->caps.guest_physical_bits)
        return virtx_fail(&vm->error, VIRTX_E_UNSUPPORTED, "entry.eax",
                          "has no wider physical addresses than can be mapped", entry->eax & 0xff);
    return VIRTX_OK;
}

/* Replaces or adds an entry of a table that nobody reads. */
static enum virtx_status put(struct virtx_vm *vm, struct cpuid_table *table,
                             const struct virtx_cpuid_entry *entry)
{
    struct virtx_cpuid_entry value = *entry;

    if (!virtx_cpuid_has_subleaves(value.leaf))
        value.subleaf = 0;
    for (uint32_t i = 0; i < table->count; i++)
        if (table->entry[i].leaf == value.leaf && table->entry[i].subleaf == value.subleaf) {
            table->entry[i] = value;
            return VIRTX_OK;
        }
    if (table->count == VIRTX_CPUID_ENTRIES)
        return virtx_fail(&vm->error, VIRTX_E_NO_MEMORY, "entry", "finds room among 64 entries",
                          value.leaf);
    table->entry[table->count++] = value;
    return VIRTX_OK;
}

static void retire(struct virtx_vm *vm, struct cpuid_table *table)
{
    if (table && table != &vm->cpuid_first)
        virtx_retire(vm, table, 1);
}

static struct cpuid_table *publish(struct virtx_vm *vm, struct virtx_vcpu *vcpu,
                                   struct cpuid_table *table)
{
    return atomic_exchange_explicit(vcpu ? &vcpu->cpuid : &vm->cpuid, table, memory_order_acq_rel);
}

static enum virtx_status backend_changed(struct virtx_vm *vm, struct virtx_vcpu *vcpu)
{
    const struct virtx_backend *backend = vm->virtx->backend;

    return backend->cpuid_changed ? backend->cpuid_changed(vm, vcpu) : VIRTX_OK;
}

/* [lock] All that vcpus may see of a change. */
static enum virtx_status check_views(struct virtx_vm *vm, struct virtx_vcpu *vcpu,
                                     const struct cpuid_table *table)
{
    const struct cpuid_table *vms = virtx_cpuid_vm(vm).vms;
    enum virtx_status status = VIRTX_OK;

    if (vcpu)
        return check_common(vm, (struct cpuid_view){NULL, vms}, (struct cpuid_view){table, vms});
    for (vcpu = vm->vcpus; vcpu && status == VIRTX_OK; vcpu = vcpu->next) {
        struct cpuid_view view = virtx_cpuid_vcpu(vcpu);

        status = check_common(vm, view, (struct cpuid_view){view.own, table});
    }
    return status;
}

/* [lock] Puts the table (NULL: none of the vcpu's own) in place of the owner's, or frees it. */
static enum virtx_status change(struct virtx_vm *vm, struct virtx_vcpu *vcpu,
                                struct cpuid_table *table)
{
    enum virtx_status status = check_views(vm, vcpu, table);
    struct cpuid_table *old;

    if (status != VIRTX_OK) {
        if (table)
            virtx_pages_free(vm->virtx, table, 1);
        return status;
    }
    if (table)
        table->version = ++vm->cpuid_version;
    old = publish(vm, vcpu, table);
    status = backend_changed(vm, vcpu);
    if (status != VIRTX_OK) { /* running vcpus may have seen the new one for a moment */
        virtx_fail(&vm->error, status, "entry", "the backend could not make it take effect", 0);
        old = publish(vm, vcpu, old);
        backend_changed(vm, vcpu);
    }
    retire(vm, old);
    if (vcpu)
        virtx_request_lazily(vcpu, VIRTX_REQUEST_INTERCEPT);
    else
        for (vcpu = vm->vcpus; vcpu; vcpu = vcpu->next)
            virtx_request_lazily(vcpu, VIRTX_REQUEST_INTERCEPT);
    return status;
}

/* [lock] A copy of the owner's table; empty if it has none. */
static enum virtx_status copy_of(struct virtx_vm *vm, const struct cpuid_table *from,
                                 struct cpuid_table **out)
{
    void *memory;
    enum virtx_status status = virtx_pages_get(vm->virtx, 1, &memory, &vm->error);

    _Static_assert(sizeof(struct cpuid_table) <= VIRTX_PAGE_SIZE, "a table has one page");
    if (status != VIRTX_OK)
        return status;
    *out = memory;
    if (from) {
        (*out)->count = from->count;
        memcpy((*out)->entry, from->entry, from->count * sizeof(from->entry[0]));
    }
    return VIRTX_OK;
}

static enum virtx_status check_live(struct virtx_vm *vm)
{
    if (vm->virtx->backend->cpuid_changed)
        return VIRTX_OK;
    return virtx_fail(&vm->error, VIRTX_E_BUSY, "VM",
                      "has no vcpu yet, or a backend that lets its CPUID change", vm->vcpu_count);
}

/* [lock] */
static enum virtx_status set(struct virtx_vm *vm, struct virtx_vcpu *vcpu,
                             const struct virtx_cpuid_entry *entry)
{
    struct cpuid_table *table;
    enum virtx_status status = vm->vcpus ? check_live(vm) : VIRTX_OK;

    if (status == VIRTX_OK)
        status = check_entry(vm, entry);
    if (status != VIRTX_OK)
        return status;
    table = atomic_load(vcpu ? &vcpu->cpuid : &vm->cpuid);
    if (!vm->vcpus) {
        status = put(vm, table, entry);
        return status == VIRTX_OK ? backend_changed(vm, NULL) : status;
    }
    virtx_reap(vm);
    status = copy_of(vm, table, &table);
    if (status != VIRTX_OK)
        return status;
    status = put(vm, table, entry);
    if (status == VIRTX_OK)
        return change(vm, vcpu, table);
    virtx_pages_free(vm->virtx, table, 1);
    return status;
}

/* ---- The calls ---- */

enum virtx_status virtx_vm_cpuid_set(struct virtx_vm *vm, const struct virtx_cpuid_entry *entry)
{
    enum virtx_status status;
    uint64_t flags;

    if (!entry)
        return virtx_fail(&vm->error, VIRTX_E_INVALID, "entry", "is not NULL", 0);
    flags = virtx_vm_lock(vm);
    status = set(vm, NULL, entry);
    virtx_vm_unlock(vm, flags);
    return status;
}

enum virtx_status virtx_vcpu_cpuid_set(struct virtx_vcpu *vcpu,
                                       const struct virtx_cpuid_entry *entry)
{
    struct virtx_vm *vm = vcpu->vm;
    enum virtx_status status;
    uint64_t flags;

    if (!entry)
        return virtx_fail(&vm->error, VIRTX_E_INVALID, "entry", "is not NULL", 0);
    flags = virtx_vm_lock(vm);
    status = set(vm, vcpu, entry);
    if (status != VIRTX_OK)
        vcpu->error = vm->error;
    virtx_vm_unlock(vm, flags);
    return status;
}

enum virtx_status virtx_vcpu_cpuid_reset(struct virtx_vcpu *vcpu)
{
    struct virtx_vm *vm = vcpu->vm;
    uint64_t flags = virtx_vm_lock(vm);
    enum virtx_status status = VIRTX_OK;

    virtx_reap(vm);
    if (atomic_load(&vcpu->cpuid))
        status = change(vm, vcpu, NULL);
    if (status != VIRTX_OK)
        vcpu->error = vm->error;
    virtx_vm_unlock(vm, flags);
    return status;
}

static enum virtx_status get(struct virtx_vm *vm, struct virtx_vcpu *vcpu, uint32_t leaf,
                             uint32_t subleaf, struct virtx_cpuid_entry *entry)
{
    uint64_t flags;

    if (!entry)
        return virtx_fail(&vm->error, VIRTX_E_INVALID, "entry", "is not NULL", 0);
    flags = virtx_vm_lock(vm);
    virtx_cpuid_answer(vcpu ? virtx_cpuid_vcpu(vcpu) : virtx_cpuid_vm(vm), leaf, subleaf, entry);
    virtx_vm_unlock(vm, flags);
    return VIRTX_OK;
}

enum virtx_status virtx_vm_cpuid_get(struct virtx_vm *vm, uint32_t leaf, uint32_t subleaf,
                                     struct virtx_cpuid_entry *entry)
{
    return get(vm, NULL, leaf, subleaf, entry);
}

enum virtx_status virtx_vcpu_cpuid_get(struct virtx_vcpu *vcpu, uint32_t leaf, uint32_t subleaf,
                                       struct virtx_cpuid_entry *entry)
{
    return get(vcpu->vm, vcpu, leaf, subleaf, entry);
}

void virtx_cpuid_drop(struct virtx_vcpu *vcpu)
{
    retire(vcpu->vm, publish(vcpu->vm, vcpu, NULL));
}

void virtx_cpuid_destroy(struct virtx_vm *vm)
{
    struct cpuid_table *table = publish(vm, NULL, NULL);

    if (table && table != &vm->cpuid_first)
        virtx_pages_free(vm->virtx, table, 1);
}
