/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The checks of VM entries on the guest-state area: Intel SDM "Checks on the Guest State Area", in
 * its order.
 */
#include "vmx/check.h"

#define REGISTERS "Checks on Guest Control Registers, Debug Registers, and MSRs"
#define SEGMENTS  "Checks on Guest Segment Registers"
#define TABLES    "Checks on Guest Descriptor-Table Registers"
#define FLAGS     "Checks on Guest RIP, RFLAGS, and SSP"
#define OTHER     "Checks on Guest Non-Register State"
#define PDPTES    "Checks on Guest Page-Directory-Pointer-Table Entries"

/* ---- Control registers and MSRs ---- */

static bool cr0_fixed(const struct check *c, unsigned arg)
{
    uint64_t fixed0 = c->caps->cr0_fixed0;

    (void)arg;
    if (c->unrestricted)
        fixed0 &= ~(CR0_PE | CR0_PG);
    return !(fixed0 & ~c->cr0) && !((uint32_t)c->cr0 & ~(uint32_t)c->caps->cr0_fixed1);
}

static bool paging_protected(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->cr0 & CR0_PG) || (c->cr0 & CR0_PE);
}

static bool cr4_fixed(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->caps->cr4_fixed0 & ~c->cr4) && !(c->cr4 & ~c->caps->cr4_fixed1);
}

static bool cet_wp(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->cr4 & CR4_CET) || (c->cr0 & CR0_WP);
}

static bool debugctl(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->control[VMX_ENTRY] & ENTRY_LOAD_DEBUG) ||
           !(vmx_vmread(VMCS_GUEST_DEBUGCTL) & ~0xffc3ull);
}

static bool ia32e_paging(const struct check *c, unsigned arg)
{
    (void)arg;
    return !c->ia32e || ((c->cr0 & CR0_PG) && (c->cr4 & CR4_PAE));
}

static bool pcid_ia32e(const struct check *c, unsigned arg)
{
    (void)arg;
    return c->ia32e || !(c->cr4 & CR4_PCIDE);
}

static bool cr3_width(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(vmx_vmread(VMCS_GUEST_CR3) & check_beyond(c));
}

static bool dr7_width(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->control[VMX_ENTRY] & ENTRY_LOAD_DEBUG) || !(vmx_vmread(VMCS_GUEST_DR7) >> 32);
}

static bool canonical(const struct check *c, unsigned field)
{
    (void)c;
    return is_canonical(vmx_vmread(field));
}

static bool pat(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->control[VMX_ENTRY] & ENTRY_LOAD_PAT) || check_pat(vmx_vmread(VMCS_GUEST_PAT));
}

static bool efer_reserved(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->efer & ~(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE));
}

static bool efer_lma(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->control[VMX_ENTRY] & ENTRY_LOAD_EFER) || !!(c->efer & EFER_LMA) == c->ia32e;
}

static bool efer_lme(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->control[VMX_ENTRY] & ENTRY_LOAD_EFER) || !(c->cr0 & CR0_PG) ||
           !(c->efer & EFER_LMA) == !(c->efer & EFER_LME);
}

/* ---- Segments ---- */

static bool v86(const struct check *c)
{
    return c->rflags & RFLAGS_VM;
}

static bool usable(const struct check *c, unsigned seg)
{
    return !(c->attributes[seg] & VIRTX_SEG_UNUSABLE);
}

static unsigned type(const struct check *c, unsigned seg)
{
    return c->attributes[seg] & VIRTX_SEG_TYPE;
}

static unsigned dpl(const struct check *c, unsigned seg)
{
    return (c->attributes[seg] & VIRTX_SEG_DPL) >> VIRTX_SEG_DPL_SHIFT;
}

static bool tr_ti(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->selector[VIRTX_TR] & 4);
}

static bool ldtr_ti(const struct check *c, unsigned arg)
{
    (void)arg;
    return !usable(c, VIRTX_LDTR) || !(c->selector[VIRTX_LDTR] & 4);
}

static bool ss_rpl(const struct check *c, unsigned arg)
{
    (void)arg;
    return v86(c) || c->unrestricted || (c->selector[VIRTX_SS] & 3) == (c->selector[VIRTX_CS] & 3);
}

static bool v86_base(const struct check *c, unsigned seg)
{
    return !v86(c) || vmx_vmread(vmcs_seg_base(seg)) == (uint64_t)c->selector[seg] << 4;
}

static bool v86_limit(const struct check *c, unsigned seg)
{
    return !v86(c) || vmx_vmread(vmcs_seg_limit(seg)) == 0xffff;
}

static bool v86_rights(const struct check *c, unsigned seg)
{
    return !v86(c) || c->attributes[seg] == 0xf3;
}

static bool base_canonical(const struct check *c, unsigned seg)
{
    return (seg == VIRTX_LDTR && !usable(c, seg)) || is_canonical(vmx_vmread(vmcs_seg_base(seg)));
}

static bool base_low(const struct check *c, unsigned seg)
{
    return (seg != VIRTX_CS && !usable(c, seg)) || !(vmx_vmread(vmcs_seg_base(seg)) >> 32);
}

static bool cs_type(const struct check *c, unsigned arg)
{
    unsigned t = type(c, VIRTX_CS);

    (void)arg;
    return v86(c) || ((t & 9) == 9) || (c->unrestricted && t == 3);
}

static bool ss_type(const struct check *c, unsigned arg)
{
    (void)arg;
    return v86(c) || !usable(c, VIRTX_SS) || type(c, VIRTX_SS) == 3 || type(c, VIRTX_SS) == 7;
}

static bool data_type(const struct check *c, unsigned seg)
{
    unsigned t = type(c, seg);

    return v86(c) || !usable(c, seg) || ((t & 1) && (!(t & 8) || (t & 2)));
}

/* CS is always judged, the others when usable. */
static bool judged(const struct check *c, unsigned seg)
{
    return !v86(c) && (seg == VIRTX_CS || usable(c, seg));
}

static bool code_or_data(const struct check *c, unsigned seg)
{
    return !judged(c, seg) || (c->attributes[seg] & VIRTX_SEG_S);
}

static bool cs_dpl(const struct check *c, unsigned arg)
{
    unsigned t = type(c, VIRTX_CS);

    (void)arg;
    if (v86(c))
        return true;
    if (t == 3)
        return dpl(c, VIRTX_CS) == 0;
    if (t == 9 || t == 11)
        return dpl(c, VIRTX_CS) == dpl(c, VIRTX_SS);
    return dpl(c, VIRTX_CS) <= dpl(c, VIRTX_SS);
}

static bool ss_dpl(const struct check *c, unsigned arg)
{
    (void)arg;
    return v86(c) || c->unrestricted || dpl(c, VIRTX_SS) == (c->selector[VIRTX_SS] & 3u);
}

static bool ss_dpl_real(const struct check *c, unsigned arg)
{
    (void)arg;
    return v86(c) || (type(c, VIRTX_CS) != 3 && (c->cr0 & CR0_PE)) || dpl(c, VIRTX_SS) == 0;
}

static bool data_dpl(const struct check *c, unsigned seg)
{
    return v86(c) || c->unrestricted || !usable(c, seg) || type(c, seg) > 11 ||
           dpl(c, seg) >= (c->selector[seg] & 3u);
}

static bool present(const struct check *c, unsigned seg)
{
    return !judged(c, seg) || (c->attributes[seg] & VIRTX_SEG_P);
}

static bool reserved(const struct check *c, unsigned seg)
{
    return !judged(c, seg) || !(c->attributes[seg] & 0xfffe0f00);
}

static bool cs_db(const struct check *c, unsigned arg)
{
    (void)arg;
    return v86(c) || !c->ia32e || !(c->attributes[VIRTX_CS] & VIRTX_SEG_L) ||
           !(c->attributes[VIRTX_CS] & VIRTX_SEG_DB);
}

static bool granular(const struct check *c, unsigned seg)
{
    uint64_t limit = vmx_vmread(vmcs_seg_limit(seg));

    if ((limit & 0xfff) != 0xfff && (c->attributes[seg] & VIRTX_SEG_G))
        return false;
    return !(limit & 0xfff00000) || (c->attributes[seg] & VIRTX_SEG_G);
}

static bool granularity(const struct check *c, unsigned seg)
{
    if (seg == VIRTX_TR)
        return granular(c, seg);
    if (seg == VIRTX_LDTR)
        return !usable(c, seg) || granular(c, seg);
    return !judged(c, seg) || granular(c, seg);
}

static bool tr_type(const struct check *c, unsigned arg)
{
    (void)arg;
    return type(c, VIRTX_TR) == 11 || (!c->ia32e && type(c, VIRTX_TR) == 3);
}

static bool tr_usable(const struct check *c, unsigned arg)
{
    (void)arg;
    return usable(c, VIRTX_TR);
}

static bool ldtr_type(const struct check *c, unsigned arg)
{
    (void)arg;
    return !usable(c, VIRTX_LDTR) || type(c, VIRTX_LDTR) == 2;
}

/* S is 0, P is 1, reserved bits are 0: what system segments have in common. */
static bool system_rights(const struct check *c, unsigned seg)
{
    if (seg == VIRTX_LDTR && !usable(c, seg))
        return true;
    return !(c->attributes[seg] & VIRTX_SEG_S) && (c->attributes[seg] & VIRTX_SEG_P) &&
           !(c->attributes[seg] & 0xfffe0f00);
}

static bool table_limit(const struct check *c, unsigned field)
{
    (void)c;
    return !(vmx_vmread(field) >> 16);
}

/* ---- RIP, RFLAGS ---- */

static bool rip(const struct check *c, unsigned arg)
{
    uint64_t value = vmx_vmread(VMCS_GUEST_RIP);

    (void)arg;
    if (c->ia32e && (c->attributes[VIRTX_CS] & VIRTX_SEG_L))
        return is_canonical(value);
    return !(value >> 32);
}

static bool rflags_reserved(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->rflags & 0xffffffffffc08028) && (c->rflags & RFLAGS_FIXED);
}

static bool rflags_vm(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->rflags & RFLAGS_VM) || (!c->ia32e && (c->cr0 & CR0_PE));
}

static bool interrupting(const struct check *c)
{
    return (c->injection & (INTERRUPTION_VALID | INTERRUPTION_TYPE)) == INTERRUPTION_VALID;
}

static bool injecting_nmi(const struct check *c)
{
    return (c->injection & (INTERRUPTION_VALID | INTERRUPTION_TYPE)) ==
           (INTERRUPTION_VALID | VIRTX_EVENT_NMI << INTERRUPTION_TYPE_SHIFT);
}

static bool rflags_if(const struct check *c, unsigned arg)
{
    (void)arg;
    return !interrupting(c) || (c->rflags & RFLAGS_IF);
}

/* ---- Non-register state ---- */

#define BLOCKED_STI       VIRTX_BLOCKED_BY_STI
#define BLOCKED_MOV_SS    VIRTX_BLOCKED_BY_MOV_SS
#define BLOCKED_SMI       (1u << 2)
#define BLOCKED_NMI       VIRTX_BLOCKED_BY_NMI
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
    return c->activity != ACTIVITY_HLT || dpl(c, VIRTX_SS) == 0;
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
    return !interrupting(c) || !(c->interruptibility & BLOCKED_SHADOW);
}

static bool blocking_nmi_shadow(const struct check *c, unsigned arg)
{
    (void)arg;
    return !injecting_nmi(c) || !(c->interruptibility & BLOCKED_SHADOW);
}

static bool blocking_smi(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->interruptibility & BLOCKED_SMI);
}

static bool blocking_virtual_nmi(const struct check *c, unsigned arg)
{
    (void)arg;
    return !injecting_nmi(c) || !(c->control[VMX_PIN] & PIN_VIRTUAL_NMI) ||
           !(c->interruptibility & BLOCKED_NMI);
}

static bool debug_reserved(const struct check *c, unsigned arg)
{
    (void)c;
    (void)arg;
    return !(vmx_vmread(VMCS_GUEST_PENDING_DEBUG) & 0xfffffffffffeaff0);
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

static bool link_pointer(const struct check *c, unsigned arg)
{
    (void)c;
    (void)arg;
    return vmx_vmread(VMCS_LINK_POINTER) == UINT64_MAX;
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

#define CANONICAL "the address must be canonical"
#define HIGH      "bits 63:32 of the base must be 0"
#define V86_BASE  "in virtual-8086 mode the base must be the selector times 16"
#define V86_LIMIT "in virtual-8086 mode the limit must be 0xffff"
#define V86_RIGHT "in virtual-8086 mode the access rights must be 0xf3"
#define DATA_TYPE "a usable segment must be accessed, and readable if it is code"
#define S_BIT     "S (descriptor type) must be 1"
#define DATA_DPL  "DPL of data or non-conforming code must not be below the selector's RPL"
#define P_BIT     "P must be 1"
#define RESERVED  "reserved bits of the access rights must be 0"
#define G_BIT     "G must be 0 if any of limit bits 11:0 is 0, 1 if any of limit bits 31:20 is 1"
#define SYSTEM    "S must be 0, P 1 and the reserved bits 0"
#define PDPTE     "reserved bits of a present entry must be 0"

#define SEGMENT(name, seg, field, predicate, sentence)                                             \
    {                                                                                              \
        "guest " name, SEGMENTS, sentence, field + 2 * (seg), predicate, seg                       \
    }
/* A rule that holds for all six registers. */
#define SIX(field, predicate, sentence)                                                            \
    SEGMENT("CS", VIRTX_CS, field, predicate, sentence),                                           \
        SEGMENT("SS", VIRTX_SS, field, predicate, sentence),                                       \
        SEGMENT("DS", VIRTX_DS, field, predicate, sentence),                                       \
        SEGMENT("ES", VIRTX_ES, field, predicate, sentence),                                       \
        SEGMENT("FS", VIRTX_FS, field, predicate, sentence),                                       \
        SEGMENT("GS", VIRTX_GS, field, predicate, sentence)
#define FOUR(field, predicate, sentence)                                                           \
    SEGMENT("DS", VIRTX_DS, field, predicate, sentence),                                           \
        SEGMENT("ES", VIRTX_ES, field, predicate, sentence),                                       \
        SEGMENT("FS", VIRTX_FS, field, predicate, sentence),                                       \
        SEGMENT("GS", VIRTX_GS, field, predicate, sentence)
#define SELECTORS VMCS_GUEST_ES_SELECTOR
#define BASES     VMCS_GUEST_ES_BASE
#define LIMITS    VMCS_GUEST_ES_LIMIT
#define RIGHTS    VMCS_GUEST_ES_ATTRIBUTES

const struct check_rule vmx_rules_guest[] = {
    {"guest CR0", REGISTERS,
     "bits fixed in VMX operation must have their fixed value (PE and PG only without unrestricted "
     "guest)",
     VMCS_GUEST_CR0, cr0_fixed, 0},
    {"guest CR0", REGISTERS, "PG needs PE", VMCS_GUEST_CR0, paging_protected, 0},
    {"guest CR4", REGISTERS, "bits fixed in VMX operation must have their fixed value",
     VMCS_GUEST_CR4, cr4_fixed, 0},
    {"guest CR4", REGISTERS, "CET needs CR0.WP", VMCS_GUEST_CR4, cet_wp, 0},
    {"guest IA32_DEBUGCTL", REGISTERS, "reserved bits must be 0", VMCS_GUEST_DEBUGCTL, debugctl, 0},
    {"IA-32e mode guest", REGISTERS, "needs CR0.PG and CR4.PAE", VMCS_GUEST_CR0, ia32e_paging, 0},
    {"guest CR4", REGISTERS, "PCIDE must be 0 outside IA-32e mode", VMCS_GUEST_CR4, pcid_ia32e, 0},
    {"guest CR3", REGISTERS, "must not exceed the physical-address width", VMCS_GUEST_CR3,
     cr3_width, 0},
    {"guest DR7", REGISTERS, "bits 63:32 must be 0", VMCS_GUEST_DR7, dr7_width, 0},
    {"guest IA32_SYSENTER_ESP", REGISTERS, CANONICAL, VMCS_GUEST_SYSENTER_ESP, canonical,
     VMCS_GUEST_SYSENTER_ESP},
    {"guest IA32_SYSENTER_EIP", REGISTERS, CANONICAL, VMCS_GUEST_SYSENTER_EIP, canonical,
     VMCS_GUEST_SYSENTER_EIP},
    {"guest IA32_PAT", REGISTERS, "each byte must be a memory type (0, 1, 4, 5, 6, 7)",
     VMCS_GUEST_PAT, pat, 0},
    {"guest IA32_EFER", REGISTERS, "reserved bits must be 0", VMCS_GUEST_EFER, efer_reserved, 0},
    {"guest IA32_EFER", REGISTERS, "LMA must be what the IA-32e mode guest control says",
     VMCS_GUEST_EFER, efer_lma, 0},
    {"guest IA32_EFER", REGISTERS, "LMA must equal LME when CR0.PG is 1", VMCS_GUEST_EFER, efer_lme,
     0},

    SEGMENT("TR", VIRTX_TR, SELECTORS, tr_ti, "TI of the selector must be 0"),
    SEGMENT("LDTR", VIRTX_LDTR, SELECTORS, ldtr_ti, "TI of the selector must be 0"),
    SEGMENT("SS", VIRTX_SS, SELECTORS, ss_rpl, "RPL must be that of CS without unrestricted guest"),
    SIX(BASES, v86_base, V86_BASE),
    SEGMENT("TR", VIRTX_TR, BASES, base_canonical, CANONICAL),
    SEGMENT("FS", VIRTX_FS, BASES, base_canonical, CANONICAL),
    SEGMENT("GS", VIRTX_GS, BASES, base_canonical, CANONICAL),
    SEGMENT("LDTR", VIRTX_LDTR, BASES, base_canonical, CANONICAL),
    SEGMENT("CS", VIRTX_CS, BASES, base_low, HIGH),
    SEGMENT("SS", VIRTX_SS, BASES, base_low, HIGH),
    SEGMENT("DS", VIRTX_DS, BASES, base_low, HIGH),
    SEGMENT("ES", VIRTX_ES, BASES, base_low, HIGH),
    SIX(LIMITS, v86_limit, V86_LIMIT),
    SIX(RIGHTS, v86_rights, V86_RIGHT),
    SEGMENT("CS", VIRTX_CS, RIGHTS, cs_type,
            "the type must be accessed code (or 3 with unrestricted guest)"),
    SEGMENT("SS", VIRTX_SS, RIGHTS, ss_type, "the type must be accessed writable data (3 or 7)"),
    FOUR(RIGHTS, data_type, DATA_TYPE),
    SIX(RIGHTS, code_or_data, S_BIT),
    SEGMENT("CS", VIRTX_CS, RIGHTS, cs_dpl,
            "DPL must be 0 for type 3, SS's for non-conforming code, at most SS's for conforming"),
    SEGMENT("SS", VIRTX_SS, RIGHTS, ss_dpl,
            "DPL must be the selector's RPL without unrestricted guest"),
    SEGMENT("SS", VIRTX_SS, RIGHTS, ss_dpl_real,
            "DPL must be 0 in real mode or when CS has type 3"),
    FOUR(RIGHTS, data_dpl, DATA_DPL),
    SIX(RIGHTS, present, P_BIT),
    SIX(RIGHTS, reserved, RESERVED),
    SEGMENT("CS", VIRTX_CS, RIGHTS, cs_db, "D must be 0 in 64-bit mode"),
    SIX(RIGHTS, granularity, G_BIT),
    SEGMENT("TR", VIRTX_TR, RIGHTS, tr_usable, "must be usable"),
    SEGMENT("TR", VIRTX_TR, RIGHTS, tr_type,
            "the type must be a busy TSS: 11, or 3 outside IA-32e mode"),
    SEGMENT("TR", VIRTX_TR, RIGHTS, system_rights, SYSTEM),
    SEGMENT("TR", VIRTX_TR, RIGHTS, granularity, G_BIT),
    SEGMENT("LDTR", VIRTX_LDTR, RIGHTS, ldtr_type, "the type must be 2"),
    SEGMENT("LDTR", VIRTX_LDTR, RIGHTS, system_rights, SYSTEM),
    SEGMENT("LDTR", VIRTX_LDTR, RIGHTS, granularity, G_BIT),

    {"guest GDTR", TABLES, CANONICAL, VMCS_GUEST_GDTR_BASE, canonical, VMCS_GUEST_GDTR_BASE},
    {"guest IDTR", TABLES, CANONICAL, VMCS_GUEST_IDTR_BASE, canonical, VMCS_GUEST_IDTR_BASE},
    {"guest GDTR", TABLES, "bits 31:16 of the limit must be 0", VMCS_GUEST_GDTR_LIMIT, table_limit,
     VMCS_GUEST_GDTR_LIMIT},
    {"guest IDTR", TABLES, "bits 31:16 of the limit must be 0", VMCS_GUEST_IDTR_LIMIT, table_limit,
     VMCS_GUEST_IDTR_LIMIT},

    {"guest RIP", FLAGS, "must be canonical in 64-bit mode, else bits 63:32 must be 0",
     VMCS_GUEST_RIP, rip, 0},
    {"guest RFLAGS", FLAGS, "reserved bits must be 0 and bit 1 must be 1", VMCS_GUEST_RFLAGS,
     rflags_reserved, 0},
    {"guest RFLAGS", FLAGS, "VM must be 0 in IA-32e mode and in real mode", VMCS_GUEST_RFLAGS,
     rflags_vm, 0},
    {"guest RFLAGS", FLAGS, "IF must be 1 when an external interrupt is injected",
     VMCS_GUEST_RFLAGS, rflags_if, 0},

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
    {"guest interruptibility state", OTHER, "a virtual NMI cannot be injected while one is handled",
     VMCS_GUEST_INTERRUPTIBILITY, blocking_virtual_nmi, 0},
    {"guest pending debug exceptions", OTHER, "reserved bits must be 0", VMCS_GUEST_PENDING_DEBUG,
     debug_reserved, 0},
    {"guest pending debug exceptions", OTHER,
     "in an interrupt shadow or HLT, BS must be 1 exactly when RFLAGS.TF is 1 and DEBUGCTL.BTF 0",
     VMCS_GUEST_PENDING_DEBUG, debug_step, 0},
    {"VMCS link pointer", OTHER, "must be all ones without VMCS shadowing", VMCS_LINK_POINTER,
     link_pointer, 0},

    {"guest PDPTE 0", PDPTES, PDPTE, VMCS_GUEST_PDPTE0, pdpte, 0},
    {"guest PDPTE 1", PDPTES, PDPTE, VMCS_GUEST_PDPTE0 + 2, pdpte, 1},
    {"guest PDPTE 2", PDPTES, PDPTE, VMCS_GUEST_PDPTE0 + 4, pdpte, 2},
    {"guest PDPTE 3", PDPTES, PDPTE, VMCS_GUEST_PDPTE0 + 6, pdpte, 3},
};
const unsigned vmx_rules_guest_count = ARRAY_SIZE(vmx_rules_guest);
