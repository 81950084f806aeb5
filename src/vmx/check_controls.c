/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The checks of VM entries on the VMX controls: Intel SDM "Checks on VMX Controls", in its order.
 *
 * Controls that the library never sets have rows too where the manual ties them to others or to an
 * address. Without rows are those that no processor known to the library has: tertiary controls,
 * HLAT, and Intel PT, LBRs and user interrupts of the guest.
 */
#include "vmx/check.h"

#define EXECUTION "VM-Execution Control Fields"
#define EXIT      "VM-Exit Control Fields"
#define ENTRY     "VM-Entry Control Fields"

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

/* An address counts when its control is set. `arg`: a row of this table. */
static const struct {
    uint8_t word;
    uint32_t control;
    uint32_t field;
} pages[] = {
    {VMX_PRIMARY, PRIMARY_IO_BITMAPS, VMCS_IO_BITMAP_A},
    {VMX_PRIMARY, PRIMARY_IO_BITMAPS, VMCS_IO_BITMAP_B},
    {VMX_PRIMARY, PRIMARY_MSR_BITMAPS, VMCS_MSR_BITMAP},
    {VMX_PRIMARY, PRIMARY_TPR_SHADOW, VMCS_VIRTUAL_APIC},
    {VMX_SECONDARY, SECONDARY_APIC_ACCESS, VMCS_APIC_ACCESS},
    {VMX_SECONDARY, SECONDARY_PML, VMCS_PML_ADDRESS},
    {VMX_SECONDARY, SECONDARY_SHADOWING, VMCS_VMREAD_BITMAP},
    {VMX_SECONDARY, SECONDARY_SHADOWING, VMCS_VMWRITE_BITMAP},
    {VMX_SECONDARY, SECONDARY_VE, VMCS_VE_INFORMATION},
    {VMX_SECONDARY, SECONDARY_SUBPAGE, VMCS_SUBPAGE_TABLE},
};
enum page {
    PAGE_IO_A,
    PAGE_IO_B,
    PAGE_MSR,
    PAGE_VIRTUAL_APIC,
    PAGE_APIC_ACCESS,
    PAGE_PML,
    PAGE_VMREAD,
    PAGE_VMWRITE,
    PAGE_VE,
    PAGE_SUBPAGE,
};

static bool page_address(const struct check *c, unsigned row)
{
    return !(c->control[pages[row].word] & pages[row].control) ||
           check_page(c, vmx_vmread(pages[row].field));
}

static bool has(const struct check *c, uint32_t secondary)
{
    return c->control[VMX_SECONDARY] & secondary;
}

static bool tpr_threshold(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->control[VMX_PRIMARY] & PRIMARY_TPR_SHADOW) || has(c, SECONDARY_VIRTUAL_INTERRUPT) ||
           !(vmx_vmread(VMCS_TPR_THRESHOLD) >> 4);
}

/* The page is memory of the host's, unless the address breaks a rule of its own. */
static bool tpr_threshold_vtpr(const struct check *c, unsigned arg)
{
    const uint8_t *page;
    uint64_t threshold;

    (void)arg;
    if (!(c->control[VMX_PRIMARY] & PRIMARY_TPR_SHADOW) ||
        has(c, SECONDARY_VIRTUAL_INTERRUPT | SECONDARY_APIC_ACCESS) ||
        !page_address(c, PAGE_VIRTUAL_APIC))
        return true;
    threshold = vmx_vmread(VMCS_TPR_THRESHOLD) & 0xf;
    if (threshold == 0)
        return true;
    page = c->virtx->ops.phys_to_virt(c->virtx->ctx, vmx_vmread(VMCS_VIRTUAL_APIC));
    return threshold <= page[0x80] >> 4;
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

static bool x2apic_access(const struct check *c, unsigned arg)
{
    (void)arg;
    return !has(c, SECONDARY_X2APIC) || !has(c, SECONDARY_APIC_ACCESS);
}

static bool delivery_interrupts(const struct check *c, unsigned arg)
{
    (void)arg;
    return !has(c, SECONDARY_VIRTUAL_INTERRUPT) || (c->control[VMX_PIN] & PIN_INTERRUPT);
}

static bool posted(const struct check *c)
{
    return c->control[VMX_PIN] & PIN_POSTED_INTERRUPT;
}

static bool posted_delivery(const struct check *c, unsigned arg)
{
    (void)arg;
    return !posted(c) || has(c, SECONDARY_VIRTUAL_INTERRUPT);
}

static bool posted_acknowledge(const struct check *c, unsigned arg)
{
    (void)arg;
    return !posted(c) || (c->control[VMX_EXIT] & EXIT_ACK_INTERRUPT);
}

static bool posted_vector(const struct check *c, unsigned arg)
{
    (void)arg;
    return !posted(c) || !(vmx_vmread(VMCS_POSTED_VECTOR) >> 8);
}

static bool posted_descriptor(const struct check *c, unsigned arg)
{
    (void)arg;
    return !posted(c) || !(vmx_vmread(VMCS_POSTED_DESCRIPTOR) & (check_beyond(c) | 0x3f));
}

static bool vpid(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->control[VMX_SECONDARY] & SECONDARY_VPID) || vmx_vmread(VMCS_VPID) != 0;
}

static bool ept_used(const struct check *c)
{
    return has(c, SECONDARY_EPT);
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
    uint64_t walk = vmx_vmread(VMCS_EPTP) & 0x38;

    (void)arg;
    return !ept_used(c) || walk == EPTP_WALK_4 ||
           (walk == EPTP_WALK_5 && (c->caps->ept_vpid & BIT(7)));
}

static bool eptp_ad(const struct check *c, unsigned arg)
{
    (void)arg;
    return !ept_used(c) || !(vmx_vmread(VMCS_EPTP) & EPTP_AD) || (c->caps->ept_vpid & BIT(21));
}

static bool eptp_reserved(const struct check *c, unsigned arg)
{
    (void)arg;
    return !ept_used(c) || !(vmx_vmread(VMCS_EPTP) & (check_beyond(c) | 0xf00));
}

static bool eptp_shadow_stack(const struct check *c, unsigned arg)
{
    (void)arg;
    return !ept_used(c) || !(vmx_vmread(VMCS_EPTP) & EPTP_SHADOW_STACK) ||
           (c->caps->ept_vpid & BIT(23));
}

static bool needs_ept(const struct check *c, uint32_t secondary)
{
    return ept_used(c) || !has(c, secondary);
}

static bool functions_reserved(const struct check *c, unsigned arg)
{
    (void)arg;
    return !has(c, SECONDARY_FUNCTIONS) ||
           !(vmx_vmread(VMCS_FUNCTION_CONTROLS) & ~c->caps->functions);
}

static bool eptp_switching(const struct check *c)
{
    return has(c, SECONDARY_FUNCTIONS) && (vmx_vmread(VMCS_FUNCTION_CONTROLS) & BIT(0));
}

static bool switching_ept(const struct check *c, unsigned arg)
{
    (void)arg;
    return !eptp_switching(c) || ept_used(c);
}

static bool switching_list(const struct check *c, unsigned arg)
{
    (void)arg;
    return !eptp_switching(c) || check_page(c, vmx_vmread(VMCS_EPTP_LIST));
}

static bool timer_saved(const struct check *c, unsigned arg)
{
    (void)arg;
    return (c->control[VMX_PIN] & PIN_TIMER) || !(c->control[VMX_EXIT] & EXIT_SAVE_TIMER);
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
    if (!injecting(c))
        return true;
    if (injection_type(c) == INTERRUPTION_OTHER)
        return c->caps->control[VMX_PRIMARY].may & PRIMARY_TRAP_FLAG;
    return injection_type(c) != 1;
}

static bool injected_vector(const struct check *c, unsigned arg)
{
    unsigned vector = c->injection & INTERRUPTION_VECTOR;

    (void)arg;
    if (!injecting(c))
        return true;
    return injection_type(c) == VIRTX_EVENT_NMI         ? vector == 2
           : injection_type(c) == VIRTX_EVENT_EXCEPTION ? vector <= 31
           : injection_type(c) == INTERRUPTION_OTHER    ? vector == 0
                                                        : true;
}

/* Vectors of hardware exceptions with an error code. #AC among them. */
#define WITH_ERROR                                                                                 \
    (1u << VECTOR_DF | 1u << VECTOR_TS | 1u << VECTOR_NP | 1u << VECTOR_SS | 1u << VECTOR_GP |     \
     1u << VECTOR_PF | 1u << VECTOR_AC)

/* Bit 56 of IA32_VMX_BASIC: which vectors have a code is the VMM's business. */
static bool injected_error(const struct check *c, unsigned arg)
{
    unsigned vector = c->injection & INTERRUPTION_VECTOR;
    bool code = c->injection & INTERRUPTION_ERROR;

    (void)arg;
    if (!injecting(c))
        return true;
    if (injection_type(c) != VIRTX_EVENT_EXCEPTION || !(c->cr0 & CR0_PE))
        return !code;
    return (c->caps->basic & BIT(56)) || code == (vector < 32 && (WITH_ERROR >> vector & 1));
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
    if (!injecting(c) || injection_type(c) < VIRTX_EVENT_SOFT_INTERRUPT ||
        injection_type(c) == INTERRUPTION_OTHER)
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
    {"I/O bitmap A", EXECUTION, PAGE, VMCS_IO_BITMAP_A, page_address, PAGE_IO_A},
    {"I/O bitmap B", EXECUTION, PAGE, VMCS_IO_BITMAP_B, page_address, PAGE_IO_B},
    {"MSR bitmap", EXECUTION, PAGE, VMCS_MSR_BITMAP, page_address, PAGE_MSR},
    {"virtual-APIC address", EXECUTION, PAGE, VMCS_VIRTUAL_APIC, page_address, PAGE_VIRTUAL_APIC},
    {"TPR threshold", EXECUTION, "bits 31:4 must be 0", VMCS_TPR_THRESHOLD, tpr_threshold, 0},
    {"TPR threshold", EXECUTION,
     "must not be above bits 7:4 of VTPR, unless APIC accesses are virtualized", VMCS_TPR_THRESHOLD,
     tpr_threshold_vtpr, 0},
    {"virtual NMIs", EXECUTION, "must be 0 when NMI exiting is 0", VMCS_PIN, virtual_nmi, 0},
    {"NMI-window exiting", EXECUTION, "must be 0 when virtual NMIs is 0", VMCS_PRIMARY, nmi_window,
     0},
    {"APIC virtualization", EXECUTION, "must be off when there is no TPR shadow", VMCS_SECONDARY,
     apic_without_tpr, 0},
    {"APIC-access address", EXECUTION, PAGE, VMCS_APIC_ACCESS, page_address, PAGE_APIC_ACCESS},
    {"x2APIC virtualization", EXECUTION, "must be off when APIC accesses are virtualized",
     VMCS_SECONDARY, x2apic_access, 0},
    {"virtual-interrupt delivery", EXECUTION, "needs external-interrupt exiting", VMCS_SECONDARY,
     delivery_interrupts, 0},
    {"posted interrupts", EXECUTION, "need virtual-interrupt delivery", VMCS_PIN, posted_delivery,
     0},
    {"posted interrupts", EXECUTION, "need acknowledgement of interrupts on exit", VMCS_PIN,
     posted_acknowledge, 0},
    {"posted-interrupt vector", EXECUTION, "bits 15:8 must be 0", VMCS_POSTED_VECTOR, posted_vector,
     0},
    {"posted-interrupt descriptor", EXECUTION,
     "must be aligned to 64 bytes within the physical-address width", VMCS_POSTED_DESCRIPTOR,
     posted_descriptor, 0},
    {"VPID", EXECUTION, "must not be 0 when VPIDs are enabled", VMCS_VPID, vpid, 0},
    {"EPT pointer", EXECUTION, "the memory type must be one that the processor supports", VMCS_EPTP,
     eptp_type, 0},
    {"EPT pointer", EXECUTION, "the page-walk length must be one that the processor supports",
     VMCS_EPTP, eptp_walk, 0},
    {"EPT pointer", EXECUTION, "bit 6 must be 0 where there are no accessed and dirty flags",
     VMCS_EPTP, eptp_ad, 0},
    {"EPT pointer", EXECUTION, "reserved bits must be 0", VMCS_EPTP, eptp_reserved, 0},
    {"EPT pointer", EXECUTION, "bit 7 must be 0 where EPT knows no supervisor shadow stacks",
     VMCS_EPTP, eptp_shadow_stack, 0},
    {"page-modification logging", EXECUTION, "needs EPT", VMCS_SECONDARY, needs_ept, SECONDARY_PML},
    {"PML address", EXECUTION, PAGE, VMCS_PML_ADDRESS, page_address, PAGE_PML},
    {"unrestricted guest", EXECUTION, "needs EPT", VMCS_SECONDARY, needs_ept,
     SECONDARY_UNRESTRICTED},
    {"mode-based execute control", EXECUTION, "needs EPT", VMCS_SECONDARY, needs_ept,
     SECONDARY_MODE_EXECUTE},
    {"sub-page write permissions", EXECUTION, "need EPT", VMCS_SECONDARY, needs_ept,
     SECONDARY_SUBPAGE},
    {"sub-page permission table", EXECUTION, PAGE, VMCS_SUBPAGE_TABLE, page_address, PAGE_SUBPAGE},
    {"VM functions", EXECUTION, "reserved bits must be as IA32_VMX_VMFUNC says",
     VMCS_FUNCTION_CONTROLS, functions_reserved, 0},
    {"EPTP switching", EXECUTION, "needs EPT", VMCS_FUNCTION_CONTROLS, switching_ept, 0},
    {"EPTP list", EXECUTION, PAGE, VMCS_EPTP_LIST, switching_list, 0},
    {"VMREAD bitmap", EXECUTION, PAGE, VMCS_VMREAD_BITMAP, page_address, PAGE_VMREAD},
    {"VMWRITE bitmap", EXECUTION, PAGE, VMCS_VMWRITE_BITMAP, page_address, PAGE_VMWRITE},
    {"virtualization-exception information", EXECUTION, PAGE, VMCS_VE_INFORMATION, page_address,
     PAGE_VE},
    {"VM-exit controls", EXIT, RESERVED, VMCS_EXIT, reserved_control, VMX_EXIT},
    {"save VMX-preemption timer", EXIT, "must be 0 when the timer is not active", VMCS_EXIT,
     timer_saved, 0},
    {"VM-exit MSR-store area", EXIT,
     "must be aligned to 16 bytes within the physical-address width", VMCS_EXIT_MSR_STORE, msr_area,
     VMCS_EXIT_MSR_STORE_COUNT},
    {"VM-exit MSR-load area", EXIT, "must be aligned to 16 bytes within the physical-address width",
     VMCS_EXIT_MSR_LOAD, msr_area, VMCS_EXIT_MSR_LOAD_COUNT},
    {"VM-entry controls", ENTRY, RESERVED, VMCS_ENTRY, reserved_control, VMX_ENTRY},
    {"injected event", ENTRY,
     "must not be type 1, nor 7 (other event) where there is no monitor trap flag",
     VMCS_ENTRY_INTERRUPTION, injected_type, 0},
    {"injected event", ENTRY,
     "an NMI has vector 2, a hardware exception one of 0 to 31, other events 0",
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
