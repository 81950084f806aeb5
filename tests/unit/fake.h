/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A host, a backend and a paging engine made up for unit tests of the objects: they count, fail or
 * talk nonsense when told to, and check what the library promises to them.
 */
#ifndef VIRTX_TESTS_UNIT_FAKE_H
#define VIRTX_TESTS_UNIT_FAKE_H

#include <check.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/object.h"
#include "x86/cpu.h"

#define FAKE_CPUS    4u
#define FAKE_CHANGES 16u

/* What the host answers instead of the truth. */
enum fake_nonsense {
    FAKE_HONEST,
    FAKE_MISALIGNED,   /* pages_alloc returns memory that is not page-aligned */
    FAKE_NO_ADDRESS,   /* virt_to_phys knows no page */
    FAKE_ODD_ADDRESS,  /* virt_to_phys answers with an offset in the page */
    FAKE_WIDE_ADDRESS, /* virt_to_phys answers beyond the physical width */
    FAKE_SCATTERED,    /* pages of one allocation are not contiguous */
    FAKE_ONE_WAY,      /* phys_to_virt is not the inverse */
    FAKE_NONSENSE_COUNT,
};

struct fake_change {
    uint64_t gpa, bytes;
    enum virtx_memory_change change;
};

struct fake_vcpu {
    struct virtx_state state;
    void *page;
    unsigned again; /* how often complete answers VIRTX_AGAIN */
    bool loaded;
    uint8_t filler[4096]; /* so that it takes more than a page */
};

struct fake {
    /* Host. */
    enum fake_nonsense nonsense;
    unsigned fail_at;     /* the n-th pages_alloc from now on fails; 0: none does */
    unsigned allocations; /* calls of pages_alloc */
    size_t pages;         /* pages the library holds */
    const void *away;     /* a page without backing */
    _Atomic bool ipi[FAKE_CPUS];
    _Atomic unsigned ipis;

    /* Backend and engine. */
    const char *fail_op;           /* this operation fails … */
    enum virtx_status fail_status; /* … with this, leaving its own detail unless `silent` */
    bool silent;
    unsigned fail_after;    /* … after so many calls that succeed */
    _Atomic unsigned calls; /* of any operation */
    unsigned runs, kicks, emergencies;
    _Atomic unsigned puts, loads;
    _Atomic unsigned enabled; /* CPUs on */
    bool forced;      /* what intercept_check says */
    struct fake_change change[FAKE_CHANGES];
    unsigned changes;
    struct virtx *virtx; /* of the last probe */

    void (*put)(struct virtx_vcpu *vcpu);              /* while it is put */
    enum virtx_status (*run)(struct virtx_vcpu *vcpu); /* the guest; NULL: halts at once */
    void (*memory)(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes,
                   enum virtx_memory_change change);
    void (*collect)(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes);
    struct cpuid_regs (*cpuid)(uint32_t leaf, uint32_t subleaf);
};

extern struct fake fake;
extern _Thread_local uint32_t fake_cpu; /* what this_cpu answers */

extern const struct virtx_host_ops fake_ops;
extern const struct virtx_backend fake_backend;
extern const struct virtx_paging fake_nested, fake_shadow;

/* Forgets everything. Fails the test if the library still holds memory. */
void fake_begin(void);
/* No page is held any more. */
void fake_end(void);

/* A configuration that works; a test changes what it is about. */
struct virtx_config fake_config(void);
/* An instance, enabled on CPU 0; a VM with defaults; a vcpu. They must come about. */
struct virtx *fake_open(void);
struct virtx_vm *fake_vm(struct virtx *virtx);
struct virtx_vcpu *fake_vcpu(struct virtx_vm *vm, uint32_t id);
struct fake_vcpu *fake_of(struct virtx_vcpu *vcpu);
/* Undoes fake_open(), with every vcpu destroyed by the test. */
void fake_close(struct virtx *virtx);

/* Page-aligned memory of the test's own; free() takes it back. */
void *fake_memory(size_t pages);
/* A slot of such memory, with all rights. */
struct virtx_memslot *fake_slot(struct virtx_vm *vm, uint64_t gpa, size_t pages, void *memory);

/* The last error of an object names this status and something, with a rule. */
void fake_error(const struct virtx_error *error, enum virtx_status status, const char *what);

/* Adds a test case with fake_begin() and fake_end() around each test. */
TCase *fake_case(Suite *suite, const char *name);
int fake_main(Suite *suite);

#endif
