/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * BMI1 and BMI2: operations on general registers with a VEX prefix. The decoder gives them no name,
 * so they are found by map, opcode and mandatory prefix (Intel SDM, "Instruction Set Reference",
 * the instructions' own pages). Flags that are undefined there stay as they were.
 */
#include "insn/exec.h"

enum { PP_NONE, PP_66, PP_F3, PP_F2 };
enum { GROUP_17 = 0xf3 };

struct bmi {
    const struct insn *insn;
    unsigned size, reg, other; /* ModRM.reg, VEX.vvvv */
    uint64_t source;           /* ModRM.rm */
};

/* The flags of a result, and CF. */
static uint64_t result_flags(uint64_t result, unsigned size, bool carry)
{
    return (result ? 0 : FLAG_ZF) | (result & sign_of(size) ? FLAG_SF : 0) | (carry ? FLAG_CF : 0);
}

enum { FLAGS_BMI = FLAG_CF | FLAG_ZF | FLAG_SF | FLAG_OF };

static void stage_result(struct exec *exec, const struct bmi *bmi, unsigned reg, uint64_t result,
                         bool carry)
{
    result &= mask_of(bmi->size);
    stage_gpr(exec, reg, bmi->size, result);
    stage_flags(exec, FLAGS_BMI, result_flags(result, bmi->size, carry));
}

/* The bits of value that mask selects, moved together; or spread out to where mask has bits. */
static uint64_t move_bits(uint64_t value, uint64_t mask, bool spread)
{
    uint64_t result = 0;

    for (unsigned i = 0; mask; mask &= mask - 1, i++) {
        unsigned at = (unsigned)__builtin_ctzll(mask);

        if (spread)
            result |= (value >> i & 1) << at;
        else
            result |= (value >> at & 1) << i;
    }
    return result;
}

/* BLSR, BLSMSK, BLSI: the destination is VEX.vvvv. */
static enum insn_result lowest_bit(struct exec *exec, const struct bmi *bmi)
{
    uint64_t source = bmi->source;
    bool none = source == 0;

    switch (bmi->insn->modrm >> 3 & 7) {
    case 1:
        stage_result(exec, bmi, bmi->other, (source - 1) & source, none);
        return INSN_OK;
    case 2:
        stage_result(exec, bmi, bmi->other, (source - 1) ^ source, none);
        return INSN_OK;
    case 3:
        stage_result(exec, bmi, bmi->other, (0 - source) & source, !none);
        return INSN_OK;
    default:
        return raise(exec, VECTOR_UD);
    }
}

static void extract(struct exec *exec, const struct bmi *bmi, uint64_t control)
{
    unsigned start = control & 0xff, length = control >> 8 & 0xff;
    uint64_t result = start < 64 ? bmi->source >> start : 0;

    if (length < 64)
        result &= (1ull << length) - 1;
    stage_gpr(exec, bmi->reg, bmi->size, result);
    stage_flags(exec, FLAG_CF | FLAG_OF | FLAG_ZF, result ? 0 : FLAG_ZF);
}

static void zero_high(struct exec *exec, const struct bmi *bmi, uint64_t index)
{
    unsigned kept = index & 0xff;
    bool all = kept >= bits_of(bmi->size);

    stage_result(exec, bmi, bmi->reg, all ? bmi->source : bmi->source & ((1ull << kept) - 1), all);
}

/* MULX: the low half first, so that the high one wins if both go to the same register. */
static void multiply(struct exec *exec, const struct bmi *bmi)
{
    unsigned __int128 product = (unsigned __int128)read_gpr(exec, RDX, bmi->size) * bmi->source;

    stage_gpr(exec, bmi->other, bmi->size, (uint64_t)product);
    stage_gpr(exec, bmi->reg, bmi->size, (uint64_t)(product >> bits_of(bmi->size)));
}

/* SHLX, SARX, SHRX. */
static void shift(struct exec *exec, const struct bmi *bmi, unsigned prefix, uint64_t other)
{
    unsigned count = other & (bits_of(bmi->size) - 1);
    uint64_t result = bmi->source;

    if (prefix == PP_66)
        result <<= count;
    else if (prefix == PP_F2)
        result >>= count;
    else
        result = (uint64_t)((int64_t)sign_extend(result, bmi->size) >> count);
    stage_gpr(exec, bmi->reg, bmi->size, result);
}

static void rotate(struct exec *exec, const struct bmi *bmi)
{
    unsigned bits = bits_of(bmi->size), count = bmi->insn->imm & (bits - 1);
    uint64_t value = bmi->source;

    if (count)
        value = value >> count | value << (bits - count);
    stage_gpr(exec, bmi->reg, bmi->size, value);
}

static bool is_bmi(const struct insn *insn, unsigned prefix)
{
    if (insn->encoding != INSN_VEX)
        return false;
    if (insn->map == INSN_MAP_0F3A)
        return insn->opcode == 0xf0 && prefix == PP_F2;
    if (insn->map != INSN_MAP_0F38)
        return false;
    switch (insn->opcode) {
    case 0xf2:
    case GROUP_17:
        return prefix == PP_NONE;
    case 0xf5:
        return prefix != PP_66;
    case 0xf6:
        return prefix == PP_F2;
    default:
        return insn->opcode == 0xf7;
    }
}

static enum insn_result compute(struct exec *exec, const struct bmi *bmi, unsigned prefix)
{
    uint64_t other = read_gpr(exec, bmi->other, bmi->size);

    if (bmi->insn->map == INSN_MAP_0F3A) {
        rotate(exec, bmi);
        return INSN_OK;
    }
    switch (bmi->insn->opcode) {
    case 0xf2: /* ANDN */
        stage_result(exec, bmi, bmi->reg, ~other & bmi->source, false);
        break;
    case GROUP_17:
        return lowest_bit(exec, bmi);
    case 0xf5: /* BZHI, PEXT, PDEP */
        if (prefix == PP_NONE)
            zero_high(exec, bmi, other);
        else
            stage_gpr(exec, bmi->reg, bmi->size, move_bits(other, bmi->source, prefix == PP_F2));
        break;
    case 0xf6:
        multiply(exec, bmi);
        break;
    default: /* BEXTR and shifts */
        if (prefix == PP_NONE)
            extract(exec, bmi, other);
        else
            shift(exec, bmi, prefix, other);
        break;
    }
    return INSN_OK;
}

bool execute_bmi(struct exec *exec, enum insn_result *result)
{
    const struct insn *insn = exec->insn;
    unsigned prefix = insn->imm2 & 3, registers = insn->mode == INSN_64 ? 15 : 7;
    struct bmi bmi = {.insn = insn, .size = insn->operand_size};
    uint64_t linear;

    if (!is_bmi(insn, prefix))
        return false;
    bmi.reg = modrm_reg(insn);
    bmi.other = ~((unsigned)insn->imm2 >> 3) & registers;
    *result = INSN_OK;
    /* VEX.L; RORX has no second source. */
    if (real_segments(exec->cpu) || (insn->imm2 & 4) ||
        (insn->map == INSN_MAP_0F3A && (insn->imm2 & 0x78) != 0x78)) {
        *result = raise(exec, VECTOR_UD);
        return true;
    }
    if (insn->modrm >= 0xc0) {
        bmi.source = read_gpr(exec, modrm_rm(insn), bmi.size);
    } else {
        *result = operand_address(exec, bmi.size, false, &linear);
        if (*result == INSN_OK)
            *result = read_memory(exec, linear, &bmi.source, bmi.size, 0);
    }
    if (*result == INSN_OK)
        *result = compute(exec, &bmi, prefix);
    return true;
}
