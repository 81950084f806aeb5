/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the parts of the executor share: one instruction in progress, its accesses and its staged
 * results. Private.
 */
#ifndef VIRTX_INSN_EXEC_H
#define VIRTX_INSN_EXEC_H

#include "insn/execute.h"

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI };

enum {
    FLAG_CF = 1u << 0,
    FLAG_PF = 1u << 2,
    FLAG_AF = 1u << 4,
    FLAG_ZF = 1u << 6,
    FLAG_SF = 1u << 7,
    FLAG_TF = 1u << 8,
    FLAG_IF = 1u << 9,
    FLAG_DF = 1u << 10,
    FLAG_OF = 1u << 11,
    FLAG_IOPL = 3u << 12,
    FLAG_NT = 1u << 14,
    FLAG_RF = 1u << 16,
    FLAG_VM = 1u << 17,
    FLAG_AC = 1u << 18,
    FLAG_VIF = 1u << 19,
    FLAG_VIP = 1u << 20,
    FLAG_ID = 1u << 21,
    FLAGS_STATUS = FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF,
};

enum {
    VECTOR_DE = 0,
    VECTOR_DB = 1,
    VECTOR_BP = 3,
    VECTOR_OF = 4,
    VECTOR_BR = 5,
    VECTOR_UD = 6,
    VECTOR_NM = 7,
    VECTOR_SS = 12,
    VECTOR_GP = 13,
};

enum {
    CR0_PE = 1u << 0,
    CR0_EM = 1u << 2,
    CR4_OSFXSR = 1u << 9,
    CR4_VME = 1u << 0,
    CR4_PVI = 1u << 1,
    CR0_TS = 1u << 3,
    CR4_TSD = 1u << 2,
    CR4_UMIP = 1u << 11,
    CR4_LA57 = 1u << 12,
    CR4_FSGSBASE = 1u << 16,
    CR4_OSXSAVE = 1u << 18,
    CR4_CET = 1u << 23,
};

/* Most registers one instruction writes: POPA. */
enum { STAGED_MAX = 9 };

/* One instruction in progress. Results are staged and reach the CPU at the end, all or none. */
struct exec {
    const struct insn *insn;
    struct insn_cpu *cpu;
    const struct insn_ops *ops;
    void *context;
    struct insn_replay *replay;
    struct insn_fault *fault;
    unsigned position;   /* in the replay log */
    unsigned iterations; /* left */
    uint64_t rip;        /* staged: of the next instruction */
    uint64_t flags;      /* staged RFLAGS */
    unsigned staged;     /* general registers in value, by bits of the mask */
    uint16_t written;    /* which ones */
    uint8_t shadow;
    uint8_t mode;       /* staged enum insn_mode */
    uint8_t cpl;        /* staged */
    bool task_switched; /* CR0.TS is to be set */
    bool committed;     /* what is staged becomes the state even if a fault follows */
    uint8_t segments;   /* staged segment registers, a bit mask; 6: LDTR, 7: TR */
    uint64_t value[16];
    struct insn_seg seg[INSN_SEGMENTS];
    struct insn_seg ldtr, tr;
};

/* A step of an operation that computes a destination from itself and a source. It reads flags from
   exec->cpu and stages new ones; it may run again if a locked access raced. */
typedef uint64_t (*compute_fn)(struct exec *exec, uint64_t destination, uint64_t source,
                               unsigned size);

typedef enum insn_result (*execute_fn)(struct exec *exec);

/* sizes are 1, 2, 4, 8 */
static inline unsigned bits_of(unsigned size)
{
    return size * 8;
}

static inline uint64_t mask_of(unsigned size)
{
    return ~0ull >> (64 - size * 8);
}

static inline uint64_t sign_of(unsigned size)
{
    return 1ull << (size * 8 - 1);
}

static inline uint64_t sign_extend(uint64_t value, unsigned size)
{
    uint64_t sign = sign_of(size);

    return ((value & mask_of(size)) ^ sign) - sign;
}

static inline uint64_t read_gpr(const struct exec *exec, unsigned reg, unsigned size)
{
    return exec->cpu->gpr[reg] & mask_of(size);
}

/* Stage a general register: 32-bit results are zero-extended, smaller ones merged. */
static inline void stage_gpr(struct exec *exec, unsigned reg, unsigned size, uint64_t value)
{
    uint64_t old = exec->written >> reg & 1 ? exec->value[reg] : exec->cpu->gpr[reg];

    value &= mask_of(size);
    if (size < 4)
        value |= old & ~mask_of(size);
    exec->value[reg] = value;
    exec->written = (uint16_t)(exec->written | 1u << reg);
}

static inline void stage_flags(struct exec *exec, uint64_t which, uint64_t value)
{
    exec->flags = (exec->flags & ~which) | (value & which);
}

static inline bool real_mode(const struct insn_cpu *cpu)
{
    return !(cpu->cr0 & CR0_PE);
}

static inline bool virtual_8086(const struct insn_cpu *cpu)
{
    return (cpu->rflags & FLAG_VM) && !real_mode(cpu);
}

/* Segment registers are just base addresses. */
static inline bool real_segments(const struct insn_cpu *cpu)
{
    return real_mode(cpu) || virtual_8086(cpu);
}

/* execute.c */
enum insn_result raise(struct exec *exec, unsigned vector); /* without error code */
enum insn_result raise_code(struct exec *exec, unsigned vector, uint32_t code);
enum insn_result read_memory(struct exec *exec, uint64_t linear, void *data, unsigned size,
                             unsigned flags);
enum insn_result write_memory(struct exec *exec, uint64_t linear, const void *data, unsigned size,
                              unsigned flags);
enum insn_result compare_exchange(struct exec *exec, uint64_t linear, void *expected,
                                  const void *desired, unsigned size);
/* More than one access can have, in pieces. */
enum insn_result move_block(struct exec *exec, uint64_t linear, void *data, unsigned size,
                            bool write, unsigned flags);
/* Keeps what an instruction that is executed again is to find as it was. */
enum insn_result log_value(struct exec *exec, unsigned address, void *data, unsigned size);
enum insn_result port_in(struct exec *exec, uint16_t port, void *data, unsigned size);
enum insn_result port_out(struct exec *exec, uint16_t port, const void *data, unsigned size);
void commit(struct exec *exec);

/* operand.c */
enum insn_result read_operand(struct exec *exec, unsigned index, uint64_t *value);
enum insn_result write_operand(struct exec *exec, unsigned index, uint64_t value);
enum insn_result execute_modify(struct exec *exec, compute_fn compute);
/* The checked linear address of the memory operand. */
enum insn_result operand_address(struct exec *exec, unsigned size, bool write, uint64_t *linear);

/* address.c: segmentation. The checked linear address of size bytes at offset. */
enum insn_result segment_address(struct exec *exec, unsigned segment, uint64_t offset,
                                 unsigned size, bool write, uint64_t *linear);
bool canonical(const struct insn_cpu *cpu, uint64_t address);
/* The segment's limit and type allow it. */
bool segment_covers(const struct insn_seg *seg, uint64_t offset, unsigned size, bool write);

/* flags.c */
bool condition(uint64_t flags, unsigned code);
void stage_result_flags(struct exec *exec, uint64_t result, unsigned size, uint64_t others);
uint64_t poppable_flags(const struct exec *exec, unsigned size);

/* exec_stack.c: rSP is staged, so that several in a row work. */
enum insn_result push_value(struct exec *exec, uint64_t value, unsigned size);
enum insn_result pop_value(struct exec *exec, uint64_t *value, unsigned size);

/* exec_*.c: operations. */
compute_fn compute_of(unsigned op);
unsigned stack_size(const struct exec *exec); /* of addresses: 2, 4, 8 */
/* A segment load can be done at all; asked before the first access of an instruction. */
bool can_load_segment(const struct exec *exec);
enum insn_result load_segment(struct exec *exec, unsigned segment, uint16_t selector);
enum insn_result probe_write(struct exec *exec, uint64_t linear, unsigned size);
/* Stage RIP after checking it against CS, or for canonical form. */
enum insn_result near_target(struct exec *exec, uint64_t target);
enum insn_result execute_move(struct exec *exec);
enum insn_result execute_xlat(struct exec *exec);
enum insn_result execute_convert(struct exec *exec);
enum insn_result execute_conditional(struct exec *exec);
enum insn_result execute_scan(struct exec *exec);
enum insn_result execute_multiply(struct exec *exec);
enum insn_result execute_divide(struct exec *exec);
enum insn_result execute_bcd(struct exec *exec);
enum insn_result execute_flags(struct exec *exec);
enum insn_result execute_string(struct exec *exec);
enum insn_result execute_io(struct exec *exec);
enum insn_result check_io(struct exec *exec, uint16_t port, unsigned size);
enum insn_result execute_push(struct exec *exec);
enum insn_result execute_pop(struct exec *exec);
enum insn_result execute_frame(struct exec *exec);
enum insn_result execute_branch(struct exec *exec);
enum insn_result execute_far(struct exec *exec);
enum insn_result jump_far(struct exec *exec, uint16_t selector, uint64_t offset);
enum insn_result execute_far_protected(struct exec *exec);
enum insn_result load_descriptor(struct exec *exec, unsigned segment, uint16_t selector);
enum insn_result load_data(struct exec *exec, unsigned segment, uint16_t selector, unsigned vector);
/* As virtual-8086 mode has its segments. */
void load_virtual(struct exec *exec, unsigned segment, uint16_t selector);
enum insn_result execute_descriptor(struct exec *exec);
enum insn_result read_far(struct exec *exec, unsigned index, uint64_t *offset, uint16_t *selector);
enum insn_result execute_interrupt(struct exec *exec);
/* exec_virtual.c: where the TSS has its I/O permission map, above the redirection map; #GP if it
 * cannot have one. */
enum insn_result read_io_map(struct exec *exec, uint16_t *map);
/* Virtual-8086 mode with IOPL below 3. */
bool virtual_restricted(const struct exec *exec);
/* PUSHF, POPF and IRET of this size are allowed there at all. */
enum insn_result virtual_flags(struct exec *exec, unsigned size);
/* What PUSHF pushes, and what POPF and IRET make of an image. */
uint64_t virtual_image(const struct exec *exec);
enum insn_result virtual_pop(struct exec *exec, uint64_t image);
/* INT n in virtual-8086 mode. */
enum insn_result virtual_interrupt(struct exec *exec, const struct insn_event *event);
enum insn_result deliver(struct exec *exec, const struct insn_event *event, uint64_t rip);
enum insn_result execute_system(struct exec *exec);
enum insn_result execute_virtualization(struct exec *exec);
enum insn_result execute_vector(struct exec *exec);
/* False: it is none of x87, FXSAVE and its relatives. */
bool execute_x87(struct exec *exec, enum insn_result *result);
/* False: it is none of XSAVE and its relatives. */
bool execute_xsave(struct exec *exec, enum insn_result *result);
/* False: it is none of MMX that moves data. */
bool execute_mmx(struct exec *exec, enum insn_result *result);
/* False: it is none that exec_sse.c knows. */
bool execute_sse(struct exec *exec, enum insn_result *result);
/* The registers that ModRM names. */
static inline unsigned modrm_reg(const struct insn *insn)
{
    return (insn->modrm >> 3 & 7u) | (insn->rex & 4u) << 1;
}
static inline unsigned modrm_rm(const struct insn *insn)
{
    return (insn->modrm & 7u) | (insn->rex & 1u) << 3;
}
/* 16 bytes of a vector register; and of ModRM.rm, which may be memory. */
enum insn_result sse_access(struct exec *exec, unsigned reg, uint64_t *value, bool write);
enum insn_result sse_source(struct exec *exec, uint64_t *value);
/* exec_packed.c; NULL: it is none of its own. */
const struct packed_form *packed_form(const struct insn *insn);
enum insn_result execute_packed(struct exec *exec, const struct packed_form *form);
/* False: it is none of BMI1 and BMI2. */
bool execute_bmi(struct exec *exec, enum insn_result *result);
enum insn_result execute_system_call(struct exec *exec);
enum insn_result execute_segment_base(struct exec *exec);
enum insn_result execute_access_flag(struct exec *exec);
enum insn_result execute_segment(struct exec *exec);
enum insn_result execute_table(struct exec *exec);
enum insn_result execute_cmpxchg8b(struct exec *exec);

#endif
