/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The switch plan for state that both vendors leave alone: FPU, debug registers, and the MSRs whose
 * guest value must sit in the processor while the guest runs (TSC_AUX, SPEC_CTRL, XSS).
 *
 * Guest values go in at load. The host's come back at the tier that its profile names; a host that
 * names none of them pays nothing between load and put. What the profile wants at every exit is put
 * back right behind the exit, and the guest's again before the next entry (HW_WORK_SWITCH).
 */
#include "hw/service.h"

enum shared_bit {
    SHARED_TSC_AUX = 1u << 0,
    SHARED_SPEC_CTRL = 1u << 1,
    SHARED_XSS = 1u << 2,
};

static const struct {
    uint32_t bit, profile, msr;
} shared[] = {
    {SHARED_TSC_AUX, VIRTX_HOST_TSC_AUX, MSR_TSC_AUX},
    {SHARED_SPEC_CTRL, VIRTX_HOST_SPEC_CTRL, MSR_SPEC_CTRL},
    {SHARED_XSS, VIRTX_HOST_XSS, MSR_XSS},
};

static uint64_t *host_value(struct hw_soft *soft, unsigned i)
{
    uint64_t *const values[] = {&soft->host_tsc_aux, &soft->host_spec_ctrl, &soft->host_xss};

    return values[i];
}

static uint64_t guest_value(struct hw_vcpu *hv, unsigned i)
{
    switch (shared[i].bit) {
    case SHARED_TSC_AUX:
        return hw_state(hv, VIRTX_STATE_MSR)->tsc_aux;
    case SHARED_SPEC_CTRL:
        return hw_state(hv, VIRTX_STATE_MSR)->spec_ctrl;
    default:
        return hw_state(hv, VIRTX_STATE_XCR)->xss;
    }
}

static void write_msr(struct hw_vcpu *hv, uint32_t index, uint64_t value)
{
    x86_wrmsr(index, value);
    hv->vcpu->stats.msr_writes++;
}

/* The processor's own feature bits, not the guest's: an MSR that does not exist is never touched.
 */
static uint32_t present(void)
{
    uint32_t found = 0, basic = x86_cpuid(0, 0).eax, extended = x86_cpuid(0x80000000, 0).eax;

    if (extended >= 0x80000001 && (x86_cpuid(0x80000001, 0).edx >> 27 & 1))
        found |= SHARED_TSC_AUX;
    if (basic >= 7) {
        struct cpuid_regs l7 = x86_cpuid(7, 0);

        if (l7.ecx >> 22 & 1)
            found |= SHARED_TSC_AUX;
        if (l7.edx & (1u << 26 | 1u << 27 | 1u << 31))
            found |= SHARED_SPEC_CTRL;
    }
    if (extended >= 0x80000008 && (x86_cpuid(0x80000008, 0).ebx & (1u << 14 | 1u << 15 | 1u << 24)))
        found |= SHARED_SPEC_CTRL;
    if (basic >= 0xd && (x86_cpuid(0xd, 1).eax >> 3 & 1))
        found |= SHARED_XSS;
    return found;
}

void hw_switch_plan(struct hw_vcpu *hv)
{
    const struct virtx_host_profile *profile = &hv->vcpu->virtx->profile;
    const struct hw_policy *policy = &hv->soft->policy;
    uint32_t ours = VIRTX_HOST_FPU | VIRTX_HOST_DEBUG_REGS;
    uint32_t wanted = 0;

    if (policy->has_tsc_aux)
        wanted |= SHARED_TSC_AUX;
    if (policy->spec_ctrl)
        wanted |= SHARED_SPEC_CTRL;
    /* Even if none of its bits can be the guest's: XSAVES, which SVM does not intercept, would
     * store the host's supervisor components. */
    if (policy->xcr0)
        wanted |= SHARED_XSS;
    hv->soft->shared = wanted & present();
    /* What holds the guest's value has to be given back, though a change of its CPUID has hidden
     * it. */
    for (unsigned i = 0; i < ARRAY_SIZE(shared); i++)
        if ((hv->soft->shared | hv->soft->shared_loaded) & shared[i].bit)
            ours |= shared[i].profile;
    if (policy->xcr0 >> 9 & 1)
        ours |= VIRTX_HOST_PKRU;
    hv->soft->ours = ours;
    hv->switch_exit = profile->at_exit != 0;
    hv->soft->return_tier = profile->at_exit | profile->at_return;
    hv->leave_tier = hv->soft->return_tier != 0;
}

static uint32_t named(struct hw_vcpu *hv)
{
    const struct virtx_host_profile *profile = &hv->vcpu->virtx->profile;

    return profile->at_exit | profile->at_return | profile->at_put;
}

static void msrs_to_guest(struct hw_vcpu *hv)
{
    struct hw_soft *soft = hv->soft;

    for (unsigned i = 0; i < ARRAY_SIZE(shared); i++) {
        uint64_t value;

        if (!(soft->shared & ~soft->shared_loaded & shared[i].bit))
            continue;
        value = guest_value(hv, i);
        if (named(hv) & shared[i].profile) {
            *host_value(soft, i) = x86_rdmsr(shared[i].msr);
            if (value != *host_value(soft, i))
                write_msr(hv, shared[i].msr, value);
        } else {
            write_msr(hv, shared[i].msr, value);
        }
        soft->shared_loaded |= shared[i].bit;
    }
}

static void msrs_to_host(struct hw_vcpu *hv, uint32_t tier)
{
    struct hw_soft *soft = hv->soft;

    for (unsigned i = 0; i < ARRAY_SIZE(shared); i++) {
        if (!(soft->shared_loaded & shared[i].bit) || !(tier & shared[i].profile))
            continue;
        if (guest_value(hv, i) != *host_value(soft, i))
            write_msr(hv, shared[i].msr, *host_value(soft, i));
        soft->shared_loaded &= ~shared[i].bit;
        hv->work |= HW_WORK_SWITCH;
    }
}

void hw_switch_msr(struct hw_vcpu *hv, uint32_t index, uint64_t value)
{
    for (unsigned i = 0; i < ARRAY_SIZE(shared); i++)
        if (shared[i].msr == index && (hv->soft->shared_loaded & shared[i].bit))
            write_msr(hv, index, value);
}

/* PKRU travels with the guest's XSAVE area; a host that uses protection keys gets its own back when
 * its FPU state is not due yet. */
#ifdef VIRTX_UNIT
uint32_t mock_rdpkru(void);
void mock_wrpkru(uint32_t value);
#define rdpkru mock_rdpkru
#define wrpkru mock_wrpkru
#else
static uint32_t rdpkru(void)
{
    uint32_t value, zero;

    __asm__ volatile(".byte 0x0f, 0x01, 0xee" : "=a"(value), "=d"(zero) : "c"(0));
    return value;
}

static void wrpkru(uint32_t value)
{
    __asm__ volatile(".byte 0x0f, 0x01, 0xef" : : "a"(value), "c"(0), "d"(0) : "memory");
}
#endif

static bool pkru_matters(struct hw_vcpu *hv)
{
    return (hv->soft->policy.xcr0 >> 9 & 1) && (named(hv) & VIRTX_HOST_PKRU) &&
           (x86_read_cr4() & CR4_PKE);
}

/* The guest's PKRU, wherever it is. */
uint32_t hw_guest_pkru(struct hw_vcpu *hv)
{
    struct virtx_cpuid_entry entry;
    uint64_t present_components;
    uint32_t value = 0;

    if (!(hv->soft->policy.xcr0 >> 9 & 1))
        return 0;
    if (hv->soft->pkru_swapped)
        return hv->soft->guest_pkru;
    if (hv->fpu_loaded) {
        uint64_t cr4 = x86_read_cr4();

        x86_write_cr4(cr4 | CR4_PKE);
        value = rdpkru();
        x86_write_cr4(cr4);
        return value;
    }
    virtx_cpuid_lookup(hv->vcpu, 0xd, 9, &entry);
    memcpy(&present_components, (uint8_t *)hv->fpu_area + 512, sizeof(present_components));
    if (present_components >> 9 & 1)
        memcpy(&value, (uint8_t *)hv->fpu_area + entry.ebx, sizeof(value));
    return value;
}

static void pkru_to_host(struct hw_vcpu *hv)
{
    if (hv->fpu_loaded && !hv->soft->pkru_swapped && pkru_matters(hv)) {
        hv->soft->guest_pkru = rdpkru();
        wrpkru(hv->soft->host_pkru);
        hv->soft->pkru_swapped = true;
        hv->work |= HW_WORK_SWITCH;
    }
}

static void pkru_to_guest(struct hw_vcpu *hv)
{
    if (hv->soft->pkru_swapped) {
        wrpkru(hv->soft->guest_pkru);
        hv->soft->pkru_swapped = false;
    }
}

void hw_switch_load(struct hw_vcpu *hv)
{
    if (named(hv) & VIRTX_HOST_DEBUG_REGS) {
        uint64_t *dr = hv->soft->host_dr;

        dr[0] = x86_read_dr0();
        dr[1] = x86_read_dr1();
        dr[2] = x86_read_dr2();
        dr[3] = x86_read_dr3();
        hv->soft->host_dr6 = x86_read_dr6();
        hv->soft->host_dr7 = x86_read_dr7();
    }
    if (pkru_matters(hv))
        hv->soft->host_pkru = rdpkru();
    msrs_to_guest(hv);
    if (hw_state(hv, VIRTX_STATE_DR)->dr7 & 0xff)
        hv->work |= HW_WORK_SWITCH;
}

static void debug_to_host(struct hw_vcpu *hv)
{
    const struct hw_soft *soft = hv->soft;

    if (hv->debug_loaded)
        hw_debug_unload(hv);
    if (x86_read_dr7() != soft->host_dr7)
        x86_write_dr7(soft->host_dr7);
}

void hw_switch_to_host(struct hw_vcpu *hv, uint32_t tier)
{
    if (tier & VIRTX_HOST_PKRU)
        pkru_to_host(hv);
    if ((tier & VIRTX_HOST_FPU) && (hv->fpu_loaded || hv->soft->fpu_lazy)) {
        pkru_to_guest(hv); /* so that the right one is saved */
        hw_fpu_unload(hv, true);
    }
    msrs_to_host(hv, tier);
    if (tier & VIRTX_HOST_DEBUG_REGS)
        debug_to_host(hv);
    if (hw_state(hv, VIRTX_STATE_DR)->dr7 & 0xff)
        hv->work |= HW_WORK_SWITCH;
}

void hw_switch_to_guest(struct hw_vcpu *hv)
{
    hv->work &= ~(uint32_t)HW_WORK_SWITCH;
    pkru_to_guest(hv);
    msrs_to_guest(hv);
    /* Breakpoints the guest has armed must be in the processor to be hit. */
    if (!hv->debug_loaded && (hw_state(hv, VIRTX_STATE_DR)->dr7 & 0xff))
        hw_debug_load(hv);
}

/* The vendor has read all groups into the cache; the processor's debug registers are still the
 * guest's. */
void hw_switch_put(struct hw_vcpu *hv)
{
    if (hv->debug_loaded)
        hw_debug_unload(hv);
    if (named(hv) & VIRTX_HOST_DEBUG_REGS)
        debug_to_host(hv);
    if (named(hv) & VIRTX_HOST_PKRU)
        pkru_to_host(hv);
    pkru_to_guest(hv);
    hw_fpu_unload(hv, true);
    if ((named(hv) & VIRTX_HOST_PKRU) && pkru_matters(hv))
        wrpkru(hv->soft->host_pkru);
    msrs_to_host(hv, named(hv));
    hv->soft->shared_loaded = 0;
}

void hw_debug_load(struct hw_vcpu *hv)
{
    const struct virtx_state *state = hw_state(hv, VIRTX_STATE_DR);

    x86_write_dr0(state->dr[0]);
    x86_write_dr1(state->dr[1]);
    x86_write_dr2(state->dr[2]);
    x86_write_dr3(state->dr[3]);
    x86_write_dr6(state->dr6);
    if (!hv->debug_loaded) {
        hv->debug_loaded = hv->debug_used = true;
        hv->work |= HW_WORK_CONTROLS; /* MOV DR exits no longer */
    }
}

void hw_debug_sync(struct hw_vcpu *hv)
{
    struct virtx_state *state = hw_change(hv, VIRTX_STATE_DR);

    state->dr[0] = x86_read_dr0();
    state->dr[1] = x86_read_dr1();
    state->dr[2] = x86_read_dr2();
    state->dr[3] = x86_read_dr3();
    state->dr6 = x86_read_dr6();
}

void hw_debug_unload(struct hw_vcpu *hv)
{
    const struct hw_soft *soft = hv->soft;

    hw_debug_sync(hv);
    hv->debug_loaded = false;
    hv->debug_used = (hv->state.dr7 & 0xff) != 0;
    hv->work |= HW_WORK_CONTROLS; /* MOV DR exits again */
    if (hv->state.dr7 & 0xff)
        hv->work |= HW_WORK_SWITCH;
    if (named(hv) & VIRTX_HOST_DEBUG_REGS) {
        x86_write_dr0(soft->host_dr[0]);
        x86_write_dr1(soft->host_dr[1]);
        x86_write_dr2(soft->host_dr[2]);
        x86_write_dr3(soft->host_dr[3]);
        x86_write_dr6(soft->host_dr6);
    }
}
