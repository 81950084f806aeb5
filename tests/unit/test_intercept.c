/* SPDX-License-Identifier: BSD-2-Clause */
/* Intercepts: refusals, lookup against a list searched from its start, precedence, dispatch. */
#include "fake.h"

#include <stdlib.h>
#include <string.h>

#define BOTH (VIRTX_READ | VIRTX_WRITE)

static struct virtx *virtx;
static struct virtx_vm *vm;
static struct virtx_vcpu *vcpu;

static void begin(void)
{
    virtx = fake_open();
    vm = fake_vm(virtx);
    vcpu = fake_vcpu(vm, 0);
}

static void end(void)
{
    ck_assert_int_eq(virtx_vcpu_destroy(vcpu), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_destroy(vm), VIRTX_OK);
    fake_close(virtx);
}

static struct virtx_intercept_config range(uint32_t kind, uint32_t access, uint64_t first,
                                           uint64_t last)
{
    return (struct virtx_intercept_config){.size = sizeof(struct virtx_intercept_config),
                                           .kind = kind,
                                           .access = access,
                                           .first = first,
                                           .last = last};
}

static void refused(const struct virtx_intercept_config *config, enum virtx_status status,
                    const char *what)
{
    const struct rule_table *rules = virtx_vm_rules(vm);
    struct virtx_intercept *intercept = NULL;

    ck_assert_int_eq(virtx_vm_intercept(vm, config, &intercept), status);
    fake_error(virtx_vm_last_error(vm), status, what);
    ck_assert_int_eq(virtx_vcpu_intercept(vcpu, config, &intercept), status);
    fake_error(virtx_vcpu_last_error(vcpu), status, what);
    ck_assert_ptr_null(intercept);
    ck_assert_ptr_eq(virtx_vm_rules(vm), rules);
    ck_assert_ptr_null(virtx_vcpu_rules(vcpu));
    ck_assert_uint_eq(vcpu->requests, 0);
}

START_TEST(refusals)
{
    static const struct {
        uint32_t kind;
        uint64_t last;
        bool access;
    } kinds[] = {
        {VIRTX_INTERCEPT_PORT, 0xffff, true},
        {VIRTX_INTERCEPT_MSR, UINT32_MAX, true},
        {VIRTX_INTERCEPT_CPUID, UINT32_MAX, false},
        {VIRTX_INTERCEPT_EXCEPTION, 31, false},
        {VIRTX_INTERCEPT_CR, 15, true},
        {VIRTX_INTERCEPT_DR, 7, true},
        {VIRTX_INTERCEPT_HYPERCALL, 0, false},
        {VIRTX_INTERCEPT_INSTRUCTION, VIRTX_INSN_COUNT - 1, false},
    };
    struct virtx_intercept_config config;

    begin();
    vcpu->requests = 0;
    refused(NULL, VIRTX_E_INVALID, "config");
    config = range(VIRTX_INTERCEPT_PORT, VIRTX_READ, 0, 0);
    config.size--;
    refused(&config, VIRTX_E_SIZE, "config.size");
    config = range(VIRTX_INTERCEPT_KIND_COUNT, 0, 0, 0);
    refused(&config, VIRTX_E_INVALID, "config.kind");
    for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
        config = range(kinds[i].kind, kinds[i].access ? VIRTX_READ : 0, 0, kinds[i].last + 1);
        refused(&config, VIRTX_E_RANGE, "config.first, last");
        config = range(kinds[i].kind, kinds[i].access ? 0 : VIRTX_READ, 0, 0);
        refused(&config, VIRTX_E_INVALID, "config.access");
        config = range(kinds[i].kind, kinds[i].access ? VIRTX_READ : 0, 0, 0);
        config.action = VIRTX_ACTION_DEFAULT + 1;
        refused(&config, VIRTX_E_INVALID, "config.action");
        if (kinds[i].kind != VIRTX_INTERCEPT_PORT && kinds[i].kind != VIRTX_INTERCEPT_MSR) {
            config.action = VIRTX_ACTION_ALLOW;
            refused(&config, VIRTX_E_INVALID, "config.action");
        }
    }
    config = range(VIRTX_INTERCEPT_MMIO, VIRTX_EXECUTE, 0, 0);
    refused(&config, VIRTX_E_INVALID, "config.access");
    config = range(VIRTX_INTERCEPT_PORT, VIRTX_READ, 5, 4);
    refused(&config, VIRTX_E_RANGE, "config.first, last");
    config = range(VIRTX_INTERCEPT_PORT, VIRTX_READ, 0, 0);
    config.mask = 1;
    refused(&config, VIRTX_E_INVALID, "config.mask, match");
    config = range(VIRTX_INTERCEPT_CR, VIRTX_WRITE, 0, 0);
    config.match = 1;
    refused(&config, VIRTX_E_INVALID, "config.mask, match");
    config = range(VIRTX_INTERCEPT_EXCEPTION, 0, 14, 14);
    config.mask = 2;
    config.match = 3;
    refused(&config, VIRTX_E_INVALID, "config.match");

    /* What the processor cannot do, and what the backend fails to set up. */
    config = range(VIRTX_INTERCEPT_PORT, BOTH, 0, 0);
    fake.fail_status = VIRTX_E_UNSUPPORTED;
    fake.fail_op = "intercept_check";
    refused(&config, VIRTX_E_UNSUPPORTED, "config.kind");
    fake.fail_op = NULL;
    fake.fail_at = 1;
    ck_assert_int_eq(virtx_vm_intercept(vm, &config, NULL), VIRTX_E_NO_MEMORY);
    fake.fail_at = 1;
    ck_assert_int_eq(virtx_vm_intercept(vm, &config, NULL), VIRTX_E_NO_MEMORY);
    fake.fail_at = 0;
    ck_assert_ptr_null(vm->intercepts);
    fake.fail_op = "intercept_changed";
    fake.fail_status = VIRTX_E_NO_MEMORY;
    ck_assert_int_eq(virtx_vm_intercept(vm, &config, NULL), VIRTX_E_NO_MEMORY);
    fake_error(virtx_vm_last_error(vm), VIRTX_E_NO_MEMORY, "intercept");
    ck_assert_ptr_null(vm->intercepts);
    ck_assert_ptr_null(virtx_vm_rules(vm));
    fake.fail_op = NULL;
    end();
}
END_TEST

START_TEST(overlaps)
{
    struct virtx_intercept_config config = range(VIRTX_INTERCEPT_MSR, VIRTX_READ, 0x10, 0x20);
    struct virtx_intercept *first;

    begin();
    ck_assert_int_eq(virtx_vm_intercept(vm, &config, &first), VIRTX_OK);
    config = range(VIRTX_INTERCEPT_MSR, BOTH, 0x20, 0x30);
    ck_assert_int_eq(virtx_vm_intercept(vm, &config, NULL), VIRTX_E_OVERLAP);
    fake_error(virtx_vm_last_error(vm), VIRTX_E_OVERLAP, "config.first, last");
    ck_assert_uint_eq(virtx_vm_last_error(vm)->value, 0x10);
    /* Another access, another kind, another owner, another range. */
    config.access = VIRTX_WRITE;
    ck_assert_int_eq(virtx_vm_intercept(vm, &config, NULL), VIRTX_OK);
    config = range(VIRTX_INTERCEPT_CPUID, 0, 0x10, 0x20);
    ck_assert_int_eq(virtx_vm_intercept(vm, &config, NULL), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_intercept(vm, &config, NULL), VIRTX_E_OVERLAP);
    config = range(VIRTX_INTERCEPT_MSR, BOTH, 0, UINT32_MAX);
    ck_assert_int_eq(virtx_vcpu_intercept(vcpu, &config, NULL), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_intercept(vcpu, &config, NULL), VIRTX_E_OVERLAP);
    config = range(VIRTX_INTERCEPT_MSR, VIRTX_READ, 0x21, 0x21);
    ck_assert_int_eq(virtx_vm_intercept(vm, &config, NULL), VIRTX_OK);
    /* And again once the first is gone. */
    ck_assert_int_eq(virtx_intercept_remove(first), VIRTX_OK);
    config = range(VIRTX_INTERCEPT_MSR, VIRTX_READ, 0x20, 0x20);
    ck_assert_int_eq(virtx_vm_intercept(vm, &config, NULL), VIRTX_OK);
    end();
}
END_TEST

START_TEST(query_and_removal)
{
    struct virtx_intercept_config config = range(VIRTX_INTERCEPT_INSTRUCTION, 0, VIRTX_INSN_INVD,
                                                 VIRTX_INSN_WBINVD),
                                  seen;
    struct virtx_intercept *intercept, *other;
    bool forced = false;

    begin();
    fake.forced = true;
    ck_assert_int_eq(virtx_vm_intercept(vm, &config, &intercept), VIRTX_OK);
    ck_assert_int_eq(virtx_intercept_query(intercept, &seen, &forced), VIRTX_OK);
    ck_assert(forced);
    ck_assert_mem_eq(&seen, &config, sizeof(config));
    ck_assert_int_eq(virtx_intercept_query(intercept, &seen, NULL), VIRTX_OK);
    ck_assert_int_eq(virtx_intercept_query(intercept, NULL, NULL), VIRTX_E_INVALID);

    /* The vcpus learn of it at their next entry; nobody is kicked for it. */
    ck_assert_uint_ne(vcpu->requests & VIRTX_REQUEST_INTERCEPT, 0);
    ck_assert_uint_eq(fake.ipis, 0);
    config = range(VIRTX_INTERCEPT_PORT, BOTH, 1, 1);
    ck_assert_int_eq(virtx_vm_intercept(vm, &config, &other), VIRTX_OK);
    /* A removal that cannot be carried out leaves the intercept. */
    fake.fail_op = "intercept_changed";
    fake.fail_status = VIRTX_E_NO_MEMORY;
    ck_assert_int_eq(virtx_intercept_remove(other), VIRTX_E_NO_MEMORY);
    fake.fail_op = NULL;
    ck_assert_ptr_nonnull(virtx_rule_find(vcpu, VIRTX_INTERCEPT_PORT, 1, VIRTX_READ));
    fake.fail_at = 1;
    ck_assert_int_eq(virtx_intercept_remove(other), VIRTX_E_NO_MEMORY);
    ck_assert_ptr_nonnull(virtx_rule_find(vcpu, VIRTX_INTERCEPT_PORT, 1, VIRTX_READ));
    ck_assert_int_eq(virtx_intercept_remove(other), VIRTX_OK);
    ck_assert_ptr_null(virtx_rule_find(vcpu, VIRTX_INTERCEPT_PORT, 1, VIRTX_READ));
    ck_assert_ptr_nonnull(virtx_rule_find(vcpu, VIRTX_INTERCEPT_INSTRUCTION, VIRTX_INSN_INVD, 0));
    ck_assert_int_eq(virtx_intercept_remove(intercept), VIRTX_OK);
    ck_assert_ptr_null(virtx_vm_rules(vm)); /* none left: no table to search */
    end();
}
END_TEST

START_TEST(precedence)
{
    struct virtx_intercept_config all = range(VIRTX_INTERCEPT_PORT, BOTH, 0, 0xffff);
    struct virtx_intercept_config own = range(VIRTX_INTERCEPT_PORT, VIRTX_READ, 0x60, 0x60);
    struct virtx_intercept_config hole = range(VIRTX_INTERCEPT_PORT, BOTH, 0x64, 0x65);
    struct virtx_vcpu *other;
    struct virtx_intercept *intercept;
    const struct rule *rule;

    begin();
    other = fake_vcpu(vm, 1);
    all.ctx = &all;
    own.ctx = &own;
    hole.action = VIRTX_ACTION_DEFAULT;
    ck_assert_ptr_null(virtx_rule_find(vcpu, VIRTX_INTERCEPT_PORT, 0x60, VIRTX_READ));
    ck_assert(!virtx_rule_any(vcpu, VIRTX_INTERCEPT_PORT, 0, 0xffff, BOTH));
    ck_assert_int_eq(virtx_vcpu_intercept(vcpu, &own, NULL), VIRTX_OK);
    ck_assert(!virtx_rule_any(other, VIRTX_INTERCEPT_PORT, 0, 0xffff, BOTH));
    ck_assert(virtx_rule_any(vcpu, VIRTX_INTERCEPT_PORT, 0, 0xffff, BOTH));
    ck_assert(!virtx_rule_any(vcpu, VIRTX_INTERCEPT_PORT, 0, 0xffff, VIRTX_WRITE));
    ck_assert(!virtx_rule_any(vcpu, VIRTX_INTERCEPT_PORT, 0x61, 0xffff, BOTH));
    ck_assert(!virtx_rule_any(vcpu, VIRTX_INTERCEPT_PORT, 0, 0x5f, BOTH));
    ck_assert_int_eq(virtx_vm_intercept(vm, &all, NULL), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_intercept(vcpu, &hole, &intercept), VIRTX_OK);

    rule = virtx_rule_find(vcpu, VIRTX_INTERCEPT_PORT, 0x60, VIRTX_READ);
    ck_assert_ptr_eq(rule->ctx, &own);
    rule = virtx_rule_find(vcpu, VIRTX_INTERCEPT_PORT, 0x60, VIRTX_WRITE);
    ck_assert_ptr_eq(rule->ctx, &all); /* its own rule is about reads */
    rule = virtx_rule_find(other, VIRTX_INTERCEPT_PORT, 0x60, VIRTX_READ);
    ck_assert_ptr_eq(rule->ctx, &all);
    ck_assert_ptr_null(virtx_rule_find(vcpu, VIRTX_INTERCEPT_PORT, 0x64, VIRTX_READ));
    ck_assert_ptr_null(virtx_rule_find(vcpu, VIRTX_INTERCEPT_PORT, 0x65, VIRTX_WRITE));
    ck_assert_ptr_nonnull(virtx_rule_find(other, VIRTX_INTERCEPT_PORT, 0x64, VIRTX_READ));
    ck_assert_ptr_nonnull(virtx_rule_find(vcpu, VIRTX_INTERCEPT_PORT, 0x63, VIRTX_READ));
    ck_assert_ptr_null(virtx_rule_find(vcpu, VIRTX_INTERCEPT_MSR, 0x63, VIRTX_READ));
    ck_assert_int_eq(virtx_intercept_remove(intercept), VIRTX_OK);
    ck_assert_ptr_nonnull(virtx_rule_find(vcpu, VIRTX_INTERCEPT_PORT, 0x64, VIRTX_READ));
    ck_assert_int_eq(virtx_vcpu_destroy(other), VIRTX_OK);
    end();
}
END_TEST

/* ---- Random sets against a list ---- */

#define LIST 60u

static uint64_t seed;

static uint32_t next(uint32_t below)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % below;
}

static struct {
    struct virtx_intercept *handle;
    struct virtx_intercept_config config;
    bool vms;
} list[LIST];

static const struct virtx_intercept_config *model_find(bool vms, uint32_t kind, uint64_t value,
                                                       uint32_t access)
{
    for (unsigned i = 0; i < LIST; i++)
        if (list[i].handle && list[i].vms == vms && list[i].config.kind == kind &&
            (!list[i].config.access || (list[i].config.access & access)) &&
            list[i].config.first <= value && value <= list[i].config.last)
            return &list[i].config;
    return NULL;
}

static void compare(uint32_t kind, uint64_t value, uint32_t access)
{
    const struct virtx_intercept_config *model = model_find(false, kind, value, access);
    const struct rule *rule = virtx_rule_find(vcpu, kind, value, access);

    if (!model)
        model = model_find(true, kind, value, access);
    if (!model || model->action == VIRTX_ACTION_DEFAULT) {
        ck_assert_ptr_null(rule);
    } else {
        ck_assert_ptr_nonnull(rule);
        ck_assert_ptr_eq(rule->ctx, model->ctx);
        ck_assert_uint_eq(rule->first, model->first);
    }
}

START_TEST(random_rules)
{
    begin();
    seed = 99 + (unsigned)_i;
    memset(list, 0, sizeof(list));
    for (unsigned round = 0; round < 1500; round++) {
        unsigned at = next(LIST);

        if (list[at].handle) {
            ck_assert_int_eq(virtx_intercept_remove(list[at].handle), VIRTX_OK);
            list[at].handle = NULL;
        } else {
            uint32_t kind = next(4); /* port, MSR, CPUID, MMIO */
            uint64_t first = next(64), last = first + next(6);
            uint32_t access = kind == VIRTX_INTERCEPT_CPUID ? 0 : 1 + next(3);
            bool meets = false, vms = next(2);
            enum virtx_status status;

            for (uint64_t v = first; v <= last; v++)
                meets |= (access & VIRTX_READ && model_find(vms, kind, v, VIRTX_READ)) ||
                         (access & VIRTX_WRITE && model_find(vms, kind, v, VIRTX_WRITE)) ||
                         (!access && model_find(vms, kind, v, 0));
            list[at].config = range(kind, access, first, last);
            list[at].config.ctx = &list[at];
            list[at].config.action = next(3) ? VIRTX_ACTION_EXIT : VIRTX_ACTION_DEFAULT;
            list[at].vms = vms;
            status = vms ? virtx_vm_intercept(vm, &list[at].config, &list[at].handle)
                         : virtx_vcpu_intercept(vcpu, &list[at].config, &list[at].handle);
            ck_assert_int_eq(status, meets ? VIRTX_E_OVERLAP : VIRTX_OK);
        }
        for (unsigned i = 0; i < 40; i++) {
            uint32_t kind = next(4);

            compare(kind, next(72), kind == VIRTX_INTERCEPT_CPUID ? 0 : 1 + next(2));
        }
    }
    end();
}
END_TEST

/* ---- Dispatch ---- */

static int calls;
static void *called_with;

static enum virtx_verdict handler(struct virtx_vcpu *v, struct virtx_exit *exit, void *ctx)
{
    (void)v;
    (void)exit;
    calls++;
    called_with = ctx;
    return VIRTX_HANDLED;
}

static void expect(enum virtx_verdict verdict, void *ctx)
{
    called_with = NULL;
    calls = 0;
    virtx_backend_requests(vcpu, UINT32_MAX); /* as before every entry when something has changed */
    ck_assert_int_eq(virtx_backend_dispatch(vcpu), verdict);
    ck_assert_int_eq(calls, ctx != NULL);
    called_with = NULL;
    calls = 0;
    ck_assert_int_eq(virtx_backend_dispatch(vcpu), verdict); /* as it was found before */
    ck_assert_int_eq(calls, ctx != NULL);
    ck_assert_ptr_eq(called_with, ctx);
}

static void set(bool vms, uint32_t kind, uint32_t access, uint64_t first, uint64_t last, void *ctx)
{
    struct virtx_intercept_config config = range(kind, access, first, last);

    config.handler = ctx ? handler : NULL;
    config.ctx = ctx;
    ck_assert_int_eq(vms ? virtx_vm_intercept(vm, &config, NULL)
                         : virtx_vcpu_intercept(vcpu, &config, NULL),
                     VIRTX_OK);
}

START_TEST(dispatch_kinds)
{
    struct virtx_exit *exit;
    int a, b, c, d, e, f, g, h;

    begin();
    exit = virtx_backend_exit(vcpu);
    exit->reason = VIRTX_EXIT_HLT; /* nothing that an intercept is about */
    expect(VIRTX_DEFAULT, NULL);
    exit->reason = VIRTX_EXIT_MSR;
    exit->msr.index = 0x10;
    exit->msr.access = VIRTX_READ;
    expect(VIRTX_DEFAULT, NULL);
    set(true, VIRTX_INTERCEPT_MSR, VIRTX_READ, 0x10, 0x10, &a);
    set(true, VIRTX_INTERCEPT_MSR, VIRTX_WRITE, 0x10, 0x10, NULL);
    expect(VIRTX_HANDLED, &a);
    exit->msr.access = VIRTX_WRITE;
    expect(VIRTX_TO_LOOP, NULL); /* no handler */
    exit->msr.index = 0x11;
    expect(VIRTX_DEFAULT, NULL);

    set(true, VIRTX_INTERCEPT_CPUID, 0, 0x40000000, 0x400000ff, &b);
    exit->reason = VIRTX_EXIT_CPUID;
    exit->cpuid.leaf = 0x400000ff;
    expect(VIRTX_HANDLED, &b);
    exit->cpuid.leaf = 0x40000100;
    expect(VIRTX_DEFAULT, NULL);
    set(true, VIRTX_INTERCEPT_HYPERCALL, 0, 0, 0, &c);
    exit->reason = VIRTX_EXIT_HYPERCALL;
    exit->hypercall.number = 1234;
    expect(VIRTX_HANDLED, &c);
    set(true, VIRTX_INTERCEPT_CR, VIRTX_WRITE, 3, 3, &d);
    set(true, VIRTX_INTERCEPT_DR, VIRTX_READ, 3, 3, &e);
    exit->reason = VIRTX_EXIT_CR;
    exit->cr.reg = 3;
    exit->cr.access = VIRTX_WRITE;
    expect(VIRTX_HANDLED, &d);
    exit->reason = VIRTX_EXIT_DR;
    expect(VIRTX_DEFAULT, NULL);
    exit->cr.access = VIRTX_READ;
    expect(VIRTX_HANDLED, &e);
    set(true, VIRTX_INTERCEPT_INSTRUCTION, 0, VIRTX_INSN_RDTSC, VIRTX_INSN_RDTSCP, &f);
    exit->reason = VIRTX_EXIT_INSTRUCTION;
    exit->instruction.which = VIRTX_INSN_RDTSCP;
    expect(VIRTX_HANDLED, &f);
    set(true, VIRTX_INTERCEPT_MMIO, BOTH, 0xfee00000, 0xfee00fff, &g);
    exit->reason = VIRTX_EXIT_MMIO;
    exit->mmio.gpa = 0xfee00020;
    exit->mmio.size = 4;
    exit->mmio.access = VIRTX_READ;
    expect(VIRTX_HANDLED, &g);
    set(true, VIRTX_INTERCEPT_EXCEPTION, 0, 3, 3, &h);
    exit->reason = VIRTX_EXIT_EXCEPTION;
    exit->exception.vector = 3;
    expect(VIRTX_HANDLED, &h);
    exit->exception.vector = 1;
    expect(VIRTX_DEFAULT, NULL);
    end();
}
END_TEST

START_TEST(dispatch_page_faults)
{
    struct virtx_intercept_config config = range(VIRTX_INTERCEPT_EXCEPTION, 0, 14, 14);
    struct virtx_exit *exit;
    int own, vms;

    begin();
    exit = virtx_backend_exit(vcpu);
    exit->reason = VIRTX_EXIT_EXCEPTION;
    exit->exception.vector = 14;
    config.handler = handler;
    config.ctx = &own;
    config.mask = 3;  /* a write … */
    config.match = 2; /* … to a page that is not present */
    ck_assert_int_eq(virtx_vcpu_intercept(vcpu, &config, NULL), VIRTX_OK);
    config.ctx = &vms;
    config.mask = 4; /* at CPL 3 */
    config.match = 4;
    ck_assert_int_eq(virtx_vm_intercept(vm, &config, NULL), VIRTX_OK);
    for (uint32_t error = 0; error < 32; error++) {
        exit->exception.error = error;
        if ((error & 3) == 2)
            expect(VIRTX_HANDLED, &own);
        else if (error & 4)
            expect(VIRTX_HANDLED, &vms);
        else
            expect(VIRTX_DEFAULT, NULL);
    }
    end();
}
END_TEST

START_TEST(dispatch_wide_accesses)
{
    struct virtx_intercept_config allow = range(VIRTX_INTERCEPT_PORT, BOTH, 0x70, 0x71);
    struct virtx_exit *exit;
    int a, b;

    begin();
    exit = virtx_backend_exit(vcpu);
    exit->reason = VIRTX_EXIT_IO;
    exit->io.access = VIRTX_WRITE;
    set(true, VIRTX_INTERCEPT_PORT, BOTH, 0x61, 0x61, &a);
    set(true, VIRTX_INTERCEPT_PORT, BOTH, 0x63, 0x63, &b);
    /* The first of the ports that has an intercept is asked. */
    exit->io.port = 0x60;
    exit->io.size = 1;
    expect(VIRTX_DEFAULT, NULL);
    exit->io.size = 2;
    expect(VIRTX_HANDLED, &a);
    exit->io.size = 4;
    expect(VIRTX_HANDLED, &a);
    exit->io.port = 0x62;
    expect(VIRTX_HANDLED, &b);
    exit->io.port = 0x64;
    expect(VIRTX_DEFAULT, NULL);
    exit->io.port = 0xffff; /* there is nothing behind */
    expect(VIRTX_DEFAULT, NULL);
    /* What is allowed goes to the hardware, but not if a port next to it is intercepted. */
    allow.action = VIRTX_ACTION_ALLOW;
    ck_assert_int_eq(virtx_vm_intercept(vm, &allow, NULL), VIRTX_OK);
    set(true, VIRTX_INTERCEPT_PORT, BOTH, 0x72, 0x72, &b);
    exit->io.port = 0x70;
    exit->io.size = 2;
    expect(VIRTX_DEFAULT, NULL);
    exit->io.size = 4;
    expect(VIRTX_HANDLED, &b);
    exit->io.port = 0x6f;
    exit->io.size = 2;
    expect(VIRTX_DEFAULT, NULL);
    end();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("intercept");
    TCase *tests = fake_case(suite, "intercept");

    tcase_add_test(tests, refusals);
    tcase_add_test(tests, overlaps);
    tcase_add_test(tests, query_and_removal);
    tcase_add_test(tests, precedence);
    tcase_add_loop_test(tests, random_rules, 0, 6);
    tcase_add_test(tests, dispatch_kinds);
    tcase_add_test(tests, dispatch_page_faults);
    tcase_add_test(tests, dispatch_wide_accesses);
    return fake_main(suite);
}
