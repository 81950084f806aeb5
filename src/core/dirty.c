/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Dirty logs: the bits, and their harvest.
 *
 * A log is made of single pages, however large its slot, and a harvest takes the VM's lock for a
 * piece of it at a time.
 */
#include "core/object.h"

#define PART_CHUNKS   (VIRTX_PAGE_SIZE / sizeof(struct log_chunk))
#define CHUNK_WORDS   (VIRTX_PAGE_SIZE / sizeof(uint64_t))
#define PARTS_MAX     ((VIRTX_PAGE_SIZE - sizeof(struct dirty_log)) / sizeof(struct log_chunk *))
#define WORDS_AT_ONCE 64u /* of a harvest, under the lock: 16 MiB of the slot */

struct log_chunk {
    uint64_t *bits, *taken; /* a page each */
};

/* The log of a small slot is all in one page: this stands behind the first part and the end of the
 * parts. */
struct small_log {
    struct log_chunk chunk;
    uint64_t words[];
};
#define SMALL_AT    (sizeof(struct dirty_log) + 2 * sizeof(struct log_chunk *))
#define SMALL_WORDS ((VIRTX_PAGE_SIZE - SMALL_AT - sizeof(struct small_log)) / sizeof(uint64_t) / 2)

static const struct log_chunk *chunk_of(const struct dirty_log *log, size_t word)
{
    return &log->part[word / CHUNK_WORDS / PART_CHUNKS][word / CHUNK_WORDS % PART_CHUNKS];
}

static enum virtx_status page_get(struct virtx_vm *vm, void *out)
{
    return virtx_pages_get(vm->virtx, 1, out, &vm->error);
}

enum virtx_status virtx_log_alloc(struct virtx_vm *vm, uint64_t bytes, struct dirty_log **out)
{
    size_t words = (bytes / VIRTX_PAGE_SIZE + 63) / 64;
    size_t chunks = (words + CHUNK_WORDS - 1) / CHUNK_WORDS;
    enum virtx_status status;
    struct dirty_log *log;

    *out = NULL;
    if (chunks > PARTS_MAX * PART_CHUNKS)
        return virtx_fail(&vm->error, VIRTX_E_RANGE, "bytes", "is no more than a dirty log holds",
                          bytes);
    status = page_get(vm, &log);
    if (status != VIRTX_OK)
        return status;
    log->words = words;
    if (words <= SMALL_WORDS) {
        struct small_log *small = (struct small_log *)(void *)&log->part[2];

        small->chunk = (struct log_chunk){.bits = small->words, .taken = small->words + words};
        log->part[0] = &small->chunk;
        *out = log;
        return VIRTX_OK;
    }
    for (size_t i = 0; i < chunks && status == VIRTX_OK; i++) {
        struct log_chunk **part = &log->part[i / PART_CHUNKS];

        if (!*part)
            status = page_get(vm, part);
        if (status == VIRTX_OK)
            status = page_get(vm, &(*part)[i % PART_CHUNKS].bits);
        if (status == VIRTX_OK)
            status = page_get(vm, &(*part)[i % PART_CHUNKS].taken);
    }
    if (status == VIRTX_OK)
        *out = log;
    else
        virtx_log_free(vm->virtx, log);
    return status;
}

void virtx_log_free(struct virtx *virtx, struct dirty_log *log)
{
    for (size_t p = 0; log->words > SMALL_WORDS && p < PARTS_MAX && log->part[p]; p++) {
        for (size_t i = 0; i < PART_CHUNKS; i++) {
            if (log->part[p][i].bits)
                virtx_pages_free(virtx, log->part[p][i].bits, 1);
            if (log->part[p][i].taken)
                virtx_pages_free(virtx, log->part[p][i].taken, 1);
        }
        virtx_pages_free(virtx, log->part[p], 1);
    }
    virtx_pages_free(virtx, log, 1);
}

void virtx_slot_mark(const struct slot_entry *entry, uint64_t gpa, uint64_t bytes)
{
    uint64_t page, last;

    if (!entry->dirty || !bytes)
        return;
    page = (gpa - entry->gpa) / VIRTX_PAGE_SIZE;
    last = (gpa + bytes - 1 - entry->gpa) / VIRTX_PAGE_SIZE;
    for (; page <= last; page++) {
        uint64_t *word = &chunk_of(entry->dirty, page / 64)->bits[page / 64 % CHUNK_WORDS];
        uint64_t bit = BIT(page % 64);

        /* Most writes go to pages that are dirty already; those cost no locked operation. */
        if (!(__atomic_load_n(word, __ATOMIC_RELAXED) & bit))
            __atomic_fetch_or(word, bit, __ATOMIC_RELAXED);
    }
}

void virtx_backend_dirty(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes)
{
    const struct slot_entry *departing = atomic_load_explicit(&vm->departing, memory_order_acquire);
    const struct slot_table *slots = virtx_slots(vm);
    uint64_t end = gpa + bytes;

    while (gpa < end) {
        const struct slot_entry *entry = departing;
        uint64_t part = VIRTX_PAGE_SIZE - gpa % VIRTX_PAGE_SIZE;

        if (!entry || gpa < entry->gpa || gpa >= entry->end)
            entry = virtx_slot_find(slots, gpa);
        if (entry) {
            part = min_u64(end, entry->end) - gpa;
            virtx_slot_mark(entry, gpa, part);
        }
        gpa += part;
    }
}

/* ---- Harvest ---- */

struct harvest {
    struct virtx_memslot *slot;
    struct dirty_log *log;
    uint64_t *bitmap;
    uint64_t dirty; /* pages reported */
    bool early;     /* bits are taken before collect_dirty is called, for them alone */
    bool any;       /* something was taken */
};

static unsigned count_bits(uint64_t word)
{
    unsigned count = 0;

    for (; word; word &= word - 1)
        count++;
    return count;
}

/* Reports what was taken: nobody can write any more through a translation from before. */
static void report(struct harvest *h, size_t first, size_t end)
{
    for (size_t i = first; i < end; i++) {
        uint64_t *taken = &chunk_of(h->log, i)->taken[i % CHUNK_WORDS];

        h->bitmap[i] |= *taken;
        h->dirty += count_bits(*taken);
        *taken = 0;
    }
}

static void collect(const struct harvest *h, uint64_t page, uint64_t pages)
{
    struct virtx_vm *vm = h->slot->vm;
    const struct virtx_memslot_config *config = &h->slot->config;
    uint64_t offset = page * VIRTX_PAGE_SIZE;

    if (pages)
        vm->virtx->backend->collect_dirty(vm, config->gpa + offset,
                                          min_u64(pages * VIRTX_PAGE_SIZE, config->bytes - offset));
}

static void take(struct harvest *h, size_t first, size_t end)
{
    uint64_t start = 0, pages = 0; /* a run of pages taken, not collected yet */

    for (size_t i = first; i < end; i++) {
        const struct log_chunk *chunk = chunk_of(h->log, i);
        uint64_t *bits = &chunk->bits[i % CHUNK_WORDS], word;

        if (!__atomic_load_n(bits, __ATOMIC_RELAXED))
            continue;
        word = __atomic_exchange_n(bits, 0, __ATOMIC_ACQ_REL);
        chunk->taken[i % CHUNK_WORDS] |= word;
        h->any = true;
        for (; h->early && word; word &= word - 1) {
            uint64_t page = i * 64 + (unsigned)__builtin_ctzll(word);

            if (pages && page == start + pages) {
                pages++;
                continue;
            }
            collect(h, start, pages);
            start = page;
            pages = 1;
        }
    }
    collect(h, start, pages);
}

/*
 * A page that is reported must be written through a new translation only, or a write that follows
 * would be in no log. So what a harvest takes is reported once the generation that it begins has
 * settled: at once where no vcpu is in run, else by a later call, for which they are hurried. All
 * pieces are taken before that generation begins, and reported after it has settled, or with the
 * next harvest's pieces.
 */
static void piece(struct harvest *h, size_t first, size_t end, bool settled)
{
    if (settled)
        report(h, first, end);
    if (!h->early)
        collect(h, first * 64, (end - first) * 64);
    take(h, first, end);
}

/* The lock is not fair, so those who wait for it get a moment. */
static uint64_t breathe(struct virtx_vm *vm, uint64_t flags)
{
    virtx_vm_unlock(vm, flags);
    for (unsigned i = 0; i < 16; i++)
        __builtin_ia32_pause();
    return virtx_vm_lock(vm);
}

/* [lock, given up between pieces] */
static uint64_t all_pieces(struct harvest *h, uint64_t flags)
{
    struct virtx_vm *vm = h->slot->vm;
    struct dirty_log *log = h->log;
    bool settled = log->any_taken && virtx_is_settled(vm, log->generation);

    for (size_t i = 0; i < log->words; i += WORDS_AT_ONCE) {
        if (i)
            flags = breathe(vm, flags);
        piece(h, i, (size_t)min_u64(i + WORDS_AT_ONCE, log->words), settled);
    }
    log->any_taken = (log->any_taken && !settled) || h->any;
    if (h->any)
        log->generation = virtx_generation_next(vm);
    if (!log->any_taken)
        return flags;
    if (!virtx_is_settled(vm, log->generation)) {
        virtx_hurry(vm, log->generation);
        return flags;
    }
    for (size_t i = 0; i < log->words; i += WORDS_AT_ONCE) {
        if (i)
            flags = breathe(vm, flags);
        report(h, i, (size_t)min_u64(i + WORDS_AT_ONCE, log->words));
    }
    log->any_taken = false;
    return flags;
}

/* What the hardware has logged by now; and whether bits are set as the writes happen. Those are
 * taken before a page is armed again, or one that is set between the two would be reported of a
 * page that is written without a trace. */
static void drain(struct harvest *h)
{
    struct virtx_vm *vm = h->slot->vm;
    const struct virtx_backend *backend = vm->virtx->backend;
    bool logs = vm->paging && vm->paging->nested && backend->drain_dirty &&
                (vm->virtx->caps.features & VIRTX_FEATURE_DIRTY_LOGGING);

    h->early = logs || (vm->paging && vm->paging->dirty_at_grant);
    if (logs)
        backend->drain_dirty(vm);
}

enum virtx_status virtx_memslot_harvest(struct virtx_memslot *slot, uint64_t *bitmap, size_t words,
                                        uint64_t *dirty)
{
    struct virtx_vm *vm = slot->vm;
    uint64_t flags = virtx_vm_lock(vm);
    struct harvest h = {.slot = slot, .log = slot->log, .bitmap = bitmap};
    enum virtx_status status = VIRTX_OK;

    if (!h.log)
        status = virtx_fail(&vm->error, VIRTX_E_INVALID, "slot", "keeps a dirty log", 0);
    else if (words < h.log->words || !bitmap)
        status = virtx_fail(&vm->error, VIRTX_E_INVALID, "bitmap, words",
                            "has one bit for each page of the slot", words);
    else if (h.log->harvested)
        status =
            virtx_fail(&vm->error, VIRTX_E_BUSY, "slot", "is being harvested by nobody else", 0);
    if (status == VIRTX_OK && h.log) { /* the second is clear from the first, but not to all */
        drain(&h);
        h.log->harvested = true;
        flags = all_pieces(&h, flags);
        h.log->harvested = false;
        if (dirty)
            *dirty = h.dirty;
    }
    virtx_vm_unlock(vm, flags);
    return status;
}
