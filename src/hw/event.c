/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Which event the coming entry delivers, and which windows it waits for.
 *
 * Order (Intel SDM "Prioritization of Concurrent Events"; AMD APM "Event Injection"): an event
 * whose delivery an exit interrupted, then an exception, an NMI, an external interrupt. One entry
 * delivers one event; the others ask for the window in which they can follow.
 */
#include "hw/service.h"

static bool by_hand(struct hw_vcpu *hv, const struct virtx_event *event)
{
    if (hv->nmi_by_hand && (event->type == VIRTX_EVENT_NMI || hv->vcpu->events.nmis))
        return true;
    return hw_place(hv) != HW_PLACE_HARDWARE;
}

/* False: the event is delivered in software, and that cannot be done; the record says why. */
static bool inject(struct hw_vcpu *hv, const struct virtx_event *event)
{
    hv->vcpu->stats.injections++;
    if (unlikely(hv->confined) && by_hand(hv, event))
        return hw_deliver(hv, event);
    hv->inflight = *event;
    hv->injected = true;
    hv->ops->inject(hv, event);
    return true;
}

void hw_events_delivered(struct hw_vcpu *hv)
{
    /* Either the delivery succeeded, or the vendor has handed the event back. */
    hv->injected = false;
    if (hv->has_reinject)
        hv->work |= HW_WORK_EVENT;
}

void hw_events_reset(struct hw_vcpu *hv)
{
    hv->has_reinject = false;
    hv->injected = false;
    memset(&hv->vcpu->events, 0, sizeof(hv->vcpu->events));
    hv->work |= HW_WORK_EVENT;
}

void hw_triple_fault(struct hw_vcpu *hv)
{
    hv->state.activity = VIRTX_SHUTDOWN;
    hv->has_reinject = false;
    hv->vcpu->events.has_exception = false;
    hv->work |= HW_WORK_HALTED;
}

/*
 * Keeps what an exception overtook, where the processor would not have lost it for good. NMIs are
 * blocked from the beginning of an NMI's delivery (Intel SDM "Nonmaskable Interrupt (NMI)"), and so
 * until the exception's handler ends; otherwise the NMI would be met by the same obstacle in front
 * of that handler's first instruction, for ever.
 */
static void overtake(struct hw_vcpu *hv)
{
    struct event_queue *queue = &hv->vcpu->events;

    if (hv->reinject.type == VIRTX_EVENT_NMI) {
        if (queue->nmis < 2)
            queue->nmis++;
        hw_change(hv, VIRTX_STATE_INTR)->interruptibility |= VIRTX_BLOCKED_BY_NMI;
    } else if (hv->reinject.type == VIRTX_EVENT_INTERRUPT && !queue->has_interrupt) {
        queue->interrupt = hv->reinject;
        queue->has_interrupt = true;
    }
    /* Software events come again when their instruction is executed again. */
    hv->has_reinject = false;
}

void hw_raise(struct hw_vcpu *hv, const struct virtx_event *event)
{
    static const struct virtx_event double_fault = {
        .type = VIRTX_EVENT_EXCEPTION, .vector = VECTOR_DF, .has_error = true};

    hv->work |= HW_WORK_EVENT;
    if (hv->has_reinject && hv->reinject.type == VIRTX_EVENT_EXCEPTION) {
        /* INT n, INT3, INTO and INT1 are benign whatever their vector. */
        switch (virtx_event_merge(hv->reinject.vector, event->type == VIRTX_EVENT_EXCEPTION
                                                           ? event->vector
                                                           : VECTOR_DB)) {
        case VIRTX_MERGE_TRIPLE_FAULT:
            hw_triple_fault(hv);
            return;
        case VIRTX_MERGE_DOUBLE_FAULT:
            event = &double_fault;
            break;
        case VIRTX_MERGE_SECOND:
            break;
        }
        hv->has_reinject = false;
    } else if (hv->has_reinject) {
        overtake(hv);
    }
    if (!virtx_event_exception(&hv->vcpu->events, event))
        hw_triple_fault(hv);
}

void hw_raise_vector(struct hw_vcpu *hv, uint8_t vector)
{
    hw_raise(hv, &(struct virtx_event){.type = VIRTX_EVENT_EXCEPTION, .vector = vector});
}

void hw_raise_error(struct hw_vcpu *hv, uint8_t vector, uint32_t error)
{
    hw_raise(hv, &(struct virtx_event){.type = VIRTX_EVENT_EXCEPTION,
                                       .vector = vector,
                                       .has_error = true,
                                       .error = error});
}

void hw_raise_page_fault(struct hw_vcpu *hv, uint64_t address, uint32_t error)
{
    hw_raise(hv, &(struct virtx_event){.type = VIRTX_EVENT_EXCEPTION,
                                       .vector = VECTOR_PF,
                                       .has_error = true,
                                       .error = error,
                                       .address = address});
}

bool hw_is_fault(const struct virtx_event *event)
{
    const uint32_t others =
        BIT(VECTOR_DB) | BIT(VECTOR_BP) | BIT(VECTOR_OF) | BIT(VECTOR_DF) | BIT(VECTOR_MC);

    return event->type == VIRTX_EVENT_EXCEPTION && !(others >> event->vector & 1);
}

/* An injected event pushes RFLAGS.RF as it finds it. */
static void fault_sets_rf(struct hw_vcpu *hv, const struct virtx_event *event)
{
    if (hw_is_fault(event) && !(hw_state(hv, VIRTX_STATE_RFLAGS)->rflags & RFLAGS_RF))
        hw_change(hv, VIRTX_STATE_RFLAGS)->rflags |= RFLAGS_RF;
}

static bool inject_exception(struct hw_vcpu *hv)
{
    struct event_queue *queue = &hv->vcpu->events;
    struct virtx_event *event = &queue->exception;

    queue->has_exception = false;
    /* In real mode no exception pushes an error code. */
    if (event->has_error && !(hw_state(hv, VIRTX_STATE_CR)->cr0 & CR0_PE))
        event->has_error = false;
    fault_sets_rf(hv, event);
    if (event->vector == VECTOR_PF) {
        /* The vendor's inject() sees to the processor's. */
        hw_state(hv, VIRTX_STATE_CR)->cr2 = event->address;
        if (unlikely(hv->confined) && hw_place(hv) != HW_PLACE_HARDWARE)
            hw_change(hv, VIRTX_STATE_CR);
    } else if (event->vector == VECTOR_DB && event->type == VIRTX_EVENT_EXCEPTION) {
        /* Intel SDM "Debug Status Register (DR6)": B0-B3 are replaced, the others only ever set;
         * bit 16 (RTM) is inverted. DR7.GD and DEBUGCTL's LBR and BTF are cleared on the way into
         * the handler, which an injected event does not do (Intel SDM "Details of Event
         * Injection"). */
        struct virtx_state *state = hw_change(hv, VIRTX_STATE_DR);

        if (hv->debug_loaded)
            hw_debug_sync(hv); /* the guest has written DR6 since */
        state->dr6 = (state->dr6 & ~0xfull) | (event->address & 0xe00full);
        state->dr7 &= ~(1ull << 13);
        state->debugctl &= ~(uint64_t)(DEBUGCTL_LBR | DEBUGCTL_BTF);
        if (hv->debug_loaded)
            x86_write_dr6(state->dr6);
    }
    return inject(hv, event);
}

void hw_leave_traps(struct hw_vcpu *hv, uint32_t traps)
{
    hw_change(hv, VIRTX_STATE_INTR)->pending_debug |= traps;
    /* Nothing may be delivered before them; HLT ends. */
    hv->work |= hv->own_traps ? HW_WORK_EVENT | HW_WORK_HALTED : HW_WORK_EVENT;
}

/* Not if only branches trap, which nothing but the processor sees. */
void hw_single_step(struct hw_vcpu *hv)
{
    if (hw_state(hv, VIRTX_STATE_DR)->debugctl & DEBUGCTL_BTF)
        return;
    hw_leave_traps(hv, DR6_BS);
}

bool hw_debug_trap(struct hw_vcpu *hv, enum virtx_status *status)
{
    struct virtx_state *state = hw_change(hv, VIRTX_STATE_INTR);
    struct virtx_exit *exit = hw_record(hv, VIRTX_EXIT_EXCEPTION);

    exit->exception = (struct virtx_exit_exception){.vector = VECTOR_DB,
                                                    .address = state->pending_debug & DR6_TRAPS};
    state->pending_debug = 0;
    return hw_offer(hv, status);
}

/*
 * The same in place of a processor that has no room for it. Before an exception, which an entry
 * would deliver instead, it is dropped. Behind MOV SS it is held over the next instruction (Intel
 * SDM "Masking Exceptions and Interrupts When Switching Stacks"): TF traps there anyway; for what
 * breakpoints have left, that instruction is the executor's.
 */
static bool own_traps(struct hw_vcpu *hv)
{
    if (unlikely(hv->confined) && hw_place(hv) != HW_PLACE_HARDWARE)
        return true; /* it is the executor's */
    if (hv->has_reinject || hv->vcpu->events.has_exception) {
        hw_change(hv, VIRTX_STATE_INTR)->pending_debug = 0;
        return true;
    }
    if (!(hw_state(hv, VIRTX_STATE_INTR)->interruptibility & VIRTX_BLOCKED_BY_MOV_SS))
        return hw_debug_trap(hv, &hv->status);
    hw_change(hv, VIRTX_STATE_INTR)->pending_debug &= DR6_BREAKPOINTS;
    if (hv->state.pending_debug)
        hv->work |= HW_WORK_HELD;
    return true;
}

/* The vector that waits, or -1: what the embedder queued goes before the controller's. */
static int interrupt_waiting(struct virtx_vcpu *vcpu)
{
    if (vcpu->events.has_interrupt)
        return vcpu->events.interrupt.vector;
    if (vcpu->irq)
        return vcpu->irq->pending(vcpu->irq_ctx);
    return -1;
}

/* The same, less what the processor delivers by itself. */
static __attribute__((noinline)) int less_delivered(struct virtx_vcpu *vcpu)
{
    int external;

    /* Asked in any case: it brings IRR up to date. */
    external = vcpu->irq->apic->external(vcpu->irq_ctx);
    return vcpu->events.has_interrupt ? vcpu->events.interrupt.vector : external;
}

static inline int software_waiting(struct hw_vcpu *hv)
{
    return unlikely(hv->soft->apic.delivery) ? less_delivered(hv->vcpu)
                                             : interrupt_waiting(hv->vcpu);
}

/* The entry that delivers it is certain now: takes the interrupt from where it waited. As
 * inject(). */
static bool inject_interrupt(struct hw_vcpu *hv)
{
    struct virtx_vcpu *vcpu = hv->vcpu;
    struct virtx_event event = {.type = VIRTX_EVENT_INTERRUPT};

    if (vcpu->events.has_interrupt) {
        vcpu->events.has_interrupt = false;
        event.vector = vcpu->events.interrupt.vector;
    } else {
        int vector = vcpu->irq->take(vcpu->irq_ctx);

        if (vector < 0 || vector > 255)
            return true;
        event.vector = (uint8_t)vector;
    }
    return inject(hv, &event);
}

/* The single step of a HLT, where the vendor has a place for it, ends the HLT. */
static bool trap_pending(struct hw_vcpu *hv)
{
    const struct virtx_state *state = hw_state(hv, VIRTX_STATE_INTR | VIRTX_STATE_RFLAGS);

    return hw_step_pending(state) || (hv->own_traps && (state->pending_debug & DR6_BREAKPOINTS));
}

/* A vcpu that does not execute: woken, or the record that says why not. */
static enum hw_next not_active(struct hw_vcpu *hv)
{
    struct virtx_vcpu *vcpu = hv->vcpu;

    switch (hv->state.activity) {
    case VIRTX_ACTIVE:
        break;
    case VIRTX_HALTED:
        if (!(hv->has_reinject || vcpu->events.has_exception || trap_pending(hv) ||
              (vcpu->events.nmis && hv->ops->can_nmi(hv)) ||
              ((vcpu->events.want_window || interrupt_waiting(vcpu) >= 0) &&
               hv->ops->can_interrupt(hv)))) {
            hw_record(hv, VIRTX_EXIT_HLT);
            return HW_LEAVE;
        }
        if (!vcpu->events.want_window || interrupt_waiting(vcpu) >= 0 || vcpu->events.nmis ||
            hv->has_reinject || vcpu->events.has_exception || trap_pending(hv))
            hv->state.activity = VIRTX_ACTIVE;
        break;
    case VIRTX_SHUTDOWN:
        hw_record(hv, VIRTX_EXIT_SHUTDOWN);
        return HW_LEAVE;
    default: /* waiting for a start-up IPI: nothing that run does can lead out */
        hw_record(hv, VIRTX_EXIT_HLT);
        return HW_LEAVE;
    }
    return HW_ENTER;
}

void hw_wake(struct virtx_vcpu *vcpu)
{
    struct hw_vcpu *hv = hw_of(vcpu);

    if (hv->state.activity == VIRTX_HALTED) {
        hv->state.activity = VIRTX_ACTIVE;
        hv->work &= ~(uint32_t)HW_WORK_HALTED;
    }
}

/* Whether anything at all waits for the vcpu, deliverable or not. */
static inline bool event_waits(struct hw_vcpu *hv)
{
    const struct event_queue *queue = &hv->vcpu->events;

    return hv->has_reinject || queue->any || interrupt_waiting(hv->vcpu) >= 0;
}

/* The processor delivers what waits as soon as it is entered: then the guest has not halted. */
static __attribute__((noinline)) bool processor_delivers(struct hw_vcpu *hv)
{
    struct virtx_vcpu *vcpu = hv->vcpu;
    const struct virtx_irq_apic *apic;

    if (hv->has_reinject || vcpu->events.any)
        return false;
    apic = vcpu->irq->apic;
    if (apic->external(vcpu->irq_ctx) >= 0 || vcpu->irq->pending(vcpu->irq_ctx) < 0 ||
        !hv->ops->can_interrupt(hv))
        return false;
    if (apic->changed(vcpu->irq_ctx))
        hv->ops->apic_changed(hv);
    return true;
}

/* Straight to the loop if nothing waits; what does is hw_events()'s to judge. */
__attribute__((noinline)) bool hw_halt(struct hw_vcpu *hv)
{
    struct virtx_exit *exit = &hv->vcpu->exit;
    uint32_t work;

    hv->ops->advance(hv);
    work = hv->work;
    if (unlikely(hv->soft->apic.delivery) && !work && processor_delivers(hv))
        return true;
    hv->state.activity = VIRTX_HALTED;
    hv->work |= HW_WORK_HALTED;
    if (work | atomic_load_explicit(&hv->vcpu->requests, memory_order_relaxed) || event_waits(hv))
        return true;
    exit->length = 0;
    exit->rip = hv->state.rip;
    exit->pending = false;
    return false;
}

/* The embedder's exception came while a delivery was interrupted: it is the second one. */
static __attribute__((noinline)) void merge_queued(struct hw_vcpu *hv)
{
    const struct virtx_event event = hv->vcpu->events.exception;

    hv->vcpu->events.has_exception = false;
    hw_raise(hv, &event);
}

/* One entry delivers one event. A delivery in software may have ended in an exception, which goes
 * before all that has been waiting. */
static inline bool may_follow(const struct hw_vcpu *hv)
{
    return !hv->injected && !hv->has_reinject && !hv->vcpu->events.has_exception;
}

/* Decides once. */
static enum hw_next decide(struct hw_vcpu *hv)
{
    struct virtx_vcpu *vcpu = hv->vcpu;
    struct event_queue *queue = &vcpu->events;
    bool interrupt_window = false, nmi_window = false, waiting, good = true;

    if (unlikely(hv->cr8_shadow))
        hw_tpr_pull(hv);
    if (hv->work & HW_WORK_HALTED) {
        if (not_active(hv) == HW_LEAVE)
            return HW_LEAVE;
        if (!(queue->want_window && hv->state.activity == VIRTX_HALTED))
            hv->work &= ~(uint32_t)HW_WORK_HALTED;
        if (unlikely(hv->own_traps && (hv->state.pending_debug & DR6_TRAPS)) && !own_traps(hv))
            return HW_LEAVE;
    }
    hv->work &= ~(uint32_t)HW_WORK_EVENT;

    if (hv->has_reinject) {
        if (unlikely(queue->has_exception)) {
            merge_queued(hv); /* and then all is decided anew */
            return HW_ENTER;
        }
        hv->has_reinject = false;
        fault_sets_rf(hv, &hv->reinject);
        good = inject(hv, &hv->reinject);
    } else if (queue->has_exception) {
        good = inject_exception(hv);
    }
    if (queue->nmis) {
        if (good && may_follow(hv) && hv->ops->can_nmi(hv)) {
            static const struct virtx_event nmi = {.type = VIRTX_EVENT_NMI, .vector = VECTOR_NMI};

            queue->nmis--;
            good = inject(hv, &nmi);
        }
        nmi_window = queue->nmis != 0;
    }
    waiting = software_waiting(hv) >= 0;
    if (waiting && good && may_follow(hv) && hv->ops->can_interrupt(hv)) {
        good = inject_interrupt(hv);
        waiting = software_waiting(hv) >= 0;
    }
    if (hv->soft->apic.delivery &&
        (vcpu->irq->apic->changed(vcpu->irq_ctx) || hv->soft->apic_new)) {
        hv->soft->apic_new = false;
        hv->ops->apic_changed(hv);
    }
    if (unlikely(!good))
        return HW_LEAVE;
    if (queue->want_window && !waiting && !hv->injected && hv->ops->can_interrupt(hv)) {
        queue->want_window = false;
        hw_record(hv, VIRTX_EXIT_WINDOW);
        return HW_LEAVE;
    }
    if (unlikely(hv->cr8_shadow | hv->soft->apic.page) && !hv->soft->apic.delivery)
        hw_tpr_threshold(hv);
    interrupt_window = waiting || queue->want_window;
    hv->soft->waiting = interrupt_window || nmi_window;
    if (interrupt_window || nmi_window)
        vcpu->stats.windows++;
    hv->ops->window(hv, interrupt_window, nmi_window);
    return HW_ENTER;
}

/* A delivery in software may fault: then there is another event to deliver, down to a triple
 * fault. */
enum hw_next hw_events(struct hw_vcpu *hv)
{
    enum hw_next next;

    do
        next = decide(hv);
    while (unlikely(next == HW_ENTER && (hv->work & HW_WORK_EVENT)));
    return next;
}
