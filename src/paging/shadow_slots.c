/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Slots change, logs are collected, and the host writes guest memory.
 *
 * Faults read the slots with the lock held. Whoever changes them publishes first and then comes
 * here, so a fault before that is undone here and one after it has seen the new slots. A page's log
 * bit is set when a leaf is given the right to write, with the lock held; so collecting takes the
 * right away after the bits have been taken (virtx_paging::dirty_at_grant).
 */
#include "paging/shadow.h"

static void clear_leaf(struct shadow_vm *sv, struct shadow_page *page, unsigned index)
{
    shadow_entry_clear(sv, page, index);
}

static void protect_leaf(struct shadow_vm *sv, struct shadow_page *page, unsigned index)
{
    if (page->entry[index] & SPTE_W) {
        __atomic_fetch_and(&page->entry[index], ~SPTE_W, __ATOMIC_RELAXED);
        sv->narrowed++;
    }
}

/* Tables that lie in the range say nothing any more. */
static void drop_tables(struct shadow_vm *sv, uint64_t gfn, uint64_t count)
{
    struct shadow_page *page = sv->oldest, *next;

    for (; page; page = next) {
        next = page->newer;
        if (!(page->role & ROLE_DIRECT) && page->gfn - gfn < count)
            shadow_page_drop(sv, page);
    }
}

/* Memory has come where accesses went to devices. */
static void drop_markers(struct shadow_vm *sv, uint64_t gfn, uint64_t count)
{
    for (struct shadow_page *page = sv->oldest; page && sv->markers; page = page->newer) {
        bool left = false;

        if (!page->has_markers)
            continue;
        for (unsigned i = 0; i < SHADOW_ENTRIES; i++) {
            if (page->entry[i] != sv->marker)
                continue;
            if (shadow_leaf_gfn(page, i) - gfn < count)
                shadow_entry_clear(sv, page, i);
            else
                left = true;
        }
        page->has_markers = left;
        sv->markers -= !left;
    }
}

/* Tables that were not in memory are to be found where they are now. */
static void drop_absent(struct shadow_vm *sv, uint64_t gfn, uint64_t count)
{
    struct shadow_page *page = sv->oldest, *next;

    for (; page; page = next) {
        next = page->newer;
        if (!(page->role & ROLE_DIRECT) && !page->guest && page->gfn - gfn < count)
            shadow_page_drop(sv, page);
    }
}

void shadow_memory(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes,
                   enum virtx_memory_change change)
{
    struct shadow_vm *sv = shadow_vm_of(vm);
    uint64_t gfn = gpa >> 12, count = bytes >> 12;

    virtx_lock(&sv->lock);
    sv->stamp++;
    switch (change) {
    case VIRTX_MEMORY_ADDED:
        drop_markers(sv, gfn, count);
        drop_absent(sv, gfn, count);
        break;
    case VIRTX_MEMORY_REMOVED:
    case VIRTX_MEMORY_MOVED:
        drop_tables(sv, gfn, count);
        shadow_for_leaves(sv, gfn, count, clear_leaf);
        break;
    case VIRTX_MEMORY_NARROWED:
        shadow_for_leaves(sv, gfn, count, clear_leaf);
        break;
    case VIRTX_MEMORY_WIDENED: /* rights come with the next fault, but not to what seems a device */
        drop_markers(sv, gfn, count);
        break;
    }
    shadow_settle(sv);
    virtx_unlock(&sv->lock);
}

void shadow_collect_dirty(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes)
{
    struct shadow_vm *sv = shadow_vm_of(vm);

    virtx_lock(&sv->lock);
    shadow_for_leaves(sv, gpa >> 12, bytes >> 12, protect_leaf);
    virtx_unlock(&sv->lock);
}

/* Interrupts may be on: the host writes from its own threads too. */
void shadow_written(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes)
{
    struct shadow_vm *sv = shadow_vm_of(vm);
    uint64_t flags = virtx_lock_irq(&sv->lock);

    while (bytes) {
        uint64_t here = min_u64(bytes, VIRTX_PAGE_SIZE - gpa % VIRTX_PAGE_SIZE);

        shadow_table_told(sv, gpa, here);
        gpa += here;
        bytes -= here;
    }
    virtx_unlock_irq(&sv->lock, flags);
}
