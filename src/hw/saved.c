/* SPDX-License-Identifier: BSD-2-Clause */
/* What is saved of a vcpu beside its groups of registers. */
#include "hw/service.h"

bool hw_interrupted_get(struct virtx_vcpu *vcpu, struct virtx_event *event)
{
    struct hw_vcpu *hv = hw_of(vcpu);

    if (hv->has_reinject)
        *event = hv->reinject;
    return hv->has_reinject;
}

void hw_interrupted_set(struct virtx_vcpu *vcpu, const struct virtx_event *event)
{
    struct hw_vcpu *hv = hw_of(vcpu);

    hv->has_reinject = event != NULL;
    if (event)
        hv->reinject = *event;
    hv->work |= HW_WORK_EVENT;
}

uint32_t hw_msr_list(struct virtx_vcpu *vcpu, uint32_t *list, uint32_t room)
{
    struct hw_vcpu *hv = hw_of(vcpu);
    uint32_t count = 0;

    hw_cpuid_follow(hv);
    for (uint32_t i = 0;; i++) {
        uint32_t index = hw_msr_kept(i);

        if (!index)
            return count;
        if (!hw_msr_slot(hv, index))
            continue;
        if (count < room)
            list[count] = index;
        count++;
    }
}

enum virtx_status hw_msr_get(struct virtx_vcpu *vcpu, uint32_t index, uint64_t *value)
{
    struct hw_vcpu *hv = hw_of(vcpu);
    const uint64_t *slot;

    hw_cpuid_follow(hv);
    slot = hw_msr_slot(hv, index);
    if (!slot)
        return VIRTX_E_NOT_FOUND;
    *value = *slot;
    return VIRTX_OK;
}

enum virtx_status hw_msr_set(struct virtx_vcpu *vcpu, uint32_t index, uint64_t value)
{
    struct hw_vcpu *hv = hw_of(vcpu);

    hw_cpuid_follow(hv);
    if (!hw_msr_slot(hv, index))
        return VIRTX_E_NOT_FOUND;
    if (hw_msr_write(hv, index, value) != HW_MSR_OK)
        return virtx_fail(&vcpu->error, VIRTX_E_INVALID, "value", "is one that WRMSR accepts",
                          value);
    return VIRTX_OK;
}
