/* SPDX-License-Identifier: BSD-2-Clause */
/* The VMM's PCI configuration space against the PCI Local Bus Specification, "Configuration
 * Mechanism" and "Configuration Space Header". */
#include "pci.h"

#include <check.h>
#include <stdlib.h>

static struct pci pci;

static void setup(void)
{
    pci_init(&pci, true, false);
}

static void address(unsigned bus, unsigned device, unsigned function, unsigned reg)
{
    pci_write(&pci, 0xcf8, 4, 0x80000000u | bus << 16 | device << 11 | function << 8 | reg);
}

static uint32_t read_config(unsigned device, unsigned function, unsigned reg)
{
    address(0, device, function, reg & ~3u);
    return pci_read(&pci, 0xcfc, 4);
}

START_TEST(the_bus_has_four_functions)
{
    unsigned found = 0;

    for (unsigned device = 0; device < 32; device++)
        for (unsigned function = 0; function < 8; function++)
            found += read_config(device, function, 0) != 0xffffffff;
    ck_assert_uint_eq(found, 4);
    ck_assert_uint_eq(read_config(0, 0, 0), 0x12378086);
    ck_assert_uint_eq(read_config(0, 0, 8) >> 16, 0x0600);
    ck_assert_uint_eq(read_config(1, 0, 8) >> 16, 0x0601);
    ck_assert_uint_eq(read_config(1, 0, 12) >> 16 & 0xff, 0x80); /* it has several functions */
    ck_assert_uint_eq(read_config(1, 1, 8) >> 16, 0x0101);
    ck_assert_uint_eq(read_config(1, 1, 8) >> 8 & 5, 0); /* both channels in compatibility mode */
    ck_assert_uint_eq(read_config(1, 3, 8) >> 16, 0x0680);
    ck_assert_uint_eq(read_config(1, 3, 0x58) >> 25 & 1, 1); /* APMC_EN: nobody sets up SMM */
    pci_init(&pci, false, false);
    ck_assert_uint_eq(read_config(1, 1, 0), 0xffffffff);
    ck_assert_uint_eq(read_config(1, 3, 0), 0x71138086);
}
END_TEST

/* Data sheet of the 82371AB, "PMBA" and "PMREGMISC". */
START_TEST(power_management_is_put_where_the_firmware_says)
{
    for (int disk = 0; disk < 2; disk++) {
        pci_init(&pci, disk, disk);
        ck_assert_uint_eq(read_config(1, 3, 0x40), 1);
        ck_assert_uint_eq(pci_pm_ports(&pci), 0);
        pci_write(&pci, 0xcfc, 4, 0xb041);
        ck_assert_uint_eq(pci_pm_ports(&pci), 0); /* not enabled */
        read_config(1, 3, 0x80);
        pci_write(&pci, 0xcfc, 1, 1);
        ck_assert_uint_eq(pci_pm_ports(&pci), 0xb040);
    }
}
END_TEST

START_TEST(other_buses_are_empty)
{
    address(1, 0, 0, 0);
    ck_assert_uint_eq(pci_read(&pci, 0xcfc, 4), 0xffffffff);
    ck_assert_uint_eq(pci_read(&pci, 0xcfe, 2), 0xffff);
    pci_write(&pci, 0xcfc, 4, 0);
    address(255, 31, 7, 0xfc);
    ck_assert_uint_eq(pci_read(&pci, 0xcff, 1), 0xff);
}
END_TEST

START_TEST(address_register)
{
    pci_write(&pci, 0xcf8, 4, 0xffffffff);
    ck_assert_uint_eq(pci_read(&pci, 0xcf8, 4), 0x80fffffc); /* reserved bits read as zero */
    pci_write(&pci, 0xcf8, 1, 0);
    pci_write(&pci, 0xcfa, 2, 0);
    ck_assert_uint_eq(pci_read(&pci, 0xcf8, 4), 0x80fffffc);
    ck_assert_uint_eq(pci_read(&pci, 0xcf8, 1), 0xff);
    /* Without the enable bit there is no configuration cycle. */
    pci_write(&pci, 0xcf8, 4, 0);
    ck_assert_uint_eq(pci_read(&pci, 0xcfc, 4), 0xffffffff);
}
END_TEST

START_TEST(narrow_accesses)
{
    address(0, 0, 0, 0);
    ck_assert_uint_eq(pci_read(&pci, 0xcfc, 1), 0x86);
    ck_assert_uint_eq(pci_read(&pci, 0xcfd, 1), 0x80);
    ck_assert_uint_eq(pci_read(&pci, 0xcfe, 2), 0x1237);
    ck_assert_uint_eq(pci_read(&pci, 0xcff, 1), 0x12);
    address(0, 0, 0, 0x58);
    pci_write(&pci, 0xcfd, 1, 0x30);
    pci_write(&pci, 0xcfe, 2, 0x3322);
    ck_assert_uint_eq(pci_pam(&pci)[0], 0x30);
    ck_assert_uint_eq(pci_pam(&pci)[1], 0x22);
    ck_assert_uint_eq(pci_pam(&pci)[2], 0x33);
    ck_assert_uint_eq(pci_read(&pci, 0xcfc, 4), 0x33223000);
}
END_TEST

START_TEST(identity_and_base_addresses_are_read_only)
{
    for (unsigned reg = 0; reg < 0x40; reg += 4) {
        uint32_t before = read_config(0, 0, reg), writable = 0;

        if (reg == 0x04)
            writable = 0x0000ffff; /* command */
        if (reg == 0x0c)
            writable = 0x0000ffff; /* cache line, latency timer */
        if (reg == 0x3c)
            writable = 0x000000ff; /* interrupt line */
        pci_write(&pci, 0xcfc, 4, ~before);
        ck_assert_uint_eq((read_config(0, 0, reg) ^ before) & ~writable, 0);
    }
    /* A base address register that reads as zero after ones were written does not exist. */
    address(0, 1, 1, 0x20);
    pci_write(&pci, 0xcfc, 4, 0xffffffff);
    ck_assert_uint_eq(pci_read(&pci, 0xcfc, 4), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("vmm_pci");
    TCase *tc = tcase_create("vmm_pci");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_test(tc, the_bus_has_four_functions);
    tcase_add_test(tc, power_management_is_put_where_the_firmware_says);
    tcase_add_test(tc, other_buses_are_empty);
    tcase_add_test(tc, address_register);
    tcase_add_test(tc, narrow_accesses);
    tcase_add_test(tc, identity_and_base_addresses_are_read_only);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
