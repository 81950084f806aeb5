/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * BMI1 and BMI2 in the executor, with random operands, against what the processor that runs the
 * test makes of the same bytes.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "insn/execute.h"

enum { RAX, RCX, RDX, RBX, RSI = 6, ROUNDS = 4000 };
enum { CF = 1, PF = 4, AF = 0x10, ZF = 0x40, SF = 0x80, OF = 0x800, ALL = 0x8d5 };

static struct {
    struct insn_cpu cpu;
    uint64_t gpr[16], memory;
    struct insn_ops ops;
    struct insn_replay replay;
    struct insn_fault fault;
} m;

/* ModRM.reg 8 here: any. `undefined` flags are not compared. */
static const struct form {
    const char *name;
    uint8_t map, prefix, opcode, reg, immediate;
    uint16_t undefined;
} forms[] = {
    {"andn", 2, 0, 0xf2, 8, 0, AF | PF},
    {"blsr", 2, 0, 0xf3, 1, 0, AF | PF},
    {"blsmsk", 2, 0, 0xf3, 2, 0, AF | PF},
    {"blsi", 2, 0, 0xf3, 3, 0, AF | PF},
    {"bzhi", 2, 0, 0xf5, 8, 0, AF | PF},
    {"pext", 2, 2, 0xf5, 8, 0, 0},
    {"pdep", 2, 3, 0xf5, 8, 0, 0},
    {"mulx", 2, 3, 0xf6, 8, 0, 0},
    {"bextr", 2, 0, 0xf7, 8, 0, AF | SF | PF},
    {"shlx", 2, 1, 0xf7, 8, 0, 0},
    {"sarx", 2, 2, 0xf7, 8, 0, 0},
    {"shrx", 2, 3, 0xf7, 8, 0, 0},
    {"rorx", 3, 3, 0xf0, 8, 1, 0},
};

static uint64_t random_64(void)
{
    static uint64_t seed = 0x9e3779b97f4a7c15;

    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

/* Now and then one of the edges. */
static uint64_t operand(void)
{
    static const uint64_t edges[] = {0, 1, ~0ull, 1ull << 63, 1ull << 31, 0x4020, 0x2000, 64, 255};
    uint64_t r = random_64();

    return r & 3 ? r >> (r >> 8 & 63) : edges[(r >> 2) % (sizeof(edges) / sizeof(edges[0]))];
}

static enum insn_access_result do_read(void *context, uint64_t linear, void *data, unsigned size,
                                       unsigned flags, struct insn_fault *fault)
{
    (void)context, (void)linear, (void)flags, (void)fault;
    memcpy(data, &m.memory, size);
    return INSN_ACCESS_OK;
}

static void setup(void)
{
    memset(&m, 0, sizeof(m));
    m.cpu.gpr = m.gpr;
    m.cpu.cr0 = 0x80000001;
    m.cpu.efer = 0x500;
    m.cpu.mode = INSN_64;
    m.ops = (struct insn_ops){.read = do_read};
}

static unsigned encode(const struct form *form, uint8_t *bytes, bool wide, unsigned other,
                       unsigned modrm)
{
    const uint8_t code[] = {
        0xc4,         0xe0 | form->map, (uint8_t)(wide << 7 | (~other & 15) << 3 | form->prefix),
        form->opcode, (uint8_t)modrm,   (uint8_t)random_64()};

    memcpy(bytes, code, sizeof(code));
    return 5u + form->immediate;
}

static enum insn_result run(const uint8_t *bytes, unsigned count)
{
    uint8_t padded[16] = {0};
    struct insn insn;

    memcpy(padded, bytes, count);
    ck_assert_int_eq(insn_decode(&insn, padded, 15, (enum insn_mode)m.cpu.mode), INSN_UNKNOWN);
    ck_assert_uint_eq(insn.length, count);
    m.replay.count = 0;
    return insn_execute(&insn, &m.cpu, &m.ops, &m, &m.replay, 1, &m.fault);
}

/* rax, rcx, rdx, rbx and the flags, with rsi at `memory`. */
static void native(uint8_t *code, const uint8_t *bytes, unsigned count, uint64_t *gpr,
                   uint64_t *flags, uint64_t *memory)
{
    uint64_t a = gpr[RAX], b = gpr[RBX], c = gpr[RCX], d = gpr[RDX], f = *flags;

    memcpy(code, bytes, count);
    code[count] = 0xc3;
    __asm__ volatile("pushq %[f]; popfq; call *%[code]; pushfq; popq %[f]"
                     : "+a"(a), "+b"(b), "+c"(c), "+d"(d), [f] "+r"(f)
                     : "S"(memory), [code] "r"(code)
                     : "memory", "cc");
    gpr[RAX] = a;
    gpr[RBX] = b;
    gpr[RCX] = c;
    gpr[RDX] = d;
    *flags = f;
}

/* Registers among rax, rcx, rdx, rbx. */
static void trial(const struct form *form, uint8_t *code)
{
    unsigned reg = random_64() & 3, rm = random_64() & 3, other = random_64() & 3, count;
    bool in_memory = random_64() & 1;
    uint64_t gpr[16] = {0}, flags = 2 | (random_64() & ALL);
    uint8_t bytes[8];

    if (form->reg < 8)
        reg = form->reg;
    if (form->immediate)
        other = 0; /* vvvv is 1111: none */
    count =
        encode(form, bytes, random_64() & 1, other, (in_memory ? 0x06u : 0xc0u | rm) | reg << 3);
    if (form->immediate)
        bytes[2] |= 0x78;
    for (unsigned i = 0; i < 4; i++)
        gpr[i] = m.gpr[i] = operand();
    m.memory = operand();
    m.gpr[RSI] = 0x1000;
    m.cpu.rip = 0;
    m.cpu.rflags = flags;
    native(code, bytes, count, gpr, &flags, &m.memory);
    ck_assert_int_eq(run(bytes, count), INSN_OK);
    for (unsigned i = 0; i < 4; i++)
        ck_assert_msg(m.gpr[i] == gpr[i], "%s, register %u: %lx, not %lx", form->name, i, m.gpr[i],
                      gpr[i]);
    ck_assert_msg(!((m.cpu.rflags ^ flags) & ALL & ~form->undefined), "%s, flags: %lx, not %lx",
                  form->name, m.cpu.rflags, flags);
    ck_assert_uint_eq(m.cpu.rip, count);
}

START_TEST(as_the_processor)
{
    uint8_t *code;

    if (!__builtin_cpu_supports("bmi") || !__builtin_cpu_supports("bmi2")) {
        printf("not shown: %s: this processor has no BMI\n", forms[_i].name);
        return;
    }
    code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(code, MAP_FAILED);
    for (unsigned i = 0; i < ROUNDS; i++)
        trial(&forms[_i], code);
    munmap(code, 4096);
}
END_TEST

/* "BMI1/BMI2": #UD in real and virtual-8086 mode, with VEX.L, and group 17 has /1 to /3 only. */
START_TEST(undefined)
{
    static const uint8_t andn[] = {0xc4, 0xe2, 0x70, 0xf2, 0xc2};
    static const uint8_t wide[] = {0xc4, 0xe2, 0x74, 0xf2, 0xc2};
    static const uint8_t group[] = {0xc4, 0xe2, 0x70, 0xf3, 0xe2};
    static const uint8_t rorx[] = {0xc4, 0xe3, 0x73, 0xf0, 0xc2, 4};

    ck_assert_int_eq(run(andn, 5), INSN_OK);
    ck_assert_int_eq(run(wide, 5), INSN_FAULT);
    ck_assert_uint_eq(m.fault.vector, 6);
    ck_assert_int_eq(run(group, 5), INSN_FAULT);
    ck_assert_uint_eq(m.fault.vector, 6);
    ck_assert_int_eq(run(rorx, 6), INSN_FAULT);
    ck_assert_uint_eq(m.fault.vector, 6);
    m.cpu.efer = 0;
    m.cpu.mode = INSN_16;
    m.cpu.cr0 = 0;
    ck_assert_int_eq(run(andn, 5), INSN_FAULT);
    ck_assert_uint_eq(m.fault.vector, 6);
}
END_TEST

/* W counts in 64-bit mode only, and only seven registers can be named elsewhere. */
START_TEST(in_32_bit_mode)
{
    static const uint8_t andn[] = {0xc4, 0xe2, 0xb0, 0xf2,
                                   0xc2}; /* andn eax, ecx, edx; W, vvvv 9 */

    m.cpu.efer = 0;
    m.cpu.mode = INSN_32;
    m.gpr[RCX] = 0xff;
    m.gpr[RDX] = 0x12345678;
    ck_assert_int_eq(run(andn, 5), INSN_OK);
    ck_assert_uint_eq(m.gpr[RAX], 0x12345600);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("insn_bmi");
    TCase *tests = tcase_create("bmi");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tests, setup, NULL);
    tcase_add_loop_test(tests, as_the_processor, 0, sizeof(forms) / sizeof(forms[0]));
    tcase_add_test(tests, undefined);
    tcase_add_test(tests, in_32_bit_mode);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
