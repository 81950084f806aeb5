/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Software interrupts, and the delivery of events (Intel SDM, "Real-Address Mode: Interrupt and
 * Exception Handling").
 */
#include "insn/exec.h"

/* Through the real-mode vector table. */
static enum insn_result deliver_real(struct exec *exec, unsigned vector, uint64_t rip)
{
    const struct insn_cpu *cpu = exec->cpu;
    enum insn_result result;
    uint16_t entry[2];

    if (vector * 4 + 3 > cpu->idtr.limit)
        return raise_code(exec, VECTOR_GP, vector * 8 + 2);
    result = read_memory(exec, cpu->idtr.base + vector * 4ull, entry, 4, INSN_ACCESS_SYSTEM);
    if (!result)
        result = push_value(exec, cpu->rflags, 2);
    if (!result)
        result = push_value(exec, cpu->seg[INSN_CS].selector, 2);
    if (!result)
        result = push_value(exec, rip, 2);
    if (!result)
        result = jump_far(exec, entry[1], entry[0]);
    stage_flags(exec, FLAG_IF | FLAG_TF | FLAG_AC | FLAG_RF, 0);
    return result;
}

/* rip is what the handler returns to. */
enum insn_result deliver(struct exec *exec, const struct insn_event *event, uint64_t rip)
{
    if (real_mode(exec->cpu))
        return deliver_real(exec, event->vector, rip);
    return INSN_UNSUPPORTED;
}

/* BOUND: a signed index between two bounds in memory. */
static enum insn_result bound(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    unsigned size = insn->operand[0].size;
    uint64_t linear, bounds = 0;
    int64_t index, lower, upper;
    enum insn_result result;

    result = operand_address(exec, size * 2, false, &linear);
    if (!result)
        result = read_memory(exec, linear, &bounds, size * 2, 0);
    if (result)
        return result;
    index = (int64_t)sign_extend(exec->cpu->gpr[insn->operand[0].reg], size);
    lower = (int64_t)sign_extend(bounds, size);
    upper = (int64_t)sign_extend(bounds >> bits_of(size), size);
    return index < lower || index > upper ? raise(exec, VECTOR_BR) : INSN_OK;
}

enum insn_result execute_interrupt(struct exec *exec)
{
    struct insn_event event = {.type = INSN_EVENT_SOFTWARE};

    switch (exec->insn->op) {
    case INSN_OP_BOUND:
        return bound(exec);
    case INSN_OP_INTO:
        if (!(exec->cpu->rflags & FLAG_OF))
            return INSN_OK;
        event.vector = VECTOR_OF;
        break;
    case INSN_OP_INT3:
        event.vector = VECTOR_BP;
        break;
    case INSN_OP_INT1:
        event.vector = VECTOR_DB;
        event.type = INSN_EVENT_ICEBP;
        break;
    default:
        event.vector = exec->insn->imm & 0xff;
        break;
    }
    return deliver(exec, &event, exec->rip);
}
