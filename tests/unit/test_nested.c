/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The nested engine against a model of slots: after any sequence of slot changes, faults and
 * harvests the hardware's walk finds exactly the slots' memory, and the logs have exactly what was
 * written.
 */
#include "paging/table.h"
#include "paging_world.h"
#include "svm/svm.h"
#include "vmx/vmx.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#define STEPS       30000
#define SLOT_MAX    2048u                                    /* pages of the largest slot */
#define SPACE_PAGES 8192u                                    /* guest-physical space of the model */
#define SPACE_BASE  (BIT(39) - SPACE_PAGES / 2 * WORLD_PAGE) /* across a boundary of all levels */

struct model_slot {
    bool used;
    struct slot_entry entry;
    uint64_t first_backing; /* page of the world's backing */
    uint64_t pages;
    uint64_t log[SLOT_MAX / 64];     /* what the engine reported: entry.dirty */
    uint64_t written[SLOT_MAX / 64]; /* what was written since the log was taken */
};

/* A processor's TLB that never forgets by itself, one for each vcpu. */
struct tlb_entry {
    bool valid, write, execute, dirty;
    uint64_t hpa;
};

static struct tlb_entry tlb[2][SPACE_PAGES];
static uint64_t tlb_generation[2]; /* whose debts are paid */

static struct model_slot slots[WORLD_SLOTS];
static const struct virtx_paging *engine;
static const struct table_format *const formats[] = {&vmx_ept, &svm_npt};
static unsigned faults;
static bool in_fault; /* a vcpu is looking at tables, so nothing settles */

#define ALL_FEATURES (VIRTX_FEATURE_LARGE_2M | VIRTX_FEATURE_LARGE_1G | VIRTX_FEATURE_NESTED_AD)

static void setup(int format, uint64_t features)
{
    world_begin((enum ref_nested_format)format, formats[format], features);
    engine = &virtx_paging_nested;
    memset(slots, 0, sizeof(slots));
    faults = 0;
    in_fault = false;
    memset(tlb, 0, sizeof(tlb));
    memset(tlb_generation, 0, sizeof(tlb_generation));
    ck_assert_int_eq(engine->vm_create(&world.vm), VIRTX_OK);
    for (unsigned i = 0; i < 2; i++)
        ck_assert_int_eq(engine->vcpu_create(&world.vcpu[i]), VIRTX_OK);
}

static void teardown(void)
{
    for (unsigned i = 0; i < 2; i++)
        engine->vcpu_destroy(&world.vcpu[i]);
    engine->vm_destroy(&world.vm);
    atomic_fetch_add(&world.vm.generation, 1);
    world_end();
}

static void publish(void)
{
    struct slot_entry entries[WORLD_SLOTS];
    unsigned count = 0;
    for (unsigned i = 0; i < WORLD_SLOTS; i++)
        if (slots[i].used)
            entries[count++] = slots[i].entry;
    world_publish(entries, count);
}

static void changed(uint64_t gpa, uint64_t bytes, enum virtx_memory_change change)
{
    engine->memory(&world.vm, gpa, bytes, change);
    if (change != VIRTX_MEMORY_ADDED)
        atomic_fetch_add(&world.vm.generation, 1);
    if (!in_fault && world_below(2))
        world_settle();
}

static struct model_slot *slot_at(uint64_t gpa)
{
    for (unsigned i = 0; i < WORLD_SLOTS; i++)
        if (slots[i].used && gpa >= slots[i].entry.gpa && gpa < slots[i].entry.end)
            return &slots[i];
    return NULL;
}

static void add_slot(struct model_slot *slot, uint64_t gpa, uint64_t pages, uint64_t backing,
                     uint32_t rights, uint32_t flags)
{
    memset(slot, 0, sizeof(*slot));
    slot->used = true;
    slot->pages = pages;
    slot->first_backing = backing;
    slot->entry = (struct slot_entry){
        .gpa = gpa,
        .end = gpa + pages * WORLD_PAGE,
        .memory = WORLD_BACKING + backing * WORLD_PAGE,
        .dirty = flags & VIRTX_MEMSLOT_DIRTY_LOG ? (void *)slot->log : NULL,
        .rights = rights,
        .type = VIRTX_MEMORY_WB,
        .flags = flags,
    };
    publish();
    changed(gpa, pages * WORLD_PAGE, VIRTX_MEMORY_ADDED);
}

static uint64_t model_hpa(const struct model_slot *slot, uint64_t gpa)
{
    uint64_t hpa = world.backing[slot->first_backing + (gpa - slot->entry.gpa) / WORLD_PAGE];
    return hpa == UINT64_MAX ? hpa : hpa + gpa % WORLD_PAGE;
}

/* Never more than the slots allow, and nowhere else. */
static void check_page(uint64_t gpa)
{
    struct ref_nested n = world_walk(engine->root(&world.vcpu[0]), gpa);
    const struct model_slot *slot = slot_at(gpa);

    EXPECT(n.kind != REF_NESTED_MISCONFIGURED);
    if (n.kind == REF_NESTED_NOT_PRESENT)
        return;
    EXPECT(slot != NULL);
    EXPECT(n.hpa == model_hpa(slot, gpa));
    EXPECT(!n.write || (slot->entry.rights & VIRTX_WRITE));
    EXPECT(!n.execute || (slot->entry.rights & VIRTX_EXECUTE));
    EXPECT(n.page_bytes == WORLD_PAGE || !(slot->entry.flags & VIRTX_MEMSLOT_SMALL_PAGES));
    EXPECT(n.page_bytes == WORLD_PAGE || !slot->entry.dirty);
    EXPECT(n.page_bytes == WORLD_PAGE || !n.execute ||
           !(slot->entry.flags & VIRTX_MEMSLOT_SMALL_EXECUTE));
}

static bool allows(const struct ref_nested *n, uint32_t access)
{
    return n->kind == REF_NESTED_OK && (n->read || !(access & VIRTX_READ)) &&
           (n->write || !(access & VIRTX_WRITE)) && (n->execute || !(access & VIRTX_EXECUTE));
}

/* The TLB's entry for gpa; NULL outside the model's space. A vcpu pays its debts before it runs. */
static struct tlb_entry *tlb_entry(unsigned vcpu, uint64_t gpa)
{
    uint64_t generation = atomic_load(&world.vm.generation);
    if (tlb_generation[vcpu] != generation) {
        memset(tlb[vcpu], 0, sizeof(tlb[vcpu]));
        tlb_generation[vcpu] = generation;
    }
    if (gpa - SPACE_BASE >= SPACE_PAGES * WORLD_PAGE)
        return NULL;
    return &tlb[vcpu][(gpa - SPACE_BASE) / WORLD_PAGE];
}

/* An access that the TLB answers without a walk. It must do what the slots say now. */
static bool tlb_hit(const struct tlb_entry *entry, uint64_t gpa, uint32_t access)
{
    struct model_slot *slot = slot_at(gpa);
    if (!entry || !entry->valid || ((access & VIRTX_EXECUTE) && !entry->execute) ||
        ((access & VIRTX_WRITE) && !(entry->write && entry->dirty)))
        return false;
    EXPECT(slot != NULL);
    EXPECT(!(access & ~slot->entry.rights));
    EXPECT(entry->hpa == (model_hpa(slot, gpa) & ~(WORLD_PAGE - 1)));
    if (access & VIRTX_WRITE)
        slot->written[(gpa - slot->entry.gpa) / WORLD_PAGE / 64] |=
            BIT((gpa - slot->entry.gpa) / WORLD_PAGE % 64);
    return true;
}

/* The guest accesses a page: the hardware walks, and the engine answers if it cannot go on. */
static enum virtx_fault_result touch(unsigned vcpu, uint64_t gpa, uint32_t access)
{
    const struct model_slot *const_slot = slot_at(gpa);
    struct model_slot *slot = slot_at(gpa);
    struct tlb_entry *cached = tlb_entry(vcpu, gpa);
    if (tlb_hit(cached, gpa, access))
        return VIRTX_FAULT_RESUME;
    struct ref_nested n = world_walk(engine->root(&world.vcpu[vcpu]), gpa);

    for (unsigned attempt = 0; !allows(&n, access); attempt++) {
        struct virtx_page_fault fault = {.gpa = gpa, .access = (uint8_t)access};
        enum virtx_fault_result result;
        if (n.kind == REF_NESTED_OK)
            fault.present = (uint8_t)((n.read ? VIRTX_READ : 0) | (n.write ? VIRTX_WRITE : 0) |
                                      (n.execute ? VIRTX_EXECUTE : 0));
        faults++;
        result = engine->fault(&world.vcpu[vcpu], &fault);
        if (result != VIRTX_FAULT_RESUME)
            return result;
        /* One fault for the table, one when somebody else's change came between. */
        EXPECT(attempt < 2);
        n = world_walk(engine->root(&world.vcpu[vcpu]), gpa);
    }
    EXPECT(const_slot != NULL);
    EXPECT(n.hpa == model_hpa(const_slot, gpa));
    if (access & VIRTX_WRITE) {
        uint64_t page = (gpa - slot->entry.gpa) / WORLD_PAGE;
        if (world.virtx.caps.features & VIRTX_FEATURE_NESTED_AD)
            world_set_bits(n.leaf_address, formats[world.format]->dirty);
        slot->written[page / 64] |= BIT(page % 64);
    }
    if (cached)
        *cached = (struct tlb_entry){
            .valid = true,
            .write = n.write,
            .execute = n.execute,
            /* Without dirty flags there is nothing to walk for. */
            .dirty = n.dirty || (access & VIRTX_WRITE) ||
                     !(world.virtx.caps.features & VIRTX_FEATURE_NESTED_AD),
            .hpa = n.hpa & ~(WORLD_PAGE - 1),
        };
    return VIRTX_FAULT_RESUME;
}

static enum virtx_fault_result expected_result(uint64_t gpa, uint32_t access)
{
    const struct model_slot *slot = slot_at(gpa);
    if (!slot)
        return VIRTX_FAULT_NOT_MEMORY;
    if ((access & ~slot->entry.rights) == VIRTX_WRITE &&
        (slot->entry.flags & VIRTX_MEMSLOT_WRITE_MMIO))
        return VIRTX_FAULT_NOT_MEMORY;
    if ((access & ~slot->entry.rights) || model_hpa(slot, gpa) == UINT64_MAX)
        return VIRTX_FAULT_FORBIDDEN;
    return VIRTX_FAULT_RESUME;
}

/* What core does: collect, take the log, and flush if there was anything. */
static void harvest(struct model_slot *slot)
{
    static const uint64_t nothing[SLOT_MAX / 64];
    engine->collect_dirty(&world.vm, slot->entry.gpa, slot->pages * WORLD_PAGE);
    EXPECT(!memcmp(slot->log, slot->written, sizeof(slot->log)));
    if (memcmp(slot->log, nothing, sizeof(nothing)))
        atomic_fetch_add(&world.vm.generation, 1);
    memset(slot->log, 0, sizeof(slot->log));
    memset(slot->written, 0, sizeof(slot->written));
}

/* ---- Random operations ---- */

static bool space_free(const struct model_slot *except, uint64_t gpa, uint64_t pages)
{
    for (unsigned i = 0; i < WORLD_SLOTS; i++)
        if (slots[i].used && &slots[i] != except && gpa < slots[i].entry.end &&
            gpa + pages * WORLD_PAGE > slots[i].entry.gpa)
            return false;
    return gpa + pages * WORLD_PAGE <= SPACE_BASE + SPACE_PAGES * WORLD_PAGE;
}

static uint64_t random_place(void)
{
    uint64_t page = world_below(SPACE_PAGES);
    if (world_below(2))
        page &= ~511ull;
    return SPACE_BASE + page * WORLD_PAGE;
}

static void step_add(struct model_slot *slot)
{
    static const uint32_t flag_choice[] = {0,
                                           0,
                                           0,
                                           VIRTX_MEMSLOT_SMALL_PAGES,
                                           VIRTX_MEMSLOT_WRITE_MMIO,
                                           VIRTX_MEMSLOT_DIRTY_LOG,
                                           VIRTX_MEMSLOT_SMALL_EXECUTE,
                                           VIRTX_MEMSLOT_SMALL_EXECUTE};
    uint64_t pages = world_below(2) ? (world_below(4) + 1) * 512 : world_below(SLOT_MAX) + 1;
    uint64_t gpa = random_place(), index = (uint64_t)(slot - slots);
    uint32_t rights = VIRTX_READ | (world_random() & (VIRTX_WRITE | VIRTX_EXECUTE));
    uint64_t backing = index * 3 * SLOT_MAX + (world_below(2) ? 0 : world_below(SLOT_MAX));

    if (!space_free(NULL, gpa, pages))
        return;
    /* Contiguous, or with some pages out of order. */
    for (uint64_t i = 0; i < pages; i++)
        world.backing[backing + i] = BIT(32) + index * BIT(30) + (backing + i) * WORLD_PAGE;
    for (unsigned i = world_below(3) * world_below(4); i > 0; i--)
        world.backing[backing + world_below((uint32_t)pages)] =
            world_below(4) ? BIT(40) + world_below(1 << 20) * WORLD_PAGE : UINT64_MAX;
    add_slot(slot, gpa, pages, backing, rights, flag_choice[world_below(8)]);
}

static void step_remove(struct model_slot *slot)
{
    slot->used = false;
    publish();
    changed(slot->entry.gpa, slot->pages * WORLD_PAGE, VIRTX_MEMORY_REMOVED);
}

static void step_protect(struct model_slot *slot)
{
    uint32_t old = slot->entry.rights, new = VIRTX_READ | (world_random() & 6);
    slot->entry.rights = new;
    publish();
    if (old & ~new)
        changed(slot->entry.gpa, slot->pages * WORLD_PAGE, VIRTX_MEMORY_NARROWED);
    if (new & ~old)
        changed(slot->entry.gpa, slot->pages * WORLD_PAGE, VIRTX_MEMORY_WIDENED);
}

static void step_log(struct model_slot *slot)
{
    bool on = !slot->entry.dirty;
    slot->entry.dirty = on ? (void *)slot->log : NULL;
    if (on) {
        memset(slot->log, 0, sizeof(slot->log));
        memset(slot->written, 0, sizeof(slot->written));
    }
    publish();
    changed(slot->entry.gpa, slot->pages * WORLD_PAGE,
            on ? VIRTX_MEMORY_NARROWED : VIRTX_MEMORY_WIDENED);
}

/* The embedder swaps pages out, in, or to another place: it changes what virt_to_phys says, then
 * tells. */
static void step_invalidate(struct model_slot *slot)
{
    uint64_t first = world_below((uint32_t)slot->pages);
    uint64_t count = world_below((uint32_t)(slot->pages - first)) % 40 + 1;
    for (uint64_t i = first; i < first + count; i++)
        world.backing[slot->first_backing + i] =
            world_below(3) ? BIT(41) + world_below(1 << 20) * WORLD_PAGE : UINT64_MAX;
    changed(slot->entry.gpa + first * WORLD_PAGE, count * WORLD_PAGE, VIRTX_MEMORY_MOVED);
}

/* Moves: as core does, the old place goes first; its marks are taken before. */
static void step_move(struct model_slot *slot)
{
    uint64_t gpa = random_place(), old = slot->entry.gpa;
    if (!space_free(NULL, gpa, slot->pages))
        return;
    engine->collect_dirty(&world.vm, old, slot->pages * WORLD_PAGE);
    slot->entry.gpa = gpa;
    slot->entry.end = gpa + slot->pages * WORLD_PAGE;
    publish();
    changed(old, slot->pages * WORLD_PAGE, VIRTX_MEMORY_REMOVED);
    changed(gpa, slot->pages * WORLD_PAGE, VIRTX_MEMORY_ADDED);
}

static uint64_t random_touch_gpa(void)
{
    const struct model_slot *slot = &slots[world_below(WORLD_SLOTS)];
    if (!slot->used || world_below(20) == 0)
        return SPACE_BASE + world_below(SPACE_PAGES) * WORLD_PAGE + world_below(4096);
    /* Some locality, as the quick path is for that. */
    if (world_below(2))
        return slot->entry.gpa +
               world_below((uint32_t)(slot->pages < 50 ? slot->pages : 50)) * WORLD_PAGE;
    return slot->entry.gpa + world_below((uint32_t)slot->pages) * WORLD_PAGE + world_below(4096);
}

static void step_touch(void)
{
    static const uint32_t accesses[] = {VIRTX_READ, VIRTX_WRITE, VIRTX_READ | VIRTX_WRITE,
                                        VIRTX_EXECUTE};
    uint64_t gpa = random_touch_gpa();
    uint32_t access = accesses[world_below(4)];
    enum virtx_fault_result expected = expected_result(gpa, access), result;

    result = touch(world_below(2), gpa, access);
    if (result == VIRTX_FAULT_NO_MEMORY && world.pool_limit < WORLD_TABLE_PAGES) {
        EXPECT(expected == VIRTX_FAULT_RESUME);
        return;
    }
    EXPECT(result == expected);
}

static void check_everything(void)
{
    for (uint64_t i = 0; i < SPACE_PAGES; i++)
        check_page(SPACE_BASE + i * WORLD_PAGE);
    for (unsigned i = 0; i < WORLD_SLOTS; i++)
        if (slots[i].used && slots[i].entry.dirty)
            harvest(&slots[i]);
}

static const uint64_t feature_sets[] = {
    0,
    VIRTX_FEATURE_NESTED_AD,
    VIRTX_FEATURE_LARGE_2M,
    ALL_FEATURES,
};

START_TEST(random_operations)
{
    setup(_i & 1, feature_sets[_i >> 1]);
    for (unsigned i = 0; i < STEPS; i++) {
        struct model_slot *slot = &slots[world_below(WORLD_SLOTS)];
        uint32_t dice = world_below(1000);
        if (world_below(500) == 0)
            world.pool_limit =
                world_below(2) ? WORLD_TABLE_PAGES : world.pool_used + world_below(4);
        if (dice < 940)
            step_touch();
        else if (!slot->used)
            step_add(slot);
        else if (dice < 950)
            step_remove(slot);
        else if (dice < 960)
            step_protect(slot);
        else if (dice < 970)
            step_log(slot);
        else if (dice < 980)
            step_invalidate(slot);
        else if (dice < 985)
            step_move(slot);
        else if (slot->entry.dirty)
            harvest(slot);
        if (i % 128 == 0)
            check_everything();
    }
    check_everything();
    for (unsigned i = 0; i < WORLD_SLOTS; i++)
        if (slots[i].used)
            step_remove(&slots[i]);
    ck_assert_uint_eq(world.pool_used, 1);
    teardown();
}
END_TEST

/* ---- What the features ask, one by one ---- */

static struct ref_nested walk(uint64_t gpa)
{
    return world_walk(engine->root(&world.vcpu[0]), gpa);
}

START_TEST(large_pages_need_contiguous_backing)
{
    setup(_i, ALL_FEATURES);
    add_slot(&slots[0], 0, 2048, 0, 7, 0);
    world.backing[512 + 511] += WORLD_PAGE; /* the second range: its last page is elsewhere */
    world.backing[1024 + 300] += BIT(40);   /* the third: one in the middle */
    world.backing[1536] = UINT64_MAX;       /* the fourth: the first has no backing */
    for (unsigned i = 0; i < 4; i++) {
        ck_assert_int_eq(touch(0, i * BIT(21) + 0x5123, VIRTX_READ), VIRTX_FAULT_RESUME);
        ck_assert_uint_eq(walk(i * BIT(21) + 0x5123).page_bytes, i == 0 ? BIT(21) : WORLD_PAGE);
    }
    ck_assert_uint_eq(faults, 4);
    ck_assert(walk(0).execute && walk(0).write);
    teardown();
}
END_TEST

/* Large leaves for data; a fetch splits what it meets, down to 4 KiB, and nothing beside it. */
START_TEST(large_pages_are_not_executed)
{
    setup(_i, ALL_FEATURES);
    add_slot(&slots[0], 0, 2048, 0, 7, VIRTX_MEMSLOT_SMALL_EXECUTE);
    for (unsigned i = 0; i < 3; i++)
        ck_assert_int_eq(touch(0, i * BIT(21), VIRTX_WRITE), VIRTX_FAULT_RESUME);
    ck_assert_uint_eq(walk(0).page_bytes, BIT(21));
    ck_assert(walk(0).write && !walk(0).execute);
    faults = 0;
    ck_assert_int_eq(touch(0, BIT(21) + 0x5123, VIRTX_EXECUTE), VIRTX_FAULT_RESUME);
    ck_assert_uint_eq(faults, 1);
    for (unsigned i = 0; i < 512; i++) {
        struct ref_nested n = walk(BIT(21) + i * WORLD_PAGE);

        ck_assert_uint_eq(n.page_bytes, WORLD_PAGE);
        ck_assert(n.read && n.write && n.execute);
        ck_assert_uint_eq(n.hpa, world.backing[512 + i]);
    }
    ck_assert_uint_eq(walk(0).page_bytes, BIT(21));
    ck_assert_uint_eq(walk(2 * BIT(21)).page_bytes, BIT(21));
    /* Executed first: small from the start. */
    ck_assert_int_eq(touch(0, 3 * BIT(21) + 0x7000, VIRTX_EXECUTE), VIRTX_FAULT_RESUME);
    ck_assert_uint_eq(walk(3 * BIT(21) + 0x7000).page_bytes, WORLD_PAGE);
    ck_assert_int_eq(walk(3 * BIT(21)).kind, REF_NESTED_NOT_PRESENT);
    /* No page for the small leaves: nothing has changed, and with one it goes on. */
    world.pool_limit = world.pool_used;
    ck_assert_int_eq(touch(0, 0x1000, VIRTX_EXECUTE), VIRTX_FAULT_NO_MEMORY);
    ck_assert_uint_eq(walk(0).page_bytes, BIT(21));
    world.pool_limit++;
    ck_assert_int_eq(touch(0, 0x1000, VIRTX_EXECUTE), VIRTX_FAULT_RESUME);
    ck_assert(walk(0x1000).execute);
    teardown();
    /* 1 GiB is split twice. */
    setup(_i, ALL_FEATURES);
    add_slot(&slots[0], 0, 1 << 18, 0, 7, VIRTX_MEMSLOT_SMALL_EXECUTE | VIRTX_MEMSLOT_CONTIGUOUS);
    world.backing[0] = BIT(32);
    ck_assert_int_eq(touch(0, 0x1000, VIRTX_READ), VIRTX_FAULT_RESUME);
    ck_assert_uint_eq(walk(0).page_bytes, BIT(30));
    ck_assert(!walk(0).execute);
    faults = 0;
    ck_assert_int_eq(touch(0, 0x1000, VIRTX_EXECUTE), VIRTX_FAULT_RESUME);
    ck_assert_uint_eq(faults, 2);
    ck_assert_uint_eq(walk(0x1000).page_bytes, WORLD_PAGE);
    ck_assert(walk(0x1000).execute);
    ck_assert_uint_eq(walk(BIT(21)).page_bytes, BIT(21));
    ck_assert(!walk(BIT(21)).execute);
    teardown();
}
END_TEST

/* The proof is asked for once a range: afterwards a page costs one lookup. */
START_TEST(contiguity_is_asked_once)
{
    setup(_i, ALL_FEATURES);
    add_slot(&slots[0], 0, 1024, 0, 7, 0);
    world.backing[1] += BIT(40); /* the last that a check from the end would ask */
    world.lookups = 0;
    ck_assert_int_eq(touch(0, 0x5000, VIRTX_READ), VIRTX_FAULT_RESUME);
    ck_assert_uint_le(world.lookups, 512 + 4);
    for (unsigned i = 6; i < 500; i++) {
        world.lookups = 0;
        ck_assert_int_eq(touch(0, i * WORLD_PAGE, VIRTX_READ), VIRTX_FAULT_RESUME);
        ck_assert_uint_eq(world.lookups, 1);
    }
    teardown();
}
END_TEST

/* A slot of 3 GiB, of which the world's backing covers the beginning: only that may be asked. */
START_TEST(a_giant_page_needs_the_slots_word)
{
    static const struct {
        uint64_t features, page_bytes;
        uint32_t flags;
    } cases[] = {
        {ALL_FEATURES, BIT(30), VIRTX_MEMSLOT_CONTIGUOUS},
        {ALL_FEATURES, BIT(21), 0},
        {VIRTX_FEATURE_LARGE_2M, BIT(21), VIRTX_MEMSLOT_CONTIGUOUS},
        {0, WORLD_PAGE, VIRTX_MEMSLOT_CONTIGUOUS},
        {ALL_FEATURES, WORLD_PAGE, VIRTX_MEMSLOT_CONTIGUOUS | VIRTX_MEMSLOT_SMALL_PAGES},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct virtx_page_fault fault = {.gpa = BIT(30) + 0x2345678, .access = VIRTX_READ};
        setup(_i, cases[i].features);
        for (uint64_t page = 0; page < WORLD_BACKING_PAGES; page++)
            world.backing[page] += BIT(30) * 3;
        add_slot(&slots[0], BIT(30), 3 * BIT(18), 0, 7, cases[i].flags);
        world.lookups = 0;
        ck_assert_int_eq(engine->fault(&world.vcpu[0], &fault), VIRTX_FAULT_RESUME);
        ck_assert_uint_eq(walk(fault.gpa).page_bytes, cases[i].page_bytes);
        ck_assert_uint_eq(walk(fault.gpa).hpa, world.backing[0] + 0x2345678);
        /* Table pages apart, one question is enough where the slot promises. */
        ck_assert_uint_le(world.lookups, cases[i].flags ? 1 + 3 : 512 + 3);
        engine->memory(&world.vm, BIT(30), 3 * BIT(30), VIRTX_MEMORY_REMOVED);
        teardown();
    }
}
END_TEST

/* Large pages are split when a log begins and come back when it has ended. */
START_TEST(a_log_splits_and_joins)
{
    for (unsigned flags = 0; flags < 2; flags++) {
        setup(_i, VIRTX_FEATURE_LARGE_2M | (flags ? VIRTX_FEATURE_NESTED_AD : 0));
        add_slot(&slots[0], 0, 1024, 0, 7, 0);
        ck_assert_int_eq(touch(0, 0x5000, VIRTX_WRITE), VIRTX_FAULT_RESUME);
        ck_assert_uint_eq(walk(0x5000).page_bytes, BIT(21));
        step_log(&slots[0]);
        ck_assert_uint_eq(walk(0x5000).page_bytes, WORLD_PAGE);
        /* Split, not dropped: reading causes no fault. */
        faults = 0;
        ck_assert_int_eq(touch(0, 0x7000, VIRTX_READ), VIRTX_FAULT_RESUME);
        ck_assert_uint_eq(faults, 0);
        /* A first write faults only where there are no dirty flags. */
        ck_assert_int_eq(touch(0, 0x8000, VIRTX_WRITE), VIRTX_FAULT_RESUME);
        ck_assert_uint_eq(faults, flags ? 0 : 1);
        ck_assert_int_eq(touch(0, 0x8000, VIRTX_WRITE), VIRTX_FAULT_RESUME);
        ck_assert_uint_eq(faults, flags ? 0 : 1);
        ck_assert_uint_eq(slots[0].written[0], BIT(8));
        harvest(&slots[0]);
        harvest(&slots[0]);
        ck_assert_int_eq(touch(0, 0x8000, VIRTX_WRITE), VIRTX_FAULT_RESUME);
        ck_assert_uint_eq(faults, flags ? 0 : 2);
        ck_assert_uint_eq(slots[0].written[0], BIT(8));
        harvest(&slots[0]);
        step_log(&slots[0]);
        ck_assert_int_eq(touch(0, 0x8000, VIRTX_WRITE), VIRTX_FAULT_RESUME);
        ck_assert_uint_eq(walk(0x5000).page_bytes, BIT(21));
        teardown();
    }
}
END_TEST

/* A log begins where the pool cannot split: the large page is dropped and comes back in small ones.
 */
START_TEST(a_log_begins_without_memory)
{
    setup(_i, VIRTX_FEATURE_LARGE_2M);
    add_slot(&slots[0], 0, 1024, 0, 7, 0);
    ck_assert_int_eq(touch(0, 0x5000, VIRTX_WRITE), VIRTX_FAULT_RESUME);
    world.pool_limit = world.pool_used;
    step_log(&slots[0]);
    ck_assert_int_eq(walk(0x5000).kind, REF_NESTED_NOT_PRESENT);
    world.pool_limit = WORLD_TABLE_PAGES;
    ck_assert_int_eq(touch(0, 0x6000, VIRTX_WRITE), VIRTX_FAULT_RESUME);
    harvest(&slots[0]);
    teardown();
}
END_TEST

/* FEATURES G9: ROM, with and without a device behind it; execute-never; a hole. */
START_TEST(rights_and_holes)
{
    struct virtx_page_fault walk_write = {
        .gpa = 0x10000, .access = VIRTX_WRITE, .table_walk = true};
    setup(_i, ALL_FEATURES);
    add_slot(&slots[0], 0x10000, 16, 0, VIRTX_READ | VIRTX_EXECUTE, VIRTX_MEMSLOT_WRITE_MMIO);
    add_slot(&slots[1], 0x20000, 16, 0, VIRTX_READ | VIRTX_EXECUTE, 0);
    add_slot(&slots[2], 0x40000, 16, 0, VIRTX_READ | VIRTX_WRITE, 0);
    ck_assert_int_eq(touch(0, 0x10000, VIRTX_READ), VIRTX_FAULT_RESUME);
    ck_assert_int_eq(touch(0, 0x10000, VIRTX_EXECUTE), VIRTX_FAULT_RESUME);
    ck_assert_int_eq(touch(0, 0x10000, VIRTX_WRITE), VIRTX_FAULT_NOT_MEMORY);
    ck_assert_int_eq(engine->fault(&world.vcpu[0], &walk_write), VIRTX_FAULT_FORBIDDEN);
    ck_assert_int_eq(touch(0, 0x20000, VIRTX_WRITE), VIRTX_FAULT_FORBIDDEN);
    ck_assert_int_eq(touch(0, 0x40000, VIRTX_WRITE), VIRTX_FAULT_RESUME);
    ck_assert_int_eq(touch(0, 0x40000, VIRTX_EXECUTE), VIRTX_FAULT_FORBIDDEN);
    ck_assert_int_eq(touch(0, 0x30000, VIRTX_READ), VIRTX_FAULT_NOT_MEMORY);
    ck_assert_int_eq(touch(0, BIT(50), VIRTX_READ), VIRTX_FAULT_NOT_MEMORY);
    ck_assert_int_eq(touch(0, UINT64_MAX, VIRTX_READ), VIRTX_FAULT_NOT_MEMORY);
    teardown();
}
END_TEST

START_TEST(the_entry_that_hardware_refuses)
{
    struct virtx_page_fault fault = {.gpa = 0x1000, .access = VIRTX_READ, .misconfigured = true};
    setup(_i, 0);
    add_slot(&slots[0], 0, 16, 0, 7, 0);
    ck_assert_int_eq(engine->fault(&world.vcpu[0], &fault), VIRTX_FAULT_FORBIDDEN);
    teardown();
}
END_TEST

/* A host that answers nonsense is not mapped. */
START_TEST(impossible_host_addresses)
{
    setup(_i, ALL_FEATURES);
    add_slot(&slots[0], 0, 16, 0, 7, 0);
    world.backing[0] = BIT(46);
    world.backing[1] |= 0x10;
    ck_assert_int_eq(touch(0, 2 * WORLD_PAGE, VIRTX_READ), VIRTX_FAULT_RESUME);
    for (unsigned i = 0; i < 2; i++)
        ck_assert_int_eq(
            engine->fault(&world.vcpu[0],
                          &(struct virtx_page_fault){.gpa = i * WORLD_PAGE, .access = VIRTX_READ}),
            VIRTX_FAULT_FORBIDDEN);
    teardown();
}
END_TEST

/*
 * Races. Another CPU removes, moves or narrows a slot while a fault is between reading the slots
 * and writing the entry; the host function that the fault calls in between is where the test does
 * it.
 */
static void (*intrude)(void);
static uint64_t (*plain_virt_to_phys)(void *ctx, const void *va);

static uint64_t intruding_virt_to_phys(void *ctx, const void *va)
{
    uint64_t hpa = plain_virt_to_phys(ctx, va);
    if (intrude && (const uint8_t *)va >= WORLD_BACKING &&
        (const uint8_t *)va < WORLD_BACKING + WORLD_BACKING_PAGES * WORLD_PAGE) {
        void (*now)(void) = intrude;
        intrude = NULL;
        in_fault = true;
        now();
        in_fault = false;
    }
    return hpa;
}

static void intrude_remove(void)
{
    step_remove(&slots[0]);
}

static void intrude_invalidate(void)
{
    world.backing[5] += BIT(40);
    changed(5 * WORLD_PAGE, WORLD_PAGE, VIRTX_MEMORY_MOVED);
}

static void intrude_protect(void)
{
    slots[0].entry.rights = VIRTX_READ;
    publish();
    changed(0, slots[0].pages * WORLD_PAGE, VIRTX_MEMORY_NARROWED);
}

static void intrude_log(void)
{
    step_log(&slots[0]);
}

/* The other vcpu maps the same page. */
static void intrude_touch(void)
{
    ck_assert_int_eq(touch(1, 5 * WORLD_PAGE, VIRTX_READ), VIRTX_FAULT_RESUME);
}

START_TEST(a_fault_loses_every_race)
{
    static void (*const intruders[])(void) = {intrude_remove, intrude_invalidate, intrude_protect,
                                              intrude_log, intrude_touch};
    /* On the slow path, and on the quick one after a first page. */
    for (unsigned quick = 0; quick < 2; quick++) {
        setup(_i & 1, 0);
        plain_virt_to_phys = world.virtx.ops.virt_to_phys;
        world.virtx.ops.virt_to_phys = intruding_virt_to_phys;
        add_slot(&slots[0], 0, 64, 0, 7, 0);
        if (quick)
            for (unsigned page = 3; page < 5; page++)
                ck_assert_int_eq(touch(0, page * WORLD_PAGE, VIRTX_READ), VIRTX_FAULT_RESUME);
        intrude = intruders[_i >> 1];
        struct virtx_page_fault fault = {.gpa = 5 * WORLD_PAGE, .access = VIRTX_WRITE};
        ck_assert_int_eq(engine->fault(&world.vcpu[0], &fault),
                         intruders[_i >> 1] == intrude_remove && quick    ? VIRTX_FAULT_NOT_MEMORY
                         : intruders[_i >> 1] == intrude_protect && quick ? VIRTX_FAULT_FORBIDDEN
                                                                          : VIRTX_FAULT_RESUME);
        ck_assert_ptr_null(intrude);
        for (unsigned i = 0; i < 64; i++)
            check_page(i * WORLD_PAGE);
        if (slots[0].used && slots[0].entry.dirty) {
            ck_assert_int_eq(touch(0, 5 * WORLD_PAGE, VIRTX_WRITE), VIRTX_FAULT_RESUME);
            harvest(&slots[0]);
        }
        teardown();
    }
}
END_TEST

/* The table that the quick path remembers is gone and its page in other hands. */
START_TEST(no_use_of_a_freed_table)
{
    setup(_i, 0);
    add_slot(&slots[0], 0, 64, 0, 7, 0);
    ck_assert_int_eq(touch(0, 0x1000, VIRTX_READ), VIRTX_FAULT_RESUME);
    changed(0, 64 * WORLD_PAGE, VIRTX_MEMORY_MOVED);
    world_settle();
    ck_assert_uint_eq(world.pool_used, 1);
    ck_assert_int_eq(touch(0, 0x2000, VIRTX_READ), VIRTX_FAULT_RESUME);
    ck_assert_int_eq(walk(0x2000).kind, REF_NESTED_OK);
    ck_assert_uint_eq(world.pool_used, 4);
    teardown();
}
END_TEST

/* A fault for a page that another vcpu has mapped and the guest has written since: what the log has
 * yet to be told is kept. */
START_TEST(a_late_fault_keeps_the_log)
{
    struct virtx_page_fault fault = {.gpa = 0x2000, .access = VIRTX_READ};
    for (unsigned flags = 0; flags < 2; flags++) {
        setup(_i, flags ? VIRTX_FEATURE_NESTED_AD : 0);
        add_slot(&slots[0], 0, 64, 0, 7, VIRTX_MEMSLOT_DIRTY_LOG);
        ck_assert_int_eq(touch(0, 0x1000, VIRTX_READ), VIRTX_FAULT_RESUME);
        ck_assert_int_eq(touch(1, 0x2000, VIRTX_WRITE), VIRTX_FAULT_RESUME);
        ck_assert_int_eq(engine->fault(&world.vcpu[0], &fault), VIRTX_FAULT_RESUME);
        ck_assert_uint_eq(slots[0].written[0], BIT(2));
        harvest(&slots[0]);
        teardown();
    }
}
END_TEST

/* The host is not asked for pages that a slot has given back. */
START_TEST(no_question_about_freed_memory)
{
    setup(_i, 0);
    add_slot(&slots[0], 0, 64, 0, 7, 0);
    ck_assert_int_eq(touch(0, 0x1000, VIRTX_READ), VIRTX_FAULT_RESUME);
    step_remove(&slots[0]);
    world.lookups = 0;
    ck_assert_int_eq(touch(0, 0x2000, VIRTX_READ), VIRTX_FAULT_NOT_MEMORY);
    ck_assert_uint_eq(world.lookups, 0);
    teardown();
}
END_TEST

/* Nor does it get a table at such an address: at whichever table of a mapping it happens, nothing
 * has changed, no page is lost, and with a host that has come to its senses it goes on. */
START_TEST(impossible_table_addresses)
{
    for (unsigned nonsense = 1; nonsense <= 4; nonsense++) {
        for (unsigned after = 0; after < 3; after++) {
            struct virtx_page_fault fault = {.gpa = 0x5000, .access = VIRTX_READ};
            uint64_t used;

            setup(_i, ALL_FEATURES);
            add_slot(&slots[0], 0, 16, 0, 7, 0);
            used = world.pool_used;
            world.nonsense = nonsense;
            world.nonsense_after = after;
            ck_assert_int_eq(engine->fault(&world.vcpu[0], &fault), VIRTX_FAULT_NO_MEMORY);
            ck_assert_uint_eq(world.nonsense, 0);
            ck_assert_uint_eq(world.pool_used, used);
            ck_assert_int_eq(walk(0x5000).kind, REF_NESTED_NOT_PRESENT);
            ck_assert_int_eq(touch(0, 0x5000, VIRTX_READ), VIRTX_FAULT_RESUME);
            teardown();
        }
        /* Splitting for a log: what has no table is dropped. */
        setup(_i, ALL_FEATURES);
        add_slot(&slots[0], 0, 1024, 0, 7, 0);
        ck_assert_int_eq(touch(0, 0x5000, VIRTX_READ), VIRTX_FAULT_RESUME);
        ck_assert_uint_eq(walk(0x5000).page_bytes, BIT(21));
        world.nonsense = nonsense;
        world.nonsense_after = 0;
        step_log(&slots[0]);
        ck_assert_uint_eq(world.nonsense, 0);
        ck_assert_int_eq(walk(0x5000).kind, REF_NESTED_NOT_PRESENT);
        ck_assert_int_eq(touch(0, 0x5000, VIRTX_READ), VIRTX_FAULT_RESUME);
        teardown();
        /* Likewise for a fetch from a large leaf that may not be executed: it stays. */
        setup(_i, ALL_FEATURES);
        add_slot(&slots[0], 0, 1024, 0, 7, VIRTX_MEMSLOT_SMALL_EXECUTE);
        ck_assert_int_eq(touch(0, 0x5000, VIRTX_READ), VIRTX_FAULT_RESUME);
        world.nonsense = nonsense;
        world.nonsense_after = 0;
        ck_assert_int_eq(touch(0, 0x5000, VIRTX_EXECUTE), VIRTX_FAULT_NO_MEMORY);
        ck_assert_uint_eq(walk(0x5000).page_bytes, BIT(21));
        ck_assert_int_eq(touch(0, 0x5000, VIRTX_EXECUTE), VIRTX_FAULT_RESUME);
        teardown();
        /* The root. */
        world_begin((enum ref_nested_format)_i, formats[_i], ALL_FEATURES);
        world.nonsense = nonsense;
        world.nonsense_after = 0;
        if (nonsense != 3) /* there is no other table that it could be */
            ck_assert_int_eq(virtx_paging_nested.vm_create(&world.vm), VIRTX_E_HOST);
        ck_assert_uint_eq(world.pool_used, 0);
        world_end();
    }
}
END_TEST

START_TEST(creation_is_refused)
{
    struct virtx_backend none = {.hw = NULL};
    world_begin(REF_EPT, &vmx_ept, 0);
    world.pool_limit = 0;
    ck_assert_int_eq(virtx_paging_nested.vm_create(&world.vm), VIRTX_E_NO_MEMORY);
    world.pool_limit = WORLD_TABLE_PAGES;
    world.virtx.caps.features = 0;
    ck_assert_int_eq(virtx_paging_nested.vm_create(&world.vm), VIRTX_E_UNSUPPORTED);
    world.virtx.caps.features = VIRTX_FEATURE_NESTED_PAGING;
    world.virtx.backend = &none;
    ck_assert_int_eq(virtx_paging_nested.vm_create(&world.vm), VIRTX_E_UNSUPPORTED);
    world_end();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("nested");
    TCase *tests = tcase_create("nested");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tests, 100);
    tcase_add_loop_test(tests, random_operations, 0, 2 * (int)ARRAY_SIZE(feature_sets));
    tcase_add_loop_test(tests, large_pages_need_contiguous_backing, 0, 2);
    tcase_add_loop_test(tests, large_pages_are_not_executed, 0, 2);
    tcase_add_loop_test(tests, contiguity_is_asked_once, 0, 2);
    tcase_add_loop_test(tests, a_giant_page_needs_the_slots_word, 0, 2);
    tcase_add_loop_test(tests, a_log_splits_and_joins, 0, 2);
    tcase_add_loop_test(tests, a_log_begins_without_memory, 0, 2);
    tcase_add_loop_test(tests, rights_and_holes, 0, 2);
    tcase_add_loop_test(tests, the_entry_that_hardware_refuses, 0, 2);
    tcase_add_loop_test(tests, impossible_host_addresses, 0, 2);
    tcase_add_loop_test(tests, impossible_table_addresses, 0, 2);
    tcase_add_loop_test(tests, a_fault_loses_every_race, 0, 10);
    tcase_add_loop_test(tests, no_use_of_a_freed_table, 0, 2);
    tcase_add_loop_test(tests, a_late_fault_keeps_the_log, 0, 2);
    tcase_add_loop_test(tests, no_question_about_freed_memory, 0, 2);
    tcase_add_test(tests, creation_is_refused);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
