/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The guest's own page tables, walked in software: all formats (unpaged, 32-bit with PSE and
 * PSE-36, PAE, 4-level), with the rights the processor would apply.
 *
 * One walker serves virtx_vcpu_translate(), instruction fetch, the instruction executor and shadow
 * paging. Nothing is cached: with nested paging nobody sees INVLPG.
 */
#ifndef VIRTX_PAGING_WALK_H
#define VIRTX_PAGING_WALK_H

#include "core/object.h"

/* The registers that govern a walk. */
struct walk_mode {
    uint64_t cr0, cr3, cr4, efer, rflags;
    uint64_t pdpte[4]; /* with PAE paging outside long mode */
    uint32_t pkru;
    uint8_t physical_bits; /* the guest's MAXPHYADDR: bits above are reserved */
    bool amd;              /* the guest's CPUID is an AMD processor's: bit 8 of a PML4E is reserved */
    bool no_1g;            /* the guest's CPUID has no 1-GByte pages: PS in a PDPTE is reserved */
};

enum walk_flag {
    WALK_USER = 1u << 0,      /* as at CPL 3 */
    WALK_IMPLICIT = 1u << 1,  /* implicit supervisor access (descriptor tables): SMAP without AC */
    WALK_SET_FLAGS = 1u << 2, /* set accessed and dirty flags as the processor does */
    WALK_SET_TABLES = 1u << 4, /* with WALK_SET_FLAGS: in the entries above one that is not present, too */
    WALK_PROBE = 1u << 3,     /* access may be 0: only find the page, ignore rights */
};

struct walk_result {
    uint64_t gpa;    /* when VIRTX_OK; when VIRTX_E_NOT_FOUND that of the table; when
                        VIRTX_E_RANGE that of the entry */
    uint64_t bytes;  /* size of the guest page */
    uint32_t error;  /* #PF error code, when VIRTX_E_FAULT */
    uint32_t rights; /* virtx_access bits granted at this privilege */
};

/* The entries that a walk used, the root's first, with the flags that it has set. */
struct walk_path {
    uint64_t root;  /* GPA of the first table */
    uint64_t table; /* of the last one looked at */
    uint64_t entry[4];
    uint8_t count;
    uint8_t width; /* bytes of an entry; 0: not paged */
};

/*
 * VIRTX_OK, VIRTX_E_FAULT (page fault), VIRTX_E_NOT_FOUND (a table of the guest is not in memory), VIRTX_E_RANGE (a
 * flag cannot be set, as the table lies in a slot that may not be written; nothing was).
 * Whether gva is canonical is the caller's question: that is #GP or #SS, not #PF. Flags are set
 * only by an access that is allowed, and as WALK_SET_TABLES says. On a vcpu's thread, or under the VM's lock.
 */
enum virtx_status walk_guest(struct virtx_vm *vm, const struct walk_mode *mode, uint64_t gva,
                             uint32_t access, uint32_t flags, struct walk_result *result);
/* The same, saying which way it went; `path` holds with VIRTX_OK, `path->table` without too. With
 * WALK_SET_TABLES it also holds after a fault on an entry that is not present, up to that; its count is
 * 0 if a flag could not be set. */
enum virtx_status walk_guest_path(struct virtx_vm *vm, const struct walk_mode *mode, uint64_t gva,
                                  uint32_t access, uint32_t flags, struct walk_result *result,
                                  struct walk_path *path);

#endif
