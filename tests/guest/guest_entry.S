/* SPDX-License-Identifier: BSD-2-Clause */
/* The guest's IDT stubs, and the way into ring 3 and back. */

#define USER_DATA  0x23
#define USER_CODE  0x2b
#define BLOCK_MASK -16384 /* struct guest_cpu is aligned to its size */
#define TSS_RSP0   4
#define USER_TOP   4096
#define PORT_DONE  0x500

    .text
    .balign 16
    .globl guest_stubs
guest_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    endbr64
    .if vector == 0x81
    jmp ring3_return
    .else
    .if !((vector < 32) && ((0x60227d00 >> (vector & 31)) & 1))
    pushq $0
    .endif
    pushq $vector
    jmp trap_common
    .endif
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
    movq %rsp, %rdi
    call guest_trapped
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
    .globl guest_iret
guest_iret:
    iretq

/* void guest_ring3(void (*fn)(uint64_t), uint64_t argument)
 * void guest_ring(void (*fn)(uint64_t), uint64_t argument, uint64_t ring) */
    .globl guest_ring3, guest_ring
guest_ring3:
    endbr64
    movl $3, %edx
guest_ring:
    endbr64
    movq %rdx, %r8
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushq %rax
    movq %rsp, %rdx
    andq $BLOCK_MASK, %rdx
    movq %rsp, TSS_RSP0(%rdx) /* the stack that INT 0x81 comes back to */
    /* Bochs' SVM loses track of an INT n whose delivery has a nested page fault; the case
     * nested-fault-during-delivery shows it, the others keep clear by touching the gate here. */
    movq guest_idt+16*0x81(%rip), %rax
    leaq USER_TOP(%rdx), %rcx
    leaq ring3_done(%rip), %rax
    movq %rax, -8(%rcx)
    subq $8, %rcx
    leaq (USER_DATA & ~3)(%r8), %rax
    pushq %rax
    pushq %rcx
    pushfq
    leaq (USER_CODE & ~3)(%r8), %rax
    pushq %rax
    pushq %rdi
    movq %rsi, %rdi
    iretq

ring3_done:
    int $0x81

ring3_return:
    addq $40, %rsp
    popq %rax
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

/* Where a guest function returns to. */
    .globl guest_returned
guest_returned:
    endbr64
    xorl %eax, %eax
    movl $PORT_DONE, %edx
    outl %eax, %dx
1:  hlt
    jmp 1b

    .section .note.GNU-stack, "", @progbits
