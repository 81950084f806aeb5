/* SPDX-License-Identifier: BSD-2-Clause */
/* RDMSR of a register that the processor may lack, in a library that has no exception handlers of its own. */
#include "hw/hw.h"
#include "x86/cpu.h"
#include "x86/defs.h"

#ifndef VIRTX_UNIT

struct trap_gate {
    uint64_t low, high;
};

struct __attribute__((packed)) idt_pointer {
    uint16_t limit;
    uint64_t base;
};

extern char hw_trap_gate[];

/* For this one instruction a copy of the host's exception gates takes the IDT's place, in which #GP is
 * trapped.S; NMI and machine check keep going to the host. */
uint64_t hw_rdmsr_trapped(uint32_t index, bool *trapped)
{
    struct trap_gate gates[32] = {0};
    struct idt_pointer host, ours = {sizeof(gates) - 1, (uintptr_t)gates};
    uint64_t entry = (uintptr_t)hw_trap_gate;
    uint64_t flags = x86_irq_save();
    uint32_t low, high;
    uint16_t cs;
    register uint32_t fault __asm__("r8") = 0;

    __asm__ volatile("sidt %0" : "=m"(host));
    __asm__ volatile("movw %%cs, %0" : "=r"(cs));
    memcpy(gates, (const void *)(uintptr_t)host.base,
           min_u64(sizeof(gates), (uint64_t)host.limit + 1));
    gates[VECTOR_GP].low = (entry & 0xffff) | (uint64_t)cs << 16 | 0x8eull << 40 |
                           (entry >> 16 & 0xffff) << 48;
    gates[VECTOR_GP].high = entry >> 32;
    __asm__ volatile("lidt %5\n\t"
                     "rdmsr\n\t"
                     "lidt %6"
                     : "=a"(low), "=d"(high), "+r"(fault)
                     : "c"(index), "m"(gates), "m"(ours), "m"(host)
                     : "memory", "cc");
    x86_irq_restore(flags);
    *trapped = fault != 0;
    return fault ? 0 : (uint64_t)high << 32 | low;
}

#else

uint64_t hw_rdmsr_trapped(uint32_t index, bool *trapped)
{
    *trapped = false;
    return x86_rdmsr(index);
}

#endif
