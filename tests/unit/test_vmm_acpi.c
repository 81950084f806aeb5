/* SPDX-License-Identifier: BSD-2-Clause */
/* The VMM's ACPI tables, found and read the way that an operating system does. */
#include "acpi_files.h"
#include "guest.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static uint8_t memory[1 << 20];

static uint8_t sum(uint64_t at, unsigned bytes)
{
    uint8_t total = 0;

    for (unsigned i = 0; i < bytes; i++)
        total = (uint8_t)(total + memory[at + i]);
    return total;
}

/* The root pointer as a BIOS machine is searched: 16-byte steps from 0xe0000. */
static uint64_t find_root(void)
{
    for (uint64_t at = 0xe0000; at < 0x100000; at += 16)
        if (!memcmp(memory + at, "RSD PTR ", 8))
            return at;
    return 0;
}

static uint64_t checked_table(uint64_t at, const char *signature)
{
    uint32_t bytes = get32(memory + at + 4);

    ck_assert_msg(at >= 0xe0000 && at + bytes <= 0x100000, "%s lies elsewhere", signature);
    ck_assert_mem_eq(memory + at, signature, 4);
    ck_assert_msg(!sum(at, bytes), "checksum of %s", signature);
    return at;
}

static uint64_t find_table(const char *signature)
{
    uint64_t root = find_root(), xsdt = checked_table(get64(memory + root + 24), "XSDT");

    for (uint64_t at = xsdt + 36; at < xsdt + get32(memory + xsdt + 4); at += 8) {
        uint64_t table = get64(memory + at);
        if (!memcmp(memory + table, signature, 4))
            return checked_table(table, signature);
    }
    ck_abort_msg("no %s", signature);
    return 0;
}

static void build(unsigned cpus)
{
    memset(memory, 0xa5, sizeof(memory));
    ck_assert_uint_eq(acpi_build(memory, ACPI_TABLES, cpus), find_root());
}

START_TEST(root_pointer)
{
    build(1);
    uint64_t root = find_root();

    ck_assert_uint_ne(root, 0);
    ck_assert_uint_eq(sum(root, 20), 0);
    ck_assert_uint_eq(sum(root, 36), 0);
    ck_assert_uint_eq(memory[root + 15], 2);
    ck_assert_uint_eq(get32(memory + root + 20), 36);
    ck_assert_uint_eq(memory[0xe0000 - 1], 0xa5); /* nothing outside */
}
END_TEST

START_TEST(fixed_hardware)
{
    build(1);
    uint64_t fadt = find_table("FACP"), facs, dsdt;

    ck_assert_uint_eq(get32(memory + fadt + 4), 244);
    facs = get64(memory + fadt + 132);
    ck_assert_uint_eq(facs, get32(memory + fadt + 36));
    ck_assert_mem_eq(memory + facs, "FACS", 4);
    ck_assert_uint_eq(facs % 64, 0);
    ck_assert_uint_eq(get32(memory + facs + 4), 64);
    dsdt = checked_table(get64(memory + fadt + 140), "DSDT");
    ck_assert_uint_eq(dsdt, get32(memory + fadt + 40));
    ck_assert_uint_eq(get32(memory + fadt + 56), ACPI_PORTS);
    ck_assert_uint_eq(memory[fadt + 88], 4);
    ck_assert_uint_eq(get32(memory + fadt + 64), ACPI_PORTS + 4);
    ck_assert_uint_eq(memory[fadt + 89], 2);
    ck_assert_uint_eq(get32(memory + fadt + 76), ACPI_PORTS + 8);
    ck_assert_uint_eq(memory[fadt + 91], 4);
    ck_assert_uint_eq(get32(memory + fadt + 48), 0); /* no SMI port: always in ACPI mode */
    ck_assert_uint_eq(memory[fadt + 116], 1);
    ck_assert_uint_eq(get64(memory + fadt + 120), 0xcf9);
}
END_TEST

/* Reads the one object of the DSDT: Name (_S5_, Package (4) {a, b, ...}). */
/* The end of what a PkgLength at *p covers ("Package Length Encoding"); *p goes behind it. */
static const uint8_t *package_end(const uint8_t **p)
{
    const uint8_t *start = *p;
    unsigned more = start[0] >> 6;

    *p += 1 + more;
    ck_assert_uint_le(more, 1);
    return start + (more ? (start[0] & 15) + start[1] * 16 : start[0]);
}

static const uint8_t *dsdt_code(const uint8_t **end)
{
    uint64_t dsdt = get64(memory + find_table("FACP") + 140);

    *end = memory + dsdt + get32(memory + dsdt + 4);
    return memory + dsdt + 36;
}

/* ---- As files that a firmware moves (QEMU source, "bios-linker-loader") ---- */

/* Where the test, as the firmware, has put the root pointer, and the tables behind it. */
enum { ROOT_AT = 0xf1230, TABLES_AT = 0xe4540 };

static uint64_t placed(const uint8_t *name)
{
    bool root = !strcmp((const char *)name, "etc/acpi/rsdp");

    ck_assert(root || !strcmp((const char *)name, "etc/acpi/tables"));
    return root ? ROOT_AT : TABLES_AT;
}

static void obey(const uint8_t *entry)
{
    uint64_t file = placed(entry + 4), value = 0;
    uint8_t *at;

    switch (get32(entry)) {
    case 1:
        ck_assert_uint_eq(get32(entry + 60), 64);
        ck_assert_uint_eq(entry[64], file == ROOT_AT ? 2 : 1);
        break;
    case 2:
        at = memory + file + get32(entry + 116);
        memcpy(&value, at, entry[120]);
        value += placed(entry + 60);
        memcpy(at, &value, entry[120]);
        break;
    case 3:
        /* Both ways in which firmwares do it have to come to the same. */
        at = memory + file + get32(entry + 60);
        ck_assert_uint_eq(*at, 0);
        *at = (uint8_t)-sum(file + get32(entry + 64), get32(entry + 68));
        break;
    default:
        ck_abort_msg("command %u", get32(entry));
    }
}

START_TEST(linked_by_a_firmware)
{
    static struct acpi_files files;

    acpi_files_make(&files, 3);
    ck_assert_uint_eq(files.loader_bytes % 128, 0);
    ck_assert_uint_le(files.loader_bytes, sizeof(files.loader));
    memset(memory, 0, sizeof(memory));
    memcpy(memory + ROOT_AT, files.root, sizeof(files.root));
    memcpy(memory + TABLES_AT, files.tables, sizeof(files.tables));
    for (uint32_t i = 0; i < files.loader_bytes; i += 128)
        obey(files.loader + i);
    ck_assert_uint_eq(find_root(), ROOT_AT); /* and no other before it */
    ck_assert_uint_eq(sum(ROOT_AT, 20), 0);
    ck_assert_uint_eq(sum(ROOT_AT, 36), 0);
    uint64_t fadt = find_table("FACP"), facs = get64(memory + fadt + 132);
    find_table("APIC");
    ck_assert_mem_eq(memory + facs, "FACS", 4);
    ck_assert_uint_eq(facs, get32(memory + fadt + 36));
    ck_assert_uint_eq(checked_table(get64(memory + fadt + 140), "DSDT"),
                      get32(memory + fadt + 40));
}
END_TEST

START_TEST(pci_host_bridge)
{
    static const uint8_t types[] = {0x88, 0x47, 0x88, 0x88, 0x87, 0x87, 0x79};
    const uint8_t *end, *aml, *scope, *device, *buffer;

    build(1);
    aml = dsdt_code(&end);
    ck_assert_uint_eq(*aml++, 0x10); /* ScopeOp */
    scope = package_end(&aml);
    ck_assert(scope < end);
    ck_assert_mem_eq(aml, "\\_SB_\x5b\x82", 7); /* DeviceOp */
    aml += 7;
    device = package_end(&aml);
    ck_assert_ptr_eq(device, scope);
    ck_assert_mem_eq(aml, "PCI0\x08_HID\x0c\x41\xd0\x0a\x03\x08_CRS\x11", 20); /* PNP0A03 */
    aml += 20;
    buffer = package_end(&aml);
    ck_assert_ptr_eq(buffer, device);
    ck_assert_uint_eq(aml[0], 0x0a);
    ck_assert_ptr_eq(aml + 2 + aml[1], buffer);
    aml += 2;
    for (unsigned i = 0; i < sizeof(types); i++) {
        ck_assert_uint_eq(*aml, types[i]);
        if (aml[0] == 0x88) /* word: minimum + length = maximum + 1 */
            ck_assert_uint_eq(get16(aml + 8) + get16(aml + 14), get16(aml + 10) + 1);
        if (aml[0] == 0x87)
            ck_assert_uint_eq(get32(aml + 10) + get32(aml + 22), get32(aml + 14) + 1);
        aml += *aml & 0x80 ? 3 + get16(aml + 1) : 1 + (*aml & 7);
    }
    ck_assert_ptr_eq(aml, buffer);
}
END_TEST

START_TEST(power_off_object)
{
    build(1);
    const uint8_t *end, *aml = dsdt_code(&end);

    aml++; /* the PCI bus comes first */
    aml = package_end(&aml);
    ck_assert_uint_eq(aml[0], 0x08); /* NameOp */
    ck_assert_mem_eq(aml + 1, "_S5_", 4);
    ck_assert_uint_eq(aml[5], 0x12); /* PackageOp */
    ck_assert_ptr_eq(aml + 6 + aml[6], end); /* PkgLength counts itself */
    ck_assert_uint_eq(aml[7], 4);
    aml += 8;
    for (unsigned i = 0; i < 4; i++) {
        ck_assert(aml < end);
        if (aml[0] == 0x0a) { /* BytePrefix */
            ck_assert_uint_eq(aml[1], 5);
            aml += 2;
        } else { /* ZeroOp */
            ck_assert_uint_eq(aml[0], 0);
            aml++;
        }
    }
    ck_assert_ptr_eq(aml, end);
}
END_TEST

START_TEST(processors_and_interrupts)
{
    static const unsigned cpu_counts[] = {1, 2, 8, 64};
    unsigned cpus = cpu_counts[_i], lapics = 0, ioapics = 0, overrides = 0, nmis = 0;

    build(cpus);
    uint64_t madt = find_table("APIC"), at = madt + 44, end = madt + get32(memory + madt + 4);

    ck_assert_uint_eq(get32(memory + madt + 36), 0xfee00000);
    ck_assert_uint_eq(get32(memory + madt + 40), 1);
    for (; at < end; at += memory[at + 1]) {
        const uint8_t *p = memory + at;
        switch (p[0]) {
        case 0:
            ck_assert_uint_eq(p[1], 8);
            ck_assert_uint_eq(p[3], lapics++);
            ck_assert_uint_eq(get32(p + 4), 1);
            break;
        case 1:
            ck_assert_uint_eq(p[1], 12);
            ck_assert_uint_ge(p[2], cpus); /* an APIC ID of its own */
            ck_assert_uint_eq(get32(p + 4), 0xfec00000);
            ck_assert_uint_eq(get32(p + 8), 0);
            ioapics++;
            break;
        case 2:
            ck_assert_uint_eq(p[1], 10);
            ck_assert_uint_eq(p[2], 0);
            if (p[3] == 0)
                ck_assert_uint_eq(get32(p + 4), 2);
            else
                ck_assert_uint_eq(get32(p + 4), ACPI_SCI);
            overrides++;
            break;
        case 4:
            ck_assert_uint_eq(p[1], 6);
            ck_assert_uint_eq(p[2], 0xff);
            ck_assert_uint_eq(p[5], 1);
            nmis++;
            break;
        default:
            ck_abort_msg("entry of type %u", p[0]);
        }
    }
    ck_assert_uint_eq(at, end);
    ck_assert_uint_eq(lapics, cpus);
    ck_assert_uint_eq(ioapics, 1);
    ck_assert_uint_eq(overrides, 2);
    ck_assert_uint_eq(nmis, 1);
}
END_TEST

START_TEST(power_management_registers)
{
    struct acpi_pm pm = {.tsc_hz = 100000000};

    ck_assert_uint_eq(acpi_pm_read(&pm, ACPI_PORTS, 2, 0), 0);
    ck_assert_uint_eq(acpi_pm_read(&pm, ACPI_PORTS + 4, 2, 0) & 1, 1);
    acpi_pm_write(&pm, ACPI_PORTS + 2, 2, 0x120);
    ck_assert_uint_eq(acpi_pm_read(&pm, ACPI_PORTS, 4, 0), 0x120u << 16);
    acpi_pm_write(&pm, ACPI_PORTS, 4, 0xffffu); /* clears status bits; enable becomes 0 */
    ck_assert_uint_eq(acpi_pm_read(&pm, ACPI_PORTS, 4, 0), 0);
    ck_assert_uint_eq(acpi_pm_read(&pm, ACPI_PORTS + 8, 4, 100000000), 3579545);
    ck_assert_uint_eq(acpi_pm_read(&pm, ACPI_PORTS + 9, 1, 100000000), 3579545 >> 8 & 0xff);
    ck_assert_uint_eq(acpi_pm_read(&pm, ACPI_PORTS_LAST, 1, 0), 0);
    acpi_pm_write(&pm, ACPI_PORTS + 8, 4, 0);
    acpi_pm_write(&pm, ACPI_PORTS_LAST, 1, 0xff);
    ck_assert(!pm.off);
}
END_TEST

START_TEST(switching_off)
{
    struct acpi_pm pm = {.tsc_hz = 100000000};

    acpi_pm_write(&pm, ACPI_PORTS + 4, 2, 0x1401); /* the type alone */
    ck_assert(!pm.off);
    acpi_pm_write(&pm, ACPI_PORTS + 4, 2, 0x2401); /* another type */
    ck_assert(!pm.off);
    acpi_pm_write(&pm, ACPI_PORTS + 4, 2, 0x3401);
    ck_assert(pm.off);
    ck_assert_uint_eq(acpi_pm_read(&pm, ACPI_PORTS + 4, 2, 0), 0x1401);
    pm.off = false;
    acpi_pm_write(&pm, ACPI_PORTS + 5, 1, 0x34); /* a byte does as well */
    ck_assert(pm.off);
    pm.off = false;
    acpi_pm_write(&pm, ACPI_PORTS + 4, 2, 0x2001); /* the PIIX4's own type */
    ck_assert(pm.off);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("vmm_acpi");
    TCase *tc = tcase_create("acpi");
    SRunner *runner;
    int failed;

    tcase_add_test(tc, root_pointer);
    tcase_add_test(tc, fixed_hardware);
    tcase_add_test(tc, linked_by_a_firmware);
    tcase_add_test(tc, pci_host_bridge);
    tcase_add_test(tc, power_off_object);
    tcase_add_loop_test(tc, processors_and_interrupts, 0, 4);
    tcase_add_test(tc, power_management_registers);
    tcase_add_test(tc, switching_off);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
