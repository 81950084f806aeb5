/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Posted interrupts (Intel SDM "Posted-Interrupt Processing").
 *
 * Anybody may set a bit of the requests, and then the bit for a notification; whoever finds the
 * latter clear sends the notification vector. A processor in the guest that takes that vector
 * clears the bit and moves the requests to the virtual-APIC page. One that is not in the guest does
 * as with any interrupt, and the requests are taken here before the entry. Both clear the bit
 * first: what is requested afterwards is notified again.
 */
#include "vmx/vmx.h"

#define MSR_APIC_BASE    0x1b
#define APIC_BASE_X2APIC (1u << 10)
#define LEAF_TOPOLOGY    0xb

/* The VMCS is written for the first time. */
void vmx_posted_first(struct vmx_vcpu *v)
{
    const struct virtx *virtx = v->hw.vcpu->virtx;

    if (!vmx_has(v, VIRTX_FEATURE_POSTED_INTERRUPT))
        return;
    vmx_set_field(v, VMCS_POSTED_VECTOR, virtx->ops.posted_vector);
    vmx_set_field(v, VMCS_POSTED_DESCRIPTOR, virtx_hpa(virtx, &v->posted));
}

/* Where devices that post by themselves send their notifications: an xAPIC's number is in bits
 * 15:8. */
static uint32_t target(void)
{
    if (x86_rdmsr(MSR_APIC_BASE) & APIC_BASE_X2APIC)
        return x86_cpuid(LEAF_TOPOLOGY, 0).edx;
    return x86_cpuid(1, 0).ebx >> 24 << 8;
}

/* Loaded on this CPU; what came meanwhile is found with the first look at the events. */
void vmx_posted_load(struct vmx_vcpu *v)
{
    uint64_t old, control;

    if (!vmx_has(v, VIRTX_FEATURE_POSTED_INTERRUPT))
        return;
    control = (uint64_t)v->hw.vcpu->virtx->ops.posted_vector << VMX_POSTED_VECTOR_SHIFT |
              (uint64_t)target() << VMX_POSTED_TARGET_SHIFT;
    old = atomic_load(&v->posted.control);
    while (!atomic_compare_exchange_weak(&v->posted.control, &old,
                                         control | (old & VMX_POSTED_OUTSTANDING)))
        ;
}

void vmx_posted_put(struct vmx_vcpu *v)
{
    if (vmx_has(v, VIRTX_FEATURE_POSTED_INTERRUPT))
        atomic_fetch_or(&v->posted.control, VMX_POSTED_SUPPRESS);
}

bool vmx_post(struct hw_vcpu *hv, uint8_t vector)
{
    struct vmx_posted *posted = &vmx_of(hv)->posted;

    atomic_fetch_or(&posted->requests[vector >> 6], BIT(vector & 63));
    return !(atomic_fetch_or(&posted->control, VMX_POSTED_OUTSTANDING) & VMX_POSTED_OUTSTANDING);
}

bool vmx_posted(struct hw_vcpu *hv, uint64_t set[4])
{
    struct vmx_posted *posted = &vmx_of(hv)->posted;
    uint64_t any = 0;

    if (atomic_load(&posted->control) & VMX_POSTED_OUTSTANDING)
        atomic_fetch_and(&posted->control, ~(uint64_t)VMX_POSTED_OUTSTANDING);
    for (unsigned i = 0; i < 4; i++) {
        set[i] = atomic_load(&posted->requests[i]) ? atomic_exchange(&posted->requests[i], 0) : 0;
        any |= set[i];
    }
    return any != 0;
}
