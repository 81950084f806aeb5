/* SPDX-License-Identifier: BSD-2-Clause */
/* Where a firmware finds itself and its memory on a PC: the ROM ends at 4 GiB, where the reset vector
 * is, and its last 128 KiB are also under 1 MiB until the firmware has copied them to the RAM that
 * lies behind (data sheet of the 82441FX, "Programmable Attribute Map Registers"). */
#include "firmware.h"

void *memcpy(void *restrict to, const void *restrict from, size_t bytes);

enum {
    SEGMENTS_START = 0xc0000,
    LAST_SEGMENT = 0xf0000, /* 64 KiB; the others have 16 */
    ALIAS_START = 0xe0000,
    PAM_READ = 1, /* reads go to RAM */
    PAM_WRITE = 2,
};

static enum virtx_status add(struct firmware *fw, uint64_t gpa, uint64_t bytes, uint32_t rights,
                             void *memory, struct virtx_memslot **slot)
{
    struct virtx_memslot_config config = {
        .size = sizeof(config), .rights = VIRTX_READ | VIRTX_EXECUTE | rights,
        /* Writes to ROM are accesses to a device that ignores them. */
        .type = VIRTX_MEMORY_WB, .flags = rights ? 0 : VIRTX_MEMSLOT_WRITE_MMIO,
        .gpa = gpa, .bytes = bytes, .memory = memory,
    };

    return virtx_memslot_add(fw->vm, &config, slot);
}

/* A segment whose reads go to the ROM where there is one, and nowhere else; writes that would go past the
 * ROM into RAM are lost. */
static enum virtx_status map_segment(struct firmware *fw, unsigned i, uint8_t rights)
{
    uint64_t gpa = i == FIRMWARE_SEGMENTS - 1 ? LAST_SEGMENT : SEGMENTS_START + i * 0x4000ull;
    uint64_t bytes = i == FIRMWARE_SEGMENTS - 1 ? 0x10000 : 0x4000;
    uint64_t from_end = 0x100000 - gpa;
    enum virtx_status status = VIRTX_OK;

    if (fw->segment[i])
        status = virtx_memslot_remove(fw->segment[i], NULL);
    fw->segment[i] = NULL;
    fw->rights[i] = rights;
    if (!status && rights & PAM_READ)
        status = add(fw, gpa, bytes, rights & PAM_WRITE ? VIRTX_WRITE : 0, fw->low + gpa,
                     &fw->segment[i]);
    else if (!status && gpa >= ALIAS_START && from_end <= fw->rom_bytes)
        status = add(fw, gpa, bytes, 0, fw->rom + fw->rom_bytes - from_end, &fw->segment[i]);
    return status;
}

enum virtx_status firmware_init(struct firmware *fw, struct virtx_vm *vm,
                                const struct guest_ram *ram, uint8_t *rom, uint64_t rom_bytes)
{
    struct virtx_memslot *unused;
    enum virtx_status status;

    *fw = (struct firmware){.vm = vm, .low = ram->low, .rom = rom, .rom_bytes = rom_bytes};
    status = add(fw, GUEST_HIGH - rom_bytes, rom_bytes, 0, rom, &unused);
    for (unsigned i = 0; !status && i < FIRMWARE_SEGMENTS; i++)
        status = map_segment(fw, i, 0);
    return status;
}

/* The last segment is the high half of register 0; the others are two in a register. */
static uint8_t attributes(const uint8_t pam[PCI_PAM_BYTES], unsigned i)
{
    uint8_t value = i == FIRMWARE_SEGMENTS - 1 ? pam[0] >> 4 : pam[1 + i / 2] >> 4 * (i % 2);

    return value & (PAM_READ | PAM_WRITE);
}

enum virtx_status firmware_map(struct firmware *fw, const uint8_t pam[PCI_PAM_BYTES])
{
    enum virtx_status status = VIRTX_OK;

    for (unsigned i = 0; !status && i < FIRMWARE_SEGMENTS; i++)
        if (attributes(pam, i) != fw->rights[i])
            status = map_segment(fw, i, attributes(pam, i));
    return status;
}

/* ---- fw_cfg ---- */

static void put_range(uint8_t *p, uint64_t address, uint64_t bytes, uint32_t type)
{
    put64(p, address);
    put64(p + 8, bytes);
    put32(p + 16, type);
}

bool firmware_describe(struct firmware *fw, const struct guest_ram *ram, unsigned cpus,
                       struct fwcfg *cfg)
{
    static const uint8_t serial_console[2] = {0xf8, 0x03}, no_menu[1] = {0};
    enum { RAM = 1 };

    acpi_files_make(&fw->acpi, cpus);
    put_range(fw->map, 0, ram->low_bytes, RAM);
    put_range(fw->map + 20, GUEST_HIGH, ram->high_bytes, RAM);
    return fwcfg_add_file(cfg, "etc/e820", fw->map, ram->high_bytes ? 40 : 20) &&
           fwcfg_add_file(cfg, ACPI_ROOT_FILE, fw->acpi.root, sizeof(fw->acpi.root)) &&
           fwcfg_add_file(cfg, ACPI_TABLES_FILE, fw->acpi.tables, sizeof(fw->acpi.tables)) &&
           fwcfg_add_file(cfg, "etc/table-loader", fw->acpi.loader, fw->acpi.loader_bytes) &&
           fwcfg_add_file(cfg, "etc/sercon-port", serial_console, sizeof(serial_console)) &&
           fwcfg_add_file(cfg, "etc/show-boot-menu", no_menu, sizeof(no_menu));
}
