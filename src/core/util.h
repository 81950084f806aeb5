/* SPDX-License-Identifier: BSD-2-Clause */
/* Small helpers that every layer of the library uses. */
#ifndef VIRTX_CORE_UTIL_H
#define VIRTX_CORE_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define likely(x)     __builtin_expect(!!(x), 1)
#define unlikely(x)   __builtin_expect(!!(x), 0)
#define BIT(n)        (1ull << (n))
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* The four functions the library asks of its surroundings. */
void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memmove(void *to, const void *from, size_t bytes);
void *memset(void *to, int value, size_t bytes);
int memcmp(const void *a, const void *b, size_t bytes);

/* Bits hi..lo, both inclusive. */
static inline uint64_t bits_mask(unsigned hi, unsigned lo)
{
    return (UINT64_MAX >> (63 - hi)) & (UINT64_MAX << lo);
}

/* Whole pages that hold so many bytes. */
static inline size_t pages_for(size_t bytes)
{
    return (bytes + 4095) / 4096;
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Whether bits 63:47 agree (Intel SDM "Canonical Addressing"). */
static inline bool is_canonical(uint64_t address)
{
    return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

#endif
