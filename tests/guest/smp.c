/* SPDX-License-Identifier: BSD-2-Clause */
/* Two processors: guests on an application processor, vcpus that move, kicks and changes from the
 * other side. Run with --cpus 2. */
#include "harness.h"

enum {
    VECTOR = 0x50,
    VECTOR_HOST = 0x61,
    KICKS = 1000,
    NMI_KICKS = 10000,    /* few instructions are the dangerous ones */
    PATIENCE = 200000000, /* rounds of waiting before the other side is given up */
};

/* ---- Work for processor 1 ---- */

static struct job {
    struct virtx_vcpu *vcpu;
    bool enable, disable, put;
    bool interrupts; /* run with IF = 1 */
    unsigned runs;   /* runs at most; 0: until PORT_DONE */
    volatile uint64_t kicks, other, result;
    volatile bool stop, running, done, failed;
    enum virtx_status enabled, status;
    struct virtx_exit exit;
} job;

static bool job_exit(const struct virtx_exit *exit)
{
    job.exit = *exit;
    if (exit->reason == VIRTX_EXIT_KICK) {
        job.kicks = job.kicks + 1;
        return !job.stop;
    }
    if (exit->reason == VIRTX_EXIT_IO && exit->pending) {
        bool last = exit->io.port == PORT_DONE;
        job.result = exit->io.value;
        job.done = job.done || last;
        job.status = virtx_vcpu_complete(job.vcpu, NULL);
        return job.status == VIRTX_OK && !last;
    }
    job.other = job.other + 1;
    return exit->reason == VIRTX_EXIT_INTERRUPT && job.interrupts;
}

static void work(void *arg)
{
    const struct virtx_exit *exit;

    (void)arg;
    job.enabled = job.enable ? virtx_cpu_enable(machine.virtx) : VIRTX_OK;
    job.status = job.enabled;
    if (job.vcpu != NULL && job.status == VIRTX_OK) {
        bool more = true;

        job.running = true;
        for (unsigned i = 0; more && (job.runs == 0 || i < job.runs); i++) {
            if (job.interrupts)
                bare_irq_enable();
            job.status = virtx_vcpu_run(job.vcpu, &exit);
            bare_irq_disable();
            more = job.status == VIRTX_OK && job_exit(exit);
        }
        job.running = false;
        if (job.put) {
            enum virtx_status status = virtx_vcpu_put(job.vcpu);
            job.failed = job.failed || status != VIRTX_OK;
        }
    }
    if (job.disable) {
        enum virtx_status status = virtx_cpu_disable(machine.virtx);
        job.failed = job.failed || status != VIRTX_OK;
    }
}

static bool start(struct job with)
{
    job = with;
    return CHECK(bare_cpu_run(1, work, NULL));
}

static void finish(void)
{
    bare_cpu_wait(1);
    CHECK(!job.failed);
}

/* Turns virtualization on or off on processor 1. */
static void cpu1(bool on)
{
    if (start((struct job){.enable = on, .disable = !on}))
        finish();
    CHECK_EQUAL(job.enabled, VIRTX_OK);
}

/* Waits, with this processor's interrupts on, until *value is at least `wanted`. */
static bool wait_for(const volatile uint64_t *value, uint64_t wanted)
{
    bool good = false;

    bare_irq_enable();
    for (uint64_t i = 0; i < PATIENCE && !(good = *value >= wanted); i++)
        bare_pause();
    bare_irq_disable();
    return good;
}

/* Also starts it, so that what the bare host takes for it is taken before the leaks are counted. */
static bool two_cpus(void)
{
    if (bare_cpu_count() >= 2) {
        if (!start((struct job){.runs = 0}))
            return false;
        finish();
        return true;
    }
    check(false, "the machine has two processors (--cpus 2)", __FILE__, __LINE__);
    return false;
}

/* ---- Guests ---- */

static volatile uint64_t progress;

static void guest_add(uint64_t argument)
{
    guest_done(argument + 1);
}

/* With IF = 1: on Bochs the guest's IF holds off the host's interrupts. */
static void guest_spins(uint64_t argument)
{
    (void)argument;
    bare_irq_enable();
    for (;;)
        progress = progress + 1;
}

/* ---- Cases ---- */

static void application_processor(void)
{
    if (!two_cpus())
        return;
    machine_open();
    guest_prepare(guest_add, 41);
    const struct virtx_exit *exit;
    if (start((struct job){.vcpu = machine.vcpu, .enable = true, .put = true, .disable = true}))
        finish();
    CHECK_EQUAL(job.enabled, VIRTX_OK);
    CHECK_EQUAL(job.status, VIRTX_OK);
    CHECK(job.done);
    CHECK_EQUAL(job.result, 42);
    /* The other one is as it was. */
    guest_prepare(guest_add, 1);
    CHECK_OK(virtx_vcpu_run(machine.vcpu, &exit));
    CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
}

static void not_enabled(void)
{
    if (!two_cpus())
        return;
    machine_open();
    guest_prepare(guest_add, 1);
    if (start((struct job){.vcpu = machine.vcpu, .runs = 1}))
        finish();
    CHECK_EQUAL(job.status, VIRTX_E_NOT_ENABLED);
    CHECK_EQUAL(GUEST_RESULT(guest_add, 1), 2);
}

enum { PATTERN = 0x5100, MSR_LSTAR = 0xc0000082, MSR_KERNEL_GS_BASE = 0xc0000102 };

static void guest_moves(uint64_t rounds)
{
    uint64_t bad = 0, low, dr2;

    for (uint64_t i = 0; i < rounds; i++) {
        uint64_t seed = PATTERN + i;

        bare_wrmsr(MSR_LSTAR, seed);
        bare_wrmsr(MSR_KERNEL_GS_BASE, seed << 12);
        bare_write_cr2(seed << 4);
        bare_write_cr8(i & 15);
        __asm__ volatile("movq %0, %%xmm7; movq %0, %%dr2" : : "r"(seed));
        guest_mark(i);
        __asm__ volatile("movq %%xmm7, %0; movq %%dr2, %1" : "=r"(low), "=r"(dr2));
        bad += low != seed;
        bad += dr2 != seed;
        bad += bare_rdmsr(MSR_LSTAR) != seed;
        bad += bare_rdmsr(MSR_KERNEL_GS_BASE) != seed << 12;
        bad += bare_read_cr2() != seed << 4;
        bad += bare_read_cr8() != (i & 15);
    }
    guest_done(bad);
}

static void vcpu_moves(void)
{
    enum { MOVES = 20 };
    const struct virtx_exit *exit;

    if (!two_cpus())
        return;
    harness_no_watchdog = true;
    machine_open();
    cpu1(true);
    guest_prepare(guest_moves, MOVES);
    for (unsigned i = 0; i < MOVES + 1; i++) {
        uint64_t value, port;

        if (i % 2 == 0) {
            if (!CHECK_OK(virtx_vcpu_run(machine.vcpu, &exit)) ||
                !CHECK_EQUAL(exit->reason, VIRTX_EXIT_IO))
                break;
            value = exit->io.value;
            port = exit->io.port;
            CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
            CHECK_OK(virtx_vcpu_put(machine.vcpu));
        } else {
            if (!start((struct job){.vcpu = machine.vcpu, .runs = 1, .put = true}))
                break;
            finish();
            if (!CHECK_EQUAL(job.status, VIRTX_OK))
                break;
            value = job.exit.io.value;
            port = job.exit.io.port;
        }
        CHECK_EQUAL(port, i < MOVES ? PORT_MARK : PORT_DONE);
        CHECK_EQUAL(value, i < MOVES ? i : 0);
    }
    cpu1(false);
}

static void busy_elsewhere(void)
{
    if (!two_cpus())
        return;
    machine_open();
    cpu1(true);
    CHECK_EQUAL(GUEST_RESULT(guest_add, 1), 2); /* loaded here now */
    guest_prepare_again(guest_add, 5);
    if (start((struct job){.vcpu = machine.vcpu, .runs = 1}))
        finish();
    CHECK_EQUAL(job.status, VIRTX_E_BUSY);
    CHECK_OK(virtx_vcpu_put(machine.vcpu));
    if (start((struct job){.vcpu = machine.vcpu, .put = true}))
        finish();
    CHECK_EQUAL(job.status, VIRTX_OK);
    CHECK_EQUAL(job.result, 6);
    cpu1(false);
}

/* Each kick makes run return; the next one is sent when the last has been seen, after a pause of up
 * to `longest` rounds of `step`: at all moments of its life, entering, in the guest, leaving. */
static void kick_again_and_again(uint64_t kicks, uint64_t longest, uint64_t step, bool interrupts)
{
    uint64_t sent;

    machine_open();
    cpu1(true);
    guest_prepare(guest_spins, 0);
    if (!start((struct job){.vcpu = machine.vcpu, .put = true, .interrupts = interrupts}))
        return;
    for (sent = 1; sent <= kicks; sent++) {
        for (volatile uint64_t i = 0; i < sent % longest * step; i++)
            ;
        if (sent == kicks)
            job.stop = true;
        virtx_vcpu_kick(machine.vcpu);
        if (!CHECK(wait_for(&job.kicks, sent)))
            break;
    }
    if (sent <= kicks)
        bare_panic("kick %lu was lost; processor 1 does not come back", sent);
    finish();
    CHECK_EQUAL(job.status, VIRTX_OK);
    CHECK_EQUAL(job.kicks, kicks); /* none doubled either */
    cpu1(false);
}

static void thousand_kicks(void)
{
    if (!two_cpus())
        return;
    harness_no_watchdog = true;
    kick_again_and_again(KICKS, 37, 5, true);
}

static void kick_by_nmi(void *ctx, uint32_t cpu)
{
    (void)ctx;
    bare_nmi(cpu);
}

static void on_nmi(struct bare_frame *frame, void *ctx)
{
    (void)ctx;
    if (machine.virtx)
        frame->rip = virtx_nmi_return(machine.virtx, frame->rip);
}

/* The guest owns the interrupts, and kicks are NMIs. */
static bool nmis_kick(struct virtx_host_ops *ops)
{
    if (!paging_is_nested() || !has_feature(VIRTX_FEATURE_UNPAGED_GUEST)) {
        not_shown("the guest cannot own the interrupts here");
        return false;
    }
    harness_no_watchdog = harness_interrupts_to_guest = true;
    ops->kick_cpu = kick_by_nmi;
    harness_ops = ops;
    bare_handler_set(2, on_nmi, NULL);
    return true;
}

/* Interrupts are the guest's, so a kick is an NMI, and nothing keeps it from coming at any moment.
 */
static void kicks_by_nmi(void)
{
    struct virtx_host_ops ops = bare_virtx_ops;

    if (!two_cpus())
        return;
    if (!nmis_kick(&ops))
        return;
    /* QEMU's processors are threads that wait for each other as long as the machine lets them. */
    kick_again_and_again(engine_is("qemu") ? KICKS : NMI_KICKS, 97, 1, false);
    machine_close(); /* while `ops` lives */
    bare_handler_set(2, NULL, NULL);
}

/* ---- The last moment before an entry ---- */

enum { LAST_MOMENTS = 20, ROUNDS = 100000 };

static bool kick_armed;

/* The run loop has looked for requests, and asks this before it enters. */
static int kick_when_asked(void *ctx)
{
    (void)ctx;
    if (kick_armed) {
        kick_armed = false;
        virtx_vcpu_kick(machine.vcpu);
    }
    return -1;
}

static const struct virtx_irq_source kicker = {.pending = kick_when_asked, .take = kick_when_asked};

/* Ends by itself, so that a lost kick is seen as an exit that should not have been. */
static void guest_counts(uint64_t argument)
{
    (void)argument;
    while (progress < ROUNDS)
        progress = progress + 1;
    guest_done(1);
}

/*
 * An NMI that comes when the loop has looked for requests, and before the entry, keeps the guest
 * from executing anything: SVM holds it behind GIF, VMX looks again.
 */
static void nmi_kick_before_entry(void)
{
    struct virtx_host_ops ops = bare_virtx_ops;
    const struct virtx_exit *exit;

    if (!nmis_kick(&ops))
        return;
    machine_open();
    CHECK_OK(virtx_vcpu_irq_source(machine.vcpu, &kicker, NULL));
    progress = 0;
    guest_prepare(guest_counts, 0);
    for (unsigned i = 0; i < LAST_MOMENTS; i++) {
        kick_armed = true;
        virtx_vcpu_irq_changed(machine.vcpu);
        if (!CHECK_OK(virtx_vcpu_run(machine.vcpu, &exit)) ||
            !CHECK_EQUAL(exit->reason, VIRTX_EXIT_KICK))
            break;
        CHECK(!kick_armed); /* it was this one */
        CHECK_EQUAL(progress, 0);
    }
    machine_close();
    bare_handler_set(2, NULL, NULL);
}

static void guest_waits_for_nmi(uint64_t argument)
{
    (void)argument;
    guest_handler[2] = guest_ignore;
    bare_irq_enable();
    progress = 1;
    while (guest_vector_count[2] == 0)
        bare_pause();
    bare_irq_disable();
    guest_done(guest_vector_count[2]);
}

/* Without run returning for it. */
static void nmi_from_elsewhere(void)
{
    if (!two_cpus())
        return;
    harness_no_watchdog = true;
    machine_open();
    cpu1(true);
    progress = 0;
    guest_prepare(guest_waits_for_nmi, 0);
    if (!start((struct job){.vcpu = machine.vcpu, .put = true, .interrupts = true}))
        return;
    CHECK(wait_for(&progress, 1));
    virtx_vcpu_nmi(machine.vcpu);
    finish();
    CHECK_EQUAL(job.status, VIRTX_OK);
    CHECK_EQUAL(job.result, 1);
    CHECK_EQUAL(job.kicks, 0);
    cpu1(false);
}

static volatile int source_vector;

static int source_pending(void *ctx)
{
    (void)ctx;
    return source_vector;
}

static int source_take(void *ctx)
{
    int vector = source_vector;

    (void)ctx;
    source_vector = -1;
    return vector;
}

static const struct virtx_irq_source source_ops = {.pending = source_pending, .take = source_take};

static void guest_waits_for_interrupt(uint64_t argument)
{
    (void)argument;
    guest_handler[VECTOR] = guest_ignore;
    bare_irq_enable();
    progress = 1;
    while (guest_vector_count[VECTOR] == 0)
        bare_pause();
    bare_irq_disable();
    guest_done(guest_vector_count[VECTOR]);
}

static void source_from_elsewhere(void)
{
    if (!two_cpus())
        return;
    harness_no_watchdog = true;
    machine_open();
    cpu1(true);
    source_vector = -1;
    progress = 0;
    CHECK_OK(virtx_vcpu_irq_source(machine.vcpu, &source_ops, NULL));
    guest_prepare(guest_waits_for_interrupt, 0);
    if (!start((struct job){.vcpu = machine.vcpu, .put = true, .interrupts = true}))
        return;
    CHECK(wait_for(&progress, 1));
    source_vector = VECTOR;
    virtx_vcpu_irq_changed(machine.vcpu);
    finish();
    CHECK_EQUAL(job.result, 1);
    CHECK_EQUAL(job.kicks, 0);
    CHECK_OK(virtx_vcpu_irq_source(machine.vcpu, NULL, NULL));
    cpu1(false);
}

/* Two vcpus of a VM at the same time, on the same memory. */
enum { ADDS = 20000 };
static volatile uint64_t shared_sum;

static void guest_shares(uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        __asm__ volatile("lock incq %0" : "+m"(shared_sum));
    guest_done(count);
}

static void two_at_once(void)
{
    uint64_t result = 0;

    if (!two_cpus())
        return;
    harness_no_watchdog = true;
    machine_open();
    cpu1(true);
    struct virtx_vcpu *other = vcpu_make(machine.vm, 1);
    shared_sum = 0;
    guest_prepare(guest_shares, ADDS);
    vcpu_prepare(other, 1, guest_shares, ADDS);
    if (!start((struct job){.vcpu = other, .put = true, .interrupts = true}))
        return;
    CHECK(guest_continue(&result));
    finish();
    CHECK_EQUAL(result, ADDS);
    CHECK_EQUAL(job.result, ADDS);
    CHECK_EQUAL(shared_sum, 2 * ADDS);
    CHECK_OK(virtx_vcpu_destroy(other));
    cpu1(false);
}

/* A slot goes while a guest uses it: once settled, nobody does any more. */
static void guest_touches(uint64_t argument)
{
    (void)argument;
    bare_irq_enable();
    for (;;) {
        *(volatile uint64_t *)(uintptr_t)GUEST_MEMORY = progress;
        progress = progress + 1;
    }
}

static void slot_removed_elsewhere(void)
{
    uint64_t generation = 0, now;
    bool settled = false;

    if (!two_cpus())
        return;
    harness_no_watchdog = true;
    machine_open();
    cpu1(true);
    progress = 0;
    guest_prepare(guest_touches, 0);
    if (!start((struct job){.vcpu = machine.vcpu, .interrupts = true}))
        return;
    CHECK(wait_for(&progress, 100));
    CHECK_OK(virtx_memslot_remove(machine.memory, &generation));
    bare_irq_enable();
    for (uint64_t i = 0; i < PATIENCE && !settled; i++)
        settled = virtx_vm_settled(machine.vm, generation, true);
    bare_irq_disable();
    CHECK(settled);
    now = *(volatile uint64_t *)(void *)machine.ram;
    finish(); /* it came back with an exit: there is no RAM any more */
    CHECK_EQUAL(job.exit.reason, VIRTX_EXIT_MMIO);
    CHECK_EQUAL(job.exit.mmio.gpa, GUEST_MEMORY);
    CHECK_EQUAL(*(volatile uint64_t *)(void *)machine.ram, now);
    if (start((struct job){.disable = false}))
        finish();
    /* Loaded there: it is put there. What it has written goes nowhere, and it writes again. */
    if (start((struct job){.vcpu = machine.vcpu, .runs = 1, .put = true}))
        finish();
    CHECK_OK(job.status);
    CHECK_EQUAL(job.exit.reason, VIRTX_EXIT_MMIO);
    cpu1(false);
}

/* run with IF = 0 on an application processor, and an IPI from here. */
static volatile uint64_t ipis;

static void on_ipi(struct bare_frame *frame, void *ctx)
{
    (void)frame;
    (void)ctx;
    ipis = ipis + 1;
    bare_eoi();
}

static void interrupt_with_if_0(void)
{
    if (!two_cpus())
        return;
    harness_no_watchdog = true;
    machine_open();
    cpu1(true);
    bare_handler_set(VECTOR_HOST, on_ipi, NULL);
    progress = 0;
    ipis = 0;
    guest_prepare(guest_spins, 0);
    if (!start((struct job){.vcpu = machine.vcpu, .put = true}))
        return;
    CHECK(wait_for(&progress, 1));
    bare_ipi(1, VECTOR_HOST);
    finish();
    CHECK_EQUAL(job.status, VIRTX_OK);
    CHECK_EQUAL(job.exit.reason, VIRTX_EXIT_INTERRUPT);
    CHECK(wait_for(&ipis, 1)); /* taken when processor 1 had interrupts on again */
    CHECK_EQUAL(guest_vector_count[VECTOR_HOST], 0);
    cpu1(false);
}

GUEST_CASES({"application-processor", application_processor}, {"cpu-not-enabled", not_enabled},
            {"vcpu-moves-with-all-state", vcpu_moves}, {"busy-elsewhere", busy_elsewhere},
            {"thousand-kicks", thousand_kicks}, {"kicks-by-nmi", kicks_by_nmi},
            {"nmi-kick-before-entry", nmi_kick_before_entry},
            {"nmi-from-elsewhere", nmi_from_elsewhere},
            {"interrupt-source-from-elsewhere", source_from_elsewhere},
            {"two-vcpus-at-once", two_at_once}, {"slot-removed-elsewhere", slot_removed_elsewhere},
            {"interrupt-with-host-cli", interrupt_with_if_0});
