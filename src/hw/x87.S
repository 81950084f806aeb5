/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Every x87 instruction, 8 bytes each: with the register forms of D8 to DF in order of opcode and ModRM,
 * and with the memory forms in order of opcode and ModRM.reg, at the address in RDI. To be called; which
 * of them exist the decoder knows.
 */
        .text

        .macro stub opcode, modrm
        endbr64
        .byte   \opcode, \modrm
        ret
        int3
        .endm

        .globl  hw_x87_registers, hw_x87_memory
        .hidden hw_x87_registers, hw_x87_memory
        .type   hw_x87_registers, @function
        .type   hw_x87_memory, @function
        .balign 16
hw_x87_registers:
        .set    at, 0
        .rept   512
        stub    0xd8 + (at >> 6), 0xc0 + (at & 63)
        .set    at, at + 1
        .endr
        .size   hw_x87_registers, . - hw_x87_registers

hw_x87_memory:
        .set    at, 0
        .rept   64
        stub    0xd8 + (at >> 3), ((at & 7) << 3) | 7
        .set    at, at + 1
        .endr
        .size   hw_x87_memory, . - hw_x87_memory

        .section .note.GNU-stack, "", @progbits
