/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The guest in the executor: from a state that the processor does not run until one that it does,
 * or always, when the embedder has asked for that.
 *
 * An instruction whose effect is the library's or the embedder's becomes the exit that it would
 * have been in the processor, so intercepts, the library's service and the loop see no difference.
 *
 * The host's interrupts are off meanwhile, so after so many instructions they get their chance.
 * Requests are looked at after each.
 */
#include "hw/emulation.h"

/* Instructions between two windows for the host's interrupts. */
#define INSTRUCTIONS 256u

static bool long_mode(struct hw_vcpu *hv)
{
    return hw_insn_mode(hv) >= INSN_64;
}

/* ---- System instructions ---- */

static bool port_access(struct hw_vcpu *hv, const struct insn *insn)
{
    bool in = insn->op == INSN_OP_IN || insn->op == INSN_OP_INS;
    const struct insn_operand *port = &insn->operand[in ? 1 : 0],
                              *data = &insn->operand[in ? 0 : 1];
    struct virtx_exit *exit = &hv->vcpu->exit;

    exit->reason = VIRTX_EXIT_IO;
    exit->io = (struct virtx_exit_io){
        .port = (uint16_t)(port->kind == INSN_IMM ? insn->imm : hv->state.gpr[VIRTX_RDX]),
        .size = data->size,
        .access = in ? VIRTX_READ : VIRTX_WRITE,
        .string = insn->op == INSN_OP_INS || insn->op == INSN_OP_OUTS,
        .rep = (insn->prefixes & (INSN_PREFIX_REP | INSN_PREFIX_REPNE)) != 0,
    };
    return true;
}

static uint64_t register_operand(struct hw_vcpu *hv, unsigned gpr)
{
    uint64_t value = hw_state(hv, VIRTX_STATE_RSP)->gpr[gpr & 15];

    return long_mode(hv) ? value : (uint32_t)value;
}

static bool register_access(struct hw_vcpu *hv, const struct insn *insn, uint32_t reason)
{
    bool read = insn->operand[0].kind == INSN_REG;
    unsigned gpr = insn->operand[read ? 0 : 1].reg;
    struct virtx_exit *exit = &hv->vcpu->exit;

    exit->reason = reason;
    exit->cr = (struct virtx_exit_cr){
        .reg = insn->operand[read ? 1 : 0].reg,
        .access = read ? VIRTX_READ : VIRTX_WRITE,
        .gpr = (uint8_t)gpr,
        .value = read ? 0 : register_operand(hv, gpr),
    };
    return true;
}

/* CLTS and LMSW; of LMSW's four bits PE cannot be cleared. */
static bool machine_status(struct hw_vcpu *hv, const struct insn *insn, uint64_t operand)
{
    struct virtx_exit *exit = &hv->vcpu->exit;
    uint64_t cr0 = hw_state(hv, VIRTX_STATE_CR)->cr0;

    exit->reason = VIRTX_EXIT_CR;
    exit->cr = (struct virtx_exit_cr){
        .access = VIRTX_WRITE,
        .gpr = 0xff,
        .value = insn->op == INSN_OP_CLTS ? cr0 & ~CR0_TS : (cr0 & ~0xeull) | (operand & 0xf),
    };
    return true;
}

static bool hypercall(struct hw_vcpu *hv, const struct insn *insn)
{
    struct virtx_exit *exit = &hv->vcpu->exit;

    if ((insn->op == INSN_OP_VMMCALL) != hv->soft->policy.amd)
        return false;
    exit->reason = VIRTX_EXIT_HYPERCALL;
    exit->hypercall = (struct virtx_exit_hypercall){.cpl = (uint8_t)hw_cpl(hv)};
    return true;
}

#define BIT(n) (1ull << (n))
#define OWN_INSTRUCTIONS                                                                           \
    (BIT(VIRTX_INSN_PAUSE) | BIT(VIRTX_INSN_SGDT) | BIT(VIRTX_INSN_SIDT) | BIT(VIRTX_INSN_LGDT) |  \
     BIT(VIRTX_INSN_LIDT) | BIT(VIRTX_INSN_SLDT) | BIT(VIRTX_INSN_STR) | BIT(VIRTX_INSN_LLDT) |    \
     BIT(VIRTX_INSN_LTR) | BIT(VIRTX_INSN_IRET) | BIT(VIRTX_INSN_INTN) | BIT(VIRTX_INSN_PUSHF) |   \
     BIT(VIRTX_INSN_POPF))

/* Which of virtx_instruction it is; VIRTX_INSN_COUNT: none. */
static unsigned which_of(unsigned op)
{
    static const struct {
        uint8_t op, which;
    } names[] = {
        {INSN_OP_RDTSC, VIRTX_INSN_RDTSC},     {INSN_OP_RDTSCP, VIRTX_INSN_RDTSCP},
        {INSN_OP_RDPMC, VIRTX_INSN_RDPMC},     {INSN_OP_INVLPG, VIRTX_INSN_INVLPG},
        {INSN_OP_INVPCID, VIRTX_INSN_INVPCID}, {INSN_OP_INVD, VIRTX_INSN_INVD},
        {INSN_OP_WBINVD, VIRTX_INSN_WBINVD},   {INSN_OP_MONITOR, VIRTX_INSN_MONITOR},
        {INSN_OP_MWAIT, VIRTX_INSN_MWAIT},     {INSN_OP_XSETBV, VIRTX_INSN_XSETBV},
        {INSN_OP_RDRAND, VIRTX_INSN_RDRAND},   {INSN_OP_RDSEED, VIRTX_INSN_RDSEED},
        {INSN_OP_RSM, VIRTX_INSN_RSM},         {INSN_OP_SKINIT, VIRTX_INSN_SKINIT},
        {INSN_OP_INVLPGA, VIRTX_INSN_SVM},     {INSN_OP_PAUSE, VIRTX_INSN_PAUSE},
        {INSN_OP_SGDT, VIRTX_INSN_SGDT},       {INSN_OP_SIDT, VIRTX_INSN_SIDT},
        {INSN_OP_LGDT, VIRTX_INSN_LGDT},       {INSN_OP_LIDT, VIRTX_INSN_LIDT},
        {INSN_OP_SLDT, VIRTX_INSN_SLDT},       {INSN_OP_STR, VIRTX_INSN_STR},
        {INSN_OP_LLDT, VIRTX_INSN_LLDT},       {INSN_OP_LTR, VIRTX_INSN_LTR},
        {INSN_OP_IRET, VIRTX_INSN_IRET},       {INSN_OP_INT, VIRTX_INSN_INTN},
        {INSN_OP_PUSHF, VIRTX_INSN_PUSHF},     {INSN_OP_POPF, VIRTX_INSN_POPF},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        if (names[i].op == op)
            return names[i].which;
    if (op >= INSN_OP_VMRUN && op <= INSN_OP_CLGI)
        return VIRTX_INSN_SVM;
    if (op >= INSN_OP_VMLAUNCH && op <= INSN_OP_INVVPID)
        return VIRTX_INSN_VMX;
    return VIRTX_INSN_COUNT;
}

/* Instructions that the executor does by itself, but not past an intercept. What faults anyway
 * (Intel SDM "Relative Priority of Faults and VM Exits") is left to it. */
bool hw_instruction_wanted(struct hw_vcpu *hv, const struct insn *insn)
{
    const struct virtx_state *state = &hv->state;
    unsigned which;

    if (likely(!(hv->controls.instructions & OWN_INSTRUCTIONS)))
        return false;
    which = which_of(insn->op);
    if (which == VIRTX_INSN_COUNT || !(hv->controls.instructions & OWN_INSTRUCTIONS & BIT(which)))
        return false;
    switch (which) {
    case VIRTX_INSN_LGDT:
    case VIRTX_INSN_LIDT:
        return hw_cpl(hv) == 0;
    case VIRTX_INSN_LLDT:
    case VIRTX_INSN_LTR:
    case VIRTX_INSN_SLDT:
    case VIRTX_INSN_STR:
        hw_state(hv, VIRTX_STATE_CR | VIRTX_STATE_RFLAGS);
        return (state->cr0 & CR0_PE) && !(state->rflags & RFLAGS_VM) &&
               (which == VIRTX_INSN_SLDT || which == VIRTX_INSN_STR || hw_cpl(hv) == 0);
    default:
        return true;
    }
}

/* Fills the record with the exit that the instruction is. False: it is none. */
static bool record(struct hw_vcpu *hv, const struct insn *insn, uint64_t operand)
{
    struct virtx_exit *exit = &hv->vcpu->exit;
    unsigned which;

    switch (insn->op) {
    case INSN_OP_IN:
    case INSN_OP_OUT:
    case INSN_OP_INS:
    case INSN_OP_OUTS:
        return port_access(hv, insn);
    case INSN_OP_CPUID:
        exit->reason = VIRTX_EXIT_CPUID;
        return true;
    case INSN_OP_RDMSR:
    case INSN_OP_WRMSR:
        exit->reason = VIRTX_EXIT_MSR;
        exit->msr =
            (struct virtx_exit_msr){.access = insn->op == INSN_OP_RDMSR ? VIRTX_READ : VIRTX_WRITE};
        return true;
    case INSN_OP_HLT:
        exit->reason = VIRTX_EXIT_HLT;
        return true;
    case INSN_OP_MOV_CR:
        return register_access(hv, insn, VIRTX_EXIT_CR);
    case INSN_OP_MOV_DR:
        return register_access(hv, insn, VIRTX_EXIT_DR);
    case INSN_OP_CLTS:
    case INSN_OP_LMSW:
        return machine_status(hv, insn, operand);
    case INSN_OP_VMCALL:
    case INSN_OP_VMMCALL:
        return hypercall(hv, insn);
    default:
        which = which_of(insn->op);
        exit->reason = VIRTX_EXIT_INSTRUCTION;
        exit->instruction = (struct virtx_exit_instruction){
            .which = which, .operand = which == VIRTX_INSN_INVLPG ? operand : 0};
        return which != VIRTX_INSN_COUNT;
    }
}

static bool guest_has_rdpid(struct hw_vcpu *hv)
{
    struct virtx_cpuid_entry entry;

    virtx_cpuid_lookup(hv->vcpu, 7, 0, &entry);
    return entry.ecx >> 22 & 1;
}

/* What never exits, and is served here at once. False: it is not one of these. */
static bool served(struct hw_vcpu *hv, const struct insn *insn)
{
    uint64_t xcr0;

    if (insn->op == INSN_OP_RDPID) {
        if (guest_has_rdpid(hv)) {
            hw_gpr_write(hv, insn->operand[0].reg, hw_state(hv, VIRTX_STATE_MSR)->tsc_aux,
                         insn->operand[0].size);
            hv->ops->advance(hv);
        } else {
            hw_raise_vector(hv, VECTOR_UD);
        }
        return true;
    }
    if (insn->op == INSN_OP_XGETBV && (uint32_t)hv->state.gpr[VIRTX_RCX] == 0) {
        hw_fpu_follow_xcr0(hv);
        xcr0 = hw_state(hv, VIRTX_STATE_XCR)->xcr0;
        hv->state.gpr[VIRTX_RAX] = (uint32_t)xcr0;
        hv->state.gpr[VIRTX_RDX] = xcr0 >> 32;
        hv->ops->advance(hv);
        return true;
    }
    return false;
}

bool hw_system_instruction(struct hw_vcpu *hv, const struct insn *insn, uint64_t operand,
                           enum virtx_status *status)
{
    struct virtx_exit *exit = &hv->vcpu->exit;
    uint8_t bytes[INSN_MAX_LENGTH];

    exit->pending = false;
    exit->length = insn->length;
    exit->rip = hw_state(hv, VIRTX_STATE_RIP)->rip;
    exit->raw = (struct virtx_exit_raw){0};
    if (served(hv, insn))
        return true;
    if (!record(hv, insn, operand)) {
        if (insn->op != INSN_OP_VMCALL && insn->op != INSN_OP_VMMCALL)
            return hw_emulation_exit(hv, bytes, hw_fetch(hv, bytes));
        hw_raise_vector(hv, VECTOR_UD);
        return true;
    }
    hv->vcpu->stats.exits[exit->reason]++;
    return hw_exit(hv, status);
}

/* ---- Running ---- */

static bool step(struct hw_vcpu *hv, enum virtx_status *status)
{
    /* A trap of the instruction before, which the processor would have delivered. */
    if (unlikely(hw_state(hv, VIRTX_STATE_INTR)->pending_debug & DR6_TRAPS) &&
        !(hv->state.interruptibility & VIRTX_BLOCKED_BY_MOV_SS))
        return hw_debug_trap(hv, status);
    if (unlikely(hv->debug_used) && hw_code_breakpoint(hv))
        return true;
    hv->soft->executed++;
    if (!hw_execute_any(hv, status))
        return false;
    if (hv->soft->waiting)
        hv->work |= HW_WORK_EVENT;
    return true;
}

/* As interrupt_exit(): whether one has come nobody knows, so the loop is asked to look, where it is
 * the loop that takes them. */
static bool host_interrupts(struct hw_vcpu *hv)
{
    hv->soft->executed = 0;
    if (hv->host_if)
        x86_irq_window();
    hw_deadline_look(hv);
    if (hv->host_if && !hv->vcpu->vm->config.exit_on_interrupt)
        return true;
    hw_record(hv, VIRTX_EXIT_INTERRUPT);
    return hw_to_loop(hv);
}

bool hw_interpret(struct hw_vcpu *hv, enum virtx_status *status)
{
    const uint32_t others = ~(uint32_t)HW_WORK_EXECUTE;

    do {
        if (!step(hv, status))
            return false;
        if (hv->soft->executed >= INSTRUCTIONS)
            return host_interrupts(hv);
    } while (!atomic_load_explicit(&hv->vcpu->requests, memory_order_relaxed) &&
             !(hv->work & others) && hw_place(hv) == HW_PLACE_EXECUTOR);
    return true;
}

bool hw_interpret_fault(struct hw_vcpu *hv, enum virtx_status *status)
{
    struct virtx_exit *exit = &hv->vcpu->exit;
    const struct virtx_exit_exception exception = exit->exception;

    if (step(hv, status))
        return true;
    if (exit->reason != VIRTX_EXIT_EMULATION || exception.vector != VECTOR_UD)
        return false;
    /* An instruction that the executor does not know is undefined wherever the guest is. */
    hw_record(hv, VIRTX_EXIT_EXCEPTION)->exception = exception;
    return hw_offer(hv, status);
}

bool hw_interpret_held(struct hw_vcpu *hv, enum virtx_status *status)
{
    if (step(hv, status))
        return true;
    if (hv->vcpu->exit.reason != VIRTX_EXIT_EMULATION)
        return false;
    hw_change(hv, VIRTX_STATE_INTR)->pending_debug = 0;
    return true;
}

enum virtx_status hw_interpret_always(struct virtx_vcpu *vcpu, bool always)
{
    struct hw_vcpu *hv = hw_of(vcpu);

    hv->soft->interpret = always;
    hv->confined = always || hv->soft->confined;
    hv->work |= HW_WORK_EVENT;
    if (always)
        hv->work |= HW_WORK_EXECUTE;
    else
        hv->work &= ~(uint32_t)HW_WORK_EXECUTE;
    return VIRTX_OK;
}
