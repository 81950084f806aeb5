/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The host's own state: what exits load from the VMCS, and what the library puts back itself.
 *
 * Exits load CR0, CR3, CR4, segments with the bases of FS, GS, TR, GDTR and IDTR, SYSENTER, EFER
 * and PAT (Intel SDM "Loading Host State"). Five MSRs are switched by nobody; while the vcpu is
 * loaded the guest's values stay in the processor, until the host's profile wants its own back.
 * Exits clear LDTR and DEBUGCTL and set the limits of GDTR and IDTR to 0xffff; those go back
 * likewise.
 */
#include "vmx/vmx.h"
#include "x86/cpu.h"

#define PROFILE_FS_GS (VIRTX_HOST_FS_BASE | VIRTX_HOST_GS_BASE)

static const struct {
    uint32_t index;
    uint32_t profile;
    uint16_t offset; /* in struct virtx_state */
} live[VMX_LIVE_MSRS] = {
    {MSR_STAR, VIRTX_HOST_SYSCALL, offsetof(struct virtx_state, star)},
    {MSR_LSTAR, VIRTX_HOST_SYSCALL, offsetof(struct virtx_state, lstar)},
    {MSR_CSTAR, VIRTX_HOST_SYSCALL, offsetof(struct virtx_state, cstar)},
    {MSR_FMASK, VIRTX_HOST_SYSCALL, offsetof(struct virtx_state, fmask)},
    {MSR_KERNEL_GS_BASE, VIRTX_HOST_KERNEL_GS_BASE, offsetof(struct virtx_state, kernel_gs_base)},
};

static uint64_t *live_state(struct vmx_vcpu *v, unsigned i)
{
    return (uint64_t *)(void *)((uint8_t *)&v->hw.state + live[i].offset);
}

static uint32_t whole_profile(const struct vmx_vcpu *v)
{
    const struct virtx_host_profile *profile = &v->hw.vcpu->virtx->profile;
    return profile->at_exit | profile->at_return | profile->at_put;
}

#ifdef VIRTX_UNIT
/* Selectors and descriptor tables of a host that the unit tests do not have. */
static void read_tables(struct vmx_host *host)
{
    memset(host, 0, sizeof(*host));
}
static uint16_t selector_of(unsigned seg)
{
    return seg == VIRTX_TR ? 0x40 : 8;
}
static uint64_t tr_base(const struct vmx_host *host)
{
    (void)host;
    return 0x1000;
}
#define load_ldt(selector)    ((void)(selector))
#define load_fs(selector)     ((void)(selector))
#define load_gs(selector)     ((void)(selector))
#define load_gdtr(descriptor) ((void)(descriptor))
#define load_idtr(descriptor) ((void)(descriptor))
#else
static void read_tables(struct vmx_host *host)
{
    __asm__ volatile("sgdt %0" : "=m"(host->gdtr));
    __asm__ volatile("sidt %0" : "=m"(host->idtr));
    __asm__ volatile("sldt %0" : "=m"(host->ldt));
    __asm__ volatile("mov %%fs, %0" : "=m"(host->fs));
    __asm__ volatile("mov %%gs, %0" : "=m"(host->gs));
}
static uint16_t selector_of(unsigned seg)
{
    uint16_t selector = 0;

    switch (seg) {
    case VIRTX_ES:
        __asm__ volatile("mov %%es, %0" : "=m"(selector));
        break;
    case VIRTX_CS:
        __asm__ volatile("mov %%cs, %0" : "=m"(selector));
        break;
    case VIRTX_SS:
        __asm__ volatile("mov %%ss, %0" : "=m"(selector));
        break;
    case VIRTX_DS:
        __asm__ volatile("mov %%ds, %0" : "=m"(selector));
        break;
    default:
        __asm__ volatile("str %0" : "=m"(selector));
        break;
    }
    return selector;
}
/* From the TSS descriptor in the GDT (Intel SDM "TSS Descriptor in 64-bit mode"). */
static uint64_t tr_base(const struct vmx_host *host)
{
    const uint8_t *entry =
        (const uint8_t *)(uintptr_t)(host->gdtr.base + (selector_of(VIRTX_TR) & 0xfff8));
    uint64_t low, high;

    memcpy(&low, entry, 8);
    memcpy(&high, entry + 8, 8);
    return (low >> 16 & 0xffffff) | (low >> 56) << 24 | high << 32;
}
static void load_ldt(uint16_t selector)
{
    __asm__ volatile("lldt %0" : : "r"(selector) : "memory");
}
static void load_fs(uint16_t selector)
{
    __asm__ volatile("mov %0, %%fs" : : "r"((uint32_t)selector) : "memory");
}
static void load_gs(uint16_t selector)
{
    __asm__ volatile("mov %0, %%gs" : : "r"((uint32_t)selector) : "memory");
}
#define load_gdtr(descriptor) __asm__ volatile("lgdt %0" : : "m"(descriptor) : "memory")
#define load_idtr(descriptor) __asm__ volatile("lidt %0" : : "m"(descriptor) : "memory")
#endif

/* Exits cannot load a selector with RPL or TI; a null one does in 64-bit mode, and the profile's FS
 * and GS are put back whole by vmx_to_host(). */
static uint16_t loadable(uint16_t selector)
{
    return selector & 7 ? 0 : selector;
}

/* All that depends on the CPU: written when a vcpu is loaded on it. */
void vmx_host_save(struct vmx_vcpu *v)
{
    struct vmx_host *host = &v->host;
    uint32_t profile = whole_profile(v);

    v->host_moves = (profile & PROFILE_FS_GS) != 0;
    read_tables(host);
    host->cr0 = x86_read_cr0();
    host->cr3 = x86_read_cr3();
    host->cr4 = x86_read_cr4();
    host->fs_base = x86_rdmsr(MSR_FS_BASE);
    host->gs_base = x86_rdmsr(MSR_GS_BASE);
    host->debugctl = 0;
    if (profile & VIRTX_HOST_DEBUGCTL) {
        bool trapped; /* Bochs has the VMCS fields of IA32_DEBUGCTL, but no such MSR */

        host->debugctl = hw_rdmsr_trapped(MSR_DEBUGCTL, &trapped);
    }
    for (unsigned i = 0; i < VMX_LIVE_MSRS; i++)
        host->msr[i] = profile & live[i].profile ? x86_rdmsr(live[i].index) : 0;
    vmx_set_field(v, VMCS_HOST_CR0, host->cr0);
    vmx_set_field(v, VMCS_HOST_CR3, host->cr3);
    vmx_set_field(v, VMCS_HOST_CR4, host->cr4);
    vmx_set_field(v, VMCS_HOST_ES_SELECTOR, loadable(selector_of(VIRTX_ES)));
    vmx_set_field(v, VMCS_HOST_CS_SELECTOR, selector_of(VIRTX_CS));
    vmx_set_field(v, VMCS_HOST_SS_SELECTOR, loadable(selector_of(VIRTX_SS)));
    vmx_set_field(v, VMCS_HOST_DS_SELECTOR, loadable(selector_of(VIRTX_DS)));
    vmx_set_field(v, VMCS_HOST_FS_SELECTOR, loadable(host->fs));
    vmx_set_field(v, VMCS_HOST_GS_SELECTOR, loadable(host->gs));
    vmx_set_field(v, VMCS_HOST_TR_SELECTOR, selector_of(VIRTX_TR));
    vmx_set_field(v, VMCS_HOST_FS_BASE, host->fs_base);
    vmx_set_field(v, VMCS_HOST_GS_BASE, host->gs_base);
    vmx_set_field(v, VMCS_HOST_TR_BASE, tr_base(host));
    vmx_set_field(v, VMCS_HOST_GDTR_BASE, host->gdtr.base);
    vmx_set_field(v, VMCS_HOST_IDTR_BASE, host->idtr.base);
    vmx_set_field(v, VMCS_HOST_SYSENTER_CS, x86_rdmsr(MSR_SYSENTER_CS));
    vmx_set_field(v, VMCS_HOST_SYSENTER_ESP, x86_rdmsr(MSR_SYSENTER_ESP));
    vmx_set_field(v, VMCS_HOST_SYSENTER_EIP, x86_rdmsr(MSR_SYSENTER_EIP));
    if (v->cpu->base[VMX_EXIT] & EXIT_LOAD_EFER)
        vmx_set_field(v, VMCS_HOST_EFER, x86_rdmsr(MSR_EFER));
    if (v->cpu->base[VMX_EXIT] & EXIT_LOAD_PAT)
        vmx_set_field(v, VMCS_HOST_PAT, x86_rdmsr(MSR_PAT));
}

/* What the host may have changed since run last returned; then the guest's MSRs. */
void vmx_host_refresh(struct vmx_vcpu *v)
{
    struct vmx_host *host = &v->host;
    uint64_t cr3 = x86_read_cr3(), cr4 = x86_read_cr4();

    if (host->cr3 != cr3) {
        host->cr3 = cr3;
        vmx_set_field(v, VMCS_HOST_CR3, cr3);
    }
    if (host->cr4 != cr4) {
        host->cr4 = cr4;
        vmx_set_field(v, VMCS_HOST_CR4, cr4);
    }
    if (v->host_moves) {
        uint64_t fs = x86_rdmsr(MSR_FS_BASE), gs = x86_rdmsr(MSR_GS_BASE);

        if (host->fs_base != fs) {
            host->fs_base = fs;
            vmx_set_field(v, VMCS_HOST_FS_BASE, fs);
        }
        if (host->gs_base != gs) {
            host->gs_base = gs;
            vmx_set_field(v, VMCS_HOST_GS_BASE, gs);
        }
    }
    if (v->live != VMX_LIVE_ALL) {
        v->live = VMX_LIVE_ALL;
        vmx_live_write(v);
    }
}

/* The guest's live MSRs to the processor … */
void vmx_live_write(struct vmx_vcpu *v)
{
    for (unsigned i = 0; i < VMX_LIVE_MSRS; i++) {
        if (v->live >> i & 1) {
            x86_wrmsr(live[i].index, *live_state(v, i));
            v->hw.vcpu->stats.msr_writes++;
        }
    }
}

/* … and back. */
void vmx_live_read(struct vmx_vcpu *v)
{
    for (unsigned i = 0; i < VMX_LIVE_MSRS; i++) {
        if (v->live >> i & 1)
            *live_state(v, i) = x86_rdmsr(live[i].index);
    }
}

static void live_to_host(struct vmx_vcpu *v, uint32_t mask)
{
    for (unsigned i = 0; i < VMX_LIVE_MSRS; i++) {
        if (!(v->live >> i & 1) || !(live[i].profile & mask))
            continue;
        if (!(v->hw.valid & VIRTX_STATE_SYSCALL))
            *live_state(v, i) = x86_rdmsr(live[i].index);
        v->live &= (uint8_t) ~(1u << i);
        x86_wrmsr(live[i].index, v->host.msr[i]);
        v->hw.vcpu->stats.msr_writes++;
    }
}

static void fs_gs_to_host(const struct vmx_host *host)
{
    if (host->fs & 7) {
        load_fs(host->fs);
        x86_wrmsr(MSR_FS_BASE, host->fs_base);
    }
    if (host->gs & 7) {
        load_gs(host->gs);
        x86_wrmsr(MSR_GS_BASE, host->gs_base);
    }
}

void vmx_to_host(struct hw_vcpu *hv, uint32_t mask)
{
    struct vmx_vcpu *v = vmx_of(hv);
    const struct vmx_host *host = &v->host;

    hv->dirty |= VMX_DIRTY_HOST;
    if (mask == 0)
        return;
    if (mask & (VIRTX_HOST_SYSCALL | VIRTX_HOST_KERNEL_GS_BASE))
        live_to_host(v, mask);
    if (mask & PROFILE_FS_GS)
        fs_gs_to_host(host);
    if ((mask & VIRTX_HOST_LDT) && host->ldt)
        load_ldt(host->ldt);
    if (mask & VIRTX_HOST_DESCRIPTOR_LIMITS) {
        load_gdtr(host->gdtr);
        load_idtr(host->idtr);
    }
    if ((mask & VIRTX_HOST_DEBUGCTL) && host->debugctl)
        x86_wrmsr(MSR_DEBUGCTL, host->debugctl);
}
