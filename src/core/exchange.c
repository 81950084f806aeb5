/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Exchanging the paging engine of a VM that lives.
 *
 * Nobody is in run meanwhile: each vcpu's `running` is held, as run itself would. The new engine
 * starts with nothing and is filled by faults; the old one reports what its logs have yet to tell,
 * and gives its pages back. What processors still hold of it is paid as a debt before the next
 * entry, as after any change of memory. Both engines' bytes exist side by side in each object, so
 * that the old one is whole until the new one is.
 */
#include "core/object.h"

/* Bytes to reserve for whichever engine it will be. */
void virtx_paging_room(const struct virtx *virtx, size_t *vm_bytes, size_t *vcpu_bytes)
{
    *vm_bytes = *vcpu_bytes = 0;
    if (!virtx->paging)
        return;
    for (const struct virtx_paging *const *p = virtx->paging; *p; p++) {
        if ((*p)->vm_bytes > *vm_bytes)
            *vm_bytes = (*p)->vm_bytes;
        if ((*p)->vcpu_bytes > *vcpu_bytes)
            *vcpu_bytes = (*p)->vcpu_bytes;
    }
    *vm_bytes = (*vm_bytes + 63) & ~(size_t)63;
    *vcpu_bytes = (*vcpu_bytes + 63) & ~(size_t)63;
}

/* The other of two places side by side. */
static void *other(void *base, void *now, size_t bytes)
{
    return now == base ? (uint8_t *)base + bytes : base;
}

/* [lock] Makes the objects show the other engine's bytes. */
static void turn(struct virtx_vm *vm)
{
    size_t vm_bytes, vcpu_bytes;

    virtx_paging_room(vm->virtx, &vm_bytes, &vcpu_bytes);
    vm->paging_data = other(vm->paging_base, vm->paging_data, vm_bytes);
    for (struct virtx_vcpu *vcpu = vm->vcpus; vcpu; vcpu = vcpu->next)
        vcpu->paging_data = other(vcpu->paging_base, vcpu->paging_data, vcpu_bytes);
}

static void release(struct virtx_vm *vm, const struct virtx_vcpu *end)
{
    for (struct virtx_vcpu *vcpu = vm->vcpus; vcpu != end; vcpu = vcpu->next)
        atomic_store_explicit(&vcpu->running, false, memory_order_release);
}

/* [lock] Keeps all vcpus out of run, or none. */
static enum virtx_status hold(struct virtx_vm *vm)
{
    for (struct virtx_vcpu *vcpu = vm->vcpus; vcpu; vcpu = vcpu->next)
        if (atomic_exchange(&vcpu->running, true)) {
            release(vm, vcpu);
            return virtx_fail(&vm->error, VIRTX_E_BUSY, "VM", "has no vcpu in run", vcpu->id);
        }
    return VIRTX_OK;
}

static void end_engine(struct virtx_vm *vm, const struct virtx_paging *engine,
                       const struct virtx_vcpu *end)
{
    for (struct virtx_vcpu *vcpu = vm->vcpus; vcpu != end; vcpu = vcpu->next)
        engine->vcpu_destroy(vcpu);
    engine->vm_destroy(vm);
}

/* The new engine's part in all objects, or nothing. */
static enum virtx_status begin_engine(struct virtx_vm *vm, const struct virtx_paging *engine)
{
    enum virtx_status status;

    memset(vm->paging_data, 0, engine->vm_bytes);
    status = engine->vm_create(vm);
    if (status != VIRTX_OK)
        return status;
    for (struct virtx_vcpu *vcpu = vm->vcpus; vcpu; vcpu = vcpu->next) {
        memset(vcpu->paging_data, 0, engine->vcpu_bytes);
        status = engine->vcpu_create(vcpu);
        if (status != VIRTX_OK) {
            end_engine(vm, engine, vcpu);
            return status;
        }
    }
    return VIRTX_OK;
}

static enum virtx_status exchange(struct virtx_vm *vm, const struct virtx_paging *engine)
{
    const struct virtx_paging *old = vm->paging;
    enum virtx_status status;

    turn(vm);
    vm->paging = engine;
    status = begin_engine(vm, engine);
    turn(vm);
    vm->paging = old;
    if (status != VIRTX_OK)
        return status;
    end_engine(vm, old, NULL);
    turn(vm);
    vm->paging = engine;
    for (struct virtx_vcpu *vcpu = vm->vcpus; vcpu; vcpu = vcpu->next)
        vm->virtx->backend->engine_changed(vcpu);
    virtx_generation_next(vm);
    return VIRTX_OK;
}

/* Whether the engine is one that was registered and fits. */
static enum virtx_status check(struct virtx_vm *vm, const struct virtx_paging *engine)
{
    const struct virtx_paging *const *p = vm->virtx->paging;

    while (p && *p && *p != engine)
        p++;
    if (!engine || !p || !*p)
        return virtx_fail(&vm->error, VIRTX_E_INVALID, "paging",
                          "is one of those given to virtx_open()", 0);
    if (!vm->paging || !vm->virtx->backend->engine_changed || !virtx_paging_fits(vm->virtx, engine))
        return virtx_fail(&vm->error, VIRTX_E_UNSUPPORTED, "paging",
                          "is an engine that this processor and backend can run", 0);
    if (vm->config.interrupts_to_guest && !engine->nested)
        return virtx_fail(&vm->error, VIRTX_E_UNSUPPORTED, "paging",
                          "is nested, as config.interrupts_to_guest needs it", 0);
    return VIRTX_OK;
}

enum virtx_status virtx_vm_set_paging(struct virtx_vm *vm, const struct virtx_paging *paging)
{
    uint64_t flags = virtx_vm_lock(vm);
    enum virtx_status status = check(vm, paging);

    if (status == VIRTX_OK && vm->paging != paging) {
        status = hold(vm);
        if (status == VIRTX_OK) {
            status = exchange(vm, paging);
            if (status != VIRTX_OK && vm->error.status != status)
                virtx_fail(&vm->error, status, "paging", "could be set up", 0);
            release(vm, NULL);
        }
    }
    virtx_vm_unlock(vm, flags);
    return status;
}

const struct virtx_paging *virtx_vm_paging(struct virtx_vm *vm)
{
    uint64_t flags = virtx_vm_lock(vm); /* an exchange tries the new one first */
    const struct virtx_paging *paging = vm->paging;

    virtx_vm_unlock(vm, flags);
    return paging;
}
