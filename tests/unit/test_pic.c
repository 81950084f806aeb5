/* SPDX-License-Identifier: BSD-2-Clause */
/* The 8259A pair against its datasheet. */
#include <virtx/pic.h>

#include <check.h>
#include <stdlib.h>

static struct virtx_pic pic;
static bool intr;
static int rises;

static void output(void *ctx, bool level)
{
    ck_assert_ptr_eq(ctx, &rises);
    ck_assert(level != intr);
    intr = level;
    rises += level;
}

/* Programs the pair as a PC's firmware does: vectors 30H and 70H, all unmasked. */
static void program(uint8_t icw1, uint8_t master_icw4, uint8_t slave_icw4)
{
    rises = 0;
    intr = false;
    virtx_pic_init(&pic, output, &rises);
    virtx_pic_write(&pic, 0x20, icw1);
    virtx_pic_write(&pic, 0x21, 0x30);
    virtx_pic_write(&pic, 0x21, 0x04);
    virtx_pic_write(&pic, 0x21, master_icw4);
    virtx_pic_write(&pic, 0xa0, icw1);
    virtx_pic_write(&pic, 0xa1, 0x70);
    virtx_pic_write(&pic, 0xa1, 0x02);
    virtx_pic_write(&pic, 0xa1, slave_icw4);
    virtx_pic_write(&pic, 0x21, 0);
    virtx_pic_write(&pic, 0xa1, 0);
}

static void setup(void)
{
    program(0x11, 1, 1);
}

static uint8_t read_isr(uint16_t port)
{
    virtx_pic_write(&pic, port, 0x0b);
    return virtx_pic_read(&pic, port);
}

static uint8_t read_irr(uint16_t port)
{
    virtx_pic_write(&pic, port, 0x0a);
    return virtx_pic_read(&pic, port);
}

static void raise_irq(unsigned irq)
{
    virtx_pic_set_irq(&pic, irq, true);
}

static void lower_irq(unsigned irq)
{
    virtx_pic_set_irq(&pic, irq, false);
}

/* ---- A table of what the datasheet says ---- */

/*
 * What is done and seen, in order, words apart by spaces: +N -N ^N raise, lower, pulse an input;
 * PORT<VALUE a write, PORT>VALUE a read and what it must give; ?V what is pending, !V an
 * acknowledge cycle and its vector (V in hexadecimal, -- for none); #N how often INT has risen.
 */
static const struct {
    const char *rule, *steps;
    uint8_t icw4; /* 0: 1 */
} rules[] = {
    /* 8259A, "Interrupt Request Register", "Level Triggered Mode and Edge Triggered Mode". */
    {"an edge input that stays high is one request", "+3 !33 20<20 +3 ?-- -3 ?-- +3 !33", 0},
    {"a pulse on a line that was left high is an edge", "+3 !33 20<20 ?-- ^3 !33 20<20 ?--", 0},
    {"a line that is raised behind a pulse stays", "^3 +3 !33 20<20 +3 ?--", 0},
    {"a served pulse has gone: the next rise is an edge", "^3 !33 20<20 +3 !33", 0},
    {"pulses on level inputs are one request each",
     "4d1<0e ^9 ^10 !71 20<20 a0<20 !72 20<20 a0<20 ?--", 0},
    {"input 15 is the slave's last", "a0<0b ^15 !77 a0>80 20<0b 20>04", 0},
    {"inputs keep each other's levels", "4d0<f8 +3 +4 -3 !34 20<20 ?34 -4 ?--", 0},
    {"a line that becomes a level asks while it is high", "+3 !33 20<20 ?-- 4d0<08 ?33 -3 ?--", 0},
    {"… and the edges of others stay", "+4 4d0<08 20>10 ?34", 0},
    {"a level that becomes an edge asks no more", "4d0<08 +3 !33 20<20 ?33 4d0<00 !33 20<20 ?--",
     0},
    {"without a request, an acknowledge is 7's", "!37 20<0b 20>00", 0},
    {"a spurious 15 is the master's business once",
     "+10 ?72 -10 !77 20<0b 20>04 20<20 !37 20>00 a0<0b a0>00", 0},
    /* "Initialization Command Words 1 and 2": what ICW1 does by itself. */
    {"ICW1: edges are forgotten", "+3 20<11 21<30 21<04 21<01 ?-- -3 +3 !33", 0},
    {"ICW1: levels are still there", "4d0<18 +3 +4 20<11 21<30 21<04 21<01 20>18 !33", 0},
    {"ICW1: a pulse at a level input is forgotten", "4d0<08 ^3 20<11 21<30 21<04 21<01 ?--", 0},
    {"ICW1: the mask is cleared", "21<ff 20<11 21<30 21<04 21<01 21>00 +3 !33", 0},
    {"ICW1: nothing is in service", "+3 !33 20<11 21<30 21<04 21<01 20<0b 20>00 +4 !34", 0},
    {"ICW1: IR7 is the lowest", "20<c3 20<11 21<30 21<04 21<01 +4 +3 !33", 0},
    {"ICW1: special mask mode is off",
     "20<68 20<11 21<30 21<04 21<01 +3 !33 21<08 +6 ?-- 20<63 !36", 0},
    {"ICW1: reads give IRR", "20<0b 20<11 21<30 21<04 21<01 +3 20>08", 0},
    {"ICW1: a poll is called off", "20<0c 20<11 21<30 21<04 21<01 +3 20>08 ?33", 0},
    {"ICW1 without IC4: no automatic EOI", "20<10 21<30 21<04 +3 !33 20<0b 20>08", 3},
    {"ICW1 without IC4: no special fully nested mode", "20<10 21<30 21<04 +12 !74 +9 ?--", 0x11},
    {"ICW1: the slave's address is 7", "a0<13 a1<70 a1<01 +8 !ff", 0},
    {"ICW1: no rotation in automatic EOI", "20<80 20<11 21<30 21<04 21<03 +0 +1 !30 -0 +0 !30", 3},
    {"ICW2: bits 7 to 3 only", "20<11 21<ff 21<04 21<01 +3 !fb", 0},
    {"no interrupt between ICW1 and the last word", "20<11 +3 ?-- 21<30 ?-- 21<04 ?-- 21<01 ?33",
     0},
    /* "Operation Control Words". */
    {"OCW1: masks and lets go", "+3 21<08 ?-- 21>08 20>08 21<f7 ?33", 0},
    {"OCW1: a mask does not end service", "+3 !33 21<08 20<0b 20>08", 0},
    {"OCW3 without RR keeps what is read", "20<0b +3 !33 20<48 20>08 20<0a 20>00", 0},
    {"OCW3 with ESMM = 0 keeps the mode", "20<68 +3 !33 21<08 +6 20<28 ?36 20<08 ?36 20<48 ?--", 0},
    {"non-specific EOI: the highest in service", "+6 !36 +3 !33 20<20 20<0b 20>40", 0},
    {"specific EOI: the one named", "+6 !36 +3 !33 20<66 20<0b 20>08", 0},
    {"specific EOI of what is not in service", "+6 !36 20<63 20<0b 20>40", 0},
    {"EOI with nothing in service", "20<20 20<0b 20>00 +7 !37 20>80", 0},
    {"rotate on non-specific EOI", "+4 !34 20<a0 -4 +4 +3 ?33 +5 ?35", 0},
    {"… which makes the one served the lowest", "+4 !34 20<a0 -4 +4 +1 +0 !30 20<20 !31 20<20 !34",
     0},
    {"rotate on specific EOI", "+4 !34 20<e5 20<0b 20>10 20<64 +6 +0 !36", 0},
    {"set priority, without an EOI", "+4 !34 20<c5 20<0b 20>10 20<20 +0 +6 !36", 0},
    {"a rotated order nests too", "20<c3 +1 !31 +4 !34 +3 ?-- +5 ?-- 20<20 !35", 0},
    {"010 is no operation", "+3 !33 20<43 20<0b 20>08 +1 ?31", 0},
    {"automatic EOI: nothing is in service, nothing held back", "+3 !33 20<0b 20>00 +6 !36 +7 !37",
     3},
    {"automatic EOI on one chip only", "+8 !70 20<0b 20>04 a0<0b a0>01", 0},
    {"rotation in automatic EOI", "20<80 +0 +1 !30 -0 +0 !31 !30", 3},
    {"… and its end", "20<80 20<00 +0 +1 !30 -0 +0 !30", 3},
    {"rotation in automatic EOI set without it is nothing", "20<80 +0 +1 !30 20<20 -0 +0 !30", 0},
    /* "Special Mask Mode". */
    {"special mask mode: all that is not masked, lower too", "+3 !33 20<68 21<08 +6 !36", 0},
    {"… the input in service not itself", "+3 !33 20<68 -3 +3 ?-- 21<08 ?-- 21<00 ?--", 0},
    {"… what is in service and not masked holds back", "+3 !33 20<68 +6 ?-- +1 ?31", 0},
    {"… a non-specific EOI passes the masked one by", "+6 !36 +3 !33 20<68 21<08 20<20 20<0b 20>08",
     0},
    {"… a specific EOI ends it", "+3 !33 20<68 21<08 20<63 20<0b 20>00", 0},
    {"… on the master, for a whole slave", "+8 !70 20<68 21<04 +3 !33 20<63 ?--", 0},
    {"… on the slave alone the master holds back", "+9 !71 a0<68 a1<02 +12 ?-- 20<20 !74", 0},
    {"… with automatic EOI: no bit to pass by, no EOI needed",
     "20<68 +3 !33 20<0b 20>00 21<08 +6 !36 20>00 -3 +3 ?-- 21<00 !33 20<20 20>00", 3},
    {"… with automatic EOI the order stays", "20<68 +6 +3 !33 !36 -3 -6 +6 +3 ?33", 3},
    {"… with automatic EOI and rotation", "20<68 20<80 +0 +1 !30 -0 +0 !31 !30 20<0b 20>00", 3},
    /* "Poll Command". */
    {"a poll acknowledges, once", "+3 +6 20<0c 20>83 20<0b 20>08 ?-- 20<20 ?36", 0},
    {"a poll drops INT, and the next request is a rise", "+3 +4 #1 20<0c 20>83 #2", 3},
    {"a slave's poll lets its next request through",
     "+9 +13 20<0c 20>82 a0<0c a0>81 ?75 20<0c 20>82 a0<0c a0>85", 3},
    {"a slave's poll is not the master's acknowledge", "+9 #1 a0<0c a0>81 ?--", 0},
    /* "Special Fully Nested Mode". */
    {"special fully nested: a slave interrupts itself upwards", "+12 !74 +9 !71 +13 ?--", 0x11},
    {"fully nested: it does not", "+12 !74 +9 ?-- 20<20 ?71", 0},
    {"ports beside it are not its", "22<11 120<11 +3 !33", 0},
};

static unsigned number(const char **at, int base)
{
    char *end;
    unsigned long value = strtoul(*at, &end, base);

    ck_assert(end != *at);
    *at = end;
    return (unsigned)value;
}

static int vector_or_none(const char **at)
{
    if (**at != '-')
        return (int)number(at, 16);
    *at += 2;
    return VIRTX_IRQ_NONE;
}

static void step(const char **at, const char *rule)
{
    const char *begin = *at;
    char kind = *(*at)++;
    unsigned port;
    int got, wanted;

    switch (kind) {
    case '+':
    case '-':
        virtx_pic_set_irq(&pic, number(at, 10), kind == '+');
        return;
    case '^':
        virtx_pic_pulse(&pic, number(at, 10));
        return;
    case '?':
        wanted = vector_or_none(at);
        got = virtx_pic_pending(&pic);
        break;
    case '!':
        wanted = vector_or_none(at);
        got = virtx_pic_take(&pic);
        break;
    case '#':
        wanted = (int)number(at, 10);
        got = rises;
        break;
    default:
        --*at;
        port = number(at, 16);
        kind = *(*at)++;
        wanted = (int)number(at, 16);
        if (kind == '<') {
            virtx_pic_write(&pic, (uint16_t)port, (uint8_t)wanted);
            return;
        }
        got = virtx_pic_read(&pic, (uint16_t)port);
    }
    ck_assert_msg(got == wanted, "%s: at \"%s\": 0x%x", rule, begin, (unsigned)got);
}

START_TEST(rules_of_the_datasheet)
{
    const char *at = rules[_i].steps;
    uint8_t icw4 = rules[_i].icw4 != 0 ? rules[_i].icw4 : 1;

    program(0x11, icw4, icw4 == 3 ? 3 : 1);
    while (*at != '\0') {
        step(&at, rules[_i].rule);
        while (*at == ' ')
            at++;
    }
}
END_TEST

START_TEST(idle_pair_is_detectable)
{
    virtx_pic_init(&pic, NULL, NULL);
    for (unsigned irq = 0; irq < 16; irq++)
        raise_irq(irq);
    ck_assert_int_eq(virtx_pic_pending(&pic), VIRTX_IRQ_NONE);
    virtx_pic_write(&pic, 0x21, 0xfb);
    ck_assert_uint_eq(virtx_pic_read(&pic, 0x21), 0xfb);
    ck_assert_uint_eq(virtx_pic_read(&pic, 0x20), 0xfb);
}
END_TEST

START_TEST(ports)
{
    static const uint16_t own[] = {0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1};
    unsigned found = 0;

    for (uint32_t port = 0; port < 0x10000; port++)
        found += virtx_pic_owns_port((uint16_t)port);
    ck_assert_uint_eq(found, 6);
    for (unsigned i = 0; i < 6; i++)
        ck_assert(virtx_pic_owns_port(own[i]));
    virtx_pic_write(&pic, 0x22, 0xff);
    ck_assert_uint_eq(virtx_pic_read(&pic, 0x22), 0xff);
    ck_assert_uint_eq(virtx_pic_read(&pic, 0x21), 0);
}
END_TEST

START_TEST(each_input_has_its_vector)
{
    for (unsigned irq = 0; irq < 16; irq++) {
        int vector = irq < 8 ? 0x30 + (int)irq : 0x70 + (int)irq - 8;

        if (irq == 2)
            continue;
        raise_irq(irq);
        ck_assert(intr);
        /* Asking consumes nothing. */
        ck_assert_int_eq(virtx_pic_pending(&pic), vector);
        ck_assert_int_eq(virtx_pic_pending(&pic), vector);
        ck_assert_int_eq(virtx_pic_take(&pic), vector);
        ck_assert(!intr);
        ck_assert_int_eq(virtx_pic_pending(&pic), VIRTX_IRQ_NONE);
        ck_assert_uint_eq(read_isr(0x20), irq < 8 ? 1u << irq : 4);
        ck_assert_uint_eq(read_isr(0xa0), irq < 8 ? 0 : 1u << (irq - 8));
        if (irq >= 8)
            virtx_pic_write(&pic, 0xa0, 0x20);
        virtx_pic_write(&pic, 0x20, 0x20);
        ck_assert_uint_eq(read_isr(0x20), 0);
        ck_assert_uint_eq(read_isr(0xa0), 0);
        /* The line is still high: an edge is one interrupt. */
        ck_assert_int_eq(virtx_pic_pending(&pic), VIRTX_IRQ_NONE);
        lower_irq(irq);
    }
}
END_TEST

START_TEST(priority_and_nesting)
{
    raise_irq(5);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x35);
    raise_irq(6);
    ck_assert_int_eq(virtx_pic_pending(&pic), VIRTX_IRQ_NONE);
    raise_irq(1);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x31);
    /* The slave's inputs rank where the cascade is: between 1 and 3. */
    raise_irq(15);
    ck_assert_int_eq(virtx_pic_pending(&pic), VIRTX_IRQ_NONE);
    virtx_pic_write(&pic, 0x20, 0x20); /* Non-specific: ends 1. */
    ck_assert_uint_eq(read_isr(0x20), 1 << 5);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x77);
    virtx_pic_write(&pic, 0x20, 0x65); /* Specific: ends 5 though 2 is higher. */
    ck_assert_uint_eq(read_isr(0x20), 1 << 2);
}
END_TEST

START_TEST(masked_request_is_kept)
{
    virtx_pic_write(&pic, 0x21, 0x08);
    raise_irq(3);
    ck_assert(!intr);
    ck_assert_uint_eq(read_irr(0x20), 0x08);
    virtx_pic_write(&pic, 0x21, 0);
    ck_assert(intr);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x33);
}
END_TEST

START_TEST(spurious_7_and_15)
{
    raise_irq(3);
    ck_assert_int_eq(virtx_pic_pending(&pic), 0x33);
    lower_irq(3);
    ck_assert(!intr);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x37);
    ck_assert_uint_eq(read_isr(0x20), 0);

    raise_irq(10);
    ck_assert_int_eq(virtx_pic_pending(&pic), 0x72);
    lower_irq(10);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x77);
    ck_assert_uint_eq(read_isr(0x20), 4);
    ck_assert_uint_eq(read_isr(0xa0), 0);
    virtx_pic_write(&pic, 0x20, 0x20);

    /* What took the place of the offered request is taken instead. */
    raise_irq(10);
    ck_assert_int_eq(virtx_pic_pending(&pic), 0x72);
    lower_irq(10);
    raise_irq(4);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x34);
}
END_TEST

START_TEST(pulse_is_one_interrupt)
{
    for (int i = 0; i < 3; i++) {
        virtx_pic_pulse(&pic, 0);
        virtx_pic_pulse(&pic, 0);
        ck_assert_int_eq(virtx_pic_take(&pic), 0x30);
        virtx_pic_write(&pic, 0x20, 0x20);
        ck_assert_int_eq(virtx_pic_pending(&pic), VIRTX_IRQ_NONE);
    }
    virtx_pic_write(&pic, 0x4d0, 0x20);
    virtx_pic_pulse(&pic, 5);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x35);
    virtx_pic_write(&pic, 0x20, 0x20);
    ck_assert_int_eq(virtx_pic_pending(&pic), VIRTX_IRQ_NONE);
}
END_TEST

START_TEST(level_inputs)
{
    /* Only some inputs can be levels. */
    virtx_pic_write(&pic, 0x4d0, 0xff);
    virtx_pic_write(&pic, 0x4d1, 0xff);
    ck_assert_uint_eq(virtx_pic_read(&pic, 0x4d0), 0xf8);
    ck_assert_uint_eq(virtx_pic_read(&pic, 0x4d1), 0xde);
    raise_irq(11);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x73);
    ck_assert_uint_eq(read_irr(0xa0), 0x08);
    virtx_pic_write(&pic, 0x20, 0x20);
    ck_assert_int_eq(virtx_pic_pending(&pic), VIRTX_IRQ_NONE);
    virtx_pic_write(&pic, 0xa0, 0x20);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x73);
    virtx_pic_write(&pic, 0xa0, 0x20);
    virtx_pic_write(&pic, 0x20, 0x20);
    lower_irq(11);
    ck_assert_int_eq(virtx_pic_pending(&pic), VIRTX_IRQ_NONE);

    /* ICW1's LTIM makes all of them levels, also across the initialization. */
    raise_irq(4);
    program(0x19, 1, 1);
    raise_irq(0);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x30);
    virtx_pic_write(&pic, 0x20, 0x20);
    ck_assert_int_eq(virtx_pic_pending(&pic), 0x30);
}
END_TEST

START_TEST(icw1_starts_afresh)
{
    raise_irq(3);
    raise_irq(6);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x33);
    virtx_pic_write(&pic, 0x21, 0xff);
    virtx_pic_write(&pic, 0x20, 0xc0); /* Priority order turned: 0 is the lowest. */
    virtx_pic_write(&pic, 0x20, 0x68); /* Special mask mode. */
    virtx_pic_write(&pic, 0x20, 0x0b); /* Reads give ISR. */

    virtx_pic_write(&pic, 0x20, 0x11);
    virtx_pic_write(&pic, 0x21, 0x40);
    virtx_pic_write(&pic, 0x21, 0x04);
    /* No interrupt before the last command word. */
    lower_irq(1);
    raise_irq(1);
    ck_assert_int_eq(virtx_pic_pending(&pic), VIRTX_IRQ_NONE);
    virtx_pic_write(&pic, 0x21, 0x01);
    ck_assert_uint_eq(virtx_pic_read(&pic, 0x21), 0); /* The mask is cleared. */
    ck_assert_uint_eq(virtx_pic_read(&pic, 0x20), 2); /* IRR, without the old edges. */
    ck_assert_int_eq(virtx_pic_take(&pic), 0x41);
    ck_assert_uint_eq(read_isr(0x20), 2);
    lower_irq(0);
    raise_irq(0);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x40); /* IR7 is the lowest again. */
}
END_TEST

START_TEST(single_without_icw4)
{
    virtx_pic_write(&pic, 0x20, 0x12);
    virtx_pic_write(&pic, 0x21, 0x57); /* Bits 2:0 are not part of the vector. */
    virtx_pic_write(&pic, 0x21, 0xf0); /* This is the mask already. */
    ck_assert_uint_eq(virtx_pic_read(&pic, 0x21), 0xf0);
    raise_irq(1);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x51);
}
END_TEST

START_TEST(automatic_eoi)
{
    program(0x11, 3, 3);
    raise_irq(8);
    raise_irq(9);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x70);
    ck_assert_uint_eq(read_isr(0x20) | read_isr(0xa0), 0);
    ck_assert(intr);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x71);
    ck_assert(!intr);
    ck_assert_int_eq(rises, 2);

    /* Rotation in automatic EOI mode: the one served goes to the end. */
    virtx_pic_write(&pic, 0x20, 0x80);
    raise_irq(0);
    raise_irq(1);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x30);
    lower_irq(0);
    raise_irq(0);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x31);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x30);
    virtx_pic_write(&pic, 0x20, 0x00);
    lower_irq(1);
    raise_irq(1);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x31);
    lower_irq(0);
    lower_irq(1);
    raise_irq(1);
    raise_irq(0);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x31); /* 0 stayed the lowest. */
}
END_TEST

START_TEST(rotation_by_command)
{
    virtx_pic_write(&pic, 0x20, 0xc4); /* 4 lowest: 5 6 7 0 1 2 3 4. */
    raise_irq(0);
    raise_irq(4);
    raise_irq(6);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x36);
    virtx_pic_write(&pic, 0x20, 0xa0); /* Rotate on non-specific EOI: 7 0 1 ... 6. */
    ck_assert_uint_eq(read_isr(0x20), 0);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x30);
    virtx_pic_write(&pic, 0x20, 0xe0); /* Rotate on specific EOI of 0: 1 2 ... 0. */
    lower_irq(0);
    raise_irq(0);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x34);
    virtx_pic_write(&pic, 0x20, 0x40); /* No operation. */
    ck_assert_uint_eq(read_isr(0x20), 0x10);
    virtx_pic_write(&pic, 0x20, 0x20);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x30);
    virtx_pic_write(&pic, 0x20, 0xa0);
    virtx_pic_write(&pic, 0x20, 0xa0); /* With nothing in service: no effect. */
    ck_assert_int_eq(virtx_pic_pending(&pic), VIRTX_IRQ_NONE);
}
END_TEST

START_TEST(special_mask_mode)
{
    raise_irq(3);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x33);
    raise_irq(6);
    virtx_pic_write(&pic, 0x21, 0x08);
    ck_assert_int_eq(virtx_pic_pending(&pic), VIRTX_IRQ_NONE);
    virtx_pic_write(&pic, 0x20, 0x68);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x36);
    /* "An IS bit that is masked will not be cleared by a non-specific EOI." */
    virtx_pic_write(&pic, 0x20, 0x20);
    ck_assert_uint_eq(read_isr(0x20), 0x08);
    virtx_pic_write(&pic, 0x20, 0x20);
    ck_assert_uint_eq(read_isr(0x20), 0x08);
    virtx_pic_write(&pic, 0x20, 0x28); /* SMM without ESMM changes nothing. */
    raise_irq(7);
    ck_assert_int_eq(virtx_pic_pending(&pic), 0x37);
    virtx_pic_write(&pic, 0x20, 0x48);
    ck_assert_int_eq(virtx_pic_pending(&pic), VIRTX_IRQ_NONE);
    virtx_pic_write(&pic, 0x20, 0x64); /* A specific EOI of another. */
    ck_assert_uint_eq(read_isr(0x20), 0x08);
    virtx_pic_write(&pic, 0x20, 0x63); /* A specific EOI ends a masked one too. */
    ck_assert_uint_eq(read_isr(0x20), 0);
    ck_assert_int_eq(virtx_pic_pending(&pic), 0x37);
}
END_TEST

START_TEST(special_fully_nested_mode)
{
    raise_irq(12);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x74);
    raise_irq(9);
    ck_assert_int_eq(virtx_pic_pending(&pic), VIRTX_IRQ_NONE);
    lower_irq(9);
    lower_irq(12);

    program(0x11, 0x11, 1);
    raise_irq(12);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x74);
    raise_irq(14);
    ck_assert_int_eq(virtx_pic_pending(&pic), VIRTX_IRQ_NONE);
    raise_irq(9);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x71);
    raise_irq(3);
    ck_assert_int_eq(virtx_pic_pending(&pic), 0x33);
}
END_TEST

START_TEST(poll_mode)
{
    virtx_pic_write(&pic, 0x20, 0x0c);
    ck_assert_uint_eq(virtx_pic_read(&pic, 0x20) & 0x80, 0);
    ck_assert_uint_eq(virtx_pic_read(&pic, 0x20), 0); /* One poll only: this is IRR. */
    raise_irq(13);
    ck_assert(intr);
    ck_assert_uint_eq(virtx_pic_read(&pic, 0x20), 4);
    virtx_pic_write(&pic, 0x20, 0x0c);
    ck_assert_uint_eq(virtx_pic_read(&pic, 0x20), 0x82);
    ck_assert(!intr);
    virtx_pic_write(&pic, 0xa0, 0x0c);
    ck_assert_uint_eq(virtx_pic_read(&pic, 0xa1), 0x85); /* Any read is the poll. */
    ck_assert_uint_eq(virtx_pic_read(&pic, 0xa1), 0x00);
    ck_assert_uint_eq(read_isr(0x20), 4);
    ck_assert_uint_eq(read_isr(0xa0), 0x20);
}
END_TEST

START_TEST(misprogrammed_cascade)
{
    /* The master does not know of its slave: the cascade is an input like others. */
    virtx_pic_write(&pic, 0x20, 0x11);
    virtx_pic_write(&pic, 0x21, 0x30);
    virtx_pic_write(&pic, 0x21, 0x00);
    virtx_pic_write(&pic, 0x21, 0x01);
    raise_irq(8);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x32);
    lower_irq(8);
    program(0x11, 1, 1);
    /* The slave has another identity: nobody drives the bus. */
    virtx_pic_write(&pic, 0xa0, 0x11);
    virtx_pic_write(&pic, 0xa1, 0x70);
    virtx_pic_write(&pic, 0xa1, 0x05);
    virtx_pic_write(&pic, 0xa1, 0x01);
    raise_irq(8);
    ck_assert_int_eq(virtx_pic_pending(&pic), 0xff);
    ck_assert_int_eq(virtx_pic_take(&pic), 0xff);
}
END_TEST

START_TEST(irq_2_and_beyond_are_ignored)
{
    raise_irq(2);
    raise_irq(16);
    raise_irq(UINT32_MAX);
    virtx_pic_pulse(&pic, 2);
    virtx_pic_pulse(&pic, 16);
    ck_assert_int_eq(virtx_pic_pending(&pic), VIRTX_IRQ_NONE);
    ck_assert_uint_eq(read_irr(0x20) | read_irr(0xa0), 0);
}
END_TEST

/* Every sequence keeps what the pair promises: INT is high exactly if there is something to take,
 * what was offered is what is taken, and its bit goes into service. */
START_TEST(random_sequences)
{
    static const uint16_t port[] = {0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1};
    unsigned taken = 0;

    srand(8259);
    for (int i = 0; i < 100000; i++) {
        unsigned r = (unsigned)rand();
        int offered;

        if (r % 5 == 0)
            virtx_pic_write(&pic, port[r / 5 % 6], (uint8_t)(r >> 8));
        else if (r % 5 == 1)
            (void)virtx_pic_read(&pic, port[r / 5 % 6]);
        else if (r % 5 == 2)
            virtx_pic_pulse(&pic, r / 5 % 16);
        else
            virtx_pic_set_irq(&pic, r / 5 % 16, r & 0x10000);
        if (i % 1000 == 0)
            setup();
        offered = virtx_pic_pending(&pic);
        ck_assert(intr == (offered >= 0));
        if (offered >= 0 && rand() % 2) {
            ck_assert_int_eq(virtx_pic_take(&pic), offered);
            ck_assert(intr == (virtx_pic_pending(&pic) >= 0));
            taken++;
        }
    }
    ck_assert_uint_gt(taken, 3000);
}
END_TEST

START_TEST(as_a_source)
{
    raise_irq(1);
    ck_assert_int_eq(virtx_pic_irq_source.pending(&pic), 0x31);
    ck_assert_int_eq(virtx_pic_irq_source.take(&pic), 0x31);
    ck_assert_int_eq(virtx_pic_irq_source.pending(&pic), -1);
    ck_assert_ptr_null(virtx_pic_irq_source.tpr);
}
END_TEST

/* From any state that a guest can make, both go on in the same way. */
START_TEST(saved_and_restored)
{
    static const uint16_t port[] = {0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1};
    struct virtx_pic_state state;
    static struct virtx_pic twin;

    srand(8260);
    for (unsigned i = 0; i < 100000; i++) {
        unsigned r = (unsigned)rand();

        if (i % 40 == 0) {
            virtx_pic_save(&pic, &state);
            virtx_pic_init(&twin, NULL, NULL);
            ck_assert(virtx_pic_restore(&twin, &state));
            ck_assert(twin.intr == intr);
        }
        if (r % 5 == 0) {
            virtx_pic_write(&pic, port[r / 5 % 6], (uint8_t)(r >> 8));
            virtx_pic_write(&twin, port[r / 5 % 6], (uint8_t)(r >> 8));
        } else if (r % 5 == 1) {
            ck_assert_uint_eq(virtx_pic_read(&twin, port[r / 5 % 6]),
                              virtx_pic_read(&pic, port[r / 5 % 6]));
        } else if (r % 5 == 2) {
            ck_assert_int_eq(virtx_pic_take(&twin), virtx_pic_take(&pic));
        } else {
            virtx_pic_set_irq(&pic, r / 5 % 16, r & 0x10000);
            virtx_pic_set_irq(&twin, r / 5 % 16, r & 0x10000);
        }
        ck_assert_int_eq(virtx_pic_pending(&twin), virtx_pic_pending(&pic));
    }
    /* Offered, gone, acknowledged: the slave's spurious vector, on the other side too. */
    setup();
    virtx_pic_set_irq(&pic, 15, true);
    ck_assert_int_eq(virtx_pic_pending(&pic), 0x77);
    virtx_pic_set_irq(&pic, 15, false);
    virtx_pic_save(&pic, &state);
    ck_assert(virtx_pic_restore(&twin, &state));
    ck_assert_int_eq(virtx_pic_take(&twin), 0x77);
    ck_assert_int_eq(virtx_pic_take(&pic), 0x77);
    state.chip[1].lowest = 8;
    ck_assert(!virtx_pic_restore(&twin, &state));
    state.chip[1].lowest = 7;
    state.chip[0].base = 0x31;
    ck_assert(!virtx_pic_restore(&twin, &state));
    state.chip[0].base = 0x30;
    state.chip[0].init_step = 5;
    ck_assert(!virtx_pic_restore(&twin, &state));
    state.chip[0].init_step = 0;
    ck_assert(virtx_pic_restore(&twin, &state));
    state.size--;
    ck_assert(!virtx_pic_restore(&twin, &state));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("pic");
    TCase *tc = tcase_create("pic");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, rules_of_the_datasheet, 0, (int)(sizeof(rules) / sizeof(rules[0])));
    tcase_add_test(tc, idle_pair_is_detectable);
    tcase_add_test(tc, ports);
    tcase_add_test(tc, each_input_has_its_vector);
    tcase_add_test(tc, priority_and_nesting);
    tcase_add_test(tc, masked_request_is_kept);
    tcase_add_test(tc, spurious_7_and_15);
    tcase_add_test(tc, pulse_is_one_interrupt);
    tcase_add_test(tc, level_inputs);
    tcase_add_test(tc, icw1_starts_afresh);
    tcase_add_test(tc, single_without_icw4);
    tcase_add_test(tc, automatic_eoi);
    tcase_add_test(tc, rotation_by_command);
    tcase_add_test(tc, special_mask_mode);
    tcase_add_test(tc, special_fully_nested_mode);
    tcase_add_test(tc, poll_mode);
    tcase_add_test(tc, misprogrammed_cascade);
    tcase_add_test(tc, irq_2_and_beyond_are_ignored);
    tcase_add_test(tc, random_sequences);
    tcase_add_test(tc, as_a_source);
    tcase_add_test(tc, saved_and_restored);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
