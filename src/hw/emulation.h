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
    HW_MOV_NONE,      /* not one of these: the executor's */
    HW_MOV_WRITE,     /* from a register */
    HW_MOV_IMMEDIATE, /* of an immediate value */
    HW_MOV_READ,      /* into a register, the others too */
    HW_MOV_SIGN,      /* with sign extension */
};

/*
 * A decoded instruction, the bytes that it was decoded from, compared under the masks, and how they
 * were found (code.c).
 */
#define HW_LINES 8u
struct hw_line {
    uint64_t rip;
    struct hw_code code;  /* key 0: the bytes have to be found anew */
    const uint8_t *bytes; /* where they were; to be read if `memo` holds */
    struct walk_memo memo;
    uint64_t low, high;           /* bytes 0-7 and 7-14 */
    uint64_t low_mask, high_mask; /* of the bytes that belong to the instruction */
    struct hw_mov mov;            /* what the instruction comes to, if it is simple */
    uint32_t mode; /* enum insn_mode, plus one; 0, as in a new line: no bytes to compare */
    uint32_t result;              /* INSN_OK or INSN_UNKNOWN */
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
    uint8_t size;
    uint8_t done;  /* bytes already moved */
    uint8_t piece; /* bytes of the piece that waits for the embedder */
    bool write;
    bool probed;   /* all pages have been found to allow it */
    uint8_t flags; /* enum insn_access_flags */
    uint8_t data[16];
};

struct hw_emulation {
    struct insn insn;
    struct insn_cpu cpu;
    struct insn_replay replay;
    struct hw_access access;
    bool forbidden; /* an access met a slot that does not allow it */
    bool injected;  /* a handler has queued the exception itself */
    bool stopped;   /* an access meets what is not memory and not a device */
    bool any;       /* system instructions too: nobody else will execute them */
    struct hw_line line[HW_LINES];
};

/* code.c: the instruction at RIP, decoded; NULL: *fetch says why there is none. Good until the next
 * call. */
const struct hw_line *hw_code(struct hw_vcpu *hv, struct hw_fetch *fetch);

/* execute.c */
bool hw_execute_insn(struct hw_vcpu *hv, const struct insn *insn, enum virtx_status *status);
enum virtx_status hw_execute_continue(struct hw_vcpu *hv);
/* hw_execute(), system instructions included. */
bool hw_execute_any(struct hw_vcpu *hv, enum virtx_status *status);
/* interpret.c: an instruction that is an exit. `operand`: its value, or linear address. As hw_exit(). */
bool hw_system_instruction(struct hw_vcpu *hv, const struct insn *insn, uint64_t operand,
                           enum virtx_status *status);
bool hw_emulation_exit(struct hw_vcpu *hv, const uint8_t *bytes, unsigned got);
bool hw_memory_exit(struct hw_vcpu *hv); /* mmio.c */
/* The memory operand's linear address within its page. */
uint64_t hw_operand_offset(struct hw_vcpu *hv, const struct insn *insn);

#endif
