/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The hardware's help for the interrupt controller: each guest runs with every help that the
 * processor has and with all of them disabled, and sees the same.
 *
 * Intel SDM "APIC Virtualization and Virtual Interrupts", AMD APM volume 2 "Virtual Interrupts".
 */
#include "harness.h"
#include "guest_lapic.h"
#include <virtx/lapic.h>

enum { WRITES = 10000, HABITS = 32, HELD = 0x51, HELD_CLASS = 5 };

#define HELP           HARNESS_IRQ_HELP
#define ALL_BUT(these) (HELP & ~(uint64_t)(VIRTX_FEATURE_##these))

/* Runs `one` without help, and then with each more of it that this processor has. */
static void with_each_help(void (*one)(void))
{
    static const uint64_t without[] = {
        HELP,
        ALL_BUT(TPR_SHADOW),
        ALL_BUT(TPR_SHADOW | VIRTX_FEATURE_APIC_ACCESS),
        ALL_BUT(TPR_SHADOW | VIRTX_FEATURE_VIRTUAL_INTERRUPT),
        ALL_BUT(TPR_SHADOW | VIRTX_FEATURE_APIC_ACCESS | VIRTX_FEATURE_APIC_REGISTERS),
        ALL_BUT(TPR_SHADOW | VIRTX_FEATURE_APIC_ACCESS | VIRTX_FEATURE_VIRTUAL_INTERRUPT),
        ALL_BUT(TPR_SHADOW | VIRTX_FEATURE_VIRTUAL_X2APIC),
        ALL_BUT(TPR_SHADOW | VIRTX_FEATURE_VIRTUAL_X2APIC | VIRTX_FEATURE_APIC_REGISTERS),
        ALL_BUT(TPR_SHADOW | VIRTX_FEATURE_VIRTUAL_X2APIC | VIRTX_FEATURE_VIRTUAL_INTERRUPT),
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
    SELF = 1 << 18,
    LOG = 64,
};

static uint8_t order[LOG];
static unsigned ordered;
static uint32_t in_handler[LOG];

/* Bochs 2.7 says of a virtual interrupt whose delivery is interrupted by an EPT violation that it
 * was whatever event came before: let the pages that deliveries need be there. */
static void touch_idt(void)
{
    (void)GUEST_TRY("ud2", :);
}

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
    touch_idt();
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
    touch_idt();
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

/* ---- Registers without exits ---- */

static void guest_reads(uint64_t rounds)
{
    uint64_t sum = 0;

    apic_write(REG_TPR, 0x20);
    for (uint64_t i = 0; i < rounds; i++)
        sum += apic_read(REG_VERSION) != 0x50014 || apic_read(REG_SVR) != 0x1ff ||
               apic_read(REG_LVT_TIMER) != 0x10040 || apic_read(REG_TPR) != 0x20;
    guest_done(sum);
}

static void guest_sets_up(uint64_t unused)
{
    (void)unused;
    apic_write(REG_SVR, 0xfffff1ff);    /* reserved bits are not kept */
    apic_write(REG_LVT_TIMER, 0x11040); /* nor is the delivery status */
    guest_done(0);
}

static void reads(void)
{
    uint64_t before;

    with_lapic(0);
    GUEST_RESULT(guest_sets_up, 0);
    CHECK_EQUAL(GUEST_RESULT(guest_reads, HABITS), 0);
    before = guest_exits();
    CHECK_EQUAL(GUEST_RESULT(guest_reads, 1000), 0);
    before = guest_exits() - before;
    if (paging_is_nested() && has_feature(VIRTX_FEATURE_APIC_ACCESS) &&
        has_feature(VIRTX_FEATURE_APIC_REGISTERS))
        CHECK(before <= 3);
    else
        CHECK(before >= 3000);
    virtx_lapic_detach(&lapic);
}

static void registers_without_exits(void)
{
    with_each_help(reads);
}

/* ---- A level, and who hears of its end ---- */

static unsigned ends_heard;
static uint8_t end_vector;

static void hear_end(void *ctx, uint8_t vector)
{
    (void)ctx;
    ends_heard++;
    end_vector = vector;
}

static uint32_t send_nowhere(void *ctx, const struct virtx_apic_message *message)
{
    (void)ctx;
    (void)message;
    return 0;
}

static void guest_waits_for_one(uint64_t vector)
{
    guest_handler[vector] = guest_served;
    ordered = 0;
    touch_idt();
    apic_write(REG_SVR, 0x1ff);
    guest_done(0); /* the host raises it here */
    bare_irq_enable();
    while (*(volatile unsigned *)&ordered == 0)
        __asm__ volatile("pause");
    bare_irq_disable();
    guest_done(apic_read(REG_TMR + (uint32_t)(vector >> 5) * 16) >> (vector & 31) & 1);
}

static void level_and_edge(void)
{
    with_lapic(0);
    virtx_lapic_connect(&lapic, send_nowhere, hear_end, NULL);
    for (unsigned level = 2; level-- > 0;) {
        ends_heard = 0;
        CHECK_EQUAL(GUEST_RESULT(guest_waits_for_one, HELD), 0);
        CHECK(virtx_lapic_accept(&lapic, VIRTX_APIC_FIXED, HELD, level));
        CHECK_EQUAL(GUEST_CONTINUE(), level);
        CHECK_EQUAL(ordered, 1);
        CHECK_EQUAL(ends_heard, level);
        CHECK(!level || end_vector == HELD);
    }
    virtx_lapic_detach(&lapic);
}

static void level_ends(void)
{
    with_each_help(level_and_edge);
}

/* ---- x2APIC mode ---- */

enum { MSR_BASE = 0x1b, MSR_X2APIC = 0x800 };

static uint64_t x2apic_read(uint32_t offset)
{
    return bare_rdmsr(MSR_X2APIC + offset / 16);
}

static void x2apic_write(uint32_t offset, uint64_t value)
{
    bare_wrmsr(MSR_X2APIC + offset / 16, value);
}

static void guest_served_x2apic(struct bare_frame *frame)
{
    if (ordered < LOG)
        order[ordered++] = (uint8_t)frame->vector;
    x2apic_write(REG_EOI, 0);
}

static void guest_x2apic(uint64_t unused)
{
    uint32_t low, high;
    uint64_t bad = 0;

    (void)unused;
    ordered = 0;
    touch_idt();
    guest_handler[0x61] = guest_handler[0x72] = guest_served_x2apic;
    bare_wrmsr(MSR_BASE, bare_rdmsr(MSR_BASE) | 3u << 10);
    x2apic_write(REG_SVR, 0x1ff);
    bad += x2apic_read(REG_ID) != 0 || x2apic_read(REG_LDR) != 1;
    bad += (uint64_t)(x2apic_read(REG_VERSION) != 0x50014) << 1;
    x2apic_write(REG_TPR, 0x70);
    bad += (uint64_t)(bare_read_cr8() != 7) << 2;
    bare_irq_enable();
    x2apic_write(REG_SELF_IPI, 0x61);
    x2apic_write(REG_ICR, SELF | 0x72);
    bad += (uint64_t)(ordered != 0) << 3;
    bad += (uint64_t)(x2apic_read(REG_IRR + 0x30) != (1u << 1 | 1u << 18)) << 4;
    bare_write_cr8(6);
    bad += (uint64_t)(ordered != 1 || order[0] != 0x72) << 5;
    x2apic_write(REG_TPR, 0);
    bad += (uint64_t)(ordered != 2 || order[1] != 0x61) << 6;
    bare_irq_disable();
    /* What is reserved or does not exist in this mode. */
    bad += (uint64_t)(GUEST_TRY("wrmsr", : "c"(MSR_X2APIC + 8), "a"(0x100), "d"(0)) != 13) << 7;
    bad += (uint64_t)(GUEST_TRY("wrmsr", : "c"(MSR_X2APIC + 0xb), "a"(1), "d"(0)) != 13) << 8;
    bad += (uint64_t)(GUEST_TRY("rdmsr", "=a"(low), "=d"(high) : "c"(MSR_X2APIC + 0xe)) != 13) << 9;
    bad += (uint64_t)(GUEST_TRY("wrmsr",
                                : "c"(MSR_X2APIC + 0xf), "a"(0x80000), "d"(0)) != 13)
           << 10;
    bad += (uint64_t)(x2apic_read(REG_SVR) != 0x1ff) << 11;
    guest_done(bad);
}

static void guest_x2apic_reads(uint64_t rounds)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < rounds; i++)
        sum += x2apic_read(REG_VERSION) + x2apic_read(REG_TPR);
    guest_done(sum == rounds * 0x50014);
}

static void x2apic(void)
{
    uint64_t before;

    with_lapic(VIRTX_LAPIC_X2APIC);
    CHECK_EQUAL(GUEST_RESULT(guest_x2apic, 0), 0);
    before = guest_exits();
    CHECK_EQUAL(GUEST_RESULT(guest_x2apic_reads, 1000), 1);
    before = guest_exits() - before;
    if (!has_feature(VIRTX_FEATURE_VIRTUAL_X2APIC))
        CHECK(before >= 2000);
    else if (!has_feature(VIRTX_FEATURE_APIC_REGISTERS))
        CHECK(before >= 1000 && before <= 1002); /* the TPR alone needs no exit */
    else
        CHECK(before <= 2);
    virtx_lapic_detach(&lapic);
}

static void x2apic_mode(void)
{
    with_each_help(x2apic);
}

/* ---- MSR intercepts of the embedder's, while the processor serves the registers ---- */

enum { MSR_FMASK = 0xc0000084, ANSWER = 0x1234 }; /* the former is the guest's by default */

static unsigned msr_answers;

static enum virtx_verdict answer_msr(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    (void)vcpu;
    (void)ctx;
    msr_answers++;
    exit->msr.value = ANSWER;
    return VIRTX_HANDLED;
}

static void guest_reads_msr(uint64_t index)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < 10; i++)
        sum += bare_rdmsr((uint32_t)index);
    guest_done(sum);
}

static uint64_t again(void (*fn)(uint64_t), uint64_t argument)
{
    guest_prepare_again(fn, argument);
    msr_answers = 0;
    return GUEST_CONTINUE();
}

static void x2apic_and_rules(void)
{
    struct virtx_intercept_config config = {.size = sizeof(config),
                                            .kind = VIRTX_INTERCEPT_MSR,
                                            .access = VIRTX_READ,
                                            .first = MSR_X2APIC + 3,
                                            .last = MSR_X2APIC + 8,
                                            .handler = answer_msr};
    struct virtx_intercept *of_vm = NULL, *own = NULL;
    uint64_t exits;

    with_lapic(VIRTX_LAPIC_X2APIC);
    CHECK_EQUAL(GUEST_RESULT(guest_x2apic, 0), 0);
    /* The registers are the LAPIC's: by its own rules, which go before the VM's. */
    CHECK_STATUS(virtx_vcpu_intercept(machine.vcpu, &config, NULL), VIRTX_E_OVERLAP);
    CHECK_OK(virtx_vm_intercept(machine.vm, &config, &of_vm));
    CHECK_EQUAL(again(guest_reads_msr, MSR_X2APIC + 3), 10ul * 0x50014);
    CHECK_EQUAL(msr_answers, 0);
    /* Those beside them come and go as ever. */
    config.first = config.last = MSR_FMASK;
    CHECK_OK(virtx_vcpu_intercept(machine.vcpu, &config, &own));
    CHECK_EQUAL(again(guest_reads_msr, MSR_FMASK), 10ul * ANSWER);
    CHECK_EQUAL(msr_answers, 10);
    CHECK_EQUAL(again(guest_reads_msr, MSR_X2APIC + 3), 10ul * 0x50014);
    CHECK_OK(virtx_intercept_remove(own));
    exits = guest_exits();
    again(guest_reads_msr, MSR_FMASK);
    CHECK_EQUAL(msr_answers, 0);
    CHECK(guest_exits() - exits <= 2);
    CHECK_OK(virtx_vcpu_intercept(machine.vcpu, &config, &own));
    /* With the LAPIC its rules go, and the hardware's help; the VM's are there still. */
    virtx_lapic_detach(&lapic);
    CHECK_EQUAL(again(guest_reads_msr, MSR_X2APIC + 3), 10ul * ANSWER);
    CHECK_EQUAL(msr_answers, 10);
    CHECK_EQUAL(again(guest_reads_msr, MSR_X2APIC + 8), 10ul * ANSWER);
    CHECK_EQUAL(again(guest_reads_msr, MSR_FMASK), 10ul * ANSWER);
    CHECK_EQUAL(msr_answers, 10);
}

static void x2apic_beside_rules(void)
{
    with_each_help(x2apic_and_rules);
}

/* ---- Another place for the registers ---- */

enum { ELSEWHERE = 0xfeb00000, NOBODY = 0x77 };

static uint32_t read_at(uint64_t address)
{
    uint32_t value;
    __asm__ volatile("movl (%1), %0" : "=r"(value) : "r"(address) : "memory");
    return value;
}

static void guest_served_elsewhere(struct bare_frame *frame)
{
    (void)frame;
    ordered++;
    *(volatile uint32_t *)(uintptr_t)(ELSEWHERE + REG_EOI) = 0;
}

/* What is at the place that the registers have left answers NOBODY. */
static void guest_relocates(uint64_t rounds)
{
    uint64_t base = bare_rdmsr(MSR_BASE), bad = 0;

    ordered = 0;
    touch_idt();
    guest_handler[HELD] = guest_served_elsewhere;
    apic_write(REG_SVR, 0x1ff);
    apic_write(REG_TPR, 0x30);
    bad += apic_read(REG_VERSION) != 0x50014;
    bad += (uint64_t)(read_at(ELSEWHERE + REG_VERSION) != NOBODY) << 1;
    bare_wrmsr(MSR_BASE, ELSEWHERE | (base & 0xfff));
    bad += (uint64_t)(apic_read(REG_VERSION) != NOBODY) << 2;
    for (uint64_t i = 0; i < rounds; i++)
        bad |= (uint64_t)(read_at(ELSEWHERE + REG_VERSION) != 0x50014 ||
                          read_at(ELSEWHERE + REG_TPR) != 0x30)
               << 3;
    bad += (uint64_t)(read_at(ELSEWHERE + REG_SVR) != 0x1ff) << 4;
    bare_irq_enable();
    *(volatile uint32_t *)(uintptr_t)(ELSEWHERE + REG_ICR) = SELF | HELD;
    for (volatile unsigned i = 0; i < 100 && !*(volatile unsigned *)&ordered; i++)
        ;
    bare_irq_disable();
    bad += (uint64_t)(ordered != 1) << 5;
    bare_wrmsr(MSR_BASE, base);
    bad += (uint64_t)(read_at(ELSEWHERE + REG_VERSION) != NOBODY) << 6;
    bad += (uint64_t)(apic_read(REG_VERSION) != 0x50014 || apic_read(REG_TPR) != 0x30) << 7;
    guest_done(bad);
}

static enum virtx_verdict answer_nobody(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    (void)vcpu;
    (void)ctx;
    exit->mmio.value = NOBODY;
    return VIRTX_HANDLED;
}

static void relocation(void)
{
    struct virtx_intercept *first = intercept_handler(VIRTX_INTERCEPT_MMIO, VIRTX_READ, APIC,
                                                      APIC + 0xfff, answer_nobody, NULL);
    struct virtx_intercept *second = intercept_handler(VIRTX_INTERCEPT_MMIO, VIRTX_READ, ELSEWHERE,
                                                       ELSEWHERE + 0xfff, answer_nobody, NULL);
    uint64_t before;

    with_lapic(0);
    CHECK_EQUAL(GUEST_RESULT(guest_relocates, 1), 0);
    before = guest_exits();
    CHECK_EQUAL(GUEST_RESULT(guest_relocates, 1000), 0);
    before = guest_exits() - before;
    if (paging_is_nested() && has_feature(VIRTX_FEATURE_APIC_ACCESS) &&
        has_feature(VIRTX_FEATURE_APIC_REGISTERS))
        CHECK(before < 100); /* the help has moved along */
    else
        CHECK(before >= 1000);
    virtx_lapic_detach(&lapic);
    CHECK_OK(virtx_intercept_remove(first));
    CHECK_OK(virtx_intercept_remove(second));
}

static void lapic_relocated(void)
{
    with_each_help(relocation);
}

GUEST_CASES({"cr8-writes-without-exits", cr8_writes_without_exits},
            {"interrupt-waits-for-cr8", interrupt_waits_for_cr8},
            {"cr8-exits-armed", cr8_exits_armed}, {"lapic-priorities", lapic_priorities},
            {"lapic-saved-and-restored", lapic_restored},
            {"lapic-registers-without-exits", registers_without_exits},
            {"lapic-level-ends", level_ends}, {"x2apic-mode", x2apic_mode},
            {"x2apic-mode-and-msr-intercepts", x2apic_beside_rules},
            {"lapic-relocated", lapic_relocated});
