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
    GDT = 0x38000,
    BOOT_CS = 0x10, /* the protocol's selectors */
    BOOT_DS = 0x18,
    STACK_TOP = 0x90000,
};

/* Offsets in the setup header, which stands at the same place in file and boot_params. */
enum {
    SETUP_SECTS = 0x1f1,
    SYSSIZE = 0x1f4,
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
    PARAMS_HEADER_END = 0x290,
    PARAMS_E820 = 0x2d0,

    XLF_KERNEL_64 = 1,

    ENTRY_64 = 0x200, /* behind the start of the kernel proper */
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

static void build_gdt(uint8_t *low)
{
    memset(low + GDT, 0, BOOT_DS + 8);
    put64(low + GDT + BOOT_CS, 0x00af9b000000ffff);
    put64(low + GDT + BOOT_DS, 0x00cf93000000ffff);
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
    unsigned header_end = HEADER_MAGIC + file[HEADER_JUMP + 1];

    if (header_end > PARAMS_HEADER_END)
        header_end = PARAMS_HEADER_END;
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

/* Where the kernel proper is in the file and where it goes. */
struct placement {
    uint64_t offset, bytes, address, end; /* end: of the memory it needs before it has a map */
};

static const char *place_kernel(const struct guest_ram *ram, const struct guest_file *kernel,
                                struct placement *at)
{
    const uint8_t *file = kernel->data;
    uint64_t memory = get32(file + INIT_SIZE);

    if (get16(file + VERSION) < 0x20c || !(get16(file + XLOADFLAGS) & XLF_KERNEL_64))
        return "the kernel has no 64-bit entry point (boot protocol 2.12)";
    at->offset = (file[SETUP_SECTS] ? file[SETUP_SECTS] + 1u : 5u) * 512u;
    /* The size is in units of 16 bytes; what a signature appends is not counted. */
    if (at->offset + ENTRY_64 >= kernel->bytes ||
        get32(file + SYSSIZE) * 16ull > ((kernel->bytes - at->offset + 15) & ~15ull))
        return "the kernel file is cut short";
    at->bytes = kernel->bytes - at->offset;
    at->address = get64(file + PREF_ADDRESS);
    if (memory < at->bytes)
        memory = at->bytes;
    if (at->address < 0x100000 || !guest_is_low_ram(ram, at->address, memory))
        return "guest memory is too small for this kernel";
    at->end = at->address + memory;
    return NULL;
}

const char *linux_load(const struct guest_ram *ram, const struct guest_image *image,
                       struct guest_start *start)
{
    uint8_t *params = ram->low + BOOT_PARAMS;
    struct placement at;
    const char *why = place_kernel(ram, &image->kernel, &at);

    if (!why)
        why = fill_params(ram, image, params);
    if (!why)
        why = load_initrd(ram, image, params, at.end);
    if (why)
        return why;
    memcpy(ram->low + at.address, image->kernel.data + at.offset, at.bytes);
    build_page_tables(ram->low);
    build_gdt(ram->low);
    *start = (struct guest_start){.preset = VIRTX_PRESET_FLAT64, .rip = at.address + ENTRY_64,
                                  .rsp = STACK_TOP, .rsi = BOOT_PARAMS, .cr3 = PAGE_TABLES,
                                  .gdt = GDT, .gdt_limit = BOOT_DS + 7, .cs = BOOT_CS,
                                  .ds = BOOT_DS};
    return NULL;
}
