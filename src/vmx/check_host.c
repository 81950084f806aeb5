/* SPDX-License-Identifier: BSD-2-Clause */
/* The checks of VM entries on the host state: Intel SDM "Checks on Host-State Area", in its order.
 */
#include "vmx/check.h"

#define HOST_REGISTERS "Checks on Host Control Registers, MSRs, and SSP"
#define HOST_SEGMENTS  "Checks on Host Segment and Descriptor-Table Registers"
#define HOST_WIDTH     "Checks Related to Address-Space Size"

static bool host_cr0(const struct check *c, unsigned arg)
{
    uint64_t cr0 = vmx_vmread(VMCS_HOST_CR0);

    (void)arg;
    return !(c->caps->cr0_fixed0 & ~cr0) && !(cr0 & ~c->caps->cr0_fixed1);
}

static bool host_cr4(const struct check *c, unsigned arg)
{
    uint64_t cr4 = vmx_vmread(VMCS_HOST_CR4);

    (void)arg;
    return !(c->caps->cr4_fixed0 & ~cr4) && !(cr4 & ~c->caps->cr4_fixed1);
}

static bool host_cet_wp(const struct check *c, unsigned arg)
{
    (void)c;
    (void)arg;
    return !(vmx_vmread(VMCS_HOST_CR4) & CR4_CET) || (vmx_vmread(VMCS_HOST_CR0) & CR0_WP);
}

static bool host_cr3(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(vmx_vmread(VMCS_HOST_CR3) & check_beyond(c));
}

static bool canonical(const struct check *c, unsigned field)
{
    (void)c;
    return is_canonical(vmx_vmread(field));
}

static bool host_pat(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->control[VMX_EXIT] & EXIT_LOAD_PAT) || check_pat(vmx_vmread(VMCS_HOST_PAT));
}

static bool host_perf(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->control[VMX_EXIT] & EXIT_LOAD_PERF) ||
           check_perf_global(vmx_vmread(VMCS_HOST_PERF_GLOBAL));
}

static bool host_efer_reserved(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->control[VMX_EXIT] & EXIT_LOAD_EFER) || !(vmx_vmread(VMCS_HOST_EFER) & ~CHECK_EFER);
}

static bool host_cet(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->control[VMX_EXIT] & EXIT_LOAD_CET) || check_cet(vmx_vmread(VMCS_HOST_S_CET));
}

static bool host_cet_canonical(const struct check *c, unsigned field)
{
    return !(c->control[VMX_EXIT] & EXIT_LOAD_CET) || is_canonical(vmx_vmread(field));
}

static bool host_ssp(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->control[VMX_EXIT] & EXIT_LOAD_CET) || !(vmx_vmread(VMCS_HOST_SSP) & 3);
}

static bool host_pkrs(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->control[VMX_EXIT] & EXIT_LOAD_PKRS) || !(vmx_vmread(VMCS_HOST_PKRS) >> 32);
}

static bool host_efer(const struct check *c, unsigned arg)
{
    uint64_t long_mode = EFER_LMA | EFER_LME;
    uint64_t wanted = c->control[VMX_EXIT] & EXIT_HOST_64 ? long_mode : 0;

    (void)arg;
    return !(c->control[VMX_EXIT] & EXIT_LOAD_EFER) ||
           (vmx_vmread(VMCS_HOST_EFER) & long_mode) == wanted;
}

static bool host_selector(const struct check *c, unsigned field)
{
    (void)c;
    return !(vmx_vmread(field) & 7);
}

static bool not_null(const struct check *c, unsigned field)
{
    (void)c;
    return vmx_vmread(field) != 0;
}

static bool host_64(const struct check *c, unsigned arg)
{
    (void)arg;
    return c->control[VMX_EXIT] & EXIT_HOST_64;
}

static bool host_pae(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->control[VMX_EXIT] & EXIT_HOST_64) || (vmx_vmread(VMCS_HOST_CR4) & CR4_PAE);
}

#define FIXED     "bits fixed in VMX operation must have their fixed value"
#define CANONICAL "the address must be canonical"
#define SELECTOR  "RPL and TI of the selector must be 0"
#define NOT_NULL  "the selector must not be null"

const struct check_rule vmx_rules_host[] = {
    {"host CR0", HOST_REGISTERS, FIXED, VMCS_HOST_CR0, host_cr0, 0},
    {"host CR4", HOST_REGISTERS, FIXED, VMCS_HOST_CR4, host_cr4, 0},
    {"host CR4", HOST_REGISTERS, "CET needs CR0.WP", VMCS_HOST_CR4, host_cet_wp, 0},
    {"host CR3", HOST_REGISTERS, "must not exceed the physical-address width", VMCS_HOST_CR3,
     host_cr3, 0},
    {"host IA32_SYSENTER_ESP", HOST_REGISTERS, CANONICAL, VMCS_HOST_SYSENTER_ESP, canonical,
     VMCS_HOST_SYSENTER_ESP},
    {"host IA32_SYSENTER_EIP", HOST_REGISTERS, CANONICAL, VMCS_HOST_SYSENTER_EIP, canonical,
     VMCS_HOST_SYSENTER_EIP},
    {"host IA32_PERF_GLOBAL_CTRL", HOST_REGISTERS, "reserved bits must be 0", VMCS_HOST_PERF_GLOBAL,
     host_perf, 0},
    {"host IA32_PAT", HOST_REGISTERS, "each byte must be a memory type (0, 1, 4, 5, 6, 7)",
     VMCS_HOST_PAT, host_pat, 0},
    {"host IA32_EFER", HOST_REGISTERS, "reserved bits must be 0", VMCS_HOST_EFER,
     host_efer_reserved, 0},
    {"host IA32_EFER", HOST_REGISTERS, "LMA and LME must agree with host address-space size",
     VMCS_HOST_EFER, host_efer, 0},
    {"host IA32_S_CET", HOST_REGISTERS, CANONICAL, VMCS_HOST_S_CET, host_cet_canonical,
     VMCS_HOST_S_CET},
    {"host IA32_S_CET", HOST_REGISTERS,
     "reserved bits must be 0, and bits 11 and 10 must not both be 1", VMCS_HOST_S_CET, host_cet,
     0},
    {"host SSP", HOST_REGISTERS, CANONICAL, VMCS_HOST_SSP, host_cet_canonical, VMCS_HOST_SSP},
    {"host SSP", HOST_REGISTERS, "bits 1:0 must be 0", VMCS_HOST_SSP, host_ssp, 0},
    {"host interrupt SSP table", HOST_REGISTERS, CANONICAL, VMCS_HOST_SSP_TABLE, host_cet_canonical,
     VMCS_HOST_SSP_TABLE},
    {"host IA32_PKRS", HOST_REGISTERS, "bits 63:32 must be 0", VMCS_HOST_PKRS, host_pkrs, 0},
    {"host ES", HOST_SEGMENTS, SELECTOR, VMCS_HOST_ES_SELECTOR, host_selector,
     VMCS_HOST_ES_SELECTOR},
    {"host CS", HOST_SEGMENTS, SELECTOR, VMCS_HOST_CS_SELECTOR, host_selector,
     VMCS_HOST_CS_SELECTOR},
    {"host SS", HOST_SEGMENTS, SELECTOR, VMCS_HOST_SS_SELECTOR, host_selector,
     VMCS_HOST_SS_SELECTOR},
    {"host DS", HOST_SEGMENTS, SELECTOR, VMCS_HOST_DS_SELECTOR, host_selector,
     VMCS_HOST_DS_SELECTOR},
    {"host FS", HOST_SEGMENTS, SELECTOR, VMCS_HOST_FS_SELECTOR, host_selector,
     VMCS_HOST_FS_SELECTOR},
    {"host GS", HOST_SEGMENTS, SELECTOR, VMCS_HOST_GS_SELECTOR, host_selector,
     VMCS_HOST_GS_SELECTOR},
    {"host TR", HOST_SEGMENTS, SELECTOR, VMCS_HOST_TR_SELECTOR, host_selector,
     VMCS_HOST_TR_SELECTOR},
    {"host CS", HOST_SEGMENTS, NOT_NULL, VMCS_HOST_CS_SELECTOR, not_null, VMCS_HOST_CS_SELECTOR},
    {"host TR", HOST_SEGMENTS, NOT_NULL, VMCS_HOST_TR_SELECTOR, not_null, VMCS_HOST_TR_SELECTOR},
    {"host FS base", HOST_SEGMENTS, CANONICAL, VMCS_HOST_FS_BASE, canonical, VMCS_HOST_FS_BASE},
    {"host GS base", HOST_SEGMENTS, CANONICAL, VMCS_HOST_GS_BASE, canonical, VMCS_HOST_GS_BASE},
    {"host TR base", HOST_SEGMENTS, CANONICAL, VMCS_HOST_TR_BASE, canonical, VMCS_HOST_TR_BASE},
    {"host GDTR base", HOST_SEGMENTS, CANONICAL, VMCS_HOST_GDTR_BASE, canonical,
     VMCS_HOST_GDTR_BASE},
    {"host IDTR base", HOST_SEGMENTS, CANONICAL, VMCS_HOST_IDTR_BASE, canonical,
     VMCS_HOST_IDTR_BASE},
    {"host address-space size", HOST_WIDTH, "must be 1 when the host is in 64-bit mode", VMCS_EXIT,
     host_64, 0},
    {"host CR4.PAE", HOST_WIDTH, "must be 1 for a 64-bit host", VMCS_HOST_CR4, host_pae, 0},
    {"host RIP", HOST_WIDTH, CANONICAL, VMCS_HOST_RIP, canonical, VMCS_HOST_RIP},
};
const unsigned vmx_rules_host_count = ARRAY_SIZE(vmx_rules_host);
