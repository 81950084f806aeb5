/* SPDX-License-Identifier: BSD-2-Clause */
/* The smallest application of the bare host. */
#include "bare.h"

int bare_main(void)
{
    bare_printf("hello from the log; command line \"%s\"\n", bare_command_line());
    bare_com1_write("hello from COM1\r\n", 17);
    return 0;
}
