/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The checks of VM entries on controls and host state, and the judge that applies all rules.
 *
 * The processor only says that an entry failed. The rules say why: they are those of the Intel SDM
 * chapter "VM Entries", in its order, so that the first one broken is the one that the processor
 * stopped at.
 */
#include "vmx/check.h"
#include "x86/cpu.h"

#define EXECUTION      "VM-Execution Control Fields"
#define EXIT           "VM-Exit Control Fields"
#define ENTRY          "VM-Entry Control Fields"
#define HOST_REGISTERS "Checks on Host Control Registers, MSRs, and SSP"
#define HOST_SEGMENTS  "Checks on Host Segment and Descriptor-Table Registers"
#define HOST_WIDTH     "Checks Related to Address-Space Size"

/* ---- Controls ---- */

static bool reserved_control(const struct check *c, unsigned word)
{
    const struct vmx_allowed *allow = &c->caps->control[word];

    if (word == VMX_SECONDARY && !(c->control[VMX_PRIMARY] & PRIMARY_SECONDARY))
        return true;
    return !(allow->must & ~c->control[word]) && !(c->control[word] & ~allow->may);
}

static bool cr3_targets(const struct check *c, unsigned arg)
{
    (void)arg;
    return vmx_vmread(VMCS_CR3_TARGETS) <= (c->caps->misc >> 16 & 0x1ff);
}

static bool page_address(const struct check *c, uint32_t field)
{
    return !(vmx_vmread(field) & (check_beyond(c) | 0xfff));
}

static bool io_bitmaps(const struct check *c, unsigned field)
{
    return !(c->control[VMX_PRIMARY] & PRIMARY_IO_BITMAPS) || page_address(c, field);
}

static bool msr_bitmap(const struct check *c, unsigned field)
{
    return !(c->control[VMX_PRIMARY] & PRIMARY_MSR_BITMAPS) || page_address(c, field);
}

static bool virtual_apic(const struct check *c, unsigned field)
{
    return !(c->control[VMX_PRIMARY] & PRIMARY_TPR_SHADOW) || page_address(c, field);
}

static bool virtual_nmi(const struct check *c, unsigned arg)
{
    (void)arg;
    return (c->control[VMX_PIN] & PIN_NMI) || !(c->control[VMX_PIN] & PIN_VIRTUAL_NMI);
}

static bool nmi_window(const struct check *c, unsigned arg)
{
    (void)arg;
    return (c->control[VMX_PIN] & PIN_VIRTUAL_NMI) ||
           !(c->control[VMX_PRIMARY] & PRIMARY_NMI_WINDOW);
}

static bool apic_without_tpr(const struct check *c, unsigned arg)
{
    (void)arg;
    return (c->control[VMX_PRIMARY] & PRIMARY_TPR_SHADOW) ||
           !(c->control[VMX_SECONDARY] &
             (SECONDARY_X2APIC | SECONDARY_APIC_REGISTERS | SECONDARY_VIRTUAL_INTERRUPT));
}

static bool vpid(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->control[VMX_SECONDARY] & SECONDARY_VPID) || vmx_vmread(VMCS_VPID) != 0;
}

static bool ept_used(const struct check *c)
{
    return c->control[VMX_SECONDARY] & SECONDARY_EPT;
}

static bool eptp_type(const struct check *c, unsigned arg)
{
    uint64_t type;

    (void)arg;
    if (!ept_used(c))
        return true;
    type = vmx_vmread(VMCS_EPTP) & 7;
    return (type == 6 && (c->caps->ept_vpid & BIT(14))) ||
           (type == 0 && (c->caps->ept_vpid & BIT(8)));
}

static bool eptp_walk(const struct check *c, unsigned arg)
{
    (void)arg;
    return !ept_used(c) || (vmx_vmread(VMCS_EPTP) & 0x38) == EPTP_WALK_4;
}

static bool eptp_ad(const struct check *c, unsigned arg)
{
    (void)arg;
    return !ept_used(c) || !(vmx_vmread(VMCS_EPTP) & EPTP_AD) || (c->caps->ept_vpid & BIT(21));
}

static bool eptp_reserved(const struct check *c, unsigned arg)
{
    (void)arg;
    return !ept_used(c) || !(vmx_vmread(VMCS_EPTP) & (check_beyond(c) | 0xf80));
}

static bool unrestricted_ept(const struct check *c, unsigned arg)
{
    (void)arg;
    return ept_used(c) || !(c->control[VMX_SECONDARY] & SECONDARY_UNRESTRICTED);
}

/* An MSR area is judged only when it has entries. `arg` is the field of the count, `field` of the
 * rule that of the address, which follows from it. */
static bool msr_area(const struct check *c, unsigned arg)
{
    uint32_t field = arg == VMCS_EXIT_MSR_STORE_COUNT  ? VMCS_EXIT_MSR_STORE
                     : arg == VMCS_EXIT_MSR_LOAD_COUNT ? VMCS_EXIT_MSR_LOAD
                                                       : VMCS_ENTRY_MSR_LOAD;
    uint64_t count = vmx_vmread(arg), address;

    if (count == 0)
        return true;
    address = vmx_vmread(field);
    return !(address & 0xf) && !(address & check_beyond(c)) &&
           !((address + count * sizeof(struct vmx_msr_entry) - 1) & check_beyond(c));
}

static bool injecting(const struct check *c)
{
    return c->injection & INTERRUPTION_VALID;
}

static unsigned injection_type(const struct check *c)
{
    return (c->injection & INTERRUPTION_TYPE) >> INTERRUPTION_TYPE_SHIFT;
}

static bool injected_type(const struct check *c, unsigned arg)
{
    (void)arg;
    return !injecting(c) || (injection_type(c) != 1 && injection_type(c) != 7);
}

static bool injected_vector(const struct check *c, unsigned arg)
{
    unsigned vector = c->injection & INTERRUPTION_VECTOR;

    (void)arg;
    if (!injecting(c))
        return true;
    return injection_type(c) == VIRTX_EVENT_NMI         ? vector == 2
           : injection_type(c) == VIRTX_EVENT_EXCEPTION ? vector <= 31
                                                        : true;
}

/* Vectors of hardware exceptions with an error code. #AC among them. */
#define WITH_ERROR                                                                                 \
    (1u << VECTOR_DF | 1u << VECTOR_TS | 1u << VECTOR_NP | 1u << VECTOR_SS | 1u << VECTOR_GP |     \
     1u << VECTOR_PF | 1u << VECTOR_AC)

static bool injected_error(const struct check *c, unsigned arg)
{
    unsigned vector = c->injection & INTERRUPTION_VECTOR;
    bool wanted;

    (void)arg;
    if (!injecting(c) || (c->caps->basic & BIT(56)))
        return true; /* bit 56 of IA32_VMX_BASIC: any combination will do */
    wanted = injection_type(c) == VIRTX_EVENT_EXCEPTION && (c->cr0 & CR0_PE) && vector < 32 &&
             (WITH_ERROR >> vector & 1);
    return wanted == !!(c->injection & INTERRUPTION_ERROR);
}

static bool injected_reserved(const struct check *c, unsigned arg)
{
    (void)arg;
    return !injecting(c) || !(c->injection & 0x7ffff000);
}

static bool injected_code(const struct check *c, unsigned arg)
{
    (void)arg;
    return !injecting(c) || !(c->injection & INTERRUPTION_ERROR) ||
           !(vmx_vmread(VMCS_ENTRY_ERROR_CODE) >> 16);
}

static bool injected_length(const struct check *c, unsigned arg)
{
    uint64_t length;

    (void)arg;
    if (!injecting(c) || injection_type(c) < VIRTX_EVENT_SOFT_INTERRUPT)
        return true;
    length = vmx_vmread(VMCS_ENTRY_LENGTH);
    return length <= 15 && (length != 0 || (c->caps->misc & BIT(30)));
}

static bool outside_smm(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->control[VMX_ENTRY] & (ENTRY_SMM | ENTRY_DUAL_MONITOR));
}

#define RESERVED "reserved bits must be set as the capability MSRs say"
#define PAGE     "the address must be a multiple of 4096 within the physical-address width"

const struct check_rule vmx_rules_controls[] = {
    {"pin-based controls", EXECUTION, RESERVED, VMCS_PIN, reserved_control, VMX_PIN},
    {"primary processor-based controls", EXECUTION, RESERVED, VMCS_PRIMARY, reserved_control,
     VMX_PRIMARY},
    {"secondary processor-based controls", EXECUTION, RESERVED, VMCS_SECONDARY, reserved_control,
     VMX_SECONDARY},
    {"CR3-target count", EXECUTION, "must not be above what IA32_VMX_MISC says", VMCS_CR3_TARGETS,
     cr3_targets, 0},
    {"I/O bitmap A", EXECUTION, PAGE, VMCS_IO_BITMAP_A, io_bitmaps, VMCS_IO_BITMAP_A},
    {"I/O bitmap B", EXECUTION, PAGE, VMCS_IO_BITMAP_B, io_bitmaps, VMCS_IO_BITMAP_B},
    {"MSR bitmap", EXECUTION, PAGE, VMCS_MSR_BITMAP, msr_bitmap, VMCS_MSR_BITMAP},
    {"virtual-APIC address", EXECUTION, PAGE, VMCS_VIRTUAL_APIC, virtual_apic, VMCS_VIRTUAL_APIC},
    {"virtual NMIs", EXECUTION, "must be 0 when NMI exiting is 0", VMCS_PIN, virtual_nmi, 0},
    {"NMI-window exiting", EXECUTION, "must be 0 when virtual NMIs is 0", VMCS_PRIMARY, nmi_window,
     0},
    {"APIC virtualization", EXECUTION, "must be off when there is no TPR shadow", VMCS_SECONDARY,
     apic_without_tpr, 0},
    {"VPID", EXECUTION, "must not be 0 when VPIDs are enabled", VMCS_VPID, vpid, 0},
    {"EPT pointer", EXECUTION, "the memory type must be one that the processor supports", VMCS_EPTP,
     eptp_type, 0},
    {"EPT pointer", EXECUTION, "the page-walk length must be 4", VMCS_EPTP, eptp_walk, 0},
    {"EPT pointer", EXECUTION, "bit 6 must be 0 where there are no accessed and dirty flags",
     VMCS_EPTP, eptp_ad, 0},
    {"EPT pointer", EXECUTION, "reserved bits must be 0", VMCS_EPTP, eptp_reserved, 0},
    {"unrestricted guest", EXECUTION, "needs EPT", VMCS_SECONDARY, unrestricted_ept, 0},
    {"VM-exit controls", EXIT, RESERVED, VMCS_EXIT, reserved_control, VMX_EXIT},
    {"VM-exit MSR-store area", EXIT,
     "must be aligned to 16 bytes within the physical-address width", VMCS_EXIT_MSR_STORE, msr_area,
     VMCS_EXIT_MSR_STORE_COUNT},
    {"VM-exit MSR-load area", EXIT, "must be aligned to 16 bytes within the physical-address width",
     VMCS_EXIT_MSR_LOAD, msr_area, VMCS_EXIT_MSR_LOAD_COUNT},
    {"VM-entry controls", ENTRY, RESERVED, VMCS_ENTRY, reserved_control, VMX_ENTRY},
    {"injected event", ENTRY, "types 1 and 7 (other event) must not be used",
     VMCS_ENTRY_INTERRUPTION, injected_type, 0},
    {"injected event", ENTRY, "an NMI has vector 2, a hardware exception one of 0 to 31",
     VMCS_ENTRY_INTERRUPTION, injected_vector, 0},
    {"injected event", ENTRY,
     "an error code goes with #DF, #TS, #NP, #SS, #GP, #PF and #AC in protected mode, no others",
     VMCS_ENTRY_INTERRUPTION, injected_error, 0},
    {"injected event", ENTRY, "reserved bits must be 0", VMCS_ENTRY_INTERRUPTION, injected_reserved,
     0},
    {"injected error code", ENTRY, "bits 31:16 must be 0", VMCS_ENTRY_ERROR_CODE, injected_code, 0},
    {"injected instruction length", ENTRY, "must be 1 to 15 for software events", VMCS_ENTRY_LENGTH,
     injected_length, 0},
    {"VM-entry MSR-load area", ENTRY,
     "must be aligned to 16 bytes within the physical-address width", VMCS_ENTRY_MSR_LOAD, msr_area,
     VMCS_ENTRY_MSR_LOAD_COUNT},
    {"entry to SMM", ENTRY, "must be 0 outside SMM", VMCS_ENTRY, outside_smm, 0},
};
const unsigned vmx_rules_controls_count = ARRAY_SIZE(vmx_rules_controls);

/* ---- Host state ---- */

static bool host_cr0(const struct check *c, unsigned arg)
{
    uint64_t cr0 = vmx_vmread(VMCS_HOST_CR0);

    (void)arg;
    return !(c->caps->cr0_fixed0 & ~cr0) && !(cr0 & ~c->caps->cr0_fixed1);
}

static bool host_cr4(const struct check *c, unsigned arg)
{
    uint64_t cr4 = vmx_vmread(VMCS_HOST_CR4);

    (void)arg;
    return !(c->caps->cr4_fixed0 & ~cr4) && !(cr4 & ~c->caps->cr4_fixed1);
}

static bool host_cr3(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(vmx_vmread(VMCS_HOST_CR3) & check_beyond(c));
}

static bool canonical(const struct check *c, unsigned field)
{
    (void)c;
    return is_canonical(vmx_vmread(field));
}

static bool host_pat(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->control[VMX_EXIT] & EXIT_LOAD_PAT) || check_pat(vmx_vmread(VMCS_HOST_PAT));
}

static bool host_efer(const struct check *c, unsigned arg)
{
    uint64_t long_mode = EFER_LMA | EFER_LME;
    uint64_t wanted = c->control[VMX_EXIT] & EXIT_HOST_64 ? long_mode : 0;

    (void)arg;
    return !(c->control[VMX_EXIT] & EXIT_LOAD_EFER) ||
           (vmx_vmread(VMCS_HOST_EFER) & long_mode) == wanted;
}

static bool host_selector(const struct check *c, unsigned field)
{
    (void)c;
    return !(vmx_vmread(field) & 7);
}

static bool not_null(const struct check *c, unsigned field)
{
    (void)c;
    return vmx_vmread(field) != 0;
}

static bool host_64(const struct check *c, unsigned arg)
{
    (void)arg;
    return c->control[VMX_EXIT] & EXIT_HOST_64;
}

static bool host_pae(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->control[VMX_EXIT] & EXIT_HOST_64) || (vmx_vmread(VMCS_HOST_CR4) & CR4_PAE);
}

#define FIXED     "bits fixed in VMX operation must have their fixed value"
#define CANONICAL "the address must be canonical"
#define SELECTOR  "RPL and TI of the selector must be 0"
#define NOT_NULL  "the selector must not be null"

const struct check_rule vmx_rules_host[] = {
    {"host CR0", HOST_REGISTERS, FIXED, VMCS_HOST_CR0, host_cr0, 0},
    {"host CR4", HOST_REGISTERS, FIXED, VMCS_HOST_CR4, host_cr4, 0},
    {"host CR3", HOST_REGISTERS, "must not exceed the physical-address width", VMCS_HOST_CR3,
     host_cr3, 0},
    {"host IA32_SYSENTER_ESP", HOST_REGISTERS, CANONICAL, VMCS_HOST_SYSENTER_ESP, canonical,
     VMCS_HOST_SYSENTER_ESP},
    {"host IA32_SYSENTER_EIP", HOST_REGISTERS, CANONICAL, VMCS_HOST_SYSENTER_EIP, canonical,
     VMCS_HOST_SYSENTER_EIP},
    {"host IA32_PAT", HOST_REGISTERS, "each byte must be a memory type (0, 1, 4, 5, 6, 7)",
     VMCS_HOST_PAT, host_pat, 0},
    {"host IA32_EFER", HOST_REGISTERS, "LMA and LME must agree with host address-space size",
     VMCS_HOST_EFER, host_efer, 0},
    {"host ES", HOST_SEGMENTS, SELECTOR, VMCS_HOST_ES_SELECTOR, host_selector,
     VMCS_HOST_ES_SELECTOR},
    {"host CS", HOST_SEGMENTS, SELECTOR, VMCS_HOST_CS_SELECTOR, host_selector,
     VMCS_HOST_CS_SELECTOR},
    {"host SS", HOST_SEGMENTS, SELECTOR, VMCS_HOST_SS_SELECTOR, host_selector,
     VMCS_HOST_SS_SELECTOR},
    {"host DS", HOST_SEGMENTS, SELECTOR, VMCS_HOST_DS_SELECTOR, host_selector,
     VMCS_HOST_DS_SELECTOR},
    {"host FS", HOST_SEGMENTS, SELECTOR, VMCS_HOST_FS_SELECTOR, host_selector,
     VMCS_HOST_FS_SELECTOR},
    {"host GS", HOST_SEGMENTS, SELECTOR, VMCS_HOST_GS_SELECTOR, host_selector,
     VMCS_HOST_GS_SELECTOR},
    {"host TR", HOST_SEGMENTS, SELECTOR, VMCS_HOST_TR_SELECTOR, host_selector,
     VMCS_HOST_TR_SELECTOR},
    {"host CS", HOST_SEGMENTS, NOT_NULL, VMCS_HOST_CS_SELECTOR, not_null, VMCS_HOST_CS_SELECTOR},
    {"host TR", HOST_SEGMENTS, NOT_NULL, VMCS_HOST_TR_SELECTOR, not_null, VMCS_HOST_TR_SELECTOR},
    {"host FS base", HOST_SEGMENTS, CANONICAL, VMCS_HOST_FS_BASE, canonical, VMCS_HOST_FS_BASE},
    {"host GS base", HOST_SEGMENTS, CANONICAL, VMCS_HOST_GS_BASE, canonical, VMCS_HOST_GS_BASE},
    {"host TR base", HOST_SEGMENTS, CANONICAL, VMCS_HOST_TR_BASE, canonical, VMCS_HOST_TR_BASE},
    {"host GDTR base", HOST_SEGMENTS, CANONICAL, VMCS_HOST_GDTR_BASE, canonical,
     VMCS_HOST_GDTR_BASE},
    {"host IDTR base", HOST_SEGMENTS, CANONICAL, VMCS_HOST_IDTR_BASE, canonical,
     VMCS_HOST_IDTR_BASE},
    {"host address-space size", HOST_WIDTH, "must be 1 when the host is in 64-bit mode", VMCS_EXIT,
     host_64, 0},
    {"host CR4.PAE", HOST_WIDTH, "must be 1 for a 64-bit host", VMCS_HOST_CR4, host_pae, 0},
    {"host RIP", HOST_WIDTH, CANONICAL, VMCS_HOST_RIP, canonical, VMCS_HOST_RIP},
};
const unsigned vmx_rules_host_count = ARRAY_SIZE(vmx_rules_host);

/* ---- The judge ---- */

static void look(const struct vmx_vcpu *v, struct check *c)
{
    memset(c, 0, sizeof(*c));
    c->caps = &v->cpu->caps;
    c->physical_bits = v->hw.vcpu->virtx->caps.physical_bits;
    memcpy(c->control, v->control, sizeof(c->control));
    c->cr0 = vmx_vmread(VMCS_GUEST_CR0);
    c->cr4 = vmx_vmread(VMCS_GUEST_CR4);
    c->rflags = vmx_vmread(VMCS_GUEST_RFLAGS);
    if (c->control[VMX_ENTRY] & ENTRY_LOAD_EFER)
        c->efer = vmx_vmread(VMCS_GUEST_EFER);
    for (unsigned i = 0; i < VIRTX_SEG_COUNT; i++) {
        c->attributes[i] = (uint32_t)vmx_vmread(vmcs_seg_attributes(i));
        c->selector[i] = (uint16_t)vmx_vmread(vmcs_seg_selector(i));
    }
    c->injection = (uint32_t)vmx_vmread(VMCS_ENTRY_INTERRUPTION);
    c->activity = (uint32_t)vmx_vmread(VMCS_GUEST_ACTIVITY);
    c->interruptibility = (uint32_t)vmx_vmread(VMCS_GUEST_INTERRUPTIBILITY);
    c->unrestricted = c->control[VMX_SECONDARY] & SECONDARY_UNRESTRICTED;
    c->ia32e = c->control[VMX_ENTRY] & ENTRY_IA32E;
}

static enum virtx_status apply(const struct check *c, const struct check_rule *rules,
                               unsigned count, enum virtx_status broken, struct virtx_error *error)
{
    for (unsigned i = 0; i < count; i++) {
        if (!rules[i].holds(c, rules[i].arg))
            return virtx_fail_manual(error, broken, rules[i].what, rules[i].rule, rules[i].manual,
                                     vmx_vmread(rules[i].field));
    }
    return VIRTX_OK;
}

/* The VMCS is current. `which`: CHECK_*. */
enum virtx_status vmx_check_entry(const struct vmx_vcpu *v, struct virtx_error *error,
                                  uint32_t which)
{
    struct check c;
    enum virtx_status status = VIRTX_OK;

    look(v, &c);
    if (which & CHECK_CONTROLS)
        status = apply(&c, vmx_rules_controls, vmx_rules_controls_count, VIRTX_E_CONTROLS, error);
    if (status == VIRTX_OK && (which & CHECK_HOST))
        status = apply(&c, vmx_rules_host, vmx_rules_host_count, VIRTX_E_HOST_STATE, error);
    if (status == VIRTX_OK && (which & CHECK_GUEST))
        status = apply(&c, vmx_rules_guest, vmx_rules_guest_count, VIRTX_E_GUEST_STATE, error);
    return status;
}

enum virtx_status vmx_check(struct hw_vcpu *hv, struct virtx_error *error)
{
    struct vmx_vcpu *v = vmx_of(hv);

    vmx_write(v, hv->dirty & VIRTX_STATE_ALL);
    hv->dirty &= ~(uint32_t)VIRTX_STATE_ALL;
    return vmx_check_entry(v, error, CHECK_GUEST);
}

/* Intel SDM "VM Instruction Error Numbers". */
const char *vmx_instruction_error(uint32_t number)
{
    static const char *const texts[] = {
        [1] = "VMCALL executed in VMX root operation",
        [2] = "VMCLEAR with an invalid physical address",
        [3] = "VMCLEAR with the VMXON pointer",
        [4] = "VMLAUNCH with a VMCS that is not clear",
        [5] = "VMRESUME with a VMCS that is not launched",
        [6] = "VMRESUME after VMXOFF and VMXON",
        [7] = "VM entry with invalid control fields",
        [8] = "VM entry with invalid host-state fields",
        [9] = "VMPTRLD with an invalid physical address",
        [10] = "VMPTRLD with the VMXON pointer",
        [11] = "VMPTRLD with an incorrect VMCS revision identifier",
        [12] = "VMREAD or VMWRITE of a component that the processor does not have",
        [13] = "VMWRITE to a read-only component",
        [15] = "VMXON in VMX root operation",
        [16] = "VM entry with an invalid executive-VMCS pointer",
        [17] = "VM entry with an executive VMCS that is not launched",
        [18] = "VM entry with an executive-VMCS pointer that is not the VMXON pointer",
        [19] = "VMCALL with a VMCS that is not clear",
        [20] = "VMCALL with invalid VM-exit control fields",
        [22] = "VMCALL with an incorrect MSEG revision identifier",
        [23] = "VMXOFF under dual-monitor treatment of SMIs and SMM",
        [24] = "VMCALL with invalid SMM-monitor features",
        [25] = "VM entry with invalid VM-execution control fields in the executive VMCS",
        [26] = "VM entry with events blocked by MOV SS",
        [28] = "INVEPT or INVVPID with an invalid operand",
    };

    if (number < ARRAY_SIZE(texts) && texts[number])
        return texts[number];
    return "VM-instruction error that the manual does not list";
}
