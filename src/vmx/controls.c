/* SPDX-License-Identifier: BSD-2-Clause */
/* What the vcpu exits on: from the neutral hw_controls to the VM-execution controls. */
#include "vmx/vmx.h"

/* Writes a control word if it changes. */
void vmx_set_control(struct vmx_vcpu *v, enum vmx_word word, uint32_t value)
{
    static const uint16_t fields[VMX_WORD_COUNT] = {
        [VMX_PIN] = VMCS_PIN,   [VMX_PRIMARY] = VMCS_PRIMARY, [VMX_SECONDARY] = VMCS_SECONDARY,
        [VMX_EXIT] = VMCS_EXIT, [VMX_ENTRY] = VMCS_ENTRY,
    };

    if (v->control[word] != value) {
        v->control[word] = value;
        vmx_set_field(v, fields[word], value);
    }
}

/* How VMX intercepts an instruction: by a control bit, always, or not at all. */
enum how { NEVER, ALWAYS, PRIMARY, SECONDARY };
static const struct {
    uint8_t how;
    uint32_t bit;
} instructions[VIRTX_INSN_COUNT] = {
    [VIRTX_INSN_RDTSC] = {PRIMARY, PRIMARY_RDTSC},
    [VIRTX_INSN_RDTSCP] = {PRIMARY, PRIMARY_RDTSC},
    [VIRTX_INSN_RDPMC] = {PRIMARY, PRIMARY_RDPMC},
    [VIRTX_INSN_INVLPG] = {PRIMARY, PRIMARY_INVLPG},
    [VIRTX_INSN_INVPCID] = {PRIMARY, PRIMARY_INVLPG},
    [VIRTX_INSN_INVD] = {ALWAYS, 0},
    [VIRTX_INSN_WBINVD] = {SECONDARY, SECONDARY_WBINVD},
    [VIRTX_INSN_MONITOR] = {PRIMARY, PRIMARY_MONITOR},
    [VIRTX_INSN_MWAIT] = {PRIMARY, PRIMARY_MWAIT},
    [VIRTX_INSN_PAUSE] = {PRIMARY, PRIMARY_PAUSE},
    [VIRTX_INSN_XSETBV] = {ALWAYS, 0},
    [VIRTX_INSN_SGDT] = {SECONDARY, SECONDARY_DESCRIPTOR_TABLE},
    [VIRTX_INSN_SIDT] = {SECONDARY, SECONDARY_DESCRIPTOR_TABLE},
    [VIRTX_INSN_LGDT] = {SECONDARY, SECONDARY_DESCRIPTOR_TABLE},
    [VIRTX_INSN_LIDT] = {SECONDARY, SECONDARY_DESCRIPTOR_TABLE},
    [VIRTX_INSN_SLDT] = {SECONDARY, SECONDARY_DESCRIPTOR_TABLE},
    [VIRTX_INSN_STR] = {SECONDARY, SECONDARY_DESCRIPTOR_TABLE},
    [VIRTX_INSN_LLDT] = {SECONDARY, SECONDARY_DESCRIPTOR_TABLE},
    [VIRTX_INSN_LTR] = {SECONDARY, SECONDARY_DESCRIPTOR_TABLE},
    [VIRTX_INSN_VMX] = {ALWAYS, 0},
    [VIRTX_INSN_GETSEC] = {ALWAYS, 0},
    [VIRTX_INSN_RDRAND] = {SECONDARY, SECONDARY_RDRAND},
    [VIRTX_INSN_RDSEED] = {SECONDARY, SECONDARY_RDSEED},
};

static void add_instructions(const struct vmx_vcpu *v, uint64_t wanted, uint32_t *primary,
                             uint32_t *secondary)
{
    /* An instruction that raises #UD anyway needs no exit, and these two share the bit of a common
     * one. */
    if (!(*secondary & SECONDARY_RDTSCP))
        wanted &= ~BIT(VIRTX_INSN_RDTSCP);
    if (!(*secondary & SECONDARY_INVPCID))
        wanted &= ~BIT(VIRTX_INSN_INVPCID);
    for (unsigned i = 0; wanted; i++, wanted >>= 1) {
        if (!(wanted & 1))
            continue;
        if (instructions[i].how == PRIMARY)
            *primary |= instructions[i].bit;
        else if (instructions[i].how == SECONDARY)
            *secondary |= instructions[i].bit & v->cpu->caps.control[VMX_SECONDARY].may;
    }
}

/* The masks decide where a bit of the guest's CR0 and CR4 is kept, so the guest's view is gathered
 * before they change. */
static void set_masks(struct vmx_vcpu *v, uint64_t cr0_mask, uint64_t cr4_mask)
{
    if (v->cr0_mask == cr0_mask && v->cr4_mask == cr4_mask)
        return;
    hw_change(&v->hw, VIRTX_STATE_CR);
    v->cr0_mask = cr0_mask;
    v->cr4_mask = cr4_mask;
    vmx_set_field(v, VMCS_CR0_MASK, cr0_mask);
    vmx_set_field(v, VMCS_CR4_MASK, cr4_mask);
}

/* Only where the guest's CR3 is the processor's (Intel SDM "CR3-Target Controls"); src/hw knows the
 * values that find no place here. */
static void set_cr3_targets(struct vmx_vcpu *v, const struct hw_controls *c)
{
    uint32_t count = c->cr3_targets, places = (uint32_t)(v->cpu->caps.misc >> 16 & 0x1ff);

    if (v->confined)
        count = 0;
    count = count < places ? count : places;
    for (uint32_t i = 0; i < count; i++)
        vmx_set_field(v, VMCS_CR3_TARGET0 + 2 * i, c->cr3_target[i]);
    if (v->cr3_targets != count) {
        v->cr3_targets = count;
        vmx_set_field(v, VMCS_CR3_TARGETS, count);
    }
}

/* Intel SDM "PAUSE-Loop Exiting": it works while "PAUSE exiting" is 0. */
static void filter_pauses(struct vmx_vcpu *v, const struct hw_controls *c, uint32_t *primary,
                          uint32_t *secondary)
{
    if (!c->pause.window || !(*primary & PRIMARY_PAUSE))
        return;
    *primary &= ~PRIMARY_PAUSE;
    *secondary |= SECONDARY_PAUSE_LOOP;
    vmx_set_field(v, VMCS_PLE_GAP, c->pause.gap);
    vmx_set_field(v, VMCS_PLE_WINDOW, c->pause.window);
}

static void set_exceptions(struct vmx_vcpu *v, const struct hw_controls *c)
{
    bool all = v->mode == VMX_MODE_REAL;
    uint32_t exceptions = all ? UINT32_MAX : c->exceptions | VMX_EXCEPTIONS_ALWAYS;

    /* Intel SDM "Exceptions": with this bit 0 it is the page faults unlike the match that exit. */
    if (c->pf_unlike && !all)
        exceptions &= ~(uint32_t)BIT(VECTOR_PF);

    if (v->exceptions != exceptions) {
        v->exceptions = exceptions;
        vmx_set_field(v, VMCS_EXCEPTIONS, exceptions);
    }
    vmx_set_field(v, VMCS_PF_MASK, all ? 0 : c->pf_mask);
    vmx_set_field(v, VMCS_PF_MATCH, all ? 0 : c->pf_match);
}

void vmx_controls(struct hw_vcpu *hv)
{
    struct vmx_vcpu *v = vmx_of(hv);
    const struct hw_controls *c = &hv->controls;
    const uint32_t *base = v->cpu->base;
    uint32_t windows = PRIMARY_INTERRUPT_WINDOW | PRIMARY_NMI_WINDOW;
    uint32_t pin = base[VMX_PIN], secondary = base[VMX_SECONDARY];
    uint32_t primary = base[VMX_PRIMARY] | (v->control[VMX_PRIMARY] & windows), all;

    if (c->interrupts)
        pin |= PIN_INTERRUPT;
    if (v->standing & VMX_DIRTY_TIMER)
        pin |= PIN_TIMER;
    if (c->apic.delivery && vmx_has(v, VIRTX_FEATURE_POSTED_INTERRUPT))
        pin |= PIN_POSTED_INTERRUPT;
    if (c->hlt)
        primary |= PRIMARY_HLT;
    if (c->cr_write & BIT(3))
        primary |= PRIMARY_CR3_LOAD;
    if (c->cr_read & BIT(3))
        primary |= PRIMARY_CR3_STORE;
    primary |= vmx_apic_controls(v, c);
    if (v->mode != VMX_MODE_NATIVE)
        primary |= PRIMARY_CR3_LOAD | PRIMARY_CR3_STORE;
    if (c->dr_read | c->dr_write)
        primary |= PRIMARY_MOV_DR;
    if (!v->nested) {
        primary |= PRIMARY_CR3_LOAD | PRIMARY_CR3_STORE | PRIMARY_INVLPG;
        secondary &= ~(SECONDARY_EPT | SECONDARY_UNRESTRICTED | SECONDARY_PML);
    }
    secondary |= vmx_apic_secondary(v, &c->apic);
    if (hv->tag == 0)
        secondary &= ~SECONDARY_VPID;
    add_instructions(v, c->instructions, &primary, &secondary);
    filter_pauses(v, c, &primary, &secondary);
    vmx_set_control(v, VMX_PIN, pin);
    vmx_set_control(v, VMX_PRIMARY, primary);
    if (primary & PRIMARY_SECONDARY)
        vmx_set_control(v, VMX_SECONDARY, secondary);
    v->hlt_activity = !c->hlt;
    if (unlikely(v->fpu_waits != c->fpu_waits)) {
        hw_change(hv, VIRTX_STATE_CR); /* the real CR0 will be another */
        v->fpu_waits = c->fpu_waits;
    }
    all = v->mode != VMX_MODE_NATIVE ? BIT(0) | BIT(4) : c->cr_write;
    set_masks(v, VMX_CR0_OWNED | c->cr0_mask | (all & BIT(0) ? UINT64_MAX : 0),
              ~VMX_CR4_GUEST | c->cr4_mask | (all & BIT(4) ? UINT64_MAX : 0));
    set_exceptions(v, c);
    set_cr3_targets(v, c);
    vmx_bitmap_x2apic(v);
    vmx_bitmaps_load(v);
}

/* ---- What can be intercepted at all ---- */

static enum virtx_status check_cr(const struct virtx_intercept_config *config)
{
    const uint32_t readable = 1u << 3 | 1u << 8, writable = 1u << 0 | 1u << 3 | 1u << 4 | 1u << 8;

    if (config->last > 8)
        return VIRTX_E_UNSUPPORTED;
    for (uint64_t reg = config->first; reg <= config->last; reg++) {
        if (((config->access & VIRTX_READ) && !(readable >> reg & 1)) ||
            ((config->access & VIRTX_WRITE) && !(writable >> reg & 1)))
            return VIRTX_E_UNSUPPORTED;
    }
    return VIRTX_OK;
}

static enum virtx_status check_instruction(const struct virtx *virtx,
                                           const struct virtx_intercept_config *config,
                                           bool *forced)
{
    struct vmx_caps caps;

    vmx_caps_read(&caps);
    for (uint64_t which = config->first; which <= config->last; which++) {
        if (which >= VIRTX_INSN_COUNT || instructions[which].how == NEVER)
            return VIRTX_E_UNSUPPORTED;
        if (instructions[which].how == ALWAYS)
            *forced = true;
        if (instructions[which].bit == SECONDARY_DESCRIPTOR_TABLE &&
            instructions[which].how == SECONDARY) {
            if (!(virtx->caps.features & VIRTX_FEATURE_DESCRIPTOR_EXIT))
                return VIRTX_E_UNSUPPORTED;
            *forced = true; /* all eight together or none */
        }
        if (instructions[which].how == SECONDARY &&
            !(caps.control[VMX_SECONDARY].may & instructions[which].bit))
            return VIRTX_E_UNSUPPORTED;
    }
    return VIRTX_OK;
}

enum virtx_status vmx_intercept_check(const struct virtx *virtx,
                                      const struct virtx_intercept_config *config, bool *forced)
{
    uint64_t features = virtx->caps.features;

    *forced = false;
    switch (config->kind) {
    case VIRTX_INTERCEPT_PORT:
        *forced = !(features & VIRTX_FEATURE_IO_BITMAP);
        return VIRTX_OK;
    case VIRTX_INTERCEPT_MSR:
        *forced = !(features & VIRTX_FEATURE_MSR_BITMAP) || config->last > 0xc0001fff ||
                  (config->last > 0x1fff && config->first < 0xc0000000);
        return VIRTX_OK;
    case VIRTX_INTERCEPT_CPUID:
    case VIRTX_INTERCEPT_HYPERCALL:
        *forced = true;
        return VIRTX_OK;
    case VIRTX_INTERCEPT_EXCEPTION:
        if (config->first <= VECTOR_NMI && config->last >= VECTOR_NMI)
            return VIRTX_E_UNSUPPORTED; /* NMIs are the host's */
        for (uint64_t vector = config->first; vector <= config->last && vector < 32; vector++)
            *forced |= VMX_EXCEPTIONS_ALWAYS >> vector & 1;
        return VIRTX_OK;
    case VIRTX_INTERCEPT_CR:
        return check_cr(config);
    case VIRTX_INTERCEPT_INSTRUCTION:
        return check_instruction(virtx, config, forced);
    default:
        return VIRTX_OK;
    }
}
