/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The stack: PUSH and POP in all forms, ENTER and LEAVE.
 */
#include "insn/segment.h"

/* The width of stack addresses: 64 bits in 64-bit mode, else by SS.B. */
unsigned stack_size(const struct exec *exec)
{
    if (exec->insn->mode == INSN_64)
        return 8;
    return exec->cpu->seg[INSN_SS].attributes & AR_BIG ? 4 : 2;
}

static uint64_t stack_pointer(const struct exec *exec)
{
    return exec->written >> RSP & 1 ? exec->value[RSP] : exec->cpu->gpr[RSP];
}

enum insn_result push_value(struct exec *exec, uint64_t value, unsigned size)
{
    unsigned width = stack_size(exec);
    uint64_t top = (stack_pointer(exec) - size) & mask_of(width), linear;
    enum insn_result result;

    result = segment_address(exec, INSN_SS, top, size, true, &linear);
    if (!result)
        result = write_memory(exec, linear, &value, size, 0);
    if (!result)
        stage_gpr(exec, RSP, width, top);
    return result;
}

enum insn_result pop_value(struct exec *exec, uint64_t *value, unsigned size)
{
    unsigned width = stack_size(exec);
    uint64_t top = stack_pointer(exec) & mask_of(width), linear;
    enum insn_result result;

    *value = 0;
    result = segment_address(exec, INSN_SS, top, size, false, &linear);
    if (!result)
        result = read_memory(exec, linear, value, size, 0);
    if (!result)
        stage_gpr(exec, RSP, width, top + size);
    return result;
}

/* On a stack that becomes the present one only when all is well. */
enum insn_result push_on(struct exec *exec, struct stack *stack, uint64_t value, unsigned size)
{
    uint64_t top = (stack->top - size) & mask_of(stack->width), linear = top;
    bool good;
    enum insn_result result;

    if (stack->width == 8) {
        good = canonical(exec->cpu, top) && canonical(exec->cpu, top + size - 1);
    } else {
        good = segment_covers(&stack->seg, top, size, true);
        linear = (top + stack->seg.base) & 0xffffffff;
    }
    if (!good)
        return raise_code(exec, VECTOR_SS, stack->code);
    result = write_memory(exec, linear, &value, size, stack->flags);
    stack->top = top;
    return result;
}

void stage_stack(struct exec *exec, const struct stack *stack)
{
    exec->seg[INSN_SS] = stack->seg;
    exec->segments |= 1u << INSN_SS;
    stage_gpr(exec, RSP, stack->width, stack->top);
}

/* PUSHA stores rSP as it was before. */
static enum insn_result push_all(struct exec *exec)
{
    unsigned size = exec->insn->operand_size;
    enum insn_result result = INSN_OK;

    for (unsigned reg = RAX; reg <= RDI && !result; reg++)
        result = push_value(exec, exec->cpu->gpr[reg], size);
    return result;
}

/* POPA skips the stored rSP. */
static enum insn_result pop_all(struct exec *exec)
{
    unsigned size = exec->insn->operand_size;
    enum insn_result result;
    uint64_t value;

    for (unsigned i = 0; i < 8; i++) {
        unsigned reg = RDI - i;

        result = pop_value(exec, &value, size);
        if (result)
            return result;
        if (reg != RSP)
            stage_gpr(exec, reg, size, value);
    }
    return INSN_OK;
}

enum insn_result execute_push(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    enum insn_result result;
    uint64_t value;

    if (insn->op == INSN_OP_PUSHA)
        return push_all(exec);
    if (insn->op == INSN_OP_PUSH_SEG)
        return push_value(exec, exec->cpu->seg[insn->operand[0].reg].selector, insn->operand_size);
    result = read_operand(exec, 0, &value);
    return result ? result : push_value(exec, value, insn->operand_size);
}

/* A memory destination addressed by rSP is addressed by the incremented one. */
static enum insn_result pop_to_memory(struct exec *exec, uint64_t value, unsigned size)
{
    const struct insn *insn = exec->insn;
    uint64_t offset = insn_offset(insn, exec->cpu), linear;
    enum insn_result result;

    if (insn->mem.base == RSP)
        offset = (offset + size) & mask_of(insn->address_size);
    result = segment_address(exec, insn->mem.segment, offset, size, true, &linear);
    return result ? result : write_memory(exec, linear, &value, size, 0);
}

enum insn_result execute_pop(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    unsigned size = insn->operand_size;
    enum insn_result result;
    uint64_t value;

    if (insn->op == INSN_OP_POPA)
        return pop_all(exec);
    if (insn->op == INSN_OP_POP_SEG && !can_load_segment(exec))
        return INSN_UNSUPPORTED;
    result = pop_value(exec, &value, size);
    if (result)
        return result;
    if (insn->op == INSN_OP_POP_SEG)
        return load_segment(exec, insn->operand[0].reg, (uint16_t)value);
    if (insn->operand[0].kind == INSN_MEM)
        return pop_to_memory(exec, value, size);
    return write_operand(exec, 0, value);
}

/* Copy the frame pointers of the enclosing procedures (Intel SDM, "ENTER: Make Stack Frame"). */
static enum insn_result copy_display(struct exec *exec, unsigned levels, uint64_t frame)
{
    unsigned size = exec->insn->operand_size, width = stack_size(exec);
    uint64_t from = exec->cpu->gpr[RBP], value = 0, linear;
    enum insn_result result;

    for (unsigned i = 1; i < levels; i++) {
        from = (from - size) & mask_of(width);
        result = segment_address(exec, INSN_SS, from, size, false, &linear);
        if (!result)
            result = read_memory(exec, linear, &value, size, 0);
        if (!result)
            result = push_value(exec, value, size);
        if (result)
            return result;
    }
    return push_value(exec, frame, size);
}

static enum insn_result enter(struct exec *exec)
{
    unsigned size = exec->insn->operand_size, width = stack_size(exec);
    unsigned levels = exec->insn->imm2 & 31;
    enum insn_result result;
    uint64_t frame;

    result = push_value(exec, exec->cpu->gpr[RBP], size);
    if (result)
        return result;
    frame = stack_pointer(exec);
    if (levels)
        result = copy_display(exec, levels, frame);
    if (result)
        return result;
    stage_gpr(exec, RBP, width, frame);
    stage_gpr(exec, RSP, width, stack_pointer(exec) - (exec->insn->imm & 0xffff));
    return INSN_OK;
}

enum insn_result execute_frame(struct exec *exec)
{
    unsigned size = exec->insn->operand_size;
    enum insn_result result;
    uint64_t value;

    if (exec->insn->op == INSN_OP_ENTER)
        return enter(exec);
    stage_gpr(exec, RSP, stack_size(exec), exec->cpu->gpr[RBP]);
    result = pop_value(exec, &value, size);
    if (!result)
        stage_gpr(exec, RBP, size, value);
    return result;
}
