/* SPDX-License-Identifier: BSD-2-Clause */
/* Running a vcpu, and answering the exits of its run. */
#include "core/claim.h"

/* A run that did not come to an exit: its end, out of the way of those that do. */
static __attribute__((noinline)) enum virtx_status run_failed(struct virtx_vcpu *vcpu,
                                                              enum virtx_status status)
{
    virtx_backend_said(vcpu, status, "run");
    virtx_vcpu_release(vcpu, true);
    return status;
}

/* The vcpu is claimed and loaded here. */
static inline enum virtx_status run_loaded(struct virtx_vcpu *vcpu)
{
    enum virtx_status status = vcpu->virtx->backend->run(vcpu);

    if (unlikely(status != VIRTX_OK))
        return run_failed(vcpu, status);
    atomic_store_explicit(&vcpu->running, false, memory_order_release);
    return VIRTX_OK;
}

/* A device has been written to, and waits for nothing. */
static bool is_device_write(const struct virtx_exit *exit)
{
    return (exit->reason == VIRTX_EXIT_IO && exit->io.access == VIRTX_WRITE) ||
           (exit->reason == VIRTX_EXIT_MMIO && exit->mmio.access == VIRTX_WRITE);
}

/* What stands between a claimed vcpu and its run, when it is anything at all. */
static __attribute__((noinline)) enum virtx_status run_otherwise(struct virtx_vcpu *vcpu)
{
    enum virtx_status status;

    if (vcpu->exit.pending && !is_device_write(&vcpu->exit))
        status = virtx_fail(&vcpu->error, VIRTX_E_PENDING, "vcpu",
                            "has completed the access of its last exit", vcpu->exit.reason);
    else
        status = virtx_vcpu_load_claimed(vcpu);
    if (status == VIRTX_OK && vcpu->exit.pending)
        status = virtx_backend_said(vcpu, vcpu->virtx->backend->complete(vcpu, NULL), "complete");
    if (status == VIRTX_OK)
        return run_loaded(vcpu);
    virtx_vcpu_release(vcpu, true);
    /* The same instruction's next access is in the record. */
    return status == VIRTX_AGAIN ? VIRTX_OK : status;
}

enum virtx_status virtx_vcpu_run(struct virtx_vcpu *vcpu, const struct virtx_exit **exit)
{
    if (unlikely(atomic_exchange(&vcpu->running, true)))
        return virtx_vcpu_busy(vcpu);
    *exit = &vcpu->exit; /* now, or it would have to be kept over the calls */
    if (unlikely(vcpu->virtx->ops.this_cpu(vcpu->virtx->ctx) !=
                     atomic_load_explicit(&vcpu->cpu, memory_order_relaxed) ||
                 (vcpu->exit.pending && vcpu->answer != VIRTX_ANSWER_NONE)))
        return run_otherwise(vcpu);
    return run_loaded(vcpu);
}

void virtx_vcpu_kick(struct virtx_vcpu *vcpu)
{
    virtx_request(vcpu, VIRTX_REQUEST_KICK);
}

/* Whether a vcpu that is claimed has an exit to be answered here. */
static __attribute__((noinline)) enum virtx_status check_pending(struct virtx_vcpu *vcpu)
{
    enum virtx_status status = virtx_vcpu_check_place(vcpu);

    if (status == VIRTX_OK && !vcpu->exit.pending)
        status = virtx_fail(&vcpu->error, VIRTX_E_NOT_PENDING, "vcpu",
                            "has an access that waits for completion", vcpu->exit.reason);
    return status;
}

/* Claims a vcpu for answering its exit. A handler answers with its verdict instead. */
static enum virtx_status claim_pending(struct virtx_vcpu *vcpu)
{
    enum virtx_status status;

    if (atomic_exchange(&vcpu->running, true))
        return virtx_vcpu_busy(vcpu);
    status = check_pending(vcpu);
    if (status != VIRTX_OK)
        virtx_vcpu_release(vcpu, true);
    return status;
}

static __attribute__((noinline)) enum virtx_status complete_otherwise(struct virtx_vcpu *vcpu,
                                                                      const void *value)
{
    enum virtx_status status = check_pending(vcpu);

    if (status == VIRTX_OK)
        status = virtx_backend_said(vcpu, vcpu->virtx->backend->complete(vcpu, value), "complete");
    atomic_store_explicit(&vcpu->running, false, memory_order_release);
    return status;
}

enum virtx_status virtx_vcpu_complete(struct virtx_vcpu *vcpu, const void *value)
{
    enum virtx_status status;

    if (unlikely(atomic_exchange(&vcpu->running, true)))
        return virtx_vcpu_busy(vcpu);
    if (unlikely(vcpu->answer == VIRTX_ANSWER_HERE || !vcpu->exit.pending))
        return complete_otherwise(vcpu, value);
    status = vcpu->virtx->backend->complete(vcpu, value);
    atomic_store_explicit(&vcpu->running, false, memory_order_release);
    return status;
}

enum virtx_status virtx_vcpu_fault(struct virtx_vcpu *vcpu, const struct virtx_event *event)
{
    enum virtx_status status = claim_pending(vcpu);

    if (status != VIRTX_OK)
        return status;
    status = virtx_vcpu_check_event(vcpu, event);
    if (status == VIRTX_OK)
        status = virtx_backend_said(vcpu, vcpu->virtx->backend->fault(vcpu, event), "event");
    virtx_vcpu_release(vcpu, true);
    return status;
}

/* Whether a vcpu is halted is in memory, wherever it is loaded. */
enum virtx_status virtx_vcpu_wake(struct virtx_vcpu *vcpu)
{
    enum virtx_status status = VIRTX_OK;

    if (unlikely(atomic_exchange(&vcpu->running, true)))
        return virtx_vcpu_busy(vcpu);
    if (unlikely(vcpu->dead))
        status = virtx_vcpu_check_place(vcpu);
    else if (unlikely(vcpu->exit.pending))
        status = virtx_fail(&vcpu->error, VIRTX_E_PENDING, "vcpu",
                            "has completed the access of its last exit", vcpu->exit.reason);
    else
        vcpu->virtx->backend->wake(vcpu);
    atomic_store_explicit(&vcpu->running, false, memory_order_release);
    return status;
}
