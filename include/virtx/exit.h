/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * @brief The exit record: why virtx_vcpu_run() returned, in neutral words.
 *
 * The record belongs to the vcpu and is valid until the next call of run on it. When
 * virtx_exit::pending is set, the guest's instruction has not been retired: RIP is at it, and
 * virtx_vcpu_complete() or virtx_vcpu_fault() must follow before the next run. Only a write to a port or to
 * memory, which waits for no answer, may be left to the next run to complete. When it is clear,
 * the next run continues after whatever happened.
 */
#ifndef VIRTX_EXIT_H
#define VIRTX_EXIT_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** @brief Neutral reasons. Which union member of ::virtx_exit is valid stands behind each. */
enum virtx_exit_reason {
    VIRTX_EXIT_NONE,        /**< No run has returned yet. */
    VIRTX_EXIT_KICK,        /**< virtx_vcpu_kick(). */
    VIRTX_EXIT_INTERRUPT,   /**< A host interrupt, with run called at IF = 0 or the VM asking to see
                                 them (virtx_vm_config::exit_on_interrupt). */
    VIRTX_EXIT_IO,          /**< `io`; pending. IN, OUT, INS, OUTS. */
    VIRTX_EXIT_MMIO,        /**< `mmio`; pending. Access to a GPA that no slot backs. */
    VIRTX_EXIT_MSR,         /**< `msr`; pending. RDMSR, WRMSR. */
    VIRTX_EXIT_CPUID,       /**< `cpuid`; pending. Only where intercepted. */
    VIRTX_EXIT_HYPERCALL,   /**< `hypercall`; pending. VMCALL or VMMCALL, only where intercepted. */
    VIRTX_EXIT_HLT,         /**< The vcpu is halted and nothing is pending for it. RIP is behind HLT; run
                                 again when something may be: a run of a vcpu that is still halted
                                 returns this at once. virtx_vcpu_wake() ends the halt without it. */
    VIRTX_EXIT_EXCEPTION,   /**< `exception`; pending. An intercepted exception: complete drops it and
                                 re-executes; virtx_vcpu_fault() with the same event reflects it. */
    VIRTX_EXIT_CR,          /**< `cr`; pending. An intercepted control-register access. */
    VIRTX_EXIT_DR,          /**< `cr` (register 0 to 7 is DRn); pending. */
    VIRTX_EXIT_INSTRUCTION, /**< `instruction`; pending. Another intercepted instruction. */
    VIRTX_EXIT_MEMORY,      /**< `memory`. A slot forbids the access, or its backing is away. Nothing was
                                 executed; the next run tries again. */
    VIRTX_EXIT_EMULATION,   /**< `emulation`. An instruction that touched MMIO (or must be executed
                                 by the library) and is not one it knows. Not retired. */
    VIRTX_EXIT_SHUTDOWN,    /**< Triple fault. */
    VIRTX_EXIT_INIT,        /**< virtx_vcpu_signal_init() with virtx_vm_config::exit_on_startup; the vcpu has
                                 not been reset. */
    VIRTX_EXIT_SIPI,        /**< `sipi`. Likewise virtx_vcpu_signal_sipi(); the vcpu waits still. */
    VIRTX_EXIT_TASK_SWITCH, /**< `task_switch`. Never returned: run carries out hardware task switches,
                                 and counts them in virtx_vcpu_stats::exits. */
    VIRTX_EXIT_WINDOW,      /**< The interrupt window asked for by virtx_vcpu_window() is open. */
    VIRTX_EXIT_DEADLINE,    /**< The time given to virtx_vcpu_deadline() has come. */
    VIRTX_EXIT_UNKNOWN,     /**< `raw` alone says what it is. The next run re-enters. */
    VIRTX_EXIT_REASON_COUNT /**< Number of reasons. */
};

/** @brief What is done to memory, a port, an MSR or a register; bits. */
enum virtx_access {
    VIRTX_READ = 1u << 0,    /**< Read, IN, RDMSR, MOV from. */
    VIRTX_WRITE = 1u << 1,   /**< Write, OUT, WRMSR, MOV to. */
    VIRTX_EXECUTE = 1u << 2, /**< Instruction fetch. */
};

/** @brief Instructions of ::VIRTX_EXIT_INSTRUCTION and of ::VIRTX_INTERCEPT_INSTRUCTION. */
enum virtx_instruction {
    VIRTX_INSN_RDTSC,   /**< RDTSC. */
    VIRTX_INSN_RDTSCP,  /**< RDTSCP. */
    VIRTX_INSN_RDPMC,   /**< RDPMC. */
    VIRTX_INSN_INVLPG,  /**< INVLPG; `operand` is the linear address. */
    VIRTX_INSN_INVPCID, /**< INVPCID. */
    VIRTX_INSN_INVD,    /**< INVD; always intercepted, by default it does nothing. */
    VIRTX_INSN_WBINVD,  /**< WBINVD, WBNOINVD. */
    VIRTX_INSN_MONITOR, /**< MONITOR. */
    VIRTX_INSN_MWAIT,   /**< MWAIT. */
    VIRTX_INSN_PAUSE,   /**< PAUSE. */
    VIRTX_INSN_XSETBV,  /**< XSETBV; always intercepted, by default served. */
    VIRTX_INSN_SGDT,    /**< SGDT. */
    VIRTX_INSN_SIDT,    /**< SIDT. */
    VIRTX_INSN_LGDT,    /**< LGDT. */
    VIRTX_INSN_LIDT,    /**< LIDT. */
    VIRTX_INSN_SLDT,    /**< SLDT. */
    VIRTX_INSN_STR,     /**< STR. */
    VIRTX_INSN_LLDT,    /**< LLDT. */
    VIRTX_INSN_LTR,     /**< LTR. */
    VIRTX_INSN_RSM,     /**< RSM outside SMM. */
    VIRTX_INSN_VMX,     /**< Any VMX instruction but VMCALL; always intercepted, by default \#UD. */
    VIRTX_INSN_SVM,     /**< Any SVM instruction but VMMCALL; always intercepted, by default \#UD. */
    VIRTX_INSN_GETSEC,  /**< GETSEC; always intercepted, by default \#UD. */
    VIRTX_INSN_SKINIT,  /**< SKINIT; always intercepted, by default \#UD. */
    VIRTX_INSN_IRET,    /**< IRET. */
    VIRTX_INSN_INTN,    /**< INT n. */
    VIRTX_INSN_PUSHF,   /**< PUSHF. */
    VIRTX_INSN_POPF,    /**< POPF. */
    VIRTX_INSN_RDRAND,  /**< RDRAND. */
    VIRTX_INSN_RDSEED,  /**< RDSEED. */
    VIRTX_INSN_COUNT
};

/** @brief Most bytes one pending port access carries; longer REP INS/OUTS come in several exits. */
#define VIRTX_IO_BATCH 256u

/** @brief A port access. */
struct virtx_exit_io {
    uint16_t port;   /**< First port. */
    uint8_t size;    /**< Bytes a unit: 1, 2, 4. */
    uint8_t access;  /**< ::VIRTX_READ (IN, INS) or ::VIRTX_WRITE. */
    uint8_t string;  /**< INS or OUTS. */
    uint8_t rep;     /**< With a REP prefix. */
    uint16_t pad;    /**< Zero. */
    uint32_t count;  /**< Units in this exit: 1, or for strings up to ::VIRTX_IO_BATCH / size. */
    uint64_t value;  /**< The value written; a handler puts the value read here. count = 1 only. */
    void *data;      /**< count * size bytes, in the order of the accesses. For a write the bytes
                          written; a read takes them from here when complete gets NULL. */
};

/** @brief A memory access outside all slots. */
struct virtx_exit_mmio {
    uint64_t gpa;    /**< Guest-physical address. Never straddles a page. */
    uint64_t value;  /**< The value written, zero-extended; a handler puts the value read here. */
    uint8_t size;    /**< 1, 2, 4 or 8. */
    uint8_t access;  /**< ::VIRTX_READ or ::VIRTX_WRITE. */
    uint8_t pad[6];  /**< Zero. */
};

/** @brief RDMSR or WRMSR. */
struct virtx_exit_msr {
    uint32_t index;  /**< ECX. */
    uint8_t access;  /**< ::VIRTX_READ or ::VIRTX_WRITE. */
    uint8_t pad[3];  /**< Zero. */
    uint64_t value;  /**< EDX:EAX of a write; a handler puts the value read here. */
};

/** @brief CPUID. A handler gets the registers filled with what the default policy answers. */
struct virtx_exit_cpuid {
    uint32_t leaf;    /**< EAX on input. */
    uint32_t subleaf; /**< ECX on input. */
    uint32_t eax;     /**< Result. */
    uint32_t ebx;     /**< Result. */
    uint32_t ecx;     /**< Result. */
    uint32_t edx;     /**< Result. */
};

/** @brief VMCALL or VMMCALL. The arguments are the guest's registers. */
struct virtx_exit_hypercall {
    uint64_t number; /**< RAX; a handler puts the result here, and it replaces RAX whatever
                          virtx_vcpu_gpr() was made to say. Other results go to virtx_vcpu_gpr(). */
    uint8_t cpl;     /**< Privilege level of the caller. */
    uint8_t pad[7];  /**< Zero. */
};

/** @brief An intercepted exception. */
struct virtx_exit_exception {
    uint8_t vector;    /**< 0 to 31. */
    bool has_error;    /**< There is an error code. */
    uint8_t pad[2];    /**< Zero. */
    uint32_t error;    /**< Error code. */
    uint64_t address;  /**< \#PF: the linear address (CR2 has not been written). \#DB: DR6 bits. */
};

/** @brief An intercepted MOV to or from CRn or DRn, CLTS or LMSW (a write of CR0). */
struct virtx_exit_cr {
    uint8_t reg;     /**< n. */
    uint8_t access;  /**< ::VIRTX_READ or ::VIRTX_WRITE. */
    uint8_t gpr;     /**< ::virtx_gpr of the operand; 0xff for CLTS and LMSW. */
    uint8_t pad[5];  /**< Zero. */
    uint64_t value;  /**< Value to be written, or that a read would return. */
};

/** @brief Another intercepted instruction. */
struct virtx_exit_instruction {
    uint32_t which;    /**< ::virtx_instruction. */
    uint32_t pad;      /**< Zero. */
    uint64_t operand;  /**< Linear address of INVLPG; number of the register (ECX) for XSETBV; else 0. */
    uint64_t value;    /**< EDX:EAX for XSETBV; a handler of RDTSC, RDTSCP, RDPMC puts the result here. */
};

/** @brief A forbidden or impossible access to a slot. */
struct virtx_exit_memory {
    uint64_t gpa;            /**< Guest-physical address. */
    uint64_t gva;            /**< Guest linear address, when gva_valid. */
    uint8_t access;          /**< ::virtx_access bits of the attempt. */
    uint8_t rights;          /**< ::virtx_access bits the slot allows. */
    bool gva_valid;          /**< gva is known. */
    bool table_walk;         /**< The processor was walking guest page tables, not the final access. */
    uint8_t pad[4];          /**< Zero. */
};

/** @brief An instruction the library does not execute. */
struct virtx_exit_emulation {
    uint64_t gpa;       /**< GPA of the access that made it necessary. */
    uint64_t gva;       /**< Linear address of the instruction. */
    uint8_t bytes[15];  /**< Instruction bytes. */
    uint8_t length;     /**< How many of them could be fetched. */
};

/** @brief A start-up IPI. */
struct virtx_exit_sipi {
    uint8_t vector; /**< Start address is vector << 12. */
};

/** @brief A hardware task switch: what a backend tells run of it (`backend.h`). */
struct virtx_exit_task_switch {
    uint16_t selector;  /**< TSS selector of the new task. */
    uint8_t source;     /**< 0 CALL, 1 IRET, 2 JMP, 3 task gate in the IDT. */
    bool has_error;     /**< An error code is to be pushed in the new task. */
    uint32_t error;     /**< The error code. */
};

/** @brief The vendor's own words, for logs and for what the library does not decode. */
struct virtx_exit_raw {
    uint64_t code;            /**< VMX: exit reason. SVM: EXITCODE. */
    uint64_t qualification;   /**< VMX: exit qualification. SVM: EXITINFO1. Valid where the manual
                                   defines it for this code. */
    uint64_t address;         /**< VMX: guest-physical or linear address. SVM: EXITINFO2. */
    uint64_t interruption;    /**< VMX: VM-exit interruption information. SVM: EXITINTINFO. */
};

/** @brief The exit record. */
struct virtx_exit {
    uint32_t reason;  /**< ::virtx_exit_reason. */
    bool pending;     /**< An access is to be completed. */
    uint8_t length;   /**< Length of the instruction, 0 where it has no meaning. */
    uint8_t pad[2];   /**< Zero. */
    uint64_t rip;     /**< RIP of the instruction that exited. */
    union {
        struct virtx_exit_io io;                   /**< ::VIRTX_EXIT_IO. */
        struct virtx_exit_mmio mmio;               /**< ::VIRTX_EXIT_MMIO. */
        struct virtx_exit_msr msr;                 /**< ::VIRTX_EXIT_MSR. */
        struct virtx_exit_cpuid cpuid;             /**< ::VIRTX_EXIT_CPUID. */
        struct virtx_exit_hypercall hypercall;     /**< ::VIRTX_EXIT_HYPERCALL. */
        struct virtx_exit_exception exception;     /**< ::VIRTX_EXIT_EXCEPTION. */
        struct virtx_exit_cr cr;                   /**< ::VIRTX_EXIT_CR, ::VIRTX_EXIT_DR. */
        struct virtx_exit_instruction instruction; /**< ::VIRTX_EXIT_INSTRUCTION. */
        struct virtx_exit_memory memory;           /**< ::VIRTX_EXIT_MEMORY. */
        struct virtx_exit_emulation emulation;     /**< ::VIRTX_EXIT_EMULATION. */
        struct virtx_exit_sipi sipi;               /**< ::VIRTX_EXIT_SIPI. */
        struct virtx_exit_task_switch task_switch; /**< ::VIRTX_EXIT_TASK_SWITCH. */
    };
    struct virtx_exit_raw raw; /**< The vendor's words. */
};

/** @brief The name of a neutral reason, e.g. "io"; never NULL. */
const char *virtx_exit_name(uint32_t reason);

#ifdef __cplusplus
}
#endif
#endif
