/* SPDX-License-Identifier: BSD-2-Clause */
/* The guest's local APIC by its page (Intel SDM "APIC Register Address Map"). */
#ifndef GUEST_LAPIC_H
#define GUEST_LAPIC_H

#include <stdint.h>

enum {
    APIC = 0xfee00000,
    REG_ID = 0x20,
    REG_VERSION = 0x30,
    REG_TPR = 0x80,
    REG_PPR = 0xa0,
    REG_EOI = 0xb0,
    REG_LDR = 0xd0,
    REG_SVR = 0xf0,
    REG_ISR = 0x100,
    REG_TMR = 0x180,
    REG_IRR = 0x200,
    REG_ICR = 0x300,
    REG_ICR_HIGH = 0x310,
    REG_LVT_TIMER = 0x320,
    REG_INITIAL = 0x380,
    REG_DIVIDE = 0x3e0,
    REG_SELF_IPI = 0x3f0, /* of x2APIC mode */
};

static inline uint32_t apic_read(uint32_t offset)
{
    uint32_t value;
    __asm__ volatile("movl (%1), %0" : "=r"(value) : "r"((uint64_t)APIC + offset) : "memory");
    return value;
}

static inline void apic_write(uint32_t offset, uint32_t value)
{
    __asm__ volatile("movl %0, (%1)" : : "r"(value), "r"((uint64_t)APIC + offset) : "memory");
}

#endif
