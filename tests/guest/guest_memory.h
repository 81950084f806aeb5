/* SPDX-License-Identifier: BSD-2-Clause */
/* What the guests that try memory have in common. */
#ifndef GUEST_MEMORY_H
#define GUEST_MEMORY_H

#include "harness.h"

enum {
    PAGE = 4096,
    PTE = 7, /* present, writable, user */
};

/* For the guest: the host reaches the slot's memory through machine.ram. */
#define RAM8(offset)  (*(volatile uint8_t *)(uintptr_t)(GUEST_MEMORY + (offset)))
#define RAM64(offset) (*(volatile uint64_t *)(uintptr_t)(GUEST_MEMORY + (offset)))

static inline uint64_t read64(uint64_t gva)
{
    return *(volatile uint64_t *)(uintptr_t)gva;
}

static inline void write64(uint64_t gva, uint64_t value)
{
    *(volatile uint64_t *)(uintptr_t)gva = value;
}

static inline void guest_read64(uint64_t gva)
{
    guest_done(read64(gva));
}

static inline void guest_write64(uint64_t gva)
{
    write64(gva, 0x1122334455667788);
    guest_done(1);
}

static inline void guest_fill(uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i += PAGE)
        RAM64(i) = i + 1;
    guest_done(1);
}

/* Serves MMIO at GUEST_HOLE from `device` until the guest is done (guest_device.c). */
extern uint8_t device[PAGE];
bool serve_device(void);

#endif
