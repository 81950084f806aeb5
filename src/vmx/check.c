/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The judge that applies the rules of VM entries.
 *
 * The processor only says that an entry failed. The rules say why: they are those of the Intel SDM
 * chapter "VM Entries", in its order, so that the first one broken is the one that the processor
 * stopped at.
 */
#include "vmx/check.h"
#include "x86/cpu.h"

void vmx_check_look(const struct vmx_vcpu *v, struct check *c)
{
    memset(c, 0, sizeof(*c));
    c->caps = &v->cpu->caps;
    c->physical_bits = v->hw.vcpu->virtx->caps.physical_bits;
    memcpy(c->control, v->control, sizeof(c->control));
    if (!(c->control[VMX_PRIMARY] & PRIMARY_SECONDARY))
        c->control[VMX_SECONDARY] = 0; /* the processor takes it as 0, whatever it is */
    c->virtx = v->hw.vcpu->virtx;
    c->vmcs_hpa = v->vmcs_hpa;
    c->cr0 = vmx_vmread(VMCS_GUEST_CR0);
    c->cr4 = vmx_vmread(VMCS_GUEST_CR4);
    c->rflags = vmx_vmread(VMCS_GUEST_RFLAGS);
    if (c->control[VMX_ENTRY] & ENTRY_LOAD_EFER)
        c->efer = vmx_vmread(VMCS_GUEST_EFER);
    for (unsigned i = 0; i < VIRTX_SEG_COUNT; i++) {
        c->attributes[i] = (uint32_t)vmx_vmread(vmcs_seg_attributes(i));
        c->selector[i] = (uint16_t)vmx_vmread(vmcs_seg_selector(i));
    }
    c->injection = (uint32_t)vmx_vmread(VMCS_ENTRY_INTERRUPTION);
    c->activity = (uint32_t)vmx_vmread(VMCS_GUEST_ACTIVITY);
    c->interruptibility = (uint32_t)vmx_vmread(VMCS_GUEST_INTERRUPTIBILITY);
    c->unrestricted = c->control[VMX_SECONDARY] & SECONDARY_UNRESTRICTED;
    c->ia32e = c->control[VMX_ENTRY] & ENTRY_IA32E;
}

const struct check_table vmx_check_tables[] = {
    {vmx_rules_controls, &vmx_rules_controls_count, VIRTX_E_CONTROLS, CHECK_CONTROLS},
    {vmx_rules_host, &vmx_rules_host_count, VIRTX_E_HOST_STATE, CHECK_HOST},
    {vmx_rules_guest, &vmx_rules_guest_count, VIRTX_E_GUEST_STATE, CHECK_GUEST},
    {vmx_rules_segments, &vmx_rules_segments_count, VIRTX_E_GUEST_STATE, CHECK_GUEST},
    {vmx_rules_state, &vmx_rules_state_count, VIRTX_E_GUEST_STATE, CHECK_GUEST},
};
const unsigned vmx_check_table_count = ARRAY_SIZE(vmx_check_tables);

static enum virtx_status apply(const struct check *c, const struct check_table *table,
                               struct virtx_error *error)
{
    for (unsigned i = 0; i < *table->count; i++) {
        const struct check_rule *rule = &table->rules[i];

        if (!rule->holds(c, rule->arg))
            return virtx_fail_manual(error, table->broken, rule->what, rule->rule, rule->manual,
                                     vmx_vmread(rule->field));
    }
    return VIRTX_OK;
}

/* IA32_PERF_GLOBAL_CTRL has a bit for each counter that CPUID leaf 10 tells of. */
bool check_perf_global(uint64_t value)
{
    struct cpuid_regs perf = {0};
    unsigned general, fixed;

    if (x86_cpuid(0, 0).eax >= 10)
        perf = x86_cpuid(10, 0);
    general = perf.eax >> 8 & 0xff;
    fixed = perf.edx & 0x1f;
    if (general > 32)
        general = 32;
    return !(value & ~(BIT(general) - 1) & ~((BIT(fixed) - 1) << 32));
}

/* The VMCS is current. `which`: CHECK_*. */
enum virtx_status vmx_check_entry(const struct vmx_vcpu *v, struct virtx_error *error,
                                  uint32_t which)
{
    struct check c;

    vmx_check_look(v, &c);
    for (unsigned i = 0; i < vmx_check_table_count; i++) {
        enum virtx_status status;

        if (!(which & vmx_check_tables[i].part))
            continue;
        status = apply(&c, &vmx_check_tables[i], error);
        if (status != VIRTX_OK)
            return status;
    }
    return which & CHECK_MSRS ? vmx_check_msrs(v, error) : VIRTX_OK;
}

enum virtx_status vmx_check(struct hw_vcpu *hv, struct virtx_error *error)
{
    struct vmx_vcpu *v = vmx_of(hv);

    vmx_write(v, hv->dirty & VIRTX_STATE_ALL);
    hv->dirty &= ~(uint32_t)VIRTX_STATE_ALL;
    return vmx_check_entry(v, error, CHECK_GUEST);
}

/* Intel SDM "VM Instruction Error Numbers". */
const char *vmx_instruction_error(uint32_t number)
{
    static const char *const texts[] = {
        [1] = "VMCALL executed in VMX root operation",
        [2] = "VMCLEAR with an invalid physical address",
        [3] = "VMCLEAR with the VMXON pointer",
        [4] = "VMLAUNCH with a VMCS that is not clear",
        [5] = "VMRESUME with a VMCS that is not launched",
        [6] = "VMRESUME after VMXOFF and VMXON",
        [7] = "VM entry with invalid control fields",
        [8] = "VM entry with invalid host-state fields",
        [9] = "VMPTRLD with an invalid physical address",
        [10] = "VMPTRLD with the VMXON pointer",
        [11] = "VMPTRLD with an incorrect VMCS revision identifier",
        [12] = "VMREAD or VMWRITE of a component that the processor does not have",
        [13] = "VMWRITE to a read-only component",
        [15] = "VMXON in VMX root operation",
        [16] = "VM entry with an invalid executive-VMCS pointer",
        [17] = "VM entry with an executive VMCS that is not launched",
        [18] = "VM entry with an executive-VMCS pointer that is not the VMXON pointer",
        [19] = "VMCALL with a VMCS that is not clear",
        [20] = "VMCALL with invalid VM-exit control fields",
        [22] = "VMCALL with an incorrect MSEG revision identifier",
        [23] = "VMXOFF under dual-monitor treatment of SMIs and SMM",
        [24] = "VMCALL with invalid SMM-monitor features",
        [25] = "VM entry with invalid VM-execution control fields in the executive VMCS",
        [26] = "VM entry with events blocked by MOV SS",
        [28] = "INVEPT or INVVPID with an invalid operand",
    };

    if (number < ARRAY_SIZE(texts) && texts[number])
        return texts[number];
    return "VM-instruction error that the manual does not list";
}
