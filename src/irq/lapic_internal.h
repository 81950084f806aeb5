/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files of the LAPIC model share: register layouts and the steps between them. */
#ifndef VIRTX_IRQ_LAPIC_INTERNAL_H
#define VIRTX_IRQ_LAPIC_INTERNAL_H

#include <virtx/lapic.h>

/* IA32_APIC_BASE (Intel SDM, "Local APIC Status and Location"). */
#define APIC_BASE_BSP              (1ull << 8)
#define APIC_BASE_X2APIC           (1ull << 10)
#define APIC_BASE_ENABLE           (1ull << 11)
#define APIC_BASE_MODE             (APIC_BASE_X2APIC | APIC_BASE_ENABLE)

#define MSR_APIC_BASE              0x1bu
#define MSR_TSC_DEADLINE           0x6e0u
#define MSR_X2APIC_FIRST           0x800u
#define MSR_X2APIC_LAST            0x8ffu

#define SVR_ENABLE                 (1u << 8)
#define SVR_SUPPRESS_EOI           (1u << 12)

#define LVT_MODE_SHIFT             8
#define LVT_STATUS                 (1u << 12)
#define LVT_ACTIVE_LOW             (1u << 13)
#define LVT_REMOTE_IRR             (1u << 14)
#define LVT_LEVEL                  (1u << 15)
#define LVT_MASKED                 (1u << 16)
#define LVT_TIMER_MODE             (3u << 17)
#define LVT_TIMER_ONE_SHOT         (0u << 17)
#define LVT_TIMER_PERIODIC         (1u << 17)
#define LVT_TIMER_DEADLINE         (2u << 17)

#define ESR_SEND_ILLEGAL_VECTOR    (1u << 5)
#define ESR_RECEIVE_ILLEGAL_VECTOR (1u << 6)
#define ESR_ILLEGAL_REGISTER       (1u << 7)

/* Vectors 0-15 are illegal in an APIC (Intel SDM, "Valid Interrupt Vectors"). */
#define FIRST_LEGAL_VECTOR 16u

static inline unsigned lvt_mode(uint32_t entry)
{
    return (entry >> LVT_MODE_SHIFT) & 7;
}

/* In virtx_lapic::regs, as in the register page: 32 bits every 16 bytes. */
enum { LAPIC_TPR = 0x80 / 4, LAPIC_ISR = 0x100 / 4, LAPIC_TMR = 0x180 / 4, LAPIC_IRR = 0x200 / 4 };
#define LAPIC_SET_WORDS 8u

/* The word of a set that has the vector's bit. */
static inline uint32_t *lapic_word(struct virtx_lapic *l, unsigned set, uint8_t vector)
{
    return &l->regs[set + (vector >> 5) * 4u];
}

static inline uint32_t lapic_bit(uint8_t vector)
{
    return 1u << (vector & 31);
}

/* Puts a vector into IRR; the vcpu's thread only. */
static inline void lapic_set_irr(struct virtx_lapic *l, uint8_t vector, bool level)
{
    uint32_t bit = lapic_bit(vector);

    *lapic_word(l, LAPIC_IRR, vector) |= bit;
    if (level)
        *lapic_word(l, LAPIC_TMR, vector) |= bit;
    else
        *lapic_word(l, LAPIC_TMR, vector) &= ~bit;
    l->unsaid = true;
    if (vector > l->irr_max)
        l->irr_max = vector;
}

/* virtx_lapic::attention */
#define LAPIC_POSTED  1u
#define LAPIC_IN_PAGE 2u

void lapic_attend(struct virtx_lapic *l);

/* Makes what other CPUs posted visible in the registers, and what the processor did in them known.
 */
static inline void lapic_fold(struct virtx_lapic *l)
{
    if (__atomic_load_n(&l->attention, __ATOMIC_RELAXED) != 0)
        lapic_attend(l);
}

static inline bool lapic_in_page(const struct virtx_lapic *l)
{
    /* No other CPU changes this bit, but they do change the word. */
    return (__atomic_load_n(&l->attention, __ATOMIC_RELAXED) & LAPIC_IN_PAGE) != 0;
}

/* The vcpu's thread alone writes LVT entries; who drives a pin reads those of LINT0 and LINT1. */
static inline void lapic_set_lvt(struct virtx_lapic *l, unsigned entry, uint32_t value)
{
    __atomic_store_n(&l->lvt[entry], value, __ATOMIC_RELAXED);
}

uint32_t lapic_version(const struct virtx_lapic_config *config);

/* By register number: where in the structure the value lies if reading the xAPIC register is a load
 * of 32 bits; else 0. */
#define LAPIC_REGISTERS 0x40u
extern const uint16_t lapic_plain[LAPIC_REGISTERS];

/* The register at an offset in the page, if reading all of it, and no more, is a load; else NULL.
 */
static inline const uint32_t *lapic_plain_at(const struct virtx_lapic *l, uint32_t offset,
                                             unsigned size)
{
    unsigned at;

    if (size != 4 || (offset & ~((LAPIC_REGISTERS - 1) << 4)) != 0)
        return NULL;
    at = lapic_plain[offset >> 4];
    return at != 0 ? (const uint32_t *)(const void *)((const uint8_t *)l + at) : NULL;
}

/* Reserved in the ICR, with the delivery status, which is never kept. */
#define LAPIC_ICR_RESERVED 0xfff33000ull

uint8_t lapic_highest(const struct virtx_lapic *l, unsigned set, uint8_t from);
void lapic_move(struct virtx_lapic *l, uint32_t *page);
void lapic_show_all(struct virtx_lapic *l);
void lapic_look(struct virtx_lapic *l);
bool lapic_changed_page(struct virtx_lapic *l);
void lapic_ended(struct virtx_lapic *l, uint8_t vector);
int lapic_external(struct virtx_lapic *l);
void lapic_write(struct virtx_lapic *l, uint32_t reg, uint32_t value, uint64_t now);
uint32_t lapic_logical_x2apic_id(uint32_t id);
void lapic_written(struct virtx_lapic *l, uint32_t offset, uint64_t now);
bool lapic_base_good(const struct virtx_lapic *l, uint64_t value);
uint32_t lapic_lvt_writable(const struct virtx_lapic *l, int lvt);
uint32_t lapic_svr_writable(const struct virtx_lapic *l);
uint64_t lapic_timer_ticks(const struct virtx_lapic *l, uint64_t time);

/* Registers in the page show what they have become. */
static inline void lapic_show(struct virtx_lapic *l)
{
    if (__builtin_expect(lapic_in_page(l), 0))
        lapic_show_all(l);
}

void lapic_update_ppr(struct virtx_lapic *l);
void lapic_update_lint(struct virtx_lapic *l);
void lapic_error(struct virtx_lapic *l, uint32_t bits);
void lapic_raise(struct virtx_lapic *l, enum virtx_lapic_lvt entry);
void lapic_enter_reset_state(struct virtx_lapic *l);
bool lapic_write_base(struct virtx_lapic *l, uint64_t value);

void lapic_timer_reset(struct virtx_lapic *l);
void lapic_timer_sync(struct virtx_lapic *l, uint64_t now);
void lapic_timer_plan(struct virtx_lapic *l);
uint32_t lapic_timer_count(struct virtx_lapic *l, uint64_t now);
void lapic_timer_set_initial(struct virtx_lapic *l, uint32_t value, uint64_t now);
void lapic_timer_set_divide(struct virtx_lapic *l, uint32_t value, uint64_t now);
void lapic_timer_set_lvt(struct virtx_lapic *l, uint32_t value, uint64_t now);
void lapic_timer_set_deadline(struct virtx_lapic *l, uint64_t value, uint64_t now);

#endif
