/* SPDX-License-Identifier: BSD-2-Clause */
/* Several vcpus on several processors of the host: who runs where, sleeps and is woken. */
#include "crew.h"
#include "guest_cpu.h"

enum { TICK_CYCLES = 40000 /* at least: emulators' microseconds may be a few instructions long */ };

struct crew_seat crew_seats[GUEST_CPUS];
unsigned crew_vcpus, crew_hosts;
struct virtx_apic_bus crew_bus;
bool crew_without_lapics;
bool (*crew_exit)(struct crew_seat *seat, const struct virtx_exit *exit);
void (*crew_tick)(void);

static struct virtx_lapic *lapics[GUEST_CPUS];
static struct virtx_host_ops ops;
static volatile bool running;

unsigned crew_me(const void *stack)
{
    return (unsigned)(((uintptr_t)stack - (uintptr_t)guest_cpus) / sizeof(guest_cpus[0]));
}

/* ---- A vcpu's life ---- */

static void wake(void *ctx, struct virtx_vcpu *vcpu)
{
    const struct crew_seat *seat = virtx_vcpu_user(vcpu);

    (void)ctx;
    if (seat != NULL && seat->home != bare_this_cpu())
        bare_ipi(seat->home, CREW_VECTOR_WAKE);
}

static void on_wake(struct bare_frame *frame, void *ctx)
{
    (void)frame;
    (void)ctx;
    bare_eoi();
}

/* A guest that has ended in the image's own panic tells what it was. The exit is completed, since
 * nothing can be read before: what it was is told already. */
static void show_registers(struct virtx_vcpu *vcpu, const struct virtx_exit *exit)
{
    struct virtx_state state;

    if (exit->reason == VIRTX_EXIT_IO && exit->io.string && exit->io.access == VIRTX_WRITE)
        bare_printf("  %.*s\n", (int)exit->io.count, (const char *)exit->io.data);
    if (exit->pending)
        virtx_vcpu_complete(vcpu, NULL);
    if (virtx_vcpu_get(vcpu, VIRTX_STATE_ALL, &state) != VIRTX_OK)
        return;
    bare_printf(
        "  RSP %lx RFLAGS %lx IDTR %lx GDTR %lx CR0 %lx CR2 %lx CR3 %lx TR %x interruptibility "
        "%x\n",
        state.gpr[VIRTX_RSP], state.rflags, state.idtr.base, state.gdtr.base, state.cr0, state.cr2,
        state.cr3, state.seg[VIRTX_TR].selector, state.interruptibility);
}

static void give_up_one(struct crew_seat *seat, const struct virtx_exit *exit)
{
    char text[120];

    describe_exit(text, sizeof(text), exit);
    bare_printf("vcpu %u: unexpected exit: %s at 0x%lx\n", seat->number, text, exit->rip);
    show_registers(seat->vcpu, exit);
    seat->done = seat->failed = true;
}

static void one_exit(struct crew_seat *seat, const struct virtx_exit *exit)
{
    switch (exit->reason) {
    case VIRTX_EXIT_HLT:
        seat->halted = true;
        break;
    case VIRTX_EXIT_KICK:
        seat->kicks = seat->kicks + 1;
        break;
    case VIRTX_EXIT_IO:
        if (exit->io.port == PORT_DONE) {
            seat->result = exit->io.value;
            seat->failed |= virtx_vcpu_complete(seat->vcpu, NULL) != VIRTX_OK;
            seat->done = true;
            break;
        }
        if (exit->io.port != PORT_MARK || virtx_vcpu_complete(seat->vcpu, NULL) != VIRTX_OK)
            give_up_one(seat, exit);
        break;
    default:
        give_up_one(seat, exit);
    }
}

static void one_run(struct crew_seat *seat)
{
    const struct virtx_exit *exit;
    enum virtx_status status;

    if (!harness_interrupts_to_guest)
        bare_irq_enable();
    status = virtx_vcpu_run(seat->vcpu, &exit);
    if (status != VIRTX_OK) {
        const struct virtx_error *error = virtx_vcpu_last_error(seat->vcpu);

        bare_printf("vcpu %u: %s: %s %s (0x%lx)\n", seat->number, virtx_status_text(status),
                    error->what, error->rule, error->value);
        seat->done = seat->failed = true;
    } else if (crew_exit == NULL || !crew_exit(seat, exit)) {
        one_exit(seat, exit);
    }
    bare_irq_disable();
}

/* One round over the vcpus at home here; false if all are done. `*idle`: none of them could run. */
static bool turn(unsigned cpu, bool *idle)
{
    bool more = false;

    *idle = true;
    for (unsigned i = cpu; i < crew_vcpus; i += crew_hosts) {
        struct crew_seat *seat = &crew_seats[i];

        if (seat->done)
            continue;
        more = true;
        if (seat->halted && !virtx_vcpu_wakeable(seat->vcpu))
            continue;
        *idle = seat->halted = false;
        one_run(seat);
    }
    return more;
}

static void host_loop(void *arg)
{
    unsigned cpu = (unsigned)(uintptr_t)arg;
    bool idle;

    if (cpu != 0 && virtx_cpu_enable(machine.virtx) != VIRTX_OK) {
        crew_seats[cpu].failed = true;
        return;
    }
    while (turn(cpu, &idle)) {
        if (idle)
            __asm__ volatile("sti; hlt; cli" : : : "memory");
    }
    for (unsigned i = cpu; i < crew_vcpus; i += crew_hosts)
        crew_seats[i].failed |= virtx_vcpu_put(crew_seats[i].vcpu) != VIRTX_OK;
    if (cpu != 0)
        crew_seats[cpu].failed |= virtx_cpu_disable(machine.virtx) != VIRTX_OK;
}

void crew_give_up(const char *what)
{
    for (unsigned i = 0; i < crew_vcpus; i++) {
        bare_printf("vcpu %u: halted %u done %u failed %u kicks %lu\n", i, crew_seats[i].halted,
                    crew_seats[i].done, crew_seats[i].failed, crew_seats[i].kicks);
    }
    bare_panic("%s", what);
}

/* ---- All of them ---- */

static void nothing(void *arg)
{
    (void)arg;
}

/* Starts them all, so that what the bare host takes for that is taken before leaks are counted. */
static bool start_hosts(unsigned wanted, bool fewer)
{
    crew_hosts = bare_cpu_count() < wanted && fewer ? bare_cpu_count() : wanted;
    for (unsigned i = 1; i < crew_hosts; i++) {
        if (!CHECK(bare_cpu_run(i, nothing, NULL)))
            return false;
        bare_cpu_wait(i);
    }
    return true;
}

static void make_seat(unsigned i, void (*guest)(uint64_t number))
{
    struct virtx_lapic_config config = {.size = sizeof(config),
                                        .address_bits = 40,
                                        .bsp = i == 0,
                                        .bus_multiply = 1,
                                        .bus_divide = 1};
    struct crew_seat *seat = &crew_seats[i];

    memset(seat, 0, sizeof(*seat));
    seat->vcpu = i == 0 ? machine.vcpu : vcpu_make(machine.vm, i);
    seat->number = i;
    seat->home = i % crew_hosts;
    virtx_vcpu_set_user(seat->vcpu, seat);
    if (!crew_without_lapics) {
        CHECK_OK(virtx_lapic_attach(&seat->lapic, &config, seat->vcpu));
        CHECK(virtx_apic_bus_add_lapic(&crew_bus, &seat->lapic));
    }
    vcpu_prepare(seat->vcpu, i, guest, i);
}

bool crew_open(unsigned vcpus, unsigned hosts, bool fewer, void (*guest)(uint64_t number))
{
    if (!start_hosts(hosts, fewer))
        return false;
    crew_vcpus = vcpus;
    harness_no_watchdog = true;
    bare_timer_stop();
    ops = bare_virtx_ops;
    ops.wake = wake;
    harness_ops = &ops;
    machine_open();
    guest_may_repeat = engine_is("qemu");
    guest_repeats = 0;
    virtx_apic_bus_init(&crew_bus, lapics, GUEST_CPUS);
    for (unsigned i = 0; i < vcpus; i++)
        make_seat(i, guest);
    bare_handler_set(CREW_VECTOR_WAKE, on_wake, NULL);
    return true;
}

static void on_tick(struct bare_frame *frame, void *ctx)
{
    (void)frame;
    (void)ctx;
    bare_eoi();
    if (running)
        crew_tick();
}

static uint32_t tick_length(void)
{
    uint64_t by_time = bare_timer_hz() / 1000 * CREW_TICK_US / 1000 + 1;
    uint64_t by_cycles = bare_timer_hz() / (bare_tsc_hz() / TICK_CYCLES + 1) + 1;

    return (uint32_t)(by_time > by_cycles ? by_time : by_cycles);
}

void crew_run(void)
{
    if (crew_tick != NULL) {
        running = true;
        bare_handler_set(CREW_VECTOR_TICK, on_tick, NULL);
        bare_timer_start(CREW_VECTOR_TICK, tick_length(), true);
    }
    for (unsigned i = 1; i < crew_hosts; i++)
        CHECK(bare_cpu_run(i, host_loop, (void *)(uintptr_t)i));
    host_loop(NULL);
    bare_irq_enable(); /* the devices stay alive while others finish */
    for (unsigned i = 1; i < crew_hosts; i++)
        bare_cpu_wait(i);
    bare_irq_disable();
    running = false;
    if (crew_tick != NULL)
        bare_timer_stop();
}

void crew_close(void)
{
    if (guest_repeats != 0)
        bare_printf("  as known: QEMU has delivered %lu injected interrupts twice\n",
                    guest_repeats);
    guest_may_repeat = false;
    for (unsigned i = 0; i < crew_vcpus; i++) {
        CHECK(!crew_seats[i].failed);
        CHECK_EQUAL(crew_seats[i].result, 0);
        if (!crew_without_lapics)
            virtx_lapic_detach(&crew_seats[i].lapic);
        virtx_vcpu_set_user(crew_seats[i].vcpu, NULL);
        if (i != 0)
            CHECK_OK(virtx_vcpu_destroy(crew_seats[i].vcpu));
    }
    crew_without_lapics = false;
    crew_exit = NULL;
    crew_tick = NULL;
    machine_close();
}
