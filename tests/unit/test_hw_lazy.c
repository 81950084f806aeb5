/* SPDX-License-Identifier: BSD-2-Clause */
/* FPU state that waits for the guest's first use: what is moved when, what the vendor is told. */
#include "hw/service.h"
#include "hw_world.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static unsigned saves, loads;

static void note(void)
{
    saves = world.fpu_saves;
    loads = world.fpu_loads;
}

static void reload(void)
{
    ck_assert_int_eq(virtx_vcpu_put(world.vcpu), VIRTX_OK);
    note();
    world.injections = world.entries = world.at = world.length = 0;
}

static void begin(void)
{
    world_xsaves = true;
    world_begin(&virtx_profile_bare);
    ck_assert(!virtx_vcpu_lazy_fpu(world.vcpu));
    ck_assert_int_eq(virtx_vcpu_set_lazy_fpu(world.vcpu, true), VIRTX_OK);
    ck_assert(virtx_vcpu_lazy_fpu(world.vcpu));
    reload();
}

static void exit_nm(struct hw_vcpu *hv)
{
    struct virtx_exit *exit = &hv->vcpu->exit;

    exit->reason = VIRTX_EXIT_EXCEPTION;
    exit->length = 0;
    exit->exception = (struct virtx_exit_exception){.vector = VECTOR_NM};
}

static void set_cr(uint64_t cr0, uint64_t cr4)
{
    struct virtx_state state;

    world_get(VIRTX_STATE_CR, &state);
    state.cr0 = (state.cr0 & ~(CR0_TS | CR0_MP | CR0_EM)) | cr0;
    state.cr4 |= cr4;
    world_set(VIRTX_STATE_CR, &state);
}

#define MOVED(saved, loaded)                                                                       \
    do {                                                                                           \
        ck_assert_uint_eq(world.fpu_saves - saves, saved);                                         \
        ck_assert_uint_eq(world.fpu_loads - loads, loaded);                                        \
    } while (0)

#define WAITS(whether)                                                                             \
    do {                                                                                           \
        ck_assert(world.hv->controls.fpu_waits == (whether));                                      \
        ck_assert(((world.hv->controls.cr0_mask & (CR0_TS | CR0_MP)) ==                            \
                   ((whether) ? CR0_TS | CR0_MP : 0)));                                            \
        ck_assert((world.hv->controls.exceptions >> VECTOR_NM & 1) == (whether));                  \
    } while (0)

START_TEST(nothing_used_nothing_moved)
{
    for (unsigned i = 0; i < 3; i++) {
        world_run();
        WAITS(true);
        world_run();
        ck_assert_int_eq(virtx_vcpu_put(world.vcpu), VIRTX_OK);
    }
    MOVED(0, 0);
}
END_TEST

START_TEST(off_again_with_the_next_load)
{
    world_run();
    ck_assert_int_eq(virtx_vcpu_set_lazy_fpu(world.vcpu, false), VIRTX_OK);
    world_run();
    WAITS(true);
    reload();
    world_run();
    WAITS(false);
    MOVED(0, 1);
}
END_TEST

START_TEST(first_use)
{
    world_play(exit_nm);
    world_run();
    ck_assert_uint_eq(world.entries, 2); /* the same instruction again */
    ck_assert_uint_eq(world.injections, 0);
    ck_assert_uint_eq(world.advances, 0);
    WAITS(false);
    MOVED(0, 1);
    world_run();
    MOVED(0, 1);
    reload();
    MOVED(0, 0);
    world_run();
    WAITS(true); /* anew with each load */
    MOVED(0, 0);
}
END_TEST

/* CR0 as it is, and whether #NM is the guest's: only where the processor's has the same. */
START_TEST(whose_exception)
{
    static const struct {
        uint64_t cr0;
        bool guests;
    } cases[] = {{0, false},
                 {CR0_TS, false}, /* WAIT would not raise it */
                 {CR0_MP, false},
                 {CR0_EM, false}, /* it comes again, without an exit; or not, from XSAVE */
                 {CR0_TS | CR0_EM, false},
                 {CR0_TS | CR0_MP, true},
                 {CR0_TS | CR0_MP | CR0_EM, true}};

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        reload();
        set_cr(cases[i].cr0, 0);
        world_play(exit_nm);
        world_run();
        ck_assert_uint_eq(world.injections, cases[i].guests);
        if (cases[i].guests)
            ck_assert_uint_eq(world.injected[0].vector, VECTOR_NM);
        WAITS(cases[i].guests);
        MOVED(0, !cases[i].guests);
    }
}
END_TEST

static void exit_clts(struct hw_vcpu *hv)
{
    world_cr(hv, 0, true, 0xff, hw_state(hv, VIRTX_STATE_CR)->cr0 & ~CR0_TS);
}

static void exit_stts(struct hw_vcpu *hv)
{
    world_cr(hv, 0, true, 0xff, hw_state(hv, VIRTX_STATE_CR)->cr0 | CR0_TS);
}

START_TEST(clearing_ts)
{
    world_play(exit_stts);
    world_run();
    WAITS(true);
    MOVED(0, 0);
    world_play(exit_clts);
    world_run();
    WAITS(false);
    MOVED(0, 1);
}
END_TEST

static unsigned asked;

static enum virtx_verdict handler(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    (void)vcpu;
    (void)exit;
    (void)ctx;
    asked++;
    return VIRTX_DEFAULT;
}

START_TEST(own_intercept)
{
    struct virtx_intercept_config config = {.size = sizeof(config),
                                            .kind = VIRTX_INTERCEPT_EXCEPTION,
                                            .first = VECTOR_NM,
                                            .last = VECTOR_NM,
                                            .action = VIRTX_ACTION_EXIT,
                                            .handler = handler};

    asked = 0;
    ck_assert_int_eq(virtx_vcpu_intercept(world.vcpu, &config, NULL), VIRTX_OK);
    world_play(exit_nm);
    world_run();
    ck_assert_uint_eq(asked, 0);
    MOVED(0, 1);
    ck_assert(world.hv->controls.exceptions >> VECTOR_NM & 1); /* the embedder's */
    world_play(exit_nm);
    world_run();
    ck_assert_uint_eq(asked, 1);
    ck_assert_uint_eq(world.injections, 1);
}
END_TEST

static void hide_xgetbv(bool hide)
{
    struct virtx_cpuid_entry leaf;

    ck_assert_int_eq(virtx_vm_cpuid_get(world.vm, 13, 1, &leaf), VIRTX_OK);
    leaf.eax = hide ? leaf.eax & ~4u : leaf.eax | 4;
    ck_assert_int_eq(virtx_vm_cpuid_set(world.vm, &leaf), VIRTX_OK);
}

/* What CR0.TS does not protect makes the vcpu an eager one, whatever makes the guest reach it. */
START_TEST(unprotected_state)
{
    hide_xgetbv(true);
    set_cr(0, CR4_OSXSAVE);
    world_run();
    WAITS(true);
    MOVED(0, 0);
    hide_xgetbv(false); /* a CPUID that changes */
    world_run();
    WAITS(false);
    MOVED(0, 1);
    reload();
    world_run();
    WAITS(false);
    MOVED(0, 1);
}
END_TEST

static void exit_osxsave(struct hw_vcpu *hv)
{
    world_cr(hv, 4, true, 0, hw_state(hv, VIRTX_STATE_CR)->cr4 | CR4_OSXSAVE);
}

START_TEST(unprotected_by_the_guest)
{
    hide_xgetbv(false);
    world_run();
    WAITS(true);
    world_play(exit_osxsave);
    world_run();
    WAITS(false);
    MOVED(0, 1);
}
END_TEST

static void guest_xcr0(uint64_t value)
{
    struct virtx_state state;

    world_get(VIRTX_STATE_XCR, &state);
    state.xcr0 = value;
    world_set(VIRTX_STATE_XCR, &state);
}

/* XGETBV raises no #NM. */
START_TEST(xcr0)
{
    world_end();
    world_begin(&virtx_profile_kernel);
    ck_assert_int_eq(virtx_vcpu_set_lazy_fpu(world.vcpu, true), VIRTX_OK);
    hide_xgetbv(true);
    reload();
    ck_assert_uint_eq(world.xcr0, 1);
    guest_xcr0(7);
    world_run();
    WAITS(true);
    ck_assert_uint_eq(world.xcr0, 7);
    guest_xcr0(3);
    ck_assert_uint_eq(world.xcr0, 3);
    world.xcr0 = 7; /* by the guest, without an exit: QEMU */
    ck_assert_int_eq(virtx_vcpu_put(world.vcpu), VIRTX_OK);
    ck_assert_uint_eq(world.xcr0, 1);
    MOVED(0, 0);
    world_play(exit_nm);
    world_run();
    ck_assert_uint_eq(world.xcr0, 7);
    MOVED(1, 1); /* the host's aside, the guest's in */
    ck_assert_int_eq(virtx_vcpu_put(world.vcpu), VIRTX_OK);
    ck_assert_uint_eq(world.xcr0, 1);
    MOVED(2, 2);
    world_run();
    ck_assert_uint_eq(world.xcr0, 7);
    ck_assert_int_eq(virtx_vcpu_reset(world.vcpu, VIRTX_PRESET_FLAT32), VIRTX_OK);
    ck_assert_uint_eq(world.xcr0, 1);
    world_run();
    WAITS(true);
    MOVED(2, 2);
}
END_TEST

START_TEST(area_while_away)
{
    static uint8_t area[1024], back[1024];
    uint64_t components = 3;

    world_run();
    memset(area, 0, sizeof(area));
    memcpy(area + 512, &components, 8);
    area[160] = 0x5a;
    ck_assert_int_eq(virtx_vcpu_fpu_set(world.vcpu, area, sizeof(area)), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_fpu_get(world.vcpu, back, sizeof(back)), VIRTX_OK);
    ck_assert_uint_eq(back[160], 0x5a);
    world_run();
    WAITS(true);
    MOVED(0, 0);
    world_play(exit_nm);
    world_run();
    MOVED(0, 1);
    ck_assert_int_eq(virtx_vcpu_fpu_set(world.vcpu, area, sizeof(area)), VIRTX_OK);
    world_run();
    WAITS(false);
    MOVED(0, 2); /* it has been used: the new one is loaded */
}
END_TEST

int main(void)
{
    Suite *s = suite_create("hw_lazy");
    TCase *c = tcase_create("hw_lazy");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(c, begin, world_end);
    tcase_add_test(c, nothing_used_nothing_moved);
    tcase_add_test(c, off_again_with_the_next_load);
    tcase_add_test(c, first_use);
    tcase_add_test(c, whose_exception);
    tcase_add_test(c, clearing_ts);
    tcase_add_test(c, own_intercept);
    tcase_add_test(c, unprotected_state);
    tcase_add_test(c, unprotected_by_the_guest);
    tcase_add_test(c, xcr0);
    tcase_add_test(c, area_while_away);
    suite_add_tcase(s, c);
    runner = srunner_create(s);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
