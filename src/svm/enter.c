/* SPDX-License-Identifier: BSD-2-Clause */
/* One entry: what must be written first, what a refusal means, and the end of an instruction. */
#include "svm/offsets.h"
#include "svm/svm.h"

_Static_assert(offsetof(struct svm_vcpu, vmcb_hpa) == SVM_VMCB_HPA_AT, "entry.S");
_Static_assert(offsetof(struct svm_vcpu, host_hpa) == SVM_HOST_HPA_AT, "entry.S");

/* What VMRUN and #VMEXIT move of the save area. */
static void copy_saved(struct vmcb_save *to, const struct vmcb_save *from)
{
    to->es = from->es;
    to->cs = from->cs;
    to->ss = from->ss;
    to->ds = from->ds;
    to->gdtr = from->gdtr;
    to->idtr = from->idtr;
    to->cpl = from->cpl;
    to->efer = from->efer;
    to->cr4 = from->cr4;
    to->cr3 = from->cr3;
    to->cr0 = from->cr0;
    to->dr7 = from->dr7;
    to->dr6 = from->dr6;
    to->rflags = from->rflags;
    to->rip = from->rip;
    to->rsp = from->rsp;
    to->rax = from->rax;
    to->cr2 = from->cr2;
    to->g_pat = from->g_pat;
}

/* Puts the guest's state into the VMCB and, as far as VMLOAD moves it, into the processor. */
static void prepare(struct svm_vcpu *sv)
{
    struct hw_vcpu *hv = &sv->hw;
    struct vmcb_save *save = &sv->vmcb.save;

    if (hv->dirty & VIRTX_STATE_ALL)
        svm_write(sv);
    if (sv->host_stale) {
        svm_vmsave(sv->host_hpa);
        sv->host_stale = false;
    }
    if (sv->switch_extra) {
        hv->dirty = SVM_ATTENTION; /* every entry comes here */
    } else {
        if (sv->extra == SVM_EXTRA_VMCB)
            svm_vmload(sv->vmcb_hpa);
        sv->extra = SVM_EXTRA_PROCESSOR;
        hv->dirty = 0;
    }
    save->rip = hv->state.rip;
    save->rax = hv->state.gpr[VIRTX_RAX];
    /* Some processors leave the host's registers in the save area when they refuse an entry. */
    if (sv->unproven)
        copy_saved(sv->backup, save);
    sv->backed_up = sv->unproven;
}

/* An entry with more to do than the usual. */
static __attribute__((noinline)) uint32_t enter_slowly(struct svm_vcpu *sv)
{
    struct vmcb_control *control = &sv->vmcb.control;
    uint8_t after = sv->after; /* the exit may begin what is for the entry that follows */
    uint32_t reason;

    prepare(sv);
    if (after & SVM_AFTER_STEP)
        svm_step_arm(sv);
    reason = sv->switch_extra ? svm_vmrun_switch(sv) : svm_vmrun_keep(sv);
    if (unlikely(reason == HW_EXIT_REFUSED))
        return reason;
    /* What was for this entry only. */
    control->event_inj = 0;
    control->tlb_control = VMCB_FLUSH_NOTHING;
    control->clean = sv->clean;
    sv->unproven = false;
    sv->backed_up = false;
    sv->rewind = 0;
    if (after)
        svm_step_end(sv, after);
    /* One engine does not recognize a virtual interrupt before the guest's IF changes: any exit
     * will do to look whether the window is open. */
    if (sv->window_interrupt) {
        sv->hw.work |= HW_WORK_EVENT;
        svm_attend(sv);
    }
    return sv->hw.vcpu->exit.reason; /* the end of a step may have made it another one */
}

uint32_t svm_enter(struct hw_vcpu *hv)
{
    struct svm_vcpu *sv = svm_of(hv);

    if (unlikely(hv->dirty & ~(uint32_t)VIRTX_STATE_GPR))
        return enter_slowly(sv);
    sv->vmcb.save.rax = hv->state.gpr[VIRTX_RAX];
    return svm_vmrun(sv);
}

/* With GIF clear an NMI waits, until VMRUN sets it and the guest exits at once; the exit sets it
 * again for the host (AMD APM volume 2, "Global Interrupt Flag, STGI and CLGI Instructions"). */
void svm_hold_nmi(struct hw_vcpu *hv, bool on)
{
    (void)hv;
    if (on)
        svm_clgi();
    else
        svm_stgi();
}

static uint32_t refusal(struct hw_vcpu *hv, enum virtx_status status)
{
    hv->refusal = status;
    return hv->vcpu->exit.reason = HW_EXIT_REFUSED;
}

/* VMEXIT_INVALID: puts the guest's state back, and finds the rule that was broken. */
uint32_t svm_refused(struct svm_vcpu *sv)
{
    struct hw_vcpu *hv = &sv->hw;
    struct virtx_error *error = &hv->vcpu->error;

    hv->vcpu->exit.raw.code = sv->vmcb.control.exit_code;
    if (!sv->backed_up) {
        hv->vcpu->dead = true;
        return refusal(
            hv, virtx_fail(error, VIRTX_E_HARDWARE, "VMRUN",
                           "the processor refused an entry like the one before, which it took",
                           sv->vmcb.control.exit_code));
    }
    copy_saved(&sv->vmcb.save, sv->backup);
    hv->state.rip = sv->vmcb.save.rip - sv->rewind;
    hv->state.gpr[VIRTX_RAX] = sv->vmcb.save.rax;
    sv->rewind = 0;
    sv->vmcb.control.event_inj = 0;
    sv->vmcb.control.clean = 0;
    sv->backed_up = false;
    sv->unproven = true;
    svm_attend(sv);
    if (svm_check(hv, error) != VIRTX_OK)
        return refusal(hv, error->status);
    return refusal(hv, virtx_fail(error, VIRTX_E_HARDWARE, "VMRUN",
                                  "the processor refused the entry and no rule explains it",
                                  sv->vmcb.control.exit_code));
}

/*
 * What retiring an instruction does besides moving RIP: RF is cleared, and with TF set a
 * single-step trap follows (AMD APM volume 2, "Debug Exception"). A VMCB has no place for a pending
 * trap: hw_vcpu.own_traps.
 */
static void retire_flags(struct svm_vcpu *sv)
{
    struct vmcb_save *save = &sv->vmcb.save;

    if (save->rflags & RFLAGS_TF)
        hw_single_step(&sv->hw);
    save->rflags &= ~RFLAGS_RF;
}

/* The instruction has left something to do besides moving RIP, or a handler has changed what
 * matters. */
static __attribute__((noinline)) void advance_slowly(struct svm_vcpu *sv)
{
    struct hw_vcpu *hv = &sv->hw;
    uint64_t old = hv->state.rip, rip = old + hv->vcpu->exit.length;

    svm_write(sv); /* so that there is one place to look at */
    if (((rip ^ old) >> 32) && !svm_is_64bit(sv))
        rip = (uint32_t)rip;
    hv->state.rip = rip;
    sv->vmcb.save.rip = rip;
    sv->vmcb.control.interrupt_state = 0;
    hv->valid &= ~(uint32_t)(VIRTX_STATE_RFLAGS | VIRTX_STATE_INTR);
    retire_flags(sv);
    hv->valid &= ~(uint32_t)VIRTX_STATE_RFLAGS;
}

void svm_advance(struct hw_vcpu *hv)
{
    struct svm_vcpu *sv = svm_of(hv);
    uint32_t length = hv->vcpu->exit.length;
    uint64_t rip = hv->state.rip + length;

    if (unlikely((hv->dirty & (VIRTX_STATE_RFLAGS | VIRTX_STATE_INTR | VIRTX_STATE_SEG)) ||
                 (sv->vmcb.save.rflags & (RFLAGS_RF | RFLAGS_TF)) || (uint32_t)rip < length)) {
        advance_slowly(sv);
        return;
    }
    hv->state.rip = rip;
    sv->vmcb.save.rip = rip;
    sv->vmcb.control.interrupt_state = 0;
    hv->valid &= ~(uint32_t)VIRTX_STATE_INTR;
}
