/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Leaves: the guest's rights, less those that something must be seen for. That is the first write
 * of a page (the guest's dirty flag), a write to a table, and a write to a page that is logged.
 */
#include "paging/shadow_build.h"

/* Neighbours that are mapped along with a page, if the guest's entries say that they are in use. */
#define AHEAD 8u

bool shadow_leaf_rights(struct build *b, bool user)
{
    const struct walk_mode *mode = &b->v->mode;
    uint64_t all = ~0ull, any = 0, leaf = GPTE_D;

    for (unsigned i = 0; i < b->path.count; i++) {
        leaf = b->path.entry[i];
        all &= leaf;
        any |= leaf;
    }
    b->rights = ROLE_X;
    if (b->path.width == 8) {
        b->rights = any & GPTE_NX ? 0 : ROLE_X;
        b->key = mode->efer & EFER_LMA ? leaf & SPTE_KEY : 0;
    }
    if (all & GPTE_U)
        b->rights |= ROLE_U;
    if (all & GPTE_W)
        b->rights |= ROLE_W;
    if (unlikely(b->v->role & ROLE_PKE) && b->write && !user && (all & GPTE_U) &&
        (mode->pkru >> 2 * (leaf >> 59 & 15) & 2))
        return false; /* write-disable keys do not bind this kernel, but the processor's CR0.WP is 1
                       */
    if (!(mode->cr0 & CR0_WP) && !(all & GPTE_W)) {
        /* The guest's kernel may write what is read-only: to its users the page is away then. */
        if (!(all & GPTE_U)) {
            b->rights |= ROLE_W;
        } else if (b->write && !user) {
            if (b->v->role & (ROLE_SMAP | ROLE_PKE))
                return false; /* U decides about more than the users' access */
            b->rights = (b->rights & ~(uint32_t)ROLE_U) | ROLE_W;
            if (b->v->role & ROLE_SMEP)
                b->rights &= ~(uint32_t)ROLE_X;
        }
    }
    if (!(leaf & GPTE_D))
        b->rights &= ~(uint32_t)ROLE_W;
    return true;
}

bool shadow_large_leaf(struct build *b, uint64_t *hpa)
{
    const struct virtx *virtx = b->vm->virtx;
    uint64_t span = shadow_span(2), gpa = b->gpa & ~(span - 1);
    const struct slot_entry *slot = b->slot;
    const uint8_t *memory = slot->memory + (gpa - slot->gpa);
    uint64_t first;

    if (slot->dirty || (slot->flags & (VIRTX_MEMSLOT_SMALL_PAGES | VIRTX_MEMSLOT_SMALL_EXECUTE)) ||
        gpa < slot->gpa || slot->end - gpa < span ||
        b->sv->region[gpa >> 21 & (SHADOW_REGIONS - 1)])
        return false;
    first = virtx_hpa(virtx, memory);
    if (!shadow_usable(b->sv, first) || (first & (span - 1)))
        return false;
    /* From the end, where a backing that is not contiguous shows at once. */
    for (uint64_t offset = span - VIRTX_PAGE_SIZE;
         offset && !(slot->flags & VIRTX_MEMSLOT_CONTIGUOUS); offset -= VIRTX_PAGE_SIZE)
        if (virtx_hpa(virtx, memory + offset) != first + offset)
            return false;
    *hpa = first;
    return true;
}

/* A neighbour of the page, from an entry that needs no flags set. */
static void ahead(struct shadow_vm *sv, const struct slot_entry *slot, struct shadow_page *page,
                  unsigned index, uint64_t gfn, uint32_t rights, uint64_t key, uint64_t copy)
{
    uint64_t gpa = gfn << 12, hpa;

    if (gpa < slot->gpa || gpa >= slot->end)
        return;
    hpa = virtx_hpa(sv->vm->virtx, slot->memory + (gpa - slot->gpa));
    if (!shadow_usable(sv, hpa))
        return;
    if (slot->dirty || ((rights & ROLE_W) && shadow_is_protected(sv, gfn)))
        rights &= ~(uint32_t)ROLE_W;
    shadow_entry_leaf(sv, page, index, shadow_leaf_entry(slot, hpa, rights, key), gfn, copy);
}

/* From the guest's entry to rights, for an entry that is in use already; false: leave it. */
static bool ahead_rights(const struct walk_mode *mode, const struct shadow_page *page,
                         uint64_t entry, uint32_t *rights)
{
    uint64_t reserved = 0;

    if (!(page->role & ROLE_32)) {
        reserved = bits_mask(page->role & ROLE_PAE ? 62 : 51, 0) & (~0ull << mode->physical_bits);
        if (!(page->role & ROLE_NXE))
            reserved |= GPTE_NX;
    }
    if ((entry & (GPTE_P | GPTE_A)) != (GPTE_P | GPTE_A) || (entry & reserved))
        return false;
    *rights = page->role & ROLE_ACCESS;
    if (!(entry & GPTE_U))
        *rights &= ~(uint32_t)ROLE_U;
    if (!(entry & GPTE_W))
        *rights &= ~(uint32_t)ROLE_W;
    if (!(page->role & ROLE_32) && (entry & GPTE_NX))
        *rights &= ~(uint32_t)ROLE_X;
    if (!(mode->cr0 & CR0_WP) && !(*rights & ROLE_U))
        *rights |= ROLE_W;
    if (!(entry & GPTE_D))
        *rights &= ~(uint32_t)ROLE_W;
    return true;
}

void shadow_map_ahead(struct shadow_vm *sv, const struct walk_mode *mode,
                      const struct slot_entry *slot, struct shadow_page *page, unsigned index,
                      uint64_t key)
{
    unsigned first = index & ~(AHEAD - 1);

    for (unsigned i = first; i < first + AHEAD; i++) {
        uint64_t entry;
        uint32_t rights;

        if (page->entry[i] != sv->unknown)
            continue;
        if (page->role & ROLE_DIRECT) {
            ahead(sv, slot, page, i, page->gfn + i, page->role & ROLE_ACCESS, key, 0);
            continue;
        }
        if (likely(!(page->role & ROLE_32))) {
            entry =
                __atomic_load_n((const uint64_t *)(const void *)page->guest + i, __ATOMIC_RELAXED);
            if ((entry & (GPTE_P | GPTE_A)) != (GPTE_P | GPTE_A))
                continue;
        } else {
            entry = shadow_guest_entry(page, i);
        }
        if (!ahead_rights(mode, page, entry, &rights))
            continue;
        key = page->role & (ROLE_32 | ROLE_PAE) ? 0 : entry & SPTE_KEY;
        ahead(sv, slot, page, i, (entry & SPTE_ADDRESS) >> 12, rights, key, entry);
    }
}

void shadow_leaf_make(struct build *b, struct shadow_page *page, unsigned index, unsigned step,
                      unsigned level, uint64_t hpa)
{
    struct shadow_vm *sv = b->sv;
    uint64_t gfn = b->gpa >> 12, entry;
    uint32_t rights = b->rights;

    if (level > 1) {
        gfn &= ~511ull;
    } else {
        if (rights & ROLE_W) {
            if (shadow_is_protected(sv, gfn)) {
                if (b->write)
                    shadow_table_written(sv, gfn);
                else
                    rights &= ~(uint32_t)ROLE_W;
            }
            if (b->slot->dirty && b->write)
                virtx_slot_mark(b->slot, gfn << 12, VIRTX_PAGE_SIZE);
            else if (b->slot->dirty)
                rights &= ~(uint32_t)ROLE_W;
        }
    }
    entry = shadow_leaf_entry(b->slot, hpa, rights, b->key) | (level > 1 ? SPTE_PS : 0);
    if (page->entry[index] != entry ||
        (page->copy && page->copy[index] != shadow_copy_of(b, page, step)))
        b->changed = true;
    if (b->changed)
        shadow_entry_leaf(sv, page, index, entry, gfn, shadow_copy_of(b, page, step));
    if (level == 1)
        shadow_map_ahead(sv, &b->v->mode, b->slot, page, index, b->key);
}
