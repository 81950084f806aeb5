/* SPDX-License-Identifier: BSD-2-Clause */
/* The guest's memory as the loaders see it, and the state in which it starts. */
#ifndef VMM_GUEST_H
#define VMM_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <virtx/state.h>

/* RAM begins at address 0; what does not fit under the hole for devices continues at 4 GiB. */
#define GUEST_LOW_MAX  0xc0000000ull
#define GUEST_HIGH     0x100000000ull
#define GUEST_LOW_END  0x9fc00u /* below the extended BIOS data area */
#define GUEST_HOLE     0xa0000u /* a screen would be here, option ROMs from GUEST_ROMS on … */
#define GUEST_ROMS     0xc0000u
#define GUEST_BIOS_END 0x100000u
#define GUEST_FIRMWARE 0xe0000u /* … and the ACPI tables are here … */
#define GUEST_MP_TABLE 0xf0000u /* … and the MP configuration table here */
#define GUEST_NO_BIOS  0xff000u

/* Where a BIOS puts the interrupts of the two PICs. */
#define GUEST_PIC_VECTORS  0x08
#define GUEST_PIC2_VECTORS 0x70

struct guest_ram {
    uint8_t *low;        /* backs [0, low_bytes) */
    uint64_t low_bytes;  /* at least 2 MiB */
    uint64_t high_bytes; /* at GUEST_HIGH … */
    uint8_t *high;       /* … backed by this, of which loaders know nothing */
};

/* A file given to the guest: the kernel or a module. */
struct guest_file {
    const uint8_t *data;
    uint64_t bytes;
    const char *string; /* its name, then its arguments */
};

struct guest_start {
    enum virtx_preset preset;
    uint64_t rip, rsp, rax, rbx, rsi, cr3;
    uint64_t gdt;               /* address; 0: none is loaded and the selectors are the preset's */
    uint16_t gdt_limit, cs, ds; /* ds is ES, SS, FS and GS as well */
    bool after_bios;            /* PICs and timer are as a BIOS leaves them */
};

#define GUEST_MAX_FILES 32

struct guest_image {
    struct guest_file kernel;
    struct guest_file firmware; /* starts in place of a kernel */
    struct guest_file drive[2]; /* on each of the IDE controller's channels */
    bool is_cd;                 /* the second is a CD-ROM drive with this disc */
    struct guest_file module[GUEST_MAX_FILES];
    unsigned modules;
    uint64_t rsdp; /* address of the ACPI tables, 0: none */
};

/* Each loader answers NULL when it has loaded the image, or a sentence that says why not.
 * `is` tells whether the file is of that kind at all. */
bool linux_is(const struct guest_file *kernel);
const char *linux_load(const struct guest_ram *ram, const struct guest_image *image,
                       struct guest_start *start);
/* An ELF file that nothing else knows: Linux's vmlinux. */
const char *linux_load_elf(const struct guest_ram *ram, const struct guest_image *image,
                           struct guest_start *start);
bool multiboot_is(const struct guest_file *kernel);
const char *multiboot_load(const struct guest_ram *ram, const struct guest_image *image,
                           struct guest_start *start);
bool multiboot2_is(const struct guest_file *kernel);
const char *multiboot2_load(const struct guest_ram *ram, const struct guest_image *image,
                            struct guest_start *start);
bool pvh_is(const struct guest_file *kernel);
const char *pvh_load(const struct guest_ram *ram, const struct guest_image *image,
                     struct guest_start *start);
/* Whatever of them the kernel is for. */
const char *guest_load(const struct guest_ram *ram, const struct guest_image *image,
                       struct guest_start *start);

/* What is behind the first word: a kernel's arguments without its name. */
const char *guest_arguments(const char *string);

/* ---- For loaders ---- */

/* Where a kernel went. */
struct guest_extent {
    uint64_t end;
    bool in_low_memory; /* some of it below 1 MiB */
};

/* Copies a piece of the file to its address and zeroes the rest of its memory. */
const char *guest_put(const struct guest_ram *ram, const struct guest_file *file, uint64_t offset,
                      uint64_t bytes, uint64_t address, uint64_t memory,
                      struct guest_extent *extent);

/* The addresses in a multiboot header: its own, where the file's part goes, that part's end or 0,
 * the end of its memory or 0. `at` is where the header is in the file. */
struct guest_addresses {
    uint64_t header, load, load_end, bss_end;
};
const char *guest_put_flat(const struct guest_ram *ram, const struct guest_file *file, uint64_t at,
                           const struct guest_addresses *addresses, struct guest_extent *extent);

/* Puts the modules behind the kernel, each on a page of its own, and moves *end behind them. */
const char *guest_put_modules(const struct guest_ram *ram, const struct guest_image *image,
                              uint64_t start[GUEST_MAX_FILES], uint64_t *end);

/* Memory for what a kernel is told. */
struct guest_arena {
    uint8_t *low;
    uint64_t next, end;
    bool full; /* what the place functions say then is worth nothing */
};
uint32_t guest_place(struct guest_arena *arena, uint64_t bytes);
uint32_t guest_place_string(struct guest_arena *arena, const char *string);

/* One entry of an address map, as E820 and multiboot have it. */
struct guest_range {
    uint64_t address, bytes;
    uint32_t type; /* 1 RAM, 2 reserved */
};
#define GUEST_RANGES 5
unsigned guest_map(const struct guest_ram *ram, struct guest_range ranges[GUEST_RANGES]);

/* For kernels, which have no BIOS: the BIOS data area (IBM PC/AT Technical Reference, "BIOS Data
 * Area") as far as they read it, to put what must be low below the extended BIOS data area; and an
 * interrupt vector table in which every call of the BIOS fails, with the carry flag set, and the
 * PICs' interrupts are ended. */
void guest_bios_data(uint8_t *low);

/* Whether all of [address, address + bytes) is RAM below GUEST_LOW_MAX. */
bool guest_is_low_ram(const struct guest_ram *ram, uint64_t address, uint64_t bytes);

size_t guest_strlen(const char *string);

/* Unaligned little-endian access to file contents. */
static inline uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}
static inline uint32_t get32(const uint8_t *p)
{
    return get16(p) | (uint32_t)get16(p + 2) << 16;
}
static inline uint64_t get64(const uint8_t *p)
{
    return get32(p) | (uint64_t)get32(p + 4) << 32;
}
static inline void put16(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}
static inline void put32(uint8_t *p, uint32_t v)
{
    put16(p, v);
    put16(p + 2, v >> 16);
}
static inline void put64(uint8_t *p, uint64_t v)
{
    put32(p, (uint32_t)v);
    put32(p + 4, (uint32_t)(v >> 32));
}

#endif
