/* SPDX-License-Identifier: BSD-2-Clause */
/* Gate for #GP while hw_rdmsr_trapped() tries an MSR: skips the RDMSR and leaves word in R8. */
    .text
    .balign 16
    .globl hw_trap_gate
    .type hw_trap_gate, @function
hw_trap_gate:
    endbr64
    addq $8, %rsp
    addq $2, (%rsp)
    movl $1, %r8d
    iretq
    .size hw_trap_gate, . - hw_trap_gate

    .section .note.GNU-stack, "", @progbits
