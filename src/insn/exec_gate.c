/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Far transfers in protected mode: within a privilege level, through call gates to an inner one,
 * and back to an outer one (Intel SDM, "JMP", "CALL", "RET", "IRET/IRETD/IRETQ").
 */
#include "insn/segment.h"

/* ---- Stacks of inner levels, in the TSS ---- */

static enum insn_result check_stack_segment(struct exec *exec, struct descriptor *descriptor,
                                            uint16_t selector, unsigned cpl, unsigned vector,
                                            unsigned ext)
{
    const struct insn_seg *seg = &descriptor->seg;

    if ((selector & 3) != cpl || dpl(seg) != cpl || !is_writable_data(seg))
        return raise_code(exec, vector, code_of(selector) | ext);
    if (!(seg->attributes & AR_PRESENT))
        return raise_code(exec, VECTOR_SS, code_of(selector) | ext);
    return mark_accessed(exec, descriptor);
}

static enum insn_result read_tss(struct exec *exec, unsigned at, void *data, unsigned size,
                                 unsigned ext)
{
    const struct insn_seg *tr = &exec->cpu->tr;

    if (at + size - 1 > tr->limit)
        return raise_code(exec, VECTOR_TS, code_of(tr->selector) | ext);
    return read_memory(exec, tr->base + at, data, size, INSN_ACCESS_SYSTEM);
}

static enum insn_result inner_stack_64(struct exec *exec, unsigned cpl, unsigned ist, unsigned ext,
                                       struct stack *stack)
{
    enum insn_result result;

    *stack = (struct stack){
        .width = 8,
        .flags = INSN_ACCESS_SYSTEM,
        .seg = {.selector = (uint16_t)cpl, .attributes = AR_UNUSABLE | (uint32_t)cpl << 5}};
    result = read_tss(exec, ist ? 0x1c + 8 * ist : 4 + 8 * cpl, &stack->top, 8, ext);
    if (!result && !canonical(exec->cpu, stack->top))
        return raise_code(exec, VECTOR_SS, ext);
    return result;
}

enum insn_result inner_stack(struct exec *exec, unsigned cpl, unsigned ist, unsigned ext,
                             struct stack *stack)
{
    bool wide = exec->cpu->tr.attributes & 8;
    struct descriptor descriptor;
    enum insn_result result;
    uint32_t words[2] = {0, 0};
    uint16_t half[2] = {0, 0};

    if (long_mode(exec))
        return inner_stack_64(exec, cpl, ist, ext, stack);
    if (wide) {
        result = read_tss(exec, 4 + 8 * cpl, words, 8, ext);
    } else {
        result = read_tss(exec, 2 + 4 * cpl, half, 4, ext);
        words[0] = half[0];
        words[1] = half[1];
    }
    if (result)
        return result;
    if (is_null((uint16_t)words[1]))
        return raise_code(exec, VECTOR_TS, ext);
    result = read_descriptor(exec, (uint16_t)words[1], VECTOR_TS, ext, &descriptor);
    if (!result)
        result = check_stack_segment(exec, &descriptor, (uint16_t)words[1], cpl, VECTOR_TS, ext);
    *stack = (struct stack){.seg = descriptor.seg,
                            .top = words[0],
                            .width = descriptor.seg.attributes & AR_BIG ? 4 : 2,
                            .flags = INSN_ACCESS_SYSTEM,
                            .code = code_of((uint16_t)words[1]) | ext};
    return result;
}

/* ---- Calls and jumps ---- */

/* Parameters of a call gate, from the outer stack to the inner one. */
static enum insn_result copy_parameters(struct exec *exec, struct stack *stack, unsigned count,
                                        unsigned size)
{
    unsigned width = stack_size(exec);
    enum insn_result result = INSN_OK;

    while (count-- && !result) {
        uint64_t at = (exec->cpu->gpr[RSP] + (uint64_t)count * size) & mask_of(width);
        uint64_t value = 0, linear;

        result = segment_address(exec, INSN_SS, at, size, false, &linear);
        if (!result)
            result = read_memory(exec, linear, &value, size, 0);
        if (!result)
            result = push_on(exec, stack, value, size);
    }
    return result;
}

static enum insn_result call_inner(struct exec *exec, struct descriptor *target, uint64_t offset,
                                   unsigned size, unsigned parameters, uint64_t next)
{
    const struct insn_cpu *cpu = exec->cpu;
    unsigned cpl = dpl(&target->seg);
    struct stack stack;
    enum insn_result result = inner_stack(exec, cpl, 0, 0, &stack);

    if (!result)
        result = push_on(exec, &stack, cpu->seg[INSN_SS].selector, size);
    if (!result)
        result = push_on(exec, &stack, cpu->gpr[RSP], size);
    if (!result)
        result = copy_parameters(exec, &stack, parameters, size);
    if (!result)
        result = push_on(exec, &stack, cpu->seg[INSN_CS].selector, size);
    if (!result)
        result = push_on(exec, &stack, next, size);
    if (!result)
        result = stage_code(exec, target, offset, cpl, 0);
    if (!result)
        stage_stack(exec, &stack);
    return result;
}

static enum insn_result through_gate(struct exec *exec, const struct descriptor *gate,
                                     uint64_t next)
{
    bool call = exec->insn->op == INSN_OP_CALL_FAR, wide = gate->seg.attributes & 8;
    uint16_t selector = (uint16_t)(gate->low >> 16);
    unsigned size = long_mode(exec) ? 8 : wide ? 4 : 2, cpl = exec->cpu->cpl;
    uint64_t offset = (gate->low & 0xffff) | (gate->low >> 32 & 0xffff0000) | gate->high << 32;
    struct descriptor target;
    enum insn_result result;
    bool conforming;

    if (!wide)
        offset &= 0xffff;
    if (is_null(selector))
        return raise_code(exec, VECTOR_GP, 0);
    result = read_descriptor(exec, selector, VECTOR_GP, 0, &target);
    if (result)
        return result;
    conforming = target.seg.attributes & AR_CONFORMING;
    if (!is_code(&target.seg) || dpl(&target.seg) > cpl ||
        (!call && !conforming && dpl(&target.seg) != cpl))
        return raise_code(exec, VECTOR_GP, code_of(selector));
    if (long_mode(exec) && (target.seg.attributes & (AR_LONG | AR_BIG)) != AR_LONG)
        return raise_code(exec, VECTOR_GP, code_of(selector));
    if (!(target.seg.attributes & AR_PRESENT))
        return raise_code(exec, VECTOR_NP, code_of(selector));
    if (call && !conforming && dpl(&target.seg) < cpl)
        return call_inner(exec, &target, offset, size, long_mode(exec) ? 0 : gate->low >> 32 & 31,
                          next);
    result = stage_code(exec, &target, offset, cpl, 0);
    if (!result && call) {
        result = push_value(exec, exec->cpu->seg[INSN_CS].selector, size);
        if (!result)
            result = push_value(exec, next, size);
    }
    return result;
}

/* A far transfer to a system descriptor. */
enum insn_result far_system(struct exec *exec, struct descriptor *descriptor, uint16_t selector,
                            uint64_t next)
{
    enum task_source source = exec->insn->op == INSN_OP_CALL_FAR ? TASK_CALL : TASK_JMP;
    unsigned type = system_type(&descriptor->seg), cpl = exec->cpu->cpl, rpl = selector & 3;
    bool gate = type == TYPE_CALL_GATE || (type == TYPE_CALL_GATE_16 && !long_mode(exec));
    bool task =
        !long_mode(exec) && (type == TYPE_TSS || type == TYPE_TSS_16 || type == TYPE_TASK_GATE);

    if ((!gate && !task) || dpl(&descriptor->seg) < cpl || dpl(&descriptor->seg) < rpl)
        return raise_code(exec, VECTOR_GP, code_of(selector));
    if (!(descriptor->seg.attributes & AR_PRESENT))
        return raise_code(exec, VECTOR_NP, code_of(selector));
    if (gate)
        return through_gate(exec, descriptor, next);
    if (type == TYPE_TASK_GATE)
        return task_by_gate(exec, (uint16_t)(descriptor->low >> 16), source, next, 0, NULL);
    return task_switch(exec, descriptor, selector, source, next, 0, NULL);
}

static enum insn_result jump_protected(struct exec *exec, uint16_t selector, uint64_t offset,
                                       uint64_t next)
{
    unsigned cpl = exec->cpu->cpl, rpl = selector & 3;
    struct descriptor descriptor;
    enum insn_result result;
    bool allowed;

    if (is_null(selector))
        return raise_code(exec, VECTOR_GP, 0);
    result = read_descriptor(exec, selector, VECTOR_GP, 0, &descriptor);
    if (result)
        return result;
    if (!(descriptor.seg.attributes & AR_USER))
        return far_system(exec, &descriptor, selector, next);
    if (descriptor.seg.attributes & AR_CONFORMING)
        allowed = dpl(&descriptor.seg) <= cpl;
    else
        allowed = dpl(&descriptor.seg) == cpl && rpl <= cpl;
    if (!is_code(&descriptor.seg) || !allowed)
        return raise_code(exec, VECTOR_GP, code_of(selector));
    if (long_mode(exec) && (descriptor.seg.attributes & AR_LONG) &&
        (descriptor.seg.attributes & AR_BIG))
        return raise_code(exec, VECTOR_GP, code_of(selector));
    if (!(descriptor.seg.attributes & AR_PRESENT))
        return raise_code(exec, VECTOR_NP, code_of(selector));
    result = stage_code(exec, &descriptor, offset, cpl, 0);
    if (!result && exec->insn->op == INSN_OP_CALL_FAR) {
        result = push_value(exec, exec->cpu->seg[INSN_CS].selector, exec->insn->operand_size);
        if (!result)
            result = push_value(exec, next, exec->insn->operand_size);
    }
    return result;
}

/* ---- Returns ---- */

/* Data segments that the outer level may not use become null. */
static void drop_data(struct exec *exec, unsigned cpl)
{
    static const uint8_t data[] = {INSN_ES, INSN_DS, INSN_FS, INSN_GS};

    for (unsigned i = 0; i < sizeof(data); i++) {
        const struct insn_seg *seg = &exec->cpu->seg[data[i]];
        bool conforming = is_code(seg) && (seg->attributes & AR_CONFORMING);

        if (!(seg->attributes & AR_UNUSABLE) && !conforming && dpl(seg) < cpl)
            load_null(exec, data[i], 0, cpl);
    }
}

/* SS:rSP of the outer level (or in 64-bit mode of any, for IRET). */
static enum insn_result outer_stack(struct exec *exec, uint16_t selector, uint64_t top,
                                    unsigned cpl, const struct insn_seg *code)
{
    bool to_64 = mode_of(exec, code) == INSN_64;
    struct descriptor descriptor;
    enum insn_result result;
    unsigned width;

    if (is_null(selector)) {
        if (!to_64 || cpl == 3 || (selector & 3) != cpl)
            return raise_code(exec, VECTOR_GP, 0);
        load_null(exec, INSN_SS, selector, cpl);
        stage_gpr(exec, RSP, 8, top);
        return INSN_OK;
    }
    result = read_descriptor(exec, selector, VECTOR_GP, 0, &descriptor);
    if (!result)
        result = check_stack_segment(exec, &descriptor, selector, cpl, VECTOR_GP, 0);
    if (result)
        return result;
    width = to_64 ? 8 : descriptor.seg.attributes & AR_BIG ? 4 : 2;
    exec->seg[INSN_SS] = descriptor.seg;
    exec->segments |= 1u << INSN_SS;
    stage_gpr(exec, RSP, width, top);
    return INSN_OK;
}

/* The code segment that a return names. */
static enum insn_result return_target(struct exec *exec, uint16_t selector, struct descriptor *out)
{
    unsigned cpl = exec->cpu->cpl, rpl = selector & 3;
    enum insn_result result;

    if (is_null(selector))
        return raise_code(exec, VECTOR_GP, 0);
    result = read_descriptor(exec, selector, VECTOR_GP, 0, out);
    if (result)
        return result;
    if (!is_code(&out->seg) || rpl < cpl)
        return raise_code(exec, VECTOR_GP, code_of(selector));
    if (out->seg.attributes & AR_CONFORMING ? dpl(&out->seg) > rpl : dpl(&out->seg) != rpl)
        return raise_code(exec, VECTOR_GP, code_of(selector));
    if (long_mode(exec) && (out->seg.attributes & AR_LONG) && (out->seg.attributes & AR_BIG))
        return raise_code(exec, VECTOR_GP, code_of(selector));
    if (!(out->seg.attributes & AR_PRESENT))
        return raise_code(exec, VECTOR_NP, code_of(selector));
    return INSN_OK;
}

/* IRET to virtual-8086 mode: six more words. */
static enum insn_result return_v86(struct exec *exec, uint64_t offset, uint16_t selector,
                                   uint64_t image)
{
    static const uint8_t order[] = {INSN_SS, INSN_ES, INSN_DS, INSN_FS, INSN_GS};
    uint64_t top = 0, value = selector;
    enum insn_result result = pop_value(exec, &top, 4);

    load_virtual(exec, INSN_CS, (uint16_t)value);
    for (unsigned i = 0; i < sizeof(order) && !result; i++) {
        result = pop_value(exec, &value, 4);
        load_virtual(exec, order[i], (uint16_t)value);
    }
    if (result)
        return result;
    stage_gpr(exec, RSP, 4, top);
    stage_flags(exec, poppable_flags(exec, 4) | FLAG_RF | FLAG_VM | FLAG_VIF | FLAG_VIP, image);
    exec->rip = offset & 0xffff;
    exec->mode = INSN_16;
    exec->cpl = 3;
    return INSN_OK;
}

/* RETF and IRET. */
static enum insn_result return_code(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    bool flags = insn->op == INSN_OP_IRET, stack;
    unsigned size = insn->operand_size, release = !flags && insn->operands ? insn->imm & 0xffff : 0;
    uint64_t offset, selector = 0, image = 0, top = 0, ss = 0;
    struct descriptor target;
    enum insn_result result;
    unsigned rpl;

    if (flags && (exec->cpu->rflags & FLAG_NT))
        return long_mode(exec) ? raise_code(exec, VECTOR_GP, 0) : task_return(exec);
    result = pop_value(exec, &offset, size);
    if (!result)
        result = pop_value(exec, &selector, size);
    if (!result && flags)
        result = pop_value(exec, &image, size);
    if (result)
        return result;
    if (flags && size == 4 && (image & FLAG_VM) && exec->cpu->cpl == 0 && !long_mode(exec))
        return return_v86(exec, offset, (uint16_t)selector, image);
    result = return_target(exec, (uint16_t)selector, &target);
    if (result)
        return result;
    rpl = selector & 3;
    stage_gpr(exec, RSP, stack_size(exec), exec->value[RSP] + release);
    stack = rpl > exec->cpu->cpl || (flags && insn->mode == INSN_64);
    if (stack)
        result = pop_value(exec, &top, size);
    if (!result && stack)
        result = pop_value(exec, &ss, size);
    if (!result)
        result = stage_code(exec, &target, offset, rpl, 0);
    if (!result && stack)
        result = outer_stack(exec, (uint16_t)ss, top + release, rpl, &exec->seg[INSN_CS]);
    if (result)
        return result;
    if (rpl > exec->cpu->cpl)
        drop_data(exec, rpl);
    if (flags)
        stage_flags(exec,
                    poppable_flags(exec, size) | (size > 2 ? FLAG_RF : 0) |
                        (size > 2 && exec->cpu->cpl == 0 ? FLAG_VIF | FLAG_VIP : 0),
                    image);
    return INSN_OK;
}

enum insn_result execute_far_protected(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    uint64_t offset, next = exec->rip;
    enum insn_result result;
    uint16_t selector;

    if (!exec->ops->descriptors)
        return INSN_UNSUPPORTED;
    if (insn->op == INSN_OP_RET_FAR || insn->op == INSN_OP_IRET)
        return return_code(exec);
    result = read_far(exec, 0, &offset, &selector);
    return result ? result : jump_protected(exec, selector, offset, next);
}
