/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * CPUID: the VM's table, the fields that vary, and what the answers allow the guest to use.
 */
#include "hw/service.h"

#define LEAF1_ECX_OSXSAVE (1u << 27)
#define LEAF1_EDX_APIC    (1u << 9)
#define APIC_BASE_ENABLE  BIT(11)
#define LEAF7_ECX_OSPKE   (1u << 4)

void hw_cpuid_forget(struct hw_vcpu *hv)
{
    /* No line holds a leaf that belongs to another one: leaf 0 is line 0's, leaf 1 is line 1's. */
    for (unsigned i = 0; i < HW_CPUID_LINES; i++)
        hv->soft->cpuid[i].leaf = i == 0;
}

/* Bytes of a standard-format XSAVE area for these components (Intel SDM "Standard Format of the
 * XSAVE Area"): offset plus size of the last one. */
static uint32_t xsave_bytes(struct hw_vcpu *hv, uint64_t components)
{
    uint32_t bytes = 512 + 64;

    for (uint32_t i = 2; i < 63; i++) {
        struct virtx_cpuid_entry entry;

        if (!(components >> i & 1))
            continue;
        virtx_cpuid_lookup(hv->vcpu, 0xd, i, &entry);
        if (entry.ebx + entry.eax > bytes)
            bytes = entry.ebx + entry.eax;
    }
    return bytes;
}

/* Likewise for the compacted format (Intel SDM "Compacted Format of the XSAVE Area"). */
static uint32_t xsave_compact_bytes(struct hw_vcpu *hv, uint64_t components)
{
    uint32_t bytes = 512 + 64;

    for (uint32_t i = 2; i < 63; i++) {
        struct virtx_cpuid_entry entry;

        if (!(components >> i & 1))
            continue;
        virtx_cpuid_lookup(hv->vcpu, 0xd, i, &entry);
        if (entry.ecx & 2)
            bytes = (bytes + 63) & ~63u;
        bytes += entry.eax;
    }
    return bytes;
}

/* Intel SDM, "Enabling or Disabling the Local APIC": one that is disabled is as if it were not
 * there; AMD APM, "Local APIC Enable", likewise. */
static uint32_t apic_bit(struct hw_vcpu *hv, uint32_t edx)
{
    bool on = hw_state(hv, VIRTX_STATE_MSR)->apic_base & APIC_BASE_ENABLE;

    return on ? edx : edx & ~LEAF1_EDX_APIC;
}

bool hw_cpuid_fill(struct hw_vcpu *hv, struct hw_cpuid_line *line, uint32_t leaf, uint32_t subleaf)
{
    struct virtx_cpuid_entry entry;
    const struct virtx_state *state;
    uint32_t id = hv->vcpu->id;

    virtx_cpuid_lookup(hv->vcpu, leaf, subleaf, &entry);
    line->leaf = leaf;
    /* Every subleaf gets its own line: which leaves have them is the table's business. */
    line->subleaf_mask = UINT32_MAX;
    line->subleaf = subleaf;
    line->eax = entry.eax;
    line->ebx = entry.ebx;
    line->ecx = entry.ecx;
    line->edx = entry.edx;

    /* A leaf out of range may be answered by another one, which then fills in the blanks. */
    switch (entry.leaf) {
    case 1:
        state = hw_state(hv, VIRTX_STATE_CR);
        line->ebx = (line->ebx & 0x00ffffff) | id << 24;
        line->ecx &= ~LEAF1_ECX_OSXSAVE;
        if (state->cr4 & CR4_OSXSAVE)
            line->ecx |= LEAF1_ECX_OSXSAVE;
        line->edx = apic_bit(hv, line->edx);
        break;
    case 7:
        if (subleaf == 0) {
            state = hw_state(hv, VIRTX_STATE_CR);
            line->ecx &= ~LEAF7_ECX_OSPKE;
            if (state->cr4 & CR4_PKE)
                line->ecx |= LEAF7_ECX_OSPKE;
        }
        break;
    case 0xb:
    case 0x1f:
        line->edx = id; /* the x2APIC ID, at every level */
        break;
    case 0xd:
        hw_fpu_follow_xcr0(hv);
        line->leaf = 0; /* not kept */
        state = hw_state(hv, VIRTX_STATE_XCR);
        if (subleaf == 0 && hv->soft->policy.xcr0)
            line->ebx = xsave_bytes(hv, state->xcr0);
        else if (subleaf == 1 && hv->soft->policy.xcr0)
            line->ebx = xsave_compact_bytes(hv, state->xcr0 | state->xss);
        break;
    case 0x80000001:
        line->edx = apic_bit(hv, line->edx); /* AMD's copy of leaf 1; zero on Intel's */
        break;
    case 0x8000001e:
        line->eax = id;
        break;
    default:
        break;
    }
    /* Guests ask these often, with anything in ECX. */
    if (leaf <= 1 || (leaf >= 0x80000000 && leaf <= 0x80000008)) {
        line->subleaf_mask = 0;
        line->subleaf = 0;
    }
    return true;
}

static void leaf(struct hw_vcpu *hv, uint32_t number, uint32_t subleaf,
                 struct virtx_cpuid_entry *entry)
{
    virtx_cpuid_lookup(hv->vcpu, number, subleaf, entry);
}

/* CR4 bits that come with a feature bit: those below are the ones that a guest may have. */
static uint64_t cr4_policy(const struct virtx_cpuid_entry *l1, const struct virtx_cpuid_entry *l7)
{
    static const struct {
        uint8_t where; /* 0: leaf 1 EDX, 1: leaf 1 ECX, 2: leaf 7 EBX, 3: leaf 7 ECX */
        uint8_t bit;
        uint64_t cr4;
    } rules[] = {
        {0, 1, CR4_VME | CR4_PVI}, {0, 2, CR4_DE},     {0, 3, CR4_PSE},      {0, 4, CR4_TSD},
        {0, 6, CR4_PAE},           {0, 7, CR4_MCE},    {0, 13, CR4_PGE},     {0, 24, CR4_OSFXSR},
        {0, 25, CR4_OSXMMEXCPT},   {1, 17, CR4_PCIDE}, {1, 26, CR4_OSXSAVE}, {2, 0, CR4_FSGSBASE},
        {2, 7, CR4_SMEP},          {2, 20, CR4_SMAP},  {3, 2, CR4_UMIP},     {3, 3, CR4_PKE},
    };
    const uint32_t words[] = {l1->edx, l1->ecx, l7->ebx, l7->ecx};
    uint64_t cr4 = CR4_PCE | CR4_MCE;

    for (unsigned i = 0; i < ARRAY_SIZE(rules); i++)
        if (words[rules[i].where] >> rules[i].bit & 1)
            cr4 |= rules[i].cr4;
    return cr4;
}

uint8_t hw_cpuid_lacks(struct cpuid_view view)
{
    struct virtx_cpuid_entry one, extended;
    uint8_t lacks = 0;

    virtx_cpuid_answer(view, 1, 0, &one);
    virtx_cpuid_answer(view, 0x80000001, 0, &extended);
    if (!(one.edx >> 11 & 1))
        lacks |= HW_LACKS_SYSENTER;
    if (!(extended.edx >> 29 & 1))
        lacks |= HW_LACKS_LONG_MODE;
    if (!(extended.edx >> 11 & 1) && (lacks & HW_LACKS_LONG_MODE))
        lacks |= HW_LACKS_SYSCALL;
    return lacks;
}

void hw_cpuid_follow(struct hw_vcpu *hv)
{
    struct cpuid_view view = virtx_cpuid_vcpu(hv->vcpu);

    if (likely(hv->soft->cpuid_version == view.vms->version &&
               hv->soft->cpuid_own_version == (view.own ? view.own->version : 0)))
        return;
    hw_cpuid_policy(hv);
    hw_cpuid_forget(hv);
    hw_switch_plan(hv);
    hv->work |= HW_WORK_CONTROLS | HW_WORK_SWITCH;
}

void hw_cpuid_policy(struct hw_vcpu *hv)
{
    struct hw_policy *policy = &hv->soft->policy;
    struct cpuid_view view = virtx_cpuid_vcpu(hv->vcpu);
    struct virtx_cpuid_entry l0, l1, l7 = {0}, d0 = {0}, d1 = {0}, e0, e1, e8 = {0};

    /* A table that is published meanwhile has a newer version than these. */
    hv->soft->cpuid_version = view.vms->version;
    hv->soft->cpuid_own_version = view.own ? view.own->version : 0;
    leaf(hv, 0, 0, &l0);
    leaf(hv, 1, 0, &l1);
    if (l0.eax >= 7)
        leaf(hv, 7, 0, &l7);
    leaf(hv, 0x80000000, 0, &e0);
    leaf(hv, 0x80000001, 0, &e1);
    if (e0.eax >= 0x80000008)
        leaf(hv, 0x80000008, 0, &e8);
    if (l0.eax >= 0xd && (l1.ecx >> 26 & 1)) {
        leaf(hv, 0xd, 0, &d0);
        leaf(hv, 0xd, 1, &d1);
    }

    memset(policy, 0, sizeof(*policy));
    policy->amd = virtx_cpuid_is_amd(l0.ebx);
    policy->cr4 = cr4_policy(&l1, &l7);
    policy->efer = 0;
    if (e1.edx >> 11 & 1)
        policy->efer |= EFER_SCE;
    if (e1.edx >> 29 & 1)
        policy->efer |= EFER_LME | EFER_LMA | EFER_SCE;
    if (e1.edx >> 20 & 1)
        policy->efer |= EFER_NXE;
    if (e1.edx >> 25 & 1)
        policy->efer |= EFER_FFXSR;
    if (e1.ecx >> 17 & 1)
        policy->efer |= EFER_TCE;
    policy->xcr0 = (l1.ecx >> 26 & 1) ? ((uint64_t)d0.edx << 32 | d0.eax | 3) : 0;
    policy->xss = (d1.eax >> 3 & 1) ? ((uint64_t)d1.edx << 32 | d1.ecx) : 0;
    policy->has_xsaves = d1.eax >> 3 & 1;
    policy->has_xgetbv_used = d1.eax >> 2 & 1;
    policy->has_misaligned_sse = e1.ecx >> 7 & 1;
    policy->has_monitor = l1.ecx >> 3 & 1;
    policy->has_invpcid = l7.ebx >> 10 & 1;
    policy->has_mtrr = l1.edx >> 12 & 1;
    policy->has_mca = l1.edx >> 14 & 1;
    policy->has_pat = l1.edx >> 16 & 1;
    policy->lacks = hw_cpuid_lacks(view);
    policy->physical_bits = (e8.eax & 0xff) ? (uint8_t)(e8.eax & 0xff) : 36;
    if (policy->physical_bits > 52)
        policy->physical_bits = 52;
    policy->reserved = ~bits_mask(policy->physical_bits - 1u, 0);
    /* Speculation controls: leaf 7 EDX on Intel, 80000008 EBX on AMD. */
    if ((l7.edx >> 26 & 1) || (e8.ebx >> 14 & 1))
        policy->spec_ctrl |= 1;
    if ((l7.edx >> 27 & 1) || (e8.ebx >> 15 & 1))
        policy->spec_ctrl |= 2;
    if ((l7.edx >> 31 & 1) || (e8.ebx >> 24 & 1))
        policy->spec_ctrl |= 4;
    policy->no_1g = !(e1.edx >> 26 & 1);
    policy->has_ibpb = (l7.edx >> 26 & 1) || (e8.ebx >> 12 & 1);
    policy->has_l1d_flush = l7.edx >> 28 & 1;
    policy->has_arch_capabilities = l7.edx >> 29 & 1;
    policy->has_tsc_adjust = l7.ebx >> 1 & 1;
    policy->has_tsc_aux = (e1.edx >> 27 & 1) || (l7.ecx >> 22 & 1);
}
