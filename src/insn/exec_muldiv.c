/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Multiplication, division and decimal adjustment.
 */
#include "insn/exec.h"

struct wide {
    uint64_t low;
    uint64_t high;
};

/* The double-width product of operands of a size; low and high are each that size. */
static struct wide multiply(uint64_t a, uint64_t b, unsigned size, bool is_signed)
{
    struct wide product;

    if (size == 8) {
        if (is_signed) {
            __int128 whole = (__int128)(int64_t)a * (int64_t)b;

            product.low = (uint64_t)whole;
            product.high = (uint64_t)(whole >> 64);
        } else {
            unsigned __int128 whole = (unsigned __int128)a * b;

            product.low = (uint64_t)whole;
            product.high = (uint64_t)(whole >> 64);
        }
        return product;
    }
    if (is_signed)
        product.low = sign_extend(a, size) * sign_extend(b, size);
    else
        product.low = a * b;
    product.high = product.low >> bits_of(size) & mask_of(size);
    product.low &= mask_of(size);
    return product;
}

/* CF and OF say that the upper half matters; the other flags are undefined: unchanged here. */
static void stage_multiply_flags(struct exec *exec, bool significant)
{
    stage_flags(exec, FLAG_CF | FLAG_OF, significant ? FLAG_CF | FLAG_OF : 0);
}

enum insn_result execute_multiply(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    bool is_signed = insn->op == INSN_OP_IMUL;
    unsigned size = insn->operand[0].size;
    enum insn_result result;
    struct wide product;
    uint64_t a, b;

    if (insn->operands > 1) { /* IMUL with two or three operands */
        result = read_operand(exec, 1, &a);
        if (!result)
            result = read_operand(exec, insn->operands == 3 ? 2 : 0, &b);
        if (result)
            return result;
        product = multiply(a & mask_of(size), b & mask_of(size), size, true);
        stage_multiply_flags(exec,
                             product.high != (product.low & sign_of(size) ? mask_of(size) : 0));
        return write_operand(exec, 0, product.low);
    }
    result = read_operand(exec, 0, &a);
    if (result)
        return result;
    product = multiply(a, read_gpr(exec, RAX, size), size, is_signed);
    if (is_signed)
        stage_multiply_flags(exec,
                             product.high != (product.low & sign_of(size) ? mask_of(size) : 0));
    else
        stage_multiply_flags(exec, product.high != 0);
    if (size == 1) {
        stage_gpr(exec, RAX, 2, product.low | product.high << 8);
        return INSN_OK;
    }
    stage_gpr(exec, RAX, size, product.low);
    stage_gpr(exec, RDX, size, product.high);
    return INSN_OK;
}

/* 128 by 64 bits; the caller has seen to it that the quotient fits. Not a library call. */
static struct wide divide_128(uint64_t high, uint64_t low, uint64_t divisor)
{
    struct wide out;

    __asm__("divq %4" : "=a"(out.low), "=d"(out.high) : "a"(low), "d"(high), "r"(divisor) : "cc");
    return out;
}

/* Unsigned division of a double-width dividend: low is the quotient, high the remainder. */
static bool divide(struct wide dividend, uint64_t divisor, unsigned size, struct wide *out)
{
    if (size < 8) {
        uint64_t whole = dividend.high << bits_of(size) | dividend.low;

        if (!divisor || whole / divisor > mask_of(size))
            return false;
        out->low = whole / divisor;
        out->high = whole % divisor;
        return true;
    }
    if (dividend.high >= divisor)
        return false;
    *out = divide_128(dividend.high, dividend.low, divisor);
    return true;
}

static struct wide negate(struct wide value, unsigned size)
{
    struct wide out;

    out.low = (0 - value.low) & mask_of(size);
    out.high = (0 - value.high - (value.low != 0)) & mask_of(size);
    return out;
}

/* IDIV truncates towards zero, and the remainder has the dividend's sign. */
static bool divide_signed(struct wide dividend, uint64_t divisor, unsigned size, struct wide *out)
{
    bool dividend_negative = dividend.high & sign_of(size);
    bool divisor_negative = divisor & sign_of(size);
    bool negative = dividend_negative != divisor_negative;

    if (dividend_negative)
        dividend = negate(dividend, size);
    if (divisor_negative)
        divisor = (0 - divisor) & mask_of(size);
    if (!divide(dividend, divisor, size, out))
        return false;
    if (out->low > sign_of(size) - (negative ? 0 : 1))
        return false;
    if (negative)
        out->low = 0 - out->low;
    if (dividend_negative)
        out->high = 0 - out->high;
    return true;
}

/* All status flags are undefined: unchanged here. */
enum insn_result execute_divide(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    unsigned size = insn->operand[0].size;
    struct wide dividend, out;
    enum insn_result result;
    uint64_t divisor;
    bool fits;

    result = read_operand(exec, 0, &divisor);
    if (result)
        return result;
    dividend.low = read_gpr(exec, RAX, size);
    dividend.high = size == 1 ? exec->cpu->gpr[RAX] >> 8 & 0xff : read_gpr(exec, RDX, size);
    fits = insn->op == INSN_OP_DIV ? divide(dividend, divisor, size, &out)
                                   : divide_signed(dividend, divisor, size, &out);
    if (!fits)
        return raise(exec, VECTOR_DE);
    if (size == 1) {
        stage_gpr(exec, RAX, 2, (out.low & 0xff) | (out.high & 0xff) << 8);
        return INSN_OK;
    }
    stage_gpr(exec, RAX, size, out.low);
    stage_gpr(exec, RDX, size, out.high);
    return INSN_OK;
}

/* DAA and DAS (Intel SDM, "DAA: Decimal Adjust AL After Addition"). */
static void decimal_adjust(struct exec *exec, bool subtraction)
{
    uint64_t flags = exec->cpu->rflags;
    unsigned old = exec->cpu->gpr[RAX] & 0xff, al = old;
    uint64_t set = 0;

    if ((old & 15) > 9 || (flags & FLAG_AF)) {
        al = subtraction ? al - 6 : al + 6;
        set |= FLAG_AF;
        if (subtraction && old < 6)
            set |= FLAG_CF;
    }
    if (old > 0x99 || (flags & FLAG_CF)) {
        al = subtraction ? al - 0x60 : al + 0x60;
        set |= FLAG_CF;
    }
    stage_gpr(exec, RAX, 1, al);
    stage_result_flags(exec, al & 0xff, 1, set);
}

/* AAA and AAS; the flags but AF and CF are undefined. */
static void ascii_adjust(struct exec *exec, bool subtraction)
{
    unsigned ax = exec->cpu->gpr[RAX] & 0xffff;
    bool adjust = (ax & 15) > 9 || (exec->cpu->rflags & FLAG_AF);

    if (adjust)
        ax = subtraction ? ax - 0x106 : ax + 0x106;
    stage_gpr(exec, RAX, 2, ax & 0xff0f);
    stage_flags(exec, FLAG_AF | FLAG_CF, adjust ? FLAG_AF | FLAG_CF : 0);
}

enum insn_result execute_bcd(struct exec *exec)
{
    unsigned al = exec->cpu->gpr[RAX] & 0xff, ah = exec->cpu->gpr[RAX] >> 8 & 0xff;
    unsigned base = exec->insn->imm & 0xff;

    switch (exec->insn->op) {
    case INSN_OP_DAA:
    case INSN_OP_DAS:
        decimal_adjust(exec, exec->insn->op == INSN_OP_DAS);
        return INSN_OK;
    case INSN_OP_AAA:
    case INSN_OP_AAS:
        ascii_adjust(exec, exec->insn->op == INSN_OP_AAS);
        return INSN_OK;
    case INSN_OP_AAM:
        if (!base)
            return raise(exec, VECTOR_DE);
        stage_gpr(exec, RAX, 2, al / base << 8 | al % base);
        stage_result_flags(exec, al % base, 1, 0);
        return INSN_OK;
    case INSN_OP_AAD:
        al = (al + ah * base) & 0xff;
        stage_gpr(exec, RAX, 2, al);
        stage_result_flags(exec, al, 1, 0);
        return INSN_OK;
    default: /* SALC: AL becomes all CF; undocumented, in every processor */
        stage_gpr(exec, RAX, 1, exec->cpu->rflags & FLAG_CF ? 0xff : 0);
        return INSN_OK;
    }
}
