/* SPDX-License-Identifier: BSD-2-Clause */
/* Which root a vcpu runs under: the registers that govern the guest's paging, and the page made
 * from its top table under them. CR0.WP is always 1 in the processor. */
#include "paging/shadow.h"

static uint32_t role_of(const struct walk_mode *mode)
{
    uint32_t role = 0;

    if (!(mode->cr0 & CR0_PG))
        return ROLE_PAE; /* the tree is direct */
    if (!(mode->efer & EFER_LMA))
        role |= mode->cr4 & CR4_PAE ? ROLE_PAE : ROLE_32;
    if (role & ROLE_32)
        role |= mode->cr4 & CR4_PSE ? ROLE_PSE : 0;
    else
        role |= (mode->efer & EFER_NXE ? ROLE_NXE : 0) | (mode->no_1g ? 0 : ROLE_PSE);
    return shadow_role_wp(role, mode->cr0, mode->cr4);
}

/*
 * Which page faults are not the guest's own for sure: those of entries that are present. Of the
 * four entries of PAE format one that is not present need not be the guest's. And without EFER.NXE
 * and CR4.SMEP a fetch of the guest's has no bit of its own, but EFER.NXE is 1 in the processor
 * (Intel SDM "Page-Fault Exceptions").
 */
static uint32_t fault_bits(const struct shadow_vm *sv, const struct shadow_vcpu *v)
{
    if (!sv->unknown || !(v->mode.cr0 & CR0_PG) || !(v->mode.efer & EFER_LMA))
        return 0;
    return (v->mode.efer & EFER_NXE) || (v->mode.cr4 & CR4_SMEP) ? PF_PRESENT
                                                                 : PF_PRESENT | PF_FETCH;
}

/* Looks at the registers; most often only CR3 is another. False: not even that. */
static bool look(const struct shadow_vm *sv, struct hw_vcpu *hv, struct shadow_vcpu *v)
{
    const struct virtx_state *state = hw_state(hv, VIRTX_STATE_CR);

    if (likely(v->root && state->cr0 == v->mode.cr0 && state->cr4 == v->mode.cr4 &&
               state->efer == v->mode.efer && (state->efer & EFER_LMA))) {
        bool changed = (state->cr3 ^ v->mode.cr3) & SPTE_ADDRESS;

        v->mode.cr3 = state->cr3;
        return changed || v->root->state != SHADOW_LIVE;
    }
    if (v->root && (state->efer & EFER_LMA) && state->efer == v->mode.efer &&
        !((state->cr0 ^ v->mode.cr0) & CR0_PG) && !((state->cr4 ^ v->mode.cr4) & ~CR4_PGE)) {
        v->mode.cr0 = state->cr0;
        v->mode.cr3 = state->cr3;
        v->mode.cr4 = state->cr4;
        v->role = role_of(&v->mode);
        return true;
    }
    hw_walk_mode(hv, &v->mode);
    v->role = role_of(&v->mode);
    v->reserved = bits_mask(51, 0) & (~0ull << v->mode.physical_bits);
    if (!(state->efer & EFER_NXE))
        v->reserved |= GPTE_NX;
    v->fault_bits = fault_bits(sv, v);
    return true;
}

bool shadow_root_make(struct virtx_vcpu *vcpu)
{
    struct shadow_vm *sv = shadow_vm_of(vcpu->vm);
    struct shadow_vcpu *v = shadow_vcpu_of(vcpu);
    struct shadow_page *old = v->root, *root;

    if (!look(sv, hw_of(vcpu), v)) {
        v->stale = false;
        return true;
    }
    if ((v->mode.cr0 & CR0_PG) && (v->mode.efer & EFER_LMA)) {
        sv->stamp++;
        root = shadow_page_get(sv, (v->mode.cr3 & SPTE_ADDRESS) >> 12, v->role | ROLE_ACCESS | 4);
    } else {
        root = v->pae;
        shadow_page_empty(sv, root);
    }
    v->stale = root == NULL;
    hw_fault_bits(hw_of(vcpu), root ? v->fault_bits : 0);
    if (root == old)
        return root != NULL;
    if (root)
        root->pins++;
    if (old)
        shadow_page_unpin(sv, old);
    v->root = root;
    return root != NULL;
}
