/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The vcpu's registers as the embedder reads and writes them, and the start states.
 */
#include "hw/service.h"

/* Bits of RFLAGS that exist; the others read 0, bit 1 reads 1. */
#define RFLAGS_KNOWN       0x3f7fd7ull
#define SEG_RESERVED       0xfffe0f00u
#define APIC_BASE_RESERVED 0x2ffull
#define APIC_BASE_X2APIC   (1ull << 10)
#define APIC_BASE_MODE     (APIC_BASE_X2APIC | 1ull << 11)
#define BLOCKED_KNOWN      (VIRTX_BLOCKED_BY_STI | VIRTX_BLOCKED_BY_MOV_SS | VIRTX_BLOCKED_BY_NMI)

/* The fields of each group are one block of struct virtx_state, in words; by the number of its bit.
 * GPR and RSP share one, and are not here. */
#define BLOCK(first, last)                                                                         \
    {                                                                                              \
        offsetof(struct virtx_state, first) / 8,                                                   \
            (offsetof(struct virtx_state, last) + sizeof(((struct virtx_state *)0)->last)) / 8     \
    }
static const struct {
    uint16_t from, to;
} blocks[] = {
    [1] = BLOCK(rip, rip),           [3] = BLOCK(rflags, rflags),
    [4] = BLOCK(seg, seg),           [5] = BLOCK(gdtr, idtr),
    [6] = BLOCK(cr0, pdpte),         [7] = BLOCK(dr, debugctl),
    [8] = BLOCK(star, sysenter_eip), [9] = BLOCK(pat, tsc_aux),
    [10] = BLOCK(tsc, tsc_adjust),   [11] = BLOCK(pending_debug, activity),
    [12] = BLOCK(xcr0, xss),
};
_Static_assert(VIRTX_STATE_RIP == 1 << 1 && VIRTX_STATE_XCR == 1 << 12, "blocks[] is in order");
_Static_assert(offsetof(struct virtx_state, activity) % 8 == 4, "blocks end at whole words");

static void copy_groups(struct virtx_state *to, const struct virtx_state *from, uint32_t groups)
{
    if (groups & VIRTX_STATE_GPR) {
        uint64_t rsp = to->gpr[VIRTX_RSP];

        memcpy(to->gpr, from->gpr, sizeof(to->gpr));
        to->gpr[VIRTX_RSP] = rsp;
    }
    if (groups & VIRTX_STATE_RSP)
        to->gpr[VIRTX_RSP] = from->gpr[VIRTX_RSP];
    groups &= ~(uint32_t)(VIRTX_STATE_GPR | VIRTX_STATE_RSP);
    for (; groups; groups &= groups - 1) {
        unsigned bit = (unsigned)__builtin_ctz(groups);
        uint64_t *target = (uint64_t *)(void *)to;
        const uint64_t *source = (const uint64_t *)(const void *)from;

        for (unsigned i = blocks[bit].from; i < blocks[bit].to; i++)
            target[i] = source[i];
    }
}

enum virtx_status hw_get(struct virtx_vcpu *vcpu, uint32_t groups, struct virtx_state *state)
{
    struct hw_vcpu *hv = hw_of(vcpu);

    hw_retire_owed(hv);
    hw_state(hv, groups & VIRTX_STATE_ALL);
    if ((groups & VIRTX_STATE_DR) && hv->debug_loaded)
        hw_debug_sync(hv);
    copy_groups(state, &hv->state, groups);
    if (groups & VIRTX_STATE_CR)
        state->cr8 = hw_cr_read(hv, 8);
    if (groups & VIRTX_STATE_TSC)
        state->tsc = x86_rdtsc() + hv->tsc_offset;
    return VIRTX_OK;
}

static enum virtx_status bad(struct hw_vcpu *hv, const char *what, const char *rule, uint64_t value)
{
    return virtx_fail(&hv->vcpu->error, VIRTX_E_INVALID, what, rule, value);
}

static enum virtx_status check_cr(struct hw_vcpu *hv, const struct virtx_state *s)
{
    const struct hw_policy *policy = &hv->soft->policy;

    if (s->cr0 >> 32)
        return bad(hv, "CR0", "bits 63:32 are reserved", s->cr0);
    if ((s->cr0 & CR0_PG) && !(s->cr0 & CR0_PE))
        return bad(hv, "CR0", "PG needs PE", s->cr0);
    if ((s->cr0 & CR0_NW) && !(s->cr0 & CR0_CD))
        return bad(hv, "CR0", "NW needs CD", s->cr0);
    if (s->cr3 & policy->reserved)
        return bad(hv, "CR3", "bits beyond the physical-address width are reserved", s->cr3);
    if (s->cr4 & ~policy->cr4)
        return bad(hv, "CR4", "a bit is set whose feature the guest's CPUID does not have", s->cr4);
    if (s->cr8 > 15)
        return bad(hv, "CR8", "is 0 to 15", s->cr8);
    if (s->efer & ~(policy->efer | EFER_LMA))
        return bad(hv, "EFER", "a bit is set whose feature the guest's CPUID does not have",
                   s->efer);
    return VIRTX_OK;
}

static enum virtx_status check_addresses(struct hw_vcpu *hv, const struct virtx_state *s,
                                         uint32_t groups)
{
    if (groups & VIRTX_STATE_SEG) {
        for (unsigned i = 0; i < VIRTX_SEG_COUNT; i++) {
            if (s->seg[i].attributes & SEG_RESERVED)
                return bad(hv, "seg.attributes", "reserved bits are set", s->seg[i].attributes);
            if (!is_canonical(s->seg[i].base))
                return bad(hv, "seg.base", "is not canonical", s->seg[i].base);
        }
    }
    if (groups & VIRTX_STATE_TABLES) {
        if (s->gdtr.limit > 0xffff || s->idtr.limit > 0xffff)
            return bad(hv, "gdtr, idtr", "a limit is 0 to 0xffff", s->gdtr.limit);
        if (!is_canonical(s->gdtr.base) || !is_canonical(s->idtr.base))
            return bad(hv, "gdtr, idtr", "a base is not canonical", s->gdtr.base);
    }
    if (groups & VIRTX_STATE_SYSCALL) {
        const uint64_t address[] = {s->lstar, s->cstar, s->kernel_gs_base, s->sysenter_esp,
                                    s->sysenter_eip};

        for (unsigned i = 0; i < ARRAY_SIZE(address); i++)
            if (!is_canonical(address[i]))
                return bad(hv, "system-call MSRs", "an address is not canonical", address[i]);
    }
    return VIRTX_OK;
}

static enum virtx_status check_state(struct hw_vcpu *hv, const struct virtx_state *s,
                                     uint32_t groups)
{
    const struct hw_policy *policy = &hv->soft->policy;
    enum virtx_status status = VIRTX_OK;

    if (groups & (VIRTX_STATE_SEG | VIRTX_STATE_TABLES | VIRTX_STATE_SYSCALL))
        status = check_addresses(hv, s, groups);
    if (status == VIRTX_OK && (groups & VIRTX_STATE_CR))
        status = check_cr(hv, s);
    if (status != VIRTX_OK)
        return status;
    if ((groups & VIRTX_STATE_RFLAGS) && (s->rflags & ~RFLAGS_KNOWN))
        return bad(hv, "RFLAGS", "reserved bits are set", s->rflags);
    if ((groups & VIRTX_STATE_DR) && (s->dr6 >> 32 || s->dr7 >> 32))
        return bad(hv, "DR6, DR7", "bits 63:32 are reserved", s->dr7);
    if (groups & VIRTX_STATE_MSR) {
        if (!hw_pat_valid(s->pat))
            return bad(hv, "IA32_PAT", "holds a memory type that does not exist", s->pat);
        if (s->spec_ctrl & ~policy->spec_ctrl)
            return bad(hv, "IA32_SPEC_CTRL", "a bit is set that the guest does not have",
                       s->spec_ctrl);
        /* Intel SDM "Local APIC Status and Location". */
        if ((s->apic_base & (APIC_BASE_RESERVED | policy->reserved)) ||
            (s->apic_base & APIC_BASE_MODE) == APIC_BASE_X2APIC)
            return bad(hv, "IA32_APIC_BASE", "reserved bits are set, or x2APIC mode without EN",
                       s->apic_base);
        if (s->tsc_aux >> 32)
            return bad(hv, "IA32_TSC_AUX", "bits 63:32 are reserved", s->tsc_aux);
    }
    if (groups & VIRTX_STATE_INTR) {
        if (s->activity > VIRTX_WAIT_FOR_SIPI)
            return bad(hv, "activity", "is no virtx_activity", s->activity);
        if (s->interruptibility & ~(uint32_t)BLOCKED_KNOWN)
            return bad(hv, "interruptibility", "has unknown bits", s->interruptibility);
    }
    if (groups & VIRTX_STATE_XCR) {
        if (policy->xcr0 ? !hw_xcr0_valid(hv, s->xcr0) : s->xcr0 != 1)
            return bad(hv, "XCR0", "is a combination that XSETBV refuses", s->xcr0);
        if (s->xss & ~policy->xss)
            return bad(hv, "IA32_XSS", "a bit is set that the guest does not have", s->xss);
    }
    return VIRTX_OK;
}

static void set_tsc(struct hw_vcpu *hv, const struct virtx_state *state)
{
    hv->tsc_offset = state->tsc - x86_rdtsc();
    hv->ops->tsc_offset(hv);
}

struct controls {
    uint64_t cr0, cr3, cr4, efer;
};

static struct controls current_controls(struct hw_vcpu *hv)
{
    const struct virtx_state *state = hw_state(hv, VIRTX_STATE_CR);

    return (struct controls){state->cr0, state->cr3, state->cr4, state->efer};
}

/* By the embedder: what is in that class already stays as it is, with the bits that CR8 does not
 * show. */
static void set_cr8(struct hw_vcpu *hv, uint64_t cr8)
{
    const struct virtx_irq_source *source = hv->vcpu->irq;
    uint8_t tpr = source && source->tpr ? source->tpr(hv->vcpu->irq_ctx) : 0;

    if (tpr >> 4 != cr8)
        tpr = (uint8_t)(cr8 << 4);
    hv->soft->tpr_seen = tpr;
    hv->ops->set_tpr(hv, tpr);
    if (source && source->set_tpr)
        source->set_tpr(hv->vcpu->irq_ctx, tpr);
}

/* What follows from new values beyond the registers themselves. */
static void set_effects(struct hw_vcpu *hv, const struct controls *old, uint32_t groups)
{
    struct virtx_state *state = &hv->state;

    if (groups & VIRTX_STATE_RFLAGS)
        state->rflags |= RFLAGS_FIXED;
    if (groups & VIRTX_STATE_TSC)
        set_tsc(hv, state);
    if (groups & VIRTX_STATE_CR) {
        state->cr0 |= CR0_ET;
        set_cr8(hv, state->cr8);
        hw_control_changed(hv, old->cr0, old->cr3, old->cr4, old->efer, true);
    }
    if (groups & VIRTX_STATE_MSR) {
        hw_switch_msr(hv, MSR_TSC_AUX, state->tsc_aux);
        hw_switch_msr(hv, MSR_SPEC_CTRL, state->spec_ctrl);
        hw_cpuid_forget(hv); /* IA32_APIC_BASE */
    }
    if (groups & VIRTX_STATE_XCR) {
        hw_switch_msr(hv, MSR_XSS, state->xss);
        hw_fpu_xcr0(hv);
        hw_cpuid_forget(hv);
    }
    if (groups & VIRTX_STATE_DR) {
        if (hv->debug_loaded)
            hw_debug_load(hv);
        else if (state->dr7 & 0xff)
            hv->work |= HW_WORK_SWITCH;
    }
    if (groups & VIRTX_STATE_INTR)
        hv->work |= HW_WORK_HALTED;
    hv->work |= HW_WORK_EVENT;
}

enum virtx_status hw_set(struct virtx_vcpu *vcpu, uint32_t groups, const struct virtx_state *state)
{
    struct hw_vcpu *hv = hw_of(vcpu);
    enum virtx_status status;
    struct controls old;
    uint64_t flags;

    hw_cpuid_follow(hv);
    status = check_state(hv, state, groups);
    if (status != VIRTX_OK)
        return status;
    flags = x86_irq_save();
    hw_retire_owed(hv);
    if (groups & VIRTX_STATE_CR)
        old = current_controls(hv);
    copy_groups(&hv->state, state, groups);
    hv->valid |= groups;
    hv->dirty |= groups;
    set_effects(hv, &old, groups);
    x86_irq_restore(flags);
    return VIRTX_OK;
}

uint64_t *hw_gpr(struct virtx_vcpu *vcpu)
{
    return hw_of(vcpu)->state.gpr;
}

static void segment(struct virtx_segment *seg, uint16_t selector, uint64_t base, uint32_t limit,
                    uint32_t attributes)
{
    *seg = (struct virtx_segment){
        .base = base, .limit = limit, .attributes = attributes, .selector = selector};
}

static void preset_segments(struct virtx_state *s, enum virtx_preset preset)
{
    bool flat = preset == VIRTX_PRESET_FLAT32 || preset == VIRTX_PRESET_FLAT64;

    for (unsigned i = VIRTX_ES; i <= VIRTX_GS; i++) {
        if (flat)
            segment(&s->seg[i], 0x10, 0, 0xffffffff, 0xc093);
        else
            segment(&s->seg[i], 0, 0, 0xffff, 0x93);
    }
    if (preset == VIRTX_PRESET_FLAT32)
        segment(&s->seg[VIRTX_CS], 8, 0, 0xffffffff, 0xc09b);
    else if (preset == VIRTX_PRESET_FLAT64)
        segment(&s->seg[VIRTX_CS], 8, 0, 0xffffffff, 0xa09b);
    else if (preset == VIRTX_PRESET_REAL)
        segment(&s->seg[VIRTX_CS], 0, 0, 0xffff, 0x9b);
    else
        segment(&s->seg[VIRTX_CS], 0xf000, 0xffff0000, 0xffff, 0x9b);
    segment(&s->seg[VIRTX_LDTR], 0, 0, 0xffff, 0x82);
    segment(&s->seg[VIRTX_TR], 0, 0, 0xffff, 0x8b);
}

static void preset_registers(struct hw_vcpu *hv, enum virtx_preset preset)
{
    struct virtx_state *s = &hv->state;
    uint64_t cache = s->cr0 & (CR0_CD | CR0_NW);
    struct virtx_cpuid_entry signature;

    memset(s->gpr, 0, sizeof(s->gpr));
    memset(s->dr, 0, sizeof(s->dr));
    memset(s->pdpte, 0, sizeof(s->pdpte));
    s->rip = 0;
    s->rflags = RFLAGS_FIXED;
    s->cr0 = CR0_ET;
    s->cr2 = s->cr3 = s->cr4 = s->cr8 = s->efer = 0;
    s->dr6 = 0xffff0ff0;
    s->dr7 = 0x400;
    s->debugctl = 0;
    s->gdtr = s->idtr = (struct virtx_table_register){.limit = 0xffff};
    s->pending_debug = 0;
    s->interruptibility = 0;
    s->activity = VIRTX_ACTIVE;
    preset_segments(s, preset);
    switch (preset) {
    case VIRTX_PRESET_RESET:
    case VIRTX_PRESET_INIT:
        virtx_cpuid_lookup(hv->vcpu, 1, 0, &signature);
        s->gpr[VIRTX_RDX] = signature.eax;
        s->rip = 0xfff0;
        s->cr0 = CR0_ET | (preset == VIRTX_PRESET_INIT ? cache : CR0_CD | CR0_NW);
        break;
    case VIRTX_PRESET_FLAT32:
        s->cr0 = CR0_PE | CR0_ET | CR0_NE;
        break;
    case VIRTX_PRESET_FLAT64:
        s->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
        s->cr4 = CR4_PAE;
        s->efer = EFER_LME | EFER_LMA;
        break;
    default:
        break;
    }
}

enum virtx_status hw_reset(struct virtx_vcpu *vcpu, enum virtx_preset preset)
{
    struct hw_vcpu *hv = hw_of(vcpu);
    bool init = preset == VIRTX_PRESET_INIT;
    struct controls old;
    uint64_t flags = x86_irq_save();

    hv->retire = false;
    if (hv->cpu)
        hw_state(hv, VIRTX_STATE_ALL);
    else
        hv->valid = VIRTX_STATE_ALL;
    old = current_controls(hv);
    if (hv->debug_loaded)
        hw_debug_unload(hv);
    preset_registers(hv, preset);
    hv->valid = hv->dirty = VIRTX_STATE_ALL;
    hw_msr_reset(hv, init);
    if (!init) {
        hv->state.xcr0 = 1;
        hv->state.xss = 0;
        hw_fpu_reset(hv);
    }
    if (hv->soft->created)
        hv->ops->tsc_offset(hv);
    if (hv->cpu) {
        hw_switch_msr(hv, MSR_TSC_AUX, hv->state.tsc_aux);
        hw_switch_msr(hv, MSR_SPEC_CTRL, hv->state.spec_ctrl);
        hw_switch_msr(hv, MSR_XSS, hv->state.xss);
    }
    hw_events_reset(hv);
    hw_cpuid_forget(hv);
    hv->pending.kind = HW_PENDING_NONE;
    vcpu->exit.pending = false;
    if (vcpu->irq && vcpu->irq->set_tpr)
        vcpu->irq->set_tpr(vcpu->irq_ctx, 0);
    hv->soft->tpr_seen = 0;
    if (hv->soft->created) {
        hv->ops->set_tpr(hv, 0);
        hw_control_changed(hv, old.cr0, old.cr3, old.cr4, old.efer, true);
    }
    hv->work |= HW_WORK_HALTED | HW_WORK_FPU;
    x86_irq_restore(flags);
    return VIRTX_OK;
}
