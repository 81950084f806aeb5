/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * INIT and start-up IPIs, taken between two entries (Intel SDM "Multiple-Processor Initialization",
 * AMD APM "Multiprocessor Initialization"). The hardware never sees them: a vcpu that waits for a
 * SIPI is not entered.
 */
#include "hw/service.h"

#define APIC_BASE_BSP (1ull << 8)

static void take_init(struct hw_vcpu *hv)
{
    struct virtx_vcpu *vcpu = hv->vcpu;

    hw_reset(vcpu, VIRTX_PRESET_INIT);
    if (vcpu->irq && vcpu->irq->init)
        vcpu->irq->init(vcpu->irq_ctx);
    if (!(hv->state.apic_base & APIC_BASE_BSP))
        hv->state.activity = VIRTX_WAIT_FOR_SIPI;
}

static void take_sipi(struct hw_vcpu *hv, uint8_t page)
{
    struct virtx_state *state = hw_change(hv, VIRTX_STATE_SEG | VIRTX_STATE_RIP | VIRTX_STATE_INTR);

    state->seg[VIRTX_CS].selector = (uint16_t)(page << 8);
    state->seg[VIRTX_CS].base = (uint64_t)page << 12;
    state->rip = 0;
    state->activity = VIRTX_ACTIVE;
}

enum hw_next hw_startup(struct hw_vcpu *hv)
{
    struct virtx_vcpu *vcpu = hv->vcpu;
    bool leave = vcpu->vm->config.exit_on_startup;
    uint32_t signals = hv->soft->startup;

    if (signals & VIRTX_REQUEST_INIT) {
        signals &= ~(uint32_t)VIRTX_REQUEST_INIT;
        hv->soft->startup = signals;
        if (leave) {
            /* A SIPI that came with it waits for the loop to have done its part. */
            if (!signals)
                hv->work &= ~(uint32_t)HW_WORK_STARTUP;
            hw_record(hv, VIRTX_EXIT_INIT);
            return HW_LEAVE;
        }
        take_init(hv);
    }
    hv->soft->startup = 0;
    hv->work &= ~(uint32_t)HW_WORK_STARTUP;
    if (!(signals & VIRTX_REQUEST_SIPI) ||
        hw_state(hv, VIRTX_STATE_INTR)->activity != VIRTX_WAIT_FOR_SIPI)
        return HW_ENTER;
    if (leave) {
        hw_record(hv, VIRTX_EXIT_SIPI)->sipi.vector = virtx_backend_sipi(vcpu);
        return HW_LEAVE;
    }
    take_sipi(hv, virtx_backend_sipi(vcpu));
    return HW_ENTER;
}
