/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Moves, conversions, conditional moves, bit scans, and CMPXCHG8B and 16B.
 */
#include "insn/exec.h"

static uint64_t swap_bytes(uint64_t value, unsigned size)
{
    return __builtin_bswap64(value) >> (64 - bits_of(size));
}

enum insn_result execute_move(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    enum insn_result result;
    uint64_t value;

    if (insn->op == INSN_OP_LEA)
        return write_operand(exec, 0, insn_offset(insn, exec->cpu));
    result = read_operand(exec, 1, &value);
    if (result)
        return result;
    if (insn->op == INSN_OP_MOVSX)
        value = sign_extend(value, insn->operand[1].size);
    else if (insn->op == INSN_OP_MOVBE)
        value = swap_bytes(value, insn->operand[1].size);
    return write_operand(exec, 0, value);
}

/* XLAT: AL is the unsigned index of a byte at DS:rBX. */
enum insn_result execute_xlat(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    unsigned segment = insn->prefixes & INSN_PREFIX_SEGMENT ? insn->mem.segment : INSN_DS;
    uint64_t offset = exec->cpu->gpr[RBX] + (exec->cpu->gpr[RAX] & 0xff), linear;
    enum insn_result result;
    uint8_t value;

    result =
        segment_address(exec, segment, offset & mask_of(insn->address_size), 1, false, &linear);
    if (!result)
        result = read_memory(exec, linear, &value, 1, 0);
    if (!result)
        stage_gpr(exec, RAX, 1, value);
    return result;
}

/* CBW, CWDE, CDQE and CWD, CDQ, CQO. */
enum insn_result execute_convert(struct exec *exec)
{
    unsigned size = exec->insn->operand_size;
    uint64_t value = read_gpr(exec, RAX, size);

    if (exec->insn->op == INSN_OP_CBW)
        stage_gpr(exec, RAX, size, sign_extend(value, size / 2));
    else
        stage_gpr(exec, RDX, size, value & sign_of(size) ? ~0ull : 0);
    return INSN_OK;
}

/* CMOVcc reads its source, and in 64-bit mode clears the upper half, whatever the condition. */
enum insn_result execute_conditional(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    bool holds = condition(exec->cpu->rflags, insn->opcode);
    enum insn_result result;
    uint64_t value;

    if (insn->op == INSN_OP_SETCC)
        return write_operand(exec, 0, holds);
    result = read_operand(exec, 1, &value);
    if (result)
        return result;
    return holds ? write_operand(exec, 0, value)
                 : write_operand(exec, 0, exec->cpu->gpr[insn->operand[0].reg]);
}

static uint32_t crc32c(uint32_t crc, uint64_t data, unsigned bits)
{
    for (unsigned i = 0; i < bits; i++) {
        uint32_t bit = (crc ^ (uint32_t)(data >> i)) & 1;

        crc = crc >> 1 ^ (bit ? 0x82f63b78 : 0);
    }
    return crc;
}

static unsigned count_ones(uint64_t value)
{
    unsigned count = 0;

    for (; value; value &= value - 1)
        count++;
    return count;
}

/*
 * Bit scans and counts. BSF and BSR of 0 set ZF and leave the destination as it was, which AMD's
 * manual promises and Intel's processors do. Flags other than ZF are undefined after BSF and BSR,
 * other than ZF and CF after LZCNT and TZCNT: unchanged here.
 */
enum insn_result execute_scan(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    unsigned size = insn->operand[1].size;
    enum insn_result result;
    uint64_t value, flags = 0, mask = FLAG_ZF;

    result = read_operand(exec, 1, &value);
    if (result)
        return result;
    switch (insn->op) {
    case INSN_OP_CRC32:
        return write_operand(
            exec, 0, crc32c((uint32_t)exec->cpu->gpr[insn->operand[0].reg], value, bits_of(size)));
    case INSN_OP_POPCNT:
        stage_flags(exec, FLAGS_STATUS, value ? 0 : FLAG_ZF);
        return write_operand(exec, 0, count_ones(value));
    case INSN_OP_BSF:
    case INSN_OP_BSR:
        stage_flags(exec, FLAG_ZF, value ? 0 : FLAG_ZF);
        if (!value)
            return INSN_OK;
        return write_operand(exec, 0,
                             insn->op == INSN_OP_BSF ? (unsigned)__builtin_ctzll(value)
                                                     : 63u - (unsigned)__builtin_clzll(value));
    case INSN_OP_TZCNT:
        value = value ? (unsigned)__builtin_ctzll(value) : bits_of(size);
        break;
    default:
        value = value ? (unsigned)__builtin_clzll(value) + bits_of(size) - 64 : bits_of(size);
        break;
    }
    if (value == bits_of(size))
        flags |= FLAG_CF;
    if (value == 0)
        flags |= FLAG_ZF;
    stage_flags(exec, mask | FLAG_CF, flags);
    return write_operand(exec, 0, value);
}

/* rDX:rAX is compared, rCX:rBX stored. Memory is written either way. */
enum insn_result execute_cmpxchg8b(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    unsigned size = insn->operand[0].size, half = size / 2;
    bool locked = insn->prefixes & INSN_PREFIX_LOCK;
    unsigned flags = INSN_ACCESS_MODIFY | (locked ? INSN_ACCESS_LOCKED : 0);
    uint64_t old[2] = {0, 0}, expected[2], new[2] = {0, 0}, linear;
    enum insn_result result;
    bool equal;

    if (locked && !exec->ops->compare_exchange)
        return INSN_UNSUPPORTED;
    result = operand_address(exec, size, true, &linear);
    if (!result && size == 16 && (linear & 15))
        return raise_code(exec, VECTOR_GP, 0);
    if (!result)
        result = read_memory(exec, linear, old, size, flags);
    if (result)
        return result;
    expected[0] = read_gpr(exec, RAX, half) | (half == 4 ? exec->cpu->gpr[RDX] << 32 : 0);
    expected[1] = half == 4 ? 0 : exec->cpu->gpr[RDX];
    equal = old[0] == expected[0] && old[1] == expected[1];
    new[0] = read_gpr(exec, RBX, half) | (half == 4 ? exec->cpu->gpr[RCX] << 32 : 0);
    new[1] = half == 4 ? 0 : exec->cpu->gpr[RCX];
    if (!equal) {
        new[0] = old[0];
        new[1] = old[1];
        stage_gpr(exec, RAX, half, old[0]);
        stage_gpr(exec, RDX, half, half == 4 ? old[0] >> 32 : old[1]);
    }
    stage_flags(exec, FLAG_ZF, equal ? FLAG_ZF : 0);
    if (!locked)
        return write_memory(exec, linear, new, size, 0);
    return compare_exchange(exec, linear, old, new, size);
}
