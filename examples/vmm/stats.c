/* SPDX-License-Identifier: BSD-2-Clause */
/* Prints a VM's counters to the log: a line each, the exits that happened at all by reason. */
#include "bare.h"
#include "stats.h"
#include <virtx/virtx.h>

void print_stats(struct virtx_vm *vm)
{
    struct virtx_stats s;

    virtx_vm_stats(vm, &s);
    bare_printf("stats: entries %lu, returns to the loop %lu\n", s.entries, s.returns);
    for (unsigned i = 0; i < sizeof(s.exits) / sizeof(s.exits[0]); i++)
        if (s.exits[i])
            bare_printf("stats: exits %s %lu\n", virtx_exit_name(i), s.exits[i]);
    bare_printf("stats: control reads %lu, control writes %lu\n", s.control_reads,
                s.control_writes);
    bare_printf("stats: msr writes %lu, tlb flushes %lu\n", s.msr_writes, s.flushes);
    bare_printf("stats: faults mapped %lu, table pages %lu\n", s.faults_mapped, s.table_pages);
    bare_printf("stats: injections %lu, windows %lu\n", s.injections, s.windows);
    bare_printf("stats: instructions executed %lu, fpu switches %lu\n", s.instructions,
                s.fpu_switches);
}
