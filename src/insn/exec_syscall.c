/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * System calls, and the bases of FS and GS (Intel SDM and AMD APM, "SYSCALL", "SYSRET", "SYSENTER",
 * "SYSEXIT", "SWAPGS", "RDFSBASE").
 */
#include "insn/segment.h"

enum {
    EFER_SCE = 1 << 0,
    FLAT_CODE = 0xc09b,
    FLAT_CODE_64 = 0xa09b,
    FLAT_DATA = 0xc093,
};

/* Flat segments, which no descriptor is read for. */
static void flat(struct exec *exec, unsigned segment, uint16_t selector, uint32_t attributes,
                 unsigned cpl)
{
    exec->seg[segment] = (struct insn_seg){.selector = (uint16_t)((selector & 0xfffc) | cpl),
                                           .limit = 0xffffffff,
                                           .attributes = attributes | (uint32_t)cpl << 5};
    exec->segments = (uint8_t)(exec->segments | 1u << segment);
}

static void enter(struct exec *exec, uint16_t code, uint16_t stack, bool wide, unsigned cpl)
{
    flat(exec, INSN_CS, code, wide ? FLAT_CODE_64 : FLAT_CODE, cpl);
    flat(exec, INSN_SS, stack, FLAT_DATA, cpl);
    exec->mode = wide ? INSN_64 : INSN_32;
    exec->cpl = (uint8_t)cpl;
}

static enum insn_result syscall(struct exec *exec, const struct insn_msrs *msrs)
{
    uint16_t selector = (uint16_t)(msrs->star >> 32);

    stage_gpr(exec, RCX, 8, exec->rip);
    stage_gpr(exec, 11, 8, exec->flags);
    stage_flags(exec, msrs->fmask | FLAG_RF, 0);
    enter(exec, selector, (uint16_t)((selector & 0xfffc) + 8), true, 0);
    exec->rip = msrs->lstar;
    return INSN_OK;
}

static enum insn_result sysret(struct exec *exec, const struct insn_msrs *msrs)
{
    bool wide = exec->insn->operand_size == 8;
    uint16_t selector = (uint16_t)(msrs->star >> 48);
    uint64_t rip = exec->cpu->gpr[RCX];

    if (exec->cpu->cpl || (wide && !exec->cpu->amd && !canonical(exec->cpu, rip)))
        return raise_code(exec, VECTOR_GP, 0);
    enter(exec, (uint16_t)(selector + (wide ? 16 : 0)), (uint16_t)(selector + 8), wide, 3);
    exec->rip = wide ? rip : rip & 0xffffffff;
    exec->flags = (exec->cpu->gpr[11] & 0x3c7fd7) | 2;
    return INSN_OK;
}

static enum insn_result sysenter(struct exec *exec, const struct insn_msrs *msrs)
{
    uint16_t selector = msrs->sysenter_cs & 0xfffc;
    bool wide = long_mode(exec);

    if (!selector)
        return raise_code(exec, VECTOR_GP, 0);
    enter(exec, selector, (uint16_t)(selector + 8), wide, 0);
    stage_flags(exec, FLAG_VM | FLAG_IF | FLAG_RF, 0);
    stage_gpr(exec, RSP, 8, wide ? msrs->sysenter_esp : (uint32_t)msrs->sysenter_esp);
    exec->rip = wide ? msrs->sysenter_eip : (uint32_t)msrs->sysenter_eip;
    return INSN_OK;
}

static enum insn_result sysexit(struct exec *exec, const struct insn_msrs *msrs)
{
    uint16_t selector = msrs->sysenter_cs & 0xfffc;
    bool wide = exec->insn->operand_size == 8;
    unsigned size = wide ? 8 : 4;
    uint64_t rip = exec->cpu->gpr[RDX] & mask_of(size), rsp = exec->cpu->gpr[RCX] & mask_of(size);

    if (!selector || exec->cpu->cpl)
        return raise_code(exec, VECTOR_GP, 0);
    if (wide && (!canonical(exec->cpu, rip) || !canonical(exec->cpu, rsp)))
        return raise_code(exec, VECTOR_GP, 0);
    enter(exec, (uint16_t)(selector + (wide ? 32 : 16)), (uint16_t)(selector + (wide ? 40 : 24)),
          wide, 3);
    stage_gpr(exec, RSP, 8, rsp);
    exec->rip = rip;
    return INSN_OK;
}

enum insn_result execute_system_call(struct exec *exec)
{
    const struct insn_cpu *cpu = exec->cpu;
    unsigned op = exec->insn->op;
    const struct insn_msrs *msrs;

    if (op == INSN_OP_SYSENTER || op == INSN_OP_SYSEXIT) {
        if (real_mode(cpu))
            return raise_code(exec, VECTOR_GP, 0);
        if (cpu->amd && long_mode(exec))
            return raise(exec, VECTOR_UD);
    } else {
        if (!(cpu->efer & EFER_SCE))
            return raise(exec, VECTOR_UD);
        if (exec->insn->mode !=
            INSN_64) /* there for AMD's processors only, with rules of its own */
            return cpu->amd ? INSN_UNSUPPORTED : raise(exec, VECTOR_UD);
    }
    if (!exec->ops->msrs)
        return INSN_UNSUPPORTED;
    msrs = exec->ops->msrs(exec->context);
    switch (op) {
    case INSN_OP_SYSCALL:
        return syscall(exec, msrs);
    case INSN_OP_SYSRET:
        return sysret(exec, msrs);
    case INSN_OP_SYSENTER:
        return sysenter(exec, msrs);
    default:
        return sysexit(exec, msrs);
    }
}

static void stage_base(struct exec *exec, unsigned segment, uint64_t base)
{
    exec->seg[segment] = exec->cpu->seg[segment];
    exec->seg[segment].base = base;
    exec->segments = (uint8_t)(exec->segments | 1u << segment);
}

static enum insn_result swap_gs(struct exec *exec)
{
    struct insn_msrs *msrs;
    uint64_t base = exec->cpu->seg[INSN_GS].base;

    if (exec->cpu->cpl)
        return raise_code(exec, VECTOR_GP, 0);
    if (!exec->ops->msrs)
        return INSN_UNSUPPORTED;
    msrs = exec->ops->msrs(exec->context);
    stage_base(exec, INSN_GS, msrs->kernel_gs_base);
    msrs->kernel_gs_base = base;
    return INSN_OK;
}

/* All of these exist in 64-bit mode only. */
enum insn_result execute_segment_base(struct exec *exec)
{
    unsigned op = exec->insn->op;
    unsigned segment = op == INSN_OP_RDFSBASE || op == INSN_OP_WRFSBASE ? INSN_FS : INSN_GS;
    enum insn_result result;
    uint64_t value;

    if (op == INSN_OP_SWAPGS)
        return swap_gs(exec);
    if (!(exec->cpu->cr4 & CR4_FSGSBASE))
        return raise(exec, VECTOR_UD);
    if (op == INSN_OP_RDFSBASE || op == INSN_OP_RDGSBASE)
        return write_operand(exec, 0, exec->cpu->seg[segment].base);
    result = read_operand(exec, 0, &value);
    if (result)
        return result;
    if (!canonical(exec->cpu, value))
        return raise_code(exec, VECTOR_GP, 0);
    stage_base(exec, segment, value);
    return INSN_OK;
}
