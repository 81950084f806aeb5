/* SPDX-License-Identifier: BSD-2-Clause */
/* Which events exit: the embedder's wishes (hw_controls) and what must always be intercepted. */
#include "svm/svm.h"
#include "x86/cpu.h"

#define LEAF_SVM                0x8000000a
#define SVM_EDX_PAUSE_THRESHOLD (1u << 12)

/* #AC and #DB could loop in the processor for ever (their delivery can cause them again); #MC is
 * the host's. Vector 2 has no bit: NMIs are intercepted as such. */
#define ALWAYS_EXCEPTIONS (1u << VECTOR_DB | 1u << VECTOR_AC | 1u << VECTOR_MC)
#define NO_EXCEPTION      (1u << VECTOR_NMI)

#define ALWAYS_MISC1                                                                               \
    (VMCB_NMI | VMCB_INIT | VMCB_CPUID | VMCB_INVD | VMCB_INVLPGA | VMCB_IOIO | VMCB_MSR |         \
     VMCB_SHUTDOWN)
/* VMLOAD and VMSAVE would also reach the host's memory, and corrupt the VMCB in use on one engine.
 */
#define ALWAYS_MISC2                                                                               \
    (VMCB_ICEBP | VMCB_VMRUN | VMCB_VMLOAD | VMCB_VMSAVE | VMCB_STGI | VMCB_CLGI | VMCB_SKINIT |   \
     VMCB_XSETBV | VMCB_RDPRU)

enum word { NONE, MISC1, MISC2, MISC3, FORCED };

/* Where each instruction's intercept is. FORCED: set always; NONE: SVM has no such intercept. */
static const struct {
    uint8_t word;
    uint32_t bits;
} instruction_bits[VIRTX_INSN_COUNT] = {
    [VIRTX_INSN_RDTSC] = {MISC1, VMCB_RDTSC},
    [VIRTX_INSN_RDTSCP] = {MISC2, VMCB_RDTSCP},
    [VIRTX_INSN_RDPMC] = {MISC1, VMCB_RDPMC},
    [VIRTX_INSN_INVLPG] = {MISC1, VMCB_INVLPG},
    [VIRTX_INSN_INVPCID] = {MISC3, VMCB_INVPCID},
    [VIRTX_INSN_INVD] = {FORCED, 0},
    [VIRTX_INSN_WBINVD] = {MISC2, VMCB_WBINVD},
    [VIRTX_INSN_MONITOR] = {MISC2, VMCB_MONITOR},
    [VIRTX_INSN_MWAIT] = {MISC2, VMCB_MWAIT},
    [VIRTX_INSN_PAUSE] = {MISC1, VMCB_PAUSE},
    [VIRTX_INSN_XSETBV] = {FORCED, 0},
    [VIRTX_INSN_SGDT] = {MISC1, VMCB_GDTR_READ},
    [VIRTX_INSN_SIDT] = {MISC1, VMCB_IDTR_READ},
    [VIRTX_INSN_LGDT] = {MISC1, VMCB_GDTR_WRITE},
    [VIRTX_INSN_LIDT] = {MISC1, VMCB_IDTR_WRITE},
    [VIRTX_INSN_SLDT] = {MISC1, VMCB_LDTR_READ},
    [VIRTX_INSN_STR] = {MISC1, VMCB_TR_READ},
    [VIRTX_INSN_LLDT] = {MISC1, VMCB_LDTR_WRITE},
    [VIRTX_INSN_LTR] = {MISC1, VMCB_TR_WRITE},
    [VIRTX_INSN_RSM] = {MISC1, VMCB_RSM},
    [VIRTX_INSN_SVM] = {FORCED, 0},
    [VIRTX_INSN_SKINIT] = {FORCED, 0},
    [VIRTX_INSN_IRET] = {MISC1, VMCB_IRET},
    [VIRTX_INSN_INTN] = {MISC1, VMCB_INTN},
    [VIRTX_INSN_PUSHF] = {MISC1, VMCB_PUSHF},
    [VIRTX_INSN_POPF] = {MISC1, VMCB_POPF},
};

void svm_controls_exceptions(struct svm_vcpu *sv, bool all)
{
    uint32_t exceptions = all ? UINT32_MAX : sv->hw.controls.exceptions | ALWAYS_EXCEPTIONS;

    sv->vmcb.control.exceptions = exceptions & ~NO_EXCEPTION;
    svm_dirty(sv, VMCB_CLEAN_INTERCEPTS);
}

/* The end of an NMI handler is an IRET; it is watched for while NMIs are blocked. */
void svm_controls_iret(struct svm_vcpu *sv)
{
    bool wanted = sv->hw.controls.instructions & BIT(VIRTX_INSN_IRET);
    bool watched = sv->nmi_blocked && !(sv->after & SVM_AFTER_STEP);

    if (wanted || watched)
        sv->vmcb.control.misc1 |= VMCB_IRET;
    else
        sv->vmcb.control.misc1 &= ~(uint32_t)VMCB_IRET;
    svm_dirty(sv, VMCB_CLEAN_INTERCEPTS);
}

/*
 * SVM has neither read shadows nor masks. Reads exit where the real register is not what the guest
 * wrote. CR4 writes always exit, since they would take the host's machine-check enable along. CR0
 * writes exit where the embedder wants them (by the selective intercept, which lets TS and MP
 * through, if those are not in its mask), while the real register differs, and while it has the
 * host's TS and MP. What src/hw itself
 * wants to know of CR0 with nested paging it learns from the VMCB.
 */
void svm_controls_cr(struct svm_vcpu *sv)
{
    const struct hw_controls *want = &sv->hw.controls;
    struct vmcb_control *control = &sv->vmcb.control;
    uint16_t read = want->cr_read, write = (uint16_t)((want->cr_write & ~1u) | 1u << 4);
    uint32_t selective = 0;

    if ((want->cr_write & 1) || want->fpu_waits) {
        if (want->cr0_mask & (CR0_TS | CR0_MP))
            write |= 1u << 0;
        else
            selective = VMCB_CR0_SELECTIVE;
    }
    if (!sv->nested) {
        read |= 1u << 3;
        write |= 1u << 0 | 1u << 3;
    }
    if (sv->watch_cr8)
        write |= 1u << 8;
    if (sv->hides_cr0) {
        read |= 1u << 0;
        write |= 1u << 0;
    }
    if (sv->hides_cr4)
        read |= 1u << 4;
    control->cr_read = read;
    control->cr_write = write;
    control->misc1 = (control->misc1 & ~(uint32_t)VMCB_CR0_SELECTIVE) | selective;
    svm_dirty(sv, VMCB_CLEAN_INTERCEPTS);
}

static void instructions(struct svm_vcpu *sv, uint32_t misc[3])
{
    uint64_t wanted = sv->hw.controls.instructions;

    while (wanted) {
        unsigned which = (unsigned)__builtin_ctzll(wanted);

        wanted &= wanted - 1;
        if (which < VIRTX_INSN_COUNT && instruction_bits[which].word >= MISC1 &&
            instruction_bits[which].word <= MISC3)
            misc[instruction_bits[which].word - MISC1] |= instruction_bits[which].bits;
    }
}

/* AMD APM "Pause Intercept Filtering": count 0 lets each PAUSE exit; where there is no threshold
 * its place is reserved. */
static void pause_filter(struct vmcb_control *control, const struct virtx_pause_filter *filter)
{
    bool threshold = filter->count && (x86_cpuid(LEAF_SVM, 0).edx & SVM_EDX_PAUSE_THRESHOLD);

    control->pause_count = (uint16_t)filter->count;
    control->pause_threshold = threshold ? (uint16_t)filter->gap : 0;
}

void svm_controls(struct hw_vcpu *hv)
{
    struct svm_vcpu *sv = svm_of(hv);
    struct vmcb_control *control = &sv->vmcb.control;
    const struct hw_controls *want = &hv->controls;
    uint32_t misc[3] = {ALWAYS_MISC1, ALWAYS_MISC2, 0};

    if (want->interrupts)
        misc[0] |= VMCB_INTR;
    if (want->hlt)
        misc[0] |= VMCB_HLT;
    if (want->hypercall)
        misc[1] |= VMCB_VMMCALL;
    if (!sv->nested)
        misc[0] |= VMCB_TASK_SWITCH | VMCB_INVLPG; /* both touch the translations */
    if (want->fpu_waits)
        misc[0] |= VMCB_TASK_SWITCH; /* it sets the guest's TS */
    if (unlikely(sv->fpu_waits != want->fpu_waits)) {
        hw_change(hv, VIRTX_STATE_CR); /* the real CR0 will be another */
        sv->fpu_waits = want->fpu_waits;
    }
    misc[0] |= control->misc1 & VMCB_VINTR; /* the window that is asked for, see event.c */
    instructions(sv, misc);
    pause_filter(control, &want->pause);
    control->misc1 = misc[0];
    control->misc2 = misc[1];
    control->misc3 = misc[2];
    control->dr_read = want->dr_read;
    control->dr_write = want->dr_write;
    /* With passed-through interrupts the guest's IF and TPR are the processor's own. */
    control->v_intr_masking = want->interrupts ? VMCB_V_INTR_MASKING : 0;
    svm_cr8_threshold(hv, want->cr8_shadow ? sv->tpr_threshold : 0);
    svm_controls_exceptions(sv, sv->after & SVM_AFTER_STEP);
    svm_controls_iret(sv);
    svm_controls_cr(sv);
    svm_dirty(sv, VMCB_CLEAN_INTERCEPTS | VMCB_CLEAN_TPR);
}

static enum virtx_status check_cr(const struct virtx_intercept_config *config, bool *forced)
{
    const uint32_t known = 1u << 0 | 1u << 2 | 1u << 3 | 1u << 4 | 1u << 8;

    for (uint64_t reg = config->first; reg <= config->last; reg++) {
        if (reg > 8 || !(known >> reg & 1))
            return VIRTX_E_UNSUPPORTED;
    }
    *forced = (config->access & VIRTX_WRITE) && config->first <= 4 && config->last >= 4;
    return VIRTX_OK;
}

static enum virtx_status check_instruction(const struct virtx *virtx,
                                           const struct virtx_intercept_config *config,
                                           bool *forced)
{
    for (uint64_t which = config->first; which <= config->last; which++) {
        unsigned word = which < VIRTX_INSN_COUNT ? instruction_bits[which].word : NONE;

        if (word == NONE || (word == MISC3 && !(virtx->caps.features & VIRTX_FEATURE_INVPCID)))
            return VIRTX_E_UNSUPPORTED;
        if (word == FORCED)
            *forced = true;
    }
    return VIRTX_OK;
}

enum virtx_status svm_intercept_check(const struct virtx *virtx,
                                      const struct virtx_intercept_config *config, bool *forced)
{
    *forced = false;
    switch (config->kind) {
    case VIRTX_INTERCEPT_MSR:
        *forced = svm_msr_forced(config->first, config->last);
        return VIRTX_OK;
    case VIRTX_INTERCEPT_CPUID:
    case VIRTX_INTERCEPT_MMIO:
        *forced = true;
        return VIRTX_OK;
    case VIRTX_INTERCEPT_EXCEPTION:
        if (config->first > 31 || (config->first <= VECTOR_NMI && config->last >= VECTOR_NMI &&
                                   config->first == config->last))
            return VIRTX_E_UNSUPPORTED;
        for (uint64_t vector = config->first; vector <= config->last && vector < 32; vector++)
            *forced |= ALWAYS_EXCEPTIONS >> vector & 1;
        return VIRTX_OK;
    case VIRTX_INTERCEPT_CR:
        return check_cr(config, forced);
    case VIRTX_INTERCEPT_INSTRUCTION:
        return check_instruction(virtx, config, forced);
    default: /* ports, debug registers, hypercalls */
        return VIRTX_OK;
    }
}
