/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The VMCS: field encodings, the bits of its control and information fields, and named readers.
 *
 * Encodings are those of Intel SDM "Field Encoding in VMCS"; bits are those of the chapter
 * "Virtual Machine Control Structures". Nothing here knows how the memory of a VMCS is laid out:
 * all goes through VMREAD and VMWRITE.
 */
#ifndef VIRTX_VMX_VMCS_H
#define VIRTX_VMX_VMCS_H

#include "vmx/instr.h"

enum vmcs_field {
    /* 16-bit control */
    VMCS_VPID = 0x0000,
    VMCS_POSTED_VECTOR = 0x0002,
    /* 16-bit guest state: selectors in the order ES CS SS DS FS GS LDTR TR, two apart */
    VMCS_GUEST_ES_SELECTOR = 0x0800,
    VMCS_GUEST_CS_SELECTOR = 0x0802,
    VMCS_GUEST_SS_SELECTOR = 0x0804,
    VMCS_GUEST_LDTR_SELECTOR = 0x080c,
    VMCS_GUEST_TR_SELECTOR = 0x080e,
    VMCS_INTERRUPT_STATUS = 0x0810, /* RVI, and SVI from bit 8 on */
    /* 16-bit host state */
    VMCS_HOST_ES_SELECTOR = 0x0c00,
    VMCS_HOST_CS_SELECTOR = 0x0c02,
    VMCS_HOST_SS_SELECTOR = 0x0c04,
    VMCS_HOST_DS_SELECTOR = 0x0c06,
    VMCS_HOST_FS_SELECTOR = 0x0c08,
    VMCS_HOST_GS_SELECTOR = 0x0c0a,
    VMCS_HOST_TR_SELECTOR = 0x0c0c,
    /* 64-bit control */
    VMCS_IO_BITMAP_A = 0x2000,
    VMCS_IO_BITMAP_B = 0x2002,
    VMCS_MSR_BITMAP = 0x2004,
    VMCS_EXIT_MSR_STORE = 0x2006,
    VMCS_EXIT_MSR_LOAD = 0x2008,
    VMCS_ENTRY_MSR_LOAD = 0x200a,
    VMCS_PML_INDEX = 0x0812,
    VMCS_PML_ADDRESS = 0x200e,
    VMCS_TSC_OFFSET = 0x2010,
    VMCS_VIRTUAL_APIC = 0x2012,
    VMCS_APIC_ACCESS = 0x2014,
    VMCS_POSTED_DESCRIPTOR = 0x2016,
    VMCS_FUNCTION_CONTROLS = 0x2018,
    VMCS_EPTP = 0x201a,
    VMCS_EOI_EXIT0 = 0x201c, /* four, two apart */
    VMCS_EPTP_LIST = 0x2024,
    VMCS_VMREAD_BITMAP = 0x2026,
    VMCS_VMWRITE_BITMAP = 0x2028,
    VMCS_VE_INFORMATION = 0x202a,
    VMCS_XSS_BITMAP = 0x202c,
    VMCS_SUBPAGE_TABLE = 0x2030,
    /* 64-bit read-only */
    VMCS_GUEST_PHYSICAL = 0x2400,
    /* 64-bit guest state */
    VMCS_LINK_POINTER = 0x2800,
    VMCS_GUEST_DEBUGCTL = 0x2802,
    VMCS_GUEST_PAT = 0x2804,
    VMCS_GUEST_EFER = 0x2806,
    VMCS_GUEST_PERF_GLOBAL = 0x2808,
    VMCS_GUEST_PDPTE0 = 0x280a, /* two apart */
    VMCS_GUEST_BNDCFGS = 0x2812,
    VMCS_GUEST_PKRS = 0x2818,
    /* 64-bit host state */
    VMCS_HOST_PAT = 0x2c00,
    VMCS_HOST_EFER = 0x2c02,
    VMCS_HOST_PERF_GLOBAL = 0x2c04,
    VMCS_HOST_PKRS = 0x2c06,
    /* 32-bit control */
    VMCS_PIN = 0x4000,
    VMCS_PRIMARY = 0x4002,
    VMCS_EXCEPTIONS = 0x4004,
    VMCS_PF_MASK = 0x4006,
    VMCS_PF_MATCH = 0x4008,
    VMCS_CR3_TARGETS = 0x400a,
    VMCS_EXIT = 0x400c,
    VMCS_EXIT_MSR_STORE_COUNT = 0x400e,
    VMCS_EXIT_MSR_LOAD_COUNT = 0x4010,
    VMCS_ENTRY = 0x4012,
    VMCS_ENTRY_MSR_LOAD_COUNT = 0x4014,
    VMCS_ENTRY_INTERRUPTION = 0x4016,
    VMCS_ENTRY_ERROR_CODE = 0x4018,
    VMCS_ENTRY_LENGTH = 0x401a,
    VMCS_TPR_THRESHOLD = 0x401c,
    VMCS_SECONDARY = 0x401e,
    VMCS_PLE_GAP = 0x4020,
    VMCS_PLE_WINDOW = 0x4022,
    /* 32-bit read-only */
    VMCS_INSTRUCTION_ERROR = 0x4400,
    VMCS_EXIT_REASON = 0x4402,
    VMCS_EXIT_INTERRUPTION = 0x4404,
    VMCS_EXIT_ERROR_CODE = 0x4406,
    VMCS_IDT_VECTORING = 0x4408,
    VMCS_IDT_ERROR_CODE = 0x440a,
    VMCS_EXIT_LENGTH = 0x440c,
    VMCS_INSTRUCTION_INFO = 0x440e,
    /* 32-bit guest state: segments two apart as above */
    VMCS_GUEST_ES_LIMIT = 0x4800,
    VMCS_GUEST_GDTR_LIMIT = 0x4810,
    VMCS_GUEST_IDTR_LIMIT = 0x4812,
    VMCS_GUEST_ES_ATTRIBUTES = 0x4814,
    VMCS_GUEST_CS_ATTRIBUTES = 0x4816,
    VMCS_GUEST_SS_ATTRIBUTES = 0x4818,
    VMCS_GUEST_INTERRUPTIBILITY = 0x4824,
    VMCS_GUEST_ACTIVITY = 0x4826,
    VMCS_GUEST_SYSENTER_CS = 0x482a,
    VMCS_TIMER = 0x482e, /* VMX-preemption timer */
    /* 32-bit host state */
    VMCS_HOST_SYSENTER_CS = 0x4c00,
    /* natural-width control */
    VMCS_CR0_MASK = 0x6000,
    VMCS_CR4_MASK = 0x6002,
    VMCS_CR0_SHADOW = 0x6004,
    VMCS_CR4_SHADOW = 0x6006,
    VMCS_CR3_TARGET0 = 0x6008, /* and three more */
    /* natural-width read-only */
    VMCS_EXIT_QUALIFICATION = 0x6400,
    VMCS_GUEST_LINEAR = 0x640a,
    /* natural-width guest state */
    VMCS_GUEST_CR0 = 0x6800,
    VMCS_GUEST_CR3 = 0x6802,
    VMCS_GUEST_CR4 = 0x6804,
    VMCS_GUEST_ES_BASE = 0x6806,
    VMCS_GUEST_GDTR_BASE = 0x6816,
    VMCS_GUEST_IDTR_BASE = 0x6818,
    VMCS_GUEST_DR7 = 0x681a,
    VMCS_GUEST_RSP = 0x681c,
    VMCS_GUEST_RIP = 0x681e,
    VMCS_GUEST_RFLAGS = 0x6820,
    VMCS_GUEST_PENDING_DEBUG = 0x6822,
    VMCS_GUEST_SYSENTER_ESP = 0x6824,
    VMCS_GUEST_SYSENTER_EIP = 0x6826,
    VMCS_GUEST_S_CET = 0x6828,
    VMCS_GUEST_SSP = 0x682a,
    VMCS_GUEST_SSP_TABLE = 0x682c,
    /* natural-width host state */
    VMCS_HOST_CR0 = 0x6c00,
    VMCS_HOST_CR3 = 0x6c02,
    VMCS_HOST_CR4 = 0x6c04,
    VMCS_HOST_FS_BASE = 0x6c06,
    VMCS_HOST_GS_BASE = 0x6c08,
    VMCS_HOST_TR_BASE = 0x6c0a,
    VMCS_HOST_GDTR_BASE = 0x6c0c,
    VMCS_HOST_IDTR_BASE = 0x6c0e,
    VMCS_HOST_SYSENTER_ESP = 0x6c10,
    VMCS_HOST_SYSENTER_EIP = 0x6c12,
    VMCS_HOST_RSP = 0x6c14,
    VMCS_HOST_RIP = 0x6c16,
    VMCS_HOST_S_CET = 0x6c18,
    VMCS_HOST_SSP = 0x6c1a,
    VMCS_HOST_SSP_TABLE = 0x6c1c,
};

/* Pin-based controls. */
#define PIN_INTERRUPT        (1u << 0)
#define PIN_NMI              (1u << 3)
#define PIN_VIRTUAL_NMI      (1u << 5)
#define PIN_TIMER            (1u << 6)
#define PIN_POSTED_INTERRUPT (1u << 7)

/* Primary processor-based controls. */
#define PRIMARY_INTERRUPT_WINDOW (1u << 2)
#define PRIMARY_TSC_OFFSET       (1u << 3)
#define PRIMARY_HLT              (1u << 7)
#define PRIMARY_INVLPG           (1u << 9)
#define PRIMARY_MWAIT            (1u << 10)
#define PRIMARY_RDPMC            (1u << 11)
#define PRIMARY_RDTSC            (1u << 12)
#define PRIMARY_CR3_LOAD         (1u << 15)
#define PRIMARY_CR3_STORE        (1u << 16)
#define PRIMARY_CR8_LOAD         (1u << 19)
#define PRIMARY_CR8_STORE        (1u << 20)
#define PRIMARY_TPR_SHADOW       (1u << 21)
#define PRIMARY_NMI_WINDOW       (1u << 22)
#define PRIMARY_MOV_DR           (1u << 23)
#define PRIMARY_IO               (1u << 24)
#define PRIMARY_IO_BITMAPS       (1u << 25)
#define PRIMARY_TRAP_FLAG        (1u << 27)
#define PRIMARY_MSR_BITMAPS      (1u << 28)
#define PRIMARY_MONITOR          (1u << 29)
#define PRIMARY_PAUSE            (1u << 30)
#define PRIMARY_SECONDARY        (1u << 31)

/* Secondary processor-based controls. */
#define SECONDARY_APIC_ACCESS       (1u << 0)
#define SECONDARY_EPT               (1u << 1)
#define SECONDARY_DESCRIPTOR_TABLE  (1u << 2)
#define SECONDARY_RDTSCP            (1u << 3)
#define SECONDARY_X2APIC            (1u << 4)
#define SECONDARY_VPID              (1u << 5)
#define SECONDARY_WBINVD            (1u << 6)
#define SECONDARY_UNRESTRICTED      (1u << 7)
#define SECONDARY_APIC_REGISTERS    (1u << 8)
#define SECONDARY_VIRTUAL_INTERRUPT (1u << 9)
#define SECONDARY_PAUSE_LOOP        (1u << 10)
#define SECONDARY_RDRAND            (1u << 11)
#define SECONDARY_INVPCID           (1u << 12)
#define SECONDARY_FUNCTIONS         (1u << 13)
#define SECONDARY_SHADOWING         (1u << 14)
#define SECONDARY_RDSEED            (1u << 16)
#define SECONDARY_PML               (1u << 17)
#define SECONDARY_VE                (1u << 18)
#define SECONDARY_XSAVES            (1u << 20)
#define SECONDARY_MODE_EXECUTE      (1u << 22)
#define SECONDARY_SUBPAGE           (1u << 23)
#define SECONDARY_TSC_SCALING       (1u << 25)

/* VM-exit controls. */
#define EXIT_SAVE_DEBUG    (1u << 2)
#define EXIT_HOST_64       (1u << 9)
#define EXIT_LOAD_PERF     (1u << 12)
#define EXIT_ACK_INTERRUPT (1u << 15)
#define EXIT_SAVE_PAT      (1u << 18)
#define EXIT_LOAD_PAT      (1u << 19)
#define EXIT_SAVE_EFER     (1u << 20)
#define EXIT_LOAD_EFER     (1u << 21)
#define EXIT_SAVE_TIMER    (1u << 22)
#define EXIT_LOAD_CET      (1u << 28)
#define EXIT_LOAD_PKRS     (1u << 29)

/* VM-entry controls. */
#define ENTRY_LOAD_DEBUG   (1u << 2)
#define ENTRY_IA32E        (1u << 9)
#define ENTRY_SMM          (1u << 10)
#define ENTRY_DUAL_MONITOR (1u << 11)
#define ENTRY_LOAD_PERF    (1u << 13)
#define ENTRY_LOAD_PAT     (1u << 14)
#define ENTRY_LOAD_EFER    (1u << 15)
#define ENTRY_LOAD_BNDCFGS (1u << 16)
#define ENTRY_LOAD_CET     (1u << 20)
#define ENTRY_LOAD_PKRS    (1u << 22)

/* The three interruption-information formats (entry, exit, IDT-vectoring) share these. */
#define INTERRUPTION_VECTOR        0xffu
#define INTERRUPTION_TYPE_SHIFT    8
#define INTERRUPTION_TYPE          (7u << 8)
#define INTERRUPTION_ERROR         (1u << 11)
#define INTERRUPTION_NMI_UNBLOCKED (1u << 12) /* exit information: by an IRET that faulted */
#define INTERRUPTION_VALID         (1u << 31)
#define INTERRUPTION_OTHER         7u /* type: a monitor-trap-flag exit */

/* Basic exit reasons (Intel SDM appendix "VMX Basic Exit Reasons"). */
enum vmx_reason {
    VMX_REASON_EXCEPTION = 0,
    VMX_REASON_INTERRUPT = 1,
    VMX_REASON_TRIPLE_FAULT = 2,
    VMX_REASON_INIT = 3,
    VMX_REASON_SIPI = 4,
    VMX_REASON_INTERRUPT_WINDOW = 7,
    VMX_REASON_NMI_WINDOW = 8,
    VMX_REASON_TASK_SWITCH = 9,
    VMX_REASON_CPUID = 10,
    VMX_REASON_GETSEC = 11,
    VMX_REASON_HLT = 12,
    VMX_REASON_INVD = 13,
    VMX_REASON_INVLPG = 14,
    VMX_REASON_RDPMC = 15,
    VMX_REASON_RDTSC = 16,
    VMX_REASON_RSM = 17,
    VMX_REASON_VMCALL = 18,
    VMX_REASON_VMCLEAR = 19, /* the first of the VMX instructions … */
    VMX_REASON_VMXON = 27,   /* … and the last of the first nine */
    VMX_REASON_CR = 28,
    VMX_REASON_DR = 29,
    VMX_REASON_IO = 30,
    VMX_REASON_RDMSR = 31,
    VMX_REASON_WRMSR = 32,
    VMX_REASON_ENTRY_GUEST_STATE = 33,
    VMX_REASON_ENTRY_MSR = 34,
    VMX_REASON_MWAIT = 36,
    VMX_REASON_TRAP_FLAG = 37,
    VMX_REASON_MONITOR = 39,
    VMX_REASON_PAUSE = 40,
    VMX_REASON_ENTRY_MACHINE_CHECK = 41,
    VMX_REASON_TPR = 43,
    VMX_REASON_APIC_ACCESS = 44,
    VMX_REASON_EOI = 45,
    VMX_REASON_GDTR_IDTR = 46,
    VMX_REASON_LDTR_TR = 47,
    VMX_REASON_EPT_VIOLATION = 48,
    VMX_REASON_EPT_MISCONFIG = 49,
    VMX_REASON_INVEPT = 50,
    VMX_REASON_RDTSCP = 51,
    VMX_REASON_TIMER = 52,
    VMX_REASON_INVVPID = 53,
    VMX_REASON_WBINVD = 54,
    VMX_REASON_XSETBV = 55,
    VMX_REASON_APIC_WRITE = 56,
    VMX_REASON_RDRAND = 57,
    VMX_REASON_INVPCID = 58,
    VMX_REASON_VMFUNC = 59,
    VMX_REASON_RDSEED = 61,
    VMX_REASON_PML_FULL = 62,
};
#define VMX_REASON_BASIC        0xffffu
#define VMX_REASON_ENTRY_FAILED (1u << 31)

/* Exit qualification of EPT violations (Intel SDM "Exit Qualification for EPT Violations"). */
#define EPT_QUALIFICATION_ACCESS        0x7u
#define EPT_QUALIFICATION_RIGHTS_SHIFT  3
#define EPT_QUALIFICATION_LINEAR        (1u << 7) /* the guest linear address is valid */
#define EPT_QUALIFICATION_TRANSLATION   (1u << 8) /* set: the access itself; clear: a table walk */
#define EPT_QUALIFICATION_NMI_UNBLOCKED (1u << 12)

/* The rights of a pending debug exception that the field may hold. */
#define PENDING_DEBUG_ENABLED_BREAKPOINT (1u << 12)
#define PENDING_DEBUG_SINGLE_STEP        (1u << 14)
#define PENDING_DEBUG_RTM                (1u << 16)
#define PENDING_DEBUG_MASK               0x400fu /* those of DR6 */

/* EPT pointer. */
#define EPTP_WRITE_BACK   6u
#define EPTP_WALK_4       (3u << 3)
#define EPTP_WALK_5       (4u << 3)
#define EPTP_AD           (1u << 6)
#define EPTP_SHADOW_STACK (1u << 7)

/* 32 bits wide; not truncated, since VMREAD clears the upper half. */
static inline uint64_t vmcs_exit_reason(void)
{
    return vmx_vmread(VMCS_EXIT_REASON);
}
static inline uint32_t vmcs_exit_length(void)
{
    return (uint32_t)vmx_vmread(VMCS_EXIT_LENGTH);
}
static inline uint64_t vmcs_exit_qualification(void)
{
    return vmx_vmread(VMCS_EXIT_QUALIFICATION);
}
static inline uint32_t vmcs_exit_interruption(void)
{
    return (uint32_t)vmx_vmread(VMCS_EXIT_INTERRUPTION);
}
static inline uint32_t vmcs_exit_error_code(void)
{
    return (uint32_t)vmx_vmread(VMCS_EXIT_ERROR_CODE);
}
static inline uint32_t vmcs_idt_vectoring(void)
{
    return (uint32_t)vmx_vmread(VMCS_IDT_VECTORING);
}
static inline uint32_t vmcs_instruction_info(void)
{
    return (uint32_t)vmx_vmread(VMCS_INSTRUCTION_INFO);
}
static inline uint64_t vmcs_guest_physical(void)
{
    return vmx_vmread(VMCS_GUEST_PHYSICAL);
}
static inline uint64_t vmcs_guest_linear(void)
{
    return vmx_vmread(VMCS_GUEST_LINEAR);
}
static inline uint64_t vmcs_guest_rip(void)
{
    return vmx_vmread(VMCS_GUEST_RIP);
}

/* Fields of the eight segments, by enum virtx_seg_index. */
static inline uint32_t vmcs_seg_selector(unsigned seg)
{
    return VMCS_GUEST_ES_SELECTOR + 2 * seg;
}
static inline uint32_t vmcs_seg_limit(unsigned seg)
{
    return VMCS_GUEST_ES_LIMIT + 2 * seg;
}
static inline uint32_t vmcs_seg_attributes(unsigned seg)
{
    return VMCS_GUEST_ES_ATTRIBUTES + 2 * seg;
}
static inline uint32_t vmcs_seg_base(unsigned seg)
{
    return VMCS_GUEST_ES_BASE + 2 * seg;
}

#endif
