/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From the exit reason and its qualification to the neutral record (Intel SDM "Basic VM-Exit
 * Information" and the sections on the exit qualification).
 *
 * What an exit does not need is not read. The number of VMREADs of each path is added up once, at
 * its end: each function returns how many it has done beyond the two that every exit does.
 */
#include "vmx/vmx.h"

/* What instruction an exit reason stands for, behind the ones with operands. */
static const struct {
    uint8_t reason, which;
} plain[] = {
    {VMX_REASON_GETSEC, VIRTX_INSN_GETSEC},   {VMX_REASON_INVD, VIRTX_INSN_INVD},
    {VMX_REASON_RDPMC, VIRTX_INSN_RDPMC},     {VMX_REASON_RDTSC, VIRTX_INSN_RDTSC},
    {VMX_REASON_RSM, VIRTX_INSN_RSM},         {VMX_REASON_MWAIT, VIRTX_INSN_MWAIT},
    {VMX_REASON_MONITOR, VIRTX_INSN_MONITOR}, {VMX_REASON_PAUSE, VIRTX_INSN_PAUSE},
    {VMX_REASON_INVEPT, VIRTX_INSN_VMX},      {VMX_REASON_RDTSCP, VIRTX_INSN_RDTSCP},
    {VMX_REASON_INVVPID, VIRTX_INSN_VMX},     {VMX_REASON_WBINVD, VIRTX_INSN_WBINVD},
    {VMX_REASON_XSETBV, VIRTX_INSN_XSETBV},   {VMX_REASON_RDRAND, VIRTX_INSN_RDRAND},
    {VMX_REASON_INVPCID, VIRTX_INSN_INVPCID}, {VMX_REASON_VMFUNC, VIRTX_INSN_VMX},
    {VMX_REASON_RDSEED, VIRTX_INSN_RDSEED},
};

static uint64_t read_qualification(struct virtx_exit *exit)
{
    return exit->raw.qualification = vmcs_exit_qualification();
}

static void read_length(struct virtx_exit *exit)
{
    exit->length = (uint8_t)vmcs_exit_length();
}

static void set_instruction(struct virtx_exit *exit, unsigned which)
{
    exit->reason = VIRTX_EXIT_INSTRUCTION;
    exit->instruction = (struct virtx_exit_instruction){.which = which};
}

/* An NMI or a machine check is the host's. It runs in the host's state of tier 1. */
static void host_event(struct vmx_vcpu *v, unsigned vector)
{
    struct virtx *virtx = v->hw.vcpu->virtx;

    if (virtx->profile.at_exit)
        vmx_to_host(&v->hw, virtx->profile.at_exit);
    v->hw.vcpu->exit.reason = HW_EXIT_HOST;
    if (vector == VECTOR_MC)
        hw_host_machine_check(virtx);
    else
        hw_host_nmi(virtx);
}

static unsigned exception(struct vmx_vcpu *v, struct virtx_exit *exit)
{
    uint32_t info = vmcs_exit_interruption();
    unsigned vector = info & INTERRUPTION_VECTOR;
    unsigned type = (info & INTERRUPTION_TYPE) >> INTERRUPTION_TYPE_SHIFT;
    bool interrupted;

    exit->raw.interruption = info;
    interrupted = vmx_event_interrupted(v);
    if (type == VIRTX_EVENT_NMI || vector == VECTOR_MC) {
        host_event(v, vector);
        return 1;
    }
    if ((info & INTERRUPTION_NMI_UNBLOCKED) && !interrupted && vector != VECTOR_DF)
        vmx_nmi_unblocked(v);
    vmx_mend_pending_debug(v);
    if (vector == VECTOR_DB)
        vmx_debug_ends_shadow(v);
    exit->reason = VIRTX_EXIT_EXCEPTION;
    exit->exception = (struct virtx_exit_exception){
        .vector = (uint8_t)vector,
        .has_error = info & INTERRUPTION_ERROR,
    };
    if (exit->exception.has_error)
        exit->exception.error = vmcs_exit_error_code();
    if (vector == VECTOR_PF || vector == VECTOR_DB)
        exit->exception.address = read_qualification(exit);
    if (type >= VIRTX_EVENT_SOFT_INTERRUPT)
        read_length(exit);
    /* What virtual-8086 mode forbids and real mode does not (mode.c). */
    if (unlikely(v->mode == VMX_MODE_REAL) &&
        (vector == VECTOR_GP || vector == VECTOR_UD || vector == VECTOR_AC)) {
        exit->reason = HW_EXIT_EXECUTE_FAULT;
        v->hw.has_reinject = false; /* INT n that has faulted: nothing is being delivered */
    }
    return 3;
}

/* Intel SDM "Exit Qualification for Task Switches". */
static unsigned task_switch(struct vmx_vcpu *v, struct virtx_exit *exit)
{
    uint64_t qualification = read_qualification(exit);

    exit->reason = VIRTX_EXIT_TASK_SWITCH;
    exit->task_switch = (struct virtx_exit_task_switch){
        .selector = (uint16_t)qualification,
        .source = (uint8_t)(qualification >> 30 & 3),
    };
    read_length(exit);
    if (vmx_event_interrupted(v)) {
        exit->task_switch.has_error = v->hw.reinject.has_error;
        exit->task_switch.error = v->hw.reinject.error;
    }
    return 2;
}

/* A source operand; outside 64-bit mode only 32 bits of it count. */
static uint64_t operand(struct vmx_vcpu *v, unsigned gpr)
{
    uint64_t value =
        gpr == VIRTX_RSP ? hw_state(&v->hw, VIRTX_STATE_RSP)->gpr[VIRTX_RSP] : v->hw.state.gpr[gpr];

    if ((v->control[VMX_ENTRY] & ENTRY_IA32E) &&
        (vmx_vmread(VMCS_GUEST_CS_ATTRIBUTES) & VIRTX_SEG_L))
        return value;
    return (uint32_t)value;
}

/* Intel SDM "Exit Qualification for Control-Register Accesses". */
static unsigned control_register(struct vmx_vcpu *v, struct virtx_exit *exit)
{
    uint64_t qualification = read_qualification(exit);
    unsigned gpr = qualification >> 8 & 15;
    struct virtx_exit_cr cr = {
        .reg = qualification & 15, .access = VIRTX_WRITE, .gpr = (uint8_t)gpr};

    read_length(exit);
    exit->reason = VIRTX_EXIT_CR;
    switch (qualification >> 4 & 3) {
    case 0: /* MOV to */
        cr.value = operand(v, gpr);
        break;
    case 1: /* MOV from: src/hw knows the value */
        cr.access = VIRTX_READ;
        break;
    case 2: /* CLTS */
        cr.gpr = 0xff;
        cr.value = vmx_guest_cr0(v) & ~CR0_TS;
        break;
    default: { /* LMSW: four bits, of which PE cannot be cleared */
        uint64_t cr0 = vmx_guest_cr0(v);

        cr.gpr = 0xff;
        cr.value = (cr0 & ~0xeull) | (qualification >> 16 & 0xf);
        break;
    }
    }
    exit->cr = cr;
    return 3;
}

/* Intel SDM "Exit Qualification for MOV DR". */
static unsigned debug_register(struct vmx_vcpu *v, struct virtx_exit *exit)
{
    uint64_t qualification = read_qualification(exit);
    unsigned gpr = qualification >> 8 & 15;
    bool from = qualification & 0x10;

    vmx_mend_pending_debug(v); /* the instruction may be executed again */
    read_length(exit);
    exit->reason = VIRTX_EXIT_DR;
    exit->cr = (struct virtx_exit_cr){
        .reg = qualification & 7,
        .access = from ? VIRTX_READ : VIRTX_WRITE,
        .gpr = (uint8_t)gpr,
        .value = from ? 0 : operand(v, gpr),
    };
    return 3;
}

/* Intel SDM "Exit Qualification for I/O Instructions": size, access, string and rep by the low
 * bits. */
#define FORM(q)                                                                                    \
    {                                                                                              \
        ((q)&7) + 1, (q)&8 ? VIRTX_READ : VIRTX_WRITE, (q) >> 4 & 1, (q) >> 5 & 1                  \
    }
#define FORMS(q)   FORM(q), FORM((q) + 1), FORM((q) + 2), FORM((q) + 3)
#define FORMS16(q) FORMS(q), FORMS((q) + 4), FORMS((q) + 8), FORMS((q) + 12)
static const uint8_t port_forms[][4] = {FORMS16(0), FORMS16(16), FORMS16(32), FORMS16(48)};
_Static_assert(offsetof(struct virtx_exit_io, access) == offsetof(struct virtx_exit_io, size) + 1 &&
                   offsetof(struct virtx_exit_io, string) ==
                       offsetof(struct virtx_exit_io, size) + 2 &&
                   offsetof(struct virtx_exit_io, rep) == offsetof(struct virtx_exit_io, size) + 3,
               "stored at once");

/* Values and counts are src/hw's to fill in. */
static inline void port_access(struct virtx_exit *exit)
{
    uint64_t qualification = read_qualification(exit);

    exit->io.port = (uint16_t)(qualification >> 16);
    __builtin_memcpy(&exit->io.size, port_forms[qualification & 63], 4);
}

/* The four instructions that share one reason, in the order of the instruction information. */
static unsigned descriptor_table(struct virtx_exit *exit, const uint8_t *which)
{
    read_length(exit);
    read_qualification(exit); /* the displacement of the memory operand */
    set_instruction(exit, which[vmcs_instruction_info() >> 28 & 3]);
    return 3;
}

_Static_assert(offsetof(struct virtx_page_fault, present) ==
                       offsetof(struct virtx_page_fault, access) + 1 &&
                   offsetof(struct virtx_page_fault, gva_valid) ==
                       offsetof(struct virtx_page_fault, access) + 2 &&
                   offsetof(struct virtx_page_fault, table_walk) ==
                       offsetof(struct virtx_page_fault, access) + 3,
               "stored at once");

static inline void ept_fault(struct hw_vcpu *hv, struct virtx_exit *exit, uint64_t qualification)
{
    struct virtx_page_fault *fault = &hv->fault;
    /* access, present, gva_valid and table_walk: one store for the four */
    uint32_t flags = (uint32_t)(qualification & EPT_QUALIFICATION_ACCESS) |
                     (uint32_t)(qualification >> EPT_QUALIFICATION_RIGHTS_SHIFT & 7) << 8;

    fault->gva = 0;
    if (qualification & EPT_QUALIFICATION_LINEAR) {
        fault->gva = vmcs_guest_linear();
        flags |= 1u << 16;
        if (unlikely(!(qualification & EPT_QUALIFICATION_TRANSLATION)))
            flags |= 1u << 24;
    }
    exit->reason = HW_EXIT_PAGE_FAULT;
    exit->raw.qualification = qualification;
    exit->raw.address = fault->gpa = vmcs_guest_physical();
    fault->error = 0;
    __builtin_memcpy(&fault->access, &flags, sizeof(flags));
    fault->misconfigured = false;
}

/* In the middle of a delivery, of an IRET, of a single step, or of MOV to a control register. */
static __attribute__((noinline)) uint32_t ept_violation_between(struct vmx_vcpu *v,
                                                                uint64_t qualification)
{
    if (v->mode == VMX_MODE_UNPAGED && !(qualification & EPT_QUALIFICATION_LINEAR)) {
        v->hw.vcpu->exit.reason = HW_EXIT_EXECUTE; /* VMX_NO_PDPTES */
        return HW_EXIT_EXECUTE;
    }
    ept_fault(&v->hw, &v->hw.vcpu->exit, qualification);
    vmx_mend_pending_debug(v);
    if (!vmx_event_interrupted(v) && unlikely(qualification & EPT_QUALIFICATION_NMI_UNBLOCKED))
        vmx_nmi_unblocked(v);
    v->hw.vcpu->stats.control_reads += 5;
    return HW_EXIT_PAGE_FAULT;
}

static inline uint32_t ept_violation(struct vmx_vcpu *v, struct virtx_exit *exit)
{
    uint64_t qualification = vmcs_exit_qualification();

    exit->length = 0;
    if (unlikely(((qualification ^ EPT_QUALIFICATION_LINEAR) &
                  (EPT_QUALIFICATION_NMI_UNBLOCKED | EPT_QUALIFICATION_LINEAR)) |
                 (vmcs_idt_vectoring() & INTERRUPTION_VALID) |
                 (vmx_vmread(VMCS_GUEST_PENDING_DEBUG) & PENDING_DEBUG_SINGLE_STEP)))
        return ept_violation_between(v, qualification);
    ept_fault(&v->hw, exit, qualification);
    v->hw.vcpu->stats.control_reads += 7;
    return HW_EXIT_PAGE_FAULT;
}

static unsigned ept_misconfig(struct vmx_vcpu *v, struct virtx_exit *exit)
{
    struct hw_vcpu *hv = &v->hw;

    exit->reason = HW_EXIT_PAGE_FAULT;
    hv->fault = (struct virtx_page_fault){.gpa = vmcs_guest_physical(), .misconfigured = true};
    exit->raw.address = hv->fault.gpa;
    vmx_mend_pending_debug(v);
    vmx_event_interrupted(v);
    return 1;
}

/* Intel SDM "Page-Modification Logging": before the access that would have been the next entry. */
static unsigned page_log_full(struct vmx_vcpu *v, struct virtx_exit *exit)
{
    uint64_t qualification = read_qualification(exit);

    exit->reason = HW_EXIT_TABLES_LOG;
    exit->length = 0;
    vmx_drain(&v->hw);
    vmx_set_field(v, VMCS_PML_INDEX, VMX_PAGE_LOG_ENTRIES - 1);
    vmx_mend_pending_debug(v);
    if (!vmx_event_interrupted(v) && (qualification & EPT_QUALIFICATION_NMI_UNBLOCKED))
        vmx_nmi_unblocked(v);
    return 1;
}

/* Intel SDM "Exit Qualification for APIC-Access VM Exits": the offset in the page, and what was
 * done. */
static unsigned apic_access(struct vmx_vcpu *v, struct virtx_exit *exit)
{
    uint64_t qualification = read_qualification(exit);
    unsigned type = qualification >> 12 & 15;

    exit->reason = HW_EXIT_APIC;
    v->hw.fault = (struct virtx_page_fault){
        .gpa = (v->hw.state.apic_base & ~0xfffull) | (qualification & 0xfff),
        .access = type == 1   ? VIRTX_WRITE
                  : type == 2 ? VIRTX_EXECUTE
                              : VIRTX_READ,
    };
    vmx_event_interrupted(v);
    return 1;
}

/* The reasons that are rare or need nothing but a name. */
static __attribute__((noinline)) unsigned other(struct vmx_vcpu *v, struct virtx_exit *exit,
                                                uint32_t reason)
{
    for (unsigned i = 0; i < ARRAY_SIZE(plain); i++) {
        if (plain[i].reason == reason) {
            read_length(exit);
            set_instruction(exit, plain[i].which);
            return 1;
        }
    }
    if (reason >= VMX_REASON_VMCLEAR && reason <= VMX_REASON_VMXON) {
        read_length(exit);
        set_instruction(exit, VIRTX_INSN_VMX);
        return 1;
    }
    exit->reason = VIRTX_EXIT_UNKNOWN;
    exit->length = 0;
    read_qualification(exit);
    if (reason == VMX_REASON_TIMER)
        exit->reason = HW_EXIT_TIMER;
    else if (reason == VMX_REASON_TPR)
        exit->reason = HW_EXIT_TPR;
    else
        vmx_event_interrupted(v);
    return 1;
}

static unsigned decode(struct vmx_vcpu *v, struct virtx_exit *exit, uint32_t reason)
{
    static const uint8_t tables[] = {VIRTX_INSN_SGDT, VIRTX_INSN_SIDT, VIRTX_INSN_LGDT,
                                     VIRTX_INSN_LIDT};
    static const uint8_t segments[] = {VIRTX_INSN_SLDT, VIRTX_INSN_STR, VIRTX_INSN_LLDT,
                                       VIRTX_INSN_LTR};

    switch (reason) {
    case VMX_REASON_INTERRUPT:
        exit->reason = VIRTX_EXIT_INTERRUPT;
        if (likely(!(v->control[VMX_EXIT] & EXIT_ACK_INTERRUPT)))
            return 0;
        exit->raw.interruption = vmcs_exit_interruption();
        v->hw.acknowledged = (uint8_t)exit->raw.interruption;
        return 1;
    case VMX_REASON_EXCEPTION:
        return exception(v, exit);
    case VMX_REASON_CR:
        return control_register(v, exit);
    case VMX_REASON_TRIPLE_FAULT:
        exit->reason = VIRTX_EXIT_SHUTDOWN;
        return 0;
    case VMX_REASON_SIPI:
        exit->reason = VIRTX_EXIT_SIPI;
        exit->sipi.vector = (uint8_t)read_qualification(exit);
        return 1;
    case VMX_REASON_INTERRUPT_WINDOW:
        vmx_window_open(v, false);
        exit->reason = HW_EXIT_WINDOW;
        return 0;
    case VMX_REASON_NMI_WINDOW:
        vmx_window_open(v, true);
        exit->reason = HW_EXIT_NMI_WINDOW;
        return 0;
    case VMX_REASON_TASK_SWITCH:
        return task_switch(v, exit);
    case VMX_REASON_INVLPG:
        read_length(exit);
        set_instruction(exit, VIRTX_INSN_INVLPG);
        exit->instruction.operand = read_qualification(exit);
        return 2;
    case VMX_REASON_DR:
        return debug_register(v, exit);
    case VMX_REASON_APIC_ACCESS:
        return apic_access(v, exit);
    case VMX_REASON_APIC_WRITE:
        exit->reason = HW_EXIT_APIC_WRITE;
        read_qualification(exit);
        return 1;
    case VMX_REASON_EOI:
        exit->reason = HW_EXIT_EOI;
        read_qualification(exit);
        return 1;
    case VMX_REASON_GDTR_IDTR:
        return descriptor_table(exit, tables);
    case VMX_REASON_LDTR_TR:
        return descriptor_table(exit, segments);
    case VMX_REASON_EPT_MISCONFIG:
        return ept_misconfig(v, exit);
    case VMX_REASON_PML_FULL:
        return page_log_full(v, exit);
    default:
        return other(v, exit, reason);
    }
}

/* What is not decoded in vmx_exited() itself. */
static __attribute__((noinline)) uint32_t exited_otherwise(struct vmx_vcpu *v, uint32_t reason)
{
    struct virtx_vcpu *vcpu = v->hw.vcpu;

    vcpu->stats.control_reads += 2;
    vcpu->exit.length = 0;
    if (unlikely(reason & VMX_REASON_ENTRY_FAILED))
        return vmx_entry_failed(v, reason);
    vcpu->stats.control_reads += decode(v, &vcpu->exit, reason);
    return vcpu->exit.reason;
}

/* #PF, if there is nothing else about it; else as any exception. */
static inline bool plain_page_fault(struct vmx_vcpu *v, struct virtx_exit *exit)
{
    const uint32_t kind = INTERRUPTION_TYPE | INTERRUPTION_VECTOR | INTERRUPTION_NMI_UNBLOCKED;
    struct virtx_page_fault *fault = &v->hw.fault;
    uint32_t error;

    if ((vmcs_exit_interruption() & kind) !=
            (VIRTX_EVENT_EXCEPTION << INTERRUPTION_TYPE_SHIFT | VECTOR_PF) ||
        unlikely((vmcs_idt_vectoring() & INTERRUPTION_VALID) |
                 (vmx_vmread(VMCS_GUEST_PENDING_DEBUG) & PENDING_DEBUG_SINGLE_STEP)))
        return false;
    error = vmcs_exit_error_code();
    fault->gpa = 0;
    fault->gva = read_qualification(exit);
    fault->error = error;
    fault->access = error & PF_FETCH ? VIRTX_EXECUTE : error & PF_WRITE ? VIRTX_WRITE : VIRTX_READ;
    fault->present = error & PF_PRESENT ? VIRTX_READ : 0;
    fault->gva_valid = true;
    fault->table_walk = false;
    fault->misconfigured = false;
    v->hw.vcpu->stats.control_reads += 7;
    exit->length = 0;
    exit->reason = HW_EXIT_PAGE_FAULT;
    return true;
}

/* MOV to a control register, from another register than RSP, in 64-bit mode. */
static inline bool plain_cr_write(struct vmx_vcpu *v, struct virtx_exit *exit)
{
    uint64_t qualification = read_qualification(exit);
    unsigned gpr = qualification >> 8 & 15;

    if ((qualification & 0x30) || gpr == VIRTX_RSP || !(v->control[VMX_ENTRY] & ENTRY_IA32E) ||
        !(vmx_vmread(VMCS_GUEST_CS_ATTRIBUTES) & VIRTX_SEG_L))
        return false;
    exit->cr = (struct virtx_exit_cr){.reg = qualification & 15,
                                      .access = VIRTX_WRITE,
                                      .gpr = (uint8_t)gpr,
                                      .value = v->hw.state.gpr[gpr]};
    exit->reason = VIRTX_EXIT_CR;
    read_length(exit);
    v->hw.vcpu->stats.control_reads += 5;
    return true;
}

/* What comes by the thousand when the guest's tables are shadowed. */
static __attribute__((noinline)) uint32_t exited_shadowed(struct vmx_vcpu *v, uint32_t reason)
{
    struct virtx_exit *exit = &v->hw.vcpu->exit;

    if (reason == VMX_REASON_EXCEPTION && plain_page_fault(v, exit))
        return HW_EXIT_PAGE_FAULT;
    if (reason == VMX_REASON_CR && plain_cr_write(v, exit))
        return VIRTX_EXIT_CR;
    if (reason != VMX_REASON_INVLPG)
        return exited_otherwise(v, reason);
    set_instruction(exit, VIRTX_INSN_INVLPG);
    exit->instruction.operand = read_qualification(exit);
    read_length(exit);
    v->hw.vcpu->stats.control_reads += 4;
    return VIRTX_EXIT_INSTRUCTION;
}

/*
 * From entry.S: the guest has exited. The result is that of vmx_enter(). Nothing here calls a
 * function that comes back, so nothing needs to be saved.
 */
VMX_FROM_ASSEMBLY uint32_t vmx_exited(struct vmx_vcpu *v)
{
    struct hw_vcpu *hv = &v->hw;
    struct virtx_vcpu *vcpu = hv->vcpu;
    struct virtx_exit *exit = &vcpu->exit;
    uint64_t reason = vmcs_exit_reason();
    uint32_t answer;

    hv->valid = VMX_STATE_KEPT | VIRTX_STATE_RIP;
    exit->rip = hv->state.rip = vmcs_guest_rip();
    exit->raw.code = reason;
    if (likely(reason == VMX_REASON_CPUID)) {
        answer = VIRTX_EXIT_CPUID;
    } else if (likely(reason == VMX_REASON_IO)) {
        port_access(exit);
        vcpu->stats.control_reads++;
        answer = VIRTX_EXIT_IO;
    } else if (reason == VMX_REASON_EPT_VIOLATION) {
        return ept_violation(v, exit);
    } else if (reason == VMX_REASON_RDMSR || reason == VMX_REASON_WRMSR) {
        exit->msr.access = reason == VMX_REASON_RDMSR ? VIRTX_READ : VIRTX_WRITE;
        answer = VIRTX_EXIT_MSR;
    } else if (reason == VMX_REASON_VMCALL) {
        exit->hypercall.cpl = vmx_vmread(VMCS_GUEST_SS_ATTRIBUTES) >> VIRTX_SEG_DPL_SHIFT & 3;
        if (unlikely(v->mode == VMX_MODE_REAL))
            exit->hypercall.cpl = 0;
        vcpu->stats.control_reads++;
        answer = VIRTX_EXIT_HYPERCALL;
    } else if (reason == VMX_REASON_HLT) {
        answer = VIRTX_EXIT_HLT;
    } else if (!v->nested) {
        return exited_shadowed(v, (uint32_t)reason);
    } else {
        return exited_otherwise(v, (uint32_t)reason);
    }
    exit->reason = answer;
    read_length(exit);
    vcpu->stats.control_reads += 3;
    return answer;
}
