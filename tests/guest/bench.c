/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a guest's operations cost: instructions from one operation to the next, the embedder's
 * loop included, measured by the guest with RDTSC over loops of 10 000. Exact where the engine counts one
 * tick an instruction: Bochs with one processor, QEMU with -icount shift=0 (word `icount`).
 *
 * The columns "KVM" stand for comparison: Debian's kernel 6.1 (mitigations=off) as the host and a small
 * static C program as the user, measured in the same way with the same loops; VMX on Bochs
 * corei7_skylake_x, SVM on Bochs zambezi. "Target" is what this project wants to stay below.
 *
 * A table for people, then one line of JSON a row for programs. Never fails on a number: numbers are
 * for looking at and for tools; it fails when a row cannot be run.
 */
#include "bench_loops.h"
#include <virtx/pic.h>

enum {
    COUNT = 10000,
    TOUCH_PAGES = 8192,
    TOUCH_BASE = 0x80000000,
    OTHER_MSR = 0x8b, /* IA32_BIOS_SIGN_ID: kept by the library */
};

/* ---- The guest's loops; each is run once before it is measured ---- */

static void loop_cpuid(uint64_t n)
{
    MEASURE(n, "xorl %%eax, %%eax; cpuid", : "rax", "rbx", "rcx", "rdx");
}

static void loop_rdmsr(uint64_t n)
{
    MEASURE(n, "rdmsr", "c"(OTHER_MSR) : "rax", "rdx");
}

static void loop_wrmsr(uint64_t n)
{
    MEASURE(n, "wrmsr", "c"(OTHER_MSR), "a"(0), "d"(0));
}

static void loop_hypercall(uint64_t n)
{
    if (guest_has_svm)
        MEASURE(n, "vmmcall", : "rax");
    else
        MEASURE(n, "vmcall", : "rax");
}

static void loop_out(uint64_t n)
{
    MEASURE(n, "outb %%al, %%dx", "a"(1), "d"(0x80));
}

static void loop_in(uint64_t n)
{
    MEASURE(n, "inb %%dx, %%al", "d"(0x80) : "rax");
}

static void loop_hlt(uint64_t n)
{
    MEASURE(n, "hlt", );
}

static void loop_mmio_read(uint64_t n)
{
    MEASURE(n, "movl (%1), %%eax", "r"((uint64_t)GUEST_HOLE) : "rax");
}

static void loop_mmio_write(uint64_t n)
{
    MEASURE(n, "movl %%eax, (%1)", "r"((uint64_t)GUEST_HOLE), "a"(5));
}

static void loop_pic_write(uint64_t n)
{
    MEASURE(n, "outb %%al, $0x21", "a"(0xff));
}

static void loop_touch(uint64_t n)
{
    uint64_t page = TOUCH_BASE;

    MEASURE(n, "movb $1, (%1); addq $4096, %1", "r"(page));
}

static void loop_self_ipi(uint64_t n)
{
    MEASURE(n, "cli; movl $0x40051, (%1); sti; hlt", "r"((uint64_t)LAPIC_BASE + 0x300) : "rax");
}

static void loop_mov_cr8(uint64_t n)
{
    MEASURE(n, "movq %1, %%cr8", "r"(5ul));
}

/* To the second vcpu, which is halted, and answered by it: two IPIs and two changes of the vcpu. */
static void loop_ipi(uint64_t n)
{
    MEASURE(n, "cli; movl $0x1000000, 0x10(%1); movl $0x51, (%1); sti; hlt",
            "r"((uint64_t)LAPIC_BASE + 0x300) : "rax");
}

/* The pages that deliveries need are there from now on; see apic.c. */
static void touch_idt(void)
{
    (void)GUEST_TRY("ud2", :);
}

static void run_row(uint64_t argument)
{
    void (*const *pair)(uint64_t) = (void (*const *)(uint64_t))(uintptr_t)argument;

    touch_idt();
    pair[0](200);
    guest_done(1);
    pair[0](COUNT);
    guest_done(2);
}

/* The pages are touched once only. */
static void run_touch(uint64_t argument)
{
    (void)argument;
    guest_done(1);
    loop_touch(TOUCH_PAGES);
    guest_done(2);
}

/* The second vcpu: sleeps, and answers each interrupt. */
static void run_other(uint64_t unused)
{
    (void)unused;
    touch_idt();
    for (;;)
        __asm__ volatile("sti; hlt; cli; movl $0, 0x10(%0); movl $0x51, (%0)"
                         :
                         : "r"((uint64_t)LAPIC_BASE + 0x300)
                         : "memory");
}

/* ---- The embedder's loop ---- */

static struct virtx_vcpu *other; /* of rows with a second vcpu, on the same processor */

/* The first vcpu is halted: it is the second one's turn, until the first has something to do. */
static enum virtx_status other_turn(struct virtx_vcpu *vcpu)
{
    const struct virtx_exit *exit;
    enum virtx_status status;

    do
        status = virtx_vcpu_run(other, &exit);
    while (status == VIRTX_OK && exit->reason == VIRTX_EXIT_HLT && !virtx_vcpu_wakeable(vcpu));
    return status;
}

static bool loop_until_done(struct virtx_vcpu *vcpu)
{
    const struct virtx_exit *exit;
    enum virtx_status status;
    uint64_t value = 0x55;

    while ((status = virtx_vcpu_run(vcpu, &exit)) == VIRTX_OK) {
        switch (exit->reason) {
        case VIRTX_EXIT_IO:
            if (exit->io.port == PORT_DONE)
                return CHECK_OK(virtx_vcpu_complete(vcpu, NULL));
            if (exit->io.access == VIRTX_READ)
                status = virtx_vcpu_complete(vcpu, &value);
            break;
        case VIRTX_EXIT_MMIO:
            if (exit->mmio.access == VIRTX_READ)
                status = virtx_vcpu_complete(vcpu, &value);
            break;
        case VIRTX_EXIT_HLT:
            status = other != NULL ? other_turn(vcpu) : virtx_vcpu_wake(vcpu);
            break;
        default: {
            char text[120];

            describe_exit(text, sizeof(text), exit);
            bare_printf("bench: unexpected exit: %s at 0x%lx\n", text, exit->rip);
            return CHECK(false);
        }
        }
        if (status != VIRTX_OK)
            break;
    }
    return CHECK_OK(status);
}

static enum virtx_verdict on_hypercall(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    (void)vcpu;
    (void)ctx;
    exit->hypercall.number = 7;
    return VIRTX_HANDLED;
}

/* ---- Devices of some rows ---- */

static struct virtx_lapic other_lapic, *lapics[2];
static struct virtx_apic_bus bus;
static struct virtx_pic pic;
static void *touch_memory;

static void with_other(void)
{
    struct virtx_lapic_config config = {
        .size = sizeof(config), .address_bits = 40, .bus_multiply = 1, .bus_divide = 1};

    with_lapic();
    other = vcpu_make(machine.vm, 1);
    CHECK_OK(virtx_lapic_attach(&other_lapic, &config, other));
    virtx_lapic_virtual_wire(&other_lapic); /* software-enabled */
    virtx_apic_bus_init(&bus, lapics, 2);
    CHECK(virtx_apic_bus_add_lapic(&bus, &bench_lapic) &&
          virtx_apic_bus_add_lapic(&bus, &other_lapic));
    vcpu_prepare(other, 1, run_other, 0);
}

static void without_other(void)
{
    if (other == NULL)
        return;
    virtx_lapic_detach(&other_lapic);
    CHECK_OK(virtx_vcpu_destroy(other));
    other = NULL;
}

static void with_pic(void)
{
    virtx_pic_init(&pic, NULL, NULL);
    CHECK_OK(virtx_pic_attach(&pic, machine.vm));
}

static void with_hypercall(void)
{
    intercept_handler(VIRTX_INTERCEPT_HYPERCALL, 0, 0, 0, on_hypercall, NULL);
}

static void with_touch(void)
{
    slot_make(machine.vm, TOUCH_BASE, touch_memory, TOUCH_PAGES * 4096ul, ALL_RIGHTS,
              VIRTX_MEMSLOT_SMALL_PAGES);
}

static void with_page_fault(void)
{
    *guest_pte(FAULT_PAGE) = 0;
    bench_gate(14, bench_page_fault);
}

struct row {
    const char *name;
    void (*loop)(uint64_t n);
    void (*prepare)(void);
    unsigned kvm_vmx, kvm_svm, target_vmx, target_svm;
};

/* In the table's order; 0: not measured. */
static const struct row rows[] = {
    {"CPUID served inside run", loop_cpuid, NULL, 969, 1103, 120, 120},
    {"RDMSR served inside run", loop_rdmsr, NULL, 1090, 1175, 140, 140},
    {"WRMSR served inside run", loop_wrmsr, NULL, 1034, 1211, 150, 150},
    {"VMCALL/VMMCALL served inside run", loop_hypercall, with_hypercall, 1008, 1158, 125, 125},
    {"OUT to the loop and back", loop_out, NULL, 3054, 2995, 160, 160},
    {"IN to the loop and back", loop_in, NULL, 3094, 3026, 170, 170},
    {"HLT to the loop and back", loop_hlt, NULL, 2594, 2485, 150, 150},
    {"MMIO read to the loop and back", loop_mmio_read, NULL, 5890, 5444, 480, 480},
    {"MMIO write to the loop and back", loop_mmio_write, NULL, 0, 0, 0, 0},
    {"LAPIC register read, MMIO", loop_lapic_read, with_lapic, 7387, 3600, 380, 380},
    {"PIC port write", loop_pic_write, with_pic, 1996, 2123, 180, 180},
    {"first touch of a 4K page", NULL, with_touch, 3454, 3253, 280, 280},
    {"self-IPI + STI + HLT + EOI", loop_self_ipi, with_lapic, 12344, 5911, 1200, 1200},
    {"IPI to a halted vcpu and back", loop_ipi, with_other, 0, 0, 0, 0},
    {"MOV CR8 with a LAPIC", loop_mov_cr8, with_lapic, 0, 0, 7, 7},
    {"MOV CR3", loop_mov_cr3, NULL, 2, 2, 7, 7},
    {"INVLPG", loop_invlpg, NULL, 2, 2, 7, 7},
    {"guest #PF + IRET", loop_page_fault, with_page_fault, 7, 6, 7, 7},
    {"PTE map/touch/unmap/INVLPG", loop_map, with_page_fault, 6, 6, 7, 7},
    {"CR0.WP write", loop_cr0_wp, NULL, 2, 4289, 7, 7},
    {"CR4.PGE write", loop_cr4_pge, NULL, 2, 3274, 7, 250},
};

enum { ROWS = sizeof(rows) / sizeof(rows[0]), PROFILES = 2 };

/* Per operation, in tenths. */
struct result {
    bool done;
    uint64_t instructions, exits, reads, writes, msr_writes, flushes;
};

static struct result results[PROFILES][ROWS];
static bool is_svm;

static uint64_t tenths(uint64_t sum, uint64_t count)
{
    return (sum * 10 + count / 2) / count;
}

static void measure(const struct row *row, struct result *result)
{
    struct virtx_stats before, after;
    uint64_t exits_before, count = row->loop != NULL ? COUNT : TOUCH_PAGES;

    harness_no_watchdog = true;
    bare_timer_stop();
    guest_reset();
    machine_open();
    is_svm = backend_is("svm");
    if (row->prepare != NULL)
        row->prepare();
    guest_prepare(row->loop != NULL ? run_row : run_touch, (uintptr_t)&row->loop);
    if (loop_until_done(machine.vcpu)) {
        virtx_vcpu_stats(machine.vcpu, &before);
        exits_before = guest_exits();
        if (loop_until_done(machine.vcpu)) {
            virtx_vcpu_stats(machine.vcpu, &after);
            *result = (struct result){
                .done = true,
                .instructions = tenths(ticks, count),
                .exits = tenths(guest_exits() - exits_before - 1, count),
                .reads = tenths(after.control_reads - before.control_reads, count),
                .writes = tenths(after.control_writes - before.control_writes, count),
                .msr_writes = tenths(after.msr_writes - before.msr_writes, count),
                .flushes = tenths(after.flushes - before.flushes, count),
            };
        }
    }
    without_lapic();
    without_other();
    virtx_pic_detach(&pic);
    machine_close();
}

/* ---- Output ---- */

static void show(uint64_t value_tenths)
{
    bare_printf(" %6lu.%lu", value_tenths / 10, value_tenths % 10);
}

static void show_row(unsigned i)
{
    const struct row *row = &rows[i];
    const struct result *bare = &results[0][i], *kernel = &results[1][i];
    unsigned target = is_svm ? row->target_svm : row->target_vmx;

    bare_printf("%-33s %6u %6u", row->name, is_svm ? row->kvm_svm : row->kvm_vmx, target);
    show(bare->instructions);
    show(kernel->instructions);
    bare_printf(" %s", !bare->done                                      ? "failed  "
                       : target != 0 && bare->instructions > target * 10ul ? "above   "
                                                                        : "        ");
    show(bare->exits);
    show(bare->reads);
    show(bare->writes);
    show(bare->msr_writes);
    show(bare->flushes);
    bare_printf("\n");
}

static void json_row(unsigned i)
{
    const struct row *row = &rows[i];

    for (unsigned p = 0; p < PROFILES; p++) {
        const struct result *r = &results[p][i];

        if (!r->done)
            continue;
        bare_printf("{\"engine\": \"%s\", \"model\": \"%s\", \"profile\": \"%s\", \"operation\": "
                    "\"%s\", \"kvm\": %u, \"target\": %u, \"instructions\": %lu.%lu, ",
                    bare_option("engine"), bare_option("model"), p == 0 ? "bare" : "kernel",
                    row->name, is_svm ? row->kvm_svm : row->kvm_vmx,
                    is_svm ? row->target_svm : row->target_vmx, r->instructions / 10,
                    r->instructions % 10);
        bare_printf("\"exits\": %lu.%lu, \"control_reads\": %lu.%lu, \"control_writes\": %lu.%lu, "
                    "\"msr_writes\": %lu.%lu, \"flushes\": %lu.%lu}\n",
                    r->exits / 10, r->exits % 10, r->reads / 10, r->reads % 10, r->writes / 10,
                    r->writes % 10, r->msr_writes / 10, r->msr_writes % 10, r->flushes / 10,
                    r->flushes % 10);
    }
}

static void bench(void)
{
    uint64_t only = bare_option_u64("row", ROWS);

    touch_memory = bare_pages_alloc(TOUCH_PAGES, 512);
    if (touch_memory == NULL)
        bare_panic("no memory to touch");
    for (unsigned p = 0; p < PROFILES; p++) {
        for (unsigned i = 0; i < ROWS; i++) {
            harness_profile = p == 0 ? &virtx_profile_bare : &virtx_profile_kernel;
            if (only >= ROWS || only == i)
                measure(&rows[i], &results[p][i]);
        }
    }
    bare_printf("%-33s %6s %6s %8s %8s %9s %8s %8s %8s %8s %8s\n", "instructions per operation",
                "KVM", "target", "bare", "kernel", "", "exits", "reads", "writes", "wrmsr",
                "flushes");
    for (unsigned i = 0; i < ROWS; i++)
        show_row(i);
    for (unsigned i = 0; i < ROWS; i++)
        json_row(i);
}

GUEST_CASES({"bench", bench});
