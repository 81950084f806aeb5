/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The virtual machine control block: AMD APM volume 2, "Layout of VMCB" (appendix B), with the
 * offsets it gives; exit codes from "SVM Intercept Exit Codes" (appendix C).
 */
#ifndef VIRTX_SVM_VMCB_H
#define VIRTX_SVM_VMCB_H

#include <stddef.h>
#include <stdint.h>

/* A segment register, GDTR or IDTR. `attributes`: descriptor bits 47:40 and 55:52 side by side. */
struct vmcb_segment {
    uint16_t selector;
    uint16_t attributes;
    uint32_t limit;
    uint64_t base;
};

enum vmcb_attribute {
    VMCB_ATTRIBUTE_P = 1u << 7,
    VMCB_ATTRIBUTE_L = 1u << 9,
    VMCB_ATTRIBUTE_DB = 1u << 10,
};

struct vmcb_control {
    uint16_t cr_read, cr_write; /* intercepts: bit n is CRn */
    uint16_t dr_read, dr_write;
    uint32_t exceptions;
    uint32_t misc1, misc2, misc3; /* enum vmcb_misc1 and so on */
    uint8_t reserved_018[0x03c - 0x018];
    uint16_t pause_threshold;
    uint16_t pause_count;
    uint64_t iopm;
    uint64_t msrpm;
    uint64_t tsc_offset;
    uint32_t asid;
    uint8_t tlb_control; /* enum vmcb_tlb_control */
    uint8_t reserved_05d[3];
    uint8_t v_tpr;
    uint8_t v_irq;          /* enum vmcb_v_irq */
    uint8_t v_intr_prio;    /* 3:0 priority, 4: ignore the TPR */
    uint8_t v_intr_masking; /* enum vmcb_v_masking */
    uint8_t v_intr_vector;
    uint8_t reserved_065[3];
    uint64_t interrupt_state; /* bit 0: shadow, bit 1: guest's interrupt mask */
    uint64_t exit_code;
    uint64_t exit_info1;
    uint64_t exit_info2;
    uint64_t exit_int_info;  /* as event_inj */
    uint64_t nested_control; /* bit 0: nested paging */
    uint64_t avic_apic_bar;
    uint64_t ghcb;
    uint64_t event_inj; /* enum vmcb_event and the error code in 63:32 */
    uint64_t nested_cr3;
    uint64_t lbr_control;
    uint32_t clean; /* enum vmcb_clean: bit set, nothing changed since the last exit */
    uint32_t reserved_0c4;
    uint64_t next_rip;
    uint8_t fetched;
    uint8_t bytes[15];
    uint8_t reserved_0e0[0x400 - 0x0e0];
};

struct vmcb_save {
    struct vmcb_segment es, cs, ss, ds, fs, gs, gdtr, ldtr, idtr, tr;
    uint8_t reserved_0a0[0x0cb - 0x0a0];
    uint8_t cpl;
    uint32_t reserved_0cc;
    uint64_t efer;
    uint8_t reserved_0d8[0x148 - 0x0d8];
    uint64_t cr4, cr3, cr0;
    uint64_t dr7, dr6;
    uint64_t rflags, rip;
    uint8_t reserved_180[0x1d8 - 0x180];
    uint64_t rsp;
    uint64_t s_cet, ssp, isst;
    uint64_t rax;
    uint64_t star, lstar, cstar, sfmask;
    uint64_t kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t cr2;
    uint8_t reserved_248[0x268 - 0x248];
    uint64_t g_pat;
    uint64_t debugctl;
    uint64_t br_from, br_to, exception_from, exception_to;
    uint8_t reserved_298[0xc00 - 0x298];
};

struct vmcb {
    struct vmcb_control control;
    struct vmcb_save save;
};

#define VMCB_AT(field, offset)                                                                     \
    _Static_assert(offsetof(struct vmcb, field) == (offset), "VMCB offset of " #field)
VMCB_AT(control.cr_read, 0x000);
VMCB_AT(control.dr_read, 0x004);
VMCB_AT(control.exceptions, 0x008);
VMCB_AT(control.misc1, 0x00c);
VMCB_AT(control.misc2, 0x010);
VMCB_AT(control.misc3, 0x014);
VMCB_AT(control.pause_threshold, 0x03c);
VMCB_AT(control.pause_count, 0x03e);
VMCB_AT(control.iopm, 0x040);
VMCB_AT(control.msrpm, 0x048);
VMCB_AT(control.tsc_offset, 0x050);
VMCB_AT(control.asid, 0x058);
VMCB_AT(control.tlb_control, 0x05c);
VMCB_AT(control.v_tpr, 0x060);
VMCB_AT(control.v_intr_vector, 0x064);
VMCB_AT(control.interrupt_state, 0x068);
VMCB_AT(control.exit_code, 0x070);
VMCB_AT(control.exit_info1, 0x078);
VMCB_AT(control.exit_info2, 0x080);
VMCB_AT(control.exit_int_info, 0x088);
VMCB_AT(control.nested_control, 0x090);
VMCB_AT(control.event_inj, 0x0a8);
VMCB_AT(control.nested_cr3, 0x0b0);
VMCB_AT(control.lbr_control, 0x0b8);
VMCB_AT(control.clean, 0x0c0);
VMCB_AT(control.next_rip, 0x0c8);
VMCB_AT(control.fetched, 0x0d0);
VMCB_AT(control.bytes, 0x0d1);
VMCB_AT(save, 0x400);
VMCB_AT(save.cs, 0x410);
VMCB_AT(save.gdtr, 0x460);
VMCB_AT(save.ldtr, 0x470);
VMCB_AT(save.idtr, 0x480);
VMCB_AT(save.tr, 0x490);
VMCB_AT(save.cpl, 0x4cb);
VMCB_AT(save.efer, 0x4d0);
VMCB_AT(save.cr4, 0x548);
VMCB_AT(save.cr0, 0x558);
VMCB_AT(save.dr7, 0x560);
VMCB_AT(save.rflags, 0x570);
VMCB_AT(save.rip, 0x578);
VMCB_AT(save.rsp, 0x5d8);
VMCB_AT(save.rax, 0x5f8);
VMCB_AT(save.star, 0x600);
VMCB_AT(save.kernel_gs_base, 0x620);
VMCB_AT(save.sysenter_eip, 0x638);
VMCB_AT(save.cr2, 0x640);
VMCB_AT(save.g_pat, 0x668);
VMCB_AT(save.debugctl, 0x670);
VMCB_AT(save.exception_to, 0x690);
#undef VMCB_AT
_Static_assert(sizeof(struct vmcb) == 4096, "the VMCB is one page");

/* Intercepts in control.misc1, control.misc2, control.misc3. */
enum vmcb_misc1 {
    VMCB_INTR = 1u << 0,
    VMCB_NMI = 1u << 1,
    VMCB_SMI = 1u << 2,
    VMCB_INIT = 1u << 3,
    VMCB_VINTR = 1u << 4,
    VMCB_CR0_SELECTIVE = 1u << 5, /* writes of CR0 that change more than TS and MP */
    VMCB_IDTR_READ = 1u << 6,
    VMCB_GDTR_READ = 1u << 7,
    VMCB_LDTR_READ = 1u << 8,
    VMCB_TR_READ = 1u << 9,
    VMCB_IDTR_WRITE = 1u << 10,
    VMCB_GDTR_WRITE = 1u << 11,
    VMCB_LDTR_WRITE = 1u << 12,
    VMCB_TR_WRITE = 1u << 13,
    VMCB_RDTSC = 1u << 14,
    VMCB_RDPMC = 1u << 15,
    VMCB_PUSHF = 1u << 16,
    VMCB_POPF = 1u << 17,
    VMCB_CPUID = 1u << 18,
    VMCB_RSM = 1u << 19,
    VMCB_IRET = 1u << 20,
    VMCB_INTN = 1u << 21,
    VMCB_INVD = 1u << 22,
    VMCB_PAUSE = 1u << 23,
    VMCB_HLT = 1u << 24,
    VMCB_INVLPG = 1u << 25,
    VMCB_INVLPGA = 1u << 26,
    VMCB_IOIO = 1u << 27,
    VMCB_MSR = 1u << 28,
    VMCB_TASK_SWITCH = 1u << 29,
    VMCB_FERR_FREEZE = 1u << 30,
    VMCB_SHUTDOWN = 1u << 31,
};

enum vmcb_misc2 {
    VMCB_VMRUN = 1u << 0,
    VMCB_VMMCALL = 1u << 1,
    VMCB_VMLOAD = 1u << 2,
    VMCB_VMSAVE = 1u << 3,
    VMCB_STGI = 1u << 4,
    VMCB_CLGI = 1u << 5,
    VMCB_SKINIT = 1u << 6,
    VMCB_RDTSCP = 1u << 7,
    VMCB_ICEBP = 1u << 8,
    VMCB_WBINVD = 1u << 9,
    VMCB_MONITOR = 1u << 10,
    VMCB_MWAIT = 1u << 11,
    VMCB_MWAIT_ARMED = 1u << 12,
    VMCB_XSETBV = 1u << 13,
    VMCB_RDPRU = 1u << 14,
};

enum vmcb_misc3 {
    VMCB_INVLPGB = 1u << 0,
    VMCB_INVLPGB_ILLEGAL = 1u << 1,
    VMCB_INVPCID = 1u << 2,
    VMCB_MCOMMIT = 1u << 3,
    VMCB_TLBSYNC = 1u << 4,
};

enum vmcb_tlb_control {
    VMCB_FLUSH_NOTHING = 0,
    VMCB_FLUSH_ALL = 1,
    VMCB_FLUSH_ASID = 3,
};

enum vmcb_v_irq { VMCB_V_IRQ = 1u << 0 };
enum vmcb_v_prio { VMCB_V_IGN_TPR = 1u << 4 };
enum vmcb_v_masking { VMCB_V_INTR_MASKING = 1u << 0 };
enum vmcb_interrupt_state { VMCB_SHADOW = 1u << 0 };
enum vmcb_nested { VMCB_NP_ENABLE = 1u << 0 };

enum vmcb_clean {
    VMCB_CLEAN_INTERCEPTS = 1u << 0, /* intercepts, TSC offset, PAUSE filter */
    VMCB_CLEAN_BITMAPS = 1u << 1,    /* addresses of the permission maps */
    VMCB_CLEAN_ASID = 1u << 2,
    VMCB_CLEAN_TPR = 1u << 3, /* V_* fields */
    VMCB_CLEAN_NP = 1u << 4,  /* nested CR3, guest PAT */
    VMCB_CLEAN_CR = 1u << 5,  /* CR0, CR3, CR4, EFER */
    VMCB_CLEAN_DR = 1u << 6,  /* DR6, DR7 */
    VMCB_CLEAN_DT = 1u << 7,  /* GDTR, IDTR */
    VMCB_CLEAN_SEG = 1u << 8, /* CS DS SS ES, CPL */
    VMCB_CLEAN_CR2 = 1u << 9,
    VMCB_CLEAN_ALL = (1u << 10) - 1,
};

/* EVENTINJ and EXITINTINFO. */
enum vmcb_event {
    VMCB_EVENT_VECTOR = 0xff,
    VMCB_EVENT_TYPE = 7u << 8,
    VMCB_EVENT_INTERRUPT = 0u << 8,
    VMCB_EVENT_NMI = 2u << 8,
    VMCB_EVENT_EXCEPTION = 3u << 8,
    VMCB_EVENT_SOFT = 4u << 8,
    VMCB_EVENT_ERROR = 1u << 11,
    VMCB_EVENT_RESERVED = 0x7ffff000u,
    VMCB_EVENT_VALID = 1u << 31,
};

/* EXITINFO1 of VMEXIT_IOIO ("IOIO Intercept Information"). */
enum vmcb_io {
    VMCB_IO_IN = 1u << 0,
    VMCB_IO_STRING = 1u << 2,
    VMCB_IO_REP = 1u << 3,
    VMCB_IO_SIZE_SHIFT = 4, /* one of three bits: 1, 2, 4 bytes */
    VMCB_IO_PORT_SHIFT = 16,
};

/* EXITINFO1 of VMEXIT_NPF ("Nested versus Guest Page Faults, Fault Ordering"). */
#define VMCB_NPF_FINAL (1ull << 32)
#define VMCB_NPF_TABLE (1ull << 33)

/* EXITINFO1 of VMEXIT_CRn with decode assists. */
#define VMCB_CR_MOV (1ull << 63)

/* EXITINFO2 of VMEXIT_TASK_SWITCH. */
#define VMCB_TASK_IRET  (1ull << 36)
#define VMCB_TASK_JMP   (1ull << 38)
#define VMCB_TASK_ERROR (1ull << 44)

enum vmexit {
    VMEXIT_CR0_READ = 0x000,
    VMEXIT_CR0_WRITE = 0x010,
    VMEXIT_DR0_READ = 0x020,
    VMEXIT_DR0_WRITE = 0x030,
    VMEXIT_EXCEPTION = 0x040, /* + vector */
    VMEXIT_INTR = 0x060,
    VMEXIT_NMI,
    VMEXIT_SMI,
    VMEXIT_INIT,
    VMEXIT_VINTR,
    VMEXIT_CR0_SELECTIVE,
    VMEXIT_IDTR_READ,
    VMEXIT_GDTR_READ,
    VMEXIT_LDTR_READ,
    VMEXIT_TR_READ,
    VMEXIT_IDTR_WRITE,
    VMEXIT_GDTR_WRITE,
    VMEXIT_LDTR_WRITE,
    VMEXIT_TR_WRITE,
    VMEXIT_RDTSC,
    VMEXIT_RDPMC,
    VMEXIT_PUSHF,
    VMEXIT_POPF,
    VMEXIT_CPUID,
    VMEXIT_RSM,
    VMEXIT_IRET,
    VMEXIT_INTN,
    VMEXIT_INVD,
    VMEXIT_PAUSE,
    VMEXIT_HLT,
    VMEXIT_INVLPG,
    VMEXIT_INVLPGA,
    VMEXIT_IOIO,
    VMEXIT_MSR,
    VMEXIT_TASK_SWITCH,
    VMEXIT_FERR_FREEZE,
    VMEXIT_SHUTDOWN,
    VMEXIT_VMRUN,
    VMEXIT_VMMCALL,
    VMEXIT_VMLOAD,
    VMEXIT_VMSAVE,
    VMEXIT_STGI,
    VMEXIT_CLGI,
    VMEXIT_SKINIT,
    VMEXIT_RDTSCP,
    VMEXIT_ICEBP,
    VMEXIT_WBINVD,
    VMEXIT_MONITOR,
    VMEXIT_MWAIT,
    VMEXIT_MWAIT_ARMED,
    VMEXIT_XSETBV,
    VMEXIT_RDPRU,
    VMEXIT_INVLPGB = 0x0a0,
    VMEXIT_INVLPGB_ILLEGAL,
    VMEXIT_INVPCID,
    VMEXIT_MCOMMIT,
    VMEXIT_TLBSYNC,
    VMEXIT_NPF = 0x400,
};
_Static_assert(VMEXIT_RDPRU == 0x8e && VMEXIT_TLBSYNC == 0xa4, "exit codes of appendix C");

/* VMEXIT_INVALID is -1; only 32 bits of it can be relied upon (one engine writes no more). */
#define VMEXIT_INVALID_LOW 0xffffffffu

#endif
