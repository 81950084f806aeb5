/* SPDX-License-Identifier: BSD-2-Clause */
/* Loads flat, ELF32 and ELF64 kernels by the Multiboot2 Specification, version 2.0, in i386
 * protected mode. There is no screen, no EFI, and a kernel is not relocated. */
#include "elf.h"
#include "guest.h"

void *memcpy(void *restrict to, const void *restrict from, size_t bytes);

enum {
    HEADER_MAGIC = (int)0xe85250d6,
    HEADER_SEARCH = 32768,
    HEADER_BYTES = 16,
    BOOT_MAGIC = 0x36d76289,

    /* Tags of the header. */
    END = 0,
    REQUEST = 1,
    ADDRESSES = 2,
    ENTRY = 3,
    CONSOLE = 4,
    SCREEN = 5,
    ALIGN = 6,
    EFI_SERVICES = 7,
    EFI_ENTRY_32 = 8,
    EFI_ENTRY_64 = 9,
    RELOCATABLE = 10,
    OPTIONAL = 1,
    REQUEST_LAST = 21, /* no kind of information beyond is defined */

    /* Tags of the information. */
    COMMAND_LINE = 1,
    LOADER_NAME = 2,
    MODULE = 3,
    MEMORY = 4,
    MAP = 6,
    OLD_RSDP = 14,
    NEW_RSDP = 15,

    INFO = 0x9000,
    INFO_END = 0x9f000,
};

/* The header's position in the file, or -1. */
static int64_t find_header(const struct guest_file *file)
{
    for (uint64_t at = 0; at + HEADER_BYTES <= file->bytes && at + HEADER_BYTES <= HEADER_SEARCH;
         at += 8) {
        const uint8_t *h = file->data + at;
        if (get32(h) == (uint32_t)HEADER_MAGIC &&
            get32(h) + get32(h + 4) + get32(h + 8) + get32(h + 12) == 0)
            return (int64_t)at;
    }
    return -1;
}

bool multiboot2_is(const struct guest_file *kernel)
{
    return find_header(kernel) >= 0;
}

/* ---- The header ---- */

struct wishes {
    struct guest_addresses addresses;
    uint64_t entry;
    bool has_addresses, has_entry;
};

static const char *read_tag(const uint8_t *tag, uint32_t bytes, uint64_t header_at,
                            struct wishes *wishes)
{
    bool optional = get16(tag + 2) & OPTIONAL;

    switch (get16(tag)) {
    case REQUEST:
        for (uint32_t i = 8; !optional && i + 4 <= bytes; i += 4)
            if (get32(tag + i) > REQUEST_LAST)
                return "the kernel wants information that Multiboot2 does not define";
        return NULL;
    case ADDRESSES:
        if (bytes < 24)
            return "the multiboot2 header is damaged";
        wishes->has_addresses = true;
        wishes->addresses = (struct guest_addresses){get32(tag + 8), get32(tag + 12),
                                                     get32(tag + 16), get32(tag + 20)};
        if (get32(tag + 12) == UINT32_MAX) /* the file from its beginning */
            wishes->addresses.load = get32(tag + 8) - header_at;
        return NULL;
    case ENTRY:
        if (bytes < 12)
            return "the multiboot2 header is damaged";
        wishes->has_entry = true;
        wishes->entry = get32(tag + 8);
        return NULL;
    case CONSOLE:
    case SCREEN: /* there is none, and the kernel is told of none */
    case ALIGN:
    case EFI_SERVICES:
    case EFI_ENTRY_32:
    case EFI_ENTRY_64:
    case RELOCATABLE:
        return NULL;
    default:
        return optional ? NULL : "the kernel asks for something that Multiboot2 does not define";
    }
}

static const char *read_header(const struct guest_file *file, uint64_t header_at,
                               struct wishes *wishes)
{
    const uint8_t *h = file->data + header_at;
    uint64_t length = get32(h + 8), at = HEADER_BYTES;
    const char *why = NULL;

    if (get32(h + 4) != 0)
        return "the kernel is for another processor";
    if (length > file->bytes - header_at)
        return "the kernel file is cut short";
    while (!why && at + 8 <= length && get16(h + at) != END) {
        uint32_t bytes = get32(h + at + 4);

        if (bytes < 8 || bytes > length - at)
            return "the multiboot2 header is damaged";
        why = read_tag(h + at, bytes, header_at, wishes);
        at += (bytes + 7ull) & ~7ull;
    }
    return why;
}

/* ---- The information ---- */

/* A tag with room for `bytes` behind its type and size; NULL: the arena is full. */
static uint8_t *put_tag(struct guest_arena *arena, uint32_t type, uint64_t bytes)
{
    uint32_t at = guest_place(arena, 8 + bytes);
    uint8_t *tag = arena->low + at;

    if (arena->full)
        return NULL;
    put32(tag, type);
    put32(tag + 4, (uint32_t)(8 + bytes));
    return tag + 8;
}

static void put_string(struct guest_arena *arena, uint32_t type, const char *string)
{
    size_t bytes = guest_strlen(string) + 1;
    uint8_t *to = put_tag(arena, type, bytes);

    if (to)
        memcpy(to, string, bytes);
}

static void put_modules(struct guest_arena *arena, const struct guest_image *image,
                        const uint64_t *start)
{
    for (unsigned i = 0; i < image->modules; i++) {
        const char *string = guest_arguments(image->module[i].string);
        size_t bytes = guest_strlen(string) + 1;
        uint8_t *to = put_tag(arena, MODULE, 8 + bytes);

        if (!to)
            return;
        put32(to, (uint32_t)start[i]);
        put32(to + 4, (uint32_t)(start[i] + image->module[i].bytes));
        memcpy(to + 8, string, bytes);
    }
}

static void put_memory(struct guest_arena *arena, const struct guest_ram *ram)
{
    enum { ENTRY_BYTES = 24 };
    struct guest_range ranges[GUEST_RANGES];
    unsigned count = guest_map(ram, ranges);
    uint8_t *to = put_tag(arena, MEMORY, 8);

    if (to) {
        put32(to, GUEST_LOW_END >> 10);
        put32(to + 4, (uint32_t)((ram->low_bytes - 0x100000) >> 10));
    }
    to = put_tag(arena, MAP, 8 + (uint64_t)ENTRY_BYTES * count);
    if (!to)
        return;
    put32(to, ENTRY_BYTES);
    put32(to + 4, 0); /* version */
    to += 8;
    for (unsigned i = 0; i < count; i++, to += ENTRY_BYTES) {
        put64(to, ranges[i].address);
        put64(to + 8, ranges[i].bytes);
        put32(to + 16, ranges[i].type);
        put32(to + 20, 0);
    }
}

static void put_rsdp(struct guest_arena *arena, const struct guest_ram *ram, uint64_t rsdp)
{
    enum { OLD_BYTES = 20, NEW_BYTES = 36 };
    uint8_t *old, *new;

    if (!rsdp)
        return;
    old = put_tag(arena, OLD_RSDP, OLD_BYTES);
    new = put_tag(arena, NEW_RSDP, NEW_BYTES);
    if (new) {
        memcpy(old, ram->low + rsdp, OLD_BYTES);
        memcpy(new, ram->low + rsdp, NEW_BYTES);
    }
}

/* Returns its address, 0: the parts find no room. */
static uint32_t put_info(const struct guest_ram *ram, const struct guest_image *image,
                         const uint64_t *start, struct guest_arena *arena)
{
    uint32_t at = guest_place(arena, 8);

    put_string(arena, COMMAND_LINE, guest_arguments(image->kernel.string));
    put_string(arena, LOADER_NAME, "virtx");
    put_modules(arena, image, start);
    put_memory(arena, ram);
    put_rsdp(arena, ram, image->rsdp);
    put_tag(arena, END, 0);
    if (arena->full)
        return 0;
    put32(ram->low + at, (uint32_t)(arena->next - at));
    put32(ram->low + at + 4, 0);
    return at;
}

const char *multiboot2_load(const struct guest_ram *ram, const struct guest_image *image,
                            struct guest_start *start)
{
    const struct guest_file *kernel = &image->kernel;
    struct guest_arena arena = {.low = ram->low, .next = INFO, .end = INFO_END};
    struct guest_extent extent = {.end = 0x100000};
    uint64_t modules[GUEST_MAX_FILES], entry = 0;
    struct wishes wishes = {.has_entry = false};
    int64_t at = find_header(kernel);
    const char *why;

    if (at < 0)
        return "the kernel has no multiboot2 header";
    why = read_header(kernel, (uint64_t)at, &wishes);
    if (!why && wishes.has_addresses)
        why = wishes.has_entry
                  ? guest_put_flat(ram, kernel, (uint64_t)at, &wishes.addresses, &extent)
                  : "the multiboot2 header gives addresses but no entry";
    else if (!why)
        why = elf_load(ram, kernel, &entry, &extent);
    if (!why)
        why = guest_put_modules(ram, image, modules, &extent.end);
    if (why)
        return why;
    if (extent.in_low_memory) {
        arena.next = (extent.end + 0xfff) & ~0xfffull;
        arena.end = ram->low_bytes > arena.next ? ram->low_bytes : arena.next;
    }
    *start = (struct guest_start){.preset = VIRTX_PRESET_FLAT32,
                                  .rip = wishes.has_entry ? wishes.entry : entry,
                                  .rax = BOOT_MAGIC,
                                  .after_bios = true};
    start->rbx = put_info(ram, image, modules, &arena);
    return start->rbx ? NULL : "the strings of kernel and modules are too long";
}
