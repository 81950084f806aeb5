/* SPDX-License-Identifier: BSD-2-Clause */
/* One entry and one exit; retiring an intercepted instruction. */
#include "svm/svm.h"

/* How much of the save area VMRUN and #VMEXIT move. */
#define SAVED_BYTES (offsetof(struct vmcb_save, br_from))

/*
 * Before an entry that is not like the last one. Puts the guest's state into the VMCB and, as far
 * as VMLOAD moves it, into the processor. Such an entry may be refused, and some processors leave
 * the host's registers in the save area when they refuse, so it is copied first.
 */
static void prepare(struct svm_vcpu *sv)
{
    struct hw_vcpu *hv = &sv->hw;
    struct vmcb_save *save = &sv->vmcb.save;

    svm_write(sv);
    if (sv->host_stale) {
        svm_vmsave(sv->host_hpa);
        sv->host_stale = false;
    }
    if (!sv->switch_extra && sv->extra == SVM_EXTRA_VMCB)
        svm_vmload(sv->vmcb_hpa);
    sv->attention = 0;
    sv->after |= SVM_AFTER_ENTRY;
    save->rip = hv->state.rip;
    save->rax = hv->state.gpr[VIRTX_RAX];
    memcpy(sv->backup, save, SAVED_BYTES);
    sv->backed_up = true;
    if (unlikely(sv->after & SVM_AFTER_STEP))
        svm_step_arm(sv);
}

/* After such an entry has succeeded: what was for this entry only. */
static void clean_up(struct svm_vcpu *sv)
{
    struct vmcb_control *control = &sv->vmcb.control;

    control->event_inj = 0;
    control->tlb_control = VMCB_FLUSH_NOTHING;
    control->clean = sv->clean;
    sv->backed_up = false;
    sv->after &= (uint8_t)~SVM_AFTER_ENTRY;
}

/* VMEXIT_INVALID: puts the guest's state back, and finds the rule that was broken. */
static enum virtx_status refused(struct svm_vcpu *sv)
{
    struct hw_vcpu *hv = &sv->hw;
    struct virtx_error *error = &hv->vcpu->error;

    hv->vcpu->exit.raw.code = sv->vmcb.control.exit_code;
    if (!sv->backed_up) {
        hv->vcpu->dead = true;
        return virtx_fail(error, VIRTX_E_HARDWARE, "VMRUN",
                          "the processor refused an entry like the one before, which it took",
                          sv->vmcb.control.exit_code);
    }
    memcpy(&sv->vmcb.save, sv->backup, SAVED_BYTES);
    hv->state.rip = sv->vmcb.save.rip - sv->rewind;
    hv->state.gpr[VIRTX_RAX] = sv->vmcb.save.rax;
    sv->rewind = 0;
    sv->vmcb.control.event_inj = 0;
    sv->vmcb.control.clean = 0;
    sv->attention = 1;
    if (svm_check(hv, error) != VIRTX_OK)
        return error->status;
    return virtx_fail(error, VIRTX_E_HARDWARE, "VMRUN",
                      "the processor refused the entry and no rule explains it",
                      sv->vmcb.control.exit_code);
}

enum virtx_status svm_enter(struct hw_vcpu *hv)
{
    struct svm_vcpu *sv = svm_of(hv);
    struct vmcb *vmcb = &sv->vmcb;

    if (unlikely((hv->dirty & ~(uint32_t)(VIRTX_STATE_GPR | VIRTX_STATE_RIP)) | sv->attention))
        prepare(sv);
    hv->dirty = 0;
    vmcb->save.rip = hv->state.rip;
    vmcb->save.rax = hv->state.gpr[VIRTX_RAX];
    if (unlikely(sv->switch_extra)) {
        svm_vmrun_switch(sv, sv->vmcb_hpa, sv->host_hpa);
    } else {
        svm_vmrun(sv, sv->vmcb_hpa);
        sv->extra = SVM_EXTRA_PROCESSOR;
    }
    if (unlikely((uint32_t)vmcb->control.exit_code == VMEXIT_INVALID_LOW))
        return refused(sv);
    if (unlikely(sv->after & SVM_AFTER_ENTRY))
        clean_up(sv);
    hv->state.rip = vmcb->save.rip;
    hv->state.gpr[VIRTX_RAX] = vmcb->save.rax;
    hv->valid = SVM_STATE_KEPT;
    svm_decode(sv);
    return VIRTX_OK;
}

/*
 * What retiring an instruction does besides moving RIP: RF is cleared, and with TF set a
 * single-step trap follows (AMD APM volume 2, "Debug Exception"). A VMCB has no place for a pending
 * trap, so it is queued as an exception.
 */
static void retire_flags(struct svm_vcpu *sv)
{
    struct hw_vcpu *hv = &sv->hw;
    struct vmcb_save *save = &sv->vmcb.save;
    static const struct virtx_event single_step = {
        .type = VIRTX_EVENT_EXCEPTION, .vector = VECTOR_DB, .address = 1u << 14};

    if (save->rflags & RFLAGS_TF) {
        virtx_event_exception(&hv->vcpu->events, &single_step);
        hv->work |= HW_WORK_EVENT;
    }
    save->rflags &= ~RFLAGS_RF;
}

void svm_advance(struct hw_vcpu *hv)
{
    struct svm_vcpu *sv = svm_of(hv);
    uint64_t old = hv->state.rip, rip = old + hv->vcpu->exit.length;

    /* What a handler has changed goes to the VMCB first, so that there is one place to look at. */
    if (unlikely(hv->dirty & (VIRTX_STATE_RFLAGS | VIRTX_STATE_INTR | VIRTX_STATE_SEG)))
        svm_write(sv);
    if (unlikely((rip ^ old) >> 32) && !svm_is_64bit(sv))
        rip = (uint32_t)rip;
    hv->state.rip = rip;
    if (unlikely(sv->vmcb.save.rflags & (RFLAGS_RF | RFLAGS_TF)))
        retire_flags(sv);
    sv->vmcb.control.interrupt_state = 0;
    hv->valid &= ~(uint32_t)(VIRTX_STATE_RFLAGS | VIRTX_STATE_INTR);
}
