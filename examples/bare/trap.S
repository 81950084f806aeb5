/* SPDX-License-Identifier: BSD-2-Clause */
/* One stub for each vector, 16 bytes apart, and the way from there to bare_trap and back. */

    .text
    .balign 16
    .globl bare_trap_stubs
bare_trap_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    endbr64
    /* Vectors 8, 10-14, 17, 21, 29 and 30 come with an error code. */
    .if !((vector < 32) && ((0x60227d00 >> (vector & 31)) & 1))
    pushq $0
    .endif
    pushq $vector
    jmp trap_common
    .set vector, vector + 1
    .endr

    .balign 16
trap_common:
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rbx
    pushq %rbp
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    cld
    movq %rsp, %rdi /* 22 words since the processor aligned it: still a multiple of 16 */
    call bare_trap
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rbp
    popq %rbx
    popq %rdx
    popq %rcx
    popq %rax
    addq $16, %rsp
    iretq

    .section .note.GNU-stack, "", @progbits
