/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Executing a decoded instruction on registers, memory and ports that the caller supplies.
 *
 * An instruction either retires, changing registers as the manuals say, or leaves every register
 * as it was (a repeated string instruction: as it was after its last whole iteration). What is not
 * modelled is refused as INSN_UNSUPPORTED before anything has been accessed.
 */
#ifndef VIRTX_INSN_EXECUTE_H
#define VIRTX_INSN_EXECUTE_H

#include "insn/insn.h"

/** A segment register with its hidden part. */
struct insn_seg {
    uint64_t base;
    uint32_t limit;      /**< in bytes, granularity applied */
    uint32_t attributes; /**< in the VMCS access-rights format, bit 16: unusable */
    uint16_t selector;
};

/** GDTR or IDTR. */
struct insn_table {
    uint64_t base;
    uint16_t limit;
};

/** The MSRs behind system calls and SWAPGS. */
struct insn_msrs {
    uint64_t star, lstar, fmask;
    uint64_t kernel_gs_base; /**< SWAPGS changes it */
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
};

/** How interrupts are held off after the instruction, in struct insn_cpu. */
enum insn_shadow { INSN_SHADOW_NONE, INSN_SHADOW_STI, INSN_SHADOW_MOV_SS };

/**
 * The registers an instruction may use. In 64-bit mode only the bases of FS and GS are looked at,
 * not the other segments: they need not be filled in. seg[INSN_CS] and seg[INSN_SS] are needed
 * outside it for near branches and stack accesses; gdtr and idtr for the instructions that name
 * them and for INT in real mode.
 */
struct insn_cpu {
    uint64_t *gpr; /**< 16, in hardware order: rax rcx rdx rbx rsp rbp rsi rdi r8 .. r15 */
    uint64_t rip;
    uint64_t rflags;
    uint64_t cr0; /**< a task switch sets TS */
    uint64_t cr3; /**< task switches compare and change it */
    uint64_t cr4;
    uint64_t efer;
    uint64_t xcr0;                      /**< the components that XSAVE and XRSTOR know */
    uint64_t xss;                       /**< … and besides them XSAVES and XRSTORS */
    struct insn_seg seg[INSN_SEGMENTS]; /**< indexed by enum insn_segment */
    struct insn_table gdtr;
    struct insn_table idtr;
    struct insn_seg ldtr; /**< looked at only if struct insn_ops says descriptors */
    struct insn_seg tr;   /**< likewise */
    uint8_t mode;       /**< enum insn_mode; changes with CS, by far transfers in protected mode */
    uint8_t cpl;        /**< current privilege level; 3 in virtual-8086 mode */
    bool avx;           /**< CR4.OSXSAVE and XCR0 let AVX instructions run */
    bool amd;           /**< an AMD processor, where the two vendors' differ */
    bool task_switched; /**< out: set by a task switch, also by one that a fault of the new task
                           follows */
    uint8_t shadow;     /**< out: enum insn_shadow, set when an instruction retires */
    uint64_t operand;   /**< out, with INSN_SYSTEM: LMSW's operand; the linear address of INVLPG and
                             INVPCID */
};

/** An exception that the instruction raises. */
struct insn_fault {
    uint8_t vector;
    bool has_error_code; /**< false in real mode, where none is pushed */
    uint32_t error_code;
    uint64_t address; /**< for page faults, what CR2 becomes */
};

/** What came of one access. */
enum insn_access_result {
    INSN_ACCESS_OK,
    INSN_ACCESS_FAULT,   /**< the callback filled in the fault */
    INSN_ACCESS_PENDING, /**< the embedder has to supply or perform it */
    INSN_ACCESS_RACED,   /**< compare_exchange only: memory differed, expected was updated */
};

/** Properties of an access, passed to the callbacks. */
enum insn_access_flags {
    INSN_ACCESS_MODIFY = 1, /**< a read whose place is written next: writing must be permitted */
    INSN_ACCESS_LOCKED = 2, /**< part of a locked read-modify-write */
    INSN_ACCESS_SYSTEM = 4, /**< a supervisor access whatever the CPL (descriptor tables) */
    INSN_ACCESS_PROBE = 8,  /**< a write that is not made: only answer OK or FAULT; data is NULL */
};

/** Which bytes of a vector register. */
enum insn_vector {
    INSN_VECTOR_SSE,  /**< the lower 16; a write leaves the others as they are */
    INSN_VECTOR_AVX,  /**< the lower 16; a write clears the others */
    INSN_VECTOR_HIGH, /**< bytes 16 to 31; a write leaves the lower ones as they are */
};

/**
 * How the executor reaches memory and devices. An access may cross pages: it is passed whole and
 * splitting it is the callback's work, as is paging. size is 1 to 16 bytes. A callback that answers
 * INSN_ACCESS_FAULT has filled in *fault. Callbacks must not touch struct insn_cpu.
 */
struct insn_ops {
    /** Required. */
    enum insn_access_result (*read)(void *context, uint64_t linear, void *data, unsigned size,
                                    unsigned flags, struct insn_fault *fault);
    /** Required. */
    enum insn_access_result (*write)(void *context, uint64_t linear, const void *data,
                                     unsigned size, unsigned flags, struct insn_fault *fault);
    /**
     * Atomically on RAM: if the size bytes at linear equal expected, store desired; otherwise copy
     * what is there to expected and answer INSN_ACCESS_RACED. Without it, locked instructions and
     * XCHG with memory are INSN_UNSUPPORTED.
     */
    enum insn_access_result (*compare_exchange)(void *context, uint64_t linear, void *expected,
                                                const void *desired, unsigned size, unsigned flags,
                                                struct insn_fault *fault);
    /** Port input and output, 1, 2 or 4 bytes. Without them these are INSN_SYSTEM. */
    enum insn_access_result (*in)(void *context, uint16_t port, void *data, unsigned size,
                                  struct insn_fault *fault);
    enum insn_access_result (*out)(void *context, uint16_t port, const void *data, unsigned size,
                                   struct insn_fault *fault);
    /**
     * May the guest use these ports where CPL > IOPL (the TSS's I/O bitmap)? Answers OK or FAULT.
     * Without it the executor looks itself if it has descriptors; else such I/O is
     * INSN_UNSUPPORTED.
     */
    enum insn_access_result (*io_permitted)(void *context, uint16_t port, unsigned size,
                                            struct insn_fault *fault);
    /**
     * Load a segment register in protected mode: check selector as the manual demands for register
     * segment (enum insn_segment; never CS), read the descriptor and fill in *result. Without it
     * and without descriptors, loads other than in real and virtual-8086 mode are INSN_UNSUPPORTED.
     */
    enum insn_access_result (*load_segment)(void *context, unsigned segment, uint16_t selector,
                                            struct insn_seg *result, struct insn_fault *fault);
    /**
     * gdtr, idtr, ldtr and tr of struct insn_cpu are filled in, and the executor may read
     * descriptors and the TSS (with INSN_ACCESS_SYSTEM) and write what the processor writes there:
     * for segment loads if load_segment is NULL, and for far transfers, interrupts and task
     * switches in protected mode, which are otherwise INSN_UNSUPPORTED.
     */
    bool descriptors;
    /**
     * The MSRs, valid until insn_execute returns. Without it, SYSCALL, SYSRET, SYSENTER, SYSEXIT
     * and SWAPGS are INSN_UNSUPPORTED.
     */
    struct insn_msrs *(*msrs)(void *context);
    /**
     * A task switch loads CR3: from now on memory is reached through these tables. Answers OK or
     * FAULT. Without it, a switch to a task with another CR3 is INSN_UNSUPPORTED if paging is on.
     */
    enum insn_access_result (*task_cr3)(void *context, uint64_t cr3, struct insn_fault *fault);
    /**
     * Reads or writes 16 bytes of vector register reg. False: it cannot be had now. Without it, SSE
     * and AVX moves are INSN_UNSUPPORTED.
     */
    bool (*vector)(void *context, unsigned reg, void *data, bool write, enum insn_vector part);
    /**
     * Reads or writes x87 and SSE registers as an image of 512 bytes, in FXSAVE's format of 64-bit
     * mode with REX.W. False: they cannot be had now. Without it, x87 instructions, FXSAVE, XSAVE
     * and their relatives are INSN_UNSUPPORTED.
     */
    bool (*fpu)(void *context, void *image, bool write);
    /**
     * Executes the x87 instruction with these opcode (D8 to DF) and ModRM bytes on the registers in
     * image, as 32-bit code would, and with memory of up to 108 bytes if ModRM is below C0. No
     * exception is pending in the image unless the instruction is one that does not wait. What
     * becomes of FOP, FIP and FDP does not matter. flags has CF, PF, AF, ZF, SF and OF before and
     * after. False: it cannot be done now.
     */
    bool (*x87)(void *context, unsigned opcode, unsigned modrm, void *image, void *memory,
                uint64_t *flags);
};

/** Kinds of access in the replay log. */
enum insn_access_kind {
    INSN_ACCESS_READ,
    INSN_ACCESS_WRITE,
    INSN_ACCESS_COMPARE_EXCHANGE, /**< for a device: a write of data */
    INSN_ACCESS_IN,
    INSN_ACCESS_OUT,
    INSN_ACCESS_REGISTER, /**< half a vector register as it was at first; never pending */
};

/** One access of the current instruction. */
struct insn_access {
    uint64_t address; /**< linear address, or port */
    uint8_t kind;     /**< enum insn_access_kind */
    uint8_t size;     /**< 1 to 16 bytes */
    uint8_t done;     /**< 0 while pending */
    uint8_t data[16]; /**< what was or is to be written; what was read, once done */
};

enum {
    /** Accesses of one instruction: ENTER with 31 levels makes 62. */
    INSN_REPLAY_MAX = 64
};

/**
 * The accesses that the current instruction, or the current iteration of a repeated one, has made.
 * Clear it (count = 0) before the first insn_execute of an instruction. After INSN_PENDING the last
 * entry is the access to perform: do it, store what it read in data, set done and call insn_execute
 * again with the same registers; or set count to 0 and abandon the instruction. insn_execute clears
 * the log whenever it answers anything but INSN_PENDING.
 */
struct insn_replay {
    uint32_t count;
    struct insn_access access[INSN_REPLAY_MAX];
};

/**
 * Execute an instruction.
 *
 * A task switch may be followed by a fault of the new task: INSN_FAULT with task_switched set and
 * the registers changed. Its debug trap (T in the TSS) comes in the same way, as #DB with bits of
 * DR6 in address.
 *
 * TF is not looked at: an embedder that single-steps raises #DB itself after INSN_OK.
 *
 * @param insn        from insn_decode
 * @param cpu         registers; changed if and when the instruction retires (with INSN_AGAIN and
 *                    INSN_PENDING: by whole iterations of a repeated string instruction)
 * @param ops         see there
 * @param context     passed to ops
 * @param replay      see struct insn_replay
 * @param iterations  at most so many iterations of a repeated string instruction, at least 1
 * @param[out] fault  for INSN_FAULT
 * @return INSN_OK, INSN_PENDING, INSN_FAULT, INSN_UNSUPPORTED, INSN_AGAIN or INSN_SYSTEM
 */
enum insn_result insn_execute(const struct insn *insn, struct insn_cpu *cpu,
                              const struct insn_ops *ops, void *context, struct insn_replay *replay,
                              unsigned iterations, struct insn_fault *fault);

/** Where an event comes from: it decides about privilege checks and error codes. */
enum insn_event_type {
    INSN_EVENT_EXTERNAL, /**< interrupt, NMI or exception */
    INSN_EVENT_SOFTWARE, /**< INT n, INT3, INTO: the gate's DPL counts */
    INSN_EVENT_ICEBP,    /**< INT1: the gate's DPL does not count */
};

/** An interrupt or exception to be delivered. */
struct insn_event {
    uint8_t vector;
    uint8_t type; /**< enum insn_event_type */
    bool has_error_code;
    bool fault; /**< a fault: RFLAGS.RF is set in what is pushed */
    uint32_t error_code;
};

/**
 * Deliver an event: what the processor does between two instructions. cpu->rip is what the handler
 * returns to. Parameters and results are those of insn_execute; a fault is one that arose during
 * the delivery, and merging it with the event is the caller's.
 */
enum insn_result insn_deliver(const struct insn_event *event, struct insn_cpu *cpu,
                              const struct insn_ops *ops, void *context, struct insn_replay *replay,
                              struct insn_fault *fault);

/**
 * The RIP after an instruction of the given length: wraps at 4 GiB, and at 64 KiB in 16-bit code.
 */
static inline uint64_t insn_advance(enum insn_mode mode, uint64_t rip, unsigned length)
{
    rip += length;
    if (mode == INSN_16)
        return rip & 0xffff;
    return mode == INSN_32 ? rip & 0xffffffff : rip;
}

/**
 * The offset of the memory operand in its segment, wrapped to the address size. cpu->rip is that of
 * the instruction itself.
 */
uint64_t insn_offset(const struct insn *insn, const struct insn_cpu *cpu);

/** The linear address of the memory operand: offset plus segment base, no checks made. */
uint64_t insn_linear(const struct insn *insn, const struct insn_cpu *cpu);

#endif
