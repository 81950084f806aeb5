/* SPDX-License-Identifier: BSD-2-Clause */
/* Virtual CPUs: their life, and where they are loaded. */
#include "core/claim.h"

/* ---- Life ---- */

static enum virtx_status vcpu_alloc(struct virtx_vm *vm, struct virtx_vcpu **out)
{
    struct virtx *virtx = vm->virtx;
    size_t object = (sizeof(struct virtx_vcpu) + 63) & ~(size_t)63;
    size_t pages, vm_room, room;
    enum virtx_status status;
    struct virtx_vcpu *vcpu;
    void *memory, *data = NULL;

    virtx_paging_room(virtx, &vm_room, &room);
    pages = pages_for(object + 2 * room);
    status = virtx_pages_get(virtx, pages, &memory, &vm->error);
    if (status != VIRTX_OK)
        return status;
    if (virtx->backend->vcpu_bytes) {
        status = virtx_pages_get(virtx, pages_for(virtx->backend->vcpu_bytes), &data, &vm->error);
        if (status != VIRTX_OK) {
            virtx_pages_free(virtx, memory, pages);
            return status;
        }
    }
    vcpu = memory;
    vcpu->vm = vm;
    vcpu->virtx = virtx;
    vcpu->pages = (uint32_t)pages;
    vcpu->backend_data = data;
    vcpu->paging_data = vcpu->paging_base = (uint8_t *)vcpu + object;
    vcpu->error = (struct virtx_error){VIRTX_OK, "", "", "", 0};
    atomic_store(&vcpu->cpu, VIRTX_NO_CPU);
    *out = vcpu;
    return VIRTX_OK;
}

static void vcpu_free(struct virtx_vcpu *vcpu)
{
    struct virtx *virtx = vcpu->virtx;

    virtx_pages_free(virtx, vcpu->backend_data, pages_for(virtx->backend->vcpu_bytes));
    virtx_pages_free(virtx, vcpu, vcpu->pages);
}

/* [lock] The engine's and the backend's parts, and the state after RESET. */
static enum virtx_status vcpu_init(struct virtx_vcpu *vcpu)
{
    const struct virtx_backend *backend = vcpu->virtx->backend;
    const struct virtx_paging *paging = vcpu->vm->paging;
    enum virtx_status status = VIRTX_OK;

    if (paging)
        status = paging->vcpu_create(vcpu);
    if (status != VIRTX_OK)
        return status;
    status = backend->vcpu_create(vcpu);
    if (status == VIRTX_OK) {
        status = backend->reset(vcpu, VIRTX_PRESET_RESET);
        if (status != VIRTX_OK)
            backend->vcpu_destroy(vcpu);
    }
    if (status != VIRTX_OK && paging)
        paging->vcpu_destroy(vcpu);
    return status;
}

/* [lock] The list is read under either lock, so it changes under both. */
static void link_vcpu(struct virtx_vm *vm, struct virtx_vcpu *vcpu)
{
    virtx_lock(&vm->page_lock);
    atomic_store(&vcpu->settled, atomic_load(&vm->generation));
    atomic_store(&vcpu->quiescent, atomic_load(&vm->generation));
    vcpu->next = vm->vcpus;
    vm->vcpus = vcpu;
    vm->vcpu_count++;
    virtx_unlock(&vm->page_lock);
}

static void unlink_vcpu(struct virtx_vm *vm, struct virtx_vcpu *vcpu)
{
    struct virtx_vcpu **link = &vm->vcpus;

    virtx_lock(&vm->page_lock);
    while (*link != vcpu)
        link = &(*link)->next;
    *link = vcpu->next;
    vm->vcpu_count--;
    virtx_unlock(&vm->page_lock);
}

static enum virtx_status check_id(struct virtx_vm *vm, uint32_t id)
{
    if (id >= vm->config.max_vcpus)
        return virtx_fail(&vm->error, VIRTX_E_INVALID, "id", "is below config.max_vcpus", id);
    for (const struct virtx_vcpu *vcpu = vm->vcpus; vcpu; vcpu = vcpu->next)
        if (vcpu->id == id)
            return virtx_fail(&vm->error, VIRTX_E_BUSY, "id", "is that of no other vcpu", id);
    return VIRTX_OK;
}

enum virtx_status virtx_vcpu_create(struct virtx_vm *vm, uint32_t id, struct virtx_vcpu **out)
{
    struct virtx_vcpu *vcpu;
    enum virtx_status status = VIRTX_OK;
    uint64_t flags;

    if (!out)
        return virtx_fail(&vm->error, VIRTX_E_INVALID, "out", "is not NULL", 0);
    flags = virtx_vm_lock(vm);
    virtx_reap(vm);
    status = check_id(vm, id);
    if (status == VIRTX_OK)
        status = vcpu_alloc(vm, &vcpu);
    if (status == VIRTX_OK) {
        vcpu->id = id;
        status = vcpu_init(vcpu);
        if (status != VIRTX_OK) {
            virtx_backend_said(vcpu, status, "vcpu");
            vm->error = vcpu->error;
            vcpu_free(vcpu);
        }
    }
    if (status == VIRTX_OK) {
        link_vcpu(vm, vcpu);
        *out = vcpu;
    }
    virtx_vm_unlock(vm, flags);
    return status;
}

/* The vcpu, which the caller has claimed, leaves the CPU it is on: this one. */
static void put_vcpu(struct virtx_vcpu *vcpu)
{
    uint32_t cpu = atomic_load(&vcpu->cpu);

    uint64_t flags;

    if (cpu == VIRTX_NO_CPU)
        return;
    flags = virtx_irq_off();
    vcpu->virtx->backend->put(vcpu);
    vcpu->virtx->cpus[cpu]->loaded = NULL;
    atomic_store(&vcpu->cpu, VIRTX_NO_CPU);
    virtx_irq_restore(flags);
}

enum virtx_status virtx_vcpu_destroy(struct virtx_vcpu *vcpu)
{
    struct virtx_vm *vm = vcpu->vm;
    enum virtx_status status;
    uint64_t flags;

    if (atomic_exchange(&vcpu->running, true))
        return virtx_vcpu_busy(vcpu);
    status = virtx_vcpu_check_place(vcpu);
    if (status == VIRTX_E_BUSY) {
        atomic_store(&vcpu->running, false);
        return status;
    }
    put_vcpu(vcpu);
    virtx_irq_registers(vcpu, false);
    flags = virtx_vm_lock(vm);
    vcpu->virtx->backend->vcpu_destroy(vcpu);
    if (vm->paging)
        vm->paging->vcpu_destroy(vcpu);
    unlink_vcpu(vm, vcpu);
    virtx_intercepts_drop(vm, vcpu);
    virtx_cpuid_drop(vcpu);
    virtx_reap(vm);
    virtx_vm_unlock(vm, flags);
    vcpu_free(vcpu);
    return VIRTX_OK;
}

const struct virtx_error *virtx_vcpu_last_error(const struct virtx_vcpu *vcpu)
{
    return &vcpu->error;
}

uint32_t virtx_vcpu_id(const struct virtx_vcpu *vcpu)
{
    return vcpu->id;
}

struct virtx_vm *virtx_vcpu_vm(const struct virtx_vcpu *vcpu)
{
    return vcpu->vm;
}

void virtx_vcpu_set_user(struct virtx_vcpu *vcpu, void *user)
{
    vcpu->user = user;
}

void *virtx_vcpu_user(const struct virtx_vcpu *vcpu)
{
    return vcpu->user;
}

void *virtx_backend_vcpu(struct virtx_vcpu *vcpu)
{
    return vcpu->backend_data;
}

struct virtx_exit *virtx_backend_exit(struct virtx_vcpu *vcpu)
{
    return &vcpu->exit;
}

void *virtx_paging_vcpu(struct virtx_vcpu *vcpu)
{
    return vcpu->paging_data;
}

/* ---- Loading ---- */

/* The vcpu's own thread may be asleep, the guest halted: what came while this one had claimed the
 * vcpu has found it running, and has woken nobody. */
static void release_sleeper(struct virtx_vcpu *vcpu)
{
    atomic_store(&vcpu->running, false);
    if (atomic_load(&vcpu->requests) && vcpu->virtx->ops.wake)
        vcpu->virtx->ops.wake(vcpu->virtx->ctx, vcpu);
}

/* Makes room on this CPU for another vcpu. */
static enum virtx_status evict(struct virtx_vcpu *vcpu, struct virtx_cpu *cpu)
{
    struct virtx_vcpu *other = cpu->loaded;

    if (!other)
        return VIRTX_OK;
    if (atomic_exchange(&other->running, true))
        return virtx_fail(&vcpu->error, VIRTX_E_BUSY, "CPU", "has no other vcpu in run", other->id);
    put_vcpu(other);
    release_sleeper(other);
    return VIRTX_OK;
}

/* The vcpu is claimed. Interrupts are off, or a task that takes this one's place could load another
 * vcpu halfway. */
static enum virtx_status load_here(struct virtx_vcpu *vcpu)
{
    struct virtx *virtx = vcpu->virtx;
    struct virtx_cpu *cpu;
    uint32_t index;
    enum virtx_status status = virtx_vcpu_check_place(vcpu);

    if (status == VIRTX_OK)
        status = virtx_cpu_current(virtx, &index, &cpu, &vcpu->error);
    if (status == VIRTX_OK && atomic_load(&vcpu->cpu) == index)
        return VIRTX_OK;
    if (status == VIRTX_OK)
        status = evict(vcpu, cpu);
    if (status != VIRTX_OK)
        return status;
    status = virtx->backend->load(vcpu, index);
    if (status == VIRTX_OK) {
        cpu->loaded = vcpu;
        /* Whoever leaves a request after this finds the CPU; what was left before is seen by the
         * look at the requests that follows (this is an exchange: it orders the two). */
        atomic_exchange(&vcpu->cpu, index);
    }
    return virtx_backend_said(vcpu, status, "load");
}

enum virtx_status virtx_vcpu_load_claimed(struct virtx_vcpu *vcpu)
{
    uint64_t flags = virtx_irq_off();
    enum virtx_status status = load_here(vcpu);

    virtx_irq_restore(flags);
    return status;
}

enum virtx_status virtx_vcpu_load(struct virtx_vcpu *vcpu)
{
    enum virtx_status status;

    if (atomic_exchange(&vcpu->running, true))
        return virtx_vcpu_busy(vcpu);
    status = virtx_vcpu_load_claimed(vcpu);
    atomic_store_explicit(&vcpu->running, false, memory_order_release);
    return status;
}

enum virtx_status virtx_vcpu_put(struct virtx_vcpu *vcpu)
{
    enum virtx_status status;

    if (atomic_exchange(&vcpu->running, true))
        return virtx_vcpu_busy(vcpu);
    status = virtx_vcpu_check_place(vcpu);
    if (status == VIRTX_OK)
        put_vcpu(vcpu);
    atomic_store_explicit(&vcpu->running, false, memory_order_release);
    return status;
}
