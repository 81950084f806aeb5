/* SPDX-License-Identifier: BSD-2-Clause */
/* What the processor has: CPUID 8000_0001 and 8000_000A, and whether firmware has disabled SVM. */
#include "svm/svm.h"
#include "x86/cpu.h"

#define LEAF_MAX_EXTENDED       0x80000000
#define LEAF_EXTENDED           0x80000001
#define LEAF_ADDRESSES          0x80000008
#define LEAF_SVM                0x8000000a
#define LEAF_HYPERVISOR         0x40000000

#define FEATURES_ECX_HYPERVISOR (1u << 31)
#define EXTENDED_ECX_SVM        (1u << 2)
#define EXTENDED_EDX_1G         (1u << 26)
#define EXTENDED_EDX_RDTSCP     (1u << 27)
#define STRUCTURED_EBX_INVPCID  (1u << 10)
#define XSAVE_EAX_XSAVES        (1u << 3)

#define SVM_EDX_NP              (1u << 0)
#define SVM_EDX_NRIPS           (1u << 3)
#define SVM_EDX_TSC_RATE        (1u << 4)
#define SVM_EDX_CLEAN           (1u << 5)
#define SVM_EDX_FLUSH_BY_ASID   (1u << 6)
#define SVM_EDX_DECODE_ASSIST   (1u << 7)
#define SVM_EDX_PAUSE_FILTER    (1u << 10)
#define SVM_EDX_VGIF            (1u << 16)

/* "TCGTCGTCGTCG" */
#define QEMU_EBX 0x54474354
#define QEMU_ECX 0x43544743
#define QEMU_EDX 0x47435447

/* What the library makes use of; the others are reported as the processor's only. */
#define USED (~(uint64_t)(VIRTX_FEATURE_TSC_SCALING | VIRTX_FEATURE_VIRTUAL_GIF))

static uint64_t hardware_features(uint32_t edx, uint32_t asids)
{
    static const struct {
        uint32_t edx;
        uint64_t feature;
    } map[] = {
        {SVM_EDX_NRIPS, VIRTX_FEATURE_NEXT_RIP},
        {SVM_EDX_TSC_RATE, VIRTX_FEATURE_TSC_SCALING},
        {SVM_EDX_CLEAN, VIRTX_FEATURE_CLEAN_BITS},
        {SVM_EDX_FLUSH_BY_ASID, VIRTX_FEATURE_FLUSH_BY_TAG},
        {SVM_EDX_DECODE_ASSIST, VIRTX_FEATURE_DECODE_ASSIST},
        {SVM_EDX_PAUSE_FILTER, VIRTX_FEATURE_PAUSE_FILTER},
        {SVM_EDX_VGIF, VIRTX_FEATURE_VIRTUAL_GIF},
    };
    uint64_t features = VIRTX_FEATURE_UNPAGED_GUEST | VIRTX_FEATURE_MSR_BITMAP |
                        VIRTX_FEATURE_IO_BITMAP | VIRTX_FEATURE_TPR_SHADOW |
                        VIRTX_FEATURE_VIRTUAL_PRIORITY | VIRTX_FEATURE_DESCRIPTOR_EXIT |
                        VIRTX_FEATURE_EFER_SWITCH;

    for (size_t i = 0; i < ARRAY_SIZE(map); i++) {
        if (edx & map[i].edx)
            features |= map[i].feature;
    }
    if (asids > 1)
        features |= VIRTX_FEATURE_TLB_TAGS;
    return features;
}

static uint64_t guest_features(uint32_t extended_edx)
{
    uint32_t max = x86_cpuid(0, 0).eax;
    uint64_t features = 0;

    if (extended_edx & EXTENDED_EDX_RDTSCP)
        features |= VIRTX_FEATURE_RDTSCP;
    if (max >= 7 && (x86_cpuid(7, 0).ebx & STRUCTURED_EBX_INVPCID))
        features |= VIRTX_FEATURE_INVPCID;
    if (max >= 13 && (x86_cpuid(13, 1).eax & XSAVE_EAX_XSAVES))
        features |= VIRTX_FEATURE_XSAVES;
    return features;
}

/*
 * QEMU 7.2 ends itself when a guest writes CR8 without an exit and finds a virtual interrupt
 * that it lets through; it also lets one of equal priority through. Its name is where hypervisors
 * put theirs.
 */
static bool is_qemu(void)
{
    struct cpuid_regs name;

    if (!(x86_cpuid(1, 0).ecx & FEATURES_ECX_HYPERVISOR))
        return false;
    name = x86_cpuid(LEAF_HYPERVISOR, 0);
    return name.ebx == QEMU_EBX && name.ecx == QEMU_ECX && name.edx == QEMU_EDX;
}

/* What makes no sense without something that has been disabled goes with it. */
static uint64_t enabled_features(uint64_t hardware, uint64_t disable)
{
    uint64_t features = hardware & USED & ~disable;
    uint64_t nested = VIRTX_FEATURE_LARGE_2M | VIRTX_FEATURE_LARGE_1G | VIRTX_FEATURE_NESTED_AD |
                      VIRTX_FEATURE_PAT_SWITCH;

    if (!(features & VIRTX_FEATURE_NESTED_PAGING))
        features &= ~nested;
    if (!(features & VIRTX_FEATURE_TLB_TAGS))
        features &= ~(uint64_t)VIRTX_FEATURE_FLUSH_BY_TAG;
    /* These are how SVM works, not options. */
    features |= hardware & (VIRTX_FEATURE_UNPAGED_GUEST | VIRTX_FEATURE_EFER_SWITCH);
    return features;
}

static void address_widths(struct virtx_caps *caps)
{
    uint32_t widths = x86_cpuid(LEAF_ADDRESSES, 0).eax;
    uint8_t guest = (uint8_t)(widths >> 16);

    caps->physical_bits = (uint8_t)widths;
    caps->linear_bits = 48;
    caps->guest_physical_bits = guest != 0 ? guest : caps->physical_bits;
    if (caps->guest_physical_bits > 48)
        caps->guest_physical_bits = 48; /* four levels of nested tables */
}

/* AMD APM volume 2, "Enabling SVM": VM_CR says whether firmware has turned SVM off. Some processors
 * have no such register, and then nothing can have. */
static bool locked_out(void)
{
    bool trapped;
    uint64_t vm_cr = hw_rdmsr_trapped(MSR_VM_CR, &trapped);

    return !trapped && (vm_cr & VM_CR_SVMDIS);
}

enum virtx_status svm_probe(struct virtx *virtx, uint64_t disable, struct virtx_caps *caps,
                            struct virtx_error *error)
{
    struct cpuid_regs extended, svm;

    if (x86_cpuid(LEAF_MAX_EXTENDED, 0).eax < LEAF_SVM)
        return virtx_fail(error, VIRTX_E_UNSUPPORTED, "CPUID 8000_000A",
                          "the processor has no SVM leaf", 0);
    extended = x86_cpuid(LEAF_EXTENDED, 0);
    if (!(extended.ecx & EXTENDED_ECX_SVM))
        return virtx_fail(error, VIRTX_E_UNSUPPORTED, "CPUID 8000_0001 ECX.SVM",
                          "the processor has no SVM", extended.ecx);
    if (locked_out())
        return virtx_fail_manual(error, VIRTX_E_LOCKED_OUT, "VM_CR.SVMDIS",
                                 "firmware has disabled SVM", "Enabling SVM", VM_CR_SVMDIS);
    svm = x86_cpuid(LEAF_SVM, 0);
    caps->hardware = hardware_features(svm.edx, svm.ebx) | guest_features(extended.edx);
    if (svm.edx & SVM_EDX_NP) {
        virtx->pat = x86_rdmsr(MSR_PAT); /* nested tables refer to it: npt.c */
        caps->hardware |= VIRTX_FEATURE_NESTED_PAGING | VIRTX_FEATURE_LARGE_2M |
                          VIRTX_FEATURE_NESTED_AD | VIRTX_FEATURE_PAT_SWITCH;
        if (extended.edx & EXTENDED_EDX_1G)
            caps->hardware |= VIRTX_FEATURE_LARGE_1G;
    }
    caps->features = enabled_features(caps->hardware, disable);
    if (is_qemu())
        caps->features &= ~(uint64_t)VIRTX_FEATURE_VIRTUAL_PRIORITY;
    caps->tlb_tags = caps->features & VIRTX_FEATURE_TLB_TAGS ? svm.ebx - 1 : 0;
    caps->kick_needs_nmi = false;
    address_widths(caps);
    return VIRTX_OK;
}
