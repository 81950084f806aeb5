/* SPDX-License-Identifier: BSD-2-Clause */
/* Loads Linux by its own boot protocol (Linux documentation, "The Linux/x86 Boot Protocol"), a
 * bzImage or zImage from version 2.00 on: by the 64-bit entry where there is one, else by the
 * 32-bit one; and vmlinux, the kernel proper in an ELF file. No code of 16 bits is run: there is no
 * BIOS. */
#include "elf.h"
#include "guest.h"

void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memset(void *to, int value, size_t bytes);

/* Where things go: behind a zImage, and the first two where kernels before version 2.02 look for
 * them. */
enum {
    ZIMAGE = 0x1000,
    BOOT_PARAMS = 0x90000,
    COMMAND_LINE = 0x91000,
    COMMAND_LINE_MAX = 0x2000,
    PAGE_TABLES = 0x93000, /* PML4, PDPT, four page directories */
    GDT = 0x99000,
    BOOT_CS = 0x10, /* the protocol's selectors */
    BOOT_DS = 0x18,
    STACK_TOP = 0x9b000,
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

    PARAMS_EXT_MEMORY = 0x002, /* in KiB behind 1 MiB, as far as 16 bits go */
    PARAMS_OLD_LINE = 0x020,   /* a mark and an offset, before version 2.02 */
    OLD_LINE_MARK = 0xa33f,
    PARAMS_RSDP = 0x070,
    PARAMS_ALT_MEMORY = 0x1e0, /* the same in 32 bits */
    PARAMS_E820_ENTRIES = 0x1e8,
    PARAMS_HEADER_END = 0x290,
    PARAMS_E820 = 0x2d0,

    XLF_KERNEL_64 = 1,
    LOADED_HIGH = 1,

    ENTRY_64 = 0x200, /* behind the start of the kernel proper */

    /* What is said of vmlinux, which has no header. */
    VMLINUX_VERSION = 0x20f,
    VMLINUX_LINE = 2047,
    OLD_LINE = 255,
    OLD_INITRD_MAX = 0x37ffffff,
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

static void build_gdt(uint8_t *low, bool wide)
{
    memset(low + GDT, 0, BOOT_DS + 8);
    put64(low + GDT + BOOT_CS, wide ? 0x00af9b000000ffff : 0x00cf9b000000ffff);
    put64(low + GDT + BOOT_DS, 0x00cf93000000ffff);
}

/* All modules behind each other at the top of low memory, as one initramfs. */
static const char *load_initrd(const struct guest_ram *ram, const struct guest_image *image,
                               uint8_t *params, uint64_t kernel_end)
{
    uint64_t bytes = 0, top = ram->low_bytes, address;
    uint64_t last =
        get16(params + VERSION) >= 0x203 ? get32(params + INITRD_ADDR_MAX) : OLD_INITRD_MAX;

    for (unsigned i = 0; i < image->modules; i++)
        bytes += (image->module[i].bytes + 3) & ~3ull;
    if (!bytes)
        return NULL;
    if (top > last + 1)
        top = last + 1;
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

    uint64_t kilobytes = (ram->low_bytes - 0x100000) >> 10;

    put16(params + PARAMS_EXT_MEMORY, kilobytes < 0xfc00 ? (uint32_t)kilobytes : 0xfc00);
    put32(params + PARAMS_ALT_MEMORY, (uint32_t)kilobytes);
    params[PARAMS_E820_ENTRIES] = (uint8_t)count;
    for (unsigned i = 0; i < count; i++) {
        put64(params + PARAMS_E820 + 20 * i, ranges[i].address);
        put64(params + PARAMS_E820 + 20 * i + 8, ranges[i].bytes);
        put32(params + PARAMS_E820 + 20 * i + 16, ranges[i].type);
    }
}

/* The header comes from the file. */
static void copy_header(uint8_t *params, const uint8_t *file)
{
    unsigned end = HEADER_MAGIC + file[HEADER_JUMP + 1];

    if (end > PARAMS_HEADER_END)
        end = PARAMS_HEADER_END;
    memset(params, 0, 0x1000);
    memcpy(params + SETUP_SECTS, file + SETUP_SECTS, end - SETUP_SECTS);
}

/* All the rest. */
static const char *fill_params(const struct guest_ram *ram, const struct guest_image *image,
                               uint8_t *params)
{
    const char *line = guest_arguments(image->kernel.string);
    size_t length = guest_strlen(line);
    unsigned version = get16(params + VERSION);

    if (length >= COMMAND_LINE_MAX ||
        length > (version >= 0x206 ? get32(params + CMDLINE_SIZE) : OLD_LINE))
        return "the command line is too long for this kernel";
    memcpy(ram->low + COMMAND_LINE, line, length + 1);
    if (version >= 0x202) {
        put32(params + CMD_LINE_PTR, COMMAND_LINE);
    } else {
        put16(params + PARAMS_OLD_LINE, OLD_LINE_MARK);
        put16(params + PARAMS_OLD_LINE + 2, COMMAND_LINE - BOOT_PARAMS);
    }
    params[TYPE_OF_LOADER] = 0xff; /* a loader without an assigned number */
    put64(params + PARAMS_RSDP, image->rsdp);
    fill_memory_map(ram, params);
    return NULL;
}

/* Where the kernel proper is in the file and where it goes. */
struct placement {
    bool wide;                            /* by the 64-bit entry */
    uint64_t offset, bytes, address, end; /* end: of the memory it needs before it has a map */
};

static const char *place_kernel(const struct guest_ram *ram, const struct guest_file *kernel,
                                struct placement *at)
{
    const uint8_t *file = kernel->data;
    unsigned version = get16(file + VERSION);
    bool says_where = version >= 0x20a; /* and how much memory it needs */
    bool low = !(file[LOADFLAGS] & LOADED_HIGH);
    uint64_t memory = says_where ? get32(file + INIT_SIZE) : 0;

    if (version < 0x200)
        return "the kernel's boot protocol is older than version 2.00";
    at->wide = version >= 0x20c && get16(file + XLOADFLAGS) & XLF_KERNEL_64;
    at->offset = (file[SETUP_SECTS] ? file[SETUP_SECTS] + 1u : 5u) * 512u;
    /* The size is in units of 16 bytes, and of 16 bits in old headers, whose upper half is
     * something else; what a signature appends is not counted. */
    if (at->offset + (at->wide ? ENTRY_64 : 0) >= kernel->bytes ||
        (version >= 0x204 ? get32(file + SYSSIZE) : get16(file + SYSSIZE)) * 16ull >
            ((kernel->bytes - at->offset + 15) & ~15ull))
        return "the kernel file is cut short";
    at->bytes = kernel->bytes - at->offset;
    at->address = low ? ZIMAGE : says_where ? get64(file + PREF_ADDRESS) : 0x100000;
    if (memory < at->bytes)
        memory = at->bytes;
    if (low && at->bytes > BOOT_PARAMS - ZIMAGE)
        return "the kernel is a zImage and too large for one";
    if (!low && (at->address < 0x100000 || !guest_is_low_ram(ram, at->address, memory)))
        return "guest memory is too small for this kernel";
    at->end = low ? 0x100000 : at->address + memory;
    return NULL;
}

static struct guest_start start_at(const struct guest_ram *ram, uint64_t entry, bool wide)
{
    if (wide)
        build_page_tables(ram->low);
    build_gdt(ram->low, wide);
    return (struct guest_start){.preset = wide ? VIRTX_PRESET_FLAT64 : VIRTX_PRESET_FLAT32,
                                .rip = entry,
                                .rsp = STACK_TOP,
                                .rsi = BOOT_PARAMS,
                                .cr3 = wide ? PAGE_TABLES : 0,
                                .gdt = GDT,
                                .gdt_limit = BOOT_DS + 7,
                                .cs = BOOT_CS,
                                .ds = BOOT_DS};
}

const char *linux_load(const struct guest_ram *ram, const struct guest_image *image,
                       struct guest_start *start)
{
    uint8_t *params = ram->low + BOOT_PARAMS;
    struct placement at;
    const char *why = place_kernel(ram, &image->kernel, &at);

    if (why)
        return why;
    copy_header(params, image->kernel.data);
    why = fill_params(ram, image, params);
    if (!why)
        why = load_initrd(ram, image, params, at.end);
    if (why)
        return why;
    memcpy(ram->low + at.address, image->kernel.data + at.offset, at.bytes);
    *start = start_at(ram, at.address + (at.wide ? ENTRY_64 : 0), at.wide);
    return NULL;
}

const char *linux_load_elf(const struct guest_ram *ram, const struct guest_image *image,
                           struct guest_start *start)
{
    uint8_t *params = ram->low + BOOT_PARAMS;
    struct guest_extent extent = {.end = 0x100000};
    uint64_t entry = 0;
    const char *why = elf_load(ram, &image->kernel, &entry, &extent);

    if (why)
        return why;
    if (extent.in_low_memory)
        return "an ELF kernel below 1 MiB without a multiboot header is not supported";
    memset(params, 0, 0x1000);
    put16(params + BOOT_FLAG, 0xaa55);
    put32(params + HEADER_MAGIC, 0x53726448);
    put16(params + VERSION, VMLINUX_VERSION);
    params[LOADFLAGS] = LOADED_HIGH;
    put32(params + INITRD_ADDR_MAX, 0x7fffffff);
    put32(params + KERNEL_ALIGNMENT, 0x1000000);
    put32(params + CMDLINE_SIZE, VMLINUX_LINE);
    why = fill_params(ram, image, params);
    if (!why)
        why = load_initrd(ram, image, params, extent.end);
    if (!why)
        *start = start_at(ram, entry, elf_is_wide(&image->kernel));
    return why;
}
