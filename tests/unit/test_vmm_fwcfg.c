/* SPDX-License-Identifier: BSD-2-Clause */
/* The VMM's fw_cfg against QEMU's documentation "QEMU Firmware Configuration (fw_cfg) Device". */
#include "fwcfg.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static struct fwcfg fw;

static void setup(void)
{
    fwcfg_init(&fw, 3, 0x123456789);
}

static void get(uint16_t key, void *to, size_t bytes)
{
    uint8_t *p = to;

    fwcfg_select(&fw, key);
    while (bytes--)
        *p++ = fwcfg_read(&fw);
}

static uint32_t get_be32(void)
{
    uint32_t value = 0;

    for (unsigned i = 0; i < 4; i++)
        value = value << 8 | fwcfg_read(&fw);
    return value;
}

START_TEST(signature_interface_and_processors)
{
    char signature[5] = "";
    uint8_t id[4], cpus[2], memory[8];

    get(0, signature, 4);
    ck_assert_str_eq(signature, "QEMU");
    get(1, id, 4);
    ck_assert_mem_eq(id, "\1\0\0\0", 4); /* the traditional interface, no DMA */
    get(5, cpus, 2);
    ck_assert_mem_eq(cpus, "\3\0", 2);
    get(3, memory, 8);
    ck_assert_mem_eq(memory, "\x89\x67\x45\x23\1\0\0\0", 8);
}
END_TEST

START_TEST(files_are_found_by_name)
{
    char name[56];
    uint8_t content[3];

    ck_assert(fwcfg_add_file(&fw, "etc/one", "1", 1));
    ck_assert(fwcfg_add_file(&fw, "opt/two", "abc", 3));
    fwcfg_select(&fw, 0x19);
    ck_assert_uint_eq(get_be32(), 2);
    ck_assert_uint_eq(get_be32(), 1);
    for (unsigned i = 0; i < 60; i++)
        fwcfg_read(&fw);
    ck_assert_uint_eq(get_be32(), 3);
    uint32_t key = get_be32() >> 16;
    ck_assert_uint_ge(key, 0x20);
    for (unsigned i = 0; i < sizeof(name); i++)
        name[i] = (char)fwcfg_read(&fw);
    ck_assert_str_eq(name, "opt/two");
    get((uint16_t)key, content, 3);
    ck_assert_mem_eq(content, "abc", 3);
}
END_TEST

START_TEST(nothing_there_reads_zero)
{
    uint8_t bytes[8];

    get(0x4000, bytes, 8);
    ck_assert_mem_eq(bytes, "\0\0\0\0\0\0\0\0", 8);
    get(0, bytes, 8); /* behind the end */
    ck_assert_mem_eq(bytes, "QEMU\0\0\0\0", 8);
    fwcfg_select(&fw, 0); /* selecting begins again */
    ck_assert_uint_eq(fwcfg_read(&fw), 'Q');
}
END_TEST

START_TEST(limits)
{
    char name[57];

    memset(name, 'n', 56);
    name[56] = 0;
    ck_assert(!fwcfg_add_file(&fw, name, "", 0));
    name[55] = 0;
    for (unsigned i = 0; i < FWCFG_FILES; i++)
        ck_assert(fwcfg_add_file(&fw, name, "", 0));
    ck_assert(!fwcfg_add_file(&fw, "more", "", 0));
    fwcfg_select(&fw, 0x19);
    ck_assert_uint_eq(get_be32(), FWCFG_FILES);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("vmm_fwcfg");
    TCase *tc = tcase_create("vmm_fwcfg");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_test(tc, signature_interface_and_processors);
    tcase_add_test(tc, files_are_found_by_name);
    tcase_add_test(tc, nothing_there_reads_zero);
    tcase_add_test(tc, limits);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
