/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A storm of interrupts: every vcpu sends to every vcpu, itself included, and waits for the
 * answers, halted or spinning; meanwhile devices raise level-triggered lines and one vcpu or
 * another is kicked. Every request is answered once, every line is served once, every kick ends one
 * run.
 *
 * Words of the command line: ipis=N, how many in each case.
 */
#include "crew.h"
#include "guest_lapic.h"
#include "storm.h"
#include <virtx/ioapic.h>

enum {
    TO_OTHERS = 3 << 18,
    REQUEST = 0x40, /* and the sender's number */
    ANSWER = 0x50,  /* and the answerer's */
    ALL_DONE = 0x60,
    LINE = 0x90,       /* and the line's number */
    PORT_LINE = 0x600, /* IN from here and the line's number: the device is served */
    LINES = 2,
    SPINS = 100,
    PATIENCE = 20000, /* ticks without progress */
};

/* ---- What guests and host count ---- */

static uint64_t rounds;
static volatile uint64_t requests[GUEST_CPUS][GUEST_CPUS]; /* [receiver][sender] */
static volatile uint64_t answers[GUEST_CPUS][GUEST_CPUS];  /* [receiver][answerer] */
static volatile uint64_t ready, finished;
static volatile uint64_t strange; /* an interrupt that nobody sent */

/* ---- The guest ---- */

/* Interrupts are off: the two halves of the ICR belong together. */
static void send(unsigned to, unsigned vector)
{
    apic_write(REG_ICR_HIGH, to << 24);
    apic_write(REG_ICR, vector);
}

static void on_request(struct bare_frame *frame)
{
    unsigned self = crew_me(frame), from = (frame->vector & 0xff) - REQUEST;

    requests[self][from] = requests[self][from] + 1;
    apic_write(REG_EOI, 0);
    send(from, ANSWER + self);
}

static void on_answer(struct bare_frame *frame)
{
    unsigned self = crew_me(frame), from = (frame->vector & 0xff) - ANSWER;

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
    for (unsigned i = 0; i < crew_vcpus; i++) {
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
    while (ready < crew_vcpus) /* what comes earlier is not accepted; others are let in */
        __asm__ volatile("outl %0, %1" : : "a"(0), "d"((uint16_t)PORT_MARK) : "memory");
    for (uint64_t round = 1; round <= rounds; round++) {
        for (unsigned i = 0; i < crew_vcpus; i++)
            send((i + (unsigned)self) % crew_vcpus, REQUEST + (unsigned)self);
        wait_answers((unsigned)self, round);
    }
    if (__atomic_add_fetch(&finished, 1, __ATOMIC_SEQ_CST) == crew_vcpus)
        apic_write(REG_ICR, TO_OTHERS | ALL_DONE);
    while (finished < crew_vcpus)
        __asm__ volatile("sti; hlt; cli" : : : "memory");
    guest_done(strange);
}

/* ---- The host ---- */

static struct virtx_ioapic ioapic;
static volatile uint64_t raised[LINES], served[LINES], unasked;
static volatile uint64_t kicks_sent[GUEST_CPUS];
static volatile uint64_t ticks, tick_of_progress, progress;
static uint64_t random_state;

static uint64_t some(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return random_state >> 33;
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
    for (unsigned i = 0; i < crew_vcpus; i++) {
        bare_printf("vcpu %u: %lu kicks sent; requests", i, kicks_sent[i]);
        for (unsigned j = 0; j < crew_vcpus; j++)
            bare_printf(" %lu/%lu", requests[i][j], answers[j][i]);
        bare_printf("\n");
    }
    bare_printf("lines %lu of %lu, %lu of %lu\n", served[0], raised[0], served[1], raised[1]);
    crew_give_up("the storm has come to a standstill");
}

/* Devices, and somebody who kicks; and the watch over it all. */
static void on_tick(void)
{
    unsigned line = some() % LINES, victim = some() % crew_vcpus;
    uint64_t sum = 0;

    if (ready < crew_vcpus)
        return;
    ticks = ticks + 1;
    for (unsigned i = 0; i < crew_vcpus; i++)
        for (unsigned j = 0; j < crew_vcpus; j++)
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
    if (crew_seats[victim].kicks == kicks_sent[victim] && !crew_seats[victim].done) {
        kicks_sent[victim] = kicks_sent[victim] + 1;
        virtx_vcpu_kick(crew_seats[victim].vcpu);
    }
}

/* A vector of the guest's at the host's own door. */
static void on_foreign(struct bare_frame *frame, void *ctx)
{
    unsigned vector = frame->vector & 0xff, cpu = bare_this_cpu();
    const volatile uint32_t *apic = (const volatile uint32_t *)(uintptr_t)APIC;

    (void)ctx;
    bare_printf("vector %x on processor %u at %lx RSP %lx RFLAGS %lx error %lx\n", vector, cpu,
                frame->rip, frame->rsp, frame->rflags, frame->error);
    for (unsigned i = 0; i < 8; i++)
        bare_printf("%u: ISR %08x TMR %08x IRR %08x\n", i, apic[(0x100 + 16 * i) / 4],
                    apic[(0x180 + 16 * i) / 4], apic[(0x200 + 16 * i) / 4]);
    bare_printf("ICR %x %x TPR %x\n", apic[0x310 / 4], apic[0x300 / 4], apic[0x80 / 4]);
    for (unsigned i = 0; i < crew_vcpus; i++)
        for (unsigned j = 0; j < crew_vcpus; j++)
            bare_printf("%u %u: %lu %lu\n", i, j, requests[i][j], answers[i][j]);
    bare_panic("a guest's interrupt came to the host");
}

/* ---- Building it up ---- */

static void ioapic_entry(unsigned line, unsigned to)
{
    virtx_ioapic_mmio_write(&ioapic, 0, 4, 0x11 + 2 * line);
    virtx_ioapic_mmio_write(&ioapic, 0x10, 4, (uint64_t)to << 24);
    virtx_ioapic_mmio_write(&ioapic, 0, 4, 0x10 + 2 * line);
    virtx_ioapic_mmio_write(&ioapic, 0x10, 4, 0x8000u | (LINE + line)); /* level-triggered */
}

static void handlers(void)
{
    for (unsigned i = 32; i < 256; i++)
        guest_handler[i] = on_strange;
    for (unsigned i = 0; i < crew_vcpus; i++) {
        guest_handler[REQUEST + i] = on_request;
        guest_handler[ANSWER + i] = on_answer;
    }
    for (unsigned i = 0; i < LINES; i++)
        guest_handler[LINE + i] = on_line;
    guest_handler[ALL_DONE] = on_all_done;
    for (unsigned i = REQUEST; i <= ALL_DONE; i++)
        bare_handler_set(i, on_foreign, NULL);
}

static void check_counts(void)
{
    uint64_t kicks = 0, lines = 0;

    for (unsigned i = 0; i < crew_vcpus; i++) {
        for (unsigned j = 0; j < crew_vcpus; j++) {
            CHECK_EQUAL(requests[i][j], rounds);
            CHECK_EQUAL(answers[i][j], rounds);
        }
        /* The last one may have come when the guest was done. */
        CHECK(crew_seats[i].kicks + 1 >= kicks_sent[i] && crew_seats[i].kicks <= kicks_sent[i]);
        kicks += crew_seats[i].kicks;
    }
    for (unsigned i = 0; i < LINES; i++) {
        CHECK(served[i] + 1 >= raised[i] && served[i] <= raised[i]);
        lines += served[i];
    }
    CHECK_EQUAL(unasked, 0);
    CHECK(kicks > 0 && lines > 0);
    bare_printf("%u vcpus on %u processors: %lu IPIs, %lu lines served, %lu kicks, %lu ticks\n",
                crew_vcpus, crew_hosts, 2 * rounds * crew_vcpus * crew_vcpus, lines, kicks, ticks);
}

static void storm(unsigned guests, unsigned processors)
{
    struct virtx_ioapic_config config = {.size = sizeof(config), .version = 0x11, .bus = &crew_bus};

    rounds = bare_option_u64("ipis", 20000) / (2 * guests * guests) + 1;
    memset((void *)(uintptr_t)requests, 0, sizeof(requests));
    memset((void *)(uintptr_t)answers, 0, sizeof(answers));
    memset((void *)(uintptr_t)kicks_sent, 0, sizeof(kicks_sent));
    ready = finished = strange = unasked = ticks = tick_of_progress = progress = 0;
    for (unsigned i = 0; i < LINES; i++)
        raised[i] = served[i] = 0;
    if (!crew_open(guests, processors, true, guest_storm))
        return;
    handlers();
    CHECK(virtx_ioapic_init(&ioapic, &config));
    CHECK(virtx_apic_bus_add_ioapic(&crew_bus, &ioapic));
    for (unsigned i = 0; i < LINES; i++)
        ioapic_entry(i, i < guests ? i : 0);
    intercept_handler(VIRTX_INTERCEPT_PORT, VIRTX_READ, PORT_LINE, PORT_LINE + LINES - 1,
                      serve_line, NULL);
    crew_tick = on_tick;
    crew_run();
    check_counts();
    crew_close();
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
            {"storm-four-vcpus", four_vcpus}, {"storm-four-vcpus-in-turns", in_turns},
            {"storm-starts", storm_starts}, {"storm-starts-in-turns", storm_starts_in_turns});
