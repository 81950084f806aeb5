/* SPDX-License-Identifier: BSD-2-Clause */
/* The multiboot header and the way from a loader to kernel_main. FLAT: the header has the address
 * fields. MULTIBOOT2: it is that of the second version. Assembled for 64 bits, the kernel switches to long mode itself. */
#ifdef FLAT
#define FLAGS 0x00010003
#else
#define FLAGS 0x00000003
#endif

    .section .multiboot, "a"
#ifdef MULTIBOOT2
    .balign 8
header:
    .long 0xe85250d6, 0, header_end - header, -(0xe85250d6 + header_end - header)
    .short 1, 0                 /* information: command line, memory map, new RSDP */
    .long 20, 1, 6, 15, 0
    .short 0, 0
    .long 8
header_end:
#else
    .balign 4
header:
    .long 0x1badb002, FLAGS, -(0x1badb002 + FLAGS)
#ifdef FLAT
    .long header, kernel_start, kernel_data_end, kernel_end, start
#endif
#endif

    .section .text.start, "ax"
    .code32
    .globl start
start:
    movl %eax, boot_state
    movl %ebx, boot_state + 4
    movl $stack_top, %esp
    pushfl
    popl boot_state + 8
    movl %cr0, %eax
    movl %eax, boot_state + 12
    call 1f                     /* CS has base 0 when we are where we were linked */
1:  popl %eax
    subl $1b, %eax
    movl %eax, boot_state + 16

    /* Every data segment: writable, base 0, and 4 GiB long. Without a descriptor table of ours a
     * fault here is a triple fault. */
    incl %ds:boot_state + 20
    incl %es:boot_state + 20
    incl %fs:boot_state + 20
    incl %gs:boot_state + 20
    incl %ss:boot_state + 20
    movl %ds:0xfffffffc, %eax
    movl %es:0xfffffffc, %eax
    movl %fs:0xfffffffc, %eax
    movl %gs:0xfffffffc, %eax
    movl %ss:0xfffffffc, %eax

    /* Address line 20: 0x500 and 0x100500 are two places. */
    movl 0x100500, %eax
    movl 0x500, %ecx
    notl %eax
    movl %eax, 0x500
    notl %eax
    cmpl %eax, 0x100500
    sete boot_state + 24
    movl %ecx, 0x500

    lgdt gdt_pointer
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
#ifdef __x86_64__
    movl $pdpt + 7, pml4
    xorl %ecx, %ecx
2:  movl %ecx, %eax             /* four directories, 2048 pages of 2 MiB */
    shll $21, %eax
    orl $0x87, %eax
    movl %eax, directories(, %ecx, 8)
    incl %ecx
    cmpl $2048, %ecx
    jne 2b
    movl $directories + 7, pdpt
    movl $directories + 0x1007, pdpt + 8
    movl $directories + 0x2007, pdpt + 16
    movl $directories + 0x3007, pdpt + 24
    movl $pml4, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x20, %eax
    movl %eax, %cr4
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax
    movl %eax, %cr0
    ljmpl $0x18, $3f
    .code64
3:  call kernel_main
#else
    ljmpl $0x08, $3f
3:  call kernel_main
#endif
4:  cli
    hlt
    jmp 4b

    .data
    .balign 8
gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff
gdt_pointer:
    .word . - gdt - 1
    .long gdt, 0
    .globl boot_state
    .balign 4
boot_state:
    .long 0, 0, 0, 0, 0, 0, 0

    .bss
    .balign 4096
#ifdef __x86_64__
    .globl pml4, pdpt
pml4:
    .skip 4096
pdpt:
    .skip 4096
directories:
    .skip 4 * 4096
#endif
    .skip 16384
stack_top:
    .section .note.GNU-stack, "", @progbits
