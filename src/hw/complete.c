/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Completing an access: the results in the record (a handler's, the loop's or the library's own)
 * reach the guest's registers, and the instruction is retired.
 */
#include "hw/emulation.h"

/* Writes a general register as the instruction set does: 32-bit results clear the upper half,
 * smaller ones keep the rest. */
void hw_gpr_write(struct hw_vcpu *hv, unsigned reg, uint64_t value, unsigned size)
{
    uint64_t *gpr = &hv->state.gpr[reg & 15];

    if ((reg & 15) == VIRTX_RSP)
        hw_change(hv, VIRTX_STATE_RSP);
    switch (size) {
    case 1:
        *gpr = (*gpr & ~0xffull) | (value & 0xff);
        break;
    case 2:
        *gpr = (*gpr & ~0xffffull) | (value & 0xffff);
        break;
    case 4:
        *gpr = (uint32_t)value;
        break;
    default:
        *gpr = value;
        break;
    }
}

static bool long_mode_code(struct hw_vcpu *hv)
{
    return (hw_state(hv, VIRTX_STATE_CR)->efer & EFER_LMA) &&
           (hw_state(hv, VIRTX_STATE_SEG)->seg[VIRTX_CS].attributes & VIRTX_SEG_L);
}

/*
 * Retires the instruction of the record. A vcpu that has been put meanwhile has all its registers
 * in memory, and no vendor to ask.
 */
void hw_retire(struct hw_vcpu *hv)
{
    struct virtx_state *state;

    if (likely(hv->cpu)) {
        hv->ops->advance(hv);
        return;
    }
    state = hw_change(hv, VIRTX_STATE_RIP | VIRTX_STATE_RFLAGS | VIRTX_STATE_INTR);
    state->rip += hv->vcpu->exit.length;
    if (!long_mode_code(hv))
        state->rip = (uint32_t)state->rip;
    state->interruptibility &= VIRTX_BLOCKED_BY_NMI;
    if (state->rflags & RFLAGS_TF)
        hw_single_step(hv);
    state->rflags &= ~RFLAGS_RF;
}

/* Intel SDM "Instruction-Breakpoint Exception Condition": what arrives between two iterations finds
 * RF set, so that a breakpoint at the instruction is not hit again. */
void hw_iterated(struct hw_vcpu *hv)
{
    struct virtx_state *state = hw_change(hv, VIRTX_STATE_RFLAGS | VIRTX_STATE_INTR);

    state->interruptibility &= VIRTX_BLOCKED_BY_NMI;
    state->rflags |= RFLAGS_RF;
}

static void complete_io(struct hw_vcpu *hv)
{
    const struct virtx_exit_io *io = &hv->vcpu->exit.io;

    if (io->access == VIRTX_READ)
        hw_rax_write(hv, &io->value, io->size);
    hw_retire(hv);
}

static void complete_msr(struct hw_vcpu *hv)
{
    const struct virtx_exit_msr *msr = &hv->vcpu->exit.msr;

    if (msr->access == VIRTX_READ) {
        hv->state.gpr[VIRTX_RAX] = (uint32_t)msr->value;
        hv->state.gpr[VIRTX_RDX] = msr->value >> 32;
    }
    hw_retire(hv);
}

static void complete_cpuid(struct hw_vcpu *hv)
{
    const struct virtx_exit_cpuid *cpuid = &hv->vcpu->exit.cpuid;

    hv->state.gpr[VIRTX_RAX] = cpuid->eax;
    hv->state.gpr[VIRTX_RBX] = cpuid->ebx;
    hv->state.gpr[VIRTX_RCX] = cpuid->ecx;
    hv->state.gpr[VIRTX_RDX] = cpuid->edx;
    hw_retire(hv);
}

static void complete_cr(struct hw_vcpu *hv)
{
    const struct virtx_exit_cr *cr = &hv->vcpu->exit.cr;
    struct virtx_exit_cr access =
        *cr; /* raising an exception leaves the record alone, but be sure */

    if (access.access == VIRTX_READ)
        hw_gpr_write(hv, access.gpr, access.value, long_mode_code(hv) ? 8 : 4);
    else if (!hw_cr_write(hv, access.reg, access.value))
        return;
    hw_retire(hv);
}

static void complete_dr(struct hw_vcpu *hv)
{
    struct virtx_exit_cr access = hv->vcpu->exit.cr;

    if (access.access == VIRTX_READ)
        hw_gpr_write(hv, access.gpr, access.value, long_mode_code(hv) ? 8 : 4);
    else if (!hw_dr_access(hv, true, access.reg, &access.value))
        return;
    hw_retire(hv);
}

/* Instructions without a result are done with when an intercept says so. */
static void complete_instruction(struct hw_vcpu *hv)
{
    const struct virtx_exit_instruction *instruction = &hv->vcpu->exit.instruction;

    switch (instruction->which) {
    case VIRTX_INSN_RDTSCP:
        hv->state.gpr[VIRTX_RCX] = (uint32_t)hw_state(hv, VIRTX_STATE_MSR)->tsc_aux;
        hv->state.gpr[VIRTX_RAX] = (uint32_t)instruction->value;
        hv->state.gpr[VIRTX_RDX] = instruction->value >> 32;
        break;
    case VIRTX_INSN_RDTSC:
    case VIRTX_INSN_RDPMC:
        hv->state.gpr[VIRTX_RAX] = (uint32_t)instruction->value;
        hv->state.gpr[VIRTX_RDX] = instruction->value >> 32;
        break;
    case VIRTX_INSN_INVLPG: /* nobody but the library can do what it is for */
    case VIRTX_INSN_INVPCID:
        hw_invalidate(hv, instruction->which, instruction->operand);
        break;
    case VIRTX_INSN_XSETBV:
        if (!hw_xsetbv(hv, (uint32_t)instruction->operand, instruction->value))
            return;
        break;
    default:
        break;
    }
    hw_retire(hv);
}

void hw_complete_record(struct hw_vcpu *hv)
{
    struct virtx_exit *exit = &hv->vcpu->exit;

    switch (exit->reason) {
    case VIRTX_EXIT_IO:
        if (exit->io.string)
            hw_io_complete(hv);
        else
            complete_io(hv);
        break;
    case VIRTX_EXIT_MMIO:
        hw_mmio_complete(hv, NULL);
        break;
    case VIRTX_EXIT_MSR:
        complete_msr(hv);
        break;
    case VIRTX_EXIT_CPUID:
        complete_cpuid(hv);
        break;
    case VIRTX_EXIT_HYPERCALL:
        hv->state.gpr[VIRTX_RAX] = exit->hypercall.number;
        hw_retire(hv);
        break;
    case VIRTX_EXIT_CR:
        complete_cr(hv);
        break;
    case VIRTX_EXIT_DR:
        complete_dr(hv);
        break;
    case VIRTX_EXIT_INSTRUCTION:
        complete_instruction(hv);
        break;
    default: /* exceptions: dropped, the instruction runs again */
        break;
    }
}

/* The loop's answer, where it gives one, goes into the record first. */
static void take_value(struct hw_vcpu *hv, const void *value)
{
    struct virtx_exit *exit = &hv->vcpu->exit;

    switch (exit->reason) {
    case VIRTX_EXIT_IO:
        if (exit->io.access == VIRTX_READ)
            memcpy(exit->io.data, value, (size_t)exit->io.size * exit->io.count);
        break;
    case VIRTX_EXIT_MSR:
        if (exit->msr.access == VIRTX_READ)
            memcpy(&exit->msr.value, value, sizeof(exit->msr.value));
        break;
    case VIRTX_EXIT_CPUID:
        memcpy(&exit->cpuid.eax, value, 4 * sizeof(uint32_t));
        break;
    case VIRTX_EXIT_HYPERCALL:
        memcpy(&exit->hypercall.number, value, sizeof(exit->hypercall.number));
        break;
    case VIRTX_EXIT_CR:
    case VIRTX_EXIT_DR:
        if (exit->cr.access == VIRTX_READ)
            memcpy(&exit->cr.value, value, sizeof(exit->cr.value));
        break;
    case VIRTX_EXIT_INSTRUCTION:
        if (exit->instruction.which != VIRTX_INSN_XSETBV)
            memcpy(&exit->instruction.value, value, sizeof(exit->instruction.value));
        break;
    default:
        break;
    }
}

static __attribute__((noinline)) enum virtx_status complete_otherwise(struct hw_vcpu *hv,
                                                                      const void *value)
{
    struct virtx_exit *exit = &hv->vcpu->exit;

    if (exit->reason == VIRTX_EXIT_MMIO)
        return hw_mmio_complete(hv, value);
    if (value)
        take_value(hv, value);
    if (hv->pending.kind == HW_PENDING_INSN)
        return hw_execute_continue(hv);
    if (!value && exit->reason == VIRTX_EXIT_HYPERCALL) /* the loop may have written RAX in place */
        exit->hypercall.number = hv->state.gpr[VIRTX_RAX];
    hw_complete_record(hv);
    return VIRTX_OK;
}

/* The instruction of a plain access is left for run to retire: the vcpu may be loaded elsewhere. */
enum virtx_status hw_complete(struct virtx_vcpu *vcpu, const void *value)
{
    struct hw_vcpu *hv = hw_of(vcpu);
    struct virtx_exit *exit = &vcpu->exit;

    exit->pending = false;
    if (unlikely(vcpu->answer == VIRTX_ANSWER_HERE))
        return complete_otherwise(hv, value);
    hv->retire = true;
    if (exit->reason != VIRTX_EXIT_IO)
        hw_mmio_answer(hv, value);
    else if (exit->io.access == VIRTX_READ)
        hw_rax_write(hv, value ? value : &exit->io.value, exit->io.size);
    return VIRTX_OK;
}

enum virtx_status hw_fault(struct virtx_vcpu *vcpu, const struct virtx_event *event)
{
    struct hw_vcpu *hv = hw_of(vcpu);
    enum virtx_status status = virtx_event_check(event);

    if (status != VIRTX_OK)
        return virtx_fail(&vcpu->error, status, "event", "is not one that can be delivered",
                          event->vector);
    vcpu->exit.pending = false;
    if (vcpu->exit.reason == VIRTX_EXIT_MMIO || hv->pending.kind == HW_PENDING_INSN)
        hw_mmio_abandon(hv);
    hw_raise(hv, event);
    return VIRTX_OK;
}
