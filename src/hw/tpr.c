/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * CR8 and the interrupt source that wants to know it.
 *
 * At first every access of CR8 exits and goes to the source. A guest that makes a habit of it gets
 * a CR8 of its own in the hardware (TPR shadow, V_TPR), where the vendor has one: from then on the
 * two copies are made to agree whenever somebody may look at either, and the guest exits only when
 * it lowers CR8 so far that a waiting interrupt becomes deliverable (Intel SDM "TPR
 * Virtualization"; AMD APM "Virtualizing APIC.TPR").
 */
#include "hw/service.h"

#define HABIT 8u /* exits */

static const struct virtx_irq_source *source(const struct hw_vcpu *hv)
{
    return hv->vcpu->irq;
}

/* Before the controls are computed: whether anybody wants to know. */
void hw_tpr_follow(struct hw_vcpu *hv)
{
    struct hw_soft *soft = hv->soft;
    bool follow =
        source(hv) && source(hv)->set_tpr && source(hv)->tpr && !soft->apic.page;

    if (likely(follow == soft->follow_cr8))
        return;
    soft->follow_cr8 = follow;
    hv->cr8_shadow = false;
    soft->cr8_exits = 0;
    hv->work |= HW_WORK_CONTROLS;
}

/* The hardware's copy becomes this. */
static void show(struct hw_vcpu *hv, uint8_t tpr)
{
    hv->soft->tpr_seen = tpr;
    hw_change(hv, VIRTX_STATE_CR)->cr8 = tpr >> 4;
    hv->ops->set_tpr(hv, tpr);
}

void hw_tpr_exit(struct hw_vcpu *hv)
{
    struct hw_soft *soft = hv->soft;

    if (!soft->follow_cr8 || hv->cr8_shadow ||
        !(hv->vcpu->virtx->caps.features & VIRTX_FEATURE_TPR_SHADOW) || ++soft->cr8_exits < HABIT)
        return;
    hv->cr8_shadow = true;
    soft->cr8_threshold = 0;
    show(hv, source(hv)->tpr(hv->vcpu->irq_ctx));
    hv->work |= HW_WORK_CONTROLS | HW_WORK_EVENT;
}

/* The source learns what the guest has written. */
void hw_tpr_pull(struct hw_vcpu *hv)
{
    struct hw_soft *soft = hv->soft;
    uint8_t tpr = soft->tpr_seen;

    if (!(hv->dirty & VIRTX_STATE_CR))
        tpr = hv->ops->tpr(hv);
    else if (tpr >> 4 != hv->state.cr8)
        tpr = (uint8_t)(hv->state.cr8 << 4);
    if (tpr != soft->tpr_seen) {
        soft->tpr_seen = tpr;
        source(hv)->set_tpr(hv->vcpu->irq_ctx, tpr);
    }
}

/* The priority class of the interrupt that only CR8 holds back; 0: none. Asking consumes nothing.
 */
static uint8_t held_back(struct hw_vcpu *hv)
{
    const struct virtx_irq_source *irq = source(hv);
    void *ctx = hv->vcpu->irq_ctx;
    uint8_t tpr = hv->soft->apic.page ? irq->tpr(ctx) : hv->soft->tpr_seen;
    int vector;

    if (tpr >> 4 == 0)
        return 0;
    if (irq->tpr_threshold)
        return irq->tpr_threshold(ctx);
    irq->set_tpr(ctx, 0);
    vector = irq->pending(ctx);
    irq->set_tpr(ctx, tpr);
    return vector < 0 || vector >> 4 > tpr >> 4 ? 0 : (uint8_t)(vector >> 4);
}

/* The hardware learns what somebody has written to the source (the TPR register of a LAPIC), and
 * what CR8 holds back now (after an end of interrupt, for example). */
void hw_tpr_push(struct hw_vcpu *hv)
{
    uint8_t tpr;

    if (!source(hv) || !source(hv)->tpr)
        return; /* detached: the next look at the events sees to it */
    tpr = source(hv)->tpr(hv->vcpu->irq_ctx);
    if (tpr != hv->soft->tpr_seen) {
        show(hv, tpr);
        hv->work |= HW_WORK_EVENT;
    }
    if (held_back(hv) != hv->soft->cr8_threshold)
        hv->work |= HW_WORK_EVENT;
}

/* After it has been decided what the coming entry delivers. */
void hw_tpr_threshold(struct hw_vcpu *hv)
{
    struct hw_soft *soft = hv->soft;
    uint8_t threshold = held_back(hv);

    if (threshold == soft->cr8_threshold)
        return;
    soft->cr8_threshold = threshold;
    hv->ops->cr8_threshold(hv, threshold);
}
