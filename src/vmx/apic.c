/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The virtual-APIC page (Intel SDM chapter "APIC Virtualization and Virtual Interrupts").
 *
 * Where the processor has the page it is always in use: what does not exit finds the vcpu's own CR8
 * there, and never the host's. A local APIC may have all of its registers in it (hw_controls.apic).
 */
#include "vmx/vmx.h"

#define VTPR     0x80
#define VISR     0x100
#define VTMR     0x180
#define VIRR     0x200
#define SET_STEP 0x10 /* from one 32 bits of a set to the next */

enum virtx_status vmx_apic_create(struct vmx_vcpu *v)
{
    struct virtx *virtx = v->hw.vcpu->virtx;

    if (!vmx_has(v, VIRTX_FEATURE_TPR_SHADOW))
        return VIRTX_OK;
    v->virtual_apic = virtx_pages_alloc(virtx, 1);
    if (!v->virtual_apic)
        return virtx_fail(&v->hw.vcpu->vm->error, VIRTX_E_NO_MEMORY, "ops.pages_alloc",
                          "the host has no page for the virtual APIC", 1);
    if (vmx_has(v, VIRTX_FEATURE_VIRTUAL_X2APIC)) {
        v->x2apic_bitmap = virtx_pages_alloc(virtx, 1);
        if (!v->x2apic_bitmap)
            return virtx_fail(&v->hw.vcpu->vm->error, VIRTX_E_NO_MEMORY, "ops.pages_alloc",
                              "the host has no page for the bitmap of x2APIC registers", 1);
    }
    return VIRTX_OK;
}

void vmx_apic_destroy(struct vmx_vcpu *v)
{
    if (v->virtual_apic)
        virtx_pages_free(v->hw.vcpu->virtx, v->virtual_apic, 1);
    if (v->x2apic_bitmap)
        virtx_pages_free(v->hw.vcpu->virtx, v->x2apic_bitmap, 1);
    v->virtual_apic = v->x2apic_bitmap = NULL;
}

/* The VMCS is written for the first time. */
void vmx_apic_first(struct vmx_vcpu *v)
{
    if (!v->virtual_apic)
        return;
    vmx_set_field(v, VMCS_VIRTUAL_APIC, virtx_hpa(v->hw.vcpu->virtx, v->virtual_apic));
    vmx_set_field(v, VMCS_TPR_THRESHOLD, 0);
    if (!vmx_has(v, VIRTX_FEATURE_VIRTUAL_INTERRUPT))
        return;
    vmx_set_field(v, VMCS_INTERRUPT_STATUS, 0);
    for (unsigned i = 0; i < 4; i++)
        vmx_set_field(v, VMCS_EOI_EXIT0 + 2 * i, 0);
}

void *vmx_apic_page(struct hw_vcpu *hv)
{
    struct vmx_vcpu *v = vmx_of(hv);

    return vmx_has(v, VMX_APIC_HELP) ? v->virtual_apic : NULL;
}

uint32_t vmx_apic_secondary(struct vmx_vcpu *v, const struct hw_apic *apic)
{
    const struct hw_vm *vm = &vmx_vm_of(v->hw.vcpu->vm)->hw;
    uint32_t secondary = 0;

    if (apic->access) {
        secondary |= SECONDARY_APIC_ACCESS;
        vmx_set_field(v, VMCS_APIC_ACCESS, virtx_hpa(v->hw.vcpu->virtx, vm->apic_page));
    }
    if (apic->x2apic)
        secondary |= SECONDARY_X2APIC;
    if (apic->registers)
        secondary |= SECONDARY_APIC_REGISTERS;
    if (apic->delivery)
        secondary |= SECONDARY_VIRTUAL_INTERRUPT;
    return secondary;
}

static uint32_t set_word(const struct vmx_vcpu *v, unsigned set, unsigned i)
{
    uint32_t word;

    memcpy(&word, v->virtual_apic + set + i * SET_STEP, sizeof(word));
    return word;
}

/* The highest vector of a set; 0: none. */
static unsigned highest(const struct vmx_vcpu *v, unsigned set)
{
    for (unsigned i = 8; i-- > 0;) {
        uint32_t word = set_word(v, set, i);

        if (word)
            return i * 32 + 31 - (unsigned)__builtin_clz(word);
    }
    return 0;
}

uint8_t vmx_apic_in_service(const struct vmx_vcpu *v)
{
    return (uint8_t)highest(v, VISR);
}

/* Intel SDM "Guest Interrupt Status", "EOI-Exit Bitmap": the processor sees to both while the guest
 * runs. */
void vmx_apic_changed(struct hw_vcpu *hv)
{
    struct vmx_vcpu *v = vmx_of(hv);

    vmx_set_field(v, VMCS_INTERRUPT_STATUS, highest(v, VISR) << 8 | highest(v, VIRR));
    for (unsigned i = 0; i < 4; i++) {
        uint64_t level = set_word(v, VTMR, 2 * i) | (uint64_t)set_word(v, VTMR, 2 * i + 1) << 32;

        if (v->eoi_exit[i] != level) {
            v->eoi_exit[i] = level;
            vmx_set_field(v, VMCS_EOI_EXIT0 + 2 * i, level);
        }
    }
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
    if (!c->cr8_shadow && (!c->apic.page || c->apic.delivery))
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
    if (v->virtual_apic && !v->hw.controls.apic.page && v->virtual_apic[VTPR] >> 4 != cr8)
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
