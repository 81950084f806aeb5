/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What is remembered of an instruction that the library looks at or executes for the guest.
 */
#ifndef VIRTX_HW_EMULATION_H
#define VIRTX_HW_EMULATION_H

#include "hw/service.h"
#include "insn/execute.h"
#include "insn/insn.h"

enum hw_mov_kind {
    HW_MOV_WRITE, /* from a register but RSP */
    HW_MOV_WRITE_RSP,
    HW_MOV_IMMEDIATE, /* of an immediate value */
    HW_MOV_READ,      /* zero-extended into all of a register but RSP */
    HW_MOV_READ_PART, /* into a part of a register, or RSP */
    HW_MOV_SIGN,      /* with sign extension */
};

/*
 * A decoded instruction, the bytes that it was decoded from, compared under the masks, and how they
 * were found (code.c).
 */
#define HW_LINES     16u
#define HW_LINE_NONE BIT(63) /* no register has this key: the bytes have to be found anew */
struct hw_line {
    _Alignas(256) uint64_t rip;
    struct hw_code code;
    const uint8_t *bytes; /* where they were; to be read if `memo` holds */
    struct walk_memo memo;
    uint64_t low, high;           /* bytes 0-7 and 7-14 */
    uint64_t low_mask, high_mask; /* of the bytes that belong to the instruction */
    struct hw_mov mov;            /* what the instruction comes to, if it is simple */
    uint32_t mode;   /* enum insn_mode, plus one; 0, as in a new line: no bytes to compare */
    uint32_t result; /* INSN_OK or INSN_UNKNOWN */
    struct insn insn;
};

/* Why there is no instruction. Filled in only then. */
struct hw_fetch {
    enum insn_result result; /* the decoder's answer to … */
    uint8_t bytes[INSN_MAX_LENGTH];
    uint8_t got;                  /* … so many bytes */
    enum hw_access_result access; /* why there were no more */
    struct virtx_event event;     /* with HW_ACCESS_FAULT */
};

/* One access of the instruction, cut into pieces that each lie within a page and, where they meet a
 * device, have a size a bus knows. */
struct hw_access {
    uint64_t linear;
    uint64_t gpa[2]; /* once probed: of its first byte, and of the next page if it goes on there */
    uint8_t size;
    uint8_t done;  /* bytes already moved */
    uint8_t piece; /* bytes of the piece that waits for the embedder */
    bool write;
    bool probed;   /* all pages have been found to allow it */
    bool port;     /* it is a port's, in one piece */
    uint8_t flags; /* enum insn_access_flags */
    uint8_t data[16];
};

struct hw_emulation {
    struct insn insn;
    struct insn_cpu cpu;
    struct insn_replay replay;
    struct hw_access access;
    bool forbidden; /* an access met a slot that does not allow it, or a walk a hole: hv->fault */
    bool injected;  /* a handler has queued the exception itself */
    uint8_t
        answers; /* of the loop, since run began the instruction; counted as far as they matter */
    struct insn_msrs msrs;
    bool has_msrs; /* in use by the instruction */
    bool ports;    /* the instruction's ports are reached through the executor */
    /* breakpoint.c: the guest's, if any is on; and which of them the instruction has met, as in DR6
     */
    uint32_t dr7;
    uint32_t met;
    bool any; /* system instructions too: nobody else will execute them */
    struct hw_line line[HW_LINES];
};

/* Whether the line is about these bytes, of which there are 15. */
static inline __attribute__((always_inline)) bool hw_line_bytes(const struct hw_line *line,
                                                                const uint8_t *bytes)
{
    uint64_t low, high;

    __builtin_memcpy(&low, bytes, sizeof(low));
    __builtin_memcpy(&high, bytes + 7, sizeof(high));
    return !((low ^ line->low) & line->low_mask) && !((high ^ line->high) & line->high_mask);
}

/* The line for RIP, which is always valid after an exit. Compilers would compute its address again
 * and again from the index. */
static inline struct hw_line *hw_line_at(struct hw_vcpu *hv)
{
    struct hw_emulation *em = hv->emulation;
    struct hw_line *line = &em->line[hv->state.rip % HW_LINES];

    __asm__("" : "+r"(line));
    return line;
}

/* Whether the line is about the instruction at RIP; `*code` is filled in where that can be. */
static inline __attribute__((always_inline)) bool
hw_line_holds(struct hw_vcpu *hv, const struct hw_line *line, struct hw_code *code)
{
    code->key = HW_LINE_NONE;
    if (unlikely(hv->dirty & (VIRTX_STATE_SEG | VIRTX_STATE_CR)))
        return false;
    *code = hv->ops->code(hv);
    return line->rip == hv->state.rip && line->code.key == code->key &&
           line->code.cr3 == code->cr3 && walk_memo_holds(&line->memo, hv->vcpu->vm) &&
           hw_line_bytes(line, line->bytes);
}

/* code.c: the instruction at RIP, decoded; NULL: *fetch says why there is none. Good until the next
 * call. */
const struct hw_line *hw_code(struct hw_vcpu *hv, struct hw_fetch *fetch);

void hw_code_reset(struct hw_emulation *em); /* once, before all else */

/* access.c */
extern const struct insn_ops hw_insn_ops;
extern const struct insn_ops
    hw_insn_port_ops; /* for string port access, to memory that is a device */
/* Moves on with the access in progress until it is done or must wait. */
enum insn_access_result hw_access_advance(struct hw_vcpu *hv, struct insn_fault *fault);

/* registers.c */
void hw_registers_out(struct hw_vcpu *hv, struct insn_cpu *cpu);
void hw_registers_in(struct hw_vcpu *hv, const struct insn_cpu *cpu);
/* What else retiring an instruction does. `trap`: TF was set. */
void hw_retired(struct hw_vcpu *hv, const struct insn_cpu *cpu, bool trap);

/* breakpoint.c: before an instruction; at an access of it, if hw_emulation.dr7; and behind it. */
void hw_watch_begin(struct hw_vcpu *hv);
void hw_watch_data(struct hw_vcpu *hv, uint64_t linear, unsigned size, bool write);
void hw_watch_port(struct hw_vcpu *hv, uint16_t port, unsigned size);
void hw_watch_end(struct hw_vcpu *hv, bool step);
/* The instruction at RIP, which the processor has not looked at, has a breakpoint: #DB is queued.
 */
bool hw_code_breakpoint(struct hw_vcpu *hv);

/* execute.c */
/* An exception arises. In place of the processor, the executor asks the intercepts. As hw_exit().
 */
bool hw_raise_fault(struct hw_vcpu *hv, const struct insn_fault *fault, enum virtx_status *status);
bool hw_execute_insn(struct hw_vcpu *hv, const struct insn *insn, enum virtx_status *status);
enum virtx_status hw_execute_continue(struct hw_vcpu *hv);
/* INS or OUTS whose memory is a device. */
bool hw_execute_string_io(struct hw_vcpu *hv, const struct insn *insn, enum virtx_status *status);
/* hw_execute(), system instructions included. */
bool hw_execute_any(struct hw_vcpu *hv, enum virtx_status *status);
/* interpret.c: an intercept wants an instruction that the executor would do by itself; and
 * an instruction that is an exit. `operand`: its value, or linear address. As hw_exit(). */
bool hw_instruction_wanted(struct hw_vcpu *hv, const struct insn *insn);
bool hw_system_instruction(struct hw_vcpu *hv, const struct insn *insn, uint64_t operand,
                           enum virtx_status *status);
bool hw_emulation_exit(struct hw_vcpu *hv, const uint8_t *bytes, unsigned got);
bool hw_memory_exit(struct hw_vcpu *hv); /* mmio.c */
/* The memory operand's linear address within its page. */
uint64_t hw_operand_offset(struct hw_vcpu *hv, const struct insn *insn);

#endif
