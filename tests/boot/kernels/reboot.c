/* SPDX-License-Identifier: BSD-2-Clause */
/* A reset leaves nothing of what was before it but the clock's memory, where the second start finds
 * that it is one. The first changes its own code where that touches a device (whoever executes the
 * instruction in software and remembers what it was must forget it when the kernel is loaded
 * again), and sets up interrupt controllers, of which nothing may be left. */
#include "kernel.h"

enum {
    MARK = 0x70, /* in CMOS memory */
    MARKED = 0xa5,
    HOLE = 0xfed50000, /* nothing is there: all ones */
    LAPIC = 0xfee00000,
    IOAPIC = 0xfec00000,
};

extern uint8_t probe[];
__asm__(
    ".text; .globl probe; .balign 16; probe: .byte 0x8b, 0x01, 0x90, 0x90, 0xc3"); /* mov (%ecx),
                                                                                      %eax */

static uint32_t call_probe(void)
{
    uint32_t value;

    __asm__ volatile("call probe" : "=a"(value) : "c"((uintptr_t)HOLE) : "memory");
    return value;
}

static volatile uint32_t *lapic(uint32_t offset)
{
    return at(LAPIC + offset);
}

static uint32_t ioapic(uint32_t index)
{
    *(volatile uint32_t *)at(IOAPIC) = index;
    return *(volatile uint32_t *)at(IOAPIC + 0x10);
}

static void ioapic_write(uint32_t index, uint32_t value)
{
    *(volatile uint32_t *)at(IOAPIC) = index;
    *(volatile uint32_t *)at(IOAPIC + 0x10) = value;
}

static void change_code(void)
{
    static const uint8_t other[] = {0x0f, 0xb6, 0x01, 0x90, 0xc3}; /* movzbl (%ecx), %eax */

    for (unsigned i = 0; i < 8; i++)
        REQUIRE(call_probe() == 0xffffffff);
    for (unsigned i = 0; i < sizeof(other); i++)
        ((volatile uint8_t *)probe)[i] = other[i];
    for (unsigned i = 0; i < 8; i++)
        REQUIRE(call_probe() == 0xff);
}

/* ---- Page tables ---- */

#ifdef __x86_64__
enum { PAGE_FAULT = 14 };

extern uint64_t pml4[512], pdpt[512];
extern uint8_t on_page_fault[];
extern volatile uint32_t page_faults;
/* Counts, and goes on behind the instruction of two bytes. */
__asm__(".text; .globl on_page_fault; on_page_fault: incl page_faults; addq $8, %rsp;"
        "addq $2, (%rsp); iretq; .bss; .globl page_faults; .balign 4; page_faults: .long 0; .text");

static bool faults(uint64_t address)
{
    static uint64_t idt[2 * (PAGE_FAULT + 1)];
    struct {
        uint16_t limit;
        uintptr_t base;
    } __attribute__((packed)) pointer = {sizeof(idt) - 1, (uintptr_t)idt};
    uint64_t handler = (uintptr_t)on_page_fault;
    uint32_t before = page_faults;

    idt[2 * PAGE_FAULT] =
        (handler & 0xffff) | 0x18 << 16 | 0x8e00ull << 32 | (handler >> 16 & 0xffff) << 48;
    idt[2 * PAGE_FAULT + 1] = handler >> 32;
    __asm__ volatile("lidt %0" : : "m"(pointer));
    __asm__ volatile("movb (%0), %%al" : : "c"(address) : "rax", "memory");
    return page_faults != before;
}

/* A second way to the same memory, which the kernel's next copy does not have. */
static void add_mapping(void)
{
    REQUIRE(faults(1ull << 39));
    ((volatile uint64_t *)pml4)[1] = (uintptr_t)pdpt | 7;
    REQUIRE(!faults(1ull << 39));
}

static void check_mapping(void)
{
    REQUIRE(pml4[1] == 0);
    REQUIRE(faults(1ull << 39));
}

/* Tables that come with the kernel's file, and which nobody writes before they are used. */
extern uint64_t ready_pml4[512], ready_table[512];
extern uint8_t ready_other[];
__asm__(".data; .globl ready_pml4, ready_table, ready_other; .balign 4096;"
        "ready_pml4: .quad pdpt + 7, 0, ready_pdpt + 7; .fill 509, 8, 0;"
        "ready_pdpt: .quad ready_directory + 7; .fill 511, 8, 0;"
        "ready_directory: .quad ready_table + 7; .fill 511, 8, 0;"
        "ready_table: .quad ready_page + 7; .fill 511, 8, 0;"
        "ready_page: .fill 512, 8, 0x0a; ready_other: .fill 512, 8, 0x0b; .text");

static uint64_t ready_value(void)
{
    uint64_t old, value;

    __asm__ volatile("movq %%cr3, %0; movq %2, %%cr3; movq (%3), %1; movq %0, %%cr3"
                     : "=&r"(old), "=&r"(value)
                     : "r"((uintptr_t)ready_pml4), "r"(2ull << 39)
                     : "memory");
    return value;
}

static void change_ready_table(void)
{
    REQUIRE(ready_value() == 0x0a);
    ((volatile uint64_t *)ready_table)[0] = (uintptr_t)ready_other | 7;
    for (unsigned i = 0; i < 8; i++)
        REQUIRE(ready_value() == 0x0b);
}

/* They are as the file has them, and so is what they map. */
static void check_ready_table(void)
{
    REQUIRE(ready_value() == 0x0a);
}
#else
static void change_ready_table(void)
{
}

static void check_ready_table(void)
{
}

static void add_mapping(void)
{
}

static void check_mapping(void)
{
}
#endif

/* ---- Interrupt controllers ---- */

static void set_controllers_up(void)
{
    *lapic(0xf0) = 0x1f0;
    *lapic(0x80) = 0x50;
    *lapic(0xd0) = 0x01000000;
    *lapic(0xe0) = 0x0fffffff;
    *lapic(0x3e0) = 0xb;
    *lapic(0x320) = 0x30040; /* periodic, masked */
    *lapic(0x380) = 0x12345678;
    *lapic(0x360) = 0x10055;
    *lapic(0x310) = 0;
    *lapic(0x300) = 0x44060; /* vector 0x60 to itself, which stays pending */
    REQUIRE(*lapic(0x230) == 1);
    REQUIRE(*lapic(0x390) != 0);
    ioapic_write(0x10 + 2 * 4 + 1, 0x0f000000);
    ioapic_write(0x10 + 2 * 4, 0x0a044);
    out8(0x21, 0x5a);
    out8(0xa1, 0xa5);
    REQUIRE(in8(0x21) == 0x5a);
}

static void check_controllers(void)
{
    REQUIRE((*lapic(0x20) & 0xff000000) == 0);
    REQUIRE((*lapic(0xf0) & 0xff) ==
            0xff); /* Intel SDM, "Local APIC State After Power-Up or Reset" */
    REQUIRE(*lapic(0x80) == 0);
    REQUIRE(*lapic(0xd0) == 0);
    REQUIRE(*lapic(0xe0) == 0xffffffff);
    REQUIRE(*lapic(0x3e0) == 0);
    REQUIRE(*lapic(0x320) == 0x10000);
    REQUIRE(*lapic(0x380) == 0);
    REQUIRE(*lapic(0x390) == 0);
    REQUIRE((*lapic(0x360) & 0xff) != 0x55);
    for (uint32_t i = 0; i < 8; i++) {
        REQUIRE(*lapic(0x100 + 16 * i) == 0);
        REQUIRE(*lapic(0x180 + 16 * i) == 0);
        REQUIRE(*lapic(0x200 + 16 * i) == 0);
    }
    REQUIRE(ioapic(0x10 + 2 * 4) == 0x10000);
    REQUIRE(in8(0x21) != 0x5a);
    REQUIRE(in8(0xa1) != 0xa5);
}

static void ask(const char *way)
{
    if (same_word(way, "cf9"))
        out8(0xcf9, 6);
    else if (same_word(way, "keyboard"))
        out8(0x64, 0xfe);
    else if (same_word(way, "fast"))
        out8(0x92, 1);
    else
        triple_fault();
}

void test_reboot(const char *way)
{
    out8(0x70, MARK);
    if (in8(0x71) != MARKED) {
        out8(0x70, MARK);
        out8(0x71, MARKED);
        change_code();
        add_mapping();
        change_ready_table();
        set_controllers_up();
        print("first start\n");
        ask(way);
        failed(__func__, __LINE__, "the machine goes on");
    }
    for (unsigned i = 0; i < 8; i++)
        REQUIRE(call_probe() == 0xffffffff);
    check_mapping();
    check_ready_table();
    check_controllers();
    print("second start\n");
}
