/* SPDX-License-Identifier: BSD-2-Clause */
/* A second exception while an event is being delivered: all pairs of classes, with the second one
 * found by the processor, reflected by the library, met behind exits that interrupt the delivery,
 * and raised by the embedder in answer to such an exit. */
#include "guest_cpu.h"
#include "harness.h"

extern uint8_t __image_start[], __image_end[];

enum {
    GATE_PRESENT = 47, /* bits of a gate's first half */
    GATE_IST = 32,
    MISSING_STACK = GUEST_MEMORY + 0x8000, /* a page that is not present */
    VECTOR = 0x52,
    INTERRUPT = 0x53,
    ARRIVALS = 4,
    SHUTDOWN = 0xff,
};

enum class { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };

/* Of events: an interrupt and an NMI come from outside, #DF from the embedder. */
static const struct first {
    const char *name;
    uint8_t vector, class;
    bool outside, again; /* again: what the second one overtook comes after it */
} firsts[] = {
    {"#DE", 0, CONTRIBUTORY, false, false},
    {"#UD", 6, BENIGN, false, false},
    {"#NP", 11, CONTRIBUTORY, false, false},
    {"#GP", 13, CONTRIBUTORY, false, false},
    {"#PF", 14, PAGE_FAULT, false, false},
    {"INT n", VECTOR, BENIGN, false, false},
    {"INT3", 3, BENIGN, false, false},
    {"INT1", 1, BENIGN, false, false},
    {"an interrupt", INTERRUPT, BENIGN, true, true},
    {"an NMI", 2, BENIGN, true, true},
    {"#DF", 8, DOUBLE_FAULT, true, false},
};
enum { FIRSTS = sizeof(firsts) / sizeof(firsts[0]), INTN = 5, INT3, INT1, FROM_OUTSIDE, NMI, DF };

/* Why the first one's delivery does not succeed. */
enum obstacle {
    GATE_MISSING,  /* #NP */
    STACK_MISSING, /* #PF */
    STACK_NOWHERE, /* the guest's tables map it to where no slot is: an exit */
};

static volatile uint64_t arrived[ARRIVALS], arrived_rflags[ARRIVALS], arrivals;

/* The way is free from the first arrival on. */
static void clear_the_way(void)
{
    for (unsigned i = 0; i < FIRSTS; i++) {
        guest_idt[firsts[i].vector][0] |= 1ul << GATE_PRESENT;
        guest_idt[firsts[i].vector][0] &= ~(7ul << GATE_IST);
    }
}

static void note(struct bare_frame *frame)
{
    if (arrivals < ARRIVALS) {
        arrived[arrivals] = frame->vector;
        arrived_rflags[arrivals] = frame->rflags;
    }
    arrivals = arrivals + 1;
    clear_the_way();
    frame->rip = frame->r8;
}

/* The handlers return behind the text. */
#define FIRST(text)                                                                                \
    __asm__ volatile("leaq 1f(%%rip), %%r8; " text "; 1: nop"                                      \
                     :                                                                             \
                     : "a"(GUEST_SPARE), "c"(0), "d"(0), "S"((uint64_t)MISSING_STACK)              \
                     : "rbx", "r8", "memory", "cc")

static void bring_about(unsigned first)
{
    switch (first) {
    case 0:
        FIRST("divl %%ecx");
        break;
    case 1:
        FIRST("ud2");
        break;
    case 2:
        FIRST("movw %%ax, %%ds");
        break;
    case 3:
        FIRST("movl $0xfff0, %%eax; movw %%ax, %%ds");
        break;
    case 4:
        FIRST("movl (%%rsi), %%eax");
        break;
    case 5:
        FIRST("int $0x52");
        break;
    case 6:
        FIRST("int3");
        break;
    case 7:
        FIRST(".byte 0xf1");
        break;
    default: /* comes while the guest stands at the OUT */
        FIRST("sti; nop; movl $0x500, %%edx; xorl %%eax, %%eax; outl %%eax, %%dx; nop; nop");
    }
    __asm__ volatile("cli");
}

/* Argument: the first event, and from bit 8 on the obstacle. */
static void guest_pair(uint64_t argument)
{
    unsigned first = argument & 0xff, vector = firsts[first].vector;
    enum obstacle obstacle = (enum obstacle)(argument >> 8);
    uint64_t top = (obstacle == STACK_NOWHERE ? GUEST_HOLE : MISSING_STACK) + 0x800;

    for (unsigned i = 0; i < 256; i++)
        guest_handler[i] = note;
    arrivals = 0;
    guest_gdt[GUEST_SPARE / 8] = 0x00cf13000000ffff; /* data, not present */
    *guest_pte(MISSING_STACK) = 0;
    guest_invlpg(MISSING_STACK);
    memcpy(guest_cpus[0].tss + 36, &top, sizeof(top)); /* IST1 */
    clear_the_way();
    if (obstacle == GATE_MISSING)
        guest_idt[vector][0] &= ~(1ul << GATE_PRESENT);
    else
        guest_idt[vector][0] |= 1ul << GATE_IST;
    guest_done(0);
    bring_about(first);
    guest_done(arrivals);
}

static enum class class_of(uint8_t vector) {
    return vector == 14                                    ? PAGE_FAULT
           : vector == 0 || (vector >= 10 && vector <= 13) ? CONTRIBUTORY
                                                           : BENIGN;
}

/* Intel SDM "Interrupt 8-Double Fault Exception (#DF)", "Conditions for Generating a Double Fault";
 * AMD APM volume 2, "#DF-Double-Fault Exception". */
static uint8_t result_of(enum class first, uint8_t second)
{
    if (class_of(second) == BENIGN || first == BENIGN)
        return second;
    if (first == DOUBLE_FAULT)
        return SHUTDOWN;
    if (first == CONTRIBUTORY && class_of(second) == PAGE_FAULT)
        return second;
    return 8;
}

/* From its beginning to where the first event comes next. */
static void prepare_first(unsigned first, enum obstacle obstacle)
{
    GUEST_RESULT(guest_pair, first | (uint64_t)obstacle << 8);
    if (!firsts[first].outside)
        return;
    GUEST_CONTINUE();
    if (first == NMI)
        virtx_vcpu_nmi(machine.vcpu);
    else
        CHECK_OK(virtx_vcpu_inject(
            machine.vcpu, &(struct virtx_event){.type = first == DF ? VIRTX_EVENT_EXCEPTION
                                                                    : VIRTX_EVENT_INTERRUPT,
                                                .vector = firsts[first].vector,
                                                .has_error = first == DF}));
}

static void expect_arrivals(unsigned first, uint8_t second, bool again)
{
    uint8_t expected = result_of(firsts[first].class, second);

    if (arrived[0] != expected || arrivals != 1u + again)
        bare_printf("%s, then %u\n", firsts[first].name, second);
    CHECK_EQUAL(arrived[0], expected);
    CHECK_EQUAL(arrivals, 1 + again);
    if (again)
        CHECK_EQUAL(arrived[1], firsts[first].vector);
}

/* Until known_bug_end(). */
static void bug_of(unsigned first)
{
    if (first == INTN && engine_is("bochs") && backend_is("svm"))
        known_bug("Bochs does not record INT n in EXITINTINFO, but an older event or none");
    if (first == INT1 && engine_is("qemu"))
        known_bug("QEMU does not know INT1");
}

static enum virtx_verdict by_default(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    (void)vcpu;
    (void)exit;
    (void)ctx;
    return VIRTX_DEFAULT;
}

static void watch_exceptions(void)
{
    for (unsigned i = 0; i < 18; i++)
        if (i != 2 && i != 9 && i != 15)
            intercept_handler(VIRTX_INTERCEPT_EXCEPTION, 0, i, i, by_default, NULL);
}

/* Every table and stack is met anew, in the middle of the delivery. */
static void drop_image(void)
{
    uint64_t bytes = (uint64_t)(__image_end - __image_start) & ~0xffful, generation;

    CHECK_OK(virtx_memslot_invalidate(machine.image, 0, bytes, &generation));
}

static void pairs(bool cold, bool watched)
{
    machine_open();
    if (watched)
        watch_exceptions();
    for (unsigned first = 0; first < DF; first++) {
        for (unsigned obstacle = GATE_MISSING; obstacle <= STACK_MISSING; obstacle++) {
            bool reaches_library = watched || (obstacle == STACK_MISSING && !paging_is_nested()) ||
                                   (first == NMI && harness_nmi_by_hand());

            prepare_first(first, (enum obstacle)obstacle);
            bug_of(first);
            if (engine_is("qemu") && !watched && firsts[first].class != BENIGN)
                known_bug("QEMU forgets that an injected exception was an exception: no #DF");
            if (cold)
                drop_image();
            GUEST_CONTINUE();
            expect_arrivals(first, obstacle == STACK_MISSING ? 14 : 11,
                            reaches_library && firsts[first].again);
            known_bug_end();
        }
    }
}

static void in_the_processor(void)
{
    pairs(false, false);
}

static void reflected(void)
{
    pairs(false, true);
}

static void behind_exits(void)
{
    pairs(true, false);
}

/* The loop is told that the stack is nowhere, and answers with an exception. */
static void answer(unsigned first, uint8_t second)
{
    const struct virtx_event event = {.type = VIRTX_EVENT_EXCEPTION,
                                      .vector = second,
                                      .has_error = second >= 11,
                                      .address = MISSING_STACK};
    bool software = first == INTN || first == INT3;

    if (guest_continue(NULL)) {
        CHECK(!"the delivery exits");
        return;
    }
    clear_the_way();
    /* SVM: the instruction is executed again, by the library, and writes to a device. */
    if (machine.exit->pending) {
        CHECK(software && backend_is("svm"));
        CHECK_EQUAL(machine.exit->reason, VIRTX_EXIT_MMIO);
        CHECK_OK(virtx_vcpu_fault(machine.vcpu, &event));
    } else {
        CHECK_EQUAL(machine.exit->reason, VIRTX_EXIT_EMULATION);
        CHECK_OK(virtx_vcpu_inject(machine.vcpu, &event));
    }
    if (result_of(firsts[first].class, second) == SHUTDOWN) {
        CHECK(EXPECT_EXIT(VIRTX_EXIT_SHUTDOWN));
        return;
    }
    GUEST_CONTINUE();
    expect_arrivals(first, second, firsts[first].again);
}

static void by_the_embedder(void)
{
    static const uint8_t seconds[] = {0, 6, 11, 13, 14, 17};

    machine_open();
    for (unsigned first = 0; first < FIRSTS; first++) {
        for (unsigned i = 0; i < sizeof(seconds); i++) {
            prepare_first(first, STACK_NOWHERE);
            bug_of(first);
            answer(first, seconds[i]);
            known_bug_end();
        }
    }
}

GUEST_CASES({"found-by-the-processor", in_the_processor}, {"reflected", reflected},
            {"behind-exits", behind_exits}, {"raised-by-the-embedder", by_the_embedder});
