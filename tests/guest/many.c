/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Events with several vcpus at the same time: two on two processors of the host, four on four, and
 * four in turns on two. Each vcpu runs the same guest, gets interrupts from its neighbours and from
 * the host, and is cut short by the host's timer wherever it is.
 *
 * What a guest sees wrong it counts for itself, as bits or in its seat below; the host looks when
 * all are done. Run with --cpus 4.
 *
 * Words of the command line: times=N, so many times the usual rounds.
 */
#include "many.h"
#include "guest_cpu.h"

enum {
    PATIENCE = 200000,     /* the host's ticks for a whole case */
    PATIENCE_BOCHS = 8000, /* … which are 40 000 cycles there */
};

volatile struct mine mine[GUEST_CPUS];
uint64_t rounds;
volatile uint64_t host_interrupts[BARE_MAX_CPUS];
static volatile uint64_t strange, ticks;
static uint64_t times = 1;

volatile struct mine *seat_of(const struct bare_frame *frame)
{
    uintptr_t at = (uintptr_t)frame;

    /* The far stacks of guest_far_stack() are two pages for each. */
    if (at >= GUEST_MEMORY)
        return &mine[(at - GUEST_MEMORY) / (2 * PAGE) % GUEST_CPUS];
    return &mine[crew_me(frame)];
}

/* ---- The guest's tools ---- */

void send(uint64_t to, uint32_t command)
{
    apic_write(REG_ICR_HIGH, (uint32_t)to << 24);
    apic_write(REG_ICR, command);
}

void send_safely(uint64_t to, uint32_t command)
{
    uint64_t flags = bare_irq_save();

    send(to, command);
    bare_irq_restore(flags);
}

uint64_t next_of(uint64_t self)
{
    return (self + 1) % crew_vcpus;
}

uint64_t before(uint64_t self)
{
    return (self + crew_vcpus - 1) % crew_vcpus;
}

void give_way(void)
{
    guest_mark(0);
}

static volatile uint64_t arrived;

void meet(uint64_t n)
{
    __atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST);
    while (arrived < n * crew_vcpus)
        give_way();
}

static void on_strange(struct bare_frame *frame)
{
    (void)frame;
    strange = strange + 1;
}

void note(struct bare_frame *frame)
{
    volatile struct mine *m = seat_of(frame);

    m->got[frame->vector & 0xff]++;
}

void note_and_end(struct bare_frame *frame)
{
    note(frame);
    apic_write(REG_EOI, 0);
}

/* ---- The host ---- */

/* The host's interrupts are everywhere, and vcpus take turns. */
static void on_tick(void)
{
    ticks = ticks + 1;
    host_interrupts[0]++;
    for (unsigned i = 1; i < crew_hosts; i++)
        bare_ipi(i, CREW_VECTOR_WAKE - 2);
    if (ticks % 8 == 0)
        virtx_vcpu_kick(crew_seats[ticks / 8 % crew_vcpus].vcpu);
    if (ticks > times * (engine_is("bochs") ? PATIENCE_BOCHS : PATIENCE)) {
        for (unsigned i = 0; i < crew_vcpus; i++)
            bare_printf(
                "vcpu %u: arrived %lu sent %lu in NMI %lu depth %lu NMIs %lu misplaced %lu\n", i,
                arrived, mine[i].sent, mine[i].in_nmi, mine[i].depth, mine[i].got[2],
                mine[i].misplaced);
        crew_give_up("the vcpus do not come to an end");
    }
}

static void on_host_interrupt(struct bare_frame *frame, void *ctx)
{
    (void)frame;
    (void)ctx;
    host_interrupts[bare_this_cpu()]++;
    bare_eoi();
}

bool begin(unsigned vcpus, unsigned hosts, void (*guest)(uint64_t))
{
    memset((void *)(uintptr_t)mine, 0, sizeof(mine));
    memset((void *)(uintptr_t)host_interrupts, 0, sizeof(host_interrupts));
    strange = ticks = arrived = 0;
    times = bare_option_u64("times", 1);
    rounds *= times;
    if (!crew_open(vcpus, hosts, false, guest))
        return false;
    for (unsigned i = 32; i < 256; i++)
        guest_handler[i] = on_strange;
    bare_handler_set(CREW_VECTOR_WAKE - 2, on_host_interrupt, NULL);
    crew_tick = on_tick;
    return true;
}

void end(void)
{
    CHECK_EQUAL(strange, 0);
    crew_close();
}

void with_each(void (*one)(unsigned vcpus, unsigned hosts))
{
    static const uint8_t crews[][2] = {{2, 2}, {4, 4}, {4, 2}};

    if (bare_cpu_count() < 4) {
        check(false, "the machine has four processors (--cpus 4)", __FILE__, __LINE__);
        return;
    }
    for (unsigned i = 0; i < sizeof(crews) / sizeof(crews[0]); i++) {
        guest_reset();
        one(crews[i][0], crews[i][1]);
    }
}

bool complete(struct crew_seat *seat)
{
    seat->failed |= virtx_vcpu_complete(seat->vcpu, NULL) != VIRTX_OK;
    return true;
}

bool inject(struct crew_seat *seat, uint8_t type, uint8_t vector, bool has_error, uint32_t error,
            uint64_t address)
{
    struct virtx_event event = {
        .type = type, .vector = vector, .has_error = has_error, .error = error, .address = address};

    return virtx_vcpu_inject(seat->vcpu, &event) == VIRTX_OK;
}

bool at_port(const struct virtx_exit *exit, uint16_t port)
{
    return exit->reason == VIRTX_EXIT_IO && exit->io.port == port;
}

bool stays(void)
{
    return engine_is("bochs") && backend_is("svm") && paging_is_nested();
}

uint64_t misplaced(void)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < crew_vcpus; i++)
        sum += mine[i].misplaced;
    return sum;
}

GUEST_CASES({"host-interrupts-exit", host_interrupts_exit},
            {"interrupt-windows", interrupt_windows},
            {"nmis-block-until-iret", nmis_block_until_iret},
            {"nmi-blocking-is-each-vcpus-own", nmi_blocking_is_each_vcpus_own},
            {"task-priorities", task_priorities},
            {"nested-faults-during-delivery", nested_faults_during_delivery},
            {"exits-in-shadows", exits_in_shadows}, {"thousand-interrupts", thousand_interrupts},
            {"own-interrupts", own_interrupts});
