/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The entry checker against the Intel SDM chapter "VM Entries": a good guest passes, and each way
 * to break it is found and named.
 */
#include "vmx_mock.h"

static struct virtx_error error;

static enum virtx_status judge(void)
{
    memset(&error, 0, sizeof(error));
    return vmx_check_entry(&v, &error, CHECK_CONTROLS | CHECK_HOST | CHECK_GUEST);
}

/* Segments are two fields apart in enum virtx_seg_index order. */
#define SEG(field, index) ((field) + 2 * (index))
#define SELECTOR(index)   SEG(VMCS_GUEST_ES_SELECTOR, VIRTX_##index)
#define LIMIT(index)      SEG(VMCS_GUEST_ES_LIMIT, VIRTX_##index)
#define RIGHTS(index)     SEG(VMCS_GUEST_ES_ATTRIBUTES, VIRTX_##index)
#define BASE(index)       SEG(VMCS_GUEST_ES_BASE, VIRTX_##index)

#define CONTROLS          VIRTX_E_CONTROLS
#define HOST              VIRTX_E_HOST_STATE
#define GUEST             VIRTX_E_GUEST_STATE

#define INJECT(type, vector, error_code)                                                           \
    (INTERRUPTION_VALID | (type) << 8 | (vector) | ((error_code) ? INTERRUPTION_ERROR : 0))

#define NOT_CANONICAL 0x0000800000000000
#define BEYOND        (1ull << 40)

/* Up to three fields are changed; the first broken rule must be this one. */
static const struct {
    enum virtx_status status;
    const char *what, *rule; /* rule: a part of it */
    struct {
        uint32_t field;
        uint64_t value;
    } set[3];
} broken[] = {
    {CONTROLS, "CR3-target count", "above", {{VMCS_CR3_TARGETS, 5}}},
    {CONTROLS, "I/O bitmap A", "multiple of 4096", {{VMCS_IO_BITMAP_A, 0x1001}}},
    {CONTROLS, "I/O bitmap B", "physical-address width", {{VMCS_IO_BITMAP_B, BEYOND}}},
    {CONTROLS, "MSR bitmap", "multiple of 4096", {{VMCS_MSR_BITMAP, 0x800}}},
    {CONTROLS, "VPID", "must not be 0", {{VMCS_VPID, 0}}},
    {CONTROLS, "EPT pointer", "memory type", {{VMCS_EPTP, 0x20005c}}},
    {CONTROLS, "EPT pointer", "walk length", {{VMCS_EPTP, 0x200056}}},
    {CONTROLS, "EPT pointer", "reserved", {{VMCS_EPTP, 0x20011e}}},
    {CONTROLS, "EPT pointer", "shadow stacks", {{VMCS_EPTP, 0x2000de}}},
    {CONTROLS, "EPT pointer", "reserved", {{VMCS_EPTP, BEYOND | 0x5e}}},
    {CONTROLS,
     "VM-entry MSR-load area",
     "aligned",
     {{VMCS_ENTRY_MSR_LOAD_COUNT, 1}, {VMCS_ENTRY_MSR_LOAD, 0x1008}}},
    {CONTROLS,
     "VM-exit MSR-store area",
     "aligned",
     {{VMCS_EXIT_MSR_STORE_COUNT, 2}, {VMCS_EXIT_MSR_STORE, BEYOND - 16}}},
    {CONTROLS,
     "VM-exit MSR-load area",
     "aligned",
     {{VMCS_EXIT_MSR_LOAD_COUNT, 1}, {VMCS_EXIT_MSR_LOAD, 1}}},
    {CONTROLS, "injected event", "type 1", {{VMCS_ENTRY_INTERRUPTION, INJECT(1u, 0, 0)}}},
    {CONTROLS, "injected event", "vector 2", {{VMCS_ENTRY_INTERRUPTION, INJECT(2u, 3, 0)}}},
    {CONTROLS, "injected event", "0 to 31", {{VMCS_ENTRY_INTERRUPTION, INJECT(3u, 32, 0)}}},
    {CONTROLS, "injected event", "error code", {{VMCS_ENTRY_INTERRUPTION, INJECT(3u, 13, 0)}}},
    {CONTROLS, "injected event", "error code", {{VMCS_ENTRY_INTERRUPTION, INJECT(3u, 6, 1)}}},
    {CONTROLS,
     "injected event",
     "error code",
     {{VMCS_ENTRY_INTERRUPTION, INJECT(0u, 14, 1)}, {VMCS_GUEST_RFLAGS, 0x202}}},
    {CONTROLS,
     "injected event",
     "reserved",
     {{VMCS_ENTRY_INTERRUPTION, INJECT(3u, 6, 0) | 1u << 13}}},
    {CONTROLS,
     "injected error code",
     "31:16",
     {{VMCS_ENTRY_INTERRUPTION, INJECT(3u, 13, 1)}, {VMCS_ENTRY_ERROR_CODE, 0x10000}}},
    {CONTROLS,
     "injected instruction length",
     "1 to 15",
     {{VMCS_ENTRY_INTERRUPTION, INJECT(4u, 0x80, 0)}, {VMCS_ENTRY_LENGTH, 16}}},
    {CONTROLS,
     "injected instruction length",
     "1 to 15",
     {{VMCS_ENTRY_INTERRUPTION, INJECT(6u, 3, 0)}, {VMCS_ENTRY_LENGTH, 0}}},

    {HOST, "host CR0", "fixed", {{VMCS_HOST_CR0, CR0_PG | CR0_PE}}},
    {HOST, "host CR4", "fixed", {{VMCS_HOST_CR4, CR4_PAE}}},
    {HOST, "host CR3", "width", {{VMCS_HOST_CR3, BEYOND}}},
    {HOST, "host IA32_SYSENTER_ESP", "canonical", {{VMCS_HOST_SYSENTER_ESP, NOT_CANONICAL}}},
    {HOST, "host IA32_SYSENTER_EIP", "canonical", {{VMCS_HOST_SYSENTER_EIP, NOT_CANONICAL}}},
    {HOST, "host IA32_PAT", "memory type", {{VMCS_HOST_PAT, 0x0207040600070406}}},
    {HOST, "host IA32_EFER", "LMA", {{VMCS_HOST_EFER, EFER_LMA}}},
    {HOST, "host ES", "RPL", {{VMCS_HOST_ES_SELECTOR, 3}}},
    {HOST, "host GS", "RPL", {{VMCS_HOST_GS_SELECTOR, 4}}},
    {HOST, "host CS", "null", {{VMCS_HOST_CS_SELECTOR, 0}}},
    {HOST, "host TR", "null", {{VMCS_HOST_TR_SELECTOR, 0}}},
    {HOST, "host FS base", "canonical", {{VMCS_HOST_FS_BASE, NOT_CANONICAL}}},
    {HOST, "host TR base", "canonical", {{VMCS_HOST_TR_BASE, NOT_CANONICAL}}},
    {HOST, "host IDTR base", "canonical", {{VMCS_HOST_IDTR_BASE, NOT_CANONICAL}}},
    {HOST, "host CR4.PAE", "64-bit host", {{VMCS_HOST_CR4, CR4_VMXE}}},
    {HOST, "host RIP", "canonical", {{VMCS_HOST_RIP, NOT_CANONICAL}}},

    {GUEST, "guest CR0", "fixed", {{VMCS_GUEST_CR0, CR0_PG | CR0_PE}}},
    {GUEST, "guest CR0", "PG needs PE", {{VMCS_GUEST_CR0, CR0_PG | CR0_NE}}},
    {GUEST, "guest CR4", "fixed", {{VMCS_GUEST_CR4, CR4_PAE}}},
    {GUEST, "guest CR4", "fixed", {{VMCS_GUEST_CR4, CR4_PAE | CR4_VMXE | 1ull << 31}}},
    {GUEST, "guest IA32_DEBUGCTL", "reserved", {{VMCS_GUEST_DEBUGCTL, 1 << 2}}},
    {GUEST, "IA-32e mode guest", "CR4.PAE", {{VMCS_GUEST_CR4, CR4_VMXE}}},
    {GUEST, "guest CR3", "width", {{VMCS_GUEST_CR3, BEYOND}}},
    {GUEST, "guest DR7", "63:32", {{VMCS_GUEST_DR7, 1ull << 32}}},
    {GUEST, "guest IA32_SYSENTER_ESP", "canonical", {{VMCS_GUEST_SYSENTER_ESP, NOT_CANONICAL}}},
    {GUEST, "guest IA32_SYSENTER_EIP", "canonical", {{VMCS_GUEST_SYSENTER_EIP, NOT_CANONICAL}}},
    {GUEST, "guest IA32_PAT", "memory type", {{VMCS_GUEST_PAT, 3}}},
    {GUEST, "guest IA32_EFER", "reserved", {{VMCS_GUEST_EFER, EFER_LMA | EFER_LME | EFER_SVME}}},
    {GUEST, "guest IA32_EFER", "control", {{VMCS_GUEST_EFER, EFER_LME}}},
    {GUEST, "guest IA32_EFER", "equal LME", {{VMCS_GUEST_EFER, EFER_LMA}}},
    {GUEST, "guest TR", "TI", {{SELECTOR(TR), 4}}},
    {GUEST, "guest LDTR", "TI", {{SELECTOR(LDTR), 4}}},
    {GUEST, "guest TR", "canonical", {{BASE(TR), NOT_CANONICAL}}},
    {GUEST, "guest FS", "canonical", {{BASE(FS), NOT_CANONICAL}}},
    {GUEST, "guest LDTR", "canonical", {{BASE(LDTR), NOT_CANONICAL}}},
    {GUEST, "guest CS", "63:32", {{BASE(CS), 1ull << 32}}},
    {GUEST, "guest SS", "63:32", {{BASE(SS), 1ull << 32}}},
    {GUEST, "guest CS", "type", {{RIGHTS(CS), 0xa09a}}},
    {GUEST, "guest SS", "type", {{RIGHTS(SS), 0xc091}}},
    {GUEST, "guest DS", "accessed", {{RIGHTS(DS), 0xc092}}},
    {GUEST, "guest GS", "readable", {{RIGHTS(GS), 0xc099}}},
    {GUEST, "guest CS", "S (", {{RIGHTS(CS), 0xa08b}}},
    {GUEST, "guest ES", "S (", {{RIGHTS(ES), 0xc083}}},
    {GUEST, "guest CS", "DPL", {{RIGHTS(CS), 0xa0fb}}},
    {GUEST, "guest CS", "P must", {{RIGHTS(CS), 0xa01b}}},
    {GUEST, "guest FS", "P must", {{RIGHTS(FS), 0xc013}}},
    {GUEST, "guest DS", "reserved", {{RIGHTS(DS), 0xc193}}},
    {GUEST, "guest CS", "64-bit mode", {{RIGHTS(CS), 0xe09b}}},
    {GUEST, "guest SS", "limit bits", {{LIMIT(SS), 0xfffff000}}},
    {GUEST, "guest ES", "limit bits", {{RIGHTS(ES), 0x4093}}},
    {GUEST, "guest TR", "usable", {{RIGHTS(TR), 0x1008b}}},
    {GUEST, "guest TR", "busy", {{RIGHTS(TR), 0x89}}},
    {GUEST, "guest TR", "busy", {{RIGHTS(TR), 0x83}}}, /* 16-bit TSS in IA-32e mode */
    {GUEST, "guest TR", "S must", {{RIGHTS(TR), 0x9b}}},
    {GUEST, "guest TR", "S must", {{RIGHTS(TR), 0x0b}}},
    {GUEST, "guest TR", "limit bits", {{LIMIT(TR), 0x1fffff}}},
    {GUEST, "guest LDTR", "type must be 2", {{RIGHTS(LDTR), 0x8b}}},
    {GUEST, "guest LDTR", "S must", {{RIGHTS(LDTR), 0x92}}},
    {GUEST, "guest GDTR", "canonical", {{VMCS_GUEST_GDTR_BASE, NOT_CANONICAL}}},
    {GUEST, "guest IDTR", "limit", {{VMCS_GUEST_IDTR_LIMIT, 0x10000}}},
    {GUEST, "guest RIP", "canonical", {{VMCS_GUEST_RIP, NOT_CANONICAL}}},
    {GUEST, "guest RIP", "63:32", {{VMCS_GUEST_RIP, 1ull << 32}, {RIGHTS(CS), 0xc09b}}},
    {GUEST, "guest RFLAGS", "bit 1", {{VMCS_GUEST_RFLAGS, 0}}},
    {GUEST, "guest RFLAGS", "reserved", {{VMCS_GUEST_RFLAGS, 0x8002}}},
    {GUEST, "guest RFLAGS", "reserved", {{VMCS_GUEST_RFLAGS, 1ull << 22 | 2}}},
    {GUEST, "guest RFLAGS", "IF", {{VMCS_ENTRY_INTERRUPTION, INJECT(0u, 0x30, 0)}}},
    {GUEST, "guest activity state", "supports", {{VMCS_GUEST_ACTIVITY, 4}}},
    {GUEST,
     "guest activity state",
     "shadow",
     {{VMCS_GUEST_ACTIVITY, 1}, {VMCS_GUEST_INTERRUPTIBILITY, 2}}},
    {GUEST,
     "guest activity state",
     "ends it",
     {{VMCS_GUEST_ACTIVITY, 1}, {VMCS_ENTRY_INTERRUPTION, INJECT(3u, 6, 0)}}},
    {GUEST, "guest interruptibility state", "reserved", {{VMCS_GUEST_INTERRUPTIBILITY, 0x20}}},
    {GUEST,
     "guest interruptibility state",
     "exclude",
     {{VMCS_GUEST_INTERRUPTIBILITY, 3}, {VMCS_GUEST_RFLAGS, 0x202}}},
    {GUEST, "guest interruptibility state", "RFLAGS.IF", {{VMCS_GUEST_INTERRUPTIBILITY, 1}}},
    {GUEST,
     "guest interruptibility state",
     "interrupt cannot",
     {{VMCS_GUEST_INTERRUPTIBILITY, 1},
      {VMCS_GUEST_RFLAGS, 0x202},
      {VMCS_ENTRY_INTERRUPTION, INJECT(0u, 0x30, 0)}}},
    {GUEST,
     "guest interruptibility state",
     "NMI cannot",
     {{VMCS_GUEST_INTERRUPTIBILITY, 2}, {VMCS_ENTRY_INTERRUPTION, INJECT(2u, 2, 0)}}},
    {GUEST,
     "guest interruptibility state",
     "virtual NMI",
     {{VMCS_GUEST_INTERRUPTIBILITY, 8}, {VMCS_ENTRY_INTERRUPTION, INJECT(2u, 2, 0)}}},
    {GUEST, "guest interruptibility state", "SMI", {{VMCS_GUEST_INTERRUPTIBILITY, 4}}},
    {GUEST, "guest pending debug exceptions", "reserved", {{VMCS_GUEST_PENDING_DEBUG, 0x10}}},
    {GUEST,
     "guest pending debug exceptions",
     "BS",
     {{VMCS_GUEST_INTERRUPTIBILITY, 2}, {VMCS_GUEST_PENDING_DEBUG, 0x4000}}},
    {GUEST,
     "guest pending debug exceptions",
     "BS",
     {{VMCS_GUEST_INTERRUPTIBILITY, 2}, {VMCS_GUEST_RFLAGS, 0x102}}},
    {GUEST, "guest pending debug exceptions", "RTM", {{VMCS_GUEST_PENDING_DEBUG, 0x10000}}},
    {GUEST, "guest interruptibility state", "enclave", {{VMCS_GUEST_INTERRUPTIBILITY, 0x10}}},
    {GUEST, "guest CR0", "fixed", {{VMCS_GUEST_CR0, 1ull << 40 | CR0_PG | CR0_NE | CR0_PE}}},
    {GUEST, "VMCS link pointer", "all ones", {{VMCS_LINK_POINTER, 0x800}}},
    {GUEST, "VMCS link pointer", "all ones", {{VMCS_LINK_POINTER, BEYOND}}},
    {HOST, "host IA32_EFER", "reserved", {{VMCS_HOST_EFER, EFER_LMA | EFER_LME | EFER_SVME}}},
};

START_TEST(breaks_one_rule)
{
    load_vcpu("corei7_haswell_4770", 0);
    ck_assert_int_eq(judge(), VIRTX_OK);
    for (unsigned i = 0; i < 3; i++) {
        if (broken[_i].set[i].field || i == 0)
            vmcs[broken[_i].set[i].field] = broken[_i].set[i].value;
    }
    ck_assert_int_eq(judge(), broken[_i].status);
    ck_assert_str_eq(error.what, broken[_i].what);
    ck_assert_msg(strstr(error.rule, broken[_i].rule) != NULL, "rule \"%s\", not \"%s\"",
                  error.rule, broken[_i].rule);
    ck_assert_str_ne(error.manual, "");
    drop_vcpu();
}
END_TEST

START_TEST(good_guests_pass)
{
    for (size_t i = 1; i < sizeof(vmx_models) / sizeof(vmx_models[0]); i++) {
        load_vcpu(vmx_models[i].name, 0);
        ck_assert_msg(judge() == VIRTX_OK, "%s: %s: %s", vmx_models[i].name, error.what,
                      error.rule);
        drop_vcpu();
    }
}
END_TEST

static void set_state(void)
{
    hv->dirty = VIRTX_STATE_ALL;
    hv->valid = VIRTX_STATE_ALL;
    ck_assert_msg(vmx_check(hv, &error) == VIRTX_OK, "%s: %s", error.what, error.rule);
}

/* Real mode as RESET leaves it, protected mode without and with paging, virtual-8086 mode. */
START_TEST(other_modes_pass)
{
    struct virtx_state *s = &hv->state;

    load_vcpu("corei7_haswell_4770", 0);
    s->cr0 = CR0_ET | CR0_CD | CR0_NW;
    s->cr4 = s->efer = 0;
    s->rip = 0xfff0;
    for (unsigned i = 0; i < 6; i++)
        s->seg[i] = segment(0, 0xffff, 0x93);
    s->seg[VIRTX_CS] = segment(0xf000, 0xffff, 0x9b);
    s->seg[VIRTX_CS].base = 0xffff0000;
    set_state();
    /* real mode entered from the loader's point of view: a data segment in CS */
    s->seg[VIRTX_CS].attributes = 0x93;
    set_state();
    s->cr0 = CR0_ET | CR0_PE;
    for (unsigned i = 0; i < 6; i++)
        s->seg[i] = segment(0x10, 0xffffffff, 0xc093);
    s->seg[VIRTX_CS] = segment(8, 0xffffffff, 0xc09b);
    set_state();
    s->cr0 |= CR0_PG;
    set_state();
    s->cr4 = CR4_PAE;
    s->pdpte[0] = 0x2001;
    set_state();
    s->rflags = 2 | RFLAGS_VM;
    for (unsigned i = 0; i < 6; i++) {
        s->seg[i] = segment(0x1234, 0xffff, 0x93); /* as SVM reports them */
        s->seg[i].base = 0x12340;
    }
    set_state();
    drop_vcpu();
}
END_TEST

START_TEST(virtual_8086_rules)
{
    struct virtx_state *s = &hv->state;

    load_vcpu("corei7_haswell_4770", 0);
    s->efer = 0;
    s->cr4 = 0;
    s->rflags = 2 | RFLAGS_VM;
    for (unsigned i = 0; i < 6; i++) {
        s->seg[i] = segment(0x1234, 0xffff, 0xf3);
        s->seg[i].base = 0x12340;
    }
    set_state();
    vmcs[BASE(DS)] = 0;
    ck_assert_int_eq(judge(), VIRTX_E_GUEST_STATE);
    ck_assert_str_eq(error.what, "guest DS");
    vmcs[BASE(DS)] = 0x12340;
    vmcs[LIMIT(FS)] = 0xfffff;
    ck_assert_int_eq(judge(), VIRTX_E_GUEST_STATE);
    ck_assert_str_eq(error.what, "guest FS");
    vmcs[LIMIT(FS)] = 0xffff;
    vmcs[RIGHTS(SS)] = 0x93;
    ck_assert_int_eq(judge(), VIRTX_E_GUEST_STATE);
    ck_assert_str_eq(error.what, "guest SS");
    drop_vcpu();
}
END_TEST

START_TEST(restricted_guest_rules)
{
    load_vcpu("corei5_lynnfield_750", 0);
    ck_assert_int_eq(judge(), VIRTX_OK);
    vmcs[VMCS_GUEST_CR0] &= ~CR0_PG;
    ck_assert_int_eq(judge(), VIRTX_E_GUEST_STATE);
    ck_assert_str_eq(error.what, "guest CR0");
    vmcs[VMCS_GUEST_CR0] |= CR0_PG;
    vmcs[SELECTOR(SS)] = 0x13; /* RPL differs from CS's */
    ck_assert_int_eq(judge(), VIRTX_E_GUEST_STATE);
    ck_assert_str_eq(error.what, "guest SS");
    drop_vcpu();
}
END_TEST

START_TEST(pdptes)
{
    struct virtx_state *s = &hv->state;

    load_vcpu("corei7_haswell_4770", 0);
    s->efer = 0;
    s->seg[VIRTX_CS] = segment(8, 0xffffffff, 0xc09b);
    s->pdpte[3] = 0x3001;
    set_state();
    vmcs[VMCS_GUEST_PDPTE0 + 6] = 0x3003;
    ck_assert_int_eq(judge(), VIRTX_E_GUEST_STATE);
    ck_assert_str_eq(error.what, "guest PDPTE 3");
    drop_vcpu();
}
END_TEST

/* The control words are the library's own, so they are broken here in its copies. */
START_TEST(control_words)
{
    load_vcpu("corei7_haswell_4770", 0);
    v.control[VMX_PIN] |= PIN_POSTED_INTERRUPT;
    ck_assert_int_eq(judge(), VIRTX_E_CONTROLS);
    ck_assert_str_eq(error.what, "pin-based controls");
    v.control[VMX_PIN] &= ~(PIN_POSTED_INTERRUPT | PIN_NMI);
    ck_assert_int_eq(judge(), VIRTX_E_CONTROLS);
    ck_assert_str_eq(error.what, "virtual NMIs");
    v.control[VMX_PIN] &= ~PIN_VIRTUAL_NMI;
    v.control[VMX_PRIMARY] |= PRIMARY_NMI_WINDOW;
    ck_assert_int_eq(judge(), VIRTX_E_CONTROLS);
    ck_assert_str_eq(error.what, "NMI-window exiting");
    v.control[VMX_PRIMARY] &= ~PRIMARY_NMI_WINDOW;
    v.control[VMX_SECONDARY] &= ~SECONDARY_EPT;
    ck_assert_int_eq(judge(), VIRTX_E_CONTROLS);
    ck_assert_str_eq(error.what, "unrestricted guest");
    v.control[VMX_SECONDARY] &= ~SECONDARY_UNRESTRICTED;
    v.control[VMX_SECONDARY] |= SECONDARY_APIC_REGISTERS;
    v.control[VMX_PRIMARY] &= ~PRIMARY_TPR_SHADOW;
    ck_assert_int_eq(judge(), VIRTX_E_CONTROLS);
    ck_assert_str_eq(error.what, "APIC virtualization");
    drop_vcpu();
}
END_TEST

/* Rules about controls that the library leaves alone: one control word and one field. */
static const struct {
    unsigned word;
    uint32_t set, clear;
    enum virtx_status status;
    const char *what, *rule;
    uint32_t field;
    uint64_t value;
} newer[] = {
    {VMX_PRIMARY, PRIMARY_TPR_SHADOW, 0, CONTROLS, "virtual-APIC address", "4096",
     VMCS_VIRTUAL_APIC, 0x1010},
    {VMX_PRIMARY, PRIMARY_TPR_SHADOW, 0, CONTROLS, "TPR threshold", "31:4", VMCS_TPR_THRESHOLD,
     0x10},
    {VMX_PRIMARY, PRIMARY_TPR_SHADOW, 0, CONTROLS, "TPR threshold", "VTPR", VMCS_TPR_THRESHOLD, 6},
    {VMX_SECONDARY, SECONDARY_APIC_ACCESS, 0, CONTROLS, "APIC-access address", "4096",
     VMCS_APIC_ACCESS, 0x1010},
    {VMX_PIN, PIN_POSTED_INTERRUPT, 0, CONTROLS, "pin-based controls", "reserved",
     VMCS_POSTED_VECTOR, 0},
    {VMX_SECONDARY, SECONDARY_PML, SECONDARY_EPT | SECONDARY_UNRESTRICTED, CONTROLS,
     "page-modification logging", "needs EPT", VMCS_PML_ADDRESS, 0},
    {VMX_SECONDARY, SECONDARY_PML, 0, CONTROLS, "PML address", "4096", VMCS_PML_ADDRESS, 1},
    {VMX_SECONDARY, SECONDARY_FUNCTIONS, 0, CONTROLS, "VM functions", "VMFUNC",
     VMCS_FUNCTION_CONTROLS, 2},
    {VMX_SECONDARY, SECONDARY_FUNCTIONS, SECONDARY_EPT | SECONDARY_UNRESTRICTED | SECONDARY_PML,
     CONTROLS, "EPTP switching", "needs EPT", VMCS_FUNCTION_CONTROLS, 1},
    {VMX_SECONDARY, SECONDARY_SHADOWING, 0, CONTROLS, "VMREAD bitmap", "4096", VMCS_VMREAD_BITMAP,
     8},
    {VMX_SECONDARY, SECONDARY_SHADOWING, 0, CONTROLS, "VMWRITE bitmap", "width",
     VMCS_VMWRITE_BITMAP, BEYOND},
    {VMX_SECONDARY, SECONDARY_VE, 0, CONTROLS, "virtualization-exception information", "4096",
     VMCS_VE_INFORMATION, 8},
    {VMX_EXIT, EXIT_SAVE_TIMER, 0, CONTROLS, "save VMX-preemption timer", "not active",
     VMCS_VE_INFORMATION, 0},
    {VMX_EXIT, EXIT_LOAD_CET, 0, HOST, "host IA32_S_CET", "canonical", VMCS_HOST_S_CET,
     NOT_CANONICAL},
    {VMX_EXIT, EXIT_LOAD_CET, 0, HOST, "host IA32_S_CET", "bits 11 and 10", VMCS_HOST_S_CET, 0xc00},
    {VMX_EXIT, EXIT_LOAD_CET, 0, HOST, "host SSP", "1:0", VMCS_HOST_SSP, 2},
    {VMX_EXIT, EXIT_LOAD_CET, 0, HOST, "host interrupt SSP table", "canonical", VMCS_HOST_SSP_TABLE,
     NOT_CANONICAL},
    {VMX_EXIT, EXIT_LOAD_PKRS, 0, HOST, "host IA32_PKRS", "63:32", VMCS_HOST_PKRS, 1ull << 32},
    {VMX_EXIT, EXIT_LOAD_PERF, 0, HOST, "host IA32_PERF_GLOBAL_CTRL", "reserved",
     VMCS_HOST_PERF_GLOBAL, 1ull << 32},
    {VMX_EXIT, 0, 0, HOST, "host CR4", "CET", VMCS_HOST_CR4, CR4_PAE | CR4_VMXE | CR4_CET},
    {VMX_ENTRY, ENTRY_LOAD_CET, 0, GUEST, "guest IA32_S_CET", "bits 11 and 10", VMCS_GUEST_S_CET,
     0x40},
    {VMX_ENTRY, ENTRY_LOAD_CET, 0, GUEST, "guest SSP", "canonical", VMCS_GUEST_SSP, NOT_CANONICAL},
    {VMX_ENTRY, ENTRY_LOAD_CET, 0, GUEST, "guest SSP", "1:0", VMCS_GUEST_SSP, 1},
    {VMX_ENTRY, ENTRY_LOAD_PKRS, 0, GUEST, "guest IA32_PKRS", "63:32", VMCS_GUEST_PKRS, 1ull << 32},
    {VMX_ENTRY, ENTRY_LOAD_BNDCFGS, 0, GUEST, "guest IA32_BNDCFGS", "reserved", VMCS_GUEST_BNDCFGS,
     4},
    {VMX_ENTRY, ENTRY_LOAD_PERF, 0, GUEST, "guest IA32_PERF_GLOBAL_CTRL", "reserved",
     VMCS_GUEST_PERF_GLOBAL, 1},
};

START_TEST(newer_controls)
{
    struct vmx_cpu *cpu = &cpu_data;
    uint8_t *apic = host_alloc(NULL, 1);

    load_vcpu("tigerlake", 0);
    memset(apic, 0, 4096);
    apic[0x80] = 0x50;
    vmcs[VMCS_VIRTUAL_APIC] = host_phys(NULL, apic);
    vmcs[VMCS_TPR_THRESHOLD] = 5;
    cr[0] &= ~CR0_WP;
    vmcs[VMCS_HOST_CR0] &= ~CR0_WP;
    /* A processor that has them all. */
    for (unsigned i = 0; i < VMX_WORD_COUNT; i++)
        cpu->caps.control[i].may = UINT32_MAX;
    cpu->caps.control[VMX_PIN].may &= ~PIN_POSTED_INTERRUPT;
    cpu->caps.cr4_fixed1 |= CR4_CET;
    cpu->caps.functions = 1;
    ck_assert_int_eq(judge(), VIRTX_OK);
    v.control[newer[_i].word] |= newer[_i].set;
    v.control[newer[_i].word] &= ~newer[_i].clear;
    vmcs[newer[_i].field] = newer[_i].value;
    ck_assert_int_eq(judge(), newer[_i].status);
    ck_assert_str_eq(error.what, newer[_i].what);
    ck_assert_msg(strstr(error.rule, newer[_i].rule) != NULL, "rule \"%s\", not \"%s\"", error.rule,
                  newer[_i].rule);
    host_free(NULL, apic, 1);
    drop_vcpu();
}
END_TEST

START_TEST(posted_interrupts)
{
    load_vcpu("tigerlake", 0);
    cpu_data.caps.control[VMX_PIN].may = UINT32_MAX;
    cpu_data.caps.control[VMX_EXIT].may = UINT32_MAX;
    v.control[VMX_PIN] |= PIN_POSTED_INTERRUPT;
    ck_assert_int_eq(judge(), VIRTX_E_CONTROLS);
    ck_assert(strstr(error.rule, "virtual-interrupt") != NULL);
    v.control[VMX_PRIMARY] |= PRIMARY_TPR_SHADOW;
    v.control[VMX_SECONDARY] |= SECONDARY_VIRTUAL_INTERRUPT;
    ck_assert_int_eq(judge(), VIRTX_E_CONTROLS);
    ck_assert(strstr(error.rule, "acknowledgement") != NULL);
    v.control[VMX_EXIT] |= EXIT_ACK_INTERRUPT;
    ck_assert_int_eq(judge(), VIRTX_OK);
    vmcs[VMCS_POSTED_VECTOR] = 0x100;
    ck_assert_int_eq(judge(), VIRTX_E_CONTROLS);
    vmcs[VMCS_POSTED_VECTOR] = 0;
    vmcs[VMCS_POSTED_DESCRIPTOR] = 0x20;
    ck_assert_int_eq(judge(), VIRTX_E_CONTROLS);
    vmcs[VMCS_POSTED_DESCRIPTOR] = 0x40;
    v.control[VMX_PIN] &= ~PIN_INTERRUPT;
    ck_assert_int_eq(judge(), VIRTX_E_CONTROLS);
    ck_assert(strstr(error.rule, "external-interrupt") != NULL);
    drop_vcpu();
}
END_TEST

START_TEST(link_to_itself)
{
    load_vcpu("corei7_haswell_4770", 0);
    vmcs[VMCS_LINK_POINTER] = v.vmcs_hpa;
    ck_assert_int_eq(judge(), VIRTX_E_GUEST_STATE);
    vmcs[VMCS_LINK_POINTER] = v.vmcs_hpa ^ 0x1000; /* what is there is not judged */
    ck_assert_int_eq(judge(), VIRTX_OK);
    drop_vcpu();
}
END_TEST

/* The MSR-load area of processors without the controls that switch EFER. */
START_TEST(loaded_msrs)
{
    static const struct {
        struct vmx_msr_entry entry;
        const char *rule;
    } rows[] = {
        {{MSR_EFER, 0, EFER_LME | EFER_LMA}, NULL},
        {{MSR_EFER, 1, 0}, "63:32"},
        {{MSR_EFER, 0, EFER_SVME}, "reserved"},
        {{MSR_FS_BASE, 0, 0}, "IA32_FS_BASE"},
        {{MSR_GS_BASE, 0, 0}, "IA32_GS_BASE"},
        {{0x808, 0, 0}, "x2APIC"},
        {{MSR_SMM_MONITOR_CTL, 0, 0}, "SMM"},
        {{MSR_BIOS_SIGN_ID, 0, 0}, "microcode"},
        {{MSR_PAT, 0, 2}, "memory type"},
        {{MSR_LSTAR, 0, NOT_CANONICAL}, "canonical"},
        {{MSR_LSTAR, 0, 0x1000}, NULL},
    };

    load_vcpu("core2_penryn_t9600", 0);
    ck_assert_ptr_nonnull(v.msr_area);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        v.msr_area[0] = rows[i].entry;
        ck_assert_int_eq(vmx_check_entry(&v, &error, CHECK_MSRS),
                         rows[i].rule ? VIRTX_E_GUEST_STATE : VIRTX_OK);
        if (rows[i].rule)
            ck_assert(strstr(error.rule, rows[i].rule) != NULL);
    }
    drop_vcpu();
}
END_TEST

START_TEST(every_instruction_error_has_a_text)
{
    static const uint8_t listed[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13,
                                     15, 16, 17, 18, 19, 20, 22, 23, 24, 25, 26, 28};
    const char *unknown = vmx_instruction_error(0);

    for (size_t i = 0; i < sizeof(listed); i++)
        ck_assert_str_ne(vmx_instruction_error(listed[i]), unknown);
    ck_assert_str_eq(vmx_instruction_error(14), unknown);
    ck_assert_str_eq(vmx_instruction_error(UINT32_MAX), unknown);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("vmx_check");
    TCase *tests = tcase_create("check");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_loop_test(tests, breaks_one_rule, 0, (int)ARRAY_SIZE(broken));
    tcase_add_test(tests, good_guests_pass);
    tcase_add_test(tests, other_modes_pass);
    tcase_add_test(tests, virtual_8086_rules);
    tcase_add_test(tests, restricted_guest_rules);
    tcase_add_test(tests, pdptes);
    tcase_add_test(tests, control_words);
    tcase_add_loop_test(tests, newer_controls, 0, (int)ARRAY_SIZE(newer));
    tcase_add_test(tests, posted_interrupts);
    tcase_add_test(tests, link_to_itself);
    tcase_add_test(tests, loaded_msrs);
    tcase_add_test(tests, every_instruction_error_has_a_text);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
