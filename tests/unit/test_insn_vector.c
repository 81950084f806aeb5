/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * SSE and AVX moves in the executor, against what the processor that runs the test makes of the
 * same bytes, and against the manual where it would fault.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "insn/execute.h"

enum { RAX, RCX, RDX, RBX };

static struct {
    struct insn_cpu cpu;
    uint64_t gpr[16], xmm[16][4];
    struct insn_ops ops;
    struct insn_replay replay;
    struct insn_fault fault;
    bool absent;
    unsigned wide;
    uint8_t memory[64];
} m;

static enum insn_access_result do_read(void *context, uint64_t linear, void *data, unsigned size,
                                       unsigned flags, struct insn_fault *fault)
{
    (void)context, (void)flags, (void)fault;
    ck_assert_uint_le(linear + size, sizeof(m.memory));
    memcpy(data, m.memory + linear, size);
    return INSN_ACCESS_OK;
}

static enum insn_access_result do_write(void *context, uint64_t linear, const void *data,
                                        unsigned size, unsigned flags, struct insn_fault *fault)
{
    (void)context, (void)fault;
    ck_assert_uint_le(linear + size, sizeof(m.memory));
    if (flags & INSN_ACCESS_PROBE)
        return INSN_ACCESS_OK;
    memcpy(m.memory + linear, data, size);
    return INSN_ACCESS_OK;
}

static enum insn_access_result do_pend(void *context, uint64_t linear, const void *data,
                                       unsigned size, unsigned flags, struct insn_fault *fault)
{
    (void)context, (void)linear, (void)data, (void)size, (void)fault;
    return flags & INSN_ACCESS_PROBE ? INSN_ACCESS_OK : INSN_ACCESS_PENDING;
}

static bool do_vector(void *context, unsigned reg, void *data, bool write, enum insn_vector part)
{
    uint64_t *half = m.xmm[reg] + (part == INSN_VECTOR_HIGH ? 2 : 0);

    (void)context;
    if (m.absent)
        return false;
    m.wide += write && part == INSN_VECTOR_AVX;
    if (write && part == INSN_VECTOR_AVX)
        memset(m.xmm[reg] + 2, 0, 16);
    memcpy(write ? half : data, write ? data : half, 16);
    return true;
}

static void setup(void)
{
    memset(&m, 0, sizeof(m));
    m.cpu.gpr = m.gpr;
    m.cpu.cr0 = 0x80000001;
    m.cpu.cr4 = 1 << 9;
    m.cpu.efer = 0x500;
    m.cpu.mode = INSN_64;
    m.cpu.rflags = 2;
    m.ops = (struct insn_ops){.read = do_read, .write = do_write, .vector = do_vector};
    for (unsigned i = 0; i < sizeof(m.memory); i++)
        m.memory[i] = (uint8_t)(i * 7 + 3);
    for (unsigned i = 0; i < 64; i++)
        m.xmm[i / 4][i % 4] = 0x0123456789abcdefu * (2 * i + 1);
}

static enum insn_result run(const uint8_t *bytes, size_t count)
{
    uint8_t padded[16] = {0};
    struct insn insn;
    enum insn_result result;

    memcpy(padded, bytes, count);
    result = insn_decode(&insn, padded, 15, (enum insn_mode)m.cpu.mode);
    ck_assert(result == INSN_OK || result == INSN_UNKNOWN);
    ck_assert_uint_eq(insn.length, count);
    m.replay.count = 0;
    return insn_execute(&insn, &m.cpu, &m.ops, &m, &m.replay, 1, &m.fault);
}
#define RUN(...) run((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* Between xmm3 and [rbx], or rbx. */
static const struct {
    uint8_t length, bytes[6];
    bool vex;
} moves[] = {
    {3, {0x0f, 0x10, 0x1b}, false},          {4, {0x66, 0x0f, 0x10, 0x1b}, false},
    {4, {0xf3, 0x0f, 0x10, 0x1b}, false},    {4, {0xf2, 0x0f, 0x10, 0x1b}, false},
    {3, {0x0f, 0x11, 0x1b}, false},          {4, {0x66, 0x0f, 0x11, 0x1b}, false},
    {4, {0xf3, 0x0f, 0x11, 0x1b}, false},    {4, {0xf2, 0x0f, 0x11, 0x1b}, false},
    {3, {0x0f, 0x12, 0x1b}, false},          {4, {0x66, 0x0f, 0x12, 0x1b}, false},
    {3, {0x0f, 0x13, 0x1b}, false},          {4, {0x66, 0x0f, 0x13, 0x1b}, false},
    {3, {0x0f, 0x16, 0x1b}, false},          {4, {0x66, 0x0f, 0x16, 0x1b}, false},
    {3, {0x0f, 0x17, 0x1b}, false},          {4, {0x66, 0x0f, 0x17, 0x1b}, false},
    {3, {0x0f, 0x28, 0x1b}, false},          {3, {0x0f, 0x29, 0x1b}, false},
    {4, {0x66, 0x0f, 0x28, 0x1b}, false},    {4, {0x66, 0x0f, 0x29, 0x1b}, false},
    {3, {0x0f, 0x2b, 0x1b}, false},          {4, {0x66, 0x0f, 0x2b, 0x1b}, false},
    {4, {0x66, 0x0f, 0x6e, 0x1b}, false},    {5, {0x66, 0x48, 0x0f, 0x6e, 0x1b}, false},
    {4, {0x66, 0x0f, 0x7e, 0x1b}, false},    {5, {0x66, 0x48, 0x0f, 0x7e, 0x1b}, false},
    {4, {0x66, 0x0f, 0x6e, 0xdb}, false},    {5, {0x66, 0x48, 0x0f, 0x6e, 0xdb}, false},
    {4, {0x66, 0x0f, 0x7e, 0xdb}, false},    {5, {0x66, 0x48, 0x0f, 0x7e, 0xdb}, false},
    {4, {0xf3, 0x0f, 0x7e, 0x1b}, false},    {4, {0x66, 0x0f, 0xd6, 0x1b}, false},
    {4, {0x66, 0x0f, 0x6f, 0x1b}, false},    {4, {0xf3, 0x0f, 0x6f, 0x1b}, false},
    {4, {0x66, 0x0f, 0x7f, 0x1b}, false},    {4, {0xf3, 0x0f, 0x7f, 0x1b}, false},
    {4, {0x66, 0x0f, 0xe7, 0x1b}, false},    {4, {0xf2, 0x0f, 0xf0, 0x1b}, false},
    {3, {0x0f, 0x28, 0xdb}, false},          {4, {0xf3, 0x0f, 0x7f, 0xdb}, false},
    {3, {0x0f, 0x54, 0x1b}, false},          {4, {0x66, 0x0f, 0x55, 0x1b}, false},
    {3, {0x0f, 0x56, 0x1b}, false},          {3, {0x0f, 0x57, 0x1b}, false},
    {4, {0x66, 0x0f, 0xdb, 0x1b}, false},    {4, {0x66, 0x0f, 0xdf, 0x1b}, false},
    {4, {0x66, 0x0f, 0xeb, 0x1b}, false},    {4, {0x66, 0x0f, 0xef, 0x1b}, false},
    {4, {0x66, 0x0f, 0xef, 0xdb}, false},    {5, {0x66, 0x0f, 0xc4, 0x1b, 6}, false},
    {5, {0x66, 0x0f, 0xc4, 0xdb, 2}, false}, {5, {0x66, 0x0f, 0xc5, 0xdb, 5}, false},
    {4, {0xc5, 0xf8, 0x10, 0x1b}, true},     {4, {0xc5, 0xfa, 0x7f, 0x1b}, true},
    {4, {0xc5, 0xf9, 0x6f, 0x1b}, true},     {4, {0xc5, 0xfa, 0x7e, 0x1b}, true},
    {4, {0xc5, 0xfc, 0x10, 0x1b}, true},     {4, {0xc5, 0xfd, 0x11, 0x1b}, true},
    {4, {0xc5, 0xfc, 0x28, 0x1b}, true},     {4, {0xc5, 0xfd, 0x29, 0x1b}, true},
    {4, {0xc5, 0xfc, 0x2b, 0x1b}, true},     {4, {0xc5, 0xfd, 0x6f, 0x1b}, true},
    {4, {0xc5, 0xfe, 0x6f, 0x1b}, true},     {4, {0xc5, 0xfd, 0x7f, 0x1b}, true},
    {4, {0xc5, 0xfe, 0x7f, 0x1b}, true},     {4, {0xc5, 0xfd, 0xe7, 0x1b}, true},
    {4, {0xc5, 0xff, 0xf0, 0x1b}, true},     {4, {0xc5, 0xfa, 0x10, 0x1b}, true},
    {4, {0xc5, 0xf9, 0xd6, 0x1b}, true},     {5, {0xc4, 0xe1, 0xf9, 0x6e, 0xdb}, true},
};

/* The same by the processor; rbx and ymm3 as they were and as they become. */
static void native(const uint8_t *bytes, size_t count, uint64_t *rbx, uint64_t *xmm)
{
    uint8_t *code =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    ck_assert_ptr_ne(code, MAP_FAILED);
    memcpy(code, bytes, count);
    code[count] = 0xc3;
    if (__builtin_cpu_supports("avx"))
        __asm__ volatile("vmovups (%2), %%ymm3\n"
                         "movq (%1), %%rbx\n"
                         "call *%0\n"
                         "movq %%rbx, (%1)\n"
                         "vmovups %%ymm3, (%2)\n"
                         "vzeroupper\n"
                         :
                         : "r"(code), "r"(rbx), "r"(xmm)
                         : "rbx", "xmm3", "memory");
    else
        __asm__ volatile("movups (%2), %%xmm3\n"
                         "movq (%1), %%rbx\n"
                         "call *%0\n"
                         "movq %%rbx, (%1)\n"
                         "movups %%xmm3, (%2)\n"
                         :
                         : "r"(code), "r"(rbx), "r"(xmm)
                         : "rbx", "xmm3", "memory");
    munmap(code, 4096);
}

START_TEST(as_the_processor)
{
    const uint8_t *bytes = moves[_i].bytes;
    bool general = bytes[moves[_i].length - 1] == 0xdb || bytes[3] == 0xdb;
    _Alignas(32) uint8_t memory[64];
    uint64_t rbx, xmm[4];

    if (moves[_i].vex && !__builtin_cpu_supports("avx"))
        return;
    memcpy(memory, m.memory, sizeof(memory));
    memcpy(xmm, m.xmm[3], sizeof(xmm));
    rbx = general ? 0xfedcba9876543210 : (uintptr_t)memory + 32;
    m.gpr[RBX] = general ? rbx : 32;
    m.cpu.avx = true;
    native(bytes, moves[_i].length, &rbx, xmm);
    ck_assert_int_eq(run(bytes, moves[_i].length), INSN_OK);
    ck_assert_mem_eq(m.memory, memory, sizeof(memory));
    ck_assert_mem_eq(m.xmm[3], xmm, sizeof(xmm));
    if (general)
        ck_assert_uint_eq(m.gpr[RBX], rbx);
    ck_assert_uint_eq(m.cpu.rip, moves[_i].length);
}
END_TEST

#define ck_fault(result, number)                                                                   \
    do {                                                                                           \
        ck_assert_int_eq(result, INSN_FAULT);                                                      \
        ck_assert_uint_eq(m.fault.vector, number);                                                 \
    } while (0)

START_TEST(faults)
{
    m.gpr[RBX] = 8;
    ck_assert_int_eq(RUN(0x0f, 0x10, 0x1b), INSN_OK);
    ck_fault(RUN(0x0f, 0x28, 0x1b), 13); /* movaps wants 16 bytes aligned */
    m.cpu.cr0 |= 8;
    ck_fault(RUN(0x0f, 0x10, 0x1b), 7); /* TS */
    m.cpu.cr0 |= 4;
    ck_fault(RUN(0x0f, 0x10, 0x1b), 6); /* EM */
    m.cpu.cr0 = 0x80000001;
    m.cpu.cr4 = 0;
    ck_fault(RUN(0x0f, 0x10, 0x1b), 6);       /* OSFXSR */
    ck_fault(RUN(0xc5, 0xf8, 0x10, 0x1b), 6); /* vmovups without AVX */
    m.cpu.avx = true;
    ck_assert_int_eq(RUN(0xc5, 0xf8, 0x10, 0x1b), INSN_OK);
    m.gpr[RBX] = 16;
    ck_fault(RUN(0xc5, 0xfc, 0x28, 0x1b), 13); /* vmovaps ymm wants 32 */
    ck_assert_uint_eq(m.wide, 1);
    m.cpu.cr4 = 1 << 9;
    m.absent = true;
    ck_assert_int_eq(RUN(0x0f, 0x10, 0x1b), INSN_UNSUPPORTED);
    m.ops.vector = NULL;
    ck_assert_int_eq(RUN(0x0f, 0x10, 0x1b), INSN_UNSUPPORTED);
}
END_TEST

/* A device answers each half later; the register is not to be had any more then. */
START_TEST(halves_answered_later)
{
    const uint8_t bytes[16] = {0xc5, 0xfc, 0x11, 0x1b}; /* vmovups [rbx], ymm3 */
    struct insn insn;

    m.gpr[RBX] = 32;
    m.cpu.avx = true;
    m.ops.write = do_pend;
    insn_decode(&insn, bytes, 15, INSN_64);
    for (unsigned i = 0; i < 2; i++) {
        struct insn_access *last;

        ck_assert_int_eq(insn_execute(&insn, &m.cpu, &m.ops, &m, &m.replay, 1, &m.fault),
                         INSN_PENDING);
        last = &m.replay.access[m.replay.count - 1];
        ck_assert_uint_eq(last->address, 32 + 16 * i);
        ck_assert_mem_eq(last->data, m.xmm[3] + 2 * i, 16);
        last->done = 1;
        m.absent = true;
    }
    ck_assert_int_eq(insn_execute(&insn, &m.cpu, &m.ops, &m, &m.replay, 1, &m.fault), INSN_OK);
    ck_assert_uint_eq(m.cpu.rip, 4);
}
END_TEST

/* Neither moves nor known. */
START_TEST(unknown)
{
    m.gpr[RBX] = 16;
    m.cpu.avx = true;
    ck_assert_int_eq(RUN(0x0f, 0x58, 0x1b), INSN_UNSUPPORTED);       /* addps */
    ck_assert_int_eq(RUN(0xc5, 0xfd, 0xd6, 0x1b), INSN_UNSUPPORTED); /* vmovq with L */
    ck_assert_int_eq(RUN(0x0f, 0x58, 0xdb), INSN_UNSUPPORTED);
    ck_assert_int_eq(RUN(0xd9, 0x03), INSN_UNSUPPORTED); /* fld */
    ck_assert_uint_eq(m.cpu.rip, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("insn_vector");
    TCase *tests = tcase_create("vector");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tests, setup, NULL);
    tcase_add_loop_test(tests, as_the_processor, 0, sizeof(moves) / sizeof(moves[0]));
    tcase_add_test(tests, faults);
    tcase_add_test(tests, halves_answered_later);
    tcase_add_test(tests, unknown);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
