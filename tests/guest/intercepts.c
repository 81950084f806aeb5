/* SPDX-License-Identifier: BSD-2-Clause */
/* What exits when it is asked for, and what does not when it is not: MSRs, CPUID, hypercalls,
 * MMIO; and who may ask. */
#include "harness.h"

enum {
    MSR_SYSENTER_CS = 0x174,
    MSR_PAT = 0x277,
};

static uint64_t handler_calls;

/* ---- MSRs ---- */

static struct msr_access {
    uint32_t index;
    bool write;
    uint64_t value;
    int vector;
} msr;

static void guest_msr(uint64_t argument)
{
    uint32_t low = (uint32_t)msr.value, high = (uint32_t)(msr.value >> 32);

    (void)argument;
    if (msr.write) {
        msr.vector = GUEST_TRY("wrmsr", : "a"(low), "d"(high), "c"(msr.index) : "memory");
    } else {
        msr.vector = GUEST_TRY("rdmsr", "=a"(low), "=d"(high) : "c"(msr.index) : "memory");
        msr.value = (uint64_t)high << 32 | low;
    }
    guest_done(0);
}

/* True: it came to the loop, which answers with `answer`. */
static bool msr_exits(uint32_t index, bool write, uint64_t value, uint64_t answer)
{
    msr = (struct msr_access){.index = index, .write = write, .value = value};
    guest_prepare_again(guest_msr, 0);
    if (guest_continue(NULL))
        return false;
    CHECK_EQUAL(machine.exit->reason, VIRTX_EXIT_MSR);
    CHECK_EQUAL(machine.exit->msr.index, index);
    CHECK_EQUAL(machine.exit->msr.access, write ? VIRTX_WRITE : VIRTX_READ);
    if (write)
        CHECK_EQUAL(machine.exit->msr.value, value);
    CHECK_OK(virtx_vcpu_complete(machine.vcpu, &answer));
    CHECK_EQUAL(GUEST_CONTINUE(), 0);
    CHECK_EQUAL(msr.vector, -1ul);
    return true;
}

static void msrs_unknown(void)
{
    static const uint32_t unknown[] = {0x1234,     0x1ffe,     0x1fff,     0x2000,     0x4b564d00,
                                       0xbfffffff, 0xc0000fff, 0xc0001ffe, 0xc0001fff, 0xc0002000,
                                       0xc0011ffe, 0xc0012000, 0xffffffff};

    machine_open();
    guest_prepare(guest_msr, 0);
    for (unsigned i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++) {
        if (!CHECK(msr_exits(unknown[i], false, 0, 0x123456789abcdef0)) ||
            !CHECK(msr_exits(unknown[i], true, 0xfedcba9876543210, 0)))
            bare_printf("  MSR 0x%x\n", unknown[i]);
        msr.value = 0;
        msr_exits(unknown[i], false, 0, 0x123456789abcdef0);
        CHECK_EQUAL(msr.value, 0x123456789abcdef0);
    }
    /* The embedder may refuse. */
    msr = (struct msr_access){.index = 0x1234};
    guest_prepare(guest_msr, 0);
    CHECK(EXPECT_EXIT(VIRTX_EXIT_MSR));
    CHECK_OK(virtx_vcpu_fault(
        machine.vcpu,
        &(struct virtx_event){.type = VIRTX_EVENT_EXCEPTION, .vector = 13, .has_error = true}));
    CHECK_EQUAL(GUEST_CONTINUE(), 0);
    CHECK_EQUAL(msr.vector, 13);
    CHECK_EQUAL(guest_trap.error, 0);
}

/* Reads and writes apart, in both ranges of the bitmaps. */
static void msrs_apart(void)
{
    static const uint32_t direct[] = {MSR_SYSENTER_CS, 0xc0000082}; /* LSTAR */

    machine_open();
    guest_prepare(guest_msr, 0);
    for (unsigned i = 0; i < 2; i++) {
        CHECK(!msr_exits(direct[i], true, 0x7000, 0));
        CHECK(!msr_exits(direct[i], false, 0, 0));
        CHECK_EQUAL(msr.value, 0x7000);
        struct virtx_intercept *set =
            intercept(VIRTX_INTERCEPT_MSR, VIRTX_WRITE, direct[i], direct[i]);
        CHECK(msr_exits(direct[i], true, 0x8000, 0));
        CHECK(!msr_exits(direct[i] + 1, true, 0x5000, 0));
        CHECK(!msr_exits(direct[i] - 1, true, 0, 0) || i == 0);
        CHECK(!msr_exits(direct[i], false, 0, 0));
        CHECK_EQUAL(msr.value, 0x7000); /* the write stayed with the loop */
        CHECK_OK(virtx_intercept_remove(set));
        set = intercept(VIRTX_INTERCEPT_MSR, VIRTX_READ, direct[i], direct[i]);
        CHECK(!msr_exits(direct[i], true, 0x9000, 0));
        CHECK(msr_exits(direct[i], false, 0, 0x42));
        CHECK_EQUAL(msr.value, 0x42);
        CHECK_OK(virtx_intercept_remove(set));
        CHECK(!msr_exits(direct[i], false, 0, 0));
        CHECK_EQUAL(msr.value, 0x9000);
    }
}

static enum virtx_verdict msr_verdict;

static enum virtx_verdict on_msr(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    (void)ctx;
    handler_calls++;
    if (msr_verdict == VIRTX_HANDLED)
        exit->msr.value = 0x77;
    if (msr_verdict == VIRTX_FAULT) {
        CHECK_OK(virtx_vcpu_inject(
            vcpu,
            &(struct virtx_event){.type = VIRTX_EVENT_EXCEPTION, .vector = 13, .has_error = true}));
    }
    return msr_verdict;
}

static void verdicts(void)
{
    machine_open();
    guest_prepare(guest_msr, 0);
    intercept_handler(VIRTX_INTERCEPT_MSR, RW, MSR_PAT, MSR_PAT, on_msr, NULL);
    handler_calls = 0;
    msr_verdict = VIRTX_HANDLED;
    CHECK(!msr_exits(MSR_PAT, false, 0, 0));
    CHECK_EQUAL(msr.value, 0x77);
    msr_verdict = VIRTX_TO_LOOP;
    CHECK(msr_exits(MSR_PAT, false, 0, 0x88));
    CHECK_EQUAL(msr.value, 0x88);
    msr_verdict = VIRTX_DEFAULT;
    CHECK(!msr_exits(MSR_PAT, false, 0, 0));
    CHECK_EQUAL(msr.value, 0x0007040600070406); /* the value after RESET */
    msr_verdict = VIRTX_FAULT;
    CHECK(!msr_exits(MSR_PAT, false, 0, 0));
    CHECK_EQUAL(msr.vector, 13);
    CHECK_EQUAL(handler_calls, 4);
}

/* ---- CPUID; VM and vcpu; holes ---- */

static struct bare_cpuid cpuid_result;

static void guest_cpuid(uint64_t leaf)
{
    cpuid_result = bare_cpuid((uint32_t)leaf, 0);
    guest_done(0);
}

static enum virtx_verdict on_cpuid(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    (void)vcpu;
    (void)ctx;
    handler_calls++;
    if (exit->cpuid.leaf == 1)
        exit->cpuid.ecx |= 1u << 31; /* "a hypervisor is present" */
    else
        exit->cpuid.eax = exit->cpuid.ebx = exit->cpuid.ecx = exit->cpuid.edx = 0x1111;
    return VIRTX_HANDLED;
}

static void cpuid(void)
{
    machine_open();
    handler_calls = 0;
    GUEST_RESULT(guest_cpuid, 1);
    struct bare_cpuid plain = cpuid_result;
    struct virtx_intercept *set = intercept_handler(VIRTX_INTERCEPT_CPUID, 0, 1, 1, on_cpuid, NULL);
    GUEST_RESULT(guest_cpuid, 1);
    CHECK_EQUAL(cpuid_result.ecx, plain.ecx | 1u << 31);
    CHECK_EQUAL(cpuid_result.eax, plain.eax);
    CHECK_EQUAL(handler_calls, 1);
    GUEST_RESULT(guest_cpuid, 0);
    CHECK_EQUAL(handler_calls, 1);
    CHECK_OK(virtx_intercept_remove(set));
    GUEST_RESULT(guest_cpuid, 1);
    CHECK_EQUAL(cpuid_result.ecx, plain.ecx);
    /* To the loop; completing without a value gives the policy's answer. */
    set = intercept(VIRTX_INTERCEPT_CPUID, 0, 0, 0xffffffff);
    guest_prepare(guest_cpuid, 1);
    CHECK(SERVE(VIRTX_EXIT_CPUID, NULL));
    CHECK_EQUAL(machine.exit->cpuid.leaf, 1);
    GUEST_CONTINUE();
    CHECK_EQUAL(cpuid_result.edx, plain.edx);
    /* A hole for one vcpu. */
    struct virtx_intercept_config hole = {.size = sizeof(hole),
                                          .kind = VIRTX_INTERCEPT_CPUID,
                                          .action = VIRTX_ACTION_DEFAULT,
                                          .first = 1,
                                          .last = 1};
    struct virtx_intercept *mine = NULL;
    CHECK_OK(virtx_vcpu_intercept(machine.vcpu, &hole, &mine));
    GUEST_RESULT(guest_cpuid, 1);
    CHECK_EQUAL(cpuid_result.edx, plain.edx);
    guest_prepare(guest_cpuid, 0);
    CHECK(SERVE(VIRTX_EXIT_CPUID, NULL));
    /* The vcpu's own wins over the VM's. */
    CHECK_OK(virtx_intercept_remove(mine));
    hole.action = VIRTX_ACTION_EXIT;
    hole.handler = on_cpuid;
    CHECK_OK(virtx_vcpu_intercept(machine.vcpu, &hole, &mine));
    GUEST_RESULT(guest_cpuid, 1);
    CHECK_EQUAL(cpuid_result.ecx, plain.ecx | 1u << 31);
    CHECK_OK(virtx_intercept_remove(mine));
    CHECK_OK(virtx_intercept_remove(set));
}

static void guest_cpuid_rdtsc(uint64_t argument)
{
    (void)argument;
    bare_cpuid(0, 0);
    bare_tsc();
    guest_done(0);
}

/* B13: one VM exits on CPUID, the other on RDTSC only. */
static void two_policies(void)
{
    struct virtx_vcpu *other;
    struct virtx_intercept *set;
    struct virtx_intercept_config config = {.size = sizeof(config),
                                            .kind = VIRTX_INTERCEPT_INSTRUCTION,
                                            .first = VIRTX_INSN_RDTSC,
                                            .last = VIRTX_INSN_RDTSC};

    machine_open();
    struct virtx_vm *vm = vm_make(&other);
    intercept(VIRTX_INTERCEPT_CPUID, 0, 0, 0);
    CHECK_OK(virtx_vm_intercept(vm, &config, &set));
    guest_prepare(guest_cpuid_rdtsc, 0);
    vcpu_prepare(other, 1, guest_cpuid_rdtsc, 0);
    CHECK(SERVE(VIRTX_EXIT_CPUID, NULL));
    CHECK(!vcpu_continue(other, NULL));
    CHECK_EQUAL(machine.exit->reason, VIRTX_EXIT_INSTRUCTION);
    CHECK_EQUAL(machine.exit->instruction.which, VIRTX_INSN_RDTSC);
    CHECK_OK(virtx_vcpu_complete(other, NULL));
    CHECK_EQUAL(GUEST_CONTINUE(), 0);
    CHECK(vcpu_continue(other, NULL));
    CHECK_OK(virtx_vcpu_destroy(other));
    CHECK_OK(virtx_vm_destroy(vm));
}

/* ---- Hypercalls ---- */

static volatile int call_vector, other_vector;
static volatile uint64_t call_result;

static void guest_call_own(uint64_t number)
{
    uint64_t rax = number;

    if (guest_has_svm)
        call_vector = GUEST_TRY("vmmcall", "+a"(rax) : : "memory");
    else
        call_vector = GUEST_TRY("vmcall", "+a"(rax) : : "memory");
    call_result = rax;
}

static void guest_calls(uint64_t number)
{
    uint64_t rax = number;

    guest_call_own(number);
    if (guest_has_svm)
        other_vector = GUEST_TRY("vmcall", "+a"(rax) : : "memory");
    else
        other_vector = GUEST_TRY("vmmcall", "+a"(rax) : : "memory");
    guest_done(0);
}

static void guest_user_call(uint64_t number)
{
    guest_ring3(guest_call_own, number);
    guest_done(0);
}

static void hypercalls(void)
{
    machine_open();
    CHECK_EQUAL(GUEST_RESULT(guest_calls, 1), 0);
    CHECK_EQUAL(call_vector, 6);
    CHECK_EQUAL(other_vector, 6); /* the other vendor's */
    struct virtx_intercept *set = intercept(VIRTX_INTERCEPT_HYPERCALL, 0, 0, 0);
    guest_prepare(guest_calls, 0x1234567890);
    if (CHECK(EXPECT_EXIT(VIRTX_EXIT_HYPERCALL))) {
        CHECK_EQUAL(machine.exit->hypercall.number, 0x1234567890);
        CHECK_EQUAL(machine.exit->hypercall.cpl, 0);
        CHECK_EQUAL(machine.exit->length, 3);
        virtx_vcpu_gpr(machine.vcpu)[VIRTX_RAX] = 0x5a5a;
        CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
        CHECK_EQUAL(GUEST_CONTINUE(), 0);
        CHECK_EQUAL(call_vector, -1ul);
    }
    guest_prepare(guest_user_call, 7);
    if (CHECK(EXPECT_EXIT(VIRTX_EXIT_HYPERCALL))) {
        CHECK_EQUAL(machine.exit->hypercall.cpl, 3);
        CHECK_OK(virtx_vcpu_fault(
            machine.vcpu, &(struct virtx_event){.type = VIRTX_EVENT_EXCEPTION, .vector = 6}));
        CHECK_EQUAL(GUEST_CONTINUE(), 0);
        CHECK_EQUAL(call_vector, 6);
    }
    CHECK_OK(virtx_intercept_remove(set));
    CHECK_EQUAL(GUEST_RESULT(guest_calls, 1), 0);
    CHECK_EQUAL(call_vector, 6);
}

static enum virtx_verdict on_hypercall(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    (void)ctx;
    CHECK_EQUAL(virtx_vcpu_gpr(vcpu)[VIRTX_RAX], exit->hypercall.number);
    exit->hypercall.number *= 3;
    return VIRTX_HANDLED;
}

static void hypercall_handler(void)
{
    machine_open();
    intercept_handler(VIRTX_INTERCEPT_HYPERCALL, 0, 0, 0, on_hypercall, NULL);
    CHECK_EQUAL(GUEST_RESULT(guest_calls, 14), 0);
    CHECK_EQUAL(call_vector, -1ul);
    CHECK_EQUAL(call_result, 42);
}

/* ---- MMIO intercepts ---- */

static enum virtx_verdict on_mmio(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    uint64_t *cell = ctx;

    (void)vcpu;
    if (exit->mmio.access == VIRTX_WRITE)
        *cell = exit->mmio.value;
    else
        exit->mmio.value = *cell + (exit->mmio.gpa & 0xff);
    return VIRTX_HANDLED;
}

static void guest_mmio(uint64_t gva)
{
    volatile uint32_t *cell = (volatile uint32_t *)(uintptr_t)gva;

    cell[0] = 0x100;
    guest_done(cell[0] + cell[1]);
}

static void mmio_handler(void)
{
    uint64_t cell = 0;

    machine_open();
    struct virtx_intercept *set =
        intercept_handler(VIRTX_INTERCEPT_MMIO, RW, GUEST_HOLE, GUEST_HOLE + 7, on_mmio, &cell);
    CHECK_EQUAL(GUEST_RESULT(guest_mmio, GUEST_HOLE), 0x204);
    CHECK_EQUAL(cell, 0x100);
    guest_prepare(guest_mmio, GUEST_HOLE + 8);
    CHECK(EXPECT_EXIT(VIRTX_EXIT_MMIO));
    CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
    CHECK_OK(virtx_intercept_remove(set));
    guest_prepare(guest_mmio, GUEST_HOLE);
    CHECK(EXPECT_EXIT(VIRTX_EXIT_MMIO));
    CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
}

/* ---- Refusals ---- */

static void refused(void)
{
    static const struct {
        struct virtx_intercept_config config;
        enum virtx_status status;
    } bad[] = {
        {{.kind = VIRTX_INTERCEPT_PORT, .access = RW, .first = 5, .last = 4}, VIRTX_E_RANGE},
        {{.kind = VIRTX_INTERCEPT_PORT, .access = RW, .first = 5, .last = 0x10000}, VIRTX_E_RANGE},
        {{.kind = VIRTX_INTERCEPT_KIND_COUNT, .access = RW}, VIRTX_E_INVALID},
        {{.kind = VIRTX_INTERCEPT_PORT, .access = 0}, VIRTX_E_INVALID},
        {{.kind = VIRTX_INTERCEPT_EXCEPTION, .first = 32, .last = 32}, VIRTX_E_RANGE},
        {{.kind = VIRTX_INTERCEPT_INSTRUCTION, .first = VIRTX_INSN_COUNT, .last = VIRTX_INSN_COUNT},
         VIRTX_E_RANGE},
        {{.kind = VIRTX_INTERCEPT_PORT, .access = RW, .first = 0x310, .last = 0x320},
         VIRTX_E_OVERLAP},
    };
    struct virtx_intercept *set = NULL;

    machine_open();
    intercept(VIRTX_INTERCEPT_PORT, RW, 0x300, 0x310);
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct virtx_intercept_config config = bad[i].config;
        config.size = sizeof(config);
        if (!CHECK_STATUS(virtx_vm_intercept(machine.vm, &config, &set), bad[i].status))
            bare_printf("  row %u\n", i);
    }
    struct virtx_intercept_config small = {.size = 8, .kind = VIRTX_INTERCEPT_PORT, .access = RW};
    CHECK_STATUS(virtx_vm_intercept(machine.vm, &small, &set), VIRTX_E_SIZE);
}

/* ---- CPUID that changes while the guest runs ---- */

enum { FEATURE_PGE = 1 << 13, FEATURE_SEP = 1 << 11, CR4_BIT_PGE = 1 << 7 };
static volatile struct {
    uint32_t edx;
    int cr4, sysenter;
} live_seen;

/* Looks, and says so, for ever. */
static void guest_live_cpuid(uint64_t argument)
{
    uint64_t cr4 = bare_read_cr4() & ~(uint64_t)CR4_BIT_PGE;

    (void)argument;
    for (;;) {
        live_seen.edx = bare_cpuid(1, 0).edx;
        live_seen.cr4 = GUEST_TRY("movq %0, %%cr4", : "r"(cr4 | CR4_BIT_PGE));
        __asm__ volatile("movq %0, %%cr4" : : "r"(cr4));
        live_seen.sysenter = GUEST_TRY("rdmsr", : "c"(MSR_SYSENTER_CS) : "rax", "rdx");
        __asm__ volatile("outb %%al, $0x80" : : "a"(0));
    }
}

/* Lets the guest look, and compares. */
static void live_look(bool pge, bool sep)
{
    CHECK(EXPECT_EXIT(VIRTX_EXIT_IO));
    CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
    CHECK_EQUAL(!!(live_seen.edx & FEATURE_PGE), pge);
    CHECK_EQUAL(live_seen.cr4, pge ? -1 : 13);
    CHECK_EQUAL(!!(live_seen.edx & FEATURE_SEP), sep);
    CHECK_EQUAL(live_seen.sysenter, sep ? -1 : 13);
}

static void cpuid_live(void)
{
    struct virtx_cpuid_entry one, less;

    machine_open();
    CHECK_OK(virtx_vm_cpuid_get(machine.vm, 1, 0, &one));
    guest_prepare(guest_live_cpuid, 0);
    live_look(true, true);
    less = one;
    less.edx &= ~(uint32_t)FEATURE_PGE;
    CHECK_OK(virtx_vm_cpuid_set(machine.vm, &less)); /* the VM's */
    live_look(false, true);
    less.edx = one.edx & ~(uint32_t)FEATURE_SEP; /* one vcpu's goes before it */
    CHECK_OK(virtx_vcpu_cpuid_set(machine.vcpu, &less));
    live_look(true, false);
    CHECK_OK(virtx_vcpu_cpuid_reset(machine.vcpu));
    live_look(false, true);
    CHECK_OK(virtx_vm_cpuid_set(machine.vm, &one));
    live_look(true, true);
    less.ecx ^= 1u << 26; /* XSAVE stays as it is */
    CHECK_STATUS(virtx_vcpu_cpuid_set(machine.vcpu, &less),
                 one.ecx & 1u << 26 ? VIRTX_E_BUSY : VIRTX_E_UNSUPPORTED);
}

GUEST_CASES({"cpuid-live", cpuid_live}, {"unknown-msrs-exit", msrs_unknown},
            {"msr-reads-and-writes-apart", msrs_apart}, {"handler-verdicts", verdicts},
            {"cpuid-and-owners", cpuid}, {"two-vms-two-policies", two_policies},
            {"hypercalls", hypercalls}, {"hypercall-handler", hypercall_handler},
            {"mmio-handler", mmio_handler}, {"intercepts-refused", refused});
