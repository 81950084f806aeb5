/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Raw entries, past the library.
 *
 * uint64_t checker_vmlaunch(void): 0 after an exit, 1 after VMfailInvalid, 2 after VMfailValid. The
 * host's RIP and RSP are written here; the guest's registers do not matter.
 *
 * void checker_vmrun(uint64_t vmcb_hpa): with GIF clear until the end.
 */
    .macro save
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    .endm
    .macro restore
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    .endm

    .text
    .globl checker_vmlaunch
checker_vmlaunch:
    endbr64
    save
    movl $0x6c14, %eax
    vmwrite %rsp, %rax
    vmlaunch
    setc %al
    setz %cl
    movzbl %al, %eax
    movzbl %cl, %ecx
    leaq (%rax, %rcx, 2), %rax
    restore
    ret

    .globl checker_exit
checker_exit:
    xorl %eax, %eax
    restore
    ret

    .globl checker_vmrun
checker_vmrun:
    endbr64
    save
    movq %rdi, %rax
    clgi
    vmrun %rax
    stgi
    restore
    ret

    .section .note.GNU-stack, "", @progbits
