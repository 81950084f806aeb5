/* SPDX-License-Identifier: BSD-2-Clause */
/* A vcpu's registers, and how its instructions are executed. */
#include "core/claim.h"

enum virtx_status virtx_vcpu_reset(struct virtx_vcpu *vcpu, enum virtx_preset preset)
{
    enum virtx_status status;
    bool release;

    if ((unsigned)preset >= VIRTX_PRESET_COUNT)
        return virtx_fail(&vcpu->error, VIRTX_E_INVALID, "preset", "is a virtx_preset", preset);
    status = virtx_vcpu_claim(vcpu, &release);
    if (status != VIRTX_OK)
        return status;
    if (virtx_vcpu_in_handler(vcpu))
        return virtx_fail(&vcpu->error, VIRTX_E_BUSY, "vcpu", "is not reset by its own handler", 0);
    status = virtx_backend_said(vcpu, vcpu->virtx->backend->reset(vcpu, preset), "preset");
    if (status == VIRTX_OK) {
        memset(&vcpu->events, 0, sizeof(vcpu->events));
        vcpu->exit.pending = false;
        atomic_fetch_and(&vcpu->requests,
                         ~(uint32_t)(VIRTX_REQUEST_NMI | VIRTX_REQUEST_INIT | VIRTX_REQUEST_SIPI));
        virtx_request_lazily(vcpu, VIRTX_REQUEST_EVENT);
    }
    virtx_vcpu_release(vcpu, release);
    return status;
}

static enum virtx_status check_groups(struct virtx_vcpu *vcpu, uint32_t groups, const void *state)
{
    if (groups & ~(uint32_t)VIRTX_STATE_ALL)
        return virtx_fail(&vcpu->error, VIRTX_E_INVALID, "groups",
                          "has only bits of virtx_state_group", groups);
    if (!state)
        return virtx_fail(&vcpu->error, VIRTX_E_INVALID, "state", "is not NULL", 0);
    return VIRTX_OK;
}

enum virtx_status virtx_vcpu_get(struct virtx_vcpu *vcpu, uint32_t groups,
                                 struct virtx_state *state)
{
    enum virtx_status status = check_groups(vcpu, groups, state);
    bool release;

    if (status == VIRTX_OK)
        status = virtx_vcpu_claim_settled(vcpu, &release);
    if (status != VIRTX_OK)
        return status;
    status = virtx_backend_said(vcpu, vcpu->virtx->backend->get(vcpu, groups, state), "groups");
    virtx_vcpu_release(vcpu, release);
    return status;
}

enum virtx_status virtx_vcpu_set(struct virtx_vcpu *vcpu, uint32_t groups,
                                 const struct virtx_state *state)
{
    enum virtx_status status = check_groups(vcpu, groups, state);
    bool release;

    if (status == VIRTX_OK)
        status = virtx_vcpu_claim_settled(vcpu, &release);
    if (status != VIRTX_OK)
        return status;
    status = virtx_backend_said(vcpu, vcpu->virtx->backend->set(vcpu, groups, state), "state");
    virtx_vcpu_release(vcpu, release);
    return status;
}

uint64_t *virtx_vcpu_gpr(struct virtx_vcpu *vcpu)
{
    return vcpu->virtx->backend->gpr(vcpu);
}

size_t virtx_vcpu_fpu_size(const struct virtx_vcpu *vcpu)
{
    return vcpu->virtx->backend->fpu_size(vcpu);
}

static enum virtx_status check_area(struct virtx_vcpu *vcpu, const void *area, size_t bytes)
{
    if (!area || bytes < virtx_vcpu_fpu_size(vcpu))
        return virtx_fail(&vcpu->error, VIRTX_E_INVALID, "area, bytes",
                          "holds virtx_vcpu_fpu_size() bytes", bytes);
    return VIRTX_OK;
}

enum virtx_status virtx_vcpu_fpu_get(struct virtx_vcpu *vcpu, void *area, size_t bytes)
{
    enum virtx_status status = check_area(vcpu, area, bytes);
    bool release;

    if (status == VIRTX_OK)
        status = virtx_vcpu_claim_settled(vcpu, &release);
    if (status != VIRTX_OK)
        return status;
    status = virtx_backend_said(vcpu, vcpu->virtx->backend->fpu_get(vcpu, area), "area");
    virtx_vcpu_release(vcpu, release);
    return status;
}

enum virtx_status virtx_vcpu_fpu_set(struct virtx_vcpu *vcpu, const void *area, size_t bytes)
{
    enum virtx_status status = check_area(vcpu, area, bytes);
    bool release;

    if (status == VIRTX_OK)
        status = virtx_vcpu_claim_settled(vcpu, &release);
    if (status != VIRTX_OK)
        return status;
    status = virtx_backend_said(vcpu, vcpu->virtx->backend->fpu_set(vcpu, area), "area");
    virtx_vcpu_release(vcpu, release);
    return status;
}

enum virtx_status virtx_vcpu_set_lazy_fpu(struct virtx_vcpu *vcpu, bool lazy)
{
    bool release;
    enum virtx_status status = virtx_vcpu_claim(vcpu, &release);

    if (status != VIRTX_OK)
        return status;
    vcpu->lazy_fpu = lazy;
    virtx_vcpu_release(vcpu, release);
    return VIRTX_OK;
}

bool virtx_vcpu_lazy_fpu(const struct virtx_vcpu *vcpu)
{
    return vcpu->lazy_fpu;
}

enum virtx_status virtx_vcpu_interpret(struct virtx_vcpu *vcpu, bool always)
{
    const struct virtx_backend *backend = vcpu->virtx->backend;
    enum virtx_status status;
    bool release;

    if (!backend->interpret)
        return virtx_fail(&vcpu->error, VIRTX_E_UNSUPPORTED, "backend", "has an executor", 0);
    if (vcpu->vm->config.interrupts_to_guest)
        return virtx_fail(&vcpu->error, VIRTX_E_UNSUPPORTED, "config.interrupts_to_guest",
                          "is not set: the executor cannot give the guest the CPU's interrupts", 0);
    status = virtx_vcpu_claim_settled(vcpu, &release);
    if (status != VIRTX_OK)
        return status;
    status = virtx_backend_said(vcpu, backend->interpret(vcpu, always), "interpret");
    virtx_vcpu_release(vcpu, release);
    return status;
}
