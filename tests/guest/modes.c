/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Real mode, unpaged protected mode and the ways between all modes. Each program runs as the
 * library thinks best on this processor, and once more in its executor alone; what it sees must be
 * the same.
 */
#include "harness.h"
#include "modes.h"

enum {
    RAM_BYTES = 2 << 20,
    STACK = 0x7000,
    NOTE_COUNT = 24,
};

#define PROGRAM(name) extern const char name[], name##_end[]
PROGRAM(real_flags);
PROGRAM(real_faults);
PROGRAM(real_system);
PROGRAM(mode_changes);
PROGRAM(real_events);
PROGRAM(big_real_loop);
PROGRAM(long_mode_and_back);
PROGRAM(task_switches);

static struct {
    struct virtx_vm *vm;
    struct virtx_vcpu *vcpu;
    uint8_t *ram;
} box;

static uint32_t note(unsigned index)
{
    uint32_t value;

    memcpy(&value, box.ram + NOTES + 4 * index, 4);
    return value;
}

static uint32_t word(uint32_t at)
{
    uint32_t value;

    memcpy(&value, box.ram + at, 4);
    return value;
}

static void box_open(const char *program, const char *end, bool interpret)
{
    struct virtx_state state;

    machine_open();
    box.ram = bare_pages_alloc(RAM_BYTES / 4096, 1);
    memset(box.ram, 0, RAM_BYTES);
    memcpy(box.ram + CODE, program, (size_t)(end - program));
    CHECK_OK(virtx_vm_create(machine.virtx, NULL, &box.vm));
    slot_make(box.vm, 0, box.ram, RAM_BYTES, ALL_RIGHTS, 0);
    box.vcpu = vcpu_make(box.vm, 0);
    CHECK_OK(virtx_vcpu_reset(box.vcpu, VIRTX_PRESET_REAL));
    CHECK_OK(virtx_vcpu_get(box.vcpu, VIRTX_STATE_RIP | VIRTX_STATE_RSP, &state));
    state.rip = CODE;
    state.gpr[VIRTX_RSP] = STACK;
    CHECK_OK(virtx_vcpu_set(box.vcpu, VIRTX_STATE_RIP | VIRTX_STATE_RSP, &state));
    if (interpret)
        CHECK_OK(virtx_vcpu_interpret(box.vcpu, true));
}

static void box_close(void)
{
    CHECK_OK(virtx_vcpu_destroy(box.vcpu));
    CHECK_OK(virtx_vm_destroy(box.vm));
    bare_pages_free(box.ram, RAM_BYTES / 4096);
}

/* Runs to the end; false: to something else, which is told. */
static bool finish(void)
{
    uint64_t result;
    char text[200];

    if (CHECK(vcpu_continue(box.vcpu, &result)))
        return true;
    describe_exit(text, sizeof(text), machine.exit);
    bare_printf("  exit: %s at 0x%lx\n", text, machine.exit->rip);
    return false;
}

#define RUN(program, interpret)                                                                    \
    box_open(program, program##_end, interpret);                                                   \
    finish()

/* ---- Real mode ---- */

static void flags(bool interpret)
{
    static const uint32_t expected[16] = {0x0002, 0x7002, 0x0202, 0x0002, 0x0003, 0x12345678,
                                          0,      0x0203, 0x0203, 1,      1,      0x0a92,
                                          0x0a92, 0x0010, 0x10,   0xffff};

    RUN(real_flags, interpret);
    for (unsigned i = 0; i < 16; i++) {
        if (i != 6)
            CHECK_EQUAL(note(i), expected[i]);
    }
    CHECK(note(6) > CODE && note(6) < CODE + (unsigned)(real_flags_end - real_flags));
    box_close();
}

static void faults(bool interpret)
{
    RUN(real_faults, interpret);
    CHECK_EQUAL(note(0), 1); /* #DE */
    CHECK_EQUAL(note(1), 2); /* #UD */
    if (engine_is("qemu") && !interpret)
        known_bug("QEMU does not check segment limits");
    CHECK_EQUAL(note(2), 2); /* #GP */
    CHECK_EQUAL(note(3), 1); /* #SS */
    known_bug_end();
    CHECK_EQUAL(note(4) & ~0x8d5u, 2);
    CHECK_EQUAL(note(5), STACK); /* no error codes */
    box_close();
}

static void system_instructions(bool interpret)
{
    box_open(real_system, real_system_end, interpret);
    CHECK(!vcpu_continue(box.vcpu, NULL)); /* REP OUTS is not the harness's */
    CHECK_EQUAL(machine.marks, 1);
    CHECK_EQUAL(machine.mark_value, 0x11223344);
    if (CHECK_EQUAL(machine.exit->reason, VIRTX_EXIT_IO)) {
        const uint32_t *data = machine.exit->io.data;

        CHECK(machine.exit->io.string && machine.exit->io.rep);
        CHECK_EQUAL(machine.exit->io.count, 2);
        CHECK_EQUAL(data[0], 1);
        CHECK_EQUAL(data[1], 2);
        CHECK_OK(virtx_vcpu_complete(box.vcpu, NULL));
        finish();
    }
    CHECK(note(0) != 0);
    CHECK_EQUAL(note(1), 0x1234);
    CHECK_EQUAL(note(2), 4);
    CHECK_EQUAL(note(3), 0x5a5a);
    CHECK_EQUAL(note(4), 0x10);
    CHECK_EQUAL(note(5) & 0xffff, 0x14);
    CHECK_EQUAL(note(6), 0x1000);
    CHECK_EQUAL(note(7), 0);
    CHECK_EQUAL(note(8), 0x3456002f);
    CHECK_EQUAL(note(9) & 0xffff, 0x12);
    CHECK_EQUAL(note(10), 0x600d);
    CHECK_EQUAL(word(0x100010), 0xa20a20);
    box_close();
}

/* ---- Between the modes ---- */

static void changes(bool interpret)
{
    const uint32_t value = 0xabcd1234;

    box_open(mode_changes, mode_changes_end, interpret);
    CHECK(!vcpu_continue(box.vcpu, NULL)); /* IN is not the harness's */
    CHECK_EQUAL(machine.marks, 1);
    if (CHECK_EQUAL(machine.exit->reason, VIRTX_EXIT_IO)) {
        CHECK_EQUAL(machine.exit->io.access, VIRTX_READ);
        CHECK_OK(virtx_vcpu_complete(box.vcpu, &value));
        finish();
    }
    CHECK_EQUAL(note(0), 0x123);
    CHECK_EQUAL(note(1), 0);
    CHECK_EQUAL(note(2), 0x30);
    CHECK_EQUAL(note(3), 0);
    CHECK_EQUAL(note(4), 0x11);
    CHECK_EQUAL(note(5), 0);
    CHECK_EQUAL(note(6), 0x77000);
    CHECK_EQUAL(note(7), 0xb17);
    CHECK_EQUAL(word(RAM_BYTES - 4), 0xb17);
    CHECK_EQUAL(note(8), 100);
    CHECK_EQUAL(note(9), 1);
    CHECK_EQUAL(note(10), value);
    CHECK_EQUAL(note(11), 0x246);
    CHECK_EQUAL(note(12), 0x10);
    CHECK_EQUAL(note(13), 1);
    CHECK_EQUAL(note(14), 0x40050013);
    box_close();
}

/* Intel SDM, "Task Management". */
static void tasks(bool interpret)
{
    if (engine_is("qemu") && !paging_is_nested() && !interpret) {
        not_shown(
            "QEMU 7.2 knows no intercept of task switches: it loads the new TSS's CR3 itself, "
            "over the shadow tables' (switch_tss_ra)");
        return;
    }
    RUN(task_switches, interpret);
    CHECK_EQUAL(note(0), 3);
    CHECK_EQUAL(note(1), 0x11000);
    CHECK_EQUAL(note(2), 0x4002); /* NT */
    CHECK_EQUAL(note(3), 0x10000);
    if (engine_is("qemu") && bare_option("lazy") && !interpret)
        known_bug(
            "QEMU knows no intercept of task switches, so TS is not seen before the first use");
    CHECK_EQUAL(note(4), 0x80000019); /* TS */
    known_bug_end();
    CHECK_EQUAL(note(5), 0x48);
    CHECK_EQUAL(note(6), 0x28);
    if (engine_is("qemu") && !interpret)
        known_bug("QEMU's task switch knows no debug trap and leaves DR7.LE");
    else if (engine_is("bochs") && backend_is("svm") && !interpret && paging_is_nested())
        known_bug("Bochs' intercepted #DB does not say its cause in DR6");
    CHECK_EQUAL(note(7) & 0xe00f, 0x8000); /* BT */
    CHECK_EQUAL(note(8) & 0x3ff, 0);       /* the local breakpoints */
    CHECK_EQUAL(note(13), 0x20);
    known_bug_end();
    CHECK_EQUAL(note(9), 0x18);
    CHECK_EQUAL(note(10), 2);
    CHECK_EQUAL(note(11), 0);
    CHECK_EQUAL(note(12), 1);
    CHECK_EQUAL(word(0x3100), 0x18); /* the link */
    CHECK_EQUAL(note(14), 3);
    CHECK_EQUAL(note(15) & 0x4000, 0); /* JMP does not nest */
    CHECK_EQUAL(note(16), 0x8b);
    CHECK_EQUAL(note(17), 0x89); /* no longer busy */
    CHECK_EQUAL(note(18), 0x18);
    CHECK_EQUAL(note(19), 0x6400);
    box_close();
}

static enum virtx_verdict count_write(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    (void)vcpu;
    *(unsigned *)ctx += exit->cr.access == VIRTX_WRITE;
    return VIRTX_DEFAULT;
}

/* Every write of a control register asks the embedder first. */
static void see_writes(unsigned *count)
{
    for (unsigned reg = 0; reg <= 4; reg++) {
        const struct virtx_intercept_config config = {.size = sizeof(config),
                                                      .kind = VIRTX_INTERCEPT_CR,
                                                      .access = VIRTX_WRITE,
                                                      .action = VIRTX_ACTION_EXIT,
                                                      .first = reg,
                                                      .last = reg,
                                                      .handler = count_write,
                                                      .ctx = count};
        struct virtx_intercept *set;

        if (reg != 1 && reg != 2)
            CHECK_OK(virtx_vcpu_intercept(box.vcpu, &config, &set));
    }
}

static void long_mode_with(bool interpret, bool seen)
{
    static const uint64_t pdpt = 0x12007, pd = 0x87, pml4 = 0x11007;
    unsigned writes = 0;

    box_open(long_mode_and_back, long_mode_and_back_end, interpret);
    if (seen)
        see_writes(&writes);
    memcpy(box.ram + 0x10000, &pml4, 8);
    memcpy(box.ram + 0x11000, &pdpt, 8);
    memcpy(box.ram + 0x12000, &pd, 8);
    finish();
    CHECK_EQUAL(note(0), 0x12345678);
    CHECK_EQUAL(note(1), 0x500);
    CHECK_EQUAL(note(2), 0x100);
    CHECK_EQUAL(note(3), 0x10);
    if (seen)
        CHECK_EQUAL(writes, 5); /* CR4, CR3, CR0 three times */
    box_close();
}

static void long_mode(bool interpret)
{
    long_mode_with(interpret, false);
}

static void long_mode_seen(bool interpret)
{
    long_mode_with(interpret, true);
}

/* ---- Events ---- */

static void inject(uint8_t vector)
{
    const struct virtx_event event = {.type = VIRTX_EVENT_INTERRUPT, .vector = vector};

    CHECK_OK(virtx_vcpu_inject(box.vcpu, &event));
}

static void events(bool interpret)
{
    host_steps_allow();
    box_open(real_events, real_events_end, interpret);
    for (unsigned i = 0; i < 2; i++) {
        CHECK(!vcpu_continue(box.vcpu, NULL));
        CHECK_EQUAL(machine.exit->reason, VIRTX_EXIT_HLT);
        CHECK_EQUAL(note(0), i);
        CHECK_EQUAL(vcpu_run(box.vcpu)->reason, VIRTX_EXIT_HLT); /* nothing wakes it */
        inject(0x40);
    }
    for (unsigned i = 0; i < 3; i++) {
        const struct virtx_exit *exit = vcpu_run(box.vcpu);

        while (exit->reason == VIRTX_EXIT_INTERRUPT)
            exit = vcpu_run(box.vcpu);
        CHECK_EQUAL(exit->reason, VIRTX_EXIT_IO);
        CHECK_EQUAL(note(0), i ? 3 : 2);
        CHECK_EQUAL(note(3), i == 2);
        CHECK_OK(virtx_vcpu_complete(box.vcpu, NULL));
        if (i)
            virtx_vcpu_nmi(box.vcpu);
        else
            inject(0x40);
    }
    finish();
    CHECK_EQUAL(note(1), 2);
    CHECK_EQUAL(note(2), 3);
    CHECK_EQUAL(note(3), 2);
    CHECK_EQUAL(note(4), 1);
    CHECK_EQUAL(note(5), 6); /* single steps */
    if (engine_is("bochs") && backend_is("svm") && !interpret)
        known_bug("Bochs takes the guest's single-step trap along into the host");
    CHECK_EQUAL(host_steps_end(), 0);
    known_bug_end();
    box_close();
}

static void on_timer(struct bare_frame *frame, void *ctx)
{
    (void)frame;
    (void)ctx;
    bare_eoi();
    virtx_vcpu_kick(box.vcpu);
}

/* A kick and an interrupt reach a guest that stays in the executor. */
static void kicks(bool interpret)
{
    uint64_t flags;
    const struct virtx_exit *exit;

    harness_no_watchdog = true;
    box_open(big_real_loop, big_real_loop_end, interpret);
    bare_handler_set(0x61, on_timer, NULL);
    for (unsigned i = 0; i < 4; i++) {
        uint32_t before = note(0);

        host_timer(0x61, 500);
        flags = bare_irq_save();
        bare_irq_enable();
        exit = vcpu_run(box.vcpu);
        bare_irq_disable();
        bare_irq_restore(flags);
        CHECK_EQUAL(exit->reason, VIRTX_EXIT_KICK);
        CHECK(note(0) > before);
        inject(0x40);
    }
    if (engine_is("qemu") && !interpret)
        known_bug("QEMU delivers an injected interrupt twice to real mode");
    CHECK_EQUAL(note(1), 3);
    known_bug_end();
    /* With the host's interrupts off run comes back by itself. */
    host_timer(0x61, 500);
    exit = vcpu_run(box.vcpu);
    CHECK_EQUAL(exit->reason, VIRTX_EXIT_INTERRUPT);
    flags = bare_irq_save();
    bare_irq_enable();
    for (unsigned i = 0; exit->reason != VIRTX_EXIT_KICK && i < 100000; i++)
        exit = vcpu_run(box.vcpu);
    bare_irq_disable();
    bare_irq_restore(flags);
    CHECK_EQUAL(exit->reason, VIRTX_EXIT_KICK);
    if (engine_is("qemu") && !interpret)
        known_bug("QEMU delivers an injected interrupt twice to real mode");
    CHECK_EQUAL(note(1), 4);
    known_bug_end();
    box_close();
}

/* ---- SSE ---- */

static void guest_sse_mmio(uint64_t at)
{
    uint64_t out[2];

    __asm__ volatile("movups (%1), %%xmm5\n"
                     "paddq %%xmm5, %%xmm5\n"
                     "movups %%xmm5, (%1)\n"
                     "movd (%1), %%xmm6\n"
                     "movups %%xmm6, %0"
                     : "=m"(out)
                     : "r"(at)
                     : "memory");
    guest_done(out[0] == 0x11223344 && out[1] == 0);
}

/* A driver may use SSE on a device's registers: 16 bytes go to the bus in two pieces. */
static void sse_to_mmio(void)
{
    static const uint64_t reads[] = {0x1111111122222222, 0x3333333344444444, 0xff11223344};
    static const struct {
        uint64_t value;
        uint8_t offset, size, access;
    } expected[] = {{0, 0, 8, VIRTX_READ},
                    {0, 8, 8, VIRTX_READ},
                    {0x2222222244444444, 0, 8, VIRTX_WRITE},
                    {0x6666666688888888, 8, 8, VIRTX_WRITE},
                    {0, 0, 4, VIRTX_READ}};
    enum virtx_status status = VIRTX_OK;

    machine_open();
    guest_prepare(guest_sse_mmio, GUEST_HOLE + 0x40);
    for (unsigned i = 0, read = 0; i < 5; i++) {
        if (status != VIRTX_AGAIN && !CHECK(EXPECT_EXIT(VIRTX_EXIT_MMIO)))
            return;
        CHECK_EQUAL(machine.exit->mmio.gpa, GUEST_HOLE + 0x40 + expected[i].offset);
        CHECK_EQUAL(machine.exit->mmio.size, expected[i].size);
        CHECK_EQUAL(machine.exit->mmio.access, expected[i].access);
        if (expected[i].access == VIRTX_WRITE)
            CHECK_EQUAL(machine.exit->mmio.value, expected[i].value);
        status = virtx_vcpu_complete(machine.vcpu,
                                     expected[i].access == VIRTX_READ ? &reads[read++] : NULL);
        CHECK_EQUAL(status, i == 0 || i == 2 ? VIRTX_AGAIN : VIRTX_OK);
    }
    CHECK_EQUAL(GUEST_CONTINUE(), 1);
}

/* With a number on x87's stack, which MMX's registers are none of in the end. */
static void guest_mmx_mmio(uint64_t at)
{
    uint64_t out;
    uint16_t status;

    __asm__ volatile("fninit; fldpi\n"
                     "movq (%2), %%mm5\n"
                     "movq %%mm5, %0\n"
                     "movntq %%mm5, 8(%2)\n"
                     "fnstsw %1\n"
                     "emms"
                     : "=m"(out), "=m"(status)
                     : "r"(at)
                     : "memory");
    guest_done(out == 0x1122334455667788 && !(status & 0x3800));
}

static void mmx_to_mmio(void)
{
    const uint64_t value = 0x1122334455667788;

    machine_open();
    guest_prepare(guest_mmx_mmio, GUEST_HOLE + 0x40);
    for (unsigned write = 0; write < 2; write++) {
        if (!CHECK(EXPECT_EXIT(VIRTX_EXIT_MMIO)))
            return;
        CHECK_EQUAL(machine.exit->mmio.gpa, GUEST_HOLE + 0x40 + 8 * write);
        CHECK_EQUAL(machine.exit->mmio.size, 8);
        CHECK_EQUAL(machine.exit->mmio.access, write ? VIRTX_WRITE : VIRTX_READ);
        if (write)
            CHECK_EQUAL(machine.exit->mmio.value, value);
        CHECK_OK(virtx_vcpu_complete(machine.vcpu, write ? NULL : &value));
    }
    CHECK_EQUAL(GUEST_CONTINUE(), 1);
}

static void guest_avx_mmio(uint64_t at)
{
    uint64_t high[2] = {0, 0}, cr4;
    uint32_t a = 1, b, c = 0, d;

    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    if (~c >> 26 & 1 || ~c >> 28 & 1) { /* XSAVE, AVX */
        guest_done(2);
        return;
    }
    __asm__ volatile("movq %%cr4, %0; orq $0x40000, %0; movq %0, %%cr4" : "=&r"(cr4));
    __asm__ volatile("xsetbv" : : "a"(7), "d"(0), "c"(0));
    __asm__ volatile("vmovups (%1), %%ymm5\n"
                     "vextractf128 $1, %%ymm5, %0\n"
                     "vmovups %%ymm5, 32(%1)\n"
                     "vzeroupper"
                     : "=m"(high)
                     : "r"(at)
                     : "memory");
    guest_done(high[0] == 0x3333333333333333 && high[1] == 0x4444444444444444);
}

/* 32 bytes are four pieces, read and then written. */
static void avx_to_mmio(void)
{
    static const uint64_t value[] = {0x1111111111111111, 0x2222222222222222, 0x3333333333333333,
                                     0x4444444444444444};
    enum virtx_status status = VIRTX_OK;

    machine_open();
    guest_prepare(guest_avx_mmio, GUEST_HOLE + 0x40);
    for (unsigned i = 0; i < 8; i++) {
        bool write = i >= 4;

        if (status != VIRTX_AGAIN)
            vcpu_run(machine.vcpu);
        if (i == 0 && machine.exit->reason == VIRTX_EXIT_IO && machine.exit->io.value == 2) {
            virtx_vcpu_complete(machine.vcpu, NULL);
            not_shown("the processor has no AVX");
            return;
        }
        if (!CHECK_EQUAL(machine.exit->reason, VIRTX_EXIT_MMIO))
            return;
        CHECK_EQUAL(machine.exit->mmio.gpa, GUEST_HOLE + 0x40 + 8 * i);
        CHECK_EQUAL(machine.exit->mmio.size, 8);
        CHECK_EQUAL(machine.exit->mmio.access, write ? VIRTX_WRITE : VIRTX_READ);
        if (write)
            CHECK_EQUAL(machine.exit->mmio.value, value[i & 3]);
        status = virtx_vcpu_complete(machine.vcpu, write ? NULL : &value[i]);
        CHECK_EQUAL(status, (i & 3) == 3 ? VIRTX_OK : VIRTX_AGAIN);
    }
    CHECK_EQUAL(GUEST_CONTINUE(), 1);
}

#define BOTH(name)                                                                                 \
    static void name##_hardware(void)                                                              \
    {                                                                                              \
        name(false);                                                                               \
    }                                                                                              \
    static void name##_executor(void)                                                              \
    {                                                                                              \
        name(true);                                                                                \
    }
BOTH(flags)
BOTH(faults)
BOTH(system_instructions)
BOTH(changes)
BOTH(long_mode)
BOTH(long_mode_seen)
BOTH(tasks)
BOTH(events)
BOTH(kicks)

#define CASES(text, name)                                                                          \
    {text, name##_hardware},                                                                       \
    {                                                                                              \
        text "-in-the-executor", name##_executor                                                   \
    }
GUEST_CASES(CASES("real-mode-flags-and-interrupts", flags), CASES("real-mode-faults", faults),
            CASES("real-mode-system-instructions", system_instructions),
            CASES("real-protected-big-real", changes),
            CASES("real-mode-to-64-bit-and-back", long_mode),
            CASES("real-mode-to-64-bit-and-back-intercepted", long_mode_seen),
            CASES("task-switches", tasks), CASES("real-mode-events", events),
            CASES("kicks-in-big-real-mode", kicks), {"sse-moves-to-mmio", sse_to_mmio},
            {"mmx-moves-to-mmio", mmx_to_mmio}, {"avx-moves-to-mmio", avx_to_mmio});
