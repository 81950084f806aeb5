/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the files of src/svm share among themselves, and nobody else sees.
 */
#ifndef VIRTX_SVM_SVM_H
#define VIRTX_SVM_SVM_H

#include "hw/hw.h"
#include "svm/vmcb.h"
#include "x86/defs.h"

#define MSR_VM_CR       0xc0010114
#define MSR_VM_HSAVE_PA 0xc0010117

#define VM_CR_SVMDIS    (1ull << 4)

#define SVM_IOPM_PAGES  3 /* 65536 bits and 3 for accesses that wrap: contiguous */
#define SVM_MSRPM_PAGES 2

/* Groups of state that are newest in hw_vcpu.state at all times: kept by software, or written at
 * every entry because nearly every exit changes them. */
#define SVM_STATE_KEPT (VIRTX_STATE_GPR | VIRTX_STATE_RIP | VIRTX_STATE_MSR | VIRTX_STATE_XCR)

/* Real CR4 bits that the host decides upon while a guest runs. */
#define SVM_CR4_HOST CR4_MCE
/* Real CR0 bits that stay 0 when the state is set: caching is not the guest's to switch off. */
#define SVM_CR0_HIDDEN (CR0_CD | CR0_NW)

struct svm_cpu {
    struct hw_cpu hw;
    uint8_t *pages; /* host save area of VMRUN; then a VMCB for VMSAVE of the host's own state */
    uint64_t hsave_hpa;
    uint64_t host_hpa;
    uint64_t old_hsave; /* VM_HSAVE_PA as it was found */
};

struct svm_vm {
    struct hw_vm hw;
    uint8_t *iopm;
    uint8_t *msrpm;
};

/* Where the newest copy is of what VMLOAD and VMSAVE move. */
enum svm_extra {
    SVM_EXTRA_VMCB,      /* the VMCB's; the processor's is somebody else's or stale */
    SVM_EXTRA_PROCESSOR, /* the guest's values are in the processor and may be newer */
    SVM_EXTRA_BOTH,      /* in the processor, and the VMCB has been refreshed since the exit */
};

/* What the coming entry is besides an entry; bits of svm_vcpu.after. */
enum svm_after {
    SVM_AFTER_STEP = 1u << 0, /* it single-steps over one instruction */
    SVM_AFTER_NMI = 1u << 1,  /* an NMI waits for the event that it delivers */
};

struct svm_vcpu {
    struct hw_vcpu hw;

    _Alignas(4096) uint64_t vmcb_hpa; /* entry.S */
    uint64_t host_hpa;                /* svm_cpu.host_hpa where it is loaded; entry.S */

    uint8_t after;     /* enum svm_after */
    uint8_t extra;     /* enum svm_extra */
    bool switch_extra; /* the profile wants the host's FS, GS, TR … at every exit */
    bool host_stale;   /* the host has run on, and may have changed its FS and GS base */
    bool next_rip;     /* features in use */
    bool decode_assist;
    bool flush_by_asid;
    bool nested;
    bool unproven;    /* something has changed that the processor judges at VMRUN */
    bool backed_up;   /* `backup` is what the coming (or last) entry found */
    bool nmi_blocked; /* between the delivery of an NMI and its IRET */
    bool window_interrupt, window_nmi;
    uint8_t tpr;               /* of which V_TPR has bits 7:4 */
    uint8_t tpr_threshold;     /* an interrupt of this priority waits for CR8 to fall; 0: none */
    bool watches_cr8;          /* no VIRTX_FEATURE_VIRTUAL_PRIORITY: while an interrupt waits … */
    bool watch_cr8;            /* … CR8 writes exit, as now */
    bool step_tf;              /* the guest's own TF while stepping */
    bool tr_unmarked;          /* this processor's copy of TR is not busy */
    bool hides_cr0, hides_cr4; /* the real register is not what the guest wrote */
    bool fpu_waits;            /* as in hw_controls, for the real CR0 */
    uint8_t rewind;    /* the entry delivers a software event: RIP was moved this far, behind it */
    uint32_t clean;    /* VMCB_CLEAN_ALL, or 0 where the processor has no clean bits */
    uint32_t last_cpu; /* clean bits are good on this CPU only */
    uint64_t host_mce; /* CR4.MCE of the host, as of load */
    uint64_t cr0_hidden; /* CR0 bits that the guest has set and the processor has not */
    uint64_t step_rip, step_dr6;
    struct virtx_event event; /* what the coming (or last) entry delivers, if anything */
    uint8_t *iopm;            /* this vcpu's own bitmaps, or NULL for the VM's */
    uint8_t *msrpm;
    struct vmcb_save *backup; /* of the save area, for an entry that may be refused */

    _Alignas(4096) struct vmcb vmcb;
};
_Static_assert(offsetof(struct svm_vcpu, hw) == 0, "hw_vcpu comes first");
_Static_assert(offsetof(struct hw_vcpu, state.gpr) == 0, "entry.S takes the GPRs at 0");

static inline struct svm_vcpu *svm_of(struct hw_vcpu *hv)
{
    return (struct svm_vcpu *)(void *)hv;
}

static inline struct svm_vm *svm_vm_of(const struct virtx_vm *vm)
{
    return vm->backend_data;
}

/* Beside the groups in hw_vcpu.dirty: the coming entry is not like the last one. */
#define SVM_ATTENTION (1u << 31)

static inline void svm_attend(struct svm_vcpu *sv)
{
    sv->hw.dirty |= SVM_ATTENTION;
}

/* A part of the VMCB has changed: the processor may not use its own copy, and may refuse it. */
static inline void svm_dirty(struct svm_vcpu *sv, uint32_t clean_bits)
{
    sv->vmcb.control.clean &= ~clean_bits;
    sv->unproven = true;
    svm_attend(sv);
    sv->hw.vcpu->stats.control_writes++;
}

/* Not 64-bit mode: addresses and RIP have 32 bits (or fewer). */
static inline bool svm_is_64bit(const struct svm_vcpu *sv)
{
    return (sv->vmcb.save.efer & EFER_LMA) && (sv->vmcb.save.cs.attributes & VMCB_ATTRIBUTE_L);
}

/* caps.c */
enum virtx_status svm_probe(struct virtx *virtx, uint64_t disable, struct virtx_caps *caps,
                            struct virtx_error *error);

/* cpu.c */
enum virtx_status svm_cpu_enable(struct virtx *virtx, void *cpu, struct virtx_error *error);
void svm_cpu_disable(struct virtx *virtx, void *cpu);
void svm_cpu_emergency_off(struct virtx *virtx, void *cpu);

/* vcpu.c */
enum virtx_status svm_vm_create(struct virtx_vm *vm, void *data);
void svm_vm_destroy(struct virtx_vm *vm, void *data);
enum virtx_status svm_vcpu_create(struct hw_vcpu *hv);
void svm_vcpu_destroy(struct hw_vcpu *hv);
enum virtx_status svm_load(struct hw_vcpu *hv, void *cpu);
void svm_put(struct hw_vcpu *hv);
void svm_engine(struct hw_vcpu *hv);
void svm_set_root(struct hw_vcpu *hv, uint64_t hpa);
void svm_flush(struct hw_vcpu *hv, uint32_t debts);
void svm_to_host(struct hw_vcpu *hv, uint32_t mask);
void svm_tsc_offset(struct hw_vcpu *hv);

/* controls.c */
void svm_controls(struct hw_vcpu *hv);
void svm_controls_iret(struct svm_vcpu *sv);
void svm_controls_cr(struct svm_vcpu *sv);
void svm_controls_exceptions(struct svm_vcpu *sv, bool all);
enum virtx_status svm_intercept_check(const struct virtx *virtx,
                                      const struct virtx_intercept_config *config, bool *forced);

/* bitmap.c */
bool svm_msr_forced(uint64_t first, uint64_t last);
void svm_bitmaps_init(uint8_t *iopm, uint8_t *msrpm);
void svm_bitmaps_destroy(struct hw_vcpu *hv);
enum virtx_status svm_ports(struct virtx_vm *vm, struct hw_vcpu *hv, uint16_t first, uint16_t last,
                            bool exit);
enum virtx_status svm_msr(struct virtx_vm *vm, struct hw_vcpu *hv, uint32_t index, uint32_t access,
                          bool exit);

/* entry.S */
uint32_t svm_vmrun(struct svm_vcpu *sv);
uint32_t svm_vmrun_keep(struct svm_vcpu *sv);
uint32_t svm_vmrun_switch(struct svm_vcpu *sv);
void svm_vmload(uint64_t hpa);
void svm_vmsave(uint64_t hpa);
void svm_clgi(void);
void svm_stgi(void);
void svm_hold_nmi(struct hw_vcpu *hv, bool on);

/* enter.c */
bool svm_toggle(struct hw_vcpu *hv, unsigned reg, uint64_t value);
uint32_t svm_enter(struct hw_vcpu *hv);
uint32_t svm_refused(struct svm_vcpu *sv);
void svm_advance(struct hw_vcpu *hv);

/* exit.c */
uint32_t svm_exited(struct svm_vcpu *sv);

/* insn.c */
void svm_length(struct svm_vcpu *sv, struct virtx_exit *exit);
void svm_decode_cr(struct svm_vcpu *sv, struct virtx_exit *exit);
void svm_decode_dr(struct svm_vcpu *sv, struct virtx_exit *exit);
void svm_decode_invlpg(struct svm_vcpu *sv, struct virtx_exit *exit);
void svm_decode_wbinvd(struct svm_vcpu *sv, struct virtx_exit *exit);

/* state.c */
uint16_t svm_attributes_to_vmcb(uint32_t attributes);
uint32_t svm_attributes_from_vmcb(uint16_t attributes);
void svm_read(struct hw_vcpu *hv, uint32_t groups);
struct hw_code svm_code(struct hw_vcpu *hv);
uint64_t svm_dr7(struct hw_vcpu *hv);
void svm_write(struct svm_vcpu *sv);
void svm_extra_save(struct svm_vcpu *sv);

/* event.c */
void svm_inject(struct hw_vcpu *hv, const struct virtx_event *event);
bool svm_can_interrupt(struct hw_vcpu *hv);
bool svm_can_nmi(struct hw_vcpu *hv);
void svm_window(struct hw_vcpu *hv, bool interrupt, bool nmi);
void svm_window_open(struct svm_vcpu *sv);
uint8_t svm_tpr(struct hw_vcpu *hv);
void svm_set_tpr(struct hw_vcpu *hv, uint8_t tpr);
void svm_cr8_threshold(struct hw_vcpu *hv, uint8_t threshold);
void svm_event_interrupted(struct svm_vcpu *sv);
void svm_step_begin(struct svm_vcpu *sv);
void svm_step_arm(struct svm_vcpu *sv);
void svm_step_end(struct svm_vcpu *sv, uint8_t after);

/* check.c */
enum virtx_status svm_check(struct hw_vcpu *hv, struct virtx_error *error);

/* npt.c */
extern const struct table_format svm_npt;

/* ops.c */
extern const struct virtx_hw svm_hw;

#endif
