/* SPDX-License-Identifier: BSD-2-Clause */
/* The VMM's loaders against the Multiboot Specification 0.6.96 and "The Linux/x86 Boot Protocol".
 * Files and guest memory are exact heap blocks, so that the address sanitizer sees every access
 * outside of them. */
#include "guest.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#define MIB 0x100000ull
#define LOW (16 * MIB)

static struct guest_ram ram;
static struct guest_image image;
static struct guest_start start;
static uint8_t *file; /* the kernel being made */

static void setup(void)
{
    ram = (struct guest_ram){.low = calloc(1, LOW), .low_bytes = LOW};
    image = (struct guest_image){.rsdp = 0xe0000, .kernel.string = "kernel arg=1 x"};
    file = NULL;
}

static void teardown(void)
{
    free(ram.low);
    free(file);
}

/* What kernels without a BIOS find of one. */
START_TEST(bios_data)
{
    uint32_t vector;

    guest_bios_data(ram.low);
    ck_assert_uint_eq(get16(ram.low + 0x40e) << 4, GUEST_LOW_END);
    ck_assert_uint_eq(get16(ram.low + 0x413) << 10, GUEST_LOW_END);
    ck_assert_uint_eq(get16(ram.low + 0x400), 0x3f8);
    ck_assert_uint_eq(get16(ram.low + 0x410) >> 9 & 7, 1); /* one serial port */
    ck_assert_uint_eq(ram.low[GUEST_LOW_END], 1);          /* KiB to the end of low memory */
    vector = get32(ram.low + 4 * 0x15);
    ck_assert_uint_eq(get32(ram.low + 4 * 0xff), vector);
    ck_assert_uint_eq((vector >> 16 << 4) + (vector & 0xffff), GUEST_NO_BIOS);
    ck_assert_uint_eq(ram.low[GUEST_NO_BIOS + 8], 0xcf); /* IRET */
}
END_TEST

static bool has(const uint8_t *code, size_t bytes, uint32_t pattern, size_t length)
{
    for (size_t i = 0; i + length <= bytes; i++)
        if (!memcmp(code + i, &pattern, length))
            return true;
    return false;
}

/* The PICs' interrupts are ended: MOV AL, 20H and then OUT 20H, AL; behind IRQ 8 to 15 also OUT
 * 0A0H, AL. The timer's counts at 46CH. */
START_TEST(bios_interrupts)
{
    guest_bios_data(ram.low);
    for (unsigned i = 0; i < 16; i++) {
        uint32_t vector = get32(ram.low + 4 * ((i < 8 ? 0x08 : 0x68) + i));
        const uint8_t *code = ram.low + (vector >> 16 << 4) + (vector & 0xffff);
        const uint8_t *end = memchr(code, 0xcf, 24);
        size_t bytes = (size_t)(end - code);

        ck_assert_ptr_nonnull(end);
        ck_assert(has(code, bytes, 0x20b0, 2));
        ck_assert(has(code, bytes, 0x20e6, 2));
        ck_assert(has(code, bytes, 0xa0e6, 2) == (i >= 8));
        ck_assert(has(code, bytes, 0x046c06ff, 4) == (i == 0));
    }
}
END_TEST

static void new_file(size_t bytes)
{
    free(file);
    file = calloc(1, bytes);
    image.kernel.data = file;
    image.kernel.bytes = bytes;
}

/* The same file, cut or padded to another length. */
static void resize(size_t bytes)
{
    uint8_t *other = calloc(1, bytes ? bytes : 1);

    memcpy(other, file, bytes < image.kernel.bytes ? bytes : image.kernel.bytes);
    free(file);
    image.kernel.data = file = other;
    image.kernel.bytes = bytes;
}

static const char *string_at(uint32_t address)
{
    ck_assert_uint_lt(address, LOW);
    return (const char *)ram.low + address;
}

/* ---- Multiboot ---- */

enum { CODE = 0x40, FLAT_BYTES = 0x1000 };

static void put_header(size_t at, uint32_t flags)
{
    put32(file + at, 0x1badb002);
    put32(file + at + 4, flags);
    put32(file + at + 8, 0u - 0x1badb002 - flags);
}

static void put_addresses(size_t at, uint32_t header, uint32_t load, uint32_t load_end,
                          uint32_t bss_end, uint32_t entry)
{
    put32(file + at + 12, header);
    put32(file + at + 16, load);
    put32(file + at + 20, load_end);
    put32(file + at + 24, bss_end);
    put32(file + at + 28, entry);
}

static void make_flat(void)
{
    new_file(FLAT_BYTES);
    memset(file, 0x90, FLAT_BYTES);
    put_header(0, 0x10003);
    put_addresses(0, MIB, MIB, 0, 0, MIB + CODE);
}

static const char *load(void)
{
    ck_assert(multiboot_is(&image.kernel));
    return multiboot_load(&ram, &image, &start);
}

static void must_load(void)
{
    const char *why = load();
    ck_assert_msg(!why, "%s", why);
}

static void must_fail(const char *part)
{
    const char *why = load();
    ck_assert_msg(why && strstr(why, part), "expected \"%s\", got \"%s\"", part, why ? why : "");
}

static const uint8_t *info(void)
{
    return ram.low + start.rbx;
}

START_TEST(flat_at_its_address)
{
    make_flat();
    memset(ram.low + MIB, 0xee, 0x4000);
    must_load();
    ck_assert_mem_eq(ram.low + MIB, file, FLAT_BYTES);
    ck_assert_uint_eq(ram.low[MIB + FLAT_BYTES], 0xee);
    ck_assert_uint_eq(start.preset, VIRTX_PRESET_FLAT32);
    ck_assert_uint_eq(start.rip, MIB + CODE);
    ck_assert_uint_eq(start.rax, 0x2badb002);
    ck_assert_uint_eq(start.gdt, 0);
}
END_TEST

START_TEST(flat_with_all_fields)
{
    new_file(0x3000);
    memset(file, 0x55, 0x3000);
    put_header(0x1ff4, 0x10000); /* the last place where 12 bytes fit into 8192 … */
    put_addresses(0x1ff4, 2 * MIB + 0x14, 2 * MIB - 0x1000, 2 * MIB, 2 * MIB + 0x800, 2 * MIB + 8);
    memset(ram.low + MIB, 0xee, MIB + 0x2000);
    must_load();
    /* … and the file's part begins 0x1014 bytes before the header. */
    ck_assert_mem_eq(ram.low + 2 * MIB - 0x1000, file + 0x1ff4 - 0x1014, 0x1000);
    for (unsigned i = 0; i < 0x800; i++)
        ck_assert_uint_eq(ram.low[2 * MIB + i], 0);
    ck_assert_uint_eq(ram.low[2 * MIB + 0x800], 0xee);
    ck_assert_uint_eq(ram.low[2 * MIB - 0x1001], 0xee);
    ck_assert_uint_eq(start.rip, 2 * MIB + 8);
}
END_TEST

START_TEST(header_is_found_where_it_may_be)
{
    make_flat();
    file[8] ^= 1; /* checksum */
    ck_assert(!multiboot_is(&image.kernel));
    new_file(0x4000);
    put_header(6, 0);
    ck_assert(!multiboot_is(&image.kernel)); /* not aligned */
    new_file(0x4000);
    put_header(0x1ff8, 0);
    ck_assert(!multiboot_is(&image.kernel)); /* reaches over the first 8192 bytes */
    new_file(12);
    put_header(0, 0);
    ck_assert(multiboot_is(&image.kernel));
    must_fail("neither ELF");
    new_file(11);
    ck_assert(!multiboot_is(&image.kernel));
    image.kernel.bytes = 0;
    ck_assert(!multiboot_is(&image.kernel));
    ck_assert_ptr_nonnull(multiboot_load(&ram, &image, &start));
}
END_TEST

START_TEST(mandatory_flags)
{
    static const uint32_t refused[] = {8, 0x8000, 0x100};

    make_flat();
    for (unsigned i = 0; i < 3; i++) {
        put_header(0, 0x10003 | refused[i]);
        must_fail("does not define");
    }
    put_header(0, 0x10007); /* video: there is none, and the kernel is told so */
    must_load();
    ck_assert_uint_eq(get32(info()) & 0x1800, 0);
    put_header(0, 0x7fff0003 & ~0xfff8u); /* optional bits */
    must_load();
}
END_TEST

START_TEST(information)
{
    const uint8_t *map;
    uint64_t ram_bytes = 0;

    make_flat();
    ram.high_bytes = 64 * MIB;
    must_load();
    ck_assert_uint_eq(get32(info()), 0x24f); /* memory, device, line, modules, map, loader */
    ck_assert_uint_eq(get32(info() + 4), 639);
    ck_assert_uint_eq(get32(info() + 8), 15 * 1024);
    ck_assert_uint_eq(get32(info() + 12), 0x8000ffff);
    ck_assert_str_eq(string_at(get32(info() + 16)), "kernel arg=1 x");
    ck_assert_uint_eq(get32(info() + 20), 0);
    ck_assert_uint_gt(strlen(string_at(get32(info() + 64))), 0);
    map = ram.low + get32(info() + 48);
    ck_assert_uint_eq(get32(info() + 44), 5 * 24);
    for (unsigned i = 0; i < 5; i++, map += 24) {
        ck_assert_uint_eq(get32(map), 20);
        if (get32(map + 20) == 1)
            ram_bytes += get64(map + 12);
    }
    ck_assert_uint_eq(ram_bytes, 0x9fc00 + LOW - MIB + 64 * MIB);
    ck_assert_uint_eq(get64(map - 20), 0x100000000);
}
END_TEST

START_TEST(modules_with_their_strings)
{
    static const uint8_t data[3][5000] = {{1}, {2}, {3}};
    static const uint32_t bytes[3] = {5000, 0, 1};
    static const char *const strings[] = {"a first", "/dir/b", "c"};
    uint64_t end = MIB + FLAT_BYTES;
    const uint8_t *table;

    make_flat();
    put_addresses(0, MIB, MIB, 0, MIB + 0x2345, MIB);
    image.modules = 3;
    for (unsigned i = 0; i < 3; i++)
        image.module[i] = (struct guest_file){data[i], bytes[i], strings[i]};
    must_load();
    end = MIB + 0x2345;
    ck_assert_uint_eq(get32(info() + 20), 3);
    table = ram.low + get32(info() + 24);
    for (unsigned i = 0; i < 3; i++, table += 16) {
        uint32_t at = get32(table);
        ck_assert_uint_eq(at % 4096, 0);
        ck_assert_uint_ge(at, end);
        end = get32(table + 4);
        ck_assert_uint_eq(end - at, bytes[i]);
        ck_assert_mem_eq(ram.low + at, data[i], bytes[i]);
        ck_assert_str_eq(string_at(get32(table + 8)), strings[i]);
        ck_assert_uint_eq(get32(table + 12), 0);
    }
}
END_TEST

START_TEST(as_many_modules_as_there_may_be)
{
    make_flat();
    image.modules = GUEST_MAX_FILES;
    for (unsigned i = 0; i < GUEST_MAX_FILES; i++)
        image.module[i] = (struct guest_file){(const uint8_t *)"x", 1, "m"};
    must_load();
    ck_assert_uint_eq(get32(info() + 20), GUEST_MAX_FILES);
}
END_TEST

START_TEST(information_keeps_off_a_low_kernel)
{
    make_flat();
    put_addresses(0, 0x8000, 0x8000, 0, 0x9fc00, 0x8040);
    image.modules = 1;
    image.module[0] = (struct guest_file){(const uint8_t *)"abcd", 4, "m"};
    must_load();
    ck_assert_mem_eq(ram.low + 0x8000, file, FLAT_BYTES);
    ck_assert_uint_ge(start.rbx, MIB);
    ck_assert_uint_ge(get32(info() + 24), MIB);
    ck_assert_mem_eq(ram.low + get32(ram.low + get32(info() + 24)), "abcd", 4);
    put_addresses(0, 0x9f000, 0x9f000, 0, 0, 0x9f040);
    must_fail("does not fit");
    put_addresses(0, 0xb8000, 0xb8000, 0, 0, 0xb8000);
    must_fail("does not fit");
}
END_TEST

START_TEST(too_large)
{
    static uint8_t big[LOW];
    char *text;

    make_flat();
    put_addresses(0, LOW - FLAT_BYTES, LOW - FLAT_BYTES, 0, 0, LOW - 1);
    must_load();
    put_addresses(0, LOW - FLAT_BYTES + 1, LOW - FLAT_BYTES + 1, 0, 0, LOW - 1);
    must_fail("does not fit");
    make_flat();
    put_addresses(0, MIB, MIB, 0, (uint32_t)LOW + 1, MIB);
    must_fail("does not fit");
    make_flat();
    image.modules = 1;
    image.module[0] = (struct guest_file){big, LOW - MIB - FLAT_BYTES, "m"};
    must_load();
    image.module[0].bytes++;
    must_fail("modules do not fit");
    image.module[0].bytes = 1;
    text = malloc(MIB);
    memset(text, 'x', MIB - 1);
    text[MIB - 1] = 0;
    image.module[0].string = text;
    must_fail("strings");
    image.module[0].string = "m";
    image.kernel.string = text;
    must_fail("strings");
    free(text);
}
END_TEST

START_TEST(flat_addresses_that_lie)
{
    static const uint32_t lies[][5] = {
        /* header, load, load_end, bss_end, entry */
        {MIB, MIB + 1, 0, 0, MIB}, /* the file's part would begin behind the header */
        {MIB + 4, MIB, 0, 0, MIB}, /* … before the file */
        {0xffffffff, 0, 0, 0, 0},
        {MIB, MIB, MIB - 1, 0, MIB},
        {MIB, MIB, MIB + FLAT_BYTES + 1, 0, MIB}, /* more than the file has */
        {MIB, MIB, 0xffffffff, 0, MIB},
        {MIB, MIB, 0, MIB + FLAT_BYTES - 1, MIB}, /* .bss ends before the data */
        {MIB, MIB, 0, MIB - 1, MIB},
        {MIB, MIB, 0, 0xffffffff, MIB},
        {0xffffffff, 0xffffffff, 0, 0, 0},
        {0xfffff000, 0xfffff000, 0, 0x10, 0},
    };

    make_flat();
    put_addresses(0, lies[_i][0], lies[_i][1], lies[_i][2], lies[_i][3], lies[_i][4]);
    ck_assert_ptr_nonnull(load());
}
END_TEST

START_TEST(flat_cut_short)
{
    make_flat();
    put_addresses(0, MIB, MIB, MIB + FLAT_BYTES, 0, MIB);
    must_load();
    for (size_t bytes = FLAT_BYTES - 1; bytes >= 12; bytes = bytes * 7 / 8) {
        resize(bytes);
        must_fail("cut short");
    }
}
END_TEST

/* ---- ELF ---- */

enum { ELF_BYTES = 0x2000, TABLE = 0x80, DATA = 0x1000 };

struct segment {
    uint64_t offset, vaddr, paddr, bytes, memory;
};

static void put_segment(unsigned i, bool wide, const struct segment *s)
{
    uint8_t *p = file + TABLE + (wide ? 56u : 32u) * i;

    put32(p, 1);
    if (wide) {
        put64(p + 8, s->offset);
        put64(p + 16, s->vaddr);
        put64(p + 24, s->paddr);
        put64(p + 32, s->bytes);
        put64(p + 40, s->memory);
    } else {
        put32(p + 4, (uint32_t)s->offset);
        put32(p + 8, (uint32_t)s->vaddr);
        put32(p + 12, (uint32_t)s->paddr);
        put32(p + 16, (uint32_t)s->bytes);
        put32(p + 20, (uint32_t)s->memory);
    }
}

static void make_elf(bool wide, uint64_t entry, unsigned count, const struct segment *segments)
{
    new_file(ELF_BYTES);
    memset(file + DATA, 0x90, ELF_BYTES - DATA);
    memcpy(file, "\177ELF", 4);
    file[4] = wide ? 2 : 1;
    file[5] = file[6] = 1;
    put16(file + 16, 2);
    put16(file + 18, wide ? 62 : 3);
    put32(file + 20, 1);
    if (wide) {
        put64(file + 24, entry);
        put64(file + 32, TABLE);
        put16(file + 54, 56);
        put16(file + 56, count);
    } else {
        put32(file + 24, (uint32_t)entry);
        put32(file + 28, TABLE);
        put16(file + 42, 32);
        put16(file + 44, count);
    }
    for (unsigned i = 0; i < count; i++)
        put_segment(i, wide, &segments[i]);
    put_header(0x800, 3);
}

static const struct segment plain[] = {
    {DATA, MIB, MIB, 0x800, 0x900},
    {DATA + 0x800, 3 * MIB, 2 * MIB, 0x100, 0x100}, /* lies elsewhere than it runs */
};

START_TEST(elf_of_both_widths)
{
    for (unsigned wide = 0; wide < 2; wide++) {
        make_elf(wide, MIB + 0x10, 2, plain);
        memset(ram.low + MIB, 0xee, 2 * MIB);
        must_load();
        ck_assert_mem_eq(ram.low + MIB, file + DATA, 0x800);
        ck_assert_uint_eq(ram.low[MIB + 0x8ff], 0);
        ck_assert_uint_eq(ram.low[MIB + 0x900], 0xee);
        ck_assert_mem_eq(ram.low + 2 * MIB, file + DATA + 0x800, 0x100);
        ck_assert_uint_eq(ram.low[2 * MIB + 0x100], 0xee);
        ck_assert_uint_eq(start.rip, MIB + 0x10);
        ck_assert_uint_eq(start.preset, VIRTX_PRESET_FLAT32);
    }
}
END_TEST

START_TEST(elf_entry_is_virtual)
{
    static const struct segment chain[] = {
        {DATA, 0xffffffff80100000, MIB, 0x100, 0x100},
        {DATA, MIB, 2 * MIB, 0x100, 0x100}, /* contains the first one's physical entry */
    };

    make_elf(true, 0xffffffff80100010, 2, chain);
    must_load();
    ck_assert_uint_eq(start.rip, MIB + 0x10);
    make_elf(true, 4 * MIB, 2, chain);
    must_fail("entry point");
    make_elf(false, 3 * MIB + 4, 2, plain);
    must_load();
    ck_assert_uint_eq(start.rip, 2 * MIB + 4);
}
END_TEST

START_TEST(elf_only_loads_what_is_to_be_loaded)
{
    make_elf(false, MIB, 2, plain);
    put32(file + TABLE + 32, 4); /* a note */
    put32(file + TABLE + 32 + 12, 0xffffffff);
    must_load();
    make_elf(false, MIB, 2, plain);
    put32(file + TABLE + 32 + 12, 0xffffffff);
    must_fail("does not fit");
    put32(file + TABLE + 32 + 16, 0);
    put32(file + TABLE + 32 + 20, 0); /* an empty segment may be anywhere */
    must_load();
}
END_TEST

START_TEST(elf_segments_that_lie)
{
    static const struct segment lies[] = {
        {ELF_BYTES, MIB, MIB, 1, 1},      {DATA, MIB, MIB, ELF_BYTES - DATA + 1, MIB},
        {~0ull, MIB, MIB, 1, 1},          {DATA, MIB, MIB, ~0ull, ~0ull},
        {1, MIB, MIB, ~0ull, ~0ull},      {DATA, MIB, MIB, 0x100, 0xff},
        {DATA, MIB, LOW, 1, 1},           {DATA, MIB, LOW - 1, 1, 2},
        {DATA, MIB, ~0ull, 1, 2},         {DATA, MIB, ~0ull - 0xfff, 0x1000, 0x1000},
        {DATA, MIB, 0x100000000, 1, 1},   {DATA, MIB, 0x100100000, 0x100, 0x100},
        {DATA, MIB, MIB, 0x100, ~0ull},   {DATA, MIB, 0xa0000, 0x100, 0x100},
        {DATA, MIB, 0x90000, 0x100, MIB},
    };

    make_elf(true, MIB, 1, &lies[_i]);
    ck_assert_ptr_nonnull(load());
    make_elf(false, MIB, 1, &lies[_i]);
    load(); /* the same in 32 bits may be a good one */
}
END_TEST

START_TEST(elf_headers_that_lie)
{
    for (unsigned wide = 0; wide < 2; wide++) {
        make_elf(wide, MIB, 2, plain);
        put16(file + (wide ? 56 : 44), 0xffff); /* count */
        must_fail("damaged");
        make_elf(wide, MIB, 2, plain);
        put16(file + (wide ? 54 : 42), wide ? 55 : 31); /* size */
        must_fail("damaged");
        put16(file + (wide ? 54 : 42), 0xffff);
        must_fail("damaged");
        make_elf(wide, MIB, 2, plain);
        put32(file + (wide ? 32 : 28), 0xffffffff); /* table */
        must_fail("damaged");
        make_elf(wide, MIB, 2, plain);
        put16(file + 18, 40); /* ARM */
        must_fail("another processor");
        make_elf(wide, MIB, 2, plain);
        file[5] = 2; /* big endian */
        must_fail("another processor");
        make_elf(wide, MIB, 2, plain);
        file[4] = 3;
        must_fail("another processor");
        make_elf(wide, MIB, 0, plain);
        must_fail("entry point");
    }
    make_elf(true, MIB, 2, plain);
    put64(file + 32, ~0ull - 0x10);
    must_fail("damaged");
}
END_TEST

START_TEST(elf_cut_short)
{
    for (unsigned wide = 0; wide < 2; wide++) {
        make_elf(wide, MIB, 2, plain);
        for (size_t bytes = DATA + 0x8ff; bytes >= 0x80c; bytes = bytes * 15 / 16) {
            resize(bytes);
            ck_assert_ptr_nonnull(load());
        }
    }
}
END_TEST

/* ---- Linux ---- */

enum { SETUP = 0x400, KERNEL_BYTES = 0x1000, INIT_SIZE = 0x20000, PARAMS = 0x90000 };

static void make_linux(void)
{
    new_file(SETUP + KERNEL_BYTES);
    memset(file + SETUP, 0x90, KERNEL_BYTES);
    file[0x1f1] = SETUP / 512 - 1;
    put32(file + 0x1f4, KERNEL_BYTES / 16);
    put16(file + 0x1fe, 0xaa55);
    file[0x200] = 0xeb;
    file[0x201] = 0x66; /* the header ends at 0x268 */
    put32(file + 0x202, 0x53726448);
    put16(file + 0x206, 0x20f);
    file[0x211] = 1;
    put32(file + 0x22c, 0x7fffffff);
    put32(file + 0x230, 0x200000);
    file[0x234] = 1;
    put16(file + 0x236, 1);
    put32(file + 0x238, 2047);
    put64(file + 0x258, 2 * MIB);
    put32(file + 0x260, INIT_SIZE);
}

static const char *load_linux(void)
{
    ck_assert(linux_is(&image.kernel));
    return linux_load(&ram, &image, &start);
}

static void linux_must_fail(const char *part)
{
    const char *why = load_linux();
    ck_assert_msg(why && strstr(why, part), "expected \"%s\", got \"%s\"", part, why ? why : "");
}

static uint64_t walk(uint64_t address)
{
    uint64_t entry = start.cr3;

    for (int shift = 39; shift >= 21; shift -= 9) {
        entry = get64(ram.low + (entry & ~0xfffull) + 8 * (address >> shift & 511));
        ck_assert_uint_eq(entry & 3, 3);
    }
    ck_assert_uint_eq(entry & 0x80, 0x80);
    return (entry & ~0x1fffffull) | (address & 0x1fffff);
}

START_TEST(linux_start_state)
{
    make_linux();
    ck_assert_ptr_null(load_linux());
    ck_assert_uint_eq(start.preset, VIRTX_PRESET_FLAT64);
    ck_assert_uint_eq(start.rip, 2 * MIB + 0x200);
    ck_assert_uint_eq(start.rsi, PARAMS);
    ck_assert_mem_eq(ram.low + 2 * MIB, file + SETUP, KERNEL_BYTES);
    for (uint64_t address = 0; address < 1ull << 32; address += 0x1ff000)
        ck_assert_uint_eq(walk(address), address);
    /* "CS must be __BOOT_CS and DS, ES, SS must be __BOOT_DS", with descriptors behind them. */
    ck_assert_uint_eq(start.cs, 0x10);
    ck_assert_uint_eq(start.ds, 0x18);
    ck_assert_uint_eq(start.gdt_limit, 0x1f);
    ck_assert_uint_eq(get64(ram.low + start.gdt), 0);
    ck_assert_uint_eq(get64(ram.low + start.gdt + 0x10) >> 40, 0x00af9b);
    ck_assert_uint_eq(get64(ram.low + start.gdt + 0x18) >> 40, 0x00cf93);
}
END_TEST

/* "The 32-bit boot protocol": protected mode without paging, ESI, and flat segments of these
 * selectors. */
static void check_entry_32(uint64_t entry)
{
    ck_assert_uint_eq(start.preset, VIRTX_PRESET_FLAT32);
    ck_assert_uint_eq(start.rip, entry);
    ck_assert_uint_eq(start.rsi, PARAMS);
    ck_assert_uint_eq(start.rbx | start.cr3, 0);
    ck_assert_uint_eq(start.cs, 0x10);
    ck_assert_uint_eq(start.ds, 0x18);
    ck_assert_uint_eq(get64(ram.low + start.gdt + 0x10) >> 40, 0x00cf9b);
    ck_assert_uint_eq(get64(ram.low + start.gdt + 0x18) >> 40, 0x00cf93);
}

START_TEST(linux_32_bit_entry)
{
    make_linux();
    put16(file + 0x236, 2); /* no 64-bit entry */
    ck_assert_ptr_null(load_linux());
    check_entry_32(2 * MIB);
    ck_assert_mem_eq(ram.low + 2 * MIB, file + SETUP, KERNEL_BYTES);
    make_linux();
    put16(file + 0x206, 0x20b); /* these flags mean nothing yet */
    ck_assert_ptr_null(load_linux());
    check_entry_32(2 * MIB);
    put16(file + 0x206, 0x209); /* nor does the preferred address */
    put64(file + 0x258, 8 * MIB);
    ck_assert_ptr_null(load_linux());
    check_entry_32(MIB);
    ck_assert_mem_eq(ram.low + MIB, file + SETUP, KERNEL_BYTES);
    put16(file + 0x206, 0x203);
    put32(file + 0x1f4, 0x12340000 | KERNEL_BYTES / 16); /* the upper half is something else */
    ck_assert_ptr_null(load_linux());
    check_entry_32(MIB);
    ck_assert_uint_eq(get16(ram.low + PARAMS + 2), 15 * 1024);
    ck_assert_uint_eq(get32(ram.low + PARAMS + 0x1e0), 15 * 1024);
}
END_TEST

START_TEST(linux_old_versions)
{
    static uint8_t data[16];
    const uint8_t *params = ram.low + PARAMS;
    char text[300];

    make_linux();
    put16(file + 0x206, 0x201);
    file[0x201] = 0x22; /* the header ends before the command line's address */
    put32(file + 0x22c, 0);
    image.modules = 1;
    image.module[0] = (struct guest_file){data, 16, "a"};
    ck_assert_ptr_null(load_linux());
    check_entry_32(MIB);
    ck_assert_uint_eq(get32(params + 0x228), 0);
    ck_assert_uint_eq(get16(params + 0x20), 0xa33f);
    ck_assert_str_eq(string_at(PARAMS + get16(params + 0x22)), "arg=1 x");
    ck_assert_uint_eq(get32(params + 0x218), LOW - 0x1000); /* no limit but that of the version */
    put16(file + 0x206, 0x205);
    memset(text, 'x', sizeof(text));
    memcpy(text, "k ", 2);
    text[2 + 255] = 0;
    image.kernel.string = text;
    image.modules = 0;
    ck_assert_ptr_null(load_linux()); /* 255 is all there may be before version 2.06 */
    text[2 + 255] = 'x';
    text[2 + 256] = 0;
    linux_must_fail("command line");
}
END_TEST

START_TEST(linux_zimage)
{
    make_linux();
    put16(file + 0x206, 0x200);
    file[0x211] = 0;
    ck_assert_ptr_null(load_linux());
    check_entry_32(0x1000);
    ck_assert_mem_eq(ram.low + 0x1000, file + SETUP, KERNEL_BYTES);
    resize(SETUP + 0x8f000);
    ck_assert_ptr_null(load_linux());
    ck_assert_uint_eq(get32(ram.low + PARAMS + 0x202), 0x53726448);
    resize(SETUP + 0x8f001);
    linux_must_fail("zImage");
}
END_TEST

START_TEST(linux_zero_page)
{
    const uint8_t *params = ram.low + PARAMS;

    make_linux();
    memset(ram.low + PARAMS, 0xee, 0x1000);
    memset(file + 0x1e0, 0xdd, 0x10); /* before the header: not copied */
    ram.high_bytes = 128 * MIB;
    ck_assert_ptr_null(load_linux());
    ck_assert_uint_eq(get64(params + 0x70), 0xe0000);
    ck_assert_uint_eq(params[0x1ef], 0); /* the sentinel */
    ck_assert_mem_eq(params + 0x202, file + 0x202, 0x0e);
    ck_assert_uint_eq(params[0x210], 0xff);
    ck_assert_mem_eq(params + 0x230, file + 0x230, 0x38);
    for (unsigned i = 0x268; i < 0x2d0; i++)
        ck_assert_uint_eq(params[i], 0);
    ck_assert_str_eq(string_at(get32(params + 0x228)), "arg=1 x"); /* without the name */
    ck_assert_uint_eq(get32(params + 0x218), 0);
    ck_assert_uint_eq(get32(params + 0x21c), 0);
    ck_assert_uint_eq(params[0x1e8], 5);
    ck_assert_uint_eq(get64(params + 0x2d0 + 3 * 20), MIB);
    ck_assert_uint_eq(get64(params + 0x2d0 + 3 * 20 + 8), LOW - MIB);
    ck_assert_uint_eq(get32(params + 0x2d0 + 3 * 20 + 16), 1);
    ck_assert_uint_eq(get64(params + 0x2d0 + 4 * 20), 0x100000000);
    ck_assert_uint_eq(get64(params + 0x2d0 + 4 * 20 + 8), 128 * MIB);
}
END_TEST

START_TEST(linux_longest_header_keeps_the_map)
{
    make_linux();
    file[0x201] = 0xff;
    memset(file + 0x268, 0xdd, SETUP - 0x268);
    ck_assert_ptr_null(load_linux());
    ck_assert_uint_eq(ram.low[PARAMS + 0x28f], 0xdd);
    ck_assert_uint_eq(ram.low[PARAMS + 0x290], 0);
    ck_assert_uint_eq(get64(ram.low + PARAMS + 0x2d0), 0);
}
END_TEST

START_TEST(linux_initrd)
{
    static uint8_t data[LOW];
    const uint8_t *params = ram.low + PARAMS;
    uint32_t at;

    make_linux();
    memset(data, 0x77, sizeof(data));
    image.modules = 2;
    image.module[0] = (struct guest_file){data, 4097, "a"};
    image.module[1] = (struct guest_file){data, 3, "b"};
    ck_assert_ptr_null(load_linux());
    at = get32(params + 0x218);
    ck_assert_uint_eq(get32(params + 0x21c), 4100 + 4);
    ck_assert_uint_eq(at % 4096, 0);
    ck_assert_uint_eq(at, LOW - 0x2000); /* as high as can be */
    ck_assert_mem_eq(ram.low + at, data, 4097);
    ck_assert_uint_eq(ram.low[at + 4097], 0);
    ck_assert_mem_eq(ram.low + at + 4100, data, 3);
    put32(file + 0x22c, 8 * MIB - 1); /* the kernel wants it lower */
    ck_assert_ptr_null(load_linux());
    ck_assert_uint_eq(get32(params + 0x218), 8 * MIB - 0x2000);
    put32(file + 0x22c, 0xffffffff);
    image.module[0].bytes = LOW - 2 * MIB - INIT_SIZE - 4;
    ck_assert_ptr_null(load_linux());
    image.module[0].bytes++;
    linux_must_fail("ramdisk");
    put32(file + 0x22c, 0);
    image.module[0].bytes = 1;
    linux_must_fail("ramdisk");
    image.modules = 1;
    image.module[0].bytes = 0;
    ck_assert_ptr_null(load_linux());
}
END_TEST

START_TEST(linux_command_line_limits)
{
    char text[0x3000];

    make_linux();
    memset(text, 'x', sizeof(text));
    memcpy(text, "k ", 2);
    image.kernel.string = text;
    text[2 + 2047] = 0;
    ck_assert_ptr_null(load_linux());
    text[2 + 2047] = 'x';
    text[2 + 2048] = 0;
    linux_must_fail("command line");
    put32(file + 0x238, 0xffffffff); /* the kernel takes more than we have room for */
    ck_assert_ptr_null(load_linux());
    text[2 + 2048] = 'x';
    text[2 + 0x1fff] = 0;
    ck_assert_ptr_null(load_linux());
    text[2 + 0x1fff] = 'x';
    text[2 + 0x2000] = 0;
    linux_must_fail("command line");
    image.kernel.string = "name";
    ck_assert_ptr_null(load_linux());
    ck_assert_str_eq(string_at(get32(ram.low + PARAMS + 0x228)), "");
}
END_TEST

START_TEST(linux_kernels_that_cannot_be_loaded)
{
    static const uint64_t addresses[] = {
        0,          MIB - 1, LOW - INIT_SIZE + 1, LOW,         0xfffff000,
        1ull << 32, ~0ull,   ~0xfffull,           -0x20000ull, -0x21000ull};

    make_linux();
    put16(file + 0x206, 0x1ff);
    linux_must_fail("older");
    for (unsigned i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++) {
        make_linux();
        put64(file + 0x258, addresses[i]);
        linux_must_fail("too small");
    }
    make_linux();
    put32(file + 0x260, 0xffffffff);
    linux_must_fail("too small");
    put32(file + 0x260, 0); /* less than the file itself */
    put64(file + 0x258, LOW - KERNEL_BYTES + 1);
    linux_must_fail("too small");
    put64(file + 0x258, LOW - KERNEL_BYTES);
    ck_assert_ptr_null(load_linux());
}
END_TEST

START_TEST(linux_cut_short)
{
    make_linux();
    resize(SETUP + KERNEL_BYTES + 100); /* a signature behind it is welcome */
    ck_assert_ptr_null(load_linux());
    for (size_t bytes = SETUP + KERNEL_BYTES - 16; bytes > 0x400;
         bytes = 0x400 + (bytes - 0x400) / 2) {
        resize(bytes);
        linux_must_fail("cut short");
    }
    resize(0x400);
    ck_assert(!linux_is(&image.kernel));
    make_linux();
    file[0x1f1] = 0xff;
    linux_must_fail("cut short");
    file[0x1f1] = 0; /* means 4 */
    linux_must_fail("cut short");
    put32(file + 0x1f4, (KERNEL_BYTES - 0x600) / 16);
    ck_assert_ptr_null(load_linux());
    ck_assert_mem_eq(ram.low + 2 * MIB, file + 5 * 512, KERNEL_BYTES - 0x600);
    put32(file + 0x1f4, 0xffffffff);
    linux_must_fail("cut short");
}
END_TEST

/* ---- ELF files of other kinds ---- */

static const struct segment kernel_parts[] = {
    {DATA, 0xffffffff81000000, 2 * MIB, 0x800, 0x1800},
    {DATA + 0x800, 0, 3 * MIB, 0x100, 0x100}, /* as Linux has its per-processor data */
};

START_TEST(vmlinux)
{
    static const uint8_t data[] = "initramfs";

    for (unsigned wide = 0; wide < 2; wide++) {
        make_elf(wide, 2 * MIB + 0x40, 2, kernel_parts);
        put32(file + 0x800, 0); /* no multiboot header */
        image.modules = 1;
        image.module[0] = (struct guest_file){data, sizeof(data), "initrd"};
        ck_assert(!linux_is(&image.kernel) && !multiboot_is(&image.kernel) &&
                  !pvh_is(&image.kernel));
        ck_assert_ptr_null(guest_load(&ram, &image, &start));
        if (wide) {
            ck_assert_uint_eq(start.preset, VIRTX_PRESET_FLAT64);
            ck_assert_uint_eq(start.rip, 2 * MIB + 0x40);
            ck_assert_uint_eq(start.rsi, PARAMS);
            ck_assert_uint_eq(walk(3 * MIB), 3 * MIB);
        } else {
            check_entry_32(2 * MIB + 0x40);
        }
        ck_assert_mem_eq(ram.low + 2 * MIB, file + DATA, 0x800);
        ck_assert_str_eq(string_at(get32(ram.low + PARAMS + 0x228)), "arg=1 x");
        ck_assert_uint_eq(get16(ram.low + PARAMS + 0x1fe), 0xaa55);
        ck_assert_uint_eq(get32(ram.low + PARAMS + 0x202), 0x53726448);
        ck_assert_uint_ge(get16(ram.low + PARAMS + 0x206), 0x20c);
        ck_assert_mem_eq(ram.low + get32(ram.low + PARAMS + 0x218), data, sizeof(data));
    }
    make_elf(true, 2 * MIB + 0x1801, 1, kernel_parts); /* behind its segment */
    put32(file + 0x800, 0);
    ck_assert_ptr_nonnull(guest_load(&ram, &image, &start));
}
END_TEST

static void make_pvh(bool wide, uint32_t entry)
{
    uint8_t *p, *note;

    make_elf(wide, 0, 3,
             (const struct segment[]){
                 kernel_parts[0], kernel_parts[1], {0xa00, 0, 0, wide ? 0x40 : 0x3c, 0}});
    put32(file + 0x800, 0);
    p = file + TABLE + 2 * (wide ? 56 : 32);
    put32(p, 4);
    note = file + 0xa00; /* another note before it, whose value is no multiple of four */
    put32(note, 4);
    put32(note + 4, 6);
    put32(note + 8, 18);
    memcpy(note + 12, "GNU", 4);
    note += 24;
    put32(note, 4);
    put32(note + 4, wide ? 8 : 4);
    put32(note + 8, 18);
    memcpy(note + 12, "Xen", 4);
    put32(note + 16, entry);
    if (!wide) /* cut short in the file: the table says where the notes end */
        put32(p + 16, 24 + 20);
    else
        put64(p + 32, 24 + 24);
    put64(file + (wide ? 24 : 0x700), wide ? 0xffffffff81000010 : 0);
    if (!wide)
        put32(file + 24, 0x81000010);
}

START_TEST(pvh)
{
    static const uint8_t data[] = "module";
    const uint8_t *map, *list;

    for (unsigned wide = 0; wide < 2; wide++) {
        make_pvh(wide, 2 * MIB + 0x80);
        image.modules = 1;
        image.module[0] = (struct guest_file){data, sizeof(data), "m with words"};
        ck_assert(pvh_is(&image.kernel));
        ck_assert_ptr_null(guest_load(&ram, &image, &start));
        ck_assert_uint_eq(start.preset, VIRTX_PRESET_FLAT32);
        ck_assert_uint_eq(start.rip, 2 * MIB + 0x80);
        ck_assert_mem_eq(ram.low + 2 * MIB, file + DATA, 0x800);
        ck_assert_uint_eq(get32(info()), 0x336ec578);
        ck_assert_uint_eq(get32(info() + 4), 1);
        ck_assert_uint_eq(get32(info() + 12), 1);
        list = ram.low + get64(info() + 16);
        ck_assert_mem_eq(ram.low + get64(list), data, sizeof(data));
        ck_assert_uint_ge(get64(list), 2 * MIB + 0x1800);
        ck_assert_uint_eq(get64(list + 8), sizeof(data));
        ck_assert_str_eq(string_at(get32(list + 16)), "with words");
        ck_assert_str_eq(string_at(get32(info() + 24)), "arg=1 x");
        ck_assert_uint_eq(get64(info() + 32), 0xe0000);
        map = ram.low + get64(info() + 40);
        ck_assert_uint_eq(get32(info() + 48), 4);
        ck_assert_uint_eq(get64(map + 3 * 24), MIB);
        ck_assert_uint_eq(get64(map + 3 * 24 + 8), LOW - MIB);
        ck_assert_uint_eq(get32(map + 3 * 24 + 16), 1);
    }
    make_pvh(true, 0xa0000);
    ck_assert_ptr_nonnull(guest_load(&ram, &image, &start));
    make_pvh(true, (uint32_t)LOW);
    ck_assert_ptr_nonnull(guest_load(&ram, &image, &start));
    make_pvh(true, 2 * MIB);
    put32(file + 0xa00 + 24 + 4, 0xfffffff0); /* a note longer than all of them */
    ck_assert(!pvh_is(&image.kernel));
}
END_TEST

/* A multiboot2 header at 0x800 with these tags, each padded to 8 bytes, and the end. */
static void put_header_2(const uint32_t *tags, size_t words)
{
    uint8_t *h = file + 0x800;
    uint32_t length = 16 + 4 * (uint32_t)words + 8;

    memset(h, 0, length);
    put32(h, 0xe85250d6);
    put32(h + 8, length);
    put32(h + 12, 0u - 0xe85250d6 - length);
    for (size_t i = 0; i < words; i++)
        put32(h + 16 + 4 * i, tags[i]);
    put32(h + length - 4, 8);
}

/* The information of this type, after `before` others of it; NULL: there is none. */
static const uint8_t *find_info(uint32_t type, unsigned before)
{
    uint32_t total = get32(info());

    for (uint32_t at = 8; at < total; at += (get32(info() + at + 4) + 7) & ~7u) {
        ck_assert_uint_ge(get32(info() + at + 4), 8);
        ck_assert_uint_le(at + get32(info() + at + 4), total);
        if (get32(info() + at) == type && !before--)
            return info() + at;
    }
    return NULL;
}

static void multiboot2_must_fail(const uint32_t *tags, size_t words, const char *part)
{
    const char *why;

    make_elf(false, MIB, 2, plain);
    put_header_2(tags, words);
    why = guest_load(&ram, &image, &start);
    ck_assert_msg(why && strstr(why, part), "expected \"%s\", got \"%s\"", part, why ? why : "");
}

START_TEST(multiboot2)
{
    static const uint32_t tags[] = {
        1,       16, 6,  22,       /* information: the map; optional, below: anything */
        5,       20, 80, 25, 0, 0, /* a screen */
        0x10001, 12, 99, 0,        /* optional */
        0x10063, 8};               /* unknown and optional */
    static const uint32_t good[] = {1,       16, 6,  15, 5,       20, 80, 25, 0,          0,
                                    0x10001, 12, 99, 0,  0x10063, 8,  3,  12, MIB + 0x20, 0};
    const uint8_t *map;

    memcpy(ram.low + 0xe0000, "RSD PTR with more behind it", 27);
    image.modules = 2;
    image.module[0] = (struct guest_file){(const uint8_t *)"one", 3, "name of one"};
    image.module[1] = (struct guest_file){(const uint8_t *)"two", 3, "name"};
    make_elf(false, MIB, 2, plain);
    put_header_2(good, sizeof(good) / 4);
    ck_assert(multiboot2_is(&image.kernel) && !multiboot_is(&image.kernel));
    ck_assert_ptr_null(guest_load(&ram, &image, &start));
    ck_assert_uint_eq(start.preset, VIRTX_PRESET_FLAT32);
    ck_assert_uint_eq(start.rax, 0x36d76289);
    ck_assert_uint_eq(start.rip, MIB + 0x20);
    ck_assert_uint_eq(start.rbx % 8, 0);
    ck_assert_mem_eq(ram.low + MIB, file + DATA, 0x800);
    ck_assert_str_eq((const char *)find_info(1, 0) + 8, "arg=1 x");
    ck_assert_ptr_nonnull(find_info(2, 0));
    ck_assert_str_eq((const char *)find_info(3, 0) + 16, "of one");
    ck_assert_mem_eq(ram.low + get32(find_info(3, 1) + 8), "two", 3);
    ck_assert_uint_eq(get32(find_info(3, 1) + 12) - get32(find_info(3, 1) + 8), 3);
    ck_assert_ptr_null(find_info(3, 2));
    ck_assert_uint_eq(get32(find_info(4, 0) + 8), 639);
    ck_assert_uint_eq(get32(find_info(4, 0) + 12), 15 * 1024);
    map = find_info(6, 0);
    ck_assert_uint_eq(get32(map + 4), 16 + 4 * 24);
    ck_assert_uint_eq(get32(map + 8), 24);
    ck_assert_uint_eq(get64(map + 16 + 3 * 24), MIB);
    ck_assert_uint_eq(get32(map + 16 + 3 * 24 + 16), 1);
    ck_assert_mem_eq(find_info(14, 0) + 8, ram.low + 0xe0000, 20);
    ck_assert_mem_eq(find_info(15, 0) + 8, ram.low + 0xe0000, 36);
    ck_assert_ptr_nonnull(find_info(0, 0));
    multiboot2_must_fail(tags, sizeof(tags) / 4, "information");
}
END_TEST

START_TEST(multiboot2_flat)
{
    uint32_t tags[] = {2, 24, 2 * MIB + 0x800,  2 * MIB, 2 * MIB + 0x1800, 2 * MIB + 0x1900,
                       3, 12, 2 * MIB + 0x1000, 0};

    make_elf(false, MIB, 2, plain);
    put_header_2(tags, 10);
    memset(ram.low + 2 * MIB, 0xee, 0x2000);
    ck_assert_ptr_null(guest_load(&ram, &image, &start));
    ck_assert_uint_eq(start.rip, 2 * MIB + 0x1000);
    ck_assert_mem_eq(ram.low + 2 * MIB, file, 0x1800);
    ck_assert_uint_eq(ram.low[2 * MIB + 0x18ff], 0);
    ck_assert_uint_eq(ram.low[2 * MIB + 0x1900], 0xee);
    tags[3] = 0xffffffff; /* from the file's beginning */
    tags[4] = 0;
    tags[5] = 0;
    put_header_2(tags, 10);
    ck_assert_ptr_null(guest_load(&ram, &image, &start));
    ck_assert_mem_eq(ram.low + 2 * MIB, file, ELF_BYTES);
    multiboot2_must_fail(tags, 6, "no entry");
    tags[3] = 2 * MIB + 0x801;
    multiboot2_must_fail(tags, 10, "addresses");
}
END_TEST

START_TEST(multiboot2_headers_that_lie)
{
    multiboot2_must_fail((const uint32_t[]){11, 8}, 2, "does not define");
    multiboot2_must_fail((const uint32_t[]){6, 7}, 2, "damaged");
    multiboot2_must_fail((const uint32_t[]){6, 0xffffffff}, 2, "damaged");
    multiboot2_must_fail((const uint32_t[]){3, 8}, 2, "damaged");
    make_elf(false, MIB, 2, plain);
    put_header_2(NULL, 0);
    put32(file + 0x808, ELF_BYTES);
    put32(file + 0x80c, 0u - 0xe85250d6 - ELF_BYTES);
    ck_assert(strstr(guest_load(&ram, &image, &start), "cut short"));
    put_header_2(NULL, 0);
    put32(file + 0x804, 4); /* MIPS */
    put32(file + 0x80c, get32(file + 0x80c) - 4);
    ck_assert(strstr(guest_load(&ram, &image, &start), "another processor"));
    file[0x80c] ^= 1;
    ck_assert(!multiboot2_is(&image.kernel));
}
END_TEST

START_TEST(no_kernel)
{
    new_file(512);
    put16(file + 510, 0xaa55); /* a boot sector */
    ck_assert(strstr(guest_load(&ram, &image, &start), "--firmware"));
    resize(1);
    ck_assert_ptr_nonnull(guest_load(&ram, &image, &start));
}
END_TEST

/* ---- Damage of every kind ---- */

static uint64_t seed;

static uint64_t any(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

/* Changes some of the words that loaders read; extreme values are likelier than others. */
static void damage(size_t from, size_t bytes)
{
    static const uint32_t extremes[] = {0, 1, 0x7fffffff, 0x80000000, 0xffffffff, MIB, LOW - 1};

    for (unsigned i = 0; i < 1 + any() % 4; i++) {
        uint32_t value = any() & 1 ? (uint32_t)any() : extremes[any() % 7];
        put32(file + from + any() % (bytes - 3), value);
    }
}

START_TEST(damaged_files_do_no_harm)
{
    unsigned loaded = 0;

    seed = 0x9e3779b97f4a7c15 + (uint64_t)_i;
    image.modules = 1;
    image.module[0] = (struct guest_file){(const uint8_t *)"module", 6, "m"};
    for (unsigned i = 0; i < 3000; i++) {
        switch (any() % 7) {
        case 0:
            make_flat();
            damage(12, 20);
            break;
        case 1:
            make_elf(false, MIB, 2, plain);
            damage(0, TABLE + 2 * 32);
            break;
        case 2:
            make_elf(true, MIB, 2, plain);
            damage(0, TABLE + 2 * 56);
            break;
        case 3:
            make_pvh(any() & 1, 2 * MIB);
            damage(0, 0x1000);
            damage(0xa00, 0x40);
            break;
        case 5:
            make_elf(any() & 1, MIB, 2, plain);
            put_header_2((const uint32_t[]){1, 16, 6, 15, 3, 12, MIB, 0}, 8);
            damage(0, TABLE + 2 * 56);
            if (any() & 1) /* the checksum stays: two words change against each other */
                put32(file + 0x808, get32(file + 0x808) + 8),
                    put32(file + 0x80c, get32(file + 0x80c) - 8);
            damage(0x810, 0x30);
            break;
        case 4:
            make_elf(any() & 1, 2 * MIB, 2, kernel_parts);
            put32(file + 0x800, 0);
            damage(0, TABLE + 2 * 56);
            break;
        default:
            make_linux();
            damage(0x1f1, 0x268 - 0x1f1);
        }
        if (any() % 4 == 0)
            resize(any() % image.kernel.bytes);
        loaded += !guest_load(&ram, &image, &start);
    }
    ck_assert_uint_gt(loaded, 50);   /* some damage does not matter … */
    ck_assert_uint_lt(loaded, 2700); /* … but most does */
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("vmm_loaders");
    TCase *tc = tcase_create("loaders");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, bios_data);
    tcase_add_test(tc, bios_interrupts);
    tcase_add_test(tc, flat_at_its_address);
    tcase_add_test(tc, flat_with_all_fields);
    tcase_add_test(tc, header_is_found_where_it_may_be);
    tcase_add_test(tc, mandatory_flags);
    tcase_add_test(tc, information);
    tcase_add_test(tc, modules_with_their_strings);
    tcase_add_test(tc, as_many_modules_as_there_may_be);
    tcase_add_test(tc, information_keeps_off_a_low_kernel);
    tcase_add_test(tc, too_large);
    tcase_add_loop_test(tc, flat_addresses_that_lie, 0, 11);
    tcase_add_test(tc, flat_cut_short);
    tcase_add_test(tc, elf_of_both_widths);
    tcase_add_test(tc, elf_entry_is_virtual);
    tcase_add_test(tc, elf_only_loads_what_is_to_be_loaded);
    tcase_add_loop_test(tc, elf_segments_that_lie, 0, 15);
    tcase_add_test(tc, elf_headers_that_lie);
    tcase_add_test(tc, elf_cut_short);
    tcase_add_test(tc, linux_start_state);
    tcase_add_test(tc, linux_32_bit_entry);
    tcase_add_test(tc, linux_old_versions);
    tcase_add_test(tc, linux_zimage);
    tcase_add_test(tc, vmlinux);
    tcase_add_test(tc, pvh);
    tcase_add_test(tc, multiboot2);
    tcase_add_test(tc, multiboot2_flat);
    tcase_add_test(tc, multiboot2_headers_that_lie);
    tcase_add_test(tc, no_kernel);
    tcase_add_test(tc, linux_zero_page);
    tcase_add_test(tc, linux_longest_header_keeps_the_map);
    tcase_add_test(tc, linux_initrd);
    tcase_add_test(tc, linux_command_line_limits);
    tcase_add_test(tc, linux_kernels_that_cannot_be_loaded);
    tcase_add_test(tc, linux_cut_short);
    tcase_add_loop_test(tc, damaged_files_do_no_harm, 0, 4);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
