/* SPDX-License-Identifier: BSD-2-Clause */
/* Many vcpus: what the task priority holds back, and that CR8 costs no exits. */
#include "many.h"

/* ---- Task priority ---- */

enum { HELD = 0x5a, HELD_CLASS = 5, CR8_WRITES = 200 };

/* The guest turns IF off and on where the engine sees no virtual interrupt before. */
static volatile bool nudge;

static void serve_held(uint64_t self)
{
    uint64_t to = next_of(self);

    if (mine[to].ready > mine[self].sent) {
        send_safely(to, ICR_FIXED | HELD);
        mine[self].sent++;
    }
}

static void wait_held(uint64_t self, uint64_t round)
{
    while (mine[before(self)].sent < round) {
        serve_held(self);
        give_way();
    }
}

static void guest_priorities(uint64_t self)
{
    volatile struct mine *m = &mine[self];
    uint64_t bad = 0;

    apic_write(REG_SVR, 0x1ff);
    for (uint64_t i = 0; i < 64; i++)
        bare_write_cr8(i & 15);
    for (uint64_t i = 1; i <= rounds; i++) {
        bare_write_cr8(15);
        bare_irq_enable();
        m->ready = i;
        wait_held(self, i);
        bare_out32(PORT_NOTE, 0);
        for (uint64_t j = 0; j < CR8_WRITES; j++)
            bare_write_cr8(j % 2 ? 15 : HELD_CLASS); /* above, and at the priority */
        bare_out32(PORT_NOTE, 1);
        bad += m->got[HELD] != i - 1;
        bare_write_cr8(HELD_CLASS - 1);
        if (nudge) {
            bare_irq_disable();
            bare_irq_enable();
            bare_pause();
        }
        bad += (m->got[HELD] != i) << 16;
        bare_irq_disable();
    }
    bare_write_cr8(0);
    while (m->sent < rounds) {
        serve_held(self);
        give_way();
    }
    guest_done(bad);
}

/* All exits but those that the host's interrupts and its kicks cause, between two notes. The first
 * round meets the pages. */
static bool serve_notes(struct crew_seat *seat, const struct virtx_exit *exit)
{
    volatile struct mine *m = &mine[seat->number];
    struct virtx_stats stats;
    uint64_t sum = 0;

    if (!at_port(exit, PORT_NOTE))
        return false;
    virtx_vcpu_stats(seat->vcpu, &stats);
    for (unsigned i = 0; i < 32; i++)
        sum += i == VIRTX_EXIT_INTERRUPT || i == VIRTX_EXIT_KICK ? 0 : stats.exits[i];
    if (exit->io.value == 0)
        m->noted = sum;
    else if (m->ready > 1)
        m->exits += sum - m->noted - 1; /* the second note is one itself */
    return complete(seat);
}

static void hold_back(unsigned vcpus, unsigned hosts)
{
    rounds = 30;
    if (!begin(vcpus, hosts, guest_priorities))
        return;
    guest_handler[HELD] = note_and_end;
    crew_exit = serve_notes;
    crew_run();
    for (unsigned i = 0; i < vcpus; i++) {
        CHECK_EQUAL(mine[i].got[HELD], rounds);
        if (has_feature(VIRTX_FEATURE_TPR_SHADOW) &&
            (backend_is("vmx") || has_feature(VIRTX_FEATURE_VIRTUAL_PRIORITY)))
            CHECK(mine[i].exits <= rounds);
        else if (backend_is("vmx"))
            CHECK(mine[i].exits >= (rounds - 1) * CR8_WRITES); /* the count counts */
    }
    end();
}

void task_priorities(void)
{
    nudge = stays();
    if (nudge)
        bare_printf(
            "not shown: task-priorities: delivery at the write of CR8: Bochs' VMRUN with IF = 1 "
            "leaves virtual interrupts masked until IF changes\n");
    with_each(hold_back);
}
