/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Every call that may allocate, on a live VM, with its n-th allocation refused, for every n until
 * it succeeds: it says VIRTX_E_NO_MEMORY with a detail, trying again does not lose pages, what
 * there was before works as before, and in the end nothing is left. With both paging engines; the
 * objects and src/hw are the real ones, the vendor is a model.
 *
 * Seen to fail with: a log not freed when memslot_add() or memslot_log() finds no table; the table
 * of a move's hole not freed; rights changed before the table is had; an intercept not taken back
 * when its rules find no page; a vcpu's first page not freed without its second, or its FPU area
 * when it fails later; table_map() keeping the pages that it did not use.
 */
#include "hw_world.h"
#include "vmx/vmx.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE  4096u
#define PAGES 16u
#define VALUE 0x1122334455667788ull

static size_t held;      /* pages that the library has */
static unsigned refused; /* the n-th allocation from now on fails; 0: none */
static unsigned asked;
static uint8_t *ram, *more;
static struct virtx *virtx;
static struct virtx_vm *vm, *made_vm;
static struct virtx_vcpu *vcpu, *made_vcpu;
static struct virtx_memslot *slot, *made_slot;
static struct virtx_intercept *made;
static uint64_t fault_at;
static uint64_t next_gpa;

/* ---- Host ---- */

/* All memory is low, as the shadow engine needs for guests without long mode. */
#define ARENA  4096u
#define BOTTOM 0x100000u
static _Alignas(PAGE) uint8_t arena[ARENA * PAGE];
static bool taken[ARENA];

static void *pages_alloc(void *ctx, size_t count)
{
    size_t run = 0;

    (void)ctx;
    asked++;
    if (refused && --refused == 0)
        return NULL;
    for (size_t i = 0; i < ARENA; i++) {
        run = taken[i] ? 0 : run + 1;
        if (run < count)
            continue;
        memset(taken + i + 1 - count, true, count);
        memset(arena + (i + 1 - count) * PAGE, 0xa5, count * PAGE);
        held += count;
        return arena + (i + 1 - count) * PAGE;
    }
    ck_abort_msg("more pages than the test has");
}

static void pages_free(void *ctx, void *pages, size_t count)
{
    size_t first = (size_t)((uint8_t *)pages - arena) / PAGE;

    (void)ctx;
    for (size_t i = first; i < first + count; i++) {
        ck_assert_msg(taken[i], "a page is given back that is not out");
        taken[i] = false;
    }
    held -= count;
}

static uint64_t virt_to_phys(void *ctx, const void *va)
{
    (void)ctx;
    return (uint64_t)((const uint8_t *)va - arena) + BOTTOM;
}

static void *phys_to_virt(void *ctx, uint64_t hpa)
{
    (void)ctx;
    return arena + (hpa - BOTTOM);
}

static uint32_t this_cpu(void *ctx)
{
    (void)ctx;
    return world.this_cpu;
}

static void kick_cpu(void *ctx, uint32_t cpu)
{
    (void)ctx;
    (void)cpu;
}

static const struct virtx_host_ops host_ops = {
    .size = sizeof(struct virtx_host_ops),
    .pages_alloc = pages_alloc,
    .pages_free = pages_free,
    .virt_to_phys = virt_to_phys,
    .phys_to_virt = phys_to_virt,
    .this_cpu = this_cpu,
    .kick_cpu = kick_cpu,
};

/* ---- Processor ---- */

static void set_root(struct hw_vcpu *hv, uint64_t hpa)
{
    (void)hv;
    ck_assert_uint_ne(hpa, 0);
}

static void engine(struct hw_vcpu *hv)
{
    (void)hv;
}

/* The guest touches a page once, and is interrupted. */
static enum virtx_status enter(struct hw_vcpu *hv)
{
    hv->dirty = 0;
    hv->vcpu->exit.rip = hv->state.rip;
    hv->vcpu->exit.length = 0;
    exit_interrupt(hv);
    if (fault_at != UINT64_MAX) {
        hv->vcpu->exit.reason = HW_EXIT_PAGE_FAULT;
        hv->fault = (struct virtx_page_fault){
            .gpa = fault_at, .gva = fault_at, .gva_valid = true, .access = VIRTX_READ};
        fault_at = UINT64_MAX;
    }
    return VIRTX_OK;
}

static enum virtx_status probe(struct virtx *v, uint64_t disable, struct virtx_caps *caps,
                               struct virtx_error *error)
{
    return world_vendor.probe(v, disable, caps, error);
}

static const struct virtx_backend *backends[2];
static const struct virtx_paging *engines[3];
static const struct virtx_config config = {.size = sizeof(config),
                                           .max_cpus = 4,
                                           .ops = &host_ops,
                                           .profile = &virtx_profile_kernel,
                                           .backends = backends,
                                           .paging = engines};

/* ---- The calls ---- */

static struct virtx_memslot_config slot_config(uint64_t gpa, void *memory, uint32_t flags)
{
    return (struct virtx_memslot_config){.size = sizeof(struct virtx_memslot_config),
                                         .rights = VIRTX_READ | VIRTX_WRITE | VIRTX_EXECUTE,
                                         .type = VIRTX_MEMORY_WB,
                                         .flags = flags,
                                         .gpa = gpa,
                                         .bytes = PAGES * PAGE,
                                         .memory = memory};
}

static enum virtx_status call_cpu_enable(void)
{
    enum virtx_status status;

    world.this_cpu = 2;
    status = virtx_cpu_enable(virtx);
    if (status == VIRTX_OK)
        ck_assert_int_eq(virtx_cpu_disable(virtx), VIRTX_OK);
    world.this_cpu = 0;
    return status;
}

static enum virtx_status call_vm_create(void)
{
    struct virtx_vm_config wanted = {.size = sizeof(wanted), .pool_reserve = 5};

    return virtx_vm_create(virtx, &wanted, &made_vm);
}

static enum virtx_status call_vcpu_create(void)
{
    return virtx_vcpu_create(vm, 1, &made_vcpu);
}

static enum virtx_status call_memslot_add(void)
{
    struct virtx_memslot_config wanted = slot_config(0x100000, more, VIRTX_MEMSLOT_DIRTY_LOG);

    return virtx_memslot_add(vm, &wanted, &made_slot);
}

static enum virtx_status call_memslot_move(void)
{
    return virtx_memslot_move(made_slot, next_gpa, NULL);
}

static enum virtx_status call_memslot_protect(void)
{
    return virtx_memslot_protect(made_slot, VIRTX_READ, NULL);
}

static enum virtx_status call_log_off(void)
{
    return virtx_memslot_log(made_slot, false);
}

static enum virtx_status call_log_on(void)
{
    return virtx_memslot_log(made_slot, true);
}

static enum virtx_status call_memslot_remove(void)
{
    return virtx_memslot_remove(made_slot, NULL);
}

static struct virtx_intercept_config port(uint64_t number)
{
    return (struct virtx_intercept_config){.size = sizeof(struct virtx_intercept_config),
                                           .kind = VIRTX_INTERCEPT_PORT,
                                           .access = VIRTX_READ | VIRTX_WRITE,
                                           .action = VIRTX_ACTION_ALLOW,
                                           .first = number,
                                           .last = number};
}

static enum virtx_status call_vm_intercept(void)
{
    struct virtx_intercept_config wanted = port(0x80);

    return virtx_vm_intercept(vm, &wanted, &made);
}

static enum virtx_status call_intercept_remove(void)
{
    return virtx_intercept_remove(made);
}

static enum virtx_status call_vcpu_intercept(void)
{
    struct virtx_intercept_config wanted = port(0x90);

    return virtx_vcpu_intercept(vcpu, &wanted, &made);
}

static enum virtx_status call_vm_cpuid(void)
{
    return virtx_vm_cpuid_set(vm, &(struct virtx_cpuid_entry){.leaf = 0x80000002});
}

/* Without SYSENTER the vcpu's MSR bitmap is its own, where the vendor has one. */
static enum virtx_status call_vcpu_cpuid(void)
{
    struct virtx_cpuid_entry one;

    ck_assert_int_eq(virtx_vcpu_cpuid_get(vcpu, 1, 0, &one), VIRTX_OK);
    one.edx &= ~(1u << 11);
    return virtx_vcpu_cpuid_set(vcpu, &one);
}

static enum virtx_status call_pool_fill(void)
{
    return virtx_vm_pool_fill(vm, 40);
}

/* A page of the guest that has no translation yet: the tables for it, or none. */
static enum virtx_status call_run(void)
{
    const struct virtx_exit *exit;

    fault_at = 0x3000;
    return virtx_vcpu_run(vcpu, &exit);
}

/* There and, without a fault, back. */
static enum virtx_status call_set_paging(void)
{
    enum virtx_status status = virtx_vm_set_paging(vm, engines[1]);
    unsigned until_here = asked;

    refused = 0;
    if (status == VIRTX_OK)
        ck_assert_int_eq(virtx_vm_set_paging(vm, engines[0]), VIRTX_OK);
    asked = until_here;
    return status;
}

struct call {
    const char *name;
    enum virtx_status (*call)(void);
    unsigned least; /* allocations that it must make, or the test shows nothing */
    bool keeps;     /* on failure, what could be had */
};

static const struct call calls[] = {
    {"cpu_enable", call_cpu_enable, 1, false},
    {"vm_create", call_vm_create, 5, false},
    {"vcpu_create", call_vcpu_create, 4, false},
    {"run, with a page fault", call_run, 1, false},
    {"vm_set_paging", call_set_paging, 1, false},
    {"memslot_add", call_memslot_add, 2, false},
    {"memslot_move", call_memslot_move, 2, false},
    {"memslot_protect", call_memslot_protect, 1, false},
    {"memslot_log off", call_log_off, 1, false},
    {"memslot_log on", call_log_on, 2, false},
    {"memslot_remove", call_memslot_remove, 1, false},
    {"vm_intercept", call_vm_intercept, 1, false},
    {"intercept_remove", call_intercept_remove, 0, false}, /* no rule is left: no table */
    {"vcpu_intercept", call_vcpu_intercept, 1, false},
    {"intercept_remove, a vcpu's", call_intercept_remove, 0, false},
    {"vm_cpuid_set", call_vm_cpuid, 1, false},
    {"vcpu_cpuid_set", call_vcpu_cpuid, 1, false},
    {"pool_fill", call_pool_fill, 3, true},
};

/* ---- Tests ---- */

/* What there was before is still there. */
static void still_works(const char *name)
{
    const struct virtx_exit *exit;
    struct virtx_memslot_config now;
    uint64_t value = 0;

    fault_at = UINT64_MAX;
    ck_assert_msg(virtx_vcpu_run(vcpu, &exit) == VIRTX_OK, "after %s run fails", name);
    ck_assert_uint_eq(exit->reason, VIRTX_EXIT_INTERRUPT);
    ck_assert_int_eq(virtx_vm_read(vm, 0x2000, &value, sizeof(value)), VIRTX_OK);
    ck_assert_uint_eq(value, VALUE);
    virtx_memslot_query(slot, &now);
    ck_assert_uint_eq(now.gpa, 0);
    ck_assert_uint_eq(now.flags, 0);
    if (made_slot) {
        ck_assert_int_eq(virtx_vm_write(vm, next_gpa - 0x100000, &value, 1), VIRTX_OK);
        virtx_memslot_query(made_slot, &now);
        ck_assert_uint_eq(now.gpa, next_gpa - 0x100000);
    }
}

/* Whoever failed may have filled its stock; failing again takes no more. */
static void fail_everywhere(const struct call *c)
{
    bool helps = vm->paging == &virtx_paging_shadow || c->call == call_set_paging;
    unsigned n;

    for (n = 1;; n++) {
        size_t before = 0;
        enum virtx_status status = VIRTX_OK;

        for (unsigned again = 0; again < 3; again++) {
            refused = n;
            asked = 0;
            status = c->call();
            refused = 0;
            if (status == VIRTX_OK)
                break;
            ck_assert_msg(status == VIRTX_E_NO_MEMORY, "%s: allocation %u: status %d", c->name, n,
                          status);
            virtx_vm_settled(vm, virtx_vm_generation(vm), false);
            still_works(c->name);
            if (again == 1)
                before = held;
            ck_assert_msg(again < 2 || held <= before || c->keeps,
                          "%s: allocation %u: %zu pages lost", c->name, n, held - before);
        }
        /* The shadow engine may have found a page among those of its own that it does not need. */
        if (status == VIRTX_OK && (asked < n || helps))
            break;
        ck_assert_msg(status != VIRTX_OK, "%s: allocation %u failed and nobody said so", c->name,
                      n);
    }
    ck_assert_msg(helps || n > c->least, "%s allocates %u times only", c->name, n - 1);
    printf("%s: %u\n", c->name, n - 1);
}

static void begin(struct virtx_hw *vendor, struct virtx_backend *backend, bool nested)
{
    struct virtx_memslot_config first;
    uint64_t value = VALUE;

    *vendor = world_vendor;
    vendor->nested = &vmx_ept;
    vendor->set_root = set_root;
    vendor->enter = enter;
    vendor->engine = engine;
    vendor->probe = probe;
    backends[0] = backend;
    engines[0] = nested ? &virtx_paging_nested : &virtx_paging_shadow;
    engines[1] = nested ? &virtx_paging_shadow : &virtx_paging_nested;
    memset(&world, 0, sizeof(world));
    world.flags = RFLAGS_FIXED;
    world.can_interrupt = world.can_nmi = true;
    world.cr[0] = CR0_PE | CR0_PG;
    world.cr[4] = CR4_OSFXSR | CR4_OSXSAVE;
    world.xcr0 = 1;
    world.dr[7] = 0x400;
    fault_at = UINT64_MAX;
    memset(taken, 0, sizeof(taken));
    ram = arena;
    more = ram + PAGES * PAGE;
    memset(taken, true, 2 * (size_t)PAGES);
    for (unsigned n = 1;; n++) {
        refused = n;
        asked = 0;
        if (virtx_open(&config, &virtx, NULL) == VIRTX_OK)
            break;
        ck_assert_uint_eq(held, 0);
    }
    refused = 0;
    ck_assert_int_eq(virtx_cpu_enable(virtx), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_create(virtx, NULL, &vm), VIRTX_OK);
    first = slot_config(0, ram, 0);
    ck_assert_int_eq(virtx_memslot_add(vm, &first, &slot), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_write(vm, 0x2000, &value, sizeof(value)), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_create(vm, 0, &vcpu), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_reset(vcpu, VIRTX_PRESET_FLAT32), VIRTX_OK);
    made_slot = NULL;
    next_gpa = 0x200000;
}

START_TEST(every_call)
{
    struct virtx_hw vendor;
    struct virtx_backend backend = HW_BACKEND("model", &vendor, sizeof(struct hw_cpu),
                                              sizeof(struct hw_vm), sizeof(struct hw_vcpu));

    begin(&vendor, &backend, _i == 0);
    for (unsigned i = 0; i < ARRAY_SIZE(calls); i++) {
        fail_everywhere(&calls[i]);
        if (calls[i].call == call_memslot_move)
            next_gpa += 0x100000;
        if (calls[i].call == call_memslot_remove)
            made_slot = NULL;
    }
    ck_assert_int_eq(virtx_vcpu_destroy(vcpu), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_destroy(made_vcpu), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_destroy(vm), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_destroy(made_vm), VIRTX_OK);
    ck_assert_int_eq(virtx_cpu_disable(virtx), VIRTX_OK);
    ck_assert_int_eq(virtx_close(virtx), VIRTX_OK);
    ck_assert_uint_eq(held, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("no_memory");
    TCase *tests = tcase_create("no_memory");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, every_call, 0, 2);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
