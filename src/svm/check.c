/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The processor's own checks at VMRUN, as a table: AMD APM volume 2, "Canonicalization and
 * Consistency Checks". The processor says only that one of them failed.
 *
 * One of the manual's rules has no row: all processors that this library runs on have long mode,
 * so EFER.LMA and EFER.LME cannot offend against its absence.
 */
#include "svm/svm.h"
#include "x86/cpu.h"

#define MANUAL "Canonicalization and Consistency Checks"
#define HIGH   0xffffffff00000000ull
#define EFER_MBZ                                                                                   \
    (~(uint64_t)(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE | EFER_SVME | EFER_LMSLE | EFER_FFXSR | \
                 EFER_TCE | 1ull << 17 | 1ull << 18 | 1ull << 20 | 1ull << 21))

struct rule_row {
    const char *what;
    const char *rule;
    const char *manual;
    enum virtx_status status;
    bool (*broken)(const struct svm_vcpu *sv, uint64_t *value);
};

/* A row's test: an expression over `save` and `control`, and the field to be reported. */
#define TEST(name, field, expression)                                                              \
    static bool name(const struct svm_vcpu *sv, uint64_t *value)                                   \
    {                                                                                              \
        const struct vmcb_save *save = &sv->vmcb.save;                                             \
        const struct vmcb_control *control = &sv->vmcb.control;                                    \
                                                                                                   \
        (void)save;                                                                                \
        (void)control;                                                                             \
        *value = (field);                                                                          \
        return (expression);                                                                       \
    }

static uint64_t beyond_physical(const struct svm_vcpu *sv)
{
    return UINT64_MAX << sv->hw.vcpu->virtx->caps.physical_bits;
}

/* CR4 bits that this processor has, by the CPUID bit of each. */
static uint64_t cr4_known(void)
{
    static const struct {
        uint64_t bit;
        uint8_t leaf, reg, shift; /* reg: 0 EBX, 1 ECX, 2 EDX */
    } by_cpuid[] = {
        {CR4_UMIP, 7, 1, 2},   {CR4_LA57, 7, 1, 16},    {CR4_FSGSBASE, 7, 0, 0},
        {CR4_PCIDE, 1, 1, 17}, {CR4_OSXSAVE, 1, 1, 26}, {CR4_SMEP, 7, 0, 7},
        {CR4_SMAP, 7, 0, 20},  {CR4_PKE, 7, 1, 3},      {CR4_CET, 7, 1, 7},
    };
    uint64_t known = 0x7ff; /* VME to OSXMMEXCPT */
    uint32_t max = x86_cpuid(0, 0).eax;

    for (size_t i = 0; i < ARRAY_SIZE(by_cpuid); i++) {
        struct cpuid_regs regs;
        uint32_t word;

        if (by_cpuid[i].leaf > max)
            continue;
        regs = x86_cpuid(by_cpuid[i].leaf, 0);
        word = by_cpuid[i].reg == 0 ? regs.ebx : by_cpuid[i].reg == 1 ? regs.ecx : regs.edx;
        if (word >> by_cpuid[i].shift & 1)
            known |= by_cpuid[i].bit;
    }
    return known;
}

static bool pat_broken(uint64_t pat)
{
    for (unsigned i = 0; i < 8; i++) {
        uint8_t type = (uint8_t)(pat >> 8 * i);

        if (type > 7 || type == 2 || type == 3)
            return true;
    }
    return false;
}

/* "Event Injection": what cannot be injected. */
static bool event_broken(uint32_t event)
{
    uint32_t vector = event & VMCB_EVENT_VECTOR;

    if (!(event & VMCB_EVENT_VALID))
        return false;
    switch (event & VMCB_EVENT_TYPE) {
    case VMCB_EVENT_INTERRUPT:
    case VMCB_EVENT_NMI:
    case VMCB_EVENT_SOFT:
        return false;
    case VMCB_EVENT_EXCEPTION:
        return vector == VECTOR_NMI || vector > 31;
    default:
        return true;
    }
}

static bool long_paged(const struct vmcb_save *save)
{
    return (save->efer & EFER_LME) && (save->cr0 & CR0_PG);
}

TEST(efer_svme, save->efer, !(save->efer & EFER_SVME))
TEST(cr0_caches, save->cr0, !(save->cr0 & CR0_CD) && (save->cr0 & CR0_NW))
TEST(cr0_high, save->cr0, (save->cr0 & HIGH) != 0)
TEST(cr3_mbz, save->cr3, (save->cr3 & beyond_physical(sv) & ~(1ull << 63)) != 0)
TEST(cr4_mbz, save->cr4, (save->cr4 & ~cr4_known()) != 0)
TEST(dr6_high, save->dr6, (save->dr6 & HIGH) != 0)
TEST(dr7_high, save->dr7, (save->dr7 & HIGH) != 0)
TEST(efer_mbz, save->efer, (save->efer & EFER_MBZ) != 0)
TEST(long_pae, save->cr4, long_paged(save) && !(save->cr4 & CR4_PAE))
TEST(long_pe, save->cr0, long_paged(save) && !(save->cr0 & CR0_PE))
TEST(long_cs, save->cs.attributes,
     long_paged(save) && (save->cr4 & CR4_PAE) && (save->cs.attributes & VMCB_ATTRIBUTE_L) &&
         (save->cs.attributes & VMCB_ATTRIBUTE_DB))
TEST(cet_wp, save->cr0, (save->cr4 & CR4_CET) && !(save->cr0 & CR0_WP))
TEST(vmrun_intercept, control->misc2, !(control->misc2 & VMCB_VMRUN))
TEST(iopm_address, control->iopm,
     ((control->iopm + SVM_IOPM_PAGES * VIRTX_PAGE_SIZE - 1) & beyond_physical(sv)) != 0)
TEST(msrpm_address, control->msrpm,
     ((control->msrpm + SVM_MSRPM_PAGES * VIRTX_PAGE_SIZE - 1) & beyond_physical(sv)) != 0)
TEST(event_illegal, control->event_inj, event_broken((uint32_t)control->event_inj))
TEST(asid_zero, control->asid, control->asid == 0)
TEST(nested_cr3, control->nested_cr3,
     (control->nested_control & VMCB_NP_ENABLE) && (control->nested_cr3 & beyond_physical(sv)) != 0)
TEST(guest_pat, save->g_pat, (control->nested_control & VMCB_NP_ENABLE) && pat_broken(save->g_pat))

#define STATE    VIRTX_E_GUEST_STATE
#define CONTROLS VIRTX_E_CONTROLS

static const struct rule_row rules[] = {
    {"guest EFER", "EFER.SVME is zero", MANUAL, STATE, efer_svme},
    {"guest CR0", "CR0.CD is zero and CR0.NW is set", MANUAL, STATE, cr0_caches},
    {"guest CR0", "CR0[63:32] are not zero", MANUAL, STATE, cr0_high},
    {"guest CR3", "a reserved bit of CR3 is set", MANUAL, STATE, cr3_mbz},
    {"guest CR4", "a reserved bit of CR4 is set", MANUAL, STATE, cr4_mbz},
    {"guest DR6", "DR6[63:32] are not zero", MANUAL, STATE, dr6_high},
    {"guest DR7", "DR7[63:32] are not zero", MANUAL, STATE, dr7_high},
    {"guest EFER", "a reserved bit of EFER is set", MANUAL, STATE, efer_mbz},
    {"guest CR4", "EFER.LME and CR0.PG are set and CR4.PAE is zero", MANUAL, STATE, long_pae},
    {"guest CR0", "EFER.LME and CR0.PG are set and CR0.PE is zero", MANUAL, STATE, long_pe},
    {"guest CS", "EFER.LME, CR0.PG, CR4.PAE, CS.L and CS.D are all set", MANUAL, STATE, long_cs},
    {"guest CR0", "CR4.CET is set and CR0.WP is zero", MANUAL, STATE, cet_wp},
    {"VMRUN intercept", "the VMRUN intercept is clear", MANUAL, CONTROLS, vmrun_intercept},
    {"IOPM", "the I/O permissions map reaches beyond physical memory", MANUAL, CONTROLS,
     iopm_address},
    {"MSRPM", "the MSR permissions map reaches beyond physical memory", MANUAL, CONTROLS,
     msrpm_address},
    {"EVENTINJ", "the event to inject is illegal", "Event Injection", CONTROLS, event_illegal},
    {"ASID", "the ASID is zero", MANUAL, CONTROLS, asid_zero},
    {"nested CR3", "a reserved bit of nCR3 is set", "Enabling Nested Paging", CONTROLS, nested_cr3},
    {"guest PAT", "an entry of G_PAT is no memory type", "Enabling Nested Paging", STATE,
     guest_pat},
};

/* What VMRUN would judge: changes of state that are still to be written count. */
enum virtx_status svm_check(struct hw_vcpu *hv, struct virtx_error *error)
{
    struct svm_vcpu *sv = svm_of(hv);

    if (hv->dirty)
        svm_write(sv);
    for (size_t i = 0; i < ARRAY_SIZE(rules); i++) {
        uint64_t value;

        if (rules[i].broken(sv, &value))
            return virtx_fail_manual(error, rules[i].status, rules[i].what, rules[i].rule,
                                     rules[i].manual, value);
    }
    return VIRTX_OK;
}
