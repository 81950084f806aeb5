/* SPDX-License-Identifier: BSD-2-Clause */
/* What the parts of the test kernel share. It is compiled for 32 and for 64 bits. */
#ifndef KERNEL_H
#define KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What start.S found, before it changed anything. */
struct boot_state {
    uint32_t magic, info, eflags, cr0, base, seen_by_segments, a20;
};

/* Multiboot Specification 0.6.96, "Boot information format". */
struct boot_info {
    uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr;
    uint32_t syms[4], mmap_length, mmap_addr, drives_length, drives_addr, config_table;
    uint32_t boot_loader_name, apm_table;
};

struct boot_module {
    uint32_t start, end, string, reserved;
};

struct boot_mmap {
    uint32_t size;
    uint64_t address, bytes;
    uint32_t type;
} __attribute__((packed));

extern const struct boot_state boot_state;
extern const struct boot_info *boot_info;

static inline void out8(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}
static inline void out16(uint16_t port, uint16_t v)
{
    __asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port));
}
static inline void out32(uint16_t port, uint32_t v)
{
    __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port));
}
static inline uint8_t in8(uint16_t port)
{
    uint8_t v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline uint16_t in16(uint16_t port)
{
    uint16_t v;
    __asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline uint32_t in32(uint16_t port)
{
    uint32_t v;
    __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline void *at(uint32_t address)
{
    return (void *)(uintptr_t)address;
}

/* console.c */
void print(const char *text);
void print_hex(uint64_t value);
_Noreturn void finish(uint32_t value); /* writes the value to port 0xf4 */
#define REQUIRE(what)                                                                              \
    do {                                                                                           \
        if (!(what))                                                                               \
            failed(__func__, __LINE__, #what);                                                     \
    } while (0)
_Noreturn void failed(const char *function, unsigned line, const char *what);
const char *find_word(const char *text, const char *key); /* behind KEY of a word KEY=VALUE */
unsigned number(const char *text);
bool same_word(const char *a, const char *b);

/* bootinfo.c */
void show_information(void);
void check_information(const char *cmdline);

/* devices.c; interrupts.S */
extern uint32_t interrupt_stubs[]; /* 16 bytes each, from vector 0x20 */
void interrupt(uint32_t vector);
void test_ports(void);
void test_memory(void);
void test_bios_timer(void);
void test_pit(void);
void test_lapic(void);
void test_rtc(void);
void test_rtc_interrupts(void);
void test_echo(bool interrupts);
_Noreturn void power_off(void);

/* reboot.c */
void test_reboot(const char *way); /* cf9, keyboard, fast or triple */

/* main.c */
_Noreturn void triple_fault(void);
void kernel_main(void);

#endif
