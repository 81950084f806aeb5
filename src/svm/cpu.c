/* SPDX-License-Identifier: BSD-2-Clause */
/* SVM on and off for one CPU: AMD APM volume 2, "Enabling SVM". */
#include "svm/svm.h"
#include "x86/cpu.h"

#define CPU_PAGES 2

enum virtx_status svm_cpu_enable(struct virtx *virtx, void *data, struct virtx_error *error)
{
    struct svm_cpu *cpu = data;
    uint64_t efer = x86_rdmsr(MSR_EFER);

    if (efer & EFER_SVME)
        return virtx_fail(error, VIRTX_E_IN_USE, "EFER.SVME",
                          "SVM is turned on already by somebody else on this CPU", efer);
    if (cpu->pages == NULL) {
        cpu->pages = virtx_pages_alloc(virtx, CPU_PAGES);
        if (cpu->pages == NULL)
            return virtx_fail(error, VIRTX_E_NO_MEMORY, "ops.pages_alloc",
                              "the host has no pages for the host save area", CPU_PAGES);
        cpu->hsave_hpa = virtx_hpa(virtx, cpu->pages);
        cpu->host_hpa = virtx_hpa(virtx, cpu->pages + VIRTX_PAGE_SIZE);
    }
    x86_wrmsr(MSR_EFER, efer | EFER_SVME);
    cpu->old_hsave = x86_rdmsr(MSR_VM_HSAVE_PA);
    x86_wrmsr(MSR_VM_HSAVE_PA, cpu->hsave_hpa);
    return VIRTX_OK;
}

void svm_cpu_disable(struct virtx *virtx, void *data)
{
    struct svm_cpu *cpu = data;

    x86_wrmsr(MSR_VM_HSAVE_PA, cpu->old_hsave);
    x86_wrmsr(MSR_EFER, x86_rdmsr(MSR_EFER) & ~EFER_SVME);
    virtx_pages_free(virtx, cpu->pages, CPU_PAGES);
    cpu->pages = NULL;
}

/* STGI is an invalid opcode once SVME is 0, so it comes first. The save area stays allocated: this
 * may be an NMI in the middle of anything. */
void svm_cpu_emergency_off(struct virtx *virtx, void *data)
{
    uint64_t efer = x86_rdmsr(MSR_EFER);

    (void)virtx;
    (void)data;
    if (efer & EFER_SVME) {
        svm_stgi();
        x86_wrmsr(MSR_EFER, efer & ~EFER_SVME);
    }
}
