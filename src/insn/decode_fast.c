/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * insn_decode: what exits most often is decoded in a straight line, the rest left to the general
 * decoder. Fast are opcodes without operands, those with a register and a register or memory, MOV
 * to and from control registers, and 0F 01 (INVLPG, VMMCALL, ...); before them at most a REX
 * prefix. 16-bit code is never fast.
 */
#include "insn/decode.h"

/*
 * A shape says all that the straight line needs: SHAPE_EG opcodes have the bits below, the others
 * are values of their own. 0: not fast.
 */
enum shape {
    SHAPE_PLAIN = 1, /* nothing but the opcode */
    SHAPE_CR_READ,
    SHAPE_CR_WRITE,
    SHAPE_GROUP_7,
    SHAPE_EG = 0x80,
    SHAPE_G_FIRST = 0x40, /* ModRM.reg is the destination */
    SHAPE_G_BYTE = 0x20,
    SHAPE_E_BYTE = 0x10,
    SHAPE_E_WORD = 0x08,
    SHAPE_READ = 0x01,  /* the destination is read */
    SHAPE_WRITE = 0x02, /* the destination is written */
};

#define EB_GB     (SHAPE_EG | SHAPE_G_BYTE | SHAPE_E_BYTE)
#define GB_EB     (SHAPE_EG | SHAPE_G_BYTE | SHAPE_E_BYTE | SHAPE_G_FIRST)
#define EV_GV     SHAPE_EG
#define GV_EV     (SHAPE_EG | SHAPE_G_FIRST)
#define R         SHAPE_READ
#define W         SHAPE_WRITE
#define RW        (SHAPE_READ | SHAPE_WRITE)
#define ALU(base) [base] = EB_GB | RW, EV_GV | RW, GB_EB | RW, GV_EV | RW

static const uint8_t shapes[2][256] = {
    {
        ALU(0x00),
        ALU(0x08),
        ALU(0x10),
        ALU(0x18),
        ALU(0x20),
        ALU(0x28),
        ALU(0x30),
        [0x38] = EB_GB | R,
        [0x39] = EV_GV | R,
        [0x3a] = GB_EB | R,
        [0x3b] = GV_EV | R,
        [0x84] = EB_GB | R,
        [0x85] = EV_GV | R,
        [0x88] = EB_GB | W,
        [0x89] = EV_GV | W,
        [0x8a] = GB_EB | W,
        [0x8b] = GV_EV | W,
        [0xf4] = SHAPE_PLAIN,
    },
    {
        [0x01] = SHAPE_GROUP_7,
        [0x06] = SHAPE_PLAIN,
        [0x08 ... 0x09] = SHAPE_PLAIN,
        [0x20] = SHAPE_CR_READ,
        [0x22] = SHAPE_CR_WRITE,
        [0x30 ... 0x33] = SHAPE_PLAIN,
        [0xa2] = SHAPE_PLAIN,
        [0xb6] = GV_EV | W | SHAPE_E_BYTE,
        [0xb7] = GV_EV | W | SHAPE_E_WORD,
        [0xbe] = GV_EV | W | SHAPE_E_BYTE,
        [0xbf] = GV_EV | W | SHAPE_E_WORD,
    },
};

enum { CONTROL_REGISTERS = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 8 };

static inline void set_register(struct insn_operand *operand, unsigned reg, unsigned size,
                                unsigned rex)
{
    operand->kind = INSN_REG;
    operand->size = (uint8_t)size;
    if (size == 1 && !rex && reg >= 4) { /* AH, CH, DH, BH */
        operand->kind = INSN_REG_HIGH;
        reg &= 3;
    }
    operand->reg = (uint8_t)reg;
}

/* The operand in ModRM.rm; at is behind ModRM. Returns where the instruction ends. */
static inline const uint8_t *set_rm(struct insn *insn, struct insn_operand *operand, unsigned size,
                                    const uint8_t *at)
{
    unsigned modrm = insn->modrm, rex = insn->rex;

    if (modrm >= 0xc0) {
        set_register(operand, (modrm & 7) | (rex & 1) << 3, size, rex);
        return at;
    }
    operand->kind = INSN_MEM;
    operand->size = (uint8_t)size;
    return address_32(insn, modrm, rex, at);
}

/* rSP and rBP as a base mean the stack segment. */
static inline void set_segment(struct insn *insn)
{
    insn->mem.segment = (insn->mem.base & ~1u) == 4 ? INSN_SS : INSN_DS;
}

/* A register in ModRM.reg, a register or memory in ModRM.rm. */
static inline const uint8_t *line_eg(struct insn *insn, unsigned shape, const uint8_t *at)
{
    unsigned g_first = shape / SHAPE_G_FIRST & 1;
    struct insn_operand *g = &insn->operand[1 - g_first], *e = &insn->operand[g_first];
    unsigned e_size = insn->operand_size, g_size = e_size;

    if (shape & (SHAPE_G_BYTE | SHAPE_E_BYTE | SHAPE_E_WORD)) {
        e_size = shape & SHAPE_E_BYTE ? 1 : 2;
        g_size = shape & SHAPE_G_BYTE ? 1 : g_size;
    }
    set_register(g, ((insn->modrm >> 3) & 7u) | (insn->rex & 4u) << 1, g_size, insn->rex);
    at = set_rm(insn, e, e_size, at);
    insn->operand[1].access = INSN_READ;
    insn->operand[0].access = shape & 3;
    if (insn->modrm < 0xc0)
        set_segment(insn);
    insn->operands = 2;
    return at;
}

/* MOV to and from a control register: ModRM.mod does not matter. */
static inline enum insn_result line_control(struct insn *insn, unsigned write)
{
    struct insn_operand *control = &insn->operand[1 - write], *general = &insn->operand[write];
    unsigned cr = ((insn->modrm >> 3) & 7u) | (insn->rex & 4u) << 1;
    uint8_t size = insn->mode == INSN_64 ? 8 : 4;

    insn->op = INSN_OP_MOV_CR;
    insn->modrm |= 0xc0;
    control->kind = INSN_CR;
    control->reg = (uint8_t)cr;
    control->size = general->size = size;
    general->kind = INSN_REG;
    general->reg = (uint8_t)((insn->modrm & 7u) | (insn->rex & 1u) << 3);
    insn->operand[0].access = INSN_WRITE;
    insn->operand[1].access = INSN_READ;
    insn->operands = 2;
    return CONTROL_REGISTERS >> cr & 1 ? INSN_OK : INSN_INVALID;
}

/* 0F 01: INVLPG, and what has no operands; NULL: not fast. */
static inline const uint8_t *line_group_7(struct insn *insn, const uint8_t *at)
{
    const struct register_form *form = &insn_group7_register[insn->modrm & 63];

    if (insn->modrm >= 0xc0) {
        insn->op = form->op;
        return !form->op || (form->only64 & 1) ? NULL : at;
    }
    if ((insn->modrm & 0x38) != 0x38)
        return NULL;
    insn->op = INSN_OP_INVLPG;
    insn->operand[0].kind = INSN_MEM;
    insn->operand[0].access = INSN_READ;
    insn->operands = 1;
    at = address_32(insn, insn->modrm, insn->rex, at);
    set_segment(insn);
    return at;
}

/* What has a ModRM byte, or a REX prefix. */
static __attribute__((noinline)) enum insn_result
decode_line(struct insn *insn, const uint8_t *bytes, enum insn_mode mode)
{
    unsigned plain = mode == INSN_64_AMD ? INSN_64 : mode, opcode = bytes[0], rex = 0, map = 0;
    const uint8_t *at = bytes + 1;
    enum insn_result result = INSN_OK;
    unsigned shape;

    if ((opcode & 0xf0) == 0x40 && plain == INSN_64) {
        rex = opcode;
        opcode = *at++;
    }
    if (opcode == 0x0f) {
        map = INSN_MAP_0F;
        opcode = *at++;
    }
    shape = shapes[map][opcode];
    if (shape <= SHAPE_PLAIN)
        return insn_decode_general(insn, bytes, INSN_MAX_LENGTH, mode);
    clear(insn, HEAD(0, insn_map_op(map, opcode), map, opcode), plain);
    set_sizes(insn, plain, 0);
    if (rex) {
        insn->rex = (uint8_t)rex;
        if (rex & 8)
            insn->operand_size = 8;
    }
    insn->has_modrm = 1;
    insn->modrm = *at++;
    if (shape & SHAPE_EG)
        at = line_eg(insn, shape, at);
    else if (shape == SHAPE_GROUP_7)
        at = line_group_7(insn, at);
    else
        result = line_control(insn, shape == SHAPE_CR_WRITE);
    if (!at)
        return insn_decode_general(insn, bytes, INSN_MAX_LENGTH, mode);
    insn->length = (uint8_t)(at - bytes);
    return result;
}

enum insn_result insn_decode(struct insn *insn, const uint8_t *bytes, size_t available,
                             enum insn_mode mode)
{
    unsigned plain = mode == INSN_64_AMD ? INSN_64 : mode, opcode, map = 0;

    if (available < INSN_MAX_LENGTH || mode == INSN_16)
        return insn_decode_general(insn, bytes, available, mode);
    opcode = bytes[0];
    if (opcode == 0x0f) {
        opcode = bytes[1];
        map = 1;
    }
    if (shapes[map][opcode] != SHAPE_PLAIN)
        return decode_line(insn, bytes, mode);
    clear(insn, HEAD(map + 1, insn_map_op(map, opcode), map, opcode), plain);
    set_sizes(insn, plain, 0);
    return INSN_OK;
}
