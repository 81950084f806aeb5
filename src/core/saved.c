/* SPDX-License-Identifier: BSD-2-Clause */
/* What is saved and restored of a vcpu beside its groups of registers: MSRs by number, and events.
 */
#include "core/claim.h"
#include "x86/defs.h"

#define SIGNALS (uint32_t)(VIRTX_REQUEST_NMI | VIRTX_REQUEST_INIT | VIRTX_REQUEST_SIPI)

/* ---- MSRs ---- */

/* Those that are fields of struct virtx_state. */
static const struct field {
    uint32_t index, group;
    size_t at;
} fields[] = {
#define FIELD(index, group, field)                                                                 \
    {                                                                                              \
        index, VIRTX_STATE_##group, offsetof(struct virtx_state, field)                            \
    }
    FIELD(MSR_TSC, TSC, tsc),
    FIELD(MSR_TSC_ADJUST, TSC, tsc_adjust),
    FIELD(MSR_APIC_BASE, MSR, apic_base),
    FIELD(MSR_SPEC_CTRL, MSR, spec_ctrl),
    FIELD(MSR_SYSENTER_CS, SYSCALL, sysenter_cs),
    FIELD(MSR_SYSENTER_ESP, SYSCALL, sysenter_esp),
    FIELD(MSR_SYSENTER_EIP, SYSCALL, sysenter_eip),
    FIELD(MSR_MISC_ENABLE, MSR, misc_enable),
    FIELD(MSR_DEBUGCTL, DR, debugctl),
    FIELD(MSR_PAT, MSR, pat),
    FIELD(MSR_XSS, XCR, xss),
    FIELD(MSR_EFER, CR, efer),
    FIELD(MSR_STAR, SYSCALL, star),
    FIELD(MSR_LSTAR, SYSCALL, lstar),
    FIELD(MSR_CSTAR, SYSCALL, cstar),
    FIELD(MSR_FMASK, SYSCALL, fmask),
    FIELD(MSR_FS_BASE, SEG, seg[VIRTX_FS].base),
    FIELD(MSR_GS_BASE, SEG, seg[VIRTX_GS].base),
    FIELD(MSR_KERNEL_GS_BASE, SYSCALL, kernel_gs_base),
    FIELD(MSR_TSC_AUX, MSR, tsc_aux),
#undef FIELD
};

static const struct field *field_of(uint32_t index)
{
    for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
        if (fields[i].index == index)
            return &fields[i];
    return NULL;
}

static uint64_t *field_in(struct virtx_state *state, const struct field *field)
{
    return (uint64_t *)(void *)((uint8_t *)state + field->at);
}

/* [claimed] */
static enum virtx_status msr_get(struct virtx_vcpu *vcpu, uint32_t index, uint64_t *value)
{
    const struct virtx_backend *backend = vcpu->virtx->backend;
    const struct field *field = field_of(index);
    struct virtx_state state;
    enum virtx_status status;

    if (!field)
        return backend->msr_get ? backend->msr_get(vcpu, index, value) : VIRTX_E_NOT_FOUND;
    status = backend->get(vcpu, field->group, &state);
    if (status == VIRTX_OK)
        *value = *field_in(&state, field);
    return status;
}

/* [claimed] */
static enum virtx_status msr_set(struct virtx_vcpu *vcpu, uint32_t index, uint64_t value)
{
    const struct virtx_backend *backend = vcpu->virtx->backend;
    const struct field *field = field_of(index);
    struct virtx_state state;
    enum virtx_status status;

    if (!field)
        return backend->msr_set ? backend->msr_set(vcpu, index, value) : VIRTX_E_NOT_FOUND;
    status = backend->get(vcpu, field->group, &state);
    if (status != VIRTX_OK)
        return status;
    *field_in(&state, field) = value;
    return backend->set(vcpu, field->group, &state);
}

static enum virtx_status msr_said(struct virtx_vcpu *vcpu, enum virtx_status status, uint32_t index)
{
    if (status == VIRTX_E_NOT_FOUND)
        return virtx_fail(&vcpu->error, status, "index", "is an MSR that is kept for the guest",
                          index);
    return virtx_backend_said(vcpu, status, "value");
}

uint32_t virtx_vcpu_msr_list(struct virtx_vcpu *vcpu, uint32_t *list, uint32_t room)
{
    const struct virtx_backend *backend = vcpu->virtx->backend;

    return backend->msr_list ? backend->msr_list(vcpu, list, room) : 0;
}

enum virtx_status virtx_vcpu_msr_get(struct virtx_vcpu *vcpu, uint32_t index, uint64_t *value)
{
    enum virtx_status status;
    bool release;

    if (!value)
        return virtx_fail(&vcpu->error, VIRTX_E_INVALID, "value", "is not NULL", 0);
    status = virtx_vcpu_claim_settled(vcpu, &release);
    if (status != VIRTX_OK)
        return status;
    status = msr_said(vcpu, msr_get(vcpu, index, value), index);
    virtx_vcpu_release(vcpu, release);
    return status;
}

enum virtx_status virtx_vcpu_msr_set(struct virtx_vcpu *vcpu, uint32_t index, uint64_t value)
{
    bool release;
    enum virtx_status status = virtx_vcpu_claim_settled(vcpu, &release);

    if (status != VIRTX_OK)
        return status;
    status = msr_said(vcpu, msr_set(vcpu, index, value), index);
    virtx_vcpu_release(vcpu, release);
    return status;
}

/* ---- Events ---- */

void virtx_backend_events(const struct virtx_vcpu *vcpu, struct virtx_events *events)
{
    const struct event_queue *queue = &vcpu->events;

    *events = (struct virtx_events){
        .exception = queue->exception,
        .interrupt = queue->interrupt,
        .has_exception = queue->has_exception,
        .has_interrupt = queue->has_interrupt,
        .window = queue->want_window,
        .nmis = queue->nmis,
    };
}

void virtx_backend_events_left(struct virtx_vcpu *vcpu, const struct virtx_events *events)
{
    struct event_queue *queue = &vcpu->events;

    queue->exception = events->exception;
    queue->interrupt = events->interrupt;
    queue->has_exception = events->has_exception;
    queue->has_interrupt = events->has_interrupt;
    queue->want_window = events->window;
    queue->nmis = events->nmis;
}

/* [claimed] An instruction that was completed but not retired may owe a debug exception: `get`
 * retires. */
static enum virtx_status settle(struct virtx_vcpu *vcpu, struct virtx_state *state)
{
    return vcpu->virtx->backend->get(vcpu, VIRTX_STATE_RIP | VIRTX_STATE_INTR | VIRTX_STATE_CR,
                                     state);
}

/* [claimed] */
static enum virtx_status events_get(struct virtx_vcpu *vcpu, struct virtx_events *events)
{
    const struct virtx_backend *backend = vcpu->virtx->backend;
    struct virtx_state state;
    enum virtx_status status = settle(vcpu, &state);
    uint32_t requests = atomic_load(&vcpu->requests);

    if (status != VIRTX_OK)
        return status;
    virtx_backend_events(vcpu, events);
    if (requests & VIRTX_REQUEST_NMI) {
        struct event_queue after = vcpu->events;

        virtx_event_nmi(&after, state.interruptibility);
        events->nmis = after.nmis;
    }
    events->init = requests & VIRTX_REQUEST_INIT;
    events->sipi = requests & VIRTX_REQUEST_SIPI;
    events->sipi_vector = events->sipi ? atomic_load(&vcpu->sipi) : 0;
    if (backend->interrupted_get)
        events->has_interrupted = backend->interrupted_get(vcpu, &events->interrupted);
    return VIRTX_OK;
}

enum virtx_status virtx_vcpu_events_get(struct virtx_vcpu *vcpu, struct virtx_events *events)
{
    enum virtx_status status;
    bool release;

    if (!events)
        return virtx_fail(&vcpu->error, VIRTX_E_INVALID, "events", "is not NULL", 0);
    status = virtx_vcpu_claim_settled(vcpu, &release);
    if (status != VIRTX_OK)
        return status;
    status = virtx_backend_said(vcpu, events_get(vcpu, events), "events");
    virtx_vcpu_release(vcpu, release);
    return status;
}

static bool well_formed(const struct virtx_event *event, bool interrupt)
{
    return virtx_event_check(event) == VIRTX_OK &&
           (event->type == VIRTX_EVENT_INTERRUPT) == interrupt;
}

static enum virtx_status check_events(struct virtx_vcpu *vcpu, const struct virtx_events *events,
                                      uint32_t interruptibility)
{
    uint8_t most = interruptibility & VIRTX_BLOCKED_BY_NMI ? 1 : 2;

    if (events->has_exception &&
        (!well_formed(&events->exception, false) || events->exception.type == VIRTX_EVENT_NMI))
        return virtx_fail(&vcpu->error, VIRTX_E_INVALID, "events.exception",
                          "is a well-formed exception", events->exception.vector);
    if (events->has_interrupt && !well_formed(&events->interrupt, true))
        return virtx_fail(&vcpu->error, VIRTX_E_INVALID, "events.interrupt",
                          "is a well-formed external interrupt", events->interrupt.vector);
    if (events->has_interrupted && virtx_event_check(&events->interrupted) != VIRTX_OK)
        return virtx_fail(&vcpu->error, VIRTX_E_INVALID, "events.interrupted", "is well-formed",
                          events->interrupted.vector);
    if (events->nmis > most)
        return virtx_fail_manual(&vcpu->error, VIRTX_E_INVALID, "events.nmis",
                                 "is not more than a processor remembers",
                                 "Intel SDM \"Handling Multiple NMIs\"", events->nmis);
    if (events->has_interrupted && !vcpu->virtx->backend->interrupted_set)
        return virtx_fail(&vcpu->error, VIRTX_E_UNSUPPORTED, "backend",
                          "has a place for an interrupted delivery", 0);
    return VIRTX_OK;
}

/* [claimed] */
static enum virtx_status events_set(struct virtx_vcpu *vcpu, const struct virtx_events *events)
{
    const struct virtx_backend *backend = vcpu->virtx->backend;
    struct virtx_state state;
    enum virtx_status status = settle(vcpu, &state);
    uint32_t signals = (events->init ? VIRTX_REQUEST_INIT : 0u) |
                       (events->sipi ? VIRTX_REQUEST_SIPI : 0u) | VIRTX_REQUEST_EVENT;

    if (status == VIRTX_OK)
        status = check_events(vcpu, events, state.interruptibility);
    if (status != VIRTX_OK)
        return status;
    virtx_backend_events_left(vcpu, events);
    if (backend->interrupted_set)
        backend->interrupted_set(vcpu, events->has_interrupted ? &events->interrupted : NULL);
    atomic_fetch_and(&vcpu->requests, ~SIGNALS);
    if (events->sipi)
        atomic_store(&vcpu->sipi, events->sipi_vector);
    virtx_request_lazily(vcpu, signals);
    return VIRTX_OK;
}

enum virtx_status virtx_vcpu_events_set(struct virtx_vcpu *vcpu, const struct virtx_events *events)
{
    enum virtx_status status;
    bool release;

    if (!events)
        return virtx_fail(&vcpu->error, VIRTX_E_INVALID, "events", "is not NULL", 0);
    status = virtx_vcpu_claim_settled(vcpu, &release);
    if (status != VIRTX_OK)
        return status;
    status = virtx_backend_said(vcpu, events_set(vcpu, events), "events");
    virtx_vcpu_release(vcpu, release);
    return status;
}
