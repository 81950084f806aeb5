/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Processor instructions that C cannot say and that both vendors and src/hw need.
 *
 * In the user-space unit tests (VIRTX_UNIT) the privileged ones are replaced by functions that the
 * tests supply, so that everything around them can be judged there.
 */
#ifndef VIRTX_X86_CPU_H
#define VIRTX_X86_CPU_H

#include <stdbool.h>
#include <stdint.h>

struct cpuid_regs {
    uint32_t eax, ebx, ecx, edx;
};

#ifdef VIRTX_UNIT

struct cpuid_regs mock_cpuid(uint32_t leaf, uint32_t subleaf);
uint64_t mock_rdmsr(uint32_t index);
void mock_wrmsr(uint32_t index, uint64_t value);
uint64_t mock_irq_save(void);
void mock_irq_restore(uint64_t flags);
void mock_irq_window(void);
uint64_t mock_read_cr(unsigned n);
void mock_write_cr(unsigned n, uint64_t value);
uint64_t mock_read_dr(unsigned n);
void mock_write_dr(unsigned n, uint64_t value);
#define x86_irq_save mock_irq_save
#define x86_irq_restore mock_irq_restore
#define x86_irq_window mock_irq_window
uint32_t mock_in(uint16_t port, unsigned size);
void mock_out(uint16_t port, unsigned size, uint32_t value);
#define x86_in mock_in
#define x86_out mock_out
#define x86_cpuid mock_cpuid
#define x86_rdmsr mock_rdmsr
#define x86_wrmsr mock_wrmsr

#else

static inline struct cpuid_regs x86_cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid_regs r;
    __asm__ volatile("cpuid"
                     : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
                     : "a"(leaf), "c"(subleaf));
    return r;
}

static inline uint64_t x86_rdmsr(uint32_t index)
{
    uint32_t low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index) : "memory");
    return (uint64_t)high << 32 | low;
}

static inline void x86_wrmsr(uint32_t index, uint64_t value)
{
    __asm__ volatile("wrmsr"
                     :
                     : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
                     : "memory");
}

#endif

static inline uint64_t x86_rdtsc(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

#ifdef VIRTX_UNIT

#define X86_CR_ACCESSORS(n)                                                                        \
    static inline uint64_t x86_read_cr##n(void)                                                    \
    {                                                                                              \
        return mock_read_cr(n);                                                                    \
    }                                                                                              \
    static inline void x86_write_cr##n(uint64_t value)                                             \
    {                                                                                              \
        mock_write_cr(n, value);                                                                   \
    }
#define X86_DR_ACCESSORS(n)                                                                        \
    static inline uint64_t x86_read_dr##n(void)                                                    \
    {                                                                                              \
        return mock_read_dr(n);                                                                    \
    }                                                                                              \
    static inline void x86_write_dr##n(uint64_t value)                                             \
    {                                                                                              \
        mock_write_dr(n, value);                                                                   \
    }

#else

#define X86_CR_ACCESSORS(n)                                                                        \
    static inline uint64_t x86_read_cr##n(void)                                                    \
    {                                                                                              \
        uint64_t value;                                                                            \
        __asm__ volatile("mov %%cr" #n ", %0" : "=r"(value));                                      \
        return value;                                                                              \
    }                                                                                              \
    static inline void x86_write_cr##n(uint64_t value)                                             \
    {                                                                                              \
        __asm__ volatile("mov %0, %%cr" #n : : "r"(value) : "memory");                             \
    }
#define X86_DR_ACCESSORS(n)                                                                        \
    static inline uint64_t x86_read_dr##n(void)                                                    \
    {                                                                                              \
        uint64_t value;                                                                            \
        __asm__ volatile("mov %%dr" #n ", %0" : "=r"(value));                                      \
        return value;                                                                              \
    }                                                                                              \
    static inline void x86_write_dr##n(uint64_t value)                                             \
    {                                                                                              \
        __asm__ volatile("mov %0, %%dr" #n : : "r"(value));                                        \
    }
#endif

X86_CR_ACCESSORS(0)
X86_CR_ACCESSORS(2)
X86_CR_ACCESSORS(3)
X86_CR_ACCESSORS(4)
#undef X86_CR_ACCESSORS
X86_DR_ACCESSORS(0)
X86_DR_ACCESSORS(1)
X86_DR_ACCESSORS(2)
X86_DR_ACCESSORS(3)
X86_DR_ACCESSORS(6)
X86_DR_ACCESSORS(7)
#undef X86_DR_ACCESSORS

#ifndef VIRTX_UNIT

/* Reads RFLAGS and turns interrupts off. */
static inline uint64_t x86_irq_save(void)
{
    uint64_t flags;
    __asm__ volatile("pushfq; popq %0; cli" : "=r"(flags) : : "memory");
    return flags;
}

static inline uint32_t x86_in(uint16_t port, unsigned size)
{
    uint32_t value = 0;

    if (size == 1)
        __asm__ volatile("inb %w1, %b0" : "+a"(value) : "Nd"(port));
    else if (size == 2)
        __asm__ volatile("inw %w1, %w0" : "+a"(value) : "Nd"(port));
    else
        __asm__ volatile("inl %w1, %0" : "+a"(value) : "Nd"(port));
    return value;
}

static inline void x86_out(uint16_t port, unsigned size, uint32_t value)
{
    if (size == 1)
        __asm__ volatile("outb %b0, %w1" : : "a"(value), "Nd"(port));
    else if (size == 2)
        __asm__ volatile("outw %w0, %w1" : : "a"(value), "Nd"(port));
    else
        __asm__ volatile("outl %0, %w1" : : "a"(value), "Nd"(port));
}

static inline void x86_irq_restore(uint64_t flags)
{
    if (flags & 0x200)
        __asm__ volatile("sti" : : : "memory");
}

/* Lets the host take what is pending, then closes the window again. The NOP is there because STI
 * holds interrupts off for one instruction. */
static inline void x86_irq_window(void)
{
    __asm__ volatile("sti; nop; cli" : : : "memory");
}

#endif

#endif
