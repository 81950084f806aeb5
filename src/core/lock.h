/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The library's one lock: a spinlock for short sections that never call out.
 *
 * Holders in ring 0 must not be preempted by something that wants the same lock, so whoever may be
 * interrupted by a caller of the library takes it with interrupts off; the calls that interrupt and
 * NMI handlers may make (kick, irq_changed) take no lock at all.
 */
#ifndef VIRTX_CORE_LOCK_H
#define VIRTX_CORE_LOCK_H

#include <stdatomic.h>

struct virtx_lock {
    atomic_flag held;
};

static inline void virtx_lock(struct virtx_lock *lock)
{
    while (atomic_flag_test_and_set_explicit(&lock->held, memory_order_acquire))
        __builtin_ia32_pause();
}

static inline void virtx_unlock(struct virtx_lock *lock)
{
    atomic_flag_clear_explicit(&lock->held, memory_order_release);
}

#endif
