/* SPDX-License-Identifier: BSD-2-Clause */
/* What the two halves of the harness share. */
#ifndef TESTS_GUEST_GUEST_CPU_H
#define TESTS_GUEST_GUEST_CPU_H

#include "harness.h"

/* What one guest processor needs. guest_entry.S finds it from RSP: aligned to its size, stack at
 * the end, user stack up to 4096. */
struct guest_cpu {
    uint8_t tss[128];
    uint8_t user_stack[4096 - 128];
    uint8_t stack[12288];
} __attribute__((aligned(16384)));

extern struct guest_cpu guest_cpus[GUEST_CPUS];
extern const char guest_returned[];

void guest_trapped(struct bare_frame *frame);

#endif
