/* SPDX-License-Identifier: BSD-2-Clause */
/* PCI configuration space: a host bridge, the bridge to the old devices, an IDE controller, and
 * power management. */
#ifndef VMM_PCI_H
#define VMM_PCI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PCI_ADDRESS   0xcf8
#define PCI_DATA      0xcfc
#define PCI_FUNCTIONS 4
#define PCI_PAM_BYTES 7 /* the host bridge's map of [0xc0000, 1 MiB) into RAM and ROM */

struct pci_function {
    uint8_t devfn; /* device << 3 | function, on bus 0 */
    uint8_t config[256];
};

struct pci {
    uint32_t address;
    unsigned count;                                  /* of functions */
    struct pci_function function[PCI_FUNCTIONS + 1]; /* and one that never is there */
};

/* `disk`: there is an IDE controller. */
void pci_init(struct pci *pci, bool first, bool second);
/* The registers at 0xcf8 to 0xcff. Only whole 32-bit accesses reach the address register; what is
 * not there reads all ones and swallows writes. */
uint32_t pci_read(const struct pci *pci, uint16_t port, unsigned size);
void pci_write(struct pci *pci, uint16_t port, unsigned size, uint32_t value);
/* The host bridge's PAM registers. */
const uint8_t *pci_pam(const struct pci *pci);
/* Where the firmware wants the power-management registers; 0: nowhere. */
uint16_t pci_pm_ports(const struct pci *pci);

#endif
