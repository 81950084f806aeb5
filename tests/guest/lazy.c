/* SPDX-License-Identifier: BSD-2-Clause */
/* FPU state that stays in memory until the guest's first use (virtx_vcpu_set_lazy_fpu()): what the
 * guest sees, what it costs, and what the embedder sees from outside. */
#include "guest_xmm.h"
#include "harness.h"

enum { MP = 2, EM = 4, TS = 8, CR4_OSXSAVE = 1 << 18, NM = 7 };

static struct virtx_stats begun;

/* ---- What has happened since count_begin(); one load of the registers is one use ---- */

static void count_begin(void)
{
    virtx_vcpu_stats(machine.vcpu, &begun);
}

static uint64_t loads(void)
{
    struct virtx_stats now;

    virtx_vcpu_stats(machine.vcpu, &now);
    return now.fpu_switches - begun.fpu_switches;
}

static uint64_t exits(unsigned reason)
{
    struct virtx_stats now;

    virtx_vcpu_stats(machine.vcpu, &now);
    return now.exits[reason] - begun.exits[reason];
}

static void lazy_open(void)
{
    machine_open();
    CHECK(!virtx_vcpu_lazy_fpu(machine.vcpu) || bare_option("lazy"));
    CHECK_OK(virtx_vcpu_set_lazy_fpu(machine.vcpu, true));
    CHECK(virtx_vcpu_lazy_fpu(machine.vcpu));
}

/* The guest goes on to its next mark; and from there on it is as just loaded. */
static bool to_mark(void)
{
    do
        guest_run();
    while (machine.exit->reason == VIRTX_EXIT_INTERRUPT);
    if (!CHECK_EQUAL(machine.exit->reason, VIRTX_EXIT_IO) ||
        !CHECK_EQUAL(machine.exit->io.port, PORT_MARK))
        return false;
    return CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
}

static void reload(void)
{
    CHECK_OK(virtx_vcpu_put(machine.vcpu));
    CHECK_OK(virtx_vcpu_load(machine.vcpu));
    count_begin();
}

/* ---- The exits that it costs ---- */

static void guest_toggles(uint64_t seed)
{
    uint64_t bad = 0, cr0 = bare_read_cr0() | MP, before;

    bare_write_cr0(cr0);
    guest_mark(0);
    guest_mark(1); /* the host has looked, and loads anew */
    xmm_fill(seed);
    guest_mark(2);
    for (unsigned i = 0; i < 200; i++) {
        if (i == 100) /* shadow paging knows all it needs */
            guest_mark(3);
        bare_write_cr0(cr0 | TS);
        before = guest_vector_count[NM];
        bad += GUEST_TRY("movaps %%xmm0, %%xmm0", : : "memory") != NM;
        bad += guest_vector_count[NM] - before != 1;
        __asm__ volatile("clts");
        bad += xmm_differs(seed + i);
        xmm_fill(seed + i + 1);
    }
    guest_mark(4);
    guest_done(bad);
}

/* Without nested paging SVM intercepts all writes of CR0. */
static bool cr0_exits(void)
{
    return backend_is("svm") && !paging_is_nested();
}

static void first_use_only(void)
{
    lazy_open();
    guest_prepare(guest_toggles, 0x1234);
    if (!to_mark())
        return;
    reload();
    if (!to_mark())
        return;
    CHECK_EQUAL(loads(), 0); /* nothing used, nothing moved */
    CHECK_EQUAL(exits(VIRTX_EXIT_EXCEPTION), 0);
    reload();
    if (!to_mark())
        return;
    CHECK_EQUAL(loads(), 1);
    CHECK_EQUAL(exits(VIRTX_EXIT_EXCEPTION), 1);
    CHECK_EQUAL(exits(VIRTX_EXIT_CR), 0);
    if (!to_mark())
        return;
    CHECK_EQUAL(loads(), 1);
    count_begin();
    if (!to_mark())
        return;
    CHECK_EQUAL(loads(), 0); /* it is the guest's own now, with CR0.TS and #NM */
    CHECK_EQUAL(exits(VIRTX_EXIT_EXCEPTION), 0);
    if (!cr0_exits())
        CHECK_EQUAL(exits(VIRTX_EXIT_CR), 0);
    CHECK_EQUAL(GUEST_CONTINUE(), 0);
}

/* CLTS is as good as a use: there is no #NM behind it. */
static void guest_clears_ts(uint64_t seed)
{
    uint64_t bad = 0;

    xmm_fill(seed);
    bare_write_cr0(bare_read_cr0() | TS | MP);
    guest_mark(0);
    bad += GUEST_TRY("movaps %%xmm0, %%xmm0", : : "memory") != NM;
    bad += (bare_read_cr0() & (TS | MP)) != (TS | MP);
    guest_mark(1);
    __asm__ volatile("clts");
    bad += (bare_read_cr0() & (TS | MP)) != MP;
    bad += xmm_differs(seed);
    guest_mark(2);
    guest_done(bad);
}

static void clearing_ts(void)
{
    lazy_open();
    guest_prepare(guest_clears_ts, 0x5678);
    if (!to_mark())
        return;
    reload();
    if (!to_mark())
        return;
    CHECK_EQUAL(loads(), 0); /* a #NM of the guest's own needs no state */
    count_begin();
    if (!to_mark())
        return;
    CHECK_EQUAL(loads(), 1);
    CHECK_EQUAL(exits(VIRTX_EXIT_EXCEPTION), 0);
    CHECK_EQUAL(GUEST_CONTINUE(), 0);
}

/* ---- #NM and #UD as the guest's own CR0 has them ---- */

enum kind { FWAIT, X87, SSE, MMX, SAVE, KINDS };
static _Alignas(16) uint8_t save_area[512];

/* Intel SDM "Interrupt 7", "Interrupt 6", and CR0 in "Control Registers". */
static int wanted_vector(unsigned kind, uint64_t cr0)
{
    bool ts = cr0 & TS, em = cr0 & EM;

    switch (kind) {
    case FWAIT:
        return ts && (cr0 & MP) ? NM : -1;
    case X87:
    case SAVE:
        return em || ts ? NM : -1;
    default:
        return em ? 6 : ts ? NM : -1;
    }
}

static int try_kind(unsigned kind)
{
    switch (kind) {
    case FWAIT:
        return GUEST_TRY("fwait", : : "memory");
    case X87:
        return GUEST_TRY("fnop", : : "memory");
    case SSE:
        return GUEST_TRY("movaps %%xmm1, %%xmm1", : : "memory");
    case MMX:
        return GUEST_TRY("pxor %%mm1, %%mm1", : : "memory");
    default:
        return GUEST_TRY("fxsave %0", "=m"(save_area) : : "memory");
    }
}

static volatile int got[KINDS][8];
static volatile uint64_t cr0_read[KINDS][8], msw_read[KINDS][8];

static void guest_matrix(uint64_t unused)
{
    uint64_t cr0 = bare_read_cr0() & ~(uint64_t)(MP | EM | TS), bad = 0, msw;

    (void)unused;
    __asm__ volatile("fninit");
    for (unsigned kind = 0; kind < KINDS; kind++) {
        for (uint64_t bits = 0; bits < 16; bits += 2) {
            bare_write_cr0(cr0 | bits);
            guest_mark(0);
            got[kind][bits / 2] = try_kind(kind);
            cr0_read[kind][bits / 2] = bare_read_cr0() ^ cr0;
            __asm__ volatile("smsw %0" : "=r"(msw));
            msw_read[kind][bits / 2] = (msw ^ cr0) & 0xffff;
        }
    }
    bare_write_cr0(cr0);
    guest_done(bad);
}

static void matrix(bool lazy)
{
    machine_open();
    CHECK_OK(virtx_vcpu_set_lazy_fpu(machine.vcpu, lazy));
    guest_prepare(guest_matrix, 0);
    for (unsigned i = 0; i < KINDS * 8; i++) {
        struct virtx_state state;

        if (!to_mark())
            return;
        reload();
        state = guest_state();
        CHECK_EQUAL(state.cr0 & (MP | EM | TS), i % 8 * 2);
        if (i & 1) /* as it is read it is set */
            guest_set_state(VIRTX_STATE_CR, &state);
    }
    CHECK_EQUAL(GUEST_CONTINUE(), 0);
    for (unsigned kind = 0; kind < KINDS; kind++) {
        for (unsigned i = 0; i < 8; i++) {
            if (engine_is("qemu") && (i * 2 & EM) && (i * 2 & TS))
                known_bug("QEMU looks at CR0.TS first, then at EM");
            CHECK_EQUAL((uint64_t)got[kind][i], (uint64_t)wanted_vector(kind, i * 2));
            known_bug_end();
            CHECK_EQUAL(cr0_read[kind][i], i * 2);
            CHECK_EQUAL(msw_read[kind][i], i * 2);
        }
    }
}

static void matrix_eager(void)
{
    matrix(false);
}

static void matrix_lazy(void)
{
    matrix(true);
}

/* ---- Two guests ---- */

static void guest_lazy_turns(uint64_t seed)
{
    uint64_t bad = 0, cr0 = bare_read_cr0() | MP, x87 = seed | 1, back = 0;

    bare_write_cr0(cr0);
    __asm__ volatile("fninit; fildll %0" : : "m"(x87));
    xmm_fill(seed);
    for (unsigned i = 0; i < 20; i++) {
        if (i % 3) /* sometimes it leaves them alone */
            bare_write_cr0(cr0 | TS);
        guest_mark(i);
        if (i % 3) {
            uint64_t before = guest_vector_count[NM];

            bad += GUEST_TRY("movaps %%xmm0, %%xmm0", : : "memory") != NM;
            bad += GUEST_TRY("fwait", : : "memory") != NM;
            bad += guest_vector_count[NM] - before != 2;
            bad += bare_read_cr0() != (cr0 | TS);
            __asm__ volatile("clts");
        }
        if (i % 4)
            bad += xmm_differs(seed);
        guest_mark(i);
        bad += xmm_differs(seed);
        xmm_fill(seed);
    }
    __asm__ volatile("fistpll %0" : "=m"(back));
    guest_done(bad + (back != x87));
}

/* Two vcpus, each put for the other, from exit to exit; lazy by the bits of `lazy`. */
static void take_turns(unsigned lazy)
{
    struct virtx_vcpu *vcpus[2] = {machine.vcpu, vcpu_make(machine.vm, 1)};
    unsigned done = 0;

    for (unsigned i = 0; i < 2; i++)
        CHECK_OK(virtx_vcpu_set_lazy_fpu(vcpus[i], lazy >> i & 1));
    vcpu_prepare(vcpus[0], 0, guest_lazy_turns, 0x1111000011110000);
    vcpu_prepare(vcpus[1], 1, guest_lazy_turns, 0x2222000022220000);
    for (unsigned turn = 0; done < 2 && turn < 400;) {
        unsigned i = turn % 2;
        const struct virtx_exit *exit = vcpu_run(vcpus[i]);

        if (exit->reason == VIRTX_EXIT_INTERRUPT)
            continue;
        turn++;
        if (!CHECK_EQUAL(exit->reason, VIRTX_EXIT_IO))
            break;
        if (exit->io.port == PORT_DONE) {
            CHECK_EQUAL(exit->io.value, 0);
            done++;
        }
        CHECK_OK(virtx_vcpu_complete(vcpus[i], NULL));
        CHECK_OK(virtx_vcpu_put(vcpus[i]));
    }
    CHECK_EQUAL(done, 2);
    CHECK_OK(virtx_vcpu_destroy(vcpus[1]));
}

static void two_guests(void)
{
    machine_open();
    for (unsigned lazy = 0; lazy < 4; lazy++)
        take_turns(lazy);
}

/* WAIT raises no #NM with CR0.MP = 0, but it looks for exceptions that wait. */
static void guest_waits(uint64_t cr0_bits)
{
    uint64_t cr0 = bare_read_cr0() & ~(uint64_t)(MP | EM | TS), bad = 0;

    __asm__ volatile("fninit");
    bare_write_cr0(cr0 | 32 | cr0_bits);
    guest_mark(0);
    bad += GUEST_TRY("fwait", : : "memory") != -1;
    bad += bare_read_cr0() != (cr0 | 32 | cr0_bits);
    guest_done(bad);
}

static void pending_of_others(void)
{
    const uint16_t unmasked = 0x37b; /* division by zero */

    for (uint64_t bits = 0; bits <= TS; bits += TS) {
        lazy_open();
        guest_prepare(guest_waits, bits);
        if (!to_mark())
            return;
        reload();
        __asm__ volatile("fninit; fldcw %0; fld1; fldz; fdivrp" : : "m"(unmasked));
        CHECK_EQUAL(GUEST_CONTINUE(), 0);
        CHECK_OK(virtx_vcpu_put(machine.vcpu));
        __asm__ volatile("fninit");
        machine_close();
    }
    machine_open();
}

/* The host's registers are its own, whether the guest has used them or not. */
static void host_keeps_its_own(void)
{
    harness_profile = &virtx_profile_kernel;
    lazy_open();
    guest_prepare(guest_lazy_turns, 0x3333000033330000);
    xmm_fill(0x7777);
    for (unsigned i = 0; i < 12; i++) {
        if (!to_mark())
            return;
        if (i & 1)
            continue; /* it stays where it is */
        CHECK_OK(virtx_vcpu_put(machine.vcpu));
        CHECK_EQUAL(xmm_differs(0x7777), 0);
    }
    CHECK_EQUAL(GUEST_CONTINUE(), 0);
}

/* ---- From outside ---- */

static unsigned seen_by_handler;

static enum virtx_verdict nm_handler(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    (void)vcpu;
    (void)ctx;
    seen_by_handler += exit->exception.vector == NM;
    return VIRTX_DEFAULT;
}

static void guest_two_reasons(uint64_t seed)
{
    uint64_t bad = 0, cr0 = bare_read_cr0() | MP;

    bare_write_cr0(cr0);
    guest_mark(0);
    xmm_fill(seed); /* the library's #NM */
    for (unsigned i = 0; i < 3; i++) {
        bare_write_cr0(cr0 | TS);
        guest_mark(1);
        bad += GUEST_TRY("movaps %%xmm0, %%xmm0", : : "memory") != NM;
        __asm__ volatile("clts");
        bad += xmm_differs(seed);
    }
    guest_done(bad);
}

static void own_intercept(void)
{
    lazy_open();
    intercept_handler(VIRTX_INTERCEPT_EXCEPTION, 0, NM, NM, nm_handler, NULL);
    guest_prepare(guest_two_reasons, 0x9999);
    seen_by_handler = 0;
    if (!to_mark())
        return;
    reload();
    for (unsigned i = 0; i < 3; i++) {
        if (!to_mark())
            return;
        CHECK_EQUAL(seen_by_handler, i);
        if (i & 1) /* with the state in the processor, and without */
            reload();
    }
    CHECK_EQUAL(GUEST_CONTINUE(), 0);
    CHECK_EQUAL(seen_by_handler, 3);
}

static uint8_t fpu_area[8192] __attribute__((aligned(64)));

static void guest_compares(uint64_t seed)
{
    guest_mark(0);
    guest_done(xmm_differs(seed));
}

static void area_while_away(void)
{
    uint64_t seed = 0x5555000055550000;

    lazy_open();
    size_t bytes = virtx_vcpu_fpu_size(machine.vcpu);
    guest_prepare(guest_compares, seed);
    if (!to_mark())
        return;
    CHECK_OK(virtx_vcpu_fpu_get(machine.vcpu, fpu_area, bytes));
    for (unsigned i = 0; i < 16; i++) {
        uint64_t value = seed + i;
        memcpy(fpu_area + 160 + 16 * i, &value, 8);
        memcpy(fpu_area + 160 + 16 * i + 14, &value, 2);
    }
    fpu_area[512] |= 3;
    CHECK_OK(virtx_vcpu_fpu_set(machine.vcpu, fpu_area, bytes));
    count_begin();
    CHECK_EQUAL(GUEST_CONTINUE(), 0);
    CHECK_EQUAL(loads(), 1);
    memset(fpu_area, 0, sizeof(fpu_area));
    CHECK_OK(virtx_vcpu_fpu_get(machine.vcpu, fpu_area, bytes));
    for (unsigned i = 0; i < 16; i++) {
        uint64_t value;
        memcpy(&value, fpu_area + 160 + 16 * i, 8);
        CHECK_EQUAL(value, seed + i);
    }
}

static void guest_writes(uint64_t seed)
{
    uint64_t bad = 0;

    xmm_fill(seed);
    guest_mark(0);
    guest_mark(1); /* the engine is another one, the state away */
    bad += xmm_differs(seed);
    xmm_fill(seed + 1);
    guest_mark(2); /* and again, the state in the processor */
    guest_done(bad + xmm_differs(seed + 1));
}

static void exchange(void)
{
    lazy_open();
    if (!paging_is_nested()) {
        not_shown("there is one engine only");
        return;
    }
    guest_prepare(guest_writes, 0x4242);
    if (!to_mark())
        return;
    reload();
    if (!to_mark())
        return;
    CHECK_OK(virtx_vm_set_paging(machine.vm, &virtx_paging_shadow));
    if (!to_mark())
        return;
    CHECK_EQUAL(loads(), 1);
    CHECK_OK(virtx_vm_set_paging(machine.vm, &virtx_paging_nested));
    CHECK_EQUAL(GUEST_CONTINUE(), 0);
    CHECK_EQUAL(loads(), 1);
}

/* The executor's first use is one too. */
static void executor(void)
{
    lazy_open();
    guest_prepare(guest_writes, 0x2424);
    if (!to_mark())
        return;
    reload();
    CHECK_OK(virtx_vcpu_interpret(machine.vcpu, true));
    if (!to_mark())
        return;
    CHECK_EQUAL(loads(), 0);
    if (!to_mark())
        return;
    CHECK_EQUAL(loads(), 1);
    CHECK_OK(virtx_vcpu_interpret(machine.vcpu, false));
    CHECK_EQUAL(GUEST_CONTINUE(), 0);
    CHECK_EQUAL(loads(), 1);
}

/* ---- XCR0, which no #NM protects ---- */

static void guest_xcr0(uint64_t wanted)
{
    uint32_t low, high;
    uint64_t bad = 0;

    bare_write_cr4(bare_read_cr4() | CR4_OSXSAVE);
    __asm__ volatile("xsetbv" : : "c"(0), "a"((uint32_t)wanted), "d"(0));
    guest_mark(0);
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    bad += low != wanted;
    __asm__ volatile("xsetbv" : : "c"(0), "a"(1), "d"(0));
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    bad += low != 1;
    guest_mark(1);
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    bad += low != 1;
    __asm__ volatile("xsetbv" : : "c"(0), "a"((uint32_t)wanted), "d"(0));
    xmm_fill(wanted);
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    guest_done(bad + (low != wanted));
}

/* With XGETBV of what is in use the guest is not lazy; without it is. */
static void xcr0(void)
{
    struct virtx_cpuid_entry leaf;

    for (unsigned hidden = 0; hidden < 2; hidden++) {
        harness_profile = hidden ? &virtx_profile_kernel : &virtx_profile_bare;
        lazy_open();
        CHECK_OK(virtx_vm_cpuid_get(machine.vm, 1, 0, &leaf));
        if (!(leaf.ecx >> 26 & 1)) {
            not_shown("this processor has no XSAVE");
            return;
        }
        CHECK_OK(virtx_vm_cpuid_get(machine.vm, 13, 0, &leaf));
        uint64_t wanted = leaf.eax & 7, others = leaf.eax & ~0xe7u;
        CHECK_OK(virtx_vm_cpuid_get(machine.vm, 13, 1, &leaf));
        bool lazy = (hidden || !(leaf.eax & 4)) && !(others & ~(1u << 9));
        leaf.eax &= ~4u;
        if (hidden)
            CHECK_OK(virtx_vm_cpuid_set(machine.vm, &leaf));
        guest_prepare(guest_xcr0, wanted);
        if (!to_mark())
            return;
        reload();
        if (!to_mark())
            return;
        CHECK_EQUAL(loads(), lazy ? 0 : 1);
        reload();
        CHECK_EQUAL(GUEST_CONTINUE(), 0);
        CHECK_EQUAL(loads(), 1);
        machine_close();
    }
    machine_open();
}

GUEST_CASES({"first-use-only", first_use_only}, {"clearing-ts-is-a-use", clearing_ts},
            {"device-not-available-eagerly", matrix_eager},
            {"device-not-available-lazily", matrix_lazy},
            {"two-guests-that-switch-lazily", two_guests},
            {"exception-pending-for-others", pending_of_others},
            {"host-keeps-its-own", host_keeps_its_own}, {"own-intercept", own_intercept},
            {"area-while-away", area_while_away}, {"exchange-of-the-engine", exchange},
            {"executor", executor}, {"xcr0", xcr0});
