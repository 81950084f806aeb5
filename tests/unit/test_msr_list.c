/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The MSRs that a guest reads and writes without an exit are those that docs/msrs.md lists as
 * passed through, and no others: judged by the bitmaps that both vendors make.
 */
#include "hw/service.h"
#include "hw_world.h"
#include "svm/svm.h"
#include "vmx/vmx.h"

#include <check.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* src/vmx/bitmap.c has a function, not called here, that writes the VMCS. */
void mock_vmwrite(uint64_t field, uint64_t value)
{
    (void)field, (void)value;
    ck_abort_msg("the VMCS is written");
}

#define MOST 64
static uint32_t documented[MOST];
static unsigned documented_count;

/* The numbers of one cell: "174H–176H", "C000_0100H, C000_0101H". */
static void parse_numbers(const char *cell, const char *end)
{
    bool range = false;

    while (cell < end) {
        uint64_t number = 0;
        unsigned digits = 0;

        if (!isxdigit((unsigned char)*cell)) {
            range |= (unsigned char)*cell == 0xe2; /* an en dash begins */
            cell++;
            continue;
        }
        for (; isxdigit((unsigned char)*cell) || *cell == '_'; cell++)
            if (*cell != '_') {
                const char digit[2] = {*cell, 0};

                number = number << 4 | strtoul(digit, NULL, 16);
                digits++;
            }
        ck_assert_msg(*cell == 'H' && digits, "a number in docs/msrs.md does not end in H");
        do {
            ck_assert_uint_lt(documented_count, MOST);
            documented[documented_count] =
                range ? documented[documented_count - 1] + 1 : (uint32_t)number;
        } while (documented[documented_count++] != number);
        range = false;
        cell++;
    }
}

/* The table below the heading "Passed through". */
static void parse_document(void)
{
    FILE *file = fopen(MSRS_MD, "r");
    bool inside = false;
    char line[512];

    ck_assert_ptr_nonnull(file);
    while (fgets(line, sizeof(line), file)) {
        char *cell, *end;

        if (!strncmp(line, "## ", 3))
            inside = !strcmp(line, "## Passed through\n");
        if (!inside || line[0] != '|' || line[1] == '-' || strstr(line, "| number |"))
            continue;
        cell = strchr(line + 1, '|');
        ck_assert_ptr_nonnull(cell);
        end = strchr(cell + 1, '|');
        ck_assert_ptr_nonnull(end);
        parse_numbers(cell + 1, end);
    }
    fclose(file);
    ck_assert_uint_gt(documented_count, 0);
}

static bool is_documented(uint32_t index)
{
    for (unsigned i = 0; i < documented_count; i++)
        if (documented[i] == index)
            return true;
    return false;
}

/* ---- The maps of each vendor ---- */

static _Alignas(4096) uint8_t io[3 * 4096], msr_map[2 * 4096];
static struct vmx_vm vmx_data;
static struct svm_vm svm_data;

static enum virtx_status vmx_make(struct virtx_vm *vm, void *data)
{
    (void)vm;
    vmx_bitmaps_init(io, msr_map);
    ((struct vmx_vm *)data)->io_bitmap = io;
    ((struct vmx_vm *)data)->msr_bitmap = msr_map;
    return VIRTX_OK;
}

static enum virtx_status svm_make(struct virtx_vm *vm, void *data)
{
    (void)vm;
    svm_bitmaps_init(io, msr_map);
    ((struct svm_vm *)data)->iopm = io;
    ((struct svm_vm *)data)->msrpm = msr_map;
    return VIRTX_OK;
}

/* Intel SDM "MSR-Bitmap Address". */
static bool vmx_passes(uint32_t index, bool write)
{
    unsigned byte = (write ? 2048 : 0) + (index >= 0xc0000000 ? 1024 : 0) + (index & 0x1fff) / 8;

    return index < 0xc0010000 && !(msr_map[byte] >> index % 8 & 1);
}

/* AMD APM "MSR Intercepts". */
static bool svm_passes(uint32_t index, bool write)
{
    unsigned range = index < 0x2000 ? 0 : index < 0xc0010000 ? 1 : 2;
    unsigned bit = range * 0x4000 + (index & 0x1fff) * 2 + write;

    return !(msr_map[bit / 8] >> bit % 8 & 1);
}

static struct vendor {
    const char *name;
    struct virtx_hw hw;
    void *data;
    bool (*passes)(uint32_t index, bool write);
} vendors[] = {
    {"VMX", {.vm_create = vmx_make, .msr = vmx_msr, .ports = vmx_ports}, &vmx_data, vmx_passes},
    {"SVM", {.vm_create = svm_make, .msr = svm_msr, .ports = svm_ports}, &svm_data, svm_passes},
};

static void compare(const struct vendor *vendor, const char *when)
{
    static const uint32_t ranges[] = {0, 0xc0000000, 0xc0010000};

    for (unsigned r = 0; r < ARRAY_SIZE(ranges); r++)
        for (uint32_t index = ranges[r]; index < ranges[r] + 0x2000; index++)
            for (unsigned write = 0; write < 2; write++)
                ck_assert_msg(vendor->passes(index, write) == is_documented(index),
                              "%s, %s: %s of MSR %x %s", vendor->name, when,
                              write ? "write" : "read", index,
                              is_documented(index) ? "exits" : "passes, and is not documented");
}

START_TEST(exact_list)
{
    struct vendor *vendor = &vendors[_i];
    struct virtx_backend backend = {.hw = &vendor->hw};
    struct virtx library;
    struct virtx_vm vm;
    struct hw_vm *data = vendor->data;

    parse_document();
    world_begin(&virtx_profile_bare); /* for a VM with a CPUID table */
    library = *world.virtx;
    library.backend = &backend;
    vm = *world.vm;
    vm.virtx = &library;
    vm.backend_data = data;
    vm.vcpus = NULL;
    memset(io, 0x5a, sizeof(io));
    memset(msr_map, 0x5a, sizeof(msr_map));
    ck_assert_int_eq(hw_vm_create(&vm), VIRTX_OK);
    compare(vendor, "as created");
    /* Likewise when they are made again, after a change of rules. */
    data->msr_rules = 1;
    memset(msr_map, 0x5a, sizeof(msr_map));
    ck_assert_int_eq(hw_intercept_changed(&vm, NULL), VIRTX_OK);
    compare(vendor, "made again");
    world_end();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("msr_list");
    TCase *tests = tcase_create("msr_list");
    SRunner *runner;
    int failed;

    tcase_add_loop_test(tests, exact_list, 0, ARRAY_SIZE(vendors));
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
