/* SPDX-License-Identifier: BSD-2-Clause */
/* Debug traps: TF, RF and breakpoints over instructions that exit or that the library executes,
 * software interrupts, and who comes to see a #DB. */
#include "harness.h"

enum {
    DR6_CLEAR = 0xffff0ff0,
    DR6_B0 = 1 << 0,
    DR6_BD = 1 << 13,
    DR6_BS = 1 << 14,
    DR7_GD = 1 << 13,
    RFLAGS_TF = 0x100,
    RFLAGS_RF = 0x10000,
    PORT = 0x80,
    VECTOR = 0x52,
    MSR_INVENTED = 0x12345,
    MSR_HIDDEN = 0x179 /* IA32_MCG_CAP */,
    UNITS = 3,
    MISSING = GUEST_MEMORY + 0x8000, /* a page that is not present */
    READ_ONLY = GUEST_MEMORY + 0x9000,
};

/* ---- What arrives in the guest ---- */

struct seen {
    uint64_t vector, rip, rflags, rcx, dr6, dr7;
};

static volatile struct seen seen[8];
static volatile unsigned seen_count;
static uint64_t seen_end; /* TF ends when this RIP is reached */

static void note(struct bare_frame *frame)
{
    uint64_t dr6 = 0, dr7 = 0;

    if (frame->vector == 1) {
        __asm__ volatile("movq %%dr6, %0; movq %%dr7, %1" : "=r"(dr6), "=r"(dr7));
        __asm__ volatile("movq %0, %%dr6" : : "r"((uint64_t)DR6_CLEAR));
    }
    if (seen_count < 8) {
        seen[seen_count].vector = frame->vector;
        seen[seen_count].rip = frame->rip;
        seen[seen_count].rflags = frame->rflags;
        seen[seen_count].rcx = frame->rcx;
        seen[seen_count].dr6 = dr6;
        seen[seen_count].dr7 = dr7;
    }
    seen_count = seen_count + 1;
    if (frame->rip == seen_end || seen_count >= 8)
        frame->rflags &= ~(uint64_t)RFLAGS_TF;
}

static void expect_seen(unsigned i, uint64_t vector, uint64_t rip)
{
    if (!CHECK(i < seen_count))
        return;
    CHECK_EQUAL(seen[i].vector, vector);
    CHECK_EQUAL(seen[i].rip, rip);
}

/* One form: code that is entered with TF set, and where it ends. Registers are set for all of them.
 */
#define FORM(name, before, text)                                                                   \
    extern const char name##_at[], name##_end[];                                                   \
    static void name(void)                                                                         \
    {                                                                                              \
        uint64_t rdi = GUEST_HOLE, rsi = GUEST_MEMORY, rcx = UNITS;                                \
        __asm__ volatile("push %%rbx\n" before "\npushfq; orq $0x100, (%%rsp); popfq\n" #name      \
                         "_at: " text "\n" #name                                                   \
                         "_end: nop; nop\npushfq; andq $~0x100, (%%rsp); popfq; pop %%rbx"         \
                         : "+D"(rdi), "+S"(rsi), "+c"(rcx)                                         \
                         :                                                                         \
                         : "rax", "rdx", "r8", "r9", "memory", "cc");                              \
    }

FORM(form_nop, "", "nop")
FORM(form_cpuid, "xorl %%eax, %%eax", "cpuid")
FORM(form_in, "", "inb $0x80, %%al")
FORM(form_out, "", "outb %%al, $0x80")
FORM(form_outs, "movl $0x80, %%edx", "outsb")
FORM(form_ins, "movl $0x80, %%edx; movq %%rsi, %%rdi", "insb")
FORM(form_store, "", "movl %%eax, (%%rdi)")
FORM(form_load, "", "movl (%%rdi), %%eax")
FORM(form_modify, "", "addl $1, (%%rdi)")
FORM(form_stos, "", "stosb")
FORM(form_rdmsr, "movl $0x12345, %%ecx", "rdmsr")
FORM(form_wrmsr, "movl $0x12345, %%ecx; xorl %%eax, %%eax; xorl %%edx, %%edx", "wrmsr")
FORM(form_cr0, "movq %%cr0, %%rax", "movq %%rax, %%cr0")
FORM(form_cr3, "movq %%cr3, %%rax", "movq %%rax, %%cr3")
FORM(form_cr4, "movq %%cr4, %%rax", "movq %%rax, %%cr4")
FORM(form_clts, "", "clts")
FORM(form_dr, "xorl %%eax, %%eax", "movq %%rax, %%dr0")
FORM(form_invlpg, "", "invlpg (%%rdi)")
FORM(form_wbinvd, "", "wbinvd")
FORM(form_pause, "", "pause")
FORM(form_rdtsc, "", "rdtsc")
FORM(form_vmcall, "movl $7, %%eax", "vmcall")
FORM(form_vmmcall, "movl $7, %%eax", "vmmcall")
FORM(form_shadow, "xorl %%eax, %%eax; movw %%ss, %%r8w", "movw %%r8w, %%ss; cpuid")
FORM(form_shadow_out, "movw %%ss, %%r8w", "movw %%r8w, %%ss; outb %%al, $0x80")
FORM(form_sti_out, "sti", "outb %%al, $0x80")

static const struct form {
    const char *name;
    void (*run)(void);
    const char *at, *end;
    int vendor; /* 1: Intel's only, 2: AMD's */
} forms[] = {
#define ENTRY(name, vendor)                                                                        \
    {                                                                                              \
#name, form_##name, form_##name##_at, form_##name##_end, vendor                            \
    }
    ENTRY(nop, 0),     ENTRY(cpuid, 0),  ENTRY(in, 0),      ENTRY(out, 0),    ENTRY(outs, 0),
    ENTRY(ins, 0),     ENTRY(store, 0),  ENTRY(load, 0),    ENTRY(modify, 0), ENTRY(stos, 0),
    ENTRY(rdmsr, 0),   ENTRY(wrmsr, 0),  ENTRY(cr0, 0),     ENTRY(cr3, 0),    ENTRY(cr4, 0),
    ENTRY(clts, 0),    ENTRY(dr, 0),     ENTRY(invlpg, 0),  ENTRY(wbinvd, 0), ENTRY(pause, 0),
    ENTRY(rdtsc, 0),   ENTRY(vmcall, 1), ENTRY(vmmcall, 2), ENTRY(shadow, 0), ENTRY(shadow_out, 0),
    ENTRY(sti_out, 0),
};

static void guest_form(uint64_t which)
{
    const struct form *form = &forms[which];

    guest_handler[1] = note;
    seen_count = 0;
    seen_end = (uintptr_t)form->end;
    form->run();
    __asm__ volatile("cli");
    guest_done(seen_count);
}

static void on_host_step(struct bare_frame *frame, void *ctx)
{
    (void)ctx;
    frame->rflags &= ~(uint64_t)RFLAGS_TF;
}

/* Runs until PORT_DONE; the loop completes everything else. */
static uint64_t run_form(uint64_t which, void (*fn)(uint64_t))
{
    uint64_t value = ~0ull;

    guest_prepare(fn, which);
    for (unsigned turns = 0; turns < 100 && !guest_continue(&value); turns++) {
        if (!CHECK(machine.exit->pending))
            break;
        if (turns == 99) {
            char text[200];

            describe_exit(text, sizeof(text), machine.exit);
            bare_printf("  again and again: %s\n", text);
        }
        while (virtx_vcpu_complete(machine.vcpu, NULL) == VIRTX_AGAIN)
            ;
    }
    return value;
}

static bool foreign(const struct form *form)
{
    return form->vendor && form->vendor != (backend_is("svm") ? 2 : 1);
}

static bool forms_intercepted;

static void step_forms(void)
{
    for (unsigned i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        if (foreign(&forms[i]))
            continue;
        if (forms[i].run == form_pause && engine_is("qemu") && !forms_intercepted)
            known_bug("QEMU's PAUSE does not trap");
        if (run_form(i, guest_form) != 1 || seen[0].rip != (uintptr_t)forms[i].end)
            bare_printf("form %s: %u traps, the first at +%u\n", forms[i].name, seen_count,
                        (unsigned)(seen[0].rip - (uintptr_t)forms[i].at));
        CHECK_EQUAL(seen_count, 1);
        expect_seen(0, 1, (uintptr_t)forms[i].end);
        CHECK_EQUAL(seen[0].rflags & RFLAGS_RF, 0);
        CHECK_EQUAL(seen[0].dr6, DR6_CLEAR | DR6_BS);
        known_bug_end();
    }
}

static enum virtx_verdict by_default(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    unsigned *count = ctx;

    (void)vcpu;
    if (count)
        (*count)++;
    return exit->reason == VIRTX_EXIT_MSR || exit->reason == VIRTX_EXIT_HYPERCALL ? VIRTX_HANDLED
                                                                                  : VIRTX_DEFAULT;
}

/* B1 to B12 under TF: each instruction traps once, behind it, however it is served. */
static void step_every_exit(void)
{
    forms_intercepted = false;
    machine_open();
    bare_handler_set(1, on_host_step, NULL);
    intercept_handler(VIRTX_INTERCEPT_MSR, VIRTX_READ | VIRTX_WRITE, MSR_INVENTED, MSR_INVENTED,
                      by_default, NULL);
    intercept_handler(VIRTX_INTERCEPT_HYPERCALL, 0, 0, 0, by_default, NULL);
    step_forms();
    bare_handler_set(1, NULL, NULL);
}

/* The same where an intercept with a handler asks to see them first. */
static void step_every_intercept(void)
{
    static const uint8_t instructions[] = {VIRTX_INSN_INVLPG, VIRTX_INSN_WBINVD, VIRTX_INSN_PAUSE,
                                           VIRTX_INSN_RDTSC};

    machine_open();
    bare_handler_set(1, on_host_step, NULL);
    intercept_handler(VIRTX_INTERCEPT_MSR, VIRTX_READ | VIRTX_WRITE, MSR_INVENTED, MSR_INVENTED,
                      by_default, NULL);
    intercept_handler(VIRTX_INTERCEPT_HYPERCALL, 0, 0, 0, by_default, NULL);
    intercept_handler(VIRTX_INTERCEPT_CPUID, 0, 0, 0, by_default, NULL);
    intercept_handler(VIRTX_INTERCEPT_CR, VIRTX_WRITE, 0, 0, by_default, NULL);
    intercept_handler(VIRTX_INTERCEPT_CR, VIRTX_WRITE, 3, 4, by_default, NULL);
    intercept_handler(VIRTX_INTERCEPT_DR, VIRTX_WRITE, 0, 0, by_default, NULL);
    for (unsigned i = 0; i < sizeof(instructions); i++)
        intercept_handler(VIRTX_INTERCEPT_INSTRUCTION, 0, instructions[i], instructions[i],
                          by_default, NULL);
    forms_intercepted = true;
    step_forms();
    bare_handler_set(1, NULL, NULL);
}

/* ---- Repeated string instructions ---- */

FORM(rep_outs, "movl $0x80, %%edx", "rep outsb")
FORM(rep_ins, "movl $0x80, %%edx; movq %%rsi, %%rdi", "rep insb")
FORM(rep_stos, "", "rep stosb")
FORM(rep_movs, "", "rep movsb")
FORM(rep_ram, "movq %%rsi, %%rdi", "rep stosb")

static const struct form reps[] = {
    {"rep outsb", rep_outs, rep_outs_at, rep_outs_end, 0},
    {"rep insb", rep_ins, rep_ins_at, rep_ins_end, 0},
    {"rep stosb to a device", rep_stos, rep_stos_at, rep_stos_end, 0},
    {"rep movsb to a device", rep_movs, rep_movs_at, rep_movs_end, 0},
    {"rep stosb", rep_ram, rep_ram_at, rep_ram_end, 0},
};

static void guest_rep(uint64_t which)
{
    const struct form *form = &reps[which];

    guest_handler[1] = note;
    seen_count = 0;
    seen_end = (uintptr_t)form->end;
    form->run();
    guest_done(seen_count);
}

/* Intel SDM "Single-Step Exception Condition" and "Instruction-Breakpoint Exception Condition": a
 * trap after each iteration, RF set in the flags of all but the last. */
static void step_repeated(void)
{
    machine_open();
    bare_handler_set(1, on_host_step, NULL);
    for (unsigned i = 0; i < sizeof(reps) / sizeof(reps[0]); i++) {
        unsigned bad = 0;

        if (i == 4 && engine_is("qemu"))
            known_bug("QEMU traps once more when REP finds nothing left to do");
        if (run_form(i, guest_rep) != UNITS)
            bare_printf("%s\n", reps[i].name);
        CHECK_EQUAL(seen_count, UNITS);
        for (unsigned n = 0; n < UNITS && n < seen_count; n++) {
            bool last = n == UNITS - 1;

            bad += seen[n].rip != (uintptr_t)(last ? reps[i].end : reps[i].at);
            bad += seen[n].rcx != UNITS - 1 - n;
            CHECK_EQUAL(seen[n].dr6, DR6_CLEAR | DR6_BS);
            if (i == 4 && !harness_interpreted())
                known_bug("the emulators do not set RF between iterations of their own");
            CHECK_EQUAL(seen[n].rflags & RFLAGS_RF, last ? 0 : RFLAGS_RF);
        }
        CHECK_EQUAL(bad, 0);
        known_bug_end();
    }
    bare_handler_set(1, NULL, NULL);
}

/* ---- Software interrupts ---- */

FORM(soft_int1, "", ".byte 0xf1")
FORM(soft_int3, "", "int3")
FORM(soft_intn, "", "int $0x52")

static void guest_software(uint64_t which)
{
    static void (*const run[])(void) = {soft_int1, soft_int3, soft_intn};

    guest_handler[1] = guest_handler[3] = guest_handler[VECTOR] = note;
    seen_count = 0;
    run[which]();
    guest_done(seen_count);
}

/* Their delivery clears TF without a trap; the handler's IRET sets it, and the instruction behind
 * traps. INT1 sets no bit of DR6 (Intel SDM "INT n/INTO/INT3/INT1"). */
static void step_software(void)
{
    static const uint8_t vectors[] = {1, 3, VECTOR};
    const char *ends[] = {soft_int1_end, soft_int3_end, soft_intn_end};

    machine_open();
    bare_handler_set(1, on_host_step, NULL);
    for (unsigned intercepted = 0; intercepted < 2; intercepted++) {
        unsigned count = 0;

        if (intercepted) {
            intercept_handler(VIRTX_INTERCEPT_EXCEPTION, 0, 1, 1, by_default, &count);
            intercept_handler(VIRTX_INTERCEPT_EXCEPTION, 0, 3, 3, by_default, &count);
        }
        for (unsigned i = 0; i < 3; i++) {
            seen_end = (uintptr_t)ends[i] + 1;
            if (i == 0 && engine_is("qemu") && !harness_interpreted())
                known_bug("QEMU does not know INT1");
            CHECK_EQUAL(run_form(i, guest_software), 2);
            expect_seen(0, vectors[i], (uintptr_t)ends[i]);
            CHECK_EQUAL(seen[0].rflags & RFLAGS_TF, RFLAGS_TF);
            if (i == 0)
                CHECK_EQUAL(seen[0].dr6, DR6_CLEAR);
            expect_seen(1, 1, (uintptr_t)ends[i] + 1);
            CHECK_EQUAL(seen[1].dr6, DR6_CLEAR | DR6_BS);
            known_bug_end();
        }
        if (engine_is("qemu") && !harness_interpreted())
            known_bug("QEMU does not know INT1, and does not intercept INT3");
        CHECK_EQUAL(count, intercepted ? 5 : 0);
        known_bug_end();
    }
    bare_handler_set(1, NULL, NULL);
}

/* ---- RF of faults ---- */

static volatile uint64_t fault_rflags, fault_vector;

static void note_fault(struct bare_frame *frame)
{
    fault_vector = frame->vector;
    fault_rflags = frame->rflags;
    frame->rip = frame->r8;
    frame->rflags &= ~(uint64_t)RFLAGS_RF;
}

#define FAULT(text)                                                                                \
    __asm__ volatile("leaq 1f(%%rip), %%r8; " text "; 1: nop"                                      \
                     :                                                                             \
                     : "a"(0x80000000u), "c"(MSR_HIDDEN), "d"(0), "S"((uint64_t)MISSING),          \
                       "D"((uint64_t)READ_ONLY)                                                    \
                     : "r8", "memory")

static void guest_faults(uint64_t which)
{
    guest_handler[6] = guest_handler[13] = guest_handler[14] = note_fault;
    fault_vector = fault_rflags = 0;
    *guest_pte(MISSING) = 0;
    guest_invlpg(MISSING);
    *guest_pte(READ_ONLY) &= ~2ul;
    guest_invlpg(READ_ONLY);
    switch (which) {
    case 0:
        FAULT("rdmsr");
        break;
    case 1:
        FAULT("movq %%rax, %%cr4");
        break;
    case 2:
        if (guest_has_svm)
            FAULT("vmmcall");
        else
            FAULT("vmcall");
        break;
    case 3:
        FAULT("ud2");
        break;
    case 4:
        FAULT("movl (%%rsi), %%eax");
        break;
    case 5:
        FAULT("movl %%eax, (%%rdi)");
        break;
    default:
        FAULT("movl $0xfff0, %%eax; movw %%ax, %%ds");
    }
    guest_done(fault_vector);
}

/* Intel SDM "Instruction-Breakpoint Exception Condition": a fault's flags have RF set, the
 * library's faults too. */
static void faults_set_rf(void)
{
    static const uint8_t vectors[] = {13, 13, 6, 6, 14, 14, 13};
    uint64_t generation;

    machine_open();
    for (unsigned i = 0; i < 2 * sizeof(vectors); i++) {
        unsigned which = i % sizeof(vectors);

        /* In the second round the processor finds nothing mapped yet. */
        if (i >= sizeof(vectors))
            CHECK_OK(virtx_memslot_invalidate(machine.memory, 0, GUEST_MEMORY_BYTES, &generation));
        CHECK_EQUAL(GUEST_RESULT(guest_faults, which), vectors[which]);
        if (which >= 2 && engine_is("qemu"))
            known_bug("QEMU does not set RF in the flags of a fault");
        CHECK_EQUAL(fault_rflags & RFLAGS_RF, RFLAGS_RF);
        known_bug_end();
    }
}

/* ---- Who sees a #DB ---- */

static enum virtx_verdict drop(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    unsigned *count = ctx;
    struct virtx_state state;

    if (exit->exception.vector != 1)
        return VIRTX_DEFAULT;
    (*count)++;
    CHECK_OK(virtx_vcpu_get(vcpu, VIRTX_STATE_RFLAGS, &state));
    state.rflags &= ~(uint64_t)RFLAGS_TF;
    CHECK_OK(virtx_vcpu_set(vcpu, VIRTX_STATE_RFLAGS, &state));
    return VIRTX_HANDLED;
}

/* The trap of an instruction that the library has retired is an exception like another: an
 * intercept's. */
static void trap_intercepted(void)
{
    unsigned count = 0;

    machine_open();
    bare_handler_set(1, on_host_step, NULL);
    intercept_handler(VIRTX_INTERCEPT_MSR, VIRTX_READ | VIRTX_WRITE, MSR_INVENTED, MSR_INVENTED,
                      by_default, NULL);
    intercept_handler(VIRTX_INTERCEPT_HYPERCALL, 0, 0, 0, by_default, NULL);
    intercept_handler(VIRTX_INTERCEPT_EXCEPTION, 0, 1, 1, drop, &count);
    for (unsigned i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        if (foreign(&forms[i]))
            continue;
        count = 0;
        CHECK_EQUAL(run_form(i, guest_form), 0);
        if (!CHECK_EQUAL(count, 1))
            bare_printf("form %s\n", forms[i].name);
    }
    bare_handler_set(1, NULL, NULL);
}

static void guest_shadowed(uint64_t argument)
{
    (void)argument;
    guest_handler[1] = note;
    seen_count = 0;
    seen_end = 0;
    __asm__ volatile("cli; pushfq; orq $0x100, (%%rsp); popfq; sti\nstepped_sti: nop\nstepped_nop: "
                     "pushfq; andq $~0x100, (%%rsp); popfq; cli"
                     :
                     :
                     : "memory", "cc");
    guest_done(seen_count);
}
extern const char stepped_sti[], stepped_nop[];

/* STI delays interrupts, not its own single step. */
static void step_sti(void)
{
    machine_open();
    bare_handler_set(1, on_host_step, NULL);
    GUEST_RESULT(guest_shadowed, 0);
    if (engine_is("qemu"))
        known_bug("QEMU's STI holds off its own single step");
    expect_seen(0, 1, (uintptr_t)stepped_sti);
    expect_seen(1, 1, (uintptr_t)stepped_nop);
    known_bug_end();
    bare_handler_set(1, NULL, NULL);
}

static void guest_detected(uint64_t argument)
{
    (void)argument;
    guest_handler[1] = note;
    seen_count = 0;
    seen_end = 0;
    __asm__ volatile("movq %0, %%dr7\ndetected: movq %1, %%dr0"
                     :
                     : "r"((uint64_t)DR7_GD | 0x400), "r"(0x1234ul)
                     : "memory");
    guest_done(seen_count);
}
extern const char detected[];

/* Intel SDM "General-Detect Exception Condition", with and without the debug registers in the
 * processor. */
static void general_detect(void)
{
    machine_open();
    for (unsigned i = 0; i < 3; i++) {
        if (i == 2)
            intercept_handler(VIRTX_INTERCEPT_DR, VIRTX_READ | VIRTX_WRITE, 0, 7, by_default, NULL);
        if (engine_is("qemu") && i < 2)
            known_bug("QEMU does not look at DR7.GD");
        CHECK_EQUAL(GUEST_RESULT(guest_detected, 0), 1);
        expect_seen(0, 1, (uintptr_t)detected);
        if (engine_is("bochs") && backend_is("svm"))
            known_bug("Bochs does not update DR6 when it intercepts #DB");
        CHECK_EQUAL(seen[0].dr6, DR6_CLEAR | DR6_BD);
        CHECK_EQUAL(seen[0].dr7 & DR7_GD, 0);
        known_bug_end();
        CHECK_EQUAL(guest_state().dr[0], 0x1234);
    }
}

static void note_breakpoint(struct bare_frame *frame)
{
    note(frame);
    frame->rflags |= RFLAGS_RF;
}

static void guest_breakpoint(uint64_t rounds)
{
    guest_handler[1] = note_breakpoint;
    seen_count = 0;
    __asm__ volatile("leaq broken(%%rip), %%rax; movq %%rax, %%dr0; movl $0x402, %%eax\n"
                     "movq %%rax, %%dr7\n"
                     "1: xorl %%eax, %%eax\n"
                     "broken: cpuid\n"
                     "decq %%rsi; jnz 1b; movl $0x400, %%eax; movq %%rax, %%dr7"
                     : "+S"(rounds)
                     :
                     : "rax", "rbx", "rcx", "rdx", "memory", "cc");
    guest_done(seen_count);
}
extern const char broken[];

/* A breakpoint at an instruction that exits: hit once each time, since retiring it ends RF. */
static void breakpoint(void)
{
    machine_open();
    if (harness_interpreted()) {
        not_shown("the executor has no breakpoints");
        return;
    }
    bare_handler_set(1, on_host_step, NULL);
    CHECK_EQUAL(GUEST_RESULT(guest_breakpoint, 3), 3);
    for (unsigned i = 0; i < 3; i++) {
        expect_seen(i, 1, (uintptr_t)broken);
        if (engine_is("bochs") && backend_is("svm"))
            known_bug("Bochs does not update DR6 when it intercepts #DB");
        CHECK_EQUAL(seen[i].dr6, DR6_CLEAR | DR6_B0);
        known_bug_end();
    }
    bare_handler_set(1, NULL, NULL);
}

/* The instruction at the breakpoint meets memory that the library has yet to map. */
static void guest_breakpoint_cold(uint64_t gva)
{
    guest_handler[1] = note_breakpoint;
    seen_count = 0;
    __asm__ volatile("leaq broken_cold(%%rip), %%rax; movq %%rax, %%dr0; movl $0x402, %%eax\n"
                     "movq %%rax, %%dr7\n"
                     "broken_cold: movl (%%rsi), %%eax\n"
                     "movl $0x400, %%eax; movq %%rax, %%dr7"
                     :
                     : "S"(gva)
                     : "rax", "memory");
    guest_done(seen_count);
}
extern const char broken_cold[];

/* The exit has RF set (Intel SDM "Saving RIP, RSP, RFLAGS, and SSP"): once the memory is there the
 * instruction goes on behind its breakpoint. */
static void breakpoint_cold(void)
{
    struct virtx_stats before, after;
    uint64_t generation;

    machine_open();
    if (harness_interpreted()) {
        not_shown("the executor has no breakpoints");
        return;
    }
    bare_handler_set(1, on_host_step, NULL);
    CHECK_OK(virtx_memslot_invalidate(machine.memory, 0, GUEST_MEMORY_BYTES, &generation));
    virtx_vcpu_stats(machine.vcpu, &before);
    if (engine_is("bochs"))
        known_bug("Bochs has RF clear in the flags of a fault that exits");
    CHECK_EQUAL(GUEST_RESULT(guest_breakpoint_cold, GUEST_MEMORY + 0x3000), 1);
    known_bug_end();
    virtx_vcpu_stats(machine.vcpu, &after);
    CHECK(after.faults_mapped > before.faults_mapped);
    expect_seen(0, 1, (uintptr_t)broken_cold);
    bare_handler_set(1, NULL, NULL);
}

GUEST_CASES({"step-over-every-exit", step_every_exit},
            {"step-over-every-intercept", step_every_intercept},
            {"step-over-repeated-strings", step_repeated},
            {"step-over-software-interrupts", step_software}, {"faults-set-rf", faults_set_rf},
            {"trap-of-an-exit-is-intercepted", trap_intercepted}, {"step-over-sti", step_sti},
            {"general-detect", general_detect}, {"breakpoint-at-an-exit", breakpoint},
            {"breakpoint-at-a-nested-fault", breakpoint_cold});
