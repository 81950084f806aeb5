/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a guest's local APIC costs by each kind of the hardware's help, one added to the other:
 * instructions from one operation to the next, measured as bench.c does, and exits behind the
 * slash. The column "KVM" is Debian's kernel 6.1 without such help, VMX on Bochs corei7_skylake_x,
 * SVM on Bochs zambezi. Run with the word `insist`, or what the library avoids on Bochs is left
 * out.
 *
 * Never fails on a number; it fails when a row cannot be run.
 */
#include "bench.h"
#include <virtx/lapic.h>

enum {
    COUNT = 2000,
    REG_VERSION = 0xfee00030,
    REG_TPR = 0xfee00080,
    REG_EOI = 0xfee000b0,
    REG_ICR = 0xfee00300,
    VECTOR = 0x51,
};

/* ---- The guest's loops ---- */

static void read_version(uint64_t n)
{
    MEASURE(n, "movl (%1), %%eax", "r"((uint64_t)REG_VERSION) : "rax");
}

static void read_tpr(uint64_t n)
{
    MEASURE(n, "movl (%1), %%eax", "r"((uint64_t)REG_TPR) : "rax");
}

static void write_tpr(uint64_t n)
{
    MEASURE(n, "movl %2, (%1)", "r"((uint64_t)REG_TPR), "r"(0x50) : "memory");
}

static void write_eoi(uint64_t n)
{
    MEASURE(n, "movl %2, (%1)", "r"((uint64_t)REG_EOI), "r"(0) : "memory");
}

static void read_cr8(uint64_t n)
{
    MEASURE(n, "movq %%cr8, %%rax", : "rax");
}

static void write_cr8(uint64_t n)
{
    MEASURE(n, "movq %1, %%cr8; movq %2, %%cr8", "r"(5ul), "r"(0ul));
}

static void self_ipi(uint64_t n)
{
    MEASURE(n, "cli; movl $0x40051, (%1); sti; hlt", "r"((uint64_t)REG_ICR) : "memory");
}

static void on_interrupt(struct bare_frame *frame)
{
    (void)frame;
    *(volatile uint32_t *)(uintptr_t)REG_EOI = 0;
}

static const struct row {
    const char *name;
    void (*loop)(uint64_t n);
    unsigned kvm_vmx, kvm_svm;
} rows[] = {
    {"LAPIC version read, MMIO", read_version, 7387, 3600},
    {"LAPIC TPR read, MMIO", read_tpr, 0, 0},
    {"LAPIC TPR write, MMIO", write_tpr, 0, 0},
    {"LAPIC EOI write, MMIO", write_eoi, 0, 0},
    {"MOV from CR8", read_cr8, 0, 0},
    {"MOV to CR8, two", write_cr8, 0, 0},
    {"self-IPI + STI + HLT + EOI in C", self_ipi, 12344, 5911},
};

enum { ROWS = sizeof(rows) / sizeof(rows[0]) };

static void run_row(uint64_t number)
{
    rows[number].loop(50);
    guest_done(1);
    rows[number].loop(COUNT);
    guest_done(2);
}

/* ---- The host ---- */

#define CR8_HELP (VIRTX_FEATURE_TPR_SHADOW | VIRTX_FEATURE_VIRTUAL_PRIORITY)

static const struct help {
    const char *name;
    uint64_t features; /* which it has of HARNESS_IRQ_HELP */
} helps[] = {
    {"none", 0},
    {"CR8", CR8_HELP},
    {"+ page", CR8_HELP | VIRTX_FEATURE_APIC_ACCESS},
    {"+ registers", CR8_HELP | VIRTX_FEATURE_APIC_ACCESS | VIRTX_FEATURE_APIC_REGISTERS},
    {"all", HARNESS_IRQ_HELP},
};

enum { HELPS = sizeof(helps) / sizeof(helps[0]) };

static struct result {
    bool done;
    uint64_t instructions, exits; /* in tenths */
} results[ROWS][HELPS];

static struct virtx_lapic lapic;
static bool is_svm;

static bool loop_until_done(void)
{
    const struct virtx_exit *exit;
    enum virtx_status status;

    while ((status = virtx_vcpu_run(machine.vcpu, &exit)) == VIRTX_OK) {
        if (exit->reason == VIRTX_EXIT_HLT)
            status = virtx_vcpu_wake(machine.vcpu);
        else if (exit->reason == VIRTX_EXIT_IO && exit->io.port == PORT_DONE)
            return CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
        else
            return CHECK(false);
        if (status != VIRTX_OK)
            break;
    }
    return CHECK_OK(status);
}

static void measure(unsigned row, unsigned help)
{
    struct virtx_lapic_config config = {.size = sizeof(config),
                                        .address_bits = 40,
                                        .bsp = true,
                                        .bus_multiply = 1,
                                        .bus_divide = 1};
    struct result *result = &results[row][help];
    uint64_t before;

    harness_no_watchdog = true;
    harness_disable = HARNESS_IRQ_HELP & ~helps[help].features;
    guest_reset();
    machine_open();
    is_svm = backend_is("svm");
    CHECK_OK(virtx_lapic_attach(&lapic, &config, machine.vcpu));
    virtx_lapic_virtual_wire(&lapic);
    guest_handler[VECTOR] = on_interrupt;
    guest_prepare(run_row, row);
    if (loop_until_done()) {
        before = guest_exits();
        result->done = loop_until_done();
        result->instructions = (ticks * 10 + COUNT / 2) / COUNT;
        result->exits = ((guest_exits() - before - 1) * 10 + COUNT / 2) / COUNT;
    }
    virtx_lapic_detach(&lapic);
    machine_close();
    harness_disable = 0;
}

static void bench(void)
{
    for (unsigned i = 0; i < ROWS; i++)
        for (unsigned j = 0; j < HELPS; j++)
            measure(i, j);
    bare_printf("%-32s %6s", "instructions/exits by help", "KVM");
    for (unsigned j = 0; j < HELPS; j++)
        bare_printf(" %11s", helps[j].name);
    bare_printf("\n");
    for (unsigned i = 0; i < ROWS; i++) {
        bare_printf("%-32s %6u", rows[i].name, is_svm ? rows[i].kvm_svm : rows[i].kvm_vmx);
        for (unsigned j = 0; j < HELPS; j++)
            bare_printf(" %5lu.%lu/%lu.%lu", results[i][j].instructions / 10,
                        results[i][j].instructions % 10, results[i][j].exits / 10,
                        results[i][j].exits % 10);
        bare_printf("\n");
    }
}

GUEST_CASES({"bench", bench});
