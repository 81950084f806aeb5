/* SPDX-License-Identifier: BSD-2-Clause */
/* XMM registers, for guests and their host, which are compiled for general registers only. */
#ifndef GUEST_XMM_H
#define GUEST_XMM_H

#include <stdint.h>

#define XMM_ALL(OP)                                                                                \
    OP(0)                                                                                          \
    OP(1) OP(2) OP(3) OP(4) OP(5) OP(6) OP(7) OP(8) OP(9) OP(10) OP(11) OP(12) OP(13) OP(14) OP(15)

/* What the compiler does not use needs no clobber. */
static inline void xmm_fill(uint64_t seed)
{
#define FILL(n)                                                                                    \
    __asm__ volatile("movq %0, %%xmm" #n "; pinsrw $7, %k0, %%xmm" #n : : "r"(seed + n));
    XMM_ALL(FILL)
}

static inline uint64_t xmm_differs(uint64_t seed)
{
    uint64_t bad = 0, low, high;
#define COMPARE(n)                                                                                 \
    __asm__ volatile("movq %%xmm" #n ", %0; pextrw $7, %%xmm" #n ", %k1" : "=r"(low), "=r"(high)); \
    bad += low != seed + n || (uint16_t)high != (uint16_t)(seed + n);
    XMM_ALL(COMPARE)
    return bad;
}

#endif
