/* SPDX-License-Identifier: BSD-2-Clause */
/* Events on their way to a vcpu: injected, signalled, or asked of an interrupt source. */
#include "core/claim.h"

/* Whether the event is well-formed and agrees with the guest's mode about the error code (Intel SDM
 * "VM-Entry Control Fields": one is pushed only in protected mode, and then always). */
enum virtx_status virtx_vcpu_check_event(struct virtx_vcpu *vcpu, const struct virtx_event *event)
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
        return virtx_backend_said(vcpu, status, "event");
    pushes = state.cr0 & 1;
    if (event->has_error != pushes)
        return virtx_fail_manual(&vcpu->error, VIRTX_E_INVALID, "event.has_error",
                                 "is set in protected mode and clear in real mode",
                                 "Intel SDM \"VM-Entry Control Fields\"", event->vector);
    return VIRTX_OK;
}

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
    return virtx_backend_said(vcpu, status, "event");
}

/* [claimed] */
static enum virtx_status inject(struct virtx_vcpu *vcpu, const struct virtx_event *event)
{
    struct event_queue *queue = &vcpu->events;
    struct virtx_state state;

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
        if (vcpu->virtx->backend->get(vcpu, VIRTX_STATE_INTR, &state) != VIRTX_OK)
            state.interruptibility = 0; /* loaded elsewhere: no handler is known to run */
        virtx_event_nmi(queue, state.interruptibility);
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
    status = virtx_vcpu_check_event(vcpu, event);
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

/* The registers of a local APIC stay in the processor's page as long as it is this vcpu's. */
void virtx_irq_registers(struct virtx_vcpu *vcpu, bool to_page)
{
    const struct virtx_backend *backend = vcpu->virtx->backend;
    void *page = backend->apic_page ? backend->apic_page(vcpu) : NULL;

    if (page && vcpu->irq && vcpu->irq->apic)
        vcpu->irq->apic->move(vcpu->irq_ctx, to_page ? page : NULL);
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
    if (source && source->apic &&
        (!source->tpr || !source->set_tpr || !source->apic->move || !source->apic->base ||
         !source->apic->external || !source->apic->changed || !source->apic->written ||
         !source->apic->ended))
        return virtx_fail(&vcpu->error, VIRTX_E_MISSING_OP, "source.apic",
                          "needs all of its operations, and tpr and set_tpr beside it", 0);
    status = virtx_vcpu_claim(vcpu, &release);
    if (status != VIRTX_OK)
        return status;
    virtx_irq_registers(vcpu, false);
    vcpu->irq = source;
    vcpu->irq_ctx = ctx;
    virtx_irq_registers(vcpu, true);
    virtx_request_lazily(vcpu, VIRTX_REQUEST_EVENT | VIRTX_REQUEST_DEADLINE);
    virtx_vcpu_release(vcpu, release);
    return VIRTX_OK;
}

void virtx_vcpu_irq_changed(struct virtx_vcpu *vcpu)
{
    virtx_request(vcpu, VIRTX_REQUEST_EVENT | VIRTX_REQUEST_DEADLINE);
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

enum virtx_status virtx_vcpu_deadline(struct virtx_vcpu *vcpu, uint64_t tsc)
{
    bool release;
    enum virtx_status status = virtx_vcpu_claim(vcpu, &release);

    if (status != VIRTX_OK)
        return status;
    vcpu->deadline = tsc;
    virtx_request_lazily(vcpu, VIRTX_REQUEST_DEADLINE);
    virtx_vcpu_release(vcpu, release);
    return VIRTX_OK;
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
