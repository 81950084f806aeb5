/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Integers in vector registers, and what else moves their parts about: SSE2 without floating point.
 * Legacy encodings, of 128 bits (Intel SDM, "Instruction Set Reference", the instructions' own
 * pages).
 */
#include "insn/exec.h"

enum { LANES = 16, PREFIX_NONE = 1, PREFIX_66 = 2, PREFIX_F3 = 4, PREFIX_F2 = 8 };

enum kind {
    /* each element by itself */
    ADD,
    ADD_SIGNED,
    ADD_UNSIGNED,
    SUB,
    SUB_SIGNED,
    SUB_UNSIGNED,
    EQUAL,
    GREATER,
    MIN_SIGNED,
    MIN_UNSIGNED,
    MAX_SIGNED,
    MAX_UNSIGNED,
    AVERAGE,
    MULTIPLY_LOW,
    MULTIPLY_HIGH,
    MULTIPLY_HIGH_UNSIGNED,
    /* by a count in the source, or an immediate one */
    SHIFT_RIGHT,
    SHIFT_ARITHMETIC,
    SHIFT_LEFT,
    SHIFT_GROUP,
    /* all of it */
    MULTIPLY_DWORDS,
    MULTIPLY_ADD,
    SUM_OF_DIFFERENCES,
    UNPACK_LOW,
    UNPACK_HIGH,
    PACK_SIGNED,
    PACK_UNSIGNED,
    SHUFFLE,
    SHUFFLE_LOW,
    SHUFFLE_HIGH,
    SHUFFLE_TWO,
    SIGNS,
    MOVE_LOW,
    MOVE_LOW_BACK,
    MOVE_QUAD,
    MOVE_QUAD_BACK,
    HIGH_TO_LOW,
    LOW_TO_HIGH,
};

enum { ANY, REGISTER }; /* which operands exist; memory's are moves, which others do */

struct packed_form {
    uint8_t opcode, prefixes, kind, size, where;
};

static const struct packed_form forms[] = {
    {0xfc, PREFIX_66, ADD, 1, ANY},
    {0xfd, PREFIX_66, ADD, 2, ANY},
    {0xfe, PREFIX_66, ADD, 4, ANY},
    {0xd4, PREFIX_66, ADD, 8, ANY},
    {0xec, PREFIX_66, ADD_SIGNED, 1, ANY},
    {0xed, PREFIX_66, ADD_SIGNED, 2, ANY},
    {0xdc, PREFIX_66, ADD_UNSIGNED, 1, ANY},
    {0xdd, PREFIX_66, ADD_UNSIGNED, 2, ANY},
    {0xf8, PREFIX_66, SUB, 1, ANY},
    {0xf9, PREFIX_66, SUB, 2, ANY},
    {0xfa, PREFIX_66, SUB, 4, ANY},
    {0xfb, PREFIX_66, SUB, 8, ANY},
    {0xe8, PREFIX_66, SUB_SIGNED, 1, ANY},
    {0xe9, PREFIX_66, SUB_SIGNED, 2, ANY},
    {0xd8, PREFIX_66, SUB_UNSIGNED, 1, ANY},
    {0xd9, PREFIX_66, SUB_UNSIGNED, 2, ANY},
    {0x74, PREFIX_66, EQUAL, 1, ANY},
    {0x75, PREFIX_66, EQUAL, 2, ANY},
    {0x76, PREFIX_66, EQUAL, 4, ANY},
    {0x64, PREFIX_66, GREATER, 1, ANY},
    {0x65, PREFIX_66, GREATER, 2, ANY},
    {0x66, PREFIX_66, GREATER, 4, ANY},
    {0xea, PREFIX_66, MIN_SIGNED, 2, ANY},
    {0xda, PREFIX_66, MIN_UNSIGNED, 1, ANY},
    {0xee, PREFIX_66, MAX_SIGNED, 2, ANY},
    {0xde, PREFIX_66, MAX_UNSIGNED, 1, ANY},
    {0xe0, PREFIX_66, AVERAGE, 1, ANY},
    {0xe3, PREFIX_66, AVERAGE, 2, ANY},
    {0xd5, PREFIX_66, MULTIPLY_LOW, 2, ANY},
    {0xe5, PREFIX_66, MULTIPLY_HIGH, 2, ANY},
    {0xe4, PREFIX_66, MULTIPLY_HIGH_UNSIGNED, 2, ANY},
    {0xd1, PREFIX_66, SHIFT_RIGHT, 2, ANY},
    {0xd2, PREFIX_66, SHIFT_RIGHT, 4, ANY},
    {0xd3, PREFIX_66, SHIFT_RIGHT, 8, ANY},
    {0xe1, PREFIX_66, SHIFT_ARITHMETIC, 2, ANY},
    {0xe2, PREFIX_66, SHIFT_ARITHMETIC, 4, ANY},
    {0xf1, PREFIX_66, SHIFT_LEFT, 2, ANY},
    {0xf2, PREFIX_66, SHIFT_LEFT, 4, ANY},
    {0xf3, PREFIX_66, SHIFT_LEFT, 8, ANY},
    {0x71, PREFIX_66, SHIFT_GROUP, 2, REGISTER},
    {0x72, PREFIX_66, SHIFT_GROUP, 4, REGISTER},
    {0x73, PREFIX_66, SHIFT_GROUP, 8, REGISTER},
    {0xf4, PREFIX_66, MULTIPLY_DWORDS, 8, ANY},
    {0xf5, PREFIX_66, MULTIPLY_ADD, 4, ANY},
    {0xf6, PREFIX_66, SUM_OF_DIFFERENCES, 8, ANY},
    {0x60, PREFIX_66, UNPACK_LOW, 1, ANY},
    {0x61, PREFIX_66, UNPACK_LOW, 2, ANY},
    {0x62, PREFIX_66, UNPACK_LOW, 4, ANY},
    {0x6c, PREFIX_66, UNPACK_LOW, 8, ANY},
    {0x68, PREFIX_66, UNPACK_HIGH, 1, ANY},
    {0x69, PREFIX_66, UNPACK_HIGH, 2, ANY},
    {0x6a, PREFIX_66, UNPACK_HIGH, 4, ANY},
    {0x6d, PREFIX_66, UNPACK_HIGH, 8, ANY},
    {0x14, PREFIX_NONE, UNPACK_LOW, 4, ANY},
    {0x14, PREFIX_66, UNPACK_LOW, 8, ANY},
    {0x15, PREFIX_NONE, UNPACK_HIGH, 4, ANY},
    {0x15, PREFIX_66, UNPACK_HIGH, 8, ANY},
    {0x63, PREFIX_66, PACK_SIGNED, 1, ANY},
    {0x6b, PREFIX_66, PACK_SIGNED, 2, ANY},
    {0x67, PREFIX_66, PACK_UNSIGNED, 1, ANY},
    {0x70, PREFIX_66, SHUFFLE, 4, ANY},
    {0x70, PREFIX_F2, SHUFFLE_LOW, 2, ANY},
    {0x70, PREFIX_F3, SHUFFLE_HIGH, 2, ANY},
    {0xc6, PREFIX_NONE, SHUFFLE_TWO, 4, ANY},
    {0xc6, PREFIX_66, SHUFFLE_TWO, 8, ANY},
    {0xd7, PREFIX_66, SIGNS, 1, REGISTER},
    {0x50, PREFIX_NONE, SIGNS, 4, REGISTER},
    {0x50, PREFIX_66, SIGNS, 8, REGISTER},
    {0x10, PREFIX_F3, MOVE_LOW, 4, REGISTER},
    {0x10, PREFIX_F2, MOVE_LOW, 8, REGISTER},
    {0x11, PREFIX_F3, MOVE_LOW_BACK, 4, REGISTER},
    {0x11, PREFIX_F2, MOVE_LOW_BACK, 8, REGISTER},
    {0x7e, PREFIX_F3, MOVE_QUAD, 8, REGISTER},
    {0xd6, PREFIX_66, MOVE_QUAD_BACK, 8, REGISTER},
    {0x12, PREFIX_NONE, HIGH_TO_LOW, 8, REGISTER},
    {0x16, PREFIX_NONE, LOW_TO_HIGH, 8, REGISTER},
};

/* Of a register's 16 bytes. */
static uint64_t element(const uint64_t *vector, unsigned index, unsigned size)
{
    uint64_t value = 0;

    __builtin_memcpy(&value, (const uint8_t *)vector + index * size, size);
    return value;
}

static void set_element(uint64_t *vector, unsigned index, unsigned size, uint64_t value)
{
    __builtin_memcpy((uint8_t *)vector + index * size, &value, size);
}

static int64_t signed_element(uint64_t value, unsigned size)
{
    return (int64_t)sign_extend(value, size);
}

static int64_t clamp(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

/* To what the bytes can hold. */
static uint64_t saturate(int64_t value, unsigned size, bool is_signed)
{
    int64_t top = (int64_t)mask_of(size);

    if (is_signed)
        return (uint64_t)clamp(value, -(top / 2) - 1, top / 2);
    return (uint64_t)clamp(value, 0, top);
}

static uint64_t combine(enum kind kind, uint64_t a, uint64_t b, unsigned size)
{
    int64_t x = signed_element(a, size), y = signed_element(b, size);

    switch (kind) {
    case ADD:
        return a + b;
    case ADD_SIGNED:
        return saturate(x + y, size, true);
    case ADD_UNSIGNED:
        return saturate((int64_t)(a + b), size, false);
    case SUB:
        return a - b;
    case SUB_SIGNED:
        return saturate(x - y, size, true);
    case SUB_UNSIGNED:
        return saturate((int64_t)a - (int64_t)b, size, false);
    case EQUAL:
        return a == b ? UINT64_MAX : 0;
    case GREATER:
        return x > y ? UINT64_MAX : 0;
    case MIN_SIGNED:
        return x < y ? a : b;
    case MIN_UNSIGNED:
        return a < b ? a : b;
    case MAX_SIGNED:
        return x > y ? a : b;
    case MAX_UNSIGNED:
        return a > b ? a : b;
    case AVERAGE:
        return (a + b + 1) / 2;
    case MULTIPLY_LOW:
        return a * b;
    case MULTIPLY_HIGH:
        return (uint64_t)(x * y) >> 16;
    default:
        return a * b >> 16;
    }
}

static uint64_t shift(enum kind kind, uint64_t a, uint64_t count, unsigned size)
{
    unsigned bits = bits_of(size);

    switch (kind) {
    case SHIFT_RIGHT:
        return count < bits ? a >> count : 0;
    case SHIFT_LEFT:
        return count < bits ? a << count : 0;
    default:
        return (uint64_t)(signed_element(a, size) >> (count < bits ? count : bits - 1));
    }
}

/* PSLLDQ, PSRLDQ. */
static void shift_bytes(uint64_t *a, uint64_t count, bool left)
{
    uint8_t from[LANES], to[LANES] = {0};

    __builtin_memcpy(from, a, LANES);
    for (unsigned i = 0; i < LANES; i++) {
        if (left && i >= count)
            to[i] = from[i - count];
        else if (!left && i + count < LANES)
            to[i] = from[i + count];
    }
    __builtin_memcpy(a, to, LANES);
}

static void shift_all(enum kind kind, uint64_t *a, uint64_t count, unsigned size)
{
    for (unsigned i = 0; i < LANES / size; i++)
        set_element(a, i, size, shift(kind, element(a, i, size), count, size));
}

/* 71 to 73: ModRM.reg says which, ModRM.rm what. */
static enum insn_result shift_group(struct exec *exec, unsigned size)
{
    const struct insn *insn = exec->insn;
    unsigned which = insn->modrm >> 3 & 7;
    uint64_t a[2], count = insn->imm & 0xff;
    enum insn_result result = sse_access(exec, modrm_rm(insn), a, false);

    if (result)
        return result;
    if (size == 8 && (which & 1))
        shift_bytes(a, count, which == 7);
    else
        shift_all(which == 2   ? SHIFT_RIGHT
                  : which == 4 ? SHIFT_ARITHMETIC
                               : SHIFT_LEFT,
                  a, count, size);
    return sse_access(exec, modrm_rm(insn), a, true);
}

static enum insn_result signs(struct exec *exec, unsigned size)
{
    uint64_t a[2], mask = 0;
    enum insn_result result = sse_access(exec, modrm_rm(exec->insn), a, false);

    for (unsigned i = 0; !result && i < LANES / size; i++)
        mask |= (element(a, i, size) >> (bits_of(size) - 1)) << i;
    if (!result)
        stage_gpr(exec, modrm_reg(exec->insn), 4, mask);
    return result;
}

/* Elements of `a` become those that the immediate's pairs of bits (or, of 8 bytes, bits) name. */
static void shuffle(uint64_t *a, const uint64_t *low, const uint64_t *high, unsigned size,
                    unsigned order)
{
    unsigned count = LANES / size, bits = count / 2;
    uint64_t out[2] = {0, 0};

    for (unsigned i = 0; i < count; i++)
        set_element(out, i, size,
                    element(i < count / 2 ? low : high, order >> i * bits & (count - 1), size));
    a[0] = out[0];
    a[1] = out[1];
}

/* Words of one half. */
static void shuffle_half(uint64_t *a, const uint64_t *b, unsigned half, unsigned order)
{
    a[half] = 0;
    a[!half] = b[!half];
    for (unsigned i = 0; i < 4; i++)
        a[half] |= (b[half] >> (order >> 2 * i & 3) * 16 & 0xffff) << 16 * i;
}

static void unpack(uint64_t *a, const uint64_t *b, unsigned size, bool high)
{
    unsigned count = LANES / size, from = high ? count / 2 : 0;
    uint64_t out[2] = {0, 0};

    for (unsigned i = 0; i < count; i++)
        set_element(out, i, size, element(i & 1 ? b : a, from + i / 2, size));
    a[0] = out[0];
    a[1] = out[1];
}

static void pack(uint64_t *a, const uint64_t *b, unsigned size, bool is_signed)
{
    unsigned half = LANES / size / 2;
    uint64_t out[2] = {0, 0};

    for (unsigned i = 0; i < 2 * half; i++) {
        uint64_t from = element(i < half ? a : b, i < half ? i : i - half, 2 * size);

        set_element(out, i, size, saturate(signed_element(from, 2 * size), size, is_signed));
    }
    a[0] = out[0];
    a[1] = out[1];
}

static void multiply_add(uint64_t *a, const uint64_t *b)
{
    for (unsigned i = 0; i < 4; i++) {
        int64_t sum = 0;

        for (unsigned j = 2 * i; j < 2 * i + 2; j++)
            sum += signed_element(element(a, j, 2), 2) * signed_element(element(b, j, 2), 2);
        set_element(a, i, 4, (uint64_t)sum);
    }
}

static void sum_of_differences(uint64_t *a, const uint64_t *b)
{
    for (unsigned half = 0; half < 2; half++) {
        uint64_t sum = 0;

        for (unsigned i = 8 * half; i < 8 * half + 8; i++) {
            uint64_t x = element(a, i, 1), y = element(b, i, 1);

            sum += x > y ? x - y : y - x;
        }
        a[half] = sum;
    }
}

/* What needs all of both operands. */
static void whole(const struct packed_form *form, uint64_t *a, const uint64_t *b, unsigned order)
{
    switch ((enum kind)form->kind) {
    case MULTIPLY_DWORDS:
        a[0] = (a[0] & 0xffffffff) * (b[0] & 0xffffffff);
        a[1] = (a[1] & 0xffffffff) * (b[1] & 0xffffffff);
        break;
    case MULTIPLY_ADD:
        multiply_add(a, b);
        break;
    case SUM_OF_DIFFERENCES:
        sum_of_differences(a, b);
        break;
    case UNPACK_LOW:
    case UNPACK_HIGH:
        unpack(a, b, form->size, form->kind == UNPACK_HIGH);
        break;
    case PACK_SIGNED:
    case PACK_UNSIGNED:
        pack(a, b, form->size, form->kind == PACK_SIGNED);
        break;
    case SHUFFLE:
        shuffle(a, b, b, form->size, order);
        break;
    case SHUFFLE_TWO:
        shuffle(a, a, b, form->size, order);
        break;
    case SHUFFLE_LOW:
    case SHUFFLE_HIGH:
        shuffle_half(a, b, form->kind == SHUFFLE_HIGH, order);
        break;
    case MOVE_LOW:
    case MOVE_LOW_BACK:
        set_element(a, 0, form->size, b[0]);
        break;
    case MOVE_QUAD:
    case MOVE_QUAD_BACK:
        a[0] = b[0];
        a[1] = 0;
        break;
    case HIGH_TO_LOW:
        a[0] = b[1];
        break;
    default: /* LOW_TO_HIGH */
        a[1] = b[0];
        break;
    }
}

const struct packed_form *packed_form(const struct insn *insn)
{
    unsigned prefix = insn->prefixes & INSN_PREFIX_REP      ? PREFIX_F3
                      : insn->prefixes & INSN_PREFIX_REPNE  ? PREFIX_F2
                      : insn->prefixes & INSN_PREFIX_OPSIZE ? PREFIX_66
                                                            : PREFIX_NONE;

    for (unsigned i = 0; i < sizeof(forms) / sizeof(forms[0]); i++)
        if (forms[i].opcode == insn->opcode && (forms[i].prefixes & prefix))
            return forms[i].where == REGISTER && insn->modrm < 0xc0 ? NULL : &forms[i];
    return NULL;
}

enum insn_result execute_packed(struct exec *exec, const struct packed_form *form)
{
    const struct insn *insn = exec->insn;
    bool back = form->kind == MOVE_LOW_BACK || form->kind == MOVE_QUAD_BACK;
    unsigned target = back ? modrm_rm(insn) : modrm_reg(insn), size = form->size;
    uint64_t a[2], b[2];
    enum insn_result result;

    if (form->kind == SHIFT_GROUP)
        return shift_group(exec, size);
    if (form->kind == SIGNS)
        return signs(exec, size);
    result = back ? sse_access(exec, modrm_reg(insn), b, false) : sse_source(exec, b);
    if (!result)
        result = sse_access(exec, target, a, false);
    if (result)
        return result;
    if (form->kind <= MULTIPLY_HIGH_UNSIGNED) {
        for (unsigned i = 0; i < LANES / size; i++)
            set_element(
                a, i, size,
                combine((enum kind)form->kind, element(a, i, size), element(b, i, size), size));
    } else if (form->kind < SHIFT_GROUP) {
        shift_all((enum kind)form->kind, a, b[0], size);
    } else {
        whole(form, a, b, insn->imm & 0xff);
    }
    return sse_access(exec, target, a, true);
}
