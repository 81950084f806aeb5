/* SPDX-License-Identifier: BSD-2-Clause */
/**
 * @file irq.h
 * How interrupts travel between controllers: the message an APIC sends, and the bus that carries
 * such messages between the APICs of one VM.
 *
 * The controllers themselves are in lapic.h, ioapic.h and pic.h. All of them are plain structures
 * that the caller allocates; none of them allocates, blocks or keeps global state, and nothing a
 * guest writes to them can fail in a way that is fatal to the host. Towards a virtual CPU, a LAPIC
 * or a PIC pair is a ::virtx_irq_source (event.h), and the `attach` functions connect them to a VM.
 *
 * Concurrency: posting an interrupt to a LAPIC (virtx_apic_bus_deliver(), virtx_msi_deliver(),
 * virtx_lapic_accept()) is safe from any CPU at any time. Adding APICs to a bus needs every vcpu of
 * the VM stopped. Everything else is stated at each function.
 */
#ifndef VIRTX_IRQ_H
#define VIRTX_IRQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <virtx/event.h>

#ifdef __cplusplus
extern "C" {
#endif

struct virtx_lapic;
struct virtx_ioapic;

/** What virtx_irq_source::pending answers when there is no vector. */
#define VIRTX_IRQ_NONE (-1)

/** Delivery mode of an APIC message (Intel SDM, "Interrupt Command Register (ICR)"). */
enum virtx_apic_delivery {
    VIRTX_APIC_FIXED = 0,           /**< The vector, to every destination. */
    VIRTX_APIC_LOWEST_PRIORITY = 1, /**< The vector, to the destination of lowest priority. */
    VIRTX_APIC_SMI = 2,             /**< System-management interrupt. */
    VIRTX_APIC_RESERVED_MODE = 3,   /**< Reserved; never delivered. */
    VIRTX_APIC_NMI = 4,             /**< Non-maskable interrupt; the vector is ignored. */
    VIRTX_APIC_INIT = 5,            /**< INIT; the vector is ignored. */
    VIRTX_APIC_SIPI = 6,            /**< Start-up; the vector is the 4-KByte page to start at. */
    VIRTX_APIC_EXTINT = 7           /**< The vector comes from the external controller (8259). */
};

/** Destination shorthand of an APIC message. */
enum virtx_apic_shorthand {
    VIRTX_APIC_TO_DESTINATION = 0, /**< No shorthand: the destination field decides. */
    VIRTX_APIC_TO_SELF = 1,        /**< The sender only. */
    VIRTX_APIC_TO_ALL = 2,         /**< All APICs, the sender included. */
    VIRTX_APIC_TO_OTHERS = 3       /**< All APICs but the sender. */
};

/** virtx_apic_message::source of a message that no LAPIC sent (I/O APIC, MSI). */
#define VIRTX_APIC_NO_SOURCE UINT32_MAX

/** One message on the APIC bus: an IPI, an I/O APIC's interrupt or an MSI. */
struct virtx_apic_message {
    uint32_t destination; /**< APIC ID, or logical destination if @c logical. */
    uint32_t source;      /**< Initial APIC ID of the sending LAPIC, or #VIRTX_APIC_NO_SOURCE. */
    uint8_t vector;       /**< Vector, or start page of a SIPI. */
    uint8_t delivery;     /**< An enum virtx_apic_delivery value. */
    uint8_t shorthand;    /**< An enum virtx_apic_shorthand value. */
    bool logical;         /**< Destination mode: true logical, false physical. */
    bool wide;            /**< The destination has x2APIC's 32 bits (broadcast is all ones); if
                               false it has 8 bits (broadcast is FFH). */
    bool level;           /**< Level triggered: sets the TMR bit, so its EOI is broadcast. */
};

/**
 * The APICs of one VM. Initialize with virtx_apic_bus_init(); the fields are read-only to the user.
 */
struct virtx_apic_bus {
    struct virtx_lapic **lapics;  /**< The caller's table of LAPICs. */
    uint32_t capacity;            /**< Entries in the table. */
    uint32_t count;               /**< Entries in use. */
    struct virtx_ioapic *ioapics; /**< Chain of I/O APICs that hear EOI broadcasts. */
    uint32_t rotation;            /**< Breaks ties of lowest-priority delivery fairly. */
};

/**
 * Makes an empty bus.
 * @param bus      the bus.
 * @param table    room for @p capacity pointers, kept by the bus until the VM is gone.
 * @param capacity how many LAPICs the VM can have. Lookups are fastest when the LAPIC with ID n is
 *                 the n-th one added.
 */
void virtx_apic_bus_init(struct virtx_apic_bus *bus, struct virtx_lapic **table, uint32_t capacity);

/**
 * Puts a LAPIC on the bus and connects its IPIs and EOI broadcasts to it. The vcpus must be
 * stopped.
 * @return false if the table is full or an APIC with the same ID is there; nothing changed then.
 */
bool virtx_apic_bus_add_lapic(struct virtx_apic_bus *bus, struct virtx_lapic *lapic);

/**
 * Lets an I/O APIC hear the EOI broadcasts of the bus. The vcpus must be stopped.
 * @return false if it is on this bus already.
 */
bool virtx_apic_bus_add_ioapic(struct virtx_apic_bus *bus, struct virtx_ioapic *ioapic);

/**
 * Delivers a message to every LAPIC that it addresses (Intel SDM, "Determining IPI Destination").
 * Safe from any CPU.
 * @return how many LAPICs accepted it; 0 if nobody did. A LAPIC that is globally disabled accepts
 *         nothing, one that is software-disabled only NMI, SMI, INIT and SIPI; a vector below 16 is
 *         never accepted and recorded in the receiver's error status.
 */
uint32_t virtx_apic_bus_deliver(struct virtx_apic_bus *bus,
                                const struct virtx_apic_message *message);

/** Tells every I/O APIC on the bus that a LAPIC ended the level-triggered interrupt @p vector.
 *  Safe from any CPU. */
void virtx_apic_bus_eoi(struct virtx_apic_bus *bus, uint8_t vector);

/**
 * Takes an MSI or MSI-X message apart (Intel SDM, "Message Signalled Interrupts").
 * @param address the message address; bits 63:20 must be FEEH.
 * @param data    the message data.
 * @param message receives the message.
 * @return false if @p address is not an interrupt address, or if the message is the de-assertion of
 *         a level, which has no effect.
 */
bool virtx_msi_decode(uint64_t address, uint32_t data, struct virtx_apic_message *message);

/**
 * Delivers an MSI or MSI-X message. Safe from any CPU.
 * @return how many LAPICs accepted it; 0 also if virtx_msi_decode() refuses it.
 */
uint32_t virtx_msi_deliver(struct virtx_apic_bus *bus, uint64_t address, uint32_t data);

#ifdef __cplusplus
}
#endif

#endif
