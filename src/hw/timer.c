/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The time at which the guest is to be interrupted although nobody sends an interrupt: the
 * interrupt source's next deadline, or the embedder's own.
 *
 * A vendor with a timer of its own exits then (virtx_hw.deadline). Elsewhere a host interrupt has
 * to come, which the embedder sees to when it is told (virtx_host_ops.timer); after each one the
 * time is looked at. Both ways lead to the event queue, which asks the source.
 */
#include "hw/service.h"

/* A source that answers with a time that has gone by must not keep the guest from moving. */
#define LEAST 4096u /* ticks */

bool hw_deadline_due(struct hw_vcpu *hv)
{
    struct virtx_vcpu *vcpu = hv->vcpu;

    if (likely(!vcpu->deadline) || x86_rdtsc() < vcpu->deadline)
        return false;
    vcpu->deadline = 0;
    hw_record(hv, VIRTX_EXIT_DEADLINE);
    return true;
}

void hw_deadline_follow(struct hw_vcpu *hv)
{
    struct virtx_vcpu *vcpu = hv->vcpu;
    const struct virtx *virtx = vcpu->virtx;
    uint64_t next = HW_NO_DEADLINE;

    hv->work &= ~(uint32_t)HW_WORK_DEADLINE;
    if (vcpu->irq && vcpu->irq->deadline)
        next = vcpu->irq->deadline(vcpu->irq_ctx);
    if (next != HW_NO_DEADLINE) {
        uint64_t now = x86_rdtsc();

        next = next > now ? next : now + LEAST;
    }
    if (vcpu->deadline && vcpu->deadline < next)
        next = vcpu->deadline;
    if (next == hv->soft->deadline)
        return;
    hv->soft->deadline = next;
    if (virtx->caps.features & VIRTX_FEATURE_TIMER)
        hv->ops->deadline(hv, next);
    else if (virtx->ops.timer)
        virtx->ops.timer(virtx->ctx, vcpu, next);
}

void hw_deadline_load(struct hw_vcpu *hv)
{
    const struct virtx *virtx = hv->vcpu->virtx;

    if ((virtx->caps.features & VIRTX_FEATURE_TIMER) || !virtx->ops.timer)
        return;
    hv->soft->deadline = HW_NO_DEADLINE;
    hv->work |= HW_WORK_DEADLINE;
}

void hw_deadline_look(struct hw_vcpu *hv)
{
    if (hv->soft->deadline != HW_NO_DEADLINE && x86_rdtsc() >= hv->soft->deadline)
        hv->work |= HW_WORK_EVENT | HW_WORK_DEADLINE;
}
