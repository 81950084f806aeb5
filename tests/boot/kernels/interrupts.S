/* SPDX-License-Identifier: BSD-2-Clause */
/* Entries for vectors 0x20 to 0x4f, 16 bytes each, which call interrupt(vector). */
    .text
    .balign 16
    .globl interrupt_stubs
interrupt_stubs:
    .set vector, 0x20
    .rept 0x30
    .balign 16
#ifdef __x86_64__
    pushq $vector
#else
    pushl $vector
#endif
    jmp common
    .set vector, vector + 1
    .endr

#ifdef __x86_64__
common:
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    movl 72(%rsp), %edi
    cld
    call interrupt
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rax
    addq $8, %rsp
    iretq
#else
common:
    pushal
    pushl 32(%esp)
    cld
    call interrupt
    addl $4, %esp
    popal
    addl $4, %esp
    iretl
#endif
    .section .note.GNU-stack, "", @progbits
