/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From probe to destruction: what of a CPU, a VM and a vcpu both vendors have in common.
 */
#include "hw/service.h"

enum virtx_status hw_probe(struct virtx *virtx, uint64_t disable, struct virtx_caps *caps,
                           struct virtx_error *error)
{
    return hw_ops(virtx)->probe(virtx, disable, caps, error);
}

enum virtx_status hw_cpu_enable(struct virtx *virtx, uint32_t cpu, struct virtx_error *error)
{
    struct hw_cpu *data = virtx_backend_cpu(virtx, cpu);

    data->index = cpu;
    hw_tags_begin(data);
    return hw_ops(virtx)->cpu_enable(virtx, data, error);
}

void hw_cpu_disable(struct virtx *virtx, uint32_t cpu)
{
    hw_ops(virtx)->cpu_disable(virtx, virtx_backend_cpu(virtx, cpu));
}

void hw_cpu_emergency_off(struct virtx *virtx, uint32_t cpu)
{
    hw_ops(virtx)->cpu_emergency_off(virtx, virtx_backend_cpu(virtx, cpu));
}

static void free_apic_page(struct virtx_vm *vm)
{
    struct hw_vm *data = virtx_backend_vm(vm);

    if (data->apic_page)
        virtx_pages_free(vm->virtx, data->apic_page, 1);
    data->apic_page = NULL;
}

enum virtx_status hw_vm_create(struct virtx_vm *vm)
{
    const struct virtx_hw *ops = hw_ops(vm->virtx);
    struct hw_vm *data = virtx_backend_vm(vm);
    enum virtx_status status;

    data->vm = vm;
    data->tsc_base = x86_rdtsc();
    if (vm->virtx->caps.features & VIRTX_FEATURE_APIC_ACCESS) {
        data->apic_page = virtx_pages_alloc(vm->virtx, 1);
        if (!data->apic_page)
            return virtx_fail(&vm->error, VIRTX_E_NO_MEMORY, "ops.pages_alloc",
                              "the host has no page for the local APICs", 1);
    }
    status = ops->vm_create(vm, data);
    if (status != VIRTX_OK) {
        free_apic_page(vm);
        return status;
    }
    status = hw_bitmaps_begin(vm);
    if (status != VIRTX_OK)
        hw_vm_destroy(vm);
    return status;
}

void hw_vm_destroy(struct virtx_vm *vm)
{
    hw_ops(vm->virtx)->vm_destroy(vm, virtx_backend_vm(vm));
    free_apic_page(vm);
}

enum virtx_status hw_vcpu_create(struct virtx_vcpu *vcpu)
{
    struct hw_vcpu *hv = virtx_backend_vcpu(vcpu);
    size_t pages = (sizeof(struct hw_soft) + VIRTX_PAGE_SIZE - 1) / VIRTX_PAGE_SIZE;
    enum virtx_status status;

    hv->ops = hw_ops(vcpu->virtx);
    hv->vcpu = vcpu;
    hv->tag_cpu = VIRTX_NO_CPU;
    hv->soft = virtx_pages_alloc(vcpu->virtx, pages);
    if (!hv->soft)
        return virtx_fail(&vcpu->error, VIRTX_E_NO_MEMORY, "vcpu", "the host has no pages left",
                          pages);
    hv->soft->pages = (uint8_t)pages;
    hv->soft->deadline = HW_NO_DEADLINE;
    hv->io_buffer = hv->soft->io_buffer;
    hw_cpuid_policy(hv);
    status = hw_fpu_create(hv);
    if (status == VIRTX_OK) {
        hw_reset(vcpu, VIRTX_PRESET_RESET);
        hw_switch_plan(hv);
        status = hw_mmio_create(hv);
    }
    if (status == VIRTX_OK) {
        status = hv->ops->vcpu_create(hv);
        if (status != VIRTX_OK)
            hw_mmio_destroy(hv);
    }
    if (status != VIRTX_OK) {
        hw_fpu_destroy(hv);
        virtx_pages_free(vcpu->virtx, hv->soft, pages);
        hv->soft = NULL;
        return status;
    }
    hv->soft->created = true;
    hv->soft->confined = hv->confined;
    hv->work |= HW_WORK_EVENT | HW_WORK_CONTROLS | HW_WORK_ROOT | HW_WORK_FPU;
    if (vcpu->vm->config.interrupts_to_guest)
        hv->work |= HW_WORK_NMI;
    return VIRTX_OK;
}

void hw_vcpu_destroy(struct virtx_vcpu *vcpu)
{
    struct hw_vcpu *hv = hw_of(vcpu);

    hv->ops->vcpu_destroy(hv);
    hw_mmio_destroy(hv);
    hw_fpu_destroy(hv);
    virtx_pages_free(vcpu->virtx, hv->soft, hv->soft->pages);
    hv->soft = NULL;
}

enum virtx_status hw_load(struct virtx_vcpu *vcpu, uint32_t cpu)
{
    struct hw_vcpu *hv = hw_of(vcpu);
    struct hw_cpu *data = virtx_backend_cpu(vcpu->virtx, cpu);
    uint64_t flags = x86_irq_save();
    enum virtx_status status;

    hw_tag_assign(hv, data);
    status = hv->ops->load(hv, data);
    if (status == VIRTX_OK) {
        hv->cpu = vcpu->virtx->cpus[cpu];
        hw_switch_load(hv);
        hv->work |= HW_WORK_LOADED | HW_WORK_EVENT;
        if (unlikely(vcpu->lazy_fpu | hv->soft->fpu_lazy))
            hw_fpu_begin(hv, vcpu->lazy_fpu);
        hw_deadline_load(hv);
    }
    x86_irq_restore(flags);
    return status;
}

void hw_put(struct virtx_vcpu *vcpu)
{
    struct hw_vcpu *hv = hw_of(vcpu);
    uint64_t flags = x86_irq_save();

    if (hv->cpu) {
        hw_retire_owed(hv);
        hv->ops->put(hv);
        hv->valid = VIRTX_STATE_ALL;
        hw_switch_put(hv);
        hv->cpu = NULL;
    }
    x86_irq_restore(flags);
}

void hw_memory(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes, enum virtx_memory_change change)
{
    struct hw_vm *data = virtx_backend_vm(vm);

    vm->paging->memory(vm, gpa, bytes, change);
    /* Adding makes nothing stale but this: the page of the local APICs gives way to the slot. */
    if (change == VIRTX_MEMORY_ADDED && data->apic_gpa && data->apic_gpa - gpa < bytes) {
        data->apic_gpa = 0;
        virtx_generation_next(vm);
    }
}

/* Its registers may be in a processor elsewhere: the vcpu's own thread does the rest. */
void hw_engine_changed(struct virtx_vcpu *vcpu)
{
    struct hw_vcpu *hv = hw_of(vcpu);

    hv->work |= HW_WORK_ENGINE | HW_WORK_CONTROLS | HW_WORK_ROOT | HW_WORK_EVENT;
    ((struct hw_vm *)virtx_backend_vm(vcpu->vm))->apic_gpa = 0;
    hv->soft->apic_place = HW_APIC_UNKNOWN;
    hv->soft->apic_base = 0;
    hw_owe(hv, HW_FLUSH_TAG | HW_FLUSH_NESTED);
}

void hw_collect_dirty(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes)
{
    vm->paging->collect_dirty(vm, gpa, bytes);
}

void hw_drain_dirty(struct virtx_vm *vm)
{
    const struct virtx_hw *ops = hw_ops(vm->virtx);

    if (!ops->drain)
        return;
    for (struct virtx_vcpu *vcpu = vm->vcpus; vcpu; vcpu = vcpu->next)
        ops->drain(hw_of(vcpu));
}
