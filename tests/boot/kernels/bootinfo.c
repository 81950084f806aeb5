/* SPDX-License-Identifier: BSD-2-Clause */
/* What the loader told: printed for comparison with other loaders, and checked. */
#include "kernel.h"

extern char kernel_start[], kernel_end[];

enum { MEMORY = 1, CMDLINE = 4, MODULES = 8, MMAP = 0x40, LOADER = 0x200 };

static void line(const char *name, uint64_t value)
{
    print(name);
    print(" ");
    print_hex(value);
    print("\n");
}

static uint32_t sum_of(const struct boot_module *m)
{
    uint32_t sum = 0;

    for (uint32_t p = m->start; p < m->end; p++)
        sum = sum * 31 + *(const uint8_t *)at(p);
    return sum;
}

void show_information(void)
{
    const struct boot_info *info = boot_info;
    const struct boot_module *m = at(info->mods_addr);

    line("magic", boot_state.magic);
    line("flags", info->flags);
    line("info", boot_state.info);
    line("mem_lower", info->mem_lower);
    line("mem_upper", info->mem_upper);
    line("boot_device", info->boot_device);
    line("eflags", boot_state.eflags);
    line("cr0", boot_state.cr0);
    if (info->flags & CMDLINE) {
        print("cmdline ");
        print(at(info->cmdline));
        print("\n");
    }
    if (info->flags & LOADER) {
        print("loader ");
        print(at(info->boot_loader_name));
        print("\n");
    }
    line("kernel_end", (uintptr_t)kernel_end);
    if (info->flags & MODULES) {
        line("modules", info->mods_count);
        for (uint32_t i = 0; i < info->mods_count; i++, m++) {
            line("module.start", m->start);
            line("module.bytes", m->end - m->start);
            line("module.sum", sum_of(m));
            print("module.string ");
            print(at(m->string));
            print("\n");
        }
    }
    if (info->flags & MMAP)
        for (uint32_t p = info->mmap_addr; p < info->mmap_addr + info->mmap_length;) {
            const struct boot_mmap *e = at(p);
            print("map ");
            print_hex(e->address);
            print(" ");
            print_hex(e->bytes);
            line("", e->type);
            p += e->size + 4;
        }
}

/* Byte i of a module is made from its seed; tests/boot/kernels/run makes them the same way. */
static void check_module(const struct boot_module *m)
{
    const char *string = at(m->string), *seed = find_word(string, "seed");
    const char *bytes = find_word(string, "bytes");

    REQUIRE(seed && bytes);
    REQUIRE(m->end - m->start == number(bytes));
    REQUIRE(!(m->start & 0xfff)); /* our header asks for it */
    REQUIRE(m->start >= (uintptr_t)kernel_end || m->end <= (uintptr_t)kernel_start);
    for (uint32_t i = 0; i < m->end - m->start; i++)
        REQUIRE(((const uint8_t *)at(m->start))[i] == (uint8_t)(i * 13 + (i >> 8) + number(seed)));
}

/* Whether a range is RAM of the map, all of it. */
static bool in_map(uint64_t from, uint64_t bytes)
{
    for (uint32_t p = boot_info->mmap_addr; p < boot_info->mmap_addr + boot_info->mmap_length;) {
        const struct boot_mmap *e = at(p);
        if (e->type == 1 && from >= e->address && from + bytes <= e->address + e->bytes)
            return true;
        p += e->size + 4;
    }
    return false;
}

static void check_memory(const char *cmdline)
{
    const char *megabytes = find_word(cmdline, "memory");
    uint32_t expected;

    REQUIRE(boot_info->flags & MEMORY && boot_info->flags & MMAP);
    REQUIRE(boot_info->mem_lower == 639 || boot_info->mem_lower == 640);
    REQUIRE(megabytes);
    expected = (number(megabytes) - 1) << 10;
    REQUIRE(boot_info->mem_upper <= expected && boot_info->mem_upper > expected - 512);
    REQUIRE(in_map(0, 0x90000));
    REQUIRE(in_map(0x100000, (uint64_t)boot_info->mem_upper << 10));
    REQUIRE(!in_map(0xf0000, 1));
    REQUIRE(!in_map((uint64_t)number(megabytes) << 20, 1));
    REQUIRE(in_map((uintptr_t)kernel_start, (uint64_t)(kernel_end - kernel_start)));
    /* The ends of memory hold what is written there. */
    volatile uint32_t *last = at((boot_info->mem_upper << 10) + 0x100000 - 4);
    *last = 0x12345678;
    REQUIRE(*last == 0x12345678);
}

void check_information(const char *cmdline)
{
    static uint8_t zero[8192]; /* .bss: the loader clears it */
    const char *count = find_word(cmdline, "modules"), *name = find_word(cmdline, "name");
    const struct boot_module *m = at(boot_info->mods_addr);
    const char *last = cmdline;

    REQUIRE(boot_state.magic == 0x2badb002);
    REQUIRE(!(boot_state.eflags & 0x20200)); /* VM, IF */
    REQUIRE((boot_state.cr0 & 0x80000001) == 1);
    REQUIRE(boot_state.base == 0);
    REQUIRE(boot_state.seen_by_segments == 5);
    REQUIRE(boot_state.a20 == 1);
    for (unsigned i = 0; i < sizeof(zero); i++)
        REQUIRE(!((volatile uint8_t *)zero)[i]);
    /* The first word is the program's name: the end of its path is what the caller says. */
    for (const char *p = cmdline; *p && *p != ' '; p++)
        if (*p == '/')
            last = p + 1;
    REQUIRE(name && same_word(last, name));
    check_memory(cmdline);
    REQUIRE(count);
    if (number(count))
        REQUIRE(boot_info->flags & MODULES && boot_info->mods_count == number(count));
    else
        REQUIRE(!(boot_info->flags & MODULES) || !boot_info->mods_count);
    for (unsigned i = 0; i < number(count); i++)
        check_module(m + i);
    REQUIRE(boot_info->flags & LOADER && *(const char *)at(boot_info->boot_loader_name));
}
