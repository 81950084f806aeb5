/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reference page walkers for tests: the guest's own tables, EPT and NPT, written from the manuals
 * rule by rule and without a thought for speed. They share nothing with src/paging.
 */
#ifndef REF_WALK_H
#define REF_WALK_H

#include <stdbool.h>
#include <stdint.h>

/* Memory as a walker sees it. */
struct ref_memory {
    /* Reads `width` (4 or 8) bytes; false: there is no memory at that address. */
    bool (*read)(void *ctx, uint64_t address, unsigned width, uint64_t *value);
    void *ctx;
    unsigned references; /* how many reads were made */
};

struct ref_registers {
    uint64_t cr0, cr3, cr4, efer, rflags, pdpte[4];
    uint32_t pkru;
    unsigned maxphyaddr;
    bool amd; /* bit 8 of a PML4E is reserved */
    bool page1gb;
};

struct ref_access {
    bool write, fetch;
    bool cpl3;     /* CPL is 3 */
    bool implicit; /* implicit access to a system structure */
};

enum ref_kind { REF_OK, REF_PAGE_FAULT, REF_NO_MEMORY };

struct ref_entry {
    uint64_t address, value;
    unsigned width;
};

struct ref_result {
    enum ref_kind kind;
    uint64_t address;    /* physical address, when REF_OK */
    uint64_t page_bytes; /* size of the page */
    uint32_t error;      /* error code, when REF_PAGE_FAULT */
    unsigned count;      /* entries read from memory, root first */
    struct ref_entry entry[4];
};

struct ref_result ref_walk(struct ref_memory *memory, const struct ref_registers *regs,
                           uint64_t linear, const struct ref_access *access);

/* What an entry becomes once the processor has used it; `leaf` and `write` set the dirty flag too.
 */
uint64_t ref_used_entry(uint64_t value, bool leaf, bool write);

enum ref_nested_format { REF_EPT, REF_NPT };

enum ref_nested_kind {
    REF_NESTED_OK,
    REF_NESTED_NOT_PRESENT,
    REF_NESTED_MISCONFIGURED, /* reserved bits, or an EPT misconfiguration */
};

struct ref_nested {
    enum ref_nested_kind kind;
    uint64_t hpa, page_bytes;
    bool read, write, execute;
    bool dirty;      /* the leaf's dirty flag */
    unsigned type;   /* EPT memory type, or the PAT index (PAT:PCD:PWT) of an NPT leaf */
    bool ignore_pat; /* EPT bit 6 */
    unsigned level;  /* of the leaf, or where the walk ended */
    uint64_t leaf, leaf_address;
};

/* `memory` is host-physical. */
struct ref_nested ref_nested_walk(struct ref_memory *memory, enum ref_nested_format format,
                                  uint64_t root, uint64_t gpa);

#endif
