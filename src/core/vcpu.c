/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Virtual CPUs: their life, run and complete, registers, and where they are loaded.
 *
 * Calls that touch a vcpu's state, or read the VM's tables for it, hold `running` meanwhile. It
 * refuses a second thread, and tells virtx_vm_settled() that pointers into the tables may be held.
 * A handler inside run has it already.
 */
#include "core/object.h"

#define ALL_GROUPS VIRTX_STATE_ALL

/* ---- Claiming a vcpu for a call ---- */

static bool in_handler(const struct virtx_vcpu *vcpu)
{
    return atomic_load_explicit(&vcpu->handler, memory_order_relaxed);
}

static enum virtx_status busy(struct virtx_vcpu *vcpu)
{
    return virtx_fail(&vcpu->error, VIRTX_E_BUSY, "vcpu", "is not in run on another thread", 0);
}

/* Whether the registers can be had from here: loaded nowhere, or on this CPU. */
static enum virtx_status check_place(struct virtx_vcpu *vcpu)
{
    uint32_t cpu = atomic_load_explicit(&vcpu->cpu, memory_order_relaxed);

    if (vcpu->dead)
        return virtx_fail(&vcpu->error, VIRTX_E_DEAD, "vcpu",
                          "has not lost its registers in an emergency", 0);
    if (cpu != VIRTX_NO_CPU && cpu != vcpu->virtx->ops.this_cpu(vcpu->virtx->ctx))
        return virtx_fail(&vcpu->error, VIRTX_E_BUSY, "vcpu", "is not loaded on another CPU", cpu);
    return VIRTX_OK;
}

enum virtx_status virtx_vcpu_claim(struct virtx_vcpu *vcpu, bool *release)
{
    enum virtx_status status;

    *release = false;
    if (in_handler(vcpu))
        return VIRTX_OK;
    if (atomic_exchange(&vcpu->running, true))
        return busy(vcpu);
    status = check_place(vcpu);
    if (status != VIRTX_OK)
        atomic_store_explicit(&vcpu->running, false, memory_order_release);
    *release = status == VIRTX_OK;
    return status;
}

void virtx_vcpu_release(struct virtx_vcpu *vcpu, bool release)
{
    if (release)
        atomic_store_explicit(&vcpu->running, false, memory_order_release);
}

/* The same for calls that an uncompleted access forbids. */
static enum virtx_status claim_settled(struct virtx_vcpu *vcpu, bool *release)
{
    enum virtx_status status = virtx_vcpu_claim(vcpu, release);

    if (status == VIRTX_OK && vcpu->exit.pending && !in_handler(vcpu)) {
        status = virtx_fail(&vcpu->error, VIRTX_E_PENDING, "vcpu",
                            "has completed the access of its last exit", vcpu->exit.reason);
        virtx_vcpu_release(vcpu, *release);
    }
    return status;
}

/* A backend's refusal that came without a detail gets one. */
static enum virtx_status backend_said(struct virtx_vcpu *vcpu, enum virtx_status status,
                                      const char *what)
{
    if (status != VIRTX_OK && status != VIRTX_AGAIN && vcpu->error.status != status)
        virtx_fail(&vcpu->error, status, what, "the backend refused", 0);
    return status;
}

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
            backend_said(vcpu, status, "vcpu");
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
        return busy(vcpu);
    status = check_place(vcpu);
    if (status == VIRTX_E_BUSY) {
        atomic_store(&vcpu->running, false);
        return status;
    }
    put_vcpu(vcpu);
    flags = virtx_vm_lock(vm);
    vcpu->virtx->backend->vcpu_destroy(vcpu);
    if (vm->paging)
        vm->paging->vcpu_destroy(vcpu);
    unlink_vcpu(vm, vcpu);
    virtx_intercepts_drop(vm, vcpu);
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
    enum virtx_status status = check_place(vcpu);

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
    return backend_said(vcpu, status, "load");
}

static enum virtx_status load_vcpu(struct virtx_vcpu *vcpu)
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
        return busy(vcpu);
    status = load_vcpu(vcpu);
    atomic_store_explicit(&vcpu->running, false, memory_order_release);
    return status;
}

enum virtx_status virtx_vcpu_put(struct virtx_vcpu *vcpu)
{
    enum virtx_status status;

    if (atomic_exchange(&vcpu->running, true))
        return busy(vcpu);
    status = check_place(vcpu);
    if (status == VIRTX_OK)
        put_vcpu(vcpu);
    atomic_store_explicit(&vcpu->running, false, memory_order_release);
    return status;
}

/* ---- Run ---- */

/* The vcpu is claimed and loaded here. */
static inline enum virtx_status run_loaded(struct virtx_vcpu *vcpu)
{
    enum virtx_status status = vcpu->virtx->backend->run(vcpu);

    if (unlikely(status != VIRTX_OK))
        backend_said(vcpu, status, "run");
    atomic_store_explicit(&vcpu->running, false, memory_order_release);
    return status;
}

/* What stands between a claimed vcpu and its run, when it is anything at all. */
static __attribute__((noinline)) enum virtx_status run_otherwise(struct virtx_vcpu *vcpu,
                                                                 const struct virtx_exit **exit)
{
    enum virtx_status status;

    if (vcpu->exit.pending)
        status = virtx_fail(&vcpu->error, VIRTX_E_PENDING, "vcpu",
                            "has completed the access of its last exit", vcpu->exit.reason);
    else
        status = load_vcpu(vcpu);
    if (status == VIRTX_OK)
        return run_loaded(vcpu);
    *exit = NULL;
    atomic_store_explicit(&vcpu->running, false, memory_order_release);
    return status;
}

enum virtx_status virtx_vcpu_run(struct virtx_vcpu *vcpu, const struct virtx_exit **exit)
{
    if (unlikely(atomic_exchange(&vcpu->running, true)))
        return busy(vcpu);
    *exit = &vcpu->exit;
    if (unlikely(vcpu->virtx->ops.this_cpu(vcpu->virtx->ctx) !=
                     atomic_load_explicit(&vcpu->cpu, memory_order_relaxed) ||
                 vcpu->exit.pending))
        return run_otherwise(vcpu, exit);
    return run_loaded(vcpu);
}

void virtx_vcpu_kick(struct virtx_vcpu *vcpu)
{
    virtx_request(vcpu, VIRTX_REQUEST_KICK);
}

/* Whether a vcpu that is claimed has an exit to be answered here. */
static __attribute__((noinline)) enum virtx_status check_pending(struct virtx_vcpu *vcpu)
{
    enum virtx_status status = check_place(vcpu);

    if (status == VIRTX_OK && !vcpu->exit.pending)
        status = virtx_fail(&vcpu->error, VIRTX_E_NOT_PENDING, "vcpu",
                            "has an access that waits for completion", vcpu->exit.reason);
    return status;
}

/* Claims a vcpu for answering its exit. A handler answers with its verdict instead. */
static enum virtx_status claim_pending(struct virtx_vcpu *vcpu)
{
    enum virtx_status status;

    if (atomic_exchange(&vcpu->running, true))
        return busy(vcpu);
    status = check_pending(vcpu);
    if (status != VIRTX_OK)
        virtx_vcpu_release(vcpu, true);
    return status;
}

static __attribute__((noinline)) enum virtx_status complete_otherwise(struct virtx_vcpu *vcpu,
                                                                      const void *value)
{
    enum virtx_status status = check_pending(vcpu);

    if (status == VIRTX_OK)
        status = backend_said(vcpu, vcpu->virtx->backend->complete(vcpu, value), "complete");
    atomic_store_explicit(&vcpu->running, false, memory_order_release);
    return status;
}

/* The registers of a port access are in memory, wherever the vcpu is loaded. */
enum virtx_status virtx_vcpu_complete(struct virtx_vcpu *vcpu, const void *value)
{
    enum virtx_status status;

    if (unlikely(atomic_exchange(&vcpu->running, true)))
        return busy(vcpu);
    if (unlikely(vcpu->exit.reason != VIRTX_EXIT_IO || vcpu->exit.io.string || !vcpu->exit.pending))
        return complete_otherwise(vcpu, value);
    status = vcpu->virtx->backend->complete(vcpu, value);
    atomic_store_explicit(&vcpu->running, false, memory_order_release);
    return status;
}

/* Whether the event is well-formed and agrees with the guest's mode about the error code (Intel SDM
 * "VM-Entry Control Fields": one is pushed only in protected mode, and then always). */
static enum virtx_status check_event(struct virtx_vcpu *vcpu, const struct virtx_event *event)
{
    struct virtx_state state;
    enum virtx_status status;
    bool pushes;

    if (!event || virtx_event_check(event) != VIRTX_OK)
        return virtx_fail_manual(&vcpu->error, VIRTX_E_INVALID, "event",
                                 "is well-formed: type, vector, error code and length agree",
                                 "Intel SDM \"VM-Entry Control Fields\"",
                                 event ? event->vector : 0);
    if (event->type != VIRTX_EVENT_EXCEPTION || !virtx_event_pushes_error(event->vector))
        return VIRTX_OK;
    status = vcpu->virtx->backend->get(vcpu, VIRTX_STATE_CR, &state);
    if (status != VIRTX_OK)
        return backend_said(vcpu, status, "event");
    pushes = state.cr0 & 1;
    if (event->has_error != pushes)
        return virtx_fail_manual(&vcpu->error, VIRTX_E_INVALID, "event.has_error",
                                 "is set in protected mode and clear in real mode",
                                 "Intel SDM \"VM-Entry Control Fields\"", event->vector);
    return VIRTX_OK;
}

enum virtx_status virtx_vcpu_fault(struct virtx_vcpu *vcpu, const struct virtx_event *event)
{
    enum virtx_status status = claim_pending(vcpu);

    if (status != VIRTX_OK)
        return status;
    status = check_event(vcpu, event);
    if (status == VIRTX_OK)
        status = backend_said(vcpu, vcpu->virtx->backend->fault(vcpu, event), "event");
    virtx_vcpu_release(vcpu, true);
    return status;
}

/* ---- Registers ---- */

enum virtx_status virtx_vcpu_reset(struct virtx_vcpu *vcpu, enum virtx_preset preset)
{
    enum virtx_status status;
    bool release;

    if ((unsigned)preset >= VIRTX_PRESET_COUNT)
        return virtx_fail(&vcpu->error, VIRTX_E_INVALID, "preset", "is a virtx_preset", preset);
    status = virtx_vcpu_claim(vcpu, &release);
    if (status != VIRTX_OK)
        return status;
    if (in_handler(vcpu))
        return virtx_fail(&vcpu->error, VIRTX_E_BUSY, "vcpu", "is not reset by its own handler", 0);
    status = backend_said(vcpu, vcpu->virtx->backend->reset(vcpu, preset), "preset");
    if (status == VIRTX_OK) {
        memset(&vcpu->events, 0, sizeof(vcpu->events));
        vcpu->exit.pending = false;
        atomic_fetch_and(&vcpu->requests,
                         ~(uint32_t)(VIRTX_REQUEST_NMI | VIRTX_REQUEST_INIT | VIRTX_REQUEST_SIPI));
        virtx_request_lazily(vcpu, VIRTX_REQUEST_EVENT);
    }
    virtx_vcpu_release(vcpu, release);
    return status;
}

static enum virtx_status check_groups(struct virtx_vcpu *vcpu, uint32_t groups, const void *state)
{
    if (groups & ~(uint32_t)ALL_GROUPS)
        return virtx_fail(&vcpu->error, VIRTX_E_INVALID, "groups",
                          "has only bits of virtx_state_group", groups);
    if (!state)
        return virtx_fail(&vcpu->error, VIRTX_E_INVALID, "state", "is not NULL", 0);
    return VIRTX_OK;
}

enum virtx_status virtx_vcpu_get(struct virtx_vcpu *vcpu, uint32_t groups,
                                 struct virtx_state *state)
{
    enum virtx_status status = check_groups(vcpu, groups, state);
    bool release;

    if (status == VIRTX_OK)
        status = claim_settled(vcpu, &release);
    if (status != VIRTX_OK)
        return status;
    status = backend_said(vcpu, vcpu->virtx->backend->get(vcpu, groups, state), "groups");
    virtx_vcpu_release(vcpu, release);
    return status;
}

enum virtx_status virtx_vcpu_set(struct virtx_vcpu *vcpu, uint32_t groups,
                                 const struct virtx_state *state)
{
    enum virtx_status status = check_groups(vcpu, groups, state);
    bool release;

    if (status == VIRTX_OK)
        status = claim_settled(vcpu, &release);
    if (status != VIRTX_OK)
        return status;
    status = backend_said(vcpu, vcpu->virtx->backend->set(vcpu, groups, state), "state");
    virtx_vcpu_release(vcpu, release);
    return status;
}

uint64_t *virtx_vcpu_gpr(struct virtx_vcpu *vcpu)
{
    return vcpu->virtx->backend->gpr(vcpu);
}

size_t virtx_vcpu_fpu_size(const struct virtx_vcpu *vcpu)
{
    return vcpu->virtx->backend->fpu_size(vcpu);
}

static enum virtx_status check_area(struct virtx_vcpu *vcpu, const void *area, size_t bytes)
{
    if (!area || bytes < virtx_vcpu_fpu_size(vcpu))
        return virtx_fail(&vcpu->error, VIRTX_E_INVALID, "area, bytes",
                          "holds virtx_vcpu_fpu_size() bytes", bytes);
    return VIRTX_OK;
}

enum virtx_status virtx_vcpu_fpu_get(struct virtx_vcpu *vcpu, void *area, size_t bytes)
{
    enum virtx_status status = check_area(vcpu, area, bytes);
    bool release;

    if (status == VIRTX_OK)
        status = claim_settled(vcpu, &release);
    if (status != VIRTX_OK)
        return status;
    status = backend_said(vcpu, vcpu->virtx->backend->fpu_get(vcpu, area), "area");
    virtx_vcpu_release(vcpu, release);
    return status;
}

enum virtx_status virtx_vcpu_fpu_set(struct virtx_vcpu *vcpu, const void *area, size_t bytes)
{
    enum virtx_status status = check_area(vcpu, area, bytes);
    bool release;

    if (status == VIRTX_OK)
        status = claim_settled(vcpu, &release);
    if (status != VIRTX_OK)
        return status;
    status = backend_said(vcpu, vcpu->virtx->backend->fpu_set(vcpu, area), "area");
    virtx_vcpu_release(vcpu, release);
    return status;
}

enum virtx_status virtx_vcpu_interpret(struct virtx_vcpu *vcpu, bool always)
{
    const struct virtx_backend *backend = vcpu->virtx->backend;
    enum virtx_status status;
    bool release;

    if (!backend->interpret)
        return virtx_fail(&vcpu->error, VIRTX_E_UNSUPPORTED, "backend", "has an executor", 0);
    if (vcpu->vm->config.interrupts_to_guest)
        return virtx_fail(&vcpu->error, VIRTX_E_UNSUPPORTED, "config.interrupts_to_guest",
                          "is not set: the executor cannot give the guest the CPU's interrupts", 0);
    status = claim_settled(vcpu, &release);
    if (status != VIRTX_OK)
        return status;
    status = backend_said(vcpu, backend->interpret(vcpu, always), "interpret");
    virtx_vcpu_release(vcpu, release);
    return status;
}

/* ---- Events ---- */

/* A triple fault: the vcpu shuts down. */
static enum virtx_status shut_down(struct virtx_vcpu *vcpu)
{
    const struct virtx_backend *backend = vcpu->virtx->backend;
    struct virtx_state state;
    enum virtx_status status = backend->get(vcpu, VIRTX_STATE_INTR, &state);

    if (status == VIRTX_OK) {
        state.activity = VIRTX_SHUTDOWN;
        status = backend->set(vcpu, VIRTX_STATE_INTR, &state);
    }
    return backend_said(vcpu, status, "event");
}

/* [claimed] */
static enum virtx_status inject(struct virtx_vcpu *vcpu, const struct virtx_event *event)
{
    struct event_queue *queue = &vcpu->events;

    switch (event->type) {
    case VIRTX_EVENT_INTERRUPT:
        if (queue->has_interrupt)
            return virtx_fail(&vcpu->error, VIRTX_E_BUSY, "event",
                              "follows an interrupt that has been delivered",
                              queue->interrupt.vector);
        queue->interrupt = *event;
        queue->has_interrupt = true;
        return VIRTX_OK;
    case VIRTX_EVENT_NMI:
        /* One being handled and one latched is all a processor remembers. */
        if (queue->nmis < 2)
            queue->nmis++;
        return VIRTX_OK;
    default:
        return virtx_event_exception(queue, event) ? VIRTX_OK : shut_down(vcpu);
    }
}

enum virtx_status virtx_vcpu_inject(struct virtx_vcpu *vcpu, const struct virtx_event *event)
{
    bool release;
    enum virtx_status status = virtx_vcpu_claim(vcpu, &release);

    if (status != VIRTX_OK)
        return status;
    status = check_event(vcpu, event);
    if (status == VIRTX_OK)
        status = inject(vcpu, event);
    if (status == VIRTX_OK)
        virtx_request_lazily(vcpu, VIRTX_REQUEST_EVENT); /* this thread runs the vcpu */
    virtx_vcpu_release(vcpu, release);
    return status;
}

void virtx_vcpu_nmi(struct virtx_vcpu *vcpu)
{
    virtx_request(vcpu, VIRTX_REQUEST_NMI);
}

void virtx_vcpu_signal_init(struct virtx_vcpu *vcpu)
{
    virtx_request(vcpu, VIRTX_REQUEST_INIT);
}

void virtx_vcpu_signal_sipi(struct virtx_vcpu *vcpu, uint8_t vector)
{
    atomic_store(&vcpu->sipi, vector);
    virtx_request(vcpu, VIRTX_REQUEST_SIPI);
}

enum virtx_status virtx_vcpu_irq_source(struct virtx_vcpu *vcpu,
                                        const struct virtx_irq_source *source, void *ctx)
{
    bool release;
    enum virtx_status status;

    if (source && (!source->pending || !source->take))
        return virtx_fail(&vcpu->error, VIRTX_E_MISSING_OP,
                          source->pending ? "source.take" : "source.pending",
                          "is required of every interrupt source", 0);
    status = virtx_vcpu_claim(vcpu, &release);
    if (status != VIRTX_OK)
        return status;
    vcpu->irq = source;
    vcpu->irq_ctx = ctx;
    virtx_request_lazily(vcpu, VIRTX_REQUEST_EVENT);
    virtx_vcpu_release(vcpu, release);
    return VIRTX_OK;
}

void virtx_vcpu_irq_changed(struct virtx_vcpu *vcpu)
{
    virtx_request(vcpu, VIRTX_REQUEST_EVENT);
}

enum virtx_status virtx_vcpu_window(struct virtx_vcpu *vcpu)
{
    bool release;
    enum virtx_status status = virtx_vcpu_claim(vcpu, &release);

    if (status != VIRTX_OK)
        return status;
    vcpu->events.want_window = true;
    virtx_request_lazily(vcpu, VIRTX_REQUEST_EVENT);
    virtx_vcpu_release(vcpu, release);
    return VIRTX_OK;
}

/* Whether a vcpu is halted is in memory, wherever it is loaded. */
enum virtx_status virtx_vcpu_wake(struct virtx_vcpu *vcpu)
{
    enum virtx_status status = VIRTX_OK;

    if (unlikely(atomic_exchange(&vcpu->running, true)))
        return busy(vcpu);
    if (unlikely(vcpu->dead))
        status = check_place(vcpu);
    else if (unlikely(vcpu->exit.pending))
        status = virtx_fail(&vcpu->error, VIRTX_E_PENDING, "vcpu",
                            "has completed the access of its last exit", vcpu->exit.reason);
    else
        vcpu->virtx->backend->wake(vcpu);
    atomic_store_explicit(&vcpu->running, false, memory_order_release);
    return status;
}

bool virtx_vcpu_wakeable(struct virtx_vcpu *vcpu)
{
    const struct event_queue *queue = &vcpu->events;
    uint32_t requests = atomic_load(&vcpu->requests);
    struct virtx_state state;

    if (requests & (VIRTX_REQUEST_INIT | VIRTX_REQUEST_SIPI | VIRTX_REQUEST_KICK))
        return true;
    if (vcpu->virtx->backend->get(vcpu, VIRTX_STATE_INTR | VIRTX_STATE_RFLAGS, &state) !=
            VIRTX_OK ||
        state.activity == VIRTX_WAIT_FOR_SIPI)
        return false;
    if (queue->has_exception)
        return true;
    if (!(state.interruptibility & VIRTX_BLOCKED_BY_NMI) &&
        (queue->nmis || (requests & VIRTX_REQUEST_NMI)))
        return true;
    if (!(state.rflags & 0x200)) /* IF */
        return false;
    return queue->has_interrupt || (vcpu->irq && vcpu->irq->pending(vcpu->irq_ctx) >= 0);
}
