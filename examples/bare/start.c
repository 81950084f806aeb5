/* SPDX-License-Identifier: BSD-2-Clause */
/* The order in which the host comes up. */
#include "internal.h"

#define PIC1_DATA 0x21
#define PIC2_DATA 0xa1

_Noreturn void bare_start_first(uint32_t magic, uint32_t information)
{
    bare_console_init();
    bare_bootinfo_init(magic, information);
    bare_console_options();
    bare_out8(PIC1_DATA, 0xff); /* the firmware's timer would interrupt on an exception's vector */
    bare_out8(PIC2_DATA, 0xff);
    bare_traps_init();
    bare_cpu_init_first();
    bare_pages_init();
    bare_cpus_find();
    bare_exit(bare_main());
}
