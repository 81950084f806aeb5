/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Memory that changes while two vcpus or more run on it, each on a processor of its own; another
 * one makes the changes. Run with --cpus 3, or with up to 5 for as many vcpus less one.
 *
 * The guest writes each word of its own and finds in it what it wrote last: so it notices a page
 * that it reads or writes through a translation that should be gone. The host fills memory that it
 * has back with a pattern and looks later whether anybody has written there.
 *
 * Words of the command line: rounds=N, of each kind of change.
 */
#include "harness.h"

enum {
    PAGE = 4096,
    PAGES = 64,
    BYTES = PAGES * PAGE,
    VCPUS = GUEST_CPUS, /* at most */
    ROUNDS = 8,
    PATIENCE = 20000000,
    CODE = 0x800, /* in page 0: a RET */
    WORD = 0x100, /* in each page: a word for each vcpu, 64 bytes apart */
    LIVE = 0x60000000,
    AWAY = 0x61000000,
    GIVEN_BACK = 0xee,
};

/* ---- The guest ---- */

static volatile struct progress {
    uint64_t steps, bad, executed;
} progress[VCPUS];
static volatile bool guest_stop;
static unsigned vcpus;
static uint64_t written[VCPUS][PAGES];

static void guest_lives(uint64_t n)
{
    bare_irq_enable();
    for (uint64_t i = 0; !guest_stop; i++) {
        uint64_t page = (i * 7 + n * 3) % PAGES;
        volatile uint64_t *word = (void *)(LIVE + page * PAGE + WORD + n * 64);

        if (*word != written[n][page])
            progress[n].bad++;
        *word = ++written[n][page];
        if (i % 4 == 0) {
            __asm__ volatile("call *%0" : : "r"((uint64_t)LIVE + CODE) : "memory");
            progress[n].executed++;
        }
        progress[n].steps++;
    }
    bare_irq_disable();
    guest_done(progress[n].bad);
}

/* ---- Processors 1 and 2: the vcpus' loops ---- */

static struct runner {
    struct virtx_vcpu *vcpu;
    volatile uint64_t mmio, refused;
    uint64_t result;
    enum virtx_status status;
    bool done;
    char other[120]; /* an exit that nobody expects */
} runners[VCPUS];

/* The slot is away: the access is made when it is back. */
static enum virtx_status access_later(struct runner *r, const struct virtx_exit *exit)
{
    uint64_t value = exit->mmio.value;

    r->mmio++;
    for (uint64_t i = 0; i < PATIENCE; i++) {
        enum virtx_status status =
            exit->mmio.access == VIRTX_WRITE
                ? virtx_vm_write(machine.vm, exit->mmio.gpa, &value, exit->mmio.size)
                : virtx_vm_read(machine.vm, exit->mmio.gpa, &value, exit->mmio.size);

        if (status == VIRTX_OK)
            return virtx_vcpu_complete(r->vcpu, &value);
        bare_pause();
    }
    return VIRTX_E_NOT_FOUND;
}

static volatile bool pause_wanted;
static volatile unsigned parked;

/* Anybody may have the vcpu until all go on. */
static enum virtx_status park(struct runner *r)
{
    enum virtx_status status = virtx_vcpu_put(r->vcpu);

    __atomic_add_fetch(&parked, 1, __ATOMIC_SEQ_CST);
    while (pause_wanted)
        bare_pause();
    __atomic_sub_fetch(&parked, 1, __ATOMIC_SEQ_CST);
    return status;
}

static void run_vcpu(void *arg)
{
    struct runner *r = arg;
    const struct virtx_exit *exit;

    r->status = virtx_cpu_enable(machine.virtx);
    bare_irq_enable();
    while (r->status == VIRTX_OK && !r->done) {
        r->status = virtx_vcpu_run(r->vcpu, &exit);
        if (r->status != VIRTX_OK)
            break;
        switch (exit->reason) {
        case VIRTX_EXIT_MMIO:
            r->status = access_later(r, exit);
            break;
        case VIRTX_EXIT_EMULATION: /* a fetch where the slot was */
        case VIRTX_EXIT_MEMORY:    /* again, until the right or the backing is there */
            r->refused++;
            bare_pause();
            break;
        case VIRTX_EXIT_IO:
            r->done = exit->io.port == PORT_DONE;
            r->result = exit->io.value;
            r->status = virtx_vcpu_complete(r->vcpu, NULL);
            break;
        case VIRTX_EXIT_KICK:
            if (pause_wanted)
                r->status = park(r);
            break;
        case VIRTX_EXIT_INTERRUPT:
            break;
        default:
            describe_exit(r->other, sizeof(r->other), exit);
            r->status = VIRTX_E_HARDWARE;
        }
    }
    bare_irq_disable();
    virtx_vcpu_put(r->vcpu);
    virtx_cpu_disable(machine.virtx);
}

/* ---- Processor 0 ---- */

static _Alignas(PAGE) uint8_t banks[2][BYTES];
static uint8_t *const bank[2] = {banks[0], banks[1]};
static uint8_t *volatile now; /* where the first bank's pages are; NULL: nowhere */
static struct virtx_memslot *live;

static uint64_t backing(void *ctx, const void *va)
{
    uint64_t offset = (uintptr_t)va - (uintptr_t)bank[0];
    uint8_t *base = now;

    (void)ctx;
    if (offset >= BYTES)
        return (uintptr_t)va;
    return base == NULL ? UINT64_MAX : (uintptr_t)base + offset;
}

static void settle(uint64_t generation)
{
    bool settled = false;

    bare_irq_enable();
    for (uint64_t i = 0; i < PATIENCE && !settled; i++) {
        settled = virtx_vm_settled(machine.vm, generation, true);
        bare_pause();
    }
    bare_irq_disable();
    CHECK(settled);
}

/* Until all guests have gone on. */
static void let_run(void)
{
    uint64_t from[VCPUS] = {0};
    bool all = false;

    for (unsigned n = 0; n < vcpus; n++)
        from[n] = progress[n].steps;
    bare_irq_enable();
    for (uint64_t i = 0; i < PATIENCE && !all; i++) {
        all = true;
        for (unsigned n = 0; n < vcpus; n++)
            all = all && progress[n].steps > from[n] + 100;
        bare_pause();
    }
    bare_irq_disable();
    CHECK(all);
}

static void wait_a_little(void)
{
    bare_irq_enable();
    for (unsigned i = 0; i < 3000; i++)
        bare_pause();
    bare_irq_disable();
}

static bool untouched(const uint8_t *memory)
{
    for (unsigned i = 0; i < BYTES; i++)
        if (memory[i] != GIVEN_BACK)
            return false;
    return true;
}

static void add(uint8_t *memory)
{
    live = slot_make(machine.vm, LIVE, memory, BYTES, ALL_RIGHTS, 0);
}

/* The memory goes and comes back at another place of the host's. */
static void remove_and_add(unsigned round)
{
    uint8_t *from = bank[round & 1], *to = bank[~round & 1];
    uint64_t generation = 0;

    CHECK_OK(virtx_memslot_remove(live, &generation));
    settle(generation);
    memcpy(to, from, BYTES);
    memset(from, GIVEN_BACK, BYTES);
    wait_a_little();
    add(to);
    let_run();
    CHECK(untouched(from));
}

static void move(unsigned round)
{
    uint64_t generation = 0;

    (void)round;
    CHECK_OK(virtx_memslot_move(live, AWAY, &generation));
    settle(generation);
    wait_a_little();
    CHECK_OK(virtx_memslot_move(live, LIVE, &generation));
    let_run();
}

static uint8_t copy[BYTES];

static void read_only(unsigned round)
{
    uint64_t generation = 0;

    CHECK_OK(virtx_memslot_protect(live, VIRTX_READ | VIRTX_EXECUTE, &generation));
    settle(generation);
    memcpy(copy, bank[round & 1], BYTES);
    wait_a_little();
    CHECK_EQUAL(memcmp(copy, bank[round & 1], BYTES), 0);
    CHECK_OK(virtx_memslot_protect(live, ALL_RIGHTS, &generation));
    let_run();
}

static void no_execute(unsigned round)
{
    uint64_t generation = 0, executed[VCPUS] = {0};

    (void)round;
    CHECK_OK(virtx_memslot_protect(live, VIRTX_READ | VIRTX_WRITE, &generation));
    settle(generation);
    for (unsigned n = 0; n < vcpus; n++)
        executed[n] = progress[n].executed;
    wait_a_little();
    for (unsigned n = 0; n < vcpus; n++)
        CHECK(progress[n].executed <= executed[n] + 1); /* one may have been counted late */
    CHECK_OK(virtx_memslot_protect(live, ALL_RIGHTS, &generation));
    let_run();
}

/* The host moves the backing and tells the library. */
static void swap_backing(unsigned round)
{
    uint64_t generation = 0;

    (void)round;
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *from = bank[i], *to = bank[!i];

        now = NULL;
        CHECK_OK(virtx_memslot_invalidate(live, 0, BYTES, &generation));
        settle(generation);
        memcpy(to, from, BYTES);
        memset(from, GIVEN_BACK, BYTES);
        now = to;
        let_run();
        CHECK(untouched(from));
    }
}

static uint64_t log_pages;

/* A copy that is kept up to date by harvests alone. */
static void log_and_copy(unsigned round, bool last)
{
    uint8_t *memory = bank[round & 1];

    for (unsigned i = 0; i < (last ? 3u : 10u); i++) {
        uint64_t bitmap = 0, dirty = 0;

        CHECK_OK(virtx_memslot_harvest(live, &bitmap, 1, &dirty));
        for (unsigned page = 0; page < PAGES; page++)
            if (bitmap >> page & 1)
                memcpy(copy + page * PAGE, memory + page * PAGE, PAGE);
        log_pages += dirty;
        if (!last)
            let_run();
    }
}

static void log_alone(unsigned round)
{
    uint64_t before = log_pages;

    CHECK_OK(virtx_memslot_log(live, true));
    settle(virtx_vm_generation(machine.vm));
    memcpy(copy, bank[round & 1], BYTES);
    log_and_copy(round, false);
    CHECK(log_pages > before);
    CHECK_OK(virtx_memslot_log(live, false));
}

/* All stand still: none takes a step, and their registers can be had and changed from here. */
static void pause_and_resume(unsigned round)
{
    uint64_t steps[VCPUS] = {0};
    struct virtx_state state;

    pause_wanted = true;
    for (unsigned n = 0; n < vcpus; n++)
        virtx_vcpu_kick(runners[n].vcpu);
    bare_irq_enable();
    for (uint64_t i = 0; i < PATIENCE && parked < vcpus; i++)
        bare_pause();
    bare_irq_disable();
    CHECK_EQUAL(parked, vcpus);
    for (unsigned n = 0; n < vcpus && parked == vcpus; n++) {
        steps[n] = progress[n].steps;
        CHECK_OK(virtx_vcpu_get(runners[n].vcpu, VIRTX_STATE_DR, &state));
        CHECK_EQUAL(state.dr[3], round);
        state.dr[3] = round + 1;
        CHECK_OK(virtx_vcpu_set(runners[n].vcpu, VIRTX_STATE_DR, &state));
    }
    wait_a_little();
    for (unsigned n = 0; n < vcpus; n++)
        CHECK_EQUAL(progress[n].steps, steps[n]);
    for (unsigned n = 0; n < vcpus; n++)
        CHECK_OK(virtx_vcpu_put(runners[n].vcpu));
    pause_wanted = false;
    for (uint64_t i = 0; i < PATIENCE && parked != 0; i++)
        bare_pause();
    let_run();
}

static void nothing(void *arg)
{
    (void)arg;
}

static bool begin(void)
{
    static struct virtx_host_ops ops;

    vcpus = bare_cpu_count() - 1 < VCPUS ? bare_cpu_count() - 1 : VCPUS;
    if (vcpus < 2) {
        check(false, "the machine has three processors (--cpus 3)", __FILE__, __LINE__);
        return false;
    }
    ops = bare_virtx_ops;
    ops.virt_to_phys = backing;
    /* What the bare host takes for its processors is taken before pages are counted. */
    for (unsigned n = 1; n <= vcpus; n++) {
        CHECK(bare_cpu_run(n, nothing, NULL));
        bare_cpu_wait(n);
    }
    harness_ops = &ops;
    harness_no_watchdog = true;
    now = bank[0];
    memset(bank[0], 0, BYTES);
    memset(bank[1], GIVEN_BACK, BYTES);
    bank[0][CODE] = 0xc3;
    memset((void *)(uintptr_t)progress, 0, sizeof(progress));
    memset(written, 0, sizeof(written));
    memset(runners, 0, sizeof(runners));
    guest_stop = false;
    machine_open();
    add(bank[0]);
    for (unsigned n = 0; n < vcpus; n++) {
        runners[n].vcpu = n == 0 ? machine.vcpu : vcpu_make(machine.vm, n);
        vcpu_prepare(runners[n].vcpu, n, guest_lives, n);
    }
    for (unsigned n = 0; n < vcpus; n++)
        CHECK(bare_cpu_run(n + 1, run_vcpu, &runners[n]));
    let_run();
    return true;
}

static void stop_guests(void)
{
    guest_stop = true;
    for (unsigned n = 0; n < vcpus; n++) {
        bare_cpu_wait(n + 1);
        if (!CHECK_EQUAL(runners[n].status, VIRTX_OK))
            bare_printf("  vcpu %u: %s\n", n, runners[n].other);
        CHECK(runners[n].done);
        CHECK_EQUAL(runners[n].result, 0); /* nothing read that it had not written */
    }
}

static void end(void)
{
    for (unsigned n = 1; n < vcpus; n++)
        CHECK_OK(virtx_vcpu_destroy(runners[n].vcpu));
}

/* With `step` 1 each round leaves the memory in the other bank. */
static void rounds(void (*change)(unsigned round), unsigned step)
{
    if (!begin())
        return;
    for (unsigned round = 0; round < bare_option_u64("rounds", ROUNDS); round++)
        change(round * step);
    stop_guests();
    end();
}

static void removed(void)
{
    rounds(remove_and_add, 1);
    CHECK(runners[0].mmio + runners[1].mmio > 0);
}

static void moved(void)
{
    rounds(move, 0);
    CHECK(runners[0].mmio + runners[1].mmio > 0);
}

static void narrowed(void)
{
    rounds(read_only, 0);
    CHECK(runners[0].refused + runners[1].refused > 0);
}

static void not_executed(void)
{
    rounds(no_execute, 0);
    CHECK(runners[0].refused + runners[1].refused > 0);
}

static void swapped(void)
{
    rounds(swap_backing, 0);
    CHECK(runners[0].refused + runners[1].refused > 0);
}

static void logged(void)
{
    rounds(log_alone, 0);
}

/* Nothing is lost between harvests of a log that the vcpus fill all the time. */
static void log_is_complete(void)
{
    if (!begin())
        return;
    CHECK_OK(virtx_memslot_log(live, true));
    settle(virtx_vm_generation(machine.vm));
    memcpy(copy, bank[0], BYTES);
    log_and_copy(0, false);
    stop_guests();
    log_and_copy(0, true);
    for (unsigned page = 0; page < PAGES; page++)
        if (!CHECK_EQUAL(memcmp(copy + page * PAGE, bank[0] + page * PAGE, PAGE), 0))
            bare_printf("  page %u\n", page);
    end();
}

static void without_hardware_log(void)
{
    harness_disable = VIRTX_FEATURE_DIRTY_LOGGING;
    log_is_complete();
}

static void by_write_protection(void)
{
    harness_disable = VIRTX_FEATURE_DIRTY_LOGGING | VIRTX_FEATURE_NESTED_AD;
    log_is_complete();
}

static void paused(void)
{
    rounds(pause_and_resume, 1);
}

GUEST_CASES({"removed-and-added", removed}, {"moved", moved}, {"read-only", narrowed},
            {"no-execute", not_executed}, {"backing-swapped", swapped}, {"log-on-and-off", logged},
            {"log-is-complete", log_is_complete},
            {"log-is-complete-by-dirty-flags", without_hardware_log},
            {"log-is-complete-by-write-protection", by_write_protection},
            {"paused-and-resumed", paused});
