/* SPDX-License-Identifier: BSD-2-Clause */
/* What the basic cases cannot say in C: every register at once, and 16- and 32-bit code. */

#define PORT_MARK 0x504
#define PORT_DONE 0x500

    .text
/* uint64_t registers_survive(uint64_t seed, uint64_t rounds): fills every register but RSP with
 * a pattern of the seed, exits, and compares; the value is the number of registers that differed. */
    .globl registers_survive
registers_survive:
    endbr64
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    subq $24, %rsp
    movq %rdi, (%rsp)   /* seed */
    movq %rsi, 8(%rsp)  /* rounds */
    movq $0, 16(%rsp)   /* differences */
1:  movq (%rsp), %rax
    leaq 1(%rax), %rbx
    leaq 2(%rax), %rcx
    leaq 4(%rax), %rbp
    leaq 5(%rax), %rsi
    leaq 6(%rax), %rdi
    leaq 7(%rax), %r8
    leaq 8(%rax), %r9
    leaq 9(%rax), %r10
    leaq 10(%rax), %r11
    leaq 11(%rax), %r12
    leaq 12(%rax), %r13
    leaq 13(%rax), %r14
    leaq 14(%rax), %r15
    movabsq $0xabcdef0100000000 + PORT_MARK, %rdx
    outl %eax, %dx
    .macro compare register offset
    subq $\offset, \register
    cmpq (%rsp), \register
    je 2f
    incq 16(%rsp)
2:
    .endm
    compare %rax 0
    compare %rbx 1
    compare %rcx 2
    compare %rbp 4
    compare %rsi 5
    compare %rdi 6
    compare %r8 7
    compare %r9 8
    compare %r10 9
    compare %r11 10
    compare %r12 11
    compare %r13 12
    compare %r14 13
    compare %r15 14
    movabsq $0xabcdef0100000000 + PORT_MARK, %rax
    cmpq %rax, %rdx
    je 3f
    incq 16(%rsp)
3:  decq 8(%rsp)
    jnz 1b
    movq 16(%rsp), %rax
    addq $24, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

/* uint64_t guarded_call(uint64_t (*fn)(void *), void *argument, uint64_t *result): calls fn with
 * patterns in the callee-saved registers and around its stack; the value is how many changed. */
    .globl guarded_call
guarded_call:
    endbr64
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushq %rdx
    movabsq $0x5aa5123412345678, %rax
    pushq %rax
    pushq %rax
    leaq 1(%rax), %rbx
    leaq 2(%rax), %rbp
    leaq 3(%rax), %r12
    leaq 4(%rax), %r13
    leaq 5(%rax), %r14
    leaq 6(%rax), %r15
    movq %rsp, guarded_rsp(%rip)
    movq %rdi, %rax
    movq %rsi, %rdi
    subq $8, %rsp
    call *%rax
    addq $8, %rsp
    movq %rax, %rdx
    xorl %ecx, %ecx
    movabsq $0x5aa5123412345678, %rax
    .macro guarded value
    cmpq %rax, \value
    je 4f
    incq %rcx
4:  incq %rax
    .endm
    cmpq %rsp, guarded_rsp(%rip)
    je 5f
    incq %rcx
    movq guarded_rsp(%rip), %rsp
5:  cmpq %rax, (%rsp)
    je 6f
    incq %rcx
6:  guarded 8(%rsp)
    guarded %rbx
    guarded %rbp
    guarded %r12
    guarded %r13
    guarded %r14
    guarded %r15
    pushfq
    popq %rax
    testl $0x400, %eax /* DF */
    jz 7f
    incq %rcx
    cld
7:  addq $16, %rsp
    popq %rax
    movq %rdx, (%rax)
    movq %rcx, %rax
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

    .bss
    .balign 8
guarded_rsp:
    .quad 0

/* Three guests that report their mode to PORT_DONE: CR0.PE, the operand size, EFER.LMA. */
    .section .rodata
    .globl mode16, mode16_end, mode32, mode32_end
    .code16
mode16:
    smsw %ax
    andw $1, %ax
    pushw %cs           /* two bytes in 16-bit code */
    popw %bx
    movw $PORT_DONE, %dx
    movzwl %ax, %eax
    addl $0x1600, %eax
    outl %eax, %dx
    jmp mode16
mode16_end:

    /* A device at 0x50010, outside the slot, is read and then written. */
    .globl device16, device16_end
device16:
    movw $0x5000, %ax
    movw %ax, %es
    movl %es:0x10, %eax
    incl %eax
    movl %eax, %es:0x14
    movw $PORT_DONE, %dx
    outl %eax, %dx
    jmp device16
device16_end:

    .code32
mode32:
    smswl %eax
    andl $1, %eax
    addl %eax, %eax
    addl $0x3200, %eax
    incl %eax           /* 0x40: a REX prefix in 64-bit mode */
    nop
    movl $PORT_DONE, %edx
    outl %eax, %dx
    jmp mode32
mode32_end:
    .code64

    .section .note.GNU-stack, "", @progbits
