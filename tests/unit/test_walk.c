/* SPDX-License-Identifier: BSD-2-Clause */
/* The guest page-table walker against a reference walker: results, faults, flags and memory. */
#include "paging/memo.h"
#include "ref_walk.h"
#include "x86/defs.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#define PAGE         4096u
#define PAGES        24u
#define ROM_PAGES    2u
#define RANDOM_WALKS 100000

/* Guest memory: two RAM slots with a hole between them and a read-only slot, not in GPA order in
 * the host. */
static const struct {
    uint64_t gpa;
    uint32_t pages, rights;
} layout[] = {
    {0x3000, 6, VIRTX_READ | VIRTX_WRITE | VIRTX_EXECUTE},
    {0x10000, 14, VIRTX_READ | VIRTX_WRITE},
    {0x40000, ROM_PAGES, VIRTX_READ | VIRTX_EXECUTE},
    {BIT(38), 2, VIRTX_READ | VIRTX_WRITE}, /* beyond MAXPHYADDR for some of the modes */
};
#define SLOTS 4u

static struct virtx virtx;
static struct virtx_vm vm;
static struct slot_table *slots;
static uint8_t *memory, *expected;
static uint64_t dirty[SLOTS];
static uint64_t seed = 0x123456789abcdef;

/* The slot table's own functions belong to src/core; only their contract is used here. */
const struct slot_entry *virtx_slot_find(const struct slot_table *table, uint64_t gpa)
{
    for (uint32_t i = 0; i < table->count; i++)
        if (gpa >= table->entry[i].gpa && gpa < table->entry[i].end)
            return &table->entry[i];
    return NULL;
}

void virtx_slot_mark(const struct slot_entry *entry, uint64_t gpa, uint64_t bytes)
{
    ck_assert_uint_le(gpa + bytes, entry->end);
    if (entry->dirty)
        *(uint64_t *)(void *)entry->dirty |= BIT((gpa - entry->gpa) / PAGE);
}

static const uint8_t *absent; /* a page of `memory` that has no backing now */

static uint64_t virt_to_phys(void *ctx, const void *va)
{
    (void)ctx;
    return va == absent ? UINT64_MAX : 0x1000000000 + (uint64_t)((const uint8_t *)va - memory);
}

static uint64_t random_bits(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1dull;
}

static uint32_t below(uint32_t bound)
{
    return (uint32_t)((random_bits() >> 33) % bound);
}

static bool one_in(uint32_t n)
{
    return below(n) == 0;
}

static void setup(void)
{
    uint32_t page = PAGES;
    memory = aligned_alloc(PAGE, PAGES * PAGE);
    expected = malloc(PAGES * PAGE);
    memset(memory, 0, PAGES * PAGE);
    slots = calloc(1, sizeof(*slots) + SLOTS * sizeof(struct slot_entry));
    slots->count = SLOTS;
    for (unsigned i = 0; i < SLOTS; i++) {
        page -= layout[i].pages;
        dirty[i] = 0;
        slots->entry[i] = (struct slot_entry){
            .gpa = layout[i].gpa,
            .end = layout[i].gpa + layout[i].pages * PAGE,
            .memory = memory + page * PAGE,
            .dirty = (void *)&dirty[i],
            .rights = layout[i].rights,
            .type = VIRTX_MEMORY_WB,
            .flags = i == 0   ? 0
                     : i == 1 ? VIRTX_MEMSLOT_PINNED
                              : VIRTX_MEMSLOT_CONTIGUOUS,
        };
    }
    absent = NULL;
    virtx.ops.virt_to_phys = virt_to_phys;
    vm.virtx = &virtx;
    atomic_store(&vm.slots, slots);
}

static void teardown(void)
{
    free(memory);
    free(expected);
    free(slots);
}

/* Offset in `memory` of a GPA, or -1. */
static long offset_of(uint64_t gpa)
{
    const struct slot_entry *slot = virtx_slot_find(slots, gpa);
    return slot ? slot->memory - memory + (long)(gpa - slot->gpa) : -1;
}

static bool read_memory(void *ctx, uint64_t gpa, unsigned width, uint64_t *value)
{
    const uint8_t *from = ctx;
    long offset = offset_of(gpa);
    *value = 0;
    if (offset < 0)
        return false;
    memcpy(value, from + offset, width);
    return true;
}

static void write_entry(uint8_t *to, uint64_t gpa, unsigned width, uint64_t value)
{
    long offset = offset_of(gpa);
    if (offset >= 0)
        memcpy(to + offset, &value, width);
}

static uint64_t random_table(void)
{
    if (one_in(40))
        return 0x1f000; /* no memory */
    const struct slot_entry *slot = &slots->entry[one_in(8) ? 2 + below(2) : below(2)];
    return slot->gpa + below((uint32_t)((slot->end - slot->gpa) / PAGE)) * PAGE;
}

/* Mostly usable entries: a fault every few walks, from every cause. */
static uint64_t random_entry(unsigned width, unsigned level, bool strict)
{
    uint64_t entry = random_table();
    if (!one_in(25))
        entry |= BIT(0);
    if (!one_in(4))
        entry |= BIT(1);
    if (!one_in(3))
        entry |= BIT(2);
    entry |= random_bits() & (BIT(3) | BIT(4) | BIT(8) | BIT(9) | BIT(10) | BIT(11));
    if (!one_in(3))
        entry |= BIT(5);
    if (one_in(2))
        entry |= BIT(6);
    if (level == 1 ? one_in(2) : one_in(level == 4 ? 40 : 4))
        entry |= BIT(7);
    if (level > 1 && (entry & BIT(7)) && !one_in(4)) {
        unsigned low = width == 4 ? 22 : 12 + 9 * (level - 1);
        entry &= ~bits_mask(low - 1, 13);
        entry |=
            width == 4 ? random_bits() & bits_mask(31, 22) : random_bits() & bits_mask(35, low);
        if (width == 4 && one_in(2))
            entry |= random_bits() & bits_mask(16, 13);
    }
    if (width == 4)
        return entry & UINT32_MAX;
    if (one_in(strict ? 40 : 6))
        entry |= BIT(63);
    if (one_in(40))
        entry |= BIT(36 + below(27));
    entry |= random_bits() & bits_mask(62, 59) & (one_in(2) ? 0 : UINT64_MAX);
    return entry;
}

static struct walk_mode random_mode(void)
{
    static const uint8_t widths[] = {32, 36, 39, 40, 46, 52};
    struct walk_mode mode = {
        .cr0 = CR0_PE | (one_in(30) ? 0 : CR0_PG) | (one_in(2) ? CR0_WP : 0),
        .cr4 = random_bits() & (CR4_PSE | CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_PGE),
        .efer = random_bits() & (EFER_NXE | EFER_SCE),
        .rflags = RFLAGS_FIXED | (one_in(2) ? RFLAGS_AC : 0),
        .pkru = (uint32_t)random_bits(),
        .physical_bits = widths[below(ARRAY_SIZE(widths))],
        .no_1g = one_in(3),
        .amd = one_in(2),
        .cr3 = random_table() | (random_bits() & 0xfff),
    };
    if (!one_in(4)) {
        mode.cr4 |= CR4_PAE;
        if (!one_in(3) && (mode.cr0 & CR0_PG))
            mode.efer |= EFER_LME | EFER_LMA;
    }
    for (unsigned i = 0; i < 4; i++) {
        mode.pdpte[i] = random_table() | BIT(0) | (random_bits() & 0xe18);
        if (one_in(20))
            mode.pdpte[i] ^= BIT(below(64));
    }
    return mode;
}

static struct ref_registers ref_registers(const struct walk_mode *mode)
{
    struct ref_registers r = {
        .cr0 = mode->cr0,
        .cr3 = mode->cr3,
        .cr4 = mode->cr4,
        .efer = mode->efer,
        .rflags = mode->rflags,
        .pkru = mode->pkru,
        .maxphyaddr = mode->physical_bits,
        .page1gb = !mode->no_1g,
        .amd = mode->amd,
    };
    memcpy(r.pdpte, mode->pdpte, sizeof(r.pdpte));
    return r;
}

/* Lays random entries along the path that gva takes. */
static void random_tables(const struct walk_mode *mode, uint64_t gva)
{
    unsigned width = mode->cr4 & CR4_PAE ? 8 : 4;
    unsigned levels = mode->efer & EFER_LMA ? 4 : 2;
    uint64_t table = mode->cr3 & ~0xfffull;

    if (levels == 2 && width == 8)
        table = mode->pdpte[gva >> 30 & 3] & bits_mask(51, 12);
    for (unsigned level = levels; level > 0; level--) {
        unsigned shift = 12 + (width == 8 ? 9 : 10) * (level - 1);
        uint64_t at = table + (gva >> shift & (width == 8 ? 0x1ff : 0x3ff)) * width;
        uint64_t entry = random_entry(width, level, !(mode->efer & EFER_NXE));
        write_entry(memory, at, width, entry);
        table = entry & bits_mask(51, 12);
    }
}

/* The rights the reference grants: each access tried alone. */
static uint32_t ref_rights(const struct ref_registers *regs, uint64_t gva, bool cpl3, bool implicit)
{
    uint32_t rights = 0;
    for (unsigned i = 0; i < 3; i++) {
        struct ref_memory m = {.read = read_memory, .ctx = memory};
        struct ref_access a = {
            .write = i == 1, .fetch = i == 2, .cpl3 = cpl3, .implicit = implicit};
        if (ref_walk(&m, regs, gva, &a).kind == REF_OK)
            rights |= 1u << i;
    }
    return rights;
}

static uint64_t seen[4]; /* outcomes of the random test, so that it cannot pass by doing nothing */
static uint64_t seen_error[64], seen_size[6];

/* The first entry whose flags would have to be set where the slot may not be written, or 0. */
static uint64_t refused_entry(const struct ref_result *ref, bool write)
{
    for (unsigned i = 0; i < ref->count; i++) {
        const struct ref_entry *entry = &ref->entry[i];
        const struct slot_entry *slot = virtx_slot_find(slots, entry->address);

        if (ref_used_entry(entry->value, i + 1 == ref->count, write) != entry->value &&
            !(slot->rights & VIRTX_WRITE))
            return entry->address;
    }
    return 0;
}

/* Walks with both and compares everything; `flags` has no WALK_PROBE. */
static void compare(const struct walk_mode *mode, uint64_t gva, uint32_t access, uint32_t flags)
{
    struct ref_registers regs = ref_registers(mode);
    struct ref_memory m = {.read = read_memory, .ctx = memory};
    struct ref_access a = {
        .write = access & VIRTX_WRITE,
        .fetch = access & VIRTX_EXECUTE,
        .cpl3 = flags & WALK_USER,
        .implicit = flags & WALK_IMPLICIT,
    };
    struct ref_result ref = ref_walk(&m, &regs, gva, &a);
    uint32_t rights = ref_rights(&regs, gva, a.cpl3, a.implicit);
    struct walk_result got;
    enum virtx_status status;
    uint64_t expected_dirty[SLOTS], refused = 0;

    memcpy(expected, memory, PAGES * PAGE);
    memcpy(expected_dirty, dirty, sizeof(dirty));
    if (ref.kind == REF_OK && (flags & WALK_SET_FLAGS))
        refused = refused_entry(&ref, a.write);
    if (ref.kind == REF_OK && (flags & WALK_SET_FLAGS) && !refused) {
        for (unsigned i = 0; i < ref.count; i++) {
            uint64_t used, at = ref.entry[i].address;
            const struct slot_entry *slot = virtx_slot_find(slots, at);
            /* Two levels may share an entry: start from what it is by now. */
            long offset = offset_of(at);
            uint64_t now = 0;
            memcpy(&now, expected + offset, ref.entry[i].width);
            used = ref_used_entry(now, i + 1 == ref.count, a.write);
            if (used == now)
                continue;
            write_entry(expected, at, ref.entry[i].width, used);
            expected_dirty[slot - slots->entry] |= BIT((at - slot->gpa) / PAGE);
        }
    }

    memset(&got, 0xaa, sizeof(got));
    status = walk_guest(&vm, mode, gva, access, flags, &got);
    seen[refused ? 3 : ref.kind]++;
    switch (ref.kind) {
    case REF_OK:
        if (refused) {
            ck_assert_int_eq(status, VIRTX_E_RANGE);
            ck_assert_uint_eq(got.gpa, refused);
            break;
        }
        ck_assert_int_eq(status, VIRTX_OK);
        ck_assert_uint_eq(got.gpa, ref.address);
        ck_assert_uint_eq(got.bytes, ref.page_bytes);
        ck_assert_uint_eq(got.rights, rights);
        for (unsigned i = 0; i < 6; i++)
            seen_size[i] += ref.page_bytes ==
                            (const uint64_t[]){0x1000, 0x200000, 0x400000, 0x40000000, 0, 0}[i];
        break;
    case REF_PAGE_FAULT:
        ck_assert_int_eq(status, VIRTX_E_FAULT);
        ck_assert_uint_eq(got.error, ref.error);
        seen_error[ref.error]++;
        break;
    case REF_NO_MEMORY:
        ck_assert_int_eq(status, VIRTX_E_NOT_FOUND);
        break;
    }
    ck_assert_mem_eq(memory, expected, PAGES * PAGE);
    ck_assert_mem_eq(dirty, expected_dirty, sizeof(dirty));
}

START_TEST(random_walks)
{
    memset(seen, 0, sizeof(seen));
    memset(seen_error, 0, sizeof(seen_error));
    memset(seen_size, 0, sizeof(seen_size));
    for (unsigned i = 0; i < RANDOM_WALKS; i++) {
        static const uint32_t accesses[] = {VIRTX_READ, VIRTX_WRITE, VIRTX_EXECUTE,
                                            VIRTX_READ | VIRTX_WRITE};
        struct walk_mode mode = random_mode();
        uint64_t gva = random_bits();
        uint32_t flags = 0;
        gva = mode.efer & EFER_LMA ? (uint64_t)((int64_t)(gva << 16) >> 16) : gva & UINT32_MAX;
        if (one_in(2))
            flags |= WALK_USER;
        if (one_in(6))
            flags |= WALK_IMPLICIT;
        if (one_in(2))
            flags |= WALK_SET_FLAGS;
        random_tables(&mode, gva);
        compare(&mode, gva, accesses[below(4)], flags);
    }
    ck_assert_uint_gt(seen[REF_OK], RANDOM_WALKS / 10);
    ck_assert_uint_gt(seen[REF_PAGE_FAULT], RANDOM_WALKS / 10);
    ck_assert_uint_gt(seen[REF_NO_MEMORY], 100);
    ck_assert_uint_gt(seen[3], 100); /* refused flags */
    for (unsigned i = 0; i < 4; i++)
        ck_assert_uint_gt(seen_size[i], 1000);
    for (unsigned error = 0; error < 64; error++) {
        bool possible = true;
        if ((error & PF_RESERVED) && !(error & PF_PRESENT))
            possible = false;
        if ((error & PF_PKEY) && (!(error & PF_PRESENT) || (error & (PF_RESERVED | PF_FETCH))))
            possible = false;
        if ((error & PF_FETCH) && (error & PF_WRITE))
            possible = false;
        /* A supervisor read can fail only by SMAP or a key, which it can. */
        ck_assert_msg(possible == (seen_error[error] > 0), "error code %#x", error);
    }
}
END_TEST

/* Builds 4-level tables from 0x10000 on that map gva to gpa with these flags in every entry. */
static struct walk_mode build_4level(uint64_t gva, uint64_t gpa, uint64_t flags)
{
    struct walk_mode mode = {
        .cr0 = CR0_PE | CR0_PG | CR0_WP,
        .cr3 = 0x10000,
        .cr4 = CR4_PAE,
        .efer = EFER_LME | EFER_LMA | EFER_NXE,
        .physical_bits = 40,
    };
    for (unsigned level = 4; level > 0; level--) {
        uint64_t table = 0x10000 + (4 - level) * PAGE;
        uint64_t next = level > 1 ? table + PAGE : gpa;
        write_entry(memory, table + (gva >> (12 + 9 * (level - 1)) & 0x1ff) * 8, 8, next | flags);
    }
    return mode;
}

/* FEATURES G8: with 4 levels on both sides a translation takes 24 references. */
struct nested_guest {
    struct ref_memory host;
    uint64_t root;
    enum ref_nested_format format;
};

static bool read_host(void *ctx, uint64_t hpa, unsigned width, uint64_t *value)
{
    *value = 0;
    memcpy(value, (const uint8_t *)ctx + hpa, width);
    return true;
}

static bool read_nested(void *ctx, uint64_t gpa, unsigned width, uint64_t *value)
{
    struct nested_guest *guest = ctx;
    struct ref_nested n = ref_nested_walk(&guest->host, guest->format, guest->root, gpa);
    if (n.kind != REF_NESTED_OK)
        return false;
    guest->host.references++;
    return guest->host.read(guest->host.ctx, n.hpa, width, value);
}

START_TEST(nested_walk_takes_24_references)
{
    /* Host page 0 up: nested PML4, PDPT, PD, PT mapping GPA n to HPA 0x10000 + n; then the guest.
     */
    static uint8_t host[0x30000];
    static const uint64_t nested_bits[] = {[REF_EPT] = 7, [REF_NPT] = 7};
    uint64_t gva = 0x7f1234567000;

    for (unsigned format = REF_EPT; format <= REF_NPT; format++) {
        uint64_t *nested = (void *)host;
        struct nested_guest guest = {
            .host = {.read = read_host, .ctx = host}, .root = 0, .format = format};
        struct ref_memory m = {.read = read_nested, .ctx = &guest};
        struct ref_registers regs = {
            .cr0 = CR0_PE | CR0_PG,
            .cr3 = 0x4000,
            .cr4 = CR4_PAE,
            .efer = EFER_LME | EFER_LMA,
            .maxphyaddr = 40,
        };
        struct ref_access access = {0};
        struct ref_result result;
        struct ref_nested last;

        memset(host, 0, sizeof(host));
        for (unsigned i = 0; i < 3; i++)
            nested[i * 512] = (i + 1) * PAGE | nested_bits[format];
        for (unsigned i = 0; i < 16; i++)
            nested[3 * 512 + i] = (0x10000 + i * PAGE) | nested_bits[format] |
                                  (format == REF_EPT ? VIRTX_MEMORY_WB << 3 : 0);
        for (unsigned level = 4; level > 0; level--) {
            uint64_t entry = (0x4000 + (5 - level) * PAGE) | 7;
            uint64_t index = gva >> (12 + 9 * (level - 1)) & 0x1ff;
            memcpy(host + 0x14000 + (4 - level) * PAGE + index * 8, &entry, 8);
        }
        result = ref_walk(&m, &regs, gva, &access);
        ck_assert_int_eq(result.kind, REF_OK);
        ck_assert_uint_eq(result.address, 0x8000);
        ck_assert_uint_eq(m.references, 4);
        ck_assert_uint_eq(guest.host.references, 20);
        last = ref_nested_walk(&guest.host, format, 0, result.address);
        ck_assert_int_eq(last.kind, REF_NESTED_OK);
        ck_assert_uint_eq(last.hpa, 0x18000);
        ck_assert_uint_eq(guest.host.references, 24);
    }
}
END_TEST

START_TEST(unpaged_is_32_bits_wide)
{
    struct walk_mode mode = {.cr0 = CR0_PE, .cr4 = CR4_SMAP | CR4_SMEP, .physical_bits = 36};
    struct walk_result result;
    ck_assert_int_eq(walk_guest(&vm, &mode, 0x1fedcba98ull, VIRTX_WRITE, WALK_USER, &result),
                     VIRTX_OK);
    ck_assert_uint_eq(result.gpa, 0xfedcba98u);
    ck_assert_uint_eq(result.bytes, 4096);
    ck_assert_uint_eq(result.rights, VIRTX_READ | VIRTX_WRITE | VIRTX_EXECUTE);
}
END_TEST

START_TEST(probe_finds_the_page_whatever_the_rights)
{
    uint64_t gva = 0x123456789000;
    struct walk_mode mode = build_4level(gva, 0x77000, BIT(0));
    struct walk_result result;

    ck_assert_int_eq(walk_guest(&vm, &mode, gva + 5, 0, WALK_USER | WALK_PROBE, &result), VIRTX_OK);
    ck_assert_uint_eq(result.gpa, 0x77005);
    ck_assert_uint_eq(result.rights, 0);
    ck_assert_int_eq(walk_guest(&vm, &mode, gva, VIRTX_WRITE, WALK_PROBE, &result), VIRTX_OK);
    ck_assert_uint_eq(result.rights, VIRTX_READ | VIRTX_EXECUTE);
    /* What is not there is not found either. */
    ck_assert_int_eq(walk_guest(&vm, &mode, gva + 0x1000, 0, WALK_PROBE, &result), VIRTX_E_FAULT);
    ck_assert_uint_eq(result.error, 0);
}
END_TEST

/* An allowed read sets accessed everywhere and dirty nowhere; a write then the leaf's dirty flag.
 */
START_TEST(flags_are_set_once)
{
    uint64_t gva = 0xffff812345678000, leaf = 0;
    struct walk_mode mode = build_4level(gva, 0x77000, BIT(0) | BIT(1));
    struct walk_result result;
    long at = offset_of(0x13000 + (gva >> 12 & 0x1ff) * 8);

    ck_assert_int_eq(walk_guest(&vm, &mode, gva, VIRTX_READ, 0, &result), VIRTX_OK);
    memcpy(&leaf, memory + at, 8);
    ck_assert_uint_eq(leaf, 0x77003);
    ck_assert_uint_eq(dirty[1], 0);
    ck_assert_int_eq(walk_guest(&vm, &mode, gva, VIRTX_READ, WALK_SET_FLAGS, &result), VIRTX_OK);
    memcpy(&leaf, memory + at, 8);
    ck_assert_uint_eq(leaf, 0x77023);
    ck_assert_uint_eq(dirty[1], 0xf);
    dirty[1] = 0;
    ck_assert_int_eq(walk_guest(&vm, &mode, gva, VIRTX_WRITE, WALK_SET_FLAGS, &result), VIRTX_OK);
    memcpy(&leaf, memory + at, 8);
    ck_assert_uint_eq(leaf, 0x77063);
    ck_assert_uint_eq(dirty[1], 0x8);
    dirty[1] = 0;
    ck_assert_int_eq(walk_guest(&vm, &mode, gva, VIRTX_WRITE, WALK_SET_FLAGS, &result), VIRTX_OK);
    ck_assert_uint_eq(dirty[1], 0);
}
END_TEST

/* A refused access changes nothing. */
START_TEST(a_refused_access_sets_no_flags)
{
    uint64_t gva = 0x5000;
    struct walk_mode mode = build_4level(gva, 0x77000, BIT(0));
    struct walk_result result;

    memcpy(expected, memory, PAGES * PAGE);
    ck_assert_int_eq(walk_guest(&vm, &mode, gva, VIRTX_WRITE, WALK_SET_FLAGS, &result),
                     VIRTX_E_FAULT);
    ck_assert_uint_eq(result.error, PF_PRESENT | PF_WRITE);
    ck_assert_mem_eq(memory, expected, PAGES * PAGE);
    ck_assert_uint_eq(dirty[1], 0);
}
END_TEST

/* Tables are not read where the host has taken the page away. */
START_TEST(a_table_without_backing_is_not_in_memory)
{
    uint64_t gva = 0x5000;
    struct walk_mode mode = build_4level(gva, 0x77000, BIT(0));
    struct walk_result result;

    slots->entry[1].flags = 0;
    for (unsigned i = 0; i < 5; i++) {
        absent = slots->entry[1].memory + i * PAGE;
        ck_assert_int_eq(walk_guest(&vm, &mode, gva, VIRTX_READ, 0, &result),
                         i < 4 ? VIRTX_E_NOT_FOUND : VIRTX_OK);
    }
}
END_TEST

/* What whoever keeps a memo compares. */
struct memo_key {
    uint64_t page, cr3, control;
    bool user;
};

static struct memo_key key_of(const struct walk_mode *mode, uint64_t gva, bool user)
{
    return (struct memo_key){.page = gva & ~0xfffull,
                             .cr3 = mode->cr3,
                             .control = (mode->cr4 & CR4_SMEP) |
                                        (mode->efer & (EFER_LMA | EFER_NXE)),
                             .user = user};
}

static const uint8_t *memo_find(const struct walk_memo *memo, const struct memo_key *filled,
                                const struct memo_key *now, uint64_t gva)
{
    if (filled->page != now->page || filled->cr3 != now->cr3 || filled->control != now->control ||
        filled->user != now->user || !memo->host || !walk_memo_holds(memo, &vm))
        return NULL;
    return memo->host + (gva & 0xfff);
}

/*
 * The memo of fetches: whatever the guest does to its tables and registers, a hit means that the
 * reference walker would find the same byte now.
 */
START_TEST(a_memo_hit_is_a_walk)
{
    struct walk_memo memo = {0};
    struct memo_key filled = {0};
    struct walk_mode mode = random_mode();
    uint64_t gva = 0, hits = 0, lost = 0;
    bool user = false;

    for (unsigned i = 0; i < 200000; i++) {
        struct ref_registers regs;
        struct ref_memory m = {.read = read_memory, .ctx = memory};
        struct ref_access access = {.fetch = true};
        struct ref_result ref;
        struct memo_key now;
        const uint8_t *at;
        uint32_t dice = below(100);

        if (dice < 4) {
            do
                mode = random_mode();
            while (!(mode.efer & EFER_LMA) && !one_in(8));
            gva = one_in(3) ? below(UINT32_MAX) : (uint64_t)((int64_t)(random_bits() << 16) >> 16);
        }
        if (dice < 8)
            random_tables(&mode, gva);
        else if (dice < 10)
            gva ^= BIT(12 + below(36));
        else if (dice < 12)
            user = !user;
        else if (dice < 14)
            mode.cr4 ^= CR4_SMEP;
        else if (dice < 16)
            mode.cr3 = random_table();
        else if (dice < 18)
            mode.efer ^= EFER_NXE;
        else if (dice < 19 && gva <= UINT32_MAX && (mode.cr4 & CR4_PAE) && (mode.cr0 & CR0_PG))
            mode.efer ^= EFER_LMA | EFER_LME;
        gva = (uint64_t)((int64_t)(((gva & ~0xfffull) | below(PAGE)) << 16) >> 16);
        if (dice ==
            99) { /* the host takes a page of the slot that may lose some, or brings it back */
            absent = absent ? NULL : slots->entry[0].memory + below(6) * PAGE;
            atomic_fetch_add(&vm.generation, 1);
        }
        if (!(mode.efer & EFER_LMA))
            gva &= UINT32_MAX;

        regs = ref_registers(&mode);
        access.cpl3 = user;
        ref = ref_walk(&m, &regs, gva, &access);
        if (dice >= 90 && dice < 94 && ref.count) { /* one entry changes by one bit */
            const struct ref_entry *entry = &ref.entry[below(ref.count)];
            write_entry(memory, entry->address, entry->width, entry->value ^ BIT(below(32)));
            ref = ref_walk(&m, &regs, gva, &access);
        }
        now = key_of(&mode, gva, user);
        at = memo_find(&memo, &filled, &now, gva);
        if (at) {
            hits++;
            if (ref.kind != REF_OK || at - memory != offset_of(ref.address))
                ck_abort_msg("a hit at %#lx that is none", (unsigned long)gva);
            for (unsigned level = 0; absent && level < ref.count; level++)
                if (memory + offset_of(ref.entry[level].address & ~0xfffull) == absent)
                    ck_abort_msg("a table that is not there was read");
            if (absent && at - (gva & 0xfff) == absent)
                ck_abort_msg("a page that is not there");
        } else {
            struct walk_result result;
            enum virtx_status status =
                walk_memo_fill(&memo, &vm, &mode, gva, user ? WALK_USER : 0, &result);
            const uint8_t *page;

            filled = now;
            if (absent)
                continue;
            if (status != (ref.kind == REF_OK           ? VIRTX_OK
                           : ref.kind == REF_PAGE_FAULT ? VIRTX_E_FAULT
                                                        : VIRTX_E_NOT_FOUND))
                ck_abort_msg("status %d", status);
            page = memo_find(&memo, &filled, &now, gva);
            lost += status == VIRTX_OK && (mode.efer & EFER_LMA) && offset_of(ref.address) >= 0 &&
                    !page;
        }
    }
    ck_assert_uint_gt(hits, 5000);
    ck_assert_uint_eq(lost, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("walk");
    TCase *tests = tcase_create("walk");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, random_walks);
    tcase_add_test(tests, nested_walk_takes_24_references);
    tcase_add_test(tests, unpaged_is_32_bits_wide);
    tcase_add_test(tests, probe_finds_the_page_whatever_the_rights);
    tcase_add_test(tests, flags_are_set_once);
    tcase_add_test(tests, a_refused_access_sets_no_flags);
    tcase_add_test(tests, a_table_without_backing_is_not_in_memory);
    tcase_add_test(tests, a_memo_hit_is_a_walk);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
