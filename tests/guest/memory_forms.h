/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Instructions with a memory operand. Each runs once on RAM, where the processor executes it, and
 * once on a device with the same content: registers, flags and content must come out alike.
 *
 * FORM(name, flags that the manuals leave undefined, text). R8 is the operand's address, 64 bytes on
 * there is a second one; RSI and RDI begin at those two; RAX, RBX, RDX hold patterns, RCX is 5, CF 1.
 */
enum { NONE = 0, AF = 0x10, SHIFT = 0x810, MUL = 0xd4, DIV = 0x8d5, BIT = 0x894 };

#define FORMS(FORM)                                                                                \
    FORM(mov_r8, NONE, "movb (%r8), %al")                                                          \
    FORM(mov_r8_high, NONE, "movb (%rsi), %ah")                                                    \
    FORM(mov_r16, NONE, "movw (%r8), %bx")                                                         \
    FORM(mov_r32, NONE, "movl (%r8), %edx")                                                        \
    FORM(mov_r64, NONE, "movq (%r8), %rbx")                                                        \
    FORM(mov_m8, NONE, "movb %bl, 3(%r8)")                                                         \
    FORM(mov_m8_high, NONE, "movb %bh, 3(%rsi)")                                                   \
    FORM(mov_m16, NONE, "movw %bx, 2(%r8)")                                                        \
    FORM(mov_m32, NONE, "movl %ebx, 4(%r8)")                                                       \
    FORM(mov_m64, NONE, "movq %rbx, 8(%r8)")                                                       \
    FORM(mov_i8, NONE, "movb $0x5a, 1(%r8)")                                                       \
    FORM(mov_i16, NONE, "movw $0x5a5b, 2(%r8)")                                                    \
    FORM(mov_i32, NONE, "movl $0x5a5b5c5d, 4(%r8)")                                                \
    FORM(mov_i64, NONE, "movq $-0x5a5b5c5d, 8(%r8)")                                               \
    FORM(mov_sib, NONE, "movl -12(%r8,%rcx,4), %eax")                                              \
    FORM(mov_unaligned, NONE, "movq 3(%r8), %rax")                                                 \
    FORM(mov_a32, NONE, "movl (%r8d), %eax")                                                       \
    FORM(movzx_b16, NONE, "movzbw (%r8), %ax")                                                     \
    FORM(movzx_b32, NONE, "movzbl (%r8), %eax")                                                    \
    FORM(movzx_b64, NONE, "movzbq (%r8), %rax")                                                    \
    FORM(movzx_w32, NONE, "movzwl (%r8), %eax")                                                    \
    FORM(movsx_b16, NONE, "movsbw 7(%r8), %ax")                                                    \
    FORM(movsx_b32, NONE, "movsbl 7(%r8), %eax")                                                   \
    FORM(movsx_b64, NONE, "movsbq 7(%r8), %rax")                                                   \
    FORM(movsx_w64, NONE, "movswq 6(%r8), %rax")                                                   \
    FORM(movsxd, NONE, "movslq 4(%r8), %rax")                                                      \
    FORM(movnti, NONE, "movnti %rbx, 8(%r8)")                                                      \
    FORM(xchg8, NONE, "xchgb %al, (%r8)")                                                          \
    FORM(xchg16, NONE, "xchgw %ax, (%r8)")                                                         \
    FORM(xchg32, NONE, "xchgl %eax, (%r8)")                                                        \
    FORM(xchg64, NONE, "xchgq %rax, (%r8)")                                                        \
    FORM(add_m32, NONE, "addl %eax, (%r8)")                                                        \
    FORM(add_r32, NONE, "addl (%r8), %eax")                                                        \
    FORM(add_m64_imm8, NONE, "addq $-3, (%r8)")                                                    \
    FORM(lock_add, NONE, "lock addq %rax, (%r8)")                                                  \
    FORM(adc_m8, NONE, "adcb %al, (%r8)")                                                          \
    FORM(adc_r64, NONE, "adcq (%r8), %rax")                                                        \
    FORM(sbb_m32, NONE, "sbbl %eax, (%r8)")                                                        \
    FORM(sub_m16, NONE, "subw $0x1234, (%r8)")                                                     \
    FORM(sub_r32, NONE, "subl (%r8), %eax")                                                        \
    FORM(or_m8, AF, "orb $0x81, (%r8)")                                                            \
    FORM(or_m32, AF, "orl %eax, (%r8)")                                                            \
    FORM(and_m32, AF, "andl %eax, (%r8)")                                                          \
    FORM(and_r64, AF, "andq (%r8), %rax")                                                          \
    FORM(xor_m64, AF, "xorq %rax, (%r8)")                                                          \
    FORM(cmp_m8_imm, NONE, "cmpb $0x12, (%r8)")                                                    \
    FORM(cmp_m32, NONE, "cmpl %eax, (%r8)")                                                        \
    FORM(cmp_r64, NONE, "cmpq (%r8), %rax")                                                        \
    FORM(test_m8_imm, AF, "testb $0x40, (%r8)")                                                    \
    FORM(test_m32, AF, "testl %eax, (%r8)")                                                        \
    FORM(inc_m8, NONE, "incb (%r8)")                                                               \
    FORM(dec_m64, NONE, "decq (%r8)")                                                              \
    FORM(not_m32, NONE, "notl (%r8)")                                                              \
    FORM(neg_m16, NONE, "negw (%r8)")                                                              \
    FORM(xadd, NONE, "lock xaddl %eax, (%r8)")                                                     \
    FORM(cmpxchg_differs, NONE, "lock cmpxchgl %ebx, (%r8)")                                       \
    FORM(cmpxchg_equal, NONE, "movl (%r8), %eax; lock cmpxchgl %ebx, (%r8)")                       \
    FORM(cmpxchg8b, NONE, "lock cmpxchg8b (%r8)")                                                  \
    FORM(bt_imm, BIT, "btl $5, (%r8)")                                                             \
    FORM(bts_imm, BIT, "btsl $3, (%r8)")                                                           \
    FORM(btr_reg, BIT, "btrq %rcx, (%r8)")                                                         \
    FORM(btc_reg_far, BIT, "addq $64, %rcx; btcl %ecx, (%r8)")                                     \
    FORM(shl_1, AF, "shll $1, (%r8)")                                                              \
    FORM(shr_imm, SHIFT, "shrq $7, (%r8)")                                                         \
    FORM(sar_cl, SHIFT, "sarw %cl, (%r8)")                                                         \
    FORM(rol_imm, SHIFT, "rolb $3, (%r8)")                                                         \
    FORM(rcr_1, AF, "rcrl $1, (%r8)")                                                              \
    FORM(shld, SHIFT, "shldl $4, %eax, (%r8)")                                                     \
    FORM(imul_r32, MUL, "imull (%r8), %eax")                                                       \
    FORM(mul_m64, MUL, "mulq (%r8)")                                                               \
    FORM(div_m32, DIV, "movl $7, %edx; divl 4(%r8)")                                               \
    FORM(bsf, 0x895, "bsfl (%r8), %eax")                                                           \
    FORM(cmov_taken, NONE, "cmovcl (%r8), %eax")                                                   \
    FORM(cmov_not_taken, NONE, "cmovncl (%r8), %eax")                                              \
    FORM(setc, NONE, "setc 5(%r8)")                                                                \
    FORM(push_m64, NONE, "pushq (%r8); popq %rbx")                                                 \
    FORM(pop_m64, NONE, "pushq %rbx; popq 8(%r8)")                                                 \
    FORM(call_m64, NONE, "leaq 1f(%rip), %rax; movq %rax, 128(%r8); call *128(%r8); jmp 2f; "      \
                         "1: incq %rdx; ret; 2: movq $0, 128(%r8); xorl %eax, %eax")               \
    FORM(movsb, NONE, "movsb")                                                                     \
    FORM(rep_movsb, NONE, "rep movsb")                                                             \
    FORM(rep_movsl, NONE, "rep movsl")                                                             \
    FORM(rep_movsq_down, NONE, "addq $40, %rsi; addq $40, %rdi; std; rep movsq; cld")              \
    FORM(stosb, NONE, "stosb")                                                                     \
    FORM(rep_stosl, NONE, "rep stosl")                                                             \
    FORM(lodsq, NONE, "lodsq")                                                                     \
    FORM(rep_lodsw, NONE, "rep lodsw")                                                             \
    FORM(scasb, NONE, "scasb")                                                                     \
    FORM(repne_scasb, NONE, "repne scasb")                                                         \
    FORM(cmpsl, NONE, "cmpsl")                                                                     \
    FORM(repe_cmpsb, NONE, "repe cmpsb")
