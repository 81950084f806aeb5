/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The hardware's help for the interrupt controller: each guest runs with every help that the
 * processor has and with all of them disabled, and sees the same.
 *
 * Intel SDM "APIC Virtualization and Virtual Interrupts", AMD APM volume 2 "Virtual Interrupts".
 */
#include "harness.h"
#include <virtx/lapic.h>

enum { WRITES = 10000, HABITS = 32, HELD = 0x51, HELD_CLASS = 5 };

#define HELP HARNESS_IRQ_HELP

/* Runs `one` without help, and then with each more of it that this processor has. */
static void with_each_help(void (*one)(void))
{
    static const uint64_t without[] = {
        HELP,
        HELP & ~VIRTX_FEATURE_TPR_SHADOW,
        HELP & ~(VIRTX_FEATURE_TPR_SHADOW | VIRTX_FEATURE_APIC_ACCESS),
        VIRTX_FEATURE_VIRTUAL_PRIORITY,
        0,
    };
    uint64_t before = UINT64_MAX;

    for (unsigned i = 0; i < sizeof(without) / sizeof(without[0]); i++) {
        struct virtx_caps caps;

        harness_disable = without[i];
        guest_reset();
        machine_open();
        caps = *virtx_caps(machine.virtx);
        if ((caps.features & HELP) != before)
            one();
        before = caps.features & HELP;
        machine_close();
    }
}

/* ---- A controller of the embedder's own: one line at a time, with a priority ---- */

static struct {
    int vector;
    uint8_t tpr, in_service;
    unsigned taken;
} source;

static int source_pending(void *ctx)
{
    unsigned class = source.vector < 0 ? 0 : (unsigned)source.vector >> 4;

    (void)ctx;
    return class > source.tpr >> 4 && class > source.in_service ? source.vector : -1;
}

static int source_take(void *ctx)
{
    int vector = source.vector;

    (void)ctx;
    source.vector = -1;
    source.taken++;
    return vector;
}

static uint8_t source_tpr(void *ctx)
{
    (void)ctx;
    return source.tpr;
}

static void source_set_tpr(void *ctx, uint8_t tpr)
{
    (void)ctx;
    source.tpr = tpr;
}

static const struct virtx_irq_source source_ops = {
    .pending = source_pending,
    .take = source_take,
    .tpr = source_tpr,
    .set_tpr = source_set_tpr,
};

static void with_source(void)
{
    source.vector = -1;
    source.tpr = source.in_service = 0;
    source.taken = 0;
    CHECK_OK(virtx_vcpu_irq_source(machine.vcpu, &source_ops, NULL));
}

/* ---- Many writes of CR8 ---- */

static void guest_cr8_loop(uint64_t rounds)
{
    uint64_t good = 0;

    for (uint64_t i = 0; i < rounds; i++) {
        bare_write_cr8(i & 15);
        good += bare_read_cr8() == (i & 15);
    }
    bare_write_cr8(7);
    guest_done(good);
}

static void count_cr8_loop(void)
{
    uint64_t before, exits;

    GUEST_RESULT(guest_cr8_loop, HABITS);
    before = guest_exits();
    CHECK_EQUAL(GUEST_RESULT(guest_cr8_loop, WRITES), WRITES);
    exits = guest_exits() - before;
    if (has_feature(VIRTX_FEATURE_TPR_SHADOW))
        CHECK(exits <= 4);
    else if (backend_is("vmx"))
        CHECK(exits >= 2 * WRITES); /* the count counts */
    CHECK_EQUAL(guest_state().cr8, 7);
}

static void loop_with_source(void)
{
    with_source();
    count_cr8_loop();
    CHECK_EQUAL(source.tpr, 0x70);
    CHECK_OK(virtx_vcpu_irq_source(machine.vcpu, NULL, NULL));
    /* Nobody wants to know it any more: no threshold is left behind. */
    CHECK_EQUAL(GUEST_RESULT(guest_cr8_loop, HABITS), HABITS);
}

static struct virtx_lapic lapic, *lapics[1];
static struct virtx_apic_bus bus;

static void with_lapic(uint32_t features)
{
    struct virtx_lapic_config config = {.size = sizeof(config),
                                        .features = features,
                                        .address_bits = 40,
                                        .bsp = true,
                                        .bus_multiply = 1,
                                        .bus_divide = 1};

    CHECK_OK(virtx_lapic_attach(&lapic, &config, machine.vcpu));
    virtx_apic_bus_init(&bus, lapics, 1);
    CHECK(virtx_apic_bus_add_lapic(&bus, &lapic));
    virtx_lapic_virtual_wire(&lapic);
}

static void loop_with_lapic(void)
{
    with_lapic(0);
    count_cr8_loop();
    CHECK_EQUAL(virtx_lapic_get_tpr(&lapic), 0x70);
    virtx_lapic_detach(&lapic);
}

static void cr8_writes_without_exits(void)
{
    with_each_help(loop_with_source);
    with_each_help(loop_with_lapic);
}

/* ---- An interrupt that CR8 holds back ---- */

/* Comes when the guest asks for it: MARK. */
static enum virtx_verdict raise_held(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    (void)ctx;
    source.vector = (int)exit->io.value;
    virtx_vcpu_irq_changed(vcpu);
    return VIRTX_HANDLED;
}

/* With IF = 1 all the way. Bit n of the result: the interrupt had come when CR8 was n. */
static void guest_lowers(uint64_t vector)
{
    uint64_t seen = 0;

    guest_handler[vector] = guest_ignore;
    for (uint64_t i = 0; i < HABITS; i++)
        bare_write_cr8(i & 15);
    bare_write_cr8(15);
    bare_irq_enable();
    guest_mark(vector);
    for (uint64_t i = 0; i < 100; i++)
        bare_write_cr8(i & 1 ? 15 : vector >> 4); /* above and at the priority */
    for (int cr8 = 15; cr8 >= 0; cr8--) {
        bare_write_cr8((uint64_t)cr8);
        seen |= guest_vector_count[vector] ? 1ul << cr8 : 0;
    }
    bare_irq_disable();
    guest_done(seen | guest_vector_count[vector] << 16);
}

static void lower_at(unsigned vector, bool quiet)
{
    unsigned class = vector >> 4;
    uint64_t before = guest_exits();

    source.vector = -1;
    guest_vector_count[vector] = 0;
    source.taken = 0;
    CHECK_EQUAL(GUEST_RESULT(guest_lowers, vector), ((1ul << class) - 1) | 1ul << 16);
    CHECK_EQUAL(source.taken, 1);
    /* The mark, the fall, perhaps the window, the result. */
    if (quiet && has_feature(VIRTX_FEATURE_TPR_SHADOW) &&
        (backend_is("vmx") || has_feature(VIRTX_FEATURE_VIRTUAL_PRIORITY)))
        CHECK(guest_exits() - before <= 4);
}

static void held_back(void)
{
    struct virtx_intercept *marks;

    with_source();
    marks = intercept_handler(VIRTX_INTERCEPT_PORT, VIRTX_WRITE, PORT_MARK, PORT_MARK, raise_held,
                              NULL);
    lower_at(HELD, false); /* its pages are met, and its habit is noticed */
    for (unsigned class = 2; class < 8; class ++)
        lower_at(class << 4 | 3, true);
    CHECK_OK(virtx_intercept_remove(marks));
    CHECK_OK(virtx_vcpu_irq_source(machine.vcpu, NULL, NULL));
}

static void interrupt_waits_for_cr8(void)
{
    with_each_help(held_back);
}

/* ---- CR8 exits armed beside it ---- */

static unsigned writes_seen, reads_seen;

static enum virtx_verdict count_cr8(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    (void)vcpu;
    (void)ctx;
    if (exit->cr.access == VIRTX_WRITE)
        writes_seen++;
    else
        reads_seen++;
    return VIRTX_DEFAULT;
}

static void armed(void)
{
    struct virtx_intercept *all;

    with_source();
    GUEST_RESULT(guest_cr8_loop, HABITS);
    writes_seen = reads_seen = 0;
    all = intercept_handler(VIRTX_INTERCEPT_CR, VIRTX_WRITE, 8, 8, count_cr8, NULL);
    CHECK_EQUAL(GUEST_RESULT(guest_cr8_loop, 100), 100);
    CHECK_EQUAL(writes_seen, 101);
    CHECK_EQUAL(reads_seen, 0);
    CHECK_EQUAL(source.tpr, 0x70);
    CHECK_OK(virtx_intercept_remove(all));
    writes_seen = reads_seen = 0;
    all = intercept_handler(VIRTX_INTERCEPT_CR, VIRTX_READ, 8, 8, count_cr8, NULL);
    CHECK_EQUAL(GUEST_RESULT(guest_cr8_loop, 100), 100);
    CHECK_EQUAL(writes_seen, 0);
    CHECK_EQUAL(reads_seen, 100);
    CHECK_OK(virtx_intercept_remove(all));
    writes_seen = reads_seen = 0;
    count_cr8_loop();
    CHECK_EQUAL(writes_seen + reads_seen, 0);
    CHECK_OK(virtx_vcpu_irq_source(machine.vcpu, NULL, NULL));
}

static void cr8_exits_armed(void)
{
    with_each_help(armed);
}

/* ---- The library's LAPIC ---- */

enum {
    APIC = 0xfee00000,
    REG_TPR = 0x80,
    REG_PPR = 0xa0,
    REG_EOI = 0xb0,
    REG_SVR = 0xf0,
    REG_ISR = 0x100,
    REG_TMR = 0x180,
    REG_IRR = 0x200,
    REG_ICR = 0x300,
    REG_ICR_HIGH = 0x310,
    REG_LVT_TIMER = 0x320,
    SELF = 1 << 18,
    LOG = 64,
};

static uint32_t apic_read(uint32_t offset)
{
    uint32_t value;
    __asm__ volatile("movl (%1), %0" : "=r"(value) : "r"((uint64_t)APIC + offset) : "memory");
    return value;
}

static void apic_write(uint32_t offset, uint32_t value)
{
    __asm__ volatile("movl %0, (%1)" : : "r"(value), "r"((uint64_t)APIC + offset) : "memory");
}

static uint8_t order[LOG];
static unsigned ordered;
static uint32_t in_handler[LOG];

static void guest_served(struct bare_frame *frame)
{
    uint8_t vector = (uint8_t)frame->vector;

    if (ordered < LOG) {
        in_handler[ordered] = apic_read(REG_PPR) |
                              (apic_read(REG_ISR + (vector >> 5) * 16u) >> (vector & 31) & 1) << 8 |
                              (apic_read(REG_IRR + (vector >> 5) * 16u) >> (vector & 31) & 1) << 9;
        order[ordered++] = vector;
    }
    apic_write(REG_EOI, 0);
}

static void guest_self_ipis(uint64_t unused)
{
    static const uint8_t vectors[] = {0x33, 0x61, 0x52, 0x9f, 0x53, 0x62};
    uint64_t bad = 0;

    (void)unused;
    ordered = 0;
    apic_write(REG_SVR, 0x1ff);
    for (unsigned i = 0; i < sizeof(vectors); i++)
        guest_handler[vectors[i]] = guest_served;
    for (uint64_t i = 0; i < HABITS; i++)
        bare_write_cr8(i & 15);
    /* TPR by both names. */
    apic_write(REG_TPR, 0x90);
    bad += bare_read_cr8() != 9;
    bare_write_cr8(6);
    bad += apic_read(REG_TPR) != 0x60;
    bad += apic_read(REG_PPR) != 0x60;
    bare_irq_enable();
    for (unsigned i = 0; i < sizeof(vectors); i++)
        apic_write(REG_ICR, SELF | vectors[i]);
    bad += ordered != 1; /* 9f */
    bad += (apic_read(REG_IRR + 0x20) != (1u << 0x12 | 1u << 0x13)) << 4;
    bare_write_cr8(5);
    bad += (ordered != 3) << 8; /* 62, 61 */
    apic_write(REG_TPR, 0x52);
    bad += (ordered != 3) << 9;
    apic_write(REG_TPR, 0x4f);
    bad += (ordered != 5) << 10; /* 53, 52 */
    bad += (apic_read(REG_PPR) != 0x4f) << 11;
    bare_write_cr8(3);
    bad += (ordered != 5) << 12;
    bare_write_cr8(2);
    bad += (ordered != 6) << 13;
    bare_write_cr8(0);
    bad += (apic_read(REG_PPR) != 0) << 14;
    /* MOV CR8 writes all of the register, even what is in that class already. */
    apic_write(REG_TPR, 0x5f);
    bad += (bare_read_cr8() != 5 || apic_read(REG_TPR) != 0x5f) << 15;
    bare_write_cr8(5);
    bad += (uint64_t)(apic_read(REG_TPR) != 0x50) << 16;
    bare_write_cr8(0);
    bare_irq_disable();
    guest_done(bad);
}

static void expect_order(void)
{
    static const uint8_t expected[] = {0x9f, 0x62, 0x61, 0x53, 0x52, 0x33};

    CHECK_EQUAL(ordered, sizeof(expected));
    for (unsigned i = 0; i < sizeof(expected); i++) {
        CHECK_EQUAL(order[i], expected[i]);
        CHECK_EQUAL(in_handler[i] & 0x3ff,
                    0x100 | (expected[i] & 0xf0)); /* in service, not requested */
    }
}

static void self_ipis(void)
{
    with_lapic(0);
    CHECK_EQUAL(GUEST_RESULT(guest_self_ipis, 0), 0);
    expect_order();
    CHECK_EQUAL(virtx_lapic_get_tpr(&lapic), 0);
    CHECK_EQUAL(virtx_lapic_pending(&lapic), VIRTX_IRQ_NONE);
    virtx_lapic_detach(&lapic);
}

static void lapic_priorities(void)
{
    with_each_help(self_ipis);
}

/* ---- Saved while an interrupt waits, restored, and gone on with ---- */

static void guest_before_and_after(uint64_t unused)
{
    uint64_t bad = 0;

    (void)unused;
    ordered = 0;
    apic_write(REG_SVR, 0x1ff);
    guest_handler[HELD] = guest_served;
    for (uint64_t i = 0; i < HABITS; i++)
        bare_write_cr8(i & 15);
    bare_write_cr8(6);
    bare_irq_enable();
    apic_write(REG_ICR, SELF | HELD);
    guest_done(ordered); /* the host exchanges the state here */
    bad += bare_read_cr8() != 6;
    bare_write_cr8(5);
    bad += ordered != 0;
    bare_write_cr8(4);
    bad += (ordered != 1) << 4;
    bare_irq_disable();
    guest_done(bad);
}

static void save_and_restore(void)
{
    struct virtx_lapic_state saved;

    with_lapic(0);
    CHECK_EQUAL(GUEST_RESULT(guest_before_and_after, 0), 0);
    virtx_lapic_save(&lapic, bare_tsc(), &saved);
    CHECK_EQUAL(saved.tpr, 0x60);
    virtx_lapic_detach(&lapic);
    with_lapic(0);
    CHECK_EQUAL(virtx_lapic_get_tpr(&lapic), 0);
    CHECK(virtx_lapic_restore(&lapic, bare_tsc(), &saved));
    CHECK_EQUAL(GUEST_CONTINUE(), 0);
    CHECK_EQUAL(ordered, 1);
    virtx_lapic_detach(&lapic);
}

static void lapic_restored(void)
{
    with_each_help(save_and_restore);
}

GUEST_CASES({"cr8-writes-without-exits", cr8_writes_without_exits},
            {"interrupt-waits-for-cr8", interrupt_waits_for_cr8},
            {"cr8-exits-armed", cr8_exits_armed}, {"lapic-priorities", lapic_priorities},
            {"lapic-saved-and-restored", lapic_restored});
