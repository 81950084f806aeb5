/* SPDX-License-Identifier: BSD-2-Clause */
/**
 * @file ioapic.h
 * An I/O APIC of 24 pins.
 *
 * After the 82093AA I/O APIC datasheet; with version 20H also the EOI register of its successors.
 *
 * Concurrency: an I/O APIC is shared by the devices and all vcpus; every call but init, attach and detach is
 * safe from any CPU and from interrupt handlers (not NMI handlers: there is a short lock inside).
 */
#ifndef VIRTX_IOAPIC_H
#define VIRTX_IOAPIC_H

#include <virtx/irq.h>
#include <virtx/status.h>

#ifdef __cplusplus
extern "C" {
#endif

struct virtx_vm;

/** Number of input pins. */
#define VIRTX_IOAPIC_PINS 24u

/** Customary address of the first I/O APIC's registers. */
#define VIRTX_IOAPIC_DEFAULT_BASE 0xfec00000u

/** Size in bytes of the register window. */
#define VIRTX_IOAPIC_MMIO_SIZE 0x1000u

/** What an I/O APIC is made of; see virtx_ioapic_init(). */
struct virtx_ioapic_config {
    size_t size;          /**< sizeof(struct virtx_ioapic_config). */
    uint8_t version;      /**< 11H: 82093AA; 20H: with an EOI register. */
    uint8_t id;           /**< ID after reset, 0-15. */
    bool ignore_polarity; /**< true: virtx_ioapic_set_irq() says "asserted", whatever polarity the
                               guest programs (the custom of virtual machines); false: it says
                               what the wire's electrical level is. */
    struct virtx_apic_bus *bus; /**< Where interrupts go. Required. */
};

/**
 * An I/O APIC. Initialize with virtx_ioapic_init(); the fields are read-only to the user.
 */
struct virtx_ioapic {
    uint64_t redirection[VIRTX_IOAPIC_PINS]; /**< Redirection table, as the guest reads it. */
    uint32_t lines;                          /**< Levels of the input pins, one bit each. */
    uint32_t id;                             /**< ID register. */
    uint8_t select;                          /**< Register select (IOREGSEL). */
    uint8_t lock;                            /**< Held inside each call. Atomic. */
    struct virtx_ioapic_config config;       /**< As given to virtx_ioapic_init(). */
    struct virtx_ioapic *next;               /**< Next I/O APIC on the same bus. */
    struct virtx_intercept *window;          /**< Of virtx_ioapic_attach(); NULL if detached. */
};

/**
 * Makes an I/O APIC in its reset state (all pins masked and low) ; virtx_apic_bus_add_ioapic()
 * lets it hear EOIs.
 * @return false if the configuration is incomplete or out of range.
 */
bool virtx_ioapic_init(struct virtx_ioapic *ioapic, const struct virtx_ioapic_config *config);

/** Resets the registers; the input pins keep their levels. */
void virtx_ioapic_reset(struct virtx_ioapic *ioapic);

/**
 * Reads a register: IOREGSEL at offset 0, IOWIN at 10H; anything else reads 0.
 * @param ioapic the I/O APIC.
 * @param offset into the window.
 * @param size   1, 2, 4 or 8 bytes.
 * @return the value, zero-extended.
 */
uint64_t virtx_ioapic_mmio_read(struct virtx_ioapic *ioapic, uint32_t offset, unsigned size);

/**
 * Writes a register: IOREGSEL at offset 0, IOWIN at 10H (32 bits only), the EOI register at 40H
 * (version 20H); anything else is ignored.
 */
void virtx_ioapic_mmio_write(struct virtx_ioapic *ioapic, uint32_t offset, unsigned size,
                             uint64_t value);

/**
 * Drives an input pin. An edge that arrives while the pin is masked is lost; a level is delivered
 * when the pin is unmasked, and again after its EOI, as long as it is asserted.
 * @param ioapic the I/O APIC.
 * @param pin    0-23; others are ignored.
 * @param level  see virtx_ioapic_config::ignore_polarity.
 */
void virtx_ioapic_set_irq(struct virtx_ioapic *ioapic, unsigned pin, bool level);

/** A LAPIC ended level-triggered vector @p vector: clears Remote IRR of the pins that use it and
 *  delivers again what is still asserted. */
void virtx_ioapic_eoi(struct virtx_ioapic *ioapic, uint8_t vector);

/** All that an I/O APIC remembers; see virtx_ioapic_save(). */
struct virtx_ioapic_state {
    size_t size;                             /**< sizeof(struct virtx_ioapic_state). */
    uint64_t redirection[VIRTX_IOAPIC_PINS]; /**< Redirection table, as the guest reads it. */
    uint32_t lines;                          /**< Levels of the input pins, one bit each. */
    uint32_t id;                             /**< ID register. */
    uint8_t select;                          /**< Register select (IOREGSEL). */
};

/** Copies the whole state. Nobody uses the I/O APIC meanwhile, if it is to be that of one moment. */
void virtx_ioapic_save(struct virtx_ioapic *ioapic, struct virtx_ioapic_state *state);

/**
 * Replaces the whole state by a saved one. Restore the LAPICs first: a level that still waits to be sent
 * is sent.
 * @param ioapic the I/O APIC.
 * @param state  the state, which may come from anywhere: it is checked.
 * @return false if no I/O APIC can be in that state; nothing changed then.
 */
bool virtx_ioapic_restore(struct virtx_ioapic *ioapic, const struct virtx_ioapic_state *state);

/**
 * Serves the registers to the guests of a VM, inside run.
 * @param ioapic an initialized I/O APIC; it must outlive its attachment.
 * @param vm     the VM.
 * @param gpa    page-aligned guest-physical address, outside all slots; usually
 *               #VIRTX_IOAPIC_DEFAULT_BASE.
 * @return ::VIRTX_E_BUSY if it is attached already, ::VIRTX_E_ALIGN, or as virtx_vm_intercept().
 */
enum virtx_status virtx_ioapic_attach(struct virtx_ioapic *ioapic, struct virtx_vm *vm,
                                      uint64_t gpa);

/** Takes the registers away again. Fine if it is not attached. */
void virtx_ioapic_detach(struct virtx_ioapic *ioapic);

#ifdef __cplusplus
}
#endif

#endif
