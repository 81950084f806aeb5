/* SPDX-License-Identifier: BSD-2-Clause */
/* What is saved and restored of a vcpu beside its groups: MSRs by number and events. */
#include "core/object.h"
#include "hw_world.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#define SYSCFG 0xc0010010

static void begin(void)
{
    world_begin(&virtx_profile_bare);
}

static void end(void)
{
    world_end();
}

static bool listed(uint32_t index)
{
    uint32_t list[64], count = virtx_vcpu_msr_list(world.vcpu, list, 64);

    ck_assert_uint_le(count, 64);
    ck_assert_uint_eq(virtx_vcpu_msr_list(world.vcpu, NULL, 0), count);
    for (uint32_t i = 0; i < count; i++)
        if (list[i] == index)
            return true;
    return false;
}

static void be_vendor(const char *name)
{
    struct virtx_cpuid_entry zero;

    ck_assert_int_eq(virtx_vm_cpuid_get(world.vm, 0, 0, &zero), VIRTX_OK);
    memcpy(&zero.ebx, name, 4);
    memcpy(&zero.edx, name + 4, 4);
    memcpy(&zero.ecx, name + 8, 4);
    ck_assert_int_eq(virtx_vcpu_destroy(world.vcpu), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_cpuid_set(world.vm, &zero), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_create(world.vm, 0, &world.vcpu), VIRTX_OK);
}

START_TEST(test_list_follows_cpuid)
{
    struct virtx_cpuid_entry one;
    uint32_t first;

    be_vendor("GenuineIntel");
    ck_assert(listed(MSR_MTRR_PHYSBASE0) && listed(MSR_MTRR_PHYSBASE0 + 15));
    ck_assert(!listed(MSR_MTRR_PHYSBASE0 + 16));
    ck_assert(listed(MSR_MTRR_FIX64K) && listed(MSR_MTRR_DEF_TYPE));
    ck_assert(!listed(SYSCFG) && !listed(MSR_LSTAR));
    ck_assert_uint_gt(virtx_vcpu_msr_list(world.vcpu, &first, 1), 1);
    ck_assert_uint_eq(first, MSR_MTRR_PHYSBASE0);
    ck_assert_int_eq(virtx_vm_cpuid_get(world.vm, 1, 0, &one), VIRTX_OK);
    one.edx &= ~(1u << 12);
    ck_assert_int_eq(virtx_vm_cpuid_set(world.vm, &one), VIRTX_OK);
    ck_assert_uint_eq(virtx_vcpu_msr_list(world.vcpu, NULL, 0), 0);
    be_vendor("AuthenticAMD");
    ck_assert(listed(SYSCFG));
}
END_TEST

START_TEST(test_every_msr_comes_back)
{
    uint32_t list[64], count;

    be_vendor("AuthenticAMD");
    count = virtx_vcpu_msr_list(world.vcpu, list, 64);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t value = list[i] < MSR_MTRR_FIX64K     ? (list[i] & 1 ? 0x1234800 : 0x1234006)
                         : list[i] < MSR_MTRR_DEF_TYPE ? 0x0606060606060600 + i % 2
                         : list[i] == SYSCFG           ? 0x40000
                         : list[i] >= SYSCFG           ? (list[i] & 0xf) == 5 ? 0x10 : 2
                                                       : 0xc06;
        uint64_t read = 1;

        ck_assert_int_eq(virtx_vcpu_msr_set(world.vcpu, list[i], value), VIRTX_OK);
        ck_assert_int_eq(virtx_vcpu_msr_get(world.vcpu, list[i], &read), VIRTX_OK);
        ck_assert_uint_eq(read, value);
    }
}
END_TEST

START_TEST(test_fields_by_number)
{
    static const uint32_t index[] = {MSR_SYSENTER_CS, MSR_SYSENTER_ESP,   MSR_SYSENTER_EIP,
                                     MSR_STAR,        MSR_LSTAR,          MSR_CSTAR,
                                     MSR_FMASK,       MSR_KERNEL_GS_BASE, MSR_FS_BASE,
                                     MSR_GS_BASE,     MSR_TSC_ADJUST,     MSR_DEBUGCTL};
    struct virtx_state state;
    uint64_t read;

    for (unsigned i = 0; i < sizeof(index) / sizeof(index[0]); i++)
        ck_assert_int_eq(virtx_vcpu_msr_set(world.vcpu, index[i], 0x1000 + i), VIRTX_OK);
    for (unsigned i = 0; i < sizeof(index) / sizeof(index[0]); i++) {
        ck_assert_int_eq(virtx_vcpu_msr_get(world.vcpu, index[i], &read), VIRTX_OK);
        ck_assert_uint_eq(read, 0x1000 + i);
    }
    world_get(VIRTX_STATE_ALL, &state);
    ck_assert_uint_eq(state.sysenter_cs, 0x1000);
    ck_assert_uint_eq(state.lstar, 0x1004);
    ck_assert_uint_eq(state.seg[VIRTX_FS].base, 0x1008);
    ck_assert_uint_eq(state.tsc_adjust, 0x100a);
}
END_TEST

START_TEST(test_msr_refusals)
{
    uint64_t value = 7;

    ck_assert_int_eq(virtx_vcpu_msr_get(world.vcpu, 0x12345, &value), VIRTX_E_NOT_FOUND);
    ck_assert_int_eq(virtx_vcpu_msr_set(world.vcpu, 0x12345, 0), VIRTX_E_NOT_FOUND);
    ck_assert_uint_eq(virtx_vcpu_last_error(world.vcpu)->value, 0x12345);
    ck_assert_int_eq(virtx_vcpu_msr_get(world.vcpu, MSR_MTRRCAP, &value), VIRTX_E_NOT_FOUND);
    ck_assert_int_eq(virtx_vcpu_msr_get(world.vcpu, MSR_LSTAR, NULL), VIRTX_E_INVALID);
    ck_assert_int_eq(virtx_vcpu_msr_set(world.vcpu, MSR_LSTAR, 1ull << 63), VIRTX_E_INVALID);
    ck_assert_int_eq(virtx_vcpu_msr_set(world.vcpu, MSR_MTRR_DEF_TYPE, 2), VIRTX_E_INVALID);
    ck_assert_int_eq(virtx_vcpu_msr_get(world.vcpu, MSR_MTRR_DEF_TYPE, &value), VIRTX_OK);
    ck_assert_uint_eq(value, 0);
}
END_TEST

static void exit_port(struct hw_vcpu *hv)
{
    world_in(hv, 0x10, 1, 2);
}

START_TEST(test_pending_access)
{
    struct virtx_events events;
    uint64_t value;

    world_play(exit_port);
    ck_assert(world_run()->pending);
    ck_assert_int_eq(virtx_vcpu_msr_get(world.vcpu, MSR_LSTAR, &value), VIRTX_E_PENDING);
    ck_assert_int_eq(virtx_vcpu_msr_set(world.vcpu, MSR_LSTAR, 0), VIRTX_E_PENDING);
    ck_assert_int_eq(virtx_vcpu_events_get(world.vcpu, &events), VIRTX_E_PENDING);
    ck_assert_int_eq(virtx_vcpu_events_set(world.vcpu, &events), VIRTX_E_PENDING);
}
END_TEST

static const struct virtx_event interrupt = {.type = VIRTX_EVENT_INTERRUPT, .vector = 0x55};
static const struct virtx_event page_fault = {.type = VIRTX_EVENT_EXCEPTION,
                                              .vector = VECTOR_PF,
                                              .has_error = true,
                                              .error = 2,
                                              .address = 0x1234};

/* An exit while an interrupt was being delivered. */
static void exit_interrupted(struct hw_vcpu *hv)
{
    exit_interrupt(hv);
    hv->reinject = interrupt;
    hv->has_reinject = true;
}

START_TEST(test_all_events)
{
    struct virtx_events saved, again;

    world.can_interrupt = world.can_nmi = false;
    world_play(exit_interrupted);
    world_run();
    ck_assert_int_eq(virtx_vcpu_inject(world.vcpu, &page_fault), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_inject(world.vcpu, &interrupt), VIRTX_OK);
    virtx_vcpu_nmi(world.vcpu);
    virtx_vcpu_signal_init(world.vcpu);
    virtx_vcpu_signal_sipi(world.vcpu, 0x9a);
    ck_assert_int_eq(virtx_vcpu_window(world.vcpu), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_events_get(world.vcpu, &saved), VIRTX_OK);
    ck_assert(saved.has_interrupted && saved.has_exception && saved.has_interrupt);
    ck_assert(saved.window && saved.init && saved.sipi);
    ck_assert_uint_eq(saved.sipi_vector, 0x9a);
    ck_assert_uint_eq(saved.nmis, 1);
    ck_assert_mem_eq(&saved.interrupted, &interrupt, sizeof(interrupt));
    ck_assert_mem_eq(&saved.exception, &page_fault, sizeof(page_fault));

    ck_assert_int_eq(virtx_vcpu_reset(world.vcpu, VIRTX_PRESET_FLAT32), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_events_get(world.vcpu, &again), VIRTX_OK);
    ck_assert(!again.has_interrupted && !again.has_exception && !again.has_interrupt);
    ck_assert(!again.nmis && !again.init && !again.sipi && !again.window);
    ck_assert_int_eq(virtx_vcpu_events_set(world.vcpu, &saved), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_events_get(world.vcpu, &again), VIRTX_OK);
    ck_assert_mem_eq(&again, &saved, sizeof(saved));
}
END_TEST

/* What was restored is delivered, the exception first, which was met in the delivery of the
 * interrupt; what was there before is not. */
START_TEST(test_restored_events_are_delivered)
{
    struct virtx_events events = {.interrupted = interrupt,
                                  .has_interrupted = true,
                                  .exception = page_fault,
                                  .has_exception = true};

    virtx_vcpu_nmi(world.vcpu);
    ck_assert_int_eq(virtx_vcpu_events_set(world.vcpu, &events), VIRTX_OK);
    world_play(exit_window);
    world_play(exit_hlt);
    world_run();
    ck_assert_uint_eq(world.injections, 2);
    ck_assert_uint_eq(world.injected[0].vector, VECTOR_PF);
    ck_assert_uint_eq(world.injected[1].vector, 0x55);
}
END_TEST

START_TEST(test_event_refusals)
{
    const struct virtx_events good = {.nmis = 2};
    struct virtx_events events, now;

    ck_assert_int_eq(virtx_vcpu_events_get(world.vcpu, NULL), VIRTX_E_INVALID);
    ck_assert_int_eq(virtx_vcpu_events_set(world.vcpu, NULL), VIRTX_E_INVALID);
    ck_assert_int_eq(virtx_vcpu_events_set(world.vcpu, &good), VIRTX_OK);
    for (unsigned i = 0; i < 5; i++) {
        events = (struct virtx_events){0};
        switch (i) {
        case 0:
            events.nmis = 3;
            break;
        case 1:
            events.exception = interrupt;
            events.has_exception = true;
            break;
        case 2:
            events.interrupt = page_fault;
            events.has_interrupt = true;
            break;
        case 3:
            events.interrupted = interrupt;
            events.interrupted.length = 1;
            events.has_interrupted = true;
            break;
        default:
            events.exception = (struct virtx_event){.type = VIRTX_EVENT_NMI, .vector = 2};
            events.has_exception = true;
            break;
        }
        ck_assert_int_eq(virtx_vcpu_events_set(world.vcpu, &events), VIRTX_E_INVALID);
        ck_assert_int_eq(virtx_vcpu_events_get(world.vcpu, &now), VIRTX_OK);
        ck_assert_mem_eq(&now, &good, sizeof(now)); /* as it was */
    }
}
END_TEST

/* For a backend that delivers from the queue itself. */
START_TEST(test_backend_takes)
{
    struct virtx_events events;

    ck_assert_int_eq(virtx_vcpu_inject(world.vcpu, &page_fault), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_inject(world.vcpu, &interrupt), VIRTX_OK);
    virtx_backend_events(world.vcpu, &events);
    ck_assert(events.has_exception && events.has_interrupt && !events.has_interrupted);
    events.has_exception = false;
    virtx_backend_events_left(world.vcpu, &events);
    virtx_backend_events(world.vcpu, &events);
    ck_assert(!events.has_exception && events.has_interrupt);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("saved");
    TCase *c = tcase_create("saved");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(c, begin, end);
    tcase_add_test(c, test_list_follows_cpuid);
    tcase_add_test(c, test_every_msr_comes_back);
    tcase_add_test(c, test_fields_by_number);
    tcase_add_test(c, test_msr_refusals);
    tcase_add_test(c, test_pending_access);
    tcase_add_test(c, test_all_events);
    tcase_add_test(c, test_restored_events_are_delivered);
    tcase_add_test(c, test_event_refusals);
    tcase_add_test(c, test_backend_takes);
    suite_add_tcase(suite, c);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
