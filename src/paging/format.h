/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The format of a hardware translation table, as data: one table engine serves all.
 *
 * Levels count from 1 (4 KiB leaves) to 4. A vendor describes its nested format with one constant
 * of this type in its own folder.
 */
#ifndef VIRTX_PAGING_FORMAT_H
#define VIRTX_PAGING_FORMAT_H

#include <stdbool.h>
#include <stdint.h>

struct table_format {
    const char *name;
    uint64_t present;    /* an entry with none of these bits is not present */
    uint64_t address;    /* bits of the HPA */
    uint64_t table;      /* bits of every entry that points to a table */
    uint64_t leaf;       /* bits of every leaf, whatever its rights */
    uint64_t large;      /* bit that makes an entry of level 2 or 3 a leaf */
    uint64_t read;       /* set when readable */
    uint64_t write;      /* set when writable */
    uint64_t execute;    /* set when executable (0: see no_execute) */
    uint64_t no_execute; /* set when not executable (0: see execute) */
    uint64_t accessed;   /* 0 where the format or processor has none */
    uint64_t dirty;
    uint64_t ignore_pat; /* set to make the slot's memory type final (0: cannot) */
    uint64_t type[8];    /* by virtx_memory_type: bits of a leaf, if … */
    /* … these are 0. Else they are the bits of a 4-KiB and of a large leaf that select an entry of
     * the host's PAT, the lowest first. */
    uint64_t pat_index[3], pat_index_large[3];
};

#endif
