/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The MSRs that the library virtualizes. docs/msrs.md lists them; all others are the embedder's.
 */
#include "hw/service.h"

#define MSR_FLUSH_CMD            0x10b
#define MSR_MTRR_LAST_VARIABLE   (MSR_MTRR_PHYSBASE0 + 2 * HW_MTRR_VARIABLE - 1)
#define MSR_SYSCFG               0xc0010010
#define MSR_HWCR                 0xc0010015
#define MSR_NB_CFG               0xc001001f
#define MSR_INT_PENDING          0xc0010055
#define MSR_MMIO_CONF_BASE       0xc0010058
#define MSR_PATCH_LOADER         0xc0010020
#define MSR_VM_CR                0xc0010114
#define MSR_VM_IGNNE             0xc0010115
#define MSR_SMM_CTL              0xc0010116
#define MSR_VM_HSAVE_PA          0xc0010117
#define MSR_LS_CFG               0xc0011020
#define MSR_IC_CFG               0xc0011021
#define MSR_DC_CFG               0xc0011022
#define MSR_BU_CFG               0xc0011023
#define MSR_DE_CFG               0xc0011029
#define MSR_BU_CFG2              0xc001102a

#define MISC_ENABLE_FAST_STRINGS 1ull
#define MISC_ENABLE_NO_BTS_PEBS  (3ull << 11)
#define MISC_ENABLE_WRITABLE     (MISC_ENABLE_FAST_STRINGS | 1ull << 3 | 1ull << 18 | 1ull << 22)
#define DEBUGCTL_LBR_BTF         3ull

/* What the guest reads and writes without an exit: registers of its own that mean nothing to the
 * host while the guest's values are in them, and that entry, exit, load and put exchange. */
const struct hw_msr_direct hw_msr_direct[] = {
    {MSR_FS_BASE, HW_LACKS_LONG_MODE},
    {MSR_GS_BASE, HW_LACKS_LONG_MODE},
    {MSR_KERNEL_GS_BASE, HW_LACKS_LONG_MODE},
    {MSR_STAR, HW_LACKS_SYSCALL},
    {MSR_LSTAR, HW_LACKS_LONG_MODE},
    {MSR_CSTAR, HW_LACKS_LONG_MODE},
    {MSR_FMASK, HW_LACKS_LONG_MODE},
    {MSR_SYSENTER_CS, HW_LACKS_SYSENTER},
    {MSR_SYSENTER_ESP, HW_LACKS_SYSENTER},
    {MSR_SYSENTER_EIP, HW_LACKS_SYSENTER},
    {0, 0},
};

/* One of those that the guest's CPUID hides. */
static bool direct_hidden(struct hw_vcpu *hv, uint32_t index)
{
    for (const struct hw_msr_direct *direct = hw_msr_direct; direct->index; direct++)
        if (direct->index == index)
            return direct->without & hv->soft->policy.lacks;
    return false;
}

static const uint16_t mtrr_fixed_index[HW_MTRR_FIXED] = {
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
};

void hw_msr_reset(struct hw_vcpu *hv, bool init)
{
    struct hw_soft *soft = hv->soft;
    struct virtx_state *state =
        hw_change(hv, VIRTX_STATE_MSR | VIRTX_STATE_SYSCALL | VIRTX_STATE_TSC);

    if (init)
        return;
    memset(soft->mtrr_variable, 0, sizeof(soft->mtrr_variable));
    memset(soft->mtrr_fixed, 0, sizeof(soft->mtrr_fixed));
    soft->mtrr_def_type = 0;
    soft->syscfg = soft->hwcr = 0;
    soft->de_cfg = 0;
    state->star = state->lstar = state->cstar = state->fmask = state->kernel_gs_base = 0;
    state->sysenter_cs = state->sysenter_esp = state->sysenter_eip = 0;
    state->pat = 0x0007040600070406;
    state->apic_base = 0xfee00800 | (hv->vcpu->id == 0 ? 0x100 : 0);
    state->misc_enable = MISC_ENABLE_FAST_STRINGS | MISC_ENABLE_NO_BTS_PEBS;
    state->spec_ctrl = 0;
    state->tsc_aux = 0;
    state->tsc_adjust = 0;
    hv->tsc_offset = 0 - ((struct hw_vm *)hv->vcpu->vm->backend_data)->tsc_base;
}

/* Types 0, 1, 4, 5, 6 exist; 7 (UC-) does only in the PAT. */
static bool memory_type_valid(uint64_t type)
{
    return type <= 6 && type != 2 && type != 3;
}

#define EACH_BYTE(x) (0x0101010101010101ull * (x))

/* All eight at once: no bit above 2, and bit 1 only together with bit 2. */
static bool eight_types_valid(uint64_t value, bool uc_minus)
{
    uint64_t bit0 = value & EACH_BYTE(1), bit1 = value >> 1 & EACH_BYTE(1);
    uint64_t bit2 = value >> 2 & EACH_BYTE(1);

    return !(value & EACH_BYTE(0xf8)) && !(bit1 & ~bit2) && (uc_minus || !(bit0 & bit1 & bit2));
}

bool hw_pat_valid(uint64_t pat)
{
    return eight_types_valid(pat, true);
}

/* The storage behind an MTRR, or NULL. */
static uint64_t *mtrr_slot(struct hw_soft *soft, uint32_t index)
{
    if (index >= MSR_MTRR_PHYSBASE0 && index <= MSR_MTRR_LAST_VARIABLE)
        return &soft->mtrr_variable[index - MSR_MTRR_PHYSBASE0];
    if (index == MSR_MTRR_DEF_TYPE)
        return &soft->mtrr_def_type;
    for (unsigned i = 0; i < HW_MTRR_FIXED; i++)
        if (mtrr_fixed_index[i] == index)
            return &soft->mtrr_fixed[i];
    return NULL;
}

uint64_t *hw_msr_slot(struct hw_vcpu *hv, uint32_t index)
{
    struct hw_soft *soft = hv->soft;

    switch (index) {
    case MSR_SYSCFG:
        return soft->policy.amd ? &soft->syscfg : NULL;
    case MSR_HWCR:
        return soft->policy.amd ? &soft->hwcr : NULL;
    case MSR_DE_CFG:
        return soft->policy.amd ? &soft->de_cfg : NULL;
    default:
        return soft->policy.has_mtrr ? mtrr_slot(soft, index) : NULL;
    }
}

uint32_t hw_msr_kept(unsigned i)
{
    static const uint32_t rest[] = {MSR_MTRR_DEF_TYPE, MSR_SYSCFG, MSR_HWCR, MSR_DE_CFG, 0};

    if (i < 2 * HW_MTRR_VARIABLE)
        return MSR_MTRR_PHYSBASE0 + i;
    i -= 2 * HW_MTRR_VARIABLE;
    return i < HW_MTRR_FIXED ? mtrr_fixed_index[i] : rest[i - HW_MTRR_FIXED];
}

/* Intel SDM "Memory Type Range Registers (MTRRs)". */
static enum hw_msr mtrr_write(struct hw_vcpu *hv, uint32_t index, uint64_t value)
{
    uint64_t *slot = mtrr_slot(hv->soft, index);
    bool valid;

    if (!slot)
        return HW_MSR_UNKNOWN;
    if (!hv->soft->policy.has_mtrr)
        valid = false;
    else if (index == MSR_MTRR_DEF_TYPE)
        valid = !(value & ~0xcffull) && memory_type_valid(value & 0xff);
    else if (index > MSR_MTRR_LAST_VARIABLE)
        valid = eight_types_valid(value, false);
    else if (index & 1) /* mask */
        valid = !(value & (hv->soft->policy.reserved | 0x7ff));
    else
        valid = !(value & (hv->soft->policy.reserved | 0xf00)) && memory_type_valid(value & 0xff);
    if (!valid)
        return HW_MSR_FAULT;
    *slot = value;
    return HW_MSR_OK;
}

static uint64_t guest_tsc(struct hw_vcpu *hv)
{
    return x86_rdtsc() + hv->tsc_offset;
}

/* MSRs that only AMD processors have, and that systems read or poke without asking CPUID. */
static bool amd_only(uint32_t index)
{
    switch (index) {
    case MSR_SYSCFG:
    case MSR_HWCR:
    case MSR_NB_CFG:
    case MSR_PATCH_LOADER:
    case MSR_INT_PENDING:
    case MSR_MMIO_CONF_BASE:
    case MSR_VM_CR:
    case MSR_VM_IGNNE:
    case MSR_SMM_CTL:
    case MSR_VM_HSAVE_PA:
    case MSR_LS_CFG:
    case MSR_IC_CFG:
    case MSR_DC_CFG:
    case MSR_BU_CFG:
    case MSR_DE_CFG:
    case MSR_BU_CFG2:
        return true;
    default:
        return false;
    }
}

static enum hw_msr amd_read(struct hw_vcpu *hv, uint32_t index, uint64_t *value)
{
    if (!amd_only(index))
        return HW_MSR_UNKNOWN;
    if (!hv->soft->policy.amd)
        return HW_MSR_FAULT;
    switch (index) {
    case MSR_SYSCFG:
        *value = hv->soft->syscfg;
        return HW_MSR_OK;
    case MSR_HWCR:
        *value = hv->soft->hwcr;
        return HW_MSR_OK;
    case MSR_DE_CFG:
        *value = hv->soft->de_cfg;
        return HW_MSR_OK;
    case MSR_NB_CFG:
    case MSR_INT_PENDING:
    case MSR_MMIO_CONF_BASE:
    case MSR_LS_CFG:
    case MSR_IC_CFG:
    case MSR_DC_CFG:
    case MSR_BU_CFG:
    case MSR_BU_CFG2:
        *value = 0;
        return HW_MSR_OK;
    default: /* the loader is written only; there is no SVM to control */
        return HW_MSR_FAULT;
    }
}

static enum hw_msr amd_write(struct hw_vcpu *hv, uint32_t index, uint64_t value)
{
    if (!amd_only(index))
        return HW_MSR_UNKNOWN;
    if (!hv->soft->policy.amd)
        return HW_MSR_FAULT;
    switch (index) {
    case MSR_SYSCFG:
        hv->soft->syscfg = value & 0x7c0000;
        return HW_MSR_OK;
    case MSR_HWCR:
        hv->soft->hwcr = value & (1u << 4 | 1u << 8 | 1u << 24);
        return HW_MSR_OK;
    case MSR_DE_CFG:
        hv->soft->de_cfg = value & 2; /* LFENCE serializes, which it does anyhow */
        return HW_MSR_OK;
    case MSR_PATCH_LOADER:
    case MSR_NB_CFG:
    case MSR_INT_PENDING:
    case MSR_MMIO_CONF_BASE:
    case MSR_LS_CFG:
    case MSR_IC_CFG:
    case MSR_DC_CFG:
    case MSR_BU_CFG:
    case MSR_BU_CFG2:
        return HW_MSR_OK;
    default: /* there is no SVM to control */
        return HW_MSR_FAULT;
    }
}

/* What a guest uses without an exit, where the processor has no MSR bitmap or an intercept is set.
 */
static enum hw_msr direct_read(struct hw_vcpu *hv, uint32_t index, uint64_t *value)
{
    if (direct_hidden(hv, index))
        return HW_MSR_FAULT;
    switch (index) {
    case MSR_SYSENTER_CS:
        *value = hw_state(hv, VIRTX_STATE_SYSCALL)->sysenter_cs;
        return HW_MSR_OK;
    case MSR_SYSENTER_ESP:
        *value = hw_state(hv, VIRTX_STATE_SYSCALL)->sysenter_esp;
        return HW_MSR_OK;
    case MSR_SYSENTER_EIP:
        *value = hw_state(hv, VIRTX_STATE_SYSCALL)->sysenter_eip;
        return HW_MSR_OK;
    case MSR_STAR:
        *value = hw_state(hv, VIRTX_STATE_SYSCALL)->star;
        return HW_MSR_OK;
    case MSR_LSTAR:
        *value = hw_state(hv, VIRTX_STATE_SYSCALL)->lstar;
        return HW_MSR_OK;
    case MSR_CSTAR:
        *value = hw_state(hv, VIRTX_STATE_SYSCALL)->cstar;
        return HW_MSR_OK;
    case MSR_FMASK:
        *value = hw_state(hv, VIRTX_STATE_SYSCALL)->fmask;
        return HW_MSR_OK;
    case MSR_KERNEL_GS_BASE:
        *value = hw_state(hv, VIRTX_STATE_SYSCALL)->kernel_gs_base;
        return HW_MSR_OK;
    case MSR_FS_BASE:
        *value = hw_state(hv, VIRTX_STATE_SEG)->seg[VIRTX_FS].base;
        return HW_MSR_OK;
    case MSR_GS_BASE:
        *value = hw_state(hv, VIRTX_STATE_SEG)->seg[VIRTX_GS].base;
        return HW_MSR_OK;
    default:
        return HW_MSR_UNKNOWN;
    }
}

enum hw_msr hw_msr_read(struct hw_vcpu *hv, uint32_t index, uint64_t *value)
{
    const struct hw_policy *policy = &hv->soft->policy;
    const uint64_t *slot;
    enum hw_msr result;

    switch (index) {
    case MSR_EFER:
        *value = hw_state(hv, VIRTX_STATE_CR)->efer;
        return HW_MSR_OK;
    case MSR_TSC:
        *value = guest_tsc(hv);
        return HW_MSR_OK;
    case MSR_TSC_ADJUST:
        if (!policy->has_tsc_adjust)
            return HW_MSR_FAULT;
        *value = hv->state.tsc_adjust;
        return HW_MSR_OK;
    case MSR_TSC_AUX:
        if (!policy->has_tsc_aux)
            return HW_MSR_FAULT;
        *value = hw_state(hv, VIRTX_STATE_MSR)->tsc_aux;
        return HW_MSR_OK;
    case MSR_PAT:
        if (!policy->has_pat)
            return HW_MSR_FAULT;
        *value = hw_state(hv, VIRTX_STATE_MSR)->pat;
        return HW_MSR_OK;
    case MSR_APIC_BASE:
        *value = hw_state(hv, VIRTX_STATE_MSR)->apic_base;
        return HW_MSR_OK;
    case MSR_MISC_ENABLE:
        if (policy->amd)
            return HW_MSR_FAULT;
        *value = hw_state(hv, VIRTX_STATE_MSR)->misc_enable;
        return HW_MSR_OK;
    case MSR_DEBUGCTL:
        *value = hw_state(hv, VIRTX_STATE_DR)->debugctl;
        return HW_MSR_OK;
    case MSR_SPEC_CTRL:
        if (!policy->spec_ctrl)
            return HW_MSR_FAULT;
        *value = hw_state(hv, VIRTX_STATE_MSR)->spec_ctrl;
        return HW_MSR_OK;
    case MSR_ARCH_CAPABILITIES:
        if (!policy->has_arch_capabilities)
            return HW_MSR_FAULT;
        *value = x86_rdmsr(MSR_ARCH_CAPABILITIES) & 0x13f; /* only what says "not vulnerable" */
        return HW_MSR_OK;
    case MSR_XSS:
        if (!policy->has_xsaves)
            return HW_MSR_FAULT;
        *value = hw_state(hv, VIRTX_STATE_XCR)->xss;
        return HW_MSR_OK;
    case MSR_PLATFORM_ID:
        if (policy->amd)
            return HW_MSR_FAULT;
        *value = 0;
        return HW_MSR_OK;
    case MSR_MCG_CAP: /* no banks */
    case MSR_MCG_STATUS:
        if (!policy->has_mca)
            return HW_MSR_FAULT;
        *value = 0;
        return HW_MSR_OK;
    case MSR_FEATURE_CONTROL: /* exists with VMX, SMX, SGX or LMCE only, which no guest has */
    case MSR_PRED_CMD:        /* these are written only */
    case MSR_FLUSH_CMD:
    case MSR_BIOS_UPDT_TRIG:
        return HW_MSR_FAULT;
    case MSR_BIOS_SIGN_ID:
        *value = 0; /* no update has been loaded */
        return HW_MSR_OK;
    case MSR_MTRRCAP:
        if (!policy->has_mtrr)
            return HW_MSR_FAULT;
        *value = HW_MTRR_VARIABLE | 1u << 8 | 1u << 10; /* fixed ranges, write-combining */
        return HW_MSR_OK;
    default:
        break;
    }
    result = direct_read(hv, index, value);
    if (result != HW_MSR_UNKNOWN)
        return result;
    slot = mtrr_slot(hv->soft, index);
    if (slot) {
        if (!policy->has_mtrr)
            return HW_MSR_FAULT;
        *value = *slot;
        return HW_MSR_OK;
    }
    return amd_read(hv, index, value);
}

static void tsc_move(struct hw_vcpu *hv, uint64_t delta)
{
    hv->tsc_offset += delta;
    hv->ops->tsc_offset(hv);
}

static enum hw_msr command(uint32_t index, bool present, uint64_t value)
{
    if (!present || (value & ~1ull))
        return HW_MSR_FAULT;
    if (value)
        x86_wrmsr(index, 1);
    return HW_MSR_OK;
}

/* A linear address in an MSR must be canonical. */
#define STORE_CANONICAL(group, field)                                                              \
    do {                                                                                           \
        if (!is_canonical(value))                                                                  \
            return HW_MSR_FAULT;                                                                   \
        hw_change(hv, group)->field = value;                                                       \
        return HW_MSR_OK;                                                                          \
    } while (0)

static enum hw_msr direct_write(struct hw_vcpu *hv, uint32_t index, uint64_t value)
{
    if (direct_hidden(hv, index))
        return HW_MSR_FAULT;
    switch (index) {
    case MSR_SYSENTER_CS:
        hw_change(hv, VIRTX_STATE_SYSCALL)->sysenter_cs = (uint32_t)value;
        return HW_MSR_OK;
    case MSR_SYSENTER_ESP:
        STORE_CANONICAL(VIRTX_STATE_SYSCALL, sysenter_esp);
    case MSR_SYSENTER_EIP:
        STORE_CANONICAL(VIRTX_STATE_SYSCALL, sysenter_eip);
    case MSR_STAR:
        hw_change(hv, VIRTX_STATE_SYSCALL)->star = value;
        return HW_MSR_OK;
    case MSR_LSTAR:
        STORE_CANONICAL(VIRTX_STATE_SYSCALL, lstar);
    case MSR_CSTAR:
        STORE_CANONICAL(VIRTX_STATE_SYSCALL, cstar);
    case MSR_FMASK:
        if (value >> 32)
            return HW_MSR_FAULT;
        hw_change(hv, VIRTX_STATE_SYSCALL)->fmask = value;
        return HW_MSR_OK;
    case MSR_KERNEL_GS_BASE:
        STORE_CANONICAL(VIRTX_STATE_SYSCALL, kernel_gs_base);
    case MSR_FS_BASE:
        STORE_CANONICAL(VIRTX_STATE_SEG, seg[VIRTX_FS].base);
    case MSR_GS_BASE:
        STORE_CANONICAL(VIRTX_STATE_SEG, seg[VIRTX_GS].base);
    default:
        return HW_MSR_UNKNOWN;
    }
}

static enum hw_msr tsc_write(struct hw_vcpu *hv, uint32_t index, uint64_t value)
{
    uint64_t delta;

    if (index == MSR_TSC) {
        delta = value - guest_tsc(hv);
        hv->state.tsc_adjust +=
            delta; /* Intel SDM "IA32_TSC_ADJUST MSR": it records writes of the TSC */
    } else {
        if (!hv->soft->policy.has_tsc_adjust)
            return HW_MSR_FAULT;
        delta = value - hv->state.tsc_adjust;
        hv->state.tsc_adjust = value;
    }
    tsc_move(hv, delta);
    return HW_MSR_OK;
}

/* MSRs whose guest value sits in the processor while the vcpu is loaded. */
static enum hw_msr shared_write(struct hw_vcpu *hv, uint32_t index, uint64_t value)
{
    const struct hw_policy *policy = &hv->soft->policy;

    switch (index) {
    case MSR_TSC_AUX:
        if (!policy->has_tsc_aux || value >> 32)
            return HW_MSR_FAULT;
        hw_change(hv, VIRTX_STATE_MSR)->tsc_aux = value;
        break;
    case MSR_SPEC_CTRL:
        if (!policy->spec_ctrl || (value & ~policy->spec_ctrl))
            return HW_MSR_FAULT;
        hw_change(hv, VIRTX_STATE_MSR)->spec_ctrl = value;
        break;
    default: /* MSR_XSS */
        if (!policy->has_xsaves || (value & ~policy->xss))
            return HW_MSR_FAULT;
        hw_change(hv, VIRTX_STATE_XCR)->xss = value;
        hw_cpuid_forget(hv);
        break;
    }
    hw_switch_msr(hv, index, value);
    return HW_MSR_OK;
}

enum hw_msr hw_msr_write(struct hw_vcpu *hv, uint32_t index, uint64_t value)
{
    const struct hw_policy *policy = &hv->soft->policy;
    enum hw_msr result;

    switch (index) {
    case MSR_EFER:
        if (!hw_efer_valid(hv, value))
            return HW_MSR_FAULT;
        hw_efer_write(hv, value);
        return HW_MSR_OK;
    case MSR_TSC:
    case MSR_TSC_ADJUST:
        return tsc_write(hv, index, value);
    case MSR_TSC_AUX:
    case MSR_SPEC_CTRL:
    case MSR_XSS:
        return shared_write(hv, index, value);
    case MSR_PAT:
        if (!policy->has_pat || !hw_pat_valid(value))
            return HW_MSR_FAULT;
        hw_change(hv, VIRTX_STATE_MSR)->pat = value;
        return HW_MSR_OK;
    case MSR_APIC_BASE: /* constant, unless an intercept makes more of it */
        return value == hw_state(hv, VIRTX_STATE_MSR)->apic_base ? HW_MSR_OK : HW_MSR_FAULT;
    case MSR_MISC_ENABLE:
        if (policy->amd)
            return HW_MSR_FAULT;
        hw_change(hv, VIRTX_STATE_MSR)->misc_enable =
            (value & MISC_ENABLE_WRITABLE) | MISC_ENABLE_NO_BTS_PEBS;
        return HW_MSR_OK;
    case MSR_DEBUGCTL:
        if (value & ~DEBUGCTL_LBR_BTF)
            return HW_MSR_FAULT;
        hw_change(hv, VIRTX_STATE_DR)->debugctl = value;
        return HW_MSR_OK;
    case MSR_PRED_CMD:
        return command(index, policy->has_ibpb, value);
    case MSR_FLUSH_CMD:
        return command(index, policy->has_l1d_flush, value);
    case MSR_BIOS_UPDT_TRIG: /* no update can be loaded; trying is not an error */
        return policy->amd ? HW_MSR_FAULT : HW_MSR_OK;
    case MSR_BIOS_SIGN_ID:
        return HW_MSR_OK; /* systems write 0 before CPUID makes the revision appear */
    case MSR_MCG_STATUS:
        return value || !policy->has_mca ? HW_MSR_FAULT : HW_MSR_OK;
    case MSR_FEATURE_CONTROL:
    case MSR_ARCH_CAPABILITIES:
    case MSR_PLATFORM_ID:
    case MSR_MCG_CAP:
    case MSR_MTRRCAP:
        return HW_MSR_FAULT; /* read-only or locked */
    default:
        break;
    }
    result = direct_write(hv, index, value);
    if (result != HW_MSR_UNKNOWN)
        return result;
    result = mtrr_write(hv, index, value);
    return result != HW_MSR_UNKNOWN ? result : amd_write(hv, index, value);
}
