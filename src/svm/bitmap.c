/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The permission maps: AMD APM volume 2, "I/O Permissions Map" (one bit a port) and "MSR
 * Permissions Map" (two bits an MSR: read, write; three ranges of 8192). A bit that is set
 * intercepts.
 */
#include "svm/svm.h"

#define RANGE_MSRS  0x2000u
#define RANGE_BYTES 0x800u

static const uint32_t range_start[] = {0x00000000, 0xc0000000, 0xc0010000};

/* MSRs whose direct use would reach the host or upset what the library keeps of them: accesses
 * always exit. EFER would show SVME. */
static const struct {
    uint32_t first, last;
} forced[] = {
    {MSR_APIC_BASE, MSR_APIC_BASE},
    {MSR_PAT, MSR_PAT},
    {MSR_EFER, MSR_EFER},
    {0xc0010111, 0xc0010118}, /* SMM_BASE … VM_CR, IGNNE, SMM_CTL, VM_HSAVE_PA, SVM_KEY */
};

/* Whether some of these MSRs exit whatever is asked: also those that the map does not cover. */
bool svm_msr_forced(uint64_t first, uint64_t last)
{
    bool covered = false;

    for (size_t i = 0; i < ARRAY_SIZE(range_start); i++)
        covered |= first >= range_start[i] && last < range_start[i] + (uint64_t)RANGE_MSRS;
    if (!covered)
        return true;
    for (size_t i = 0; i < ARRAY_SIZE(forced); i++) {
        if (first <= forced[i].last && last >= forced[i].first)
            return true;
    }
    return false;
}

void svm_bitmaps_init(uint8_t *iopm, uint8_t *msrpm)
{
    memset(iopm, 0xff, (size_t)SVM_IOPM_PAGES * VIRTX_PAGE_SIZE);
    memset(msrpm, 0xff, (size_t)SVM_MSRPM_PAGES * VIRTX_PAGE_SIZE);
}

void svm_bitmaps_destroy(struct hw_vcpu *hv)
{
    struct svm_vcpu *sv = svm_of(hv);
    struct virtx *virtx = hv->vcpu->virtx;

    if (sv->iopm != NULL)
        virtx_pages_free(virtx, sv->iopm, SVM_IOPM_PAGES);
    if (sv->msrpm != NULL)
        virtx_pages_free(virtx, sv->msrpm, SVM_MSRPM_PAGES);
    sv->iopm = sv->msrpm = NULL;
}

/* The vcpu's own copy of a map, made from the VM's on first use. */
static enum virtx_status own_copy(struct virtx_vm *vm, struct svm_vcpu *sv, uint8_t **own,
                                  const uint8_t *from, size_t pages, uint64_t *field)
{
    uint8_t *map;

    if (*own != NULL)
        return VIRTX_OK;
    map = virtx_pages_alloc(vm->virtx, pages);
    if (map == NULL)
        return virtx_fail(&vm->error, VIRTX_E_NO_MEMORY, "ops.pages_alloc",
                          "the host has no contiguous pages for a permission map", pages);
    memcpy(map, from, pages * VIRTX_PAGE_SIZE);
    *own = map;
    *field = virtx_hpa(vm->virtx, map);
    svm_dirty(sv, VMCB_CLEAN_BITMAPS);
    return VIRTX_OK;
}

static void set_bit(uint8_t *map, uint32_t bit, bool value)
{
    if (value)
        map[bit / 8] |= (uint8_t)(1u << bit % 8);
    else
        map[bit / 8] &= (uint8_t) ~(1u << bit % 8);
}

/* Bits 65536 to 65538, for accesses that go on behind the last port, stay set. */
enum virtx_status svm_ports(struct virtx_vm *vm, struct hw_vcpu *hv, uint16_t first, uint16_t last,
                            bool exit)
{
    uint8_t *map = svm_vm_of(vm)->iopm;

    if (hv != NULL) {
        struct svm_vcpu *sv = svm_of(hv);
        enum virtx_status status =
            own_copy(vm, sv, &sv->iopm, map, SVM_IOPM_PAGES, &sv->vmcb.control.iopm);

        if (status != VIRTX_OK)
            return status;
        map = sv->iopm;
    }
    for (uint32_t port = first; port <= last; port++)
        set_bit(map, port, exit);
    return VIRTX_OK;
}

enum virtx_status svm_msr(struct virtx_vm *vm, struct hw_vcpu *hv, uint32_t index, uint32_t access,
                          bool exit)
{
    uint8_t *map = svm_vm_of(vm)->msrpm;

    if (hv != NULL) {
        struct svm_vcpu *sv = svm_of(hv);
        enum virtx_status status =
            own_copy(vm, sv, &sv->msrpm, map, SVM_MSRPM_PAGES, &sv->vmcb.control.msrpm);

        if (status != VIRTX_OK)
            return status;
        map = sv->msrpm;
    }
    if (!exit && svm_msr_forced(index, index)) /* its bits are set, and stay so */
        return VIRTX_OK;
    for (size_t i = 0; i < ARRAY_SIZE(range_start); i++) {
        uint32_t offset = index - range_start[i];

        if (offset < RANGE_MSRS) {
            uint32_t bit = (uint32_t)i * RANGE_BYTES * 8 + offset * 2;

            if (access & VIRTX_READ)
                set_bit(map, bit, exit);
            if (access & VIRTX_WRITE)
                set_bit(map, bit + 1, exit);
        }
    }
    return VIRTX_OK;
}
