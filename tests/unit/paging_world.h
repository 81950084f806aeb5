/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A host and a VM made of models, for the tests of src/paging: table pages whose HPAs are not in
 * the order of their addresses, a page pool that keeps what is not settled, and slots over memory
 * that need not exist. Replaces the parts of src/core that src/paging calls.
 */
#ifndef PAGING_WORLD_H
#define PAGING_WORLD_H

#include "core/object.h"
#include "paging/format.h"
#include "ref_walk.h"

#include <check.h>

#define WORLD_PAGE          4096ull
#define WORLD_TABLE_PAGES   2048u
#define WORLD_BACKING_PAGES (1u << 17) /* 512 MiB, at an address that is never accessed */
#define WORLD_SLOTS         6u

struct world {
    struct virtx virtx;
    struct virtx_vm vm;
    struct virtx_vcpu vcpu[2];
    enum ref_nested_format format;
    struct ref_memory memory; /* host-physical, for the reference walker: table pages only */
    uint64_t pool_limit;      /* pages that virtx_pool_get() will have out at most */
    uint64_t pool_used;
    uint64_t waiting;  /* pages given back that have not settled yet */
    unsigned gets;     /* calls of virtx_pool_get() */
    uint64_t *backing; /* HPA of each page of backing, or UINT64_MAX */
    unsigned lookups;  /* calls of virt_to_phys */
    /* What virt_to_phys answers for the table page after so many more: 1 an offset in it, 2 beyond
     * the physical width, 3 another page, 4 that there is none. 0: the truth. */
    unsigned nonsense, nonsense_after;
    uint64_t *log[WORLD_SLOTS]; /* dirty logs of the slots by virtx_memslot index */
    struct slot_table *slots;
};

/* ck_assert() leaves a mark at each call, which is too slow for inner loops. */
#define EXPECT(condition)                                                                          \
    do {                                                                                           \
        if (!(condition))                                                                          \
            ck_abort_msg("%s", #condition);                                                        \
    } while (0)

extern struct world world;
/* The backing's first byte; slots' memory lies from here on. */
#define WORLD_BACKING ((uint8_t *)0x700000000000)

/* A new world with a format and features; `engine` is set up in its VM. */
void world_begin(enum ref_nested_format format, const struct table_format *table_format,
                 uint64_t features);
/* Ends it; fails if pages are still in use. */
void world_end(void);
/* All vcpus have paid their debts: retired pages may be reused. */
void world_settle(void);
/* Publishes a slot table (its entries sorted here) as core does. */
void world_publish(const struct slot_entry *entries, unsigned count);
/* What the hardware finds for a GPA under a root. */
struct ref_nested world_walk(uint64_t root, uint64_t gpa);
/* What hardware writes to a table entry. */
void world_set_bits(uint64_t entry_hpa, uint64_t bits);
/* A generator with a seed, so that a failure repeats. */
uint64_t world_random(void);
uint32_t world_below(uint32_t bound);

#endif
