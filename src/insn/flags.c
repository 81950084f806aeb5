/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * RFLAGS: conditions, the flags of results, and the instructions that handle nothing else.
 */
#include "insn/exec.h"

/* Condition codes as in the low four bits of Jcc (Intel SDM, "EFLAGS Condition Codes"). */
bool condition(uint64_t flags, unsigned code)
{
    bool sign_differs = !(flags & FLAG_SF) != !(flags & FLAG_OF);
    bool holds;

    switch (code >> 1 & 7) {
    case 0:
        holds = flags & FLAG_OF;
        break;
    case 1:
        holds = flags & FLAG_CF;
        break;
    case 2:
        holds = flags & FLAG_ZF;
        break;
    case 3:
        holds = flags & (FLAG_CF | FLAG_ZF);
        break;
    case 4:
        holds = flags & FLAG_SF;
        break;
    case 5:
        holds = flags & FLAG_PF;
        break;
    case 6:
        holds = sign_differs;
        break;
    default:
        holds = sign_differs || (flags & FLAG_ZF);
        break;
    }
    return holds != (code & 1);
}

/* SF, ZF and PF follow the result; CF, OF and AF are as given in others. */
void stage_result_flags(struct exec *exec, uint64_t result, unsigned size, uint64_t others)
{
    unsigned low = (unsigned)result & 0xff;
    uint64_t flags = others;

    if (!(result & mask_of(size)))
        flags |= FLAG_ZF;
    if (result & sign_of(size))
        flags |= FLAG_SF;
    /* PF: an even number of bits. 0x9669 has a bit for each nibble that does. */
    if (0x9669 >> ((low ^ low >> 4) & 15) & 1)
        flags |= FLAG_PF;
    stage_flags(exec, FLAGS_STATUS, flags);
}

static unsigned iopl(const struct exec *exec)
{
    return (unsigned)(exec->cpu->rflags >> 12) & 3;
}

/* CLI and STI (Intel SDM, "CLI: Clear Interrupt Flag", "STI: Set Interrupt Flag"). */
static enum insn_result interrupt_flag(struct exec *exec, bool set)
{
    const struct insn_cpu *cpu = exec->cpu;

    if (!real_mode(cpu) && cpu->cpl > iopl(exec)) {
        uint64_t virtual = virtual_8086(cpu) ? CR4_VME : CR4_PVI;

        if (!(cpu->cr4 & virtual) || (!virtual_8086(cpu) && cpu->cpl != 3))
            return raise_code(exec, VECTOR_GP, 0);
        if (set && (cpu->rflags & FLAG_VIP))
            return raise_code(exec, VECTOR_GP, 0);
        stage_flags(exec, FLAG_VIF, set ? FLAG_VIF : 0);
        return INSN_OK;
    }
    stage_flags(exec, FLAG_IF, set ? FLAG_IF : 0);
    if (set && !(cpu->rflags & FLAG_IF))
        exec->shadow = INSN_SHADOW_STI;
    return INSN_OK;
}

static enum insn_result push_flags(struct exec *exec)
{
    uint64_t flags = exec->cpu->rflags & ~(uint64_t)(FLAG_VM | FLAG_RF);
    unsigned size = exec->insn->operand_size;
    enum insn_result result = INSN_OK;

    if (virtual_restricted(exec)) {
        result = virtual_flags(exec, size);
        flags = virtual_image(exec);
    }
    return result ? result : push_value(exec, flags, size);
}

/* Which flags POPF and IRET change at this privilege and operand size. */
uint64_t poppable_flags(const struct exec *exec, unsigned size)
{
    const struct insn_cpu *cpu = exec->cpu;
    uint64_t mask = FLAGS_STATUS | FLAG_TF | FLAG_DF | FLAG_NT;

    if (size > 2)
        mask |= FLAG_AC | FLAG_ID;
    if (real_mode(cpu) || cpu->cpl == 0)
        mask |= FLAG_IOPL;
    if (real_mode(cpu) || cpu->cpl <= iopl(exec))
        mask |= FLAG_IF;
    return mask;
}

static enum insn_result pop_flags(struct exec *exec)
{
    unsigned size = exec->insn->operand_size;
    bool restricted = virtual_restricted(exec);
    enum insn_result result = restricted ? virtual_flags(exec, size) : INSN_OK;
    uint64_t value;

    if (!result)
        result = pop_value(exec, &value, size);
    if (result)
        return result;
    if (restricted)
        return virtual_pop(exec, value);
    stage_flags(exec, poppable_flags(exec, size), value);
    return INSN_OK;
}

enum insn_result execute_flags(struct exec *exec)
{
    uint64_t flags = exec->cpu->rflags;
    uint64_t kept = FLAG_SF | FLAG_ZF | FLAG_AF | FLAG_PF | FLAG_CF;

    switch (exec->insn->op) {
    case INSN_OP_LAHF:
        stage_gpr(exec, RAX, 2, (exec->cpu->gpr[RAX] & 0xff) | ((flags & kept) | 2) << 8);
        return INSN_OK;
    case INSN_OP_SAHF:
        stage_flags(exec, kept, exec->cpu->gpr[RAX] >> 8);
        return INSN_OK;
    case INSN_OP_CLC:
    case INSN_OP_STC:
        stage_flags(exec, FLAG_CF, exec->insn->op == INSN_OP_STC ? FLAG_CF : 0);
        return INSN_OK;
    case INSN_OP_CMC:
        stage_flags(exec, FLAG_CF, ~flags);
        return INSN_OK;
    case INSN_OP_CLD:
    case INSN_OP_STD:
        stage_flags(exec, FLAG_DF, exec->insn->op == INSN_OP_STD ? FLAG_DF : 0);
        return INSN_OK;
    case INSN_OP_CLI:
    case INSN_OP_STI:
        return interrupt_flag(exec, exec->insn->op == INSN_OP_STI);
    case INSN_OP_PUSHF:
        return push_flags(exec);
    default:
        return pop_flags(exec);
    }
}
