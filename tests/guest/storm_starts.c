/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A storm of starts: one vcpu sends INIT and a start-up IPI to another over and over, wherever that
 * one is (spinning, halted, in 64-bit mode at first), while the remaining ones exchange IPIs and
 * send some to it, too. Each start is one start, and no other IPI is lost.
 *
 * Words of the command line: starts=N.
 */
#include "crew.h"
#include "guest_lapic.h"
#include "storm.h"

enum {
    ICR_INIT = 0x4500,
    ICR_SIPI = 0x4600,
    PING = 0x40, /* and the sender's number */
    PONG = 0x50,
    NOISE = 0x58,
    PAGE = 4096,
    START = 0x70000,     /* the code of the one that is started, in real mode */
    LAST = START + PAGE, /* … for the last time: it says that it is done */
    COUNTER = START + 2 * PAGE,
    PATIENCE = 20000, /* ticks without progress */
};

static _Alignas(PAGE) uint8_t low[3 * PAGE];
static volatile uint64_t pings[GUEST_CPUS], pongs[GUEST_CPUS], strange, starts, wanted;
static volatile uint64_t ready;
static volatile bool over;

/* ---- The guest ---- */

static void send(unsigned to, unsigned command)
{
    uint64_t flags = bare_irq_save(); /* the two halves of the ICR belong together */

    apic_write(REG_ICR_HIGH, to << 24);
    apic_write(REG_ICR, command);
    bare_irq_restore(flags);
}

static void on_ping(struct bare_frame *frame)
{
    unsigned from = (frame->vector & 0xff) - PING;

    apic_write(REG_EOI, 0);
    send(from, PONG + crew_me(frame));
}

static void on_pong(struct bare_frame *frame)
{
    unsigned self = crew_me(frame);

    pongs[self] = pongs[self] + 1;
    apic_write(REG_EOI, 0);
}

static void on_strange(struct bare_frame *frame)
{
    (void)frame;
    strange = strange + 1;
}

static void give_way(void)
{
    __asm__ volatile("outl %0, %1" : : "a"(0), "d"((uint16_t)PORT_MARK) : "memory");
}

/* How often the code at START has run, modulo 2^16: by the guest's address, or the host's. */
static uint16_t counted(const volatile void *counter)
{
    return *(const volatile uint16_t *)counter;
}

static void start_over_and_over(unsigned victim)
{
    const volatile void *counter = (const volatile void *)(uintptr_t)COUNTER;

    for (uint64_t i = 1; i <= wanted; i++) {
        send(victim, ICR_INIT);
        send(victim, ICR_SIPI | START / PAGE);
        send(victim, ICR_SIPI | START / PAGE); /* as software does; it waits for none any more */
        while (counted(counter) == (uint16_t)(i - 1))
            give_way();
        strange = strange + (counted(counter) != (uint16_t)i);
        starts = i;
    }
    over = true;
    send(victim, ICR_INIT);
    send(victim, ICR_SIPI | LAST / PAGE);
}

static void guest_of_starts(uint64_t self)
{
    unsigned victim = crew_vcpus - 1, partner = 3 - (unsigned)self;

    if (self == victim) {
        for (;;)
            __asm__ volatile("hlt");
    }
    apic_write(REG_SVR, 0x1ff);
    __atomic_add_fetch(&ready, 1, __ATOMIC_SEQ_CST);
    while (ready < crew_vcpus - 1) /* what comes earlier is not accepted */
        give_way();
    bare_irq_enable();
    if (self == 0) {
        start_over_and_over(victim);
    } else {
        while (!over) {
            pings[self] = pings[self] + 1;
            send(partner, PING + (unsigned)self);
            send(victim, NOISE);
            while (pongs[self] < pings[self] && !over)
                give_way();
        }
    }
    for (unsigned i = 0; i < 1000; i++) /* what is still under way comes */
        give_way();
    bare_irq_disable();
    guest_done(strange + (self != 0 && pongs[self] != pings[self]));
}

/* ---- The host ---- */

static volatile uint64_t ticks, tick_of_progress, progress;

/* Kicks at random: in turns a vcpu that spins is ended by its kick alone, and who has been kicked
 * before its turn comes has none. */
static void on_tick(void)
{
    static uint32_t random;

    ticks = ticks + 1;
    random = random * 1664525 + 1013904223;
    if (ticks % 8 == 0)
        virtx_vcpu_kick(crew_seats[(random >> 20) % crew_vcpus].vcpu);
    if (starts != progress || over) {
        progress = starts;
        tick_of_progress = ticks;
    } else if (ticks - tick_of_progress > PATIENCE) {
        bare_printf("%lu starts of %lu, counted %u\n", starts, wanted,
                    counted(low + COUNTER - START));
        crew_give_up("the starts have come to a standstill");
    }
}

static void write_code(void)
{
    static const uint8_t code[] = {
        0xfb,                         /* STI: Bochs lets IF hold off the host's interrupts */
        0x8c, 0xc8,                   /* MOV AX, CS */
        0x8e, 0xd8,                   /* MOV DS, AX */
        0xff, 0x06, 0x00, 0x20,       /* INC WORD [2000H] */
        0xf6, 0x06, 0x00, 0x20, 0x01, /* TEST BYTE [2000H], 1 */
        0x74, 0x01,                   /* JZ over the next */
        0xf4,                         /* HLT */
        0xeb, 0xfe,                   /* JMP to itself */
    };
    static const uint8_t last[] = {
        0xba,           PORT_DONE & 0xff,
        PORT_DONE >> 8, /* MOV DX, PORT_DONE */
        0x66,           0x31,
        0xc0,                 /* XOR EAX, EAX */
        0x66,           0xef, /* OUT DX, EAX */
        0xeb,           0xfe,
    };

    memset(low, 0, sizeof(low));
    memcpy(low, code, sizeof(code));
    memcpy(low + PAGE, last, sizeof(last));
}

static void storm_of_starts(unsigned guests, unsigned processors)
{
    memset((void *)(uintptr_t)pings, 0, sizeof(pings));
    memset((void *)(uintptr_t)pongs, 0, sizeof(pongs));
    strange = starts = ready = ticks = tick_of_progress = progress = 0;
    over = false;
    wanted = bare_option_u64("starts", 200);
    if (!crew_open(guests, processors, true, guest_of_starts))
        return;
    write_code();
    slot_make(machine.vm, START, low, sizeof(low), ALL_RIGHTS, 0);
    for (unsigned i = 32; i < 256; i++)
        guest_handler[i] = on_strange;
    for (unsigned i = 0; i < guests; i++) {
        guest_handler[PING + i] = on_ping;
        guest_handler[PONG + i] = on_pong;
    }
    crew_tick = on_tick;
    crew_run();
    CHECK_EQUAL(starts, wanted);
    CHECK_EQUAL(counted(low + COUNTER - START), (uint16_t)wanted);
    CHECK(pongs[1] > 0 && pongs[2] > 0);
    bare_printf("%lu starts, %lu and %lu pings meanwhile\n", starts, pings[1], pings[2]);
    crew_close();
}

void storm_starts(void)
{
    storm_of_starts(4, 4);
}

void storm_starts_in_turns(void)
{
    storm_of_starts(4, 1);
}
