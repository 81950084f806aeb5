/* SPDX-License-Identifier: BSD-2-Clause */
/* Prints a VM's counters to the log. */
#ifndef VMM_STATS_H
#define VMM_STATS_H

struct virtx_vm;
void print_stats(struct virtx_vm *vm);

#endif
