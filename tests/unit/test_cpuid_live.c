/* SPDX-License-Identifier: BSD-2-Clause */
/* CPUID tables that change while vcpus exist, a VM's and one vcpu's, and what follows from them. */
#include "hw/service.h"
#include "hw_world.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#define EDX_PGE  BIT(13)
#define EDX_SEP  BIT(11)
#define EDX_APIC BIT(9)

static struct virtx_cpuid_entry vms(uint32_t leaf)
{
    struct virtx_cpuid_entry entry;

    ck_assert_int_eq(virtx_vm_cpuid_get(world.vm, leaf, 0, &entry), VIRTX_OK);
    return entry;
}

static struct virtx_cpuid_entry vcpus(uint32_t leaf)
{
    struct virtx_cpuid_entry entry;

    ck_assert_int_eq(virtx_vcpu_cpuid_get(world.vcpu, leaf, 0, &entry), VIRTX_OK);
    return entry;
}

/* EDX as the guest sees it. */
static uint32_t guest_edx(uint32_t leaf)
{
    uint64_t *gpr = world_gpr();

    gpr[VIRTX_RAX] = leaf;
    gpr[VIRTX_RCX] = 0;
    world.at = world.length = 0;
    world_play(exit_cpuid);
    world_run();
    return (uint32_t)gpr[VIRTX_RDX];
}

static uint64_t new_cr4;

static void exit_mov_to_cr4(struct hw_vcpu *hv)
{
    world_cr(hv, 4, true, VIRTX_RBX, new_cr4);
}

/* Whether MOV to CR4 is #GP. */
static bool cr4_faults(uint64_t value)
{
    unsigned before = world.injections;

    new_cr4 = value;
    world.at = world.length = 0;
    world_play(exit_mov_to_cr4);
    world_run();
    return world.injections != before;
}

static bool hidden(uint32_t index, uint32_t access)
{
    return !(world.msrs[index >= 0xc0000000][index & 0x1fff] & access);
}

/* The whole VM's: the answer, CR4, the mask of CR4, and what virtx_vcpu_set() takes. */
START_TEST(of_the_vm)
{
    struct virtx_cpuid_entry one, less;
    struct virtx_state state;

    world_begin(&virtx_profile_bare);
    one = less = vms(1);
    less.edx &= ~EDX_PGE;
    ck_assert(guest_edx(1) & EDX_PGE);
    ck_assert(!cr4_faults(CR4_PGE) && !cr4_faults(0));
    ck_assert_int_eq(virtx_vm_cpuid_set(world.vm, &less), VIRTX_OK);
    /* Before the next entry already for calls that judge registers. */
    world_get(VIRTX_STATE_CR, &state);
    state.cr4 |= CR4_PGE;
    ck_assert_int_eq(virtx_vcpu_set(world.vcpu, VIRTX_STATE_CR, &state), VIRTX_E_INVALID);
    ck_assert(!(guest_edx(1) & EDX_PGE));
    ck_assert(world.hv->controls.cr4_mask & CR4_PGE);
    ck_assert(cr4_faults(CR4_PGE));
    ck_assert_int_eq(virtx_vm_cpuid_set(world.vm, &one), VIRTX_OK);
    ck_assert(guest_edx(1) & EDX_PGE);
    ck_assert(!(world.hv->controls.cr4_mask & CR4_PGE));
    ck_assert(!cr4_faults(CR4_PGE));
    world_end();
}
END_TEST

/* A local APIC that its IA32_APIC_BASE has switched off is not announced. */
START_TEST(disabled_apic)
{
    struct virtx_state state;

    world_begin(&virtx_profile_bare);
    ck_assert(guest_edx(1) & EDX_APIC);
    world_get(VIRTX_STATE_MSR, &state);
    state.apic_base &= ~BIT(11);
    ck_assert_int_eq(virtx_vcpu_set(world.vcpu, VIRTX_STATE_MSR, &state), VIRTX_OK);
    ck_assert(!(guest_edx(1) & EDX_APIC));
    ck_assert(!(guest_edx(0x80000001) & EDX_APIC));
    state.apic_base |= BIT(11);
    ck_assert_int_eq(virtx_vcpu_set(world.vcpu, VIRTX_STATE_MSR, &state), VIRTX_OK);
    ck_assert(guest_edx(1) & EDX_APIC);
    world_end();
}
END_TEST

/* A vcpu's own goes first, and goes away. */
START_TEST(of_a_vcpu)
{
    struct virtx_cpuid_entry less, brand = {.leaf = 0x80000002, .edx = 7};

    world_begin(&virtx_profile_bare);
    less = vms(1);
    less.edx &= ~EDX_PGE;
    ck_assert_int_eq(virtx_vcpu_cpuid_set(world.vcpu, &less), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_cpuid_set(world.vcpu, &brand), VIRTX_OK);
    ck_assert(vms(1).edx & EDX_PGE);
    ck_assert(!(vcpus(1).edx & EDX_PGE));
    ck_assert(!(guest_edx(1) & EDX_PGE));
    ck_assert_uint_eq(guest_edx(0x80000002), 7);
    ck_assert(cr4_faults(CR4_PGE));
    /* The VM's change of another leaf does not touch it; of the same leaf, neither. */
    brand.edx = 9;
    ck_assert_int_eq(virtx_vm_cpuid_set(world.vm, &brand), VIRTX_OK);
    less = vms(1);
    ck_assert_int_eq(virtx_vm_cpuid_set(world.vm, &less), VIRTX_OK);
    ck_assert_uint_eq(guest_edx(0x80000002), 7);
    ck_assert(!(guest_edx(1) & EDX_PGE));
    ck_assert_int_eq(virtx_vcpu_cpuid_reset(world.vcpu), VIRTX_OK);
    ck_assert_uint_eq(guest_edx(0x80000002), 9);
    ck_assert(guest_edx(1) & EDX_PGE);
    ck_assert(!cr4_faults(CR4_PGE));
    ck_assert_int_eq(virtx_vcpu_cpuid_reset(world.vcpu), VIRTX_OK); /* nothing to do */
    /* Another vcpu of the VM never had it; one that is destroyed with entries leaves nothing. */
    ck_assert_int_eq(virtx_vcpu_cpuid_set(world.vcpu, &less), VIRTX_OK);
    world_end();
}
END_TEST

/* The way from no own table over a VM's newer one and back meets no version twice. */
START_TEST(versions)
{
    struct virtx_cpuid_entry less, brand = {.leaf = 0x80000002};

    world_begin(&virtx_profile_bare);
    less = vms(1);
    less.edx &= ~EDX_PGE;
    for (unsigned i = 0; i < 4; i++) {
        ck_assert_int_eq(virtx_vcpu_cpuid_set(world.vcpu, &less), VIRTX_OK);
        ck_assert(!(guest_edx(1) & EDX_PGE));
        ck_assert_int_eq(virtx_vm_cpuid_set(world.vm, &brand), VIRTX_OK);
        ck_assert(!(guest_edx(1) & EDX_PGE));
        ck_assert_int_eq(virtx_vcpu_cpuid_reset(world.vcpu), VIRTX_OK);
        ck_assert(guest_edx(1) & EDX_PGE);
        ck_assert(!cr4_faults(CR4_PGE));
    }
    world_end();
}
END_TEST

/* What tables and areas were made by. */
START_TEST(what_stays)
{
    static const struct {
        uint32_t leaf, eax, ebx, ecx, edx; /* bits to turn over */
    } tries[] = {
        {0, 0, 1, 0, 0},                /* vendor */
        {1, 0, 0, BIT(26), 0},          /* XSAVE */
        {0xd, 4, 0, 0, 0},              /* AVX's component */
        {0x80000001, 0, 0, 0, BIT(26)}, /* 1-GiB pages */
        {0x80000008, 0x10, 0, 0, 0},    /* address width */
    };

    world_begin(&virtx_profile_bare);
    for (unsigned i = 0; i < ARRAY_SIZE(tries); i++) {
        struct virtx_cpuid_entry entry = vms(tries[i].leaf);

        entry.eax ^= tries[i].eax;
        entry.ebx ^= tries[i].ebx;
        entry.ecx ^= tries[i].ecx;
        entry.edx ^= tries[i].edx;
        ck_assert_int_eq(virtx_vm_cpuid_set(world.vm, &entry), VIRTX_E_BUSY);
        ck_assert_int_eq(virtx_vcpu_cpuid_set(world.vcpu, &entry), VIRTX_E_BUSY);
        ck_assert_int_eq(virtx_vcpu_last_error(world.vcpu)->status, VIRTX_E_BUSY);
        ck_assert_uint_eq(vms(tries[i].leaf).eax, entry.eax ^ tries[i].eax);
    }
    /* Nor does the size of a component change, ever. */
    ck_assert_int_eq(
        virtx_vm_cpuid_set(world.vm, &(struct virtx_cpuid_entry){0xd, 2, 64, 576, 0, 0}),
        VIRTX_E_UNSUPPORTED);
    ck_assert_int_eq(virtx_vcpu_cpuid_set(world.vcpu, NULL), VIRTX_E_INVALID);
    ck_assert_int_eq(virtx_vcpu_cpuid_get(world.vcpu, 0, 0, NULL), VIRTX_E_INVALID);
    ck_assert_uint_ne(guest_edx(1), 0);
    world_end();
}
END_TEST

/* Registers that are let through come and go with their features. */
START_TEST(msrs_of_hidden_features)
{
    struct virtx_cpuid_entry one, extended, less;

    world_begin(&virtx_profile_bare);
    one = vms(1);
    extended = vms(0x80000001);
    ck_assert(!hidden(0x174, VIRTX_READ) && !hidden(0x176, VIRTX_WRITE));
    ck_assert(!hidden(0xc0000082, VIRTX_WRITE));
    less = one;
    less.edx &= ~EDX_SEP;
    ck_assert_int_eq(virtx_vm_cpuid_set(world.vm, &less), VIRTX_OK);
    ck_assert(hidden(0x174, VIRTX_READ) && hidden(0x176, VIRTX_WRITE));
    ck_assert(!hidden(0xc0000082, VIRTX_WRITE));
    less = extended;
    less.edx &= ~(BIT(29) | BIT(11));
    ck_assert_int_eq(virtx_vm_cpuid_set(world.vm, &less), VIRTX_OK);
    for (uint32_t i = 0xc0000081; i <= 0xc0000084; i++)
        ck_assert(hidden(i, VIRTX_READ) && hidden(i, VIRTX_WRITE));
    for (uint32_t i = 0xc0000100; i <= 0xc0000102; i++)
        ck_assert(hidden(i, VIRTX_READ) && hidden(i, VIRTX_WRITE));
    guest_edx(1);
    ck_assert_uint_eq(world.hv->soft->policy.lacks,
                      HW_LACKS_SYSENTER | HW_LACKS_SYSCALL | HW_LACKS_LONG_MODE);
    ck_assert_int_eq(virtx_vm_cpuid_set(world.vm, &one), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_cpuid_set(world.vm, &extended), VIRTX_OK);
    ck_assert(!hidden(0x174, VIRTX_READ) && !hidden(0xc0000102, VIRTX_WRITE));
    world_end();
}
END_TEST

/* And are #GP where they exit all the same. */
static void exit_rdmsr_lstar(struct hw_vcpu *hv)
{
    world_msr(hv, 0xc0000082, false, 0);
}

START_TEST(hidden_and_exiting)
{
    struct virtx_cpuid_entry less;

    world_begin(&virtx_profile_bare);
    less = vms(0x80000001);
    less.edx &= ~(BIT(29) | BIT(11));
    world_play(exit_rdmsr_lstar);
    world_run();
    ck_assert_uint_eq(world.injections, 0);
    ck_assert_int_eq(virtx_vcpu_cpuid_set(world.vcpu, &less), VIRTX_OK);
    world.at = world.length = 0;
    world_play(exit_rdmsr_lstar);
    world_run();
    ck_assert_uint_eq(world.injections, 1);
    ck_assert_uint_eq(world.injected[0].vector, VECTOR_GP);
    world_end();
}
END_TEST

/* A register that is shared with the host, and hidden while it holds the guest's value. */
START_TEST(shared_register_hidden_while_loaded)
{
    struct virtx_cpuid_entry less;
    struct virtx_state state;

    world_features = VIRTX_FEATURE_RDTSCP;
    world_begin(&virtx_profile_kernel);
    ck_assert(world.hv->soft->policy.has_tsc_aux);
    world_get(VIRTX_STATE_MSR, &state);
    state.tsc_aux = 77;
    world_set(VIRTX_STATE_MSR, &state);
    world_run();
    less = vms(0x80000001);
    less.edx &= ~BIT(27);
    ck_assert_int_eq(virtx_vm_cpuid_set(world.vm, &less), VIRTX_OK);
    world_run();
    ck_assert(!world.hv->soft->policy.has_tsc_aux);
    world.msr_writes = 0;
    ck_assert_int_eq(virtx_vcpu_put(world.vcpu), VIRTX_OK);
    ck_assert_uint_eq(world.msr_writes, 1); /* the host's is back */
    ck_assert_uint_eq(world.msr_index[0], MSR_TSC_AUX);
    ck_assert_uint_eq(world.msr_written[0], 0);
    world.msr_writes = 0;
    world_run();
    ck_assert_uint_eq(world.msr_writes, 0); /* and the guest's stays away */
    world_end();
}
END_TEST

/* A handler on the vcpu's thread may change it: the guest finds the change behind the exit. */
static enum virtx_verdict take_pge(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    struct virtx_cpuid_entry less = vms(1);

    (void)exit, (void)ctx;
    less.edx &= ~EDX_PGE;
    ck_assert_int_eq(virtx_vcpu_cpuid_set(vcpu, &less), VIRTX_OK);
    return VIRTX_HANDLED;
}

static void exit_out(struct hw_vcpu *hv)
{
    world_out(hv, 0x80, 1, 1);
}

START_TEST(from_a_handler)
{
    struct virtx_intercept_config config = {.size = sizeof(config),
                                            .kind = VIRTX_INTERCEPT_PORT,
                                            .access = VIRTX_WRITE,
                                            .first = 0x80,
                                            .last = 0x80,
                                            .handler = take_pge};

    world_begin(&virtx_profile_bare);
    ck_assert_int_eq(virtx_vm_intercept(world.vm, &config, NULL), VIRTX_OK);
    world_gpr()[VIRTX_RAX] = 0;
    world_run();
    new_cr4 = CR4_PGE;
    world.at = world.length = 0;
    world_play(exit_out);
    world_play(exit_mov_to_cr4);
    world_run();
    ck_assert_uint_eq(world.injections, 1);
    ck_assert_uint_eq(world.injected[0].vector, VECTOR_GP);
    world_end();
}
END_TEST

/* The same inside run, with a host that wants its value back when run returns. */
static enum virtx_verdict take_tsc_aux(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    struct virtx_cpuid_entry less = vms(0x80000001);

    (void)exit, (void)ctx;
    less.edx &= ~BIT(27);
    ck_assert_int_eq(virtx_vcpu_cpuid_set(vcpu, &less), VIRTX_OK);
    return VIRTX_HANDLED;
}

START_TEST(shared_register_hidden_inside_run)
{
    static const struct virtx_host_profile profile = {.size = sizeof(profile),
                                                      .at_return = VIRTX_HOST_TSC_AUX};
    struct virtx_intercept_config config = {.size = sizeof(config),
                                            .kind = VIRTX_INTERCEPT_PORT,
                                            .access = VIRTX_WRITE,
                                            .first = 0x80,
                                            .last = 0x80,
                                            .handler = take_tsc_aux};
    struct virtx_state state;

    world_features = VIRTX_FEATURE_RDTSCP;
    world_begin(&profile);
    ck_assert_int_eq(virtx_vm_intercept(world.vm, &config, NULL), VIRTX_OK);
    world_get(VIRTX_STATE_MSR, &state);
    state.tsc_aux = 77;
    world_set(VIRTX_STATE_MSR, &state);
    world.msr_writes = 0;
    world.at = world.length = 0;
    world_play(exit_out);
    world_run();
    ck_assert(!world.hv->soft->policy.has_tsc_aux);
    ck_assert_uint_eq(world.msr_writes, 2);
    ck_assert_uint_eq(world.msr_written[0], 77);
    ck_assert_uint_eq(world.msr_written[1], 0);
    world_end();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cpuid_live");
    TCase *tests = tcase_create("cpuid_live");
    SRunner *runner;
    int failed;

    tcase_add_test(tests, of_the_vm);
    tcase_add_test(tests, disabled_apic);
    tcase_add_test(tests, of_a_vcpu);
    tcase_add_test(tests, versions);
    tcase_add_test(tests, what_stays);
    tcase_add_test(tests, msrs_of_hidden_features);
    tcase_add_test(tests, hidden_and_exiting);
    tcase_add_test(tests, shared_register_hidden_while_loaded);
    tcase_add_test(tests, from_a_handler);
    tcase_add_test(tests, shared_register_hidden_inside_run);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
