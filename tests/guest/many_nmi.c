/* SPDX-License-Identifier: BSD-2-Clause */
/* Many vcpus: NMIs are blocked until IRET, and one is remembered. */
#include "many.h"

/* ---- NMIs: blocked until IRET; one is remembered ---- */

static void on_nmi(struct bare_frame *frame)
{
    extern const char guest_iret[];
    volatile struct mine *m = seat_of(frame);

    m->got[2]++;
    m->depth++;
    if (m->depth > m->deepest)
        m->deepest = m->depth;
    if (frame->rip == (uintptr_t)guest_iret)
        m->misplaced++;
    if (m->got[2] % 2) {
        m->in_nmi++;
        while (mine[before((uint64_t)(m - mine))].sent < m->in_nmi)
            give_way();
        for (unsigned i = 0; i < 20; i++)
            give_way();
    }
    m->depth--;
}

/* One that is taken, and two while its handler runs: one is latched, the other is lost. */
static void send_nmis(uint64_t to, volatile struct mine *m)
{
    send(to, ICR_NMI | ICR_FIXED);
    while (mine[to].in_nmi == m->sent)
        give_way();
    send(to, ICR_NMI | ICR_FIXED);
    send(to, ICR_NMI | ICR_FIXED);
    m->sent++;
}

/* In each round every other vcpu sends to its neighbour. */
static void guest_nmis(uint64_t self)
{
    volatile struct mine *m = &mine[self];
    uint64_t bad = 0, wanted = 0;

    apic_write(REG_SVR, 0x1ff);
    for (uint64_t i = 1; i <= rounds; i++) {
        meet(2 * i - 1);
        if ((i + self) % 2) {
            send_nmis(next_of(self), m);
        } else {
            wanted += 2;
            while (m->got[2] < wanted)
                give_way();
        }
        meet(2 * i);
        bad += m->got[2] != wanted;
    }
    guest_done(bad + (m->deepest != 1));
}

static void nest_nmis(unsigned vcpus, unsigned hosts)
{
    rounds = 40; /* half of them each */
    if (!begin(vcpus, hosts, guest_nmis))
        return;
    guest_handler[2] = on_nmi;
    crew_run();
    CHECK_EQUAL(misplaced(), 0); /* only after IRET, not at it */
    for (unsigned i = 0; i < vcpus; i++)
        CHECK_EQUAL(mine[i].got[2], rounds);
    end();
}

void nmis_block_until_iret(void)
{
    with_each(nest_nmis);
}

/* ---- Whose blocking it is ---- */

enum { ASK_FOR_NMI, BLOCKED, FREE };
static unsigned
    handlers; /* so many vcpus stay in their NMI handlers, the others take turns there */

static void on_long_nmi(struct bare_frame *frame)
{
    volatile struct mine *m = seat_of(frame);
    uint64_t others = 0;

    m->in_nmi = 1;
    if ((uint64_t)(m - mine) >= handlers) /* a short one, before the others' */
        return;
    while (others < crew_vcpus - handlers) {
        bare_out32(PORT_BELL, BLOCKED);
        others = 0;
        for (unsigned i = handlers; i < crew_vcpus; i++)
            others += mine[i].ready;
    }
}

static void guest_blocks(uint64_t self)
{
    uint64_t inside = 0;

    if (self >= handlers)
        bare_out32(PORT_BELL, ASK_FOR_NMI);
    meet(1);
    if (self < handlers) {
        bare_out32(PORT_BELL, ASK_FOR_NMI);
        bare_out32(PORT_BELL, FREE);
    } else {
        while (inside < handlers) {
            give_way();
            inside = 0;
            for (unsigned i = 0; i < handlers; i++)
                inside += mine[i].in_nmi;
        }
        for (uint64_t i = 0; i < rounds; i++)
            bare_out32(PORT_BELL, FREE);
        mine[self].ready = 1;
    }
    guest_done(0);
}

static bool serve_blocks(struct crew_seat *seat, const struct virtx_exit *exit)
{
    volatile struct mine *m = &mine[seat->number];
    struct virtx_state state;
    uint64_t wanted;

    if (!at_port(exit, PORT_BELL))
        return false;
    wanted = exit->io.value;
    complete(seat);
    seat->failed |= virtx_vcpu_get(seat->vcpu, VIRTX_STATE_INTR, &state) != VIRTX_OK;
    if (wanted == ASK_FOR_NMI)
        virtx_vcpu_nmi(seat->vcpu);
    else if (wanted == BLOCKED)
        m->noted += !(state.interruptibility & VIRTX_BLOCKED_BY_NMI);
    else
        m->exits += state.interruptibility & VIRTX_BLOCKED_BY_NMI ? 1 : 0;
    return true;
}

static void keep_apart(unsigned vcpus, unsigned hosts)
{
    uint64_t leaked = 0;

    rounds = 50;
    handlers = vcpus / 2;
    if (!begin(vcpus, hosts, guest_blocks))
        return;
    guest_handler[2] = on_long_nmi;
    crew_exit = serve_blocks;
    crew_run();
    for (unsigned i = 0; i < vcpus; i++) {
        CHECK_EQUAL(mine[i].noted, 0); /* in the handler it is blocked, whoever ran in between */
        leaked += mine[i].exits;
    }
    CHECK_EQUAL(leaked, 0);
    end();
}

void nmi_blocking_is_each_vcpus_own(void)
{
    with_each(keep_apart);
}
