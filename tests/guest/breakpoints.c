/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The guest's breakpoints where the library makes its accesses (Intel SDM "Breakpoint Exception
 * Conditions"): memory that is a device, ports, and with the word interpret everything.
 */
#include "guest_memory.h"

enum {
    PORT = 0x320,
    RFLAGS_TF = 1 << 8,
    RFLAGS_RF = 1 << 16,
    B0 = 1,
    B1 = 2,
    B2 = 4,
    B3 = 8,
    BS = 1 << 14,
    TRAPS = 24,
};
#define DR7_L(n)             (1ul << 2 * (n))
#define DR7_KIND(n, rw, len) (((uint64_t)(rw) | (uint64_t)(len) << 2) << (16 + 4 * (n)))
#define WRITE_DR(n, value)   __asm__ volatile("movq %0, %%dr" #n : : "r"((uint64_t)(value)))

struct trap {
    uint64_t rip, dr6;
};
static volatile struct trap traps[TRAPS];
static volatile unsigned trap_count;

static void on_debug(struct bare_frame *frame)
{
    uint64_t dr6;

    __asm__ volatile("movq %%dr6, %0" : "=r"(dr6));
    if (trap_count < TRAPS)
        traps[trap_count] = (struct trap){frame->rip, dr6 & 0xe00f};
    if (++trap_count >= TRAPS) /* for ever */
        WRITE_DR(7, 0x400);
    WRITE_DR(6, 0xffff0ff0);
    if (dr6 & B3) /* an instruction's: this time it is to be executed */
        frame->rflags |= RFLAGS_RF;
    if (dr6 & BS)
        frame->rflags &= ~(uint64_t)RFLAGS_TF;
}

static void breakpoints_off(void)
{
    WRITE_DR(7, 0x400);
}

static void check_traps(const struct trap *expected, unsigned count)
{
    CHECK_EQUAL(trap_count, count);
    for (unsigned i = 0; i < count && i < trap_count; i++) {
        bool same = CHECK_EQUAL(traps[i].rip, expected[i].rip);
        if (!CHECK_EQUAL(traps[i].dr6, expected[i].dr6) || !same)
            bare_printf("  trap %u\n", i);
    }
}

/* Serves the device and the port, by the loop. */
static bool serve_all(void)
{
    for (;;) {
        if (guest_continue(NULL))
            return true;
        const struct virtx_exit *exit = machine.exit;
        enum virtx_status status = VIRTX_AGAIN;

        while (status == VIRTX_AGAIN) {
            uint64_t offset = exit->mmio.gpa - GUEST_HOLE;

            if (!CHECK(exit->reason == VIRTX_EXIT_IO || exit->reason == VIRTX_EXIT_MMIO) ||
                !CHECK(exit->pending))
                return false;
            if (exit->reason == VIRTX_EXIT_MMIO && exit->mmio.access == VIRTX_WRITE)
                memcpy(device + offset, &exit->mmio.value, exit->mmio.size);
            status = virtx_vcpu_complete(machine.vcpu,
                                         exit->reason == VIRTX_EXIT_MMIO ? device + offset : NULL);
        }
        if (!CHECK_OK(status))
            return false;
    }
}

static enum virtx_verdict on_access(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    (void)vcpu;
    (void)ctx;
    if (exit->reason == VIRTX_EXIT_MMIO) {
        uint64_t offset = exit->mmio.gpa - GUEST_HOLE;

        if (exit->mmio.access == VIRTX_WRITE)
            memcpy(device + offset, &exit->mmio.value, exit->mmio.size);
        else
            memcpy(&exit->mmio.value, device + offset, exit->mmio.size);
    }
    return VIRTX_HANDLED;
}

static void handlers(void)
{
    intercept_handler(VIRTX_INTERCEPT_MMIO, RW, GUEST_HOLE, GUEST_HOLE + PAGE - 1, on_access, NULL);
    intercept_handler(VIRTX_INTERCEPT_PORT, RW, PORT, PORT + 7, on_access, NULL);
}

/* Runs the guest: by the loop, by handlers, by handlers that were met before. */
static void each_way(void (*fn)(uint64_t), uint64_t argument, const struct trap *expected,
                     unsigned count)
{
    for (unsigned way = 0; way < 3; way++) {
        if (way == 1)
            handlers();
        trap_count = 0;
        guest_prepare(fn, argument);
        guest_handler[1] = on_debug;
        if (!serve_all())
            return;
        check_traps(expected, count);
    }
}

/* ---- Data ---- */

void bp_data(uint64_t base);
extern const char bp_d1[], bp_d2[], bp_d3[], bp_d4[], bp_d5[], bp_d6[], bp_d7[], bp_d8[], bp_d9[];
__asm__(".text\nbp_data:\n"
        "    movl %eax, 0x100(%rdi)\n"
        "bp_d1: movl 0x100(%rdi), %eax\n" /* writes only */
        "    movb %al, 0x103(%rdi)\n"
        "bp_d2: movb %al, 0x104(%rdi)\n"
        "    movb %al, 0xff(%rdi)\n"
        "    movw %ax, 0xff(%rdi)\n" /* touches it */
        "bp_d3: movq 0x200(%rdi), %rax\n"
        "bp_d4: addl $1, 0x204(%rdi)\n" /* once */
        "bp_d5: lock incl 0x200(%rdi)\n"
        "bp_d6: movl %eax, 0x204(%rdi)\n"
        "bp_d7: movl 0x208(%rdi), %eax\n"
        "    xorl %eax, %eax\n"
        "    pushfq\n"
        "    orl $0x100, (%rsp)\n"
        "    popfq\n"
        "    movl %eax, 0x100(%rdi)\n" /* and a single step */
        "bp_d8: movups 0x1f4(%rdi), %xmm0\n"
        "bp_d9: ret\n");

enum { DATA_TRAPS = 9 };
static void expect_data(struct trap *expected)
{
    const struct trap all[DATA_TRAPS] = {
        {(uintptr_t)bp_d1, B0}, {(uintptr_t)bp_d2, B0},      {(uintptr_t)bp_d3, B0},
        {(uintptr_t)bp_d4, B1}, {(uintptr_t)bp_d5, B1},      {(uintptr_t)bp_d6, B1},
        {(uintptr_t)bp_d7, B1}, {(uintptr_t)bp_d8, BS | B0}, {(uintptr_t)bp_d9, B1}};

    memcpy(expected, all, sizeof(all));
}

static void guest_data(uint64_t base)
{
    WRITE_DR(0, base + 0x100);
    WRITE_DR(1, base + 0x200);
    WRITE_DR(7, 0x400 | DR7_L(0) | DR7_KIND(0, 1, 3) | DR7_L(1) | DR7_KIND(1, 3, 2));
    bp_data(base);
    breakpoints_off();
    guest_done(0);
}

static void data(void)
{
    struct trap expected[DATA_TRAPS];

    expect_data(expected);
    machine_open();
    host_steps_allow();
    each_way(guest_data, GUEST_HOLE, expected, DATA_TRAPS);
    (void)host_steps_end();
}

/* The same on memory: what the processor does, or the executor. */
static void data_in_memory(void)
{
    struct trap expected[DATA_TRAPS];

    expect_data(expected);
    machine_open();
    host_steps_allow();
    trap_count = 0;
    guest_prepare(guest_data, GUEST_MEMORY);
    guest_handler[1] = on_debug;
    if (engine_is("qemu") && !harness_interpreted())
        known_bug("QEMU's VMRUN loads DR7 without arming its breakpoints");
    else if (engine_is("bochs") && guest_has_svm && !harness_interpreted())
        known_bug("Bochs does not update DR6 when it intercepts #DB");
    if (serve_all())
        check_traps(expected, DATA_TRAPS);
    known_bug_end();
    (void)host_steps_end();
}

/* ---- Behind MOV SS, which holds its own trap over the next instruction ---- */

void bp_stack(uint64_t base, uint64_t port);
extern const char bp_s1[], bp_s2[], bp_s3[], bp_s4[], bp_s5[], bp_s6[];
__asm__(".text\nbp_stack:\n"
        "    pushq %rbx\n"
        "    movl %esi, %edx\n"
        "    movw 0x200(%rdi), %ss\n"
        "    nop\n"
        "bp_s1: movw 0x200(%rdi), %ss\n"
        "    movl %eax, 0x100(%rdi)\n" /* and one of its own */
        "bp_s2: movw 0x200(%rdi), %ss\n"
        "    outb %al, %dx\n"
        "bp_s3: xorl %eax, %eax\n"
        "    movw 0x200(%rdi), %ss\n"
        "    cpuid\n"
        "bp_s4: movw 0x200(%rdi), %ss\n"
        "    jmp bp_s5\n"
        "    nop\n"
        "bp_s5: pushfq\n"
        "    orl $0x100, (%rsp)\n"
        "    popfq\n"
        "    movw 0x200(%rdi), %ss\n"
        "    nop\n"
        "bp_s6: popq %rbx\n"
        "    ret\n");

static void guest_stack(uint64_t base)
{
    uint16_t ss;

    __asm__ volatile("movw %%ss, %0" : "=r"(ss));
    *(volatile uint16_t *)(base + 0x200) = ss;
    WRITE_DR(0, base + 0x100);
    WRITE_DR(1, base + 0x200);
    WRITE_DR(7, 0x400 | DR7_L(0) | DR7_KIND(0, 1, 3) | DR7_L(1) | DR7_KIND(1, 3, 1));
    bp_stack(base, PORT);
    breakpoints_off();
    guest_done(0);
}

/* Intel SDM "Masking Exceptions and Interrupts When Switching Stacks". */
static void stack(void)
{
    const struct trap expected[6] = {{(uintptr_t)bp_s1, B1}, {(uintptr_t)bp_s2, B0 | B1},
                                     {(uintptr_t)bp_s3, B1}, {(uintptr_t)bp_s4, B1},
                                     {(uintptr_t)bp_s5, B1}, {(uintptr_t)bp_s6, BS | B1}};

    machine_open();
    host_steps_allow();
    /* Bochs' exception() clears both before it looks whether there is an exit; Intel SDM "Saving
     * Non-Register State" has them saved. */
    if (engine_is("bochs") && !guest_has_svm && !paging_is_nested() && !harness_interpreted())
        known_bug("Bochs forgets MOV SS and what it holds when a #PF exits");
    each_way(guest_stack, GUEST_HOLE, expected, 6);
    known_bug_end();
    (void)host_steps_end();
}

/* ---- Repeated string instructions: after the iteration ---- */

void bp_repeated(uint64_t base);
extern const char bp_r1[], bp_r2[];
__asm__(".text\nbp_repeated:\n"
        "    addq $0xfe, %rdi\n"
        "    movl $4, %ecx\n"
        "bp_r1: rep stosb\n"
        "bp_r2: ret\n");

static void guest_repeated(uint64_t base)
{
    WRITE_DR(0, base + 0x100);
    WRITE_DR(7, 0x400 | DR7_L(0) | DR7_KIND(0, 1, 0));
    bp_repeated(base);
    breakpoints_off();
    guest_done(0);
}

static void repeated(void)
{
    const struct trap expected[1] = {{(uintptr_t)bp_r1, B0}};

    machine_open();
    each_way(guest_repeated, GUEST_HOLE, expected, 1);
}

/* ---- Ports ---- */

void bp_ports(uint64_t port, const void *memory);
extern const char bp_p1[], bp_p2[], bp_p3[], bp_p4[], bp_p5[];
__asm__(".text\nbp_ports:\n"
        "    movl %edi, %edx\n"
        "    outl %eax, %dx\n" /* covers it */
        "bp_p1: outb %al, %dx\n"
        "    addl $1, %edx\n"
        "    inb %dx, %al\n"
        "bp_p2: outw %ax, %dx\n"
        "bp_p3: outsb\n"
        "bp_p4: addl $2, %edx\n"
        "    outb %al, %dx\n"
        "    movl %edi, %edx\n"
        "    addl $1, %edx\n"
        "    pushfq\n"
        "    orl $0x100, (%rsp)\n"
        "    popfq\n"
        "    inb %dx, %al\n"
        "bp_p5: ret\n");

static char text[16];

static void guest_ports(uint64_t extensions)
{
    uint64_t cr4;

    __asm__ volatile("movq %%cr4, %0" : "=r"(cr4));
    cr4 = extensions ? cr4 | 8 : cr4 & ~8ul; /* DE */
    __asm__ volatile("movq %0, %%cr4" : : "r"(cr4));
    WRITE_DR(2, PORT + 1);
    WRITE_DR(7, 0x400 | DR7_L(2) | DR7_KIND(2, 2, 0));
    bp_ports(PORT, text);
    breakpoints_off();
    __asm__ volatile("movq %0, %%cr4" : : "r"(cr4 & ~8ul));
    guest_done(0);
}

static void ports(void)
{
    const struct trap expected[5] = {{(uintptr_t)bp_p1, B2},
                                     {(uintptr_t)bp_p2, B2},
                                     {(uintptr_t)bp_p3, B2},
                                     {(uintptr_t)bp_p4, B2},
                                     {(uintptr_t)bp_p5, BS | B2}};

    machine_open();
    host_steps_allow();
    each_way(guest_ports, 1, expected, 5);
    (void)host_steps_end();
}

static void ports_without_extensions(void)
{
    const struct trap expected[1] = {{(uintptr_t)bp_p5, BS}};

    machine_open();
    host_steps_allow();
    each_way(guest_ports, 0, expected, 1);
    (void)host_steps_end();
}

/* ---- Instructions: one that accesses a device, and the one behind it ---- */

void bp_code(uint64_t base);
extern const char bp_c1[], bp_c2[], bp_c3[];
__asm__(".text\nbp_code:\n"
        "bp_c1: movl %eax, 0x100(%rdi)\n"
        "bp_c2: nop\n"
        "bp_c3: ret\n");

static void guest_code(uint64_t base)
{
    (void)read64(base); /* no exit at a table, which on Bochs ends RF */
    WRITE_DR(0, base + 0x100);
    WRITE_DR(3, bp_c1);
    WRITE_DR(7, 0x400 | DR7_L(0) | DR7_KIND(0, 1, 3) | DR7_L(3));
    bp_code(base);
    WRITE_DR(3, bp_c2);
    bp_code(base);
    breakpoints_off();
    guest_done(0);
}

static void code(void)
{
    const struct trap expected[4] = {{(uintptr_t)bp_c1, B3},
                                     {(uintptr_t)bp_c2, B0},
                                     {(uintptr_t)bp_c2, B0},
                                     {(uintptr_t)bp_c2, B3}};

    machine_open();
    if (engine_is("qemu") && !harness_interpreted())
        known_bug("QEMU's VMRUN loads DR7 without arming its breakpoints");
    else if (engine_is("bochs") && guest_has_svm && !harness_interpreted())
        known_bug("Bochs does not update DR6 when it intercepts #DB");
    each_way(guest_code, GUEST_HOLE, expected, 4);
    known_bug_end();
}

GUEST_CASES({"data-breakpoints-on-a-device", data}, {"data-breakpoints-in-memory", data_in_memory},
            {"data-breakpoint-of-a-mov-ss", stack}, {"data-breakpoint-in-a-repetition", repeated},
            {"port-breakpoints", ports}, {"port-breakpoints-need-cr4-de", ports_without_extensions},
            {"instruction-breakpoints-at-a-device", code});
