/* SPDX-License-Identifier: BSD-2-Clause */
/* The LAPIC and its bus against the Intel SDM's APIC chapter. */
#include <virtx/lapic.h>

#include <check.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define CPUS 4
#define ALL_FEATURES                                                                               \
    (VIRTX_LAPIC_X2APIC | VIRTX_LAPIC_TSC_DEADLINE | VIRTX_LAPIC_EOI_SUPPRESSION | VIRTX_LAPIC_CMCI)

static struct virtx_apic_bus bus;
static struct virtx_lapic *table[CPUS];
static struct virtx_lapic lapic[CPUS];
static struct virtx_lapic *const l = &lapic[0];
static int events[CPUS][8];
static uint8_t event_vector;
static int changes[CPUS];
static uint64_t now;

static int ext_vector;
static int ext_taken;

static int ext_pending(void *ctx)
{
    ck_assert_ptr_eq(ctx, &ext_vector);
    return ext_vector;
}

static int ext_take(void *ctx)
{
    int vector = ext_vector;

    ck_assert_ptr_eq(ctx, &ext_vector);
    ext_taken++;
    ext_vector = -1;
    return vector;
}

static const struct virtx_irq_source ext = {.pending = ext_pending, .take = ext_take};

static void changed(void *ctx)
{
    __atomic_fetch_add(&changes[(struct virtx_lapic *)ctx - lapic], 1, __ATOMIC_RELAXED);
}

static void event(void *ctx, enum virtx_apic_delivery kind, uint8_t vector)
{
    events[(struct virtx_lapic *)ctx - lapic][kind]++;
    event_vector = vector;
}

static struct virtx_lapic_config config_of(unsigned i)
{
    return (struct virtx_lapic_config){
        .size = sizeof(struct virtx_lapic_config),
        .id = i,
        .features = ALL_FEATURES,
        .address_bits = 40,
        .bsp = i == 0,
        .bus_multiply = 1,
        .bus_divide = 1,
        .ctx = &lapic[i],
        .changed = changed,
        .event = event,
        .extint = &ext,
        .extint_ctx = &ext_vector,
    };
}

static uint32_t rd(struct virtx_lapic *a, uint32_t offset)
{
    return (uint32_t)virtx_lapic_mmio_read(a, offset, 4, now);
}

static void wr(struct virtx_lapic *a, uint32_t offset, uint32_t value)
{
    virtx_lapic_mmio_write(a, offset, 4, value, now);
}

static void setup_raw(void)
{
    memset(events, 0, sizeof(events));
    memset(changes, 0, sizeof(changes));
    now = 1000000;
    ext_vector = -1;
    ext_taken = 0;
    virtx_apic_bus_init(&bus, table, CPUS);
    for (unsigned i = 0; i < CPUS; i++) {
        struct virtx_lapic_config config = config_of(i);

        ck_assert(virtx_lapic_init(&lapic[i], &config));
        ck_assert(virtx_apic_bus_add_lapic(&bus, &lapic[i]));
    }
}

static void setup(void)
{
    setup_raw();
    for (unsigned i = 0; i < CPUS; i++)
        wr(&lapic[i], 0xf0, 0x1ff);
}

static bool to_x2apic(struct virtx_lapic *a)
{
    return virtx_lapic_msr_write(a, 0x1b, now, a->base | 0xc00);
}

static bool post(struct virtx_lapic *a, uint8_t vector)
{
    return virtx_lapic_accept(a, VIRTX_APIC_FIXED, vector, false);
}

static uint32_t errors(struct virtx_lapic *a)
{
    wr(a, 0x280, 0);
    return rd(a, 0x280);
}

static const uint32_t lvt_offsets[] = {0x320, 0x330, 0x340, 0x350, 0x360, 0x370, 0x2f0};

START_TEST(bad_configurations)
{
    struct virtx_lapic_config good = config_of(0), bad;
    struct virtx_lapic other;

    ck_assert(virtx_lapic_init(&other, &good));
    ck_assert(!virtx_apic_bus_add_lapic(&bus, &other)); /* Table full. */
#define REFUSED(change)                                                                            \
    do {                                                                                           \
        bad = good;                                                                                \
        bad.change;                                                                                \
        ck_assert(!virtx_lapic_init(&other, &bad));                                                \
    } while (0)
    REFUSED(size = 8);
    REFUSED(changed = NULL);
    REFUSED(event = NULL);
    REFUSED(bus_multiply = 0);
    REFUSED(bus_divide = 0);
    REFUSED(address_bits = 31);
    REFUSED(address_bits = 53);
}
END_TEST

/* "Local APIC State After Power-Up or Reset". */
START_TEST(reset_state)
{
    static const struct {
        uint32_t offset, value;
    } expected[] = {
        {0x020, 0x02000000}, {0x030, 0x01060014}, {0x080, 0},       {0x090, 0},
        {0x0a0, 0},          {0x0c0, 0},          {0x0d0, 0},       {0x0e0, 0xffffffff},
        {0x0f0, 0xff},       {0x280, 0},          {0x2f0, 0x10000}, {0x300, 0},
        {0x310, 0},          {0x320, 0x10000},    {0x330, 0x10000}, {0x340, 0x10000},
        {0x350, 0x10000},    {0x360, 0x10000},    {0x370, 0x10000}, {0x380, 0},
        {0x390, 0},          {0x3e0, 0},
    };
    uint64_t base;

    setup_raw();
    for (unsigned i = 0; i < sizeof(expected) / sizeof(*expected); i++)
        ck_assert_msg(rd(&lapic[2], expected[i].offset) == expected[i].value, "offset %x is %x",
                      expected[i].offset, rd(&lapic[2], expected[i].offset));
    for (uint32_t offset = 0x100; offset < 0x280; offset += 0x10)
        ck_assert_uint_eq(rd(&lapic[2], offset), 0);
    ck_assert_uint_eq(errors(&lapic[2]), 0);
    ck_assert(virtx_lapic_msr_read(&lapic[0], 0x1b, now, &base));
    ck_assert_uint_eq(base, 0xfee00900);
    ck_assert(virtx_lapic_msr_read(&lapic[2], 0x1b, now, &base));
    ck_assert_uint_eq(base, 0xfee00800);
    ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE);
    ck_assert_uint_eq(virtx_lapic_deadline(l), VIRTX_LAPIC_NO_DEADLINE);
}
END_TEST

/* What each register keeps of all ones, and what of zeroes after that. */
START_TEST(writable_bits)
{
    static const struct {
        uint32_t offset, ones, zeroes;
    } expected[] = {
        {0x020, 0, 0},          {0x030, 0x01060014, 0x01060014},
        {0x080, 0xff, 0},       {0x0a0, 0xff, 0xff},
        {0x0d0, 0xff000000, 0}, {0x0e0, 0xffffffff, 0x0fffffff},
        {0x0f0, 0x11ff, 0},     {0x2f0, 0x107ff, 0},
        {0x320, 0x700ff, 0},    {0x330, 0x107ff, 0},
        {0x340, 0x107ff, 0},    {0x350, 0x1a7ff, 0},
        {0x360, 0x1a7ff, 0},    {0x370, 0x100ff, 0},
        {0x310, 0xff000000, 0}, {0x3e0, 0xb, 0},
    };

    for (unsigned i = 0; i < sizeof(expected) / sizeof(*expected); i++) {
        uint32_t offset = expected[i].offset;

        setup();
        if (offset == 0x0a0)
            wr(l, 0x80, 0xff); /* PPR follows TPR and cannot be written. */
        wr(l, offset, 0xffffffff);
        ck_assert_msg(rd(l, offset) == expected[i].ones, "offset %x is %x", offset, rd(l, offset));
        if (offset == 0x320)
            wr(l, offset, 0x10000);
        wr(l, offset, 0);
        ck_assert_msg(rd(l, offset) == expected[i].zeroes, "offset %x is %x", offset,
                      rd(l, offset));
        ck_assert_uint_eq(errors(l), 0);
    }
}
END_TEST

START_TEST(reserved_registers)
{
    static const uint32_t reserved[] = {0x000, 0x010, 0x040, 0x070, 0x290, 0x2e0,
                                        0x3a0, 0x3d0, 0x3f0, 0x400, 0x500, 0xff0};

    for (unsigned i = 0; i < sizeof(reserved) / sizeof(*reserved); i++) {
        ck_assert_uint_eq(rd(l, reserved[i]), 0);
        ck_assert_uint_eq(errors(l), 0x80);
        wr(l, reserved[i], 1);
        ck_assert_uint_eq(errors(l), 0x80);
        ck_assert_uint_eq(errors(l), 0);
    }
    ck_assert_uint_eq(rd(l, 0xb0), 0);
    ck_assert_uint_eq(errors(l), 0);
}
END_TEST

START_TEST(access_sizes)
{
    wr(l, 0x350, 0x187a5);
    ck_assert_uint_eq(virtx_lapic_mmio_read(l, 0x350, 1, now), 0xa5);
    ck_assert_uint_eq(virtx_lapic_mmio_read(l, 0x351, 2, now), 0x0187);
    ck_assert_uint_eq(virtx_lapic_mmio_read(l, 0x350, 8, now), 0x187a5);
    ck_assert_uint_eq(virtx_lapic_mmio_read(l, 0x354, 4, now), 0);
    virtx_lapic_mmio_write(l, 0x80, 1, 0x20, now);
    virtx_lapic_mmio_write(l, 0x80, 8, 0x20, now);
    virtx_lapic_mmio_write(l, 0x84, 4, 0x20, now);
    ck_assert_uint_eq(rd(l, 0x80), 0);
}
END_TEST

START_TEST(priorities)
{
    ck_assert(post(l, 0x45));
    ck_assert(post(l, 0x83));
    ck_assert(post(l, 0x81));
    ck_assert_int_eq(changes[0], 3);
    ck_assert_uint_eq(rd(l, 0x240), 0x0000000a);
    ck_assert_uint_eq(rd(l, 0x220), 1u << 5);
    ck_assert_int_eq(virtx_lapic_pending(l), 0x83);
    ck_assert_int_eq(virtx_lapic_pending(l), 0x83);
    ck_assert_int_eq(virtx_lapic_take(l), 0x83);
    ck_assert_uint_eq(rd(l, 0xa0), 0x80);
    ck_assert_uint_eq(rd(l, 0x140), 0x8);
    ck_assert_uint_eq(rd(l, 0x240), 0x2);
    /* Same class: waits. Higher class: nests. */
    ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE);
    post(l, 0x90);
    ck_assert_int_eq(virtx_lapic_take(l), 0x90);
    wr(l, 0xb0, 0);
    ck_assert_uint_eq(rd(l, 0xa0), 0x80);
    ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE);
    wr(l, 0xb0, 0);
    ck_assert_int_eq(virtx_lapic_take(l), 0x81);
    wr(l, 0xb0, 0);
    ck_assert_int_eq(virtx_lapic_take(l), 0x45);
    wr(l, 0xb0, 0);
    wr(l, 0xb0, 0); /* One too many is harmless. */
    ck_assert_uint_eq(rd(l, 0xa0), 0);
    ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE);
}
END_TEST

START_TEST(task_priority)
{
    const struct virtx_irq_source *source = &virtx_lapic_irq_source;

    post(l, 0x45);
    wr(l, 0x80, 0x3f);
    ck_assert_int_eq(source->pending(l), 0x45);
    ck_assert_uint_eq(virtx_lapic_tpr_threshold(l), 0);
    wr(l, 0x80, 0x40); /* Equal is not above. */
    ck_assert_int_eq(source->pending(l), VIRTX_IRQ_NONE);
    ck_assert_uint_eq(virtx_lapic_tpr_threshold(l), 4);
    ck_assert_uint_eq(source->tpr(l), 0x40);
    source->set_tpr(l, 0x70);
    ck_assert_uint_eq(rd(l, 0x80), 0x70);
    ck_assert_uint_eq(rd(l, 0xa0), 0x70);
    ck_assert_uint_eq(virtx_lapic_tpr_threshold(l), 4);
    source->set_tpr(l, 0x30);
    ck_assert_int_eq(source->take(l), 0x45);
    /* Held back by what is in service: no task priority would help. */
    post(l, 0x46);
    wr(l, 0x80, 0xff);
    ck_assert_uint_eq(virtx_lapic_tpr_threshold(l), 0);
    ck_assert_uint_eq(rd(l, 0xa0), 0xff);
    wr(l, 0x80, 0x41);
    ck_assert_uint_eq(rd(l, 0xa0), 0x41); /* Equal classes: TPR wins with its sub-class. */
    wr(l, 0x80, 0x12);
    ck_assert_uint_eq(rd(l, 0xa0), 0x40);
}
END_TEST

START_TEST(spurious)
{
    wr(l, 0xf0, 0x1e7);
    ck_assert_int_eq(virtx_lapic_take(l), 0xe7);
    post(l, 0x45);
    wr(l, 0x80, 0x50);
    ck_assert_int_eq(virtx_lapic_take(l), 0xe7);
    for (uint32_t offset = 0x100; offset < 0x180; offset += 0x10)
        ck_assert_uint_eq(rd(l, offset), 0);
    wr(l, 0x80, 0);
    ck_assert_int_eq(virtx_lapic_take(l), 0x45);
}
END_TEST

/* Against a model that has nothing but the definitions. */
START_TEST(random_against_reference)
{
    bool irr[256] = {0}, isr[256] = {0};
    unsigned tpr = 0, delivered = 0;

    srand(1);
    for (int i = 0; i < 50000; i++) {
        unsigned r = (unsigned)rand(), top_irr = 0, top_isr = 0, ppr;
        uint8_t vector = (uint8_t)(16 + r / 8 % 240);
        int expected;

        switch (r % 8) {
        case 0:
        case 1:
        case 2:
            ck_assert(post(l, vector));
            irr[vector] = true;
            break;
        case 3:
            tpr = vector;
            wr(l, 0x80, tpr);
            break;
        case 4:
        case 5:
            for (unsigned v = 255; v > 0; v--) {
                if (isr[v]) {
                    isr[v] = false;
                    break;
                }
            }
            wr(l, 0xb0, 0);
            break;
        default:
            break;
        }
        for (unsigned v = 0; v < 256; v++) {
            top_irr = irr[v] ? v : top_irr;
            top_isr = isr[v] ? v : top_isr;
        }
        ppr = tpr >> 4 >= top_isr >> 4 ? tpr : top_isr & 0xf0;
        expected = top_irr >> 4 > ppr >> 4 ? (int)top_irr : VIRTX_IRQ_NONE;
        ck_assert_int_eq(virtx_lapic_pending(l), expected);
        ck_assert_uint_eq(rd(l, 0xa0), ppr);
        if (expected >= 0 && r % 8 >= 6) {
            ck_assert_int_eq(virtx_lapic_take(l), expected);
            irr[expected] = false;
            isr[expected] = true;
            delivered++;
        }
        if (i % 64 == 0) {
            for (unsigned v = 0; v < 256; v++) {
                ck_assert_uint_eq(rd(l, 0x200 + v / 32 * 16) >> v % 32 & 1, irr[v]);
                ck_assert_uint_eq(rd(l, 0x100 + v / 32 * 16) >> v % 32 & 1, isr[v]);
            }
        }
    }
    ck_assert_uint_gt(delivered, 2000);
}
END_TEST

START_TEST(arbitration_priority)
{
    wr(l, 0x80, 0x5a);
    ck_assert_uint_eq(rd(l, 0x90), 0x5a);
    post(l, 0x61);
    ck_assert_uint_eq(rd(l, 0x90), 0x60);
    ck_assert_int_eq(virtx_lapic_take(l), 0x61);
    /* APR[7:4] = max(TPR[7:4] AND ISRV[7:4], IRRV[7:4]). */
    ck_assert_uint_eq(rd(l, 0x90), 0x40);
}
END_TEST

static int eoi_vector, eoi_count;

static void count_eoi(void *ctx, uint8_t vector)
{
    ck_assert_ptr_eq(ctx, &eoi_count);
    eoi_vector = vector;
    eoi_count++;
}

static uint32_t refuse(void *ctx, const struct virtx_apic_message *message)
{
    (void)ctx;
    (void)message;
    return 0;
}

START_TEST(eoi_broadcast)
{
    eoi_count = 0;
    virtx_lapic_connect(l, refuse, count_eoi, &eoi_count);
    ck_assert(virtx_lapic_accept(l, VIRTX_APIC_FIXED, 0x51, true));
    ck_assert_uint_eq(rd(l, 0x220), 1u << 17); /* 51H is bit 17 of the third word. */
    ck_assert_uint_eq(rd(l, 0x1a0), 1u << 17);
    ck_assert_int_eq(virtx_lapic_take(l), 0x51);
    wr(l, 0xb0, 0);
    ck_assert_int_eq(eoi_count, 1);
    ck_assert_int_eq(eoi_vector, 0x51);
    /* An edge on the same vector clears the TMR bit. */
    post(l, 0x51);
    ck_assert_int_eq(virtx_lapic_take(l), 0x51);
    ck_assert_uint_eq(rd(l, 0x1a0), 0);
    wr(l, 0xb0, 0);
    ck_assert_int_eq(eoi_count, 1);
    /* Suppressed. */
    wr(l, 0xf0, 0x11ff);
    virtx_lapic_accept(l, VIRTX_APIC_FIXED, 0x51, true);
    ck_assert_int_eq(virtx_lapic_take(l), 0x51);
    wr(l, 0xb0, 0);
    ck_assert_int_eq(eoi_count, 1);
    ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE);
}
END_TEST

START_TEST(software_disable)
{
    post(l, 0x45);
    for (unsigned i = 0; i < 7; i++)
        wr(l, lvt_offsets[i], 0x40);
    wr(l, 0xf0, 0xff);
    for (unsigned i = 0; i < 7; i++) {
        ck_assert_uint_eq(rd(l, lvt_offsets[i]), 0x10040);
        wr(l, lvt_offsets[i], 0x41); /* "Attempts to reset these bits will be ignored." */
        ck_assert_uint_eq(rd(l, lvt_offsets[i]), 0x10041);
    }
    ck_assert(!post(l, 0x46));
    ck_assert(!virtx_lapic_accept(l, VIRTX_APIC_EXTINT, 0, false));
    ck_assert(virtx_lapic_accept(l, VIRTX_APIC_NMI, 0, false));
    ck_assert(virtx_lapic_accept(l, VIRTX_APIC_SMI, 0, false));
    ck_assert(virtx_lapic_accept(l, VIRTX_APIC_INIT, 0, false));
    ck_assert(virtx_lapic_accept(l, VIRTX_APIC_SIPI, 0x9a, false));
    ck_assert_uint_eq(event_vector, 0x9a);
    ck_assert(events[0][VIRTX_APIC_NMI] && events[0][VIRTX_APIC_SMI] &&
              events[0][VIRTX_APIC_INIT] && events[0][VIRTX_APIC_SIPI]);
    /* What was pending is held, and still delivered. */
    ck_assert_int_eq(virtx_lapic_take(l), 0x45);
    wr(l, 0xf0, 0x1ff);
    ck_assert_uint_eq(rd(l, 0x350), 0x10041);
}
END_TEST

START_TEST(error_status)
{
    wr(l, 0x370, 0xfe);
    ck_assert(!post(l, 0x0f));
    ck_assert_int_eq(changes[0], 1);
    ck_assert_int_eq(virtx_lapic_pending(l), 0xfe);
    ck_assert_uint_eq(rd(l, 0x280), 0); /* Not before a write. */
    wr(l, 0x280, 0xffffffff);
    ck_assert_uint_eq(rd(l, 0x280), 0x40);
    ck_assert_uint_eq(rd(l, 0x280), 0x40);
    wr(l, 0x280, 0);
    ck_assert_uint_eq(rd(l, 0x280), 0);
    ck_assert_int_eq(virtx_lapic_take(l), 0xfe);
    wr(l, 0xb0, 0);
    /* The same error is reported once until rearmed. */
    post(l, 1);
    ck_assert_int_eq(virtx_lapic_take(l), 0xfe);
    wr(l, 0xb0, 0);
    post(l, 2);
    ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE);
    ck_assert_uint_eq(errors(l), 0x40);
    post(l, 3);
    ck_assert_int_eq(virtx_lapic_pending(l), 0xfe);
    /* An error entry whose own vector is illegal adds to the status and to nothing else. */
    ck_assert_int_eq(virtx_lapic_take(l), 0xfe);
    wr(l, 0xb0, 0);
    ck_assert_uint_eq(errors(l), 0x40);
    wr(l, 0x370, 0x08);
    (void)rd(l, 0x3f0);
    ck_assert_uint_eq(errors(l), 0xc0);
    ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE);
}
END_TEST

/* Who gets an IPI, as a mask of CPUs, for each destination and shorthand; sent by CPU 1. */
START_TEST(ipi_destinations)
{
    static const struct {
        uint32_t high, low, dfr;
        unsigned receivers;
    } cases[] = {
        {0x02000000, 0x04045, 0xffffffff, 0x4}, /* Physical. */
        {0x01000000, 0x04045, 0xffffffff, 0x2},
        {0x09000000, 0x04045, 0xffffffff, 0x0},
        {0xff000000, 0x04045, 0xffffffff, 0xf},
        {0x00000000, 0x44045, 0xffffffff, 0x2}, /* Shorthands. */
        {0x00000000, 0x84045, 0xffffffff, 0xf},
        {0x00000000, 0xc4045, 0xffffffff, 0xd},
        {0x0a000000, 0x04845, 0xffffffff, 0xa}, /* Flat. */
        {0xf0000000, 0x04845, 0xffffffff, 0x0},
        {0xff000000, 0x04845, 0xffffffff, 0xf},
        {0x11000000, 0x04845, 0x0fffffff, 0x1}, /* Cluster: IDs 11 12 21 22. */
        {0x13000000, 0x04845, 0x0fffffff, 0x3},
        {0x22000000, 0x04845, 0x0fffffff, 0x8},
        {0x3f000000, 0x04845, 0x0fffffff, 0x0},
        {0xf1000000, 0x04845, 0x0fffffff, 0x5},
        {0xff000000, 0x04845, 0x0fffffff, 0xf},
        {0x11000000, 0x04845, 0x7fffffff, 0x0}, /* A reserved model. */
        {0x02000000, 0x04145, 0xffffffff, 0x4}, /* Lowest priority to one. */
        {0x00000000, 0x44145, 0xffffffff, 0x0}, /* Invalid combinations. */
        {0x00000000, 0x84145, 0xffffffff, 0x0},
        {0x02000000, 0x04345, 0xffffffff, 0x0}, /* Reserved modes. */
        {0x02000000, 0x04745, 0xffffffff, 0x0},
        {0x02000000, 0x0c045, 0xffffffff, 0x4}, /* "Level" means nothing here. */
        {0x02000000, 0x00045, 0xffffffff, 0x4},
    };

    for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        unsigned got = 0;

        setup();
        for (unsigned cpu = 0; cpu < CPUS; cpu++) {
            uint32_t cluster = (cpu / 2 + 1) << 4 | 1u << cpu % 2;

            wr(&lapic[cpu], 0xe0, cases[i].dfr);
            wr(&lapic[cpu], 0xd0, (cases[i].dfr >> 28 == 0 ? cluster : 1u << cpu) << 24);
        }
        wr(&lapic[1], 0x310, cases[i].high);
        wr(&lapic[1], 0x300, cases[i].low);
        ck_assert_uint_eq(rd(&lapic[1], 0x310), cases[i].high);
        ck_assert_uint_eq(rd(&lapic[1], 0x300), cases[i].low); /* Delivery status: idle. */
        for (unsigned cpu = 0; cpu < CPUS; cpu++) {
            if (virtx_lapic_pending(&lapic[cpu]) == 0x45)
                got |= 1u << cpu;
            ck_assert_uint_eq(rd(&lapic[cpu], 0x1a0), 0); /* TMR: an edge. */
        }
        ck_assert_msg(got == cases[i].receivers, "case %u: %x", i, got);
    }
}
END_TEST

START_TEST(ipi_events)
{
    static const struct {
        uint32_t low;
        enum virtx_apic_delivery kind;
        unsigned receivers;
    } cases[] = {
        {0x04400, VIRTX_APIC_NMI, 0x4},  {0xc4400, VIRTX_APIC_NMI, 0xd},
        {0x44400, VIRTX_APIC_NMI, 0},    {0x84400, VIRTX_APIC_NMI, 0},
        {0x04500, VIRTX_APIC_INIT, 0x4}, {0x0c500, VIRTX_APIC_INIT, 0x4},
        {0x00500, VIRTX_APIC_INIT, 0x4}, {0x08500, VIRTX_APIC_INIT, 0}, /* INIT level de-assert. */
        {0xc4500, VIRTX_APIC_INIT, 0xd}, {0x0469a, VIRTX_APIC_SIPI, 0x4},
        {0xc469a, VIRTX_APIC_SIPI, 0xd}, {0x4469a, VIRTX_APIC_SIPI, 0},
        {0x04200, VIRTX_APIC_SMI, 0x4},
    };

    for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        memset(events, 0, sizeof(events));
        wr(&lapic[1], 0x310, 0x02000000);
        wr(&lapic[1], 0x300, cases[i].low);
        for (unsigned cpu = 0; cpu < CPUS; cpu++)
            for (unsigned kind = 0; kind < 8; kind++)
                ck_assert_int_eq(events[cpu][kind],
                                 kind == cases[i].kind && (cases[i].receivers >> cpu & 1));
        if (cases[i].kind == VIRTX_APIC_SIPI && cases[i].receivers)
            ck_assert_uint_eq(event_vector, 0x9a);
    }
    ck_assert_uint_eq(errors(&lapic[1]), 0); /* Vectors below 16 are fine here. */
}
END_TEST

START_TEST(ipi_illegal_vector)
{
    wr(&lapic[1], 0x310, 0x02000000);
    wr(&lapic[1], 0x300, 0x0400f);
    ck_assert_uint_eq(errors(&lapic[1]), 0x20);
    ck_assert_uint_eq(errors(&lapic[2]), 0x40);
    wr(&lapic[1], 0x300, 0x44003);
    ck_assert_uint_eq(errors(&lapic[1]), 0x60);
}
END_TEST

START_TEST(lowest_priority_takes_turns)
{
    unsigned count[CPUS] = {0};

    for (unsigned i = 0; i < CPUS; i++)
        wr(&lapic[i], 0xd0, 1u << (24 + i));
    wr(&lapic[0], 0x80, 0x10);
    wr(&lapic[3], 0xf0, 0xff); /* Software-disabled: no candidate. */
    for (unsigned i = 0; i < 100; i++) {
        wr(&lapic[1], 0x310, 0xff000000);
        wr(&lapic[1], 0x300, 0x04945);
        for (unsigned cpu = 0; cpu < CPUS; cpu++) {
            if (virtx_lapic_pending(&lapic[cpu]) >= 0) {
                count[cpu]++;
                ck_assert_int_eq(virtx_lapic_take(&lapic[cpu]), 0x45);
                wr(&lapic[cpu], 0xb0, 0);
            }
        }
    }
    ck_assert_uint_eq(count[0], 0);
    ck_assert_uint_eq(count[1] + count[2], 100);
    ck_assert(count[1] >= 25 && count[2] >= 25);
    ck_assert_uint_eq(count[3], 0);
}
END_TEST

START_TEST(base_transitions)
{
    /* Modes: bits 11:10. Rows from, columns to ("x2APIC State Transitions"). */
    static const bool allowed[4][4] = {
        [0] = {true, false, true, false}, /* Disabled to disabled, invalid, xAPIC, x2APIC. */
        [2] = {true, false, true, true},
        [3] = {true, false, false, true},
    };

    for (uint64_t from = 0; from < 4; from++) {
        for (uint64_t to = 0; to < 4; to++) {
            uint64_t value;

            if (from == 1)
                continue;
            setup_raw();
            if (from == 3)
                ck_assert(to_x2apic(l));
            if (from == 0)
                ck_assert(virtx_lapic_msr_write(l, 0x1b, now, 0xfee00100));
            ck_assert(virtx_lapic_msr_write(l, 0x1b, now, 0xfee00100 | to << 10) ==
                      allowed[from][to]);
            ck_assert(virtx_lapic_msr_read(l, 0x1b, now, &value));
            ck_assert_uint_eq(value, 0xfee00100 | (allowed[from][to] ? to : from) << 10);
            ck_assert(virtx_lapic_enabled(l) == (value >> 11 & 1));
            ck_assert(virtx_lapic_x2apic(l) == (value >> 10 & 1));
        }
    }
}
END_TEST

START_TEST(base_reserved_and_relocation)
{
    struct virtx_lapic_config config = config_of(0);

    for (unsigned bit = 0; bit < 64; bit++) {
        bool reserved = bit < 8 || bit == 9 || bit >= 40;

        setup_raw();
        ck_assert(virtx_lapic_msr_write(l, 0x1b, now, 0x800 | 1ull << bit) == !reserved);
    }
    setup();
    ck_assert(virtx_lapic_msr_write(l, 0x1b, now, 0x12345900));
    ck_assert_uint_eq(virtx_lapic_mmio_base(l), 0x12345000);
    ck_assert_uint_eq(rd(l, 0xf0), 0x1ff); /* Moving loses nothing. */
    config.features = 0;
    ck_assert(virtx_lapic_init(l, &config));
    ck_assert(!to_x2apic(l));
    ck_assert_uint_eq(rd(l, 0x30), 0x00050014);
    ck_assert_uint_eq(rd(l, 0x2f0), 0);
    wr(l, 0x320, 0xffffffff);
    ck_assert_uint_eq(rd(l, 0x320), 0x300ff);
    wr(l, 0xf0, 0xffffffff);
    ck_assert_uint_eq(rd(l, 0xf0), 0x1ff);
}
END_TEST

START_TEST(disabling_loses_state)
{
    wr(l, 0x80, 0x55);
    post(l, 0x99);
    ck_assert(virtx_lapic_msr_write(l, 0x1b, now, 0xfee00100));
    ck_assert(!post(l, 0x98));
    ck_assert(!virtx_lapic_accept(l, VIRTX_APIC_NMI, 0, false));
    ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE);
    ck_assert(virtx_lapic_msr_write(l, 0x1b, now, 0xfee00900));
    ck_assert_uint_eq(rd(l, 0x80), 0);
    ck_assert_uint_eq(rd(l, 0xf0), 0xff);
    ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE);
}
END_TEST

START_TEST(init_keeps_the_mode)
{
    uint64_t value;

    ck_assert(to_x2apic(&lapic[3]));
    virtx_lapic_set_tpr(&lapic[3], 0x33);
    virtx_lapic_reset(&lapic[3], true);
    ck_assert(virtx_lapic_x2apic(&lapic[3]));
    ck_assert_uint_eq(virtx_lapic_get_tpr(&lapic[3]), 0);
    ck_assert(virtx_lapic_msr_read(&lapic[3], 0x802, now, &value));
    ck_assert_uint_eq(value, 3);
    ck_assert(virtx_lapic_msr_read(&lapic[3], 0x80f, now, &value));
    ck_assert_uint_eq(value, 0xff);
    virtx_lapic_reset(&lapic[3], false);
    ck_assert(!virtx_lapic_x2apic(&lapic[3]));
}
END_TEST

/* For each x2APIC MSR: readable, and which bits may be written. */
START_TEST(x2apic_access_rights)
{
    uint64_t value;

    ck_assert(!virtx_lapic_msr_read(l, 0x802, now, &value)); /* Not in x2APIC mode. */
    ck_assert(!virtx_lapic_msr_write(l, 0x808, now, 0));
    ck_assert(to_x2apic(l));
    for (uint32_t msr = 0x800; msr <= 0x8ff; msr++) {
        bool readable = true, zero_ok = true;
        uint64_t writable = 0;

        ck_assert(virtx_lapic_owns_msr(msr));
        switch (msr) {
        case 0x808:
            writable = 0xff;
            break;
        case 0x80b:
            readable = false;
            break;
        case 0x80f:
            writable = 0x11ff;
            break;
        case 0x828:
            break;
        case 0x82f:
        case 0x833:
        case 0x834:
            writable = 0x117ff; /* The read-only delivery status is ignored. */
            break;
        case 0x830:
            writable = 0xffffffff000cdfffull;
            break;
        case 0x832:
            writable = 0x710ff;
            break;
        case 0x835:
        case 0x836:
            writable = 0x1f7ff;
            break;
        case 0x837:
            writable = 0x110ff;
            break;
        case 0x838:
            writable = 0xffffffff;
            break;
        case 0x83e:
            writable = 0xb;
            break;
        case 0x83f:
            readable = false;
            writable = 0xff;
            break;
        case 0x802:
        case 0x803:
        case 0x80a:
        case 0x80d:
        case 0x839:
            zero_ok = false;
            break;
        default:
            readable = msr >= 0x810 && msr <= 0x827;
            zero_ok = false;
            break;
        }
        ck_assert_msg(virtx_lapic_msr_read(l, msr, now, &value) == readable, "read %x", msr);
        ck_assert_msg(virtx_lapic_msr_write(l, msr, now, 0) == zero_ok, "write 0 to %x", msr);
        for (unsigned bit = 0; bit < 64; bit++) {
            bool ok = (writable >> bit & 1) != 0;

            if (msr == 0x830 && bit == 12)
                ok = true; /* The former delivery status: ignored. */
            ck_assert_msg(virtx_lapic_msr_write(l, msr, now, 1ull << bit) == ok,
                          "write bit %u of %x", bit, msr);
        }
    }
    ck_assert(virtx_lapic_owns_msr(0x1b) && virtx_lapic_owns_msr(0x6e0));
    ck_assert(!virtx_lapic_owns_msr(0x7ff) && !virtx_lapic_owns_msr(0x900));
}
END_TEST

START_TEST(x2apic_ipis)
{
    static const struct {
        uint64_t icr;
        unsigned receivers;
    } cases[] = {
        {0x0000000200004045, 0x4}, {0xffffffff00004045, 0xf},
        {0x000000ff00004045, 0x0}, {0x0000000500004845, 0x5}, /* Logical: cluster 0, a bit each. */
        {0x0001000500004845, 0x0}, {0xffffffff00004845, 0xf},
        {0x0000000000044045, 0x2}, {0x00000000000c4045, 0xd},
    };
    uint64_t value;

    for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        unsigned got = 0;

        setup();
        for (unsigned cpu = 0; cpu < CPUS; cpu++)
            ck_assert(to_x2apic(&lapic[cpu]));
        ck_assert(virtx_lapic_msr_write(&lapic[1], 0x830, now, cases[i].icr));
        ck_assert(virtx_lapic_msr_read(&lapic[1], 0x830, now, &value));
        ck_assert_uint_eq(value, cases[i].icr);
        for (unsigned cpu = 0; cpu < CPUS; cpu++)
            got |= (virtx_lapic_pending(&lapic[cpu]) == 0x45) << cpu;
        ck_assert_msg(got == cases[i].receivers, "case %u: %x", i, got);
    }
    ck_assert(virtx_lapic_msr_write(&lapic[2], 0x83f, now, 0x66));
    ck_assert_int_eq(virtx_lapic_take(&lapic[2]), 0x66);
    ck_assert(virtx_lapic_msr_write(&lapic[2], 0x80b, now, 0));
    ck_assert(virtx_lapic_msr_write(&lapic[2], 0x83f, now, 0x05));
    ck_assert(virtx_lapic_msr_write(&lapic[2], 0x828, now, 0));
    ck_assert(virtx_lapic_msr_read(&lapic[2], 0x828, now, &value));
    ck_assert_uint_eq(value, 0x60);
}
END_TEST

START_TEST(x2apic_logical_ids)
{
    struct virtx_lapic_config config = config_of(0);
    uint64_t value;

    config.id = 0x12345;
    ck_assert(virtx_lapic_init(l, &config));
    ck_assert_uint_eq(rd(l, 0x20), 0x45000000);
    ck_assert(to_x2apic(l));
    ck_assert(virtx_lapic_msr_read(l, 0x802, now, &value));
    ck_assert_uint_eq(value, 0x12345);
    ck_assert(virtx_lapic_msr_read(l, 0x80d, now, &value));
    ck_assert_uint_eq(value, 0x12340020);
}
END_TEST

START_TEST(timer_one_shot)
{
    static const struct {
        uint32_t code, divisor;
    } divide[] = {{0, 2}, {1, 4}, {2, 8}, {3, 16}, {8, 32}, {9, 64}, {10, 128}, {11, 1}};

    for (unsigned i = 0; i < 8; i++) {
        uint64_t start = now;

        wr(l, 0x3e0, divide[i].code);
        wr(l, 0x320, 0x40);
        wr(l, 0x380, 1000);
        ck_assert_uint_eq(rd(l, 0x380), 1000);
        ck_assert_uint_eq(virtx_lapic_deadline(l), start + 1000 * divide[i].divisor);
        now = start + 400 * divide[i].divisor;
        ck_assert_uint_eq(rd(l, 0x390), 600);
        now = start + 1000 * divide[i].divisor - 1;
        ck_assert_uint_eq(rd(l, 0x390), 1);
        virtx_lapic_advance(l, now);
        ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE);
        ck_assert_int_eq(changes[0], (int)i);
        now++;
        if (i % 2)
            virtx_lapic_advance(l, now);
        else
            ck_assert_uint_eq(rd(l, 0x390), 0); /* A read finds it expired just as well. */
        ck_assert_int_eq(changes[0], (int)i + 1);
        ck_assert_int_eq(virtx_lapic_take(l), 0x40);
        wr(l, 0xb0, 0);
        ck_assert_uint_eq(rd(l, 0x390), 0);
        ck_assert_uint_eq(virtx_lapic_deadline(l), VIRTX_LAPIC_NO_DEADLINE);
        now += 1000000;
        virtx_lapic_advance(l, now);
        ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE);
    }
    wr(l, 0x380, 1000);
    wr(l, 0x380, 0); /* Stops it. */
    now += 1000000;
    virtx_lapic_advance(l, now);
    ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE);
}
END_TEST

START_TEST(timer_masked_expiry_is_lost)
{
    wr(l, 0x3e0, 11);
    wr(l, 0x320, 0x10040);
    wr(l, 0x380, 1000);
    ck_assert_uint_eq(virtx_lapic_deadline(l), VIRTX_LAPIC_NO_DEADLINE);
    now += 500;
    ck_assert_uint_eq(rd(l, 0x390), 500); /* It counts all the same. */
    wr(l, 0x320, 0x40);
    ck_assert_uint_eq(virtx_lapic_deadline(l), now + 500);
    wr(l, 0x320, 0x10040);
    now += 1000;
    wr(l, 0x320, 0x40);
    virtx_lapic_advance(l, now + 5000);
    ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE);
    /* Software-disabling masks it too. */
    wr(l, 0x380, 1000);
    wr(l, 0xf0, 0xff);
    ck_assert_uint_eq(virtx_lapic_deadline(l), VIRTX_LAPIC_NO_DEADLINE);
}
END_TEST

START_TEST(timer_periodic)
{
    uint64_t start = now;

    wr(l, 0x3e0, 11);
    wr(l, 0x320, 0x20041);
    wr(l, 0x380, 1000);
    for (unsigned i = 1; i <= 5; i++) {
        ck_assert_uint_eq(virtx_lapic_deadline(l), start + 1000 * i);
        now = start + 1000 * i + 30;
        virtx_lapic_advance(l, now);
        ck_assert_int_eq(virtx_lapic_take(l), 0x41);
        wr(l, 0xb0, 0);
        ck_assert_uint_eq(rd(l, 0x390), 970);
    }
    /* A long absence is one interrupt, and the phase is kept. */
    now = start + 1000000ull * 1000000 + 250;
    virtx_lapic_advance(l, now);
    ck_assert_int_eq(virtx_lapic_take(l), 0x41);
    wr(l, 0xb0, 0);
    ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE);
    ck_assert_uint_eq(rd(l, 0x390), 750);
    ck_assert_uint_eq(virtx_lapic_deadline(l), now + 750);
    /* A new divisor goes on from the current count. */
    wr(l, 0x3e0, 0);
    ck_assert_uint_eq(virtx_lapic_deadline(l), now + 1500);
    now += 1500;
    virtx_lapic_advance(l, now);
    ck_assert_int_eq(virtx_lapic_pending(l), 0x41);
    ck_assert_uint_eq(virtx_lapic_deadline(l), now + 2000);
    /* One-shot from now on. */
    wr(l, 0x320, 0x41);
    now += 2000;
    virtx_lapic_advance(l, now);
    ck_assert_uint_eq(virtx_lapic_deadline(l), VIRTX_LAPIC_NO_DEADLINE);
}
END_TEST

START_TEST(timer_tiny_period)
{
    struct virtx_lapic_config config = config_of(0);

    config.min_period = 20000;
    ck_assert(virtx_lapic_init(l, &config));
    wr(l, 0xf0, 0x1ff);
    wr(l, 0x3e0, 11);
    wr(l, 0x320, 0x20041);
    wr(l, 0x380, 1);
    ck_assert_uint_eq(virtx_lapic_deadline(l), now + 1);
    now += UINT64_MAX / 2;
    virtx_lapic_advance(l, now);
    ck_assert_int_eq(virtx_lapic_take(l), 0x41);
    ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE);
    ck_assert_uint_eq(virtx_lapic_deadline(l), now + 20000);
    virtx_lapic_advance(l, now + 19999);
    ck_assert_uint_eq(rd(l, 0x220), 0);
    virtx_lapic_advance(l, now + 20000);
    ck_assert_uint_eq(rd(l, 0x220), 2);
}
END_TEST

/* The deadline is the first tick at which the timer has expired, at any ratio of clocks. */
START_TEST(timer_ratios)
{
    srand(7);
    for (int i = 0; i < 3000; i++) {
        struct virtx_lapic_config config = config_of(0);
        uint64_t deadline;
        bool slow = rand() % 2;

        config.bus_multiply = 1 + (uint32_t)rand() % (slow ? 100 : 0x7fffffff);
        config.bus_divide = 1 + (uint32_t)rand() % (slow ? 5000 : 0x7fffffff);
        ck_assert(virtx_lapic_init(l, &config));
        now = (uint64_t)rand() << 20;
        wr(l, 0xf0, 0x1ff);
        wr(l, 0x3e0, (uint32_t)rand());
        wr(l, 0x320, 0x20041);
        wr(l, 0x380, 1 + (uint32_t)rand() % 100000);
        for (int period = 0; period < 3; period++) {
            deadline = virtx_lapic_deadline(l);
            ck_assert_uint_gt(deadline, now);
            now = deadline - 1;
            ck_assert_uint_ne(rd(l, 0x390), 0);
            if (period > 0 || deadline - 1 > ((uint64_t)1 << 20))
                ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE);
            now = deadline;
            virtx_lapic_advance(l, now);
            ck_assert_int_eq(virtx_lapic_take(l), 0x41);
            wr(l, 0xb0, 0);
        }
    }
}
END_TEST

START_TEST(timer_deadline_mode)
{
    uint64_t value;

    ck_assert(virtx_lapic_msr_write(l, 0x6e0, now, now + 100)); /* Another mode: ignored. */
    ck_assert(virtx_lapic_msr_read(l, 0x6e0, now, &value));
    ck_assert_uint_eq(value, 0);
    wr(l, 0x320, 0x40042);
    wr(l, 0x380, 500);
    ck_assert_uint_eq(rd(l, 0x380), 0);
    ck_assert_uint_eq(rd(l, 0x390), 0);

    /* The guest's clock started at zero when the host's was at 900000. */
    virtx_lapic_set_tsc_offset(l, 0 - 900000ull);
    ck_assert(virtx_lapic_msr_write(l, 0x6e0, now, 150000));
    ck_assert(virtx_lapic_msr_read(l, 0x6e0, now, &value));
    ck_assert_uint_eq(value, 150000);
    ck_assert_uint_eq(virtx_lapic_deadline(l), 1050000);
    virtx_lapic_advance(l, 1049999);
    ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE);
    virtx_lapic_advance(l, 1050000);
    ck_assert_int_eq(virtx_lapic_take(l), 0x42);
    wr(l, 0xb0, 0);
    now = 1050000;
    ck_assert(virtx_lapic_msr_read(l, 0x6e0, now, &value));
    ck_assert_uint_eq(value, 0);
    ck_assert_uint_eq(virtx_lapic_deadline(l), VIRTX_LAPIC_NO_DEADLINE);

    /* One that lies behind fires at once. */
    ck_assert(virtx_lapic_msr_write(l, 0x6e0, now, 1));
    ck_assert_int_eq(virtx_lapic_take(l), 0x42);
    wr(l, 0xb0, 0);
    /* Zero disarms; so does a change of the mode. */
    ck_assert(virtx_lapic_msr_write(l, 0x6e0, now, 200000));
    ck_assert(virtx_lapic_msr_write(l, 0x6e0, now, 0));
    ck_assert_uint_eq(virtx_lapic_deadline(l), VIRTX_LAPIC_NO_DEADLINE);
    ck_assert(virtx_lapic_msr_write(l, 0x6e0, now, 200000));
    wr(l, 0x320, 0x42);
    ck_assert_uint_eq(virtx_lapic_deadline(l), VIRTX_LAPIC_NO_DEADLINE);
    wr(l, 0x320, 0x40042);
    ck_assert(virtx_lapic_msr_read(l, 0x6e0, now, &value));
    ck_assert_uint_eq(value, 0);
    /* And the other way round: a count does not survive either. */
    wr(l, 0x320, 0x42);
    wr(l, 0x380, 1000);
    wr(l, 0x320, 0x40042);
    ck_assert_uint_eq(virtx_lapic_deadline(l), VIRTX_LAPIC_NO_DEADLINE);
    ck_assert_uint_eq(rd(l, 0x390), 0);
    /* The far future is far away; the offset moves the deadline. */
    ck_assert(virtx_lapic_msr_write(l, 0x6e0, now, UINT64_MAX));
    ck_assert_uint_eq(virtx_lapic_deadline(l), VIRTX_LAPIC_NO_DEADLINE);
    ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE);
    ck_assert(virtx_lapic_msr_write(l, 0x6e0, now, 2000000));
    virtx_lapic_set_tsc_offset(l, 500000);
    ck_assert_uint_eq(virtx_lapic_deadline(l), 1500000);
    virtx_lapic_set_tsc_offset(l, 3000000);
    ck_assert_uint_eq(virtx_lapic_deadline(l), 0);
    virtx_lapic_advance(l, now);
    ck_assert_int_eq(virtx_lapic_take(l), 0x42);
}
END_TEST

START_TEST(deadline_feature_absent)
{
    struct virtx_lapic_config config = config_of(0);
    uint64_t value;

    config.features = VIRTX_LAPIC_X2APIC;
    ck_assert(virtx_lapic_init(l, &config));
    ck_assert(!virtx_lapic_msr_read(l, 0x6e0, now, &value));
    ck_assert(!virtx_lapic_msr_write(l, 0x6e0, now, 1));
    ck_assert(to_x2apic(l));
    ck_assert(!virtx_lapic_msr_write(l, 0x832, now, 0x40042));
    ck_assert(!virtx_lapic_msr_read(l, 0x82f, now, &value));
    ck_assert(!virtx_lapic_msr_write(l, 0x80f, now, 0x11ff));
}
END_TEST

START_TEST(extint_through_lint0)
{
    ext_vector = 0x08;
    virtx_lapic_set_lint(l, 0, true);
    ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE); /* Masked. */
    ck_assert_int_eq(changes[0], 0);
    wr(l, 0x350, 0x700);
    wr(l, 0x80, 0xff); /* ExtINT knows no priority. */
    ck_assert_int_eq(virtx_lapic_pending(l), 0x08);
    ck_assert_int_eq(ext_taken, 0);
    ck_assert_int_eq(virtx_lapic_take(l), 0x08);
    ck_assert_int_eq(ext_taken, 1);
    for (uint32_t offset = 0x100; offset < 0x180; offset += 0x10)
        ck_assert_uint_eq(rd(l, offset), 0);
    virtx_lapic_set_lint(l, 0, false);
    virtx_lapic_set_lint(l, 0, false);
    ck_assert_int_eq(changes[0], 0);
    ext_vector = 0x09;
    ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE);
    virtx_lapic_set_lint(l, 0, true);
    virtx_lapic_set_lint(l, 0, true);
    ck_assert_int_eq(changes[0], 1);
    ck_assert_int_eq(virtx_lapic_pending(l), 0x09);
    /* Software-disabled: masked. Globally disabled: the pin is INTR. */
    wr(l, 0xf0, 0xff);
    ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE);
    ck_assert(virtx_lapic_msr_write(l, 0x1b, now, 0xfee00100));
    ck_assert_int_eq(virtx_lapic_pending(l), 0x09);
    virtx_lapic_set_lint(l, 1, true);
    ck_assert_int_eq(events[0][VIRTX_APIC_NMI], 1);
}
END_TEST

START_TEST(extint_message)
{
    ck_assert(virtx_lapic_accept(l, VIRTX_APIC_EXTINT, 0, false));
    ck_assert_int_eq(changes[0], 1);
    ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE);
    ext_vector = 0x0a;
    ck_assert_int_eq(virtx_lapic_take(l), 0x0a);
    ext_vector = 0x0b;
    ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE); /* One message, one cycle. */
}
END_TEST

START_TEST(virtual_wire)
{
    setup_raw();
    virtx_lapic_virtual_wire(l);
    ck_assert_uint_eq(rd(l, 0xf0), 0x1ff);
    ck_assert_uint_eq(rd(l, 0x350), 0x700);
    ck_assert_uint_eq(rd(l, 0x360), 0x400);
    ext_vector = 0x20;
    virtx_lapic_set_lint(l, 0, true);
    ck_assert_int_eq(virtx_lapic_pending(l), 0x20);
    virtx_lapic_set_lint(l, 1, true);
    virtx_lapic_set_lint(l, 1, true);
    ck_assert_int_eq(events[0][VIRTX_APIC_NMI], 1);
}
END_TEST

START_TEST(lint_fixed)
{
    /* Edge. */
    wr(l, 0x360, 0x55);
    virtx_lapic_set_lint(l, 1, true);
    ck_assert_int_eq(virtx_lapic_take(l), 0x55);
    wr(l, 0xb0, 0);
    wr(l, 0x360, 0x2055); /* Active low: the falling edge. */
    virtx_lapic_set_lint(l, 1, false);
    ck_assert_int_eq(virtx_lapic_take(l), 0x55);
    wr(l, 0xb0, 0);
    /* LINT1 knows no levels. */
    wr(l, 0x360, 0x8055);
    virtx_lapic_set_lint(l, 1, true);
    ck_assert_uint_eq(rd(l, 0x360), 0x8055);
    ck_assert_int_eq(virtx_lapic_take(l), 0x55);
    wr(l, 0xb0, 0);
    ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE);

    /* Level on LINT0, with Remote IRR. */
    virtx_lapic_set_lint(l, 0, true);
    wr(l, 0x350, 0x8056);
    ck_assert_uint_eq(rd(l, 0x350), 0xc056);
    ck_assert_int_eq(virtx_lapic_take(l), 0x56);
    ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE);
    wr(l, 0xb0, 0);
    ck_assert_int_eq(virtx_lapic_take(l), 0x56);
    virtx_lapic_set_lint(l, 0, false);
    wr(l, 0xb0, 0);
    ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE);
    ck_assert_uint_eq(rd(l, 0x350), 0x8056);
    virtx_lapic_set_lint(l, 0, true);
    ck_assert_int_eq(virtx_lapic_pending(l), 0x56);
    virtx_lapic_set_lint(l, 2, true);

    /* SMI and INIT. */
    virtx_lapic_set_lint(l, 1, false);
    wr(l, 0x360, 0x200);
    virtx_lapic_set_lint(l, 1, true);
    ck_assert_int_eq(events[0][VIRTX_APIC_SMI], 1);
    virtx_lapic_set_lint(l, 1, false);
    wr(l, 0x360, 0x500);
    virtx_lapic_set_lint(l, 1, true);
    ck_assert_int_eq(events[0][VIRTX_APIC_INIT], 1);
}
END_TEST

START_TEST(local_sources)
{
    wr(l, 0x330, 0x61);
    wr(l, 0x340, 0x400);
    wr(l, 0x2f0, 0x05);
    virtx_lapic_local_interrupt(l, VIRTX_LAPIC_LVT_THERMAL);
    ck_assert_int_eq(virtx_lapic_take(l), 0x61);
    virtx_lapic_local_interrupt(l, VIRTX_LAPIC_LVT_PMC);
    ck_assert_int_eq(events[0][VIRTX_APIC_NMI], 1);
    ck_assert_uint_eq(rd(l, 0x340), 0x10400);
    virtx_lapic_local_interrupt(l, VIRTX_LAPIC_LVT_PMC);
    ck_assert_int_eq(events[0][VIRTX_APIC_NMI], 1);
    virtx_lapic_local_interrupt(l, VIRTX_LAPIC_LVT_CMCI);
    ck_assert_uint_eq(errors(l), 0x40);
    wr(l, 0x320, 0x71);
    virtx_lapic_local_interrupt(l, VIRTX_LAPIC_LVT_TIMER);
    wr(l, 0xb0, 0);
    ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE);
}
END_TEST

/* Nothing a guest writes may hang, overflow or break the caches of the highest vectors. */
START_TEST(random_writes)
{
    srand(3);
    for (int i = 0; i < 50000; i++) {
        struct virtx_lapic *a = &lapic[rand() % CPUS];
        uint64_t value = (uint64_t)rand() << 40 ^ (uint64_t)rand() << 20 ^ (uint64_t)rand();
        uint32_t reg = (uint32_t)rand() % 0x48;
        int offered;

        now += value % 5000;
        if (rand() % 4 == 0)
            value &= 0xff;
        if (reg >= 0x40)
            (void)virtx_lapic_msr_write(a, 0x1b, now, 0xfee00000 | (value & 0xc00));
        else if (virtx_lapic_x2apic(a))
            (void)virtx_lapic_msr_write(a, 0x800 + reg, now, value);
        else
            wr(a, reg << 4, (uint32_t)value);
        if (rand() % 16 == 0)
            wr(a, 0xf0, 0x1ff);
        (void)virtx_lapic_msr_write(a, 0x6e0, now, now + value % 10000);
        virtx_lapic_advance(a, now);
        virtx_lapic_set_lint(a, (unsigned)rand() % 2, rand() % 2);
        (void)virtx_lapic_accept(a, (enum virtx_apic_delivery)(rand() % 8), (uint8_t)rand(),
                                 rand() % 2);
        offered = virtx_lapic_pending(a);
        if (offered >= 0)
            ck_assert_int_eq(virtx_lapic_take(a), offered);
        for (int w = 0, irr = 0, isr = 0; w < 8; w++) {
            uint32_t requested = a->regs[0x200 / 4 + w * 4], served = a->regs[0x100 / 4 + w * 4];

            irr = requested ? w * 32 + 31 - __builtin_clz(requested) : irr;
            isr = served ? w * 32 + 31 - __builtin_clz(served) : isr;
            if (w == 7) {
                ck_assert_int_eq(a->irr_max, irr);
                ck_assert_int_eq(a->isr_max, isr);
            }
        }
    }
}
END_TEST

#define POSTERS 3
#define POSTS   3000

static uint32_t acknowledged[POSTERS];

static uint8_t vector_of(unsigned poster, unsigned i)
{
    return (uint8_t)(0x40 + 2 * poster + i % 2); /* All in one word of the inbox. */
}

static void *poster(void *arg)
{
    unsigned n = (unsigned)(uintptr_t)arg;

    for (unsigned i = 0; i < POSTS; i++) {
        (void)virtx_lapic_accept(l, VIRTX_APIC_FIXED, vector_of(n, i), n == 0);
        while (__atomic_load_n(&acknowledged[n], __ATOMIC_ACQUIRE) == i)
            sched_yield();
    }
    return NULL;
}

/* Each poster waits until its vector was taken: a lost one would hang (and time out), one taken
 * twice or with the wrong trigger mode fails. */
START_TEST(posted_from_other_threads)
{
    pthread_t thread[POSTERS];
    unsigned total = 0;

    memset(acknowledged, 0, sizeof(acknowledged));
    for (unsigned i = 0; i < POSTERS; i++)
        ck_assert_int_eq(pthread_create(&thread[i], NULL, poster, (void *)(uintptr_t)i), 0);
    while (total < POSTERS * POSTS) {
        int vector;
        unsigned n;

        if (virtx_lapic_pending(l) < 0) {
            sched_yield();
            continue;
        }
        vector = virtx_lapic_take(l); /* A higher one may have come since. */
        n = (unsigned)(vector - 0x40) / 2;
        ck_assert_uint_lt(n, POSTERS);
        ck_assert_int_eq(vector, vector_of(n, acknowledged[n]));
        ck_assert_uint_eq(rd(l, 0x1a0) >> (vector - 0x40) & 1, n == 0);
        wr(l, 0xb0, 0);
        __atomic_fetch_add(&acknowledged[n], 1, __ATOMIC_RELEASE);
        total++;
    }
    for (unsigned i = 0; i < POSTERS; i++)
        pthread_join(thread[i], NULL);
    ck_assert_int_eq(virtx_lapic_pending(l), VIRTX_IRQ_NONE);
}
END_TEST

/* ---- Saved and restored ---- */

enum { TWIN = 1, SAVES = 600, STEPS = 60 };

static uint64_t pick(uint64_t below)
{
    return ((uint64_t)(unsigned)rand() << 31 ^ (unsigned)rand()) % below;
}

/* A LAPIC without a bus, made like the first. */
static void make_alone(unsigned i)
{
    struct virtx_lapic_config config = config_of(0);

    config.ctx = &lapic[i];
    config.bus_multiply = 3;
    config.bus_divide = 2;
    ck_assert(virtx_lapic_init(&lapic[i], &config));
}

struct step {
    unsigned what;
    uint32_t reg;
    uint64_t value;
};

static struct step random_step(void)
{
    static const uint32_t regs[] = {0x80,  0xb0,  0xd0,  0xe0,  0xf0,  0x280, 0x2f0, 0x300, 0x310,
                                    0x320, 0x320, 0x330, 0x340, 0x350, 0x360, 0x370, 0x380, 0x3e0};
    struct step s = {.what = (unsigned)pick(12),
                     .reg = regs[pick(sizeof(regs) / sizeof(regs[0]))],
                     .value = pick(2) ? pick(1ull << 32) : 16 + pick(240)};

    if (s.reg == 0xf0 && pick(4))
        s.value |= 0x100;
    return s;
}

/* What the LAPIC answers is part of the result. */
static uint64_t do_step(struct virtx_lapic *a, const struct step *s, uint64_t at)
{
    uint64_t value = 0;

    switch (s->what) {
    case 0:
        return virtx_lapic_accept(a, VIRTX_APIC_FIXED, (uint8_t)s->value, s->value >> 8 & 1);
    case 1:
        return virtx_lapic_accept(a, VIRTX_APIC_EXTINT, 0, false);
    case 2:
        return (uint64_t)virtx_lapic_take(a);
    case 3:
        virtx_lapic_eoi(a);
        return 0;
    case 4:
        virtx_lapic_set_lint(a, s->value & 1, s->value >> 1 & 1);
        return 0;
    case 5:
        virtx_lapic_advance(a, at);
        return 0;
    case 6:
        return virtx_lapic_msr_write(a, 0x6e0, at, at + a->tsc_offset + s->value % 5000);
    case 7: /* modes: on the whole xAPIC */
        if (s->value % 40 == 0)
            value = a->base ^ 0x800;
        else if (s->value % 40 == 1)
            value = a->base | 0xc00;
        else
            value = 0xfee00900 + (s->value & 0xf000);
        return virtx_lapic_msr_write(a, 0x1b, at, value);
    default:
        if (virtx_lapic_x2apic(a))
            return virtx_lapic_msr_write(a, 0x800 + (s->reg >> 4), at, s->value);
        if (virtx_lapic_enabled(a))
            virtx_lapic_mmio_write(a, s->reg, 4, s->value, at);
        return 0;
    }
}

static void same_answers(uint64_t later)
{
    struct virtx_lapic *twin = &lapic[TWIN];

    for (uint32_t reg = 0; reg < 0x400; reg += 16) {
        uint64_t mine = virtx_lapic_mmio_read(l, reg, 4, now);
        uint64_t its = virtx_lapic_mmio_read(twin, reg, 4, now + later);

        if (mine != its) /* a check each would cost more than the rest */
            ck_abort_msg("register %x is %lx, not %lx", reg, its, mine);
    }
    ck_assert_int_eq(virtx_lapic_pending(twin), virtx_lapic_pending(l));
    ck_assert_uint_eq(virtx_lapic_tpr_threshold(twin), virtx_lapic_tpr_threshold(l));
    ck_assert_uint_eq(twin->base, l->base);
    ck_assert_uint_eq(twin->tsc_deadline, l->tsc_deadline);
    if (l->deadline == VIRTX_LAPIC_NO_DEADLINE || l->deadline == 0)
        ck_assert_uint_eq(twin->deadline, l->deadline);
    else
        ck_assert_uint_eq(twin->deadline, l->deadline + later);
}

/* From any state that a guest can make, both go on in the same way. */
START_TEST(saved_and_restored)
{
    srand(7);
    for (unsigned save = 0; save < SAVES; save++) {
        struct virtx_lapic_state state;
        uint64_t later = pick(3) ? pick(1ull << 40) : 0;

        make_alone(0);
        now = 1000000;
        l->tsc_offset = 5000000;
        ext_vector = pick(2) ? 0x40 : -1;
        for (unsigned i = 0; i < STEPS; i++) {
            struct step s = random_step();

            do_step(l, &s, now);
            now += pick(700);
        }
        virtx_lapic_save(l, now, &state);
        make_alone(TWIN);
        virtx_lapic_set_tsc_offset(&lapic[TWIN], l->tsc_offset - later);
        changes[TWIN] = 0;
        ck_assert(virtx_lapic_restore(&lapic[TWIN], now + later, &state));
        ck_assert_int_gt(changes[TWIN], 0);
        same_answers(later);
        for (unsigned i = 0; i < STEPS; i++) {
            struct step s = random_step();
            int ext_before = ext_vector;
            uint64_t mine = do_step(l, &s, now);

            ext_vector = ext_before;
            ck_assert_uint_eq(do_step(&lapic[TWIN], &s, now + later), mine);
            now += pick(700);
            same_answers(later);
        }
    }
}
END_TEST

/* On a clock that has not run as long as the timer has. */
START_TEST(restored_on_a_younger_clock)
{
    struct virtx_lapic_state state;

    wr(l, 0x3e0, 0xb);
    wr(l, 0x320, 0x20041);
    wr(l, 0x380, 1000);
    now += 300;
    virtx_lapic_save(l, now, &state);
    now = 10;
    make_alone(TWIN);
    lapic[TWIN].config.bus_multiply = lapic[TWIN].config.bus_divide = 1;
    ck_assert(virtx_lapic_restore(&lapic[TWIN], now, &state));
    ck_assert_uint_eq(rd(&lapic[TWIN], 0x390), 700);
    ck_assert_uint_eq(virtx_lapic_deadline(&lapic[TWIN]), 710);
}
END_TEST

/* A state that no guest can make is not taken, nor any part of it. */
START_TEST(restore_refuses)
{
    struct virtx_lapic_state good, bad;
    struct virtx_lapic before;

    virtx_lapic_save(l, now, &good);
#define NO(change)                                                                            \
    do {                                                                                           \
        bad = good;                                                                                \
        bad.change;                                                                                \
        before = *l;                                                                               \
        ck_assert(!virtx_lapic_restore(l, now, &bad));                                             \
        ck_assert(memcmp(&before, l, sizeof(before)) == 0);                                        \
    } while (0)
    NO(size = 8);
    NO(base |= 1);
    NO(base |= 1ull << 40);
    NO(base = 0xfee00400);
    NO(irr[0] = 1 << 15);
    NO(isr[0] = 1);
    NO(tmr[0] = 2);
    NO(svr |= 1 << 9);
    NO(svr = 0xff; bad.lvt[2] = 0x41);
    NO(lvt[VIRTX_LAPIC_LVT_TIMER] |= 1 << 12);
    NO(lvt[VIRTX_LAPIC_LVT_LINT0] = 1 << 14);
    NO(lvt[VIRTX_LAPIC_LVT_LINT1] |= 1 << 14);
    NO(ldr = 1);
    NO(dfr = 0);
    NO(icr = 1 << 12);
    NO(esr = 256);
    NO(lint_lines = 4);
    NO(timer_divide = 4);
    NO(timer_running = true);
    NO(tsc_deadline = 1);
    ck_assert(virtx_lapic_restore(l, now, &good));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lapic");
    TCase *tc = tcase_create("lapic");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, bad_configurations);
    tcase_add_test(tc, reset_state);
    tcase_add_test(tc, writable_bits);
    tcase_add_test(tc, reserved_registers);
    tcase_add_test(tc, access_sizes);
    tcase_add_test(tc, priorities);
    tcase_add_test(tc, task_priority);
    tcase_add_test(tc, spurious);
    tcase_add_test(tc, random_against_reference);
    tcase_add_test(tc, arbitration_priority);
    tcase_add_test(tc, eoi_broadcast);
    tcase_add_test(tc, software_disable);
    tcase_add_test(tc, error_status);
    tcase_add_test(tc, ipi_destinations);
    tcase_add_test(tc, ipi_events);
    tcase_add_test(tc, ipi_illegal_vector);
    tcase_add_test(tc, lowest_priority_takes_turns);
    tcase_add_test(tc, base_transitions);
    tcase_add_test(tc, base_reserved_and_relocation);
    tcase_add_test(tc, disabling_loses_state);
    tcase_add_test(tc, init_keeps_the_mode);
    tcase_add_test(tc, x2apic_access_rights);
    tcase_add_test(tc, x2apic_ipis);
    tcase_add_test(tc, x2apic_logical_ids);
    tcase_add_test(tc, timer_one_shot);
    tcase_add_test(tc, timer_masked_expiry_is_lost);
    tcase_add_test(tc, timer_periodic);
    tcase_add_test(tc, timer_tiny_period);
    tcase_add_test(tc, timer_ratios);
    tcase_add_test(tc, timer_deadline_mode);
    tcase_add_test(tc, deadline_feature_absent);
    tcase_add_test(tc, extint_through_lint0);
    tcase_add_test(tc, extint_message);
    tcase_add_test(tc, virtual_wire);
    tcase_add_test(tc, lint_fixed);
    tcase_add_test(tc, local_sources);
    tcase_add_test(tc, random_writes);
    tcase_add_test(tc, posted_from_other_threads);
    tcase_add_test(tc, saved_and_restored);
    tcase_add_test(tc, restored_on_a_younger_clock);
    tcase_add_test(tc, restore_refuses);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
