/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * libFuzzer's target for the decoder and the executor: the input is a processor's state, the
 * answers of its memory, and instruction bytes. Judged are the promises of execute.h: nothing is
 * left of what did not retire, logs are bounded and end, callbacks get sane arguments, and decoding
 * finds the same whatever lies behind the instruction.
 */
#include <stdlib.h>
#include <string.h>

#include "insn/execute.h"

#define PROMISE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition))                                                                          \
            abort();                                                                               \
    } while (0)

struct input {
    const uint8_t *at, *end;
};

static uint64_t take(struct input *in, unsigned bytes)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < bytes && in->at < in->end; i++)
        value |= (uint64_t)*in->at++ << 8 * i;
    return value;
}

/* What an access comes to: a byte of input; without any left, well. */
static enum insn_access_result answer(struct input *in, struct insn_fault *fault, bool may_race)
{
    unsigned choice = (unsigned)take(in, 1);

    if (choice >= 0xf0) {
        *fault = (struct insn_fault){14, true, choice & 7, 0x1234};
        return INSN_ACCESS_FAULT;
    }
    if (choice >= 0xe0)
        return INSN_ACCESS_PENDING;
    return may_race && choice >= 0xd0 ? INSN_ACCESS_RACED : INSN_ACCESS_OK;
}

static void fill(struct input *in, void *data, unsigned size)
{
    PROMISE(size >= 1 && size <= 16);
    for (unsigned i = 0; i < size; i++)
        ((uint8_t *)data)[i] = (uint8_t)take(in, 1);
}

static enum insn_access_result do_read(void *context, uint64_t linear, void *data, unsigned size,
                                       unsigned flags, struct insn_fault *fault)
{
    (void)linear;
    PROMISE(!(flags & INSN_ACCESS_PROBE));
    fill(context, data, size);
    return answer(context, fault, false);
}

static enum insn_access_result do_write(void *context, uint64_t linear, const void *data,
                                        unsigned size, unsigned flags, struct insn_fault *fault)
{
    uint8_t copy[16];

    (void)linear;
    PROMISE(size >= 1 && size <= 16);
    if (!(flags & INSN_ACCESS_PROBE))
        memcpy(copy, data, size);
    return answer(context, fault, false);
}

static enum insn_access_result do_exchange(void *context, uint64_t linear, void *expected,
                                           const void *desired, unsigned size, unsigned flags,
                                           struct insn_fault *fault)
{
    enum insn_access_result result = answer(context, fault, true);
    uint8_t copy[16];

    (void)linear;
    PROMISE(flags & INSN_ACCESS_LOCKED);
    memcpy(copy, desired, size);
    if (result == INSN_ACCESS_RACED)
        fill(context, expected, size);
    return result;
}

static enum insn_access_result do_in(void *context, uint16_t port, void *data, unsigned size,
                                     struct insn_fault *fault)
{
    (void)port;
    PROMISE(size == 1 || size == 2 || size == 4);
    fill(context, data, size);
    return answer(context, fault, false);
}

static enum insn_access_result do_out(void *context, uint16_t port, const void *data, unsigned size,
                                      struct insn_fault *fault)
{
    (void)port;
    (void)data;
    PROMISE(size == 1 || size == 2 || size == 4);
    return answer(context, fault, false);
}

static struct insn_msrs msrs;
static struct insn_msrs *do_msrs(void *context)
{
    (void)context;
    return &msrs;
}

static bool do_vector(void *context, unsigned reg, void *data, bool write, enum insn_vector part)
{
    PROMISE(reg < 16 && part <= INSN_VECTOR_HIGH);
    if (!write)
        fill(context, data, 16);
    return take(context, 1) != 0xff;
}

/* The control and status words, and the register on top. */
static bool do_fpu(void *context, void *image, bool write)
{
    if (!write) {
        memset(image, 0, 512);
        fill(context, image, 6);
        fill(context, (uint8_t *)image + 32, 10);
    }
    return take(context, 1) != 0xff;
}

static bool do_x87(void *context, unsigned opcode, unsigned modrm, void *image, void *memory,
                   uint64_t *flags)
{
    PROMISE(opcode >= 0xd8 && opcode <= 0xdf && modrm <= 0xff);
    PROMISE(!(*flags & ~0x8d5ull));
    memset(memory, (int)take(context, 1), 108);
    fill(context, image, 16);
    *flags = take(context, 2) & 0x8d5;
    return take(context, 1) != 0xff;
}

static enum insn_access_result do_task_cr3(void *context, uint64_t cr3, struct insn_fault *fault)
{
    enum insn_access_result result = answer(context, fault, false);

    PROMISE(cr3 <= UINT32_MAX);
    return result == INSN_ACCESS_PENDING ? INSN_ACCESS_OK : result;
}

static void make_ops(struct input *in, struct insn_ops *ops)
{
    unsigned choice = (unsigned)take(in, 1);

    *ops = (struct insn_ops){.read = do_read, .write = do_write};
    ops->compare_exchange = choice & 1 ? do_exchange : NULL;
    ops->in = choice & 2 ? do_in : NULL;
    ops->out = choice & 2 ? do_out : NULL;
    ops->descriptors = choice & 4;
    ops->msrs = choice & 8 ? do_msrs : NULL;
    ops->vector = choice & 16 ? do_vector : NULL;
    ops->fpu = choice & 32 ? do_fpu : NULL;
    ops->x87 = choice & 64 ? do_x87 : NULL;
    ops->task_cr3 = choice & 128 ? do_task_cr3 : NULL;
}

static void make_cpu(struct input *in, struct insn_cpu *cpu, uint64_t *gpr)
{
    unsigned choice = (unsigned)take(in, 1);

    memset(cpu, 0, sizeof(*cpu));
    cpu->gpr = gpr;
    for (unsigned i = 0; i < 16; i++)
        gpr[i] = take(in, 4) * (i & 1 ? 0x100000001 : 1);
    cpu->mode = choice % 3;
    cpu->rflags = (take(in, 3) & 0x3f7fd5) | 2;
    cpu->cr0 = cpu->mode == INSN_64 ? 0x80000001 : take(in, 1) & 1;
    cpu->cr4 = take(in, 3);
    cpu->efer = cpu->mode == INSN_64 || (choice & 0x80) ? 0x501 : 1;
    if (!(cpu->cr0 & 1))
        cpu->efer = 0;
    cpu->cpl = cpu->cr0 & 1 ? choice >> 2 & 3 : 0;
    if (cpu->efer & 0x400)
        cpu->rflags &= ~(1ull << 17);
    cpu->rip = take(in, 4);
    for (unsigned i = 0; i < INSN_SEGMENTS; i++)
        cpu->seg[i] = (struct insn_seg){take(in, 4), (uint32_t)take(in, 4),
                                        (uint32_t)take(in, 3) & 0x1f0ff, (uint16_t)take(in, 2)};
    cpu->gdtr = (struct insn_table){take(in, 4), (uint16_t)take(in, 2)};
    cpu->idtr = (struct insn_table){take(in, 4), (uint16_t)take(in, 2)};
    cpu->ldtr = (struct insn_seg){take(in, 4), (uint32_t)take(in, 3), 0x82, 8};
    cpu->tr = (struct insn_seg){take(in, 4), (uint32_t)take(in, 2), 0x83 | (choice & 8), 16};
    cpu->amd = choice & 0x40;
}

/* Nothing of it, but for whole iterations of a repeated string instruction. */
static void unchanged(const struct insn *insn, const struct insn_cpu *before,
                      const struct insn_cpu *after, const uint64_t *gpr)
{
    struct insn_cpu now = *after;

    PROMISE(before->rip == after->rip);
    if (insn && insn->op >= INSN_OP_MOVS && insn->op <= INSN_OP_OUTS)
        return;
    now.operand = before->operand;
    now.cr3 = before->cr3; /* from the moment at which the new task's tables are needed */
    PROMISE(!memcmp(&now, before, sizeof(now)));
    PROMISE(!memcmp(gpr, after->gpr, 16 * sizeof(*gpr)));
}

static void execute(struct input *in, const struct insn *insn, struct insn_cpu *cpu)
{
    const struct insn_event event = {.vector = (uint8_t)take(in, 1),
                                     .type = (uint8_t)(take(in, 1) % 3),
                                     .has_error_code = take(in, 1) & 1,
                                     .error_code = 0x10};
    struct insn_replay replay = {.count = 0};
    struct insn_fault fault = {0};
    struct insn_ops ops;

    make_ops(in, &ops);
    for (unsigned i = 0; i < 2000; i++) {
        struct insn_cpu before = *cpu;
        enum insn_result result;
        uint64_t gpr[16];

        memcpy(gpr, cpu->gpr, sizeof(gpr));
        result = insn ? insn_execute(insn, cpu, &ops, in, &replay, 8, &fault)
                      : insn_deliver(&event, cpu, &ops, in, &replay, &fault);
        if (result != INSN_OK && !(result == INSN_FAULT && cpu->task_switched))
            unchanged(insn, &before, cpu, gpr);
        if (result != INSN_PENDING) {
            PROMISE(replay.count == 0);
            PROMISE(result == INSN_OK || result == INSN_FAULT || result == INSN_UNSUPPORTED ||
                    result == INSN_AGAIN || (insn && result == INSN_SYSTEM));
            PROMISE(result != INSN_FAULT || fault.vector < 32);
            PROMISE(cpu->cpl <= 3 && cpu->mode <= INSN_64);
            return;
        }
        PROMISE(replay.count >= 1 && replay.count <= INSN_REPLAY_MAX);
        PROMISE(!replay.access[replay.count - 1].done);
        replay.access[replay.count - 1].done = 1;
    }
    abort(); /* it does not end */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t bytes[16] = {0}, padded[16];
    struct insn insn, again;
    struct insn_cpu cpu;
    struct input in;
    uint64_t gpr[16];
    enum insn_result result;

    if (size < 16)
        return 0;
    memcpy(bytes, data, 15);
    in = (struct input){data + 15, data + size};
    make_cpu(&in, &cpu, gpr);
    result = insn_decode(&insn, bytes, 15, (enum insn_mode)cpu.mode);
    if (result == INSN_OK || result == INSN_UNKNOWN) {
        PROMISE(insn.length >= 1 && insn.length <= 15);
        memset(padded, 0xcc, sizeof(padded));
        memcpy(padded, bytes, insn.length);
        PROMISE(insn_decode(&again, padded, 15, (enum insn_mode)cpu.mode) == result);
        PROMISE(again.length == insn.length);
        for (unsigned i = 0; i < insn.length; i++)
            PROMISE(insn_decode(&again, bytes, i, (enum insn_mode)cpu.mode) == INSN_MORE);
        PROMISE(insn_decode(&again, bytes, insn.length, (enum insn_mode)cpu.mode) == result);
    }
    execute(&in, result == INSN_OK || result == INSN_UNKNOWN ? &insn : NULL, &cpu);
    return 0;
}
