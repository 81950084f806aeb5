/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The processor's help for a local APIC whose registers lie in its page (struct virtx_irq_apic).
 *
 * What is in use follows IA32_APIC_BASE. In xAPIC mode the processor recognizes an access to a
 * register by its host-physical address, so a page must be mapped where the guest has its APIC. The
 * tables are those of all vcpus: the page is there while every vcpu that has ever run has its APIC
 * at that place, and gone before one that has not, and would find memory there, is entered.
 */
#include "hw/service.h"

#define APIC_BASE_X2APIC BIT(10)
#define APIC_BASE_ENABLE BIT(11)
#define APIC_BASE_PAGE   (~0xfffull)

void *hw_apic_page(struct virtx_vcpu *vcpu)
{
    const struct virtx_hw *ops = hw_ops(vcpu->virtx);

    return ops->apic_page ? ops->apic_page(hw_of(vcpu)) : NULL;
}

/* [lock] Where all vcpus have their APIC; 0: not in one place. */
static uint64_t common_place(const struct virtx_vm *vm)
{
    uint64_t place = 0;

    for (const struct virtx_vcpu *vcpu = vm->vcpus; vcpu; vcpu = vcpu->next) {
        const struct hw_vcpu *hv = vcpu->backend_data;
        uint64_t own = hv->soft->apic_place;

        if (own == HW_APIC_UNKNOWN)
            continue;
        if (own == HW_APIC_NOWHERE || (place && own != place))
            return 0;
        place = own;
    }
    return place;
}

/* This vcpu's APIC is at `place` from now on. */
static void move_page(struct hw_vcpu *hv, uint64_t place)
{
    struct virtx_vm *vm = hv->vcpu->vm;
    struct hw_vm *data = virtx_backend_vm(vm);
    const struct virtx_paging *paging = vm->paging;
    uint64_t flags, common;

    if (!data->apic_page || hv->soft->apic_place == place)
        return;
    flags = virtx_vm_lock(vm);
    hv->soft->apic_place = place;
    common = common_place(vm);
    if (data->apic_gpa && data->apic_gpa != common) {
        paging->memory(vm, data->apic_gpa, VIRTX_PAGE_SIZE, VIRTX_MEMORY_REMOVED);
        virtx_generation_next(vm);
        hw_owe(hv, HW_FLUSH_NESTED); /* the requests have been looked at already */
        data->apic_gpa = 0;
    }
    if (common && !data->apic_gpa && paging->map_page &&
        paging->map_page(vm, common, virtx_hpa(vm->virtx, data->apic_page)) == VIRTX_OK)
        data->apic_gpa = common;
    virtx_vm_unlock(vm, flags);
}

static struct hw_apic choose(const struct hw_vcpu *hv, uint64_t base)
{
    const struct virtx_vcpu *vcpu = hv->vcpu;
    uint64_t features = vcpu->virtx->caps.features;
    struct hw_apic apic = {.page = base != 0};
    bool x2apic = base & APIC_BASE_X2APIC, xapic = (base & APIC_BASE_ENABLE) && !x2apic;

    apic.x2apic = x2apic && (features & VIRTX_FEATURE_VIRTUAL_X2APIC);
    apic.access = xapic && (features & VIRTX_FEATURE_APIC_ACCESS) && vcpu->vm->paging->map_page;
    apic.registers = (apic.x2apic || apic.access) && (features & VIRTX_FEATURE_APIC_REGISTERS);
    /* Where events are delivered in software, those of the APIC are too. */
    apic.delivery = (xapic || x2apic) && (features & VIRTX_FEATURE_VIRTUAL_INTERRUPT) &&
                    !hv->confined && !vcpu->vm->config.interrupts_to_guest;
    return apic;
}

/* Before the controls are computed. */
void hw_apic_follow(struct hw_vcpu *hv)
{
    struct hw_soft *soft = hv->soft;
    const struct virtx_irq_source *irq = hv->vcpu->irq;
    uint64_t base = 0;

    if (irq && irq->apic && hw_apic_page(hv->vcpu))
        base = irq->apic->base(hv->vcpu->irq_ctx) | 1; /* never 0 */
    if (likely(base == soft->apic_base && hv->confined == soft->apic_confined &&
               soft->apic_place != HW_APIC_UNKNOWN))
        return;
    soft->apic_base = base;
    soft->apic_confined = hv->confined;
    soft->apic = choose(hv, base);
    atomic_store(&soft->posting,
                 soft->apic.delivery &&
                     (hv->vcpu->virtx->caps.features & VIRTX_FEATURE_POSTED_INTERRUPT));
    move_page(hv, soft->apic.access ? base & APIC_BASE_PAGE : HW_APIC_NOWHERE);
    if (soft->apic_place == HW_APIC_UNKNOWN)
        soft->apic_place = HW_APIC_NOWHERE; /* there is no page */
    soft->apic_new = true;
    soft->cr8_threshold = 0;
    hv->ops->cr8_threshold(hv, 0);
    hv->work |= HW_WORK_CONTROLS;
}

/* Both come when the instruction has ended. */
bool hw_apic_exit(struct hw_vcpu *hv)
{
    struct virtx_vcpu *vcpu = hv->vcpu;
    const struct virtx_exit *exit = &vcpu->exit;

    if (!vcpu->irq || !vcpu->irq->apic)
        return true;
    if (exit->reason == HW_EXIT_EOI)
        vcpu->irq->apic->ended(vcpu->irq_ctx, (uint8_t)exit->raw.qualification);
    else
        vcpu->irq->apic->written(vcpu->irq_ctx, (uint32_t)exit->raw.qualification & 0xff0);
    return true;
}

/*
 * An interrupt for a guest that runs on another CPU reaches it without an exit. The request is left for the case that
 * it does not run: then the next look at the events finds what was posted, and the order is that of a kick (run.c). So
 * a notification that the host takes, or a vcpu of another VM, loses nothing.
 */
bool hw_post(struct virtx_vcpu *vcpu, uint8_t vector)
{
    struct hw_vcpu *hv = hw_of(vcpu);
    const struct virtx *virtx = vcpu->virtx;
    uint32_t cpu;
    bool first;

    if (!atomic_load(&hv->soft->posting))
        return false;
    first = hv->ops->post(hv, vector);
    atomic_fetch_or(&vcpu->requests, VIRTX_REQUEST_POSTED);
    if (virtx->ops.wake && !atomic_load(&vcpu->running)) {
        virtx->ops.wake(virtx->ctx, vcpu);
    } else if (first) {
        cpu = atomic_load(&vcpu->cpu);
        if (cpu != VIRTX_NO_CPU && cpu != virtx->ops.this_cpu(virtx->ctx))
            virtx->ops.notify_cpu(virtx->ctx, cpu);
    }
    return true;
}

bool hw_posted(struct virtx_vcpu *vcpu, uint64_t set[4])
{
    struct hw_vcpu *hv = hw_of(vcpu);

    return (vcpu->virtx->caps.features & VIRTX_FEATURE_POSTED_INTERRUPT) && hv->ops->posted(hv, set);
}
