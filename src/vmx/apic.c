/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The guest's CR8 in the virtual-APIC page (Intel SDM "Virtualizing CR8-Based TPR Accesses").
 *
 * Where the processor has the page it is always in use: what does not exit finds the vcpu's own CR8
 * there, and never the host's.
 */
#include "vmx/vmx.h"

#define VTPR 0x80

enum virtx_status vmx_apic_create(struct vmx_vcpu *v)
{
    struct virtx *virtx = v->hw.vcpu->virtx;

    if (!vmx_has(v, VIRTX_FEATURE_TPR_SHADOW))
        return VIRTX_OK;
    v->virtual_apic = virtx_pages_alloc(virtx, 1);
    if (!v->virtual_apic)
        return virtx_fail(&v->hw.vcpu->vm->error, VIRTX_E_NO_MEMORY, "ops.pages_alloc",
                          "the host has no page for the virtual APIC", 1);
    return VIRTX_OK;
}

void vmx_apic_destroy(struct vmx_vcpu *v)
{
    if (v->virtual_apic)
        virtx_pages_free(v->hw.vcpu->virtx, v->virtual_apic, 1);
    v->virtual_apic = NULL;
}

/* The VMCS is written for the first time. */
void vmx_apic_first(struct vmx_vcpu *v)
{
    if (!v->virtual_apic)
        return;
    vmx_set_field(v, VMCS_VIRTUAL_APIC, virtx_hpa(v->hw.vcpu->virtx, v->virtual_apic));
    vmx_set_field(v, VMCS_TPR_THRESHOLD, 0);
}

/* Which accesses of CR8 exit: a processor without the page has nothing to let through to. */
uint32_t vmx_apic_controls(struct vmx_vcpu *v, const struct hw_controls *c)
{
    uint32_t primary = 0;

    if (!v->virtual_apic)
        return PRIMARY_CR8_LOAD | PRIMARY_CR8_STORE;
    if (c->cr_write & BIT(8))
        primary |= PRIMARY_CR8_LOAD;
    if (c->cr_read & BIT(8))
        primary |= PRIMARY_CR8_STORE;
    if (!c->cr8_shadow)
        vmx_cr8_threshold(&v->hw, 0);
    return primary;
}

uint8_t vmx_tpr(struct hw_vcpu *hv)
{
    return vmx_of(hv)->virtual_apic[VTPR];
}

void vmx_set_tpr(struct hw_vcpu *hv, uint8_t tpr)
{
    struct vmx_vcpu *v = vmx_of(hv);

    if (v->virtual_apic)
        v->virtual_apic[VTPR] = tpr;
}

/* With the other control registers: bits 3:0 of VTPR, which CR8 does not show, go with another
 * class only. */
void vmx_cr8_write(struct vmx_vcpu *v, uint64_t cr8)
{
    if (v->virtual_apic && v->virtual_apic[VTPR] >> 4 != cr8)
        v->virtual_apic[VTPR] = (uint8_t)(cr8 << 4);
}

void vmx_cr8_threshold(struct hw_vcpu *hv, uint8_t threshold)
{
    struct vmx_vcpu *v = vmx_of(hv);

    if (v->tpr_threshold == threshold)
        return;
    v->tpr_threshold = threshold;
    vmx_set_field(v, VMCS_TPR_THRESHOLD, threshold);
}
