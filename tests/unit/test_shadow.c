/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Shadow paging audited: random and adversarial guests, which edit their tables, change modes and
 * address spaces, and access memory; after every operation the answer is compared with the
 * reference walker's, and the engine's tables are looked at as a whole every so often.
 */
#include "shadow_world.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How many in all; the first argument says. */
static uint64_t operations = 1000000;

/* Frames that hold tables; random entries lead there often, so that tables map themselves. */
enum {
    TABLES = 24,
    PIPE = 30 /* frame of the tables that map all memory for the guest's writes */
};

/* Most of them in low memory; the last lie in the slot that comes and goes, where large leaves are.
 */
static uint64_t table_frame(unsigned n)
{
    return n < TABLES - 6 ? n : HIGH / PAGE + (n - (TABLES - 6)) * 97;
}

static unsigned cpu;
static enum virtx_table_sync sync_policy;
static bool high = true, logging; /* the slot at HIGH */
static uint32_t high_rights = 7;
static uint64_t quick_toggles;
static uint64_t touched; /* operations that changed something, for a test that must not be idle */

/* ---- The guest's registers ---- */

enum format { UNPAGED, TWO_LEVEL, PAE, FOUR_LEVEL, FORMATS };
static const char *const format_names[] = {"unpaged", "32-bit", "PAE", "4-level"};
static enum format format;

static void changed(bool mode_changed)
{
    virtx_paging_shadow.control_changed(&world.vcpu[cpu], 0, 0, 0);
    world.hv[cpu].work |= HW_WORK_ROOT;
    if (mode_changed)
        world.hv[cpu].flush |= HW_FLUSH_TAG; /* as src/hw does for CR0 and CR4 */
    world_enter(cpu);
}

/* MOV to CR3 as src/hw/quick.c has it; the long way, where the engine wants that. */
static void cr3_loaded(void)
{
    struct hw_vcpu *hv = &world.hv[cpu];
    uint64_t root = 0;

    if (format == FOUR_LEVEL && !(hv->work & HW_WORK_ROOT))
        root = virtx_paging_shadow.load_cr3(&world.vcpu[cpu], world.mode[cpu].cr3);
    if (!root) {
        changed(false);
        return;
    }
    world.root[cpu] = root;
    world_enter(cpu);
}

static void load_root(uint64_t frame)
{
    struct walk_mode *mode = &world.mode[cpu];

    mode->cr3 = frame * PAGE;
    if (format == PAE)
        for (unsigned i = 0; i < 4; i++) {
            memcpy(&mode->pdpte[i], world_ram(frame * PAGE) + 8 * i, 8);
            /* A processor refuses others. */
            mode->pdpte[i] &= mode->pdpte[i] & 1 ? 0x000000fffffff001ull : 0;
        }
}

static void set_format(enum format to)
{
    struct walk_mode *mode = &world.mode[cpu];

    format = to;
    mode->cr0 = CR0_PE | (to != UNPAGED ? CR0_PG : 0) | (mode->cr0 & CR0_WP);
    mode->cr4 = (mode->cr4 & ~CR4_PAE) | (to >= PAE ? CR4_PAE : 0);
    mode->efer = (mode->efer & EFER_NXE) | (to == FOUR_LEVEL ? EFER_LMA | EFER_LME : 0);
    if (to != FOUR_LEVEL)
        mode->cr4 &= ~CR4_PKE;
}

/* CR0.WP or CR4.PGE as src/hw/quick.c has them: flushed is what the engine owes. */
static void toggled(unsigned reg)
{
    struct hw_vcpu *hv = &world.hv[cpu];
    uint64_t root = 0;

    if (format == FOUR_LEVEL && !(hv->work & HW_WORK_ROOT))
        root = virtx_paging_shadow.toggle(&world.vcpu[cpu], reg,
                                          reg ? world.mode[cpu].cr4 : world.mode[cpu].cr0);
    if (!root) {
        changed(true);
        return;
    }
    quick_toggles++;
    world.root[cpu] = root;
    world_enter(cpu);
    world_audit_tlb(cpu, WORLD_ALL);
}

/* Some other mode of the processor. */
static void change_mode(void)
{
    struct walk_mode *mode = &world.mode[cpu];

    switch (world_below(12)) {
    case 0:
        mode->cr0 ^= CR0_WP;
        toggled(0);
        world_audit_fresh(cpu);
        return;
    case 1:
        mode->efer ^= EFER_NXE;
        break;
    case 2:
        mode->cr4 ^= CR4_SMEP;
        break;
    case 3:
        mode->cr4 ^= CR4_SMAP;
        break;
    case 4:
        mode->cr4 ^= CR4_PSE;
        break;
    case 5:
        if (format == FOUR_LEVEL)
            mode->cr4 ^= CR4_PKE;
        break;
    case 6:
        mode->pkru = (uint32_t)world_random() & (uint32_t)world_random();
        break;
    case 7:
        mode->cr4 ^= CR4_PGE;
        toggled(4);
        world_audit_fresh(cpu);
        return;
    default: /* what guests have most of the time */
        mode->cr0 |= CR0_WP;
        mode->cr4 &= ~(CR4_SMAP | CR4_PKE);
        break;
    }
    changed(true);
    world_audit_fresh(cpu);
}

/* ---- The guest's tables ---- */

static unsigned entry_bytes(void)
{
    return format == TWO_LEVEL ? 4 : 8;
}

/* An entry as an operating system or its enemy would write it. */
static uint64_t random_entry(void)
{
    static const uint64_t often[] = {0x7, 0x67, 0x27, 0x25, 0x63, 0x3, 0x5, 0x87, 0xe7, 0xe3};
    uint64_t entry = often[world_below(10)], frame;

    switch (world_below(16)) {
    case 0:
        return 0;
    case 1:
        frame = world_below(RAM_PAGES);
        break;
    case 2:
        frame = HIGH / PAGE + world_below(HIGH_PAGES);
        break;
    case 3:
        frame = HIGH / PAGE + 512 * world_below(2); /* as a large page needs it */
        break;
    case 4:
        frame = 0x80000 + world_below(16); /* a device */
        break;
    case 5:
        frame = ROM_PAGE;
        break;
    default:
        frame = table_frame(world_below(TABLES));
        break;
    }
    entry |= frame << 12;
    if (world_below(8) == 0)
        entry ^= BIT(world_below(12));
    if (format == TWO_LEVEL)
        return (uint32_t)entry;
    if (world_below(16) == 0)
        entry |= BIT(63);
    if (world_below(64) == 0)
        entry |= BIT(52 + world_below(11));
    if (world_below(256) == 0)
        entry |= BIT(40 + world_below(12));
    return entry;
}

static const unsigned few[] = {0, 1, 2, 3, 256, 511};

static unsigned random_index(void)
{
    unsigned count = format == TWO_LEVEL ? 1024 : 512;

    return world_below(32) ? few[world_below(6)] % count : world_below(count);
}

/* The library, or a device, has written. The TLB may have what was there before, until the guest
 * flushes it: it keeps that sometimes. */
static void told(uint64_t gpa, uint64_t bytes)
{
    virtx_paging_shadow.written(&world.vm, gpa, bytes);
    world.stale = true;
    if (world_below(4))
        world_forget(cpu);
}

/* Linear addresses that meet the entries above. */
static uint64_t random_gva(void)
{
    uint64_t gva = world_below(4096);

    switch (format) {
    case UNPAGED:
        switch (world_below(4)) {
        case 0:
            return HIGH + world_below(HIGH_PAGES) * PAGE + gva;
        case 1:
            return (uint32_t)world_random();
        default:
            return world_below(RAM_PAGES) * PAGE + gva;
        }
    case TWO_LEVEL:
        gva |= (uint64_t)random_index() << 22 | (uint64_t)random_index() << 12;
        return (uint32_t)gva;
    case PAE:
        gva |= (uint64_t)world_below(4) << 30 | (uint64_t)random_index() << 21 |
               (uint64_t)random_index() << 12;
        return (uint32_t)gva;
    default:
        gva |= (uint64_t)random_index() << 39 | (uint64_t)random_index() << 30 |
               (uint64_t)random_index() << 21 | (uint64_t)random_index() << 12;
        return (uint64_t)((int64_t)(gva << 16) >> 16);
    }
}

static uint64_t known_gva[256];

static uint64_t some_gva(void)
{
    uint64_t *at = &known_gva[world_below(256)];

    if (world_below(8) == 0)
        *at = random_gva();
    return format == FOUR_LEVEL ? *at : (uint32_t)*at;
}

/* ---- Operations ---- */

static struct ref_access random_access(void)
{
    unsigned kind = world_below(8);

    return (struct ref_access){.write = kind < 3, .fetch = kind == 3, .cpl3 = world_below(2)};
}

/* A table on the way is behind the guest's, as a TLB may be. */
static bool may_be_old(uint64_t gva)
{
    const struct shadow_page *page = shadow_vcpu_of(&world.vcpu[cpu])->root;

    for (unsigned level = page->role & ROLE_LEVEL;; level--) {
        unsigned index = shadow_index(gva, level) & (page->role & ROLE_ROOT ? 3 : 511);

        if (page->unsync)
            return true;
        if (!shadow_maps(page->entry[index]) || shadow_is_leaf(page->entry[index], level))
            return false;
        page = page->child[index];
    }
}

static void access_at(uint64_t gva)
{
    struct ref_access access = random_access();
    uint64_t hpa;
    enum outcome outcome = world_access(cpu, gva, &access, &hpa);
    struct ref_result guest = world_guest(cpu, gva, &access);
    bool rom = false, old = world.vm.vcpu_count > 1 || world.stale || may_be_old(gva);

    touched += outcome == DONE;
    switch (outcome) {
    case DONE:
        if (old)
            break;
        EXPECT(guest.kind == REF_OK);
        EXPECT(hpa == world_hpa(guest.address));
        for (unsigned i = 0; i < guest.count; i++) {
            if (guest.entry[i].address / PAGE == ROM_PAGE)
                continue;
            EXPECT(guest.entry[i].value & 0x20);
            EXPECT(!access.write || i + 1 < guest.count || (guest.entry[i].value & 0x40));
        }
        break;
    case DEVICE:
        if (old)
            break;
        EXPECT(guest.kind == REF_OK);
        EXPECT(guest.address == hpa);
        EXPECT(!world_is_memory(hpa));
        break;
    case REFUSED:
        for (unsigned i = 0; i < guest.count; i++) /* a flag that cannot be set */
            rom |= guest.entry[i].address / PAGE == ROM_PAGE ||
                   (guest.entry[i].address >= HIGH && !(high_rights & VIRTX_WRITE));
        EXPECT(guest.kind == REF_NO_MEMORY || rom ||
               (guest.kind == REF_OK && (access.write || access.fetch)));
        break;
    case EXECUTED:
        EXPECT(guest.kind == REF_OK && access.write);
        EXPECT((!access.cpl3 && !(world.mode[cpu].cr0 & CR0_WP)) ||
               (sync_policy != VIRTX_TABLE_SYNC_DROP && world.executes &&
                shadow_table_find(shadow_vm_of(&world.vm), guest.address / PAGE)));
        break;
    default:
        break;
    }
}

/* The library writes for the guest. */
static void execute(uint64_t gpa, uint64_t value, unsigned bytes)
{
    memcpy(world_ram(gpa), &value, bytes);
    told(gpa, bytes);
    touched++;
}

/* The guest writes a table entry through a linear address that leads there; if it has none, the
 * host does it for it (as src/insn does, or a device). */
static void write_entry(void)
{
    uint64_t frame = table_frame(world_below(TABLES)), value = random_entry();
    unsigned bytes = entry_bytes();
    uint64_t gpa = frame * PAGE + random_index() * bytes;
    struct ref_access access = {.write = true};

    if (world_below(64) == 0)
        gpa += world_below(4) * 2; /* across two entries, but within the page */
    if (gpa % PAGE + bytes > PAGE)
        gpa -= bytes;
    for (unsigned n = 0; n < 6; n++) {
        uint64_t gva = some_gva(), hpa;
        struct ref_result guest;

        gva = (gva & ~0xfffull) | (gpa & 0xfff);
        guest = world_guest(cpu, gva, &access);
        if (guest.kind != REF_OK || guest.address != gpa)
            continue;
        switch (world_access(cpu, gva, &access, &hpa)) {
        case DONE:
            if (hpa != world_hpa(gpa))
                continue;
            memcpy(world_ram(gpa), &value, bytes);
            touched++;
            return;
        case EXECUTED:
            execute(gpa, value, bytes);
            return;
        default:
            break;
        }
    }
    memcpy(world_ram(gpa), &value, bytes);
    told(gpa, bytes);
}

/* Through a mapping that is always there: tables of their own, which random edits leave alone. */
static uint64_t pipe_gva(uint64_t gpa)
{
    uint64_t offset = gpa < HIGH ? gpa : 512 * PAGE + (gpa - HIGH);

    switch (format) {
    case TWO_LEVEL:
    case PAE:
        return 0xa0000000u + offset;
    case FOUR_LEVEL:
        return 0xffffc00000000000ull + offset;
    default:
        return gpa;
    }
}

static void link_pipe(uint64_t root)
{
    uint8_t *table = world_ram(PIPE * PAGE);
    uint64_t entry;

    memset(table, 0, 4 * PAGE);
    if (format == TWO_LEVEL) {
        for (uint32_t i = 0; i < RAM_PAGES; i++) {
            uint32_t pte = (i < 512 ? i * 4096u : (uint32_t)HIGH + (i - 512) * 4096u) | 3;

            memcpy(table + 4 * i, &pte, 4);
        }
        entry = PIPE * PAGE | 3;
        memcpy(world_ram(root * PAGE) + 4 * (0xa0000000u >> 22), &entry, 4);
        told(root * PAGE, PAGE);
    } else {
        for (uint64_t i = 0; i < RAM_PAGES; i++) {
            /* Two tables: of low memory, and the whole slot at HIGH behind it. */
            entry = (i < 512 ? i * PAGE : HIGH + (i - 512) * PAGE) | 3;
            memcpy(table + 8 * i, &entry, 8);
        }
        for (unsigned i = 0; i < 2; i++) {
            entry = (PIPE + i) * PAGE | 3;
            memcpy(table + 2 * PAGE + 8 * ((format == PAE ? 256 : 0) + i), &entry, 8);
        }
        if (format == PAE) {
            entry = (PIPE + 2) * PAGE | 1;
            memcpy(world_ram(root * PAGE) + 16, &entry, 8);
        } else {
            entry = (PIPE + 2) * PAGE | 3;
            memcpy(table + 3 * PAGE, &entry, 8);
            entry = (PIPE + 3) * PAGE | 3;
            memcpy(world_ram(root * PAGE) + 8 * 384, &entry, 8);
        }
        told(root * PAGE, PAGE);
    }
    told(PIPE * PAGE, 4 * PAGE);
}

/* The guest's kernel writes an entry by its own map of memory. */
static void write_at(uint64_t gpa, uint64_t value)
{
    unsigned bytes = entry_bytes();
    uint64_t hpa;
    struct ref_access access = {.write = true};
    struct ref_result guest = world_guest(cpu, pipe_gva(gpa), &access);

    if (guest.kind != REF_OK || guest.address != gpa)
        return; /* an edit has destroyed it */
    switch (world_access(cpu, pipe_gva(gpa), &access, &hpa)) {
    case DONE:
        if (hpa != world_hpa(gpa))
            break;
        memcpy(world_ram(gpa), &value, bytes);
        touched++;
        break;
    case EXECUTED:
        execute(gpa, value, bytes);
        break;
    default:
        break;
    }
}

static void write_by_pipe(void)
{
    write_at(table_frame(world_below(TABLES)) * PAGE + random_index() * entry_bytes(),
             random_entry());
}

static void invlpg(uint64_t gva)
{
    virtx_paging_shadow.invlpg(&world.vcpu[cpu], gva);
    world_enter(cpu);
    world_audit_tlb(cpu, gva);
    for (unsigned kind = 0; kind < 8; kind++) {
        struct ref_access access = {.write = kind & 1, .fetch = kind >> 1 & 1, .cpl3 = kind >> 2};
        struct ref_result host, guest;

        if (access.write && access.fetch)
            continue;
        host = world_processor(cpu, gva, &access);
        guest = world_guest(cpu, gva, &access);
        if (host.kind == REF_OK)
            EXPECT(guest.kind == REF_OK && host.address == world_hpa(guest.address));
    }
    /* What leads there may have to be linked again first, which a neighbour does. */
    if (world_below(2)) {
        const struct ref_access read = {0};
        uint64_t hpa;

        world_access(cpu, gva ^ PAGE, &read, &hpa);
        if (world_access(cpu, gva, &read, &hpa) == DONE) {
            struct ref_result guest = world_guest(cpu, gva, &read);

            EXPECT(guest.kind == REF_OK && hpa == world_hpa(guest.address));
        }
    }
}

static void switch_space(void)
{
    load_root(world_below(4));
    if (world_below(4) == 0)
        link_pipe(world.mode[cpu].cr3 / PAGE);
    cr3_loaded();
    world_audit_tlb(cpu, WORLD_ALL);
    if (world_below(4) == 0)
        world_audit_fresh(cpu);
}

static void change_slots(void)
{
    enum virtx_memory_change change = VIRTX_MEMORY_WIDENED;

    switch (world_below(4)) {
    case 0:
        high = !high;
        change = high ? VIRTX_MEMORY_ADDED : VIRTX_MEMORY_REMOVED;
        break;
    case 1:
        high_rights = high_rights == 7 ? 5 : high_rights == 5 ? 1 : 7;
        change = high_rights == 7 ? VIRTX_MEMORY_WIDENED : VIRTX_MEMORY_NARROWED;
        break;
    case 2:
        logging = !logging;
        change = logging ? VIRTX_MEMORY_NARROWED : VIRTX_MEMORY_WIDENED;
        memset(world.log, 0, sizeof(world.log));
        break;
    default:
        change = VIRTX_MEMORY_MOVED;
        break;
    }
    world_slots(high, high_rights, logging);
    if (high || change == VIRTX_MEMORY_REMOVED)
        virtx_paging_shadow.memory(&world.vm, HIGH, HIGH_PAGES * PAGE, change);
    virtx_generation_next(&world.vm);
    for (unsigned i = 0; i < world.vm.vcpu_count; i++)
        world_enter(i);
}

static void collect_log(void)
{
    if (!logging)
        return;
    memset(world.log, 0, sizeof(world.log));
    virtx_paging_shadow.collect_dirty(&world.vm, HIGH, HIGH_PAGES * PAGE);
    virtx_generation_next(&world.vm);
    for (unsigned i = 0; i < world.vm.vcpu_count; i++)
        world_enter(i);
}

static void fill_tables(void)
{
    for (unsigned frame = 0; frame < TABLES; frame++)
        for (unsigned i = 0; i < 6; i++) {
            uint64_t value = random_entry();

            memcpy(world_ram(table_frame(frame) * PAGE) + few[i] * entry_bytes(), &value,
                   entry_bytes());
        }
    told(0, TABLES * PAGE);
    told(HIGH, HIGH_PAGES * PAGE);
    for (unsigned i = 0; i < 256; i++)
        known_gva[i] = random_gva();
}

static void new_format(enum format to)
{
    set_format(to);
    fill_tables();
    load_root(world_below(4));
    if (to != UNPAGED)
        link_pipe(world.mode[cpu].cr3 / PAGE);
    if (to == PAE)
        load_root(world.mode[cpu].cr3 / PAGE);
    changed(true);
    world_audit_fresh(cpu);
}

/* What operating systems do: change the last entry of an address, flush it, use it. */
static void edit_and_use(void)
{
    uint64_t gva = some_gva(), value = random_entry();
    struct ref_access access = {0};
    struct ref_result guest = world_guest(cpu, gva, &access);
    const struct ref_entry *last;

    if (guest.count == 0)
        return;
    last = &guest.entry[guest.count - 1];
    if (world_below(4)) /* other flags only */
        value = (last->value & ~0xfffull) | (value & 0xfff) | (world_below(2) ? 0 : value & 63);
    write_at(last->address, value);
    if (world_below(2))
        invlpg(gva);
    for (unsigned i = 0; i < 3; i++)
        access_at(gva);
}

static void operation(void)
{
    unsigned what = world_below(1000);

    world.operations++;
    world.executes = world_below(8);
    if (world_below(256) == 0) /* the tables here are small, and so is what flushes waste on them */
        shadow_vm_of(&world.vm)->vain_max = world_below(4) ? 4 : SHADOW_VAIN;
    cpu = world.vm.vcpu_count > 1 ? world_below(world.vm.vcpu_count) : 0;
    if (what < 500)
        access_at(some_gva());
    else if (what < 680)
        edit_and_use();
    else if (what < 780)
        write_by_pipe();
    else if (what < 880)
        write_entry();
    else if (what < 940)
        invlpg(some_gva());
    else if (what < 980)
        switch_space();
    else if (what < 990)
        change_mode();
    else if (what < 994)
        change_slots();
    else
        collect_log();
}

static void audit_run(uint64_t count, unsigned audit_every)
{
    for (uint64_t n = 0; n < count; n++) {
        operation();
        if (n % audit_every == 0)
            world_audit();
    }
    world_audit();
}

/* Whether the processor has the filter for page faults; every other test asks for it. */
static bool filter = true;

static void begin(unsigned vcpus, uint64_t pool, unsigned physical_bits)
{
    high = true;
    logging = false;
    high_rights = 7;
    touched = 0;
    quick_toggles = 0;
    world_begin(vcpus, pool, physical_bits, filter, sync_policy);
}

START_TEST(test_random)
{
    begin(1, POOL_PAGES, 46);
    cpu = 0;
    set_format((enum format)_i);
    new_format((enum format)_i);
    audit_run(operations / FORMATS / 2, 509);
    printf("%s: %llu operations, %llu faults, %llu reflected, %llu direct, %llu devices, %llu "
           "executed, %u tables\n",
           format_names[_i], (unsigned long long)world.operations, (unsigned long long)world.faults,
           (unsigned long long)world.reflected, (unsigned long long)world.direct,
           (unsigned long long)world.devices, (unsigned long long)world.executed,
           shadow_vm_of(&world.vm)->tables);
    EXPECT(format == FOUR_LEVEL ? world.direct > world.operations / 100 : !world.direct);
    EXPECT(touched > world.operations / 100);
    EXPECT(format == UNPAGED || world.executed > world.operations / 100);
    EXPECT(format != FOUR_LEVEL || quick_toggles > world.operations / 5000);
    world_end();
}
END_TEST

/* All formats in one machine, with tables of one kept while another is in use. */
START_TEST(test_mixed)
{
    begin(1, POOL_PAGES, 46);
    cpu = 0;
    for (unsigned round = 0; round < 64; round++) {
        new_format((enum format)world_below(FORMATS));
        audit_run(operations / 4 / 64, 251);
    }
    world_end();
}
END_TEST

/* The other ways to keep up with the guest's writes to its tables. */
START_TEST(test_policies)
{
    sync_policy = (enum virtx_table_sync)_i;
    begin(_i & 1 ? 2 : 1, POOL_PAGES, 46);
    cpu = 0;
    for (unsigned round = 0; round < 16; round++) {
        for (cpu = 0; cpu < world.vm.vcpu_count; cpu++)
            new_format((enum format)(world.vm.vcpu_count > 1 ? FOUR_LEVEL : world_below(FORMATS)));
        cpu = 0;
        audit_run(operations / 4 / 16, 251);
    }
    EXPECT(touched > world.operations / 100);
    EXPECT(sync_policy == VIRTX_TABLE_SYNC_EACH_WRITE ? world.executed > world.operations / 100
                                                      : 1);
    world_end();
}
END_TEST

/* A processor that has no filter, as SVM. */
START_TEST(test_all_faults_exit)
{
    filter = false;
    begin(1, POOL_PAGES, 46);
    cpu = 0;
    for (unsigned round = 0; round < 8; round++) {
        new_format((enum format)world_below(FORMATS));
        audit_run(operations / 8 / 8, 251);
    }
    EXPECT(world.direct == 0);
    world_end();
}
END_TEST

/* A bound that holds a few address spaces: pages are evicted all the time. */
START_TEST(test_little_memory)
{
    begin(1, 96, 46);
    cpu = 0;
    for (unsigned round = 0; round < 16; round++) {
        new_format((enum format)world_below(FORMATS));
        audit_run(operations / 8 / 16, 127);
        EXPECT(world.pool_used <= 96);
    }
    world_end();
}
END_TEST

/* Without reserved address bits devices are marked by entries that are not present. */
START_TEST(test_no_reserved_bits)
{
    begin(1, POOL_PAGES, 52);
    cpu = 0;
    for (unsigned round = 0; round < 8; round++) {
        new_format((enum format)world_below(FORMATS));
        audit_run(operations / 16 / 8, 251);
    }
    EXPECT(world.devices > 100);
    world_end();
}
END_TEST

/* Two vcpus of one machine, each with its own registers. */
START_TEST(test_two_vcpus)
{
    begin(2, 256, 46);
    for (unsigned round = 0; round < 16; round++) {
        for (cpu = 0; cpu < 2; cpu++)
            new_format(FOUR_LEVEL);
        audit_run(operations / 4 / 16, 127);
    }
    world_end();
}
END_TEST

static void entry(uint64_t frame, unsigned index, uint64_t to)
{
    uint64_t value = to ? to * PAGE | 0x67 : 0;

    memcpy(world_ram(frame * PAGE) + 8 * index, &value, 8);
}

/* The engine remembers how it came to a table; what makes that void without a change of the root or
 * the slots. */
START_TEST(test_way)
{
    const struct ref_access read = {0};
    struct shadow_vm *sv;
    uint64_t hpa;

    filter = false; /* with it, tables that lead to no page are shadowed too */
    begin(1, POOL_PAGES, 46);
    cpu = 0;
    sv = shadow_vm_of(&world.vm);
    set_format(FOUR_LEVEL);
    world.mode[0].cr0 |= CR0_WP;
    world.mode[0].cr4 &= ~(CR4_SMAP | CR4_PKE);
    for (uint64_t frame = 10; frame < 30; frame++)
        memset(world_ram(frame * PAGE), 0, PAGE);
    entry(10, 0, 11);
    entry(11, 0, 12);
    entry(12, 0, 13);
    entry(21, 0, 22);
    entry(22, 2, 31);
    world.mode[0].cr3 = 10 * PAGE;
    changed(true);
    /* Through tables that are not shadowed yet, to another one with the guest's next flush. */
    ck_assert_int_eq(world_access(0, 2 * PAGE, &read, &hpa), FAULTED);
    entry(11, 0, 21);
    entry(21, 0, 22);
    cr3_loaded();
    ck_assert_int_eq(world_access(0, 2 * PAGE, &read, &hpa), DONE);
    ck_assert_uint_eq(hpa, world_hpa(31 * PAGE));
    /* To a table of ours that is evicted, found by way of a fault elsewhere. */
    ck_assert_int_eq(world_access(0, 1ull << 30, &read, &hpa), FAULTED);
    ck_assert_int_eq(world_access(0, 3 * PAGE, &read, &hpa), FAULTED);
    shadow_page_drop(sv, shadow_table_find(sv, 22));
    shadow_settle(sv);
    entry(22, 3, 32);
    ck_assert_int_eq(world_access(0, 3 * PAGE, &read, &hpa), DONE);
    ck_assert_uint_eq(hpa, world_hpa(32 * PAGE));
    world_audit();
    world_end();
}
END_TEST

/* Bit 8 of a PML4E, which AMD reserves and Intel ignores, appears in an entry that is in use. */
START_TEST(test_pml4e_bit_8)
{
    const struct ref_access read = {0};
    uint64_t hpa;

    filter = _i;
    begin(1, POOL_PAGES, 46);
    cpu = 0;
    set_format(FOUR_LEVEL);
    world.mode[0].cr0 |= CR0_WP;
    world.mode[0].cr4 &= ~(CR4_SMAP | CR4_PKE);
    ck_assert(world.mode[0].amd == !_i);
    for (uint64_t frame = 10; frame < 30; frame++)
        memset(world_ram(frame * PAGE), 0, PAGE);
    entry(10, 0, 11);
    entry(11, 0, 12);
    entry(12, 0, 13);
    entry(13, 2, 31);
    world.mode[0].cr3 = 10 * PAGE;
    changed(true);
    ck_assert_int_eq(world_access(0, 2 * PAGE, &read, &hpa), DONE);
    world_ram(10 * PAGE)[1] |= 1;
    virtx_paging_shadow.written(&world.vm, 10 * PAGE, 8);
    cr3_loaded();
    ck_assert_int_eq(world_access(0, 2 * PAGE, &read, &hpa), _i ? DONE : FAULTED);
    world_ram(10 * PAGE)[1] &= 0xfe;
    virtx_paging_shadow.written(&world.vm, 10 * PAGE, 8);
    cr3_loaded();
    ck_assert_int_eq(world_access(0, 2 * PAGE, &read, &hpa), DONE);
    ck_assert_uint_eq(hpa, world_hpa(31 * PAGE));
    world_audit();
    world_end();
    filter = false;
}
END_TEST

/* An instruction that is fetched by way of the table it writes comes to its end. */
START_TEST(test_fetched_by_what_it_writes)
{
    const struct ref_access write = {.write = true}, fetch = {.fetch = true};
    bool done = false;
    uint64_t hpa;

    sync_policy = (enum virtx_table_sync)_i;
    begin(1, POOL_PAGES, 46);
    world.executes = false;
    cpu = 0;
    set_format(FOUR_LEVEL);
    world.mode[0].cr0 |= CR0_WP;
    world.mode[0].cr4 &= ~(CR4_SMAP | CR4_PKE);
    for (uint64_t frame = 10; frame < 30; frame++)
        memset(world_ram(frame * PAGE), 0, PAGE);
    entry(10, 0, 11);
    entry(11, 0, 12);
    entry(12, 0, 13); /* of the code */
    entry(12, 1, 14); /* by which the other is written */
    entry(13, 0, 40);
    entry(14, 0, 13);
    world.mode[0].cr3 = 10 * PAGE;
    changed(true);
    for (unsigned tries = 0; tries < 8 && !done; tries++) {
        ck_assert_int_eq(world_access(0, 0, &fetch, &hpa), DONE);
        ck_assert_int_eq(world_access(0, 512 * PAGE, &write, &hpa), DONE);
        done = world_processor(0, 0, &fetch).kind == REF_OK;
    }
    EXPECT(done);
    world_audit();
    world_end();
}
END_TEST

/* A page table that the guest's flush did not look at, as no root in use led to it, and then one
 * does. */
START_TEST(test_put_off)
{
    const struct ref_access read = {0};
    uint64_t hpa;

    begin(1, POOL_PAGES, 46);
    cpu = 0;
    set_format(FOUR_LEVEL);
    for (uint64_t frame = 10; frame < 50; frame++)
        memset(world_ram(frame * PAGE), 0, PAGE);
    entry(10, 0, 11);
    entry(11, 0, 12);
    entry(12, 0, 13);
    entry(13, 0, 30);
    entry(13, 9, 32);
    world.mode[0].cr3 = 10 * PAGE;
    changed(true);
    ck_assert_int_eq(world_access(0, 0, &read, &hpa), DONE);
    ck_assert_uint_eq(hpa, world_hpa(30 * PAGE));
    world.mode[0].cr3 = 45 * PAGE;
    changed(false);
    entry(13, 0, 31);
    virtx_paging_shadow.written(&world.vm, 13 * PAGE, 8);
    cr3_loaded();
    EXPECT(shadow_vm_of(&world.vm)->put_off);
    entry(45, 0, 11);
    virtx_paging_shadow.written(&world.vm, 45 * PAGE, 8);
    ck_assert_int_eq(world_access(0, 9 * PAGE, &read, &hpa), DONE); /* links the tables */
    ck_assert_int_eq(world_access(0, 0, &read, &hpa), DONE);
    ck_assert_uint_eq(hpa, world_hpa(31 * PAGE));
    world_audit();
    world_end();
}
END_TEST

/* The same for INVLPG: in PAE format no table is linked after a load of CR3, and in the other the
 * new root is empty. */
START_TEST(test_invlpg_before_the_link)
{
    const struct ref_access read = {0};
    uint64_t hpa;

    begin(1, POOL_PAGES, 46);
    cpu = 0;
    set_format(_i ? FOUR_LEVEL : PAE);
    for (uint64_t frame = 10; frame < 50; frame++)
        memset(world_ram(frame * PAGE), 0, PAGE);
    entry(10, 0, 11);
    entry(45, 0, 11);
    entry(11, 0, 12);
    entry(12, 0, 13);
    entry(13, 0, 30);
    entry(13, 9, 32);
    if (!_i) { /* four entries, without rights */
        memcpy(world_ram(10 * PAGE), &(uint64_t){12 * PAGE | 1}, 8);
        memcpy(world_ram(45 * PAGE), &(uint64_t){12 * PAGE | 1}, 8);
    }
    load_root(10);
    changed(true);
    ck_assert_int_eq(world_access(0, 0, &read, &hpa), DONE);
    ck_assert_uint_eq(hpa, world_hpa(30 * PAGE));
    load_root(45);
    cr3_loaded();
    entry(13, 0, 31);
    virtx_paging_shadow.written(&world.vm, 13 * PAGE, 8);
    virtx_paging_shadow.invlpg(&world.vcpu[0], 0);
    ck_assert_int_eq(world_access(0, 9 * PAGE, &read, &hpa), DONE); /* links the tables */
    ck_assert_int_eq(world_access(0, 0, &read, &hpa), DONE);
    ck_assert_uint_eq(hpa, world_hpa(31 * PAGE));
    world_audit();
    world_end();
}
END_TEST

/* What a page's alias has shown the engine is flushed with the other: under SMAP a page that users
 * gain is lost to the kernel. */
START_TEST(test_alias_gains_user)
{
    const struct ref_access read = {0}, user = {.cpl3 = true};
    uint64_t hpa, pte = 40 * PAGE | 0x63;

    begin(1, POOL_PAGES, 46);
    cpu = 0;
    set_format(FOUR_LEVEL);
    world.mode[0].cr0 |= CR0_WP;
    world.mode[0].cr4 &= ~CR4_PKE;
    world.mode[0].cr4 |= CR4_SMAP;
    for (uint64_t frame = 10; frame < 30; frame++)
        memset(world_ram(frame * PAGE), 0, PAGE);
    entry(10, 0, 11);
    entry(11, 0, 12);
    entry(12, 0, 13);
    entry(12, 1, 13);
    memcpy(world_ram(13 * PAGE), &pte, 8);
    world.mode[0].cr3 = 10 * PAGE;
    changed(true);
    ck_assert_int_eq(world_access(0, 0, &read, &hpa), DONE);
    entry(13, 0, 40);
    virtx_paging_shadow.written(&world.vm, 13 * PAGE, 8);
    ck_assert_int_eq(world_access(0, 512 * PAGE, &user, &hpa), DONE);
    cr3_loaded();
    world_audit_tlb(0, WORLD_ALL);
    ck_assert_int_eq(world_access(0, 0, &read, &hpa), FAULTED);
    world_audit();
    world_end();
}
END_TEST

/* With two vcpus a table that is left alone is in sync again some time. */
START_TEST(test_rounds)
{
    const struct ref_access write = {.write = true};
    struct shadow_vm *sv;
    unsigned behind = 0;
    uint64_t hpa;

    begin(2, POOL_PAGES, 46);
    sv = shadow_vm_of(&world.vm);
    memset(world_ram(10 * PAGE), 0, 100 * PAGE);
    for (cpu = 0; cpu < 2; cpu++) {
        set_format(FOUR_LEVEL);
        world.mode[cpu].cr0 |= CR0_WP;
        world.mode[cpu].cr4 &= ~(CR4_SMAP | CR4_PKE);
        world.mode[cpu].cr3 = 10 * PAGE;
        changed(true);
    }
    entry(10, 0, 11);
    entry(11, 0, 12);
    for (unsigned i = 0; i < 16; i++) {
        entry(12, i, 100 + i);
        entry(100 + i, 0, 200 + i);
        entry(100 + i, 1, 100 + i); /* by which the guest writes it */
    }
    for (unsigned i = 0; i < 16; i++)
        for (cpu = 0; cpu < 2; cpu++) {
            ck_assert_int_eq(world_access(cpu, i * 512 * PAGE, &write, &hpa), DONE);
            ck_assert_int_eq(world_access(cpu, (i * 512 + 1) * PAGE, &write, &hpa), DONE);
        }
    EXPECT(sv->open >= 16);
    for (unsigned n = 0; n < 40; n++) {
        cpu = n & 1;
        cr3_loaded();
        world_audit();
    }
    for (struct shadow_page *page = sv->oldest; page; page = page->newer)
        behind += page->unsync;
    ck_assert_uint_eq(behind, 0);
    /* And a write is seen. */
    ck_assert_int_eq(world_access(1, 1 * PAGE, &write, &hpa), DONE);
    EXPECT(shadow_table_find(sv, 100)->unsync);
    world_audit();
    world_end();
}
END_TEST

/* A page table that grows by an entry between two flushes stays protected after a while, and its
 * writes are executed; many at once are let through again. */
START_TEST(test_costly)
{
    const struct ref_access read = {0}, write = {.write = true};
    uint64_t hpa, gva = 512ull * 512 * PAGE;
    unsigned let_through = 0;

    begin(1, POOL_PAGES, 46);
    world.executes = true;
    cpu = 0;
    set_format(FOUR_LEVEL);
    world.mode[0].cr0 |= CR0_WP;
    world.mode[0].cr4 &= ~(CR4_SMAP | CR4_PKE);
    memset(world_ram(10 * PAGE), 0, 10 * PAGE);
    world.mode[0].cr3 = 10 * PAGE;
    changed(true);
    entry(10, 0, 11);
    entry(11, 0, 12);
    entry(11, 1, 13);
    entry(13, 0, 15);
    entry(15, 0, 14); /* by which the guest writes the table */
    entry(12, 0, 14);
    for (unsigned i = 0; i < 300; i++)
        entry(14, i, 100 + i);
    for (unsigned i = 0; i < 300; i++)
        ck_assert_int_eq(world_access(0, i * PAGE, &read, &hpa), DONE);
    for (unsigned i = 300; i < 400; i++) {
        if (world_access(0, gva, &write, &hpa) == DONE)
            let_through++;
        entry(14, i, 30);
        told((14 * PAGE) + i * 8, 8);
        ck_assert_int_eq(world_access(0, i * PAGE, &read, &hpa), DONE);
        cr3_loaded();
    }
    EXPECT(let_through > 0 && let_through < 20);
    EXPECT(world.executed > 80);
    let_through = 0;
    for (unsigned i = 0; i < 20; i++) {
        enum outcome outcome = world_access(0, gva + i * 8ull, &write, &hpa);

        let_through += outcome == DONE;
        EXPECT(outcome == (i < 8 ? EXECUTED : DONE));
    }
    EXPECT(let_through == 12);
    world_audit();
    world_end();
}
END_TEST

int main(int argc, char **argv)
{
    Suite *suite = suite_create("shadow");
    TCase *c = tcase_create("audit");
    SRunner *runner;
    int failed;

    if (argc > 1)
        operations = strtoull(argv[1], NULL, 10);
    tcase_set_timeout(c, 0);
    tcase_add_loop_test(c, test_random, 0, FORMATS);
    tcase_add_test(c, test_mixed);
    tcase_add_loop_test(c, test_policies, VIRTX_TABLE_SYNC_EACH_WRITE, VIRTX_TABLE_SYNC_DROP + 1);
    tcase_add_test(c, test_all_faults_exit);
    tcase_add_test(c, test_little_memory);
    tcase_add_test(c, test_no_reserved_bits);
    tcase_add_test(c, test_two_vcpus);
    tcase_add_test(c, test_way);
    tcase_add_loop_test(c, test_pml4e_bit_8, 0, 2);
    tcase_add_test(c, test_put_off);
    tcase_add_loop_test(c, test_invlpg_before_the_link, 0, 2);
    tcase_add_loop_test(c, test_fetched_by_what_it_writes, 0, VIRTX_TABLE_SYNC_DROP + 1);
    tcase_add_test(c, test_alias_gains_user);
    tcase_add_test(c, test_rounds);
    tcase_add_test(c, test_costly);
    suite_add_tcase(suite, c);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
