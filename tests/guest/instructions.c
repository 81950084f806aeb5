/* SPDX-License-Identifier: BSD-2-Clause */
/* Intercepts of instructions, and what those of virtualization do in a guest. */
#include "harness.h"

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
    CHECK(SERVE(VIRTX_EXIT_INSTRUCTION, &(uint64_t){0x1122334455667788}));
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

GUEST_CASES({"pause-filter", pause_filter}, {"instructions", instructions},
            {"rdtsc-value", rdtsc_value}, {"guest-vmx-and-svm", nested_virtualization});
