/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * @brief Seam 1: what a backend does for the objects. For those who write one; embedders only name
 *  the ready-made ones in virtx_config::backends.
 *
 * A backend runs a vcpu to its next neutral exit. It is a constant table: it keeps its state in the
 * bytes that the objects reserve for it (virtx_backend_vm() and its like), never in globals. The
 * objects have checked every argument before a backend sees it, and hold the locks that each
 * group below names.
 *
 * Before a backend returns an exit to the loop it offers it to virtx_backend_dispatch(), which
 * finds the intercept and calls its handler; on ::VIRTX_HANDLED it completes the access as if the
 * loop had, and goes on. Before an entry it honours virtx_backend_requests().
 */
#ifndef VIRTX_BACKEND_H
#define VIRTX_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <virtx/status.h>
#include <virtx/caps.h>
#include <virtx/state.h>
#include <virtx/event.h>
#include <virtx/exit.h>
#include <virtx/intercept.h>
#include <virtx/memslot.h>

#ifdef __cplusplus
extern "C" {
#endif

struct virtx;
struct virtx_vm;
struct virtx_vcpu;

/** @brief What happened to a range of guest-physical space; see virtx_backend::memory. */
enum virtx_memory_change {
    VIRTX_MEMORY_ADDED,      /**< A slot now covers it. */
    VIRTX_MEMORY_REMOVED,    /**< No slot covers it any more (also the old place of a move). */
    VIRTX_MEMORY_NARROWED,   /**< Rights were taken away, or dirty logging was switched on. */
    VIRTX_MEMORY_WIDENED,    /**< Rights were given, or dirty logging was switched off. */
    VIRTX_MEMORY_MOVED,      /**< The backing is about to change. */
};

/** @brief Requests that other CPUs leave for a vcpu; bits of virtx_backend_requests(). */
enum virtx_request {
    VIRTX_REQUEST_KICK = 1u << 0,       /**< Return ::VIRTX_EXIT_KICK. */
    VIRTX_REQUEST_EVENT = 1u << 1,      /**< The event queue or its interrupt source has changed. */
    VIRTX_REQUEST_INTERCEPT = 1u << 2,  /**< Intercepts have changed: read them again. */
    VIRTX_REQUEST_MEMORY = 1u << 3,     /**< Translations were dropped: pay the TLB debt, then
                                             acknowledge with virtx_backend_settle(). */
    VIRTX_REQUEST_NMI = 1u << 4,        /**< virtx_vcpu_nmi(). */
    VIRTX_REQUEST_INIT = 1u << 5,       /**< virtx_vcpu_signal_init(). */
    VIRTX_REQUEST_SIPI = 1u << 6,       /**< virtx_vcpu_signal_sipi(); virtx_backend_sipi() has the vector. */
    VIRTX_REQUEST_POSTED = 1u << 7,     /**< As ::VIRTX_REQUEST_EVENT, left behind by a backend's `post`, which does not
                                             kick: so that a request that does finds its own bit clear. */
    VIRTX_REQUEST_DEADLINE = 1u << 8,   /**< The source's next time (virtx_irq_source::deadline), or the embedder's, may
                                             be another. */
};

/** @brief The operations of a backend. All are required but where NULL is given a meaning. */
struct virtx_backend {
    uint32_t size;       /**< sizeof(struct virtx_backend). */
    uint32_t reserved;   /**< Zero. */
    const char *name;    /**< A word, as in virtx_caps::backend. */
    size_t cpu_bytes;    /**< Zeroed bytes wanted for each CPU; see virtx_backend_cpu(). */
    size_t vm_bytes;     /**< Likewise for each VM. */
    size_t vcpu_bytes;   /**< Likewise for each vcpu; page-aligned, contiguous, at most 8 pages. */

    /** Looks at the processor without changing it and fills @p caps, obeying virtx_config::disable. */
    enum virtx_status (*probe)(struct virtx *virtx, uint64_t disable, struct virtx_caps *caps,
                               struct virtx_error *error);

    /** @name Per CPU. On the CPU itself, interrupts off. */
    /** @{ */
    /** Turns virtualization on for this CPU. */
    enum virtx_status (*cpu_enable)(struct virtx *virtx, uint32_t cpu, struct virtx_error *error);
    void (*cpu_disable)(struct virtx *virtx, uint32_t cpu); /**< No vcpu is loaded. */
    void (*cpu_emergency_off)(struct virtx *virtx, uint32_t cpu); /**< In any state. */
    /** @} */

    /** @name Life cycle. With the VM's lock held. On failure nothing is left behind. The objects call the
     *  paging engine's counterparts: before creation, and after destruction. */
    /** @{ */
    enum virtx_status (*vm_create)(struct virtx_vm *vm);      /**< Its bytes are zero. */
    void (*vm_destroy)(struct virtx_vm *vm);                  /**< It has no vcpus. */
    enum virtx_status (*vcpu_create)(struct virtx_vcpu *vcpu); /**< Registers as after RESET. */
    void (*vcpu_destroy)(struct virtx_vcpu *vcpu); /**< It is not loaded anywhere. */
    /** @} */

    /** @name On the vcpu's thread. */
    /** @{ */
    /** Makes it current on this CPU; it is loaded nowhere. */
    enum virtx_status (*load)(struct virtx_vcpu *vcpu, uint32_t cpu);
    /** All state to memory; the host's tier 3 back in place. */
    void (*put)(struct virtx_vcpu *vcpu);
    enum virtx_status (*run)(struct virtx_vcpu *vcpu); /**< Fills the record of virtx_backend_exit(). */
    /** virtx_vcpu_complete() of the access that the last exit left pending. */
    enum virtx_status (*complete)(struct virtx_vcpu *vcpu, const void *value);
    /** virtx_vcpu_fault() of it. */
    enum virtx_status (*fault)(struct virtx_vcpu *vcpu, const struct virtx_event *event);
    /** virtx_vcpu_reset(). */
    enum virtx_status (*reset)(struct virtx_vcpu *vcpu, enum virtx_preset preset);
    /** virtx_vcpu_get(). */
    enum virtx_status (*get)(struct virtx_vcpu *vcpu, uint32_t groups, struct virtx_state *state);
    /** virtx_vcpu_wake(): ends ::VIRTX_HALTED, and does nothing in another activity. */
    void (*wake)(struct virtx_vcpu *vcpu);
    /** virtx_vcpu_set(); the groups are valid bits. */
    enum virtx_status (*set)(struct virtx_vcpu *vcpu, uint32_t groups,
                             const struct virtx_state *state);
    /** virtx_vcpu_gpr(). */
    uint64_t *(*gpr)(struct virtx_vcpu *vcpu);
    /** virtx_vcpu_fpu_size(). */
    size_t (*fpu_size)(const struct virtx_vcpu *vcpu);
    /** virtx_vcpu_fpu_get(); the area is large enough. */
    enum virtx_status (*fpu_get)(struct virtx_vcpu *vcpu, void *area);
    /** virtx_vcpu_fpu_set(). */
    enum virtx_status (*fpu_set)(struct virtx_vcpu *vcpu, const void *area);
    /** @} */

    /** @name From any CPU. */
    /** @{ */
    /** A request bit has been set: make the vcpu notice before its next guest instruction. */
    void (*kick)(struct virtx_vcpu *vcpu);
    /** Whether this processor can intercept that, and in `*forced` whether it does so always. */
    enum virtx_status (*intercept_check)(const struct virtx_vm *vm,
                                         const struct virtx_intercept_config *config, bool *forced);
    /** The VM's (vcpu NULL) or one vcpu's intercepts have changed; the VM's lock is held. The
     *  vcpus get ::VIRTX_REQUEST_INTERCEPT afterwards. May refuse, with ::VIRTX_E_NO_MEMORY. */
    enum virtx_status (*intercept_changed)(struct virtx_vm *vm, struct virtx_vcpu *vcpu);
    /** A guest-physical range has changed; the VM's lock is held, the slot table is the new one. */
    void (*memory)(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes,
                   enum virtx_memory_change change);
    /** Moves dirty bits that the backend or its engine holds for a range into the slots' logs with
     *  virtx_backend_dirty(), and arms the range again. The VM's lock is held. Where the bits are set as writes
     *  happen (virtx_paging::dirty_at_grant, drain_dirty), only ranges whose bits have been taken are named. */
    void (*collect_dirty)(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes);
    /** @} */

    /** For the hardware backends: their seam-2 table. Others: NULL. */
    const void *hw;
    /** virtx_nmi_return(), in an NMI handler. NULL: the host's NMIs return where they came from. */
    uint64_t (*nmi_return)(const struct virtx *virtx, uint64_t rip);
    /** The VM's paging engine has been exchanged. Any CPU; the vcpu is kept out of run, but may be loaded
     *  somewhere. NULL: engines of this backend cannot be exchanged. */
    void (*engine_changed)(struct virtx_vcpu *vcpu);
    /** virtx_vcpu_interpret(), on the vcpu's thread. NULL: the backend has no executor. */
    enum virtx_status (*interpret)(struct virtx_vcpu *vcpu, bool always);
    /** With ::VIRTX_FEATURE_DIRTY_LOGGING: what the hardware has logged of written pages until now goes to the
     *  slots' logs by virtx_backend_dirty(). Any CPU, vcpus run; the VM's lock is held. From vcpus that are not in
     *  run nothing is left behind. NULL: the hardware logs nothing. */
    void (*drain_dirty)(struct virtx_vm *vm);
    /** The CPUID table of the VM (vcpu NULL), or what a vcpu has otherwise, has changed while vcpus exist; the VM's
     *  lock is held. As intercept_changed. NULL: this backend reads it once, when a vcpu is created, and later
     *  changes answer ::VIRTX_E_BUSY. */
    enum virtx_status (*cpuid_changed)(struct virtx_vm *vm, struct virtx_vcpu *vcpu);
    /** The page for the registers of a local APIC (::virtx_irq_apic), or NULL: the processor has no use for it.
     *  Constant for a vcpu; any CPU. NULL for a backend without such pages. */
    void *(*apic_page)(struct virtx_vcpu *vcpu);

    /** @name What is saved of a vcpu beside its groups. On its thread; NULL: the backend keeps none. */
    /** @{ */
    /** virtx_vcpu_msr_list(). */
    uint32_t (*msr_list)(struct virtx_vcpu *vcpu, uint32_t *list, uint32_t room);
    /** virtx_vcpu_msr_get() of an MSR that is no field of ::virtx_state. ::VIRTX_E_NOT_FOUND */
    enum virtx_status (*msr_get)(struct virtx_vcpu *vcpu, uint32_t index, uint64_t *value);
    /** virtx_vcpu_msr_set() of one. ::VIRTX_E_NOT_FOUND, ::VIRTX_E_INVALID */
    enum virtx_status (*msr_set)(struct virtx_vcpu *vcpu, uint32_t index, uint64_t value);
    /** The event whose delivery an exit has interrupted; false: there is none. */
    bool (*interrupted_get)(struct virtx_vcpu *vcpu, struct virtx_event *event);
    /** Replaces it; the event is well-formed, or NULL: there is none. */
    void (*interrupted_set)(struct virtx_vcpu *vcpu, const struct virtx_event *event);
    /** @} */
    /** Posted interrupts: requests an edge-triggered vector of the vcpu's local APIC, and sees to it that the vcpu
     *  notices, which as an irq_changed need not be done then. Any CPU. False: nothing has been done, now it does not
     *  work that way. NULL: it never does. */
    bool (*post)(struct virtx_vcpu *vcpu, uint8_t vector);
    /** What has been posted and the processor has not moved to IRR is in @p set (bit n of all 256: vector n), and no longer
     *  posted. On the vcpu's thread, or while it is stopped. False: nothing. Goes with `post`. */
    bool (*posted)(struct virtx_vcpu *vcpu, uint64_t set[4]);
};

/** @name What the objects offer to a backend. */
/** @{ */
void *virtx_backend_cpu(struct virtx *virtx, uint32_t cpu);     /**< The CPU's bytes. */
void *virtx_backend_vm(struct virtx_vm *vm);                    /**< The VM's bytes. */
void *virtx_backend_vcpu(struct virtx_vcpu *vcpu);              /**< The vcpu's bytes. */
struct virtx_exit *virtx_backend_exit(struct virtx_vcpu *vcpu); /**< The exit record to fill. */
/** Finds the intercept of the exit in the record and calls its handler. ::VIRTX_DEFAULT when there
 *  is no intercept, or none with an opinion. */
enum virtx_verdict virtx_backend_dispatch(struct virtx_vcpu *vcpu);
/** Takes (reads and clears) the requests named in @p mask. */
uint32_t virtx_backend_requests(struct virtx_vcpu *vcpu, uint32_t mask);
/** The start page that came with ::VIRTX_REQUEST_SIPI. */
uint8_t virtx_backend_sipi(struct virtx_vcpu *vcpu);
/** The vcpu's event queue, for a backend that delivers from it: reads it, without the interrupted delivery and the
 *  signals, which are requests. On the vcpu's thread. */
void virtx_backend_events(const struct virtx_vcpu *vcpu, struct virtx_events *events);
/** Replaces the same: what the backend has delivered is out of it. */
void virtx_backend_events_left(struct virtx_vcpu *vcpu, const struct virtx_events *events);
/** This vcpu has paid the TLB debts of everything dropped before the request was taken. */
void virtx_backend_settle(struct virtx_vcpu *vcpu, uint64_t generation);
/** What covers a guest-physical address now: the slot's description. The VM's lock is held, or it is the
 *  vcpu's thread inside run. ::VIRTX_E_NOT_FOUND outside all slots. */
enum virtx_status virtx_backend_slot(struct virtx_vm *vm, uint64_t gpa,
                                     struct virtx_memslot_config *config);
/** Marks the pages of a guest-physical range dirty in their slots' logs. Any CPU. */
void virtx_backend_dirty(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes);
/** @} */

#ifdef __cplusplus
}
#endif
#endif
