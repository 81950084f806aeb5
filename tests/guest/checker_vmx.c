/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The entry checker against VMX: enters the VMCS of a trial, judges it, and compares.
 *
 * Whatever a guest is, it does not execute one instruction: the EPT, or the page tables where there
 * is no EPT, are empty, all exceptions exit, and so does the interrupt that ends HLT.
 */
#include "checker_vmx.h"
#include "x86/cpu.h"

enum { PAGE = 4096, VECTOR_WAKE = 0x63, BROKEN = 24 };

struct bench bench;
uint64_t checker_vmlaunch(void);

#define VALUE(field) vmx_value[VMCS_##field]

/* ---- What Bochs is known to do ---- */

static bool always(const struct check *c)
{
    (void)c;
    return true;
}

static bool ss_null_64(const struct check *c)
{
    return c->ia32e && (c->attributes[VIRTX_CS] & VIRTX_SEG_L) && !(c->selector[VIRTX_SS] & 3);
}

static bool pg_kept(const struct check *c)
{
    return (c->cr4 & CR4_PAE) && (c->cr0 & CR0_PE);
}

static bool shutdown(const struct check *c)
{
    return c->activity == 1 ||
           (c->activity == 2 && (c->injection & INTERRUPTION_VECTOR) == VECTOR_MC);
}

static bool debug_high(const struct check *c)
{
    (void)c;
    return !(vmx_vmread(VMCS_GUEST_PENDING_DEBUG) & 0xfffeaff0);
}

static bool type_11(const struct check *c)
{
    for (unsigned i = 0; i < 6; i++) {
        if ((c->attributes[i] & 0x1000f) == 11)
            return true;
    }
    return false;
}

static bool type_7(const struct check *c)
{
    return (c->injection & INTERRUPTION_TYPE) >> INTERRUPTION_TYPE_SHIFT == INTERRUPTION_OTHER;
}

static bool cet_processor(const struct check *c)
{
    return c->caps->cr4_fixed1 & CR4_CET;
}

/* Rules of the manual that Bochs 2.7 does not apply, when `when` holds. The words are the rule's
 * own, or a part. */
static const struct unchecked {
    const char *what, *rule;
    bool (*when)(const struct check *c);
} unchecked[] = {
    {"guest IA32_DEBUGCTL", "reserved bits must be 0", always},
    {"guest RIP", "must be canonical", always},
    {"guest RFLAGS", "VM must be 0 in IA-32e mode and in real mode", always},
    {"IA-32e mode guest", "needs CR0.PG", pg_kept},
    {"guest CS", "DPL must be 0 for type 3", always},
    {"guest SS", "", ss_null_64},
    {"guest activity state", "the injected event must be one that ends it", shutdown},
    {"guest pending debug exceptions", "BS must be 1 exactly when", always},
    {"guest pending debug exceptions", "reserved bits must be 0", debug_high},
    {"guest interruptibility state", "a virtual NMI cannot be injected", always},
    {"guest DS", "DPL of data or non-conforming code", type_11},
    {"guest ES", "DPL of data or non-conforming code", type_11},
    {"guest FS", "DPL of data or non-conforming code", type_11},
    {"guest GS", "DPL of data or non-conforming code", type_11},
    {"injected event", "nor 7 (other event)", type_7},
    {"injected event", "an error code goes with", cet_processor},
    {"injected event", "other events 0", type_7},
    {"EPT pointer", "supervisor shadow stacks", cet_processor},
};

/* States that Bochs 2.7 refuses although the manual allows them. */
static bool cs_rpl(const struct check *c)
{
    unsigned type = c->attributes[VIRTX_CS] & VIRTX_SEG_TYPE;
    unsigned dpl = (c->attributes[VIRTX_CS] & VIRTX_SEG_DPL) >> VIRTX_SEG_DPL_SHIFT;
    unsigned rpl = c->selector[VIRTX_CS] & 3;

    if (c->rflags & RFLAGS_VM)
        return false;
    return type == 9 || type == 11 ? rpl != dpl : (type == 13 || type == 15) && rpl < dpl;
}

static bool debug_rtm(const struct check *c)
{
    (void)c;
    return vmx_vmread(VMCS_GUEST_PENDING_DEBUG) & PENDING_DEBUG_RTM;
}

static bool enclave(const struct check *c)
{
    return c->interruptibility & 1u << 4;
}

static bool to_smm(const struct check *c)
{
    return c->control[VMX_ENTRY] & ENTRY_SMM;
}

static bool cet_high(const struct check *c)
{
    return (c->control[VMX_ENTRY] & ENTRY_LOAD_CET) && !c->ia32e &&
           (vmx_vmread(VMCS_GUEST_S_CET) | vmx_vmread(VMCS_GUEST_SSP)) >> 32;
}

static const struct strict {
    enum verdict verdict;
    const char *what, *words, *manual;
    bool (*when)(const struct check *c);
} strict[] = {
    {VERDICT_GUEST, "guest CS", "the selector's RPL has nothing to do with DPL",
     "Checks on Guest Segment Registers", cs_rpl},
    {VERDICT_GUEST, "guest pending debug exceptions", "RTM may be set where there is RTM",
     "Checks on Guest Non-Register State", debug_rtm},
    {VERDICT_GUEST, "guest interruptibility state",
     "enclave interruption may be set where there is SGX", "Checks on Guest Non-Register State",
     enclave},
    {VERDICT_GUEST, "guest SSP and IA32_S_CET",
     "whether bits 63:32 may be set outside IA-32e mode the manual does not say clearly; the "
     "library never loads them",
     "Checks on Guest RIP, RFLAGS, and SSP", cet_high},
    {VERDICT_GUEST, "entry to SMM", "is refused as a control", "VM-Entry Control Fields", to_smm},
};

/* ---- The library's verdict ---- */

struct judgement {
    struct check check;
    const struct check_rule *rule[BROKEN];
    enum verdict verdict[BROKEN];
    unsigned count;
    struct virtx_error msrs;
    bool msrs_broken;
};

static enum verdict verdict_of(enum virtx_status status)
{
    return status == VIRTX_E_CONTROLS     ? VERDICT_CONTROLS
           : status == VIRTX_E_HOST_STATE ? VERDICT_HOST
                                          : VERDICT_GUEST;
}

/* How often each rule was broken, by table and row. */
static uint32_t broken_count[8][64];

static void judge(struct judgement *j)
{
    static const uint16_t words[VMX_WORD_COUNT] = {VMCS_PIN, VMCS_PRIMARY, VMCS_SECONDARY,
                                                   VMCS_EXIT, VMCS_ENTRY};

    for (unsigned i = 0; i < VMX_WORD_COUNT; i++)
        bench.probe.control[i] = (uint32_t)vmx_value[words[i]];
    bench.probe.msr_area = (void *)(uintptr_t)(bench.msrs | (VALUE(ENTRY_MSR_LOAD) & 0xff0));
    vmx_check_look(&bench.probe, &j->check);
    j->count = 0;
    for (unsigned t = 0; t < vmx_check_table_count; t++) {
        const struct check_table *table = &vmx_check_tables[t];

        for (unsigned i = 0; i < *table->count && j->count < BROKEN; i++) {
            if (table->rules[i].holds(&j->check, table->rules[i].arg))
                continue;
            broken_count[t][i]++;
            j->rule[j->count] = &table->rules[i];
            j->verdict[j->count++] = verdict_of(table->broken);
        }
    }
    j->msrs_broken = vmx_check_entry(&bench.probe, &j->msrs, CHECK_MSRS) != VIRTX_OK;
}

/* Whether the manual allows this verdict, with the rules that an engine leaves out left out.
 * Controls and host state are judged before the guest, in either order. */
static bool allowed(const struct judgement *j, const bool *left_out, enum verdict engine)
{
    bool broken[VERDICT_COUNT] = {false};

    for (unsigned i = 0; i < j->count; i++)
        broken[j->verdict[i]] |= !left_out[i];
    if (broken[VERDICT_CONTROLS] || broken[VERDICT_HOST])
        return (engine == VERDICT_CONTROLS || engine == VERDICT_HOST) && broken[engine];
    if (broken[VERDICT_GUEST])
        return engine == VERDICT_GUEST;
    return engine == (j->msrs_broken ? VERDICT_MSRS : VERDICT_ENTERED);
}

static bool text_holds(const char *text, const char *part)
{
    for (; *text != '\0'; text++) {
        const char *a = text, *b = part;
        while (*b != '\0' && *a == *b) {
            a++;
            b++;
        }
        if (*b == '\0')
            return true;
    }
    return false;
}

static bool engine_leaves_out(const struct judgement *j, const struct check_rule *rule)
{
    for (unsigned i = 0; engine_is("bochs") && i < ARRAY_SIZE(unchecked); i++) {
        if (text_holds(rule->what, unchecked[i].what) &&
            text_holds(rule->rule, unchecked[i].rule) && unchecked[i].when(&j->check))
            return true;
    }
    return false;
}

/* "A processor may require": either verdict on an NMI injected in the shadow of STI will do. */
static bool engine_may_leave_out(const struct judgement *j, const struct check_rule *rule)
{
    return text_holds(rule->rule, "an NMI cannot be injected while STI") &&
           (j->check.interruptibility & 3) == 1;
}

static void compare(const struct judgement *j, enum verdict engine, uint64_t detail)
{
    bool left_out[BROKEN] = {false};

    for (unsigned i = 0; i < j->count; i++)
        left_out[i] = engine_may_leave_out(j, j->rule[i]);
    trial_counted(engine);
    if (allowed(j, left_out, engine))
        return;
    for (unsigned i = 0; i < j->count; i++)
        left_out[i] |= engine_leaves_out(j, j->rule[i]);
    if (allowed(j, left_out, engine)) {
        for (unsigned i = 0; i < j->count; i++) {
            if (left_out[i])
                trial_known("Bochs does not apply", j->rule[i]->what, j->rule[i]->rule,
                            j->rule[i]->manual);
        }
        return;
    }
    for (unsigned i = 0; engine_is("bochs") && i < ARRAY_SIZE(strict); i++) {
        if (strict[i].verdict == engine && strict[i].when(&j->check)) {
            trial_known("Bochs refuses", strict[i].what, strict[i].words, strict[i].manual);
            return;
        }
    }
    if (j->count != 0)
        trial_unexplained(engine, detail, j->rule[0]->what, j->rule[0]->rule, j->rule[0]->manual);
    else if (j->msrs_broken)
        trial_unexplained(engine, detail, j->msrs.what, j->msrs.rule, j->msrs.manual);
    else
        trial_unexplained(engine, detail, NULL, NULL, NULL);
}

/* ---- The engine's verdict ---- */

static enum verdict enter(uint64_t *detail)
{
    uint64_t efer = x86_rdmsr(MSR_EFER), cr0 = x86_read_cr0(), cr4 = x86_read_cr4();
    uint64_t failed = checker_vmlaunch(), reason;

    if (failed) {
        *detail = failed == 2 ? vmx_vmread(VMCS_INSTRUCTION_ERROR) : 0;
        return *detail == 7 ? VERDICT_CONTROLS : *detail == 8 ? VERDICT_HOST : VERDICT_ODD;
    }
    reason = *detail = vmcs_exit_reason();
    x86_write_cr4(cr4);
    x86_write_cr0(cr0);
    x86_wrmsr(MSR_EFER, efer);
    if (!(reason & VMX_REASON_ENTRY_FAILED))
        return VERDICT_ENTERED;
    switch (reason & VMX_REASON_BASIC) {
    case VMX_REASON_ENTRY_GUEST_STATE:
        return VERDICT_GUEST;
    case VMX_REASON_ENTRY_MSR:
        return VERDICT_MSRS;
    default:
        return VERDICT_ODD;
    }
}

/* An interrupt for a guest in HLT: pending until something takes it. */
static void wake(void)
{
    bare_eoi();
    bare_ipi(bare_this_cpu(), VECTOR_WAKE);
}

static void write_all(void)
{
    vmx_vmclear(bench.vmcs);
    vmx_vmptrld(bench.vmcs);
    for (unsigned i = 0; i < vmx_field_count; i++)
        vmx_vmwrite(vmx_fields[i].encoding, vmx_value[vmx_fields[i].encoding]);
    vmx_vmwrite(VMCS_CR0_SHADOW, 0);
    vmx_vmwrite(VMCS_CR4_SHADOW, 0);
}

/* Why this trial would not come back, or NULL. */
static const char *dangerous(const struct judgement *j)
{
    const struct check *c = &j->check;
    bool entered = true;

    for (unsigned i = 0; i < j->count; i++)
        entered &= engine_leaves_out(j, j->rule[i]);
    if (entered && (c->activity == 2 || c->activity == 3))
        return "shutdown and wait-for-SIPI end by an NMI or a SIPI, which nobody sends";
    if (entered && c->activity == 1 && !(c->control[VMX_PIN] & PIN_TIMER) &&
        !(c->rflags & RFLAGS_IF))
        return "HLT with interrupts off and no timer: Bochs wakes it up by nothing but an NMI";
    if (!(c->control[VMX_SECONDARY] & SECONDARY_EPT) && !(c->cr0 & CR0_PG))
        return "without EPT and paging a guest would run in the host's memory";
    if (!engine_is("bochs"))
        return NULL;
    if (c->ia32e && (c->cr4 & CR4_PAE) && !(c->cr0 & CR0_PE))
        return "Bochs panics on an IA-32e mode guest without CR0.PE";
    if ((c->control[VMX_ENTRY] & ENTRY_SMM) && (c->interruptibility & 4))
        return "Bochs panics on an entry to SMM";
    return NULL;
}

/* An exit with the host's own state. Bochs refuses a few states that the manual allows. */
static void repair(void)
{
    enum verdict engine = VERDICT_ODD;

    for (unsigned i = 0; i < 8 && engine != VERDICT_ENTERED; i++) {
        uint64_t detail;

        vmx_state_valid();
        VALUE(GUEST_ACTIVITY) = VALUE(ENTRY_MSR_LOAD_COUNT) = 0;
        write_all();
        engine = enter(&detail);
    }
    CHECK_EQUAL(engine, VERDICT_ENTERED);
}

/* The entry's MSR area: three good entries and one that may be bad. */
static void msr_area(void)
{
    struct vmx_msr_entry *area = (void *)(uintptr_t)bench.msrs;
    static const struct vmx_msr_entry bad[] = {
        {MSR_FS_BASE, 0, 0},
        {MSR_GS_BASE, 0, 0},
        {MSR_EFER, 1, 0},
        {MSR_LSTAR, 0, 1ul << 47},
        {0x808, 0, 0},
        {MSR_SYSENTER_EIP, 0, 1ul << 63},
        {MSR_EFER, 0, EFER_SVME},
        {MSR_PAT, 0, 2},
        {MSR_BIOS_SIGN_ID, 0, 0},
        {MSR_KERNEL_GS_BASE, 0, 1ul << 60},
    };

    area[3] = (struct vmx_msr_entry){.index = MSR_KERNEL_GS_BASE, .value = 0x1000};
    if (one_in(16)) {
        area[3] = bad[random_below(ARRAY_SIZE(bad))];
        trial_changed("MSR-load entry 3", MSR_KERNEL_GS_BASE, area[3].index);
    }
}

static void one_trial(uint64_t trial)
{
    static struct judgement j;
    unsigned count = (unsigned)random_below(4);
    const char *reason;
    bool host = false;
    uint64_t detail;
    enum verdict engine;

    trial_begin(trial, vmx_state_valid());
    for (unsigned i = 0; i < count;) {
        const struct field *field = vmx_state_change();

        if (field == NULL)
            continue;
        i++;
        host |= field->name[0] == 'H';
    }
    msr_area();
    if (!(VALUE(SECONDARY) & SECONDARY_EPT) || !(VALUE(PRIMARY) & PRIMARY_SECONDARY))
        VALUE(GUEST_CR3) = bench.page[1] | (VALUE(GUEST_CR3) & bench.beyond);
    write_all();
    judge(&j);
    reason = dangerous(&j);
    if (reason != NULL) {
        trial_excluded(reason);
        return;
    }
    trial_told();
    if (j.check.activity == 1)
        wake();
    engine = enter(&detail);
    compare(&j, engine, detail);
    if (host && engine != VERDICT_CONTROLS && engine != VERDICT_HOST)
        repair();
}

/* ---- The bench ---- */

static uint64_t pages(size_t count)
{
    void *memory = bare_pages_alloc(count, 1);

    if (memory == NULL)
        bare_panic("no page");
    memset(memory, 0, count * PAGE);
    return (uintptr_t)memory;
}

static uint64_t vmcs_page(void)
{
    uint64_t hpa = pages(1);

    *(uint32_t *)(uintptr_t)hpa = (uint32_t)(bench.caps.basic & 0x7fffffff);
    return hpa;
}

static uint64_t area(uint32_t index, uint64_t value)
{
    uint64_t hpa = pages(2);
    struct vmx_msr_entry *entry = (void *)(uintptr_t)hpa;

    for (unsigned i = 0; i < 2 * PAGE / sizeof(*entry); i++)
        entry[i] = (struct vmx_msr_entry){.index = index, .value = value};
    return hpa;
}

static void bench_open(void)
{
    vmx_caps_read(&bench.caps);
    bench.beyond = UINT64_MAX << virtx_caps(machine.virtx)->physical_bits;
    for (unsigned i = 0; i < ARRAY_SIZE(bench.page); i++)
        bench.page[i] = pages(1);
    bench.virtual_apic = pages(1);
    bench.vmcs = vmcs_page();
    bench.other_vmcs = vmcs_page();
    *(uint8_t *)(uintptr_t)(bench.virtual_apic + 0x80) = 0x50; /* VTPR */
    *(uint32_t *)(uintptr_t)(bench.page[5] + 4) = UINT32_MAX;  /* no second #VE */
    bench.store = area(MSR_LSTAR, 0);
    bench.load = area(MSR_KERNEL_GS_BASE, 0x2000);
    bench.msrs = area(MSR_KERNEL_GS_BASE, 0x1000);
    bench.cpu.caps = bench.caps;
    bench.vcpu.virtx = machine.virtx;
    vmx_state_host();
    bench.probe.cpu = &bench.cpu;
    bench.probe.hw.vcpu = &bench.vcpu;
    bench.probe.vmcs_hpa = bench.vmcs;
}

static void bench_close(void)
{
    vmx_vmclear(bench.vmcs);
    for (unsigned i = 0; i < ARRAY_SIZE(bench.page); i++)
        bare_pages_free((void *)(uintptr_t)bench.page[i], 1);
    bare_pages_free((void *)(uintptr_t)bench.virtual_apic, 1);
    bare_pages_free((void *)(uintptr_t)bench.msrs, 2);
    bare_pages_free((void *)(uintptr_t)bench.store, 2);
    bare_pages_free((void *)(uintptr_t)bench.load, 2);
    bare_pages_free((void *)(uintptr_t)bench.vmcs, 1);
    bare_pages_free((void *)(uintptr_t)bench.other_vmcs, 1);
}

static void on_wake(struct bare_frame *frame, void *ctx)
{
    (void)frame;
    (void)ctx;
    bare_eoi();
}

/* Which rules were never put to the test, if any. */
static void coverage(void)
{
    unsigned rules = 0, broken = 0;

    for (unsigned t = 0; t < vmx_check_table_count; t++) {
        for (unsigned i = 0; i < *vmx_check_tables[t].count; i++) {
            const struct check_rule *rule = &vmx_check_tables[t].rules[i];

            rules++;
            broken += broken_count[t][i] != 0;
            if (broken_count[t][i] == 0 && bare_option_u64("rounds", 0) >= 5000)
                bare_printf("not shown: random-states: never broken here: %s: %s (%s)\n",
                            rule->what, rule->rule, rule->manual);
        }
    }
    bare_printf("  %u of %u rules were broken at least once\n", broken, rules);
}

void checker_vmx(void)
{
    bare_handler_set(VECTOR_WAKE, on_wake, NULL);
    bench_open();
    memset(broken_count, 0, sizeof(broken_count));
    trials("random-states", one_trial);
    coverage();
    random_begin(0);
    repair();
    bench_close();
    bare_irq_enable(); /* the last one to wake a guest is taken here */
    __asm__ volatile("nop; nop");
    bare_irq_disable();
    bare_eoi();
}

/* ---- The exact errors of VMX instructions (Intel SDM "VM Instruction Error Numbers") ---- */

void checker_vmx_instructions(void)
{
    uint64_t detail;

    bench_open();
    random_begin(1);
    vmx_state_valid();
    VALUE(GUEST_ACTIVITY) = 0;
    write_all();
    CHECK_EQUAL(enter(&detail), VERDICT_ENTERED);
    /* VMLAUNCH twice. */
    CHECK_EQUAL(checker_vmlaunch(), 2);
    CHECK_EQUAL(vmx_vmread(VMCS_INSTRUCTION_ERROR), 4);
    /* Pointers: out of alignment, too wide, not a VMCS of this processor. The current one stays. */
    CHECK_EQUAL(vmx_vmptrld(bench.other_vmcs + 8), VMX_FAIL_VALID);
    CHECK_EQUAL(vmx_vmread(VMCS_INSTRUCTION_ERROR), 9);
    CHECK_EQUAL(vmx_vmptrld(bench.other_vmcs | 1ul << 52), VMX_FAIL_VALID);
    CHECK_EQUAL(vmx_vmread(VMCS_INSTRUCTION_ERROR), 9);
    *(uint32_t *)(uintptr_t)bench.other_vmcs ^= 1;
    CHECK_EQUAL(vmx_vmptrld(bench.other_vmcs), VMX_FAIL_VALID);
    CHECK_EQUAL(vmx_vmread(VMCS_INSTRUCTION_ERROR), 11);
    *(uint32_t *)(uintptr_t)bench.other_vmcs ^= 1;
    CHECK_EQUAL(vmx_vmclear(bench.other_vmcs + 8), VMX_FAIL_VALID);
    CHECK_EQUAL(vmx_vmread(VMCS_INSTRUCTION_ERROR), 2);
    CHECK_EQUAL(vmx_vmxon(bench.other_vmcs), VMX_FAIL_VALID);
    CHECK_EQUAL(vmx_vmread(VMCS_INSTRUCTION_ERROR), 15);
    struct vmx_vpid_operand vpid = {.vpid = 0};
    if (bench.caps.ept_vpid & BIT(32)) {
        CHECK_EQUAL(vmx_invvpid(VMX_INVALIDATE_SINGLE, &vpid), VMX_FAIL_VALID);
        CHECK_EQUAL(vmx_vmread(VMCS_INSTRUCTION_ERROR), 28);
    }
    for (unsigned number = 1; number <= 28; number++)
        CHECK(vmx_instruction_error(number)[0] != '\0');
    /* No current VMCS: VMfailInvalid. */
    CHECK_EQUAL(vmx_vmclear(bench.vmcs), VMX_SUCCEED);
    CHECK_EQUAL(checker_vmlaunch(), 1);
    bench_close();
}
