/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The entry checker against SVM: a VMCB in a state of each mode that the manual allows, changed at
 * random, entered raw, and judged by the library's rules.
 *
 * Whatever a guest is, it does not execute one instruction: the nested tables, or its own where
 * there are none, are empty, and everything is intercepted.
 */
#include "checker.h"
#include "svm/check.h"
#include "x86/cpu.h"

enum { PAGE = 4096, BROKEN = 24 };

void checker_vmrun(uint64_t vmcb_hpa);

static struct vmcb *vmcb; /* what is entered: a refused VMRUN may leave anything in it */
static struct vmcb trial_vmcb;
static uint64_t empty_page, iopm, msrpm, beyond;
static bool nested; /* this processor has nested paging */

/* ---- What engines are known to do ---- */

static bool always(const struct check *c)
{
    (void)c;
    return true;
}

static bool long_paged(const struct check *c)
{
    return (c->save->efer & EFER_LME) && (c->save->cr0 & CR0_PG);
}

static bool cs_system(const struct check *c)
{
    return !(c->save->cs.attributes & VIRTX_SEG_S);
}

static bool map_starts_below(const struct check *c)
{
    return !((c->control->iopm | c->control->msrpm) & c->beyond);
}

static bool pcide_only(const struct check *c)
{
    return (c->save->cr4 & ~c->cr4) == CR4_PCIDE;
}

static bool ffxsr_only(const struct check *c)
{
    return (c->save->efer & ~c->efer) == EFER_FFXSR;
}

/* Rules of the manual that an engine does not apply. */
static const struct unchecked {
    const char *engine, *what, *rule;
    bool (*when)(const struct check *c);
} unchecked[] = {
    {"bochs", "guest CR3", "a reserved bit", always},
    {"bochs", "guest CS", "CS.L and CS.D are all set", cs_system},
    {"bochs", "IOPM", "reaches beyond", map_starts_below},
    {"bochs", "MSRPM", "reaches beyond", map_starts_below},
    {"qemu", "nested CR3", "a reserved bit", always},
    {"qemu", "guest PAT", "no memory type", always},
    {"qemu", "guest CR4", "a reserved bit", pcide_only},
    {"qemu", "guest EFER", "a reserved bit", ffxsr_only},
};

/* States that an engine refuses although the manual allows them. */
static bool code_64_and_32(const struct check *c)
{
    uint16_t both = VMCB_ATTRIBUTE_L | VMCB_ATTRIBUTE_DB;

    return (c->save->cs.attributes & both) == both && !long_paged(c);
}

static bool lmsle(const struct check *c)
{
    return c->save->efer & EFER_LMSLE;
}

/* Bochs' Trinity announces the bit and does not have it. */
static bool tce(const struct check *c)
{
    return c->save->efer & EFER_TCE;
}

static bool last_pages(const struct check *c)
{
    return c->control->iopm + SVM_IOPM_PAGES * PAGE == ~c->beyond + 1 ||
           c->control->msrpm + SVM_MSRPM_PAGES * PAGE == ~c->beyond + 1 ||
           ((c->control->iopm ^ (~c->beyond + 1 - SVM_IOPM_PAGES * PAGE)) >> 12) == 0;
}

static const struct strict {
    const char *engine, *what, *words;
    bool (*when)(const struct check *c);
} strict[] = {
    {"bochs", "guest EFER", "LMSLE may be set where CPUID 8000_0008 EBX[20] is clear", lmsle},
    {"qemu", "guest EFER", "LMSLE may be set where CPUID 8000_0008 EBX[20] is clear", lmsle},
    {"bochs", "guest EFER", "TCE may be set where CPUID 8000_0001 ECX[17] is set", tce},
    {"qemu", "IOPM or MSRPM", "may be the last pages of the physical-address width", last_pages},
    {"bochs", "guest CS", "L and D may both be set outside long mode", code_64_and_32},
};

/* ---- A valid state ---- */

enum mode {
    REAL,
    PAGED_REAL,
    PROTECTED16,
    PROTECTED32,
    PAGED32,
    PAE,
    V86,
    COMPATIBILITY,
    LONG64,
    MODES
};
static const char *const mode_names[MODES] = {
    "real mode",         "paged real mode",      "16-bit protected mode",
    "protected mode",    "paged protected mode", "PAE paging",
    "virtual-8086 mode", "compatibility mode",   "64-bit mode",
};

static struct vmcb_segment segment(uint64_t selector, uint64_t base, uint64_t limit,
                                   uint64_t attributes)
{
    return (struct vmcb_segment){.selector = (uint16_t)selector,
                                 .attributes = (uint16_t)attributes,
                                 .limit = (uint32_t)limit,
                                 .base = base};
}

static void segments(struct vmcb_save *save, enum mode mode)
{
    bool tiny = mode == REAL || mode == PAGED_REAL || mode == V86 || mode == PROTECTED16;
    unsigned cpl = mode == V86 ? 3 : mode <= PAGED_REAL || one_in(2) ? 0 : 3;
    uint64_t code = mode == LONG64 ? 0xa9b : tiny ? 0x09b : 0xc9b;
    uint64_t data = tiny ? 0x093 : 0xc93;
    uint64_t limit = tiny ? 0xffff : 0xffffffff;

    save->cpl = (uint8_t)cpl;
    save->cs = segment(random_bits() & 0xffff, 0, limit, code | cpl << 5);
    save->ss = segment(random_bits() & 0xffff, 0, limit, data | cpl << 5);
    save->ds = segment(random_bits() & 0xffff, random_bits() & 0xffffffff, limit, data | cpl << 5);
    save->es = one_in(2) ? segment(0, 0, 0, 0) : save->ds;
    save->gdtr = segment(0, random_bits() & 0x7fffffff, random_bits() & 0xffff, 0);
    save->idtr = segment(0, random_bits() & 0x7fffffff, random_bits() & 0xffff, 0);
}

static void event(struct vmcb_control *control, struct vmcb_save *save)
{
    static const uint8_t vectors[] = {0, 1, 3, 4, 6, 7, 8, 10, 11, 12, 13, 14, 16, 17, 19};

    control->event_inj = 0;
    if (!one_in(3))
        return;
    switch (random_below(4)) {
    case 0:
        save->rflags |= RFLAGS_IF;
        control->event_inj = VMCB_EVENT_VALID | VMCB_EVENT_INTERRUPT | (random_bits() & 0xff);
        break;
    case 1:
        control->event_inj = VMCB_EVENT_VALID | VMCB_EVENT_NMI | 2;
        break;
    case 2:
        control->event_inj =
            VMCB_EVENT_VALID | VMCB_EVENT_EXCEPTION | vectors[random_below(sizeof(vectors))];
        break;
    default:
        control->event_inj = VMCB_EVENT_VALID | VMCB_EVENT_SOFT | (random_bits() & 0xff);
        break;
    }
}

static const char *valid(struct vmcb *v)
{
    struct vmcb_control *control = &v->control;
    struct vmcb_save *save = &v->save;
    enum mode mode = (enum mode)random_below(MODES);
    bool ia32e, paged;

    if (!nested && mode < PAGED32)
        mode = PAGED32; /* without a second level unpaged guests would see the host's memory */
    ia32e = mode >= COMPATIBILITY;
    paged = mode >= PAGED32 || mode == PAGED_REAL;
    memset(v, 0, sizeof(*v));
    control->cr_read = control->cr_write = control->dr_read = control->dr_write = 0xffff;
    control->exceptions = control->misc1 = UINT32_MAX;
    control->misc2 = VMCB_RDPRU * 2 - 1;
    control->iopm = iopm;
    control->msrpm = msrpm;
    control->asid = 1 + (uint32_t)random_below(15);
    control->tlb_control = VMCB_FLUSH_ALL;
    control->nested_control = nested ? VMCB_NP_ENABLE : 0;
    control->nested_cr3 = empty_page;
    segments(save, mode);
    save->efer =
        EFER_SVME | (random_bits() & (EFER_SCE | EFER_NXE)) | (ia32e ? EFER_LME | EFER_LMA : 0);
    save->cr0 = CR0_ET | CR0_NE | (random_bits() & (CR0_MP | CR0_TS | CR0_AM | CR0_WP)) |
                (mode == REAL || mode == PAGED_REAL ? 0 : CR0_PE) | (paged ? CR0_PG : 0);
    save->cr3 = empty_page;
    save->cr4 = (random_bits() & (CR4_DE | CR4_PSE | CR4_PGE | CR4_OSFXSR)) |
                (ia32e || mode == PAE ? CR4_PAE : 0);
    save->dr6 = 0xffff0ff0;
    save->dr7 = 0x400 | (random_bits() & 0xff);
    save->rflags = RFLAGS_FIXED | (random_bits() & 0x57fd5) | (mode == V86 ? RFLAGS_VM : 0);
    save->rip = ia32e ? random_bits() & 0x7fffffff : random_bits() & 0xfff0;
    save->rsp = random_bits() & 0xffff;
    save->g_pat = 0x0007040600070406;
    event(control, save);
    return mode_names[mode];
}

/* ---- Changes ---- */

enum kind { FREE, ADDRESS, ROOT, PAGING, INTERCEPTS, EVENT };

static const struct field {
    const char *name;
    uint16_t offset;
    uint8_t bits, kind;
} fields[] = {
#define FIELD(field, bits, kind)                                                                   \
    {                                                                                              \
#field, offsetof(struct vmcb, field), bits, kind                                           \
    }
#define SEGMENT(name)                                                                              \
    FIELD(save.name.selector, 16, FREE), FIELD(save.name.attributes, 16, FREE),                    \
        FIELD(save.name.limit, 32, FREE), FIELD(save.name.base, 64, FREE)
    FIELD(control.misc2, 32, INTERCEPTS),
    FIELD(control.iopm, 64, ADDRESS),
    FIELD(control.msrpm, 64, ADDRESS),
    FIELD(control.asid, 32, FREE),
    FIELD(control.event_inj, 64, EVENT),
    FIELD(control.nested_control, 64, PAGING),
    FIELD(control.nested_cr3, 64, ROOT),
    FIELD(control.interrupt_state, 64, FREE),
    FIELD(control.v_tpr, 8, FREE),
    FIELD(save.efer, 64, FREE),
    FIELD(save.efer, 64, FREE),
    FIELD(save.cr0, 64, FREE),
    FIELD(save.cr0, 64, FREE),
    FIELD(save.cr3, 64, FREE),
    FIELD(save.cr4, 64, FREE),
    FIELD(save.cr4, 64, FREE),
    FIELD(save.dr6, 64, FREE),
    FIELD(save.dr7, 64, FREE),
    FIELD(save.rflags, 64, FREE),
    FIELD(save.rip, 64, FREE),
    FIELD(save.rsp, 64, FREE),
    FIELD(save.rax, 64, FREE),
    FIELD(save.cr2, 64, FREE),
    FIELD(save.g_pat, 64, FREE),
    FIELD(save.s_cet, 64, FREE),
    SEGMENT(cs),
    SEGMENT(ss),
    SEGMENT(ds),
    SEGMENT(es),
    SEGMENT(gdtr),
    SEGMENT(idtr),
#undef FIELD
#undef SEGMENT
};

static uint64_t too_high(uint64_t address)
{
    unsigned lowest = (unsigned)__builtin_ctzll(beyond);

    return address | 1ul << (lowest + random_below(64 - lowest));
}

static uint64_t changed(const struct field *field, uint64_t value)
{
    switch (field->kind) {
    case ADDRESS: /* low bits are ignored; the last pages below the width */
        return one_in(2) ? too_high(value)
                         : (one_in(2) ? value ^ 1ul << random_below(12)
                                      : (~beyond & ~0xffful) - random_below(4) * PAGE);
    case ROOT:
        return too_high(value);
    case PAGING:
        return value ^ VMCB_NP_ENABLE;
    case INTERCEPTS:
        return value & ~(1ul << random_below(16));
    case EVENT:
        return one_in(4) ? random_change(value, 64)
                         : VMCB_EVENT_VALID | (random_bits() & 0x7ff) |
                               (one_in(4) ? random_bits() & 0xfff : 0);
    default:
        return random_change(value, field->bits);
    }
}

static void change(struct vmcb *v)
{
    const struct field *field = &fields[random_below(ARRAY_SIZE(fields))];
    uint8_t *at = (uint8_t *)v + field->offset;
    uint64_t old = 0, new;

    memcpy(&old, at, field->bits / 8);
    new = changed(field, old);
    memcpy(at, &new, field->bits / 8);
    trial_changed(field->name, old, new);
}

/* ---- The verdicts ---- */

struct judgement {
    struct check check;
    const struct check_rule *rule[BROKEN];
    unsigned count;
};

static uint32_t broken_count[64];

static void judge(struct judgement *j, const struct vmcb *v)
{
    svm_check_look(machine.virtx, v, &j->check);
    j->count = 0;
    for (unsigned i = 0; i < svm_rules_count && j->count < BROKEN; i++) {
        uint64_t value;

        if (!svm_rules[i].broken(&j->check, &value))
            continue;
        broken_count[i]++;
        j->rule[j->count++] = &svm_rules[i];
    }
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
    for (unsigned i = 0; i < ARRAY_SIZE(unchecked); i++) {
        if (engine_is(unchecked[i].engine) && text_holds(rule->what, unchecked[i].what) &&
            text_holds(rule->rule, unchecked[i].rule) && unchecked[i].when(&j->check))
            return true;
    }
    return false;
}

/* SVM tells apart only entered and not entered. */
static void compare(const struct judgement *j, bool entered, uint64_t detail)
{
    enum verdict engine = entered ? VERDICT_ENTERED : VERDICT_GUEST;
    bool all_left_out = true;

    trial_counted(engine);
    if (entered == (j->count == 0))
        return;
    for (unsigned i = 0; i < j->count; i++)
        all_left_out &= engine_leaves_out(j, j->rule[i]);
    if (entered && all_left_out) {
        for (unsigned i = 0; i < j->count; i++)
            trial_known("this engine does not apply", j->rule[i]->what, j->rule[i]->rule,
                        j->rule[i]->manual);
        return;
    }
    for (unsigned i = 0; !entered && i < ARRAY_SIZE(strict); i++) {
        if (engine_is(strict[i].engine) && strict[i].when(&j->check)) {
            trial_known("this engine refuses", strict[i].what, strict[i].words,
                        "Canonicalization and Consistency Checks");
            return;
        }
    }
    if (j->count != 0)
        trial_unexplained(engine, detail, j->rule[0]->what, j->rule[0]->rule, j->rule[0]->manual);
    else
        trial_unexplained(engine, detail, NULL, NULL, NULL);
}

/* Why this trial would not come back, or NULL. */
static const char *dangerous(const struct judgement *j)
{
    const struct vmcb_save *save = j->check.save;

    if (!nested && (j->check.control->nested_control & VMCB_NP_ENABLE))
        return "nested paging on a processor that has none does nobody know what";
    if (!(j->check.control->nested_control & VMCB_NP_ENABLE) && !(save->cr0 & CR0_PG))
        return "without nested paging and paging a guest would run in the host's memory";
    if (engine_is("bochs") && !(j->check.control->nested_control & VMCB_NP_ENABLE) &&
        (save->cr3 & beyond))
        return "Bochs does not look at CR3, and dies of an address that is too high";
    if (engine_is("qemu") && (save->efer & EFER_LME) && !(save->cr0 & CR0_PG) &&
        !(save->cr4 & CR4_PAE))
        return "QEMU does not find back to long mode from EFER.LME without CR4.PAE";
    if (engine_is("bochs") && (save->ss.attributes & 0x9a) != 0x92)
        return "Bochs fails an assertion on an SS that is not present writable data";
    if (engine_is("bochs") && (save->rflags & RFLAGS_VM))
        return "Bochs panics on RFLAGS.VM when the host is in long mode";
    if (engine_is("bochs") && long_paged(&j->check) && !(save->cr0 & CR0_PE))
        return "Bochs panics on long mode without CR0.PE";
    return NULL;
}

static void one_trial(uint64_t trial)
{
    static struct judgement j;
    unsigned count = (unsigned)random_below(4);
    const char *reason;

    trial_begin(trial, valid(&trial_vmcb));
    for (unsigned i = 0; i < count; i++)
        change(&trial_vmcb);
    if (!(trial_vmcb.control.nested_control & VMCB_NP_ENABLE))
        trial_vmcb.save.cr3 = empty_page | (trial_vmcb.save.cr3 & beyond);
    judge(&j, &trial_vmcb);
    reason = dangerous(&j);
    if (reason != NULL) {
        trial_excluded(reason);
        return;
    }
    trial_told();
    *vmcb = trial_vmcb;
    vmcb->control.exit_code = 0;
    checker_vmrun((uintptr_t)vmcb);
    compare(&j, (uint32_t)vmcb->control.exit_code != VMEXIT_INVALID_LOW, vmcb->control.exit_code);
}

/* ---- The bench ---- */

static uint64_t pages(size_t count, int fill)
{
    void *memory = bare_pages_alloc(count, 1);

    if (memory == NULL)
        bare_panic("no page");
    memset(memory, fill, count * PAGE);
    return (uintptr_t)memory;
}

static void bench_open(void)
{
    vmcb = (void *)(uintptr_t)pages(1, 0);
    empty_page = pages(1, 0);
    iopm = pages(SVM_IOPM_PAGES, 0xff);
    msrpm = pages(SVM_MSRPM_PAGES, 0xff);
    nested = virtx_caps(machine.virtx)->hardware & VIRTX_FEATURE_NESTED_PAGING;
    beyond = UINT64_MAX << virtx_caps(machine.virtx)->physical_bits;
}

static void bench_close(void)
{
    bare_pages_free(vmcb, 1);
    bare_pages_free((void *)(uintptr_t)empty_page, 1);
    bare_pages_free((void *)(uintptr_t)iopm, SVM_IOPM_PAGES);
    bare_pages_free((void *)(uintptr_t)msrpm, SVM_MSRPM_PAGES);
}

static void coverage(void)
{
    unsigned broken = 0;

    for (unsigned i = 0; i < svm_rules_count; i++) {
        broken += broken_count[i] != 0;
        if (broken_count[i] == 0 && bare_option_u64("rounds", 0) >= 5000)
            bare_printf("not shown: random-states: never broken here: %s: %s (%s)\n",
                        svm_rules[i].what, svm_rules[i].rule, svm_rules[i].manual);
    }
    bare_printf("  %u of %u rules were broken at least once\n", broken, svm_rules_count);
}

static unsigned host_steps;

static void on_debug(struct bare_frame *frame, void *ctx)
{
    (void)frame;
    (void)ctx;
    host_steps++;
}

void checker_svm(void)
{
    bench_open();
    bare_handler_set(VECTOR_DB, on_debug, NULL);
    host_steps = 0;
    memset(broken_count, 0, sizeof(broken_count));
    trials("random-states", one_trial);
    coverage();
    bare_handler_set(VECTOR_DB, NULL, NULL);
    if (host_steps != 0)
        known_bug(
            "a single step of the guest, or a breakpoint, arrives in the host after the exit");
    CHECK_EQUAL(host_steps, 0);
    bench_close();
}

/* E2. The library sets a page of this CPU's own, and VMRUN without one never happens. */
static void guest_adds(uint64_t argument)
{
    guest_done(argument + 1);
}

void checker_svm_save_area(void)
{
    const struct virtx_exit *exit;
    uint64_t area = bare_rdmsr(MSR_VM_HSAVE_PA);

    CHECK(area != 0 && area % PAGE == 0);
    CHECK_EQUAL(GUEST_RESULT(guest_adds, 1), 2);
    guest_prepare(guest_adds, 1);
    CHECK_OK(virtx_vcpu_put(machine.vcpu));
    bare_wrmsr(MSR_VM_HSAVE_PA, 0);
    CHECK_STATUS(virtx_vcpu_run(machine.vcpu, &exit), VIRTX_E_HOST_STATE);
    const struct virtx_error *error = virtx_vcpu_last_error(machine.vcpu);
    bare_printf("  %s: %s (%s)\n", error->what, error->rule, error->manual);
    CHECK(text_holds(error->what, "VM_HSAVE_PA"));
    bare_wrmsr(MSR_VM_HSAVE_PA, area);
    CHECK_EQUAL(GUEST_CONTINUE(), 2);
    /* The same when SVM is gone. */
    guest_prepare(guest_adds, 1);
    CHECK_OK(virtx_vcpu_put(machine.vcpu));
    bare_wrmsr(MSR_EFER, bare_rdmsr(MSR_EFER) & ~EFER_SVME);
    CHECK_STATUS(virtx_vcpu_run(machine.vcpu, &exit), VIRTX_E_HOST_STATE);
    bare_wrmsr(MSR_EFER, bare_rdmsr(MSR_EFER) | EFER_SVME);
    CHECK_EQUAL(GUEST_CONTINUE(), 2);
}
