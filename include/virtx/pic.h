/* SPDX-License-Identifier: BSD-2-Clause */
/**
 * @file pic.h
 * The pair of 8259A interrupt controllers of a PC, with the edge/level control registers.
 *
 * After the 8259A datasheet: all initialization and operation command words, every EOI and rotation
 * mode, special mask mode, special fully nested mode and polling. MCS-80 mode answers like 8086
 * mode.
 *
 * Concurrency: every call but init, attach and detach is safe from any CPU and from interrupt handlers (not NMI
 * handlers: there is a short lock inside, which is held while the output function is called).
 */
#ifndef VIRTX_PIC_H
#define VIRTX_PIC_H

#include <virtx/irq.h>
#include <virtx/status.h>

#ifdef __cplusplus
extern "C" {
#endif

struct virtx_vm;

/** One 8259A of the pair; part of struct virtx_pic. */
struct virtx_pic_chip {
    uint8_t irr;          /**< Interrupt requests. */
    uint8_t isr;          /**< Interrupts in service. */
    uint8_t imr;          /**< Interrupt mask. */
    uint8_t lines;        /**< Levels of the inputs. */
    uint8_t pulses;       /**< Inputs held high only until acknowledged. */
    uint8_t elcr;         /**< Inputs that are level triggered. */
    uint8_t base;         /**< Vector of input 0 (ICW2). */
    uint8_t icw3;         /**< Slave inputs (master) or identity (slave). */
    uint8_t icw4;         /**< ICW4. */
    uint8_t lowest;       /**< Input that has the lowest priority. */
    uint8_t init_step;    /**< The ICW that is expected next (2-4), or 0. */
    bool single;          /**< ICW1 said that there is no cascade. */
    bool need_icw4;       /**< ICW1 announced ICW4. */
    bool level_triggered; /**< ICW1 said that all inputs are level triggered. */
    bool read_isr;        /**< OCW3: status reads return ISR rather than IRR. */
    bool poll;            /**< OCW3: the next read is a poll. */
    bool special_mask;    /**< OCW3: special mask mode. */
    bool rotate_on_aeoi;  /**< OCW2: rotate in automatic EOI mode. */
};

/**
 * The pair. Initialize with virtx_pic_init(); the fields are read-only to the user.
 */
struct virtx_pic {
    struct virtx_pic_chip chip[2]; /**< Master and slave; the slave drives the master's input 2. */
    bool intr;                     /**< Level of the INT output. */
    uint8_t lock;                  /**< Held inside each call. Atomic. */
    bool offered_slave;            /**< virtx_pic_pending() last offered a slave's vector. */
    void (*output)(void *ctx, bool level); /**< Hears changes of the INT output. */
    void *ctx;                             /**< Passed to output. */
    struct virtx_intercept *ports[3];      /**< Of virtx_pic_attach(); NULL if detached. */
};

/**
 * Makes a pair that is idle and masks every input, but reads and writes its mask register: systems
 * look for a 8259A that way before they initialize it.
 * @param pic    the pair.
 * @param output called when the INT output changes; after an acknowledge it goes low and, if there
 *               is another request, high again. Must not call back into the pair. NULL for none.
 * @param ctx    passed to @p output.
 */
void virtx_pic_init(struct virtx_pic *pic, void (*output)(void *ctx, bool level), void *ctx);

/** @return whether the pair decodes @p port: 20H, 21H, A0H, A1H, 4D0H, 4D1H. */
bool virtx_pic_owns_port(uint16_t port);

/** Reads one byte from a port for which virtx_pic_owns_port() holds; FFH from others. */
uint8_t virtx_pic_read(struct virtx_pic *pic, uint16_t port);

/** Writes one byte to a port for which virtx_pic_owns_port() holds; ignores others. */
void virtx_pic_write(struct virtx_pic *pic, uint16_t port, uint8_t value);

/**
 * Drives an interrupt input. As on the 8259A, an edge-triggered input must stay high until it is
 * acknowledged, or the request goes away; use virtx_pic_pulse() for a source that cannot.
 * @param pic   the pair.
 * @param irq   0-15; 2 (the cascade) and higher numbers than 15 are ignored.
 * @param level the electrical level.
 */
void virtx_pic_set_irq(struct virtx_pic *pic, unsigned irq, bool level);

/** Raises an input and lets it fall when it is acknowledged. @p irq as in virtx_pic_set_irq(). */
void virtx_pic_pulse(struct virtx_pic *pic, unsigned irq);

/** @return the vector that an acknowledge cycle would yield now, or #VIRTX_IRQ_NONE. Consumes
 *  nothing. */
int virtx_pic_pending(struct virtx_pic *pic);

/**
 * The interrupt-acknowledge cycle.
 * @return the vector. If the request is gone it is the vector of input 7 with nothing put in
 *         service: the slave's (IRQ 15) if a slave's vector was offered last, else the master's.
 */
int virtx_pic_take(struct virtx_pic *pic);

/** A PIC pair as a source of interrupts, for virtx_vcpu_irq_source() or virtx_lapic_config::extint;
 *  the context is the struct virtx_pic. It has no task priority. */
extern const struct virtx_irq_source virtx_pic_irq_source;

/** All that the pair remembers; see virtx_pic_save(). */
struct virtx_pic_state {
    size_t size;                   /**< sizeof(struct virtx_pic_state). */
    struct virtx_pic_chip chip[2]; /**< Master and slave. */
    bool offered_slave;            /**< As in struct virtx_pic. */
};

/** Copies the whole state. */
void virtx_pic_save(struct virtx_pic *pic, struct virtx_pic_state *state);

/**
 * Replaces the whole state by a saved one; the output follows.
 * @param pic   the pair.
 * @param state the state, which may come from anywhere: it is checked.
 * @return false if no pair can be in that state; nothing changed then.
 */
bool virtx_pic_restore(struct virtx_pic *pic, const struct virtx_pic_state *state);

/**
 * Serves the six ports to the guests of a VM, inside run.
 * @param pic an initialized pair; it must outlive its attachment.
 * @param vm  the VM.
 * @return ::VIRTX_E_BUSY if it is attached already, or as virtx_vm_intercept(); nothing is attached
 *         then.
 */
enum virtx_status virtx_pic_attach(struct virtx_pic *pic, struct virtx_vm *vm);

/** Takes the ports away again. Fine if it is not attached. */
void virtx_pic_detach(struct virtx_pic *pic);

#ifdef __cplusplus
}
#endif

#endif
