/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Generations and kicks: step by step, and with threads that play vcpus with a TLB.
 *
 * The guest of the threaded tests runs from one interrupt to the next through a cached translation,
 * as a processor does: the memory behind it is freed as soon as the library says that it may be,
 * and the address sanitizer says who was wrong.
 */
#include "fake.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static struct virtx *virtx;
static struct virtx_vm *vm;

static void pay(struct virtx_vcpu *vcpu)
{
    virtx_backend_requests(vcpu, UINT32_MAX);
    virtx_backend_settle(vcpu, virtx_vm_generation(vcpu->vm));
}

START_TEST(steps)
{
    uint8_t *memory = fake_memory(2);
    struct virtx_memslot *slot;
    struct virtx_vcpu *a, *b;
    uint64_t generation;
    unsigned ipis;

    virtx = fake_open();
    vm = fake_vm(virtx);
    a = fake_vcpu(vm, 0);
    b = fake_vcpu(vm, 1);
    ck_assert_int_eq(virtx_vcpu_load(a), VIRTX_OK);
    slot = fake_slot(vm, 0, 2, memory);
    a->running = true;
    b->running = true;
    ck_assert_int_eq(virtx_memslot_invalidate(slot, 0, 0x1000, &generation), VIRTX_OK);
    ck_assert_uint_eq(fake.ipis, 0); /* nobody is in a hurry */
    ck_assert(!virtx_vm_settled(vm, generation, false));
    ck_assert_uint_eq(fake.ipis, 0);
    ck_assert(!virtx_vm_settled(vm, generation, true));
    ck_assert_uint_eq(fake.ipis, 1); /* a is loaded; b could not be interrupted */
    ck_assert(!virtx_vm_settled(vm, generation, true));
    ck_assert_uint_eq(fake.ipis, 1); /* once is enough */
    ck_assert_uint_eq(a->requests & VIRTX_REQUEST_KICK, 0);
    pay(a);
    ck_assert(!virtx_vm_settled(vm, generation, true));
    b->running = false; /* its next entry pays */
    ck_assert(virtx_vm_settled(vm, generation, true));
    b->running = true;
    ck_assert(!virtx_vm_settled(vm, generation, false)); /* but now it is there, and has not yet */
    pay(b);
    ck_assert(virtx_vm_settled(vm, generation, false));
    ck_assert(virtx_vm_settled(vm, 0, false));

    /* A look at the requests without paying settles no translation; paying needs the look. */
    ck_assert_int_eq(virtx_memslot_invalidate(slot, 0, 0x1000, &generation), VIRTX_OK);
    virtx_backend_requests(a, VIRTX_REQUEST_EVENT);
    virtx_backend_requests(b, VIRTX_REQUEST_EVENT);
    ck_assert_uint_ne(a->requests & VIRTX_REQUEST_MEMORY, 0);
    ck_assert(!virtx_vm_settled(vm, generation, false));
    pay(a);
    pay(b);
    ck_assert(virtx_vm_settled(vm, generation, false));

    /* An added slot drops nothing, so the look alone settles it. Hurry brings that about, too. */
    fake_slot(vm, 0x10000, 1, memory);
    generation = virtx_vm_generation(vm);
    ck_assert_uint_eq(a->requests, 0);
    ck_assert(!virtx_vm_settled(vm, generation, false));
    ipis = fake.ipis;
    ck_assert(!virtx_vm_settled(vm, generation, true));
    ck_assert_uint_eq(fake.ipis, ipis + 1);
    ck_assert_uint_ne(a->requests, 0);
    ck_assert_uint_eq(a->requests & VIRTX_REQUEST_MEMORY, 0);
    virtx_backend_requests(a, UINT32_MAX);
    virtx_backend_requests(b, UINT32_MAX);
    ck_assert(virtx_vm_settled(vm, generation, false));
    ck_assert(!virtx_vm_settled(vm, generation + 1, true)); /* has not begun */
    a->running = false;
    b->running = false;
    ck_assert(!virtx_vm_settled(vm, generation + 1, true));
    ck_assert_int_eq(virtx_vcpu_destroy(a), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_destroy(b), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_destroy(vm), VIRTX_OK);
    fake_close(virtx);
    free(memory);
}
END_TEST

static void *next_generation(void *arg)
{
    (void)arg;
    virtx_generation_next(vm);
    return NULL;
}

/* The number and the requests come in one piece for who holds the page lock, as the pool does when
 * it asks whether a page may be used again. */
START_TEST(generations_wait_for_the_page_lock)
{
    struct timespec moment = {.tv_nsec = 100000000};
    struct virtx_vcpu *a;
    pthread_t thread;
    uint64_t before;

    virtx = fake_open();
    vm = fake_vm(virtx);
    a = fake_vcpu(vm, 0);
    before = virtx_vm_generation(vm);
    virtx_backend_requests(a, UINT32_MAX);
    virtx_lock(&vm->page_lock);
    ck_assert_int_eq(pthread_create(&thread, NULL, next_generation, NULL), 0);
    nanosleep(&moment, NULL);
    ck_assert_uint_eq(virtx_vm_generation(vm), before);
    ck_assert_uint_eq(a->requests, 0);
    virtx_unlock(&vm->page_lock);
    pthread_join(thread, NULL);
    ck_assert_uint_eq(virtx_vm_generation(vm), before + 1);
    ck_assert_uint_eq(a->requests, VIRTX_REQUEST_MEMORY);
    ck_assert_int_eq(virtx_vcpu_destroy(a), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_destroy(vm), VIRTX_OK);
    fake_close(virtx);
}
END_TEST

/* Old tables stay readable while a vcpu may be reading them, and no longer. */
START_TEST(tables_outlive_their_readers)
{
    struct virtx_intercept_config config = {.size = sizeof(config),
                                            .kind = VIRTX_INTERCEPT_MSR,
                                            .access = VIRTX_READ,
                                            .first = 1,
                                            .last = 1};
    uint8_t *memory = fake_memory(1);
    const struct slot_entry *entry;
    struct virtx_intercept *intercept;
    struct virtx_memslot *slot;
    const struct rule *rule;
    struct virtx_vcpu *vcpu;
    size_t pages;

    virtx = fake_open();
    vm = fake_vm(virtx);
    vcpu = fake_vcpu(vm, 0);
    slot = fake_slot(vm, 0x5000, 1, memory);
    ck_assert_int_eq(virtx_vm_intercept(vm, &config, &intercept), VIRTX_OK);
    pages = fake.pages;
    vcpu->running = true;
    entry = virtx_slot_find(virtx_slots(vm), 0x5000);
    rule = virtx_rule_find(vcpu, VIRTX_INTERCEPT_MSR, 1, VIRTX_READ);
    ck_assert_int_eq(virtx_memslot_remove(slot, NULL), VIRTX_OK);
    ck_assert_int_eq(virtx_intercept_remove(intercept), VIRTX_OK);
    virtx_vm_settled(vm, virtx_vm_generation(vm), false);
    ck_assert_ptr_eq(entry->memory, memory);
    ck_assert_uint_eq(rule->first, 1);
    ck_assert_uint_gt(fake.pages, pages);
    pay(vcpu);
    ck_assert(virtx_vm_settled(vm, virtx_vm_generation(vm), false));
    ck_assert_uint_le(fake.pages, pages);
    vcpu->running = false;
    ck_assert_int_eq(virtx_vcpu_destroy(vcpu), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_destroy(vm), VIRTX_OK);
    fake_close(virtx);
    free(memory);
}
END_TEST

/* An engine that gives a table page back while dropping translations. */
static void *table_page;

static void drop(struct virtx_vm *v, uint64_t gpa, uint64_t bytes, enum virtx_memory_change change)
{
    (void)gpa;
    (void)bytes;
    if (change == VIRTX_MEMORY_ADDED)
        return;
    virtx_pool_put(v, table_page, virtx_generation_coming(v));
    /* Nobody is in run, and still it may not be had: the vcpus do not know of their debt yet. */
    for (unsigned i = 0; i < 3; i++) {
        void *other = virtx_pool_get(v);

        ck_assert_ptr_nonnull(other);
        ck_assert_ptr_ne(other, table_page);
        virtx_pool_put(v, other, 0);
    }
}

START_TEST(pages_wait_for_their_generation)
{
    uint8_t *memory = fake_memory(1);
    struct virtx_memslot *slot;
    struct virtx_vcpu *vcpu;
    uint64_t generation;
    void *other, *kept;
    size_t pages;

    virtx = fake_open();
    vm = fake_vm(virtx);
    vcpu = fake_vcpu(vm, 0);
    table_page = virtx_pool_get(vm);
    slot = fake_slot(vm, 0, 1, memory);
    fake.memory = drop;
    vcpu->running = true;
    ck_assert_int_eq(virtx_memslot_remove(slot, NULL), VIRTX_OK);
    fake.memory = NULL;
    /* The free page of the engine's own is handed out; the one that waits is not. */
    other = virtx_pool_get(vm);
    ck_assert_ptr_ne(other, table_page);
    kept = virtx_pool_get(vm);
    ck_assert_ptr_ne(kept, table_page);
    /* What the pool keeps in it reads as entries that are not present. */
    for (unsigned i = 0; i < 512; i++)
        ck_assert_uint_eq(((uint64_t *)table_page)[i] & 7, 0);
    pay(vcpu);
    ck_assert_ptr_eq(virtx_pool_get(vm), table_page);
    vcpu->running = false;
    virtx_pool_put(vm, other, 0);
    ck_assert(virtx_vm_settled(vm, virtx_vm_generation(vm), false));
    /* Surplus goes back to the host, but not before it has settled. */
    vcpu->running = true;
    slot = fake_slot(vm, 0, 1, memory);
    ck_assert_int_eq(virtx_memslot_invalidate(slot, 0, 0x1000, &generation), VIRTX_OK);
    virtx_pool_put(vm, table_page, generation);
    ck_assert(!virtx_vm_settled(vm, generation, false));
    ck_assert_uint_eq(vm->pool_waiting_count, 1);
    pay(vcpu);
    pages = fake.pages;
    ck_assert(virtx_vm_settled(vm, generation, false));
    ck_assert_uint_lt(fake.pages, pages);
    ck_assert_uint_eq(vm->pool_waiting_count, 0);
    ck_assert_uint_eq(vm->pool_free_count, 0);
    vcpu->running = false;
    virtx_pool_put(vm, kept, 0);
    ck_assert_int_eq(virtx_vcpu_destroy(vcpu), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_destroy(vm), VIRTX_OK);
    fake_close(virtx);
    free(memory);
}
END_TEST

/* ---- Somebody sleeps ---- */

static unsigned wakes;

static void count_wake(void *ctx, struct virtx_vcpu *vcpu)
{
    (void)ctx;
    (void)vcpu;
    wakes++;
}

/* An interrupt from another CPU, just then. */
static void interrupt_comes(struct virtx_vcpu *vcpu)
{
    virtx_vcpu_irq_changed(vcpu);
}

/* A vcpu whose thread sleeps is put by somebody else, who wants its place: what comes meanwhile
 * wakes it. */
START_TEST(evicted_in_its_sleep)
{
    struct virtx_host_ops ops = fake_ops;
    struct virtx_config config = fake_config();
    struct virtx_vcpu *sleeper, *other;
    const struct virtx_exit *exit;

    ops.wake = count_wake;
    config.ops = &ops;
    ck_assert_int_eq(virtx_open(&config, &virtx, NULL), VIRTX_OK);
    ck_assert_int_eq(virtx_cpu_enable(virtx), VIRTX_OK);
    vm = fake_vm(virtx);
    sleeper = fake_vcpu(vm, 0);
    other = fake_vcpu(vm, 1);
    ck_assert_int_eq(virtx_vcpu_run(sleeper, &exit), VIRTX_OK);
    ck_assert_int_eq(exit->reason, VIRTX_EXIT_HLT);
    wakes = 0;
    fake.put = interrupt_comes;
    ck_assert_int_eq(virtx_vcpu_run(other, &exit), VIRTX_OK);
    fake.put = NULL;
    ck_assert_uint_eq(wakes, 1);
    ck_assert_uint_ne(sleeper->requests & VIRTX_REQUEST_EVENT, 0);
    ck_assert_int_eq(virtx_vcpu_destroy(sleeper), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_destroy(other), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_destroy(vm), VIRTX_OK);
    fake_close(virtx);
}
END_TEST

/* ---- Threads ---- */

static struct player {
    pthread_t thread;
    struct virtx_vcpu *vcpu;
    uint8_t *tlb[4]; /* by page; NULL: no translation */
    _Atomic uint64_t returns, kicks, looks;
    _Atomic bool halted; /* waits between two runs */
    uint32_t cpu;
} players[3];

static _Atomic bool stop;
static uint64_t checksum[3];

/* The guest between an entry and the interrupt that ends it. */
static void guest(struct player *p)
{
    for (unsigned i = 0; !atomic_load(&fake.ipi[p->cpu]); i++) {
        unsigned page = i % 4;

        if (p->tlb[page])
            checksum[p->cpu] += ((volatile uint8_t *)p->tlb[page])[i % 4096];
        else if (i % 64 == 0)
            return; /* a nested page fault */
        if (atomic_load(&stop))
            return;
    }
    atomic_store(&fake.ipi[p->cpu], false); /* the host takes it, in the window inside run */
}

/* The loop of a hardware backend, less the hardware. */
static enum virtx_status play(struct virtx_vcpu *vcpu)
{
    struct player *p = virtx_vcpu_user(vcpu);

    vcpu->exit.reason = VIRTX_EXIT_KICK;
    for (unsigned turns = 0;; turns++) {
        if (atomic_load_explicit(&vcpu->requests, memory_order_relaxed)) {
            uint32_t requests = virtx_backend_requests(vcpu, UINT32_MAX);

            atomic_fetch_add(&p->looks, 1);
            if (requests & VIRTX_REQUEST_MEMORY) {
                uint64_t generation = atomic_load(&vcpu->vm->generation);

                memset(p->tlb, 0, sizeof(p->tlb));
                virtx_backend_settle(vcpu, generation);
            }
            if (requests & VIRTX_REQUEST_KICK) {
                atomic_fetch_add(&p->kicks, 1);
                return VIRTX_OK;
            }
        }
        for (unsigned page = 0; page < 4; page++) {
            const struct slot_entry *entry = virtx_slot_find(virtx_slots(vm), page * 0x1000ull);

            if (entry && !p->tlb[page])
                p->tlb[page] = entry->memory;
        }
        guest(p);
        if (turns % 512 == 511 || atomic_load(&stop)) {
            vcpu->exit.reason = VIRTX_EXIT_HLT; /* back to the loop now and then */
            return VIRTX_OK;
        }
    }
}

static void *play_thread(void *arg)
{
    struct player *p = arg;
    const struct virtx_exit *exit;

    fake_cpu = p->cpu;
    if (virtx_cpu_enable(virtx) != VIRTX_OK)
        abort();
    while (!atomic_load(&stop)) {
        if (virtx_vcpu_run(p->vcpu, &exit) != VIRTX_OK)
            abort();
        atomic_fetch_add(&p->returns, 1);
        atomic_store(&fake.ipi[p->cpu], false); /* interrupts are on out here */
        if (atomic_load(&p->returns) % 3 == 0 && virtx_vcpu_put(p->vcpu) != VIRTX_OK)
            abort();
    }
    if (virtx_vcpu_put(p->vcpu) != VIRTX_OK || virtx_cpu_disable(virtx) != VIRTX_OK)
        abort();
    return NULL;
}

static void start(unsigned count)
{
    struct virtx_config config = fake_config();

    ck_assert_int_eq(virtx_open(&config, &virtx, NULL), VIRTX_OK);
    vm = fake_vm(virtx);
    fake.run = play;
    fake_cpu = FAKE_CPUS - 1; /* this thread's */
    for (unsigned i = 0; i < count; i++) {
        players[i].vcpu = fake_vcpu(vm, i);
        players[i].cpu = i;
        virtx_vcpu_set_user(players[i].vcpu, &players[i]);
    }
    for (unsigned i = 0; i < count; i++)
        ck_assert_int_eq(pthread_create(&players[i].thread, NULL, play_thread, &players[i]), 0);
}

static void finish(unsigned count)
{
    atomic_store(&stop, true);
    for (unsigned i = 0; i < count; i++)
        ck_assert_int_eq(pthread_join(players[i].thread, NULL), 0);
    for (unsigned i = 0; i < count; i++)
        ck_assert_int_eq(virtx_vcpu_destroy(players[i].vcpu), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_destroy(vm), VIRTX_OK);
    fake.enabled = 0; /* counted by threads without order */
    ck_assert_int_eq(virtx_close(virtx), VIRTX_OK);
}

static bool all_looked(unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (!atomic_load(&players[i].looks))
            return false;
    return true;
}

START_TEST(memory_is_free_when_settled)
{
    uint8_t *memory[4] = {0};
    struct virtx_memslot *slot[4] = {0};

    start(2);
    /* On a busy machine all rounds may be over before both threads have begun: those who are not in
     * run settle without a look. So it goes on until both have looked. */
    for (unsigned round = 0; round < 400 || !all_looked(2); round++) {
        unsigned page = (round * 7 + round / 5) % 4;

        fake.changes = 0;
        if (slot[page]) {
            uint64_t generation;

            ck_assert_int_eq(virtx_memslot_remove(slot[page], &generation), VIRTX_OK);
            /* Without hurry it may take until the guest happens to exit. */
            for (unsigned i = 0; !virtx_vm_settled(vm, generation, round % 2 || i > 20); i++)
                sched_yield();
            memset(memory[page], 0xdd, VIRTX_PAGE_SIZE);
            free(memory[page]); /* a vcpu that still reads it is the sanitizer's */
            slot[page] = NULL;
        } else {
            memory[page] = fake_memory(1);
            slot[page] = fake_slot(vm, page * 0x1000ull, 1, memory[page]);
        }
    }
    finish(2);
    for (unsigned i = 0; i < 4; i++)
        if (slot[i])
            free(memory[i]);
}
END_TEST

/* After a kick run returns, whatever the moment. A lost one would leave the guest in its loop: in
 * this test nothing else ends it. */
START_TEST(no_kick_is_lost)
{
    uint8_t *memory = fake_memory(4);
    uint64_t random = 1;

    start(1);
    for (unsigned i = 0; i < 4; i++) /* no page faults */
        fake_slot(vm, i * 0x1000ull, 1, memory + i * 0x1000);
    for (unsigned round = 0; round < 1200; round++) {
        uint64_t kicks = atomic_load(&players[0].kicks);

        virtx_vcpu_kick(players[0].vcpu);
        while (atomic_load(&players[0].kicks) == kicks)
            sched_yield();
        if (round % 3 == 0)
            virtx_vcpu_irq_changed(players[0].vcpu);
        random = random * 6364136223846793005u + 1442695040888963407u;
        for (volatile unsigned spin = random >> 54; spin; spin--)
            ;
    }
    finish(1);
    free(memory);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("settle");
    TCase *tests = fake_case(suite, "settle");

    tcase_add_test(tests, steps);
    tcase_add_test(tests, generations_wait_for_the_page_lock);
    tcase_add_test(tests, tables_outlive_their_readers);
    tcase_add_test(tests, pages_wait_for_their_generation);
    tcase_add_test(tests, evicted_in_its_sleep);
    tcase_add_test(tests, memory_is_free_when_settled);
    tcase_add_test(tests, no_kick_is_lost);
    return fake_main(suite);
}
