/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * @brief Events that are delivered through the guest's IDT, and where interrupts come from.
 *
 * The event queue of a vcpu holds at most one exception, one NMI being delivered and one more
 * latched, and asks the attached ::virtx_irq_source for external interrupts. Priorities are those of
 * Intel SDM "Prioritization of Concurrent Events": an event whose delivery an exit interrupted goes first, then
 * exceptions, NMI, external interrupts. What cannot be delivered yet waits for its window; the
 * embedder never handles windows.
 */
#ifndef VIRTX_EVENT_H
#define VIRTX_EVENT_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct virtx_vcpu;

/** @brief Kinds of events; the values are those of the VM-entry interruption type. */
enum virtx_event_type {
    VIRTX_EVENT_INTERRUPT = 0,      /**< External interrupt. */
    VIRTX_EVENT_NMI = 2,            /**< Non-maskable interrupt, vector 2. */
    VIRTX_EVENT_EXCEPTION = 3,      /**< Hardware exception. */
    VIRTX_EVENT_SOFT_INTERRUPT = 4, /**< INT n; RIP is at the instruction, `length` its size. */
    VIRTX_EVENT_PRIV_EXCEPTION = 5, /**< INT1 (ICEBP). */
    VIRTX_EVENT_SOFT_EXCEPTION = 6, /**< INT3, INTO. */
};

/** @brief One event. */
struct virtx_event {
    uint8_t type;      /**< ::virtx_event_type. */
    uint8_t vector;    /**< 0 to 255; 2 for an NMI; 0 to 31 for exceptions. */
    bool has_error;    /**< An error code is pushed. Must agree with the vector and the mode. */
    uint8_t length;    /**< Instruction length for software events, 1 to 15; else 0. */
    uint32_t error;    /**< The error code. */
    uint64_t address;  /**< CR2 for \#PF, the DR6 bits to set for \#DB; else ignored. */
};

/**
 * @brief What is on its way to a vcpu and in none of its registers; see virtx_vcpu_events_get().
 *
 * The order is that of delivery. What an attached ::virtx_irq_source holds is not here.
 */
struct virtx_events {
    struct virtx_event interrupted; /**< An event whose delivery an exit has interrupted: the next entry delivers
                                         it, before everything else but `exception`: that is the second one of a
                                         delivery, merged with it or before it. Valid with `has_interrupted`. */
    struct virtx_event exception;   /**< Waits for the next entry. Valid with `has_exception`. */
    struct virtx_event interrupt;   /**< An external interrupt queued by virtx_vcpu_inject(), which waits for
                                         RFLAGS.IF. Valid with `has_interrupt`. */
    bool has_interrupted;           /**< `interrupted` is there. */
    bool has_exception;             /**< `exception` is there. */
    bool has_interrupt;             /**< `interrupt` is there. */
    bool window;                    /**< virtx_vcpu_window() has been asked for. */
    bool init;                      /**< An INIT signal waits. */
    bool sipi;                      /**< A start-up IPI waits, with `sipi_vector`. */
    uint8_t sipi_vector;            /**< Its page, 0 to 255. */
    uint8_t nmis;                   /**< NMIs that wait: 0 to 2, or 0 to 1 while one is handled. */
};

/**
 * @brief What a local APIC does to let the processor help with its registers; see virtx_irq_source::apic.
 *
 * Where the processor has such help, the vcpu has a page for the controller's registers, arranged as those of
 * an xAPIC (Intel SDM "APIC Register Address Map"). While they are there, TPR, IRR, ISR and TMR are nowhere
 * else: the processor reads and writes them while the guest runs, the controller when it does not. The other
 * registers are the controller's, and the page has what the guest reads of them. All calls are made on
 * the vcpu's thread or while the vcpu is stopped. No intercept sees an access that the processor serves; which
 * ones these are depends on the processor (::VIRTX_FEATURE_VIRTUAL_X2APIC and the like can be switched off).
 */
struct virtx_irq_apic {
    /** TPR, IRR, ISR and TMR are in @p page from now on, and all registers can be read there; NULL: in the
     *  controller's own memory again. The page holds anything before and is 4096 bytes. */
    void (*move)(void *ctx, void *page);
    /** IA32_APIC_BASE. A change of its mode or address is announced with virtx_vcpu_irq_changed(). */
    uint64_t (*base)(void *ctx);
    /** As virtx_irq_source::pending, of vectors that do not come from IRR (ExtINT) only: for while the
     *  processor delivers those by itself. What others have posted is in IRR and TMR when it returns. */
    int (*external)(void *ctx);
    /** Whether IRR, ISR or TMR are not as the processor left them, or as they were when this was last asked.
     *  Asked before each entry that events are looked at for, after `external`; what is not told so is not
     *  delivered. */
    bool (*changed)(void *ctx);
    /** The guest has written the register at @p offset, and the value is in the page. In xAPIC mode the high
     *  half of the ICR may have been written without notice. */
    void (*written)(void *ctx, uint32_t offset);
    /** The processor has ended interrupt @p vector, which TMR says is level triggered. */
    void (*ended)(void *ctx, uint8_t vector);
};

/**
 * @brief A controller of external interrupts, as the event queue sees it.
 *
 * Hand-over has two phases: `pending` consumes nothing and may be asked any number of times; `take`
 * happens only when the entry that delivers the vector is certain. All but what the controller
 * does itself happens on the vcpu's own thread. A controller whose answer may have changed calls
 * virtx_vcpu_irq_changed(), from any CPU.
 */
struct virtx_irq_source {
    /** The vector that would be delivered now by the controller's own priorities (0 to 255), or -1. */
    int (*pending)(void *ctx);
    /** Acknowledge: returns the vector to deliver (a spurious one is possible), or -1. */
    int (*take)(void *ctx);
    /** The task-priority register: CR8 is its bits 7:4. NULL: the library keeps a CR8 without effect. */
    uint8_t (*tpr)(void *ctx);
    /** The guest wrote it. A write of CR8 clears bits 3:0. */
    void (*set_tpr)(void *ctx, uint8_t tpr);
    /** The priority class (1 to 15) of the interrupt that nothing but CR8 holds back, so that it becomes
     *  pending when the guest lowers CR8 below that; 0: there is none. Consumes nothing. NULL: the library finds
     *  out, with `set_tpr` and `pending`. */
    uint8_t (*tpr_threshold)(void *ctx);
    /** The processor has taken an INIT: the controller takes it too. NULL: nothing to do. */
    void (*init)(void *ctx);
    /** For a local APIC that lets the processor help: what it must do for that. NULL: all accesses
     *  to its registers exit, and interrupts are taken with `take`. Needs `tpr` and `set_tpr`. */
    const struct virtx_irq_apic *apic;
    /** The time of the host's TSC at which `pending` will have another answer by itself, as a timer's; UINT64_MAX:
     *  never. It is asked right after `pending`, and again when virtx_vcpu_irq_changed() says that it may be another.
     *  With ::VIRTX_FEATURE_TIMER the guest is interrupted at that time, and no timer of the host need be armed while
     *  it is in run. Without, or while the guest halts, that is left to the embedder; `pending` is asked again
     *  after the first host interrupt that run takes from that time on. NULL: it has no such time. */
    uint64_t (*deadline)(void *ctx);
};

#ifdef __cplusplus
}
#endif
#endif
