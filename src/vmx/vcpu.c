/* SPDX-License-Identifier: BSD-2-Clause */
/* The life of a VM's and a vcpu's hardware structures; putting a vcpu on a CPU and taking it off.
 */
#include "vmx/vmx.h"
#include "x86/cpu.h"

#define BASIC_REVISION 0x7fffffffull
#define INVEPT_ONE     (1ull << 25)

enum virtx_status vmx_vm_create(struct virtx_vm *vm, void *data)
{
    struct vmx_vm *vmx = data;

    vmx->io_bitmap = virtx_pages_alloc(vm->virtx, 2);
    vmx->msr_bitmap = virtx_pages_alloc(vm->virtx, 1);
    if (!vmx->io_bitmap || !vmx->msr_bitmap) {
        vmx_vm_destroy(vm, data);
        return virtx_fail(&vm->error, VIRTX_E_NO_MEMORY, "ops.pages_alloc",
                          "the host has no pages for the bitmaps", 3);
    }
    vmx_bitmaps_init(vmx->io_bitmap, vmx->msr_bitmap);
    return VIRTX_OK;
}

void vmx_vm_destroy(struct virtx_vm *vm, void *data)
{
    struct vmx_vm *vmx = data;

    if (vmx->io_bitmap)
        virtx_pages_free(vm->virtx, vmx->io_bitmap, 2);
    if (vmx->msr_bitmap)
        virtx_pages_free(vm->virtx, vmx->msr_bitmap, 1);
    vmx->io_bitmap = vmx->msr_bitmap = NULL;
}

/* The VMCS gets its content when it is first loaded: VMWRITE needs a CPU in VMX operation. */
enum virtx_status vmx_vcpu_create(struct hw_vcpu *hv)
{
    struct vmx_vcpu *v = vmx_of(hv);
    struct virtx_vcpu *vcpu = hv->vcpu;
    struct virtx *virtx = vcpu->virtx;

    v->vmcs = virtx_pages_alloc(virtx, 1);
    if (v->vmcs && !vmx_has(v, VIRTX_FEATURE_EFER_SWITCH)) {
        v->msr_area = virtx_pages_alloc(virtx, 1);
        if (!v->msr_area) {
            virtx_pages_free(virtx, v->vmcs, 1);
            v->vmcs = NULL;
        }
    }
    if (v->vmcs && vmx_has(v, VIRTX_FEATURE_DIRTY_LOGGING)) {
        v->page_log = virtx_pages_alloc(virtx, 1);
        if (v->page_log)
            memset(v->page_log, 0xff, VIRTX_PAGE_SIZE); /* VMX_PAGE_LOG_NONE */
        else
            vmx_vcpu_destroy(hv);
    }
    if (!v->vmcs)
        return virtx_fail(&vcpu->vm->error, VIRTX_E_NO_MEMORY, "ops.pages_alloc",
                          "the host has no page for the VMCS", 1);
    *(uint32_t *)v->vmcs = (uint32_t)(x86_rdmsr(MSR_VMX_BASIC) & BASIC_REVISION);
    v->vmcs_hpa = virtx_hpa(virtx, v->vmcs);
    v->nested = vcpu->vm->paging->nested;
    v->fresh = true;
    hv->dirty |= VIRTX_STATE_ALL;
    hv->returned = VMX_DIRTY_HOST;
    if (vmx_mode_create(v) != VIRTX_OK || vmx_apic_create(v) != VIRTX_OK) {
        vmx_vcpu_destroy(hv);
        return VIRTX_E_NO_MEMORY;
    }
    return VIRTX_OK;
}

void vmx_vcpu_destroy(struct hw_vcpu *hv)
{
    struct vmx_vcpu *v = vmx_of(hv);
    struct virtx *virtx = hv->vcpu->virtx;

    vmx_bitmaps_destroy(hv);
    vmx_mode_destroy(v);
    vmx_apic_destroy(v);
    if (v->msr_area)
        virtx_pages_free(virtx, v->msr_area, 1);
    if (v->page_log) {
        vmx_drain(hv);
        virtx_pages_free(virtx, v->page_log, 1);
    }
    if (v->vmcs)
        virtx_pages_free(virtx, v->vmcs, 1);
    v->page_log = NULL;
    v->msr_area = NULL;
    v->vmcs = NULL;
}

/* Without the controls that switch EFER, entries and exits load it from these two lists. */
static void write_msr_area(struct vmx_vcpu *v)
{
    uint64_t hpa;

    if (!v->msr_area)
        return;
    v->msr_area[0] = (struct vmx_msr_entry){.index = MSR_EFER, .value = v->hw.state.efer};
    v->msr_area[1] = (struct vmx_msr_entry){.index = MSR_EFER, .value = x86_rdmsr(MSR_EFER)};
    hpa = virtx_hpa(v->hw.vcpu->virtx, v->msr_area);
    vmx_set_field(v, VMCS_ENTRY_MSR_LOAD, hpa);
    vmx_set_field(v, VMCS_EXIT_MSR_LOAD, hpa + sizeof(struct vmx_msr_entry));
    vmx_set_field(v, VMCS_ENTRY_MSR_LOAD_COUNT, 1);
    vmx_set_field(v, VMCS_EXIT_MSR_LOAD_COUNT, 1);
}

/* Fields that keep their value for good, and those that others write only when they change. */
static void write_first(struct vmx_vcpu *v)
{
    static const uint16_t zero[] = {
        VMCS_PF_MASK,
        VMCS_PF_MATCH,
        VMCS_CR3_TARGETS,
        VMCS_EXIT_MSR_STORE_COUNT,
        VMCS_EXIT_MSR_LOAD_COUNT,
        VMCS_ENTRY_MSR_LOAD_COUNT,
        VMCS_ENTRY_INTERRUPTION,
        VMCS_EXCEPTIONS,
        VMCS_CR0_MASK,
        VMCS_CR4_MASK,
        VMCS_GUEST_ACTIVITY,
    };
    static const uint16_t words[VMX_WORD_COUNT] = {
        [VMX_PIN] = VMCS_PIN,   [VMX_PRIMARY] = VMCS_PRIMARY, [VMX_SECONDARY] = VMCS_SECONDARY,
        [VMX_EXIT] = VMCS_EXIT, [VMX_ENTRY] = VMCS_ENTRY,
    };

    for (unsigned i = 0; i < ARRAY_SIZE(zero); i++)
        vmx_set_field(v, zero[i], 0);
    for (unsigned i = 0; i < VMX_WORD_COUNT; i++) {
        v->control[i] = v->cpu->base[i];
        if (i != VMX_SECONDARY || (v->control[VMX_PRIMARY] & PRIMARY_SECONDARY))
            vmx_set_field(v, words[i], v->control[i]);
    }
    if (v->control[VMX_SECONDARY] & SECONDARY_XSAVES)
        vmx_set_field(v, VMCS_XSS_BITMAP, 0); /* IA32_XSS is switched: no XSAVES need exit */
    if (v->page_log) {
        vmx_set_field(v, VMCS_PML_ADDRESS, virtx_hpa(v->hw.vcpu->virtx, v->page_log));
        vmx_set_field(v, VMCS_PML_INDEX, VMX_PAGE_LOG_ENTRIES - 1);
    }
    vmx_apic_first(v);
    vmx_posted_first(v);
    vmx_set_field(v, VMCS_LINK_POINTER, UINT64_MAX);
    vmx_set_field(v, VMCS_HOST_RIP, (uintptr_t)vmx_exit_point);
    vmx_controls(&v->hw);
}

static void write_vpid(struct vmx_vcpu *v)
{
    if (v->hw.tag == v->vpid)
        return;
    v->vpid = v->hw.tag;
    if (!(v->cpu->base[VMX_SECONDARY] & SECONDARY_VPID))
        return;
    vmx_set_control(v, VMX_SECONDARY,
                    v->vpid ? v->control[VMX_SECONDARY] | SECONDARY_VPID
                            : v->control[VMX_SECONDARY] & ~SECONDARY_VPID);
    vmx_set_field(v, VMCS_VPID, v->vpid);
}

enum virtx_status vmx_load(struct hw_vcpu *hv, void *data)
{
    struct vmx_vcpu *v = vmx_of(hv);
    enum vmx_fail fail = VMX_SUCCEED;
    uint64_t cr4 = x86_read_cr4();

    /* Without it VMPTRLD is an invalid opcode: somebody has changed what virtx_cpu_enable() set. */
    if (!(cr4 & CR4_VMXE))
        return virtx_fail_manual(&hv->vcpu->error, VIRTX_E_HOST_STATE, "CR4.VMXE",
                                 "VMX must be on while vcpus run",
                                 "Enabling and Entering VMX Operation", cr4);
    if (v->fresh)
        fail = vmx_vmclear(v->vmcs_hpa);
    if (fail == VMX_SUCCEED)
        fail = vmx_vmptrld(v->vmcs_hpa);
    if (fail != VMX_SUCCEED)
        return virtx_fail(&hv->vcpu->error, VIRTX_E_HARDWARE, "VMPTRLD",
                          "the processor refused the VMCS", fail);
    v->cpu = data;
    v->timer_rate = v->cpu->caps.misc & 0x1f; /* Intel SDM "Miscellaneous Data" */
    v->launched = false;
    if (v->fresh)
        write_first(v);
    v->fresh = false;
    vmx_host_save(v);
    write_msr_area(v);
    write_vpid(v);
    vmx_posted_load(v);
    vmx_bitmaps_load(v);
    hv->dirty |= VMX_DIRTY_HOST | VIRTX_STATE_TSC;
    if (v->host_mce != (v->host.cr4 & VMX_CR4_HOST)) {
        v->host_mce = v->host.cr4 & VMX_CR4_HOST;
        hw_change(hv, VIRTX_STATE_CR);
    }
    return VIRTX_OK;
}

void vmx_put(struct hw_vcpu *hv)
{
    struct vmx_vcpu *v = vmx_of(hv);
    const struct virtx_host_profile *profile = &hv->vcpu->virtx->profile;

    vmx_read(hv, VIRTX_STATE_ALL & ~hv->valid);
    v->nmi_blockable = (hv->state.interruptibility & VIRTX_BLOCKED_BY_NMI) != 0; /* see event.c */
    vmx_to_host(hv, profile->at_exit | profile->at_return | profile->at_put);
    v->live = 0;
    vmx_posted_put(v);
    vmx_vmclear(v->vmcs_hpa);
    v->launched = false;
    v->cpu = NULL;
}

/*
 * Whoever wants to know what has been logged takes the entries out of the page, from any CPU; only
 * the vcpu's own thread, at the exit for a full log, lets the processor begin at its end again. So
 * nobody needs the index, which is in the VMCS. An entry whose store is still under way is for the
 * next to take.
 */
void vmx_drain(struct hw_vcpu *hv)
{
    const struct vmx_vcpu *v = vmx_of(hv);

    for (unsigned i = 0; v->page_log && i < VMX_PAGE_LOG_ENTRIES; i++) {
        uint64_t gpa = __atomic_load_n(&v->page_log[i], __ATOMIC_RELAXED);

        if (gpa == VMX_PAGE_LOG_NONE)
            continue;
        gpa = __atomic_exchange_n(&v->page_log[i], VMX_PAGE_LOG_NONE, __ATOMIC_ACQ_REL);
        if (gpa != VMX_PAGE_LOG_NONE)
            /* The low bits are 0, but for Bochs 2.7's. */
            virtx_backend_dirty(hv->vcpu->vm, gpa & ~0xfffull, VIRTX_PAGE_SIZE);
    }
}

/* Which mode the guest runs in is found anew before the entry. */
void vmx_engine(struct hw_vcpu *hv)
{
    struct vmx_vcpu *v = vmx_of(hv);

    v->nested = hv->vcpu->vm->paging->nested;
    vmx_mode_confine(v);
    v->mode = VMX_MODE_NATIVE;
}

void vmx_set_root(struct hw_vcpu *hv, uint64_t hpa)
{
    struct vmx_vcpu *v = vmx_of(hv);

    if (v->nested) {
        if (v->mode != VMX_MODE_NATIVE) {
            vmx_mode_refresh(v);
            hpa = vmx_mode_root(v);
        }
        v->eptp = hpa | EPTP_WALK_4 | EPTP_WRITE_BACK |
                  (vmx_has(v, VIRTX_FEATURE_NESTED_AD) ? EPTP_AD : 0);
        vmx_set_field(v, VMCS_EPTP, v->eptp);
    } else {
        vmx_set_field(v, VMCS_GUEST_CR3, hpa);
    }
}

/* Linear and combined translations carry the VPID, guest-physical ones the EPT pointer; a guest
 * without a VPID enters with an empty TLB anyway (Intel SDM "Operations that Invalidate Cached
 * Mappings"). */
void vmx_flush(struct hw_vcpu *hv, uint32_t debts)
{
    struct vmx_vcpu *v = vmx_of(hv);

    write_vpid(v);
    if ((debts & HW_FLUSH_NESTED) && v->nested && v->eptp) {
        struct vmx_ept_operand what = {.eptp = v->eptp};
        bool one = (v->cpu->caps.ept_vpid & INVEPT_ONE) && !v->identity;

        if (v->mode != VMX_MODE_NATIVE)
            vmx_mode_refresh(v);
        vmx_invept(one ? VMX_INVALIDATE_SINGLE : VMX_INVALIDATE_ALL, &what);
        hv->vcpu->stats.flushes++;
    }
    if ((debts & HW_FLUSH_TAG) && v->vpid) {
        struct vmx_vpid_operand what = {.vpid = v->vpid};

        vmx_invvpid(vmx_has(v, VIRTX_FEATURE_FLUSH_BY_TAG) ? VMX_INVALIDATE_SINGLE
                                                           : VMX_INVALIDATE_ALL,
                    &what);
        hv->vcpu->stats.flushes++;
    }
}

void vmx_tsc_offset(struct hw_vcpu *hv)
{
    hv->dirty |= VIRTX_STATE_TSC; /* the VMCS may not be current */
}

/*
 * The timer counts while the guest runs only, and a deadline is a time of the TSC: so what is left
 * is worked out before each entry. What the processor could save of the count at an exit ("save
 * VMX-preemption timer value") would be too much by the time spent in the host, so that is not
 * used.
 */
void vmx_deadline(struct hw_vcpu *hv, uint64_t tsc)
{
    struct vmx_vcpu *v = vmx_of(hv);
    bool on = tsc != HW_NO_DEADLINE;

    v->deadline = tsc;
    v->standing = on ? VMX_DIRTY_TIMER : 0;
    hv->dirty = (hv->dirty & ~VMX_DIRTY_TIMER) | v->standing;
    vmx_set_control(v, VMX_PIN,
                    on ? v->control[VMX_PIN] | PIN_TIMER : v->control[VMX_PIN] & ~PIN_TIMER);
}

/* Intel SDM "VMX-Preemption Timer". What does not fit in 32 bits exits before, and is set again. */
void vmx_timer_set(struct vmx_vcpu *v)
{
    uint64_t now = x86_rdtsc(), left = v->deadline > now ? v->deadline - now : 0;
    uint64_t count = (left + (1ull << v->timer_rate) - 1) >> v->timer_rate;

    vmx_vmwrite(VMCS_TIMER, count > UINT32_MAX ? UINT32_MAX : count);
    v->hw.vcpu->stats.control_writes++;
}
