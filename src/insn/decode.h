/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the parts of the decoder share. Private.
 */
#ifndef VIRTX_INSN_DECODE_H
#define VIRTX_INSN_DECODE_H

#include "insn/tables.h"

/*
 * Bytes are read from a copy that is padded with zeros, so that no step has to ask whether there
 * are enough; that is asked once, at the end, and nothing decided on padding is ever returned. The
 * longest run is 14 prefixes, 3 opcode bytes, ModRM, SIB, 4 bytes of displacement, 8 of immediate.
 */
enum { PADDED = 32 };

/* A table entry in one register: op, forms and attr from bit 0. */
typedef uint64_t entry_word;

static inline entry_word pack(const struct insn_entry *entry)
{
    entry_word word;

    __builtin_memcpy(&word, entry, sizeof(word));
    return word;
}

static inline uint32_t attr_of(entry_word entry)
{
    return (uint32_t)(entry >> 32);
}

/* Where reading has got to, and whether the encoding is valid so far; travels in registers. */
struct step {
    const uint8_t *at;
    uint64_t valid;
};

/* Little-endian, zero-extended; bytes is 1, 2, 4 or 8. */
static inline uint64_t load(const uint8_t *at, unsigned bytes)
{
    uint16_t word;
    uint32_t dword;
    uint64_t qword;

    switch (bytes) {
    case 1:
        return *at;
    case 2:
        __builtin_memcpy(&word, at, 2);
        return word;
    case 4:
        __builtin_memcpy(&dword, at, 4);
        return dword;
    default:
        __builtin_memcpy(&qword, at, 8);
        return qword;
    }
}

static inline uint64_t load_signed(const uint8_t *at, unsigned bytes)
{
    uint64_t value = load(at, bytes);

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

/* Sizes by mode, operand-size and address-size prefix: operand in bits 7:0, address in 15:8. */
extern const uint16_t insn_default_sizes[12];

static inline void set_sizes(struct insn *insn, unsigned mode, unsigned prefixes)
{
    _Static_assert(offsetof(struct insn, address_size) == offsetof(struct insn, operand_size) + 1,
                   "both sizes are stored at once");
    __builtin_memcpy(&insn->operand_size, &insn_default_sizes[mode * 4 + ((prefixes >> 3) & 3)], 2);
}

/* Sizes of operand forms, by mode (64-bit or not), enum form_size and log2 of words. */
extern const uint8_t insn_form_sizes[2][8][4];

/* An operand as the bytes of struct insn_operand. */
static inline uint32_t register_operand(unsigned reg, unsigned size, unsigned rex)
{
    /* Without REX, byte registers 4 to 7 are AH, CH, DH, BH. */
    if (size == 1 && !rex && reg >= 4)
        return INSN_REG_HIGH | (reg & 3) << 8 | 1 << 16;
    return INSN_REG | reg << 8 | size << 16;
}

/* struct insn from length to address_size, for one store where all is known. */
#define HEAD(length, op, map, opcode)                                                              \
    ((uint64_t)(length) | (uint64_t)(op) << 8 | (uint64_t)(map) << 16 | (uint64_t)(opcode) << 24)

_Static_assert(sizeof(struct insn) == 48 && offsetof(struct insn, length) == 16 &&
                   offsetof(struct insn, opcode) == 19 && offsetof(struct insn, mode) == 24,
               "clear stores struct insn in six pieces");

/* Not memset or an initializer: GCC would make them REP STOS, slower than six stores. */
static inline void clear(struct insn *insn, uint64_t head, unsigned mode)
{
    uint64_t words[6] = {0, 0, head, mode, 0, 0};

    __builtin_memcpy((uint8_t *)insn, &words[0], 8);
    __builtin_memcpy((uint8_t *)insn + 8, &words[1], 8);
    __builtin_memcpy((uint8_t *)insn + 16, &words[2], 8);
    __builtin_memcpy((uint8_t *)insn + 24, &words[3], 8);
    __builtin_memcpy((uint8_t *)insn + 32, &words[4], 8);
    __builtin_memcpy((uint8_t *)insn + 40, &words[5], 8);
}

/* 16-bit addressing forms; returns where reading continues. */
const uint8_t *insn_address_16(struct insn *insn, const uint8_t *at);

/* "32-Bit Addressing Forms with the ModR/M Byte", and with SIB; REX and RIP in 64-bit mode. */
static inline const uint8_t *address_32(struct insn *insn, unsigned modrm, unsigned rex,
                                        const uint8_t *at)
{
    unsigned mod = modrm >> 6, rm = modrm & 7;
    unsigned base = rm | (rex & 1u) << 3, index = INSN_NO_REGISTER, scale = 0;

    if (rm == 4) {
        unsigned sib = *at++;

        insn->sib = (uint8_t)sib;
        rm = sib & 7;
        base = rm | (rex & 1u) << 3;
        index = ((sib >> 3) & 7u) | (rex & 2u) << 2;
        scale = sib >> 6;
        if (index == 4) {
            index = INSN_NO_REGISTER;
            scale = 0;
        }
        if (mod == 0 && rm == 5) {
            base = INSN_NO_REGISTER;
            mod = 2;
        }
    } else if (mod == 0 && rm == 5) {
        base = insn->mode == INSN_64 ? INSN_BASE_RIP : INSN_NO_REGISTER;
        mod = 2;
    }
    insn->mem.base = (uint8_t)base;
    insn->mem.index = (uint8_t)index;
    insn->mem.scale = (uint8_t)scale;
    if (mod == 1) {
        insn->disp = (int8_t)*at++;
    } else if (mod == 2) {
        insn->disp = (int64_t)load_signed(at, 4);
        at += 4;
    }
    return at;
}

static inline const uint8_t *read_address(struct insn *insn, unsigned modrm, unsigned rex,
                                          const uint8_t *at)
{
    at = insn->address_size == 2 ? insn_address_16(insn, at) : address_32(insn, modrm, rex, at);
    /* rSP and rBP as a base mean the stack segment, unless overridden. */
    if (!(insn->prefixes & INSN_PREFIX_SEGMENT))
        insn->mem.segment = (insn->mem.base & ~1u) == 4 ? INSN_SS : INSN_DS;
    return at;
}

/* The operation of an opcode that needs nothing to complete it. */
static inline unsigned insn_map_op(unsigned map, unsigned opcode)
{
    return map ? insn_map_0f[opcode].op : insn_map_one[opcode].op;
}

/* Anything, without haste. */
enum insn_result insn_decode_general(struct insn *insn, const uint8_t *bytes, size_t available,
                                     enum insn_mode mode);

/* Is the byte at at, C4, C5, 62 or 8F, a VEX, EVEX or XOP prefix here? */
bool insn_is_vex(const struct insn *insn, const uint8_t *at);
struct step insn_decode_vex(struct insn *insn, const uint8_t *at);

#endif
