/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A guest, a host and a processor made of models, for the tests of shadow paging: guest memory that
 * holds the guest's tables, table pages of the host at scattered addresses, and a processor that
 * walks the engine's tables by the reference walker, with a TLB that forgets only when told.
 */
#ifndef SHADOW_WORLD_H
#define SHADOW_WORLD_H

#include "hw/hw.h"
#include "paging/shadow.h"
#include "ref_walk.h"

#include <check.h>

#define PAGE      4096ull
#define RAM_PAGES 1024u /* guest memory: 4 MiB from 0 on … */
#define HIGH_PAGES                                                                                 \
    1024u /* … and 4 MiB at HIGH, contiguous in the host and aligned for large leaves */
#define HIGH       0x40000000ull
#define ROM_PAGE   40u /* a slot of its own within the first, read-only */
#define POOL_PAGES 4096u

#define EXPECT(condition)                                                                          \
    do {                                                                                           \
        if (!(condition))                                                                          \
            ck_abort_msg("%s (operation %llu)", #condition, (unsigned long long)world.operations); \
    } while (0)

struct world {
    struct virtx virtx;
    struct virtx_vm vm;
    struct virtx_vcpu vcpu[2];
    struct hw_vcpu hv[2];
    struct walk_mode mode[2]; /* registers */
    uint8_t *ram;             /* RAM_PAGES, then HIGH_PAGES */
    uint64_t root[2];         /* what the processor has loaded */
    unsigned debts;           /* hw_owe() calls since the last look */
    uint64_t pool_limit, pool_used;
    uint64_t log[RAM_PAGES / 64]; /* dirty log of the slot at HIGH, when it keeps one */
    bool logging;
    bool executes; /* what the library would make of the instruction that writes */
    bool stale; /* the TLB may have what an executed write has changed: the guest has not flushed */
    uint64_t operations, faults, reflected, devices, executed, direct;
};
extern struct world world;

void world_begin(unsigned vcpus, uint64_t pool_limit, unsigned physical_bits, bool filter,
                 enum virtx_table_sync sync);
void world_end(void);
/* Publishes the slots; `without`: the slot at HIGH is gone; `narrow`: it may only be read. */
void world_slots(bool high, uint32_t rights, bool logging);
uint64_t world_random(void);
uint32_t world_below(uint32_t bound);

/* Host address of a guest page, NULL: none. */
uint8_t *world_ram(uint64_t gpa);
uint64_t world_hpa(uint64_t gpa);
bool world_is_memory(uint64_t gpa);  /* some slot is there now */
uint64_t *world_table(uint64_t hpa); /* a page of the pool */

/* What the guest's tables say now, and what the processor finds in the engine's. */
struct ref_result world_guest(unsigned cpu, uint64_t gva, const struct ref_access *access);
struct ref_result world_processor(unsigned cpu, uint64_t gva, const struct ref_access *access);
/* Does what src/hw does before an entry. */
void world_enter(unsigned cpu);
/* A TLB may lose what it has at any time. */
void world_forget(unsigned cpu);

enum outcome { DONE, FAULTED, DEVICE, REFUSED, EXECUTED };
/* An access of the guest, faults and all. `hpa`: where it went. */
enum outcome world_access(unsigned cpu, uint64_t gva, const struct ref_access *access,
                          uint64_t *hpa);

/* Looks at everything the engine keeps. */
void world_audit(void);
/* What holds after the guest has flushed its TLB: nothing is older than the guest's tables. */
void world_audit_fresh(unsigned cpu);
/* What holds of a processor's TLB after the guest has flushed it on that vcpu, all of it or one
 * page, and the vcpu has been entered: nothing is older than the guest's tables, whoever has seen
 * to them. */
#define WORLD_ALL UINT64_MAX
void world_audit_tlb(unsigned cpu, uint64_t gva);

#endif
