/* SPDX-License-Identifier: BSD-2-Clause */
/* The table engine against a plain array of pages, in both hardware formats. */
#include "paging/table.h"
#include "paging_world.h"
#include "svm/svm.h"
#include "vmx/vmx.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

/* The model covers three 1-GiB ranges by their first 4 MiB each, and 2 MiB at the top of the space.
 */
#define WINDOWS      4u
#define WINDOW_PAGES 1024u
#define STEPS        20000

static const uint64_t window_gpa[WINDOWS] = {0, BIT(30), 5 * BIT(39) - 2 * BIT(21),
                                             BIT(48) - BIT(22)};

struct page {
    bool present, logged, written;
    uint8_t rights, level;
    uint64_t hpa;
};

static struct page model[WINDOWS][WINDOW_PAGES];
static bool reported[WINDOWS][WINDOW_PAGES], expected_report[WINDOWS][WINDOW_PAGES];
static struct table table;
static bool dirty_flags;
static uint64_t host_pat = 0x0007040600070406;

static struct page *page_of(uint64_t gpa)
{
    for (unsigned w = 0; w < WINDOWS; w++)
        if (gpa - window_gpa[w] < WINDOW_PAGES * WORLD_PAGE)
            return &model[w][(gpa - window_gpa[w]) / WORLD_PAGE];
    return NULL;
}

static void setup(int format, bool flags)
{
    static const struct table_format *const formats[] = {&vmx_ept, &svm_npt};
    world_begin((enum ref_nested_format)format, formats[format], 0);
    world.virtx.pat = host_pat;
    dirty_flags = flags;
    memset(&table, 0, sizeof(table));
    memset(model, 0, sizeof(model));
    memset(reported, 0, sizeof(reported));
    memset(expected_report, 0, sizeof(expected_report));
    EXPECT(table_create(&table, &world.vm, formats[format], flags) == VIRTX_OK);
    table.has_logged = true;
    /* A slot over each window, so that reports arrive in logs of the world. */
    struct slot_entry entries[WINDOWS];
    for (unsigned i = 0; i < WINDOWS; i++) {
        world.log[i] = calloc(WINDOW_PAGES / 64, 8);
        entries[i] = (struct slot_entry){.gpa = window_gpa[i],
                                         .end = window_gpa[i] + WINDOW_PAGES * WORLD_PAGE,
                                         .memory = WORLD_BACKING,
                                         .dirty = (void *)world.log[i],
                                         .rights = 7,
                                         .type = VIRTX_MEMORY_WB};
    }
    world_publish(entries, WINDOWS);
}

static void teardown(void)
{
    table_destroy(&table);
    atomic_fetch_add(&world.vm.generation, 1);
    world_end();
}

static void check_page(uint64_t gpa, const struct page *page)
{
    struct ref_nested n = world_walk(table.root_hpa, gpa);
    if (!page->present) {
        EXPECT(n.kind == REF_NESTED_NOT_PRESENT);
        return;
    }
    EXPECT(n.kind == REF_NESTED_OK);
    EXPECT(n.hpa == page->hpa);
    EXPECT(n.level == page->level);
    EXPECT(n.read == ((page->rights & VIRTX_READ) != 0));
    EXPECT(n.execute == ((page->rights & VIRTX_EXECUTE) != 0));
    if (page->logged && !dirty_flags)
        EXPECT(n.write == ((page->rights & VIRTX_WRITE) && page->written));
    else
        EXPECT(n.write == ((page->rights & VIRTX_WRITE) != 0));
    if (page->logged && dirty_flags)
        EXPECT(n.dirty == page->written);
    if (!page->logged && n.write)
        EXPECT(n.dirty); /* which spares the hardware setting it */
}

static void check_all(void)
{
    for (unsigned w = 0; w < WINDOWS; w++)
        for (unsigned i = 0; i < WINDOW_PAGES; i++) {
            bool log = world.log[w][i / 64] >> (i % 64) & 1;
            check_page(window_gpa[w] + i * WORLD_PAGE, &model[w][i]);
            EXPECT(log == expected_report[w][i]);
        }
}

/* An expected report of a page that loses its mark. */
static void model_report(struct page *page)
{
    if (page->present && page->logged && page->written)
        expected_report[(page - model[0]) / WINDOW_PAGES][(page - model[0]) % WINDOW_PAGES] = true;
}

static void model_drop(uint64_t gpa, uint64_t span)
{
    for (uint64_t at = gpa & ~(span - 1), end = at + span; at < end; at += WORLD_PAGE) {
        struct page *page = page_of(at);
        if (!page)
            continue;
        model_report(page);
        memset(page, 0, sizeof(*page));
    }
}

static uint64_t random_gpa(void)
{
    return window_gpa[world_below(WINDOWS)] + world_below(WINDOW_PAGES) * WORLD_PAGE;
}

static uint64_t table_pages_of(uint64_t gpa, unsigned level)
{
    unsigned at;
    table_lookup(&table, gpa, level, &at);
    return at - level;
}

static void step_map(void)
{
    uint64_t gpa = random_gpa(), hpa;
    unsigned level = world_below(3) == 0 ? 2 : 1;
    uint32_t rights = VIRTX_READ | (world_random() & (VIRTX_WRITE | VIRTX_EXECUTE));
    bool logged = level == 1 && world_below(2), again = world_below(20) == 0;
    uint64_t sequence = atomic_load(&table.sequence);
    struct page *page = page_of(gpa);
    enum virtx_status status;
    bool blocked;

    gpa &= ~(table_span(level) - 1);
    hpa = 0x4000000000 + gpa % BIT(36);
    blocked = page->present && page->level > level;
    if (level == 2) {
        struct page *first = page_of(gpa);
        unsigned at;
        uint64_t *entry = table_lookup(&table, gpa, 2, &at);
        if (at == 2 && table_present(&table, *entry) && !table_is_leaf(&table, *entry, 2))
            blocked = true;
        page = first;
    }
    /* The engine is told the truth: a page that is there stays at its HPA. */
    status = table_map(&table, gpa, level,
                       table_leaf(&table, hpa, level, rights, VIRTX_MEMORY_WB, logged),
                       sequence - again);
    if (again && (status == VIRTX_AGAIN || world.pool_limit < WORLD_TABLE_PAGES))
        return;
    if (world.pool_limit < WORLD_TABLE_PAGES && status == VIRTX_E_NO_MEMORY) {
        EXPECT(world.pool_used + table_pages_of(gpa, level) > world.pool_limit);
        return;
    }
    EXPECT(status == VIRTX_OK);
    if (blocked)
        return;
    for (uint64_t at = gpa; at < gpa + table_span(level); at += WORLD_PAGE) {
        page = page_of(at);
        bool keep = page->present && page->logged && logged && page->written;
        *page = (struct page){.present = true,
                              .logged = logged,
                              .written = keep || !logged,
                              .rights = (uint8_t)rights,
                              .level = (uint8_t)level,
                              .hpa = hpa + (at - gpa)};
        /* Without dirty flags a kept mark is the right to write, which then stays. */
        if (keep && !dirty_flags)
            page->rights |= VIRTX_WRITE;
    }
}

static void step_unmap(void)
{
    uint64_t gpa = random_gpa(), bytes, generation = atomic_load(&world.vm.generation) + 1;
    switch (world_below(4)) {
    case 0:
        bytes = WORLD_PAGE;
        break;
    case 1:
        bytes = world_below(700) * WORLD_PAGE + WORLD_PAGE;
        break;
    case 2:
        gpa &= ~(BIT(21) - 1);
        bytes = BIT(21);
        break;
    default:
        gpa = window_gpa[world_below(WINDOWS)];
        bytes = WINDOW_PAGES * WORLD_PAGE;
        break;
    }
    if (world_below(60) == 0) {
        gpa = 0;
        bytes = BIT(48);
    }
    if (gpa + bytes > BIT(48))
        bytes = BIT(48) - gpa;
    table_unmap(&table, gpa, bytes, generation);
    for (unsigned w = 0; w < WINDOWS; w++)
        for (unsigned i = 0; i < WINDOW_PAGES; i++) {
            struct page *page = &model[w][i];
            uint64_t at = window_gpa[w] + i * WORLD_PAGE,
                     span = table_span(page->level ? page->level : 1);
            at &= ~(span - 1);
            if (page->present && at < gpa + bytes && at + span > gpa)
                model_drop(at, span);
        }
    atomic_fetch_add(&world.vm.generation, 1);
    if (world_below(2))
        world_settle();
}

/* A processor, or a write fault, marks a logged page as written. */
static void step_write(void)
{
    uint64_t gpa = random_gpa();
    struct page *page = page_of(gpa);
    struct ref_nested n = world_walk(table.root_hpa, gpa);
    if (!page->present || !page->logged || !(page->rights & VIRTX_WRITE))
        return;
    world_set_bits(n.leaf_address, table.written);
    page->written = true;
}

static uint64_t clear_written(const struct table *t, const void *ctx, uint64_t leaf, unsigned level)
{
    (void)ctx;
    (void)level;
    return leaf & TABLE_LOGGED ? leaf & ~t->written : leaf;
}

static void step_collect(void)
{
    uint64_t gpa = random_gpa(), bytes = (world_below(600) + 1) * WORLD_PAGE, changed = 0,
             expected = 0;
    if (gpa + bytes > BIT(48))
        bytes = BIT(48) - gpa;
    for (unsigned w = 0; w < WINDOWS; w++)
        for (unsigned i = 0; i < WINDOW_PAGES; i++) {
            uint64_t at = window_gpa[w] + i * WORLD_PAGE;
            struct page *page = &model[w][i];
            if (at < gpa || at >= gpa + bytes || !page->logged || !page->written)
                continue;
            model_report(page);
            page->written = false;
            expected++;
        }
    changed = table_change(&table, gpa, bytes, clear_written, NULL);
    EXPECT(changed == expected);
}

static void step_split(void)
{
    uint64_t gpa = random_gpa(), bytes = (world_below(600) + 1) * WORLD_PAGE;
    struct slot_entry slot = {.rights = VIRTX_READ | VIRTX_WRITE,
                              .type = VIRTX_MEMORY_WB,
                              .dirty = world_below(2) ? (void *)world.log[0] : NULL};
    bool scarce = world.pool_limit < WORLD_TABLE_PAGES;
    if (gpa + bytes > BIT(48))
        bytes = BIT(48) - gpa;
    table_split(&table, gpa, bytes, &slot, atomic_load(&world.vm.generation) + 1);
    for (unsigned w = 0; w < WINDOWS; w++)
        for (unsigned i = 0; i < WINDOW_PAGES; i++) {
            uint64_t at = window_gpa[w] + i * WORLD_PAGE, base = at & ~(BIT(21) - 1);
            struct page *page = &model[w][i];
            if (page->level != 2 || base >= gpa + bytes || base + BIT(21) <= gpa)
                continue;
            if (scarce && world_walk(table.root_hpa, at).kind == REF_NESTED_NOT_PRESENT) {
                memset(page, 0, sizeof(*page));
                continue;
            }
            page->level = 1;
            page->rights = VIRTX_READ | VIRTX_WRITE;
            page->logged = slot.dirty != NULL;
            page->written = !slot.dirty;
        }
    atomic_fetch_add(&world.vm.generation, 1);
}

static void random_steps(void)
{
    for (unsigned i = 0; i < STEPS; i++) {
        uint32_t dice = world_below(100);
        if (world_below(200) == 0)
            world.pool_limit =
                world_below(2) ? WORLD_TABLE_PAGES : world.pool_used + world_below(4);
        if (dice < 60)
            step_map();
        else if (dice < 75)
            step_write();
        else if (dice < 85)
            step_collect();
        else if (dice < 90)
            step_split();
        else
            step_unmap();
        if (i % 64 == 0)
            check_all();
    }
    check_all();
    /* With everything unmapped only the root is left. */
    table_unmap(&table, 0, BIT(48), atomic_load(&world.vm.generation) + 1);
    EXPECT(world.pool_used == 1);
}

START_TEST(random_operations)
{
    setup(_i >> 1, _i & 1);
    random_steps();
    teardown();
}
END_TEST

/* A 1-GiB leaf becomes 512 of 2 MiB, and the one that is asked for 512 of 4 KiB. */
START_TEST(a_giant_leaf_splits_twice)
{
    struct slot_entry slot = {.rights = VIRTX_READ, .type = VIRTX_MEMORY_WB};
    struct ref_nested n;

    setup(_i, false);
    ck_assert_int_eq(
        table_map(&table, BIT(30), 3, table_leaf(&table, BIT(34), 3, 7, VIRTX_MEMORY_WB, false), 0),
        VIRTX_OK);
    n = world_walk(table.root_hpa, BIT(30) + 0x12345678);
    ck_assert_int_eq(n.kind, REF_NESTED_OK);
    ck_assert_uint_eq(n.page_bytes, BIT(30));
    ck_assert_uint_eq(n.hpa, BIT(34) + 0x12345678);
    table_split(&table, BIT(30) + 0x12345000, 0x1000, &slot, 1);
    n = world_walk(table.root_hpa, BIT(30) + 0x12345678);
    ck_assert_uint_eq(n.page_bytes, 4096);
    ck_assert_uint_eq(n.hpa, BIT(34) + 0x12345678);
    ck_assert(!n.write);
    n = world_walk(table.root_hpa, BIT(30) + 0x12545678);
    ck_assert_uint_eq(n.page_bytes, BIT(21));
    ck_assert_uint_eq(n.hpa, BIT(34) + 0x12545678);
    ck_assert_uint_eq(world.pool_used, 4);
    teardown();
}
END_TEST

#define PAT_RESET 0x0007040600070406
#define PAT_LINUX 0x0407050600070106

static const uint32_t all_types[] = {VIRTX_MEMORY_UC, VIRTX_MEMORY_WC, VIRTX_MEMORY_WT,
                                     VIRTX_MEMORY_WP, VIRTX_MEMORY_WB};

/* What the hardware makes of a leaf of that type, at each size. */
static struct ref_nested leaf_of_type(unsigned level, uint32_t type)
{
    struct ref_nested n;

    ck_assert_int_eq(table_map(&table, 0, level, table_leaf(&table, BIT(34), level, 7, type, false),
                               atomic_load(&table.sequence)),
                     VIRTX_OK);
    n = world_walk(table.root_hpa, 0);
    ck_assert_int_eq(n.kind, REF_NESTED_OK);
    ck_assert_uint_eq(n.hpa, BIT(34)); /* the PAT bit of a large leaf is none of the address */
    ck_assert_uint_eq(n.page_bytes, table_span(level));
    return n;
}

/* Intel SDM "EPT and Memory Typing": the leaf has the type itself, and "ignore PAT" for all but WB,
 * which leaves the guest's PAT its say. */
START_TEST(memory_types_ept)
{
    for (unsigned level = 1; level <= 3; level++)
        for (unsigned i = 0; i < ARRAY_SIZE(all_types); i++) {
            struct ref_nested n;

            setup(REF_EPT, false);
            n = leaf_of_type(level, all_types[i]);
            ck_assert_uint_eq(n.type, all_types[i]);
            ck_assert_int_eq(n.ignore_pat, all_types[i] != VIRTX_MEMORY_WB);
            teardown();
        }
}
END_TEST

/* AMD APM "Combining Memory Types, MTRRs": the leaf selects an entry of the host's PAT, wherever
 * that has the type; what it lacks is as strict as it can be. */
START_TEST(memory_types_npt)
{
    static const uint64_t pats[] = {PAT_RESET, PAT_LINUX, 0x0001040506070001, 0x0606060606060607};

    for (unsigned p = 0; p < ARRAY_SIZE(pats); p++)
        for (unsigned level = 1; level <= 3; level++)
            for (unsigned i = 0; i < ARRAY_SIZE(all_types); i++) {
                bool has = false, has_uc = false;
                unsigned got;

                for (unsigned e = 0; e < 8; e++) {
                    has |= (pats[p] >> 8 * e & 0xff) == all_types[i];
                    has_uc |= (pats[p] >> 8 * e & 0xff) == VIRTX_MEMORY_UC;
                }
                host_pat = pats[p];
                setup(REF_NPT, false);
                got = pats[p] >> 8 * leaf_of_type(level, all_types[i]).type & 0xff;
                ck_assert_uint_eq(got, has ? all_types[i] : has_uc ? VIRTX_MEMORY_UC : 7);
                teardown();
            }
    host_pat = PAT_RESET;
    /* Write-back alone: there is nothing to map a device with. */
    world_begin(REF_NPT, &svm_npt, 0);
    world.virtx.pat = 0x0606060606060606;
    memset(&table, 0, sizeof(table));
    ck_assert_int_eq(table_create(&table, &world.vm, &svm_npt, false), VIRTX_E_HOST_STATE);
    ck_assert_uint_eq(world.pool_used, 0);
    world_end();
}
END_TEST

/* The pool fails at each point of a mapping: nothing has changed, and nothing is lost. */
START_TEST(pool_exhaustion)
{
    uint64_t leaf;
    setup(_i, false);
    leaf = table_leaf(&table, BIT(34), 1, 7, VIRTX_MEMORY_WB, false);
    for (unsigned limit = 1; limit < 4; limit++) {
        world.pool_limit = limit;
        ck_assert_int_eq(table_map(&table, 0x5000, 1, leaf, 0), VIRTX_E_NO_MEMORY);
        ck_assert_uint_eq(world.pool_used, 1);
        ck_assert_int_eq(world_walk(table.root_hpa, 0x5000).kind, REF_NESTED_NOT_PRESENT);
    }
    world.pool_limit = 4;
    ck_assert_int_eq(table_map(&table, 0x5000, 1, leaf, 0), VIRTX_OK);
    ck_assert_int_eq(world_walk(table.root_hpa, 0x5000).kind, REF_NESTED_OK);
    teardown();
    /* And with no page for the root. */
    memset(&world, 0, sizeof(world));
    world_begin((enum ref_nested_format)_i, _i ? &svm_npt : &vmx_ept, 0);
    world.pool_limit = 0;
    ck_assert_int_eq(table_create(&table, &world.vm, &vmx_ept, false), VIRTX_E_NO_MEMORY);
    world_end();
}
END_TEST

/* A dirty flag that a processor sets through a table already taken out is not lost: the entry is
 * emptied before the table is let go. */
START_TEST(no_dirty_flag_is_set_unseen)
{
    struct ref_nested n;
    setup(_i, true);
    ck_assert_int_eq(
        table_map(&table, 0, 1, table_leaf(&table, BIT(34), 1, 7, VIRTX_MEMORY_WB, true), 0),
        VIRTX_OK);
    n = world_walk(table.root_hpa, 0);
    ck_assert(!n.dirty);
    world_set_bits(n.leaf_address, table.written);
    table_unmap(&table, 0, BIT(21), 1);
    ck_assert_uint_eq(world.log[0][0], 1);
    uint64_t entry = 1;
    ck_assert(world.memory.read(NULL, n.leaf_address, 8, &entry));
    ck_assert_uint_eq(entry, 0);
    teardown();
}
END_TEST

static void map_4k(uint64_t gpa)
{
    ck_assert_int_eq(table_map(&table, gpa, 1,
                               table_leaf(&table, BIT(34), 1, 7, VIRTX_MEMORY_WB, false),
                               atomic_load(&table.sequence)),
                     VIRTX_OK);
}

/* Tables go when their last entry does, at either end of a range, and wait for their generation. */
START_TEST(empty_tables_are_freed)
{
    setup(_i, false);
    map_4k(0x5000);
    ck_assert_uint_eq(world.pool_used, 4);
    table_unmap(&table, 0x5000, 0x1000, 1);
    ck_assert_uint_eq(world.pool_used, 1);
    ck_assert_uint_eq(world.waiting, 3);
    /* Around a boundary of all levels: two tables of each. */
    map_4k(BIT(39) - 0x1000);
    map_4k(BIT(39));
    ck_assert_uint_eq(world.pool_used, 7);
    table_unmap(&table, BIT(39) - 0x2000, 0x4000, 1);
    ck_assert_uint_eq(world.pool_used, 1);
    /* A neighbour keeps them. */
    map_4k(0x5000);
    map_4k(0x9000);
    table_unmap(&table, 0x5000, 0x1000, 1);
    ck_assert_uint_eq(world.pool_used, 4);
    ck_assert_int_eq(world_walk(table.root_hpa, 0x9000).kind, REF_NESTED_OK);
    teardown();
}
END_TEST

START_TEST(many_tables_go_at_once)
{
    setup(_i, false);
    for (unsigned i = 0; i < 100; i++)
        map_4k(0x3000 + i * BIT(21));
    map_4k(BIT(30));
    ck_assert_uint_eq(world.pool_used, 105);
    table_unmap(&table, BIT(21), 98 * BIT(21), 1);
    ck_assert_uint_eq(world.pool_used, 7);
    ck_assert_int_eq(world_walk(table.root_hpa, 0x3000).kind, REF_NESTED_OK);
    ck_assert_int_eq(world_walk(table.root_hpa, 0x3000 + BIT(21)).kind, REF_NESTED_NOT_PRESENT);
    ck_assert_int_eq(world_walk(table.root_hpa, 0x3000 + 99 * BIT(21)).kind, REF_NESTED_OK);
    teardown();
}
END_TEST

static uint64_t take_write(const struct table *t, const void *ctx, uint64_t leaf, unsigned level)
{
    (void)ctx;
    (void)level;
    return leaf & ~t->format->write;
}

/* A change passes over large leaves and tables side by side, and leaves the tables' own entries
 * alone. */
START_TEST(a_change_meets_all_sizes)
{
    uint64_t large;
    setup(_i, false);
    large = table_leaf(&table, BIT(34), 2, 7, VIRTX_MEMORY_WB, false);
    ck_assert_int_eq(table_map(&table, 0, 2, large, 0), VIRTX_OK);
    map_4k(BIT(21));
    map_4k(BIT(21) + 0x3000);
    ck_assert_int_eq(table_map(&table, 2 * BIT(21), 2, large, 0), VIRTX_OK);
    ck_assert_uint_eq(table_change(&table, 0, BIT(21) + 0x1000, take_write, NULL), 2);
    ck_assert(!world_walk(table.root_hpa, 0).write);
    ck_assert(!world_walk(table.root_hpa, BIT(21)).write);
    ck_assert(world_walk(table.root_hpa, BIT(21) + 0x3000).write);
    ck_assert_uint_eq(table_change(&table, 0, BIT(30), take_write, NULL), 2);
    ck_assert(!world_walk(table.root_hpa, BIT(21) + 0x3000).write);
    ck_assert(!world_walk(table.root_hpa, 2 * BIT(21)).write);
    ck_assert_uint_eq(table_change(&table, 0, BIT(30), take_write, NULL), 0);
    teardown();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("table");
    TCase *tests = tcase_create("table");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tests, 100);
    tcase_add_loop_test(tests, random_operations, 0, 4);
    tcase_add_loop_test(tests, a_giant_leaf_splits_twice, 0, 2);
    tcase_add_test(tests, memory_types_ept);
    tcase_add_test(tests, memory_types_npt);
    tcase_add_loop_test(tests, pool_exhaustion, 0, 2);
    tcase_add_loop_test(tests, no_dirty_flag_is_set_unseen, 0, 2);
    tcase_add_loop_test(tests, empty_tables_are_freed, 0, 2);
    tcase_add_loop_test(tests, many_tables_go_at_once, 0, 2);
    tcase_add_loop_test(tests, a_change_meets_all_sizes, 0, 2);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
