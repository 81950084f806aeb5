/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Page faults of a guest with shadow tables: the guest's own, those that are answered by an entry,
 * and devices.
 *
 * The guest's tables are walked as the processor would (src/paging/walk.c), with its flags set; if
 * that allows the access, entries are made all the way down.
 */
#include "paging/shadow_build.h"

/* The role and frame of the page that the entry of a table has to point to. */
static uint32_t next_role(const struct build *b, const struct shadow_page *page, unsigned level,
                          unsigned step, uint64_t *gfn)
{
    uint32_t role = b->v->role & ROLE_MODE, access = page->role & ROLE_ACCESS;
    uint64_t entry;

    if ((page->role & ROLE_DIRECT) || step >= b->path.count ||
        (step + 1u == b->path.count && !(page->role & ROLE_ROOT))) {
        /* Direct from here on: the guest has no tables below. */
        *gfn = (b->gpa & ~(shadow_span(level) - 1)) >> 12;
        return ROLE_DIRECT | b->rights | (uint32_t)(b->key >> 59) << ROLE_KEY | (level - 1);
    }
    if (page->role & ROLE_ROOT) {
        *gfn = b->path.root >> 12;
        role |= role & ROLE_32 ? (uint32_t)(b->gva >> 30 & 3) << ROLE_QUADRANT : 0;
        return role | ROLE_ACCESS | 2;
    }
    entry = b->path.entry[step];
    if (!(entry & GPTE_W))
        access &= ~(uint32_t)ROLE_W;
    if (!(entry & GPTE_U))
        access &= ~(uint32_t)ROLE_U;
    if (b->path.width == 8 && (entry & GPTE_NX))
        access &= ~(uint32_t)ROLE_X;
    if (role & ROLE_32) {
        *gfn = (entry & 0xfffff000) >> 12;
        return role | access | (uint32_t)(b->gva >> 21 & 1) << ROLE_QUADRANT | (level - 1);
    }
    *gfn = (entry & SPTE_ADDRESS) >> 12;
    return role | access | (level - 1);
}

/* Makes entry `index` point to the right table. NULL: no memory. */
static struct shadow_page *descend(struct build *b, struct virtx_vcpu *vcpu,
                                   struct shadow_page *page, unsigned index, unsigned level,
                                   unsigned step)
{
    uint64_t entry = page->entry[index], copy = shadow_copy_of(b, page, step), gfn;
    uint32_t role = next_role(b, page, level, step, &gfn);
    struct shadow_page *child = page->child[index];

    /* A table is used whatever its dirty flag says; where ours is for a large page it counts. */
    if (step + 1u < b->path.count || (page->role & ROLE_DIRECT))
        copy &= ~GPTE_D;
    if (likely(shadow_maps(entry) && !shadow_is_leaf(entry, level) && child->gfn == gfn &&
               child->role == role)) {
        child->stamp = b->sv->stamp;
        if (page->copy)
            page->copy[index] = copy;
        return child;
    }
    child = shadow_page_get(b->sv, gfn, role);
    if (unlikely(!child))
        return NULL;
    /* A table that was out of sight may have been changed by other means than the guest's. */
    if (!child->parents && !child->fresh && child->guest)
        shadow_compare(b->sv, child);
    /* With it come tables below, which may have been put off. */
    if (!child->fresh && b->sv->put_off)
        shadow_sync_leaves(b->sv, NULL);
    shadow_entry_table(b->sv, page, index, child, copy);
    shadow_page_touch(b->sv, child);
    b->changed = true;
    if (page->role & ROLE_ROOT)
        hw_of(vcpu)->work |= HW_WORK_ROOT; /* which are loaded with it */
    return child;
}

/* From the root to the table whose entry the walk ends at, and that entry. */
static struct shadow_page *reach(struct build *b, struct virtx_vcpu *vcpu, unsigned floor,
                                 unsigned *index, unsigned *at, unsigned *last, uint64_t *hpa)
{
    struct shadow_page *page = b->v->root;
    unsigned level = shadow_level(page), step = 0;

    for (;; level--) {
        *index = shadow_index(b->gva, level) & (page->role & ROLE_ROOT ? 3 : 511);
        *last = step;
        *at = level;
        if (level == 1 || level == floor)
            return page;
        if (level == 2 && b->slot && b->bytes > VIRTX_PAGE_SIZE && shadow_large_leaf(b, hpa))
            return page;
        page = descend(b, vcpu, page, *index, level, step);
        if (!page)
            return NULL;
        if (level != 3 || !(b->v->role & (ROLE_32 | ROLE_PAE)))
            step++;
    }
}

/* ---- MMIO ---- */

struct shadow_page *shadow_lookup(const struct shadow_vcpu *v, uint64_t gva, unsigned *index)
{
    struct shadow_page *page = v->root;
    unsigned level;

    for (level = shadow_level(page);; level--) {
        *index = shadow_index(gva, level) & (page->role & ROLE_ROOT ? 3 : 511);
        if (!shadow_maps(page->entry[*index]) || shadow_is_leaf(page->entry[*index], level))
            return page;
        page = page->child[*index];
    }
}

bool shadow_known_device(const struct shadow_vm *sv, const struct shadow_vcpu *v,
                         struct virtx_page_fault *fault)
{
    unsigned index;
    struct shadow_page *page = shadow_lookup(v, fault->gva, &index);
    uint64_t gpa;
    uint32_t rights;

    if (page->entry[index] != sv->marker || fault->access == VIRTX_EXECUTE)
        return false;
    if (page->role & ROLE_DIRECT) {
        gpa = (page->gfn + index) << 12;
        rights = page->role & ROLE_ACCESS;
    } else {
        gpa = page->copy[index] & SPTE_ADDRESS;
        rights = page->copy[index] & ROLE_ACCESS;
    }
    /* What other registers decide is left to the walk. */
    if (rights & ROLE_U ? (v->mode.cr4 & (CR4_SMAP | CR4_PKE)) : fault->error & PF_USER)
        return false;
    if ((fault->error & PF_WRITE) && !(rights & ROLE_W))
        return false;
    fault->gpa = gpa | (fault->gva & 0xfff);
    return true;
}

/* Remembers a device, if there is memory for it. */
static void remember_device(struct build *b, struct virtx_vcpu *vcpu)
{
    unsigned index, level, step;
    uint64_t hpa;
    struct shadow_page *page = reach(b, vcpu, 1, &index, &level, &step, &hpa);

    if (page && level == 1)
        shadow_entry_marker(b->sv, page, index,
                            (b->gpa & SPTE_ADDRESS) | (b->rights & ROLE_ACCESS));
}

/* ---- The fault ---- */

/* An access that no slot allows; as with nested paging. */
static enum virtx_fault_result refused(struct build *b, struct virtx_vcpu *vcpu,
                                       struct virtx_page_fault *fault)
{
    if (!b->slot) {
        remember_device(b, vcpu);
        return VIRTX_FAULT_NOT_MEMORY;
    }
    if (fault->access == VIRTX_WRITE && (b->slot->flags & VIRTX_MEMSLOT_WRITE_MMIO))
        return VIRTX_FAULT_NOT_MEMORY;
    return VIRTX_FAULT_FORBIDDEN;
}

/* Its tables allow the access by all that we know: it was the guest's own fault (an implicit access
 * under SMAP), or an old translation. */
enum virtx_fault_result shadow_fault_again(struct virtx_vcpu *vcpu,
                                           const struct virtx_page_fault *fault)
{
    struct shadow_vcpu *v = shadow_vcpu_of(vcpu);

    if (v->last_gva != fault->gva || v->last_error != fault->error)
        v->spurious = 0;
    v->last_gva = fault->gva;
    v->last_error = fault->error;
    if (++v->spurious > 2 && (fault->error & PF_PRESENT) && !(fault->error & PF_RESERVED)) {
        v->spurious = 0;
        return VIRTX_FAULT_REFLECT;
    }
    hw_owe(hw_of(vcpu), HW_FLUSH_TAG);
    return VIRTX_FAULT_RESUME;
}

enum virtx_fault_result shadow_no_memory(struct shadow_vm *sv)
{
    struct virtx_vm *vm = sv->vm;

    if (!sv->waiting)
        return VIRTX_FAULT_NO_MEMORY;
    /* Others have to flush first. */
    virtx_lock(&vm->page_lock);
    for (struct virtx_vcpu *vcpu = vm->vcpus; vcpu; vcpu = vcpu->next)
        virtx_request(vcpu, VIRTX_REQUEST_EVENT);
    virtx_unlock(&vm->page_lock);
    return VIRTX_FAULT_RESUME;
}

static enum virtx_fault_result map(struct build *b, struct virtx_vcpu *vcpu,
                                   struct virtx_page_fault *fault)
{
    struct shadow_page *page;
    unsigned index, level, step;
    uint64_t hpa;

    fault->gpa = b->gpa;
    b->slot = virtx_slot_find(virtx_slots(b->vm), b->gpa);
    if (!shadow_leaf_rights(b, fault->error & PF_USER))
        return b->slot ? VIRTX_FAULT_EXECUTE : VIRTX_FAULT_NOT_MEMORY;
    if (!b->slot || (fault->access & ~b->slot->rights))
        return refused(b, vcpu, fault);
    hpa = virtx_hpa(b->vm->virtx, b->slot->memory + ((b->gpa & SPTE_ADDRESS) - b->slot->gpa));
    if (!shadow_usable(b->sv, hpa))
        return VIRTX_FAULT_FORBIDDEN;
    if (b->write && (b->rights & ROLE_W) && shadow_is_protected(b->sv, b->gpa >> 12) &&
        shadow_executes(b->sv, vcpu, b->gpa >> 12))
        return VIRTX_FAULT_EXECUTE;
    page = reach(b, vcpu, 0, &index, &level, &step, &hpa);
    if (!page)
        return shadow_no_memory(b->sv);
    shadow_leaf_make(b, page, index, step, level, hpa);
    if (unlikely(!b->changed))
        return shadow_fault_again(vcpu, fault);
    b->v->spurious = 0;
    return VIRTX_FAULT_RESUME;
}

/* The guest's own fault, on an entry that is not present. Where our tables say the same, the
 * processor delivers the next one by itself; those on the way there it has used. */
static void learn_absent(struct build *b, struct virtx_vcpu *vcpu)
{
    struct shadow_page *page = b->v->root;
    unsigned level = 4, step;

    if (!b->sv->unknown || shadow_level(page) != 4 || !b->path.count)
        return;
    b->path.entry[b->path.count++] = 0;
    for (step = 0; step + 1u < b->path.count; step++, level--) {
        page = descend(b, vcpu, page, shadow_index(b->gva, level), level, step);
        if (!page)
            return;
    }
    shadow_entry_absent(b->sv, page, shadow_index(b->gva, level));
}

/* Walks the guest's tables, and then ours. */
enum virtx_fault_result shadow_fault_walk(struct virtx_vcpu *vcpu, struct virtx_page_fault *fault)
{
    struct shadow_vcpu *v = shadow_vcpu_of(vcpu);
    struct build build = {.sv = shadow_vm_of(vcpu->vm),
                          .v = v,
                          .vm = vcpu->vm,
                          .write = fault->access == VIRTX_WRITE};
    struct build *b = &build;
    uint32_t flags = WALK_SET_FLAGS | (fault->error & PF_USER ? WALK_USER : 0);
    struct walk_result walk;

    if (b->sv->unknown)
        flags |= WALK_SET_TABLES;
    if (v->mode.cr4 & (CR4_SMAP | CR4_PKE))
        hw_walk_mode(hw_of(vcpu), &v->mode); /* RFLAGS.AC, PKRU */
    switch (
        walk_guest_path(b->vm, &b->v->mode, fault->gva, fault->access, flags, &walk, &b->path)) {
    case VIRTX_OK:
        break;
    case VIRTX_E_FAULT:
        fault->error = walk.error;
        b->gva = fault->gva;
        if (!(walk.error & PF_PRESENT))
            learn_absent(b, vcpu);
        return VIRTX_FAULT_REFLECT;
    case VIRTX_E_RANGE:
        fault->access = VIRTX_WRITE;
        fault->gpa = b->path.table;
        fault->table_walk = true;
        return VIRTX_FAULT_FORBIDDEN;
    default:
        fault->gpa = b->path.table;
        fault->table_walk = true;
        return VIRTX_FAULT_FORBIDDEN;
    }
    b->gva = fault->gva;
    b->gpa = walk.gpa;
    b->bytes = b->path.count ? walk.bytes : shadow_span(2);
    return map(b, vcpu, fault);
}
