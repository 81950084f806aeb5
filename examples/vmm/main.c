/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A bare virtual machine monitor: boots Linux and multiboot kernels in a little PC.
 *
 * Command line: memory=256M cpus=1 paging=nested hide=xsavec reboots=0 stats debugcon. Modules, by
 * the first word of their strings: "kernel NAME ARGUMENTS" and "module NAME ARGUMENTS", or
 * "firmware NAME"; "disk NAME", twice at most; "cdrom NAME". How the guest ended is told in one
 * line of the log, which tools/virtx-run turns into an exit status.
 */
#include "bare.h"
#include "virtx_host.h"
#include "cpus.h"
#include "guest.h"
#include "mptable.h"
#include "stats.h"

#define FIRMWARE_MAX (8u << 20)

static struct board board;

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
        if (after(m->string, "firmware")) {
            image->firmware = file;
            continue;
        }
        if (after(m->string, "disk")) {
            image->drive[image->drive[0].data != NULL] = file;
            continue;
        }
        if (after(m->string, "cdrom")) {
            image->drive[1] = file;
            image->is_cd = true;
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

static const char *load(const struct guest_ram *ram, struct guest_image *image, unsigned cpus,
                        struct guest_start *start)
{
    guest_bios_data(ram->low);
    mptable_build(ram->low, GUEST_MP_TABLE, cpus);
    image->rsdp = acpi_build(ram->low, ACPI_TABLES, cpus);
    if (!image->kernel.data)
        return "no kernel given";
    return guest_load(ram, image, start);
}

/* ---- Machine ---- */

/* Memory below and above the hole for a screen and option ROMs, and above 4 GiB. With a firmware,
 * the hole goes on to 1 MiB: the firmware decides what is there. Called again it replaces them, so
 * that the library forgets what it knows of their content. */
static enum virtx_status add_slots(struct virtx_vm *vm, const struct guest_ram *ram,
                                   uint64_t hole_end)
{
    const struct {
        uint64_t gpa, bytes;
        uint8_t *memory;
    } parts[] = {
        {0, GUEST_HOLE, ram->low},
        {hole_end, ram->low_bytes - hole_end, ram->low + hole_end},
        {GUEST_HIGH, ram->high_bytes, ram->high},
    };
    static struct virtx_memslot *slots[3];
    enum virtx_status status = VIRTX_OK;

    for (unsigned i = 0; !status && i < sizeof(parts) / sizeof(parts[0]); i++) {
        struct virtx_memslot_config slot = {
            .size = sizeof(slot),
            .rights = VIRTX_READ | VIRTX_WRITE | VIRTX_EXECUTE,
            .type = VIRTX_MEMORY_WB,
            .flags = VIRTX_MEMSLOT_CONTIGUOUS, /* bare memory is, and is mapped as it lies */
            .gpa = parts[i].gpa,
            .bytes = parts[i].bytes,
            .memory = parts[i].memory,
        };
        if (slots[i])
            status = virtx_memslot_remove(slots[i], NULL);
        slots[i] = NULL;
        if (!status && slot.bytes)
            status = virtx_memslot_add(vm, &slot, &slots[i]);
    }
    return status;
}

/* The two parts need not be neighbours in the machine's memory, which has a hole of its own. */
static enum virtx_status add_memory(struct virtx_vm *vm, uint64_t bytes, uint64_t hole_end,
                                    struct guest_ram *ram)
{
    uint64_t low = bytes < GUEST_LOW_MAX ? bytes : GUEST_LOW_MAX, high = bytes - low;

    *ram = (struct guest_ram){.low_bytes = low, .high_bytes = high};
    ram->low = bare_pages_alloc(low / BARE_PAGE_SIZE, 512);
    if (high)
        ram->high = bare_pages_alloc(high / BARE_PAGE_SIZE, 512);
    if (!ram->low || (high && !ram->high))
        return VIRTX_E_NO_MEMORY;
    memset(ram->low, 0, low);
    if (high)
        memset(ram->high, 0, high);
    return add_slots(vm, ram, hole_end);
}

/* Where option ROMs would be a kernel finds none: memory that is all ones, for kernels that look at
 * every byte there. */
static enum virtx_status add_no_roms(struct virtx_vm *vm)
{
    struct virtx_memslot_config slot = {
        .size = sizeof(slot),
        .rights = VIRTX_READ | VIRTX_EXECUTE,
        .type = VIRTX_MEMORY_WB,
        .flags = VIRTX_MEMSLOT_WRITE_MMIO,
        .gpa = GUEST_ROMS,
        .bytes = GUEST_FIRMWARE - GUEST_ROMS,
    };
    struct virtx_memslot *unused;

    slot.memory = bare_pages_alloc(slot.bytes / BARE_PAGE_SIZE, 1);
    if (!slot.memory)
        return VIRTX_E_NO_MEMORY;
    memset(slot.memory, 0xff, slot.bytes);
    return virtx_memslot_add(vm, &slot, &unused);
}

/* The firmware in ROM, and the machine around it that it expects. NULL, or why not. */
static const char *add_firmware(struct virtx_vm *vm, const struct guest_ram *ram,
                                const struct guest_image *image, unsigned cpus)
{
    const struct guest_file *file = &image->firmware;
    uint64_t bytes = (file->bytes + BARE_PAGE_SIZE - 1) & ~(uint64_t)(BARE_PAGE_SIZE - 1);
    uint8_t *rom;

    if (!bytes || bytes > FIRMWARE_MAX)
        return "the firmware is empty or larger than 8M";
    rom = bare_pages_alloc(bytes / BARE_PAGE_SIZE, 1);
    if (!rom)
        return "not enough memory in this machine for the firmware";
    memset(rom, 0xff, bytes);
    memcpy(rom + bytes - file->bytes, file->data, file->bytes); /* its end is the reset vector's */
    board.has_firmware = true;
    if (firmware_init(&board.firmware, vm, ram, rom, bytes))
        return "no memory slot for the firmware";
    if (!firmware_describe(&board.firmware, ram, cpus, &board.fwcfg))
        return "too many files for fw_cfg";
    return NULL;
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

/* Likewise POPCNT, for an emulator that announces it and does not have it. */
static enum virtx_status hide_popcnt(struct virtx_vm *vm)
{
    struct virtx_cpuid_entry entry;
    enum virtx_status status = virtx_vm_cpuid_get(vm, 1, 0, &entry);

    entry.ecx &= ~(1u << 23);
    return status ? status : virtx_vm_cpuid_set(vm, &entry);
}

/* The library's default policy does not know what the guest's local APIC has: x2APIC mode, a timer
 * with TSC deadlines, and one that always runs. */
static enum virtx_status show_apic(struct virtx_vm *vm)
{
    enum { X2APIC = 1 << 21, TSC_DEADLINE = 1 << 24, ARAT = 1 << 2 };
    struct virtx_cpuid_entry entry;
    enum virtx_status status = virtx_vm_cpuid_get(vm, 1, 0, &entry);

    if (status)
        return status;
    entry.ecx |= X2APIC | TSC_DEADLINE;
    status = virtx_vm_cpuid_set(vm, &entry);
    if (!status)
        status = virtx_vm_cpuid_get(vm, 6, 0, &entry);
    if (status)
        return status;
    entry.leaf = 6;
    entry.eax |= ARAT;
    return virtx_vm_cpuid_set(vm, &entry);
}

/* The modules are the VMM's own memory: the guest writes there. */
static void init_drives(const struct guest_image *image)
{
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *data = (uint8_t *)(uintptr_t)image->drive[i].data;
        uint64_t bytes = image->drive[i].bytes;

        /* Modules have whole pages, so a file may end within a sector. */
        if (i == 1 && image->is_cd)
            ata_init_cd(&board.ata[i], data, (bytes + ATAPI_SECTOR - 1) & -(uint64_t)ATAPI_SECTOR);
        else
            ata_init(&board.ata[i], data, (bytes + ATA_SECTOR - 1) & -(uint64_t)ATA_SECTOR);
    }
}

static enum virtx_status set_start(struct virtx_vcpu *vcpu, const struct guest_start *start)
{
    struct virtx_state state;
    enum virtx_status status = virtx_vcpu_reset(vcpu, start->preset);

    if (start->after_bios)
        board_after_bios(&board);
    if (!status)
        status = virtx_vcpu_get(vcpu, VIRTX_STATE_ALL, &state);
    if (status || start->preset == VIRTX_PRESET_RESET)
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
    return virtx_vcpu_set(vcpu,
                          VIRTX_STATE_GPR | VIRTX_STATE_RIP | VIRTX_STATE_RSP | VIRTX_STATE_CR |
                              VIRTX_STATE_SEG | VIRTX_STATE_TABLES,
                          &state);
}

/* NULL: the library chooses. */
static const struct virtx_paging *engine(const char *name)
{
    if (name && after(name, "shadow"))
        return &virtx_paging_shadow;
    if (name && after(name, "nested"))
        return &virtx_paging_nested;
    return NULL;
}

/* A PC's processor that shuts down is reset by the board. */
static bool is_reset(const struct cpus_end *how)
{
    return !how->error && (after(how->outcome, "reset") || after(how->outcome, "triple-fault"));
}

int bare_main(void)
{
    static const struct virtx_backend *const backends[] = {&virtx_vmx, &virtx_svm, NULL};
    static const struct virtx_paging *const paging[] = {&virtx_paging_nested, &virtx_paging_shadow,
                                                        NULL};
    struct virtx_host_ops ops = bare_virtx_ops;
    struct virtx_config config = {.size = sizeof(config),
                                  .max_cpus = BARE_MAX_CPUS,
                                  .ops = &ops,
                                  .profile = &virtx_profile_bare,
                                  .backends = backends,
                                  .paging = paging};
    struct virtx_vm_config vm_config = {.size = sizeof(vm_config), .tsc_hz = bare_tsc_hz()};
    const char *memory = bare_option("memory");
    uint64_t bytes = memory ? parse_size(memory) & ~0x1fffffull : 256ull << 20;
    struct guest_image image = {0};
    struct guest_ram ram;
    struct guest_start start = {.preset = VIRTX_PRESET_RESET};
    struct virtx_error error;
    struct virtx *virtx;
    struct virtx_vm *vm;
    struct virtx_vcpu *first = NULL;
    struct cpus_end how;
    const char *why;
    uint64_t cpus = bare_option_u64("cpus", 1);

    if (bytes < 4u << 20)
        return finish("error", 0, "memory= must be at least 4M");
    if (cpus < 1 || cpus > BOARD_CPUS)
        return finish("error", 0, "cpus= must be 1 to 8");
    if (bare_option("sync"))
        vm_config.table_sync = (uint8_t)bare_option_u64("sync", 0);
    vm_config.paging = engine(bare_option("paging"));
    if (!find_files(&image))
        return finish("error", 0, "too many modules");
    ops.wake = cpus_wake;
    ops.timer = cpus_timer;
    if (virtx_open(&config, &virtx, &error))
        return failed("virtx_open", &error);
    if (virtx_vm_create(virtx, &vm_config, &vm))
        return failed("virtx_vm_create", virtx_last_error(virtx));
    if (show_apic(vm))
        return failed("x2APIC", virtx_vm_last_error(vm));
    if (bare_option("hide") && after(bare_option("hide"), "xsavec") && hide_xsavec(vm))
        return failed("hide=xsavec", virtx_vm_last_error(vm));
    if (bare_option("hide") && after(bare_option("hide"), "popcnt") && hide_popcnt(vm))
        return failed("hide=popcnt", virtx_vm_last_error(vm));
    if (add_memory(vm, bytes, image.firmware.data ? GUEST_BIOS_END : GUEST_FIRMWARE, &ram))
        return finish("error", 0, "not enough memory in this machine for memory=");
    board.show_debug = bare_option("debugcon") != NULL;
    pci_init(&board.pci, image.drive[0].data != NULL, image.drive[1].data != NULL);
    fwcfg_init(&board.fwcfg, (unsigned)cpus, bytes);
    if (image.firmware.data)
        why = add_firmware(vm, &ram, &image, (unsigned)cpus);
    else
        why = load(&ram, &image, (unsigned)cpus, &start);
    if (!why && !image.firmware.data && add_no_roms(vm))
        why = "not enough memory in this machine for the guest's";
    if (why)
        return finish("error", 0, why);
    if (board_init(&board, vm, vm_config.tsc_hz, bytes))
        return failed("board_init", virtx_vm_last_error(vm));
    init_drives(&image);
    for (uint32_t i = 0; i < cpus; i++) {
        struct virtx_vcpu *vcpu;

        if (virtx_vcpu_create(vm, i, &vcpu))
            return failed("virtx_vcpu_create", virtx_vm_last_error(vm));
        if (i == 0)
            first = vcpu;
        if (cpus_add(&board, vcpu) || (i == 0 && set_start(vcpu, &start)))
            return failed("set-up", virtx_vcpu_last_error(vcpu));
    }
    if (bare_option("paging") && after(bare_option("paging"), "exchange"))
        cpus_exchange(vm, 200);
    for (uint64_t left = bare_option_u64("reboots", 0);; left--) {
        how = cpus_run(virtx, &board);
        if (!left || !is_reset(&how))
            break;
        if (board_reset(&board) || cpus_reset())
            return finish("error", 0, "the machine cannot be reset");
        why = image.firmware.data ? NULL : load(&ram, &image, (unsigned)cpus, &start);
        if (!why && !image.firmware.data && add_slots(vm, &ram, GUEST_FIRMWARE))
            why = "the memory's content cannot be replaced";
        if (why || set_start(first, &start))
            return finish("error", 0, why ? why : "the guest cannot be started again");
    }
    if (how.error)
        failed(how.outcome, how.error);
    else
        finish(how.outcome, how.value, how.why);
    if (bare_option("stats"))
        print_stats(vm);
    if (cpus_exchanges())
        bare_printf("stats: paging engine exchanged %lu times\n", cpus_exchanges());
    return 0;
}
