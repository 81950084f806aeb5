/* SPDX-License-Identifier: BSD-2-Clause */
/* The processor's instructions that C has no words for: ports, MSRs, CPUID, control registers,
 * RFLAGS.IF. */
#ifndef BARE_X86_H
#define BARE_X86_H

#include <stdint.h>

static inline void bare_out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void bare_out16(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void bare_out32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline uint8_t bare_in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline uint16_t bare_in16(uint16_t port)
{
    uint16_t value;
    __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline uint32_t bare_in32(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

/* Faults where the MSR does not exist; see bare_rdmsr_safe in bare.h. */
static inline uint64_t bare_rdmsr(uint32_t msr)
{
    uint32_t low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr) : "memory");
    return (uint64_t)high << 32 | low;
}

static inline void bare_wrmsr(uint32_t msr, uint64_t value)
{
    __asm__ volatile("wrmsr"
                     :
                     : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
                     : "memory");
}

struct bare_cpuid {
    uint32_t eax, ebx, ecx, edx;
};

static inline struct bare_cpuid bare_cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct bare_cpuid r;
    __asm__ volatile("cpuid"
                     : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
                     : "a"(leaf), "c"(subleaf));
    return r;
}

/* The time stamp counter; not ordered with the instructions around it. */
static inline uint64_t bare_tsc(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}

#define BARE_CR_ACCESSORS(n)                                                                       \
    static inline uint64_t bare_read_cr##n(void)                                                   \
    {                                                                                              \
        uint64_t value;                                                                            \
        __asm__ volatile("mov %%cr" #n ", %0" : "=r"(value) : : "memory");                         \
        return value;                                                                              \
    }                                                                                              \
    static inline void bare_write_cr##n(uint64_t value)                                            \
    {                                                                                              \
        __asm__ volatile("mov %0, %%cr" #n : : "r"(value) : "memory");                             \
    }
BARE_CR_ACCESSORS(0)
BARE_CR_ACCESSORS(2)
BARE_CR_ACCESSORS(3)
BARE_CR_ACCESSORS(4)
BARE_CR_ACCESSORS(8)

static inline uint64_t bare_read_rflags(void)
{
    uint64_t value;
    __asm__ volatile("pushfq; popq %0" : "=r"(value) : : "memory");
    return value;
}

static inline void bare_irq_enable(void)
{
    __asm__ volatile("sti" : : : "memory");
}

static inline void bare_irq_disable(void)
{
    __asm__ volatile("cli" : : : "memory");
}

/* Disables interrupts and says what to give bare_irq_restore to have it as before. */
static inline uint64_t bare_irq_save(void)
{
    uint64_t flags = bare_read_rflags();
    bare_irq_disable();
    return flags;
}

static inline void bare_irq_restore(uint64_t flags)
{
    if (flags & 0x200)
        bare_irq_enable();
}

/* Sleeps until an interrupt has been handled. Call with interrupts disabled, so that one that
 * was waited for cannot come just before the HLT; they are disabled again on return. */
static inline void bare_irq_wait(void)
{
    __asm__ volatile("sti; hlt; cli" : : : "memory");
}

static inline void bare_pause(void)
{
    __asm__ volatile("pause" : : : "memory");
}

#endif
