/* SPDX-License-Identifier: BSD-2-Clause */
/* Many vcpus: nested faults in the middle of deliveries. */
#include "many.h"

/* ---- A nested fault in the middle of a delivery ---- */

enum { KINDS = 7 };
static const uint8_t kind_vectors[KINDS] = {OTHER, 3, 6, 13, INJECTED, 2, 14};
static volatile uint64_t kinds_left_out; /* a bit for each */

static void note_kind(struct bare_frame *frame)
{
    extern const char many_after_int[], many_after_int3[], many_ud[], many_gp[], many_stop[];
    volatile struct mine *m = seat_of(frame);
    uint64_t vector = frame->vector & 0xff, rip = frame->rip;
    const char *right = many_stop;

    m->got[vector]++;
    if (vector == 6 || vector == 13)
        frame->rip += 2; /* UD2, MOV to a segment register */
    if (vector == OTHER)
        right = many_after_int;
    else if (vector == 3)
        right = many_after_int3;
    else if (vector == 6)
        right = many_ud;
    else if (vector == 13)
        right = many_gp;
    m->misplaced += rip != (uintptr_t)right;
    m->misplaced += vector == 13 && frame->error != 0xfff0;
    m->misplaced +=
        vector == 14 && (frame->error != 2 || bare_read_cr2() != 0x7777000 + (uint64_t)(m - mine));
}

/* Each kind of event with a stack in RAM which the host has just taken the mapping of. */
#define FAR(text)                                                                                  \
    __asm__ volatile("movq %%rsp, %%rbx; movq %0, %%rsp; outl %%eax, %%dx\n" text                  \
                     "\nmovq %%rbx, %%rsp"                                                         \
                     :                                                                             \
                     : "r"(stack), "a"((uint32_t)kind), "d"((uint16_t)PORT_BELL)                   \
                     : "rbx", "rcx", "memory")

static __attribute__((noinline)) void guest_far_stack(uint64_t stack, uint64_t kind)
{
    switch (kind) {
    case 0:
        FAR("int $0x82\n.globl many_after_int\nmany_after_int: nop");
        break;
    case 1:
        FAR("int3\n.globl many_after_int3\nmany_after_int3: nop");
        break;
    case 2:
        FAR(".globl many_ud\nmany_ud: ud2");
        break;
    case 3:
        FAR("movl $0xfff0, %%ecx\n.globl many_gp\nmany_gp: movw %%cx, %%ds");
        break;
    default: /* the host injects */
        bare_irq_enable();
        FAR(".globl many_stop\nmany_stop: nop; cli");
    }
}

static void guest_deliveries(uint64_t self)
{
    uint64_t stack = GUEST_MEMORY + (2 * self + 1) * PAGE, bad = 0;

    for (uint64_t i = 1; i <= rounds; i++) {
        for (uint64_t kind = 0; kind < KINDS; kind++) {
            if (kinds_left_out >> kind & 1)
                continue;
            guest_far_stack(stack, kind);
            bad += mine[self].got[kind_vectors[kind]] != i;
        }
    }
    guest_done(bad);
}

static bool serve_deliveries(struct crew_seat *seat, const struct virtx_exit *exit)
{
    uint64_t generation;

    if (!at_port(exit, PORT_BELL))
        return false;
    seat->failed |=
        virtx_memslot_invalidate(machine.memory, 0, GUEST_MEMORY_BYTES, &generation) != VIRTX_OK;
    switch (exit->io.value) {
    case 4:
        seat->failed |= !inject(seat, VIRTX_EVENT_INTERRUPT, INJECTED, false, 0, 0);
        break;
    case 5:
        virtx_vcpu_nmi(seat->vcpu);
        break;
    case 6:
        complete(seat);
        seat->failed |= !inject(seat, VIRTX_EVENT_EXCEPTION, 14, true, 2, 0x7777000 + seat->number);
        return true;
    default:
        break;
    }
    return complete(seat);
}

static void leave_out(void)
{
    kinds_left_out = 0;
    if (!engine_is("bochs") || !guest_has_svm)
        return;
    kinds_left_out = 1u << 0;
    known_bug("Bochs does not record INT n in EXITINTINFO, but an older event or none");
    known_bug("Bochs takes the guest's single-step trap along into the host"); /* after an NMI */
    known_bug_end();
    host_steps_allow();
}

static void fault_deliveries(unsigned vcpus, unsigned hosts)
{
    struct virtx_stats stats;
    uint64_t faults = 0, wanted = 0;

    rounds = 20;
    harness_memory_flags = VIRTX_MEMSLOT_SMALL_PAGES;
    if (!begin(vcpus, hosts, guest_deliveries))
        return;
    for (unsigned i = 0; i < KINDS; i++)
        guest_handler[kind_vectors[i]] = note_kind;
    leave_out();
    for (unsigned kind = 0; kind < KINDS; kind++)
        if (!(kinds_left_out >> kind & 1) && !(kind_vectors[kind] == 2 && harness_nmi_by_hand()))
            wanted += rounds;
    crew_exit = serve_deliveries;
    crew_run();
    CHECK_EQUAL(misplaced(), 0);
    for (unsigned i = 0; i < vcpus; i++) {
        for (uint64_t kind = 0; kind < KINDS; kind++)
            CHECK_EQUAL(mine[i].got[kind_vectors[kind]], kinds_left_out >> kind & 1 ? 0 : rounds);
        virtx_vcpu_stats(crew_seats[i].vcpu, &stats);
        /* Nested paging maps the page that is missing, and no two have the same stack. */
        if (paging_is_nested())
            CHECK(stats.faults_mapped >= wanted);
        faults += stats.faults_mapped;
    }
    /* Shadow paging maps neighbours too: one fault may do for all who have just taken the mapping.
     */
    CHECK(faults >= wanted);
    host_steps_end();
    end();
}

void nested_faults_during_delivery(void)
{
    with_each(fault_deliveries);
}
