/* SPDX-License-Identifier: BSD-2-Clause */
/* The life of a VM's and a vcpu's hardware structures; putting a vcpu on a CPU and taking it off.
 */
#include "svm/svm.h"
#include "x86/cpu.h"

/* State that VMLOAD and VMSAVE exchange. */
#define EXTRA_STATE                                                                                \
    (VIRTX_HOST_FS_BASE | VIRTX_HOST_GS_BASE | VIRTX_HOST_KERNEL_GS_BASE | VIRTX_HOST_TSS |        \
     VIRTX_HOST_LDT | VIRTX_HOST_SYSCALL | VIRTX_HOST_SYSENTER)

enum virtx_status svm_vm_create(struct virtx_vm *vm, void *data)
{
    struct svm_vm *svm = data;

    svm->iopm = virtx_pages_alloc(vm->virtx, SVM_IOPM_PAGES);
    svm->msrpm = virtx_pages_alloc(vm->virtx, SVM_MSRPM_PAGES);
    if (svm->iopm == NULL || svm->msrpm == NULL) {
        svm_vm_destroy(vm, data);
        return virtx_fail(&vm->error, VIRTX_E_NO_MEMORY, "ops.pages_alloc",
                          "the host has no contiguous pages for the permission maps",
                          SVM_IOPM_PAGES);
    }
    svm_bitmaps_init(svm->iopm, svm->msrpm);
    return VIRTX_OK;
}

void svm_vm_destroy(struct virtx_vm *vm, void *data)
{
    struct svm_vm *svm = data;

    if (svm->iopm != NULL)
        virtx_pages_free(vm->virtx, svm->iopm, SVM_IOPM_PAGES);
    if (svm->msrpm != NULL)
        virtx_pages_free(vm->virtx, svm->msrpm, SVM_MSRPM_PAGES);
    svm->iopm = svm->msrpm = NULL;
}

enum virtx_status svm_vcpu_create(struct hw_vcpu *hv)
{
    struct svm_vcpu *sv = svm_of(hv);
    struct virtx_vcpu *vcpu = hv->vcpu;
    struct virtx *virtx = vcpu->virtx;
    const struct svm_vm *vm = svm_vm_of(vcpu->vm);
    const struct virtx_host_profile *profile = &virtx->profile;
    struct vmcb_control *control = &sv->vmcb.control;
    uint64_t features = virtx->caps.features;

    sv->backup = virtx_pages_alloc(virtx, 1);
    if (sv->backup == NULL)
        return virtx_fail(&vcpu->vm->error, VIRTX_E_NO_MEMORY, "ops.pages_alloc",
                          "the host has no page for the copy of the VMCB", 1);
    sv->vmcb_hpa = virtx_hpa(virtx, &sv->vmcb);
    sv->next_rip = (features & VIRTX_FEATURE_NEXT_RIP) != 0;
    sv->decode_assist = (features & VIRTX_FEATURE_DECODE_ASSIST) != 0;
    sv->flush_by_asid = (features & VIRTX_FEATURE_FLUSH_BY_TAG) != 0;
    sv->watches_cr8 = !(features & VIRTX_FEATURE_VIRTUAL_PRIORITY);
    sv->nested = vcpu->vm->paging->nested;
    sv->clean = features & VIRTX_FEATURE_CLEAN_BITS ? VMCB_CLEAN_ALL : 0;
    sv->switch_extra = (profile->at_exit & EXTRA_STATE) != 0;
    sv->last_cpu = VIRTX_NO_CPU;
    hv->own_traps = true;
    control->iopm = virtx_hpa(virtx, vm->iopm);
    control->msrpm = virtx_hpa(virtx, vm->msrpm);
    control->tsc_offset = hv->tsc_offset;
    control->nested_control = sv->nested ? VMCB_NP_ENABLE : 0;
    control->asid = 1;
    control->tlb_control = VMCB_FLUSH_ALL;
    svm_controls(hv);
    return VIRTX_OK;
}

void svm_vcpu_destroy(struct hw_vcpu *hv)
{
    struct svm_vcpu *sv = svm_of(hv);

    svm_bitmaps_destroy(hv);
    if (sv->backup != NULL)
        virtx_pages_free(hv->vcpu->virtx, sv->backup, 1);
    sv->backup = NULL;
}

/* VMRUN would save the host's registers anywhere, or be an invalid opcode: somebody has changed
 * what virtx_cpu_enable() set. */
static enum virtx_status check_host(struct hw_vcpu *hv, const struct svm_cpu *cpu)
{
    uint64_t efer = x86_rdmsr(MSR_EFER), hsave;

    if (!(efer & EFER_SVME))
        return virtx_fail_manual(&hv->vcpu->error, VIRTX_E_HOST_STATE, "EFER.SVME",
                                 "SVM must be on while vcpus run", "Enabling SVM", efer);
    hsave = x86_rdmsr(MSR_VM_HSAVE_PA);
    if (hsave != cpu->hsave_hpa)
        return virtx_fail_manual(&hv->vcpu->error, VIRTX_E_HOST_STATE, "VM_HSAVE_PA",
                                 "the host save area must be the one that the library set",
                                 "VM_HSAVE_PA MSR", hsave);
    return VIRTX_OK;
}

enum virtx_status svm_load(struct hw_vcpu *hv, void *data)
{
    struct svm_vcpu *sv = svm_of(hv);
    struct svm_cpu *cpu = data;
    uint64_t host_mce = x86_read_cr4() & SVM_CR4_HOST;
    enum virtx_status status = check_host(hv, cpu);

    if (status != VIRTX_OK)
        return status;
    svm_vmsave(cpu->host_hpa);
    sv->host_hpa = cpu->host_hpa;
    if (sv->last_cpu != cpu->hw.index || sv->host_mce != host_mce) {
        sv->last_cpu = cpu->hw.index;
        sv->host_mce = host_mce;
        hv->dirty |= hv->valid & VIRTX_STATE_CR;
        sv->vmcb.control.clean = 0;
    }
    /* Without tags all guests of a CPU share one ASID, so each starts with an empty TLB. */
    if (hv->tag == 0)
        svm_flush(hv, HW_FLUSH_TAG);
    else if (sv->vmcb.control.asid != hv->tag) {
        sv->vmcb.control.asid = hv->tag;
        svm_dirty(sv, VMCB_CLEAN_ASID);
    }
    x86_write_cr2(sv->vmcb.save.cr2);
    sv->extra = SVM_EXTRA_VMCB;
    sv->host_stale = false;
    svm_attend(sv);
    return VIRTX_OK;
}

void svm_put(struct hw_vcpu *hv)
{
    struct svm_vcpu *sv = svm_of(hv);

    svm_read(hv, VIRTX_STATE_ALL & ~hv->valid);
    if (sv->extra != SVM_EXTRA_VMCB)
        svm_vmload(sv->host_hpa);
    sv->extra = SVM_EXTRA_VMCB;
}

void svm_engine(struct hw_vcpu *hv)
{
    struct svm_vcpu *sv = svm_of(hv);

    sv->nested = hv->vcpu->vm->paging->nested;
    sv->vmcb.control.nested_control = sv->nested ? VMCB_NP_ENABLE : 0;
    svm_dirty(sv, VMCB_CLEAN_NP | VMCB_CLEAN_CR);
}

void svm_set_root(struct hw_vcpu *hv, uint64_t hpa)
{
    struct svm_vcpu *sv = svm_of(hv);

    if (sv->nested) {
        sv->vmcb.control.nested_cr3 = hpa;
        svm_dirty(sv, VMCB_CLEAN_NP);
    } else if (sv->vmcb.save.cr3 != hpa || !(sv->vmcb.save.efer & EFER_LMA)) {
        /* No reason to expect that the entry is refused. In PAE format CR3 is loaded for the
         * entries' sake. */
        sv->vmcb.save.cr3 = hpa;
        sv->vmcb.control.clean &= ~(uint32_t)VMCB_CLEAN_CR;
        svm_attend(sv);
        hv->vcpu->stats.control_writes++;
    }
}

/*
 * The host's FS, GS, TR … were put back by the entry code where the profile wants them at every
 * exit. Later tiers are served here, lazily: the guest's return with the next entry.
 */
void svm_to_host(struct hw_vcpu *hv, uint32_t mask)
{
    struct svm_vcpu *sv = svm_of(hv);

    if (sv->switch_extra) {
        sv->host_stale = true;
    } else if ((mask & EXTRA_STATE) && sv->extra != SVM_EXTRA_VMCB) {
        svm_extra_save(sv);
        svm_vmload(sv->host_hpa);
        sv->extra = SVM_EXTRA_VMCB;
        sv->host_stale = true;
        svm_attend(sv);
    }
}

/* Both debts are the same here: a tag's entries hold nested translations too. */
void svm_flush(struct hw_vcpu *hv, uint32_t debts)
{
    struct svm_vcpu *sv = svm_of(hv);
    struct vmcb_control *control = &sv->vmcb.control;
    uint32_t asid = hv->tag != 0 ? hv->tag : 1;

    if (control->asid != asid) {
        control->asid = asid;
        svm_dirty(sv, VMCB_CLEAN_ASID);
    }
    if (debts == 0)
        return;
    control->tlb_control = sv->flush_by_asid ? VMCB_FLUSH_ASID : VMCB_FLUSH_ALL;
    svm_attend(sv);
    hv->vcpu->stats.flushes++;
}

void svm_tsc_offset(struct hw_vcpu *hv)
{
    struct svm_vcpu *sv = svm_of(hv);

    sv->vmcb.control.tsc_offset = hv->tsc_offset;
    svm_dirty(sv, VMCB_CLEAN_INTERCEPTS);
}
