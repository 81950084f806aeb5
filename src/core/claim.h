/* SPDX-License-Identifier: BSD-2-Clause */
/* Claiming a vcpu for a call, and what the calls on a vcpu have in common. */
#ifndef VIRTX_CORE_CLAIM_H
#define VIRTX_CORE_CLAIM_H

#include "core/object.h"

/* Whether the call comes from a handler inside run, which holds the vcpu already. */
static inline bool virtx_vcpu_in_handler(const struct virtx_vcpu *vcpu)
{
    return atomic_load_explicit(&vcpu->handler, memory_order_relaxed);
}

/* Holds `running` for a call, or finds that a handler already does; says in `*release` what
 * virtx_vcpu_release() is to undo. VIRTX_E_BUSY, VIRTX_E_DEAD. */
enum virtx_status virtx_vcpu_claim(struct virtx_vcpu *vcpu, bool *release);
void virtx_vcpu_release(struct virtx_vcpu *vcpu, bool release);
/* The same for calls that an uncompleted access forbids: VIRTX_E_PENDING as well. */
enum virtx_status virtx_vcpu_claim_settled(struct virtx_vcpu *vcpu, bool *release);

/* Records that the vcpu is in use: VIRTX_E_BUSY. */
enum virtx_status virtx_vcpu_busy(struct virtx_vcpu *vcpu);
/* Whether the registers can be had from here: loaded nowhere, or on this CPU. */
enum virtx_status virtx_vcpu_check_place(struct virtx_vcpu *vcpu);
/* A backend's refusal that came without a detail gets one. Returns the status. */
enum virtx_status virtx_backend_said(struct virtx_vcpu *vcpu, enum virtx_status status,
                                     const char *what);

/* vcpu.c: loads a claimed vcpu on this CPU. */
enum virtx_status virtx_vcpu_load_claimed(struct virtx_vcpu *vcpu);
/* inject.c: whether the event is well-formed and fits the guest's mode. */
enum virtx_status virtx_vcpu_check_event(struct virtx_vcpu *vcpu, const struct virtx_event *event);

#endif
