/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * XSAVE, XSAVEOPT, XSAVEC and XRSTOR in the executor, against what the processor that runs the test
 * makes of the same registers and memory, and against the manual where it would fault. XSAVES and
 * XRSTORS, which no test may execute, against the manual.
 */
#include <check.h>
#include <cpuid.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "insn/execute.h"

/* ModRM.reg, in group 15 and, with bit 3, in group 9. */
enum { XSAVE = 4, XRSTOR = 5, XSAVEOPT = 6, XRSTORS = 8 | 3, XSAVEC = 8 | 4, XSAVES = 8 | 5 };
enum { RAX, RCX, RDX, RBX, AREA = 832, MXCSR = 24, HEADER = 512, YMM = 576 };

/* Registers as XSAVE has them, all but the header. */
struct registers {
    _Alignas(64) uint8_t image[512];
    uint8_t high[16][16];
};

static struct {
    struct insn_cpu cpu;
    uint64_t gpr[16];
    struct registers now;
    _Alignas(64) uint8_t memory[1024];
    struct insn_replay replay;
    struct insn_fault fault;
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
    if (!(flags & INSN_ACCESS_PROBE))
        memcpy(m.memory + linear, data, size);
    return INSN_ACCESS_OK;
}

static bool do_vector(void *context, unsigned reg, void *data, bool write, enum insn_vector part)
{
    (void)context;
    ck_assert_int_eq(part, INSN_VECTOR_HIGH);
    memcpy(write ? m.now.high[reg] : data, write ? data : m.now.high[reg], 16);
    return true;
}

static bool do_fpu(void *context, void *image, bool write)
{
    (void)context;
    memcpy(write ? m.now.image : image, write ? image : m.now.image, 512);
    return true;
}

static bool has_avx(void)
{
    unsigned eax, ebx, ecx, edx;

    return __builtin_cpu_supports("avx") && __get_cpuid_count(0xd, 2, &eax, &ebx, &ecx, &edx) &&
           eax == 256 && ebx == YMM;
}

static bool has_xsavec(void)
{
    unsigned eax, ebx, ecx, edx;

    return has_avx() && __get_cpuid_count(0xd, 1, &eax, &ebx, &ecx, &edx) && (eax & 2);
}

static void random_bytes(void *to, size_t count)
{
    for (size_t i = 0; i < count; i++)
        ((uint8_t *)to)[i] = (uint8_t)rand();
}

static void setup(void)
{
    memset(&m, 0, sizeof(m));
    srand(1);
    m.cpu = (struct insn_cpu){.gpr = m.gpr,
                              .cr0 = 0x80000031,
                              .cr4 = 1 << 9 | 1 << 18,
                              .efer = 0x500,
                              .xcr0 = 7,
                              .mode = INSN_64,
                              .rflags = 2};
    random_bytes(m.memory, sizeof(m.memory));
    m.gpr[RBX] = 64;
}

static enum insn_result run(uint8_t reg, bool wide)
{
    static const struct insn_ops ops = {
        .read = do_read, .write = do_write, .vector = do_vector, .fpu = do_fpu};
    uint8_t bytes[16] = {0x48, 0x0f, reg & 8 ? 0xc7 : 0xae, (uint8_t)((reg & 7) << 3 | 3)};
    struct insn insn;
    enum insn_result result = insn_decode(&insn, bytes + !wide, 15, INSN_64);

    ck_assert(result == INSN_OK || result == INSN_UNKNOWN);
    m.replay.count = 0;
    m.cpu.rip = 0;
    return insn_execute(&insn, &m.cpu, &ops, &m, &m.replay, 1, &m.fault);
}

/* `state`, an area with all components, goes into the processor; then it executes the instruction
 * on `area` under `mask`; then all is `state` again. */
static void native(uint8_t *state, uint8_t *area, uint32_t mask, unsigned reg, bool wide)
{
    _Alignas(64) static uint8_t own[4096];

#define NATIVE(text)                                                                               \
    __asm__ volatile(                                                                              \
        "xsave64 (%[own])\n\t"                                                                     \
        "xrstor64 (%[state])\n\t"                                                                  \
        "movl %[mask], %%eax\n\t" text "\n\t"                                                      \
        "movl $7, %%eax\n\t"                                                                       \
        "xsave64 (%[state])\n\t"                                                                   \
        "xrstor64 (%[own])"                                                                        \
        : "=&a"((unsigned){0})                                                                     \
        : "0"(7), "d"(0), [own] "r"(own), [state] "r"(state), [area] "r"(area), [mask] "r"(mask)   \
        : "memory")
    if (reg == XRSTOR && wide)
        NATIVE("xrstor64 (%[area])");
    else if (reg == XRSTOR)
        NATIVE("xrstor (%[area])");
    else if (reg == XSAVEC && wide)
        NATIVE("xsavec64 (%[area])");
    else if (reg == XSAVEC)
        NATIVE("xsavec (%[area])");
    else if (wide)
        NATIVE("xsave64 (%[area])");
    else
        NATIVE("xsave (%[area])");
}

/* An area with something in every component, that XRSTOR takes. */
static void random_state(uint8_t *area)
{
    memset(area, 0, AREA);
    random_bytes(area + 32, 128 + 256);
    for (unsigned i = 0; i < 8; i++) /* the registers have 80 bits */
        memset(area + 32 + 16 * i + 10, 0, 6);
    area[0] = 0x7f, area[1] = (uint8_t)(rand() % 16);
    area[2] = 0, area[3] = (uint8_t)(rand() & 0x38); /* no exception: no summary */
    area[4] = (uint8_t)rand();
    area[MXCSR] = 0x80, area[MXCSR + 1] = (uint8_t)(0x1f | (rand() & 0xe0));
    random_bytes(area + YMM, 256);
    area[HEADER] = 7;
}

static void take(struct registers *to, const uint8_t *area)
{
    memcpy(to->image, area, 512);
    memcpy(to->high, area + YMM, 256);
}

static void same_state(const uint8_t *area)
{
    ck_assert_mem_eq(m.now.image, area, 6); /* FCW, FSW, FTW; processors differ about pointers */
    ck_assert_mem_eq(m.now.image + MXCSR, area + MXCSR, 4);
    ck_assert_mem_eq(m.now.image + 32, area + 32, 384);
    ck_assert_mem_eq(m.now.high, area + YMM, 256);
}

START_TEST(saves_as_the_processor)
{
    uint32_t mask = _i & 7;
    bool wide = _i & 8;
    _Alignas(64) uint8_t state[1024], area[1024];

    if (!has_avx())
        return;
    for (unsigned trial = 0; trial < 20; trial++) {
        random_bytes(m.memory, sizeof(m.memory));
        memcpy(area, m.memory + 64, AREA);
        random_state(state);
        native(state, area, mask, XSAVE, wide);
        take(&m.now, state);
        m.gpr[RAX] = mask | (uint64_t)rand() << 40; /* 32 bits count */
        ck_assert_int_eq(run(trial & 1 ? XSAVE : XSAVEOPT, wide), INSN_OK);
        /* FOP and the pointers: of which processors save what. */
        memcpy(area + 6, m.memory + 64 + 6, 18);
        ck_assert_mem_eq(m.memory + 64, area, AREA);
        m.gpr[RAX] = 0;
    }
}
END_TEST

START_TEST(restores_as_the_processor)
{
    uint32_t mask = _i & 7, present = _i >> 3 & 7;
    _Alignas(64) uint8_t state[1024], area[1024];

    if (!has_avx())
        return;
    for (unsigned trial = 0; trial < 20; trial++) {
        random_state(state);
        take(&m.now, state);
        random_state(area);
        area[HEADER] = (uint8_t)present;
        random_bytes(area + HEADER + 24, 40); /* which is not looked at */
        memcpy(m.memory + 64, area, AREA);
        native(state, area, mask, XRSTOR, trial & 1);
        m.gpr[RAX] = mask;
        ck_assert_int_eq(run(5, trial & 1), INSN_OK);
        ck_assert_mem_eq(m.memory + 64, area, AREA);
        same_state(state);
    }
}
END_TEST

START_TEST(saves_compacted_as_the_processor)
{
    uint32_t mask = _i & 7;
    bool wide = _i & 8;
    _Alignas(64) uint8_t state[1024], area[1024];

    if (!has_xsavec())
        return;
    for (unsigned trial = 0; trial < 20; trial++) {
        random_bytes(m.memory, sizeof(m.memory));
        memcpy(area, m.memory + 64, AREA);
        random_state(state);
        native(state, area, mask, XSAVEC, wide);
        take(&m.now, state);
        m.gpr[RAX] = mask;
        ck_assert_int_eq(run(trial & 1 ? XSAVEC : XSAVES, wide), INSN_OK);
        memcpy(area + 6, m.memory + 64 + 6, 18);
        ck_assert_mem_eq(m.memory + 64, area, AREA);
        /* And as the manual has it. */
        ck_assert_uint_eq(area[HEADER], mask);
        ck_assert_uint_eq(area[HEADER + 8], mask);
        ck_assert_uint_eq(area[HEADER + 15], 0x80);
    }
}
END_TEST

START_TEST(restores_compacted_as_the_processor)
{
    uint32_t mask = _i & 7, present = _i >> 3 & 7;
    _Alignas(64) uint8_t state[1024], area[1024];

    if (!has_xsavec())
        return;
    for (unsigned trial = 0; trial < 20; trial++) {
        random_state(state);
        take(&m.now, state);
        random_state(area);
        area[HEADER] = (uint8_t)present;
        area[HEADER + 8] = (uint8_t)(present | (trial >> 1 & 7));
        area[HEADER + 15] = 0x80;
        memcpy(m.memory + 64, area, AREA);
        native(state, area, mask, XRSTOR, trial & 1);
        m.gpr[RAX] = mask;
        ck_assert_int_eq(run(trial & 2 ? XRSTOR : XRSTORS, trial & 1), INSN_OK);
        ck_assert_mem_eq(m.memory + 64, area, AREA);
        same_state(state);
    }
}
END_TEST

static void faults_with(unsigned reg, unsigned vector)
{
    struct registers before = m.now;

    ck_assert_int_eq(run((uint8_t)reg, false), INSN_FAULT);
    ck_assert_uint_eq(m.fault.vector, vector);
    ck_assert_mem_eq(&m.now, &before, sizeof(before));
    ck_assert_uint_eq(m.cpu.rip, 0);
}

/* Intel SDM, "XRSTOR—Restore Processor Extended States", "Protected Mode Exceptions". */
START_TEST(faults)
{
    static const uint8_t all[] = {XSAVE, XRSTOR, XSAVEOPT, XSAVEC, XSAVES, XRSTORS};
    uint8_t *area = m.memory + 64;

    random_state(area);
    m.gpr[RAX] = 7;
    ck_assert_int_eq(run(5, false), INSN_OK);
    m.cpu.xcr0 = 3;
    faults_with(5, 13); /* a component that is not enabled is in memory */
    m.cpu.xcr0 = 7;
    area[HEADER + 8] = 1;
    faults_with(5, 13);
    area[HEADER + 8] = 0;
    area[HEADER + 23] = 1;
    faults_with(5, 13);
    area[HEADER + 23] = 0;
    area[MXCSR + 2] = 4;
    faults_with(5, 13);
    m.gpr[RAX] = 1; /* MXCSR is not looked at */
    ck_assert_int_eq(run(5, false), INSN_OK);
    area[MXCSR + 2] = 0;
    for (unsigned i = 0; i < sizeof(all); i++) {
        unsigned reg = all[i];

        m.gpr[RBX] = 80;
        faults_with(reg, 13);
        m.gpr[RBX] = 64;
        m.cpu.cr0 |= 8;
        faults_with(reg, 7);
        m.cpu.cr4 &= ~(1u << 18);
        faults_with(reg, 6);
        m.cpu.cr0 &= ~8u;
        m.cpu.cr4 |= 1 << 18;
    }
    m.cpu.cpl = 3;
    faults_with(XSAVES, 13);
    faults_with(XRSTORS, 13);
    m.cpu.cpl = 0;
    m.cpu.xcr0 = 0xe7;
    m.gpr[RAX] = 0xff;
    ck_assert_int_eq(run(4, false), INSN_UNSUPPORTED); /* AVX-512 */
    m.gpr[RAX] = 7;
    ck_assert_int_eq(run(4, false), INSN_OK);
}
END_TEST

/* Likewise, "Compacted Form of XRSTOR". */
START_TEST(faults_compacted)
{
    uint8_t *area = m.memory + 64;

    random_state(area);
    m.gpr[RAX] = 7;
    faults_with(XRSTORS, 13); /* not compacted */
    area[HEADER + 8] = 3, area[HEADER + 15] = 0x80;
    faults_with(XRSTOR, 13); /* AVX state is present and has no place */
    area[HEADER] = 3;
    ck_assert_int_eq(run(XRSTOR, false), INSN_OK);
    area[HEADER + 8] = 0x13;
    faults_with(XRSTOR, 13); /* a place for what is not enabled */
    m.cpu.xss = 0x10;
    faults_with(XRSTOR, 13);
    ck_assert_int_eq(run(XRSTORS, false), INSN_OK); /* which asks for others */
    m.gpr[RAX] = 0x17;
    ck_assert_int_eq(run(XRSTORS, false), INSN_UNSUPPORTED);
    ck_assert_int_eq(run(XSAVES, false), INSN_UNSUPPORTED);
    ck_assert_int_eq(run(XSAVEC, false), INSN_OK);
    ck_assert_uint_eq(area[HEADER + 8], 7);
    for (unsigned i = 16; i < 64; i++) {
        area[HEADER + i] = 4;
        faults_with(XRSTOR, 13);
        area[HEADER + i] = 0;
    }
    ck_assert_int_eq(run(XRSTOR, false), INSN_OK);
    area[MXCSR + 2] = 4;
    faults_with(XRSTOR, 13);
    m.gpr[RAX] = 5; /* of AVX MXCSR is no part here */
    ck_assert_int_eq(run(XRSTOR, false), INSN_OK);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("insn_xsave");
    TCase *tests = tcase_create("xsave");
    SRunner *runner;
    int failed;

    if (!has_avx())
        printf("not shown: this processor has no AVX, or its state elsewhere\n");
    if (!has_xsavec())
        printf("not shown of the compacted form: this processor has no XSAVEC\n");
    tcase_add_checked_fixture(tests, setup, NULL);
    tcase_add_loop_test(tests, saves_as_the_processor, 0, 16);
    tcase_add_loop_test(tests, restores_as_the_processor, 0, 64);
    tcase_add_loop_test(tests, saves_compacted_as_the_processor, 0, 16);
    tcase_add_loop_test(tests, restores_compacted_as_the_processor, 0, 64);
    tcase_add_test(tests, faults);
    tcase_add_test(tests, faults_compacted);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
