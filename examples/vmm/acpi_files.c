/* SPDX-License-Identifier: BSD-2-Clause */
/* The commands by which a firmware allocates memory for the tables, makes addresses of the offsets in
 * them, and sums them up again (QEMU source, "bios-linker-loader"). SeaBIOS, OVMF and U-Boot know
 * them. */
#include "acpi_files.h"
#include "guest.h"

void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memset(void *to, int value, size_t bytes);

enum { ALLOCATE = 1, POINTER = 2, CHECKSUM = 3, ZONE_HIGH = 1, ZONE_F_SEGMENT = 2, ALIGNMENT = 64 };

static uint8_t *command(struct acpi_files *files, uint32_t what, const char *file)
{
    uint8_t *at = files->loader + files->loader_bytes;

    files->loader_bytes += ACPI_LOADER_BYTES;
    put32(at, what);
    memcpy(at + 4, file, guest_strlen(file) + 1);
    return at;
}

static void allocate(struct acpi_files *files, const char *file, uint8_t zone)
{
    uint8_t *at = command(files, ALLOCATE, file);

    put32(at + 60, ALIGNMENT);
    at[64] = zone;
}

/* What is at `offset`, an offset into the tables, becomes an address. */
static void pointer(struct acpi_files *files, const char *file, uint32_t offset, uint32_t bytes)
{
    uint8_t *at = command(files, POINTER, file);

    memcpy(at + 60, ACPI_TABLES_FILE, sizeof(ACPI_TABLES_FILE));
    put32(at + 116, offset);
    at[120] = (uint8_t)bytes;
}

/* Some firmwares take it over what is there before; so that is 0. */
static void checksum(struct acpi_files *files, const char *file, uint8_t *data,
                     struct acpi_range table, uint32_t sum_at)
{
    uint8_t *at = command(files, CHECKSUM, file);

    data[sum_at] = 0;
    put32(at + 60, sum_at);
    put32(at + 64, table.offset);
    put32(at + 68, table.bytes);
}

void acpi_files_make(struct acpi_files *files, unsigned cpus)
{
    const struct acpi_range root = {0, ACPI_ROOT_BYTES};
    struct acpi_links links;

    memset(files, 0, sizeof(*files));
    acpi_build(files->tables, 0, cpus);
    acpi_links(files->tables, &links);
    memcpy(files->root, files->tables, ACPI_ROOT_BYTES);
    memset(files->tables, 0, ACPI_ROOT_BYTES); /* there is to be one */
    allocate(files, ACPI_ROOT_FILE, ZONE_F_SEGMENT);
    allocate(files, ACPI_TABLES_FILE, ZONE_HIGH);
    for (unsigned i = 0; i < ACPI_LINKS; i++)
        pointer(files, ACPI_TABLES_FILE, links.pointer[i].offset, links.pointer[i].bytes);
    for (unsigned i = 0; i < ACPI_LINKED; i++)
        checksum(files, ACPI_TABLES_FILE, files->tables, links.table[i],
                 links.table[i].offset + ACPI_CHECKSUM);
    pointer(files, ACPI_ROOT_FILE, ACPI_ROOT_POINTER, 8);
    checksum(files, ACPI_ROOT_FILE, files->root, root, ACPI_ROOT_CHECKSUM);
}
