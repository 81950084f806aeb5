/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The processor's own checks at VMRUN, as a table: AMD APM volume 2, "Canonicalization and
 * Consistency Checks". The processor says only that one of them failed.
 *
 * One of the manual's rules has no row: all processors that this library runs on have long mode,
 * so EFER.LMA and EFER.LME cannot offend against its absence.
 */
#include "svm/check.h"
#include "x86/cpu.h"

#define MANUAL "Canonicalization and Consistency Checks"
#define HIGH   0xffffffff00000000ull

/* A row's test: an expression over `save` and `control`, and the field to be reported. */
#define TEST(name, field, expression)                                                              \
    static bool name(const struct check *c, uint64_t *value)                                       \
    {                                                                                              \
        const struct vmcb_save *save = c->save;                                                    \
        const struct vmcb_control *control = c->control;                                           \
                                                                                                   \
        (void)save;                                                                                \
        (void)control;                                                                             \
        *value = (field);                                                                          \
        return (expression);                                                                       \
    }

/* A register's bit, and the CPUID bit that says whether this processor has it. */
struct feature_bit {
    uint64_t bit;
    uint32_t leaf;
    uint8_t reg, shift; /* reg: 0 EAX, 1 EBX, 2 ECX, 3 EDX */
};

static uint64_t known_bits(uint64_t always, const struct feature_bit *bits, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct cpuid_regs regs;
        uint32_t words[4];

        if (bits[i].leaf > x86_cpuid(bits[i].leaf & 0x80000000, 0).eax)
            continue;
        regs = x86_cpuid(bits[i].leaf, 0);
        words[0] = regs.eax;
        words[1] = regs.ebx;
        words[2] = regs.ecx;
        words[3] = regs.edx;
        if (words[bits[i].reg] >> bits[i].shift & 1)
            always |= bits[i].bit;
    }
    return always;
}

static uint64_t cr4_known(void)
{
    static const struct feature_bit bits[] = {
        {CR4_UMIP, 7, 2, 2},   {CR4_LA57, 7, 2, 16},    {CR4_FSGSBASE, 7, 1, 0},
        {CR4_PCIDE, 1, 2, 17}, {CR4_OSXSAVE, 1, 2, 26}, {CR4_SMEP, 7, 1, 7},
        {CR4_SMAP, 7, 1, 20},  {CR4_PKE, 7, 2, 3},      {CR4_CET, 7, 2, 7},
        {CR4_PKS, 7, 2, 31},
    };
    return known_bits(0x7ff, bits, ARRAY_SIZE(bits)); /* VME to OSXMMEXCPT */
}

/* LMSLE has a bit that says where it is gone, and none where it is older than that. */
static uint64_t efer_known(void)
{
    static const struct feature_bit bits[] = {
        {EFER_FFXSR, 0x80000001, 3, 25}, {EFER_TCE, 0x80000001, 2, 17},
        {1ull << 17, 0x80000008, 1, 8},  {1ull << 18, 0x80000008, 1, 13},
        {1ull << 20, 0x80000021, 0, 7},  {1ull << 21, 0x80000021, 0, 8},
    };
    return known_bits(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE | EFER_SVME | EFER_LMSLE, bits,
                      ARRAY_SIZE(bits));
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

/* The low 12 bits of a map's address are ignored. */
static bool map_beyond(const struct check *c, uint64_t address, uint64_t pages)
{
    uint64_t first = address & ~(VIRTX_PAGE_SIZE - 1ull);

    return ((first | (first + pages * VIRTX_PAGE_SIZE - 1)) & c->beyond) != 0;
}

TEST(efer_svme, save->efer, !(save->efer & EFER_SVME))
TEST(cr0_caches, save->cr0, !(save->cr0 & CR0_CD) && (save->cr0 & CR0_NW))
TEST(cr0_high, save->cr0, (save->cr0 & HIGH) != 0)
TEST(cr3_mbz, save->cr3, (save->cr3 & c->beyond) != 0)
TEST(cr4_mbz, save->cr4, (save->cr4 & ~c->cr4) != 0)
TEST(dr6_high, save->dr6, (save->dr6 & HIGH) != 0)
TEST(dr7_high, save->dr7, (save->dr7 & HIGH) != 0)
TEST(efer_mbz, save->efer, (save->efer & ~c->efer) != 0)
TEST(long_pae, save->cr4, long_paged(save) && !(save->cr4 & CR4_PAE))
TEST(long_pe, save->cr0, long_paged(save) && !(save->cr0 & CR0_PE))
TEST(long_cs, save->cs.attributes,
     long_paged(save) && (save->cr4 & CR4_PAE) && (save->cs.attributes & VMCB_ATTRIBUTE_L) &&
         (save->cs.attributes & VMCB_ATTRIBUTE_DB))
TEST(cet_wp, save->cr0, (save->cr4 & CR4_CET) && !(save->cr0 & CR0_WP))
TEST(s_cet, save->s_cet,
     (save->cr4 & CR4_CET) && ((save->s_cet & 0x3c0) != 0 || (save->s_cet & 0xc00) == 0xc00))
TEST(vmrun_intercept, control->misc2, !(control->misc2 & VMCB_VMRUN))
TEST(iopm_address, control->iopm, map_beyond(c, control->iopm, SVM_IOPM_PAGES))
TEST(msrpm_address, control->msrpm, map_beyond(c, control->msrpm, SVM_MSRPM_PAGES))
TEST(event_illegal, control->event_inj, event_broken((uint32_t)control->event_inj))
TEST(asid_zero, control->asid, control->asid == 0)
TEST(nested_cr3, control->nested_cr3,
     (control->nested_control & VMCB_NP_ENABLE) && (control->nested_cr3 & c->beyond) != 0)
TEST(guest_pat, save->g_pat, (control->nested_control & VMCB_NP_ENABLE) && pat_broken(save->g_pat))

#define STATE    VIRTX_E_GUEST_STATE
#define CONTROLS VIRTX_E_CONTROLS

const struct check_rule svm_rules[] = {
    {"guest EFER", MANUAL, "EFER.SVME is zero", STATE, efer_svme},
    {"guest CR0", MANUAL, "CR0.CD is zero and CR0.NW is set", STATE, cr0_caches},
    {"guest CR0", MANUAL, "CR0[63:32] are not zero", STATE, cr0_high},
    {"guest CR3", MANUAL, "a reserved bit of CR3 is set", STATE, cr3_mbz},
    {"guest CR4", MANUAL, "a reserved bit of CR4 is set", STATE, cr4_mbz},
    {"guest DR6", MANUAL, "DR6[63:32] are not zero", STATE, dr6_high},
    {"guest DR7", MANUAL, "DR7[63:32] are not zero", STATE, dr7_high},
    {"guest EFER", MANUAL, "a reserved bit of EFER is set", STATE, efer_mbz},
    {"guest CR4", MANUAL, "EFER.LME and CR0.PG are set and CR4.PAE is zero", STATE, long_pae},
    {"guest CR0", MANUAL, "EFER.LME and CR0.PG are set and CR0.PE is zero", STATE, long_pe},
    {"guest CS", MANUAL, "EFER.LME, CR0.PG, CR4.PAE, CS.L and CS.D are all set", STATE, long_cs},
    {"guest CR0", MANUAL, "CR4.CET is set and CR0.WP is zero", STATE, cet_wp},
    {"guest S_CET", MANUAL, "a reserved bit of S_CET is set", STATE, s_cet},
    {"VMRUN intercept", MANUAL, "the VMRUN intercept is clear", CONTROLS, vmrun_intercept},
    {"IOPM", MANUAL, "the I/O permissions map reaches beyond physical memory", CONTROLS,
     iopm_address},
    {"MSRPM", MANUAL, "the MSR permissions map reaches beyond physical memory", CONTROLS,
     msrpm_address},
    {"EVENTINJ", "Event Injection", "the event to inject is illegal", CONTROLS, event_illegal},
    {"ASID", MANUAL, "the ASID is zero", CONTROLS, asid_zero},
    {"nested CR3", "Enabling Nested Paging", "a reserved bit of nCR3 is set", CONTROLS, nested_cr3},
    {"guest PAT", "Enabling Nested Paging", "an entry of G_PAT is no memory type", STATE,
     guest_pat},
};
const unsigned svm_rules_count = ARRAY_SIZE(svm_rules);

void svm_check_look(const struct virtx *virtx, const struct vmcb *vmcb, struct check *c)
{
    c->control = &vmcb->control;
    c->save = &vmcb->save;
    c->beyond = UINT64_MAX << virtx->caps.physical_bits;
    c->cr4 = cr4_known();
    c->efer = efer_known();
}

/* What VMRUN would judge: changes of state that are still to be written count. */
enum virtx_status svm_check(struct hw_vcpu *hv, struct virtx_error *error)
{
    struct svm_vcpu *sv = svm_of(hv);
    struct check c;

    if (hv->dirty)
        svm_write(sv);
    svm_check_look(hv->vcpu->virtx, &sv->vmcb, &c);
    for (unsigned i = 0; i < svm_rules_count; i++) {
        const struct check_rule *rule = &svm_rules[i];
        uint64_t value;

        if (rule->broken(&c, &value))
            return virtx_fail_manual(error, rule->status, rule->what, rule->rule, rule->manual,
                                     value);
    }
    return VIRTX_OK;
}
