/* SPDX-License-Identifier: BSD-2-Clause */
/* The VMM's keyboard controller against the IBM PC/AT Technical Reference, "Keyboard Controller". */
#include "i8042.h"

#include <check.h>
#include <stdlib.h>

enum { OUTPUT_FULL = 1, INPUT_FULL = 2 };

static struct i8042 kbc;

static void setup(void)
{
    i8042_init(&kbc);
}

static uint8_t status(void)
{
    return i8042_read(&kbc, 0x64);
}

/* The next byte, which must be there. */
static uint8_t data(void)
{
    ck_assert_uint_eq(status() & (OUTPUT_FULL | INPUT_FULL), OUTPUT_FULL);
    return i8042_read(&kbc, 0x60);
}

static void command(uint8_t value)
{
    i8042_write(&kbc, 0x64, value);
}

static void keyboard(uint8_t value)
{
    i8042_write(&kbc, 0x60, value);
}

START_TEST(idle)
{
    ck_assert_uint_eq(status() & (OUTPUT_FULL | INPUT_FULL), 0);
    ck_assert(!i8042_interrupt(&kbc));
}
END_TEST

START_TEST(tests_pass)
{
    command(0xaa);
    ck_assert_uint_eq(data(), 0x55);
    command(0xab);
    ck_assert_uint_eq(data(), 0);
    ck_assert_uint_eq(status() & OUTPUT_FULL, 0);
}
END_TEST

START_TEST(command_byte)
{
    command(0x60);
    i8042_write(&kbc, 0x60, 0x35);
    ck_assert_uint_eq(status() & OUTPUT_FULL, 0); /* it did not go to the keyboard */
    command(0x20);
    ck_assert_uint_eq(data(), 0x35);
    command(0xae);
    command(0x20);
    ck_assert_uint_eq(data(), 0x25);
    command(0xad);
    command(0x20);
    ck_assert_uint_eq(data(), 0x35);
}
END_TEST

START_TEST(the_output_port_has_a20)
{
    command(0xd0);
    ck_assert_uint_eq(data() & 3, 3); /* A20 is open, and the processor is not in reset */
    command(0xd1);
    i8042_write(&kbc, 0x60, 0xdd);
    command(0xd0);
    ck_assert_uint_eq(data() & 2, 0);
}
END_TEST

START_TEST(the_keyboard_answers)
{
    keyboard(0xff);
    ck_assert_uint_eq(data(), 0xfa);
    ck_assert_uint_eq(data(), 0xaa);
    keyboard(0xf5);
    ck_assert_uint_eq(data(), 0xfa);
    keyboard(0xed);
    ck_assert_uint_eq(data(), 0xfa);
    keyboard(0xff); /* the lights, not a reset */
    ck_assert_uint_eq(data(), 0xfa);
    ck_assert_uint_eq(status() & OUTPUT_FULL, 0);
    keyboard(0xee);
    ck_assert_uint_eq(data(), 0xee);
    keyboard(0xf2);
    ck_assert_uint_eq(data(), 0xfa);
    ck_assert_uint_eq(data(), 0xab);
}
END_TEST

START_TEST(interrupt_when_the_command_byte_says_so)
{
    keyboard(0xf4);
    ck_assert(!i8042_interrupt(&kbc));
    command(0x60);
    i8042_write(&kbc, 0x60, 1);
    ck_assert(i8042_interrupt(&kbc));
    data();
    ck_assert(!i8042_interrupt(&kbc));
}
END_TEST

START_TEST(a_guest_that_never_reads)
{
    for (unsigned i = 0; i < 1000; i++)
        keyboard(0xff);
    for (unsigned i = 0; i < I8042_QUEUE; i++)
        data();
    ck_assert_uint_eq(status() & OUTPUT_FULL, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("vmm_i8042");
    TCase *tc = tcase_create("vmm_i8042");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_test(tc, idle);
    tcase_add_test(tc, tests_pass);
    tcase_add_test(tc, command_byte);
    tcase_add_test(tc, the_output_port_has_a20);
    tcase_add_test(tc, the_keyboard_answers);
    tcase_add_test(tc, interrupt_when_the_command_byte_says_so);
    tcase_add_test(tc, a_guest_that_never_reads);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
