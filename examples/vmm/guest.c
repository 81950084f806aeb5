/* SPDX-License-Identifier: BSD-2-Clause */
/* What all loaders share: the map of guest memory, and what a PC's firmware leaves in it. */
#include "elf.h"
#include "guest.h"

void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memset(void *to, int value, size_t bytes);

size_t guest_strlen(const char *string)
{
    size_t length = 0;
    while (string[length])
        length++;
    return length;
}

unsigned guest_map(const struct guest_ram *ram, struct guest_range ranges[GUEST_RANGES])
{
    unsigned count = 0;

    ranges[count++] = (struct guest_range){0, GUEST_LOW_END, 1};
    ranges[count++] = (struct guest_range){GUEST_LOW_END, GUEST_HOLE - GUEST_LOW_END, 2};
    ranges[count++] = (struct guest_range){GUEST_FIRMWARE, 0x100000 - GUEST_FIRMWARE, 2};
    ranges[count++] = (struct guest_range){0x100000, ram->low_bytes - 0x100000, 1};
    if (ram->high_bytes)
        ranges[count++] = (struct guest_range){GUEST_HIGH, ram->high_bytes, 1};
    return count;
}

static void set_vector(uint8_t *low, unsigned vector, uint32_t address)
{
    put32(low + 4 * vector, (address & 0xf0000) << 12 | (address & 0xffff));
}

/* What a BIOS does at an interrupt of the PICs at the least: their EOI; at the timer's it counts
 * and calls INT 1CH. */
static void interrupt_handlers(uint8_t *low)
{
    /* push ax; mov al, 20h; out 20h, al; pop ax; iret */
    static const uint8_t first[] = {0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf};
    /* push ax; mov al, 20h; out 0a0h, al; out 20h, al; pop ax; iret */
    static const uint8_t second[] = {0x50, 0xb0, 0x20, 0xe6, 0xa0, 0xe6, 0x20, 0x58, 0xcf};
    /* push ds; push ax; xor ax, ax; mov ds, ax; inc dword [46ch]; int 1ch; mov al, 20h; out 20h,
     * al; pop ax; pop ds; iret */
    static const uint8_t timer[] = {0x1e, 0x50, 0x31, 0xc0, 0x8e, 0xd8, 0x66, 0xff, 0x06, 0x6c,
                                    0x04, 0xcd, 0x1c, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0x1f, 0xcf};
    enum {
        FIRST = GUEST_NO_BIOS + 0x10,
        SECOND = GUEST_NO_BIOS + 0x20,
        TIMER = GUEST_NO_BIOS + 0x30
    };

    memcpy(low + FIRST, first, sizeof(first));
    memcpy(low + SECOND, second, sizeof(second));
    memcpy(low + TIMER, timer, sizeof(timer));
    for (unsigned i = 0; i < 8; i++) {
        set_vector(low, GUEST_PIC_VECTORS + i, i ? FIRST : TIMER);
        set_vector(low, GUEST_PIC2_VECTORS + i, SECOND);
    }
}

void guest_bios_data(uint8_t *low)
{
    /* push bp; mov bp, sp; or byte [bp + 6], 1; pop bp; iret */
    static const uint8_t no_bios[] = {0x55, 0x89, 0xe5, 0x80, 0x4e, 0x06, 0x01, 0x5d, 0xcf};
    enum { COM1 = 0x400, EBDA = 0x40e, EQUIPMENT = 0x410, MEMORY = 0x413, ONE_COM = 0x200 };

    put16(low + COM1, 0x3f8);
    put16(low + EBDA, GUEST_LOW_END >> 4);
    put16(low + EQUIPMENT, ONE_COM);
    put16(low + MEMORY, GUEST_LOW_END >> 10);
    low[GUEST_LOW_END] = (GUEST_HOLE - GUEST_LOW_END) >> 10;
    memcpy(low + GUEST_NO_BIOS, no_bios, sizeof(no_bios));
    for (unsigned vector = 0; vector < 256; vector++)
        set_vector(low, vector, GUEST_NO_BIOS);
    interrupt_handlers(low);
}

bool guest_is_low_ram(const struct guest_ram *ram, uint64_t address, uint64_t bytes)
{
    if (address < 0x100000)
        return address <= GUEST_LOW_END && bytes <= GUEST_LOW_END - address;
    return address <= ram->low_bytes && bytes <= ram->low_bytes - address;
}

const char *guest_load(const struct guest_ram *ram, const struct guest_image *image,
                       struct guest_start *start)
{
    const struct guest_file *kernel = &image->kernel;

    if (linux_is(kernel))
        return linux_load(ram, image, start);
    if (multiboot_is(kernel))
        return multiboot_load(ram, image, start);
    if (multiboot2_is(kernel))
        return multiboot2_load(ram, image, start);
    if (pvh_is(kernel))
        return pvh_load(ram, image, start);
    if (elf_is(kernel))
        return linux_load_elf(ram, image, start);
    return "the kernel is neither a Linux bzImage nor a multiboot kernel nor an ELF file (a disk's "
           "or a "
           "CD's image is started by a firmware: --firmware and --disk)";
}

const char *guest_arguments(const char *string)
{
    while (*string && *string != ' ')
        string++;
    return *string ? string + 1 : string;
}

/* ---- For loaders ---- */

const char *guest_put(const struct guest_ram *ram, const struct guest_file *file, uint64_t offset,
                      uint64_t bytes, uint64_t address, uint64_t memory,
                      struct guest_extent *extent)
{
    if (offset > file->bytes || bytes > file->bytes - offset)
        return "the kernel file is cut short";
    if (memory < bytes)
        return "the kernel's size in memory is smaller than that in the file";
    if (!guest_is_low_ram(ram, address, memory))
        return "the kernel does not fit into guest memory";
    memcpy(ram->low + address, file->data + offset, bytes);
    memset(ram->low + address + bytes, 0, memory - bytes);
    if (address + memory > extent->end)
        extent->end = address + memory;
    extent->in_low_memory |= address < 0x100000;
    return NULL;
}

const char *guest_put_flat(const struct guest_ram *ram, const struct guest_file *file, uint64_t at,
                           const struct guest_addresses *addresses, struct guest_extent *extent)
{
    static const char lie[] = "the multiboot header's addresses do not fit the file";
    const struct guest_addresses *a = addresses;
    uint64_t offset, bytes;

    if (a->load > a->header || a->header - a->load > at || (a->load_end && a->load_end < a->load))
        return lie;
    offset = at - (a->header - a->load);
    bytes = a->load_end ? a->load_end - a->load : file->bytes - offset;
    if (a->bss_end && a->bss_end < a->load)
        return lie;
    return guest_put(ram, file, offset, bytes, a->load, a->bss_end ? a->bss_end - a->load : bytes,
                     extent);
}

const char *guest_put_modules(const struct guest_ram *ram, const struct guest_image *image,
                              uint64_t start[GUEST_MAX_FILES], uint64_t *end)
{
    for (unsigned i = 0; i < image->modules; i++) {
        const struct guest_file *m = &image->module[i];

        *end = (*end + 0xfff) & ~0xfffull;
        if (*end > ram->low_bytes || m->bytes > ram->low_bytes - *end)
            return "the modules do not fit into guest memory";
        memcpy(ram->low + *end, m->data, m->bytes);
        start[i] = *end;
        *end += m->bytes;
    }
    return NULL;
}

uint32_t guest_place(struct guest_arena *arena, uint64_t bytes)
{
    uint64_t at = arena->next;

    if (arena->full || bytes > arena->end - at) {
        arena->full = true;
        return 0;
    }
    arena->next = (at + bytes + 7) & ~7ull;
    if (arena->next > arena->end)
        arena->next = arena->end;
    return (uint32_t)at;
}

uint32_t guest_place_string(struct guest_arena *arena, const char *string)
{
    size_t bytes = guest_strlen(string) + 1;
    uint32_t at = guest_place(arena, bytes);

    if (!arena->full)
        memcpy(arena->low + at, string, bytes);
    return at;
}
