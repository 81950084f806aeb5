/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Entries of shadow pages and the lists they are in: who maps a frame, who points to a table.
 *
 * Processors walk the tables all the time, so an entry is written by one 64-bit store, after what
 * it points to.
 */
#include "paging/shadow.h"

#define HEADS_PER (VIRTX_PAGE_SIZE / sizeof(uint32_t))

static uint32_t bucket_of(const struct shadow_vm *sv, uint64_t gfn)
{
    return (uint32_t)gfn & sv->rmap_mask;
}

static uint32_t *head_of(struct shadow_vm *sv, uint32_t list)
{
    uint32_t bucket = list & ~(uint32_t)(LINK_HEAD | LINK_PARENT);

    if (list & LINK_PARENT)
        return &shadow_page_number(sv, bucket)->parents;
    return &sv->rmap[bucket / HEADS_PER][bucket % HEADS_PER];
}

static struct shadow_link *link_of(struct shadow_vm *sv, uint32_t id)
{
    return &shadow_page_number(sv, id / SHADOW_ENTRIES)->link[id % SHADOW_ENTRIES];
}

static inline void list_add(struct shadow_vm *sv, uint32_t *head, uint32_t list,
                            struct shadow_page *page, unsigned index)
{
    uint32_t id = page->number * SHADOW_ENTRIES + index;

    page->link[index].prev = list;
    page->link[index].next = *head;
    if (*head)
        link_of(sv, *head)->prev = id;
    *head = id;
}

static void list_remove(struct shadow_vm *sv, const struct shadow_link *link)
{
    if (link->next)
        link_of(sv, link->next)->prev = link->prev;
    if (link->prev & LINK_HEAD)
        *head_of(sv, link->prev) = link->next;
    else
        link_of(sv, link->prev)->next = link->next;
}

static inline void store(struct shadow_page *page, unsigned index, uint64_t entry)
{
    __atomic_store_n(&page->entry[index], entry, __ATOMIC_RELEASE);
    page->used[index / 64] |= BIT(index % 64);
}

void shadow_entry_clear(struct shadow_vm *sv, struct shadow_page *page, unsigned index)
{
    uint64_t entry = page->entry[index], unknown = shadow_unknown(sv, page);

    if (entry == unknown)
        return;
    __atomic_store_n(&page->entry[index], unknown, __ATOMIC_RELEASE);
    page->used[index / 64] &= ~BIT(index % 64);
    if (!shadow_maps(entry))
        return;
    sv->narrowed++;
    list_remove(sv, &page->link[index]);
    if (!shadow_is_leaf(entry, shadow_level(page)))
        page->child[index] = NULL, sv->links++;
    else if (shadow_level(page) > 1)
        sv->large--;
}

void shadow_entry_absent(struct shadow_vm *sv, struct shadow_page *page, unsigned index)
{
    if (!sv->unknown || page->entry[index] != sv->unknown || page->unsync || !page->guest ||
        sv->unsync[SHADOW_TABLES])
        return;
    store(page, index, 0);
    page->absent |= (uint8_t)(1u << index / 64);
    if (!page->absent_listed) {
        page->absent_listed = true;
        page->absent_next = sv->absent;
        sv->absent = page;
    }
}

void shadow_forget_absent(struct shadow_vm *sv, struct shadow_page *page)
{
    for (unsigned words = page->absent; words; words &= words - 1) {
        unsigned word = (unsigned)__builtin_ctz(words);

        for (uint64_t bits = page->used[word]; bits; bits &= bits - 1) {
            unsigned index = word * 64 + (unsigned)__builtin_ctzll(bits);

            if (!page->entry[index])
                shadow_entry_clear(sv, page, index);
        }
    }
    page->absent = 0;
}

void shadow_forget_all_absent(struct shadow_vm *sv)
{
    for (struct shadow_page *page = sv->absent; page; page = page->absent_next) {
        page->absent_listed = false;
        shadow_forget_absent(sv, page);
    }
    sv->absent = NULL;
}

void shadow_entries_begin(const struct shadow_vm *sv, uint64_t *entries)
{
    uint64_t count = SHADOW_ENTRIES;

    if (sv->unknown)
        __asm__ volatile("rep stosq" : "+D"(entries), "+c"(count) : "a"(sv->unknown) : "memory");
}

void shadow_page_empty(struct shadow_vm *sv, struct shadow_page *page)
{
    for (unsigned word = 0; word < ARRAY_SIZE(page->used); word++)
        while (page->used[word])
            shadow_entry_clear(sv, page, word * 64 + (unsigned)__builtin_ctzll(page->used[word]));
    if (page->has_markers)
        sv->markers--;
    page->has_markers = false;
    page->absent = 0;
}

/* The same frame with other rights stays in its list. */
static bool same_frame(const struct shadow_page *page, unsigned index, uint64_t entry, uint64_t gfn)
{
    uint64_t old = page->entry[index];

    return shadow_maps(old) && shadow_is_leaf(old, shadow_level(page)) &&
           !((old ^ entry) & SPTE_ADDRESS) && shadow_leaf_gfn(page, index) == gfn;
}

/* What is there already goes, or is found to lead to the same frame. */
static __attribute__((noinline)) bool replace(struct shadow_vm *sv, struct shadow_page *page,
                                              unsigned index, uint64_t entry, uint64_t gfn)
{
    if (!same_frame(page, index, entry, gfn)) {
        shadow_entry_clear(sv, page, index);
        return false;
    }
    /* With SMEP and SMAP what users gain the kernel loses; and by another alias of the page nothing
     * has faulted that would have taken the old translation away. */
    if ((page->entry[index] & ~entry & SPTE_W) ||
        ((page->entry[index] ^ entry) & (SPTE_U | SPTE_NX | SPTE_KEY)))
        sv->narrowed++;
    return true;
}

void shadow_entry_leaf(struct shadow_vm *sv, struct shadow_page *page, unsigned index,
                       uint64_t entry, uint64_t gfn, uint64_t copy)
{
    if (page->entry[index] == sv->unknown || !replace(sv, page, index, entry, gfn)) {
        uint32_t bucket = bucket_of(sv, gfn);

        list_add(sv, &sv->rmap[bucket / HEADS_PER][bucket % HEADS_PER],
                 (uint32_t)LINK_HEAD | bucket, page, index);
        if (shadow_level(page) > 1)
            sv->large++;
    }
    if (page->copy)
        page->copy[index] = copy;
    store(page, index, entry);
}

void shadow_entry_table(struct shadow_vm *sv, struct shadow_page *page, unsigned index,
                        struct shadow_page *child, uint64_t copy)
{
    /* PAE's four have reserved bits where the others have rights. */
    uint64_t rights = page->role & ROLE_ROOT ? SPTE_P : SPTE_P | SPTE_W | SPTE_U;

    shadow_entry_clear(sv, page, index);
    if (page->copy)
        page->copy[index] = copy;
    page->child[index] = child;
    list_add(sv, &child->parents, (uint32_t)(LINK_HEAD | LINK_PARENT) | child->number, page, index);
    child->fresh = false;
    sv->links++;
    store(page, index, child->hpa | rights);
}

void shadow_entry_marker(struct shadow_vm *sv, struct shadow_page *page, unsigned index,
                         uint64_t copy)
{
    shadow_entry_clear(sv, page, index);
    if (page->copy)
        page->copy[index] = copy;
    if (!page->has_markers)
        sv->markers++;
    page->has_markers = true;
    store(page, index, sv->marker);
}

/* ---- Who maps a frame ---- */

uint64_t shadow_leaf_gfn(const struct shadow_page *page, unsigned index)
{
    unsigned level = shadow_level(page);
    uint64_t copy, base;

    if (page->role & ROLE_DIRECT)
        return page->gfn + ((uint64_t)index << SHADOW_SPAN_BITS * (level - 1));
    copy = page->copy[index];
    if ((page->entry[index] & ~SPTE_P) == SPTE_MARKER)
        return (copy & SPTE_ADDRESS) >> 12;
    if (!(page->role & ROLE_32))
        return (copy & SPTE_ADDRESS & ~(shadow_span(level) - 1)) >> 12;
    if (level == 1)
        return copy >> 12 & 0xfffff;
    /* PSE-36, in two halves. */
    base = (copy & bits_mask(31, 22)) | (copy & bits_mask(20, 13)) << 19;
    return (base >> 12) + (index & 1 ? 512 : 0);
}

static void bucket_leaves(struct shadow_vm *sv, uint64_t at, uint64_t gfn, uint64_t count,
                          shadow_leaf_fn fn)
{
    uint32_t list = bucket_of(sv, at), id = *head_of(sv, list);

    while (id) {
        struct shadow_page *page = shadow_page_number(sv, id / SHADOW_ENTRIES);
        unsigned index = id % SHADOW_ENTRIES, level = shadow_level(page);
        uint64_t first = shadow_leaf_gfn(page, index);
        uint64_t frames = shadow_span(level) >> 12;

        id = page->link[index].next; /* fn may take it out */
        /* Each leaf once: it is in the bucket of its first frame. */
        if (first == at && gfn < first + frames && first < gfn + count)
            fn(sv, page, index);
    }
}

/* All leaves of all pages: where there are more frames than entries to look at. */
static void all_leaves(struct shadow_vm *sv, uint64_t gfn, uint64_t count, shadow_leaf_fn fn)
{
    for (struct shadow_page *page = sv->oldest; page; page = page->newer) {
        unsigned level = shadow_level(page);
        uint64_t frames = shadow_span(level) >> 12;

        if (level > 2)
            continue;
        for (unsigned word = 0; word < ARRAY_SIZE(page->used); word++)
            for (uint64_t bits = page->used[word]; bits; bits &= bits - 1) {
                unsigned index = word * 64 + (unsigned)__builtin_ctzll(bits);
                uint64_t first;

                if (!shadow_maps(page->entry[index]) || !shadow_is_leaf(page->entry[index], level))
                    continue;
                first = shadow_leaf_gfn(page, index);
                if (gfn < first + frames && first < gfn + count)
                    fn(sv, page, index);
            }
    }
}

void shadow_for_leaves(struct shadow_vm *sv, uint64_t gfn, uint64_t count, shadow_leaf_fn fn)
{
    if (count > 1024) {
        all_leaves(sv, gfn, count, fn);
        return;
    }
    for (uint64_t i = 0; i < count; i++)
        bucket_leaves(sv, gfn + i, gfn, count, fn);
    /* Large leaves that begin before the range. */
    if (sv->large && (gfn & 511))
        bucket_leaves(sv, gfn & ~511ull, gfn, count, fn);
}

static void protect(struct shadow_vm *sv, struct shadow_page *page, unsigned index)
{
    uint64_t entry = page->entry[index];

    if (!(entry & SPTE_W))
        return;
    if (shadow_level(page) > 1)
        shadow_entry_clear(sv, page, index);
    else
        store(page, index, entry & ~SPTE_W);
    sv->narrowed++;
}

bool shadow_protect(struct shadow_vm *sv, uint64_t gfn)
{
    uint64_t before = sv->narrowed;

    shadow_for_leaves(sv, gfn, 1, protect);
    return sv->narrowed != before;
}
