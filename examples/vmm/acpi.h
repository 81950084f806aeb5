/* SPDX-License-Identifier: BSD-2-Clause */
/* The ACPI tables of the little PC, and its power-management registers. */
#ifndef VMM_ACPI_H
#define VMM_ACPI_H

#include <stdbool.h>
#include <stdint.h>

#define ACPI_TABLES   0xe0000u /* where the tables are without a firmware */
#define ACPI_PORTS    0x600u   /* PM1 event, PM1 control and PM timer: 12 ports */
#define ACPI_PORTS_LAST 0x60bu
#define ACPI_SCI      9u

/* Builds the tables for `cpus` processors in guest memory at address `at`, below 4 GiB; returns the root
 * pointer's address. */
uint64_t acpi_build(uint8_t *low, uint64_t at, unsigned cpus);

/* ---- Tables that a firmware moves ---- */

#define ACPI_BYTES         0x1400 /* what acpi_build() fills in */
#define ACPI_CHECKSUM      9      /* in a table */
#define ACPI_ROOT_BYTES    36
#define ACPI_ROOT_POINTER  24 /* in the root pointer */
#define ACPI_ROOT_CHECKSUM 32
#define ACPI_LINKS         6
#define ACPI_LINKED        2

struct acpi_range {
    uint32_t offset, bytes;
};

/* What depends on where the tables are: pointers, and the tables with pointers in them. */
struct acpi_links {
    struct acpi_range pointer[ACPI_LINKS], table[ACPI_LINKED];
};

/* Of tables that were built at address 0. */
void acpi_links(const uint8_t *tables, struct acpi_links *links);

struct acpi_pm {
    uint64_t tsc_hz;
    uint16_t enable, control;
    bool off; /* the guest has switched the machine off */
};

/* The access must lie within the ports. */
uint32_t acpi_pm_read(const struct acpi_pm *pm, uint16_t port, unsigned size, uint64_t now);
void acpi_pm_write(struct acpi_pm *pm, uint16_t port, unsigned size, uint32_t value);

#endif
