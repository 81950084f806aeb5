/* SPDX-License-Identifier: BSD-2-Clause */
/* ELF kernels of both widths (System V ABI, "Object Files"; AMD64 supplement). */
#include "elf.h"

enum { SEGMENT_LOAD = 1, SEGMENT_NOTE = 4 };

/* What the two widths of ELF files have in different places. */
struct elf {
    bool wide;
    uint64_t entry, table;
    unsigned size, count;
};

struct elf_segment {
    uint32_t type;
    uint64_t offset, vaddr, paddr, bytes, memory;
};

bool elf_is(const struct guest_file *file)
{
    return file->bytes >= 64 && get32(file->data) == 0x464c457f;
}

bool elf_is_wide(const struct guest_file *file)
{
    return file->data[4] == 2;
}

static const char *read_header(const struct guest_file *file, struct elf *elf)
{
    enum { LITTLE_ENDIAN = 1, MACHINE_386 = 3, MACHINE_X86_64 = 62 };
    const uint8_t *f = file->data;
    unsigned machine;

    if (!elf_is(file))
        return "the multiboot kernel is neither ELF nor does its header give addresses";
    machine = get16(f + 18);
    elf->wide = elf_is_wide(file);
    if (f[5] != LITTLE_ENDIAN ||
        !((f[4] == 1 && machine == MACHINE_386) || (elf->wide && machine == MACHINE_X86_64)))
        return "the ELF kernel is for another processor";
    elf->entry = elf->wide ? get64(f + 24) : get32(f + 24);
    elf->table = elf->wide ? get64(f + 32) : get32(f + 28);
    elf->size = get16(f + (elf->wide ? 54 : 42));
    elf->count = get16(f + (elf->wide ? 56 : 44));
    if (elf->size < (elf->wide ? 56u : 32u) || elf->table > file->bytes ||
        (uint64_t)elf->count * elf->size > file->bytes - elf->table)
        return "the kernel's program headers are damaged";
    return NULL;
}

static struct elf_segment read_segment(const struct guest_file *file, const struct elf *elf,
                                       unsigned index)
{
    const uint8_t *p = file->data + elf->table + (uint64_t)index * elf->size;

    if (elf->wide)
        return (struct elf_segment){.type = get32(p),
                                    .offset = get64(p + 8),
                                    .vaddr = get64(p + 16),
                                    .paddr = get64(p + 24),
                                    .bytes = get64(p + 32),
                                    .memory = get64(p + 40)};
    return (struct elf_segment){.type = get32(p),
                                .offset = get32(p + 4),
                                .vaddr = get32(p + 8),
                                .paddr = get32(p + 12),
                                .bytes = get32(p + 16),
                                .memory = get32(p + 20)};
}

const char *elf_load(const struct guest_ram *ram, const struct guest_file *file, uint64_t *entry,
                     struct guest_extent *extent)
{
    struct elf elf;
    bool found = false, physical = false;
    const char *why = read_header(file, &elf);

    for (unsigned i = 0; !why && i < elf.count; i++) {
        struct elf_segment s = read_segment(file, &elf, i);
        if (s.type != SEGMENT_LOAD || !s.memory)
            continue;
        why = guest_put(ram, file, s.offset, s.bytes, s.paddr, s.memory, extent);
        /* The entry is a virtual address, and the kernel starts without paging; Linux, whose entry
         * is for such loaders only, makes it a physical one. */
        if (!found && elf.entry >= s.vaddr && elf.entry - s.vaddr < s.memory) {
            *entry = elf.entry - s.vaddr + s.paddr;
            found = true;
        }
        physical |= elf.entry >= s.paddr && elf.entry - s.paddr < s.memory;
    }
    if (!why && !found && physical)
        *entry = elf.entry;
    return why || found || physical ? why : "the kernel's entry point is in none of its segments";
}

/* ---- Notes ---- */

static bool same(const uint8_t *a, const char *b, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (a[i] != (uint8_t)b[i])
            return false;
    return true;
}

static bool find_note(const uint8_t *notes, uint64_t bytes, const char *name, uint32_t type,
                      uint64_t *value)
{
    size_t wanted = guest_strlen(name) + 1;
    uint64_t at = 0;

    while (bytes - at >= 12) {
        const uint8_t *note = notes + at;
        uint64_t name_bytes = get32(note), value_bytes = get32(note + 4);
        uint64_t value_at = 12 + ((name_bytes + 3) & ~3ull);
        uint64_t next = value_at + ((value_bytes + 3) & ~3ull);

        if (value_at + value_bytes > bytes - at)
            return false;
        if (name_bytes == wanted && get32(note + 8) == type && same(note + 12, name, wanted) &&
            (value_bytes == 4 || value_bytes == 8)) {
            *value = value_bytes == 8 ? get64(note + value_at) : get32(note + value_at);
            return true;
        }
        if (next > bytes - at)
            return false;
        at += next;
    }
    return false;
}

bool elf_note(const struct guest_file *file, const char *name, uint32_t type, uint64_t *value)
{
    struct elf elf;

    if (!elf_is(file) || read_header(file, &elf))
        return false;
    for (unsigned i = 0; i < elf.count; i++) {
        struct elf_segment s = read_segment(file, &elf, i);
        if (s.type == SEGMENT_NOTE && s.offset <= file->bytes &&
            s.bytes <= file->bytes - s.offset &&
            find_note(file->data + s.offset, s.bytes, name, type, value))
            return true;
    }
    return false;
}
