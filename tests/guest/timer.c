/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Times at which a guest is interrupted: by the timer of its local APIC, or by the embedder's
 * deadline. With the processor's own timer for that no timer of the host runs; without, or with it
 * disabled, the host has one that does no more than to interrupt. The guest sees the same.
 *
 * Intel SDM "VMX-Preemption Timer", "APIC Timer".
 */
#include "harness.h"
#include "guest_lapic.h"
#include <virtx/lapic.h>

enum {
    PERIODIC = 1 << 17,
    DEADLINE = 2 << 17,
    MASKED = 1 << 16,
    MSR_TSC_DEADLINE = 0x6e0,
    VECTOR = 0x52,
    VECTOR_HOST = 0x60,
    TICKS = 300000, /* of the TSC */
    LATE = 60000, /* at most, with the processor's timer: exits, and pages met for the first time */
};

static struct virtx_lapic lapic;
static volatile uint64_t came_at[16];
static volatile unsigned came;

static void guest_came(struct bare_frame *frame)
{
    (void)frame;
    if (came < 16)
        came_at[came] = bare_tsc();
    came++;
    apic_write(REG_EOI, 0);
}

static uint64_t began;

/* A timer of the kind `mode`; returns when `count` interrupts have come, by guest_done(). */
static void guest_times(uint64_t mode, unsigned count)
{
    guest_handler[VECTOR] = guest_came;
    came = 0;
    (void)GUEST_TRY("ud2", :); /* the pages that deliveries need are there */
    apic_write(REG_SVR, 0x1ff);
    apic_write(REG_DIVIDE, 0xb); /* by 1 */
    apic_write(REG_LVT_TIMER, (uint32_t)mode | VECTOR);
    bare_irq_enable();
    began = bare_tsc();
    if (mode == DEADLINE)
        bare_wrmsr(MSR_TSC_DEADLINE, began + TICKS);
    else
        apic_write(REG_INITIAL, TICKS);
    while (came < count)
        __asm__ volatile("pause");
    bare_irq_disable();
    apic_write(REG_LVT_TIMER, MASKED);
    guest_done(came);
}

static void guest_once(uint64_t mode)
{
    guest_times(mode, 1);
}

static void guest_periods(uint64_t unused)
{
    (void)unused;
    guest_times(PERIODIC, 5);
}

/* The host's clock, where it has to be the host's. */
static void host_clock(bool on)
{
    uint64_t ticks = TICKS / 10 * (bare_timer_hz() / 1000) / (bare_tsc_hz() / 1000 + 1);

    if (on && !has_feature(VIRTX_FEATURE_TIMER))
        bare_timer_start(VECTOR_HOST, (uint32_t)ticks + 1, true);
    else
        bare_timer_stop();
}

static void host_tick(struct bare_frame *frame, void *ctx)
{
    (void)frame;
    (void)ctx;
    bare_eoi();
}

static void with_lapic(void)
{
    struct virtx_lapic_config config = {.size = sizeof(config),
                                        .features = VIRTX_LAPIC_TSC_DEADLINE,
                                        .address_bits = 40,
                                        .bsp = true,
                                        .bus_multiply = 1,
                                        .bus_divide = 1};

    CHECK_OK(virtx_lapic_attach(&lapic, &config, machine.vcpu));
    virtx_lapic_virtual_wire(&lapic);
}

/* Not a tick early; late by what it costs, if no clock of the host's comes into it. */
static void check_times(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        uint64_t due = began + (uint64_t)(i + 1) * TICKS;

        CHECK(came_at[i] >= due);
        if (has_feature(VIRTX_FEATURE_TIMER))
            CHECK(came_at[i] < due + LATE);
    }
}

static uint64_t counted(unsigned reason)
{
    struct virtx_stats stats;

    virtx_vcpu_stats(machine.vcpu, &stats);
    return stats.exits[reason];
}

static void one_timer(void (*fn)(uint64_t), uint64_t argument, unsigned count)
{
    uint64_t interrupts = counted(VIRTX_EXIT_INTERRUPT), timers = counted(VIRTX_EXIT_DEADLINE);

    host_clock(true);
    CHECK_EQUAL(GUEST_RESULT(fn, argument), count);
    host_clock(false);
    check_times(count);
    interrupts = counted(VIRTX_EXIT_INTERRUPT) - interrupts;
    timers = counted(VIRTX_EXIT_DEADLINE) - timers;
    if (has_feature(VIRTX_FEATURE_TIMER)) {
        CHECK_EQUAL(interrupts, 0);
        CHECK(timers >= count && timers <= count + 1);
    } else {
        CHECK(interrupts >= count);
        CHECK_EQUAL(timers, 0);
    }
}

/* With and without the timer, and with and without the help for the controller beside it. */
static void with_each(void (*one)(void))
{
    static const uint64_t without[] = {0, VIRTX_FEATURE_TIMER, HARNESS_IRQ_HELP,
                                       HARNESS_IRQ_HELP | VIRTX_FEATURE_TIMER};

    harness_no_watchdog = true;
    bare_timer_stop();
    bare_handler_set(VECTOR_HOST, host_tick, NULL);
    for (unsigned i = 0; i < sizeof(without) / sizeof(without[0]); i++) {
        harness_disable = without[i];
        guest_reset();
        machine_open();
        one();
        machine_close();
    }
    bare_handler_set(VECTOR_HOST, NULL, NULL);
}

static void timers(void)
{
    if (harness_interpreted())
        return; /* the executor has no timer, and its time is another */
    with_lapic();
    one_timer(guest_once, 0, 1);
    one_timer(guest_once, DEADLINE, 1);
    one_timer(guest_periods, 0, 5);
    virtx_lapic_detach(&lapic);
}

/* Nothing of the host's runs but what run asks for. */
static unsigned asked;

static void arm(void *ctx, struct virtx_vcpu *vcpu, uint64_t tsc)
{
    uint64_t now = bare_tsc(), wait = tsc > now ? tsc - now : 0;

    (void)ctx;
    CHECK(vcpu == machine.vcpu);
    if (tsc == UINT64_MAX)
        return;
    asked++;
    bare_timer_start(VECTOR_HOST,
                     (uint32_t)(wait * (bare_timer_hz() / 1000) / (bare_tsc_hz() / 1000)) + 2,
                     false);
}

static void asked_for(void)
{
    uint64_t counts[] = {GUEST_RESULT(guest_once, 0), GUEST_RESULT(guest_once, DEADLINE),
                         GUEST_RESULT(guest_periods, 0)};

    CHECK_EQUAL(counts[0] + counts[1] + counts[2], 7);
    for (unsigned i = 0; i < 5; i++) {
        uint64_t due = began + (i + 1) * (uint64_t)TICKS;

        CHECK(came_at[i] >= due && came_at[i] < due + LATE);
    }
}

static void told(void)
{
    struct virtx_host_ops ops = bare_virtx_ops;

    ops.timer = arm;
    harness_ops = &ops;
    harness_no_watchdog = true;
    bare_handler_set(VECTOR_HOST, host_tick, NULL);
    for (unsigned i = 0; i < 2; i++) {
        harness_disable = i ? HARNESS_IRQ_HELP | VIRTX_FEATURE_TIMER : VIRTX_FEATURE_TIMER;
        guest_reset();
        machine_open();
        asked = 0;
        if (!harness_interpreted()) {
            with_lapic();
            asked_for();
            CHECK(asked >= 7);
            virtx_lapic_detach(&lapic);
        }
        machine_close();
    }
    bare_timer_stop();
    bare_handler_set(VECTOR_HOST, NULL, NULL);
}

static void lapic_timer(void)
{
    with_each(timers);
}

/* ---- The embedder's own deadline ---- */

/* With IF = 1, for Bochs' sake: its entries with IF = 0 hold the host's interrupts off. */
static void guest_spins(uint64_t exits)
{
    bare_irq_enable();
    for (;;) {
        if (exits)
            __asm__ volatile("cpuid" : : "a"(0) : "rbx", "rcx", "rdx");
        else
            __asm__ volatile("pause");
    }
}

/* To the first exit that is not the host's interrupt, which is taken here. */
static uint32_t run_on(void)
{
    uint32_t reason;

    do {
        reason = guest_run()->reason;
        bare_irq_enable();
        __asm__ volatile("nop");
        bare_irq_disable();
    } while (reason == VIRTX_EXIT_INTERRUPT);
    return reason;
}

/* How late run returns. */
static void comes_at(void (*fn)(uint64_t), uint64_t argument)
{
    uint64_t due;

    guest_prepare(fn, argument);
    CHECK_OK(virtx_vcpu_deadline(machine.vcpu, bare_tsc() + 10000));
    host_clock(true);
    CHECK_EQUAL(run_on(), VIRTX_EXIT_DEADLINE); /* pages are met */
    due = bare_tsc() + TICKS;
    CHECK_OK(virtx_vcpu_deadline(machine.vcpu, due));
    CHECK_EQUAL(run_on(), VIRTX_EXIT_DEADLINE);
    due = bare_tsc() - due;
    host_clock(false);
    CHECK(due < UINT64_MAX / 2);
    if (has_feature(VIRTX_FEATURE_TIMER))
        CHECK(due < 4000);
}

static void deadlines(void)
{
    comes_at(guest_spins, 0);
    comes_at(guest_spins, 1); /* the time that its exits take counts, too */
    /* Taken back, it does not come. */
    CHECK_OK(virtx_vcpu_deadline(machine.vcpu, bare_tsc() + 2000));
    CHECK_OK(virtx_vcpu_deadline(machine.vcpu, 0));
    with_lapic();
    host_clock(true);
    CHECK_EQUAL(GUEST_RESULT(guest_once, 0), 1);
    /* One that has gone by comes at once. */
    CHECK_OK(virtx_vcpu_deadline(machine.vcpu, 1));
    guest_prepare(guest_spins, 0);
    CHECK_EQUAL(run_on(), VIRTX_EXIT_DEADLINE);
    host_clock(false);
    virtx_lapic_detach(&lapic);
}

static void deadline_ends_run(void)
{
    with_each(deadlines);
}

/* ---- A source whose time is always over ---- */

static int never_pending(void *ctx)
{
    (void)ctx;
    return -1;
}

static uint64_t always_over(void *ctx)
{
    (void)ctx;
    return 1;
}

static void guest_counts(uint64_t rounds)
{
    for (volatile uint64_t i = 0; i < rounds; i++)
        ;
    guest_done(1);
}

static void over(void)
{
    static const struct virtx_irq_source source = {
        .pending = never_pending, .take = never_pending, .deadline = always_over};

    CHECK_OK(virtx_vcpu_irq_source(machine.vcpu, &source, NULL));
    host_clock(true);
    CHECK_EQUAL(GUEST_RESULT(guest_counts, 10000), 1); /* it moves all the same */
    host_clock(false);
    CHECK_OK(virtx_vcpu_irq_source(machine.vcpu, NULL, NULL));
}

static void deadline_in_the_past(void)
{
    with_each(over);
}

GUEST_CASES({"lapic-timer-without-the-hosts", lapic_timer}, {"host-is-told-of-the-time", told},
            {"deadline-ends-run", deadline_ends_run},
            {"deadline-in-the-past", deadline_in_the_past});
