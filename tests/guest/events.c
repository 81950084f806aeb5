/* SPDX-License-Identifier: BSD-2-Clause */
/* Events: injection, windows, blocking, what happens when delivery itself faults, kicks, host
 * interrupts, and instructions that are retired by the library in awkward moments. */
#include "harness.h"

enum {
    VECTOR = 0x50,
    OTHER = 0x52,
    VECTOR_HOST = 0x61,
    PORT_BELL = 0x514,
    PAGE = 4096,
    DR6_BS = 1 << 14,
    RFLAGS_TF = 0x100,
    RFLAGS_IF = 0x200,
};

extern const char guest_stubs[];

static const struct virtx_event interrupt = {.type = VIRTX_EVENT_INTERRUPT, .vector = VECTOR};

static void inject(uint8_t type, uint8_t vector, bool has_error, uint32_t error, uint8_t length,
                   uint64_t address)
{
    struct virtx_event event = {.type = type,
                                .vector = vector,
                                .has_error = has_error,
                                .error = error,
                                .length = length,
                                .address = address};
    CHECK_OK(virtx_vcpu_inject(machine.vcpu, &event));
}

static void expect_trap(uint64_t vector, const char *rip, uint64_t error, uint64_t count)
{
    CHECK_EQUAL(guest_trap.vector, vector);
    CHECK_EQUAL(guest_trap.rip, (uintptr_t)rip);
    CHECK_EQUAL(guest_trap.error, error);
    CHECK_EQUAL(guest_trap.count, count);
}

/* ---- C1: each kind, at a known instruction ---- */

/* Stops at OUT with RFLAGS.IF as asked; INT3, INT1 and INT n stand behind it for those who say so.
 */
#define STOP "movl $0x500, %%edx; outl %%eax, %%dx\n"

static void guest_stop(uint64_t interrupts)
{
    for (unsigned i = 0; i < 256; i++)
        guest_handler[i] = guest_ignore;
    if (interrupts)
        bare_irq_enable();
    __asm__ volatile(STOP "stop_here: nop; nop" : : "a"(0) : "rdx", "memory");
    guest_done(guest_trap.count);
}
extern const char stop_here[];

static void inject_kinds(void)
{
    static const struct {
        uint8_t type, vector;
        bool has_error;
        uint32_t error;
        uint64_t address;
    } kinds[] = {
        {VIRTX_EVENT_INTERRUPT, VECTOR, false, 0, 0},
        {VIRTX_EVENT_INTERRUPT, 255, false, 0, 0},
        {VIRTX_EVENT_NMI, 2, false, 0, 0},
        {VIRTX_EVENT_EXCEPTION, 0, false, 0, 0},
        {VIRTX_EVENT_EXCEPTION, 6, false, 0, 0},
        {VIRTX_EVENT_EXCEPTION, 11, true, 0x50, 0},
        {VIRTX_EVENT_EXCEPTION, 13, true, 0x1234, 0},
        {VIRTX_EVENT_EXCEPTION, 14, true, 6, 0x123456789000},
        {VIRTX_EVENT_EXCEPTION, 17, true, 0, 0},
        {VIRTX_EVENT_EXCEPTION, 19, false, 0, 0},
    };

    machine_open();
    for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        guest_trap.count = 0;
        GUEST_RESULT(guest_stop, 1);
        inject(kinds[i].type, kinds[i].vector, kinds[i].has_error, kinds[i].error, 0,
               kinds[i].address);
        CHECK_EQUAL(GUEST_CONTINUE(), 1);
        expect_trap(kinds[i].vector, stop_here, kinds[i].error, 1);
        CHECK_EQUAL(guest_trap.cs, GUEST_CODE);
        CHECK(guest_trap.rflags & RFLAGS_IF);
        if (kinds[i].vector == 14)
            CHECK_EQUAL(guest_trap.cr2, kinds[i].address);
    }
}

static void guest_stop_at_software(uint64_t which)
{
    guest_handler[1] = guest_handler[3] = guest_handler[OTHER] = guest_ignore;
    if (which == 0)
        __asm__ volatile(STOP "at_intn: int $0x52\nafter_intn: nop" : : "a"(0) : "rdx", "memory");
    else if (which == 1)
        __asm__ volatile(STOP "at_int3: int3\nafter_int3: nop" : : "a"(0) : "rdx", "memory");
    else
        __asm__ volatile(STOP "at_int1: .byte 0xf1\nafter_int1: nop" : : "a"(0) : "rdx", "memory");
    guest_done(guest_trap.count);
}
extern const char after_intn[], after_int3[], after_int1[];

static void inject_software(void)
{
    machine_open();
    GUEST_RESULT(guest_stop_at_software, 0);
    inject(VIRTX_EVENT_SOFT_INTERRUPT, OTHER, false, 0, 2, 0);
    CHECK_EQUAL(GUEST_CONTINUE(), 1);
    expect_trap(OTHER, after_intn, 0, 1);
    guest_trap.count = 0;
    GUEST_RESULT(guest_stop_at_software, 1);
    inject(VIRTX_EVENT_SOFT_EXCEPTION, 3, false, 0, 1, 0);
    CHECK_EQUAL(GUEST_CONTINUE(), 1);
    expect_trap(3, after_int3, 0, 1);
    guest_trap.count = 0;
    GUEST_RESULT(guest_stop_at_software, 2);
    inject(VIRTX_EVENT_PRIV_EXCEPTION, 1, false, 0, 1, 0);
    CHECK_EQUAL(GUEST_CONTINUE(), 1);
    expect_trap(1, after_int1, 0, 1);
}

static void guest_int1(uint64_t argument)
{
    (void)argument;
    guest_handler[1] = guest_ignore;
    __asm__ volatile(".byte 0xf1\nbehind_int1: nop" : : : "memory");
    guest_done(guest_trap.count);
}
extern const char behind_int1[];

/* Executed by the guest: the handler returns behind it (Intel SDM "INT n/INTO/INT3/INT1"). */
static void int1_executed(void)
{
    machine_open();
    if (engine_is("qemu") && !harness_interpreted()) {
        not_shown("QEMU does not know INT1: #UD");
        return;
    }
    guest_trap.count = 0;
    CHECK_EQUAL(GUEST_RESULT(guest_int1, 0), 1);
    expect_trap(1, behind_int1, 0, 1);
}

static void inject_refused(void)
{
    static const struct virtx_event bad[] = {
        {.type = VIRTX_EVENT_EXCEPTION, .vector = 32},
        {.type = VIRTX_EVENT_NMI, .vector = 3},
        {.type = VIRTX_EVENT_EXCEPTION, .vector = 13, .has_error = false},
        {.type = VIRTX_EVENT_EXCEPTION, .vector = 6, .has_error = true},
        {.type = VIRTX_EVENT_SOFT_INTERRUPT, .vector = 0x80, .length = 16},
        {.type = 1, .vector = 3},
    };

    machine_open();
    GUEST_RESULT(guest_stop, 1);
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        CHECK_STATUS(virtx_vcpu_inject(machine.vcpu, &bad[i]), VIRTX_E_INVALID);
    CHECK_EQUAL(GUEST_CONTINUE(), 0);
}

/* ---- Windows and shadows ---- */

static void guest_window(uint64_t argument)
{
    (void)argument;
    guest_handler[VECTOR] = guest_ignore;
    __asm__ volatile("cli\n" STOP "nop; nop; sti; nop\nwindow_opens: nop; nop; cli"
                     :
                     : "a"(0)
                     : "rdx", "memory");
    guest_done(guest_trap.count);
}
extern const char window_opens[];

static void window(void)
{
    machine_open();
    GUEST_RESULT(guest_window, 0);
    CHECK_OK(virtx_vcpu_inject(machine.vcpu, &interrupt));
    CHECK_STATUS(virtx_vcpu_inject(machine.vcpu, &interrupt), VIRTX_E_BUSY);
    CHECK_EQUAL(GUEST_CONTINUE(), 1);
    expect_trap(VECTOR, window_opens, 0, 1);
}

static void window_exit(void)
{
    machine_open();
    GUEST_RESULT(guest_window, 0);
    CHECK_OK(virtx_vcpu_window(machine.vcpu));
    if (CHECK(EXPECT_EXIT(VIRTX_EXIT_WINDOW))) {
        CHECK(!machine.exit->pending);
        CHECK_EQUAL(guest_state().rip, (uintptr_t)window_opens);
        CHECK_OK(virtx_vcpu_inject(machine.vcpu, &interrupt));
    }
    CHECK_EQUAL(GUEST_CONTINUE(), 1);
    expect_trap(VECTOR, window_opens, 0, 1);
}

/* CPUID in the shadow of STI is retired by the library: then comes the interrupt. */
static void guest_sti_cpuid(uint64_t argument)
{
    (void)argument;
    guest_handler[VECTOR] = guest_ignore;
    __asm__ volatile("cli\n" STOP "xorl %%eax, %%eax; sti; cpuid\nafter_cpuid: nop; nop; cli"
                     :
                     : "a"(0)
                     : "rbx", "rcx", "rdx", "memory");
    guest_done(guest_trap.count);
}
extern const char after_cpuid[];

static void sti_cpuid(void)
{
    machine_open();
    GUEST_RESULT(guest_sti_cpuid, 0);
    CHECK_OK(virtx_vcpu_inject(machine.vcpu, &interrupt));
    CHECK_EQUAL(GUEST_CONTINUE(), 1);
    expect_trap(VECTOR, after_cpuid, 0, 1);
}

/* An exit to the loop in a shadow: state says so, and completing it ends the shadow. */
static void guest_shadow_out(uint64_t mov_ss)
{
    guest_handler[VECTOR] = guest_ignore;
    if (mov_ss) {
        __asm__ volatile("sti; nop; movw %%ss, %%cx; movw %%cx, %%ss; outb %%al, $0x80\n"
                         "after_ss_out: nop; cli"
                         :
                         :
                         : "rcx", "memory");
    } else {
        __asm__ volatile("cli; sti; outb %%al, $0x80\nafter_sti_out: nop; cli" : : : "memory");
    }
    guest_done(guest_trap.count);
}
extern const char after_ss_out[], after_sti_out[];

static void shadow_out(void)
{
    machine_open();
    for (unsigned i = 0; i < 2; i++) {
        guest_trap.count = 0;
        guest_prepare(guest_shadow_out, i);
        if (!CHECK(EXPECT_EXIT(VIRTX_EXIT_IO)))
            return;
        CHECK_OK(virtx_vcpu_inject(machine.vcpu, &interrupt));
        CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
        CHECK_EQUAL(guest_state().interruptibility, 0);
        CHECK_EQUAL(GUEST_CONTINUE(), 1);
        expect_trap(VECTOR, i ? after_ss_out : after_sti_out, 0, 1);
    }
}

/* A nested fault in the shadow: the instruction is executed again, still in the shadow. */
static void guest_shadow_fault(uint64_t gva)
{
    guest_handler[VECTOR] = guest_ignore;
    __asm__ volatile("cli\n" STOP "sti; movq (%1), %%rax\nafter_touch: nop; nop; cli"
                     :
                     : "a"(0), "r"(gva)
                     : "rdx", "memory");
    guest_done(guest_trap.count);
}
extern const char after_touch[];

static void shadow_fault(void)
{
    struct virtx_stats before, after;

    machine_open();
    GUEST_RESULT(guest_shadow_fault, GUEST_MEMORY);
    CHECK_OK(virtx_vcpu_inject(machine.vcpu, &interrupt));
    virtx_vcpu_stats(machine.vcpu, &before);
    if (engine_is("qemu"))
        known_bug("QEMU's VMRUN does not load the interrupt shadow");
    if (engine_is("bochs") && backend_is("svm"))
        known_bug("Bochs' VMRUN with IF = 1 leaves virtual interrupts masked until IF changes");
    if (engine_is("bochs") && backend_is("vmx") && !paging_is_nested())
        known_bug("Bochs' VM exits by exceptions have forgotten the shadow of STI");
    CHECK_EQUAL(GUEST_CONTINUE(), 1);
    expect_trap(VECTOR, after_touch, 0, 1);
    known_bug_end();
    virtx_vcpu_stats(machine.vcpu, &after);
    CHECK(harness_interpreted() || after.faults_mapped > before.faults_mapped);
}

/* ---- NMI ---- */

static volatile unsigned nmi_depth, nmi_deepest;

static void on_guest_nmi(struct bare_frame *frame)
{
    (void)frame;
    nmi_depth = nmi_depth + 1;
    if (nmi_depth > nmi_deepest)
        nmi_deepest = nmi_depth;
    if (guest_vector_count[2] == 1) {
        guest_done(100); /* the host sends two more: one is latched, the other is lost */
        for (volatile unsigned i = 0; i < 100; i++)
            ;
        guest_done(101);
    }
    nmi_depth = nmi_depth - 1;
}

static void guest_nmi(uint64_t argument)
{
    (void)argument;
    nmi_depth = nmi_deepest = 0;
    guest_handler[2] = on_guest_nmi;
    guest_done(0);
    __asm__ volatile("nop; nop; nop");
    guest_done(guest_vector_count[2]);
}

static void nmi_blocking(void)
{
    extern const char guest_iret[];

    machine_open();
    GUEST_RESULT(guest_nmi, 0);
    virtx_vcpu_nmi(machine.vcpu);
    CHECK_EQUAL(GUEST_CONTINUE(), 100);
    CHECK_EQUAL(guest_state().interruptibility & VIRTX_BLOCKED_BY_NMI, VIRTX_BLOCKED_BY_NMI);
    virtx_vcpu_nmi(machine.vcpu);
    virtx_vcpu_nmi(machine.vcpu);
    CHECK_EQUAL(GUEST_CONTINUE(), 101);
    CHECK_EQUAL(guest_vector_count[2], 1);
    CHECK_EQUAL(GUEST_CONTINUE(), 2);
    CHECK_EQUAL(nmi_deepest, 1);
    CHECK(guest_trap.rip != (uintptr_t)guest_iret); /* only after IRET, not at it */
    CHECK_EQUAL(guest_state().interruptibility & VIRTX_BLOCKED_BY_NMI, 0);
}

static void guest_halts(uint64_t argument)
{
    (void)argument;
    guest_handler[2] = guest_handler[VECTOR] = guest_ignore;
    __asm__ volatile("cli; hlt\nafter_halt: nop" : : : "memory");
    guest_done(guest_trap.count);
}
extern const char after_halt[];

static void hlt_with_nmi(void)
{
    machine_open();
    guest_prepare(guest_halts, 0);
    CHECK(EXPECT_EXIT(VIRTX_EXIT_HLT));
    CHECK_OK(virtx_vcpu_inject(machine.vcpu, &interrupt));
    CHECK(EXPECT_EXIT(VIRTX_EXIT_HLT)); /* IF = 0: an interrupt does not wake it */
    virtx_vcpu_nmi(machine.vcpu);
    CHECK(virtx_vcpu_wakeable(machine.vcpu));
    CHECK_EQUAL(GUEST_CONTINUE(), 1);
    expect_trap(2, after_halt, 0, 1);
}

/* ---- Delivery that faults ---- */

static void guest_bad_gate(uint64_t vector)
{
    guest_idt[vector][0] &= ~(1ul << 47); /* not present: #NP during delivery */
    guest_handler[8] = guest_handler[11] = guest_ignore;
    __asm__ volatile(STOP "bad_gate: nop; nop" : : "a"(0) : "rdx", "memory");
    guest_done(guest_trap.count);
}
extern const char bad_gate[];

static void double_fault(void)
{
    machine_open();
    GUEST_RESULT(guest_bad_gate, 13);
    inject(VIRTX_EVENT_EXCEPTION, 13, true, 0, 0, 0);
    if (engine_is("qemu"))
        known_bug("QEMU forgets that an injected exception was an exception: no #DF");
    CHECK_EQUAL(GUEST_CONTINUE(), 1);
    expect_trap(8, bad_gate, 0, 1);
}

/* The same when the second exception exits and the embedder reflects it. */
static void double_fault_reflected(void)
{
    struct virtx_event np = {.type = VIRTX_EVENT_EXCEPTION, .vector = 11, .has_error = true};

    machine_open();
    intercept(VIRTX_INTERCEPT_EXCEPTION, 0, 11, 11);
    GUEST_RESULT(guest_bad_gate, 13);
    inject(VIRTX_EVENT_EXCEPTION, 13, true, 0, 0, 0);
    if (!CHECK(EXPECT_EXIT(VIRTX_EXIT_EXCEPTION)))
        return;
    CHECK_EQUAL(machine.exit->exception.vector, 11);
    if (engine_is("qemu"))
        known_bug("QEMU counts 16 bytes a gate in the error codes of 64-bit mode");
    CHECK_EQUAL(machine.exit->exception.error | 1, 13 * 8 + 3); /* the gate, in the IDT */
    known_bug_end();
    np.error = machine.exit->exception.error;
    CHECK_OK(virtx_vcpu_fault(machine.vcpu, &np));
    CHECK_EQUAL(GUEST_CONTINUE(), 1);
    expect_trap(8, bad_gate, 0, 1);
}

/* … and an embedder who removes the cause: the first is delivered, once. */
static void delivery_mended(void)
{
    machine_open();
    intercept(VIRTX_INTERCEPT_EXCEPTION, 0, 11, 11);
    GUEST_RESULT(guest_bad_gate, VECTOR);
    guest_handler[VECTOR] = guest_ignore;
    bare_read_cr2();
    struct virtx_state state = guest_state();
    state.rflags |= RFLAGS_IF;
    guest_set_state(VIRTX_STATE_RFLAGS, &state);
    CHECK_OK(virtx_vcpu_inject(machine.vcpu, &interrupt));
    if (!CHECK(EXPECT_EXIT(VIRTX_EXIT_EXCEPTION)))
        return;
    CHECK_EQUAL(machine.exit->exception.vector, 11);
    guest_idt[VECTOR][0] |= 1ul << 47;
    CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
    CHECK_EQUAL(GUEST_CONTINUE(), 1);
    expect_trap(VECTOR, bad_gate, 0, 1);
}

static void triple_fault(void)
{
    machine_open();
    if (engine_is("bochs") && backend_is("svm")) {
        not_shown("Bochs resets the machine at a triple fault before it looks at SVM's intercept");
        return;
    }
    GUEST_RESULT(guest_bad_gate, 13);
    guest_idt[8][0] &= ~(1ul << 47);
    inject(VIRTX_EVENT_EXCEPTION, 13, true, 0, 0, 0);
    if (engine_is("qemu"))
        known_bug("QEMU forgets that an injected exception was an exception: no #DF");
    CHECK(EXPECT_EXIT(VIRTX_EXIT_SHUTDOWN));
}

/* Merging in the queue: benign + anything, contributory pairs, page faults (Intel SDM "Double
 * Fault", table of classes). Vectors: 6 benign, 13 contributory, 14 page fault. */
static void merge(void)
{
    static const struct {
        uint8_t first, second, result;
    } pairs[] = {
        {6, 13, 13},  {6, 14, 14}, {6, 6, 6},   {13, 6, 6},  {13, 13, 8},
        {13, 14, 14}, {14, 6, 6},  {14, 13, 8}, {14, 14, 8},
    };

    machine_open();
    for (unsigned i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        GUEST_RESULT(guest_stop, 1);
        guest_trap.count = 0;
        inject(VIRTX_EVENT_EXCEPTION, pairs[i].first, pairs[i].first >= 13, 0, 0, 0x1000);
        inject(VIRTX_EVENT_EXCEPTION, pairs[i].second, pairs[i].second >= 13, 0, 0, 0x2000);
        CHECK_EQUAL(GUEST_CONTINUE(), 1);
        CHECK_EQUAL(guest_trap.vector, pairs[i].result);
    }
    GUEST_RESULT(guest_stop, 1);
    inject(VIRTX_EVENT_EXCEPTION, 8, true, 0, 0, 0);
    inject(VIRTX_EVENT_EXCEPTION, 13, true, 0, 0, 0);
    CHECK(EXPECT_EXIT(VIRTX_EXIT_SHUTDOWN));
}

/* ---- C4: a nested fault during delivery ---- */

static void drop_ram(void)
{
    uint64_t generation;
    CHECK_OK(virtx_memslot_invalidate(machine.memory, 0, GUEST_MEMORY_BYTES, &generation));
}

/* With a stack in RAM that is not mapped yet. */
static void guest_far_stack(uint64_t how)
{
    uint64_t stack = GUEST_MEMORY + 2 * PAGE;

    for (unsigned i = 0; i < 256; i++)
        guest_handler[i] = guest_ignore;
    guest_done(0);
    switch (how) {
    case 0:
        __asm__ volatile("movq %%rsp, %%rbx; movq %0, %%rsp; int $0x52\nfar_int: movq %%rbx, %%rsp"
                         :
                         : "r"(stack)
                         : "rbx", "memory");
        break;
    case 1:
        __asm__ volatile("movq %%rsp, %%rbx; movq %0, %%rsp; int3\nfar_int3: movq %%rbx, %%rsp"
                         :
                         : "r"(stack)
                         : "rbx", "memory");
        break;
    case 2:
        guest_handler[6] = NULL;
        __asm__ volatile(
            "movq %%rsp, %%rbx; movq %0, %%rsp\nfar_ud: ud2\n1: movq %%rbx, %%rsp\n" BARE_FIXUP(
                "far_ud", "1b")
            :
            : "r"(stack)
            : "rbx", "memory");
        break;
    case 3:
        guest_handler[13] = NULL;
        __asm__ volatile(
            "movq %%rsp, %%rbx; movq %0, %%rsp; movl $0xfff0, %%eax\n"
            "far_gp: movw %%ax, %%ds\n1: movq %%rbx, %%rsp\n" BARE_FIXUP("far_gp", "1b")
            :
            : "r"(stack)
            : "rax", "rbx", "memory");
        break;
    default: /* the host injects */
        __asm__ volatile("movq %%rsp, %%rbx; movq %0, %%rsp; sti; nop\n"
                         "xorl %%eax, %%eax; movl $0x500, %%edx; outl %%eax, %%dx\n"
                         "far_stop: nop; cli; movq %%rbx, %%rsp"
                         :
                         : "r"(stack)
                         : "rax", "rbx", "rdx", "memory");
    }
    guest_done(guest_trap.count);
}
extern const char far_int[], far_int3[], far_ud[], far_gp[], far_stop[];

static void nested_fault_in_delivery(void)
{
    static const uint8_t vectors[] = {OTHER, 3, 6, 13, VECTOR, 2, 14};
    struct virtx_stats before, after;

    harness_memory_flags = VIRTX_MEMSLOT_SMALL_PAGES;
    machine_open();
    for (unsigned i = 0; i < sizeof(vectors); i++) {
        const char *rips[] = {far_int, far_int3, far_ud, far_gp, far_stop, far_stop, far_stop};

        guest_trap.count = 0;
        GUEST_RESULT(guest_far_stack, i);
        if (i >= 4)
            GUEST_CONTINUE();
        drop_ram();
        if (i == 4)
            CHECK_OK(virtx_vcpu_inject(machine.vcpu, &interrupt));
        else if (i == 5)
            virtx_vcpu_nmi(machine.vcpu);
        else if (i == 6)
            inject(VIRTX_EVENT_EXCEPTION, 14, true, 2, 0, 0x7777000);
        virtx_vcpu_stats(machine.vcpu, &before);
        if (i == 0 && engine_is("bochs") && backend_is("svm"))
            known_bug("Bochs does not record INT n in EXITINTINFO, but an older event or none");
        CHECK_EQUAL(GUEST_CONTINUE(), 1);
        virtx_vcpu_stats(machine.vcpu, &after);
        expect_trap(vectors[i], rips[i], i == 3 ? 0xfff0 : i == 6 ? 2 : 0, 1);
        known_bug_end();
        if (i == 6)
            CHECK_EQUAL(guest_trap.cr2, 0x7777000);
        CHECK(harness_interpreted() || (i == 5 && harness_nmi_by_hand()) ||
              after.faults_mapped > before.faults_mapped);
    }
}

/* ---- D3: many interrupts, none lost, none doubled ---- */

enum { MANY = 1000 };

static void guest_random_if(uint64_t wanted)
{
    uint32_t random = 12345;

    guest_handler[VECTOR] = guest_ignore;
    while (guest_vector_count[VECTOR] < wanted) {
        random = random * 1664525 + 1013904223;
        switch (random >> 28) {
        case 0 ... 4:
            bare_irq_disable();
            break;
        case 5 ... 8:
            bare_irq_enable();
            break;
        case 9:
            __asm__ volatile("sti; cli");
            break;
        case 10:
            __asm__ volatile("sti; nop; cli");
            break;
        case 11:
            bare_cpuid(0, 0);
            break;
        case 12:
            __asm__ volatile("pushfq; popfq");
            break;
        default:
            guest_mark(random);
        }
    }
    bare_irq_disable();
    guest_done(guest_vector_count[VECTOR]);
}

static void thousand_interrupts(void)
{
    uint64_t accepted = 0, turns = 0;

    machine_open();
    guest_prepare(guest_random_if, MANY);
    for (; turns < 100 * MANY; turns++) {
        const struct virtx_exit *exit = guest_run();

        CHECK(guest_vector_count[VECTOR] <= accepted);
        if (exit->reason != VIRTX_EXIT_IO || exit->io.port == PORT_DONE)
            break;
        CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
        if (accepted < MANY && virtx_vcpu_inject(machine.vcpu, &interrupt) == VIRTX_OK)
            accepted++;
    }
    CHECK_EQUAL(machine.exit->reason, VIRTX_EXIT_IO);
    CHECK_EQUAL(machine.exit->io.value, MANY);
    CHECK_EQUAL(accepted, MANY);
    CHECK_EQUAL(guest_vector_count[VECTOR], MANY);
}

/* ---- An interrupt source ---- */

static struct source {
    int vector;
    unsigned taken, asked;
} source;

static int source_pending(void *ctx)
{
    struct source *s = ctx;
    s->asked++;
    return s->vector;
}

static int source_take(void *ctx)
{
    struct source *s = ctx;
    int vector = s->vector;
    s->taken++;
    s->vector = -1;
    return vector;
}

static const struct virtx_irq_source source_ops = {.pending = source_pending, .take = source_take};

static void irq_source(void)
{
    source = (struct source){.vector = -1};
    machine_open();
    CHECK_OK(virtx_vcpu_irq_source(machine.vcpu, &source_ops, &source));
    GUEST_RESULT(guest_window, 0);
    source.vector = VECTOR;
    virtx_vcpu_irq_changed(machine.vcpu);
    CHECK(!virtx_vcpu_wakeable(machine.vcpu) || source.taken == 0);
    CHECK_EQUAL(GUEST_CONTINUE(), 1);
    CHECK_EQUAL(source.taken, 1);
    expect_trap(VECTOR, window_opens, 0, 1);
    /* The source withdraws: nothing is delivered, nothing taken. */
    guest_trap.count = 0;
    GUEST_RESULT(guest_window, 0);
    source.vector = VECTOR;
    virtx_vcpu_irq_changed(machine.vcpu);
    source.vector = -1;
    virtx_vcpu_irq_changed(machine.vcpu);
    CHECK_EQUAL(GUEST_CONTINUE(), 0);
    CHECK_EQUAL(source.taken, 1);
    CHECK_OK(virtx_vcpu_irq_source(machine.vcpu, NULL, NULL));
}

/* Exception before NMI before interrupt. The NMI comes at the first instruction of the exception's
 * handler; the interrupt when both have returned. Also when the exception is one of another's
 * delivery. */
static volatile uint64_t order[3], order_rip[3], order_count;

static void note_order(struct bare_frame *frame)
{
    uint64_t n = order_count;

    if (n < 3) {
        order[n] = frame->vector;
        order_rip[n] = frame->rip;
    }
    order_count = n + 1;
}

static void guest_order(uint64_t fails)
{
    order_count = 0;
    guest_handler[2] = guest_handler[6] = guest_handler[11] = guest_handler[VECTOR] = note_order;
    if (fails)
        guest_idt[6][0] &= ~(1ul << 47); /* not present: #NP in place of #UD */
    else
        guest_idt[6][0] |= 1ul << 47;
    bare_irq_enable();
    __asm__ volatile(STOP "order_here: nop; nop" : : "a"(0) : "rdx", "memory");
    bare_irq_disable();
    guest_done(order_count);
}
extern const char order_here[];

static void priorities(void)
{
    machine_open();
    for (unsigned fails = 0; fails < 2; fails++) {
        unsigned vector = fails ? 11 : 6;

        GUEST_RESULT(guest_order, fails);
        CHECK_OK(virtx_vcpu_inject(machine.vcpu, &interrupt));
        virtx_vcpu_nmi(machine.vcpu);
        inject(VIRTX_EVENT_EXCEPTION, 6, false, 0, 0, 0);
        CHECK_EQUAL(GUEST_CONTINUE(), 3);
        CHECK_EQUAL(order[0], 2);
        CHECK_EQUAL(order_rip[0], (uintptr_t)guest_stubs + 16 * vector);
        CHECK_EQUAL(order[1], vector);
        CHECK_EQUAL(order_rip[1], (uintptr_t)order_here);
        CHECK_EQUAL(order[2], VECTOR);
        CHECK_EQUAL(order_rip[2], (uintptr_t)order_here);
    }
}

/* ---- Kicks and host interrupts ---- */

static volatile uint64_t host_ticks;
static volatile uint64_t guest_progress;

static void guest_counts(uint64_t limit)
{
    guest_progress = 0;
    while (guest_progress < limit)
        guest_progress = guest_progress + 1;
    guest_done(guest_progress);
}

static void kick_before_run(void)
{
    machine_open();
    guest_prepare(guest_counts, 5);
    guest_progress = 99;
    virtx_vcpu_kick(machine.vcpu);
    virtx_vcpu_kick(machine.vcpu);
    CHECK_EQUAL(guest_run()->reason, VIRTX_EXIT_KICK);
    CHECK_EQUAL(guest_progress, 99); /* not one instruction */
    CHECK_EQUAL(guest_run()->reason, VIRTX_EXIT_IO);
    CHECK_EQUAL(guest_progress, 5);
    CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
}

static void on_tick_kick(struct bare_frame *frame, void *ctx)
{
    (void)frame;
    (void)ctx;
    bare_eoi();
    host_ticks = host_ticks + 1;
    virtx_vcpu_kick(machine.vcpu);
}

static void guest_spins_enabled(uint64_t limit)
{
    bare_irq_enable();
    guest_counts(limit);
}

enum { SPIN = 5000000 };

/* A handler of the host's kicks the vcpu that it interrupted. */
static void kick_from_interrupt(void)
{
    harness_no_watchdog = true;
    machine_open();
    bare_handler_set(VECTOR_HOST, on_tick_kick, NULL);
    host_ticks = 0;
    guest_prepare(guest_spins_enabled, SPIN);
    for (unsigned i = 1; i <= 5; i++) {
        host_timer(VECTOR_HOST, 200);
        bare_irq_enable();
        const struct virtx_exit *exit = guest_run();
        bare_irq_disable();
        if (!CHECK_EQUAL(exit->reason, VIRTX_EXIT_KICK))
            return;
        CHECK_EQUAL(host_ticks, i);
    }
    CHECK(guest_progress < SPIN);
}

static void on_tick(struct bare_frame *frame, void *ctx)
{
    (void)frame;
    (void)ctx;
    bare_eoi();
    host_ticks = host_ticks + 1;
}

static void guest_waits_for_tick(uint64_t limit)
{
    uint64_t i;

    __asm__ volatile("sti; cli"); /* IF has been 1, if only in the shadow */
    for (i = 0; i < limit && host_ticks == 0; i++)
        bare_pause();
    guest_done(host_ticks);
}

static void guest_waits_with_cli(uint64_t limit)
{
    uint64_t i;

    for (i = 0; i < limit && host_ticks == 0; i++)
        bare_pause();
    guest_done(host_ticks);
}

/* B1: the guest's IF cannot hold off the host's interrupts. */
static void interrupt_with_guest_cli(void)
{
    machine_open();
    for (unsigned i = 0; i < 2; i++) {
        bare_handler_set(VECTOR_HOST, on_tick, NULL);
        host_ticks = 0;
        guest_prepare(i == 0 ? guest_waits_for_tick : guest_waits_with_cli, SPIN);
        host_timer(VECTOR_HOST, 200);
        if (engine_is("bochs"))
            known_bug("Bochs lets the guest's IF hold off the host's interrupts");
        CHECK_EQUAL(GUEST_CONTINUE(), 1);
        known_bug_end();
        bare_irq_enable(); /* what did not come in the guest comes now */
        __asm__ volatile("nop; nop");
        bare_irq_disable();
    }
    CHECK_EQUAL(guest_vector_count[VECTOR_HOST], 0);
}

static void guest_waits_enabled(uint64_t limit)
{
    uint64_t i;

    bare_irq_enable();
    for (i = 0; i < limit && host_ticks == 0; i++)
        bare_pause();
    bare_irq_disable();
    guest_done(host_ticks);
}

/* run called with IF = 0: the interrupt is not lost, and not taken either. */
static void interrupt_with_host_cli(void)
{
    harness_no_watchdog = true;
    machine_open();
    bare_handler_set(VECTOR_HOST, on_tick, NULL);
    host_ticks = 0;
    guest_prepare(guest_waits_enabled, SPIN);
    bare_timer_hz();
    host_timer(VECTOR_HOST, 200);
    const struct virtx_exit *exit = guest_run(); /* IF = 0 */
    if (!CHECK_EQUAL(exit->reason, VIRTX_EXIT_INTERRUPT))
        return;
    CHECK(!exit->pending);
    CHECK_EQUAL(host_ticks, 0);
    CHECK_EQUAL(bare_read_rflags() & RFLAGS_IF, 0);
    bare_irq_enable();
    __asm__ volatile("nop; nop");
    bare_irq_disable();
    CHECK_EQUAL(host_ticks, 1);
    CHECK_EQUAL(GUEST_CONTINUE(), 1);
    CHECK_EQUAL(guest_vector_count[VECTOR_HOST], 0);
}

/* A host interrupt that arrives between an exit and the entry that follows: always at the same
 * place, and always in the guest. A timer could as well fire before the first entry. */
static enum virtx_verdict interrupt_self(struct virtx_vcpu *vcpu, struct virtx_exit *exit,
                                         void *ctx)
{
    (void)vcpu;
    (void)exit;
    (void)ctx;
    bare_ipi(bare_this_cpu(), VECTOR_HOST);
    return VIRTX_HANDLED;
}

static void guest_rings(uint64_t argument)
{
    (void)argument;
    /* With IF = 1: Bochs' SVM holds host interrupts off by the guest's IF, and its VMX does not
     * look for them at an entry that leaves IF as it is. */
    bare_irq_enable();
    bare_out32(PORT_BELL, 0);
    bare_irq_disable();
    guest_done(host_ticks);
}

static void exit_on_interrupt(void)
{
    if (harness_interpreted()) {
        not_shown("the executor looks for host interrupts by the batch");
        return;
    }
    harness_exit_on_interrupt = true;
    harness_no_watchdog = true;
    machine_open();
    bare_handler_set(VECTOR_HOST, on_tick, NULL);
    host_ticks = 0;
    intercept_handler(VIRTX_INTERCEPT_PORT, VIRTX_WRITE, PORT_BELL, PORT_BELL, interrupt_self,
                      NULL);
    guest_prepare(guest_rings, 0);
    bare_irq_enable();
    const struct virtx_exit *exit = guest_run();
    CHECK_EQUAL(bare_read_rflags() & RFLAGS_IF, RFLAGS_IF);
    bare_irq_disable();
    CHECK_EQUAL(exit->reason, VIRTX_EXIT_INTERRUPT);
    CHECK_EQUAL(host_ticks, 1);
    CHECK_EQUAL(GUEST_CONTINUE(), 1);
}

/* ---- Interrupts of the processor's own ---- */

enum {
    APIC = 0xfee00000,
    APIC_EOI = 0xb0,
    APIC_TIMER = 0x320,
    APIC_COUNT = 0x380,
    APIC_DIVIDE = 0x3e0
};

static void apic_write(unsigned reg, uint32_t value)
{
    *(volatile uint32_t *)(uintptr_t)(APIC + reg) = value;
}

static void guest_own_tick(struct bare_frame *frame)
{
    (void)frame;
    apic_write(APIC_EOI, 0);
}

/* Some ticks while it works, some while it is halted; none while IF is 0. */
static void guest_own_timer(uint64_t ticks)
{
    uint64_t before, early;

    guest_handler[VECTOR] = guest_own_tick;
    bare_irq_disable();
    apic_write(APIC_DIVIDE, 3);
    apic_write(APIC_TIMER, 1u << 17 | VECTOR); /* periodic */
    apic_write(APIC_COUNT, 1000);
    before = guest_vector_count[VECTOR];
    for (volatile unsigned i = 0; i < 20000; i++)
        ;
    early = guest_vector_count[VECTOR] - before;
    /* The way to the handler is mapped from here on. Bochs' SVM forgets the vector when a nested
     * fault interrupts the delivery of a physical interrupt. */
    __asm__ volatile("int %0" : : "i"(VECTOR) : "memory");
    before = guest_vector_count[VECTOR];
    bare_irq_enable();
    while (guest_vector_count[VECTOR] - before < ticks)
        bare_pause();
    while (guest_vector_count[VECTOR] - before < 2 * ticks)
        __asm__ volatile("hlt");
    bare_irq_disable();
    apic_write(APIC_TIMER, 1u << 16);
    guest_done(early);
}

/* FEATURES: interrupts served directly in the guest. The guest's table of interrupts gets what the
 * processor's own timer sends, without an exit. */
static void own_timer(void)
{
    struct virtx_stats before, after;

    harness_no_watchdog = true;
    machine_open_library();
    if (!paging_is_nested() || !has_feature(VIRTX_FEATURE_UNPAGED_GUEST)) {
        const struct virtx_vm_config config = {.size = sizeof(config), .interrupts_to_guest = true};
        struct virtx_vm *vm;

        CHECK_EQUAL(virtx_vm_create(machine.virtx, &config, &vm), VIRTX_E_UNSUPPORTED);
        not_shown("the library delivers the interrupts of some modes here");
        return;
    }
    machine_close();
    if (harness_interpreted()) {
        not_shown("the executor cannot give a guest the processor's interrupts");
        return;
    }
    harness_no_watchdog = harness_interrupts_to_guest = true;
    machine_open();
    slot_make(machine.vm, APIC, (void *)(uintptr_t)APIC, 4096, ALL_RIGHTS, 0);
    bare_out8(0x21, 0xff); /* what the firmware has left in the PIC would be the guest's, too */
    bare_out8(0xa1, 0xff);
    bare_irq_disable();
    guest_prepare(guest_own_timer, 0); /* the pages are there from then on */
    CHECK_EQUAL(GUEST_CONTINUE(), 0);
    guest_prepare_again(guest_own_timer, 20);
    virtx_vcpu_stats(machine.vcpu, &before);
    CHECK_EQUAL(GUEST_CONTINUE(), 0);
    virtx_vcpu_stats(machine.vcpu, &after);
    CHECK_EQUAL(after.exits[VIRTX_EXIT_INTERRUPT], before.exits[VIRTX_EXIT_INTERRUPT]);
    CHECK_EQUAL(after.exits[VIRTX_EXIT_HLT], before.exits[VIRTX_EXIT_HLT]);
    CHECK_EQUAL(after.entries - before.entries, 1); /* and out by the port */
    bare_handler_set(VECTOR, on_tick, NULL);        /* a last tick may still be waiting */
    bare_irq_enable();
    bare_irq_disable();
}

/* Masking interrupts in the guest is free. */
static void guest_if_loop(uint64_t rounds)
{
    uint64_t good = 0;

    for (uint64_t i = 0; i < rounds; i++) {
        uint64_t on, off;
        __asm__ volatile("sti; pushfq; popq %0; cli; pushfq; popq %1; pushq %0; popfq; cli"
                         : "=&r"(on), "=&r"(off)
                         :
                         : "memory");
        good += (on & RFLAGS_IF) != 0 && (off & RFLAGS_IF) == 0;
    }
    guest_done(good);
}

static void if_without_exits(void)
{
    machine_open();
    GUEST_RESULT(guest_if_loop, 1);
    uint64_t before = guest_exits();
    CHECK_EQUAL(GUEST_RESULT(guest_if_loop, 1000), 1000);
    CHECK(guest_exits() - before <= 2);
}

/* ---- TF over an instruction that the library retires ---- */

static volatile uint64_t step_rip, step_dr6, step_count;

static void on_step(struct bare_frame *frame)
{
    uint64_t dr6;

    __asm__ volatile("movq %%dr6, %0" : "=r"(dr6));
    __asm__ volatile("movq %0, %%dr6" : : "r"(0xffff0ff0ul));
    step_rip = frame->rip;
    step_dr6 = dr6;
    step_count = step_count + 1;
    frame->rflags &= ~(uint64_t)RFLAGS_TF;
}

#define STEP(label, text)                                                                          \
    __asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq; " text "\n" label ": nop; nop"           \
                     :                                                                             \
                     : "a"(0), "D"((uint64_t)GUEST_HOLE)                                           \
                     : "rbx", "rcx", "rdx", "memory")

static void guest_steps(uint64_t which)
{
    guest_handler[1] = on_step;
    step_count = 0;
    switch (which) {
    case 0:
        STEP("step_nop", "nop");
        break;
    case 1:
        STEP("step_cpuid", "cpuid");
        break;
    case 2:
        STEP("step_out", "outb %%al, $0x80");
        break;
    case 3:
        STEP("step_mmio", "movl %%eax, (%%rdi)");
        break;
    default:
        STEP("step_in", "inb $0x80, %%al");
    }
    guest_done(step_count);
}
extern const char step_nop[], step_cpuid[], step_out[], step_mmio[], step_in[];

static void on_host_step(struct bare_frame *frame, void *ctx)
{
    (void)ctx;
    frame->rflags &= ~(uint64_t)RFLAGS_TF;
    host_ticks = host_ticks + 1;
}

static void single_step(void)
{
    machine_open();
    host_ticks = 0;
    bare_handler_set(1, on_host_step, NULL);
    for (unsigned i = 0; i < 5; i++) {
        const char *rips[] = {step_nop, step_cpuid, step_out, step_mmio, step_in};
        uint64_t value = 0;

        guest_prepare(guest_steps, i);
        while (!guest_continue(&value)) {
            if (!CHECK(machine.exit->pending))
                return;
            CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
        }
        CHECK_EQUAL(value, 1);
        CHECK_EQUAL(step_rip, (uintptr_t)rips[i]);
        if (i == 0 && engine_is("bochs") && backend_is("svm"))
            known_bug("Bochs does not update DR6 when it intercepts #DB");
        CHECK_EQUAL(step_dr6 & DR6_BS, DR6_BS);
        known_bug_end();
    }
    bare_handler_set(1, NULL, NULL);
    if (engine_is("bochs") && backend_is("svm"))
        known_bug("Bochs takes the guest's single-step trap along into the host");
    CHECK_EQUAL(host_ticks, 0);
}

/* ---- What comes together with a single step ---- */

static volatile unsigned steps_order[8], steps_count;
static volatile uint64_t steps_rip[8];

static void note_step(struct bare_frame *frame)
{
    if (steps_count < 8) {
        steps_order[steps_count] = (unsigned)frame->vector;
        steps_rip[steps_count] = frame->rip;
    }
    steps_count = steps_count + 1;
    if (frame->vector == 1)
        frame->rflags &= ~(uint64_t)RFLAGS_TF;
}

static void guest_step_and_event(uint64_t which)
{
    guest_handler[1] = guest_handler[2] = guest_handler[VECTOR] = note_step;
    steps_count = 0;
    __asm__ volatile("sti; nop");
    if (which)
        STEP("step_hlt", "hlt");
    else
        STEP("step_event", "outb %%al, $0x80");
    __asm__ volatile("nop; nop; cli");
    guest_done(steps_count);
}
extern const char step_event[], step_hlt[];

/* Queues an interrupt or an NMI in the middle of an instruction that is single-stepped. */
static enum virtx_verdict event_at_port(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    (void)exit;
    if (*(const unsigned *)ctx)
        virtx_vcpu_nmi(vcpu);
    else
        CHECK_OK(virtx_vcpu_inject(vcpu, &interrupt));
    return VIRTX_HANDLED;
}

/* Intel SDM "Prioritization of Concurrent Events", AMD APM "Priorities": the trap of the
 * instruction before goes first, and neither is lost. Its handler runs with IF = 0, and with NMIs.
 */
static void step_and_event(void)
{
    static unsigned nmi;

    machine_open();
    bare_handler_set(1, on_host_step, NULL);
    for (nmi = 0; nmi < 2; nmi++) {
        struct virtx_intercept *set =
            intercept_handler(VIRTX_INTERCEPT_PORT, VIRTX_WRITE, 0x80, 0x80, event_at_port, &nmi);

        CHECK_EQUAL(GUEST_RESULT(guest_step_and_event, 0), 2);
        CHECK_EQUAL(steps_order[nmi], 1);
        CHECK_EQUAL(steps_rip[nmi], (uintptr_t)step_event);
        CHECK_EQUAL(steps_order[1 - nmi], nmi ? 2 : VECTOR);
        CHECK_EQUAL(steps_rip[1 - nmi], nmi ? (uintptr_t)guest_stubs + 16 : (uintptr_t)step_event);
        CHECK_OK(virtx_intercept_remove(set));
    }
    bare_handler_set(1, NULL, NULL);
}

/* The single step of a HLT ends it. */
static void step_over_hlt(void)
{
    machine_open();
    bare_handler_set(1, on_host_step, NULL);
    CHECK_EQUAL(GUEST_RESULT(guest_step_and_event, 1), 1);
    CHECK_EQUAL(steps_order[0], 1);
    CHECK_EQUAL(steps_rip[0], (uintptr_t)step_hlt);
    bare_handler_set(1, NULL, NULL);
}

/* ---- CR8 ---- */

static void guest_cr8(uint64_t rounds)
{
    uint64_t good = 0;

    for (uint64_t i = 0; i < rounds; i++) {
        bare_write_cr8(i & 15);
        good += bare_read_cr8() == (i & 15);
    }
    bare_write_cr8(5);
    guest_done(good);
}

static void cr8(void)
{
    machine_open();
    GUEST_RESULT(guest_cr8, 16);
    uint64_t before = guest_exits();
    CHECK_EQUAL(GUEST_RESULT(guest_cr8, 10000), 10000);
    if (has_feature(VIRTX_FEATURE_TPR_SHADOW))
        CHECK(guest_exits() - before <= 4);
    CHECK_EQUAL(guest_state().cr8, 5);
}

GUEST_CASES({"inject-every-kind", inject_kinds}, {"int1-executed", int1_executed},
            {"inject-software-events", inject_software},
            {"inject-refuses-nonsense", inject_refused}, {"interrupt-waits-for-window", window},
            {"window-exit", window_exit}, {"cpuid-after-sti", sti_cpuid},
            {"exit-in-a-shadow", shadow_out}, {"nested-fault-in-a-shadow", shadow_fault},
            {"nmi-blocks-until-iret", nmi_blocking}, {"nmi-wakes-hlt", hlt_with_nmi},
            {"double-fault", double_fault}, {"double-fault-by-reflection", double_fault_reflected},
            {"delivery-mended", delivery_mended}, {"triple-fault", triple_fault},
            {"exceptions-merge", merge}, {"nested-fault-during-delivery", nested_fault_in_delivery},
            {"thousand-interrupts", thousand_interrupts}, {"irq-source", irq_source},
            {"event-priorities", priorities}, {"kick-before-run", kick_before_run},
            {"kick-from-an-interrupt", kick_from_interrupt},
            {"host-interrupt-with-guest-cli", interrupt_with_guest_cli},
            {"host-interrupt-with-host-cli", interrupt_with_host_cli},
            {"exit-on-interrupt", exit_on_interrupt}, {"own-timer", own_timer},
            {"cli-sti-without-exits", if_without_exits}, {"single-step-over-exits", single_step},
            {"single-step-before-events", step_and_event}, {"single-step-over-hlt", step_over_hlt},
            {"cr8", cr8});
