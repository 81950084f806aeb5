/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Descriptors: reading them, loading segment registers through them, and the instructions that look
 * at them (Intel SDM, "MOV: Move", "LLDT", "LTR", "LAR", "LSL", "VERR", "ARPL").
 */
#include "insn/segment.h"

static void unpack(uint64_t low, uint64_t high, uint16_t selector, struct insn_seg *seg)
{
    uint32_t limit = (uint32_t)((low & 0xffff) | (low >> 32 & 0xf0000));

    seg->attributes = low >> 40 & 0xf0ff;
    seg->limit = seg->attributes & AR_GRANULAR ? limit << 12 | 0xfff : limit;
    seg->base = (low >> 16 & 0xffffff) | (low >> 32 & 0xff000000) | high << 32;
    seg->selector = selector;
}

/* Where the descriptor is; false if beyond its table. */
static bool descriptor_address(struct exec *exec, uint16_t selector, unsigned size,
                               uint64_t *linear)
{
    const struct insn_cpu *cpu = exec->cpu;
    const struct insn_seg *ldtr = exec->segments >> STAGED_LDTR & 1 ? &exec->ldtr : &cpu->ldtr;
    unsigned offset = selector & 0xfff8u;
    uint64_t limit = cpu->gdtr.limit;

    *linear = cpu->gdtr.base + offset;
    if (selector & 4) {
        *linear = ldtr->base + offset;
        limit = ldtr->limit;
        if ((ldtr->attributes & AR_UNUSABLE) || !(ldtr->attributes & AR_PRESENT) ||
            (ldtr->attributes & 0x1f) != TYPE_LDT)
            return false;
    }
    if (!long_mode(exec))
        *linear &= 0xffffffff;
    return offset + size - 1 <= limit;
}

enum insn_result read_descriptor(struct exec *exec, uint16_t selector, unsigned vector,
                                 unsigned ext, struct descriptor *out)
{
    enum insn_result result;

    out->high = 0;
    if (!descriptor_address(exec, selector, 8, &out->linear))
        return raise_code(exec, vector, code_of(selector) | ext);
    result = read_memory(exec, out->linear, &out->low, 8, INSN_ACCESS_SYSTEM);
    if (result)
        return result;
    unpack(out->low, 0, selector, &out->seg);
    if (!long_mode(exec) || (out->seg.attributes & AR_USER))
        return INSN_OK;
    if (!descriptor_address(exec, selector, 16, &out->linear))
        return raise_code(exec, vector, code_of(selector) | ext);
    result = read_memory(exec, out->linear + 8, &out->high, 8, INSN_ACCESS_SYSTEM);
    if (result)
        return result;
    /* The type field of the upper half must be 0. */
    if (out->high >> 40 & 0x1f)
        return raise_code(exec, vector, code_of(selector) | ext);
    unpack(out->low, out->high, selector, &out->seg);
    return INSN_OK;
}

enum insn_result write_type(struct exec *exec, const struct descriptor *descriptor,
                            uint32_t attributes)
{
    uint8_t type = (uint8_t)attributes;

    return write_memory(exec, descriptor->linear + 5, &type, 1, INSN_ACCESS_SYSTEM);
}

/* The processor sets the accessed bit in memory when it loads a segment register. */
enum insn_result mark_accessed(struct exec *exec, struct descriptor *descriptor)
{
    if (descriptor->seg.attributes & AR_ACCESSED)
        return INSN_OK;
    descriptor->seg.attributes |= AR_ACCESSED;
    return write_type(exec, descriptor, descriptor->seg.attributes);
}

/* ---- Data segments ---- */

void load_null(struct exec *exec, unsigned segment, uint16_t selector, unsigned cpl)
{
    exec->seg[segment] =
        (struct insn_seg){.selector = selector, .attributes = AR_UNUSABLE | (uint32_t)cpl << 5};
    exec->segments = (uint8_t)(exec->segments | 1u << segment);
}

static enum insn_result load_null_checked(struct exec *exec, unsigned segment, uint16_t selector)
{
    const struct insn_cpu *cpu = exec->cpu;

    if (segment == INSN_SS &&
        (exec->insn->mode != INSN_64 || cpu->cpl == 3 || (selector & 3) != cpu->cpl))
        return raise_code(exec, VECTOR_GP, 0);
    /* In 64-bit mode Intel's processors clear the base of FS and GS, AMD's keep it. */
    if (exec->insn->mode == INSN_64 && segment >= INSN_FS && cpu->seg[segment].base)
        return INSN_UNSUPPORTED;
    load_null(exec, segment, selector, cpu->cpl);
    return INSN_OK;
}

static bool data_allowed(const struct exec *exec, unsigned segment, const struct insn_seg *seg)
{
    unsigned cpl = exec->cpl, rpl = seg->selector & 3;
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

enum insn_result load_data(struct exec *exec, unsigned segment, uint16_t selector, unsigned vector)
{
    struct descriptor descriptor = {0};
    enum insn_result result = read_descriptor(exec, selector, vector, 0, &descriptor);

    if (result)
        return result;
    if (!data_allowed(exec, segment, &descriptor.seg))
        return raise_code(exec, vector, code_of(selector));
    if (!(descriptor.seg.attributes & AR_PRESENT))
        return raise_code(exec, segment == INSN_SS ? VECTOR_SS : VECTOR_NP, code_of(selector));
    result = mark_accessed(exec, &descriptor);
    exec->seg[segment] = descriptor.seg;
    exec->segments = (uint8_t)(exec->segments | 1u << segment);
    return result;
}

enum insn_result load_descriptor(struct exec *exec, unsigned segment, uint16_t selector)
{
    if (is_null(selector))
        return load_null_checked(exec, segment, selector);
    return load_data(exec, segment, selector, VECTOR_GP);
}

/* ---- Code segments ---- */

uint8_t mode_of(const struct exec *exec, const struct insn_seg *seg)
{
    if (long_mode(exec) && (seg->attributes & AR_LONG))
        return INSN_64;
    return seg->attributes & AR_BIG ? INSN_32 : INSN_16;
}

enum insn_result stage_code(struct exec *exec, struct descriptor *descriptor, uint64_t offset,
                            unsigned cpl, unsigned ext)
{
    struct insn_seg *seg = &descriptor->seg;
    enum insn_result result;

    if (mode_of(exec, seg) == INSN_64 ? !canonical(exec->cpu, offset) : offset > seg->limit)
        return raise_code(exec, VECTOR_GP, ext);
    result = mark_accessed(exec, descriptor);
    if (result)
        return result;
    seg->selector = (uint16_t)((seg->selector & 0xfffc) | cpl);
    exec->seg[INSN_CS] = *seg;
    exec->segments = (uint8_t)(exec->segments | 1u << INSN_CS);
    exec->mode = mode_of(exec, seg);
    exec->cpl = (uint8_t)cpl;
    exec->rip = offset;
    return INSN_OK;
}

/* ---- LDTR and TR ---- */

static enum insn_result load_system(struct exec *exec, uint16_t selector, bool task)
{
    struct descriptor descriptor = {0};
    struct insn_seg *to = task ? &exec->tr : &exec->ldtr;
    enum insn_result result;
    unsigned type;

    if (exec->cpu->cpl)
        return raise_code(exec, VECTOR_GP, 0);
    if (is_null(selector) && task)
        return raise_code(exec, VECTOR_GP, 0);
    if (is_null(selector)) {
        *to = (struct insn_seg){.selector = selector, .attributes = AR_UNUSABLE};
        exec->segments |= 1u << STAGED_LDTR;
        return INSN_OK;
    }
    if (selector & 4)
        return raise_code(exec, VECTOR_GP, code_of(selector));
    result = read_descriptor(exec, selector, VECTOR_GP, 0, &descriptor);
    if (result)
        return result;
    type = system_type(&descriptor.seg);
    if (task ? type != TYPE_TSS && (long_mode(exec) || type != TYPE_TSS_16) : type != TYPE_LDT)
        return raise_code(exec, VECTOR_GP, code_of(selector));
    if (!(descriptor.seg.attributes & AR_PRESENT))
        return raise_code(exec, VECTOR_NP, code_of(selector));
    if (long_mode(exec) && !canonical(exec->cpu, descriptor.seg.base))
        return raise_code(exec, VECTOR_GP, code_of(selector));
    if (task) {
        descriptor.seg.attributes |= AR_BUSY;
        result = write_type(exec, &descriptor, descriptor.seg.attributes);
    }
    *to = descriptor.seg;
    exec->segments = (uint8_t)(exec->segments | 1u << (task ? STAGED_TR : STAGED_LDTR));
    return result;
}

/* ---- Looking at descriptors ---- */

/* The low 32 bits are types that LAR knows, those from bit 32 that LSL knows. */
static bool type_known(const struct exec *exec, const struct insn_seg *seg)
{
    static const uint16_t known[2][2] = {{0x1a3e, 0x0a0e}, {0x1a04, 0x0a04}};

    if (seg->attributes & AR_USER)
        return true;
    return known[long_mode(exec)][exec->insn->op == INSN_OP_LSL] >> (seg->attributes & AR_TYPE) & 1;
}

/* Whether a selector can be looked at; a descriptor that cannot be had is no exception here. */
static enum insn_result look(struct exec *exec, uint16_t selector, struct descriptor *out,
                             bool *visible)
{
    unsigned cpl = exec->cpu->cpl, rpl = selector & 3;
    enum insn_result result;

    *visible = false;
    if (is_null(selector) || !descriptor_address(exec, selector, 8, &out->linear))
        return INSN_OK;
    result = read_memory(exec, out->linear, &out->low, 8, INSN_ACCESS_SYSTEM);
    if (result)
        return result;
    unpack(out->low, 0, selector, &out->seg);
    *visible = (is_code(&out->seg) && (out->seg.attributes & AR_CONFORMING)) ||
               (cpl <= dpl(&out->seg) && rpl <= dpl(&out->seg));
    return INSN_OK;
}

static bool verified(const struct exec *exec, const struct insn_seg *seg)
{
    bool code = seg->attributes & AR_CODE, second = seg->attributes & AR_WRITE;

    if (!(seg->attributes & AR_USER))
        return false;
    return exec->insn->op == INSN_OP_VERR ? !code || second : !code && second;
}

static enum insn_result look_at(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    bool load = insn->op == INSN_OP_LAR || insn->op == INSN_OP_LSL, visible;
    struct descriptor descriptor = {0};
    enum insn_result result;
    uint64_t selector;

    result = read_operand(exec, load ? 1 : 0, &selector);
    if (!result)
        result = look(exec, (uint16_t)selector, &descriptor, &visible);
    if (result)
        return result;
    if (visible)
        visible = load ? type_known(exec, &descriptor.seg) : verified(exec, &descriptor.seg);
    stage_flags(exec, FLAG_ZF, visible ? FLAG_ZF : 0);
    if (!visible || !load)
        return INSN_OK;
    return write_operand(exec, 0,
                         insn->op == INSN_OP_LSL ? descriptor.seg.limit
                                                 : descriptor.low >> 32 & 0x00ffff00);
}

static enum insn_result adjust_rpl(struct exec *exec)
{
    uint64_t to, from;
    enum insn_result result = read_operand(exec, 1, &from);

    if (!result)
        result = read_operand(exec, 0, &to);
    if (result)
        return result;
    stage_flags(exec, FLAG_ZF, (to & 3) < (from & 3) ? FLAG_ZF : 0);
    if ((to & 3) >= (from & 3))
        return INSN_OK;
    return write_operand(exec, 0, (to & ~3ull) | (from & 3));
}

/* All of these are #UD where selectors are no selectors. */
enum insn_result execute_descriptor(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    enum insn_result result;
    uint64_t selector;

    if (real_segments(exec->cpu))
        return raise(exec, VECTOR_UD);
    if (!exec->ops->descriptors)
        return INSN_UNSUPPORTED;
    switch (insn->op) {
    case INSN_OP_ARPL:
        return adjust_rpl(exec);
    case INSN_OP_SLDT:
    case INSN_OP_STR:
        if (exec->cpu->cpl && (exec->cpu->cr4 & CR4_UMIP))
            return raise_code(exec, VECTOR_GP, 0);
        return write_operand(
            exec, 0, insn->op == INSN_OP_SLDT ? exec->cpu->ldtr.selector : exec->cpu->tr.selector);
    case INSN_OP_LLDT:
    case INSN_OP_LTR:
        if (exec->cpu->cpl)
            return raise_code(exec, VECTOR_GP, 0);
        result = read_operand(exec, 0, &selector);
        return result ? result : load_system(exec, (uint16_t)selector, insn->op == INSN_OP_LTR);
    default:
        return look_at(exec);
    }
}
