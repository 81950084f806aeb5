/* SPDX-License-Identifier: BSD-2-Clause */
/* The local APIC: interprocessor interrupts, end of interrupt, the timer. Works in the mode that
 * the firmware left it in, xAPIC (memory) or x2APIC (MSRs). */
#include "internal.h"

#define MSR_APIC_BASE      0x1b
#define APIC_BASE_X2APIC   (1u << 10)
#define APIC_BASE_ENABLE   (1u << 11)
#define APIC_BASE_ADDRESS  0xffffffffff000ull
#define MSR_X2APIC         0x800
#define CPUID_1_EDX_APIC   (1u << 9)

#define APIC_TPR           0x080
#define APIC_EOI           0x0b0
#define APIC_SVR           0x0f0
#define APIC_ICR           0x300
#define APIC_ICR_HIGH      0x310
#define APIC_LVT_TIMER     0x320
#define APIC_LVT_LINT0     0x350
#define APIC_TIMER_INITIAL 0x380
#define APIC_TIMER_CURRENT 0x390
#define APIC_TIMER_DIVIDE  0x3e0

#define SVR_ENABLE         0x100
#define ICR_PENDING        (1u << 12)
#define LVT_MASKED         (1u << 16)
#define LVT_PERIODIC       (1u << 17)
#define DIVIDE_BY_1        0xb

/* All processors agree on these: they are set by the first one. */
static bool present, x2apic;
static volatile uint32_t *registers;

static uint32_t apic_read(uint32_t offset)
{
    if (x2apic)
        return (uint32_t)bare_rdmsr(MSR_X2APIC + (offset >> 4));
    return registers[offset / 4];
}

static void apic_write(uint32_t offset, uint32_t value)
{
    if (x2apic)
        bare_wrmsr(MSR_X2APIC + (offset >> 4), value);
    else
        registers[offset / 4] = value;
}

void bare_apic_init(void)
{
    if (!(bare_cpuid(1, 0).edx & CPUID_1_EDX_APIC))
        return;

    uint64_t base = bare_rdmsr(MSR_APIC_BASE);
    if (present && x2apic)
        base |= APIC_BASE_X2APIC | APIC_BASE_ENABLE;
    if (!(base & APIC_BASE_ENABLE))
        base |= APIC_BASE_ENABLE;
    bare_wrmsr(MSR_APIC_BASE, base);
    x2apic = (base & APIC_BASE_X2APIC) != 0;
    registers = (volatile uint32_t *)(uintptr_t)(base & APIC_BASE_ADDRESS);
    present = true;

    apic_write(APIC_LVT_TIMER, LVT_MASKED | BARE_VECTOR_SPURIOUS);
    apic_write(APIC_LVT_LINT0, LVT_MASKED); /* the PIC's line */
    apic_write(APIC_TPR, 0);
    apic_write(APIC_TIMER_DIVIDE, DIVIDE_BY_1);
    apic_write(APIC_SVR, SVR_ENABLE | BARE_VECTOR_SPURIOUS);
}

bool bare_apic_present(void)
{
    return present;
}

void bare_apic_send(uint32_t apic_id, uint32_t command)
{
    if (!present)
        return;
    if (x2apic) {
        bare_wrmsr(MSR_X2APIC + (APIC_ICR >> 4), (uint64_t)apic_id << 32 | command);
        return;
    }
    uint64_t flags = bare_irq_save(); /* a handler may send between the two halves */
    while (apic_read(APIC_ICR) & ICR_PENDING)
        bare_pause();
    apic_write(APIC_ICR_HIGH, apic_id << 24);
    apic_write(APIC_ICR, command);
    bare_irq_restore(flags);
}

void bare_ipi(unsigned cpu, unsigned vector)
{
    bare_apic_send(bare_cpu_apic_id(cpu), ICR_FIXED | ICR_ASSERT | (vector & 0xff));
}

void bare_nmi(unsigned cpu)
{
    bare_apic_send(bare_cpu_apic_id(cpu), ICR_NMI | ICR_ASSERT);
}

void bare_eoi(void)
{
    if (present)
        apic_write(APIC_EOI, 0);
}

void bare_timer_start(unsigned vector, uint32_t ticks, bool periodic)
{
    if (!present)
        return;
    apic_write(APIC_LVT_TIMER, (vector & 0xff) | (periodic ? LVT_PERIODIC : 0));
    apic_write(APIC_TIMER_INITIAL, ticks);
}

void bare_timer_stop(void)
{
    if (!present)
        return;
    apic_write(APIC_LVT_TIMER, LVT_MASKED | BARE_VECTOR_SPURIOUS);
    apic_write(APIC_TIMER_INITIAL, 0);
}

struct timer_setting bare_timer_measure(void)
{
    struct timer_setting before = {0, 0};

    if (present) {
        before.lvt = apic_read(APIC_LVT_TIMER);
        before.count = apic_read(APIC_TIMER_INITIAL);
        apic_write(APIC_LVT_TIMER, LVT_MASKED | BARE_VECTOR_SPURIOUS);
        apic_write(APIC_TIMER_INITIAL, UINT32_MAX);
    }
    return before;
}

uint32_t bare_timer_read(void)
{
    return present ? apic_read(APIC_TIMER_CURRENT) : 0;
}

void bare_timer_restore(struct timer_setting setting)
{
    if (present) {
        apic_write(APIC_LVT_TIMER, setting.lvt);
        apic_write(APIC_TIMER_INITIAL, setting.count);
    }
}
