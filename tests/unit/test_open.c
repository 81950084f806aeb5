/* SPDX-License-Identifier: BSD-2-Clause */
/* virtx_open() and the CPUs: what is refused, by which name, and that nothing is left behind. */
#include "fake.h"

#include <string.h>

/* virtx_open() must refuse this, and hold nothing. */
static void refused(const struct virtx_config *config, enum virtx_status status, const char *what)
{
    struct virtx *virtx = (struct virtx *)&fake;
    struct virtx_error error;

    ck_assert_int_eq(virtx_open(config, &virtx, &error), status);
    fake_error(&error, status, what);
    ck_assert_ptr_eq(virtx, (struct virtx *)&fake);
    ck_assert_uint_eq(fake.pages, 0);
    /* The detail is optional. */
    ck_assert_int_eq(virtx_open(config, &virtx, NULL), status);
}

START_TEST(texts)
{
    for (int i = 0; i < VIRTX_STATUS_COUNT; i++) {
        ck_assert_ptr_nonnull(virtx_status_text(i));
        for (int j = 0; j < i; j++)
            ck_assert_str_ne(virtx_status_text(i), virtx_status_text(j));
    }
    ck_assert_str_eq(virtx_status_text(VIRTX_STATUS_COUNT), "unknown status");
    ck_assert_str_eq(virtx_status_text((enum virtx_status) - 1), "unknown status");
    for (uint32_t i = 0; i < VIRTX_EXIT_REASON_COUNT; i++) {
        ck_assert_ptr_nonnull(virtx_exit_name(i));
        for (uint32_t j = 0; j < i; j++)
            ck_assert_str_ne(virtx_exit_name(i), virtx_exit_name(j));
    }
    ck_assert_ptr_nonnull(virtx_exit_name(VIRTX_EXIT_REASON_COUNT));
    ck_assert_ptr_nonnull(virtx_exit_name(UINT32_MAX));
    for (uint64_t f = 1; f <= VIRTX_FEATURE_VIRTUAL_X2APIC; f <<= 1)
        ck_assert_str_ne(virtx_feature_name(f), "unknown feature");
    ck_assert_str_eq(virtx_feature_name(0), "unknown feature");
    ck_assert_str_eq(virtx_feature_name(3), "unknown feature");
    ck_assert_str_eq(virtx_feature_name(1ull << 40), "unknown feature");
    ck_assert_str_eq(virtx_feature_name(VIRTX_FEATURE_TIMER), "timer");
}
END_TEST

START_TEST(good)
{
    struct virtx_config config = fake_config();
    struct virtx_error error = {.status = VIRTX_E_DEAD};
    struct virtx *virtx;

    config.disable = VIRTX_FEATURE_INVPCID;
    ck_assert_int_eq(virtx_open(&config, &virtx, &error), VIRTX_OK);
    ck_assert_int_eq(error.status, VIRTX_OK);
    ck_assert_str_eq(virtx_caps(virtx)->backend, "fake");
    ck_assert_uint_eq(virtx_caps(virtx)->features,
                      VIRTX_FEATURE_NESTED_PAGING | VIRTX_FEATURE_RDTSCP);
    ck_assert_uint_ne(virtx_caps(virtx)->hardware & VIRTX_FEATURE_INVPCID, 0);
    ck_assert_int_eq(virtx_last_error(virtx)->status, VIRTX_OK);
    ck_assert_str_eq(virtx_last_error(virtx)->what, "");
    ck_assert_int_eq(virtx_close(virtx), VIRTX_OK);
}
END_TEST

START_TEST(bad_config)
{
    struct virtx_config config;
    const struct virtx_backend *no_backend[] = {NULL};

    refused(NULL, VIRTX_E_INVALID, "config");
    config = fake_config();
    ck_assert_int_eq(virtx_open(&config, NULL, NULL), VIRTX_E_INVALID);
    config.size--;
    refused(&config, VIRTX_E_SIZE, "config.size");
    config = fake_config();
    config.max_cpus = 0;
    refused(&config, VIRTX_E_INVALID, "config.max_cpus");
    config.max_cpus = 4097;
    refused(&config, VIRTX_E_INVALID, "config.max_cpus");
    config = fake_config();
    config.disable = 1ull << 40;
    refused(&config, VIRTX_E_INVALID, "config.disable");
    config.disable = 0;
    config.insist = 1ull << 40;
    refused(&config, VIRTX_E_INVALID, "config.insist");
    config.insist = 0;
    config = fake_config();
    config.ops = NULL;
    refused(&config, VIRTX_E_INVALID, "config.ops");
    config = fake_config();
    config.backends = NULL;
    refused(&config, VIRTX_E_INVALID, "config.backends");
    config.backends = no_backend;
    refused(&config, VIRTX_E_INVALID, "config.backends");
}
END_TEST

START_TEST(sizes_of_another_version)
{
    struct virtx_config config = fake_config();
    struct {
        struct virtx_host_ops ops;
        void *more[4];
    } newer = {.ops = fake_ops};
    struct virtx_host_ops older = fake_ops;
    struct virtx *virtx;

    newer.ops.size = sizeof(newer);
    config.ops = &newer.ops;
    ck_assert_int_eq(virtx_open(&config, &virtx, NULL), VIRTX_OK);
    ck_assert_int_eq(virtx_close(virtx), VIRTX_OK);
    /* An older program knows only the required operations: what lies behind is not looked at. */
    older.size = offsetof(struct virtx_host_ops, log);
    older.nmi = (void (*)(void *))(uintptr_t)1;
    config.ops = &older;
    ck_assert_int_eq(virtx_open(&config, &virtx, NULL), VIRTX_OK);
    ck_assert_ptr_null(virtx->ops.nmi);
    ck_assert_int_eq(virtx_close(virtx), VIRTX_OK);
    older.size--;
    refused(&config, VIRTX_E_SIZE, "ops.size");
}
END_TEST

START_TEST(missing_host_op)
{
    static const struct {
        const char *name;
        size_t offset;
    } required[] = {
        {"ops.pages_alloc", offsetof(struct virtx_host_ops, pages_alloc)},
        {"ops.pages_free", offsetof(struct virtx_host_ops, pages_free)},
        {"ops.virt_to_phys", offsetof(struct virtx_host_ops, virt_to_phys)},
        {"ops.phys_to_virt", offsetof(struct virtx_host_ops, phys_to_virt)},
        {"ops.this_cpu", offsetof(struct virtx_host_ops, this_cpu)},
        {"ops.kick_cpu", offsetof(struct virtx_host_ops, kick_cpu)},
    };
    struct virtx_config config = fake_config();
    struct virtx_host_ops ops;

    config.ops = &ops;
    for (unsigned i = 0; i < ARRAY_SIZE(required); i++) {
        ops = fake_ops;
        memset((char *)&ops + required[i].offset, 0, sizeof(void *));
        refused(&config, VIRTX_E_MISSING_OP, required[i].name);
    }
    ops = fake_ops;
    ops.reserved = 1;
    refused(&config, VIRTX_E_INVALID, "ops.reserved");
}
END_TEST

START_TEST(missing_plugin_op)
{
    struct virtx_backend backend;
    struct virtx_paging engine;
    const struct virtx_backend *backends[] = {&backend, NULL};
    const struct virtx_paging *engines[] = {&engine, NULL};
    struct virtx_config config = fake_config();

    config.backends = backends;
    /* Every function of the table, one after the other; `hw` alone may be NULL. */
    for (size_t at = offsetof(struct virtx_backend, probe); at < offsetof(struct virtx_backend, hw);
         at += sizeof(void *)) {
        struct virtx *virtx;
        struct virtx_error error;

        backend = fake_backend;
        memset((char *)&backend + at, 0, sizeof(void *));
        ck_assert_int_eq(virtx_open(&config, &virtx, &error), VIRTX_E_MISSING_OP);
        ck_assert_int_eq(strncmp(error.what, "backend.", 8), 0);
    }
    backend = fake_backend;
    backend.run = NULL;
    refused(&config, VIRTX_E_MISSING_OP, "backend.run");
    backend = fake_backend;
    backend.size -= 8;
    refused(&config, VIRTX_E_SIZE, "backend.size");
    backend = fake_backend;
    backend.vcpu_bytes = 8 * VIRTX_PAGE_SIZE + 1;
    refused(&config, VIRTX_E_INVALID, "backend.vcpu_bytes");

    backend = fake_backend;
    config.paging = engines;
    engine = fake_shadow;
    engine.invlpg = NULL;
    refused(&config, VIRTX_E_MISSING_OP, "paging.invlpg");
    engine = fake_nested;
    engine.fault = NULL;
    refused(&config, VIRTX_E_MISSING_OP, "paging.fault");
    engine = fake_nested;
    engine.size = 8;
    refused(&config, VIRTX_E_SIZE, "paging.size");
    engine = fake_nested;
    engine.vm_bytes = VIRTX_PAGE_SIZE + 1;
    refused(&config, VIRTX_E_INVALID, "paging.vm_bytes, vcpu_bytes");
}
END_TEST

START_TEST(profiles)
{
    struct virtx_config config = fake_config();
    struct virtx_host_profile profile = virtx_profile_bare;
    struct virtx *virtx;

    ck_assert_uint_eq(
        virtx_profile_bare.at_exit | virtx_profile_bare.at_return | virtx_profile_bare.at_put, 0);
    /* The safe default puts everything back, sooner or later. */
    ck_assert_uint_eq(virtx_profile_kernel.at_exit | virtx_profile_kernel.at_return |
                          virtx_profile_kernel.at_put,
                      VIRTX_HOST_STATE_ALL);
    ck_assert_int_eq(virtx_open(&config, &virtx, NULL), VIRTX_OK);
    ck_assert_mem_eq(&virtx->profile, &virtx_profile_kernel, sizeof(profile));
    ck_assert_int_eq(virtx_close(virtx), VIRTX_OK);

    config.profile = &profile;
    profile.at_exit = VIRTX_HOST_GS_BASE;
    profile.at_put = VIRTX_HOST_FPU;
    ck_assert_int_eq(virtx_open(&config, &virtx, NULL), VIRTX_OK);
    ck_assert_int_eq(virtx_close(virtx), VIRTX_OK);
    profile.at_return = VIRTX_HOST_GS_BASE;
    refused(&config, VIRTX_E_INVALID, "profile");
    profile.at_return = VIRTX_HOST_FPU;
    refused(&config, VIRTX_E_INVALID, "profile");
    profile.at_return = 0;
    profile.at_put = VIRTX_HOST_GS_BASE;
    refused(&config, VIRTX_E_INVALID, "profile");
    profile.at_put = VIRTX_HOST_STATE_ALL + 1;
    refused(&config, VIRTX_E_INVALID, "profile");
    profile = virtx_profile_bare;
    profile.size = 4;
    refused(&config, VIRTX_E_SIZE, "profile.size");
}
END_TEST

static enum virtx_status probe_status;

static enum virtx_status other_probe(struct virtx *virtx, uint64_t disable, struct virtx_caps *caps,
                                     struct virtx_error *error)
{
    (void)virtx;
    (void)disable;
    caps->features = ~0ull; /* forgotten if the probe fails */
    return probe_status ? virtx_fail(error, probe_status, "other", "says so", 7) : VIRTX_OK;
}

START_TEST(backend_choice)
{
    struct virtx_backend other = fake_backend;
    const struct virtx_backend *backends[] = {&other, &fake_backend, NULL};
    struct virtx_config config = fake_config();
    struct virtx *virtx;

    other.name = "other";
    other.probe = other_probe;
    config.backends = backends;
    probe_status = VIRTX_OK;
    ck_assert_int_eq(virtx_open(&config, &virtx, NULL), VIRTX_OK);
    ck_assert_str_eq(virtx_caps(virtx)->backend, "other");
    ck_assert_int_eq(virtx_close(virtx), VIRTX_OK);

    probe_status = VIRTX_E_UNSUPPORTED;
    ck_assert_int_eq(virtx_open(&config, &virtx, NULL), VIRTX_OK);
    ck_assert_str_eq(virtx_caps(virtx)->backend, "fake");
    ck_assert_uint_eq(virtx_caps(virtx)->features >> 40, 0);
    ck_assert_int_eq(virtx_close(virtx), VIRTX_OK);

    /* The more telling refusal is the one to hear of, whichever comes first. */
    fake.fail_op = "probe";
    fake.fail_status = VIRTX_E_UNSUPPORTED;
    refused(&config, VIRTX_E_UNSUPPORTED, "other");
    probe_status = VIRTX_E_LOCKED_OUT;
    refused(&config, VIRTX_E_LOCKED_OUT, "other");
    probe_status = VIRTX_E_UNSUPPORTED;
    fake.fail_status = VIRTX_E_LOCKED_OUT;
    refused(&config, VIRTX_E_LOCKED_OUT, "probe");
    /* A backend that says nothing is named. */
    fake.silent = true;
    refused(&config, VIRTX_E_LOCKED_OUT, "fake");
}
END_TEST

START_TEST(engine_choice)
{
    const struct virtx_paging *nested_only[] = {&fake_nested, NULL};
    const struct virtx_paging *none[] = {NULL};
    struct virtx_backend alone = fake_backend, other = fake_backend;
    const struct virtx_backend *backends[] = {&alone, NULL};
    const struct virtx_backend *both[] = {&other, &fake_backend, NULL};
    const struct virtx_backend *turned[] = {&fake_backend, &other, NULL};
    struct virtx_config config = fake_config();
    struct virtx *virtx;

    config.paging = nested_only;
    config.disable = VIRTX_FEATURE_NESTED_PAGING;
    refused(&config, VIRTX_E_UNSUPPORTED, "config.paging");
    config.disable = 0;
    config.paging = none;
    refused(&config, VIRTX_E_UNSUPPORTED, "config.paging");
    config.paging = NULL;
    refused(&config, VIRTX_E_UNSUPPORTED, "config.paging");
    /* That is what to hear of, and not that the processor is no other vendor's. */
    other.name = "other";
    other.probe = other_probe;
    probe_status = VIRTX_E_UNSUPPORTED;
    config.backends = both;
    refused(&config, VIRTX_E_UNSUPPORTED, "config.paging");
    config.backends = turned;
    refused(&config, VIRTX_E_UNSUPPORTED, "config.paging");
    /* A backend that translates by itself needs none. */
    alone.hw = NULL;
    config.backends = backends;
    ck_assert_int_eq(virtx_open(&config, &virtx, NULL), VIRTX_OK);
    ck_assert_int_eq(virtx_close(virtx), VIRTX_OK);
}
END_TEST

static const struct {
    const char *what;
} nonsense_names[FAKE_NONSENSE_COUNT] = {
    [FAKE_MISALIGNED] = {"ops.pages_alloc"},   [FAKE_NO_ADDRESS] = {"ops.virt_to_phys"},
    [FAKE_ODD_ADDRESS] = {"ops.virt_to_phys"}, [FAKE_WIDE_ADDRESS] = {"ops.virt_to_phys"},
    [FAKE_SCATTERED] = {"ops.virt_to_phys"},   [FAKE_ONE_WAY] = {"ops.phys_to_virt"},
};

START_TEST(nonsense)
{
    struct virtx_config config = fake_config();
    struct virtx_error error;
    struct virtx *virtx;

    config.max_cpus = 4096; /* more than one page, so that contiguity matters */
    for (fake.nonsense = FAKE_MISALIGNED; fake.nonsense < FAKE_NONSENSE_COUNT; fake.nonsense++)
        if (fake.nonsense != FAKE_WIDE_ADDRESS) /* the width is not known yet */
            refused(&config, VIRTX_E_HOST, nonsense_names[fake.nonsense].what);
    fake.nonsense = FAKE_HONEST;
    fake.fail_at = 1;
    ck_assert_int_eq(virtx_open(&config, &virtx, &error), VIRTX_E_NO_MEMORY);
    fake_error(&error, VIRTX_E_NO_MEMORY, "ops.pages_alloc");

    virtx = fake_open();
    fake_cpu = 1;
    fake.nonsense = FAKE_WIDE_ADDRESS;
    ck_assert_int_eq(virtx_cpu_enable(virtx), VIRTX_E_HOST);
    fake_error(virtx_last_error(virtx), VIRTX_E_HOST, "ops.virt_to_phys");
    fake.nonsense = FAKE_HONEST;
    fake_close(virtx);
}
END_TEST

START_TEST(cpus)
{
    struct virtx *virtx = fake_open(), *second;
    struct virtx_config config = fake_config();
    size_t pages = fake.pages;

    ck_assert_int_eq(virtx_cpu_enable(virtx), VIRTX_OK); /* again: nothing happens */
    ck_assert_uint_eq(fake.enabled, 1);
    ck_assert_uint_eq(fake.pages, pages);
    ck_assert_int_eq(virtx_close(virtx), VIRTX_E_BUSY);
    fake_error(virtx_last_error(virtx), VIRTX_E_BUSY, "virtx");

    fake_cpu = 1;
    ck_assert_int_eq(virtx_cpu_disable(virtx), VIRTX_E_NOT_ENABLED);
    fake_error(virtx_last_error(virtx), VIRTX_E_NOT_ENABLED, "CPU");
    fake.fail_op = "cpu_enable";
    fake.fail_status = VIRTX_E_IN_USE;
    ck_assert_int_eq(virtx_cpu_enable(virtx), VIRTX_E_IN_USE);
    fake_error(virtx_last_error(virtx), VIRTX_E_IN_USE, "cpu_enable");
    ck_assert_uint_eq(fake.pages, pages);
    fake.silent = true;
    fake.fail_status = VIRTX_E_LOCKED_OUT;
    ck_assert_int_eq(virtx_cpu_enable(virtx), VIRTX_E_LOCKED_OUT);
    fake_error(virtx_last_error(virtx), VIRTX_E_LOCKED_OUT, "CPU");
    fake.fail_op = NULL;
    fake.fail_at = 1;
    ck_assert_int_eq(virtx_cpu_enable(virtx), VIRTX_E_NO_MEMORY);
    ck_assert_int_eq(virtx_cpu_enable(virtx), VIRTX_OK);
    ck_assert_uint_eq(fake.enabled, 2);
    ck_assert_int_eq(virtx_cpu_disable(virtx), VIRTX_OK);
    ck_assert_int_eq(virtx_cpu_disable(virtx), VIRTX_E_NOT_ENABLED);
    ck_assert_int_eq(virtx_cpu_enable(virtx), VIRTX_OK); /* after resume or hot-plug */

    fake_cpu = FAKE_CPUS; /* out of range */
    ck_assert_int_eq(virtx_cpu_enable(virtx), VIRTX_E_HOST);
    fake_error(virtx_last_error(virtx), VIRTX_E_HOST, "ops.this_cpu");
    ck_assert_int_eq(virtx_cpu_disable(virtx), VIRTX_E_HOST);
    virtx_cpu_emergency_off(virtx);
    ck_assert_uint_eq(fake.emergencies, 0);
    fake_cpu = 2; /* never enabled: nothing to turn off */
    virtx_cpu_emergency_off(virtx);
    ck_assert_uint_eq(fake.emergencies, 0);
    fake_cpu = 1;
    virtx_cpu_emergency_off(virtx);
    ck_assert_uint_eq(fake.emergencies, 1);
    fake.enabled--;
    ck_assert_int_eq(virtx_cpu_disable(virtx), VIRTX_E_NOT_ENABLED);

    /* Two instances know nothing of each other. */
    ck_assert_int_eq(virtx_open(&config, &second, NULL), VIRTX_OK);
    ck_assert_int_eq(virtx_close(second), VIRTX_OK);
    fake_close(virtx);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("open");
    TCase *tests = fake_case(suite, "open");

    tcase_add_test(tests, texts);
    tcase_add_test(tests, good);
    tcase_add_test(tests, bad_config);
    tcase_add_test(tests, sizes_of_another_version);
    tcase_add_test(tests, missing_host_op);
    tcase_add_test(tests, missing_plugin_op);
    tcase_add_test(tests, profiles);
    tcase_add_test(tests, backend_choice);
    tcase_add_test(tests, engine_choice);
    tcase_add_test(tests, nonsense);
    tcase_add_test(tests, cpus);
    return fake_main(suite);
}
