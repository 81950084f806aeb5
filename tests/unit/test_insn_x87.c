/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * x87 instructions, FXSAVE and FXRSTOR in the executor: every encoding against what the processor
 * that runs the test makes of the same bytes, and against the manual for what it would not show.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "insn/execute.h"

enum { RAX, RCX, RDX, RBX };
enum { STATUS = 0x8d5, BYTES = 1024 };

static struct {
    struct insn_cpu cpu;
    uint64_t gpr[16];
    struct insn_ops ops;
    struct insn_replay replay;
    struct insn_fault fault;
    _Alignas(16) uint8_t image[512];
    bool pending;
    uint8_t *memory; /* linear addresses are the host's here */
} m;

static uint8_t *code;

static uint64_t random_word(void)
{
    static uint64_t state = 88172645463325252u;

    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static bool in_memory(uint64_t linear, unsigned size)
{
    return linear - (uintptr_t)m.memory <= BYTES - size;
}

static enum insn_access_result do_read(void *context, uint64_t linear, void *data, unsigned size,
                                       unsigned flags, struct insn_fault *fault)
{
    (void)context, (void)flags, (void)fault;
    ck_assert(in_memory(linear, size));
    memcpy(data, (const void *)linear, size);
    return INSN_ACCESS_OK;
}

static enum insn_access_result do_write(void *context, uint64_t linear, const void *data,
                                        unsigned size, unsigned flags, struct insn_fault *fault)
{
    (void)context, (void)fault;
    ck_assert(in_memory(linear, size));
    if (flags & INSN_ACCESS_PROBE)
        return INSN_ACCESS_OK;
    if (m.pending)
        return INSN_ACCESS_PENDING;
    memcpy((void *)linear, data, size);
    return INSN_ACCESS_OK;
}

static bool do_fpu(void *context, void *image, bool write)
{
    (void)context;
    memcpy(write ? m.image : image, write ? image : m.image, 512);
    return true;
}

/* Runs bytes with the image in the processor. rax, rbx and flags in and out. */
static void native(const uint8_t *bytes, size_t count, uint8_t *image, uint64_t *rax, uint64_t rbx,
                   uint64_t *flags)
{
    _Alignas(16) uint8_t own[512], other[512];
    uint64_t f = *flags | 2, a = *rax;

    memcpy(other, image, 512);
    memcpy(code, bytes, count);
    code[count] = 0xc3;
    __asm__ volatile(
        "fxsave64 (%[own])\n\tfxrstor64 (%[other])\n\t"
        "subq $256, %%rsp\n\tpushfq\n\tandq $~0x8d5, (%%rsp)\n\torq %[f], (%%rsp)\n\tpopfq\n\t"
        "call *%[code]\n\tpushfq\n\tpopq %[f]\n\taddq $256, %%rsp\n\t"
        "fxsave64 (%[other])\n\tfxrstor64 (%[own])"
        : "+a"(a), [f] "+r"(f)
        : [own] "r"(own), [other] "r"(other), [code] "r"(code), "b"(rbx)
        : "memory", "cc");
    memcpy(image, other, 512);
    *flags = f & STATUS;
    *rax = a;
}

static bool do_x87(void *context, unsigned opcode, unsigned modrm, void *image, void *memory,
                   uint64_t *flags)
{
    /* the memory forms with [rbx] */
    const uint8_t bytes[2] = {(uint8_t)opcode,
                              (uint8_t)(modrm >= 0xc0 ? modrm : (modrm & 0x38) | 3)};
    uint64_t rax = 0;

    (void)context;
    native(bytes, 2, image, &rax, (uintptr_t)memory, flags);
    return true;
}

static void setup(void)
{
    static uint8_t memory[BYTES] __attribute__((aligned(64)));

    memset(&m, 0, sizeof(m));
    m.memory = memory;
    m.cpu.gpr = m.gpr;
    m.cpu.cr0 = 0x80000021;
    m.cpu.cr4 = 1 << 9;
    m.cpu.efer = 0x500;
    m.cpu.mode = INSN_64;
    m.cpu.rflags = 2;
    m.ops = (struct insn_ops){.read = do_read, .write = do_write, .fpu = do_fpu, .x87 = do_x87};
    if (!code)
        code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                    0);
    ck_assert_ptr_ne(code, MAP_FAILED);
    __asm__ volatile("fxsave64 (%0)" : : "r"(m.image) : "memory");
}

static enum insn_result resume(const uint8_t *bytes, size_t count)
{
    uint8_t padded[16] = {0};
    struct insn insn;

    memcpy(padded, bytes, count);
    if (insn_decode(&insn, padded, 15, (enum insn_mode)m.cpu.mode) == INSN_INVALID)
        return INSN_INVALID;
    ck_assert_uint_eq(insn.length, count);
    return insn_execute(&insn, &m.cpu, &m.ops, &m, &m.replay, 1, &m.fault);
}

static enum insn_result run(const uint8_t *bytes, size_t count)
{
    m.replay.count = 0;
    return resume(bytes, count);
}
#define RUN(...) run((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* Numbers of all kinds; all exceptions masked, so that none is pending. */
static void random_state(void)
{
    uint16_t fcw = (uint16_t)(0x37f | (random_word() & 0xc00)),
             fsw = (uint16_t)(random_word() & 0x7f7f);

    memcpy(m.image, &fcw, 2);
    memcpy(m.image + 2, &fsw, 2);
    m.image[4] = (uint8_t)random_word();
    memset(m.image + 6, 0, 18);
    for (unsigned i = 0; i < 8; i++) {
        uint64_t mantissa = random_word() | 1ull << 63;
        uint16_t exponent = (uint16_t)(0x3fff - 40 + random_word() % 80);

        if (random_word() % 8 == 0)
            exponent = random_word() % 2 ? 0x7fff : 0;
        if (random_word() % 8 == 0)
            mantissa = 0;
        if (random_word() % 2)
            exponent |= 0x8000;
        memset(m.image + 32 + 16 * i, 0, 16);
        memcpy(m.image + 32 + 16 * i, &mantissa, 8);
        memcpy(m.image + 40 + 16 * i, &exponent, 2);
    }
    for (unsigned i = 0; i < 128; i++)
        m.memory[i] = (uint8_t)random_word();
}

/* But for the pointers, and the reserved words behind. */
static void compare(const uint8_t *bytes, const uint8_t *expected)
{
    if (memcmp(m.image, expected, 6) || memcmp(m.image + 24, expected + 24, 4) ||
        memcmp(m.image + 32, expected + 32, 384))
        ck_abort_msg("%02x %02x: FSW %02x%02x, expected %02x%02x", bytes[0], bytes[1], m.image[3],
                     m.image[2], expected[3], expected[2]);
}

START_TEST(every_encoding)
{
    unsigned seen = 0;

    for (unsigned which = 0; which < 2048; which++) {
        uint8_t bytes[2] = {(uint8_t)(0xd8 + which / 256), (uint8_t)(which & 255)};
        bool memory = bytes[1] < 0xc0;
        /* FLDENV, FNSTENV, FRSTOR and FNSAVE have their own test */
        bool environment = (bytes[0] == 0xd9 || bytes[0] == 0xdd) && memory &&
                           ((bytes[1] & 0x38) == 0x20 || (bytes[1] & 0x38) == 0x30);

        if ((memory && (bytes[1] & 0xc7) != 3) || environment)
            continue;
        for (unsigned round = 0; round < 50; round++) {
            uint8_t before[BYTES], after[BYTES], image[512];
            uint64_t rax, flags = random_word() & STATUS;

            random_state();
            if (bytes[0] == 0xd9 && memory && (bytes[1] & 0x38) == 0x28) /* FLDCW: all masked */
                m.memory[0] |= 0x3f;
            m.gpr[RAX] = rax = random_word();
            m.gpr[RBX] = (uintptr_t)m.memory;
            m.cpu.rip = 0x1000;
            m.cpu.rflags = flags | 2;
            memcpy(before, m.memory, BYTES);
            memcpy(image, m.image, 512);
            if (RUN(bytes[0], bytes[1]) == INSN_INVALID)
                break;
            ck_assert_uint_eq(m.cpu.rip, 0x1002);
            seen++;
            memcpy(after, m.memory, BYTES);
            memcpy(m.memory, before, BYTES);
            native(bytes, 2, image, &rax, (uintptr_t)m.memory, &flags);
            compare(bytes, image);
            ck_assert_mem_eq(after, m.memory, BYTES);
            ck_assert_uint_eq(m.gpr[RAX], rax);
            ck_assert_uint_eq(m.cpu.rflags, flags | 2);
        }
    }
    ck_assert_uint_gt(seen, 50 * 400);
}
END_TEST

static uint64_t at(const uint8_t *from, unsigned offset, unsigned size)
{
    uint64_t value = 0;

    memcpy(&value, from + offset, size);
    return value;
}

/* Intel SDM, "x87 FPU Instruction and Data (Operand) Pointers", and the formats of the environment.
 */
START_TEST(pointers)
{
    random_state();
    m.cpu.rip = 0x123456789;
    m.gpr[RBX] = (uintptr_t)m.memory + 8;
    ck_assert_int_eq(RUN(0xdd, 0x43, 0x08), INSN_OK); /* fld qword [rbx + 8] */
    ck_assert_uint_eq(at(m.image, 6, 2), 0x543);
    ck_assert_uint_eq(at(m.image, 8, 8), 0x123456789);
    ck_assert_uint_eq(at(m.image, 16, 8), (uintptr_t)m.memory + 16);
    ck_assert_int_eq(RUN(0xd9, 0x3b), INSN_OK); /* fnstcw changes none of them */
    ck_assert_uint_eq(at(m.image, 8, 8), 0x123456789);
    ck_assert_int_eq(RUN(0xd9, 0x33), INSN_OK); /* fnstenv */
    ck_assert_uint_eq(at(m.memory, 8 + 12, 4), 0x23456789);
    ck_assert_uint_eq(at(m.memory, 8 + 16, 4), 0x5430000 | 1);
    ck_assert_uint_eq(at(m.memory, 8 + 20, 4), (uint32_t)(uintptr_t)m.memory + 16);
    ck_assert_uint_eq(at(m.memory, 8, 4) >> 16, 0xffff);
    ck_assert_uint_eq(at(m.image, 0, 2) & 0x3f, 0x3f);
}
END_TEST

/* What FNSAVE writes, FRSTOR reads back: the state is as before, in all four formats. */
START_TEST(formats)
{
    for (unsigned form = 0; form < 4; form++) {
        bool word = form & 1, real = form & 2;
        unsigned head = word ? 14 : 28;
        uint8_t before[512];

        setup();
        random_state();
        memset(m.memory, 0xee, 256);
        m.image[6] = 0x45, m.image[7] = 3;
        memcpy(m.image + 8, &(uint64_t){0x9876}, 8);
        memcpy(m.image + 16, &(uint64_t){0x5432}, 8);
        memcpy(before, m.image, 512);
        m.gpr[RBX] = (uintptr_t)m.memory;
        if (real)
            m.cpu.cr0 = 0x20; /* pointers as real mode has them; the addresses remain the host's */
        if (word)
            ck_assert_int_eq(RUN(0x66, 0xdd, 0x33), INSN_OK);
        else
            ck_assert_int_eq(RUN(0xdd, 0x33), INSN_OK);
        ck_assert_uint_eq(at(m.memory, 0, 2), at(before, 0, 2));
        ck_assert_uint_eq(at(m.memory, word ? 2 : 4, 2), at(before, 2, 2));
        ck_assert_uint_eq(at(m.memory, word ? 6 : 12, 2), 0x9876);
        ck_assert_uint_eq(at(m.memory, word ? 10 : 20, 2), 0x5432);
        if (real)
            ck_assert_uint_eq(at(m.memory, word ? 8 : 16, 2) & 0x7ff, 0x345);
        else if (!word)
            ck_assert_uint_eq(at(m.memory, 18, 2), 0x345);
        ck_assert_uint_eq(at(m.memory, head, 8), at(before, 32, 8));
        ck_assert_uint_eq(at(m.memory, head + 70 + 8, 2), at(before, 32 + 112 + 8, 2));
        ck_assert_uint_eq(m.memory[head + 80], 0xee);
        ck_assert_uint_eq(at(m.image, 0, 2), 0x37f); /* as after FNINIT */
        ck_assert_uint_eq(at(m.image, 4, 1), 0);
        ck_assert_uint_eq(at(m.image, 8, 8), 0);
        if (word)
            ck_assert_int_eq(RUN(0x66, 0xdd, 0x23), INSN_OK);
        else
            ck_assert_int_eq(RUN(0xdd, 0x23), INSN_OK);
        ck_assert_mem_eq(m.image, before, 6);
        ck_assert_mem_eq(m.image + 32, before + 32, 128);
        ck_assert_uint_eq(at(m.image, 8, 8), 0x9876);
    }
}
END_TEST

/* Intel SDM, "FXSAVE", "FXRSTOR". */
START_TEST(fxsave)
{
    uint8_t before[512];

    random_state();
    memcpy(m.image + 8, &(uint64_t){0x123456789abcdef}, 8);
    for (unsigned i = 160; i < 416; i++)
        m.image[i] = (uint8_t)(i * 3);
    memcpy(before, m.image, 512);
    memset(m.memory, 0xee, BYTES);
    m.gpr[RBX] = (uintptr_t)m.memory;
    ck_assert_int_eq(RUN(0x48, 0x0f, 0xae, 0x03), INSN_OK);
    ck_assert_mem_eq(m.memory, before, 416);
    for (unsigned i = 464; i < BYTES; i++) /* software's own */
        ck_assert_uint_eq(m.memory[i], 0xee);
    memset(m.image + 32, 0, 384);
    ck_assert_int_eq(RUN(0x48, 0x0f, 0xae, 0x0b), INSN_OK);
    ck_assert_mem_eq(m.image, before, 416);
    ck_assert_int_eq(RUN(0x0f, 0xae, 0x03), INSN_OK); /* 32 bits of the pointer and a selector */
    ck_assert_uint_eq(at(m.memory, 8, 8), 0x456789abcdef);
    m.memory[26] = 1; /* a reserved bit of MXCSR */
    ck_assert_int_eq(RUN(0x0f, 0xae, 0x0b), INSN_FAULT);
    ck_assert_uint_eq(m.fault.vector, 13);
    m.gpr[RBX] += 8;
    ck_assert_int_eq(RUN(0x0f, 0xae, 0x03), INSN_FAULT);
    ck_assert_uint_eq(m.fault.vector, 13);
    m.memory[8] = 0x80, m.memory[9] = 0x3f, m.memory[10] = m.memory[11] = 0;
    ck_assert_int_eq(RUN(0x0f, 0xae, 0x13), INSN_OK); /* ldmxcsr */
    ck_assert_uint_eq(at(m.image, 24, 4), 0x3f80);
    m.gpr[RBX] += 8;
    ck_assert_int_eq(RUN(0x0f, 0xae, 0x1b), INSN_OK); /* stmxcsr */
    ck_assert_uint_eq(at(m.memory, 16, 4), 0x3f80);
    m.gpr[RBX] -= 8;
    m.memory[10] = 1;
    ck_assert_int_eq(RUN(0x0f, 0xae, 0x13), INSN_FAULT);
}
END_TEST

static void ck_raises(enum insn_result result, unsigned vector)
{
    ck_assert_int_eq(result, INSN_FAULT);
    ck_assert_uint_eq(m.fault.vector, vector);
    ck_assert(!m.fault.has_error_code);
}

START_TEST(faults)
{
    random_state();
    m.gpr[RBX] = (uintptr_t)m.memory;
    m.cpu.cr0 |= 8; /* TS */
    ck_raises(RUN(0xdb, 0xe3), 7);
    ck_raises(RUN(0x0f, 0xae, 0x03), 7);
    ck_assert_int_eq(RUN(0x9b), INSN_OK); /* without MP */
    m.cpu.cr0 |= 2;
    ck_raises(RUN(0x9b), 7);
    m.cpu.cr0 = 0x80000025; /* EM */
    ck_raises(RUN(0xd9, 0xe8), 7);
    ck_assert_int_eq(RUN(0x9b), INSN_OK);
    m.cpu.cr0 = 0x80000021;
    m.image[2] |= 0x81, m.image[0] &= 0xfe; /* an exception is pending */
    ck_raises(RUN(0x9b), 16);
    ck_raises(RUN(0xd9, 0xe8), 16);
    ck_raises(RUN(0xd9, 0x2b), 16);
    ck_assert_int_eq(RUN(0xdf, 0xe0), INSN_OK);
    ck_assert_int_eq(RUN(0xd9, 0x3b), INSN_OK);
    ck_assert_int_eq(RUN(0xdb, 0xe2), INSN_OK);
    ck_assert_int_eq(RUN(0x9b), INSN_OK);
    m.cpu.cr4 = 0;
    ck_raises(RUN(0x0f, 0xae, 0x13), 6);
}
END_TEST

/* A store to a device: the stack is popped once. */
START_TEST(store_to_a_device)
{
    uint8_t before[512];

    random_state();
    m.image[4] = 0xff;
    m.gpr[RBX] = (uintptr_t)m.memory;
    memcpy(before, m.image, 512);
    m.pending = true;
    ck_assert_int_eq(RUN(0xdd, 0x1b), INSN_PENDING); /* fstp qword [rbx] */
    ck_assert_mem_eq(m.image, before, 512);
    m.replay.access[m.replay.count - 1].done = 1;
    ck_assert_int_eq(resume((const uint8_t[]){0xdd, 0x1b}, 2), INSN_OK);
    ck_assert_uint_eq(at(m.image, 2, 2) >> 11 & 7, ((at(before, 2, 2) >> 11) + 1) & 7);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("insn_x87");
    TCase *tests = tcase_create("x87");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tests, setup, NULL);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, every_encoding);
    tcase_add_test(tests, pointers);
    tcase_add_test(tests, formats);
    tcase_add_test(tests, fxsave);
    tcase_add_test(tests, faults);
    tcase_add_test(tests, store_to_a_device);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
