/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The nested engine, the slots and the generations together while vcpus run: threads play
 * processors, with a TLB and a paging-structure cache that forget nothing until the debt is paid,
 * and an embedder adds, removes, moves, narrows, swaps and harvests meanwhile.
 *
 * What must hold: memory that the embedder was told is free is never accessed; rights that have
 * been taken away are not used; and copying what each harvest reports, as a live migration does,
 * ends with a true copy.
 */
#include "fake.h"
#include "hw/hw.h"
#include "svm/svm.h"
#include "vmx/vmx.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define PAGE       4096ull
#define VCPUS      2u
#define PAGES      1536u /* of each slot */
#define FRAMES     (3 * PAGES)
#define SPACE      (4ull << 21) /* guest-physical pages in play, in bytes per place */
#define MOVED      (5 * SPACE)  /* where the logged slot goes from 0 and back */
#define PHASES     200
#define OPERATIONS 6 /* in each phase; after it the vcpus stand still and the copy must be true */

enum { LOGGED, PLAIN, SLOTS };

/* ---- Physical memory of the slots: frames that are the guest's, or not ---- */

static uint8_t *arena;                           /* FRAMES pages */
static _Atomic bool frame_used[FRAMES];          /* the guest may access it */
static _Atomic uint64_t frame_of[SLOTS * PAGES]; /* by page of slot memory; UINT64_MAX: absent */
static uint8_t *const slot_memory = (uint8_t *)0x700000000000; /* asked about, never accessed */
/* Whose frame it is: page of slot memory. The embedder says so before it hands the frame out. */
static _Atomic uint64_t frame_owner[FRAMES];
static _Atomic bool read_only; /* no vcpu may write to the logged slot */
static _Atomic bool stop, wrong;
static const char *_Atomic what_is_wrong;
static _Atomic uint64_t writes, faults_answered, drained;

static void report_wrong(const char *what)
{
    atomic_store(&what_is_wrong, what);
    atomic_store(&wrong, true);
}

/* Makes races likely: now and then somebody else gets the CPU in the worst place. */
static void dawdle(void)
{
    static _Thread_local uint64_t count;
    if (++count % 7 == 0)
        sched_yield();
}

/* ---- Host ---- */

static void *host_alloc(void *ctx, size_t count)
{
    (void)ctx;
    return aligned_alloc(PAGE, count * PAGE);
}

static void host_free(void *ctx, void *pages, size_t count)
{
    (void)ctx;
    (void)count;
    free(pages);
}

static uint64_t host_virt_to_phys(void *ctx, const void *va)
{
    uint64_t page = (uint64_t)((const uint8_t *)va - slot_memory) / PAGE, frame;
    (void)ctx;
    if (page >= SLOTS * PAGES)
        return (uintptr_t)va;
    frame = atomic_load(&frame_of[page]);
    dawdle();
    return frame == UINT64_MAX ? frame : (uintptr_t)arena + frame * PAGE;
}

static void *host_phys_to_virt(void *ctx, uint64_t hpa)
{
    (void)ctx;
    return (void *)(uintptr_t)hpa;
}

static uint32_t host_this_cpu(void *ctx)
{
    (void)ctx;
    return fake_cpu;
}

static void host_kick(void *ctx, uint32_t cpu)
{
    (void)ctx;
    (void)cpu;
}

static const struct virtx_host_ops host_ops = {
    .size = sizeof(host_ops),
    .pages_alloc = host_alloc,
    .pages_free = host_free,
    .virt_to_phys = host_virt_to_phys,
    .phys_to_virt = host_phys_to_virt,
    .this_cpu = host_this_cpu,
    .kick_cpu = host_kick,
};

/* ---- Processors ---- */

#define TLB_ENTRIES 4096u

struct processor {
    uint64_t seed;
    struct {
        uint64_t gpa, hpa; /* gpa: with bit 0 set when valid */
        bool write;
    } tlb[TLB_ENTRIES];
    struct {
        uint64_t range; /* GPA / 2 MiB, plus one */
        uint64_t *table;
    } psc[64];
    _Atomic uint64_t page_log[512]; /* UINT64_MAX: none; filled from the end */
    unsigned logged;
};

static struct processor processors[VCPUS];
static uint64_t features;
static const struct table_format *format;
static _Atomic uint64_t place[SLOTS]; /* GPA of each slot; UINT64_MAX: removed */

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed * 0x2545f4914f6cdd1dull >> 20;
}

static struct virtx_vm *logging_vm;

static void drain(struct processor *p)
{
    for (unsigned i = 0; i < 512; i++) {
        uint64_t gpa = atomic_exchange(&p->page_log[i], UINT64_MAX);

        if (gpa != UINT64_MAX) {
            atomic_fetch_add(&drained, 1);
            dawdle();
            virtx_backend_dirty(logging_vm, gpa, PAGE);
        }
    }
}

static void live_drain(struct virtx_vm *v)
{
    (void)v;
    for (unsigned i = 0; i < VCPUS; i++)
        drain(&processors[i]);
}

static void flush(struct processor *p)
{
    memset(p->tlb, 0, sizeof(p->tlb));
    memset(p->psc, 0, sizeof(p->psc));
}

/* One walk as the hardware makes it, from the paging-structure cache if that knows the table. */
static bool hardware_walk(struct processor *p, uint64_t root, uint64_t gpa, bool write,
                          uint64_t *hpa, bool *writable)
{
    unsigned slot = gpa / (2ull << 20) % 64;
    uint64_t *entry = (uint64_t *)(uintptr_t)root, value;
    unsigned level = 4;

    if (p->psc[slot].range == gpa / (2ull << 20) + 1) {
        entry = p->psc[slot].table;
        level = 1;
    }
    for (;; level--) {
        unsigned shift = 12 + 9 * (level - 1);
        dawdle();
        entry += gpa >> shift & 511;
        value = __atomic_load_n(entry, __ATOMIC_ACQUIRE); /* what it points to is read after it */
        if (!(value & format->present))
            return false;
        if (level == 1 || (value & format->large)) {
            if (write && !(value & format->write))
                return false;
            if (write && (features & VIRTX_FEATURE_NESTED_AD) && !(value & format->dirty)) {
                if ((features & VIRTX_FEATURE_DIRTY_LOGGING) && p->logged == 512) {
                    drain(p); /* the exit for a full log */
                    p->logged = 0;
                }
                if (!__atomic_compare_exchange_n(entry, &value, value | format->dirty, false,
                                                 __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
                    return false; /* as good as a fault: walked again */
                dawdle();
                if (features & VIRTX_FEATURE_DIRTY_LOGGING)
                    atomic_store(&p->page_log[511 - p->logged++], gpa & ~(PAGE - 1));
            }
            *hpa =
                (value & format->address & ~((1ull << shift) - 1)) | (gpa & ((1ull << shift) - 1));
            *writable =
                write || ((value & format->write) &&
                          (!(features & VIRTX_FEATURE_NESTED_AD) || (value & format->dirty)));
            return true;
        }
        entry = (uint64_t *)(uintptr_t)(value & format->address);
        if (level == 2) {
            p->psc[slot].range = gpa / (2ull << 20) + 1;
            p->psc[slot].table = entry;
        }
    }
}

static void access_frame(uint64_t gpa, uint64_t hpa, bool write, uint64_t value)
{
    uint64_t frame = (hpa - (uintptr_t)arena) / PAGE;
    bool logged = gpa / SPACE != 1;
    if (frame >= FRAMES || !atomic_load(&frame_used[frame])) {
        report_wrong("memory that was given back is accessed");
        return;
    }
    if (atomic_load(&frame_owner[frame]) != (logged ? 0 : PAGES) + gpa % SPACE / PAGE)
        report_wrong("memory of another page is accessed");
    if (write && logged && atomic_load(&read_only))
        report_wrong("a right that was taken away is used");
    if (write) {
        __atomic_store_n((uint64_t *)(uintptr_t)hpa, value, __ATOMIC_SEQ_CST);
        atomic_fetch_add(&writes, 1);
    } else {
        __atomic_load_n((uint64_t *)(uintptr_t)hpa, __ATOMIC_SEQ_CST);
    }
}

/* One access of the guest: TLB, walk, or fault; at most a few faults, then it gives up for now. */
static void guest_access(struct virtx_vcpu *vcpu, struct processor *p)
{
    uint64_t dice = next_random(&p->seed), which = dice & 1, hpa = 0;
    uint64_t base = atomic_load(&place[which]), gpa;
    bool write = dice & 2, writable = false;
    unsigned at;

    if (base == UINT64_MAX)
        base = (dice & 4) ? 0 : SPACE;
    else if (which == LOGGED && (dice & 0x70) == 0)
        base = MOVED - base; /* where the slot was: nothing, but for translations not yet dropped */
    /* Half of the accesses go to few pages, which are in the TLB and get dirty again and again. */
    gpa = base + (dice >> 8) % ((dice & 8) ? 16 : PAGES) * PAGE;
    at = gpa / PAGE % TLB_ENTRIES;
    if (p->tlb[at].gpa != (gpa | 1) || (write && !p->tlb[at].write)) {
        struct virtx_page_fault fault = {.gpa = gpa, .access = write ? VIRTX_WRITE : VIRTX_READ};
        unsigned attempt = 0;
        while (!hardware_walk(p, vcpu->vm->paging->root(vcpu), gpa, write, &hpa, &writable)) {
            /* A fault drops what is cached for the address. */
            p->psc[gpa / (2ull << 20) % 64].range = 0;
            p->tlb[at].gpa = 0;
            atomic_fetch_add(&faults_answered, 1);
            if (vcpu->vm->paging->fault(vcpu, &fault) != VIRTX_FAULT_RESUME || attempt++ == 8 ||
                atomic_load(&vcpu->requests))
                return;
        }
        p->tlb[at].gpa = gpa | 1;
        p->tlb[at].hpa = hpa;
        p->tlb[at].write = writable;
    }
    /* The instruction has its translation, and has not accessed memory yet. */
    dawdle();
    access_frame(gpa, p->tlb[at].hpa, write, dice);
}

static enum virtx_status live_run(struct virtx_vcpu *vcpu)
{
    struct processor *p = &processors[fake_cpu - 1];

    for (unsigned i = 0; i < 500; i++) {
        /* Between exits the guest goes on with what it has. */
        if (i % 16 == 0 && atomic_load(&vcpu->requests)) {
            uint32_t requests = virtx_backend_requests(vcpu, UINT32_MAX);
            if (requests & VIRTX_REQUEST_MEMORY) {
                uint64_t generation = atomic_load(&vcpu->vm->generation);
                flush(p);
                virtx_backend_settle(vcpu, generation);
            }
        }
        guest_access(vcpu, p);
    }
    virtx_backend_exit(vcpu)->reason = VIRTX_EXIT_HLT;
    return VIRTX_OK;
}

static void live_kick(struct virtx_vcpu *vcpu)
{
    (void)vcpu; /* the loop above looks often enough */
}

static void live_memory(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes,
                        enum virtx_memory_change change)
{
    vm->paging->memory(vm, gpa, bytes, change);
}

static void live_collect(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes)
{
    vm->paging->collect_dirty(vm, gpa, bytes);
}

static enum virtx_status live_probe(struct virtx *virtx, uint64_t disable, struct virtx_caps *caps,
                                    struct virtx_error *error)
{
    (void)virtx;
    (void)disable;
    (void)error;
    caps->hardware = caps->features = features | VIRTX_FEATURE_NESTED_PAGING;
    caps->physical_bits = 48;
    caps->linear_bits = 48;
    caps->guest_physical_bits = 40;
    return VIRTX_OK;
}

static enum virtx_status nothing_vm(struct virtx_vm *vm)
{
    (void)vm;
    return VIRTX_OK;
}

static void nothing_vm_end(struct virtx_vm *vm)
{
    (void)vm;
}

static enum virtx_status nothing_vcpu(struct virtx_vcpu *vcpu)
{
    (void)vcpu;
    return VIRTX_OK;
}

static enum virtx_status nothing_load(struct virtx_vcpu *vcpu, uint32_t cpu)
{
    (void)vcpu;
    (void)cpu;
    return VIRTX_OK;
}

static void nothing_vcpu_end(struct virtx_vcpu *vcpu)
{
    (void)vcpu;
}

static enum virtx_status nothing_enable(struct virtx *virtx, uint32_t cpu,
                                        struct virtx_error *error)
{
    (void)virtx;
    (void)cpu;
    (void)error;
    return VIRTX_OK;
}

static void nothing_disable(struct virtx *virtx, uint32_t cpu)
{
    (void)virtx;
    (void)cpu;
}

/* ---- The embedder ---- */

static struct virtx *virtx;
static struct virtx_vm *vm;
static struct virtx_vcpu *vcpus[VCPUS];
static struct virtx_memslot *slot[SLOTS];
static uint64_t copy[PAGES]; /* of the logged slot's words, brought up to date by harvests */
static uint64_t seed;

static _Atomic bool pause_wanted;
static pthread_barrier_t barrier;

static void *run_vcpu(void *argument)
{
    unsigned n = *(const unsigned *)argument;
    const struct virtx_exit *exit;

    fake_cpu = n + 1;
    if (virtx_cpu_enable(virtx) != VIRTX_OK)
        report_wrong("virtx_cpu_enable");
    while (!atomic_load(&stop)) {
        if (atomic_load(&pause_wanted)) {
            pthread_barrier_wait(&barrier); /* all stand still */
            pthread_barrier_wait(&barrier); /* and go on */
            continue;
        }
        if (virtx_vcpu_run(vcpus[n], &exit) != VIRTX_OK)
            report_wrong("virtx_vcpu_run");
    }
    if (virtx_vcpu_put(vcpus[n]) != VIRTX_OK)
        report_wrong("virtx_vcpu_put");
    if (virtx_cpu_disable(virtx) != VIRTX_OK)
        report_wrong("virtx_cpu_disable");
    return NULL;
}

static void wait_settled(uint64_t generation)
{
    while (!virtx_vm_settled(vm, generation, true) && !atomic_load(&wrong))
        sched_yield();
}

static uint64_t take_frame(void)
{
    for (;;) {
        uint64_t frame = next_random(&seed) % FRAMES;
        if (!atomic_load(&frame_used[frame])) {
            atomic_store(&frame_used[frame], true);
            return frame;
        }
    }
}

static void give_frame(uint64_t page, uint64_t frame)
{
    atomic_store(&frame_owner[frame], page);
    atomic_store(&frame_of[page], frame);
}

static void add(unsigned which, uint64_t gpa, uint32_t flags)
{
    struct virtx_memslot_config config = {
        .size = sizeof(config),
        .rights = VIRTX_READ | VIRTX_WRITE | VIRTX_EXECUTE,
        .type = VIRTX_MEMORY_WB,
        .flags = flags,
        .gpa = gpa,
        .bytes = PAGES * PAGE,
        .memory = slot_memory + which * PAGES * PAGE,
    };
    if (virtx_memslot_add(vm, &config, &slot[which]) != VIRTX_OK)
        report_wrong("virtx_memslot_add");
    atomic_store(&place[which], gpa);
}

/* The plain slot goes, with its memory, and comes back with other memory: contiguous or not. */
static void remove_and_add(void)
{
    uint64_t generation, first = next_random(&seed) % (FRAMES - PAGES);
    bool contiguous = next_random(&seed) & 1;

    atomic_store(&place[PLAIN], UINT64_MAX);
    if (virtx_memslot_remove(slot[PLAIN], &generation) != VIRTX_OK)
        report_wrong("virtx_memslot_remove");
    wait_settled(generation);
    for (unsigned i = 0; i < PAGES; i++) {
        uint64_t frame = atomic_load(&frame_of[PAGES + i]);
        if (frame != UINT64_MAX)
            atomic_store(&frame_used[frame], false);
    }
    for (unsigned i = 0; i < PAGES; i++) {
        uint64_t frame = contiguous ? first + i : 0;
        if (contiguous && !atomic_load(&frame_used[frame]))
            atomic_store(&frame_used[frame], true);
        else
            frame = take_frame();
        give_frame(PAGES + i, frame);
    }
    add(PLAIN, SPACE, next_random(&seed) & 1 ? 0 : VIRTX_MEMSLOT_DIRTY_LOG);
}

/* A page of either slot is swapped to another frame. */
static void swap_page(void)
{
    unsigned which = next_random(&seed) & 1, page = (unsigned)(next_random(&seed) % PAGES);
    uint64_t old = atomic_load(&frame_of[which * PAGES + page]), new = take_frame(), generation;

    atomic_store(&frame_of[which * PAGES + page], UINT64_MAX);
    if (virtx_memslot_invalidate(slot[which], page * PAGE, PAGE, &generation) != VIRTX_OK)
        report_wrong("virtx_memslot_invalidate");
    wait_settled(generation);
    memcpy(arena + new *PAGE, arena + old * PAGE, PAGE);
    atomic_store(&frame_used[old], false);
    give_frame(which * PAGES + page, new);
}

static void protect(void)
{
    uint64_t generation;
    if (virtx_memslot_protect(slot[LOGGED], VIRTX_READ, &generation) != VIRTX_OK)
        report_wrong("virtx_memslot_protect");
    wait_settled(generation);
    atomic_store(&read_only, true);
    sched_yield();
    atomic_store(&read_only, false);
    if (virtx_memslot_protect(slot[LOGGED], VIRTX_READ | VIRTX_WRITE, &generation) != VIRTX_OK)
        report_wrong("virtx_memslot_protect");
}

static void move(void)
{
    uint64_t gpa = MOVED - atomic_load(&place[LOGGED]), generation;
    if (virtx_memslot_move(slot[LOGGED], gpa, &generation) != VIRTX_OK)
        report_wrong("virtx_memslot_move");
    atomic_store(&place[LOGGED], gpa);
}

/* As in a live migration: what the log says is copied. */
static void harvest(void)
{
    uint64_t bitmap[PAGES / 64] = {0};
    if (virtx_memslot_harvest(slot[LOGGED], bitmap, PAGES / 64, NULL) != VIRTX_OK)
        report_wrong("virtx_memslot_harvest");
    for (unsigned i = 0; i < PAGES; i++)
        if (bitmap[i / 64] >> (i % 64) & 1)
            copy[i] = __atomic_load_n(
                (uint64_t *)(void *)(arena + atomic_load(&frame_of[i]) * PAGE), __ATOMIC_SEQ_CST);
}

/* While no vcpu runs. */
static void compare(void)
{
    for (unsigned i = 0; i < PAGES; i++) {
        uint64_t now;
        memcpy(&now, arena + atomic_load(&frame_of[i]) * PAGE, 8);
        if (copy[i] != now)
            report_wrong("a write is in no log");
    }
}

static void operate(void)
{
    uint64_t dice = next_random(&seed) % 100;
    if (dice < 40)
        harvest();
    else if (dice < 60)
        swap_page();
    else if (dice < 75)
        move();
    else if (dice < 85)
        protect();
    else
        remove_and_add();
}

static const struct virtx_paging *const engines[] = {&virtx_paging_nested, NULL};

enum {
    VARIANT_PML = 4
}; /* EPT with a page-modification log; below: EPT or NPT, with or without A/D */

static void begin(int variant)
{
    static struct virtx_hw hw;
    static struct virtx_backend backend;
    static const struct virtx_backend *const backends[] = {&backend, NULL};
    struct virtx_config config = {.size = sizeof(config),
                                  .max_cpus = VCPUS + 1,
                                  .ops = &host_ops,
                                  .backends = backends,
                                  .paging = engines};

    format = variant & 1 ? &svm_npt : &vmx_ept;
    features = VIRTX_FEATURE_LARGE_2M | (variant & 2 ? VIRTX_FEATURE_NESTED_AD : 0) |
               (variant == VARIANT_PML ? VIRTX_FEATURE_NESTED_AD | VIRTX_FEATURE_DIRTY_LOGGING : 0);
    for (unsigned i = 0; i < VCPUS; i++)
        memset(processors[i].page_log, 0xff, sizeof(processors[i].page_log));
    hw.nested = format;
    backend = fake_backend;
    backend.probe = live_probe;
    backend.cpu_enable = nothing_enable;
    backend.cpu_disable = nothing_disable;
    backend.vm_create = nothing_vm;
    backend.vm_destroy = nothing_vm_end;
    backend.vcpu_create = nothing_vcpu;
    backend.vcpu_destroy = nothing_vcpu_end;
    backend.load = nothing_load;
    backend.put = nothing_vcpu_end;
    backend.run = live_run;
    backend.kick = live_kick;
    backend.memory = live_memory;
    backend.collect_dirty = live_collect;
    backend.drain_dirty = live_drain;
    backend.hw = &hw;
    fake_cpu = 0;
    seed = 0x1234567 + (uint64_t)variant;
    atomic_store(&stop, false);
    arena = aligned_alloc(2 << 20, FRAMES * PAGE);
    memset(arena, 0, FRAMES * PAGE);
    memset(copy, 0, sizeof(copy));
    for (unsigned i = 0; i < FRAMES; i++)
        atomic_store(&frame_used[i], i < SLOTS * PAGES);
    for (unsigned i = 0; i < SLOTS * PAGES; i++)
        give_frame(i, i);
    ck_assert_int_eq(virtx_open(&config, &virtx, NULL), VIRTX_OK);
    ck_assert_int_eq(virtx_cpu_enable(virtx), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_create(virtx, NULL, &vm), VIRTX_OK);
    logging_vm = vm;
    add(LOGGED, 0, VIRTX_MEMSLOT_DIRTY_LOG);
    add(PLAIN, SPACE, 0);
    for (unsigned i = 0; i < VCPUS; i++) {
        processors[i] = (struct processor){.seed = 77 + i};
        ck_assert_int_eq(virtx_vcpu_create(vm, i, &vcpus[i]), VIRTX_OK);
    }
}

START_TEST(everything_at_once)
{
    pthread_t threads[VCPUS];
    unsigned numbers[VCPUS];

    begin(_i);
    ck_assert_int_eq(pthread_barrier_init(&barrier, NULL, VCPUS + 1), 0);
    for (unsigned i = 0; i < VCPUS; i++) {
        numbers[i] = i;
        ck_assert_int_eq(pthread_create(&threads[i], NULL, run_vcpu, &numbers[i]), 0);
    }
    for (unsigned phase = 0; phase < PHASES && !atomic_load(&wrong); phase++) {
        for (unsigned i = 0; i < OPERATIONS; i++) {
            uint64_t before = atomic_load(&writes);
            operate();
            /* Let the guest come a little further. */
            while (atomic_load(&writes) < before + 20 && !atomic_load(&wrong))
                sched_yield();
        }
        atomic_store(&pause_wanted, true);
        pthread_barrier_wait(&barrier);
        harvest();
        compare();
        atomic_store(&stop, phase + 1 == PHASES || atomic_load(&wrong));
        atomic_store(&pause_wanted, false);
        pthread_barrier_wait(&barrier);
    }
    for (unsigned i = 0; i < VCPUS; i++)
        pthread_join(threads[i], NULL);
    ck_assert_msg(!atomic_load(&wrong), "%s", atomic_load(&what_is_wrong));
    ck_assert_uint_gt(atomic_load(&writes), PHASES * OPERATIONS * 20);
    ck_assert_uint_gt(atomic_load(&faults_answered), PHASES * OPERATIONS);
    ck_assert_int_eq(atomic_load(&drained) > 100, _i == VARIANT_PML);
    for (unsigned i = 0; i < VCPUS; i++)
        ck_assert_int_eq(virtx_vcpu_destroy(vcpus[i]), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_destroy(vm), VIRTX_OK);
    ck_assert_int_eq(virtx_cpu_disable(virtx), VIRTX_OK);
    ck_assert_int_eq(virtx_close(virtx), VIRTX_OK);
    pthread_barrier_destroy(&barrier);
    free(arena);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("nested_live");
    TCase *tests = tcase_create("nested_live");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tests, 100);
    tcase_add_loop_test(tests, everything_at_once, 0, VARIANT_PML + 1);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
