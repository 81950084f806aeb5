/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The library's one lock: a spinlock for short sections that never call the embedder's code but the
 * host functions.
 *
 * A handler inside run wants the same locks with interrupts off, so in ring 0 every holder has
 * them off too: a holder that is preempted on the CPU where somebody spins would never go on. The
 * calls that interrupt and NMI handlers may make (kick, irq_changed, nmi) take no lock at all.
 */
#ifndef VIRTX_CORE_LOCK_H
#define VIRTX_CORE_LOCK_H

#include <stdatomic.h>
#include <stdint.h>

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

/* Interrupts off, in ring 0; a program in ring 3 has no say in that. Returns what was. */
static inline uint64_t virtx_irq_off(void)
{
    uint64_t flags = 0;
    uint16_t cs;

    __asm__ volatile("movw %%cs, %0" : "=r"(cs));
    if ((cs & 3) == 0)
        __asm__ volatile("pushfq; popq %0; cli" : "=r"(flags) : : "memory");
    return flags;
}

static inline void virtx_irq_restore(uint64_t flags)
{
    if (flags & 0x200) /* RFLAGS.IF */
        __asm__ volatile("sti" : : : "memory");
}

static inline uint64_t virtx_lock_irq(struct virtx_lock *lock)
{
    uint64_t flags = virtx_irq_off();

    virtx_lock(lock);
    return flags;
}

static inline void virtx_unlock_irq(struct virtx_lock *lock, uint64_t flags)
{
    virtx_unlock(lock);
    virtx_irq_restore(flags);
}

#endif
