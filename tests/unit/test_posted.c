/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Posted interrupts against entries and exits, under the thread sanitizer, since no engine has
 * them.
 *
 * Threads post vectors to the local APIC of a vcpu that another thread runs, with the real run
 * loop, LAPIC and descriptor. The processor is enter() below, with virtual-interrupt delivery as
 * the manual has it (Intel SDM "Virtual-Interrupt Delivery", "Posted-Interrupt Processing"): it
 * delivers by the guest interrupt status, which is what it was last told and what it has moved from
 * the descriptor by itself. It does the latter only for a notification that finds it in the guest;
 * the host throws others away.
 *
 *     test_posted-threads [POSTS]
 */
#include "hw_world.h"
#include "vmx/vmx.h"

#include <virtx/lapic.h>

#include <check.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    CPUS = 3, /* two of the vcpu's, and that of all other threads */
    OTHERS = 2,
    SENDERS = 3,
    VECTORS = 4, /* of each */
    FIRST = 0x40,
    LEVEL = 0xc0, /* and the sender's number: a vector that is an edge's and a level's by turns */
    NOTIFICATION = 0xf2,
    VISR = 0x100 / 4,
    VIRR = 0x200 / 4,
    SECONDS = 60,
};

static struct virtx *virtx;
static struct virtx_vm *vm;
static struct virtx_vcpu *vcpu;
static struct virtx_lapic lapic;
static uint32_t *page;  /* the virtual-APIC page */
static unsigned status; /* RVI */
static uint64_t random_state = 3;
static _Atomic bool notified[CPUS], kicked[CPUS], stop;
static _Atomic uint64_t got[256], silent, halts, acknowledged;
static uint64_t posts_wanted;
static pthread_mutex_t bed = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t alarm_clock = PTHREAD_COND_INITIALIZER;

static void wrong(const char *what)
{
    fprintf(stderr, "test_posted: %s\n", what);
    abort();
}

static uint64_t some(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return random_state >> 33;
}

/* ---- The processor ---- */

void mock_vmwrite(uint64_t field, uint64_t value);
void mock_vmwrite(uint64_t field, uint64_t value)
{
    (void)field;
    (void)value;
    wrong("there is no VMCS");
}

static unsigned highest(unsigned set)
{
    for (unsigned i = 8; i-- > 0;)
        if (page[set + 4 * i])
            return 32 * i + 31 - (unsigned)__builtin_clz(page[set + 4 * i]);
    return 0;
}

static void flip(unsigned set, unsigned vector)
{
    page[set + vector / 32 * 4] ^= 1u << vector % 32;
}

/* "Virtual-Interrupt Delivery"; the handler ends it at once. */
static void deliver(void)
{
    while (status) {
        unsigned vector = status;

        if (!(page[VIRR + vector / 32 * 4] >> vector % 32 & 1))
            wrong("RVI names a vector that is not requested");
        flip(VISR, vector);
        flip(VIRR, vector);
        status = highest(VIRR);
        if (highest(VISR) != vector)
            wrong("a vector is in service that was not delivered");
        flip(VISR, vector);
        atomic_fetch_add(&got[vector], 1);
    }
}

/* "Posted-Interrupt Processing": ON is cleared before the requests are read. */
static void process_posted(struct vmx_posted *posted)
{
    uint64_t set[4];
    unsigned top = 0;

    atomic_fetch_and(&posted->control, ~(uint64_t)VMX_POSTED_OUTSTANDING);
    for (unsigned i = 0; i < 4; i++) {
        set[i] = atomic_exchange(&posted->requests[i], 0);
        page[VIRR + 8 * i] |= (uint32_t)set[i];
        page[VIRR + 8 * i + 4] |= (uint32_t)(set[i] >> 32);
        if (set[i])
            top = 64 * i + 63 - (unsigned)__builtin_clzll(set[i]);
    }
    status = status > top ? status : top;
    if (top)
        atomic_fetch_add(&silent, 1);
}

static uint32_t leave(struct hw_vcpu *hv, uint32_t reason, uint8_t length)
{
    hv->vcpu->exit.reason = reason;
    hv->vcpu->exit.length = length;
    return reason;
}

static uint32_t enter(struct hw_vcpu *hv)
{
    struct vmx_posted *posted = &((struct vmx_vcpu *)(void *)hv)->posted;
    uint64_t mood = some(), turns = mood / 8 % 512;

    if (!(atomic_load(&posted->control) >> VMX_POSTED_VECTOR_SHIFT & 0xff) ||
        (atomic_load(&posted->control) & VMX_POSTED_SUPPRESS))
        wrong("the descriptor of a loaded vcpu suppresses notifications");
    hv->dirty = 0;
    hv->vcpu->exit.rip = hv->state.rip;
    for (uint64_t i = 0; i < turns || mood % 8 == 0; i++) {
        deliver();
        if (atomic_exchange(&notified[world.this_cpu], false))
            process_posted(posted);
        else if (atomic_exchange(&kicked[world.this_cpu], false)) {
            hv->acknowledged = 0x33;
            return leave(hv, VIRTX_EXIT_INTERRUPT, 0);
        }
        if (i % 64 == 63)
            sched_yield();
    }
    return mood % 8 < 4 ? leave(hv, VIRTX_EXIT_HLT, 1) : leave(hv, VIRTX_EXIT_CPUID, 2);
}

static void *apic_page(struct hw_vcpu *hv)
{
    (void)hv;
    return page;
}

static void apic_changed(struct hw_vcpu *hv)
{
    (void)hv;
    status = highest(VIRR);
}

static enum virtx_status load(struct hw_vcpu *hv, void *cpu)
{
    (void)cpu;
    vmx_posted_load((struct vmx_vcpu *)(void *)hv);
    return VIRTX_OK;
}

static void put(struct hw_vcpu *hv)
{
    hv->valid = VIRTX_STATE_ALL;
    vmx_posted_put((struct vmx_vcpu *)(void *)hv);
}

/* ---- The host ---- */

static void throw_away(void)
{
    atomic_store(&notified[world.this_cpu], false);
    atomic_store(&kicked[world.this_cpu], false);
}

static void kick_cpu(void *ctx, uint32_t cpu)
{
    (void)ctx;
    atomic_store(&kicked[cpu], true);
}

static void notify_cpu(void *ctx, uint32_t cpu)
{
    (void)ctx;
    atomic_store(&notified[cpu], true);
}

static void interrupt(void *ctx, uint8_t vector)
{
    (void)ctx;
    if (vector != 0x33)
        wrong("the host is given another vector than the exit acknowledged");
    atomic_fetch_add(&acknowledged, 1);
}

static void wake(void *ctx, struct virtx_vcpu *who)
{
    (void)ctx;
    (void)who;
    pthread_mutex_lock(&bed);
    pthread_cond_signal(&alarm_clock);
    pthread_mutex_unlock(&bed);
}

/* ---- The threads ---- */

static void become_cpu(uint32_t cpu)
{
    world_processor();
    world.flags = RFLAGS_FIXED | RFLAGS_IF;
    world.on_window = throw_away;
    world.can_interrupt = true;
    world.this_cpu = cpu;
}

static void turn(void)
{
    const struct virtx_exit *exit;

    if (virtx_vcpu_run(vcpu, &exit) != VIRTX_OK)
        wrong("run");
    if (some() % 2)
        throw_away(); /* interrupts are on out here */
    if (exit->reason == VIRTX_EXIT_HLT) {
        atomic_fetch_add(&halts, 1);
        pthread_mutex_lock(&bed);
        while (!virtx_vcpu_wakeable(vcpu))
            pthread_cond_wait(&alarm_clock, &bed);
        pthread_mutex_unlock(&bed);
    } else if (exit->reason != VIRTX_EXIT_KICK) {
        wrong("an exit that nobody asked for");
    }
    if (some() % 5 == 0) {
        if (virtx_vcpu_put(vcpu) != VIRTX_OK)
            wrong("put");
        world.this_cpu ^= 1;
    }
}

static void *player(void *unused)
{
    struct virtx_state state = {.rflags = RFLAGS_FIXED | RFLAGS_IF};

    (void)unused;
    for (uint32_t cpu = 2; cpu-- > 0;) {
        become_cpu(cpu);
        if (virtx_cpu_enable(virtx) != VIRTX_OK)
            wrong("cpu_enable");
    }
    if (virtx_vcpu_reset(vcpu, VIRTX_PRESET_FLAT32) != VIRTX_OK ||
        virtx_vcpu_set(vcpu, VIRTX_STATE_RFLAGS, &state) != VIRTX_OK)
        wrong("the start state");
    while (!atomic_load(&stop))
        turn();
    if (virtx_vcpu_put(vcpu) != VIRTX_OK)
        wrong("put");
    for (unsigned i = 0; i < 2; i++) {
        world.this_cpu ^= 1;
        if (virtx_cpu_disable(virtx) != VIRTX_OK)
            wrong("cpu_disable");
    }
    return NULL;
}

static void expect(unsigned vector, uint64_t count)
{
    time_t since = time(NULL);

    while (atomic_load(&got[vector]) < count) {
        sched_yield();
        if (time(NULL) - since > SECONDS)
            wrong("an interrupt was lost");
    }
    if (atomic_load(&got[vector]) > count)
        wrong("an interrupt came twice");
}

/* One of each vector, waited for, then again. */
static void *sender(void *arg)
{
    unsigned me = (unsigned)(uintptr_t)arg, first = FIRST + 0x20 * me;

    become_cpu(OTHERS);
    for (uint64_t round = 1; round <= posts_wanted; round++) {
        for (unsigned i = 0; i < VECTORS; i++)
            if (!virtx_lapic_accept(&lapic, VIRTX_APIC_FIXED, (uint8_t)(first + 3 * i), false))
                wrong("not accepted");
        if (!virtx_lapic_accept(&lapic, VIRTX_APIC_FIXED, (uint8_t)(LEVEL + me), round % 4 == 0))
            wrong("not accepted");
        if (round % 16 == me)
            virtx_vcpu_kick(vcpu);
        for (unsigned i = 0; i < VECTORS; i++)
            expect(first + 3 * i, round);
        expect(LEVEL + me, round);
    }
    return NULL;
}

static void make_machine(void)
{
    static struct virtx_hw vendor;
    static struct virtx_backend backend;
    static struct virtx_host_ops host;
    static const struct virtx_backend *const backends[] = {&backend, NULL};
    static const struct virtx_paging *const engines[] = {&world_engine, NULL};
    struct virtx_config config = {.size = sizeof(config),
                                  .max_cpus = CPUS,
                                  .ops = &host,
                                  .backends = backends,
                                  .paging = engines,
                                  .disable = VIRTX_FEATURE_TPR_SHADOW};
    struct virtx_lapic_config own = {
        .size = sizeof(own), .address_bits = 40, .bsp = true, .bus_multiply = 1, .bus_divide = 1};

    host = world_host;
    host.kick_cpu = kick_cpu;
    host.notify_cpu = notify_cpu;
    host.interrupt = interrupt;
    host.posted_vector = NOTIFICATION;
    host.wake = wake;
    vendor = world_vendor;
    vendor.enter = enter;
    vendor.load = load;
    vendor.put = put;
    vendor.apic_page = apic_page;
    vendor.apic_changed = apic_changed;
    vendor.post = vmx_post;
    vendor.posted = vmx_posted;
    vendor.vcpu_bytes = sizeof(struct vmx_vcpu);
    backend = (struct virtx_backend)HW_BACKEND("posted", &vendor, sizeof(struct hw_cpu),
                                               sizeof(struct hw_vm), sizeof(struct vmx_vcpu));
    page = aligned_alloc(4096, 4096);
    world_features = VIRTX_FEATURE_VIRTUAL_INTERRUPT | VIRTX_FEATURE_POSTED_INTERRUPT;
    become_cpu(OTHERS);
    ck_assert_int_eq(virtx_open(&config, &virtx, NULL), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_create(virtx, NULL, &vm), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_create(vm, 0, &vcpu), VIRTX_OK);
    ck_assert_int_eq(virtx_lapic_attach(&lapic, &own, vcpu), VIRTX_OK);
    virtx_lapic_virtual_wire(&lapic); /* software-enabled */
}

START_TEST(posted_and_entered)
{
    pthread_t runs, sends[SENDERS];

    make_machine();
    ck_assert_int_eq(pthread_create(&runs, NULL, player, NULL), 0);
    for (unsigned i = 0; i < SENDERS; i++)
        ck_assert_int_eq(pthread_create(&sends[i], NULL, sender, (void *)(uintptr_t)i), 0);
    for (unsigned i = 0; i < SENDERS; i++)
        pthread_join(sends[i], NULL);
    atomic_store(&stop, true);
    virtx_vcpu_kick(vcpu);
    pthread_join(runs, NULL);
    printf("%lu rounds, %lu times without an exit, %lu halts, %lu acknowledged\n", posts_wanted,
           atomic_load(&silent), atomic_load(&halts), atomic_load(&acknowledged));
    ck_assert(atomic_load(&silent) && atomic_load(&halts) && atomic_load(&acknowledged));
    virtx_lapic_detach(&lapic);
    ck_assert_int_eq(virtx_vcpu_destroy(vcpu), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_destroy(vm), VIRTX_OK);
    ck_assert_int_eq(virtx_close(virtx), VIRTX_OK);
    free(page);
}
END_TEST

int main(int argc, char **argv)
{
    Suite *suite = suite_create("posted");
    TCase *tests = tcase_create("posted");
    SRunner *runner;
    int failed;

    posts_wanted = argc > 1 ? strtoull(argv[1], NULL, 0) : 10000;
    tcase_set_timeout(tests, 0);
    tcase_add_test(tests, posted_and_entered);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK); /* so that the sanitizer speaks for the program */
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
