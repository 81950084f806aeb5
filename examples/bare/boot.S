/* SPDX-License-Identifier: BSD-2-Clause */
/* Start-up: from a multiboot loader (32-bit protected mode) or a start-up IPI (real mode) to C in
 * 64-bit mode, on the first and on every other processor. */

#define CR0_VALUE    0x80010033 /* PG WP NE ET MP PE: paging on, x87 errors native, caches on */
#define CR4_PAE      0x20
#define MSR_EFER     0xc0000080
#define EFER_LME     0x100
#define EFER_NXE     0x800
#define PTE_LARGE    0x83 /* present, writable, large page, write-back */
#define PTE_LARGE_UC 0x9b /* the same with PCD and PWT: uncacheable by the reset value of the PAT */
#define PTE_TABLE    0x03
#define STACK_BLOCK  0x20000 /* BARE_STACK_BLOCK of bare.h */
#define TABLE_GIB    64 /* how much is mapped where the processor has no 1 GiB pages */

#define SEL_CODE64 0x08
#define SEL_DATA   0x10
#define SEL_CODE32 0x18

    .section .multiboot, "a"
    .balign 4
multiboot_header:
    .long 0x1badb002
    .long 0x00010003 /* page-aligned modules, memory information, the address fields below */
    .long -(0x1badb002 + 0x00010003)
    .long multiboot_header /* header_addr */
    .long multiboot_header /* load_addr: the first byte of the image is the header */
    .long __load_end
    .long __bss_end
    .long bare_start /* entry_addr at image + 0x1c: the quick ROM jumps through it */

    .text
    .code32
    .globl bare_start
bare_start:
    cli
    cld
    movl %eax, %esi /* the loader's magic and information, kept over what follows */
    movl %ebx, %ebp
    xorl %eax, %eax /* not every loader clears .bss */
    movl $__bss_start, %edi
    movl $__bss_end, %ecx
    subl %edi, %ecx
    shrl $2, %ecx
    rep stosl
    movl $boot_stack_top, %esp

    movl $0x80000000, %eax
    cpuid
    cmpl $0x80000001, %eax
    jb no_long_mode
    movl $0x80000001, %eax
    cpuid
    btl $29, %edx
    jnc no_long_mode
    btl $26, %edx
    jc gib_pages

    /* 2 MiB pages: TABLE_GIB page directories, one after the other. */
    movl $bare_pd, %edi
    movl $PTE_LARGE, %eax
    xorl %edx, %edx
    movl $(TABLE_GIB * 512), %ecx
1:  movl %eax, (%edi)
    movl %edx, 4(%edi)
    addl $0x200000, %eax
    adcl $0, %edx
    addl $8, %edi
    loop 1b
    movl $(bare_pd + 3 * 4096), %edi /* the fourth GiB holds the devices */
    movl $512, %ecx
1:  orl $(PTE_LARGE_UC), (%edi)
    addl $8, %edi
    loop 1b
    movl $bare_pdpt, %edi
    movl $(bare_pd + PTE_TABLE), %eax
    movl $TABLE_GIB, %ecx
1:  movl %eax, (%edi)
    addl $4096, %eax
    addl $8, %edi
    loop 1b
    jmp tables_ready

gib_pages:
    movl $bare_pdpt, %edi
    movl $PTE_LARGE, %eax
    xorl %edx, %edx
    movl $512, %ecx
1:  movl %eax, (%edi)
    movl %edx, 4(%edi)
    addl $0x40000000, %eax
    adcl $0, %edx
    addl $8, %edi
    loop 1b
    orl $(PTE_LARGE_UC), bare_pdpt + 3 * 8

tables_ready:
    movl $(bare_pdpt + PTE_TABLE), bare_pml4
    movl $start64, %edi
    jmp enter_long_mode

/* In: %edi where to go on in 64-bit mode. Keeps %esi and %ebp. */
enter_long_mode:
    movl $CR4_PAE, %eax
    movl %eax, %cr4
    movl $bare_pml4, %eax
    movl %eax, %cr3
    movl $0x80000001, %eax
    cpuid
    movl %edx, %ebx
    movl $MSR_EFER, %ecx
    rdmsr
    orl $EFER_LME, %eax
    btl $20, %ebx
    jnc 1f
    orl $EFER_NXE, %eax
1:  wrmsr
    movl $CR0_VALUE, %eax
    movl %eax, %cr0
    lgdt boot_gdt_pointer
    ljmp $SEL_CODE64, $1f
    .code64
1:  movl $SEL_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    lldt %ax
    movl %edi, %edi
    jmp *%rdi

start64:
    endbr64
    movl $boot_stack_top, %esp
    movl %esi, %edi
    movl %ebp, %esi
    xorl %ebp, %ebp
    call bare_start_first
    ud2

ap_start64:
    endbr64
    movq bare_ap_cpu(%rip), %rdi /* set by bare_cpu_run before the start-up IPI */
    movq bare_ap_stack(%rip), %rsp
    xorl %ebp, %ebp
    call bare_start_other
    ud2

    .code32
ap_start32:
    movl $SEL_DATA, %eax
    movl %eax, %ds
    movl $ap_start64, %edi
    jmp enter_long_mode

/* No 64-bit mode: say so the way bare_exit does, with the status BARE_STATUS_NO_LONG_MODE. */
no_long_mode:
    movl $no_long_mode_text, %esi
1:  lodsb
    testb %al, %al
    jz 2f
    outb %al, $0xe9
    jmp 1b
2:  movl $98, %eax
    outl %eax, $0xf4
    movl $shutdown_text, %esi
    movl $0x8900, %edx
    movl $8, %ecx
    rep outsb
3:  cli
    hlt
    jmp 3b

/* What a start-up IPI runs, copied to a page below 1 MiB. Reaches everything through CS. */
    .section .rodata
    .code16
    .globl bare_trampoline, bare_trampoline_end
bare_trampoline:
    cli
    cld
    lgdtl %cs:(trampoline_gdt_pointer - bare_trampoline)
    movl $0x11, %eax
    movl %eax, %cr0
    ljmpl $SEL_CODE32, $ap_start32
    .balign 8
trampoline_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .long boot_gdt
bare_trampoline_end:

    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff /* SEL_CODE64 */
    .quad 0x00cf93000000ffff /* SEL_DATA */
    .quad 0x00cf9b000000ffff /* SEL_CODE32 */
boot_gdt_end:
boot_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .quad boot_gdt

no_long_mode_text:
    .asciz "\001log\nbare: this processor has no 64-bit mode\n\001exit 98\n"
shutdown_text:
    .ascii "Shutdown"

    .bss
    .balign 4096
bare_pml4:
    .skip 4096
bare_pdpt:
    .skip 4096
bare_pd:
    .skip 4096 * TABLE_GIB
    .balign STACK_BLOCK
    .globl bare_first_stack
bare_first_stack: /* begins with the index of the processor, 0 */
    .skip STACK_BLOCK
boot_stack_top:

    .section .note.GNU-stack, "", @progbits
