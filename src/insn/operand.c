/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reading, writing and modifying explicit operands.
 */
#include "insn/exec.h"

/* A locked access that keeps losing its race is given up for this time; the guest repeats it. */
enum { RACES_MAX = 64 };

enum insn_result operand_address(struct exec *exec, unsigned size, bool write, uint64_t *linear)
{
    return segment_address(exec, exec->insn->mem.segment, insn_offset(exec->insn, exec->cpu), size,
                           write, linear);
}

enum insn_result read_operand(struct exec *exec, unsigned index, uint64_t *value)
{
    const struct insn_operand *operand = &exec->insn->operand[index];
    enum insn_result result;
    uint64_t linear;

    switch (operand->kind) {
    case INSN_REG:
        *value = read_gpr(exec, operand->reg, operand->size);
        return INSN_OK;
    case INSN_REG_HIGH:
        *value = exec->cpu->gpr[operand->reg] >> 8 & 0xff;
        return INSN_OK;
    case INSN_IMM:
        *value = exec->insn->imm;
        return INSN_OK;
    case INSN_MEM:
        *value = 0;
        result = operand_address(exec, operand->size, false, &linear);
        return result ? result : read_memory(exec, linear, value, operand->size, 0);
    default:
        return INSN_UNSUPPORTED;
    }
}

static void stage_register_operand(struct exec *exec, const struct insn_operand *operand,
                                   uint64_t value)
{
    unsigned reg = operand->reg;
    uint64_t whole;

    if (operand->kind == INSN_REG) {
        stage_gpr(exec, reg, operand->size, value);
        return;
    }
    whole = exec->written >> reg & 1 ? exec->value[reg] : exec->cpu->gpr[reg];
    stage_gpr(exec, reg, 8, (whole & ~0xff00ull) | (value & 0xff) << 8);
}

enum insn_result write_operand(struct exec *exec, unsigned index, uint64_t value)
{
    const struct insn_operand *operand = &exec->insn->operand[index];
    enum insn_result result;
    uint64_t linear;

    if (operand->kind == INSN_MEM) {
        result = operand_address(exec, operand->size, true, &linear);
        return result ? result : write_memory(exec, linear, &value, operand->size, 0);
    }
    if (operand->kind != INSN_REG && operand->kind != INSN_REG_HIGH)
        return INSN_UNSUPPORTED;
    stage_register_operand(exec, operand, value);
    return INSN_OK;
}

/*
 * The memory operand of BT and its kin reaches beyond the operand if the bit offset is in a
 * register: by whole operands, in either direction (Intel SDM, "BT: Bit Test").
 */
static enum insn_result modify_address(struct exec *exec, uint64_t source, bool write,
                                       uint64_t *linear)
{
    const struct insn *insn = exec->insn;
    unsigned size = insn->operand[0].size;
    uint64_t offset = insn_offset(insn, exec->cpu);

    if (insn->op >= INSN_OP_BT && insn->op <= INSN_OP_BTC && insn->operand[1].kind == INSN_REG) {
        int64_t bit = (int64_t)sign_extend(source, size);

        offset += (uint64_t)((bit >> (size == 8 ? 6 : size == 4 ? 5 : 4)) * (int64_t)size);
        offset &= mask_of(insn->address_size);
    }
    return segment_address(exec, insn->mem.segment, offset, size, write, linear);
}

static enum insn_result modify_memory(struct exec *exec, compute_fn compute, uint64_t source)
{
    const struct insn *insn = exec->insn;
    unsigned size = insn->operand[0].size;
    bool write = insn->operand[0].access & INSN_WRITE;
    bool locked = (insn->prefixes & INSN_PREFIX_LOCK) || insn->op == INSN_OP_XCHG;
    unsigned flags = (write ? INSN_ACCESS_MODIFY : 0) | (locked ? INSN_ACCESS_LOCKED : 0);
    enum insn_result result;
    uint64_t linear, old = 0, new;

    if (locked && !exec->ops->compare_exchange)
        return INSN_UNSUPPORTED;
    result = modify_address(exec, source, write, &linear);
    if (!result)
        result = read_memory(exec, linear, &old, size, flags);
    if (result)
        return result;
    for (unsigned i = 0; i < RACES_MAX; i++) {
        exec->written = 0;
        new = compute(exec, old, source, size);
        if (!write)
            return INSN_OK;
        if (!locked)
            return write_memory(exec, linear, &new, size, 0);
        result = compare_exchange(exec, linear, &old, &new, size);
        if (result != INSN_AGAIN)
            return result;
    }
    return INSN_AGAIN;
}

enum insn_result execute_modify(struct exec *exec, compute_fn compute)
{
    const struct insn *insn = exec->insn;
    const struct insn_operand *operand = &insn->operand[0];
    enum insn_result result = INSN_OK;
    uint64_t old, source = 0, new;

    if (insn->operands > 1)
        result = read_operand(exec, 1, &source);
    if (result)
        return result;
    if (operand->kind == INSN_MEM)
        return modify_memory(exec, compute, source);
    result = read_operand(exec, 0, &old);
    if (result)
        return result;
    new = compute(exec, old, source, operand->size);
    /* Unlike memory, a register that CMPXCHG found different is not even zero-extended. */
    if (insn->op == INSN_OP_CMPXCHG && !(exec->flags & FLAG_ZF))
        return INSN_OK;
    if (operand->access & INSN_WRITE)
        stage_register_operand(exec, operand, new);
    return INSN_OK;
}
