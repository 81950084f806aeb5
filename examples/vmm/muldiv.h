/* SPDX-License-Identifier: BSD-2-Clause */
/* a * b / c without overflow in between: how the devices convert between clocks. */
#ifndef VMM_MULDIV_H
#define VMM_MULDIV_H

#include <stdint.h>

/* The result must fit in 64 bits, that is a < c or b < c or both small; the caller sees to it. */
static inline uint64_t muldiv(uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t low, high, rest;
    __asm__("mulq %3" : "=a"(low), "=d"(high) : "a"(a), "rm"(b) : "cc");
    if (high >= c)
        return UINT64_MAX;
    __asm__("divq %4" : "=a"(low), "=d"(rest) : "0"(low), "1"(high), "rm"(c) : "cc");
    return low;
}

#endif
