/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a guest does to its address space all the time, served without the machinery for exits that
 * need judgement: CR3, INVLPG, CR0.WP and CR4.PGE under shadow paging; CR4.PGE on a processor on
 * which every write of CR4 exits. All of it only where no intercept wants to see such exits
 * (hw_vcpu.quick); hw_exit() does the same and more.
 */
#include "hw/service.h"

/* The engine has chosen the root; what it owes is paid at once, so that prepare() has nothing to
 * do. */
static inline void use_root(struct hw_vcpu *hv, uint64_t hpa)
{
    if (hpa != hv->root) {
        hv->root = hpa;
        hv->ops->set_root(hv, hpa);
    }
    if (hv->flush) {
        hv->ops->flush(hv, hv->flush);
        hv->flush = 0;
        hv->work &= ~(uint32_t)HW_WORK_FLUSH;
    }
}

static inline enum hw_quick load_cr3(struct hw_vcpu *hv, uint64_t value)
{
    struct virtx_state *state = &hv->state;
    struct virtx_vcpu *vcpu = hv->vcpu;
    uint64_t hpa;

    /* CR3, EFER and what matters here of CR4 change with an exit only: the state has what the guest
     * wrote. */
    if (unlikely(!(state->efer & EFER_LMA) || (state->cr4 & CR4_PCIDE) ||
                 (value & hv->soft->policy.reserved) || (hv->work & HW_WORK_ROOT)))
        return HW_QUICK_NO;
    hpa = vcpu->vm->paging->load_cr3(vcpu, value);
    if (unlikely(!hpa))
        return HW_QUICK_NO;
    state->cr3 = value;
    use_root(hv, hpa);
    hv->ops->advance(hv);
    return HW_QUICK_ENTER;
}

/* CR0.WP and CR4.PGE: another view of the same tables, or a flush. */
static __attribute__((noinline)) enum hw_quick toggle_shadowed(struct hw_vcpu *hv)
{
    const struct virtx_exit_cr *cr = &hv->vcpu->exit.cr;
    struct virtx_vcpu *vcpu = hv->vcpu;
    const struct virtx_paging *paging = vcpu->vm->paging;
    uint64_t hpa = 0;

    if (!hv->ops->toggle || (cr->reg != 4 && cr->reg != 0) || (hv->work & HW_WORK_ROOT) ||
        (cr->reg == 4 && (cr->value & ~hv->soft->policy.cr4)) ||
        !hv->ops->toggle(hv, cr->reg, cr->value))
        return HW_QUICK_NO;
    if (paging->toggle && !(hv->state.cr4 & CR4_PCIDE))
        hpa = paging->toggle(vcpu, cr->reg, cr->value);
    if (unlikely(!hpa)) {
        hw_state(hv, VIRTX_STATE_CR);
        paging->control_changed(vcpu, hv->state.cr0, hv->state.cr4, hv->state.efer);
        hpa = paging->root(vcpu);
    }
    use_root(hv, hpa);
    hv->ops->advance(hv);
    return HW_QUICK_ENTER;
}

__attribute__((noinline)) enum hw_quick hw_quick_cr(struct hw_vcpu *hv)
{
    const struct virtx_exit_cr *cr = &hv->vcpu->exit.cr;

    if (!hv->quick || cr->access != VIRTX_WRITE)
        return HW_QUICK_NO;
    if (hv->shadowed)
        return cr->reg == 3 ? load_cr3(hv, cr->value) : toggle_shadowed(hv);
    if (cr->reg != 4 || !hv->ops->toggle || (cr->value & ~hv->soft->policy.cr4) ||
        !hv->ops->toggle(hv, 4, cr->value))
        return HW_QUICK_NO;
    hv->ops->flush(hv, HW_FLUSH_TAG);
    hv->ops->advance(hv);
    return HW_QUICK_ENTER;
}

__attribute__((noinline)) enum hw_quick hw_quick_invlpg(struct hw_vcpu *hv)
{
    struct virtx_vcpu *vcpu = hv->vcpu;

    if (!hv->quick || !hv->shadowed || vcpu->exit.instruction.which != VIRTX_INSN_INVLPG)
        return HW_QUICK_NO;
    vcpu->vm->paging->invlpg(vcpu, vcpu->exit.instruction.operand);
    if (hv->flush)
        use_root(hv, hv->root);
    hv->ops->advance(hv);
    return HW_QUICK_ENTER;
}
