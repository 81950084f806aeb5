/* SPDX-License-Identifier: BSD-2-Clause */
/* The host's side of the harness: the machine, the run loop, and the verdicts. */
#include "harness.h"
#include "guest_cpu.h"

enum {
    VECTOR_WATCHDOG = 0x60,
    WATCHDOG_SECONDS = 20,
    FAILURES_SHOWN = 12,            /* of one case */
    WATCHDOG_TICKS = 400 * 1000000, /* instructions; where the TSC counts them */
};

struct machine machine;
uint64_t harness_disable;
const struct virtx_host_profile *harness_profile;
const struct virtx_host_ops *harness_ops;
bool harness_exit_on_interrupt, harness_interrupts_to_guest, harness_no_watchdog;
uint64_t harness_patience = 1;
uint32_t harness_memory_flags;
enum virtx_table_sync harness_table_sync;

/* ---- Verdicts ---- */

/* Failures are noted where they happen, in the guest too, and told by the host afterwards. */
struct failure {
    const char *file, *what, *detail;
    int line;
    bool has_values, expected;
    uint64_t actual, wanted;
};

static struct failure failures[FAILURES_SHOWN];
static unsigned failure_count, expected_count;
static const char *current, *skipped, *bug, *bug_active;

static bool note(const struct failure *failure)
{
    bool expected = bug_active != NULL;
    unsigned *count = expected ? &expected_count : &failure_count;
    unsigned index = failure_count + expected_count;

    *count += 1;
    if (index < FAILURES_SHOWN) {
        failures[index] = *failure;
        failures[index].expected = expected;
    }
    return false;
}

bool check(bool good, const char *what, const char *file, int line)
{
    if (good)
        return true;
    return note(&(struct failure){.file = file, .line = line, .what = what});
}

bool check_equal(uint64_t actual, uint64_t expected, const char *what, const char *file, int line)
{
    if (actual == expected)
        return true;
    return note(&(struct failure){.file = file,
                                  .line = line,
                                  .what = what,
                                  .has_values = true,
                                  .actual = actual,
                                  .wanted = expected});
}

static void show_error(const char *object, const struct virtx_error *error)
{
    if (error->status != VIRTX_OK) {
        bare_printf("  %s: %s: %s (%s; %s; 0x%lx)\n", object, virtx_status_text(error->status),
                    error->what, error->rule, error->manual, error->value);
    }
}

static void show_errors(void)
{
    if (machine.vcpu != NULL)
        show_error("vcpu", virtx_vcpu_last_error(machine.vcpu));
    if (machine.vm != NULL)
        show_error("vm", virtx_vm_last_error(machine.vm));
}

bool check_status(enum virtx_status actual, enum virtx_status expected, const char *what,
                  const char *file, int line)
{
    if (actual == expected)
        return true;
    if (actual != VIRTX_OK && bug_active == NULL)
        show_errors();
    return note(&(struct failure){.file = file,
                                  .line = line,
                                  .what = what,
                                  .detail = virtx_status_text(actual),
                                  .has_values = true,
                                  .actual = actual,
                                  .wanted = expected});
}

void not_shown(const char *reason)
{
    skipped = reason;
}

void known_bug(const char *what)
{
    if (bug != what)
        bare_printf("known bug: %s: %s\n", current, what);
    bug = bug_active = what;
}

void known_bug_end(void)
{
    bug_active = NULL;
}

static bool equal_text(const char *a, const char *b)
{
    while (*a != '\0' && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

static bool option_is(const char *option, const char *name)
{
    const char *value = bare_option(option);
    return value != NULL && equal_text(value, name);
}

bool engine_is(const char *name)
{
    return option_is("engine", name);
}

bool model_is(const char *name)
{
    return option_is("model", name);
}

/* Of the library that is open; before a case has opened it, of one that is opened for that. */
static const struct virtx_caps *caps(void)
{
    static struct virtx_caps copy;

    if (machine.virtx != NULL)
        return virtx_caps(machine.virtx);
    machine_open_library();
    copy = *virtx_caps(machine.virtx);
    machine_close();
    return &copy;
}

bool backend_is(const char *name)
{
    return equal_text(caps()->backend, name);
}

bool has_feature(uint64_t feature)
{
    return (caps()->features & feature) == feature;
}

static void show_failures(void)
{
    unsigned total = failure_count + expected_count;

    for (unsigned i = 0; i < total && i < FAILURES_SHOWN; i++) {
        const struct failure *f = &failures[i];
        const char *file = f->file;

        for (const char *c = file; *c != '\0'; c++) {
            if (*c == '/')
                file = c + 1;
        }
        bare_printf("%s %s %s:%d: %s", f->expected ? "  as known:" : "FAIL", current, file, f->line,
                    f->what);
        if (f->has_values)
            bare_printf(": 0x%lx, expected 0x%lx", f->actual, f->wanted);
        bare_printf("%s%s\n", f->detail != NULL ? ": " : "", f->detail != NULL ? f->detail : "");
    }
    if (total > FAILURES_SHOWN)
        bare_printf("%s %s harness.c:0: and %u more\n",
                    failure_count ? "FAIL" : "  as known:", current, total - FAILURES_SHOWN);
}

/* ---- The watchdog: a case that hangs in its guest fails alone ---- */

static struct virtx_vcpu *running_vcpu;
static uint64_t watchdog_start;
static volatile bool watchdog_fired;

static uint64_t watchdog_limit(void)
{
    if (engine_is("bochs") || bare_option("icount") != NULL)
        return WATCHDOG_TICKS * harness_patience;
    return WATCHDOG_SECONDS * bare_tsc_hz() * harness_patience;
}

void host_timer(unsigned vector, uint64_t microseconds)
{
    uint64_t ticks = bare_timer_hz() / 1000 * microseconds / 1000;

    bare_timer_start(vector, ticks < 0xffffffff ? (uint32_t)ticks + 1 : 0xffffffff, false);
}

static void watchdog_arm(void)
{
    uint64_t ticks = watchdog_limit() / (bare_tsc_hz() / 1000 + 1) * (bare_timer_hz() / 1000 + 1);

    bare_timer_start(VECTOR_WATCHDOG, ticks < 0xffffffff ? (uint32_t)ticks : 0xffffffff, false);
}

static void on_watchdog(struct bare_frame *frame, void *ctx)
{
    (void)frame;
    (void)ctx;
    bare_eoi();
    if (bare_tsc() - watchdog_start < watchdog_limit()) {
        watchdog_arm();
        return;
    }
    watchdog_fired = true;
    if (running_vcpu != NULL)
        virtx_vcpu_kick(running_vcpu);
}

static void watchdog_begin(void)
{
    watchdog_fired = false;
    bare_handler_set(VECTOR_WATCHDOG, on_watchdog, NULL);
    watchdog_start = bare_tsc();
    watchdog_arm();
}

/* ---- The machine ---- */

static size_t pages_before;
static bool cpu_on;
static const struct virtx_backend *const backends[] = {&virtx_vmx, &virtx_svm, NULL};
static const struct virtx_paging *const engines[] = {&virtx_paging_nested, &virtx_paging_shadow,
                                                     NULL};
static const struct virtx_paging *const shadow_only[] = {&virtx_paging_shadow, NULL};

const struct virtx_paging *const *harness_engines(void)
{
    return option_is("paging", "shadow") ? shadow_only : engines;
}

bool paging_is_nested(void)
{
    return !option_is("paging", "shadow") && has_feature(VIRTX_FEATURE_NESTED_PAGING);
}

void machine_open_library(void)
{
    struct virtx_error error = {0};
    struct virtx_config config = {
        .size = sizeof(config),
        .max_cpus = BARE_MAX_CPUS,
        .ops = harness_ops != NULL ? harness_ops : &bare_virtx_ops,
        .profile = harness_profile != NULL ? harness_profile : &virtx_profile_bare,
        .backends = backends,
        .paging = harness_engines(),
        .disable = harness_disable | (bare_option("unaided") ? HARNESS_IRQ_HELP : 0) |
                   (bare_option("nmi-by-hand") ? VIRTX_FEATURE_VIRTUAL_NMI : 0),
        /* Bochs' own defect of it is not what is tried. */
        .insist = bare_option("insist") ? HARNESS_IRQ_HELP : 0,
    };

    if (harness_no_watchdog)
        bare_timer_stop();
    memset(&machine, 0, sizeof(machine));
    pages_before = bare_pages_in_use();
    enum virtx_status status = virtx_open(&config, &machine.virtx, &error);
    if (status != VIRTX_OK)
        bare_panic("virtx_open: %s: %s (%s)", virtx_status_text(status), error.what, error.rule);
    status = virtx_cpu_enable(machine.virtx);
    if (status != VIRTX_OK) {
        const struct virtx_error *e = virtx_last_error(machine.virtx);
        bare_panic("virtx_cpu_enable: %s: %s (%s)", virtx_status_text(status), e->what, e->rule);
    }
    cpu_on = true;
    guest_has_svm = backend_is("svm");
}

struct virtx_memslot *slot_make(struct virtx_vm *vm, uint64_t gpa, void *memory, uint64_t bytes,
                                uint32_t rights, uint32_t flags)
{
    struct virtx_memslot_config config = {
        .size = sizeof(config),
        .rights = rights,
        .type = VIRTX_MEMORY_WB,
        .flags = flags,
        .gpa = gpa,
        .bytes = bytes,
        .memory = memory,
    };
    struct virtx_memslot *slot = NULL;

    CHECK_OK(virtx_memslot_add(vm, &config, &slot));
    return slot;
}

bool harness_interpreted(void)
{
    return bare_option("interpret") != NULL;
}

bool harness_nmi_by_hand(void)
{
    return backend_is("vmx") && !has_feature(VIRTX_FEATURE_VIRTUAL_NMI);
}

struct virtx_vcpu *vcpu_make(struct virtx_vm *vm, uint32_t id)
{
    struct virtx_vcpu *vcpu = NULL;

    if (!CHECK_OK(virtx_vcpu_create(vm, id, &vcpu)))
        bare_panic("no vcpu: %s", virtx_vm_last_error(vm)->what);
    if (harness_interpreted())
        CHECK_OK(virtx_vcpu_interpret(vcpu, true));
    if (bare_option("lazy"))
        CHECK_OK(virtx_vcpu_set_lazy_fpu(vcpu, true));
    return vcpu;
}

static struct virtx_vm *make_vm(struct virtx_memslot **image, struct virtx_memslot **memory)
{
    extern char __image_start[], __image_end[];
    struct virtx_vm_config config = {
        .size = sizeof(config),
        .exit_on_interrupt = harness_exit_on_interrupt,
        .interrupts_to_guest = harness_interrupts_to_guest,
        .table_sync = (uint8_t)harness_table_sync,
    };
    struct virtx_vm *vm = NULL;

    if (!CHECK_OK(virtx_vm_create(machine.virtx, &config, &vm)))
        bare_panic("no VM: %s", virtx_last_error(machine.virtx)->what);
    *image = slot_make(vm, (uintptr_t)__image_start, __image_start,
                       ((uintptr_t)__image_end - (uintptr_t)__image_start + 4095) & ~4095ul,
                       ALL_RIGHTS, 0);
    *memory = slot_make(vm, GUEST_MEMORY, machine.ram, GUEST_MEMORY_BYTES, ALL_RIGHTS,
                        harness_memory_flags);
    return vm;
}

struct virtx_vm *vm_make(struct virtx_vcpu **vcpu)
{
    struct virtx_memslot *image, *memory;
    struct virtx_vm *vm = make_vm(&image, &memory);

    *vcpu = vcpu_make(vm, 0);
    return vm;
}

void machine_open(void)
{
    machine_open_library();
    machine.ram = bare_pages_alloc(GUEST_MEMORY_BYTES / 4096, 512);
    if (machine.ram == NULL)
        bare_panic("no memory for the guest");
    memset(machine.ram, 0, GUEST_MEMORY_BYTES);
    machine.vm = make_vm(&machine.image, &machine.memory);
    machine.vcpu = vcpu_make(machine.vm, 0);
}

void machine_close(void)
{
    if (machine.virtx == NULL)
        return;
    if (machine.vcpu != NULL)
        CHECK_OK(virtx_vcpu_destroy(machine.vcpu));
    if (machine.vm != NULL)
        CHECK_OK(virtx_vm_destroy(machine.vm));
    machine.vcpu = NULL;
    machine.vm = NULL;
    if (cpu_on)
        CHECK_OK(virtx_cpu_disable(machine.virtx));
    CHECK_OK(virtx_close(machine.virtx));
    bare_pages_free(machine.ram, GUEST_MEMORY_BYTES / 4096);
    machine.virtx = NULL;
    machine.ram = NULL;
    CHECK_EQUAL(bare_pages_in_use(), pages_before);
}

/* ---- Running ---- */

void vcpu_prepare(struct virtx_vcpu *vcpu, unsigned stack, void (*fn)(uint64_t), uint64_t argument)
{
    struct virtx_state state;
    struct guest_cpu *cpu = &guest_cpus[stack];
    uint64_t *top = (uint64_t *)(void *)(cpu + 1) - 1;

    CHECK_OK(virtx_vcpu_reset(vcpu, VIRTX_PRESET_FLAT64));
    CHECK_OK(virtx_vcpu_get(vcpu, VIRTX_STATE_ALL, &state));
    memset(state.gpr, 0, sizeof(state.gpr));
    *top = (uintptr_t)guest_returned;
    state.gpr[VIRTX_RSP] = (uintptr_t)top;
    state.gpr[VIRTX_RDI] = argument;
    state.rip = (uintptr_t)fn;
    state.cr3 = (uintptr_t)guest_pml4;
    state.cr4 |= 1u << 9 | 1u << 10; /* OSFXSR, OSXMMEXCPT */
    state.gdtr.base = (uintptr_t)guest_gdt;
    state.gdtr.limit = sizeof(guest_gdt) - 1;
    state.idtr.base = (uintptr_t)guest_idt;
    state.idtr.limit = sizeof(guest_idt) - 1;
    for (unsigned i = VIRTX_ES; i <= VIRTX_GS; i++)
        state.seg[i].selector = i == VIRTX_CS ? GUEST_CODE : GUEST_DATA;
    state.seg[VIRTX_TR] = (struct virtx_segment){
        .base = (uintptr_t)cpu->tss,
        .limit = 103,
        .attributes = VIRTX_SEG_P | 11,
        .selector = (uint16_t)(GUEST_TSS + 16 * stack),
    };
    CHECK_OK(virtx_vcpu_set(vcpu, VIRTX_STATE_ALL & ~VIRTX_STATE_TSC, &state));
}

void guest_prepare(void (*fn)(uint64_t), uint64_t argument)
{
    vcpu_prepare(machine.vcpu, 0, fn, argument);
}

void guest_prepare_again(void (*fn)(uint64_t), uint64_t argument)
{
    uint32_t groups = VIRTX_STATE_GPR | VIRTX_STATE_RSP | VIRTX_STATE_RIP;
    struct virtx_state state = guest_state();
    uint64_t *top = (uint64_t *)(void *)&guest_cpus[1] - 1;

    *top = (uintptr_t)guest_returned;
    state.gpr[VIRTX_RSP] = (uintptr_t)top;
    state.gpr[VIRTX_RDI] = argument;
    state.rip = (uintptr_t)fn;
    CHECK_OK(virtx_vcpu_set(machine.vcpu, groups, &state));
}

const struct virtx_exit *vcpu_run(struct virtx_vcpu *vcpu)
{
    static const struct virtx_exit nothing = {.reason = VIRTX_EXIT_NONE};
    const struct virtx_exit *exit = &nothing;

    running_vcpu = vcpu;
    bool good = CHECK_OK(virtx_vcpu_run(vcpu, &exit));
    /* With the host's interrupts off the executor comes back after every batch. */
    for (unsigned i = 0; good && harness_interpreted() && exit->reason == VIRTX_EXIT_INTERRUPT &&
                         !watchdog_fired && i < 100000;
         i++)
        good = CHECK_OK(virtx_vcpu_run(vcpu, &exit));
    if (!good) {
        if (vcpu != machine.vcpu)
            show_error("vcpu", virtx_vcpu_last_error(vcpu));
        exit = &nothing;
    }
    running_vcpu = NULL;
    machine.exit = exit;
    return exit;
}

const struct virtx_exit *guest_run(void)
{
    return vcpu_run(machine.vcpu);
}

/* What the harness serves itself. */
static bool served(struct virtx_vcpu *vcpu, const struct virtx_exit *exit)
{
    if (exit->reason == VIRTX_EXIT_KICK || exit->reason == VIRTX_EXIT_INTERRUPT)
        return !watchdog_fired;
    if (exit->reason == VIRTX_EXIT_IO && exit->io.port == PORT_MARK && !exit->io.string &&
        exit->io.access == VIRTX_WRITE) {
        machine.marks++;
        machine.mark_value = exit->io.value;
        return CHECK_OK(virtx_vcpu_complete(vcpu, NULL));
    }
    return false;
}

bool vcpu_continue(struct virtx_vcpu *vcpu, uint64_t *result)
{
    for (;;) {
        uint64_t flags = bare_irq_save();
        if (!harness_interrupts_to_guest)
            bare_irq_enable();
        const struct virtx_exit *exit = vcpu_run(vcpu);
        bare_irq_disable();
        bare_irq_restore(flags);
        if (served(vcpu, exit))
            continue;
        if (exit->reason != VIRTX_EXIT_IO || exit->io.port != PORT_DONE)
            return false;
        if (result != NULL)
            *result = exit->io.value;
        return CHECK_OK(virtx_vcpu_complete(vcpu, NULL));
    }
}

bool guest_continue(uint64_t *result)
{
    return vcpu_continue(machine.vcpu, result);
}

bool guest_call(void (*fn)(uint64_t), uint64_t argument, uint64_t *result)
{
    guest_prepare(fn, argument);
    return guest_continue(result);
}

static void show_exit(const struct virtx_exit *exit)
{
    char text[200];

    if (watchdog_fired)
        bare_printf("  the guest did not come to an end\n");
    describe_exit(text, sizeof(text), exit);
    bare_printf("  exit: %s at 0x%lx; raw 0x%lx 0x%lx 0x%lx 0x%lx\n", text, exit->rip,
                exit->raw.code, exit->raw.qualification, exit->raw.address, exit->raw.interruption);
    if (exit->reason == VIRTX_EXIT_IO && exit->io.port == PORT_TRAP) {
        bare_printf("  guest trap: vector %lu, error code 0x%lx, RIP 0x%lx, CS 0x%lx, CR2 0x%lx\n",
                    guest_trap.vector, guest_trap.error, guest_trap.rip, guest_trap.cs,
                    guest_trap.cr2);
    }
}

uint64_t guest_result(void (*fn)(uint64_t), uint64_t argument, const char *file, int line)
{
    uint64_t result = ~0ul;

    if (fn != NULL)
        guest_prepare(fn, argument);
    if (guest_continue(&result))
        return result;
    if (bug_active == NULL)
        show_exit(machine.exit);
    check(false, "the guest finishes", file, line);
    return ~0ul;
}

bool expect_exit(enum virtx_exit_reason reason, const char *file, int line)
{
    if (guest_continue(NULL)) {
        check(false, "the exit comes before the guest's end", file, line);
        return false;
    }
    if (machine.exit->reason == reason)
        return true;
    if (bug_active == NULL)
        show_exit(machine.exit);
    check_equal(machine.exit->reason, reason, "exit reason", file, line);
    return false;
}

bool serve(enum virtx_exit_reason reason, const void *value, const char *file, int line)
{
    return expect_exit(reason, file, line) &&
           check(machine.exit->pending, "machine.exit->pending", file, line) &&
           check_status(virtx_vcpu_complete(machine.vcpu, value), VIRTX_OK, "virtx_vcpu_complete",
                        file, line);
}

struct virtx_state guest_state(void)
{
    struct virtx_state state;

    memset(&state, 0, sizeof(state));
    CHECK_OK(virtx_vcpu_get(machine.vcpu, VIRTX_STATE_ALL, &state));
    return state;
}

void guest_set_state(uint32_t groups, const struct virtx_state *state)
{
    CHECK_OK(virtx_vcpu_set(machine.vcpu, groups, state));
}

uint64_t guest_exits(void)
{
    struct virtx_stats stats;
    uint64_t sum = 0;

    virtx_vcpu_stats(machine.vcpu, &stats);
    for (unsigned i = 0; i < 32; i++)
        sum += i == VIRTX_EXIT_INTERRUPT ? 0 : stats.exits[i];
    return sum;
}

/* ---- Intercepts ---- */

struct virtx_intercept *intercept_handler(uint32_t kind, uint32_t access, uint64_t first,
                                          uint64_t last, virtx_handler handler, void *ctx)
{
    struct virtx_intercept_config config = {
        .size = sizeof(config),
        .kind = kind,
        .access = access,
        .action = VIRTX_ACTION_EXIT,
        .first = first,
        .last = last,
        .handler = handler,
        .ctx = ctx,
    };
    struct virtx_intercept *result = NULL;

    CHECK_OK(virtx_vm_intercept(machine.vm, &config, &result));
    return result;
}

struct virtx_intercept *intercept(uint32_t kind, uint32_t access, uint64_t first, uint64_t last)
{
    return intercept_handler(kind, access, first, last, NULL, NULL);
}

/* ---- Single steps that arrive in the host ---- */

static unsigned host_steps;

static void on_host_step(struct bare_frame *frame, void *ctx)
{
    (void)ctx;
    frame->rflags &= ~0x100ul; /* TF */
    host_steps++;
}

void host_steps_allow(void)
{
    host_steps = 0;
    bare_handler_set(1, on_host_step, NULL);
}

unsigned host_steps_end(void)
{
    bare_handler_set(1, NULL, NULL);
    return host_steps;
}

/* ---- Exits in words ---- */

static const char *direction(uint8_t access, const char *read, const char *write)
{
    return access == VIRTX_READ ? read : access == VIRTX_WRITE ? write : "?";
}

static size_t describe_io(char *text, size_t size, const struct virtx_exit_io *io)
{
    size_t length = bare_snprintf(text, size, "%s%s%s port 0x%x size %u count %u",
                                  io->rep ? "rep " : "", direction(io->access, "in", "out"),
                                  io->string ? "s" : "", io->port, io->size, io->count);
    if (io->access == VIRTX_WRITE && io->count == 1)
        length += bare_snprintf(text + length, size - length, " value 0x%lx", io->value);
    return length;
}

void describe_exit(char *text, size_t size, const struct virtx_exit *exit)
{
    size_t n = bare_snprintf(text, size, "%s%s ", virtx_exit_name(exit->reason),
                             exit->pending ? ", pending," : "");

    text += n;
    size -= n;
    switch (exit->reason) {
    case VIRTX_EXIT_IO:
        describe_io(text, size, &exit->io);
        break;
    case VIRTX_EXIT_MMIO:
        bare_snprintf(text, size, "%s gpa 0x%lx size %u value 0x%lx",
                      direction(exit->mmio.access, "read", "write"), exit->mmio.gpa,
                      exit->mmio.size, exit->mmio.access == VIRTX_WRITE ? exit->mmio.value : 0);
        break;
    case VIRTX_EXIT_MSR:
        bare_snprintf(text, size, "%s index 0x%x value 0x%lx",
                      direction(exit->msr.access, "read", "write"), exit->msr.index,
                      exit->msr.access == VIRTX_WRITE ? exit->msr.value : 0);
        break;
    case VIRTX_EXIT_CPUID:
        bare_snprintf(text, size, "leaf 0x%x subleaf 0x%x", exit->cpuid.leaf, exit->cpuid.subleaf);
        break;
    case VIRTX_EXIT_HYPERCALL:
        bare_snprintf(text, size, "number 0x%lx cpl %u", exit->hypercall.number,
                      exit->hypercall.cpl);
        break;
    case VIRTX_EXIT_EXCEPTION:
        bare_snprintf(text, size, "vector %u error %s0x%x address 0x%lx", exit->exception.vector,
                      exit->exception.has_error ? "" : "none ", exit->exception.error,
                      exit->exception.address);
        break;
    case VIRTX_EXIT_CR:
    case VIRTX_EXIT_DR:
        bare_snprintf(text, size, "%s register %u gpr %u value 0x%lx",
                      direction(exit->cr.access, "read", "write"), exit->cr.reg, exit->cr.gpr,
                      exit->cr.value);
        break;
    case VIRTX_EXIT_INSTRUCTION:
        bare_snprintf(text, size, "which %u operand 0x%lx", exit->instruction.which,
                      exit->instruction.operand);
        break;
    case VIRTX_EXIT_MEMORY:
        bare_snprintf(text, size, "gpa 0x%lx access %u rights %u%s", exit->memory.gpa,
                      exit->memory.access, exit->memory.rights,
                      exit->memory.table_walk ? " table walk" : "");
        break;
    case VIRTX_EXIT_EMULATION:
        bare_snprintf(text, size, "gpa 0x%lx length %u bytes %02x %02x %02x %02x",
                      exit->emulation.gpa, exit->emulation.length, exit->emulation.bytes[0],
                      exit->emulation.bytes[1], exit->emulation.bytes[2], exit->emulation.bytes[3]);
        break;
    default:
        break;
    }
}

/* ---- The cases ---- */

static bool run_case(const struct guest_case *test)
{
    current = test->name;
    failure_count = expected_count = 0;
    skipped = bug = bug_active = NULL;
    harness_disable = 0;
    harness_profile = NULL;
    harness_ops = NULL;
    harness_memory_flags = 0;
    harness_table_sync = VIRTX_TABLE_SYNC_ON_FLUSH;
    harness_exit_on_interrupt = harness_interrupts_to_guest = harness_no_watchdog = false;
    harness_patience = 1;
    guest_reset();
    watchdog_begin();
    test->run();
    bare_timer_stop();
    machine_close();
    show_failures();
    if (bug != NULL && expected_count == 0)
        bare_printf("  no known bug of %s has shown\n", current);
    if (failure_count == 0 && skipped != NULL)
        bare_printf("not shown: %s: %s\n", current, skipped);
    else if (failure_count == 0)
        bare_printf("ok %s\n", current);
    return failure_count == 0;
}

int bare_main(void)
{
    const char *only = bare_option("case");
    unsigned failed = 0, done = 0;

    for (unsigned i = 0; i < guest_case_count; i++) {
        if (only != NULL && !equal_text(only, guest_cases[i].name))
            continue;
        done++;
        failed += !run_case(&guest_cases[i]);
    }
    bare_printf("%u cases, %u failed\n", done, failed);
    return done == 0 ? 96 : failed < 90 ? (int)failed : 90;
}
