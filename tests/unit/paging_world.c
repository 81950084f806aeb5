/* SPDX-License-Identifier: BSD-2-Clause */
/* Models behind the tests of src/paging; see paging_world.h. */
#include "paging_world.h"
#include "hw/hw.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#define TABLE_HPA_BASE 0x3000000000ull

struct world world;

static uint8_t *tables; /* WORLD_TABLE_PAGES pages */
static enum { PAGE_FREE, PAGE_USED, PAGE_WAITING } page_state[WORLD_TABLE_PAGES];
static uint64_t page_generation[WORLD_TABLE_PAGES];
static uint64_t page_at[WORLD_TABLE_PAGES]; /* by place in physical memory */
static struct virtx_hw hw;
static struct virtx_backend backend;
static uint64_t seed;
static struct slot_table *old_tables; /* retired slot tables, linked by retired.next */

uint64_t world_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1dull;
}

uint32_t world_below(uint32_t bound)
{
    return (uint32_t)((world_random() >> 33) % bound);
}

/* Neighbouring pages are far apart in physical memory. */
static uint64_t table_hpa(uint64_t page)
{
    return TABLE_HPA_BASE + (page * 773 % WORLD_TABLE_PAGES) * WORLD_PAGE;
}

/* Of a table that is in use already. */
static uint64_t world_walked_hpa(void)
{
    for (unsigned i = 0; i < WORLD_TABLE_PAGES; i++)
        if (page_state[i] == PAGE_USED)
            return table_hpa(i);
    return 0;
}

static uint64_t virt_to_phys(void *ctx, const void *va)
{
    uint64_t offset = (uint64_t)((const uint8_t *)va - tables);
    (void)ctx;
    world.lookups++;
    if (offset < WORLD_TABLE_PAGES * WORLD_PAGE && world.nonsense && !world.nonsense_after--) {
        unsigned nonsense = world.nonsense;
        uint64_t hpa = table_hpa(offset / WORLD_PAGE);

        world.nonsense = 0;
        return nonsense == 1   ? hpa + 8
               : nonsense == 2 ? hpa | BIT(50)
               : nonsense == 3 ? world_walked_hpa()
                               : UINT64_MAX;
    }
    if (offset < WORLD_TABLE_PAGES * WORLD_PAGE)
        return table_hpa(offset / WORLD_PAGE) + offset % WORLD_PAGE;
    offset = (uint64_t)((const uint8_t *)va - WORLD_BACKING);
    EXPECT(offset < WORLD_BACKING_PAGES * WORLD_PAGE);
    EXPECT(offset % WORLD_PAGE == 0);
    return world.backing[offset / WORLD_PAGE];
}

static void *phys_to_virt(void *ctx, uint64_t hpa)
{
    uint64_t place = (hpa - TABLE_HPA_BASE) / WORLD_PAGE;
    (void)ctx;
    EXPECT(place < WORLD_TABLE_PAGES);
    EXPECT(page_state[page_at[place]] != PAGE_FREE);
    return tables + page_at[place] * WORLD_PAGE + hpa % WORLD_PAGE;
}

/* The walker, being hardware, must meet nothing but tables in use, or waiting for it to settle. */
static bool read_table(void *ctx, uint64_t hpa, unsigned width, uint64_t *value)
{
    (void)ctx;
    if (hpa < TABLE_HPA_BASE || hpa >= TABLE_HPA_BASE + WORLD_TABLE_PAGES * WORLD_PAGE)
        return false;
    memcpy(value, phys_to_virt(NULL, hpa), width);
    return true;
}

struct ref_nested world_walk(uint64_t root, uint64_t gpa)
{
    return ref_nested_walk(&world.memory, world.format, root, gpa);
}

void world_set_bits(uint64_t entry_hpa, uint64_t bits)
{
    __atomic_fetch_or((uint64_t *)phys_to_virt(NULL, entry_hpa), bits, __ATOMIC_SEQ_CST);
}

void world_begin(enum ref_nested_format format, const struct table_format *table_format,
                 uint64_t features)
{
    memset(&world, 0, sizeof(world));
    seed = 0x9e3779b97f4a7c15;
    tables = aligned_alloc(WORLD_PAGE, WORLD_TABLE_PAGES * WORLD_PAGE);
    memset(page_state, 0, sizeof(page_state));
    for (uint64_t i = 0; i < WORLD_TABLE_PAGES; i++)
        page_at[(table_hpa(i) - TABLE_HPA_BASE) / WORLD_PAGE] = i;
    world.format = format;
    world.memory.read = read_table;
    world.pool_limit = WORLD_TABLE_PAGES;
    world.backing = malloc(WORLD_BACKING_PAGES * sizeof(uint64_t));
    for (uint64_t i = 0; i < WORLD_BACKING_PAGES; i++)
        world.backing[i] = 0x100000000ull + i * WORLD_PAGE;
    hw.nested = table_format;
    backend.hw = &hw;
    world.virtx.backend = &backend;
    world.virtx.caps.physical_bits = 46;
    world.virtx.pat = 0x0007040600070406; /* as after reset */
    world.virtx.caps.features = features | VIRTX_FEATURE_NESTED_PAGING;
    world.virtx.ops.virt_to_phys = virt_to_phys;
    world.virtx.ops.phys_to_virt = phys_to_virt;
    world.vm.virtx = &world.virtx;
    for (unsigned i = 0; i < 2; i++) {
        world.vcpu[i].vm = &world.vm;
        world.vcpu[i].virtx = &world.virtx;
        world.vcpu[i].paging_data = calloc(1, virtx_paging_nested.vcpu_bytes);
    }
    world.vm.paging_data = calloc(1, virtx_paging_nested.vm_bytes);
    world_publish(NULL, 0);
}

void world_end(void)
{
    world_settle();
    EXPECT(world.pool_used == 0);
    for (unsigned i = 0; i < WORLD_TABLE_PAGES; i++)
        EXPECT(page_state[i] == PAGE_FREE);
    for (unsigned i = 0; i < WORLD_SLOTS; i++)
        free(world.log[i]);
    for (unsigned i = 0; i < 2; i++)
        free(world.vcpu[i].paging_data);
    free(world.vm.paging_data);
    free(world.slots);
    free(world.backing);
    free(tables);
}

void world_settle(void)
{
    uint64_t generation = atomic_load(&world.vm.generation);
    for (unsigned i = 0; i < WORLD_TABLE_PAGES; i++)
        if (page_state[i] == PAGE_WAITING && page_generation[i] <= generation) {
            page_state[i] = PAGE_FREE;
            world.waiting--;
        }
    while (old_tables) {
        struct slot_table *table = old_tables;
        old_tables = (struct slot_table *)table->retired.next;
        free(table);
    }
}

static int by_gpa(const void *a, const void *b)
{
    const struct slot_entry *x = a, *y = b;
    return x->gpa < y->gpa ? -1 : x->gpa > y->gpa;
}

void world_publish(const struct slot_entry *entries, unsigned count)
{
    struct slot_table *table = calloc(1, sizeof(*table) + count * sizeof(*entries));
    table->count = count;
    if (count)
        memcpy(table->entry, entries, count * sizeof(*entries));
    qsort(table->entry, count, sizeof(*entries), by_gpa);
    if (world.slots) {
        world.slots->retired.next = (struct retired *)old_tables;
        old_tables = world.slots;
    }
    world.slots = table;
    atomic_store(&world.vm.slots, table);
}

/* ---- What src/paging asks of src/core ---- */

const struct slot_entry *virtx_slot_find(const struct slot_table *table, uint64_t gpa)
{
    for (uint32_t i = 0; i < table->count; i++)
        if (gpa >= table->entry[i].gpa && gpa < table->entry[i].end)
            return &table->entry[i];
    return NULL;
}

void virtx_backend_dirty(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes)
{
    for (uint64_t end = gpa + bytes; gpa < end; gpa += WORLD_PAGE) {
        const struct slot_entry *slot = virtx_slot_find(virtx_slots(vm), gpa);
        if (slot && slot->dirty)
            ((uint64_t *)(void *)slot->dirty)[(gpa - slot->gpa) / WORLD_PAGE / 64] |=
                BIT((gpa - slot->gpa) / WORLD_PAGE % 64);
    }
}

static void expect_unlocked(struct virtx_vm *vm)
{
    EXPECT(!atomic_flag_test_and_set(&vm->page_lock.held));
    atomic_flag_clear(&vm->page_lock.held);
}

void *virtx_pool_get(struct virtx_vm *vm)
{
    expect_unlocked(vm);
    world.gets++;
    if (world.pool_used >= world.pool_limit)
        return NULL;
    for (unsigned i = 0; i < WORLD_TABLE_PAGES; i++)
        if (page_state[i] == PAGE_FREE) {
            page_state[i] = PAGE_USED;
            world.pool_used++;
            return memset(tables + i * WORLD_PAGE, 0, WORLD_PAGE);
        }
    return NULL;
}

void virtx_pool_put(struct virtx_vm *vm, void *page, uint64_t generation)
{
    uint64_t i = (uint64_t)((uint8_t *)page - tables) / WORLD_PAGE;
    expect_unlocked(vm);
    EXPECT(i < WORLD_TABLE_PAGES);
    EXPECT(page_state[i] == PAGE_USED);
    EXPECT(generation == 0 || generation == atomic_load(&vm->generation) + 1);
    page_state[i] = generation ? PAGE_WAITING : PAGE_FREE;
    page_generation[i] = generation;
    world.waiting += generation != 0;
    world.pool_used--;
}

uint64_t virtx_generation_coming(struct virtx_vm *vm)
{
    return atomic_load(&vm->generation) + 1;
}
