/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Control registers, EFER, XCR0 and debug registers as the guest writes them: the checks of the
 * architecture, and what a change makes stale.
 *
 * TLB debts are owed only where the manuals say that the instruction invalidates (Intel SDM
 * "Operations that Invalidate TLBs and Paging-Structure Caches"; AMD APM "Implicit Invalidations").
 */
#include "hw/service.h"
#include "paging/walk.h"

#define CR0_KNOWN                                                                                  \
    (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD |     \
     CR0_PG)

void hw_owe(struct hw_vcpu *hv, uint32_t debts)
{
    hv->flush |= debts;
    hv->work |= HW_WORK_FLUSH;
}

/* Which translations a change of the control registers makes stale. */
static uint32_t debts_of(uint64_t cr0, uint64_t new_cr0, uint64_t cr4, uint64_t new_cr4)
{
    if ((cr0 ^ new_cr0) & CR0_PG)
        return HW_FLUSH_TAG;
    if (!(new_cr0 & CR0_PG))
        return 0;
    if ((cr4 ^ new_cr4) & (CR4_PGE | CR4_PAE | CR4_PSE))
        return HW_FLUSH_TAG;
    if ((cr4 & ~new_cr4 & CR4_PCIDE) || (new_cr4 & ~cr4 & CR4_SMEP))
        return HW_FLUSH_TAG;
    return 0;
}

void hw_control_changed(struct hw_vcpu *hv, uint64_t cr0, uint64_t cr3, uint64_t cr4, uint64_t efer,
                        bool set)
{
    struct virtx_vcpu *vcpu = hv->vcpu;
    const struct virtx_paging *paging = vcpu->vm->paging;
    const struct virtx_state *now = hw_state(hv, VIRTX_STATE_CR);
    uint32_t debts = debts_of(cr0, now->cr0, cr4, now->cr4);

    if (set && (cr0 != now->cr0 || cr3 != now->cr3 || cr4 != now->cr4 || efer != now->efer))
        debts = HW_FLUSH_TAG; /* not by an instruction: anything may have changed */
    if (debts)
        hw_owe(hv, debts);
    if ((cr4 ^ now->cr4) & (CR4_OSXSAVE | CR4_PKE)) {
        hw_cpuid_forget(hv);
        if (hv->soft->fpu_lazy & HW_LAZY_WAITS)
            hv->work |= HW_WORK_FPU | HW_WORK_CONTROLS; /* whether it may */
    }
    if (paging->control_changed) {
        paging->control_changed(vcpu, cr0, cr4, efer);
        hv->work |= HW_WORK_ROOT;
    }
}

static bool gp(struct hw_vcpu *hv)
{
    hw_raise_error(hv, VECTOR_GP, 0);
    return false;
}

/* Loads the four page-directory-pointer entries that CR3 points to (Intel SDM "PDPTE Registers").
 * False: one of them has a reserved bit set, or they are not in memory. */
static bool load_pdptes(struct hw_vcpu *hv, uint64_t cr3, uint64_t *pdpte)
{
    uint64_t reserved = hv->soft->policy.reserved | 0x1e6;

    if (virtx_gpa_read(hv->vcpu->vm, cr3 & 0xffffffe0, pdpte, 4 * sizeof(*pdpte)) != VIRTX_OK)
        return false;
    for (unsigned i = 0; i < 4; i++) {
        if (hv->soft->policy.amd) /* one engine's SVM sets the reserved bit by itself */
            pdpte[i] &= ~(1ull << 5);
        if ((pdpte[i] & 1) && (pdpte[i] & reserved))
            return false;
    }
    return true;
}

/* PAE paging outside long mode: the entries are loaded with CR3 and with the bits that turn it on.
 */
static bool reload_pdptes(struct hw_vcpu *hv, struct virtx_state *state, uint64_t cr0, uint64_t cr3,
                          uint64_t cr4)
{
    uint64_t pdpte[4];

    if (!(cr0 & CR0_PG) || !(cr4 & CR4_PAE) || (state->efer & EFER_LME))
        return true;
    if (!load_pdptes(hv, cr3, pdpte))
        return false;
    memcpy(state->pdpte, pdpte, sizeof(pdpte));
    return true;
}

/* Intel SDM "MOV—Move to/from Control Registers"; AMD APM "MOV CRn". */
static bool write_cr0(struct hw_vcpu *hv, uint64_t value)
{
    struct virtx_state *state = hw_state(hv, VIRTX_STATE_CR);
    uint64_t old = state->cr0, old_efer = state->efer;

    if (value >> 32)
        return gp(hv);
    value = (value & CR0_KNOWN) | CR0_ET;
    if ((value & CR0_PG) && !(value & CR0_PE))
        return gp(hv);
    if ((value & CR0_NW) && !(value & CR0_CD))
        return gp(hv);
    if (!(value & CR0_PG) && (state->cr4 & CR4_PCIDE))
        return gp(hv);
    if ((value & ~old & CR0_PG) && (state->efer & EFER_LME)) {
        if (!(state->cr4 & CR4_PAE) ||
            (hw_state(hv, VIRTX_STATE_SEG)->seg[VIRTX_CS].attributes & VIRTX_SEG_L))
            return gp(hv);
    }
    /* In 64-bit mode paging cannot be switched off. */
    if ((old & ~value & CR0_PG) && (state->efer & EFER_LMA) &&
        (hw_state(hv, VIRTX_STATE_SEG)->seg[VIRTX_CS].attributes & VIRTX_SEG_L))
        return gp(hv);
    if (((old ^ value) & (CR0_PG | CR0_CD | CR0_NW)) &&
        !reload_pdptes(hv, state, value, state->cr3, state->cr4))
        return gp(hv);

    hw_change(hv, VIRTX_STATE_CR);
    if ((old ^ value) & CR0_PG) {
        if ((value & CR0_PG) && (state->efer & EFER_LME))
            state->efer |= EFER_LMA;
        else
            state->efer &= ~EFER_LMA;
    }
    state->cr0 = value;
    /* Who clears TS is about to use it, and needs no #NM then. Nor is it worth the exits, which
     * writes of CR0 cost meanwhile, for a guest that changes its mode. */
    if (unlikely(hv->soft->fpu_lazy & HW_LAZY_WAITS) &&
        ((old & ~value & CR0_TS) || ((old ^ value) & (CR0_PE | CR0_PG))))
        hw_fpu_use(hv);
    hw_control_changed(hv, old, state->cr3, state->cr4, old_efer, false);
    return true;
}

static bool write_cr3(struct hw_vcpu *hv, uint64_t value)
{
    struct virtx_state *state = hw_state(hv, VIRTX_STATE_CR);
    uint64_t old = state->cr3;
    bool keep = false;

    if ((state->cr4 & CR4_PCIDE) && value >> 63) {
        keep = true;
        value &= ~(1ull << 63);
    }
    if (!(state->efer & EFER_LMA))
        value = (uint32_t)value;
    else if (value & hv->soft->policy.reserved)
        return gp(hv);
    if (unlikely(!(state->efer & EFER_LMA)) &&
        !reload_pdptes(hv, state, state->cr0, value, state->cr4))
        return gp(hv);
    if (!hv->vcpu->vm->paging->nested) {
        /* The processor's CR3 is the engine's, which says what has to be flushed. */
        state->cr3 = value;
        hv->vcpu->vm->paging->control_changed(hv->vcpu, state->cr0, state->cr4, state->efer);
        hv->work |= HW_WORK_ROOT;
        return true;
    }
    hw_change(hv, VIRTX_STATE_CR)->cr3 = value;
    if (!keep && (state->cr0 & CR0_PG))
        hw_owe(hv, HW_FLUSH_TAG);
    hw_control_changed(hv, state->cr0, old, state->cr4, state->efer, false);
    return true;
}

static bool write_cr4(struct hw_vcpu *hv, uint64_t value)
{
    struct virtx_state *state = hw_state(hv, VIRTX_STATE_CR);
    uint64_t old = state->cr4;

    if (value & ~hv->soft->policy.cr4)
        return gp(hv);
    if ((state->efer & EFER_LMA) && !(value & CR4_PAE))
        return gp(hv);
    if ((value & ~old & CR4_PCIDE) && (!(state->efer & EFER_LMA) || (state->cr3 & 0xfff)))
        return gp(hv);
    if (((old ^ value) & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)) &&
        !reload_pdptes(hv, state, state->cr0, state->cr3, value))
        return gp(hv);
    hw_change(hv, VIRTX_STATE_CR)->cr4 = value;
    hw_control_changed(hv, state->cr0, state->cr3, old, state->efer, false);
    return true;
}

static bool write_cr8(struct hw_vcpu *hv, uint64_t value)
{
    struct virtx_vcpu *vcpu = hv->vcpu;

    if (value > 15)
        return gp(hv);
    hw_change(hv, VIRTX_STATE_CR)->cr8 = value;
    if (vcpu->irq && vcpu->irq->set_tpr) {
        hv->soft->tpr_seen = (uint8_t)(value << 4);
        vcpu->irq->set_tpr(vcpu->irq_ctx, hv->soft->tpr_seen);
        hv->ops->set_tpr(hv, hv->soft->tpr_seen);
        hv->work |= HW_WORK_EVENT;
    }
    return true;
}

bool hw_cr_write(struct hw_vcpu *hv, unsigned reg, uint64_t value)
{
    switch (reg) {
    case 0:
        return write_cr0(hv, value);
    case 2:
        hw_change(hv, VIRTX_STATE_CR)->cr2 = value;
        return true;
    case 3:
        return write_cr3(hv, value);
    case 4:
        return write_cr4(hv, value);
    case 8:
        return write_cr8(hv, value);
    default:
        hw_raise_vector(hv, VECTOR_UD);
        return false;
    }
}

uint64_t hw_cr_read(struct hw_vcpu *hv, unsigned reg)
{
    struct virtx_vcpu *vcpu = hv->vcpu;
    const struct virtx_state *state = hw_state(hv, VIRTX_STATE_CR);

    switch (reg) {
    case 0:
        return state->cr0;
    case 2:
        return state->cr2;
    case 3:
        return state->cr3;
    case 4:
        return state->cr4;
    case 8:
        if (vcpu->irq && vcpu->irq->tpr)
            return vcpu->irq->tpr(vcpu->irq_ctx) >> 4;
        return state->cr8;
    default:
        return 0;
    }
}

/* Intel SDM "Extended Feature Enable Register"; LME may not change while paging is on. */
bool hw_efer_valid(struct hw_vcpu *hv, uint64_t value)
{
    const struct virtx_state *state = hw_state(hv, VIRTX_STATE_CR);

    if (value & ~(hv->soft->policy.efer | EFER_LMA))
        return false;
    return !((state->cr0 & CR0_PG) && ((value ^ state->efer) & EFER_LME));
}

void hw_efer_write(struct hw_vcpu *hv, uint64_t value)
{
    struct virtx_state *state = hw_change(hv, VIRTX_STATE_CR);
    uint64_t old = state->efer;

    state->efer = (value & ~EFER_LMA) | (old & EFER_LMA); /* LMA is the processor's to set */
    hw_control_changed(hv, state->cr0, state->cr3, state->cr4, old, false);
}

/* Intel SDM "XSETBV—Set Extended Control Register": which combinations are refused. */
bool hw_xcr0_valid(struct hw_vcpu *hv, uint64_t value)
{
    const uint64_t avx = 6, bounds = 3 << 3, avx512 = 7 << 5, tiles = 3 << 17;

    if (!(value & 1) || (value & ~hv->soft->policy.xcr0))
        return false;
    if ((value & 4) && (value & avx) != avx)
        return false;
    if ((value & bounds) && (value & bounds) != bounds)
        return false;
    if ((value & avx512) && ((value & avx512) != avx512 || (value & avx) != avx))
        return false;
    return !(value & tiles) || (value & tiles) == tiles;
}

bool hw_xsetbv(struct hw_vcpu *hv, uint32_t index, uint64_t value)
{
    if (!(hw_state(hv, VIRTX_STATE_CR)->cr4 & CR4_OSXSAVE)) {
        hw_raise_vector(hv, VECTOR_UD);
        return false;
    }
    if (hw_cpl(hv) != 0 || index != 0 || !hw_xcr0_valid(hv, value))
        return gp(hv);
    hw_change(hv, VIRTX_STATE_XCR)->xcr0 = value;
    hw_cpuid_forget(hv);
    hw_fpu_xcr0(hv);
    return true;
}

/* Intel SDM "Debug Registers": DR4 and DR5 are aliases of DR6 and DR7 unless CR4.DE; DR7.GD makes
 * any access a #DB. */
bool hw_dr_access(struct hw_vcpu *hv, bool write, unsigned reg, uint64_t *value)
{
    struct virtx_state *state = hw_state(hv, VIRTX_STATE_DR);

    if (hv->debug_loaded)
        hw_debug_sync(hv);
    if (reg == 4 || reg == 5) {
        if (hw_state(hv, VIRTX_STATE_CR)->cr4 & CR4_DE) {
            hw_raise_vector(hv, VECTOR_UD);
            return false;
        }
        reg += 2;
    }
    if (state->dr7 & (1u << 13)) {
        hw_raise(hv, &(struct virtx_event){
                         .type = VIRTX_EVENT_EXCEPTION, .vector = VECTOR_DB, .address = 1u << 13});
        return false;
    }
    if (!write) {
        *value = reg < 4 ? state->dr[reg] : reg == 6 ? state->dr6 : state->dr7;
        return true;
    }
    if (reg >= 6 && *value >> 32)
        return gp(hv);
    hw_change(hv, VIRTX_STATE_DR);
    if (reg < 4)
        state->dr[reg] = *value;
    else if (reg == 6)
        state->dr6 = (*value & 0x1e00f) | 0xfffe0ff0; /* RTM and the fixed ones read 1 */
    else
        state->dr7 = (*value & 0xffff2fff) | 0x400;
    if (hv->debug_loaded)
        hw_debug_load(hv);
    else if (state->dr7 & 0xff)
        hv->work |= HW_WORK_SWITCH; /* armed breakpoints must be in the processor */
    return true;
}
