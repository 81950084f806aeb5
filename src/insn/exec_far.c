/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Segment loads, far control transfers and descriptor-table registers, as far as segments are mere
 * base addresses, in real and virtual-8086 mode. For protected mode see exec_descriptor.c.
 */
#include "insn/exec.h"

enum {
    VM86_ATTRIBUTES = 0xf3, /* present, DPL 3, accessed read-write data */
};

bool can_load_segment(const struct exec *exec)
{
    return real_segments(exec->cpu) || exec->ops->load_segment || exec->ops->descriptors;
}

void load_virtual(struct exec *exec, unsigned segment, uint16_t selector)
{
    exec->seg[segment] = (struct insn_seg){.selector = selector,
                                           .base = (uint64_t)selector << 4,
                                           .limit = 0xffff,
                                           .attributes = VM86_ATTRIBUTES};
    exec->segments = (uint8_t)(exec->segments | 1u << segment);
}

/* In real mode the limit and attributes stay ("unreal mode" lives by it). */
static void load_real(struct exec *exec, unsigned segment, uint16_t selector)
{
    struct insn_seg *seg = &exec->seg[segment];

    if (virtual_8086(exec->cpu)) {
        load_virtual(exec, segment, selector);
        return;
    }
    *seg = exec->cpu->seg[segment];
    seg->selector = selector;
    seg->base = (uint64_t)selector << 4;
    exec->segments = (uint8_t)(exec->segments | 1u << segment);
}

static enum insn_result load_by_callback(struct exec *exec, unsigned segment, uint16_t selector)
{
    enum insn_access_result result;

    result =
        exec->ops->load_segment(exec->context, segment, selector, &exec->seg[segment], exec->fault);
    if (result == INSN_ACCESS_OK)
        return INSN_OK;
    return result == INSN_ACCESS_FAULT ? INSN_FAULT : INSN_UNSUPPORTED;
}

enum insn_result load_segment(struct exec *exec, unsigned segment, uint16_t selector)
{
    enum insn_result result;

    if (segment == INSN_SS)
        exec->shadow = INSN_SHADOW_MOV_SS;
    if (real_segments(exec->cpu)) {
        load_real(exec, segment, selector);
        return INSN_OK;
    }
    result = exec->ops->load_segment ? load_by_callback(exec, segment, selector)
                                     : load_descriptor(exec, segment, selector);
    if (result == INSN_OK)
        exec->segments = (uint8_t)(exec->segments | 1u << segment);
    return result;
}

/* A far pointer in memory: offset, then selector. */
enum insn_result read_far(struct exec *exec, unsigned index, uint64_t *offset, uint16_t *selector)
{
    const struct insn_operand *operand = &exec->insn->operand[index];
    unsigned size = operand->size - 2u;
    uint8_t bytes[10];
    enum insn_result result;
    uint64_t linear;

    if (operand->kind == INSN_FAR) {
        *offset = exec->insn->imm;
        *selector = exec->insn->imm2;
        return INSN_OK;
    }
    result = operand_address(exec, operand->size, false, &linear);
    if (!result)
        result = read_memory(exec, linear, bytes, operand->size, 0);
    if (result)
        return result;
    *offset = 0;
    __builtin_memcpy(offset, bytes, size);
    __builtin_memcpy(selector, bytes + size, 2);
    return INSN_OK;
}

enum insn_result execute_segment(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    enum insn_result result;
    uint64_t offset;
    uint16_t selector;

    if (insn->op == INSN_OP_MOV_SEG && insn->operand[1].kind == INSN_SREG)
        return write_operand(exec, 0, exec->cpu->seg[insn->operand[1].reg].selector);
    if (!can_load_segment(exec))
        return INSN_UNSUPPORTED;
    if (insn->op == INSN_OP_MOV_SEG) {
        result = read_operand(exec, 1, &offset);
        return result ? result : load_segment(exec, insn->operand[0].reg, (uint16_t)offset);
    }
    result = read_far(exec, 1, &offset, &selector);
    if (!result)
        result = load_segment(exec, insn->operand[2].reg, selector);
    if (!result)
        result = write_operand(exec, 0, offset);
    exec->shadow = INSN_SHADOW_NONE; /* LSS does not hold interrupts off */
    return result;
}

/* Stage CS:rIP. */
enum insn_result jump_far(struct exec *exec, uint16_t selector, uint64_t offset)
{
    if (offset > exec->cpu->seg[INSN_CS].limit)
        return raise_code(exec, VECTOR_GP, 0);
    load_real(exec, INSN_CS, selector);
    exec->rip = offset;
    return INSN_OK;
}

/* RETF and IRET: rIP, CS and for IRET the flags. */
static enum insn_result return_far(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    bool flags = insn->op == INSN_OP_IRET;
    unsigned size = insn->operand_size;
    uint64_t offset, selector = 0, image = 0;
    bool restricted = flags && virtual_restricted(exec);
    enum insn_result result = restricted ? virtual_flags(exec, size) : INSN_OK;

    if (!result)
        result = pop_value(exec, &offset, size);
    if (!result)
        result = pop_value(exec, &selector, size);
    if (!result && flags)
        result = pop_value(exec, &image, size);
    if (!result)
        result = jump_far(exec, (uint16_t)selector, offset);
    if (result)
        return result;
    if (restricted)
        return virtual_pop(exec, image);
    if (flags)
        stage_flags(exec, poppable_flags(exec, size) | (size > 2 ? FLAG_RF : 0), image);
    else if (insn->operands)
        stage_gpr(exec, RSP, stack_size(exec), exec->value[RSP] + insn->imm);
    return INSN_OK;
}

enum insn_result execute_far(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    uint64_t offset, next = exec->rip;
    enum insn_result result;
    uint16_t selector;

    if (!real_segments(exec->cpu))
        return execute_far_protected(exec);
    if (insn->op == INSN_OP_RET_FAR || insn->op == INSN_OP_IRET)
        return return_far(exec);
    result = read_far(exec, 0, &offset, &selector);
    if (!result)
        result = jump_far(exec, selector, offset);
    if (!result && insn->op == INSN_OP_CALL_FAR) {
        result = push_value(exec, exec->cpu->seg[INSN_CS].selector, insn->operand_size);
        if (!result)
            result = push_value(exec, next, insn->operand_size);
    }
    return result;
}

static enum insn_result load_table(struct exec *exec, struct insn_table *table)
{
    const struct insn *insn = exec->insn;
    unsigned size = insn->operand[0].size;
    struct insn_table loaded = {0, 0};
    enum insn_result result;
    uint8_t bytes[10];
    uint64_t linear;

    if (exec->cpu->cpl != 0)
        return raise_code(exec, VECTOR_GP, 0);
    result = operand_address(exec, size, false, &linear);
    if (!result)
        result = read_memory(exec, linear, bytes, size, 0);
    if (result)
        return result;
    __builtin_memcpy(&loaded.limit, bytes, 2);
    __builtin_memcpy(&loaded.base, bytes + 2, size - 2);
    if (insn->mode != INSN_64 && insn->operand_size == 2)
        loaded.base &= 0xffffff;
    if (insn->mode == INSN_64 && !canonical(exec->cpu, loaded.base))
        return raise_code(exec, VECTOR_GP, 0);
    *table = loaded;
    return INSN_OK;
}

/* UMIP keeps user programs from reading them. */
static enum insn_result store_table(struct exec *exec, const struct insn_table *table)
{
    unsigned size = exec->insn->operand[0].size;
    enum insn_result result;
    uint8_t bytes[10];
    uint64_t linear;

    __builtin_memcpy(bytes, &table->limit, 2);
    __builtin_memcpy(bytes + 2, &table->base, 8);
    result = operand_address(exec, size, true, &linear);
    return result ? result : write_memory(exec, linear, bytes, size, 0);
}

enum insn_result execute_table(struct exec *exec)
{
    struct insn_cpu *cpu = exec->cpu;
    unsigned op = exec->insn->op;

    if (op == INSN_OP_LGDT)
        return load_table(exec, &cpu->gdtr);
    if (op == INSN_OP_LIDT)
        return load_table(exec, &cpu->idtr);
    if (cpu->cpl != 0 && (cpu->cr4 & CR4_UMIP))
        return raise_code(exec, VECTOR_GP, 0);
    if (op == INSN_OP_SMSW)
        return write_operand(exec, 0, cpu->cr0);
    return store_table(exec, op == INSN_OP_SGDT ? &cpu->gdtr : &cpu->idtr);
}
