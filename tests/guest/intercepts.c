/* SPDX-License-Identifier: BSD-2-Clause */
/* What exits when it is asked for, and what does not when it is not: ports, MSRs, CPUID,
 * hypercalls, exceptions, control and debug registers, instructions. */
#include "harness.h"

enum {
    PAGE = 4096,
    MSR_SYSENTER_CS = 0x174,
    MSR_PAT = 0x277,
    CR0_TS = 8,
    CR0_WP = 1 << 16,
    CR4_VMXE = 1 << 13,
    CR4_PGE = 1 << 7,
};

static struct virtx_intercept *set_action(uint32_t kind, uint32_t access, uint64_t first,
                                          uint64_t last, uint32_t action)
{
    struct virtx_intercept_config config = {.size = sizeof(config),
                                            .kind = kind,
                                            .access = access,
                                            .action = action,
                                            .first = first,
                                            .last = last};
    struct virtx_intercept *result = NULL;

    CHECK_OK(virtx_vm_intercept(machine.vm, &config, &result));
    return result;
}

/* Runs to the next exit, which must be of this reason, and completes it. */
static bool step(enum virtx_exit_reason reason, const void *value)
{
    if (!EXPECT_EXIT(reason) || !CHECK(machine.exit->pending))
        return false;
    return CHECK_OK(virtx_vcpu_complete(machine.vcpu, value));
}

/* ---- Ports ---- */

enum { RW = VIRTX_READ | VIRTX_WRITE };

static struct port_access {
    uint16_t port;
    uint8_t size;
    bool write;
} port_access;

static volatile uint32_t port_value;

static void guest_port(uint64_t argument)
{
    (void)argument;
    uint16_t port = port_access.port;

    if (port_access.write) {
        switch (port_access.size) {
        case 1:
            bare_out8(port, 0x11);
            break;
        case 2:
            bare_out16(port, 0x2211);
            break;
        default:
            bare_out32(port, 0x44332211);
        }
    } else {
        port_value = port_access.size == 1   ? bare_in8(port)
                     : port_access.size == 2 ? bare_in16(port)
                                             : bare_in32(port);
    }
    guest_done(0);
}

static bool port_exits(uint16_t port, uint8_t size, bool write)
{
    port_access = (struct port_access){port, size, write};
    guest_prepare(guest_port, 0);
    if (guest_continue(NULL))
        return false;
    CHECK_EQUAL(machine.exit->reason, VIRTX_EXIT_IO);
    CHECK_EQUAL(machine.exit->io.port, port);
    CHECK_EQUAL(machine.exit->io.size, size);
    CHECK_EQUAL(machine.exit->io.access, write ? VIRTX_WRITE : VIRTX_READ);
    CHECK_EQUAL(machine.exit->io.count, 1);
    CHECK_EQUAL(machine.exit->io.string, 0);
    if (write)
        CHECK_EQUAL(machine.exit->io.value, size == 1 ? 0x11 : size == 2 ? 0x2211 : 0x44332211);
    CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
    CHECK_EQUAL(GUEST_CONTINUE(), 0);
    return true;
}

/* Nothing answers at these ports of the emulated PCs. */
static void ports(void)
{
    static const struct {
        uint16_t port;
        uint8_t size;
        bool exits;
    } table[] = {
        {0x7ffe, 1, true}, {0x7fff, 1, false}, {0x8000, 1, true},  {0x7ffe, 2, true},
        {0x7fff, 2, true}, {0x7ffd, 4, true},  {0x7ffc, 4, true},  {0x8001, 4, true},
        {0xfffe, 1, true}, {0xffff, 1, false}, {0xffff, 2, true},  {0xfffe, 2, true},
        {0xffff, 4, true}, {0xa000, 1, false}, {0xa000, 2, false}, {0xa000, 4, false},
        {0x9fff, 2, true}, {0xa003, 1, false}, {0xa003, 2, true},  {0xa004, 1, true},
    };

    machine_open();
    set_action(VIRTX_INTERCEPT_PORT, RW, 0x7fff, 0x7fff, VIRTX_ACTION_ALLOW);
    set_action(VIRTX_INTERCEPT_PORT, RW, 0xffff, 0xffff, VIRTX_ACTION_ALLOW);
    set_action(VIRTX_INTERCEPT_PORT, RW, 0xa000, 0xa003, VIRTX_ACTION_ALLOW);
    for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        for (unsigned write = 0; write < 2; write++) {
            if (!CHECK_EQUAL(port_exits(table[i].port, table[i].size, write), table[i].exits))
                bare_printf("  port 0x%x size %u\n", table[i].port, table[i].size);
        }
    }
    struct virtx_intercept *more =
        set_action(VIRTX_INTERCEPT_PORT, RW, 0x8000, 0x8000, VIRTX_ACTION_ALLOW);
    CHECK(!port_exits(0x7fff, 2, true));
    CHECK(!port_exits(0x8000, 1, false));
    CHECK(port_exits(0x8000, 2, false));
    CHECK_OK(virtx_intercept_remove(more));
    CHECK(port_exits(0x7fff, 2, true));
    CHECK(!port_exits(0x7fff, 1, true));
}

static uint64_t handler_calls;

static enum virtx_verdict on_port(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    (void)vcpu;
    CHECK(ctx == &handler_calls);
    handler_calls++;
    if (exit->io.access == VIRTX_READ)
        exit->io.value = 0xa5a5a5a5;
    return VIRTX_HANDLED;
}

static void port_handler(void)
{
    machine_open();
    handler_calls = 0;
    intercept_handler(VIRTX_INTERCEPT_PORT, VIRTX_READ, 0x300, 0x303, on_port, &handler_calls);
    CHECK(!port_exits(0x300, 4, false));
    CHECK_EQUAL(port_value, 0xa5a5a5a5);
    CHECK(!port_exits(0x303, 1, false));
    CHECK_EQUAL(port_value, 0xa5);
    CHECK_EQUAL(handler_calls, 2);
    CHECK(port_exits(0x300, 1, true)); /* writes are not its business */
    CHECK(port_exits(0x304, 1, false));
    CHECK_EQUAL(port_value, 0xff);
    CHECK_EQUAL(handler_calls, 2);
}

/* ---- String I/O ---- */

static struct string_access {
    uint64_t address, count, final_address, final_count;
    bool write, down, rep;
    uint8_t size;
} string;

#define STRING_IO(text)                                                                            \
    __asm__ volatile(text : "+S"(address), "+D"(other), "+c"(count) : "d"(0x321) : "memory", "cc")

static void guest_string(uint64_t argument)
{
    uint64_t address = string.address, other = address, count = string.count;

    (void)argument;
    if (string.down)
        __asm__ volatile("std");
    if (string.write) {
        if (!string.rep)
            STRING_IO("outsb");
        else if (string.size == 1)
            STRING_IO("rep outsb");
        else if (string.size == 2)
            STRING_IO("rep outsw");
        else
            STRING_IO("rep outsl");
    } else {
        if (!string.rep)
            STRING_IO("insb");
        else if (string.size == 1)
            STRING_IO("rep insb");
        else if (string.size == 2)
            STRING_IO("rep insw");
        else
            STRING_IO("rep insl");
    }
    __asm__ volatile("cld");
    string.final_address = string.write ? address : other;
    string.final_count = count;
    guest_done(0);
}

/* Runs a string instruction; the accesses' bytes, in their order, go to or come from `stream`. */
static unsigned run_string(uint8_t *stream)
{
    unsigned bytes = 0;

    guest_prepare(guest_string, 0);
    while (!guest_continue(NULL)) {
        const struct virtx_exit *exit = machine.exit;
        unsigned now;

        if (!CHECK_EQUAL(exit->reason, VIRTX_EXIT_IO) || !CHECK(exit->pending))
            return 0;
        now = exit->io.count * exit->io.size;
        CHECK_EQUAL(exit->io.port, 0x321);
        CHECK_EQUAL(exit->io.size, string.size);
        CHECK(exit->io.string);
        CHECK_EQUAL(exit->io.rep, string.rep);
        CHECK(exit->io.count > 0 && now <= VIRTX_IO_BATCH);
        if (string.write)
            memcpy(stream + bytes, exit->io.data, now);
        CHECK_OK(virtx_vcpu_complete(machine.vcpu, string.write ? NULL : stream + bytes));
        bytes += now;
    }
    return bytes;
}

static uint8_t stream[8192];

static uint8_t pattern(unsigned i)
{
    return (uint8_t)(i * 13 + i / 256 + 1);
}

static void string_io(void)
{
    static const struct {
        uint32_t offset, count;
        uint8_t size;
        bool down, rep;
    } table[] = {
        {0, 1, 1, false, false},    {0, 5, 1, false, true},       {0, 3, 2, false, true},
        {0, 7, 4, false, true},     {0, 1000, 4, false, true},    {0, 600, 1, false, true},
        {0xffd, 9, 2, false, true}, {0xffe, 3, 4, false, true},   {0x800, 9, 1, true, true},
        {0x1002, 9, 4, true, true}, {0x1001, 300, 2, true, true}, {0x123, 0, 1, false, true},
    };

    machine_open();
    for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        for (unsigned write = 0; write < 2; write++) {
            unsigned size = table[i].size, count = table[i].count, total = count * size;
            uint64_t start = GUEST_MEMORY + 0x10000 + table[i].offset;
            unsigned bad = 0;

            string = (struct string_access){.address = start,
                                            .count = count,
                                            .write = write,
                                            .down = table[i].down,
                                            .rep = table[i].rep,
                                            .size = table[i].size};
            for (unsigned j = 0; j < 0x8000; j++)
                machine.ram[0xc000 + j] = write ? pattern(j) : 0;
            for (unsigned j = 0; j < sizeof(stream); j++)
                stream[j] = write ? 0 : pattern(j);
            CHECK_EQUAL(run_string(stream), total);
            for (unsigned j = 0; j < total; j++) {
                int64_t unit = (int64_t)(j / size) * size * (table[i].down ? -1 : 1);
                uint64_t at = 0x10000 + table[i].offset + (uint64_t)unit + j % size;
                bad += machine.ram[at] != stream[j];
                bad += stream[j] != (write ? pattern((unsigned)at - 0xc000) : pattern(j));
            }
            if (!CHECK_EQUAL(bad, 0))
                bare_printf("  string row %u, %s\n", i, write ? "out" : "in");
            CHECK_EQUAL(string.final_count, table[i].rep ? 0 : count);
            CHECK_EQUAL(string.final_address,
                        table[i].down ? start - total : start + (table[i].rep ? total : 1));
        }
    }
}

/* The second page is not there: what came before has happened, then the guest gets its #PF. */
static volatile int string_vector;

static void guest_string_fault(uint64_t write)
{
    uint64_t address = 0x70000ff0, other = address, count = 64;

    if (write) {
        string_vector = GUEST_TRY("rep outsb", "+S"(address), "+c"(count) : "d"(0x321) : "memory");
    } else {
        string_vector = GUEST_TRY("rep insb", "+D"(other), "+c"(count) : "d"(0x321) : "memory");
    }
    string.final_count = count;
    string.final_address = write ? address : other;
    guest_done(0);
}

static void string_fault(void)
{
    machine_open();
    for (unsigned write = 0; write < 2; write++) {
        unsigned bytes = 0;

        *guest_pte(0x70000000) = GUEST_MEMORY | 7;
        *guest_pte(0x70001000) = 0;
        memset(machine.ram, 0x61, PAGE);
        guest_prepare(guest_string_fault, write);
        while (!guest_continue(NULL)) {
            const struct virtx_exit *exit = machine.exit;
            if (!CHECK_EQUAL(exit->reason, VIRTX_EXIT_IO))
                return;
            memset(stream, 0x7a, VIRTX_IO_BATCH);
            bytes += exit->io.count;
            CHECK(bytes <= 16);
            CHECK_OK(virtx_vcpu_complete(machine.vcpu, stream));
        }
        CHECK_EQUAL(bytes, 16);
        CHECK_EQUAL(string_vector, 14);
        CHECK_EQUAL(string.final_count, 48);
        CHECK_EQUAL(string.final_address, 0x70001000);
        CHECK_EQUAL(guest_trap.cr2, 0x70001000);
        CHECK_EQUAL(guest_trap.error, write ? 0 : 2);
        CHECK_EQUAL(machine.ram[PAGE - 1], write ? 0x61 : 0x7a);
    }
}

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
    CHECK(step(VIRTX_EXIT_CPUID, NULL));
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
    CHECK(step(VIRTX_EXIT_CPUID, NULL));
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
    CHECK(step(VIRTX_EXIT_CPUID, NULL));
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
    if (paging_is_nested() && !harness_interpreted())
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

/* ---- Instructions ---- */

static uint64_t monitor_line[8] __attribute__((aligned(64)));
static uint8_t table_image[10];

#define INSN(text, ...)                                                                            \
    __asm__ volatile(text                                                                          \
                     :                                                                             \
                     : "D"((uint64_t)GUEST_MEMORY), __VA_ARGS__                                    \
                     : "rax", "rbx", "rcx", "rdx", "memory")

static void guest_instruction(uint64_t which)
{
    uint64_t image = (uintptr_t)table_image, line = (uintptr_t)monitor_line;

    guest_handler[0x52] = guest_ignore;
    switch (which) {
    case VIRTX_INSN_RDTSC:
        INSN("rdtsc", "S"(image));
        break;
    case VIRTX_INSN_RDTSCP:
        INSN("rdtscp", "S"(image));
        break;
    case VIRTX_INSN_RDPMC:
        GUEST_TRY("rdpmc", : "c"(0) : "rax", "rdx");
        break;
    case VIRTX_INSN_INVLPG:
        INSN("invlpg (%%rdi)", "S"(image));
        break;
    case VIRTX_INSN_INVD:
        INSN("invd", "S"(image));
        break;
    case VIRTX_INSN_WBINVD:
        INSN("wbinvd", "S"(image));
        break;
    case VIRTX_INSN_MONITOR:
        INSN("movq %%rsi, %%rax; xorl %%ecx, %%ecx; xorl %%edx, %%edx; monitor", "S"(line));
        break;
    case VIRTX_INSN_MWAIT:
        INSN("xorl %%eax, %%eax; xorl %%ecx, %%ecx; mwait", "S"(line));
        break;
    case VIRTX_INSN_PAUSE:
        INSN("pause", "S"(image));
        break;
    case VIRTX_INSN_XSETBV:
        INSN("xorl %%ecx, %%ecx; xorl %%edx, %%edx; movl $3, %%eax; xsetbv", "S"(image));
        break;
    case VIRTX_INSN_SGDT:
        INSN("sgdt (%%rsi)", "S"(image));
        break;
    case VIRTX_INSN_SIDT:
        INSN("sidt (%%rsi)", "S"(image));
        break;
    case VIRTX_INSN_LGDT:
        INSN("sgdt (%%rsi); lgdt (%%rsi)", "S"(image));
        break;
    case VIRTX_INSN_LIDT:
        INSN("sidt (%%rsi); lidt (%%rsi)", "S"(image));
        break;
    case VIRTX_INSN_SLDT:
        INSN("sldt %%ax", "S"(image));
        break;
    case VIRTX_INSN_STR:
        INSN("str %%ax", "S"(image));
        break;
    case VIRTX_INSN_LLDT:
        INSN("xorl %%eax, %%eax; lldt %%ax", "S"(image));
        break;
    case VIRTX_INSN_LTR:
        guest_gdt[(GUEST_TSS + 48) / 8] &= ~(2ul << 40); /* not busy */
        INSN("ltr %%si", "S"((uint64_t)GUEST_TSS + 48));
        break;
    case VIRTX_INSN_IRET:
        INSN("movq %%rsp, %%rax; pushq $0x10; pushq %%rax; pushfq; pushq $8; leaq 1f(%%rip), %%rcx;"
             "pushq %%rcx; iretq; movq %%rax, %%rsp; 1:",
             "S"(image));
        break;
    case VIRTX_INSN_INTN:
        INSN("int $0x52", "S"(image));
        break;
    case VIRTX_INSN_PUSHF:
        INSN("movq %%rsp, %%rax; pushfq; movq %%rax, %%rsp", "S"(image));
        break;
    case VIRTX_INSN_POPF:
        INSN("movq %%rsp, %%rax; pushq $2; popfq; movq %%rax, %%rsp", "S"(image));
        break;
    case VIRTX_INSN_RDRAND:
        INSN("rdrand %%rax", "S"(image));
        break;
    case VIRTX_INSN_RDSEED:
        INSN("rdseed %%rax", "S"(image));
        break;
    default:
        break;
    }
    guest_done(which);
}

static const struct insn_row {
    uint8_t which;
    const char *name;
    uint32_t leaf, reg,
        bit;     /* CPUID of the instruction; leaf 0: always there. reg: 1 ebx 2 ecx 3 edx */
    bool forced; /* exits whether asked or not */
    uint8_t length;
} insn_rows[] = {
    {VIRTX_INSN_RDTSC, "RDTSC", 0, 0, 0, false, 2},
    {VIRTX_INSN_RDTSCP, "RDTSCP", 0x80000001, 3, 27, false, 3},
    {VIRTX_INSN_RDPMC, "RDPMC", 0, 0, 0, false, 2},
    {VIRTX_INSN_INVLPG, "INVLPG", 0, 0, 0, false, 3},
    {VIRTX_INSN_INVD, "INVD", 0, 0, 0, true, 2},
    {VIRTX_INSN_WBINVD, "WBINVD", 0, 0, 0, false, 2},
    {VIRTX_INSN_MONITOR, "MONITOR", 1, 2, 3, false, 3},
    {VIRTX_INSN_MWAIT, "MWAIT", 1, 2, 3, false, 3},
    {VIRTX_INSN_PAUSE, "PAUSE", 0, 0, 0, false, 2},
    {VIRTX_INSN_XSETBV, "XSETBV", 1, 2, 26, true, 3},
    {VIRTX_INSN_SGDT, "SGDT", 0, 0, 0, false, 0},
    {VIRTX_INSN_SIDT, "SIDT", 0, 0, 0, false, 0},
    {VIRTX_INSN_LGDT, "LGDT", 0, 0, 0, false, 0},
    {VIRTX_INSN_LIDT, "LIDT", 0, 0, 0, false, 0},
    {VIRTX_INSN_SLDT, "SLDT", 0, 0, 0, false, 0},
    {VIRTX_INSN_STR, "STR", 0, 0, 0, false, 0},
    {VIRTX_INSN_LLDT, "LLDT", 0, 0, 0, false, 3},
    {VIRTX_INSN_LTR, "LTR", 0, 0, 0, false, 3},
    {VIRTX_INSN_IRET, "IRET", 0, 0, 0, false, 2},
    {VIRTX_INSN_INTN, "INT n", 0, 0, 0, false, 2},
    {VIRTX_INSN_PUSHF, "PUSHF", 0, 0, 0, false, 1},
    {VIRTX_INSN_POPF, "POPF", 0, 0, 0, false, 1},
    {VIRTX_INSN_RDRAND, "RDRAND", 1, 2, 30, false, 4},
    {VIRTX_INSN_RDSEED, "RDSEED", 7, 1, 18, false, 4},
};

static bool guest_has(const struct insn_row *row)
{
    struct virtx_cpuid_entry e = {0};

    if (row->leaf == 0)
        return true;
    if (virtx_vm_cpuid_get(machine.vm, row->leaf, 0, &e) != VIRTX_OK)
        return false;
    return (row->reg == 1 ? e.ebx : row->reg == 2 ? e.ecx : e.edx) >> row->bit & 1;
}

static volatile uint64_t pauses;

static void guest_pauses(uint64_t count)
{
    for (pauses = 0; pauses < count; pauses = pauses + 1)
        __asm__ volatile("pause");
    guest_done(count);
}

/* A few PAUSEs do not exit, a loop of them does; without the filter the first one does. */
static void pause_filter(void)
{
    const struct virtx_pause_filter filter = {.gap = 1000, .window = 2000, .count = 100};
    struct virtx_pause_filter bad = filter, back;
    struct virtx_intercept_config config = {.size = sizeof(config),
                                            .kind = VIRTX_INTERCEPT_INSTRUCTION,
                                            .first = VIRTX_INSN_PAUSE,
                                            .last = VIRTX_INSN_PAUSE};
    struct virtx_intercept *set = NULL;

    machine_open();
    if (!has_feature(VIRTX_FEATURE_PAUSE_FILTER)) {
        CHECK_EQUAL(virtx_vcpu_set_pause_filter(machine.vcpu, &filter), VIRTX_E_UNSUPPORTED);
        bare_printf("not shown: pause-filter: this processor has none, and setting one says so\n");
        return;
    }
    bad.count = 0x10000;
    CHECK_EQUAL(virtx_vcpu_set_pause_filter(machine.vcpu, &bad), VIRTX_E_RANGE);
    CHECK_OK(virtx_vcpu_set_pause_filter(machine.vcpu, &filter));
    virtx_vcpu_pause_filter(machine.vcpu, &back);
    CHECK_EQUAL(back.count, 100);
    CHECK_EQUAL(GUEST_RESULT(guest_pauses, 10000), 10000); /* no intercept, no exit */
    if (!CHECK_OK(virtx_vm_intercept(machine.vm, &config, &set)))
        return;
    if (harness_interpreted()) {
        bare_printf("not shown: pause-filter: the executor lets every PAUSE exit\n");
    } else {
        CHECK_EQUAL(GUEST_RESULT(guest_pauses, 10), 10);
        guest_prepare(guest_pauses, 10000);
        if (EXPECT_EXIT(VIRTX_EXIT_INSTRUCTION)) {
            CHECK_EQUAL(machine.exit->instruction.which, VIRTX_INSN_PAUSE);
            CHECK(pauses > 20 && pauses <= 2000);
            if (backend_is("svm"))
                CHECK_EQUAL(pauses, filter.count);
        }
    }
    CHECK_OK(virtx_vcpu_set_pause_filter(machine.vcpu, NULL));
    guest_prepare(guest_pauses, 10000);
    if (EXPECT_EXIT(VIRTX_EXIT_INSTRUCTION))
        CHECK_EQUAL(pauses, 0);
    CHECK_OK(virtx_intercept_remove(set));
    guest_prepare(guest_pauses, 10);
    CHECK_EQUAL(GUEST_CONTINUE(), 10);
}

static void armed_instruction(const struct insn_row *row)
{
    struct virtx_intercept_config config = {.size = sizeof(config),
                                            .kind = VIRTX_INTERCEPT_INSTRUCTION,
                                            .first = row->which,
                                            .last = row->which};
    struct virtx_intercept *set = NULL;
    enum virtx_status status = virtx_vm_intercept(machine.vm, &config, &set);
    bool forced = false;

    if (status == VIRTX_E_UNSUPPORTED) {
        bare_printf("not shown: instructions: %s cannot be intercepted by this processor\n",
                    row->name);
        return;
    }
    if (!CHECK_OK(status))
        return;
    CHECK_OK(virtx_intercept_query(set, &config, &forced));
    CHECK_EQUAL(config.first, row->which);
    if (row->forced)
        CHECK(forced);
    guest_prepare(guest_instruction, row->which);
    struct virtx_state state = guest_state();
    state.cr4 |= guest_has(&(struct insn_row){.leaf = 1, .reg = 2, .bit = 26}) ? 1u << 18 : 0;
    guest_set_state(VIRTX_STATE_CR, &state);
    if (row->which == VIRTX_INSN_INVD && engine_is("qemu"))
        known_bug("QEMU reports INVD as WBINVD");
    if (row->which == VIRTX_INSN_RDTSCP && engine_is("qemu"))
        known_bug("QEMU does not intercept RDTSCP");
    if (row->which == VIRTX_INSN_XSETBV && engine_is("qemu"))
        known_bug("QEMU does not intercept XSETBV");
    bool good = EXPECT_EXIT(VIRTX_EXIT_INSTRUCTION) &&
                CHECK_EQUAL(machine.exit->instruction.which, row->which);
    if (good && row->which == VIRTX_INSN_INVLPG)
        good = CHECK_EQUAL(machine.exit->instruction.operand, GUEST_MEMORY);
    if (good && row->length != 0)
        good = CHECK_EQUAL(machine.exit->length, row->length);
    if (good && machine.exit->reason == VIRTX_EXIT_INSTRUCTION) {
        good = CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL)) &&
               CHECK_EQUAL(GUEST_CONTINUE(), row->which);
    }
    known_bug_end();
    if (!good)
        bare_printf("  instruction %s, armed\n", row->name);
    CHECK_OK(virtx_intercept_remove(set));
    /* After a failure the access may be pending still. */
    guest_prepare(guest_instruction, VIRTX_INSN_COUNT);
    GUEST_CONTINUE();
}

static void unarmed_instruction(const struct insn_row *row)
{
    guest_prepare(guest_instruction, row->which);
    struct virtx_state state = guest_state();
    state.cr4 |= guest_has(&(struct insn_row){.leaf = 1, .reg = 2, .bit = 26}) ? 1u << 18 : 0;
    guest_set_state(VIRTX_STATE_CR, &state);
    if (!CHECK_EQUAL(GUEST_CONTINUE(), row->which))
        bare_printf("  instruction %s, unarmed\n", row->name);
}

static void instructions(void)
{
    machine_open();
    for (unsigned i = 0; i < sizeof(insn_rows) / sizeof(insn_rows[0]); i++) {
        if (!guest_has(&insn_rows[i])) {
            bare_printf("not shown: instructions: the guest has no %s\n", insn_rows[i].name);
            continue;
        }
        unarmed_instruction(&insn_rows[i]);
        armed_instruction(&insn_rows[i]);
        unarmed_instruction(&insn_rows[i]);
    }
}

/* Results that the embedder chooses. */
static volatile uint64_t tsc_value;

static void guest_rdtsc(uint64_t argument)
{
    (void)argument;
    tsc_value = bare_tsc();
    guest_done(0);
}

static void rdtsc_value(void)
{
    machine_open();
    intercept(VIRTX_INTERCEPT_INSTRUCTION, 0, VIRTX_INSN_RDTSC, VIRTX_INSN_RDTSC);
    guest_prepare(guest_rdtsc, 0);
    CHECK(step(VIRTX_EXIT_INSTRUCTION, &(uint64_t){0x1122334455667788}));
    GUEST_CONTINUE();
    CHECK_EQUAL(tsc_value, 0x1122334455667788);
}

/* ---- The instructions of virtualization itself ---- */

static volatile int nested_vectors[16];
static volatile unsigned nested_count;

#define NESTED(text)                                                                               \
    nested_vectors[nested_count++] = GUEST_TRY(text,                                               \
                                               : "a"((uint64_t)GUEST_MEMORY)                       \
                                               : "rcx", "memory", "cc")

static void guest_nested_vmx(uint64_t argument)
{
    (void)argument;
    nested_count = 0;
    NESTED("vmxoff");
    NESTED("vmlaunch");
    NESTED("vmresume");
    NESTED("vmptrld (%0)");
    NESTED("vmptrst (%0)");
    NESTED("vmclear (%0)");
    NESTED("vmxon (%0)");
    NESTED("vmread %%rax, %%rcx");
    NESTED("vmwrite %%rax, %%rax");
    guest_done(nested_count);
}

static void guest_nested_svm(uint64_t argument)
{
    (void)argument;
    nested_count = 0;
    NESTED("vmrun");
    NESTED("vmload");
    NESTED("vmsave");
    NESTED("stgi");
    NESTED("clgi");
    NESTED("invlpga");
    guest_done(nested_count);
}

static void nested_virtualization(void)
{
    machine_open();
    for (unsigned i = 0; i < 2; i++) {
        uint64_t count = GUEST_RESULT(i ? guest_nested_svm : guest_nested_vmx, 0);

        CHECK_EQUAL(count, i ? 6 : 9);
        for (unsigned j = 0; j < count && j < 16; j++) {
            if (!CHECK_EQUAL(nested_vectors[j], 6))
                bare_printf("  %s instruction %u\n", i ? "SVM" : "VMX", j);
        }
    }
    /* An embedder who wants to know gets those of the processor that it runs on. */
    unsigned which = guest_has_svm ? VIRTX_INSN_SVM : VIRTX_INSN_VMX;
    intercept(VIRTX_INTERCEPT_INSTRUCTION, 0, which, which);
    if (guest_has_svm)
        return; /* EFER.SVME reads 0 in the guest, but is 1 in the processor: they exit; see below
                 */
    guest_prepare(guest_nested_vmx, 0);
    if (CHECK(EXPECT_EXIT(VIRTX_EXIT_INSTRUCTION)))
        CHECK_EQUAL(machine.exit->instruction.which, which);
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

GUEST_CASES({"cpuid-live", cpuid_live}, {"port-boundaries", ports}, {"port-handler", port_handler}, {"string-io", string_io},
            {"string-io-fault-in-the-middle", string_fault}, {"unknown-msrs-exit", msrs_unknown},
            {"msr-reads-and-writes-apart", msrs_apart}, {"handler-verdicts", verdicts},
            {"cpuid-and-owners", cpuid}, {"two-vms-two-policies", two_policies},
            {"hypercalls", hypercalls}, {"hypercall-handler", hypercall_handler},
            {"exceptions-armed-and-unarmed", exceptions}, {"exception-dropped", exception_dropped},
            {"page-fault-filter", page_fault_filter}, {"cr0-mask", cr_mask},
            {"clts-and-lmsw", clts_and_lmsw}, {"mov-cr3", cr3}, {"cr3-targets", cr3_targets},
            {"pause-filter", pause_filter}, {"cr4-read-shadow", read_shadow},
            {"debug-registers", debug_registers}, {"instructions", instructions},
            {"rdtsc-value", rdtsc_value}, {"guest-vmx-and-svm", nested_virtualization},
            {"mmio-handler", mmio_handler}, {"intercepts-refused", refused});
