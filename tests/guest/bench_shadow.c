/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a guest's operations on its address space cost with shadow paging: instructions from one to
 * the next, measured as bench.c does. The columns "KVM" are Debian's kernel 6.1 with ept=0 or
 * npt=0, VMX on Bochs corei7_skylake_x, SVM on Bochs zambezi; "target" is what this project wants
 * to stay below. Run it with paging=shadow; row=N runs one row only.
 */
#include "bench_loops.h"

enum {
    COUNT = 4000,
    PAGES = 1024,            /* of GUEST_MEMORY */
    SMALL_BASE = 0x68000000, /* GUEST_MEMORY again, by 4-KiB entries */
};

static _Alignas(4096) uint64_t other_pml4[512];

static void two_spaces(uint64_t n)
{
    uint64_t cr3 = bare_read_cr3();

    MEASURE(n / 2, "movq %1, %%cr3; movq %2, %%cr3", "r"((uint64_t)(uintptr_t)other_pml4),
            "r"(cr3));
}

static void touch_small(uint64_t n)
{
    uint64_t page = SMALL_BASE;
    MEASURE(n, "movb $1, (%1); addq $4096, %1", "r"(page));
}

static void touch_large(uint64_t n)
{
    uint64_t page = GUEST_MEMORY;
    MEASURE(n, "movb $1, (%1); addq $4096, %1", "r"(page));
}

struct row {
    const char *name;
    void (*loop)(uint64_t n);
    unsigned count; /* operations; of the touches one for each page, once */
    unsigned kvm_vmx, kvm_svm, target_vmx, target_svm;
};

static const struct row rows[] = {
    {"MOV CR3, same value", loop_mov_cr3, COUNT, 1243, 3219, 220, 220},
    {"MOV CR3 between two spaces, each", two_spaces, COUNT, 1365, 3331, 260, 260},
    {"INVLPG", loop_invlpg, COUNT, 1459, 3577, 220, 350},
    {"guest #PF + IRET", loop_page_fault, COUNT, 2132, 1944, 350, 350},
    {"PTE map/touch/unmap/INVLPG", loop_map, COUNT, 8890, 10633, 1000, 1000},
    {"first touch by 4K entries", touch_small, PAGES, 5574, 5327, 600, 600},
    {"first touch below a large page", touch_large, PAGES, 1255, 1221, 500, 500},
    {"CR0.WP write", loop_cr0_wp, COUNT, 5300, 5283, 350, 350},
    {"CR4.PGE write", loop_cr4_pge, COUNT, 1443, 3358, 350, 350},
    {"LAPIC register read, MMIO", loop_lapic_read, COUNT, 0, 0, 0, 0},
};

static void run_row(uint64_t i)
{
    if (rows[i].count == COUNT)
        rows[i].loop(200);
    guest_done(1);
    rows[i].loop(rows[i].count);
    guest_done(2);
}

static void prepare(void)
{
    for (uint64_t i = 0; i < PAGES; i++)
        *guest_pte(SMALL_BASE + i * 4096) = (GUEST_MEMORY + i * 4096) | 7;
    *guest_pte(FAULT_PAGE) = 0;
    memcpy(other_pml4, guest_pml4, sizeof(other_pml4));
    bench_gate(14, bench_page_fault);
}

static void measure(unsigned i)
{
    const struct row *row = &rows[i];
    uint64_t value = 0, exits, tenths;
    unsigned kvm, target;
    bool above;

    harness_no_watchdog = true;
    /* Large leaves would leave nothing to touch a second time. */
    harness_memory_flags = row->loop == touch_large ? VIRTX_MEMSLOT_SMALL_PAGES : 0;
    bare_timer_stop();
    guest_reset();
    prepare();
    machine_open();
    if (row->loop == loop_lapic_read)
        with_lapic();
    CHECK(guest_call(run_row, i, &value));
    exits = guest_exits();
    if (CHECK(guest_continue(&value))) {
        tenths = (ticks * 10 + row->count / 2) / row->count;
        exits = ((guest_exits() - exits - 1) * 10 + row->count / 2) / row->count;
        kvm = backend_is("svm") ? row->kvm_svm : row->kvm_vmx;
        target = backend_is("svm") ? row->target_svm : row->target_vmx;
        above = target != 0 && tenths > target * 10ul;
        bare_printf("%-33s %6u %6u %6lu.%lu %s exits %lu.%lu\n", row->name, kvm, target,
                    tenths / 10, tenths % 10, above ? "above" : "     ", exits / 10, exits % 10);
        bare_printf("{\"engine\": \"%s\", \"model\": \"%s\", \"profile\": \"bare\", \"paging\": "
                    "\"shadow\", \"operation\": \"%s\", \"kvm\": %u, \"target\": %u, "
                    "\"instructions\": %lu.%lu, \"exits\": %lu.%lu}\n",
                    bare_option("engine"), bare_option("model"), row->name, kvm, target,
                    tenths / 10, tenths % 10, exits / 10, exits % 10);
    }
    without_lapic();
    machine_close();
}

static void bench(void)
{
    const unsigned count = sizeof(rows) / sizeof(rows[0]);
    uint64_t only = bare_option_u64("row", count);

    bare_printf("%-33s %6s %6s\n", "instructions per operation", "KVM", "target");
    for (unsigned i = 0; i < count; i++)
        if (only >= count || only == i)
            measure(i);
}

GUEST_CASES({"bench-shadow", bench});
