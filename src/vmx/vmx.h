/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the files of src/vmx share among themselves, and nobody else sees.
 */
#ifndef VIRTX_VMX_VMX_H
#define VIRTX_VMX_VMX_H

#include "hw/hw.h"
#include "vmx/vmcs.h"
#include "x86/cpu.h"
#include "x86/defs.h"

#define MSR_VMX_BASIC          0x480
#define MSR_VMX_PIN            0x481
#define MSR_VMX_PRIMARY        0x482
#define MSR_VMX_EXIT           0x483
#define MSR_VMX_ENTRY          0x484
#define MSR_VMX_MISC           0x485
#define MSR_VMX_CR0_FIXED0     0x486
#define MSR_VMX_CR0_FIXED1     0x487
#define MSR_VMX_CR4_FIXED0     0x488
#define MSR_VMX_CR4_FIXED1     0x489
#define MSR_VMX_SECONDARY      0x48b
#define MSR_VMX_EPT_VPID       0x48c
#define MSR_VMX_TRUE_PIN       0x48d
#define MSR_VMX_TRUE_PRIMARY   0x48e
#define MSR_VMX_TRUE_EXIT      0x48f
#define MSR_VMX_TRUE_ENTRY     0x490
#define MSR_VMX_FUNCTIONS      0x491
#define MSR_VMX_LAST           0x491

#define FEATURE_CONTROL_LOCKED (1ull << 0)
#define FEATURE_CONTROL_VMXON  (1ull << 2) /* outside SMX */

/* CR0 bits of the guest that never reach the processor: entries leave the host's in place. */
#define VMX_CR0_HOST (CR0_CD | CR0_NW)
/* CR0 bits whose change by the guest always exits. NE is fixed to 1 in VMX operation. */
#define VMX_CR0_OWNED (VMX_CR0_HOST | CR0_NE | CR0_PG | CR0_PE)
/* Real CR4 bits that the host decides upon while a guest runs. */
#define VMX_CR4_HOST CR4_MCE
/* CR4 bits that a guest may change without an exit, if src/hw has nothing against it. All the
 * others always exit: what is not known is not the guest's. */
#define VMX_CR4_GUEST                                                                              \
    (CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCE | CR4_OSFXSR |   \
     CR4_OSXMMEXCPT | CR4_UMIP | CR4_FSGSBASE | CR4_PCIDE | CR4_SMEP | CR4_SMAP)

/* Vectors that exit whatever the intercepts say: #AC and #DB could loop in the processor for ever,
 * #MC is the host's. */
#define VMX_EXCEPTIONS_ALWAYS (1u << VECTOR_DB | 1u << VECTOR_AC | 1u << VECTOR_MC)

/* What the processor can do with a local APIC's registers in the virtual-APIC page. */
#define VMX_APIC_HELP                                                                              \
    (VIRTX_FEATURE_APIC_ACCESS | VIRTX_FEATURE_APIC_REGISTERS | VIRTX_FEATURE_VIRTUAL_INTERRUPT |  \
     VIRTX_FEATURE_VIRTUAL_X2APIC)

/* The five control words, as indices. */
enum vmx_word { VMX_PIN, VMX_PRIMARY, VMX_SECONDARY, VMX_EXIT, VMX_ENTRY, VMX_WORD_COUNT };

/* Bits of a control word that are always 1, and those that can be 1. */
struct vmx_allowed {
    uint32_t must, may;
};

/* The capability MSRs. */
struct vmx_caps {
    uint64_t basic, misc, ept_vpid, functions;
    uint64_t cr0_fixed0, cr0_fixed1, cr4_fixed0, cr4_fixed1;
    struct vmx_allowed control[VMX_WORD_COUNT];
};

/*
 * CR3 of a guest that runs unpaged by the library's own PDPTEs, which are in the VMCS: where no
 * guest has memory, nor its APIC at any usual place. The processor loads PDPTEs by CR3 only when
 * MOV to CR0 or CR4 changes bits that all exit (Intel SDM "The PDPTE Registers"); Bochs 2.7 does so
 * at each MOV to CR0, and finds the EPT violation of this address. The instruction goes through the
 * executor then.
 */
#define VMX_NO_PDPTES 0xfeeff000ull

/* How the guest runs. */
enum vmx_mode {
    VMX_MODE_NATIVE,  /* as it is */
    VMX_MODE_UNPAGED, /* protected mode with the library's own paging structures */
    VMX_MODE_REAL,    /* real mode as virtual-8086 mode */
    VMX_MODE_NONE,    /* not at all */
};

/* Groups of state that are newest in hw_vcpu.state at all times, because no guest changes them
 * without an exit. */
#define VMX_STATE_KEPT (VIRTX_STATE_GPR | VIRTX_STATE_MSR | VIRTX_STATE_TSC | VIRTX_STATE_XCR)
/* Beside the groups in hw_vcpu.dirty: host state must be looked at again before the entry. */
#define VMX_DIRTY_HOST (1u << 31)
/* The entry looks at the requests once more, where no NMI goes by unseen. */
#define VMX_DIRTY_CHECK (1u << 29)
/* The VMCS is clear. */
#define VMX_DIRTY_LAUNCH (1u << 30)
/* The preemption timer is to be set: before every entry, while it is in use. */
#define VMX_DIRTY_TIMER (1u << 28)

/* The page-modification log: entries, and what stands where there is none. */
#define VMX_PAGE_LOG_ENTRIES 512u
#define VMX_PAGE_LOG_NONE    UINT64_MAX

/* The MSRs that neither entry nor exit switches: the guest's stay in the processor. */
#define VMX_LIVE_MSRS 5
#define VMX_LIVE_ALL  ((1u << VMX_LIVE_MSRS) - 1)

struct vmx_cpu {
    struct hw_cpu hw;
    void *vmxon; /* VMXON region */
    bool on;
    struct vmx_caps caps;
    uint32_t base[VMX_WORD_COUNT]; /* negotiated: the words before anything optional is asked for */
};

struct vmx_vm {
    struct hw_vm hw;
    uint8_t *io_bitmap;  /* two pages: ports 0-7fff, 8000-ffff */
    uint8_t *msr_bitmap; /* one page: reads low, reads high, writes low, writes high */
};

/* One entry of the MSR areas (Intel SDM "VM-Entry Controls for MSRs"). */
struct vmx_msr_entry {
    uint32_t index, reserved;
    uint64_t value;
};

/* The host's values that the VMCS or the switching of MSRs holds. */
struct vmx_host {
    uint64_t cr0, cr3, cr4, fs_base, gs_base;
    uint64_t msr[VMX_LIVE_MSRS];
    uint64_t debugctl;
    struct __attribute__((packed)) {
        uint16_t limit;
        uint64_t base;
    } gdtr, idtr;
    uint16_t ldt, fs, gs;
};

/* Intel SDM "Posted-Interrupt Processing": the descriptor. */
struct vmx_posted {
    _Alignas(64) _Atomic uint64_t requests[4]; /* PIR */
    _Atomic uint64_t control;                  /* enum vmx_posted_control */
    uint64_t reserved[3];
};
_Static_assert(sizeof(struct vmx_posted) == 64, "the descriptor");

enum vmx_posted_control {
    VMX_POSTED_OUTSTANDING = 1u << 0, /* ON */
    VMX_POSTED_SUPPRESS = 1u << 1,    /* SN: the vcpu is loaded nowhere */
    VMX_POSTED_VECTOR_SHIFT = 16,     /* NV */
    VMX_POSTED_TARGET_SHIFT = 32,     /* NDST */
};

struct vmx_vcpu {
    struct hw_vcpu hw;                /* entry[0]: HOST_RSP as it is in the VMCS */
    uint32_t control[VMX_WORD_COUNT]; /* as they are in the VMCS */
    uint32_t exceptions;
    uint64_t cr0_mask, cr4_mask;
    uint32_t cr3_targets; /* count in the VMCS */
    uint64_t cr0, cr4;    /* shadows: the guest's view as of the last write */
    uint64_t host_mce;    /* what the guest's real CR4 takes from the host's */
    uint64_t eptp;        /* 0: none yet */
    uint32_t vpid;
    bool launched; /* VMRESUME, not VMLAUNCH */
    bool fresh;    /* the VMCS has never been written */
    bool nested;
    bool fpu_waits;        /* as in hw_controls, for the real CR0 */
    bool nmi_blockable;    /* virtual-NMI blocking may be in force (see event.c) */
    bool nmi_soft_blocked; /* the same where the processor does not track it */
    bool window_nmi;       /* there: an NMI waits */
    bool hlt_activity;     /* the VMCS' activity state may be HLT */
    bool confined;         /* no unrestricted guest: see mode.c */
    bool host_moves;       /* the host's FS and GS bases are to be read again after each return */
    uint8_t mode;          /* enum vmx_mode, as the VMCS is written */
    uint8_t tpr_threshold; /* as in the VMCS */
    uint8_t timer_rate;    /* the timer counts once in 2^this ticks of the TSC */
    uint32_t standing; /* bits of hw_vcpu.dirty that an entry leaves set: VMX_DIRTY_TIMER or none */
    uint64_t deadline; /* see virtx_hw.deadline */
    uint8_t live;      /* bit n: live MSR n is the guest's in the processor */

    struct { /* in VMX_MODE_REAL, what the VMCS does not hold */
        uint32_t attributes[6];
        uint32_t iopl;
        struct virtx_segment tr;
        uint64_t sysenter_cs;
    } real;
    uint64_t *identity;        /* mode.c's pages, or NULL */
    const struct vmx_cpu *cpu; /* where it is loaded */
    struct vmx_host host;
    void *vmcs;
    uint64_t vmcs_hpa;
    uint8_t *virtual_apic;          /* NULL: the processor has no TPR shadow */
    struct vmx_msr_entry *msr_area; /* guest's EFER, host's EFER; NULL if the controls do it */
    uint8_t *io_bitmap;             /* this vcpu's own bitmaps, or NULL for the VM's */
    uint8_t *msr_bitmap;
    uint8_t *x2apic_bitmap;   /* the MSR bitmap with x2APIC registers let through, or NULL */
    uint64_t eoi_exit[4];     /* as in the VMCS */
    struct vmx_posted posted; /* at an address that does not change, as all of this */
    uint64_t *page_log;       /* a page that the processor fills from its end; NULL: none */
};
_Static_assert(offsetof(struct vmx_vcpu, hw) == 0, "hw_vcpu comes first");

static inline struct vmx_vcpu *vmx_of(struct hw_vcpu *hv)
{
    return (struct vmx_vcpu *)(void *)hv;
}

static inline struct vmx_vm *vmx_vm_of(const struct virtx_vm *vm)
{
    return vm->backend_data;
}

static inline bool vmx_has(const struct vmx_vcpu *v, uint64_t feature)
{
    return (v->hw.vcpu->virtx->caps.features & feature) != 0;
}

/* VMWRITE outside the fast path, counted. */
static inline void vmx_set_field(struct vmx_vcpu *v, uint32_t field, uint64_t value)
{
    vmx_vmwrite(field, value);
    v->hw.vcpu->stats.control_writes++;
}

/* caps.c */
void vmx_caps_read(struct vmx_caps *caps);
uint64_t vmx_caps_hardware(const struct vmx_caps *caps);
/* errata.c: features that are announced and do not work. */
uint64_t vmx_errata(const struct vmx_caps *caps);
uint64_t vmx_caps_features(uint64_t hardware, uint64_t disable);
enum virtx_status vmx_caps_negotiate(const struct vmx_caps *caps, uint64_t features,
                                     uint32_t base[VMX_WORD_COUNT], struct virtx_error *error);
enum virtx_status vmx_probe(struct virtx *virtx, uint64_t disable, struct virtx_caps *caps,
                            struct virtx_error *error);

/* cpu.c */
enum virtx_status vmx_cpu_enable(struct virtx *virtx, void *cpu, struct virtx_error *error);
void vmx_cpu_disable(struct virtx *virtx, void *cpu);
void vmx_cpu_emergency_off(struct virtx *virtx, void *cpu);

/* vcpu.c */
enum virtx_status vmx_vm_create(struct virtx_vm *vm, void *data);
void vmx_vm_destroy(struct virtx_vm *vm, void *data);
enum virtx_status vmx_vcpu_create(struct hw_vcpu *hv);
void vmx_vcpu_destroy(struct hw_vcpu *hv);
enum virtx_status vmx_load(struct hw_vcpu *hv, void *cpu);
void vmx_put(struct hw_vcpu *hv);
void vmx_engine(struct hw_vcpu *hv);
void vmx_set_root(struct hw_vcpu *hv, uint64_t hpa);
void vmx_flush(struct hw_vcpu *hv, uint32_t debts);
void vmx_tsc_offset(struct hw_vcpu *hv);
void vmx_deadline(struct hw_vcpu *hv, uint64_t tsc);
void vmx_timer_set(struct vmx_vcpu *v);
void vmx_drain(struct hw_vcpu *hv);

/* apic.c */
enum virtx_status vmx_apic_create(struct vmx_vcpu *v);
void vmx_apic_destroy(struct vmx_vcpu *v);
void vmx_apic_first(struct vmx_vcpu *v);
uint32_t vmx_apic_controls(struct vmx_vcpu *v, const struct hw_controls *c);
uint32_t vmx_apic_secondary(struct vmx_vcpu *v, const struct hw_apic *apic);
uint8_t vmx_apic_in_service(const struct vmx_vcpu *v);
void *vmx_apic_page(struct hw_vcpu *hv);
void vmx_apic_changed(struct hw_vcpu *hv);
uint8_t vmx_tpr(struct hw_vcpu *hv);
void vmx_set_tpr(struct hw_vcpu *hv, uint8_t tpr);
void vmx_cr8_write(struct vmx_vcpu *v, uint64_t cr8);
void vmx_cr8_threshold(struct hw_vcpu *hv, uint8_t threshold);

/* posted.c */
void vmx_posted_first(struct vmx_vcpu *v);
void vmx_posted_load(struct vmx_vcpu *v);
void vmx_posted_put(struct vmx_vcpu *v);
bool vmx_post(struct hw_vcpu *hv, uint8_t vector);
bool vmx_posted(struct hw_vcpu *hv, uint64_t set[4]);

/* host.c */
void vmx_host_save(struct vmx_vcpu *v);
void vmx_host_refresh(struct vmx_vcpu *v);
/* Whether that would find anything to do. */
static inline bool vmx_host_changed(const struct vmx_vcpu *v)
{
    return v->host.cr3 != x86_read_cr3() || v->host.cr4 != x86_read_cr4() || v->host_moves ||
           v->live != VMX_LIVE_ALL;
}
void vmx_to_host(struct hw_vcpu *hv, uint32_t mask);
void vmx_live_read(struct vmx_vcpu *v);
void vmx_live_write(struct vmx_vcpu *v);

/* controls.c */
void vmx_controls(struct hw_vcpu *hv);
void vmx_set_control(struct vmx_vcpu *v, enum vmx_word word, uint32_t value);
enum virtx_status vmx_intercept_check(const struct virtx *virtx,
                                      const struct virtx_intercept_config *config, bool *forced);

/* bitmap.c */
void vmx_bitmaps_init(uint8_t *io, uint8_t *msr);
void vmx_bitmaps_destroy(struct hw_vcpu *hv);
void vmx_bitmaps_load(struct vmx_vcpu *v);
void vmx_bitmap_x2apic(struct vmx_vcpu *v);
enum virtx_status vmx_ports(struct virtx_vm *vm, struct hw_vcpu *hv, uint16_t first, uint16_t last,
                            bool exit);
enum virtx_status vmx_msr(struct virtx_vm *vm, struct hw_vcpu *hv, uint32_t index, uint32_t access,
                          bool exit);

/* entry.S */
uint32_t vmx_launch(struct vmx_vcpu *v);
uint32_t vmx_resume(struct vmx_vcpu *v);
uint32_t vmx_launch_checked(struct vmx_vcpu *v);
uint32_t vmx_resume_checked(struct vmx_vcpu *v);
/* Where they begin to look, the entry itself, and where an NMI in between returns to. */
extern const char vmx_launch_check[], vmx_launch_entry[], vmx_resume_check[], vmx_resume_entry[];
extern const char vmx_abort_point[];
void vmx_hold_nmi(struct hw_vcpu *hv, bool on);
uint64_t vmx_nmi_return(uint64_t rip);
extern const char vmx_exit_point[];

/* enter.c. What assembly alone jumps to needs no landing pad for indirect branches. */
#ifdef __CET__
#define VMX_FROM_ASSEMBLY __attribute__((nocf_check))
#else
#define VMX_FROM_ASSEMBLY
#endif
uint32_t vmx_enter(struct hw_vcpu *hv);
VMX_FROM_ASSEMBLY uint32_t vmx_aborted(struct vmx_vcpu *v);
VMX_FROM_ASSEMBLY uint32_t vmx_refused(struct vmx_vcpu *v, uint64_t invalid);
uint32_t vmx_entry_failed(struct vmx_vcpu *v, uint32_t reason);
void vmx_advance(struct hw_vcpu *hv);

/* exit.c */
VMX_FROM_ASSEMBLY uint32_t vmx_exited(struct vmx_vcpu *v);

/* state.c */
void vmx_read(struct hw_vcpu *hv, uint32_t groups);
struct hw_code vmx_code(struct hw_vcpu *hv);
uint64_t vmx_dr7(struct hw_vcpu *hv);
void vmx_write(struct vmx_vcpu *v, uint32_t groups);
bool vmx_toggle(struct hw_vcpu *hv, unsigned reg, uint64_t value);
uint64_t vmx_guest_cr0(const struct vmx_vcpu *v);
struct virtx_segment vmx_segment_fixed(const struct virtx_state *state, unsigned index);

/* mode.c */
enum virtx_status vmx_mode_create(struct vmx_vcpu *v);
void vmx_mode_destroy(struct vmx_vcpu *v);
void vmx_mode_confine(struct vmx_vcpu *v); /* for the engine that is in use */
enum hw_place vmx_place(struct hw_vcpu *hv);
enum vmx_mode vmx_mode_wanted(struct vmx_vcpu *v);
void vmx_mode_set(struct vmx_vcpu *v, enum vmx_mode mode);
void vmx_mode_refresh(struct vmx_vcpu *v);
uint64_t vmx_mode_root(const struct vmx_vcpu *v); /* HPA */
uint64_t vmx_mode_pdpte(unsigned index);
void vmx_mode_write_segments(struct vmx_vcpu *v, const struct virtx_state *state);
void vmx_mode_read_segments(const struct vmx_vcpu *v, struct virtx_state *state);

/* event.c */
void vmx_inject(struct hw_vcpu *hv, const struct virtx_event *event);
bool vmx_can_interrupt(struct hw_vcpu *hv);
bool vmx_can_nmi(struct hw_vcpu *hv);
void vmx_window(struct hw_vcpu *hv, bool interrupt, bool nmi);
void vmx_window_open(struct vmx_vcpu *v, bool nmi);
/* An NMI, waiting or being handled, keeps the guest in the executor. */
bool vmx_nmi_by_hand(const struct vmx_vcpu *v);
bool vmx_event_interrupted(struct vmx_vcpu *v);
void vmx_nmi_unblocked(struct vmx_vcpu *v);
void vmx_mend_pending_debug(struct vmx_vcpu *v);
void vmx_debug_ends_shadow(struct vmx_vcpu *v);
void vmx_mend_nmi_blocking(struct vmx_vcpu *v);

/* check.c */
enum virtx_status vmx_check(struct hw_vcpu *hv, struct virtx_error *error);
enum virtx_status vmx_check_entry(const struct vmx_vcpu *v, struct virtx_error *error,
                                  uint32_t which);
const char *vmx_instruction_error(uint32_t number);

/* ept.c */
extern const struct table_format vmx_ept;

/* ops.c */
extern const struct virtx_hw vmx_hw;

#endif
