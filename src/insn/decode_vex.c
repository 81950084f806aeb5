/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The rarer encodings: VEX, EVEX and XOP, of which only the length is found, and 16-bit addresses.
 */
#include "insn/decode.h"

/* Intel SDM, "16-Bit Addressing Forms with the ModR/M Byte". */
const uint8_t *insn_address_16(struct insn *insn, const uint8_t *at)
{
    enum { BX = 3, BP = 5, SI = 6, DI = 7, NO = INSN_NO_REGISTER };
    static const uint8_t bases[8] = {BX, BX, BP, BP, SI, DI, BP, BX};
    static const uint8_t indices[8] = {SI, DI, SI, DI, NO, NO, NO, NO};
    unsigned mod = insn->modrm >> 6, rm = insn->modrm & 7;

    insn->mem.base = bases[rm];
    insn->mem.index = indices[rm];
    if (mod == 0 && rm == 6) {
        insn->mem.base = INSN_NO_REGISTER;
        mod = 2;
    }
    if (mod != 0)
        insn->disp = (int64_t)load_signed(at, mod);
    return at + mod;
}

bool insn_is_vex(const struct insn *insn, const uint8_t *at)
{
    if (*at == 0x8f) /* POP has ModRM.reg 0; XOP's map is 8 or more */
        return (at[1] & 0x1f) >= 8;
    return insn->mode == INSN_64 || at[1] >= 0xc0;
}

/* The prefix itself: encoding, map and REX bits; false if it is not a valid one. */
static bool vex_prefix(struct insn *insn, const uint8_t *at)
{
    uint8_t byte = at[0], payload = at[1], second = at[2];
    bool valid = true;

    insn->encoding = byte == 0x8f ? INSN_XOP : byte == 0x62 ? INSN_EVEX : INSN_VEX;
    if (byte == 0xc5) {
        insn->map = INSN_MAP_0F;
        insn->rex = 0x40 | (~payload >> 5 & 4);
        return true;
    }
    insn->map = payload & (byte == 0x62 ? 7 : 31);
    insn->rex = (uint8_t)(0x40 | (~payload >> 5 & 7) | (second >> 4 & 8));
    if (insn->encoding == INSN_XOP)
        return insn->map >= 8 && insn->map <= 10;
    if (insn->encoding == INSN_EVEX)
        valid = !(payload & 8) && (second & 4);
    return valid && insn->map != 0 &&
           (insn->map <= 3 || (insn->encoding == INSN_EVEX && insn->map >= 5 && insn->map <= 6));
}

static unsigned vex_immediate(const struct insn *insn)
{
    if (insn->encoding == INSN_XOP)
        return insn->map == 8 ? 1 : insn->map == 10 ? 4 : 0;
    if (insn->map == INSN_MAP_0F)
        return (insn->opcode & 0xfc) == 0x70 || (insn->opcode >= 0xc2 && insn->opcode <= 0xc6);
    return insn->map == INSN_MAP_0F3A;
}

/*
 * VEX, EVEX and XOP instructions are not modelled: find their length. One of the legacy prefixes
 * 66, F2, F3, LOCK or REX before them is #UD. Intel SDM, "Instruction Encoding: VEX Prefix, EVEX
 * Prefix"; AMD APM, "VEX/XOP Prefix".
 */
struct step insn_decode_vex(struct insn *insn, const uint8_t *at)
{
    unsigned rejected = INSN_PREFIX_LOCK | INSN_PREFIX_REP | INSN_PREFIX_REPNE | INSN_PREFIX_OPSIZE;
    bool valid = !insn->rex && !(insn->prefixes & rejected);

    valid &= vex_prefix(insn, at);
    insn->imm2 = at[*at == 0xc5 ? 1 : 2]; /* W, vvvv, L, pp */
    at += *at == 0xc5 ? 2 : *at == 0x62 ? 4 : 3;
    if (insn->mode != INSN_64)
        insn->rex = 0;
    insn->opcode = *at++;
    insn->operand_size = insn->rex & 8 ? 8 : 4;
    if (insn->encoding == INSN_VEX && insn->map == INSN_MAP_0F && insn->opcode == 0x77)
        return (struct step){at, valid}; /* VZEROUPPER, VZEROALL */
    insn->has_modrm = 1;
    insn->modrm = *at++;
    if (insn->modrm < 0xc0)
        at = read_address(insn, insn->modrm, insn->rex, at);
    insn->imm = *at;
    return (struct step){at + vex_immediate(insn), valid};
}
