/* SPDX-License-Identifier: BSD-2-Clause */
/* VMs: life, the page pool, guest-physical memory, counters; and memory that runs out at any point.
 */
#include "fake.h"

#include <stdlib.h>
#include <string.h>

static struct virtx *virtx;

static void refused(const struct virtx_vm_config *config, enum virtx_status status,
                    const char *what)
{
    struct virtx_vm *vm = NULL;
    size_t pages = fake.pages;

    ck_assert_int_eq(virtx_vm_create(virtx, config, &vm), status);
    fake_error(virtx_last_error(virtx), status, what);
    ck_assert_ptr_null(vm);
    ck_assert_uint_eq(fake.pages, pages);
}

static struct virtx_vm_config vm_config(void)
{
    return (struct virtx_vm_config){.size = sizeof(struct virtx_vm_config)};
}

START_TEST(refusals)
{
    struct virtx_paging stranger = fake_nested;
    struct virtx_vm_config config = vm_config();

    virtx = fake_open();
    ck_assert_int_eq(virtx_vm_create(virtx, NULL, NULL), VIRTX_E_INVALID);
    fake_error(virtx_last_error(virtx), VIRTX_E_INVALID, "out");
    config.size--;
    refused(&config, VIRTX_E_SIZE, "config.size");
    config = vm_config();
    config.max_vcpus = 256;
    refused(&config, VIRTX_E_INVALID, "config.max_vcpus");
    config = vm_config();
    config.pool_pages = 4;
    config.pool_reserve = 5;
    refused(&config, VIRTX_E_INVALID, "config.pool_reserve");
    config = vm_config();
    config.pad[3] = 1;
    refused(&config, VIRTX_E_INVALID, "config.pad");
    config.pad[3] = 0;
    config.table_sync = VIRTX_TABLE_SYNC_DROP + 1;
    refused(&config, VIRTX_E_INVALID, "config.table_sync");
    config = vm_config();
    config.paging = &stranger;
    refused(&config, VIRTX_E_INVALID, "config.paging");

    fake.fail_status = VIRTX_E_UNSUPPORTED;
    fake.fail_op = "vm_create";
    refused(NULL, VIRTX_E_UNSUPPORTED, "vm_create");
    fake.fail_op = "engine_vm_create";
    refused(NULL, VIRTX_E_UNSUPPORTED, "engine_vm_create");
    fake.silent = true;
    refused(NULL, VIRTX_E_UNSUPPORTED, "VM");
    fake.fail_op = NULL;
    fake_close(virtx);
}
END_TEST

START_TEST(engines)
{
    struct virtx_config open_config = fake_config();
    struct virtx_vm_config config = vm_config();
    struct virtx_vm *vm;

    /* The first that works, in the embedder's order; or the one asked for. */
    ck_assert_int_eq(virtx_open(&open_config, &virtx, NULL), VIRTX_OK);
    vm = fake_vm(virtx);
    ck_assert_ptr_eq(vm->paging, &fake_nested);
    ck_assert_int_eq(virtx_vm_destroy(vm), VIRTX_OK);
    config.paging = &fake_shadow;
    ck_assert_int_eq(virtx_vm_create(virtx, &config, &vm), VIRTX_OK);
    ck_assert_ptr_eq(vm->paging, &fake_shadow);
    ck_assert_int_eq(virtx_vm_destroy(vm), VIRTX_OK);
    ck_assert_int_eq(virtx_close(virtx), VIRTX_OK);

    open_config.disable = VIRTX_FEATURE_NESTED_PAGING;
    ck_assert_int_eq(virtx_open(&open_config, &virtx, NULL), VIRTX_OK);
    vm = fake_vm(virtx);
    ck_assert_ptr_eq(vm->paging, &fake_shadow);
    ck_assert_int_eq(virtx_vm_destroy(vm), VIRTX_OK);
    config.paging = &fake_nested;
    refused(&config, VIRTX_E_UNSUPPORTED, "config.paging");
    ck_assert_int_eq(virtx_close(virtx), VIRTX_OK);
}
END_TEST

START_TEST(life)
{
    struct virtx_vm *vm, *other;
    struct virtx_vcpu *vcpu;

    virtx = fake_open();
    vm = fake_vm(virtx);
    other = fake_vm(virtx);
    ck_assert_uint_eq(vm->config.max_vcpus, 255);
    ck_assert_int_eq(virtx_vm_last_error(vm)->status, VIRTX_OK);
    ck_assert_int_eq(virtx_close(virtx), VIRTX_E_BUSY);
    fake_error(virtx_last_error(virtx), VIRTX_E_BUSY, "virtx");
    vcpu = fake_vcpu(vm, 3);
    ck_assert_int_eq(virtx_vm_destroy(vm), VIRTX_E_BUSY);
    fake_error(virtx_vm_last_error(vm), VIRTX_E_BUSY, "VM");
    ck_assert_uint_eq(virtx_vm_last_error(vm)->value, 1);
    ck_assert_int_eq(virtx_vcpu_destroy(vcpu), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_destroy(vm), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_destroy(other), VIRTX_OK);
    fake_close(virtx);
}
END_TEST

/* A session that allocates in every way there is. Any status it meets is VIRTX_OK or the shortage.
 */
static bool shortage(enum virtx_status status)
{
    ck_assert(status == VIRTX_OK || status == VIRTX_E_NO_MEMORY);
    return status != VIRTX_OK;
}

static enum virtx_verdict handler(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    (void)vcpu;
    (void)exit;
    (void)ctx;
    return VIRTX_TO_LOOP;
}

static void use_vm(struct virtx_vm *vm, uint8_t *memory, unsigned *shortages)
{
    struct virtx_memslot_config slot_config = {.size = sizeof(slot_config),
                                               .rights = VIRTX_READ | VIRTX_WRITE,
                                               .type = VIRTX_MEMORY_WB,
                                               .flags = VIRTX_MEMSLOT_DIRTY_LOG,
                                               .gpa = 0x10000,
                                               .bytes = 0x4000,
                                               .memory = memory};
    struct virtx_intercept_config port = {.size = sizeof(port),
                                          .kind = VIRTX_INTERCEPT_PORT,
                                          .access = VIRTX_READ,
                                          .first = 0x60,
                                          .last = 0x64,
                                          .handler = handler};
    struct virtx_memslot *slot;
    struct virtx_intercept *intercept;
    struct virtx_memslot_config seen;
    struct virtx_vcpu *vcpu;

    if (!shortage(virtx_memslot_add(vm, &slot_config, &slot))) {
        if (shortage(virtx_memslot_move(slot, 0x20000, NULL))) {
            ++*shortages;
            virtx_memslot_query(slot, &seen);
            ck_assert_uint_eq(seen.gpa, 0x10000);
            ck_assert_ptr_eq(virtx_gpa_pointer(vm, 0x10000, 1, VIRTX_READ), memory);
            ck_assert_ptr_null(virtx_gpa_pointer(vm, 0x20000, 1, VIRTX_READ));
        }
        if (shortage(virtx_memslot_protect(slot, VIRTX_READ, NULL))) {
            ++*shortages;
            virtx_memslot_query(slot, &seen);
            ck_assert_uint_eq(seen.rights, VIRTX_READ | VIRTX_WRITE);
        }
        *shortages += shortage(virtx_memslot_log(slot, false));
        *shortages += shortage(virtx_memslot_log(slot, true));
        if (shortage(virtx_memslot_remove(slot, NULL))) {
            ++*shortages;
            virtx_memslot_query(slot, &seen);
            ck_assert_uint_eq(seen.bytes, 0x4000);
        }
    } else {
        ++*shortages;
        ck_assert_ptr_null(virtx_gpa_pointer(vm, 0x10000, 1, VIRTX_READ));
    }
    if (shortage(virtx_vcpu_create(vm, 0, &vcpu))) {
        ++*shortages;
        return;
    }
    if (!shortage(virtx_vm_intercept(vm, &port, &intercept))) {
        ck_assert_ptr_nonnull(virtx_rule_find(vcpu, VIRTX_INTERCEPT_PORT, 0x60, VIRTX_READ));
        *shortages += shortage(virtx_vcpu_intercept(vcpu, &port, NULL));
        *shortages += shortage(virtx_intercept_remove(intercept));
    } else {
        ++*shortages;
        ck_assert_ptr_null(virtx_rule_find(vcpu, VIRTX_INTERCEPT_PORT, 0x60, VIRTX_READ));
    }
    ck_assert_int_eq(virtx_vcpu_destroy(vcpu), VIRTX_OK);
}

/* Returns how many calls failed for want of memory. */
static unsigned session(uint8_t *memory)
{
    struct virtx_config config = fake_config();
    struct virtx_vm_config wanted = vm_config();
    struct virtx_vm *vm;
    unsigned shortages = 0;

    wanted.pool_reserve = 3;
    if (shortage(virtx_open(&config, &virtx, NULL)))
        return 1;
    if (shortage(virtx_cpu_enable(virtx))) {
        shortages++;
    } else if (shortage(virtx_vm_create(virtx, &wanted, &vm))) {
        shortages++;
        ck_assert_int_eq(virtx_last_error(virtx)->status, VIRTX_E_NO_MEMORY);
    } else {
        use_vm(vm, memory, &shortages);
        ck_assert_int_eq(virtx_vm_destroy(vm), VIRTX_OK);
    }
    virtx_cpu_disable(virtx);
    ck_assert_int_eq(virtx_close(virtx), VIRTX_OK);
    return shortages;
}

START_TEST(every_allocation_fails_once)
{
    uint8_t *memory = fake_memory(4);
    unsigned all;

    ck_assert_uint_eq(session(memory), 0);
    ck_assert_uint_eq(fake.pages, 0);
    all = fake.allocations;
    ck_assert_uint_gt(all, 20);
    for (unsigned n = 1; n <= all; n++) {
        fake.fail_at = n;
        ck_assert_msg(session(memory) >= 1, "allocation %u failed and nobody said so", n);
        ck_assert_msg(fake.pages == 0, "allocation %u failed and left %zu pages", n, fake.pages);
        fake.fail_at = 0;
    }
    free(memory);
}
END_TEST

START_TEST(pool_bound)
{
    struct virtx_vm_config config = vm_config();
    struct virtx_stats stats;
    struct virtx_vm *vm;
    void *page[8];
    size_t pages;

    virtx = fake_open();
    config.pool_pages = 4;
    config.pool_reserve = 2;
    ck_assert_int_eq(virtx_vm_create(virtx, &config, &vm), VIRTX_OK);
    /* The engine has taken its root; one of the reserve is left. */
    pages = fake.pages;
    page[0] = virtx_pool_get(vm);
    ck_assert_ptr_nonnull(page[0]);
    ck_assert_uint_eq(fake.pages, pages);
    page[1] = virtx_pool_get(vm);
    page[2] = virtx_pool_get(vm);
    ck_assert_uint_eq(fake.pages, pages + 2);
    ck_assert_ptr_nonnull(page[2]);
    ck_assert_ptr_null(virtx_pool_get(vm)); /* the bound */
    virtx_vm_stats(vm, &stats);
    ck_assert_uint_eq(stats.table_pages, 4);
    ck_assert_int_eq(virtx_vm_pool_fill(vm, 1), VIRTX_E_NO_MEMORY);
    fake_error(virtx_vm_last_error(vm), VIRTX_E_NO_MEMORY, "config.pool_pages");

    memset(page[1], 0xff, VIRTX_PAGE_SIZE);
    virtx_pool_put(vm, page[1], 0);
    ck_assert_ptr_eq(virtx_pool_get(vm), page[1]); /* at once, and zeroed */
    for (unsigned i = 0; i < VIRTX_PAGE_SIZE; i++)
        ck_assert_uint_eq(((uint8_t *)page[1])[i], 0);
    for (unsigned i = 0; i < 3; i++)
        virtx_pool_put(vm, page[i], 0);
    ck_assert_int_eq(virtx_vm_pool_fill(vm, 3), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_pool_fill(vm, 4), VIRTX_E_NO_MEMORY);
    ck_assert_int_eq(virtx_vm_destroy(vm), VIRTX_OK);
    fake_close(virtx);
}
END_TEST

START_TEST(pool_top_up)
{
    struct virtx_vm *vm;
    size_t pages;

    virtx = fake_open();
    vm = fake_vm(virtx);
    pages = fake.pages;
    fake.fail_at = 3;
    ck_assert_int_eq(virtx_vm_pool_fill(vm, 10), VIRTX_E_NO_MEMORY);
    ck_assert_uint_eq(fake.pages, pages + 2); /* what could be had is kept */
    ck_assert_int_eq(virtx_vm_pool_fill(vm, 10), VIRTX_OK);
    ck_assert_uint_eq(fake.pages, pages + 10);
    /* From here on faults allocate nothing. */
    fake.fail_at = 1;
    for (unsigned i = 0; i < 10; i++)
        virtx_pool_put(vm, virtx_pool_get(vm), 0);
    ck_assert_uint_eq(fake.fail_at, 1);
    fake.fail_at = 0;
    ck_assert_int_eq(virtx_vm_destroy(vm), VIRTX_OK);
    fake_close(virtx);
}
END_TEST

START_TEST(memory)
{
    struct virtx_vm *vm;
    struct virtx_memslot *rom;
    uint8_t *low = fake_memory(2), *high = fake_memory(40);
    uint8_t *out = malloc(0x22000), *in = malloc(0x22000);

    for (unsigned i = 0; i < 0x22000; i++)
        in[i] = (uint8_t)(i * 7 + i / 256);
    virtx = fake_open();
    vm = fake_vm(virtx);
    rom = fake_slot(vm, 0x1000, 2, low);
    fake_slot(vm, 0x3000, 40, high); /* adjacent in the guest, not in the host */
    ck_assert_int_eq(virtx_memslot_protect(rom, VIRTX_READ, NULL), VIRTX_OK);

    /* Across slots, and across the copy's own chunks; a read-only slot is no obstacle. */
    ck_assert_int_eq(virtx_vm_write(vm, 0x1010, in, 0x22000), VIRTX_OK);
    ck_assert_mem_eq(low + 0x10, in, 0x1ff0);
    ck_assert_mem_eq(high, in + 0x1ff0, 0x22000 - 0x1ff0);
    ck_assert_int_eq(virtx_vm_read(vm, 0x1010, out, 0x22000), VIRTX_OK);
    ck_assert_mem_eq(out, in, 0x22000);
    ck_assert_int_eq(virtx_vm_write(vm, 0, in, 0), VIRTX_OK); /* nothing is everywhere */

    /* Part of it is not memory: nothing is written. */
    memset(low, 0, 0x2000);
    ck_assert_int_eq(virtx_vm_read(vm, 0x1010, NULL, 8), VIRTX_E_INVALID);
    ck_assert_str_eq(virtx_vm_last_error(vm)->what, "buffer");
    ck_assert_int_eq(virtx_vm_write(vm, 0x1010, NULL, 8), VIRTX_E_INVALID);
    ck_assert_int_eq(virtx_vm_write(vm, 0xfff, in, 2), VIRTX_E_NOT_FOUND);
    fake_error(virtx_vm_last_error(vm), VIRTX_E_NOT_FOUND, "gpa, bytes");
    ck_assert_uint_eq(low[0], 0);
    memset(high + 0x27ff0, 0, 16);
    ck_assert_int_eq(virtx_vm_write(vm, 0x2aff0, in, 17), VIRTX_E_NOT_FOUND);
    ck_assert_uint_eq(high[0x27ff0], 0);
    ck_assert_int_eq(virtx_vm_read(vm, 0x2aff0, out, 17), VIRTX_E_NOT_FOUND);
    ck_assert_int_eq(virtx_vm_read(vm, UINT64_MAX - 3, out, 8), VIRTX_E_NOT_FOUND);
    ck_assert_int_eq(virtx_vm_write(vm, UINT64_MAX - 3, in, 8), VIRTX_E_NOT_FOUND);

    /* A page that the embedder has taken away is not touched. */
    fake.away = high + 0x1000;
    ck_assert_int_eq(virtx_vm_read(vm, 0x3ff8, out, 8), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_read(vm, 0x3ff8, out, 9), VIRTX_E_NOT_FOUND);
    ck_assert_int_eq(virtx_vm_write(vm, 0x4800, in, 1), VIRTX_E_NOT_FOUND);

    /* The vcpu's way of writing obeys the rights. */
    ck_assert_int_eq(virtx_gpa_write(vm, 0x1000, in, 4, false), VIRTX_E_NOT_FOUND);
    ck_assert_int_eq(virtx_gpa_write(vm, 0x1000, in, 4, true), VIRTX_OK);
    ck_assert_ptr_null(virtx_gpa_pointer(vm, 0x1000, 4, VIRTX_WRITE));
    ck_assert_ptr_eq(virtx_gpa_pointer(vm, 0x1ffc, 4, VIRTX_READ), low + 0xffc);
    ck_assert_ptr_null(virtx_gpa_pointer(vm, 0x1ffc, 5, VIRTX_READ)); /* crosses a page */
    ck_assert_ptr_null(virtx_gpa_pointer(vm, 0x4000, 4, VIRTX_READ)); /* away */
    ck_assert_int_eq(virtx_vm_destroy(vm), VIRTX_OK);
    fake_close(virtx);
    free(low);
    free(high);
    free(in);
    free(out);
}
END_TEST

START_TEST(stats)
{
    const struct virtx_exit *exit;
    struct virtx_vcpu *a, *b;
    struct virtx_stats sum;
    struct virtx_vm *vm;

    virtx = fake_open();
    vm = fake_vm(virtx);
    a = fake_vcpu(vm, 0);
    b = fake_vcpu(vm, 1);
    ck_assert_int_eq(virtx_vcpu_run(a, &exit), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_run(a, &exit), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_run(b, &exit), VIRTX_OK);
    a->stats.exits[31] = 5;
    b->stats.fpu_switches = 9;
    virtx_vcpu_stats(a, &sum);
    ck_assert_uint_eq(sum.returns, 2);
    virtx_vm_stats(vm, &sum);
    ck_assert_uint_eq(sum.returns, 3);
    ck_assert_uint_eq(sum.exits[31], 5);
    ck_assert_uint_eq(sum.fpu_switches, 9);
    ck_assert_uint_eq(sum.table_pages, 1);
    ck_assert_int_eq(virtx_vcpu_destroy(a), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_destroy(b), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_destroy(vm), VIRTX_OK);
    fake_close(virtx);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("vm");
    TCase *tests = fake_case(suite, "vm");

    tcase_add_test(tests, refusals);
    tcase_add_test(tests, engines);
    tcase_add_test(tests, life);
    tcase_add_test(tests, every_allocation_fails_once);
    tcase_add_test(tests, pool_bound);
    tcase_add_test(tests, pool_top_up);
    tcase_add_test(tests, memory);
    tcase_add_test(tests, stats);
    return fake_main(suite);
}
