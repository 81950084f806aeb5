/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A vcpu of src/svm in user space. The test plays the processor: it is called where VMRUN would be, finds
 * the VMCB as the library prepared it, and leaves an exit in it.
 */
#ifndef VIRTX_TEST_SVM_WORLD_H
#define VIRTX_TEST_SVM_WORLD_H

#include <check.h>
#include "svm/svm.h"
#include "x86/cpu.h"

struct svm_world {
    struct virtx virtx;
    struct virtx_vm vm;
    struct virtx_vcpu vcpu;
    struct svm_vm vm_data;
    struct svm_cpu cpu;
    struct virtx_backend backend;
    struct virtx_paging paging;
    struct svm_vcpu *sv;

    void (*processor)(struct svm_world *world); /* VMRUN */
    unsigned vmruns, vmloads, vmsaves, kicks, machine_checks;
    uint64_t last_vmload;
    uint8_t code[15]; /* what a fetch at RIP finds */
    unsigned code_bytes;
    uint64_t memory_at, memory_word; /* the one word of guest memory */
    uint64_t msr[4], msr_index[4];   /* written by the library, in order */
    unsigned msrs;
    struct vmcb_save loaded; /* what VMLOAD has put into the processor */
    uint64_t dr6, cr2;
};

extern struct svm_world world;
extern struct cpuid_regs (*world_cpuid)(uint32_t leaf, uint32_t subleaf);
extern uint64_t world_vm_cr, world_efer;

/* A vcpu in 64-bit mode at RIP 0x1000 with these features, loaded on CPU 0, its first entry still to come. */
void world_make(uint64_t features, bool nested);
void world_free(void);

/* One entry; the processor leaves `code` (and the VMCB otherwise as the hook made it). */
/* Enters, and answers with the refusal, if it is one. */
enum virtx_status world_enter(void);
enum virtx_status world_exit(uint64_t code, uint64_t info1, uint64_t info2);

#endif
