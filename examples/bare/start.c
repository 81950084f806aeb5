/* SPDX-License-Identifier: BSD-2-Clause */
/* The order in which the host comes up. */
#include "internal.h"

_Noreturn void bare_start_first(uint32_t magic, uint32_t information)
{
    bare_console_init();
    bare_bootinfo_init(magic, information);
    bare_console_options();
    bare_exit(bare_main());
}
