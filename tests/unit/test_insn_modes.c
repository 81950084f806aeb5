/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What cannot be tried out on the processor that runs the tests: real mode, segmentation,
 * privilege, ports, pending accesses and races of the executor, against what the manuals say.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "insn/execute.h"

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI };

enum {
    MEMORY = 0x120000,
    REAL_DATA = 0x93,
    FLAT_DATA = 0xc093,
    FLAT_CODE = 0xc09b,
};

/* A machine for one instruction. */
static struct machine {
    struct insn_cpu cpu;
    uint64_t gpr[16];
    struct insn insn;
    struct insn_ops ops;
    struct insn_replay replay;
    struct insn_fault fault;
    unsigned iterations;
    unsigned reads, writes, probes, races, inputs, outputs;
    bool pending_ports;
    bool pending_after_race;
    uint64_t fault_from; /* accesses at and above raise a page fault */
    unsigned permitted;  /* answer of io_permitted */
    uint32_t port_value;
    uint16_t port;
    uint8_t memory[MEMORY];
} m;

static enum insn_access_result check_access(uint64_t linear, unsigned size,
                                            struct insn_fault *fault)
{
    if (linear + size > m.fault_from) {
        *fault = (struct insn_fault){14, true, 2, linear};
        return INSN_ACCESS_FAULT;
    }
    ck_assert_uint_le(linear + size, MEMORY);
    return INSN_ACCESS_OK;
}

static enum insn_access_result do_read(void *context, uint64_t linear, void *data, unsigned size,
                                       unsigned flags, struct insn_fault *fault)
{
    enum insn_access_result result = check_access(linear, size, fault);

    ck_assert_ptr_eq(context, &m);
    (void)flags;
    m.reads++;
    if (result == INSN_ACCESS_OK)
        memcpy(data, m.memory + linear, size);
    return result;
}

static enum insn_access_result do_write(void *context, uint64_t linear, const void *data,
                                        unsigned size, unsigned flags, struct insn_fault *fault)
{
    enum insn_access_result result = check_access(linear, size, fault);

    (void)context;
    if (flags & INSN_ACCESS_PROBE) {
        m.probes++;
        return result;
    }
    m.writes++;
    if (result == INSN_ACCESS_OK)
        memcpy(m.memory + linear, data, size);
    return result;
}

/* Loses m.races times, to another CPU that adds one each time. */
static enum insn_access_result do_compare_exchange(void *context, uint64_t linear, void *expected,
                                                   const void *desired, unsigned size,
                                                   unsigned flags, struct insn_fault *fault)
{
    (void)context;
    (void)fault;
    ck_assert_uint_eq(flags, INSN_ACCESS_LOCKED);
    if (m.races) {
        m.races--;
        m.memory[linear]++;
    } else if (m.pending_after_race) {
        return INSN_ACCESS_PENDING;
    }
    if (memcmp(m.memory + linear, expected, size)) {
        memcpy(expected, m.memory + linear, size);
        return INSN_ACCESS_RACED;
    }
    memcpy(m.memory + linear, desired, size);
    return INSN_ACCESS_OK;
}

static enum insn_access_result do_in(void *context, uint16_t port, void *data, unsigned size,
                                     struct insn_fault *fault)
{
    (void)context;
    (void)fault;
    m.inputs++;
    m.port = port;
    if (m.pending_ports)
        return INSN_ACCESS_PENDING;
    memcpy(data, &m.port_value, size);
    return INSN_ACCESS_OK;
}

static enum insn_access_result do_out(void *context, uint16_t port, const void *data, unsigned size,
                                      struct insn_fault *fault)
{
    (void)context;
    (void)fault;
    m.outputs++;
    m.port = port;
    if (m.pending_ports)
        return INSN_ACCESS_PENDING;
    m.port_value = 0;
    memcpy(&m.port_value, data, size);
    return INSN_ACCESS_OK;
}

static enum insn_access_result do_io_permitted(void *context, uint16_t port, unsigned size,
                                               struct insn_fault *fault)
{
    (void)context;
    (void)size;
    m.port = port;
    *fault = (struct insn_fault){13, true, 0, 0};
    return (enum insn_access_result)m.permitted;
}

static enum insn_access_result do_load_segment(void *context, unsigned segment, uint16_t selector,
                                               struct insn_seg *result, struct insn_fault *fault)
{
    (void)context;
    if (selector == 0x66) {
        *fault = (struct insn_fault){11, true, 0x64, 0};
        return INSN_ACCESS_FAULT;
    }
    *result = (struct insn_seg){0x1000u * segment, 0xffff, 0x93, selector};
    return INSN_ACCESS_OK;
}

static void power_on(void)
{
    memset(&m, 0, sizeof(m));
    m.ops = (struct insn_ops){.read = do_read,
                              .write = do_write,
                              .compare_exchange = do_compare_exchange,
                              .in = do_in,
                              .out = do_out,
                              .io_permitted = do_io_permitted};
    m.cpu.gpr = m.gpr;
    m.cpu.rflags = 2;
    m.cpu.idtr.limit = 0x3ff;
    m.iterations = 100;
    m.fault_from = MEMORY;
    for (unsigned i = 0; i < INSN_SEGMENTS; i++)
        m.cpu.seg[i] = (struct insn_seg){0x1000, 0xffff, REAL_DATA, 0x100};
}

/* Flat 32-bit code at CPL 0. */
static void protected_mode(void)
{
    m.cpu.cr0 = 1;
    m.cpu.mode = INSN_32;
    for (unsigned i = 0; i < INSN_SEGMENTS; i++)
        m.cpu.seg[i] = (struct insn_seg){0, 0xffffffff, i == INSN_CS ? FLAT_CODE : FLAT_DATA,
                                         i == INSN_CS ? 8 : 16};
}

static void long_mode(void)
{
    m.cpu.cr0 = 0x80000001;
    m.cpu.efer = 0x500;
    m.cpu.mode = INSN_64;
}

static enum insn_result resume(void)
{
    return insn_execute(&m.insn, &m.cpu, &m.ops, &m, &m.replay, m.iterations, &m.fault);
}

/* The instruction is at the present RIP. */
static enum insn_result run_bytes(const uint8_t *bytes, size_t count)
{
    uint8_t padded[16] = {0};

    memcpy(padded, bytes, count);
    ck_assert_int_eq(insn_decode(&m.insn, padded, 15, (enum insn_mode)m.cpu.mode), INSN_OK);
    ck_assert_uint_eq(m.insn.length, count);
    m.replay.count = 0;
    return resume();
}

#define RUN(...) run_bytes((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static uint16_t word_at(uint64_t linear)
{
    uint16_t value;

    memcpy(&value, m.memory + linear, 2);
    return value;
}

static uint32_t dword_at(uint64_t linear)
{
    uint32_t value;

    memcpy(&value, m.memory + linear, 4);
    return value;
}

static void put_word(uint64_t linear, uint16_t value)
{
    memcpy(m.memory + linear, &value, 2);
}

#define ck_fault(result, number, code, error)                                                      \
    do {                                                                                           \
        ck_assert_int_eq(result, INSN_FAULT);                                                      \
        ck_assert_uint_eq(m.fault.vector, number);                                                 \
        ck_assert_uint_eq(m.fault.has_error_code, code);                                           \
        ck_assert_uint_eq(m.fault.error_code, error);                                              \
    } while (0)

START_TEST(real_mode_addresses)
{
    /* mov [bx+si+0x10], ax: the offset wraps at 64 KiB. */
    m.gpr[RBX] = 0xabcd8000;
    m.gpr[RSI] = 0x8001;
    m.gpr[RAX] = 0x1234;
    ck_assert_int_eq(RUN(0x89, 0x40, 0x10), INSN_OK);
    ck_assert_uint_eq(word_at(0x1011), 0x1234);
    ck_assert_uint_eq(m.cpu.rip, 3);
    /* mov [bp], al uses SS; an override changes it. */
    m.cpu.seg[INSN_SS].base = 0x2000;
    m.gpr[RBP] = 0x20;
    ck_assert_int_eq(RUN(0x88, 0x46, 0x00), INSN_OK);
    ck_assert_uint_eq(m.memory[0x2020], 0x34);
    m.cpu.seg[INSN_ES].base = 0x3000;
    ck_assert_int_eq(RUN(0x26, 0x88, 0x46, 0x00), INSN_OK);
    ck_assert_uint_eq(m.memory[0x3020], 0x34);
    /* FFFF:0010 is at 1 MiB. */
    m.cpu.seg[INSN_DS].base = 0xffff0;
    m.gpr[RBX] = 0x10;
    ck_assert_int_eq(RUN(0x88, 0x07), INSN_OK);
    ck_assert_uint_eq(m.memory[0x100000], 0x34);
}
END_TEST

/* Intel SDM, "Real-Address Mode Exceptions": limits hold there too, without error codes. */
START_TEST(real_mode_limits)
{
    m.gpr[RBX] = 0xffff;
    ck_fault(RUN(0x89, 0x07), 13, false, 0);
    m.gpr[RBP] = 0xffff;
    ck_fault(RUN(0x89, 0x46, 0x00), 12, false, 0);
    m.gpr[RSP] = 1;
    ck_fault(RUN(0x50), 12, false, 0);
    ck_assert_uint_eq(m.gpr[RSP], 1);
    ck_assert_uint_eq(m.cpu.rip, 0);
    ck_assert_uint_eq(m.writes, 0);
}
END_TEST

START_TEST(real_mode_stack)
{
    m.gpr[RSP] = 0xffff0000;
    m.gpr[RAX] = 0xaaaa1111;
    ck_assert_int_eq(RUN(0x50), INSN_OK);
    ck_assert_uint_eq(m.gpr[RSP], 0xfffffffe);
    ck_assert_uint_eq(word_at(0x1000 + 0xfffe), 0x1111);
    ck_assert_int_eq(RUN(0x5b), INSN_OK); /* pop bx */
    ck_assert_uint_eq(m.gpr[RBX], 0x1111);
    ck_assert_uint_eq(m.gpr[RSP], 0xffff0000);
    ck_assert_int_eq(RUN(0x66, 0x50), INSN_OK); /* push eax */
    ck_assert_uint_eq(dword_at(0x1000 + 0xfffc), 0xaaaa1111);
    /* pusha stores the old SP; popa does not load it. */
    m.gpr[RSP] = 0x100;
    ck_assert_int_eq(RUN(0x60), INSN_OK);
    ck_assert_uint_eq(m.gpr[RSP], 0xf0);
    ck_assert_uint_eq(word_at(0x10f6), 0x100);
    m.gpr[RAX] = 0;
    ck_assert_int_eq(RUN(0x61), INSN_OK);
    ck_assert_uint_eq(m.gpr[RSP], 0x100);
    ck_assert_uint_eq(m.gpr[RAX], 0x1111);
}
END_TEST

START_TEST(real_mode_far)
{
    /* jmp 0x2000:0x1234 */
    m.cpu.rip = 0x100;
    ck_assert_int_eq(RUN(0xea, 0x34, 0x12, 0x00, 0x20), INSN_OK);
    ck_assert_uint_eq(m.cpu.rip, 0x1234);
    ck_assert_uint_eq(m.cpu.seg[INSN_CS].base, 0x20000);
    ck_assert_uint_eq(m.cpu.seg[INSN_CS].selector, 0x2000);
    ck_assert_uint_eq(m.cpu.seg[INSN_CS].limit, 0xffff);
    /* call far 0x3000:0x0010, and back */
    m.gpr[RSP] = 0x100;
    ck_assert_int_eq(RUN(0x9a, 0x10, 0x00, 0x00, 0x30), INSN_OK);
    ck_assert_uint_eq(m.cpu.rip, 0x10);
    ck_assert_uint_eq(word_at(0x10fe), 0x2000);
    ck_assert_uint_eq(word_at(0x10fc), 0x1239);
    ck_assert_int_eq(RUN(0xca, 0x04, 0x00), INSN_OK);
    ck_assert_uint_eq(m.cpu.rip, 0x1239);
    ck_assert_uint_eq(m.cpu.seg[INSN_CS].base, 0x20000);
    ck_assert_uint_eq(m.gpr[RSP], 0x104);
    /* jmp far [0x40] */
    put_word(0x1040, 0x5678);
    put_word(0x1042, 0x4000);
    ck_assert_int_eq(RUN(0xff, 0x2e, 0x40, 0x00), INSN_OK);
    ck_assert_uint_eq(m.cpu.rip, 0x5678);
    ck_assert_uint_eq(m.cpu.seg[INSN_CS].base, 0x40000);
    /* a 32-bit offset beyond the limit: jmp far 0x1000:0x10000 */
    ck_fault(RUN(0x66, 0xea, 0x00, 0x00, 0x01, 0x00, 0x00, 0x10), 13, false, 0);
    ck_assert_uint_eq(m.cpu.rip, 0x5678);
}
END_TEST

START_TEST(real_mode_interrupt)
{
    put_word(0x21 * 4, 0x2222);
    put_word(0x21 * 4 + 2, 0x5000);
    m.cpu.rip = 0x10;
    m.cpu.rflags = 0x3 | 1 << 8 | 1 << 9;
    m.gpr[RSP] = 0x100;
    ck_assert_int_eq(RUN(0xcd, 0x21), INSN_OK);
    ck_assert_uint_eq(m.cpu.rip, 0x2222);
    ck_assert_uint_eq(m.cpu.seg[INSN_CS].base, 0x50000);
    ck_assert_uint_eq(m.cpu.rflags, 0x3); /* IF and TF cleared */
    ck_assert_uint_eq(m.gpr[RSP], 0xfa);
    ck_assert_uint_eq(word_at(0x10fa), 0x12);
    ck_assert_uint_eq(word_at(0x10fc), 0x100);
    ck_assert_uint_eq(word_at(0x10fe), 0x303);
    ck_assert_int_eq(RUN(0xcf), INSN_OK); /* iret */
    ck_assert_uint_eq(m.cpu.rip, 0x12);
    ck_assert_uint_eq(m.cpu.seg[INSN_CS].base, 0x1000);
    ck_assert_uint_eq(m.cpu.rflags, 0x303);
    ck_assert_uint_eq(m.gpr[RSP], 0x100);
    m.cpu.idtr.limit = 0x21 * 4 + 2;
    ck_fault(RUN(0xcd, 0x21), 13, false, 0);
    /* into without and with OF */
    put_word(4 * 4, 0x3333);
    ck_assert_int_eq(RUN(0xce), INSN_OK);
    ck_assert_uint_eq(m.cpu.rip, 0x13);
    m.cpu.rflags |= 1 << 11;
    ck_assert_int_eq(RUN(0xce), INSN_OK);
    ck_assert_uint_eq(m.cpu.rip, 0x3333);
}
END_TEST

START_TEST(real_mode_segments)
{
    m.cpu.seg[INSN_SS].limit = 0xffffffff;
    m.gpr[RAX] = 0x1234;
    ck_assert_int_eq(RUN(0x8e, 0xd0), INSN_OK); /* mov ss, ax */
    ck_assert_uint_eq(m.cpu.seg[INSN_SS].base, 0x12340);
    ck_assert_uint_eq(m.cpu.seg[INSN_SS].limit, 0xffffffff); /* the hidden part stays */
    ck_assert_uint_eq(m.cpu.shadow, INSN_SHADOW_MOV_SS);
    ck_assert_int_eq(RUN(0x8c, 0xd3), INSN_OK); /* mov bx, ss */
    ck_assert_uint_eq(m.gpr[RBX], 0x1234);
    ck_assert_uint_eq(m.cpu.shadow, INSN_SHADOW_NONE);
    put_word(0x1020, 0x4321);
    put_word(0x1022, 0x0200);
    ck_assert_int_eq(RUN(0xc4, 0x3e, 0x20, 0x00), INSN_OK); /* les di, [0x20] */
    ck_assert_uint_eq(m.gpr[RDI], 0x4321);
    ck_assert_uint_eq(m.cpu.seg[INSN_ES].base, 0x2000);
    m.gpr[RSP] = 0x10;
    put_word(0x12350, 0x0300);
    ck_assert_int_eq(RUN(0x1f), INSN_OK); /* pop ds */
    ck_assert_uint_eq(m.cpu.seg[INSN_DS].base, 0x3000);
    ck_assert_uint_eq(m.gpr[RSP], 0x12);
}
END_TEST

/* Intel SDM, "Limit Checking", "Type Checking". */
START_TEST(protected_segments)
{
    protected_mode();
    m.cpu.seg[INSN_DS].attributes = 0xc091; /* read-only */
    m.gpr[RBX] = 0x100;
    ck_assert_int_eq(RUN(0x8a, 0x03), INSN_OK);
    ck_fault(RUN(0x88, 0x03), 13, true, 0);
    m.cpu.seg[INSN_DS].attributes = 0xc099; /* execute-only code */
    ck_fault(RUN(0x8a, 0x03), 13, true, 0);
    m.cpu.seg[INSN_DS].attributes = 0x10000; /* null */
    ck_fault(RUN(0x8a, 0x03), 13, true, 0);
    /* Reads from code segments are fine if it is readable, writes never. */
    ck_assert_int_eq(RUN(0x2e, 0x8a, 0x03), INSN_OK);
    ck_fault(RUN(0x2e, 0x88, 0x03), 13, true, 0);
    /* Expand-down: what is above the limit, up to 64 KiB or 4 GiB by B. */
    m.cpu.seg[INSN_DS] = (struct insn_seg){0, 0xfff, 0x97, 16};
    ck_fault(RUN(0x8a, 0x03), 13, true, 0);
    m.gpr[RBX] = 0xfff;
    ck_fault(RUN(0x8a, 0x03), 13, true, 0);
    m.gpr[RBX] = 0x1000;
    ck_assert_int_eq(RUN(0x8a, 0x03), INSN_OK);
    m.gpr[RBX] = 0xffff;
    ck_assert_int_eq(RUN(0x8a, 0x03), INSN_OK);
    ck_fault(RUN(0x8b, 0x03), 13, true, 0);
    m.cpu.seg[INSN_DS].attributes |= 1 << 14;
    ck_assert_int_eq(RUN(0x8b, 0x03), INSN_OK);
    /* An ordinary limit. */
    m.cpu.seg[INSN_DS] = (struct insn_seg){0x2000, 0x103, 0x4093, 16};
    m.gpr[RBX] = 0x100;
    ck_assert_int_eq(RUN(0x8b, 0x03), INSN_OK);
    m.gpr[RBX] = 0x101;
    ck_fault(RUN(0x8b, 0x03), 13, true, 0);
    /* The stack's fault is #SS. */
    m.cpu.seg[INSN_SS].limit = 0xff;
    m.gpr[RSP] = 0x200;
    ck_fault(RUN(0x50), 12, true, 0);
    /* Branches beyond CS. */
    m.cpu.seg[INSN_CS].limit = 0xff;
    m.cpu.rip = 0xf0;
    ck_fault(RUN(0xeb, 0x20), 13, true, 0);
    ck_assert_uint_eq(m.cpu.rip, 0xf0);
}
END_TEST

START_TEST(protected_segment_loads)
{
    protected_mode();
    m.gpr[RAX] = 0x23;
    ck_assert_int_eq(RUN(0x8e, 0xd8), INSN_UNSUPPORTED); /* mov ds, eax */
    m.ops.load_segment = do_load_segment;
    ck_assert_int_eq(RUN(0x8e, 0xd8), INSN_OK);
    ck_assert_uint_eq(m.cpu.seg[INSN_DS].selector, 0x23);
    ck_assert_uint_eq(m.cpu.seg[INSN_DS].base, 0x3000);
    m.gpr[RAX] = 0x66;
    ck_fault(RUN(0x8e, 0xd8), 11, true, 0x64);
    ck_assert_uint_eq(m.cpu.seg[INSN_DS].selector, 0x23);
    ck_assert_int_eq(RUN(0xea, 0, 0, 0, 0, 8, 0), INSN_UNSUPPORTED); /* jmp far */
    ck_assert_int_eq(RUN(0xcf), INSN_UNSUPPORTED);
    ck_assert_int_eq(RUN(0xcd, 0x80), INSN_UNSUPPORTED);
    ck_assert_uint_eq(m.reads, 0);
}
END_TEST

static void put_descriptor(unsigned selector, uint32_t base, uint32_t limit, unsigned attributes)
{
    uint64_t value = (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 |
                     (uint64_t)(attributes & 0xf0ff) << 40 | (uint64_t)(limit >> 16 & 15) << 48 |
                     (uint64_t)(base >> 24) << 56;

    memcpy(m.memory + 0x8000 + (selector & 0xfff8), &value, 8);
}

/* A GDT at 0x8000, CPL 0, and no callback for segments. */
static void descriptor_tables(void)
{
    protected_mode();
    m.ops.descriptors = true;
    m.cpu.gdtr = (struct insn_table){0x8000, 0x6f};
    put_descriptor(0x08, 0, 0xfffff, 0xc09a);         /* code */
    put_descriptor(0x10, 0, 0xfffff, 0xc092);         /* data */
    put_descriptor(0x18, 0x12345678, 0x1234, 0x40f3); /* data, DPL 3, byte granular */
    put_descriptor(0x20, 0, 0xfffff, 0xa09b);         /* 64-bit code */
    put_descriptor(0x28, 0, 0xffff, 0x009b);          /* 16-bit code */
    put_descriptor(0x30, 0, 0xfffff, 0xc012);         /* data, not present */
    put_descriptor(0x38, 0, 0xfffff, 0xc098);         /* execute-only code */
    put_descriptor(0x40, 0, 0xfffff, 0xc090);         /* read-only data */
    put_descriptor(0x48, 0, 0xffff, 0x0089);          /* TSS */
    put_descriptor(0x50, 0, 0xfffff, 0xc0fb);         /* code, DPL 3 */
    put_descriptor(0x58, 0, 0xfffff, 0xe09b);         /* code with L and D */
    put_descriptor(0x60, 0, 0xff, 0x409b);            /* code of 256 bytes */
    put_descriptor(0x68, 0, 0xfffff, 0xc01b);         /* code, not present */
}

static enum insn_result load_ds(uint16_t selector)
{
    m.gpr[RAX] = selector;
    return RUN(0x8e, 0xd8);
}

static enum insn_result load_ss(uint16_t selector)
{
    m.gpr[RAX] = selector;
    return RUN(0x8e, 0xd0);
}

/* Intel SDM, "MOV: Move", its protected-mode exceptions. */
START_TEST(descriptor_loads)
{
    descriptor_tables();
    ck_assert_int_eq(load_ds(0x1b), INSN_OK);
    ck_assert_uint_eq(m.cpu.seg[INSN_DS].base, 0x12345678);
    ck_assert_uint_eq(m.cpu.seg[INSN_DS].limit, 0x1234);
    ck_assert_uint_eq(m.cpu.seg[INSN_DS].attributes, 0x40f3);
    ck_assert_uint_eq(m.cpu.seg[INSN_DS].selector, 0x1b);
    ck_assert_uint_eq(m.writes, 0);
    ck_assert_int_eq(load_ds(0x10), INSN_OK);
    ck_assert_uint_eq(m.cpu.seg[INSN_DS].limit, 0xffffffff);
    ck_assert_uint_eq(m.cpu.seg[INSN_DS].attributes, 0xc093);
    ck_assert_uint_eq(m.memory[0x8015], 0x93); /* accessed */
    ck_assert_int_eq(load_ds(0x3), INSN_OK);
    ck_assert_uint_eq(m.cpu.seg[INSN_DS].attributes & 0x10000, 0x10000);
    ck_fault(load_ds(0x70), 13, true, 0x70); /* beyond the table */
    ck_fault(load_ds(0x14), 13, true, 0x14); /* no LDT */
    ck_fault(load_ds(0x30), 11, true, 0x30);
    ck_fault(load_ds(0x38), 13, true, 0x38);
    ck_fault(load_ds(0x48), 13, true, 0x48);
    ck_fault(load_ds(0x13), 13, true, 0x10); /* RPL 3, DPL 0 */
    ck_assert_int_eq(load_ss(0x10), INSN_OK);
    ck_assert_uint_eq(m.cpu.shadow, INSN_SHADOW_MOV_SS);
    ck_assert_int_eq(load_ds(0x10), INSN_OK);
    put_word(0x204, 0x10);
    m.gpr[RBX] = 0x200;
    ck_assert_int_eq(RUN(0x0f, 0xb2, 0x23), INSN_OK); /* lss esp, [ebx] holds nothing off */
    ck_assert_uint_eq(m.cpu.shadow, INSN_SHADOW_NONE);
    m.cpu.gdtr.limit = 0x16; /* one byte short */
    ck_fault(load_ds(0x10), 13, true, 0x10);
    m.cpu.gdtr.limit = 0x6f;
    ck_fault(load_ss(0x13), 13, true, 0x10); /* RPL is not CPL */
    ck_fault(load_ss(0x0), 13, true, 0);
    ck_fault(load_ss(0x18), 13, true, 0x18); /* DPL is not CPL */
    ck_fault(load_ss(0x40), 13, true, 0x40);
    ck_fault(load_ss(0x30), 12, true, 0x30);
    m.cpu.cpl = 3;
    ck_fault(load_ds(0x10), 13, true, 0x10);
    ck_assert_int_eq(load_ds(0x50), INSN_OK); /* readable code */
    m.cpu.ldtr = (struct insn_seg){0x8000, 0x1f, 0x82, 0x48};
    ck_assert_int_eq(load_ds(0x1c), INSN_OK);
    ck_fault(load_ds(0x24), 13, true, 0x24);
    long_mode();
    m.cpu.cpl = 0;
    ck_assert_int_eq(load_ss(0x0), INSN_OK);
    ck_fault(load_ss(0x3), 13, true, 0);
}
END_TEST

static enum insn_result jump_to(uint8_t selector, uint32_t offset)
{
    return RUN(0xea, (uint8_t)offset, (uint8_t)(offset >> 8), (uint8_t)(offset >> 16),
               (uint8_t)(offset >> 24), selector, 0);
}

/* Intel SDM, "JMP: Jump", "CALL", "RET", "IRET". */
START_TEST(descriptor_transfers)
{
    descriptor_tables();
    ck_assert_int_eq(jump_to(0x08, 0x12345), INSN_OK);
    ck_assert_uint_eq(m.cpu.rip, 0x12345);
    ck_assert_uint_eq(m.cpu.seg[INSN_CS].attributes, 0xc09b);
    ck_fault(jump_to(0, 0), 13, true, 0);
    ck_fault(jump_to(0x10, 0), 13, true, 0x10);
    ck_fault(jump_to(0x50, 0), 13, true, 0x50); /* DPL 3 from CPL 0 */
    ck_fault(jump_to(0x60, 0x100), 13, true, 0);
    ck_fault(jump_to(0x68, 0), 11, true, 0x68);
    ck_fault(jump_to(0x48, 0), 10, true, 0); /* a task, from none */
    ck_assert_uint_eq(m.cpu.rip, 0x12345);
    m.gpr[RSP] = 0x100;
    ck_assert_int_eq(RUN(0x9a, 0x00, 0x02, 0, 0, 0x08, 0), INSN_OK);
    ck_assert_uint_eq(dword_at(0xfc), 8);
    ck_assert_uint_eq(dword_at(0xf8), 0x1234c);
    ck_assert_int_eq(RUN(0xcb), INSN_OK);
    ck_assert_uint_eq(m.cpu.rip, 0x1234c);
    ck_assert_uint_eq(m.gpr[RSP], 0x100);
    put_word(0x104, 0x53);
    ck_fault(RUN(0xcb), 13, true, 0); /* to CPL 3, with a null SS */
    put_word(0x104, 0x08);
    put_word(0x108, 0x0ed7);
    ck_assert_int_eq(RUN(0xcf), INSN_OK);
    ck_assert_uint_eq(m.cpu.rflags, 0xed7);
    ck_assert_uint_eq(m.gpr[RSP], 0x10c);
    m.cpu.rflags |= 1 << 14; /* NT: back to a task */
    ck_fault(RUN(0xcf), 10, true, 0);
}
END_TEST

/* Switching modes: from real mode's segments into protected mode, and into and out of 64-bit code.
 */
START_TEST(descriptor_modes)
{
    descriptor_tables();
    m.cpu.mode = INSN_16;
    m.cpu.seg[INSN_CS].attributes = REAL_DATA;
    /* jmp dword 0x08:0x10 from 16-bit code */
    ck_assert_int_eq(RUN(0x66, 0xea, 0x10, 0, 0, 0, 0x08, 0), INSN_OK);
    ck_assert_uint_eq(m.cpu.mode, INSN_32);
    ck_assert_uint_eq(m.cpu.rip, 0x10);
    ck_assert_int_eq(jump_to(0x28, 0x20), INSN_OK);
    ck_assert_uint_eq(m.cpu.mode, INSN_16);
    m.cpu.mode = INSN_32;
    ck_assert_int_eq(jump_to(0x20, 0x30), INSN_OK); /* L means nothing without LMA */
    ck_assert_uint_eq(m.cpu.mode, INSN_16);
    m.cpu.mode = INSN_32;
    m.cpu.efer = 0x500;
    ck_assert_int_eq(jump_to(0x20, 0x40), INSN_OK);
    ck_assert_uint_eq(m.cpu.mode, INSN_64);
    m.cpu.mode = INSN_32;
    ck_fault(jump_to(0x58, 0x40), 13, true, 0x58);
    m.cpu.mode = INSN_64;
    ck_fault(RUN(0x48, 0xcf), 13, true, 0); /* iretq with a null CS */
    /* lretq to 32-bit code */
    m.gpr[RSP] = 0x200;
    m.memory[0x200] = 0x77;
    m.memory[0x208] = 0x08;
    ck_assert_int_eq(RUN(0x48, 0xcb), INSN_OK);
    ck_assert_uint_eq(m.cpu.mode, INSN_32);
    ck_assert_uint_eq(m.cpu.rip, 0x77);
    ck_assert_uint_eq(m.gpr[RSP], 0x210);
}
END_TEST

START_TEST(long_mode_canonical)
{
    long_mode();
    m.gpr[RBX] = 0x800000000000;
    ck_fault(RUN(0x48, 0x8b, 0x03), 13, true, 0);
    m.gpr[RBX] = 0x7ffffffffffc; /* ends beyond */
    ck_fault(RUN(0x48, 0x8b, 0x03), 13, true, 0);
    m.gpr[RBP] = 0x800000000000;
    ck_fault(RUN(0x48, 0x8b, 0x45, 0x00), 12, true, 0);
    m.gpr[RSP] = 0x800000000008;
    ck_fault(RUN(0x50), 12, true, 0);
    m.cpu.cr4 = 1 << 12; /* LA57 */
    m.fault_from = 0;
    ck_fault(RUN(0x50), 14, true, 2);
    ck_assert_uint_eq(m.fault.address, 0x800000000000);
    m.cpu.cr4 = 0;
    m.gpr[RAX] = 0x800000000000;
    ck_fault(RUN(0xff, 0xe0), 13, true, 0); /* jmp rax */
    /* Only FS and GS have bases. */
    m.fault_from = MEMORY;
    m.memory[0x10] = 0x11;
    m.memory[0x1010] = 0x22;
    m.gpr[RBX] = 0x10;
    ck_assert_int_eq(RUN(0x8a, 0x03), INSN_OK);
    ck_assert_uint_eq(m.gpr[RAX] & 0xff, 0x11);
    ck_assert_int_eq(RUN(0x65, 0x8a, 0x03), INSN_OK);
    ck_assert_uint_eq(m.gpr[RAX] & 0xff, 0x22);
    /* RIP-relative: to the next instruction. */
    m.cpu.rip = 0x2000;
    m.memory[0x2106] = 0x33;
    ck_assert_int_eq(RUN(0x8a, 0x05, 0x00, 0x01, 0x00, 0x00), INSN_OK);
    ck_assert_uint_eq(m.gpr[RAX] & 0xff, 0x33);
    /* and with an immediate behind it: cmp byte [rip+0x100], 0x44 */
    m.memory[0x2000 + 6 + 7 + 0x100] = 0x44;
    ck_assert_int_eq(RUN(0x80, 0x3d, 0x00, 0x01, 0x00, 0x00, 0x44), INSN_OK);
    ck_assert_uint_eq(m.cpu.rflags & 0x40, 0x40);
}
END_TEST

START_TEST(addresses_without_execution)
{
    static const uint8_t load[] = {0x64, 0x67, 0x8b, 0x44, 0x8b, 0x10}; /* fs:[ebx+ecx*4+16] */

    long_mode();
    ck_assert_int_eq(insn_decode(&m.insn, load, sizeof(load), INSN_64), INSN_OK);
    m.gpr[RBX] = 0x1fffffff0;
    m.gpr[RCX] = 1;
    ck_assert_uint_eq(insn_offset(&m.insn, &m.cpu), 4);
    ck_assert_uint_eq(insn_linear(&m.insn, &m.cpu), 0x1004);
    ck_assert_uint_eq(insn_advance(INSN_16, 0xffff, 2), 1);
    ck_assert_uint_eq(insn_advance(INSN_32, 0xffffffff, 2), 1);
    ck_assert_uint_eq(insn_advance(INSN_64, 0xffffffff, 2), 0x100000001);
}
END_TEST

START_TEST(repeat_bounded)
{
    long_mode();
    m.gpr[RCX] = 10;
    m.gpr[RDI] = 0x100;
    m.gpr[RAX] = 0x55;
    m.iterations = 4;
    ck_assert_int_eq(RUN(0xf3, 0xaa), INSN_AGAIN);
    ck_assert_uint_eq(m.gpr[RCX], 6);
    ck_assert_uint_eq(m.gpr[RDI], 0x104);
    ck_assert_uint_eq(m.cpu.rip, 0);
    ck_assert_int_eq(RUN(0xf3, 0xaa), INSN_AGAIN);
    ck_assert_int_eq(RUN(0xf3, 0xaa), INSN_OK);
    ck_assert_uint_eq(m.gpr[RCX], 0);
    ck_assert_uint_eq(m.cpu.rip, 2);
    ck_assert_uint_eq(m.memory[0x109], 0x55);
    ck_assert_uint_eq(m.memory[0x10a], 0);
    /* A fault in the middle: what was done stays done. */
    m.cpu.rip = 0;
    m.iterations = 100;
    m.gpr[RCX] = 10;
    m.gpr[RDI] = 0x200;
    m.fault_from = 0x203;
    ck_fault(RUN(0xf3, 0xaa), 14, true, 2);
    ck_assert_uint_eq(m.gpr[RCX], 7);
    ck_assert_uint_eq(m.gpr[RDI], 0x203);
    ck_assert_uint_eq(m.fault.address, 0x203);
    ck_assert_uint_eq(m.cpu.rip, 0);
}
END_TEST

START_TEST(ports)
{
    /* in al, dx */
    m.gpr[RDX] = 0x3f8;
    m.gpr[RAX] = 0xffff;
    m.port_value = 0x42;
    ck_assert_int_eq(RUN(0xec), INSN_OK);
    ck_assert_uint_eq(m.gpr[RAX], 0xff42);
    ck_assert_uint_eq(m.port, 0x3f8);
    ck_assert_int_eq(RUN(0xe7, 0xf4), INSN_OK); /* out 0xf4, ax */
    ck_assert_uint_eq(m.port_value, 0xff42);
    ck_assert_uint_eq(m.port, 0xf4);
    /* rep insb: the destination is checked before the port is read */
    m.gpr[RCX] = 3;
    m.gpr[RDI] = 0x10;
    m.fault_from = 0x1012;
    m.inputs = 0;
    ck_fault(RUN(0xf3, 0x6c), 14, true, 2);
    ck_assert_uint_eq(m.inputs, 2);
    ck_assert_uint_eq(m.gpr[RCX], 1);
    ck_assert_uint_eq(m.memory[0x1011], 0x42);
    /* outsw */
    m.fault_from = MEMORY;
    m.gpr[RSI] = 0x10;
    put_word(0x1010, 0x1357);
    ck_assert_int_eq(RUN(0x6f), INSN_OK);
    ck_assert_uint_eq(m.port_value, 0x1357);
    ck_assert_uint_eq(m.gpr[RSI], 0x12);
}
END_TEST

START_TEST(ports_privilege)
{
    protected_mode();
    ck_assert_int_eq(RUN(0xec), INSN_OK);
    m.cpu.cpl = 3;
    m.permitted = INSN_ACCESS_FAULT;
    m.inputs = 0;
    ck_fault(RUN(0xec), 13, true, 0);
    ck_assert_uint_eq(m.inputs, 0);
    m.permitted = INSN_ACCESS_OK;
    ck_assert_int_eq(RUN(0xec), INSN_OK);
    m.cpu.rflags |= 3 << 12; /* IOPL 3: the bitmap is not asked */
    m.permitted = INSN_ACCESS_FAULT;
    ck_assert_int_eq(RUN(0xec), INSN_OK);
    m.ops.io_permitted = NULL;
    m.cpu.rflags = 2;
    ck_assert_int_eq(RUN(0xec), INSN_UNSUPPORTED);
}
END_TEST

START_TEST(ports_pending)
{
    m.pending_ports = true;
    m.gpr[RDX] = 0x60;
    m.gpr[RCX] = 2;
    m.gpr[RDI] = 0x10;
    ck_assert_int_eq(RUN(0xf3, 0x6c), INSN_PENDING);
    for (unsigned i = 0; i < 2; i++) {
        struct insn_access *access = &m.replay.access[m.replay.count - 1];

        ck_assert_uint_eq(m.gpr[RCX], 2 - i);
        ck_assert_uint_eq(access->kind, INSN_ACCESS_IN);
        ck_assert_uint_eq(access->address, 0x60);
        ck_assert_uint_eq(access->size, 1);
        ck_assert_uint_eq(access->done, 0);
        access->data[0] = (uint8_t)(0x70 + i);
        access->done = 1;
        ck_assert_int_eq(resume(), i ? INSN_OK : INSN_PENDING);
    }
    ck_assert_uint_eq(word_at(0x1010), 0x7170);
    ck_assert_uint_eq(m.inputs, 2);
    ck_assert_uint_eq(m.gpr[RCX], 0);
    /* Abandoned and something else executed instead. */
    ck_assert_int_eq(RUN(0xec), INSN_PENDING);
    m.replay.count = 0;
    ck_assert_int_eq(RUN(0x90), INSN_OK);
}
END_TEST

/* A log that does not belong to the instruction is refused, not replayed. */
START_TEST(replay_mismatch)
{
    m.pending_ports = true;
    m.gpr[RDX] = 0x60;
    ck_assert_int_eq(RUN(0xec), INSN_PENDING);
    m.replay.access[0].done = 1;
    m.gpr[RDX] = 0x61;
    ck_assert_int_eq(resume(), INSN_UNSUPPORTED);
    ck_assert_uint_eq(m.replay.count, 0);
}
END_TEST

START_TEST(races)
{
    long_mode();
    m.gpr[RBX] = 0x100;
    m.gpr[RAX] = 5;
    m.memory[0x100] = 10;
    m.races = 2;
    ck_assert_int_eq(RUN(0xf0, 0x01, 0x03), INSN_OK); /* lock add [rbx], eax */
    ck_assert_uint_eq(m.memory[0x100], 17);
    ck_assert_uint_eq(m.reads, 1);
    /* xadd: the register gets what was there at last */
    m.races = 3;
    ck_assert_int_eq(RUN(0xf0, 0x0f, 0xc1, 0x03), INSN_OK);
    ck_assert_uint_eq(m.gpr[RAX], 20);
    ck_assert_uint_eq(m.memory[0x100], 25);
    /* cmpxchg that would have succeeded fails if the other is faster */
    m.gpr[RAX] = 25;
    m.gpr[RCX] = 99;
    m.races = 1;
    ck_assert_int_eq(RUN(0xf0, 0x0f, 0xb1, 0x0b), INSN_OK);
    ck_assert_uint_eq(m.cpu.rflags & 0x40, 0);
    ck_assert_uint_eq(m.gpr[RAX], 26);
    ck_assert_uint_eq(m.memory[0x100], 26);
    /* cmpxchg that would have failed succeeds, and the accumulator stays */
    m.gpr[RAX] = 27;
    m.races = 1;
    ck_assert_int_eq(RUN(0xf0, 0x0f, 0xb1, 0x0b), INSN_OK);
    ck_assert_uint_eq(m.cpu.rflags & 0x40, 0x40);
    ck_assert_uint_eq(m.gpr[RAX], 27);
    ck_assert_uint_eq(m.memory[0x100], 99);
    /* never won: nothing has happened */
    m.races = 1000;
    m.cpu.rip = 0x50;
    ck_assert_int_eq(RUN(0xf0, 0x01, 0x03), INSN_AGAIN);
    ck_assert_uint_eq(m.cpu.rip, 0x50);
    ck_assert_uint_eq(m.replay.count, 0);
    m.races = 0;
    m.ops.compare_exchange = NULL;
    m.reads = 0;
    ck_assert_int_eq(RUN(0xf0, 0x01, 0x03), INSN_UNSUPPORTED);
    ck_assert_int_eq(RUN(0x87, 0x03), INSN_UNSUPPORTED); /* xchg locks by itself */
    ck_assert_uint_eq(m.reads, 0);
    ck_assert_int_eq(RUN(0x01, 0x03), INSN_OK);
}
END_TEST

/* A race, and then the access becomes the embedder's: the log holds what was there after the race.
 */
START_TEST(race_then_pending)
{
    long_mode();
    m.gpr[RBX] = 0x100;
    m.gpr[RAX] = 5;
    m.memory[0x100] = 10;
    m.races = 1;
    m.pending_after_race = true;
    ck_assert_int_eq(RUN(0xf0, 0x0f, 0xc1, 0x03), INSN_PENDING);
    ck_assert_uint_eq(m.replay.count, 2);
    ck_assert_uint_eq(m.replay.access[1].kind, INSN_ACCESS_COMPARE_EXCHANGE);
    ck_assert_uint_eq(m.replay.access[1].data[0], 16);
    m.replay.access[1].done = 1;
    ck_assert_int_eq(resume(), INSN_OK);
    ck_assert_uint_eq(m.gpr[RAX], 11);
    ck_assert_uint_eq(m.reads, 1);
}
END_TEST

/* CMPXCHG8B loses a race like the others. */
START_TEST(race_cmpxchg8b)
{
    long_mode();
    m.gpr[RBX] = 1;
    m.gpr[RCX] = 2;
    m.gpr[RSI] = 0x100;
    m.races = 1; /* memory becomes 1, which differs from EDX:EAX = 0 */
    ck_assert_int_eq(RUN(0xf0, 0x0f, 0xc7, 0x0e), INSN_AGAIN);
    ck_assert_uint_eq(m.gpr[RAX], 0);
    ck_assert_int_eq(RUN(0xf0, 0x0f, 0xc7, 0x0e), INSN_OK);
    ck_assert_uint_eq(m.gpr[RAX], 1);
    ck_assert_uint_eq(m.cpu.rflags & 0x40, 0);
    ck_assert_int_eq(RUN(0xf0, 0x0f, 0xc7, 0x0e), INSN_OK);
    ck_assert_uint_eq(m.cpu.rflags & 0x40, 0x40);
    ck_assert_uint_eq(dword_at(0x100), 1);
    ck_assert_uint_eq(dword_at(0x104), 2);
    m.gpr[RSI] = 0x108;
    ck_fault(RUN(0x48, 0x0f, 0xc7, 0x0e), 13, true, 0); /* 16 bytes must be aligned */
}
END_TEST

START_TEST(interrupt_flag)
{
    ck_assert_int_eq(RUN(0xfb), INSN_OK);
    ck_assert_uint_eq(m.cpu.rflags, 0x202);
    ck_assert_uint_eq(m.cpu.shadow, INSN_SHADOW_STI);
    ck_assert_int_eq(RUN(0xfb), INSN_OK); /* IF was set: no shadow */
    ck_assert_uint_eq(m.cpu.shadow, INSN_SHADOW_NONE);
    ck_assert_int_eq(RUN(0xfa), INSN_OK);
    ck_assert_uint_eq(m.cpu.rflags, 2);
    protected_mode();
    m.cpu.cpl = 3;
    ck_fault(RUN(0xfb), 13, true, 0);
    m.cpu.cr4 = 2; /* PVI */
    ck_assert_int_eq(RUN(0xfb), INSN_OK);
    ck_assert_uint_eq(m.cpu.rflags, 2 | 1 << 19);
    m.cpu.rflags |= 1 << 20;
    ck_fault(RUN(0xfb), 13, true, 0);
    m.cpu.rflags = 2 | 3 << 12;
    ck_assert_int_eq(RUN(0xfb), INSN_OK);
    ck_assert_uint_eq(m.cpu.rflags & 0x200, 0x200);
}
END_TEST

/* Intel SDM, "POPF": what it changes depends on CPL and IOPL. */
START_TEST(pop_flags)
{
    static const struct {
        uint8_t cpl, iopl;
        uint64_t result;
    } cases[] = {
        {0, 0, 0x247fd7}, /* all but VM, RF, VIF, VIP */
        {3, 3, 0x247fd7}, /* IF, but IOPL stays (at 3) */
        {3, 0, 0x244dd7}, /* neither */
    };

    for (unsigned i = 0; i < 3; i++) {
        power_on();
        protected_mode();
        m.cpu.cpl = cases[i].cpl;
        m.cpu.rflags = 2 | (uint64_t)cases[i].iopl << 12 | 1 << 16;
        m.gpr[RSP] = 0x100;
        memset(m.memory + 0x100, 0xff, 4);
        ck_assert_int_eq(RUN(0x9d), INSN_OK);
        ck_assert_uint_eq(m.cpu.rflags, cases[i].result);
    }
    power_on();
    m.gpr[RSP] = 0x100;
    m.cpu.rflags = 2 | 1 << 18;
    put_word(0x1100, 0xffff);
    ck_assert_int_eq(RUN(0x9d), INSN_OK); /* 16 bits leave the upper half */
    ck_assert_uint_eq(m.cpu.rflags, 0x47fd7);
    ck_assert_int_eq(RUN(0x9c), INSN_OK);
    ck_assert_uint_eq(word_at(0x1100), 0x7fd7);
    /* Virtual-8086 mode with IOPL below 3. */
    m.cpu.cr0 = 1;
    m.cpu.cpl = 3;
    m.cpu.rflags = 2 | 1 << 17;
    ck_fault(RUN(0x9c), 13, true, 0);
    ck_fault(RUN(0x9d), 13, true, 0);
}
END_TEST

START_TEST(tables)
{
    static const uint8_t pointer[6] = {0xff, 0x07, 0x78, 0x56, 0x34, 0x12};

    memcpy(m.memory + 0x1000, pointer, 6);
    ck_assert_int_eq(RUN(0x0f, 0x01, 0x16, 0, 0), INSN_OK); /* lgdt [0] */
    ck_assert_uint_eq(m.cpu.gdtr.limit, 0x7ff);
    ck_assert_uint_eq(m.cpu.gdtr.base, 0x345678);                 /* 24 bits with 16-bit operands */
    ck_assert_int_eq(RUN(0x66, 0x0f, 0x01, 0x1e, 0, 0), INSN_OK); /* lidt [0] */
    ck_assert_uint_eq(m.cpu.idtr.base, 0x12345678);
    ck_assert_int_eq(RUN(0x0f, 0x01, 0x0e, 0x20, 0), INSN_OK); /* sidt [0x20] */
    ck_assert_mem_eq(m.memory + 0x1020, pointer, 6);
    protected_mode();
    m.cpu.cr0 = 0x80000011;
    ck_assert_int_eq(RUN(0x0f, 0x01, 0xe0), INSN_OK); /* smsw eax */
    ck_assert_uint_eq(m.gpr[RAX], 0x80000011);
    m.cpu.cpl = 3;
    ck_fault(RUN(0x0f, 0x01, 0x13), 13, true, 0); /* lgdt */
    ck_assert_int_eq(RUN(0x0f, 0x01, 0xe0), INSN_OK);
    m.cpu.cr4 = 1 << 11; /* UMIP */
    ck_fault(RUN(0x0f, 0x01, 0xe0), 13, true, 0);
    ck_fault(RUN(0x0f, 0x01, 0x03), 13, true, 0);
}
END_TEST

START_TEST(handed_out)
{
    static const uint8_t codes[][3] = {
        {0x0f, 0xa2, 0}, {0x0f, 0x30, 0}, {0xf4, 0, 0}, {0x0f, 0x22, 0xd8}, {0x0f, 0x01, 0xd9}};
    struct insn_cpu before;

    long_mode();
    for (unsigned i = 0; i < 5; i++) {
        uint8_t bytes[16] = {0};

        memcpy(bytes, codes[i], 3);
        before = m.cpu;
        ck_assert_int_eq(insn_decode(&m.insn, bytes, 15, INSN_64), INSN_OK);
        ck_assert_int_eq(resume(), INSN_SYSTEM);
        ck_assert_mem_eq(&before, &m.cpu, sizeof(before));
        m.cpu.cpl = 3;
        if (codes[i][1] == 0xa2 || codes[i][1] == 1) /* CPUID, VMMCALL */
            ck_assert_int_eq(resume(), INSN_SYSTEM);
        else
            ck_fault(resume(), 13, true, 0);
        m.cpu.cpl = 0;
    }
    m.ops.in = NULL;
    m.ops.out = NULL;
    m.gpr[RCX] = 1;
    ck_assert_int_eq(RUN(0xec), INSN_SYSTEM);       /* in al, dx */
    ck_assert_int_eq(RUN(0xe7, 0x80), INSN_SYSTEM); /* out 0x80, eax */
    ck_assert_int_eq(RUN(0xf3, 0x6e), INSN_SYSTEM); /* rep outsb */
    m.gpr[RCX] = 0;
    ck_assert_int_eq(RUN(0xf3, 0x6e), INSN_OK);
    m.memory[0x200] = 0x0b;
    m.gpr[RBX] = 0x200;
    ck_assert_int_eq(RUN(0x0f, 0x01, 0x33), INSN_SYSTEM); /* lmsw [rbx] */
    ck_assert_uint_eq(m.cpu.operand, 0x0b);
    ck_assert_int_eq(RUN(0x0f, 0x01, 0x7b, 0x10), INSN_SYSTEM); /* invlpg [rbx + 16] */
    ck_assert_uint_eq(m.cpu.operand, 0x210);
    ck_fault(RUN(0x0f, 0x01, 0xd0), 6, false, 0); /* xgetbv without CR4.OSXSAVE */
    m.cpu.cpl = 3;
    m.cpu.cr4 = 1 << 2;                       /* TSD */
    ck_fault(RUN(0x0f, 0x31), 13, true, 0);   /* rdtsc */
    ck_fault(RUN(0x0f, 0x33), 13, true, 0);   /* rdpmc without PCE */
    m.cpu.cr4 = 1 << 8;
    ck_assert_int_eq(RUN(0x0f, 0x31), INSN_SYSTEM);
    ck_assert_int_eq(RUN(0x0f, 0x33), INSN_SYSTEM);
    ck_fault(RUN(0x0f, 0x0b), 6, false, 0);
}
END_TEST

/* Nothing is left of an instruction that faults halfway. */
START_TEST(all_or_nothing)
{
    struct insn_cpu before;
    uint64_t gpr[16];

    protected_mode();
    m.gpr[RSP] = 0x20;
    m.fault_from = 0x1000;
    m.gpr[RBX] = 0xfff;
    before = m.cpu;
    memcpy(gpr, m.gpr, sizeof(gpr));
    ck_fault(RUN(0x8f, 0x03), 14, true, 2); /* pop [ebx] */
    ck_assert_mem_eq(gpr, m.gpr, sizeof(gpr));
    ck_fault(RUN(0x01, 0x03), 14, true, 2); /* add [ebx], eax */
    ck_assert_mem_eq(gpr, m.gpr, sizeof(gpr));
    ck_assert_mem_eq(&before, &m.cpu, sizeof(before));
    /* pop [esp+4]: the address is computed with the new ESP */
    m.memory[0x20] = 0x77;
    ck_assert_int_eq(RUN(0x8f, 0x44, 0x24, 0x04), INSN_OK);
    ck_assert_uint_eq(m.memory[0x28], 0x77);
    ck_assert_uint_eq(m.gpr[RSP], 0x24);
}
END_TEST

int main(void)
{
    const TTest *const all[] = {real_mode_addresses,
                                real_mode_limits,
                                real_mode_stack,
                                real_mode_far,
                                real_mode_interrupt,
                                real_mode_segments,
                                protected_segments,
                                protected_segment_loads,
                                descriptor_loads,
                                descriptor_transfers,
                                descriptor_modes,
                                long_mode_canonical,
                                addresses_without_execution,
                                repeat_bounded,
                                ports,
                                ports_privilege,
                                ports_pending,
                                replay_mismatch,
                                races,
                                race_then_pending,
                                race_cmpxchg8b,
                                interrupt_flag,
                                pop_flags,
                                tables,
                                handed_out,
                                all_or_nothing};
    Suite *suite = suite_create("insn_modes");
    TCase *tests = tcase_create("modes");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tests, power_on, NULL);
    for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        tcase_add_test(tests, all[i]);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
