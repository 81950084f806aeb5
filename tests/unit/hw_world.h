/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A machine made of models for the tests of src/hw: a vendor whose exits the test scripts, a paging
 * engine that maps nothing, a processor whose privileged instructions are variables. All of src/core
 * above it is the real one.
 */
#ifndef HW_WORLD_H
#define HW_WORLD_H

#include "hw/hw.h"
#include "x86/defs.h"

#define WORLD_RAM_BYTES (64u * 4096u)
#define WORLD_SCRIPT    64u

/* One entry of the script: what the guest does until its exit. Sets the record, as a vendor would. */
typedef void (*world_exit)(struct hw_vcpu *hv);

struct world {
    struct virtx *virtx;
    struct virtx_vm *vm;
    struct virtx_vcpu *vcpu;
    struct hw_vcpu *hv;
    uint8_t *ram; /* GPA 0 */
    struct virtx_memslot *slot; /* of it */
    unsigned translations;      /* questions for a host-physical address */

    world_exit script[WORLD_SCRIPT];
    unsigned length, at;
    enum virtx_status refuse; /* the next entry answers this */

    unsigned entries, advances, controls, roots, reads, loads, puts, to_hosts, tsc_offsets;
    uint32_t written;         /* groups that were newer than the hardware's at an entry */
    uint8_t tpr;              /* the guest's, with a TPR shadow */
    uint8_t cr8_threshold;
    uint64_t deadline;        /* told to the vendor */
    unsigned deadlines;       /* how often */
    uint32_t flushed;         /* debts paid so far */
    unsigned flushes, toggles;
    unsigned pages_mapped;    /* by map_page */
    uint8_t apic_page[4096];  /* with VIRTX_FEATURE_APIC_ACCESS */
    bool can_interrupt, can_nmi;
    bool window_interrupt, window_nmi;
    struct virtx_event injected[32]; /* in the order of delivery */
    unsigned injections;
    bool ports[65536];        /* true: passes */
    uint8_t msrs[3][0x2000];  /* bits of virtx_access that pass */

    enum virtx_fault_result fault_result;
    unsigned faults;

    uint64_t flags;           /* RFLAGS of the host */
    unsigned windows, kicks, nmis;
    uint64_t cr[16], dr[8], xcr0;
    uint64_t msr_written[8];  /* values, by order */
    uint32_t msr_index[8];
    unsigned msr_writes;
    unsigned fpu_saves, fpu_loads;
    uint32_t this_cpu;
    void (*on_enter)(struct hw_vcpu *hv); /* while "the guest runs" */
    void (*on_window)(void);              /* the host takes its interrupts */
};

/* With WORLD_THREADS each thread is a processor, with a world of its own: test_threads.c. */
#ifdef WORLD_THREADS
#define WORLD_LOCAL _Thread_local
#else
#define WORLD_LOCAL
#endif
extern WORLD_LOCAL struct world world;
/* What the processor is when it starts. */
void world_processor(void);
/* For a test that plays the processor itself and changes only some of this. */
extern const struct virtx_hw world_vendor;
extern const struct virtx_paging world_engine;
extern const struct virtx_host_ops world_host;

/* The processor of worlds begun from now on has XSAVES and XGETBV with ECX = 1, or misaligned SSE mode; the host's IA32_XSS. */
extern WORLD_LOCAL bool world_xsaves, world_misaligned_sse;
extern WORLD_LOCAL uint32_t world_hide_edx; /* features of leaf 1 that the processor lacks */
extern WORLD_LOCAL uint64_t world_host_xss;
extern WORLD_LOCAL uint64_t world_features; /* hardware features beyond those of all worlds */

/* Makes a world with RAM at GPA 0, a vcpu in a flat 32-bit start state, and clears what that cost. */
void world_begin(const struct virtx_host_profile *profile);
void world_end(void);

/* Appends an exit to the script. After its end, entries end in a host interrupt. */
void world_play(world_exit exit);
/* Runs; fails the test unless run answers VIRTX_OK. */
const struct virtx_exit *world_run(void);

/* Where the guest is: code at this address, and RIP there. */
void world_code(uint32_t at, const void *bytes, size_t length);

/* Exits that many tests need. */
void exit_cpuid(struct hw_vcpu *hv);
void exit_hlt(struct hw_vcpu *hv);
void exit_interrupt(struct hw_vcpu *hv);
void exit_window(struct hw_vcpu *hv);

void world_out(struct hw_vcpu *hv, uint16_t port, unsigned size, uint8_t length);
void world_in(struct hw_vcpu *hv, uint16_t port, unsigned size, uint8_t length);
void world_msr(struct hw_vcpu *hv, uint32_t index, bool write, uint64_t value);
void world_cr(struct hw_vcpu *hv, unsigned reg, bool write, unsigned gpr, uint64_t value);
void world_fault(struct hw_vcpu *hv, uint64_t gpa, uint8_t access);

uint64_t *world_gpr(void);
void world_get(uint32_t groups, struct virtx_state *state);
void world_set(uint32_t groups, const struct virtx_state *state);

#endif
