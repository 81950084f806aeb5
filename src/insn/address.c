/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Effective addresses, and what segmentation allows: limits, types and canonical form (Intel SDM,
 * "Limit Checking", "Type Checking", "Canonical Addressing").
 */
#include "insn/exec.h"

enum {
    SEG_TYPE_WRITE = 1u << 1, /* of data segments; of code segments: readable */
    SEG_TYPE_EXPAND_DOWN = 1u << 2,
    SEG_TYPE_CODE = 1u << 3,
    SEG_BIG = 1u << 14,
    SEG_UNUSABLE = 1u << 16,
};

uint64_t insn_offset(const struct insn *insn, const struct insn_cpu *cpu)
{
    const struct insn_mem *mem = &insn->mem;
    uint64_t offset = (uint64_t)insn->disp;

    if (mem->base < 16)
        offset += cpu->gpr[mem->base];
    else if (mem->base == INSN_BASE_RIP)
        offset += cpu->rip + insn->length;
    if (mem->index < 16)
        offset += cpu->gpr[mem->index] << mem->scale;
    return offset & mask_of(insn->address_size);
}

uint64_t insn_linear(const struct insn *insn, const struct insn_cpu *cpu)
{
    uint64_t offset = insn_offset(insn, cpu);

    if (insn->mode == INSN_64)
        return insn->mem.segment >= INSN_FS ? offset + cpu->seg[insn->mem.segment].base : offset;
    return (offset + cpu->seg[insn->mem.segment].base) & 0xffffffff;
}

bool canonical(const struct insn_cpu *cpu, uint64_t address)
{
    unsigned bits = cpu->cr4 & CR4_LA57 ? 57 : 48;
    int64_t high = (int64_t)address >> (bits - 1);

    return high == 0 || high == -1;
}

static bool within_limit(const struct insn_seg *seg, uint64_t offset, unsigned size)
{
    uint64_t last = offset + size - 1;
    bool data = !(seg->attributes & SEG_TYPE_CODE);

    if (!data || !(seg->attributes & SEG_TYPE_EXPAND_DOWN))
        return last <= seg->limit;
    return offset > seg->limit && last <= (seg->attributes & SEG_BIG ? 0xffffffff : 0xffff);
}

static bool type_allows(const struct insn_seg *seg, bool write)
{
    bool code = seg->attributes & SEG_TYPE_CODE;

    if (seg->attributes & SEG_UNUSABLE)
        return false;
    if (write)
        return !code && (seg->attributes & SEG_TYPE_WRITE);
    return !code || (seg->attributes & SEG_TYPE_WRITE);
}

bool segment_covers(const struct insn_seg *seg, uint64_t offset, unsigned size, bool write)
{
    return type_allows(seg, write) && within_limit(seg, offset, size);
}

enum insn_result segment_address(struct exec *exec, unsigned segment, uint64_t offset,
                                 unsigned size, bool write, uint64_t *linear)
{
    const struct insn_cpu *cpu = exec->cpu;
    const struct insn_seg *seg = &cpu->seg[segment];
    unsigned vector = segment == INSN_SS ? VECTOR_SS : VECTOR_GP;

    if (exec->insn->mode == INSN_64) {
        *linear = segment >= INSN_FS ? offset + seg->base : offset;
        if (!canonical(cpu, *linear) || !canonical(cpu, *linear + size - 1))
            return raise_code(exec, vector, 0);
        return INSN_OK;
    }
    *linear = (offset + seg->base) & 0xffffffff;
    if (!real_segments(cpu) && !type_allows(seg, write))
        return raise_code(exec, vector, 0);
    if (!within_limit(seg, offset, size))
        return raise_code(exec, vector, 0);
    return INSN_OK;
}
