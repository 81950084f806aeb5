/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Memory slots: the published table, and the calls that change it.
 *
 * A change makes the new table first, which alone can fail, publishes it, tells the backend, and
 * only then begins a new generation; where anything may have been dropped, one with debts, because
 * the engine frees its pages under that number. What the objects retire comes after.
 */
#include "core/object.h"

#define ALL_RIGHTS (VIRTX_READ | VIRTX_WRITE | VIRTX_EXECUTE)
#define ALL_FLAGS                                                                                  \
    (VIRTX_MEMSLOT_DIRTY_LOG | VIRTX_MEMSLOT_SMALL_PAGES | VIRTX_MEMSLOT_WRITE_MMIO |              \
     VIRTX_MEMSLOT_PINNED | VIRTX_MEMSLOT_CONTIGUOUS | VIRTX_MEMSLOT_SMALL_EXECUTE)

const struct slot_entry *virtx_slot_find(const struct slot_table *table, uint64_t gpa)
{
    const struct slot_entry *entry;
    uint32_t low = 0, count;

    if (!table)
        return NULL;
    /* The last entry that begins at or below gpa. */
    for (count = table->count; count > 1;) {
        uint32_t half = count / 2;

        if (table->entry[low + half].gpa <= gpa)
            low += half;
        count -= half;
    }
    if (!count)
        return NULL;
    entry = &table->entry[low];
    return gpa >= entry->gpa && gpa < entry->end ? entry : NULL;
}

enum virtx_status virtx_backend_slot(struct virtx_vm *vm, uint64_t gpa,
                                     struct virtx_memslot_config *config)
{
    const struct slot_entry *entry = virtx_slot_find(virtx_slots(vm), gpa);

    if (!entry)
        return VIRTX_E_NOT_FOUND;
    *config = (struct virtx_memslot_config){
        .size = sizeof(*config),
        .rights = entry->rights,
        .type = entry->type,
        .flags = entry->flags,
        .gpa = entry->gpa,
        .bytes = entry->end - entry->gpa,
        .memory = entry->memory,
    };
    return VIRTX_OK;
}

static void fill_entry(struct slot_entry *entry, struct virtx_memslot *slot)
{
    const struct virtx_memslot_config *config = &slot->config;

    entry->gpa = config->gpa;
    entry->end = config->gpa + config->bytes;
    entry->memory = config->memory;
    entry->dirty = slot->log;
    entry->rights = config->rights;
    entry->type = config->type;
    entry->flags = config->flags;
    entry->slot = slot;
}

static enum virtx_status table_alloc(struct virtx_vm *vm, uint32_t entries, struct slot_table **out)
{
    size_t pages = pages_for(sizeof(struct slot_table) + entries * sizeof(struct slot_entry));
    enum virtx_status status;
    void *memory;

    *out = NULL;
    status = virtx_pages_get(vm->virtx, pages, &memory, &vm->error);
    if (status != VIRTX_OK)
        return status;
    *out = memory;
    (*out)->pages = (uint32_t)pages;
    return VIRTX_OK;
}

static uint32_t slots_now(struct virtx_vm *vm)
{
    const struct slot_table *table = virtx_slots(vm);

    return table ? table->count : 0;
}

/* Fills a table with all slots of the VM but `without`, in the order of their addresses. */
static void table_fill(struct slot_table *table, struct virtx_vm *vm,
                       const struct virtx_memslot *without)
{
    table->count = 0;
    for (struct virtx_memslot *slot = vm->memslots; slot; slot = slot->next) {
        uint32_t at = table->count;

        if (slot == without)
            continue;
        while (at && table->entry[at - 1].gpa > slot->config.gpa) {
            table->entry[at] = table->entry[at - 1];
            at--;
        }
        fill_entry(&table->entry[at], slot);
        table->count++;
    }
}

/* Publishes a table. The old one is retired by the caller once the backend has been told. */
static struct slot_table *publish(struct virtx_vm *vm, struct slot_table *table)
{
    return atomic_exchange_explicit(&vm->slots, table, memory_order_acq_rel);
}

static void retire_table(struct virtx_vm *vm, struct slot_table *table)
{
    if (table)
        virtx_retire(vm, table, table->pages);
}

static void retire_log(struct virtx_vm *vm, struct dirty_log *log)
{
    if (log)
        virtx_retire(vm, log, VIRTX_RETIRED_LOG);
}

/* Where a range of guest-physical space may lie. */
static enum virtx_status check_range(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes)
{
    unsigned bits = vm->virtx->caps.guest_physical_bits;

    if (gpa % VIRTX_PAGE_SIZE)
        return virtx_fail(&vm->error, VIRTX_E_ALIGN, "gpa", "is page-aligned", gpa);
    if (gpa + bytes < gpa || (bits < 64 && (gpa + bytes - 1) >> bits))
        return virtx_fail(&vm->error, VIRTX_E_RANGE, "gpa + bytes",
                          "is within the guest-physical width", gpa + bytes);
    return VIRTX_OK;
}

static enum virtx_status check_overlap(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes,
                                       const struct virtx_memslot *but)
{
    for (const struct virtx_memslot *slot = vm->memslots; slot; slot = slot->next)
        if (slot != but && gpa < slot->config.gpa + slot->config.bytes &&
            slot->config.gpa < gpa + bytes)
            return virtx_fail(&vm->error, VIRTX_E_OVERLAP, "gpa, bytes", "meets no other slot",
                              slot->config.gpa);
    return VIRTX_OK;
}

static enum virtx_status check_rights(struct virtx_vm *vm, uint32_t rights)
{
    if ((rights & ~ALL_RIGHTS) || !(rights & VIRTX_READ))
        return virtx_fail(&vm->error, VIRTX_E_INVALID, "rights",
                          "has only bits of virtx_access, with VIRTX_READ", rights);
    return VIRTX_OK;
}

static enum virtx_status check_config(struct virtx_vm *vm,
                                      const struct virtx_memslot_config *config)
{
    struct virtx_error *error = &vm->error;
    enum virtx_status status;

    if (!config)
        return virtx_fail(error, VIRTX_E_INVALID, "config", "is not NULL", 0);
    if (config->size < sizeof(*config))
        return virtx_fail(error, VIRTX_E_SIZE, "config.size", "covers the whole structure",
                          config->size);
    status = check_rights(vm, config->rights);
    if (status != VIRTX_OK)
        return status;
    if (config->type > VIRTX_MEMORY_WB || config->type == 2 || config->type == 3)
        return virtx_fail_manual(error, VIRTX_E_INVALID, "config.type", "is a virtx_memory_type",
                                 "Intel SDM \"Memory Type Range Registers (MTRRs)\"", config->type);
    if (config->flags & ~ALL_FLAGS)
        return virtx_fail(error, VIRTX_E_INVALID, "config.flags",
                          "has only bits of virtx_memslot_flag", config->flags);
    if ((config->flags & VIRTX_MEMSLOT_WRITE_MMIO) && (config->rights & VIRTX_WRITE))
        return virtx_fail(error, VIRTX_E_INVALID, "config.flags",
                          "has VIRTX_MEMSLOT_WRITE_MMIO only with a read-only slot", config->flags);
    if (!config->memory)
        return virtx_fail(error, VIRTX_E_INVALID, "config.memory", "is not NULL", 0);
    if ((uintptr_t)config->memory % VIRTX_PAGE_SIZE)
        return virtx_fail(error, VIRTX_E_ALIGN, "config.memory", "is page-aligned",
                          (uintptr_t)config->memory);
    if (config->bytes % VIRTX_PAGE_SIZE)
        return virtx_fail(error, VIRTX_E_ALIGN, "config.bytes", "is page-aligned", config->bytes);
    if (!config->bytes)
        return virtx_fail(error, VIRTX_E_RANGE, "config.bytes", "is not 0", 0);
    if ((uintptr_t)config->memory + config->bytes < (uintptr_t)config->memory)
        return virtx_fail(error, VIRTX_E_RANGE, "config.memory + bytes", "does not wrap",
                          config->bytes);
    return check_range(vm, config->gpa, config->bytes);
}

/* Everything of an addition that can fail. The log is made outside the slot, which it joins last.
 */
static enum virtx_status add_prepare(struct virtx_vm *vm, const struct virtx_memslot_config *config,
                                     struct virtx_memslot **slot, struct dirty_log **log,
                                     struct slot_table **table)
{
    enum virtx_status status = check_overlap(vm, config->gpa, config->bytes, NULL);

    *slot = NULL;
    *log = NULL;
    *table = NULL;
    if (status == VIRTX_OK && (config->flags & VIRTX_MEMSLOT_DIRTY_LOG))
        status = virtx_log_alloc(vm, config->bytes, log);
    if (status == VIRTX_OK)
        status = table_alloc(vm, slots_now(vm) + 1, table);
    if (status == VIRTX_OK) {
        *slot = virtx_small_get(vm, &vm->error);
        if (!*slot)
            status = vm->error.status;
    }
    if (status != VIRTX_OK) {
        if (*log)
            virtx_log_free(vm->virtx, *log);
        if (*table)
            virtx_pages_free(vm->virtx, *table, (*table)->pages);
    }
    return status;
}

enum virtx_status virtx_memslot_add(struct virtx_vm *vm, const struct virtx_memslot_config *config,
                                    struct virtx_memslot **out)
{
    struct virtx_memslot *slot;
    struct slot_table *table;
    struct dirty_log *log;
    uint64_t flags = virtx_vm_lock(vm);
    enum virtx_status status = check_config(vm, config);

    virtx_reap(vm);
    if (status == VIRTX_OK)
        status = add_prepare(vm, config, &slot, &log, &table);
    if (status == VIRTX_OK) {
        slot->vm = vm;
        slot->config = *config;
        slot->config.size = sizeof(*config);
        slot->log = log;
        slot->next = vm->memslots;
        vm->memslots = slot;
        table_fill(table, vm, NULL);
        table = publish(vm, table);
        vm->virtx->backend->memory(vm, config->gpa, config->bytes, VIRTX_MEMORY_ADDED);
        retire_table(vm, table);
        if (out)
            *out = slot;
    }
    virtx_vm_unlock(vm, flags);
    return status;
}

static void unlink_slot(struct virtx_vm *vm, struct virtx_memslot *slot)
{
    struct virtx_memslot **link = &vm->memslots;

    while (*link != slot)
        link = &(*link)->next;
    *link = slot->next;
}

/* Takes the slot's range out of the guest's sight. Its translations' dirty bits reach its log,
 * though the slot is in no table any more. Returns the table to be retired, once the generation has
 * begun. */
static struct slot_table *withdraw(struct virtx_vm *vm, struct virtx_memslot *slot,
                                   struct slot_table *table)
{
    struct slot_entry old;

    fill_entry(&old, slot);
    table_fill(table, vm, slot);
    table = publish(vm, table);
    atomic_store(&vm->departing, virtx_slot_find(table, slot->config.gpa));
    vm->virtx->backend->memory(vm, old.gpa, old.end - old.gpa, VIRTX_MEMORY_REMOVED);
    atomic_store(&vm->departing, NULL);
    return table;
}

enum virtx_status virtx_memslot_remove(struct virtx_memslot *slot, uint64_t *generation)
{
    struct virtx_vm *vm = slot->vm;
    struct slot_table *table;
    uint64_t flags = virtx_vm_lock(vm), now;
    enum virtx_status status;

    virtx_reap(vm);
    status = table_alloc(vm, slots_now(vm), &table);
    if (status == VIRTX_OK) {
        table = withdraw(vm, slot, table);
        now = virtx_generation_next(vm);
        retire_table(vm, table);
        retire_log(vm, slot->log);
        unlink_slot(vm, slot);
        virtx_small_put(vm, slot);
        if (generation)
            *generation = now;
    }
    virtx_vm_unlock(vm, flags);
    return status;
}

enum virtx_status virtx_memslot_move(struct virtx_memslot *slot, uint64_t gpa, uint64_t *generation)
{
    struct virtx_vm *vm = slot->vm;
    struct slot_table *hole = NULL, *table = NULL;
    uint64_t flags = virtx_vm_lock(vm), now;
    enum virtx_status status = check_range(vm, gpa, slot->config.bytes);

    virtx_reap(vm);
    if (status == VIRTX_OK)
        status = check_overlap(vm, gpa, slot->config.bytes, slot);
    if (status == VIRTX_OK)
        status = table_alloc(vm, slots_now(vm), &hole);
    if (status == VIRTX_OK)
        status = table_alloc(vm, slots_now(vm), &table);
    if (status == VIRTX_OK) {
        /* Two steps with a hole between them: where the old and the new place meet, an address
         * would else mean two pages at once. */
        hole = withdraw(vm, slot, hole);
        now = virtx_generation_next(vm);
        retire_table(vm, hole);
        slot->config.gpa = gpa;
        table_fill(table, vm, NULL);
        table = publish(vm, table);
        vm->virtx->backend->memory(vm, gpa, slot->config.bytes, VIRTX_MEMORY_ADDED);
        retire_table(vm, table);
        if (generation)
            *generation = now;
    } else if (hole) {
        virtx_pages_free(vm->virtx, hole, hole->pages);
    }
    virtx_vm_unlock(vm, flags);
    return status;
}

enum virtx_status virtx_memslot_protect(struct virtx_memslot *slot, uint32_t rights,
                                        uint64_t *generation)
{
    struct virtx_vm *vm = slot->vm;
    struct slot_table *table;
    uint64_t flags = virtx_vm_lock(vm), now = atomic_load(&vm->generation);
    enum virtx_status status = check_rights(vm, rights);
    uint32_t lost = slot->config.rights & ~rights;

    virtx_reap(vm);
    if (status == VIRTX_OK && (slot->config.flags & VIRTX_MEMSLOT_WRITE_MMIO) &&
        (rights & VIRTX_WRITE))
        status = virtx_fail(&vm->error, VIRTX_E_INVALID, "rights",
                            "lack VIRTX_WRITE where writes are MMIO", rights);
    if (status == VIRTX_OK && rights != slot->config.rights) {
        status = table_alloc(vm, slots_now(vm), &table);
        if (status == VIRTX_OK) {
            slot->config.rights = rights;
            table_fill(table, vm, NULL);
            table = publish(vm, table);
            vm->virtx->backend->memory(vm, slot->config.gpa, slot->config.bytes,
                                       lost ? VIRTX_MEMORY_NARROWED : VIRTX_MEMORY_WIDENED);
            if (lost || !vm->paging || !vm->paging->nested)
                virtx_generation_next(vm);
            /* Else nothing has been dropped: a processor looks at the table again before it
             * faults, and a fault drops what it had. */
            retire_table(vm, table);
            now = atomic_load(&vm->generation);
        }
    }
    if (status == VIRTX_OK && generation)
        *generation = now;
    virtx_vm_unlock(vm, flags);
    return status;
}

enum virtx_status virtx_memslot_invalidate(struct virtx_memslot *slot, uint64_t offset,
                                           uint64_t bytes, uint64_t *generation)
{
    struct virtx_vm *vm = slot->vm;
    uint64_t flags = virtx_vm_lock(vm), now;
    enum virtx_status status = VIRTX_OK;

    if (offset % VIRTX_PAGE_SIZE || bytes % VIRTX_PAGE_SIZE)
        status = virtx_fail(&vm->error, VIRTX_E_ALIGN, "offset, bytes", "are page-aligned",
                            offset % VIRTX_PAGE_SIZE ? offset : bytes);
    else if (!bytes || offset >= slot->config.bytes || bytes > slot->config.bytes - offset)
        status = virtx_fail(&vm->error, VIRTX_E_RANGE, "offset + bytes",
                            "is within the slot and not empty", offset + bytes);
    if (status == VIRTX_OK) {
        vm->virtx->backend->memory(vm, slot->config.gpa + offset, bytes, VIRTX_MEMORY_MOVED);
        now = virtx_generation_next(vm);
        if (generation)
            *generation = now;
    }
    virtx_vm_unlock(vm, flags);
    return status;
}

void virtx_memslot_query(const struct virtx_memslot *slot, struct virtx_memslot_config *config)
{
    uint64_t flags = virtx_vm_lock(slot->vm);

    *config = slot->config;
    virtx_vm_unlock(slot->vm, flags);
}

/* ---- The dirty log ---- */

enum virtx_status virtx_memslot_log(struct virtx_memslot *slot, bool on)
{
    struct virtx_vm *vm = slot->vm;
    struct dirty_log *log = NULL, *old;
    struct slot_table *table = NULL;
    uint64_t flags = virtx_vm_lock(vm);
    enum virtx_status status = VIRTX_OK;

    virtx_reap(vm);
    if (on == (slot->log != NULL)) {
        virtx_vm_unlock(vm, flags);
        return VIRTX_OK;
    }
    if (!on && slot->log->harvested)
        status = virtx_fail(&vm->error, VIRTX_E_BUSY, "slot", "is not being harvested", 0);
    if (on)
        status = virtx_log_alloc(vm, slot->config.bytes, &log);
    if (status == VIRTX_OK)
        status = table_alloc(vm, slots_now(vm), &table);
    if (status == VIRTX_OK) {
        old = slot->log;
        slot->log = log;
        slot->config.flags &= ~(uint32_t)VIRTX_MEMSLOT_DIRTY_LOG;
        slot->config.flags |= on ? VIRTX_MEMSLOT_DIRTY_LOG : 0;
        table_fill(table, vm, NULL);
        table = publish(vm, table);
        vm->virtx->backend->memory(vm, slot->config.gpa, slot->config.bytes,
                                   on ? VIRTX_MEMORY_NARROWED : VIRTX_MEMORY_WIDENED);
        virtx_generation_next(vm);
        retire_table(vm, table);
        retire_log(vm, old);
    } else if (log) {
        virtx_log_free(vm->virtx, log);
    }
    virtx_vm_unlock(vm, flags);
    return status;
}

void virtx_slots_destroy(struct virtx_vm *vm)
{
    struct slot_table *table = atomic_load(&vm->slots);

    for (struct virtx_memslot *slot = vm->memslots; slot; slot = slot->next)
        if (slot->log)
            virtx_log_free(vm->virtx, slot->log);
    vm->memslots = NULL;
    atomic_store(&vm->slots, NULL);
    if (table)
        virtx_pages_free(vm->virtx, table, table->pages);
}
