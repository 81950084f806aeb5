/* SPDX-License-Identifier: BSD-2-Clause */
/* ACPI tables (ACPI Specification 6, "ACPI Software Programming Model") as small as an operating
 * system accepts: root pointer, XSDT, FADT, FACS, MADT and a DSDT that only knows how to power
 * off and that there is a PCI bus; and the fixed hardware registers that they promise. */
#include "acpi.h"
#include "guest.h"
#include "muldiv.h"

void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memset(void *to, int value, size_t bytes);

enum {
    XSDT = 0x40, FADT = 0x100, FACS = 0x240, DSDT = 0x280, MADT = 0x400,
    HEADER = 36,
    SLEEP_TYPE_OFF = 5,
    SLEEP_TYPE_SOFT_OFF = 0, /* of the PIIX4, whose firmware knows it without these tables */
};

static void checksum(uint8_t *data, unsigned bytes, unsigned at)
{
    uint8_t sum = 0;
    data[at] = 0;
    for (unsigned i = 0; i < bytes; i++)
        sum = (uint8_t)(sum + data[i]);
    data[at] = (uint8_t)-sum;
}

static void finish(uint8_t *table, const char *signature, unsigned bytes, uint8_t revision)
{
    memcpy(table, signature, 4);
    put32(table + 4, bytes);
    table[8] = revision;
    memcpy(table + 10, "VIRTX ", 6);
    memcpy(table + 16, "LITTLEPC", 8);
    put32(table + 24, 1);
    memcpy(table + 28, "VTX ", 4);
    put32(table + 32, 1);
    checksum(table, bytes, 9);
}

static void build_fadt(uint8_t *t, uint32_t base)
{
    static const uint8_t reset_register[] = {1, 8, 0, 1, 0xf9, 0x0c}; /* a byte at port 0xcf9 */

    put32(t + 36, base + FACS);
    put32(t + 40, base + DSDT);
    put16(t + 46, ACPI_SCI);
    put32(t + 56, ACPI_PORTS);     /* PM1a event block */
    put32(t + 64, ACPI_PORTS + 4); /* PM1a control block */
    put32(t + 76, ACPI_PORTS + 8); /* PM timer */
    t[88] = 4;
    t[89] = 2;
    t[91] = 4;
    put16(t + 96, 0xffff);  /* no C2 … */
    put16(t + 98, 0xffff);  /* … and no C3 */
    t[108] = 0x32;          /* CMOS index of the century */
    put16(t + 109, 1 | 4);  /* legacy devices, no VGA, no keyboard controller */
    /* WBINVD works, C1, no buttons, no RTC wake-up status, 32-bit timer, reset register */
    put32(t + 112, 1 | 4 | 0x10 | 0x20 | 0x40 | 0x100 | 0x400);
    memcpy(t + 116, reset_register, sizeof(reset_register));
    t[128] = 6;
    put64(t + 132, base + FACS);
    put64(t + 140, base + DSDT);
    finish(t, "FACP", 244, 4);
}

/* What the PCI bus passes on ("Resource Data Types for ACPI"): all bus numbers, all ports but its own
 * two registers, the screen's memory, and what no RAM reaches. */
static const uint8_t pci_windows[] = {
    0x88, 13, 0, 2, 0x0c, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 0, 1,
    0x47, 1, 0xf8, 0x0c, 0xf8, 0x0c, 1, 8,
    0x88, 13, 0, 1, 0x0c, 3, 0, 0, 0, 0, 0xf7, 0x0c, 0, 0, 0xf8, 0x0c,
    0x88, 13, 0, 1, 0x0c, 3, 0, 0, 0, 0x0d, 0xff, 0xff, 0, 0, 0, 0xf3,
    0x87, 23, 0, 0, 0x0c, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0xff, 0xff, 11, 0, 0, 0, 0, 0, 0, 0, 2, 0,
    0x87, 23, 0, 0, 0x0c, 1, 0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff, 0xbf, 0xfe, 0, 0, 0, 0,
    0, 0, 0xc0, 0x3e,
    0x79, 0,
};

/* Scope (\_SB) { Device (PCI0) { Name (_HID, EisaId ("PNP0A03")) Name (_CRS, pci_windows) } }
 * Name (_S5, Package () {5, 5, 0, 0})
 * Lengths count themselves; those of 64 and more take two bytes. */
static void build_dsdt(uint8_t *t)
{
    enum {
        BUFFER = 4 + sizeof(pci_windows), /* from its length on */
        DEVICE = 2 + 4 + 10 + 6 + BUFFER,
        SCOPE = 2 + 5 + 2 + DEVICE,
    };
    static const uint8_t before[] = {
        0x10, 0x40 | (SCOPE & 15), SCOPE >> 4, '\\', '_', 'S', 'B', '_',
        0x5b, 0x82, 0x40 | (DEVICE & 15), DEVICE >> 4, 'P', 'C', 'I', '0',
        0x08, '_', 'H', 'I', 'D', 0x0c, 0x41, 0xd0, 0x0a, 0x03,
        0x08, '_', 'C', 'R', 'S', 0x11, 0x40 | (BUFFER & 15), BUFFER >> 4, 0x0a,
        sizeof(pci_windows),
    };
    static const uint8_t after[] = {0x08, '_', 'S', '5', '_', 0x12, 8, 4, 0x0a, SLEEP_TYPE_OFF,
                                    0x0a, SLEEP_TYPE_OFF, 0, 0};

    memcpy(t + HEADER, before, sizeof(before));
    memcpy(t + HEADER + sizeof(before), pci_windows, sizeof(pci_windows));
    memcpy(t + HEADER + sizeof(before) + sizeof(pci_windows), after, sizeof(after));
    finish(t, "DSDT", HEADER + sizeof(before) + sizeof(pci_windows) + sizeof(after), 2);
}

static void build_madt(uint8_t *t, unsigned cpus)
{
    uint8_t *p = t + 44;

    put32(t + 36, 0xfee00000);
    put32(t + 40, 1); /* there is a PIC pair too */
    for (unsigned i = 0; i < cpus; i++, p += 8) {
        p[0] = 0; /* processor local APIC */
        p[1] = 8;
        p[2] = p[3] = (uint8_t)i;
        put32(p + 4, 1);
    }
    p[0] = 1; /* I/O APIC */
    p[1] = 12;
    p[2] = (uint8_t)cpus;
    put32(p + 4, 0xfec00000);
    put32(p + 8, 0);
    p += 12;
    p[0] = 2; /* the timer's line is pin 2 */
    p[1] = 10;
    put32(p + 4, 2);
    p += 10;
    p[0] = 2; /* the SCI is level-triggered, active high */
    p[1] = 10;
    p[3] = ACPI_SCI;
    put32(p + 4, ACPI_SCI);
    put16(p + 8, 0xd);
    p += 10;
    p[0] = 4; /* NMI at LINT1 of every processor */
    p[1] = 6;
    p[2] = 0xff;
    p[5] = 1;
    p += 6;
    finish(t, "APIC", (unsigned)(p - t), 3);
}

uint64_t acpi_build(uint8_t *low, uint64_t at, unsigned cpus)
{
    uint32_t base = (uint32_t)at;
    uint8_t *t = low + base;

    memset(t, 0, ACPI_BYTES);
    build_fadt(t + FADT, base);
    build_dsdt(t + DSDT);
    build_madt(t + MADT, cpus);
    memcpy(t + FACS, "FACS", 4);
    put32(t + FACS + 4, 64);
    t[FACS + 32] = 2; /* version */
    put64(t + XSDT + HEADER, base + FADT);
    put64(t + XSDT + HEADER + 8, base + MADT);
    finish(t + XSDT, "XSDT", HEADER + 16, 1);
    memcpy(t, "RSD PTR ", 8);
    memcpy(t + 9, "VIRTX ", 6);
    t[15] = 2;
    put32(t + 20, 36);
    put64(t + 24, base + XSDT);
    checksum(t, 20, 8);
    checksum(t, 36, 32);
    return base;
}

void acpi_links(const uint8_t *tables, struct acpi_links *links)
{
    static const struct acpi_range pointer[ACPI_LINKS] = {
        {XSDT + HEADER, 8}, {XSDT + HEADER + 8, 8}, {FADT + 36, 4},
        {FADT + 40, 4},     {FADT + 132, 8},        {FADT + 140, 8},
    };

    memcpy(links->pointer, pointer, sizeof(pointer));
    links->table[0] = (struct acpi_range){XSDT, get32(tables + XSDT + 4)};
    links->table[1] = (struct acpi_range){FADT, get32(tables + FADT + 4)};
}

/* ---- Fixed hardware ---- */

enum { PM1_STATUS = 0, PM1_ENABLE = 2, PM1_CONTROL = 4, PM_TIMER = 8, PM_BYTES = 12,
       PM_TIMER_HZ = 3579545, CONTROL_SCI = 1, CONTROL_SLEEP = 0x2000 };

/* The registers as bytes, so that an access may have any width. Nothing ever sets a status bit. */
static void pm_bytes(const struct acpi_pm *pm, uint64_t now, uint8_t bytes[PM_BYTES + 4])
{
    memset(bytes, 0, PM_BYTES + 4);
    put16(bytes + PM1_ENABLE, pm->enable);
    put16(bytes + PM1_CONTROL, pm->control | CONTROL_SCI); /* always in ACPI mode */
    put32(bytes + PM_TIMER, (uint32_t)muldiv(now, PM_TIMER_HZ, pm->tsc_hz));
}

uint32_t acpi_pm_read(const struct acpi_pm *pm, uint16_t port, unsigned size, uint64_t now)
{
    uint8_t bytes[PM_BYTES + 4];

    pm_bytes(pm, now, bytes);
    return get32(bytes + (port - ACPI_PORTS)) & (0xffffffffu >> (32 - 8 * size));
}

void acpi_pm_write(struct acpi_pm *pm, uint16_t port, unsigned size, uint32_t value)
{
    uint8_t bytes[PM_BYTES + 4];
    uint16_t control;
    unsigned type;

    pm_bytes(pm, 0, bytes);
    for (unsigned i = 0; i < size; i++)
        bytes[port - ACPI_PORTS + i] = (uint8_t)(value >> 8 * i);
    control = get16(bytes + PM1_CONTROL);
    type = control >> 10 & 7;
    pm->enable = get16(bytes + PM1_ENABLE);
    pm->control = control & ~CONTROL_SLEEP; /* which reads as zero */
    if (control & CONTROL_SLEEP)
        pm->off |= type == SLEEP_TYPE_OFF || type == SLEEP_TYPE_SOFT_OFF;
}
