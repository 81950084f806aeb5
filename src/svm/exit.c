/* SPDX-License-Identifier: BSD-2-Clause */
/* EXITCODE and its companions to the neutral record. */
#include "svm/svm.h"

/* The length of the instruction that exited. */
static inline void length(struct svm_vcpu *sv, struct virtx_exit *exit)
{
    if (likely(sv->next_rip))
        exit->length = (uint8_t)(sv->vmcb.control.next_rip - exit->rip);
    else
        svm_length(sv, exit);
}

/* The whole of the vendor's words, for exits where a few instructions more do not matter. */
static void raw(const struct svm_vcpu *sv, struct virtx_exit *exit)
{
    exit->raw.qualification = sv->vmcb.control.exit_info1;
    exit->raw.address = sv->vmcb.control.exit_info2;
    exit->raw.interruption = sv->vmcb.control.exit_int_info;
}

/* Size, access, string and rep by the low bits of EXITINFO1 (AMD APM volume 2, "IOIO Intercepts").
 */
#define FORM(q)                                                                                    \
    {                                                                                              \
        (q) >> VMCB_IO_SIZE_SHIFT & 7, (q)&VMCB_IO_IN ? VIRTX_READ : VIRTX_WRITE, (q) >> 2 & 1,    \
            (q) >> 3 & 1                                                                           \
    }
#define FORMS(q)   FORM(q), FORM((q) + 1), FORM((q) + 2), FORM((q) + 3)
#define FORMS16(q) FORMS(q), FORMS((q) + 4), FORMS((q) + 8), FORMS((q) + 12)
static const uint8_t port_forms[][4] = {FORMS16(0x00), FORMS16(0x10), FORMS16(0x20), FORMS16(0x30),
                                        FORMS16(0x40), FORMS16(0x50), FORMS16(0x60), FORMS16(0x70)};
_Static_assert(offsetof(struct virtx_exit_io, access) == offsetof(struct virtx_exit_io, size) + 1 &&
                   offsetof(struct virtx_exit_io, string) ==
                       offsetof(struct virtx_exit_io, size) + 2 &&
                   offsetof(struct virtx_exit_io, rep) == offsetof(struct virtx_exit_io, size) + 3,
               "stored at once");

static inline uint32_t decode_io(struct svm_vcpu *sv, struct virtx_exit *exit)
{
    uint32_t info = (uint32_t)sv->vmcb.control.exit_info1;
    uint64_t next = sv->vmcb.control.exit_info2;

    exit->reason = VIRTX_EXIT_IO;
    exit->length = (uint8_t)(next - exit->rip);
    exit->raw.qualification = info;
    exit->raw.address = next;
    exit->io.port = (uint16_t)(info >> VMCB_IO_PORT_SHIFT);
    __builtin_memcpy(&exit->io.size, port_forms[info & 0x7f], 4);
    return VIRTX_EXIT_IO;
}

static void decode_msr(struct svm_vcpu *sv, struct virtx_exit *exit)
{
    exit->reason = VIRTX_EXIT_MSR;
    length(sv, exit);
    exit->msr.access = sv->vmcb.control.exit_info1 & 1 ? VIRTX_WRITE : VIRTX_READ;
}

static inline uint32_t decode_npf(struct svm_vcpu *sv, struct virtx_exit *exit)
{
    uint64_t info = sv->vmcb.control.exit_info1;
    struct virtx_page_fault *fault = &sv->hw.fault;

    exit->reason = HW_EXIT_PAGE_FAULT;
    exit->length = 0;
    raw(sv, exit);
    fault->gpa = sv->vmcb.control.exit_info2;
    fault->gva = 0;
    fault->error = (uint32_t)info;
    fault->access = info & PF_WRITE ? VIRTX_WRITE : info & PF_FETCH ? VIRTX_EXECUTE : VIRTX_READ;
    /* A present entry is readable; more is not reported. */
    fault->present = info & PF_PRESENT ? VIRTX_READ : 0;
    fault->gva_valid = false;
    fault->table_walk = (info & VMCB_NPF_TABLE) != 0;
    fault->misconfigured = (info & PF_RESERVED) != 0;
    return HW_EXIT_PAGE_FAULT;
}

/* #PF without nested paging: the engine's business first. */
static void decode_page_fault(struct svm_vcpu *sv, struct virtx_exit *exit)
{
    uint32_t error = (uint32_t)sv->vmcb.control.exit_info1;
    struct virtx_page_fault *fault = &sv->hw.fault;

    exit->reason = HW_EXIT_PAGE_FAULT;
    raw(sv, exit);
    fault->gpa = 0;
    fault->gva = sv->vmcb.control.exit_info2;
    fault->error = error;
    fault->access = error & PF_WRITE ? VIRTX_WRITE : error & PF_FETCH ? VIRTX_EXECUTE : VIRTX_READ;
    fault->present = error & PF_PRESENT ? VIRTX_READ : 0;
    fault->gva_valid = true;
    fault->table_walk = false;
    fault->misconfigured = (error & PF_RESERVED) != 0;
}

/* The DR6 bits of an intercepted #DB, which "matches what would be visible to a #DB exception
 * handler". One engine leaves DR6 alone; a guest that single-steps has had that then. */
static uint64_t debug_cause(const struct svm_vcpu *sv)
{
    const uint64_t causes = 0xe00f;
    uint64_t cause = sv->vmcb.save.dr6 & causes;

    return cause == 0 && (sv->vmcb.save.rflags & RFLAGS_TF) ? DR6_BS : cause;
}

static void decode_exception(struct svm_vcpu *sv, struct virtx_exit *exit, uint8_t vector)
{
    /* Vectors that push an error code (AMD APM volume 2, "Exceptions and Interrupts"). */
    const uint32_t with_error = 0x60227d00;
    const struct vmcb_control *control = &sv->vmcb.control;

    raw(sv, exit);
    if (vector == VECTOR_MC) {
        hw_host_machine_check(sv->hw.vcpu->virtx);
        exit->reason = HW_EXIT_HOST;
        return;
    }
    if (vector == VECTOR_PF && !sv->nested) {
        decode_page_fault(sv, exit);
        return;
    }
    exit->reason = VIRTX_EXIT_EXCEPTION;
    exit->exception.vector = vector;
    exit->exception.has_error = with_error >> vector & 1;
    exit->exception.error = exit->exception.has_error ? (uint32_t)control->exit_info1 : 0;
    exit->exception.address = 0;
    if (vector == VECTOR_PF)
        exit->exception.address = control->exit_info2;
    else if (vector == VECTOR_DB)
        exit->exception.address = debug_cause(sv);
    else if (vector == VECTOR_BP || vector == VECTOR_OF)
        length(sv, exit);
}

static void decode_task_switch(struct svm_vcpu *sv, struct virtx_exit *exit)
{
    uint64_t info = sv->vmcb.control.exit_info2;

    exit->reason = VIRTX_EXIT_TASK_SWITCH;
    raw(sv, exit);
    exit->task_switch.selector = (uint16_t)sv->vmcb.control.exit_info1;
    exit->task_switch.has_error = (info & VMCB_TASK_ERROR) != 0;
    exit->task_switch.error = (uint32_t)info;
    /* A task gate in the IDT shows only by the event that was being delivered. */
    if (info & VMCB_TASK_IRET)
        exit->task_switch.source = 1;
    else if (info & VMCB_TASK_JMP)
        exit->task_switch.source = 2;
    else
        exit->task_switch.source = sv->vmcb.control.exit_int_info & VMCB_EVENT_VALID ? 3 : 0;
}

/* All but the length. */
static inline void instruction(struct svm_vcpu *sv, struct virtx_exit *exit,
                               enum virtx_instruction which)
{
    exit->reason = VIRTX_EXIT_INSTRUCTION;
    raw(sv, exit);
    exit->instruction.which = which;
    exit->instruction.pad = 0;
    exit->instruction.operand = 0;
    exit->instruction.value = 0;
}

static void decode_instruction(struct svm_vcpu *sv, struct virtx_exit *exit,
                               enum virtx_instruction which)
{
    instruction(sv, exit, which);
    length(sv, exit);
}

/* An IRET that ends an NMI handler, or one that the embedder wants to see. */
static void decode_iret(struct svm_vcpu *sv, struct virtx_exit *exit)
{
    if (sv->nmi_blocked && !(sv->hw.controls.instructions & BIT(VIRTX_INSN_IRET))) {
        svm_step_begin(sv);
        exit->reason = HW_EXIT_HOST;
        return;
    }
    decode_instruction(sv, exit, VIRTX_INSN_IRET);
}

/* Instructions whose exit says nothing but that they were met. */
static const struct {
    uint16_t code;
    uint8_t which;
} plain_instructions[] = {
    {VMEXIT_IDTR_READ, VIRTX_INSN_SIDT},
    {VMEXIT_GDTR_READ, VIRTX_INSN_SGDT},
    {VMEXIT_LDTR_READ, VIRTX_INSN_SLDT},
    {VMEXIT_TR_READ, VIRTX_INSN_STR},
    {VMEXIT_IDTR_WRITE, VIRTX_INSN_LIDT},
    {VMEXIT_GDTR_WRITE, VIRTX_INSN_LGDT},
    {VMEXIT_LDTR_WRITE, VIRTX_INSN_LLDT},
    {VMEXIT_TR_WRITE, VIRTX_INSN_LTR},
    {VMEXIT_RDTSC, VIRTX_INSN_RDTSC},
    {VMEXIT_RDPMC, VIRTX_INSN_RDPMC},
    {VMEXIT_PUSHF, VIRTX_INSN_PUSHF},
    {VMEXIT_POPF, VIRTX_INSN_POPF},
    {VMEXIT_RSM, VIRTX_INSN_RSM},
    {VMEXIT_INTN, VIRTX_INSN_INTN},
    {VMEXIT_INVD, VIRTX_INSN_INVD},
    {VMEXIT_PAUSE, VIRTX_INSN_PAUSE},
    {VMEXIT_INVLPGA, VIRTX_INSN_SVM},
    {VMEXIT_VMRUN, VIRTX_INSN_SVM},
    {VMEXIT_VMLOAD, VIRTX_INSN_SVM},
    {VMEXIT_VMSAVE, VIRTX_INSN_SVM},
    {VMEXIT_STGI, VIRTX_INSN_SVM},
    {VMEXIT_CLGI, VIRTX_INSN_SVM},
    {VMEXIT_SKINIT, VIRTX_INSN_SKINIT},
    {VMEXIT_RDTSCP, VIRTX_INSN_RDTSCP},
    {VMEXIT_MONITOR, VIRTX_INSN_MONITOR},
    {VMEXIT_MWAIT, VIRTX_INSN_MWAIT},
    {VMEXIT_MWAIT_ARMED, VIRTX_INSN_MWAIT},
    {VMEXIT_INVPCID, VIRTX_INSN_INVPCID},
    /* Hidden from the guest in CPUID; to it they do not exist, like the SVM instructions. */
    {VMEXIT_RDPRU, VIRTX_INSN_SVM},
    {VMEXIT_INVLPGB, VIRTX_INSN_SVM},
    {VMEXIT_INVLPGB_ILLEGAL, VIRTX_INSN_SVM},
    {VMEXIT_MCOMMIT, VIRTX_INSN_SVM},
    {VMEXIT_TLBSYNC, VIRTX_INSN_SVM},
};

/* The less frequent exits. */
static void decode_other(struct svm_vcpu *sv, struct virtx_exit *exit, uint64_t code)
{
    if (code < VMEXIT_INTR) {
        raw(sv, exit);
        if (code < VMEXIT_DR0_READ)
            svm_decode_cr(sv, exit);
        else if (code < VMEXIT_EXCEPTION)
            svm_decode_dr(sv, exit);
        else
            decode_exception(sv, exit, (uint8_t)(code - VMEXIT_EXCEPTION));
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(plain_instructions); i++) {
        if (plain_instructions[i].code == code) {
            decode_instruction(sv, exit, plain_instructions[i].which);
            return;
        }
    }
    raw(sv, exit);
    exit->reason = VIRTX_EXIT_UNKNOWN;
}

/* All exits but the most frequent one. */
static __attribute__((noinline)) uint32_t decode(struct svm_vcpu *sv, struct virtx_exit *exit,
                                                 uint64_t code)
{
    exit->length = 0;
    switch (code) {
    case VMEXIT_CPUID:
        exit->reason = VIRTX_EXIT_CPUID;
        length(sv, exit);
        break;
    case VMEXIT_MSR:
        decode_msr(sv, exit);
        break;
    case VMEXIT_VMMCALL:
        exit->reason = VIRTX_EXIT_HYPERCALL;
        length(sv, exit);
        exit->hypercall.cpl = sv->vmcb.save.cpl & 3;
        break;
    case VMEXIT_HLT:
        exit->reason = VIRTX_EXIT_HLT;
        length(sv, exit);
        break;
    case VMEXIT_INTR:
        exit->reason = VIRTX_EXIT_INTERRUPT;
        break;
    case VMEXIT_NMI: /* STGI in the entry code has let the host take it */
    case VMEXIT_SMI:
    case VMEXIT_INIT:
        exit->reason = HW_EXIT_HOST;
        break;
    case VMEXIT_VINTR:
        svm_window_open(sv);
        break;
    case VMEXIT_CR0_SELECTIVE:
        raw(sv, exit);
        svm_decode_cr(sv, exit);
        break;
    case VMEXIT_IRET:
        decode_iret(sv, exit);
        break;
    case VMEXIT_INVLPG:
        instruction(sv, exit, VIRTX_INSN_INVLPG);
        svm_decode_invlpg(sv, exit);
        break;
    case VMEXIT_WBINVD:
        instruction(sv, exit, VIRTX_INSN_WBINVD);
        svm_decode_wbinvd(sv, exit);
        break;
    case VMEXIT_XSETBV:
        decode_instruction(sv, exit, VIRTX_INSN_XSETBV);
        break;
    case VMEXIT_TASK_SWITCH:
        decode_task_switch(sv, exit);
        break;
    case VMEXIT_SHUTDOWN:
        exit->reason = VIRTX_EXIT_SHUTDOWN;
        break;
    case VMEXIT_ICEBP: /* comes before #DB is raised: it is the exception that reflects it */
        decode_exception(sv, exit, VECTOR_DB);
        exit->exception.address = 0;
        length(sv, exit);
        break;
    default:
        if (unlikely((uint32_t)code == VMEXIT_INVALID_LOW))
            return svm_refused(sv);
        decode_other(sv, exit, code);
        break;
    }
    return exit->reason;
}

static __attribute__((noinline)) uint32_t interrupted(struct svm_vcpu *sv, struct virtx_exit *exit,
                                                      uint64_t code)
{
    if (likely((uint32_t)code != VMEXIT_INVALID_LOW))
        svm_event_interrupted(sv);
    if (code == VMEXIT_IOIO)
        return decode_io(sv, exit);
    return code == VMEXIT_NPF ? decode_npf(sv, exit) : decode(sv, exit, code);
}

/* From entry.S: the exit, with the host's registers back in place and the guest's in the VMCB. */
uint32_t svm_exited(struct svm_vcpu *sv)
{
    struct hw_vcpu *hv = &sv->hw;
    struct virtx_exit *exit = &hv->vcpu->exit;
    uint64_t code = sv->vmcb.control.exit_code;
    uint64_t rip = sv->vmcb.save.rip;

    hv->state.rip = rip;
    hv->state.gpr[VIRTX_RAX] = sv->vmcb.save.rax;
    hv->valid = SVM_STATE_KEPT;
    exit->rip = rip;
    exit->raw.code = code;
    if (unlikely((int32_t)sv->vmcb.control.exit_int_info < 0))
        return interrupted(sv, exit, code);
    if (likely(code == VMEXIT_CPUID) && likely(sv->next_rip)) {
        exit->reason = VIRTX_EXIT_CPUID;
        exit->length = (uint8_t)(sv->vmcb.control.next_rip - rip);
        return VIRTX_EXIT_CPUID;
    }
    if (code == VMEXIT_IOIO)
        return decode_io(sv, exit);
    return code == VMEXIT_NPF ? decode_npf(sv, exit) : decode(sv, exit, code);
}
