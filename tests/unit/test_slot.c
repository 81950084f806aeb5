/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory slots: refusals, what the backend hears, the dirty log, and random operations against a
 * model that knows nothing but an array of pages. */
#include "fake.h"

#include <stdlib.h>
#include <string.h>

#define RWX (VIRTX_READ | VIRTX_WRITE | VIRTX_EXECUTE)

static struct virtx *virtx;
static struct virtx_vm *vm;
static uint8_t *memory;

static void begin(void)
{
    virtx = fake_open();
    vm = fake_vm(virtx);
    memory = fake_memory(64);
}

static void end(void)
{
    ck_assert_int_eq(virtx_vm_destroy(vm), VIRTX_OK);
    fake_close(virtx);
    free(memory);
}

static struct virtx_memslot_config config_at(uint64_t gpa, uint64_t pages)
{
    return (struct virtx_memslot_config){
        .size = sizeof(struct virtx_memslot_config),
        .rights = RWX,
        .type = VIRTX_MEMORY_WB,
        .gpa = gpa,
        .bytes = pages * VIRTX_PAGE_SIZE,
        .memory = memory,
    };
}

static void refused(const struct virtx_memslot_config *config, enum virtx_status status,
                    const char *what)
{
    struct virtx_memslot *slot = NULL;
    const struct slot_table *table = virtx_slots(vm);
    uint64_t generation = virtx_vm_generation(vm);
    unsigned changes = fake.changes;

    ck_assert_int_eq(virtx_memslot_add(vm, config, &slot), status);
    fake_error(virtx_vm_last_error(vm), status, what);
    ck_assert_ptr_null(slot);
    ck_assert_ptr_eq(virtx_slots(vm), table);
    ck_assert_uint_eq(virtx_vm_generation(vm), generation);
    ck_assert_uint_eq(fake.changes, changes);
}

START_TEST(refusals)
{
    struct virtx_memslot_config config;
    struct virtx_memslot *slot;
    uint64_t generation = 77;

    begin();
    refused(NULL, VIRTX_E_INVALID, "config");
    config = config_at(0, 1);
    config.size--;
    refused(&config, VIRTX_E_SIZE, "config.size");
    config = config_at(0, 1);
    config.rights = VIRTX_WRITE;
    refused(&config, VIRTX_E_INVALID, "rights");
    config.rights = RWX + 1;
    refused(&config, VIRTX_E_INVALID, "rights");
    config.rights = 0;
    refused(&config, VIRTX_E_INVALID, "rights");
    config = config_at(0, 1);
    for (config.type = 0; config.type < 9; config.type++)
        if (config.type == 2 || config.type == 3 || config.type > 6)
            refused(&config, VIRTX_E_INVALID, "config.type");
    config = config_at(0, 1);
    config.flags = VIRTX_MEMSLOT_SMALL_EXECUTE << 1;
    refused(&config, VIRTX_E_INVALID, "config.flags");
    config.flags = VIRTX_MEMSLOT_WRITE_MMIO; /* needs a read-only slot */
    refused(&config, VIRTX_E_INVALID, "config.flags");
    config = config_at(0, 1);
    config.memory = NULL;
    refused(&config, VIRTX_E_INVALID, "config.memory");
    config.memory = memory + 16;
    refused(&config, VIRTX_E_ALIGN, "config.memory");
    config = config_at(0x1800, 1);
    refused(&config, VIRTX_E_ALIGN, "gpa");
    config = config_at(0, 1);
    config.bytes = 0x1001;
    refused(&config, VIRTX_E_ALIGN, "config.bytes");
    config.bytes = 0;
    refused(&config, VIRTX_E_RANGE, "config.bytes");
    config.bytes = -(uint64_t)VIRTX_PAGE_SIZE;
    refused(&config, VIRTX_E_RANGE, "config.memory + bytes");
    config = config_at((1ull << 40) - 0x1000, 2); /* the fake processor maps 40 bits */
    refused(&config, VIRTX_E_RANGE, "gpa + bytes");
    config = config_at(-(uint64_t)VIRTX_PAGE_SIZE, 2);
    refused(&config, VIRTX_E_RANGE, "gpa + bytes");

    config = config_at((1ull << 40) - 0x2000, 2); /* the last place there is */
    ck_assert_int_eq(virtx_memslot_add(vm, &config, &slot), VIRTX_OK);
    ck_assert_int_eq(virtx_memslot_move(slot, 0x10000, NULL), VIRTX_OK);
    /* [0x10000, 0x12000): neighbours may touch, not meet. */
    config = config_at(0xf000, 2);
    refused(&config, VIRTX_E_OVERLAP, "gpa, bytes");
    ck_assert_uint_eq(virtx_vm_last_error(vm)->value, 0x10000);
    config = config_at(0x11000, 1);
    refused(&config, VIRTX_E_OVERLAP, "gpa, bytes");
    config = config_at(0, 64);
    refused(&config, VIRTX_E_OVERLAP, "gpa, bytes");
    config = config_at(0x12000, 1);
    ck_assert_int_eq(virtx_memslot_add(vm, &config, NULL), VIRTX_OK);
    config = config_at(0xf000, 1);
    ck_assert_int_eq(virtx_memslot_add(vm, &config, NULL), VIRTX_OK);

    ck_assert_int_eq(virtx_memslot_move(slot, 0x10800, &generation), VIRTX_E_ALIGN);
    ck_assert_int_eq(virtx_memslot_move(slot, 1ull << 40, &generation), VIRTX_E_RANGE);
    ck_assert_int_eq(virtx_memslot_move(slot, 0x11000, &generation), VIRTX_E_OVERLAP);
    ck_assert_int_eq(virtx_memslot_protect(slot, VIRTX_WRITE, &generation), VIRTX_E_INVALID);
    ck_assert_int_eq(virtx_memslot_protect(slot, 8 | RWX, &generation), VIRTX_E_INVALID);
    ck_assert_int_eq(virtx_memslot_invalidate(slot, 0x800, 0x1000, &generation), VIRTX_E_ALIGN);
    ck_assert_int_eq(virtx_memslot_invalidate(slot, 0, 0x800, &generation), VIRTX_E_ALIGN);
    ck_assert_int_eq(virtx_memslot_invalidate(slot, 0, 0, &generation), VIRTX_E_RANGE);
    ck_assert_int_eq(virtx_memslot_invalidate(slot, 0x1000, 0x2000, &generation), VIRTX_E_RANGE);
    ck_assert_int_eq(virtx_memslot_invalidate(slot, 0x2000, 0x1000, &generation), VIRTX_E_RANGE);
    ck_assert_int_eq(virtx_memslot_invalidate(slot, 0x1000, -(uint64_t)0x1000, &generation),
                     VIRTX_E_RANGE);
    fake_error(virtx_vm_last_error(vm), VIRTX_E_RANGE, "offset + bytes");
    ck_assert_uint_eq(generation, 77);
    ck_assert_ptr_eq(virtx_gpa_pointer(vm, 0x10000, 1, VIRTX_READ), memory);
    end();
}
END_TEST

/* The last change the backend heard of. */
static void heard(unsigned n, uint64_t gpa, uint64_t bytes, enum virtx_memory_change change)
{
    ck_assert_uint_eq(fake.changes, n);
    ck_assert_uint_eq(fake.change[n - 1].gpa, gpa);
    ck_assert_uint_eq(fake.change[n - 1].bytes, bytes);
    ck_assert_int_eq(fake.change[n - 1].change, change);
}

/* What the table says while the backend is told. */
static void see(struct virtx_vm *v, uint64_t gpa, uint64_t bytes, enum virtx_memory_change change)
{
    const struct slot_entry *entry = virtx_slot_find(virtx_slots(v), gpa);

    ck_assert_uint_gt(bytes, 0);
    if (change == VIRTX_MEMORY_REMOVED)
        ck_assert_ptr_null(entry);
    else
        ck_assert_ptr_nonnull(entry);
}

START_TEST(changes)
{
    struct virtx_memslot_config config = {0}, seen;
    struct virtx_memslot *slot;
    struct virtx_vcpu *vcpu;
    uint64_t generation = 0, last;

    begin();
    vcpu = fake_vcpu(vm, 0);
    fake.memory = see;
    config = config_at(0x4000, 4);
    config.flags = VIRTX_MEMSLOT_SMALL_PAGES;
    ck_assert_int_eq(virtx_memslot_add(vm, &config, &slot), VIRTX_OK);
    heard(1, 0x4000, 0x4000, VIRTX_MEMORY_ADDED);
    ck_assert_uint_eq(vcpu->requests & VIRTX_REQUEST_MEMORY, 0); /* nothing was dropped */
    virtx_memslot_query(slot, &seen);
    ck_assert_mem_eq(&seen, &config, sizeof(config));

    ck_assert_int_eq(virtx_memslot_protect(slot, VIRTX_READ, &generation), VIRTX_OK);
    heard(2, 0x4000, 0x4000, VIRTX_MEMORY_NARROWED);
    ck_assert_uint_ne(vcpu->requests & VIRTX_REQUEST_MEMORY, 0);
    ck_assert_ptr_null(virtx_gpa_pointer(vm, 0x4000, 1, VIRTX_WRITE));
    ck_assert_uint_gt(generation, 0);
    last = generation;
    ck_assert_int_eq(virtx_memslot_protect(slot, VIRTX_READ, &generation), VIRTX_OK);
    ck_assert_uint_eq(fake.changes, 2); /* the same rights: no change */
    ck_assert_int_eq(virtx_memslot_protect(slot, VIRTX_READ | VIRTX_WRITE, &generation), VIRTX_OK);
    heard(3, 0x4000, 0x4000, VIRTX_MEMORY_WIDENED);
    /* One right for another is a loss. */
    ck_assert_int_eq(virtx_memslot_protect(slot, VIRTX_READ | VIRTX_EXECUTE, &generation),
                     VIRTX_OK);
    heard(4, 0x4000, 0x4000, VIRTX_MEMORY_NARROWED);
    ck_assert_uint_gt(generation, last);
    last = generation;

    ck_assert_int_eq(virtx_memslot_invalidate(slot, 0x1000, 0x2000, &generation), VIRTX_OK);
    heard(5, 0x5000, 0x2000, VIRTX_MEMORY_MOVED);
    ck_assert_uint_gt(generation, last);
    last = generation;

    ck_assert_int_eq(virtx_memslot_move(slot, 0x5000, &generation), VIRTX_OK); /* onto itself */
    ck_assert_uint_eq(fake.changes, 7);
    ck_assert_int_eq(fake.change[5].change, VIRTX_MEMORY_REMOVED);
    ck_assert_uint_eq(fake.change[5].gpa, 0x4000);
    heard(7, 0x5000, 0x4000, VIRTX_MEMORY_ADDED);
    ck_assert_uint_gt(generation, last);
    last = generation;
    ck_assert_ptr_null(virtx_gpa_pointer(vm, 0x4000, 1, VIRTX_READ));
    ck_assert_ptr_eq(virtx_gpa_pointer(vm, 0x5000, 1, VIRTX_READ), memory);

    ck_assert_int_eq(virtx_memslot_remove(slot, &generation), VIRTX_OK);
    heard(8, 0x5000, 0x4000, VIRTX_MEMORY_REMOVED);
    ck_assert_uint_gt(generation, last);
    ck_assert_ptr_null(virtx_gpa_pointer(vm, 0x5000, 1, VIRTX_READ));
    ck_assert(virtx_vm_settled(vm, generation, false));       /* nobody is in run */
    ck_assert(!virtx_vm_settled(vm, generation + 100, true)); /* that has not begun */

    /* ROM with a device behind it: never writable. */
    config = config_at(0x4000, 1);
    config.rights = VIRTX_READ;
    config.flags = VIRTX_MEMSLOT_WRITE_MMIO;
    ck_assert_int_eq(virtx_memslot_add(vm, &config, &slot), VIRTX_OK);
    ck_assert_int_eq(virtx_memslot_protect(slot, RWX, NULL), VIRTX_E_INVALID);
    ck_assert_int_eq(virtx_vcpu_destroy(vcpu), VIRTX_OK);
    end();
}
END_TEST

/* ---- The dirty log ---- */

static uint64_t hardware_dirty; /* pages of the slot that only the hardware knows of, as bits */
static uint64_t hardware_gpa;

/* Hands over what the hardware has, as an engine does. */
static void collect(struct virtx_vm *v, uint64_t gpa, uint64_t bytes)
{
    ck_assert_uint_eq(gpa, hardware_gpa);
    ck_assert_uint_gt(bytes, 0);
    for (unsigned i = 0; i < 64; i++)
        if (hardware_dirty >> i & 1)
            virtx_backend_dirty(v, gpa + i * VIRTX_PAGE_SIZE, VIRTX_PAGE_SIZE);
    hardware_dirty = 0;
}

static void on_removal(struct virtx_vm *v, uint64_t gpa, uint64_t bytes,
                       enum virtx_memory_change change)
{
    if (change == VIRTX_MEMORY_REMOVED)
        collect(v, gpa, bytes);
}

START_TEST(dirty_log)
{
    struct virtx_memslot_config config;
    struct virtx_memslot *slot;
    uint64_t bitmap[2] = {0}, dirty = 99, word = 0x1122334455667788;

    begin();
    config = config_at(0x10000, 40);
    ck_assert_int_eq(virtx_memslot_add(vm, &config, &slot), VIRTX_OK);
    ck_assert_int_eq(virtx_memslot_harvest(slot, bitmap, 1, &dirty), VIRTX_E_INVALID);
    fake_error(virtx_vm_last_error(vm), VIRTX_E_INVALID, "slot");
    ck_assert_int_eq(virtx_vm_write(vm, 0x10000, &word, 8), VIRTX_OK); /* not logged */
    ck_assert_int_eq(virtx_memslot_log(slot, true), VIRTX_OK);
    heard(2, 0x10000, 40 * VIRTX_PAGE_SIZE, VIRTX_MEMORY_NARROWED);
    ck_assert_int_eq(virtx_memslot_log(slot, true), VIRTX_OK);
    ck_assert_uint_eq(fake.changes, 2);
    virtx_memslot_query(slot, &config);
    ck_assert_uint_eq(config.flags, VIRTX_MEMSLOT_DIRTY_LOG);
    ck_assert_int_eq(virtx_memslot_harvest(slot, bitmap, 0, &dirty), VIRTX_E_INVALID);
    fake_error(virtx_vm_last_error(vm), VIRTX_E_INVALID, "bitmap, words");
    ck_assert_int_eq(virtx_memslot_harvest(slot, NULL, 1, &dirty), VIRTX_E_INVALID);
    ck_assert_uint_eq(dirty, 99);
    ck_assert_int_eq(virtx_memslot_harvest(slot, bitmap, 1, &dirty), VIRTX_OK);
    ck_assert_uint_eq(dirty, 0);
    ck_assert_uint_eq(bitmap[0], 0);

    /* By hand, across a page; and by the hardware. The bitmap is added to. */
    fake.collect = collect;
    hardware_gpa = 0x10000;
    bitmap[0] = 1ull << 63;
    ck_assert_int_eq(virtx_vm_write(vm, 0x11ffc, &word, 8), VIRTX_OK);
    hardware_dirty = 1ull << 39 | 1ull << 2;
    ck_assert_int_eq(virtx_memslot_harvest(slot, bitmap, 1, &dirty), VIRTX_OK);
    ck_assert_uint_eq(bitmap[0], 1ull << 63 | 1ull << 39 | 1ull << 1 | 1ull << 2);
    ck_assert_uint_eq(dirty, 3);
    bitmap[0] = 0;
    ck_assert_int_eq(virtx_memslot_harvest(slot, bitmap, 1, NULL), VIRTX_OK);
    ck_assert_uint_eq(bitmap[0], 0);

    /* A move takes the log along, with what the hardware had at the old place, even where the two
     * places meet. */
    fake.memory = on_removal;
    hardware_dirty = 1ull << 5;
    ck_assert_int_eq(virtx_vm_write(vm, 0x10000, &word, 8), VIRTX_OK);
    ck_assert_int_eq(virtx_memslot_move(slot, 0x14000, NULL), VIRTX_OK);
    hardware_gpa = 0x14000;
    ck_assert_int_eq(virtx_memslot_harvest(slot, bitmap, 1, &dirty), VIRTX_OK);
    ck_assert_uint_eq(bitmap[0], 1ull << 5 | 1);
    ck_assert_uint_eq(dirty, 2);
    /* Marks outside any slot go nowhere, those across its end stop there. */
    virtx_backend_dirty(vm, 0x1000, 0x5000);
    virtx_backend_dirty(vm, 0x14000 + 39 * VIRTX_PAGE_SIZE, 0x10000);
    virtx_backend_dirty(vm, 0x13000, 0x2000);
    bitmap[0] = 0;
    ck_assert_int_eq(virtx_memslot_harvest(slot, bitmap, 1, &dirty), VIRTX_OK);
    ck_assert_uint_eq(bitmap[0], 1ull << 39 | 1);

    ck_assert_int_eq(virtx_memslot_log(slot, false), VIRTX_OK);
    ck_assert_int_eq(virtx_memslot_harvest(slot, bitmap, 1, &dirty), VIRTX_E_INVALID);
    ck_assert_int_eq(virtx_memslot_remove(slot, NULL), VIRTX_OK);
    end();
}
END_TEST

/* What a large log costs: no call of the host asks for more than a page, and a harvest goes through
 * it in bounded pieces. */
static size_t largest_alloc;
static uint64_t pieces, largest_piece;
static void *(*host_alloc)(void *ctx, size_t pages);

static void *watched_alloc(void *ctx, size_t pages)
{
    if (pages > largest_alloc)
        largest_alloc = pages;
    return host_alloc(ctx, pages);
}

static void watched_collect(struct virtx_vm *v, uint64_t gpa, uint64_t bytes)
{
    (void)v;
    (void)gpa;
    pieces++;
    if (bytes > largest_piece)
        largest_piece = bytes;
}

START_TEST(large_log)
{
    enum { WORDS = 3 << 12 }; /* 3 GiB */
    static uint64_t bitmap[WORDS], expected[WORDS];
    struct virtx_memslot_config config;
    struct virtx_memslot *slot;
    uint64_t dirty, count = 0, random = 1;
    size_t pages;

    begin();
    pages = fake.pages;
    host_alloc = virtx->ops.pages_alloc;
    virtx->ops.pages_alloc = watched_alloc;
    config = config_at(1ull << 32, 1);
    config.bytes = WORDS * 64ull * VIRTX_PAGE_SIZE;
    config.flags = VIRTX_MEMSLOT_DIRTY_LOG;
    ck_assert_int_eq(virtx_memslot_add(vm, &config, &slot), VIRTX_OK);
    ck_assert_uint_eq(largest_alloc, 1);
    memset(expected, 0, sizeof(expected));
    memset(bitmap, 0, sizeof(bitmap));
    for (unsigned i = 0; i < 5000; i++) {
        uint64_t page, run = i % 16 ? 1 : 300;

        random = random * 6364136223846793005u + 1442695040888963407u;
        page = (random >> 33) % (WORDS * 64 - run);
        virtx_backend_dirty(vm, config.gpa + page * VIRTX_PAGE_SIZE, run * VIRTX_PAGE_SIZE);
        for (; run; run--, page++) {
            count += !(expected[page / 64] >> page % 64 & 1);
            expected[page / 64] |= 1ull << page % 64;
        }
    }
    fake.collect = watched_collect;
    pieces = largest_piece = 0;
    ck_assert_int_eq(virtx_memslot_harvest(slot, bitmap, WORDS, &dirty), VIRTX_OK);
    ck_assert_uint_eq(dirty, count);
    ck_assert_int_eq(memcmp(bitmap, expected, sizeof(bitmap)), 0);
    ck_assert_uint_le(largest_piece, 16u << 20);
    ck_assert_uint_ge(pieces, config.bytes / (16u << 20));
    ck_assert_int_eq(virtx_memslot_harvest(slot, bitmap, WORDS, &dirty), VIRTX_OK);
    ck_assert_uint_eq(dirty, 0);
    ck_assert_int_eq(virtx_memslot_remove(slot, NULL), VIRTX_OK);
    ck_assert(virtx_vm_settled(vm, virtx_vm_generation(vm), false));
    ck_assert_uint_le(fake.pages, pages + 2); /* a table without slots, small objects */
    /* The host has no page at each point in turn. */
    for (unsigned n = 1; n < 30; n += 3) {
        pages = fake.pages;
        fake.fail_at = n;
        ck_assert_int_eq(virtx_memslot_add(vm, &config, &slot), VIRTX_E_NO_MEMORY);
        fake.fail_at = 0;
        ck_assert_uint_eq(fake.pages, pages);
    }
    virtx->ops.pages_alloc = host_alloc;
    end();
}
END_TEST

/* Two harvests of one log would share what was taken. */
static struct virtx_memslot *harvested_slot;
static enum virtx_status in_harvest[2];

static void harvest_again(struct virtx_vm *v, uint64_t gpa, uint64_t bytes)
{
    uint64_t bitmap = 0;

    (void)gpa;
    (void)bytes;
    fake.collect = NULL;
    /* As another processor between two pieces, when the lock is free. */
    atomic_flag_clear(&v->lock.held);
    in_harvest[0] = virtx_memslot_harvest(harvested_slot, &bitmap, 1, NULL);
    in_harvest[1] = virtx_memslot_log(harvested_slot, false);
    atomic_flag_test_and_set(&v->lock.held);
}

START_TEST(one_harvest_at_a_time)
{
    struct virtx_memslot_config config;
    uint64_t bitmap = 0;

    begin();
    config = config_at(0, 8);
    config.flags = VIRTX_MEMSLOT_DIRTY_LOG;
    ck_assert_int_eq(virtx_memslot_add(vm, &config, &harvested_slot), VIRTX_OK);
    fake.collect = harvest_again;
    ck_assert_int_eq(virtx_memslot_harvest(harvested_slot, &bitmap, 1, NULL), VIRTX_OK);
    ck_assert_int_eq(in_harvest[0], VIRTX_E_BUSY);
    ck_assert_int_eq(in_harvest[1], VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_memslot_harvest(harvested_slot, &bitmap, 1, NULL), VIRTX_OK);
    ck_assert_int_eq(virtx_memslot_log(harvested_slot, false), VIRTX_OK);
    end();
}
END_TEST

/* While a vcpu runs that could still write through an old translation, the harvest keeps what it
 * took. */
START_TEST(harvest_waits_for_running_vcpus)
{
    struct virtx_memslot_config config;
    struct virtx_memslot *slot;
    struct virtx_vcpu *vcpu;
    uint64_t bitmap = 0, dirty, word = 1;

    begin();
    vcpu = fake_vcpu(vm, 0);
    ck_assert_int_eq(virtx_vcpu_load(vcpu), VIRTX_OK);
    config = config_at(0, 8);
    config.flags = VIRTX_MEMSLOT_DIRTY_LOG;
    ck_assert_int_eq(virtx_memslot_add(vm, &config, &slot), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_write(vm, 0x3000, &word, 8), VIRTX_OK);
    vcpu->running = true;
    ck_assert_int_eq(virtx_memslot_harvest(slot, &bitmap, 1, &dirty), VIRTX_OK);
    ck_assert_uint_eq(dirty, 0);
    ck_assert_uint_eq(bitmap, 0);
    ck_assert_uint_eq(fake.ipis, 1); /* it is told to hurry */
    virtx_backend_dirty(vm, 0x7000, 8);
    ck_assert_int_eq(virtx_memslot_harvest(slot, &bitmap, 1, &dirty), VIRTX_OK);
    ck_assert_uint_eq(dirty, 0);
    /* The vcpu writes the page again, then pays its debt. */
    virtx_backend_dirty(vm, 0x3000, 8);
    virtx_backend_dirty(vm, 0x5000, 8);
    ck_assert_uint_ne(virtx_backend_requests(vcpu, UINT32_MAX) & VIRTX_REQUEST_MEMORY, 0);
    virtx_backend_settle(vcpu, virtx_vm_generation(vm));
    ck_assert_int_eq(virtx_memslot_harvest(slot, &bitmap, 1, &dirty), VIRTX_OK);
    ck_assert_uint_eq(bitmap, 1 << 3 | 1 << 7);
    ck_assert_uint_eq(dirty, 2);
    /* Its second write is in the log after. */
    vcpu->running = false;
    bitmap = 0;
    ck_assert_int_eq(virtx_memslot_harvest(slot, &bitmap, 1, &dirty), VIRTX_OK);
    ck_assert_uint_eq(bitmap, 1 << 3 | 1 << 5);
    ck_assert_uint_eq(dirty, 2);
    ck_assert_int_eq(virtx_vcpu_destroy(vcpu), VIRTX_OK);
    end();
}
END_TEST

/* ---- Random operations ---- */

#define PAGES 96u
#define SLOTS 24u

static uint64_t seed = 12345;

static uint32_t next(uint32_t below)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % below;
}

/* The model: which page of which slot lies at each page of the guest, and with what rights. */
static struct {
    int slot; /* -1: none */
    unsigned offset;
} model[PAGES];

static struct {
    struct virtx_memslot *handle;
    unsigned gpa, pages, rights;
    uint64_t dirty;
} slots[SLOTS];

static bool model_free(unsigned gpa, unsigned pages, int but)
{
    for (unsigned i = 0; i < pages; i++)
        if (model[gpa + i].slot >= 0 && model[gpa + i].slot != but)
            return false;
    return true;
}

static void model_put(int s)
{
    for (unsigned i = 0; i < slots[s].pages; i++) {
        model[slots[s].gpa + i].slot = s;
        model[slots[s].gpa + i].offset = i;
    }
}

static void model_drop(int s)
{
    for (unsigned i = 0; i < PAGES; i++)
        if (model[i].slot == s)
            model[i].slot = -1;
}

/* Whether the table says of a page what the model does. */
static bool page_agrees(const struct slot_table *table, unsigned page, uint8_t *memories[],
                        uint32_t *hint)
{
    uint64_t gpa = (uint64_t)page * VIRTX_PAGE_SIZE + next(VIRTX_PAGE_SIZE);
    const struct slot_entry *entry = virtx_slot_find(table, gpa);
    int s = model[page].slot;

    if (table && virtx_slot_find_near(table, gpa, hint) != entry)
        return false;
    if (s < 0 || !entry)
        return s < 0 && !entry;
    return entry->memory + (gpa - entry->gpa) ==
               memories[s] + model[page].offset * VIRTX_PAGE_SIZE + gpa % VIRTX_PAGE_SIZE &&
           entry->rights == slots[s].rights && entry->dirty && entry->slot == slots[s].handle;
}

static void model_check(uint8_t *memories[])
{
    const struct slot_table *table = virtx_slots(vm);
    uint32_t hint = next(100);
    bool agrees = true;

    for (unsigned i = 0; table && i + 1 < table->count; i++)
        agrees &= table->entry[i].end <= table->entry[i + 1].gpa;
    for (unsigned i = 0; i < PAGES; i++)
        agrees &= page_agrees(table, i, memories, &hint);
    ck_assert(agrees);
    ck_assert_ptr_null(virtx_slot_find(table, (uint64_t)PAGES * VIRTX_PAGE_SIZE));
    ck_assert_ptr_null(virtx_slot_find(table, UINT64_MAX));
}

static void random_add(int s, uint8_t *memories[])
{
    struct virtx_memslot_config config;
    unsigned pages = 1 + next(10), gpa = next(PAGES - pages + 1);
    bool fits = model_free(gpa, pages, -1);

    config = config_at((uint64_t)gpa * VIRTX_PAGE_SIZE, pages);
    config.memory = memories[s];
    config.rights = VIRTX_READ | next(8);
    config.flags = VIRTX_MEMSLOT_DIRTY_LOG;
    ck_assert_int_eq(virtx_memslot_add(vm, &config, &slots[s].handle),
                     fits ? VIRTX_OK : VIRTX_E_OVERLAP);
    if (!fits)
        return;
    slots[s].gpa = gpa;
    slots[s].pages = pages;
    slots[s].rights = config.rights;
    slots[s].dirty = 0;
    model_put(s);
}

static void random_change(int s)
{
    uint64_t bitmap = 0, dirty = 0;
    uint32_t gpa;
    bool fits;

    switch (next(5)) {
    case 0:
        ck_assert_int_eq(virtx_memslot_remove(slots[s].handle, NULL), VIRTX_OK);
        slots[s].handle = NULL;
        model_drop(s);
        break;
    case 1:
        gpa = next(PAGES - slots[s].pages + 1);
        fits = model_free(gpa, slots[s].pages, s);
        ck_assert_int_eq(virtx_memslot_move(slots[s].handle, (uint64_t)gpa * VIRTX_PAGE_SIZE, NULL),
                         fits ? VIRTX_OK : VIRTX_E_OVERLAP);
        if (fits) {
            model_drop(s);
            slots[s].gpa = gpa;
            model_put(s);
        }
        break;
    case 2:
        slots[s].rights = VIRTX_READ | next(8);
        ck_assert_int_eq(virtx_memslot_protect(slots[s].handle, slots[s].rights, NULL), VIRTX_OK);
        break;
    case 3: {
        uint8_t byte = 1;
        unsigned page = next(slots[s].pages);

        ck_assert_int_eq(virtx_vm_write(vm,
                                        (uint64_t)(slots[s].gpa + page) * VIRTX_PAGE_SIZE +
                                            next(VIRTX_PAGE_SIZE),
                                        &byte, 1),
                         VIRTX_OK);
        slots[s].dirty |= 1ull << page;
        break;
    }
    default:
        ck_assert_int_eq(virtx_memslot_harvest(slots[s].handle, &bitmap, 1, &dirty), VIRTX_OK);
        ck_assert_uint_eq(bitmap, slots[s].dirty);
        ck_assert_uint_eq(dirty, (unsigned)__builtin_popcountll(bitmap));
        slots[s].dirty = 0;
        break;
    }
}

START_TEST(random_operations)
{
    uint8_t *memories[SLOTS];
    struct virtx_vcpu *vcpu;
    size_t pages;

    begin();
    seed = 12345 + (unsigned)_i;
    vcpu = fake_vcpu(vm, 0);
    for (unsigned i = 0; i < SLOTS; i++) {
        memories[i] = fake_memory(10);
        slots[i].handle = NULL;
    }
    for (unsigned i = 0; i < PAGES; i++)
        model[i].slot = -1;
    for (unsigned round = 0; round < 1500; round++) {
        int s = (int)next(SLOTS);

        if (slots[s].handle)
            random_change(s);
        else
            random_add(s, memories);
        model_check(memories);
        if (next(50) == 0)
            fake.changes = 0;
    }
    /* Old tables and logs do not pile up: what is left is a log and a few pages for each slot. */
    pages = fake.pages;
    ck_assert_uint_lt(pages, 20 + 2 * SLOTS);
    ck_assert_int_eq(virtx_vcpu_destroy(vcpu), VIRTX_OK);
    end();
    for (unsigned i = 0; i < SLOTS; i++)
        free(memories[i]);
}
END_TEST

START_TEST(many_slots)
{
    const struct slot_table *table;

    begin();
    for (unsigned i = 0; i < 400; i++) /* more than one page of entries */
        fake_slot(vm, (uint64_t)(i * 37 % 400) * 0x3000, 1, memory);
    table = virtx_slots(vm);
    ck_assert_uint_eq(table->count, 400);
    for (unsigned i = 0; i < 400; i++)
        ck_assert(table->entry[i].gpa == i * 0x3000ull &&
                  virtx_slot_find(table, i * 0x3000ull + 0xfff) == &table->entry[i] &&
                  !virtx_slot_find(table, i * 0x3000ull + 0x1000));
    end();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("slot");
    TCase *tests = fake_case(suite, "slot");

    tcase_add_test(tests, refusals);
    tcase_add_test(tests, changes);
    tcase_add_test(tests, dirty_log);
    tcase_add_test(tests, large_log);
    tcase_add_test(tests, one_harvest_at_a_time);
    tcase_add_test(tests, harvest_waits_for_running_vcpus);
    tcase_add_loop_test(tests, random_operations, 0, 4);
    tcase_add_test(tests, many_slots);
    return fake_main(suite);
}
