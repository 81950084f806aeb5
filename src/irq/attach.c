/* SPDX-License-Identifier: BSD-2-Clause */
/* Connects the controller models to a VM: intercepts in, interrupts and notifications out. */
#include <virtx/intercept.h>
#include <virtx/ioapic.h>
#include <virtx/pic.h>
#include <virtx/vcpu.h>

#include "core/object.h"
#include "irq/lapic_internal.h"

#define VECTOR_GP 13

static enum virtx_verdict general_protection(struct virtx_vcpu *vcpu)
{
    const struct virtx_event event = {
        .type = VIRTX_EVENT_EXCEPTION,
        .vector = VECTOR_GP,
        .has_error = true,
    };

    /* Cannot be refused: the event is well-formed. */
    (void)virtx_vcpu_inject(vcpu, &event);
    return VIRTX_FAULT;
}

static void remove_intercept(struct virtx_intercept **intercept)
{
    if (*intercept != NULL)
        (void)virtx_intercept_remove(*intercept);
    *intercept = NULL;
}

/* ---- LAPIC ---- */

/*
 * virtx_vcpu_irq_changed() without the kick where none is needed: if the vcpu is loaded on the CPU
 * that executes this, then its guest does not run, and the requests are looked at, with interrupts
 * off, before it does. That makes EOIs and self-IPIs cost no exit of their own. A host that cannot
 * be told whom to wake gets its sleeping CPU woken.
 */
static void lapic_changed(void *ctx)
{
    struct virtx_vcpu *vcpu = ((struct virtx_lapic *)ctx)->vcpu;
    const struct virtx *virtx = vcpu->virtx;
    uint32_t old = atomic_fetch_or(&vcpu->requests, VIRTX_REQUEST_EVENT);

    if (virtx->ops.wake && !atomic_load(&vcpu->running))
        virtx->ops.wake(virtx->ctx, vcpu);
    else if ((old & VIRTX_REQUEST_EVENT) == 0 &&
             atomic_load(&vcpu->cpu) != virtx->ops.this_cpu(virtx->ctx))
        virtx->backend->kick(vcpu);
}

static void lapic_event(void *ctx, enum virtx_apic_delivery kind, uint8_t vector)
{
    struct virtx_vcpu *vcpu = ((struct virtx_lapic *)ctx)->vcpu;

    if (kind == VIRTX_APIC_NMI)
        virtx_vcpu_nmi(vcpu);
    else if (kind == VIRTX_APIC_INIT)
        virtx_vcpu_signal_init(vcpu);
    else if (kind == VIRTX_APIC_SIPI)
        virtx_vcpu_signal_sipi(vcpu, vector);
    /* There is no system-management mode to enter: an SMI ends here. */
}

static void tell_deadline(struct virtx_lapic *lapic, uint64_t old)
{
    if (lapic->deadline != old)
        virtx_request_lazily(lapic->vcpu, VIRTX_REQUEST_DEADLINE);
}

/* The guest's access may have made something deliverable: a lower priority, an unmasked entry. Of
 * registers in its page the processor knows a summary, which may be another too. Or it has set the
 * timer. */
static void announce(struct virtx_lapic *lapic, uint64_t old_deadline)
{
    tell_deadline(lapic, old_deadline);
    if (virtx_lapic_pending(lapic) >= 0 || lapic_in_page(lapic))
        lapic_changed(lapic);
}

static __attribute__((noinline)) enum virtx_verdict
serve_register(struct virtx_lapic *lapic, struct virtx_exit_mmio *mmio, uint32_t offset)
{
    uint64_t now = __builtin_ia32_rdtsc(), deadline = lapic->deadline;

    if (mmio->access == VIRTX_READ) {
        mmio->value = virtx_lapic_mmio_read(lapic, offset, mmio->size, now);
        return VIRTX_HANDLED;
    }
    virtx_lapic_mmio_write(lapic, offset, mmio->size, mmio->value, now);
    lapic_show(lapic);
    announce(lapic, deadline);
    return VIRTX_HANDLED;
}

static enum virtx_verdict serve_page(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    struct virtx_lapic *lapic = ctx;
    struct virtx_exit_mmio *mmio = &exit->mmio;
    uint32_t offset = (uint32_t)mmio->gpa & (VIRTX_LAPIC_MMIO_SIZE - 1);
    const uint32_t *plain;

    (void)vcpu;
    /* Disabled, or in x2APIC mode: the page is not decoded. */
    if (unlikely((lapic->base & APIC_BASE_MODE) != APIC_BASE_ENABLE))
        return VIRTX_DEFAULT;
    if (mmio->access == VIRTX_READ) {
        plain = lapic_plain_at(lapic, offset, mmio->size);
        if (plain != NULL && likely(__atomic_load_n(&lapic->attention, __ATOMIC_RELAXED) == 0)) {
            mmio->value = *plain;
            return VIRTX_HANDLED;
        }
    }
    return serve_register(lapic, mmio, offset);
}

static enum virtx_status intercept_page(struct virtx_lapic *lapic, struct virtx_intercept **out)
{
    struct virtx_intercept_config config = {
        .size = sizeof(config),
        .kind = VIRTX_INTERCEPT_MMIO,
        .access = VIRTX_READ | VIRTX_WRITE,
        .action = VIRTX_ACTION_EXIT,
        .first = virtx_lapic_mmio_base(lapic),
        .last = virtx_lapic_mmio_base(lapic) + VIRTX_LAPIC_MMIO_SIZE - 1,
        .handler = serve_page,
        .ctx = lapic,
    };

    return virtx_vcpu_intercept(lapic->vcpu, &config, out);
}

/* The vcpu's own copy of IA32_APIC_BASE, for who reads its state. */
static void copy_base(struct virtx_lapic *lapic)
{
    struct virtx_state state;

    if (virtx_vcpu_get(lapic->vcpu, VIRTX_STATE_MSR, &state) != VIRTX_OK)
        return;
    state.apic_base = lapic->base;
    (void)virtx_vcpu_set(lapic->vcpu, VIRTX_STATE_MSR, &state);
}

/* Moves the register page. If something else is intercepted at the new place, that stays, and the
 * guest has hidden its LAPIC behind it, as on hardware where a device decodes the same address. */
static void base_written(struct virtx_lapic *lapic, uint64_t old)
{
    struct virtx_intercept *page = NULL;

    if (lapic->base == old)
        return;
    copy_base(lapic);
    if ((lapic->base ^ old) >> 12 == 0)
        return;
    (void)intercept_page(lapic, &page);
    remove_intercept(&lapic->page);
    lapic->page = page;
}

/* The guest's counter may have been written since: the difference is taken anew for each deadline.
 * Read in this order a delay between the two makes the timer late by it, never early. */
static void measure_offset(struct virtx_lapic *lapic, struct virtx_vcpu *vcpu)
{
    struct virtx_state state;

    if (virtx_vcpu_get(vcpu, VIRTX_STATE_TSC, &state) == VIRTX_OK)
        virtx_lapic_set_tsc_offset(lapic, state.tsc - __builtin_ia32_rdtsc());
}

static enum virtx_verdict serve_msr(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    struct virtx_lapic *lapic = ctx;
    struct virtx_exit_msr *msr = &exit->msr;
    uint64_t base = lapic->base, deadline = lapic->deadline;

    if (msr->access == VIRTX_READ) {
        if (!virtx_lapic_msr_read(lapic, msr->index, __builtin_ia32_rdtsc(), &msr->value))
            return general_protection(vcpu);
        return VIRTX_HANDLED;
    }
    if (msr->index == MSR_TSC_DEADLINE)
        measure_offset(lapic, vcpu);
    if (!virtx_lapic_msr_write(lapic, msr->index, __builtin_ia32_rdtsc(), msr->value))
        return general_protection(vcpu);
    base_written(lapic, base);
    lapic_show(lapic);
    announce(lapic, deadline);
    return VIRTX_HANDLED;
}

static enum virtx_status intercept_msrs(struct virtx_lapic *lapic)
{
    static const struct {
        uint32_t first, last;
    } range[] = {
        {MSR_APIC_BASE, MSR_APIC_BASE},
        {MSR_TSC_DEADLINE, MSR_TSC_DEADLINE},
        {MSR_X2APIC_FIRST, MSR_X2APIC_LAST},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(range); i++) {
        struct virtx_intercept_config config = {
            .size = sizeof(config),
            .kind = VIRTX_INTERCEPT_MSR,
            .access = VIRTX_READ | VIRTX_WRITE,
            .action = VIRTX_ACTION_EXIT,
            .first = range[i].first,
            .last = range[i].last,
            .handler = serve_msr,
            .ctx = lapic,
        };
        enum virtx_status status = virtx_vcpu_intercept(lapic->vcpu, &config, &lapic->msrs[i]);

        if (status != VIRTX_OK)
            return status;
    }
    return VIRTX_OK;
}

static inline void look_at_time(struct virtx_lapic *lapic)
{
    if (lapic->deadline != VIRTX_LAPIC_NO_DEADLINE) {
        uint64_t now = __builtin_ia32_rdtsc();

        if (now >= lapic->deadline) {
            lapic_timer_sync(lapic, now);
            virtx_request_lazily(lapic->vcpu, VIRTX_REQUEST_DEADLINE);
        }
    }
}

/* As virtx_lapic_irq_source, with the time looked at. */
static int attached_pending(void *ctx)
{
    struct virtx_lapic *lapic = ctx;

    look_at_time(lapic);
    return virtx_lapic_pending(lapic);
}

static int attached_take(void *ctx)
{
    return virtx_lapic_take((struct virtx_lapic *)ctx);
}

static uint8_t attached_tpr(void *ctx)
{
    return virtx_lapic_get_tpr((struct virtx_lapic *)ctx);
}

static void attached_set_tpr(void *ctx, uint8_t tpr)
{
    virtx_lapic_set_tpr((struct virtx_lapic *)ctx, tpr);
}

static uint8_t attached_tpr_threshold(void *ctx)
{
    return virtx_lapic_tpr_threshold((struct virtx_lapic *)ctx);
}

static void attached_init(void *ctx)
{
    virtx_lapic_reset((struct virtx_lapic *)ctx, true);
}

static void attached_move(void *ctx, void *page)
{
    lapic_move((struct virtx_lapic *)ctx, page);
}

static uint64_t attached_base(void *ctx)
{
    return ((const struct virtx_lapic *)ctx)->base;
}

static int attached_external(void *ctx)
{
    struct virtx_lapic *lapic = ctx;

    look_at_time(lapic);
    return lapic_external(lapic);
}

static bool attached_changed(void *ctx)
{
    return lapic_changed_page((struct virtx_lapic *)ctx);
}

/* What is deliverable the processor finds by itself, once it has been told of changes. */
static void attached_written(void *ctx, uint32_t offset)
{
    struct virtx_lapic *lapic = ctx;
    uint64_t deadline = lapic->deadline;

    lapic_written(lapic, offset, __builtin_ia32_rdtsc());
    tell_deadline(lapic, deadline);
    if (lapic->unsaid)
        lapic_changed(lapic);
}

static void attached_ended(void *ctx, uint8_t vector)
{
    lapic_ended((struct virtx_lapic *)ctx, vector);
}

static uint64_t attached_deadline(void *ctx)
{
    return ((const struct virtx_lapic *)ctx)->deadline;
}

static const struct virtx_irq_apic attached_apic = {
    .move = attached_move,
    .base = attached_base,
    .external = attached_external,
    .changed = attached_changed,
    .written = attached_written,
    .ended = attached_ended,
};

static const struct virtx_irq_source attached_source = {
    .apic = &attached_apic,
    .pending = attached_pending,
    .take = attached_take,
    .tpr = attached_tpr,
    .set_tpr = attached_set_tpr,
    .tpr_threshold = attached_tpr_threshold,
    .init = attached_init,
    .deadline = attached_deadline,
};

/* By the embedder, not by the guest: CR8 too is another. */
static void lapic_restored(struct virtx_lapic *lapic, uint64_t old_base)
{
    base_written(lapic, old_base);
    lapic_show(lapic);
    measure_offset(lapic, lapic->vcpu);
    virtx_request_lazily(lapic->vcpu, VIRTX_REQUEST_DEADLINE);
    lapic_changed(lapic);
}

enum virtx_status virtx_lapic_attach(struct virtx_lapic *lapic,
                                     const struct virtx_lapic_config *config,
                                     struct virtx_vcpu *vcpu)
{
    struct virtx_lapic_config own = *config;
    enum virtx_status status;

    own.id = virtx_vcpu_id(vcpu);
    own.ctx = lapic;
    own.changed = lapic_changed;
    own.event = lapic_event;
    if (!virtx_lapic_init(lapic, &own))
        return VIRTX_E_INVALID;
    lapic->vcpu = vcpu;
    lapic->turns = &vcpu->stats.entries;
    lapic->restored = lapic_restored;
    if (vcpu->virtx->caps.features & VIRTX_FEATURE_POSTED_INTERRUPT) {
        lapic->post = vcpu->virtx->backend->post;
        lapic->posted = vcpu->virtx->backend->posted;
    }
    status = intercept_page(lapic, &lapic->page);
    if (status == VIRTX_OK)
        status = intercept_msrs(lapic);
    if (status == VIRTX_OK)
        status = virtx_vcpu_irq_source(vcpu, &attached_source, lapic);
    if (status != VIRTX_OK) {
        virtx_lapic_detach(lapic);
        return status;
    }
    copy_base(lapic);
    return VIRTX_OK;
}

void virtx_lapic_detach(struct virtx_lapic *lapic)
{
    if (lapic->vcpu == NULL)
        return;
    (void)virtx_vcpu_irq_source(lapic->vcpu, NULL, NULL);
    remove_intercept(&lapic->page);
    for (unsigned i = 0; i < ARRAY_SIZE(lapic->msrs); i++)
        remove_intercept(&lapic->msrs[i]);
    lapic->vcpu = NULL;
    lapic->restored = NULL;
}

/* ---- I/O APIC ---- */

static enum virtx_verdict serve_window(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    struct virtx_ioapic *ioapic = ctx;
    struct virtx_exit_mmio *mmio = &exit->mmio;
    uint32_t offset = (uint32_t)mmio->gpa & (VIRTX_IOAPIC_MMIO_SIZE - 1);

    (void)vcpu;
    if (mmio->access == VIRTX_READ)
        mmio->value = virtx_ioapic_mmio_read(ioapic, offset, mmio->size);
    else
        virtx_ioapic_mmio_write(ioapic, offset, mmio->size, mmio->value);
    return VIRTX_HANDLED;
}

enum virtx_status virtx_ioapic_attach(struct virtx_ioapic *ioapic, struct virtx_vm *vm,
                                      uint64_t gpa)
{
    struct virtx_intercept_config config = {
        .size = sizeof(config),
        .kind = VIRTX_INTERCEPT_MMIO,
        .access = VIRTX_READ | VIRTX_WRITE,
        .action = VIRTX_ACTION_EXIT,
        .first = gpa,
        .last = gpa + VIRTX_IOAPIC_MMIO_SIZE - 1,
        .handler = serve_window,
        .ctx = ioapic,
    };

    if (ioapic->window != NULL)
        return VIRTX_E_BUSY;
    if ((gpa & (VIRTX_IOAPIC_MMIO_SIZE - 1)) != 0)
        return VIRTX_E_ALIGN;
    return virtx_vm_intercept(vm, &config, &ioapic->window);
}

void virtx_ioapic_detach(struct virtx_ioapic *ioapic)
{
    remove_intercept(&ioapic->window);
}

/* ---- PIC ---- */

/* The pair is an 8-bit device: wider accesses are split, each byte with its own port. */
static enum virtx_verdict serve_ports(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    struct virtx_pic *pic = ctx;
    struct virtx_exit_io *io = &exit->io;
    uint8_t *data = io->data;

    (void)vcpu;
    for (uint32_t left = io->count; left != 0; left--)
        for (unsigned i = 0; i < io->size; i++, data++) {
            uint16_t port = (uint16_t)(io->port + i);

            if (io->access == VIRTX_READ)
                *data = virtx_pic_read(pic, port);
            else
                virtx_pic_write(pic, port, *data);
        }
    return VIRTX_HANDLED;
}

enum virtx_status virtx_pic_attach(struct virtx_pic *pic, struct virtx_vm *vm)
{
    static const uint16_t first[] = {0x20, 0xa0, 0x4d0};

    if (pic->ports[0] != NULL)
        return VIRTX_E_BUSY;
    for (unsigned i = 0; i < ARRAY_SIZE(first); i++) {
        struct virtx_intercept_config config = {
            .size = sizeof(config),
            .kind = VIRTX_INTERCEPT_PORT,
            .access = VIRTX_READ | VIRTX_WRITE,
            .action = VIRTX_ACTION_EXIT,
            .first = first[i],
            .last = first[i] + 1u,
            .handler = serve_ports,
            .ctx = pic,
        };
        enum virtx_status status = virtx_vm_intercept(vm, &config, &pic->ports[i]);

        if (status != VIRTX_OK) {
            virtx_pic_detach(pic);
            return status;
        }
    }
    return VIRTX_OK;
}

void virtx_pic_detach(struct virtx_pic *pic)
{
    for (unsigned i = 0; i < ARRAY_SIZE(pic->ports); i++)
        remove_intercept(&pic->ports[i]);
}
