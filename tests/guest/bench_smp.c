/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What an IPI to a vcpu on another processor of the host costs, from the write of the ICR to the
 * first instruction behind the handler's, seen by the sender: ticks of its TSC, which under Bochs
 * are instructions that each processor executes in that time. They differ by some from run to run.
 * Run with --cpus 2.
 */
#include "crew.h"
#include "guest_lapic.h"

enum {
    VECTOR = 0x50,
    COUNT = 1000,
};

static bool receiver_halts;
static volatile uint64_t got, over, ready, ticks;

static void on_ipi(struct bare_frame *frame)
{
    (void)frame;
    apic_write(REG_EOI, 0);
    got = got + 1;
}

static void receive(void)
{
    ready = 1;
    while (!over) {
        if (receiver_halts)
            __asm__ volatile("sti; hlt; cli" : : : "memory");
        else
            __asm__ volatile("sti; nop; nop; cli" : : : "memory");
    }
}

/* A halted receiver has had the time to fall asleep. */
static uint64_t send_one(uint64_t n)
{
    uint64_t start;

    if (receiver_halts) {
        for (volatile unsigned i = 0; i < 5000; i++)
            ;
    }
    start = bare_tsc();
    apic_write(REG_ICR, VECTOR);
    while (got < n)
        bare_pause();
    return bare_tsc() - start;
}

static void guest(uint64_t self)
{
    apic_write(REG_SVR, 0x1ff);
    if (self == 1) {
        receive();
        guest_done(0);
    }
    while (!ready)
        bare_pause();
    apic_write(REG_ICR_HIGH, 1 << 24);
    for (uint64_t n = 1; n <= 2 * COUNT; n++) {
        uint64_t taken = send_one(n);

        ticks = ticks + (n > COUNT ? taken : 0); /* the first half meets pages */
    }
    over = 1;
    apic_write(REG_ICR, VECTOR);
    guest_done(0);
}

static void row(const char *name, bool halts)
{
    receiver_halts = halts;
    got = over = ready = ticks = 0;
    if (!crew_open(2, 2, false, guest))
        return;
    guest_handler[VECTOR] = on_ipi;
    crew_run();
    crew_close();
    bare_printf("%-45s %6lu ticks\n", name, ticks / COUNT);
}

static void bench(void)
{
    row("IPI to a vcpu that runs on another processor", false);
    row("IPI to a vcpu that is halted on another one", true);
}

GUEST_CASES({"bench", bench});
