/* SPDX-License-Identifier: BSD-2-Clause */
/* The I/O APIC model. */
#include <virtx/ioapic.h>

#include "core/util.h"
#include "irq/guard.h"

/* Redirection table entry (82093AA, "I/O Redirection Table Registers"). */
#define RTE_MODE_SHIFT  8
#define RTE_LOGICAL     (1ull << 11)
#define RTE_STATUS      (1ull << 12)
#define RTE_ACTIVE_LOW  (1ull << 13)
#define RTE_REMOTE_IRR  (1ull << 14)
#define RTE_LEVEL       (1ull << 15)
#define RTE_MASKED      (1ull << 16)
#define RTE_WRITABLE    0xff0000000001afffull

#define OFFSET_SELECT   0x00u
#define OFFSET_WINDOW   0x10u
#define OFFSET_EOI      0x40u

#define REG_ID          0x00u
#define REG_VERSION     0x01u
#define REG_ARBITRATION 0x02u
#define REG_REDIRECTION 0x10u

#define ID_MASK         0x0f000000u

bool virtx_ioapic_init(struct virtx_ioapic *ioapic, const struct virtx_ioapic_config *config)
{
    if (config->size != sizeof(*config) || config->bus == NULL || config->id > 15 ||
        (config->version != 0x11 && config->version != 0x20))
        return false;
    memset(ioapic, 0, sizeof(*ioapic));
    ioapic->config = *config;
    virtx_ioapic_reset(ioapic);
    return true;
}

void virtx_ioapic_reset(struct virtx_ioapic *ioapic)
{
    uint64_t flags = guard(&ioapic->lock);

    ioapic->select = 0;
    ioapic->id = (uint32_t)ioapic->config.id << 24;
    for (unsigned pin = 0; pin < VIRTX_IOAPIC_PINS; pin++)
        ioapic->redirection[pin] = RTE_MASKED;
    unguard(&ioapic->lock, flags);
}

static bool is_asserted(const struct virtx_ioapic *io, unsigned pin)
{
    bool high = (io->lines >> pin & 1) != 0;
    bool active_low = (io->redirection[pin] & RTE_ACTIVE_LOW) != 0;

    return io->config.ignore_polarity ? high : high != active_low;
}

/* NMI, SMI, INIT and ExtINT are edges however the pin is programmed. */
static bool is_level(uint64_t entry)
{
    unsigned mode = (entry >> RTE_MODE_SHIFT) & 7;

    return (entry & RTE_LEVEL) != 0 && mode <= VIRTX_APIC_LOWEST_PRIORITY;
}

static bool deliver(struct virtx_ioapic *io, uint64_t entry)
{
    struct virtx_apic_message message = {
        .destination = (uint32_t)(entry >> 56),
        .source = VIRTX_APIC_NO_SOURCE,
        .vector = (uint8_t)entry,
        .delivery = (entry >> RTE_MODE_SHIFT) & 7,
        .logical = (entry & RTE_LOGICAL) != 0,
        .level = is_level(entry),
    };

    return virtx_apic_bus_deliver(io->config.bus, &message) != 0;
}

/* Sends a level that waits to be sent. If nobody takes it the delivery status stays "send pending"
 * and the next occasion tries again. */
static void service_level(struct virtx_ioapic *io, unsigned pin)
{
    uint64_t *entry = &io->redirection[pin];

    *entry &= ~RTE_STATUS;
    if (!is_level(*entry) || (*entry & (RTE_MASKED | RTE_REMOTE_IRR)) != 0 || !is_asserted(io, pin))
        return;
    if (deliver(io, *entry))
        *entry |= RTE_REMOTE_IRR;
    else
        *entry |= RTE_STATUS;
}

void virtx_ioapic_set_irq(struct virtx_ioapic *ioapic, unsigned pin, bool level)
{
    bool was_asserted;
    uint64_t flags;

    if (pin >= VIRTX_IOAPIC_PINS)
        return;
    flags = guard(&ioapic->lock);
    was_asserted = is_asserted(ioapic, pin);
    if (level)
        ioapic->lines |= 1u << pin;
    else
        ioapic->lines &= ~(1u << pin);
    if (is_level(ioapic->redirection[pin]))
        service_level(ioapic, pin);
    else if (!was_asserted && is_asserted(ioapic, pin) &&
             (ioapic->redirection[pin] & RTE_MASKED) == 0)
        (void)deliver(ioapic, ioapic->redirection[pin]);
    unguard(&ioapic->lock, flags);
}

static void end_level(struct virtx_ioapic *ioapic, uint8_t vector)
{
    for (unsigned pin = 0; pin < VIRTX_IOAPIC_PINS; pin++) {
        uint64_t entry = ioapic->redirection[pin];

        if ((uint8_t)entry != vector || (entry & RTE_REMOTE_IRR) == 0)
            continue;
        ioapic->redirection[pin] &= ~RTE_REMOTE_IRR;
        service_level(ioapic, pin);
    }
}

void virtx_ioapic_eoi(struct virtx_ioapic *ioapic, uint8_t vector)
{
    uint64_t flags = guard(&ioapic->lock);

    end_level(ioapic, vector);
    unguard(&ioapic->lock, flags);
}

static uint32_t read_window(const struct virtx_ioapic *io)
{
    uint32_t reg = io->select;

    if (reg == REG_ID || reg == REG_ARBITRATION)
        return io->id;
    if (reg == REG_VERSION)
        return io->config.version | (VIRTX_IOAPIC_PINS - 1) << 16;
    if (reg >= REG_REDIRECTION && reg < REG_REDIRECTION + 2 * VIRTX_IOAPIC_PINS) {
        uint64_t entry = io->redirection[(reg - REG_REDIRECTION) / 2];

        return (uint32_t)(entry >> ((reg & 1) * 32));
    }
    return 0;
}

static void write_window(struct virtx_ioapic *io, uint32_t value)
{
    uint32_t reg = io->select;
    unsigned shift = (reg & 1) * 32;
    uint64_t *entry;
    uint64_t writable;

    if (reg == REG_ID)
        io->id = value & ID_MASK;
    if (reg < REG_REDIRECTION || reg >= REG_REDIRECTION + 2 * VIRTX_IOAPIC_PINS)
        return;
    entry = &io->redirection[(reg - REG_REDIRECTION) / 2];
    writable = RTE_WRITABLE & (uint64_t)UINT32_MAX << shift;
    *entry = (*entry & ~writable) | ((uint64_t)value << shift & writable);
    /* Remote IRR is "undefined for edge triggered interrupts"; chips drop it, and systems for
     * version 11H rely on that to end a level by software. */
    if (!is_level(*entry))
        *entry &= ~RTE_REMOTE_IRR;
    service_level(io, (reg - REG_REDIRECTION) / 2);
}

uint64_t virtx_ioapic_mmio_read(struct virtx_ioapic *ioapic, uint32_t offset, unsigned size)
{
    uint64_t flags = guard(&ioapic->lock);
    unsigned byte = offset & 3;
    uint32_t value = 0;

    if ((offset & ~3u) == OFFSET_SELECT)
        value = ioapic->select;
    else if ((offset & ~3u) == OFFSET_WINDOW)
        value = read_window(ioapic);
    unguard(&ioapic->lock, flags);
    value >>= byte * 8;
    if (size < 4)
        value &= (1u << (size * 8)) - 1;
    return value;
}

void virtx_ioapic_mmio_write(struct virtx_ioapic *ioapic, uint32_t offset, unsigned size,
                             uint64_t value)
{
    uint64_t flags = guard(&ioapic->lock);

    if (offset == OFFSET_SELECT)
        ioapic->select = (uint8_t)value;
    else if (offset == OFFSET_WINDOW && size == 4)
        write_window(ioapic, (uint32_t)value);
    else if (offset == OFFSET_EOI && ioapic->config.version >= 0x20)
        end_level(ioapic, (uint8_t)value);
    unguard(&ioapic->lock, flags);
}

void virtx_ioapic_save(struct virtx_ioapic *ioapic, struct virtx_ioapic_state *state)
{
    uint64_t flags = guard(&ioapic->lock);

    memset(state, 0, sizeof(*state));
    state->size = sizeof(*state);
    memcpy(state->redirection, ioapic->redirection, sizeof(state->redirection));
    state->lines = ioapic->lines;
    state->id = ioapic->id;
    state->select = ioapic->select;
    unguard(&ioapic->lock, flags);
}

/* Remote IRR is the level's alone. */
static bool entry_good(uint64_t entry)
{
    uint64_t may = RTE_WRITABLE | RTE_STATUS | (is_level(entry) ? RTE_REMOTE_IRR : 0);

    return (entry & ~may) == 0;
}

bool virtx_ioapic_restore(struct virtx_ioapic *ioapic, const struct virtx_ioapic_state *state)
{
    uint64_t flags;

    if (state->size != sizeof(*state) || (state->lines >> VIRTX_IOAPIC_PINS) != 0 ||
        (state->id & ~ID_MASK) != 0)
        return false;
    for (unsigned pin = 0; pin < VIRTX_IOAPIC_PINS; pin++) {
        if (!entry_good(state->redirection[pin]))
            return false;
    }
    flags = guard(&ioapic->lock);
    memcpy(ioapic->redirection, state->redirection, sizeof(ioapic->redirection));
    ioapic->lines = state->lines;
    ioapic->id = state->id;
    ioapic->select = state->select;
    for (unsigned pin = 0; pin < VIRTX_IOAPIC_PINS; pin++)
        service_level(ioapic, pin);
    unguard(&ioapic->lock, flags);
    return true;
}
