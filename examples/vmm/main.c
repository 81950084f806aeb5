/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A bare virtual machine monitor: boots Linux and multiboot kernels in a little PC.
 *
 * Command line: memory=256M cpus=1 paging=nested hide=xsavec stats. Modules, by the first word of their strings: "kernel NAME
 * ARGUMENTS" and "module NAME ARGUMENTS". How the guest ended is told in one line of the log,
 * which tools/virtx-run turns into an exit status.
 */
#include "bare.h"
#include "virtx_host.h"
#include "board.h"
#include "guest.h"
#include "muldiv.h"
#include "stats.h"

enum {
    VECTOR_TIMER = 0x40,
    INPUT_POLL_HZ = 100, /* how often a busy guest's console input is looked for */
    IDLE_POLL_HZ = 1000, /* … and an idle guest's */
};

static struct board board;
static struct virtx_vcpu *vcpu0;

/* One clear line, then the end. */
static int finish(const char *outcome, uint64_t value, const char *why)
{
    board_flush_console(&board);
    bare_printf("vmm: %s %lu%s%s\n", outcome, value, *why ? ": " : "", why);
    return 0;
}

static int failed(const char *what, const struct virtx_error *error)
{
    board_flush_console(&board);
    bare_printf("vmm: error 0: %s: %s (%s: %s; %s)\n", what, virtx_status_text(error->status),
                error->what, error->rule, error->manual);
    return 0;
}

/* ---- Options and files ---- */

static uint64_t parse_size(const char *text)
{
    uint64_t value = 0;

    for (; *text >= '0' && *text <= '9'; text++)
        value = value * 10 + (uint64_t)(*text - '0');
    switch (*text) {
    case 'G':
    case 'g':
        return value << 30;
    case 'M':
    case 'm':
        return value << 20;
    case 'K':
    case 'k':
        return value << 10;
    default:
        return value;
    }
}

static const char *after(const char *string, const char *word)
{
    while (*word && *string == *word)
        string++, word++;
    if (*word || (*string && *string != ' '))
        return NULL;
    return *string ? string + 1 : string;
}

/* False: there are more modules than the loaders take. */
static bool find_files(struct guest_image *image)
{
    for (unsigned i = 0; i < bare_module_count(); i++) {
        const struct bare_module *m = bare_module_get(i);
        struct guest_file file = {m->start, m->size, after(m->string, "kernel")};

        if (file.string) {
            image->kernel = file;
            continue;
        }
        file.string = after(m->string, "module");
        if (!file.string)
            continue;
        if (image->modules == GUEST_MAX_FILES)
            return false;
        image->module[image->modules++] = file;
    }
    return true;
}

static const char *load(const struct guest_ram *ram, const struct guest_image *image,
                        struct guest_start *start)
{
    if (!image->kernel.data)
        return "no kernel given";
    if (linux_is(&image->kernel))
        return linux_load(ram, image, start);
    if (multiboot_is(&image->kernel))
        return multiboot_load(ram, image, start);
    return "the kernel is neither a Linux bzImage nor a multiboot kernel";
}

/* ---- Machine ---- */

/* Memory below and above the hole for a screen and option ROMs, and above 4 GiB. */
static enum virtx_status add_slots(struct virtx_vm *vm, const struct guest_ram *ram)
{
    const struct {
        uint64_t gpa, bytes, offset;
    } parts[] = {
        {0, GUEST_HOLE, 0},
        {GUEST_FIRMWARE, ram->low_bytes - GUEST_FIRMWARE, GUEST_FIRMWARE},
        {GUEST_HIGH, ram->high_bytes, ram->low_bytes},
    };
    struct virtx_memslot *unused;
    enum virtx_status status = VIRTX_OK;

    for (unsigned i = 0; !status && i < sizeof(parts) / sizeof(parts[0]); i++) {
        struct virtx_memslot_config slot = {
            .size = sizeof(slot), .rights = VIRTX_READ | VIRTX_WRITE | VIRTX_EXECUTE,
            .type = VIRTX_MEMORY_WB, .gpa = parts[i].gpa, .bytes = parts[i].bytes,
            .memory = ram->low + parts[i].offset,
        };
        if (slot.bytes)
            status = virtx_memslot_add(vm, &slot, &unused);
    }
    return status;
}

static enum virtx_status add_memory(struct virtx_vm *vm, uint64_t bytes, struct guest_ram *ram)
{
    uint64_t low = bytes < GUEST_LOW_MAX ? bytes : GUEST_LOW_MAX;
    uint8_t *memory = bare_pages_alloc(bytes / BARE_PAGE_SIZE, 512);

    if (!memory)
        return VIRTX_E_NO_MEMORY;
    memset(memory, 0, bytes);
    *ram = (struct guest_ram){.low = memory, .low_bytes = low, .high_bytes = bytes - low};
    return add_slots(vm, ram);
}

/* Takes XSAVEC and XSAVES out of the guest's CPUID: an embedder's own policy over the library's
 * default, for emulators whose compacted format loses registers. */
static enum virtx_status hide_xsavec(struct virtx_vm *vm)
{
    enum { XSAVEC = 2, XSAVES = 8 };
    struct virtx_cpuid_entry entry;
    enum virtx_status status = virtx_vm_cpuid_get(vm, 0xd, 1, &entry);

    if (status || !(entry.eax & (XSAVEC | XSAVES)))
        return status;
    entry.eax &= ~(uint32_t)(XSAVEC | XSAVES);
    return virtx_vm_cpuid_set(vm, &entry);
}

static enum virtx_status set_start(struct virtx_vcpu *vcpu, const struct guest_start *start)
{
    struct virtx_state state;
    enum virtx_status status = virtx_vcpu_reset(vcpu, start->preset);

    if (!status)
        status = virtx_vcpu_get(vcpu, VIRTX_STATE_ALL, &state);
    if (status)
        return status;
    state.rip = start->rip;
    state.gpr[VIRTX_RSP] = start->rsp;
    state.gpr[VIRTX_RAX] = start->rax;
    state.gpr[VIRTX_RBX] = start->rbx;
    state.gpr[VIRTX_RSI] = start->rsi;
    state.cr3 = start->cr3;
    if (start->gdt) {
        state.gdtr.base = start->gdt;
        state.gdtr.limit = start->gdt_limit;
        for (unsigned i = VIRTX_ES; i <= VIRTX_GS; i++)
            state.seg[i].selector = i == VIRTX_CS ? start->cs : start->ds;
    }
    return virtx_vcpu_set(vcpu, VIRTX_STATE_GPR | VIRTX_STATE_RIP | VIRTX_STATE_RSP |
                                    VIRTX_STATE_CR | VIRTX_STATE_SEG | VIRTX_STATE_TABLES, &state);
}

/* ---- Time ---- */

static void timer_tick(struct bare_frame *frame, void *ctx)
{
    (void)frame;
    (void)ctx;
    bare_eoi();
    if (vcpu0)
        virtx_vcpu_kick(vcpu0);
}

/* Arms the host's timer for the board's next deadline, at least INPUT_POLL_HZ times a second. */
static void arm_timer(uint64_t *armed, unsigned poll_hz)
{
    uint64_t now = bare_tsc(), latest = now + board.tsc_hz / poll_hz;
    uint64_t deadline = board_deadline(&board), ticks;

    if (deadline > latest)
        deadline = latest;
    if (*armed > now && *armed <= deadline)
        return;
    *armed = deadline;
    ticks = deadline > now ? muldiv(deadline - now, bare_timer_hz(), board.tsc_hz) : 0;
    bare_timer_start(VECTOR_TIMER, (uint32_t)(ticks + 1), false);
}

/* The guest halts: sleeps until an interrupt is there for it. False: it never will. */
static bool idle(struct virtx_vcpu *vcpu, uint64_t *armed)
{
    struct virtx_state state;

    if (virtx_vcpu_get(vcpu, VIRTX_STATE_RFLAGS, &state) || !(state.rflags & 0x200))
        return virtx_vcpu_wakeable(vcpu);
    for (;;) {
        board_poll(&board);
        if (virtx_vcpu_wakeable(vcpu))
            return true;
        bare_irq_disable(); /* so that the tick cannot come before the halt */
        arm_timer(armed, board.console_count ? IDLE_POLL_HZ * 10 : IDLE_POLL_HZ);
        bare_irq_wait();
        bare_irq_enable();
    }
}

/* ---- The loop ---- */

static void give_fault(struct virtx_vcpu *vcpu, uint8_t vector)
{
    struct virtx_event event = {.type = VIRTX_EVENT_EXCEPTION, .vector = vector, .has_error = true};
    virtx_vcpu_fault(vcpu, &event);
}

/* Serves one exit. NULL: go on; else how the guest ended. */
static const char *serve(struct virtx_vcpu *vcpu, const struct virtx_exit *exit, uint64_t *armed)
{
    switch (exit->reason) {
    case VIRTX_EXIT_IO:
        board_io(&board, &exit->io, exit->io.data);
        virtx_vcpu_complete(vcpu, NULL);
        return NULL;
    case VIRTX_EXIT_MMIO: /* nothing there: all ones */
        while (virtx_vcpu_complete(vcpu, NULL) == VIRTX_AGAIN)
            ;
        return NULL;
    case VIRTX_EXIT_MSR:
        give_fault(vcpu, 13);
        return NULL;
    case VIRTX_EXIT_KICK:
    case VIRTX_EXIT_INTERRUPT:
        return NULL;
    case VIRTX_EXIT_HLT:
        return idle(vcpu, armed) ? NULL : "halted";
    case VIRTX_EXIT_SHUTDOWN:
        return "triple-fault";
    default:
        return "stuck";
    }
}

static int describe_end(const char *how, struct virtx_vcpu *vcpu, const struct virtx_exit *exit)
{
    static char line[160];
    struct virtx_state state = {0};

    virtx_vcpu_get(vcpu, VIRTX_STATE_ALL, &state);
    bare_snprintf(line, sizeof(line), "exit %s (raw %lx %lx %lx) at rip %lx cr0 %lx cr3 %lx",
                  virtx_exit_name(exit->reason), exit->raw.code, exit->raw.qualification,
                  exit->raw.address, state.rip, state.cr0, state.cr3);
    return finish(how, 0, line);
}

static int loop(struct virtx_vcpu *vcpu)
{
    const struct virtx_exit *exit;
    const char *how;
    uint64_t armed = 0;

    arm_timer(&armed, INPUT_POLL_HZ);
    while (virtx_vcpu_run(vcpu, &exit) == VIRTX_OK) {
        how = serve(vcpu, exit, &armed);
        if (how)
            return describe_end(how, vcpu, exit);
        switch (board.end) {
        case BOARD_RUNNING:
            break;
        case BOARD_POWERED_OFF:
            return finish("powered-off", 0, "");
        case BOARD_DEBUG_EXIT:
            return finish("debug-exit", board.exit_value, "");
        case BOARD_RESET:
            return finish("reset", 0, "");
        }
        if (bare_tsc() >= armed)
            board_poll(&board);
        arm_timer(&armed, INPUT_POLL_HZ);
    }
    return failed("run", virtx_vcpu_last_error(vcpu));
}

int bare_main(void)
{
    static const struct virtx_backend *const backends[] = {&virtx_vmx, &virtx_svm, NULL};
    static const struct virtx_paging *const paging[] = {&virtx_paging_nested, NULL};
    struct virtx_config config = {.size = sizeof(config), .max_cpus = BARE_MAX_CPUS,
                                  .ops = &bare_virtx_ops, .profile = &virtx_profile_bare,
                                  .backends = backends, .paging = paging};
    struct virtx_vm_config vm_config = {.size = sizeof(vm_config), .tsc_hz = bare_tsc_hz()};
    const char *memory = bare_option("memory");
    uint64_t bytes = memory ? parse_size(memory) & ~0x1fffffull : 256ull << 20;
    struct guest_image image = {0};
    struct guest_ram ram;
    struct guest_start start;
    struct virtx_error error;
    struct virtx *virtx;
    struct virtx_vm *vm;
    const char *why;
    int result;

    if (bytes < 4u << 20)
        return finish("error", 0, "memory= must be at least 4M");
    if (bare_option_u64("cpus", 1) != 1)
        return finish("error", 0, "guests with several processors are not supported yet");
    if (after(bare_option("paging") ? bare_option("paging") : "auto", "shadow"))
        return finish("error", 0, "shadow paging is not supported yet");
    if (!find_files(&image))
        return finish("error", 0, "too many modules");
    if (virtx_open(&config, &virtx, &error))
        return failed("virtx_open", &error);
    if (virtx_cpu_enable(virtx))
        return failed("virtx_cpu_enable", virtx_last_error(virtx));
    if (virtx_vm_create(virtx, &vm_config, &vm))
        return failed("virtx_vm_create", virtx_last_error(virtx));
    if (bare_option("hide") && after(bare_option("hide"), "xsavec") && hide_xsavec(vm))
        return failed("hide=xsavec", virtx_vm_last_error(vm));
    if (add_memory(vm, bytes, &ram))
        return finish("error", 0, "not enough memory in this machine for memory=");
    image.rsdp = acpi_build(ram.low, 1);
    why = load(&ram, &image, &start);
    if (why)
        return finish("error", 0, why);
    if (board_init(&board, vm, vm_config.tsc_hz, bytes))
        return failed("board_init", virtx_vm_last_error(vm));
    if (virtx_vcpu_create(vm, 0, &vcpu0))
        return failed("virtx_vcpu_create", virtx_vm_last_error(vm));
    if (board_add_cpu(&board, vcpu0) || set_start(vcpu0, &start))
        return failed("set-up", virtx_vcpu_last_error(vcpu0));
    bare_handler_set(VECTOR_TIMER, timer_tick, NULL);
    bare_irq_enable();
    result = loop(vcpu0);
    if (bare_option("stats"))
        print_stats(vm);
    return result;
}
