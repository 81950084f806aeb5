/* SPDX-License-Identifier: BSD-2-Clause */
/* The VMM's real-time clock against the MC146818 data sheet; the C library is the calendar. */
#include "rtc.h"

#include <check.h>
#include <stdlib.h>
#include <time.h>

#define HZ   1000000ull
#define NOON 1709208000ull /* Thursday 29 February 2024, 12:00:00 */

static struct rtc rtc;

static void init(uint64_t epoch)
{
    rtc_init(&rtc, HZ, 0, epoch, 256ull << 20, 0);
}

static void setup(void)
{
    init(NOON);
}

static uint8_t in(uint8_t index, uint64_t now)
{
    rtc_write(&rtc, 0x70, index, now);
    return rtc_read(&rtc, 0x71, now);
}

static void out(uint8_t index, uint8_t value, uint64_t now)
{
    rtc_write(&rtc, 0x70, index, now);
    rtc_write(&rtc, 0x71, value, now);
}

START_TEST(reads_bcd_in_24_hours)
{
    uint64_t now = 3661 * HZ + 5;

    ck_assert_uint_eq(in(11, now), 2);
    ck_assert_uint_eq(in(0, now), 0x01);
    ck_assert_uint_eq(in(2, now), 0x01);
    ck_assert_uint_eq(in(4, now), 0x13);
    ck_assert_uint_eq(in(6, now), 5); /* Thursday */
    ck_assert_uint_eq(in(7, now), 0x29);
    ck_assert_uint_eq(in(8, now), 0x02);
    ck_assert_uint_eq(in(9, now), 0x24);
    ck_assert_uint_eq(in(0x32, now), 0x20);
    ck_assert_uint_eq(in(12, now) & 0x8f, 0); /* no interrupt is on */
    ck_assert_uint_eq(in(13, now), 0x80);
    ck_assert_uint_eq(rtc_read(&rtc, 0x70, now), 0xff);
}
END_TEST

START_TEST(reads_binary)
{
    out(11, 6, 0);
    ck_assert_uint_eq(in(7, 0), 29);
    ck_assert_uint_eq(in(4, 10 * 3600 * HZ), 22);
    ck_assert_uint_eq(in(0, 59 * HZ), 59);
}
END_TEST

START_TEST(reads_12_hours)
{
    static const uint8_t expected[24] = {0x92, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87,
                                         0x88, 0x89, 0x90, 0x91, 0x12, 0x01, 0x02, 0x03,
                                         0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x10, 0x11};

    out(11, 0, 0);
    for (unsigned i = 0; i < 24; i++) /* from noon */
        ck_assert_uint_eq(in(4, i * 3600 * HZ), expected[i]);
    out(11, 4, 0);
    ck_assert_uint_eq(in(4, 11 * 3600 * HZ), 0x80 | 11);
    ck_assert_uint_eq(in(4, 12 * 3600 * HZ), 12);
}
END_TEST

START_TEST(agrees_with_the_c_library)
{
    for (uint64_t epoch = 12345; epoch < 8000000000ull; epoch += 9999991) {
        time_t t = (time_t)epoch;
        struct tm tm;

        gmtime_r(&t, &tm);
        init(epoch);
        out(11, 6, 0);
        ck_assert_int_eq(in(0, 0), tm.tm_sec);
        ck_assert_int_eq(in(2, 0), tm.tm_min);
        ck_assert_int_eq(in(4, 0), tm.tm_hour);
        ck_assert_int_eq(in(6, 0), tm.tm_wday + 1);
        ck_assert_int_eq(in(7, 0), tm.tm_mday);
        ck_assert_int_eq(in(8, 0), tm.tm_mon + 1);
        ck_assert_int_eq(in(0x32, 0) * 100 + in(9, 0), tm.tm_year + 1900);
    }
}
END_TEST

START_TEST(update_in_progress_before_each_second)
{
    ck_assert_uint_eq(in(10, 0), 0x26);
    ck_assert_uint_eq(in(10, HZ - 2300), 0x26);
    ck_assert_uint_eq(in(10, HZ - 2228), 0xa6);
    ck_assert_uint_eq(in(10, HZ - 1), 0xa6);
    ck_assert_uint_eq(in(10, HZ), 0x26);
    out(10, 0xff, 0); /* the bit is read-only */
    ck_assert_uint_eq(in(10, HZ), 0x7f);
    out(11, 0x82, 0); /* a stopped clock does not update */
    ck_assert_uint_eq(in(10, HZ - 1), 0x7f);
}
END_TEST

static void set_all(uint8_t mode, const uint8_t value[7], uint64_t now)
{
    static const uint8_t index[] = {0, 2, 4, 7, 8, 9, 0x32};

    out(11, 0x80 | mode, now);
    for (unsigned i = 0; i < 7; i++)
        out(index[i], value[i], now + i * HZ); /* takes long: the clock stands */
    out(11, mode, now + 10 * HZ);
}

START_TEST(can_be_set)
{
    static const uint8_t bcd[] = {0x58, 0x59, 0x23, 0x31, 0x12, 0x99, 0x19};
    static const uint8_t pm[] = {30, 15, 0x80 | 12, 1, 3, 0, 20};
    uint64_t now = 20 * HZ + 345678;

    set_all(2, bcd, now);
    now += 10 * HZ;
    ck_assert_uint_eq(in(0, now), 0x58);
    ck_assert_uint_eq(in(9, now), 0x99);
    ck_assert_uint_eq(in(9, now + 2 * HZ), 0x00);
    ck_assert_uint_eq(in(0x32, now + 2 * HZ), 0x20);
    ck_assert_uint_eq(in(7, now + 2 * HZ), 0x01);
    ck_assert_uint_eq(in(6, now + 2 * HZ), 7); /* 1 January 2000 was a Saturday */
    set_all(4, pm, now);
    now += 10 * HZ;
    ck_assert_uint_eq(in(4, now), 0x80 | 12);
    out(11, 2, now);
    ck_assert_uint_eq(in(4, now), 0x12);
    ck_assert_uint_eq(in(8, now), 0x03);
}
END_TEST

START_TEST(a_running_clock_takes_one_field)
{
    out(2, 0x30, 500);
    ck_assert_uint_eq(in(2, 500), 0x30);
    ck_assert_uint_eq(in(4, 500), 0x12);
    ck_assert_uint_eq(in(0, HZ - 1), 0); /* the second ends when it would have */
    ck_assert_uint_eq(in(0, HZ), 1);
}
END_TEST

START_TEST(nonsense_is_harmless)
{
    for (unsigned i = 0; i < 128; i++)
        out((uint8_t)i, 0xff, i);
    for (unsigned i = 0; i < 256; i++)
        in((uint8_t)i, i * HZ);
    out(11, 2, 1000);
    for (unsigned i = 0; i < 256; i++)
        in((uint8_t)i, i * HZ);
    ck_assert_uint_eq(in(13, 0), 0x80);
    ck_assert_uint_eq(in(12, 0), 0);
}
END_TEST

/* "The PF, AF and UF bits": raised whether or not they interrupt, cleared by reading register C. */
START_TEST(flags_without_interrupts)
{
    ck_assert_uint_eq(in(12, 10), 0);
    ck_assert_uint_eq(in(12, HZ), 0x50);
    ck_assert_uint_eq(in(12, HZ + 1), 0);
    ck_assert(!rtc_interrupt(&rtc, 5 * HZ));
    ck_assert_uint_eq(rtc_deadline(&rtc), UINT64_MAX);
}
END_TEST

START_TEST(update_ended_interrupt)
{
    out(11, 0x12, 0);
    ck_assert(!rtc_interrupt(&rtc, HZ - 1));
    ck_assert_uint_eq(rtc_deadline(&rtc), HZ);
    ck_assert(rtc_interrupt(&rtc, HZ));
    ck_assert_uint_eq(rtc_deadline(&rtc), UINT64_MAX); /* the line stays */
    ck_assert_uint_eq(in(12, HZ + 5) & 0x90, 0x90);
    ck_assert(!rtc_interrupt(&rtc, HZ + 6));
    ck_assert_uint_eq(rtc_deadline(&rtc), 2 * HZ);
    out(11, 0x92, HZ + 7); /* SET ends it */
    ck_assert_uint_eq(in(11, HZ + 8), 0x82);
    ck_assert(!rtc_interrupt(&rtc, 9 * HZ));
    ck_assert_uint_eq(in(12, 9 * HZ) & 0x10, 0);
}
END_TEST

START_TEST(periodic_interrupt)
{
    static const struct {
        uint8_t rate;
        unsigned hz;
    } rates[] = {{1, 256}, {2, 128}, {3, 8192}, {6, 1024}, {15, 2}};
    unsigned count = 0;

    out(10, 0x20 | rates[_i].rate, 0);
    out(11, 0x42, 0);
    for (uint64_t now = 0; now < 2 * HZ; now += 20) {
        if (rtc_deadline(&rtc) > now)
            continue;
        ck_assert(rtc_interrupt(&rtc, now));
        ck_assert(rtc_active(&rtc));
        ck_assert_uint_eq(in(12, now) & 0xe0, 0xc0);
        ck_assert(!rtc_active(&rtc)); /* low, until somebody looks again: the next one is an edge */
        count++;
    }
    ck_assert_uint_ge(count, 2 * rates[_i].hz - 1);
    ck_assert_uint_le(count, 2 * rates[_i].hz);
    out(10, 0x20, 2 * HZ); /* no rate */
    in(12, 2 * HZ);
    ck_assert_uint_eq(rtc_deadline(&rtc), UINT64_MAX);
    ck_assert_uint_eq(in(12, 9 * HZ) & 0xc0, 0);
}
END_TEST

START_TEST(alarm_interrupt)
{
    out(1, 0x07, 0); /* 12:00:07 */
    out(3, 0x00, 0);
    out(5, 0x12, 0);
    out(11, 0x22, 0);
    ck_assert(!rtc_interrupt(&rtc, 7 * HZ - 1));
    ck_assert_uint_eq(rtc_deadline(&rtc), 7 * HZ);
    ck_assert(rtc_interrupt(&rtc, 7 * HZ));
    ck_assert_uint_eq(in(12, 7 * HZ) & 0xa0, 0xa0);
    ck_assert(!rtc_interrupt(&rtc, 24 * 3600 * HZ)); /* not before the next day's */
    ck_assert(rtc_interrupt(&rtc, (24 * 3600 + 7) * HZ));
    in(12, (24 * 3600 + 7) * HZ);
    out(3, 0xff, (24 * 3600 + 7) * HZ); /* in every minute */
    ck_assert(!rtc_interrupt(&rtc, (24 * 3600 + 66) * HZ));
    ck_assert(rtc_interrupt(&rtc, (24 * 3600 + 67) * HZ));
    in(12, (24 * 3600 + 67) * HZ);
    ck_assert(rtc_interrupt(&rtc, 400ull * 24 * 3600 * HZ)); /* nobody has looked for long */
    rtc_reset(&rtc);
    ck_assert_uint_eq(rtc_deadline(&rtc), UINT64_MAX);
    ck_assert_uint_eq(in(11, 400ull * 24 * 3600 * HZ), 2);
    ck_assert_uint_eq(in(5, 400ull * 24 * 3600 * HZ), 0x12); /* the memory stays */
}
END_TEST

START_TEST(memory_sizes)
{
    ck_assert_uint_eq(in(0x15, 0) | in(0x16, 0) << 8, 640);
    ck_assert_uint_eq(in(0x17, 0) | in(0x18, 0) << 8, 0xffff);
    ck_assert_uint_eq(in(0x30, 0) | in(0x31, 0) << 8, 0xffff);
    ck_assert_uint_eq(in(0x34, 0) | in(0x35, 0) << 8, (256 - 16) * 16);
    rtc_init(&rtc, HZ, 0, NOON, 8ull << 20, 0);
    ck_assert_uint_eq(in(0x30, 0) | in(0x31, 0) << 8, 7 * 1024);
    ck_assert_uint_eq(in(0x34, 0) | in(0x35, 0) << 8, 0);
    rtc_init(&rtc, HZ, 0, NOON, 3ull << 30, 5ull << 30);
    ck_assert_uint_eq(in(0x34, 0) | in(0x35, 0) << 8, (3072 - 16) * 16);
    ck_assert_uint_eq(in(0x5b, 0) | in(0x5c, 0) << 8 | in(0x5d, 0) << 16, 5 << 14);
}
END_TEST

START_TEST(other_memory_is_kept)
{
    out(0x40, 0x5a, 0);
    ck_assert_uint_eq(in(0x40 | 0x80, 0), 0x5a); /* bit 7 of the index masks NMIs */
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("vmm_rtc");
    TCase *tc = tcase_create("rtc");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_test(tc, reads_bcd_in_24_hours);
    tcase_add_test(tc, reads_binary);
    tcase_add_test(tc, reads_12_hours);
    tcase_add_test(tc, agrees_with_the_c_library);
    tcase_add_test(tc, update_in_progress_before_each_second);
    tcase_add_test(tc, can_be_set);
    tcase_add_test(tc, a_running_clock_takes_one_field);
    tcase_add_test(tc, nonsense_is_harmless);
    tcase_add_test(tc, flags_without_interrupts);
    tcase_add_test(tc, update_ended_interrupt);
    tcase_add_loop_test(tc, periodic_interrupt, 0, 5);
    tcase_add_test(tc, alarm_interrupt);
    tcase_add_test(tc, memory_sizes);
    tcase_add_test(tc, other_memory_is_kept);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
