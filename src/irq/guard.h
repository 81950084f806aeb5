/* SPDX-License-Identifier: BSD-2-Clause */
/* The lock inside a controller that devices and vcpus share: a byte, held for a few hundred
 * instructions with interrupts off, so that interrupt handlers may drive the inputs too. */
#ifndef VIRTX_IRQ_GUARD_H
#define VIRTX_IRQ_GUARD_H

#include "core/lock.h"

static inline uint64_t guard(uint8_t *lock)
{
    uint64_t flags = virtx_irq_off();

    while (__atomic_test_and_set(lock, __ATOMIC_ACQUIRE))
        __builtin_ia32_pause();
    return flags;
}

static inline void unguard(uint8_t *lock, uint64_t flags)
{
    __atomic_clear(lock, __ATOMIC_RELEASE);
    virtx_irq_restore(flags);
}

#endif
