/* SPDX-License-Identifier: BSD-2-Clause */
/* Which processors there are, from the firmware's tables: the ACPI MADT ("Multiple APIC
 * Description Table") or, where there is none, the table of the MultiProcessor Specification. */
#include "internal.h"

#define EBDA_POINTER 0x40e /* segment of the extended BIOS data area */
#define BIOS_START   0xe0000
#define BIOS_END     0x100000

#define MADT_LAPIC   0
#define MADT_X2APIC  9
#define MADT_ENABLED 1
#define MP_PROCESSOR 0
#define MP_ENABLED   1

struct found {
    uint32_t *ids;
    unsigned count, max;
};

static const uint8_t *bytes_at(uint64_t address)
{
    return (const uint8_t *)(uintptr_t)address;
}

static uint16_t read16(const uint8_t *from)
{
    uint16_t value;
    memcpy(&value, from, sizeof(value));
    return value;
}

static uint32_t read32(const uint8_t *from)
{
    uint32_t value;
    memcpy(&value, from, sizeof(value));
    return value;
}

static uint64_t read64(const uint8_t *from)
{
    uint64_t value;
    memcpy(&value, from, sizeof(value));
    return value;
}

static bool sums_to_zero(const uint8_t *from, size_t length)
{
    uint8_t sum = 0;

    while (length-- > 0)
        sum = (uint8_t)(sum + *from++);
    return sum == 0;
}

static void add(struct found *found, uint32_t id)
{
    if (found->count < found->max)
        found->ids[found->count++] = id;
}

/* A structure that begins with `signature` on a 16-byte boundary and sums to zero. */
static const uint8_t *find_in(uint64_t start, uint64_t end, const char *signature, size_t length,
                              size_t size)
{
    for (uint64_t at = start; at + size <= end; at += 16) {
        if (memcmp(bytes_at(at), signature, length) == 0 && sums_to_zero(bytes_at(at), size))
            return bytes_at(at);
    }
    return NULL;
}

static uint64_t ebda(void)
{
    const uint8_t *pointer = bytes_at(EBDA_POINTER);

    __asm__("" : "+r"(pointer)); /* GCC takes small constant addresses for mistakes */
    return (uint64_t)read16(pointer) << 4;
}

static const uint8_t *find_low(const char *signature, size_t length, size_t size)
{
    uint64_t start = ebda();
    const uint8_t *found = NULL;

    if (start >= 0x80000 && start < 0xa0000)
        found = find_in(start, start + 1024, signature, length, size);
    return found != NULL ? found : find_in(BIOS_START, BIOS_END, signature, length, size);
}

static void read_madt(const uint8_t *madt, struct found *found)
{
    const uint8_t *end = madt + read32(madt + 4);

    for (const uint8_t *entry = madt + 44; entry + 2 <= end && entry[1] >= 2; entry += entry[1]) {
        if (entry[0] == MADT_LAPIC && (read32(entry + 4) & MADT_ENABLED))
            add(found, entry[3]);
        else if (entry[0] == MADT_X2APIC && (read32(entry + 8) & MADT_ENABLED))
            add(found, read32(entry + 4));
    }
}

static void read_acpi(struct found *found)
{
    const uint8_t *rsdp = find_low("RSD PTR ", 8, 20);

    if (rsdp == NULL)
        return;
    bool wide = rsdp[15] >= 2 && read64(rsdp + 24) != 0; /* XSDT with 8-byte entries */
    uint64_t root = wide ? read64(rsdp + 24) : read32(rsdp + 16);
    size_t step = wide ? 8 : 4;
    if (root == 0 || root >= BARE_MAPPED_END)
        return;
    const uint8_t *end = bytes_at(root) + read32(bytes_at(root) + 4);
    for (const uint8_t *entry = bytes_at(root) + 36; entry + step <= end; entry += step) {
        uint64_t table = wide ? read64(entry) : read32(entry);
        if (table < BARE_MAPPED_END && memcmp(bytes_at(table), "APIC", 4) == 0)
            read_madt(bytes_at(table), found);
    }
}

static void read_mp(struct found *found)
{
    const uint8_t *pointer = find_low("_MP_", 4, 16);

    if (pointer == NULL || read32(pointer + 4) == 0)
        return;
    const uint8_t *table = bytes_at(read32(pointer + 4));
    if (memcmp(table, "PCMP", 4) != 0)
        return;
    const uint8_t *entry = table + 44;
    for (unsigned left = read16(table + 34); left > 0; left--) {
        if (entry[0] == MP_PROCESSOR && (entry[3] & MP_ENABLED))
            add(found, entry[1]);
        entry += entry[0] == MP_PROCESSOR ? 20 : 8;
    }
}

unsigned bare_firmware_processors(uint32_t *ids, unsigned max)
{
    struct found found = {ids, 0, max};

    read_acpi(&found);
    if (found.count == 0)
        read_mp(&found);
    return found.count;
}
