/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Instructions whose effect is the caller's: checked here for what privilege and mode forbid, then
 * handed out as INSN_SYSTEM (Intel SDM, "Privileged Instructions", and the instructions' own
 * "Exceptions" sections).
 */
#include "insn/exec.h"

enum {
    CR4_PCE = 1u << 8,
};

/* Exists outside virtual-8086 mode and real mode only. */
static bool protected_only(unsigned op)
{
    return op == INSN_OP_INVPCID;
}

/* Needs CPL 0. */
static enum insn_result privileged(struct exec *exec)
{
    const struct insn_cpu *cpu = exec->cpu;

    if (protected_only(exec->insn->op) && virtual_8086(cpu))
        return raise_code(exec, VECTOR_GP, 0);
    return cpu->cpl ? raise_code(exec, VECTOR_GP, 0) : INSN_SYSTEM;
}

/* Needs CPL 0, or a bit of CR4 that decides. */
static enum insn_result counter(struct exec *exec)
{
    const struct insn_cpu *cpu = exec->cpu;
    bool allowed = exec->insn->op == INSN_OP_RDPMC ? cpu->cr4 & CR4_PCE : !(cpu->cr4 & CR4_TSD);

    return cpu->cpl && !allowed ? raise_code(exec, VECTOR_GP, 0) : INSN_SYSTEM;
}

static enum insn_result extended_control(struct exec *exec)
{
    if (!(exec->cpu->cr4 & CR4_OSXSAVE))
        return raise(exec, VECTOR_UD);
    if (exec->insn->op == INSN_OP_XSETBV && exec->cpu->cpl)
        return raise_code(exec, VECTOR_GP, 0);
    return INSN_SYSTEM;
}

/* LMSW, INVLPG and INVPCID: the caller gets the operand as well. */
static enum insn_result with_operand(struct exec *exec)
{
    struct insn_cpu *cpu = exec->cpu;
    enum insn_result result = privileged(exec);
    uint64_t value;

    if (result != INSN_SYSTEM)
        return result;
    cpu->operand = insn_linear(exec->insn, cpu);
    if (exec->insn->op != INSN_OP_LMSW)
        return INSN_SYSTEM;
    result = read_operand(exec, 0, &value);
    cpu->operand = value;
    return result ? result : INSN_SYSTEM;
}

enum insn_result execute_system(struct exec *exec)
{
    switch (exec->insn->op) {
    case INSN_OP_LMSW:
    case INSN_OP_INVLPG:
    case INSN_OP_INVPCID:
        return with_operand(exec);
    case INSN_OP_CPUID:
    case INSN_OP_RDPID:
    case INSN_OP_RDRAND:
    case INSN_OP_RDSEED:
    case INSN_OP_VMCALL:
    case INSN_OP_VMMCALL:
        return INSN_SYSTEM;
    case INSN_OP_RDTSC:
    case INSN_OP_RDTSCP:
    case INSN_OP_RDPMC:
        return counter(exec);
    case INSN_OP_XGETBV:
    case INSN_OP_XSETBV:
        return extended_control(exec);
    default:
        return privileged(exec);
    }
}

/* VMX's and SVM's own instructions, and RSM. */
enum insn_result execute_virtualization(struct exec *exec)
{
    return real_segments(exec->cpu) && exec->insn->op != INSN_OP_RSM ? raise(exec, VECTOR_UD)
                                                                     : INSN_SYSTEM;
}

/* CLAC and STAC (Intel SDM, "STAC: Set AC Flag in EFLAGS Register"). */
enum insn_result execute_access_flag(struct exec *exec)
{
    if (exec->cpu->cpl)
        return raise(exec, VECTOR_UD);
    stage_flags(exec, FLAG_AC, exec->insn->op == INSN_OP_STAC ? FLAG_AC : 0);
    return INSN_OK;
}
