/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files of the bare host know of each other and an application need not. */
#ifndef BARE_INTERNAL_H
#define BARE_INTERNAL_H

#include "bare.h"
#include "ports.h"

extern char __image_start[], __image_end[];

void bare_console_init(void);
void bare_console_options(void); /* once the command line is known */
void bare_console_drain(void);   /* waits until COM1 has sent everything */
void bare_log_record(const char *text);

void bare_bootinfo_init(uint32_t magic, uint32_t address);

_Noreturn void bare_start_first(uint32_t magic, uint32_t information);

#endif
