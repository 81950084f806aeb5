/* SPDX-License-Identifier: BSD-2-Clause */
/* Loads a Linux bzImage by its 64-bit boot protocol (Linux documentation, "The Linux/x86 Boot
 * Protocol"). */
#include <virtx/host.h>
#include "guest.h"

void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memset(void *to, int value, size_t bytes);

/* Where things go, all below the kernel and out of each other's way. */
enum {
    BOOT_PARAMS = 0x10000,
    COMMAND_LINE = 0x20000,
    COMMAND_LINE_MAX = 0x2000,
    PAGE_TABLES = 0x30000, /* PML4, PDPT, four page directories */
    STACK_TOP = 0x90000,
};

/* Offsets in the setup header, which stands at the same place in file and boot_params. */
enum {
    SETUP_SECTS = 0x1f1,
    BOOT_FLAG = 0x1fe,
    HEADER_JUMP = 0x200,
    HEADER_MAGIC = 0x202,
    VERSION = 0x206,
    TYPE_OF_LOADER = 0x210,
    LOADFLAGS = 0x211,
    RAMDISK_IMAGE = 0x218,
    RAMDISK_SIZE = 0x21c,
    CMD_LINE_PTR = 0x228,
    INITRD_ADDR_MAX = 0x22c,
    KERNEL_ALIGNMENT = 0x230,
    XLOADFLAGS = 0x236,
    CMDLINE_SIZE = 0x238,
    PREF_ADDRESS = 0x258,
    INIT_SIZE = 0x260,

    PARAMS_RSDP = 0x070,
    PARAMS_E820_ENTRIES = 0x1e8,
    PARAMS_E820 = 0x2d0,

    XLF_KERNEL_64 = 1,
};

bool linux_is(const struct guest_file *kernel)
{
    return kernel->bytes > 0x400 && get16(kernel->data + BOOT_FLAG) == 0xaa55 &&
           get32(kernel->data + HEADER_MAGIC) == 0x53726448; /* "HdrS" */
}

/* The first 4 GiB, identity-mapped with 2 MiB pages. */
static void build_page_tables(uint8_t *low)
{
    enum { P_RW = 3, LARGE = 0x80 };

    memset(low + PAGE_TABLES, 0, 6 * 0x1000);
    put64(low + PAGE_TABLES, (PAGE_TABLES + 0x1000) | P_RW);
    for (unsigned i = 0; i < 4; i++)
        put64(low + PAGE_TABLES + 0x1000 + 8 * i, (PAGE_TABLES + 0x2000 + i * 0x1000u) | P_RW);
    for (uint64_t i = 0; i < 2048; i++)
        put64(low + PAGE_TABLES + 0x2000 + 8 * i, i << 21 | LARGE | P_RW);
}

/* All modules behind each other at the top of low memory, as one initramfs. */
static const char *load_initrd(const struct guest_ram *ram, const struct guest_image *image,
                               uint8_t *params, uint64_t kernel_end)
{
    uint64_t bytes = 0, top = ram->low_bytes, address;

    for (unsigned i = 0; i < image->modules; i++)
        bytes += (image->module[i].bytes + 3) & ~3ull;
    if (!bytes)
        return NULL;
    if (top > get32(params + INITRD_ADDR_MAX) + 1ull)
        top = get32(params + INITRD_ADDR_MAX) + 1ull;
    if (bytes > top || ((top - bytes) & ~0xfffull) < kernel_end)
        return "the initial ramdisk does not fit into guest memory";
    address = (top - bytes) & ~0xfffull;
    put32(params + RAMDISK_IMAGE, (uint32_t)address);
    put32(params + RAMDISK_SIZE, (uint32_t)bytes);
    for (unsigned i = 0; i < image->modules; i++) {
        memcpy(ram->low + address, image->module[i].data, image->module[i].bytes);
        address += (image->module[i].bytes + 3) & ~3ull;
    }
    return NULL;
}

static void fill_memory_map(const struct guest_ram *ram, uint8_t *params)
{
    struct guest_range ranges[GUEST_RANGES];
    unsigned count = guest_map(ram, ranges);

    params[PARAMS_E820_ENTRIES] = (uint8_t)count;
    for (unsigned i = 0; i < count; i++) {
        put64(params + PARAMS_E820 + 20 * i, ranges[i].address);
        put64(params + PARAMS_E820 + 20 * i + 8, ranges[i].bytes);
        put32(params + PARAMS_E820 + 20 * i + 16, ranges[i].type);
    }
}

/* The arguments of the kernel without its name. */
static const char *arguments(const char *string)
{
    while (*string && *string != ' ')
        string++;
    return *string ? string + 1 : string;
}

static const char *fill_params(const struct guest_ram *ram, const struct guest_image *image,
                               uint8_t *params)
{
    const uint8_t *file = image->kernel.data;
    const char *line = arguments(image->kernel.string);
    size_t length = guest_strlen(line);
    unsigned header_end = 0x202u + file[0x201];

    memset(params, 0, 0x1000);
    memcpy(params + SETUP_SECTS, file + SETUP_SECTS, header_end - SETUP_SECTS);
    if (length >= COMMAND_LINE_MAX || length > get32(params + CMDLINE_SIZE))
        return "the command line is too long for this kernel";
    memcpy(ram->low + COMMAND_LINE, line, length + 1);
    put32(params + CMD_LINE_PTR, COMMAND_LINE);
    params[TYPE_OF_LOADER] = 0xff; /* a loader without an assigned number */
    put64(params + PARAMS_RSDP, image->rsdp);
    fill_memory_map(ram, params);
    return NULL;
}

const char *linux_load(const struct guest_ram *ram, const struct guest_image *image,
                       struct guest_start *start)
{
    const uint8_t *file = image->kernel.data;
    uint8_t *params = ram->low + BOOT_PARAMS;
    uint64_t setup = (file[SETUP_SECTS] ? file[SETUP_SECTS] + 1u : 5u) * 512u, address, bytes;
    const char *why;

    if (get16(file + VERSION) < 0x20c || !(get16(file + XLOADFLAGS) & XLF_KERNEL_64))
        return "the kernel has no 64-bit entry point (boot protocol 2.12)";
    if (setup >= image->kernel.bytes)
        return "the kernel file is cut short";
    address = get64(file + PREF_ADDRESS);
    bytes = image->kernel.bytes - setup;
    if (address + get32(file + INIT_SIZE) > ram->low_bytes || address + bytes > ram->low_bytes)
        return "guest memory is too small for this kernel";
    why = fill_params(ram, image, params);
    if (!why)
        why = load_initrd(ram, image, params, address + get32(file + INIT_SIZE));
    if (why)
        return why;
    memcpy(ram->low + address, file + setup, bytes);
    build_page_tables(ram->low);
    *start = (struct guest_start){.preset = VIRTX_PRESET_FLAT64, .rip = address + 0x200,
                                  .rsp = STACK_TOP, .rsi = BOOT_PARAMS, .cr3 = PAGE_TABLES};
    return NULL;
}
