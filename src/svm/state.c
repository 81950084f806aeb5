/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Moving register groups between the VMCB (or the processor) and the neutral state.
 *
 * What VMRUN and #VMEXIT exchange is in the VMCB after an exit. FS, GS, LDTR, TR and the MSRs of
 * SYSCALL and SYSENTER stay in the processor until somebody asks for them.
 */
#include "svm/svm.h"
#include "x86/cpu.h"

/* Groups of which VMLOAD and VMSAVE move a part. */
#define EXTRA_GROUPS (VIRTX_STATE_SEG | VIRTX_STATE_SYSCALL)

/* Descriptor bits 47:40 and 55:52 stand side by side in a VMCB; the neutral layout keeps the gap
 * between them. Not present is all a VMCB has for unusable. */
uint16_t svm_attributes_to_vmcb(uint32_t attributes)
{
    uint32_t bits = (attributes & 0xff) | (attributes >> 4 & 0xf00);

    if (attributes & VIRTX_SEG_UNUSABLE)
        bits &= ~(uint32_t)VMCB_ATTRIBUTE_P;
    return (uint16_t)bits;
}

uint32_t svm_attributes_from_vmcb(uint16_t attributes)
{
    uint32_t bits = (attributes & 0xffu) | (attributes & 0xf00u) << 4;

    if (!(attributes & VMCB_ATTRIBUTE_P))
        bits |= VIRTX_SEG_UNUSABLE;
    return bits;
}

static void segment_read(struct virtx_segment *to, const struct vmcb_segment *from)
{
    to->base = from->base;
    to->limit = from->limit;
    to->attributes = svm_attributes_from_vmcb(from->attributes);
    to->selector = from->selector;
}

static void segment_write(struct vmcb_segment *to, const struct virtx_segment *from)
{
    to->base = from->base;
    to->limit = from->limit;
    to->attributes = svm_attributes_to_vmcb(from->attributes);
    to->selector = from->selector;
}

/* Brings the VMCB's copy of what VMLOAD and VMSAVE move up to date. */
void svm_extra_save(struct svm_vcpu *sv)
{
    if (sv->extra == SVM_EXTRA_PROCESSOR) {
        svm_vmsave(sv->vmcb_hpa);
        sv->extra = SVM_EXTRA_BOTH;
        svm_attend(sv); /* the next entry makes it the processor's alone again */
    }
}

static void read_segments(struct svm_vcpu *sv)
{
    struct virtx_segment *seg = sv->hw.state.seg;
    const struct vmcb_save *save = &sv->vmcb.save;

    segment_read(&seg[VIRTX_ES], &save->es);
    segment_read(&seg[VIRTX_CS], &save->cs);
    segment_read(&seg[VIRTX_SS], &save->ss);
    segment_read(&seg[VIRTX_DS], &save->ds);
    segment_read(&seg[VIRTX_FS], &save->fs);
    segment_read(&seg[VIRTX_GS], &save->gs);
    segment_read(&seg[VIRTX_LDTR], &save->ldtr);
    segment_read(&seg[VIRTX_TR], &save->tr);
    /* SVM keeps the privilege level apart, and leaves SS.DPL to chance. */
    seg[VIRTX_SS].attributes = (seg[VIRTX_SS].attributes & ~(uint32_t)VIRTX_SEG_DPL) |
                               (save->cpl & 3u) << VIRTX_SEG_DPL_SHIFT;
    /* LTR marks the descriptor in memory busy; not every processor marks its own copy, and one
     * engine dies of a copy that is marked. */
    sv->tr_unmarked = !(save->tr.attributes & 2);
    seg[VIRTX_TR].attributes |= 2;
}

static void read_syscall(struct svm_vcpu *sv)
{
    struct virtx_state *state = &sv->hw.state;
    const struct vmcb_save *save = &sv->vmcb.save;

    state->star = save->star;
    state->lstar = save->lstar;
    state->cstar = save->cstar;
    state->fmask = save->sfmask;
    state->kernel_gs_base = save->kernel_gs_base;
    state->sysenter_cs = save->sysenter_cs;
    state->sysenter_esp = save->sysenter_esp;
    state->sysenter_eip = save->sysenter_eip;
}

/* The processor keeps no copy of the PDPTEs under nested paging; who moves the state to one that
 * does needs them as they are now in memory. One engine marks them accessed there, a reserved bit.
 */
static void read_pdptes(struct svm_vcpu *sv)
{
    struct virtx_state *state = &sv->hw.state;

    if (!(state->cr0 & CR0_PG) || !(state->cr4 & CR4_PAE) || (state->efer & EFER_LMA))
        return;
    if (virtx_gpa_read(sv->hw.vcpu->vm, state->cr3 & 0xffffffe0, state->pdpte,
                       sizeof(state->pdpte)) != VIRTX_OK)
        memset(state->pdpte, 0, sizeof(state->pdpte));
    for (unsigned i = 0; i < ARRAY_SIZE(state->pdpte); i++)
        state->pdpte[i] &= ~(1ull << 5);
}

static void read_control(struct svm_vcpu *sv)
{
    struct virtx_state *state = &sv->hw.state;
    const struct vmcb_save *save = &sv->vmcb.save;
    uint64_t cr0;

    state->cr2 = save->cr2;
    state->cr8 = sv->vmcb.control.v_tpr & 0xf;
    if (!sv->nested)
        return; /* every change exits: the state is what the guest wrote */
    cr0 = save->cr0 | sv->cr0_hidden;
    if (unlikely(sv->fpu_waits)) /* changes of these exit: what the guest wrote is still here */
        cr0 = (cr0 & ~(CR0_TS | CR0_MP)) | (state->cr0 & (CR0_TS | CR0_MP));
    state->cr0 = cr0;
    state->cr3 = save->cr3;
    /* Writes of CR4 exit, so what the guest wrote to the host's bits is still here. */
    state->cr4 = (save->cr4 & ~SVM_CR4_HOST) | (state->cr4 & SVM_CR4_HOST);
    state->efer = save->efer & ~EFER_SVME;
    read_pdptes(sv);
}

/* #VMEXIT leaves the guest's DR6 in the processor, or the host's: one of two engines restores it.
 * Who reads the debug registers from there is to find the guest's. */
static void read_debug(struct svm_vcpu *sv)
{
    struct virtx_state *state = &sv->hw.state;

    state->dr6 = sv->vmcb.save.dr6;
    state->dr7 = sv->vmcb.save.dr7;
    if (sv->hw.debug_loaded)
        x86_write_dr6(state->dr6);
}

void svm_read(struct hw_vcpu *hv, uint32_t groups)
{
    struct svm_vcpu *sv = svm_of(hv);
    struct virtx_state *state = &hv->state;
    const struct vmcb_save *save = &sv->vmcb.save;

    if (groups & EXTRA_GROUPS)
        svm_extra_save(sv);
    if (groups & VIRTX_STATE_RSP)
        state->gpr[VIRTX_RSP] = save->rsp;
    if (groups & VIRTX_STATE_RFLAGS)
        state->rflags = save->rflags;
    if (groups & VIRTX_STATE_SEG)
        read_segments(sv);
    if (groups & VIRTX_STATE_TABLES) {
        state->gdtr.base = save->gdtr.base;
        state->gdtr.limit = save->gdtr.limit & 0xffff;
        state->idtr.base = save->idtr.base;
        state->idtr.limit = save->idtr.limit & 0xffff;
    }
    if (groups & VIRTX_STATE_CR)
        read_control(sv);
    if (groups & VIRTX_STATE_DR)
        read_debug(sv);
    if (groups & VIRTX_STATE_SYSCALL)
        read_syscall(sv);
    if (groups & VIRTX_STATE_TSC)
        state->tsc = x86_rdtsc() + hv->tsc_offset;
    if (groups & VIRTX_STATE_INTR) {
        state->interruptibility =
            sv->vmcb.control.interrupt_state & VMCB_SHADOW ? VIRTX_BLOCKED_BY_STI : 0;
        if (sv->nmi_blocked)
            state->interruptibility |= VIRTX_BLOCKED_BY_NMI;
    }
    hv->valid |= groups;
}

uint64_t svm_dr7(struct hw_vcpu *hv)
{
    return svm_of(hv)->vmcb.save.dr7;
}

struct hw_code svm_code(struct hw_vcpu *hv)
{
    const struct svm_vcpu *sv = svm_of(hv);
    const struct vmcb_save *save = &sv->vmcb.save;
    uint32_t attributes = save->cs.attributes & (VMCB_ATTRIBUTE_L | VMCB_ATTRIBUTE_DB);
    struct hw_code code;

    code.key = attributes << 16 | (save->cpl & 3);
    if (unlikely(!sv->nested)) { /* every change exits: the state is what the guest wrote */
        code.key |= (hv->state.cr4 & CR4_SMEP) | (hv->state.efer & (EFER_LMA | EFER_NXE));
        code.cr3 = hv->state.cr3;
        return code;
    }
    code.key |= (save->cr4 & CR4_SMEP) | (save->efer & (EFER_LMA | EFER_NXE));
    code.cr3 = save->cr3;
    return code;
}

static void write_segments(struct svm_vcpu *sv)
{
    const struct virtx_segment *seg = sv->hw.state.seg;
    struct vmcb_save *save = &sv->vmcb.save;

    segment_write(&save->es, &seg[VIRTX_ES]);
    segment_write(&save->cs, &seg[VIRTX_CS]);
    segment_write(&save->ss, &seg[VIRTX_SS]);
    segment_write(&save->ds, &seg[VIRTX_DS]);
    segment_write(&save->fs, &seg[VIRTX_FS]);
    segment_write(&save->gs, &seg[VIRTX_GS]);
    segment_write(&save->ldtr, &seg[VIRTX_LDTR]);
    segment_write(&save->tr, &seg[VIRTX_TR]);
    if (sv->tr_unmarked)
        save->tr.attributes &= (uint16_t)~2u;
    save->cpl = seg[VIRTX_SS].attributes >> VIRTX_SEG_DPL_SHIFT & 3;
    svm_dirty(sv, VMCB_CLEAN_SEG);
}

static void write_syscall(struct svm_vcpu *sv)
{
    const struct virtx_state *state = &sv->hw.state;
    struct vmcb_save *save = &sv->vmcb.save;

    save->star = state->star;
    save->lstar = state->lstar;
    save->cstar = state->cstar;
    save->sfmask = state->fmask;
    save->kernel_gs_base = state->kernel_gs_base;
    save->sysenter_cs = state->sysenter_cs;
    save->sysenter_esp = state->sysenter_esp;
    save->sysenter_eip = state->sysenter_eip;
}

/*
 * With nested paging the guest runs with its own control registers but for EFER.SVME, which VMRUN
 * demands, and the host's machine-check enable. Without, it runs paged by the engine's tables
 * whatever it thinks (AMD APM volume 2, "Paged Real Mode"): those are long-mode tables exactly when
 * the guest is in long mode, else PAE tables.
 */
static void write_control(struct svm_vcpu *sv)
{
    const struct virtx_state *state = &sv->hw.state;
    struct vmcb_save *save = &sv->vmcb.save;

    save->cr2 = state->cr2;
    x86_write_cr2(state->cr2); /* one engine's VMRUN does not */
    save->cr4 = (state->cr4 & ~SVM_CR4_HOST) | sv->host_mce;
    save->efer = state->efer | EFER_SVME;
    sv->vmcb.control.v_tpr = state->cr8 & 0xf;
    save->cr0 = state->cr0 & ~SVM_CR0_HIDDEN;
    if (sv->nested) {
        save->cr3 = state->cr3;
    } else {
        save->cr0 |= CR0_PG | CR0_WP;
        save->cr3 = sv->hw.root;
        save->cr4 &= ~CR4_PCIDE;
        if (!(state->efer & EFER_LMA))
            save->cr4 |= CR4_PAE;
        save->efer |= EFER_NXE;
        if (!(state->cr0 & CR0_PG)) {
            save->efer &= ~(EFER_LME | EFER_LMA);
            save->cr4 &= ~(CR4_SMEP | CR4_SMAP | CR4_PKE);
        }
    }
    if (unlikely(sv->fpu_waits))
        save->cr0 |= CR0_TS | CR0_MP;
    sv->cr0_hidden = state->cr0 & SVM_CR0_HIDDEN;
    sv->hides_cr0 = save->cr0 != state->cr0;
    sv->hides_cr4 = save->cr4 != state->cr4;
    svm_controls_cr(sv);
    svm_dirty(sv, VMCB_CLEAN_CR | VMCB_CLEAN_CR2 | VMCB_CLEAN_TPR);
}

/* Without nested paging the real CR0.WP is always set: only what the guest reads changes, and
 * whether it can read it without an exit. No intercept is a reason to refuse an entry. */
static __attribute__((noinline)) bool toggle_shadowed(struct svm_vcpu *sv, unsigned reg,
                                                      uint64_t value)
{
    struct hw_vcpu *hv = &sv->hw;
    struct vmcb_control *control = &sv->vmcb.control;
    struct virtx_state *state = hw_state(hv, VIRTX_STATE_CR);

    if (reg == 4 ? (state->cr4 ^ value) != CR4_PGE : (state->cr0 ^ value) != CR0_WP)
        return false;
    hv->vcpu->stats.control_writes++;
    svm_attend(sv);
    if (reg == 4) {
        sv->vmcb.save.cr4 = state->cr4 = value;
        control->clean &= ~VMCB_CLEAN_CR;
        return true;
    }
    state->cr0 = value;
    sv->hides_cr0 = sv->vmcb.save.cr0 != value;
    if (sv->hides_cr0)
        control->cr_read |= 1u;
    else
        control->cr_read = (uint16_t)((control->cr_read & ~1u) | (hv->controls.cr_read & 1u));
    control->clean &= ~VMCB_CLEAN_INTERCEPTS;
    return true;
}

/* Only PGE of a 64-bit guest's CR4 changes, so that no rule can be broken and nothing else follows.
 */
bool svm_toggle(struct hw_vcpu *hv, unsigned reg, uint64_t value)
{
    struct svm_vcpu *sv = svm_of(hv);
    struct vmcb_save *save = &sv->vmcb.save;

    if (sv->hides_cr4 || (hv->dirty & VIRTX_STATE_CR) || !(save->efer & EFER_LMA))
        return false;
    if (unlikely(!sv->nested))
        return toggle_shadowed(sv, reg, value);
    if ((save->cr4 ^ value) != CR4_PGE)
        return false;
    save->cr4 = hv->state.cr4 = value; /* the second is read again, if it is not valid */
    sv->vmcb.control.clean &= ~VMCB_CLEAN_CR;
    svm_attend(sv);
    hv->vcpu->stats.control_writes++;
    return true;
}

/* Writes the dirty groups. */
void svm_write(struct svm_vcpu *sv)
{
    struct hw_vcpu *hv = &sv->hw;
    const struct virtx_state *state = &hv->state;
    struct vmcb_save *save = &sv->vmcb.save;
    uint32_t dirty = hv->dirty;

    hv->dirty &= SVM_ATTENTION;
    if (dirty & EXTRA_GROUPS) {
        svm_extra_save(sv);
        sv->extra = SVM_EXTRA_VMCB;
        svm_attend(sv);
    }
    if (dirty & VIRTX_STATE_RIP)
        save->rip = state->rip;
    if (dirty & VIRTX_STATE_RSP)
        save->rsp = state->gpr[VIRTX_RSP];
    if (dirty & VIRTX_STATE_RFLAGS)
        save->rflags = state->rflags;
    if (dirty & VIRTX_STATE_SEG)
        write_segments(sv);
    if (dirty & VIRTX_STATE_TABLES) {
        save->gdtr.base = state->gdtr.base;
        save->gdtr.limit = state->gdtr.limit;
        save->idtr.base = state->idtr.base;
        save->idtr.limit = state->idtr.limit;
        svm_dirty(sv, VMCB_CLEAN_DT);
    }
    if (dirty & VIRTX_STATE_CR)
        write_control(sv);
    if (dirty & VIRTX_STATE_DR) {
        save->dr6 = state->dr6;
        save->dr7 = state->dr7;
        svm_dirty(sv, VMCB_CLEAN_DR);
    }
    if (dirty & VIRTX_STATE_SYSCALL)
        write_syscall(sv);
    if (dirty & VIRTX_STATE_MSR) {
        save->g_pat = state->pat;
        svm_dirty(sv, VMCB_CLEAN_NP);
    }
    if (dirty & VIRTX_STATE_INTR) {
        sv->vmcb.control.interrupt_state =
            state->interruptibility & (VIRTX_BLOCKED_BY_STI | VIRTX_BLOCKED_BY_MOV_SS) ? VMCB_SHADOW
                                                                                       : 0;
        sv->nmi_blocked = (state->interruptibility & VIRTX_BLOCKED_BY_NMI) != 0;
        svm_controls_iret(sv);
    }
}
