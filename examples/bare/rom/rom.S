/* SPDX-License-Identifier: BSD-2-Clause */
/* The quick ROM: what Bochs runs from reset instead of a BIOS. It does what a multiboot loader
 * does last, enter 32-bit protected mode and jump to the image, which the emulator has put at
 * 1 MiB. tools/machine fills in the rest of the 64 KiB: the end of the image at 0xff8, the
 * multiboot information at 0x1000 and an MP table at 0x8000. The ROM is seen at 0xffff0000 and at 0xf0000. */

    .section .text
    .code16
start16:
    cli
    lgdtl %cs:(gdt_pointer - start16) /* start16 is the ROM's first byte */
    movl $0x11, %eax
    movl %eax, %cr0
    ljmpl $0x08, $start32

    .code32
start32:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %eax, %fs
    movl %eax, %gs
    /* Bochs hands out its memory in blocks as they are first touched; the image lies right only
     * if they come in order. tools/machine says where it ends. */
    movl $0x100000, %esi
1:  movl (%esi), %eax
    addl $0x20000, %esi
    cmpl 0x000f0ff8, %esi
    jb 1b
    movl $0x2badb002, %eax
    movl $0x000f1000, %ebx
    jmp *0x10001c /* the image's entry_addr */

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt

    .section .reset, "ax"
    .code16
    jmp start16
    .section .note.GNU-stack, "", @progbits
