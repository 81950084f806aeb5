/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the files of src/hw share among themselves, and nobody else sees.
 */
#ifndef VIRTX_HW_SERVICE_H
#define VIRTX_HW_SERVICE_H

#include "hw/hw.h"
#include "insn/execute.h"
#include "paging/memo.h"
#include "x86/cpu.h"
#include "x86/defs.h"

/*
 * Answers of CPUID, ready to be stored. The table in the VM is small and searched from its start; a
 * direct-mapped cache in front of it makes the answer a matter of a few instructions. All that
 * varies (OSXSAVE, OSPKE, APIC, XSAVE sizes) varies with CR4, IA32_APIC_BASE and XCR0, whose
 * changes empty the cache.
 */
#define HW_CPUID_LINES 32u
struct hw_cpuid_line {
    uint32_t leaf, subleaf;
    uint32_t subleaf_mask; /* 0: the answer does not depend on ECX */
    uint32_t eax, ebx, ecx, edx;
    uint32_t unused;
};

#define HW_MTRR_VARIABLE 8u
#define HW_MTRR_FIXED    11u

/* Features without which a guest has none of some registers that it uses without exits. */
enum hw_lacks {
    HW_LACKS_SYSENTER = 1u << 0,
    HW_LACKS_SYSCALL = 1u << 1,
    HW_LACKS_LONG_MODE = 1u << 2,
};

/* What the guest's CPUID lets it use, worked out once. */
struct hw_policy {
    uint64_t cr4; /* bits that may be 1 */
    uint64_t efer;
    uint64_t xcr0; /* 0: no XSAVE */
    uint64_t xss;
    uint64_t reserved;  /* bits of a physical address that must be 0 */
    uint64_t spec_ctrl; /* bits of IA32_SPEC_CTRL; 0: no such MSR */
    bool has_ibpb, has_l1d_flush, has_arch_capabilities, has_tsc_adjust, has_tsc_aux;
    bool has_xsaves, has_xgetbv_used, has_misaligned_sse;
    bool has_mtrr, has_pat, has_mca, has_monitor, has_invpcid;
    uint8_t lacks; /* enum hw_lacks */
    bool amd, no_1g;
    uint8_t physical_bits;
};

/* Of a vcpu that is loaded; bits of hw_soft.fpu_lazy. */
enum hw_lazy {
    HW_LAZY_WAITS = 1u << 0, /* its FPU state stays in memory until the first use … */
    HW_LAZY_XCR0 = 1u << 1,  /* … but for XCR0, which is in the processor already */
};

/* What completes an access that has gone to the loop, when its exit record does not say it all. */
enum hw_pending {
    HW_PENDING_NONE,
    HW_PENDING_STRING, /* io.c */
    HW_PENDING_SIMPLE, /* mmio.c: a plain MOV, described in hw_soft.mov */
    HW_PENDING_INSN,   /* execute.c: the executor's restart log knows */
};

/* A MOV-like access to MMIO that needs no executor. */
#define HW_MOV_NONE    0xffu
#define HW_MOV_NO_BASE 0xffu
struct hw_mov {
    uint8_t size;    /* bytes in memory */
    uint8_t access;  /* enum virtx_access; HW_MOV_NONE: it is no such access */
    uint8_t kind;    /* enum hw_mov_kind */
    uint8_t reg;     /* register; of AH to BH the number of AX to BX, with `high` */
    uint8_t high;    /* 8 for AH to BH: the shift */
    uint8_t to_size; /* bytes of the register read into */
    uint8_t unused;  /* bits of 64 that the access leaves out */
    uint8_t base;    /* the address is this register's and the displacement; or HW_MOV_NO_BASE */
};

/* A device's handler. */
struct hw_device {
    uint64_t first, span; /* of the intercept: [first, first + span]; from UINT64_MAX on: none */
    virtx_handler handler;
    void *ctx;
    const struct rule_table *rules; /* the vcpu's own when it was found */
};

/* String port access in progress (io.c). */
struct hw_string {
    uint8_t address_size;
    bool rep;
};

struct hw_soft {
    struct hw_cpuid_line cpuid[HW_CPUID_LINES];
    struct hw_policy policy;
    uint64_t cpuid_version, cpuid_own_version; /* of the tables that `policy` was made from */
    uint64_t mtrr_variable[2 * HW_MTRR_VARIABLE];
    uint64_t mtrr_fixed[HW_MTRR_FIXED];
    uint64_t mtrr_def_type;
    uint64_t syscfg, hwcr, de_cfg;
    struct hw_mov mov;
    /* mmio.c: the last hole between the slots in which a device was met, and the handlers met in
     * it; for as long as the VM's generation is this one. */
    uint64_t hole_first, hole_bytes;
    uint64_t named_bytes; /* hole_bytes where the processor names the address, else 0 */
    uint64_t hole_generation;
    struct hw_device device[2];     /* for reads and for writes */
    uint64_t mmio_first, mmio_last; /* no MMIO intercept reaches beyond these */
    uint32_t startup;     /* startup.c: VIRTX_REQUEST_INIT and SIPI that have been noticed */
    uint32_t return_tier; /* host state to be back when run returns, with hw_vcpu.leave_tier */
    struct hw_string string;
    size_t fpu_bytes; /* of the guest's XSAVE area */
    size_t fpu_pages;
    uint8_t fpu_lazy; /* enum hw_lazy */
    /* The host's values of what fpu.c and switch.c exchange, when the profile names it. */
    bool host_fpu_saved;
    uint64_t host_xcr0, host_tsc_aux, host_spec_ctrl, host_xss;
    uint64_t host_dr[4], host_dr6, host_dr7;
    uint32_t host_pkru, guest_pkru;
    bool pkru_swapped; /* the host's PKRU is in the processor, the guest's in guest_pkru */
    /* tpr.c */
    bool follow_cr8; /* an interrupt source wants to know CR8; see hw_vcpu.cr8_shadow */
    uint8_t cr8_exits, tpr_seen, cr8_threshold;
    uint32_t port_rip; /* breakpoint.c: behind the port access that has met one */
    uint64_t deadline; /* timer.c: of the host's TSC, HW_NO_DEADLINE for none */
    /* apic.c */
    struct hw_apic apic;  /* what is in use … */
    uint64_t apic_base;   /* … for this IA32_APIC_BASE, 0: for no local APIC … */
    _Atomic bool posting; /* interrupts can be posted: `apic` has it so */
    bool apic_new;        /* not in use before: the processor knows nothing of the registers yet */
    bool apic_confined;   /* … and this hw_vcpu.confined */
    uint64_t
        apic_place; /* [lock] where the page must be for this vcpu to run, or one of those below */
    bool created;   /* hw_vcpu_create() is through */
    bool interpret; /* everything goes through the executor */
    bool confined;  /* the vendor's part of hw_vcpu.confined */
    bool waiting;   /* an event waits for its window */
    uint32_t executed; /* instructions in the executor since the host's interrupts had a chance */
    uint32_t ours;     /* switch.c: what of the profile src/hw itself exchanges */
    uint32_t shared;   /* switch.c: which MSRs are exchanged … */
    uint32_t shared_loaded; /* … and which now hold the guest's value */
    void *host_fpu;         /* host's XSAVE area, NULL if the profile does not ask for it */
    uint8_t io_buffer[VIRTX_IO_BATCH];
    uint8_t pages; /* of this structure */
};

static inline const struct virtx_hw *hw_ops(const struct virtx *virtx)
{
    return virtx->backend->hw;
}

/* Current privilege level. */
static inline unsigned hw_cpl(struct hw_vcpu *hv)
{
    return (hw_state(hv, VIRTX_STATE_SEG)->seg[VIRTX_SS].attributes >> VIRTX_SEG_DPL_SHIFT) & 3;
}

/* startup.c: INIT and start-up IPIs. */
enum hw_next hw_startup(struct hw_vcpu *hv);

/* exit.c: serves the exit in the record. False: run returns, `*status` says with what. */
bool hw_exit(struct hw_vcpu *hv, enum virtx_status *status);
/* The record goes to the loop. */
static inline bool hw_to_loop(struct hw_vcpu *hv)
{
    hv->vcpu->exit.pending = false;
    return false;
}
/* The same, for the loop to complete the access in it. */
bool hw_ask(struct hw_vcpu *hv);
/* The same of a plain access, whose answer goes to a register in memory. */
static inline bool hw_ask_plain(struct hw_vcpu *hv, uint32_t access)
{
    hv->vcpu->exit.pending = true;
    hv->vcpu->answer = access == VIRTX_WRITE ? VIRTX_ANSWER_NONE : VIRTX_ANSWER_ANYWHERE;
    return false;
}
/* Goes on by the verdict of the record's handler. As hw_exit(). */
bool hw_verdict(struct hw_vcpu *hv, enum virtx_verdict verdict, enum virtx_status *status);
/* event.c: HLT. As hw_exit(). */
bool hw_halt(struct hw_vcpu *hv);
/* Asks the record's intercept, whose handler may look at CR8. */
enum virtx_verdict hw_dispatch(struct hw_vcpu *hv);
/* Offers the record to its intercept, and goes on by the verdict. As hw_exit(). */
bool hw_offer(struct hw_vcpu *hv, enum virtx_status *status);
/* The library's own service of an exit, as if no intercept were set. As hw_exit(). */
bool hw_exit_default(struct hw_vcpu *hv, enum virtx_status *status);

/* quick.c: exits about the guest's address space, where nobody else wants to see them. */
enum hw_quick {
    HW_QUICK_NO, /* for hw_exit() to judge */
    HW_QUICK_ENTER,
    HW_QUICK_LEAVE,
};
enum hw_quick hw_quick_cr(struct hw_vcpu *hv);     /* VIRTX_EXIT_CR */
enum hw_quick hw_quick_invlpg(struct hw_vcpu *hv); /* VIRTX_EXIT_INSTRUCTION */

/* run.c: starts a record that the library itself makes, at the current RIP. */
struct virtx_exit *hw_record(struct hw_vcpu *hv, uint32_t reason);

/* event.c */
enum hw_next { HW_ENTER, HW_LEAVE, HW_EXECUTE };
/* Decides what the coming entry injects and which windows it asks for. HW_LEAVE: the vcpu may not
 * be entered, the record says why. */
enum hw_next hw_events(struct hw_vcpu *hv);
/* After an exit: takes note of what became of the injected event. */
void hw_events_delivered(struct hw_vcpu *hv);
/* Raises an exception for the instruction at RIP, merging with an interrupted delivery. */
void hw_raise(struct hw_vcpu *hv, const struct virtx_event *event);
void hw_raise_vector(struct hw_vcpu *hv, uint8_t vector);                /* without error code */
void hw_raise_error(struct hw_vcpu *hv, uint8_t vector, uint32_t error); /* with one */
void hw_raise_page_fault(struct hw_vcpu *hv, uint64_t address, uint32_t error);
void hw_triple_fault(struct hw_vcpu *hv);
/* Faults push RFLAGS.RF set, so that an instruction breakpoint is not hit once more when they
 * return (Intel SDM "Instruction-Breakpoint Exception Condition"). */
bool hw_is_fault(const struct virtx_event *event);
/* Raises the #DB of traps that the instruction before has left, unless an intercept has it. As
 * hw_exit(). */
bool hw_debug_trap(struct hw_vcpu *hv, enum virtx_status *status);
void hw_events_reset(struct hw_vcpu *hv);

/* cpuid.c */
bool hw_cpuid_fill(struct hw_vcpu *hv, struct hw_cpuid_line *line, uint32_t leaf, uint32_t subleaf);
void hw_cpuid_forget(struct hw_vcpu *hv);
void hw_cpuid_policy(struct hw_vcpu *hv);
/* Takes note of a change of the tables. Whatever judges registers by the policy outside run calls
 * it first. */
void hw_cpuid_follow(struct hw_vcpu *hv);
uint8_t hw_cpuid_lacks(struct cpuid_view view); /* enum hw_lacks */
static inline struct hw_cpuid_line *hw_cpuid_answer(struct hw_vcpu *hv, uint32_t leaf,
                                                    uint32_t subleaf)
{
    struct hw_cpuid_line *line = &hv->soft->cpuid[(leaf ^ leaf >> 27) % HW_CPUID_LINES];

    if (unlikely(line->leaf != leaf || line->subleaf != (subleaf & line->subleaf_mask)))
        hw_cpuid_fill(hv, line, leaf, subleaf);
    return line;
}
static inline void hw_cpuid_serve(struct hw_vcpu *hv)
{
    uint64_t *gpr = hv->state.gpr;
    const struct hw_cpuid_line *line =
        hw_cpuid_answer(hv, (uint32_t)gpr[VIRTX_RAX], (uint32_t)gpr[VIRTX_RCX]);

    gpr[VIRTX_RAX] = line->eax;
    gpr[VIRTX_RBX] = line->ebx;
    gpr[VIRTX_RCX] = line->ecx;
    gpr[VIRTX_RDX] = line->edx;
}

/* msr.c */
enum hw_msr { HW_MSR_OK, HW_MSR_FAULT, HW_MSR_UNKNOWN };
enum hw_msr hw_msr_read(struct hw_vcpu *hv, uint32_t index, uint64_t *value);
enum hw_msr hw_msr_write(struct hw_vcpu *hv, uint32_t index, uint64_t value);
/* The MSRs whose values are in no group of registers: the i-th, 0 after the last, of all vendors;
 * and where one lies, NULL if the guest's CPUID does not have it. */
uint32_t hw_msr_kept(unsigned i);
uint64_t *hw_msr_slot(struct hw_vcpu *hv, uint32_t index);
void hw_msr_reset(struct hw_vcpu *hv, bool init);
/* Passed through by default to guests that lack none of `without`; ends with 0. */
struct hw_msr_direct {
    uint32_t index;
    uint8_t without; /* enum hw_lacks */
};
extern const struct hw_msr_direct hw_msr_direct[];
bool hw_pat_valid(uint64_t pat);

/* cr.c: false: an exception has been raised instead. */
bool hw_cr_write(struct hw_vcpu *hv, unsigned reg, uint64_t value);
uint64_t hw_cr_read(struct hw_vcpu *hv, unsigned reg);
bool hw_efer_valid(struct hw_vcpu *hv, uint64_t value);
void hw_efer_write(struct hw_vcpu *hv, uint64_t value);
bool hw_xcr0_valid(struct hw_vcpu *hv, uint64_t value);
bool hw_xsetbv(struct hw_vcpu *hv, uint32_t index, uint64_t value);
bool hw_dr_access(struct hw_vcpu *hv, bool write, unsigned reg, uint64_t *value);
/* The control registers have changed from these values: engine, CPUID cache. */
void hw_control_changed(struct hw_vcpu *hv, uint64_t cr0, uint64_t cr3, uint64_t cr4, uint64_t efer,
                        bool set);

/* io.c */
extern const uint64_t hw_size_masks[9]; /* by bytes; in a table, which costs less than a shift */
static inline uint64_t hw_size_mask(unsigned bytes)
{
    return hw_size_masks[bytes];
}
/* As many bytes as a register or a device has: 1, 2, 4 or 8. */
static inline uint64_t hw_bytes(const void *from, unsigned bytes)
{
    switch (bytes) {
    case 1:
        return *(const uint8_t *)from;
    case 2: {
        uint16_t value;
        __builtin_memcpy(&value, from, sizeof(value));
        return value;
    }
    case 4: {
        uint32_t value;
        __builtin_memcpy(&value, from, sizeof(value));
        return value;
    }
    default: {
        uint64_t value;
        __builtin_memcpy(&value, from, sizeof(value));
        return value;
    }
    }
}
/* What a port access or a handler answers: 32 bits clear the upper half, fewer keep the rest. */
static inline void hw_rax_write(struct hw_vcpu *hv, const void *value, unsigned bytes)
{
    uint64_t *rax = &hv->state.gpr[VIRTX_RAX];

    if (bytes == 4)
        *rax = hw_bytes(value, 4);
    else if (bytes == 2)
        __builtin_memcpy(rax, value, 2);
    else
        __builtin_memcpy(rax, value, 1);
}
/* breakpoint.c: any breakpoint of the guest's is on. */
bool hw_any_breakpoint(struct hw_vcpu *hv);
static inline bool hw_breakpoints_on(struct hw_vcpu *hv)
{
    return unlikely(hv->debug_used) && hw_any_breakpoint(hv);
}
void hw_io_watch(struct hw_vcpu *hv); /* the record is a plain port access */
/* Fills in what is the same on all processors, for one unit. */
static inline void hw_io_record(struct hw_vcpu *hv)
{
    struct virtx_exit_io *io = &hv->vcpu->exit.io;
    uint64_t mask = hw_size_mask(io->size);

    io->count = 1;
    io->data = &io->value;
    io->value = io->access == VIRTX_WRITE ? hv->state.gpr[VIRTX_RAX] & mask : mask;
    if (unlikely(hv->debug_used))
        hw_io_watch(hv);
}
bool hw_io(struct hw_vcpu *hv, enum virtx_status *status);
void hw_io_complete(struct hw_vcpu *hv);
/* instruction.c: what an intercepted instruction does when nobody has another idea. */
void hw_invalidate(struct hw_vcpu *hv, uint32_t which, uint64_t address); /* INVLPG, INVPCID */
bool hw_instruction_default(struct hw_vcpu *hv, enum virtx_status *status);

/* mmio.c */
enum virtx_status hw_mmio_create(struct hw_vcpu *hv);
void hw_mmio_destroy(struct hw_vcpu *hv);
void hw_mmio_abandon(struct hw_vcpu *hv); /* the pending access ends in an exception */
enum virtx_status hw_mmio_complete(struct hw_vcpu *hv, const void *value);
/* Whether the record is of a plain MOV, and its answer goes to no register but those in memory. */
bool hw_mmio_plain(const struct hw_vcpu *hv);
void hw_mmio_answer(struct hw_vcpu *hv, const void *value); /* to such a one, but for retiring it */
static inline void hw_mmio_written(struct hw_vcpu *hv)
{
    hv->pending.kind = HW_PENDING_NONE;
    hv->vcpu->stats.instructions++;
}
bool hw_page_fault(struct hw_vcpu *hv, enum virtx_status *status);

/* registers.c */
enum insn_mode hw_insn_mode(struct hw_vcpu *hv);
/* execute.c */
bool hw_execute(struct hw_vcpu *hv, enum virtx_status *status); /* the instruction at RIP */
/* deliver.c: delivers an event in software. False: it cannot be, the record says why. */
bool hw_deliver(struct hw_vcpu *hv, const struct virtx_event *event);
bool hw_task_switch(struct hw_vcpu *hv, enum virtx_status *status); /* as hw_exit() */

/* interpret.c */
static inline enum hw_place hw_place(struct hw_vcpu *hv)
{
    if (likely(!hv->confined))
        return HW_PLACE_HARDWARE;
    if (hv->soft->interpret)
        return HW_PLACE_EXECUTOR;
    return hv->ops->place ? hv->ops->place(hv) : HW_PLACE_HARDWARE;
}
/* The guest goes on in the executor, for at least one instruction. As hw_exit(). */
bool hw_interpret(struct hw_vcpu *hv, enum virtx_status *status);
/* The same, where the processor has raised the exception in the record instead. */
bool hw_interpret_fault(struct hw_vcpu *hv, enum virtx_status *status);

/* event.c: an instruction leaves these traps (DR6_TRAPS) behind. */
void hw_leave_traps(struct hw_vcpu *hv, uint32_t traps);
/* With HW_WORK_HELD, one instruction as hw_interpret(). What the executor does not know is left to
 * the processor, and the trap is lost. */
bool hw_interpret_held(struct hw_vcpu *hv, enum virtx_status *status);

/* breakpoint.c: HW_WORK_TRAP, HW_WORK_HELD. */
void hw_traps_left(struct hw_vcpu *hv);

/* complete.c: serves the access in the record with the values in it (a handler's answer). */
void hw_complete_record(struct hw_vcpu *hv);
void hw_retire(struct hw_vcpu *hv); /* as virtx_hw.advance, loaded or not */
/* An iteration of a repeated string instruction has ended, and another one follows. */
void hw_iterated(struct hw_vcpu *hv);
/* Before anything that may look at RIP, RFLAGS or the interrupt shadow, or leave the CPU. */
static inline void hw_retire_owed(struct hw_vcpu *hv)
{
    if (hv->retire) {
        hv->retire = false;
        hw_retire(hv);
    }
}
void hw_gpr_write(struct hw_vcpu *hv, unsigned reg, uint64_t value, unsigned size);

/* memory.c: guest linear memory on the vcpu's thread. */
enum hw_access_result {
    HW_ACCESS_OK,
    HW_ACCESS_FAULT, /* the exception is in *event */
    HW_ACCESS_MMIO,  /* translated, but not to memory that allows it */
    HW_ACCESS_NONE,  /* a table of the guest is not in memory, or may not be written: hv->fault */
};
/* As the processor's own walk would have faulted at this entry, or table. */
struct virtx_page_fault hw_table_fault(uint64_t linear, uint64_t gpa, uint8_t access);
/* `flags`: WALK_IMPLICIT or 0; the privilege is the guest's own. */
enum hw_access_result hw_translate(struct hw_vcpu *hv, uint64_t linear, uint32_t access,
                                   uint32_t flags, uint64_t *gpa, struct virtx_event *event);
enum hw_access_result hw_linear_read(struct hw_vcpu *hv, uint64_t linear, void *buffer,
                                     size_t bytes, struct virtx_event *event);
enum hw_access_result hw_linear_probe_write(struct hw_vcpu *hv, uint64_t linear, size_t bytes,
                                            struct virtx_event *event);
/* Segment and limit checks; false: the exception is in *event. */
bool hw_segment_address(struct hw_vcpu *hv, unsigned segment, uint64_t offset, unsigned bytes,
                        bool write, uint64_t *linear, struct virtx_event *event);
enum hw_access_result hw_linear_write(struct hw_vcpu *hv, uint64_t linear, const void *buffer,
                                      size_t bytes, struct virtx_event *event);

/* fpu.c, switch.c: state that the vendors do not move. Interrupts off. */
enum virtx_status hw_fpu_create(struct hw_vcpu *hv);
void hw_fpu_destroy(struct hw_vcpu *hv);
void hw_fpu_reset(struct hw_vcpu *hv);
void hw_fpu_load(struct hw_vcpu *hv);
/* A vcpu that is loaded starts lazy, or not any more. */
void hw_fpu_begin(struct hw_vcpu *hv, bool lazy);
/* A lazy vcpu. It needs its state: loaded before the next entry. */
void hw_fpu_use(struct hw_vcpu *hv);
/* Whether it can go on without, by its CR4 and CPUID; if not, as hw_fpu_use(). */
bool hw_fpu_waits(struct hw_vcpu *hv);
/* An intercepted #NM: true: it was the library's, and the instruction is to be tried again. */
bool hw_fpu_first_use(struct hw_vcpu *hv);
/* An image as FXSAVE makes it in 64-bit mode, of 512 bytes; as struct insn_ops has it. */
void hw_fpu_image(struct hw_vcpu *hv, void *image, bool write);
void hw_fpu_x87(struct hw_vcpu *hv, unsigned opcode, unsigned modrm, void *image, void *memory,
                uint64_t *flags);
/* 16 bytes of a vector register of the guest. False: its registers are not in the processor. */
bool hw_fpu_vector(struct hw_vcpu *hv, unsigned reg, void *data, bool write, enum insn_vector part);
void hw_fpu_unload(struct hw_vcpu *hv, bool restore_host);
void hw_fpu_xcr0(struct hw_vcpu *hv); /* state.xcr0 has changed */
void hw_fpu_follow_xcr0(struct hw_vcpu *hv);
void hw_switch_plan(struct hw_vcpu *hv);
void hw_switch_msr(struct hw_vcpu *hv, uint32_t index,
                   uint64_t value); /* the guest's has changed */
uint32_t hw_guest_pkru(struct hw_vcpu *hv);
void hw_switch_load(struct hw_vcpu *hv);
void hw_switch_put(struct hw_vcpu *hv);
void hw_switch_to_guest(struct hw_vcpu *hv);
void hw_switch_to_host(struct hw_vcpu *hv, uint32_t tier);
void hw_debug_load(struct hw_vcpu *hv);
void hw_debug_sync(struct hw_vcpu *hv); /* state.dr, dr6 := the processor's */
void hw_debug_unload(struct hw_vcpu *hv);

/* intercepts.c */
void hw_controls_compute(struct hw_vcpu *hv);
enum virtx_status
hw_bitmaps_begin(struct virtx_vm *vm); /* everything exits: lets the defaults through */

/* tpr.c */
void hw_tpr_follow(struct hw_vcpu *hv);
void hw_tpr_exit(struct hw_vcpu *hv); /* CR8 was accessed, and exited */
/* With hw_soft.cr8_shadow only: */
void hw_tpr_pull(struct hw_vcpu *hv);
void hw_tpr_push(struct hw_vcpu *hv);
/* With that, or with the register in the page of a local APIC: */
void hw_tpr_threshold(struct hw_vcpu *hv);

/* timer.c */
bool hw_deadline_due(struct hw_vcpu *hv);    /* the embedder's has come: the record says so */
void hw_deadline_follow(struct hw_vcpu *hv); /* after the source was asked what is pending */
void hw_deadline_look(struct hw_vcpu *hv);   /* after a host interrupt */
void hw_deadline_load(struct hw_vcpu *hv);   /* this CPU's timer has not heard of it */

/* apic.c */
#define HW_APIC_UNKNOWN 0u /* it has not run yet */
#define HW_APIC_NOWHERE 1u
void hw_apic_follow(struct hw_vcpu *hv);
bool hw_apic_exit(struct hw_vcpu *hv); /* HW_EXIT_EOI, HW_EXIT_APIC_WRITE; as hw_exit() */

/* tags.c */
void hw_tag_assign(struct hw_vcpu *hv, struct hw_cpu *cpu);
void hw_tags_begin(struct hw_cpu *cpu);

#endif
