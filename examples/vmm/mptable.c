/* SPDX-License-Identifier: BSD-2-Clause */
/* The MP configuration table (Intel's MultiProcessor Specification 1.4, "MP Configuration Table"):
 * processors, an ISA bus whose lines go to the I/O APIC, and the PIC pair and NMI at the processors'
 * local pins. It says what the ACPI tables say. */
#include "mptable.h"
#include "guest.h"

void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memset(void *to, int value, size_t bytes);

enum {
    POINTER_BYTES = 16,
    HEADER_BYTES = 44,
    ISA_LINES = 16,
    INT = 0, NMI = 1, EXTINT = 3,
};

static uint8_t sum(const uint8_t *data, unsigned bytes)
{
    uint8_t result = 0;

    while (bytes--)
        result = (uint8_t)(result + *data++);
    return result;
}

static uint8_t *put_processor(uint8_t *p, unsigned id)
{
    enum { ENABLED = 1, FIRST = 2 };

    p[1] = (uint8_t)id;
    p[2] = 0x14; /* version of its local APIC */
    p[3] = id == 0 ? ENABLED | FIRST : ENABLED;
    put32(p + 4, 0x600); /* family 6 */
    put32(p + 8, 0x201); /* FPU and APIC on the chip */
    return p + 20;
}

/* An interrupt of the ISA bus; `kind` is 3 for one at the I/O APIC and 4 for one at a local pin. */
static uint8_t *put_interrupt(uint8_t *p, uint8_t kind, uint8_t type, unsigned line, unsigned apic,
                              unsigned pin)
{
    p[0] = kind;
    p[1] = type;
    p[5] = (uint8_t)line;
    p[6] = (uint8_t)apic;
    p[7] = (uint8_t)pin;
    return p + 8;
}

/* Returns their end. */
static uint8_t *put_entries(uint8_t *p, unsigned cpus)
{
    enum { ISA_BUS = 1, IOAPIC = 2, IO = 3, LOCAL = 4, EVERY_APIC = 0xff };

    for (unsigned i = 0; i < cpus; i++)
        p = put_processor(p, i);
    p[0] = ISA_BUS;
    memcpy(p + 2, "ISA   ", 6);
    p += 8;
    p[0] = IOAPIC;
    p[1] = (uint8_t)cpus;
    p[2] = 0x11;
    p[3] = 1; /* it can be used */
    put32(p + 4, 0xfec00000);
    p += 8;
    for (unsigned line = 0; line < ISA_LINES; line++)
        if (line != 2) /* the pair's own; its pin has the timer's line */
            p = put_interrupt(p, IO, INT, line, cpus, line ? line : 2);
    p = put_interrupt(p, LOCAL, EXTINT, 0, 0, 0);
    return put_interrupt(p, LOCAL, NMI, 0, EVERY_APIC, 1);
}

void mptable_build(uint8_t *low, uint32_t at, unsigned cpus)
{
    uint8_t *pointer = low + at, *header = pointer + POINTER_BYTES, *end;
    unsigned bytes = HEADER_BYTES + 20 * cpus + 8 * (2 + ISA_LINES - 1 + 2);

    memset(pointer, 0, POINTER_BYTES + bytes);
    end = put_entries(header + HEADER_BYTES, cpus);
    memcpy(header, "PCMP", 4);
    put16(header + 4, (uint16_t)(end - header));
    header[6] = 4; /* revision 1.4 */
    memcpy(header + 8, "VIRTX   LITTLEPC    ", 20);
    put16(header + 34, (uint16_t)(cpus + 2 + ISA_LINES - 1 + 2));
    put32(header + 36, 0xfee00000);
    header[7] = (uint8_t)-sum(header, bytes);
    memcpy(pointer, "_MP_", 4);
    put32(pointer + 4, at + POINTER_BYTES);
    pointer[8] = 1; /* in paragraphs */
    pointer[9] = 4;
    pointer[10] = (uint8_t)-sum(pointer, POINTER_BYTES);
}
