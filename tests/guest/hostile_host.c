/* SPDX-License-Identifier: BSD-2-Clause */
/* Hostile guests: the host, the second VM, and an embedder that knows nothing. */
#include "hostile.h"

enum { VECTOR_END = 0x64, MSR_MAX = 700 };

uint64_t hostile_exits;

/* ---- Random numbers ---- */

static uint64_t random_state;

void hostile_seed(uint64_t seed)
{
    random_state = (seed + bare_option_u64("seed", 1) * 1000003) * 0x9e3779b97f4a7c15;
}

uint64_t hostile_random(void)
{
    uint64_t x = random_state += 0x9e3779b97f4a7c15;

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

/* ---- The host's state ---- */

struct __attribute__((packed)) table {
    uint16_t limit;
    uint64_t base;
};

struct host {
    uint64_t cr0, cr3, cr4, dr[4], dr7, xcr0, mxcsr, x87;
    struct table gdtr, idtr;
    uint16_t selector[6], ldt, tr;
};

static struct host before;
static struct {
    uint32_t index;
    uint64_t value;
} msrs[MSR_MAX];
static unsigned msr_count;
static unsigned steps_in_host;

static void read_host(struct host *h)
{
    uint32_t mxcsr;
    uint16_t x87;

    memset(h, 0, sizeof(*h));
    h->cr0 = bare_read_cr0();
    h->cr3 = bare_read_cr3();
    h->cr4 = bare_read_cr4();
    __asm__ volatile("movq %%dr0, %0" : "=r"(h->dr[0]));
    __asm__ volatile("movq %%dr1, %0" : "=r"(h->dr[1]));
    __asm__ volatile("movq %%dr2, %0" : "=r"(h->dr[2]));
    __asm__ volatile("movq %%dr3, %0" : "=r"(h->dr[3]));
    __asm__ volatile("movq %%dr7, %0" : "=r"(h->dr7));
    __asm__ volatile("sgdt %0" : "=m"(h->gdtr));
    __asm__ volatile("sidt %0" : "=m"(h->idtr));
    __asm__ volatile("sldt %0" : "=r"(h->ldt));
    __asm__ volatile("str %0" : "=r"(h->tr));
    __asm__ volatile("mov %%es, %0" : "=r"(h->selector[0]));
    __asm__ volatile("mov %%cs, %0" : "=r"(h->selector[1]));
    __asm__ volatile("mov %%ss, %0" : "=r"(h->selector[2]));
    __asm__ volatile("mov %%ds, %0" : "=r"(h->selector[3]));
    __asm__ volatile("mov %%fs, %0" : "=r"(h->selector[4]));
    __asm__ volatile("mov %%gs, %0" : "=r"(h->selector[5]));
    if (h->cr4 & 1u << 18) {
        uint32_t low, high;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        h->xcr0 = (uint64_t)high << 32 | low;
    }
    if (h->cr4 & 1u << 9) {
        __asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
        h->mxcsr = mxcsr;
    }
    __asm__ volatile("fnstcw %0" : "=m"(x87));
    h->x87 = x87;
}

/* Counters and what counts time; and the APIC's registers, which the test itself uses. */
static bool moves(uint32_t index)
{
    return index == 0x10 || index == 0x3b || index == 0xe7 || index == 0xe8 || index == 0x6e0 ||
           (index >= 0xc1 && index <= 0xc8) || (index >= 0x309 && index <= 0x30b) ||
           (index >= 0x800 && index <= 0x8ff);
}

static void read_msrs(uint32_t first, uint32_t last)
{
    for (uint32_t index = first; index <= last; index++) {
        uint64_t value;

        if (!moves(index) && bare_rdmsr_safe(index, &value) && msr_count < MSR_MAX) {
            msrs[msr_count].index = index;
            msrs[msr_count++].value = value;
        }
    }
}

static bool check_msrs(void)
{
    bool good = true;

    for (unsigned i = 0; i < msr_count; i++) {
        uint64_t value = 0;

        good &= CHECK(bare_rdmsr_safe(msrs[i].index, &value));
        if (!CHECK_EQUAL(value, msrs[i].value)) {
            bare_printf("  MSR 0x%x\n", msrs[i].index);
            good = false;
        }
    }
    return good;
}

static void on_debug(struct bare_frame *frame, void *ctx)
{
    (void)ctx;
    frame->rflags &= ~0x100ul;
    steps_in_host++;
}

/* ---- The second VM ---- */

static struct virtx_vm *second_vm;
static struct virtx_vcpu *second_vcpu;
static volatile uint64_t second_rounds;

/* Registers and memory of its own, kept over every attack. */
static void guest_second(uint64_t argument)
{
    uint64_t sum = argument;

    for (;;) {
        for (unsigned i = 0; i < 50; i++)
            sum = sum * 6364136223846793005 + 1442695040888963407;
        second_rounds = second_rounds + 1;
        guest_done(sum);
    }
}

static bool second_runs(void)
{
    static uint64_t sum;
    uint64_t result = 0, expected = second_rounds + 1;

    if (expected == 1)
        sum = 7;
    for (unsigned i = 0; i < 50; i++)
        sum = sum * 6364136223846793005 + 1442695040888963407;
    return CHECK(vcpu_continue(second_vcpu, &result)) && CHECK_EQUAL(result, (uint32_t)sum) &&
           CHECK_EQUAL(second_rounds, expected);
}

/* ---- The cases' frame ---- */

void hostile_open(void)
{
    harness_profile = &virtx_profile_kernel;
    harness_no_watchdog = true;
    machine_open();
    if (engine_is("bochs") && guest_has_svm)
        bare_handler_set(1, on_debug, NULL);
    steps_in_host = 0;
    second_vm = vm_make(&second_vcpu);
    second_rounds = 0;
    hostile_exits = 0;
    vcpu_prepare(second_vcpu, 1, guest_second, 7);
    second_runs();
    CHECK_OK(virtx_vcpu_put(second_vcpu));
    bare_timer_hz();
    bare_tsc_hz();
    read_host(&before);
    msr_count = 0;
    read_msrs(0, 0x1fff);
    read_msrs(0xc0000000, 0xc00011ff);
    read_msrs(0xc0010000, 0xc00111ff);
}

bool hostile_check(struct virtx_vcpu *vcpu)
{
    struct host after;
    bool good;

    CHECK_OK(virtx_vcpu_put(vcpu));
    read_host(&after);
    good = true;
    good = CHECK_EQUAL(after.cr0, before.cr0) && good;
    good = CHECK_EQUAL(after.cr3, before.cr3) && good;
    good = CHECK_EQUAL(after.cr4, before.cr4) && good;
    good = CHECK_EQUAL(after.dr7, before.dr7) && good;
    good = CHECK_EQUAL(after.xcr0, before.xcr0) && good;
    good = CHECK_EQUAL(after.mxcsr, before.mxcsr) && good;
    good = CHECK_EQUAL(after.x87, before.x87) && good;
    good = CHECK_EQUAL(after.gdtr.base, before.gdtr.base) && good;
    good = CHECK_EQUAL(after.gdtr.limit, before.gdtr.limit) && good;
    good = CHECK_EQUAL(after.idtr.base, before.idtr.base) && good;
    good = CHECK_EQUAL(after.idtr.limit, before.idtr.limit) && good;
    good = CHECK_EQUAL(after.ldt, before.ldt) && good;
    good = CHECK_EQUAL(after.tr, before.tr) && good;
    for (unsigned i = 0; i < 4; i++)
        good &= CHECK_EQUAL(after.dr[i], before.dr[i]);
    for (unsigned i = 0; i < 6; i++)
        good &= CHECK_EQUAL(after.selector[i], before.selector[i]);
    good &= second_runs();
    CHECK_OK(virtx_vcpu_put(second_vcpu));
    return good;
}

void hostile_close(struct virtx_vcpu *vcpu)
{
    hostile_check(vcpu);
    check_msrs();
    CHECK_OK(virtx_vcpu_destroy(second_vcpu));
    CHECK_OK(virtx_vm_destroy(second_vm));
    if (engine_is("bochs") && guest_has_svm) {
        bare_handler_set(1, NULL, NULL);
        if (steps_in_host != 0)
            known_bug("a single step of the guest arrives in the host after the exit");
        CHECK_EQUAL(steps_in_host, 0);
    }
}

/* ---- The embedder that knows nothing ---- */

static struct virtx_vcpu *victim;

static void on_end(struct bare_frame *frame, void *ctx)
{
    (void)ctx;
    if (frame->vector == VECTOR_END)
        bare_eoi();
    virtx_vcpu_kick(victim);
}

/*
 * Bochs' VM entry to a guest with IF = 0 leaves the host's interrupts masked until the guest next
 * executes something that has to do with IF. So the PIT ends a guest there, by an NMI through the
 * I/O APIC.
 */
static bool end_by_nmi(void)
{
    return engine_is("bochs") && !guest_has_svm;
}

enum {
    IOAPIC = 0xfec00000,
    IOAPIC_PIN = 2,
    PIT_HZ = 1193182,
    IOAPIC_NMI = 4 << 8,
    IOAPIC_MASK = 1 << 16
};

static void ioapic_write(unsigned index, uint32_t value)
{
    *(volatile uint32_t *)IOAPIC = index;
    *(volatile uint32_t *)(IOAPIC + 0x10) = value;
}

static void nmi_start(uint64_t instructions)
{
    uint64_t ticks = instructions * PIT_HZ / bare_tsc_hz() + 1;

    bare_handler_set(2, on_end, NULL);
    bare_out8(0x43, 0x30); /* channel 0, both bytes, one rising edge at the end */
    ioapic_write(0x10 + 2 * IOAPIC_PIN + 1, 0);
    ioapic_write(0x10 + 2 * IOAPIC_PIN, IOAPIC_NMI);
    bare_out8(0x40, (uint8_t)ticks);
    bare_out8(0x40, (uint8_t)(ticks >> 8));
}

static void end_start(uint64_t instructions)
{
    bare_handler_set(VECTOR_END, on_end, NULL);
    if (instructions == 0)
        return;
    if (end_by_nmi())
        nmi_start(instructions);
    else
        bare_timer_start(
            VECTOR_END,
            (uint32_t)(instructions * (bare_timer_hz() / 1000 + 1) / (bare_tsc_hz() / 1000 + 1)) +
                1,
            false);
}

static void end_stop(void)
{
    if (end_by_nmi())
        ioapic_write(0x10 + 2 * IOAPIC_PIN, IOAPIC_MASK);
    bare_irq_disable();
    bare_timer_stop();
    bare_irq_enable(); /* one that is on its way */
    __asm__ volatile("nop; nop");
    bare_irq_disable();
}

/* Ports and memory read as ones, all else is an invalid opcode or a protection fault. */
static enum virtx_status answer(struct virtx_vcpu *vcpu, const struct virtx_exit *exit)
{
    struct virtx_event fault = {.type = VIRTX_EVENT_EXCEPTION, .vector = 6};
    enum virtx_status status;
    static const uint8_t ones[4096] = {[0 ... 4095] = 0xff};

    switch (exit->reason) {
    case VIRTX_EXIT_IO:
    case VIRTX_EXIT_MMIO:
        return virtx_vcpu_complete(vcpu, ones);
    case VIRTX_EXIT_MSR:
        fault.vector = 13;
        fault.has_error = true;
        status = virtx_vcpu_fault(vcpu, &fault);
        if (status != VIRTX_E_INVALID)
            return status;
        fault.has_error = false; /* real mode */
        return virtx_vcpu_fault(vcpu, &fault);
    default:
        return virtx_vcpu_fault(vcpu, &fault);
    }
}

static enum outcome judge_status(struct virtx_vcpu *vcpu, enum virtx_status status)
{
    const struct virtx_error *error = virtx_vcpu_last_error(vcpu);

    if (status == VIRTX_E_GUEST_STATE && error->manual[0] != '\0')
        return OUTCOME_REFUSED;
    bare_printf("  %s: %s: %s (%s; 0x%lx)\n", virtx_status_text(status), error->what, error->rule,
                error->manual, error->value);
    CHECK_EQUAL(status, VIRTX_OK);
    return OUTCOME_FAILED;
}

enum outcome hostile_run(struct virtx_vcpu *vcpu, uint64_t instructions, unsigned exits)
{
    enum outcome outcome = OUTCOME_STUCK;

    victim = vcpu;
    end_start(instructions);
    bare_irq_enable();
    for (unsigned i = 0; i < exits; i++) {
        const struct virtx_exit *exit;
        enum virtx_status status = virtx_vcpu_run(vcpu, &exit);

        if (status != VIRTX_OK) {
            outcome = judge_status(vcpu, status);
            break;
        }
        hostile_exits++;
        if (exit->reason == VIRTX_EXIT_KICK) {
            outcome = OUTCOME_KICK;
            break;
        }
        if (exit->reason == VIRTX_EXIT_SHUTDOWN || exit->reason == VIRTX_EXIT_HLT) {
            outcome = exit->reason == VIRTX_EXIT_HLT ? OUTCOME_HALTED : OUTCOME_SHUTDOWN;
            break;
        }
        if (exit->reason == VIRTX_EXIT_IO && exit->io.port == PORT_DONE && !exit->io.string &&
            exit->io.access == VIRTX_WRITE) {
            machine.mark_value = exit->io.value;
            virtx_vcpu_complete(vcpu, NULL);
            outcome = OUTCOME_DONE;
            break;
        }
        if (!exit->pending) {
            if (exit->reason == VIRTX_EXIT_MEMORY || exit->reason == VIRTX_EXIT_EMULATION)
                break;
            continue;
        }
        do {
            status = answer(vcpu, exit);
        } while (status == VIRTX_AGAIN); /* the instruction's next access */
        if (status != VIRTX_OK) {
            outcome = judge_status(vcpu, status);
            break;
        }
    }
    end_stop();
    return outcome;
}
