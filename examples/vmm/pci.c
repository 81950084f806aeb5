/* SPDX-License-Identifier: BSD-2-Clause */
/* PCI configuration space by mechanism #1 (PCI Local Bus Specification, "Configuration
 * Mechanism"), with what a firmware for Intel's 440FX chip set looks for (data sheets of 82441FX
 * and 82371AB): its host bridge, its ISA bridge, its IDE controller in compatibility mode, and its
 * power management. Nothing here has base addresses: the devices are where they are on an old PC.
 */
#include "pci.h"

enum {
    VENDOR = 0x00,
    DEVICE = 0x02,
    COMMAND = 0x04,
    STATUS = 0x06,
    REVISION = 0x08,
    CLASS = 0x0a,
    HEADER_TYPE = 0x0e,
    SUBSYSTEM_VENDOR = 0x2c,
    SUBSYSTEM = 0x2e,
    LATENCY = 0x0d,
    CACHE_LINE = 0x0c,
    INTERRUPT_LINE = 0x3c,
    PAM = 0x59,
    PM_FUNCTION = 0x0b,
    PM_BASE = 0x40,
    PM_APM = 0x5b,
    PM_CONTROL = 0x80,

    ENABLE = 0x80000000,
    MULTIFUNCTION = 0x80,
};

static void put16(uint8_t *p, unsigned value)
{
    p[0] = (uint8_t)value;
    p[1] = (uint8_t)(value >> 8);
}

static struct pci_function *add(struct pci *pci, uint8_t devfn, uint16_t device, uint16_t class)
{
    struct pci_function *f = &pci->function[pci->count++];

    *f = (struct pci_function){.devfn = devfn};
    put16(f->config + VENDOR, 0x8086);
    put16(f->config + DEVICE, device);
    put16(f->config + COMMAND, 7); /* I/O, memory, bus master */
    put16(f->config + STATUS, 0x0200);
    put16(f->config + CLASS, class);
    /* The mark by which a firmware knows that this is a virtual machine with fw_cfg. */
    put16(f->config + SUBSYSTEM_VENDOR, 0x1af4);
    put16(f->config + SUBSYSTEM, 0x1100);
    return f;
}

void pci_init(struct pci *pci, bool first, bool second)
{
    struct pci_function *f;

    *pci = (struct pci){0};
    f = add(pci, 0x00, 0x1237, 0x0600);
    f->config[REVISION] = 2;
    f = add(pci, 0x08, 0x7000, 0x0601);
    f->config[HEADER_TYPE] = MULTIFUNCTION;
    for (unsigned i = 0; i < 4; i++)
        f->config[0x60 + i] = 0x80; /* PIRQ routes: none */
    if (first || second) {
        f = add(pci, 0x09, 0x7010, 0x0101);
        put16(f->config + 0x40, first ? 0x8000 : 0); /* the channels that are decoded */
        put16(f->config + 0x42, second ? 0x8000 : 0);
    }
    f = add(pci, PM_FUNCTION, 0x7113, 0x0680);
    f->config[PM_BASE] = 1; /* an address of ports */
    f->config[PM_APM] = 2;  /* as if a firmware had set SMM up, which is not there: none tries to */
}

const uint8_t *pci_pam(const struct pci *pci)
{
    return pci->function[0].config + PAM;
}

uint16_t pci_pm_ports(const struct pci *pci)
{
    const uint8_t *config = pci->function[pci->count - 1].config;

    return config[PM_CONTROL] & 1 ? (uint16_t)(config[PM_BASE + 1] << 8 | (config[PM_BASE] & 0xc0))
                                  : 0;
}

/* ---- Access ---- */

/* Index of the function that the address register selects; pci->count: there is none. */
static unsigned selected(const struct pci *pci)
{
    unsigned bus = pci->address >> 16 & 0xff, devfn = pci->address >> 8 & 0xff;

    if (!(pci->address & ENABLE) || bus)
        return pci->count;
    for (unsigned i = 0; i < pci->count; i++)
        if (pci->function[i].devfn == devfn)
            return i;
    return pci->count;
}

/* Bits of a register that a write changes. */
static uint8_t writable(unsigned reg)
{
    switch (reg) {
    case COMMAND:
        return 0x07;
    case COMMAND + 1:
        return 0x05; /* SERR, interrupt disable */
    case CACHE_LINE:
    case LATENCY:
    case INTERRUPT_LINE:
        return 0xff;
    default:
        return reg >= 0x40 ? 0xff : 0; /* the chip set's own registers */
    }
}

uint32_t pci_read(const struct pci *pci, uint16_t port, unsigned size)
{
    unsigned function = selected(pci);
    const uint8_t *config = pci->function[function].config;
    unsigned reg = (pci->address & 0xfc) + (port & 3u);
    uint32_t value = 0;

    if (port == PCI_ADDRESS && size == 4)
        return pci->address;
    if (port < PCI_DATA || function == pci->count)
        return 0xffffffffu >> (32 - 8 * size);
    for (unsigned i = 0; i < size; i++)
        value |= (uint32_t)((port & 3u) + i < 4 ? config[reg + i] : 0xff) << 8 * i;
    return value;
}

void pci_write(struct pci *pci, uint16_t port, unsigned size, uint32_t value)
{
    unsigned function = selected(pci);
    uint8_t *config = pci->function[function].config;
    unsigned reg = (pci->address & 0xfc) + (port & 3u);

    if (port == PCI_ADDRESS && size == 4)
        pci->address = value & 0x80fffffc;
    if (port < PCI_DATA || function == pci->count)
        return;
    for (unsigned i = 0; i < size && (port & 3u) + i < 4; i++) {
        uint8_t mask = writable(reg + i), byte = (uint8_t)(value >> 8 * i);
        config[reg + i] = (uint8_t)((config[reg + i] & ~mask) | (byte & mask));
    }
}
