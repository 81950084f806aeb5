/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The embedder's loop, once on each of the host's processors: run a guest processor, serve its
 * exit, sleep while all of them halt.
 *
 * A host processor runs the guest processors whose number is its own modulo the host's count, in
 * turns if there are several. Processor 0 also lets the board's time pass. What the processors
 * share is the board, behind a lock, and how the guest ended.
 */
#include "bare.h"
#include "cpus.h"
#include "muldiv.h"

enum {
    VECTOR_TIMER = 0x40,
    VECTOR_WAKE = 0x41,
    INPUT_POLL_HZ = 100,   /* how often a busy guest's console input is looked for */
    IDLE_POLL_HZ = 1000,   /* … and an idle guest's */
    DRAIN_POLL_HZ = 10000, /* … and while the guest's output waits for the line */
    SLICE_HZ = 1000,       /* turns of guest processors that share one */
};

struct guest_cpu {
    struct virtx_vcpu *vcpu;
    uint32_t host; /* which processor runs it */
    bool halted;
    bool parked; /* halted with interrupts off, or waiting for a start-up IPI */
};

struct host_cpu {
    uint32_t index;
    uint32_t turn;  /* the guest processor that ran last */
    uint64_t armed; /* TSC for which the timer is set; 0: it has fired */
    struct guest_cpu *current;
};

static struct guest_cpu guests[BOARD_CPUS];
static struct host_cpu hosts[BOARD_CPUS];
static uint32_t guest_count, host_count;
static struct board *the_board;
static struct virtx *the_library;
static bool amd_counters; /* the guest's processor is AMD's */

static struct bare_lock end_lock;
static struct cpus_end the_end;
static bool ended; /* atomic */

/* ---- Interrupts ---- */

static struct host_cpu *this_host(void)
{
    return &hosts[bare_this_cpu()];
}

static void on_timer(struct bare_frame *frame, void *ctx)
{
    struct host_cpu *host = this_host();

    (void)frame;
    (void)ctx;
    bare_eoi();
    host->armed = 0;
    if (host->current)
        virtx_vcpu_kick(host->current->vcpu);
}

/* All it has to do is to end a sleep. */
static void on_wake(struct bare_frame *frame, void *ctx)
{
    (void)frame;
    (void)ctx;
    bare_eoi();
}

void cpus_wake(void *ctx, struct virtx_vcpu *vcpu)
{
    const struct guest_cpu *guest = virtx_vcpu_user(vcpu);

    (void)ctx;
    if (guest && guest->host != bare_this_cpu())
        bare_ipi(guest->host, VECTOR_WAKE);
}

/* ---- The end ---- */

static bool is_over(void)
{
    return __atomic_load_n(&ended, __ATOMIC_ACQUIRE);
}

/* The first to say so decides; the others hear of it. */
static void end(const struct cpus_end *how)
{
    bare_lock(&end_lock);
    if (!is_over()) {
        the_end = *how;
        __atomic_store_n(&ended, true, __ATOMIC_RELEASE);
    }
    bare_unlock(&end_lock);
    for (uint32_t i = 0; i < guest_count; i++)
        virtx_vcpu_kick(guests[i].vcpu);
    for (uint32_t i = 0; i < host_count; i++)
        if (i != bare_this_cpu())
            bare_ipi(i, VECTOR_WAKE);
}

static void end_simply(const char *outcome, uint64_t value)
{
    end(&(struct cpus_end){.outcome = outcome, .value = value});
}

static void end_with_exit(const char *outcome, struct virtx_vcpu *vcpu,
                          const struct virtx_exit *exit)
{
    struct cpus_end how = {.outcome = outcome};
    struct virtx_state state = {0};

    virtx_vcpu_get(vcpu, VIRTX_STATE_ALL, &state);
    bare_snprintf(how.why, sizeof(how.why),
                  "exit %s (raw %lx %lx %lx) of processor %u at rip %lx cr0 %lx cr3 %lx",
                  virtx_exit_name(exit->reason), exit->raw.code, exit->raw.qualification,
                  exit->raw.address, virtx_vcpu_id(vcpu), state.rip, state.cr0, state.cr3);
    end(&how);
}

/* ---- Time ---- */

static bool is_mine(const struct host_cpu *host, uint32_t guest)
{
    return guests[guest].host == host->index;
}

/* TSC at which this processor has something to do for the guest. */
static uint64_t next_deadline(const struct host_cpu *host)
{
    uint64_t next = host->index == 0 ? board_deadline(the_board) : UINT64_MAX;

    for (uint32_t i = 0; i < guest_count; i++) {
        uint64_t deadline = virtx_lapic_deadline(&the_board->lapic[i]);
        if (is_mine(host, i) && deadline < next)
            next = deadline;
    }
    return next;
}

/* Unless it is set for sooner already. */
static void arm_timer_for(struct host_cpu *host, uint64_t deadline)
{
    uint64_t now = bare_tsc(), ticks;

    if (deadline == UINT64_MAX || (host->armed > now && host->armed <= deadline))
        return;
    host->armed = deadline;
    ticks = deadline > now ? muldiv(deadline - now, bare_timer_hz(), the_board->tsc_hz) : 0;
    bare_timer_start(VECTOR_TIMER, ticks < UINT32_MAX ? (uint32_t)(ticks + 1) : UINT32_MAX, false);
}

/* Sets the timer for the next deadline, or sooner: `hz` times a second, unless that is 0. */
static void arm_timer(struct host_cpu *host, unsigned hz)
{
    uint64_t deadline = next_deadline(host), poll = hz ? bare_tsc() + the_board->tsc_hz / hz : 0;

    arm_timer_for(host, poll && poll < deadline ? poll : deadline);
}

void cpus_timer(void *ctx, struct virtx_vcpu *vcpu, uint64_t tsc)
{
    (void)ctx;
    (void)vcpu;
    arm_timer_for(this_host(), tsc);
}

static void let_time_pass(const struct host_cpu *host)
{
    uint64_t now = bare_tsc();

    for (uint32_t i = 0; i < guest_count; i++)
        if (is_mine(host, i) && virtx_lapic_deadline(&the_board->lapic[i]) <= now)
            virtx_lapic_advance(&the_board->lapic[i], now);
    if (host->index == 0) {
        bare_lock(&the_board->lock);
        board_poll(the_board);
        bare_unlock(&the_board->lock);
    }
}

/* ---- Sleep ---- */

static bool exchange_begun;       /* some processor wants the others out of run */
static uint32_t exchange_stopped; /* how many are, and stay so */

static bool is_parked(struct virtx_vcpu *vcpu)
{
    struct virtx_state state;

    if (virtx_vcpu_get(vcpu, VIRTX_STATE_RFLAGS | VIRTX_STATE_INTR, &state))
        return false;
    return state.activity == VIRTX_WAIT_FOR_SIPI || !(state.rflags & 0x200);
}

static bool is_runnable(struct guest_cpu *guest)
{
    if (guest->halted && virtx_vcpu_wakeable(guest->vcpu)) {
        guest->halted = false;
        __atomic_store_n(&guest->parked, false, __ATOMIC_RELEASE);
    }
    return !guest->halted;
}

/* Nobody is left who could wake anybody. */
static bool all_parked(void)
{
    for (uint32_t i = 0; i < guest_count; i++)
        if (!__atomic_load_n(&guests[i].parked, __ATOMIC_ACQUIRE))
            return false;
    return true;
}

/* The guest processor whose turn it is; NULL: they all halt. */
static struct guest_cpu *choose(struct host_cpu *host, bool *alone)
{
    struct guest_cpu *chosen = NULL;

    *alone = true;
    for (uint32_t n = 1; n <= guest_count; n++) {
        uint32_t i = (host->turn + n) % guest_count;

        if (!is_mine(host, i) || !is_runnable(&guests[i]))
            continue;
        if (chosen) {
            *alone = false;
            break;
        }
        chosen = &guests[i];
    }
    if (chosen)
        host->turn = (uint32_t)(chosen - guests);
    return chosen;
}

static void sleep(struct host_cpu *host)
{
    bool alone;
    unsigned hz = host->index != 0                ? 0
                  : the_board->console_count != 0 ? DRAIN_POLL_HZ
                                                  : IDLE_POLL_HZ;

    bare_irq_disable(); /* so that what wakes cannot come between the look and the sleep */
    if (!is_over() && !__atomic_load_n(&exchange_begun, __ATOMIC_ACQUIRE) &&
        !choose(host, &alone)) {
        arm_timer(host, hz);
        bare_irq_wait();
    }
    bare_irq_enable();
}

/* ---- The loop ---- */

static void give_fault(struct virtx_vcpu *vcpu, uint8_t vector)
{
    struct virtx_event event = {.type = VIRTX_EVENT_EXCEPTION, .vector = vector, .has_error = true};
    virtx_vcpu_fault(vcpu, &event);
}

/* The first four performance counters of AMD's processors are always there, and nothing in CPUID
 * says so (AMD APM, "Core Performance-Monitoring Counter Registers"): they are switched off here
 * and stay so. */
static void serve_msr(struct virtx_vcpu *vcpu, const struct virtx_exit_msr *msr)
{
    enum { PERF_SELECT_0 = 0xc0010000, PERF_COUNTER_3 = 0xc0010007 };
    static const uint64_t zero = 0;

    if (amd_counters && msr->index >= PERF_SELECT_0 && msr->index <= PERF_COUNTER_3 &&
        (msr->access == VIRTX_READ || !msr->value))
        virtx_vcpu_complete(vcpu, &zero);
    else
        give_fault(vcpu, 13);
}

/* Ports, and memory where nothing is, which reads as all ones. String instructions between the two
 * go on with further accesses. */
static void serve_access(const struct host_cpu *host, struct virtx_vcpu *vcpu,
                         const struct virtx_exit *exit)
{
    bool sooner = false;

    do {
        uint64_t before;

        if (exit->reason != VIRTX_EXIT_IO)
            continue;
        bare_lock(&the_board->lock);
        before = board_deadline(the_board);
        board_io(the_board, &exit->io, exit->io.data);
        sooner |= board_deadline(the_board) < before;
        bare_unlock(&the_board->lock);
    } while (virtx_vcpu_complete(vcpu, NULL) == VIRTX_AGAIN);
    if (sooner && host->index != 0)
        bare_ipi(0, VECTOR_TIMER); /* whose timer knows nothing of it */
    switch (the_board->end) {
    case BOARD_RUNNING:
        return;
    case BOARD_POWERED_OFF:
        end_simply("powered-off", 0);
        return;
    case BOARD_DEBUG_EXIT:
        end_simply("debug-exit", the_board->exit_value);
        return;
    case BOARD_ERROR:
        end_simply("error", 0);
        return;
    case BOARD_RESET:
        end_simply("reset", 0);
        return;
    }
}

static void serve(const struct host_cpu *host, struct guest_cpu *guest,
                  const struct virtx_exit *exit)
{
    switch (exit->reason) {
    case VIRTX_EXIT_IO:
    case VIRTX_EXIT_MMIO:
        serve_access(host, guest->vcpu, exit);
        break;
    case VIRTX_EXIT_MSR:
        serve_msr(guest->vcpu, &exit->msr);
        break;
    case VIRTX_EXIT_KICK:
    case VIRTX_EXIT_INTERRUPT:
        break;
    case VIRTX_EXIT_HLT:
        guest->halted = true;
        __atomic_store_n(&guest->parked, is_parked(guest->vcpu), __ATOMIC_RELEASE);
        if (guest->parked && !is_runnable(guest) && all_parked())
            end_with_exit("halted", guest->vcpu, exit);
        break;
    case VIRTX_EXIT_SHUTDOWN:
        end_with_exit("triple-fault", guest->vcpu, exit);
        break;
    default:
        end_with_exit("stuck", guest->vcpu, exit);
        break;
    }
}

/* ---- Exchange of the paging engine ---- */

static struct virtx_vm *exchange_vm;
static uint64_t exchange_every, exchange_returns, exchange_count;

void cpus_exchange(struct virtx_vm *vm, uint64_t every)
{
    exchange_vm = vm;
    exchange_every = every;
}

uint64_t cpus_exchanges(void)
{
    return exchange_count;
}

/* Another processor exchanges the engine: wait until it has done so. */
static void stand_aside(void)
{
    if (!__atomic_load_n(&exchange_begun, __ATOMIC_ACQUIRE))
        return;
    __atomic_fetch_add(&exchange_stopped, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&exchange_begun, __ATOMIC_ACQUIRE) && !is_over())
        __builtin_ia32_pause();
    __atomic_fetch_sub(&exchange_stopped, 1, __ATOMIC_SEQ_CST);
}

/* False: it is another's turn to exchange, or the machine ends. */
static bool stop_others(void)
{
    /* Whoever stood aside last time may not have gone on yet. */
    if (__atomic_load_n(&exchange_stopped, __ATOMIC_ACQUIRE) ||
        __atomic_exchange_n(&exchange_begun, true, __ATOMIC_SEQ_CST))
        return false;
    for (uint32_t i = 0; i < guest_count; i++)
        virtx_vcpu_kick(guests[i].vcpu);
    for (uint32_t i = 0; i < host_count; i++)
        if (i != bare_this_cpu())
            bare_ipi(i, VECTOR_WAKE);
    while (__atomic_load_n(&exchange_stopped, __ATOMIC_ACQUIRE) < host_count - 1)
        if (is_over())
            return false;
    return true;
}

/* No vcpu may be in run. */
static void exchange(void)
{
    const struct virtx_paging *now = virtx_vm_paging(exchange_vm);
    const struct virtx_paging *next =
        now == &virtx_paging_nested ? &virtx_paging_shadow : &virtx_paging_nested;

    if (!stop_others())
        return;
    __atomic_store_n(&exchange_returns, 0, __ATOMIC_RELAXED);
    if (virtx_vm_set_paging(exchange_vm, next))
        end(&(struct cpus_end){.outcome = "virtx_vm_set_paging",
                               .error = virtx_vm_last_error(exchange_vm)});
    else
        exchange_count++;
    __atomic_store_n(&exchange_begun, false, __ATOMIC_RELEASE);
}

static void run_one(struct host_cpu *host, struct guest_cpu *guest, unsigned hz)
{
    const struct virtx_exit *exit;
    enum virtx_status status;

    host->current = guest; /* before the timer, which may fire at once and must find whom to kick */
    arm_timer(host, hz);
    status = virtx_vcpu_run(guest->vcpu, &exit);
    host->current = NULL;
    if (status == VIRTX_OK)
        serve(host, guest, exit);
    else
        end(&(struct cpus_end){.outcome = "run", .error = virtx_vcpu_last_error(guest->vcpu)});
    if (exchange_every &&
        __atomic_add_fetch(&exchange_returns, 1, __ATOMIC_RELAXED) >= exchange_every)
        exchange();
}

static void loop(void *arg)
{
    struct host_cpu *host = arg;
    enum virtx_status status = virtx_cpu_enable(the_library);

    if (status)
        end(&(struct cpus_end){.outcome = "virtx_cpu_enable",
                               .error = virtx_last_error(the_library)});
    bare_irq_enable();
    while (!is_over()) {
        struct guest_cpu *guest;
        bool alone;

        stand_aside();
        guest = choose(host, &alone);
        if (guest) {
            run_one(host, guest, !alone ? SLICE_HZ : host->index == 0 ? INPUT_POLL_HZ : 0);
        } else {
            sleep(host);
        }
        if (host->armed == 0 || bare_tsc() >= host->armed)
            let_time_pass(host);
    }
    bare_timer_stop();
    for (uint32_t i = 0; i < guest_count; i++)
        if (is_mine(host, i))
            virtx_vcpu_put(guests[i].vcpu);
    bare_irq_disable();
}

static enum virtx_status wait_for_sipi(struct virtx_vcpu *vcpu)
{
    struct virtx_state state;
    enum virtx_status status = virtx_vcpu_get(vcpu, VIRTX_STATE_INTR, &state);

    state.activity = VIRTX_WAIT_FOR_SIPI;
    return status ? status : virtx_vcpu_set(vcpu, VIRTX_STATE_INTR, &state);
}

enum virtx_status cpus_add(struct board *board, struct virtx_vcpu *vcpu)
{
    struct guest_cpu *guest = &guests[guest_count];
    enum virtx_status status = board_add_cpu(board, vcpu);

    if (status)
        return status;
    *guest = (struct guest_cpu){.vcpu = vcpu, .host = guest_count % bare_cpu_count()};
    virtx_vcpu_set_user(vcpu, guest);
    guest_count++;
    return guest == &guests[0] ? VIRTX_OK : wait_for_sipi(vcpu);
}

enum virtx_status cpus_reset(void)
{
    enum virtx_status status = VIRTX_OK;

    for (uint32_t i = 0; !status && i < guest_count; i++) {
        guests[i].halted = guests[i].parked = false;
        status = virtx_vcpu_reset(guests[i].vcpu, VIRTX_PRESET_RESET);
        if (!status && i)
            status = wait_for_sipi(guests[i].vcpu);
    }
    __atomic_store_n(&ended, false, __ATOMIC_RELEASE);
    return status;
}

struct cpus_end cpus_run(struct virtx *virtx, struct board *board)
{
    struct virtx_cpuid_entry vendor = {0};

    the_library = virtx;
    the_board = board;
    virtx_vm_cpuid_get(virtx_vcpu_vm(guests[0].vcpu), 0, 0, &vendor);
    amd_counters = vendor.ecx == 0x444d4163; /* the end of "AuthenticAMD" */
    bare_handler_set(VECTOR_TIMER, on_timer, NULL);
    bare_handler_set(VECTOR_WAKE, on_wake, NULL);
    bare_timer_hz(); /* measured before it is needed on several processors at once */
    host_count = guest_count < bare_cpu_count() ? guest_count : bare_cpu_count();
    for (uint32_t i = 0; i < host_count; i++)
        hosts[i] = (struct host_cpu){.index = i, .turn = guest_count - 1};
    for (uint32_t i = 1; i < host_count; i++)
        if (!bare_cpu_run(i, loop, &hosts[i]))
            end_simply("error", 0);
    loop(&hosts[0]);
    for (uint32_t i = 1; i < host_count; i++)
        bare_cpu_wait(i);
    return the_end;
}
