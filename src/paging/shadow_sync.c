/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * When the guest writes its tables.
 *
 * A table that has been shadowed is write-protected. The first write faults; it is not executed for
 * the guest, but let through from then on, whatever the table's level: the page is out of sync. It
 * may stay behind until the guest flushes its TLB, by the rules that a TLB may (Intel SDM
 * "Recommended Invalidation"), because what we keep is no more than a TLB could: entries as they
 * were when the processor last read them. At the flush each entry in use is compared with the
 * guest's, which is quick, and the table protected again.
 *
 * - INVLPG takes one page's translation away, and everything kept of tables above the last (Intel
 *   SDM "Operations that Invalidate TLBs and Paging-Structure Caches"): so tables that point to
 *   tables are all compared, page tables in the one entry, or put off if no root leads there.
 * - A flush by CR3 looks at those page tables that the new root leads to. The others are put off
 * until a root leads to them: one that is loaded, or one that a table which exists already is
 * linked into, when all are looked at.
 * - A table that is written between any two flushes is left unprotected for some of them.
 * - A table that nothing points to, or that the processor has not used for some writes, is dropped:
 *   it is about to become something else, or is being torn down.
 * - A table that flushes look at again and again and find unchanged, but for an entry or two, stays
 * protected, and its writes are executed for the guest, until many come without a flush between: a
 * kernel that loads CR3 at each of its entries and exits (page table isolation) and fills a page
 * table fault by fault.
 * That is VIRTX_TABLE_SYNC_ON_FLUSH. With VIRTX_TABLE_SYNC_EACH_WRITE the library executes the
 * writes and compares at once; with VIRTX_TABLE_SYNC_DROP nothing is let out of sync that can be
 * dropped.
 * - With several vcpus a table cannot be protected at once, as others may have translations that
 *   still allow writes. It is compared at each flush until all vcpus have flushed since its
 * protection, which takes a generation; many tables share one. A write meanwhile faults, and takes
 * the table back.
 */
#include "paging/shadow.h"

#define IDLE_MAX  3u   /* writes in a row to a table that the processor does not use */
#define HOT       4u   /* from here on a table is left unprotected … */
#define PARENTS   12u  /* so many are looked at to find a root */
#define ROUND     8u   /* tables to be protected again at once, with several vcpus */
#define HOT_AGAIN 12u  /* … for so many flushes */
#define WORTH     128u /* looks at entries that cost as much as a write that is executed */
#define BURST     8u   /* more such writes between two flushes are too many */

uint64_t shadow_guest_entry(const struct shadow_page *page, unsigned index)
{
    unsigned quadrant = page->role >> ROLE_QUADRANT & 3;
    const uint32_t *table;

    if (likely(!(page->role & ROLE_32)))
        return __atomic_load_n((const uint64_t *)(const void *)page->guest + index,
                               __ATOMIC_RELAXED);
    table = (const void *)page->guest;
    if (shadow_level(page) == 1)
        return __atomic_load_n(table + quadrant * 512 + index, __ATOMIC_RELAXED);
    return __atomic_load_n(table + quadrant * 256 + index / 2, __ATOMIC_RELAXED);
}

void shadow_unsync(struct shadow_vm *sv, struct shadow_page *page)
{
    struct shadow_page **head =
        &sv->unsync[shadow_level(page) == 1 ? SHADOW_LEAVES : SHADOW_TABLES];

    if (page->unsync) {
        sv->open += page->closing;
        page->closing = false;
        return;
    }
    page->unsync = true;
    if (head == &sv->unsync[SHADOW_TABLES])
        shadow_forget_all_absent(sv);
    else if (page->absent)
        shadow_forget_absent(sv, page);
    sv->open++;
    page->unsync_prev = NULL;
    page->unsync_next = *head;
    if (*head)
        (*head)->unsync_prev = page;
    *head = page;
}

void shadow_forget_unsync(struct shadow_vm *sv, struct shadow_page *page)
{
    if (!page->unsync)
        return;
    page->unsync = false;
    sv->open -= !page->closing;
    page->closing = false;
    if (page->unsync_next)
        page->unsync_next->unsync_prev = page->unsync_prev;
    if (page->unsync_prev)
        page->unsync_prev->unsync_next = page->unsync_next;
    else
        sv->unsync[shadow_level(page) == 1 ? SHADOW_LEAVES : SHADOW_TABLES] = page->unsync_next;
}

void shadow_compare_entry(struct shadow_vm *sv, struct shadow_page *page, unsigned index)
{
    const uint64_t flags = GPTE_A | GPTE_D;
    uint64_t entry = page->entry[index], now, change;

    if (entry == sv->unknown)
        return;
    if (unlikely(!page->guest) || unlikely(entry == sv->marker)) {
        shadow_entry_clear(sv, page, index);
        return;
    }
    now = shadow_guest_entry(page, index);
    if (unlikely(!entry)) { /* known not to be present */
        if (now & GPTE_P)
            shadow_entry_clear(sv, page, index);
        return;
    }
    change = (now ^ page->copy[index]) & page->relevant;
    if (likely(!change))
        return;
    /* More flags than the copy has are those that another access has set. */
    if ((change & ~flags) || (change & page->copy[index]))
        shadow_entry_clear(sv, page, index);
}

unsigned shadow_compare(struct shadow_vm *sv, struct shadow_page *page)
{
    unsigned looked = 0;

    for (unsigned word = 0; word < ARRAY_SIZE(page->used); word++)
        for (uint64_t bits = page->used[word]; bits; bits &= bits - 1, looked++)
            shadow_compare_entry(sv, page, word * 64 + (unsigned)__builtin_ctzll(bits));
    return looked;
}

/* At a flush: was it worth it? */
static void compare_and_judge(struct shadow_vm *sv, struct shadow_page *page)
{
    uint64_t narrowed = sv->narrowed;
    uint64_t looked = page->vain + shadow_compare(sv, page);
    uint64_t worth = WORTH * (sv->narrowed - narrowed);

    page->vain = looked < worth ? 0 : (uint16_t)min_u64(looked - worth, sv->vain_max);
}

bool shadow_table_costly(struct shadow_vm *sv, uint64_t gfn)
{
    bool costly = false;

    for (struct shadow_page *page = shadow_table_find(sv, gfn); page;
         page = shadow_table_next(page)) {
        if (page->unsync || page->vain < sv->vain_max)
            return false;
        if (page->burst_flush != sv->flushes)
            page->burst = 0;
        page->burst_flush = sv->flushes;
        if (++page->burst > BURST) {
            page->vain = 0;
            return false;
        }
        costly = true;
    }
    return costly;
}

/* Whether the processor comes to the page table from this root, a 4-level one; where that takes
 * long to tell, it may. */
static bool is_below(const struct shadow_vm *sv, const struct shadow_page *page,
                     const struct shadow_page *root)
{
    uint32_t id[3] = {page->parents}; /* the next parent to be looked at, on each level above */
    unsigned above = 0, looked = 0;

    for (;;) {
        const struct shadow_page *parent;

        if (!id[above]) {
            if (!above)
                return false;
            above--;
            continue;
        }
        parent = shadow_page_number(sv, id[above] / SHADOW_ENTRIES);
        id[above] = parent->link[id[above] % SHADOW_ENTRIES].next;
        if (parent == root || ++looked > PARENTS)
            return true;
        if (above < ARRAY_SIZE(id) - 1)
            id[++above] = parent->parents;
    }
}

static void sync_page(struct shadow_vm *sv, struct shadow_page *page, bool alone)
{
    if (alone && page->hot <= HOT) {
        /* First the protection, then the look. The guest does not run meanwhile. */
        shadow_protect(sv, page->gfn);
        shadow_forget_unsync(sv, page);
    }
    if (page->hot)
        page->hot--;
    compare_and_judge(sv, page);
}

void shadow_sync_tables(struct shadow_vm *sv)
{
    struct shadow_page *page = sv->unsync[SHADOW_TABLES], *next;
    bool alone = shadow_alone(sv);

    for (; page; page = next) {
        next = page->unsync_next;
        sync_page(sv, page, alone);
    }
}

void shadow_sync_leaves(struct shadow_vm *sv, const struct shadow_page *root)
{
    struct shadow_page *page = sv->unsync[SHADOW_LEAVES], *next;
    bool alone = shadow_alone(sv);

    sv->dropped = 0;
    if (!root)
        sv->put_off = false;
    for (; page; page = next) {
        next = page->unsync_next;
        if (root && !is_below(sv, page, root))
            sv->put_off = true;
        else
            sync_page(sv, page, alone);
    }
}

static bool round_is_over(struct shadow_vm *sv)
{
    bool over;

    virtx_lock(&sv->vm->page_lock);
    over = virtx_is_settled(sv->vm, sv->round);
    virtx_unlock(&sv->vm->page_lock);
    return over;
}

/* Everybody has flushed: nobody can write the tables any more without a fault. They are compared
 * for the last time by the flush that finds it so. */
static void end_round(struct shadow_vm *sv)
{
    for (unsigned list = 0; list < ARRAY_SIZE(sv->unsync); list++)
        for (struct shadow_page *page = sv->unsync[list], *next; page; page = next) {
            next = page->unsync_next;
            if (!page->closing)
                continue;
            shadow_forget_unsync(sv, page);
            shadow_compare(sv, page);
        }
    sv->round = 0;
}

static void begin_round(struct shadow_vm *sv)
{
    bool any = false;

    for (unsigned list = 0; list < ARRAY_SIZE(sv->unsync); list++)
        for (struct shadow_page *page = sv->unsync[list]; page; page = page->unsync_next) {
            if (page->hot > HOT)
                continue;
            shadow_protect(sv, page->gfn);
            page->closing = true;
            sv->open--;
            any = true;
        }
    if (any)
        sv->round = virtx_generation_next(sv->vm);
}

void shadow_sync_rounds(struct shadow_vm *sv)
{
    if (unlikely(sv->round) && round_is_over(sv))
        end_round(sv);
    if (sv->open >= ROUND && !sv->round && !shadow_alone(sv))
        begin_round(sv);
}

/* Whether the table has stopped being one. */
static bool is_idle(struct shadow_vm *sv, struct shadow_page *page)
{
    if (page->pins || page->stamp == sv->stamp)
        return false;
    if (!page->parents)
        return true;
    if (page->fresh || shadow_page_used(sv, page))
        page->idle = 0;
    else
        page->idle++;
    return page->idle >= IDLE_MAX;
}

/* Once between two flushes: an instruction may be fetched, or read, by way of the table that it
 * writes, and would never end. */
static bool to_be_dropped(struct shadow_vm *sv, const struct shadow_page *page)
{
    uint64_t bit = BIT(page->gfn % 64);

    if (sv->vm->config.table_sync != VIRTX_TABLE_SYNC_DROP || page->pins ||
        page->stamp == sv->stamp || (sv->dropped & bit))
        return false;
    sv->dropped |= bit;
    return true;
}

/* Whether its writes are executed, as far as this page is concerned. */
static bool is_executed(const struct shadow_vm *sv, const struct shadow_page *page)
{
    return sv->vm->config.table_sync == VIRTX_TABLE_SYNC_EACH_WRITE ||
           (sv->vm->config.table_sync == VIRTX_TABLE_SYNC_ON_FLUSH && page->vain >= sv->vain_max);
}

/* The entries made from these bytes; the others are as they were. */
static void compare_part(struct shadow_vm *sv, struct shadow_page *page, uint64_t gpa,
                         uint64_t bytes)
{
    unsigned first = (unsigned)(gpa % VIRTX_PAGE_SIZE);

    if (page->role & ROLE_32) {
        shadow_compare(sv, page);
        return;
    }
    for (unsigned i = first / 8; i <= (first + (unsigned)bytes - 1) / 8; i++)
        shadow_compare_entry(sv, page, i);
}

void shadow_table_told(struct shadow_vm *sv, uint64_t gpa, uint64_t bytes)
{
    for (struct shadow_page *page = shadow_table_find(sv, gpa >> 12); page;
         page = shadow_table_next(page)) {
        if (page->unsync || !is_executed(sv, page) || is_idle(sv, page))
            shadow_unsync(sv, page);
        else
            compare_part(sv, page, gpa, bytes);
    }
}

void shadow_table_written(struct shadow_vm *sv, uint64_t gfn)
{
    struct shadow_page *page = shadow_table_find(sv, gfn), *next;

    for (; page; page = next) {
        next = shadow_table_next(page);
        if (page->unsync && !page->closing)
            continue;
        if (is_idle(sv, page) || to_be_dropped(sv, page)) {
            shadow_page_drop(sv, page);
            continue;
        }
        page->hot = page->hot >= HOT ? HOT_AGAIN : (uint8_t)(page->hot + 2);
        shadow_unsync(sv, page);
    }
}
