/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guests in real mode and without paging, on a processor without unrestricted guest. It insists on
 * paged protected mode, so the guest runs in the next best thing where that is exact, and in the
 * executor (src/hw) where it is not:
 *
 * Real mode runs as virtual-8086 mode if all segments are what that mode makes of them. IOPL 0
 * makes everything that could tell the two apart fault: CLI, STI, PUSHF, POPF, INT and IRET; a TSS
 * without an I/O bitmap does it for ports, privilege level 3 for the rest. Each such fault exits,
 * and the executor does the one instruction. IDTR stays the guest's (SIDT shows it); nothing is
 * ever delivered through it, since all exceptions exit and INT n faults.
 *
 * Unpaged protected mode runs with PAE paging and a map of the first 4 GiB onto themselves. With
 * EPT the entries of its first level are in the VMCS, and its second level lies at guest-physical
 * addresses from 4 GiB on, of which a guest without paging cannot form any, in tables that are
 * loaded in no other mode. So the guest never meets it, and no address is taken from the guest's
 * own space.
 */
#include "vmx/vmx.h"

/* Where the second level lies, guest-physical: the fifth entry of the table of 1 GiB regions. */
#define IDENTITY_GPA (4ull << 30)
enum { REGIONS = 4 };

#define ENTRY_PRESENT  (1ull << 0)
#define ENTRY_ALL      (ENTRY_PRESENT | 1ull << 1 | 1ull << 2) /* writable, user */
#define ENTRY_TOUCHED  (3ull << 5)                             /* accessed, dirty */
#define ENTRY_LARGE    (1ull << 7)
#define EPT_READ       1ull
#define EPT_RIGHTS     7ull
#define EPT_WRITE_BACK (6ull << 3)
#define EPT_ADDRESS    0x000ffffffffff000ull

/* The library's own pages of a vcpu, in this order. */
enum { PAGE_ROOT, PAGE_REGIONS, PAGE_DIRECTORY, PAGE_TABLE, PAGE_IDENTITY, PAGES = 8 };

static uint64_t *page(const struct vmx_vcpu *v, unsigned index)
{
    return v->identity + 512 * index;
}

static uint64_t hpa(const struct vmx_vcpu *v, unsigned index)
{
    return virtx_hpa(v->hw.vcpu->virtx, page(v, index));
}

void vmx_mode_confine(struct vmx_vcpu *v)
{
    v->confined = !v->nested || !vmx_has(v, VIRTX_FEATURE_UNPAGED_GUEST);
    v->hw.nmi_by_hand = !vmx_has(v, VIRTX_FEATURE_VIRTUAL_NMI);
    v->hw.confined = v->confined || v->hw.nmi_by_hand;
}

enum virtx_status vmx_mode_create(struct vmx_vcpu *v)
{
    struct virtx *virtx = v->hw.vcpu->virtx;
    uint64_t *map;

    vmx_mode_confine(v);
    /* With shadow paging too: the engine may be exchanged for the nested one. */
    if (vmx_has(v, VIRTX_FEATURE_UNPAGED_GUEST) || !vmx_has(v, VIRTX_FEATURE_NESTED_PAGING))
        return VIRTX_OK;
    v->identity = virtx_pages_alloc(virtx, PAGES);
    if (!v->identity)
        return virtx_fail(&v->hw.vcpu->vm->error, VIRTX_E_NO_MEMORY, "ops.pages_alloc",
                          "the host has no pages for the map of an unpaged guest", PAGES);
    map = page(v, PAGE_IDENTITY);
    for (uint64_t i = 0; i < REGIONS * 512; i++)
        map[i] = i << 21 | ENTRY_LARGE | ENTRY_TOUCHED | ENTRY_ALL;
    for (unsigned i = 0; i < REGIONS; i++)
        page(v, PAGE_TABLE)[i] = hpa(v, PAGE_IDENTITY + i) | EPT_WRITE_BACK | EPT_READ;
    page(v, PAGE_DIRECTORY)[0] = hpa(v, PAGE_TABLE) | EPT_RIGHTS;
    page(v, PAGE_REGIONS)[IDENTITY_GPA >> 30] = hpa(v, PAGE_DIRECTORY) | EPT_RIGHTS;
    page(v, PAGE_ROOT)[0] = hpa(v, PAGE_REGIONS) | EPT_RIGHTS;
    return VIRTX_OK;
}

void vmx_mode_destroy(struct vmx_vcpu *v)
{
    if (v->identity)
        virtx_pages_free(v->hw.vcpu->virtx, v->identity, PAGES);
    v->identity = NULL;
}

uint64_t vmx_mode_pdpte(unsigned index)
{
    return (IDENTITY_GPA + ((uint64_t)index << 12)) | ENTRY_PRESENT;
}

uint64_t vmx_mode_root(const struct vmx_vcpu *v)
{
    return hpa(v, PAGE_ROOT);
}

/*
 * The first four regions are the engine's: its entries are copied before each entry that could find
 * them changed. One that it has filled in since exits, and is found on the way back; one that it
 * has taken away left a debt, and is gone before that is paid.
 */
void vmx_mode_refresh(struct vmx_vcpu *v)
{
    struct virtx *virtx = v->hw.vcpu->virtx;
    const uint64_t *root = virtx->ops.phys_to_virt(virtx->ctx, v->hw.root & EPT_ADDRESS);
    uint64_t top = __atomic_load_n(root, __ATOMIC_ACQUIRE), *copy = page(v, PAGE_REGIONS);
    const uint64_t *regions = NULL;

    if (top & EPT_RIGHTS)
        regions = virtx->ops.phys_to_virt(virtx->ctx, top & EPT_ADDRESS);
    for (unsigned i = 0; i < REGIONS; i++)
        copy[i] = regions ? __atomic_load_n(&regions[i], __ATOMIC_ACQUIRE) : 0;
}

/* ---- Which states run where ---- */

static bool flat_real(const struct virtx_segment *seg, bool code)
{
    uint32_t wanted = VIRTX_SEG_P | VIRTX_SEG_S, type = seg->attributes & VIRTX_SEG_TYPE;

    if (seg->base != (uint64_t)seg->selector << 4 || seg->limit != 0xffff)
        return false;
    if ((seg->attributes & (wanted | VIRTX_SEG_UNUSABLE | VIRTX_SEG_DB)) != wanted)
        return false;
    return code || (type & 14) == 2; /* data that grows up and can be written */
}

static bool fits_virtual_8086(const struct virtx_state *state)
{
    bool fits = !(state->rflags & RFLAGS_VM);

    for (unsigned i = VIRTX_ES; i <= VIRTX_GS; i++)
        fits = fits && flat_real(&state->seg[i], i == VIRTX_CS);
    return fits;
}

static unsigned dpl(const struct virtx_segment *seg)
{
    return (seg->attributes & VIRTX_SEG_DPL) >> VIRTX_SEG_DPL_SHIFT;
}

/*
 * The rules of "Checks on Guest Segment Registers" that unrestricted guest lifts: on the way from
 * real mode they do not hold until all segments have been loaded. What breaks one of the others is
 * wrong on any processor, and for the entry to refuse.
 */
static bool fits_protected(const struct virtx_state *state)
{
    const struct virtx_segment *cs = &state->seg[VIRTX_CS], *ss = &state->seg[VIRTX_SS];

    if (state->rflags & RFLAGS_VM)
        return true;
    if ((ss->selector & 3) != (cs->selector & 3) || dpl(ss) != (ss->selector & 3u))
        return false;
    if ((cs->attributes & VIRTX_SEG_TYPE) == 3)
        return false;
    for (unsigned i = VIRTX_ES; i <= VIRTX_GS; i++) {
        const struct virtx_segment *seg = &state->seg[i];

        if (i == VIRTX_CS || i == VIRTX_SS || (seg->attributes & VIRTX_SEG_UNUSABLE) ||
            !(seg->attributes & VIRTX_SEG_P) || (seg->attributes & VIRTX_SEG_TYPE) > 11)
            continue;
        if (dpl(seg) < (seg->selector & 3u))
            return false;
    }
    return true;
}

static enum vmx_mode mode_of(const struct virtx_state *state)
{
    if (!(state->cr0 & CR0_PE))
        return fits_virtual_8086(state) ? VMX_MODE_REAL : VMX_MODE_NONE;
    if (!fits_protected(state))
        return VMX_MODE_NONE;
    return state->cr0 & CR0_PG ? VMX_MODE_NATIVE : VMX_MODE_UNPAGED;
}

/* Paged protected mode, in which the processor ran since the last entry: the common changes of
 * control registers are no reason to read the segments, and in long mode no flag is. */
static bool still_native(const struct vmx_vcpu *v, uint32_t changed)
{
    const struct virtx_state *state = &v->hw.state;

    if (changed == VIRTX_STATE_CR)
        return !(~state->cr0 & v->cr0 & (CR0_PE | CR0_PG)) && (state->cr0 & CR0_PE);
    return changed == VIRTX_STATE_RFLAGS && (state->efer & EFER_LMA);
}

/* What the processor has run since the last entry it can go on running. */
enum vmx_mode vmx_mode_wanted(struct vmx_vcpu *v)
{
    const uint32_t groups = VIRTX_STATE_CR | VIRTX_STATE_SEG | VIRTX_STATE_RFLAGS;
    uint32_t changed = v->hw.dirty & groups;

    if (!changed || (v->mode == VMX_MODE_NATIVE && still_native(v, changed)))
        return (enum vmx_mode)v->mode;
    return mode_of(hw_state(&v->hw, groups));
}

enum hw_place vmx_place(struct hw_vcpu *hv)
{
    struct vmx_vcpu *v = vmx_of(hv);

    if (vmx_nmi_by_hand(v))
        return HW_PLACE_EXECUTOR;
    if (!v->confined)
        return HW_PLACE_HARDWARE;
    switch (vmx_mode_wanted(v)) {
    case VMX_MODE_NONE:
        return HW_PLACE_EXECUTOR;
    case VMX_MODE_REAL:
        return HW_PLACE_BY_HAND;
    default:
        return HW_PLACE_HARDWARE;
    }
}

/* What the modes keep in the VMCS differently is written anew. */
void vmx_mode_set(struct vmx_vcpu *v, enum vmx_mode mode)
{
    struct hw_vcpu *hv = &v->hw;

    hw_change(hv, VIRTX_STATE_CR | VIRTX_STATE_SEG | VIRTX_STATE_RFLAGS | VIRTX_STATE_SYSCALL);
    v->mode = (uint8_t)mode;
    vmx_controls(hv);
    if (v->nested)
        vmx_set_root(hv, hv->root);
}

/* ---- Real mode in the VMCS ---- */

void vmx_mode_write_segments(struct vmx_vcpu *v, const struct virtx_state *state)
{
    const struct virtx_segment none = {.attributes = 0x8b}; /* a TSS too short for everything */

    for (unsigned i = 0; i < VIRTX_SEG_COUNT; i++) {
        struct virtx_segment seg = vmx_segment_fixed(state, i);

        if (i <= VIRTX_GS) {
            v->real.attributes[i] = state->seg[i].attributes;
            seg.attributes = 0xf3;
        } else if (i == VIRTX_TR) {
            v->real.tr = state->seg[i];
            seg = none;
        }
        vmx_vmwrite(vmcs_seg_base(i), seg.base);
        vmx_vmwrite(vmcs_seg_limit(i), seg.limit);
        vmx_vmwrite(vmcs_seg_attributes(i), seg.attributes);
        vmx_vmwrite(vmcs_seg_selector(i), seg.selector);
    }
}

void vmx_mode_read_segments(const struct vmx_vcpu *v, struct virtx_state *state)
{
    for (unsigned i = VIRTX_ES; i <= VIRTX_GS; i++)
        state->seg[i].attributes = v->real.attributes[i];
    state->seg[VIRTX_TR] = v->real.tr;
}
