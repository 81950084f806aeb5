/* SPDX-License-Identifier: BSD-2-Clause */
/* Guest state by groups: VMREAD when somebody asks, VMWRITE before the entry. */
#include "vmx/vmx.h"
#include "x86/cpu.h"

#define BLOCKED_SHADOW (VIRTX_BLOCKED_BY_STI | VIRTX_BLOCKED_BY_MOV_SS)

/* Bits of CR4 that an identity map of user pages does not agree with, and those that mean something
 * at privilege level 3 only. */
#define CR4_NOT_PAGING                                                                             \
    (CR4_PSE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_LA57 | CR4_CET)
#define CR4_NOT_REAL (CR4_VME | CR4_PVI | CR4_TSD | CR4_UMIP)

/* The guest's view: owned bits from the shadow, the others from the real register. */
uint64_t vmx_guest_cr0(const struct vmx_vcpu *v)
{
    return (vmx_vmread(VMCS_GUEST_CR0) & ~v->cr0_mask) | (v->cr0 & v->cr0_mask);
}

static uint64_t guest_cr4(const struct vmx_vcpu *v)
{
    return (vmx_vmread(VMCS_GUEST_CR4) & ~v->cr4_mask) | (v->cr4 & v->cr4_mask);
}

/* Whether the VMCS' PDPTE fields are in use. */
static bool has_pdptes(const struct vmx_vcpu *v, const struct virtx_state *state)
{
    return v->nested && (state->cr0 & CR0_PG) && (state->cr4 & CR4_PAE) &&
           !(state->efer & EFER_LMA);
}

static unsigned read_segments(const struct vmx_vcpu *v, struct virtx_state *state)
{
    for (unsigned i = 0; i < VIRTX_SEG_COUNT; i++) {
        state->seg[i].base = vmx_vmread(vmcs_seg_base(i));
        state->seg[i].limit = (uint32_t)vmx_vmread(vmcs_seg_limit(i));
        state->seg[i].attributes = (uint32_t)vmx_vmread(vmcs_seg_attributes(i));
        state->seg[i].selector = (uint16_t)vmx_vmread(vmcs_seg_selector(i));
    }
    if (unlikely(v->mode == VMX_MODE_REAL))
        vmx_mode_read_segments(v, state);
    return 4 * VIRTX_SEG_COUNT;
}

static unsigned read_tables(struct virtx_state *state)
{
    state->gdtr.base = vmx_vmread(VMCS_GUEST_GDTR_BASE);
    state->gdtr.limit = (uint32_t)vmx_vmread(VMCS_GUEST_GDTR_LIMIT);
    state->idtr.base = vmx_vmread(VMCS_GUEST_IDTR_BASE);
    state->idtr.limit = (uint32_t)vmx_vmread(VMCS_GUEST_IDTR_LIMIT);
    return 4;
}

/* CR2 is exchanged by entry.S; EFER changes only with src/hw's knowledge. Under shadow
 * paging CR3 does too, and the field holds the shadow's root. */
static unsigned read_control(struct vmx_vcpu *v, struct virtx_state *state)
{
    state->cr0 = vmx_guest_cr0(v);
    state->cr4 = guest_cr4(v);
    if (v->virtual_apic)
        state->cr8 = vmx_tpr(&v->hw) >> 4;
    if (!v->nested || v->mode == VMX_MODE_UNPAGED)
        return 2;
    state->cr3 = vmx_vmread(VMCS_GUEST_CR3);
    if (!has_pdptes(v, state))
        return 3;
    for (unsigned i = 0; i < 4; i++)
        state->pdpte[i] = vmx_vmread(VMCS_GUEST_PDPTE0 + 2 * i);
    return 7;
}

static unsigned read_interruptibility(struct vmx_vcpu *v, struct virtx_state *state)
{
    state->interruptibility = (uint32_t)vmx_vmread(VMCS_GUEST_INTERRUPTIBILITY);
    state->pending_debug = vmx_vmread(VMCS_GUEST_PENDING_DEBUG) & PENDING_DEBUG_MASK;
    if (unlikely(state->interruptibility & VIRTX_BLOCKED_BY_NMI))
        vmx_mend_nmi_blocking(v);
    if (unlikely(v->nmi_soft_blocked))
        state->interruptibility |= VIRTX_BLOCKED_BY_NMI;
    if (!v->hlt_activity)
        return 2;
    state->activity = (uint32_t)vmx_vmread(VMCS_GUEST_ACTIVITY);
    return 3;
}

static unsigned read_syscall(struct vmx_vcpu *v, struct virtx_state *state)
{
    vmx_live_read(v);
    if (v->mode != VMX_MODE_REAL)
        state->sysenter_cs = vmx_vmread(VMCS_GUEST_SYSENTER_CS);
    else
        state->sysenter_cs = v->real.sysenter_cs;
    state->sysenter_esp = vmx_vmread(VMCS_GUEST_SYSENTER_ESP);
    state->sysenter_eip = vmx_vmread(VMCS_GUEST_SYSENTER_EIP);
    return 3;
}

void vmx_read(struct hw_vcpu *hv, uint32_t groups)
{
    struct vmx_vcpu *v = vmx_of(hv);
    struct virtx_state *state = &hv->state;
    unsigned reads = 0;

    if (groups & VIRTX_STATE_RIP) {
        state->rip = vmx_vmread(VMCS_GUEST_RIP);
        reads++;
    }
    if (groups & VIRTX_STATE_RSP) {
        state->gpr[VIRTX_RSP] = vmx_vmread(VMCS_GUEST_RSP);
        reads++;
    }
    if (groups & VIRTX_STATE_RFLAGS) {
        state->rflags = vmx_vmread(VMCS_GUEST_RFLAGS);
        if (unlikely(v->mode == VMX_MODE_REAL))
            state->rflags = (state->rflags & ~(RFLAGS_VM | RFLAGS_IOPL)) | v->real.iopl;
        reads++;
    }
    if (groups & VIRTX_STATE_INTR)
        reads += read_interruptibility(v, state);
    if (groups & VIRTX_STATE_CR)
        reads += read_control(v, state);
    if (groups & VIRTX_STATE_SEG)
        reads += read_segments(v, state);
    if (groups & VIRTX_STATE_TABLES)
        reads += read_tables(state);
    if (groups & VIRTX_STATE_SYSCALL)
        reads += read_syscall(v, state);
    if (groups & VIRTX_STATE_DR) {
        state->dr7 = vmx_vmread(VMCS_GUEST_DR7);
        state->debugctl = vmx_vmread(VMCS_GUEST_DEBUGCTL);
        reads += 2;
    }
    hv->valid |= groups;
    hv->vcpu->stats.control_reads += reads;
}

uint64_t vmx_dr7(struct hw_vcpu *hv)
{
    hv->vcpu->stats.control_reads++;
    return vmx_vmread(VMCS_GUEST_DR7);
}

/* Bits that the key is made of are where the fields have them: they do not collide. Of CR4 the real
 * one is read; in SMEP it never differs from the guest's. */
struct hw_code vmx_code(struct hw_vcpu *hv)
{
    struct hw_code code;

    code.key = vmx_vmread(VMCS_GUEST_CS_ATTRIBUTES) & (VIRTX_SEG_L | VIRTX_SEG_DB);
    code.key |= vmx_vmread(VMCS_GUEST_SS_ATTRIBUTES) & (3u << VIRTX_SEG_DPL_SHIFT);
    code.key |= hv->state.efer & (EFER_LMA | EFER_NXE);
    if (unlikely(!vmx_of(hv)->nested)) { /* every change exits: the state is what the guest wrote */
        code.cr3 = hv->state.cr3;
        code.key |= hv->state.cr4 & CR4_SMEP;
        hv->vcpu->stats.control_reads += 2;
        return code;
    }
    code.key |= vmx_vmread(VMCS_GUEST_CR4) & CR4_SMEP;
    code.cr3 = vmx_vmread(VMCS_GUEST_CR3);
    hv->vcpu->stats.control_reads += 4;
    return code;
}

/* G says in which unit the limit was given; the cache keeps bytes, and entries want the two to
 * agree. */
static uint32_t fix_granularity(uint32_t attributes, uint32_t limit)
{
    if ((limit & 0xfff) != 0xfff)
        return attributes & ~(uint32_t)VIRTX_SEG_G;
    if (limit & 0xfff00000)
        return attributes | VIRTX_SEG_G;
    return attributes;
}

/*
 * A segment as entries accept it, where that differs from what other processors (or a null
 * selector) leave in the register without any program being able to tell the difference.
 */
struct virtx_segment vmx_segment_fixed(const struct virtx_state *state, unsigned index)
{
    struct virtx_segment seg = state->seg[index];

    if (index == VIRTX_TR) {
        if ((seg.attributes & VIRTX_SEG_UNUSABLE) || !(seg.attributes & VIRTX_SEG_P)) {
            seg.attributes = 0x8b; /* no TSS was ever loaded: what RESET leaves */
            if (seg.limit > 0xffff)
                seg.limit = 0xffff;
        }
        seg.attributes |= 2; /* LTR marks the descriptor busy */
    } else if (index == VIRTX_LDTR) {
        if (!(seg.attributes & VIRTX_SEG_P))
            seg.attributes |= VIRTX_SEG_UNUSABLE;
    } else if (state->rflags & RFLAGS_VM) {
        seg.attributes = 0xf3;
        return seg;
    } else if (index != VIRTX_CS && !(seg.attributes & VIRTX_SEG_P)) {
        seg.attributes |= VIRTX_SEG_UNUSABLE;
    } else {
        seg.attributes |= 1; /* loading a segment register sets the accessed flag */
    }
    if (!(seg.attributes & VIRTX_SEG_UNUSABLE))
        seg.attributes = fix_granularity(seg.attributes, seg.limit);
    return seg;
}

static void write_segments(struct vmx_vcpu *v, const struct virtx_state *state)
{
    v->hw.vcpu->stats.control_writes += 4 * VIRTX_SEG_COUNT;
    if (unlikely(v->mode == VMX_MODE_REAL)) {
        vmx_mode_write_segments(v, state);
        return;
    }
    for (unsigned i = 0; i < VIRTX_SEG_COUNT; i++) {
        struct virtx_segment seg = vmx_segment_fixed(state, i);

        vmx_vmwrite(vmcs_seg_base(i), seg.base);
        vmx_vmwrite(vmcs_seg_limit(i), seg.limit);
        vmx_vmwrite(vmcs_seg_attributes(i), seg.attributes);
        vmx_vmwrite(vmcs_seg_selector(i), seg.selector);
    }
}

/*
 * Without nested paging the guest is always paged, by the engine's tables: PAE or 4-level, with
 * CR0.WP and EFER.NXE, which those rely on. What depends on the guest's own paging goes with it.
 */
static void shadowed_control(uint64_t *cr0, uint64_t *cr4, uint64_t *efer)
{
    if (!(*cr0 & CR0_PG))
        *cr4 &= ~(CR4_SMEP | CR4_SMAP | CR4_PKE);
    if (!(*efer & EFER_LMA)) {
        *efer &= ~EFER_LME;
        *cr4 |= CR4_PAE;
    }
    *cr0 |= CR0_PG | CR0_WP;
    *cr4 &= ~CR4_PCIDE;
    *efer |= EFER_NXE;
}

static void write_control(struct vmx_vcpu *v, const struct virtx_state *state)
{
    const struct vmx_caps *caps = &v->cpu->caps;
    uint64_t fixed0 = caps->cr0_fixed0, cr0 = state->cr0, cr4 = state->cr4, efer = state->efer;
    uint32_t entry = v->control[VMX_ENTRY] & ~ENTRY_IA32E;

    if (v->control[VMX_SECONDARY] & SECONDARY_UNRESTRICTED)
        fixed0 &= ~(CR0_PE | CR0_PG);
    vmx_cr8_write(v, state->cr8);
    v->cr0 = state->cr0;
    v->cr4 = state->cr4;
    if (unlikely(v->mode != VMX_MODE_NATIVE)) {
        /* Paging that the guest has not asked for must not show; nor must privilege level 3. */
        cr4 &= ~(v->mode == VMX_MODE_REAL ? CR4_NOT_PAGING | CR4_NOT_REAL : CR4_NOT_PAGING);
        cr4 |= CR4_PAE;
        efer &= ~EFER_LME;
    }
    if (!v->nested)
        shadowed_control(&cr0, &cr4, &efer);
    if (unlikely(v->fpu_waits))
        cr0 |= CR0_TS | CR0_MP;
    vmx_set_field(v, VMCS_GUEST_CR0, (cr0 & ~VMX_CR0_HOST) | fixed0);
    vmx_set_field(v, VMCS_CR0_SHADOW, state->cr0);
    vmx_set_field(v, VMCS_GUEST_CR4, (cr4 & ~VMX_CR4_HOST) | v->host_mce | caps->cr4_fixed0);
    vmx_set_field(v, VMCS_CR4_SHADOW, state->cr4);
    if (v->nested)
        vmx_set_field(v, VMCS_GUEST_CR3, v->mode == VMX_MODE_UNPAGED ? VMX_NO_PDPTES : state->cr3);
    if (has_pdptes(v, state)) {
        for (unsigned i = 0; i < 4; i++)
            vmx_set_field(v, VMCS_GUEST_PDPTE0 + 2 * i, state->pdpte[i]);
    } else if (v->mode != VMX_MODE_NATIVE && v->nested) {
        for (unsigned i = 0; i < 4; i++)
            vmx_set_field(v, VMCS_GUEST_PDPTE0 + 2 * i, vmx_mode_pdpte(i));
    }
    if (state->efer & EFER_LMA)
        entry |= ENTRY_IA32E;
    vmx_set_control(v, VMX_ENTRY, entry);
    if (v->msr_area)
        v->msr_area[0].value = efer;
    else
        vmx_set_field(v, VMCS_GUEST_EFER, efer);
}

/* Without nested paging neither bit reaches the real register: the engine's tables have no global
 * pages, and need WP. With it the guest owns both. */
bool vmx_toggle(struct hw_vcpu *hv, unsigned reg, uint64_t value)
{
    struct vmx_vcpu *v = vmx_of(hv);
    struct virtx_state *state;

    if (v->nested || v->mode != VMX_MODE_NATIVE || (hv->dirty & VIRTX_STATE_CR))
        return false;
    state = &hv->state;
    if (!(state->efer & EFER_LMA) ||
        (reg == 0 ? vmx_guest_cr0(v) ^ value ^ CR0_WP : guest_cr4(v) ^ value ^ CR4_PGE))
        return false;
    hv->vcpu->stats.control_reads++;
    if (reg == 0) {
        v->cr0 = state->cr0 = value;
        vmx_set_field(v, VMCS_CR0_SHADOW, value);
    } else {
        v->cr4 = state->cr4 = value;
        vmx_set_field(v, VMCS_CR4_SHADOW, value);
    }
    return true;
}

/* With an interrupt shadow the pending single step must agree with TF (Intel SDM "Checks on Guest
 * Non-Register State"); a breakpoint that is pending is an enabled one. */
static void write_interruptibility(struct vmx_vcpu *v)
{
    const struct virtx_state *state = hw_state(&v->hw, VIRTX_STATE_RFLAGS | VIRTX_STATE_DR);
    uint64_t pending = state->pending_debug & PENDING_DEBUG_MASK;
    uint32_t blocking = state->interruptibility;

    if (pending & 0xf)
        pending |= PENDING_DEBUG_ENABLED_BREAKPOINT;
    if (state->interruptibility & BLOCKED_SHADOW) {
        pending &= ~(uint64_t)PENDING_DEBUG_SINGLE_STEP;
        if ((state->rflags & RFLAGS_TF) && !(state->debugctl & DEBUGCTL_BTF))
            pending |= PENDING_DEBUG_SINGLE_STEP;
    }
    if (v->control[VMX_PIN] & PIN_VIRTUAL_NMI)
        v->nmi_blockable |= (blocking & VIRTX_BLOCKED_BY_NMI) != 0;
    else
        v->nmi_soft_blocked = blocking & VIRTX_BLOCKED_BY_NMI;
    if (v->nmi_soft_blocked)
        blocking &= ~(uint32_t)VIRTX_BLOCKED_BY_NMI;
    vmx_set_field(v, VMCS_GUEST_INTERRUPTIBILITY, blocking);
    vmx_set_field(v, VMCS_GUEST_PENDING_DEBUG, pending);
    if (v->hlt_activity)
        vmx_set_field(v, VMCS_GUEST_ACTIVITY, state->activity);
}

static void write_tables(struct vmx_vcpu *v, const struct virtx_state *state)
{
    vmx_set_field(v, VMCS_GUEST_GDTR_BASE, state->gdtr.base);
    vmx_set_field(v, VMCS_GUEST_GDTR_LIMIT, state->gdtr.limit);
    vmx_set_field(v, VMCS_GUEST_IDTR_BASE, state->idtr.base);
    vmx_set_field(v, VMCS_GUEST_IDTR_LIMIT, state->idtr.limit);
}

static void write_syscall(struct vmx_vcpu *v, const struct virtx_state *state)
{
    vmx_live_write(v);
    v->real.sysenter_cs = state->sysenter_cs;
    vmx_set_field(v, VMCS_GUEST_SYSENTER_CS, v->mode == VMX_MODE_REAL ? 0 : state->sysenter_cs);
    vmx_set_field(v, VMCS_GUEST_SYSENTER_ESP, state->sysenter_esp);
    vmx_set_field(v, VMCS_GUEST_SYSENTER_EIP, state->sysenter_eip);
}

/* In virtual-8086 mode IOPL 0 makes what depends on it fault. */
static uint64_t flags_of(struct vmx_vcpu *v, uint64_t rflags)
{
    if (likely(v->mode != VMX_MODE_REAL))
        return rflags;
    v->real.iopl = (uint32_t)rflags & RFLAGS_IOPL;
    return (rflags & ~RFLAGS_IOPL) | RFLAGS_VM;
}

void vmx_write(struct vmx_vcpu *v, uint32_t groups)
{
    const struct virtx_state *state = &v->hw.state;

    if (groups & VIRTX_STATE_RIP)
        vmx_set_field(v, VMCS_GUEST_RIP, state->rip);
    if (groups & VIRTX_STATE_RSP)
        vmx_set_field(v, VMCS_GUEST_RSP, state->gpr[VIRTX_RSP]);
    if (groups & VIRTX_STATE_RFLAGS)
        vmx_set_field(v, VMCS_GUEST_RFLAGS, flags_of(v, state->rflags));
    if (groups & VIRTX_STATE_CR)
        write_control(v, state);
    if (groups & VIRTX_STATE_SEG) {
        hw_state(&v->hw, VIRTX_STATE_RFLAGS);
        write_segments(v, state);
    }
    if (groups & VIRTX_STATE_TABLES)
        write_tables(v, state);
    if (groups & VIRTX_STATE_DR) {
        vmx_set_field(v, VMCS_GUEST_DR7, state->dr7);
        vmx_set_field(v, VMCS_GUEST_DEBUGCTL, state->debugctl);
    }
    if (groups & VIRTX_STATE_SYSCALL)
        write_syscall(v, state);
    if ((groups & VIRTX_STATE_MSR) && (v->control[VMX_ENTRY] & ENTRY_LOAD_PAT))
        /* Shadow tables mean the host's PAT, as they are the host's. */
        vmx_set_field(v, VMCS_GUEST_PAT, v->nested ? state->pat : x86_rdmsr(MSR_PAT));
    if (groups & VIRTX_STATE_TSC)
        vmx_set_field(v, VMCS_TSC_OFFSET, v->hw.tsc_offset);
    if (groups & VIRTX_STATE_INTR)
        write_interruptibility(v);
}
