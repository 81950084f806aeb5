/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Near control transfers.
 */
#include "insn/exec.h"

enum insn_result near_target(struct exec *exec, uint64_t target)
{
    target &= mask_of(exec->insn->operand_size);
    if (exec->insn->mode == INSN_64 ? !canonical(exec->cpu, target)
                                    : target > exec->cpu->seg[INSN_CS].limit)
        return raise_code(exec, VECTOR_GP, 0);
    exec->rip = target;
    return INSN_OK;
}

/* JMP and CALL: relative, or by register or memory. */
static enum insn_result branch_target(struct exec *exec, uint64_t *target)
{
    const struct insn *insn = exec->insn;

    if (insn->operand[0].kind == INSN_REL) {
        *target = exec->rip + insn->imm;
        return INSN_OK;
    }
    return read_operand(exec, 0, target);
}

/* LOOP, LOOPE, LOOPNE, JCXZ: count in rCX by the address size. */
static bool loop_taken(struct exec *exec)
{
    unsigned size = exec->insn->address_size;
    uint64_t count = read_gpr(exec, RCX, size);
    bool zero = exec->cpu->rflags & FLAG_ZF;

    if (exec->insn->op == INSN_OP_JCXZ)
        return !count;
    count = (count - 1) & mask_of(size);
    stage_gpr(exec, RCX, size, count);
    if (exec->insn->op == INSN_OP_LOOP)
        return count;
    return count && zero == (exec->insn->op == INSN_OP_LOOPE);
}

static enum insn_result near_return(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    enum insn_result result;
    uint64_t target;

    result = pop_value(exec, &target, insn->operand_size);
    if (!result)
        result = near_target(exec, target);
    if (!result && insn->operands)
        stage_gpr(exec, RSP, stack_size(exec), exec->value[RSP] + insn->imm);
    return result;
}

enum insn_result execute_branch(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    uint64_t target, next = exec->rip;
    enum insn_result result;

    switch (insn->op) {
    case INSN_OP_JMP:
    case INSN_OP_CALL:
        result = branch_target(exec, &target);
        if (!result)
            result = near_target(exec, target);
        if (!result && insn->op == INSN_OP_CALL)
            result = push_value(exec, next, insn->operand_size);
        return result;
    case INSN_OP_RET:
        return near_return(exec);
    case INSN_OP_JCC:
        if (!condition(exec->cpu->rflags, insn->opcode))
            return INSN_OK;
        return near_target(exec, next + insn->imm);
    case INSN_OP_LOOPE:
    case INSN_OP_LOOPNE:
        /* Reserved with a repeat prefix; AMD processors let the prefix say which of the two it is.
         */
        if (insn->prefixes & (INSN_PREFIX_REP | INSN_PREFIX_REPNE))
            return INSN_UNSUPPORTED;
        return loop_taken(exec) ? near_target(exec, next + insn->imm) : INSN_OK;
    default:
        return loop_taken(exec) ? near_target(exec, next + insn->imm) : INSN_OK;
    }
}
