/* SPDX-License-Identifier: BSD-2-Clause */
/* The LAPIC's register file, as the xAPIC page and as the x2APIC MSRs. */
#include <stddef.h>
#include "irq/lapic_internal.h"

/* Register numbers: offset >> 4 in the page, MSR - 800H in x2APIC mode (Intel SDM, "Local APIC
 * Register Address Map"). */
enum {
    REG_ID = 0x02,
    REG_VERSION = 0x03,
    REG_TPR = 0x08,
    REG_APR = 0x09,
    REG_PPR = 0x0a,
    REG_EOI = 0x0b,
    REG_RRD = 0x0c,
    REG_LDR = 0x0d,
    REG_DFR = 0x0e,
    REG_SVR = 0x0f,
    REG_ISR = 0x10,
    REG_TMR = 0x18,
    REG_IRR = 0x20,
    REG_ESR = 0x28,
    REG_LVT_CMCI = 0x2f,
    REG_ICR = 0x30,
    REG_ICR_HIGH = 0x31,
    REG_LVT_TIMER = 0x32,
    REG_LVT_ERROR = 0x37,
    REG_INITIAL_COUNT = 0x38,
    REG_CURRENT_COUNT = 0x39,
    REG_DIVIDE = 0x3e,
    REG_SELF_IPI = 0x3f,
};

#define ICR_VECTOR          0xffu
#define ICR_LOGICAL         (1u << 11)
#define ICR_STATUS          (1u << 12)
#define ICR_ASSERT          (1u << 14)
#define ICR_LEVEL           (1u << 15)
#define ICR_SHORTHAND_SHIFT 18
#define ICR_WRITABLE        0x000ccfffu
#define ICR_XAPIC_DEST      0xff00000000000000ull

#define AT(field)           ((uint16_t)offsetof(struct virtx_lapic, field))
const uint16_t lapic_plain[LAPIC_REGISTERS] = {
    [REG_VERSION] = AT(version),
    [REG_LDR] = AT(ldr),
    [REG_DFR] = AT(dfr),
    [REG_SVR] = AT(svr),
    [REG_ESR] = AT(esr),
    [REG_ICR] = AT(icr),
    [REG_ICR_HIGH] = AT(icr) + 4,
    [REG_LVT_TIMER] = AT(lvt[0]),
    [REG_LVT_TIMER + 1] = AT(lvt[1]),
    [REG_LVT_TIMER + 2] = AT(lvt[2]),
    [REG_LVT_TIMER + 3] = AT(lvt[3]),
    [REG_LVT_TIMER + 4] = AT(lvt[4]),
    [REG_LVT_ERROR] = AT(lvt[5]),
    [REG_INITIAL_COUNT] = AT(timer_initial),
    [REG_DIVIDE] = AT(timer_divide),
};
_Static_assert(offsetof(struct virtx_lapic, regs) == 0, "0 stands for none");

uint32_t lapic_version(const struct virtx_lapic_config *config)
{
    uint32_t entries = (config->features & VIRTX_LAPIC_CMCI) ? 7 : 6;
    uint32_t value = 0x14 | (entries - 1) << 16;

    if (config->features & VIRTX_LAPIC_EOI_SUPPRESSION)
        value |= 1u << 24;
    return value;
}

/* Intel SDM, "Arbitration Priority". */
static uint8_t arbitration_priority(const struct virtx_lapic *l)
{
    uint8_t tpr = virtx_lapic_get_tpr(l) >> 4;
    uint8_t irr = l->irr_max >> 4;
    uint8_t isr = l->isr_max >> 4;
    uint8_t both = tpr & isr;

    if (tpr >= irr && tpr > isr)
        return virtx_lapic_get_tpr(l);
    return (uint8_t)((both > irr ? both : irr) << 4);
}

/* In x2APIC mode the LDR follows from the ID (Intel SDM, "Deriving Logical x2APIC ID from the Local
 * x2APIC ID"). */
uint32_t lapic_logical_x2apic_id(uint32_t id)
{
    return (id >> 4) << 16 | 1u << (id & 15);
}

static int lvt_index(const struct virtx_lapic *l, uint32_t reg)
{
    if (reg >= REG_LVT_TIMER && reg <= REG_LVT_ERROR)
        return (int)(reg - REG_LVT_TIMER);
    if (reg == REG_LVT_CMCI && (l->config.features & VIRTX_LAPIC_CMCI))
        return VIRTX_LAPIC_LVT_CMCI;
    return -1;
}

/* Registers that only one of the two modes has. */
static bool exists(uint32_t reg, bool x2apic)
{
    if (x2apic)
        return reg != REG_APR && reg != REG_RRD && reg != REG_DFR && reg != REG_ICR_HIGH;
    return reg != REG_SELF_IPI;
}

/* Reads what both modes have in common; false: there is nothing to read there. */
static inline bool read_register(struct virtx_lapic *l, uint32_t reg, bool x2apic, uint64_t now,
                                 uint64_t *value)
{
    int lvt;

    /* The commonest of all; it exists in both modes. */
    if (reg == REG_TPR) {
        *value = l->regs[LAPIC_TPR];
        return true;
    }
    if (!exists(reg, x2apic))
        return false;
    if (reg >= REG_ISR && reg < REG_ESR) {
        lapic_fold(l);
        *value = l->regs[reg * 4];
        return true;
    }
    switch (reg) {
    case REG_ID:
        *value = x2apic ? l->id : (uint64_t)(l->id & 0xff) << 24;
        return true;
    case REG_VERSION:
        *value = l->version;
        return true;
    case REG_APR:
        lapic_fold(l);
        *value = arbitration_priority(l);
        return true;
    case REG_PPR:
        lapic_fold(l);
        *value = l->ppr;
        return true;
    case REG_RRD:
        *value = 0;
        return true;
    case REG_LDR:
        *value = x2apic ? lapic_logical_x2apic_id(l->id) : l->ldr;
        return true;
    case REG_DFR:
        *value = l->dfr;
        return true;
    case REG_SVR:
        *value = l->svr;
        return true;
    case REG_ESR:
        *value = l->esr;
        return true;
    case REG_ICR:
        lapic_fold(l);
        *value = x2apic ? l->icr : (uint32_t)l->icr;
        return true;
    case REG_ICR_HIGH:
        lapic_fold(l);
        *value = l->icr >> 32;
        return true;
    case REG_INITIAL_COUNT:
        *value = l->timer_initial;
        return true;
    case REG_CURRENT_COUNT:
        *value = lapic_timer_count(l, now);
        return true;
    case REG_DIVIDE:
        *value = l->timer_divide;
        return true;
    default:
        break;
    }
    lvt = lvt_index(l, reg);
    if (lvt < 0)
        return false;
    *value = l->lvt[lvt];
    return true;
}

/* Whether the ICR may send this (Intel SDM, "Valid Combinations for the Pentium 4 and Intel Xeon
 * Processors' Local xAPIC Interrupt Command Register"). */
static bool sendable(const struct virtx_apic_message *m)
{
    switch (m->delivery) {
    case VIRTX_APIC_FIXED:
        return true;
    case VIRTX_APIC_LOWEST_PRIORITY:
    case VIRTX_APIC_SMI:
    case VIRTX_APIC_NMI:
    case VIRTX_APIC_INIT:
    case VIRTX_APIC_SIPI:
        return m->shorthand == VIRTX_APIC_TO_DESTINATION || m->shorthand == VIRTX_APIC_TO_OTHERS;
    default:
        return false;
    }
}

static void send_ipi(struct virtx_lapic *l, bool x2apic)
{
    uint32_t low = (uint32_t)l->icr;
    struct virtx_apic_message message = {
        .destination = (uint32_t)(x2apic ? l->icr >> 32 : l->icr >> 56),
        .source = l->id,
        .vector = low & ICR_VECTOR,
        .delivery = (uint8_t)lvt_mode(low),
        .shorthand = (low >> ICR_SHORTHAND_SHIFT) & 3,
        .logical = (low & ICR_LOGICAL) != 0,
        .wide = x2apic,
        .level = false, /* IPIs are edges whatever the ICR says. */
    };

    /* INIT level de-assert: nothing to do since the Pentium 4. */
    if (message.delivery == VIRTX_APIC_INIT && (low & (ICR_ASSERT | ICR_LEVEL)) == ICR_LEVEL)
        return;
    if (!sendable(&message))
        return;
    if (message.delivery <= VIRTX_APIC_LOWEST_PRIORITY && message.vector < FIRST_LEGAL_VECTOR)
        lapic_error(l, ESR_SEND_ILLEGAL_VECTOR);
    (void)l->send(l->bus_ctx, &message);
}

uint32_t lapic_svr_writable(const struct virtx_lapic *l)
{
    uint32_t suppression = l->config.features & VIRTX_LAPIC_EOI_SUPPRESSION ? SVR_SUPPRESS_EOI : 0;

    return 0xff | SVR_ENABLE | suppression;
}

static bool write_svr(struct virtx_lapic *l, uint32_t value, bool x2apic)
{
    uint32_t writable = lapic_svr_writable(l);

    if (x2apic && (value & ~writable) != 0)
        return false;
    __atomic_store_n(&l->svr, value & writable, __ATOMIC_RELAXED);
    if ((value & SVR_ENABLE) == 0) {
        for (unsigned i = 0; i < VIRTX_LAPIC_LVT_COUNT; i++)
            lapic_set_lvt(l, i, l->lvt[i] | LVT_MASKED);
        lapic_timer_plan(l);
        lapic_update_lint(l);
    }
    return true;
}

uint32_t lapic_lvt_writable(const struct virtx_lapic *l, int lvt)
{
    switch (lvt) {
    case VIRTX_LAPIC_LVT_TIMER:
        if (l->config.features & VIRTX_LAPIC_TSC_DEADLINE)
            return 0xff | LVT_MASKED | LVT_TIMER_MODE;
        return 0xff | LVT_MASKED | LVT_TIMER_PERIODIC;
    case VIRTX_LAPIC_LVT_ERROR:
        return 0xff | LVT_MASKED;
    case VIRTX_LAPIC_LVT_LINT0:
    case VIRTX_LAPIC_LVT_LINT1:
        return 0x7ff | LVT_ACTIVE_LOW | LVT_LEVEL | LVT_MASKED;
    default:
        return 0x7ff | LVT_MASKED;
    }
}

static bool write_lvt(struct virtx_lapic *l, int lvt, uint32_t value, bool x2apic, uint64_t now)
{
    uint32_t writable = lapic_lvt_writable(l, lvt);
    uint32_t read_only = LVT_STATUS;

    if (lvt == VIRTX_LAPIC_LVT_LINT0 || lvt == VIRTX_LAPIC_LVT_LINT1)
        read_only |= LVT_REMOTE_IRR;
    if (x2apic && (value & ~(writable | read_only)) != 0)
        return false;
    value &= writable;
    /* Software-disabled: the mask bits cannot be cleared (Intel SDM, "Local APIC State After It Has
     * Been Software Disabled"). */
    if ((l->svr & SVR_ENABLE) == 0)
        value |= LVT_MASKED;
    if (lvt == VIRTX_LAPIC_LVT_TIMER) {
        lapic_timer_set_lvt(l, value, now);
        return true;
    }
    /* Remote IRR is the hardware's, and has a meaning only while LINT0 is a fixed level. */
    if (lvt_mode(value) == VIRTX_APIC_FIXED && (value & LVT_LEVEL) != 0)
        value |= l->lvt[lvt] & LVT_REMOTE_IRR;
    /* Either who moves a pin sees the new entry, or lapic_update_lint() the pin where it is now. */
    __atomic_exchange_n(&l->lvt[lvt], value, __ATOMIC_SEQ_CST);
    if (lvt == VIRTX_LAPIC_LVT_LINT0 || lvt == VIRTX_LAPIC_LVT_LINT1)
        lapic_update_lint(l);
    return true;
}

static bool write_icr(struct virtx_lapic *l, uint64_t value, bool x2apic)
{
    if (x2apic) {
        /* The delivery status is gone in x2APIC mode; a one there is ignored, not refused. */
        if (((uint32_t)value & ~(ICR_WRITABLE | ICR_STATUS)) != 0)
            return false;
        l->icr = value & ~(uint64_t)ICR_STATUS;
    } else {
        l->icr = (l->icr & ~(uint64_t)UINT32_MAX) | ((uint32_t)value & ICR_WRITABLE);
    }
    send_ipi(l, x2apic);
    return true;
}

static void self_ipi(struct virtx_lapic *l, uint8_t vector)
{
    struct virtx_apic_message message = {
        .source = l->id,
        .vector = vector,
        .delivery = VIRTX_APIC_FIXED,
        .shorthand = VIRTX_APIC_TO_SELF,
        .wide = true,
    };

    if (vector < FIRST_LEGAL_VECTOR)
        lapic_error(l, ESR_SEND_ILLEGAL_VECTOR);
    (void)l->send(l->bus_ctx, &message);
}

/* Writes a register; false in x2APIC mode: #GP. In xAPIC mode false means that there is none. */
static bool write_register(struct virtx_lapic *l, uint32_t reg, uint64_t value, bool x2apic,
                           uint64_t now)
{
    int lvt;

    if (!exists(reg, x2apic))
        return false;
    if (x2apic && reg != REG_ICR && value > UINT32_MAX)
        return false;
    switch (reg) {
    case REG_TPR:
        if (x2apic && value > 0xff)
            return false;
        virtx_lapic_set_tpr(l, (uint8_t)value);
        return true;
    case REG_EOI:
        if (x2apic && value != 0)
            return false;
        virtx_lapic_eoi(l);
        return true;
    case REG_LDR:
        if (x2apic)
            return false;
        __atomic_store_n(&l->ldr, (uint32_t)value & 0xff000000u, __ATOMIC_RELAXED);
        return true;
    case REG_DFR:
        __atomic_store_n(&l->dfr, (uint32_t)value | 0x0fffffffu, __ATOMIC_RELAXED);
        return true;
    case REG_SVR:
        return write_svr(l, (uint32_t)value, x2apic);
    case REG_ESR:
        if (x2apic && value != 0)
            return false;
        lapic_fold(l);
        l->esr = l->esr_pending;
        l->esr_pending = 0;
        return true;
    case REG_ICR:
        return write_icr(l, value, x2apic);
    case REG_ICR_HIGH:
        l->icr = (uint32_t)l->icr | ((value << 32) & ICR_XAPIC_DEST);
        return true;
    case REG_INITIAL_COUNT:
        lapic_timer_set_initial(l, (uint32_t)value, now);
        return true;
    case REG_DIVIDE:
        if (x2apic && (value & ~0xbull) != 0)
            return false;
        lapic_timer_set_divide(l, (uint32_t)value & 0xb, now);
        return true;
    case REG_SELF_IPI:
        if (value > 0xff)
            return false;
        self_ipi(l, (uint8_t)value);
        return true;
    default:
        break;
    }
    lvt = lvt_index(l, reg);
    return lvt >= 0 && write_lvt(l, lvt, (uint32_t)value, x2apic, now);
}

/* In xAPIC mode touching a register of the wrong direction is harmless and no error. */
static bool one_way(uint32_t reg, bool write)
{
    if (!write)
        return reg == REG_EOI;
    return reg == REG_ID || reg == REG_VERSION || reg == REG_APR || reg == REG_PPR ||
           reg == REG_RRD || (reg >= REG_ISR && reg < REG_ESR) || reg == REG_CURRENT_COUNT;
}

uint64_t virtx_lapic_mmio_read(struct virtx_lapic *lapic, uint32_t offset, unsigned size,
                               uint64_t now)
{
    uint32_t reg = (offset & 0xfff) >> 4;
    unsigned byte = offset & 15;
    uint64_t value = 0;

    if (byte > 3)
        return 0;
    if (!read_register(lapic, reg, false, now, &value) && !one_way(reg, false))
        lapic_error(lapic, ESR_ILLEGAL_REGISTER);
    value = (uint32_t)value >> (byte * 8);
    if (size < 4)
        value &= (1u << (size * 8)) - 1;
    return value;
}

void virtx_lapic_mmio_write(struct virtx_lapic *lapic, uint32_t offset, unsigned size,
                            uint64_t value, uint64_t now)
{
    uint32_t reg = (offset & 0xfff) >> 4;

    if (size != 4 || (offset & 15) != 0)
        return;
    if (!write_register(lapic, reg, (uint32_t)value, false, now) && !one_way(reg, true))
        lapic_error(lapic, ESR_ILLEGAL_REGISTER);
}

/* A register that the guest has written in the page, in either mode. */
void lapic_write(struct virtx_lapic *l, uint32_t reg, uint32_t value, uint64_t now)
{
    bool x2apic = virtx_lapic_x2apic(l);

    if (!write_register(l, reg, value, x2apic, now) && !x2apic && !one_way(reg, true))
        lapic_error(l, ESR_ILLEGAL_REGISTER);
}

bool virtx_lapic_owns_msr(uint32_t msr)
{
    return msr == MSR_APIC_BASE || msr == MSR_TSC_DEADLINE ||
           (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST);
}

bool virtx_lapic_msr_read(struct virtx_lapic *lapic, uint32_t msr, uint64_t now, uint64_t *value)
{
    if (msr == MSR_APIC_BASE) {
        *value = lapic->base;
        return true;
    }
    if (msr == MSR_TSC_DEADLINE) {
        if ((lapic->config.features & VIRTX_LAPIC_TSC_DEADLINE) == 0)
            return false;
        lapic_timer_sync(lapic, now);
        *value = lapic->tsc_deadline;
        return true;
    }
    if (!virtx_lapic_x2apic(lapic) || msr < MSR_X2APIC_FIRST || msr > MSR_X2APIC_LAST)
        return false;
    return read_register(lapic, msr - MSR_X2APIC_FIRST, true, now, value);
}

bool virtx_lapic_msr_write(struct virtx_lapic *lapic, uint32_t msr, uint64_t now, uint64_t value)
{
    if (msr == MSR_APIC_BASE)
        return lapic_write_base(lapic, value);
    if (msr == MSR_TSC_DEADLINE) {
        if ((lapic->config.features & VIRTX_LAPIC_TSC_DEADLINE) == 0)
            return false;
        lapic_timer_set_deadline(lapic, value, now);
        return true;
    }
    if (!virtx_lapic_x2apic(lapic) || msr < MSR_X2APIC_FIRST || msr > MSR_X2APIC_LAST)
        return false;
    return write_register(lapic, msr - MSR_X2APIC_FIRST, value, true, now);
}
