/* SPDX-License-Identifier: BSD-2-Clause */
/* The table engine; table.h says who may do what. */
#include "paging/table.h"

/* Subtrees that one piece of table_unmap() takes out before it frees them without the lock. */
#define DETACHED     16u

#define PAT_UC_MINUS 7u

/* The PAT's entry for a memory type, -1: it has none. */
static int pat_entry(uint64_t pat, unsigned type)
{
    for (int i = 0; i < 8; i++)
        if ((pat >> 8 * i & 0xff) == type)
            return i;
    return -1;
}

/*
 * Where leaves name an entry of the host's PAT (AMD APM "Combining Memory Types, MTRRs"), the entry
 * is looked for, since hosts arrange theirs as they like. What the host's PAT lacks becomes
 * uncacheable, which is stricter than all, or UC-, which is the same under write-back MTRRs.
 */
static bool types_create(struct table *table, uint64_t pat)
{
    const struct table_format *format = table->format;
    int strictest = pat_entry(pat, VIRTX_MEMORY_UC);

    memcpy(table->type, format->type, sizeof(table->type));
    memcpy(table->type_large, format->type, sizeof(table->type_large));
    if (!format->pat_index[0])
        return true;
    if (strictest < 0)
        strictest = pat_entry(pat, PAT_UC_MINUS);
    if (strictest < 0)
        return false;
    for (unsigned type = 0; type < 8; type++) {
        int found = pat_entry(pat, type), entry = found < 0 ? strictest : found;

        for (unsigned bit = 0; bit < 3; bit++)
            if (entry >> bit & 1) {
                table->type[type] |= format->pat_index[bit];
                table->type_large[type] |= format->pat_index_large[bit];
            }
    }
    return true;
}

/* Where a page of the pool is. False: the host's answer cannot be, or does not lead back here. */
static bool page_hpa(const struct table *table, const uint64_t *page, uint64_t *hpa)
{
    const struct virtx *virtx = table->vm->virtx;

    *hpa = virtx_hpa(virtx, page);
    return !(*hpa & ~table->format->address) && !(*hpa >> virtx->caps.physical_bits) &&
           virtx->ops.phys_to_virt(virtx->ctx, *hpa) == page;
}

enum virtx_status table_create(struct table *table, struct virtx_vm *vm,
                               const struct table_format *format, bool dirty_flags)
{
    uint64_t hpa;

    table->vm = vm;
    table->format = format;
    table->written = dirty_flags && format->dirty ? format->dirty : format->write;
    for (unsigned rights = 0; rights < 8; rights++) {
        uint64_t bits = format->leaf | format->accessed;
        if (rights & VIRTX_READ)
            bits |= format->read;
        if (rights & VIRTX_WRITE)
            bits |= format->write | format->dirty; /* spares the hardware setting it */
        bits |= rights & VIRTX_EXECUTE ? format->execute : format->no_execute;
        table->rights[rights] = bits;
    }
    if (!types_create(table, vm->virtx->pat))
        return VIRTX_E_HOST_STATE;
    table->root = virtx_pool_get(vm);
    if (!table->root)
        return VIRTX_E_NO_MEMORY;
    if (!page_hpa(table, table->root, &hpa)) {
        virtx_pool_put(vm, table->root, 0);
        table->root = NULL;
        return VIRTX_E_HOST;
    }
    table->root_hpa = hpa;
    return VIRTX_OK;
}

uint64_t *table_lookup(const struct table *table, uint64_t gpa, unsigned floor, unsigned *level)
{
    uint64_t *page = table->root;
    for (unsigned l = TABLE_LEVELS;; l--) {
        uint64_t *entry = page + table_index(gpa, l), value = table_read(entry);
        if (l == floor || !table_present(table, value) || table_is_leaf(table, value, l)) {
            *level = l;
            return entry;
        }
        page = table_below(table, value);
    }
}

/* ---- Adding ---- */

/* Replaces a leaf of the same size, which the hardware may be setting flags in. What the log has
 * yet to be told is kept; what was written before there was a log is not its business. */
static void replace_leaf(const struct table *table, uint64_t *entry, uint64_t old, uint64_t leaf)
{
    uint64_t keep = old & leaf & TABLE_LOGGED ? table->written : 0;
    while (!__atomic_compare_exchange_n(entry, &old, leaf | (old & keep), false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_RELAXED))
        ;
}

/* With the page lock: links pages[] in until an entry of `level` is reached, and writes the leaf
 * there. Returns how many pages it took, or -1 if there were too few: then nothing has changed. */
static int map_locked(struct table *table, uint64_t gpa, unsigned level, uint64_t leaf,
                      uint64_t *const pages[], const uint64_t hpa[], unsigned count)
{
    unsigned at;
    uint64_t *entry = table_lookup(table, gpa, level, &at);
    uint64_t value = table_read(entry);
    unsigned wanted = at - level, taken = 0;

    if (table_present(table, value)) {
        /* A table, or a leaf too large: somebody else was here. */
        if (at == level && table_is_leaf(table, value, at))
            replace_leaf(table, entry, value, leaf);
        return 0;
    }
    if (wanted > count)
        return -1;
    /* From the bottom, so that one store makes all of it visible. */
    value = leaf;
    while (taken < wanted) {
        unsigned below = level + taken;
        pages[taken][table_index(gpa, below)] = value;
        value = hpa[taken] | table->format->table;
        taken++;
    }
    __atomic_store_n(entry, value, __ATOMIC_RELEASE);
    return (int)taken;
}

enum virtx_status table_map(struct table *table, uint64_t gpa, unsigned level, uint64_t leaf,
                            uint64_t sequence)
{
    struct virtx_vm *vm = table->vm;
    uint64_t *pages[TABLE_LEVELS], hpa[TABLE_LEVELS];
    unsigned count, at;
    enum virtx_status status = VIRTX_OK;
    int taken = 0;

    /* How many tables are missing can only shrink while the sequence stays the same. */
    table_lookup(table, gpa, level, &at);
    for (count = 0; count < at - level; count++) {
        pages[count] = virtx_pool_get(vm);
        if (!pages[count]) {
            status = VIRTX_E_NO_MEMORY;
            break;
        }
        if (!page_hpa(table, pages[count], &hpa[count])) {
            virtx_pool_put(vm, pages[count], 0);
            status = VIRTX_E_NO_MEMORY;
            break;
        }
    }
    if (status == VIRTX_OK) {
        virtx_lock(&vm->page_lock);
        if (atomic_load_explicit(&table->sequence, memory_order_relaxed) != sequence)
            status = VIRTX_AGAIN;
        else
            taken = map_locked(table, gpa, level, leaf, pages, hpa, count);
        virtx_unlock(&vm->page_lock);
        if (taken < 0) {
            status = VIRTX_AGAIN;
            taken = 0;
        }
    }
    while (count > (unsigned)taken)
        virtx_pool_put(vm, pages[--count], 0);
    return status;
}

/* ---- Taking away ---- */

/* Written pages on their way to the slot's log, gathered into runs. */
struct report {
    struct virtx_vm *vm;
    uint64_t start, end;
};

static void report_flush(struct report *report)
{
    if (report->end != report->start)
        virtx_backend_dirty(report->vm, report->start, report->end - report->start);
    report->start = report->end = 0;
}

static void report_add(struct report *report, uint64_t gpa, uint64_t bytes)
{
    gpa &= ~(bytes - 1);
    if (report->end != gpa || report->end == report->start) {
        report_flush(report);
        report->start = gpa;
    }
    report->end = gpa + bytes;
}

/* A subtree that no entry points to any more. */
struct detached {
    uint64_t *page;
    uint64_t gpa;   /* of its first entry */
    unsigned level; /* of its entries */
};

/*
 * Takes the leaves out of a table that processors may still know of, so that none can set a dirty
 * flag there unseen.
 */
static void empty_leaves(struct table *table, const struct detached *sub, struct report *report)
{
    for (unsigned i = 0; i < TABLE_ENTRIES; i++) {
        uint64_t leaf = table_read(sub->page + i);
        if (!(leaf & TABLE_LOGGED) || !table_present(table, leaf) ||
            !table_is_leaf(table, leaf, sub->level))
            continue;
        leaf = __atomic_exchange_n(sub->page + i, 0, __ATOMIC_SEQ_CST);
        if (leaf & table->written)
            report_add(report, sub->gpa + i * table_span(sub->level), table_span(sub->level));
    }
}

/* Frees a subtree, its tables before itself. Its entries stay, for the walks under way. */
static void free_subtree(struct table *table, const struct detached *top, uint64_t generation,
                         struct report *report)
{
    struct detached path[TABLE_LEVELS];
    unsigned next[TABLE_LEVELS], depth = 0;

    path[0] = *top;
    next[0] = 0;
    for (;;) {
        struct detached *sub = &path[depth];
        unsigned i = next[depth];
        uint64_t entry;

        if (sub->level == 1 || i == TABLE_ENTRIES) {
            if (table->has_logged)
                empty_leaves(table, sub, report);
            virtx_pool_put(table->vm, sub->page, generation);
            if (depth-- == 0)
                return;
            continue;
        }
        next[depth]++;
        entry = table_read(sub->page + i);
        if (!table_present(table, entry) || table_is_leaf(table, entry, sub->level))
            continue;
        depth++;
        path[depth] = (struct detached){.page = table_below(table, entry),
                                        .gpa = sub->gpa + i * table_span(sub->level),
                                        .level = sub->level - 1};
        next[depth] = 0;
    }
}

void table_destroy(struct table *table)
{
    struct detached all = {.page = table->root, .gpa = 0, .level = TABLE_LEVELS};
    struct report report = {.vm = table->vm};

    if (!table->root)
        return;
    free_subtree(table, &all, 0, &report);
    report_flush(&report);
    table->root = NULL;
}

/* Where a pass over [gpa, end) goes on below: an entry that is no table, or a table that lies
 * wholly in the range. */
static uint64_t *descend(const struct table *table, uint64_t gpa, uint64_t end, unsigned *level)
{
    uint64_t *page = table->root;
    for (unsigned l = TABLE_LEVELS;; l--) {
        uint64_t *entry = page + table_index(gpa, l), value = table_read(entry);
        bool covered = !(gpa & (table_span(l) - 1)) && end - gpa >= table_span(l);
        if (!table_present(table, value) || table_is_leaf(table, value, l) || covered) {
            *level = l;
            return entry;
        }
        page = table_below(table, value);
    }
}

/* One piece of table_unmap(): entries of one table from gpa on. Returns where to go on. */
static uint64_t unmap_piece(struct table *table, uint64_t gpa, uint64_t end,
                            struct detached detached[], unsigned *count, struct report *report)
{
    unsigned level;
    uint64_t *entry = descend(table, gpa, end, &level), span = table_span(level);

    do {
        uint64_t value = table_read(entry);
        if (table_present(table, value)) {
            bool leaf = table_is_leaf(table, value, level);
            if (!leaf && ((gpa & (span - 1)) || end - gpa < span))
                break;
            value = __atomic_exchange_n(entry, 0, __ATOMIC_SEQ_CST);
            if (!leaf) {
                detached[*count] = (struct detached){
                    .page = table_below(table, value), .gpa = gpa, .level = level - 1};
                ++*count;
            } else if ((value & TABLE_LOGGED) && (value & table->written)) {
                report_add(report, gpa, span);
            }
        }
        gpa = (gpa | (span - 1)) + 1;
        entry++;
    } while (table_index(gpa, level) && gpa && gpa < end && *count < DETACHED);
    return gpa;
}

static bool is_empty(const struct table *table, const uint64_t *page)
{
    for (unsigned i = 0; i < TABLE_ENTRIES; i++)
        if (table_present(table, table_read(page + i)))
            return false;
    return true;
}

/* Frees the tables on the way to gpa that have become empty, the lowest first. */
static void prune(struct table *table, uint64_t gpa, uint64_t generation)
{
    for (unsigned level = 2; level <= TABLE_LEVELS; level++) {
        unsigned at;
        uint64_t *page = NULL, *entry, value;

        virtx_lock(&table->vm->page_lock);
        entry = table_lookup(table, gpa, level, &at);
        value = table_read(entry);
        if (at == level && table_present(table, value) && !table_is_leaf(table, value, level)) {
            page = table_below(table, value);
            if (is_empty(table, page)) {
                atomic_fetch_add(&table->sequence, 1);
                __atomic_store_n(entry, 0, __ATOMIC_SEQ_CST);
            } else {
                page = NULL;
            }
        }
        virtx_unlock(&table->vm->page_lock);
        if (page)
            virtx_pool_put(table->vm, page, generation);
    }
}

void table_unmap(struct table *table, uint64_t gpa, uint64_t bytes, uint64_t generation)
{
    uint64_t start = gpa, end = gpa + bytes;
    struct report report = {.vm = table->vm};

    while (gpa < end) {
        struct detached detached[DETACHED];
        unsigned count = 0;

        virtx_lock(&table->vm->page_lock);
        atomic_fetch_add(&table->sequence, 1);
        gpa = unmap_piece(table, gpa, end, detached, &count, &report);
        virtx_unlock(&table->vm->page_lock);
        for (unsigned i = 0; i < count; i++)
            free_subtree(table, &detached[i], generation, &report);
    }
    report_flush(&report);
    prune(table, start, generation);
    prune(table, end - 1, generation);
}

/* ---- Changing ---- */

static uint64_t change_piece(struct table *table, uint64_t *gpa_inout, uint64_t end,
                             table_changer changer, const void *ctx, struct report *report)
{
    uint64_t gpa = *gpa_inout, changed = 0;
    unsigned level;
    uint64_t *entry = table_lookup(table, gpa, 1, &level), span = table_span(level);

    do {
        uint64_t old = table_read(entry), new;
        if (table_present(table, old)) {
            if (!table_is_leaf(table, old, level))
                break;
            do
                new = changer(table, ctx, old, level);
            while (new != old && !__atomic_compare_exchange_n(entry, &old, new, false,
                                                              __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
            changed += new != old;
            if ((old & TABLE_LOGGED) && (old & ~new & table->written) && !table->hardware_log)
                report_add(report, gpa, span);
        }
        gpa = (gpa | (span - 1)) + 1;
        entry++;
    } while (table_index(gpa, level) && gpa && gpa < end);
    *gpa_inout = gpa;
    return changed;
}

uint64_t table_change(struct table *table, uint64_t gpa, uint64_t bytes, table_changer changer,
                      const void *ctx)
{
    uint64_t end = gpa + bytes, changed = 0;
    struct report report = {.vm = table->vm};

    while (gpa < end) {
        virtx_lock(&table->vm->page_lock);
        atomic_fetch_add(&table->sequence, 1);
        changed += change_piece(table, &gpa, end, changer, ctx, &report);
        virtx_unlock(&table->vm->page_lock);
    }
    report_flush(&report);
    return changed;
}

/* Replaces the large leaf at gpa by a table of the next level's leaves, if it is still there. */
static bool split_leaf(struct table *table, uint64_t gpa, unsigned level, uint64_t *page,
                       const struct slot_entry *slot, const uint64_t *sequence)
{
    uint64_t hpa, old, base;
    uint64_t *entry;
    unsigned at;
    bool done = false;

    if (!page_hpa(table, page, &hpa))
        return false;
    virtx_lock(&table->vm->page_lock);
    entry = table_lookup(table, gpa, level, &at);
    old = table_read(entry);
    if (at == level && table_present(table, old) && table_is_leaf(table, old, level) &&
        (!sequence || *sequence == atomic_load_explicit(&table->sequence, memory_order_relaxed))) {
        base = old & table->format->address & ~(table_span(level) - 1);
        for (unsigned i = 0; i < TABLE_ENTRIES; i++)
            page[i] = table_leaf(table, base + i * table_span(level - 1), level - 1,
                                 table_rights(slot, level - 1), slot->type, slot->dirty != NULL);
        atomic_fetch_add(&table->sequence, 1);
        __atomic_store_n(entry, hpa | table->format->table, __ATOMIC_SEQ_CST);
        done = true;
    }
    virtx_unlock(&table->vm->page_lock);
    return done;
}

enum virtx_status table_split_leaf(struct table *table, uint64_t gpa, const struct slot_entry *slot,
                                   uint64_t sequence)
{
    enum virtx_status status = VIRTX_AGAIN;
    uint64_t *page, hpa;
    unsigned level;

    table_lookup(table, gpa, 1, &level);
    if (level == 1)
        return VIRTX_OK;
    page = virtx_pool_get(table->vm);
    if (!page)
        return VIRTX_E_NO_MEMORY;
    if (!page_hpa(table, page, &hpa))
        status = VIRTX_E_NO_MEMORY;
    else if (split_leaf(table, gpa, level, page, slot, &sequence))
        return VIRTX_OK;
    virtx_pool_put(table->vm, page, 0);
    return status;
}

void table_split(struct table *table, uint64_t gpa, uint64_t bytes, const struct slot_entry *slot,
                 uint64_t generation)
{
    uint64_t end = gpa + bytes;

    while (gpa < end) {
        unsigned level;
        uint64_t *entry = table_lookup(table, gpa, 1, &level), span = table_span(level);
        uint64_t *page;

        if (level == 1 || !table_present(table, table_read(entry))) {
            /* The whole table of 4-KiB entries, or the hole, is done. */
            gpa = level == 1 ? (gpa | (table_span(2) - 1)) + 1 : (gpa | (span - 1)) + 1;
            if (!gpa)
                break;
            continue;
        }
        page = virtx_pool_get(table->vm);
        if (page && split_leaf(table, gpa, level, page, slot, NULL))
            continue; /* and look again: 1 GiB becomes 2 MiB first */
        if (page)
            virtx_pool_put(table->vm, page, 0);
        table_unmap(table, gpa, VIRTX_PAGE_SIZE, generation);
    }
}
