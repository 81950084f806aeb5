/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The instruction decoder: prefixes, opcode, addressing and operands, driven by the opcode tables.
 */
#include "insn/tables.h"

/*
 * Reading beyond the end yields zeros and only counts; whether all bytes were there is asked once,
 * at the end. So no step needs an error path of its own, and nothing decided on made-up bytes is
 * ever returned.
 */
struct cursor {
    const uint8_t *bytes;
    unsigned at;
    unsigned limit;
};

static inline uint8_t fetch_8(struct cursor *cursor)
{
    unsigned at = cursor->at++;

    return at < cursor->limit ? cursor->bytes[at] : 0;
}

/* Little-endian, zero-extended; bytes is 1, 2, 4 or 8. */
static inline uint64_t fetch(struct cursor *cursor, unsigned bytes)
{
    const uint8_t *from = cursor->bytes + cursor->at;
    uint64_t value = 0;

    cursor->at += bytes;
    if (cursor->at > cursor->limit)
        return 0;
    switch (bytes) {
    case 1:
        return *from;
    case 2:
        return from[0] | (unsigned)from[1] << 8;
    case 4:
        __builtin_memcpy(&value, from, 4);
        return value;
    default:
        __builtin_memcpy(&value, from, 8);
        return value;
    }
}

static inline uint64_t fetch_signed(struct cursor *cursor, unsigned bytes)
{
    uint64_t value = fetch(cursor, bytes);

    switch (bytes) {
    case 1:
        return (uint64_t)(int64_t)(int8_t)value;
    case 2:
        return (uint64_t)(int64_t)(int16_t)value;
    case 4:
        return (uint64_t)(int64_t)(int32_t)value;
    default:
        return value;
    }
}

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

/* Read prefixes; returns the opcode byte that follows them. */
static uint8_t read_prefixes(struct insn *insn, struct cursor *cursor, uint8_t byte)
{
    for (;;) {
        uint32_t attr = insn_map_one[byte].attr;

        if (attr & ATTR_PREFIX) {
            legacy_prefix(insn, byte);
            insn->rex = 0; /* REX counts only right before the opcode */
        } else if ((attr & ATTR_REX) && insn->mode == INSN_64) {
            insn->rex = byte;
        } else {
            return byte;
        }
        byte = fetch_8(cursor);
    }
}

static inline unsigned mandatory_prefix(const struct insn *insn)
{
    if (insn->prefixes & (INSN_PREFIX_REP | INSN_PREFIX_REPNE))
        return insn->prefixes & INSN_PREFIX_REP ? MANDATORY_F3 : MANDATORY_F2;
    return insn->prefixes & INSN_PREFIX_OPSIZE ? MANDATORY_66 : MANDATORY_NONE;
}

static inline uint8_t size_of_address(const struct insn *insn)
{
    bool other = insn->prefixes & INSN_PREFIX_ADDRSIZE;

    if (insn->mode == INSN_64)
        return other ? 4 : 8;
    return (insn->mode == INSN_32) != other ? 4 : 2;
}

static inline uint8_t size_of_operand(const struct insn *insn, uint32_t attr, bool amd)
{
    bool other = insn->prefixes & INSN_PREFIX_OPSIZE;

    if (insn->mode != INSN_64)
        return (insn->mode == INSN_32) != other ? 4 : 2;
    if (attr & ATTR_NEAR)
        return other && amd && !(insn->rex & 8) ? 2 : 8;
    if (insn->rex & 8)
        return 8;
    if (other)
        return 2;
    return attr & ATTR_DEF64 ? 8 : 4;
}

/* Intel SDM, "16-Bit Addressing Forms with the ModR/M Byte". */
static void address_16(struct insn *insn, struct cursor *cursor)
{
    enum { BX = 3, BP = 5, SI = 6, DI = 7, NO = INSN_NO_REGISTER };
    static const uint8_t bases[8] = {BX, BX, BP, BP, SI, DI, BP, BX};
    static const uint8_t indices[8] = {SI, DI, SI, DI, NO, NO, NO, NO};
    unsigned mod = insn->modrm >> 6, rm = insn->modrm & 7;

    insn->mem.base = bases[rm];
    insn->mem.index = indices[rm];
    if (mod == 0 && rm == 6) {
        insn->mem.base = INSN_NO_REGISTER;
        insn->disp = (int64_t)fetch_signed(cursor, 2);
    } else if (mod != 0) {
        insn->disp = (int64_t)fetch_signed(cursor, mod);
    }
}

/* "32-Bit Addressing Forms with the ModR/M Byte", and with SIB; REX and RIP in 64-bit mode. */
static void address_32(struct insn *insn, struct cursor *cursor)
{
    unsigned mod = insn->modrm >> 6, rm = insn->modrm & 7;
    unsigned base_high = (unsigned)(insn->rex & 1) << 3;

    insn->mem.base = (uint8_t)(rm | base_high);
    insn->mem.index = INSN_NO_REGISTER;
    if (rm == 4) {
        unsigned index;

        insn->sib = fetch_8(cursor);
        index = ((insn->sib >> 3) & 7u) | (insn->rex & 2u) << 2;
        rm = insn->sib & 7;
        insn->mem.base = (uint8_t)(rm | base_high);
        if (index != 4) {
            insn->mem.index = (uint8_t)index;
            insn->mem.scale = insn->sib >> 6;
        }
        if (mod == 0 && rm == 5) {
            insn->mem.base = INSN_NO_REGISTER;
            mod = 2;
        }
    } else if (mod == 0 && rm == 5) {
        insn->mem.base = insn->mode == INSN_64 ? INSN_BASE_RIP : INSN_NO_REGISTER;
        mod = 2;
    }
    if (mod == 1)
        insn->disp = (int64_t)fetch_signed(cursor, 1);
    else if (mod == 2)
        insn->disp = (int64_t)fetch_signed(cursor, 4);
}

static inline void read_address(struct insn *insn, struct cursor *cursor)
{
    if (insn->address_size == 2)
        address_16(insn, cursor);
    else
        address_32(insn, cursor);
    /* rSP and rBP as a base mean the stack segment, unless overridden. */
    if (!(insn->prefixes & INSN_PREFIX_SEGMENT))
        insn->mem.segment = insn->mem.base == 4 || insn->mem.base == 5 ? INSN_SS : INSN_DS;
}

static inline unsigned size_of_form(const struct insn *insn, unsigned form)
{
    /* By log2 of the operand size in words: 2, 4, 8 bytes. */
    static const uint8_t sizes[8][4] = {
        [SIZE_0] = {0, 0, 0}, [SIZE_B] = {1, 1, 1},          [SIZE_W] = {2, 2, 2},
        [SIZE_D] = {4, 4, 4}, [SIZE_V] = {2, 4, 8},          [SIZE_Z] = {2, 4, 4},
        [SIZE_Y] = {4, 4, 8}, [SIZE_N] = {0xff, 0xff, 0xff},
    };
    unsigned size = sizes[form & 7][insn->operand_size >> 2];

    return size == 0xff ? (insn->mode == INSN_64 ? 8 : 4) : size;
}

static inline void set_register(const struct insn *insn, struct insn_operand *operand, unsigned reg)
{
    operand->kind = INSN_REG;
    /* Without REX, byte registers 4 to 7 are AH, CH, DH, BH. */
    if (operand->size == 1 && (reg & 0xc) == 4 && !insn->rex) {
        operand->kind = INSN_REG_HIGH;
        reg &= 3;
    }
    operand->reg = (uint8_t)reg;
}

static bool memory_operand(const struct insn *insn, struct insn_operand *operand, unsigned kind)
{
    unsigned size = operand->size;

    if (insn->modrm >= 0xc0)
        return false;
    switch (kind) {
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

static void immediate_operand(struct insn *insn, struct cursor *cursor,
                              struct insn_operand *operand, unsigned kind)
{
    operand->kind = kind == FORM_J ? INSN_REL : INSN_IMM;
    if (insn->op == INSN_OP_ENTER && operand != insn->operand) {
        insn->imm2 = fetch_8(cursor);
        return;
    }
    insn->imm = kind == FORM_U ? fetch(cursor, operand->size) : fetch_signed(cursor, operand->size);
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

/* Decode one operand; false if it makes the instruction #UD. */
static inline bool decode_operand(struct insn *insn, struct cursor *cursor,
                                  struct insn_operand *operand, unsigned form)
{
    unsigned kind = form >> 3;

    operand->size = (uint8_t)size_of_form(insn, form);
    switch (kind) {
    case FORM_E:
    case FORM_EW:
        if (insn->modrm < 0xc0) {
            operand->kind = INSN_MEM;
            if (kind == FORM_EW)
                operand->size = 2;
            return true;
        }
        set_register(insn, operand, (insn->modrm & 7u) | (insn->rex & 1u) << 3);
        return true;
    case FORM_G:
        set_register(insn, operand, ((insn->modrm >> 3) & 7u) | (insn->rex & 4u) << 1);
        return true;
    case FORM_M:
    case FORM_MP:
    case FORM_MS:
    case FORM_MX:
    case FORM_MQ:
    case FORM_MO:
        return memory_operand(insn, operand, kind);
    case FORM_R:
        set_register(insn, operand, (insn->modrm & 7u) | (insn->rex & 1u) << 3);
        return insn->modrm >= 0xc0;
    case FORM_Z:
        set_register(insn, operand, (insn->opcode & 7u) | (insn->rex & 1u) << 3);
        return true;
    case FORM_ACC:
    case FORM_CL:
    case FORM_DX:
        operand->kind = INSN_REG;
        operand->reg = (uint8_t)(kind - FORM_ACC);
        return true;
    case FORM_I:
    case FORM_U:
    case FORM_J:
        immediate_operand(insn, cursor, operand, kind);
        return true;
    case FORM_AP:
        operand->kind = INSN_FAR;
        insn->imm = fetch(cursor, operand->size);
        insn->imm2 = (uint16_t)fetch(cursor, 2);
        operand->size = (uint8_t)(operand->size + 2);
        return true;
    case FORM_O:
        operand->kind = INSN_MEM;
        insn->mem.base = insn->mem.index = INSN_NO_REGISTER;
        if (!(insn->prefixes & INSN_PREFIX_SEGMENT))
            insn->mem.segment = INSN_DS;
        insn->disp = (int64_t)fetch(cursor, insn->address_size);
        return true;
    case FORM_S:
    case FORM_C:
    case FORM_D:
        return special_register(insn, operand, kind);
    default:
        implicit_operand(insn, operand, kind);
        return true;
    }
}

/* All bytes there? Then the verdict stands. */
static inline enum insn_result finish(struct insn *insn, const struct cursor *cursor,
                                      size_t available, enum insn_result result)
{
    if (cursor->at > cursor->limit)
        return available >= INSN_MAX_LENGTH ? INSN_TOO_LONG : INSN_MORE;
    insn->length = (uint8_t)cursor->at;
    return result;
}

static inline void read_modrm(struct insn *insn, struct cursor *cursor)
{
    insn->has_modrm = 1;
    insn->modrm = fetch_8(cursor);
}

/*
 * VEX, EVEX and XOP instructions are not modelled: find their length. One of the legacy prefixes
 * 66, F2, F3, LOCK or REX before them is #UD. Intel SDM, "Instruction Encoding: VEX Prefix, EVEX
 * Prefix"; AMD APM, "VEX/XOP Prefix".
 */
static enum insn_result decode_vex(struct insn *insn, struct cursor *cursor, uint8_t byte)
{
    uint8_t payload = fetch_8(cursor);
    unsigned bits = payload;

    if (insn->rex || (insn->prefixes & (INSN_PREFIX_LOCK | INSN_PREFIX_REP | INSN_PREFIX_REPNE |
                                        INSN_PREFIX_OPSIZE)))
        return INSN_INVALID;
    insn->encoding = byte == 0x8f ? INSN_XOP : byte == 0x62 ? INSN_EVEX : INSN_VEX;
    if (byte == 0xc5) {
        insn->map = INSN_MAP_0F;
        bits |= 0x60;
        insn->rex = (uint8_t)(0x40 | (~bits >> 5 & 4));
    } else {
        uint8_t second = fetch_8(cursor);

        insn->map = payload & (byte == 0x62 ? 7 : 31);
        insn->rex = (uint8_t)(0x40 | (~bits >> 5 & 7) | (second >> 4 & 8));
        if (byte == 0x62) {
            fetch_8(cursor);
            if ((payload & 0x08) || !(second & 4))
                return INSN_INVALID;
        }
    }
    if (insn->mode != INSN_64)
        insn->rex = 0;
    insn->opcode = fetch_8(cursor);
    insn->operand_size = insn->rex & 8 ? 8 : 4;
    if (insn->encoding == INSN_VEX && insn->map == INSN_MAP_0F && insn->opcode == 0x77)
        return INSN_UNKNOWN; /* VZEROUPPER, VZEROALL */
    read_modrm(insn, cursor);
    if (insn->modrm < 0xc0)
        read_address(insn, cursor);
    if (insn->encoding == INSN_XOP) {
        if (insn->map == 8)
            fetch(cursor, 1);
        else if (insn->map == 10)
            fetch(cursor, 4);
        return insn->map >= 8 && insn->map <= 10 ? INSN_UNKNOWN : INSN_INVALID;
    }
    if (insn->map == INSN_MAP_0F3A || (insn->map == INSN_MAP_0F && (insn->opcode & 0xfc) == 0x70) ||
        (insn->map == INSN_MAP_0F && insn->opcode >= 0xc2 && insn->opcode <= 0xc6))
        insn->imm = fetch(cursor, 1);
    if (insn->map == 0 ||
        (insn->map > 3 && (insn->encoding == INSN_VEX || insn->map < 5 || insn->map > 6)))
        return INSN_INVALID;
    return INSN_UNKNOWN;
}

/* Is this byte, C4, C5, 62 or 8F, a VEX, EVEX or XOP prefix here? */
static bool is_vex(const struct insn *insn, const struct cursor *cursor, uint8_t byte)
{
    uint8_t next = cursor->at < cursor->limit ? cursor->bytes[cursor->at] : 0;

    if (byte == 0x8f) /* POP has ModRM.reg 0; XOP's map is 8 or more */
        return (next & 0x1f) >= 8;
    return insn->mode == INSN_64 || next >= 0xc0;
}

/* The entry of an opcode in the maps behind 0F. */
static struct insn_entry escaped_entry(struct insn *insn, struct cursor *cursor)
{
    struct insn_entry entry;

    insn->map = INSN_MAP_0F;
    insn->opcode = fetch_8(cursor);
    entry = insn_map_0f[insn->opcode];
    if (insn->opcode == 0x0f) {
        insn->map = INSN_MAP_3DNOW;
    } else if (insn->opcode == 0x38 || insn->opcode == 0x3a) {
        insn->map = insn->opcode == 0x38 ? INSN_MAP_0F38 : INSN_MAP_0F3A;
        insn->opcode = fetch_8(cursor);
        entry = (struct insn_entry){0, {0, 0, 0}, ATTR_MODRM | ATTR_SPECIAL};
    }
    return entry;
}

/* What ModRM, prefixes and the mode make of an opcode. */
static struct insn_entry completed_entry(const struct insn *insn, struct insn_entry entry)
{
    struct insn_entry base = entry;

    if (entry.attr & ATTR_GROUP) {
        entry = insn_groups[entry.op][(insn->modrm >> 3) & 7];
        entry.attr |= base.attr & ~(uint32_t)(ATTR_GROUP | ATTR_SPECIAL);
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
    if ((base.attr & ATTR_GROUP) && !entry.forms[0])
        __builtin_memcpy(entry.forms, base.forms, sizeof(entry.forms));
    return entry;
}

static enum insn_result decode_vector(struct insn *insn, struct cursor *cursor,
                                      struct insn_entry entry)
{
    unsigned bit = mandatory_prefix(insn) + (insn->modrm < 0xc0 ? 4 : 0);

    if (entry.forms[0] == 1)
        insn->imm = fetch(cursor, 1);
    else if (entry.forms[0] == 2)
        insn->imm = fetch(cursor, 2);
    if (insn->prefixes & INSN_PREFIX_LOCK)
        return INSN_INVALID;
    if (insn->map == INSN_MAP_3DNOW && !(insn_valid_3dnow[insn->imm >> 6] >> (insn->imm & 63) & 1))
        return INSN_INVALID;
    return entry.forms[1] >> bit & 1 ? INSN_UNKNOWN : INSN_INVALID;
}

static inline enum insn_result decode_operands(struct insn *insn, struct cursor *cursor,
                                               struct insn_entry entry)
{
    unsigned access = entry.attr / ATTR_R0, i;
    bool valid = true;

    for (i = 0; i < 3 && entry.forms[i]; i++) {
        insn->operand[i].access = INSN_READ;
        valid &= decode_operand(insn, cursor, &insn->operand[i], entry.forms[i]);
    }
    insn->operands = (uint8_t)i;
    insn->operand[0].access = (uint8_t)(access & 3);
    if (entry.attr & ATTR_W1)
        insn->operand[1].access |= INSN_WRITE;
    if (!valid)
        return INSN_INVALID;
    if ((insn->prefixes & INSN_PREFIX_LOCK) &&
        (!(entry.attr & ATTR_LOCK) || insn->operand[0].kind != INSN_MEM))
        return INSN_INVALID;
    return insn->op == INSN_OP_UNKNOWN ? INSN_UNKNOWN : INSN_OK;
}

enum insn_result insn_decode(struct insn *insn, const uint8_t *bytes, size_t available,
                             enum insn_mode mode)
{
    struct cursor cursor = {bytes, 0,
                            available < INSN_MAX_LENGTH ? (unsigned)available : INSN_MAX_LENGTH};
    bool amd = mode == INSN_64_AMD;
    struct insn_entry entry;
    enum insn_result result;
    uint8_t byte;

    *insn = (struct insn){.mode = (uint8_t)(amd ? INSN_64 : mode)};
    byte = fetch_8(&cursor);
    entry = insn_map_one[byte];
    if (entry.attr & ATTR_UNUSUAL) {
        byte = read_prefixes(insn, &cursor, byte);
        entry = insn_map_one[byte];
        insn->address_size = size_of_address(insn);
        if ((entry.attr & ATTR_VEX) && is_vex(insn, &cursor, byte)) {
            result = decode_vex(insn, &cursor, byte);
            return finish(insn, &cursor, available, result);
        }
        insn->opcode = byte;
        if (entry.attr & ATTR_ESCAPE)
            entry = escaped_entry(insn, &cursor);
    } else {
        insn->opcode = byte;
        insn->address_size = size_of_address(insn);
    }
    if (entry.attr & ATTR_MODRM)
        read_modrm(insn, &cursor);
    if (entry.attr & (ATTR_GROUP | ATTR_SPECIAL))
        entry = completed_entry(insn, entry);
    if (entry.attr & ATTR_MOD3)
        insn->modrm |= 0xc0;
    insn->operand_size = size_of_operand(insn, entry.attr, amd);
    if ((entry.attr & ATTR_MODRM) && insn->modrm < 0xc0)
        read_address(insn, &cursor);
    if (entry.attr & (ATTR_INVALID | (insn->mode == INSN_64 ? ATTR_NOT64 : ATTR_ONLY64)))
        return finish(insn, &cursor, available, INSN_INVALID);
    if (entry.attr & ATTR_VECTOR) {
        result = decode_vector(insn, &cursor, entry);
    } else {
        insn->op = entry.op;
        result = decode_operands(insn, &cursor, entry);
    }
    return finish(insn, &cursor, available, result);
}
