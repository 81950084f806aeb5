/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the opcode tables hold. Private to the decoder.
 */
#ifndef VIRTX_INSN_TABLES_H
#define VIRTX_INSN_TABLES_H

#include "insn/insn.h"

/* The kind of an operand form, bits 7:3. Letters follow the manuals' opcode maps. */
enum form_kind {
    FORM_NONE,
    FORM_E,   /* ModRM.rm: register or memory */
    FORM_EW,  /* ModRM.rm: register of the given size, but always 16 bits of memory */
    FORM_M,   /* ModRM.rm: memory, a register is #UD */
    FORM_MP,  /* memory: far pointer */
    FORM_MS,  /* memory: descriptor-table pseudo-descriptor */
    FORM_MX,  /* memory: twice the size */
    FORM_MQ,  /* memory: 8 bytes */
    FORM_MO,  /* memory: 16 bytes */
    FORM_R,   /* ModRM.rm: register, memory is #UD */
    FORM_G,   /* ModRM.reg */
    FORM_Z,   /* register in the low opcode bits */
    FORM_ACC, /* AL, AX, EAX, RAX */
    FORM_CL,
    FORM_DX,
    FORM_I, /* immediate, sign-extended */
    FORM_U, /* immediate, zero-extended */
    FORM_ONE,
    FORM_J, /* branch displacement */
    FORM_AP,
    FORM_O, /* absolute address in the instruction */
    FORM_S, /* segment register in ModRM.reg */
    FORM_C,
    FORM_D,
    FORM_X,
    FORM_Y,
    FORM_SEG, /* FORM_SEG + n: segment register n */
};

/* The size of an operand form, bits 2:0. */
enum form_size {
    SIZE_0,
    SIZE_B,
    SIZE_W,
    SIZE_D,
    SIZE_V, /* 2, 4 or 8 with the operand size */
    SIZE_Z, /* 2 or 4 */
    SIZE_Y, /* 4 or 8 */
    SIZE_N, /* 8 in 64-bit mode, 4 otherwise */
};

#define FORM(kind, size) ((uint8_t)(((kind) << 3) | (size)))

enum entry_attr {
    ATTR_MODRM = 1u << 0,
    ATTR_PREFIX = 1u << 1, /* a legacy prefix */
    ATTR_REX = 1u << 2,    /* a REX prefix in 64-bit mode */
    ATTR_ESCAPE = 1u << 3, /* 0F */
    ATTR_VEX = 1u << 4,    /* C4, C5, 62, 8F: perhaps VEX, EVEX, XOP */
    ATTR_GROUP = 1u << 5,  /* op is a row of insn_groups */
    ATTR_SPECIAL = 1u << 6,
    ATTR_INVALID = 1u << 7,
    ATTR_NOT64 = 1u << 8,
    ATTR_ONLY64 = 1u << 9,
    ATTR_DEF64 = 1u << 10,  /* operand size is 64 in 64-bit mode, 16 with an operand-size prefix */
    ATTR_NEAR = 1u << 11,   /* near branch: 64 bits in 64-bit mode */
    ATTR_LOCK = 1u << 12,   /* LOCK is allowed with a memory destination */
    ATTR_MOD3 = 1u << 13,   /* ModRM.mod is ignored: always a register */
    ATTR_VECTOR = 1u << 14, /* not modelled: forms are {immediate bytes, validity mask} */
    ATTR_BRANCH = 1u << 15, /* ATTR_NEAR whose width an AMD processor lets the prefix change */
    ATTR_R0 = 1u << 16,     /* operand 0 is read */
    ATTR_W0 = 1u << 17,     /* operand 0 is written */
    ATTR_W1 = 1u << 18,     /* operand 1 is written too */
    ATTR_N1 = 1u << 19,     /* operand 1 is written and not read */
};

#define ATTR_UNUSUAL (ATTR_PREFIX | ATTR_REX | ATTR_ESCAPE | ATTR_VEX)
#define ATTR_ACCESS  (ATTR_R0 | ATTR_W0 | ATTR_W1 | ATTR_N1)

/* Validity masks of vector opcodes have one bit for each of these, times 16 for memory. */
enum mandatory_prefix { MANDATORY_NONE, MANDATORY_66, MANDATORY_F3, MANDATORY_F2 };

struct insn_entry {
    uint8_t op;       /* enum insn_op, or the group */
    uint8_t forms[3]; /* operands, destination first */
    uint32_t attr;
};

/* Groups: opcodes that ModRM.reg completes. An entry without forms takes the opcode's. */
enum insn_group {
    GROUP_1,
    GROUP_1A,
    GROUP_2,
    GROUP_3B,
    GROUP_3V,
    GROUP_4,
    GROUP_5,
    GROUP_6,
    GROUP_8,
    GROUP_11,
    GROUP_COUNT
};

extern const struct insn_entry insn_map_one[256];
extern const struct insn_entry insn_map_0f[256];
extern const struct insn_entry insn_groups[GROUP_COUNT][8];
extern const uint8_t insn_valid_0f38[256];
extern const uint8_t insn_valid_0f3a[256];
extern const uint64_t insn_valid_3dnow[4]; /* a bit for each trailing opcode byte */

/* 0F 01 with a register form: what it is without a mandatory prefix, and the prefixes (a bit for
   each enum mandatory_prefix) with which anything exists there. */
struct register_form {
    uint8_t op;
    uint8_t valid;
    uint8_t only64; /* exists in 64-bit mode only with these prefixes */
};

extern const struct register_form insn_group7_register[64];

/*
 * The entry of an opcode that prefixes, ModRM or the mode complete. Opcode, prefixes, rex, mode and
 * modrm of insn are known.
 */
struct insn_entry insn_special_one(const struct insn *insn);
struct insn_entry insn_special_0f(const struct insn *insn, unsigned mandatory);
struct insn_entry insn_entry_0f38(const struct insn *insn, unsigned mandatory);

#endif
