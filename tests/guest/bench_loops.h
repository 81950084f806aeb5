/* SPDX-License-Identifier: BSD-2-Clause */
/* The operations that bench.c and bench_shadow.c both measure. */
#ifndef TESTS_GUEST_BENCH_LOOPS_H
#define TESTS_GUEST_BENCH_LOOPS_H

#include "bench.h"
#include <virtx/lapic.h>

enum {
    LAPIC_BASE = 0xfee00000,
    FAULT_PAGE = 0x60000000, /* mapped by nothing, or by a row itself */
};

static void loop_mov_cr3(uint64_t n)
{
    uint64_t cr3 = bare_read_cr3();
    MEASURE(n, "movq %1, %%cr3", "r"(cr3));
}

static void loop_invlpg(uint64_t n)
{
    MEASURE(n, "invlpg (%1)", "r"((uint64_t)GUEST_MEMORY));
}

static void loop_page_fault(uint64_t n)
{
    MEASURE(n, "movb (%1), %%al", "r"((uint64_t)FAULT_PAGE) : "rax");
}

static void loop_map(uint64_t n)
{
    uint64_t *pte = guest_pte(FAULT_PAGE);
    MEASURE(n, "movq %1, (%2); movb (%3), %%al; movq $0, (%2); invlpg (%3)",
            "r"((uint64_t)GUEST_MEMORY | 7), "r"(pte), "r"((uint64_t)FAULT_PAGE)
            : "rax", "memory");
}

static void loop_cr0_wp(uint64_t n)
{
    uint64_t cr0 = bare_read_cr0();
    MEASURE(n, "xorq $0x10000, %%rax; movq %%rax, %%cr0", "a"(cr0));
    bare_write_cr0(cr0);
}

static void loop_cr4_pge(uint64_t n)
{
    uint64_t cr4 = bare_read_cr4();
    MEASURE(n, "xorq $0x80, %%rax; movq %%rax, %%cr4", "a"(cr4));
    bare_write_cr4(cr4);
}

static void loop_lapic_read(uint64_t n)
{
    MEASURE(n, "movl (%1), %%eax", "r"((uint64_t)LAPIC_BASE + 0x30) : "rax");
}

/* Interrupt and #PF handlers as short as they get. */
void bench_interrupt(void), bench_page_fault(void);
__asm__(".globl bench_interrupt\n"
        "bench_interrupt: pushq %rax; movl $0xfee000b0, %eax; movl $0, (%rax); popq %rax; iretq\n"
        ".globl bench_page_fault\n"
        "bench_page_fault: addq $8, %rsp; addq $2, (%rsp); iretq\n");

static void bench_gate(unsigned vector, void (*entry)(void))
{
    uint64_t address = (uintptr_t)entry;

    guest_idt[vector][0] = (address & 0xffff) | (uint64_t)GUEST_CODE << 16 | 0x8eul << 40 |
                           (address & 0xffff0000) << 32;
    guest_idt[vector][1] = address >> 32;
}

/* ---- The local APIC of some rows ---- */

static struct virtx_lapic bench_lapic;

static void with_lapic(void)
{
    struct virtx_lapic_config config = {.size = sizeof(config),
                                        .address_bits = 40,
                                        .bsp = true,
                                        .bus_multiply = 1,
                                        .bus_divide = 1};

    CHECK_OK(virtx_lapic_attach(&bench_lapic, &config, machine.vcpu));
    virtx_lapic_virtual_wire(&bench_lapic);
    bench_gate(0x51, bench_interrupt);
}

static void without_lapic(void)
{
    if (bench_lapic.vcpu != NULL)
        virtx_lapic_detach(&bench_lapic);
}

#endif
