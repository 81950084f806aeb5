/* SPDX-License-Identifier: BSD-2-Clause */
/* Protected mode without paging. esi: a directory of 32-bit paging, edi: PDPTEs of PAE paging, ebx: an
 * address that both map, each elsewhere, edx: one for no paging; ecx: rounds. */
    .text
    .code32
    .globl paging_toggles, paging_toggles_end
paging_toggles:
    xorl %ebp, %ebp
1:  movl %cr4, %eax
    andl $~0x20, %eax       /* PAE */
    orl $0x10, %eax         /* PSE */
    movl %eax, %cr4
    movl %esi, %cr3
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    addl 0x300000(%ebx), %ebp
    movl %cr0, %eax
    andl $0x7fffffff, %eax
    movl %eax, %cr0
    movl %cr4, %eax
    orl $0x20, %eax
    movl %eax, %cr4
    movl %edi, %cr3
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    addl 0x140000(%ebx), %ebp
    movl %cr0, %eax
    andl $0x7fffffff, %eax
    movl %eax, %cr0
    addl (%edx), %ebp
    decl %ecx
    jnz 1b
    movl %ebp, %eax
    movl $0x500, %edx       /* PORT_DONE */
    outl %eax, %dx
2:  jmp 2b
paging_toggles_end:
    .code64

    .section .note.GNU-stack, "", @progbits
