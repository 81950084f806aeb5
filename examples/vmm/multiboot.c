/* SPDX-License-Identifier: BSD-2-Clause */
/* Loads flat, ELF32 and ELF64 kernels by the Multiboot Specification, version 0.6.96. A kernel is
 * told what QEMU's -kernel would tell it, down to the boot device. GRUB differs from that in what
 * the specification leaves open: it passes command line and strings without the files' names, the
 * drive it came from, ELF section headers, and a frame buffer. Like GRUB, and unlike QEMU, this
 * loads ELF64 and kernels below 1 MiB. */
#include "elf.h"
#include "guest.h"

void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memset(void *to, int value, size_t bytes);

enum {
    HEADER_MAGIC = 0x1badb002,
    HEADER_SEARCH = 8192,
    HEADER_ADDRESSES = 0x10000, /* the header says where the file goes */
    /* Mandatory bits other than align, memory and video. There is no screen; a kernel that asks
     * for a video mode is started all the same, as QEMU does, and told of none. */
    HEADER_UNSUPPORTED = 0xfff8,
    BOOT_MAGIC = 0x2badb002,

    /* The information structure and everything it points to lie here, out of the way of kernels
     * that take all memory behind themselves for free, or behind the modules when the kernel
     * itself wants to be here. */
    INFO = 0x9000,
    INFO_END = 0x9f000,
    INFO_BYTES = 116,

    INFO_MEMORY = 1,
    INFO_DEVICE = 2,
    INFO_COMMAND_LINE = 4,
    INFO_MODULES = 8,
    INFO_MAP = 0x40,
    INFO_LOADER_NAME = 0x200,
};

/* The header's position in the file, or -1. */
static int64_t find_header(const struct guest_file *file)
{
    for (uint64_t at = 0; at + 12 <= file->bytes && at + 12 <= HEADER_SEARCH; at += 4) {
        const uint8_t *h = file->data + at;
        if (get32(h) == HEADER_MAGIC && get32(h) + get32(h + 4) + get32(h + 8) == 0)
            return (int64_t)at;
    }
    return -1;
}

bool multiboot_is(const struct guest_file *kernel)
{
    return find_header(kernel) >= 0;
}

/* ---- The kernel ---- */

static const char *load_flat(const struct guest_ram *ram, const struct guest_file *file,
                             uint64_t at, uint64_t *entry, struct guest_extent *extent)
{
    const uint8_t *h = file->data + at;
    struct guest_addresses addresses;

    if (at + 32 > file->bytes)
        return "the kernel file is cut short";
    addresses =
        (struct guest_addresses){get32(h + 12), get32(h + 16), get32(h + 20), get32(h + 24)};
    *entry = get32(h + 28);
    return guest_put_flat(ram, file, at, &addresses, extent);
}

/* ---- The information structure and what it points to ---- */

static void describe_modules(const struct guest_image *image, const uint64_t *start,
                             struct guest_arena *arena, uint8_t *info)
{
    uint32_t table = guest_place(arena, 16u * image->modules);

    for (unsigned i = 0; i < image->modules; i++) {
        uint32_t string = guest_place_string(arena, image->module[i].string);
        if (arena->full)
            return;
        uint8_t *entry = arena->low + table + 16 * i;
        put32(entry, (uint32_t)start[i]);
        put32(entry + 4, (uint32_t)(start[i] + image->module[i].bytes));
        put32(entry + 8, string);
        put32(entry + 12, 0);
    }
    put32(info + 20, image->modules);
    put32(info + 24, table);
}

static void describe_memory(const struct guest_ram *ram, struct guest_arena *arena, uint8_t *info)
{
    struct guest_range ranges[GUEST_RANGES];
    unsigned count = guest_map(ram, ranges);
    uint32_t map = guest_place(arena, 24 * count);

    for (unsigned i = 0; i < count && !arena->full; i++) {
        uint8_t *entry = arena->low + map + 24 * i;
        put32(entry, 20); /* size of the rest */
        put64(entry + 4, ranges[i].address);
        put64(entry + 12, ranges[i].bytes);
        put32(entry + 20, ranges[i].type);
    }
    put32(info + 4, GUEST_LOW_END >> 10);
    put32(info + 8, (uint32_t)((ram->low_bytes - 0x100000) >> 10));
    put32(info + 44, 24 * count);
    put32(info + 48, map);
}

/* Returns the structure's address, 0 when its parts find no room. */
static uint32_t put_info(const struct guest_ram *ram, const struct guest_image *image,
                         const uint64_t *start, struct guest_arena *arena)
{
    uint32_t at = guest_place(arena, INFO_BYTES);
    uint8_t *info = ram->low + at;

    if (arena->full)
        return 0;
    memset(info, 0, INFO_BYTES);
    put32(info, INFO_MEMORY | INFO_DEVICE | INFO_COMMAND_LINE | INFO_MODULES | INFO_MAP |
                    INFO_LOADER_NAME);
    put32(info + 12, 0x8000ffff); /* first hard disk, no partition */
    put32(info + 16, guest_place_string(arena, image->kernel.string));
    put32(info + 64, guest_place_string(arena, "virtx"));
    describe_modules(image, start, arena, info);
    describe_memory(ram, arena, info);
    return arena->full ? 0 : at;
}

const char *multiboot_load(const struct guest_ram *ram, const struct guest_image *image,
                           struct guest_start *start)
{
    const struct guest_file *kernel = &image->kernel;
    struct guest_arena arena = {.low = ram->low, .next = INFO, .end = INFO_END};
    struct guest_extent extent = {.end = 0x100000};
    uint64_t modules[GUEST_MAX_FILES], entry = 0;
    int64_t at = find_header(kernel);
    const char *why;

    if (at < 0)
        return "the kernel has no multiboot header";
    if (get32(kernel->data + at + 4) & HEADER_UNSUPPORTED)
        return "the kernel asks for something that Multiboot does not define";
    if (get32(kernel->data + at + 4) & HEADER_ADDRESSES)
        why = load_flat(ram, kernel, (uint64_t)at, &entry, &extent);
    else
        why = elf_load(ram, kernel, &entry, &extent);
    if (!why)
        why = guest_put_modules(ram, image, modules, &extent.end);
    if (why)
        return why;
    if (extent.in_low_memory) {
        arena.next = (extent.end + 0xfff) & ~0xfffull;
        arena.end = ram->low_bytes > arena.next ? ram->low_bytes : arena.next;
    }
    *start = (struct guest_start){
        .preset = VIRTX_PRESET_FLAT32, .rip = entry, .rax = BOOT_MAGIC, .after_bios = true};
    start->rbx = put_info(ram, image, modules, &arena);
    return start->rbx ? NULL : "the strings of kernel and modules are too long";
}
