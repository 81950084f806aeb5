/* SPDX-License-Identifier: BSD-2-Clause */
/* What the processor has: the VMX capability MSRs, and which controls they let the library use. */
#include "vmx/vmx.h"
#include "x86/cpu.h"

#define LEAF_MAX_EXTENDED   0x80000000
#define LEAF_ADDRESSES      0x80000008

#define FEATURES_ECX_VMX    (1u << 5)

#define BASIC_TRUE_CONTROLS (1ull << 55)

#define EPT_EXECUTE_ONLY    (1ull << 0)
#define EPT_WALK_4          (1ull << 6)
#define EPT_WRITE_BACK      (1ull << 14)
#define EPT_2M              (1ull << 16)
#define EPT_1G              (1ull << 17)
#define EPT_INVEPT          (1ull << 20)
#define EPT_AD              (1ull << 21)
#define EPT_INVEPT_ONE      (1ull << 25)
#define EPT_INVEPT_ALL      (1ull << 26)
#define VPID_INVVPID        (1ull << 32)
#define VPID_INVVPID_ONE    (1ull << 41)
#define VPID_INVVPID_ALL    (1ull << 42)

/* What the library makes use of; the others are reported as the processor's only. */
#define USED                                                                                       \
    (VIRTX_FEATURE_NESTED_PAGING | VIRTX_FEATURE_UNPAGED_GUEST | VIRTX_FEATURE_TLB_TAGS |          \
     VIRTX_FEATURE_NEXT_RIP | VIRTX_FEATURE_DECODE_ASSIST | VIRTX_FEATURE_LARGE_2M |               \
     VIRTX_FEATURE_LARGE_1G | VIRTX_FEATURE_NESTED_AD | VIRTX_FEATURE_DIRTY_LOGGING |              \
     VIRTX_FEATURE_MSR_BITMAP | VIRTX_FEATURE_IO_BITMAP | VIRTX_FEATURE_VIRTUAL_NMI |              \
     VIRTX_FEATURE_EXECUTE_ONLY | VIRTX_FEATURE_FLUSH_BY_TAG | VIRTX_FEATURE_DESCRIPTOR_EXIT |     \
     VIRTX_FEATURE_EFER_SWITCH | VIRTX_FEATURE_PAT_SWITCH | VIRTX_FEATURE_RDTSCP |                 \
     VIRTX_FEATURE_INVPCID | VIRTX_FEATURE_XSAVES | VIRTX_FEATURE_TPR_SHADOW |                     \
     VIRTX_FEATURE_PAUSE_FILTER | VIRTX_FEATURE_FAULT_FILTER | VIRTX_FEATURE_TIMER |               \
     VIRTX_FEATURE_POSTED_INTERRUPT | VMX_APIC_HELP)

/* What the library does with a control bit. */
enum need {
    ON,       /* always 1: without it there is no VMX backend */
    OPTIONAL, /* 1 when its feature is in use */
    EXACTLY,  /* 1 when its feature is in use, and else 0 */
    SWITCHED, /* 0 or 1 from time to time: the processor must allow 1 */
    AS_IT_IS, /* 0 or 1 from time to time where allowed; src/hw lives with what there is */
    OFF,      /* always 0: a processor that insists on 1 is not one this library knows */
};

static const struct rule_of_control {
    const char *name;
    uint8_t word, need;
    uint32_t bit;
    uint64_t feature; /* of OPTIONAL */
} rules[] = {
    {"external-interrupt exiting", VMX_PIN, SWITCHED, PIN_INTERRUPT, 0},
    {"NMI exiting", VMX_PIN, ON, PIN_NMI, 0},
    {"virtual NMIs", VMX_PIN, OPTIONAL, PIN_VIRTUAL_NMI, VIRTX_FEATURE_VIRTUAL_NMI},
    {"activate VMX-preemption timer", VMX_PIN, AS_IT_IS, PIN_TIMER, 0},
    {"process posted interrupts", VMX_PIN, AS_IT_IS, PIN_POSTED_INTERRUPT, 0},

    {"interrupt-window exiting", VMX_PRIMARY, SWITCHED, PRIMARY_INTERRUPT_WINDOW, 0},
    {"use TSC offsetting", VMX_PRIMARY, ON, PRIMARY_TSC_OFFSET, 0},
    {"HLT exiting", VMX_PRIMARY, SWITCHED, PRIMARY_HLT, 0},
    {"INVLPG exiting", VMX_PRIMARY, SWITCHED, PRIMARY_INVLPG, 0},
    {"MWAIT exiting", VMX_PRIMARY, SWITCHED, PRIMARY_MWAIT, 0},
    {"RDPMC exiting", VMX_PRIMARY, SWITCHED, PRIMARY_RDPMC, 0},
    {"RDTSC exiting", VMX_PRIMARY, SWITCHED, PRIMARY_RDTSC, 0},
    {"CR3-load exiting", VMX_PRIMARY, SWITCHED, PRIMARY_CR3_LOAD, 0},
    {"CR3-store exiting", VMX_PRIMARY, SWITCHED, PRIMARY_CR3_STORE, 0},
    {"CR8-load exiting", VMX_PRIMARY, SWITCHED, PRIMARY_CR8_LOAD, 0},
    {"CR8-store exiting", VMX_PRIMARY, SWITCHED, PRIMARY_CR8_STORE, 0},
    {"use TPR shadow", VMX_PRIMARY, OPTIONAL, PRIMARY_TPR_SHADOW, VIRTX_FEATURE_TPR_SHADOW},
    {"NMI-window exiting", VMX_PRIMARY, AS_IT_IS, PRIMARY_NMI_WINDOW, 0},
    {"MOV-DR exiting", VMX_PRIMARY, SWITCHED, PRIMARY_MOV_DR, 0},
    {"unconditional I/O exiting", VMX_PRIMARY, SWITCHED, PRIMARY_IO, 0},
    {"use I/O bitmaps", VMX_PRIMARY, OPTIONAL, PRIMARY_IO_BITMAPS, VIRTX_FEATURE_IO_BITMAP},
    {"monitor trap flag", VMX_PRIMARY, OFF, PRIMARY_TRAP_FLAG, 0},
    {"use MSR bitmaps", VMX_PRIMARY, OPTIONAL, PRIMARY_MSR_BITMAPS, VIRTX_FEATURE_MSR_BITMAP},
    {"MONITOR exiting", VMX_PRIMARY, SWITCHED, PRIMARY_MONITOR, 0},
    {"PAUSE exiting", VMX_PRIMARY, SWITCHED, PRIMARY_PAUSE, 0},

    {"virtualize APIC accesses", VMX_SECONDARY, AS_IT_IS, SECONDARY_APIC_ACCESS, 0},
    {"enable EPT", VMX_SECONDARY, OPTIONAL, SECONDARY_EPT, VIRTX_FEATURE_NESTED_PAGING},
    {"descriptor-table exiting", VMX_SECONDARY, AS_IT_IS, SECONDARY_DESCRIPTOR_TABLE, 0},
    {"enable RDTSCP", VMX_SECONDARY, OPTIONAL, SECONDARY_RDTSCP, VIRTX_FEATURE_RDTSCP},
    {"virtualize x2APIC mode", VMX_SECONDARY, AS_IT_IS, SECONDARY_X2APIC, 0},
    {"enable VPID", VMX_SECONDARY, OPTIONAL, SECONDARY_VPID, VIRTX_FEATURE_TLB_TAGS},
    {"WBINVD exiting", VMX_SECONDARY, AS_IT_IS, SECONDARY_WBINVD, 0},
    {"unrestricted guest", VMX_SECONDARY, OPTIONAL, SECONDARY_UNRESTRICTED,
     VIRTX_FEATURE_UNPAGED_GUEST},
    {"APIC-register virtualization", VMX_SECONDARY, AS_IT_IS, SECONDARY_APIC_REGISTERS, 0},
    {"virtual-interrupt delivery", VMX_SECONDARY, AS_IT_IS, SECONDARY_VIRTUAL_INTERRUPT, 0},
    {"PAUSE-loop exiting", VMX_SECONDARY, AS_IT_IS, SECONDARY_PAUSE_LOOP, 0},
    {"RDRAND exiting", VMX_SECONDARY, AS_IT_IS, SECONDARY_RDRAND, 0},
    {"enable INVPCID", VMX_SECONDARY, OPTIONAL, SECONDARY_INVPCID, VIRTX_FEATURE_INVPCID},
    {"RDSEED exiting", VMX_SECONDARY, AS_IT_IS, SECONDARY_RDSEED, 0},
    {"enable PML", VMX_SECONDARY, OPTIONAL, SECONDARY_PML, VIRTX_FEATURE_DIRTY_LOGGING},
    {"enable XSAVES/XRSTORS", VMX_SECONDARY, OPTIONAL, SECONDARY_XSAVES, VIRTX_FEATURE_XSAVES},
    {"use TSC scaling", VMX_SECONDARY, OFF, SECONDARY_TSC_SCALING, 0},

    {"save debug controls", VMX_EXIT, ON, EXIT_SAVE_DEBUG, 0},
    {"host address-space size", VMX_EXIT, ON, EXIT_HOST_64, 0},
    {"load IA32_PERF_GLOBAL_CTRL on exit", VMX_EXIT, OFF, EXIT_LOAD_PERF, 0},
    {"acknowledge interrupt on exit", VMX_EXIT, EXACTLY, EXIT_ACK_INTERRUPT,
     VIRTX_FEATURE_POSTED_INTERRUPT},
    {"load IA32_PAT on exit", VMX_EXIT, OPTIONAL, EXIT_LOAD_PAT, VIRTX_FEATURE_PAT_SWITCH},
    {"load IA32_EFER on exit", VMX_EXIT, OPTIONAL, EXIT_LOAD_EFER, VIRTX_FEATURE_EFER_SWITCH},

    {"load debug controls", VMX_ENTRY, ON, ENTRY_LOAD_DEBUG, 0},
    {"IA-32e mode guest", VMX_ENTRY, SWITCHED, ENTRY_IA32E, 0},
    {"entry to SMM", VMX_ENTRY, OFF, ENTRY_SMM, 0},
    {"deactivate dual-monitor treatment", VMX_ENTRY, OFF, ENTRY_DUAL_MONITOR, 0},
    {"load IA32_PERF_GLOBAL_CTRL on entry", VMX_ENTRY, OFF, ENTRY_LOAD_PERF, 0},
    {"load IA32_PAT on entry", VMX_ENTRY, OPTIONAL, ENTRY_LOAD_PAT, VIRTX_FEATURE_PAT_SWITCH},
    {"load IA32_EFER on entry", VMX_ENTRY, OPTIONAL, ENTRY_LOAD_EFER, VIRTX_FEATURE_EFER_SWITCH},
};

static struct vmx_allowed allowed(uint32_t msr)
{
    uint64_t value = x86_rdmsr(msr);
    return (struct vmx_allowed){.must = (uint32_t)value, .may = (uint32_t)(value >> 32)};
}

/* Intel SDM appendix "VMX Capability Reporting Facility": the TRUE registers exist when bit 55 of
 * IA32_VMX_BASIC says so, those of optional control words when the words do. */
void vmx_caps_read(struct vmx_caps *caps)
{
    bool precise;

    memset(caps, 0, sizeof(*caps));
    caps->basic = x86_rdmsr(MSR_VMX_BASIC);
    precise = caps->basic & BASIC_TRUE_CONTROLS;
    caps->control[VMX_PIN] = allowed(precise ? MSR_VMX_TRUE_PIN : MSR_VMX_PIN);
    caps->control[VMX_PRIMARY] = allowed(precise ? MSR_VMX_TRUE_PRIMARY : MSR_VMX_PRIMARY);
    caps->control[VMX_EXIT] = allowed(precise ? MSR_VMX_TRUE_EXIT : MSR_VMX_EXIT);
    caps->control[VMX_ENTRY] = allowed(precise ? MSR_VMX_TRUE_ENTRY : MSR_VMX_ENTRY);
    if (caps->control[VMX_PRIMARY].may & PRIMARY_SECONDARY)
        caps->control[VMX_SECONDARY] = allowed(MSR_VMX_SECONDARY);
    if (caps->control[VMX_SECONDARY].may & (SECONDARY_EPT | SECONDARY_VPID))
        caps->ept_vpid = x86_rdmsr(MSR_VMX_EPT_VPID);
    if (caps->control[VMX_SECONDARY].may & SECONDARY_FUNCTIONS)
        caps->functions = x86_rdmsr(MSR_VMX_FUNCTIONS);
    caps->misc = x86_rdmsr(MSR_VMX_MISC);
    caps->cr0_fixed0 = x86_rdmsr(MSR_VMX_CR0_FIXED0);
    caps->cr0_fixed1 = x86_rdmsr(MSR_VMX_CR0_FIXED1);
    caps->cr4_fixed0 = x86_rdmsr(MSR_VMX_CR4_FIXED0);
    caps->cr4_fixed1 = x86_rdmsr(MSR_VMX_CR4_FIXED1);
}

static bool has(const struct vmx_caps *caps, enum vmx_word word, uint32_t bits)
{
    return (caps->control[word].may & bits) == bits;
}

/* Features that one control bit each stands for. */
static uint64_t control_features(const struct vmx_caps *caps)
{
    static const struct {
        uint8_t word;
        uint32_t bit;
        uint64_t feature;
    } map[] = {
        {VMX_PRIMARY, PRIMARY_MSR_BITMAPS, VIRTX_FEATURE_MSR_BITMAP},
        {VMX_PRIMARY, PRIMARY_IO_BITMAPS, VIRTX_FEATURE_IO_BITMAP},
        {VMX_PRIMARY, PRIMARY_TPR_SHADOW, VIRTX_FEATURE_TPR_SHADOW},
        {VMX_SECONDARY, SECONDARY_APIC_ACCESS, VIRTX_FEATURE_APIC_ACCESS},
        {VMX_SECONDARY, SECONDARY_X2APIC, VIRTX_FEATURE_VIRTUAL_X2APIC},
        {VMX_SECONDARY, SECONDARY_APIC_REGISTERS, VIRTX_FEATURE_APIC_REGISTERS},
        {VMX_SECONDARY, SECONDARY_VIRTUAL_INTERRUPT, VIRTX_FEATURE_VIRTUAL_INTERRUPT},
        {VMX_PIN, PIN_TIMER, VIRTX_FEATURE_TIMER},
        {VMX_SECONDARY, SECONDARY_TSC_SCALING, VIRTX_FEATURE_TSC_SCALING},
        {VMX_SECONDARY, SECONDARY_PAUSE_LOOP, VIRTX_FEATURE_PAUSE_FILTER},
        {VMX_SECONDARY, SECONDARY_DESCRIPTOR_TABLE, VIRTX_FEATURE_DESCRIPTOR_EXIT},
        {VMX_SECONDARY, SECONDARY_RDTSCP, VIRTX_FEATURE_RDTSCP},
        {VMX_SECONDARY, SECONDARY_INVPCID, VIRTX_FEATURE_INVPCID},
        {VMX_SECONDARY, SECONDARY_XSAVES, VIRTX_FEATURE_XSAVES},
    };
    uint64_t features =
        VIRTX_FEATURE_NEXT_RIP | VIRTX_FEATURE_DECODE_ASSIST | VIRTX_FEATURE_FAULT_FILTER;

    for (size_t i = 0; i < ARRAY_SIZE(map); i++) {
        if (has(caps, map[i].word, map[i].bit))
            features |= map[i].feature;
    }
    if (has(caps, VMX_PIN, PIN_VIRTUAL_NMI) && has(caps, VMX_PRIMARY, PRIMARY_NMI_WINDOW))
        features |= VIRTX_FEATURE_VIRTUAL_NMI;
    if (has(caps, VMX_PIN, PIN_POSTED_INTERRUPT) && has(caps, VMX_EXIT, EXIT_ACK_INTERRUPT))
        features |= VIRTX_FEATURE_POSTED_INTERRUPT;
    if (has(caps, VMX_ENTRY, ENTRY_LOAD_EFER) && has(caps, VMX_EXIT, EXIT_LOAD_EFER))
        features |= VIRTX_FEATURE_EFER_SWITCH;
    if (has(caps, VMX_ENTRY, ENTRY_LOAD_PAT) && has(caps, VMX_EXIT, EXIT_LOAD_PAT))
        features |= VIRTX_FEATURE_PAT_SWITCH;
    return features;
}

/* EPT is of use only with write-back four-level tables that can be invalidated. */
static uint64_t ept_features(const struct vmx_caps *caps)
{
    static const struct {
        uint64_t bit, feature;
    } map[] = {
        {EPT_2M, VIRTX_FEATURE_LARGE_2M},
        {EPT_1G, VIRTX_FEATURE_LARGE_1G},
        {EPT_AD, VIRTX_FEATURE_NESTED_AD},
        {EPT_EXECUTE_ONLY, VIRTX_FEATURE_EXECUTE_ONLY},
    };
    uint64_t needed = EPT_WALK_4 | EPT_WRITE_BACK | EPT_INVEPT;
    uint64_t features = VIRTX_FEATURE_NESTED_PAGING;

    if (!has(caps, VMX_SECONDARY, SECONDARY_EPT) || (caps->ept_vpid & needed) != needed ||
        !(caps->ept_vpid & (EPT_INVEPT_ONE | EPT_INVEPT_ALL)))
        return 0;
    for (size_t i = 0; i < ARRAY_SIZE(map); i++) {
        if (caps->ept_vpid & map[i].bit)
            features |= map[i].feature;
    }
    if (has(caps, VMX_SECONDARY, SECONDARY_UNRESTRICTED))
        features |= VIRTX_FEATURE_UNPAGED_GUEST;
    if ((features & VIRTX_FEATURE_NESTED_AD) && has(caps, VMX_SECONDARY, SECONDARY_PML))
        features |= VIRTX_FEATURE_DIRTY_LOGGING;
    return features;
}

static uint64_t vpid_features(const struct vmx_caps *caps)
{
    if (!has(caps, VMX_SECONDARY, SECONDARY_VPID) || !(caps->ept_vpid & VPID_INVVPID) ||
        !(caps->ept_vpid & (VPID_INVVPID_ONE | VPID_INVVPID_ALL)))
        return 0;
    return VIRTX_FEATURE_TLB_TAGS |
           (caps->ept_vpid & VPID_INVVPID_ONE ? VIRTX_FEATURE_FLUSH_BY_TAG : 0);
}

uint64_t vmx_caps_hardware(const struct vmx_caps *caps)
{
    return control_features(caps) | ept_features(caps) | vpid_features(caps);
}

/* What makes no sense without something that has been disabled goes with it. */
uint64_t vmx_caps_features(uint64_t hardware, uint64_t disable)
{
    uint64_t features = hardware & USED & ~disable;
    uint64_t nested = VIRTX_FEATURE_UNPAGED_GUEST | VIRTX_FEATURE_LARGE_2M |
                      VIRTX_FEATURE_LARGE_1G | VIRTX_FEATURE_NESTED_AD | VIRTX_FEATURE_EXECUTE_ONLY;

    if (!(features & VIRTX_FEATURE_NESTED_PAGING))
        features &= ~nested;
    /* Parts of the tables have copies (mode.c), whose flags nobody looks at. */
    if (!(features & VIRTX_FEATURE_UNPAGED_GUEST))
        features &= ~(uint64_t)VIRTX_FEATURE_NESTED_AD;
    if (!(features & VIRTX_FEATURE_NESTED_AD))
        features &= ~(uint64_t)VIRTX_FEATURE_DIRTY_LOGGING;
    if (!(features & VIRTX_FEATURE_TLB_TAGS))
        features &= ~(uint64_t)VIRTX_FEATURE_FLUSH_BY_TAG;
    if (!(features & VIRTX_FEATURE_TPR_SHADOW))
        features &= ~(uint64_t)VMX_APIC_HELP;
    if (!(features & VIRTX_FEATURE_VIRTUAL_INTERRUPT))
        features &= ~(uint64_t)VIRTX_FEATURE_POSTED_INTERRUPT;
    /* By itself it costs what other devices' pages cost, and all but the TPR exits as before. */
    if (!(features & (VIRTX_FEATURE_APIC_REGISTERS | VIRTX_FEATURE_VIRTUAL_INTERRUPT)))
        features &= ~(uint64_t)VIRTX_FEATURE_APIC_ACCESS;
    /* These are how VMX works, not options. */
    features |= hardware & (VIRTX_FEATURE_NEXT_RIP | VIRTX_FEATURE_DECODE_ASSIST);
    return features;
}

static bool acceptable(const struct rule_of_control *rule, const struct vmx_allowed *allow,
                       uint64_t features)
{
    switch (rule->need) {
    case ON:
    case SWITCHED:
        return allow->may & rule->bit;
    case EXACTLY:
        return (features & rule->feature) || !(allow->must & rule->bit);
    case OFF:
        return !(allow->must & rule->bit);
    default:
        return true;
    }
}

enum virtx_status vmx_caps_negotiate(const struct vmx_caps *caps, uint64_t features,
                                     uint32_t base[VMX_WORD_COUNT], struct virtx_error *error)
{
    for (unsigned word = 0; word < VMX_WORD_COUNT; word++)
        base[word] = caps->control[word].must;
    if (caps->control[VMX_SECONDARY].may)
        base[VMX_PRIMARY] |= PRIMARY_SECONDARY;
    for (size_t i = 0; i < ARRAY_SIZE(rules); i++) {
        const struct rule_of_control *rule = &rules[i];
        const struct vmx_allowed *allow = &caps->control[rule->word];

        if (!acceptable(rule, allow, features))
            return virtx_fail_manual(error, VIRTX_E_UNSUPPORTED, rule->name,
                                     allow->may & rule->bit
                                         ? "the processor insists on this control"
                                         : "the processor does not have this control",
                                     "VMX Capability Reporting Facility", rule->bit);
        if (rule->need == ON ||
            ((rule->need == OPTIONAL || rule->need == EXACTLY) && (features & rule->feature)))
            base[rule->word] |= rule->bit & allow->may;
    }
    if (!(base[VMX_PRIMARY] & PRIMARY_IO_BITMAPS))
        base[VMX_PRIMARY] |= PRIMARY_IO;
    return VIRTX_OK;
}

static void address_widths(struct virtx_caps *caps)
{
    uint8_t physical = 36;

    if (x86_cpuid(LEAF_MAX_EXTENDED, 0).eax >= LEAF_ADDRESSES)
        physical = (uint8_t)x86_cpuid(LEAF_ADDRESSES, 0).eax;
    caps->physical_bits = physical;
    caps->linear_bits = 48;
    caps->guest_physical_bits = physical < 48 ? physical : 48; /* four levels of EPT */
}

/* Whether CR4.VMXE is set is no question of the probe: it asks what the processor has. CPUID goes
 * first, since QEMU's processors without VMX mishandle everything else. */
enum virtx_status vmx_probe(struct virtx *virtx, uint64_t disable, struct virtx_caps *caps,
                            struct virtx_error *error)
{
    struct vmx_caps vmx;
    uint32_t base[VMX_WORD_COUNT];
    uint32_t ecx = x86_cpuid(1, 0).ecx;
    uint64_t feature_control;

    if (!virtx->ops.interrupt || !virtx->ops.notify_cpu || virtx->ops.posted_vector < 16 ||
        virtx->ops.posted_vector > 255)
        disable |= VIRTX_FEATURE_POSTED_INTERRUPT;
    if (!(ecx & FEATURES_ECX_VMX))
        return virtx_fail(error, VIRTX_E_UNSUPPORTED, "CPUID 1 ECX.VMX", "the processor has no VMX",
                          ecx);
    feature_control = x86_rdmsr(MSR_FEATURE_CONTROL);
    if ((feature_control & FEATURE_CONTROL_LOCKED) && !(feature_control & FEATURE_CONTROL_VMXON))
        return virtx_fail_manual(error, VIRTX_E_LOCKED_OUT, "IA32_FEATURE_CONTROL",
                                 "firmware has disabled VMX", "Enabling and Entering VMX Operation",
                                 feature_control);
    vmx_caps_read(&vmx);
    caps->hardware = vmx_caps_hardware(&vmx);
    disable |= vmx_errata(&vmx) & ~virtx->insist;
    caps->features = vmx_caps_features(caps->hardware, disable);
    caps->tlb_tags = caps->features & VIRTX_FEATURE_TLB_TAGS ? 0xffff : 0;
    caps->kick_needs_nmi = true;
    address_widths(caps);
    return vmx_caps_negotiate(&vmx, caps->features, base, error);
}
