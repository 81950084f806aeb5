/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Shadow pages: found by frame and role, made, evicted, freed.
 *
 * Memory comes from the VM's pool, whose bound is the embedder's. Where it ends, the pages that
 * have been linked longest ago are evicted, unless the processor has used them since: an entry that
 * points to a table is made without its accessed flag. What is freed keeps its memory and is used
 * again; with several vcpus only after all have stopped walking it, which takes a generation.
 */
#include "paging/shadow.h"

/* Pages evicted at once, so that it is not done for each fault. */
#define EVICT      32u
#define HASH_PER   (VIRTX_PAGE_SIZE / sizeof(struct shadow_page *))
#define BLOCKS_PER (VIRTX_PAGE_SIZE / sizeof(struct shadow_page *))

struct shadow_page *shadow_page_number(const struct shadow_vm *sv, uint32_t number)
{
    uint32_t block = number / SHADOW_BLOCK;

    return sv->directory[block / BLOCKS_PER][block % BLOCKS_PER] + number % SHADOW_BLOCK;
}

static struct shadow_page **bucket(const struct shadow_vm *sv, uint64_t gfn)
{
    uint32_t at = (uint32_t)(gfn ^ gfn >> 11) & sv->hash_mask;

    return &sv->hash[at / HASH_PER][at % HASH_PER];
}

struct shadow_page *shadow_page_find(const struct shadow_vm *sv, uint64_t gfn, uint32_t role)
{
    struct shadow_page *page = *bucket(sv, gfn);

    while (page && (page->gfn != gfn || page->role != role))
        page = page->hash_next;
    return page;
}

static struct shadow_page *table_from(struct shadow_page *page, uint64_t gfn)
{
    while (page && (page->gfn != gfn || (page->role & ROLE_DIRECT)))
        page = page->hash_next;
    return page;
}

struct shadow_page *shadow_table_find(const struct shadow_vm *sv, uint64_t gfn)
{
    return table_from(*bucket(sv, gfn), gfn);
}

struct shadow_page *shadow_table_next(const struct shadow_page *page)
{
    return table_from(page->hash_next, page->gfn);
}

/* ---- Order of age ---- */

static void age_remove(struct shadow_vm *sv, struct shadow_page *page)
{
    if (page->older)
        page->older->newer = page->newer;
    else
        sv->oldest = page->newer;
    if (page->newer)
        page->newer->older = page->older;
    else
        sv->newest = page->older;
}

static void age_add(struct shadow_vm *sv, struct shadow_page *page)
{
    page->newer = NULL;
    page->older = sv->newest;
    if (sv->newest)
        sv->newest->newer = page;
    else
        sv->oldest = page;
    sv->newest = page;
}

void shadow_page_touch(struct shadow_vm *sv, struct shadow_page *page)
{
    if (page == sv->newest)
        return;
    age_remove(sv, page);
    age_add(sv, page);
}

/* Whether the processor has walked through the page since this was asked last. */
bool shadow_page_used(struct shadow_vm *sv, struct shadow_page *page)
{
    bool used = false;

    for (uint32_t id = page->parents; id;) {
        struct shadow_page *parent = shadow_page_number(sv, id / SHADOW_ENTRIES);
        unsigned index = id % SHADOW_ENTRIES;

        if (parent->entry[index] & SPTE_A) {
            __atomic_fetch_and(&parent->entry[index], ~SPTE_A, __ATOMIC_RELAXED);
            used = true;
        }
        id = parent->link[index].next;
    }
    return used;
}

/* ---- Memory ---- */

/* A page of headers more; false: no memory. */
static bool grow(struct shadow_vm *sv)
{
    uint32_t block = sv->pages / SHADOW_BLOCK;
    struct shadow_page *headers, **pointers;

    if (sv->pages + SHADOW_BLOCK > SHADOW_MAX_PAGES)
        return false;
    if (!sv->directory[block / BLOCKS_PER]) {
        pointers = virtx_pool_get(sv->vm);
        if (!pointers)
            return false;
        sv->directory[block / BLOCKS_PER] = pointers;
    }
    headers = virtx_pool_get(sv->vm);
    if (!headers)
        return false;
    sv->directory[block / BLOCKS_PER][block % BLOCKS_PER] = headers;
    for (unsigned i = 0; i < SHADOW_BLOCK; i++) {
        headers[i].number = sv->pages + i;
        if (sv->pages + i == 0)
            continue; /* number 0 means none */
        headers[i].older = sv->free;
        sv->free = &headers[i];
    }
    sv->pages += SHADOW_BLOCK;
    return true;
}

/* A page for a header: from the pool, else from another header that is not in use. */
static void *get_memory(struct shadow_vm *sv, const struct shadow_page *but)
{
    void *memory = virtx_pool_get(sv->vm);

    for (struct shadow_page *page = sv->free; page && !memory; page = page->older) {
        if (page == but)
            continue;
        memory = page->entry;
        page->entry = NULL;
        if (!memory) {
            memory = page->link;
            page->link = NULL;
        }
        if (!memory) {
            memory = page->copy;
            page->copy = NULL;
        }
        if (!memory) {
            memory = page->child;
            page->child = NULL;
        }
        if (memory)
            memset(memory, 0, VIRTX_PAGE_SIZE);
    }
    return memory;
}

/* The pages that a header needs for its role. False: there are not enough. */
static bool furnish(struct shadow_vm *sv, struct shadow_page *page, uint32_t role)
{
    if (!page->entry) {
        page->entry = get_memory(sv, page);
        if (!page->entry)
            return false;
        page->hpa = virtx_hpa(sv->vm->virtx, page->entry);
        if (page->hpa & ~SPTE_ADDRESS) { /* nonsense from the host */
            virtx_pool_put(sv->vm, page->entry, 0);
            page->entry = NULL;
            return false;
        }
        shadow_entries_begin(sv, page->entry);
    }
    if (!page->link)
        page->link = get_memory(sv, page);
    if (!page->copy && !(role & (ROLE_DIRECT | ROLE_ROOT)))
        page->copy = get_memory(sv, page);
    if (!page->child && (role & ROLE_LEVEL) > 1)
        page->child = get_memory(sv, page);
    return page->link && (page->copy || (role & (ROLE_DIRECT | ROLE_ROOT))) &&
           (page->child || (role & ROLE_LEVEL) == 1);
}

/* What no vcpu can be walking any more is free. */
static void collect(struct shadow_vm *sv)
{
    struct shadow_page **link = &sv->waiting;

    virtx_lock(&sv->vm->page_lock);
    while (*link) {
        struct shadow_page *page = *link;

        if (!page->generation || !virtx_is_settled(sv->vm, page->generation)) {
            link = &page->older;
            continue;
        }
        *link = page->older;
        page->state = SHADOW_FREE;
        page->older = sv->free;
        sv->free = page;
    }
    virtx_unlock(&sv->vm->page_lock);
}

static bool evict(struct shadow_vm *sv)
{
    struct shadow_page *page = sv->oldest;
    unsigned done = 0;

    for (uint32_t looked = 0; page && done < EVICT && looked < sv->pages; looked++) {
        struct shadow_page *next = page->newer;

        if (page->pins || page->stamp == sv->stamp ||
            (looked < sv->pages / 2 && shadow_page_used(sv, page))) {
            shadow_page_touch(sv, page);
        } else {
            shadow_page_drop(sv, page);
            done++;
        }
        page = next;
    }
    shadow_settle(sv);
    return done;
}

static struct shadow_page *take(struct shadow_vm *sv, uint32_t role)
{
    struct shadow_page *page;

    if (sv->waiting && (!sv->free || !sv->free->entry))
        collect(sv);
    if (!sv->free && !grow(sv))
        return NULL;
    page = sv->free;
    if (!furnish(sv, page, role)) {
        collect(sv);
        page = sv->free;
        if (!furnish(sv, page, role))
            return NULL;
    }
    sv->free = page->older;
    return page;
}

/* ---- Making and dropping ---- */

/* Bits of a guest's entry that a translation depends on. */
static uint64_t relevant_bits(uint32_t role)
{
    unsigned level = role & ROLE_LEVEL;
    uint64_t bits = GPTE_P | GPTE_W | GPTE_U | GPTE_A | GPTE_D | (level > 1 ? GPTE_PS : 0);

    if (role & ROLE_32)
        return bits | 0xfffff000;
    bits |= SPTE_ADDRESS | GPTE_NX | SPTE_KEY;
    if (level == 4)
        bits |= GPTE_G; /* reserved on AMD's processors */
    return role & ROLE_PAE ? bits | bits_mask(62, 52) : bits;
}

/* Host address of a guest's table, if it is in memory. */
static const uint8_t *guest_table(struct virtx_vm *vm, uint64_t gfn)
{
    const struct slot_entry *slot = virtx_slot_find(virtx_slots(vm), gfn << 12);
    const uint8_t *at;

    if (!slot)
        return NULL;
    at = slot->memory + ((gfn << 12) - slot->gpa);
    return virtx_hpa(vm->virtx, at) == UINT64_MAX ? NULL : at;
}

static void drop_large(struct shadow_vm *sv, struct shadow_page *page, unsigned index)
{
    if (shadow_level(page) > 1)
        shadow_entry_clear(sv, page, index);
}

/* Rights have been taken away since some vcpu's last flush: its processor may still have the frame
 * writable through a translation of which nothing is left in the tables. */
static bool somebody_is_behind(struct shadow_vm *sv)
{
    bool behind = false;

    if (shadow_alone(sv))
        return false;
    virtx_lock(&sv->vm->page_lock);
    for (struct virtx_vcpu *vcpu = sv->vm->vcpus; vcpu; vcpu = vcpu->next)
        behind |= shadow_vcpu_of(vcpu)->narrowed != sv->narrowed;
    virtx_unlock(&sv->vm->page_lock);
    return behind;
}

/* The frame is a table from now on: writes to it must be seen. With other vcpus, which may still
 * have translations that let them write, they cannot be; then it begins as if it had been written.
 */
static void begin_table(struct shadow_vm *sv, struct shadow_page *page)
{
    struct shadow_page *other = shadow_table_find(sv, page->gfn);

    sv->tables++;
    sv->region[page->gfn >> 9 & (SHADOW_REGIONS - 1)]++;
    if (sv->large)
        shadow_for_leaves(sv, page->gfn, 1, drop_large);
    page->relevant = relevant_bits(page->role);
    page->guest = guest_table(sv->vm, page->gfn);
    if (other) {
        if (other->unsync)
            shadow_unsync(sv, page);
        return;
    }
    if ((shadow_protect(sv, page->gfn) && !shadow_alone(sv)) || somebody_is_behind(sv))
        shadow_unsync(sv, page);
}

struct shadow_page *shadow_page_get(struct shadow_vm *sv, uint64_t gfn, uint32_t role)
{
    struct shadow_page *page = shadow_page_find(sv, gfn, role), **head;

    if (likely(page)) {
        page->stamp = sv->stamp;
        return page;
    }
    page = take(sv, role);
    if (!page && evict(sv))
        page = take(sv, role);
    if (!page)
        return NULL;
    page->gfn = gfn;
    page->role = role;
    page->stamp = sv->stamp;
    page->state = SHADOW_LIVE;
    page->guest = NULL;
    page->idle = page->hot = page->burst = 0;
    page->vain = 0;
    page->fresh = true;
    page->generation = 0;
    if (!(role & (ROLE_DIRECT | ROLE_ROOT)))
        begin_table(sv, page);
    if (!(role & ROLE_ROOT)) {
        head = bucket(sv, gfn);
        page->hash_next = *head;
        *head = page;
        age_add(sv, page);
    }
    return page;
}

/* No entry points to it any more; it has none itself. */
static void release(struct shadow_vm *sv, struct shadow_page *page)
{
    if (shadow_alone(sv)) {
        page->state = SHADOW_FREE;
        page->older = sv->free;
        sv->free = page;
        sv->freed++;
        return;
    }
    page->state = SHADOW_WAITING;
    page->generation = 0;
    page->older = sv->waiting;
    sv->waiting = page;
    sv->freed++;
}

void shadow_page_drop(struct shadow_vm *sv, struct shadow_page *page)
{
    struct shadow_page **link = bucket(sv, page->gfn);

    while (*link != page)
        link = &(*link)->hash_next;
    *link = page->hash_next;
    age_remove(sv, page);
    shadow_forget_unsync(sv, page);
    while (page->parents) {
        struct shadow_page *parent = shadow_page_number(sv, page->parents / SHADOW_ENTRIES);

        shadow_entry_clear(sv, parent, page->parents % SHADOW_ENTRIES);
    }
    shadow_page_empty(sv, page);
    if (!(page->role & ROLE_DIRECT)) {
        sv->tables--;
        sv->region[page->gfn >> 9 & (SHADOW_REGIONS - 1)]--;
    }
    if (page->pins)
        page->state = SHADOW_DEAD;
    else
        release(sv, page);
}

void shadow_page_unpin(struct shadow_vm *sv, struct shadow_page *page)
{
    if (--page->pins == 0 && page->state == SHADOW_DEAD)
        release(sv, page);
}

/*
 * Freed pages may be in the processors' caches of table walks. A vcpu that is alone flushes before
 * its next entry; several do so in their own time, and the pages wait for that.
 */
void shadow_settle_freed(struct shadow_vm *sv)
{
    uint64_t generation;

    sv->freed = 0;
    sv->narrowed++;
    if (shadow_alone(sv))
        return;
    generation = virtx_generation_next(sv->vm);
    for (struct shadow_page *page = sv->waiting; page; page = page->older)
        if (!page->generation)
            page->generation = generation;
}

static void put(struct shadow_vm *sv, void *page)
{
    if (page)
        virtx_pool_put(sv->vm, page, 0);
}

/* No processor uses anything of it any more. */
void shadow_free_all(struct shadow_vm *sv)
{
    for (uint32_t i = 1; i < sv->pages; i++) {
        struct shadow_page *page = shadow_page_number(sv, i);

        put(sv, page->entry);
        put(sv, page->link);
        put(sv, page->copy);
        put(sv, page->child);
    }
    for (uint32_t block = 0; block < sv->pages / SHADOW_BLOCK; block++)
        put(sv, sv->directory[block / BLOCKS_PER][block % BLOCKS_PER]);
    for (unsigned i = 0; i < SHADOW_DIRECTORY; i++)
        put(sv, sv->directory[i]);
    for (unsigned i = 0; i < SHADOW_HASH; i++)
        put(sv, sv->hash[i]);
    for (unsigned i = 0; i < SHADOW_RMAP; i++)
        put(sv, sv->rmap[i]);
    put(sv, sv->empty);
    memset(sv, 0, sizeof(*sv));
}
