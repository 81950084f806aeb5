/* SPDX-License-Identifier: BSD-2-Clause */
/* Many vcpus: a thousand interrupts with IF at random. */
#include "many.h"

#define RFLAGS_IF 0x200ul

/* ---- A thousand interrupts with IF at random ---- */

/* The neighbour gets the next one when it has had the last. */
static void send_next(uint64_t self)
{
    uint64_t to = next_of(self);

    if (mine[self].sent < rounds && mine[to].got[VECTOR + self] == mine[self].sent) {
        mine[self].sent++;
        send_safely(to, ICR_FIXED | (uint32_t)(VECTOR + self));
    }
}

static void one_random_step(uint64_t self, uint64_t random)
{
    switch (random >> 28) {
    case 0 ... 3:
        bare_irq_disable();
        break;
    case 4 ... 7:
        bare_irq_enable();
        break;
    case 8:
        __asm__ volatile("sti; cli");
        break;
    case 9:
        __asm__ volatile("sti; nop; cli");
        break;
    case 10:
        bare_cpuid(0, 0);
        break;
    case 11:
        __asm__ volatile("pushfq; popfq" : : : "memory");
        break;
    case 12:
        bare_out32(PORT_BELL, 0);
        break;
    default:
        send_next(self);
    }
}

static void guest_random_if(uint64_t self)
{
    volatile struct mine *m = &mine[self];
    uint64_t from = VECTOR + before(self), bad = 0;
    uint32_t random = 12345 + (uint32_t)self;

    apic_write(REG_SVR, 0x1ff);
    meet(1); /* what comes earlier is not accepted */
    while (m->sent < rounds || m->got[from] < rounds || m->got[INJECTED] < rounds) {
        random = random * 1664525 + 1013904223;
        one_random_step(self, random);
        bad += m->got[from] > mine[before(self)].sent;
    }
    for (unsigned i = 0; i < 100; i++) /* one too many would come now */
        one_random_step(self, 0x5u << 28);
    bare_irq_disable();
    bad += m->got[from] != rounds;
    bad += m->got[INJECTED] != rounds;
    guest_done(bad);
}

/* Beside what the neighbours send, the host injects. */
static bool serve_random(struct crew_seat *seat, const struct virtx_exit *exit)
{
    volatile struct mine *m = &mine[seat->number];

    if (!at_port(exit, PORT_BELL))
        return false;
    if (m->accepted < rounds && inject(seat, VIRTX_EVENT_INTERRUPT, INJECTED, false, 0, 0))
        m->accepted++;
    return complete(seat);
}

/* No interrupt is taken with interrupts off. */
static void note_if(struct bare_frame *frame)
{
    seat_of(frame)->misplaced += (frame->rflags & RFLAGS_IF) == 0;
    note_and_end(frame);
}

static void note_injected_if(struct bare_frame *frame)
{
    seat_of(frame)->misplaced += (frame->rflags & RFLAGS_IF) == 0;
    note(frame);
}

static void thousand(unsigned vcpus, unsigned hosts)
{
    rounds = 1000 / (vcpus / 2);
    if (!begin(vcpus, hosts, guest_random_if))
        return;
    for (unsigned i = 0; i < vcpus; i++)
        guest_handler[VECTOR + i] = note_if;
    guest_handler[INJECTED] = note_injected_if;
    crew_exit = serve_random;
    crew_run();
    for (unsigned i = 0; i < vcpus; i++) {
        CHECK_EQUAL(mine[i].accepted, rounds);
        CHECK_EQUAL(mine[i].got[INJECTED], rounds);
        CHECK_EQUAL(mine[(i + 1) % vcpus].got[VECTOR + i], rounds);
    }
    CHECK_EQUAL(misplaced(), 0);
    end();
}

void thousand_interrupts(void)
{
    with_each(thousand);
}
