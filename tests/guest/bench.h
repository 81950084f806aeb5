/* SPDX-License-Identifier: BSD-2-Clause */
/* A guest's loop around one operation, measured in ticks of its TSC. */
#ifndef TESTS_GUEST_BENCH_H
#define TESTS_GUEST_BENCH_H

#include "harness.h"

static volatile uint64_t ticks;

#define MEASURE(count, text, ...)                                                                  \
    do {                                                                                           \
        uint64_t left_ = (count), start_ = bare_tsc();                                             \
        __asm__ volatile("7: " text "; decq %0; jnz 7b" : "+r"(left_) : __VA_ARGS__);              \
        ticks = bare_tsc() - start_;                                                               \
    } while (0)

#endif
