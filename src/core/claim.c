/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Claiming a vcpu for a call.
 *
 * Calls that touch a vcpu's state, or read the VM's tables for it, hold `running` meanwhile. It
 * refuses a second thread, and tells virtx_vm_settled() that pointers into the tables may be held.
 * A handler inside run has it already.
 */
#include "core/claim.h"

enum virtx_status virtx_vcpu_busy(struct virtx_vcpu *vcpu)
{
    return virtx_fail(&vcpu->error, VIRTX_E_BUSY, "vcpu", "is not in run on another thread", 0);
}

/* Whether the registers can be had from here: loaded nowhere, or on this CPU. */
enum virtx_status virtx_vcpu_check_place(struct virtx_vcpu *vcpu)
{
    uint32_t cpu = atomic_load_explicit(&vcpu->cpu, memory_order_relaxed);

    if (vcpu->dead)
        return virtx_fail(&vcpu->error, VIRTX_E_DEAD, "vcpu",
                          "has not lost its registers in an emergency", 0);
    if (cpu != VIRTX_NO_CPU && cpu != vcpu->virtx->ops.this_cpu(vcpu->virtx->ctx))
        return virtx_fail(&vcpu->error, VIRTX_E_BUSY, "vcpu", "is not loaded on another CPU", cpu);
    return VIRTX_OK;
}

enum virtx_status virtx_vcpu_claim(struct virtx_vcpu *vcpu, bool *release)
{
    enum virtx_status status;

    *release = false;
    if (virtx_vcpu_in_handler(vcpu))
        return VIRTX_OK;
    if (atomic_exchange(&vcpu->running, true))
        return virtx_vcpu_busy(vcpu);
    status = virtx_vcpu_check_place(vcpu);
    if (status != VIRTX_OK)
        atomic_store_explicit(&vcpu->running, false, memory_order_release);
    *release = status == VIRTX_OK;
    return status;
}

void virtx_vcpu_release(struct virtx_vcpu *vcpu, bool release)
{
    if (release)
        atomic_store_explicit(&vcpu->running, false, memory_order_release);
}

/* The same for calls that an uncompleted access forbids. */
enum virtx_status virtx_vcpu_claim_settled(struct virtx_vcpu *vcpu, bool *release)
{
    enum virtx_status status = virtx_vcpu_claim(vcpu, release);

    if (status == VIRTX_OK && vcpu->exit.pending && !virtx_vcpu_in_handler(vcpu)) {
        status = virtx_fail(&vcpu->error, VIRTX_E_PENDING, "vcpu",
                            "has completed the access of its last exit", vcpu->exit.reason);
        virtx_vcpu_release(vcpu, *release);
    }
    return status;
}

/* A backend's refusal that came without a detail gets one. */
enum virtx_status virtx_backend_said(struct virtx_vcpu *vcpu, enum virtx_status status,
                                     const char *what)
{
    if (status != VIRTX_OK && status != VIRTX_AGAIN && vcpu->error.status != status)
        virtx_fail(&vcpu->error, status, what, "the backend refused", 0);
    return status;
}
