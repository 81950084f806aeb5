/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Seam 2: what a hardware vendor (src/vmx, src/svm) does for src/hw, which implements seam 1 once
 * for both.
 *
 * A vendor enters once, decodes the exit into the neutral record, moves state by groups, and knows
 * nothing of slots, devices or policy. It never loops and never calls the embedder; the helpers
 * that it may call are at the end of this file. All operations run on the vcpu's thread with
 * interrupts off and the vcpu loaded, unless they say otherwise.
 */
#ifndef VIRTX_HW_HW_H
#define VIRTX_HW_HW_H

#include "core/object.h"
#include "x86/defs.h"
#include "paging/format.h"

/*
 * Reasons of the exit record that never leave src/hw. They stand above the public ones in
 * virtx_exit.reason.
 */
enum hw_exit_reason {
    HW_EXIT_HOST = 64,  /* NMI or machine check, handed to the host already: just go on */
    HW_EXIT_PAGE_FAULT, /* hw_vcpu.fault: nested fault (or intercepted #PF for shadow paging) */
    HW_EXIT_WINDOW,     /* interrupt window open; the request for it is cleared */
    HW_EXIT_NMI_WINDOW, /* likewise for NMIs */
    HW_EXIT_TPR,        /* TPR fell below the threshold */
    HW_EXIT_TIMER,      /* preemption timer */
    HW_EXIT_TABLES_LOG, /* page-modification log full; already drained by the vendor */
    HW_EXIT_APIC,       /* APIC access; hw_vcpu.fault.gpa says where */
    HW_EXIT_EOI,        /* virtualized EOI; qualification is the vector */
    HW_EXIT_APIC_WRITE, /* an APIC register was written, in the page; qualification is its offset */
    HW_EXIT_EXECUTE,    /* the guest has not been entered: the processor cannot run its state */
    HW_EXIT_EXECUTE_FAULT, /* an exception (exit.exception) that only the executor can judge */
    HW_EXIT_ABORTED,       /* there was no entry: a request came before it (virtx_hw.hold_nmi) */
    HW_EXIT_REFUSED,       /* the processor did not take the entry; hw_vcpu.refusal */
    HW_EXIT_REASON_COUNT
};

/* TLB debts of a vcpu, paid by virtx_hw.flush before its next entry. */
enum hw_flush {
    HW_FLUSH_TAG = 1u << 0,    /* all linear translations under this vcpu's tag */
    HW_FLUSH_NESTED = 1u << 1, /* all guest-physical translations of this vcpu's root */
};

/* virtx_hw.deadline: there is none. */
#define HW_NO_DEADLINE UINT64_MAX

/* Where the guest goes on from the state that it is in. */
enum hw_place {
    HW_PLACE_HARDWARE, /* in the processor */
    HW_PLACE_BY_HAND,  /* in the processor, but events are delivered in software */
    HW_PLACE_EXECUTOR, /* in the executor */
};

/* Work to be done before the next entry; bits of hw_vcpu.work. Zero in steady state. */
enum hw_work {
    HW_WORK_EVENT = 1u << 0,    /* decide what to inject or which window to open */
    HW_WORK_FLUSH = 1u << 1,    /* hw_vcpu.flush is not 0 */
    HW_WORK_CONTROLS = 1u << 2, /* intercepts changed: virtx_hw.controls */
    HW_WORK_ROOT = 1u << 3,     /* the engine's root changed: virtx_hw.set_root */
    HW_WORK_HALTED = 1u << 4,   /* activity is not VIRTX_ACTIVE, or hw_vcpu.own_traps and one waits:
                                   may not be entered */
    HW_WORK_LOADED = 1u << 5,   /* just loaded here: order that before the look at the requests */
    HW_WORK_FPU = 1u << 6,      /* the guest's FPU state is not in the processor */
    HW_WORK_SWITCH = 1u << 7,   /* host state of tier 1 or 2 is in place of the guest's */
    HW_WORK_STARTUP = 1u << 8,  /* an INIT or a start-up IPI has come */
    HW_WORK_EXECUTE = 1u << 9,  /* everything goes through the executor (virtx_vcpu_interpret()) */
    HW_WORK_ENGINE = 1u << 10,  /* the paging engine was exchanged */
    HW_WORK_DEADLINE = 1u << 12, /* the next deadline may be another, or has come */
    HW_WORK_TRAP = 1u << 13,     /* a port access has met a breakpoint */
    HW_WORK_HELD = 1u << 14,     /* a breakpoint's trap waits behind MOV SS: the coming
                                    instruction is the executor's */
    HW_WORK_NMI = 1u << 11,      /* always: kicks are NMIs, as the interrupts are the guest's */
};

/* What the vcpu is to exit on, computed by src/hw from the intercepts, in neutral words. The
 * vendor adds what must always be intercepted. */
struct hw_apic {
    bool page;      /* the registers are in the page; the guest's CR8 is its TPR */
    bool access;    /* at hw_vm.apic_gpa, the processor sees accesses to hw_vm.apic_page as such to
                       registers */
    bool x2apic;    /* so it does those to the MSRs */
    bool registers; /* it serves reads of most registers, and tells of writes afterwards */
    bool delivery;  /* it delivers from IRR, and ends what is in ISR */
};

struct hw_controls {
    struct hw_apic apic;        /* what the processor does for a local APIC */
    uint32_t exceptions;        /* bit n: vector n exits (#DB and #AC always do) */
    uint32_t pf_mask, pf_match; /* with bit 14 of exceptions: only #PFs with (error & mask) ==
                                 match; mask 0: all. A vendor without the filter lets all exit. */
    bool pf_unlike;             /* the other way round: only #PFs with (error & mask) != match */
    uint16_t cr_read, cr_write; /* bit n: CRn accesses exit (CR0, CR4 writes: see the masks) */
    const uint64_t *cr3_target; /* values whose writes need not exit … */
    uint32_t cr3_targets; /* … and how many; 0 unless writes of CR3 exit for the embedder only */
    uint64_t cr0_mask, cr4_mask; /* bits whose change by the guest must exit */
    bool fpu_waits; /* the processor's CR0 has TS and MP set, whatever the guest's, which does not see
                       that; changes of either by it exit, and so do #NM and task switches */
    uint16_t dr_read, dr_write;
    uint64_t instructions;           /* bit n: virtx_instruction n exits */
    struct virtx_pause_filter pause; /* which PAUSEs exit, if any do; count 0: all */
    bool cr8_shadow;                 /* the guest has a CR8 in the hardware; see virtx_hw.cr8 */
    bool hlt;                        /* HLT exits (default) */
    bool hypercall;                  /* exits are wanted rather than #UD */
    bool interrupts; /* external interrupts exit (default; off: they are the guest's) */
};

/* The part of a CPU's bytes that both vendors share; the vendor's struct embeds it first. */
struct hw_cpu {
    uint32_t index;
    uint64_t tag_generation; /* grows when the tags of this CPU start over */
    uint32_t tag_next;       /* next unused VPID or ASID of this generation */
};

/* The part of a VM's bytes that both vendors share; the vendor's struct embeds it first. */
struct hw_vm {
    struct virtx_vm *vm;
    uint64_t nested_generation;
    uint64_t tsc_base;   /* host TSC at which the guest's counters were 0 */
    uint64_t port_rules; /* signature of the rules that the port bitmap was made from */
    uint64_t msr_rules;  /* likewise for the MSR bitmap */
    void *apic_page;     /* stands for the registers of all local APICs, or NULL */
    uint64_t apic_gpa;   /* [lock] where the guest has it; 0: nowhere */
};

/*
 * The part of a vcpu that both vendors share. The vendor's own part embeds it as its first member
 * `hw`; assembly knows the offsets of state.gpr (0), state.rip and state.rflags.
 */
struct hw_vcpu {
    struct virtx_state
        state;         /* register cache; guest view. gpr but RSP are always valid after an exit */
    uint64_t entry[1]; /* the vendor's own: its assembly finds it right behind the state */
    uint32_t valid;    /* groups of `state` that are up to date */
    uint32_t dirty;    /* groups of `state` that are newer than the hardware's copy */
    uint32_t work;     /* enum hw_work */
    uint32_t flush;    /* enum hw_flush */
    const struct virtx_hw *ops;
    struct virtx_vcpu *vcpu;
    struct virtx_cpu *cpu; /* where it is loaded, or NULL */

    struct virtx_page_fault fault; /* with HW_EXIT_PAGE_FAULT */
    struct virtx_event reinject;   /* an event whose delivery the last exit interrupted … */
    union {
        struct {
            bool has_reinject; /* … set by the vendor's enter(), taken by src/hw */
            bool injected;     /* the coming (or last) entry injects: set by src/hw */
            bool switch_exit;  /* the profile wants host state back at every exit */
            bool unused;
        };
        uint32_t after_exit; /* not 0: any of these; there is more to an exit than its service */
    };
    union {
        struct {
            bool cr8_shadow; /* tpr.c: an interrupt source wants to know CR8, and the guest has a
                                copy in the hardware */
            bool leave_tier; /* the profile wants host state back when run returns */
        };
        uint16_t at_return; /* not 0: any of these; there is more to a return than the record */
    };
    bool host_if;         /* RFLAGS.IF when run was called */
    uint8_t acknowledged; /* with VIRTX_FEATURE_POSTED_INTERRUPT and VIRTX_EXIT_INTERRUPT: the
                             host's vector */
    bool retire;          /* a completed access has its instruction still to be retired */
    bool fpu_loaded;      /* the guest's FPU state is in the processor */
    bool debug_loaded;    /* the guest's DR0-3, DR6 are in the processor */
    bool debug_used;      /* … or were: only then it can have breakpoints */
    bool own_traps;       /* state.pending_debug has no place in the hardware: src/hw delivers it */
    bool confined; /* there are states that the processor does not run, or is not to: see place() */
    bool nmi_by_hand; /* it does not see the IRET that ends an NMI handler: with an NMI waiting all
                         events are delivered in software, and place() leads to that IRET */

    uint64_t root;    /* HPA of the translation root in use */
    uint32_t tag;     /* VPID or ASID; 0: none assigned */
    uint32_t tag_cpu; /* CPU on which it is valid */
    uint64_t tag_generation;
    uint64_t tsc_offset; /* guest TSC = host TSC + offset */
    struct hw_controls controls;
    void *fpu_area;            /* guest's XSAVE area, 64-byte aligned */
    uint8_t *io_buffer;        /* VIRTX_IO_BATCH bytes: virtx_exit_io.data */
    enum virtx_status refusal; /* with HW_EXIT_REFUSED */
    enum virtx_status status;  /* what run answers: src/hw's own business */
    uint32_t fault_bits;       /* see hw_fault_bits() */
    uint32_t returned; /* the vendor's own bits of `dirty`, to be set whenever run returns */
    /* What completes the pending access: src/hw's own business. */
    struct {
        uint8_t kind;
        uint8_t fragment;
        uint8_t bytes[15], length;
    } pending;
    void *emulation; /* src/hw/mmio.c: restart log of the instruction being executed */

    /* The rest is src/hw's own. */
    bool serve_cpuid; /* no intercept wants CPUID: answer from the cache */
    bool rules_port, rules_msr, rules_mmio, rules_hypercall; /* whether any intercept exists */
    bool quick;                     /* none exists of CR or instructions: quick.c */
    bool shadowed;                  /* the engine is no nested one */
    struct virtx_event inflight;    /* what the coming (or last) entry injects, when `injected` */
    uint64_t port_rules, msr_rules; /* as in struct hw_vm, for the vcpu's own bitmaps */
    struct hw_soft *soft;           /* see service.h */
};

/*
 * What an instruction fetch in 64-bit mode depends on. The key has CS.L and CS.D, the CPL,
 * CR4.SMEP, EFER.LMA and EFER.NXE, arranged as the vendor likes, and is not 0 in 64-bit mode.
 */
struct hw_code {
    uint64_t key, cr3;
};

/* The vendor plug-in: one constant table a vendor. All operations are required. */
struct virtx_hw {
    const char *name;
    const struct table_format *nested; /* format of the nested tables; depends on nothing at run
                                          time but accessed/dirty, which virtx_caps says */
    size_t cpu_bytes;                  /* zeroed, per CPU; `void *cpu` below */
    size_t vm_bytes;                   /* zeroed, per VM: bitmaps' bookkeeping */
    size_t vcpu_bytes; /* zeroed, page-aligned: struct hw_vcpu and the vendor's own behind it */

    /* Any CPU state; changes nothing. Fills caps->features etc. less `disable`. */
    enum virtx_status (*probe)(struct virtx *virtx, uint64_t disable, struct virtx_caps *caps,
                               struct virtx_error *error);
    enum virtx_status (*cpu_enable)(struct virtx *virtx, void *cpu, struct virtx_error *error);
    void (*cpu_disable)(struct virtx *virtx, void *cpu);
    void (*cpu_emergency_off)(struct virtx *virtx, void *cpu);

    /* Not loaded; any CPU. `vm` is the vendor's vm_bytes. Bitmaps start with everything
     * intercepted. */
    enum virtx_status (*vm_create)(struct virtx_vm *vm, void *data);
    void (*vm_destroy)(struct virtx_vm *vm, void *data);
    enum virtx_status (*vcpu_create)(
        struct hw_vcpu *hv); /* control structure allocated and initialized */
    void (*vcpu_destroy)(struct hw_vcpu *hv);

    /* Makes the vcpu current on this CPU: VMPTRLD and per-CPU host state, or the ASID; the guest's
     * MSRs that neither entry nor exit switches. put() undoes: VMCLEAR or VMSAVE; all state to
     * hv->state first. */
    enum virtx_status (*load)(struct hw_vcpu *hv, void *cpu);
    void (*put)(struct hw_vcpu *hv);

    /*
     * One entry, one exit. Writes the dirty groups, enters, saves the GPRs, sets valid to what is
     * known without further reads, decodes the exit into vcpu->exit (reason, rip, length, raw.code
     * and the union) or hv->fault, and sets has_reinject/reinject if delivery of an event was
     * interrupted. NMI and machine check are handed to the host here. Returns the reason.
     * HW_EXIT_REFUSED: the guest has not moved, and vcpu->error names the rule.
     *
     * Its registers are not all kept: of those that the ABI has a callee keep, only RBP and RSP
     * are. Who calls it says so to the compiler (run.c).
     */
    uint32_t (*enter)(struct hw_vcpu *hv);

    /* Kicks are NMIs: from now on none may go by unseen, before the guest runs or run returns. An
     * entry that comes too late for one answers HW_EXIT_ABORTED, and has not delivered anything. */
    void (*hold_nmi)(struct hw_vcpu *hv, bool on);
    /* Where an NMI that has arrived at `rip` returns to. NULL: there. */
    uint64_t (*nmi_return)(uint64_t rip);

    /* Makes `groups` of hv->state valid. */
    void (*read)(struct hw_vcpu *hv, uint32_t groups);
    /* What instruction fetch depends on, without moving whole groups. Not called while
     * VIRTX_STATE_SEG or VIRTX_STATE_CR is dirty. */
    struct hw_code (*code)(struct hw_vcpu *hv);
    /* CR8 without exits (VIRTX_FEATURE_TPR_SHADOW): the guest's task-priority register as it is now
     * in the hardware, in use while controls.cr8_shadow; CR8 is its bits 7:4. A vendor that keeps
     * no more than CR8 lets writes of it exit while bits 3:0 are not 0, which such a write clears.
     * tpr() is not called while VIRTX_STATE_CR is dirty. */
    uint8_t (*tpr)(struct hw_vcpu *hv);
    void (*set_tpr)(struct hw_vcpu *hv, uint8_t tpr);
    /* From the next entry on exit with HW_EXIT_TPR when it falls below this; 0: never. It is never
     * above the guest's CR8. Without controls.cr8_shadow there is none. */
    void (*cr8_threshold)(struct hw_vcpu *hv, uint8_t threshold);
    /* The page for a local APIC's registers; NULL, the operation too: there is none. Any CPU. */
    void *(*apic_page)(struct hw_vcpu *hv);
    /* With controls.apic.delivery: IRR, ISR or TMR in the page may have been changed. */
    void (*apic_changed)(struct hw_vcpu *hv);
    /* VIRTX_FEATURE_POSTED_INTERRUPT. post() requests a vector, from any CPU: true: the first since
     * the processor or posted() took the others, so the CPU where the vcpu is loaded has to be
     * notified. posted(): what has been requested and not moved to IRR in the page; not while the
     * guest runs. */
    bool (*post)(struct hw_vcpu *hv, uint8_t vector);
    bool (*posted)(struct hw_vcpu *hv, uint64_t set[4]);
    /* The guest's DR7, which has changed by itself if MOV DR does not exit. VIRTX_STATE_DR is not
     * valid. */
    uint64_t (*dr7)(struct hw_vcpu *hv);
    /* The guest's CR4 from now on is this: what kernels write twice to flush the TLB; or its CR0,
     * of which WP changes, under shadow paging only. False: more changes than PGE or WP, or more
     * follows from it than src/hw sees to (a flush, another root); nothing has been done. NULL: the
     * vendor has no quick way. */
    bool (*toggle)(struct hw_vcpu *hv, unsigned reg, uint64_t value);
    /* Retires the exit's instruction: RIP += length (wrapping as CS says), clears RF and the
     * interrupt shadow, and leaves a pending single-step #DB (state.pending_debug) when TF is set.
     */
    void (*advance)(struct hw_vcpu *hv);
    /* Where the guest goes on from hv->state. NULL: the processor runs all states. Asked while
     * hw_vcpu.confined only, which the vendor sets when it creates the vcpu. enter() answers with
     * HW_EXIT_EXECUTE, having done nothing, from a state that it cannot enter. */
    enum hw_place (*place)(struct hw_vcpu *hv);
    /* The next entry delivers this event. The flags that a fault pushes have RF set: src/hw has
     * seen to it, but with #PF, which comes by the thousand, the vendor does. */
    void (*inject)(struct hw_vcpu *hv, const struct virtx_event *event);
    /* Whether the guest could take it at its next instruction boundary. */
    bool (*can_interrupt)(struct hw_vcpu *hv);
    bool (*can_nmi)(struct hw_vcpu *hv);
    /* Ask for (or no longer ask for) an exit when the window opens. */
    void (*window)(struct hw_vcpu *hv, bool interrupt, bool nmi);
    /* Load this translation root at the next entry. */
    void (*set_root)(struct hw_vcpu *hv, uint64_t hpa);
    /* Pay TLB debts (enum hw_flush) at the next entry. */
    void (*flush)(struct hw_vcpu *hv, uint32_t debts);
    /* Obey hv->controls from the next entry on. */
    void (*controls)(struct hw_vcpu *hv);
    /* The VM's paging engine has been exchanged: all that depends on it is different from the next
     * entry on. The groups that the vendor keeps differently then are valid and dirty already. */
    void (*engine)(struct hw_vcpu *hv);
    /* VIRTX_FEATURE_TIMER: the guest exits with HW_EXIT_TIMER when the host's TSC reaches this, or
     * some time before; HW_NO_DEADLINE: never. NULL: no processor of this vendor has that. */
    void (*deadline)(struct hw_vcpu *hv, uint64_t tsc);
    /* hv->tsc_offset has changed. */
    void (*tsc_offset)(struct hw_vcpu *hv);
    /* VIRTX_FEATURE_DIRTY_LOGGING: tells virtx_backend_dirty() of the pages that the hardware has
     * logged. Any CPU; the vcpu may be in run. NULL: it logs nothing. */
    void (*drain)(struct hw_vcpu *hv);

    /* Bitmaps. `hv` NULL: the VM's; else the vcpu's own copy, made on first use
     * (VIRTX_E_NO_MEMORY). Under the VM's lock, any CPU. `exit` false lets the guest through to the
     * hardware. */
    enum virtx_status (*ports)(struct virtx_vm *vm, struct hw_vcpu *hv, uint16_t first,
                               uint16_t last, bool exit);
    enum virtx_status (*msr)(struct virtx_vm *vm, struct hw_vcpu *hv, uint32_t index,
                             uint32_t access, bool exit);
    /* Which intercepts this processor has: as virtx_backend.intercept_check. */
    enum virtx_status (*intercept_check)(const struct virtx *virtx,
                                         const struct virtx_intercept_config *config, bool *forced);
    /* Judges the whole guest state by the manual's entry checks without entering; VIRTX_OK or
     * VIRTX_E_GUEST_STATE with the rule. Used when the hardware has refused, and by tests. */
    enum virtx_status (*check)(struct hw_vcpu *hv, struct virtx_error *error);
    /* Puts back the bits of enum virtx_host_state in `mask` that this vendor's own control
     * structure or MSR switching holds for the guest (SYSCALL MSRs, KERNEL_GS_BASE, LDT, descriptor
     * limits, DEBUGCTL …; FS, GS and TR where exits don't). Called with tier 1 after every exit
     * where the profile has any, and with tiers 1 and 2 whenever run returns. When it has returned,
     * which hw_vcpu.returned tells the vendor, and until the next enter() the host may change its
     * CR3, CR4, FS and GS base. enter() itself puts the guest's values back. */
    void (*to_host)(struct hw_vcpu *hv, uint32_t mask);
};

/* ---- For src/hw and the vendors ---- */

static inline struct hw_vcpu *hw_of(struct virtx_vcpu *vcpu)
{
    return vcpu->backend_data;
}

/* The groups, read if need be. */
static inline struct virtx_state *hw_state(struct hw_vcpu *hv, uint32_t groups)
{
    uint32_t missing = groups & ~hv->valid;
    if (unlikely(missing))
        hv->ops->read(hv, missing);
    return &hv->state;
}

/* The groups, read if need be and about to be changed. */
static inline struct virtx_state *hw_change(struct hw_vcpu *hv, uint32_t groups)
{
    struct virtx_state *state = hw_state(hv, groups);
    hv->dirty |= groups;
    return state;
}

/* host.c: runs the host's NMI or machine-check handler: the host op, else INT n. */
void hw_host_nmi(struct virtx *virtx);
void hw_host_machine_check(struct virtx *virtx);

/* trapped.c: RDMSR of a register that may not exist; 0 and *trapped where it does not. */
uint64_t hw_rdmsr_trapped(uint32_t index, bool *trapped);

/* For shadow paging. memory.c: what governs the guest's own walk now. cr.c: debts (enum hw_flush)
 * to be paid before the next entry. On the vcpu's thread. */
struct walk_mode;
void hw_walk_mode(struct hw_vcpu *hv, struct walk_mode *mode);
void hw_owe(struct hw_vcpu *hv, uint32_t debts);
/* execute.c: whether the guest's write that has just faulted can be executed by the library:
 * VIRTX_FAULT_EXECUTE. On the vcpu's thread. */
bool hw_can_execute_write(struct hw_vcpu *hv);

/* Whether the single step of the instruction before waits; of the groups RFLAGS and INTR. */
static inline bool hw_step_pending(const struct virtx_state *state)
{
    return (state->pending_debug & DR6_BS) && (state->rflags & RFLAGS_TF);
}

/* Page faults without any of these bits in their error code are the guest's, and need no exit
 * with VIRTX_FEATURE_FAULT_FILTER. 0: all exit. */
static inline void hw_fault_bits(struct hw_vcpu *hv, uint32_t bits)
{
    if (unlikely(hv->fault_bits != bits)) {
        hv->work |= HW_WORK_CONTROLS;
        hv->fault_bits = bits;
    }
}

/* code.c: copies instruction bytes at the current CS:RIP into buf (15 at most, fewer at a page
 * without translation). Uses the guest's own tables. Returns how many. */
unsigned hw_fetch(struct hw_vcpu *hv, uint8_t *buf);
/* The same instruction decoded, as INSN_OK or INSN_UNKNOWN; NULL: there is none (any more), or not
 * all of it can be had. Good until the next call. */
struct insn;
const struct insn *hw_insn(struct hw_vcpu *hv);

/* event.c: the instruction just retired was single-stepped (TF was set when it began): the trap is
 * pending now. */
void hw_single_step(struct hw_vcpu *hv);

/* The seam-1 table of a vendor, filled with src/hw's implementation. */
#define HW_BACKEND(word, hw_table, cpu_size, vm_size, vcpu_size)                                   \
    {                                                                                              \
        .size = sizeof(struct virtx_backend), .name = word, .cpu_bytes = cpu_size,                 \
        .vm_bytes = vm_size, .vcpu_bytes = vcpu_size, .probe = hw_probe,                           \
        .cpu_enable = hw_cpu_enable, .cpu_disable = hw_cpu_disable,                                \
        .cpu_emergency_off = hw_cpu_emergency_off, .vm_create = hw_vm_create,                      \
        .vm_destroy = hw_vm_destroy, .vcpu_create = hw_vcpu_create,                                \
        .vcpu_destroy = hw_vcpu_destroy, .load = hw_load, .put = hw_put, .run = hw_run,            \
        .complete = hw_complete, .fault = hw_fault, .reset = hw_reset, .get = hw_get,              \
        .wake = hw_wake, .set = hw_set, .gpr = hw_gpr, .fpu_size = hw_fpu_size,                    \
        .fpu_get = hw_fpu_get, .fpu_set = hw_fpu_set, .interpret = hw_interpret_always,            \
        .kick = hw_kick, .nmi_return = hw_nmi_return, .intercept_check = hw_intercept_check,       \
        .intercept_changed = hw_intercept_changed, .memory = hw_memory,                            \
        .collect_dirty = hw_collect_dirty, .engine_changed = hw_engine_changed,                    \
        .cpuid_changed = hw_intercept_changed, .drain_dirty = hw_drain_dirty,                      \
        .apic_page = hw_apic_page, .post = hw_post, .posted = hw_posted, .hw = hw_table,           \
        .msr_list = hw_msr_list, .msr_get = hw_msr_get, .msr_set = hw_msr_set,                     \
        .interrupted_get = hw_interrupted_get, .interrupted_set = hw_interrupted_set,              \
    }

enum virtx_status hw_probe(struct virtx *virtx, uint64_t disable, struct virtx_caps *caps,
                           struct virtx_error *error);
enum virtx_status hw_cpu_enable(struct virtx *virtx, uint32_t cpu, struct virtx_error *error);
void hw_cpu_disable(struct virtx *virtx, uint32_t cpu);
void hw_cpu_emergency_off(struct virtx *virtx, uint32_t cpu);
enum virtx_status hw_vm_create(struct virtx_vm *vm);
void hw_vm_destroy(struct virtx_vm *vm);
enum virtx_status hw_vcpu_create(struct virtx_vcpu *vcpu);
void hw_vcpu_destroy(struct virtx_vcpu *vcpu);
enum virtx_status hw_load(struct virtx_vcpu *vcpu, uint32_t cpu);
void hw_put(struct virtx_vcpu *vcpu);
enum virtx_status hw_run(struct virtx_vcpu *vcpu);
enum virtx_status hw_complete(struct virtx_vcpu *vcpu, const void *value);
enum virtx_status hw_fault(struct virtx_vcpu *vcpu, const struct virtx_event *event);
enum virtx_status hw_reset(struct virtx_vcpu *vcpu, enum virtx_preset preset);
enum virtx_status hw_get(struct virtx_vcpu *vcpu, uint32_t groups, struct virtx_state *state);
enum virtx_status hw_set(struct virtx_vcpu *vcpu, uint32_t groups, const struct virtx_state *state);
void hw_wake(struct virtx_vcpu *vcpu);
uint64_t *hw_gpr(struct virtx_vcpu *vcpu);
size_t hw_fpu_size(const struct virtx_vcpu *vcpu);
enum virtx_status hw_fpu_get(struct virtx_vcpu *vcpu, void *area);
enum virtx_status hw_fpu_set(struct virtx_vcpu *vcpu, const void *area);
enum virtx_status hw_interpret_always(struct virtx_vcpu *vcpu, bool always);
void hw_kick(struct virtx_vcpu *vcpu);
uint64_t hw_nmi_return(const struct virtx *virtx, uint64_t rip);
enum virtx_status hw_intercept_check(const struct virtx_vm *vm,
                                     const struct virtx_intercept_config *config, bool *forced);
enum virtx_status hw_intercept_changed(struct virtx_vm *vm, struct virtx_vcpu *vcpu);
void hw_memory(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes, enum virtx_memory_change change);
void hw_collect_dirty(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes);
void hw_engine_changed(struct virtx_vcpu *vcpu);
void hw_drain_dirty(struct virtx_vm *vm);
void *hw_apic_page(struct virtx_vcpu *vcpu);
uint32_t hw_msr_list(struct virtx_vcpu *vcpu, uint32_t *list, uint32_t room);
enum virtx_status hw_msr_get(struct virtx_vcpu *vcpu, uint32_t index, uint64_t *value);
enum virtx_status hw_msr_set(struct virtx_vcpu *vcpu, uint32_t index, uint64_t value);
bool hw_interrupted_get(struct virtx_vcpu *vcpu, struct virtx_event *event);
void hw_interrupted_set(struct virtx_vcpu *vcpu, const struct virtx_event *event);
bool hw_post(struct virtx_vcpu *vcpu, uint8_t vector);
bool hw_posted(struct virtx_vcpu *vcpu, uint64_t set[4]);

#endif
