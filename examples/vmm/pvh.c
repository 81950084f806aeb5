/* SPDX-License-Identifier: BSD-2-Clause */
/* Loads ELF kernels that have a PVH entry point (Xen documentation, "x86/HVM direct boot ABI"). */
#include "elf.h"
#include "guest.h"

void *memset(void *to, int value, size_t bytes);

enum {
    PHYS32_ENTRY = 18, /* the note's type */
    MAGIC = 0x336ec578,
    INFO = 0x9000,
    INFO_END = 0x9f000,
    INFO_BYTES = 56,
    MODULE_BYTES = 32,
    RANGE_BYTES = 24,
};

bool pvh_is(const struct guest_file *kernel)
{
    uint64_t entry;

    return elf_note(kernel, "Xen", PHYS32_ENTRY, &entry);
}

static void describe_modules(const struct guest_image *image, const uint64_t *start,
                             struct guest_arena *arena, uint8_t *info)
{
    uint32_t table = guest_place(arena, (uint64_t)MODULE_BYTES * image->modules);

    for (unsigned i = 0; i < image->modules; i++) {
        uint32_t string = guest_place_string(arena, guest_arguments(image->module[i].string));
        if (arena->full)
            return;
        uint8_t *entry = arena->low + table + (size_t)MODULE_BYTES * i;
        put64(entry, start[i]);
        put64(entry + 8, image->module[i].bytes);
        put64(entry + 16, string);
        put64(entry + 24, 0);
    }
    put32(info + 12, image->modules);
    put64(info + 16, image->modules ? table : 0);
}

static void describe_memory(const struct guest_ram *ram, struct guest_arena *arena, uint8_t *info)
{
    struct guest_range ranges[GUEST_RANGES];
    unsigned count = guest_map(ram, ranges);
    uint32_t map = guest_place(arena, (uint64_t)RANGE_BYTES * count);

    for (unsigned i = 0; i < count && !arena->full; i++) {
        uint8_t *entry = arena->low + map + (size_t)RANGE_BYTES * i;
        put64(entry, ranges[i].address);
        put64(entry + 8, ranges[i].bytes);
        put32(entry + 16, ranges[i].type);
        put32(entry + 20, 0);
    }
    put64(info + 40, map);
    put32(info + 48, count);
}

const char *pvh_load(const struct guest_ram *ram, const struct guest_image *image,
                     struct guest_start *start)
{
    struct guest_arena arena = {.low = ram->low, .next = INFO, .end = INFO_END};
    struct guest_extent extent = {.end = 0x100000};
    uint64_t modules[GUEST_MAX_FILES], unused, entry;
    const char *why;
    uint8_t *info;
    uint32_t at;

    if (!elf_note(&image->kernel, "Xen", PHYS32_ENTRY, &entry))
        return "the kernel has no PVH entry point";
    why = elf_load(ram, &image->kernel, &unused, &extent);
    if (why)
        return why;
    if (extent.in_low_memory)
        return "a PVH kernel below 1 MiB is not supported";
    if (!guest_is_low_ram(ram, entry, 1))
        return "the kernel's PVH entry point is outside of guest memory";
    why = guest_put_modules(ram, image, modules, &extent.end);
    if (why)
        return why;
    at = guest_place(&arena, INFO_BYTES);
    info = ram->low + at;
    memset(info, 0, INFO_BYTES);
    put32(info, MAGIC);
    put32(info + 4, 1);
    put64(info + 24, guest_place_string(&arena, guest_arguments(image->kernel.string)));
    put64(info + 32, image->rsdp);
    describe_modules(image, modules, &arena, info);
    describe_memory(ram, &arena, info);
    if (arena.full)
        return "the strings of kernel and modules are too long";
    *start = (struct guest_start){.preset = VIRTX_PRESET_FLAT32, .rip = entry, .rbx = at};
    return NULL;
}
