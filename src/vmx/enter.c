/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One entry: what must be written first, what a refusal means, and the end of an instruction.
 *
 * The steady state is an exit that moves RIP only: vmx_enter() writes it and jumps to entry.S,
 * which jumps to vmx_exited().
 */
#include "vmx/check.h"
#include "vmx/offsets.h"

_Static_assert(offsetof(struct hw_vcpu, state.gpr) == 0, "entry.S takes the GPRs at 0");
_Static_assert(offsetof(struct hw_vcpu, state.cr2) == VMX_CR2_AT, "entry.S");
_Static_assert(offsetof(struct hw_vcpu, entry) == VMX_HOST_RSP_AT, "entry.S");
_Static_assert(offsetof(struct hw_vcpu, vcpu) == VMX_VCPU_AT, "entry.S");
_Static_assert(offsetof(struct virtx_vcpu, requests) == VMX_REQUESTS_AT, "entry.S");
_Static_assert(VMCS_HOST_RSP == VMX_FIELD_HOST_RSP, "entry.S");

#define BLOCKED_SHADOW (VIRTX_BLOCKED_BY_STI | VIRTX_BLOCKED_BY_MOV_SS)

/* Finds the mode for the state as it is now. False: there is none. */
static bool choose_mode(struct vmx_vcpu *v)
{
    enum vmx_mode mode = vmx_mode_wanted(v);

    if (mode == VMX_MODE_NONE)
        return false;
    if (mode != v->mode)
        vmx_mode_set(v, mode);
    if (mode != VMX_MODE_NATIVE && v->nested)
        vmx_mode_refresh(v);
    return true;
}

/* An entry with more to do than the usual. The first one after a load always is. */
static __attribute__((noinline)) uint32_t enter_slowly(struct vmx_vcpu *v, uint32_t dirty)
{
    if (unlikely(v->hw.confined)) {
        if (vmx_nmi_by_hand(v) || (v->confined && !choose_mode(v)))
            return v->hw.vcpu->exit.reason = HW_EXIT_EXECUTE;
        dirty = v->hw.dirty;
    }
    if (dirty & VMX_DIRTY_HOST)
        vmx_host_refresh(v);
    vmx_write(v, dirty & VIRTX_STATE_ALL);
    if (dirty & VMX_DIRTY_TIMER)
        vmx_timer_set(v);
    v->hw.dirty = v->standing;
    if (v->launched)
        return dirty & VMX_DIRTY_CHECK ? vmx_resume_checked(v) : vmx_resume(v);
    v->launched = true; /* relaunch() takes it back */
    return dirty & VMX_DIRTY_CHECK ? vmx_launch_checked(v) : vmx_launch(v);
}

/* With nothing more to write than RIP, if that. */
static inline uint32_t enter_moved(struct vmx_vcpu *v, uint32_t dirty)
{
    if (dirty & VIRTX_STATE_RIP) {
        vmx_vmwrite_from(VMCS_GUEST_RIP, &v->hw.state.rip);
        v->hw.vcpu->stats.control_writes++;
    }
    v->hw.dirty = 0;
    return vmx_resume(v);
}

/* The host has changed what its state in the VMCS has to agree with. */
static __attribute__((noinline)) uint32_t enter_refreshed(struct vmx_vcpu *v, uint32_t dirty)
{
    vmx_host_refresh(v);
    return enter_moved(v, dirty);
}

/* The usual entry but for the timer, if it is that; else a slow one. */
static __attribute__((noinline)) uint32_t enter_timed(struct vmx_vcpu *v, uint32_t dirty)
{
    if ((dirty & ~(VMX_DIRTY_HOST | VIRTX_STATE_RIP)) != VMX_DIRTY_TIMER ||
        unlikely(v->mode != VMX_MODE_NATIVE))
        return enter_slowly(v, dirty);
    if ((dirty & VMX_DIRTY_HOST) && unlikely(vmx_host_changed(v)))
        vmx_host_refresh(v);
    if (dirty & VIRTX_STATE_RIP) {
        vmx_vmwrite_from(VMCS_GUEST_RIP, &v->hw.state.rip);
        v->hw.vcpu->stats.control_writes++;
    }
    vmx_timer_set(v);
    v->hw.dirty = v->standing;
    return vmx_resume(v);
}

/*
 * Not the usual entry, but one of the two next to it: after a return to the loop, or with nothing
 * changed, as when a nested fault was mended.
 */
static __attribute__((noinline)) uint32_t enter_otherwise(struct vmx_vcpu *v)
{
    uint32_t dirty = v->hw.dirty;

    if (unlikely(dirty & ~(VMX_DIRTY_HOST | VIRTX_STATE_RIP)) ||
        unlikely(v->mode != VMX_MODE_NATIVE))
        return enter_timed(v, dirty);
    if ((dirty & VMX_DIRTY_HOST) && unlikely(vmx_host_changed(v)))
        return enter_refreshed(v, dirty);
    return enter_moved(v, dirty);
}

uint32_t vmx_enter(struct hw_vcpu *hv)
{
    struct vmx_vcpu *v = vmx_of(hv);

    /* In the steady state of a run, or at the first entry of one that finds the host as it was. */
    if (unlikely(hv->dirty != VIRTX_STATE_RIP) &&
        (unlikely(hv->dirty != (VMX_DIRTY_HOST | VIRTX_STATE_RIP)) ||
         unlikely(v->mode != VMX_MODE_NATIVE) || unlikely(vmx_host_changed(v))))
        return enter_otherwise(v);
    vmx_vmwrite_from(VMCS_GUEST_RIP, &hv->state.rip);
    hv->vcpu->stats.control_writes++;
    hv->dirty = 0;
    return vmx_resume(v);
}

/* Leaves the VMCS clear and current: whether the launch had taken effect no longer matters. What
 * was to be injected goes back to src/hw, which injects it again. */
static void relaunch(struct vmx_vcpu *v)
{
    vmx_set_field(v, VMCS_ENTRY_INTERRUPTION, 0);
    vmx_vmclear(v->vmcs_hpa);
    vmx_vmptrld(v->vmcs_hpa);
    v->launched = false;
    v->hw.dirty |= VMX_DIRTY_LAUNCH; /* so that vmx_enter() sees to it */
}

void vmx_hold_nmi(struct hw_vcpu *hv, bool on)
{
    hv->dirty = on ? hv->dirty | VMX_DIRTY_CHECK : hv->dirty & ~VMX_DIRTY_CHECK;
}

/* From entry.S: a request has come, or an NMI that may have brought one. */
VMX_FROM_ASSEMBLY uint32_t vmx_aborted(struct vmx_vcpu *v)
{
    relaunch(v);
    return v->hw.vcpu->exit.reason = HW_EXIT_ABORTED;
}

/* An NMI handler that has interrupted a checked entry behind its look does not go back there. */
uint64_t vmx_nmi_return(uint64_t rip)
{
    if ((rip >= (uintptr_t)vmx_launch_check && rip <= (uintptr_t)vmx_launch_entry) ||
        (rip >= (uintptr_t)vmx_resume_check && rip <= (uintptr_t)vmx_resume_entry))
        return (uintptr_t)vmx_abort_point;
    return rip;
}

/* A failure that the rules should explain, and how to name it when they do not. */
static uint32_t explain(struct vmx_vcpu *v, uint32_t which, enum virtx_status unexplained,
                        const char *text, uint64_t code)
{
    struct virtx_error *error = &v->hw.vcpu->error;
    enum virtx_status status = which ? vmx_check_entry(v, error, which) : VIRTX_OK;

    if (status == VIRTX_OK)
        status = virtx_fail_manual(error, unexplained, "VM entry", text,
                                   "VM Instruction Error Numbers", code);
    relaunch(v);
    v->hw.refusal = status;
    return v->hw.vcpu->exit.reason = HW_EXIT_REFUSED;
}

/* From entry.S: VMLAUNCH or VMRESUME fell through. */
VMX_FROM_ASSEMBLY uint32_t vmx_refused(struct vmx_vcpu *v, uint64_t invalid)
{
    uint32_t number;

    v->hw.valid |= VMX_STATE_KEPT;
    if (invalid)
        return explain(v, 0, VIRTX_E_HARDWARE, "there is no current VMCS", 0);
    number = (uint32_t)vmx_vmread(VMCS_INSTRUCTION_ERROR);
    switch (number) {
    case 7:
        return explain(v, CHECK_CONTROLS, VIRTX_E_CONTROLS, vmx_instruction_error(number), number);
    case 8:
        return explain(v, CHECK_HOST, VIRTX_E_HOST_STATE, vmx_instruction_error(number), number);
    default:
        return explain(v, 0, VIRTX_E_HARDWARE, vmx_instruction_error(number), number);
    }
}

/* From exit.c: an exit whose reason says that there was no entry (Intel SDM "VM-Entry Failures
 * During or After Loading Guest State"). */
uint32_t vmx_entry_failed(struct vmx_vcpu *v, uint32_t reason)
{
    switch (reason & VMX_REASON_BASIC) {
    case VMX_REASON_ENTRY_GUEST_STATE:
        return explain(v, CHECK_GUEST, VIRTX_E_GUEST_STATE,
                       "invalid guest state that no known rule explains",
                       vmcs_exit_qualification());
    case VMX_REASON_ENTRY_MSR:
        return explain(v, CHECK_MSRS, VIRTX_E_GUEST_STATE,
                       "an MSR-load entry that no known rule explains", vmcs_exit_qualification());
    case VMX_REASON_ENTRY_MACHINE_CHECK:
        hw_host_machine_check(v->hw.vcpu->virtx);
        return explain(v, 0, VIRTX_E_HARDWARE, "a machine check during the entry", reason);
    default:
        return explain(v, 0, VIRTX_E_HARDWARE, "an entry failure that the manual does not list",
                       reason);
    }
}

/* In 64-bit mode all of RIP counts, elsewhere 32 bits. */
static uint64_t wrapped(const struct vmx_vcpu *v, uint64_t rip)
{
    const struct hw_vcpu *hv = &v->hw;
    uint64_t attributes = hv->valid & VIRTX_STATE_SEG ? hv->state.seg[VIRTX_CS].attributes
                                                      : vmx_vmread(VMCS_GUEST_CS_ATTRIBUTES);

    if ((hv->state.efer & EFER_LMA) && (attributes & VIRTX_SEG_L))
        return rip;
    return (uint32_t)rip;
}

static __attribute__((noinline)) void end_of_instruction(struct hw_vcpu *hv)
{
    struct virtx_state *state = hw_change(hv, VIRTX_STATE_INTR | VIRTX_STATE_RFLAGS);

    state->rflags &= ~RFLAGS_RF;
    state->interruptibility &= ~(uint32_t)BLOCKED_SHADOW;
    if (state->rflags & RFLAGS_TF)
        hw_single_step(hv);
}

/* With what has been read of the guest since the exit, or anything else out of the ordinary. */
static __attribute__((noinline)) void advance_slowly(struct hw_vcpu *hv)
{
    struct virtx_state *state = hw_state(hv, VIRTX_STATE_RFLAGS | VIRTX_STATE_INTR);
    uint64_t next = state->rip + hv->vcpu->exit.length;

    if ((next ^ state->rip) >> 32)
        next = wrapped(vmx_of(hv), next);
    state->rip = next;
    hv->dirty |= VIRTX_STATE_RIP;
    if ((state->rflags & (RFLAGS_TF | RFLAGS_RF)) | (state->interruptibility & BLOCKED_SHADOW))
        end_of_instruction(hv);
}

void vmx_advance(struct hw_vcpu *hv)
{
    struct virtx_vcpu *vcpu = hv->vcpu;
    uint64_t length = vcpu->exit.length;
    uint64_t next = hv->state.rip + length;

    /* The last comparison: RIP has left the 32 bits that count outside 64-bit mode. */
    if (unlikely(hv->valid & (VIRTX_STATE_RFLAGS | VIRTX_STATE_INTR)) ||
        unlikely(vmx_vmread(VMCS_GUEST_RFLAGS) & (RFLAGS_TF | RFLAGS_RF)) ||
        unlikely(vmx_vmread(VMCS_GUEST_INTERRUPTIBILITY) & BLOCKED_SHADOW) ||
        unlikely((uint32_t)next < (uint32_t)length)) {
        advance_slowly(hv);
        return;
    }
    vcpu->stats.control_reads += 2;
    hv->state.rip = next;
    hv->dirty |= VIRTX_STATE_RIP;
}
