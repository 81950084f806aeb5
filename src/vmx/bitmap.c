/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The I/O and MSR bitmaps (Intel SDM "I/O-Bitmap Addresses", "MSR-Bitmap Address"): a 1 exits.
 *
 * Both start with all ones. A VM has one of each; a vcpu whose intercepts differ has its own, which
 * begin as copies.
 */
#include "vmx/vmx.h"

#define IO_PAGES       2
#define MSR_PAGES      1

#define MSR_RANGE      0x2000u
#define MSR_HIGH_FIRST 0xc0000000u
#define MSR_WRITES     2048u
#define MSR_HIGH       1024u

/* Writes of these reach the host whatever a policy says, so they always exit. Reads may be let
 * through. */
static bool write_forced(uint32_t index)
{
    switch (index) {
    case MSR_TSC:
    case MSR_APIC_BASE:
    case MSR_FEATURE_CONTROL:
    case MSR_TSC_ADJUST:
    case MSR_BIOS_UPDT_TRIG:
    case MSR_MISC_ENABLE:
    case MSR_PAT:
    case MSR_XSS:
    case MSR_EFER:
        return true;
    default:
        return index >= MSR_MTRR_PHYSBASE0 && index <= MSR_MTRR_DEF_TYPE;
    }
}

/* What the guest has there is not what the processor has. */
static bool read_forced(uint32_t index)
{
    return index == MSR_APIC_BASE || index == MSR_FEATURE_CONTROL ||
           (index >= MSR_VMX_BASIC && index <= MSR_VMX_LAST);
}

void vmx_bitmaps_init(uint8_t *io, uint8_t *msr)
{
    memset(io, 0xff, IO_PAGES * VIRTX_PAGE_SIZE);
    memset(msr, 0xff, MSR_PAGES * VIRTX_PAGE_SIZE);
}

void vmx_bitmaps_destroy(struct hw_vcpu *hv)
{
    struct vmx_vcpu *v = vmx_of(hv);

    if (v->io_bitmap)
        virtx_pages_free(hv->vcpu->virtx, v->io_bitmap, IO_PAGES);
    if (v->msr_bitmap)
        virtx_pages_free(hv->vcpu->virtx, v->msr_bitmap, MSR_PAGES);
    v->io_bitmap = v->msr_bitmap = NULL;
}

/* The VMCS is current: makes it use the bitmaps that are the vcpu's now. */
void vmx_bitmaps_load(struct vmx_vcpu *v)
{
    const struct virtx *virtx = v->hw.vcpu->virtx;
    const struct vmx_vm *vm = vmx_vm_of(v->hw.vcpu->vm);

    if (v->control[VMX_PRIMARY] & PRIMARY_IO_BITMAPS) {
        const uint8_t *io = v->io_bitmap ? v->io_bitmap : vm->io_bitmap;

        vmx_set_field(v, VMCS_IO_BITMAP_A, virtx_hpa(virtx, io));
        vmx_set_field(v, VMCS_IO_BITMAP_B, virtx_hpa(virtx, io + VIRTX_PAGE_SIZE));
    }
    if (v->control[VMX_PRIMARY] & PRIMARY_MSR_BITMAPS) {
        const uint8_t *msr = v->msr_bitmap ? v->msr_bitmap : vm->msr_bitmap;

        if (v->control[VMX_SECONDARY] & SECONDARY_X2APIC)
            msr = v->x2apic_bitmap;
        vmx_set_field(v, VMCS_MSR_BITMAP, virtx_hpa(virtx, msr));
    }
}

#define MSR_X2APIC      0x800u
#define X2APIC_TPR      0x08u
#define X2APIC_EOI      0x0bu
#define X2APIC_SELF_IPI 0x3fu

static void put_bit(uint8_t *bitmap, uint32_t bit, bool value)
{
    uint8_t mask = (uint8_t)(1u << (bit & 7));

    if (value)
        bitmap[bit >> 3] |= mask;
    else
        bitmap[bit >> 3] &= (uint8_t)~mask;
}

/* The vcpu's own copy of a bitmap, made on first use. */
static uint8_t *own(struct hw_vcpu *hv, uint8_t **bitmap, const uint8_t *original, size_t pages)
{
    if (!*bitmap) {
        *bitmap = virtx_pages_alloc(hv->vcpu->virtx, pages);
        if (*bitmap)
            memcpy(*bitmap, original, pages * VIRTX_PAGE_SIZE);
    }
    return *bitmap;
}

static enum virtx_status no_memory(struct hw_vcpu *hv)
{
    return virtx_fail(&hv->vcpu->error, VIRTX_E_NO_MEMORY, "ops.pages_alloc",
                      "the host has no pages for the vcpu's own bitmap", 0);
}

enum virtx_status vmx_ports(struct virtx_vm *vm, struct hw_vcpu *hv, uint16_t first, uint16_t last,
                            bool exit)
{
    uint8_t *bitmap = vmx_vm_of(vm)->io_bitmap;

    if (hv) {
        bitmap = own(hv, &vmx_of(hv)->io_bitmap, bitmap, IO_PAGES);
        if (!bitmap)
            return no_memory(hv);
    }
    for (uint32_t port = first; port <= last; port++)
        put_bit(bitmap, port, exit);
    return VIRTX_OK;
}

enum virtx_status vmx_msr(struct virtx_vm *vm, struct hw_vcpu *hv, uint32_t index, uint32_t access,
                          bool exit)
{
    uint8_t *bitmap = vmx_vm_of(vm)->msr_bitmap;
    uint32_t offset = index < MSR_RANGE ? 0 : MSR_HIGH;

    if (index - (offset ? MSR_HIGH_FIRST : 0) >= MSR_RANGE)
        return exit ? VIRTX_OK : VIRTX_E_UNSUPPORTED; /* outside both ranges all exit */
    if (hv) {
        bitmap = own(hv, &vmx_of(hv)->msr_bitmap, bitmap, MSR_PAGES);
        if (!bitmap)
            return no_memory(hv);
    }
    index &= MSR_RANGE - 1;
    if (access & VIRTX_READ)
        put_bit(bitmap + offset, index,
                exit || read_forced(offset ? index | MSR_HIGH_FIRST : index));
    if (access & VIRTX_WRITE)
        put_bit(bitmap + MSR_WRITES + offset, index,
                exit || write_forced(offset ? index | MSR_HIGH_FIRST : index));
    return VIRTX_OK;
}

/*
 * With "virtualize x2APIC mode" the processor serves the registers below from the virtual-APIC page
 * (Intel SDM "Virtualizing MSR-Based APIC Accesses"); any other that did not exit would be the host's. Their
 * bits are not in the vcpu's own bitmap, which whoever sets an intercept writes, from any CPU: they are in
 * a copy, made anew with the controls, which every such change asks for.
 */
void vmx_bitmap_x2apic(struct vmx_vcpu *v)
{
    static const uint8_t plain[] = {0x02, 0x03, 0x0d, 0x0f, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15,
                                    0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f,
                                    0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, 0x32,
                                    0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x3e};
    const struct hw_apic *apic = &v->hw.controls.apic;
    uint8_t *bitmap = v->x2apic_bitmap, *writes = bitmap + MSR_WRITES;

    if (!(v->control[VMX_SECONDARY] & SECONDARY_X2APIC))
        return;
    memcpy(bitmap, v->msr_bitmap ? v->msr_bitmap : vmx_vm_of(v->hw.vcpu->vm)->msr_bitmap,
           VIRTX_PAGE_SIZE);
    put_bit(bitmap, MSR_X2APIC + X2APIC_TPR, false);
    put_bit(writes, MSR_X2APIC + X2APIC_TPR, false);
    for (unsigned i = 0; apic->registers && i < ARRAY_SIZE(plain); i++)
        put_bit(bitmap, MSR_X2APIC + plain[i], false);
    if (apic->delivery) {
        put_bit(writes, MSR_X2APIC + X2APIC_EOI, false);
        put_bit(writes, MSR_X2APIC + X2APIC_SELF_IPI, false);
    }
}
