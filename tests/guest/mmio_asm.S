/* SPDX-License-Identifier: BSD-2-Clause */
/* The frame around one instruction of memory_forms.h: void form(uint64_t base, uint64_t out[8]). */

    .text
    .globl form_enter
form_enter:
    popq %r11
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushq %rsi
    movq %rdi, %r8
    leaq 64(%rdi), %rdi
    movq %r8, %rsi
    movabsq $0x8182838485868788, %rax
    movabsq $0xf1e2d3c4b5a69788, %rbx
    movabsq $0x0123456789abcdef, %rdx
    movl $5, %ecx
    pushq $3
    popfq
    jmp *%r11

    .globl form_leave
form_leave:
    pushfq
    popq %r11
    popq %r10
    subq %r8, %rsi
    subq %r8, %rdi
    movq %rax, (%r10)
    movq %rbx, 8(%r10)
    movq %rcx, 16(%r10)
    movq %rdx, 24(%r10)
    movq %rsi, 32(%r10)
    movq %rdi, 40(%r10)
    andl $0xcd5, %r11d
    movq %r11, 48(%r10)
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

    .section .note.GNU-stack, "", @progbits
