/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The one-byte opcode map and the groups (Intel SDM "Opcode Map", AMD APM "Opcode and Operand
 * Encodings").
 */
#include "insn/forms.h"

/* clang-format off */
#define ALU_ROW(base, op, access)                                                                  \
    [base] = OP(op, Eb, Gb, 0, M_ | (access)), OP(op, Ev, Gv, 0, M_ | (access)),                   \
    OP(op, Gb, Eb, 0, M_ | (access)), OP(op, Gv, Ev, 0, M_ | (access)),                            \
    OP(op, AL, Ib, 0, (access) & ~ATTR_LOCK), OP(op, AXv, Iz, 0, (access) & ~ATTR_LOCK)

const struct insn_entry insn_map_one[256] = {
    ALU_ROW(0x00, ADD, L_),
    [0x06] = OP(PUSH_SEG, SEG(INSN_ES), 0, 0, R_ | ATTR_NOT64),
    OP(POP_SEG, SEG(INSN_ES), 0, 0, W_ | ATTR_NOT64),
    ALU_ROW(0x08, OR, L_),
    [0x0e] = OP(PUSH_SEG, SEG(INSN_CS), 0, 0, R_ | ATTR_NOT64),
    [0x0f] = {0, {0, 0, 0}, ATTR_ESCAPE},
    ALU_ROW(0x10, ADC, L_),
    [0x16] = OP(PUSH_SEG, SEG(INSN_SS), 0, 0, R_ | ATTR_NOT64),
    OP(POP_SEG, SEG(INSN_SS), 0, 0, W_ | ATTR_NOT64),
    ALU_ROW(0x18, SBB, L_),
    [0x1e] = OP(PUSH_SEG, SEG(INSN_DS), 0, 0, R_ | ATTR_NOT64),
    OP(POP_SEG, SEG(INSN_DS), 0, 0, W_ | ATTR_NOT64),
    ALU_ROW(0x20, AND, L_),
    [0x26] = {0, {0, 0, 0}, ATTR_PREFIX},
    [0x27] = OP0(DAA, ATTR_NOT64),
    ALU_ROW(0x28, SUB, L_),
    [0x2e] = {0, {0, 0, 0}, ATTR_PREFIX},
    [0x2f] = OP0(DAS, ATTR_NOT64),
    ALU_ROW(0x30, XOR, L_),
    [0x36] = {0, {0, 0, 0}, ATTR_PREFIX},
    [0x37] = OP0(AAA, ATTR_NOT64),
    ALU_ROW(0x38, CMP, R_),
    [0x3e] = {0, {0, 0, 0}, ATTR_PREFIX},
    [0x3f] = OP0(AAS, ATTR_NOT64),
    [0x40 ... 0x47] = OP(INC, Zv, 0, 0, RW_ | ATTR_REX),
    [0x48 ... 0x4f] = OP(DEC, Zv, 0, 0, RW_ | ATTR_REX),
    [0x50 ... 0x57] = OP(PUSH, Zv, 0, 0, R_ | ATTR_DEF64),
    [0x58 ... 0x5f] = OP(POP, Zv, 0, 0, W_ | ATTR_DEF64),
    [0x60] = OP0(PUSHA, ATTR_NOT64),
    [0x61] = OP0(POPA, ATTR_NOT64),
    [0x62] = OP(BOUND, Gv, Ma, 0, M_ | R_ | ATTR_NOT64 | ATTR_VEX),
    [0x63] = SPEC(M_),
    [0x64 ... 0x67] = {0, {0, 0, 0}, ATTR_PREFIX},
    [0x68] = OP(PUSH, Iz, 0, 0, R_ | ATTR_DEF64),
    [0x69] = OP(IMUL, Gv, Ev, Iz, M_ | W_),
    [0x6a] = OP(PUSH, Ib, 0, 0, R_ | ATTR_DEF64),
    [0x6b] = OP(IMUL, Gv, Ev, Ib, M_ | W_),
    [0x6c] = OP(INS, Yb, DX, 0, W_),
    [0x6d] = OP(INS, Yz, DX, 0, W_),
    [0x6e] = OP(OUTS, DX, Xb, 0, R_),
    [0x6f] = OP(OUTS, DX, Xz, 0, R_),
    [0x70 ... 0x7f] = OP(JCC, Jb, 0, 0, R_ | ATTR_NEAR | ATTR_BRANCH),
    [0x80] = GRP(GROUP_1, Eb, Ib, 0),
    [0x81] = GRP(GROUP_1, Ev, Iz, 0),
    [0x82] = GRP(GROUP_1, Eb, Ib, ATTR_NOT64),
    [0x83] = GRP(GROUP_1, Ev, Ib, 0),
    [0x84] = OP(TEST, Eb, Gb, 0, M_ | R_),
    [0x85] = OP(TEST, Ev, Gv, 0, M_ | R_),
    [0x86] = OP(XCHG, Eb, Gb, 0, M_ | X_ | ATTR_LOCK),
    [0x87] = OP(XCHG, Ev, Gv, 0, M_ | X_ | ATTR_LOCK),
    [0x88] = OP(MOV, Eb, Gb, 0, M_ | W_),
    [0x89] = OP(MOV, Ev, Gv, 0, M_ | W_),
    [0x8a] = OP(MOV, Gb, Eb, 0, M_ | W_),
    [0x8b] = OP(MOV, Gv, Ev, 0, M_ | W_),
    [0x8c] = OP(MOV_SEG, RvM, Sw, 0, M_ | W_),
    [0x8d] = OP(LEA, Gv, M0, 0, M_ | W_),
    [0x8e] = OP(MOV_SEG, Sw, Ew, 0, M_ | W_),
    [0x8f] = GRP(GROUP_1A, Ev, 0, ATTR_DEF64 | ATTR_VEX),
    [0x90] = SPEC(0),
    [0x91 ... 0x97] = OP(XCHG, Zv, AXv, 0, X_),
    [0x98] = OP0(CBW, 0),
    [0x99] = OP0(CWD, 0),
    [0x9a] = OP(CALL_FAR, Ap, 0, 0, R_ | ATTR_NOT64),
    [0x9b] = OTHER,
    [0x9c] = OP0(PUSHF, ATTR_DEF64),
    [0x9d] = OP0(POPF, ATTR_DEF64),
    [0x9e] = OP0(SAHF, 0),
    [0x9f] = OP0(LAHF, 0),
    [0xa0] = OP(MOV, AL, Ob, 0, W_),
    [0xa1] = OP(MOV, AXv, Ov, 0, W_),
    [0xa2] = OP(MOV, Ob, AL, 0, W_),
    [0xa3] = OP(MOV, Ov, AXv, 0, W_),
    [0xa4] = OP(MOVS, Yb, Xb, 0, W_),
    [0xa5] = OP(MOVS, Yv, Xv, 0, W_),
    [0xa6] = OP(CMPS, Xb, Yb, 0, R_),
    [0xa7] = OP(CMPS, Xv, Yv, 0, R_),
    [0xa8] = OP(TEST, AL, Ib, 0, R_),
    [0xa9] = OP(TEST, AXv, Iz, 0, R_),
    [0xaa] = OP(STOS, Yb, AL, 0, W_),
    [0xab] = OP(STOS, Yv, AXv, 0, W_),
    [0xac] = OP(LODS, AL, Xb, 0, W_),
    [0xad] = OP(LODS, AXv, Xv, 0, W_),
    [0xae] = OP(SCAS, AL, Yb, 0, R_),
    [0xaf] = OP(SCAS, AXv, Yv, 0, R_),
    [0xb0 ... 0xb7] = OP(MOV, Zb, Ib, 0, W_),
    [0xb8 ... 0xbf] = OP(MOV, Zv, Iv, 0, W_),
    [0xc0] = GRP(GROUP_2, Eb, Ub, 0),
    [0xc1] = GRP(GROUP_2, Ev, Ub, 0),
    [0xc2] = OP(RET, Uw, 0, 0, R_ | ATTR_NEAR),
    [0xc3] = OP0(RET, ATTR_NEAR),
    [0xc4] = OP(LFP, Gv, Mp, SEG(INSN_ES), M_ | W_ | ATTR_NOT64 | ATTR_VEX),
    [0xc5] = OP(LFP, Gv, Mp, SEG(INSN_DS), M_ | W_ | ATTR_NOT64 | ATTR_VEX),
    [0xc6] = GRP(GROUP_11, Eb, Ib, 0),
    [0xc7] = GRP(GROUP_11, Ev, Iz, 0),
    [0xc8] = OP(ENTER, Uw, Ub, 0, R_ | ATTR_DEF64),
    [0xc9] = OP0(LEAVE, ATTR_DEF64),
    [0xca] = OP(RET_FAR, Uw, 0, 0, R_),
    [0xcb] = OP0(RET_FAR, 0),
    [0xcc] = OP0(INT3, 0),
    [0xcd] = OP(INT, Ub, 0, 0, R_),
    [0xce] = OP0(INTO, ATTR_NOT64),
    [0xcf] = OP0(IRET, 0),
    [0xd0] = GRP(GROUP_2, Eb, One, 0),
    [0xd1] = GRP(GROUP_2, Ev, One, 0),
    [0xd2] = GRP(GROUP_2, Eb, CL, 0),
    [0xd3] = GRP(GROUP_2, Ev, CL, 0),
    [0xd4] = OP(AAM, Ub, 0, 0, R_ | ATTR_NOT64),
    [0xd5] = OP(AAD, Ub, 0, 0, R_ | ATTR_NOT64),
    [0xd6] = OP0(SALC, ATTR_NOT64),
    [0xd7] = OP0(XLAT, 0),
    [0xd8 ... 0xdf] = SPEC(M_),
    [0xe0] = OP(LOOPNE, Jb, 0, 0, R_ | ATTR_NEAR | ATTR_BRANCH),
    [0xe1] = OP(LOOPE, Jb, 0, 0, R_ | ATTR_NEAR | ATTR_BRANCH),
    [0xe2] = OP(LOOP, Jb, 0, 0, R_ | ATTR_NEAR | ATTR_BRANCH),
    [0xe3] = OP(JCXZ, Jb, 0, 0, R_ | ATTR_NEAR | ATTR_BRANCH),
    [0xe4] = OP(IN, AL, Ub, 0, W_),
    [0xe5] = OP(IN, AXz, Ub, 0, W_),
    [0xe6] = OP(OUT, Ub, AL, 0, R_),
    [0xe7] = OP(OUT, Ub, AXz, 0, R_),
    [0xe8] = OP(CALL, Jz, 0, 0, R_ | ATTR_NEAR | ATTR_BRANCH),
    [0xe9] = OP(JMP, Jz, 0, 0, R_ | ATTR_NEAR | ATTR_BRANCH),
    [0xea] = OP(JMP_FAR, Ap, 0, 0, R_ | ATTR_NOT64),
    [0xeb] = OP(JMP, Jb, 0, 0, R_ | ATTR_NEAR | ATTR_BRANCH),
    [0xec] = OP(IN, AL, DX, 0, W_),
    [0xed] = OP(IN, AXz, DX, 0, W_),
    [0xee] = OP(OUT, DX, AL, 0, R_),
    [0xef] = OP(OUT, DX, AXz, 0, R_),
    [0xf0] = {0, {0, 0, 0}, ATTR_PREFIX},
    [0xf1] = OP0(INT1, 0),
    [0xf2 ... 0xf3] = {0, {0, 0, 0}, ATTR_PREFIX},
    [0xf4] = OP0(HLT, 0),
    [0xf5] = OP0(CMC, 0),
    [0xf6] = GRP(GROUP_3B, Eb, 0, 0),
    [0xf7] = GRP(GROUP_3V, Ev, 0, 0),
    [0xf8] = OP0(CLC, 0),
    [0xf9] = OP0(STC, 0),
    [0xfa] = OP0(CLI, 0),
    [0xfb] = OP0(STI, 0),
    [0xfc] = OP0(CLD, 0),
    [0xfd] = OP0(STD, 0),
    [0xfe] = GRP(GROUP_4, Eb, 0, 0),
    [0xff] = GRP(GROUP_5, 0, 0, 0),
};

/* An entry without forms takes those of the opcode, so that one row serves byte and word forms. */
const struct insn_entry insn_groups[GROUP_COUNT][8] = {
    [GROUP_1] = {OP0(ADD, L_), OP0(OR, L_), OP0(ADC, L_), OP0(SBB, L_), OP0(AND, L_), OP0(SUB, L_),
                 OP0(XOR, L_), OP0(CMP, R_)},
    [GROUP_1A] = {OP0(POP, W_), BAD, BAD, BAD, BAD, BAD, BAD, BAD},
    [GROUP_2] = {OP0(ROL, RW_), OP0(ROR, RW_), OP0(RCL, RW_), OP0(RCR, RW_), OP0(SHL, RW_),
                 OP0(SHR, RW_), OP0(SHL, RW_), OP0(SAR, RW_)},
    [GROUP_3B] = {OP(TEST, Eb, Ib, 0, R_), OP(TEST, Eb, Ib, 0, R_), OP0(NOT, L_), OP0(NEG, L_),
                  OP0(MUL, R_), OP0(IMUL, R_), OP0(DIV, R_), OP0(IDIV, R_)},
    [GROUP_3V] = {OP(TEST, Ev, Iz, 0, R_), OP(TEST, Ev, Iz, 0, R_), OP0(NOT, L_), OP0(NEG, L_),
                  OP0(MUL, R_), OP0(IMUL, R_), OP0(DIV, R_), OP0(IDIV, R_)},
    [GROUP_4] = {OP0(INC, L_), OP0(DEC, L_), BAD, BAD, BAD, BAD, BAD, BAD},
    [GROUP_5] = {OP(INC, Ev, 0, 0, L_), OP(DEC, Ev, 0, 0, L_),
                 OP(CALL, Ev, 0, 0, R_ | ATTR_NEAR), OP(CALL_FAR, Mp, 0, 0, R_),
                 OP(JMP, Ev, 0, 0, R_ | ATTR_NEAR), OP(JMP_FAR, Mp, 0, 0, R_),
                 OP(PUSH, Ev, 0, 0, R_ | ATTR_DEF64), BAD},
    [GROUP_6] = {OP(SLDT, RvM, 0, 0, W_), OP(STR, RvM, 0, 0, W_), OP(LLDT, Ew, 0, 0, R_),
                 OP(LTR, Ew, 0, 0, R_), OP(VERR, Ew, 0, 0, R_), OP(VERW, Ew, 0, 0, R_), BAD, BAD},
    [GROUP_8] = {BAD, BAD, BAD, BAD, OP0(BT, R_), OP0(BTS, L_), OP0(BTR, L_), OP0(BTC, L_)},
    [GROUP_11] = {OP0(MOV, W_), BAD, BAD, BAD, BAD, BAD, BAD, SPEC(0)},
};

/* clang-format on */

/* x87 (D8 to DF): which ModRM.reg exist with memory, and which of C0 to FF exist. */
static const uint8_t x87_memory[8] = {0xff, 0xfd, 0xff, 0xaf, 0xff, 0xdf, 0xff, 0xff};
static const uint64_t x87_register[8] = {0xffffffffffffffff, 0xffff7f33ff01ffff, 0x00000200ffffffff,
                                         0x00ffff1fffffffff, 0xffffffffffffffff, 0x0000ffffffffffff,
                                         0xffffffff02ffffff, 0x00ffff01ffffffff};

static bool x87_valid(const struct insn *insn)
{
    unsigned row = insn->opcode & 7;

    if (insn->modrm >= 0xc0)
        return x87_register[row] >> (insn->modrm & 63) & 1;
    return x87_memory[row] >> ((insn->modrm >> 3) & 7) & 1;
}

struct insn_entry insn_special_one(const struct insn *insn)
{
    static const struct insn_entry arpl = OP(ARPL, Ew, Gw, 0, M_ | RW_);
    static const struct insn_entry movsxd = OP(MOVSX, Gv, Ez, 0, M_ | W_);
    static const struct insn_entry nop = OP0(NOP, 0);
    static const struct insn_entry pause = OP0(PAUSE, 0);
    static const struct insn_entry xchg = OP(XCHG, Zv, AXv, 0, X_);
    static const struct insn_entry other = {0, {0, 0, 0}, M_};
    static const struct insn_entry bad = BAD;

    switch (insn->opcode) {
    case 0x63:
        return insn->mode == INSN_64 ? movsxd : arpl;
    case 0x90:
        if (insn->rex & 1)
            return xchg;
        return insn->prefixes & INSN_PREFIX_REP ? pause : nop;
    case 0xc6: /* XABORT, XBEGIN */
    case 0xc7:
        return insn->modrm == 0xf8 ? other : bad;
    default:
        return x87_valid(insn) ? other : bad;
    }
}
