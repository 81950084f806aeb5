/* SPDX-License-Identifier: BSD-2-Clause */
/* The VMCB: its layout, and register groups on their way into it and out of it. */
#include "svm_world.h"

/* AMD APM volume 2, "Layout of VMCB": offsets as the tables of appendix B print them. */
START_TEST(layout)
{
    static struct vmcb vmcb;
    uint8_t *bytes = (uint8_t *)&vmcb;

    vmcb.control.cr_write = 0x1122;
    ck_assert_uint_eq(bytes[0x002], 0x22);
    vmcb.control.pause_count = 0x3344;
    ck_assert_uint_eq(bytes[0x03e], 0x44);
    vmcb.control.tlb_control = 0x55;
    ck_assert_uint_eq(bytes[0x05c], 0x55);
    vmcb.control.v_irq = 1;
    ck_assert_uint_eq(bytes[0x061], 1); /* V_IRQ is bit 8 of 060h */
    vmcb.control.v_intr_prio = 0xf | VMCB_V_IGN_TPR;
    ck_assert_uint_eq(bytes[0x062], 0x1f); /* V_INTR_PRIO 19:16, V_IGN_TPR 20 */
    vmcb.control.v_intr_masking = VMCB_V_INTR_MASKING;
    ck_assert_uint_eq(bytes[0x063], 1); /* bit 24 */
    vmcb.control.v_intr_vector = 0x66;
    ck_assert_uint_eq(bytes[0x064], 0x66); /* 39:32 */
    vmcb.save.cpl = 3;
    ck_assert_uint_eq(bytes[0x4cb], 3);
    vmcb.save.cr3 = 0x77;
    ck_assert_uint_eq(bytes[0x550], 0x77);
    vmcb.save.rax = 0x88;
    ck_assert_uint_eq(bytes[0x5f8], 0x88);
    vmcb.save.cs.base = 0x99;
    ck_assert_uint_eq(bytes[0x418], 0x99);
}
END_TEST

/* Descriptor bits 47:40 and 55:52, and what has no place in them. */
START_TEST(attributes)
{
    ck_assert_uint_eq(svm_attributes_to_vmcb(0xa09b), 0xa9b);
    ck_assert_uint_eq(svm_attributes_to_vmcb(0xc093), 0xc93);
    ck_assert_uint_eq(svm_attributes_to_vmcb(0x008b), 0x08b);
    ck_assert_uint_eq(svm_attributes_to_vmcb(0x1c093), 0xc13); /* unusable: not present */
    ck_assert_uint_eq(svm_attributes_from_vmcb(0xa9b), 0xa09b);
    ck_assert_uint_eq(svm_attributes_from_vmcb(0x0), 0x10000);
    for (uint32_t bits = 0; bits < 0x1000; bits++) {
        uint32_t neutral = svm_attributes_from_vmcb((uint16_t)bits);

        ck_assert_uint_eq(svm_attributes_to_vmcb(neutral), bits);
        ck_assert_uint_eq((neutral & VIRTX_SEG_UNUSABLE) == 0, (bits >> 7) & 1);
    }
}
END_TEST

static void fill(struct virtx_state *state)
{
    for (unsigned i = 0; i < VIRTX_SEG_COUNT; i++) {
        state->seg[i].base = 0x1000u * (i + 1);
        state->seg[i].limit = 0x100u + i;
        state->seg[i].selector = (uint16_t)(8 * i);
        state->seg[i].attributes = 0xc0f3;
    }
    state->seg[VIRTX_CS].attributes = 0xa0fb;
    state->seg[VIRTX_LDTR].attributes = 0x0082;
    state->seg[VIRTX_TR].attributes = 0x008b;
    state->gpr[VIRTX_RSP] = 0x1111;
    state->rflags = 0x3202;
    state->gdtr.base = 0x2222;
    state->gdtr.limit = 0x33;
    state->idtr.base = 0x4444;
    state->idtr.limit = 0x55;
    state->cr2 = 0x6666;
    state->cr3 = 0x7000;
    state->cr8 = 9;
    state->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR;
    state->efer |= EFER_SCE | EFER_NXE;
    state->dr6 = 0xffff0ff1;
    state->dr7 = 0x455;
    state->star = 1;
    state->lstar = 2;
    state->cstar = 3;
    state->fmask = 4;
    state->kernel_gs_base = 5;
    state->sysenter_cs = 6;
    state->sysenter_esp = 7;
    state->sysenter_eip = 8;
    state->interruptibility = VIRTX_BLOCKED_BY_STI;
}

/* What is set is what an exit finds, if the guest changes nothing. */
START_TEST(round_trip)
{
    struct hw_vcpu *hv;
    struct virtx_state before;

    world_make(0, _i);
    hv = &world.sv->hw;
    fill(&hv->state);
    hv->dirty = VIRTX_STATE_ALL;
    before = hv->state;
    ck_assert_int_eq(world_exit(VMEXIT_INTR, 0, 0), VIRTX_OK);
    if (_i) { /* without nested paging the control registers are kept by software */
        hv->state.cr0 = hv->state.cr3 = hv->state.efer = 0;
        hv->state.cr4 &= SVM_CR4_HOST;
    }
    memset(hv->state.seg, 0, sizeof(hv->state.seg));
    hv->state.star = hv->state.rflags = hv->state.dr7 = hv->state.gpr[VIRTX_RSP] = 0;
    hv->state.interruptibility = 0;
    memset(&hv->state.gdtr, 0, sizeof(hv->state.gdtr));
    svm_read(hv, VIRTX_STATE_ALL & ~hv->valid & ~(uint32_t)VIRTX_STATE_TSC);
    ck_assert_mem_eq(&hv->state, &before, sizeof(before));
    world_free();
}
END_TEST

/* The real registers: SVME, the host's MCE, no caching bits; the guest's view has none of it. */
START_TEST(host_bits)
{
    struct hw_vcpu *hv;
    struct vmcb *vmcb;

    world_make(0, true);
    hv = &world.sv->hw;
    vmcb = &world.sv->vmcb;
    hv->state.cr0 |= CR0_CD | CR0_NW;
    hv->dirty = VIRTX_STATE_CR;
    world_exit(VMEXIT_INTR, 0, 0);
    ck_assert(vmcb->save.efer & EFER_SVME);
    ck_assert(vmcb->save.cr4 & CR4_MCE);
    ck_assert(!(vmcb->save.cr0 & (CR0_CD | CR0_NW)));
    ck_assert_msg(vmcb->control.cr_read & 1 << 4, "CR4 reads would show the host's MCE");
    ck_assert_msg(vmcb->control.cr_read & 1 << 0, "CR0 reads would not show CD");
    ck_assert(!(hw_state(hv, VIRTX_STATE_CR)->efer & EFER_SVME));
    ck_assert(!(hv->state.cr4 & CR4_MCE));
    ck_assert(hv->state.cr0 & CR0_CD);
    hv->state.cr0 &= ~(CR0_CD | CR0_NW);
    hv->state.cr4 |= CR4_MCE;
    hv->dirty = VIRTX_STATE_CR;
    world_exit(VMEXIT_INTR, 0, 0);
    ck_assert_uint_eq(vmcb->control.cr_read, 0);
    ck_assert_uint_eq(vmcb->control.cr_write, 1 << 4);
    world_free();
}
END_TEST

/* Paged real mode: an unpaged guest without nested paging runs on PAE tables. */
START_TEST(paged_real_mode)
{
    struct hw_vcpu *hv;
    const struct vmcb_save *save;

    world_make(0, false);
    hv = &world.sv->hw;
    save = &world.sv->vmcb.save;
    hv->root = 0x9000;
    hv->state.cr0 = CR0_ET;
    hv->state.efer = EFER_LME;
    hv->state.cr4 = 0;
    hv->dirty = VIRTX_STATE_CR;
    world_exit(VMEXIT_INTR, 0, 0);
    ck_assert_uint_eq(save->cr0, CR0_ET | CR0_PG | CR0_WP);
    ck_assert_uint_eq(save->cr3, 0x9000);
    ck_assert_uint_eq(save->efer, EFER_SVME | EFER_NXE);
    ck_assert_uint_eq(save->cr4, CR4_PAE | CR4_MCE);
    ck_assert_uint_eq(world.sv->vmcb.control.cr_write & 0x19, 0x19);
    ck_assert_uint_eq(hw_state(hv, VIRTX_STATE_CR)->cr0, CR0_ET);
    world_free();
}
END_TEST

/* A host that needs none of FS, GS, TR … between exits pays for no VMLOAD and VMSAVE. */
START_TEST(lazy_extra)
{
    struct hw_vcpu *hv;

    world_make(0, true);
    hv = &world.sv->hw;
    world_exit(VMEXIT_INTR, 0, 0);
    world.vmloads = world.vmsaves = 0;
    for (unsigned i = 0; i < 10; i++)
        world_exit(VMEXIT_INTR, 0, 0);
    ck_assert_uint_eq(world.vmloads + world.vmsaves, 0);
    world.loaded.gs.base = 0x123000; /* the guest has loaded GS */
    ck_assert_uint_eq(hw_state(hv, VIRTX_STATE_SEG)->seg[VIRTX_GS].base, 0x123000);
    ck_assert_uint_eq(world.vmsaves, 1);
    hw_state(hv, VIRTX_STATE_SYSCALL);
    ck_assert_uint_eq(world.vmsaves, 1);
    hw_change(hv, VIRTX_STATE_SEG)->seg[VIRTX_FS].base = 0x456000;
    world_exit(VMEXIT_INTR, 0, 0);
    ck_assert_uint_eq(world.vmloads, 1);
    ck_assert_uint_eq(world.loaded.fs.base, 0x456000);
    ck_assert_uint_eq(world.loaded.gs.base, 0x123000);
    svm_put(hv);
    ck_assert_uint_eq(world.last_vmload, world.cpu.host_hpa);
    ck_assert_uint_eq(hv->valid, VIRTX_STATE_ALL);
    world_free();
}
END_TEST

/* A kernel's GS is the host's again at every exit, and one that it changes between runs is too. */
START_TEST(kernel_profile)
{
    struct hw_vcpu *hv;

    world_make(0, true);
    hv = &world.sv->hw;
    world.sv->switch_extra = true;
    world.loaded.gs.base = 0xaaa000; /* the host's, before the first entry */
    svm_to_host(hv, 0);
    hv->state.seg[VIRTX_GS].base = 0xbbb000;
    world_exit(VMEXIT_INTR, 0, 0);
    ck_assert_uint_eq(world.loaded.gs.base, 0xaaa000);
    ck_assert_uint_eq(hw_state(hv, VIRTX_STATE_SEG)->seg[VIRTX_GS].base, 0xbbb000);
    world.vmloads = world.vmsaves = 0;
    world_exit(VMEXIT_INTR, 0, 0);
    ck_assert_uint_eq(world.vmloads, 2);
    ck_assert_uint_eq(world.vmsaves, 1);
    world_free();
}
END_TEST

/* Clean bits say what has not changed, where the processor has them. */
START_TEST(clean_bits)
{
    struct hw_vcpu *hv;
    struct vmcb_control *control;

    world_make(VIRTX_FEATURE_CLEAN_BITS, true);
    hv = &world.sv->hw;
    control = &world.sv->vmcb.control;
    ck_assert_uint_eq(control->clean, 0);
    world_exit(VMEXIT_INTR, 0, 0);
    ck_assert_uint_eq(control->clean, VMCB_CLEAN_ALL);
    svm_set_root(hv, 0x8000);
    ck_assert_uint_eq(control->clean, VMCB_CLEAN_ALL & ~VMCB_CLEAN_NP);
    hv->tsc_offset = 5;
    svm_tsc_offset(hv);
    ck_assert_uint_eq(control->clean, VMCB_CLEAN_ALL & ~(VMCB_CLEAN_NP | VMCB_CLEAN_INTERCEPTS));
    world_exit(VMEXIT_INTR, 0, 0);
    hw_change(hv, VIRTX_STATE_TABLES);
    hw_change(hv, VIRTX_STATE_DR);
    svm_write(world.sv);
    ck_assert_uint_eq(control->clean, VMCB_CLEAN_ALL & ~(VMCB_CLEAN_DT | VMCB_CLEAN_DR));
    world_free();
}
END_TEST

static uint8_t seen_tlb_control;
static void note_tlb_control(struct svm_world *w)
{
    seen_tlb_control = w->sv->vmcb.control.tlb_control;
    w->sv->vmcb.control.exit_code = VMEXIT_INTR;
}

/* A debt is paid by one entry, no more. */
START_TEST(flushes)
{
    struct hw_vcpu *hv;

    world_make(_i ? VIRTX_FEATURE_FLUSH_BY_TAG | VIRTX_FEATURE_TLB_TAGS : VIRTX_FEATURE_TLB_TAGS,
               true);
    hv = &world.sv->hw;
    world_exit(VMEXIT_INTR, 0, 0);
    svm_flush(hv, HW_FLUSH_TAG);
    world.processor = note_tlb_control;
    ck_assert_int_eq(world_enter(), VIRTX_OK);
    ck_assert_uint_eq(seen_tlb_control, _i ? VMCB_FLUSH_ASID : VMCB_FLUSH_ALL);
    ck_assert_int_eq(world_enter(), VIRTX_OK);
    ck_assert_uint_eq(seen_tlb_control, VMCB_FLUSH_NOTHING);
    hv->tag = 7;
    svm_flush(hv, 0);
    ck_assert_int_eq(world_enter(), VIRTX_OK);
    ck_assert_uint_eq(seen_tlb_control, VMCB_FLUSH_NOTHING);
    ck_assert_uint_eq(world.sv->vmcb.control.asid, 7);
    world_free();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("svm state");
    TCase *tests = tcase_create("all");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_test(tests, layout);
    tcase_add_test(tests, attributes);
    tcase_add_loop_test(tests, round_trip, 0, 2);
    tcase_add_test(tests, host_bits);
    tcase_add_test(tests, paged_real_mode);
    tcase_add_test(tests, lazy_extra);
    tcase_add_test(tests, kernel_profile);
    tcase_add_test(tests, clean_bits);
    tcase_add_loop_test(tests, flushes, 0, 2);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
