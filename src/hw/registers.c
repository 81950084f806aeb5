/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The guest's registers on their way into the executor and out of it.
 */
#include "hw/emulation.h"

#define DR7_LOCAL 0x155u /* L0 to L3 and LE */

enum insn_mode hw_insn_mode(struct hw_vcpu *hv)
{
    const struct virtx_state *state = hw_state(hv, VIRTX_STATE_CR | VIRTX_STATE_SEG);
    uint32_t attributes = state->seg[VIRTX_CS].attributes;

    if ((state->efer & EFER_LMA) && (attributes & VIRTX_SEG_L))
        return hv->soft->policy.amd ? INSN_64_AMD : INSN_64;
    return attributes & VIRTX_SEG_DB ? INSN_32 : INSN_16;
}

uint64_t hw_operand_offset(struct hw_vcpu *hv, const struct insn *insn)
{
    const struct insn_mem *mem = &insn->mem;
    bool based = insn->mode < INSN_64 || mem->segment >= INSN_FS;
    const struct virtx_state *state =
        hw_state(hv, VIRTX_STATE_RIP | (mem->base == VIRTX_RSP ? VIRTX_STATE_RSP : 0) |
                         (based ? VIRTX_STATE_SEG : 0));
    uint64_t at = (uint64_t)insn->disp;

    if (mem->base == INSN_BASE_RIP)
        at += state->rip + insn->length;
    else if (mem->base != INSN_NO_REGISTER)
        at += state->gpr[mem->base];
    if (mem->index != INSN_NO_REGISTER)
        at += state->gpr[mem->index] << mem->scale;
    if (insn->address_size < 8)
        at &= (1ull << insn->address_size * 8) - 1;
    if (based)
        at += state->seg[mem->segment].base;
    return at & (VIRTX_PAGE_SIZE - 1);
}

#define REGISTERS                                                                                  \
    (VIRTX_STATE_GPR | VIRTX_STATE_RSP | VIRTX_STATE_RIP | VIRTX_STATE_RFLAGS | VIRTX_STATE_SEG |  \
     VIRTX_STATE_TABLES | VIRTX_STATE_CR | VIRTX_STATE_INTR)

void hw_registers_out(struct hw_vcpu *hv, struct insn_cpu *cpu)
{
    struct virtx_state *state = hw_state(hv, REGISTERS);
    struct hw_emulation *em = hv->emulation;

    cpu->gpr = state->gpr;
    cpu->rip = state->rip;
    cpu->rflags = state->rflags;
    cpu->cr0 = state->cr0;
    cpu->cr3 = state->cr3;
    cpu->cr4 = state->cr4;
    cpu->efer = state->efer;
    for (unsigned i = 0; i < INSN_SEGMENTS; i++)
        cpu->seg[i] = (struct insn_seg){.base = state->seg[i].base,
                                        .limit = state->seg[i].limit,
                                        .attributes = state->seg[i].attributes,
                                        .selector = state->seg[i].selector};
    cpu->gdtr = (struct insn_table){state->gdtr.base, (uint16_t)state->gdtr.limit};
    cpu->idtr = (struct insn_table){state->idtr.base, (uint16_t)state->idtr.limit};
    cpu->ldtr = (struct insn_seg){.base = state->seg[VIRTX_LDTR].base,
                                  .limit = state->seg[VIRTX_LDTR].limit,
                                  .attributes = state->seg[VIRTX_LDTR].attributes,
                                  .selector = state->seg[VIRTX_LDTR].selector};
    cpu->tr = (struct insn_seg){.base = state->seg[VIRTX_TR].base,
                                .limit = state->seg[VIRTX_TR].limit,
                                .attributes = state->seg[VIRTX_TR].attributes,
                                .selector = state->seg[VIRTX_TR].selector};
    cpu->mode = (uint8_t)hw_insn_mode(hv);
    cpu->cpl = (uint8_t)hw_cpl(hv);
    cpu->amd = hv->soft->policy.amd;
    if (em->insn.op == INSN_OP_UNKNOWN) /* AVX, XSAVE */
        hw_fpu_follow_xcr0(hv);
    cpu->xcr0 = hv->state.xcr0;
    cpu->xss = hv->state.xss;
    cpu->avx = (state->cr4 & CR4_OSXSAVE) && (hv->state.xcr0 & 6) == 6;
    cpu->shadow = INSN_SHADOW_NONE;
    cpu->task_switched = false;
    em->has_msrs = false;
}

static void segment_in(struct hw_vcpu *hv, unsigned index, const struct insn_seg *now)
{
    struct virtx_segment *seg = &hv->state.seg[index];

    if (likely(seg->base == now->base && seg->limit == now->limit &&
               seg->attributes == now->attributes && seg->selector == now->selector))
        return;
    hw_change(hv, VIRTX_STATE_SEG);
    seg->base = now->base;
    seg->limit = now->limit;
    seg->attributes = now->attributes;
    seg->selector = now->selector;
}

void hw_registers_in(struct hw_vcpu *hv, const struct insn_cpu *cpu)
{
    const struct hw_emulation *em = hv->emulation;
    struct virtx_state *state =
        hw_change(hv, VIRTX_STATE_GPR | VIRTX_STATE_RSP | VIRTX_STATE_RIP | VIRTX_STATE_RFLAGS);

    state->rip = cpu->rip;
    state->rflags = cpu->rflags;
    for (unsigned i = 0; i < INSN_SEGMENTS; i++)
        segment_in(hv, i, &cpu->seg[i]);
    if (unlikely(em->has_msrs) && em->msrs.kernel_gs_base != state->kernel_gs_base)
        hw_change(hv, VIRTX_STATE_SYSCALL)->kernel_gs_base = em->msrs.kernel_gs_base;
    segment_in(hv, VIRTX_LDTR, &cpu->ldtr);
    segment_in(hv, VIRTX_TR, &cpu->tr);
    if (unlikely(state->cr0 != cpu->cr0)) /* TS, by a task switch */
        hw_change(hv, VIRTX_STATE_CR)->cr0 = cpu->cr0;
    if (unlikely(cpu->task_switched)) /* the local breakpoints are the old task's */
        hw_change(hv, VIRTX_STATE_DR)->dr7 &= ~(uint64_t)DR7_LOCAL;
    if (state->gdtr.base != cpu->gdtr.base || state->gdtr.limit != cpu->gdtr.limit ||
        state->idtr.base != cpu->idtr.base || state->idtr.limit != cpu->idtr.limit) {
        hw_change(hv, VIRTX_STATE_TABLES);
        state->gdtr.base = cpu->gdtr.base;
        state->gdtr.limit = cpu->gdtr.limit;
        state->idtr.base = cpu->idtr.base;
        state->idtr.limit = cpu->idtr.limit;
    }
}

/*
 * Whether an instruction that began with TF set traps. Delivering an event clears TF before
 * anything could trap (Intel SDM "Single-Step Exception Condition"); SYSCALL and SYSRET go by the
 * TF that they leave.
 */
static bool steps(const struct insn *insn, const struct insn_cpu *cpu, bool began)
{
    switch (insn->op) {
    case INSN_OP_INT:
    case INSN_OP_INT3:
    case INSN_OP_INT1:
        return false;
    case INSN_OP_INTO:
        return began && (cpu->rflags & RFLAGS_TF);
    case INSN_OP_SYSCALL:
    case INSN_OP_SYSRET:
        return cpu->rflags & RFLAGS_TF;
    default:
        return began;
    }
}

/* RF ends, the shadow is the instruction's own, and TF and breakpoints trap. */
void hw_retired(struct hw_vcpu *hv, const struct insn_cpu *cpu, bool trap)
{
    struct virtx_state *state = hw_change(hv, VIRTX_STATE_INTR | VIRTX_STATE_RFLAGS);
    const struct hw_emulation *em = hv->emulation;

    state->interruptibility &= VIRTX_BLOCKED_BY_NMI;
    if (em->insn.op == INSN_OP_IRET)
        state->interruptibility = 0;
    if (cpu->shadow == INSN_SHADOW_STI)
        state->interruptibility |= VIRTX_BLOCKED_BY_STI;
    else if (cpu->shadow == INSN_SHADOW_MOV_SS)
        state->interruptibility |= VIRTX_BLOCKED_BY_MOV_SS;
    trap = steps(&em->insn, cpu, trap);
    if (unlikely(trap || em->met)) {
        if (cpu->shadow != INSN_SHADOW_MOV_SS)
            hw_watch_end(hv, trap);
        else /* behind the next one, as the SDM has it of MOV SS */
            hw_leave_traps(hv, em->met);
    }
    if (likely(!hv->confined)) /* else the windows are asked for, or hw_interpret() looks */
        hv->work |= HW_WORK_EVENT;
    hv->vcpu->stats.instructions++;
}
