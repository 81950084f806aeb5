/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * World switch, and the instructions that C cannot say.
 *
 * enum virtx_status svm_vmrun(struct svm_vcpu *sv): enters the guest and comes back at the exit, with
 * interrupts off and GIF set as they were. It does not return to its caller itself: with the host's
 * registers back in place it goes on to svm_exited(sv), which does. So no call needs to keep sv.
 *
 * Of the registers that a call keeps it keeps RBP and RSP only: the loop of src/hw expects no more of
 * virtx_hw.enter, and saves most of them once a run instead of once an exit. C may therefore call it only
 * as the last thing that it does; svm_vmrun_keep() and svm_vmrun_switch() keep them all.
 *
 * Physical interrupts are recognized in the guest by the host's IF (V_INTR_MASKING), so IF is set for
 * the guest's time; GIF holds them off meanwhile. STI comes well before VMRUN, so that its shadow is
 * over. An NMI that ended the guest is taken at STGI, through the host's own IDT.
 */
#include "svm/offsets.h"

    .macro save_host
    pushq %rbx
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
    popq %rbx
    .endm

    /* RAX and RSP travel in the VMCB. struct virtx_state begins with the registers in encoding order. */
    .macro load_guest
    movq 8(%rdi), %rcx
    movq 16(%rdi), %rdx
    movq 24(%rdi), %rbx
    movq 40(%rdi), %rbp
    movq 48(%rdi), %rsi
    movq 64(%rdi), %r8
    movq 72(%rdi), %r9
    movq 80(%rdi), %r10
    movq 88(%rdi), %r11
    movq 96(%rdi), %r12
    movq 104(%rdi), %r13
    movq 112(%rdi), %r14
    movq 120(%rdi), %r15
    movq 56(%rdi), %rdi
    .endm

    /* With sv in RAX. */
    .macro save_guest
    movq %rcx, 8(%rax)
    movq %rdx, 16(%rax)
    movq %rbx, 24(%rax)
    movq %rbp, 40(%rax)
    movq %rsi, 48(%rax)
    movq %rdi, 56(%rax)
    movq %r8, 64(%rax)
    movq %r9, 72(%rax)
    movq %r10, 80(%rax)
    movq %r11, 88(%rax)
    movq %r12, 96(%rax)
    movq %r13, 104(%rax)
    movq %r14, 112(%rax)
    movq %r15, 120(%rax)
    movq %rax, %rdi
    .endm

    .text
    .balign 16
    .globl svm_vmrun
    .type svm_vmrun, @function
svm_vmrun:
    endbr64
    pushq %rbp
    pushq %rdi
    movq SVM_VMCB_HPA_AT(%rdi), %rax
    clgi
    sti
    load_guest
    vmrun %rax
    cli
    stgi
    popq %rax
    save_guest
    popq %rbp
    jmp svm_exited
    .size svm_vmrun, . - svm_vmrun

    .balign 16
    .globl svm_vmrun_keep
    .type svm_vmrun_keep, @function
svm_vmrun_keep:
    endbr64
    save_host
    call svm_vmrun
    restore_host
    ret
    .size svm_vmrun_keep, . - svm_vmrun_keep

/*
 * svm_vmrun_switch: the same for a host whose interrupt and NMI handlers need its FS, GS, TR and
 * LDTR: they are the host's again before STGI lets anything in.
 */
    .balign 16
    .globl svm_vmrun_switch
    .type svm_vmrun_switch, @function
svm_vmrun_switch:
    endbr64
    save_host
    pushq %rbp
    pushq %rdi
    movq SVM_VMCB_HPA_AT(%rdi), %rax
    clgi
    sti
    vmload %rax
    load_guest
    vmrun %rax
    cli
    vmsave %rax
    popq %rax
    save_guest
    popq %rbp
    restore_host
    movq SVM_HOST_HPA_AT(%rdi), %rax
    vmload %rax
    stgi
    jmp svm_exited
    .size svm_vmrun_switch, . - svm_vmrun_switch

    .balign 16
    .globl svm_vmload
    .type svm_vmload, @function
svm_vmload:
    endbr64
    movq %rdi, %rax
    vmload %rax
    ret

    .balign 16
    .globl svm_vmsave
    .type svm_vmsave, @function
svm_vmsave:
    endbr64
    movq %rdi, %rax
    vmsave %rax
    ret

    .balign 16
    .globl svm_clgi
    .type svm_clgi, @function
svm_clgi:
    endbr64
    clgi
    ret

    .balign 16
    .globl svm_stgi
    .type svm_stgi, @function
svm_stgi:
    endbr64
    stgi
    ret

    .section .note.GNU-stack, "", @progbits
