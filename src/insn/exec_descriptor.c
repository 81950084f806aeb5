/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Segments in protected mode: loading a register through its descriptor, and far transfers to code
 * of the same privilege (Intel SDM, "MOV: Move", "JMP", "CALL", "RET", "IRET/IRETD/IRETQ"). Gates,
 * tasks and changes of privilege are refused.
 */
#include "insn/exec.h"

enum {
    VECTOR_NP = 11,
    /* In the format of struct insn_seg. */
    AR_ACCESSED = 1 << 0,
    AR_WRITE = 1 << 1, /* data: writable; code: readable */
    AR_CONFORMING = 1 << 2,
    AR_CODE = 1 << 3,
    AR_USER = 1 << 4, /* not a system descriptor */
    AR_DPL = 3 << 5,
    AR_PRESENT = 1 << 7,
    AR_LONG = 1 << 13,
    AR_BIG = 1 << 14,
    AR_GRANULAR = 1 << 15,
    AR_UNUSABLE = 1 << 16,
    TYPE_LDT = 2,
    EFER_LMA = 1 << 10,
};

static unsigned dpl(const struct insn_seg *seg)
{
    return (seg->attributes & AR_DPL) >> 5;
}

/* Bits of the selector that error codes carry: all but the RPL. */
static uint32_t code_of(uint16_t selector)
{
    return selector & 0xfffcu;
}

static void unpack(uint64_t descriptor, uint16_t selector, struct insn_seg *seg)
{
    uint32_t limit = (uint32_t)((descriptor & 0xffff) | (descriptor >> 32 & 0xf0000));

    seg->attributes = descriptor >> 40 & 0xf0ff;
    seg->limit = seg->attributes & AR_GRANULAR ? limit << 12 | 0xfff : limit;
    seg->base = (descriptor >> 16 & 0xffffff) | (descriptor >> 32 & 0xff000000);
    seg->selector = selector;
}

/* Where the descriptor is; #GP(selector) if beyond its table. */
static enum insn_result descriptor_address(struct exec *exec, uint16_t selector, uint64_t *linear)
{
    const struct insn_cpu *cpu = exec->cpu;
    unsigned offset = selector & 0xfff8u;
    uint64_t limit = cpu->gdtr.limit;

    *linear = cpu->gdtr.base + offset;
    if (selector & 4) {
        *linear = cpu->ldtr.base + offset;
        limit = cpu->ldtr.limit;
        if ((cpu->ldtr.attributes & AR_UNUSABLE) || !(cpu->ldtr.attributes & AR_PRESENT) ||
            (cpu->ldtr.attributes & 0x1f) != TYPE_LDT)
            return raise_code(exec, VECTOR_GP, code_of(selector));
    }
    if (offset + 7 > limit)
        return raise_code(exec, VECTOR_GP, code_of(selector));
    if (!(cpu->efer & EFER_LMA))
        *linear &= 0xffffffff;
    return INSN_OK;
}

static enum insn_result read_descriptor(struct exec *exec, uint16_t selector, uint64_t *linear,
                                        struct insn_seg *seg)
{
    enum insn_result result = descriptor_address(exec, selector, linear);
    uint64_t descriptor;

    if (!result)
        result = read_memory(exec, *linear, &descriptor, 8, INSN_ACCESS_SYSTEM);
    if (!result)
        unpack(descriptor, selector, seg);
    return result;
}

/* The processor sets the accessed bit in memory when it loads a segment register. */
static enum insn_result mark_accessed(struct exec *exec, uint64_t linear, struct insn_seg *seg)
{
    uint8_t type = (uint8_t)(seg->attributes | AR_ACCESSED);

    if (seg->attributes & AR_ACCESSED)
        return INSN_OK;
    seg->attributes |= AR_ACCESSED;
    return write_memory(exec, linear + 5, &type, 1, INSN_ACCESS_SYSTEM);
}

static enum insn_result load_null(struct exec *exec, unsigned segment, uint16_t selector)
{
    const struct insn_cpu *cpu = exec->cpu;

    if (segment == INSN_SS &&
        (exec->insn->mode != INSN_64 || cpu->cpl == 3 || (selector & 3) != cpu->cpl))
        return raise_code(exec, VECTOR_GP, 0);
    /* In 64-bit mode Intel's processors clear the base of FS and GS, AMD's keep it. */
    if (exec->insn->mode == INSN_64 && segment >= INSN_FS && cpu->seg[segment].base)
        return INSN_UNSUPPORTED;
    exec->seg[segment] = (struct insn_seg){.selector = selector,
                                           .attributes = AR_UNUSABLE | (uint32_t)cpu->cpl << 5};
    return INSN_OK;
}

static bool data_allowed(const struct exec *exec, unsigned segment, const struct insn_seg *seg)
{
    unsigned cpl = exec->cpu->cpl, rpl = seg->selector & 3;
    bool code = seg->attributes & AR_CODE, write = seg->attributes & AR_WRITE;

    if (!(seg->attributes & AR_USER))
        return false;
    if (segment == INSN_SS)
        return !code && write && rpl == cpl && dpl(seg) == cpl;
    if (code && !write)
        return false;
    if (code && (seg->attributes & AR_CONFORMING))
        return true;
    return rpl <= dpl(seg) && cpl <= dpl(seg);
}

enum insn_result load_descriptor(struct exec *exec, unsigned segment, uint16_t selector)
{
    struct insn_seg *seg = &exec->seg[segment];
    enum insn_result result;
    uint64_t linear;

    if (!(selector & 0xfffc))
        return load_null(exec, segment, selector);
    result = read_descriptor(exec, selector, &linear, seg);
    if (result)
        return result;
    if (!data_allowed(exec, segment, seg))
        return raise_code(exec, VECTOR_GP, code_of(selector));
    if (!(seg->attributes & AR_PRESENT))
        return raise_code(exec, segment == INSN_SS ? VECTOR_SS : VECTOR_NP, code_of(selector));
    return mark_accessed(exec, linear, seg);
}

/* The mode that a code segment runs in. */
static uint8_t mode_of(const struct exec *exec, const struct insn_seg *seg)
{
    if ((exec->cpu->efer & EFER_LMA) && (seg->attributes & AR_LONG))
        return INSN_64;
    return seg->attributes & AR_BIG ? INSN_32 : INSN_16;
}

/* Stage CS:rIP for a transfer at this privilege; gates, tasks and inner code are refused. */
static enum insn_result enter_code(struct exec *exec, uint16_t selector, uint64_t offset,
                                   bool returning)
{
    struct insn_seg *seg = &exec->seg[INSN_CS];
    unsigned cpl = exec->cpu->cpl, rpl = selector & 3;
    enum insn_result result;
    uint64_t linear;
    bool allowed;

    if (!(selector & 0xfffc))
        return raise_code(exec, VECTOR_GP, 0);
    if (returning && rpl > cpl)
        return INSN_UNSUPPORTED; /* to an outer privilege */
    result = read_descriptor(exec, selector, &linear, seg);
    if (result)
        return result;
    if (!(seg->attributes & AR_USER) && !returning)
        return INSN_UNSUPPORTED; /* a gate or a task */
    if (seg->attributes & AR_CONFORMING)
        allowed = dpl(seg) <= cpl;
    else
        allowed = dpl(seg) == cpl && rpl <= cpl;
    if (returning && rpl < cpl)
        allowed = false;
    if (!(seg->attributes & AR_USER) || !(seg->attributes & AR_CODE) || !allowed)
        return raise_code(exec, VECTOR_GP, code_of(selector));
    if ((exec->cpu->efer & EFER_LMA) && (seg->attributes & AR_LONG) && (seg->attributes & AR_BIG))
        return raise_code(exec, VECTOR_GP, code_of(selector));
    if (!(seg->attributes & AR_PRESENT))
        return raise_code(exec, VECTOR_NP, code_of(selector));
    if (mode_of(exec, seg) == INSN_64 ? !canonical(exec->cpu, offset) : offset > seg->limit)
        return raise_code(exec, VECTOR_GP, 0);
    result = mark_accessed(exec, linear, seg);
    if (result)
        return result;
    seg->selector = (uint16_t)((selector & 0xfffc) | cpl);
    exec->segments = (uint8_t)(exec->segments | 1u << INSN_CS);
    exec->mode = mode_of(exec, seg);
    exec->rip = offset;
    return INSN_OK;
}

/* RETF, and IRET without NT: at the same privilege. */
static enum insn_result return_code(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    bool flags = insn->op == INSN_OP_IRET;
    unsigned size = insn->operand_size;
    uint64_t offset, selector = 0, image = 0;
    enum insn_result result;

    /* In 64-bit mode IRET always loads SS:RSP as well. */
    if (flags && ((exec->cpu->rflags & FLAG_NT) || insn->mode == INSN_64))
        return INSN_UNSUPPORTED;
    result = pop_value(exec, &offset, size);
    if (!result)
        result = pop_value(exec, &selector, size);
    if (!result && flags)
        result = pop_value(exec, &image, size);
    if (!result && flags && size == 4 && (image & FLAG_VM) && exec->cpu->cpl == 0)
        return INSN_UNSUPPORTED; /* to virtual-8086 mode */
    if (!result)
        result = enter_code(exec, (uint16_t)selector, offset, true);
    if (result)
        return result;
    if (flags)
        stage_flags(exec, poppable_flags(exec, size) | (size > 2 ? FLAG_RF : 0), image);
    else if (insn->operands)
        stage_gpr(exec, RSP, stack_size(exec), exec->value[RSP] + insn->imm);
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
    if (!result)
        result = enter_code(exec, selector, offset, false);
    if (!result && insn->op == INSN_OP_CALL_FAR) {
        result = push_value(exec, exec->cpu->seg[INSN_CS].selector, insn->operand_size);
        if (!result)
            result = push_value(exec, next, insn->operand_size);
    }
    return result;
}
