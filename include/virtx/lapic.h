/* SPDX-License-Identifier: BSD-2-Clause */
/**
 * @file lapic.h
 * A local APIC: xAPIC and x2APIC registers, its timer, local interrupts and IPIs.
 *
 * After the Intel SDM, chapter "Advanced Programmable Interrupt Controller (APIC)". Time is handed
 * in: @c now is the host's time-stamp counter as the guest would count it before any offset, in
 * ticks; it must not go backwards on one LAPIC.
 *
 * A LAPIC can be used by itself, or attached to a vcpu with virtx_lapic_attach(), which then serves
 * the guest's accesses inside run and hands over the interrupts.
 *
 * Concurrency: virtx_lapic_accept() and virtx_lapic_set_lint() are safe from any CPU. Everything
 * else belongs to the thread that runs the vcpu (or needs the vcpu stopped). After any call of its
 * own that thread asks virtx_lapic_pending() again before it enters the guest; the @c changed
 * callback tells it of what others did.
 */
#ifndef VIRTX_LAPIC_H
#define VIRTX_LAPIC_H

#include <virtx/irq.h>
#include <virtx/status.h>

#ifdef __cplusplus
extern "C" {
#endif

struct virtx_vcpu;
struct virtx_intercept;

/** Features a LAPIC may have; a bitmask in virtx_lapic_config::features. */
enum virtx_lapic_feature {
    VIRTX_LAPIC_X2APIC = 1 << 0,       /**< x2APIC mode (CPUID.01H:ECX[21]). */
    VIRTX_LAPIC_TSC_DEADLINE = 1 << 1, /**< TSC-deadline timer (CPUID.01H:ECX[24]). */
    VIRTX_LAPIC_EOI_SUPPRESSION = 1
                                  << 2, /**< EOI-broadcast suppression (version register bit 24). */
    VIRTX_LAPIC_CMCI = 1 << 3           /**< The LVT entry for corrected machine checks. */
};

/** Entries of the local vector table. */
enum virtx_lapic_lvt {
    VIRTX_LAPIC_LVT_TIMER = 0,   /**< Timer, offset 320H. */
    VIRTX_LAPIC_LVT_THERMAL = 1, /**< Thermal sensor, offset 330H. */
    VIRTX_LAPIC_LVT_PMC = 2,     /**< Performance counters, offset 340H. */
    VIRTX_LAPIC_LVT_LINT0 = 3,   /**< Pin LINT0, offset 350H. */
    VIRTX_LAPIC_LVT_LINT1 = 4,   /**< Pin LINT1, offset 360H. */
    VIRTX_LAPIC_LVT_ERROR = 5,   /**< APIC error, offset 370H. */
    VIRTX_LAPIC_LVT_CMCI = 6,    /**< Corrected machine check, offset 2F0H. */
    VIRTX_LAPIC_LVT_COUNT = 7    /**< Number of entries. */
};

/** virtx_lapic_deadline() of a timer that will not fire. */
#define VIRTX_LAPIC_NO_DEADLINE UINT64_MAX

/** Size in bytes of the xAPIC register page. */
#define VIRTX_LAPIC_MMIO_SIZE 0x1000u

/** The power-up base address of the register page. */
#define VIRTX_LAPIC_DEFAULT_BASE 0xfee00000u

/** What a LAPIC is made of; see virtx_lapic_init(). */
struct virtx_lapic_config {
    size_t size;           /**< sizeof(struct virtx_lapic_config). */
    uint32_t id;           /**< Initial (x2)APIC ID; the xAPIC ID is its low 8 bits. */
    uint32_t features;     /**< enum virtx_lapic_feature bits. */
    uint8_t address_bits;  /**< MAXPHYADDR (32-52) for the check of IA32_APIC_BASE. */
    bool bsp;              /**< This is the bootstrap processor. */
    uint32_t bus_multiply; /**< Timer (bus) clocks = ticks * bus_multiply / bus_divide; not 0. */
    uint32_t bus_divide;   /**< See bus_multiply; not 0. */
    uint64_t min_period;   /**< Lower bound, in ticks, between two deadlines that a periodic timer
                                asks its user to wake up for; 0 for none. The counter the guest
                                reads is not affected. */
    void *ctx;             /**< Passed to the two functions below. */
    /** The answer of virtx_lapic_pending() may have changed: something arrived, or the timer was
     *  found expired. Called on any CPU; must lead to another virtx_lapic_pending() before
     *  the guest runs on, so it ends in making a running vcpu exit. Required. */
    void (*changed)(void *ctx);
    /** An NMI, SMI, INIT or SIPI (@p vector is the start page) arrived for the processor. Called on
     *  any CPU. On INIT the vcpu's thread is expected to call virtx_lapic_reset(). Required. */
    void (*event)(void *ctx, enum virtx_apic_delivery kind, uint8_t vector);
    /** The controller whose vectors ExtINT delivers: the 8259 pair. NULL if there is none. */
    const struct virtx_irq_source *extint;
    void *extint_ctx; /**< Passed to the functions of extint. */
};

/**
 * A local APIC. Initialize with virtx_lapic_init(); the fields are read-only to the user and public
 * only so that the structure can be allocated anywhere.
 */
struct virtx_lapic {
    uint32_t *regs; /**< TPR, ISR, TMR and IRR, at a quarter of their offset in the register page: `own`,
                         or the page that the processor keeps them in too (::virtx_irq_apic). */
    uint8_t irr_max; /**< Highest vector in IRR, 0 if none (vectors below 16 never get in). */
    uint8_t isr_max; /**< Highest vector in ISR, 0 if none. */
    uint8_t ppr;     /**< Processor-priority register, kept current. */

    uint32_t attention;      /**< Bit 0: the inbox below holds something to fold in; bit 1: `regs` is the
                                  processor's page. Atomic. */
    uint32_t inbox_error;    /**< Errors detected while receiving. Atomic. */
    uint64_t inbox_edge[4];  /**< Edge-triggered requests posted by any CPU. Atomic. */
    uint64_t inbox_level[4]; /**< Level-triggered requests posted by any CPU. Atomic. */

    uint64_t base;                       /**< IA32_APIC_BASE. */
    uint64_t icr;                        /**< Interrupt command register. */
    uint32_t id;                         /**< Initial APIC ID. */
    uint32_t version;                    /**< Version register. */
    uint32_t ldr;                        /**< Logical destination register. */
    uint32_t dfr;                        /**< Destination format register. */
    uint32_t svr;                        /**< Spurious-interrupt vector register. */
    uint32_t esr;                        /**< Error status as the guest reads it. */
    uint32_t esr_pending;                /**< Errors since the last write of the error status. */
    uint32_t lvt[VIRTX_LAPIC_LVT_COUNT]; /**< Local vector table. */
    uint8_t lint_lines;                  /**< Levels of LINT0 (bit 0) and LINT1 (bit 1). Atomic. */
    uint8_t extint_pins;    /**< Which of the two are programmed as ExtINT and unmasked. */
    uint8_t extint_message; /**< An ExtINT message waits for its acknowledge cycle. Atomic. */
    uint8_t lint_moved;     /**< LINT0 moved while level triggered: look at it again. Atomic. */

    bool timer_running;        /**< The counter counts (one-shot and periodic modes). */
    uint32_t timer_initial;    /**< Initial-count register. */
    uint32_t timer_divide;     /**< Divide-configuration register. */
    uint64_t timer_base;       /**< Time at which the count below started. */
    uint64_t timer_next;       /**< Divided clocks from timer_base to the next expiry. */
    uint64_t timer_not_before; /**< Earliest wake-up that virtx_lapic_config::min_period allows. */
    uint64_t tsc_deadline;     /**< IA32_TSC_DEADLINE, 0 when disarmed. */
    uint64_t tsc_offset;       /**< Guest TSC minus @c now. */
    uint64_t deadline;         /**< Time of the next timer interrupt. */

    struct virtx_lapic_config config; /**< As given to virtx_lapic_init(). */
    /** Where IPIs go; returns how many accepted. */
    uint32_t (*send)(void *ctx, const struct virtx_apic_message *message);
    void (*broadcast_eoi)(void *ctx, uint8_t vector); /**< Where EOIs of level interrupts go. */
    void *bus_ctx;                                    /**< Passed to send and broadcast_eoi. */

    void (*restored)(struct virtx_lapic *lapic, uint64_t old_base); /**< Of virtx_lapic_attach(). */
    struct virtx_vcpu *vcpu;         /**< Of virtx_lapic_attach(); NULL if detached. */
    struct virtx_intercept *page;    /**< Its intercept of the register page. */
    struct virtx_intercept *msrs[3]; /**< Its intercepts of MSRs. */
    const uint64_t *turns;  /**< Grows whenever the processor may write `regs`; NULL: that may be always. */
    uint64_t turn;          /**< Its value when that was last looked at. */
    bool (*post)(struct virtx_vcpu *vcpu, uint8_t vector); /**< The backend's, or NULL; see backend.h. */
    bool (*posted)(struct virtx_vcpu *vcpu, uint64_t set[4]); /**< Likewise. */
    uint64_t levels[4];     /**< Vectors that have once been a level's: not posted, for the sake of TMR. Atomic. */
    bool unsaid;            /**< virtx_irq_apic::changed has not been asked since IRR, ISR or TMR were. */
    uint32_t own[0x280 / 4]; /**< See `regs`. */
};

/**
 * Makes a LAPIC in its power-up state: enabled at #VIRTX_LAPIC_DEFAULT_BASE in xAPIC mode, software
 * disabled, everything masked, connected to no bus.
 * @return false if the configuration is incomplete or out of range; @p lapic is unusable then.
 */
bool virtx_lapic_init(struct virtx_lapic *lapic, const struct virtx_lapic_config *config);

/**
 * Resets the registers (Intel SDM, "Local APIC State After Power-Up or Reset" and "Local APIC State
 * After It Receives an INIT-Deassert IPI").
 * @param lapic the LAPIC.
 * @param init  true for INIT, which keeps IA32_APIC_BASE and with it x2APIC mode; false for
 * power-up and RESET.
 */
void virtx_lapic_reset(struct virtx_lapic *lapic, bool init);

/**
 * Connects a LAPIC to a bus of the caller's own; virtx_apic_bus_add_lapic() does it for a
 * struct virtx_apic_bus. The vcpu must be stopped.
 * @param lapic         the LAPIC.
 * @param send          delivers a message; returns how many APICs accepted it.
 * @param broadcast_eoi tells the I/O APICs of the end of a level-triggered interrupt.
 * @param ctx           passed to both.
 */
void virtx_lapic_connect(struct virtx_lapic *lapic,
                         uint32_t (*send)(void *ctx, const struct virtx_apic_message *message),
                         void (*broadcast_eoi)(void *ctx, uint8_t vector), void *ctx);

/**
 * Leaves the LAPIC as firmware hands it to a PC's operating system: software-enabled, LINT0 an
 * ExtINT input for the 8259 pair, LINT1 the NMI ("virtual wire mode"). For guests that are booted
 * without firmware; call it on the bootstrap processor after virtx_lapic_init().
 */
void virtx_lapic_virtual_wire(struct virtx_lapic *lapic);

/** @return whether IA32_APIC_BASE enables the LAPIC (bit 11). */
bool virtx_lapic_enabled(const struct virtx_lapic *lapic);

/** @return whether the LAPIC is in x2APIC mode; its register page is not decoded then. */
bool virtx_lapic_x2apic(const struct virtx_lapic *lapic);

/** @return the guest-physical address of the register page, decoded only in xAPIC mode. */
uint64_t virtx_lapic_mmio_base(const struct virtx_lapic *lapic);

/**
 * Reads the xAPIC register page. Registers are 32 bits at 16-byte steps; bytes between them read 0,
 * as do reserved registers, which also record "illegal register address" in the error status.
 * @param lapic  the LAPIC, in xAPIC mode.
 * @param offset into the page, 0-FFFH.
 * @param size   1, 2, 4 or 8 bytes.
 * @param now    the time.
 * @return the value, zero-extended.
 */
uint64_t virtx_lapic_mmio_read(struct virtx_lapic *lapic, uint32_t offset, unsigned size,
                               uint64_t now);

/**
 * Writes the xAPIC register page. Only aligned 32-bit stores have an effect (Intel SDM, "APIC
 * Register Address Map"); reserved and read-only bits are ignored.
 * @param lapic  the LAPIC, in xAPIC mode.
 * @param offset into the page, 0-FFFH.
 * @param size   1, 2, 4 or 8 bytes.
 * @param value  what is stored.
 * @param now    the time.
 */
void virtx_lapic_mmio_write(struct virtx_lapic *lapic, uint32_t offset, unsigned size,
                            uint64_t value, uint64_t now);

/** @return whether @p msr is one of the LAPIC's: IA32_APIC_BASE, IA32_TSC_DEADLINE, 800H-8FFH. */
bool virtx_lapic_owns_msr(uint32_t msr);

/**
 * RDMSR of a register for which virtx_lapic_owns_msr() holds.
 * @return false if the access must raise \#GP(0): not in x2APIC mode, reserved, or write-only.
 */
bool virtx_lapic_msr_read(struct virtx_lapic *lapic, uint32_t msr, uint64_t now, uint64_t *value);

/**
 * WRMSR of a register for which virtx_lapic_owns_msr() holds (Intel SDM, "x2APIC Register
 * Availability", "x2APIC State Transitions"). A write of IA32_APIC_BASE may move or hide the
 * register page: compare virtx_lapic_mmio_base(), virtx_lapic_enabled() and virtx_lapic_x2apic().
 * @return false if the access must raise \#GP(0): not in x2APIC mode, reserved register or bits,
 *         read-only, or an illegal change of mode; nothing changed then.
 */
bool virtx_lapic_msr_write(struct virtx_lapic *lapic, uint32_t msr, uint64_t now, uint64_t value);

/** @return the task-priority register; CR8 reads as bits 7:4 of it. */
uint8_t virtx_lapic_get_tpr(const struct virtx_lapic *lapic);

/** Sets the task-priority register; MOV CR8 sets it to the operand shifted left by 4. */
void virtx_lapic_set_tpr(struct virtx_lapic *lapic, uint8_t tpr);

/**
 * @return the vector that the processor would get now, or #VIRTX_IRQ_NONE. Consumes nothing. Costs
 *         a few instructions when nothing arrived. Expiries of the timer are seen only after
 *         virtx_lapic_advance().
 */
int virtx_lapic_pending(struct virtx_lapic *lapic);

/**
 * Acknowledges: moves the pending vector from IRR to ISR, or runs the 8259's acknowledge cycle.
 * @return the vector; the spurious vector if nothing is pending any more.
 */
int virtx_lapic_take(struct virtx_lapic *lapic);

/**
 * @return the task-priority class (1-15) below which the guest must drop for a held-back vector to
 *         become deliverable, or 0 if no change of the task priority would matter: the value for
 * the VMCS TPR threshold (Intel SDM, "Controls for APIC Virtualization").
 */
uint8_t virtx_lapic_tpr_threshold(struct virtx_lapic *lapic);

/** Ends the highest interrupt in service, as a write of the EOI register does. */
void virtx_lapic_eoi(struct virtx_lapic *lapic);

/** A LAPIC as a source of interrupts for virtx_vcpu_irq_source(); the context is the struct
 *  virtx_lapic. It does not look at the time: call virtx_lapic_advance() beforehand. */
extern const struct virtx_irq_source virtx_lapic_irq_source;

/** All that a LAPIC remembers, in a form without pointers; see virtx_lapic_save(). */
struct virtx_lapic_state {
    size_t size;                         /**< sizeof(struct virtx_lapic_state). */
    uint64_t base;                       /**< IA32_APIC_BASE. */
    uint64_t icr;                        /**< Interrupt command register. */
    uint64_t tsc_deadline;               /**< IA32_TSC_DEADLINE, in the guest's own time. */
    uint64_t irr[4];                     /**< Interrupt request register. */
    uint64_t isr[4];                     /**< In-service register. */
    uint64_t tmr[4];                     /**< Trigger-mode register. */
    uint32_t lvt[VIRTX_LAPIC_LVT_COUNT]; /**< Local vector table. */
    uint32_t ldr;                        /**< Logical destination register (xAPIC mode). */
    uint32_t dfr;                        /**< Destination format register. */
    uint32_t svr;                        /**< Spurious-interrupt vector register. */
    uint32_t esr;                        /**< Error status as the guest reads it. */
    uint32_t esr_pending;                /**< Errors since the last write of the error status. */
    uint32_t timer_initial;              /**< Initial-count register. */
    uint32_t timer_divide;               /**< Divide-configuration register. */
    uint64_t timer_elapsed;              /**< Ticks of @c now since the count started. */
    uint64_t timer_next;                 /**< Divided clocks from there to the next expiry. */
    uint8_t tpr;                         /**< Task-priority register. */
    uint8_t lint_lines;                  /**< Levels of LINT0 (bit 0) and LINT1 (bit 1). */
    bool extint_message;                 /**< An ExtINT message waits for its acknowledge cycle. */
    bool timer_running;                  /**< The counter counts. */
};

/**
 * Copies the whole state. The vcpu is not in run, and nobody posts to the LAPIC meanwhile.
 * @param lapic the LAPIC.
 * @param now   the time; the timer is looked at. Of an attached LAPIC: the time-stamp counter.
 * @param state receives the state.
 */
void virtx_lapic_save(struct virtx_lapic *lapic, uint64_t now, struct virtx_lapic_state *state);

/**
 * Replaces the whole state by a saved one. The vcpu is not in run, and nobody posts to the LAPIC
 * meanwhile. The timer goes on from where it was; what is deliverable is announced. An attached LAPIC
 * moves its register page; set the vcpu's TSC before (virtx_vcpu_set()).
 * @param lapic made with the features and the ratio of clocks of the one that was saved; its ID stays.
 * @param now   the time, as in virtx_lapic_save(); it may be another clock, of the same rate.
 * @param state the state, which may come from anywhere: it is checked.
 * @return false if no LAPIC like this one can be in that state; nothing changed then.
 */
bool virtx_lapic_restore(struct virtx_lapic *lapic, uint64_t now,
                         const struct virtx_lapic_state *state);

/**
 * Offers one message to one LAPIC, regardless of its destination. Safe from any CPU.
 * @param lapic    the LAPIC.
 * @param delivery how; lowest priority is like fixed here.
 * @param vector   the vector or start page.
 * @param level    level triggered.
 * @return whether it was accepted; see virtx_apic_bus_deliver().
 */
bool virtx_lapic_accept(struct virtx_lapic *lapic, enum virtx_apic_delivery delivery,
                        uint8_t vector, bool level);

/** @return whether the LAPIC is addressed by the destination field of @p message (the shorthand is
 *  not looked at). Safe from any CPU. */
bool virtx_lapic_matches(const struct virtx_lapic *lapic, const struct virtx_apic_message *message);

/**
 * Drives a local interrupt pin. Safe from any CPU.
 * @param lapic the LAPIC.
 * @param pin   0 or 1.
 * @param level the electrical level; the LVT entry's polarity is applied to it in fixed mode.
 */
void virtx_lapic_set_lint(struct virtx_lapic *lapic, unsigned pin, bool level);

/** Raises one of the internal sources: thermal, performance counter (which masks itself) or CMCI.
 *  Other entries are ignored: their causes are modelled. */
void virtx_lapic_local_interrupt(struct virtx_lapic *lapic, enum virtx_lapic_lvt entry);

/**
 * @return the time at which the timer next has something to deliver, or #VIRTX_LAPIC_NO_DEADLINE.
 *         Call virtx_lapic_advance() when it has come; a cheap field read.
 */
uint64_t virtx_lapic_deadline(const struct virtx_lapic *lapic);

/** Delivers a timer interrupt if one is due at @p now. Periods that were missed are counted
 *  arithmetically and give one interrupt. */
void virtx_lapic_advance(struct virtx_lapic *lapic, uint64_t now);

/** Sets the difference between the guest's TSC and @c now, modulo 2^64, which the TSC deadline is
 *  compared through; follows guest writes of the TSC and TSC_ADJUST. */
void virtx_lapic_set_tsc_offset(struct virtx_lapic *lapic, uint64_t offset);

/**
 * Makes a LAPIC and gives it to a vcpu: register page and MSRs are served inside run, its vectors
 * become the vcpu's interrupts; NMI, INIT and SIPI go to virtx_vcpu_nmi(), virtx_vcpu_signal_init() and
 * virtx_vcpu_signal_sipi(); an SMI has no effect. Time is the processor's time-stamp
 * counter. What remains for the loop: to end the sleep of a vcpu that halts when virtx_lapic_deadline() is
 * reached, and, without ::VIRTX_FEATURE_TIMER, to have a host interrupt come then while the guest is in run.
 *
 * An attached LAPIC accepts messages from any CPU, but not from an NMI handler.
 *
 * The register page, and the MSRs 1BH, 6E0H and 800H to 8FFH, are intercepts of the vcpu's: with another of the
 * vcpu's there this fails (::VIRTX_E_OVERLAP), and so does setting one afterwards. Those of the VM there see
 * nothing until the LAPIC is taken away; with the hardware's help or without.
 *
 * @param lapic  the LAPIC; it must outlive its attachment. Put it on a bus afterwards.
 * @param config as for virtx_lapic_init(), whose ctx, changed and event are ignored and whose id is
 *               virtx_vcpu_id().
 * @param vcpu   the vcpu, not in run.
 * @return ::VIRTX_E_INVALID, or as virtx_vcpu_intercept(); nothing is attached then.
 */
enum virtx_status virtx_lapic_attach(struct virtx_lapic *lapic,
                                     const struct virtx_lapic_config *config,
                                     struct virtx_vcpu *vcpu);

/** Takes the LAPIC from its vcpu again, which is not in run. Fine if it is not attached. */
void virtx_lapic_detach(struct virtx_lapic *lapic);

#ifdef __cplusplus
}
#endif

#endif
