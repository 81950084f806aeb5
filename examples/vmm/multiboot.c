/* SPDX-License-Identifier: BSD-2-Clause */
/* Loads flat, ELF32 and ELF64 kernels by the Multiboot Specification, version 0.6.96. */
#include "guest.h"

void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memset(void *to, int value, size_t bytes);

enum {
    HEADER_MAGIC = 0x1badb002,
    HEADER_SEARCH = 8192,
    HEADER_ADDRESSES = 0x10000,    /* the header says where the file goes */
    HEADER_UNSUPPORTED = 0xfff8,   /* mandatory bits other than align, memory and video */
    BOOT_MAGIC = 0x2badb002,

    INFO = 0x9000, /* the information structure, and everything it points to, below this … */
    INFO_END = 0x9f000,

    INFO_MEMORY = 1, INFO_DEVICE = 2, INFO_COMMAND_LINE = 4, INFO_MODULES = 8, INFO_MAP = 0x40,
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

/* A free place in low memory for the information structure's parts. */
struct arena {
    uint8_t *low;
    uint32_t next;
    bool full;
};

static uint32_t place(struct arena *arena, const void *data, uint64_t bytes)
{
    uint32_t at = arena->next;

    if (bytes > INFO_END - at) {
        arena->full = true;
        return 0;
    }
    if (data)
        memcpy(arena->low + at, data, bytes);
    arena->next = (uint32_t)(at + bytes + 7) & ~7u;
    return at;
}

static uint32_t place_string(struct arena *arena, const char *string)
{
    return place(arena, string, guest_strlen(string) + 1);
}

/* Copies a piece of the file to its address and zeroes up to `memory` bytes; tracks the end. */
static const char *put_segment(const struct guest_ram *ram, const struct guest_file *file,
                               uint64_t offset, uint64_t bytes, uint64_t address, uint64_t memory,
                               uint64_t *end)
{
    if (memory < bytes)
        memory = bytes;
    if (offset > file->bytes || bytes > file->bytes - offset)
        return "the kernel file is cut short";
    if (address > ram->low_bytes || memory > ram->low_bytes - address)
        return "the kernel does not fit into guest memory";
    memcpy(ram->low + address, file->data + offset, bytes);
    memset(ram->low + address + bytes, 0, memory - bytes);
    if (address + memory > *end)
        *end = address + memory;
    return NULL;
}

static const char *load_flat(const struct guest_ram *ram, const struct guest_file *file,
                             uint64_t at, uint64_t *entry, uint64_t *end)
{
    const uint8_t *h = file->data + at;
    uint64_t header, load, load_end, bss_end, offset, bytes;

    if (at + 32 > file->bytes)
        return "the kernel file is cut short";
    header = get32(h + 12);
    load = get32(h + 16);
    load_end = get32(h + 20);
    bss_end = get32(h + 24);
    if (load > header || header - load > at)
        return "the multiboot header's addresses do not fit the file";
    offset = at - (header - load);
    bytes = load_end ? load_end - load : file->bytes - offset;
    if (load_end && load_end < load)
        return "the multiboot header's addresses do not fit the file";
    *entry = get32(h + 28);
    return put_segment(ram, file, offset, bytes, load, bss_end > load ? bss_end - load : 0, end);
}

/* ELF32 and ELF64 differ in the places and widths of a few fields. */
static const char *load_elf(const struct guest_ram *ram, const struct guest_file *file,
                            uint64_t *entry, uint64_t *end)
{
    const uint8_t *f = file->data;
    bool wide;
    uint64_t table, size, count;

    if (file->bytes < 64 || get32(f) != 0x464c457f)
        return "the multiboot kernel is neither ELF nor does its header give addresses";
    wide = f[4] == 2;
    *entry = wide ? get64(f + 24) : get32(f + 24);
    table = wide ? get64(f + 32) : get32(f + 28);
    size = get16(f + (wide ? 54 : 42));
    count = get16(f + (wide ? 56 : 44));
    if (size < (wide ? 56 : 32) || table > file->bytes || count * size > file->bytes - table)
        return "the kernel's program headers are damaged";
    for (uint64_t i = 0; i < count; i++) {
        const uint8_t *p = f + table + i * size;
        uint64_t vaddr = wide ? get64(p + 16) : get32(p + 8);
        uint64_t paddr = wide ? get64(p + 24) : get32(p + 12);
        uint64_t memory = wide ? get64(p + 40) : get32(p + 20);
        const char *why;

        if (get32(p) != 1 || !memory)
            continue;
        why = put_segment(ram, file, wide ? get64(p + 8) : get32(p + 4),
                          wide ? get64(p + 32) : get32(p + 16), paddr, memory, end);
        if (why)
            return why;
        /* The entry may be given as a virtual address; we start without paging. */
        if (paddr != vaddr && *entry >= vaddr && *entry - vaddr < memory)
            *entry = *entry - vaddr + paddr;
    }
    return NULL;
}

static const char *place_modules(const struct guest_ram *ram, const struct guest_image *image,
                                 struct arena *arena, uint8_t *info, uint64_t end)
{
    uint32_t table = place(arena, NULL, 16u * image->modules);

    for (unsigned i = 0; i < image->modules && !arena->full; i++) {
        const struct guest_file *m = &image->module[i];
        uint8_t *entry = ram->low + table + 16 * i;

        end = (end + 0xfff) & ~0xfffull;
        if (end > ram->low_bytes || m->bytes > ram->low_bytes - end)
            return "the modules do not fit into guest memory";
        memcpy(ram->low + end, m->data, m->bytes);
        put32(entry, (uint32_t)end);
        put32(entry + 4, (uint32_t)(end + m->bytes));
        put32(entry + 8, place_string(arena, m->string));
        put32(entry + 12, 0);
        end += m->bytes;
    }
    put32(info + 20, image->modules);
    put32(info + 24, table);
    return NULL;
}

static void place_map(const struct guest_ram *ram, struct arena *arena, uint8_t *info)
{
    struct guest_range ranges[GUEST_RANGES];
    unsigned count = guest_map(ram, ranges);
    uint32_t map = place(arena, NULL, 24 * count);

    for (unsigned i = 0; i < count && !arena->full; i++) {
        uint8_t *entry = ram->low + map + 24 * i;
        put32(entry, 20); /* size of the rest */
        put64(entry + 4, ranges[i].address);
        put64(entry + 12, ranges[i].bytes);
        put32(entry + 20, ranges[i].type);
    }
    put32(info + 44, 24 * count);
    put32(info + 48, map);
}

static const char *fill_info(const struct guest_ram *ram, const struct guest_image *image,
                             uint64_t kernel_end)
{
    struct arena arena = {.low = ram->low, .next = INFO};
    uint8_t *info = ram->low + place(&arena, NULL, 116);
    const char *why;

    memset(info, 0, 116);
    put32(info, INFO_MEMORY | INFO_DEVICE | INFO_COMMAND_LINE | INFO_MODULES | INFO_MAP |
                    INFO_LOADER_NAME);
    put32(info + 4, GUEST_LOW_END >> 10);
    put32(info + 8, (uint32_t)((ram->low_bytes - 0x100000) >> 10));
    put32(info + 12, 0x8000ffff); /* first hard disk, no partition */
    put32(info + 16, place_string(&arena, image->kernel.string));
    put32(info + 64, place_string(&arena, "virtx"));
    why = place_modules(ram, image, &arena, info, kernel_end > 0x100000 ? kernel_end : 0x100000);
    if (why)
        return why;
    place_map(ram, &arena, info);
    return arena.full ? "the strings of kernel and modules are too long" : NULL;
}

const char *multiboot_load(const struct guest_ram *ram, const struct guest_image *image,
                           struct guest_start *start)
{
    const struct guest_file *kernel = &image->kernel;
    int64_t at = find_header(kernel);
    uint64_t entry = 0, end = 0;
    uint32_t flags;
    const char *why;

    if (at < 0)
        return "the kernel has no multiboot header";
    flags = get32(kernel->data + at + 4);
    if (flags & HEADER_UNSUPPORTED)
        return "the kernel asks for something that Multiboot does not define";
    if (flags & HEADER_ADDRESSES)
        why = load_flat(ram, kernel, (uint64_t)at, &entry, &end);
    else
        why = load_elf(ram, kernel, &entry, &end);
    if (!why)
        why = fill_info(ram, image, end);
    *start = (struct guest_start){.preset = VIRTX_PRESET_FLAT32, .rip = entry, .rax = BOOT_MAGIC,
                                  .rbx = INFO};
    return why;
}
