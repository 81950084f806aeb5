/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Exits decoded from VMCS fields, events handed back and injected, state moved by groups, and the
 * controls and bitmaps that decide what exits: after the Intel SDM chapters "VM Exits" and "Virtual
 * Machine Control Structures".
 */
#include "vmx_mock.h"

#define MODEL "corei7_haswell_4770"

static void setup(void)
{
    load_vcpu(MODEL, 0);
}

/* Why the entry was refused. */
static enum virtx_status refusal(uint32_t reason)
{
    ck_assert_uint_eq(reason, HW_EXIT_REFUSED);
    ck_assert_uint_eq(vcpu.exit.reason, HW_EXIT_REFUSED);
    return hv->refusal;
}

static unsigned collected;

static void log_collect(struct virtx_vm *which, uint64_t gpa, uint64_t bytes)
{
    ck_assert_ptr_eq(which, &vm);
    ck_assert_uint_ge(gpa, 0x300000000);
    collected += (unsigned)(bytes / 4096);
}

static void log_drain(struct virtx_vm *which)
{
    ck_assert_ptr_eq(which, &vm);
    vmx_drain(hv);
}

static const struct virtx_backend log_backend = {.collect_dirty = log_collect,
                                                 .drain_dirty = log_drain};

/* The exit that the VMCS describes. */
static struct virtx_exit *take_exit(uint32_t reason)
{
    vmcs[VMCS_EXIT_REASON] = reason;
    vmreads = 0;
    memset(&vcpu.exit, 0xa5, sizeof(vcpu.exit));
    memset(&hv->fault, 0xa5, sizeof(hv->fault));
    hv->has_reinject = false;
    vcpu.stats.control_reads = 0;
    ck_assert_uint_eq(vmx_exited(&v), vcpu.exit.reason);
    ck_assert_uint_ne(vcpu.exit.reason, HW_EXIT_REFUSED);
    ck_assert_uint_eq(vcpu.exit.raw.code, reason);
    ck_assert_uint_eq(vcpu.exit.rip, vmcs[VMCS_GUEST_RIP]);
    ck_assert_uint_eq(hv->state.rip, vmcs[VMCS_GUEST_RIP]);
    ck_assert(hv->valid & VIRTX_STATE_RIP);
    ck_assert(
        !(hv->valid & (VIRTX_STATE_RFLAGS | VIRTX_STATE_RSP | VIRTX_STATE_SEG | VIRTX_STATE_CR)) ||
        reason == VMX_REASON_CR || reason == VMX_REASON_DR || reason == VMX_REASON_EXCEPTION ||
        reason == VMX_REASON_EPT_VIOLATION || reason == VMX_REASON_TASK_SWITCH);
    return &vcpu.exit;
}

/* ---- Decoding ---- */

START_TEST(cpuid)
{
    struct virtx_exit *exit;

    setup();
    vmcs[VMCS_EXIT_LENGTH] = 2;
    exit = take_exit(VMX_REASON_CPUID);
    ck_assert_int_eq(exit->reason, VIRTX_EXIT_CPUID);
    ck_assert_uint_eq(exit->length, 2);
    ck_assert_uint_eq(vmreads, 3);
    hv->dirty = 0;
    vmx_advance(hv);
    ck_assert_uint_le(vmreads, 6);
    ck_assert_uint_eq(vcpu.stats.control_reads, vmreads);
    ck_assert_uint_eq(hv->dirty, VIRTX_STATE_RIP);
    ck_assert_uint_eq(hv->state.rip, 0x4002);
    drop_vcpu();
}
END_TEST

START_TEST(msr_access)
{
    setup();
    vmcs[VMCS_EXIT_LENGTH] = 2;
    ck_assert_int_eq(take_exit(VMX_REASON_RDMSR)->reason, VIRTX_EXIT_MSR);
    ck_assert_uint_eq(vcpu.exit.msr.access, VIRTX_READ);
    ck_assert_int_eq(take_exit(VMX_REASON_WRMSR)->reason, VIRTX_EXIT_MSR);
    ck_assert_uint_eq(vcpu.exit.msr.access, VIRTX_WRITE);
    ck_assert_uint_eq(vcpu.exit.length, 2);
    drop_vcpu();
}
END_TEST

/* Exit qualification: size - 1 in 2:0, IN 3, string 4, REP 5, port 31:16. */
START_TEST(port_access)
{
    static const struct {
        uint64_t qualification;
        uint16_t port;
        uint8_t size, access, string, rep;
    } cases[] = {
        {0x00e90000, 0xe9, 1, VIRTX_WRITE, 0, 0},   {0x00600008, 0x60, 1, VIRTX_READ, 0, 0},
        {0x0cf80003, 0xcf8, 4, VIRTX_WRITE, 0, 0},  {0x01f00039, 0x1f0, 2, VIRTX_READ, 1, 1},
        {0xffff0051, 0xffff, 2, VIRTX_WRITE, 1, 0},
    };

    setup();
    vmcs[VMCS_EXIT_LENGTH] = 1;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct virtx_exit *exit;

        vmcs[VMCS_EXIT_QUALIFICATION] = cases[i].qualification;
        exit = take_exit(VMX_REASON_IO);
        ck_assert_int_eq(exit->reason, VIRTX_EXIT_IO);
        ck_assert_uint_eq(exit->io.port, cases[i].port);
        ck_assert_uint_eq(exit->io.size, cases[i].size);
        ck_assert_uint_eq(exit->io.access, cases[i].access);
        ck_assert_uint_eq(exit->io.string, cases[i].string);
        ck_assert_uint_eq(exit->io.rep, cases[i].rep);
        ck_assert_uint_eq(exit->raw.qualification, cases[i].qualification);
    }
    drop_vcpu();
}
END_TEST

/* MOV CR: register 3:0, type 5:4, GPR 11:8, LMSW source 31:16. */
START_TEST(control_registers)
{
    struct virtx_exit_cr *cr_access = &vcpu.exit.cr;

    setup();
    vmcs[VMCS_EXIT_LENGTH] = 3;
    hv->state.gpr[VIRTX_R11] = 0x123456789000;
    vmcs[VMCS_EXIT_QUALIFICATION] = 11 << 8 | 3; /* mov cr3, r11 */
    ck_assert_int_eq(take_exit(VMX_REASON_CR)->reason, VIRTX_EXIT_CR);
    ck_assert_uint_eq(cr_access->reg, 3);
    ck_assert_uint_eq(cr_access->access, VIRTX_WRITE);
    ck_assert_uint_eq(cr_access->gpr, VIRTX_R11);
    ck_assert_uint_eq(cr_access->value, 0x123456789000);

    vmcs[VMCS_GUEST_CS_ATTRIBUTES] = 0xc09b; /* compatibility mode: 32 bits count */
    take_exit(VMX_REASON_CR);
    ck_assert_uint_eq(cr_access->value, 0x56789000);
    vmcs[VMCS_GUEST_CS_ATTRIBUTES] = 0xa09b;

    vmcs[VMCS_GUEST_RSP] = 0x7000;
    vmcs[VMCS_EXIT_QUALIFICATION] = 4 << 8 | 4; /* mov cr4, rsp */
    take_exit(VMX_REASON_CR);
    ck_assert_uint_eq(cr_access->value, 0x7000);

    vmcs[VMCS_EXIT_QUALIFICATION] = 9 << 8 | 1 << 4 | 8; /* mov r9, cr8 */
    take_exit(VMX_REASON_CR);
    ck_assert_uint_eq(cr_access->reg, 8);
    ck_assert_uint_eq(cr_access->access, VIRTX_READ);
    ck_assert_uint_eq(cr_access->gpr, VIRTX_R9);

    /* CLTS: the guest's CR0 (with its own NE) without TS; TS is not owned and so in the real one */
    vmcs[VMCS_GUEST_CR0] |= CR0_TS;
    vmcs[VMCS_EXIT_QUALIFICATION] = 2 << 4;
    take_exit(VMX_REASON_CR);
    ck_assert_uint_eq(cr_access->reg, 0);
    ck_assert_uint_eq(cr_access->access, VIRTX_WRITE);
    ck_assert_uint_eq(cr_access->gpr, 0xff);
    ck_assert_uint_eq(cr_access->value, CR0_PG | CR0_NE | CR0_ET | CR0_PE);

    /* LMSW: sets MP, EM and TS as given, and cannot clear PE */
    vmcs[VMCS_EXIT_QUALIFICATION] = 3 << 4 | (uint64_t)0xfff2 << 16;
    take_exit(VMX_REASON_CR);
    ck_assert_uint_eq(cr_access->value, CR0_PG | CR0_NE | CR0_ET | CR0_MP | CR0_PE);
    drop_vcpu();
}
END_TEST

START_TEST(debug_registers)
{
    setup();
    hv->state.gpr[VIRTX_RCX] = 0x401;
    vmcs[VMCS_EXIT_QUALIFICATION] = 1 << 8 | 7; /* mov dr7, rcx */
    ck_assert_int_eq(take_exit(VMX_REASON_DR)->reason, VIRTX_EXIT_DR);
    ck_assert_uint_eq(vcpu.exit.cr.reg, 7);
    ck_assert_uint_eq(vcpu.exit.cr.access, VIRTX_WRITE);
    ck_assert_uint_eq(vcpu.exit.cr.value, 0x401);
    vmcs[VMCS_EXIT_QUALIFICATION] = 12 << 8 | 1 << 4 | 6; /* mov r12, dr6 */
    take_exit(VMX_REASON_DR);
    ck_assert_uint_eq(vcpu.exit.cr.reg, 6);
    ck_assert_uint_eq(vcpu.exit.cr.access, VIRTX_READ);
    ck_assert_uint_eq(vcpu.exit.cr.gpr, VIRTX_R12);
    drop_vcpu();
}
END_TEST

/* Qualification: access 2:0, rights 5:3, linear address valid 7, not a table walk 8. */
START_TEST(ept_violations)
{
    setup();
    vmcs[VMCS_GUEST_PHYSICAL] = 0xfee00020;
    vmcs[VMCS_GUEST_LINEAR] = 0xffff800000001020;
    vmcs[VMCS_EXIT_QUALIFICATION] = 0x182;
    ck_assert_int_eq(take_exit(VMX_REASON_EPT_VIOLATION)->reason, HW_EXIT_PAGE_FAULT);
    ck_assert_uint_eq(hv->fault.gpa, 0xfee00020);
    ck_assert_uint_eq(hv->fault.gva, 0xffff800000001020);
    ck_assert(hv->fault.gva_valid && !hv->fault.table_walk && !hv->fault.misconfigured);
    ck_assert_uint_eq(hv->fault.access, VIRTX_WRITE);
    ck_assert_uint_eq(hv->fault.present, 0);

    vmcs[VMCS_EXIT_QUALIFICATION] = 0x83 | 5 << 3; /* walk with A/D: read and write; page is R-X */
    take_exit(VMX_REASON_EPT_VIOLATION);
    ck_assert(hv->fault.table_walk);
    ck_assert_uint_eq(hv->fault.access, VIRTX_READ | VIRTX_WRITE);
    ck_assert_uint_eq(hv->fault.present, VIRTX_READ | VIRTX_EXECUTE);

    vmcs[VMCS_EXIT_QUALIFICATION] = 0x001; /* PDPTE load of MOV CR3: no linear address */
    take_exit(VMX_REASON_EPT_VIOLATION);
    ck_assert(!hv->fault.gva_valid && !hv->fault.table_walk);

    take_exit(VMX_REASON_EPT_MISCONFIG);
    ck_assert(hv->fault.misconfigured);
    ck_assert_uint_eq(hv->fault.gpa, 0xfee00020);
    ck_assert(!hv->has_reinject);
    drop_vcpu();
}
END_TEST

/* Intel SDM "Page-Modification Logging": the processor fills the page from its end; any CPU may
 * take entries out; a full log exits, and only then the index starts again. */
START_TEST(page_log)
{
    const uint64_t base = 0x300000000; /* above 4 GiB */
    uint64_t bitmap[10] = {0}, dirty;
    struct virtx_memslot slot = {.vm = &vm, .config = {.gpa = base, .bytes = 600 * 4096}};
    struct slot_table *slots = calloc(1, sizeof(*slots) + sizeof(struct slot_entry));

    load_vcpu("corei7_skylake_x", 0);
    ck_assert_uint_ne(vmcs[VMCS_SECONDARY] & SECONDARY_PML, 0);
    ck_assert_ptr_nonnull(v.page_log);
    ck_assert_uint_eq(vmcs[VMCS_PML_ADDRESS], host_phys(NULL, v.page_log));
    ck_assert_uint_eq(vmcs[VMCS_PML_INDEX], 511);
    ck_assert_int_eq(virtx_log_alloc(&vm, slot.config.bytes, &slot.log), VIRTX_OK);
    slots->count = 1;
    slots->entry[0] = (struct slot_entry){
        .gpa = base, .end = base + slot.config.bytes, .dirty = slot.log, .rights = 7};
    atomic_store(&vm.slots, slots);
    virtx.backend = &log_backend;

    /* Some entries, taken from another CPU; the index is not touched. */
    v.page_log[511] = base + 3 * 4096;
    v.page_log[510] = base + 599 * 4096;
    vmcs[VMCS_PML_INDEX] = 509;
    ck_assert_int_eq(virtx_memslot_harvest(&slot, bitmap, 10, &dirty), VIRTX_OK);
    ck_assert_uint_eq(dirty, 2);
    ck_assert_uint_eq(bitmap[0], 1 << 3);
    ck_assert_uint_eq(bitmap[9], 1ull << 23);
    ck_assert_uint_eq(vmcs[VMCS_PML_INDEX], 509);
    /* Its pages are armed again, and no others. */
    ck_assert_uint_eq(collected, 2);
    ck_assert_int_eq(virtx_memslot_harvest(&slot, bitmap, 10, &dirty), VIRTX_OK);
    ck_assert_uint_eq(dirty, 0);

    /* The rest, until it is full; an interrupted delivery and an IRET's NMI are kept. */
    for (unsigned i = 0; i < 510; i++)
        v.page_log[509 - i] = base + i * 4096;
    vmcs[VMCS_PML_INDEX] = 0xffff;
    vmcs[VMCS_IDT_VECTORING] = INTERRUPTION_VALID | 0x31;
    take_exit(VMX_REASON_PML_FULL);
    ck_assert_uint_eq(vcpu.exit.reason, HW_EXIT_TABLES_LOG);
    ck_assert_uint_eq(vcpu.exit.length, 0);
    ck_assert(hv->has_reinject);
    ck_assert_uint_eq(hv->reinject.vector, 0x31);
    ck_assert_uint_eq(vmcs[VMCS_PML_INDEX], 511);
    vmcs[VMCS_IDT_VECTORING] = 0;
    memset(bitmap, 0, sizeof(bitmap));
    ck_assert_int_eq(virtx_memslot_harvest(&slot, bitmap, 10, &dirty), VIRTX_OK);
    ck_assert_uint_eq(dirty, 510);
    vmcs[VMCS_EXIT_QUALIFICATION] = EPT_QUALIFICATION_NMI_UNBLOCKED;
    hv->valid &= ~(uint32_t)VIRTX_STATE_INTR;
    take_exit(VMX_REASON_PML_FULL);
    ck_assert_uint_ne(hw_state(hv, VIRTX_STATE_INTR)->interruptibility & VIRTX_BLOCKED_BY_NMI, 0);

    /* What is in it when the vcpu goes is not lost. */
    v.page_log[511] = base + 7 * 4096;
    vmx_vcpu_destroy(hv);
    memset(bitmap, 0, sizeof(bitmap));
    ck_assert_int_eq(virtx_memslot_harvest(&slot, bitmap, 10, &dirty), VIRTX_OK);
    ck_assert_uint_eq(bitmap[0], 1 << 7);
    atomic_store(&vm.slots, NULL);
    free(slots);
    virtx_log_free(&virtx, slot.log);
    vmx_vm_destroy(&vm, &vm_data);
    ck_assert_uint_eq(pages_out, 0);

    /* Not there, or switched off: no page, no control. */
    load_vcpu("corei7_skylake_x", VIRTX_FEATURE_DIRTY_LOGGING);
    ck_assert_uint_eq(vmcs[VMCS_SECONDARY] & SECONDARY_PML, 0);
    ck_assert_ptr_null(v.page_log);
    vmx_drain(hv);
    drop_vcpu();
}
END_TEST

START_TEST(exceptions)
{
    struct virtx_exit *exit;

    setup();
    vmcs[VMCS_EXIT_INTERRUPTION] = INTERRUPTION_VALID | INTERRUPTION_ERROR | 3 << 8 | VECTOR_PF;
    vmcs[VMCS_EXIT_ERROR_CODE] = 6;
    vmcs[VMCS_EXIT_QUALIFICATION] = 0xdead000;
    exit = take_exit(VMX_REASON_EXCEPTION);
    ck_assert_int_eq(exit->reason, VIRTX_EXIT_EXCEPTION);
    ck_assert_uint_eq(exit->exception.vector, VECTOR_PF);
    ck_assert(exit->exception.has_error);
    ck_assert_uint_eq(exit->exception.error, 6);
    ck_assert_uint_eq(exit->exception.address, 0xdead000);
    ck_assert_uint_eq(exit->length, 0);

    vmcs[VMCS_EXIT_INTERRUPTION] = INTERRUPTION_VALID | 6 << 8 | VECTOR_BP;
    vmcs[VMCS_EXIT_LENGTH] = 1;
    exit = take_exit(VMX_REASON_EXCEPTION);
    ck_assert_uint_eq(exit->exception.vector, VECTOR_BP);
    ck_assert(!exit->exception.has_error);
    ck_assert_uint_eq(exit->length, 1);

    vmcs[VMCS_EXIT_INTERRUPTION] = INTERRUPTION_VALID | 3 << 8 | VECTOR_DB;
    vmcs[VMCS_EXIT_QUALIFICATION] = 0x4001;
    exit = take_exit(VMX_REASON_EXCEPTION);
    ck_assert_uint_eq(exit->exception.address, 0x4001);
    drop_vcpu();
}
END_TEST

/* NMI and machine check go to the host's own vectors and are nobody else's business. */
START_TEST(host_events)
{
    setup();
    vmcs[VMCS_EXIT_INTERRUPTION] = INTERRUPTION_VALID | 2 << 8 | 2;
    ck_assert_int_eq(take_exit(VMX_REASON_EXCEPTION)->reason, HW_EXIT_HOST);
    ck_assert_uint_eq(host_interrupts[2], 1);
    vmcs[VMCS_EXIT_INTERRUPTION] = INTERRUPTION_VALID | 3 << 8 | 18;
    ck_assert_int_eq(take_exit(VMX_REASON_EXCEPTION)->reason, HW_EXIT_HOST);
    ck_assert_uint_eq(host_interrupts[18], 1);
    ck_assert_uint_eq(host_interrupts[2], 1);
    /* an external interrupt stays pending in the host's controller */
    ck_assert_int_eq(take_exit(VMX_REASON_INTERRUPT)->reason, VIRTX_EXIT_INTERRUPT);
    drop_vcpu();
}
END_TEST

START_TEST(instructions)
{
    static const struct {
        uint32_t reason, info;
        uint32_t which;
    } cases[] = {
        {11, 0, VIRTX_INSN_GETSEC},      {13, 0, VIRTX_INSN_INVD},
        {15, 0, VIRTX_INSN_RDPMC},       {16, 0, VIRTX_INSN_RDTSC},
        {17, 0, VIRTX_INSN_RSM},         {19, 0, VIRTX_INSN_VMX},
        {20, 0, VIRTX_INSN_VMX},         {27, 0, VIRTX_INSN_VMX},
        {36, 0, VIRTX_INSN_MWAIT},       {39, 0, VIRTX_INSN_MONITOR},
        {40, 0, VIRTX_INSN_PAUSE},       {46, 0, VIRTX_INSN_SGDT},
        {46, 1u << 28, VIRTX_INSN_SIDT}, {46, 2u << 28, VIRTX_INSN_LGDT},
        {46, 3u << 28, VIRTX_INSN_LIDT}, {47, 0, VIRTX_INSN_SLDT},
        {47, 1u << 28, VIRTX_INSN_STR},  {47, 2u << 28, VIRTX_INSN_LLDT},
        {47, 3u << 28, VIRTX_INSN_LTR},  {50, 0, VIRTX_INSN_VMX},
        {51, 0, VIRTX_INSN_RDTSCP},      {53, 0, VIRTX_INSN_VMX},
        {54, 0, VIRTX_INSN_WBINVD},      {55, 0, VIRTX_INSN_XSETBV},
        {57, 0, VIRTX_INSN_RDRAND},      {58, 0, VIRTX_INSN_INVPCID},
        {59, 0, VIRTX_INSN_VMX},         {61, 0, VIRTX_INSN_RDSEED},
    };

    setup();
    vmcs[VMCS_EXIT_LENGTH] = 3;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct virtx_exit *exit;

        vmcs[VMCS_INSTRUCTION_INFO] = cases[i].info;
        exit = take_exit(cases[i].reason);
        ck_assert_int_eq(exit->reason, VIRTX_EXIT_INSTRUCTION);
        ck_assert_uint_eq(exit->instruction.which, cases[i].which);
        ck_assert_uint_eq(exit->instruction.operand, 0);
        ck_assert_uint_eq(exit->length, 3);
    }
    vmcs[VMCS_EXIT_QUALIFICATION] = 0xffff800012345000;
    ck_assert_uint_eq(take_exit(VMX_REASON_INVLPG)->instruction.operand, 0xffff800012345000);
    ck_assert_int_eq(vcpu.exit.instruction.which, VIRTX_INSN_INVLPG);
    ck_assert_int_eq(take_exit(VMX_REASON_HLT)->reason, VIRTX_EXIT_HLT);
    vmcs[VMCS_GUEST_SS_ATTRIBUTES] = 0xc0f3;
    ck_assert_int_eq(take_exit(VMX_REASON_VMCALL)->reason, VIRTX_EXIT_HYPERCALL);
    ck_assert_uint_eq(vcpu.exit.hypercall.cpl, 3);
    drop_vcpu();
}
END_TEST

START_TEST(the_rest)
{
    setup();
    ck_assert_int_eq(take_exit(VMX_REASON_TRIPLE_FAULT)->reason, VIRTX_EXIT_SHUTDOWN);
    vmcs[VMCS_EXIT_QUALIFICATION] = 0x9a;
    ck_assert_int_eq(take_exit(VMX_REASON_SIPI)->reason, VIRTX_EXIT_SIPI);
    ck_assert_uint_eq(vcpu.exit.sipi.vector, 0x9a);
    vmcs[VMCS_EXIT_QUALIFICATION] = 2ull << 30 | 0x28;
    ck_assert_int_eq(take_exit(VMX_REASON_TASK_SWITCH)->reason, VIRTX_EXIT_TASK_SWITCH);
    ck_assert_uint_eq(vcpu.exit.task_switch.selector, 0x28);
    ck_assert_uint_eq(vcpu.exit.task_switch.source, 2);
    ck_assert(!vcpu.exit.task_switch.has_error);
    /* through a task gate, with the error code of the exception that came there */
    vmcs[VMCS_EXIT_QUALIFICATION] = 3ull << 30 | 0x30;
    vmcs[VMCS_IDT_VECTORING] = INTERRUPTION_VALID | INTERRUPTION_ERROR | 3 << 8 | VECTOR_GP;
    vmcs[VMCS_IDT_ERROR_CODE] = 0x18;
    take_exit(VMX_REASON_TASK_SWITCH);
    ck_assert(vcpu.exit.task_switch.has_error);
    ck_assert_uint_eq(vcpu.exit.task_switch.error, 0x18);
    vmcs[VMCS_IDT_VECTORING] = 0;
    ck_assert_int_eq(take_exit(VMX_REASON_TPR)->reason, HW_EXIT_TPR);
    ck_assert_int_eq(take_exit(VMX_REASON_TIMER)->reason, HW_EXIT_TIMER);
    /* what no manual lists is kept as it is */
    ck_assert_int_eq(take_exit(200)->reason, VIRTX_EXIT_UNKNOWN);
    ck_assert_int_eq(take_exit(VMX_REASON_TRAP_FLAG)->reason, VIRTX_EXIT_UNKNOWN);
    drop_vcpu();
}
END_TEST

START_TEST(failed_entries)
{
    struct virtx_error *error = &vcpu.error;

    setup();
    vmcs[VMCS_GUEST_RFLAGS] = 0;
    vmcs[VMCS_EXIT_REASON] = VMX_REASON_ENTRY_FAILED | VMX_REASON_ENTRY_GUEST_STATE;
    vmcs[VMCS_ENTRY_INTERRUPTION] = INTERRUPTION_VALID | 3 << 8 | VECTOR_UD;
    v.launched = true;
    ck_assert_int_eq(refusal(vmx_exited(&v)), VIRTX_E_GUEST_STATE);
    ck_assert_str_eq(error->what, "guest RFLAGS");
    ck_assert(!v.launched);
    ck_assert_uint_eq(vmclears, 1);
    ck_assert_uint_eq(vmptrlds, 1);
    ck_assert_uint_eq(vmcs[VMCS_ENTRY_INTERRUPTION], 0); /* src/hw injects it again */
    vmcs[VMCS_GUEST_RFLAGS] = 2;
    ck_assert_int_eq(refusal(vmx_exited(&v)),
                     VIRTX_E_GUEST_STATE); /* the hardware knows a rule that we don't */
    vmcs[VMCS_EXIT_REASON] = VMX_REASON_ENTRY_FAILED | VMX_REASON_ENTRY_MACHINE_CHECK;
    ck_assert_int_eq(refusal(vmx_exited(&v)), VIRTX_E_HARDWARE);
    ck_assert_uint_eq(host_interrupts[18], 1);

    vmcs[VMCS_INSTRUCTION_ERROR] = 8;
    vmcs[VMCS_HOST_CR3] = 1ull << 45;
    ck_assert_int_eq(refusal(vmx_refused(&v, 0)), VIRTX_E_HOST_STATE);
    ck_assert_str_eq(error->what, "host CR3");
    vmcs[VMCS_INSTRUCTION_ERROR] = 7;
    vmcs[VMCS_CR3_TARGETS] = 200;
    ck_assert_int_eq(refusal(vmx_refused(&v, 0)), VIRTX_E_CONTROLS);
    ck_assert_str_eq(error->what, "CR3-target count");
    vmcs[VMCS_INSTRUCTION_ERROR] = 4;
    ck_assert_int_eq(refusal(vmx_refused(&v, 0)), VIRTX_E_HARDWARE);
    ck_assert_str_eq(error->rule, vmx_instruction_error(4));
    ck_assert_uint_eq(error->value, 4);
    ck_assert_int_eq(refusal(vmx_refused(&v, 1)), VIRTX_E_HARDWARE);
    drop_vcpu();
}
END_TEST

/* ---- The end of an instruction ---- */

START_TEST(advance_clears_shadow_and_rf)
{
    setup();
    vmcs[VMCS_EXIT_LENGTH] = 2;
    vmcs[VMCS_GUEST_RFLAGS] = 2 | RFLAGS_IF | RFLAGS_RF;
    vmcs[VMCS_GUEST_INTERRUPTIBILITY] = VIRTX_BLOCKED_BY_STI;
    take_exit(VMX_REASON_CPUID);
    vmx_advance(hv);
    ck_assert_uint_eq(hv->state.rflags, 2 | RFLAGS_IF);
    ck_assert_uint_eq(hv->state.interruptibility, 0);
    ck_assert_uint_eq(hv->state.pending_debug, 0);
    vmx_write(&v, hv->dirty & VIRTX_STATE_ALL);
    ck_assert_uint_eq(vmcs[VMCS_GUEST_RIP], 0x4002);
    ck_assert_uint_eq(vmcs[VMCS_GUEST_RFLAGS], 2 | RFLAGS_IF);
    ck_assert_uint_eq(vmcs[VMCS_GUEST_INTERRUPTIBILITY], 0);
    drop_vcpu();
}
END_TEST

START_TEST(advance_single_steps)
{
    setup();
    vmcs[VMCS_EXIT_LENGTH] = 2;
    vmcs[VMCS_GUEST_RFLAGS] = 2 | RFLAGS_TF;
    take_exit(VMX_REASON_CPUID);
    vmx_advance(hv);
    vmx_write(&v, hv->dirty & VIRTX_STATE_ALL);
    ck_assert_uint_eq(vmcs[VMCS_GUEST_PENDING_DEBUG], DR6_BS);
    /* with BTF only branches are stepped */
    hv->dirty = 0;
    vmcs[VMCS_GUEST_PENDING_DEBUG] = 0;
    vmcs[VMCS_GUEST_DEBUGCTL] = DEBUGCTL_BTF;
    take_exit(VMX_REASON_CPUID);
    vmx_advance(hv);
    ck_assert_uint_eq(hv->state.pending_debug, 0);
    drop_vcpu();
}
END_TEST

/* A single step that Bochs saves for an instruction that faulted; one that MOV SS holds back is
 * real. */
START_TEST(no_step_before_a_fault)
{
    setup();
    vmcs[VMCS_GUEST_RFLAGS] = 2 | RFLAGS_TF;
    vmcs[VMCS_EXIT_QUALIFICATION] = 0x181;
    vmcs[VMCS_GUEST_PENDING_DEBUG] = DR6_BS;
    take_exit(VMX_REASON_EPT_VIOLATION);
    vmx_write(&v, hv->dirty & VIRTX_STATE_ALL);
    ck_assert_uint_eq(vmcs[VMCS_GUEST_PENDING_DEBUG], 0);
    hv->dirty = 0;
    vmcs[VMCS_GUEST_PENDING_DEBUG] = DR6_BS;
    vmcs[VMCS_GUEST_INTERRUPTIBILITY] = VIRTX_BLOCKED_BY_MOV_SS;
    take_exit(VMX_REASON_EPT_VIOLATION);
    vmx_write(&v, hv->dirty & VIRTX_STATE_ALL);
    ck_assert_uint_eq(vmcs[VMCS_GUEST_PENDING_DEBUG], DR6_BS);
    drop_vcpu();
}
END_TEST

START_TEST(advance_wraps)
{
    setup();
    vmcs[VMCS_EXIT_LENGTH] = 2;
    vmcs[VMCS_GUEST_RIP] = 0xffffffff;
    take_exit(VMX_REASON_CPUID);
    vmx_advance(hv);
    ck_assert_uint_eq(hv->state.rip, 0x100000001); /* 64-bit mode */
    vmcs[VMCS_GUEST_CS_ATTRIBUTES] = 0xc09b;
    take_exit(VMX_REASON_CPUID);
    vmx_advance(hv);
    ck_assert_uint_eq(hv->state.rip, 1);
    drop_vcpu();
}
END_TEST

/* ---- Events ---- */

START_TEST(injection)
{
    struct virtx_event event = {.type = VIRTX_EVENT_INTERRUPT, .vector = 0x30};

    setup();
    vmx_inject(hv, &event);
    ck_assert_uint_eq(vmcs[VMCS_ENTRY_INTERRUPTION], 0x80000030);
    event = (struct virtx_event){
        .type = VIRTX_EVENT_EXCEPTION, .vector = VECTOR_GP, .has_error = true, .error = 0xfff0};
    vmx_inject(hv, &event);
    ck_assert_uint_eq(vmcs[VMCS_ENTRY_INTERRUPTION], 0x80000b0d);
    ck_assert_uint_eq(vmcs[VMCS_ENTRY_ERROR_CODE], 0xfff0);
    event = (struct virtx_event){.type = VIRTX_EVENT_SOFT_INTERRUPT, .vector = 0x80, .length = 2};
    vmx_inject(hv, &event);
    ck_assert_uint_eq(vmcs[VMCS_ENTRY_INTERRUPTION], 0x80000480);
    ck_assert_uint_eq(vmcs[VMCS_ENTRY_LENGTH], 2);
    /* a page fault pushes RF, whether the flags are in the VMCS or on their way there */
    event =
        (struct virtx_event){.type = VIRTX_EVENT_EXCEPTION, .vector = VECTOR_PF, .has_error = true};
    hv->dirty &= ~(uint32_t)VIRTX_STATE_RFLAGS;
    hv->valid &= ~(uint32_t)VIRTX_STATE_RFLAGS;
    vmcs[VMCS_GUEST_RFLAGS] = 0x246;
    vmx_inject(hv, &event);
    ck_assert_uint_eq(vmcs[VMCS_GUEST_RFLAGS], 0x10246);
    hw_change(hv, VIRTX_STATE_RFLAGS)->rflags = 0x302;
    vmx_inject(hv, &event);
    ck_assert_uint_eq(hv->state.rflags, 0x10302);
    /* real mode pushes no error codes */
    hv->state.cr0 = CR0_ET;
    hv->state.efer = 0;
    event = (struct virtx_event){
        .type = VIRTX_EVENT_EXCEPTION, .vector = VECTOR_GP, .has_error = true, .error = 0x50};
    vmx_inject(hv, &event);
    ck_assert_uint_eq(vmcs[VMCS_ENTRY_INTERRUPTION], 0x8000030d);
    drop_vcpu();
}
END_TEST

START_TEST(interrupted_delivery)
{
    setup();
    vmcs[VMCS_EXIT_QUALIFICATION] = 0x181;
    vmcs[VMCS_IDT_VECTORING] = INTERRUPTION_VALID | INTERRUPTION_ERROR | 3 << 8 | VECTOR_PF;
    vmcs[VMCS_IDT_ERROR_CODE] = 2;
    hv->state.cr2 = 0x1234;
    take_exit(VMX_REASON_EPT_VIOLATION);
    ck_assert(hv->has_reinject);
    ck_assert_uint_eq(hv->reinject.type, VIRTX_EVENT_EXCEPTION);
    ck_assert_uint_eq(hv->reinject.vector, VECTOR_PF);
    ck_assert(hv->reinject.has_error);
    ck_assert_uint_eq(hv->reinject.error, 2);
    ck_assert_uint_eq(hv->reinject.address, 0x1234);

    vmcs[VMCS_IDT_VECTORING] = INTERRUPTION_VALID | 4 << 8 | 0x80;
    vmcs[VMCS_EXIT_LENGTH] = 2;
    take_exit(VMX_REASON_EPT_VIOLATION);
    ck_assert_uint_eq(hv->reinject.type, VIRTX_EVENT_SOFT_INTERRUPT);
    ck_assert_uint_eq(hv->reinject.length, 2);

    /* an NMI comes again, so it no longer blocks itself */
    vmcs[VMCS_IDT_VECTORING] = INTERRUPTION_VALID | 2 << 8 | 2;
    vmcs[VMCS_GUEST_INTERRUPTIBILITY] = VIRTX_BLOCKED_BY_NMI;
    v.nmi_blockable = true;
    take_exit(VMX_REASON_EPT_VIOLATION);
    ck_assert_uint_eq(hv->reinject.type, VIRTX_EVENT_NMI);
    ck_assert(vmx_can_nmi(hv));
    vmx_write(&v, hv->dirty & VIRTX_STATE_ALL);
    ck_assert_uint_eq(vmcs[VMCS_GUEST_INTERRUPTIBILITY], 0);

    /* an exit that cannot interrupt a delivery does not look */
    take_exit(VMX_REASON_CPUID);
    ck_assert(!hv->has_reinject);
    drop_vcpu();
}
END_TEST

/* An IRET that faulted has unblocked NMIs, but will be executed again. */
START_TEST(iret_that_faulted)
{
    setup();
    vmcs[VMCS_EXIT_INTERRUPTION] =
        INTERRUPTION_VALID | INTERRUPTION_NMI_UNBLOCKED | INTERRUPTION_ERROR | 3 << 8 | VECTOR_PF;
    take_exit(VMX_REASON_EXCEPTION);
    ck_assert(!vmx_can_nmi(hv));
    ck_assert(hv->dirty & VIRTX_STATE_INTR);
    hv->dirty = 0;
    vmcs[VMCS_EXIT_INTERRUPTION] |= 0;
    vmcs[VMCS_EXIT_INTERRUPTION] =
        INTERRUPTION_VALID | INTERRUPTION_NMI_UNBLOCKED | INTERRUPTION_ERROR | 3 << 8 | VECTOR_DF;
    take_exit(VMX_REASON_EXCEPTION); /* for #DF the bit is undefined */
    ck_assert(!(hv->dirty & VIRTX_STATE_INTR));
    vmcs[VMCS_EXIT_QUALIFICATION] = 0x181 | EPT_QUALIFICATION_NMI_UNBLOCKED;
    take_exit(VMX_REASON_EPT_VIOLATION);
    ck_assert(!vmx_can_nmi(hv));
    drop_vcpu();
}
END_TEST

START_TEST(interruptibility)
{
    setup();
    vmcs[VMCS_GUEST_RFLAGS] = 2;
    take_exit(VMX_REASON_CPUID);
    ck_assert(!vmx_can_interrupt(hv));
    ck_assert(vmx_can_nmi(hv));
    vmcs[VMCS_GUEST_RFLAGS] = 2 | RFLAGS_IF;
    take_exit(VMX_REASON_CPUID);
    ck_assert(vmx_can_interrupt(hv));
    vmcs[VMCS_GUEST_INTERRUPTIBILITY] = VIRTX_BLOCKED_BY_STI;
    take_exit(VMX_REASON_CPUID);
    ck_assert(!vmx_can_interrupt(hv));
    vmcs[VMCS_GUEST_INTERRUPTIBILITY] = VIRTX_BLOCKED_BY_MOV_SS;
    take_exit(VMX_REASON_CPUID);
    ck_assert(!vmx_can_interrupt(hv) && !vmx_can_nmi(hv));
    drop_vcpu();
}
END_TEST

/* The single step of an instruction that has been retired is delivered by an entry that delivers
 * nothing else. */
START_TEST(single_step_goes_first)
{
    for (unsigned btf = 0; btf < 2; btf++) {
        setup();
        vmcs[VMCS_GUEST_RFLAGS] = 2 | RFLAGS_IF | RFLAGS_TF;
        vmcs[VMCS_GUEST_DEBUGCTL] = btf << 1;
        vmcs[VMCS_EXIT_LENGTH] = 2;
        take_exit(VMX_REASON_CPUID);
        hv->work = 0;
        vmx_advance(hv);
        ck_assert_uint_eq(hv->state.pending_debug, btf ? 0 : DR6_BS);
        ck_assert_uint_eq(hv->work, btf ? 0 : HW_WORK_EVENT);
        ck_assert(vmx_can_interrupt(hv) == (btf == 1));
        ck_assert(vmx_can_nmi(hv) == (btf == 1));
        drop_vcpu();
    }
}
END_TEST

/* The single step of STI: an entry with the shadow left in the VMCS would be refused. */
START_TEST(debug_ends_shadow)
{
    setup();
    vmcs[VMCS_GUEST_RFLAGS] = 2 | RFLAGS_IF | RFLAGS_TF;
    vmcs[VMCS_GUEST_INTERRUPTIBILITY] = VIRTX_BLOCKED_BY_STI;
    vmcs[VMCS_EXIT_INTERRUPTION] = 1u << 31 | 3 << 8 | VECTOR_DB;
    vmcs[VMCS_EXIT_QUALIFICATION] = 1 << 14;
    take_exit(VMX_REASON_EXCEPTION);
    ck_assert_uint_eq(hv->vcpu->exit.exception.address, 1 << 14);
    ck_assert_uint_eq(hw_state(hv, VIRTX_STATE_INTR)->interruptibility, 0);
    ck_assert(hv->dirty & VIRTX_STATE_INTR);
    drop_vcpu();
}
END_TEST

/* Bochs leaves another VM's blocking in the field: not believed of a vcpu that was never given an
 * NMI. */
START_TEST(leaked_nmi_blocking)
{
    const struct virtx_event nmi = {.type = VIRTX_EVENT_NMI, .vector = 2};

    setup();
    vmcs[VMCS_GUEST_INTERRUPTIBILITY] = VIRTX_BLOCKED_BY_NMI;
    take_exit(VMX_REASON_CPUID);
    ck_assert(vmx_can_nmi(hv));
    ck_assert_uint_eq(vmcs[VMCS_GUEST_INTERRUPTIBILITY], 0);
    vmx_inject(hv, &nmi);
    vmcs[VMCS_GUEST_INTERRUPTIBILITY] = VIRTX_BLOCKED_BY_NMI;
    take_exit(VMX_REASON_CPUID);
    ck_assert(!vmx_can_nmi(hv));
    drop_vcpu();
}
END_TEST

START_TEST(windows)
{
    setup();
    vmx_window(hv, true, true);
    ck_assert_uint_eq(vmcs[VMCS_PRIMARY] & (PRIMARY_INTERRUPT_WINDOW | PRIMARY_NMI_WINDOW),
                      PRIMARY_INTERRUPT_WINDOW | PRIMARY_NMI_WINDOW);
    vmx_controls(hv); /* recomputing the controls keeps what is asked for */
    ck_assert_uint_eq(vmcs[VMCS_PRIMARY], v.control[VMX_PRIMARY]);
    ck_assert_int_eq(take_exit(VMX_REASON_INTERRUPT_WINDOW)->reason, HW_EXIT_WINDOW);
    ck_assert_uint_eq(vmcs[VMCS_PRIMARY] & (PRIMARY_INTERRUPT_WINDOW | PRIMARY_NMI_WINDOW),
                      PRIMARY_NMI_WINDOW);
    ck_assert_int_eq(take_exit(VMX_REASON_NMI_WINDOW)->reason, HW_EXIT_NMI_WINDOW);
    ck_assert_uint_eq(vmcs[VMCS_PRIMARY] & (PRIMARY_INTERRUPT_WINDOW | PRIMARY_NMI_WINDOW), 0);
    drop_vcpu();
}
END_TEST

/* Without virtual NMIs nothing tells of IRET but the executor: what waits for one, and what the
 * handler does until then, is not for the processor. */
START_TEST(nmi_by_hand)
{
    setup();
    ck_assert(!hv->nmi_by_hand);
    drop_vcpu();
    load_vcpu(MODEL, VIRTX_FEATURE_VIRTUAL_NMI);
    ck_assert(!(vmcs[VMCS_PIN] & PIN_VIRTUAL_NMI));
    ck_assert(hv->nmi_by_hand && hv->confined && !v.confined);
    ck_assert_int_eq(vmx_place(hv), HW_PLACE_HARDWARE);

    vmx_window(hv, true, true);
    ck_assert_uint_eq(vmcs[VMCS_PRIMARY] & (PRIMARY_INTERRUPT_WINDOW | PRIMARY_NMI_WINDOW),
                      PRIMARY_INTERRUPT_WINDOW);
    ck_assert_int_eq(vmx_place(hv), HW_PLACE_EXECUTOR);
    ck_assert_uint_eq(vmx_enter(hv), HW_EXIT_EXECUTE);
    vmx_window(hv, false, false);
    ck_assert_int_eq(vmx_place(hv), HW_PLACE_HARDWARE);

    hw_change(hv, VIRTX_STATE_INTR)->interruptibility = VIRTX_BLOCKED_BY_NMI; /* delivered */
    ck_assert(!vmx_can_nmi(hv));
    ck_assert_int_eq(vmx_place(hv), HW_PLACE_EXECUTOR);
    ck_assert_uint_eq(vmx_enter(hv), HW_EXIT_EXECUTE);
    ck_assert_uint_eq(vmcs[VMCS_GUEST_INTERRUPTIBILITY], 0); /* it would be the host's */
    hw_change(hv, VIRTX_STATE_INTR)->interruptibility = 0;   /* IRET */
    ck_assert(vmx_can_nmi(hv));
    ck_assert_int_eq(vmx_place(hv), HW_PLACE_HARDWARE);
    drop_vcpu();
}
END_TEST

/* ---- State ---- */

/* What is written comes back, group by group, through another vcpu's eyes. */
START_TEST(state_round_trip)
{
    struct virtx_state before;

    setup();
    hv->state.gdtr.base = 0xffff800000001000;
    hv->state.idtr.limit = 0xfff;
    hv->state.dr7 = 0x401;
    hv->state.debugctl = 1;
    hv->state.sysenter_eip = 0x7777;
    hv->state.lstar = 0xffff800000000007;
    hv->state.kernel_gs_base = 0x9000;
    hv->state.cr0 |= CR0_WP | CR0_CD;
    hv->state.cr4 |= CR4_PGE;
    hv->state.rflags = 0x202;
    hv->state.interruptibility = VIRTX_BLOCKED_BY_STI;
    before = hv->state;
    vmx_write(&v, VIRTX_STATE_ALL);
    ck_assert_uint_eq(live_msrs[1], 0xffff800000000007); /* already live */
    memset(&hv->state, 0xff, offsetof(struct virtx_state, cr2));
    hv->state.gpr[VIRTX_RSP] = hv->state.cr3 = hv->state.cr4 = hv->state.dr7 = ~0ull;
    hv->state.lstar = hv->state.kernel_gs_base = hv->state.sysenter_eip = ~0ull;
    hv->state.interruptibility = ~0u;
    vmx_read(hv, VIRTX_STATE_ALL & ~VIRTX_STATE_GPR);
    memcpy(hv->state.gpr, before.gpr, sizeof(before.gpr) / 16 * 4);
    ck_assert_uint_eq(hv->state.rip, before.rip);
    ck_assert_uint_eq(hv->state.gpr[VIRTX_RSP], before.gpr[VIRTX_RSP]);
    ck_assert_uint_eq(hv->state.rflags, before.rflags);
    for (unsigned i = 0; i < VIRTX_SEG_COUNT; i++) {
        ck_assert_uint_eq(hv->state.seg[i].base, before.seg[i].base);
        ck_assert_uint_eq(hv->state.seg[i].limit, before.seg[i].limit);
        ck_assert_uint_eq(hv->state.seg[i].attributes, before.seg[i].attributes);
        ck_assert_uint_eq(hv->state.seg[i].selector, before.seg[i].selector);
    }
    ck_assert_uint_eq(hv->state.gdtr.base, before.gdtr.base);
    ck_assert_uint_eq(hv->state.idtr.limit, before.idtr.limit);
    ck_assert_uint_eq(hv->state.cr0, before.cr0);
    ck_assert_uint_eq(hv->state.cr3, before.cr3);
    ck_assert_uint_eq(hv->state.cr4, before.cr4);
    ck_assert_uint_eq(hv->state.dr7, before.dr7);
    ck_assert_uint_eq(hv->state.debugctl, before.debugctl);
    ck_assert_uint_eq(hv->state.lstar, before.lstar);
    ck_assert_uint_eq(hv->state.kernel_gs_base, before.kernel_gs_base);
    ck_assert_uint_eq(hv->state.sysenter_eip, before.sysenter_eip);
    ck_assert_uint_eq(hv->state.interruptibility, before.interruptibility);
    drop_vcpu();
}
END_TEST

/* The real CR0 and CR4: fixed bits on, caching and machine checks the host's, WP and PGE the
 * guest's. */
START_TEST(real_control_registers)
{
    setup();
    hv->state.cr0 = CR0_PG | CR0_PE | CR0_ET | CR0_CD | CR0_NW | CR0_WP;
    hv->state.cr4 = CR4_PAE | CR4_PGE;
    vmx_write(&v, VIRTX_STATE_CR);
    ck_assert_uint_eq(vmcs[VMCS_GUEST_CR0], CR0_PG | CR0_PE | CR0_ET | CR0_NE | CR0_WP);
    ck_assert_uint_eq(vmcs[VMCS_CR0_SHADOW], hv->state.cr0);
    ck_assert_uint_eq(vmcs[VMCS_GUEST_CR4], CR4_PAE | CR4_PGE | CR4_VMXE | CR4_MCE);
    ck_assert_uint_eq(vmcs[VMCS_CR4_SHADOW], hv->state.cr4);
    ck_assert_uint_eq(vmcs[VMCS_CR0_MASK] & (CR0_CD | CR0_NW | CR0_NE | CR0_PG | CR0_PE),
                      CR0_CD | CR0_NW | CR0_NE | CR0_PG | CR0_PE);
    ck_assert_uint_eq(vmcs[VMCS_CR0_MASK] & (CR0_WP | CR0_TS | CR0_MP | CR0_EM | CR0_AM), 0);
    ck_assert_uint_eq(vmcs[VMCS_CR4_MASK] & (CR4_PGE | CR4_PSE | CR4_DE | CR4_TSD), 0);
    ck_assert_uint_eq(~vmcs[VMCS_CR4_MASK] & (CR4_VMXE | CR4_SMXE | CR4_MCE | CR4_OSXSAVE |
                                              CR4_PKE | CR4_LA57 | CR4_CET | CR4_PKS | 1ull << 40),
                      0);
    /* the guest clears WP itself; both halves are put together again */
    vmcs[VMCS_GUEST_CR0] &= ~CR0_WP;
    vmx_read(hv, VIRTX_STATE_CR);
    ck_assert_uint_eq(hv->state.cr0, CR0_PG | CR0_PE | CR0_ET | CR0_CD | CR0_NW);
    ck_assert_uint_eq(hv->state.cr4, CR4_PAE | CR4_PGE);
    /* a mask that grows takes over what the guest's view is then */
    take_exit(VMX_REASON_CPUID);
    hv->controls.cr0_mask = CR0_WP;
    vmx_controls(hv);
    vmx_write(&v, hv->dirty & VIRTX_STATE_ALL);
    ck_assert_uint_eq(vmcs[VMCS_CR0_SHADOW], CR0_PG | CR0_PE | CR0_ET | CR0_CD | CR0_NW);
    drop_vcpu();
}
END_TEST

/* While the FPU state waits TS and MP of the real CR0 are the host's, and the guest's are in the
 * shadow. */
START_TEST(fpu_waits)
{
    uint64_t cr0 = CR0_PG | CR0_PE | CR0_ET;

    setup();
    hv->state.cr0 = cr0;
    vmx_write(&v, VIRTX_STATE_CR);
    hv->dirty = 0;
    take_exit(VMX_REASON_CPUID);
    hv->controls.fpu_waits = true;
    hv->controls.cr0_mask = CR0_TS | CR0_MP;
    hv->controls.exceptions = 1u << VECTOR_NM;
    vmx_controls(hv);
    ck_assert_uint_eq(hv->dirty & VIRTX_STATE_CR, VIRTX_STATE_CR);
    vmx_write(&v, hv->dirty & VIRTX_STATE_ALL);
    hv->dirty = 0;
    ck_assert_uint_eq(vmcs[VMCS_GUEST_CR0], cr0 | CR0_NE | CR0_TS | CR0_MP);
    ck_assert_uint_eq(vmcs[VMCS_CR0_SHADOW], cr0);
    ck_assert_uint_eq(vmcs[VMCS_CR0_MASK] & (CR0_TS | CR0_MP), CR0_TS | CR0_MP);
    ck_assert(vmcs[VMCS_EXCEPTIONS] >> VECTOR_NM & 1);
    take_exit(VMX_REASON_CPUID);
    vmx_read(hv, VIRTX_STATE_CR);
    ck_assert_uint_eq(hv->state.cr0, cr0);
    take_exit(VMX_REASON_CPUID);
    hv->controls.fpu_waits = false; /* the embedder wants to know of CR0: the mask stays */
    hv->controls.exceptions = 0;
    vmx_controls(hv);
    vmx_write(&v, hv->dirty & VIRTX_STATE_ALL);
    ck_assert_uint_eq(vmcs[VMCS_GUEST_CR0], cr0 | CR0_NE);
    ck_assert_uint_eq(hv->state.cr0, cr0);
    ck_assert(!(vmcs[VMCS_EXCEPTIONS] >> VECTOR_NM & 1));
    drop_vcpu();
}
END_TEST

START_TEST(efer_and_mode)
{
    setup();
    ck_assert(vmcs[VMCS_ENTRY] & ENTRY_IA32E);
    ck_assert_uint_eq(vmcs[VMCS_GUEST_EFER], EFER_LME | EFER_LMA);
    hv->state.efer = EFER_LME;
    hv->state.cr0 &= ~CR0_PG;
    vmx_write(&v, VIRTX_STATE_CR);
    ck_assert(!(vmcs[VMCS_ENTRY] & ENTRY_IA32E));
    drop_vcpu();

    /* without the controls, the MSR areas hold both values */
    load_vcpu(MODEL, VIRTX_FEATURE_EFER_SWITCH);
    ck_assert(!(vmcs[VMCS_ENTRY] & ENTRY_LOAD_EFER) && !(vmcs[VMCS_EXIT] & EXIT_LOAD_EFER));
    ck_assert_uint_eq(vmcs[VMCS_ENTRY_MSR_LOAD_COUNT], 1);
    ck_assert_uint_eq(vmcs[VMCS_EXIT_MSR_LOAD_COUNT], 1);
    ck_assert_uint_eq(v.msr_area[0].index, MSR_EFER);
    ck_assert_uint_eq(v.msr_area[0].value, EFER_LME | EFER_LMA);
    ck_assert_uint_eq(v.msr_area[1].value, EFER_LME | EFER_LMA | EFER_NXE);
    ck_assert_uint_eq(vmcs[VMCS_EXIT_MSR_LOAD], vmcs[VMCS_ENTRY_MSR_LOAD] + 16);
    drop_vcpu();
}
END_TEST

START_TEST(segment_fixups)
{
    struct virtx_state *s = &hv->state;
    struct virtx_segment seg;

    setup();
    /* a null selector, as SVM has it: not present */
    s->seg[VIRTX_DS] = segment(0, 0, 0);
    seg = vmx_segment_fixed(s, VIRTX_DS);
    ck_assert(seg.attributes & VIRTX_SEG_UNUSABLE);
    /* the accessed bit that some processors do not keep */
    s->seg[VIRTX_ES].attributes = 0xc092;
    ck_assert_uint_eq(vmx_segment_fixed(s, VIRTX_ES).attributes, 0xc093);
    /* G follows the limit */
    s->seg[VIRTX_SS] = segment(0x10, 0xfff, 0xc093);
    ck_assert_uint_eq(vmx_segment_fixed(s, VIRTX_SS).attributes, 0xc093);
    s->seg[VIRTX_SS].limit = 0xffe;
    ck_assert_uint_eq(vmx_segment_fixed(s, VIRTX_SS).attributes, 0x4093);
    s->seg[VIRTX_SS] = segment(0x10, 0xffffffff, 0x4093);
    ck_assert_uint_eq(vmx_segment_fixed(s, VIRTX_SS).attributes, 0xc093);
    /* TR: an available TSS is busy once loaded; none at all becomes RESET's */
    s->seg[VIRTX_TR].attributes = 0x89;
    ck_assert_uint_eq(vmx_segment_fixed(s, VIRTX_TR).attributes, 0x8b);
    s->seg[VIRTX_TR] = segment(0, 0, VIRTX_SEG_UNUSABLE);
    ck_assert_uint_eq(vmx_segment_fixed(s, VIRTX_TR).attributes, 0x8b);
    s->seg[VIRTX_LDTR] = segment(0, 0, 0);
    ck_assert(vmx_segment_fixed(s, VIRTX_LDTR).attributes & VIRTX_SEG_UNUSABLE);
    drop_vcpu();
}
END_TEST

/* ---- Controls ---- */

START_TEST(control_bits)
{
    static const struct {
        uint64_t instruction;
        uint32_t field, bit;
    } cases[] = {
        {VIRTX_INSN_RDTSC, VMCS_PRIMARY, PRIMARY_RDTSC},
        {VIRTX_INSN_RDTSCP, VMCS_PRIMARY, PRIMARY_RDTSC},
        {VIRTX_INSN_RDPMC, VMCS_PRIMARY, PRIMARY_RDPMC},
        {VIRTX_INSN_INVLPG, VMCS_PRIMARY, PRIMARY_INVLPG},
        {VIRTX_INSN_MONITOR, VMCS_PRIMARY, PRIMARY_MONITOR},
        {VIRTX_INSN_MWAIT, VMCS_PRIMARY, PRIMARY_MWAIT},
        {VIRTX_INSN_PAUSE, VMCS_PRIMARY, PRIMARY_PAUSE},
        {VIRTX_INSN_WBINVD, VMCS_SECONDARY, SECONDARY_WBINVD},
        {VIRTX_INSN_LIDT, VMCS_SECONDARY, SECONDARY_DESCRIPTOR_TABLE},
        {VIRTX_INSN_RDRAND, VMCS_SECONDARY, SECONDARY_RDRAND},
    };

    setup();
    ck_assert_uint_eq(vmcs[VMCS_EXCEPTIONS], 1u << 1 | 1u << 17 | 1u << 18);
    ck_assert(vmcs[VMCS_PIN] & PIN_INTERRUPT);
    ck_assert(vmcs[VMCS_PRIMARY] & PRIMARY_HLT);
    ck_assert(!(vmcs[VMCS_EXIT] & EXIT_ACK_INTERRUPT));
    ck_assert(!(vmcs[VMCS_PRIMARY] & (PRIMARY_CR3_LOAD | PRIMARY_CR3_STORE | PRIMARY_INVLPG)));
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        hv->controls.instructions = 0;
        vmx_controls(hv);
        ck_assert(!(vmcs[cases[i].field] & cases[i].bit));
        hv->controls.instructions = 1ull << cases[i].instruction;
        vmx_controls(hv);
        ck_assert(vmcs[cases[i].field] & cases[i].bit);
    }
    hv->controls.instructions = 1ull << VIRTX_INSN_PAUSE;
    hv->controls.pause = (struct virtx_pause_filter){.gap = 128, .window = 4096, .count = 100};
    vmx_controls(hv);
    ck_assert(!(vmcs[VMCS_PRIMARY] & PRIMARY_PAUSE));
    ck_assert(vmcs[VMCS_SECONDARY] & SECONDARY_PAUSE_LOOP);
    ck_assert_uint_eq(vmcs[VMCS_PLE_GAP], 128);
    ck_assert_uint_eq(vmcs[VMCS_PLE_WINDOW], 4096);
    hv->controls.instructions = 0; /* a filter alone arms nothing */
    vmx_controls(hv);
    ck_assert(!(vmcs[VMCS_PRIMARY] & PRIMARY_PAUSE));
    ck_assert(!(vmcs[VMCS_SECONDARY] & SECONDARY_PAUSE_LOOP));
    hv->controls = (struct hw_controls){
        .exceptions = 1u << 14, .pf_mask = 2, .pf_match = 2, .cr_read = 1u << 3, .dr_read = 1};
    vmx_controls(hv);
    ck_assert_uint_eq(vmcs[VMCS_EXCEPTIONS], 1u << 1 | 1u << 14 | 1u << 17 | 1u << 18);
    ck_assert_uint_eq(vmcs[VMCS_PF_MASK], 2);
    ck_assert_uint_eq(vmcs[VMCS_PF_MATCH], 2);
    ck_assert(vmcs[VMCS_PRIMARY] & PRIMARY_CR3_STORE);
    ck_assert(!(vmcs[VMCS_PRIMARY] & (PRIMARY_CR3_LOAD | PRIMARY_HLT)));
    ck_assert(vmcs[VMCS_PRIMARY] & PRIMARY_MOV_DR);
    ck_assert(!(vmcs[VMCS_PIN] & PIN_INTERRUPT));
    drop_vcpu();
}
END_TEST

/* A second time nothing changes, so nothing is written that has a copy. */
START_TEST(controls_are_written_once)
{
    setup();
    vmx_controls(hv);
    ck_assert_uint_le(vmwrites, 5); /* #PF filter and bitmap addresses */
    drop_vcpu();
}
END_TEST

static bool bit_of(const uint8_t *bitmap, unsigned bit)
{
    return bitmap[bit / 8] >> bit % 8 & 1;
}

START_TEST(bitmaps)
{
    const uint8_t *io, *msr;

    setup();
    io = host_virt(NULL, vmcs[VMCS_IO_BITMAP_A]);
    msr = host_virt(NULL, vmcs[VMCS_MSR_BITMAP]);
    ck_assert_uint_eq(vmcs[VMCS_IO_BITMAP_B], vmcs[VMCS_IO_BITMAP_A] + 4096);
    for (unsigned i = 0; i < 8192; i++)
        ck_assert_uint_eq(io[i], 0xff);
    ck_assert_int_eq(vmx_ports(&vm, NULL, 0x7fff, 0x8000, false), VIRTX_OK);
    ck_assert(!bit_of(io, 0x7fff) && !bit_of(io, 0x8000) && bit_of(io, 0x7ffe) &&
              bit_of(io, 0x8001));
    ck_assert_int_eq(vmx_ports(&vm, NULL, 0xffff, 0xffff, false), VIRTX_OK);
    ck_assert(!bit_of(io, 0xffff));
    ck_assert_int_eq(vmx_ports(&vm, NULL, 0, 0xffff, true), VIRTX_OK);
    for (unsigned i = 0; i < 8192; i++)
        ck_assert_uint_eq(io[i], 0xff);

    /* reads of 0-1fff, of c0000000-c0001fff, then writes of both */
    ck_assert_int_eq(vmx_msr(&vm, NULL, MSR_LSTAR, VIRTX_READ, false), VIRTX_OK);
    ck_assert(!bit_of(msr + 1024, 0x82) && bit_of(msr + 3072, 0x82));
    ck_assert_int_eq(vmx_msr(&vm, NULL, 0x174, VIRTX_WRITE, false), VIRTX_OK);
    ck_assert(!bit_of(msr + 2048, 0x174) && bit_of(msr, 0x174));
    ck_assert_int_eq(vmx_msr(&vm, NULL, 0x1fff, VIRTX_READ, false), VIRTX_OK);
    ck_assert(!bit_of(msr, 0x1fff));
    ck_assert_int_eq(vmx_msr(&vm, NULL, 0x2000, VIRTX_READ, false), VIRTX_E_UNSUPPORTED);
    ck_assert_int_eq(vmx_msr(&vm, NULL, 0xc0002000, VIRTX_READ, false), VIRTX_E_UNSUPPORTED);
    ck_assert_int_eq(vmx_msr(&vm, NULL, 0x2000, VIRTX_READ, true), VIRTX_OK);
    /* what would reach the host always exits */
    ck_assert_int_eq(vmx_msr(&vm, NULL, MSR_EFER, VIRTX_READ | VIRTX_WRITE, false), VIRTX_OK);
    ck_assert(bit_of(msr + 3072, 0x80));
    ck_assert_int_eq(vmx_msr(&vm, NULL, 0x480, VIRTX_READ | VIRTX_WRITE, false), VIRTX_OK);
    ck_assert(bit_of(msr, 0x480));

    /* a vcpu's own copy begins as the VM's and leaves it alone */
    ck_assert_int_eq(vmx_msr(&vm, hv, MSR_STAR, VIRTX_WRITE, false), VIRTX_OK);
    ck_assert(bit_of(msr + 3072, 0x81));
    vmx_controls(hv);
    ck_assert_uint_ne(vmcs[VMCS_MSR_BITMAP], host_phys(NULL, msr));
    msr = host_virt(NULL, vmcs[VMCS_MSR_BITMAP]);
    ck_assert(!bit_of(msr + 3072, 0x81) && !bit_of(msr + 1024, 0x82));
    pages_until_failure = 0;
    ck_assert_int_eq(vmx_ports(&vm, hv, 1, 1, false), VIRTX_E_NO_MEMORY);
    pages_until_failure = 1000;
    drop_vcpu();
}
END_TEST

START_TEST(what_can_be_intercepted)
{
    struct virtx_intercept_config c = {.size = sizeof(c)};
    bool forced;

    setup();
    c.kind = VIRTX_INTERCEPT_CR;
    c.access = VIRTX_READ;
    c.first = c.last = 3;
    ck_assert_int_eq(vmx_intercept_check(&virtx, &c, &forced), VIRTX_OK);
    c.first = c.last = 0; /* no MOV from CR0 exits on VMX */
    ck_assert_int_eq(vmx_intercept_check(&virtx, &c, &forced), VIRTX_E_UNSUPPORTED);
    c.access = VIRTX_WRITE;
    ck_assert_int_eq(vmx_intercept_check(&virtx, &c, &forced), VIRTX_OK);
    c.kind = VIRTX_INTERCEPT_INSTRUCTION;
    c.access = 0;
    c.first = c.last = VIRTX_INSN_INVD;
    ck_assert_int_eq(vmx_intercept_check(&virtx, &c, &forced), VIRTX_OK);
    ck_assert(forced);
    c.first = c.last = VIRTX_INSN_RDTSC;
    ck_assert_int_eq(vmx_intercept_check(&virtx, &c, &forced), VIRTX_OK);
    ck_assert(!forced);
    c.first = c.last = VIRTX_INSN_IRET;
    ck_assert_int_eq(vmx_intercept_check(&virtx, &c, &forced), VIRTX_E_UNSUPPORTED);
    c.first = c.last = VIRTX_INSN_SKINIT;
    ck_assert_int_eq(vmx_intercept_check(&virtx, &c, &forced), VIRTX_E_UNSUPPORTED);
    c.kind = VIRTX_INTERCEPT_CPUID;
    ck_assert_int_eq(vmx_intercept_check(&virtx, &c, &forced), VIRTX_OK);
    ck_assert(forced);
    c.kind = VIRTX_INTERCEPT_EXCEPTION;
    c.first = c.last = VECTOR_AC;
    ck_assert_int_eq(vmx_intercept_check(&virtx, &c, &forced), VIRTX_OK);
    ck_assert(forced);
    c.first = c.last = VECTOR_NMI;
    ck_assert_int_eq(vmx_intercept_check(&virtx, &c, &forced), VIRTX_E_UNSUPPORTED);
    drop_vcpu();
}
END_TEST

/* ---- Loading, flushing, the host's state ---- */

START_TEST(roots_and_flushes)
{
    setup();
    ck_assert_uint_eq(vmcs[VMCS_EPTP], 0x200000 | 6 | 3 << 3 | 1 << 6);
    vmx_flush(hv, HW_FLUSH_NESTED);
    ck_assert_uint_eq(invepts, 1);
    ck_assert_uint_eq(last_invept_type, 1);
    ck_assert_uint_eq(last_invept.eptp, vmcs[VMCS_EPTP]);
    ck_assert_uint_eq(invvpids, 0);
    hv->tag = 7; /* a new tag is in force before it is flushed */
    vmx_flush(hv, HW_FLUSH_TAG);
    ck_assert_uint_eq(vmcs[VMCS_VPID], 7);
    ck_assert_uint_eq(invvpids, 1);
    ck_assert_uint_eq(last_invvpid_type, 1);
    ck_assert_uint_eq(last_invvpid.vpid, 7);
    drop_vcpu();

    load_vcpu("corei5_lynnfield_750", 0);
    ck_assert_uint_eq(vmcs[VMCS_EPTP], 0x200000 | 6 | 3 << 3); /* no accessed and dirty flags */
    drop_vcpu();

    load_vcpu(MODEL, VIRTX_FEATURE_TLB_TAGS);
    ck_assert(!(vmcs[VMCS_SECONDARY] & SECONDARY_VPID));
    vmx_flush(hv, HW_FLUSH_TAG);
    ck_assert_uint_eq(invvpids, 0);
    drop_vcpu();
}
END_TEST

START_TEST(host_msrs_follow_the_profile)
{
    setup();
    /* SYSCALL belongs to tier 1, KERNEL_GS_BASE to tier 3, of a host with values of its own */
    drop_vcpu();
    virtx.profile.at_exit = VIRTX_HOST_SYSCALL;
    virtx.profile.at_put = VIRTX_HOST_KERNEL_GS_BASE;
    make_vcpu(MODEL, 0);
    hv->ops = &vmx_hw_for_reads;
    live_msrs[1] = 0x1111;
    live_msrs[4] = 0x4444;
    hv->state.lstar = 0x2222;
    hv->state.kernel_gs_base = 0x5555;
    ck_assert_int_eq(vmx_load(hv, &cpu_data), VIRTX_OK);
    ck_assert_uint_eq(live_msrs[1], 0x1111); /* load alone disturbs nothing */
    vmx_host_refresh(&v);
    ck_assert_uint_eq(live_msrs[1], 0x2222);
    ck_assert_uint_eq(live_msrs[4], 0x5555);
    vmx_write(&v, VIRTX_STATE_ALL);
    hv->dirty = 0;
    take_exit(VMX_REASON_CPUID);
    live_msrs[1] = 0x3333; /* the guest's own WRMSR, without an exit */
    vmx_to_host(hv, virtx.profile.at_exit);
    ck_assert_uint_eq(live_msrs[1], 0x1111);
    ck_assert_uint_eq(live_msrs[4], 0x5555); /* not due yet */
    ck_assert(hv->dirty & VMX_DIRTY_HOST);
    vmx_read(hv, VIRTX_STATE_SYSCALL);
    ck_assert_uint_eq(hv->state.lstar, 0x3333);
    vmx_host_refresh(&v);
    ck_assert_uint_eq(live_msrs[1], 0x3333);
    take_exit(VMX_REASON_CPUID);
    vmx_put(hv);
    ck_assert_uint_eq(live_msrs[1], 0x1111);
    ck_assert_uint_eq(live_msrs[4], 0x4444);
    ck_assert_uint_eq(hv->valid & VIRTX_STATE_ALL, VIRTX_STATE_ALL);
    ck_assert_uint_eq(hv->state.kernel_gs_base, 0x5555);
    virtx.profile.at_exit = virtx.profile.at_put = 0;
    drop_vcpu();
}
END_TEST

/* A bare host pays for nothing: its MSRs are not read, not written back. */
START_TEST(bare_profile)
{
    setup();
    take_exit(VMX_REASON_CPUID);
    vmx_to_host(hv, 0);
    ck_assert_uint_eq(wrmsrs, 0);
    vmx_host_refresh(&v);
    ck_assert_uint_eq(vmwrites, 0);
    ck_assert_uint_eq(wrmsrs, 0);
    cr[3] = 0x9000; /* the host moved to another address space between two runs */
    vmx_host_refresh(&v);
    ck_assert_uint_eq(vmcs[VMCS_HOST_CR3], 0x9000);
    drop_vcpu();
}
END_TEST

/* What was set while the MSRs are live must not be lost to the processor's older copy. */
/* Intel SDM "Virtualizing CR8-Based TPR Accesses": CR8 is bits 7:4 of VTPR. */
static void set_vector(unsigned set, unsigned vector)
{
    v.virtual_apic[set + vector / 32 * 16 + vector % 32 / 8] |= (uint8_t)(1u << vector % 8);
}

/* Intel SDM "APIC Virtualization and Virtual Interrupts": what is asked for, and no more. */
START_TEST(apic_virtualization)
{
    const uint32_t all = SECONDARY_APIC_ACCESS | SECONDARY_X2APIC | SECONDARY_APIC_REGISTERS |
                         SECONDARY_VIRTUAL_INTERRUPT;
    uint8_t *access_page;
    struct virtx_exit *exit;

    setup();
    access_page = virtx_pages_alloc(&virtx, 1);
    ck_assert_uint_eq(v.control[VMX_SECONDARY] & all, 0);
    ck_assert_ptr_eq(vmx_apic_page(hv), v.virtual_apic);
    vm_data.hw.apic_page = access_page;
    hv->controls.apic = (struct hw_apic){.page = true, .access = true, .registers = true};
    vmx_controls(hv);
    ck_assert_uint_eq(v.control[VMX_SECONDARY] & all,
                      SECONDARY_APIC_ACCESS | SECONDARY_APIC_REGISTERS);
    ck_assert_uint_eq(vmcs[VMCS_APIC_ACCESS], host_phys(NULL, access_page));
    /* Interrupts: the highest requested and in service, and who is to hear of an end. */
    hv->controls.apic.delivery = true;
    vmx_controls(hv);
    ck_assert(v.control[VMX_SECONDARY] & SECONDARY_VIRTUAL_INTERRUPT);
    set_vector(0x200, 0x51);
    set_vector(0x200, 0x31);
    set_vector(0x100, 0xa2);
    set_vector(0x180, 0x51);
    set_vector(0x180, 0xe0);
    vmx_apic_changed(hv);
    ck_assert_uint_eq(vmcs[VMCS_INTERRUPT_STATUS], 0xa251);
    ck_assert_uint_eq(vmcs[VMCS_EOI_EXIT0], 0);
    ck_assert_uint_eq(vmcs[VMCS_EOI_EXIT0 + 2], 1ull << 0x11);
    ck_assert_uint_eq(vmcs[VMCS_EOI_EXIT0 + 6], 1ull << 0x20);
    vmcs[VMCS_EXIT_QUALIFICATION] = 0xe0;
    exit = take_exit(VMX_REASON_EOI);
    ck_assert_uint_eq(exit->reason, HW_EXIT_EOI);
    ck_assert_uint_eq(exit->raw.qualification, 0xe0);
    vmcs[VMCS_EXIT_QUALIFICATION] = 0x300;
    exit = take_exit(VMX_REASON_APIC_WRITE);
    ck_assert_uint_eq(exit->reason, HW_EXIT_APIC_WRITE);
    ck_assert_uint_eq(exit->raw.qualification, 0x300);
    /* A delivery that is interrupted is that of what is highest in service. */
    vmcs[VMCS_EXIT_QUALIFICATION] = 0x181;
    vmcs[VMCS_IDT_VECTORING] = INTERRUPTION_VALID | 0x33;
    take_exit(VMX_REASON_EPT_VIOLATION);
    ck_assert(hv->has_reinject);
    ck_assert_uint_eq(hv->reinject.vector, 0xa2);
    vmcs[VMCS_IDT_VECTORING] = INTERRUPTION_VALID | 0x1e1;
    take_exit(VMX_REASON_EPT_VIOLATION);
    ck_assert_uint_eq(hv->reinject.type, VIRTX_EVENT_INTERRUPT);
    ck_assert_uint_eq(hv->reinject.vector, 0xa2);
    /* None but an injected NMI is delivered. */
    vmcs[VMCS_IDT_VECTORING] = INTERRUPTION_VALID | 0x202;
    take_exit(VMX_REASON_EPT_VIOLATION);
    ck_assert_uint_eq(hv->reinject.type, VIRTX_EVENT_INTERRUPT);
    ck_assert_uint_eq(hv->reinject.vector, 0xa2);
    vmcs[VMCS_IDT_VECTORING] = INTERRUPTION_VALID | 0x33;
    hv->injected = true;
    take_exit(VMX_REASON_EPT_VIOLATION);
    ck_assert_uint_eq(hv->reinject.vector, 0x33);
    hv->injected = false;
    vmcs[VMCS_IDT_VECTORING] = 0;
    /* The guest's CR8 is in the page, and nobody writes it along with the other registers. */
    v.virtual_apic[0x80] = 0x70;
    hw_change(hv, VIRTX_STATE_CR)->cr8 = 2;
    vmx_write(&v, VIRTX_STATE_CR);
    ck_assert_uint_eq(v.virtual_apic[0x80], 0x70);
}
END_TEST

static bool msr_exits(const uint8_t *bitmap, uint32_t index, bool write)
{
    return bitmap[(write ? 2048u : 0u) + index / 8] >> (index & 7) & 1;
}

/* Only registers that the processor then serves; the others would be the host's. */
START_TEST(x2apic_virtualization)
{
    static const uint16_t reads[] = {0x802, 0x803, 0x808, 0x80d, 0x80f, 0x828, 0x832,
                                     0x833, 0x834, 0x835, 0x836, 0x837, 0x838, 0x83e};

    setup();
    for (unsigned help = 0; help < 4; help++) {
        const uint8_t *bitmap = v.x2apic_bitmap;

        hv->controls.apic = (struct hw_apic){
            .page = true, .x2apic = true, .registers = help & 1, .delivery = help & 2};
        vmx_controls(hv);
        ck_assert(v.control[VMX_SECONDARY] & SECONDARY_X2APIC);
        ck_assert_uint_eq(vmcs[VMCS_MSR_BITMAP], host_phys(NULL, v.x2apic_bitmap));
        for (uint32_t index = 0x800; index < 0x900; index++) {
            bool set = index >= 0x810 && index < 0x828, read = index == 0x808, write = read;

            for (unsigned i = 0; i < sizeof(reads) / sizeof(reads[0]); i++)
                set |= index == reads[i];
            read |= (help & 1) && set;
            write |= (help & 2) && (index == 0x80b || index == 0x83f);
            ck_assert_int_eq(msr_exits(bitmap, index, false), !read);
            ck_assert_int_eq(msr_exits(bitmap, index, true), !write);
        }
        ck_assert(msr_exits(bitmap, 0x8b, false));
    }
    /* What is set meanwhile is the vcpu's own, and counts with the controls that follow it. */
    ck_assert_int_eq(vmx_msr(hv->vcpu->vm, hv, 0x8b, VIRTX_READ, false), VIRTX_OK);
    ck_assert_int_eq(vmx_msr(hv->vcpu->vm, hv, 0x83f, VIRTX_WRITE, true), VIRTX_OK);
    vmx_controls(hv);
    ck_assert(!msr_exits(v.x2apic_bitmap, 0x8b, false));
    ck_assert(!msr_exits(v.x2apic_bitmap, 0x83f, true)); /* the processor's */
    hv->controls.apic = (struct hw_apic){.page = true};
    vmx_controls(hv);
    ck_assert_uint_ne(vmcs[VMCS_MSR_BITMAP], host_phys(NULL, v.x2apic_bitmap));
    ck_assert_uint_eq(vmcs[VMCS_MSR_BITMAP], host_phys(NULL, v.msr_bitmap));
    ck_assert(!msr_exits(v.msr_bitmap, 0x8b, false));
    for (uint32_t index = 0x800; index < 0x900; index++)
        ck_assert(msr_exits(v.msr_bitmap, index, false) && msr_exits(v.msr_bitmap, index, true));
}
END_TEST

START_TEST(tpr_shadow)
{
    uint32_t exiting = PRIMARY_CR8_LOAD | PRIMARY_CR8_STORE;

    setup();
    ck_assert(v.control[VMX_PRIMARY] & PRIMARY_TPR_SHADOW);
    ck_assert_uint_eq(v.control[VMX_PRIMARY] & exiting, 0);
    ck_assert_uint_eq(vmcs[VMCS_VIRTUAL_APIC], host_phys(NULL, v.virtual_apic));
    hw_change(hv, VIRTX_STATE_CR)->cr8 = 9;
    vmx_write(&v, VIRTX_STATE_CR);
    ck_assert_uint_eq(v.virtual_apic[0x80], 0x90);
    v.virtual_apic[0x80] = 0x60; /* the guest has written it */
    ck_assert_uint_eq(vmx_tpr(hv), 0x60);
    vmx_set_tpr(hv, 0x65);
    vmx_write(&v, VIRTX_STATE_CR); /* CR8 is 9 there */
    ck_assert_uint_eq(vmx_tpr(hv), 0x90);
    vmx_set_tpr(hv, 0x65);
    hw_change(hv, VIRTX_STATE_CR)->cr8 = 6;
    vmx_write(&v, VIRTX_STATE_CR);
    ck_assert_uint_eq(vmx_tpr(hv), 0x65);
    hv->valid = 0;
    ck_assert_uint_eq(hw_state(hv, VIRTX_STATE_CR)->cr8, 6);
    hv->controls.cr8_shadow = true;
    vmx_cr8_threshold(hv, 5);
    ck_assert_uint_eq(vmcs[VMCS_TPR_THRESHOLD], 5);
    hv->controls.cr_write |= 1u << 8;
    vmx_controls(hv);
    ck_assert_uint_eq(v.control[VMX_PRIMARY] & exiting, PRIMARY_CR8_LOAD);
    ck_assert_uint_eq(vmcs[VMCS_TPR_THRESHOLD], 5);
    hv->controls.cr_read |= 1u << 8;
    hv->controls.cr8_shadow = false; /* nobody waits any more */
    vmx_controls(hv);
    ck_assert_uint_eq(v.control[VMX_PRIMARY] & exiting, exiting);
    ck_assert_uint_eq(vmcs[VMCS_TPR_THRESHOLD], 0);
    hv->controls.cr_write = hv->controls.cr_read = 0;
    drop_vcpu();
    load_vcpu(MODEL, VIRTX_FEATURE_TPR_SHADOW);
    ck_assert_uint_eq(v.control[VMX_PRIMARY] & (exiting | PRIMARY_TPR_SHADOW), exiting);
    drop_vcpu();
}
END_TEST

/* Intel SDM "VMX-Preemption Timer": it counts once in 2^X ticks, X in IA32_VMX_MISC bits 4:0. */
START_TEST(preemption_timer)
{
    const uint64_t far = 1000000000;
    uint64_t before, after;

    for (unsigned rate = 0; rate < 32; rate += 5) {
        load_vcpu(MODEL, 0);
        cpu_data.caps.misc = (cpu_data.caps.misc & ~0x1full) | rate;
        vmx_put(hv);
        ck_assert_int_eq(vmx_load(hv, &cpu_data), VIRTX_OK);
        ck_assert(!(vmcs[VMCS_PIN] & PIN_TIMER));
        before = x86_rdtsc();
        vmx_deadline(hv, before + far);
        ck_assert(vmcs[VMCS_PIN] & PIN_TIMER);
        ck_assert(hv->dirty & VMX_DIRTY_TIMER);
        vmx_controls(hv);
        ck_assert(vmcs[VMCS_PIN] & PIN_TIMER);
        vmx_timer_set(&v);
        after = x86_rdtsc();
        /* Never so few that it comes before the time, nor one more than needed. */
        ck_assert_uint_le(vmcs[VMCS_TIMER] << rate, far + (1ull << rate) - 1);
        ck_assert_uint_ge(vmcs[VMCS_TIMER] << rate, before + far - after);
        vmx_deadline(hv, before); /* over */
        vmx_timer_set(&v);
        ck_assert_uint_eq(vmcs[VMCS_TIMER], 0);
        vmx_deadline(hv, UINT64_MAX - 1); /* more than it can count */
        vmx_timer_set(&v);
        if (rate < 20)
            ck_assert_uint_eq(vmcs[VMCS_TIMER], UINT32_MAX);
        vmx_deadline(hv, HW_NO_DEADLINE);
        ck_assert(!(vmcs[VMCS_PIN] & PIN_TIMER));
        ck_assert(!(hv->dirty & VMX_DIRTY_TIMER));
        drop_vcpu();
    }
}
END_TEST

/* Intel SDM "Posted-Interrupt Processing": ON is bit 256 of the descriptor, SN bit 257, the
 * notification's vector bits 279:272, the processor bits 319:288. */
START_TEST(posted_interrupts)
{
    const struct vmx_posted *posted = &v.posted;
    const uint64_t *words = (const uint64_t *)posted;
    uint64_t set[4];

    post_model = true;
    make_vcpu(MODEL, 0);
    hv->ops = &vmx_hw_for_reads;
    ck_assert(virtx.caps.features & VIRTX_FEATURE_POSTED_INTERRUPT);
    ck_assert_int_eq(vmx_load(hv, &cpu_data), VIRTX_OK);
    ck_assert_uint_eq(vmcs[VMCS_POSTED_VECTOR], 0xf2);
    ck_assert_uint_eq(vmcs[VMCS_POSTED_DESCRIPTOR], host_phys(NULL, posted));
    ck_assert_uint_eq(vmcs[VMCS_POSTED_DESCRIPTOR] & 0x3f, 0);
    ck_assert_uint_eq(words[4], 0xf2ull << 16 | 0x500ull << 32); /* APIC 5 */
    ck_assert(vmcs[VMCS_EXIT] & EXIT_ACK_INTERRUPT);
    ck_assert(!(vmcs[VMCS_PIN] & PIN_POSTED_INTERRUPT));
    hv->controls.apic = (struct hw_apic){.page = true, .delivery = true};
    vmx_controls(hv);
    ck_assert(vmcs[VMCS_PIN] & PIN_POSTED_INTERRUPT);
    /* The first asks for a notification, until they have been taken. */
    ck_assert(vmx_post(hv, 0x41));
    ck_assert(!vmx_post(hv, 0xff));
    ck_assert_uint_eq(words[1], 2);
    ck_assert_uint_eq(words[3], 1ull << 63);
    ck_assert_uint_eq(words[4] & 3, 1);
    ck_assert(vmx_posted(hv, set));
    ck_assert(set[0] == 0 && set[1] == 2 && set[2] == 0 && set[3] == 1ull << 63);
    ck_assert_uint_eq(words[1] | words[3] | (words[4] & 3), 0);
    ck_assert(!vmx_posted(hv, set));
    ck_assert(vmx_post(hv, 0x41));
    /* Loaded nowhere: SN. What a device posts then without ON is found all the same. */
    vmx_put(hv);
    ck_assert_uint_eq(words[4] & 3, 3);
    ck_assert(vmx_posted(hv, set));
    v.posted.requests[2] = 4;
    ck_assert_int_eq(vmx_load(hv, &cpu_data), VIRTX_OK);
    ck_assert_uint_eq(words[4] & 3, 0);
    ck_assert(vmx_posted(hv, set));
    ck_assert_uint_eq(set[2], 4);
    /* The exit has acknowledged the host's interrupt. */
    vmcs[VMCS_EXIT_INTERRUPTION] = INTERRUPTION_VALID | 0x33;
    ck_assert_int_eq(take_exit(VMX_REASON_INTERRUPT)->reason, VIRTX_EXIT_INTERRUPT);
    ck_assert_uint_eq(hv->acknowledged, 0x33);
    hv->controls.apic.delivery = false;
    vmx_controls(hv);
    ck_assert(!(vmcs[VMCS_PIN] & PIN_POSTED_INTERRUPT));
    post_model = false;
    drop_vcpu();
}
END_TEST

START_TEST(set_then_put)
{
    setup();
    virtx.profile.at_put = VIRTX_HOST_SYSCALL;
    take_exit(VMX_REASON_CPUID);
    live_msrs[1] = 0x6000;
    hw_change(hv, VIRTX_STATE_SYSCALL)->lstar = 0x7000;
    vmx_put(hv);
    ck_assert_uint_eq(hv->state.lstar, 0x7000);
    ck_assert(hv->dirty & VIRTX_STATE_SYSCALL);
    virtx.profile.at_put = 0;
    drop_vcpu();
}
END_TEST

START_TEST(moves_to_another_cpu)
{
    setup();
    v.launched = true;
    take_exit(VMX_REASON_CPUID);
    vmx_put(hv);
    ck_assert_uint_eq(vmclears, 1);
    ck_assert(!v.launched);
    cr[4] &= ~CR4_MCE;
    ck_assert_int_eq(vmx_load(hv, &cpu_data), VIRTX_OK);
    ck_assert(hv->dirty & VIRTX_STATE_CR);
    vmx_write(&v, hv->dirty & VIRTX_STATE_ALL);
    ck_assert(!(vmcs[VMCS_GUEST_CR4] & CR4_MCE));
    ck_assert(!(vmcs[VMCS_HOST_CR4] & CR4_MCE));
    drop_vcpu();
}
END_TEST

START_TEST(refused_pointer)
{
    make_vcpu(MODEL, 0);
    next_fail = VMX_FAIL_INVALID;
    ck_assert_int_eq(vmx_load(hv, &cpu_data), VIRTX_E_HARDWARE);
    ck_assert_str_eq(vcpu.error.what, "VMPTRLD");
    drop_vcpu();
}
END_TEST

START_TEST(no_memory_leaves_nothing)
{
    make_vcpu(MODEL, VIRTX_FEATURE_EFER_SWITCH);
    vmx_vcpu_destroy(hv);
    for (unsigned n = 0; n < 2; n++) {
        unsigned before = pages_out;

        pages_until_failure = n;
        ck_assert_int_eq(vmx_vcpu_create(hv), VIRTX_E_NO_MEMORY);
        ck_assert_uint_eq(pages_out, before);
    }
    pages_until_failure = 1000;
    drop_vcpu();
}
END_TEST

/* ---- One CPU ---- */

START_TEST(cpu_enable)
{
    struct virtx_error error;

    make_vcpu(MODEL, 0);
    /* somebody else's */
    ck_assert_int_eq(vmx_cpu_enable(&virtx, &cpu_data, &error), VIRTX_E_IN_USE);
    cr[4] &= ~CR4_VMXE;
    live_msrs[12] = 1;
    ck_assert_int_eq(vmx_cpu_enable(&virtx, &cpu_data, &error), VIRTX_E_LOCKED_OUT);
    live_msrs[12] = 0;
    cr[0] &= ~CR0_NE;
    ck_assert_int_eq(vmx_cpu_enable(&virtx, &cpu_data, &error), VIRTX_E_HOST);
    cr[0] |= CR0_NE;
    next_fail = VMX_FAIL_INVALID;
    ck_assert_int_eq(vmx_cpu_enable(&virtx, &cpu_data, &error), VIRTX_E_HARDWARE);
    ck_assert(!(cr[4] & CR4_VMXE));
    ck_assert_int_eq(vmx_cpu_enable(&virtx, &cpu_data, &error), VIRTX_OK);
    ck_assert_uint_eq(live_msrs[12], 5);
    ck_assert(cr[4] & CR4_VMXE);
    vmx_cpu_emergency_off(&virtx, &cpu_data);
    ck_assert(!(cr[4] & CR4_VMXE));
    vmx_cpu_emergency_off(&virtx, &cpu_data); /* in any state */
    vmx_cpu_disable(&virtx, &cpu_data);
    /* a CPU with less than the one that opened the library */
    capability[12] &= ~(1ull << 21);
    ck_assert_int_eq(vmx_cpu_enable(&virtx, &cpu_data, &error), VIRTX_E_UNSUPPORTED);
    ck_assert_uint_eq(error.value, VIRTX_FEATURE_NESTED_AD);
    drop_vcpu();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("vmx_exit");
    TCase *tests = tcase_create("exit");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_test(tests, cpuid);
    tcase_add_test(tests, msr_access);
    tcase_add_test(tests, port_access);
    tcase_add_test(tests, control_registers);
    tcase_add_test(tests, debug_registers);
    tcase_add_test(tests, ept_violations);
    tcase_add_test(tests, page_log);
    tcase_add_test(tests, exceptions);
    tcase_add_test(tests, host_events);
    tcase_add_test(tests, instructions);
    tcase_add_test(tests, the_rest);
    tcase_add_test(tests, failed_entries);
    tcase_add_test(tests, advance_clears_shadow_and_rf);
    tcase_add_test(tests, advance_single_steps);
    tcase_add_test(tests, no_step_before_a_fault);
    tcase_add_test(tests, advance_wraps);
    tcase_add_test(tests, injection);
    tcase_add_test(tests, interrupted_delivery);
    tcase_add_test(tests, iret_that_faulted);
    tcase_add_test(tests, interruptibility);
    tcase_add_test(tests, single_step_goes_first);
    tcase_add_test(tests, debug_ends_shadow);
    tcase_add_test(tests, leaked_nmi_blocking);
    tcase_add_test(tests, windows);
    tcase_add_test(tests, nmi_by_hand);
    tcase_add_test(tests, state_round_trip);
    tcase_add_test(tests, real_control_registers);
    tcase_add_test(tests, fpu_waits);
    tcase_add_test(tests, efer_and_mode);
    tcase_add_test(tests, segment_fixups);
    tcase_add_test(tests, control_bits);
    tcase_add_test(tests, controls_are_written_once);
    tcase_add_test(tests, bitmaps);
    tcase_add_test(tests, what_can_be_intercepted);
    tcase_add_test(tests, roots_and_flushes);
    tcase_add_test(tests, host_msrs_follow_the_profile);
    tcase_add_test(tests, bare_profile);
    tcase_add_test(tests, set_then_put);
    tcase_add_test(tests, tpr_shadow);
    tcase_add_test(tests, preemption_timer);
    tcase_add_test(tests, posted_interrupts);
    tcase_add_test(tests, moves_to_another_cpu);
    tcase_add_test(tests, refused_pointer);
    tcase_add_test(tests, apic_virtualization);
    tcase_add_test(tests, x2apic_virtualization);
    tcase_add_test(tests, no_memory_leaves_nothing);
    tcase_add_test(tests, cpu_enable);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
