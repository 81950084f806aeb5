/* SPDX-License-Identifier: BSD-2-Clause */
/* Guest linear memory for the embedder: translated by the guest's own tables, read and written. */
#include "core/claim.h"
#include "paging/walk.h"
#include "x86/defs.h"

#define LEAF_EXTENDED  0x80000001u
#define LEAF_ADDRESSES 0x80000008u
#define LEAF_XSAVE     0xdu
#define PKRU_COMPONENT 9u
#define FPU_BYTES      3072u /* where PKRU lies, with all that is ever exposed before it */

/* What one call looks at: the registers once, whatever the number of pages. */
struct view {
    struct walk_mode mode;
    bool long_mode;
    bool cpl3;
};

/* PKRU is part of the FPU state; read only where the guest uses protection keys. */
static __attribute__((noinline)) uint32_t read_pkru(struct virtx_vcpu *vcpu)
{
    _Alignas(64) uint8_t area[FPU_BYTES];
    struct virtx_cpuid_entry entry;
    uint64_t present;
    uint32_t pkru;

    virtx_cpuid_lookup(vcpu, LEAF_XSAVE, PKRU_COMPONENT, &entry);
    if (virtx_vcpu_fpu_size(vcpu) > sizeof(area) || entry.eax < sizeof(pkru) ||
        entry.ebx > sizeof(area) - sizeof(pkru) ||
        vcpu->virtx->backend->fpu_get(vcpu, area) != VIRTX_OK)
        return 0;
    memcpy(&present, area + 512, sizeof(present)); /* XSTATE_BV: a clear bit means the initial 0 */
    if (!(present >> PKRU_COMPONENT & 1))
        return 0;
    memcpy(&pkru, area + entry.ebx, sizeof(pkru));
    return pkru;
}

static enum virtx_status look(struct virtx_vcpu *vcpu, struct view *view)
{
    struct virtx_cpuid_entry entry;
    struct virtx_state state;
    enum virtx_status status = vcpu->virtx->backend->get(
        vcpu, VIRTX_STATE_CR | VIRTX_STATE_RFLAGS | VIRTX_STATE_SEG, &state);

    if (status != VIRTX_OK)
        return status;
    memset(view, 0, sizeof(*view));
    view->mode.cr0 = state.cr0;
    view->mode.cr3 = state.cr3;
    view->mode.cr4 = state.cr4;
    view->mode.efer = state.efer;
    view->mode.rflags = state.rflags;
    memcpy(view->mode.pdpte, state.pdpte, sizeof(view->mode.pdpte));
    virtx_cpuid_lookup(vcpu, LEAF_ADDRESSES, 0, &entry);
    view->mode.physical_bits =
        entry.leaf == LEAF_ADDRESSES && (entry.eax & 0xff) ? (uint8_t)(entry.eax & 0xff) : 36;
    virtx_cpuid_lookup(vcpu, LEAF_EXTENDED, 0, &entry);
    view->mode.no_1g = !(entry.edx >> 26 & 1);
    virtx_cpuid_lookup(vcpu, 0, 0, &entry);
    view->mode.amd = virtx_cpuid_is_amd(entry.ebx);
    if (state.cr4 & CR4_PKE)
        view->mode.pkru = read_pkru(vcpu);
    view->long_mode = state.efer & EFER_LMA;
    view->cpl3 =
        (state.cr0 & CR0_PE) && (state.seg[VIRTX_SS].attributes & VIRTX_SEG_DPL) == VIRTX_SEG_DPL;
    return VIRTX_OK;
}

/* One address; `out` is filled on VIRTX_OK and VIRTX_E_FAULT. */
static enum virtx_status translate(struct virtx_vcpu *vcpu, const struct view *view, uint64_t gva,
                                   uint32_t access, bool user, struct virtx_translation *out)
{
    struct walk_result result = {0};
    enum virtx_status status;

    if (view->long_mode ? !is_canonical(gva) : gva >> 32)
        return virtx_fail_manual(&vcpu->error, VIRTX_E_RANGE, "gva",
                                 "is a linear address of the guest's mode",
                                 "Intel SDM \"Canonical Addressing\"", gva);
    status = walk_guest(vcpu->vm, &view->mode, gva, access, user ? WALK_USER : 0, &result);
    out->gpa = result.gpa;
    out->error = result.error;
    out->rights = result.rights;
    out->bytes = result.bytes;
    if (status == VIRTX_E_FAULT)
        return virtx_fail(&vcpu->error, status, "gva", "is mapped with these rights by the guest",
                          gva);
    if (status != VIRTX_OK)
        return virtx_fail(&vcpu->error, status, "gva", "is mapped by tables that lie in slots",
                          gva);
    return VIRTX_OK;
}

enum virtx_status virtx_vcpu_translate(struct virtx_vcpu *vcpu, uint64_t gva, uint32_t access,
                                       bool user, struct virtx_translation *out)
{
    struct virtx_translation result = {0};
    struct view view;
    enum virtx_status status;
    bool release;

    if (!access || (access & ~(uint32_t)(VIRTX_READ | VIRTX_WRITE | VIRTX_EXECUTE)))
        return virtx_fail(&vcpu->error, VIRTX_E_INVALID, "access", "has bits of virtx_access only",
                          access);
    if (!out)
        return virtx_fail(&vcpu->error, VIRTX_E_INVALID, "out", "is not NULL", 0);
    status = virtx_vcpu_claim(vcpu, &release);
    if (status != VIRTX_OK)
        return status;
    status = look(vcpu, &view);
    if (status == VIRTX_OK)
        status = translate(vcpu, &view, gva, access, user, &result);
    virtx_vcpu_release(vcpu, release);
    if (status == VIRTX_OK || status == VIRTX_E_FAULT)
        *out = result;
    return status;
}

/* Bytes to the end of the page, and the next address as the mode counts. */
static size_t page_part(uint64_t gva, size_t bytes)
{
    return min_u64(bytes, VIRTX_PAGE_SIZE - gva % VIRTX_PAGE_SIZE);
}

static uint64_t next_page(const struct view *view, uint64_t gva, size_t part)
{
    return view->long_mode ? gva + part : (uint32_t)(gva + part);
}

/* One pass over the range: with neither buffer it only asks whether all of it could be accessed. */
static enum virtx_status pass(struct virtx_vcpu *vcpu, const struct view *view, uint64_t gva,
                              uint8_t *to, const uint8_t *from, size_t bytes, uint32_t access,
                              struct virtx_translation *out)
{
    for (size_t done = 0; done < bytes;) {
        size_t part = page_part(gva, bytes - done);
        enum virtx_status status = translate(vcpu, view, gva, access, view->cpl3, out);

        if (status != VIRTX_OK)
            return status;
        if (to)
            status = virtx_gpa_read(vcpu->vm, out->gpa, to + done, part);
        else if (from)
            status = virtx_gpa_write(vcpu->vm, out->gpa, from + done, part, false);
        else if (!virtx_gpa_pointer(vcpu->vm, out->gpa, part, access))
            status = VIRTX_E_NOT_FOUND;
        if (status != VIRTX_OK)
            return virtx_fail(&vcpu->error, status, "gva", "leads to memory with these rights",
                              out->gpa);
        done += part;
        gva = next_page(view, gva, part);
    }
    return VIRTX_OK;
}

static enum virtx_status access_memory(struct virtx_vcpu *vcpu, uint64_t gva, void *to,
                                       const void *from, size_t bytes,
                                       struct virtx_translation *fault)
{
    struct virtx_translation result = {0};
    struct view view;
    bool release;
    enum virtx_status status;

    if (!to && !from && bytes)
        return virtx_fail(&vcpu->error, VIRTX_E_INVALID, "buffer", "is not NULL", 0);
    status = virtx_vcpu_claim(vcpu, &release);
    if (status != VIRTX_OK)
        return status;
    status = look(vcpu, &view);
    if (status == VIRTX_OK && from)
        status = pass(vcpu, &view, gva, NULL, NULL, bytes, VIRTX_WRITE, &result);
    if (status == VIRTX_OK)
        status = pass(vcpu, &view, gva, to, from, bytes, from ? VIRTX_WRITE : VIRTX_READ, &result);
    virtx_vcpu_release(vcpu, release);
    if (status == VIRTX_E_FAULT && fault)
        *fault = result;
    return status;
}

enum virtx_status virtx_vcpu_read(struct virtx_vcpu *vcpu, uint64_t gva, void *buffer, size_t bytes,
                                  struct virtx_translation *fault)
{
    return access_memory(vcpu, gva, buffer, NULL, bytes, fault);
}

enum virtx_status virtx_vcpu_write(struct virtx_vcpu *vcpu, uint64_t gva, const void *buffer,
                                   size_t bytes, struct virtx_translation *fault)
{
    return access_memory(vcpu, gva, NULL, buffer, bytes, fault);
}
