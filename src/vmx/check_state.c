/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The checks of VM entries on what is no register: Intel SDM "Checks on Guest Non-Register State",
 * "Checks on Guest Page-Directory-Pointer-Table Entries", and "Loading MSRs".
 */
#include "vmx/check.h"
#include "x86/cpu.h"

#define OTHER             "Checks on Guest Non-Register State"
#define PDPTES            "Checks on Guest Page-Directory-Pointer-Table Entries"
#define LOADING           "Loading MSRs"

#define FEATURES_EBX_SGX  (1u << 2)
#define FEATURES_EBX_RTM  (1u << 11)

#define BLOCKED_STI       VIRTX_BLOCKED_BY_STI
#define BLOCKED_MOV_SS    VIRTX_BLOCKED_BY_MOV_SS
#define BLOCKED_SMI       (1u << 2)
#define BLOCKED_NMI       VIRTX_BLOCKED_BY_NMI
#define BLOCKED_ENCLAVE   (1u << 4)
#define BLOCKED_SHADOW    (BLOCKED_STI | BLOCKED_MOV_SS)

#define ACTIVITY_HLT      1
#define ACTIVITY_SHUTDOWN 2
#define ACTIVITY_SIPI     3

static bool activity_supported(const struct check *c, unsigned arg)
{
    (void)arg;
    return c->activity == 0 || (c->activity <= 3 && (c->caps->misc >> (5 + c->activity) & 1));
}

static bool activity_hlt(const struct check *c, unsigned arg)
{
    (void)arg;
    return c->activity != ACTIVITY_HLT || !(c->attributes[VIRTX_SS] & VIRTX_SEG_DPL);
}

static bool activity_shadow(const struct check *c, unsigned arg)
{
    (void)arg;
    return c->activity == 0 || !(c->interruptibility & BLOCKED_SHADOW);
}

static bool activity_event(const struct check *c, unsigned arg)
{
    unsigned vector = c->injection & INTERRUPTION_VECTOR;
    unsigned kind = (c->injection & INTERRUPTION_TYPE) >> INTERRUPTION_TYPE_SHIFT;

    (void)arg;
    if (c->activity == 0 || !(c->injection & INTERRUPTION_VALID))
        return true;
    switch (c->activity) {
    case ACTIVITY_HLT:
        return kind == VIRTX_EVENT_INTERRUPT || kind == VIRTX_EVENT_NMI ||
               (kind == VIRTX_EVENT_EXCEPTION && (vector == VECTOR_DB || vector == VECTOR_MC));
    case ACTIVITY_SHUTDOWN:
        return kind == VIRTX_EVENT_NMI || (kind == VIRTX_EVENT_EXCEPTION && vector == VECTOR_MC);
    default:
        return false;
    }
}

static bool blocking_reserved(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->interruptibility & ~0x1fu);
}

static bool blocking_both(const struct check *c, unsigned arg)
{
    (void)arg;
    return (c->interruptibility & BLOCKED_SHADOW) != BLOCKED_SHADOW;
}

static bool blocking_sti(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->interruptibility & BLOCKED_STI) || (c->rflags & RFLAGS_IF);
}

static bool blocking_interrupt(const struct check *c, unsigned arg)
{
    (void)arg;
    return !check_interrupting(c) || !(c->interruptibility & BLOCKED_SHADOW);
}

static bool blocking_nmi_shadow(const struct check *c, unsigned arg)
{
    (void)arg;
    return !check_injecting_nmi(c) || !(c->interruptibility & BLOCKED_SHADOW);
}

/* The enclave's bit is for processors with SGX, and excludes the shadow of MOV SS. */
static bool blocking_enclave(const struct check *c, unsigned arg)
{
    (void)arg;
    if (!(c->interruptibility & BLOCKED_ENCLAVE))
        return true;
    return !(c->interruptibility & BLOCKED_MOV_SS) && x86_cpuid(0, 0).eax >= 7 &&
           (x86_cpuid(7, 0).ebx & FEATURES_EBX_SGX);
}

static bool blocking_smi(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->interruptibility & BLOCKED_SMI);
}

static bool blocking_virtual_nmi(const struct check *c, unsigned arg)
{
    (void)arg;
    return !check_injecting_nmi(c) || !(c->control[VMX_PIN] & PIN_VIRTUAL_NMI) ||
           !(c->interruptibility & BLOCKED_NMI);
}

static bool debug_reserved(const struct check *c, unsigned arg)
{
    (void)c;
    (void)arg;
    return !(vmx_vmread(VMCS_GUEST_PENDING_DEBUG) & 0xfffffffffffeaff0);
}

/* A pending debug exception of a transaction stands alone. */
static bool debug_rtm(const struct check *c, unsigned arg)
{
    uint64_t pending = vmx_vmread(VMCS_GUEST_PENDING_DEBUG);

    (void)arg;
    if (!(pending & PENDING_DEBUG_RTM))
        return true;
    return pending == (PENDING_DEBUG_RTM | PENDING_DEBUG_ENABLED_BREAKPOINT) &&
           !(c->interruptibility & BLOCKED_MOV_SS) && x86_cpuid(0, 0).eax >= 7 &&
           (x86_cpuid(7, 0).ebx & FEATURES_EBX_RTM);
}

/* With an interrupt shadow or in HLT, a single step is pending exactly when TF asks for it. */
static bool debug_step(const struct check *c, unsigned arg)
{
    bool step = vmx_vmread(VMCS_GUEST_PENDING_DEBUG) & PENDING_DEBUG_SINGLE_STEP;
    bool wanted;

    (void)arg;
    if (!(c->interruptibility & BLOCKED_SHADOW) && c->activity != ACTIVITY_HLT)
        return true;
    wanted = (c->rflags & RFLAGS_TF) && !(vmx_vmread(VMCS_GUEST_DEBUGCTL) & DEBUGCTL_BTF);
    return step == wanted;
}

/* What it points to must begin with the right revision identifier; that memory is not judged here,
 * because the library never links a VMCS. */
static bool link_page(const struct check *c, unsigned arg)
{
    uint64_t link = vmx_vmread(VMCS_LINK_POINTER);

    (void)arg;
    return link == UINT64_MAX || check_page(c, link);
}

static bool link_current(const struct check *c, unsigned arg)
{
    (void)arg;
    return vmx_vmread(VMCS_LINK_POINTER) != c->vmcs_hpa;
}

/* ---- PDPTEs ---- */

static bool pdpte(const struct check *c, unsigned index)
{
    uint64_t value;

    if (!(c->cr0 & CR0_PG) || !(c->cr4 & CR4_PAE) || c->ia32e ||
        !(c->control[VMX_SECONDARY] & SECONDARY_EPT))
        return true;
    value = vmx_vmread(VMCS_GUEST_PDPTE0 + 2 * index);
    return !(value & 1) || !(value & (check_beyond(c) | 0x1e6));
}

#define PDPTE "reserved bits of a present entry must be 0"

const struct check_rule vmx_rules_state[] = {
    {"guest activity state", OTHER, "must be one that the processor supports", VMCS_GUEST_ACTIVITY,
     activity_supported, 0},
    {"guest activity state", OTHER, "HLT needs DPL 0 in SS", VMCS_GUEST_ACTIVITY, activity_hlt, 0},
    {"guest activity state", OTHER, "must be active in an interrupt shadow", VMCS_GUEST_ACTIVITY,
     activity_shadow, 0},
    {"guest activity state", OTHER, "the injected event must be one that ends it",
     VMCS_GUEST_ACTIVITY, activity_event, 0},
    {"guest interruptibility state", OTHER, "reserved bits must be 0", VMCS_GUEST_INTERRUPTIBILITY,
     blocking_reserved, 0},
    {"guest interruptibility state", OTHER, "blocking by STI and by MOV SS exclude each other",
     VMCS_GUEST_INTERRUPTIBILITY, blocking_both, 0},
    {"guest interruptibility state", OTHER, "blocking by STI needs RFLAGS.IF",
     VMCS_GUEST_INTERRUPTIBILITY, blocking_sti, 0},
    {"guest interruptibility state", OTHER,
     "an interrupt cannot be injected while STI or MOV SS blocks it", VMCS_GUEST_INTERRUPTIBILITY,
     blocking_interrupt, 0},
    {"guest interruptibility state", OTHER,
     "an NMI cannot be injected while STI or MOV SS blocks it", VMCS_GUEST_INTERRUPTIBILITY,
     blocking_nmi_shadow, 0},
    {"guest interruptibility state", OTHER, "blocking by SMI must be 0 outside SMM",
     VMCS_GUEST_INTERRUPTIBILITY, blocking_smi, 0},
    {"guest interruptibility state", OTHER,
     "enclave interruption needs SGX, and no blocking by MOV SS", VMCS_GUEST_INTERRUPTIBILITY,
     blocking_enclave, 0},
    {"guest interruptibility state", OTHER, "a virtual NMI cannot be injected while one is handled",
     VMCS_GUEST_INTERRUPTIBILITY, blocking_virtual_nmi, 0},
    {"guest pending debug exceptions", OTHER, "reserved bits must be 0", VMCS_GUEST_PENDING_DEBUG,
     debug_reserved, 0},
    {"guest pending debug exceptions", OTHER,
     "in an interrupt shadow or HLT, BS must be 1 exactly when RFLAGS.TF is 1 and DEBUGCTL.BTF 0",
     VMCS_GUEST_PENDING_DEBUG, debug_step, 0},
    {"guest pending debug exceptions", OTHER,
     "RTM goes with the enabled breakpoint only, outside the shadow of MOV SS, where there is RTM",
     VMCS_GUEST_PENDING_DEBUG, debug_rtm, 0},
    {"VMCS link pointer", OTHER,
     "must be all ones or a multiple of 4096 within the physical-address width", VMCS_LINK_POINTER,
     link_page, 0},
    {"VMCS link pointer", OTHER, "must not be the current VMCS", VMCS_LINK_POINTER, link_current,
     0},

    {"guest PDPTE 0", PDPTES, PDPTE, VMCS_GUEST_PDPTE0, pdpte, 0},
    {"guest PDPTE 1", PDPTES, PDPTE, VMCS_GUEST_PDPTE0 + 2, pdpte, 1},
    {"guest PDPTE 2", PDPTES, PDPTE, VMCS_GUEST_PDPTE0 + 4, pdpte, 2},
    {"guest PDPTE 3", PDPTES, PDPTE, VMCS_GUEST_PDPTE0 + 6, pdpte, 3},
};
const unsigned vmx_rules_state_count = ARRAY_SIZE(vmx_rules_state);

/* ---- The VM-entry MSR-load area ---- */

static bool msr_reserved(const struct vmx_msr_entry *entry)
{
    return entry->reserved == 0;
}

static bool msr_bases(const struct vmx_msr_entry *entry)
{
    return entry->index != MSR_FS_BASE && entry->index != MSR_GS_BASE;
}

static bool msr_x2apic(const struct vmx_msr_entry *entry)
{
    return entry->index >> 8 != MSR_X2APIC_FIRST >> 8;
}

static bool msr_smm(const struct vmx_msr_entry *entry)
{
    return entry->index != MSR_SMM_MONITOR_CTL && entry->index != MSR_SMBASE;
}

static bool msr_microcode(const struct vmx_msr_entry *entry)
{
    return entry->index != MSR_BIOS_UPDT_TRIG && entry->index != MSR_BIOS_SIGN_ID;
}

static bool msr_efer(const struct vmx_msr_entry *entry)
{
    return entry->index != MSR_EFER || !(entry->value & ~CHECK_EFER);
}

static bool msr_pat(const struct vmx_msr_entry *entry)
{
    return entry->index != MSR_PAT || check_pat(entry->value);
}

static bool msr_canonical(const struct vmx_msr_entry *entry)
{
    switch (entry->index) {
    case MSR_SYSENTER_ESP:
    case MSR_SYSENTER_EIP:
    case MSR_LSTAR:
    case MSR_CSTAR:
    case MSR_KERNEL_GS_BASE:
        return is_canonical(entry->value);
    default:
        return true;
    }
}

static const struct {
    const char *what, *rule;
    bool (*holds)(const struct vmx_msr_entry *entry);
} msr_rules[] = {
    {"MSR-load entry", "bits 63:32 must be 0", msr_reserved},
    {"MSR-load entry", "must not be IA32_FS_BASE or IA32_GS_BASE", msr_bases},
    {"MSR-load entry", "must not be an x2APIC register", msr_x2apic},
    {"MSR-load entry", "must not be an MSR that only SMM may write", msr_smm},
    {"MSR-load entry", "must not be one of microcode updates", msr_microcode},
    {"loaded IA32_EFER", "reserved bits must be 0", msr_efer},
    {"loaded IA32_PAT", "each byte must be a memory type (0, 1, 4, 5, 6, 7)", msr_pat},
    {"loaded MSR", "the address must be canonical", msr_canonical},
};

/* The library's own area; others' memory is not judged. */
enum virtx_status vmx_check_msrs(const struct vmx_vcpu *v, struct virtx_error *error)
{
    uint64_t count = v->msr_area ? vmx_vmread(VMCS_ENTRY_MSR_LOAD_COUNT) : 0;

    for (uint64_t i = 0; i < count; i++) {
        for (unsigned rule = 0; rule < ARRAY_SIZE(msr_rules); rule++) {
            if (!msr_rules[rule].holds(&v->msr_area[i]))
                return virtx_fail_manual(error, VIRTX_E_GUEST_STATE, msr_rules[rule].what,
                                         msr_rules[rule].rule, LOADING, v->msr_area[i].index);
        }
    }
    return VIRTX_OK;
}
