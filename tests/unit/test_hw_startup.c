/* SPDX-License-Identifier: BSD-2-Clause */
/* INIT and start-up IPIs, by the library and by the loop; whom they wake. */
#include "hw_world.h"

#include <check.h>
#include <stdlib.h>

static unsigned controller_resets, wakes;
static struct virtx_vcpu *woken;

static int nothing(void *ctx)
{
    (void)ctx;
    return -1;
}

static void controller_init(void *ctx)
{
    ck_assert_ptr_eq(ctx, &controller_resets);
    controller_resets++;
}

static const struct virtx_irq_source source = {
    .pending = nothing, .take = nothing, .init = controller_init};

static void wake(void *ctx, struct virtx_vcpu *vcpu)
{
    (void)ctx;
    wakes++;
    woken = vcpu;
}

static struct virtx_state get(void)
{
    struct virtx_state state;

    world_get(VIRTX_STATE_ALL, &state);
    return state;
}

static void set_bsp(bool bsp)
{
    struct virtx_state state = get();

    state.apic_base = 0xfee00800 | (bsp ? 0x100 : 0);
    world_set(VIRTX_STATE_MSR, &state);
}

static void begin(void)
{
    world_begin(&virtx_profile_bare);
    controller_resets = wakes = 0;
    woken = NULL;
    world.virtx->ops.wake = wake;
    ck_assert_int_eq(virtx_vcpu_irq_source(world.vcpu, &source, &controller_resets), VIRTX_OK);
    set_bsp(false);
}

static void dirty_registers(void)
{
    struct virtx_state state = get();

    state.rip = 0x1234;
    state.gpr[VIRTX_RBX] = 5;
    state.cr0 |= 1ull << 30; /* CD, which INIT leaves alone */
    world_set(VIRTX_STATE_RIP | VIRTX_STATE_GPR | VIRTX_STATE_CR, &state);
}

START_TEST(init_then_sipi)
{
    struct virtx_state state;

    dirty_registers();
    virtx_vcpu_signal_init(world.vcpu);
    ck_assert(virtx_vcpu_wakeable(world.vcpu));
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_HLT);
    ck_assert_uint_eq(world.entries, 0);
    ck_assert_uint_eq(controller_resets, 1);
    state = get();
    ck_assert_uint_eq(state.activity, VIRTX_WAIT_FOR_SIPI);
    ck_assert_uint_eq(state.rip, 0xfff0);
    ck_assert_uint_eq(state.gpr[VIRTX_RBX], 0);
    ck_assert_uint_eq(state.cr0, 0x40000010);
    ck_assert(!virtx_vcpu_wakeable(world.vcpu));

    virtx_vcpu_signal_sipi(world.vcpu, 0x12);
    virtx_vcpu_signal_sipi(world.vcpu, 0x9a); /* not looked at between them: the newer one */
    ck_assert(virtx_vcpu_wakeable(world.vcpu));
    world_play(exit_hlt);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_HLT);
    ck_assert_uint_eq(world.entries, 1);
    state = get();
    ck_assert_uint_eq(state.activity, VIRTX_HALTED);
    ck_assert_uint_eq(state.seg[VIRTX_CS].selector, 0x9a00);
    ck_assert_uint_eq(state.seg[VIRTX_CS].base, 0x9a000);
    ck_assert_uint_eq(state.rip, 1); /* behind the HLT */
    ck_assert_uint_eq(controller_resets, 1);
}
END_TEST

START_TEST(both_at_once)
{
    virtx_vcpu_signal_sipi(world.vcpu, 0x20);
    virtx_vcpu_signal_init(world.vcpu);
    world_play(exit_hlt);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_HLT);
    ck_assert_uint_eq(world.entries, 1);
    ck_assert_uint_eq(get().seg[VIRTX_CS].base, 0x20000);
}
END_TEST

START_TEST(sipi_to_one_that_does_not_wait)
{
    virtx_vcpu_signal_sipi(world.vcpu, 0x20);
    world_play(exit_hlt);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_HLT);
    ck_assert_uint_eq(get().seg[VIRTX_CS].base, 0);
}
END_TEST

START_TEST(bootstrap_processor_does_not_wait)
{
    set_bsp(true);
    virtx_vcpu_signal_init(world.vcpu);
    world_play(exit_hlt);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_HLT);
    ck_assert_uint_eq(world.entries, 1);
    ck_assert_uint_eq(get().seg[VIRTX_CS].base, 0xffff0000);
    ck_assert_uint_eq(get().rip, 0xfff1);
}
END_TEST

/* An NMI does not wake a processor that waits for a SIPI, nor does an interrupt. */
START_TEST(nothing_else_wakes)
{
    virtx_vcpu_signal_init(world.vcpu);
    world_run();
    virtx_vcpu_nmi(world.vcpu);
    ck_assert(!virtx_vcpu_wakeable(world.vcpu));
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_HLT);
    ck_assert(!virtx_vcpu_wakeable(world.vcpu));
    ck_assert_uint_eq(world.entries, 0);
    virtx_vcpu_kick(world.vcpu);
    ck_assert(virtx_vcpu_wakeable(world.vcpu));
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_KICK);
}
END_TEST

START_TEST(the_loop_does_it)
{
    const struct virtx_exit *exit;

    world.vm->config.exit_on_startup = true;
    dirty_registers();
    virtx_vcpu_signal_init(world.vcpu);
    virtx_vcpu_signal_sipi(world.vcpu, 0x33);
    exit = world_run();
    ck_assert_uint_eq(exit->reason, VIRTX_EXIT_INIT);
    ck_assert(!exit->pending);
    ck_assert_uint_eq(get().rip, 0x1234);
    ck_assert_uint_eq(controller_resets, 0);

    struct virtx_state state = get();
    state.activity = VIRTX_WAIT_FOR_SIPI;
    world_set(VIRTX_STATE_INTR, &state);
    exit = world_run();
    ck_assert_uint_eq(exit->reason, VIRTX_EXIT_SIPI);
    ck_assert_uint_eq(exit->sipi.vector, 0x33);
    ck_assert_uint_eq(get().activity, VIRTX_WAIT_FOR_SIPI);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_HLT); /* once each */
}
END_TEST

/* Each arrival wakes who is not in run, even when the bit stood there already. */
START_TEST(arrivals_wake)
{
    virtx_vcpu_irq_changed(world.vcpu);
    virtx_vcpu_irq_changed(world.vcpu);
    ck_assert_uint_eq(wakes, 2);
    ck_assert_ptr_eq(woken, world.vcpu);
    virtx_vcpu_nmi(world.vcpu);
    virtx_vcpu_signal_init(world.vcpu);
    virtx_vcpu_signal_sipi(world.vcpu, 1);
    virtx_vcpu_kick(world.vcpu);
    ck_assert_uint_eq(wakes, 6);
    ck_assert_uint_eq(world.kicks, 0);
}
END_TEST

/* The loop's own reason to go on; HLT is not executed again, and nothing is injected. */
START_TEST(woken_by_the_loop)
{
    const struct virtx_exit *exit;

    world_play(exit_hlt);
    exit = world_run();
    ck_assert_uint_eq(exit->reason, VIRTX_EXIT_HLT);
    ck_assert(!exit->pending);
    ck_assert_uint_eq(exit->rip, get().rip);
    ck_assert_uint_eq(get().activity, VIRTX_HALTED);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_HLT);
    ck_assert_uint_eq(world.entries, 1);
    ck_assert_int_eq(virtx_vcpu_wake(world.vcpu), VIRTX_OK);
    ck_assert_uint_eq(get().activity, VIRTX_ACTIVE);
    world_play(exit_cpuid);
    world_play(exit_hlt);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_HLT);
    ck_assert_uint_eq(world.entries, 3);
    ck_assert_uint_eq(world.injections, 0);
    /* Not from other activities. */
    virtx_vcpu_signal_init(world.vcpu);
    world_run();
    ck_assert_int_eq(virtx_vcpu_wake(world.vcpu), VIRTX_OK);
    ck_assert_uint_eq(get().activity, VIRTX_WAIT_FOR_SIPI);
}
END_TEST

static void init_arrives(struct hw_vcpu *hv)
{
    unsigned before = world.kicks;

    world.this_cpu = 1;
    virtx_vcpu_signal_init(hv->vcpu);
    world.this_cpu = 0;
    ck_assert_uint_eq(world.kicks, before + 1);
    exit_interrupt(hv);
}

START_TEST(arrives_while_the_guest_runs)
{
    world_play(init_arrives);
    ck_assert_uint_eq(world_run()->reason,
                      VIRTX_EXIT_INTERRUPT); /* interrupts are off in this host */
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_HLT);
    ck_assert_uint_eq(world.entries, 1);
    ck_assert_uint_eq(wakes, 0);
    ck_assert_uint_eq(get().activity, VIRTX_WAIT_FOR_SIPI);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("hw_startup");
    TCase *c = tcase_create("startup");

    tcase_add_checked_fixture(c, begin, world_end);
    tcase_add_test(c, init_then_sipi);
    tcase_add_test(c, both_at_once);
    tcase_add_test(c, sipi_to_one_that_does_not_wait);
    tcase_add_test(c, bootstrap_processor_does_not_wait);
    tcase_add_test(c, nothing_else_wakes);
    tcase_add_test(c, the_loop_does_it);
    tcase_add_test(c, arrivals_wake);
    tcase_add_test(c, arrives_while_the_guest_runs);
    tcase_add_test(c, woken_by_the_loop);
    suite_add_tcase(s, c);
    return s;
}

int main(void)
{
    SRunner *runner = srunner_create(suite());
    int failed;

    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
