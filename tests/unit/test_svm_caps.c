/* SPDX-License-Identifier: BSD-2-Clause */
/* What is found in CPUID, the permission maps, and the intercepts that are always set. */
#include "svm_world.h"

/* Recorded from the emulated machines. */
struct model {
    const char *name;
    struct {
        uint32_t leaf, subleaf;
        struct cpuid_regs regs;
    } cpuid[9];
    uint64_t features; /* of those that differ between models */
    uint32_t tags;
};

#define DIFFER                                                                                     \
    (VIRTX_FEATURE_NESTED_PAGING | VIRTX_FEATURE_NEXT_RIP | VIRTX_FEATURE_FLUSH_BY_TAG |           \
     VIRTX_FEATURE_DECODE_ASSIST | VIRTX_FEATURE_CLEAN_BITS | VIRTX_FEATURE_LARGE_1G |             \
     VIRTX_FEATURE_LARGE_2M | VIRTX_FEATURE_RDTSCP | VIRTX_FEATURE_INVPCID |                       \
     VIRTX_FEATURE_XSAVES | VIRTX_FEATURE_PAT_SWITCH)

static const struct model models[] = {
    {"QEMU EPYC",
     {{0, 0, {0xd, 0x68747541, 0x444d4163, 0x69746e65}},
      {1, 0, {0x00800f12, 0x00000800, 0xfed8320b, 0x078bfbfd}},
      {7, 0, {0, 0x009801a9, 0, 0}},
      {0xd, 1, {5, 0x340, 0, 0}},
      {0x40000000, 0, {0x40000001, 0x54474354, 0x43544743, 0x47435447}},
      {0x80000000, 0, {0x8000001e, 0x68747541, 0x444d4163, 0x69746e65}},
      {0x80000001, 0, {0x00800f12, 0, 0x75, 0x2dd3fbfd}},
      {0x80000008, 0, {0x3028, 0, 0, 0}},
      {0x8000000a, 0, {1, 0x10, 0, 1}}},
     VIRTX_FEATURE_NESTED_PAGING | VIRTX_FEATURE_LARGE_2M | VIRTX_FEATURE_LARGE_1G |
         VIRTX_FEATURE_PAT_SWITCH | VIRTX_FEATURE_RDTSCP,
     15},
    {"QEMU qemu64",
     {{0, 0, {0xd, 0x68747541, 0x444d4163, 0x69746e65}},
      {1, 0, {0x00060fb1, 0x00000800, 0x80002001, 0x078bfbfd}},
      {7, 0, {0, 0, 0, 0}},
      {0xd, 1, {0, 0, 0, 0}},
      {0x80000000, 0, {0x8000000a, 0x68747541, 0x444d4163, 0x69746e65}},
      {0x80000001, 0, {0x00060fb1, 0, 5, 0x2193fbfd}},
      {0x80000008, 0, {0x3028, 0, 0, 0}},
      {0x8000000a, 0, {1, 0x10, 0, 0}}},
     0,
     15},
    {"Bochs phenom_8650_toliman",
     {{0, 0, {5, 0x68747541, 0x444d4163, 0x69746e65}},
      {1, 0, {0x00100f23, 0x00010800, 0x00802009, 0x178bfbff}},
      {7, 0, {0, 0, 0, 0}},
      {0xd, 1, {0, 0, 0, 0}},
      {0x80000000, 0, {0x8000001a, 0x68747541, 0x444d4163, 0x69746e65}},
      {0x80000001, 0, {0x00100f23, 0x10000563, 0x7ff, 0xefd3fbff}},
      {0x80000008, 0, {0x3028, 0, 0, 0}},
      {0x8000000a, 0, {1, 0x40, 0, 7}}},
     VIRTX_FEATURE_NESTED_PAGING | VIRTX_FEATURE_LARGE_2M | VIRTX_FEATURE_LARGE_1G |
         VIRTX_FEATURE_PAT_SWITCH | VIRTX_FEATURE_RDTSCP,
     63},
    {"Bochs ryzen",
     {{0, 0, {0xd, 0x68747541, 0x444d4163, 0x69746e65}},
      {1, 0, {0x00800f11, 0x00010800, 0x7ed8320b, 0x178bfbff}},
      {7, 0, {0, 0x209c01a9, 0, 0}},
      {0xd, 1, {0xf, 0x340, 0, 0}},
      {0x80000000, 0, {0x8000001f, 0x68747541, 0x444d4163, 0x69746e65}},
      {0x80000001, 0, {0x00800f11, 0x20000000, 0x35c223ff, 0x2fd3fbff}},
      {0x80000008, 0, {0x3028, 1, 0, 0}},
      {0x8000000a, 0, {1, 0x8000, 0, 0x44f}}},
     VIRTX_FEATURE_NESTED_PAGING | VIRTX_FEATURE_LARGE_2M | VIRTX_FEATURE_LARGE_1G |
         VIRTX_FEATURE_PAT_SWITCH | VIRTX_FEATURE_RDTSCP | VIRTX_FEATURE_NEXT_RIP |
         VIRTX_FEATURE_FLUSH_BY_TAG | VIRTX_FEATURE_XSAVES,
     0x7fff},
};

static const struct model *model;
static uint32_t svm_edx; /* ORed to leaf 8000_000A EDX */
static uint32_t no_svm;  /* cleared in 8000_0001 ECX */

static struct cpuid_regs cpuid(uint32_t leaf, uint32_t subleaf)
{
    for (size_t i = 0; i < ARRAY_SIZE(model->cpuid); i++) {
        if (model->cpuid[i].leaf == leaf && model->cpuid[i].subleaf == subleaf) {
            struct cpuid_regs regs = model->cpuid[i].regs;

            if (leaf == 0x8000000a)
                regs.edx |= svm_edx;
            if (leaf == 0x80000001)
                regs.ecx &= ~no_svm;
            return regs;
        }
    }
    return (struct cpuid_regs){0};
}

static enum virtx_status probe(uint64_t disable, struct virtx_caps *caps)
{
    memset(caps, 0, sizeof(*caps));
    memset(&world, 0, sizeof(world));
    world_cpuid = cpuid;
    return svm_probe(&world.virtx, disable, caps, &world.virtx.error);
}

static void setup(void)
{
    model = &models[0];
    svm_edx = no_svm = 0;
    world_vm_cr = 0;
}

/* QEMU cannot be trusted with it; a processor that is no virtual one always has it. */
START_TEST(virtual_priority)
{
    struct virtx_caps caps;

    ck_assert_int_eq(probe(0, &caps), VIRTX_OK);
    ck_assert(caps.hardware & VIRTX_FEATURE_VIRTUAL_PRIORITY);
    ck_assert(!(caps.features & VIRTX_FEATURE_VIRTUAL_PRIORITY));
    model = &models[3];
    ck_assert_int_eq(probe(0, &caps), VIRTX_OK);
    ck_assert(caps.features & VIRTX_FEATURE_VIRTUAL_PRIORITY);
    ck_assert_int_eq(probe(VIRTX_FEATURE_VIRTUAL_PRIORITY, &caps), VIRTX_OK);
    ck_assert(!(caps.features & VIRTX_FEATURE_VIRTUAL_PRIORITY));
}
END_TEST

START_TEST(each_model)
{
    struct virtx_caps caps;

    model = &models[_i];
    ck_assert_int_eq(probe(0, &caps), VIRTX_OK);
    ck_assert_uint_eq(caps.features & DIFFER, model->features);
    ck_assert_uint_eq(caps.tlb_tags, model->tags);
    ck_assert_uint_eq(caps.physical_bits, 40);
    ck_assert_uint_eq(caps.guest_physical_bits, 40);
    ck_assert(!(caps.features & ~caps.hardware));
    ck_assert(caps.features & VIRTX_FEATURE_UNPAGED_GUEST);
}
END_TEST

/* Each feature goes alone, with what makes no sense without it. */
START_TEST(disabled)
{
    struct virtx_caps all, caps;

    model = &models[3];
    svm_edx = 1 << 5 | 1 << 7;
    ck_assert_int_eq(probe(0, &all), VIRTX_OK);
    for (uint64_t bits = all.features; bits; bits &= bits - 1) {
        uint64_t bit = bits & -bits;

        ck_assert_int_eq(probe(bit, &caps), VIRTX_OK);
        if (bit == VIRTX_FEATURE_UNPAGED_GUEST || bit == VIRTX_FEATURE_EFER_SWITCH)
            continue; /* not options */
        ck_assert(!(caps.features & bit));
        ck_assert_uint_eq(caps.hardware, all.hardware);
        if (bit == VIRTX_FEATURE_NESTED_PAGING)
            ck_assert(!(caps.features & (VIRTX_FEATURE_LARGE_2M | VIRTX_FEATURE_LARGE_1G)));
        else if (bit == VIRTX_FEATURE_TLB_TAGS)
            ck_assert_uint_eq(caps.tlb_tags, 0);
        else
            ck_assert_uint_eq(caps.features, all.features & ~bit);
    }
}
END_TEST

START_TEST(refusals)
{
    struct virtx_caps caps;

    world_vm_cr = VM_CR_SVMDIS;
    ck_assert_int_eq(probe(0, &caps), VIRTX_E_LOCKED_OUT);
    no_svm = 1 << 2;
    ck_assert_int_eq(probe(0, &caps), VIRTX_E_UNSUPPORTED);
    world_vm_cr = 0;
    no_svm = 0;
    world_efer = EFER_LME | EFER_LMA | EFER_SVME;
    ck_assert_int_eq(svm_cpu_enable(&world.virtx, &world.cpu, &world.virtx.error), VIRTX_E_IN_USE);
    ck_assert_uint_eq(world.msrs, 0);
    world_efer = EFER_LME | EFER_LMA;
}
END_TEST

START_TEST(enable)
{
    memset(&world, 0, sizeof(world));
    world_make(0, true);
    svm_cpu_disable(&world.virtx, &world.cpu);
    world.msrs = 0;
    ck_assert_int_eq(svm_cpu_enable(&world.virtx, &world.cpu, &world.virtx.error), VIRTX_OK);
    ck_assert_uint_eq(world.msrs, 2);
    ck_assert_uint_eq(world.msr_index[0], MSR_EFER);
    ck_assert_uint_eq(world.msr[0], EFER_LME | EFER_LMA | EFER_SVME);
    ck_assert_uint_eq(world.msr_index[1], MSR_VM_HSAVE_PA);
    ck_assert_uint_eq(world.msr[1], world.cpu.hsave_hpa);
    world_free();
}
END_TEST

/* ---- Permission maps ---- */

static bool port_bit(unsigned port)
{
    return world.vm_data.iopm[port / 8] >> port % 8 & 1;
}

START_TEST(ports)
{
    world_make(0, true);
    for (unsigned port = 0; port <= 65538; port++)
        ck_assert(port_bit(port));
    svm_ports(&world.vm, NULL, 0x7fff, 0x8000, false);
    svm_ports(&world.vm, NULL, 0xffff, 0xffff, false);
    ck_assert(port_bit(0x7ffe) && !port_bit(0x7fff) && !port_bit(0x8000) && port_bit(0x8001));
    /* A word at the last port reaches beyond: that bit always intercepts. */
    ck_assert(!port_bit(0xffff) && port_bit(0x10000) && port_bit(0x10002));
    svm_ports(&world.vm, NULL, 0, 0xffff, false);
    ck_assert(!port_bit(0) && port_bit(0x10000));
    svm_ports(&world.vm, NULL, 0x3f8, 0x3f8, true);
    ck_assert(!port_bit(0x3f7) && port_bit(0x3f8) && !port_bit(0x3f9));
    world_free();
}
END_TEST

/* "MSR Permissions Map": byte offset of the range, two bits an MSR. */
static const struct {
    uint32_t index;
    unsigned byte, bit;
} msr_bits[] = {
    {0x0, 0, 0},           {0x10, 4, 0},          {0x174, 0x5d, 0},     {0x1fff, 0x7ff, 6},
    {0xc0000000, 0x800, 0}, {0xc0000081, 0x820, 2}, {0xc0001fff, 0xfff, 6}, {0xc0010000, 0x1000, 0},
    {0xc0011fff, 0x17ff, 6},
};

START_TEST(msrs)
{
    const uint8_t *map;
    uint8_t both = (uint8_t)(3 << msr_bits[_i].bit);

    world_make(0, true);
    map = world.vm_data.msrpm;
    svm_msr(&world.vm, NULL, msr_bits[_i].index, VIRTX_READ, false);
    ck_assert_uint_eq(map[msr_bits[_i].byte], (uint8_t)~(1u << msr_bits[_i].bit));
    svm_msr(&world.vm, NULL, msr_bits[_i].index, VIRTX_WRITE, false);
    ck_assert_uint_eq(map[msr_bits[_i].byte], (uint8_t)~both);
    svm_msr(&world.vm, NULL, msr_bits[_i].index, VIRTX_READ | VIRTX_WRITE, true);
    for (unsigned i = 0; i < 8192; i++)
        ck_assert_uint_eq(map[i], 0xff);
    world_free();
}
END_TEST

/* Passing these through would show SVME or reach the host. */
START_TEST(forced_msrs)
{
    static const uint32_t forced[] = {MSR_EFER, MSR_PAT, MSR_APIC_BASE, MSR_VM_CR, MSR_VM_HSAVE_PA};
    struct virtx_intercept_config config = {.kind = VIRTX_INTERCEPT_MSR};
    bool always;

    world_make(0, true);
    for (size_t i = 0; i < ARRAY_SIZE(forced); i++) {
        svm_msr(&world.vm, NULL, forced[i], VIRTX_READ | VIRTX_WRITE, false);
        config.first = config.last = forced[i];
        ck_assert_int_eq(svm_intercept_check(&world.virtx, &config, &always), VIRTX_OK);
        ck_assert(always);
    }
    for (unsigned i = 0; i < 8192; i++)
        ck_assert_uint_eq(world.vm_data.msrpm[i], 0xff);
    config.first = config.last = 0x174;
    svm_intercept_check(&world.virtx, &config, &always);
    ck_assert(!always);
    world_free();
}
END_TEST

/* A vcpu gets maps of its own when it differs from its VM. */
/* The host save area is this CPU's own, and no entry happens without it. */
START_TEST(host_save_area)
{
    struct svm_cpu other = {0};
    uint64_t area;

    memset(&world, 0, sizeof(world));
    world_make(0, true);
    area = world.cpu.hsave_hpa;
    ck_assert_uint_ne(area, 0);
    svm_put(&world.sv->hw);
    world.msrs = 0;
    mock_wrmsr(MSR_VM_HSAVE_PA, 0);
    ck_assert_int_eq(svm_load(&world.sv->hw, &world.cpu), VIRTX_E_HOST_STATE);
    ck_assert_str_eq(world.vcpu.error.what, "VM_HSAVE_PA");
    mock_wrmsr(MSR_VM_HSAVE_PA, area);
    ck_assert_int_eq(svm_load(&world.sv->hw, &world.cpu), VIRTX_OK);
    svm_put(&world.sv->hw);
    world_efer &= ~EFER_SVME;
    ck_assert_int_eq(svm_load(&world.sv->hw, &world.cpu), VIRTX_E_HOST_STATE);
    ck_assert_str_eq(world.vcpu.error.what, "EFER.SVME");
    /* Another CPU has another area. */
    world.msrs = 0;
    ck_assert_int_eq(svm_cpu_enable(&world.virtx, &other, &world.virtx.error), VIRTX_OK);
    ck_assert_uint_ne(other.hsave_hpa, area);
    ck_assert_int_eq(svm_load(&world.sv->hw, &other), VIRTX_OK);
    svm_put(&world.sv->hw);
    world.msrs = 0;
    svm_cpu_disable(&world.virtx, &other);
    world_free();
}
END_TEST

START_TEST(own_maps)
{
    struct svm_vcpu *sv;

    world_make(0, true);
    sv = world.sv;
    ck_assert_uint_eq(sv->vmcb.control.iopm, (uintptr_t)world.vm_data.iopm);
    svm_ports(&world.vm, NULL, 0x60, 0x60, false);
    svm_ports(&world.vm, &sv->hw, 0x64, 0x64, false);
    ck_assert_uint_eq(sv->vmcb.control.iopm, (uintptr_t)sv->iopm);
    ck_assert(!(sv->iopm[0x64 / 8] >> 4 & 1) && !(sv->iopm[0x60 / 8] & 1));
    ck_assert(world.vm_data.iopm[0x64 / 8] >> 4 & 1);
    svm_msr(&world.vm, &sv->hw, 0x174, VIRTX_READ, false);
    ck_assert_uint_eq(sv->vmcb.control.msrpm, (uintptr_t)sv->msrpm);
    ck_assert_uint_eq(world.vm_data.msrpm[0x5d], 0xff);
    world_free();
}
END_TEST

/* ---- Controls ---- */

START_TEST(always_intercepted)
{
    struct vmcb_control *control;
    struct hw_vcpu *hv;

    world_make(0, true);
    hv = &world.sv->hw;
    control = &world.sv->vmcb.control;
    memset(&hv->controls, 0, sizeof(hv->controls));
    svm_controls(hv);
    ck_assert_uint_eq(control->exceptions, 1 << 1 | 1 << 17 | 1 << 18);
    ck_assert_uint_eq(control->misc1, VMCB_NMI | VMCB_INIT | VMCB_CPUID | VMCB_INVD | VMCB_INVLPGA |
                                          VMCB_IOIO | VMCB_MSR | VMCB_SHUTDOWN);
    ck_assert_uint_eq(control->misc2, VMCB_ICEBP | VMCB_VMRUN | VMCB_VMLOAD | VMCB_VMSAVE | VMCB_STGI |
                                          VMCB_CLGI | VMCB_SKINIT | VMCB_XSETBV | VMCB_RDPRU);
    ck_assert_uint_eq(control->v_intr_masking, 0);
    hv->controls.interrupts = hv->controls.hlt = hv->controls.hypercall = true;
    hv->controls.exceptions = UINT32_MAX;
    hv->controls.instructions = UINT64_MAX;
    hv->controls.dr_write = 0x80;
    svm_controls(hv);
    ck_assert_uint_eq(control->exceptions, ~(1u << 2));
    ck_assert_uint_eq(control->misc1 & (VMCB_INTR | VMCB_HLT | VMCB_RDTSC | VMCB_INVLPG),
                      VMCB_INTR | VMCB_HLT | VMCB_RDTSC | VMCB_INVLPG);
    ck_assert_uint_eq(control->misc2 & (VMCB_VMMCALL | VMCB_WBINVD), VMCB_VMMCALL | VMCB_WBINVD);
    ck_assert_uint_eq(control->misc3, VMCB_INVPCID);
    ck_assert_uint_eq(control->dr_write, 0x80);
    ck_assert_uint_eq(control->v_intr_masking, 1);
    ck_assert_uint_eq(control->pause_count, 0);
    hv->controls.pause = (struct virtx_pause_filter){.gap = 128, .window = 4096, .count = 100};
    svm_controls(hv);
    ck_assert(control->misc1 & VMCB_PAUSE);
    ck_assert_uint_eq(control->pause_count, 100);
    world_free();
}
END_TEST

/* CR0 writes exit only where the embedder asks: WP and TS change freely. */
START_TEST(cr0_masks)
{
    struct vmcb_control *control;
    struct hw_vcpu *hv;

    world_make(0, true);
    hv = &world.sv->hw;
    control = &world.sv->vmcb.control;
    hv->controls.cr0_mask = CR0_PG | CR0_CD;
    svm_controls(hv);
    ck_assert(!(control->cr_write & 1) && !(control->misc1 & VMCB_CR0_SELECTIVE));
    hv->controls.cr_write = 1;
    hv->controls.cr0_mask = CR0_WP;
    svm_controls(hv);
    ck_assert(!(control->cr_write & 1) && (control->misc1 & VMCB_CR0_SELECTIVE));
    hv->controls.cr0_mask = CR0_WP | CR0_TS;
    svm_controls(hv);
    ck_assert((control->cr_write & 1) && !(control->misc1 & VMCB_CR0_SELECTIVE));
    world_free();
}
END_TEST

/* The selective intercept knows nothing of TS and MP (AMD APM "CR0 Writes"): while these are the
 * host's all writes exit, and reads where they would show it. */
START_TEST(fpu_waits)
{
    struct vmcb_control *control;
    struct vmcb_save *save;
    struct hw_vcpu *hv;
    uint64_t cr0;

    world_make(0, true);
    hv = &world.sv->hw;
    control = &world.sv->vmcb.control;
    save = &world.sv->vmcb.save;
    cr0 = hw_state(hv, VIRTX_STATE_CR)->cr0 & ~(CR0_TS | CR0_MP | CR0_CD | CR0_NW);
    hv->state.cr0 = cr0;
    hv->dirty |= VIRTX_STATE_CR;
    world_exit(VMEXIT_INTR, 0, 0);
    ck_assert(!(control->misc1 & VMCB_TASK_SWITCH));
    hv->controls.cr_write = 0;
    hv->controls.cr0_mask = CR0_TS | CR0_MP;
    hv->controls.exceptions = 1u << VECTOR_NM;
    hv->controls.fpu_waits = true;
    svm_controls(hv);
    world_exit(VMEXIT_INTR, 0, 0);
    ck_assert_uint_eq(save->cr0, cr0 | CR0_TS | CR0_MP);
    ck_assert((control->cr_write & 1) && !(control->misc1 & VMCB_CR0_SELECTIVE));
    ck_assert(control->cr_read & 1);
    ck_assert(control->exceptions >> VECTOR_NM & 1);
    ck_assert(control->misc1 & VMCB_TASK_SWITCH);
    ck_assert_uint_eq(hw_state(hv, VIRTX_STATE_CR)->cr0, cr0);
    hw_change(hv, VIRTX_STATE_CR)->cr0 = cr0 | CR0_TS | CR0_MP;
    world_exit(VMEXIT_INTR, 0, 0);
    ck_assert((control->cr_write & 1) && !(control->cr_read & 1)); /* nothing to hide */
    ck_assert_uint_eq(hw_state(hv, VIRTX_STATE_CR)->cr0, cr0 | CR0_TS | CR0_MP);
    hw_change(hv, VIRTX_STATE_CR)->cr0 = cr0 | CR0_TS;
    world_exit(VMEXIT_INTR, 0, 0);
    hv->controls.cr0_mask = 0;
    hv->controls.exceptions = 0;
    hv->controls.fpu_waits = false;
    svm_controls(hv);
    world_exit(VMEXIT_INTR, 0, 0);
    ck_assert_uint_eq(save->cr0, cr0 | CR0_TS);
    ck_assert(!(control->cr_write & 1) && !(control->cr_read & 1));
    ck_assert(!(control->exceptions >> VECTOR_NM & 1) && !(control->misc1 & VMCB_TASK_SWITCH));
    world_free();
}
END_TEST

static const struct {
    uint32_t kind, access;
    uint64_t first, last;
    enum virtx_status status;
    bool forced;
} checks[] = {
    {VIRTX_INTERCEPT_PORT, 3, 0, 0xffff, VIRTX_OK, false},
    {VIRTX_INTERCEPT_CPUID, 0, 1, 1, VIRTX_OK, true},
    {VIRTX_INTERCEPT_EXCEPTION, 0, 6, 6, VIRTX_OK, false},
    {VIRTX_INTERCEPT_EXCEPTION, 0, 0, 31, VIRTX_OK, true},
    {VIRTX_INTERCEPT_EXCEPTION, 0, 2, 2, VIRTX_E_UNSUPPORTED, false},
    {VIRTX_INTERCEPT_CR, VIRTX_WRITE, 4, 4, VIRTX_OK, true},
    {VIRTX_INTERCEPT_CR, VIRTX_READ, 4, 4, VIRTX_OK, false},
    {VIRTX_INTERCEPT_CR, VIRTX_WRITE, 0, 0, VIRTX_OK, false},
    {VIRTX_INTERCEPT_CR, VIRTX_WRITE, 1, 1, VIRTX_E_UNSUPPORTED, false},
    {VIRTX_INTERCEPT_INSTRUCTION, 0, VIRTX_INSN_INVD, VIRTX_INSN_INVD, VIRTX_OK, true},
    {VIRTX_INTERCEPT_INSTRUCTION, 0, VIRTX_INSN_INVLPG, VIRTX_INSN_INVLPG, VIRTX_OK, false},
    {VIRTX_INTERCEPT_INSTRUCTION, 0, VIRTX_INSN_RDRAND, VIRTX_INSN_RDRAND, VIRTX_E_UNSUPPORTED,
     false},
    {VIRTX_INTERCEPT_INSTRUCTION, 0, VIRTX_INSN_INVPCID, VIRTX_INSN_INVPCID, VIRTX_E_UNSUPPORTED,
     false},
    {VIRTX_INTERCEPT_MSR, 3, 0x40000000, 0x40000000, VIRTX_OK, true},
};

START_TEST(intercepts)
{
    struct virtx_intercept_config config = {
        .kind = checks[_i].kind, .access = checks[_i].access, .first = checks[_i].first,
        .last = checks[_i].last};
    bool forced = !checks[_i].forced;

    world_make(0, true);
    ck_assert_int_eq(svm_intercept_check(&world.virtx, &config, &forced), checks[_i].status);
    if (checks[_i].status == VIRTX_OK)
        ck_assert_int_eq(forced, checks[_i].forced);
    world_free();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("svm caps");
    TCase *tests = tcase_create("all");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_checked_fixture(tests, setup, NULL);
    tcase_add_test(tests, virtual_priority);
    tcase_add_loop_test(tests, each_model, 0, (int)ARRAY_SIZE(models));
    tcase_add_test(tests, disabled);
    tcase_add_test(tests, refusals);
    tcase_add_test(tests, enable);
    tcase_add_test(tests, ports);
    tcase_add_loop_test(tests, msrs, 0, (int)ARRAY_SIZE(msr_bits));
    tcase_add_test(tests, forced_msrs);
    tcase_add_test(tests, host_save_area);
    tcase_add_test(tests, own_maps);
    tcase_add_test(tests, always_intercepted);
    tcase_add_test(tests, cr0_masks);
    tcase_add_test(tests, fpu_waits);
    tcase_add_loop_test(tests, intercepts, 0, (int)ARRAY_SIZE(checks));
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
