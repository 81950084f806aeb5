/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * @brief The registers of a virtual CPU, in groups, the same on every backend.
 *
 * What virtx_vcpu_get() returns on one backend, virtx_vcpu_set() accepts on another. Every value is
 * the guest's own view: CR0 and CR4 as the guest wrote them, not as the hardware runs with them.
 */
#ifndef VIRTX_STATE_H
#define VIRTX_STATE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** @brief Index of a general-purpose register, in the encoding order of the instruction set. */
enum virtx_gpr {
    VIRTX_RAX, VIRTX_RCX, VIRTX_RDX, VIRTX_RBX, VIRTX_RSP, VIRTX_RBP, VIRTX_RSI, VIRTX_RDI,
    VIRTX_R8, VIRTX_R9, VIRTX_R10, VIRTX_R11, VIRTX_R12, VIRTX_R13, VIRTX_R14, VIRTX_R15,
    VIRTX_GPR_COUNT
};

/** @brief Index of a segment register; the first six in encoding order. */
enum virtx_seg_index {
    VIRTX_ES, VIRTX_CS, VIRTX_SS, VIRTX_DS, VIRTX_FS, VIRTX_GS, VIRTX_LDTR, VIRTX_TR,
    VIRTX_SEG_COUNT
};

/**
 * @brief A segment register with its hidden part (descriptor cache).
 *
 * `attributes` has the layout of VMX access rights (Intel SDM "Guest Register State"): type 3:0, S 4, DPL
 * 6:5, P 7, AVL 12, L 13, D/B 14, G 15, unusable 16.
 */
struct virtx_segment {
    uint64_t base;       /**< Linear base address. */
    uint32_t limit;      /**< Limit in bytes, already scaled by G. */
    uint32_t attributes; /**< Access rights, ::virtx_segment_attribute. */
    uint16_t selector;   /**< Visible part. */
    uint16_t pad[3];     /**< Zero. */
};

/** @brief Bits of virtx_segment::attributes. */
enum virtx_segment_attribute {
    VIRTX_SEG_TYPE = 0xf,            /**< Type field. */
    VIRTX_SEG_S = 1u << 4,           /**< Code or data (else system). */
    VIRTX_SEG_DPL_SHIFT = 5,         /**< Position of the privilege level. */
    VIRTX_SEG_DPL = 3u << 5,         /**< Privilege level. */
    VIRTX_SEG_P = 1u << 7,           /**< Present. */
    VIRTX_SEG_AVL = 1u << 12,        /**< Available to software. */
    VIRTX_SEG_L = 1u << 13,          /**< 64-bit code. */
    VIRTX_SEG_DB = 1u << 14,         /**< 32-bit default size. */
    VIRTX_SEG_G = 1u << 15,          /**< Limit counted in pages. */
    VIRTX_SEG_UNUSABLE = 1u << 16,   /**< A null selector was loaded. */
};

/** @brief GDTR or IDTR. */
struct virtx_table_register {
    uint64_t base;   /**< Linear base address. */
    uint32_t limit;  /**< Limit in bytes: 0 to 0xffff. */
    uint32_t pad;    /**< Zero. */
};

/** @brief Why interrupts are held off although RFLAGS.IF or the absence of an NMI would allow them. */
enum virtx_interruptibility {
    VIRTX_BLOCKED_BY_STI = 1u << 0,    /**< The instruction after STI. */
    VIRTX_BLOCKED_BY_MOV_SS = 1u << 1, /**< The instruction after MOV SS or POP SS. */
    VIRTX_BLOCKED_BY_NMI = 1u << 3,    /**< An NMI handler runs; ends at IRET. */
};

/** @brief What the processor does between instructions. */
enum virtx_activity {
    VIRTX_ACTIVE,        /**< Executes instructions. */
    VIRTX_HALTED,        /**< HLT; an interrupt, NMI or INIT wakes it. */
    VIRTX_SHUTDOWN,      /**< After a triple fault; only virtx_vcpu_reset() or INIT leads out. */
    VIRTX_WAIT_FOR_SIPI, /**< An application processor before its start-up IPI. */
};

/** @brief The groups of registers; bits for virtx_vcpu_get() and virtx_vcpu_set(). */
enum virtx_state_group {
    VIRTX_STATE_GPR = 1u << 0,     /**< virtx_state::gpr but RSP. */
    VIRTX_STATE_RIP = 1u << 1,     /**< `rip`. */
    VIRTX_STATE_RSP = 1u << 2,     /**< gpr[VIRTX_RSP]. */
    VIRTX_STATE_RFLAGS = 1u << 3,  /**< `rflags`. */
    VIRTX_STATE_SEG = 1u << 4,     /**< `seg`, with LDTR and TR. */
    VIRTX_STATE_TABLES = 1u << 5,  /**< `gdtr`, `idtr`. */
    VIRTX_STATE_CR = 1u << 6,      /**< `cr0`, `cr2`, `cr3`, `cr4`, `cr8`, `efer`, `pdpte`. */
    VIRTX_STATE_DR = 1u << 7,      /**< `dr`, `dr6`, `dr7`, `debugctl`. */
    VIRTX_STATE_SYSCALL = 1u << 8, /**< `star` … `sysenter_eip`, `kernel_gs_base`. */
    VIRTX_STATE_MSR = 1u << 9,     /**< `pat`, `apic_base`, `misc_enable`, `spec_ctrl`, `tsc_aux`. */
    VIRTX_STATE_TSC = 1u << 10,    /**< `tsc`, `tsc_adjust`. */
    VIRTX_STATE_INTR = 1u << 11,   /**< `interruptibility`, `pending_debug`, `activity`. */
    VIRTX_STATE_XCR = 1u << 12,    /**< `xcr0`, `xss`. */
    VIRTX_STATE_ALL = (1u << 13) - 1, /**< All of virtx_state. FPU registers have calls of their own. */
};

/** @brief All registers of a virtual CPU but the FPU's (see virtx_vcpu_fpu_get()). */
struct virtx_state {
    uint64_t gpr[VIRTX_GPR_COUNT];            /**< General-purpose registers by ::virtx_gpr. */
    uint64_t rip;                             /**< Instruction pointer. */
    uint64_t rflags;                          /**< Flags; bit 1 is always set. */
    struct virtx_segment seg[VIRTX_SEG_COUNT]; /**< Segment registers by ::virtx_seg_index. */
    struct virtx_table_register gdtr;         /**< GDTR. */
    struct virtx_table_register idtr;         /**< IDTR. */
    uint64_t cr0;                             /**< CR0. */
    uint64_t cr2;                             /**< CR2. */
    uint64_t cr3;                             /**< CR3. */
    uint64_t cr4;                             /**< CR4. */
    uint64_t cr8;                             /**< Task priority, 0 to 15. */
    uint64_t efer;                            /**< IA32_EFER; SVME is never set. */
    uint64_t pdpte[4];                        /**< The loaded page-directory-pointer entries when PAE
                                                   paging without long mode is on, else ignored. */
    uint64_t dr[4];                           /**< DR0 to DR3. */
    uint64_t dr6;                             /**< DR6. */
    uint64_t dr7;                             /**< DR7. */
    uint64_t debugctl;                        /**< IA32_DEBUGCTL. */
    uint64_t star;                            /**< IA32_STAR. */
    uint64_t lstar;                           /**< IA32_LSTAR. */
    uint64_t cstar;                           /**< IA32_CSTAR. */
    uint64_t fmask;                           /**< IA32_FMASK. */
    uint64_t kernel_gs_base;                  /**< IA32_KERNEL_GS_BASE. */
    uint64_t sysenter_cs;                     /**< IA32_SYSENTER_CS. */
    uint64_t sysenter_esp;                    /**< IA32_SYSENTER_ESP. */
    uint64_t sysenter_eip;                    /**< IA32_SYSENTER_EIP. */
    uint64_t pat;                             /**< IA32_PAT. */
    uint64_t apic_base;                       /**< IA32_APIC_BASE. */
    uint64_t misc_enable;                     /**< IA32_MISC_ENABLE. */
    uint64_t spec_ctrl;                       /**< IA32_SPEC_CTRL. */
    uint64_t tsc_aux;                         /**< IA32_TSC_AUX. */
    uint64_t tsc;                             /**< Guest time-stamp counter at the time of the call. */
    uint64_t tsc_adjust;                      /**< IA32_TSC_ADJUST. */
    uint64_t pending_debug;                   /**< Pending debug exceptions in DR6 layout. */
    uint32_t interruptibility;                /**< ::virtx_interruptibility bits. */
    uint32_t activity;                        /**< ::virtx_activity. */
    uint64_t xcr0;                            /**< XCR0; bit 0 is always set. */
    uint64_t xss;                             /**< IA32_XSS. */
};

/** @brief A start state for virtx_vcpu_reset(). */
enum virtx_preset {
    VIRTX_PRESET_RESET,  /**< The processor after RESET: real mode, CS base 0xffff0000, RIP 0xfff0
                              (Intel SDM "Processor State After Reset"). */
    VIRTX_PRESET_REAL,   /**< Real mode, all segments 0, RIP 0. */
    VIRTX_PRESET_FLAT32, /**< Protected mode without paging, flat 4 GiB segments, interrupts off. */
    VIRTX_PRESET_FLAT64, /**< 64-bit mode with paging on; the caller sets CR3 to its own tables
                              before the first run. */
    VIRTX_PRESET_INIT,   /**< After INIT: as RESET, but CR0.CD/NW, FPU, MSRs and DRs that INIT leaves
                              alone keep their values. */
    VIRTX_PRESET_COUNT
};

#ifdef __cplusplus
}
#endif
#endif
