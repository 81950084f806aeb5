/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The checks of VM entries on the guest's registers other than segments: Intel SDM "Checks on the
 * Guest State Area".
 */
#include "vmx/check.h"
#include "x86/cpu.h"

#define REGISTERS "Checks on Guest Control Registers, Debug Registers, and MSRs"
#define TABLES    "Checks on Guest Descriptor-Table Registers"
#define FLAGS     "Checks on Guest RIP, RFLAGS, and SSP"

/* ---- Control registers and MSRs ---- */

static bool cr0_fixed(const struct check *c, unsigned arg)
{
    uint64_t fixed0 = c->caps->cr0_fixed0;

    (void)arg;
    if (c->unrestricted)
        fixed0 &= ~(CR0_PE | CR0_PG);
    return !(fixed0 & ~c->cr0) && !(c->cr0 & ~c->caps->cr0_fixed1);
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

static bool perf(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->control[VMX_ENTRY] & ENTRY_LOAD_PERF) ||
           check_perf_global(vmx_vmread(VMCS_GUEST_PERF_GLOBAL));
}

static bool bndcfgs(const struct check *c, unsigned arg)
{
    uint64_t value;

    (void)arg;
    if (!(c->control[VMX_ENTRY] & ENTRY_LOAD_BNDCFGS))
        return true;
    value = vmx_vmread(VMCS_GUEST_BNDCFGS);
    return !(value & 0xffc) && is_canonical(value & ~0xfffull);
}

static bool cet(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->control[VMX_ENTRY] & ENTRY_LOAD_CET) || check_cet(vmx_vmread(VMCS_GUEST_S_CET));
}

static bool cet_canonical(const struct check *c, unsigned field)
{
    return !(c->control[VMX_ENTRY] & ENTRY_LOAD_CET) || is_canonical(vmx_vmread(field));
}

static bool pkrs(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->control[VMX_ENTRY] & ENTRY_LOAD_PKRS) || !(vmx_vmread(VMCS_GUEST_PKRS) >> 32);
}

static bool efer_reserved(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->efer & ~CHECK_EFER);
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

/* ---- Descriptor tables ---- */

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

static bool ssp_low(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->control[VMX_ENTRY] & ENTRY_LOAD_CET) || !(vmx_vmread(VMCS_GUEST_SSP) & 3);
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

static bool rflags_if(const struct check *c, unsigned arg)
{
    (void)arg;
    return !check_interrupting(c) || (c->rflags & RFLAGS_IF);
}

#define CANONICAL "the address must be canonical"

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
    {"guest IA32_PERF_GLOBAL_CTRL", REGISTERS, "reserved bits must be 0", VMCS_GUEST_PERF_GLOBAL,
     perf, 0},
    {"guest IA32_PAT", REGISTERS, "each byte must be a memory type (0, 1, 4, 5, 6, 7)",
     VMCS_GUEST_PAT, pat, 0},
    {"guest IA32_EFER", REGISTERS, "reserved bits must be 0", VMCS_GUEST_EFER, efer_reserved, 0},
    {"guest IA32_EFER", REGISTERS, "LMA must be what the IA-32e mode guest control says",
     VMCS_GUEST_EFER, efer_lma, 0},
    {"guest IA32_EFER", REGISTERS, "LMA must equal LME when CR0.PG is 1", VMCS_GUEST_EFER, efer_lme,
     0},

    {"guest IA32_BNDCFGS", REGISTERS, "reserved bits must be 0 and the address canonical",
     VMCS_GUEST_BNDCFGS, bndcfgs, 0},
    {"guest IA32_S_CET", REGISTERS, CANONICAL, VMCS_GUEST_S_CET, cet_canonical, VMCS_GUEST_S_CET},
    {"guest IA32_S_CET", REGISTERS,
     "reserved bits must be 0, and bits 11 and 10 must not both be 1", VMCS_GUEST_S_CET, cet, 0},
    {"guest interrupt SSP table", REGISTERS, CANONICAL, VMCS_GUEST_SSP_TABLE, cet_canonical,
     VMCS_GUEST_SSP_TABLE},
    {"guest IA32_PKRS", REGISTERS, "bits 63:32 must be 0", VMCS_GUEST_PKRS, pkrs, 0},

    {"guest GDTR", TABLES, CANONICAL, VMCS_GUEST_GDTR_BASE, canonical, VMCS_GUEST_GDTR_BASE},
    {"guest IDTR", TABLES, CANONICAL, VMCS_GUEST_IDTR_BASE, canonical, VMCS_GUEST_IDTR_BASE},
    {"guest GDTR", TABLES, "bits 31:16 of the limit must be 0", VMCS_GUEST_GDTR_LIMIT, table_limit,
     VMCS_GUEST_GDTR_LIMIT},
    {"guest IDTR", TABLES, "bits 31:16 of the limit must be 0", VMCS_GUEST_IDTR_LIMIT, table_limit,
     VMCS_GUEST_IDTR_LIMIT},

    {"guest RIP", FLAGS, "must be canonical in 64-bit mode, else bits 63:32 must be 0",
     VMCS_GUEST_RIP, rip, 0},
    {"guest SSP", FLAGS, CANONICAL, VMCS_GUEST_SSP, cet_canonical, VMCS_GUEST_SSP},
    {"guest SSP", FLAGS, "bits 1:0 must be 0", VMCS_GUEST_SSP, ssp_low, 0},
    {"guest RFLAGS", FLAGS, "reserved bits must be 0 and bit 1 must be 1", VMCS_GUEST_RFLAGS,
     rflags_reserved, 0},
    {"guest RFLAGS", FLAGS, "VM must be 0 in IA-32e mode and in real mode", VMCS_GUEST_RFLAGS,
     rflags_vm, 0},
    {"guest RFLAGS", FLAGS, "IF must be 1 when an external interrupt is injected",
     VMCS_GUEST_RFLAGS, rflags_if, 0},
};
const unsigned vmx_rules_guest_count = ARRAY_SIZE(vmx_rules_guest);
