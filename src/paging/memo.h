/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A walk for an instruction fetch that need not be made again, because it would read the same.
 *
 * This is no cache of a translation: each use reads every entry that the walk read and compares it
 * with what it was then, so the guest's INVLPG is not missed. The result of a walk depends on
 * nothing else but the registers, which whoever keeps the memo compares, and the slots, which the
 * VM's generation stands for. Only 4-level walks to memory are remembered; for those the registers
 * are CR3, CR4.SMEP, EFER.LMA, EFER.NXE and the CPL.
 */
#ifndef VIRTX_PAGING_MEMO_H
#define VIRTX_PAGING_MEMO_H

#include "paging/walk.h"

struct walk_memo {
    uint64_t generation;
    const uint64_t *at[4]; /* all four are valid pointers once anything is remembered */
    uint64_t entry[4];
    const uint8_t *host; /* of the page; NULL: nothing is remembered */
};

/* Whether memo->host, which is not NULL, is still where the walk would lead with the registers of
 * then. It is good up to the end of the page until the vcpu settles. */
static inline __attribute__((always_inline)) bool walk_memo_holds(const struct walk_memo *memo,
                                                                  struct virtx_vm *vm)
{
    return atomic_load_explicit(&vm->generation, memory_order_acquire) == memo->generation &&
           __atomic_load_n(memo->at[0], __ATOMIC_RELAXED) == memo->entry[0] &&
           __atomic_load_n(memo->at[1], __ATOMIC_RELAXED) == memo->entry[1] &&
           __atomic_load_n(memo->at[2], __ATOMIC_RELAXED) == memo->entry[2] &&
           __atomic_load_n(memo->at[3], __ATOMIC_RELAXED) == memo->entry[3];
}

/* Walks for a fetch at gva, flags WALK_USER or 0, and remembers it if it can. As walk_guest(). */
enum virtx_status walk_memo_fill(struct walk_memo *memo, struct virtx_vm *vm,
                                 const struct walk_mode *mode, uint64_t gva, uint32_t flags,
                                 struct walk_result *result);

#endif
