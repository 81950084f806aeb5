/* SPDX-License-Identifier: BSD-2-Clause */
/* The four functions that a compiler, and libvirtx, take for granted. */
#include "bare.h"

void *memcpy(void *restrict to, const void *restrict from, size_t length)
{
    void *at = to;
    size_t words = length / 8, rest = length % 8;

    /* Words first: the emulators count (and take time for) every step of a REP. */
    __asm__ volatile("rep movsq" : "+D"(at), "+S"(from), "+c"(words) : : "memory");
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(rest) : : "memory");
    return to;
}

void *memmove(void *to, const void *from, size_t length)
{
    if ((uintptr_t)to - (uintptr_t)from >= length)
        return memcpy(to, from, length);

    unsigned char *dst = to;
    const unsigned char *src = from;
    while (length-- > 0) {
        dst[length] = src[length];
        __asm__ volatile("" : : : "memory"); /* or the compiler sees a memmove here */
    }
    return to;
}

void *memset(void *to, int value, size_t length)
{
    void *at = to;
    size_t words = length / 8, rest = length % 8;
    uint64_t pattern = (uint8_t)value * 0x0101010101010101u;

    __asm__ volatile("rep stosq" : "+D"(at), "+c"(words) : "a"(pattern) : "memory");
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(rest) : "a"(pattern) : "memory");
    return to;
}

int memcmp(const void *a, const void *b, size_t length)
{
    const unsigned char *x = a, *y = b;

    for (size_t i = 0; i < length; i++) {
        if (x[i] != y[i])
            return x[i] < y[i] ? -1 : 1;
    }
    return 0;
}
