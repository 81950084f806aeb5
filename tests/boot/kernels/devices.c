/* SPDX-License-Identifier: BSD-2-Clause */
/* Devices as a small kernel uses them: interrupts through PIC and local APIC, time, the console. */
#include "kernel.h"

enum {
    PIC = 0x20,
    PIC2 = 0xa0,
    PIT = 0x40,
    COM1 = 0x3f8,
    PIT_HZ = 1193182,
    VECTOR_TIMER = 0x20,
    VECTOR_COM1 = 0x24,
    VECTOR_CLOCK = 0x28,
    VECTOR_LAPIC = 0x40,
    LAPIC = 0xfee00000,
};

static volatile unsigned counts[0x50];
static volatile char typed[64];
static volatile unsigned typed_bytes;
static bool take_input;
static volatile uint8_t clock_flags;

static uint32_t lapic(uint32_t offset)
{
    return *(volatile uint32_t *)at(LAPIC + offset);
}

static void lapic_write(uint32_t offset, uint32_t value)
{
    *(volatile uint32_t *)at(LAPIC + offset) = value;
}

void interrupt(uint32_t vector)
{
    counts[vector]++;
    if (vector == VECTOR_COM1 && take_input)
        while (in8(COM1 + 5) & 1 && typed_bytes < sizeof(typed))
            typed[typed_bytes++] = (char)in8(COM1);
    if (vector == VECTOR_CLOCK) {
        out8(0x70, 12);
        clock_flags |= in8(0x71);
        out8(PIC2, 0x20);
    }
    if (vector >= VECTOR_LAPIC)
        lapic_write(0xb0, 0);
    else
        out8(PIC, 0x20);
}

struct gate {
    uint16_t low, selector, type, high;
#ifdef __x86_64__
    uint32_t top, zero;
#endif
};

static struct gate idt[0x80];

/* `counter` is what interrupt() gets. */
static void set_gate(unsigned vector, unsigned counter)
{
    uintptr_t stub = (uintptr_t)interrupt_stubs + 16 * (counter - 0x20);

    idt[vector].low = (uint16_t)stub;
    idt[vector].high = (uint16_t)(stub >> 16);
    idt[vector].selector = sizeof(stub) == 8 ? 0x18 : 0x08;
    idt[vector].type = 0x8e00;
}

static void load_idt(void)
{
    struct {
        uint16_t limit;
        uintptr_t base;
    } __attribute__((packed)) pointer = {sizeof(idt) - 1, (uintptr_t)idt};

    __asm__ volatile("lidt %0" : : "m"(pointer));
}

/* An IDT, and the PICs at vectors 0x20 and 0x28 with only the lines of `mask` open. */
static void begin_interrupts(uint16_t mask)
{
    for (unsigned i = 0x20; i < 0x50; i++)
        set_gate(i, i);
    load_idt();
    out8(PIC, 0x11);
    out8(PIC + 1, 0x20);
    out8(PIC + 1, 4);
    out8(PIC + 1, 1);
    out8(PIC2, 0x11);
    out8(PIC2 + 1, 0x28);
    out8(PIC2 + 1, 2);
    out8(PIC2 + 1, 1);
    out8(PIC + 1, (uint8_t)~mask);
    out8(PIC2 + 1, 0xff);
}

static void wait_for_interrupt(void)
{
    __asm__ volatile("sti; hlt; cli" : : : "memory");
}

/* ---- Nothing there ---- */

void test_ports(void)
{
    static const uint16_t absent[] = {0x5000, 0x5ff8, 0x278};
    uint32_t string[2] = {0, 0};
    void *to = string;
    uintptr_t count = 2;

    for (unsigned i = 0; i < 3; i++) {
        REQUIRE(in8(absent[i]) == 0xff);
        REQUIRE(in16(absent[i]) == 0xffff);
        REQUIRE(in32(absent[i]) == 0xffffffff);
        out8(absent[i], 0x12);
        out16(absent[i], 0x1234);
        out32(absent[i], 0x12345678);
        REQUIRE(in32(absent[i]) == 0xffffffff);
    }
    __asm__ volatile("rep insl" : "+D"(to), "+c"(count) : "d"(0x5000) : "memory");
    REQUIRE(string[0] == 0xffffffff && string[1] == 0xffffffff);
}

/* From ports to where no memory is, and back: two kinds of access of one instruction. */
static void move_strings(void *nowhere)
{
    uintptr_t count = 100;
    void *to = nowhere;

    __asm__ volatile("rep insb" : "+D"(to), "+c"(count) : "d"(0x5000) : "memory");
    REQUIRE(count == 0 && (uintptr_t)to == (uintptr_t)nowhere + 100);
    count = 100;
    to = nowhere;
    __asm__ volatile("rep outsb" : "+S"(to), "+c"(count) : "d"(0x5000) : "memory");
    REQUIRE(count == 0 && (uintptr_t)to == (uintptr_t)nowhere + 100);
}

void test_memory(void)
{
    static const uint32_t absent[] = {0xd0000000, 0xfed40000, 0xa0000};

    for (unsigned i = 0; i < 3; i++) {
        volatile uint8_t *bytes = at(absent[i]);
        volatile uint16_t *words = at(absent[i] + 0x102);
        volatile uint32_t *longs = at(absent[i] + 0x204);
        REQUIRE(*bytes == 0xff);
        REQUIRE(*words == 0xffff);
        REQUIRE(*longs == 0xffffffff);
        *bytes = 0;
        *words = 1;
        *longs = 2;
        *longs += 5;
        REQUIRE(*bytes == 0xff);
        REQUIRE(*words == 0xffff);
        REQUIRE(*longs == 0xffffffff);
    }
    move_strings(at(0xd0000000));
}

/* ---- Timers ---- */

static void start_pit(unsigned hz)
{
    unsigned count = PIT_HZ / hz;

    out8(PIT + 3, 0x34);
    out8(PIT, (uint8_t)count);
    out8(PIT, (uint8_t)(count >> 8));
}

static void set_cmos(uint8_t index, uint8_t value)
{
    out8(0x70, index);
    out8(0x71, value);
}

/* The machine as the BIOS left it: the timer ticks at vector 8, and the second PIC is at 0x70. */
void test_bios_timer(void)
{
    set_gate(8, VECTOR_TIMER);
    set_gate(0x70, VECTOR_CLOCK);
    load_idt();
    REQUIRE((in8(PIC + 1) & 5) == 0);
    for (unsigned i = 0; i < 3; i++)
        wait_for_interrupt();
    REQUIRE(counts[VECTOR_TIMER] == 3);
    out8(PIC + 1, 0xff & ~(1 << 2));
    out8(PIC2 + 1, 0xfe);
    set_cmos(10, 0x26);
    set_cmos(12, 0);
    in8(0x71);
    set_cmos(11, 0x42);
    wait_for_interrupt();
    REQUIRE(counts[VECTOR_CLOCK] == 1 && counts[VECTOR_TIMER] == 3);
    set_cmos(11, 2);
}

/* Waits by channel 2, without interrupts of its own. */
static void wait_ticks(unsigned ticks)
{
    out8(0x61, (in8(0x61) & ~2) | 1);
    out8(PIT + 3, 0xb0);
    out8(PIT + 2, (uint8_t)ticks);
    out8(PIT + 2, (uint8_t)(ticks >> 8));
    while (!(in8(0x61) & 0x20))
        __asm__ volatile("sti; nop; nop; nop; nop; cli" : : : "memory");
}

void test_pit(void)
{
    unsigned before;

    begin_interrupts(1);
    start_pit(200);
    for (unsigned i = 0; i < 10; i++)
        wait_for_interrupt();
    before = counts[VECTOR_TIMER];
    REQUIRE(before >= 10);
    wait_ticks(59659); /* 50 ms */
    print("ticks ");
    print_hex(counts[VECTOR_TIMER] - before);
    print("\n");
    REQUIRE(counts[VECTOR_TIMER] - before >= 8 && counts[VECTOR_TIMER] - before <= 12);
    out8(PIT + 3, 0x30); /* once more, in mode 0 */
    out8(PIT, 0);
    out8(PIT, 4);
    before = counts[VECTOR_TIMER];
    wait_ticks(5000);
    REQUIRE(counts[VECTOR_TIMER] - before >= 1 && counts[VECTOR_TIMER] - before <= 2);
    before = counts[VECTOR_TIMER];
    wait_ticks(20000);
    REQUIRE(counts[VECTOR_TIMER] == before);
}

void test_lapic(void)
{
    uint32_t first, left;
    unsigned before;

    begin_interrupts(0);
    lapic_write(0xf0, 0x14f);
    lapic_write(0x80, 0);
    lapic_write(0x3e0, 3); /* divide by 16 */
    lapic_write(0x320, 0x10000 | VECTOR_LAPIC);
    lapic_write(0x380, 0xffffffff);
    wait_ticks(11932); /* how far it counts in 10 ms */
    first = 0xffffffff - lapic(0x390);
    lapic_write(0x380, 0);
    print("lapic ticks ");
    print_hex(first);
    print("\n");
    REQUIRE(first > 100);
    lapic_write(0x320, VECTOR_LAPIC); /* one-shot */
    lapic_write(0x380, first);
    left = lapic(0x390);
    REQUIRE(left && left <= first);
    wait_for_interrupt();
    REQUIRE(counts[VECTOR_LAPIC] == 1);
    REQUIRE(lapic(0x390) == 0);
    wait_ticks(30000);
    REQUIRE(counts[VECTOR_LAPIC] == 1);
    lapic_write(0x320, 0x20000 | VECTOR_LAPIC); /* periodic */
    lapic_write(0x380, first);
    before = counts[VECTOR_LAPIC];
    wait_ticks(59659); /* 50 ms */
    left = counts[VECTOR_LAPIC] - before;
    print("lapic interrupts ");
    print_hex(left);
    print("\n");
    REQUIRE(left >= 3 && left <= 6);
    lapic_write(0x380, 0);
}

static uint8_t cmos(uint8_t index)
{
    out8(0x70, index);
    return in8(0x71);
}

static unsigned seconds(void)
{
    unsigned value;

    do
        value = cmos(0);
    while (cmos(10) & 0x80 || cmos(0) != value);
    return (value >> 4) * 10 + (value & 15);
}

/* A second of the clock is about a hundred interrupts of the timer. */
void test_rtc(void)
{
    unsigned begin, ticks;

    REQUIRE(!(cmos(11) & 4) && cmos(11) & 2); /* BCD, 24 hours */
    REQUIRE(cmos(13) & 0x80);
    REQUIRE(cmos(8) >= 1 && cmos(8) <= 0x12 && cmos(7) >= 1 && cmos(7) <= 0x31);
    REQUIRE(cmos(4) <= 0x23 && cmos(2) <= 0x59);
    begin_interrupts(1);
    start_pit(100);
    for (begin = seconds(); seconds() == begin;)
        wait_for_interrupt();
    begin = seconds();
    for (ticks = 0; seconds() == begin; ticks++)
        wait_for_interrupt();
    print("ticks ");
    print_hex(ticks);
    print("\n");
    REQUIRE(ticks >= 80 && ticks <= 120);
    REQUIRE(seconds() == (begin + 1) % 60);
}

/* The clock's periodic interrupt, 1024 times a second, beside the timer's hundred; then one at the
 * end of an update. */
void test_rtc_interrupts(void)
{
    unsigned before;

    begin_interrupts(1 | 1 << 2);
    out8(PIC2 + 1, 0xfe);
    set_cmos(10, 0x26);
    cmos(12);
    set_cmos(11, 0x42);
    start_pit(100);
    wait_for_interrupt();
    before = counts[VECTOR_TIMER];
    counts[VECTOR_CLOCK] = 0;
    while (counts[VECTOR_TIMER] < before + 20)
        wait_for_interrupt();
    print("clock interrupts ");
    print_hex(counts[VECTOR_CLOCK]);
    print("\n");
    REQUIRE((clock_flags & 0xc0) == 0xc0);
    REQUIRE(counts[VECTOR_CLOCK] >= 60 && counts[VECTOR_CLOCK] <= 220); /* QEMU leaves some out */
    set_cmos(11, 0x12);
    cmos(12);
    clock_flags = 0;
    for (before = counts[VECTOR_CLOCK]; counts[VECTOR_CLOCK] == before;)
        wait_for_interrupt();
    REQUIRE((clock_flags & 0x90) == 0x90);
    REQUIRE(!(cmos(10) & 0x80));
    set_cmos(11, 2);
}

/* ---- The console ---- */

/* Answers a line from COM1 in reverse. */
void test_echo(bool interrupts)
{
    if (interrupts) {
        take_input = true;
        begin_interrupts(1 << 4);
        out8(COM1 + 2, 7);
        out8(COM1 + 4, 0xb);
        out8(COM1 + 1, 1);
    }
    print("ready\n");
    while (!typed_bytes || typed[typed_bytes - 1] != '\n') {
        if (interrupts)
            wait_for_interrupt();
        else if (in8(COM1 + 5) & 1)
            typed[typed_bytes++] = (char)in8(COM1);
        REQUIRE(typed_bytes < sizeof(typed));
    }
    for (unsigned i = typed_bytes - 1; i-- > 0;)
        print((char[]){typed[i], 0});
    print("\n");
}

/* ---- ACPI ---- */

static const uint8_t *find(uint32_t from, uint32_t to, unsigned step, const char *what,
                           unsigned bytes)
{
    for (; from + bytes <= to; from += step) {
        unsigned i = 0;
        while (i < bytes && ((const char *)at(from))[i] == what[i])
            i++;
        if (i == bytes)
            return at(from);
    }
    return NULL;
}

static uint32_t get32(const uint8_t *p)
{
    return *(const uint32_t *)p;
}

void power_off(void)
{
    const uint8_t *root = find(0xe0000, 0x100000, 16, "RSD PTR ", 8), *table, *fadt = NULL, *s5;
    unsigned wide, type;

    REQUIRE(root);
    wide = root[15] >= 2 && get32(root + 24) ? 8 : 4; /* XSDT or RSDT */
    table = at(get32(root + (wide == 8 ? 24 : 16)));
    for (uint32_t i = 36; i < get32(table + 4); i += wide) {
        const uint8_t *t = at(get32(table + i));
        if (get32(t) == 0x50434146) /* FACP */
            fadt = t;
    }
    REQUIRE(fadt);
    table = at(get32(fadt + 40));
    s5 = find(get32(fadt + 40), get32(fadt + 40) + get32(table + 4), 1, "_S5_", 4);
    REQUIRE(s5 && s5[4] == 0x12);
    type = s5[7] == 0x0a ? s5[8] : s5[7]; /* behind package, length and count */
    out16((uint16_t)get32(fadt + 64), (uint16_t)(0x2000 | type << 10));
    failed(__func__, __LINE__, "the machine is still on");
}
