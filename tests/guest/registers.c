/* SPDX-License-Identifier: BSD-2-Clause */
/* Intercepts of exceptions, control registers and debug registers. */
#include "harness.h"

enum {
    CR0_TS = 8,
    CR0_WP = 1 << 16,
    CR4_VMXE = 1 << 13,
    CR4_PGE = 1 << 7,
};

/* ---- Exceptions ---- */

static volatile int exception_vector;

static void guest_exception(uint64_t vector)
{
    uint64_t zero = 0, rax = 1, rdx = 0;

    guest_handler[3] = guest_ignore;
    switch (vector) {
    case 0:
        exception_vector = GUEST_TRY("divq %2", "+a"(rax), "+d"(rdx) : "r"(zero) : "cc");
        break;
    case 3:
        __asm__ volatile("int3");
        exception_vector = (int)guest_trap.vector;
        break;
    case 6:
        exception_vector = GUEST_TRY("ud2", );
        break;
    default:
        exception_vector = GUEST_TRY("movw %w0, %%ds", : "r"(0xfff0));
    }
    guest_done(0);
}

static void exceptions(void)
{
    static const uint8_t vectors[] = {0, 3, 6, 13};

    machine_open();
    for (unsigned armed = 0; armed < sizeof(vectors); armed++) {
        struct virtx_intercept *set =
            intercept(VIRTX_INTERCEPT_EXCEPTION, 0, vectors[armed], vectors[armed]);
        for (unsigned i = 0; i < sizeof(vectors); i++) {
            exception_vector = -1;
            guest_prepare(guest_exception, vectors[i]);
            if (i == armed) {
                struct virtx_event event = {.type = VIRTX_EVENT_EXCEPTION,
                                            .vector = vectors[i],
                                            .has_error = vectors[i] == 13,
                                            .error = vectors[i] == 13 ? 0xfff0 : 0};
                if (vectors[i] == 3 && engine_is("qemu"))
                    known_bug("QEMU does not intercept the #BP of INT3");
                bool came = EXPECT_EXIT(VIRTX_EXIT_EXCEPTION);
                known_bug_end();
                if (!came)
                    continue;
                CHECK(machine.exit->pending);
                CHECK_EQUAL(machine.exit->exception.vector, vectors[i]);
                CHECK_EQUAL(machine.exit->exception.has_error, vectors[i] == 13);
                CHECK_EQUAL(machine.exit->exception.error, event.error);
                if (vectors[i] == 3) {
                    event.type = VIRTX_EVENT_SOFT_EXCEPTION;
                    event.length = 1;
                }
                CHECK_OK(virtx_vcpu_fault(machine.vcpu, &event));
            }
            CHECK_EQUAL(GUEST_CONTINUE(), 0);
            CHECK_EQUAL(exception_vector, vectors[i]);
        }
        CHECK_OK(virtx_intercept_remove(set));
    }
}

/* Completing means: the cause is gone, execute again. */
static void guest_patched(uint64_t argument)
{
    (void)argument;
    __asm__ volatile("patched: .byte 0x0f, 0x0b" : : : "memory");
    guest_done(5);
}

static void exception_dropped(void)
{
    extern uint8_t patched[];

    machine_open();
    intercept(VIRTX_INTERCEPT_EXCEPTION, 0, 6, 6);
    guest_prepare(guest_patched, 0);
    if (!CHECK(EXPECT_EXIT(VIRTX_EXIT_EXCEPTION)))
        return;
    CHECK_EQUAL(machine.exit->rip, (uintptr_t)patched);
    CHECK_OK(virtx_vm_write(machine.vm, (uintptr_t)patched, "\x90\x90", 2));
    CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
    CHECK_EQUAL(GUEST_CONTINUE(), 5);
    CHECK_EQUAL(guest_vector_count[6], 0);
    CHECK_OK(virtx_vm_write(machine.vm, (uintptr_t)patched, "\x0f\x0b", 2));
}

static volatile int read_vector, write_vector;
static volatile uint64_t read_error, write_error;

static void guest_faults(uint64_t gva)
{
    read_vector = GUEST_TRY("movq (%0), %%rax", : "r"(gva) : "rax", "memory");
    read_error = guest_trap.error;
    write_vector = GUEST_TRY("movq %%rax, (%0)", : "r"(gva) : "memory");
    write_error = guest_trap.error;
    guest_done(0);
}

static void page_fault_filter(void)
{
    static const struct {
        uint64_t mask, match;
        bool read, write;
    } filters[] = {{0, 0, true, true},   {2, 2, false, true}, {2, 0, true, false},
                   {4, 4, false, false}, {3, 0, true, false}, {~0ul, 2, false, true}};

    machine_open();
    *guest_pte(0x70000000) = 0;
    for (unsigned i = 0; i < sizeof(filters) / sizeof(filters[0]); i++) {
        struct virtx_intercept_config config = {.size = sizeof(config),
                                                .kind = VIRTX_INTERCEPT_EXCEPTION,
                                                .first = 14,
                                                .last = 14,
                                                .mask = filters[i].mask,
                                                .match = filters[i].match};
        struct virtx_intercept *set = NULL;
        unsigned exits = 0, wanted = filters[i].read + filters[i].write;

        if (!CHECK_OK(virtx_vm_intercept(machine.vm, &config, &set)))
            continue;
        guest_prepare(guest_faults, 0x70000010);
        while (!guest_continue(NULL)) {
            const struct virtx_exit *exit = machine.exit;
            if (!CHECK_EQUAL(exit->reason, VIRTX_EXIT_EXCEPTION))
                return;
            struct virtx_event event = {.type = VIRTX_EVENT_EXCEPTION,
                                        .vector = 14,
                                        .has_error = true,
                                        .error = exit->exception.error,
                                        .address = exit->exception.address};
            CHECK_EQUAL(exit->exception.vector, 14);
            CHECK_EQUAL(exit->exception.address, 0x70000010);
            CHECK(exit->exception.error & 2 ? filters[i].write : filters[i].read);
            CHECK_OK(virtx_vcpu_fault(machine.vcpu, &event));
            exits++;
        }
        CHECK_EQUAL(exits, wanted);
        CHECK_EQUAL(read_vector, 14);
        CHECK_EQUAL(read_error, 0);
        CHECK_EQUAL(write_vector, 14);
        CHECK_EQUAL(write_error, 2);
        CHECK_EQUAL(guest_trap.cr2, 0x70000010);
        CHECK_OK(virtx_intercept_remove(set));
    }
}

/* ---- Control registers ---- */

static void guest_cr(uint64_t which)
{
    uint64_t cr0 = bare_read_cr0(), cr3, r11 = 0;

    switch (which) {
    case 0:
        bare_write_cr0(cr0 ^ CR0_WP);
        bare_write_cr0(cr0);
        break;
    case 1:
        bare_write_cr0(cr0 | CR0_TS);
        break;
    case 2:
        __asm__ volatile("clts");
        break;
    case 3:
        __asm__ volatile("movq %%cr3, %%r11; movq %%r11, %0" : "=r"(r11) : : "r11");
        break;
    case 4:
        cr3 = bare_read_cr3();
        __asm__ volatile("movq %0, %%r11; movq %%r11, %%cr3" : : "r"(cr3) : "r11", "memory");
        break;
    default:
        __asm__ volatile("lmsw %w0" : : "r"(cr0 | CR0_TS));
    }
    guest_done(bare_read_cr0() & CR0_TS);
}

static struct virtx_intercept *intercept_cr(uint64_t reg, uint32_t access, uint64_t mask)
{
    struct virtx_intercept_config config = {.size = sizeof(config),
                                            .kind = VIRTX_INTERCEPT_CR,
                                            .access = access,
                                            .first = reg,
                                            .last = reg,
                                            .mask = mask};
    struct virtx_intercept *set = NULL;

    CHECK_OK(virtx_vm_intercept(machine.vm, &config, &set));
    return set;
}

static void expect_cr(unsigned reg, uint32_t access, unsigned gpr, uint64_t value)
{
    if (!EXPECT_EXIT(VIRTX_EXIT_CR))
        return;
    CHECK(machine.exit->pending);
    CHECK_EQUAL(machine.exit->cr.reg, reg);
    CHECK_EQUAL(machine.exit->cr.access, access);
    CHECK_EQUAL(machine.exit->cr.gpr, gpr);
    CHECK_EQUAL(machine.exit->cr.value, value);
    CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
}

static void cr_mask(void)
{
    machine_open();
    CHECK_EQUAL(GUEST_RESULT(guest_cr, 1), CR0_TS);
    uint64_t cr0 = guest_state().cr0;
    struct virtx_intercept *set = intercept_cr(0, VIRTX_WRITE, CR0_TS);
    CHECK_EQUAL(GUEST_RESULT(guest_cr, 0), 0); /* WP is not of interest */
    guest_prepare(guest_cr, 1);
    if (CHECK(EXPECT_EXIT(VIRTX_EXIT_CR))) {
        CHECK_EQUAL(machine.exit->cr.reg, 0);
        CHECK_EQUAL(machine.exit->cr.access, VIRTX_WRITE);
        CHECK_EQUAL(machine.exit->cr.value, cr0);
        CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
        CHECK_EQUAL(GUEST_CONTINUE(), CR0_TS);
        CHECK_EQUAL(guest_state().cr0, cr0);
    }
    CHECK_OK(virtx_intercept_remove(set));
    CHECK_EQUAL(GUEST_RESULT(guest_cr, 1), CR0_TS);
}

static void clts_and_lmsw(void)
{
    machine_open();
    intercept_cr(0, VIRTX_WRITE, CR0_TS);
    guest_prepare(guest_cr, 2);
    struct virtx_state state = guest_state();
    state.cr0 |= CR0_TS;
    guest_set_state(VIRTX_STATE_CR, &state);
    expect_cr(0, VIRTX_WRITE, 0xff, state.cr0 & ~(uint64_t)CR0_TS);
    CHECK_EQUAL(GUEST_CONTINUE(), 0);
    guest_prepare(guest_cr, 5);
    expect_cr(0, VIRTX_WRITE, 0xff, guest_state().cr0 | CR0_TS);
    CHECK_EQUAL(GUEST_CONTINUE(), CR0_TS);
}

static void cr3(void)
{
    machine_open();
    GUEST_RESULT(guest_cr, 3);
    uint64_t before = guest_exits();
    GUEST_RESULT(guest_cr, 3);
    GUEST_RESULT(guest_cr, 4);
    if (paging_is_nested() && !harness_interpreted() && !bare_option("lazy"))
        CHECK(guest_exits() - before <= 2 + 2); /* no exit but OUT, and pages not touched before */
    intercept_cr(3, RW, 0);
    uint64_t value = guest_state().cr3;
    guest_prepare(guest_cr, 3);
    expect_cr(3, VIRTX_READ, VIRTX_R11, value);
    GUEST_CONTINUE();
    guest_prepare(guest_cr, 4);
    if (CHECK(EXPECT_EXIT(VIRTX_EXIT_CR)))
        CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
    expect_cr(3, VIRTX_WRITE, VIRTX_R11, value);
    GUEST_CONTINUE();
    CHECK_EQUAL(guest_state().cr3, value);
}

static void guest_load_cr3(uint64_t value)
{
    __asm__ volatile("movq %0, %%r11; movq %%r11, %%cr3" : : "r"(value) : "r11", "memory");
    guest_done(bare_read_cr3());
}

static uint64_t cr_exits(void)
{
    struct virtx_stats stats;

    virtx_vcpu_stats(machine.vcpu, &stats);
    return stats.exits[VIRTX_EXIT_CR];
}

/* Listed values do not come to the loop, all others do; the low bits tell them apart. */
static void cr3_targets(void)
{
    machine_open();
    guest_prepare(guest_load_cr3, 0);
    uint64_t value = guest_state().cr3, back[VIRTX_CR3_TARGETS];
    const uint64_t list[5] = {value, value | 8};
    bool hardware = backend_is("vmx") && paging_is_nested() && !harness_interpreted() &&
                    has_feature(VIRTX_FEATURE_UNPAGED_GUEST);

    intercept_cr(3, VIRTX_WRITE, 0);
    CHECK_EQUAL(virtx_vcpu_set_cr3_targets(machine.vcpu, list, 5), VIRTX_E_RANGE);
    CHECK_EQUAL(virtx_vcpu_set_cr3_targets(machine.vcpu, NULL, 1), VIRTX_E_INVALID);
    CHECK_EQUAL(virtx_vcpu_cr3_targets(machine.vcpu, back), 0);
    CHECK_OK(virtx_vcpu_set_cr3_targets(machine.vcpu, list, 2));
    CHECK_EQUAL(virtx_vcpu_cr3_targets(machine.vcpu, back), 2);
    CHECK_EQUAL(back[1], value | 8);
    for (unsigned i = 0; i < 2; i++) {
        uint64_t before = cr_exits();

        CHECK_EQUAL(GUEST_RESULT(guest_load_cr3, list[i]), list[i]);
        CHECK_EQUAL(guest_state().cr3, list[i]);
        if (hardware)
            CHECK_EQUAL(cr_exits(), before);
    }
    guest_prepare(guest_load_cr3, value | 0x10);
    expect_cr(3, VIRTX_WRITE, VIRTX_R11, value | 0x10);
    CHECK_EQUAL(GUEST_CONTINUE(), value | 0x10);
    CHECK_OK(virtx_vcpu_set_cr3_targets(machine.vcpu, NULL, 0));
    guest_prepare(guest_load_cr3, value);
    expect_cr(3, VIRTX_WRITE, VIRTX_R11, value);
    CHECK_EQUAL(GUEST_CONTINUE(), value);
}

static volatile uint64_t seen_cr4;
static volatile int vmxe_vector;

static void guest_vmxe(uint64_t argument)
{
    (void)argument;
    seen_cr4 = bare_read_cr4();
    vmxe_vector = GUEST_TRY("movq %0, %%cr4", : "r"(seen_cr4 | CR4_VMXE) : "memory");
    bare_write_cr4(seen_cr4 | CR4_PGE);
    guest_done(bare_read_cr4() & CR4_PGE);
}

static void read_shadow(void)
{
    machine_open();
    CHECK_EQUAL(GUEST_RESULT(guest_vmxe, 0), CR4_PGE);
    CHECK_EQUAL(seen_cr4 & CR4_VMXE, 0); /* though under VMX it must be 1 */
    CHECK_EQUAL(vmxe_vector, 13);        /* a bit that this processor does not have */
    CHECK_EQUAL(guest_state().cr4 & (CR4_VMXE | CR4_PGE), CR4_PGE);
}

/* ---- Debug registers ---- */

static void guest_dr(uint64_t value)
{
    uint64_t back;

    __asm__ volatile("movq %0, %%dr2" : : "r"(value));
    __asm__ volatile("movq %%dr2, %0" : "=r"(back));
    guest_done(back);
}

static void debug_registers(void)
{
    machine_open();
    CHECK_EQUAL(GUEST_RESULT(guest_dr, 0x12345678), 0x12345678);
    CHECK_EQUAL(guest_state().dr[2], 0x12345678);
    struct virtx_intercept *set = intercept(VIRTX_INTERCEPT_DR, VIRTX_WRITE, 2, 2);
    guest_prepare(guest_dr, 0x2222);
    if (CHECK(EXPECT_EXIT(VIRTX_EXIT_DR))) {
        CHECK_EQUAL(machine.exit->cr.reg, 2);
        CHECK_EQUAL(machine.exit->cr.access, VIRTX_WRITE);
        CHECK_EQUAL(machine.exit->cr.value, 0x2222);
        CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
        CHECK_EQUAL(GUEST_CONTINUE(), 0x2222);
    }
    CHECK_OK(virtx_intercept_remove(set));
    set = intercept(VIRTX_INTERCEPT_DR, VIRTX_READ, 2, 2);
    guest_prepare(guest_dr, 0x3333);
    if (CHECK(EXPECT_EXIT(VIRTX_EXIT_DR))) {
        CHECK_EQUAL(machine.exit->cr.access, VIRTX_READ);
        CHECK_EQUAL(machine.exit->cr.value, 0x3333);
        CHECK_OK(virtx_vcpu_complete(machine.vcpu, &(uint64_t){0x4444}));
        CHECK_EQUAL(GUEST_CONTINUE(), 0x4444);
    }
    CHECK_OK(virtx_intercept_remove(set));
    CHECK_EQUAL(GUEST_RESULT(guest_dr, 0x55), 0x55);
}

GUEST_CASES({"exceptions-armed-and-unarmed", exceptions}, {"exception-dropped", exception_dropped},
            {"page-fault-filter", page_fault_filter}, {"cr0-mask", cr_mask},
            {"clts-and-lmsw", clts_and_lmsw}, {"mov-cr3", cr3}, {"cr3-targets", cr3_targets},
            {"cr4-read-shadow", read_shadow}, {"debug-registers", debug_registers});
