/* SPDX-License-Identifier: BSD-2-Clause */
/* The MP configuration table, for kernels that do not read ACPI tables. */
#ifndef VMM_MPTABLE_H
#define VMM_MPTABLE_H

#include <stdint.h>

/* Builds the table and its floating pointer, at `at` in guest memory, for `cpus` processors with an I/O
 * APIC behind them in number. */
void mptable_build(uint8_t *low, uint32_t at, unsigned cpus);

#endif
