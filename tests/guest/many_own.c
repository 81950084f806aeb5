/* SPDX-License-Identifier: BSD-2-Clause */
/* Many vcpus: interrupts that are the guests' own. */
#include "many.h"

/* ---- Interrupts that are the guests' own ---- */

static uint32_t apic_ids[GUEST_CPUS];

/* Ticks of this processor's own timer, at work and halted, and interrupts from the neighbour's. */
static void guest_own(uint64_t self)
{
    volatile struct mine *m = &mine[self];
    uint64_t from = VECTOR + before(self);

    bare_irq_disable();
    /* The way to the handlers is mapped from here on. Bochs' SVM forgets the vector when a nested
     * fault interrupts the delivery of a physical interrupt. */
    __asm__ volatile("int %0" : : "i"(TIMER) : "memory");
    m->got[TIMER] = 0;
    meet(1);
    bare_out32(PORT_NOTE, 0);
    apic_write(REG_DIVIDE, 3);
    apic_write(REG_LVT_TIMER, LVT_PERIODIC | TIMER);
    apic_write(REG_INITIAL, 4000);
    bare_irq_enable();
    while (m->got[TIMER] < 20 || m->sent < rounds || m->got[from] < rounds) {
        uint64_t to = next_of(self);

        if (m->sent < rounds && mine[to].got[VECTOR + self] == m->sent) {
            m->sent++;
            send_safely(apic_ids[to], ICR_FIXED | (uint32_t)(VECTOR + self));
        }
        bare_pause();
    }
    for (unsigned i = 0; i < 40; i++) /* however many ticks have come: each waits for one more */
        __asm__ volatile("hlt");
    bare_irq_disable();
    apic_write(REG_LVT_TIMER, LVT_MASKED);
    bare_out32(PORT_NOTE, 1);
    guest_done(m->got[from] != rounds);
}

static void on_stray(struct bare_frame *frame, void *ctx)
{
    (void)frame;
    (void)ctx;
    bare_eoi();
}

static bool serve_own(struct crew_seat *seat, const struct virtx_exit *exit)
{
    volatile struct mine *m = &mine[seat->number];
    struct virtx_stats stats;

    if (!at_port(exit, PORT_NOTE))
        return false;
    virtx_vcpu_stats(seat->vcpu, &stats);
    if (exit->io.value == 0)
        m->noted = stats.entries;
    else
        m->exits = stats.entries - m->noted;
    return complete(seat);
}

static void own(unsigned vcpus, unsigned hosts)
{
    if (vcpus != hosts) /* a processor's interrupts are one guest's */
        return;
    rounds = 50;
    crew_without_lapics = harness_interrupts_to_guest = true;
    if (!begin(vcpus, hosts, guest_own))
        return;
    slot_make(machine.vm, APIC, (void *)(uintptr_t)APIC, 4096, ALL_RIGHTS, 0);
    for (unsigned i = 0; i < vcpus; i++) {
        guest_handler[VECTOR + i] = note_and_end;
        bare_handler_set(VECTOR + i, on_stray, NULL); /* a last one may still be waiting */
        apic_ids[i] = bare_cpu_apic_id(i);
    }
    guest_handler[TIMER] = note_and_end;
    bare_handler_set(TIMER, on_stray, NULL);
    bare_out8(0x21, 0xff); /* what the firmware has left in the PIC would be a guest's, too */
    bare_out8(0xa1, 0xff);
    crew_exit = serve_own;
    crew_tick = NULL; /* the timers are the guests' */
    crew_run();
    for (unsigned i = 0; i < vcpus; i++) {
        CHECK(mine[i].got[TIMER] >= 60);
        CHECK_EQUAL(mine[(i + 1) % vcpus].got[VECTOR + i], rounds);
        CHECK(mine[i].exits <= 20); /* pages that are met; no interrupt and no HLT */
    }
    end();
}

void own_interrupts(void)
{
    if (!paging_is_nested() || !has_feature(VIRTX_FEATURE_UNPAGED_GUEST))
        not_shown("the guest cannot own the interrupts here");
    else
        with_each(own);
}
