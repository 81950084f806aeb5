/* SPDX-License-Identifier: BSD-2-Clause */
/* The bus between the APICs of a VM: who is addressed, who accepts, and MSIs as messages on it. */
#include "irq/lapic_internal.h"

#include <virtx/ioapic.h>

#define BROADCAST_NARROW 0xffu
#define BROADCAST_WIDE   UINT32_MAX

static uint32_t bus_send(void *ctx, const struct virtx_apic_message *message)
{
    return virtx_apic_bus_deliver((struct virtx_apic_bus *)ctx, message);
}

static void bus_eoi(void *ctx, uint8_t vector)
{
    virtx_apic_bus_eoi((struct virtx_apic_bus *)ctx, vector);
}

void virtx_apic_bus_init(struct virtx_apic_bus *bus, struct virtx_lapic **table, uint32_t capacity)
{
    *bus = (struct virtx_apic_bus){.lapics = table, .capacity = capacity};
}

bool virtx_apic_bus_add_lapic(struct virtx_apic_bus *bus, struct virtx_lapic *lapic)
{
    if (bus->count == bus->capacity)
        return false;
    for (uint32_t i = 0; i < bus->count; i++) {
        if (bus->lapics[i]->id == lapic->id)
            return false;
    }
    bus->lapics[bus->count++] = lapic;
    virtx_lapic_connect(lapic, bus_send, bus_eoi, bus);
    return true;
}

bool virtx_apic_bus_add_ioapic(struct virtx_apic_bus *bus, struct virtx_ioapic *ioapic)
{
    for (struct virtx_ioapic *other = bus->ioapics; other != NULL; other = other->next) {
        if (other == ioapic)
            return false;
    }
    ioapic->next = bus->ioapics;
    bus->ioapics = ioapic;
    return true;
}

void virtx_apic_bus_eoi(struct virtx_apic_bus *bus, uint8_t vector)
{
    for (struct virtx_ioapic *ioapic = bus->ioapics; ioapic != NULL; ioapic = ioapic->next)
        virtx_ioapic_eoi(ioapic, vector);
}

static bool is_broadcast(const struct virtx_apic_message *m)
{
    return m->destination == (m->wide ? BROADCAST_WIDE : BROADCAST_NARROW);
}

/* Intel SDM, "Logical Destination Mode": eight flags, or four in one of fifteen clusters. */
static bool matches_xapic_logical(uint32_t ldr, uint32_t dfr, uint32_t destination)
{
    uint32_t id = ldr >> 24;

    if (destination > 0xff)
        return false;
    switch (dfr >> 28) {
    case 0xf:
        return (id & destination) != 0;
    case 0:
        return (destination >> 4 == 0xf || id >> 4 == destination >> 4) &&
               (id & destination & 0xf) != 0;
    default:
        return false; /* Reserved models. */
    }
}

bool virtx_lapic_matches(const struct virtx_lapic *lapic, const struct virtx_apic_message *message)
{
    uint32_t destination = message->destination;

    if (is_broadcast(message))
        return true;
    if (virtx_lapic_x2apic(lapic)) {
        if (!message->logical)
            return destination == lapic->id;
        return destination >> 16 == lapic->id >> 4 &&
               (destination & 0xffff & 1u << (lapic->id & 15)) != 0;
    }
    if (!message->logical)
        return destination == (lapic->id & 0xff);
    return matches_xapic_logical(__atomic_load_n(&lapic->ldr, __ATOMIC_RELAXED),
                                 __atomic_load_n(&lapic->dfr, __ATOMIC_RELAXED), destination);
}

static bool is_addressed(const struct virtx_lapic *l, const struct virtx_apic_message *m)
{
    switch (m->shorthand) {
    case VIRTX_APIC_TO_SELF:
        return l->id == m->source;
    case VIRTX_APIC_TO_ALL:
        return true;
    case VIRTX_APIC_TO_OTHERS:
        return l->id != m->source;
    default:
        return virtx_lapic_matches(l, m);
    }
}

static bool accepts_vectors(const struct virtx_lapic *l)
{
    return virtx_lapic_enabled(l) && (__atomic_load_n(&l->svr, __ATOMIC_RELAXED) & SVR_ENABLE) != 0;
}

/* The addressed LAPIC whose processor has the lowest priority; the search starts somewhere else
 * each time so that equals take turns. */
static struct virtx_lapic *lowest_priority(struct virtx_apic_bus *bus,
                                           const struct virtx_apic_message *m)
{
    uint32_t start = __atomic_fetch_add(&bus->rotation, 1, __ATOMIC_RELAXED);
    struct virtx_lapic *best = NULL;
    uint8_t best_priority = 0;

    for (uint32_t i = 0; i < bus->count; i++) {
        struct virtx_lapic *l = bus->lapics[(start + i) % bus->count];
        uint8_t priority = __atomic_load_n(&l->ppr, __ATOMIC_RELAXED);

        if (!is_addressed(l, m) || !accepts_vectors(l))
            continue;
        if (best == NULL || priority < best_priority) {
            best = l;
            best_priority = priority;
        }
    }
    return best;
}

/* Physical IDs mostly equal the place in the table: no search then. */
static struct virtx_lapic *direct(const struct virtx_apic_bus *bus,
                                  const struct virtx_apic_message *m)
{
    struct virtx_lapic *l;
    uint32_t id = m->shorthand == VIRTX_APIC_TO_SELF ? m->source : m->destination;

    if (m->shorthand > VIRTX_APIC_TO_SELF || id >= bus->count)
        return NULL;
    if (m->shorthand == VIRTX_APIC_TO_DESTINATION && (m->logical || is_broadcast(m)))
        return NULL;
    l = bus->lapics[id];
    return l->id == id ? l : NULL;
}

uint32_t virtx_apic_bus_deliver(struct virtx_apic_bus *bus,
                                const struct virtx_apic_message *message)
{
    enum virtx_apic_delivery delivery = (enum virtx_apic_delivery)message->delivery;
    struct virtx_lapic *only = direct(bus, message);
    uint32_t accepted = 0;

    if (only == NULL && delivery == VIRTX_APIC_LOWEST_PRIORITY) {
        only = lowest_priority(bus, message);
        if (only == NULL)
            return 0;
    }
    if (only != NULL)
        return virtx_lapic_accept(only, delivery, message->vector, message->level);
    for (uint32_t i = 0; i < bus->count; i++) {
        struct virtx_lapic *l = bus->lapics[i];

        if (is_addressed(l, message))
            accepted += virtx_lapic_accept(l, delivery, message->vector, message->level);
    }
    return accepted;
}

#define MSI_ADDRESS       0xfeeu
#define MSI_LOGICAL       (1u << 2)
#define MSI_REDIRECT_HINT (1u << 3)
#define MSI_ASSERT        (1u << 14)
#define MSI_LEVEL         (1u << 15)

bool virtx_msi_decode(uint64_t address, uint32_t data, struct virtx_apic_message *message)
{
    bool logical = (address & MSI_LOGICAL) != 0;

    if (address >> 20 != MSI_ADDRESS || (data & (MSI_LEVEL | MSI_ASSERT)) == MSI_LEVEL)
        return false;
    *message = (struct virtx_apic_message){
        .destination = (uint32_t)(address >> 12) & 0xff,
        .source = VIRTX_APIC_NO_SOURCE,
        .vector = (uint8_t)data,
        .delivery = (data >> 8) & 7,
        .logical = logical,
        .level = (data & MSI_LEVEL) != 0,
    };
    /* The redirection hint asks for one processor out of a logical set. */
    if (logical && (address & MSI_REDIRECT_HINT) != 0 && message->delivery == VIRTX_APIC_FIXED)
        message->delivery = VIRTX_APIC_LOWEST_PRIORITY;
    return true;
}

uint32_t virtx_msi_deliver(struct virtx_apic_bus *bus, uint64_t address, uint32_t data)
{
    struct virtx_apic_message message;

    if (!virtx_msi_decode(address, data, &message))
        return 0;
    return virtx_apic_bus_deliver(bus, &message);
}
