/* SPDX-License-Identifier: BSD-2-Clause */
/* See svm_world.h. Stands in for entry.S, the processor, and what src/svm asks of src/hw. */
#include <stdlib.h>
#include "hw/service.h"
#include "svm_world.h"

struct svm_world world;
struct cpuid_regs (*world_cpuid)(uint32_t leaf, uint32_t subleaf);
uint64_t world_vm_cr, world_efer;
static uint64_t world_hsave;

/* ---- The processor ---- */

static void run(struct svm_vcpu *sv)
{
    ck_assert_ptr_eq(sv, world.sv);
    ck_assert_uint_eq(sv->vmcb_hpa, (uintptr_t)&sv->vmcb);
    world.vmruns++;
    world.processor(&world);
}

uint32_t svm_vmrun(struct svm_vcpu *sv)
{
    run(sv);
    return svm_exited(sv);
}

uint32_t svm_vmrun_keep(struct svm_vcpu *sv)
{
    return svm_vmrun(sv);
}

uint32_t svm_vmrun_switch(struct svm_vcpu *sv)
{
    ck_assert_uint_eq(sv->host_hpa, world.cpu.host_hpa);
    svm_vmload(sv->vmcb_hpa);
    run(sv);
    svm_vmsave(sv->vmcb_hpa);
    svm_vmload(sv->host_hpa);
    return svm_exited(sv);
}

/* AMD APM volume 3, "VMLOAD", "VMSAVE": FS, GS, TR, LDTR and eight MSRs. */
static void move_extra(struct vmcb_save *to, const struct vmcb_save *from)
{
    to->fs = from->fs;
    to->gs = from->gs;
    to->tr = from->tr;
    to->ldtr = from->ldtr;
    to->kernel_gs_base = from->kernel_gs_base;
    to->star = from->star;
    to->lstar = from->lstar;
    to->cstar = from->cstar;
    to->sfmask = from->sfmask;
    to->sysenter_cs = from->sysenter_cs;
    to->sysenter_esp = from->sysenter_esp;
    to->sysenter_eip = from->sysenter_eip;
}

void svm_vmload(uint64_t hpa)
{
    world.vmloads++;
    world.last_vmload = hpa;
    move_extra(&world.loaded, &((struct vmcb *)(uintptr_t)hpa)->save);
}

void svm_vmsave(uint64_t hpa)
{
    world.vmsaves++;
    move_extra(&((struct vmcb *)(uintptr_t)hpa)->save, &world.loaded);
}

void svm_clgi(void)
{
}

void svm_stgi(void)
{
}

struct cpuid_regs mock_cpuid(uint32_t leaf, uint32_t subleaf)
{
    return world_cpuid ? world_cpuid(leaf, subleaf) : (struct cpuid_regs){0};
}

uint64_t mock_rdmsr(uint32_t index)
{
    return index == MSR_VM_CR         ? world_vm_cr
           : index == MSR_EFER        ? world_efer
           : index == MSR_VM_HSAVE_PA ? world_hsave
                                      : 0;
}

void mock_wrmsr(uint32_t index, uint64_t value)
{
    if (index == MSR_EFER)
        world_efer = value;
    if (index == MSR_VM_HSAVE_PA)
        world_hsave = value;
    ck_assert_uint_lt(world.msrs, 4);
    world.msr_index[world.msrs] = index;
    world.msr[world.msrs++] = value;
}

uint64_t mock_read_cr(unsigned n)
{
    return n == 4 ? CR4_PAE | CR4_MCE : 0;
}

void mock_write_cr(unsigned n, uint64_t value)
{
    ck_assert_uint_eq(n, 2);
    world.cr2 = value;
}

uint64_t mock_read_dr(unsigned n)
{
    return n == 6 ? world.dr6 : 0;
}

void mock_write_dr(unsigned n, uint64_t value)
{
    if (n == 6)
        world.dr6 = value;
}

/* ---- src/hw and src/core ---- */

const struct insn *hw_insn(struct hw_vcpu *hv)
{
    static struct insn insn;
    const struct svm_vcpu *sv = svm_of(hv);
    enum insn_mode mode = svm_is_64bit(sv)                                  ? INSN_64_AMD
                          : sv->vmcb.save.cs.attributes & VMCB_ATTRIBUTE_DB ? INSN_32
                                                                            : INSN_16;
    enum insn_result result = insn_decode(&insn, world.code, world.code_bytes, mode);

    return result == INSN_OK || result == INSN_UNKNOWN ? &insn : NULL;
}

enum hw_access_result hw_linear_read(struct hw_vcpu *hv, uint64_t linear, void *buffer,
                                     size_t bytes, struct virtx_event *event)
{
    (void)hv;
    (void)event;
    if (linear != world.memory_at)
        return HW_ACCESS_FAULT;
    memcpy(buffer, &world.memory_word, bytes);
    return HW_ACCESS_OK;
}

enum hw_access_result hw_linear_write(struct hw_vcpu *hv, uint64_t linear, const void *buffer,
                                      size_t bytes, struct virtx_event *event)
{
    (void)hv;
    (void)event;
    if (linear != world.memory_at)
        return HW_ACCESS_FAULT;
    memcpy(&world.memory_word, buffer, bytes);
    return HW_ACCESS_OK;
}

void hw_gpr_write(struct hw_vcpu *hv, unsigned reg, uint64_t value, unsigned size)
{
    uint64_t mask = size == 8 ? UINT64_MAX : (1ull << 8 * size) - 1;

    hv->state.gpr[reg] = (size == 4 ? 0 : hv->state.gpr[reg] & ~mask) | (value & mask);
}

void hw_host_machine_check(struct virtx *virtx)
{
    ck_assert_ptr_eq(virtx, &world.virtx);
    world.machine_checks++;
}

void hw_single_step(struct hw_vcpu *hv)
{
    hw_change(hv, VIRTX_STATE_INTR)->pending_debug |= DR6_BS;
    hv->work |= HW_WORK_EVENT;
}

enum virtx_status virtx_gpa_read(struct virtx_vm *vm, uint64_t gpa, void *buffer, size_t bytes)
{
    (void)vm;
    memset(buffer, (int)(gpa >> 12), bytes);
    return VIRTX_OK;
}

void *virtx_pages_alloc(struct virtx *virtx, size_t pages)
{
    void *memory = NULL;

    (void)virtx;
    ck_assert_int_eq(posix_memalign(&memory, VIRTX_PAGE_SIZE, pages * VIRTX_PAGE_SIZE), 0);
    memset(memory, 0, pages * VIRTX_PAGE_SIZE);
    return memory;
}

void virtx_pages_free(struct virtx *virtx, void *memory, size_t pages)
{
    (void)virtx;
    (void)pages;
    free(memory);
}

static uint64_t virt_to_phys(void *ctx, const void *va)
{
    (void)ctx;
    return (uintptr_t)va;
}

static void kick_cpu(void *ctx, uint32_t cpu)
{
    (void)ctx;
    ck_assert_uint_eq(cpu, 0);
    world.kicks++;
}

/* ---- The vcpu ---- */

/* Only what is reached through the table: naming svm_hw would link all of src/hw. */
static const struct virtx_hw world_hw = {.name = "svm", .read = svm_read};

static void long_mode(struct virtx_state *state)
{
    static const struct virtx_segment data = {
        .limit = 0xffffffff, .attributes = 0xc093, .selector = 0x10};

    memset(state, 0, sizeof(*state));
    for (unsigned i = 0; i < VIRTX_SEG_COUNT; i++)
        state->seg[i] = data;
    state->seg[VIRTX_CS].attributes = 0xa09b;
    state->seg[VIRTX_CS].selector = 8;
    state->seg[VIRTX_LDTR].attributes = 0x10002;
    state->seg[VIRTX_TR].attributes = 0x8b;
    state->rip = 0x1000;
    state->rflags = RFLAGS_FIXED;
    state->cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_NE | CR0_ET;
    state->cr3 = 0x5000;
    state->cr4 = CR4_PAE;
    state->efer = EFER_LME | EFER_LMA;
    state->dr6 = 0xffff0ff0;
    state->dr7 = 0x400;
    state->pat = 0x0007040600070406;
}

void world_make(uint64_t features, bool nested)
{
    void *memory = NULL;

    memset(&world, 0, sizeof(world));
    world.virtx.ops.virt_to_phys = virt_to_phys;
    world.virtx.ops.kick_cpu = kick_cpu;
    world.virtx.caps.features = features;
    world.virtx.caps.physical_bits = 48;
    world.paging.nested = nested;
    world.vm.virtx = &world.virtx;
    world.vm.paging = &world.paging;
    world.vm.backend_data = &world.vm_data;
    world.vcpu.vm = &world.vm;
    world.vcpu.virtx = &world.virtx;
    ck_assert_int_eq(posix_memalign(&memory, 4096, sizeof(struct svm_vcpu)), 0);
    memset(memory, 0, sizeof(struct svm_vcpu));
    world.sv = memory;
    world.sv->hw.vcpu = &world.vcpu;
    world.sv->hw.ops = &world_hw;
    world.vcpu.backend_data = world.sv;
    world.sv->hw.tag = 3;
    long_mode(&world.sv->hw.state);
    world.sv->hw.valid = world.sv->hw.dirty = VIRTX_STATE_ALL;
    world.sv->hw.controls.interrupts = world.sv->hw.controls.hlt = true;
    world_efer = EFER_LME | EFER_LMA;
    ck_assert_int_eq(svm_vm_create(&world.vm, &world.vm_data), VIRTX_OK);
    ck_assert_int_eq(svm_vcpu_create(&world.sv->hw), VIRTX_OK);
    ck_assert_int_eq(svm_cpu_enable(&world.virtx, &world.cpu, &world.virtx.error), VIRTX_OK);
    ck_assert_int_eq(svm_load(&world.sv->hw, &world.cpu), VIRTX_OK);
    world.msrs = 0;
}

void world_free(void)
{
    world.msrs = 0;
    svm_vcpu_destroy(&world.sv->hw);
    svm_vm_destroy(&world.vm, &world.vm_data);
    svm_cpu_disable(&world.virtx, &world.cpu);
    free(world.sv);
    world.sv = NULL;
}

static uint64_t exit_words[3];
static void leave(struct svm_world *w)
{
    struct vmcb_control *control = &w->sv->vmcb.control;

    control->exit_code = exit_words[0];
    control->exit_info1 = exit_words[1];
    control->exit_info2 = exit_words[2];
}

enum virtx_status world_enter(void)
{
    struct hw_vcpu *hv = &world.sv->hw;
    uint32_t reason = svm_enter(hv);

    ck_assert_uint_eq(reason, hv->vcpu->exit.reason);
    return reason == HW_EXIT_REFUSED ? hv->refusal : VIRTX_OK;
}

enum virtx_status world_exit(uint64_t code, uint64_t info1, uint64_t info2)
{
    exit_words[0] = code;
    exit_words[1] = info1;
    exit_words[2] = info2;
    world.processor = leave;
    return world_enter();
}
