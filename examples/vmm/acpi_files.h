/* SPDX-License-Identifier: BSD-2-Clause */
/* The ACPI tables as files of fw_cfg, for a firmware to put where it likes. */
#ifndef VMM_ACPI_FILES_H
#define VMM_ACPI_FILES_H

#include <stdint.h>
#include "acpi.h"

#define ACPI_TABLES_FILE   "etc/acpi/tables"
#define ACPI_ROOT_FILE     "etc/acpi/rsdp"
#define ACPI_LOADER_BYTES  128 /* of a command */
#define ACPI_LOADER_MAX    16

struct acpi_files {
    uint8_t tables[ACPI_BYTES], root[ACPI_ROOT_BYTES];
    uint8_t loader[ACPI_LOADER_BYTES * ACPI_LOADER_MAX]; /* etc/table-loader: what is to be done */
    uint32_t loader_bytes;
};

void acpi_files_make(struct acpi_files *files, unsigned cpus);

#endif
