/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Page faults, the quick way: 4-level tables with CR0.WP, where the tables above the last have been
 * met. Then the guest's are read beside ours, and where each entry is the one that ours was made
 * from, the walk is as good as done. Whatever else is unusual is left to the walk (shadow_fault.c).
 *
 * The way down to the last table is remembered. It is used again when every entry of the guest's on
 * it, read again, is what it was, no link between our tables has changed and no slot: so there is
 * nothing to invalidate.
 */
#include "paging/shadow_build.h"

struct quick {
    struct shadow_vm *sv;
    struct shadow_vcpu *v;
    struct virtx_vcpu *vcpu;
    struct virtx_page_fault *fault;
    uint64_t generation; /* the VM's */
    uint64_t entry;      /* of the guest's last table, with the flags that the access sets */
    uint64_t gpa, key;
    uint32_t rights;
};

enum way { WAY_FOUND, WAY_ABSENT, WAY_UNKNOWN };

/* Where the processor may find by itself that an entry is not present, our tables have to lead
 * there. */
static inline bool learns(const struct shadow_vm *sv, const struct shadow_page *page)
{
    return sv->unknown && !page;
}

static inline uint64_t table_entry(const uint8_t *table, unsigned index)
{
    return __atomic_load_n((const uint64_t *)(const void *)table + index, __ATOMIC_RELAXED);
}

/* The slot of a page of the guest's: the one met last, or NULL. */
static inline const struct slot_entry *slot_of(const struct quick *q, uint64_t gpa)
{
    struct shadow_vcpu *v = q->v;

    if (likely(v->slot_generation == q->generation && gpa - v->slot_gpa < v->slot_bytes))
        return v->slot;
    v->slot = virtx_slot_find(virtx_slots(q->sv->vm), gpa);
    if (!v->slot)
        return v->slot_bytes = 0, NULL;
    v->slot_gpa = v->slot->gpa;
    v->slot_bytes = v->slot->end - v->slot->gpa;
    v->slot_generation = q->generation;
    return v->slot;
}

/* Host address of a table that we have not met, for the sake of faults below it. */
static const uint8_t *unknown_table(const struct quick *q, uint64_t entry)
{
    const struct slot_entry *slot;
    const uint8_t *table;

    if (entry & (q->v->reserved | GPTE_PS))
        return NULL;
    slot = slot_of(q, entry & SPTE_ADDRESS);
    if (!slot)
        return NULL;
    table = slot->memory + ((entry & SPTE_ADDRESS) - slot->gpa);
    return virtx_hpa(q->sv->vm->virtx, table) == UINT64_MAX ? NULL : table;
}

/* Down to the page whose entry is the last, and the guest's table it was made from. WAY_ABSENT: an
 * entry of the guest's is not present. */
static __attribute__((noinline)) enum way find_way(struct quick *q, struct shadow_page **out,
                                                   const uint8_t **last)
{
    struct shadow_vm *sv = q->sv;
    struct shadow_way *way = &q->v->way;
    struct shadow_page *page = q->v->root, *child;
    const uint8_t *table = page->guest;
    uint64_t gva = q->fault->gva;

    way->root = NULL;
    for (unsigned level = 4; level > 1; level--) {
        unsigned index = shadow_index(gva, level);
        uint64_t entry, ignored;

        if (page && (page->role & ROLE_DIRECT)) {
            if (!shadow_maps(page->entry[index]) || shadow_is_leaf(page->entry[index], level))
                return WAY_UNKNOWN;
            page = page->child[index];
            table = NULL;
            continue;
        }
        if (unlikely(!table))
            return WAY_UNKNOWN;
        entry = table_entry(table, index);
        if (!(entry & GPTE_P)) {
            if (learns(sv, page))
                return WAY_UNKNOWN;
            if (page)
                shadow_entry_absent(sv, page, index);
            return WAY_ABSENT;
        }
        way->at[4 - level] = (const uint64_t *)(const void *)table + index;
        way->entry[4 - level] = entry;
        ignored = entry & GPTE_PS ? 0 : GPTE_D;
        child = page ? page->child[index] : NULL;
        if (likely(child && shadow_maps(page->entry[index]) &&
                   !((entry ^ page->copy[index]) & page->relevant & ~ignored))) {
            page = child;
            table = page->guest;
        } else {
            page = NULL;
            if (level == 4 && (entry & GPTE_G)) /* reserved on some: the walk knows */
                return WAY_UNKNOWN;
            table = unknown_table(q, entry);
        }
    }
    *out = page;
    *last = table;
    if (page && (page->role & ROLE_DIRECT))
        return WAY_FOUND;
    if (!table)
        return WAY_UNKNOWN;
    if (page) {
        const struct slot_entry *slot = slot_of(q, page->gfn << 12);

        way->writable = slot && (slot->rights & VIRTX_WRITE) && !slot->dirty;
    }
    way->root = q->v->root;
    way->top = q->v->root->guest;
    way->region = gva >> 21;
    way->links = sv->links;
    way->generation = q->generation;
    way->page = page;
    way->table = table;
    return WAY_FOUND;
}

/* Only the guest's registers and tables decide where a walk leads; reading the same, it leads there
 * again. */
static inline bool way_holds(const struct quick *q)
{
    const struct shadow_way *way = &q->v->way;

    return way->region == q->fault->gva >> 21 && way->root == q->v->root &&
           way->links == q->sv->links && way->generation == q->generation &&
           way->top == q->v->root->guest &&
           __atomic_load_n(way->at[0], __ATOMIC_RELAXED) == way->entry[0] &&
           __atomic_load_n(way->at[1], __ATOMIC_RELAXED) == way->entry[1] &&
           __atomic_load_n(way->at[2], __ATOMIC_RELAXED) == way->entry[2];
}

/* Whether such rights allow the access. Keys, and AC where the kernel goes to a user's page, count
 * too: the walk knows. */
static inline bool plainly_allowed(const struct quick *q)
{
    uint32_t rights = q->rights, error = q->fault->error;
    uint64_t cr4 = q->v->mode.cr4;
    bool write = q->fault->access == VIRTX_WRITE;

    if (!(q->v->role & ROLE_WP) || (write && !(rights & ROLE_W)))
        return false;
    if (!(rights & ROLE_U))
        return !(error & PF_USER) && (q->fault->access != VIRTX_EXECUTE || (rights & ROLE_X));
    if (cr4 & CR4_PKE)
        return false;
    if (q->fault->access == VIRTX_EXECUTE)
        return (rights & ROLE_X) && ((error & PF_USER) || !(cr4 & CR4_SMEP));
    return (error & PF_USER) || !(cr4 & CR4_SMAP);
}

/* The last entry of a table of the guest's: rights, flags, address. */
static inline bool take_entry(struct quick *q, struct shadow_page *page, uint64_t *at,
                              uint64_t entry)
{
    uint64_t wanted = entry | GPTE_A | (q->fault->access == VIRTX_WRITE ? GPTE_D : 0);
    uint32_t rights = page->role & ROLE_ACCESS;

    if (entry & q->v->reserved)
        return false;
    if (!(entry & GPTE_U))
        rights &= ~(uint32_t)ROLE_U;
    if (!(entry & GPTE_W))
        rights &= ~(uint32_t)ROLE_W;
    if (entry & GPTE_NX)
        rights &= ~(uint32_t)ROLE_X;
    q->rights = rights;
    if (!plainly_allowed(q))
        return false;
    if (entry != wanted &&
        (!q->v->way.writable || !__atomic_compare_exchange_n(at, &entry, wanted, false,
                                                             __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)))
        return false;
    if (!(wanted & GPTE_D))
        q->rights &= ~(uint32_t)ROLE_W;
    q->entry = wanted;
    q->gpa = wanted & SPTE_ADDRESS;
    q->key = wanted & SPTE_KEY;
    return true;
}

/* The guest's own fault on an entry that is not present, as its processor reports it. */
static inline enum virtx_fault_result absent(const struct quick *q)
{
    struct virtx_page_fault *fault = q->fault;

    fault->error &= PF_WRITE | PF_USER | PF_FETCH;
    if (!(q->v->mode.efer & EFER_NXE) && !(q->v->mode.cr4 & CR4_SMEP))
        fault->error &= ~PF_FETCH;
    return VIRTX_FAULT_REFLECT;
}

/* A neighbour is in use by the guest and not mapped yet. */
static inline bool neighbour_waits(const struct shadow_vm *sv, const struct shadow_page *page,
                                   unsigned index)
{
    const uint64_t used = GPTE_P | GPTE_A;
    unsigned next = index ^ 1;

    if (page->entry[next] != sv->unknown)
        return false;
    return !page->guest || (table_entry(page->guest, next) & used) == used;
}

/* The leaf. False: there is more to it. */
static inline bool map(struct quick *q, struct shadow_page *page, unsigned index,
                       enum virtx_fault_result *result)
{
    struct shadow_vm *sv = q->sv;
    const struct slot_entry *slot = slot_of(q, q->gpa);
    uint64_t gfn = q->gpa >> 12, hpa, entry;

    if (!slot || (q->fault->access & ~slot->rights) || slot->dirty)
        return false;
    hpa = virtx_hpa(sv->vm->virtx, slot->memory + (q->gpa - slot->gpa));
    if (!shadow_usable(sv, hpa))
        return false;
    q->fault->gpa = q->gpa | (q->fault->gva & 0xfff);
    if ((q->rights & ROLE_W) && shadow_is_protected(sv, gfn)) {
        if (q->fault->access == VIRTX_WRITE) {
            if (shadow_executes(sv, q->vcpu, gfn)) {
                *result = VIRTX_FAULT_EXECUTE;
                return true;
            }
            page->stamp = sv->stamp;
            shadow_table_written(sv, gfn);
        } else {
            q->rights &= ~(uint32_t)ROLE_W;
        }
    }
    entry = shadow_leaf_entry(slot, hpa, q->rights, q->key);
    *result = VIRTX_FAULT_RESUME;
    if (unlikely(page->entry[index] == entry) && (!page->copy || page->copy[index] == q->entry)) {
        *result = shadow_fault_again(q->vcpu, q->fault);
        return true;
    }
    shadow_entry_leaf(sv, page, index, entry, gfn, q->entry);
    q->v->spurious = 0;
    if (neighbour_waits(sv, page, index))
        shadow_map_ahead(sv, &q->v->mode, slot, page, index, q->key);
    return true;
}

/* A device met before. The fault is what a marker leads to; where that is no reserved bit, it may
 * be any absent entry. */
static inline bool is_device(const struct quick *q)
{
    uint32_t error = q->fault->error;

    if (!q->sv->markers || !(q->sv->marker & SPTE_P ? error & PF_RESERVED : !(error & PF_PRESENT)))
        return false;
    return shadow_known_device(q->sv, q->v, q->fault);
}

/* True: `*result` is the answer. */
static inline bool quick_fault(struct quick *q, enum virtx_fault_result *result)
{
    unsigned index = shadow_index(q->fault->gva, 1);
    struct shadow_page *page = q->v->way.page;
    const uint8_t *table = q->v->way.table;
    uint64_t entry;

    if (!way_holds(q)) {
        enum way way;

        if (unlikely(is_device(q)))
            goto device;
        way = find_way(q, &page, &table);

        if (way == WAY_UNKNOWN)
            return false;
        if (way == WAY_ABSENT) {
            *result = absent(q);
            return true;
        }
    }
    if (page && unlikely(page->entry[index] == q->sv->marker) && is_device(q))
        goto device;
    if (page && unlikely(page->role & ROLE_DIRECT)) {
        q->rights = page->role & ROLE_ACCESS;
        q->gpa = (page->gfn + index) << 12;
        q->key = (uint64_t)(page->role >> ROLE_KEY & 15) << 59;
        q->entry = 0;
        return plainly_allowed(q) && map(q, page, index, result);
    }
    entry = table_entry(table, index);
    if (!(entry & GPTE_P)) {
        if (learns(q->sv, page))
            return false;
        if (page)
            shadow_entry_absent(q->sv, page, index);
        *result = absent(q);
        return true;
    }
    return page && take_entry(q, page, (uint64_t *)(uintptr_t)table + index, entry) &&
           map(q, page, index, result);
device:
    *result = VIRTX_FAULT_NOT_MEMORY;
    return true;
}

/* Not even a root. */
static __attribute__((noinline)) enum virtx_fault_result without_root(struct quick *q)
{
    hw_of(q->vcpu)->work |= HW_WORK_ROOT;
    return shadow_root_make(q->vcpu) ? VIRTX_FAULT_RESUME : shadow_no_memory(q->sv);
}

enum virtx_fault_result shadow_fault(struct virtx_vcpu *vcpu, struct virtx_page_fault *fault)
{
    struct quick q;
    enum virtx_fault_result result;
    struct shadow_page *root;
    uint64_t before;

    q.sv = shadow_vm_of(vcpu->vm);
    q.v = shadow_vcpu_of(vcpu);
    q.vcpu = vcpu;
    q.fault = fault;
    q.generation = atomic_load_explicit(&vcpu->vm->generation, memory_order_acquire);
    virtx_lock(&q.sv->lock);
    before = q.sv->narrowed;
    root = q.v->root;
    q.sv->stamp++;
    if (unlikely(!root || q.v->stale || root->state != SHADOW_LIVE))
        result = without_root(&q);
    else if (unlikely(shadow_level(root) != 4) && is_device(&q))
        result = VIRTX_FAULT_NOT_MEMORY;
    else if (unlikely(shadow_level(root) != 4) || !quick_fault(&q, &result))
        result = shadow_fault_walk(vcpu, fault);
    shadow_settle(q.sv);
    /* What others have narrowed may wait until this vcpu's guest flushes. */
    if (q.sv->narrowed != before) {
        q.v->narrowed = q.sv->narrowed;
        hw_owe(hw_of(vcpu), HW_FLUSH_TAG);
    }
    virtx_unlock(&q.sv->lock);
    return result;
}
