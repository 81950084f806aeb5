/* SPDX-License-Identifier: BSD-2-Clause */
/* What modes.c and modes_asm.S agree on. */
#ifndef TESTS_GUEST_MODES_H
#define TESTS_GUEST_MODES_H

#define CODE  0x1000
#define NOTES 0x600
#ifdef __ASSEMBLER__
#define PORT_DONE 0x500
#define PORT_MARK 0x504
#endif

#endif
