/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A processor in VMX operation for the unit tests of src/vmx: a VMCS as an array, MSRs, control
 * registers, and a vcpu with a 64-bit guest that every entry check accepts. Include it in one file
 * of a test.
 */
#ifndef VIRTX_TESTS_VMX_MOCK_H
#define VIRTX_TESTS_VMX_MOCK_H

#include "vmx/check.h"
#include "x86/cpu.h"
#include "vmx_models.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static uint64_t vmcs[0x7000];
static unsigned vmreads, vmwrites, wrmsrs, invepts, invvpids, vmclears, vmptrlds;
static uint32_t vmread_fields[64];
static enum vmx_fail next_fail;
static uint64_t live_msrs[16];
static bool post_model; /* the processor has posted interrupts, which no model has */
static uint64_t capability[18];
static uint64_t cr[9], dr[8];
static unsigned host_interrupts[32];
static struct vmx_ept_operand last_invept;
static struct vmx_vpid_operand last_invvpid;
static uint64_t last_invept_type, last_invvpid_type;

uint64_t mock_vmread(uint64_t field)
{
    ck_assert_uint_lt(field, 0x7000);
    if (vmreads < 64)
        vmread_fields[vmreads] = (uint32_t)field;
    vmreads++;
    return vmcs[field];
}

void mock_vmwrite(uint64_t field, uint64_t value)
{
    unsigned width = (unsigned)(field >> 13 & 3);

    ck_assert_uint_lt(field, 0x7000);
    ck_assert_msg((field >> 10 & 3) != 1, "VMWRITE to the read-only field %x", (unsigned)field);
    /* 16-bit, 64-bit, 32-bit, natural */
    vmcs[field] = width == 0 ? (uint16_t)value : width == 2 ? (uint32_t)value : value;
    vmwrites++;
}

static enum vmx_fail answer(void)
{
    enum vmx_fail fail = next_fail;

    next_fail = VMX_SUCCEED;
    return fail;
}

enum vmx_fail mock_vmxon(uint64_t hpa)
{
    ck_assert_uint_eq(hpa & 0xfff, 0);
    return answer();
}

enum vmx_fail mock_vmxoff(void)
{
    return answer();
}

enum vmx_fail mock_vmptrld(uint64_t hpa)
{
    ck_assert_uint_eq(hpa & 0xfff, 0);
    vmptrlds++;
    return answer();
}

enum vmx_fail mock_vmclear(uint64_t hpa)
{
    ck_assert_uint_eq(hpa & 0xfff, 0);
    vmclears++;
    return answer();
}

enum vmx_fail mock_invept(uint64_t type, const struct vmx_ept_operand *what)
{
    invepts++;
    last_invept = *what;
    last_invept_type = type;
    return VMX_SUCCEED;
}

enum vmx_fail mock_invvpid(uint64_t type, const struct vmx_vpid_operand *what)
{
    invvpids++;
    last_invvpid = *what;
    last_invvpid_type = type;
    return VMX_SUCCEED;
}

static uint64_t *msr_slot(uint32_t index)
{
    switch (index) {
    case MSR_STAR:
    case MSR_LSTAR:
    case MSR_CSTAR:
    case MSR_FMASK:
        return &live_msrs[index - MSR_STAR];
    case MSR_KERNEL_GS_BASE:
        return &live_msrs[4];
    case MSR_FS_BASE:
        return &live_msrs[5];
    case MSR_GS_BASE:
        return &live_msrs[6];
    case MSR_SYSENTER_CS:
    case MSR_SYSENTER_ESP:
    case MSR_SYSENTER_EIP:
        return &live_msrs[7 + index - MSR_SYSENTER_CS];
    case MSR_EFER:
        return &live_msrs[10];
    case MSR_PAT:
        return &live_msrs[11];
    case MSR_FEATURE_CONTROL:
        return &live_msrs[12];
    case MSR_DEBUGCTL:
        return &live_msrs[13];
    case 0x1b: /* IA32_APIC_BASE */
        return &live_msrs[14];
    default:
        ck_assert_msg(index >= 0x480 && index < 0x480 + 18, "MSR %x", index);
        return &capability[index - 0x480];
    }
}

uint64_t mock_rdmsr(uint32_t index)
{
    return *msr_slot(index);
}

void mock_wrmsr(uint32_t index, uint64_t value)
{
    wrmsrs++;
    *msr_slot(index) = value;
}

struct cpuid_regs mock_cpuid(uint32_t leaf, uint32_t subleaf)
{
    (void)subleaf;
    if (leaf == 1)
        return (struct cpuid_regs){.ebx = 5u << 24, .ecx = 1u << 5};
    return (struct cpuid_regs){.eax = leaf == 0x80000008 ? 0x3028 : 0x80000008, .ecx = 1u << 5};
}

uint64_t mock_irq_save(void)
{
    return 0;
}
void mock_irq_restore(uint64_t flags)
{
    (void)flags;
}
void mock_irq_window(void)
{
}
uint64_t mock_read_cr(unsigned n)
{
    return cr[n];
}
void mock_write_cr(unsigned n, uint64_t value)
{
    cr[n] = value;
}
uint64_t mock_read_dr(unsigned n)
{
    return dr[n];
}
void mock_write_dr(unsigned n, uint64_t value)
{
    dr[n] = value;
}
/* As src/hw's. */
void hw_single_step(struct hw_vcpu *hv_)
{
    if (hw_state(hv_, VIRTX_STATE_DR)->debugctl & DEBUGCTL_BTF)
        return;
    hw_change(hv_, VIRTX_STATE_INTR)->pending_debug |= DR6_BS;
    hv_->work |= HW_WORK_EVENT;
}

void mock_interrupt(unsigned vector);
void mock_interrupt(unsigned vector)
{
    host_interrupts[vector]++;
}

/* ---- The host ---- */

#define ARENA_PAGES 64
#define ARENA_HPA   0x100000ull
static _Alignas(4096) uint8_t arena[ARENA_PAGES][4096];
static bool arena_used[ARENA_PAGES];
static unsigned pages_out;
static unsigned pages_until_failure = 1000;

static void *host_alloc(void *ctx, size_t count)
{
    (void)ctx;
    if (pages_until_failure == 0)
        return NULL;
    pages_until_failure--;
    for (size_t i = 0, run = 0; i < ARENA_PAGES; i++) {
        run = arena_used[i] ? 0 : run + 1;
        if (run < count)
            continue;
        memset(&arena_used[i + 1 - count], true, count);
        pages_out += (unsigned)count;
        return arena[i + 1 - count];
    }
    return NULL;
}
static struct vmx_vcpu v;
#define V_HPA 0x800000ull
static uint64_t host_phys(void *ctx, const void *va)
{
    (void)ctx;
    if ((const uint8_t *)va >= (const uint8_t *)&v &&
        (const uint8_t *)va < (const uint8_t *)(&v + 1))
        return V_HPA + (uint64_t)((const uint8_t *)va - (const uint8_t *)&v);
    ck_assert((const uint8_t *)va >= arena[0] && (const uint8_t *)va < arena[0] + sizeof(arena));
    return ARENA_HPA + (uint64_t)((const uint8_t *)va - arena[0]);
}
static void *host_virt(void *ctx, uint64_t hpa)
{
    (void)ctx;
    return arena[0] + (hpa - ARENA_HPA);
}
static void host_free(void *ctx, void *pages, size_t count)
{
    memset(&arena_used[(host_phys(ctx, pages) - ARENA_HPA) / 4096], false, count);
    pages_out -= (unsigned)count;
}
static uint32_t host_cpu(void *ctx)
{
    (void)ctx;
    return 0;
}
static void host_kick(void *ctx, uint32_t cpu)
{
    (void)ctx;
    (void)cpu;
}

/* ---- A vcpu ---- */

static const struct virtx_paging mock_paging = {
    .size = sizeof(mock_paging), .nested = true, .name = "mock"};
static struct virtx virtx;
static struct virtx_vm vm;
static struct virtx_vcpu vcpu;
static struct vmx_vm vm_data;
static struct vmx_cpu cpu_data;
static struct vmx_vcpu v;
static struct hw_vcpu *const hv = &v.hw;

static struct virtx_segment segment(uint16_t selector, uint32_t limit, uint32_t attributes)
{
    return (struct virtx_segment){.selector = selector, .limit = limit, .attributes = attributes};
}

static void guest_64(struct virtx_state *s)
{
    memset(s, 0, sizeof(*s));
    s->rip = 0x4000;
    s->gpr[VIRTX_RSP] = 0x8000;
    s->rflags = 2;
    s->cr0 = CR0_PG | CR0_NE | CR0_ET | CR0_PE;
    s->cr3 = 0x1000;
    s->cr4 = CR4_PAE;
    s->efer = EFER_LME | EFER_LMA;
    for (unsigned i = 0; i < 6; i++)
        s->seg[i] = segment(0x10, 0xffffffff, 0xc093);
    s->seg[VIRTX_CS] = segment(8, 0xffffffff, 0xa09b);
    s->seg[VIRTX_LDTR] = segment(0, 0xffff, 0x82);
    s->seg[VIRTX_TR] = segment(0, 0xffff, 0x8b);
    s->gdtr.limit = s->idtr.limit = 0xffff;
    s->dr7 = 0x400;
    s->dr6 = 0xffff0ff0;
    s->pat = 0x0007040600070406;
    s->xcr0 = 1;
}

/* A host in 64-bit mode with VMX on, and a vcpu that has never been loaded. */
static void make_vcpu(const char *model, uint64_t disable)
{
    memset(vmcs, 0, sizeof(vmcs));
    memset(&v, 0, sizeof(v));
    memset(&vcpu, 0, sizeof(vcpu));
    memset(&cpu_data, 0, sizeof(cpu_data));
    memset(live_msrs, 0, sizeof(live_msrs));
    memset(host_interrupts, 0, sizeof(host_interrupts));
    next_fail = VMX_SUCCEED;
    for (size_t i = 0; i < sizeof(vmx_models) / sizeof(vmx_models[0]); i++) {
        if (strcmp(vmx_models[i].name, model) == 0)
            memcpy(capability, vmx_models[i].msr, sizeof(capability));
    }
    cr[0] = CR0_PG | CR0_WP | CR0_NE | CR0_ET | CR0_MP | CR0_PE;
    cr[3] = 0x5000;
    cr[4] = CR4_PAE | CR4_MCE | CR4_VMXE;
    live_msrs[10] = EFER_LME | EFER_LMA | EFER_NXE;
    live_msrs[11] = 0x0007040600070406;
    virtx.ops = (struct virtx_host_ops){.pages_alloc = host_alloc,
                                        .pages_free = host_free,
                                        .virt_to_phys = host_phys,
                                        .phys_to_virt = host_virt,
                                        .this_cpu = host_cpu,
                                        .kick_cpu = host_kick};
    if (post_model) {
        capability[13] |= (uint64_t)PIN_POSTED_INTERRUPT << 32;
        virtx.ops.posted_vector = 0xf2;
    }
    virtx.caps.physical_bits = 40;
    vmx_caps_read(&cpu_data.caps);
    virtx.caps.features = vmx_caps_features(vmx_caps_hardware(&cpu_data.caps), disable);
    virtx.caps.tlb_tags = virtx.caps.features & VIRTX_FEATURE_TLB_TAGS ? 0xffff : 0;
    ck_assert_int_eq(vmx_caps_negotiate(&cpu_data.caps, virtx.caps.features, cpu_data.base, NULL),
                     VIRTX_OK);
    vm.virtx = &virtx;
    vm.paging = &mock_paging;
    vm.backend_data = &vm_data;
    ck_assert_int_eq(vmx_vm_create(&vm, &vm_data), VIRTX_OK);
    vcpu.vm = &vm;
    vcpu.virtx = &virtx;
    vcpu.backend_data = &v;
    hv->vcpu = &vcpu;
    hv->tag = virtx.caps.tlb_tags ? 1 : 0;
    hv->controls.interrupts = true;
    hv->controls.hlt = true;
    guest_64(&hv->state);
    hv->valid = VIRTX_STATE_ALL;
    ck_assert_int_eq(vmx_vcpu_create(hv), VIRTX_OK);
}

/* … and one whose state is in the VMCS, as entry.S would find it. */
static void load_vcpu(const char *model, uint64_t disable)
{
    extern const struct virtx_hw vmx_hw_for_reads;

    make_vcpu(model, disable);
    hv->ops = &vmx_hw_for_reads;
    ck_assert_int_eq(vmx_load(hv, &cpu_data), VIRTX_OK);
    vmx_controls(hv);
    vmx_set_root(hv, 0x200000);
    vmx_host_refresh(&v);
    vmx_write(&v, hv->dirty & VIRTX_STATE_ALL);
    hv->dirty = 0;
    vmreads = vmwrites = wrmsrs = invepts = invvpids = vmclears = vmptrlds = 0;
}

static void drop_vcpu(void)
{
    vmx_vcpu_destroy(hv);
    vmx_vm_destroy(&vm, &vm_data);
    ck_assert_uint_eq(pages_out, 0);
}

/* What hw_state() calls; the whole table would pull in all of src/hw. */
extern const struct virtx_hw vmx_hw_for_reads;
const struct virtx_hw vmx_hw_for_reads = {.name = "vmx", .read = vmx_read};

#endif
