/* SPDX-License-Identifier: BSD-2-Clause */
/* What the library refuses, how it says so, and that everything works on afterwards. */
#include "harness.h"

enum { PAGE = 4096 };

static void guest_add(uint64_t argument)
{
    guest_done(argument + 1);
}

static void guest_port(uint64_t argument)
{
    bare_in8(0x80);
    guest_done(argument + 1);
}

static bool text_is(const char *a, const char *b)
{
    while (*a != '\0' && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
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

static void still_works(void)
{
    CHECK_EQUAL(GUEST_RESULT(guest_add, 20), 21);
}

/* ---- Pending accesses ---- */

static void pending(void)
{
    struct virtx_state state;
    struct virtx_event event = {.type = VIRTX_EVENT_EXCEPTION, .vector = 6};
    const struct virtx_exit *exit;

    machine_open();
    CHECK_STATUS(virtx_vcpu_complete(machine.vcpu, NULL), VIRTX_E_NOT_PENDING);
    CHECK_STATUS(virtx_vcpu_fault(machine.vcpu, &event), VIRTX_E_NOT_PENDING);
    guest_prepare(guest_port, 1);
    if (!CHECK(EXPECT_EXIT(VIRTX_EXIT_IO)))
        return;
    CHECK_STATUS(virtx_vcpu_run(machine.vcpu, &exit), VIRTX_E_PENDING);
    CHECK_STATUS(virtx_vcpu_get(machine.vcpu, VIRTX_STATE_ALL, &state), VIRTX_E_PENDING);
    CHECK_STATUS(virtx_vcpu_set(machine.vcpu, VIRTX_STATE_RIP, &state), VIRTX_E_PENDING);
    event.vector = 40;
    CHECK_STATUS(virtx_vcpu_fault(machine.vcpu, &event), VIRTX_E_INVALID);
    CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
    CHECK_STATUS(virtx_vcpu_complete(machine.vcpu, NULL), VIRTX_E_NOT_PENDING);
    CHECK_EQUAL(virtx_vcpu_last_error(machine.vcpu)->status, VIRTX_E_NOT_PENDING);
    CHECK_EQUAL(GUEST_CONTINUE(), 2);
    /* A reset drops what is pending. */
    guest_prepare(guest_port, 1);
    CHECK(EXPECT_EXIT(VIRTX_EXIT_IO));
    still_works();
}

/* ---- Arguments ---- */

static void slots_refused(void)
{
    static const struct {
        struct virtx_memslot_config config;
        enum virtx_status status;
    } bad[] = {
        {{.rights = 7, .type = 6, .gpa = GUEST_MEMORY + PAGE, .bytes = PAGE}, VIRTX_E_OVERLAP},
        {{.rights = 7, .type = 6, .gpa = GUEST_MEMORY - PAGE, .bytes = 2 * PAGE}, VIRTX_E_OVERLAP},
        {{.rights = 7, .type = 6, .gpa = 0x60000001, .bytes = PAGE}, VIRTX_E_ALIGN},
        {{.rights = 7, .type = 6, .gpa = 0x60000000, .bytes = PAGE + 1}, VIRTX_E_ALIGN},
        {{.rights = 7, .type = 6, .gpa = 0x60000000, .bytes = 0}, VIRTX_E_RANGE},
        {{.rights = 7, .type = 6, .gpa = ~0xffful, .bytes = 2 * PAGE}, VIRTX_E_RANGE},
        {{.rights = 7, .type = 6, .gpa = 1ul << 52, .bytes = PAGE}, VIRTX_E_RANGE},
        {{.rights = 2, .type = 6, .gpa = 0x60000000, .bytes = PAGE}, VIRTX_E_INVALID},
        {{.rights = 15, .type = 6, .gpa = 0x60000000, .bytes = PAGE}, VIRTX_E_INVALID},
        {{.rights = 7, .type = 7, .gpa = 0x60000000, .bytes = PAGE}, VIRTX_E_INVALID},
        {{.rights = 7, .type = 6, .flags = 1u << 31, .gpa = 0x60000000, .bytes = PAGE},
         VIRTX_E_INVALID},
    };
    struct virtx_memslot *slot = NULL;
    struct virtx_memslot_config config;

    machine_open();
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        config = bad[i].config;
        config.size = sizeof(config);
        config.memory = machine.ram;
        if (!CHECK_STATUS(virtx_memslot_add(machine.vm, &config, &slot), bad[i].status))
            bare_printf("  slot row %u\n", i);
        CHECK_EQUAL(virtx_vm_last_error(machine.vm)->status, bad[i].status);
        if (bad[i].status == VIRTX_E_OVERLAP)
            CHECK_EQUAL(virtx_vm_last_error(machine.vm)->value, GUEST_MEMORY);
    }
    config = bad[0].config;
    config.memory = machine.ram;
    config.size = 4;
    CHECK_STATUS(virtx_memslot_add(machine.vm, &config, &slot), VIRTX_E_SIZE);
    config.size = sizeof(config);
    config.gpa = 0x60000000;
    config.memory = machine.ram + 1;
    CHECK_STATUS(virtx_memslot_add(machine.vm, &config, &slot), VIRTX_E_ALIGN);
    CHECK_STATUS(virtx_memslot_protect(machine.memory, 0, NULL), VIRTX_E_INVALID);
    CHECK_STATUS(virtx_memslot_move(machine.memory, 0x100000, NULL), VIRTX_E_OVERLAP);
    CHECK_STATUS(virtx_memslot_invalidate(machine.memory, GUEST_MEMORY_BYTES, PAGE, NULL),
                 VIRTX_E_RANGE);
    virtx_memslot_query(machine.memory, &config);
    CHECK_EQUAL(config.gpa, GUEST_MEMORY);
    CHECK_EQUAL(config.rights, ALL_RIGHTS);
    still_works();
}

static void objects_refused(void)
{
    struct virtx_vcpu *vcpu = NULL;
    struct virtx_vm *vm = NULL;
    struct virtx_vm_config config = {.size = 4};
    struct virtx_state state;

    machine_open();
    state = guest_state();
    CHECK_STATUS(virtx_vcpu_create(machine.vm, 0, &vcpu), VIRTX_E_BUSY);
    CHECK_STATUS(virtx_vcpu_create(machine.vm, 255, &vcpu), VIRTX_E_INVALID);
    CHECK_STATUS(virtx_vm_destroy(machine.vm), VIRTX_E_BUSY);
    CHECK_STATUS(virtx_close(machine.virtx), VIRTX_E_BUSY);
    CHECK_STATUS(virtx_vm_create(machine.virtx, &config, &vm), VIRTX_E_SIZE);
    config = (struct virtx_vm_config){.size = sizeof(config), .max_vcpus = 256};
    CHECK_STATUS(virtx_vm_create(machine.virtx, &config, &vm), VIRTX_E_INVALID);
    CHECK_STATUS(virtx_vcpu_get(machine.vcpu, 1u << 31, &state), VIRTX_E_INVALID);
    CHECK_STATUS(virtx_vcpu_set(machine.vcpu, 1u << 31, &state), VIRTX_E_INVALID);
    CHECK(text_is(virtx_feature_name(1ul << 63), "unknown feature"));
    CHECK(text_is(virtx_status_text((enum virtx_status)999), "unknown status"));
    for (unsigned i = 0; i < VIRTX_STATUS_COUNT; i++)
        CHECK(virtx_status_text((enum virtx_status)i)[0] != '\0');
    for (unsigned i = 0; i <= VIRTX_EXIT_REASON_COUNT; i++)
        CHECK(virtx_exit_name(i) != NULL);
    still_works();
}

/* ---- virtx_open ---- */

static const struct virtx_backend *const backends[] = {&virtx_vmx, &virtx_svm, NULL};
static const struct virtx_backend *const no_backends[] = {NULL};
static const struct virtx_backend *const vmx_only[] = {&virtx_vmx, NULL};
static const struct virtx_backend *const svm_only[] = {&virtx_svm, NULL};

static struct virtx_config open_config(const struct virtx_host_ops *ops)
{
    return (struct virtx_config){.size = sizeof(struct virtx_config),
                                 .max_cpus = 1,
                                 .ops = ops,
                                 .profile = &virtx_profile_bare,
                                 .backends = backends,
                                 .paging = harness_engines()};
}

static void open_refused(void)
{
    static const struct {
        size_t offset;
        const char *name;
    } required[] = {
        {offsetof(struct virtx_host_ops, pages_alloc), "pages_alloc"},
        {offsetof(struct virtx_host_ops, pages_free), "pages_free"},
        {offsetof(struct virtx_host_ops, virt_to_phys), "virt_to_phys"},
        {offsetof(struct virtx_host_ops, phys_to_virt), "phys_to_virt"},
        {offsetof(struct virtx_host_ops, this_cpu), "this_cpu"},
        {offsetof(struct virtx_host_ops, kick_cpu), "kick_cpu"},
    };
    struct virtx_error error;
    struct virtx *virtx = NULL;
    struct virtx_host_ops ops;
    struct virtx_config config = open_config(&ops);

    for (unsigned i = 0; i < sizeof(required) / sizeof(required[0]); i++) {
        ops = bare_virtx_ops;
        memset((uint8_t *)&ops + required[i].offset, 0, sizeof(void *));
        CHECK_STATUS(virtx_open(&config, &virtx, &error), VIRTX_E_MISSING_OP);
        if (!CHECK(text_holds(error.what, required[i].name)))
            bare_printf("  missing %s: %s\n", required[i].name, error.what);
    }
    ops = bare_virtx_ops;
    ops.size = 16;
    CHECK_STATUS(virtx_open(&config, &virtx, &error), VIRTX_E_SIZE);
    ops = bare_virtx_ops;
    config.size = 8;
    CHECK_STATUS(virtx_open(&config, &virtx, &error), VIRTX_E_SIZE);
    config = open_config(&ops);
    config.max_cpus = 0;
    CHECK_STATUS(virtx_open(&config, &virtx, &error), VIRTX_E_INVALID);
    config.max_cpus = 4097;
    CHECK_STATUS(virtx_open(&config, &virtx, &error), VIRTX_E_INVALID);
    config = open_config(&ops);
    config.backends = no_backends;
    CHECK_STATUS(virtx_open(&config, &virtx, &error), VIRTX_E_INVALID);
    machine_open();
    config.backends = guest_has_svm ? vmx_only : svm_only;
    machine_close();
    CHECK_STATUS(virtx_open(&config, &virtx, &error), VIRTX_E_UNSUPPORTED);
    config = open_config(&ops);
    struct virtx_host_profile twice = {
        .size = sizeof(twice), .at_exit = VIRTX_HOST_FPU, .at_put = VIRTX_HOST_FPU};
    config.profile = &twice;
    CHECK_STATUS(virtx_open(&config, &virtx, &error), VIRTX_E_INVALID);
    CHECK_STATUS(virtx_open(&config, &virtx, NULL), VIRTX_E_INVALID); /* no record wanted: fine */
    CHECK(virtx == NULL);
    machine_open();
    still_works();
}

/* Two instances in one program; the processor has room for one. */
static void two_instances(void)
{
    struct virtx_config config = open_config(&bare_virtx_ops);
    struct virtx *other = NULL;

    machine_open();
    still_works();
    CHECK_OK(virtx_open(&config, &other, NULL));
    CHECK_STATUS(virtx_cpu_enable(other), VIRTX_E_IN_USE);
    CHECK_STATUS(virtx_cpu_disable(other), VIRTX_E_NOT_ENABLED);
    CHECK_OK(virtx_close(other));
    still_works();
}

/* ---- Memory that the host does not have ---- */

static uint64_t allocations_left;
static size_t allocated;
static bool misaligned;

static void *scarce_alloc(void *ctx, size_t count)
{
    void *pages;

    (void)ctx;
    if (allocations_left == 0)
        return NULL;
    allocations_left--;
    pages = bare_pages_alloc(count, 1);
    allocated += pages != NULL ? count : 0;
    return misaligned ? (uint8_t *)pages + 8 : pages;
}

static void scarce_free(void *ctx, void *pages, size_t count)
{
    (void)ctx;
    allocated -= count;
    bare_pages_free((void *)((uintptr_t)pages & ~0xffful), count);
}

static struct virtx_host_ops scarce_ops(void)
{
    struct virtx_host_ops ops = bare_virtx_ops;

    ops.pages_alloc = scarce_alloc;
    ops.pages_free = scarce_free;
    return ops;
}

/* Everything from open to a first run, with `budget` allocations. The first status that is not OK.
 */
static enum virtx_status whole_life(uint64_t budget)
{
    extern char __image_start[], __image_end[];
    struct virtx_host_ops ops = scarce_ops();
    struct virtx_config config = open_config(&ops);
    struct virtx_memslot_config slot = {
        .size = sizeof(slot),
        .rights = ALL_RIGHTS,
        .type = VIRTX_MEMORY_WB,
        .flags = VIRTX_MEMSLOT_DIRTY_LOG,
        .gpa = (uintptr_t)__image_start,
        .bytes = ((uintptr_t)__image_end - (uintptr_t)__image_start + 4095) & ~4095ul,
        .memory = __image_start};
    struct virtx_intercept_config rule = {.size = sizeof(rule),
                                          .kind = VIRTX_INTERCEPT_PORT,
                                          .access = VIRTX_WRITE,
                                          .first = 1,
                                          .last = 2};
    struct virtx *virtx = NULL;
    struct virtx_vm *vm = NULL;
    struct virtx_vcpu *vcpu = NULL;
    struct virtx_memslot *handle;
    struct virtx_intercept *intercept;
    enum virtx_status status;

    allocations_left = budget;
    status = virtx_open(&config, &virtx, NULL);
    if (status != VIRTX_OK)
        return status;
    status = virtx_cpu_enable(virtx);
    bool enabled = status == VIRTX_OK;
    if (status == VIRTX_OK)
        status = virtx_vm_create(virtx, NULL, &vm);
    if (status == VIRTX_OK)
        status = virtx_memslot_add(vm, &slot, &handle);
    if (status == VIRTX_OK)
        status = virtx_vm_intercept(vm, &rule, &intercept);
    if (status == VIRTX_OK)
        status = virtx_vcpu_create(vm, 0, &vcpu);
    if (status == VIRTX_OK)
        status = virtx_vcpu_intercept(vcpu, &rule, &intercept);
    if (status == VIRTX_OK) {
        const struct virtx_exit *exit;

        vcpu_prepare(vcpu, 0, guest_add, 1);
        do {
            status = virtx_vcpu_run(vcpu, &exit);
        } while (status == VIRTX_OK && exit->reason == VIRTX_EXIT_INTERRUPT);
        if (status == VIRTX_OK)
            CHECK_EQUAL(exit->reason, VIRTX_EXIT_IO);
    }
    if (vcpu != NULL)
        CHECK_OK(virtx_vcpu_destroy(vcpu));
    if (vm != NULL)
        CHECK_OK(virtx_vm_destroy(vm));
    if (enabled)
        CHECK_OK(virtx_cpu_disable(virtx));
    CHECK_OK(virtx_close(virtx));
    return status;
}

static void no_memory(void)
{
    uint64_t budget;

    for (budget = 0; budget < 200; budget++) {
        enum virtx_status status = whole_life(budget);

        if (!CHECK_EQUAL(allocated, 0))
            return;
        if (status == VIRTX_OK)
            break;
        if (!CHECK_EQUAL(status, VIRTX_E_NO_MEMORY)) {
            bare_printf("  with %lu allocations\n", budget);
            return;
        }
    }
    CHECK(budget > 10 && budget < 200);
}

/* The pool runs dry in the middle of the guest's life: a status, and the guest has not moved. */
static void pool_exhausted(void)
{
    static struct virtx_host_ops ops;
    const struct virtx_exit *exit;
    enum virtx_status status;

    ops = scarce_ops();
    harness_ops = &ops;
    allocations_left = ~0ul;
    machine_open();
    allocations_left = 0;
    guest_prepare(guest_add, 1);
    do {
        status = virtx_vcpu_run(machine.vcpu, &exit);
    } while (status == VIRTX_OK && exit->reason == VIRTX_EXIT_INTERRUPT);
    CHECK_EQUAL(status, VIRTX_E_NO_MEMORY);
    CHECK_EQUAL(guest_state().rip, (uintptr_t)guest_add);
    CHECK_STATUS(virtx_vm_pool_fill(machine.vm, 8), VIRTX_E_NO_MEMORY);
    allocations_left = ~0ul;
    CHECK_OK(virtx_vm_pool_fill(machine.vm, 16));
    allocations_left = 0;
    CHECK_EQUAL(GUEST_CONTINUE(), 2);
    allocations_left = ~0ul;
}

/* A host that hands out nonsense is told so. */
static void nonsense_pages(void)
{
    struct virtx_host_ops ops = scarce_ops();
    struct virtx_config config = open_config(&ops);
    struct virtx *virtx = NULL;

    allocations_left = ~0ul;
    misaligned = true;
    CHECK_STATUS(virtx_open(&config, &virtx, NULL), VIRTX_E_HOST);
    misaligned = false;
    CHECK_EQUAL(allocated, 0);
}

/* ---- Guest state that cannot be entered ---- */

struct spoiled {
    const char *name;
    void (*spoil)(struct virtx_state *s);
    bool vmx, svm; /* this vendor's processors cannot enter it */
};

static void pg_without_pe(struct virtx_state *s)
{
    s->cr0 &= ~1ul;
}

static void no_pae(struct virtx_state *s)
{
    s->cr4 &= ~(1ul << 5);
}

static void cs_both_sizes(struct virtx_state *s)
{
    s->seg[VIRTX_CS].attributes |= VIRTX_SEG_L | VIRTX_SEG_DB;
}

static void cs_is_data(struct virtx_state *s)
{
    s->seg[VIRTX_CS].attributes = (s->seg[VIRTX_CS].attributes & ~0xfu) | 0x1;
}

static void rip_not_canonical(struct virtx_state *s)
{
    s->rip = 1ul << 50;
}

static void cr3_too_wide(struct virtx_state *s)
{
    s->cr3 |= 1ul << 51;
}

static void nw_without_cd(struct virtx_state *s)
{
    s->cr0 |= 1ul << 29;
}

static void unknown_cr4(struct virtx_state *s)
{
    s->cr4 |= 1ul << 31;
}

static void unknown_efer(struct virtx_state *s)
{
    s->efer |= 1ul << 5;
}

static void v86_in_long_mode(struct virtx_state *s)
{
    s->rflags |= 1ul << 17;
}

static void both_shadows(struct virtx_state *s)
{
    s->interruptibility = VIRTX_BLOCKED_BY_STI | VIRTX_BLOCKED_BY_MOV_SS;
    s->rflags |= 0x200;
}

static void sti_without_if(struct virtx_state *s)
{
    s->interruptibility = VIRTX_BLOCKED_BY_STI;
    s->rflags &= ~0x200ul;
}

static void limit_granularity(struct virtx_state *s)
{
    s->seg[VIRTX_DS].limit = 0xfffff000; /* G = 1 but the low 12 bits are 0 */
}

static void ldt_of_wrong_type(struct virtx_state *s)
{
    s->seg[VIRTX_LDTR] = (struct virtx_segment){
        .selector = GUEST_SPARE, .limit = 0xfff, .attributes = VIRTX_SEG_P | 3};
}

/* Intel SDM "Checks on the Guest State Area"; AMD APM "Canonicalization and Consistency Checks". */
static const struct spoiled spoiled[] = {
    {"PG without PE", pg_without_pe, true, true},
    {"no PAE in long mode", no_pae, true, true},
    {"CS with L and D", cs_both_sizes, true, true},
    {"CS of a data type", cs_is_data, true, false},
    {"RIP not canonical", rip_not_canonical, true, false},
    {"CR3 beyond the width", cr3_too_wide, true, true},
    {"NW without CD", nw_without_cd, true, true},
    {"unknown CR4 bit", unknown_cr4, true, true},
    {"unknown EFER bit", unknown_efer, true, true},
    {"RFLAGS.VM in long mode", v86_in_long_mode, true, false},
    {"both shadows", both_shadows, true, false},
    {"STI shadow without IF", sti_without_if, true, false},
    {"limit against granularity", limit_granularity, true, false},
    {"LDTR of the wrong type", ldt_of_wrong_type, true, false},
};

/* Refused at once or at the entry, with a rule in words; and then the vcpu runs on with good state.
 */
static void guest_state_refused(void)
{
    const struct virtx_exit *exit;

    machine_open();
    for (unsigned i = 0; i < sizeof(spoiled) / sizeof(spoiled[0]); i++) {
        guest_prepare(guest_add, 5);
        struct virtx_state good = guest_state(), bad = good;
        bool wanted = guest_has_svm ? spoiled[i].svm : spoiled[i].vmx;

        spoiled[i].spoil(&bad);
        enum virtx_status status = virtx_vcpu_set(machine.vcpu, VIRTX_STATE_ALL, &bad);
        bool at_once = status != VIRTX_OK;
        if (status == VIRTX_OK && wanted) {
            status = virtx_vcpu_run(machine.vcpu, &exit);
            if (status == VIRTX_OK && exit->pending)
                virtx_vcpu_complete(machine.vcpu, NULL);
        }
        const struct virtx_error *error = virtx_vcpu_last_error(machine.vcpu);
        if (spoiled[i].spoil == rip_not_canonical && wanted)
            known_bug("Bochs does not check that RIP is canonical");
        if (wanted) {
            bool named = CHECK_EQUAL(status, at_once ? VIRTX_E_INVALID : VIRTX_E_GUEST_STATE) &&
                         CHECK_EQUAL(error->status, status) && CHECK(error->what[0] != '\0') &&
                         CHECK(error->rule[0] != '\0') &&
                         CHECK(at_once || error->manual[0] != '\0');
            bare_printf("  %s: %s: %s: %s (%s)\n", spoiled[i].name,
                        named ? at_once ? "set" : "run" : "WRONG", error->what, error->rule,
                        error->manual);
        } else {
            bare_printf("not shown: guest-state-refused: %s: this vendor's processors enter it\n",
                        spoiled[i].name);
        }
        known_bug_end();
        if (!CHECK_OK(virtx_vcpu_set(machine.vcpu, VIRTX_STATE_ALL, &good)) ||
            !CHECK_EQUAL(GUEST_CONTINUE(), 6)) {
            bare_printf("  after %s\n", spoiled[i].name);
            still_works();
        }
    }
}

/* ---- An emergency ---- */

static void emergency_off(void)
{
    machine_open();
    still_works(); /* the vcpu is loaded */
    virtx_cpu_emergency_off(machine.virtx);
    if (guest_has_svm)
        CHECK_EQUAL(bare_rdmsr(0xc0000080) >> 12 & 1, 0); /* EFER.SVME */
    else
        CHECK_EQUAL(bare_read_cr4() >> 13 & 1, 0); /* CR4.VMXE */
    virtx_cpu_emergency_off(machine.virtx);        /* in any state */
    /* GIF is set: an interrupt arrives. */
    bare_irq_enable();
    __asm__ volatile("nop");
    bare_irq_disable();
    const struct virtx_exit *exit;
    /* The registers of the vcpu that was loaded are lost: it can only be destroyed. */
    CHECK_STATUS(virtx_vcpu_run(machine.vcpu, &exit), VIRTX_E_DEAD);
    CHECK_OK(virtx_vcpu_destroy(machine.vcpu));
    machine.vcpu = vcpu_make(machine.vm, 1);
    guest_prepare(guest_add, 1);
    CHECK_STATUS(virtx_vcpu_run(machine.vcpu, &exit), VIRTX_E_NOT_ENABLED);
    CHECK_OK(virtx_cpu_enable(machine.virtx));
    still_works();
}

/* ---- A host that answers nonsense while guests run ---- */

static enum lie { TRUTH, NOWHERE, UNALIGNED, TOO_HIGH, ELSEWHERE, LIES } lie;
static const uint8_t *lie_about; /* a page; NULL: all that is no guest memory (so tables) */
static unsigned lies;

static uint64_t lying(void *ctx, const void *va)
{
    const uint8_t *page = (const uint8_t *)va;

    (void)ctx;
    if (lie == TRUTH ||
        (lie_about != NULL ? page - lie_about >= PAGE || page < lie_about
                           : page - machine.ram < GUEST_MEMORY_BYTES && page >= machine.ram))
        return (uintptr_t)va;
    lies++;
    switch (lie) {
    case NOWHERE:
        return UINT64_MAX;
    case UNALIGNED:
        return (uintptr_t)va | 8;
    case TOO_HIGH:
        return 1ul << 51 | (uintptr_t)va;
    default:
        return ((uintptr_t)va & ~0xfffful) ^ 0x10000;
    }
}

static void guest_reads(uint64_t gva)
{
    guest_done(*(volatile uint64_t *)(uintptr_t)gva);
}

static void open_lying(void)
{
    static struct virtx_host_ops ops;

    lie = TRUTH;
    lies = 0;
    ops = bare_virtx_ops;
    ops.virt_to_phys = lying;
    harness_ops = &ops;
    machine_open();
}

/* The guest's memory: a page without a possible address is reported, and nothing else is. */
static void lies_about_memory(void)
{
    const uint64_t gpa = GUEST_MEMORY + 5 * PAGE;
    uint64_t generation;

    open_lying();
    lie_about = machine.ram + 5 * PAGE;
    for (enum lie kind = NOWHERE; kind < ELSEWHERE; kind++) {
        *(uint64_t *)(machine.ram + 5 * PAGE) = 40 + kind;
        *(uint64_t *)(machine.ram + 6 * PAGE) = 50 + kind;
        lie = kind;
        lies = 0;
        CHECK_EQUAL(GUEST_RESULT(guest_reads, GUEST_MEMORY + 6 * PAGE), 50 + kind);
        guest_prepare(guest_reads, gpa);
        if (!CHECK(EXPECT_EXIT(VIRTX_EXIT_MEMORY)))
            return;
        CHECK_EQUAL(machine.exit->memory.gpa, gpa);
        CHECK(lies > 0);
        lie = TRUTH;
        CHECK_EQUAL(GUEST_CONTINUE(), 40 + kind);
        CHECK_OK(virtx_memslot_invalidate(machine.memory, 0, GUEST_MEMORY_BYTES, &generation));
    }
    /* Two pages at one address are the host's own business: the guest sees one page twice. */
    static struct virtx_memslot *twice;
    twice = slot_make(machine.vm, 0x60000000, machine.ram + 5 * PAGE, PAGE, ALL_RIGHTS, 0);
    CHECK_EQUAL(GUEST_RESULT(guest_reads, 0x60000000), 40 + TOO_HIGH);
    CHECK_OK(virtx_memslot_remove(twice, &generation));
}

/* Translation tables: run says that there is no page for one, and goes on when there is. */
static void lies_about_tables(void)
{
    uint64_t generation;
    const struct virtx_exit *exit;
    enum virtx_status status;

    open_lying();
    if (!paging_is_nested()) {
        not_shown("shadow paging does not yet doubt the host's addresses of tables");
        return;
    }
    lie_about = NULL;
    *(uint64_t *)machine.ram = 77;
    CHECK_EQUAL(GUEST_RESULT(guest_reads, GUEST_MEMORY), 77); /* so the image is mapped */
    CHECK_OK(virtx_memslot_invalidate(machine.memory, 0, GUEST_MEMORY_BYTES, &generation));
    for (enum lie kind = NOWHERE; kind < LIES; kind++) {
        lie = kind;
        lies = 0;
        guest_prepare(guest_reads, GUEST_MEMORY);
        do
            status = virtx_vcpu_run(machine.vcpu, &exit);
        while (status == VIRTX_OK && exit->reason == VIRTX_EXIT_INTERRUPT);
        if (!CHECK_EQUAL(status, VIRTX_E_NO_MEMORY))
            bare_printf("  kind %u: exit %u gpa %lx\n", kind, exit->reason, exit->memory.gpa);
        CHECK(lies > 0);
        lie = TRUTH;
        CHECK_EQUAL(GUEST_CONTINUE(), 77);
        CHECK_OK(virtx_memslot_invalidate(machine.memory, 0, GUEST_MEMORY_BYTES, &generation));
    }
}

/* A mapping needs several tables: with one, two … of them it fails in the middle, and no page is
 * lost. The pool's bound holds, and what is dropped makes room. */
static void guest_touches(uint64_t pages)
{
    for (uint64_t i = 0; i < pages; i++)
        *(volatile uint64_t *)(uintptr_t)(GUEST_MEMORY + i * PAGE) = i;
    guest_done(pages);
}

static enum virtx_status run_to_the_end(struct virtx_vcpu *vcpu)
{
    const struct virtx_exit *exit;
    enum virtx_status status;

    do
        status = virtx_vcpu_run(vcpu, &exit);
    while (status == VIRTX_OK && exit->reason == VIRTX_EXIT_INTERRUPT);
    if (status == VIRTX_OK && CHECK_EQUAL(exit->reason, VIRTX_EXIT_IO))
        CHECK_OK(virtx_vcpu_complete(vcpu, NULL));
    return status;
}

static void pool_at_its_bound(void)
{
    enum { FIRST = 100, ALL = GUEST_MEMORY_BYTES / PAGE };
    extern char __image_start[], __image_end[];
    uint64_t image_bytes = ((uintptr_t)__image_end - (uintptr_t)__image_start + 4095) & ~4095ul;
    unsigned refused = 0, served = 0;

    machine_open();
    if (!paging_is_nested()) {
        not_shown("shadow paging evicts what it has at the bound");
        return;
    }
    CHECK_OK(virtx_vcpu_put(machine.vcpu));
    for (uint64_t bound = 1; bound < 16; bound++) {
        struct virtx_vm_config config = {.size = sizeof(config), .pool_pages = bound};
        struct virtx_memslot *memory;
        struct virtx_vcpu *vcpu;
        struct virtx_vm *vm = NULL;
        enum virtx_status status;
        uint64_t generation;

        if (!CHECK_OK(virtx_vm_create(machine.virtx, &config, &vm)))
            return;
        slot_make(vm, (uintptr_t)__image_start, __image_start, image_bytes, ALL_RIGHTS,
                  VIRTX_MEMSLOT_SMALL_PAGES);
        memory = slot_make(vm, GUEST_MEMORY, machine.ram, GUEST_MEMORY_BYTES, ALL_RIGHTS,
                           VIRTX_MEMSLOT_SMALL_PAGES);
        vcpu = vcpu_make(vm, 0);
        vcpu_prepare(vcpu, 0, guest_touches, FIRST);
        status = run_to_the_end(vcpu);
        if (status == VIRTX_OK) {
            vcpu_prepare(vcpu, 0, guest_touches, ALL);
            status = run_to_the_end(vcpu);
            if (status != VIRTX_OK) {
                /* The pages of the first 2 MiB, given back, serve the second. */
                CHECK_EQUAL(status, VIRTX_E_NO_MEMORY);
                CHECK_STATUS(virtx_vm_pool_fill(vm, 4), VIRTX_E_NO_MEMORY);
                CHECK_OK(virtx_memslot_invalidate(memory, 0, GUEST_MEMORY_BYTES / 2, &generation));
                CHECK(virtx_vm_settled(vm, generation, true));
                CHECK_OK(run_to_the_end(vcpu));
                served++;
            }
        } else {
            CHECK_EQUAL(status, VIRTX_E_NO_MEMORY);
            refused++;
        }
        CHECK_OK(virtx_vcpu_put(vcpu));
        CHECK_OK(virtx_vcpu_destroy(vcpu));
        CHECK_OK(virtx_vm_destroy(vm));
    }
    CHECK(refused > 2);
    CHECK_EQUAL(served, 1); /* one bound is short by the last table alone */
}

/* Somebody turns virtualization off where the library has turned it on: the next load notices. */
static void off_behind_the_library(void)
{
    const struct virtx_exit *exit;

    machine_open();
    still_works();
    CHECK_OK(virtx_vcpu_put(machine.vcpu));
    if (guest_has_svm) {
        bare_wrmsr(0xc0000080, bare_rdmsr(0xc0000080) & ~(1ul << 12)); /* EFER.SVME */
    } else {
        __asm__ volatile("vmxoff" : : : "cc", "memory");
        bare_write_cr4(bare_read_cr4() & ~(1ul << 13)); /* CR4.VMXE */
    }
    guest_prepare(guest_add, 1);
    CHECK_STATUS(virtx_vcpu_run(machine.vcpu, &exit), VIRTX_E_HOST_STATE);
    CHECK_STATUS(virtx_vcpu_run(machine.vcpu, &exit), VIRTX_E_HOST_STATE);
    virtx_cpu_emergency_off(machine.virtx); /* so that the library knows */
    CHECK_STATUS(virtx_vcpu_run(machine.vcpu, &exit), VIRTX_E_NOT_ENABLED);
    CHECK_OK(virtx_cpu_enable(machine.virtx));
    still_works();
}

GUEST_CASES({"pending-access", pending}, {"slots-refused", slots_refused},
            {"objects-refused", objects_refused}, {"open-refused", open_refused},
            {"two-instances", two_instances}, {"no-memory-at-any-point", no_memory},
            {"page-pool-exhausted", pool_exhausted}, {"nonsense-from-the-host", nonsense_pages},
            {"nonsense-addresses-of-memory", lies_about_memory},
            {"nonsense-addresses-of-tables", lies_about_tables},
            {"pool-at-its-bound", pool_at_its_bound},
            {"off-behind-the-library", off_behind_the_library},
            {"guest-state-refused", guest_state_refused}, {"emergency-off", emergency_off});
