/* SPDX-License-Identifier: BSD-2-Clause */
/* Many vcpus: where the host's interrupts and the guest's own get in. IF, windows, shadows. */
#include "many.h"

/* ---- External-interrupt exiting: the guest's IF is nothing to the host ---- */

enum { SPIN = 3000000, SPIN_IN_VAIN = 50000, WANTED = 20 };
static bool guest_if;
static uint64_t spins;

static void guest_spins(uint64_t self)
{
    const volatile uint64_t *mark = &host_interrupts[crew_seats[self].home];
    uint64_t first, i;

    __asm__ volatile("sti; nop; cli");
    if (guest_if)
        bare_irq_enable();
    first = *mark;
    for (i = 0; i < spins && *mark - first < WANTED; i++)
        bare_pause();
    bare_irq_disable();
    guest_done(*mark - first < WANTED);
}

static void spin(unsigned vcpus, unsigned hosts)
{
    for (unsigned i = 0; i < 2; i++) {
        guest_reset();
        guest_if = i == 0;
        spins = !guest_if && engine_is("bochs") ? SPIN_IN_VAIN : SPIN;
        if (!begin(vcpus, hosts, guest_spins))
            return;
        crew_run();
        if (!guest_if && engine_is("bochs"))
            known_bug("Bochs lets the guest's IF hold off the host's interrupts");
        end();
        known_bug_end();
    }
}

void host_interrupts_exit(void)
{
    with_each(spin);
}

/* ---- Interrupt windows ---- */

static void note_window(struct bare_frame *frame)
{
    extern const char many_window[];

    note(frame);
    if (frame->rip != (uintptr_t)many_window)
        seat_of(frame)->misplaced++;
}

static __attribute__((noinline)) void guest_windows(uint64_t self)
{
    uint64_t bad = 0;

    for (uint64_t i = 0; i < rounds; i++) {
        __asm__ volatile("cli; outl %%eax, %%dx; nop; nop; sti; nop\n"
                         ".globl many_window\nmany_window: nop; nop; cli"
                         :
                         : "a"((uint32_t)i), "d"((uint16_t)PORT_BELL)
                         : "memory");
        for (unsigned j = 0; mine[self].got[VECTOR + self] != i + 1 && j < 100; j++)
            __asm__ volatile("sti; nop; nop; cli" : : : "memory");
        bad += mine[self].got[VECTOR + self] != i + 1;
    }
    guest_done(bad);
}

/* In one round the event is queued while IF is 0, in the next the host asks for the window. */
static bool serve_windows(struct crew_seat *seat, const struct virtx_exit *exit)
{
    uint8_t vector = (uint8_t)(VECTOR + seat->number);

    if (exit->reason == VIRTX_EXIT_WINDOW) {
        seat->failed |= !inject(seat, VIRTX_EVENT_INTERRUPT, vector, false, 0, 0);
        return true;
    }
    if (!at_port(exit, PORT_BELL))
        return false;
    if (exit->io.value % 2)
        seat->failed |= virtx_vcpu_window(seat->vcpu) != VIRTX_OK;
    else
        seat->failed |= !inject(seat, VIRTX_EVENT_INTERRUPT, vector, false, 0, 0);
    return complete(seat);
}

static void open_windows(unsigned vcpus, unsigned hosts)
{
    rounds = 400;
    if (!begin(vcpus, hosts, guest_windows))
        return;
    for (unsigned i = 0; i < vcpus; i++)
        guest_handler[VECTOR + i] = note_window;
    crew_exit = serve_windows;
    crew_run();
    for (unsigned i = 0; i < vcpus; i++)
        CHECK_EQUAL(mine[i].got[VECTOR + i], rounds);
    if (engine_is("qemu"))
        known_bug("QEMU's VMRUN does not load the interrupt shadow");
    if (engine_is("bochs") && backend_is("svm"))
        known_bug("Bochs' VMRUN with IF = 1 leaves virtual interrupts masked until IF changes");
    CHECK_EQUAL(misplaced(), 0);
    known_bug_end();
    end();
}

void interrupt_windows(void)
{
    with_each(open_windows);
}

/* ---- Interrupt shadows ---- */

static void note_shadow(struct bare_frame *frame)
{
    extern const char many_after_sti[], many_after_ss[];

    note(frame);
    if (frame->rip != (uintptr_t)many_after_sti && frame->rip != (uintptr_t)many_after_ss)
        seat_of(frame)->misplaced++;
}

static __attribute__((noinline)) void guest_shadows(uint64_t self)
{
    uint64_t bad = 0;

    for (uint64_t i = 0; i < rounds; i++) {
        __asm__ volatile("cli; sti; outl %%eax, %%dx\n"
                         ".globl many_after_sti\nmany_after_sti: nop; cli"
                         :
                         : "a"(0), "d"((uint16_t)PORT_BELL)
                         : "memory");
        bad += mine[self].got[VECTOR + self] != 2 * i + 1;
        __asm__ volatile("sti; nop; movw %%ss, %%cx; movw %%cx, %%ss; outl %%eax, %%dx\n"
                         ".globl many_after_ss\nmany_after_ss: nop; cli"
                         :
                         : "a"(1), "d"((uint16_t)PORT_BELL)
                         : "rcx", "memory");
        bad += mine[self].got[VECTOR + self] != 2 * i + 2;
    }
    guest_done(bad);
}

/* The OUT is in the shadow; what retires it ends the shadow. */
static bool serve_shadows(struct crew_seat *seat, const struct virtx_exit *exit)
{
    struct virtx_state state;

    if (!at_port(exit, PORT_BELL))
        return false;
    seat->failed |=
        !inject(seat, VIRTX_EVENT_INTERRUPT, (uint8_t)(VECTOR + seat->number), false, 0, 0);
    complete(seat);
    seat->failed |= virtx_vcpu_get(seat->vcpu, VIRTX_STATE_INTR, &state) != VIRTX_OK ||
                    state.interruptibility != 0;
    return true;
}

static void exit_in_shadows(unsigned vcpus, unsigned hosts)
{
    rounds = 200;
    if (!begin(vcpus, hosts, guest_shadows))
        return;
    for (unsigned i = 0; i < vcpus; i++)
        guest_handler[VECTOR + i] = note_shadow;
    crew_exit = serve_shadows;
    crew_run();
    for (unsigned i = 0; i < vcpus; i++)
        CHECK_EQUAL(mine[i].got[VECTOR + i], 2 * rounds);
    CHECK_EQUAL(misplaced(), 0);
    end();
}

void exits_in_shadows(void)
{
    with_each(exit_in_shadows);
}
