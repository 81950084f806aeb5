/* SPDX-License-Identifier: BSD-2-Clause */
/* Exit codes and their companions to the neutral record. */
#include "svm_world.h"

static struct hw_vcpu *hv;
static struct virtx_exit *record;
static struct vmcb *vmcb;

static void make(uint64_t features, bool nested)
{
    world_make(features, nested);
    hv = &world.sv->hw;
    record = &world.vcpu.exit;
    vmcb = &world.sv->vmcb;
    memset(record, 0xa5, sizeof(*record));
    hv->state.rip = 0x1000;
    vmcb->control.next_rip = 0x1007;
}

static void put_code(const char *bytes, unsigned count)
{
    memcpy(world.code, bytes, count);
    world.code_bytes = count;
}

static void setup(void)
{
    make(VIRTX_FEATURE_NEXT_RIP, true);
}

/* Exit codes of appendix C whose record is a reason, perhaps an instruction, and a length. */
static const struct {
    uint64_t code;
    uint32_t reason;
    int which; /* of VIRTX_EXIT_INSTRUCTION, else -1 */
    uint8_t length;
} simple[] = {
    {0x60, VIRTX_EXIT_INTERRUPT, -1, 0},
    {0x61, HW_EXIT_HOST, -1, 0},
    {0x63, HW_EXIT_HOST, -1, 0},
    {0x64, HW_EXIT_WINDOW, -1, 0},
    {0x66, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_SIDT, 7},
    {0x67, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_SGDT, 7},
    {0x68, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_SLDT, 7},
    {0x69, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_STR, 7},
    {0x6a, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_LIDT, 7},
    {0x6b, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_LGDT, 7},
    {0x6c, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_LLDT, 7},
    {0x6d, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_LTR, 7},
    {0x6e, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_RDTSC, 7},
    {0x6f, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_RDPMC, 7},
    {0x70, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_PUSHF, 7},
    {0x71, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_POPF, 7},
    {0x72, VIRTX_EXIT_CPUID, -1, 7},
    {0x73, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_RSM, 7},
    {0x74, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_IRET, 7},
    {0x75, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_INTN, 7},
    {0x76, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_INVD, 7},
    {0x77, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_PAUSE, 7},
    {0x78, VIRTX_EXIT_HLT, -1, 7},
    {0x7a, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_SVM, 7},
    {0x7f, VIRTX_EXIT_SHUTDOWN, -1, 0},
    {0x80, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_SVM, 7},
    {0x81, VIRTX_EXIT_HYPERCALL, -1, 7},
    {0x82, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_SVM, 7},
    {0x83, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_SVM, 7},
    {0x84, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_SVM, 7},
    {0x85, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_SVM, 7},
    {0x86, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_SKINIT, 7},
    {0x87, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_RDTSCP, 7},
    {0x8a, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_MONITOR, 7},
    {0x8b, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_MWAIT, 7},
    {0x8c, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_MWAIT, 7},
    {0x8d, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_XSETBV, 7},
    {0xa2, VIRTX_EXIT_INSTRUCTION, VIRTX_INSN_INVPCID, 7},
    /* What nobody knows is kept as it is. */
    {0x8f, VIRTX_EXIT_UNKNOWN, -1, 0},
    {0x401, VIRTX_EXIT_UNKNOWN, -1, 0},
    {0x12345678, VIRTX_EXIT_UNKNOWN, -1, 0},
};

START_TEST(simple_exits)
{
    ck_assert_int_eq(world_exit(simple[_i].code, 0x11, 0x22), VIRTX_OK);
    ck_assert_uint_eq(record->reason, simple[_i].reason);
    ck_assert_uint_eq(record->raw.code, simple[_i].code);
    ck_assert_uint_eq(record->rip, 0x1000);
    ck_assert_uint_eq(record->length, simple[_i].length);
    if (simple[_i].which >= 0)
        ck_assert_uint_eq(record->instruction.which, (unsigned)simple[_i].which);
    if (simple[_i].reason == VIRTX_EXIT_UNKNOWN) {
        ck_assert_uint_eq(record->raw.qualification, 0x11);
        ck_assert_uint_eq(record->raw.address, 0x22);
    }
}
END_TEST

/* "IOIO Intercept Information": as one engine recorded them. */
static const struct {
    uint64_t info;
    uint16_t port;
    uint8_t size, access, string, rep;
} ports[] = {
    {0x00e90210, 0xe9, 1, VIRTX_WRITE, 0, 0},   /* out $0xe9, al, 64-bit */
    {0x03f80211, 0x3f8, 1, VIRTX_READ, 0, 0},   /* in al, dx */
    {0x01f00121, 0x1f0, 2, VIRTX_READ, 0, 0},   /* in ax, dx */
    {0xffff0140, 0xffff, 4, VIRTX_WRITE, 0, 0}, /* out dx, eax */
    {0x01f0012d, 0x1f0, 2, VIRTX_READ, 1, 1},   /* rep insw */
    {0x00e90094, 0xe9, 1, VIRTX_WRITE, 1, 0},   /* outsb, 16-bit addresses */
};

START_TEST(io_exits)
{
    ck_assert_int_eq(world_exit(0x7b, ports[_i].info, 0x1002), VIRTX_OK);
    ck_assert_uint_eq(record->reason, VIRTX_EXIT_IO);
    ck_assert_uint_eq(record->length, 2); /* EXITINFO2 is the next RIP, with or without NRIPS */
    ck_assert_uint_eq(record->io.port, ports[_i].port);
    ck_assert_uint_eq(record->io.size, ports[_i].size);
    ck_assert_uint_eq(record->io.access, ports[_i].access);
    ck_assert_uint_eq(record->io.string, ports[_i].string);
    ck_assert_uint_eq(record->io.rep, ports[_i].rep);
}
END_TEST

START_TEST(msr_exits)
{
    world_exit(0x7c, 0, 0);
    ck_assert_uint_eq(record->reason, VIRTX_EXIT_MSR);
    ck_assert_uint_eq(record->msr.access, VIRTX_READ);
    world_exit(0x7c, 1, 0);
    ck_assert_uint_eq(record->msr.access, VIRTX_WRITE);
    ck_assert_uint_eq(record->length, 7);
}
END_TEST

/* "Nested versus Guest Page Faults": code bits P, RW, US, RSV, ID; 32 final, 33 table walk. */
START_TEST(nested_faults)
{
    world_exit(0x400, 0x100000004, 0xfee00020);
    ck_assert_uint_eq(record->reason, HW_EXIT_PAGE_FAULT);
    ck_assert_uint_eq(hv->fault.gpa, 0xfee00020);
    ck_assert_uint_eq(hv->fault.access, VIRTX_READ);
    ck_assert_uint_eq(hv->fault.present, 0);
    ck_assert(!hv->fault.table_walk && !hv->fault.gva_valid && !hv->fault.misconfigured);
    world_exit(0x400, 0x100000007, 0x2000);
    ck_assert_uint_eq(hv->fault.access, VIRTX_WRITE);
    ck_assert_uint_ne(hv->fault.present, 0);
    world_exit(0x400, 0x100000014, 0x3000);
    ck_assert_uint_eq(hv->fault.access, VIRTX_EXECUTE);
    world_exit(0x400, 0x200000006, 0x4000);
    ck_assert(hv->fault.table_walk);
    world_exit(0x400, 0x10000000d, 0x4000);
    ck_assert(hv->fault.misconfigured);
}
END_TEST

START_TEST(exceptions)
{
    world_exit(0x40 + 13, 0x18, 0);
    ck_assert_uint_eq(record->reason, VIRTX_EXIT_EXCEPTION);
    ck_assert_uint_eq(record->exception.vector, 13);
    ck_assert(record->exception.has_error);
    ck_assert_uint_eq(record->exception.error, 0x18);
    world_exit(0x40 + 14, 6, 0xdeadb000);
    ck_assert_uint_eq(record->exception.address, 0xdeadb000);
    ck_assert_uint_eq(record->exception.error, 6);
    world_exit(0x40 + 6, 0x77, 0);
    ck_assert(!record->exception.has_error);
    ck_assert_uint_eq(record->exception.error, 0);
    vmcb->save.dr6 = 0xffff4ff1;
    world_exit(0x40 + 1, 0, 0);
    ck_assert_uint_eq(record->exception.address, 0x4001);
    world_exit(0x40 + 3, 0, 0);
    ck_assert_uint_eq(record->length, 7);
    world_exit(0x40 + 18, 0, 0);
    ck_assert_uint_eq(record->reason, HW_EXIT_HOST);
    ck_assert_uint_eq(world.machine_checks, 1);
}
END_TEST

START_TEST(shadow_page_fault)
{
    world_free();
    make(0, false);
    world_exit(0x40 + 14, 0x17, 0x12345000);
    ck_assert_uint_eq(record->reason, HW_EXIT_PAGE_FAULT);
    ck_assert_uint_eq(hv->fault.gva, 0x12345000);
    ck_assert(hv->fault.gva_valid);
    ck_assert_uint_eq(hv->fault.error, 0x17);
}
END_TEST

START_TEST(task_switches)
{
    world_exit(0x7d, 0x28, 1ull << 38);
    ck_assert_uint_eq(record->reason, VIRTX_EXIT_TASK_SWITCH);
    ck_assert_uint_eq(record->task_switch.selector, 0x28);
    ck_assert_uint_eq(record->task_switch.source, 2);
    ck_assert(!record->task_switch.has_error);
    world_exit(0x7d, 0x30, 1ull << 36);
    ck_assert_uint_eq(record->task_switch.source, 1);
    vmcb->control.exit_int_info = 0x80000b0a;
    world_exit(0x7d, 0x38, 1ull << 44 | 0x1234);
    ck_assert_uint_eq(record->task_switch.source, 3);
    ck_assert(record->task_switch.has_error);
    ck_assert_uint_eq(record->task_switch.error, 0x1234);
}
END_TEST

/* ---- Without next-RIP: the instruction itself is looked at ---- */

static const struct {
    uint64_t code;
    const char *bytes;
    uint8_t length;
} lengths[] = {
    {0x72, "\x0f\xa2", 2},     {0x72, "\x66\x0f\xa2", 3},
    {0x7c, "\x0f\x30", 2},     {0x7c, "\x48\x0f\x32", 3},
    {0x78, "\xf4", 1},         {0x81, "\x0f\x01\xd9", 3},
    {0x87, "\x0f\x01\xf9", 3}, {0x6e, "\x0f\x31", 2},
    {0x8d, "\x0f\x01\xd1", 3}, {0x6b, "\x0f\x01\x14\x25\x00\x10\x00\x00", 8},
};

START_TEST(lengths_by_decoding)
{
    world_free();
    make(0, true);
    put_code(lengths[_i].bytes, lengths[_i].length);
    world.code_bytes = 15; /* zeroes follow */
    world_exit(lengths[_i].code, 0, 0);
    ck_assert_uint_eq(record->length, lengths[_i].length);
    ck_assert_uint_ne(record->reason, HW_EXIT_HOST);
}
END_TEST

/* The page went away between the exit and the fetch: the guest meets the instruction again. */
START_TEST(nothing_to_decode)
{
    world_free();
    make(0, true);
    world_exit(0x72, 0, 0);
    ck_assert_uint_eq(record->reason, HW_EXIT_HOST);
    put_code("\x0f", 1);
    world_exit(0x72, 0, 0);
    ck_assert_uint_eq(record->reason, HW_EXIT_HOST);
}
END_TEST

START_TEST(mov_cr)
{
    put_code("\x41\x0f\x22\xdb", 4); /* mov cr3, r11 */
    hv->state.gpr[VIRTX_R11] = 0x123456000;
    world_exit(0x13, 0, 0);
    ck_assert_uint_eq(record->reason, VIRTX_EXIT_CR);
    ck_assert_uint_eq(record->cr.reg, 3);
    ck_assert_uint_eq(record->cr.access, VIRTX_WRITE);
    ck_assert_uint_eq(record->cr.gpr, VIRTX_R11);
    ck_assert_uint_eq(record->cr.value, 0x123456000);
    ck_assert_uint_eq(record->length, 4);
    put_code("\x0f\x20\xe4", 3); /* mov rsp, cr4 */
    world_exit(0x04, 0, 0);
    ck_assert_uint_eq(record->cr.reg, 4);
    ck_assert_uint_eq(record->cr.access, VIRTX_READ);
    ck_assert_uint_eq(record->cr.gpr, VIRTX_RSP);
    put_code("\x0f\x22\xc4", 3); /* mov cr0, rsp: RSP travels in the VMCB */
    vmcb->save.rsp = 0x80000031;
    world_exit(0x65, 0, 0);
    ck_assert_uint_eq(record->cr.reg, 0);
    ck_assert_uint_eq(record->cr.value, 0x80000031);
    put_code("\x44\x0f\x22\xc0", 4); /* mov cr8, rax */
    hv->state.gpr[VIRTX_RAX] = 5;
    world_exit(0x18, 0, 0);
    ck_assert_uint_eq(record->cr.reg, 8);
    ck_assert_uint_eq(record->cr.value, 5);
}
END_TEST

/* CLTS clears TS; LMSW loads PE, MP, EM and TS, and cannot clear PE. */
START_TEST(cr0_by_parts)
{
    vmcb->save.cr0 |= CR0_TS;
    put_code("\x0f\x06", 2);
    world_exit(0x10, 0, 0);
    ck_assert_uint_eq(record->cr.gpr, 0xff);
    ck_assert_uint_eq(record->cr.value, vmcb->save.cr0 & ~CR0_TS);
    put_code("\x0f\x01\xf1", 3); /* lmsw cx */
    hv->state.gpr[VIRTX_RCX] = 0xfff6;
    world_exit(0x10, 0, 0);
    ck_assert_uint_eq(record->cr.value, (vmcb->save.cr0 & ~0xfull) | 0x7);
    put_code("\x0f\x01\x73\x08", 4); /* lmsw [rbx + 8] */
    hv->state.gpr[VIRTX_RBX] = 0x7000;
    world.memory_at = 0x7008;
    world.memory_word = 0x8;
    world_exit(0x10, 0, 0);
    ck_assert_uint_eq(record->reason, VIRTX_EXIT_CR);
    ck_assert_uint_eq(record->cr.value, (vmcb->save.cr0 & ~0xfull) | 0x9);
    world.memory_at = 0;
    world_exit(0x10, 0, 0);
    ck_assert_uint_eq(record->reason, HW_EXIT_HOST);
}
END_TEST

/* SMSW needs no intercept of the embedder's to be right: it is done at once. */
START_TEST(smsw)
{
    put_code("\x0f\x01\xe0", 3); /* smsw eax */
    hv->state.gpr[VIRTX_RAX] = UINT64_MAX;
    world_exit(0x00, 0, 0);
    ck_assert_uint_eq(record->reason, HW_EXIT_HOST);
    ck_assert_uint_eq(hv->state.gpr[VIRTX_RAX], (uint32_t)vmcb->save.cr0);
    ck_assert_uint_eq(hv->state.rip, 0x1003);
    put_code("\x0f\x01\x23", 3); /* smsw [rbx] */
    hv->state.gpr[VIRTX_RBX] = world.memory_at = 0x7000;
    world.memory_word = UINT64_MAX;
    world_exit(0x00, 0, 0);
    ck_assert_uint_eq(world.memory_word, 0xffffffffffff0000 | (uint16_t)vmcb->save.cr0);
    ck_assert_uint_eq(hv->state.rip, 0x1006);
}
END_TEST

START_TEST(mov_dr)
{
    put_code("\x0f\x23\xfa", 3); /* mov dr7, rdx */
    hv->state.gpr[VIRTX_RDX] = 0x701;
    world_exit(0x37, 0, 0);
    ck_assert_uint_eq(record->reason, VIRTX_EXIT_DR);
    ck_assert_uint_eq(record->cr.reg, 7);
    ck_assert_uint_eq(record->cr.value, 0x701);
    ck_assert_uint_eq(record->cr.gpr, VIRTX_RDX);
    put_code("\x41\x0f\x21\xc0", 4); /* mov r8, dr0 */
    world_exit(0x20, 0, 0);
    ck_assert_uint_eq(record->cr.access, VIRTX_READ);
    ck_assert_uint_eq(record->cr.gpr, VIRTX_R8);
}
END_TEST

START_TEST(invlpg)
{
    put_code("\x0f\x01\x7c\x8b\x10", 5); /* invlpg [rbx + 4 * rcx + 0x10] */
    hv->state.gpr[VIRTX_RBX] = 0xffff800000000000;
    hv->state.gpr[VIRTX_RCX] = 0x1000;
    world_exit(0x79, 0, 0);
    ck_assert_uint_eq(record->instruction.which, VIRTX_INSN_INVLPG);
    ck_assert_uint_eq(record->instruction.operand, 0xffff800000004010);
    ck_assert_uint_eq(record->length, 5);
    put_code("\x65\x0f\x01\x3c\x25\x00\x20\x00\x00", 9); /* invlpg gs:[0x2000] */
    world.loaded.gs.base = 0x100000;
    world_exit(0x79, 0, 0);
    ck_assert_uint_eq(record->instruction.operand, 0x102000);
    put_code("\x0f\x01\x3d\xf9\xff\xff\xff", 7); /* invlpg [rip - 7] */
    world_exit(0x79, 0, 0);
    ck_assert_uint_eq(record->instruction.operand, 0x1000);
}
END_TEST

START_TEST(invlpg_32)
{
    struct virtx_state *state = hw_change(hv, VIRTX_STATE_SEG | VIRTX_STATE_CR);

    state->efer = 0;
    state->seg[VIRTX_CS].attributes = 0xc09b;
    state->seg[VIRTX_DS].base = 0x10000;
    put_code("\x0f\x01\x7b\xf0", 4); /* invlpg [ebx - 0x10] */
    hv->state.gpr[VIRTX_RBX] = 0xffffffff00000008;
    world_exit(0x79, 0, 0);
    ck_assert_uint_eq(record->instruction.operand, 0xfff8);
}
END_TEST

/* The engine that reports INVD as WBINVD. */
START_TEST(invd_as_wbinvd)
{
    put_code("\x0f\x08", 2);
    world_exit(0x89, 0, 0);
    ck_assert_uint_eq(record->instruction.which, VIRTX_INSN_INVD);
    put_code("\x0f\x09", 2);
    world_exit(0x89, 0, 0);
    ck_assert_uint_eq(record->instruction.which, VIRTX_INSN_WBINVD);
}
END_TEST

START_TEST(decode_assists)
{
    world_free();
    make(VIRTX_FEATURE_NEXT_RIP | VIRTX_FEATURE_DECODE_ASSIST, true);
    hv->state.gpr[VIRTX_R9] = 0x6000;
    world_exit(0x13, 1ull << 63 | 9, 0);
    ck_assert_uint_eq(record->cr.gpr, VIRTX_R9);
    ck_assert_uint_eq(record->cr.value, 0x6000);
    ck_assert_uint_eq(record->length, 7);
    world_exit(0x23, 9, 0);
    ck_assert_uint_eq(record->cr.gpr, VIRTX_R9);
    world_exit(0x79, 0x123000, 0);
    ck_assert_uint_eq(record->instruction.operand, 0x123000);
    put_code("\x0f\x06", 2); /* CLTS has no operand to report: bit 63 is clear */
    world_exit(0x10, 0, 0);
    ck_assert_uint_eq(record->cr.gpr, 0xff);
}
END_TEST

/* ---- Retiring ---- */

START_TEST(retire)
{
    world_exit(0x72, 0, 0);
    vmcb->save.rflags |= RFLAGS_RF;
    vmcb->control.interrupt_state = VMCB_SHADOW;
    svm_advance(hv);
    ck_assert_uint_eq(hv->state.rip, 0x1007);
    ck_assert_uint_eq(vmcb->save.rflags, RFLAGS_FIXED);
    ck_assert_uint_eq(vmcb->control.interrupt_state & VMCB_SHADOW, 0);
    ck_assert_uint_eq(hw_state(hv, VIRTX_STATE_INTR)->pending_debug, 0);
    vmcb->save.rflags |= RFLAGS_TF;
    svm_advance(hv);
    ck_assert(hv->own_traps && (hv->work & HW_WORK_EVENT));
    ck_assert_uint_eq(hw_state(hv, VIRTX_STATE_INTR)->pending_debug, DR6_BS);
}
END_TEST

/* Outside 64-bit mode RIP has 32 bits. */
START_TEST(retire_wraps)
{
    hw_change(hv, VIRTX_STATE_SEG)->seg[VIRTX_CS].attributes = _i ? 0xc09b : 0xa09b;
    hv->state.rip = 0xfffffffe;
    vmcb->control.next_rip = 0x100000001;
    world_exit(0x72, 0, 0);
    svm_advance(hv);
    ck_assert_uint_eq(hv->state.rip, _i ? 1 : 0x100000001);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("svm exit");
    TCase *tests = tcase_create("all");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_checked_fixture(tests, setup, world_free);
    tcase_add_loop_test(tests, simple_exits, 0, (int)ARRAY_SIZE(simple));
    tcase_add_loop_test(tests, io_exits, 0, (int)ARRAY_SIZE(ports));
    tcase_add_test(tests, msr_exits);
    tcase_add_test(tests, nested_faults);
    tcase_add_test(tests, exceptions);
    tcase_add_test(tests, shadow_page_fault);
    tcase_add_test(tests, task_switches);
    tcase_add_loop_test(tests, lengths_by_decoding, 0, (int)ARRAY_SIZE(lengths));
    tcase_add_test(tests, nothing_to_decode);
    tcase_add_test(tests, mov_cr);
    tcase_add_test(tests, cr0_by_parts);
    tcase_add_test(tests, smsw);
    tcase_add_test(tests, mov_dr);
    tcase_add_test(tests, invlpg);
    tcase_add_test(tests, invlpg_32);
    tcase_add_test(tests, invd_as_wbinvd);
    tcase_add_test(tests, decode_assists);
    tcase_add_test(tests, retire);
    tcase_add_loop_test(tests, retire_wraps, 0, 2);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
