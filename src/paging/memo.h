/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A walk for an instruction fetch that need not be made again, because it would read the same.
 *
 * This is no cache of a translation: each hit reads every entry that the walk read and compares it
 * with what it was then, so the guest's INVLPG is not missed. The result of a walk depends on
 * nothing else but the registers and the slots, which are compared too (the slots by the VM's
 * generation). Only 4-level walks to memory are remembered.
 */
#ifndef VIRTX_PAGING_MEMO_H
#define VIRTX_PAGING_MEMO_H

#include "paging/walk.h"

struct walk_memo {
    uint64_t page; /* of the linear address, with bit 0 set for user code */
    uint64_t cr3, cr4, efer;
    uint64_t generation;
    const uint64_t *at[4]; /* all four are valid pointers once anything is remembered */
    uint64_t entry[4];
    const uint8_t *host; /* of the page; NULL: nothing is remembered */
};

/* Host address of the byte at gva, good up to the end of its page until the vcpu settles; NULL:
 * walk. */
static inline const uint8_t *walk_memo_find(const struct walk_memo *memo, struct virtx_vm *vm,
                                            uint64_t cr3, uint64_t cr4, uint64_t efer, uint64_t gva,
                                            bool user)
{
    if (((gva & ~0xfffull) | user) != memo->page || cr3 != memo->cr3 || cr4 != memo->cr4 ||
        efer != memo->efer || !memo->host ||
        atomic_load_explicit(&vm->generation, memory_order_acquire) != memo->generation)
        return NULL;
    for (unsigned i = 0; i < 4; i++)
        if (__atomic_load_n(memo->at[i], __ATOMIC_RELAXED) != memo->entry[i])
            return NULL;
    return memo->host + (gva & 0xfff);
}

/* Walks for a fetch at gva, flags WALK_USER or 0, and remembers it if it can. As walk_guest(). */
enum virtx_status walk_memo_fill(struct walk_memo *memo, struct virtx_vm *vm,
                                 const struct walk_mode *mode, uint64_t gva, uint32_t flags,
                                 struct walk_result *result);

#endif
