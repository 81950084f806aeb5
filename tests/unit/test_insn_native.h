/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Running one instruction natively, on registers and memory of the test's choice: the oracle for
 * the executor. In 64-bit code, or in 32-bit code through the kernel's compatibility segment.
 */
#ifndef TEST_INSN_NATIVE_H
#define TEST_INSN_NATIVE_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

/* Below 2 GiB, so that absolute 32-bit addresses reach everything without a register. */
#define NATIVE_STATE  0x20000000ul
#define NATIVE_CODE   0x20010000ul
#define NATIVE_MEMORY 0x20020000ul

enum { NATIVE_MEMORY_SIZE = 4096 };

struct native_state {
    uint64_t gpr[16];
    uint64_t flags;    /* at 0x80 */
    uint64_t host_rsp; /* at 0x88 */
    uint64_t taken;    /* at 0x90: the instruction continued at the branch target */
    uint64_t vector;   /* at 0x98: exception plus one, 0 for none */
};

#define STATE(offset) "0x20000000 + " #offset

/* Assembled once, copied next to the instruction. Only MOV between the flags and the instruction.
 */
__asm__(
    ".pushsection .rodata\n"
    "native_enter:\n"
    "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    "mov %rsp, " STATE(
        0x88) "\n"
              "pushq " STATE(
                  0x80) "\n"
                        "popfq\n"
                        "mov " STATE(0x00) ", %rax; mov " STATE(
                            0x08) ", %rcx; mov " STATE(0x10) ", %rdx\n"
                                                             "mov " STATE(0x18) ", %rbx; "
                                                                                "mov " STATE(0x28) ", %rbp; mov " STATE(0x30) ", %rsi\n"
                                                                                                                              "mov " STATE(
                                                                                                                                  0x38) ", %rdi; mov " STATE(0x40) ", %r8; mov " STATE(0x48) ", %r9\n"
                                                                                                                                                                                             "mov " STATE(0x50) ", %r10; mov " STATE(0x58) ", %r11; mov " STATE(0x60) ", %r12\n"
                                                                                                                                                                                                                                                                      "mov " STATE(0x68) ", %r13; mov " STATE(
                                                                                                                                                                                                                                                                          0x70) ", %r14; mov " STATE(0x78) ", %r15\n"
                                                                                                                                                                                                                                                                                                           "mov " STATE(
                                                                                                                                                                                                                                                                                                               0x20) ", %rsp\n"
                                                                                                                                                                                                                                                                                                                     "native_enter_end:\n"
                                                                                                                                                                                                                                                                                                                     "native_taken:\n"
                                                                                                                                                                                                                                                                                                                     "movq $1, " STATE(0x90) "\n"
                                                                                                                                                                                                                                                                                                                                             "native_leave:\n"
                                                                                                                                                                                                                                                                                                                                             "mov %rax, " STATE(0x00) "; mov %rcx, " STATE(
                                                                                                                                                                                                                                                                                                                                                 0x08) "; mov %rdx, " STATE(0x10) "\n"
                                                                                                                                                                                                                                                                                                                                                                                  "mov %rbx, " STATE(0x18) "; mov %rsp, " STATE(
                                                                                                                                                                                                                                                                                                                                                                                      0x20) "; mov %rbp, " STATE(0x28) "\n"
                                                                                                                                                                                                                                                                                                                                                                                                                       "mov %rsi, " STATE(0x30) "; mov %rdi, " STATE(0x38) "; mov %r8, " STATE(0x40) "\n"
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                     "mov %r9, " STATE(0x48) "; mov %r10, " STATE(0x50) "; mov %r11, " STATE(0x58) "\n"
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                   "mov %r12, " STATE(0x60) "; mov %r13, " STATE(0x68) "; mov %r14, " STATE(0x70) "\n"
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                  "mov %r15, " STATE(0x78) "\n"
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                           "mov " STATE(0x88) ", %rsp\n"
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                              "pushfq\n"
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                              "popq " STATE(
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                  0x80) "\n"
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                        "cld\n"
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                        "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                        "ret\n"
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                        "native_leave_end:\n"
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                        ".popsection\n");

/*
 * The same in 32-bit code: over there by far return, back by far jump to a place that does not move
 * with the length of the instruction. The upper halves of the registers are gone.
 */
__asm__(
    ".pushsection .rodata\n"
    "native_enter_32:\n"
    "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    "mov %rsp, " STATE(
        0x88) "\n"
              "mov $0x2b, %eax; mov %eax, %ds; mov %eax, %es\n"
              "pushq $0x23\n"
              "pushq $0x20010000 + (native_code_32 - native_enter_32)\n"
              "pushq " STATE(
                  0x80) "\n"
                        "popfq\n"
                        "lretq\n"
                        ".code32\n"
                        "native_code_32:\n"
                        "mov " STATE(0x00) ", %eax; mov " STATE(0x08) ", %ecx; mov " STATE(
                            0x10) ", %edx\n"
                                  "mov " STATE(0x18) ", %ebx; mov " STATE(
                                      0x28) ", %ebp; "
                                            "mov " STATE(
                                                0x30) ", %esi\n"
                                                      "mov"
                                                      " " STATE(0x38) ", %edi; mov " STATE(
                                                          0x20) ", %esp\n"
                                                                "native_enter_32_end:\n"
                                                                "native_taken_32:\n"
                                                                "movl $1, " STATE(
                                                                    0x90) "\n"
                                                                          "native_leave_32:\n"
                                                                          "mov %eax, " STATE(0x00) "; mov %ecx, " STATE(0x08) "; mov %edx, " STATE(
                                                                              0x10) "\n"
                                                                                    "mov "
                                                                                    "%ebx, " STATE(0x18) "; mov %esp, " STATE(0x20) "; mov %ebp, " STATE(
                                                                                        0x28) "\n"
                                                                                              "mov "
                                                                                              "%esi"
                                                                                              ","
                                                                                              " " STATE(0x30) "; mov %edi, " STATE(
                                                                                                  0x38) "\n"
                                                                                                        "mov $0x20001000, %esp\n"
                                                                                                        "pushf\n"
                                                                                                        "pop " STATE(
                                                                                                            0x80) "\n"
                                                                                                                  "ljmp $0x33, $0x20011000\n"
                                                                                                                  "native_leave_32_end:\n"
                                                                                                                  ".code64\n"
                                                                                                                  "native_exit_32:\n"
                                                                                                                  "mov " STATE(
                                                                                                                      0x88) ", %rsp\n"
                                                                                                                            "cld\n"
                                                                                                                            "xor %eax, %eax; mov %eax, %ds; mov %eax, %es\n"
                                                                                                                            "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
                                                                                                                            "ret\n"
                                                                                                                            "native_exit_32_end:\n"
                                                                                                                            ".popsection\n");

extern const uint8_t native_enter[], native_enter_end[], native_taken[], native_leave[],
    native_leave_end[];
extern const uint8_t native_enter_32[], native_enter_32_end[], native_taken_32[], native_leave_32[],
    native_leave_32_end[], native_exit_32[], native_exit_32_end[];

/* The code before and after the instruction. */
static struct {
    const uint8_t *enter, *enter_end, *taken, *leave, *leave_end;
} native_stub;

/* Where the code that follows an instruction of this length begins, and a branch target for it. */
static uint64_t native_after, native_target;

static void native_signal(int number, siginfo_t *info, void *context)
{
    ucontext_t *user = context;
    struct native_state *state = (struct native_state *)NATIVE_STATE;

    (void)info;
    state->vector = (uint64_t)(number == SIGFPE ? 0 : number == SIGILL ? 6 : 13) + 1;
    user->uc_mcontext.gregs[REG_RIP] = (greg_t)native_after;
}

/* All pages present from the start: ENTER touches the stack far below, and a page fault there would
   make the processor run it twice, on memory that it has changed. */
static void native_open(void)
{
    static uint8_t stack[65536];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof(stack)};
    struct sigaction action = {.sa_sigaction = native_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    void *at = mmap((void *)NATIVE_STATE, 0x30000, PROT_READ | PROT_WRITE | PROT_EXEC,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_POPULATE, -1, 0);

    if (at != (void *)NATIVE_STATE) {
        perror("mmap");
        abort();
    }
    sigaltstack(&alternate, NULL);
    sigaction(SIGFPE, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGILL, &action, NULL);
    memcpy((void *)(NATIVE_CODE + 0x1000), native_exit_32,
           (size_t)(native_exit_32_end - native_exit_32));
}

/* From now on instructions are 64-bit or 32-bit code. */
static void native_mode(bool is_64bit)
{
    native_stub.enter = is_64bit ? native_enter : native_enter_32;
    native_stub.enter_end = is_64bit ? native_enter_end : native_enter_32_end;
    native_stub.taken = is_64bit ? native_taken : native_taken_32;
    native_stub.leave = is_64bit ? native_leave : native_leave_32;
    native_stub.leave_end = is_64bit ? native_leave_end : native_leave_32_end;
    memcpy((void *)NATIVE_CODE, native_stub.enter,
           (size_t)(native_stub.enter_end - native_stub.enter));
}

/* Behind the instruction there is a jump, and behind that the branch target, within reach of short
   branches. */
enum { NATIVE_JUMP = 5 };

/* The address the instruction runs at; sets native_after and native_target for its length. */
static uint64_t native_place(unsigned length)
{
    uint64_t at = NATIVE_CODE + (uint64_t)(native_stub.enter_end - native_stub.enter);

    native_after = at + length;
    native_target = native_after + NATIVE_JUMP;
    return at;
}

/* Run it on *state and the memory at NATIVE_MEMORY. */
static void native_run(const uint8_t *bytes, unsigned length, struct native_state *state)
{
    union {
        uint64_t address;
        void (*call)(void);
    } code = {.address = NATIVE_CODE};
    uint8_t *at = (uint8_t *)native_place(length);
    int32_t leave = (int32_t)(native_stub.leave - native_stub.taken);

    memcpy(at, bytes, length);
    *(uint8_t *)native_after = 0xe9;
    memcpy((uint8_t *)native_after + 1, &leave, 4);
    memcpy((void *)native_target, native_stub.taken,
           (size_t)(native_stub.leave_end - native_stub.taken));
    state->taken = state->vector = 0;
    memcpy((void *)NATIVE_STATE, state, sizeof(*state));
    code.call();
    memcpy(state, (void *)NATIVE_STATE, sizeof(*state));
}

#endif
