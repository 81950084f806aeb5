/* SPDX-License-Identifier: BSD-2-Clause */
/* The VMM's interval timer against the 8254 data sheet, and against how Linux calibrates by it. */
#include "pit.h"

#include <check.h>
#include <stdlib.h>

/* A TSC of 100 clocks a tick makes the arithmetic plain: `at(t)` is the middle of tick t. */
#define CLOCKS 100
#define TSC_HZ (PIT_HZ * (uint64_t)CLOCKS)

static struct pit pit;
static uint64_t origin; /* TSC of tick 0 */

static uint64_t at(uint64_t tick)
{
    return origin + tick * CLOCKS + CLOCKS / 2;
}

static void setup(void)
{
    origin = 123456700;
    pit_init(&pit, TSC_HZ);
}

static void out(uint16_t port, uint8_t value, uint64_t tick)
{
    pit_write(&pit, port, value, origin + tick * CLOCKS);
}

static uint8_t in(uint16_t port, uint64_t tick)
{
    return pit_read(&pit, port, at(tick));
}

static unsigned in16(uint16_t port, uint64_t tick)
{
    unsigned low = in(port, tick);
    return low | (unsigned)in(port, tick) << 8;
}

/* Control word, then both bytes of the count, all at tick 0 from here on. */
static void program(unsigned channel, unsigned mode, unsigned count)
{
    out(0x43, (uint8_t)(channel << 6 | 0x30 | mode << 1), 0);
    out((uint16_t)(0x40 + channel), (uint8_t)count, 0);
    out((uint16_t)(0x40 + channel), (uint8_t)(count >> 8), 0);
}

static bool out2(uint64_t tick)
{
    return in(0x61, tick) >> 5 & 1;
}

START_TEST(mode_0_counts_once_and_through_zero)
{
    out(0x61, 1, 0);
    program(2, 0, 1000);
    ck_assert_uint_eq(in16(0x42, 0), 1000);
    ck_assert_uint_eq(in16(0x42, 10), 990);
    ck_assert(!out2(999));
    ck_assert(out2(1000));
    ck_assert_uint_eq(in16(0x42, 1000), 0);
    ck_assert_uint_eq(in16(0x42, 1001), 0xffff);
    ck_assert(out2(100000));
    out(0x43, 0xb0, 100000); /* the control word lowers the output */
    ck_assert(!out2(100001));
}
END_TEST

START_TEST(mode_0_gate_pauses)
{
    program(2, 0, 100); /* gate low: not counting */
    ck_assert_uint_eq(in16(0x42, 500), 100);
    out(0x61, 1, 1000);
    ck_assert_uint_eq(in16(0x42, 1010), 90);
    out(0x61, 0, 1010);
    ck_assert_uint_eq(in16(0x42, 2000), 90);
    ck_assert(!out2(2000));
    out(0x61, 1, 3000);
    ck_assert(!out2(3089));
    ck_assert(out2(3090));
}
END_TEST

START_TEST(mode_0_first_byte_stops)
{
    out(0x61, 1, 0);
    program(2, 0, 100);
    out(0x42, 50, 60);
    ck_assert(!out2(1000));
    out(0x42, 0, 1000);
    ck_assert(!out2(1049));
    ck_assert(out2(1050));
}
END_TEST

START_TEST(mode_1_waits_for_the_gate)
{
    program(2, 1, 100);
    ck_assert(out2(500));
    out(0x61, 1, 500);
    ck_assert(!out2(500));
    out(0x61, 0, 550); /* a falling gate changes nothing */
    ck_assert(!out2(599));
    ck_assert(out2(600));
    out(0x61, 1, 700);
    out(0x61, 0, 750);
    out(0x61, 1, 760); /* triggers again */
    ck_assert(!out2(859));
    ck_assert(out2(860));
    program(0, 1, 100); /* channel 0's gate never rises */
    ck_assert_uint_eq(pit_deadline(&pit), UINT64_MAX);
    ck_assert(!pit_fired(&pit, at(100000)));
}
END_TEST

START_TEST(mode_2_divides)
{
    program(0, 2, 100);
    ck_assert_uint_eq(in16(0x40, 0), 100);
    ck_assert_uint_eq(in16(0x40, 99), 1);
    ck_assert_uint_eq(in16(0x40, 100), 100);
    ck_assert_uint_eq(in16(0x40, 12345), 55);
    out(0x61, 1, 0);
    program(2, 2, 100);
    ck_assert(out2(98));
    ck_assert(!out2(99)); /* low for the last clock */
    ck_assert(out2(100));
    out(0x61, 0, 150); /* stopped, the output is high */
    ck_assert(out2(199));
    out(0x61, 1, 1000); /* begins anew */
    ck_assert(!out2(1099));
}
END_TEST

START_TEST(mode_3_is_square)
{
    out(0x61, 1, 0);
    program(2, 3, 10);
    for (unsigned i = 0; i < 100; i++) {
        ck_assert_uint_eq(out2(i), i % 10 < 5);
        ck_assert_uint_eq(in16(0x42, i), 10 - 2 * (i % 5));
    }
    program(2, 3, 11); /* takes over at once: the control word ended the old count */
    for (unsigned i = 0; i < 110; i++) {
        ck_assert_uint_eq(out2(i), i % 11 < 6);
        ck_assert_uint_eq(in16(0x42, i) & 1, 0);
    }
}
END_TEST

START_TEST(modes_6_and_7_are_2_and_3)
{
    program(0, 6, 100);
    ck_assert_uint_eq(pit.channel[0].mode, 2);
    program(0, 7, 100);
    ck_assert_uint_eq(pit.channel[0].mode, 3);
}
END_TEST

START_TEST(mode_4_strobes_once)
{
    out(0x61, 1, 0);
    program(2, 4, 100);
    ck_assert(out2(99));
    ck_assert(!out2(100));
    ck_assert(out2(101));
    program(0, 4, 100);
    ck_assert(!pit_fired(&pit, at(99)));
    ck_assert(pit_fired(&pit, at(100)));
    ck_assert(!pit_fired(&pit, at(1000000)));
    ck_assert_uint_eq(pit_deadline(&pit), UINT64_MAX);
}
END_TEST

START_TEST(mode_1_takes_a_new_count_with_the_next_trigger)
{
    program(2, 1, 100);
    out(0x61, 1, 0);
    out(0x42, 10, 50);
    out(0x42, 0, 50);
    ck_assert_uint_eq(in16(0x42, 60), 40);
    ck_assert(!out2(99));
    ck_assert(out2(100));
    out(0x61, 0, 200);
    out(0x61, 1, 300);
    ck_assert(!out2(309));
    ck_assert(out2(310));
}
END_TEST

START_TEST(mode_3_gate)
{
    out(0x61, 1, 0);
    program(2, 3, 100);
    ck_assert(!out2(60));
    out(0x61, 0, 70); /* while it is low: the output rises at once, and counting stops */
    ck_assert(out2(70));
    ck_assert(out2(560));
    out(0x61, 1, 1000); /* begins anew, with the high half */
    ck_assert(out2(1049));
    ck_assert(!out2(1050));
}
END_TEST

START_TEST(mode_4_gate_and_new_count)
{
    out(0x61, 1, 0);
    program(2, 4, 100);
    out(0x61, 0, 50); /* stops, and does not trigger */
    ck_assert_uint_eq(in16(0x42, 500), 50);
    out(0x61, 1, 1000);
    ck_assert(out2(1049));
    ck_assert(!out2(1050));
    program(2, 4, 100);
    out(0x42, 30, 10); /* the first byte has no effect, the second begins anew */
    ck_assert_uint_eq(in16(0x42, 20), 80);
    out(0x42, 0, 20);
    ck_assert_uint_eq(in16(0x42, 30), 20);
    ck_assert(!out2(50));
    ck_assert(out2(100));
}
END_TEST

START_TEST(mode_5_strobes_after_a_trigger)
{
    program(2, 5, 100);
    ck_assert(out2(0));
    ck_assert(out2(100)); /* no trigger yet */
    ck_assert(out2(101));
    out(0x61, 1, 1000);
    ck_assert_uint_eq(in16(0x42, 1010), 90);
    out(0x61, 0, 1050); /* a falling gate changes nothing */
    ck_assert(out2(1099));
    ck_assert(!out2(1100)); /* low for one clock */
    ck_assert(out2(1101));
    ck_assert_uint_eq(in16(0x42, 1101), 0xffff); /* goes on through zero */
    out(0x61, 1, 2000);
    out(0x61, 0, 2010);
    out(0x61, 1, 2060); /* triggers again */
    ck_assert(out2(2100));
    ck_assert(!out2(2160));
    out(0x42, 10, 2170); /* a new count waits for the next trigger */
    out(0x42, 0, 2170);
    ck_assert_uint_eq(in16(0x42, 2180), (2160u - 2180u) & 0xffff);
    out(0x61, 0, 3000);
    out(0x61, 1, 3000);
    ck_assert(!out2(3010));
    out(0x43, 0xba, 4000); /* the control word raises the output */
    ck_assert(out2(4000));
    program(0, 5, 10); /* channel 0's gate never rises */
    ck_assert_uint_eq(pit_deadline(&pit), UINT64_MAX);
    ck_assert(!pit_fired(&pit, at(100000)));
}
END_TEST

/* Status: OUT, null count, access, mode, BCD; by control word. */
START_TEST(status_of_each_mode)
{
    static const struct {
        uint8_t control, status, after; /* before and after the count is written and loaded */
    } rows[] = {
        {0xb0, 0x70, 0x30}, {0xb1, 0x71, 0x31},
        {0xb4, 0xf4, 0xb4}, {0xb6, 0xf6, 0xb6},
        {0xb8, 0xf8, 0xb8}, {0x90, 0x50, 0x10},
        {0xa0, 0x60, 0x20}, {0x9c, 0xd4, 0x94},
        {0x9e, 0xd6, 0x96}, {0xb9, 0xf9, 0xb9},
        {0xb2, 0xf2, 0xf2}, {0xba, 0xfa, 0xfa}, /* not loaded before the trigger */
    };

    out(0x61, 1, 0);
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        out(0x43, rows[i].control, 0);
        out(0x43, 0xe8, 0);
        ck_assert_uint_eq(in(0x42, 0), rows[i].status);
        out(0x42, 0x99, 0);
        if ((rows[i].control & 0x30) == 0x30)
            out(0x42, 0x11, 0);
        out(0x43, 0xe8, 0);
        ck_assert_uint_eq(in(0x42, 0), rows[i].after);
    }
    out(0x61, 0, 10);
    out(0x61, 1, 10);
    out(0x43, 0xe8, 10);
    ck_assert_uint_eq(in(0x42, 10), 0xba); /* now it is */
}
END_TEST

START_TEST(counters_are_independent)
{
    out(0x61, 1, 0);
    program(0, 2, 1000);
    program(1, 2, 500);
    program(2, 0, 3000);
    out(0x43, 0x00, 10);
    out(0x43, 0x40, 20);
    out(0x43, 0x80, 30);
    out(0x43, 0x76, 40); /* reprogramming frees what was latched, of this one */
    out(0x41, 0x34, 40);
    out(0x41, 0x12, 40);
    ck_assert_uint_eq(in16(0x42, 99), 2970);
    ck_assert_uint_eq(in16(0x40, 99), 990);
    ck_assert_uint_eq(in16(0x41, 140), 0x1234 - 200);
    ck_assert_uint_eq(in16(0x42, 100), 2900);
}
END_TEST

/* Bytes read and bytes written take turns by themselves. */
START_TEST(reads_and_writes_interleaved)
{
    out(0x61, 1, 0);
    program(2, 4, 0x1000);
    ck_assert_uint_eq(in(0x42, 0x10), 0xf0);
    out(0x42, 0x00, 0x20);
    ck_assert_uint_eq(in(0x42, 0x30), 0x0f);
    out(0x42, 0x20, 0x100);
    ck_assert_uint_eq(in16(0x42, 0x110), 0x1ff0);
}
END_TEST

START_TEST(new_count_waits_for_the_period)
{
    program(0, 2, 100);
    out(0x40, 50, 250);
    out(0x40, 0, 250);
    ck_assert_uint_eq(in16(0x40, 260), 40); /* still the old one */
    ck_assert(pit_fired(&pit, at(260)));
    ck_assert(!pit_fired(&pit, at(298)));
    ck_assert(pit_fired(&pit, at(300)));
    ck_assert_uint_eq(in16(0x40, 310), 40); /* the new one */
    ck_assert(!pit_fired(&pit, at(348)));
    ck_assert(pit_fired(&pit, at(350)));
}
END_TEST

START_TEST(zero_is_the_largest_count)
{
    program(0, 2, 0);
    ck_assert_uint_eq(in16(0x40, 1), 0xffff);
    ck_assert(!pit_fired(&pit, at(65535)));
    ck_assert(pit_fired(&pit, at(65536)));
    out(0x43, 0x35, 0); /* and in BCD */
    out(0x40, 0, 0);
    out(0x40, 0, 0);
    ck_assert_uint_eq(in16(0x40, 1), 0x9999);
    ck_assert_uint_eq(in16(0x40, 10000), 0);
    ck_assert(pit_fired(&pit, at(10000)));
}
END_TEST

START_TEST(bcd_counts_in_decimals)
{
    out(0x43, 0x31, 0);
    out(0x40, 0x34, 0);
    out(0x40, 0x12, 0);
    ck_assert_uint_eq(in16(0x40, 35), 0x1199);
    ck_assert_uint_eq(in16(0x40, 1235), 0x9999);
}
END_TEST

START_TEST(access_to_one_byte)
{
    out(0x43, 0x14, 0); /* low byte, mode 2 */
    out(0x40, 200, 0);
    ck_assert_uint_eq(in(0x40, 10), 190);
    ck_assert_uint_eq(in(0x40, 20), 180);
    out(0x43, 0x24, 0); /* high byte */
    out(0x40, 0x10, 0);
    ck_assert_uint_eq(in(0x40, 1), 0x0f);
    ck_assert_uint_eq(in(0x40, 0x101), 0x0e);
}
END_TEST

START_TEST(latch_holds_until_read)
{
    program(0, 2, 1000);
    out(0x43, 0x00, 100);
    out(0x43, 0x00, 200); /* ignored: one is latched */
    ck_assert_uint_eq(in16(0x40, 500), 900);
    ck_assert_uint_eq(in16(0x40, 500), 500); /* live again */
    /* A count read without a latch is one count, not two halves of two. */
    program(0, 2, 0x1000);
    unsigned low = in(0x40, 0x100 - 1), high = in(0x40, 0x100 + 1);
    ck_assert_uint_eq(high << 8 | low, 0xf01);
}
END_TEST

START_TEST(read_back)
{
    program(0, 2, 1000);
    out(0x43, 0xc2, 100); /* count and status of channel 0 */
    out(0x43, 0xe2, 200); /* ignored: status is latched */
    ck_assert_uint_eq(in(0x40, 300), 0xb4);
    ck_assert_uint_eq(in16(0x40, 300), 900);
    out(0x43, 0xb0, 300); /* channel 2 without a count: OUT low, null count */
    out(0x43, 0xe8, 300);
    ck_assert_uint_eq(in(0x42, 300), 0x70);
    out(0x43, 0xde, 400); /* counts of all three */
    ck_assert_uint_eq(in16(0x40, 900), 600);
    out(0x40, 1, 1000);
    out(0x40, 1, 1000);
    out(0x43, 0xe2, 1000);
    ck_assert_uint_eq(in(0x40, 1000) & 0x40, 0x40); /* written, not counting yet */
    out(0x61, 1, 1000);
    out(0x43, 0xb0, 1000);
    out(0x43, 0xe8, 1000);
    out(0x42, 10, 1000);
    out(0x42, 0, 1000);
    out(0x43, 0xe8, 2000); /* the status that is latched stays, whatever has happened since */
    ck_assert_uint_eq(in(0x42, 2000), 0x70);
    ck_assert_uint_eq(in(0x43, 0), 0xff);
}
END_TEST

START_TEST(interrupts_and_deadlines)
{
    uint64_t deadline;

    ck_assert_uint_eq(pit_deadline(&pit), UINT64_MAX);
    program(0, 2, 1000);
    for (unsigned i = 1; i <= 50; i++) {
        deadline = pit_deadline(&pit);
        ck_assert_uint_ge(deadline, origin + i * 1000 * CLOCKS);
        ck_assert_uint_le(deadline, origin + i * 1000 * CLOCKS + CLOCKS);
        ck_assert(!pit_fired(&pit, deadline - CLOCKS));
        ck_assert(pit_fired(&pit, deadline));
        ck_assert(!pit_fired(&pit, deadline));
    }
    program(0, 0, 10);
    ck_assert(pit_fired(&pit, at(10)));
    ck_assert(!pit_fired(&pit, at(100000)));
    ck_assert_uint_eq(pit_deadline(&pit), UINT64_MAX);
}
END_TEST

/* The guest was not run until then: how many interrupts it gets, each at its deadline, before they
 * are a period apart again. */
static unsigned made_good(uint64_t to)
{
    uint64_t now = at(to), deadline;
    unsigned fired = 0;

    for (;;) {
        ck_assert(pit_fired(&pit, now));
        fired++;
        ck_assert(!pit_fired(&pit, now));
        deadline = pit_deadline(&pit);
        ck_assert_uint_gt(deadline, now);
        if (deadline > now + 1000 * CLOCKS / 2)
            return fired;
        ck_assert(!pit_fired(&pit, deadline - CLOCKS));
        now = deadline;
    }
}

START_TEST(missed_interrupts_follow)
{
    program(0, 2, 1000);
    ck_assert(pit_fired(&pit, at(1000)));
    /* 15 were missed when the first of them comes; another ends while they follow. */
    ck_assert_uint_eq(made_good(16000), 17);
    ck_assert(!pit_fired(&pit, at(18900)));
    ck_assert(pit_fired(&pit, at(19000)));
    /* Of very many only the last ones. */
    ck_assert_uint_eq(made_good(10000000) / 100, 11);
}
END_TEST

START_TEST(what_is_programmed_anew_waits_for_none_missed)
{
    program(0, 2, 1000);
    ck_assert(pit_fired(&pit, at(9000)));
    ck_assert(!pit_fired(&pit, at(9010)));
    out(0x43, 0x30, 9010);
    out(0x40, 10, 9010);
    out(0x40, 0, 9010);
    ck_assert(pit_fired(&pit, at(9010))); /* one of those missed */
    ck_assert(!pit_fired(&pit, at(9019)));
    ck_assert(pit_fired(&pit, at(9020)));
}
END_TEST

START_TEST(an_interrupt_survives_reprogramming)
{
    program(0, 2, 100);
    out(0x43, 0x30, 150); /* the period's end at 100 has not been taken yet */
    ck_assert_uint_eq(pit_deadline(&pit), 0);
    ck_assert(pit_fired(&pit, at(150)));
    ck_assert(!pit_fired(&pit, at(100000)));
}
END_TEST

/* The two ways in which Linux measures the TSC, with a real frequency each. */
static void calibrate(uint64_t tsc_hz)
{
    uint64_t now = 987654321, begin, step = tsc_hz / 4000000 + 1, measured;
    unsigned latch = PIT_HZ / 20; /* 50 ms */

    pit_init(&pit, tsc_hz);
    /* pit_calibrate_tsc(): until channel 2's output rises in mode 0. */
    pit_write(&pit, 0x61, (uint8_t)((pit_read(&pit, 0x61, now) & ~2) | 1), now);
    pit_write(&pit, 0x43, 0xb0, now);
    pit_write(&pit, 0x42, latch & 0xff, now);
    pit_write(&pit, 0x42, (uint8_t)(latch >> 8), now);
    for (begin = now; !(pit_read(&pit, 0x61, now) & 0x20);)
        now += step;
    measured = (now - begin) * 20;
    ck_assert_uint_ge(measured, tsc_hz - tsc_hz / 1000);
    ck_assert_uint_le(measured, tsc_hz + tsc_hz / 1000 + 20 * step);
    /* quick_pit_calibrate(): the high byte falls by one each 256 ticks. */
    pit_write(&pit, 0x43, 0xb0, now);
    pit_write(&pit, 0x42, 0xff, now);
    pit_write(&pit, 0x42, 0xff, now);
    begin = now;
    for (unsigned msb = 0xff; msb > 0xf0; msb--) {
        unsigned same = 0;
        for (;; same++, now += step) {
            pit_read(&pit, 0x42, now);
            if (pit_read(&pit, 0x42, now) != msb)
                break;
        }
        ck_assert_uint_gt(same, 5);
    }
    measured = (now - begin) * PIT_HZ / (15 * 256);
    ck_assert_uint_ge(measured, tsc_hz - tsc_hz / 500);
    ck_assert_uint_le(measured, tsc_hz + tsc_hz / 500 + 311 * step);
}

START_TEST(linux_calibrates)
{
    static const uint64_t hz[] = {5000000, 50000000, 100000000, 1000000000, 2394321000, 5100000000};

    calibrate(hz[_i]);
}
END_TEST

START_TEST(port_61)
{
    uint8_t first = in(0x61, 0) & 0x10;

    ck_assert_uint_eq(in(0x61, 0) & 0xc3, 0);
    out(0x61, 0xff, 0);
    ck_assert_uint_eq(in(0x61, 0) & 0xc3, 3);
    ck_assert_uint_ne(in(0x61, 18) & 0x10, first); /* 15 microseconds later */
}
END_TEST

START_TEST(any_bytes_are_harmless)
{
    uint64_t now = 0, seed = 88172645463325252ull + (uint64_t)_i;

    for (unsigned i = 0; i < 20000; i++) {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        uint16_t port = seed % 5 == 4 ? 0x61 : (uint16_t)(0x40 + seed % 5);
        now += seed >> 20 & 0xfffff;
        if (seed >> 40 & 1)
            pit_write(&pit, port, (uint8_t)(seed >> 48), now);
        else
            pit_read(&pit, port, now);
        if (!(seed >> 41 & 7)) {
            pit_fired(&pit, now);
            /* Once taken, the next interrupt lies in the future. */
            ck_assert_uint_gt(pit_deadline(&pit), now - CLOCKS);
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("vmm_pit");
    TCase *tc = tcase_create("pit");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_test(tc, mode_0_counts_once_and_through_zero);
    tcase_add_test(tc, mode_0_gate_pauses);
    tcase_add_test(tc, mode_0_first_byte_stops);
    tcase_add_test(tc, mode_1_waits_for_the_gate);
    tcase_add_test(tc, mode_2_divides);
    tcase_add_test(tc, mode_3_is_square);
    tcase_add_test(tc, modes_6_and_7_are_2_and_3);
    tcase_add_test(tc, mode_4_strobes_once);
    tcase_add_test(tc, mode_1_takes_a_new_count_with_the_next_trigger);
    tcase_add_test(tc, mode_3_gate);
    tcase_add_test(tc, mode_4_gate_and_new_count);
    tcase_add_test(tc, mode_5_strobes_after_a_trigger);
    tcase_add_test(tc, status_of_each_mode);
    tcase_add_test(tc, counters_are_independent);
    tcase_add_test(tc, reads_and_writes_interleaved);
    tcase_add_test(tc, new_count_waits_for_the_period);
    tcase_add_test(tc, zero_is_the_largest_count);
    tcase_add_test(tc, bcd_counts_in_decimals);
    tcase_add_test(tc, access_to_one_byte);
    tcase_add_test(tc, latch_holds_until_read);
    tcase_add_test(tc, read_back);
    tcase_add_test(tc, interrupts_and_deadlines);
    tcase_add_test(tc, missed_interrupts_follow);
    tcase_add_test(tc, what_is_programmed_anew_waits_for_none_missed);
    tcase_add_test(tc, an_interrupt_survives_reprogramming);
    tcase_add_loop_test(tc, linux_calibrates, 0, 6);
    tcase_add_test(tc, port_61);
    tcase_add_loop_test(tc, any_bytes_are_harmless, 0, 8);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
