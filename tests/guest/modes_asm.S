/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Programs in real mode, on the way through the other modes and back. Each is copied to CODE in the
 * guest's memory and starts there with CS, DS, ES, SS = 0; A() is where a label then lies. What it has
 * seen it writes to the words at NOTES, and ends with OUT to PORT_DONE.
 */
#include "modes.h"

/* 90: is where the program begins. */
#define A(label) ((label) - 90b + CODE)
#define NOTE(n)  (NOTES + 4 * (n))

    .section .rodata
    .macro begin name
    .globl \name, \name\()_end
    .balign 16
    .code16
\name:
90:
    .endm
    .macro end name
\name\()_end:
    .endm
    .macro done
    movw $PORT_DONE, %dx
    xorl %eax, %eax
    outl %eax, %dx
    .endm
    /* The vector's entry in the table. */
    .macro vector n, handler
    movw $A(\handler), 4 * \n
    movw $0, 4 * \n + 2
    .endm

/* Flags, stack, interrupts through the table. */
begin real_flags
    vector 0x21, 1f
    vector 3, 2f
    vector 4, 3f
    pushfw
    popw NOTE(0)            /* as they start: IOPL 0 */
    pushw $0x7002           /* IOPL 3, NT */
    popfw
    pushfw
    popw NOTE(1)
    pushw $2
    popfw
    sti
    pushfw
    popw NOTE(2)
    cli
    pushfw
    popw NOTE(3)
    movl $0x12345678, %eax
    stc
    sti
    int $0x21
    pushfw
    popw NOTE(8)
    int3
    movb $0x7f, %al
    addb $1, %al
    into
    pushfl                  /* 32 bits in real mode */
    popl NOTE(12)
    smsww %ax
    movw %ax, NOTE(13)
    movl %cr0, %eax
    movl %eax, NOTE(14)
    sidtl NOTE(15)
    movw $0xffff, %sp       /* two bytes at the end of the segment do not fit */
    movw $0x7000, %sp
    done
1:  pushfw
    popw NOTE(4)            /* IF is clear */
    movl %eax, NOTE(5)
    movw %sp, %bp
    movw (%bp), %ax
    movw %ax, NOTE(6)       /* IP */
    movw 4(%bp), %ax
    movw %ax, NOTE(7)       /* FLAGS */
    iretw
2:  incw NOTE(9)
    iretw
3:  incw NOTE(10)
    movw %sp, %bp
    movw 4(%bp), %ax
    movw %ax, NOTE(11)
    iretw
end real_flags

/* Exceptions: each handler steps over the instruction, whose length is in CX. */
begin real_faults
    vector 0, 1f
    vector 6, 2f
    vector 13, 3f
    vector 12, 4f
    movw $2, %cx
    xorw %bx, %bx
    divw %bx                /* #DE */
    ud2                     /* #UD */
    movw $3, %cx
    lldt %bx                /* #UD in real mode */
    movw $3, %cx
    movw 0xffff, %ax        /* #GP: beyond the limit */
    movw $3, %bp
    movw $4, %cx
    movw $0xfffc, %bp
    movl 2(%bp), %eax       /* #SS */
    movw $2, %cx
    xorl %ecx, %ecx
    movb $3, %cl
    movl $0x10000, %ebx
    movb (%ebx), %al        /* #GP: a 32-bit address in a 64 KiB segment (67 8A 03) */
    movw %sp, NOTE(5)
    done
1:  incw NOTE(0)
    jmp 5f
2:  incw NOTE(1)
    jmp 5f
3:  incw NOTE(2)
    jmp 5f
4:  incw NOTE(3)
5:  movw %sp, %di
    addw %cx, (%di)
    movw 4(%di), %ax
    orw %ax, NOTE(4)
    iretw
end real_faults

/* Instructions that the virtual-8086 mode of a processor would refuse. */
begin real_system
    movl $7, %eax
    xorl %ecx, %ecx
    cpuid
    movl $1, %eax
    cpuid
    movl %eax, NOTE(0)
    movl $0x174, %ecx
    movl $0x1234, %eax
    xorl %edx, %edx
    wrmsr
    xorl %eax, %eax
    rdmsr
    movl %eax, NOTE(1)
    movl %cr4, %eax
    orl $4, %eax            /* TSD: nothing that real mode obeys */
    movl %eax, %cr4
    movl %cr4, %eax
    movl %eax, NOTE(2)
    rdtsc
    movl $0x5a5a, %eax
    movl %eax, %dr0
    movl %dr0, %ebx
    movl %ebx, NOTE(3)
    movl %cr0, %eax
    orl $8, %eax            /* TS */
    movl %eax, %cr0
    clts
    movl %cr0, %eax
    movl %eax, NOTE(4)
    movw $4, %ax
    lmsw %ax                /* EM */
    smsww NOTE(5)
    xorw %ax, %ax
    lmsw %ax
    wbinvd
    invlpg 0x1000
    movl $0x1000, %eax
    movl %eax, %cr3
    movl %cr3, %ebx
    movl %ebx, NOTE(6)
    movw $PORT_MARK, %dx
    movl $0x11223344, %eax
    outl %eax, %dx
    movw $A(9f), %si
    movw $PORT_MARK, %dx
    movw $2, %cx
    rep outsl
    movw %cx, NOTE(7)
    lgdtl A(8f)
    sgdtl NOTE(8)
    movl $0x80000000, %eax
    movl $0xffffffff, %edx
    movw $0xf000, %bx
    movw %bx, %fs
    movl $0x600d, %fs:0xff00    /* 0xfff00 */
    movl %fs:0xff00, %ebx
    movl %ebx, NOTE(10)
    movw $0xffff, %bx
    movw %bx, %gs
    movl $0xa20a20, %gs:0x20    /* 0x100010: beyond 1 MiB */
    done
8:  .word 0x2f
    .long 0x123456
9:  .long 1, 2
end real_system

/* Real, 16-bit protected, 32-bit protected, 16-bit protected with big segments, big real, real. */
begin mode_changes
    cli
    lgdtl A(8f)
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    movw $0x123, %bx        /* still in the segments of real mode */
    movw %bx, NOTE(0)
    ljmpw $0x08, $A(1f)
1:  movw $0x18, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw %ax, %fs
    movw %ax, %gs
    str %cx
    movw %cx, NOTE(1)
    ljmpl $0x10, $A(2f)
    .code32
2:  movw $0x18, %ax
    movw %ax, %ss
    movl $0x6000, %esp
    movl $0x200000 - 4, %edi
    movl $0xb16, (%edi)
    pushl $A(3f)
    ret
3:  lidtl A(7f)
    int $0x20
    movw $0x30, %ax
    ltr %ax
    str %cx
    movw %cx, NOTE(2)
    movl %cr3, %eax         /* not the one that the processor may have */
    movl %eax, NOTE(3)
    movl %cr0, %eax
    movl %eax, NOTE(4)
    movl %cr4, %eax
    movl %eax, NOTE(5)
    movl $0x77000, %eax
    movl %eax, %cr3
    movl %cr3, %eax
    movl %eax, NOTE(6)
    movl %cr0, %eax         /* what the processor does with its own PDPTEs is not for the guest */
    movl %eax, %cr0
    orl $0x50002, %eax      /* AM, WP, MP */
    movl %eax, %cr0
    orl $0x40000000, %eax   /* CD */
    movl %eax, %cr0
    movl %cr0, %ecx
    movl %ecx, NOTE(14)
    andl $0x11, %eax
    movl %eax, %cr0
    movl $0x174, %ecx
    ljmp $0x08, $A(4f)
    .code16
4:  movl %cr0, %eax
    andb $0xfe, %al
    movl %eax, %cr0
    ljmpw $0, $A(5f)
5:  xorw %ax, %ax           /* 4 GiB segments in real mode */
    movw %ax, %ss
    movw $0x7000, %sp
    movl $0x200000 - 4, %ebx
    addl $1, (%ebx)
    movl (%ebx), %ecx
    movl %ecx, NOTE(7)
    movw %ax, %ds
    movw %ax, %es
    lidtl A(9f)
    movl $100, %ecx
6:  incl NOTE(8)
    .byte 0x67              /* counts in ECX */
    loop 6b
    vector 0x30, 77f
    movl $0x80000001, %eax
    int $0x30
    movw $PORT_MARK, %dx    /* an exit in big real mode */
    outl %eax, %dx
    inl %dx, %eax
    movl %eax, NOTE(10)
    /* and back to 64 KiB segments, by way of protected mode */
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    movw $0x28, %bx
    movw %bx, %ds
    movw %bx, %es
    movw %bx, %ss
    movw %bx, %fs
    movw %bx, %gs
    andb $0xfe, %al
    movl %eax, %cr0
    ljmpw $0, $A(78f)
78: xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw %ax, %fs
    movw %ax, %gs
    movw $0x7000, %sp
    sti
    pushfw
    popw NOTE(11)
    done
77: incl NOTE(9)
    iretw
    .balign 8
    .code32
79: movl 4(%esp), %eax      /* CS of the interrupted code */
    movl %eax, NOTE(12)
    incl NOTE(13)
    iretl
    .code16
    .balign 8
80: .quad 0
    .quad 0x00009b000000ffff    /* 08: 16-bit code */
    .quad 0x00cf9b000000ffff    /* 10: 32-bit code */
    .quad 0x00cf93000000ffff    /* 18: 4 GiB of data */
    .quad 0
    .quad 0x000093000000ffff    /* 28: 64 KiB of data */
    .quad 0x0000890050000067    /* 30: TSS */
8:  .word 0x37
    .long A(80b)
81: .fill 0x20 * 8
    .word A(79b), 0x10, 0x8e00, 0
7:  .word 0x21 * 8 - 1
    .long A(81b)
9:  .word 0x3ff
    .long 0
end mode_changes

/* HLT, woken; counts what comes. The host injects vector 0x40 each time, and an NMI once. */
begin real_events
    vector 0x40, 1f
    vector 2, 2f
    vector 1, 3f
    sti
    hlt
    hlt
    cli
    movw $PORT_MARK, %dx
    outl %eax, %dx          /* the host injects while IF is clear */
    nop
    movl NOTE(0), %eax
    movl %eax, NOTE(1)
    sti
    nop
    nop
    movl NOTE(0), %eax
    movl %eax, NOTE(2)
    outl %eax, %dx          /* an NMI, and another in its handler */
    nop
    pushw $0x102            /* TF */
    popfw
    nop
    incw %ax
    cpuid
    movw %ax, %ss           /* no trap behind this */
    nop
    pushw $2
    popfw                   /* the last to trap */
    nop
    movw $0, %ax
    movw %ax, %ss
    done
1:  incl NOTE(0)
    iretw
2:  incl NOTE(3)
    movl NOTE(3), %eax
    cmpl $1, %eax
    jne 4f
    outl %eax, %dx
    nop
    movl NOTE(3), %eax
    movl %eax, NOTE(4)      /* still 1: NMIs are blocked until IRET */
4:  iretw
3:  incl NOTE(5)
    xorw %ax, %ax
    iretw
end real_events

/*
 * Task switches of 32-bit code with paging, each task with tables of its own: CALL, IRET, a task gate
 * with an error code, the debug trap of a TSS, INT n and CALL through task gates, JMP.
 */
#define TASK(n)      (0x3000 + 0x100 * (n))
#define DIRECTORY(n) (0x10000 + 0x1000 * (n))
#define WINDOW(n)    (0x400000 * ((n) + 1)) /* address 0 once more, in task n's tables only */
    .macro task n, entry, stack
    movl $DIRECTORY(\n), TASK(\n) + 0x1c
    movl $A(\entry), TASK(\n) + 0x20
    movl $2, TASK(\n) + 0x24
    movl $\stack, TASK(\n) + 0x38
    movl $0x10, TASK(\n) + 0x48
    movl $0x08, TASK(\n) + 0x4c
    movl $0x10, TASK(\n) + 0x50
    movl $0x10, TASK(\n) + 0x54
    movl $0x83, DIRECTORY(\n)
    movl $0x83, DIRECTORY(\n) + 4 * (\n + 1)
    .endm
    .macro task_gate vector, selector
    movl $\selector << 16, 0x2000 + 8 * \vector
    movl $0x8500, 0x2004 + 8 * \vector
    .endm
begin task_switches
    cli
    lgdtl A(8f)
    lidtl A(7f)
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $0x08, $A(1f)
    .code32
1:  movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $0x7000, %esp
    task 0, 1f, 0x7000
    task 1, 2f, 0x6800
    task 2, 3f, 0x6400
    task_gate 13, 0x28
    task_gate 14, 0x28
    movl $0x80000 + A(5f), 0x2000 + 8
    movl $0x8e00, 0x2004 + 8
    movl %cr4, %eax
    orb $0x10, %al          /* 4 MiB pages */
    movl %eax, %cr4
    movl $DIRECTORY(0), %eax
    movl %eax, %cr3
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    jmp 1f
1:  movw $0x18, %ax
    ltr %ax
    incl WINDOW(0) + NOTE(0)
    lcall $0x20, $0         /* to task 1, and back */
    movl %cr3, %eax
    movl %eax, NOTE(3)
    incl WINDOW(0) + NOTE(0)
    movl %cr0, %eax
    movl %eax, NOTE(4)
    clts
    movw $0x4b, %ax
6:  movw %ax, %es           /* #GP(0x48): to task 2, which returns behind it */
    incl WINDOW(0) + NOTE(0)
    movw $1, TASK(1) + 0x64
    movl $0x155, %eax
    movl %eax, %dr7
    lcall $0x20, $0         /* again, behind its IRET; with the debug trap */
    movl %dr7, %eax
    movl %eax, NOTE(8)
    strw NOTE(9)
    int $14                 /* to task 2 by a task gate, and back */
    lcall $0x30, $0         /* by one in the GDT */
    ljmpl $0x28, $0         /* with no way back but another JMP */
    pushfl
    popl NOTE(15)
    movb A(9f) + 0x1d, %al
    movb %al, NOTE(16)
    movb A(9f) + 0x2d, %al
    movb %al, NOTE(17)
    strw NOTE(18)
    movw $PORT_DONE, %dx
    xorl %eax, %eax
    outl %eax, %dx
    /* task 1 */
2:  movl %cr3, %eax
    movl %eax, NOTE(1)
    pushfl
    popl NOTE(2)
    incl WINDOW(1) + NOTE(10)
    iretl
    incl WINDOW(1) + NOTE(10)
    iretl
    /* task 2 */
3:  popl NOTE(5)
    strw NOTE(6)
    movl TASK(0) + 0x20, %eax
    subl $A(6b), %eax
    movl %eax, NOTE(11)
    addl $2, TASK(0) + 0x20
    incl WINDOW(2) + NOTE(12)
    iretl
    incl WINDOW(2) + NOTE(14)   /* INT n: no error code */
    movl %esp, NOTE(19)
    iretl
    incl WINDOW(2) + NOTE(14)
    iretl
    incl WINDOW(2) + NOTE(14)
    ljmpl $0x18, $0
    /* #DB */
5:  movl %dr6, %eax
    movl %eax, NOTE(7)
    strw NOTE(13)
    iretl
    .code16
    .balign 8
9:  .quad 0
    .quad 0x00cf9b000000ffff    /* 08: code */
    .quad 0x00cf93000000ffff    /* 10: data */
    .quad 0x0000890030000067    /* 18: task 0 */
    .quad 0x0000890031000067    /* 20: task 1 */
    .quad 0x0000890032000067    /* 28: task 2 */
    .quad 0x0000850000280000    /* 30: task gate */
8:  .word 55
    .long A(9b)
7:  .word 15 * 8 - 1
    .long 0x2000
end task_switches

/* In big real mode, for ever. */
begin big_real_loop
    cli
    lgdtl A(8f)
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    movw $8, %bx
    movw %bx, %ds
    movb $0, %al
    movl %cr0, %eax
    andb $0xfe, %al
    movl %eax, %cr0
    ljmpw $0, $A(1f)
1:  vector 0x40, 3f
    sti
2:  incl NOTE(0)
    jmp 2b
3:  incl NOTE(1)
    iretw
    .balign 8
7:  .quad 0
    .quad 0x00cf93000000ffff
8:  .word 15
    .long A(7b)
end big_real_loop

/* From real mode straight to 64-bit mode and back: page tables at 0x10000. */
begin long_mode_and_back
    cli
    lgdtl A(8f)
    movl %cr4, %eax         /* before LME: QEMU loses the host's paging at an exit with LME only */
    orl $0x20, %eax
    movl %eax, %cr4
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl $0x10000, %eax
    movl %eax, %cr3
    movl %cr0, %eax
    orl $0x80000001, %eax
    movl %eax, %cr0
    ljmpw $8, $A(1f)
    .code64
1:  movl $0x18, %eax
    movl %eax, %ss
    movabsq $0x123456789abcdef0, %rax
    shrq $32, %rax
    movl %eax, NOTE(0)
    movl $0xc0000080, %ecx
    rdmsr
    movl %eax, NOTE(1)
    ljmpl *A(7f)
    .code16
2:  movl %cr0, %eax
    andl $0x7fffffff, %eax
    movl %eax, %cr0
    movl $0xc0000080, %ecx
    rdmsr
    movl %eax, NOTE(2)
    andl $0xfffffeff, %eax
    wrmsr
    movl %cr0, %eax
    andb $0xfe, %al
    movl %eax, %cr0
    ljmpw $0, $A(3f)
3:  xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl %cr0, %eax
    movl %eax, NOTE(3)
    done
7:  .long A(2b)
    .word 0x10
    .balign 8
6:  .quad 0
    .quad 0x00209b0000000000    /* 08: 64-bit code */
    .quad 0x00009b000000ffff    /* 10: 16-bit code */
    .quad 0x000093000000ffff    /* 18: data */
8:  .word 0x1f
    .long A(6b)
end long_mode_and_back

    .section .note.GNU-stack, "", @progbits
