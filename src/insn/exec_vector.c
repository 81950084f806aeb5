/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * SSE moves between a register and memory (or, of MOVD and MOVQ, a general register), and their AVX
 * forms of 128 and 256 bits: what drivers use on MMIO. The decoder gives them no name, so they are
 * found by opcode and mandatory prefix here (Intel SDM, "Instruction Set Reference", the
 * instructions' own pages).
 */
#include "insn/exec.h"

enum { PREFIX_NONE, PREFIX_66, PREFIX_F3, PREFIX_F2 };
enum {
    LOAD = 1 << 0, /* memory to register */
    STORE = 1 << 1,
    ALIGNED = 1 << 2,
    HIGH = 1 << 3,    /* the upper 8 bytes, the lower ones stay */
    MERGE = 1 << 4,   /* the other bytes stay; without: they become 0 */
    GENERAL = 1 << 5, /* ModRM.rm may be a general register; 4 or 8 bytes by W */
};

struct vector_move {
    uint8_t opcode, prefix, size, flags;
};

static const struct vector_move moves[] = {
    {0x10, PREFIX_NONE, 16, LOAD},
    {0x10, PREFIX_66, 16, LOAD},
    {0x10, PREFIX_F3, 4, LOAD},
    {0x10, PREFIX_F2, 8, LOAD},
    {0x11, PREFIX_NONE, 16, STORE},
    {0x11, PREFIX_66, 16, STORE},
    {0x11, PREFIX_F3, 4, STORE},
    {0x11, PREFIX_F2, 8, STORE},
    {0x12, PREFIX_NONE, 8, LOAD | MERGE},
    {0x12, PREFIX_66, 8, LOAD | MERGE},
    {0x13, PREFIX_NONE, 8, STORE},
    {0x13, PREFIX_66, 8, STORE},
    {0x16, PREFIX_NONE, 8, LOAD | HIGH},
    {0x16, PREFIX_66, 8, LOAD | HIGH},
    {0x17, PREFIX_NONE, 8, STORE | HIGH},
    {0x17, PREFIX_66, 8, STORE | HIGH},
    {0x28, PREFIX_NONE, 16, LOAD | ALIGNED},
    {0x28, PREFIX_66, 16, LOAD | ALIGNED},
    {0x29, PREFIX_NONE, 16, STORE | ALIGNED},
    {0x29, PREFIX_66, 16, STORE | ALIGNED},
    {0x2b, PREFIX_NONE, 16, STORE | ALIGNED},
    {0x2b, PREFIX_66, 16, STORE | ALIGNED},
    {0x6e, PREFIX_66, 4, LOAD | GENERAL},
    {0x7e, PREFIX_66, 4, STORE | GENERAL},
    {0x7e, PREFIX_F3, 8, LOAD},
    {0xd6, PREFIX_66, 8, STORE},
    {0x6f, PREFIX_66, 16, LOAD | ALIGNED},
    {0x6f, PREFIX_F3, 16, LOAD},
    {0x7f, PREFIX_66, 16, STORE | ALIGNED},
    {0x7f, PREFIX_F3, 16, STORE},
    {0xe7, PREFIX_66, 16, STORE | ALIGNED},
    {0xf0, PREFIX_F2, 16, LOAD},
};

static unsigned mandatory(const struct insn *insn)
{
    if (insn->encoding == INSN_VEX)
        return (unsigned[]){PREFIX_NONE, PREFIX_66, PREFIX_F3, PREFIX_F2}[insn->imm2 & 3];
    if (insn->prefixes & INSN_PREFIX_REP)
        return PREFIX_F3;
    if (insn->prefixes & INSN_PREFIX_REPNE)
        return PREFIX_F2;
    return insn->prefixes & INSN_PREFIX_OPSIZE ? PREFIX_66 : PREFIX_NONE;
}

static bool of_256_bits(const struct insn *insn)
{
    return insn->encoding == INSN_VEX && (insn->imm2 & 4);
}

static const struct vector_move *find(const struct insn *insn)
{
    static const struct vector_move movntdqa = {0x2a, PREFIX_66, 16, LOAD | ALIGNED};
    bool vex = insn->encoding == INSN_VEX;

    if ((insn->encoding != INSN_LEGACY && !vex) || !insn->has_modrm)
        return NULL;
    /* With a second source, which those have that merge. */
    if (vex && (insn->imm2 & 0x78) != 0x78)
        return NULL;
    if (insn->map == INSN_MAP_0F38 && insn->opcode == 0x2a)
        return mandatory(insn) == PREFIX_66 && insn->modrm < 0xc0 ? &movntdqa : NULL;
    if (insn->map != INSN_MAP_0F)
        return NULL;
    for (unsigned i = 0; i < sizeof(moves) / sizeof(moves[0]); i++) {
        const struct vector_move *move = &moves[i];

        if (move->opcode != insn->opcode || move->prefix != mandatory(insn))
            continue;
        if (insn->modrm >= 0xc0 && !(move->flags & GENERAL))
            return NULL;
        if (of_256_bits(insn) && move->size != 16)
            return NULL;
        return vex && (move->flags & (MERGE | HIGH)) && (move->flags & LOAD) ? NULL : move;
    }
    return NULL;
}

/* What forbids the instruction altogether. */
static enum insn_result check(struct exec *exec)
{
    const struct insn_cpu *cpu = exec->cpu;

    if (exec->insn->encoding == INSN_VEX) {
        if (real_segments(cpu) || !cpu->avx)
            return raise(exec, VECTOR_UD);
    } else if ((cpu->cr0 & CR0_EM) || !(cpu->cr4 & CR4_OSFXSR)) {
        return raise(exec, VECTOR_UD);
    }
    return cpu->cr0 & CR0_TS ? raise(exec, VECTOR_NM) : INSN_OK;
}

static enum insn_vector part_of(const struct exec *exec)
{
    return exec->insn->encoding == INSN_VEX ? INSN_VECTOR_AVX : INSN_VECTOR_SSE;
}

static enum insn_result with_register(struct exec *exec, const struct vector_move *move,
                                      unsigned reg, unsigned size, uint64_t *value)
{
    unsigned general = modrm_rm(exec->insn);
    enum insn_vector part = part_of(exec);

    if (move->flags & LOAD) {
        value[0] = read_gpr(exec, general, size);
        value[1] = 0;
    }
    if (!exec->ops->vector(exec->context, reg, value, move->flags & LOAD, part))
        return INSN_UNSUPPORTED;
    if (move->flags & STORE)
        stage_gpr(exec, general, size, value[0]);
    return INSN_OK;
}

static enum insn_result with_memory(struct exec *exec, const struct vector_move *move, unsigned reg,
                                    unsigned size, uint64_t *value)
{
    enum insn_vector part = part_of(exec);
    bool store = move->flags & STORE;
    uint64_t loaded[2] = {0, 0}, linear;
    enum insn_result result = operand_address(exec, size, store, &linear);
    unsigned half = move->flags & HIGH ? 1 : 0;

    if (!result && (move->flags & ALIGNED) && (linear & (size - 1)))
        return raise_code(exec, VECTOR_GP, 0);
    /* What the log holds need not be had again. */
    if (!result && (store ? !exec->replay->count : move->flags & (MERGE | HIGH)) &&
        !exec->ops->vector(exec->context, reg, value, false, part))
        return INSN_UNSUPPORTED;
    if (result)
        return result;
    if (store)
        return write_memory(exec, linear, &value[half], size, 0);
    result = read_memory(exec, linear, loaded, size, 0);
    if (result)
        return result;
    if (move->flags & (MERGE | HIGH)) {
        value[half] = loaded[0];
    } else {
        value[0] = loaded[0];
        value[1] = loaded[1];
    }
    return exec->ops->vector(exec->context, reg, value, true, part) ? INSN_OK : INSN_UNSUPPORTED;
}

/*
 * 32 bytes are two accesses. What a store has still to write is in the log, so that the register
 * need not be had again once the first half has been written.
 */
static enum insn_result store_256(struct exec *exec, unsigned reg, uint64_t linear)
{
    uint64_t low[2] = {0, 0}, high[2] = {0, 0};
    bool fresh = !exec->replay->count;
    enum insn_result result;

    if (fresh && !(exec->ops->vector(exec->context, reg, low, false, INSN_VECTOR_AVX) &&
                   exec->ops->vector(exec->context, reg, high, false, INSN_VECTOR_HIGH)))
        return INSN_UNSUPPORTED;
    result = log_value(exec, reg, high, sizeof(high));
    if (!result)
        result = probe_write(exec, linear + 16, 16); /* faults before anything is written */
    if (!result)
        result = write_memory(exec, linear, low, 16, 0);
    return result ? result : write_memory(exec, linear + 16, high, 16, 0);
}

static enum insn_result load_256(struct exec *exec, unsigned reg, uint64_t linear)
{
    uint64_t low[2], high[2];
    enum insn_result result = read_memory(exec, linear, low, 16, 0);

    if (!result)
        result = read_memory(exec, linear + 16, high, 16, 0);
    if (result)
        return result;
    return exec->ops->vector(exec->context, reg, low, true, INSN_VECTOR_AVX) &&
                   exec->ops->vector(exec->context, reg, high, true, INSN_VECTOR_HIGH)
               ? INSN_OK
               : INSN_UNSUPPORTED;
}

static enum insn_result with_32_bytes(struct exec *exec, const struct vector_move *move,
                                      unsigned reg)
{
    bool store = move->flags & STORE;
    uint64_t linear;
    enum insn_result result = operand_address(exec, 32, store, &linear);

    if (result)
        return result;
    if ((move->flags & ALIGNED) && (linear & 31))
        return raise_code(exec, VECTOR_GP, 0);
    return store ? store_256(exec, reg, linear) : load_256(exec, reg, linear);
}

/*
 * What is nothing where the processor lacks a feature, or has it off: PREFETCH of a register (#UD
 * on AMD's processors), RDSSP without shadow stacks. False: neither.
 */
static bool execute_hint(struct exec *exec, enum insn_result *result)
{
    const struct insn *insn = exec->insn;

    if (insn->encoding != INSN_LEGACY || insn->map != INSN_MAP_0F || insn->modrm < 0xc0)
        return false;
    if (insn->opcode == 0x0d)
        *result = exec->cpu->amd ? raise(exec, VECTOR_UD) : INSN_OK;
    else if (insn->opcode == 0x1e && !(exec->cpu->cr4 & CR4_CET))
        *result = INSN_OK;
    else
        return false;
    return true;
}

/* All that has no name. */
enum insn_result execute_vector(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    const struct vector_move *move = find(insn);
    uint64_t value[2] = {0, 0};
    enum insn_result result;
    unsigned reg, size;

    if (execute_bmi(exec, &result) || execute_x87(exec, &result) || execute_hint(exec, &result) ||
        execute_xsave(exec, &result) || execute_sse(exec, &result) || execute_mmx(exec, &result))
        return result;
    if (!move || !exec->ops->vector)
        return INSN_UNSUPPORTED;
    result = check(exec);
    if (result)
        return result;
    reg = modrm_reg(insn);
    size = move->flags & GENERAL && insn->rex & 8 ? 8 : move->size;
    if (insn->modrm >= 0xc0)
        return with_register(exec, move, reg, size, value);
    if (of_256_bits(insn))
        return with_32_bytes(exec, move, reg);
    return with_memory(exec, move, reg, size, value);
}
