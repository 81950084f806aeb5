/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Each call that may be made from any CPU, made from four threads at any moment while two vcpus are
 * in run, under the thread sanitizer. `calls` below is the list; each of its lines says what it
 * calls, and has to be reached. What such calls lead to is the subject of test_threads.c.
 */
#include "hw_world.h"

#include <virtx/ioapic.h>
#include <virtx/lapic.h>
#include <virtx/pic.h>

#include <check.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    VCPUS = 2,
    CALLERS = 4,
    CPUS = VCPUS + 2 * CALLERS, /* each caller has one to turn on and off, too */
    ROUNDS = 300,               /* of each caller over all calls */
    COMMON_PAGES = 4,           /* of the slot that all callers change, at 0 */
    OWN_GPA = 0x100000,         /* and a caller's number times 64 KiB: a slot of its own */
    OWN_PORT = 0x1000,          /* and a caller's number */
    PIN = 5,
    VECTOR = 0x40,
    LEAF = (int)0x80000002,
};

struct caller {
    pthread_t thread;
    unsigned number;
    uint64_t random;
    struct virtx_memslot *slot; /* its own, or NULL */
    uint8_t *memory;
    struct virtx_intercept *intercept; /* likewise */
};

static struct virtx *virtx;
static struct virtx_vm *vm;
static struct virtx_vcpu *vcpus[VCPUS];
static struct virtx_lapic lapics[VCPUS], *lapic_table[VCPUS];
static struct virtx_apic_bus bus;
static struct virtx_ioapic ioapic;
static struct virtx_pic pic;
static struct virtx_memslot *common;
static struct virtx_paging engines[2];
static _Atomic bool pending[CPUS], stop;
static _Atomic uint64_t runs, hits;

static void wrong(const char *what)
{
    fprintf(stderr, "test_calls: %s\n", what);
    abort();
}

static uint64_t some(uint64_t *random)
{
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    return *random >> 33;
}

/* ---- The processors and what runs there ---- */

static void take_interrupts(void)
{
    atomic_store(&pending[world.this_cpu], false);
}

static void become_cpu(uint32_t cpu)
{
    world_processor();
    world.flags = RFLAGS_FIXED | RFLAGS_IF;
    world.on_window = take_interrupts;
    world.this_cpu = cpu;
}

static uint32_t leave(struct hw_vcpu *hv, uint32_t reason, uint8_t length)
{
    hv->vcpu->exit.reason = reason;
    hv->vcpu->exit.length = length;
    return reason;
}

/* A guest that does a little of everything, one thing an entry. */
static uint32_t enter(struct hw_vcpu *hv)
{
    static _Thread_local uint64_t random = 1;
    uint64_t mood = some(&random);

    hv->dirty = 0;
    hv->vcpu->exit.rip = hv->state.rip;
    world.can_interrupt = world.can_nmi = true;
    if (atomic_load(&pending[world.this_cpu]))
        return leave(hv, VIRTX_EXIT_INTERRUPT, 0);
    switch (mood % 4) {
    case 0:
        hv->state.gpr[VIRTX_RAX] = (uint32_t)LEAF;
        return leave(hv, VIRTX_EXIT_CPUID, 2);
    case 1:
        world_out(hv, (uint16_t)(OWN_PORT + mood / 4 % CALLERS), 1, 1);
        return VIRTX_EXIT_IO;
    case 2:
        world_fault(hv, OWN_GPA + (mood / 4 % CALLERS << 16), VIRTX_READ);
        return HW_EXIT_PAGE_FAULT;
    default:
        return leave(hv, VIRTX_EXIT_HLT, 1);
    }
}

static enum virtx_fault_result engine_fault(struct virtx_vcpu *vcpu, struct virtx_page_fault *fault)
{
    const struct slot_entry *entry = virtx_slot_find(virtx_slots(virtx_vcpu_vm(vcpu)), fault->gpa);

    if (entry)
        virtx_slot_mark(entry, fault->gpa, VIRTX_PAGE_SIZE);
    return VIRTX_FAULT_RESUME;
}

static void engine_changed(struct hw_vcpu *hv)
{
    (void)hv;
}

static uint64_t nmi_return(uint64_t rip)
{
    return rip;
}

static void kick_cpu(void *ctx, uint32_t cpu)
{
    (void)ctx;
    if (cpu >= CPUS)
        wrong("an interrupt for a processor that is not there");
    atomic_store(&pending[cpu], true);
}

/* Busy: the engine is being exchanged. */
static void complete(struct virtx_vcpu *vcpu)
{
    enum virtx_status status;

    while ((status = virtx_vcpu_complete(vcpu, NULL)) == VIRTX_E_BUSY)
        sched_yield();
    if (status != VIRTX_OK)
        wrong("complete");
}

static void *vcpu_thread(void *arg)
{
    unsigned number = (unsigned)(uintptr_t)arg;
    struct virtx_state state = {.rflags = RFLAGS_FIXED | RFLAGS_IF};
    const struct virtx_exit *exit;
    enum virtx_status status;

    become_cpu(number);
    if (virtx_cpu_enable(virtx) != VIRTX_OK ||
        virtx_vcpu_reset(vcpus[number], VIRTX_PRESET_FLAT32) != VIRTX_OK ||
        virtx_vcpu_set(vcpus[number], VIRTX_STATE_RFLAGS, &state) != VIRTX_OK)
        wrong("the start");
    while (!atomic_load(&stop)) {
        status = virtx_vcpu_run(vcpus[number], &exit);
        take_interrupts();
        if (status == VIRTX_E_BUSY) /* the engine is being exchanged */
            continue;
        if (status != VIRTX_OK)
            wrong(virtx_status_text(status));
        if (exit->pending)
            complete(vcpus[number]);
        virtx_lapic_advance(&lapics[number], 0);
        atomic_fetch_add(&runs, 1);
        sched_yield();
    }
    if (virtx_vcpu_put(vcpus[number]) != VIRTX_OK || virtx_cpu_disable(virtx) != VIRTX_OK)
        wrong("the end");
    return NULL;
}

/* ---- The calls ---- */

static void expect(enum virtx_status status, enum virtx_status other, const char *what)
{
    if (status != VIRTX_OK && status != other)
        wrong(what);
}

static struct virtx_vcpu *one(struct caller *c)
{
    return vcpus[some(&c->random) % VCPUS];
}

static void call_identity(struct caller *c)
{
    struct virtx_vcpu *vcpu = one(c);

    if (vcpus[virtx_vcpu_id(vcpu)] != vcpu || virtx_vcpu_vm(vcpu) != vm ||
        virtx_vcpu_user(vcpu) != vcpu)
        wrong("who a vcpu is");
    if (!virtx_status_text(VIRTX_E_BUSY))
        wrong("no text");
}

static void call_kick(struct caller *c)
{
    virtx_vcpu_kick(one(c));
}

static void call_nmi(struct caller *c)
{
    virtx_vcpu_nmi(one(c));
}

static void call_irq_changed(struct caller *c)
{
    virtx_vcpu_irq_changed(one(c));
}

/* The second vcpu only: the first one's INIT would be a reset. */
static void call_startup(struct caller *c)
{
    (void)c;
    virtx_vcpu_signal_init(vcpus[1]);
    virtx_vcpu_signal_sipi(vcpus[1], 8);
}

static void call_nmi_return(struct caller *c)
{
    uint64_t rip = some(&c->random);

    if (virtx_nmi_return(virtx, rip) != rip)
        wrong("an NMI goes on elsewhere");
}

static void call_cpu(struct caller *c)
{
    uint32_t cpu = world.this_cpu;

    world.this_cpu = VCPUS + CALLERS + c->number;
    if (virtx_cpu_enable(virtx) != VIRTX_OK || virtx_cpu_disable(virtx) != VIRTX_OK)
        wrong("a CPU on and off");
    world.this_cpu = cpu;
}

static void add_slot(struct caller *c)
{
    struct virtx_memslot_config config = {.size = sizeof(config),
                                          .rights = VIRTX_READ | VIRTX_WRITE | VIRTX_EXECUTE,
                                          .type = VIRTX_MEMORY_WB,
                                          .gpa = OWN_GPA + c->number * 0x10000,
                                          .bytes = VIRTX_PAGE_SIZE,
                                          .memory = c->memory};

    expect(virtx_memslot_add(vm, &config, &c->slot), VIRTX_OK, "memslot_add");
}

static void settle(uint64_t generation)
{
    for (unsigned i = 0; !virtx_vm_settled(vm, generation, i > 4); i++)
        sched_yield();
}

static void call_slot(struct caller *c)
{
    uint64_t generation = virtx_vm_generation(vm);

    if (!c->slot) {
        add_slot(c);
    } else if (some(&c->random) % 2) {
        expect(virtx_memslot_move(c->slot, OWN_GPA + c->number * 0x10000 + 0x8000, &generation),
               VIRTX_OK, "memslot_move");
        expect(virtx_memslot_move(c->slot, OWN_GPA + c->number * 0x10000, &generation), VIRTX_OK,
               "memslot_move back");
    } else {
        expect(virtx_memslot_remove(c->slot, &generation), VIRTX_OK, "memslot_remove");
        settle(generation);
        memset(c->memory, 0, VIRTX_PAGE_SIZE);
        c->slot = NULL;
    }
}

static void call_rights(struct caller *c)
{
    uint64_t generation;

    expect(
        virtx_memslot_protect(common, VIRTX_READ | (some(&c->random) & VIRTX_WRITE), &generation),
        VIRTX_OK, "memslot_protect");
}

static void call_invalidate(struct caller *c)
{
    uint64_t generation;

    expect(virtx_memslot_invalidate(common, some(&c->random) % COMMON_PAGES * VIRTX_PAGE_SIZE,
                                    VIRTX_PAGE_SIZE, &generation),
           VIRTX_OK, "memslot_invalidate");
}

static void call_log(struct caller *c)
{
    uint64_t bits = 0, dirty;

    expect(virtx_memslot_log(common, some(&c->random) % 8 != 0), VIRTX_E_BUSY, "memslot_log");
    if (virtx_memslot_harvest(common, &bits, 1, &dirty) == VIRTX_OK && bits >> COMMON_PAGES)
        wrong("pages that are not there");
}

static void call_query_slot(struct caller *c)
{
    struct virtx_memslot_config config;

    (void)c;
    virtx_memslot_query(common, &config);
    if (config.bytes != COMMON_PAGES * VIRTX_PAGE_SIZE || config.gpa != 0)
        wrong("what the slot is");
}

static enum virtx_verdict on_port(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    (void)vcpu;
    (void)exit;
    (void)ctx;
    atomic_fetch_add(&hits, 1);
    return VIRTX_HANDLED;
}

static void call_intercept(struct caller *c)
{
    struct virtx_intercept_config config = {.size = sizeof(config),
                                            .kind = VIRTX_INTERCEPT_PORT,
                                            .access = VIRTX_READ | VIRTX_WRITE,
                                            .first = OWN_PORT + c->number,
                                            .last = OWN_PORT + c->number,
                                            .handler = on_port};

    if (c->intercept) {
        expect(virtx_intercept_query(c->intercept, &config, NULL), VIRTX_OK, "intercept_query");
        if (config.first != OWN_PORT + c->number)
            wrong("what the intercept is");
        expect(virtx_intercept_remove(c->intercept), VIRTX_OK, "intercept_remove");
        c->intercept = NULL;
    } else if (some(&c->random) % 2) {
        expect(virtx_vm_intercept(vm, &config, &c->intercept), VIRTX_OK, "vm_intercept");
    } else {
        expect(virtx_vcpu_intercept(one(c), &config, &c->intercept), VIRTX_OK, "vcpu_intercept");
    }
}

static void call_memory(struct caller *c)
{
    uint64_t value = some(&c->random);

    expect(virtx_vm_write(vm, c->number * 8, &value, sizeof(value)), VIRTX_OK, "vm_write");
    expect(virtx_vm_read(vm, c->number * 8, &value, sizeof(value)), VIRTX_OK, "vm_read");
}

static void call_stats(struct caller *c)
{
    struct virtx_stats stats;

    (void)c;
    virtx_vm_stats(vm, &stats);
}

static void call_pool(struct caller *c)
{
    expect(virtx_vm_pool_fill(vm, some(&c->random) % 8), VIRTX_E_NO_MEMORY, "pool_fill");
}

static void call_engine(struct caller *c)
{
    const struct virtx_paging *engine = virtx_vm_paging(vm);

    if (engine != &engines[0] && engine != &engines[1])
        wrong("an engine that is not there");
    expect(virtx_vm_set_paging(vm, &engines[some(&c->random) % 2]), VIRTX_E_BUSY, "set_paging");
}

static void call_cpuid(struct caller *c)
{
    struct virtx_cpuid_entry entry = {.leaf = (uint32_t)LEAF};

    entry.eax = entry.ebx = entry.ecx = entry.edx = (uint32_t)some(&c->random);
    switch (entry.eax % 4) {
    case 0:
        expect(virtx_vm_cpuid_set(vm, &entry), VIRTX_OK, "vm_cpuid_set");
        break;
    case 1:
        expect(virtx_vcpu_cpuid_set(one(c), &entry), VIRTX_OK, "vcpu_cpuid_set");
        break;
    case 2:
        expect(virtx_vcpu_cpuid_reset(one(c)), VIRTX_OK, "vcpu_cpuid_reset");
        break;
    default:
        expect(virtx_vm_cpuid_get(vm, (uint32_t)LEAF, 0, &entry), VIRTX_OK, "vm_cpuid_get");
        expect(virtx_vcpu_cpuid_get(one(c), (uint32_t)LEAF, 0, &entry), VIRTX_OK, "vcpu_cpuid_get");
    }
    if (entry.eax % 4 == 3 && entry.ebx != entry.eax)
        wrong("half of a leaf");
}

/* Machines of the caller's own come and go. */
static void call_machine(struct caller *c)
{
    struct virtx_vcpu *vcpu;
    struct virtx_vm *other;

    if (some(&c->random) % 8)
        return;
    expect(virtx_vm_create(virtx, NULL, &other), VIRTX_OK, "vm_create");
    expect(virtx_vcpu_create(other, 0, &vcpu), VIRTX_OK, "vcpu_create");
    expect(virtx_vcpu_destroy(vcpu), VIRTX_OK, "vcpu_destroy");
    expect(virtx_vm_destroy(other), VIRTX_OK, "vm_destroy");
}

static void call_message(struct caller *c)
{
    struct virtx_apic_message message = {.destination = (uint32_t)(some(&c->random) % VCPUS),
                                         .source = VIRTX_APIC_NO_SOURCE,
                                         .vector = (uint8_t)(VECTOR + c->number),
                                         .delivery = VIRTX_APIC_LOWEST_PRIORITY};

    virtx_apic_bus_deliver(&bus, &message);
    message.logical = true;
    virtx_lapic_matches(&lapics[0], &message);
    virtx_msi_deliver(&bus, 0xfee00000 | message.destination << 12, message.vector);
}

static void call_lapic(struct caller *c)
{
    struct virtx_lapic *lapic = &lapics[some(&c->random) % VCPUS];

    virtx_lapic_accept(lapic, VIRTX_APIC_FIXED, (uint8_t)(VECTOR + c->number),
                       some(&c->random) & 1);
    virtx_lapic_set_lint(lapic, some(&c->random) & 1, some(&c->random) & 1);
}

static void call_ioapic(struct caller *c)
{
    virtx_ioapic_mmio_write(&ioapic, 0, 4, 0x10 + 2 * PIN);
    virtx_ioapic_mmio_write(&ioapic, 0x10, 4, (some(&c->random) & 0x18000) | VECTOR);
    virtx_ioapic_mmio_read(&ioapic, 0x10, 4);
    virtx_ioapic_set_irq(&ioapic, (unsigned)(some(&c->random) % 24), some(&c->random) & 1);
    virtx_ioapic_eoi(&ioapic, VECTOR);
    virtx_apic_bus_eoi(&bus, VECTOR);
}

static void call_ioapic_state(struct caller *c)
{
    struct virtx_ioapic_state state = {.size = sizeof(state)};

    (void)c;
    virtx_ioapic_save(&ioapic, &state);
    virtx_ioapic_restore(&ioapic, &state);
    virtx_ioapic_reset(&ioapic);
}

static void call_pic(struct caller *c)
{
    virtx_pic_set_irq(&pic, (unsigned)(some(&c->random) % 16), some(&c->random) & 1);
    virtx_pic_pulse(&pic, (unsigned)(some(&c->random) % 16));
    virtx_pic_write(&pic, some(&c->random) & 1 ? 0x20 : 0x21, (uint8_t)some(&c->random));
    virtx_pic_read(&pic, 0x20);
    if (virtx_pic_pending(&pic) != VIRTX_IRQ_NONE)
        virtx_pic_take(&pic);
}

static void call_pic_state(struct caller *c)
{
    struct virtx_pic_state state = {.size = sizeof(state)};

    (void)c;
    virtx_pic_save(&pic, &state);
    if (!virtx_pic_restore(&pic, &state))
        wrong("a state that was saved");
}

static struct call {
    const char *name;
    void (*make)(struct caller *c);
    _Atomic uint64_t made;
} calls[] = {
    {"vcpu_id vcpu_vm vcpu_user status_text", call_identity, 0},
    {"vcpu_kick", call_kick, 0},
    {"vcpu_nmi", call_nmi, 0},
    {"vcpu_irq_changed", call_irq_changed, 0},
    {"vcpu_signal_init vcpu_signal_sipi", call_startup, 0},
    {"nmi_return", call_nmi_return, 0},
    {"cpu_enable cpu_disable, of other CPUs", call_cpu, 0},
    {"memslot_add memslot_move memslot_remove vm_settled vm_generation", call_slot, 0},
    {"memslot_protect", call_rights, 0},
    {"memslot_invalidate", call_invalidate, 0},
    {"memslot_log memslot_harvest", call_log, 0},
    {"memslot_query", call_query_slot, 0},
    {"vm_intercept vcpu_intercept intercept_query intercept_remove", call_intercept, 0},
    {"vm_read vm_write", call_memory, 0},
    {"vm_stats", call_stats, 0},
    {"vm_pool_fill", call_pool, 0},
    {"vm_paging vm_set_paging", call_engine, 0},
    {"vm_cpuid_get vm_cpuid_set vcpu_cpuid_get vcpu_cpuid_set vcpu_cpuid_reset", call_cpuid, 0},
    {"vm_create vm_destroy vcpu_create vcpu_destroy, of other VMs", call_machine, 0},
    {"apic_bus_deliver msi_deliver lapic_matches", call_message, 0},
    {"lapic_accept lapic_set_lint", call_lapic, 0},
    {"ioapic_mmio_read ioapic_mmio_write ioapic_set_irq ioapic_eoi apic_bus_eoi", call_ioapic, 0},
    {"ioapic_save ioapic_restore ioapic_reset", call_ioapic_state, 0},
    {"pic_set_irq pic_pulse pic_read pic_write pic_pending pic_take", call_pic, 0},
    {"pic_save pic_restore", call_pic_state, 0},
};
enum { CALLS = sizeof(calls) / sizeof(calls[0]) };

static void *caller_thread(void *arg)
{
    struct caller *c = arg;

    become_cpu(VCPUS + c->number);
    for (unsigned i = 0; i < ROUNDS * CALLS; i++) {
        struct call *call = &calls[some(&c->random) % CALLS];

        call->make(c);
        atomic_fetch_add(&call->made, 1);
    }
    if (c->slot)
        expect(virtx_memslot_remove(c->slot, NULL), VIRTX_OK, "memslot_remove");
    if (c->intercept)
        expect(virtx_intercept_remove(c->intercept), VIRTX_OK, "intercept_remove");
    return NULL;
}

/* ---- The test ---- */

static void make_machine(void *memory)
{
    static struct virtx_hw vendor;
    static struct virtx_backend backend;
    static struct virtx_host_ops host;
    static const struct virtx_backend *const backends[] = {&backend, NULL};
    static const struct virtx_paging *const paging[] = {&engines[0], &engines[1], NULL};
    struct virtx_memslot_config slot = {.size = sizeof(slot),
                                        .rights = VIRTX_READ | VIRTX_WRITE | VIRTX_EXECUTE,
                                        .type = VIRTX_MEMORY_WB,
                                        .bytes = COMMON_PAGES * VIRTX_PAGE_SIZE,
                                        .memory = memory};
    struct virtx_ioapic_config io = {.size = sizeof(io), .version = 0x20, .bus = &bus};
    struct virtx_lapic_config lapic = {
        .size = sizeof(lapic), .address_bits = 40, .bus_multiply = 1, .bus_divide = 1};
    struct virtx_config config = {.size = sizeof(config),
                                  .max_cpus = CPUS,
                                  .ops = &host,
                                  .backends = backends,
                                  .paging = paging,
                                  .disable = VIRTX_FEATURE_TPR_SHADOW};

    host = world_host;
    host.kick_cpu = kick_cpu;
    vendor = world_vendor;
    vendor.enter = enter;
    vendor.engine = engine_changed;
    vendor.nmi_return = nmi_return;
    backend = (struct virtx_backend)HW_BACKEND("calls", &vendor, sizeof(struct hw_cpu),
                                               sizeof(struct hw_vm), sizeof(struct hw_vcpu));
    for (unsigned i = 0; i < 2; i++) {
        engines[i] = world_engine;
        engines[i].fault = engine_fault;
    }
    engines[1].name = "other";
    become_cpu(VCPUS);
    ck_assert_int_eq(virtx_open(&config, &virtx, NULL), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_create(virtx, NULL, &vm), VIRTX_OK);
    ck_assert_int_eq(virtx_memslot_add(vm, &slot, &common), VIRTX_OK);
    virtx_apic_bus_init(&bus, lapic_table, VCPUS);
    for (unsigned i = 0; i < VCPUS; i++) {
        ck_assert_int_eq(virtx_vcpu_create(vm, i, &vcpus[i]), VIRTX_OK);
        virtx_vcpu_set_user(vcpus[i], vcpus[i]);
        lapic.bsp = i == 0;
        ck_assert_int_eq(virtx_lapic_attach(&lapics[i], &lapic, vcpus[i]), VIRTX_OK);
        ck_assert(virtx_apic_bus_add_lapic(&bus, &lapics[i]));
        virtx_lapic_mmio_write(&lapics[i], 0xf0, 4, 0x1ff, 0);
    }
    ck_assert(virtx_ioapic_init(&ioapic, &io));
    ck_assert(virtx_apic_bus_add_ioapic(&bus, &ioapic));
    virtx_pic_init(&pic, NULL, NULL);
}

static void end_machine(void)
{
    for (unsigned i = 0; i < VCPUS; i++) {
        virtx_lapic_detach(&lapics[i]);
        ck_assert_int_eq(virtx_vcpu_destroy(vcpus[i]), VIRTX_OK);
    }
    ck_assert_int_eq(virtx_vm_destroy(vm), VIRTX_OK);
    ck_assert_int_eq(virtx_close(virtx), VIRTX_OK);
}

START_TEST(from_any_cpu)
{
    static struct caller callers[CALLERS];
    uint8_t *memory = aligned_alloc(VIRTX_PAGE_SIZE, (COMMON_PAGES + CALLERS) * VIRTX_PAGE_SIZE);
    pthread_t threads[VCPUS];

    memset(memory, 0, (COMMON_PAGES + CALLERS) * VIRTX_PAGE_SIZE);
    make_machine(memory);
    for (unsigned i = 0; i < VCPUS; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, vcpu_thread, (void *)(uintptr_t)i), 0);
    for (unsigned i = 0; i < CALLERS; i++) {
        callers[i].number = i;
        callers[i].random = i;
        callers[i].memory = memory + (COMMON_PAGES + i) * VIRTX_PAGE_SIZE;
        ck_assert_int_eq(pthread_create(&callers[i].thread, NULL, caller_thread, &callers[i]), 0);
    }
    for (unsigned i = 0; i < CALLERS; i++)
        pthread_join(callers[i].thread, NULL);
    atomic_store(&stop, true);
    for (unsigned i = 0; i < VCPUS; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < CALLS; i++)
        ck_assert_msg(atomic_load(&calls[i].made) >= ROUNDS, "%s", calls[i].name);
    printf("%u calls, %lu runs, %lu ports served\n", CALLERS * ROUNDS * CALLS, atomic_load(&runs),
           atomic_load(&hits));
    ck_assert(atomic_load(&runs) > 100 && atomic_load(&hits) > 10);
    end_machine();
    free(memory);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("calls");
    TCase *tests = tcase_create("calls");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tests, 0);
    tcase_add_test(tests, from_any_cpu);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK); /* so that the sanitizer speaks for the program */
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
