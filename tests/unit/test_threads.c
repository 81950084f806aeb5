/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Everything that may run at the same time, at the same time, under the thread sanitizer.
 *
 * Threads play processors. Above the vendor, all of the library is the real one, src/hw's run loop
 * included; the guest is enter() below, which leaves nothing but by an exit and, when it has
 * decided to stay, only by an interrupt of the host's: a kick whose interrupt is lost leaves it
 * there for good. The processor has a TLB that forgets nothing before it is told to.
 *
 *     test_threads [KICKS]
 */
#include "hw_world.h"

#include <virtx/ioapic.h>
#include <virtx/lapic.h>

#include <check.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    PLAYERS = 3,          /* vcpus that live from start to end */
    MORTAL = PLAYERS,     /* … and one that is made and destroyed all the time */
    PAIRS = PLAYERS + 1,  /* each thread has two processors, and moves between them */
    CPUS = 2 * PAIRS + 1, /* the last is of all other threads */
    PAGES = 4,
    SENDERS = 2,
    VECTORS = 8, /* of each sender */
    FIRST_VECTOR = 0x40,
    LEVEL_VECTOR = 0x80, /* and the sender's number */
    SECONDS = 60,        /* of all threads together, until something counts as lost */
};

static struct player {
    pthread_t thread;
    struct virtx_vcpu *vcpu;
    struct virtx_lapic lapic;
    unsigned number;
    uint64_t random;
    uint8_t *tlb[PAGES];   /* NULL: no translation */
    uint8_t in_service[8]; /* what the guest's handlers will end, in the order of delivery */
    unsigned serving;
    bool asked;                /* CPUID, and has not looked at the answer */
    _Atomic uint64_t tickets;  /* drawn before a kick … */
    _Atomic uint64_t served;   /* … and seen by the loop after run has returned for one */
    _Atomic uint64_t returns;  /* … of run with VIRTX_EXIT_KICK */
    _Atomic uint64_t got[256]; /* interrupts, by vector */
    _Atomic uint64_t nmis, halts;
    /* Where it sleeps while the guest is halted. */
    pthread_mutex_t bed;
    pthread_cond_t alarm;
} players[PAIRS];

static struct virtx *virtx;
static struct virtx_vm *vm;
static struct virtx_lapic *lapics[PLAYERS];
static struct virtx_apic_bus bus;
static struct virtx_ioapic ioapic;
static _Atomic bool pending[CPUS]; /* interrupts at the processors' pins */
static _Atomic bool stop,
    pause_wanted; /* `stop`: those who want something of the players, and then … */
static _Atomic bool stop_players;
static _Atomic unsigned parked;
static uint64_t kicks_wanted;

static void wrong(const char *what)
{
    fprintf(stderr, "test_threads: %s\n", what);
    abort();
}

static uint64_t some(uint64_t *random)
{
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    return *random >> 33;
}

/* A wait that ends in a verdict. `since` is 0 at first. The program's own time counts, so that a
 * busy machine is not taken for a loss. */
static void wait_on(time_t *since, const char *what)
{
    struct timespec now;

    sched_yield();
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    if (!*since)
        *since = now.tv_sec + 1;
    if (now.tv_sec - *since > SECONDS)
        wrong(what);
}

/* ---- Processor ---- */

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

/* The guest's handlers, as far as they have come. Lines go down before the EOI, as drivers do. */
static void serve(struct player *p)
{
    while (p->serving) {
        uint8_t vector = p->in_service[--p->serving];

        if (vector >= LEVEL_VECTOR)
            virtx_ioapic_set_irq(&ioapic, vector - LEVEL_VECTOR, false);
        virtx_lapic_eoi(&p->lapic);
        virtx_vcpu_irq_changed(p->vcpu);
        atomic_fetch_add(&p->got[vector], 1); /* the device may raise it again */
    }
}

static uint32_t leave(struct hw_vcpu *hv, uint32_t reason, uint8_t length)
{
    hv->vcpu->exit.reason = reason;
    hv->vcpu->exit.length = length;
    return reason;
}

/* One turn of the guest's loop: false if it is on a page that it has no translation of. */
static bool touch(struct player *p, unsigned page)
{
    if (!p->tlb[page])
        return false;
    __atomic_fetch_add((uint64_t *)(void *)p->tlb[page], 1, __ATOMIC_RELAXED);
    return true;
}

/* The leaf that changes all the time has the same in all registers, whoever changes it. */
#define CHANGING_LEAF 0x80000002u
static void check_cpuid(struct player *p, const uint64_t *gpr)
{
    if (p->asked && (gpr[VIRTX_RAX] != gpr[VIRTX_RBX] || gpr[VIRTX_RAX] != gpr[VIRTX_RCX] ||
                     gpr[VIRTX_RAX] != gpr[VIRTX_RDX]))
        wrong("half of a CPUID leaf");
    p->asked = false;
}

static uint32_t enter(struct hw_vcpu *hv)
{
    struct player *p = virtx_vcpu_user(hv->vcpu);
    uint64_t mood = some(&p->random);
    bool stays = mood % 4 == 0 && !world.window_interrupt;
    uint64_t turns = mood / 4 % 128;

    hv->dirty = 0;
    hv->vcpu->exit.rip = hv->state.rip;
    check_cpuid(p, hv->state.gpr);
    serve(p);
    for (unsigned i = 0; !atomic_load(&pending[world.this_cpu]); i++) {
        unsigned page = (i + (unsigned)mood) % PAGES;

        if (!touch(p, page) && i % 32 == 31) {
            hv->fault =
                (struct virtx_page_fault){.gpa = page * VIRTX_PAGE_SIZE, .access = VIRTX_WRITE};
            world.can_interrupt = mood % 16 != 2;
            return leave(hv, HW_EXIT_PAGE_FAULT, 0);
        }
        if (!stays && i >= turns) {
            world.can_interrupt = true;
            if (world.window_interrupt) {
                world.window_interrupt = false;
                return leave(hv, HW_EXIT_WINDOW, 0);
            }
            if (mood % 8 == 5)
                return leave(hv, VIRTX_EXIT_HLT, 1);
            hv->state.gpr[VIRTX_RAX] = CHANGING_LEAF;
            p->asked = true;
            return leave(hv, VIRTX_EXIT_CPUID, 2);
        }
        if (i % 64 == 63)
            sched_yield();
    }
    return leave(hv, VIRTX_EXIT_INTERRUPT, 0);
}

static void flush(struct hw_vcpu *hv, uint32_t debts)
{
    struct player *p = virtx_vcpu_user(hv->vcpu);

    (void)debts;
    memset(p->tlb, 0, sizeof(p->tlb));
}

static void inject(struct hw_vcpu *hv, const struct virtx_event *event)
{
    struct player *p = virtx_vcpu_user(hv->vcpu);

    if (event->type == VIRTX_EVENT_NMI) {
        atomic_fetch_add(&p->nmis, 1);
    } else {
        if (p->serving == sizeof(p->in_service))
            wrong("more interrupts than priorities");
        p->in_service[p->serving++] = event->vector;
    }
}

static enum virtx_fault_result engine_fault(struct virtx_vcpu *vcpu, struct virtx_page_fault *fault)
{
    struct player *p = virtx_vcpu_user(vcpu);
    const struct slot_entry *entry = virtx_slot_find(virtx_slots(vm), fault->gpa);

    if (entry) {
        p->tlb[fault->gpa / VIRTX_PAGE_SIZE] = entry->memory;
        virtx_slot_mark(entry, fault->gpa, VIRTX_PAGE_SIZE);
    }
    return VIRTX_FAULT_RESUME;
}

/* ---- Host ---- */

static void kick_cpu(void *ctx, uint32_t cpu)
{
    (void)ctx;
    if (cpu >= CPUS)
        wrong("an interrupt for a processor that is not there");
    atomic_store(&pending[cpu], true);
}

static void wake(void *ctx, struct virtx_vcpu *vcpu)
{
    struct player *p = virtx_vcpu_user(vcpu);

    (void)ctx;
    if (!p)
        return;
    pthread_mutex_lock(&p->bed);
    pthread_cond_signal(&p->alarm);
    pthread_mutex_unlock(&p->bed);
}

/* ---- The embedder's loop ---- */

static void move(struct player *p)
{
    if (virtx_vcpu_put(p->vcpu) != VIRTX_OK)
        wrong("put");
    world.this_cpu ^= 1;
}

/* Lets others have the registers, until all go on. */
static void park(struct player *p)
{
    if (virtx_vcpu_put(p->vcpu) != VIRTX_OK)
        wrong("put");
    atomic_fetch_add(&parked, 1);
    while (atomic_load(&pause_wanted))
        sched_yield();
    atomic_fetch_sub(&parked, 1);
}

static void sleep_halted(struct player *p)
{
    atomic_fetch_add(&p->halts, 1);
    pthread_mutex_lock(&p->bed);
    while (!virtx_vcpu_wakeable(p->vcpu))
        pthread_cond_wait(&p->alarm, &p->bed);
    pthread_mutex_unlock(&p->bed);
}

/* One run, and what its exit asks for. */
static void turn(struct player *p)
{
    const struct virtx_exit *exit;

    if (virtx_vcpu_run(p->vcpu, &exit) != VIRTX_OK)
        wrong("run");
    take_interrupts(); /* interrupts are on out here */
    if (exit->reason == VIRTX_EXIT_KICK) {
        atomic_fetch_add(&p->returns, 1);
        atomic_store(&p->served, atomic_load(&p->tickets));
        if (p->number != MORTAL && atomic_load(&pause_wanted))
            park(p);
    } else if (exit->reason == VIRTX_EXIT_HLT) {
        sleep_halted(p);
    } else {
        wrong("an exit that nobody asked for");
    }
    if (some(&p->random) % 5 == 0)
        move(p);
}

static void prepare(struct player *p)
{
    struct virtx_state state = {.rflags = RFLAGS_FIXED | RFLAGS_IF};

    if (virtx_vcpu_reset(p->vcpu, VIRTX_PRESET_FLAT32) != VIRTX_OK ||
        virtx_vcpu_set(p->vcpu, VIRTX_STATE_RFLAGS, &state) != VIRTX_OK)
        wrong("the start state");
}

static void cpus_on(uint32_t cpu)
{
    for (uint32_t i = 0; i < 2; i++) {
        become_cpu(cpu + 1 - i);
        if (virtx_cpu_enable(virtx) != VIRTX_OK)
            wrong("cpu_enable");
    }
}

static void cpus_off(void)
{
    for (uint32_t i = 0; i < 2; i++) {
        world.this_cpu ^= 1;
        if (virtx_cpu_disable(virtx) != VIRTX_OK)
            wrong("cpu_disable");
    }
}

static void *player_thread(void *arg)
{
    struct player *p = arg;

    cpus_on(2 * p->number);
    prepare(p);
    while (!atomic_load(&stop_players))
        turn(p);
    if (virtx_vcpu_put(p->vcpu) != VIRTX_OK)
        wrong("put");
    cpus_off();
    return NULL;
}

/* ---- A vcpu that comes and goes ---- */

/* What an embedder must have too: nobody kicks a vcpu that has been destroyed. */
static pthread_mutex_t door = PTHREAD_MUTEX_INITIALIZER;
static bool alive; /* [door] */
static _Atomic uint64_t lives, mortal_kicks;
static _Atomic bool died; /* for the last time */

static void *mortal_thread(void *arg)
{
    struct player *p = arg;

    cpus_on(2 * p->number);
    while (!atomic_load(&stop_players)) {
        uint64_t age = some(&p->random) % 8;

        memset(p->tlb, 0, sizeof(p->tlb));
        p->asked = false;
        if (virtx_vcpu_create(vm, MORTAL, &p->vcpu) != VIRTX_OK)
            wrong("vcpu_create");
        virtx_vcpu_set_user(p->vcpu, p);
        prepare(p);
        pthread_mutex_lock(&door);
        alive = true;
        pthread_mutex_unlock(&door);
        for (uint64_t i = 0; i < age && !atomic_load(&stop_players); i++)
            turn(p);
        pthread_mutex_lock(&door);
        alive = false;
        pthread_mutex_unlock(&door);
        if (virtx_vcpu_destroy(p->vcpu) != VIRTX_OK)
            wrong("vcpu_destroy");
        atomic_fetch_add(&lives, 1);
    }
    cpus_off();
    atomic_store(&died, true);
    return NULL;
}

/* ---- Kicks ---- */

static uint64_t kick(struct player *p)
{
    uint64_t ticket = atomic_fetch_add(&p->tickets, 1) + 1;

    virtx_vcpu_kick(p->vcpu);
    return ticket;
}

static void wait_kicked(struct player *p, uint64_t ticket)
{
    time_t since = 0;

    while (atomic_load(&p->served) < ticket)
        wait_on(&since, "a kick was lost");
}

/* The mortal one may be about to die, but until then a kick of it is answered too. */
static void kick_mortal(bool waits)
{
    struct player *p = &players[MORTAL];
    uint64_t life = 0, ticket = 0;
    time_t since = 0;

    pthread_mutex_lock(&door);
    if (alive) {
        life = atomic_load(&lives);
        ticket = kick(p);
        atomic_fetch_add(&mortal_kicks, 1);
    }
    pthread_mutex_unlock(&door);
    while (waits && ticket && atomic_load(&p->served) < ticket && atomic_load(&lives) == life)
        wait_on(&since, "a kick of a vcpu that was to be destroyed was lost");
}

/* One of everybody at a time: more than one of the same would hide the loss of the first. */
static void kick_many(void)
{
    uint64_t random = 7, tickets[PLAYERS];

    for (uint64_t i = 0; i < kicks_wanted; i += PLAYERS) {
        for (unsigned j = 0; j < PLAYERS; j++)
            tickets[j] = kick(&players[j]);
        kick_mortal(true);
        for (unsigned j = 0; j < PLAYERS; j++)
            wait_kicked(&players[j], tickets[j]);
        for (volatile uint64_t spin = some(&random) % 256; spin; spin--)
            ;
    }
}

/* ---- Interrupts from other threads ---- */

static void expect(struct player *p, uint8_t vector, uint64_t count)
{
    time_t since = 0;

    while (atomic_load(&p->got[vector]) < count)
        wait_on(&since, "an interrupt was lost");
    if (atomic_load(&p->got[vector]) > count)
        wrong("an interrupt came twice");
}

/* One interrupt of each vector to everybody, some NMIs, and a line; each waited for, then again. */
static void *sender_thread(void *arg)
{
    unsigned me = (unsigned)(uintptr_t)arg;
    struct player *owner = &players[me]; /* of the level-triggered line */

    become_cpu(CPUS - 1);
    for (uint64_t round = 1; !atomic_load(&stop); round++) {
        for (unsigned i = 0; i < PLAYERS * VECTORS; i++) {
            struct virtx_apic_message message = {
                .destination = i % PLAYERS,
                .source = VIRTX_APIC_NO_SOURCE,
                .vector = (uint8_t)(FIRST_VECTOR + me * VECTORS + i / PLAYERS),
                .delivery = VIRTX_APIC_FIXED,
            };

            if (virtx_apic_bus_deliver(&bus, &message) != 1)
                wrong("not accepted");
        }
        virtx_ioapic_set_irq(&ioapic, me, true);
        virtx_vcpu_nmi(players[round % PLAYERS].vcpu);
        for (unsigned i = 0; i < PLAYERS * VECTORS; i++)
            expect(&players[i % PLAYERS], (uint8_t)(FIRST_VECTOR + me * VECTORS + i / PLAYERS),
                   round);
        expect(owner, (uint8_t)(LEVEL_VECTOR + me), round);
    }
    return NULL;
}

/* ---- Slots, logs and pauses ---- */

static struct virtx_memslot *slots[PAGES];
static uint8_t *memory[PAGES];

static void add_slot(unsigned page)
{
    struct virtx_memslot_config config = {.size = sizeof(config),
                                          .rights = VIRTX_READ | VIRTX_WRITE | VIRTX_EXECUTE,
                                          .type = VIRTX_MEMORY_WB,
                                          .gpa = page * VIRTX_PAGE_SIZE,
                                          .bytes = VIRTX_PAGE_SIZE};

    memory[page] = aligned_alloc(VIRTX_PAGE_SIZE, VIRTX_PAGE_SIZE);
    memset(memory[page], 0, VIRTX_PAGE_SIZE);
    config.memory = memory[page];
    if (virtx_memslot_add(vm, &config, &slots[page]) != VIRTX_OK ||
        virtx_memslot_log(slots[page], true) != VIRTX_OK)
        wrong("memslot_add");
}

/* Once the generation has settled nobody uses the memory: whoever does meets freed memory. */
static void remove_slot(unsigned page)
{
    uint64_t generation;
    time_t since = 0;

    if (virtx_memslot_remove(slots[page], &generation) != VIRTX_OK)
        wrong("memslot_remove");
    for (unsigned i = 0; !virtx_vm_settled(vm, generation, i > 4); i++)
        wait_on(&since, "a TLB debt was not paid");
    memset(memory[page], 0xdd, VIRTX_PAGE_SIZE);
    free(memory[page]);
    slots[page] = NULL;
}

/* The VM's table, and what the first player has otherwise. */
static void change_cpuid(void)
{
    static uint32_t n;
    struct virtx_cpuid_entry entry = {.leaf = CHANGING_LEAF};

    entry.eax = entry.ebx = entry.ecx = entry.edx = ++n;
    if (n % 4 == 3 ? virtx_vcpu_cpuid_reset(players[0].vcpu) != VIRTX_OK
        : n % 2    ? virtx_vcpu_cpuid_set(players[0].vcpu, &entry) != VIRTX_OK
                   : virtx_vm_cpuid_set(vm, &entry) != VIRTX_OK)
        wrong("a change of CPUID");
}

static void *slots_thread(void *arg)
{
    uint64_t random = 3, bits;

    (void)arg;
    become_cpu(CPUS - 1);
    while (!atomic_load(&stop)) {
        unsigned page = some(&random) % PAGES;

        if (!slots[page])
            add_slot(page);
        else if (some(&random) % 2)
            remove_slot(page);
        else if (virtx_memslot_harvest(slots[page], &bits, 1, NULL) != VIRTX_OK)
            wrong("harvest");
        change_cpuid();
        sched_yield();
    }
    return NULL;
}

/* Everybody stands still, and their registers can be had and changed from here. */
static void *pause_thread(void *arg)
{
    struct virtx_state state = {0};
    uint64_t round = 0;

    (void)arg;
    become_cpu(CPUS - 1);
    while (!atomic_load(&stop)) {
        time_t since = 0;

        atomic_store(&pause_wanted, true);
        for (unsigned i = 0; i < PLAYERS; i++)
            virtx_vcpu_kick(players[i].vcpu);
        while (atomic_load(&parked) < PLAYERS && !atomic_load(&stop))
            wait_on(&since, "a vcpu did not stop");
        for (unsigned i = 0; i < PLAYERS && !atomic_load(&stop); i++) {
            if (virtx_vcpu_get(players[i].vcpu, VIRTX_STATE_GPR, &state) != VIRTX_OK ||
                (round && state.gpr[VIRTX_RBP] != round))
                wrong("registers of a vcpu that stands still");
            state.gpr[VIRTX_RBP] = round + 1;
            if (virtx_vcpu_set(players[i].vcpu, VIRTX_STATE_GPR, &state) != VIRTX_OK)
                wrong("registers of a vcpu that stands still");
        }
        round++;
        atomic_store(&pause_wanted, false);
        while (atomic_load(&parked))
            sched_yield();
        for (unsigned i = 0; i < 200 && !atomic_load(&stop); i++)
            sched_yield();
    }
    return NULL;
}

/* ---- The test ---- */

static void changed(void *ctx)
{
    virtx_vcpu_irq_changed(ctx);
}

static void arrived(void *ctx, enum virtx_apic_delivery kind, uint8_t vector)
{
    (void)ctx;
    (void)kind;
    (void)vector;
}

static void make_player(unsigned number)
{
    struct player *p = &players[number];
    struct virtx_lapic_config config = {.size = sizeof(config),
                                        .id = number,
                                        .address_bits = 40,
                                        .bsp = number == 0,
                                        .bus_multiply = 1,
                                        .bus_divide = 1,
                                        .changed = changed,
                                        .event = arrived};

    ck_assert_int_eq(virtx_vcpu_create(vm, number, &p->vcpu), VIRTX_OK);
    virtx_vcpu_set_user(p->vcpu, p);
    config.ctx = p->vcpu;
    ck_assert(virtx_lapic_init(&p->lapic, &config));
    virtx_lapic_mmio_write(&p->lapic, 0xf0, 4, 0x1ff, 0); /* software-enabled */
    ck_assert(virtx_apic_bus_add_lapic(&bus, &p->lapic));
    ck_assert_int_eq(virtx_vcpu_irq_source(p->vcpu, &virtx_lapic_irq_source, &p->lapic), VIRTX_OK);
}

static void make_machine(void)
{
    static struct virtx_hw vendor;
    static struct virtx_backend backend;
    static struct virtx_paging engine;
    static struct virtx_host_ops host;
    static const struct virtx_backend *const backends[] = {&backend, NULL};
    static const struct virtx_paging *const engines[] = {&engine, NULL};
    struct virtx_ioapic_config io = {.size = sizeof(io), .version = 0x11, .bus = &bus};
    struct virtx_config config = {.size = sizeof(config),
                                  .max_cpus = CPUS,
                                  .ops = &host,
                                  .backends = backends,
                                  .paging = engines,
                                  .disable = VIRTX_FEATURE_TPR_SHADOW};

    host = world_host;
    host.kick_cpu = kick_cpu;
    host.wake = wake;
    vendor = world_vendor;
    vendor.enter = enter;
    vendor.flush = flush;
    vendor.inject = inject;
    backend = (struct virtx_backend)HW_BACKEND("threads", &vendor, sizeof(struct hw_cpu),
                                               sizeof(struct hw_vm), sizeof(struct hw_vcpu));
    engine = world_engine;
    engine.fault = engine_fault;
    become_cpu(CPUS - 1);
    ck_assert_int_eq(virtx_open(&config, &virtx, NULL), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_create(virtx, NULL, &vm), VIRTX_OK);
    virtx_apic_bus_init(&bus, lapics, PLAYERS);
    ck_assert(virtx_ioapic_init(&ioapic, &io));
    ck_assert(virtx_apic_bus_add_ioapic(&bus, &ioapic));
    for (unsigned i = 0; i < PAIRS; i++) {
        players[i].number = i;
        players[i].random = i;
        ck_assert_int_eq(pthread_mutex_init(&players[i].bed, NULL), 0);
        ck_assert_int_eq(pthread_cond_init(&players[i].alarm, NULL), 0);
        if (i < PLAYERS)
            make_player(i);
    }
    for (unsigned i = 0; i < SENDERS; i++) { /* level-triggered, to the APIC of the same number */
        virtx_ioapic_mmio_write(&ioapic, 0, 4, 0x11 + 2 * i);
        virtx_ioapic_mmio_write(&ioapic, 0x10, 4, i << 24);
        virtx_ioapic_mmio_write(&ioapic, 0, 4, 0x10 + 2 * i);
        virtx_ioapic_mmio_write(&ioapic, 0x10, 4, 0x8000u | (LEVEL_VECTOR + i));
    }
}

static void end_machine(void)
{
    for (unsigned i = 0; i < PLAYERS; i++)
        ck_assert_int_eq(virtx_vcpu_destroy(players[i].vcpu), VIRTX_OK);
    for (unsigned page = 0; page < PAGES; page++)
        free(slots[page] ? memory[page] : NULL);
    ck_assert_int_eq(virtx_vm_destroy(vm), VIRTX_OK);
    ck_assert_int_eq(virtx_close(virtx), VIRTX_OK);
}

START_TEST(everything_at_once)
{
    pthread_t sender[SENDERS], slot, pauser;
    uint64_t kicks = 0, interrupts = 0, nmis = 0, halts = 0;

    make_machine();
    for (unsigned i = 0; i < PAIRS; i++)
        ck_assert_int_eq(pthread_create(&players[i].thread, NULL,
                                        i == MORTAL ? mortal_thread : player_thread, &players[i]),
                         0);
    for (unsigned i = 0; i < SENDERS; i++)
        ck_assert_int_eq(pthread_create(&sender[i], NULL, sender_thread, (void *)(uintptr_t)i), 0);
    ck_assert_int_eq(pthread_create(&slot, NULL, slots_thread, NULL), 0);
    ck_assert_int_eq(pthread_create(&pauser, NULL, pause_thread, NULL), 0);
    kick_many();

    atomic_store(&stop, true);
    for (unsigned i = 0; i < SENDERS; i++)
        pthread_join(sender[i], NULL);
    pthread_join(slot, NULL);
    pthread_join(pauser, NULL);
    atomic_store(&stop_players, true);
    for (unsigned i = 0; i < PLAYERS; i++)
        virtx_vcpu_kick(players[i].vcpu);
    while (!atomic_load(&died)) { /* the mortal one may be in one life or between two */
        kick_mortal(false);
        sched_yield();
    }
    pthread_join(players[MORTAL].thread, NULL);
    for (unsigned i = 0; i < PLAYERS; i++) {
        pthread_join(players[i].thread, NULL);
        kicks += atomic_load(&players[i].returns);
        nmis += atomic_load(&players[i].nmis);
        halts += atomic_load(&players[i].halts);
        for (unsigned vector = 0; vector < 256; vector++)
            interrupts += atomic_load(&players[i].got[vector]);
    }
    printf("%lu kicks waited for, %lu returns for kicks, %lu interrupts, %lu NMIs, %lu halts, %lu "
           "lives with %lu kicks\n",
           kicks_wanted, kicks, interrupts, nmis, halts, atomic_load(&lives),
           atomic_load(&mortal_kicks));
    ck_assert_uint_ge(kicks, kicks_wanted / 2);
    ck_assert(interrupts && nmis && halts && atomic_load(&lives));
    end_machine();
}
END_TEST

int main(int argc, char **argv)
{
    Suite *suite = suite_create("threads");
    TCase *tests = tcase_create("threads");
    SRunner *runner;
    int failed;

    kicks_wanted = argc > 1 ? strtoull(argv[1], NULL, 0) : 20000;
    tcase_set_timeout(tests, 0);
    tcase_add_test(tests, everything_at_once);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK); /* so that the sanitizer speaks for the program */
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
