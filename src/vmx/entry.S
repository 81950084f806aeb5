/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * World switch.
 *
 * enum virtx_status vmx_launch(struct vmx_vcpu *v), vmx_resume(v): enter the guest and come back at
 * the exit, with interrupts off. They do not return to their caller themselves: with the host's
 * registers back in place they go on to vmx_exited(v), or to vmx_refused(v, invalid) when the
 * processor did not take the entry, and those return. So no call needs to keep v, and the way is
 * two jumps shorter.
 *
 * Of the registers that a call keeps they keep RBP and RSP only: the loop of src/hw expects no more of
 * virtx_hw.enter, and saves most of them once a run instead of once an exit. C may therefore call them
 * only as the last thing that it does.
 *
 * HOST_RSP is written only when the stack is not where it was at the last entry, which inside one
 * run it always is. CR2 is switched by nobody: writing it is dear, reading it is not.
 *
 * All jumps here are direct, so no landing pads are needed.
 */
#include "vmx/offsets.h"

    /* Registers in the order of struct virtx_state; the guest's RSP is in the VMCS. */
    .macro enter_guest name, instruction, check=0
    pushq %rbp
    pushq %rdi
    cmpq %rsp, VMX_HOST_RSP_AT(%rdi)
    jne 3f
1:
    movq VMX_CR2_AT(%rdi), %rax
    movq %cr2, %rcx
    cmpq %rax, %rcx
    jne 4f
2:
    .if \check
    movq VMX_VCPU_AT(%rdi), %rax
    .globl \name\()_check
\name\()_check:
    cmpl $0, VMX_REQUESTS_AT(%rax)
    jne vmx_abort_point
    .endif
    movq 0(%rdi), %rax
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
    .if \check
    .globl \name\()_entry
\name\()_entry:
    .endif
    \instruction
    jmp .Lrefused
3:
    movq %rsp, VMX_HOST_RSP_AT(%rdi)
    movl $VMX_FIELD_HOST_RSP, %eax
    vmwrite %rsp, %rax
    jmp 1b
4:
    movq %rax, %cr2
    jmp 2b
    .endm

    .text
    .balign 16
    .globl vmx_resume
    .type vmx_resume, @function
vmx_resume:
    enter_guest vmx_resume, vmresume
    .size vmx_resume, . - vmx_resume

    .balign 16
    .globl vmx_launch
    .type vmx_launch, @function
vmx_launch:
    enter_guest vmx_launch, vmlaunch
    .size vmx_launch, . - vmx_launch

/*
 * vmx_launch_checked, vmx_resume_checked: the same where kicks are NMIs. They look at the vcpu's
 * requests once more. An NMI that comes before the look is seen by it; one that comes behind it, before the
 * entry, returns to vmx_abort_point (vmx_nmi_return()), from where the loop looks again. The stack is
 * the same all the way.
 */
    .balign 16
    .globl vmx_resume_checked
    .type vmx_resume_checked, @function
vmx_resume_checked:
    enter_guest vmx_resume, vmresume, 1
    .size vmx_resume_checked, . - vmx_resume_checked

    .balign 16
    .globl vmx_launch_checked
    .type vmx_launch_checked, @function
vmx_launch_checked:
    enter_guest vmx_launch, vmlaunch, 1
    .size vmx_launch_checked, . - vmx_launch_checked

    .globl vmx_abort_point
vmx_abort_point:
    popq %rdi
    popq %rbp
    jmp vmx_aborted

    /* The host's RIP of every exit. */
    .balign 16
    .globl vmx_exit_point
    .type vmx_exit_point, @function
vmx_exit_point:
    pushq %rdi
    movq 8(%rsp), %rdi
    movq %rax, 0(%rdi)
    movq %rcx, 8(%rdi)
    movq %rdx, 16(%rdi)
    movq %rbx, 24(%rdi)
    movq %rbp, 40(%rdi)
    movq %rsi, 48(%rdi)
    popq 56(%rdi)
    movq %r8, 64(%rdi)
    movq %r9, 72(%rdi)
    movq %r10, 80(%rdi)
    movq %r11, 88(%rdi)
    movq %r12, 96(%rdi)
    movq %r13, 104(%rdi)
    movq %r14, 112(%rdi)
    movq %r15, 120(%rdi)
    movq %cr2, %rax
    movq %rax, VMX_CR2_AT(%rdi)
    popq %rax
    popq %rbp
    jmp vmx_exited
    .size vmx_exit_point, . - vmx_exit_point

    /* Fell through: CF for VMfailInvalid, else ZF. The guest's registers in memory are as they
     * were. */
.Lrefused:
    setc %sil
    movzbl %sil, %esi
    popq %rdi
    popq %rbp
    jmp vmx_refused

    .section .note.GNU-stack, "", @progbits
