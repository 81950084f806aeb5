/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The general decoder: prefixes, opcode, addressing and operands, driven by the opcode tables.
 */
#include "insn/decode.h"

const uint16_t insn_default_sizes[12] = {
    0x0202, 0x0204, 0x0402, 0x0404, /* INSN_16 */
    0x0404, 0x0402, 0x0204, 0x0202, /* INSN_32 */
    0x0804, 0x0802, 0x0404, 0x0402, /* INSN_64 */
};

const uint8_t insn_form_sizes[2][8][4] = {
    {{0}, {1, 1, 1}, {2, 2, 2}, {4, 4, 4}, {2, 4, 8}, {2, 4, 4}, {4, 4, 8}, {4, 4, 4}},
    {{0}, {1, 1, 1}, {2, 2, 2}, {4, 4, 4}, {2, 4, 8}, {2, 4, 4}, {4, 4, 8}, {8, 8, 8}},
};

static void legacy_prefix(struct insn *insn, uint8_t byte)
{
    unsigned segment;

    switch (byte) {
    case 0x66:
        insn->prefixes |= INSN_PREFIX_OPSIZE;
        return;
    case 0x67:
        insn->prefixes |= INSN_PREFIX_ADDRSIZE;
        return;
    case 0xf0:
        insn->prefixes |= INSN_PREFIX_LOCK;
        return;
    case 0xf2:
        insn->prefixes = (uint8_t)((insn->prefixes & ~INSN_PREFIX_REP) | INSN_PREFIX_REPNE);
        return;
    case 0xf3:
        insn->prefixes = (uint8_t)((insn->prefixes & ~INSN_PREFIX_REPNE) | INSN_PREFIX_REP);
        return;
    case 0x64:
    case 0x65:
        segment = INSN_FS + (byte & 1u);
        break;
    default: /* 26, 2E, 36, 3E: ES, CS, SS, DS; without effect in 64-bit mode */
        if (insn->mode == INSN_64)
            return;
        segment = (byte >> 3) & 3u;
        break;
    }
    insn->prefixes |= INSN_PREFIX_SEGMENT;
    insn->mem.segment = (uint8_t)segment;
}

/* Read prefixes; returns where the opcode is. */
static const uint8_t *read_prefixes(struct insn *insn, const uint8_t *at)
{
    const uint8_t *end = at + INSN_MAX_LENGTH;

    for (; at < end; at++) {
        uint32_t attr = insn_map_one[*at].attr;

        if (attr & ATTR_PREFIX) {
            legacy_prefix(insn, *at);
            insn->rex = 0; /* REX counts only right before the opcode */
        } else if ((attr & ATTR_REX) && insn->mode == INSN_64) {
            insn->rex = *at;
        } else {
            break;
        }
    }
    return at;
}

static inline unsigned mandatory_prefix(const struct insn *insn)
{
    if (insn->prefixes & (INSN_PREFIX_REP | INSN_PREFIX_REPNE))
        return insn->prefixes & INSN_PREFIX_REP ? MANDATORY_F3 : MANDATORY_F2;
    return insn->prefixes & INSN_PREFIX_OPSIZE ? MANDATORY_66 : MANDATORY_NONE;
}

/* Operand size in 64-bit mode where it is not the default. */
static uint8_t operand_size_64(const struct insn *insn, uint32_t attr, bool amd)
{
    bool other = insn->prefixes & INSN_PREFIX_OPSIZE;

    if (attr & ATTR_NEAR)
        return other && amd && !(insn->rex & 8) ? 2 : 8;
    if (insn->rex & 8)
        return 8;
    return other ? 2 : 8;
}

static void set_register(const struct insn *insn, struct insn_operand *operand, unsigned reg)
{
    uint32_t word = register_operand(reg, operand->size, insn->rex);

    operand->kind = (uint8_t)word;
    operand->reg = (uint8_t)(word >> 8);
}

static bool memory_operand(const struct insn *insn, struct insn_operand *operand, unsigned kind)
{
    unsigned size = operand->size;

    if (insn->modrm >= 0xc0)
        return false;
    switch (kind) {
    case FORM_EW:
        size = 2;
        break;
    case FORM_MP:
        size = insn->operand_size + 2u;
        break;
    case FORM_MS:
        size = insn->mode == INSN_64 ? 10 : 6;
        break;
    case FORM_MX:
        size *= 2;
        break;
    case FORM_MQ:
        size = 8;
        break;
    case FORM_MO:
        size = 16;
        break;
    default:
        break;
    }
    operand->size = (uint8_t)size;
    operand->kind = INSN_MEM;
    return true;
}

/* MOV to and from control and debug registers: those that exist. */
static bool special_register(struct insn *insn, struct insn_operand *operand, unsigned kind)
{
    unsigned reg = ((insn->modrm >> 3) & 7u) | (insn->rex & 4u) << 1;

    operand->reg = (uint8_t)reg;
    operand->kind = kind == FORM_C ? INSN_CR : kind == FORM_D ? INSN_DR : INSN_SREG;
    if (kind == FORM_C)
        return reg == 0 || (reg >= 2 && reg <= 4) || reg == 8;
    if (kind == FORM_D)
        return reg < 8;
    operand->reg = (uint8_t)(reg & 7);
    /* There are six segment registers, and CS is not loaded by MOV. */
    return (reg & 7) < INSN_SEGMENTS && (insn->opcode != 0x8e || (reg & 7) != INSN_CS);
}

static const uint8_t *immediate_operand(struct insn *insn, struct insn_operand *operand,
                                        unsigned kind, const uint8_t *at)
{
    operand->kind = kind == FORM_J ? INSN_REL : INSN_IMM;
    if (insn->op == INSN_OP_ENTER && operand != insn->operand)
        insn->imm2 = *at;
    else
        insn->imm = kind == FORM_U ? load(at, operand->size) : load_signed(at, operand->size);
    return at + operand->size;
}

static void implicit_operand(struct insn *insn, struct insn_operand *operand, unsigned kind)
{
    switch (kind) {
    case FORM_ONE:
        operand->kind = INSN_IMM;
        insn->imm = 1;
        break;
    case FORM_X:
        operand->kind = INSN_MEM_SRC;
        operand->reg = 6;
        if (!(insn->prefixes & INSN_PREFIX_SEGMENT))
            insn->mem.segment = INSN_DS;
        break;
    case FORM_Y:
        operand->kind = INSN_MEM_DST;
        operand->reg = 7;
        break;
    default:
        operand->kind = INSN_SREG;
        operand->reg = (uint8_t)(kind - FORM_SEG);
        break;
    }
}

/* Far pointer and absolute address. */
static const uint8_t *direct_operand(struct insn *insn, struct insn_operand *operand, unsigned kind,
                                     const uint8_t *at)
{
    if (kind == FORM_AP) {
        operand->kind = INSN_FAR;
        insn->imm = load(at, operand->size);
        insn->imm2 = (uint16_t)load(at + operand->size, 2);
        operand->size = (uint8_t)(operand->size + 2);
        return at + operand->size;
    }
    operand->kind = INSN_MEM;
    insn->mem.base = insn->mem.index = INSN_NO_REGISTER;
    if (!(insn->prefixes & INSN_PREFIX_SEGMENT))
        insn->mem.segment = INSN_DS;
    insn->disp = (int64_t)load(at, insn->address_size);
    return at + insn->address_size;
}

/* The operands besides ModRM's usual two. */
static __attribute__((noinline)) struct step
other_operand(struct insn *insn, struct insn_operand *operand, unsigned kind, const uint8_t *at)
{
    struct step step = {at, 1};

    switch (kind) {
    case FORM_EW:
        if (!memory_operand(insn, operand, kind))
            set_register(insn, operand, (insn->modrm & 7u) | (insn->rex & 1u) << 3);
        break;
    case FORM_M:
    case FORM_MP:
    case FORM_MS:
    case FORM_MX:
    case FORM_MQ:
    case FORM_MO:
        step.valid = memory_operand(insn, operand, kind);
        break;
    case FORM_R:
        set_register(insn, operand, (insn->modrm & 7u) | (insn->rex & 1u) << 3);
        step.valid = insn->modrm >= 0xc0;
        break;
    case FORM_Z:
        set_register(insn, operand, (insn->opcode & 7u) | (insn->rex & 1u) << 3);
        break;
    case FORM_ACC:
    case FORM_CL:
    case FORM_DX:
        operand->kind = INSN_REG;
        operand->reg = (uint8_t)(kind - FORM_ACC);
        break;
    case FORM_I:
    case FORM_U:
    case FORM_J:
        step.at = immediate_operand(insn, operand, kind, at);
        break;
    case FORM_AP:
    case FORM_O:
        step.at = direct_operand(insn, operand, kind, at);
        break;
    case FORM_S:
    case FORM_C:
    case FORM_D:
        step.valid = special_register(insn, operand, kind);
        break;
    default:
        implicit_operand(insn, operand, kind);
        break;
    }
    return step;
}

/* access is of enum insn_operand_access. */
static inline struct step decode_operand(struct insn *insn, struct insn_operand *operand,
                                         unsigned form, const uint8_t *sizes, unsigned access,
                                         const uint8_t *at)
{
    unsigned kind = form >> 3, size = sizes[(form & 7) * 4], rex = insn->rex, modrm = insn->modrm;
    struct step step = {at, 1};
    uint32_t word;

    if (kind == FORM_G)
        word = register_operand(((modrm >> 3) & 7) | (rex & 4) << 1, size, rex);
    else if (kind != FORM_E)
        word = size << 16;
    else if (modrm < 0xc0)
        word = INSN_MEM | size << 16;
    else
        word = register_operand((modrm & 7) | (rex & 1) << 3, size, rex);
    word |= access << 24;
    __builtin_memcpy(operand, &word, 4);
    if (kind != FORM_G && kind != FORM_E)
        return other_operand(insn, operand, kind, at);
    return step;
}

/* An opcode behind 0F 0F, 0F 38 or 0F 3A; returns where reading continues. */
static __attribute__((noinline)) const uint8_t *far_map(struct insn *insn, const uint8_t *at)
{
    if (insn->opcode == 0x0f) {
        insn->map = INSN_MAP_3DNOW;
        return at;
    }
    insn->map = insn->opcode == 0x38 ? INSN_MAP_0F38 : INSN_MAP_0F3A;
    insn->opcode = *at;
    return at + 1;
}

/* What ModRM, prefixes and the mode make of an opcode. */
static __attribute__((noinline)) entry_word completed_entry(const struct insn *insn,
                                                            entry_word word)
{
    struct insn_entry entry, base;
    uint32_t attr = attr_of(word);

    __builtin_memcpy(&base, &word, sizeof(base));
    entry = base;
    if (attr & ATTR_GROUP) {
        entry = insn_groups[base.op][(insn->modrm >> 3) & 7];
        entry.attr |= attr & ~(uint32_t)(ATTR_GROUP | ATTR_SPECIAL);
    }
    if (entry.attr & ATTR_SPECIAL) {
        switch (insn->map) {
        case INSN_MAP_ONE:
            entry = insn_special_one(insn);
            break;
        case INSN_MAP_0F:
            entry = insn_special_0f(insn, mandatory_prefix(insn));
            break;
        case INSN_MAP_0F38:
            entry = insn_entry_0f38(insn, mandatory_prefix(insn));
            break;
        default:
            entry = (struct insn_entry){
                0, {1, insn_valid_0f3a[insn->opcode], 0}, ATTR_MODRM | ATTR_VECTOR};
            break;
        }
    }
    if ((attr & ATTR_GROUP) && !entry.forms[0])
        return (pack(&entry) & ~0xffffff00ull) | (word & 0xffffff00);
    return pack(&entry);
}

static __attribute__((noinline)) struct step decode_vector(struct insn *insn, entry_word entry,
                                                           const uint8_t *at)
{
    unsigned bit = mandatory_prefix(insn) + (insn->modrm < 0xc0 ? 4 : 0);
    unsigned immediate = (uint8_t)(entry >> 8), mask = (uint8_t)(entry >> 16);
    bool valid = (mask >> bit & 1) && !(insn->prefixes & INSN_PREFIX_LOCK);

    if (immediate)
        insn->imm = load(at, immediate);
    if (insn->map == INSN_MAP_3DNOW)
        valid = valid && (insn_valid_3dnow[insn->imm >> 6] >> (insn->imm & 63) & 1);
    return (struct step){at + immediate, valid};
}

static inline struct step decode_operands(struct insn *insn, entry_word entry, const uint8_t *at)
{
    const uint8_t *sizes = &insn_form_sizes[insn->mode == INSN_64][0][insn->operand_size >> 2];
    uint32_t attr = attr_of(entry);
    struct step step = {at, 1};
    uint64_t valid = 1;
    unsigned forms = (uint32_t)entry >> 8, access = attr / ATTR_R0;

    if (forms) {
        step = decode_operand(insn, insn->operand, forms & 0xff, sizes, access & 3, at);
        valid = step.valid;
        forms >>= 8;
        insn->operands = 1;
    }
    if (forms) {
        access = attr & ATTR_W1 ? INSN_READ | INSN_WRITE : INSN_READ;
        step = decode_operand(insn, insn->operand + 1, forms & 0xff, sizes, access, step.at);
        valid &= step.valid;
        forms >>= 8;
        insn->operands = 2;
    }
    if (forms) {
        step = decode_operand(insn, insn->operand + 2, forms, sizes, INSN_READ, step.at);
        valid &= step.valid;
        insn->operands = 3;
    }
    if ((insn->prefixes & INSN_PREFIX_LOCK) &&
        (!(attr & ATTR_LOCK) || insn->operand[0].kind != INSN_MEM))
        valid = 0;
    return (struct step){step.at, valid};
}

/* From the entry on: ModRM, addressing and operands. at is behind the opcode. */
static inline struct step decode_entry(struct insn *insn, entry_word entry, bool amd,
                                       const uint8_t *at)
{
    uint32_t attr = attr_of(entry);

    if (attr & ATTR_MODRM) {
        unsigned modrm = *at++;

        insn->has_modrm = 1;
        if (attr & ATTR_MOD3)
            modrm |= 0xc0;
        insn->modrm = (uint8_t)modrm;
        if (modrm < 0xc0)
            at = read_address(insn, modrm, insn->rex, at);
    }
    if (attr & (ATTR_GROUP | ATTR_SPECIAL)) {
        entry = completed_entry(insn, entry);
        attr = attr_of(entry);
    }
    if (insn->mode == INSN_64 && ((insn->rex & 8) || (attr & (ATTR_DEF64 | ATTR_NEAR))))
        insn->operand_size = operand_size_64(insn, attr, amd);
    if (attr & (ATTR_INVALID | ATTR_VECTOR | ATTR_NOT64 | ATTR_ONLY64)) {
        uint32_t wrong = insn->mode == INSN_64 ? ATTR_NOT64 : ATTR_ONLY64;

        if (attr & (wrong | ATTR_INVALID))
            return (struct step){at, 0};
        if (attr & ATTR_VECTOR)
            return decode_vector(insn, entry, at);
    }
    insn->op = (uint8_t)entry;
    return decode_operands(insn, entry, at);
}

/* All but what insn_decode does itself: insn is cleared, at has PADDED bytes. */
static inline struct step decode_padded(struct insn *insn, unsigned mode, bool amd,
                                        const uint8_t *at)
{
    entry_word entry = pack(&insn_map_one[*at]);

    if (attr_of(entry) & (ATTR_PREFIX | ATTR_REX)) {
        at = read_prefixes(insn, at);
        entry = pack(&insn_map_one[*at]);
    }
    set_sizes(insn, mode, insn->prefixes);
    insn->opcode = *at;
    if (attr_of(entry) & (ATTR_VEX | ATTR_ESCAPE)) {
        if (attr_of(entry) & ATTR_ESCAPE) {
            insn->map = INSN_MAP_0F;
            insn->opcode = *++at;
            entry = pack(&insn_map_0f[*at]);
            if (attr_of(entry) & ATTR_ESCAPE)
                at = far_map(insn, at + 1) - 1;
        } else if (insn_is_vex(insn, at)) {
            return insn_decode_vex(insn, at);
        }
    }
    return decode_entry(insn, entry, amd, at + 1);
}

enum insn_result insn_decode_general(struct insn *insn, const uint8_t *bytes, size_t available,
                                     enum insn_mode mode)
{
    unsigned plain = mode == INSN_64_AMD ? INSN_64 : mode;
    uint8_t padded[PADDED];
    uint64_t low, high, zero = 0;
    struct step step;

    clear(insn, 0, plain);
    __builtin_memcpy(padded + 8, &zero, 8);
    __builtin_memcpy(padded + 16, &zero, 8);
    __builtin_memcpy(padded + 24, &zero, 8);
    if (available >= INSN_MAX_LENGTH) {
        __builtin_memcpy(&low, bytes, 8);
        __builtin_memcpy(&high, bytes + 7, 8);
        __builtin_memcpy(padded, &low, 8);
        __builtin_memcpy(padded + 7, &high, 8);
    } else {
        __builtin_memcpy(padded, &zero, 8);
        for (size_t i = 0; i < available; i++)
            padded[i] = bytes[i];
    }
    step = decode_padded(insn, plain, mode == INSN_64_AMD, padded);
    insn->length = (uint8_t)(step.at - padded);
    if (insn->length > available || insn->length > INSN_MAX_LENGTH)
        return available >= INSN_MAX_LENGTH ? INSN_TOO_LONG : INSN_MORE;
    if (!step.valid)
        return INSN_INVALID;
    return insn->op == INSN_OP_UNKNOWN ? INSN_UNKNOWN : INSN_OK;
}
