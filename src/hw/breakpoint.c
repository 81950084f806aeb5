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

#define BIT32(n)    (1u << (n))
#define DR7_ON      0xffu /* L0, G0 to L3, G3 */
#define SINGLE_STEP BIT32(14)

/* R/W of DR7, as bits of a set. */
enum { ON_EXECUTE = 1 << 0, ON_WRITE = 1 << 1, ON_PORT = 1 << 2, ON_ACCESS = 1 << 3 };

bool hw_breakpoints_on(struct hw_vcpu *hv)
{
    uint64_t dr7 = hv->valid & VIRTX_STATE_DR ? hv->state.dr7 : hv->ops->dr7(hv);

    return (dr7 & DR7_ON) != 0;
}

static void read_registers(struct hw_vcpu *hv, uint64_t *dr)
{
    if (!hv->debug_loaded) {
        memcpy(dr, hv->state.dr, sizeof(hv->state.dr));
        return;
    }
    dr[0] = x86_read_dr0();
    dr[1] = x86_read_dr1();
    dr[2] = x86_read_dr2();
    dr[3] = x86_read_dr3();
}

/* The breakpoints of these kinds that are on and touch the range, as B0 to B3 of DR6. */
static uint32_t met(const uint64_t *dr, uint64_t dr7, unsigned kinds, uint64_t first, unsigned size)
{
    static const uint8_t lengths[4] = {1, 2, 8, 4};
    uint32_t found = 0;

    for (unsigned n = 0; n < 4; n++) {
        unsigned kind = dr7 >> (16 + 4 * n) & 3, length = lengths[dr7 >> (18 + 4 * n) & 3];
        uint64_t from = dr[n] & ~(uint64_t)(length - 1);

        if ((dr7 >> 2 * n & 3) && (kinds >> kind & 1) &&
            (first - from < length || from - first < size))
            found |= BIT32(n);
    }
    return found;
}

static void watch(struct hw_vcpu *hv)
{
    struct hw_emulation *em = hv->emulation;

    if (!hw_breakpoints_on(hv))
        return;
    em->dr7 = (uint32_t)hw_state(hv, VIRTX_STATE_DR)->dr7;
    read_registers(hv, em->dr);
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
    if (unlikely(hv->debug_used))
        watch(hv);
}

void hw_watch_data(struct hw_emulation *em, uint64_t linear, unsigned size, bool write)
{
    em->met |= met(em->dr, em->dr7, write ? ON_WRITE | ON_ACCESS : ON_ACCESS, linear, size);
}

void hw_watch_port(struct hw_emulation *em, uint16_t port, unsigned size)
{
    em->met |= met(em->dr, em->dr7, ON_PORT, port, size);
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
    if (hw_state(hv, VIRTX_STATE_INTR)->pending_debug & SINGLE_STEP) {
        hw_change(hv, VIRTX_STATE_INTR)->pending_debug = 0;
        cause |= SINGLE_STEP;
    }
    hw_raise(hv, &(struct virtx_event){
                     .type = VIRTX_EVENT_EXCEPTION, .vector = VECTOR_DB, .address = cause});
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
    cause = met(em->dr, em->dr7, ON_EXECUTE, linear, 1);
    if (cause)
        hw_raise(hv, &(struct virtx_event){
                         .type = VIRTX_EVENT_EXCEPTION, .vector = VECTOR_DB, .address = cause});
    return cause != 0;
}

/* ---- IN and OUT ---- */

/* The record is a port access that will be retired, if it is, by many hands: what it meets is kept
 * until the coming entry. */
void hw_io_watch(struct hw_vcpu *hv)
{
    const struct virtx_exit *exit = &hv->vcpu->exit;
    struct hw_emulation *em = hv->emulation;

    if (!hw_breakpoints_on(hv))
        return;
    hw_watch_begin(hv);
    hw_watch_port(em, exit->io.port, exit->io.size);
    if (!em->met)
        return;
    hv->soft->port_rip = (uint32_t)(exit->rip + exit->length);
    hv->work |= HW_WORK_TRAP;
}

void hw_io_trap(struct hw_vcpu *hv)
{
    struct hw_emulation *em = hv->emulation;

    hv->work &= ~(uint32_t)HW_WORK_TRAP;
    if ((uint32_t)hv->state.rip != hv->soft->port_rip || !em->met) /* it has faulted instead */
        return;
    if (hv->vcpu->events.has_exception) /* the embedder's, which an entry delivers instead */
        em->met = 0;
    hw_watch_end(hv, false);
}
