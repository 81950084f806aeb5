/* SPDX-License-Identifier: BSD-2-Clause */
/* How the interrupt controllers hang on a VM: through a table of intercepts that this test keeps in
 * place of the library's objects. */
#include <virtx/ioapic.h>
#include <virtx/lapic.h>
#include <virtx/pic.h>

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "core/object.h"

#define INTERCEPTS 16

static struct virtx_intercept intercepts[INTERCEPTS];
static bool used[INTERCEPTS];
static unsigned fail_after;

static struct virtx host;
static struct virtx_vcpu vcpu;
static struct virtx_state state;
static struct virtx_backend backend;
static const struct virtx_irq_source *source;
static void *source_ctx;
static uint32_t here;
static int kicks, hard_kicks, nmis, inits, sipis, sipi_vector, faults;

static enum virtx_status keep(struct virtx_vcpu *owner, const struct virtx_intercept_config *config,
                              struct virtx_intercept **out)
{
    if (fail_after-- == 0)
        return VIRTX_E_NO_MEMORY;
    for (unsigned i = 0; i < INTERCEPTS; i++) {
        if (used[i])
            continue;
        used[i] = true;
        intercepts[i].config = *config;
        intercepts[i].vcpu = owner;
        *out = &intercepts[i];
        return VIRTX_OK;
    }
    return VIRTX_E_NO_MEMORY;
}

enum virtx_status virtx_vm_intercept(struct virtx_vm *vm,
                                     const struct virtx_intercept_config *config,
                                     struct virtx_intercept **out)
{
    (void)vm;
    return keep(NULL, config, out);
}

enum virtx_status virtx_vcpu_intercept(struct virtx_vcpu *owner,
                                       const struct virtx_intercept_config *config,
                                       struct virtx_intercept **out)
{
    return keep(owner, config, out);
}

enum virtx_status virtx_intercept_remove(struct virtx_intercept *intercept)
{
    ck_assert(used[intercept - intercepts]);
    used[intercept - intercepts] = false;
    return VIRTX_OK;
}

enum virtx_status virtx_vcpu_irq_source(struct virtx_vcpu *v, const struct virtx_irq_source *s,
                                        void *ctx)
{
    ck_assert_ptr_eq(v, &vcpu);
    source = s;
    source_ctx = ctx;
    return VIRTX_OK;
}

uint32_t virtx_vcpu_id(const struct virtx_vcpu *v)
{
    return v->id;
}

void virtx_vcpu_nmi(struct virtx_vcpu *v)
{
    ck_assert_ptr_eq(v, &vcpu);
    nmis++;
}

void virtx_vcpu_signal_init(struct virtx_vcpu *v)
{
    ck_assert_ptr_eq(v, &vcpu);
    inits++;
}

void virtx_vcpu_signal_sipi(struct virtx_vcpu *v, uint8_t vector)
{
    ck_assert_ptr_eq(v, &vcpu);
    sipis++;
    sipi_vector = vector;
}

void virtx_vcpu_kick(struct virtx_vcpu *v)
{
    ck_assert_ptr_eq(v, &vcpu);
    kicks++;
}

enum virtx_status virtx_vcpu_inject(struct virtx_vcpu *v, const struct virtx_event *event)
{
    ck_assert_ptr_eq(v, &vcpu);
    ck_assert_uint_eq(event->type, VIRTX_EVENT_EXCEPTION);
    ck_assert_uint_eq(event->vector, 13);
    ck_assert(event->has_error && event->error == 0);
    faults++;
    return VIRTX_OK;
}

enum virtx_status virtx_vcpu_get(struct virtx_vcpu *v, uint32_t groups, struct virtx_state *out)
{
    ck_assert_ptr_eq(v, &vcpu);
    if (groups & VIRTX_STATE_TSC)
        state.tsc = __builtin_ia32_rdtsc() - 5000000000ull;
    *out = state;
    return VIRTX_OK;
}

enum virtx_status virtx_vcpu_set(struct virtx_vcpu *v, uint32_t groups,
                                 const struct virtx_state *in)
{
    ck_assert_ptr_eq(v, &vcpu);
    ck_assert_uint_eq(groups, VIRTX_STATE_MSR);
    state.apic_base = in->apic_base;
    return VIRTX_OK;
}

static uint32_t this_cpu(void *ctx)
{
    (void)ctx;
    return here;
}

static void backend_kick(struct virtx_vcpu *v)
{
    ck_assert_ptr_eq(v, &vcpu);
    hard_kicks++;
}

/* Finds the rule for an access and calls its handler, as the library's dispatcher does. */
static enum virtx_verdict offer(uint32_t kind, uint64_t value, uint32_t access,
                                struct virtx_exit *exit)
{
    for (unsigned i = 0; i < INTERCEPTS; i++) {
        const struct virtx_intercept_config *c = &intercepts[i].config;

        if (used[i] && c->kind == kind && (c->access & access) && c->first <= value &&
            value <= c->last)
            return c->handler(&vcpu, exit, c->ctx);
    }
    return VIRTX_DEFAULT;
}

static enum virtx_verdict mmio(uint64_t gpa, uint8_t access, uint64_t *value)
{
    struct virtx_exit exit = {.reason = VIRTX_EXIT_MMIO};
    enum virtx_verdict verdict;

    exit.mmio.gpa = gpa;
    exit.mmio.size = 4;
    exit.mmio.access = access;
    exit.mmio.value = access == VIRTX_WRITE ? *value : 0xffffffff;
    verdict = offer(VIRTX_INTERCEPT_MMIO, gpa, access, &exit);
    *value = exit.mmio.value;
    return verdict;
}

static void wr(uint64_t gpa, uint64_t value)
{
    ck_assert_int_eq(mmio(gpa, VIRTX_WRITE, &value), VIRTX_HANDLED);
}

static uint64_t rd(uint64_t gpa)
{
    uint64_t value = 0;

    ck_assert_int_eq(mmio(gpa, VIRTX_READ, &value), VIRTX_HANDLED);
    return value;
}

static enum virtx_verdict msr(uint32_t index, uint8_t access, uint64_t *value)
{
    struct virtx_exit exit = {.reason = VIRTX_EXIT_MSR};
    enum virtx_verdict verdict;

    exit.msr.index = index;
    exit.msr.access = access;
    exit.msr.value = access == VIRTX_WRITE ? *value : 0;
    verdict = offer(VIRTX_INTERCEPT_MSR, index, access, &exit);
    *value = exit.msr.value;
    return verdict;
}

static enum virtx_verdict wrmsr(uint32_t index, uint64_t value)
{
    return msr(index, VIRTX_WRITE, &value);
}

static enum virtx_verdict port(uint16_t number, uint8_t size, uint8_t access, uint64_t *value)
{
    struct virtx_exit exit = {.reason = VIRTX_EXIT_IO};
    enum virtx_verdict verdict;

    exit.io.port = number;
    exit.io.size = size;
    exit.io.count = 1;
    exit.io.access = access;
    exit.io.value = access == VIRTX_WRITE ? *value : UINT64_MAX >> (64 - 8 * size);
    exit.io.data = &exit.io.value;
    verdict = offer(VIRTX_INTERCEPT_PORT, number, access, &exit);
    *value = exit.io.value;
    return verdict;
}

static void out8(uint16_t number, uint64_t value)
{
    ck_assert_int_eq(port(number, 1, VIRTX_WRITE, &value), VIRTX_HANDLED);
}

static unsigned count_used(void)
{
    unsigned count = 0;

    for (unsigned i = 0; i < INTERCEPTS; i++)
        count += used[i];
    return count;
}

static bool event_requested(void)
{
    return atomic_exchange(&vcpu.requests, 0) == VIRTX_REQUEST_EVENT;
}

static struct virtx_lapic lapic;
static struct virtx_lapic *table[2];
static struct virtx_apic_bus bus;
static struct virtx_ioapic ioapic;
static struct virtx_pic pic;

static void pic_output(void *ctx, bool level)
{
    virtx_lapic_set_lint((struct virtx_lapic *)ctx, 0, level);
}

static struct virtx_lapic_config lapic_config(void)
{
    return (struct virtx_lapic_config){
        .size = sizeof(struct virtx_lapic_config),
        .features = VIRTX_LAPIC_X2APIC | VIRTX_LAPIC_TSC_DEADLINE,
        .address_bits = 36,
        .bus_multiply = 1,
        .bus_divide = 1,
        .bsp = true,
        .extint = &virtx_pic_irq_source,
        .extint_ctx = &pic,
    };
}

static void setup(void)
{
    struct virtx_lapic_config config = lapic_config();
    struct virtx_ioapic_config io = {
        .size = sizeof(io), .version = 0x20, .ignore_polarity = true, .bus = &bus};

    fail_after = UINT32_MAX;
    memset(used, 0, sizeof(used));
    memset(&vcpu, 0, sizeof(vcpu));
    backend.kick = backend_kick;
    host.backend = &backend;
    host.ops.this_cpu = this_cpu;
    vcpu.virtx = &host;
    vcpu.id = 1;
    atomic_store(&vcpu.cpu, 3);
    here = 3;
    kicks = hard_kicks = nmis = inits = sipis = faults = 0;
    virtx_apic_bus_init(&bus, table, 2);
    ck_assert_int_eq(virtx_lapic_attach(&lapic, &config, &vcpu), VIRTX_OK);
    ck_assert(virtx_apic_bus_add_lapic(&bus, &lapic));
    ck_assert(virtx_ioapic_init(&ioapic, &io));
    ck_assert(virtx_apic_bus_add_ioapic(&bus, &ioapic));
    ck_assert_int_eq(virtx_ioapic_attach(&ioapic, NULL, 0xfec00000), VIRTX_OK);
    virtx_pic_init(&pic, pic_output, &lapic);
    ck_assert_int_eq(virtx_pic_attach(&pic, NULL), VIRTX_OK);
    wr(0xfee000f0, 0x1ff);
}

START_TEST(attach_and_detach)
{
    struct virtx_lapic_config config = lapic_config();
    struct virtx_lapic other;

    ck_assert_uint_eq(count_used(), 8);
    ck_assert_uint_eq(state.apic_base, 0xfee00900);
    ck_assert_uint_eq(lapic.id, 1);
    ck_assert_int_eq(virtx_ioapic_attach(&ioapic, NULL, 0xfec00000), VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_pic_attach(&pic, NULL), VIRTX_E_BUSY);
    virtx_lapic_detach(&lapic);
    virtx_lapic_detach(&lapic);
    virtx_ioapic_detach(&ioapic);
    virtx_ioapic_detach(&ioapic);
    virtx_pic_detach(&pic);
    virtx_pic_detach(&pic);
    ck_assert_uint_eq(count_used(), 0);
    ck_assert_ptr_null(source);
    ck_assert_int_eq(virtx_ioapic_attach(&ioapic, NULL, 0xfec00800), VIRTX_E_ALIGN);

    /* A failure half-way leaves nothing behind. */
    for (unsigned i = 0; i < 4; i++) {
        fail_after = i;
        ck_assert_int_eq(virtx_lapic_attach(&other, &config, &vcpu), VIRTX_E_NO_MEMORY);
        ck_assert_uint_eq(count_used(), 0);
    }
    for (unsigned i = 0; i < 3; i++) {
        fail_after = i;
        ck_assert_int_eq(virtx_pic_attach(&pic, NULL), VIRTX_E_NO_MEMORY);
        ck_assert_uint_eq(count_used(), 0);
    }
    config.bus_divide = 0;
    ck_assert_int_eq(virtx_lapic_attach(&other, &config, &vcpu), VIRTX_E_INVALID);
}
END_TEST

/* Some registers are read the short way: each answer, at each offset and size, is the model's. */
START_TEST(page_reads_are_the_models)
{
    struct virtx_lapic_config config = lapic_config();
    uint64_t base;

    config.features |= VIRTX_LAPIC_CMCI | VIRTX_LAPIC_EOI_SUPPRESSION;
    ck_assert_int_eq(virtx_lapic_attach(&lapic, &config, &vcpu), VIRTX_OK);
    base = virtx_lapic_mmio_base(&lapic);
    wr(base + 0xf0, 0x1ff);
    wr(base + 0x80, 0x35);
    wr(base + 0xd0, 0x12000000);
    wr(base + 0xe0, 0x0fffffff);
    wr(base + 0x280, 0);
    wr(base + 0x310, 0x77000000);
    wr(base + 0x300, 0x4061); /* to an APIC that is not there */
    for (uint64_t lvt = 0x320; lvt <= 0x370; lvt += 0x10)
        wr(base + lvt, 0x10000 | (lvt >> 4));
    wr(base + 0x2f0, 0x100ee);
    wr(base + 0x3e0, 0xa);
    wr(base + 0x380, 0x80000000);
    for (uint32_t offset = 0; offset < 0x1000; offset++) {
        for (unsigned size = 1; size <= 8; size *= 2) {
            struct virtx_lapic copy = lapic;
            struct virtx_exit exit = {.reason = VIRTX_EXIT_MMIO,
                                      .mmio = {.gpa = base + offset,
                                               .size = (uint8_t)size,
                                               .access = VIRTX_READ,
                                               .value = UINT64_MAX}};
            uint64_t value;

            if (offset >> 4 == 0x39) /* counts */
                continue;
            ck_assert_int_eq(offer(VIRTX_INTERCEPT_MMIO, base + offset, VIRTX_READ, &exit),
                             VIRTX_HANDLED);
            value = virtx_lapic_mmio_read(&copy, offset, size, __builtin_ia32_rdtsc());
            if (exit.mmio.value != value)
                ck_abort_msg("%#x, %u bytes: %#lx, not %#lx", offset, size,
                             (unsigned long)exit.mmio.value, (unsigned long)value);
            ck_assert_uint_eq(lapic.esr_pending, copy.esr_pending);
        }
    }
    ck_assert_uint_eq(rd(base + 0x30), 0x01060014);
    ck_assert_uint_eq(rd(base + 0x310), 0x77000000);
    virtx_lapic_detach(&lapic);
}
END_TEST

START_TEST(page_and_source)
{
    ck_assert_uint_eq(rd(0xfee00020), 1u << 24);
    ck_assert_int_eq(source->pending(source_ctx), -1);
    wr(0xfee00310, 1u << 24);
    wr(0xfee00300, 0x4055); /* An IPI to itself: asked again, and no kick. */
    ck_assert(event_requested());
    ck_assert_int_eq(hard_kicks, 0);
    ck_assert_int_eq(source->pending(source_ctx), 0x55);
    source->set_tpr(source_ctx, 0x50);
    ck_assert_uint_eq(source->tpr(source_ctx), 0x50);
    ck_assert_uint_eq(rd(0xfee00080), 0x50);
    ck_assert_int_eq(source->pending(source_ctx), -1);
    wr(0xfee00080, 0); /* Lowering the priority through memory makes the queue ask again. */
    ck_assert(event_requested());
    ck_assert_int_eq(source->take(source_ctx), 0x55);
    wr(0xfee000b0, 0);
    ck_assert(!event_requested());
}
END_TEST

START_TEST(kick_only_from_elsewhere)
{
    ck_assert_uint_eq(virtx_msi_deliver(&bus, 0xfee01000, 0x41), 1);
    ck_assert_int_eq(hard_kicks, 0); /* On the vcpu's own CPU: it is not in its guest. */
    ck_assert(event_requested());
    here = 4;
    ck_assert_uint_eq(virtx_msi_deliver(&bus, 0xfee01000, 0x42), 1);
    ck_assert_uint_eq(virtx_msi_deliver(&bus, 0xfee01000, 0x43), 1);
    ck_assert_int_eq(hard_kicks, 1); /* One request, one kick. */
    ck_assert(event_requested());
}
END_TEST

static unsigned wakes;

static void count_wake(void *ctx, struct virtx_vcpu *v)
{
    (void)ctx;
    ck_assert_ptr_eq(v, &vcpu);
    ck_assert(atomic_load(&vcpu.requests) & VIRTX_REQUEST_EVENT); /* who wakes finds it */
    wakes++;
}

/* Whoever is not in run may sleep, and is woken each time: who left the request before may have
 * found nobody asleep. A host without a way to wake gets the CPU kicked. */
START_TEST(sleepers_are_woken)
{
    here = 4;
    wakes = 0;
    host.ops.wake = count_wake;
    atomic_store(&vcpu.running, false);
    ck_assert_uint_eq(virtx_msi_deliver(&bus, 0xfee01000, 0x41), 1);
    ck_assert_uint_eq(virtx_msi_deliver(&bus, 0xfee01000, 0x42), 1);
    ck_assert_uint_eq(wakes, 2);
    ck_assert_int_eq(hard_kicks, 0);
    atomic_store(&vcpu.running, true);
    ck_assert_uint_eq(virtx_msi_deliver(&bus, 0xfee01000, 0x43), 1);
    ck_assert_int_eq(hard_kicks, 0); /* the request stands there already */
    atomic_store(&vcpu.requests, 0);
    ck_assert_uint_eq(virtx_msi_deliver(&bus, 0xfee01000, 0x44), 1);
    ck_assert_int_eq(hard_kicks, 1);
    ck_assert_uint_eq(wakes, 2);
    host.ops.wake = NULL;
    atomic_store(&vcpu.running, false);
    atomic_store(&vcpu.requests, 0);
    ck_assert_uint_eq(virtx_msi_deliver(&bus, 0xfee01000, 0x45), 1);
    ck_assert_int_eq(hard_kicks, 2);
}
END_TEST

/* An NMI, INIT and SIPI become the vcpu's; an SMI has no effect. */
START_TEST(signals)
{
    virtx_msi_deliver(&bus, 0xfee01000, 0x400);
    ck_assert_int_eq(nmis, 1);
    virtx_lapic_accept(&lapic, VIRTX_APIC_SMI, 0, false);
    ck_assert_int_eq(inits + sipis, 0);
    virtx_lapic_accept(&lapic, VIRTX_APIC_SIPI, 0x12, false);
    ck_assert_int_eq(sipis, 1);
    ck_assert_int_eq(sipi_vector, 0x12);
    virtx_lapic_accept(&lapic, VIRTX_APIC_INIT, 0, false);
    ck_assert_int_eq(inits, 1);
    ck_assert_int_eq(nmis + kicks, 1);
}
END_TEST

START_TEST(msrs)
{
    uint64_t value;

    ck_assert_int_eq(msr(0x1b, VIRTX_READ, &value), VIRTX_HANDLED);
    ck_assert_uint_eq(value, 0xfee00900);
    ck_assert_int_eq(wrmsr(0x1b, 0xfee00901), VIRTX_FAULT);
    ck_assert_int_eq(faults, 1);
    ck_assert_int_eq(msr(0x802, VIRTX_READ, &value), VIRTX_FAULT);
    ck_assert_int_eq(wrmsr(0x1b, 0xfee00d00), VIRTX_HANDLED);
    ck_assert_uint_eq(state.apic_base, 0xfee00d00);
    ck_assert_int_eq(msr(0x802, VIRTX_READ, &value), VIRTX_HANDLED);
    ck_assert_uint_eq(value, 1);
    ck_assert_int_eq(wrmsr(0x802, 1), VIRTX_FAULT);
    ck_assert_int_eq(wrmsr(0x83f, 0x66), VIRTX_HANDLED);
    ck_assert(event_requested());
    ck_assert_int_eq(source->pending(source_ctx), 0x66);
    /* In x2APIC mode the page is not there. */
    ck_assert_int_eq(mmio(0xfee00020, VIRTX_READ, &value), VIRTX_DEFAULT);
    ck_assert_int_eq(wrmsr(0x1b, 0xfee00100), VIRTX_HANDLED);
    ck_assert_int_eq(mmio(0xfee00020, VIRTX_READ, &value), VIRTX_DEFAULT);
    ck_assert_int_eq(wrmsr(0x1b, 0xfee00900), VIRTX_HANDLED);
    ck_assert_int_eq(mmio(0xfee00020, VIRTX_READ, &value), VIRTX_HANDLED);
}
END_TEST

START_TEST(relocation)
{
    uint64_t value;

    ck_assert_int_eq(wrmsr(0x1b, 0x12345900), VIRTX_HANDLED);
    ck_assert_int_eq(mmio(0xfee00020, VIRTX_READ, &value), VIRTX_DEFAULT);
    ck_assert_uint_eq(rd(0x12345020), 1u << 24);
    ck_assert_uint_eq(count_used(), 8);
    /* Where nothing more can be intercepted the LAPIC is out of sight, and can be brought back. */
    fail_after = 0;
    ck_assert_int_eq(wrmsr(0x1b, 0x55555900), VIRTX_HANDLED);
    ck_assert_uint_eq(count_used(), 7);
    fail_after = UINT32_MAX;
    ck_assert_int_eq(wrmsr(0x1b, 0xfee00900), VIRTX_HANDLED);
    ck_assert_uint_eq(rd(0xfee00020), 1u << 24);
}
END_TEST

START_TEST(restored_while_attached)
{
    struct virtx_lapic_state saved;
    uint64_t value;

    ck_assert_int_eq(wrmsr(0x1b, 0x12345900), VIRTX_HANDLED);
    wr(0x12345080, 0x50);
    virtx_lapic_accept(&lapic, VIRTX_APIC_FIXED, 0x61, false);
    virtx_lapic_save(&lapic, __builtin_ia32_rdtsc(), &saved);
    ck_assert_int_eq(source->take(source_ctx), 0x61);
    ck_assert_int_eq(wrmsr(0x1b, 0xfee00900), VIRTX_HANDLED);
    ck_assert(virtx_lapic_restore(&lapic, __builtin_ia32_rdtsc(), &saved));
    ck_assert_uint_eq(state.apic_base, 0x12345900);
    ck_assert_int_eq(mmio(0xfee00020, VIRTX_READ, &value), VIRTX_DEFAULT);
    ck_assert_uint_eq(rd(0x12345080), 0x50);
    ck_assert_int_eq(source->take(source_ctx), 0x61);
}
END_TEST

START_TEST(timer_reaches_the_queue)
{
    uint64_t value, start;

    wr(0xfee003e0, 11);
    wr(0xfee00320, 0x44);
    wr(0xfee00380, 1000);
    start = __builtin_ia32_rdtsc();
    while (__builtin_ia32_rdtsc() - start < 1000)
        ;
    ck_assert_int_eq(source->pending(source_ctx), 0x44);
    ck_assert_int_eq(source->take(source_ctx), 0x44);
    wr(0xfee000b0, 0);

    /* A deadline is on the guest's clock, which stands 5 G ticks behind the host's. */
    wr(0xfee00320, 0x40045);
    ck_assert_int_eq(wrmsr(0x6e0, __builtin_ia32_rdtsc() - 5000000000ull + 300000000000ull),
                     VIRTX_HANDLED);
    ck_assert_int_eq(source->pending(source_ctx), -1);
    value = virtx_lapic_deadline(&lapic) - __builtin_ia32_rdtsc();
    ck_assert(value > 200000000000ull && value < 301000000000ull);
    ck_assert_int_eq(wrmsr(0x6e0, __builtin_ia32_rdtsc() - 5000000000ull), VIRTX_HANDLED);
    start = __builtin_ia32_rdtsc();
    while (__builtin_ia32_rdtsc() - start < 1000000)
        ;
    ck_assert_int_eq(source->pending(source_ctx), 0x45);
}
END_TEST

START_TEST(ioapic_and_eoi)
{
    wr(0xfec00000, 0x10 + 2 * 11 + 1);
    wr(0xfec00010, 1u << 24);
    wr(0xfec00000, 0x10 + 2 * 11);
    wr(0xfec00010, 0x8061);
    ck_assert_uint_eq(rd(0xfec00010), 0x8061);
    virtx_ioapic_set_irq(&ioapic, 11, true);
    ck_assert(event_requested());
    ck_assert_int_eq(source->take(source_ctx), 0x61);
    ck_assert_uint_eq(rd(0xfec00010), 0xc061);
    wr(0xfee000b0, 0);
    ck_assert(event_requested()); /* Still asserted. */
    ck_assert_int_eq(source->take(source_ctx), 0x61);
}
END_TEST

START_TEST(pic_through_lint0)
{
    static const uint8_t setup_master[] = {0x30, 0x04, 0x01, 0xfe};
    uint64_t value;

    wr(0xfee00350, 0x700);
    out8(0x20, 0x11);
    for (unsigned i = 0; i < 4; i++)
        out8(0x21, setup_master[i]);
    ck_assert(!event_requested());
    virtx_pic_pulse(&pic, 0);
    ck_assert(event_requested());
    ck_assert_int_eq(source->pending(source_ctx), 0x30);
    ck_assert_int_eq(source->take(source_ctx), 0x30);
    ck_assert_int_eq(source->pending(source_ctx), -1);
    virtx_pic_pulse(&pic, 0);
    ck_assert_int_eq(source->pending(source_ctx), -1);
    out8(0x20, 0x20);
    ck_assert_int_eq(source->pending(source_ctx), 0x30);

    /* A word access is two bytes: IRR and IMR. */
    value = 0;
    ck_assert_int_eq(port(0x20, 2, VIRTX_READ, &value), VIRTX_HANDLED);
    ck_assert_uint_eq(value, 0xfe01);
    value = 0xff0b;
    ck_assert_int_eq(port(0x20, 2, VIRTX_WRITE, &value), VIRTX_HANDLED);
    ck_assert_uint_eq(virtx_pic_read(&pic, 0x21), 0xff);
    ck_assert_int_eq(port(0x22, 1, VIRTX_READ, &value), VIRTX_DEFAULT);
}
END_TEST

/* The processor has the registers in its page: what it does is done there, and a summary is asked for when
 * the controller has changed something. */
START_TEST(registers_in_the_page)
{
    static uint32_t page[1024];
    const struct virtx_irq_apic *apic;

    wr(0xfee000f0, 0x1ff);
    wr(0xfee00350, 0x10700);
    apic = source->apic;
    memset(page, 0xa5, sizeof(page));
    apic->move(source_ctx, page);
    vcpu.stats.entries++;
    ck_assert_uint_eq(page[0x20 / 4], (uint32_t)rd(0xfee00020));
    ck_assert_uint_eq(page[0x30 / 4], (uint32_t)rd(0xfee00030));
    ck_assert_uint_eq(page[0xf0 / 4], 0x1ff);
    ck_assert_uint_eq(page[0x350 / 4], 0x10700);
    ck_assert_uint_eq(page[0x90 / 4] | page[0xa0 / 4] | page[0xb0 / 4], 0);
    ck_assert(apic->changed(source_ctx)); /* it is all new */
    ck_assert(!apic->changed(source_ctx));

    /* A request: in IRR of the page, told of once. */
    ck_assert(virtx_lapic_accept(&lapic, VIRTX_APIC_FIXED, 0x61, true));
    ck_assert_int_eq(apic->external(source_ctx), -1);
    ck_assert_uint_eq(page[(0x200 + 0x30) / 4], 1u << 1);
    ck_assert_uint_eq(page[(0x180 + 0x30) / 4], 1u << 1);
    ck_assert(apic->changed(source_ctx));
    ck_assert_int_eq(source->pending(source_ctx), 0x61);

    /* The guest runs on before whoever has posted says so: it is not forgotten. */
    ck_assert(virtx_lapic_accept(&lapic, VIRTX_APIC_FIXED, 0x62, false));
    ck_assert_int_eq(source->pending(source_ctx), 0x62);
    vcpu.stats.entries++;
    ck_assert_int_eq(source->pending(source_ctx), 0x62);
    ck_assert(apic->changed(source_ctx));
    page[(0x200 + 0x30) / 4] &= ~(1u << 2);

    /* The processor delivers it; the guest raises its priority. */
    page[(0x200 + 0x30) / 4] = 0;
    page[(0x100 + 0x30) / 4] = 1u << 1;
    page[0x80 / 4] = 0x7f;
    vcpu.stats.entries++;
    ck_assert_int_eq(source->pending(source_ctx), -1);
    ck_assert_uint_eq(source->tpr(source_ctx), 0x7f);
    ck_assert_uint_eq(rd(0xfee000a0), 0x7f);
    ck_assert(!apic->changed(source_ctx));
    /* An end without the processor's help is the controller's change. */
    wr(0xfee000b0, 0);
    ck_assert_uint_eq(page[(0x100 + 0x30) / 4], 0);
    ck_assert(apic->changed(source_ctx));

    /* Registers that the guest has written in the page. */
    atomic_store(&vcpu.requests, 0);
    page[0xf0 / 4] = 0xfffffe22; /* software-disabled: the entries are masked */
    apic->written(source_ctx, 0xf0);
    ck_assert_uint_eq(page[0xf0 / 4], 0x22);
    page[0x320 / 4] = 0x44;
    apic->written(source_ctx, 0x320);
    ck_assert_uint_eq(page[0x320 / 4], 0x10044);
    page[0xf0 / 4] = 0x122;
    apic->written(source_ctx, 0xf0);
    page[0x380 / 4] = 1000;
    apic->written(source_ctx, 0x380);
    ck_assert_uint_eq(page[0x380 / 4], 1000);
    /* An IPI to itself, with a half of the ICR that was written without notice. */
    ck_assert(!event_requested());
    vcpu.stats.entries++;
    page[0x310 / 4] = 0x5000000;
    page[0x300 / 4] = 0x40000 | 0x80; /* self */
    apic->written(source_ctx, 0x300);
    ck_assert(event_requested());
    ck_assert_uint_eq(rd(0xfee00310), 0x5000000);
    ck_assert_int_eq(source->pending(source_ctx), 0x80);

    /* And back: nothing is lost. */
    apic->move(source_ctx, NULL);
    memset(page, 0xa5, sizeof(page));
    ck_assert_int_eq(source->pending(source_ctx), 0x80);
    ck_assert_uint_eq(source->tpr(source_ctx), 0x7f);
    ck_assert_uint_eq(rd(0xfee000f0), 0x122);
    virtx_lapic_detach(&lapic);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("irq_attach");
    TCase *tc = tcase_create("irq_attach");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_test(tc, attach_and_detach);
    tcase_add_test(tc, page_reads_are_the_models);
    tcase_add_test(tc, page_and_source);
    tcase_add_test(tc, kick_only_from_elsewhere);
    tcase_add_test(tc, sleepers_are_woken);
    tcase_add_test(tc, signals);
    tcase_add_test(tc, msrs);
    tcase_add_test(tc, relocation);
    tcase_add_test(tc, registers_in_the_page);
    tcase_add_test(tc, restored_while_attached);
    tcase_add_test(tc, timer_reaches_the_queue);
    tcase_add_test(tc, ioapic_and_eoi);
    tcase_add_test(tc, pic_through_lint0);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
