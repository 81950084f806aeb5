/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * @brief What the processor under the library can do, in neutral words.
 */
#ifndef VIRTX_CAPS_H
#define VIRTX_CAPS_H

#include <stdint.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/** @brief Optional hardware features. Each can be switched off at virtx_open(); the library then
 *  does by the next best way what the feature would have done. */
enum virtx_feature {
    VIRTX_FEATURE_NESTED_PAGING = 1u << 0,      /**< EPT, NPT. */
    VIRTX_FEATURE_UNPAGED_GUEST = 1u << 1,      /**< Real mode and unpaged protected mode run natively
                                                     (VMX: unrestricted guest; SVM: always). */
    VIRTX_FEATURE_TLB_TAGS = 1u << 2,           /**< VPID, ASID. */
    VIRTX_FEATURE_NEXT_RIP = 1u << 3,           /**< The length of intercepted instructions is reported. */
    VIRTX_FEATURE_DECODE_ASSIST = 1u << 4,      /**< Operands of CR, DR, INVLPG, INTn exits are reported. */
    VIRTX_FEATURE_LARGE_2M = 1u << 5,           /**< Nested tables may map 2 MiB at once. */
    VIRTX_FEATURE_LARGE_1G = 1u << 6,           /**< Nested tables may map 1 GiB at once. */
    VIRTX_FEATURE_NESTED_AD = 1u << 7,          /**< Accessed and dirty flags in nested tables. */
    VIRTX_FEATURE_DIRTY_LOGGING = 1u << 8,      /**< Page-modification logging. */
    VIRTX_FEATURE_MSR_BITMAP = 1u << 9,         /**< Per-MSR intercepts. */
    VIRTX_FEATURE_IO_BITMAP = 1u << 10,         /**< Per-port intercepts. */
    VIRTX_FEATURE_TPR_SHADOW = 1u << 11,        /**< CR8 without exits: TPR shadow, V_TPR. */
    VIRTX_FEATURE_APIC_ACCESS = 1u << 12,       /**< APIC-access page. */
    VIRTX_FEATURE_APIC_REGISTERS = 1u << 13,    /**< APIC-register virtualization. */
    VIRTX_FEATURE_VIRTUAL_INTERRUPT = 1u << 14, /**< Virtual-interrupt delivery. */
    VIRTX_FEATURE_POSTED_INTERRUPT = 1u << 15,  /**< Posted interrupts: edge-triggered ones reach a guest that runs on
                                                     another CPU without an exit. In use where the host has
                                                     virtx_host_ops::interrupt, notify_cpu and posted_vector. */
    VIRTX_FEATURE_VIRTUAL_NMI = 1u << 16,       /**< NMI blocking is tracked by the hardware. */
    VIRTX_FEATURE_TIMER = 1u << 17,             /**< A time at which the guest exits by itself (VMX-preemption timer):
                                                     virtx_irq_source::deadline, virtx_vcpu_deadline(). */
    VIRTX_FEATURE_TSC_SCALING = 1u << 18,       /**< TSC multiplier, TSC ratio MSR. */
    VIRTX_FEATURE_PAUSE_FILTER = 1u << 19,      /**< PAUSE-loop exiting, PAUSE filter. */
    VIRTX_FEATURE_VIRTUAL_GIF = 1u << 20,       /**< SVM: virtual GIF. */
    VIRTX_FEATURE_EXECUTE_ONLY = 1u << 21,      /**< Nested execute-only mappings. */
    VIRTX_FEATURE_FLUSH_BY_TAG = 1u << 22,      /**< One tag's TLB entries can be flushed alone. */
    VIRTX_FEATURE_DESCRIPTOR_EXIT = 1u << 23,   /**< LGDT … STR can be intercepted. */
    VIRTX_FEATURE_EFER_SWITCH = 1u << 24,       /**< EFER is switched by entry and exit themselves. */
    VIRTX_FEATURE_PAT_SWITCH = 1u << 25,        /**< PAT is switched by entry and exit themselves. */
    VIRTX_FEATURE_CLEAN_BITS = 1u << 26,        /**< SVM: VMCB clean bits. */
    VIRTX_FEATURE_RDTSCP = 1u << 27,            /**< The guest may use RDTSCP. */
    VIRTX_FEATURE_INVPCID = 1u << 28,           /**< The guest may use INVPCID. */
    VIRTX_FEATURE_XSAVES = 1u << 29,            /**< The guest may use XSAVES and XRSTORS. */
    VIRTX_FEATURE_VIRTUAL_PRIORITY = 1u << 30,  /**< SVM: a virtual interrupt with a priority waits for CR8 to
                                                     fall (V_INTR_PRIO); else CR8 writes exit meanwhile. */
    VIRTX_FEATURE_FAULT_FILTER = 1u << 31,      /**< Page faults exit by their error code: under shadow paging the
                                                     guest's own, on entries that are not present, need not. */
    VIRTX_FEATURE_VIRTUAL_X2APIC = 1ull << 32,   /**< x2APIC registers without exits. */
};

/** @brief The capability record of an instance. */
struct virtx_caps {
    const char *backend;           /**< Name of the backend: "vmx", "svm", … */
    uint64_t features;             /**< ::virtx_feature bits in use. */
    uint64_t hardware;             /**< ::virtx_feature bits that the processor has, disabled or not. */
    uint32_t tlb_tags;             /**< Usable VPIDs or ASIDs for guests; 0: none. */
    uint8_t physical_bits;         /**< Width of host-physical addresses (MAXPHYADDR). */
    uint8_t linear_bits;           /**< Width of linear addresses: 48. */
    uint8_t guest_physical_bits;   /**< Width of guest-physical addresses that can be mapped. */
    bool kick_needs_nmi;           /**< A guest with passed-through interrupts is kicked only by NMI. */
};

/** @brief The name of a feature (one bit of ::virtx_feature), or "unknown feature". */
const char *virtx_feature_name(uint64_t feature);

#ifdef __cplusplus
}
#endif
#endif
