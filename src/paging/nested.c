/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The nested paging engine: GPA to HPA tables of the hardware's own format, one root for all vcpus
 * of a VM, filled by faults.
 *
 * Large pages. The backing need not be contiguous and is asked page by page, so a large leaf needs
 * proof. A 2-MiB range of a slot is tried when it is touched for the first time, which shows by its
 * having no table of 4-KiB entries yet: the first and the last page are asked, and only if their
 * addresses fit, the 510 between them. Whatever the answer, the question is not asked again before
 * the range is dropped. For 1 GiB that proof would cost too much in one exit; it is mapped where
 * the slot says VIRTX_MEMSLOT_CONTIGUOUS, and then, as for 2 MiB, only the first page is asked.
 *
 * Dirty log. Logged slots are mapped with 4-KiB leaves marked TABLE_LOGGED, in which the hardware's
 * dirty flag (VIRTX_FEATURE_NESTED_AD) or the right to write, given at the first write, says that
 * the page is to be reported. It moves to the slot's log when the log is collected or the leaf is
 * dropped.
 *
 * Where the hardware keeps a log of the pages whose dirty flag it sets
 * (VIRTX_FEATURE_DIRTY_LOGGING), that tells the slot's log, and collecting is no search: it clears
 * the flags of the pages that were taken. A leaf that is dropped still reports its flag, under the
 * address that it had; the hardware's own record of it only says so again.
 */
#include "paging/table.h"
#include "hw/hw.h"

struct nested_vm {
    struct table table;
    bool large_2m, large_1g;
    uint64_t page;      /* [lock] where nested_map_page() last put one */
    uint64_t hpa_limit; /* HPAs at or above it are nonsense */
};

/*
 * The table of 4-KiB entries used last, and what its slot makes of them: by value, for the slot
 * table may have gone. All of it holds as long as the sequence is the same. Sequences start at 1: 0
 * is none.
 */
struct nested_vcpu {
    uint64_t sequence;
    uint64_t start, bytes; /* the part of the slot within the 2 MiB of the table */
    uint8_t *memory;       /* of start */
    uint64_t *leaves;
    uint64_t leaf;    /* a leaf less its HPA */
    uint64_t written; /* what a write adds to it */
    uint32_t rights;
};

static struct nested_vm *vm_of(struct virtx_vm *vm)
{
    return vm->paging_data;
}

static enum virtx_status nested_vm_create(struct virtx_vm *vm)
{
    const struct virtx *virtx = vm->virtx;
    const struct virtx_hw *hw = virtx->backend->hw;
    struct nested_vm *nested = vm_of(vm);
    uint64_t features = virtx->caps.features;

    if (!hw || !hw->nested || !(features & VIRTX_FEATURE_NESTED_PAGING))
        return VIRTX_E_UNSUPPORTED;
    nested->large_2m = features & VIRTX_FEATURE_LARGE_2M;
    nested->large_1g = nested->large_2m && (features & VIRTX_FEATURE_LARGE_1G);
    nested->hpa_limit = BIT(virtx->caps.physical_bits);
    nested->table.hardware_log = features & VIRTX_FEATURE_DIRTY_LOGGING;
    atomic_init(&nested->table.sequence, 1);
    return table_create(&nested->table, vm, hw->nested, features & VIRTX_FEATURE_NESTED_AD);
}

static void nested_vm_destroy(struct virtx_vm *vm)
{
    table_destroy(&vm_of(vm)->table);
}

static enum virtx_status nested_vcpu_create(struct virtx_vcpu *vcpu)
{
    (void)vcpu;
    return VIRTX_OK;
}

static void nested_vcpu_destroy(struct virtx_vcpu *vcpu)
{
    (void)vcpu;
}

static uint64_t nested_root(struct virtx_vcpu *vcpu)
{
    return vm_of(vcpu->vm)->table.root_hpa;
}

/* ---- Faults ---- */

static bool usable_hpa(const struct nested_vm *nested, uint64_t hpa)
{
    return hpa < nested->hpa_limit && !(hpa & (VIRTX_PAGE_SIZE - 1));
}

/* Whether [gpa, gpa + span) of the slot may be one leaf, and then its HPA. */
static bool contiguous(const struct virtx *virtx, const struct nested_vm *nested,
                       const struct slot_entry *slot, uint64_t gpa, uint64_t span, uint64_t *out)
{
    const uint8_t *memory = slot->memory + (gpa - slot->gpa);
    uint64_t hpa;

    if (gpa < slot->gpa || slot->end - gpa < span)
        return false;
    hpa = virtx_hpa(virtx, memory);
    if (!usable_hpa(nested, hpa) || (hpa & (span - 1)))
        return false;
    *out = hpa;
    if (slot->flags & VIRTX_MEMSLOT_CONTIGUOUS)
        return true;
    if (span > table_span(2))
        return false;
    /* From the end, where a backing that is not contiguous shows at once. */
    for (uint64_t offset = span - VIRTX_PAGE_SIZE; offset; offset -= VIRTX_PAGE_SIZE)
        if (virtx_hpa(virtx, memory + offset) != hpa + offset)
            return false;
    return true;
}

/* The largest leaf for gpa, at most of level `most`, and its HPA; 0: the page has no backing. */
static unsigned choose_level(struct virtx_vm *vm, const struct slot_entry *slot, uint64_t gpa,
                             unsigned most, uint64_t *hpa)
{
    const struct nested_vm *nested = vm_of(vm);
    unsigned level = most;

    if (slot->dirty || (slot->flags & VIRTX_MEMSLOT_SMALL_PAGES) || !nested->large_2m)
        level = 1;
    else if (level > 3)
        level = 3;
    if (level == 3 && !nested->large_1g)
        level = 2;
    for (; level > 1; level--)
        if (contiguous(vm->virtx, nested, slot, gpa & ~(table_span(level) - 1), table_span(level),
                       hpa))
            return level;
    *hpa = virtx_hpa(vm->virtx, slot->memory + ((gpa & ~0xfffull) - slot->gpa));
    return usable_hpa(nested, *hpa);
}

static uint64_t leaf_for(const struct table *table, const struct slot_entry *slot, uint64_t hpa,
                         unsigned level, uint32_t access)
{
    uint64_t leaf =
        table_leaf(table, hpa, level, table_rights(slot, level), slot->type, slot->dirty != NULL);
    /* The write that is about to happen is the one that the log is to be told of; hardware that
     * keeps a log sees to it. */
    if (unlikely(slot->dirty) && (access & VIRTX_WRITE) && !table->hardware_log)
        leaf |= table->written;
    return leaf;
}

/* An access that no slot allows. A write to a ROM's device comes from an instruction; the processor
 * itself, setting flags in guest tables that lie there, cannot be served by a device. */
static enum virtx_fault_result refused(const struct slot_entry *slot,
                                       const struct virtx_page_fault *fault)
{
    if (!slot)
        return VIRTX_FAULT_NOT_MEMORY;
    if ((fault->access & ~slot->rights) == VIRTX_WRITE &&
        (slot->flags & VIRTX_MEMSLOT_WRITE_MMIO) && !fault->table_walk)
        return VIRTX_FAULT_NOT_MEMORY;
    return VIRTX_FAULT_FORBIDDEN;
}

/* Remembers the table in which gpa now has a leaf. */
static void remember(struct nested_vcpu *near, const struct table *table,
                     const struct slot_entry *slot, uint64_t gpa, uint64_t sequence)
{
    unsigned level;
    uint64_t *entry = table_lookup(table, gpa, 1, &level);
    uint64_t start = gpa & ~(table_span(2) - 1), end = start + table_span(2);

    if (level != 1)
        return;
    if (start < slot->gpa)
        start = slot->gpa;
    near->start = start;
    near->bytes = min_u64(end, slot->end) - start;
    near->memory = slot->memory + (start - slot->gpa);
    near->leaves = entry - table_index(gpa, 1);
    near->leaf = leaf_for(table, slot, 0, 1, 0);
    near->written = leaf_for(table, slot, 0, 1, VIRTX_WRITE);
    near->rights = slot->rights;
    near->sequence = sequence;
}

/* The whole story: finds slot and table, and leaves what it found for the quick path. */
static __attribute__((noinline)) enum virtx_fault_result
fault_slow(struct virtx_vcpu *vcpu, const struct virtx_page_fault *fault)
{
    struct virtx_vm *vm = vcpu->vm;
    struct table *table = &vm_of(vm)->table;
    uint64_t gpa = fault->gpa, hpa, value;
    uint64_t sequence = atomic_load_explicit(&table->sequence, memory_order_acquire);
    const struct slot_entry *slot = virtx_slot_find(virtx_slots(vm), gpa);
    uint64_t *entry;
    unsigned level, wanted;

    /* Nothing that we wrote is refused by the hardware, and writing it again would not help. */
    if (fault->misconfigured)
        return VIRTX_FAULT_FORBIDDEN;
    if (!slot || (fault->access & ~slot->rights))
        return refused(slot, fault);

    entry = table_lookup(table, gpa, 1, &level);
    value = table_read(entry);
    if (level > 1 && (slot->flags & VIRTX_MEMSLOT_SMALL_EXECUTE) &&
        (fault->access & VIRTX_EXECUTE)) {
        /* Once for each level; the fault comes again until the leaf is small. */
        if (table_present(table, value))
            return table_split_leaf(table, gpa, slot, sequence) == VIRTX_E_NO_MEMORY
                       ? VIRTX_FAULT_NO_MEMORY
                       : VIRTX_FAULT_RESUME;
        level = 1;
    }
    if (level > 1 && table_present(table, value)) {
        /* A large leaf with fewer rights than the slot gives by now. */
        wanted = level;
        hpa = value & table->format->address & ~(table_span(level) - 1);
    } else {
        wanted = choose_level(vm, slot, gpa, level, &hpa);
        if (!wanted)
            return VIRTX_FAULT_FORBIDDEN;
    }
    switch (table_map(table, gpa, wanted, leaf_for(table, slot, hpa, wanted, fault->access),
                      sequence)) {
    case VIRTX_OK:
        break;
    case VIRTX_AGAIN: /* the guest will ask again, and by then the slots have settled */
        return VIRTX_FAULT_RESUME;
    default:
        return VIRTX_FAULT_NO_MEMORY;
    }
    remember(vcpu->paging_data, table, slot, gpa, sequence);
    return VIRTX_FAULT_RESUME;
}

/*
 * The quick path: a page of a slot and a table that this vcpu has used before, without a leaf yet.
 * If the sequence is still the one of then, no slot has changed and no table has gone.
 */
static enum virtx_fault_result nested_fault(struct virtx_vcpu *vcpu, struct virtx_page_fault *fault)
{
    struct virtx_vm *vm = vcpu->vm;
    struct nested_vm *nested = vm_of(vm);
    const struct nested_vcpu *near = vcpu->paging_data;
    uint64_t offset = fault->gpa - near->start, *entry, hpa;
    bool done = false;

    /* The host is not asked about memory that a slot has given back. */
    if (unlikely(atomic_load_explicit(&nested->table.sequence, memory_order_acquire) !=
                 near->sequence) ||
        unlikely(offset >= near->bytes) || unlikely(fault->access & ~near->rights) ||
        unlikely(fault->misconfigured))
        return fault_slow(vcpu, fault);
    hpa = virtx_hpa(vm->virtx, near->memory + (offset & ~0xfffull));
    if (unlikely(!usable_hpa(nested, hpa)))
        return fault_slow(vcpu, fault);
    entry = near->leaves + table_index(fault->gpa, 1);
    hpa |= fault->access & VIRTX_WRITE ? near->written : near->leaf;

    virtx_lock(&vm->page_lock);
    if (likely(atomic_load_explicit(&nested->table.sequence, memory_order_relaxed) ==
               near->sequence) &&
        likely(!table_present(&nested->table, table_read(entry)))) {
        __atomic_store_n(entry, hpa, __ATOMIC_RELAXED);
        done = true;
    }
    virtx_unlock(&vm->page_lock);
    if (unlikely(!done))
        return fault_slow(vcpu, fault);
    return VIRTX_FAULT_RESUME;
}

/* ---- Changes of the slots ---- */

/* Brings a leaf down to what its slot allows and logs. */
static uint64_t narrow(const struct table *table, const void *ctx, uint64_t leaf, unsigned level)
{
    const struct slot_entry *slot = ctx;
    const struct table_format *format = table->format;

    (void)level;
    if (!(slot->rights & VIRTX_WRITE))
        leaf &= ~format->write;
    if (!(slot->rights & VIRTX_EXECUTE))
        leaf = (leaf & ~format->execute) | format->no_execute;
    if (slot->dirty && !(leaf & TABLE_LOGGED))
        leaf = (leaf & ~table->written) | TABLE_LOGGED;
    return leaf;
}

/* A leaf whose log has been told, or that is to tell the hardware's again. */
static uint64_t collect(const struct table *table, const void *ctx, uint64_t leaf, unsigned level)
{
    (void)ctx;
    (void)level;
    return leaf & TABLE_LOGGED ? leaf & ~table->written : leaf;
}

/* Ends logging. */
static uint64_t forget(const struct table *table, const void *ctx, uint64_t leaf, unsigned level)
{
    (void)table;
    (void)ctx;
    (void)level;
    return leaf & ~TABLE_LOGGED;
}

/* The slots that meet a range, each with its part of it. */
static const struct slot_entry *next_slot(const struct slot_table *slots, uint64_t *gpa,
                                          uint64_t end, uint64_t *bytes)
{
    for (uint32_t i = 0; slots && i < slots->count && *gpa < end; i++) {
        const struct slot_entry *slot = &slots->entry[i];
        if (slot->end <= *gpa)
            continue;
        if (slot->gpa >= end)
            return NULL;
        if (*gpa < slot->gpa)
            *gpa = slot->gpa;
        *bytes = min_u64(slot->end, end) - *gpa;
        return slot;
    }
    return NULL;
}

static void narrow_slot(struct virtx_vm *vm, const struct slot_entry *slot, uint64_t gpa,
                        uint64_t bytes, uint64_t generation)
{
    struct table *table = &vm_of(vm)->table;
    if (slot->dirty)
        table_split(table, gpa, bytes, slot, generation);
    table_change(table, gpa, bytes, narrow, slot);
}

/* Rights come with the next fault. Where a log has ended, the small leaves make room for large
 * ones. */
static void widen_slot(struct virtx_vm *vm, const struct slot_entry *slot, uint64_t gpa,
                       uint64_t bytes, uint64_t generation)
{
    struct nested_vm *nested = vm_of(vm);
    if (slot->dirty)
        return;
    if (table_change(&nested->table, gpa, bytes, forget, NULL) && nested->large_2m &&
        !(slot->flags & VIRTX_MEMSLOT_SMALL_PAGES))
        table_unmap(&nested->table, gpa, bytes, generation);
}

static void nested_memory(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes,
                          enum virtx_memory_change change)
{
    struct table *table = &vm_of(vm)->table;
    const struct slot_table *slots = virtx_slots(vm);
    const struct slot_entry *slot;
    uint64_t end = gpa + bytes, part;
    uint64_t generation = virtx_generation_coming(vm);

    /* Faults under way have read the old slots; none of them may map by what it has read. */
    virtx_lock(&vm->page_lock);
    atomic_fetch_add(&table->sequence, 1);
    virtx_unlock(&vm->page_lock);

    if (!table->has_logged)
        for (uint64_t at = gpa; (slot = next_slot(slots, &at, end, &part)); at += part)
            table->has_logged |= slot->dirty != NULL;
    switch (change) {
    case VIRTX_MEMORY_ADDED: /* nothing was mapped there, and MMIO leaves no trace */
        if (vm_of(vm)->page - gpa < bytes)
            table_unmap(table, gpa, bytes, generation);
        break;
    case VIRTX_MEMORY_REMOVED:
    case VIRTX_MEMORY_MOVED:
        table_unmap(table, gpa, bytes, generation);
        break;
    case VIRTX_MEMORY_NARROWED:
    case VIRTX_MEMORY_WIDENED:
        for (; (slot = next_slot(slots, &gpa, end, &part)); gpa += part) {
            if (change == VIRTX_MEMORY_NARROWED)
                narrow_slot(vm, slot, gpa, part, generation);
            else
                widen_slot(vm, slot, gpa, part, generation);
        }
        break;
    }
}

static enum virtx_status nested_map_page(struct virtx_vm *vm, uint64_t gpa, uint64_t hpa)
{
    struct nested_vm *nested = vm_of(vm);
    struct table *table = &nested->table;
    uint64_t sequence = atomic_load_explicit(&table->sequence, memory_order_acquire);

    if (virtx_slot_find(virtx_slots(vm), gpa))
        return VIRTX_E_BUSY;
    if (!usable_hpa(nested, hpa))
        return VIRTX_E_HOST;
    nested->page = gpa;
    return table_map(table, gpa, 1,
                     table_leaf(table, hpa, 1, VIRTX_READ | VIRTX_WRITE, VIRTX_MEMORY_WB, false),
                     sequence);
}

static void nested_collect_dirty(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes)
{
    table_change(&vm_of(vm)->table, gpa, bytes, collect, NULL);
}

const struct virtx_paging virtx_paging_nested = {
    .size = sizeof(struct virtx_paging),
    .nested = true,
    .name = "nested",
    .vm_bytes = sizeof(struct nested_vm),
    .vcpu_bytes = sizeof(struct nested_vcpu),
    .vm_create = nested_vm_create,
    .vm_destroy = nested_vm_destroy,
    .vcpu_create = nested_vcpu_create,
    .vcpu_destroy = nested_vcpu_destroy,
    .memory = nested_memory,
    .map_page = nested_map_page,
    .collect_dirty = nested_collect_dirty,
    .root = nested_root,
    .fault = nested_fault,
};
