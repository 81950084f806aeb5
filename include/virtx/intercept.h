/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * @brief Intercepts: what the guest does that the embedder wants to see, allow or answer.
 *
 * One type serves all kinds. An intercept belongs to a VM or to one vcpu; the vcpu's wins where
 * both match, and among those of one owner ranges may not overlap. Intercepts are set and removed
 * while vcpus run; a vcpu obeys a change from its next entry on (removing one of a VM waits for
 * nobody: use virtx_vm_settled() with virtx_vm_generation() before freeing what its handler uses).
 */
#ifndef VIRTX_INTERCEPT_H
#define VIRTX_INTERCEPT_H

#include <stdbool.h>
#include <stdint.h>
#include <virtx/status.h>
#include <virtx/exit.h>
#include <virtx/event.h>

#ifdef __cplusplus
extern "C" {
#endif

struct virtx_vm;
struct virtx_vcpu;
struct virtx_intercept;

/** @brief Kinds of intercepts, with what `first`, `last` and `access` mean and what happens by
 *  default, when none is set. */
enum virtx_intercept_kind {
    VIRTX_INTERCEPT_PORT,       /**< Ports 0 to 0xffff. Default: all exit to the loop. */
    VIRTX_INTERCEPT_MSR,        /**< MSR indices. Default: those the library virtualizes are served
                                     (`docs/msrs.md`), the others exit to the loop. */
    VIRTX_INTERCEPT_CPUID,      /**< Leaves. Default: served from the VM's CPUID table. */
    VIRTX_INTERCEPT_MMIO,       /**< Bytes of guest-physical space outside slots. Default: exit to the loop. */
    VIRTX_INTERCEPT_EXCEPTION,  /**< Vectors 0 to 31. Default: the guest's own. `mask` and `match` select
                                     \#PFs by error code: (code & mask) == match. */
    VIRTX_INTERCEPT_CR,         /**< Control register number; `mask`: for writes of CR0 and CR4 the bits whose
                                     change is of interest (0: any). Default: the guest's own. */
    VIRTX_INTERCEPT_DR,         /**< Debug register number. Default: the guest's own. */
    VIRTX_INTERCEPT_HYPERCALL,  /**< No range. Default: \#UD to the guest. */
    VIRTX_INTERCEPT_INSTRUCTION,/**< ::virtx_instruction. Default: see there. */
    VIRTX_INTERCEPT_KIND_COUNT
};

/** @brief What a matching access does. */
enum virtx_intercept_action {
    VIRTX_ACTION_EXIT,    /**< Calls the handler, or returns to the loop where there is none. */
    VIRTX_ACTION_ALLOW,   /**< Passes through to the hardware: ports, and MSRs. The guest touches the
                               real thing. */
    VIRTX_ACTION_DEFAULT, /**< What would happen without any intercept; a hole in a VM-wide one. */
};

/** @brief A handler's answer. */
enum virtx_verdict {
    VIRTX_HANDLED, /**< Done: the results are in the record; retire the instruction and go on. */
    VIRTX_TO_LOOP, /**< Return this exit from run. */
    VIRTX_DEFAULT, /**< Go on as if there were no intercept. */
    VIRTX_FAULT,   /**< The handler has called virtx_vcpu_inject(): deliver that instead of retiring. */
};

/**
 * @brief Serves an intercepted access inside run.
 *
 * Runs on the vcpu's thread with interrupts disabled, on the caller's stack, with tier-1 host state
 * (virtx_host_profile::at_exit). It may call: virtx_vcpu_get() and virtx_vcpu_set() on this vcpu,
 * guest-memory access, virtx_vcpu_inject(), and everything documented as callable from any CPU. It must not
 * call run, complete, put, destroy or remove its own intercept.
 */
typedef enum virtx_verdict (*virtx_handler)(struct virtx_vcpu *vcpu, struct virtx_exit *exit,
                                            void *ctx);

/** @brief Description of an intercept. */
struct virtx_intercept_config {
    uint32_t size;         /**< sizeof(struct virtx_intercept_config). */
    uint32_t kind;         /**< ::virtx_intercept_kind. */
    uint32_t access;       /**< ::VIRTX_READ and ::VIRTX_WRITE where the kind tells them apart (port, MSR,
                                MMIO, CR, DR); 0 elsewhere. */
    uint32_t action;       /**< ::virtx_intercept_action. */
    uint64_t first;        /**< First port, MSR, leaf, GPA, vector, register or instruction. */
    uint64_t last;         /**< Last one, inclusive. */
    uint64_t mask;         /**< See the kind; else 0. */
    uint64_t match;        /**< See the kind; else 0. */
    virtx_handler handler; /**< May be NULL. */
    void *ctx;             /**< For the handler. */
};

/**
 * @brief Sets an intercept for all vcpus of a VM. Callable at any time, from any CPU.
 * @param vm  the VM
 * @param config  read during the call only
 * @param[out] out  the handle, on success only; may be NULL for an intercept that stays as long as its owner
 * @return ::VIRTX_OK, ::VIRTX_E_SIZE, ::VIRTX_E_INVALID, ::VIRTX_E_RANGE, ::VIRTX_E_OVERLAP,
 *   ::VIRTX_E_UNSUPPORTED (this processor cannot intercept that), ::VIRTX_E_NO_MEMORY
 */
enum virtx_status virtx_vm_intercept(struct virtx_vm *vm,
                                     const struct virtx_intercept_config *config,
                                     struct virtx_intercept **out);

/** @brief Sets an intercept for one vcpu; as virtx_vm_intercept(). */
enum virtx_status virtx_vcpu_intercept(struct virtx_vcpu *vcpu,
                                       const struct virtx_intercept_config *config,
                                       struct virtx_intercept **out);

/** @brief Removes an intercept, and frees it. Callable at any time but from its own handler. */
enum virtx_status virtx_intercept_remove(struct virtx_intercept *intercept);

/** @brief What was asked for, and in `*forced` (may be NULL) whether the hardware exits on some of it
 *  whether asked or not. */
enum virtx_status virtx_intercept_query(const struct virtx_intercept *intercept,
                                        struct virtx_intercept_config *config, bool *forced);

/** @brief Most values of virtx_vcpu_set_cr3_targets(). */
#define VIRTX_CR3_TARGETS 4u

/**
 * @brief Values that the guest may load into CR3 unseen, although an intercept is set for its writes.
 *
 * As the processor compares them: the whole operand, bit 63 included. With nested paging VMX lets such a
 * write through without an exit, as far as the processor has places for them (Intel SDM "CR3-Target Controls");
 * otherwise the library serves it inside run, and the exit shows in the statistics only. Without
 * an intercept for writes of CR3 the list means nothing. On the vcpu's thread.
 *
 * @param vcpu  a vcpu; the list is empty at first, and RESET leaves it alone
 * @param values  @p count values; may be NULL if that is 0
 * @param count  0 to ::VIRTX_CR3_TARGETS
 * @return ::VIRTX_OK; ::VIRTX_E_RANGE (@p count); ::VIRTX_E_INVALID (@p values); ::VIRTX_E_BUSY,
 *   ::VIRTX_E_DEAD
 */
enum virtx_status virtx_vcpu_set_cr3_targets(struct virtx_vcpu *vcpu, const uint64_t *values,
                                             uint32_t count);

/** @brief The list as it was set. On the vcpu's thread. @return how many of @p values are */
uint32_t virtx_vcpu_cr3_targets(const struct virtx_vcpu *vcpu, uint64_t values[VIRTX_CR3_TARGETS]);

/** @brief Which PAUSEs of a loop exit. All 0: every one. */
struct virtx_pause_filter {
    uint32_t gap;    /**< TSC ticks: PAUSEs further apart are of different loops; at most 0xffff. An SVM processor
                          without the PAUSE filter threshold goes by `count` alone. */
    uint32_t window; /**< VMX: TSC ticks that a loop may last; at least 1. */
    uint32_t count;  /**< SVM: PAUSEs of a loop that do not exit; 1 to 0xffff. */
};

/**
 * @brief Lets an intercept for ::VIRTX_INSN_PAUSE see only loops that spin.
 *
 * `window` and `count` say the same for the two vendors, and both are given. VMX counts at CPL 0 only, and
 * then no PAUSE exits elsewhere (Intel SDM "PAUSE-Loop Exiting"); SVM starts to count anew at
 * each entry (AMD APM "Pause Intercept Filtering"). A PAUSE that the library's executor meets exits always. Without
 * an intercept the filter means nothing. On the vcpu's thread; RESET leaves it alone.
 *
 * @param vcpu  a vcpu
 * @param filter  NULL for none, as at first
 * @return ::VIRTX_OK; ::VIRTX_E_RANGE; ::VIRTX_E_UNSUPPORTED (a filter without ::VIRTX_FEATURE_PAUSE_FILTER in
 *   virtx_caps::features); ::VIRTX_E_BUSY, ::VIRTX_E_DEAD
 */
enum virtx_status virtx_vcpu_set_pause_filter(struct virtx_vcpu *vcpu,
                                              const struct virtx_pause_filter *filter);

/** @brief The filter as it was set. On the vcpu's thread. */
void virtx_vcpu_pause_filter(const struct virtx_vcpu *vcpu, struct virtx_pause_filter *filter);

#ifdef __cplusplus
}
#endif
#endif
