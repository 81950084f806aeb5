/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guest linear memory, as the instruction that the library executes for the guest sees it.
 */
#include "hw/service.h"

void hw_walk_mode(struct hw_vcpu *hv, struct walk_mode *mode)
{
    const struct virtx_state *state = hw_state(hv, VIRTX_STATE_CR | VIRTX_STATE_RFLAGS);

    mode->cr0 = state->cr0;
    mode->cr3 = state->cr3;
    mode->cr4 = state->cr4;
    mode->efer = state->efer;
    mode->rflags = state->rflags;
    if (!(state->efer & EFER_LMA))
        memcpy(mode->pdpte, state->pdpte, sizeof(mode->pdpte));
    mode->pkru = state->cr4 & CR4_PKE ? hw_guest_pkru(hv) : 0;
    mode->physical_bits = hv->soft->policy.physical_bits;
    mode->no_1g = hv->soft->policy.no_1g;
    mode->amd = hv->soft->policy.amd;
}

struct virtx_page_fault hw_table_fault(uint64_t linear, uint64_t gpa, uint8_t access)
{
    return (struct virtx_page_fault){
        .gpa = gpa, .gva = linear, .gva_valid = true, .access = access, .table_walk = true};
}

enum hw_access_result hw_translate(struct hw_vcpu *hv, uint64_t linear, uint32_t access,
                                   uint32_t flags, uint64_t *gpa, struct virtx_event *event)
{
    struct walk_mode mode;
    struct walk_result result;

    hw_walk_mode(hv, &mode);
    if (hw_cpl(hv) == 3 && !(flags & WALK_IMPLICIT))
        flags |= WALK_USER;
    switch (walk_guest(hv->vcpu->vm, &mode, linear, access, flags | WALK_SET_FLAGS, &result)) {
    case VIRTX_OK:
        *gpa = result.gpa;
        return HW_ACCESS_OK;
    case VIRTX_E_FAULT:
        *event = (struct virtx_event){.type = VIRTX_EVENT_EXCEPTION,
                                      .vector = VECTOR_PF,
                                      .has_error = true,
                                      .error = result.error,
                                      .address = linear};
        return HW_ACCESS_FAULT;
    case VIRTX_E_RANGE:
        hv->fault = hw_table_fault(linear, result.gpa, VIRTX_WRITE);
        return HW_ACCESS_NONE;
    default:
        hv->fault = hw_table_fault(linear, result.gpa, VIRTX_READ);
        return HW_ACCESS_NONE;
    }
}

/* One piece within a page. */
static enum hw_access_result piece(struct hw_vcpu *hv, uint64_t linear, void *buffer, size_t bytes,
                                   bool write, struct virtx_event *event)
{
    struct virtx_vm *vm = hv->vcpu->vm;
    uint64_t gpa;
    enum hw_access_result result =
        hw_translate(hv, linear, write ? VIRTX_WRITE : VIRTX_READ, 0, &gpa, event);

    if (result != HW_ACCESS_OK)
        return result;
    if ((write ? virtx_gpa_write(vm, gpa, buffer, bytes, false)
               : virtx_gpa_read(vm, gpa, buffer, bytes)) != VIRTX_OK)
        return HW_ACCESS_MMIO;
    return HW_ACCESS_OK;
}

static size_t to_page_end(uint64_t address)
{
    return VIRTX_PAGE_SIZE - (size_t)(address & (VIRTX_PAGE_SIZE - 1));
}

enum hw_access_result hw_linear_read(struct hw_vcpu *hv, uint64_t linear, void *buffer,
                                     size_t bytes, struct virtx_event *event)
{
    uint8_t *to = buffer;

    while (bytes) {
        size_t n = (size_t)min_u64(bytes, to_page_end(linear));
        enum hw_access_result result = piece(hv, linear, to, n, false, event);

        if (result != HW_ACCESS_OK)
            return result;
        to += n;
        linear += n;
        bytes -= n;
    }
    return HW_ACCESS_OK;
}

/* Both pages of a straddling write are translated before either is written: a fault leaves memory
 * as it was. */
enum hw_access_result hw_linear_write(struct hw_vcpu *hv, uint64_t linear, const void *buffer,
                                      size_t bytes, struct virtx_event *event)
{
    uint8_t copy[16];
    size_t first = (size_t)min_u64(bytes, to_page_end(linear));
    enum hw_access_result result;

    if (bytes > sizeof(copy))
        return HW_ACCESS_NONE;
    memcpy(copy, buffer, bytes);
    if (first < bytes) {
        uint64_t gpa;

        result = hw_translate(hv, linear + first, VIRTX_WRITE, 0, &gpa, event);
        if (result != HW_ACCESS_OK)
            return result;
    }
    result = piece(hv, linear, copy, first, true, event);
    if (result == HW_ACCESS_OK && first < bytes)
        result = piece(hv, linear + first, copy + first, bytes - first, true, event);
    return result;
}

enum hw_access_result hw_linear_probe_write(struct hw_vcpu *hv, uint64_t linear, size_t bytes,
                                            struct virtx_event *event)
{
    size_t first = (size_t)min_u64(bytes, to_page_end(linear));
    uint64_t gpa;
    enum hw_access_result result = hw_translate(hv, linear, VIRTX_WRITE, 0, &gpa, event);

    if (result == HW_ACCESS_OK && !virtx_gpa_pointer(hv->vcpu->vm, gpa, first, VIRTX_WRITE))
        return HW_ACCESS_MMIO;
    if (result != HW_ACCESS_OK || first == bytes)
        return result;
    result = hw_translate(hv, linear + first, VIRTX_WRITE, 0, &gpa, event);
    if (result == HW_ACCESS_OK && !virtx_gpa_pointer(hv->vcpu->vm, gpa, bytes - first, VIRTX_WRITE))
        return HW_ACCESS_MMIO;
    return result;
}

/* Intel SDM "Limit Checking", "Type Checking" and "Canonical Addressing". */
bool hw_segment_address(struct hw_vcpu *hv, unsigned segment, uint64_t offset, unsigned bytes,
                        bool write, uint64_t *linear, struct virtx_event *event)
{
    const struct virtx_state *state =
        hw_state(hv, VIRTX_STATE_SEG | VIRTX_STATE_CR | VIRTX_STATE_RFLAGS);
    const struct virtx_segment *seg = &state->seg[segment];
    uint32_t type = seg->attributes & VIRTX_SEG_TYPE;
    uint64_t last = offset + bytes - 1;
    bool code = type & 8, good;

    *event = (struct virtx_event){.type = VIRTX_EVENT_EXCEPTION,
                                  .vector = segment == VIRTX_SS ? VECTOR_SS : VECTOR_GP,
                                  .has_error = true};
    if ((state->efer & EFER_LMA) && (state->seg[VIRTX_CS].attributes & VIRTX_SEG_L)) {
        *linear = offset + (segment >= VIRTX_FS ? seg->base : 0);
        return is_canonical(*linear) && is_canonical(*linear + bytes - 1);
    }
    *linear = (uint32_t)(seg->base + offset);
    if (!(state->cr0 & CR0_PE)) {
        event->has_error = false;
        return last <= seg->limit;
    }
    if (state->rflags & RFLAGS_VM)
        return last <= seg->limit;
    if ((seg->attributes & VIRTX_SEG_UNUSABLE) || !(seg->attributes & VIRTX_SEG_P))
        return false;
    good = write ? (!code && (type & 2)) : (!code || (type & 2));
    if (!code && (type & 4)) /* expand-down: valid above the limit */
        return good && offset > seg->limit &&
               last <= (seg->attributes & VIRTX_SEG_DB ? UINT32_MAX : 0xffffu);
    return good && last <= seg->limit;
}
