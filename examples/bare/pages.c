/* SPDX-License-Identifier: BSD-2-Clause */
/* The page allocator: free blocks of 1 to 256 pages in buddy lists, whole free chunks of 2 MiB
 * in an array that is searched for runs. */
#include "internal.h"

#define CHUNK_ORDER     9
#define CHUNK_PAGES     (1u << CHUNK_ORDER)
#define PAGE_SHIFT      12
#define LOW_END         0x100000ull
#define CHUNKS_4GIB     ((1ull << 32) >> (PAGE_SHIFT + CHUNK_ORDER))
#define NO_CHUNK        SIZE_MAX
#define MAX_RESERVED    72

#define STATE_ALLOCATED 0x40
#define STATE_FREE      0x80 /* the first page of a free block; the order is added */

struct block {
    struct block *next, *previous;
};

struct range {
    uint64_t start, end;
};

static struct bare_lock lock;
static struct block lists[CHUNK_ORDER];
static uint8_t *page_state; /* one byte a page */
static uint8_t *chunk_free; /* one byte a chunk: all of it is free and in no list */
static size_t chunk_count;
static size_t in_use, available;
static struct range reserved[MAX_RESERVED];
static unsigned reserved_count;

static struct block *block_at(size_t page)
{
    return (struct block *)(uintptr_t)(page << PAGE_SHIFT);
}

static size_t page_of(const void *address)
{
    return (uintptr_t)address >> PAGE_SHIFT;
}

static void list_add(size_t page, unsigned order)
{
    struct block *block = block_at(page), *list = &lists[order];

    block->next = list->next;
    block->previous = list;
    list->next->previous = block;
    list->next = block;
    page_state[page] = (uint8_t)(STATE_FREE | order);
}

static void list_remove(size_t page)
{
    struct block *block = block_at(page);

    block->previous->next = block->next;
    block->next->previous = block->previous;
    page_state[page] = 0;
}

static void free_block(size_t page, unsigned order)
{
    for (; order < CHUNK_ORDER; order++) {
        size_t buddy = page ^ ((size_t)1 << order);
        if (page_state[buddy] != (STATE_FREE | order))
            break;
        list_remove(buddy);
        page &= ~((size_t)1 << order);
    }
    if (order == CHUNK_ORDER)
        chunk_free[page >> CHUNK_ORDER] = 1;
    else
        list_add(page, order);
}

static void free_pages(size_t page, size_t npages)
{
    available += npages;
    while (npages > 0) {
        unsigned order = CHUNK_ORDER;
        while ((page & (((size_t)1 << order) - 1)) != 0 || ((size_t)1 << order) > npages)
            order--;
        free_block(page, order);
        page += (size_t)1 << order;
        npages -= (size_t)1 << order;
    }
}

/* For small pages: from 4 GiB downwards, so that large blocks find room at the bottom; then what
 * is above. */
static size_t take_chunk(void)
{
    size_t low = chunk_count < CHUNKS_4GIB ? chunk_count : CHUNKS_4GIB;
    size_t found = NO_CHUNK;

    for (size_t i = low; i-- > 0 && found == NO_CHUNK;) {
        if (chunk_free[i])
            found = i;
    }
    for (size_t i = low; i < chunk_count && found == NO_CHUNK; i++) {
        if (chunk_free[i])
            found = i;
    }
    if (found != NO_CHUNK)
        chunk_free[found] = 0;
    return found;
}

static size_t take_chunk_run(size_t count, size_t align)
{
    for (size_t first = 0; first + count <= chunk_count; first += align) {
        size_t length = 0;
        while (length < count && chunk_free[first + length])
            length++;
        if (length == count) {
            memset(chunk_free + first, 0, count);
            return first;
        }
        first += length / align * align; /* the run ends there: no start before it can do */
    }
    return NO_CHUNK;
}

/* A block of 1 << order pages from the lists, or half of half of ... a chunk. */
static size_t take_block(unsigned order)
{
    unsigned from = order;
    size_t page;

    while (from < CHUNK_ORDER && lists[from].next == &lists[from])
        from++;
    if (from < CHUNK_ORDER) {
        page = page_of(lists[from].next);
        list_remove(page);
    } else {
        page = take_chunk();
        if (page == NO_CHUNK)
            return 0;
        page <<= CHUNK_ORDER;
    }
    while (from > order) {
        from--;
        list_add(page + ((size_t)1 << from), from);
    }
    return page;
}

/* Page number, 0 when there is none. *taken is what was really taken out of the free memory. */
static size_t take(size_t npages, size_t align, size_t *taken)
{
    size_t larger = npages > align ? npages : align;

    if (larger <= CHUNK_PAGES / 2) {
        unsigned order = 0;
        while (((size_t)1 << order) < larger)
            order++;
        *taken = (size_t)1 << order;
        return take_block(order);
    }
    size_t chunks = (npages + CHUNK_PAGES - 1) >> CHUNK_ORDER;
    size_t chunk = take_chunk_run(chunks, align > CHUNK_PAGES ? align >> CHUNK_ORDER : 1);
    *taken = chunks << CHUNK_ORDER;
    return chunk == NO_CHUNK ? 0 : chunk << CHUNK_ORDER;
}

void *bare_pages_alloc(size_t npages, size_t align_pages)
{
    size_t taken;

    if (npages == 0 || npages > chunk_count << CHUNK_ORDER ||
        (align_pages & (align_pages - 1)) != 0)
        return NULL;
    uint64_t flags = bare_lock_irq(&lock);
    size_t page = take(npages, align_pages, &taken);
    if (page != 0) {
        available -= taken;
        in_use += npages;
        memset(page_state + page, STATE_ALLOCATED, npages);
        free_pages(page + npages, taken - npages);
    }
    bare_unlock_irq(&lock, flags);
    return page != 0 ? block_at(page) : NULL;
}

void bare_pages_free(void *pages, size_t npages)
{
    size_t page = page_of(pages), end = chunk_count << CHUNK_ORDER;

    if (pages == NULL)
        return;
    if (((uintptr_t)pages & (BARE_PAGE_SIZE - 1)) != 0 || page > end || npages > end - page)
        bare_panic("freed pages %p + %zu: not from the allocator", pages, npages);
    uint64_t flags = bare_lock_irq(&lock);
    for (size_t i = page; i < page + npages; i++) {
        if (page_state[i] != STATE_ALLOCATED)
            bare_panic("freed page %p of %p + %zu: not allocated", (void *)block_at(i), pages,
                       npages);
    }
    memset(page_state + page, 0, npages);
    in_use -= npages;
    free_pages(page, npages);
    bare_unlock_irq(&lock, flags);
}

size_t bare_pages_in_use(void)
{
    return __atomic_load_n(&in_use, __ATOMIC_RELAXED);
}

size_t bare_pages_available(void)
{
    return __atomic_load_n(&available, __ATOMIC_RELAXED);
}

/* ---- Start ---- */

static void reserve(uint64_t start, uint64_t end)
{
    if (start == end) /* an empty module */
        return;
    if (reserved_count == MAX_RESERVED)
        bare_panic("too many reserved ranges");
    reserved[reserved_count++] = (struct range){start, end};
}

/* The first free stretch of `in`: it starts where no reserved range is, and ends at the next. */
static struct range first_free(struct range in)
{
    bool moved = true;

    while (moved) {
        moved = false;
        for (unsigned i = 0; i < reserved_count; i++) {
            if (in.start >= reserved[i].start && in.start < reserved[i].end) {
                in.start = reserved[i].end;
                moved = true;
            }
        }
    }
    in.start = (in.start + BARE_PAGE_SIZE - 1) & ~(BARE_PAGE_SIZE - 1ull);
    for (unsigned i = 0; i < reserved_count; i++) {
        if (reserved[i].start >= in.start && reserved[i].start < in.end)
            in.end = reserved[i].start;
    }
    in.end &= ~(BARE_PAGE_SIZE - 1ull);
    return in;
}

static bool usable_range(unsigned index, struct range *range)
{
    const struct bare_memory *memory = bare_memory_get(index);

    if (!memory->usable || memory->start >= BARE_MAPPED_END)
        return false;
    range->start = memory->start;
    range->end = memory->start + memory->size;
    if (range->end > BARE_MAPPED_END)
        range->end = BARE_MAPPED_END;
    return true;
}

/* Calls fn for each free stretch until it says true. */
static bool for_each_free(bool (*fn)(struct range range))
{
    struct range range;

    for (unsigned i = 0; i < bare_memory_count(); i++) {
        if (!usable_range(i, &range))
            continue;
        while (range.start < range.end) {
            struct range part = first_free(range);
            if (part.start < part.end && fn(part))
                return true;
            range.start = part.end > range.start ? part.end : range.end;
        }
    }
    return false;
}

static bool place_state(struct range range)
{
    size_t size = (chunk_count << CHUNK_ORDER) + chunk_count;

    if (range.end - range.start < size)
        return false;
    page_state = (uint8_t *)(uintptr_t)range.start;
    chunk_free = page_state + (chunk_count << CHUNK_ORDER);
    memset(page_state, 0, size);
    reserve(range.start, range.start + size);
    return true;
}

static bool add_free(struct range range)
{
    free_pages(range.start >> PAGE_SHIFT, (range.end - range.start) >> PAGE_SHIFT);
    return false;
}

void bare_pages_init(void)
{
    struct range range;
    uint64_t top = 0;

    for (unsigned i = 0; i < bare_memory_count(); i++) {
        if (usable_range(i, &range) && range.end > top)
            top = range.end;
    }
    chunk_count = (top + CHUNK_PAGES * BARE_PAGE_SIZE - 1) >> (PAGE_SHIFT + CHUNK_ORDER);
    for (unsigned i = 0; i < CHUNK_ORDER; i++)
        lists[i].next = lists[i].previous = &lists[i];
    reserve(0, LOW_END);
    reserve((uintptr_t)__image_start, (uintptr_t)__image_end);
    for (unsigned i = 0; i < bare_module_count(); i++) {
        uint64_t start = (uintptr_t)bare_module_get(i)->start;
        reserve(start, start + bare_module_get(i)->size);
    }
    if (chunk_count == 0 || !for_each_free(place_state))
        bare_panic("no memory: is there a memory map?");
    for_each_free(add_free);
}
