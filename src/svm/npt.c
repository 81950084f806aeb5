/* SPDX-License-Identifier: BSD-2-Clause */
/* The format of nested page tables: AMD APM volume 2, "Nested Paging". */
#include "paging/format.h"
#include "svm/svm.h"

#define NPT_P         (1ull << 0)
#define NPT_RW        (1ull << 1)
#define NPT_US        (1ull << 2)
#define NPT_PWT       (1ull << 3)
#define NPT_PCD       (1ull << 4)
#define NPT_A         (1ull << 5)
#define NPT_D         (1ull << 6)
#define NPT_PS        (1ull << 7)
#define NPT_PAT       (1ull << 7) /* of a 4-KiB leaf */
#define NPT_PAT_LARGE (1ull << 12)
#define NPT_NX        (1ull << 63)

/*
 * Entries have the layout of the host's own long-mode tables. All guest accesses are user accesses
 * to them ("Nested versus Guest Page Faults"), so U is always set.
 *
 * A leaf's memory type is the entry of the host's PAT that it selects. The processor combines it
 * with the type that the guest's tables and G_PAT say ("Combining Memory Types, MTRRs"); there is
 * no "ignore PAT".
 */

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
    .pat_index = {NPT_PWT, NPT_PCD, NPT_PAT},
    .pat_index_large = {NPT_PWT, NPT_PCD, NPT_PAT_LARGE},
};
