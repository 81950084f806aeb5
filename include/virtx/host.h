/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * @brief What the library asks of its host: a few functions, and what host state must survive.
 *
 * The embedder supplies ::virtx_host_ops and declares a ::virtx_host_profile at virtx_open().
 *
 * **The state in which virtx_vcpu_run() is called.** Ring 0 (for the hardware backends), 64-bit
 * mode, on a CPU that virtx_cpu_enable() has prepared; the caller must not be migrated to another
 * CPU while run executes. RFLAGS.IF may be either:
 * - IF = 1: host interrupts that arrive while the guest runs are taken through the host's own IDT
 *   in a short window inside run, with the host's stack and CR3, and the guest continues. Handlers
 *   may call virtx_vcpu_kick() and the `irq` calls documented as callable from any context.
 * - IF = 0: a host interrupt makes run return ::VIRTX_EXIT_INTERRUPT with the interrupt still
 *   pending in the host's interrupt controller.
 * Run restores IF as it found it. The direction flag must be clear.
 *
 * **NMI and machine check.** An NMI that arrives in the guest is handed to the host's IDT (vector 2)
 * before run does anything else, whatever IF is, and again the guest continues unless kicked. A
 * machine check in the guest is handed to vector 18 likewise; CR4.MCE stays as the host has it while the guest
 * runs, whatever the guest wrote.
 *
 * **What a VM exit does to the host** beyond what the profile governs (Intel SDM "Loading Host
 * State"; AMD APM "#VMEXIT"): RFLAGS, segment selectors, CR0, CR3, CR4, EFER, GDTR and IDTR bases
 * are the host's again before the first C instruction. VMX sets the GDTR and IDTR limits to 0xffff,
 * DR7 to 0x400 and DEBUGCTL to 0; a host that relies on other values names
 * ::VIRTX_HOST_DESCRIPTOR_LIMITS, ::VIRTX_HOST_DEBUG_REGS or ::VIRTX_HOST_DEBUGCTL in its profile.
 */
#ifndef VIRTX_HOST_H
#define VIRTX_HOST_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** @brief Bytes in a page, the unit of all host allocations. */
#define VIRTX_PAGE_SIZE 4096u

struct virtx;
struct virtx_vcpu;

/** @brief Severity of a log line. */
enum virtx_log_level {
    VIRTX_LOG_ERROR, /**< Something failed; a status says so too. */
    VIRTX_LOG_INFO,  /**< Said once: what was found, what was chosen. */
    VIRTX_LOG_DEBUG, /**< For finding faults. */
};

/**
 * @brief The host functions. The first six are required, the rest may be NULL.
 *
 * Each gets the `ctx` of ::virtx_config. None may call back into the library. Unless said
 * otherwise each may be called from any CPU at the same time and with interrupts disabled.
 */
struct virtx_host_ops {
    /** sizeof(struct virtx_host_ops) as the embedder's program was compiled. */
    uint32_t size;
    /** Must be zero. */
    uint32_t reserved;
    /** Required. Returns @p count physically contiguous pages aligned to a page, mapped writable
     *  and write-back, contents arbitrary; NULL when there are none. @p count is at most 4
     *  for control structures. */
    void *(*pages_alloc)(void *ctx, size_t count);
    /** Required. Takes back exactly what one pages_alloc() call returned. */
    void (*pages_free)(void *ctx, void *pages, size_t count);
    /** Required. The host-physical address (HPA) of a mapped virtual address: of pages from
     *  pages_alloc(), of memslot memory, and of the library's own static data. Asked page by page,
     *  so slot memory need not be contiguous. UINT64_MAX: the page has no backing now, and the
     *  guest's access is reported as ::VIRTX_EXIT_MEMORY. */
    uint64_t (*virt_to_phys)(void *ctx, const void *va);
    /** Required. The inverse for pages that came from pages_alloc(). */
    void *(*phys_to_virt)(void *ctx, uint64_t hpa);
    /** Required. Index of the calling CPU, below ::virtx_config::max_cpus, constant while run
     *  executes. Called with interrupts on or off. */
    uint32_t (*this_cpu)(void *ctx);
    /** Required. Makes CPU @p cpu take a host interrupt soon (an IPI whose handler need only
     *  acknowledge it). May be called from an interrupt or NMI handler, and for the calling CPU
     *  itself. While a guest owns the physical interrupts it must be an NMI. */
    void (*kick_cpu)(void *ctx, uint32_t cpu);
    /** Optional. A constant message without a line end. */
    void (*log)(void *ctx, enum virtx_log_level level, const char *message);
    /** Optional. Runs instead of `INT 2` when an NMI arrived in a VMX guest. It must unblock NMIs (by
     *  an IRET) before it returns. */
    void (*nmi)(void *ctx);
    /** Optional. Runs instead of `INT 18` when a machine check arrived in the guest. */
    void (*machine_check)(void *ctx);
    /** Optional. Something has come for a vcpu that is not in run: if its thread sleeps because the guest
     *  halted (::VIRTX_EXIT_HLT), it is to look at virtx_vcpu_wakeable() again. Called by whoever
     *  brought it, in that context, which may be an interrupt or NMI handler; once too often rather than
     *  too seldom. */
    void (*wake)(void *ctx, struct virtx_vcpu *vcpu);
    /** Optional; with the two that follow it allows ::VIRTX_FEATURE_POSTED_INTERRUPT. Runs the host's handler of an
     *  external interrupt that a guest's exit has acknowledged already, as the processor would have through the IDT
     *  (with interrupts off). While that feature is in use run hands all interrupts that end a guest's time to this,
     *  also when it was called at IF = 0. */
    void (*interrupt)(void *ctx, uint8_t vector);
    /** Optional. Sends `posted_vector` to CPU @p cpu as an interrupt. If a guest runs there, its processor takes it
     *  as a sign to look for posted interrupts; the host's own handler need only acknowledge it. From any context. */
    void (*notify_cpu)(void *ctx, uint32_t cpu);
    /** The vector that notify_cpu() sends, 16 to 255, of no other use; 0: there is none. */
    uint32_t posted_vector;
    /** Optional, of use without ::VIRTX_FEATURE_TIMER. A host interrupt is to come to the calling CPU once its
     *  time-stamp counter has reached @p tsc, or soon after: @p vcpu, which is in run here, has something to do
     *  then (virtx_irq_source::deadline, virtx_vcpu_deadline()), and the guest may have said so just now, with no
     *  return to the loop. UINT64_MAX: not any more, though the interrupt may still come. Each call replaces the
     *  vcpu's last one. Called when the time has changed, and for a vcpu that has come to this CPU; from run, with
     *  interrupts off. NULL: such times are noticed at the first host interrupt after them. */
    void (*timer)(void *ctx, struct virtx_vcpu *vcpu, uint64_t tsc);
};

/**
 * @brief Host state that a guest replaces and that hardware does not put back by itself everywhere.
 *
 * Bits for the three masks of ::virtx_host_profile.
 */
enum virtx_host_state {
    VIRTX_HOST_FS_BASE = 1u << 0,            /**< FS base (and selector). */
    VIRTX_HOST_GS_BASE = 1u << 1,            /**< GS base (and selector). */
    VIRTX_HOST_KERNEL_GS_BASE = 1u << 2,     /**< IA32_KERNEL_GS_BASE, for SWAPGS. */
    VIRTX_HOST_TSS = 1u << 3,                /**< TR: stacks for ring changes and IST. */
    VIRTX_HOST_LDT = 1u << 4,                /**< LDTR. */
    VIRTX_HOST_SYSCALL = 1u << 5,            /**< IA32_STAR, LSTAR, CSTAR, FMASK. */
    VIRTX_HOST_SYSENTER = 1u << 6,           /**< IA32_SYSENTER_CS, ESP, EIP. */
    VIRTX_HOST_FPU = 1u << 7,                /**< x87, SSE, AVX … registers and XCR0. */
    VIRTX_HOST_PKRU = 1u << 8,               /**< PKRU, when the host uses protection keys. */
    VIRTX_HOST_DEBUG_REGS = 1u << 9,         /**< DR0-DR3, DR6, DR7. */
    VIRTX_HOST_DEBUGCTL = 1u << 10,          /**< IA32_DEBUGCTL. */
    VIRTX_HOST_TSC_AUX = 1u << 11,           /**< IA32_TSC_AUX, read by RDTSCP and RDPID. */
    VIRTX_HOST_SPEC_CTRL = 1u << 12,         /**< IA32_SPEC_CTRL. */
    VIRTX_HOST_XSS = 1u << 13,               /**< IA32_XSS. */
    VIRTX_HOST_CET = 1u << 14,               /**< IA32_S_CET, SSP and its table. */
    VIRTX_HOST_DESCRIPTOR_LIMITS = 1u << 15, /**< GDTR and IDTR limits other than 0xffff. */
    VIRTX_HOST_STATE_ALL = (1u << 16) - 1,   /**< Every bit above. */
};

/**
 * @brief Which host state the embedder's code relies on, and from when on.
 *
 * The library compiles the three masks into its switch plan. A bit may stand in one mask at most
 * (::VIRTX_E_INVALID otherwise); state in none of them is never put back, which costs nothing.
 */
struct virtx_host_profile {
    /** sizeof(struct virtx_host_profile). */
    uint32_t size;
    /** Tier 1: correct whenever host code runs, in intercept handlers and in interrupt handlers
     *  inside run too. Switched at every exit. */
    uint32_t at_exit;
    /** Tier 2: correct when virtx_vcpu_run() returns to the loop. */
    uint32_t at_return;
    /** Tier 3: correct after virtx_vcpu_put(). */
    uint32_t at_put;
};

/** @brief A host that uses none of it: its own code is compiled without FPU, has no ring 3, no IST and
 *  does not address per-CPU data through FS or GS. */
extern const struct virtx_host_profile virtx_profile_bare;

/** @brief A general-purpose kernel: per-CPU data behind GS and a TSS with IST at every exit;
 *  SYSCALL, KERNEL_GS_BASE, FPU and the rest once it may run user code, that is at put. */
extern const struct virtx_host_profile virtx_profile_kernel;

/**
 * @brief Where an NMI handler is to return to, on a host whose guests own the interrupts
 *  (virtx_vm_config::interrupts_to_guest).
 *
 * Nothing but a VM exit shows an NMI to a VMX guest's run, and one that arrives between run's last look for
 * kicks and the guest would be handled by the host unseen. The host's handler replaces the RIP in its
 * interrupt frame by the answer; then run looks again. From any context, also an NMI's.
 *
 * @param virtx  the instance
 * @param rip  where the NMI arrived
 * @return where to go on: @p rip nearly always
 */
uint64_t virtx_nmi_return(const struct virtx *virtx, uint64_t rip);

#ifdef __cplusplus
}
#endif
#endif
