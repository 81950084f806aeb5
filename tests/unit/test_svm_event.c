/* SPDX-License-Identifier: BSD-2-Clause */
/* Events into the guest: the injection field, interrupted deliveries, windows, the end of an NMI
 * handler. */
#include "svm_world.h"

static struct hw_vcpu *hv;
static struct vmcb *vmcb;

static void setup(void)
{
    world_make(VIRTX_FEATURE_NEXT_RIP, true);
    hv = &world.sv->hw;
    vmcb = &world.sv->vmcb;
    ck_assert_int_eq(world_exit(VMEXIT_INTR, 0, 0), VIRTX_OK);
}

static void inject(struct virtx_event event)
{
    hv->injected = true;
    svm_inject(hv, &event);
}

/* AMD APM volume 2, "Event Injection": vector 7:0, type 10:8, error code valid 11, valid 31. */
static const struct {
    struct virtx_event event;
    uint64_t field;
    unsigned moved;
} injections[] = {
    {{.type = VIRTX_EVENT_INTERRUPT, .vector = 0x31}, 0x80000031, 0},
    {{.type = VIRTX_EVENT_NMI, .vector = 2}, 0x80000202, 0},
    {{.type = VIRTX_EVENT_EXCEPTION, .vector = 6}, 0x80000306, 0},
    {{.type = VIRTX_EVENT_EXCEPTION, .vector = 14, .has_error = true, .error = 7}, 0x780000b0e, 0},
    {{.type = VIRTX_EVENT_SOFT_INTERRUPT, .vector = 0x80, .length = 2}, 0x80000480, 2},
    {{.type = VIRTX_EVENT_SOFT_EXCEPTION, .vector = 3, .length = 1}, 0x80000303, 1},
    {{.type = VIRTX_EVENT_PRIV_EXCEPTION, .vector = 1, .length = 1}, 0x80000301, 1},
};

static uint64_t seen_field, seen_rip, seen_next_rip, seen_rf;
static void deliver(struct svm_world *w)
{
    seen_field = w->sv->vmcb.control.event_inj;
    seen_rip = w->sv->vmcb.save.rip;
    seen_rf = w->sv->vmcb.save.rflags & RFLAGS_RF;
    seen_next_rip = w->sv->vmcb.control.next_rip;
    w->sv->vmcb.save.rip = 0x9000; /* the handler */
    w->sv->vmcb.control.exit_code = VMEXIT_INTR;
    w->sv->vmcb.control.exit_int_info = seen_field & ~(uint64_t)VMCB_EVENT_VALID; /* stale */
}

START_TEST(injection)
{
    inject(injections[_i].event);
    world.processor = deliver;
    ck_assert_int_eq(world_enter(), VIRTX_OK);
    ck_assert_uint_eq(seen_field, injections[_i].field);
    ck_assert_uint_eq(seen_rip, 0x1000 + injections[_i].moved);
    /* of the faults, src/hw sees to the others */
    ck_assert_uint_eq(seen_rf, injections[_i].event.vector == VECTOR_PF ? RFLAGS_RF : 0);
    if (injections[_i].moved)
        ck_assert_uint_eq(seen_next_rip, seen_rip);
    ck_assert(!hv->has_reinject);
    ck_assert_uint_eq(hv->state.rip, 0x9000);
    hv->injected = false;
    ck_assert_int_eq(world_enter(), VIRTX_OK);
    ck_assert_uint_eq(seen_field, 0); /* once */
}
END_TEST

static void interrupt_delivery(struct svm_world *w)
{
    w->sv->vmcb.control.exit_int_info = w->sv->vmcb.control.event_inj;
    w->sv->vmcb.control.exit_code = VMEXIT_NPF;
}

/* An exit during the delivery hands the event back as it came, RIP at its instruction. */
START_TEST(interrupted)
{
    const struct virtx_event *event = &injections[_i].event;

    inject(*event);
    world.processor = interrupt_delivery;
    ck_assert_int_eq(world_enter(), VIRTX_OK);
    ck_assert(hv->has_reinject);
    ck_assert_mem_eq(&hv->reinject, event, sizeof(*event));
    ck_assert_uint_eq(hv->state.rip, 0x1000);
    ck_assert_uint_eq(world.vcpu.exit.rip, 0x1000);
    ck_assert(svm_can_nmi(hv)); /* an NMI that was not taken blocks none */
}
END_TEST

/* Deliveries that the guest itself began. */
START_TEST(guests_own)
{
    vmcb->control.exit_int_info = 0x80000b0eull | 6ull << 32;
    vmcb->save.cr2 = 0x1234;
    world_exit(VMEXIT_NPF, 0, 0);
    ck_assert(hv->has_reinject);
    ck_assert_uint_eq(hv->reinject.type, VIRTX_EVENT_EXCEPTION);
    ck_assert_uint_eq(hv->reinject.vector, 14);
    ck_assert(hv->reinject.has_error);
    ck_assert_uint_eq(hv->reinject.error, 6);
    ck_assert_uint_eq(hv->reinject.address, 0x1234);
    /* An interrupt that the entry did not inject: the guest's own, if it may have any now. */
    hv->has_reinject = false;
    vmcb->control.exit_int_info = 0x80000020;
    vmcb->save.rflags = 0x202;
    world_exit(VMEXIT_NPF, 0, 0);
    ck_assert(!hv->has_reinject);
    vmcb->control.exit_int_info = 0x80000350;
    world_exit(VMEXIT_NPF, 0, 0);
    ck_assert(!hv->has_reinject);
    hv->vcpu->vm->config.interrupts_to_guest = true;
    vmcb->save.rflags = 2;
    vmcb->control.exit_int_info = 0x80000020;
    world_exit(VMEXIT_NPF, 0, 0);
    ck_assert(!hv->has_reinject);
    vmcb->save.rflags = 0x202;
    world_exit(VMEXIT_NPF, 0, 0);
    ck_assert(hv->has_reinject);
    ck_assert_uint_eq(hv->reinject.type, VIRTX_EVENT_INTERRUPT);
    ck_assert_uint_eq(hv->reinject.vector, 0x20);
    /* INT n, INT3 and INTO execute again by themselves. */
    hv->has_reinject = false;
    vmcb->control.exit_int_info = 0x80000350; /* an exception's type, an interrupt's vector */
    svm_event_interrupted(world.sv);
    ck_assert_int_eq(hv->reinject.type, VIRTX_EVENT_INTERRUPT);
    ck_assert_int_eq(hv->reinject.vector, 0x50);
    hv->has_reinject = false;
    vmcb->control.exit_int_info = 0x80000480;
    world_exit(VMEXIT_NPF, 0, 0);
    vmcb->control.exit_int_info = 0x80000303;
    world_exit(VMEXIT_NPF, 0, 0);
    vmcb->control.exit_int_info = 0x80000304;
    world_exit(VMEXIT_NPF, 0, 0);
    vmcb->control.exit_int_info = 0x80000000; /* what one engine says of them */
    world_exit(VMEXIT_NPF, 0, 0);
    ck_assert(!hv->has_reinject);
    ck_assert_uint_eq(hv->state.rip, 0x1000);
    /* Bit 31 clear: nothing was interrupted, whatever the rest says. */
    vmcb->control.exit_int_info = 0x00000b0e;
    world_exit(VMEXIT_NPF, 0, 0);
    ck_assert(!hv->has_reinject);
}
END_TEST

START_TEST(interrupt_window)
{
    svm_window(hv, true, false);
    ck_assert(vmcb->control.misc1 & VMCB_VINTR);
    ck_assert_uint_eq(vmcb->control.v_irq, 1);
    ck_assert_uint_eq(vmcb->control.v_intr_prio, 0x1f);
    ck_assert_uint_eq(vmcb->control.v_intr_masking, 1);
    svm_controls(hv); /* new controls leave the window alone */
    ck_assert(vmcb->control.misc1 & VMCB_VINTR);
    world_exit(VMEXIT_VINTR, 0, 0);
    ck_assert_uint_eq(world.vcpu.exit.reason, HW_EXIT_WINDOW);
    ck_assert(!(vmcb->control.misc1 & VMCB_VINTR));
    ck_assert_uint_eq(vmcb->control.v_irq, 0);
}
END_TEST

/* AMD APM volume 2, "Virtual Interrupts": what CR8 holds back has a priority. */
START_TEST(held_back_by_cr8)
{
    hv->controls.cr8_shadow = true;
    svm_of(hv)->watches_cr8 = false;
    svm_cr8_threshold(hv, 4);
    ck_assert(vmcb->control.misc1 & VMCB_VINTR);
    ck_assert_uint_eq(vmcb->control.v_irq, 1);
    ck_assert_uint_eq(vmcb->control.v_intr_prio, 4);
    svm_controls(hv);
    ck_assert_uint_eq(vmcb->control.v_intr_prio, 4);
    ck_assert_uint_eq(vmcb->control.cr_write & 1u << 8, 0);
    svm_window(hv, true, false); /* one that IF alone holds back goes first */
    ck_assert_uint_eq(vmcb->control.v_intr_prio, 0x1f);
    svm_window(hv, false, false);
    ck_assert_uint_eq(vmcb->control.v_intr_prio, 4);
    world_exit(VMEXIT_VINTR, 0, 0);
    ck_assert_uint_eq(world.vcpu.exit.reason, HW_EXIT_TPR);
    svm_cr8_threshold(hv, 0);
    ck_assert(!(vmcb->control.misc1 & VMCB_VINTR));
    ck_assert_uint_eq(vmcb->control.v_irq, 0);
    /* Nothing is left when CR8 is no longer anybody's. */
    svm_cr8_threshold(hv, 4);
    hv->controls.cr8_shadow = false;
    svm_controls(hv);
    ck_assert(!(vmcb->control.misc1 & VMCB_VINTR));
}
END_TEST

/* Without VIRTX_FEATURE_VIRTUAL_PRIORITY. */
START_TEST(held_back_and_watched)
{
    hv->controls.cr8_shadow = true;
    svm_of(hv)->watches_cr8 = true;
    svm_cr8_threshold(hv, 4);
    ck_assert(!(vmcb->control.misc1 & VMCB_VINTR));
    ck_assert_uint_eq(vmcb->control.cr_write & 1u << 8, 1u << 8);
    svm_controls(hv);
    ck_assert_uint_eq(vmcb->control.cr_write & 1u << 8, 1u << 8);
    svm_cr8_threshold(hv, 0);
    ck_assert_uint_eq(vmcb->control.cr_write & 1u << 8, 0);
    svm_window(hv, true, false); /* and while a virtual interrupt is on its way */
    ck_assert_uint_eq(vmcb->control.cr_write & 1u << 8, 1u << 8);
    svm_window(hv, false, false);
    ck_assert_uint_eq(vmcb->control.cr_write & 1u << 8, 0);
}
END_TEST

/* V_TPR has CR8 only: while the rest of the register is not 0, the write of CR8 that clears it
 * exits. */
START_TEST(tpr_below_cr8)
{
    hv->controls.cr8_shadow = true;
    svm_of(hv)->watches_cr8 = false;
    svm_set_tpr(hv, 0x52);
    ck_assert_uint_eq(vmcb->control.v_tpr, 5);
    ck_assert_uint_eq(svm_tpr(hv), 0x52);
    ck_assert_uint_eq(vmcb->control.cr_write & 1u << 8, 1u << 8);
    svm_set_tpr(hv, 0x50);
    ck_assert_uint_eq(vmcb->control.cr_write & 1u << 8, 0);
    vmcb->control.v_tpr = 7; /* the guest has written it */
    ck_assert_uint_eq(svm_tpr(hv), 0x70);
    svm_set_tpr(hv, 0x71);
    hv->controls.cr8_shadow = false;
    svm_controls(hv);
    ck_assert_uint_eq(vmcb->control.cr_write & 1u << 8, 0);
}
END_TEST

START_TEST(can_take)
{
    ck_assert(!svm_can_interrupt(hv));
    hw_change(hv, VIRTX_STATE_RFLAGS)->rflags |= RFLAGS_IF;
    ck_assert(svm_can_interrupt(hv));
    vmcb->control.interrupt_state = VMCB_SHADOW;
    world_exit(VMEXIT_INTR, 0, 0);
    ck_assert(!svm_can_interrupt(hv));
    ck_assert(!svm_can_nmi(hv));
    ck_assert_uint_eq(hw_state(hv, VIRTX_STATE_INTR)->interruptibility, VIRTX_BLOCKED_BY_STI);
    vmcb->control.interrupt_state = 0;
    world_exit(VMEXIT_INTR, 0, 0);
    ck_assert(svm_can_interrupt(hv) && svm_can_nmi(hv));
}
END_TEST

static void nmi_handler_runs(void)
{
    inject((struct virtx_event){.type = VIRTX_EVENT_NMI, .vector = 2});
    world.processor = deliver;
    ck_assert_int_eq(world_enter(), VIRTX_OK);
    vmcb->control.exit_int_info = 0;
    hv->injected = false;
    ck_assert(!svm_can_nmi(hv));
    ck_assert_uint_eq(hw_state(hv, VIRTX_STATE_INTR)->interruptibility, VIRTX_BLOCKED_BY_NMI);
    ck_assert(vmcb->control.misc1 & VMCB_IRET);
}

static uint64_t step_rip; /* where the step ends */
static uint64_t step_code;
static void step(struct svm_world *w)
{
    ck_assert_msg(w->sv->vmcb.save.rflags & RFLAGS_TF, "the IRET must be stepped");
    ck_assert(!(w->sv->vmcb.control.misc1 & VMCB_IRET));
    ck_assert_uint_eq(w->sv->vmcb.control.exceptions, ~(1u << VECTOR_NMI));
    if (step_rip) {
        w->sv->vmcb.save.rip = step_rip;
        w->sv->vmcb.save.rflags = RFLAGS_FIXED | RFLAGS_IF; /* popped */
        w->sv->vmcb.save.dr6 = 0xffff4ff0;
    }
    w->sv->vmcb.control.exit_code = step_code;
}

/* The second NMI comes behind the IRET of the first one's handler. */
START_TEST(nmi_window)
{
    nmi_handler_runs();
    svm_window(hv, false, true);
    svm_flush(hv, HW_FLUSH_TAG); /* the entry that meets the IRET has things to clean up itself */
    world_exit(VMEXIT_IRET, 0, 0);
    ck_assert_uint_eq(world.vcpu.exit.reason, HW_EXIT_HOST);
    ck_assert(!svm_can_nmi(hv));
    ck_assert_msg(!(hw_state(hv, VIRTX_STATE_RFLAGS)->rflags & RFLAGS_TF), "seen by the embedder");
    step_rip = 0x1234;
    step_code = VMEXIT_EXCEPTION + VECTOR_DB;
    world.processor = step;
    ck_assert_int_eq(world_enter(), VIRTX_OK);
    ck_assert_uint_eq(world.vcpu.exit.reason, HW_EXIT_NMI_WINDOW);
    ck_assert(hv->work & HW_WORK_EVENT);
    ck_assert(svm_can_nmi(hv));
    ck_assert_uint_eq(vmcb->save.dr6, 0xffff0ff0);
    ck_assert_uint_eq(vmcb->save.rflags, RFLAGS_FIXED | RFLAGS_IF);
    ck_assert(!(vmcb->control.misc1 & VMCB_IRET));
    ck_assert_uint_eq(vmcb->control.exceptions, 1 << 1 | 1 << 17 | 1 << 18);
}
END_TEST

/* The IRET meets a fault of its own: the guest gets that without the step's TF, NMIs stay blocked.
 */
START_TEST(iret_faults)
{
    nmi_handler_runs();
    world_exit(VMEXIT_IRET, 0, 0);
    step_rip = 0;
    step_code = _i ? VMEXIT_NPF : VMEXIT_EXCEPTION + VECTOR_GP;
    world.processor = step;
    ck_assert_int_eq(world_enter(), VIRTX_OK);
    ck_assert_uint_eq(world.vcpu.exit.reason, _i ? HW_EXIT_PAGE_FAULT : VIRTX_EXIT_EXCEPTION);
    ck_assert(!(vmcb->save.rflags & RFLAGS_TF));
    ck_assert(!svm_can_nmi(hv));
    ck_assert(vmcb->control.misc1 & VMCB_IRET);
}
END_TEST

/* An event that goes before the IRET must not push the step's TF. */
START_TEST(step_overtaken)
{
    nmi_handler_runs();
    world_exit(VMEXIT_IRET, 0, 0);
    inject((struct virtx_event){.type = VIRTX_EVENT_INTERRUPT, .vector = 0x30});
    world.processor = deliver;
    ck_assert_int_eq(world_enter(), VIRTX_OK);
    ck_assert(!(vmcb->save.rflags & RFLAGS_TF));
    ck_assert(vmcb->control.misc1 & VMCB_IRET);
    ck_assert(!svm_can_nmi(hv));
}
END_TEST

/* A guest that single-steps itself through the IRET gets its own trap. */
START_TEST(guests_own_step)
{
    nmi_handler_runs();
    vmcb->save.rflags |= RFLAGS_TF;
    hv->valid &= ~(uint32_t)VIRTX_STATE_RFLAGS;
    world_exit(VMEXIT_IRET, 0, 0);
    step_rip = 0x1234;
    step_code = VMEXIT_EXCEPTION + VECTOR_DB;
    world.processor = step;
    ck_assert_int_eq(world_enter(), VIRTX_OK);
    ck_assert_uint_eq(world.vcpu.exit.reason, VIRTX_EXIT_EXCEPTION);
    ck_assert_uint_eq(world.vcpu.exit.exception.address, 0x4000);
    ck_assert(svm_can_nmi(hv));
}
END_TEST

/* Behind another event an NMI has no window to wait for: the next exit is made to come at once. */
START_TEST(nmi_behind_exception)
{
    inject((struct virtx_event){.type = VIRTX_EVENT_EXCEPTION, .vector = 6});
    svm_window(hv, false, true);
    ck_assert_uint_eq(world.kicks, 1);
    world.processor = deliver;
    hv->work = 0;
    ck_assert_int_eq(world_enter(), VIRTX_OK);
    ck_assert(hv->work & HW_WORK_EVENT);
    ck_assert(!(vmcb->save.rflags & RFLAGS_TF));
}
END_TEST

/* In an interrupt shadow it has to wait for one instruction. */
START_TEST(nmi_in_shadow)
{
    vmcb->control.interrupt_state = VMCB_SHADOW;
    world_exit(VMEXIT_INTR, 0, 0);
    svm_window(hv, false, true);
    step_rip = 0x1001;
    step_code = VMEXIT_EXCEPTION + VECTOR_DB;
    world.processor = step;
    ck_assert_int_eq(world_enter(), VIRTX_OK);
    ck_assert_uint_eq(world.vcpu.exit.reason, HW_EXIT_NMI_WINDOW);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("svm event");
    TCase *tests = tcase_create("all");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_checked_fixture(tests, setup, world_free);
    tcase_add_loop_test(tests, injection, 0, (int)ARRAY_SIZE(injections));
    tcase_add_loop_test(tests, interrupted, 0, (int)ARRAY_SIZE(injections));
    tcase_add_test(tests, held_back_by_cr8);
    tcase_add_test(tests, tpr_below_cr8);
    tcase_add_test(tests, held_back_and_watched);
    tcase_add_test(tests, guests_own);
    tcase_add_test(tests, interrupt_window);
    tcase_add_test(tests, can_take);
    tcase_add_test(tests, nmi_window);
    tcase_add_loop_test(tests, iret_faults, 0, 2);
    tcase_add_test(tests, step_overtaken);
    tcase_add_test(tests, guests_own_step);
    tcase_add_test(tests, nmi_behind_exception);
    tcase_add_test(tests, nmi_in_shadow);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
