/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Probe and negotiation of the VMX controls, from the capability MSRs of every Bochs model, and
 * from machines that lack one thing each.
 */

#include "vmx/vmx.h"
#include "x86/cpu.h"
#include "vmx_models.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static uint64_t msr[18];
static uint32_t present, cpuid_ecx, physical_bits;
static uint64_t feature_control;

struct cpuid_regs mock_cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid_regs r = {0};

    ck_assert_uint_eq(subleaf, 0);
    switch (leaf) {
    case 1:
        r.ecx = cpuid_ecx;
        break;
    case 0x80000000:
        r.eax = 0x80000008;
        break;
    case 0x80000008:
        r.eax = 0x3000 | physical_bits;
        break;
    default:
        ck_abort_msg("CPUID %x", leaf);
    }
    return r;
}

/* An MSR that the model does not have must not be read: RDMSR would fault. */
uint64_t mock_rdmsr(uint32_t index)
{
    if (index == MSR_FEATURE_CONTROL)
        return feature_control;
    ck_assert_uint_ge(index, 0x480);
    ck_assert_uint_lt(index, 0x480 + 18);
    ck_assert_msg(present >> (index - 0x480) & 1, "RDMSR %x faults", index);
    return msr[index - 0x480];
}

void mock_wrmsr(uint32_t index, uint64_t value)
{
    (void)value;
    ck_abort_msg("the probe changes nothing, but wrote MSR %x", index);
}

static void become(const struct vmx_model *model)
{
    memcpy(msr, model->msr, sizeof(msr));
    present = model->present;
    physical_bits = model->physical_bits;
    cpuid_ecx = 1u << 5;
    feature_control = 5;
}

static const struct vmx_model *model_named(const char *name)
{
    for (size_t i = 0; i < sizeof(vmx_models) / sizeof(vmx_models[0]); i++) {
        if (strcmp(vmx_models[i].name, name) == 0)
            return &vmx_models[i];
    }
    ck_abort_msg("no model %s", name);
    return NULL;
}

static struct virtx_caps caps;
static struct virtx virtx; /* of which the probe looks at the host functions */
static struct virtx_error error;

static uint64_t insist = ~0ull; /* the models are Bochs' */

static enum virtx_status probe(uint64_t disable)
{
    virtx.insist = insist;
    memset(&caps, 0, sizeof(caps));
    memset(&error, 0, sizeof(error));
    return vmx_probe(&virtx, disable, &caps, &error);
}

#define EPT VIRTX_FEATURE_NESTED_PAGING
#define UG  VIRTX_FEATURE_UNPAGED_GUEST
#define ALL_MODELS                                                                                 \
    (VIRTX_FEATURE_NEXT_RIP | VIRTX_FEATURE_DECODE_ASSIST | VIRTX_FEATURE_MSR_BITMAP |             \
     VIRTX_FEATURE_IO_BITMAP | VIRTX_FEATURE_VIRTUAL_NMI | VIRTX_FEATURE_TPR_SHADOW |              \
     VIRTX_FEATURE_APIC_ACCESS)
#define NEHALEM                                                                                    \
    (ALL_MODELS | EPT | VIRTX_FEATURE_TLB_TAGS | VIRTX_FEATURE_FLUSH_BY_TAG |                      \
     VIRTX_FEATURE_TIMER | VIRTX_FEATURE_EFER_SWITCH | VIRTX_FEATURE_PAT_SWITCH |                  \
     VIRTX_FEATURE_LARGE_2M | VIRTX_FEATURE_EXECUTE_ONLY | VIRTX_FEATURE_DESCRIPTOR_EXIT)
#define HASWELL                                                                                    \
    (NEHALEM | UG | VIRTX_FEATURE_LARGE_1G | VIRTX_FEATURE_NESTED_AD |                             \
     VIRTX_FEATURE_APIC_REGISTERS | VIRTX_FEATURE_VIRTUAL_INTERRUPT | VIRTX_FEATURE_PAUSE_FILTER | \
     VIRTX_FEATURE_VIRTUAL_X2APIC | VIRTX_FEATURE_RDTSCP | VIRTX_FEATURE_INVPCID)
#define SKYLAKE                                                                                    \
    (HASWELL | VIRTX_FEATURE_DIRTY_LOGGING | VIRTX_FEATURE_XSAVES | VIRTX_FEATURE_TSC_SCALING)

/* What the table of emulated hardware says that each model must and must not have. */
static const struct {
    const char *name;
    uint64_t has, lacks;
} expected[] = {
    {"core2_penryn_t9600", ALL_MODELS,
     EPT | UG | VIRTX_FEATURE_TLB_TAGS | VIRTX_FEATURE_TIMER | VIRTX_FEATURE_EFER_SWITCH |
         VIRTX_FEATURE_PAT_SWITCH | VIRTX_FEATURE_XSAVES},
    {"corei5_lynnfield_750", NEHALEM, UG | VIRTX_FEATURE_NESTED_AD | VIRTX_FEATURE_APIC_REGISTERS},
    {"corei5_arrandale_m520", NEHALEM | UG, VIRTX_FEATURE_NESTED_AD},
    {"corei7_sandy_bridge_2600k", NEHALEM | UG, VIRTX_FEATURE_NESTED_AD},
    {"corei7_ivy_bridge_3770k", NEHALEM | UG, VIRTX_FEATURE_XSAVES},
    {"corei7_haswell_4770", HASWELL,
     VIRTX_FEATURE_DIRTY_LOGGING | VIRTX_FEATURE_XSAVES | VIRTX_FEATURE_TSC_SCALING},
    {"broadwell_ult", HASWELL, VIRTX_FEATURE_TSC_SCALING},
    {"corei7_skylake_x", SKYLAKE, 0},
    {"corei7_icelake_u", SKYLAKE, 0},
    {"tigerlake", SKYLAKE, 0},
};

START_TEST(every_model_has_what_it_has)
{
    become(model_named(expected[_i].name));
    ck_assert_int_eq(probe(0), VIRTX_OK);
    ck_assert_uint_eq(caps.hardware & expected[_i].has, expected[_i].has);
    ck_assert_uint_eq(caps.hardware & expected[_i].lacks, 0);
    /* no Bochs model posts interrupts; the SVM words never appear */
    ck_assert_uint_eq(caps.hardware & (VIRTX_FEATURE_POSTED_INTERRUPT | VIRTX_FEATURE_VIRTUAL_GIF |
                                       VIRTX_FEATURE_CLEAN_BITS),
                      0);
    ck_assert_uint_eq(caps.features & ~caps.hardware, 0);
    ck_assert_uint_eq(caps.physical_bits, physical_bits);
    ck_assert_uint_eq(caps.tlb_tags, caps.hardware & VIRTX_FEATURE_TLB_TAGS ? 0xffff : 0);
}
END_TEST

static bool names_control(uint32_t word, uint32_t bit, const uint32_t *base)
{
    return base[word] & bit;
}

/* Whatever the features, each control word lies between what must be and what may be 1. */
START_TEST(negotiated_words_are_allowed)
{
    struct vmx_caps c;
    uint32_t base[VMX_WORD_COUNT];

    become(&vmx_models[_i]);
    vmx_caps_read(&c);
    for (int bit = -1; bit < 33; bit++) {
        uint64_t features = vmx_caps_features(vmx_caps_hardware(&c), bit < 0 ? 0 : 1ull << bit);

        ck_assert_int_eq(vmx_caps_negotiate(&c, features, base, &error), VIRTX_OK);
        for (unsigned word = 0; word < VMX_WORD_COUNT; word++) {
            ck_assert_uint_eq(c.control[word].must & ~base[word], 0);
            ck_assert_uint_eq(base[word] & ~c.control[word].may, 0);
        }
        ck_assert(names_control(VMX_PIN, PIN_NMI, base));
        ck_assert(names_control(VMX_EXIT, EXIT_HOST_64, base));
        ck_assert(!names_control(VMX_EXIT, EXIT_ACK_INTERRUPT, base));
        ck_assert(!names_control(VMX_PRIMARY, PRIMARY_CR3_LOAD | PRIMARY_CR3_STORE, base));
        ck_assert_int_eq(names_control(VMX_SECONDARY, SECONDARY_EPT, base), (features & EPT) != 0);
        ck_assert_int_eq(names_control(VMX_SECONDARY, SECONDARY_UNRESTRICTED, base),
                         (features & UG) != 0);
        ck_assert_int_eq(names_control(VMX_SECONDARY, SECONDARY_PML, base),
                         (features & VIRTX_FEATURE_DIRTY_LOGGING) != 0);
        ck_assert_int_eq(names_control(VMX_PRIMARY, PRIMARY_IO, base),
                         !(features & VIRTX_FEATURE_IO_BITMAP));
        ck_assert_int_eq(names_control(VMX_ENTRY, ENTRY_LOAD_EFER, base),
                         (features & VIRTX_FEATURE_EFER_SWITCH) != 0);
        ck_assert_int_eq(names_control(VMX_EXIT, EXIT_LOAD_EFER, base),
                         (features & VIRTX_FEATURE_EFER_SWITCH) != 0);
        ck_assert_int_eq(names_control(VMX_PIN, PIN_VIRTUAL_NMI, base),
                         (features & VIRTX_FEATURE_VIRTUAL_NMI) != 0);
    }
}
END_TEST

/* Each feature can be switched off alone, and takes along only what depends on it. */
START_TEST(features_can_be_disabled)
{
    const uint64_t essential = VIRTX_FEATURE_NEXT_RIP | VIRTX_FEATURE_DECODE_ASSIST;
    uint64_t all;

    become(model_named("tigerlake"));
    ck_assert_int_eq(probe(0), VIRTX_OK);
    all = caps.features;
    for (unsigned bit = 0; bit < 33; bit++) {
        uint64_t one = 1ull << bit, gone = one;

        if (one == EPT)
            gone |= UG | VIRTX_FEATURE_LARGE_2M | VIRTX_FEATURE_LARGE_1G | VIRTX_FEATURE_NESTED_AD |
                    VIRTX_FEATURE_EXECUTE_ONLY;
        if (one == UG)
            gone |= VIRTX_FEATURE_NESTED_AD;
        if (gone & VIRTX_FEATURE_NESTED_AD)
            gone |= VIRTX_FEATURE_DIRTY_LOGGING;
        if (one == VIRTX_FEATURE_TLB_TAGS)
            gone |= VIRTX_FEATURE_FLUSH_BY_TAG;
        if (one == VIRTX_FEATURE_TPR_SHADOW)
            gone |= VMX_APIC_HELP;
        ck_assert_int_eq(probe(one), VIRTX_OK);
        ck_assert_uint_eq(caps.features, all & ~(gone & ~essential));
        if (one == VIRTX_FEATURE_TLB_TAGS)
            ck_assert_uint_eq(caps.tlb_tags, 0);
    }
}
END_TEST

START_TEST(no_vmx)
{
    become(model_named("tigerlake"));
    present = 0; /* nothing may be read then */
    cpuid_ecx = ~(1u << 5);
    ck_assert_int_eq(probe(0), VIRTX_E_UNSUPPORTED);
    ck_assert_str_eq(error.what, "CPUID 1 ECX.VMX");
}
END_TEST

START_TEST(locked_out)
{
    become(model_named("tigerlake"));
    feature_control = 1; /* locked, VMXON not allowed */
    ck_assert_int_eq(probe(0), VIRTX_E_LOCKED_OUT);
    feature_control = 3; /* inside SMX only */
    ck_assert_int_eq(probe(0), VIRTX_E_LOCKED_OUT);
    feature_control = 0; /* not locked: the library will set it */
    ck_assert_int_eq(probe(0), VIRTX_OK);
}
END_TEST

/* The TRUE register is missing: the default-1 controls are forced, and CR3 accesses must exit. */
START_TEST(without_true_controls)
{
    struct vmx_caps c;
    uint32_t base[VMX_WORD_COUNT];

    become(model_named("corei7_haswell_4770"));
    msr[0] &= ~(1ull << 55);
    present &= ~(0xfu << 13);
    vmx_caps_read(&c);
    ck_assert_uint_eq(c.control[VMX_PRIMARY].must, 0x0401e172);
    ck_assert_int_eq(vmx_caps_negotiate(&c, 0, base, &error), VIRTX_OK);
    ck_assert(base[VMX_PRIMARY] & PRIMARY_CR3_LOAD);
}
END_TEST

START_TEST(without_secondary_controls)
{
    struct vmx_caps c;

    become(model_named("corei7_haswell_4770"));
    msr[14] &= ~(1ull << 63); /* TRUE primary: bit 31 may not be 1 */
    present &= ~(3u << 11);   /* then neither of these exists */
    vmx_caps_read(&c);
    ck_assert_uint_eq(
        vmx_caps_hardware(&c) & (EPT | UG | VIRTX_FEATURE_TLB_TAGS | VIRTX_FEATURE_RDTSCP), 0);
    ck_assert_int_eq(probe(0), VIRTX_OK);
}
END_TEST

START_TEST(required_control_missing)
{
    become(model_named("corei7_haswell_4770"));
    msr[13] &= ~((uint64_t)PIN_NMI << 32);
    ck_assert_int_eq(probe(0), VIRTX_E_UNSUPPORTED);
    ck_assert_str_eq(error.what, "NMI exiting");
    ck_assert_uint_eq(error.value, PIN_NMI);
}
END_TEST

START_TEST(unknown_control_forced)
{
    become(model_named("corei7_haswell_4770"));
    msr[15] |= EXIT_ACK_INTERRUPT; /* must be 1 */
    ck_assert_int_eq(probe(0), VIRTX_E_UNSUPPORTED);
    ck_assert_str_eq(error.what, "acknowledge interrupt on exit");
}
END_TEST

/* EPT that cannot be invalidated, or not be write-back, is no EPT. */
START_TEST(useless_ept)
{
    const uint64_t needed[] = {1ull << 6, 1ull << 14, 1ull << 20, 3ull << 25};

    for (size_t i = 0; i < ARRAY_SIZE(needed); i++) {
        become(model_named("corei7_haswell_4770"));
        msr[12] &= ~needed[i];
        ck_assert_int_eq(probe(0), VIRTX_OK);
        ck_assert_uint_eq(caps.features & (EPT | UG | VIRTX_FEATURE_LARGE_2M), 0);
    }
}
END_TEST

static void host_interrupt(void *ctx, uint8_t vector)
{
    (void)ctx;
    (void)vector;
}

static void host_notify(void *ctx, uint32_t cpu)
{
    (void)ctx;
    (void)cpu;
}

/* A processor that posts, and acknowledges on exit. Both are of use only to a host that has said
 * what it does then, and with virtual-interrupt delivery. */
START_TEST(posted_interrupts)
{
    const uint64_t posted = VIRTX_FEATURE_POSTED_INTERRUPT;
    struct vmx_caps vmx;
    uint32_t base[VMX_WORD_COUNT];

    become(model_named("corei7_haswell_4770"));
    msr[13] |= (uint64_t)PIN_POSTED_INTERRUPT << 32;
    ck_assert_int_eq(probe(0), VIRTX_OK);
    ck_assert_uint_eq(caps.hardware & posted, posted); /* every model can acknowledge */
    ck_assert_uint_eq(caps.features & posted, 0);
    virtx.ops.interrupt = host_interrupt;
    ck_assert_int_eq(probe(0), VIRTX_OK);
    ck_assert_uint_eq(caps.features & posted, 0);
    virtx.ops.notify_cpu = host_notify;
    for (unsigned vector = 0; vector < 300; vector += 15) {
        virtx.ops.posted_vector = vector;
        ck_assert_int_eq(probe(0), VIRTX_OK);
        ck_assert_uint_eq(caps.features & posted, vector >= 16 && vector <= 255 ? posted : 0);
    }
    virtx.ops.posted_vector = 0xf2;
    ck_assert_int_eq(probe(0), VIRTX_OK);
    vmx_caps_read(&vmx);
    ck_assert_int_eq(vmx_caps_negotiate(&vmx, caps.features, base, &error), VIRTX_OK);
    ck_assert(base[VMX_EXIT] & EXIT_ACK_INTERRUPT);
    ck_assert_int_eq(probe(VIRTX_FEATURE_VIRTUAL_INTERRUPT), VIRTX_OK);
    ck_assert_uint_eq(caps.features & posted, 0);
    ck_assert_int_eq(probe(posted), VIRTX_OK);
    ck_assert_uint_eq(caps.features & posted, 0);
    ck_assert_int_eq(vmx_caps_negotiate(&vmx, caps.features, base, &error), VIRTX_OK);
    ck_assert(!(base[VMX_EXIT] & EXIT_ACK_INTERRUPT));
    memset(&virtx, 0, sizeof(virtx));
}
END_TEST

/* What is announced and does not work is left alone, unless somebody insists; on this processor
 * alone. */
START_TEST(errata)
{
    const uint64_t delivery = VIRTX_FEATURE_VIRTUAL_INTERRUPT, size = 0x1fffull << 32;

    become(model_named("corei7_haswell_4770"));
    insist = 0;
    ck_assert_int_eq(probe(0), VIRTX_OK);
    ck_assert(caps.hardware & delivery);
    ck_assert(!(caps.features & delivery));
    msr[0] = (msr[0] & ~size) | 0x400ull << 32;
    ck_assert_int_eq(probe(0), VIRTX_OK);
    ck_assert(caps.features & delivery);
    insist = ~0ull;
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("vmx_caps");
    TCase *tests = tcase_create("caps");
    SRunner *runner = srunner_create(suite);
    int models = (int)(sizeof(vmx_models) / sizeof(vmx_models[0])), failed;

    tcase_add_loop_test(tests, every_model_has_what_it_has, 0, (int)ARRAY_SIZE(expected));
    tcase_add_loop_test(tests, negotiated_words_are_allowed, 0, models);
    tcase_add_test(tests, features_can_be_disabled);
    tcase_add_test(tests, no_vmx);
    tcase_add_test(tests, locked_out);
    tcase_add_test(tests, without_true_controls);
    tcase_add_test(tests, without_secondary_controls);
    tcase_add_test(tests, required_control_missing);
    tcase_add_test(tests, unknown_control_forced);
    tcase_add_test(tests, useless_ept);
    tcase_add_test(tests, posted_interrupts);
    tcase_add_test(tests, errata);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
