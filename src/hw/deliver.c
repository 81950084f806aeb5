/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Delivering an event in software, where the guest is in a state that the processor does not run.
 */
#include "hw/emulation.h"

static struct insn_event delivered(const struct virtx_event *event)
{
    struct insn_event out = {.vector = event->vector,
                             .type = INSN_EVENT_EXTERNAL,
                             .has_error_code = event->has_error,
                             .error_code = event->error};

    if (event->type == VIRTX_EVENT_SOFT_INTERRUPT || event->type == VIRTX_EVENT_SOFT_EXCEPTION)
        out.type = INSN_EVENT_SOFTWARE;
    else if (event->type == VIRTX_EVENT_PRIV_EXCEPTION)
        out.type = INSN_EVENT_ICEBP;
    out.fault = hw_is_fault(event);
    return out;
}

static void has_delivered(struct hw_vcpu *hv, const struct virtx_event *event)
{
    struct virtx_state *state = hw_change(hv, VIRTX_STATE_INTR);

    state->interruptibility &= VIRTX_BLOCKED_BY_NMI;
    if (event->type == VIRTX_EVENT_NMI)
        state->interruptibility |= VIRTX_BLOCKED_BY_NMI;
    state->pending_debug = 0;
    state->activity = VIRTX_ACTIVE;
}

bool hw_deliver(struct hw_vcpu *hv, const struct virtx_event *wanted)
{
    struct hw_emulation *em = hv->emulation;
    const struct virtx_event event = *wanted;
    const struct insn_event deliver = delivered(&event);
    enum insn_result result;
    struct insn_fault fault;

    em->replay.count = 0;
    hw_registers_out(hv, &em->cpu);
    if (deliver.type != INSN_EVENT_EXTERNAL)
        em->cpu.rip = insn_advance((enum insn_mode)em->cpu.mode, em->cpu.rip, event.length);
    em->forbidden = em->injected = false;
    result = insn_deliver(&deliver, &em->cpu, &hw_insn_ops, hv, &em->replay, &fault);
    if (likely(result == INSN_OK)) {
        hw_registers_in(hv, &em->cpu);
        has_delivered(hv, &event);
        return true;
    }
    if (result == INSN_FAULT && em->cpu.task_switched) { /* the delivery was the switch */
        hw_registers_in(hv, &em->cpu);
        has_delivered(hv, &event);
        return em->injected || hw_raise_fault(hv, &fault, &hv->status);
    }
    hv->reinject = event;
    hv->has_reinject = true;
    hv->work |= HW_WORK_EVENT;
    em->replay.count = 0;
    if (result == INSN_FAULT && !em->injected) {
        bool next;

        em->any = true; /* intercepts see it, as they would in the processor */
        next = hw_raise_fault(hv, &fault, &hv->status);
        em->any = false;
        return next;
    }
    if (em->forbidden)
        return hw_memory_exit(hv);
    return hw_emulation_exit(hv, NULL, 0);
}

/*
 * The exit of a task switch: that of an event through a task gate, or of the instruction at RIP.
 * The processor has made the checks that come before it; they are made again.
 */
bool hw_task_switch(struct hw_vcpu *hv, enum virtx_status *status)
{
    const struct virtx_event event = hv->reinject;

    if (!hv->has_reinject)
        return hw_execute(hv, status);
    hv->has_reinject = false;
    return hw_deliver(hv, &event);
}
