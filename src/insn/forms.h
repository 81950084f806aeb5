/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Short names for the opcode tables only: operand forms as the manuals write them (Eb: byte in
 * ModRM.rm, Gv: operand-size register in ModRM.reg, ...), accesses and entry builders.
 */
#ifndef VIRTX_INSN_FORMS_H
#define VIRTX_INSN_FORMS_H

#include "insn/tables.h"

#define Eb  FORM(FORM_E, SIZE_B)
#define Ew  FORM(FORM_E, SIZE_W)
#define Ed  FORM(FORM_E, SIZE_D)
#define Ev  FORM(FORM_E, SIZE_V)
#define Ez  FORM(FORM_E, SIZE_Z)
#define Ey  FORM(FORM_E, SIZE_Y)
#define En  FORM(FORM_E, SIZE_N)
#define RvM FORM(FORM_EW, SIZE_V)
#define M0  FORM(FORM_M, SIZE_0)
#define Mb  FORM(FORM_M, SIZE_B)
#define Mv  FORM(FORM_M, SIZE_V)
#define My  FORM(FORM_M, SIZE_Y)
#define Mp  FORM(FORM_MP, SIZE_0)
#define Ma  FORM(FORM_MX, SIZE_V)
#define Mx  FORM(FORM_MX, SIZE_Y)
#define Mq  FORM(FORM_MQ, SIZE_0)
#define Mo  FORM(FORM_MO, SIZE_0)
#define Ms  FORM(FORM_MS, SIZE_0)
#define Rv  FORM(FORM_R, SIZE_V)
#define Ry  FORM(FORM_R, SIZE_Y)
#define Rn  FORM(FORM_R, SIZE_N)
#define Gb  FORM(FORM_G, SIZE_B)
#define Gw  FORM(FORM_G, SIZE_W)
#define Gv  FORM(FORM_G, SIZE_V)
#define Gy  FORM(FORM_G, SIZE_Y)
#define Gn  FORM(FORM_G, SIZE_N)
#define Zb  FORM(FORM_Z, SIZE_B)
#define Zv  FORM(FORM_Z, SIZE_V)
#define AL  FORM(FORM_ACC, SIZE_B)
#define AXz FORM(FORM_ACC, SIZE_Z)
#define AXv FORM(FORM_ACC, SIZE_V)
#define CL  FORM(FORM_CL, SIZE_B)
#define DX  FORM(FORM_DX, SIZE_W)
#define Ib  FORM(FORM_I, SIZE_B)
#define Iz  FORM(FORM_I, SIZE_Z)
#define Iv  FORM(FORM_I, SIZE_V)
#define Ub  FORM(FORM_U, SIZE_B)
#define Uw  FORM(FORM_U, SIZE_W)
#define One FORM(FORM_ONE, SIZE_B)
#define Jb  FORM(FORM_J, SIZE_B)
#define Jz  FORM(FORM_J, SIZE_Z)
#define Ap  FORM(FORM_AP, SIZE_Z)
#define Ob  FORM(FORM_O, SIZE_B)
#define Ov  FORM(FORM_O, SIZE_V)
#define Sw  FORM(FORM_S, SIZE_W)
#define Cn  FORM(FORM_C, SIZE_N)
#define Dn  FORM(FORM_D, SIZE_N)
#define Xb  FORM(FORM_X, SIZE_B)
#define Xv  FORM(FORM_X, SIZE_V)
#define Xz  FORM(FORM_X, SIZE_Z)
#define Yb  FORM(FORM_Y, SIZE_B)
#define Yv  FORM(FORM_Y, SIZE_V)
#define Yz  FORM(FORM_Y, SIZE_Z)
/* Fixed segment registers. */
#define SEG(n) FORM(FORM_SEG + (n), SIZE_W)

/* Access to operand 0 (and 1). */
#define R_  ATTR_R0
#define W_  ATTR_W0
#define RW_ (ATTR_R0 | ATTR_W0)
#define X_  (RW_ | ATTR_W1)
#define L_  (RW_ | ATTR_LOCK)
#define M_  ATTR_MODRM

#define OP(op, f0, f1, f2, attr)                                                                   \
    {                                                                                              \
        INSN_OP_##op, {f0, f1, f2}, attr                                                           \
    }
#define OP0(op, attr)                                                                              \
    {                                                                                              \
        INSN_OP_##op, {0, 0, 0}, attr                                                              \
    }
#define GRP(group, f0, f1, attr)                                                                   \
    {                                                                                              \
        group, {f0, f1, 0}, (attr) | ATTR_MODRM | ATTR_GROUP                                       \
    }
#define SPEC(attr)                                                                                 \
    {                                                                                              \
        0, {0, 0, 0}, (attr) | ATTR_SPECIAL                                                        \
    }
#define BAD                                                                                        \
    {                                                                                              \
        0, {0, 0, 0}, ATTR_INVALID                                                                 \
    }
/* Vector opcodes with ModRM and i immediate bytes, valid as the mask says. */
#define V(mask)                                                                                    \
    {                                                                                              \
        0, {0, mask, 0}, ATTR_VECTOR | ATTR_MODRM                                                  \
    }
#define VI(mask, imms)                                                                             \
    {                                                                                              \
        0, {imms, mask, 0}, ATTR_VECTOR | ATTR_MODRM                                               \
    }
/* Opcodes without ModRM that are not modelled. */
#define OTHER                                                                                      \
    {                                                                                              \
        0, {0, 0, 0}, 0                                                                            \
    }

#endif
