/* SPDX-License-Identifier: BSD-2-Clause */
/* The I/O APIC against the 82093AA datasheet, and MSIs: what leaves towards the LAPICs. */
#include <virtx/ioapic.h>
#include <virtx/lapic.h>

#include <check.h>
#include <stdlib.h>
#include <string.h>

#define CPUS 4

static struct virtx_apic_bus bus;
static struct virtx_lapic *table[CPUS];
static struct virtx_lapic lapic[CPUS];
static struct virtx_ioapic ioapic;
static int events[CPUS][8];

static void changed(void *ctx)
{
    (void)ctx;
}

static void event(void *ctx, enum virtx_apic_delivery kind, uint8_t vector)
{
    (void)vector;
    events[(struct virtx_lapic *)ctx - lapic][kind]++;
}

static void make_ioapic(uint8_t version, bool ignore_polarity)
{
    struct virtx_ioapic_config config = {
        .size = sizeof(config),
        .version = version,
        .id = 5,
        .ignore_polarity = ignore_polarity,
        .bus = &bus,
    };

    bus.ioapics = NULL;
    ck_assert(virtx_ioapic_init(&ioapic, &config));
    ck_assert(virtx_apic_bus_add_ioapic(&bus, &ioapic));
    ck_assert(!virtx_apic_bus_add_ioapic(&bus, &ioapic));
}

static void setup(void)
{
    virtx_apic_bus_init(&bus, table, CPUS);
    for (unsigned i = 0; i < CPUS; i++) {
        struct virtx_lapic_config config = {
            .size = sizeof(config),
            .id = i,
            .features = VIRTX_LAPIC_EOI_SUPPRESSION | VIRTX_LAPIC_X2APIC,
            .address_bits = 36,
            .bus_multiply = 1,
            .bus_divide = 1,
            .ctx = &lapic[i],
            .changed = changed,
            .event = event,
        };

        ck_assert(virtx_lapic_init(&lapic[i], &config));
        ck_assert(virtx_apic_bus_add_lapic(&bus, &lapic[i]));
        virtx_lapic_mmio_write(&lapic[i], 0xf0, 4, 0x1ff, 0);
        virtx_lapic_mmio_write(&lapic[i], 0xd0, 4, 1u << (24 + i), 0);
        for (unsigned kind = 0; kind < 8; kind++)
            events[i][kind] = 0;
    }
    make_ioapic(0x20, true);
}

static uint32_t read_reg(uint8_t reg)
{
    virtx_ioapic_mmio_write(&ioapic, 0, 4, reg);
    return (uint32_t)virtx_ioapic_mmio_read(&ioapic, 0x10, 4);
}

static void write_reg(uint8_t reg, uint32_t value)
{
    virtx_ioapic_mmio_write(&ioapic, 0, 4, reg);
    virtx_ioapic_mmio_write(&ioapic, 0x10, 4, value);
}

static void write_pin(unsigned pin, uint64_t entry)
{
    write_reg((uint8_t)(0x11 + 2 * pin), (uint32_t)(entry >> 32));
    write_reg((uint8_t)(0x10 + 2 * pin), (uint32_t)entry);
}

static uint32_t read_pin(unsigned pin)
{
    return read_reg((uint8_t)(0x10 + 2 * pin));
}

#define LEVEL      0x8000u
#define MASKED     0x10000u
#define LOW        0x2000u
#define REMOTE_IRR 0x4000u
#define STATUS     0x1000u
#define LOGICAL    0x800u
#define TO(cpu)    ((uint64_t)(cpu) << 56)

static void eoi(unsigned cpu)
{
    virtx_lapic_mmio_write(&lapic[cpu], 0xb0, 4, 0, 0);
}

START_TEST(registers)
{
    ck_assert_uint_eq(read_reg(0), 0x05000000);
    ck_assert_uint_eq(read_reg(1), 0x00170020);
    ck_assert_uint_eq(read_reg(2), 0x05000000);
    write_reg(0, 0xffffffff);
    ck_assert_uint_eq(read_reg(0), 0x0f000000);
    write_reg(1, 0);
    ck_assert_uint_eq(read_reg(1), 0x00170020);
    for (unsigned pin = 0; pin < VIRTX_IOAPIC_PINS; pin++) {
        ck_assert_uint_eq(read_pin(pin), MASKED);
        write_reg((uint8_t)(0x11 + 2 * pin), 0xffffffff);
        write_reg((uint8_t)(0x10 + 2 * pin), 0xffffffff);
        ck_assert_uint_eq(read_reg((uint8_t)(0x11 + 2 * pin)), 0xff000000);
        ck_assert_uint_eq(read_pin(pin), 0x1afff); /* Without the two that are read-only. */
    }
    for (unsigned reg = 3; reg < 256; reg++) {
        if (reg >= 0x10 && reg < 0x40)
            continue;
        write_reg((uint8_t)reg, 0xffffffff);
        ck_assert_uint_eq(read_reg((uint8_t)reg), 0);
    }
    virtx_ioapic_mmio_write(&ioapic, 0, 4, 0x101);
    ck_assert_uint_eq(virtx_ioapic_mmio_read(&ioapic, 0, 4), 1);
    ck_assert_uint_eq(virtx_ioapic_mmio_read(&ioapic, 0x12, 1), 0x17);
    ck_assert_uint_eq(virtx_ioapic_mmio_read(&ioapic, 0x20, 4), 0);
    virtx_ioapic_reset(&ioapic);
    ck_assert_uint_eq(read_pin(0), MASKED);
    ck_assert_uint_eq(read_reg(0), 0x05000000);
}
END_TEST

START_TEST(bad_configurations)
{
    struct virtx_ioapic_config config = ioapic.config;
    struct virtx_ioapic other;

    config.version = 0x12;
    ck_assert(!virtx_ioapic_init(&other, &config));
    config.version = 0x11;
    config.bus = NULL;
    ck_assert(!virtx_ioapic_init(&other, &config));
    config.bus = &bus;
    config.id = 16;
    ck_assert(!virtx_ioapic_init(&other, &config));
    config.id = 1;
    config.size = 0;
    ck_assert(!virtx_ioapic_init(&other, &config));
}
END_TEST

START_TEST(edge)
{
    write_pin(4, TO(2) | 0x44);
    virtx_ioapic_set_irq(&ioapic, 4, true);
    ck_assert_int_eq(virtx_lapic_pending(&lapic[2]), 0x44);
    ck_assert_int_eq(virtx_lapic_pending(&lapic[0]), VIRTX_IRQ_NONE);
    ck_assert_int_eq(virtx_lapic_take(&lapic[2]), 0x44);
    ck_assert_uint_eq(read_pin(4), 0x44);
    eoi(2);
    virtx_ioapic_set_irq(&ioapic, 4, true); /* No edge. */
    ck_assert_int_eq(virtx_lapic_pending(&lapic[2]), VIRTX_IRQ_NONE);
    virtx_ioapic_set_irq(&ioapic, 4, false);
    ck_assert_int_eq(virtx_lapic_pending(&lapic[2]), VIRTX_IRQ_NONE);

    /* "Edge-sensitive interrupts signaled on a masked pin are ignored." */
    write_pin(4, TO(2) | 0x44 | MASKED);
    virtx_ioapic_set_irq(&ioapic, 4, true);
    write_pin(4, TO(2) | 0x44);
    ck_assert_int_eq(virtx_lapic_pending(&lapic[2]), VIRTX_IRQ_NONE);
    virtx_ioapic_set_irq(&ioapic, 24, true);
    virtx_ioapic_set_irq(&ioapic, UINT32_MAX, true);
}
END_TEST

START_TEST(level)
{
    write_pin(9, TO(1) | 0x59 | LEVEL);
    virtx_ioapic_set_irq(&ioapic, 9, true);
    ck_assert_uint_eq(read_pin(9), 0x59 | LEVEL | REMOTE_IRR);
    ck_assert_int_eq(virtx_lapic_take(&lapic[1]), 0x59);
    virtx_ioapic_set_irq(&ioapic, 9, true);
    ck_assert_int_eq(lapic[1].irr_max, 0);
    eoi(1);
    /* Still asserted: again at once. */
    ck_assert_int_eq(virtx_lapic_take(&lapic[1]), 0x59);
    virtx_ioapic_set_irq(&ioapic, 9, false);
    eoi(1);
    ck_assert_int_eq(virtx_lapic_pending(&lapic[1]), VIRTX_IRQ_NONE);
    ck_assert_uint_eq(read_pin(9), 0x59 | LEVEL);

    /* A level outlasts a mask. */
    write_pin(9, TO(1) | 0x59 | LEVEL | MASKED);
    virtx_ioapic_set_irq(&ioapic, 9, true);
    ck_assert_int_eq(virtx_lapic_pending(&lapic[1]), VIRTX_IRQ_NONE);
    write_pin(9, TO(1) | 0x59 | LEVEL);
    ck_assert_int_eq(virtx_lapic_take(&lapic[1]), 0x59);
    /* Masked while in service: the EOI clears Remote IRR and no more comes. */
    write_pin(9, TO(1) | 0x59 | LEVEL | MASKED);
    ck_assert_uint_eq(read_pin(9), 0x59 | LEVEL | MASKED | REMOTE_IRR);
    eoi(1);
    ck_assert_uint_eq(read_pin(9), 0x59 | LEVEL | MASKED);
    ck_assert_int_eq(virtx_lapic_pending(&lapic[1]), VIRTX_IRQ_NONE);
}
END_TEST

START_TEST(shared_vector)
{
    write_pin(10, TO(0) | 0x60 | LEVEL);
    write_pin(11, TO(0) | 0x60 | LEVEL);
    virtx_ioapic_set_irq(&ioapic, 10, true);
    virtx_ioapic_set_irq(&ioapic, 11, true);
    ck_assert_int_eq(virtx_lapic_take(&lapic[0]), 0x60);
    virtx_ioapic_set_irq(&ioapic, 10, false);
    eoi(0);
    ck_assert_uint_eq(read_pin(10), 0x60 | LEVEL);
    ck_assert_uint_eq(read_pin(11), 0x60 | LEVEL | REMOTE_IRR);
    ck_assert_int_eq(virtx_lapic_take(&lapic[0]), 0x60);
}
END_TEST

START_TEST(polarity)
{
    make_ioapic(0x20, false);
    virtx_ioapic_set_irq(&ioapic, 3, true); /* Idle is high. */
    write_pin(3, TO(0) | 0x33 | LEVEL | LOW);
    ck_assert_int_eq(virtx_lapic_pending(&lapic[0]), VIRTX_IRQ_NONE);
    virtx_ioapic_set_irq(&ioapic, 3, false);
    ck_assert_int_eq(virtx_lapic_take(&lapic[0]), 0x33);
    virtx_ioapic_set_irq(&ioapic, 3, true);
    eoi(0);
    ck_assert_int_eq(virtx_lapic_pending(&lapic[0]), VIRTX_IRQ_NONE);
    write_pin(3, TO(0) | 0x34 | LOW);
    virtx_ioapic_set_irq(&ioapic, 3, false);
    ck_assert_int_eq(virtx_lapic_take(&lapic[0]), 0x34);
    eoi(0);

    make_ioapic(0x20, true);
    write_pin(3, TO(0) | 0x33 | LEVEL | LOW);
    ck_assert_int_eq(virtx_lapic_pending(&lapic[0]), VIRTX_IRQ_NONE);
    virtx_ioapic_set_irq(&ioapic, 3, true);
    ck_assert_int_eq(virtx_lapic_pending(&lapic[0]), 0x33);
}
END_TEST

START_TEST(eoi_register)
{
    write_pin(9, TO(1) | 0x59 | LEVEL);
    virtx_lapic_mmio_write(&lapic[1], 0xf0, 4, 0x11ff, 0); /* Suppress the broadcast. */
    virtx_ioapic_set_irq(&ioapic, 9, true);
    ck_assert_int_eq(virtx_lapic_take(&lapic[1]), 0x59);
    eoi(1);
    ck_assert_uint_eq(read_pin(9), 0x59 | LEVEL | REMOTE_IRR);
    ck_assert_int_eq(virtx_lapic_pending(&lapic[1]), VIRTX_IRQ_NONE);
    virtx_ioapic_mmio_write(&ioapic, 0x40, 4, 0x58);
    ck_assert_int_eq(virtx_lapic_pending(&lapic[1]), VIRTX_IRQ_NONE);
    ck_assert_uint_eq(read_pin(9), 0x59 | LEVEL | REMOTE_IRR);
    virtx_ioapic_mmio_write(&ioapic, 0x40, 4, 0x59);
    ck_assert_int_eq(virtx_lapic_take(&lapic[1]), 0x59);

    /* The 82093AA has none. There the switch to edge and back ends a level by software. */
    make_ioapic(0x11, true);
    ck_assert_uint_eq(read_reg(1), 0x00170011);
    write_pin(9, TO(1) | 0x69 | LEVEL);
    virtx_ioapic_set_irq(&ioapic, 9, true);
    virtx_ioapic_set_irq(&ioapic, 9, false);
    virtx_ioapic_mmio_write(&ioapic, 0x40, 4, 0x69);
    ck_assert_uint_eq(read_pin(9), 0x69 | LEVEL | REMOTE_IRR);
    write_pin(9, TO(1) | 0x69 | MASKED);
    ck_assert_uint_eq(read_pin(9), 0x69 | MASKED);
    write_pin(9, TO(1) | 0x69 | LEVEL);
    ck_assert_uint_eq(read_pin(9), 0x69 | LEVEL);
}
END_TEST

START_TEST(nobody_accepts)
{
    write_pin(9, TO(9) | 0x59 | LEVEL);
    virtx_ioapic_set_irq(&ioapic, 9, true);
    ck_assert_uint_eq(read_pin(9), 0x59 | LEVEL | STATUS);
    write_pin(9, TO(3) | 0x59 | LEVEL);
    ck_assert_uint_eq(read_pin(9), 0x59 | LEVEL | REMOTE_IRR);
    ck_assert_int_eq(virtx_lapic_pending(&lapic[3]), 0x59);

    /* A vector below 16 is accepted by nobody and noted by the receiver. */
    write_pin(8, TO(0) | 0x0f | LEVEL);
    virtx_ioapic_set_irq(&ioapic, 8, true);
    ck_assert_uint_eq(read_pin(8), 0x0f | LEVEL | STATUS);
    virtx_ioapic_set_irq(&ioapic, 8, false);
    ck_assert_uint_eq(read_pin(8), 0x0f | LEVEL);
    virtx_lapic_mmio_write(&lapic[0], 0x280, 4, 0, 0);
    ck_assert_uint_eq(virtx_lapic_mmio_read(&lapic[0], 0x280, 4, 0), 0x40);
}
END_TEST

START_TEST(delivery_modes)
{
    static const struct {
        uint32_t mode;
        enum virtx_apic_delivery kind;
    } modes[] = {{2, VIRTX_APIC_SMI}, {4, VIRTX_APIC_NMI}, {5, VIRTX_APIC_INIT}};

    /* These are edges even if programmed as levels. */
    for (unsigned i = 0; i < 3; i++) {
        write_pin(6, TO(1) | modes[i].mode << 8 | LEVEL);
        virtx_ioapic_set_irq(&ioapic, 6, true);
        virtx_ioapic_set_irq(&ioapic, 6, true);
        ck_assert_int_eq(events[1][modes[i].kind], 1);
        ck_assert_uint_eq(read_pin(6), modes[i].mode << 8 | LEVEL);
        virtx_ioapic_set_irq(&ioapic, 6, false);
    }
    /* Logical, fixed: everyone in the set. */
    write_pin(6, TO(0x0a) | LOGICAL | 0x66);
    virtx_ioapic_set_irq(&ioapic, 6, true);
    for (int i = 0; i < CPUS; i++)
        ck_assert_int_eq(virtx_lapic_pending(&lapic[i]), (0x0a >> i & 1) ? 0x66 : VIRTX_IRQ_NONE);
    virtx_ioapic_set_irq(&ioapic, 6, false);

    /* Lowest priority: one of the set. */
    virtx_lapic_set_tpr(&lapic[0], 0x20);
    virtx_lapic_set_tpr(&lapic[3], 0x10);
    write_pin(6, TO(0x09) | LOGICAL | 1u << 8 | 0x77);
    virtx_ioapic_set_irq(&ioapic, 6, true);
    ck_assert_int_eq(virtx_lapic_pending(&lapic[3]), 0x77);
    ck_assert_int_eq(virtx_lapic_pending(&lapic[0]), VIRTX_IRQ_NONE);
}
END_TEST

/* What is not a register or not a pin does nothing, and narrow reads are of bytes. */
START_TEST(edges_of_the_register_file)
{
    struct virtx_ioapic_state state;

    write_pin(23, TO(1) | 0x59 | MASKED);
    write_reg(0x40, 0x12345678);
    ck_assert_uint_eq(read_reg(0x40), 0);
    ck_assert_uint_eq(read_reg(0x03), 0);
    ck_assert_uint_eq(read_reg(0x0f), 0);
    write_reg(0x11, 0x01000000);
    write_reg(2, 0x0a000000); /* the arbitration ID follows the ID */
    ck_assert_uint_eq(read_reg(0), 0x05000000);
    virtx_ioapic_set_irq(&ioapic, 24, true);
    virtx_ioapic_set_irq(&ioapic, UINT32_MAX, true);
    virtx_ioapic_save(&ioapic, &state);
    ck_assert_uint_eq(state.lines, 0);
    write_pin(2, 0x12a4);
    virtx_ioapic_mmio_write(&ioapic, 0, 4, 0x14);
    ck_assert_uint_eq(virtx_ioapic_mmio_read(&ioapic, 0x10, 1), 0xa4);
    ck_assert_uint_eq(virtx_ioapic_mmio_read(&ioapic, 0x11, 1), 0x02); /* the status reads 0 */
    ck_assert_uint_eq(virtx_ioapic_mmio_read(&ioapic, 0x10, 2), 0x02a4);
    virtx_ioapic_mmio_write(&ioapic, 0x10, 1, 0xff);
    virtx_ioapic_mmio_write(&ioapic, 0x20, 4, 0xff);
    ck_assert_uint_eq(read_pin(2), 0x02a4);
    virtx_ioapic_reset(&ioapic);
    ck_assert_uint_eq(virtx_ioapic_mmio_read(&ioapic, 0, 4), 0);
    ck_assert_uint_eq(read_pin(2), MASKED);
}
END_TEST

START_TEST(lines_are_kept_apart)
{
    write_pin(4, TO(0) | 0x40 | LEVEL);
    write_pin(5, TO(0) | 0x50 | LEVEL);
    virtx_ioapic_set_irq(&ioapic, 4, true);
    virtx_ioapic_set_irq(&ioapic, 5, true);
    virtx_ioapic_set_irq(&ioapic, 4, false);
    ck_assert_int_eq(virtx_lapic_take(&lapic[0]), 0x50);
    eoi(0);
    ck_assert_int_eq(virtx_lapic_take(&lapic[0]), 0x50); /* asserted again, before 40's turn */
    virtx_ioapic_set_irq(&ioapic, 5, false);
    eoi(0);
    ck_assert_int_eq(virtx_lapic_take(&lapic[0]), 0x40);
    eoi(0);
    ck_assert_int_eq(virtx_lapic_pending(&lapic[0]), VIRTX_IRQ_NONE);
}
END_TEST

/* Lowest priority is a level too; every I/O APIC hears of the EOI. */
START_TEST(level_by_lowest_priority)
{
    static struct virtx_ioapic second;
    struct virtx_ioapic_config config = {
        .size = sizeof(config), .version = 0x20, .id = 15, .bus = &bus};

    ck_assert(virtx_ioapic_init(&second, &config));
    ck_assert(virtx_apic_bus_add_ioapic(&bus, &second));
    write_pin(6, TO(0x0f) | LOGICAL | 1u << 8 | LEVEL | 0x77);
    virtx_ioapic_set_irq(&ioapic, 6, true);
    ck_assert_uint_eq(read_pin(6), LOGICAL | 1u << 8 | LEVEL | REMOTE_IRR | 0x77);
    for (unsigned i = 0; i < CPUS; i++) {
        if (virtx_lapic_pending(&lapic[i]) == 0x77) {
            ck_assert_int_eq(virtx_lapic_take(&lapic[i]), 0x77);
            virtx_ioapic_set_irq(&ioapic, 6, false);
            eoi(i);
        }
    }
    ck_assert_uint_eq(read_pin(6), LOGICAL | 1u << 8 | LEVEL | 0x77);
}
END_TEST

/* The bus has so many places, and each ID once. */
START_TEST(the_bus_is_full)
{
    static struct virtx_lapic other;
    struct virtx_lapic_config config = lapic[0].config;

    config.id = 9;
    ck_assert(virtx_lapic_init(&other, &config));
    ck_assert(!virtx_apic_bus_add_lapic(&bus, &other));
    bus.count = 3;
    ck_assert(!virtx_apic_bus_add_lapic(&bus, &lapic[1]));
    ck_assert(virtx_apic_bus_add_lapic(&bus, &other));
    virtx_lapic_mmio_write(&other, 0xf0, 4, 0x1ff, 0);
    ck_assert_uint_eq(virtx_msi_deliver(&bus, 0xfee09000, 0x41), 1);
    ck_assert_uint_eq(virtx_msi_deliver(&bus, 0xfee03000, 0x41), 0);
}
END_TEST

/* Intel SDM, "Message Signalled Interrupts": address and data, and who gets what. */
START_TEST(msi_formats)
{
    static const struct {
        uint64_t address;
        uint32_t data;
        uint8_t delivery, destination;
        bool good, logical, level;
    } rows[] = {
        {0xfee01000, 0x0041, VIRTX_APIC_FIXED, 1, true, false, false},
        {0xfee01000, 0x4041, VIRTX_APIC_FIXED, 1, true, false, false}, /* edges ignore "assert" */
        {0xfee01000, 0xc041, VIRTX_APIC_FIXED, 1, true, false, true},
        {0xfee01000, 0x8041, 0, 0, false, false, false}, /* a level that is de-asserted */
        {0xfee01004, 0x0041, VIRTX_APIC_FIXED, 1, true, true, false},
        {0xfee01008, 0x0041, VIRTX_APIC_FIXED, 1, true, false, false}, /* a hint, but physical */
        {0xfee0300c, 0x0041, VIRTX_APIC_LOWEST_PRIORITY, 3, true, true, false},
        {0xfee0300c, 0x0441, VIRTX_APIC_NMI, 3, true, true, false}, /* the hint is of fixed ones */
        {0xfee03004, 0x0141, VIRTX_APIC_LOWEST_PRIORITY, 3, true, true, false},
        {0xfee02000, 0x0241, VIRTX_APIC_SMI, 2, true, false, false},
        {0xfee02000, 0x0541, VIRTX_APIC_INIT, 2, true, false, false},
        {0xfee02000, 0x0741, VIRTX_APIC_EXTINT, 2, true, false, false},
        {0xfeeff000, 0x0041, VIRTX_APIC_FIXED, 255, true, false, false},
        {0xfed01000, 0x0041, 0, 0, false, false, false},
        {0xfee01000ull << 4, 0x0041, 0, 0, false, false, false},
        {0x1fee01000, 0x0041, 0, 0, false, false, false},
    };

    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct virtx_apic_message m;

        ck_assert(virtx_msi_decode(rows[i].address, rows[i].data, &m) == rows[i].good);
        if (!rows[i].good) {
            ck_assert_uint_eq(virtx_msi_deliver(&bus, rows[i].address, rows[i].data), 0);
            continue;
        }
        ck_assert_uint_eq(m.delivery, rows[i].delivery);
        ck_assert_uint_eq(m.destination, rows[i].destination);
        ck_assert_uint_eq(m.vector, 0x41);
        ck_assert_uint_eq(m.source, VIRTX_APIC_NO_SOURCE);
        ck_assert(m.logical == rows[i].logical && m.level == rows[i].level && !m.wide);
    }
}
END_TEST

START_TEST(msi)
{
    struct virtx_apic_message m;

    ck_assert_uint_eq(virtx_msi_deliver(&bus, 0xfee02000, 0x41), 1);
    ck_assert_int_eq(virtx_lapic_pending(&lapic[2]), 0x41);
    ck_assert_uint_eq(virtx_msi_deliver(&bus, 0xfee0f004, 0x42), 4);
    ck_assert_uint_eq(virtx_msi_deliver(&bus, 0xfeeff000, 0x43), 4);
    ck_assert_uint_eq(virtx_msi_deliver(&bus, 0xfee0f00c, 0x44), 1);
    ck_assert_uint_eq(virtx_msi_deliver(&bus, 0xfee09000, 0x44), 0);
    ck_assert_uint_eq(virtx_msi_deliver(&bus, 0xfee01000, 0x400), 1);
    ck_assert_int_eq(events[1][VIRTX_APIC_NMI], 1);

    ck_assert(!virtx_msi_decode(0xfef00000, 0x41, &m));
    ck_assert(!virtx_msi_decode(0x1fee00000, 0x41, &m));
    ck_assert(!virtx_msi_decode(0xfee00000, 0x8041, &m)); /* Level, de-assert. */
    ck_assert(virtx_msi_decode(0xfee03000, 0xc041, &m));
    ck_assert(m.level && !m.logical && !m.wide && m.destination == 3 && m.vector == 0x41);
}
END_TEST

/* An x2APIC with more than 8 bits of ID is out of reach; FFH is still everybody. */
START_TEST(narrow_messages_to_x2apic)
{
    for (unsigned i = 0; i < CPUS; i++)
        ck_assert(virtx_lapic_msr_write(&lapic[i], 0x1b, 0, 0xfee00c00));
    ck_assert_uint_eq(virtx_msi_deliver(&bus, 0xfee03000, 0x41), 1);
    ck_assert_int_eq(virtx_lapic_pending(&lapic[3]), 0x41);
    ck_assert_uint_eq(virtx_msi_deliver(&bus, 0xfee06004, 0x42), 2);
    ck_assert_int_eq(virtx_lapic_pending(&lapic[1]), 0x42);
    ck_assert_int_eq(virtx_lapic_pending(&lapic[2]), 0x42);
    ck_assert_uint_eq(virtx_msi_deliver(&bus, 0xfeeff000, 0x43), 4);
}
END_TEST

static uint8_t served(unsigned cpu)
{
    return (uint8_t)virtx_lapic_take(&lapic[cpu]);
}

START_TEST(saved_and_restored)
{
    struct virtx_ioapic_state state, again;

    write_pin(3, TO(1) | LEVEL | 0x41);
    write_pin(4, TO(1) | LEVEL | 0x52);
    write_pin(5, TO(1) | 0x43);
    virtx_ioapic_set_irq(&ioapic, 3, true); /* sent: waits for its EOI */
    ck_assert_uint_eq(served(1), 0x41);
    virtx_lapic_mmio_write(&lapic[1], 0xf0, 4, 0xff, 0);
    virtx_ioapic_set_irq(&ioapic, 4, true); /* nobody takes it: waits to be sent */
    virtx_ioapic_set_irq(&ioapic, 5, true); /* an edge: gone */
    virtx_lapic_mmio_write(&lapic[1], 0xf0, 4, 0x1ff, 0);
    virtx_ioapic_save(&ioapic, &state);
    ck_assert_uint_eq(state.redirection[3], TO(1) | LEVEL | REMOTE_IRR | 0x41);
    ck_assert_uint_eq(state.redirection[4], TO(1) | LEVEL | STATUS | 0x52);

    make_ioapic(0x20, true);
    ck_assert(virtx_ioapic_restore(&ioapic, &state));
    ck_assert_uint_eq(served(1), 0x52);
    ck_assert_int_eq(virtx_lapic_pending(&lapic[1]), VIRTX_IRQ_NONE);
    virtx_ioapic_set_irq(&ioapic, 5, true); /* it is high already */
    ck_assert_int_eq(virtx_lapic_pending(&lapic[1]), VIRTX_IRQ_NONE);
    eoi(1);
    eoi(1); /* both are asserted still */
    ck_assert_uint_eq(served(1), 0x52);
    eoi(1);
    ck_assert_uint_eq(served(1), 0x52);
    virtx_ioapic_set_irq(&ioapic, 4, false);
    eoi(1);
    ck_assert_uint_eq(served(1), 0x41);

    virtx_ioapic_save(&ioapic, &state);
    again = state;
    again.lines = 1u << 24;
    ck_assert(!virtx_ioapic_restore(&ioapic, &again));
    again = state;
    again.id = 1;
    ck_assert(!virtx_ioapic_restore(&ioapic, &again));
    again = state;
    again.redirection[7] = 1 << 17;
    ck_assert(!virtx_ioapic_restore(&ioapic, &again));
    again.redirection[7] = REMOTE_IRR; /* of an edge */
    ck_assert(!virtx_ioapic_restore(&ioapic, &again));
    again = state;
    again.size = 0;
    ck_assert(!virtx_ioapic_restore(&ioapic, &again));
    virtx_ioapic_save(&ioapic, &again);
    ck_assert(memcmp(&state, &again, sizeof(state)) == 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ioapic");
    TCase *tc = tcase_create("ioapic");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_test(tc, registers);
    tcase_add_test(tc, bad_configurations);
    tcase_add_test(tc, edge);
    tcase_add_test(tc, level);
    tcase_add_test(tc, shared_vector);
    tcase_add_test(tc, polarity);
    tcase_add_test(tc, eoi_register);
    tcase_add_test(tc, nobody_accepts);
    tcase_add_test(tc, delivery_modes);
    tcase_add_test(tc, edges_of_the_register_file);
    tcase_add_test(tc, lines_are_kept_apart);
    tcase_add_test(tc, level_by_lowest_priority);
    tcase_add_test(tc, the_bus_is_full);
    tcase_add_test(tc, msi_formats);
    tcase_add_test(tc, msi);
    tcase_add_test(tc, narrow_messages_to_x2apic);
    tcase_add_test(tc, saved_and_restored);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
