/* SPDX-License-Identifier: BSD-2-Clause */
/* The entry checks: each rule broken alone is named, and a refused entry leaves the guest as it was. */
#include "svm_world.h"

struct breakage {
    const char *what, *rule;
    enum virtx_status status;
    void (*apply)(struct virtx_state *state, struct vmcb *vmcb);
};

/* Each function breaks one rule; the VMCB is changed where no state of the guest leads there. */
#define BREAK(name, code)                                                                          \
    static void name(struct virtx_state *state, struct vmcb *vmcb)                                 \
    {                                                                                              \
        (void)state;                                                                               \
        (void)vmcb;                                                                                \
        code;                                                                                      \
    }
BREAK(svme, vmcb->save.efer &= ~EFER_SVME)
BREAK(caches, vmcb->save.cr0 |= CR0_NW)
BREAK(cr0_high, state->cr0 |= 1ull << 32)
BREAK(cr3_mbz, state->cr3 |= 1ull << 52)
BREAK(cr4_mbz, state->cr4 |= CR4_VMXE)
BREAK(cr4_no_smep, state->cr4 |= CR4_SMEP)
BREAK(dr6_high, state->dr6 |= 1ull << 40)
BREAK(dr7_high, state->dr7 |= 1ull << 63)
BREAK(efer_mbz, state->efer |= 1ull << 9)
BREAK(long_pae, state->cr4 &= ~CR4_PAE)
BREAK(long_pe, state->cr0 &= ~CR0_PE)
BREAK(long_cs, state->seg[VIRTX_CS].attributes |= VIRTX_SEG_DB)
BREAK(cet_wp, (state->cr4 |= CR4_CET, state->cr0 &= ~CR0_WP))
BREAK(s_cet, (state->cr4 |= CR4_CET, state->cr0 |= CR0_WP, vmcb->save.s_cet = 1 << 6))
BREAK(iopm_wraps, vmcb->control.iopm = ~0xfffull)
BREAK(vmrun, vmcb->control.misc2 &= ~(uint32_t)VMCB_VMRUN)
BREAK(iopm, vmcb->control.iopm = 1ull << 48)
BREAK(iopm_end, vmcb->control.iopm = (1ull << 48) - 8192)
BREAK(msrpm, vmcb->control.msrpm = (1ull << 48) - 4096)
BREAK(event_type, vmcb->control.event_inj = 0x80000100)
BREAK(event_nmi, vmcb->control.event_inj = 0x80000302)
BREAK(event_vector, vmcb->control.event_inj = 0x80000320)
BREAK(asid, vmcb->control.asid = 0)
BREAK(ncr3, vmcb->control.nested_cr3 = 1ull << 50)
BREAK(pat, state->pat = 0x0007040600070402)

static const struct breakage breakages[] = {
    {"guest EFER", "EFER.SVME is zero", VIRTX_E_GUEST_STATE, svme},
    {"guest CR0", "CR0.CD is zero and CR0.NW is set", VIRTX_E_GUEST_STATE, caches},
    {"guest CR0", "CR0[63:32] are not zero", VIRTX_E_GUEST_STATE, cr0_high},
    {"guest CR3", "a reserved bit of CR3 is set", VIRTX_E_GUEST_STATE, cr3_mbz},
    {"guest CR4", "a reserved bit of CR4 is set", VIRTX_E_GUEST_STATE, cr4_mbz},
    {"guest CR4", "a reserved bit of CR4 is set", VIRTX_E_GUEST_STATE, cr4_no_smep},
    {"guest DR6", "DR6[63:32] are not zero", VIRTX_E_GUEST_STATE, dr6_high},
    {"guest DR7", "DR7[63:32] are not zero", VIRTX_E_GUEST_STATE, dr7_high},
    {"guest EFER", "a reserved bit of EFER is set", VIRTX_E_GUEST_STATE, efer_mbz},
    {"guest CR4", "EFER.LME and CR0.PG are set and CR4.PAE is zero", VIRTX_E_GUEST_STATE, long_pae},
    {"guest CR0", "EFER.LME and CR0.PG are set and CR0.PE is zero", VIRTX_E_GUEST_STATE, long_pe},
    {"guest CS", "EFER.LME, CR0.PG, CR4.PAE, CS.L and CS.D are all set", VIRTX_E_GUEST_STATE,
     long_cs},
    {"guest CR0", "CR4.CET is set and CR0.WP is zero", VIRTX_E_GUEST_STATE, cet_wp},
    {"guest S_CET", "a reserved bit of S_CET is set", VIRTX_E_GUEST_STATE, s_cet},
    {"IOPM", "the I/O permissions map reaches beyond physical memory", VIRTX_E_CONTROLS,
     iopm_wraps},
    {"VMRUN intercept", "the VMRUN intercept is clear", VIRTX_E_CONTROLS, vmrun},
    {"IOPM", "the I/O permissions map reaches beyond physical memory", VIRTX_E_CONTROLS, iopm},
    {"IOPM", "the I/O permissions map reaches beyond physical memory", VIRTX_E_CONTROLS, iopm_end},
    {"MSRPM", "the MSR permissions map reaches beyond physical memory", VIRTX_E_CONTROLS, msrpm},
    {"EVENTINJ", "the event to inject is illegal", VIRTX_E_CONTROLS, event_type},
    {"EVENTINJ", "the event to inject is illegal", VIRTX_E_CONTROLS, event_nmi},
    {"EVENTINJ", "the event to inject is illegal", VIRTX_E_CONTROLS, event_vector},
    {"ASID", "the ASID is zero", VIRTX_E_CONTROLS, asid},
    {"nested CR3", "a reserved bit of nCR3 is set", VIRTX_E_CONTROLS, ncr3},
    {"guest PAT", "an entry of G_PAT is no memory type", VIRTX_E_GUEST_STATE, pat},
};

/* A processor with CET and SMAP, without SMEP. */
static struct cpuid_regs cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid_regs regs = {0};

    (void)subleaf;
    if (leaf == 0)
        regs.eax = 13;
    if (leaf == 7) {
        regs.ebx = 1u << 20;
        regs.ecx = 1u << 7;
    }
    return regs;
}

static void setup(void)
{
    world_cpuid = cpuid;
    world_make(0, true);
    svm_write(world.sv);
}

START_TEST(good_state)
{
    struct hw_vcpu *hv = &world.sv->hw;

    hv->state.cr4 |= CR4_SMAP | CR4_CET | CR4_DE;
    hv->state.seg[VIRTX_CS].attributes = 0xa0fb;
    hv->dirty = VIRTX_STATE_ALL;
    ck_assert_int_eq(svm_check(hv, &world.vcpu.error), VIRTX_OK);
    /* Real mode, with everything that only long mode forbids. */
    hv->state.cr0 = CR0_ET;
    hv->state.efer = 0;
    hv->state.cr4 = 0;
    hv->state.seg[VIRTX_CS].attributes = 0xf09b;
    hv->dirty = VIRTX_STATE_ALL;
    ck_assert_int_eq(svm_check(hv, &world.vcpu.error), VIRTX_OK);
    world.sv->vmcb.control.event_inj = 0x800003 | VMCB_EVENT_VALID;
    ck_assert_int_eq(svm_check(hv, &world.vcpu.error), VIRTX_OK);
}
END_TEST

START_TEST(each_rule)
{
    const struct breakage *breakage = &breakages[_i];
    struct hw_vcpu *hv = &world.sv->hw;
    struct virtx_error *error = &world.vcpu.error;

    ck_assert_int_eq(svm_check(hv, error), VIRTX_OK);
    breakage->apply(&hv->state, &world.sv->vmcb);
    if (breakage->status == VIRTX_E_GUEST_STATE &&
        breakage->apply != svme && breakage->apply != caches)
        hv->dirty = VIRTX_STATE_ALL;
    ck_assert_int_eq(svm_check(hv, error), breakage->status);
    ck_assert_str_eq(error->what, breakage->what);
    ck_assert_str_eq(error->rule, breakage->rule);
    ck_assert_int_gt((int)strlen(error->manual), 0);
}
END_TEST

static uint64_t refusal;
static void refuse(struct svm_world *w)
{
    struct vmcb *vmcb = &w->sv->vmcb;

    memset(&vmcb->save, 0xee, offsetof(struct vmcb_save, br_from)); /* the host's registers */
    vmcb->control.exit_code = refusal;
}

/* One engine leaves 32 bits of ones, the other 64; both overwrite the save area. */
START_TEST(refused)
{
    struct hw_vcpu *hv = &world.sv->hw;
    struct virtx_state before;

    refusal = _i ? UINT64_MAX : 0xffffffff;
    hv->state.gpr[VIRTX_RAX] = 0x1234;
    hv->state.cr4 |= CR4_SMEP;
    hv->dirty = VIRTX_STATE_CR;
    before = hv->state;
    world.processor = refuse;
    ck_assert_int_eq(world_enter(), VIRTX_E_GUEST_STATE);
    ck_assert_str_eq(world.vcpu.error.rule, "a reserved bit of CR4 is set");
    ck_assert_uint_eq(world.vcpu.error.value & CR4_SMEP, CR4_SMEP);
    hv->valid = SVM_STATE_KEPT;
    svm_read(hv, VIRTX_STATE_ALL & ~hv->valid & ~(uint32_t)VIRTX_STATE_TSC);
    ck_assert_mem_eq(&hv->state, &before, sizeof(before));
    hw_change(hv, VIRTX_STATE_CR)->cr4 &= ~CR4_SMEP;
    ck_assert_int_eq(world_exit(VMEXIT_INTR, 0, 0), VIRTX_OK);
    ck_assert_uint_eq(hv->state.rip, 0x1000);
}
END_TEST

START_TEST(refused_without_a_rule)
{
    refusal = UINT64_MAX;
    world.processor = refuse;
    ck_assert_int_eq(world_enter(), VIRTX_E_HARDWARE);
    ck_assert_uint_eq(world.vcpu.error.value, UINT64_MAX);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("svm check");
    TCase *tests = tcase_create("all");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_checked_fixture(tests, setup, world_free);
    tcase_add_test(tests, good_state);
    tcase_add_loop_test(tests, each_rule, 0, (int)ARRAY_SIZE(breakages));
    tcase_add_loop_test(tests, refused, 0, 2);
    tcase_add_test(tests, refused_without_a_rule);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
