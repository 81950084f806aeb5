/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Arithmetic, logic, shifts and bit tests: what a destination becomes, and the status flags (Intel
 * SDM, the instructions' "Flags Affected"). Flags that the manuals leave undefined come out as most
 * processors have them.
 */
#include "insn/exec.h"

/* CF is the carry out of the top bit, AF that out of bit 3, OF the carry into the top bit xor CF.
 */
static uint64_t add(struct exec *exec, uint64_t a, uint64_t b, unsigned carry, unsigned size)
{
    uint64_t result = (a + b + carry) & mask_of(size);
    uint64_t carries = (a & b) | ((a | b) & ~result);
    uint64_t flags = (a ^ b ^ result) & FLAG_AF;

    if (carries & sign_of(size))
        flags |= FLAG_CF;
    if ((a ^ result) & (b ^ result) & sign_of(size))
        flags |= FLAG_OF;
    stage_result_flags(exec, result, size, flags);
    return result;
}

static uint64_t subtract(struct exec *exec, uint64_t a, uint64_t b, unsigned borrow, unsigned size)
{
    uint64_t result = (a - b - borrow) & mask_of(size);
    uint64_t borrows = (~a & b) | ((~a | b) & result);
    uint64_t flags = (a ^ b ^ result) & FLAG_AF;

    if (borrows & sign_of(size))
        flags |= FLAG_CF;
    if ((a ^ b) & (a ^ result) & sign_of(size))
        flags |= FLAG_OF;
    stage_result_flags(exec, result, size, flags);
    return result;
}

static unsigned carry_of(const struct exec *exec)
{
    return exec->cpu->rflags & FLAG_CF;
}

static uint64_t compute_add(struct exec *exec, uint64_t a, uint64_t b, unsigned size)
{
    return add(exec, a, b & mask_of(size), 0, size);
}

static uint64_t compute_adc(struct exec *exec, uint64_t a, uint64_t b, unsigned size)
{
    return add(exec, a, b & mask_of(size), carry_of(exec), size);
}

static uint64_t compute_sub(struct exec *exec, uint64_t a, uint64_t b, unsigned size)
{
    return subtract(exec, a, b & mask_of(size), 0, size);
}

static uint64_t compute_sbb(struct exec *exec, uint64_t a, uint64_t b, unsigned size)
{
    return subtract(exec, a, b & mask_of(size), carry_of(exec), size);
}

static uint64_t compute_and(struct exec *exec, uint64_t a, uint64_t b, unsigned size)
{
    stage_result_flags(exec, a & b, size, 0);
    return a & b;
}

static uint64_t compute_or(struct exec *exec, uint64_t a, uint64_t b, unsigned size)
{
    stage_result_flags(exec, a | b, size, 0);
    return a | b;
}

static uint64_t compute_xor(struct exec *exec, uint64_t a, uint64_t b, unsigned size)
{
    stage_result_flags(exec, a ^ b, size, 0);
    return a ^ b;
}

static uint64_t compute_not(struct exec *exec, uint64_t a, uint64_t b, unsigned size)
{
    (void)exec;
    (void)b;
    (void)size;
    return ~a;
}

static uint64_t compute_neg(struct exec *exec, uint64_t a, uint64_t b, unsigned size)
{
    (void)b;
    return subtract(exec, 0, a, 0, size);
}

/* INC and DEC leave CF alone. */
static uint64_t compute_inc(struct exec *exec, uint64_t a, uint64_t b, unsigned size)
{
    uint64_t result = add(exec, a, 1, 0, size);

    (void)b;
    stage_flags(exec, FLAG_CF, exec->cpu->rflags);
    return result;
}

static uint64_t compute_dec(struct exec *exec, uint64_t a, uint64_t b, unsigned size)
{
    uint64_t result = subtract(exec, a, 1, 0, size);

    (void)b;
    stage_flags(exec, FLAG_CF, exec->cpu->rflags);
    return result;
}

static void stage_source(struct exec *exec, uint64_t value)
{
    /* Operand 1 of XCHG and XADD is always a register. */
    (void)write_operand(exec, 1, value);
}

static uint64_t compute_xchg(struct exec *exec, uint64_t a, uint64_t b, unsigned size)
{
    (void)size;
    stage_source(exec, a);
    return b;
}

static uint64_t compute_xadd(struct exec *exec, uint64_t a, uint64_t b, unsigned size)
{
    stage_source(exec, a);
    return add(exec, a, b, 0, size);
}

/* The destination is written either way; the accumulator only if the comparison fails. */
static uint64_t compute_cmpxchg(struct exec *exec, uint64_t a, uint64_t b, unsigned size)
{
    uint64_t accumulator = read_gpr(exec, RAX, size);

    subtract(exec, accumulator, a, 0, size);
    if (accumulator == a)
        return b;
    stage_gpr(exec, RAX, size, a);
    return a;
}

/* ADCX and ADOX: an addition whose carry is CF or OF, the other flags unchanged. */
static uint64_t compute_adx(struct exec *exec, uint64_t a, uint64_t b, unsigned size)
{
    uint64_t flag = exec->insn->op == INSN_OP_ADCX ? FLAG_CF : FLAG_OF;
    uint64_t carry = exec->cpu->rflags & flag ? 1 : 0;
    uint64_t result = (a + b + carry) & mask_of(size);
    uint64_t carries = (a & b) | ((a | b) & ~result);

    stage_flags(exec, flag, carries & sign_of(size) ? flag : 0);
    return result;
}

static uint64_t compute_bit(struct exec *exec, uint64_t a, uint64_t b, unsigned size)
{
    uint64_t bit = 1ull << (b & (bits_of(size) - 1));

    stage_flags(exec, FLAG_CF, a & bit ? FLAG_CF : 0);
    switch (exec->insn->op) {
    case INSN_OP_BTS:
        return a | bit;
    case INSN_OP_BTR:
        return a & ~bit;
    default:
        return a ^ bit;
    }
}

static uint64_t compute_bswap(struct exec *exec, uint64_t a, uint64_t b, unsigned size)
{
    (void)exec;
    (void)b;
    /* Of 16 bits undefined; processors clear them. */
    return size == 8 ? __builtin_bswap64(a) : size == 4 ? __builtin_bswap32((uint32_t)a) : 0;
}

/* OF is the change of sign that the last single-bit step made. */
static void stage_shift_flags(struct exec *exec, uint64_t result, unsigned size, bool carry,
                              bool overflow)
{
    uint64_t flags = (carry ? FLAG_CF : 0) | (overflow ? FLAG_OF : 0);

    stage_result_flags(exec, result, size, flags);
}

static unsigned shift_count(uint64_t b, unsigned size)
{
    return (unsigned)b & (size == 8 ? 63 : 31);
}

static uint64_t compute_shl(struct exec *exec, uint64_t a, uint64_t b, unsigned size)
{
    unsigned count = shift_count(b, size);
    uint64_t last, result;

    if (!count)
        return a;
    last = a << (count - 1);
    result = (last << 1) & mask_of(size);
    stage_shift_flags(exec, result, size, last & sign_of(size), (last ^ result) & sign_of(size));
    return result;
}

static uint64_t compute_shr(struct exec *exec, uint64_t a, uint64_t b, unsigned size)
{
    unsigned count = shift_count(b, size);
    uint64_t last;

    if (!count)
        return a;
    last = a >> (count - 1);
    stage_shift_flags(exec, last >> 1, size, last & 1, last & sign_of(size));
    return last >> 1;
}

static uint64_t compute_sar(struct exec *exec, uint64_t a, uint64_t b, unsigned size)
{
    unsigned count = shift_count(b, size);
    int64_t last;

    if (!count)
        return a;
    last = (int64_t)sign_extend(a, size) >> (count - 1);
    stage_shift_flags(exec, (uint64_t)(last >> 1), size, last & 1, false);
    return (uint64_t)(last >> 1) & mask_of(size);
}

/* Rotates change CF and OF alone. */
static void stage_rotate_flags(struct exec *exec, bool carry, bool overflow)
{
    stage_flags(exec, FLAG_CF | FLAG_OF, (carry ? FLAG_CF : 0) | (overflow ? FLAG_OF : 0));
}

static uint64_t compute_rol(struct exec *exec, uint64_t a, uint64_t b, unsigned size)
{
    unsigned masked = shift_count(b, size), count = masked & (bits_of(size) - 1);
    uint64_t result = a;

    if (!masked)
        return a;
    if (count)
        result = ((a << count) | (a >> (bits_of(size) - count))) & mask_of(size);
    stage_rotate_flags(exec, result & 1, !(result & 1) != !(result & sign_of(size)));
    return result;
}

static uint64_t compute_ror(struct exec *exec, uint64_t a, uint64_t b, unsigned size)
{
    unsigned masked = shift_count(b, size), count = masked & (bits_of(size) - 1);
    uint64_t result = a;

    if (!masked)
        return a;
    if (count)
        result = ((a >> count) | (a << (bits_of(size) - count))) & mask_of(size);
    stage_rotate_flags(exec, result & sign_of(size), (result ^ result << 1) & sign_of(size));
    return result;
}

/* Through carry: one bit wider than the operand, so at most 64 single steps. */
static uint64_t compute_rcl(struct exec *exec, uint64_t a, uint64_t b, unsigned size)
{
    unsigned count = shift_count(b, size) % (bits_of(size) + 1);
    bool carry = carry_of(exec);

    if (!shift_count(b, size))
        return a;
    for (; count; count--) {
        bool top = a & sign_of(size);

        a = ((a << 1) | carry) & mask_of(size);
        carry = top;
    }
    stage_rotate_flags(exec, carry, carry != !!(a & sign_of(size)));
    return a;
}

static uint64_t compute_rcr(struct exec *exec, uint64_t a, uint64_t b, unsigned size)
{
    unsigned count = shift_count(b, size) % (bits_of(size) + 1);
    bool carry = carry_of(exec);

    if (!shift_count(b, size))
        return a;
    for (; count; count--) {
        bool low = a & 1;

        a = a >> 1 | (carry ? sign_of(size) : 0);
        carry = low;
    }
    stage_rotate_flags(exec, carry, (a ^ a << 1) & sign_of(size));
    return a;
}

/* SHLD and SHRD: the count is operand 2. Of 16-bit operands and counts above 16 all is undefined.
 */
static unsigned double_count(const struct exec *exec, unsigned size)
{
    const struct insn_operand *operand = &exec->insn->operand[2];
    uint64_t count = operand->kind == INSN_IMM ? exec->insn->imm : exec->cpu->gpr[RCX];

    return shift_count(count, size);
}

static uint64_t compute_shld(struct exec *exec, uint64_t a, uint64_t b, unsigned size)
{
    unsigned count = double_count(exec, size), bits = bits_of(size);
    uint64_t last = a, result = a;

    if (!count)
        return a;
    for (; count; count--) {
        last = result;
        result = ((result << 1) | (b >> (bits - 1))) & mask_of(size);
        /* A 16-bit shift by more than 16 goes on with the destination's bits. */
        b = ((b << 1) | (last >> (bits - 1))) & mask_of(size);
    }
    stage_shift_flags(exec, result, size, last & sign_of(size), (last ^ result) & sign_of(size));
    return result;
}

static uint64_t compute_shrd(struct exec *exec, uint64_t a, uint64_t b, unsigned size)
{
    unsigned count = double_count(exec, size), bits = bits_of(size);
    uint64_t last = a, result = a;

    if (!count)
        return a;
    for (; count; count--) {
        last = result;
        result = result >> 1 | (b & 1) << (bits - 1);
        b = b >> 1 | (last & 1) << (bits - 1);
    }
    stage_shift_flags(exec, result, size, last & 1, (last ^ result) & sign_of(size));
    return result;
}

compute_fn compute_of(unsigned op)
{
    static const compute_fn functions[INSN_OP_COUNT] = {
        [INSN_OP_ADD] = compute_add,         [INSN_OP_OR] = compute_or,
        [INSN_OP_ADC] = compute_adc,         [INSN_OP_SBB] = compute_sbb,
        [INSN_OP_AND] = compute_and,         [INSN_OP_SUB] = compute_sub,
        [INSN_OP_XOR] = compute_xor,         [INSN_OP_CMP] = compute_sub,
        [INSN_OP_TEST] = compute_and,        [INSN_OP_NOT] = compute_not,
        [INSN_OP_NEG] = compute_neg,         [INSN_OP_INC] = compute_inc,
        [INSN_OP_DEC] = compute_dec,         [INSN_OP_ROL] = compute_rol,
        [INSN_OP_ROR] = compute_ror,         [INSN_OP_RCL] = compute_rcl,
        [INSN_OP_RCR] = compute_rcr,         [INSN_OP_SHL] = compute_shl,
        [INSN_OP_SHR] = compute_shr,         [INSN_OP_SAR] = compute_sar,
        [INSN_OP_SHLD] = compute_shld,       [INSN_OP_SHRD] = compute_shrd,
        [INSN_OP_XCHG] = compute_xchg,       [INSN_OP_XADD] = compute_xadd,
        [INSN_OP_CMPXCHG] = compute_cmpxchg, [INSN_OP_BSWAP] = compute_bswap,
        [INSN_OP_BT] = compute_bit,          [INSN_OP_BTS] = compute_bit,
        [INSN_OP_BTR] = compute_bit,         [INSN_OP_BTC] = compute_bit,
        [INSN_OP_ADCX] = compute_adx,        [INSN_OP_ADOX] = compute_adx,
    };

    return functions[op];
}
