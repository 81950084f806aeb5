/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * MMX moves, logic and masked moves in the executor, against what the processor that runs the test
 * makes of the same registers and memory, and against the manual where it would fault.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "insn/execute.h"

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, IMAGE = 512, BYTES = 64, AT = 16 };

static struct {
    struct insn_cpu cpu;
    uint64_t gpr[16];
    struct insn_replay replay;
    struct insn_fault fault;
    _Alignas(16) uint8_t image[IMAGE];
    uint8_t memory[BYTES];
    bool pending;
    unsigned writes;
} m;

static uint8_t *code;

static enum insn_access_result do_read(void *context, uint64_t linear, void *data, unsigned size,
                                       unsigned flags, struct insn_fault *fault)
{
    (void)context, (void)flags, (void)fault;
    ck_assert_uint_le(linear + size, BYTES);
    memcpy(data, m.memory + linear, size);
    return INSN_ACCESS_OK;
}

static enum insn_access_result do_write(void *context, uint64_t linear, const void *data,
                                        unsigned size, unsigned flags, struct insn_fault *fault)
{
    (void)context, (void)flags, (void)fault;
    ck_assert_uint_le(linear + size, BYTES);
    if (m.pending)
        return INSN_ACCESS_PENDING;
    memcpy(m.memory + linear, data, size);
    m.writes++;
    return INSN_ACCESS_OK;
}

static bool do_fpu(void *context, void *image, bool write)
{
    (void)context;
    memcpy(write ? m.image : image, write ? image : m.image, IMAGE);
    return true;
}

static const struct insn_ops ops = {.read = do_read, .write = do_write, .fpu = do_fpu};

static void random_bytes(uint8_t *to, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        to[i] = (uint8_t)(rand() >> 7);
}

/* Registers with anything in them, the top of the stack anywhere, no exception pending. */
static void random_state(void)
{
    __asm__ volatile("fxsave64 (%0)" : : "r"(m.image) : "memory");
    m.image[0] = 0x7f, m.image[1] = 3;
    m.image[2] = 0, m.image[3] = (uint8_t)(rand() & 0x38);
    m.image[4] = (uint8_t)rand();
    memset(m.image + 6, 0, 18);
    random_bytes(m.image + 32, 384);
    for (unsigned i = 0; i < 8; i++)
        memset(m.image + 32 + 16 * i + 10, 0, 6);
    random_bytes(m.memory, BYTES);
    m.gpr[RBX] = (uint64_t)rand() << 33 | (unsigned)rand();
    m.gpr[RCX] = m.gpr[RDI] = AT;
    m.cpu.rip = 0;
}

static void setup(void)
{
    memset(&m, 0, sizeof(m));
    srand(1);
    m.cpu = (struct insn_cpu){.gpr = m.gpr,
                              .cr0 = 0x80000021,
                              .cr4 = 1 << 9,
                              .efer = 0x500,
                              .mode = INSN_64,
                              .rflags = 2};
    if (!code)
        code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                    0);
    ck_assert_ptr_ne(code, MAP_FAILED);
    random_state();
}

static enum insn_result resume(const uint8_t *bytes, unsigned count)
{
    uint8_t padded[16] = {0};
    struct insn insn;
    enum insn_result result;

    memcpy(padded, bytes, count);
    result = insn_decode(&insn, padded, 15, INSN_64);
    ck_assert(result == INSN_OK || result == INSN_UNKNOWN);
    ck_assert_uint_eq(insn.length, count);
    return insn_execute(&insn, &m.cpu, &ops, &m, &m.replay, 1, &m.fault);
}

static enum insn_result run(const uint8_t *bytes, unsigned count)
{
    m.replay.count = 0;
    return resume(bytes, count);
}
#define RUN(...) run((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* By the processor, with RCX and RDI at `at`. */
static void native(const uint8_t *bytes, unsigned count, uint8_t *image, uint64_t *rbx, uint8_t *at)
{
    _Alignas(16) uint8_t own[IMAGE], other[IMAGE];

    memcpy(other, image, IMAGE);
    memcpy(code, bytes, count);
    code[count] = 0xc3;
    __asm__ volatile("fxsave64 (%[own])\n\tfxrstor64 (%[other])\n\t"
                     "subq $256, %%rsp\n\tcall *%[code]\n\taddq $256, %%rsp\n\t"
                     "fxsave64 (%[other])\n\tfxrstor64 (%[own])"
                     : "+b"(*rbx)
                     : [own] "r"(own), [other] "r"(other), [code] "r"(code), "c"(at), "D"(at)
                     : "memory", "cc");
    memcpy(image, other, IMAGE);
}

/* mm3 and [rcx], rbx, or mm6; REX.R and .B, where they are, do not reach MMX registers. */
static const struct {
    uint8_t length, bytes[5];
} forms[] = {
    {3, {0x0f, 0x6e, 0x19}},
    {4, {0x48, 0x0f, 0x6e, 0x19}},
    {3, {0x0f, 0x6e, 0xdb}},
    {4, {0x48, 0x0f, 0x6e, 0xdb}},
    {4, {0x4c, 0x0f, 0x6e, 0xdb}},
    {3, {0x0f, 0x7e, 0x19}},
    {4, {0x48, 0x0f, 0x7e, 0x19}},
    {3, {0x0f, 0x7e, 0xdb}},
    {4, {0x48, 0x0f, 0x7e, 0xdb}},
    {3, {0x0f, 0x6f, 0x19}},
    {3, {0x0f, 0x6f, 0xde}},
    {4, {0x45, 0x0f, 0x6f, 0xde}},
    {3, {0x0f, 0x7f, 0x19}},
    {3, {0x0f, 0x7f, 0xde}},
    {3, {0x0f, 0xe7, 0x19}},
    {3, {0x0f, 0xdb, 0x19}},
    {3, {0x0f, 0xdb, 0xde}},
    {3, {0x0f, 0xdf, 0x19}},
    {3, {0x0f, 0xdf, 0xde}},
    {3, {0x0f, 0xeb, 0x19}},
    {3, {0x0f, 0xeb, 0xde}},
    {3, {0x0f, 0xef, 0x19}},
    {3, {0x0f, 0xef, 0xdb}},
    {2, {0x0f, 0x77}},
    {4, {0xf2, 0x0f, 0xd6, 0xde}},
    {4, {0xf3, 0x0f, 0xd6, 0xde}},
    {5, {0xf2, 0x45, 0x0f, 0xd6, 0xde}},
    {5, {0xf3, 0x45, 0x0f, 0xd6, 0xde}},
    {3, {0x0f, 0xf7, 0xde}},
    {4, {0x45, 0x0f, 0xf7, 0xde}},
    {4, {0x66, 0x0f, 0xf7, 0xde}},
    {5, {0x66, 0x45, 0x0f, 0xf7, 0xde}},
};

START_TEST(as_the_processor)
{
    const uint8_t *bytes = forms[_i].bytes;

    for (unsigned trial = 0; trial < 100; trial++) {
        uint8_t image[IMAGE], memory[BYTES];
        uint64_t rbx;

        random_state();
        memcpy(image, m.image, IMAGE);
        memcpy(memory, m.memory, BYTES);
        rbx = m.gpr[RBX];
        native(bytes, forms[_i].length, image, &rbx, memory + AT);
        ck_assert_int_eq(run(bytes, forms[_i].length), INSN_OK);
        ck_assert_uint_eq(m.cpu.rip, forms[_i].length);
        ck_assert_uint_eq(m.gpr[RBX], rbx);
        ck_assert_mem_eq(m.memory, memory, BYTES);
        ck_assert_mem_eq(m.image, image, 6);
        ck_assert_mem_eq(m.image + 24, image + 24, 4);
        ck_assert_mem_eq(m.image + 32, image + 32, 384);
    }
}
END_TEST

static void raises(enum insn_result result, unsigned vector)
{
    ck_assert_int_eq(result, INSN_FAULT);
    ck_assert_uint_eq(m.fault.vector, vector);
}

/* Intel SDM, "Exception Conditions of Legacy SIMD Instructions Operating on MMX Registers". */
START_TEST(faults)
{
    uint8_t before[IMAGE];

    m.image[0] &= 0xfe, m.image[2] |= 0x81; /* an exception is pending */
    memcpy(before, m.image, IMAGE);
    raises(RUN(0x0f, 0x6f, 0x19), 16);
    raises(RUN(0x0f, 0x77), 16);
    raises(RUN(0xf3, 0x0f, 0xd6, 0xde), 16);
    ck_assert_int_eq(RUN(0x66, 0x0f, 0xf7, 0xde), INSN_OK); /* of XMM */
    m.cpu.cr0 &= ~0x20u;
    ck_assert_int_eq(RUN(0x0f, 0x6f, 0x19), INSN_UNSUPPORTED); /* FERR#, IRQ 13 */
    m.cpu.cr0 |= 8;
    raises(RUN(0x0f, 0x6f, 0x19), 7);
    m.cpu.cr0 |= 4;
    raises(RUN(0x0f, 0x6f, 0x19), 6);
    m.cpu.cr0 = 0x80000021;
    ck_assert_mem_eq(m.image, before, IMAGE);
    random_state();
    m.cpu.cr4 = 0;
    raises(RUN(0xf3, 0x0f, 0xd6, 0xde), 6);
    raises(RUN(0x66, 0x0f, 0xf7, 0xde), 6);
    ck_assert_int_eq(RUN(0x0f, 0xf7, 0xde), INSN_OK);
    m.gpr[RCX] = 1ull << 63; /* not canonical */
    raises(RUN(0x0f, 0x6f, 0x19), 13);
}
END_TEST

/* The register file is as it was until the device has taken the value. */
START_TEST(store_to_a_device)
{
    uint8_t before[IMAGE];

    m.image[3] = 0x18, m.image[4] = 0;
    memcpy(before, m.image, IMAGE);
    m.pending = true;
    ck_assert_int_eq(RUN(0x0f, 0xe7, 0x19), INSN_PENDING);
    ck_assert_uint_eq(m.replay.count, 1);
    ck_assert_mem_eq(m.replay.access[0].data, before + 32, 8); /* ST(0) is mm3 */
    ck_assert_mem_eq(m.image, before, IMAGE);
    m.replay.access[0].done = 1;
    ck_assert_int_eq(resume((const uint8_t[]){0x0f, 0xe7, 0x19}, 3), INSN_OK);
    ck_assert_uint_eq(m.image[3] & 0x38, 0);
    ck_assert_uint_eq(m.image[4], 0xff);
}
END_TEST

/* Nothing is accessed whose mask is clear, and the segment may be another one. */
START_TEST(masked_bytes)
{
    memset(m.image + 160 + 16 * 6, 0x7f, 16);
    ck_assert_int_eq(RUN(0x66, 0x0f, 0xf7, 0xde), INSN_OK);
    ck_assert_uint_eq(m.writes, 0);
    m.image[160 + 16 * 6 + 5] = 0x80;
    m.cpu.seg[INSN_FS].base = 20;
    ck_assert_int_eq(RUN(0x64, 0x66, 0x0f, 0xf7, 0xde), INSN_OK);
    ck_assert_uint_eq(m.writes, 1);
    ck_assert_uint_eq(m.memory[20 + AT + 5], m.image[160 + 16 * 3 + 5]);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("insn_mmx");
    TCase *tests = tcase_create("mmx");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tests, setup, NULL);
    tcase_add_loop_test(tests, as_the_processor, 0, sizeof(forms) / sizeof(forms[0]));
    tcase_add_test(tests, faults);
    tcase_add_test(tests, store_to_a_device);
    tcase_add_test(tests, masked_bytes);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
