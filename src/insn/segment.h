/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Descriptors, as the parts of the executor that deal with protected mode share them. Private.
 */
#ifndef VIRTX_INSN_SEGMENT_H
#define VIRTX_INSN_SEGMENT_H

#include "insn/exec.h"

enum {
    VECTOR_TS = 10,
    VECTOR_NP = 11,
    /* In the format of struct insn_seg. */
    AR_ACCESSED = 1 << 0,
    AR_BUSY = 1 << 1,  /* of a TSS */
    AR_WRITE = 1 << 1, /* data: writable; code: readable */
    AR_CONFORMING = 1 << 2,
    AR_CODE = 1 << 3,
    AR_TYPE = 15,
    AR_USER = 1 << 4, /* not a system descriptor */
    AR_DPL = 3 << 5,
    AR_PRESENT = 1 << 7,
    AR_LONG = 1 << 13,
    AR_BIG = 1 << 14,
    AR_GRANULAR = 1 << 15,
    AR_UNUSABLE = 1 << 16,
    EFER_LMA = 1 << 10,
    STAGED_LDTR = 6, /* beside enum insn_segment in exec.segments */
    STAGED_TR = 7,
};

/* System descriptor types; bit 3: 32 or 64 bits rather than 16. */
enum {
    TYPE_TSS_16 = 1,
    TYPE_LDT = 2,
    TYPE_CALL_GATE_16 = 4,
    TYPE_TASK_GATE = 5,
    TYPE_INTERRUPT_16 = 6,
    TYPE_TRAP_16 = 7,
    TYPE_TSS = 9,
    TYPE_CALL_GATE = 12,
    TYPE_INTERRUPT = 14,
    TYPE_TRAP = 15,
};

/* A descriptor as it was read. */
struct descriptor {
    uint64_t low, high; /* high: the second half of a system descriptor in long mode, or 0 */
    uint64_t linear;
    struct insn_seg seg; /* of a gate only the attributes mean something */
};

/* A stack that is not the present one, or will not be. */
struct stack {
    struct insn_seg seg;
    uint64_t top;
    unsigned width; /* of addresses: 2, 4, 8 */
    unsigned flags; /* of its accesses */
    uint32_t code;  /* of its #SS */
};

static inline bool long_mode(const struct exec *exec)
{
    return exec->cpu->efer & EFER_LMA;
}

static inline unsigned dpl(const struct insn_seg *seg)
{
    return (seg->attributes & AR_DPL) >> 5;
}

/* Bits of the selector that error codes carry: all but the RPL. */
static inline uint32_t code_of(uint16_t selector)
{
    return selector & 0xfffcu;
}

static inline bool is_null(uint16_t selector)
{
    return !(selector & 0xfffc);
}

static inline bool is_writable_data(const struct insn_seg *seg)
{
    return (seg->attributes & (AR_USER | AR_CODE | AR_WRITE)) == (AR_USER | AR_WRITE);
}

static inline bool is_code(const struct insn_seg *seg)
{
    return (seg->attributes & (AR_USER | AR_CODE)) == (AR_USER | AR_CODE);
}

/* A system descriptor's type, or 0 for code and data. */
static inline unsigned system_type(const struct insn_seg *seg)
{
    return seg->attributes & AR_USER ? 0 : seg->attributes & AR_TYPE;
}

/* exec_descriptor.c. An exception for a descriptor out of bounds is `vector`(selector | ext). */
enum insn_result read_descriptor(struct exec *exec, uint16_t selector, unsigned vector,
                                 unsigned ext, struct descriptor *out);
enum insn_result mark_accessed(struct exec *exec, struct descriptor *descriptor);
enum insn_result write_type(struct exec *exec, const struct descriptor *descriptor,
                            uint32_t attributes);
void load_null(struct exec *exec, unsigned segment, uint16_t selector, unsigned cpl);
/* The mode that a code segment runs in. */
uint8_t mode_of(const struct exec *exec, const struct insn_seg *seg);
/* Stages CS:rIP, already judged; #GP(ext) if the offset lies outside. */
enum insn_result stage_code(struct exec *exec, struct descriptor *descriptor, uint64_t offset,
                            unsigned cpl, unsigned ext);

/* exec_stack.c */
enum insn_result push_on(struct exec *exec, struct stack *stack, uint64_t value, unsigned size);
void stage_stack(struct exec *exec, const struct stack *stack);

/* exec_gate.c: where an inner privilege level, or an interrupt-stack-table entry, has its stack. */
enum insn_result inner_stack(struct exec *exec, unsigned cpl, unsigned ist, unsigned ext,
                             struct stack *stack);
enum insn_result far_system(struct exec *exec, struct descriptor *descriptor, uint16_t selector,
                            uint64_t next);

/* exec_task.c */
enum task_source { TASK_CALL, TASK_IRET, TASK_JMP, TASK_GATE };
enum insn_result task_switch(struct exec *exec, struct descriptor *tss, uint16_t selector,
                             enum task_source source, uint64_t rip, unsigned ext,
                             const uint32_t *error);
enum insn_result task_by_gate(struct exec *exec, uint16_t selector, enum task_source source,
                              uint64_t rip, unsigned ext, const uint32_t *error);
enum insn_result task_return(struct exec *exec);

#endif
