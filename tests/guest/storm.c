/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A storm of interrupts: every vcpu sends to every vcpu, itself included, and waits for the
 * answers, halted or spinning; meanwhile devices raise level-triggered lines and one vcpu or
 * another is kicked. Every request is answered once, every line is served once, every kick ends one
 * run.
 *
 * Words of the command line: ipis=N, how many in each case.
 */
#include "harness.h"
#include "guest_cpu.h"
#include <virtx/ioapic.h>
#include <virtx/lapic.h>

enum {
    APIC = 0xfee00000,
    REG_EOI = 0xb0,
    REG_SVR = 0xf0,
    REG_ICR = 0x300,
    REG_ICR_HIGH = 0x310,
    TO_OTHERS = 3 << 18,
    REQUEST = 0x40, /* and the sender's number */
    ANSWER = 0x50,  /* and the answerer's */
    ALL_DONE = 0x60,
    LINE = 0x90,       /* and the line's number */
    PORT_LINE = 0x600, /* IN from here and the line's number: the device is served */
    LINES = 2,
    SPINS = 100,
    VECTOR_TICK = 0x62,
    VECTOR_WAKE = 0x63,
    TICK_US = 50,
    TICK_CYCLES = 40000, /* at least: emulators' microseconds may be a few instructions long */
    PATIENCE = 20000,    /* ticks without progress */
};

/* ---- What guests and host count ---- */

static unsigned vcpus;
static uint64_t rounds;
static volatile uint64_t requests[GUEST_CPUS][GUEST_CPUS]; /* [receiver][sender] */
static volatile uint64_t answers[GUEST_CPUS][GUEST_CPUS];  /* [receiver][answerer] */
static volatile uint64_t ready, finished;
static volatile uint64_t strange; /* an interrupt that nobody sent */

/* ---- The guest ---- */

static void apic_write(uint32_t offset, uint32_t value)
{
    __asm__ volatile("movl %0, (%1)" : : "r"(value), "r"((uint64_t)APIC + offset) : "memory");
}

/* Interrupts are off: the two halves of the ICR belong together. */
static void send(unsigned to, unsigned vector)
{
    apic_write(REG_ICR_HIGH, to << 24);
    apic_write(REG_ICR, vector);
}

static unsigned me(const void *stack)
{
    return (unsigned)(((uintptr_t)stack - (uintptr_t)guest_cpus) / sizeof(guest_cpus[0]));
}

static void on_request(struct bare_frame *frame)
{
    unsigned self = me(frame), from = (frame->vector & 0xff) - REQUEST;

    requests[self][from] = requests[self][from] + 1;
    apic_write(REG_EOI, 0);
    send(from, ANSWER + self);
}

static void on_answer(struct bare_frame *frame)
{
    unsigned self = me(frame), from = (frame->vector & 0xff) - ANSWER;

    answers[self][from] = answers[self][from] + 1;
    apic_write(REG_EOI, 0);
}

static void on_all_done(struct bare_frame *frame)
{
    (void)frame;
    apic_write(REG_EOI, 0);
}

static void on_line(struct bare_frame *frame)
{
    bare_in32((uint16_t)(PORT_LINE + (frame->vector & 0xff) - LINE));
    apic_write(REG_EOI, 0);
}

static void on_strange(struct bare_frame *frame)
{
    (void)frame;
    strange = strange + 1;
}

static bool answered(unsigned self, uint64_t round)
{
    for (unsigned i = 0; i < vcpus; i++) {
        if (answers[self][i] < round)
            return false;
    }
    return true;
}

/* With interrupts off and on again; every other wait begins with some spinning. */
static void wait_answers(unsigned self, uint64_t round)
{
    bare_irq_enable();
    for (unsigned i = 0; i < SPINS && round % 2 && !answered(self, round); i++)
        bare_pause();
    bare_irq_disable();
    while (!answered(self, round))
        __asm__ volatile("sti; hlt; cli" : : : "memory");
}

static void guest_storm(uint64_t self)
{
    apic_write(REG_SVR, 0x1ff);
    __atomic_add_fetch(&ready, 1, __ATOMIC_SEQ_CST);
    while (ready < vcpus) /* what comes earlier is not accepted; those in turns here are let in */
        __asm__ volatile("outl %0, %1" : : "a"(0), "d"((uint16_t)PORT_MARK) : "memory");
    for (uint64_t round = 1; round <= rounds; round++) {
        for (unsigned i = 0; i < vcpus; i++)
            send((i + (unsigned)self) % vcpus, REQUEST + (unsigned)self);
        wait_answers((unsigned)self, round);
    }
    if (__atomic_add_fetch(&finished, 1, __ATOMIC_SEQ_CST) == vcpus)
        apic_write(REG_ICR, TO_OTHERS | ALL_DONE);
    while (finished < vcpus)
        __asm__ volatile("sti; hlt; cli" : : : "memory");
    guest_done(strange);
}

/* ---- The host ---- */

static struct seat {
    struct virtx_vcpu *vcpu;
    struct virtx_lapic lapic;
    unsigned home; /* processor of the host */
    bool halted, done, failed;
    volatile uint64_t kicks_sent, kicks_seen;
    uint64_t result;
} seats[GUEST_CPUS];

static struct virtx_lapic *lapics[GUEST_CPUS];
static struct virtx_apic_bus bus;
static struct virtx_ioapic ioapic;
static volatile uint64_t raised[LINES], served[LINES], unasked;
static unsigned hosts;
static volatile uint64_t ticks, tick_of_progress, progress;
static volatile bool storming;
static uint64_t random_state;

static uint64_t some(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return random_state >> 33;
}

static struct seat *seat_of(struct virtx_vcpu *vcpu)
{
    return virtx_vcpu_user(vcpu);
}

static void wake(void *ctx, struct virtx_vcpu *vcpu)
{
    (void)ctx;
    if (seat_of(vcpu) != NULL && seat_of(vcpu)->home != bare_this_cpu())
        bare_ipi(seat_of(vcpu)->home, VECTOR_WAKE);
}

static void on_wake(struct bare_frame *frame, void *ctx)
{
    (void)frame;
    (void)ctx;
    bare_eoi();
}

/* The device answers: its line goes down. */
static enum virtx_verdict serve_line(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    unsigned line = exit->io.port - PORT_LINE;

    (void)vcpu;
    (void)ctx;
    exit->io.value = 0;
    if (raised[line] == served[line]) {
        __atomic_add_fetch(&unasked, 1, __ATOMIC_SEQ_CST);
        return VIRTX_HANDLED;
    }
    virtx_ioapic_set_irq(&ioapic, line, false);
    __atomic_store_n(&served[line], raised[line], __ATOMIC_SEQ_CST);
    return VIRTX_HANDLED;
}

static void show_and_give_up(void)
{
    for (unsigned i = 0; i < vcpus; i++) {
        bare_printf("vcpu %u: halted %u done %u kicks %lu of %lu; requests", i, seats[i].halted,
                    seats[i].done, seats[i].kicks_seen, seats[i].kicks_sent);
        for (unsigned j = 0; j < vcpus; j++)
            bare_printf(" %lu/%lu", requests[i][j], answers[j][i]);
        bare_printf("\n");
    }
    bare_panic("the storm has come to a standstill; lines %lu of %lu, %lu of %lu", served[0],
               raised[0], served[1], raised[1]);
}

/* Devices, and somebody who kicks; and the watch over it all. On processor 0, anywhere in it. */
static void on_tick(struct bare_frame *frame, void *ctx)
{
    unsigned line = some() % LINES;
    struct seat *seat = &seats[some() % vcpus];
    uint64_t sum = 0;

    (void)frame;
    (void)ctx;
    bare_eoi();
    if (!storming || ready < vcpus)
        return;
    ticks = ticks + 1;
    for (unsigned i = 0; i < vcpus; i++)
        for (unsigned j = 0; j < vcpus; j++)
            sum += answers[i][j];
    if (sum != progress) {
        progress = sum;
        tick_of_progress = ticks;
    } else if (ticks - tick_of_progress > PATIENCE) {
        show_and_give_up();
    }
    if (__atomic_load_n(&served[line], __ATOMIC_SEQ_CST) == raised[line]) {
        raised[line] = raised[line] + 1;
        virtx_ioapic_set_irq(&ioapic, line, true);
    }
    if (seat->kicks_seen == seat->kicks_sent && !seat->done) {
        seat->kicks_sent = seat->kicks_sent + 1;
        virtx_vcpu_kick(seat->vcpu);
    }
}

static void give_up(struct seat *seat, const struct virtx_exit *exit)
{
    char text[120];

    describe_exit(text, sizeof(text), exit);
    bare_printf("unexpected exit: %s at 0x%lx\n", text, exit->rip);
    seat->done = seat->failed = true;
}

static void one_exit(struct seat *seat, const struct virtx_exit *exit)
{
    switch (exit->reason) {
    case VIRTX_EXIT_HLT:
        seat->halted = true;
        break;
    case VIRTX_EXIT_KICK:
        seat->kicks_seen = seat->kicks_seen + 1;
        break;
    case VIRTX_EXIT_IO:
        if (exit->io.port == PORT_DONE) {
            seat->result = exit->io.value;
            seat->done = true;
            seat->failed = virtx_vcpu_complete(seat->vcpu, NULL) != VIRTX_OK;
            break;
        }
        if (exit->io.port != PORT_MARK || virtx_vcpu_complete(seat->vcpu, NULL) != VIRTX_OK)
            give_up(seat, exit);
        break;
    default:
        give_up(seat, exit);
    }
}

/* One round over the vcpus at home here; false if all are done. `*idle`: none of them could run. */
static bool turn(unsigned cpu, bool *idle)
{
    bool more = false;

    *idle = true;
    for (unsigned i = cpu; i < vcpus; i += hosts) {
        struct seat *seat = &seats[i];
        const struct virtx_exit *exit;

        if (seat->done)
            continue;
        more = true;
        if (seat->halted && !virtx_vcpu_wakeable(seat->vcpu))
            continue;
        *idle = seat->halted = false;
        bare_irq_enable();
        if (virtx_vcpu_run(seat->vcpu, &exit) == VIRTX_OK)
            one_exit(seat, exit);
        else
            seat->done = seat->failed = true;
        bare_irq_disable();
    }
    return more;
}

static void host_loop(void *arg)
{
    unsigned cpu = (unsigned)(uintptr_t)arg;
    bool idle;

    if (cpu != 0 && virtx_cpu_enable(machine.virtx) != VIRTX_OK) {
        seats[cpu].failed = true;
        return;
    }
    while (turn(cpu, &idle)) {
        if (idle)
            __asm__ volatile("sti; hlt; cli" : : : "memory");
    }
    for (unsigned i = cpu; i < vcpus; i += hosts)
        seats[i].failed |= virtx_vcpu_put(seats[i].vcpu) != VIRTX_OK;
    if (cpu != 0)
        seats[cpu].failed |= virtx_cpu_disable(machine.virtx) != VIRTX_OK;
}

/* ---- Building it up ---- */

static void ioapic_entry(unsigned line, unsigned to)
{
    virtx_ioapic_mmio_write(&ioapic, 0, 4, 0x11 + 2 * line);
    virtx_ioapic_mmio_write(&ioapic, 0x10, 4, (uint64_t)to << 24);
    virtx_ioapic_mmio_write(&ioapic, 0, 4, 0x10 + 2 * line);
    virtx_ioapic_mmio_write(&ioapic, 0x10, 4, 0x8000u | (LINE + line)); /* level-triggered */
}

static void make_seat(unsigned i)
{
    struct virtx_lapic_config config = {.size = sizeof(config),
                                        .address_bits = 40,
                                        .bsp = i == 0,
                                        .bus_multiply = 1,
                                        .bus_divide = 1};
    struct seat *seat = &seats[i];

    memset(seat, 0, sizeof(*seat));
    seat->vcpu = i == 0 ? machine.vcpu : vcpu_make(machine.vm, i);
    seat->home = i % hosts;
    virtx_vcpu_set_user(seat->vcpu, seat);
    CHECK_OK(virtx_lapic_attach(&seat->lapic, &config, seat->vcpu));
    CHECK(virtx_apic_bus_add_lapic(&bus, &seat->lapic));
    vcpu_prepare(seat->vcpu, i, guest_storm, i);
}

static void handlers(void)
{
    for (unsigned i = 32; i < 256; i++)
        guest_handler[i] = on_strange;
    for (unsigned i = 0; i < vcpus; i++) {
        guest_handler[REQUEST + i] = on_request;
        guest_handler[ANSWER + i] = on_answer;
    }
    for (unsigned i = 0; i < LINES; i++)
        guest_handler[LINE + i] = on_line;
    guest_handler[ALL_DONE] = on_all_done;
    bare_handler_set(VECTOR_TICK, on_tick, NULL);
    bare_handler_set(VECTOR_WAKE, on_wake, NULL);
}

static void nothing(void *arg)
{
    (void)arg;
}

/* Starts them all, so that what the bare host takes for that is taken before leaks are counted. */
static bool start_hosts(unsigned wanted)
{
    hosts = bare_cpu_count() < wanted ? bare_cpu_count() : wanted;
    for (unsigned i = 1; i < hosts; i++) {
        if (!CHECK(bare_cpu_run(i, nothing, NULL)))
            return false;
        bare_cpu_wait(i);
    }
    return true;
}

static void check_counts(void)
{
    uint64_t kicks = 0, lines = 0;

    for (unsigned i = 0; i < vcpus; i++) {
        CHECK(!seats[i].failed);
        CHECK_EQUAL(seats[i].result, 0);
        for (unsigned j = 0; j < vcpus; j++) {
            CHECK_EQUAL(requests[i][j], rounds);
            CHECK_EQUAL(answers[i][j], rounds);
        }
        /* The last one may have come when the guest was done. */
        CHECK(seats[i].kicks_seen + 1 >= seats[i].kicks_sent &&
              seats[i].kicks_seen <= seats[i].kicks_sent);
        kicks += seats[i].kicks_seen;
    }
    for (unsigned i = 0; i < LINES; i++) {
        CHECK(served[i] + 1 >= raised[i] && served[i] <= raised[i]);
        lines += served[i];
    }
    CHECK_EQUAL(unasked, 0);
    CHECK(kicks > 0 && lines > 0);
    bare_printf("%u vcpus on %u processors: %lu IPIs, %lu lines served, %lu kicks, %lu ticks\n",
                vcpus, hosts, 2 * rounds * vcpus * vcpus, lines, kicks, ticks);
}

static uint32_t tick_length(void)
{
    uint64_t by_time = bare_timer_hz() / 1000 * TICK_US / 1000 + 1;
    uint64_t by_cycles = bare_timer_hz() / (bare_tsc_hz() / TICK_CYCLES + 1) + 1;

    return (uint32_t)(by_time > by_cycles ? by_time : by_cycles);
}

static void storm(unsigned guests, unsigned processors)
{
    struct virtx_host_ops ops = bare_virtx_ops;
    struct virtx_ioapic_config config = {.size = sizeof(config), .version = 0x11, .bus = &bus};

    if (!start_hosts(processors))
        return;
    vcpus = guests;
    rounds = bare_option_u64("ipis", 20000) / (2 * guests * guests) + 1;
    memset((void *)(uintptr_t)requests, 0, sizeof(requests));
    memset((void *)(uintptr_t)answers, 0, sizeof(answers));
    ready = finished = strange = unasked = ticks = tick_of_progress = progress = 0;
    for (unsigned i = 0; i < LINES; i++)
        raised[i] = served[i] = 0;
    harness_no_watchdog = true;
    bare_timer_stop();
    ops.wake = wake;
    harness_ops = &ops;
    machine_open();
    handlers();
    virtx_apic_bus_init(&bus, lapics, GUEST_CPUS);
    CHECK(virtx_ioapic_init(&ioapic, &config));
    CHECK(virtx_apic_bus_add_ioapic(&bus, &ioapic));
    for (unsigned i = 0; i < vcpus; i++)
        make_seat(i);
    for (unsigned i = 0; i < LINES; i++)
        ioapic_entry(i, i < vcpus ? i : 0);
    intercept_handler(VIRTX_INTERCEPT_PORT, VIRTX_READ, PORT_LINE, PORT_LINE + LINES - 1,
                      serve_line, NULL);
    storming = true;
    bare_timer_start(VECTOR_TICK, tick_length(), true);
    for (unsigned i = 1; i < hosts; i++)
        CHECK(bare_cpu_run(i, host_loop, (void *)(uintptr_t)i));
    host_loop(NULL);
    bare_irq_enable(); /* the devices stay alive while others finish */
    for (unsigned i = 1; i < hosts; i++)
        bare_cpu_wait(i);
    bare_irq_disable();
    storming = false;
    bare_timer_stop();
    check_counts();
    for (unsigned i = 0; i < vcpus; i++) {
        virtx_lapic_detach(&seats[i].lapic);
        virtx_vcpu_set_user(seats[i].vcpu, NULL);
        if (i != 0)
            CHECK_OK(virtx_vcpu_destroy(seats[i].vcpu));
    }
}

static void one_vcpu(void)
{
    storm(1, 1);
}

static void two_vcpus(void)
{
    storm(2, 2);
}

static void four_vcpus(void)
{
    storm(4, 4);
}

static void in_turns(void)
{
    storm(4, 1);
}

GUEST_CASES({"storm-one-vcpu", one_vcpu}, {"storm-two-vcpus", two_vcpus},
            {"storm-four-vcpus", four_vcpus}, {"storm-four-vcpus-in-turns", in_turns});
