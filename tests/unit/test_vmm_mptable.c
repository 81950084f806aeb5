/* SPDX-License-Identifier: BSD-2-Clause */
/* The VMM's MP configuration table against Intel's MultiProcessor Specification 1.4, "MP Configuration
 * Table". */
#include "mptable.h"
#include "guest.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static uint8_t memory[0x100000];

static uint8_t sum(const uint8_t *data, unsigned bytes)
{
    uint8_t result = 0;

    while (bytes--)
        result = (uint8_t)(result + *data++);
    return result;
}

/* By the specification's search, in the BIOS's 64 KiB. */
static const uint8_t *find_pointer(void)
{
    for (unsigned at = 0xf0000; at < 0x100000; at += 16)
        if (!memcmp(memory + at, "_MP_", 4))
            return memory + at;
    ck_abort_msg("no pointer");
    return NULL;
}

START_TEST(table)
{
    static const unsigned cpu_counts[] = {1, 2, 8};
    static const uint8_t bytes_of[] = {20, 8, 8, 8, 8};
    unsigned cpus = cpu_counts[_i], seen[5] = {0}, entries = 0, lines = 0, first = 0;
    const uint8_t *pointer, *header, *p;

    memset(memory, 0xa5, sizeof(memory));
    mptable_build(memory, GUEST_MP_TABLE, cpus);
    pointer = find_pointer();
    ck_assert_uint_eq(pointer[8], 1);
    ck_assert_uint_eq(pointer[11], 0); /* there is a configuration table */
    ck_assert_uint_eq(sum(pointer, 16), 0);
    header = memory + get32(pointer + 4);
    ck_assert_mem_eq(header, "PCMP", 4);
    ck_assert_uint_eq(sum(header, get16(header + 4)), 0);
    ck_assert_uint_eq(get32(header + 36), 0xfee00000);
    for (p = header + 44; p < header + get16(header + 4); p += bytes_of[*p], entries++) {
        ck_assert_uint_lt(*p, 5);
        if (*p == 0) {
            ck_assert_uint_eq(p[1], seen[0]);
            ck_assert_uint_eq(p[3] & 1, 1);
            first += p[3] >> 1 & 1;
        } else if (*p == 2) {
            ck_assert_uint_eq(p[1], cpus);
            ck_assert_uint_eq(get32(p + 4), 0xfec00000);
        } else if (*p == 3) { /* the timer's line is at pin 2 */
            ck_assert_uint_eq(p[7], p[5] == 0 ? 2 : p[5]);
            lines |= 1u << p[5];
        }
        seen[*p]++;
    }
    ck_assert_ptr_eq(p, header + get16(header + 4));
    ck_assert_uint_eq(entries, get16(header + 34));
    ck_assert_uint_eq(seen[0], cpus);
    ck_assert_uint_eq(first, 1);
    ck_assert_uint_eq(seen[1], 1);
    ck_assert_uint_eq(seen[2], 1);
    ck_assert_uint_eq(seen[4], 2);
    ck_assert_uint_eq(lines, 0xfffb);
    ck_assert_uint_eq(*p, 0xa5); /* nothing behind it */
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("vmm_mptable");
    TCase *tc = tcase_create("vmm_mptable");
    SRunner *runner;
    int failed;

    tcase_add_loop_test(tc, table, 0, 3);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
