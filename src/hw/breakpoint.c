/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The guest's breakpoints, where it is the library that makes the guest's access: MMIO and all that
 * the executor does, and ports.
 *
 * Intel SDM "Breakpoint Exception Conditions": data and I/O breakpoints are traps, after the
 * instruction or the iteration; instruction breakpoints are faults, which RF holds off. What the
 * processor has begun by itself, it has looked for instruction breakpoints at.
 */
#include "hw/emulation.h"

#define DR7_ON 0xffu /* L0, G0 to L3, G3 */

/* R/W of DR7, as bits of a set. */
enum { ON_EXECUTE = 1 << 0, ON_WRITE = 1 << 1, ON_PORT = 1 << 2, ON_ACCESS = 1 << 3 };

bool hw_any_breakpoint(struct hw_vcpu *hv)
{
    uint64_t dr7 = hv->valid & VIRTX_STATE_DR ? hv->state.dr7 : hv->ops->dr7(hv);

    return (dr7 & DR7_ON) != 0;
}

/* The breakpoints of these kinds that are on and touch the range, as B0 to B3 of DR6. */
static uint32_t met(const struct hw_vcpu *hv, unsigned kinds, uint64_t first, unsigned size)
{
    static const uint8_t lengths[4] = {1, 2, 8, 4};
    const struct hw_emulation *em = hv->emulation;
    uint32_t dr7 = em->dr7, found = 0;

    for (unsigned n = 0; n < 4; n++) {
        unsigned kind = dr7 >> (16 + 4 * n) & 3, length = lengths[dr7 >> (18 + 4 * n) & 3];
        uint64_t from = hv->state.dr[n] & ~(uint64_t)(length - 1);

        if ((dr7 >> 2 * n & 3) && (kinds >> kind & 1) &&
            (first - from < length || from - first < size))
            found |= 1u << n;
    }
    return found;
}

static void watch(struct hw_vcpu *hv)
{
    struct hw_emulation *em = hv->emulation;

    em->dr7 = (uint32_t)hw_state(hv, VIRTX_STATE_DR)->dr7;
    if (hv->debug_loaded)
        hw_debug_sync(hv);
    if (!(hw_state(hv, VIRTX_STATE_CR)->cr4 & CR4_DE))
        for (unsigned n = 0; n < 4; n++) /* R/W of 2 is undefined then */
            if ((em->dr7 >> (16 + 4 * n) & 3) == 2)
                em->dr7 &= ~(3u << 2 * n);
}

void hw_watch_begin(struct hw_vcpu *hv)
{
    struct hw_emulation *em = hv->emulation;

    em->dr7 = 0;
    em->met = 0;
    if (hw_breakpoints_on(hv))
        watch(hv);
}

void hw_watch_data(struct hw_vcpu *hv, uint64_t linear, unsigned size, bool write)
{
    struct hw_emulation *em = hv->emulation;

    em->met |= met(hv, write ? ON_WRITE | ON_ACCESS : ON_ACCESS, linear, size);
}

void hw_watch_port(struct hw_vcpu *hv, uint16_t port, unsigned size)
{
    struct hw_emulation *em = hv->emulation;

    em->met |= met(hv, ON_PORT, port, size);
}

static void raise_debug(struct hw_vcpu *hv, uint32_t cause)
{
    hw_raise(hv, &(struct virtx_event){
                     .type = VIRTX_EVENT_EXCEPTION, .vector = VECTOR_DB, .address = cause});
}

/* What traps behind an instruction, or an iteration of one. */
void hw_watch_end(struct hw_vcpu *hv, bool step)
{
    struct hw_emulation *em = hv->emulation;
    uint32_t cause = em->met;

    em->met = 0;
    if (step)
        hw_single_step(hv);
    if (!cause)
        return;
    cause |= hw_state(hv, VIRTX_STATE_INTR)->pending_debug & DR6_TRAPS;
    hw_change(hv, VIRTX_STATE_INTR)->pending_debug = 0;
    raise_debug(hv, cause);
}

/* ---- Instructions ---- */

bool hw_code_breakpoint(struct hw_vcpu *hv)
{
    const struct virtx_state *state =
        hw_state(hv, VIRTX_STATE_RIP | VIRTX_STATE_SEG | VIRTX_STATE_RFLAGS | VIRTX_STATE_INTR);
    const struct hw_emulation *em = hv->emulation;
    uint64_t linear = state->rip;
    uint32_t cause;

    if ((state->rflags & RFLAGS_RF) || (state->interruptibility & VIRTX_BLOCKED_BY_MOV_SS))
        return false;
    hw_watch_begin(hv);
    if (!em->dr7)
        return false;
    if (hw_insn_mode(hv) < INSN_64)
        linear = (uint32_t)(state->seg[VIRTX_CS].base + linear);
    cause = met(hv, ON_EXECUTE, linear, 1);
    if (cause)
        raise_debug(hv, cause);
    return cause != 0;
}

/* ---- IN and OUT ---- */

/* The record is a port access that will be retired, if it is, by many hands: what it meets is kept
 * until the coming entry. */
void hw_io_watch(struct hw_vcpu *hv)
{
    const struct virtx_exit *exit = &hv->vcpu->exit;
    struct hw_emulation *em = hv->emulation;

    hw_watch_begin(hv);
    hw_watch_port(hv, exit->io.port, exit->io.size);
    if (!em->met)
        return;
    hv->soft->port_rip = (uint32_t)(exit->rip + exit->length);
    hv->work |= HW_WORK_TRAP;
}

static void io_trap(struct hw_vcpu *hv)
{
    struct hw_emulation *em = hv->emulation;

    if ((uint32_t)hv->state.rip != hv->soft->port_rip || !em->met) /* it has faulted instead */
        return;
    if (hv->vcpu->events.has_exception) /* the embedder's, which an entry delivers instead */
        em->met = 0;
    hw_watch_end(hv, false);
}

void hw_traps_left(struct hw_vcpu *hv)
{
    uint32_t work = hv->work & (HW_WORK_TRAP | HW_WORK_HELD);

    hv->work &= ~work;
    if (work & HW_WORK_TRAP)
        io_trap(hv);
    if (work & HW_WORK_HELD) /* for event.c to look at again */
        hv->work |= HW_WORK_EVENT | HW_WORK_HALTED;
}
