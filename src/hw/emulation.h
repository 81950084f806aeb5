/* SPDX-License-Identifier: BSD-2-Clause */
/* What is remembered of an instruction that the library executes for the guest. */
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

/* A decoded instruction and the bytes that it was decoded from, compared under the masks. */
#define HW_DECODED_LINES 8u
#define HW_DECODED_NONE 0u /* a mode that matches nothing: a line begins as zeros */
struct hw_decoded {
    uint64_t low, high;           /* bytes 0-7 and 7-14 */
    uint64_t low_mask, high_mask; /* of the bytes that belong to the instruction */
    uint32_t mode;     /* enum insn_mode, plus one */
    struct hw_mov mov; /* what the instruction comes to, if it is simple */
    struct insn insn;
};

/* One access of the instruction, cut into pieces that each lie within a page and, where they meet a
 * device, have a size a bus knows. */
struct hw_access {
    uint64_t linear;
    uint8_t size;
    uint8_t done;    /* bytes already moved */
    uint8_t piece;   /* bytes of the piece that waits for the embedder */
    bool write;
    bool probed;     /* all pages have been found to allow it */
    uint8_t flags;   /* enum insn_access_flags */
    uint8_t data[16];
};

struct hw_emulation {
    struct insn insn;
    struct insn_cpu cpu;
    struct insn_replay replay;
    struct hw_access access;
    bool forbidden;      /* an access met a slot that does not allow it */
    bool injected;       /* a handler has queued the exception itself */
    bool stopped;        /* an access meets what is not memory and not a device */
    uint8_t bytes[16];
    uint8_t got;
    struct hw_decoded decoded[HW_DECODED_LINES];
};

/* execute.c */
bool hw_execute_insn(struct hw_vcpu *hv, const struct insn *insn, const uint8_t *bytes,
                     unsigned got, enum virtx_status *status);
enum virtx_status hw_execute_continue(struct hw_vcpu *hv);
bool hw_emulation_exit(struct hw_vcpu *hv, const uint8_t *bytes, unsigned got);
bool hw_memory_exit(struct hw_vcpu *hv); /* mmio.c */
/* The memory operand's linear address within its page. */
uint64_t hw_operand_offset(struct hw_vcpu *hv, const struct insn *insn);

#endif
