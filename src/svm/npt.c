/* SPDX-License-Identifier: BSD-2-Clause */
/* The format of nested page tables: AMD APM volume 2, "Nested Paging". */
#include "paging/format.h"
#include "svm/svm.h"

#define NPT_P   (1ull << 0)
#define NPT_RW  (1ull << 1)
#define NPT_US  (1ull << 2)
#define NPT_PWT (1ull << 3)
#define NPT_PCD (1ull << 4)
#define NPT_A   (1ull << 5)
#define NPT_D   (1ull << 6)
#define NPT_PS  (1ull << 7)
#define NPT_NX  (1ull << 63)

/*
 * Entries have the layout of the host's own long-mode tables. All guest accesses are user accesses
 * to them ("Nested versus Guest Page Faults"), so U is always set.
 *
 * Memory types come from the host's PAT, of which this constant may only assume what all hosts
 * share: entry 0 (no bit) is write-back and entry 3 (PCD and PWT) is uncacheable, after reset and
 * in every kernel known. Types between the two become uncacheable, which is the stricter.
 */
#define NPT_WB 0
#define NPT_UC (NPT_PCD | NPT_PWT)
#define NPT_TYPES                                                                                  \
    {                                                                                              \
        [VIRTX_MEMORY_UC] = NPT_UC, [VIRTX_MEMORY_WC] = NPT_UC, [VIRTX_MEMORY_WT] = NPT_UC,        \
        [VIRTX_MEMORY_WP] = NPT_UC, [VIRTX_MEMORY_WB] = NPT_WB,                                    \
    }

const struct table_format svm_npt = {
    .name = "NPT",
    .present = NPT_P,
    .address = 0x000ffffffffff000,
    .table = NPT_P | NPT_RW | NPT_US,
    .leaf = NPT_P | NPT_US,
    .large = NPT_PS,
    .read = NPT_P,
    .write = NPT_RW,
    .execute = 0,
    .no_execute = NPT_NX,
    .accessed = NPT_A,
    .dirty = NPT_D,
    .ignore_pat = 0,
    .type = NPT_TYPES,
    .type_large = NPT_TYPES,
};
