/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * SSE besides the moves to and from memory, as far as compilers put it between them: moves between
 * registers, logic on all bits, PINSRW and PEXTRW; exec_packed.c has the integers. Legacy
 * encodings, of 128 bits.
 */
#include "insn/exec.h"

enum logic { AND, AND_NOT, OR, XOR };

static bool is_move(const struct insn *insn)
{
    bool f3 = insn->prefixes & INSN_PREFIX_REP;

    if (insn->modrm < 0xc0 || (insn->prefixes & INSN_PREFIX_REPNE))
        return false;
    switch (insn->opcode) {
    case 0x10:
    case 0x11:
    case 0x28:
    case 0x29:
        return !f3;
    case 0x6f:
    case 0x7f:
        return f3 || (insn->prefixes & INSN_PREFIX_OPSIZE);
    default:
        return false;
    }
}

static bool is_logic(const struct insn *insn, enum logic *logic)
{
    if (insn->prefixes & (INSN_PREFIX_REP | INSN_PREFIX_REPNE))
        return false;
    if (insn->opcode >= 0x54 && insn->opcode <= 0x57) {
        *logic = (enum logic)(insn->opcode - 0x54);
        return true;
    }
    if (!(insn->prefixes & INSN_PREFIX_OPSIZE)) /* of MMX */
        return false;
    *logic = insn->opcode == 0xdb   ? AND
             : insn->opcode == 0xdf ? AND_NOT
             : insn->opcode == 0xeb ? OR
                                    : XOR;
    return *logic != XOR || insn->opcode == 0xef;
}

static bool is_word(const struct insn *insn)
{
    return (insn->opcode == 0xc4 || insn->opcode == 0xc5) &&
           (insn->prefixes & (INSN_PREFIX_OPSIZE | INSN_PREFIX_REP | INSN_PREFIX_REPNE)) ==
               INSN_PREFIX_OPSIZE;
}

enum insn_result sse_access(struct exec *exec, unsigned reg, uint64_t *value, bool write)
{
    return exec->ops->vector(exec->context, reg, value, write, INSN_VECTOR_SSE) ? INSN_OK
                                                                                : INSN_UNSUPPORTED;
}

static enum insn_result move(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    bool backwards = insn->opcode == 0x11 || insn->opcode == 0x29 || insn->opcode == 0x7f;
    unsigned reg = modrm_reg(insn), other = modrm_rm(insn);
    uint64_t value[2];
    enum insn_result result = sse_access(exec, backwards ? reg : other, value, false);

    return result ? result : sse_access(exec, backwards ? other : reg, value, true);
}

enum insn_result sse_source(struct exec *exec, uint64_t *value)
{
    enum insn_result result;
    uint64_t linear;

    if (exec->insn->modrm >= 0xc0)
        return sse_access(exec, modrm_rm(exec->insn), value, false);
    result = operand_address(exec, 16, false, &linear);
    if (!result && (linear & 15))
        return raise_code(exec, VECTOR_GP, 0);
    return result ? result : read_memory(exec, linear, value, 16, 0);
}

static enum insn_result compute(struct exec *exec, enum logic logic)
{
    unsigned reg = modrm_reg(exec->insn);
    uint64_t a[2] = {0}, b[2] = {0};
    enum insn_result result = sse_source(exec, b);

    if (!result)
        result = sse_access(exec, reg, a, false);
    if (result)
        return result;
    for (unsigned i = 0; i < 2; i++)
        a[i] = logic == AND       ? a[i] & b[i]
               : logic == AND_NOT ? ~a[i] & b[i]
               : logic == OR      ? a[i] | b[i]
                                  : a[i] ^ b[i];
    return sse_access(exec, reg, a, true);
}

/* PINSRW from a general register or memory; PEXTRW to a general register. */
static enum insn_result word(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    bool insert = insn->opcode == 0xc4;
    unsigned at = insn->imm & 7, reg = modrm_reg(insn), other = modrm_rm(insn);
    uint64_t value[2], linear, data = exec->cpu->gpr[other] & 0xffff;
    enum insn_result result = INSN_OK;

    if (insert && insn->modrm < 0xc0) {
        data = 0;
        result = operand_address(exec, 2, false, &linear);
        if (!result)
            result = read_memory(exec, linear, &data, 2, 0);
    }
    if (!result)
        result = sse_access(exec, insert ? reg : other, value, false);
    if (result)
        return result;
    if (!insert) {
        stage_gpr(exec, reg, 4, value[at / 4] >> at % 4 * 16 & 0xffff);
        return INSN_OK;
    }
    value[at / 4] &= ~(0xffffull << at % 4 * 16);
    value[at / 4] |= data << at % 4 * 16;
    return sse_access(exec, reg, value, true);
}

bool execute_sse(struct exec *exec, enum insn_result *result)
{
    const struct insn *insn = exec->insn;
    const struct insn_cpu *cpu = exec->cpu;
    const struct packed_form *form = NULL;
    enum logic logic = AND;
    bool moves, computes, words;

    if (insn->encoding != INSN_LEGACY || insn->map != INSN_MAP_0F || !exec->ops->vector)
        return false;
    moves = is_move(insn);
    computes = !moves && is_logic(insn, &logic);
    words = !moves && !computes && is_word(insn);
    if (!moves && !computes && !words) {
        form = packed_form(insn);
        if (!form)
            return false;
    }
    if ((cpu->cr0 & CR0_EM) || !(cpu->cr4 & CR4_OSFXSR))
        *result = raise(exec, VECTOR_UD);
    else if (cpu->cr0 & CR0_TS)
        *result = raise(exec, VECTOR_NM);
    else
        *result = moves      ? move(exec)
                  : computes ? compute(exec, logic)
                  : words    ? word(exec)
                             : execute_packed(exec, form);
    return true;
}
