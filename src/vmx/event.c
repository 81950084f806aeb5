/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Events on their way into the guest: injection, windows, and deliveries that an exit interrupted.
 *
 * NMI blocking. With virtual NMIs the processor keeps it in the interruptibility state, beginning
 * with an injected NMI and ending with IRET. Bochs 2.7 keeps one such flag for all VMs: it survives
 * entries that say it is clear, and an NMI of the host sets it. So the flag is believed only of a
 * vcpu that has been given an NMI since it was last put with the flag clear (nmi_blockable):
 * between two of them that take turns on a CPU lies a put. On a processor that works this changes
 * nothing.
 *
 * Of a virtual interrupt whose delivery an exit interrupts, Bochs 2.7 reports the vector of
 * whatever was delivered before. The right one is the highest in service, as on every processor.
 * (If that other event was an exception, nothing tells that it is not what was being delivered.)
 *
 * Without virtual NMIs the processor does not see the guest's IRET end its handler, nor can IRET be
 * made to exit. So the guest is in the executor from the delivery of an NMI, which is made there
 * too, until it has executed IRET; and while an NMI waits for anything else, as for the end of a
 * shadow, until that can be delivered.
 */
#include "vmx/vmx.h"

#define BLOCKED_SHADOW (VIRTX_BLOCKED_BY_STI | VIRTX_BLOCKED_BY_MOV_SS)

/* Error codes are pushed in protected mode only (Intel SDM "VM-Entry Control Fields"). */
static bool pushes_error(struct hw_vcpu *hv, const struct virtx_event *event)
{
    uint64_t cr0;

    if (!event->has_error)
        return false;
    if (likely(hv->state.efer & EFER_LMA))
        return true;
    cr0 = hv->valid & VIRTX_STATE_CR ? hv->state.cr0 : vmx_guest_cr0(vmx_of(hv));
    return cr0 & CR0_PE;
}

/* After an exit for the fault itself the flags have it already (Intel SDM "Saving RIP, RSP, RFLAGS,
 * and SSP"), but for Bochs 2.7's. */
static void page_fault_sets_rf(struct vmx_vcpu *v)
{
    uint64_t rflags;

    v->hw.state.rflags |= RFLAGS_RF; /* if it is valid, or newer */
    if (v->hw.dirty & VIRTX_STATE_RFLAGS)
        return;
    rflags = vmx_vmread(VMCS_GUEST_RFLAGS);
    v->hw.vcpu->stats.control_reads++;
    if (unlikely(!(rflags & RFLAGS_RF)))
        vmx_set_field(v, VMCS_GUEST_RFLAGS, rflags | RFLAGS_RF);
}

void vmx_inject(struct hw_vcpu *hv, const struct virtx_event *event)
{
    struct vmx_vcpu *v = vmx_of(hv);
    uint32_t info =
        INTERRUPTION_VALID | (uint32_t)event->type << INTERRUPTION_TYPE_SHIFT | event->vector;

    if (pushes_error(hv, event)) {
        info |= INTERRUPTION_ERROR;
        vmx_set_field(v, VMCS_ENTRY_ERROR_CODE, event->error & 0xffff);
    }
    if (event->type >= VIRTX_EVENT_SOFT_INTERRUPT)
        vmx_set_field(v, VMCS_ENTRY_LENGTH, event->length);
    if (event->type == VIRTX_EVENT_NMI)
        v->nmi_blockable = true;
    else if (event->type == VIRTX_EVENT_EXCEPTION && event->vector == VECTOR_PF)
        page_fault_sets_rf(v);
    if (v->hlt_activity)
        vmx_set_field(v, VMCS_GUEST_ACTIVITY, 0);
    vmx_set_field(v, VMCS_ENTRY_INTERRUPTION, info);
}

/*
 * Neither while a trap of the instruction before is pending: it goes first, and would be lost. An
 * entry that delivers something leaves no debug exception pending (Intel SDM "Delivery of Pending
 * Debug Exceptions after VM Entry").
 */
bool vmx_can_interrupt(struct hw_vcpu *hv)
{
    const struct virtx_state *state = hw_state(hv, VIRTX_STATE_RFLAGS | VIRTX_STATE_INTR);

    return (state->rflags & RFLAGS_IF) && !(state->interruptibility & BLOCKED_SHADOW) &&
           !hw_step_pending(state);
}

bool vmx_can_nmi(struct hw_vcpu *hv)
{
    const struct virtx_state *state = hw_state(hv, VIRTX_STATE_RFLAGS | VIRTX_STATE_INTR);

    return !(state->interruptibility & (BLOCKED_SHADOW | VIRTX_BLOCKED_BY_NMI)) &&
           !hw_step_pending(state);
}

/*
 * The interruptibility state says that NMIs are blocked. Where that cannot be the guest's doing, it
 * is taken out, in the VMCS too: the entry that injects an NMI would be refused, and without
 * virtual NMIs it would be the host's NMIs that stay blocked.
 */
void vmx_mend_nmi_blocking(struct vmx_vcpu *v)
{
    struct virtx_state *state = &v->hw.state;

    if ((v->control[VMX_PIN] & PIN_VIRTUAL_NMI) && v->nmi_blockable)
        return;
    state->interruptibility &= ~(uint32_t)VIRTX_BLOCKED_BY_NMI;
    vmx_set_field(v, VMCS_GUEST_INTERRUPTIBILITY, state->interruptibility);
}

bool vmx_nmi_by_hand(const struct vmx_vcpu *v)
{
    const struct hw_vcpu *hv = &v->hw;
    bool blocked = hv->valid & VIRTX_STATE_INTR ? hv->state.interruptibility & VIRTX_BLOCKED_BY_NMI
                                                : v->nmi_soft_blocked;

    return hv->nmi_by_hand && (blocked || v->window_nmi);
}

void vmx_window(struct hw_vcpu *hv, bool interrupt, bool nmi)
{
    struct vmx_vcpu *v = vmx_of(hv);
    uint32_t windows = 0;

    if (hv->nmi_by_hand) {
        v->window_nmi = nmi;
        if (nmi)
            hw_change(hv, VIRTX_STATE_INTR); /* the entry has to look */
    } else if (nmi) {
        windows |= PRIMARY_NMI_WINDOW;
    }
    if (interrupt)
        windows |= PRIMARY_INTERRUPT_WINDOW;
    vmx_set_control(v, VMX_PRIMARY,
                    (v->control[VMX_PRIMARY] & ~(PRIMARY_INTERRUPT_WINDOW | PRIMARY_NMI_WINDOW)) |
                        windows);
}

/* The window that was asked for is open. */
void vmx_window_open(struct vmx_vcpu *v, bool nmi)
{
    vmx_set_control(v, VMX_PRIMARY,
                    v->control[VMX_PRIMARY] &
                        ~(nmi ? PRIMARY_NMI_WINDOW : PRIMARY_INTERRUPT_WINDOW));
}

/*
 * After an exit that can come in the middle of a delivery (Intel SDM "Information for VM Exits That
 * Occur During Event Delivery"): hands the event back, to be delivered again.
 */
bool vmx_event_interrupted(struct vmx_vcpu *v)
{
    struct hw_vcpu *hv = &v->hw;
    uint32_t info = vmcs_idt_vectoring();
    struct virtx_event event;

    hv->vcpu->stats.control_reads++;
    if (likely(!(info & INTERRUPTION_VALID)))
        return false;
    event = (struct virtx_event){
        .type = (uint8_t)((info & INTERRUPTION_TYPE) >> INTERRUPTION_TYPE_SHIFT),
        .vector = (uint8_t)info,
        .has_error = info & INTERRUPTION_ERROR,
        .address = hv->state.cr2, /* #PF: the processor has written it already */
    };
    /* 1 is no type: nothing had been delivered before. Nor are NMIs or external interrupts
     * delivered that were not injected. */
    if (event.type <= VIRTX_EVENT_NMI && !hv->injected && hv->controls.apic.delivery)
        event =
            (struct virtx_event){.type = VIRTX_EVENT_INTERRUPT, .vector = vmx_apic_in_service(v)};
    if (event.has_error)
        event.error = (uint32_t)vmx_vmread(VMCS_IDT_ERROR_CODE);
    if (event.type >= VIRTX_EVENT_SOFT_INTERRUPT)
        event.length = (uint8_t)vmcs_exit_length();
    hv->vcpu->stats.control_reads += 2;
    /* An NMI that is to be delivered again must not find its own blocking. */
    if (event.type == VIRTX_EVENT_NMI) {
        hw_change(hv, VIRTX_STATE_INTR)->interruptibility &= ~(uint32_t)VIRTX_BLOCKED_BY_NMI;
        v->nmi_soft_blocked = false;
    }
    hv->reinject = event;
    hv->has_reinject = true;
    return true;
}

/* An IRET ended the blocking of NMIs and then faulted: it will be executed again, so blocking is
 * still in force (Intel SDM "Resuming Guest Software after Handling an Exception"). */
void vmx_nmi_unblocked(struct vmx_vcpu *v)
{
    if (v->control[VMX_PIN] & PIN_VIRTUAL_NMI) {
        v->nmi_blockable = true;
        hw_change(&v->hw, VIRTX_STATE_INTR)->interruptibility |= VIRTX_BLOCKED_BY_NMI;
    }
}

/*
 * #DB in an interrupt shadow, as STI under TF makes it, ends the shadow, delivered or dropped. Left
 * in the VMCS, it would need the single step that has just exited to be still pending (Intel SDM
 * "Checks on Guest Non-Register State"), and the entry would be refused.
 */
void vmx_debug_ends_shadow(struct vmx_vcpu *v)
{
    if (hw_state(&v->hw, VIRTX_STATE_INTR)->interruptibility & BLOCKED_SHADOW)
        hw_change(&v->hw, VIRTX_STATE_INTR)->interruptibility &= ~(uint32_t)BLOCKED_SHADOW;
}

/*
 * After a fault-like exit no debug exception is pending, but for those that MOV SS holds back
 * (Intel SDM "Saving Non-Register State"). Bochs 2.7 with TF set saves the single step of the
 * instruction that has not been executed, which would be delivered before it; on a processor that
 * works there is nothing to mend.
 */
void vmx_mend_pending_debug(struct vmx_vcpu *v)
{
    v->hw.vcpu->stats.control_reads++;
    if (likely(!(vmx_vmread(VMCS_GUEST_PENDING_DEBUG) & PENDING_DEBUG_SINGLE_STEP)))
        return;
    if (!(hw_state(&v->hw, VIRTX_STATE_INTR)->interruptibility & VIRTX_BLOCKED_BY_MOV_SS))
        hw_change(&v->hw, VIRTX_STATE_INTR)->pending_debug = 0;
}
