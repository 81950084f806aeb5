/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * XSAVE, XSAVEOPT and XRSTOR, XSAVEC and its form of memory, XSAVES and XRSTORS, for x87, SSE and
 * AVX state (Intel SDM, "Managing State Using the XSAVE Feature Set"). Of what is saved nothing is
 * taken to be in its initial state, and everything to have been changed, which the manual allows.
 * The compacted form has AVX state where the standard form has it, as it comes first.
 */
#include "insn/exec.h"

enum {
    X87 = 1 << 0,
    SSE = 1 << 1,
    AVX = 1 << 2,
    XMM = 16,
    AREA_FIP = 8,
    AREA_FDP = 16,
    AREA_MXCSR = 24,
    AREA_MASK = 28,
    AREA_ST = 32,
    AREA_XMM = 160,
    AREA_LEGACY = 512, /* and the header behind it */
    AREA_YMM = 576,    /* the upper halves: the same place on all processors */
    AREA_BYTES = 832,
    AREA_HEADER = 64, /* of these bytes, from AREA_LEGACY on */
    MXCSR_KNOWN = 0xffbf,
    MXCSR_INITIAL = 0x1f80,
};
#define COMPACTED (1ull << 63) /* XCOMP_BV */

enum which { SAVE, SAVE_COMPACTED, SAVE_SUPERVISOR, RESTORE, RESTORE_SUPERVISOR, NONE };

struct xsave {
    uint64_t linear;
    uint64_t enabled; /* components: XCR0, and with the supervisor's IA32_XSS */
    uint64_t wanted;  /* of them, EDX:EAX */
    unsigned registers;
    uint8_t area[AREA_BYTES];
};

static enum insn_result move(struct exec *exec, struct xsave *x, unsigned from, unsigned size,
                             bool write)
{
    return move_block(exec, x->linear + from, x->area + from, size, write, 0);
}

static uint64_t get(const struct xsave *x, unsigned at, unsigned size)
{
    uint64_t value = 0;

    __builtin_memcpy(&value, x->area + at, size);
    return value;
}

static void put(struct xsave *x, unsigned at, uint64_t value, unsigned size)
{
    __builtin_memcpy(x->area + at, &value, size);
}

/* Without REX.W the pointers are of 32 bits, with a selector. */
static void narrow_pointers(struct exec *exec, struct xsave *x)
{
    if (exec->insn->rex & 8)
        return;
    put(x, AREA_FIP, get(x, AREA_FIP, 6), 8);
    put(x, AREA_FDP, get(x, AREA_FDP, 6), 8);
}

static bool upper_halves(struct exec *exec, struct xsave *x, bool write)
{
    for (unsigned i = 0; i < x->registers; i++)
        if (!exec->ops->vector(exec->context, i, x->area + AREA_YMM + XMM * i, write,
                               INSN_VECTOR_HIGH))
            return false;
    return true;
}

/* The parts of memory that the components `which` lie in. */
static enum insn_result components(struct exec *exec, struct xsave *x, uint64_t which, bool write)
{
    enum insn_result result = INSN_OK;

    if (which & X87) {
        result = move(exec, x, 0, AREA_MXCSR, write);
        if (!result)
            result = move(exec, x, AREA_ST, AREA_XMM - AREA_ST, write);
    }
    if (!result && (which & SSE))
        result = move(exec, x, AREA_XMM, XMM * x->registers, write);
    if (!result && (which & AVX))
        result = move(exec, x, AREA_YMM, XMM * x->registers, write);
    return result;
}

static enum insn_result save(struct exec *exec, struct xsave *x)
{
    enum insn_result result = move(exec, x, AREA_LEGACY, 8, false);

    if (result)
        return result;
    if (!exec->ops->fpu(exec->context, x->area, false) ||
        ((x->wanted & AVX) && !upper_halves(exec, x, false)))
        return INSN_UNSUPPORTED;
    narrow_pointers(exec, x);
    put(x, AREA_LEGACY, get(x, AREA_LEGACY, 8) | x->wanted, 8);
    result = components(exec, x, x->wanted, true);
    if (!result && (x->wanted & (SSE | AVX)))
        result = move(exec, x, AREA_MXCSR, 8, true);
    return result ? result : move(exec, x, AREA_LEGACY, 8, true);
}

/* MXCSR belongs to SSE here, and of the header nothing but two words is written. */
static enum insn_result save_compacted(struct exec *exec, struct xsave *x)
{
    enum insn_result result;

    if (!exec->ops->fpu(exec->context, x->area, false) ||
        ((x->wanted & AVX) && !upper_halves(exec, x, false)))
        return INSN_UNSUPPORTED;
    narrow_pointers(exec, x);
    put(x, AREA_LEGACY, x->wanted, 8);
    put(x, AREA_LEGACY + 8, x->wanted | COMPACTED, 8);
    result = components(exec, x, x->wanted, true);
    if (!result && (x->wanted & SSE))
        result = move(exec, x, AREA_MXCSR, 8, true);
    return result ? result : move(exec, x, AREA_LEGACY, 16, true);
}

/* What is not in memory becomes what it is initially. */
static void initialize(struct xsave *x, uint64_t which)
{
    if (which & X87) {
        __builtin_memset(x->area, 0, AREA_MXCSR);
        __builtin_memset(x->area + AREA_ST, 0, AREA_XMM - AREA_ST);
        put(x, 0, 0x37f, 2);
    }
    if (which & SSE)
        __builtin_memset(x->area + AREA_XMM, 0, XMM * x->registers);
    if (which & AVX)
        __builtin_memset(x->area + AREA_YMM, 0, XMM * x->registers);
}

static enum insn_result restore_mxcsr(struct exec *exec, struct xsave *x, uint64_t mask)
{
    enum insn_result result = move(exec, x, AREA_MXCSR, 4, false);

    if (!result && (get(x, AREA_MXCSR, 4) & ~(mask ? mask : MXCSR_KNOWN)))
        return raise_code(exec, VECTOR_GP, 0);
    return result;
}

/* Whether the rest of the header is as XRSTOR demands. */
static bool good_header(const struct xsave *x, bool compacted)
{
    uint64_t present = get(x, AREA_LEGACY, 8), form = get(x, AREA_LEGACY + 8, 8) & ~COMPACTED;

    if (!compacted)
        return !(present & ~x->enabled) && !form && !get(x, AREA_LEGACY + 16, 8);
    for (unsigned at = 16; at < AREA_HEADER; at += 8)
        if (get(x, AREA_LEGACY + at, 8))
            return false;
    return !(form & ~x->enabled) && !(present & ~form);
}

static enum insn_result read_header(struct exec *exec, struct xsave *x, bool supervisor,
                                    bool *compacted)
{
    enum insn_result result = move(exec, x, AREA_LEGACY, 24, false);

    *compacted = get(x, AREA_LEGACY + 8, 8) & COMPACTED;
    if (!result && *compacted)
        result = move(exec, x, AREA_LEGACY + 24, AREA_HEADER - 24, false);
    if (!result && (!good_header(x, *compacted) || (supervisor && !*compacted)))
        return raise_code(exec, VECTOR_GP, 0);
    return result;
}

static enum insn_result restore(struct exec *exec, struct xsave *x, bool supervisor)
{
    uint64_t present, mask;
    bool compacted, mxcsr;
    enum insn_result result = read_header(exec, x, supervisor, &compacted);

    if (result)
        return result;
    present = get(x, AREA_LEGACY, 8);
    if (!exec->ops->fpu(exec->context, x->area, false) ||
        ((x->wanted & AVX) && !upper_halves(exec, x, false)))
        return INSN_UNSUPPORTED;
    mask = get(x, AREA_MASK, 4);
    result = components(exec, x, x->wanted & present, false);
    if (!result && (x->wanted & present & X87))
        narrow_pointers(exec, x);
    mxcsr = compacted ? x->wanted & present & SSE : x->wanted & (SSE | AVX);
    if (!result && mxcsr)
        result = restore_mxcsr(exec, x, mask);
    if (result)
        return result;
    initialize(x, x->wanted & ~present);
    if (compacted && (x->wanted & ~present & SSE))
        put(x, AREA_MXCSR, MXCSR_INITIAL, 4);
    if (!exec->ops->fpu(exec->context, x->area, true) ||
        ((x->wanted & AVX) && !upper_halves(exec, x, true)))
        return INSN_UNSUPPORTED;
    return INSN_OK;
}

static enum which which_of(const struct insn *insn)
{
    static const uint8_t group_9[8] = {
        NONE, NONE, NONE, RESTORE_SUPERVISOR, SAVE_COMPACTED, SAVE_SUPERVISOR, NONE, NONE};
    static const uint8_t group_15[8] = {NONE, NONE, NONE, NONE, SAVE, RESTORE, SAVE, NONE};
    unsigned reg = insn->modrm >> 3 & 7;

    if (insn->encoding != INSN_LEGACY || insn->map != INSN_MAP_0F || insn->modrm >= 0xc0 ||
        (insn->prefixes & (INSN_PREFIX_REP | INSN_PREFIX_REPNE | INSN_PREFIX_OPSIZE)))
        return NONE;
    return insn->opcode == 0xae   ? (enum which)group_15[reg]
           : insn->opcode == 0xc7 ? (enum which)group_9[reg]
                                  : NONE;
}

static enum insn_result execute(struct exec *exec, enum which which)
{
    const struct insn_cpu *cpu = exec->cpu;
    bool supervisor = which == SAVE_SUPERVISOR || which == RESTORE_SUPERVISOR;
    bool restores = which >= RESTORE;
    struct xsave x = {.registers = cpu->mode >= INSN_64 ? 16 : 8,
                      .enabled = cpu->xcr0 | (supervisor ? cpu->xss : 0)};
    enum insn_result result;

    x.wanted = x.enabled & ((cpu->gpr[RDX] & 0xffffffff) << 32 | (cpu->gpr[RAX] & 0xffffffff));
    if (!exec->ops->fpu || !exec->ops->vector || (x.wanted & ~(uint64_t)(X87 | SSE | AVX)))
        return INSN_UNSUPPORTED;
    if (!(cpu->cr4 & CR4_OSXSAVE))
        return raise(exec, VECTOR_UD);
    if (supervisor && cpu->cpl)
        return raise_code(exec, VECTOR_GP, 0);
    if (cpu->cr0 & CR0_TS)
        return raise(exec, VECTOR_NM);
    result = operand_address(exec, AREA_YMM, !restores, &x.linear);
    if (result)
        return result;
    if (x.linear & 63)
        return raise_code(exec, VECTOR_GP, 0);
    if (restores)
        return restore(exec, &x, supervisor);
    return which == SAVE ? save(exec, &x) : save_compacted(exec, &x);
}

bool execute_xsave(struct exec *exec, enum insn_result *result)
{
    enum which which = which_of(exec->insn);

    if (which == NONE)
        return false;
    *result = execute(exec, which);
    return true;
}
