/* SPDX-License-Identifier: BSD-2-Clause */
/* World switch, and the instructions that C cannot say. */

/* struct virtx_state begins with the general-purpose registers in encoding order. */
#define RCX_AT 8
#define RDX_AT 16
#define RBX_AT 24
#define RBP_AT 40
#define RSI_AT 48
#define RDI_AT 56
#define R8_AT 64
#define R9_AT 72
#define R10_AT 80
#define R11_AT 88
#define R12_AT 96
#define R13_AT 104
#define R14_AT 112
#define R15_AT 120

    .macro save_host
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    .endm

    .macro restore_host
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    .endm

    /* RAX and RSP travel in the VMCB. */
    .macro load_guest
    movq RCX_AT(%rdi), %rcx
    movq RDX_AT(%rdi), %rdx
    movq RBX_AT(%rdi), %rbx
    movq RBP_AT(%rdi), %rbp
    movq RSI_AT(%rdi), %rsi
    movq R8_AT(%rdi), %r8
    movq R9_AT(%rdi), %r9
    movq R10_AT(%rdi), %r10
    movq R11_AT(%rdi), %r11
    movq R12_AT(%rdi), %r12
    movq R13_AT(%rdi), %r13
    movq R14_AT(%rdi), %r14
    movq R15_AT(%rdi), %r15
    movq RDI_AT(%rdi), %rdi
    .endm

    .macro save_guest
    movq %rcx, RCX_AT(%rax)
    movq %rdx, RDX_AT(%rax)
    movq %rbx, RBX_AT(%rax)
    movq %rbp, RBP_AT(%rax)
    movq %rsi, RSI_AT(%rax)
    movq %rdi, RDI_AT(%rax)
    movq %r8, R8_AT(%rax)
    movq %r9, R9_AT(%rax)
    movq %r10, R10_AT(%rax)
    movq %r11, R11_AT(%rax)
    movq %r12, R12_AT(%rax)
    movq %r13, R13_AT(%rax)
    movq %r14, R14_AT(%rax)
    movq %r15, R15_AT(%rax)
    .endm

    .text

/*
 * void svm_vmrun(struct svm_vcpu *sv, uint64_t vmcb_hpa): called and left with interrupts off and GIF
 * set. Physical interrupts are recognized in the guest by the host's IF (V_INTR_MASKING), so IF is set for the
 * guest's time; GIF holds them off meanwhile. STI comes well before VMRUN, so that its shadow is
 * over. An NMI that ended the guest is taken at STGI, through the host's own IDT.
 */
    .balign 16
    .globl svm_vmrun
svm_vmrun:
    endbr64
    save_host
    pushq %rdi
    movq %rsi, %rax
    clgi
    sti
    load_guest
    vmrun %rax
    cli
    stgi
    popq %rax
    save_guest
    restore_host
    ret

/*
 * void svm_vmrun_switch(struct svm_vcpu *sv, uint64_t vmcb_hpa, uint64_t host_hpa): the same for a
 * host whose interrupt and NMI handlers need its FS, GS, TR and LDTR: they are the host's again
 * before STGI lets anything in.
 */
    .balign 16
    .globl svm_vmrun_switch
svm_vmrun_switch:
    endbr64
    save_host
    pushq %rdx
    pushq %rdi
    movq %rsi, %rax
    clgi
    sti
    vmload %rax
    load_guest
    vmrun %rax
    cli
    vmsave %rax
    pushq %rax
    movq 8(%rsp), %rax
    save_guest
    movq 16(%rsp), %rax
    vmload %rax
    stgi
    addq $24, %rsp
    restore_host
    ret

    .balign 16
    .globl svm_vmload
svm_vmload:
    endbr64
    movq %rdi, %rax
    vmload %rax
    ret

    .balign 16
    .globl svm_vmsave
svm_vmsave:
    endbr64
    movq %rdi, %rax
    vmsave %rax
    ret

    .balign 16
    .globl svm_stgi
svm_stgi:
    endbr64
    stgi
    ret

    .section .note.GNU-stack, "", @progbits
