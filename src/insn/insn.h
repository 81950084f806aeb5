/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * x86 instructions: finding their length and operands, and executing them on registers and memory
 * that the caller supplies.
 *
 * Nothing here allocates, recurses or keeps state between calls; every function is reentrant and
 * may run on any CPU as long as the structures passed to it are not shared.
 */
#ifndef VIRTX_INSN_INSN_H
#define VIRTX_INSN_INSN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Longest instruction in bytes. A longer one raises #GP(0) (Intel SDM, "Instruction Format"). */
#define INSN_MAX_LENGTH 15

/** How instruction bytes are to be read. */
enum insn_mode {
    INSN_16,     /**< real mode, virtual-8086 mode, and code segments with CS.D = 0 */
    INSN_32,     /**< code segments with CS.D = 1 and CS.L = 0 */
    INSN_64,     /**< 64-bit mode; operand-size prefixes on near branches are ignored (Intel) */
    INSN_64_AMD, /**< 64-bit mode; an operand-size prefix makes a near branch 16 bits wide (AMD) */
};

/** What decoding or executing an instruction came to. */
enum insn_result {
    INSN_OK,          /**< decoded; or executed and retired */
    INSN_MORE,        /**< the instruction is longer than the bytes given */
    INSN_INVALID,     /**< the encoding raises #UD */
    INSN_TOO_LONG,    /**< longer than INSN_MAX_LENGTH: raises #GP(0) */
    INSN_UNKNOWN,     /**< not modelled (vector, x87, ...): only length and prefixes are right */
    INSN_UNSUPPORTED, /**< execution is not modelled; nothing was changed */
    INSN_PENDING,     /**< an access waits for the embedder, see struct insn_replay */
    INSN_FAULT,       /**< the instruction raises the exception in struct insn_fault */
    INSN_AGAIN, /**< a repeated string instruction has iterations left, or a locked access lost
                     its race: state is consistent, RIP is still at the instruction */
    INSN_SYSTEM, /**< the instruction is the caller's to carry out (CPUID, MSRs, control registers,
                      ports without callbacks, HLT, ...): the guest may execute it here, and nothing
                      was changed */
};

/** Mnemonics of the modelled instructions. Condition codes are the low opcode bits. */
enum insn_op {
    INSN_OP_UNKNOWN,
    /* The order of the first eight is that of opcode bits 5:3 and of ModRM.reg in group 1. */
    INSN_OP_ADD,
    INSN_OP_OR,
    INSN_OP_ADC,
    INSN_OP_SBB,
    INSN_OP_AND,
    INSN_OP_SUB,
    INSN_OP_XOR,
    INSN_OP_CMP,
    INSN_OP_TEST,
    INSN_OP_NOT,
    INSN_OP_NEG,
    INSN_OP_INC,
    INSN_OP_DEC,
    INSN_OP_MUL,
    INSN_OP_IMUL,
    INSN_OP_DIV,
    INSN_OP_IDIV,
    /* ModRM.reg order of group 2; /6 is an alias of SHL. */
    INSN_OP_ROL,
    INSN_OP_ROR,
    INSN_OP_RCL,
    INSN_OP_RCR,
    INSN_OP_SHL,
    INSN_OP_SHR,
    INSN_OP_SAR,
    INSN_OP_SHLD,
    INSN_OP_SHRD,
    INSN_OP_MOV,
    INSN_OP_MOVZX,
    INSN_OP_MOVSX, /**< also MOVSXD */
    INSN_OP_MOVBE,
    INSN_OP_LEA,
    INSN_OP_XCHG,
    INSN_OP_XADD,
    INSN_OP_CMPXCHG,
    INSN_OP_CMPXCHG8B, /**< also CMPXCHG16B */
    INSN_OP_BSWAP,
    INSN_OP_CMOVCC,
    INSN_OP_SETCC,
    INSN_OP_XLAT,
    INSN_OP_CBW, /**< also CWDE and CDQE */
    INSN_OP_CWD, /**< also CDQ and CQO */
    INSN_OP_BT,
    INSN_OP_BTS,
    INSN_OP_BTR,
    INSN_OP_BTC,
    INSN_OP_BSF,
    INSN_OP_BSR,
    INSN_OP_TZCNT,
    INSN_OP_LZCNT,
    INSN_OP_POPCNT,
    INSN_OP_CRC32,
    INSN_OP_ADCX,
    INSN_OP_ADOX,
    INSN_OP_AAA,
    INSN_OP_AAS,
    INSN_OP_AAM,
    INSN_OP_AAD,
    INSN_OP_DAA,
    INSN_OP_DAS,
    INSN_OP_SALC,
    INSN_OP_LAHF,
    INSN_OP_SAHF,
    INSN_OP_CLC,
    INSN_OP_STC,
    INSN_OP_CMC,
    INSN_OP_CLD,
    INSN_OP_STD,
    INSN_OP_CLI,
    INSN_OP_STI,
    INSN_OP_NOP, /**< also prefetches, ENDBR and the reserved multi-byte NOPs */
    INSN_OP_PAUSE,
    INSN_OP_FENCE,   /**< LFENCE, MFENCE, SFENCE */
    INSN_OP_CLFLUSH, /**< CLFLUSH, CLFLUSHOPT, CLWB */
    INSN_OP_PUSH,
    INSN_OP_POP,
    INSN_OP_PUSHA,
    INSN_OP_POPA,
    INSN_OP_PUSHF,
    INSN_OP_POPF,
    INSN_OP_ENTER,
    INSN_OP_LEAVE,
    INSN_OP_JMP,
    INSN_OP_JCC,
    INSN_OP_CALL,
    INSN_OP_RET,
    INSN_OP_LOOP,
    INSN_OP_LOOPE,
    INSN_OP_LOOPNE,
    INSN_OP_JCXZ,
    INSN_OP_JMP_FAR,
    INSN_OP_CALL_FAR,
    INSN_OP_RET_FAR,
    INSN_OP_IRET,
    INSN_OP_INT,
    INSN_OP_INT3,
    INSN_OP_INT1,
    INSN_OP_INTO,
    INSN_OP_BOUND,
    INSN_OP_UD, /**< UD0, UD1, UD2 */
    INSN_OP_MOVS,
    INSN_OP_CMPS,
    INSN_OP_STOS,
    INSN_OP_LODS,
    INSN_OP_SCAS,
    INSN_OP_INS,
    INSN_OP_OUTS,
    INSN_OP_IN,
    INSN_OP_OUT,
    INSN_OP_MOV_SEG,  /**< MOV from or to a segment register */
    INSN_OP_PUSH_SEG, /**< PUSH of a segment register */
    INSN_OP_POP_SEG,  /**< POP of a segment register */
    INSN_OP_LFP,      /**< LES, LDS, LSS, LFS, LGS: operand 0 is the general register, operand 2
                           the segment register */
    INSN_OP_LAR,
    INSN_OP_LSL,
    INSN_OP_VERR,
    INSN_OP_VERW,
    INSN_OP_ARPL,
    INSN_OP_SLDT,
    INSN_OP_STR,
    INSN_OP_LLDT,
    INSN_OP_LTR,
    INSN_OP_SGDT,
    INSN_OP_SIDT,
    INSN_OP_LGDT,
    INSN_OP_LIDT,
    INSN_OP_SMSW,
    INSN_OP_LMSW,
    INSN_OP_CLTS,
    INSN_OP_MOV_CR,
    INSN_OP_MOV_DR,
    INSN_OP_INVLPG,
    INSN_OP_INVLPGA,
    INSN_OP_INVPCID,
    INSN_OP_INVD,
    INSN_OP_WBINVD,
    INSN_OP_HLT,
    INSN_OP_CPUID,
    INSN_OP_RDTSC,
    INSN_OP_RDTSCP,
    INSN_OP_RDPMC,
    INSN_OP_RDPID,
    INSN_OP_RDRAND,
    INSN_OP_RDSEED,
    INSN_OP_RDMSR,
    INSN_OP_WRMSR,
    INSN_OP_XGETBV,
    INSN_OP_XSETBV,
    INSN_OP_MONITOR, /**< also MONITORX */
    INSN_OP_MWAIT,   /**< also MWAITX */
    INSN_OP_SWAPGS,
    INSN_OP_SYSCALL,
    INSN_OP_SYSRET,
    INSN_OP_SYSENTER,
    INSN_OP_SYSEXIT,
    INSN_OP_RSM,
    INSN_OP_CLAC,
    INSN_OP_STAC,
    INSN_OP_RDFSBASE,
    INSN_OP_RDGSBASE,
    INSN_OP_WRFSBASE,
    INSN_OP_WRGSBASE,
    INSN_OP_VMCALL,
    INSN_OP_VMMCALL,
    INSN_OP_VMRUN,
    INSN_OP_VMLOAD,
    INSN_OP_VMSAVE,
    INSN_OP_STGI,
    INSN_OP_CLGI,
    INSN_OP_SKINIT,
    INSN_OP_VMLAUNCH,
    INSN_OP_VMRESUME,
    INSN_OP_VMXOFF,
    INSN_OP_VMXON,
    INSN_OP_VMCLEAR,
    INSN_OP_VMPTRLD,
    INSN_OP_VMPTRST,
    INSN_OP_VMREAD,
    INSN_OP_VMWRITE,
    INSN_OP_VMFUNC,
    INSN_OP_INVEPT,
    INSN_OP_INVVPID,
    INSN_OP_COUNT
};

/** Segment registers, in the order of their hardware numbers. */
enum insn_segment { INSN_ES, INSN_CS, INSN_SS, INSN_DS, INSN_FS, INSN_GS, INSN_SEGMENTS };

/** Prefixes seen, in struct insn. Of F2 and F3 only the last counts, as on hardware. */
enum insn_prefix {
    INSN_PREFIX_LOCK = 1,
    INSN_PREFIX_REP = 2,   /**< F3 */
    INSN_PREFIX_REPNE = 4, /**< F2 */
    INSN_PREFIX_OPSIZE = 8,
    INSN_PREFIX_ADDRSIZE = 16,
    INSN_PREFIX_SEGMENT = 32, /**< an override that counts: in 64-bit mode FS and GS only */
};

/** Opcode maps, in struct insn. The numbers of VEX and XOP are those in their mmmmm field. */
enum insn_map {
    INSN_MAP_ONE,
    INSN_MAP_0F,
    INSN_MAP_0F38,
    INSN_MAP_0F3A,
    INSN_MAP_3DNOW, /**< 0F 0F; the operation is the trailing byte, in imm */
};

/** How the opcode is escaped, in struct insn. */
enum insn_encoding { INSN_LEGACY, INSN_VEX, INSN_EVEX, INSN_XOP };

/** Kinds of operand. */
enum insn_operand_kind {
    INSN_NONE,
    INSN_REG,      /**< general register; size bytes from bit 0 */
    INSN_REG_HIGH, /**< AH, CH, DH, BH: bits 15:8 of general register reg (0 to 3) */
    INSN_MEM,      /**< memory at struct insn_mem */
    INSN_MEM_SRC,  /**< string source: segment (default DS) : rSI */
    INSN_MEM_DST,  /**< string destination: ES : rDI */
    INSN_IMM,      /**< imm; size is what the encoding holds */
    INSN_REL,      /**< branch displacement in imm, relative to the next instruction */
    INSN_FAR,      /**< far pointer: offset in imm, selector in imm2 */
    INSN_SREG,     /**< segment register, enum insn_segment */
    INSN_CR,
    INSN_DR,
};

/** Access to an operand, a bit mask. */
enum insn_operand_access { INSN_READ = 1, INSN_WRITE = 2 };

/** Values of base and index in struct insn_mem besides general register numbers. */
enum insn_mem_register {
    INSN_BASE_RIP = 16, /**< the address of the next instruction */
    INSN_NO_REGISTER = 17
};

/** One explicit operand, destination first. */
struct insn_operand {
    uint8_t kind;   /**< enum insn_operand_kind */
    uint8_t reg;    /**< register number, 0 to 15 */
    uint8_t size;   /**< bytes; 0 where the address alone is used (LEA, INVLPG) */
    uint8_t access; /**< enum insn_operand_access */
};

/** The memory operand: segment : base + (index << scale) + disp, in address_size bytes. */
struct insn_mem {
    uint8_t segment; /**< enum insn_segment, override applied */
    uint8_t base;    /**< general register, INSN_BASE_RIP or INSN_NO_REGISTER */
    uint8_t index;   /**< general register or INSN_NO_REGISTER */
    uint8_t scale;   /**< 0 to 3 */
};

/** A decoded instruction. */
struct insn {
    uint64_t imm;         /**< immediate or branch displacement, sign-extended where the
                               instruction does so; far pointer's offset */
    int64_t disp;         /**< displacement, sign-extended; a full address for MOV moffs */
    uint8_t length;       /**< 1 to 15 */
    uint8_t op;           /**< enum insn_op */
    uint8_t map;          /**< enum insn_map, or the number in VEX, EVEX and XOP */
    uint8_t opcode;       /**< last opcode byte */
    uint8_t prefixes;     /**< enum insn_prefix */
    uint8_t rex;          /**< REX byte, or 0x40 | WRXB of VEX, EVEX, XOP; 0 without one */
    uint8_t modrm;        /**< ModRM, if has_modrm */
    uint8_t sib;          /**< SIB, if the addressing form has one */
    uint8_t mode;         /**< enum insn_mode, never INSN_64_AMD */
    uint8_t operand_size; /**< 2, 4 or 8 bytes */
    uint8_t address_size; /**< 2, 4 or 8 bytes */
    uint8_t encoding;     /**< enum insn_encoding */
    uint8_t has_modrm;    /**< 1 if there is a ModRM byte */
    uint8_t operands;     /**< how many of operand[] are used */
    uint16_t imm2;        /**< second immediate of ENTER; far pointer's selector; of VEX the byte
                               with vvvv, L and pp */
    struct insn_mem mem;  /**< if an operand is INSN_MEM */
    struct insn_operand operand[3];
};

_Static_assert(sizeof(struct insn) <= 96, "struct insn lives on small stacks");

/**
 * Decode one instruction.
 *
 * @param[out] insn   the instruction; defined for INSN_OK. For INSN_UNKNOWN the length, prefixes,
 *                    ModRM, addressing and sizes are defined.
 * @param bytes       the bytes at the guest's RIP
 * @param available   how many there are; 15 always suffice
 * @param mode        from the code segment
 * @return INSN_OK, INSN_MORE, INSN_INVALID, INSN_TOO_LONG or INSN_UNKNOWN
 */
enum insn_result insn_decode(struct insn *insn, const uint8_t *bytes, size_t available,
                             enum insn_mode mode);

#endif
