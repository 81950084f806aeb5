/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Events into the guest: EVENTINJ, EXITINTINFO, and the windows in which they can follow.
 *
 * AMD APM volume 2, "Event Injection", "Virtual Interrupts", "NMI Support". The interrupt window is
 * a virtual interrupt that is intercepted where it would be delivered, and so never is. SVM does
 * not track whether an NMI handler runs: that is done here, by its IRET.
 */
#include "insn/insn.h"
#include "svm/svm.h"
#include "x86/cpu.h"

static void step_done(struct svm_vcpu *sv);

/* ---- EVENTINJ ---- */

void svm_inject(struct hw_vcpu *hv, const struct virtx_event *event)
{
    struct svm_vcpu *sv = svm_of(hv);
    uint32_t info = event->vector | VMCB_EVENT_VALID;
    bool page_fault = event->type == VIRTX_EVENT_EXCEPTION && event->vector == VECTOR_PF;

    if (sv->after & SVM_AFTER_STEP)
        step_done(sv); /* the event goes first, and must not push the step's TF */
    switch (event->type) {
    case VIRTX_EVENT_INTERRUPT:
        info |= VMCB_EVENT_INTERRUPT;
        break;
    case VIRTX_EVENT_NMI:
        info |= VMCB_EVENT_NMI;
        sv->nmi_blocked = true;
        svm_controls_iret(sv);
        break;
    case VIRTX_EVENT_SOFT_INTERRUPT:
        info |= VMCB_EVENT_SOFT;
        break;
    default:
        info |= VMCB_EVENT_EXCEPTION;
        break;
    }
    if (event->has_error)
        info |= VMCB_EVENT_ERROR;
    if (page_fault) {
        sv->vmcb.save.rflags |= RFLAGS_RF;
        hv->state.rflags |= RFLAGS_RF; /* if it is valid, or newer */
        sv->vmcb.save.cr2 = event->address;
        x86_write_cr2(event->address); /* one engine's VMRUN does not */
        sv->vmcb.control.clean &= ~(uint32_t)VMCB_CLEAN_CR2;
        hv->vcpu->stats.control_writes++;
    }
    /* What a software event pushes is the address behind its instruction; VMRUN pushes the RIP it
     * loads, or the next RIP where it has one. */
    if (event->type >= VIRTX_EVENT_SOFT_INTERRUPT) {
        sv->rewind = event->length;
        hv->state.rip += event->length;
        hv->dirty |= VIRTX_STATE_RIP;
        sv->vmcb.control.next_rip = hv->state.rip;
    }
    sv->event = *event;
    sv->vmcb.control.event_inj = info | (uint64_t)event->error << 32;
    sv->unproven |= !page_fault; /* which no processor refuses */
    svm_attend(sv);
}

/* ---- EXITINTINFO ---- */

/* One engine calls the physical interrupts of a guest that owns them exceptions. */
static uint32_t type_of(uint32_t info)
{
    uint32_t type = info & VMCB_EVENT_TYPE;

    return type == VMCB_EVENT_EXCEPTION && (info & VMCB_EVENT_VECTOR) >= 32 ? VMCB_EVENT_INTERRUPT
                                                                            : type;
}

static bool is_software(uint32_t info)
{
    uint32_t vector = info & VMCB_EVENT_VECTOR;

    return (info & VMCB_EVENT_TYPE) == VMCB_EVENT_SOFT ||
           ((info & VMCB_EVENT_TYPE) == VMCB_EVENT_EXCEPTION &&
            (vector == VECTOR_BP || vector == VECTOR_OF));
}

/* Executing the instruction again brings the exception again, or nothing can have trapped. */
static bool comes_again(const struct svm_vcpu *sv, uint32_t info)
{
    const struct vmcb_save *save = &sv->vmcb.save;
    uint32_t vector = info & VMCB_EVENT_VECTOR;

    if (type_of(info) != VMCB_EVENT_EXCEPTION || vector == VECTOR_MC)
        return false;
    return vector != VECTOR_DB || (!(save->rflags & RFLAGS_TF) && !(save->dr7 & 0xff));
}

/*
 * At an INT n one engine describes the exception before it, whenever that was. If it is a fault
 * that the INT n has caused, executing that again causes it again; so what is said need not be
 * believed.
 */
static bool may_be_stale(struct svm_vcpu *sv, uint32_t info)
{
    const struct insn *insn = comes_again(sv, info) ? hw_insn(&sv->hw) : NULL;

    return insn &&
           (insn->op == INSN_OP_INT || insn->op == INSN_OP_INT3 || insn->op == INSN_OP_INTO);
}

/*
 * No interrupt can have been on its way but by this entry's injection, which this one is not: they
 * exit, or, where they are the guest's own, are held off by its IF. At an INT n one engine
 * describes an interrupt that it delivered before, whenever and to whomever that was.
 */
static bool impossible(const struct svm_vcpu *sv, uint32_t info)
{
    return type_of(info) == VMCB_EVENT_INTERRUPT &&
           (!sv->hw.vcpu->vm->config.interrupts_to_guest || !(sv->vmcb.save.rflags & RFLAGS_IF));
}

/*
 * The exit interrupted the delivery of an event. One that the entry injected is handed back as it
 * came; others as the processor describes them. The guest's own software events are not: RIP is at
 * their instruction, which executes again.
 */
void svm_event_interrupted(struct svm_vcpu *sv)
{
    struct hw_vcpu *hv = &sv->hw;
    uint64_t info = sv->vmcb.control.exit_int_info;
    uint32_t type = type_of((uint32_t)info);
    struct virtx_event *event = &hv->reinject;

    hv->vcpu->exit.raw.interruption = info;
    if (hv->injected && sv->event.vector == (info & VMCB_EVENT_VECTOR)) {
        *event = sv->event;
        hv->has_reinject = true;
        hv->state.rip -= sv->rewind;
        hv->vcpu->exit.rip = hv->state.rip;
    } else if (!is_software((uint32_t)info) && (uint32_t)info != VMCB_EVENT_VALID &&
               !may_be_stale(sv, (uint32_t)info) && !impossible(sv, (uint32_t)info)) {
        /* Interrupt 0 above, which nobody sends, is all that one engine says of an INT n. */
        event->type = type == VMCB_EVENT_NMI         ? VIRTX_EVENT_NMI
                      : type == VMCB_EVENT_INTERRUPT ? VIRTX_EVENT_INTERRUPT
                                                     : VIRTX_EVENT_EXCEPTION;
        event->vector = (uint8_t)info;
        event->has_error = (info & VMCB_EVENT_ERROR) != 0;
        event->error = event->has_error ? (uint32_t)(info >> 32) : 0;
        event->length = 0;
        event->address = (uint8_t)info == VECTOR_PF ? sv->vmcb.save.cr2 : 0;
        hv->has_reinject = true;
    }
    if (hv->has_reinject && event->type == VIRTX_EVENT_NMI) {
        sv->nmi_blocked = false; /* it has not been taken after all */
        svm_controls_iret(sv);
    }
}

/* ---- Windows ---- */

bool svm_can_interrupt(struct hw_vcpu *hv)
{
    const struct virtx_state *state = hw_state(hv, VIRTX_STATE_RFLAGS | VIRTX_STATE_INTR);

    return (state->rflags & RFLAGS_IF) &&
           !(state->interruptibility & (VIRTX_BLOCKED_BY_STI | VIRTX_BLOCKED_BY_MOV_SS));
}

bool svm_can_nmi(struct hw_vcpu *hv)
{
    const struct virtx_state *state = hw_state(hv, VIRTX_STATE_INTR);

    return !(state->interruptibility &
             (VIRTX_BLOCKED_BY_STI | VIRTX_BLOCKED_BY_MOV_SS | VIRTX_BLOCKED_BY_NMI));
}

/* PUSHF would show the guest the step's TF. The NMI waits for the next exit then. */
static bool may_step(struct svm_vcpu *sv)
{
    const struct insn *insn = hw_insn(&sv->hw);

    return !insn || insn->op != INSN_OP_PUSHF;
}

/*
 * The hardware's part of the interrupt window: a virtual interrupt, which exits when it could be
 * delivered. While an instruction is stepped over, that is the window. For an interrupt that only
 * CR8 holds back it has that interrupt's priority, and waits for CR8 too.
 */
static void request_virtual_interrupt(struct svm_vcpu *sv)
{
    struct vmcb_control *control = &sv->vmcb.control;
    uint8_t threshold = sv->watches_cr8 ? 0 : sv->tpr_threshold;
    uint8_t priority = sv->window_interrupt ? 0xf | VMCB_V_IGN_TPR : threshold;
    bool watch = (sv->watches_cr8 && (sv->window_interrupt || sv->tpr_threshold)) ||
                 (sv->hw.controls.cr8_shadow && (sv->tpr & 0xf));

    if (sv->watch_cr8 != watch) {
        sv->watch_cr8 = watch;
        svm_controls_cr(sv);
    }
    if (sv->after & SVM_AFTER_STEP)
        priority = 0;
    if (priority == control->v_intr_prio)
        return;
    control->v_intr_prio = priority;
    control->v_intr_vector = 0;
    if (priority) {
        control->v_irq |= VMCB_V_IRQ;
        control->misc1 |= VMCB_VINTR;
    } else {
        control->v_irq &= (uint8_t)~VMCB_V_IRQ;
        control->misc1 &= ~(uint32_t)VMCB_VINTR;
    }
    svm_dirty(sv, VMCB_CLEAN_INTERCEPTS | VMCB_CLEAN_TPR);
}

/* V_TPR is always there: without an intercept CR8 is nothing else. */
uint8_t svm_tpr(struct hw_vcpu *hv)
{
    const struct svm_vcpu *sv = svm_of(hv);
    uint8_t cr8 = sv->vmcb.control.v_tpr & 0xf;

    return sv->tpr >> 4 == cr8 ? sv->tpr : (uint8_t)(cr8 << 4);
}

void svm_set_tpr(struct hw_vcpu *hv, uint8_t tpr)
{
    struct svm_vcpu *sv = svm_of(hv);

    sv->tpr = tpr;
    if ((sv->vmcb.control.v_tpr & 0xf) != tpr >> 4) {
        sv->vmcb.control.v_tpr = tpr >> 4;
        svm_dirty(sv, VMCB_CLEAN_TPR);
    }
    request_virtual_interrupt(sv); /* which sees to the exits of CR8 writes */
}

/* AMD APM volume 2, "Virtual Interrupts": a virtual interrupt is taken when its priority is above
 * V_TPR. */
void svm_cr8_threshold(struct hw_vcpu *hv, uint8_t threshold)
{
    struct svm_vcpu *sv = svm_of(hv);

    sv->tpr_threshold = threshold;
    request_virtual_interrupt(sv);
}

/* The virtual interrupt has exited: one of the two windows is open. */
void svm_window_open(struct svm_vcpu *sv)
{
    bool falls = sv->tpr_threshold && !sv->window_interrupt;

    sv->hw.vcpu->exit.reason = falls ? HW_EXIT_TPR : HW_EXIT_WINDOW;
    svm_window(&sv->hw, false, sv->window_nmi);
}

/*
 * An NMI has no window of its own. Behind an interrupt shadow it can come one instruction further
 * on, which is stepped over. Behind another event it can come at once, so the guest is made to exit
 * right after that has been delivered.
 */
void svm_window(struct hw_vcpu *hv, bool interrupt, bool nmi)
{
    struct svm_vcpu *sv = svm_of(hv);
    struct virtx *virtx = hv->vcpu->virtx;
    bool soon = nmi && !sv->nmi_blocked;

    sv->window_interrupt = interrupt;
    sv->window_nmi = nmi;
    if (soon && !hv->injected && !(sv->after & SVM_AFTER_STEP) && may_step(sv))
        svm_step_begin(sv);
    if (soon && hv->injected) {
        sv->after |= SVM_AFTER_NMI;
        svm_attend(sv);
        virtx->ops.kick_cpu(virtx->ctx, sv->last_cpu);
    }
    request_virtual_interrupt(sv);
}

/* ---- Stepping over one instruction, to the end of an NMI handler ---- */

/*
 * NMIs are unblocked by the completion of IRET. The intercept comes before it executes, so it is
 * executed with TF set; every exception is intercepted meanwhile, since one that the IRET causes
 * must not push that TF.
 */
void svm_step_begin(struct svm_vcpu *sv)
{
    sv->after |= SVM_AFTER_STEP;
    svm_controls_exceptions(sv, true);
    svm_controls_iret(sv);
    request_virtual_interrupt(sv);
}

static void step_done(struct svm_vcpu *sv)
{
    sv->after &= (uint8_t)~SVM_AFTER_STEP;
    svm_controls_exceptions(sv, false);
    svm_controls_iret(sv);
    request_virtual_interrupt(sv);
}

/* At the entry, when the registers are in the VMCB. */
void svm_step_arm(struct svm_vcpu *sv)
{
    struct vmcb_save *save = &sv->vmcb.save;

    sv->step_tf = (save->rflags & RFLAGS_TF) != 0;
    sv->step_rip = save->rip;
    sv->step_dr6 = save->dr6;
    save->rflags |= RFLAGS_TF;
}

/* After the exit has been decoded. If it was the step's own trap, it was something else. */
void svm_step_end(struct svm_vcpu *sv, uint8_t after)
{
    struct hw_vcpu *hv = &sv->hw;
    struct vmcb_save *save = &sv->vmcb.save;
    bool trapped = sv->vmcb.control.exit_code == VMEXIT_EXCEPTION + VECTOR_DB;
    bool executed = save->rip != sv->step_rip || trapped;

    if (after & SVM_AFTER_NMI)
        hv->work |= HW_WORK_EVENT;
    sv->after &= (uint8_t)~SVM_AFTER_NMI;
    if (!(after & SVM_AFTER_STEP))
        return;
    if (sv->window_interrupt || sv->window_nmi)
        hv->work |= HW_WORK_EVENT; /* the windows are to be looked at again */
    hv->valid &= ~(uint32_t)(VIRTX_STATE_RFLAGS | VIRTX_STATE_DR | VIRTX_STATE_INTR);
    if (executed)
        sv->nmi_blocked = false;
    else if (!sv->step_tf)
        save->rflags &= ~RFLAGS_TF;
    step_done(sv);
    if (!trapped || sv->step_tf)
        return;
    save->dr6 = sv->step_dr6;
    svm_dirty(sv, VMCB_CLEAN_DR);
    if (sv->window_nmi)
        hv->vcpu->exit.reason = HW_EXIT_NMI_WINDOW;
    else
        hv->vcpu->exit.reason = sv->window_interrupt ? HW_EXIT_WINDOW : HW_EXIT_HOST;
}
