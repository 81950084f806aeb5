/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The executor against this very processor: each modelled user-mode instruction runs natively and
 * in the executor on the same random registers, flags and memory. Then again with every access
 * pending, which must make no difference.
 */
#define _GNU_SOURCE /* REG_RIP */
#include <check.h>

#include <asm/prctl.h>
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "insn/execute.h"
#include "test_insn_native.h"

enum {
    CF = 1,
    PF = 4,
    AF = 0x10,
    ZF = 0x40,
    SF = 0x80,
    DF = 0x400,
    OF = 0x800,
    GS_BASE = 0x40,
    STATUS = CF | PF | AF | ZF | SF | OF
};

static uint64_t seed;

/* How this processor takes an operand-size prefix on near branches. */
static enum insn_mode mode, long_mode;

static void find_mode(void)
{
    unsigned a, b, c, d;

    __cpuid(0, a, b, c, d);
    long_mode = c == signature_AMD_ecx ? INSN_64_AMD : INSN_64;
}

static uint64_t random_64(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1d;
}

/* Random, with a liking for edges. */
static uint64_t random_value(void)
{
    static const uint64_t edges[] = {0,    1,         0x7f,      0x80,       0xff,
                                     ~0ul, 0x7fff,    0x8000,    0x7fffffff, 0x80000000,
                                     2,    1ul << 63, ~0ul >> 1, 0xffffffff, 0xffff};
    uint64_t choice = random_64();

    if ((choice & 7) == 0)
        return edges[(choice >> 8) % (sizeof(edges) / sizeof(edges[0]))];
    return (choice & 7) < 3 ? (uint64_t)(int64_t)(int8_t)(choice >> 16) : random_64();
}

enum { PENDING_NONE = -1, PENDING_ALL = -2 };

/* The memory that the executor sees, in place of NATIVE_MEMORY. */
struct memory {
    uint8_t bytes[NATIVE_MEMORY_SIZE];
    int pending;       /* which access to answer with INSN_ACCESS_PENDING, or one of the below */
    unsigned accesses; /* answered, and so the number of the next */
    bool outside;
};

static uint8_t *locate(struct memory *memory, uint64_t linear, unsigned size)
{
    static uint8_t nowhere[16];

    if (linear < NATIVE_MEMORY || linear + size > NATIVE_MEMORY + NATIVE_MEMORY_SIZE) {
        memory->outside = true;
        return nowhere;
    }
    return memory->bytes + (linear - NATIVE_MEMORY);
}

static bool is_pending(struct memory *memory)
{
    int number = (int)memory->accesses++;

    return memory->pending == PENDING_ALL || memory->pending == number;
}

static enum insn_access_result read_bytes(void *context, uint64_t linear, void *data, unsigned size,
                                          unsigned flags, struct insn_fault *fault)
{
    struct memory *memory = context;

    (void)flags;
    (void)fault;
    if (is_pending(memory))
        return INSN_ACCESS_PENDING;
    memcpy(data, locate(memory, linear, size), size);
    return INSN_ACCESS_OK;
}

static enum insn_access_result write_bytes(void *context, uint64_t linear, const void *data,
                                           unsigned size, unsigned flags, struct insn_fault *fault)
{
    struct memory *memory = context;

    (void)flags;
    (void)fault;
    if (is_pending(memory))
        return INSN_ACCESS_PENDING;
    memcpy(locate(memory, linear, size), data, size);
    return INSN_ACCESS_OK;
}

static enum insn_access_result compare_exchange_bytes(void *context, uint64_t linear,
                                                      void *expected, const void *desired,
                                                      unsigned size, unsigned flags,
                                                      struct insn_fault *fault)
{
    struct memory *memory = context;
    uint8_t *at = locate(memory, linear, size);

    ck_assert_uint_eq(flags, INSN_ACCESS_LOCKED);
    (void)fault;
    if (is_pending(memory))
        return INSN_ACCESS_PENDING;
    if (memcmp(at, expected, size)) {
        memcpy(expected, at, size);
        return INSN_ACCESS_RACED;
    }
    memcpy(at, desired, size);
    return INSN_ACCESS_OK;
}

static const struct insn_ops ops = {
    .read = read_bytes, .write = write_bytes, .compare_exchange = compare_exchange_bytes};

/* Do what the embedder does with a pending access. */
static void supply(struct memory *memory, struct insn_replay *replay)
{
    struct insn_access *access = &replay->access[replay->count - 1];
    uint8_t *at = locate(memory, access->address, access->size);

    ck_assert_uint_eq(access->done, 0);
    if (access->kind == INSN_ACCESS_READ)
        memcpy(access->data, at, access->size);
    else
        memcpy(at, access->data, access->size);
    access->done = 1;
}

/* One instruction on one state. */
struct trial {
    uint8_t bytes[16];
    struct insn insn;
    struct native_state start;
    uint8_t memory[NATIVE_MEMORY_SIZE];
};

/* The status flags that the manuals leave undefined after this instruction. */
static uint64_t undefined_flags(const struct trial *trial)
{
    const struct insn *insn = &trial->insn;
    unsigned size = insn->operand[0].size, last = insn->operands - 1u;
    uint64_t count =
        insn->operands && insn->operand[last].kind == INSN_IMM ? insn->imm : trial->start.gpr[1];

    count &= size == 8 ? 63 : 31;
    switch (insn->op) {
    case INSN_OP_AND:
    case INSN_OP_OR:
    case INSN_OP_XOR:
    case INSN_OP_TEST:
        return AF;
    case INSN_OP_SHL:
    case INSN_OP_SHR:
    case INSN_OP_SAR:
        if (!count)
            return 0;
        return AF | (count != 1 ? OF : 0) | (count >= size * 8 ? CF : 0);
    case INSN_OP_SHLD:
    case INSN_OP_SHRD:
        if (!count)
            return 0;
        return count > size * 8 ? STATUS : AF | (count != 1 ? OF : 0);
    case INSN_OP_ROL:
    case INSN_OP_ROR:
    case INSN_OP_RCL:
    case INSN_OP_RCR:
        return count > 1 ? OF : 0;
    case INSN_OP_MUL:
    case INSN_OP_IMUL:
        return SF | ZF | AF | PF;
    case INSN_OP_DIV:
    case INSN_OP_IDIV:
        return STATUS;
    case INSN_OP_BT:
    case INSN_OP_BTS:
    case INSN_OP_BTR:
    case INSN_OP_BTC:
    case INSN_OP_TZCNT:
    case INSN_OP_LZCNT:
        return OF | SF | AF | PF;
    case INSN_OP_BSF:
    case INSN_OP_BSR:
        return CF | OF | SF | AF | PF;
    case INSN_OP_AAA:
    case INSN_OP_AAS:
        return OF | SF | ZF | PF;
    case INSN_OP_AAM:
    case INSN_OP_AAD:
        return OF | AF | CF;
    case INSN_OP_DAA:
    case INSN_OP_DAS:
        return OF;
    default:
        return 0;
    }
}

/* Results that the manuals leave undefined: the trial is of no use. */
static bool undefined_result(const struct trial *trial)
{
    const struct insn *insn = &trial->insn;
    uint64_t count = insn->operand[2].kind == INSN_IMM ? insn->imm : trial->start.gpr[1];

    if (insn->op == INSN_OP_SHLD || insn->op == INSN_OP_SHRD)
        return insn->operand[0].size == 2 && (count & 31) > 16;
    return insn->op == INSN_OP_BSWAP && insn->operand_size == 2;
}

static void describe(const struct trial *trial, char *text)
{
    for (unsigned i = 0; i < trial->insn.length; i++)
        text += sprintf(text, "%02x ", trial->bytes[i]);
    for (unsigned i = 0; i < 16; i++)
        text += sprintf(text, "%sr%u=%lx", i ? " " : "| ", i, trial->start.gpr[i]);
    sprintf(text, " flags=%lx", trial->start.flags);
}

static void start_cpu(const struct trial *trial, struct insn_cpu *cpu, uint64_t *gpr)
{
    memset(cpu, 0, sizeof(*cpu));
    memcpy(gpr, trial->start.gpr, 128);
    cpu->gpr = gpr;
    cpu->rip = native_place(trial->insn.length);
    cpu->rflags = trial->start.flags;
    cpu->cr0 = 0x80000001;
    cpu->mode = trial->insn.mode;
    cpu->cpl = 3;
    cpu->seg[INSN_GS].base = GS_BASE;
    cpu->seg[INSN_CS].selector = 0x33; /* Linux's; DS and ES are 0 */
    cpu->seg[INSN_SS].selector = 0x2b;
    if (mode == INSN_32) {
        for (unsigned i = 0; i < INSN_FS; i++)
            cpu->seg[i] = (struct insn_seg){0, 0xffffffff, i == INSN_CS ? 0xc0fb : 0xc0f3,
                                            i == INSN_CS ? 0x23 : 0x2b};
    }
}

/* Execute, supplying what pends. The outcome without INSN_PENDING. */
static enum insn_result execute(const struct trial *trial, struct insn_cpu *cpu,
                                struct memory *memory, int pending, struct insn_fault *fault)
{
    struct insn_replay replay = {.count = 0};
    enum insn_result result;

    memcpy(memory->bytes, trial->memory, sizeof(memory->bytes));
    memory->pending = pending;
    memory->accesses = 0;
    memory->outside = false;
    for (;;) {
        uint64_t before[16];

        memcpy(before, cpu->gpr, sizeof(before));
        result = insn_execute(&trial->insn, cpu, &ops, memory, &replay, 1000, fault);
        if (result != INSN_PENDING)
            break;
        if (!(trial->insn.prefixes & (INSN_PREFIX_REP | INSN_PREFIX_REPNE)))
            ck_assert_mem_eq(before, cpu->gpr, sizeof(before));
        supply(memory, &replay);
    }
    ck_assert_uint_eq(replay.count, 0);
    return result;
}

static __attribute__((noreturn)) void differs(const struct trial *trial, const char *what,
                                              uint64_t processor, uint64_t executor)
{
    char text[1024];

    describe(trial, text);
    ck_abort_msg("%s: %s is %lx, executor %lx", text, what, processor, executor);
}

static void check_fault(const struct trial *trial, uint64_t native, enum insn_result result,
                        const struct insn_fault *fault)
{
    /* A signal does not tell #BR and #SS from #GP. */
    unsigned vector = fault->vector == 12 || fault->vector == 5 ? 13 : fault->vector;

    if (!native && result != INSN_OK)
        differs(trial, "result", INSN_OK, result);
    if (native && result != INSN_FAULT)
        differs(trial, "vector plus one", native, 0);
    if (native && vector != native - 1)
        differs(trial, "vector", native - 1, vector);
}

static void check_memory(const struct trial *trial, const uint8_t *native, const uint8_t *ours)
{
    char what[64];

    if (!memcmp(native, ours, NATIVE_MEMORY_SIZE))
        return;
    for (unsigned i = 0; i < NATIVE_MEMORY_SIZE; i++) {
        if (native[i] == ours[i])
            continue;
        snprintf(what, sizeof(what), "memory at %lx", NATIVE_MEMORY + i);
        differs(trial, what, native[i], ours[i]);
    }
}

/* Returns how many accesses the executor made. */
static unsigned check_outcome(const struct trial *trial, const struct native_state *native,
                              const uint8_t *native_memory, int pending)
{
    static struct memory memory;
    struct insn_fault fault = {0};
    struct insn_cpu cpu;
    uint64_t gpr[16], care = (STATUS | DF) & ~undefined_flags(trial), rip;
    enum insn_result result;
    char what[8];

    start_cpu(trial, &cpu, gpr);
    result = execute(trial, &cpu, &memory, pending, &fault);
    check_fault(trial, native->vector, result, &fault);
    if (native->vector)
        return memory.accesses;
    if (memory.outside)
        differs(trial, "access outside of the memory", 0, 1);
    for (unsigned i = 0; i < 16; i++) {
        if (gpr[i] == native->gpr[i])
            continue;
        snprintf(what, sizeof(what), "r%u", i & 15);
        differs(trial, what, native->gpr[i], gpr[i]);
    }
    if ((cpu.rflags ^ native->flags) & care)
        differs(trial, "flags", native->flags & care, cpu.rflags & care);
    check_memory(trial, native_memory, memory.bytes);
    rip = native->taken ? native_target : native_after;
    if (cpu.rip != rip)
        differs(trial, "rip", rip, cpu.rip);
    return memory.accesses;
}

static void run_trial(struct trial *trial)
{
    struct native_state native = trial->start;
    static uint8_t native_memory[NATIVE_MEMORY_SIZE];
    unsigned accesses;

    native_place(trial->insn.length);
    memcpy((void *)NATIVE_MEMORY, trial->memory, NATIVE_MEMORY_SIZE);
    native_run(trial->bytes, trial->insn.length, &native);
    memcpy(native_memory, (void *)NATIVE_MEMORY, NATIVE_MEMORY_SIZE);
    accesses = check_outcome(trial, &native, native_memory, PENDING_NONE);
    for (unsigned i = 0; i < accesses; i++)
        check_outcome(trial, &native, native_memory, (int)i);
    if (accesses > 1)
        check_outcome(trial, &native, native_memory, PENDING_ALL);
}

static uint64_t somewhere(void)
{
    return NATIVE_MEMORY + 1024 + random_64() % 2048;
}

/* Put the address of a branch target where an indirect branch or a return finds it. */
static void plant_target(struct trial *trial, uint64_t address)
{
    native_place(trial->insn.length);
    memcpy(trial->memory + (address - NATIVE_MEMORY), &native_target, mode == INSN_32 ? 4 : 8);
}

static void truncate_registers(struct trial *trial)
{
    for (unsigned i = 0; i < 16; i++)
        trial->start.gpr[i] &= 0xffffffff;
}

/* Choose registers (or patch the displacement) so that the operand is in the memory. */
static bool aim(struct trial *trial)
{
    struct insn *insn = &trial->insn;
    uint64_t *gpr = trial->start.gpr, target = somewhere(), offset, index = 0;
    const struct insn_mem *mem = &insn->mem;
    struct insn_cpu cpu = {.gpr = gpr};

    if (insn->op == INSN_OP_CMPXCHG8B && (random_64() & 3))
        target &= ~15ul;
    if (mem->base == INSN_BASE_RIP)
        return false;
    if (mem->index < 16)
        index = gpr[mem->index] << mem->scale;
    if (mem->base < 16) {
        if (mem->base == mem->index)
            return false;
        gpr[mem->base] = target - index - (uint64_t)insn->disp;
    } else if (mem->index < 16) {
        gpr[mem->index] = (target - (uint64_t)insn->disp) >> mem->scale;
    } else {
        unsigned immediate = 0, size = insn->has_modrm ? 4 : insn->address_size;

        for (unsigned i = 0; i < insn->operands; i++)
            immediate += insn->operand[i].kind == INSN_IMM ? insn->operand[i].size : 0;
        if (insn->operand[1].kind == INSN_IMM && (insn->opcode & 0xfe) == 0xd0)
            immediate = 0;
        memcpy(trial->bytes + insn->length - immediate - size, &target, size);
        insn->disp = (int64_t)target;
    }
    if (mode == INSN_32)
        truncate_registers(trial);
    offset = insn_offset(insn, &cpu);
    return offset >= NATIVE_MEMORY + 512 && offset < NATIVE_MEMORY + 3584;
}

/* Quotients that just fit and just do not, which random registers hardly ever give. */
static void aim_division(struct trial *trial)
{
    uint64_t *gpr = trial->start.gpr, divisor = gpr[trial->insn.operand[0].reg];

    switch (random_64() & 7) {
    case 0:
        gpr[2] = divisor;
        break;
    case 1:
        gpr[2] = divisor - 1;
        break;
    case 2:
        gpr[2] = divisor >> 1;
        break;
    case 3:
        gpr[2] = (divisor >> 1) - 1;
        break;
    case 4:
    case 5:
        gpr[2] = 0 - (gpr[0] >> 63);
        break;
    default:
        gpr[2] = 0;
        break;
    }
}

/* Make the random state fit the instruction; false if this trial is of no use. */
static bool prepare(struct trial *trial)
{
    struct insn *insn = &trial->insn;
    uint64_t *gpr = trial->start.gpr;
    bool memory = false;

    if (insn->operands > 1 && insn->op >= INSN_OP_BT && insn->op <= INSN_OP_BTC &&
        insn->operand[1].kind == INSN_REG)
        gpr[insn->operand[1].reg] = (uint64_t)(int64_t)(int16_t)(random_64() & 0xfff) - 2048;
    for (unsigned i = 0; i < insn->operands; i++) {
        const struct insn_operand *operand = &insn->operand[i];

        if (operand->kind == INSN_MEM_SRC || operand->kind == INSN_MEM_DST) {
            gpr[operand->reg] = somewhere();
            gpr[1] = random_64() & 7;
            if (random_64() & 1)
                trial->start.flags |= DF;
        }
        memory |= operand->kind == INSN_MEM && insn->op != INSN_OP_LEA && insn->op != INSN_OP_NOP;
    }
    if ((insn->op >= INSN_OP_PUSH && insn->op <= INSN_OP_RET && insn->op != INSN_OP_JMP) ||
        insn->op == INSN_OP_PUSH_SEG)
        gpr[4] = somewhere();
    if ((insn->op == INSN_OP_LOOP || insn->op == INSN_OP_LOOPE || insn->op == INSN_OP_LOOPNE ||
         insn->op == INSN_OP_JCXZ) &&
        (random_64() & 1))
        gpr[1] &= ~0xffful | (random_64() & 1);
    if ((insn->op == INSN_OP_DIV || insn->op == INSN_OP_IDIV) && insn->operand[0].kind == INSN_REG)
        aim_division(trial);
    if (insn->op == INSN_OP_ENTER || insn->op == INSN_OP_LEAVE)
        gpr[5] = somewhere();
    if (insn->op == INSN_OP_INTO) /* #OF through the IDT is not modelled */
        trial->start.flags &= ~(uint64_t)OF;
    if (insn->op == INSN_OP_XLAT)
        gpr[3] = somewhere();
    if (memory && insn->op >= INSN_OP_PUSH && insn->op <= INSN_OP_RET && insn->mem.base == 4)
        return false; /* the stack pointer cannot be aimed at two places: see pop_memory */
    if (memory && !aim(trial))
        return false;
    if (memory && insn->op >= INSN_OP_BT && insn->op <= INSN_OP_BTC &&
        insn->operand[1].kind == INSN_REG &&
        (insn->operand[1].reg == insn->mem.base || insn->operand[1].reg == insn->mem.index))
        return false;
    if (insn->op == INSN_OP_RET)
        plant_target(trial, gpr[4]);
    if ((insn->op == INSN_OP_JMP || insn->op == INSN_OP_CALL) && insn->has_modrm) {
        struct insn_cpu cpu = {.gpr = gpr};

        native_place(insn->length);
        if (memory)
            plant_target(trial, insn_offset(insn, &cpu));
        else if (insn->operand[0].reg != 4)
            gpr[insn->operand[0].reg] = native_target;
        else
            return false;
    }
    return true;
}

/* Which instructions can be run natively and may be trusted with random registers. */
static bool runnable(const struct insn *insn)
{
    unsigned word = mode == INSN_32 ? 4 : 8;

    if ((insn->prefixes & INSN_PREFIX_SEGMENT) && insn->mem.segment >= INSN_FS &&
        (insn->mem.segment == INSN_FS || mode == INSN_32))
        return false; /* FS is the C library's, and GS without a base in 32-bit code */
    if (insn->address_size == 2 &&
        (insn->op == INSN_OP_XLAT || (insn->op >= INSN_OP_MOVS && insn->op <= INSN_OP_SCAS)))
        return false; /* the memory is beyond 64 KiB */
    switch (insn->op) {
    case INSN_OP_POPF: /* could set TF */
    case INSN_OP_CLI:
    case INSN_OP_STI:
    case INSN_OP_IN:
    case INSN_OP_OUT:
    case INSN_OP_INS:
    case INSN_OP_OUTS:
    case INSN_OP_POP_SEG:
    case INSN_OP_LFP:
    case INSN_OP_UD:
    case INSN_OP_CLFLUSH:
        return false;
    case INSN_OP_LOOPE: /* reserved with a repeat prefix */
    case INSN_OP_LOOPNE:
        if (insn->prefixes & (INSN_PREFIX_REP | INSN_PREFIX_REPNE))
            return false;
        break;
    case INSN_OP_RET:
        return insn->operand_size == word;
    case INSN_OP_MOV: /* few processors have MOVDIRI */
        return insn->map != INSN_MAP_0F38;
    case INSN_OP_PUSH_SEG: /* FS and GS hold what the C library likes */
        return insn->operand[0].reg < INSN_FS;
    case INSN_OP_MOV_SEG:
        return insn->operand[1].kind == INSN_SREG && insn->operand[1].reg < INSN_FS;
    case INSN_OP_INTO:
    case INSN_OP_BOUND:
        return true;
    default:
        break;
    }
    if (insn->operands && insn->operand[0].kind == INSN_REL)
        return insn->operand_size == word;
    if ((insn->op == INSN_OP_JMP || insn->op == INSN_OP_CALL) && insn->operand_size != word)
        return false;
    return insn->op < INSN_OP_JMP_FAR || (insn->op >= INSN_OP_MOVS && insn->op <= INSN_OP_SCAS);
}

/* A random instruction with the given opcode; false if it is not for this test. */
static bool make_instruction(struct trial *trial, unsigned map, unsigned opcode)
{
    static const uint8_t prefixes[] = {0x66, 0x67, 0xf0, 0xf3, 0xf2};
    unsigned at = 0;

    for (unsigned i = 0; i < 16; i++)
        trial->bytes[i] = (uint8_t)(random_64() >> 24);
    for (unsigned i = 0; i < 5; i++) {
        if (random_64() % 5 == 0)
            trial->bytes[at++] = prefixes[i];
    }
    if (mode != INSN_32 && (random_64() & 1))
        trial->bytes[at++] = (uint8_t)(0x40 | (random_64() & 15));
    if (map > 0)
        trial->bytes[at++] = 0x0f;
    if (map == 2)
        trial->bytes[at++] = 0x38;
    trial->bytes[at++] = (uint8_t)opcode;
    if (insn_decode(&trial->insn, trial->bytes, 15, mode) != INSN_OK || !runnable(&trial->insn))
        return false;
    if (trial->insn.op == INSN_OP_ENTER)
        trial->bytes[trial->insn.length - 1] &= 0xe3;
    if (trial->insn.operands && trial->insn.operand[0].kind == INSN_REL) {
        static const uint8_t skip[4] = {NATIVE_JUMP};
        unsigned size = trial->insn.operand[0].size;

        memcpy(trial->bytes + trial->insn.length - size, skip, size);
    }
    return insn_decode(&trial->insn, trial->bytes, 15, mode) == INSN_OK;
}

static void make_state(struct trial *trial)
{
    memset(trial->start.gpr, 0, sizeof(trial->start.gpr));
    for (unsigned i = 0; i < (mode == INSN_32 ? 8 : 16); i++)
        trial->start.gpr[i] = mode == INSN_32 ? (uint32_t)random_value() : random_value();
    trial->start.flags = 0x202 | (random_64() & STATUS);
    for (unsigned i = 0; i < NATIVE_MEMORY_SIZE; i += 8) {
        uint64_t value = random_value();

        memcpy(trial->memory + i, &value, 8);
    }
}

/* Trials by operation. */
static unsigned ran[INSN_OP_COUNT];

static unsigned trials_of_opcode(unsigned map, unsigned opcode, unsigned wanted)
{
    static struct trial trial;
    unsigned done = 0;

    for (unsigned tries = 0; tries < wanted * 8 && done < wanted; tries++) {
        if (!make_instruction(&trial, map, opcode))
            continue;
        make_state(&trial);
        if (!prepare(&trial) || undefined_result(&trial))
            continue;
        if (mode == INSN_32)
            truncate_registers(&trial);
        run_trial(&trial);
        ran[trial.insn.op]++;
        done++;
    }
    return done;
}

/* What must have run, so that a generator that misses an instruction does not go unnoticed: in
   either mode, and in one. */
static const uint8_t expected[] = {
    INSN_OP_ADD,   INSN_OP_OR,     INSN_OP_ADC,    INSN_OP_SBB,     INSN_OP_AND,
    INSN_OP_SUB,   INSN_OP_XOR,    INSN_OP_CMP,    INSN_OP_TEST,    INSN_OP_NOT,
    INSN_OP_NEG,   INSN_OP_INC,    INSN_OP_DEC,    INSN_OP_MUL,     INSN_OP_IMUL,
    INSN_OP_DIV,   INSN_OP_IDIV,   INSN_OP_ROL,    INSN_OP_ROR,     INSN_OP_RCL,
    INSN_OP_RCR,   INSN_OP_SHL,    INSN_OP_SHR,    INSN_OP_SAR,     INSN_OP_SHLD,
    INSN_OP_SHRD,  INSN_OP_MOV,    INSN_OP_MOVZX,  INSN_OP_MOVSX,   INSN_OP_MOVBE,
    INSN_OP_LEA,   INSN_OP_XCHG,   INSN_OP_XADD,   INSN_OP_CMPXCHG, INSN_OP_CMPXCHG8B,
    INSN_OP_BSWAP, INSN_OP_CMOVCC, INSN_OP_SETCC,  INSN_OP_XLAT,    INSN_OP_CBW,
    INSN_OP_CWD,   INSN_OP_BT,     INSN_OP_BTS,    INSN_OP_BTR,     INSN_OP_BTC,
    INSN_OP_BSF,   INSN_OP_BSR,    INSN_OP_TZCNT,  INSN_OP_LZCNT,   INSN_OP_POPCNT,
    INSN_OP_CRC32, INSN_OP_ADCX,   INSN_OP_ADOX,   INSN_OP_LAHF,    INSN_OP_SAHF,
    INSN_OP_CLC,   INSN_OP_STC,    INSN_OP_CMC,    INSN_OP_CLD,     INSN_OP_STD,
    INSN_OP_NOP,   INSN_OP_PAUSE,  INSN_OP_FENCE,  INSN_OP_PUSH,    INSN_OP_POP,
    INSN_OP_PUSHF, INSN_OP_ENTER,  INSN_OP_LEAVE,  INSN_OP_JMP,     INSN_OP_JCC,
    INSN_OP_CALL,  INSN_OP_RET,    INSN_OP_MOVS,   INSN_OP_CMPS,    INSN_OP_STOS,
    INSN_OP_LOOP,  INSN_OP_LOOPE,  INSN_OP_LOOPNE, INSN_OP_JCXZ,    INSN_OP_LODS,
    INSN_OP_SCAS,
};

static const uint8_t expected_64[] = {INSN_OP_MOVSX, INSN_OP_XLAT};
static const uint8_t expected_32[] = {INSN_OP_AAA,  INSN_OP_AAS,  INSN_OP_AAM,   INSN_OP_AAD,
                                      INSN_OP_DAA,  INSN_OP_DAS,  INSN_OP_SALC,  INSN_OP_PUSHA,
                                      INSN_OP_POPA, INSN_OP_INTO, INSN_OP_BOUND, INSN_OP_PUSH_SEG};

static void check_ran(const uint8_t *operations, size_t count)
{
    for (size_t i = 0; i < count; i++)
        ck_assert_msg(ran[operations[i]] >= 20, "operation %u ran %u times", operations[i],
                      ran[operations[i]]);
}

static void against_processor(void)
{
    unsigned total = 0;

    native_open();
    native_mode(mode != INSN_32);
    ck_assert_int_eq(syscall(SYS_arch_prctl, ARCH_SET_GS, (unsigned long)GS_BASE), 0);
    memset(ran, 0, sizeof(ran));
    for (unsigned opcode = 0; opcode < 256; opcode++) {
        total += trials_of_opcode(0, opcode, 250);
        total += trials_of_opcode(1, opcode, 250);
        if (opcode >= 0xf0) /* MOVBE, CRC32, ADX */
            total += trials_of_opcode(2, opcode, 1000);
    }
    ck_assert_uint_gt(total, 50000);
    check_ran(expected, sizeof(expected));
    if (mode == INSN_32)
        check_ran(expected_32, sizeof(expected_32));
    else
        check_ran(expected_64, sizeof(expected_64));
}

START_TEST(long_mode_code)
{
    find_mode();
    mode = long_mode;
    seed = 0x853c49e6748fea9b + (uint64_t)_i;
    against_processor();
}
END_TEST

START_TEST(protected_mode_code)
{
    mode = INSN_32;
    seed = 0xda3e39cb94b95bdb + (uint64_t)_i;
    against_processor();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("insn_execute");
    TCase *tests = tcase_create("native");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, long_mode_code, 0, 2);
    tcase_add_loop_test(tests, protected_mode_code, 0, 2);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
