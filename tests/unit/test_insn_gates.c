/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Changes of privilege and of tasks in the executor: gates, interrupts, returns, LDTR and TR,
 * against what the manuals say.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "insn/execute.h"

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI };
enum {
    MEMORY = 0x20000,
    GDT = 0x8000,
    IDT = 0x9000,
    TSS_A = 0xa000,
    TSS_B = 0xb000,
    LDT = 0xc000,
    INNER = 0x6000, /* stack of CPL 0 */
    OUTER = 0x4000,
};
/* Selectors. */
enum {
    CODE0 = 0x08,
    DATA0 = 0x10,
    CODE3 = 0x18 | 3,
    DATA3 = 0x20 | 3,
    TASK_A = 0x28, /* and 0x30: 16 bytes in long mode */
    TASK_B = 0x38,
    CONFORMING = 0x48,
    GATE = 0x50, /* and 0x58 */
    CODE64 = 0x60,
    USER64 = 0x68 | 3,
    LOCAL = 0x70,
    TASK_GATE = 0x80,
};

static struct {
    struct insn_cpu cpu;
    uint64_t gpr[16];
    struct insn_replay replay;
    struct insn_fault fault;
    struct insn_ops ops;
    unsigned system; /* accesses with INSN_ACCESS_SYSTEM */
    uint8_t memory[MEMORY];
} m;

static enum insn_access_result do_read(void *context, uint64_t linear, void *data, unsigned size,
                                       unsigned flags, struct insn_fault *fault)
{
    (void)context;
    (void)fault;
    ck_assert_uint_le(linear + size, MEMORY);
    m.system += !!(flags & INSN_ACCESS_SYSTEM);
    memcpy(data, m.memory + linear, size);
    return INSN_ACCESS_OK;
}

static enum insn_access_result do_write(void *context, uint64_t linear, const void *data,
                                        unsigned size, unsigned flags, struct insn_fault *fault)
{
    (void)context;
    (void)fault;
    ck_assert_uint_le(linear + size, MEMORY);
    m.system += !!(flags & INSN_ACCESS_SYSTEM);
    if (!(flags & INSN_ACCESS_PROBE))
        memcpy(m.memory + linear, data, size);
    return INSN_ACCESS_OK;
}

static void put(uint32_t at, uint64_t value, unsigned size)
{
    memcpy(m.memory + at, &value, size);
}

static uint64_t get(uint32_t at, unsigned size)
{
    uint64_t value = 0;

    memcpy(&value, m.memory + at, size);
    return value;
}

static void put_descriptor(unsigned selector, uint32_t base, uint32_t limit, unsigned attributes)
{
    put(GDT + (selector & 0xfff8),
        (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 |
            (uint64_t)(attributes & 0xf0ff) << 40 | (uint64_t)(limit >> 16 & 15) << 48 |
            (uint64_t)(base >> 24) << 56,
        8);
}

/* A call, interrupt, trap or task gate. */
static void put_gate(uint32_t at, uint16_t selector, uint32_t offset, unsigned type, unsigned dpl,
                     unsigned count)
{
    put(at,
        (offset & 0xffff) | (uint64_t)selector << 16 | (uint64_t)count << 32 |
            (uint64_t)(0x80 | dpl << 5 | type) << 40 | (uint64_t)(offset >> 16) << 48,
        8);
}

static struct insn_seg segment(uint16_t selector, uint32_t attributes)
{
    return (struct insn_seg){0, 0xffffffff, attributes, selector};
}

static void run_at(unsigned cpl)
{
    m.cpu.cpl = (uint8_t)cpl;
    m.cpu.seg[INSN_CS] = segment(cpl ? CODE3 : CODE0, cpl ? 0xc0fb : 0xc09b);
    for (unsigned i = 0; i < INSN_SEGMENTS; i++)
        if (i != INSN_CS)
            m.cpu.seg[i] = segment(cpl ? DATA3 : DATA0, cpl ? 0xc0f3 : 0xc093);
    m.gpr[RSP] = cpl ? OUTER : INNER - 0x100;
}

static void setup(void)
{
    memset(&m, 0, sizeof(m));
    m.ops = (struct insn_ops){.read = do_read, .write = do_write, .descriptors = true};
    m.cpu.gpr = m.gpr;
    m.cpu.rflags = 0x202;
    m.cpu.cr0 = 1;
    m.cpu.mode = INSN_32;
    m.cpu.rip = 0x1000;
    m.cpu.gdtr = (struct insn_table){GDT, 0x8f};
    m.cpu.idtr = (struct insn_table){IDT, 0x7ff};
    m.cpu.tr = (struct insn_seg){TSS_A, 0x67, 0x8b, TASK_A};
    put_descriptor(CODE0, 0, 0xfffff, 0xc09b);
    put_descriptor(DATA0, 0, 0xfffff, 0xc093);
    put_descriptor(CODE3, 0, 0xfffff, 0xc0fb);
    put_descriptor(DATA3, 0, 0xfffff, 0xc0f3);
    put_descriptor(TASK_A, TSS_A, 0x67, 0x008b);
    put_descriptor(TASK_B, TSS_B, 0x67, 0x0089);
    put_descriptor(CONFORMING, 0, 0xfffff, 0xc09f);
    put_descriptor(CODE64, 0, 0xfffff, 0xa09b);
    put_descriptor(USER64, 0, 0xfffff, 0xa0fb);
    put_descriptor(LOCAL, LDT, 0xfff, 0x0082);
    put_gate(GDT + TASK_GATE, TASK_B, 0, 5, 3, 0);
    put(TSS_A + 4, INNER, 4);
    put(TSS_A + 8, DATA0, 4);
    run_at(3);
}

static enum insn_result run(const uint8_t *bytes, size_t count)
{
    uint8_t padded[16] = {0};
    struct insn insn;

    memcpy(padded, bytes, count);
    ck_assert_int_eq(insn_decode(&insn, padded, 15, (enum insn_mode)m.cpu.mode), INSN_OK);
    ck_assert_uint_eq(insn.length, count);
    m.replay.count = 0;
    m.system = 0;
    return insn_execute(&insn, &m.cpu, &m.ops, &m, &m.replay, 10, &m.fault);
}
#define RUN(...) run((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

#define ck_fault(result, number, code)                                                             \
    do {                                                                                           \
        ck_assert_int_eq(result, INSN_FAULT);                                                      \
        ck_assert_uint_eq(m.fault.vector, number);                                                 \
        ck_assert_uint_eq(m.fault.error_code, code);                                               \
    } while (0)

static enum insn_result call_gate(uint16_t selector)
{
    return RUN(0x9a, 0xef, 0xbe, 0xad, 0xde, (uint8_t)selector, 0);
}

static void ck_at(uint64_t rip, uint16_t cs, unsigned cpl, uint64_t rsp)
{
    ck_assert_uint_eq(m.cpu.rip, rip);
    ck_assert_uint_eq(m.cpu.seg[INSN_CS].selector, cs);
    ck_assert_uint_eq(m.cpu.cpl, cpl);
    ck_assert_uint_eq(m.gpr[RSP], rsp);
}

/* Intel SDM, "Calling Procedures in Other Code Segments", "Stack Switching". */
START_TEST(call_gates)
{
    put_gate(GDT + GATE, CODE0, 0x12345, 12, 3, 2);
    put(OUTER, 0x11111111, 4);
    put(OUTER + 4, 0x22222222, 4);
    ck_assert_int_eq(call_gate(GATE | 3), INSN_OK);
    ck_at(0x12345, CODE0, 0, INNER - 24);
    ck_assert_uint_eq(m.cpu.seg[INSN_SS].selector, DATA0);
    ck_assert_uint_eq(get(INNER - 4, 4), DATA3);
    ck_assert_uint_eq(get(INNER - 8, 4), OUTER);
    ck_assert_uint_eq(get(INNER - 12, 4), 0x22222222);
    ck_assert_uint_eq(get(INNER - 16, 4), 0x11111111);
    ck_assert_uint_eq(get(INNER - 20, 4), CODE3);
    ck_assert_uint_eq(get(INNER - 24, 4), 0x1007);
    ck_assert_uint_ge(m.system, 9); /* the inner stack is no business of CPL 3 */
    /* ret far 8: the parameters leave both stacks, and what CPL 3 may not have is gone */
    m.cpu.seg[INSN_FS] = segment(DATA0, 0xc093);
    ck_assert_int_eq(RUN(0xca, 8, 0), INSN_OK);
    ck_at(0x1007, CODE3, 3, OUTER + 8);
    ck_assert_uint_eq(m.cpu.seg[INSN_SS].selector, DATA3);
    ck_assert_uint_eq(m.cpu.seg[INSN_DS].selector, DATA3);
    ck_assert_uint_eq(m.cpu.seg[INSN_FS].selector, 0);
    ck_assert(m.cpu.seg[INSN_FS].attributes & 0x10000);
}
END_TEST

START_TEST(call_gate_checks)
{
    put_gate(GDT + GATE, CODE0, 0x100, 12, 2, 0);
    ck_fault(call_gate(GATE | 3), 13, GATE); /* the gate's DPL */
    put_gate(GDT + GATE, CODE0, 0x100, 12, 3, 0);
    m.memory[GDT + GATE + 5] &= 0x7f;
    ck_fault(call_gate(GATE | 3), 11, GATE);
    put_gate(GDT + GATE, 0, 0x100, 12, 3, 0);
    ck_fault(call_gate(GATE | 3), 13, 0);
    put_gate(GDT + GATE, DATA0, 0x100, 12, 3, 0);
    ck_fault(call_gate(GATE | 3), 13, DATA0);
    put_gate(GDT + GATE, CODE0, 0x100, 12, 3, 0);
    ck_fault(RUN(0xea, 0, 0, 0, 0, GATE, 0), 13, CODE0); /* JMP stays where it is */
    put(TSS_A + 8, 0, 4);
    ck_fault(call_gate(GATE | 3), 10, 0);
    put(TSS_A + 8, DATA3, 4);
    ck_fault(call_gate(GATE | 3), 10, DATA3 & ~3u);
    put(TSS_A + 8, CODE0, 4);
    ck_fault(call_gate(GATE | 3), 10, CODE0);
    put(TSS_A + 8, DATA0, 4);
    put_descriptor(DATA0, 0, 0xfffff, 0xc013);
    ck_fault(call_gate(GATE | 3), 12, DATA0);
    put_descriptor(DATA0, 0, 0xfffff, 0xc093);
    m.cpu.tr.limit = 10;
    ck_fault(call_gate(GATE | 3), 10, TASK_A);
    m.cpu.tr.limit = 0x67;
    /* conforming code runs at the caller's level, on its stack */
    put_gate(GDT + GATE, CONFORMING, 0x200, 12, 3, 0);
    ck_assert_int_eq(call_gate(GATE | 3), INSN_OK);
    ck_at(0x200, CONFORMING | 3, 3, OUTER - 8);
}
END_TEST

/* Intel SDM, "INT n/INTO/INT3/INT1", "IRET/IRETD". */
START_TEST(interrupts)
{
    static const struct insn_event page_fault = {
        .vector = 14, .has_error_code = true, .fault = true, .error_code = 5};

    put_gate(IDT + 0x80 * 8, CODE0, 0x3000, 15, 3, 0); /* trap gate */
    put_gate(IDT + 14 * 8, CODE0, 0x3100, 14, 0, 0);   /* interrupt gate */
    m.cpu.rflags |= 0x10000; /* RF ends before the instruction pushes its flags */
    ck_assert_int_eq(RUN(0xcd, 0x80), INSN_OK);
    ck_at(0x3000, CODE0, 0, INNER - 20);
    ck_assert_uint_eq(m.cpu.rflags, 0x202); /* a trap gate leaves IF */
    ck_assert_uint_eq(get(INNER - 20, 4), 0x1002);
    ck_assert_uint_eq(get(INNER - 16, 4), CODE3);
    ck_assert_uint_eq(get(INNER - 12, 4), 0x202);
    ck_assert_uint_eq(get(INNER - 8, 4), OUTER);
    ck_assert_uint_eq(get(INNER - 4, 4), DATA3);
    ck_assert_int_eq(RUN(0xcf), INSN_OK);
    ck_at(0x1002, CODE3, 3, OUTER);
    ck_fault(RUN(0xcd, 14), 13, 14 * 8 + 2); /* the gate is not for CPL 3 … */
    m.cpu.rflags |= 0x100;
    m.replay.count = 0;
    ck_assert_int_eq(insn_deliver(&page_fault, &m.cpu, &m.ops, &m, &m.replay, &m.fault), INSN_OK);
    ck_at(0x3100, CODE0, 0, INNER - 24); /* … but for the processor */
    ck_assert_uint_eq(get(INNER - 24, 4), 5);
    ck_assert_uint_eq(get(INNER - 20, 4), 0x1002);
    ck_assert_uint_eq(get(INNER - 12, 4), 0x10302); /* RF */
    ck_assert_uint_eq(m.cpu.rflags, 2);
    /* at the same level: no SS:ESP */
    m.replay.count = 0;
    ck_assert_int_eq(insn_deliver(&page_fault, &m.cpu, &m.ops, &m, &m.replay, &m.fault), INSN_OK);
    ck_at(0x3100, CODE0, 0, INNER - 40);
    m.cpu.idtr.limit = 14 * 8 + 6;
    m.replay.count = 0;
    ck_fault(insn_deliver(&page_fault, &m.cpu, &m.ops, &m, &m.replay, &m.fault), 13, 14 * 8 + 3);
    m.cpu.idtr.limit = 0x7ff;
    put_gate(IDT + 14 * 8, DATA0, 0x3100, 14, 0, 0);
    m.replay.count = 0;
    ck_fault(insn_deliver(&page_fault, &m.cpu, &m.ops, &m, &m.replay, &m.fault), 13, DATA0 | 1);
    put_gate(IDT + 14 * 8, CODE0, 0x3100, 12, 0, 0);
    m.replay.count = 0;
    ck_fault(insn_deliver(&page_fault, &m.cpu, &m.ops, &m, &m.replay, &m.fault), 13, 14 * 8 + 3);
}
END_TEST

/* Intel SDM, "Exception and Interrupt Handling in 64-bit Mode". */
START_TEST(interrupts_64)
{
    m.cpu.efer = 0x500;
    m.cpu.cr0 = 0x80000001;
    m.cpu.tr.attributes = 0x8b;
    put_gate(IDT + 0x40 * 16, CODE64, 0x3000, 14, 3, 0);
    put(TSS_A + 4, INNER, 8);
    put(TSS_A + 0x24, 0x7008, 8); /* IST1, not aligned */
    /* from compatibility mode at CPL 3 */
    ck_assert_int_eq(RUN(0xcd, 0x40), INSN_OK);
    ck_at(0x3000, CODE64, 0, INNER - 40);
    ck_assert_uint_eq(m.cpu.mode, INSN_64);
    ck_assert_uint_eq(m.cpu.seg[INSN_SS].selector, 0);
    ck_assert_uint_eq(get(INNER - 40, 8), 0x1002);
    ck_assert_uint_eq(get(INNER - 16, 8), OUTER);
    ck_assert_uint_eq(get(INNER - 8, 8), DATA3);
    ck_assert_int_eq(RUN(0x48, 0xcf), INSN_OK);
    ck_at(0x1002, CODE3, 3, OUTER);
    ck_assert_uint_eq(m.cpu.mode, INSN_32);
    /* with an interrupt stack, at the same level, from 64-bit code */
    put_gate(IDT + 0x40 * 16, CODE64, 0x3000, 14, 3, 1);
    m.cpu.mode = INSN_64;
    m.cpu.cpl = 0;
    m.cpu.seg[INSN_CS] = segment(CODE64, 0xa09b);
    m.cpu.seg[INSN_SS] = segment(DATA0, 0xc093);
    m.gpr[RSP] = 0x5ff7;
    ck_assert_int_eq(RUN(0xcd, 0x40), INSN_OK);
    ck_at(0x3000, CODE64, 0, 0x7000 - 40);
    ck_assert_uint_eq(m.cpu.seg[INSN_SS].selector, DATA0);
    ck_assert_uint_eq(get(0x7000 - 16, 8), 0x5ff7);
    ck_assert_int_eq(RUN(0x48, 0xcf), INSN_OK);
    ck_at(0x1004, CODE64, 0, 0x5ff7);
    /* 64-bit code at CPL 3 may be returned to, with its stack */
    m.gpr[RSP] = 0x5000;
    put(0x5000, 0x1234, 8);
    put(0x5008, USER64, 8);
    put(0x5010, 0x3202, 8);
    put(0x5018, 0x7ffffffff000, 8);
    put(0x5020, DATA3, 8);
    ck_assert_int_eq(RUN(0x48, 0xcf), INSN_OK);
    ck_at(0x1234, USER64, 3, 0x7ffffffff000);
    ck_assert_uint_eq(m.cpu.rflags, 0x3202);
    /* a gate to code that is not 64-bit */
    put_gate(IDT + 0x40 * 16, CODE0, 0x3000, 14, 3, 0);
    ck_fault(RUN(0xcd, 0x40), 13, CODE0);
    m.cpu.rflags |= 1 << 14; /* NT means an error in long mode */
    ck_fault(RUN(0x48, 0xcf), 13, 0);
}
END_TEST

/* Virtual-8086 mode: entered by IRET, left by an interrupt. */
START_TEST(virtual_8086)
{
    static const uint16_t selectors[] = {0x111, 0x222, 0x333, 0x444, 0x555};

    run_at(0);
    m.gpr[RSP] = 0x5000;
    put(0x5000, 0x1234, 4);
    put(0x5004, 0x100, 4);
    put(0x5008, 0x23202, 4); /* VM, IOPL 3 */
    put(0x500c, 0xabcd, 4);
    for (unsigned i = 0; i < 5; i++)
        put(0x5010 + 4 * i, selectors[i], 4);
    ck_assert_int_eq(RUN(0xcf), INSN_OK);
    ck_at(0x1234, 0x100, 3, 0xabcd);
    ck_assert_uint_eq(m.cpu.rflags, 0x23202);
    ck_assert_uint_eq(m.cpu.mode, INSN_16);
    ck_assert_uint_eq(m.cpu.seg[INSN_SS].base, 0x1110);
    ck_assert_uint_eq(m.cpu.seg[INSN_ES].selector, 0x222);
    ck_assert_uint_eq(m.cpu.seg[INSN_GS].attributes, 0xf3);
    ck_assert_uint_eq(m.cpu.seg[INSN_CS].limit, 0xffff);
    put_gate(IDT + 0x21 * 8, CODE0, 0x3000, 14, 3, 0);
    ck_assert_int_eq(RUN(0xcd, 0x21), INSN_OK);
    ck_at(0x3000, CODE0, 0, INNER - 36);
    ck_assert_uint_eq(m.cpu.rflags, 0x3002);
    ck_assert_uint_eq(get(INNER - 4, 4), 0x555);
    ck_assert_uint_eq(get(INNER - 16, 4), 0x222);
    ck_assert_uint_eq(get(INNER - 20, 4), 0x111);
    ck_assert_uint_eq(get(INNER - 28, 4), 0x23202);
    ck_assert_uint_eq(m.cpu.seg[INSN_DS].selector, 0);
    ck_assert_int_eq(RUN(0xcf), INSN_OK);
    ck_at(0x1236, 0x100, 3, 0xabcd);
    m.cpu.rflags &= ~0x3000ull;
    ck_fault(RUN(0xcd, 0x21), 13, 0); /* IOPL */
    ck_fault(RUN(0x0f, 0x00, 0xd8), 6, 0);
}
END_TEST

/* Intel SDM, "Task Switching". */
/* ---- Virtual-8086 mode with IOPL below 3 ---- */

enum { VM = 0x20000, VIF = 0x80000, VIP = 0x100000, IOPL3 = 0x3000, NT = 0x4000, TF = 0x100 };

static void virtual_machine(uint64_t flags, bool vme)
{
    m.cpu.rflags = VM | 2 | flags;
    m.cpu.cr4 = vme;
    m.cpu.mode = INSN_16;
    m.cpu.cpl = 3;
    for (unsigned i = 0; i < INSN_SEGMENTS; i++)
        m.cpu.seg[i] = (struct insn_seg){0x10000, 0xffff, 0xf3, 0x1000};
    m.gpr[RSP] = 0x800;
    m.cpu.rip = 0x100;
}

/* Intel SDM, "PUSHF", "POPF", "IRET", and "Virtual Mode Extensions". */
START_TEST(virtual_flags)
{
    virtual_machine(0x200, false);
    ck_fault(RUN(0x9c), 13, 0);
    ck_fault(RUN(0x9d), 13, 0);
    ck_fault(RUN(0xcf), 13, 0);
    ck_fault(RUN(0xfa), 13, 0);
    virtual_machine(0x200, true);
    ck_assert_int_eq(RUN(0x9c), INSN_OK);
    ck_assert_uint_eq(get(0x107fe, 2), 0x3002); /* VIF is 0 and IOPL seems to be 3 */
    virtual_machine(VIF, true);
    ck_assert_int_eq(RUN(0x9c), INSN_OK);
    ck_assert_uint_eq(get(0x107fe, 2), 0x3202);
    ck_fault(RUN(0x66, 0x9c), 13, 0);
    ck_fault(RUN(0x66, 0x9d), 13, 0);
    ck_fault(RUN(0x66, 0xcf), 13, 0);
    put(0x107fe, 0x4cd5, 2); /* all but IF, TF and IOPL */
    ck_assert_int_eq(RUN(0x9d), INSN_OK);
    ck_assert_uint_eq(m.cpu.rflags, VM | 0x4cd7);
    virtual_machine(0, true);
    put(0x10800, 0x3202, 2);
    ck_assert_int_eq(RUN(0x9d), INSN_OK);
    ck_assert_uint_eq(m.cpu.rflags, VM | VIF | 2);
    virtual_machine(VIP, true);
    ck_fault(RUN(0x9d), 13, 0); /* an interrupt waits */
    put(0x10800, TF, 2);
    virtual_machine(0, true);
    ck_fault(RUN(0x9d), 13, 0);
    put(0x10800, 0x1234, 2);
    put(0x10802, 0x500, 2);
    put(0x10804, 0x201, 2);
    ck_assert_int_eq(RUN(0xcf), INSN_OK);
    ck_assert_uint_eq(m.cpu.rflags, VM | VIF | 3);
    ck_assert_uint_eq(m.cpu.rip, 0x1234);
    ck_assert_uint_eq(m.cpu.seg[INSN_CS].base, 0x5000);
}
END_TEST

/* Intel SDM, "Class 3—Software Interrupt Handling in Virtual-8086 Mode", methods 1 to 6. */
START_TEST(virtual_interrupts)
{
    put_gate(IDT + 0x21 * 8, CODE0, 0x3000, 14, 3, 0);
    put(0x21 * 4, 0x2000ull << 16 | 0x345, 4);
    m.cpu.tr.limit = 0x200;
    put(TSS_A + 0x66, 0x88, 2); /* the map of ports; that of interrupts from 0x68 on */
    virtual_machine(IOPL3, false);
    ck_assert_int_eq(RUN(0xcd, 0x21), INSN_OK); /* 1 */
    ck_at(0x3000, CODE0, 0, INNER - 36);
    m.cpu.seg[INSN_CS].selector = 0;
    virtual_machine(0, false);
    ck_fault(RUN(0xcd, 0x21), 13, 0); /* 2 */
    put(TSS_A + 0x68 + 4, 2, 1);
    virtual_machine(0, true);
    ck_fault(RUN(0xcd, 0x21), 13, 0); /* 3 */
    virtual_machine(IOPL3, true);
    ck_assert_int_eq(RUN(0xcd, 0x21), INSN_OK); /* 4 */
    ck_at(0x3000, CODE0, 0, INNER - 36);
    put(TSS_A + 0x68 + 4, 0xfd, 1);
    virtual_machine(IOPL3 | 0x200 | TF, true);
    ck_assert_int_eq(RUN(0xcd, 0x21), INSN_OK); /* 5 */
    ck_at(0x345, 0x2000, 3, 0x7fa);
    ck_assert_uint_eq(m.cpu.rflags, VM | IOPL3 | 2);
    ck_assert_uint_eq(get(0x107fa, 2), 0x102);
    ck_assert_uint_eq(get(0x107fc, 2), 0x1000);
    ck_assert_uint_eq(get(0x107fe, 2), 0x3302);
    virtual_machine(0x200 | VIF, true);
    ck_assert_int_eq(RUN(0xcd, 0x21), INSN_OK); /* 6 */
    ck_at(0x345, 0x2000, 3, 0x7fa);
    ck_assert_uint_eq(m.cpu.rflags, VM | 0x202);
    ck_assert_uint_eq(get(0x107fe, 2), 0x3202);
    m.cpu.tr.limit = 0x6b; /* the map's byte is not in the TSS */
    virtual_machine(IOPL3, true);
    ck_fault(RUN(0xcd, 0x21), 13, 0);
}
END_TEST

static enum insn_access_result do_in(void *context, uint16_t port, void *data, unsigned size,
                                     struct insn_fault *fault)
{
    (void)context, (void)fault;
    memset(data, port & 0xff, size);
    return INSN_ACCESS_OK;
}

/* Intel SDM, "I/O Permission Bit Map". */
START_TEST(port_map)
{
    m.ops.in = do_in;
    m.gpr[RDX] = 0x67;
    put(TSS_A + 0x66, 0x68, 2);
    ck_fault(RUN(0xec), 13, 0); /* no map in a TSS of 0x68 bytes */
    put(TSS_A + 0x66, 0x70, 2);
    m.cpu.tr.limit = 0x70 + 0x0d;
    ck_assert_int_eq(RUN(0xec), INSN_OK);
    ck_assert_uint_eq(m.gpr[RAX], 0x67);
    ck_assert_int_eq(RUN(0x66, 0xed), INSN_OK);
    put(TSS_A + 0x70 + 13, 1, 1); /* port 0x68 */
    ck_assert_int_eq(RUN(0xec), INSN_OK);
    ck_fault(RUN(0x66, 0xed), 13, 0);
    ck_fault(RUN(0xed), 13, 0);
    put(TSS_A + 0x70 + 12, 0x80, 1);
    ck_fault(RUN(0xec), 13, 0);
    put(TSS_A + 0x70 + 12, 0, 2);
    m.cpu.tr.limit--; /* two bytes are read */
    ck_fault(RUN(0xec), 13, 0);
    m.cpu.tr.limit++;
    m.cpu.tr.attributes = 0x83; /* a 16-bit TSS has none */
    ck_fault(RUN(0xec), 13, 0);
    m.cpu.rflags |= IOPL3;
    ck_assert_int_eq(RUN(0xec), INSN_OK);
    /* in virtual-8086 mode IOPL has no say */
    m.cpu.tr.attributes = 0x8b;
    put(TSS_A + 0x70 + 12, 0x80, 1);
    virtual_machine(IOPL3, false);
    ck_fault(RUN(0xec), 13, 0);
}
END_TEST

START_TEST(tasks)
{
    run_at(0);
    put(TSS_B + 0x20, 0x2000, 4);
    put(TSS_B + 0x24, 0x3247, 4);
    for (unsigned i = 0; i < 8; i++)
        put(TSS_B + 0x28 + 4 * i, 0xb0 + i, 4);
    put(TSS_B + 0x38, 0x7000, 4); /* ESP */
    put(TSS_B + 0x48, DATA3, 4);
    put(TSS_B + 0x4c, CODE3, 4);
    put(TSS_B + 0x50, DATA3, 4);
    put(TSS_B + 0x54, DATA3, 4);
    put(TSS_B + 0x60, LOCAL, 4);
    m.gpr[RBX] = 0xabcd;
    ck_assert_int_eq(RUN(0x9a, 0, 0, 0, 0, TASK_B, 0), INSN_OK);
    ck_at(0x2000, CODE3, 3, 0x7000);
    ck_assert_uint_eq(m.cpu.rflags, 0x7247); /* NT */
    ck_assert_uint_eq(m.gpr[RDI], 0xb7);
    ck_assert_uint_eq(m.cpu.tr.selector, TASK_B);
    ck_assert_uint_eq(m.cpu.tr.attributes & 15, 11);
    ck_assert_uint_eq(m.cpu.ldtr.base, LDT);
    ck_assert(m.cpu.cr0 & 8);
    ck_assert_uint_eq(m.cpu.seg[INSN_FS].selector, 0);
    ck_assert_uint_eq(get(TSS_B, 2), TASK_A);
    ck_assert_uint_eq(get(TSS_A + 0x20, 4), 0x1007);
    ck_assert_uint_eq(get(TSS_A + 0x24, 4), 0x202);
    ck_assert_uint_eq(get(TSS_A + 0x34, 4), 0xabcd);
    ck_assert_uint_eq(get(TSS_A + 0x4c, 4), CODE0);
    ck_assert_uint_eq(m.memory[GDT + TASK_A + 5], 0x8b);
    ck_assert_uint_eq(m.memory[GDT + TASK_B + 5], 0x8b);
    ck_fault(call_gate(TASK_A), 13, TASK_A); /* DPL */
    /* IRET goes back, whatever the level */
    m.gpr[RDI] = 0x77;
    ck_assert_int_eq(RUN(0xcf), INSN_OK);
    ck_at(0x1007, CODE0, 0, INNER - 0x100);
    ck_assert_uint_eq(m.cpu.rflags, 0x202);
    ck_assert_uint_eq(m.gpr[RBX], 0xabcd);
    ck_assert_uint_eq(m.memory[GDT + TASK_B + 5], 0x89);
    ck_assert_uint_eq(get(TSS_B + 0x24, 4), 0x3247); /* NT cleared in the image */
    ck_assert_uint_eq(get(TSS_B + 0x44, 4), 0x77);
    /* by a task gate in the IDT, with an error code */
    put_gate(IDT + 8 * 8, TASK_B, 0, 5, 0, 0);
    m.replay.count = 0;
    ck_assert_int_eq(insn_deliver(&(struct insn_event){.vector = 8,
                                                       .has_error_code = true,
                                                       .fault = true,
                                                       .error_code = 0x1234},
                                  &m.cpu, &m.ops, &m, &m.replay, &m.fault),
                     INSN_OK);
    ck_at(0x2001, CODE3, 3, 0x7000 - 4);
    ck_assert_uint_eq(get(0x7000 - 4, 4), 0x1234);
    ck_assert_uint_eq(get(TSS_A + 0x20, 4), 0x1007);
}
END_TEST

static uint64_t loaded_cr3;

static enum insn_access_result do_task_cr3(void *context, uint64_t cr3, struct insn_fault *fault)
{
    (void)context, (void)fault;
    loaded_cr3 = cr3;
    return INSN_ACCESS_OK;
}

static void put_task_b(void)
{
    put(TSS_B + 0x1c, 0x5000, 4);
    put(TSS_B + 0x20, 0x2000, 4);
    put(TSS_B + 0x24, 0x202, 4);
    put(TSS_B + 0x38, 0x7000, 4);
    for (unsigned i = 0; i < 6; i++)
        put(TSS_B + 0x48 + 4 * i, i == INSN_CS ? CODE3 : DATA3, 4);
    put(TSS_B + 0x60, LOCAL, 4);
    put_descriptor(TASK_B, TSS_B, 0x67, 0x0089);
    loaded_cr3 = 0;
}

/* What is wrong with the new task is the new task's fault (Intel SDM, "Task Switching"). */
START_TEST(faults_of_the_new_task)
{
    static const struct {
        unsigned offset, value, vector, code;
    } wrong[] = {
        {0x4c, 0, 10, 0}, /* no CS */
        {0x4c, DATA3, 10, DATA0 + 16},
        {0x50, 0, 10, 0}, /* no SS */
        {0x50, DATA0, 10, DATA0},
        {0x54, 0xf8, 10, 0xf8},     /* DS beyond the GDT */
        {0x58, GATE | 3, 11, GATE}, /* FS: not present */
        {0x60, TASK_A, 10, TASK_A}, /* LDT */
    };

    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        setup();
        run_at(0);
        put_task_b();
        put_descriptor(GATE, 0, 0xfffff, 0xc073);
        put(TSS_B + wrong[i].offset, wrong[i].value, 4);
        ck_fault(call_gate(TASK_B), wrong[i].vector, wrong[i].code);
        ck_assert(m.cpu.task_switched);
        ck_assert_uint_eq(m.cpu.rip, 0x2000);
        ck_assert_uint_eq(m.gpr[RSP], 0x7000);
        ck_assert_uint_eq(m.cpu.tr.selector, TASK_B);
        ck_assert(m.cpu.cr0 & 8);
        ck_assert_uint_eq(m.cpu.seg[INSN_DS].selector, get(TSS_B + 0x54, 2));
        ck_assert_uint_eq(get(TSS_A + 0x20, 4), 0x1007);
        /* by an event, bit 0 of the code says so */
        setup();
        put_task_b();
        put_descriptor(GATE, 0, 0xfffff, 0xc073);
        put(TSS_B + wrong[i].offset, wrong[i].value, 4);
        put_gate(IDT + 2 * 8, TASK_B, 0, 5, 0, 0);
        ck_fault(insn_deliver(&(struct insn_event){.vector = 2}, &m.cpu, &m.ops, &m, &m.replay,
                              &m.fault),
                 wrong[i].vector, wrong[i].code | 1);
    }
}
END_TEST

START_TEST(task_cr3_and_trap)
{
    run_at(0);
    put_task_b();
    m.cpu.cr0 |= 1u << 31;
    m.cpu.cr3 = 0x4000;
    ck_assert_int_eq(call_gate(TASK_B), INSN_UNSUPPORTED); /* nobody to load CR3 */
    m.ops.task_cr3 = do_task_cr3;
    ck_assert_int_eq(call_gate(TASK_B), INSN_OK);
    ck_assert_uint_eq(loaded_cr3, 0x5000);
    ck_assert_uint_eq(m.cpu.cr3, 0x5000);
    /* the debug trap, once the task is there */
    setup();
    run_at(0);
    put_task_b();
    put(TSS_B + 0x64, 1, 2);
    ck_fault(call_gate(TASK_B), 1, 0);
    ck_assert_uint_eq(m.fault.address, 1 << 15);
    ck_assert(!m.fault.has_error_code);
    ck_at(0x2000, CODE3, 3, 0x7000);
    ck_assert_uint_eq(loaded_cr3, 0); /* no paging */
}
END_TEST

START_TEST(task_checks)
{
    run_at(0);
    put_descriptor(TASK_B, TSS_B, 0x66, 0x0089);
    ck_fault(call_gate(TASK_B), 10, TASK_B);
    put_descriptor(TASK_B, TSS_B, 0x67, 0x008b);
    ck_fault(call_gate(TASK_B), 13, TASK_B); /* busy */
    put_descriptor(TASK_B, TSS_B, 0x67, 0x0009);
    ck_fault(call_gate(TASK_B), 11, TASK_B);
    put_descriptor(TASK_B, TSS_B, 0x67, 0x0089);
    ck_fault(call_gate(TASK_GATE), 10, 0);       /* no CS in its TSS */
    put_descriptor(TASK_B, TSS_B, 0x67, 0x0089); /* the attempt has made it busy */
    put(TSS_B + 0x1c, 0x1000, 4);
    m.cpu.cr0 |= 1u << 31;
    m.cpu.efer = 0x500;
    ck_fault(call_gate(TASK_B), 13, TASK_B); /* none in long mode */
}
END_TEST

START_TEST(system_segments)
{
    run_at(0);
    m.gpr[RAX] = LOCAL;
    ck_assert_int_eq(RUN(0x0f, 0x00, 0xd0), INSN_OK); /* lldt ax */
    ck_assert_uint_eq(m.cpu.ldtr.base, LDT);
    ck_assert_uint_eq(m.cpu.ldtr.limit, 0xfff);
    ck_assert_int_eq(RUN(0x0f, 0x00, 0xc3), INSN_OK); /* sldt ebx */
    ck_assert_uint_eq(m.gpr[RBX], LOCAL);
    m.gpr[RAX] = TASK_B;
    ck_assert_int_eq(RUN(0x0f, 0x00, 0xd8), INSN_OK); /* ltr ax */
    ck_assert_uint_eq(m.cpu.tr.base, TSS_B);
    ck_assert_uint_eq(m.memory[GDT + TASK_B + 5], 0x8b);
    ck_fault(RUN(0x0f, 0x00, 0xd8), 13, TASK_B);      /* busy */
    ck_assert_int_eq(RUN(0x0f, 0x00, 0xcb), INSN_OK); /* str ebx */
    ck_assert_uint_eq(m.gpr[RBX], TASK_B);
    m.gpr[RAX] = DATA0;
    ck_fault(RUN(0x0f, 0x00, 0xd0), 13, DATA0);
    ck_fault(RUN(0x0f, 0x00, 0xd8), 13, DATA0);
    m.gpr[RAX] = 0;
    ck_fault(RUN(0x0f, 0x00, 0xd8), 13, 0);
    ck_assert_int_eq(RUN(0x0f, 0x00, 0xd0), INSN_OK);
    ck_assert(m.cpu.ldtr.attributes & 0x10000);
    m.cpu.efer = 0x500;
    put(GDT + LOCAL + 8, 0x00000123, 8);
    m.gpr[RAX] = LOCAL;
    ck_assert_int_eq(RUN(0x0f, 0x00, 0xd0), INSN_OK);
    ck_assert_uint_eq(m.cpu.ldtr.base, 0x12300000000ull + LDT);
    run_at(3);
    ck_fault(RUN(0x0f, 0x00, 0xd0), 13, 0);
    m.cpu.cr0 = 0;
    m.cpu.cpl = 0;
    ck_fault(RUN(0x0f, 0x00, 0xc3), 6, 0);
}
END_TEST

/* 0f 02 c3: lar eax, ebx; 0f 03 c3: lsl; 0f 00 e3: verr bx; 0f 00 eb: verw bx. */
START_TEST(looking)
{
    static const struct {
        uint16_t selector;
        uint32_t lar, lsl;
        bool lar_good, lsl_good, verr, verw;
    } expected[] = {
        {CODE3, 0xcffb00 & ~0xf0000u, 0xffffffff, true, true, true, false},
        {DATA3, 0xcff300 & ~0xf0000u, 0xffffffff, true, true, true, true},
        {CODE0, 0, 0, false, false, false, false},
        {CONFORMING, 0xc09f00, 0xffffffff, true, true, true, false},
        {LOCAL, 0, 0, false, false, false, false}, /* DPL */
        {TASK_GATE | 3, 0x00e500, 0, true, false, false, false},
        {0, 0, 0, false, false, false, false},
        {0x1000, 0, 0, false, false, false, false},
    };

    for (unsigned i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        m.gpr[RBX] = expected[i].selector;
        m.gpr[RAX] = 0x55;
        ck_assert_int_eq(RUN(0x0f, 0x02, 0xc3), INSN_OK);
        ck_assert_int_eq(!!(m.cpu.rflags & 0x40), expected[i].lar_good);
        ck_assert_uint_eq(m.gpr[RAX] & ~0xf0000ull, expected[i].lar_good ? expected[i].lar : 0x55);
        m.gpr[RAX] = 0x55;
        ck_assert_int_eq(RUN(0x0f, 0x03, 0xc3), INSN_OK);
        ck_assert_int_eq(!!(m.cpu.rflags & 0x40), expected[i].lsl_good);
        ck_assert_uint_eq(m.gpr[RAX], expected[i].lsl_good ? expected[i].lsl : 0x55);
        ck_assert_int_eq(RUN(0x0f, 0x00, 0xe3), INSN_OK);
        ck_assert_int_eq(!!(m.cpu.rflags & 0x40), expected[i].verr);
        ck_assert_int_eq(RUN(0x0f, 0x00, 0xeb), INSN_OK);
        ck_assert_int_eq(!!(m.cpu.rflags & 0x40), expected[i].verw);
    }
    m.gpr[RAX] = 0x10;
    m.gpr[RBX] = 0x23;
    ck_assert_int_eq(RUN(0x63, 0xd8), INSN_OK); /* arpl ax, bx */
    ck_assert_uint_eq(m.gpr[RAX], 0x13);
    ck_assert(m.cpu.rflags & 0x40);
    ck_assert_int_eq(RUN(0x63, 0xd8), INSN_OK);
    ck_assert(!(m.cpu.rflags & 0x40));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("insn_gates");
    TCase *tests = tcase_create("gates");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tests, setup, NULL);
    tcase_add_test(tests, call_gates);
    tcase_add_test(tests, call_gate_checks);
    tcase_add_test(tests, interrupts);
    tcase_add_test(tests, interrupts_64);
    tcase_add_test(tests, virtual_8086);
    tcase_add_test(tests, virtual_flags);
    tcase_add_test(tests, virtual_interrupts);
    tcase_add_test(tests, port_map);
    tcase_add_test(tests, tasks);
    tcase_add_test(tests, task_checks);
    tcase_add_test(tests, faults_of_the_new_task);
    tcase_add_test(tests, task_cr3_and_trap);
    tcase_add_test(tests, system_segments);
    tcase_add_test(tests, looking);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
