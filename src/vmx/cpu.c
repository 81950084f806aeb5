/* SPDX-License-Identifier: BSD-2-Clause */
/* VMX on and off for one CPU: Intel SDM "Enabling and Entering VMX Operation". */
#include "vmx/vmx.h"
#include "x86/cpu.h"

#define BASIC_REVISION 0x7fffffffull

static enum virtx_status unlock(struct virtx_error *error)
{
    uint64_t control = x86_rdmsr(MSR_FEATURE_CONTROL);
    uint64_t wanted = FEATURE_CONTROL_LOCKED | FEATURE_CONTROL_VMXON;

    if (!(control & FEATURE_CONTROL_LOCKED))
        x86_wrmsr(MSR_FEATURE_CONTROL, control | wanted);
    else if (!(control & FEATURE_CONTROL_VMXON))
        return virtx_fail_manual(error, VIRTX_E_LOCKED_OUT, "IA32_FEATURE_CONTROL",
                                 "firmware has disabled VMX", "Enabling and Entering VMX Operation",
                                 control);
    return VIRTX_OK;
}

/* Intel SDM "VMX-Fixed Bits in CR0", "VMX-Fixed Bits in CR4". The library does not set them itself:
 * the host may depend on its own values. */
static enum virtx_status check_fixed(const struct vmx_caps *caps, struct virtx_error *error)
{
    uint64_t cr0 = x86_read_cr0(), cr4 = x86_read_cr4() | CR4_VMXE;

    if ((caps->cr0_fixed0 & ~cr0) || (cr0 & ~caps->cr0_fixed1))
        return virtx_fail_manual(error, VIRTX_E_HOST, "host CR0",
                                 "bits fixed in VMX operation must have their fixed value",
                                 "VMX-Fixed Bits in CR0", cr0);
    if ((caps->cr4_fixed0 & ~cr4) || (cr4 & ~caps->cr4_fixed1))
        return virtx_fail_manual(error, VIRTX_E_HOST, "host CR4",
                                 "bits fixed in VMX operation must have their fixed value",
                                 "VMX-Fixed Bits in CR4", cr4);
    return VIRTX_OK;
}

/* The features were found on the CPU that opened the library; this one must not have fewer. */
static enum virtx_status capable(const struct virtx *virtx, struct vmx_cpu *cpu,
                                 struct virtx_error *error)
{
    uint64_t features = virtx->caps.features, missing;

    vmx_caps_read(&cpu->caps);
    missing = features & ~vmx_caps_hardware(&cpu->caps);
    if (missing)
        return virtx_fail(error, VIRTX_E_UNSUPPORTED, virtx_feature_name(missing & -missing),
                          "this CPU lacks a feature of the one that opened the library", missing);
    return vmx_caps_negotiate(&cpu->caps, features, cpu->base, error);
}

enum virtx_status vmx_cpu_enable(struct virtx *virtx, void *data, struct virtx_error *error)
{
    struct vmx_cpu *cpu = data;
    enum virtx_status status;
    enum vmx_fail fail;
    uint32_t *region;

    if (x86_read_cr4() & CR4_VMXE)
        return virtx_fail(error, VIRTX_E_IN_USE, "CR4.VMXE",
                          "VMX is turned on already by somebody else on this CPU", x86_read_cr4());
    status = unlock(error);
    if (status == VIRTX_OK)
        status = capable(virtx, cpu, error);
    if (status == VIRTX_OK)
        status = check_fixed(&cpu->caps, error);
    if (status != VIRTX_OK)
        return status;
    /* After an emergency the old one is still there. */
    region = cpu->vmxon ? cpu->vmxon : virtx_pages_alloc(virtx, 1);
    cpu->vmxon = NULL;
    if (!region)
        return virtx_fail(error, VIRTX_E_NO_MEMORY, "ops.pages_alloc",
                          "the host has no page for the VMXON region", 1);
    *region = (uint32_t)(cpu->caps.basic & BASIC_REVISION);
    x86_write_cr4(x86_read_cr4() | CR4_VMXE);
    fail = vmx_vmxon(virtx_hpa(virtx, region));
    if (fail != VMX_SUCCEED) {
        x86_write_cr4(x86_read_cr4() & ~CR4_VMXE);
        virtx_pages_free(virtx, region, 1);
        return virtx_fail(error, VIRTX_E_HARDWARE, "VMXON",
                          "the processor refused the VMXON region", fail);
    }
    cpu->vmxon = region;
    cpu->on = true;
    return VIRTX_OK;
}

void vmx_cpu_disable(struct virtx *virtx, void *data)
{
    struct vmx_cpu *cpu = data;

    vmx_cpu_emergency_off(virtx, data);
    if (cpu->vmxon)
        virtx_pages_free(virtx, cpu->vmxon, 1);
    cpu->vmxon = NULL;
}

/* VMXOFF faults outside VMX operation, so it must be ours and on. The VMXON region stays allocated:
 * this may be an NMI in the middle of anything. */
void vmx_cpu_emergency_off(struct virtx *virtx, void *data)
{
    struct vmx_cpu *cpu = data;
    bool on = cpu->on && (x86_read_cr4() & CR4_VMXE);

    (void)virtx;
    cpu->on = false;
    if (!on)
        return;
    vmx_vmxoff();
    x86_write_cr4(x86_read_cr4() & ~CR4_VMXE);
}
