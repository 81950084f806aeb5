/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Random bytes in random states with callbacks that answer at random: whatever happens, the
 * executor keeps its promises. Run under ASan and UBSan.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "insn/execute.h"

static uint64_t seed;

static uint64_t random_64(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1d;
}

static unsigned calls;

/* Mostly OK. A fault names vector 14, by which it is known below. */
static enum insn_access_result answer(unsigned size, struct insn_fault *fault, bool may_race)
{
    unsigned choice = random_64() >> 20 & 31;

    calls++;
    ck_assert_uint_ge(size, 1);
    ck_assert_uint_le(size, 16);
    if (choice == 0) {
        *fault = (struct insn_fault){14, true, 0, 0};
        return INSN_ACCESS_FAULT;
    }
    if (choice < 4)
        return INSN_ACCESS_PENDING;
    return may_race && choice < 20 ? INSN_ACCESS_RACED : INSN_ACCESS_OK;
}

static void fill(void *data, unsigned size)
{
    uint64_t words[2] = {random_64(), random_64()};

    memcpy(data, words, size);
}

static enum insn_access_result do_read(void *context, uint64_t linear, void *data, unsigned size,
                                       unsigned flags, struct insn_fault *fault)
{
    enum insn_access_result result = answer(size, fault, false);

    (void)context;
    (void)linear;
    (void)flags;
    if (result == INSN_ACCESS_OK)
        fill(data, size);
    return result;
}

static enum insn_access_result do_write(void *context, uint64_t linear, const void *data,
                                        unsigned size, unsigned flags, struct insn_fault *fault)
{
    uint8_t copy[16];

    (void)context;
    (void)linear;
    if (!(flags & INSN_ACCESS_PROBE))
        memcpy(copy, data, size);
    return answer(size, fault, false);
}

static enum insn_access_result do_compare_exchange(void *context, uint64_t linear, void *expected,
                                                   const void *desired, unsigned size,
                                                   unsigned flags, struct insn_fault *fault)
{
    enum insn_access_result result = answer(size, fault, true);
    uint8_t copy[16];

    (void)context;
    (void)linear;
    (void)flags;
    memcpy(copy, desired, size);
    if (result == INSN_ACCESS_RACED)
        fill(expected, size);
    return result;
}

static enum insn_access_result do_in(void *context, uint16_t port, void *data, unsigned size,
                                     struct insn_fault *fault)
{
    return do_read(context, port, data, size, 0, fault);
}

static enum insn_access_result do_out(void *context, uint16_t port, const void *data, unsigned size,
                                      struct insn_fault *fault)
{
    return do_write(context, port, data, size, 0, fault);
}

static enum insn_access_result do_io_permitted(void *context, uint16_t port, unsigned size,
                                               struct insn_fault *fault)
{
    (void)context;
    (void)port;
    return answer(size, fault, false) == INSN_ACCESS_FAULT ? INSN_ACCESS_FAULT : INSN_ACCESS_OK;
}

static void random_ops(struct insn_ops *ops)
{
    *ops = (struct insn_ops){.read = do_read, .write = do_write};
    if (random_64() & 7)
        ops->compare_exchange = do_compare_exchange;
    if (random_64() & 7) {
        ops->in = do_in;
        ops->out = do_out;
    }
    if (random_64() & 1)
        ops->io_permitted = do_io_permitted;
    ops->descriptors = random_64() & 1;
}

static void random_cpu(struct insn_cpu *cpu, uint64_t *gpr)
{
    memset(cpu, 0, sizeof(*cpu));
    for (unsigned i = 0; i < 16; i++)
        gpr[i] = random_64() >> (random_64() & 63);
    cpu->gpr = gpr;
    cpu->rip = random_64() >> (random_64() & 63);
    cpu->rflags = (random_64() & 0x3f7fd5) | 2;
    cpu->mode = random_64() % 3;
    cpu->cr0 = cpu->mode == INSN_64 ? 1 : random_64() & 1;
    cpu->cr4 = random_64() & 0x1fff;
    cpu->efer = cpu->mode == INSN_64 ? 0x500 : 0;
    cpu->cpl = cpu->cr0 ? random_64() & 3 : 0;
    if (cpu->mode == INSN_64)
        cpu->rflags &= ~(1ull << 17);
    for (unsigned i = 0; i < INSN_SEGMENTS; i++)
        cpu->seg[i] = (struct insn_seg){random_64() & 0xffffffff,
                                        (uint32_t)(random_64() >> (random_64() & 63)),
                                        random_64() & 0x1f0ff, (uint16_t)random_64()};
    cpu->gdtr = (struct insn_table){random_64(), (uint16_t)random_64()};
    cpu->idtr = (struct insn_table){random_64(), (uint16_t)random_64()};
    cpu->ldtr = (struct insn_seg){random_64(), (uint32_t)random_64(), 0x82, 8};
}

/* What was not finished must not show; iterations of repeated string instructions do. */
static void check_unchanged(const struct insn *insn, const struct insn_cpu *before,
                            const struct insn_cpu *after, const uint64_t *gpr)
{
    if (insn->op >= INSN_OP_MOVS && insn->op <= INSN_OP_OUTS &&
        (insn->prefixes & (INSN_PREFIX_REP | INSN_PREFIX_REPNE))) {
        ck_assert_uint_eq(before->rip, after->rip);
        return;
    }
    ck_assert_mem_eq(before, after, sizeof(*before));
    ck_assert_mem_eq(gpr, after->gpr, 128);
}

static void check_pending(struct insn_replay *replay)
{
    struct insn_access *access;

    ck_assert_uint_ge(replay->count, 1);
    ck_assert_uint_le(replay->count, INSN_REPLAY_MAX);
    access = &replay->access[replay->count - 1];
    ck_assert_uint_eq(access->done, 0);
    ck_assert_uint_le(access->kind, INSN_ACCESS_OUT);
    if (access->kind == INSN_ACCESS_READ || access->kind == INSN_ACCESS_IN)
        fill(access->data, access->size);
    access->done = 1;
}

static enum insn_result run_one(const struct insn *insn, struct insn_cpu *cpu)
{
    struct insn_replay replay = {.count = 0};
    struct insn_fault fault = {0};
    struct insn_ops ops;

    random_ops(&ops);
    for (unsigned i = 0; i < 1000; i++) {
        struct insn_cpu before = *cpu;
        enum insn_result result;
        uint64_t gpr[16];

        memcpy(gpr, cpu->gpr, sizeof(gpr));
        result = insn_execute(insn, cpu, &ops, NULL, &replay, 8, &fault);
        before.operand = cpu->operand; /* an output */
        if (result != INSN_OK && !(result == INSN_FAULT && cpu->task_switched))
            check_unchanged(insn, &before, cpu, gpr);
        if (result != INSN_PENDING) {
            ck_assert_uint_eq(replay.count, 0);
            ck_assert(result == INSN_OK || result == INSN_FAULT || result == INSN_UNSUPPORTED ||
                      result == INSN_AGAIN || result == INSN_SYSTEM);
            ck_assert(result != INSN_FAULT || fault.vector < 32);
            return result;
        }
        check_pending(&replay);
    }
    ck_abort_msg("operation %u does not end", insn->op);
}

START_TEST(promises)
{
    unsigned results[INSN_SYSTEM + 1] = {0};

    seed = 0xa0761d6478bd642f + (uint64_t)_i;
    for (unsigned n = 0; n < 100000; n++) {
        uint64_t words[2] = {random_64(), random_64()}, gpr[16];
        uint8_t bytes[16];
        struct insn_cpu cpu;
        struct insn insn;

        memcpy(bytes, words, 16);
        if (n & 1) { /* half of them with the sort of prefix that matters most */
            static const uint8_t prefixes[] = {0x66, 0x67, 0xf0, 0xf3, 0xf2, 0x0f, 0x0f, 0x48};

            bytes[0] = prefixes[n >> 1 & 7];
        }
        random_cpu(&cpu, gpr);
        if (insn_decode(&insn, bytes, 15, (enum insn_mode)cpu.mode) == INSN_OK)
            results[run_one(&insn, &cpu)]++;
    }
    ck_assert_uint_gt(results[INSN_OK], 5000);
    ck_assert_uint_gt(results[INSN_FAULT], 5000);
    ck_assert_uint_gt(results[INSN_UNSUPPORTED], 500);
    ck_assert_uint_gt(results[INSN_AGAIN], 10);
    ck_assert_uint_gt(calls, 20000);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("insn_random");
    TCase *tests = tcase_create("random");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, promises, 0, 4);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
