/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The table engine: hardware translation tables of any struct table_format.
 *
 * Who changes what, and under which lock:
 * - Entries are written by single 64-bit atomic stores or exchanges, because processors walk the
 *   tables, and set accessed and dirty flags in them, all the time.
 * - Adding (table_map) happens on vcpus' threads and takes the page lock.
 * - Taking away, narrowing and splitting happen with the VM's lock held, so one at a time, and take
 *   the page lock piece by piece: it is never held over more than one table's entries, nor over
 *   a call to the host but phys_to_virt.
 * - Whatever takes away makes `sequence` grow. Who wants to add reads the sequence, then the slots
 *   and the host address, and adds only if the sequence is still the same; so nothing that is
 *   being dropped can come back.
 * - Looking takes no lock: a page taken out of the tables stays as it was until every vcpu that may
 *   look at it has settled.
 */
#ifndef VIRTX_PAGING_TABLE_H
#define VIRTX_PAGING_TABLE_H

#include "core/object.h"
#include "paging/format.h"

#define TABLE_LEVELS  4u
#define TABLE_ENTRIES 512u

/*
 * In a leaf: its slot keeps a dirty log, and table.written in this entry means that the page must
 * be reported. Ignored by hardware: EPT ignores bits 56:52 of a leaf, long-mode tables and NPT
 * 58:52.
 */
#define TABLE_LOGGED BIT(52)

struct table {
    struct virtx_vm *vm;
    const struct table_format *format;
    uint64_t *root;
    uint64_t root_hpa;
    uint64_t rights[8];              /* bits of a leaf by virtx_access */
    uint64_t type[8], type_large[8]; /* bits of a 4-KiB and of a large leaf by virtx_memory_type */
    uint64_t written;  /* what tells that a logged page was written: the dirty flag, or, where the
                          hardware keeps none, the right to write, given at the first write */
    bool hardware_log; /* the hardware tells of each dirty flag that it sets: nobody looks for them
                        */

    _Atomic uint64_t sequence; /* [page_lock] */
    bool has_logged;           /* [lock] a leaf may be TABLE_LOGGED; never taken back */
};

/* `dirty_flags`: the hardware sets format->dirty. VIRTX_E_HOST_STATE: the host's PAT has no type
 * that could be used for the ones it lacks. */
enum virtx_status table_create(struct table *table, struct virtx_vm *vm,
                               const struct table_format *format, bool dirty_flags);
/* No processor uses the tables any more. */
void table_destroy(struct table *table);

/* Bytes that an entry of a level maps. */
static inline uint64_t table_span(unsigned level)
{
    return BIT(12 + 9 * (level - 1));
}

static inline unsigned table_index(uint64_t gpa, unsigned level)
{
    return (unsigned)(gpa >> (12 + 9 * (level - 1))) & (TABLE_ENTRIES - 1);
}

static inline uint64_t table_read(const uint64_t *entry)
{
    return __atomic_load_n(entry, __ATOMIC_ACQUIRE); /* before the table that it points to is read */
}

static inline bool table_present(const struct table *table, uint64_t entry)
{
    return entry & table->format->present;
}

/* Of a present entry. */
static inline bool table_is_leaf(const struct table *table, uint64_t entry, unsigned level)
{
    return level == 1 || (entry & table->format->large);
}

/* The table that a present entry, no leaf, points to. */
static inline uint64_t *table_below(const struct table *table, uint64_t entry)
{
    const struct virtx *virtx = table->vm->virtx;
    return virtx->ops.phys_to_virt(virtx->ctx, entry & table->format->address);
}

/* What leaves of a level allow in a slot. */
static inline uint32_t table_rights(const struct slot_entry *slot, unsigned level)
{
    if (level > 1 && (slot->flags & VIRTX_MEMSLOT_SMALL_EXECUTE))
        return slot->rights & ~(uint32_t)VIRTX_EXECUTE;
    return slot->rights;
}

/* The leaf for a page. With `logged` it starts as not written. */
static inline uint64_t table_leaf(const struct table *table, uint64_t hpa, unsigned level,
                                  uint32_t rights, uint32_t type, bool logged)
{
    const struct table_format *format = table->format;
    uint64_t leaf = hpa | table->rights[rights & 7];
    if (likely(level == 1))
        leaf |= table->type[type & 7];
    else
        leaf |= table->type_large[type & 7] | format->large;
    if (unlikely(type != VIRTX_MEMORY_WB))
        leaf |= format->ignore_pat;
    if (unlikely(logged))
        leaf = (leaf & ~table->written) | TABLE_LOGGED;
    return leaf;
}

/* The entry at which the walk for gpa ends: a leaf or not present. At `floor` it ends in any case.
 */
uint64_t *table_lookup(const struct table *table, uint64_t gpa, unsigned floor, unsigned *level);

/*
 * Puts a leaf in place, or replaces one of the same size for the same page, if `sequence` is still
 * the table's. Where a larger leaf or a table has got there first, it stays. VIRTX_AGAIN: the
 * sequence has changed, VIRTX_E_NO_MEMORY: the pool is exhausted; in both cases nothing has
 * changed.
 */
enum virtx_status table_map(struct table *table, uint64_t gpa, unsigned level, uint64_t leaf,
                            uint64_t sequence);

/*
 * Splits the large leaf that maps gpa into leaves of the next level with the slot's rights, under
 * the same condition. Somebody else may have been quicker. VIRTX_AGAIN, VIRTX_E_NO_MEMORY as above.
 */
enum virtx_status table_split_leaf(struct table *table, uint64_t gpa, const struct slot_entry *slot,
                                   uint64_t sequence);

/* The rest: with the VM's lock held; ranges are page-aligned. */

/* Drops every leaf that meets the range, reports the logged ones that were written, and frees the
 * tables that this empties; their pages may be reused once `generation` is settled. */
void table_unmap(struct table *table, uint64_t gpa, uint64_t bytes, uint64_t generation);

/* What table_change() is to make of a leaf. Called under the page lock, perhaps more than once. */
typedef uint64_t (*table_changer)(const struct table *table, const void *ctx, uint64_t leaf,
                                  unsigned level);
/* Changes the leaves that meet the range; reports the logged ones that were written and no longer
 * say so. Returns how many it changed. */
uint64_t table_change(struct table *table, uint64_t gpa, uint64_t bytes, table_changer changer,
                      const void *ctx);

/* Splits the large leaves that meet the range down to 4-KiB ones with the slot's rights and type,
 * logged if it keeps a log. Those for which the pool has no page are dropped. */
void table_split(struct table *table, uint64_t gpa, uint64_t bytes, const struct slot_entry *slot,
                 uint64_t generation);

#endif
