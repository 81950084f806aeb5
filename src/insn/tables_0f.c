/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The two-byte opcode map 0F, what completes its irregular opcodes, and which opcodes of the maps
 * 0F 38 and 0F 3A exist (Intel SDM "Opcode Map", AMD APM "Opcode and Operand Encodings").
 */
#include "insn/forms.h"

/* clang-format off */
const struct insn_entry insn_map_0f[256] = {
    [0x00] = GRP(GROUP_6, 0, 0, 0),
    [0x01] = SPEC(M_),
    [0x02] = OP(LAR, Gv, Ew, 0, M_ | W_),
    [0x03] = OP(LSL, Gv, Ew, 0, M_ | W_),
    [0x04] = BAD,
    [0x05] = OP0(SYSCALL, 0),
    [0x06] = OP0(CLTS, 0),
    [0x07] = OP0(SYSRET, 0),
    [0x08] = OP0(INVD, 0),
    [0x09] = OP0(WBINVD, 0),
    [0x0a] = BAD,
    [0x0b] = OP0(UD, 0),
    [0x0c] = BAD,
    [0x0d] = SPEC(M_),
    [0x0e] = OTHER,
    [0x0f] = {0, {1, 0xff, 0}, ATTR_VECTOR | ATTR_MODRM | ATTR_ESCAPE},
    [0x10] = V(0xff), V(0xff), V(0xfd), V(0x30), V(0x33), V(0x33), V(0x75), V(0x30),
    [0x18 ... 0x1d] = OP(NOP, Ev, 0, 0, M_),
    [0x1e] = SPEC(M_),
    [0x1f] = OP(NOP, Ev, 0, 0, M_),
    [0x20] = OP(MOV_CR, Rn, Cn, 0, M_ | W_ | ATTR_MOD3),
    [0x21] = OP(MOV_DR, Rn, Dn, 0, M_ | W_ | ATTR_MOD3),
    [0x22] = OP(MOV_CR, Cn, Rn, 0, M_ | W_ | ATTR_MOD3),
    [0x23] = OP(MOV_DR, Dn, Rn, 0, M_ | W_ | ATTR_MOD3),
    [0x24 ... 0x27] = BAD,
    [0x28] = V(0x33), V(0x33), V(0xff), V(0xf0), V(0xff), V(0xff), V(0x33), V(0x33),
    [0x30] = OP0(WRMSR, 0),
    [0x31] = OP0(RDTSC, 0),
    [0x32] = OP0(RDMSR, 0),
    [0x33] = OP0(RDPMC, 0),
    [0x34] = OP0(SYSENTER, 0),
    [0x35] = OP0(SYSEXIT, 0),
    [0x36] = BAD,
    [0x37] = {0, {0, 0x11, 0}, ATTR_VECTOR},
    [0x38] = SPEC(M_ | ATTR_ESCAPE),
    [0x39] = BAD,
    [0x3a] = SPEC(M_ | ATTR_ESCAPE),
    [0x3b ... 0x3f] = BAD,
    [0x40 ... 0x4f] = OP(CMOVCC, Gv, Ev, 0, M_ | RW_),
    [0x50] = V(0x03), V(0xff), V(0x55), V(0x55), V(0x33), V(0x33), V(0x33), V(0x33),
    [0x58] = V(0xff), V(0xff), V(0xff), V(0x77), V(0xff), V(0xff), V(0xff), V(0xff),
    [0x60] = V(0x33), V(0x33), V(0x33), V(0x33), V(0x33), V(0x33), V(0x33), V(0x33),
    [0x68] = V(0x33), V(0x33), V(0x33), V(0x33), V(0x22), V(0x22), V(0x33), V(0x77),
    [0x70] = VI(0xff, 1),
    [0x71 ... 0x73] = SPEC(M_),
    [0x74] = V(0x33), V(0x33), V(0x33),
    [0x77] = {0, {0, 0x11, 0}, ATTR_VECTOR},
    [0x78 ... 0x79] = SPEC(M_),
    [0x7a] = BAD, BAD, V(0xaa), V(0xaa), V(0x77), V(0x77),
    [0x80 ... 0x8f] = OP(JCC, Jz, 0, 0, R_ | ATTR_NEAR | ATTR_BRANCH),
    [0x90 ... 0x9f] = OP(SETCC, Eb, 0, 0, M_ | W_),
    [0xa0] = OP(PUSH_SEG, SEG(INSN_FS), 0, 0, R_ | ATTR_DEF64),
    [0xa1] = OP(POP_SEG, SEG(INSN_FS), 0, 0, W_ | ATTR_DEF64),
    [0xa2] = OP0(CPUID, 0),
    [0xa3] = OP(BT, Ev, Gv, 0, M_ | R_),
    [0xa4] = OP(SHLD, Ev, Gv, Ub, M_ | RW_),
    [0xa5] = OP(SHLD, Ev, Gv, CL, M_ | RW_),
    [0xa6 ... 0xa7] = BAD,
    [0xa8] = OP(PUSH_SEG, SEG(INSN_GS), 0, 0, R_ | ATTR_DEF64),
    [0xa9] = OP(POP_SEG, SEG(INSN_GS), 0, 0, W_ | ATTR_DEF64),
    [0xaa] = OP0(RSM, 0),
    [0xab] = OP(BTS, Ev, Gv, 0, M_ | L_),
    [0xac] = OP(SHRD, Ev, Gv, Ub, M_ | RW_),
    [0xad] = OP(SHRD, Ev, Gv, CL, M_ | RW_),
    [0xae] = SPEC(M_),
    [0xaf] = OP(IMUL, Gv, Ev, 0, M_ | RW_),
    [0xb0] = OP(CMPXCHG, Eb, Gb, 0, M_ | L_),
    [0xb1] = OP(CMPXCHG, Ev, Gv, 0, M_ | L_),
    [0xb2] = OP(LFP, Gv, Mp, SEG(INSN_SS), M_ | W_),
    [0xb3] = OP(BTR, Ev, Gv, 0, M_ | L_),
    [0xb4] = OP(LFP, Gv, Mp, SEG(INSN_FS), M_ | W_),
    [0xb5] = OP(LFP, Gv, Mp, SEG(INSN_GS), M_ | W_),
    [0xb6] = OP(MOVZX, Gv, Eb, 0, M_ | W_),
    [0xb7] = OP(MOVZX, Gv, Ew, 0, M_ | W_),
    [0xb8] = SPEC(M_),
    [0xb9] = OP(UD, Gv, Ev, 0, M_),
    [0xba] = GRP(GROUP_8, Ev, Ub, 0),
    [0xbb] = OP(BTC, Ev, Gv, 0, M_ | L_),
    [0xbc] = SPEC(M_),
    [0xbd] = SPEC(M_),
    [0xbe] = OP(MOVSX, Gv, Eb, 0, M_ | W_),
    [0xbf] = OP(MOVSX, Gv, Ew, 0, M_ | W_),
    [0xc0] = OP(XADD, Eb, Gb, 0, M_ | X_ | ATTR_LOCK),
    [0xc1] = OP(XADD, Ev, Gv, 0, M_ | X_ | ATTR_LOCK),
    [0xc2] = VI(0xff, 1),
    [0xc3] = SPEC(M_),
    [0xc4] = VI(0x33, 1), VI(0x03, 1), VI(0x33, 1),
    [0xc7] = SPEC(M_),
    [0xc8 ... 0xcf] = OP(BSWAP, Zv, 0, 0, RW_),
    [0xd0] = V(0xaa), V(0x33), V(0x33), V(0x33), V(0x33), V(0x33), V(0x2e), V(0x03),
    [0xd8] = V(0x33), V(0x33), V(0x33), V(0x33), V(0x33), V(0x33), V(0x33), V(0x33),
    [0xe0] = V(0x33), V(0x33), V(0x33), V(0x33), V(0x33), V(0x33), V(0xee), V(0x30),
    [0xe8] = V(0x33), V(0x33), V(0x33), V(0x33), V(0x33), V(0x33), V(0x33), V(0x33),
    [0xf0] = V(0x80), V(0x33), V(0x33), V(0x33), V(0x33), V(0x33), V(0x33), V(0x03),
    [0xf8] = V(0x33), V(0x33), V(0x33), V(0x33), V(0x33), V(0x33), V(0x33),
    [0xff] = OP(UD, Gv, Ev, 0, M_),
};

/* Opcodes with these mandatory prefixes: bits 3:0 (none, 66, F3, F2) with a register in ModRM.rm,
   bits 7:4 with memory. */
const uint8_t insn_valid_0f38[256] = {
    [0x00 ... 0x0b] = 0x33, [0x10] = 0x22, [0x14 ... 0x15] = 0x22, [0x17] = 0x22,
    [0x1c ... 0x1e] = 0x33, [0x20 ... 0x25] = 0x22, [0x28 ... 0x29] = 0x22, [0x2a] = 0x20,
    [0x2b] = 0x22, [0x30 ... 0x35] = 0x22, [0x37 ... 0x41] = 0x22, [0x80 ... 0x82] = 0x20,
    [0xc8 ... 0xcd] = 0x11, [0xcf] = 0x22, [0xd8] = 0x40, [0xdb] = 0x22, [0xdc] = 0x66,
    [0xdd ... 0xdf] = 0x62, [0xf0 ... 0xf1] = 0xb8, [0xf5] = 0x20, [0xf6] = 0x76, [0xf8] = 0xe0,
    [0xf9] = 0x10, [0xfa ... 0xfb] = 0x04,
};

const uint8_t insn_valid_0f3a[256] = {
    [0x08 ... 0x0e] = 0x22, [0x0f] = 0x33, [0x14 ... 0x17] = 0x22, [0x20 ... 0x22] = 0x22,
    [0x40 ... 0x42] = 0x22, [0x44] = 0x22, [0x60 ... 0x63] = 0x22, [0xcc] = 0x11,
    [0xce ... 0xcf] = 0x22, [0xdf] = 0x22, [0xf0] = 0x04,
};

/* AMD APM, "3DNow! Opcodes". */
const uint64_t insn_valid_3dnow[4] = {0x0000000030003000, 0x0000000000000000, 0x88d144d144d14400, 0x0000000000000000};

#define F(op, valid)      {INSN_OP_##op, valid, 0}
#define F64(valid, only64) {INSN_OP_UNKNOWN, valid, only64}

const struct register_form insn_group7_register[64] = {
    [0x00] = F(UNKNOWN, 1), F(VMCALL, 1), F(VMLAUNCH, 1), F(VMRESUME, 1), F(VMXOFF, 1),
    F(UNKNOWN, 1),
    [0x08] = F(MONITOR, 1), F(MWAIT, 1), F(CLAC, 1), F(STAC, 1), F(UNKNOWN, 2), F64(2, 2),
    F64(2, 2), F64(3, 2),
    [0x10] = F(XGETBV, 1), F(XSETBV, 1), F(UNKNOWN, 0), F(UNKNOWN, 0), F(VMFUNC, 1), F(UNKNOWN, 1),
    F(UNKNOWN, 1), F(UNKNOWN, 1),
    [0x18] = F(VMRUN, 15), F(VMMCALL, 15), F(VMLOAD, 15), F(VMSAVE, 15), F(STGI, 15), F(CLGI, 15),
    F(SKINIT, 15), F(INVLPGA, 15),
    [0x28] = F(UNKNOWN, 13), F(UNKNOWN, 8), F(UNKNOWN, 4), F(UNKNOWN, 0), F64(4, 4),
    F64(4, 4), F64(5, 4), F64(5, 4),
    [0x38] = {INSN_OP_SWAPGS, 15, 15}, F(RDTSCP, 15), F(MONITOR, 5), F(MWAIT, 1), F(UNKNOWN, 15),
    F(UNKNOWN, 15), F64(13, 12), F64(13, 4),
};

static const struct insn_entry group7[8] = {
    OP(SGDT, Ms, 0, 0, M_ | W_), OP(SIDT, Ms, 0, 0, M_ | W_), OP(LGDT, Ms, 0, 0, M_ | R_),
    OP(LIDT, Ms, 0, 0, M_ | R_), OP(SMSW, RvM, 0, 0, M_ | W_), BAD, OP(LMSW, Ew, 0, 0, M_ | R_),
    OP(INVLPG, M0, 0, 0, M_ | R_),
};

static const struct insn_entry group9_memory[8] = {
    BAD, OP(CMPXCHG8B, Mx, 0, 0, M_ | L_), BAD, V(0x10), V(0x10), V(0x10),
    OP(VMPTRLD, Mq, 0, 0, M_ | R_), OP(VMPTRST, Mq, 0, 0, M_ | W_),
};

static const struct insn_entry group15_register_f3[8] = {
    OP(RDFSBASE, Ry, 0, 0, M_ | W_ | ATTR_ONLY64), OP(RDGSBASE, Ry, 0, 0, M_ | W_ | ATTR_ONLY64),
    OP(WRFSBASE, Ry, 0, 0, M_ | R_ | ATTR_ONLY64), OP(WRGSBASE, Ry, 0, 0, M_ | R_ | ATTR_ONLY64),
    OTHER, OTHER, OTHER, BAD,
};
/* clang-format on */

static const struct insn_entry bad = BAD;
static const struct insn_entry other = {0, {0, 0, 0}, ATTR_MODRM};

static struct insn_entry plain(uint8_t op)
{
    return (struct insn_entry){op, {0, 0, 0}, ATTR_MODRM};
}

static struct insn_entry group_7(const struct insn *insn, unsigned mandatory)
{
    unsigned reg = (insn->modrm >> 3) & 7;
    const struct register_form *form = &insn_group7_register[insn->modrm & 63];
    uint8_t op = form->op;

    if (insn->modrm < 0xc0 && reg == 5) /* RSTORSSP */
        return mandatory == MANDATORY_F3 ? other : bad;
    if (insn->modrm < 0xc0 || reg == 4 || reg == 6)
        return group7[reg];
    if (!(form->valid >> mandatory & 1))
        return bad;
    if (insn->mode != INSN_64 && (form->only64 >> mandatory & 1))
        return bad;
    if (mandatory != MANDATORY_NONE && form->valid != 15)
        op = INSN_OP_UNKNOWN;
    return plain(op);
}

static struct insn_entry group_9(const struct insn *insn, unsigned mandatory)
{
    static const struct insn_entry rdrand = OP(RDRAND, Rv, 0, 0, M_ | W_);
    static const struct insn_entry rdseed = OP(RDSEED, Rv, 0, 0, M_ | W_);
    static const struct insn_entry rdpid = OP(RDPID, Rn, 0, 0, M_ | W_);
    static const struct insn_entry vmclear = OP(VMCLEAR, Mq, 0, 0, M_ | R_);
    static const struct insn_entry vmxon = OP(VMXON, Mq, 0, 0, M_ | R_);
    unsigned reg = (insn->modrm >> 3) & 7;

    if (insn->modrm < 0xc0) {
        if (reg == 6 && mandatory == MANDATORY_66)
            return vmclear;
        if (reg == 6 && mandatory == MANDATORY_F3)
            return vmxon;
        return reg >= 6 && mandatory != MANDATORY_NONE ? bad : group9_memory[reg];
    }
    if (reg < 6 || mandatory == MANDATORY_F2)
        return bad;
    if (mandatory == MANDATORY_F3) {
        if (reg == 6) /* SENDUIPI */
            return insn->mode == INSN_64 ? other : bad;
        return rdpid;
    }
    return reg == 6 ? rdrand : rdseed;
}

static struct insn_entry group_15(const struct insn *insn, unsigned mandatory)
{
    static const struct insn_entry clflush = OP(CLFLUSH, Mb, 0, 0, M_ | R_);
    /* FXSAVE .. CLFLUSH by prefix: one bit for each ModRM.reg that exists. */
    static const uint8_t memory[4] = {0x7f, 0x40, 0x50, 0x00};
    unsigned reg = (insn->modrm >> 3) & 7;

    if (insn->modrm < 0xc0) {
        if ((reg == 7 && mandatory <= MANDATORY_66) || (reg == 6 && mandatory == MANDATORY_66))
            return clflush;
        return memory[mandatory] >> reg & 1 ? other : bad;
    }
    switch (mandatory) {
    case MANDATORY_NONE:
        return reg >= 5 ? plain(INSN_OP_FENCE) : bad;
    case MANDATORY_F3:
        return group15_register_f3[reg];
    default: /* TPAUSE, UMWAIT */
        return reg == 6 ? other : bad;
    }
}

/* 71 to 73: vector shifts by an immediate; which ModRM.reg exist depends on the element size. */
static struct insn_entry vector_shift(const struct insn *insn, unsigned mandatory)
{
    static const struct insn_entry shift = VI(0x03, 1);
    static const uint8_t valid[3][2] = {{0x54, 0x54}, {0x54, 0x54}, {0x44, 0xcc}};
    unsigned reg = (insn->modrm >> 3) & 7;

    if (mandatory > MANDATORY_66 || !(valid[insn->opcode - 0x71][mandatory] >> reg & 1))
        return bad;
    return shift;
}

/* 78 and 79: VMREAD and VMWRITE, or AMD's EXTRQ and INSERTQ. */
static struct insn_entry vmread_or_extrq(const struct insn *insn, unsigned mandatory)
{
    static const struct insn_entry vmread = OP(VMREAD, En, Gn, 0, M_ | W_);
    static const struct insn_entry vmwrite = OP(VMWRITE, Gn, En, 0, M_ | R_);
    static const struct insn_entry vector_78 = VI(0x0a, 2);
    static const struct insn_entry vector_79 = V(0x0a);

    if (mandatory == MANDATORY_NONE)
        return insn->opcode == 0x78 ? vmread : vmwrite;
    if (insn->opcode == 0x78 && mandatory == MANDATORY_66 && (insn->modrm & 0x38))
        return bad;
    return insn->opcode == 0x78 ? vector_78 : vector_79;
}

struct insn_entry insn_special_0f(const struct insn *insn, unsigned mandatory)
{
    static const struct insn_entry nop = OP(NOP, Ev, 0, 0, M_);
    static const struct insn_entry popcnt = OP(POPCNT, Gv, Ev, 0, M_ | W_);
    static const struct insn_entry scan[2][2] = {
        {OP(BSF, Gv, Ev, 0, M_ | RW_), OP(TZCNT, Gv, Ev, 0, M_ | W_)},
        {OP(BSR, Gv, Ev, 0, M_ | RW_), OP(LZCNT, Gv, Ev, 0, M_ | W_)},
    };
    static const struct insn_entry movnti = OP(MOV, My, Gy, 0, M_ | W_);

    switch (insn->opcode) {
    case 0x01:
        return group_7(insn, mandatory);
    case 0x0d: /* PREFETCH; with a register a NOP on Intel's processors and #UD on AMD's */
        return insn->modrm < 0xc0 ? nop : other;
    case 0x1e: /* RDSSP writes its register if shadow stacks are on. */
        if (mandatory == MANDATORY_F3 && (insn->modrm & 0xf8) == 0xc8)
            return other;
        return nop;
    case 0x71:
    case 0x72:
    case 0x73:
        return vector_shift(insn, mandatory);
    case 0x78:
    case 0x79:
        return vmread_or_extrq(insn, mandatory);
    case 0xae:
        return group_15(insn, mandatory);
    case 0xb8:
        return mandatory == MANDATORY_F3 ? popcnt : bad;
    case 0xbc:
    case 0xbd:
        return scan[insn->opcode & 1][mandatory == MANDATORY_F3];
    case 0xc3:
        return mandatory == MANDATORY_NONE ? movnti : bad;
    case 0xc7:
        return group_9(insn, mandatory);
    default:
        return bad;
    }
}

struct insn_entry insn_entry_0f38(const struct insn *insn, unsigned mandatory)
{
    static const struct insn_entry invalidate[3] = {
        OP(INVEPT, Gn, Mo, 0, M_ | R_),
        OP(INVVPID, Gn, Mo, 0, M_ | R_),
        OP(INVPCID, Gn, Mo, 0, M_ | R_),
    };
    static const struct insn_entry movbe[2] = {
        OP(MOVBE, Gv, Mv, 0, M_ | W_),
        OP(MOVBE, Mv, Gv, 0, M_ | W_),
    };
    static const struct insn_entry crc32[2] = {
        OP(CRC32, Gy, Eb, 0, M_ | RW_),
        OP(CRC32, Gy, Ev, 0, M_ | RW_),
    };
    static const struct insn_entry adcx = OP(ADCX, Gy, Ey, 0, M_ | RW_);
    static const struct insn_entry adox = OP(ADOX, Gy, Ey, 0, M_ | RW_);
    static const struct insn_entry movdiri = OP(MOV, My, Gy, 0, M_ | W_);
    struct insn_entry vector = V(insn_valid_0f38[insn->opcode]);

    switch (insn->opcode) {
    case 0x80:
    case 0x81:
    case 0x82:
        return mandatory == MANDATORY_66 ? invalidate[insn->opcode & 3] : bad;
    case 0xd8: /* wide AES with a key locker handle: ModRM.reg 0 to 3 */
        return insn->modrm & 0x20 ? bad : vector;
    case 0xf0:
    case 0xf1:
        if (mandatory == MANDATORY_F2)
            return crc32[insn->opcode & 1];
        return mandatory <= MANDATORY_66 ? movbe[insn->opcode & 1] : bad;
    case 0xf6:
        if (mandatory == MANDATORY_66)
            return adcx;
        return mandatory == MANDATORY_F3 ? adox : vector;
    case 0xf9:
        return mandatory == MANDATORY_NONE ? movdiri : bad;
    default:
        return vector;
    }
}
