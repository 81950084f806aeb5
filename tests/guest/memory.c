/* SPDX-License-Identifier: BSD-2-Clause */
/* Guest-physical memory: slots and their rights, holes, logs, and the guest's own tables. */
#include "harness.h"
#include <virtx/paging.h>
#include "memory_forms.h"

enum {
    PAGE = 4096,
    PTE = 7, /* present, writable, user */
    PORT_STEP = 0x520,
};

/* For the guest: the host reaches the slot's memory through machine.ram. */
#define RAM8(offset)  (*(volatile uint8_t *)(uintptr_t)(GUEST_MEMORY + (offset)))
#define RAM64(offset) (*(volatile uint64_t *)(uintptr_t)(GUEST_MEMORY + (offset)))

static uint64_t read64(uint64_t gva)
{
    return *(volatile uint64_t *)(uintptr_t)gva;
}

static void write64(uint64_t gva, uint64_t value)
{
    *(volatile uint64_t *)(uintptr_t)gva = value;
}

static void guest_read64(uint64_t gva)
{
    guest_done(read64(gva));
}

static void guest_write64(uint64_t gva)
{
    write64(gva, 0x1122334455667788);
    guest_done(1);
}

static void guest_fill(uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i += PAGE)
        RAM64(i) = i + 1;
    guest_done(1);
}

/* ---- G1: literally ---- */

static void guest_g1(uint64_t argument)
{
    (void)argument;
    *guest_pte(0x2000) = 0x50000 | PTE;
    guest_invlpg(0x2000);
    guest_done(read64(0x2008));
    guest_done(read64(0x2010));
    guest_done(0);
}

static void g1(void)
{
    machine_open();
    uint64_t *page = bare_pages_alloc(1, 1);
    uint64_t generation = 0;
    struct virtx_memslot *slot = slot_make(machine.vm, 0x50000, page, PAGE, ALL_RIGHTS, 0);

    page[1] = 0x150000;
    page[2] = 0x5678;
    CHECK_EQUAL(GUEST_RESULT(guest_g1, 0), 0x150000);
    CHECK_EQUAL(GUEST_CONTINUE(), 0x5678);
    guest_prepare(guest_g1, 0);
    CHECK_EQUAL(GUEST_CONTINUE(), 0x150000);
    /* The entry cleared: the fault says GPA 0x50000, and where in the page. */
    CHECK_OK(virtx_memslot_remove(slot, &generation));
    if (CHECK(EXPECT_EXIT(VIRTX_EXIT_MMIO))) {
        CHECK_EQUAL(machine.exit->mmio.gpa, 0x50010);
        CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
    }
    CHECK(virtx_vm_settled(machine.vm, generation, true));
    bare_pages_free(page, 1);
}

/* ---- G2, G3: what the guest does with its own tables is its own business ---- */

static volatile uint64_t zero_exits_sum;

static void guest_edits_tables(uint64_t rounds)
{
    uint64_t gva = 0x70000000, *pte = guest_pte(gva), sum = 0;

    RAM64(0) = 1;
    RAM64(PAGE) = 2;
    guest_done(0);
    for (uint64_t i = 0; i < rounds; i++) {
        *pte = (GUEST_MEMORY + (i & 1) * PAGE) | PTE;
        guest_invlpg(gva);
        sum += read64(gva);
        bare_write_cr3(bare_read_cr3());
        *pte = 0;
        guest_invlpg(gva);
        sum += GUEST_TRY("movq (%0), %%rax", : "r"(gva) : "rax", "memory") == 14;
    }
    zero_exits_sum = sum;
    guest_done(1);
}

static void edits_tables(void)
{
    enum { EDITS = 500 };

    machine_open();
    GUEST_RESULT(guest_edits_tables, 2); /* touches all pages once */
    GUEST_CONTINUE();
    GUEST_RESULT(guest_edits_tables, EDITS);
    uint64_t before = guest_exits();
    GUEST_CONTINUE();
    CHECK_EQUAL(zero_exits_sum, EDITS / 2 + EDITS / 2 * 2 + EDITS);
    /* INVLPG and MOV CR3 have no exit with nested paging, nor has the guest's own #PF. */
    if (paging_is_nested())
        CHECK_EQUAL(guest_exits() - before, 1); /* the OUT that ends it */
    else
        bare_printf("  shadow: %lu exits for %u edits\n", guest_exits() - before, 2 * EDITS);
    CHECK_EQUAL(guest_trap.cr2, 0x70000000);
    CHECK_EQUAL(guest_trap.error, 0); /* not present, read, supervisor */
}

/* How shadow paging keeps up with that is a policy, of which the guest sees nothing. */
static void edits_tables_three_ways(void)
{
    enum { EDITS = 500 };
    static const char *const names[] = {"on flush", "each write", "drop"};
    uint64_t exits[3], executed[3];
    bool nested;

    machine_open_library();
    nested = paging_is_nested();
    machine_close();
    if (nested) {
        not_shown("paging is nested");
        return;
    }
    for (unsigned i = 0; i < 3; i++) {
        struct virtx_stats before, after;

        harness_table_sync = (enum virtx_table_sync)i;
        machine_open();
        GUEST_RESULT(guest_edits_tables, EDITS);
        virtx_vcpu_stats(machine.vcpu, &before);
        exits[i] = guest_exits();
        GUEST_CONTINUE();
        exits[i] = guest_exits() - exits[i];
        virtx_vcpu_stats(machine.vcpu, &after);
        executed[i] = after.instructions - before.instructions;
        CHECK_EQUAL(zero_exits_sum, EDITS / 2 + EDITS / 2 * 2 + EDITS);
        bare_printf("  %s: %lu exits and %lu executed writes for %u edits\n", names[i], exits[i],
                    executed[i], 2 * EDITS);
        machine_close();
    }
    CHECK_EQUAL(executed[VIRTX_TABLE_SYNC_ON_FLUSH], 0);
    CHECK_EQUAL(executed[VIRTX_TABLE_SYNC_DROP], 0);
    CHECK(executed[VIRTX_TABLE_SYNC_EACH_WRITE] >= EDITS); /* but those that nobody waits for */
    CHECK(exits[0] != exits[1] && exits[0] != exits[2]);
}

/* ---- The guest's own page faults under shadow paging ---- */

#define ABSENT 0x70000000ul

static void guest_absent(uint64_t n)
{
    uint64_t sum = 0;

    guest_done(0);
    for (uint64_t i = 0; i < n; i++) {
        sum += GUEST_TRY("movq (%0), %%rax", : "r"(ABSENT + 8) : "rax", "memory") == 14;
        sum += guest_trap.error == 0 && guest_trap.cr2 == ABSENT + 8;
        sum += GUEST_TRY("movq %%rax, (%0)", : "r"(ABSENT + 16) : "memory") == 14;
        sum += guest_trap.error == 2 && guest_trap.cr2 == ABSENT + 16;
    }
    zero_exits_sum = sum;
    guest_done(1);
}

/* What makes it present takes effect at once: no INVLPG is needed for that. */
static void guest_present(uint64_t round)
{
    volatile uint64_t *pte = guest_pte(ABSENT);

    zero_exits_sum = GUEST_TRY("movq (%0), %%rax", : "r"(ABSENT) : "rax", "memory") == 14;
    *pte = (GUEST_MEMORY + round * 4096) | 3;
    zero_exits_sum += *(volatile uint64_t *)ABSENT == 0x1000 + round;
    *pte = 0;
    guest_invlpg(ABSENT);
    zero_exits_sum += GUEST_TRY("movq (%0), %%rax", : "r"(ABSENT) : "rax", "memory") == 14;
    guest_done(1);
}

static void own_faults(void)
{
    enum { FAULTS = 300 };
    const uint64_t disable[] = {0, VIRTX_FEATURE_FAULT_FILTER};

    for (unsigned i = 0; i < 2; i++) {
        uint64_t before;

        harness_disable = disable[i];
        machine_open();
        *guest_pte(ABSENT) = 0;
        GUEST_RESULT(guest_absent, 4); /* the first is learnt from */
        GUEST_CONTINUE();
        GUEST_RESULT(guest_absent, FAULTS);
        before = guest_exits();
        GUEST_CONTINUE();
        CHECK_EQUAL(zero_exits_sum, 4 * FAULTS);
        before = guest_exits() - before - 1; /* the OUT */
        if (paging_is_nested() || has_feature(VIRTX_FEATURE_FAULT_FILTER))
            CHECK_EQUAL(before, 0);
        else
            CHECK_EQUAL(before, 2 * FAULTS);
        for (uint64_t round = 0; round < 8; round++) {
            *(uint64_t *)(void *)(machine.ram + round * 4096) = 0x1000 + round;
            GUEST_RESULT(guest_present, round);
            GUEST_CONTINUE();
            CHECK_EQUAL(zero_exits_sum, 3);
        }
        machine_close();
    }
}

static volatile int user_vector;

static void ring3_reads(uint64_t gva)
{
    user_vector = GUEST_TRY("movq (%0), %%rax", : "r"(gva) : "rax", "memory");
}

static void guest_kernel_page(uint64_t argument)
{
    uint64_t gva = 0x70000000;

    (void)argument;
    *guest_pte(gva) = GUEST_MEMORY | 3; /* present, writable, supervisor */
    guest_invlpg(gva);
    guest_ring3(ring3_reads, gva);
    guest_done(guest_trap.error);
}

/* Ring compression: a 64-bit ring 3 that reads a page of its kernel gets #PF. */
static void kernel_page(void)
{
    machine_open();
    CHECK_EQUAL(GUEST_RESULT(guest_kernel_page, 0), 5); /* present, read, user */
    CHECK_EQUAL(user_vector, 14);
    CHECK_EQUAL(guest_trap.cr2, 0x70000000);
}

/* ---- Devices: sizes, forms, straddling ---- */

static uint8_t device[PAGE];

static uint8_t pattern(unsigned i)
{
    return (uint8_t)(0x10 + 7 * i);
}

/* Serves MMIO at GUEST_HOLE from `device` until the guest is done. */
static bool serve_device(unsigned *accesses)
{
    for (;;) {
        if (guest_continue(NULL))
            return true;
        const struct virtx_exit *exit = machine.exit;
        if (!CHECK_EQUAL(exit->reason, VIRTX_EXIT_MMIO)) {
            char text[160];
            describe_exit(text, sizeof(text), exit);
            bare_printf("  exit: %s at 0x%lx; raw 0x%lx\n", text, exit->rip, exit->raw.code);
            return false;
        }
        enum virtx_status status = VIRTX_AGAIN;
        while (status == VIRTX_AGAIN) {
            uint64_t offset = exit->mmio.gpa - GUEST_HOLE;
            if (!CHECK(exit->pending) || !CHECK(offset + exit->mmio.size <= PAGE))
                return false;
            if (exit->mmio.access == VIRTX_WRITE)
                memcpy(device + offset, &exit->mmio.value, exit->mmio.size);
            if (accesses != NULL)
                ++*accesses;
            status = virtx_vcpu_complete(machine.vcpu, device + offset);
        }
        if (!CHECK_OK(status))
            return false;
    }
}

#define DECLARE_FORM(name, undefined, text)                                                        \
    void form_##name(uint64_t base, uint64_t *out);                                                \
    __asm__(".text\nform_" #name ": call form_enter\n" text "\njmp form_leave\n");
FORMS(DECLARE_FORM)

static const struct form {
    const char *name;
    void (*fn)(uint64_t base, uint64_t *out);
    uint64_t undefined;
} forms[] = {
#define LIST_FORM(name, undefined, text) {#name, form_##name, undefined},
    FORMS(LIST_FORM)};

static uint64_t on_ram[8], on_device[8];

static void guest_form(uint64_t index)
{
    forms[index].fn(GUEST_MEMORY, on_ram);
    forms[index].fn(GUEST_HOLE, on_device);
    guest_done(0);
}

static void mmio_forms(void)
{
    static const char *const names[] = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rflags"};
    unsigned bad = 0;

    machine_open();
    for (unsigned i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        for (unsigned j = 0; j < 256; j++)
            machine.ram[j] = device[j] = pattern(j);
        guest_prepare(guest_form, i);
        bool good = serve_device(NULL);
        on_ram[6] &= ~forms[i].undefined;
        on_device[6] &= ~forms[i].undefined;
        for (unsigned j = 0; j < 7; j++) {
            if (on_ram[j] != on_device[j]) {
                bare_printf("  %s: %s 0x%lx, the processor gives 0x%lx\n", forms[i].name, names[j],
                            on_device[j], on_ram[j]);
                good = false;
            }
        }
        if (memcmp(machine.ram, device, 256) != 0) {
            bare_printf("  %s: other memory content\n", forms[i].name);
            good = false;
        }
        bad += !good;
    }
    CHECK_EQUAL(bad, 0);
}

static void guest_sizes(uint64_t gva)
{
    __asm__ volatile("movb $1, (%0); movw $2, 2(%0); movl $3, 4(%0); movq $4, 8(%0);"
                     "movb (%0), %%al; movw 2(%0), %%ax; movl 4(%0), %%eax; movq 8(%0), %%rax"
                     :
                     : "r"(gva)
                     : "rax", "memory");
    guest_done(0);
}

static void mmio_sizes(void)
{
    machine_open();
    guest_prepare(guest_sizes, GUEST_HOLE + 0x100);
    for (unsigned i = 0; i < 8; i++) {
        if (!CHECK(EXPECT_EXIT(VIRTX_EXIT_MMIO)))
            return;
        unsigned size = 1u << i % 4, offset = size == 1 ? 0 : size;
        CHECK(machine.exit->pending);
        CHECK_EQUAL(machine.exit->mmio.size, size);
        CHECK_EQUAL(machine.exit->mmio.gpa, GUEST_HOLE + 0x100 + offset);
        CHECK_EQUAL(machine.exit->mmio.access, i < 4 ? VIRTX_WRITE : VIRTX_READ);
        if (i < 4)
            CHECK_EQUAL(machine.exit->mmio.value, i + 1);
        CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
    }
    GUEST_CONTINUE();
}

static volatile uint64_t straddle_read;

static void guest_straddles(uint64_t gva)
{
    straddle_read = read64(gva);
    write64(gva, 0x0807060504030201);
    guest_done(0);
}

static void straddle(void)
{
    machine_open();
    /* RAM's last page maps in front of the device's page. */
    *guest_pte(0x70000000) = (GUEST_MEMORY + GUEST_MEMORY_BYTES - PAGE) | PTE;
    *guest_pte(0x70001000) = GUEST_HOLE | PTE;
    uint8_t *end = machine.ram + GUEST_MEMORY_BYTES;
    for (unsigned i = 0; i < 16; i++) {
        end[-1 - (int)i] = 0xa0;
        device[i] = 0xd0;
    }
    guest_prepare(guest_straddles, 0x70000ffd);
    CHECK(serve_device(NULL));
    CHECK_EQUAL(straddle_read, 0xd0d0d0d0d0a0a0a0);
    for (int i = 1; i <= 4; i++)
        CHECK_EQUAL(end[-i], i < 4 ? 4 - i : 0xa0);
    for (unsigned i = 0; i < 6; i++)
        CHECK_EQUAL(device[i], i < 5 ? 4 + i : 0xd0);
}

static void straddle_to_ram(void)
{
    machine_open();
    *guest_pte(0x70000000) = GUEST_HOLE | PTE;
    *guest_pte(0x70001000) = GUEST_MEMORY | PTE;
    memset(machine.ram, 0xa0, 16);
    memset(device, 0xd0, sizeof(device));
    guest_prepare(guest_straddles, 0x70000ffd);
    CHECK(serve_device(NULL));
    CHECK_EQUAL(straddle_read, 0xa0a0a0a0a0d0d0d0);
    CHECK_EQUAL(machine.ram[0], 4);
    CHECK_EQUAL(machine.ram[4], 8);
    CHECK_EQUAL(machine.ram[5], 0xa0);
    CHECK_EQUAL(device[0xffc], 0xd0);
    CHECK_EQUAL(device[0xffd], 1);
    CHECK_EQUAL(device[0xfff], 3);
}

/* A write of which one page faults in the guest's tables: no byte is written, the guest gets #PF.
 */
static volatile int straddle_vector;

static void guest_straddles_fault(uint64_t gva)
{
    straddle_vector = GUEST_TRY("movq %%rax, (%0)", : "r"(gva), "a"(-1ul) : "memory");
    guest_done(guest_trap.cr2 & 0xffff);
}

static void straddle_fault(void)
{
    machine_open();
    *guest_pte(0x70000000) = GUEST_HOLE | PTE;
    *guest_pte(0x70001000) = 0;
    memset(device, 0xd0, sizeof(device));
    guest_prepare(guest_straddles_fault, 0x70000ffd);
    CHECK(serve_device(NULL));
    CHECK_EQUAL(straddle_vector, 14);
    CHECK_EQUAL(guest_trap.cr2, 0x70001000);
    CHECK_EQUAL(guest_trap.error, 2);
    CHECK_EQUAL(device[0xffd], 0xd0);
}

/* ---- Rights ---- */

static void read_only(void)
{
    uint64_t generation;

    machine_open();
    memcpy(machine.ram, &(uint64_t){77}, 8);
    CHECK_EQUAL(GUEST_RESULT(guest_write64, GUEST_MEMORY + 64), 1);
    CHECK_OK(virtx_memslot_protect(machine.memory, VIRTX_READ | VIRTX_EXECUTE, &generation));
    CHECK_EQUAL(GUEST_RESULT(guest_read64, GUEST_MEMORY), 77);
    guest_prepare(guest_write64, GUEST_MEMORY);
    for (unsigned again = 0; again < 2; again++) {
        if (!CHECK(EXPECT_EXIT(VIRTX_EXIT_MEMORY)))
            return;
        CHECK(!machine.exit->pending);
        CHECK_EQUAL(machine.exit->memory.gpa, GUEST_MEMORY);
        CHECK(machine.exit->memory.access & VIRTX_WRITE);
        CHECK_EQUAL(machine.exit->memory.rights, VIRTX_READ | VIRTX_EXECUTE);
        CHECK(!machine.exit->memory.table_walk);
        if (machine.exit->memory.gva_valid)
            CHECK_EQUAL(machine.exit->memory.gva, GUEST_MEMORY);
        CHECK_EQUAL(machine.ram[0], 77);
    }
    CHECK_OK(virtx_memslot_protect(machine.memory, ALL_RIGHTS, &generation));
    CHECK_EQUAL(GUEST_CONTINUE(), 1);
    CHECK_EQUAL(machine.ram[0], 0x88);
}

static void guest_jump(uint64_t gva)
{
    __asm__ volatile("call *%0" : : "r"(gva) : "memory");
    guest_done(5);
}

static void execute_never(void)
{
    uint64_t generation;

    machine_open();
    machine.ram[0x100] = 0xc3; /* ret */
    CHECK_EQUAL(GUEST_RESULT(guest_jump, GUEST_MEMORY + 0x100), 5);
    CHECK_OK(virtx_memslot_protect(machine.memory, VIRTX_READ | VIRTX_WRITE, &generation));
    CHECK_EQUAL(GUEST_RESULT(guest_read64, GUEST_MEMORY + 0x100), 0xc3);
    guest_prepare(guest_jump, GUEST_MEMORY + 0x100);
    if (!CHECK(EXPECT_EXIT(VIRTX_EXIT_MEMORY)))
        return;
    CHECK_EQUAL(machine.exit->memory.gpa, GUEST_MEMORY + 0x100);
    CHECK(machine.exit->memory.access & VIRTX_EXECUTE);
    CHECK_EQUAL(machine.exit->memory.rights, VIRTX_READ | VIRTX_WRITE);
    CHECK_EQUAL(guest_state().rip, GUEST_MEMORY + 0x100);
    CHECK_OK(virtx_memslot_protect(machine.memory, ALL_RIGHTS, &generation));
    CHECK_EQUAL(GUEST_CONTINUE(), 5);
}

/* A fetch from where no slot is: nothing can be completed. */
static void execute_hole(void)
{
    machine_open();
    guest_prepare(guest_jump, GUEST_HOLE);
    if (CHECK(EXPECT_EXIT(VIRTX_EXIT_EMULATION))) {
        CHECK(!machine.exit->pending);
        CHECK_EQUAL(machine.exit->emulation.length, 0);
        CHECK_EQUAL(machine.exit->emulation.gpa, GUEST_HOLE);
    }
}

static void rom_with_device(void)
{
    uint64_t generation;
    uint8_t *rom = NULL;

    machine_open();
    rom = bare_pages_alloc(1, 1);
    memset(rom, 0x90, PAGE);
    rom[0] = 0xc3;
    struct virtx_memslot *slot = slot_make(machine.vm, 0x60000000, rom, PAGE,
                                           VIRTX_READ | VIRTX_EXECUTE, VIRTX_MEMSLOT_WRITE_MMIO);
    CHECK_EQUAL(GUEST_RESULT(guest_jump, 0x60000000), 5);
    CHECK_EQUAL(GUEST_RESULT(guest_read64, 0x60000008), 0x90909090);
    guest_prepare(guest_write64, 0x60000008);
    if (CHECK(EXPECT_EXIT(VIRTX_EXIT_MMIO))) {
        CHECK_EQUAL(machine.exit->mmio.gpa, 0x60000008);
        CHECK_EQUAL(machine.exit->mmio.size, 8);
        CHECK_EQUAL(machine.exit->mmio.access, VIRTX_WRITE);
        CHECK_EQUAL(machine.exit->mmio.value, 0x1122334455667788);
        CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
        CHECK_EQUAL(GUEST_CONTINUE(), 1);
    }
    CHECK_EQUAL(rom[8], 0x90);
    CHECK_OK(virtx_memslot_remove(slot, &generation));
    bare_pages_free(rom, 1);
}

/* The guest's tables in a slot that may not be written: the processor's walk is refused. */
static void table_walk(void)
{
    uint64_t generation, *table;

    machine_open();
    /* A page table in the last page of RAM maps 0x70000000 to the image. */
    table = (uint64_t *)(void *)(machine.ram + GUEST_MEMORY_BYTES - PAGE);
    table[0] = (uintptr_t)&straddle_read / PAGE * PAGE | PTE;
    guest_pd[1][0x30000000 >> 21] = (GUEST_MEMORY + GUEST_MEMORY_BYTES - PAGE) | PTE;
    straddle_read = 0x4711;
    uint64_t gva = 0x70000000 + ((uintptr_t)&straddle_read & (PAGE - 1));
    CHECK_OK(virtx_memslot_protect(machine.memory, VIRTX_READ, &generation));
    guest_prepare(guest_read64, gva);
    if (engine_is("bochs") && !guest_has_svm && !has_feature(VIRTX_FEATURE_NESTED_AD))
        known_bug(
            "Bochs writes accessed flags where EPT forbids it, unless EPT has such flags too");
    if (!CHECK(EXPECT_EXIT(VIRTX_EXIT_MEMORY)))
        return;
    known_bug_end();
    CHECK(machine.exit->memory.table_walk);
    CHECK_EQUAL(machine.exit->memory.gpa & ~(PAGE - 1ul), GUEST_MEMORY + GUEST_MEMORY_BYTES - PAGE);
    CHECK_OK(virtx_memslot_protect(machine.memory, ALL_RIGHTS, &generation));
    CHECK_EQUAL(GUEST_CONTINUE(), 0x4711);
    CHECK_EQUAL(table[0] >> 5 & 1, 1); /* accessed */
}

/* A guest table where no slot is. */
static void table_in_hole(void)
{
    machine_open();
    guest_pd[1][0x30000000 >> 21] = GUEST_HOLE | PTE;
    guest_prepare(guest_read64, 0x70000000);
    if (CHECK(EXPECT_EXIT(VIRTX_EXIT_MEMORY))) {
        CHECK(machine.exit->memory.table_walk);
        CHECK_EQUAL(machine.exit->memory.gpa & ~(PAGE - 1ul), GUEST_HOLE);
        CHECK_EQUAL(machine.exit->memory.rights, 0);
    }
}

/* ---- Slots come, go and move while the guest lives ---- */

static void remove_and_add(void)
{
    uint64_t generation = 0;

    machine_open();
    CHECK_EQUAL(GUEST_RESULT(guest_fill, GUEST_MEMORY_BYTES), 1);
    CHECK_EQUAL(GUEST_RESULT(guest_read64, GUEST_MEMORY + 5 * PAGE), 5 * PAGE + 1);
    CHECK_OK(virtx_memslot_remove(machine.memory, &generation));
    for (unsigned i = 0; i < 2; i++) {
        uint64_t offset = i == 0 ? 5 * PAGE : GUEST_MEMORY_BYTES - PAGE;
        guest_prepare(guest_read64, GUEST_MEMORY + offset);
        if (CHECK(EXPECT_EXIT(VIRTX_EXIT_MMIO))) {
            CHECK_EQUAL(machine.exit->mmio.gpa, GUEST_MEMORY + offset);
            CHECK_OK(virtx_vcpu_complete(machine.vcpu, &(uint64_t){9}));
            CHECK_EQUAL(GUEST_CONTINUE(), 9);
        }
    }
    CHECK(virtx_vm_settled(machine.vm, generation, false));
    machine.memory =
        slot_make(machine.vm, GUEST_MEMORY, machine.ram, GUEST_MEMORY_BYTES, ALL_RIGHTS, 0);
    CHECK_EQUAL(GUEST_RESULT(guest_read64, GUEST_MEMORY + 5 * PAGE), 5 * PAGE + 1);
}

/* A hole that has answered as a device becomes RAM without being told twice. */
static void add_over_device(void)
{
    uint64_t generation;

    machine_open();
    memcpy(machine.ram, &(uint64_t){0x77}, 8);
    guest_prepare(guest_read64, GUEST_HOLE);
    CHECK(EXPECT_EXIT(VIRTX_EXIT_MMIO));
    CHECK_OK(virtx_vcpu_complete(machine.vcpu, &(uint64_t){1}));
    CHECK_EQUAL(GUEST_CONTINUE(), 1);
    struct virtx_memslot *slot =
        slot_make(machine.vm, GUEST_HOLE, machine.ram, PAGE, ALL_RIGHTS, 0);
    CHECK_EQUAL(GUEST_RESULT(guest_read64, GUEST_HOLE), 0x77);
    CHECK_OK(virtx_memslot_remove(slot, &generation));
}

static void move(void)
{
    uint64_t generation = 0;

    machine_open();
    CHECK_EQUAL(GUEST_RESULT(guest_fill, GUEST_MEMORY_BYTES), 1);
    CHECK_OK(virtx_memslot_move(machine.memory, 0x60000000, &generation));
    CHECK_EQUAL(GUEST_RESULT(guest_read64, 0x60000000 + 9 * PAGE), 9 * PAGE + 1);
    guest_prepare(guest_read64, GUEST_MEMORY);
    CHECK(EXPECT_EXIT(VIRTX_EXIT_MMIO));
    CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
    CHECK(virtx_vm_settled(machine.vm, generation, false));
    CHECK_OK(virtx_memslot_move(machine.memory, GUEST_MEMORY, &generation));
    CHECK_EQUAL(GUEST_RESULT(guest_read64, GUEST_MEMORY + 9 * PAGE), 9 * PAGE + 1);
}

/* ---- The dirty log ---- */

static void guest_dirty(uint64_t argument)
{
    static const uint16_t pages[] = {0, 5, 511, 512, 1023};

    for (unsigned i = 0; i < 5; i++)
        RAM8(pages[i] * PAGE + argument) = (uint8_t)(argument + i);
    for (unsigned i = 0; i < GUEST_MEMORY_BYTES / PAGE; i++)
        (void)RAM8(i * PAGE); /* reading is not dirtying */
    guest_done(0);
}

static void check_log(const uint16_t *pages, unsigned count)
{
    uint64_t bitmap[16] = {0}, dirty = 0, wanted[16] = {0};

    for (unsigned i = 0; i < count; i++)
        wanted[pages[i] / 64] |= 1ul << pages[i] % 64;
    CHECK_OK(virtx_memslot_harvest(machine.memory, bitmap, 16, &dirty));
    CHECK_EQUAL(dirty, count);
    for (unsigned i = 0; i < 16; i++)
        CHECK_EQUAL(bitmap[i], wanted[i]);
}

static void dirty_log(void)
{
    static const uint16_t pages[] = {0, 5, 511, 512, 1023}, seven[] = {7}, five[] = {5};

    machine_open();
    CHECK_EQUAL(GUEST_RESULT(guest_fill, GUEST_MEMORY_BYTES), 1); /* mapped, large where possible */
    CHECK_OK(virtx_memslot_log(machine.memory, true));
    check_log(NULL, 0);
    for (unsigned round = 1; round < 4; round++) {
        GUEST_RESULT(guest_dirty, round);
        check_log(pages, 5);
        check_log(NULL, 0);
        CHECK_EQUAL(machine.ram[511 * PAGE + round], round + 2);
    }
    CHECK_OK(virtx_vm_write(machine.vm, GUEST_MEMORY + 7 * PAGE, &(uint64_t){1}, 8));
    check_log(seven, 1);
    CHECK_EQUAL(GUEST_RESULT(guest_write64, GUEST_MEMORY + 5 * PAGE), 1);
    check_log(five, 1);
    CHECK_OK(virtx_memslot_log(machine.memory, false));
    CHECK_STATUS(virtx_memslot_harvest(machine.memory, &(uint64_t){0}, 16, NULL), VIRTX_E_INVALID);
    CHECK_EQUAL(GUEST_RESULT(guest_fill, GUEST_MEMORY_BYTES), 1);
}

static void dirty_log_from_start(void)
{
    static const uint16_t pages[] = {0, 5, 511, 512, 1023};

    harness_memory_flags = VIRTX_MEMSLOT_DIRTY_LOG;
    machine_open();
    GUEST_RESULT(guest_dirty, 3);
    check_log(pages, 5);
    check_log(NULL, 0);
}

/* What the library writes for the guest is logged too: MMIO to memory by REP MOVS. */
static void guest_copies(uint64_t argument)
{
    uint64_t count = 16, from = GUEST_HOLE, to = argument;

    __asm__ volatile("rep movsb" : "+c"(count), "+S"(from), "+D"(to) : : "memory");
    guest_done(0);
}

static void dirty_log_by_library(void)
{
    static const uint16_t pages[] = {3, 4};

    harness_memory_flags = VIRTX_MEMSLOT_DIRTY_LOG;
    machine_open();
    memset(device, 0x5c, 16);
    guest_prepare(guest_copies, GUEST_MEMORY + 4 * PAGE - 8);
    CHECK(serve_device(NULL));
    CHECK_EQUAL(machine.ram[4 * PAGE], 0x5c);
    check_log(pages, 2);
}

static void dirty_log_without_hardware_help(void)
{
    harness_disable = VIRTX_FEATURE_DIRTY_LOGGING | VIRTX_FEATURE_NESTED_AD;
    dirty_log();
}

/*
 * The three ways to keep a log: the processor's own (PML), dirty flags, write protection. A harvest
 * says the same, whatever the way; what differs is the exits. Most pages are written in an order
 * that no run of addresses gives away, and some twice.
 */
enum { LOGGED_PAGES = GUEST_MEMORY_BYTES / PAGE, SCATTERED = 700 };

static uint64_t scattered(uint64_t i)
{
    return (i * 389 + 17) % LOGGED_PAGES;
}

static void guest_scatters(uint64_t from)
{
    for (uint64_t i = from; i < from + SCATTERED; i++)
        RAM64(scattered(i % (SCATTERED - 20)) * PAGE + 8) = i + 1;
    guest_done(1);
}

static uint64_t scattered_exits(uint64_t log[LOGGED_PAGES / 64])
{
    uint64_t expected[LOGGED_PAGES / 64] = {0}, before, dirty = 0, again[LOGGED_PAGES / 64] = {0};

    machine_open();
    CHECK_EQUAL(GUEST_RESULT(guest_fill, GUEST_MEMORY_BYTES), 1);
    CHECK_OK(virtx_memslot_log(machine.memory, true));
    for (unsigned i = 0; i < SCATTERED - 20; i++)
        expected[scattered(i) / 64] |= 1ul << scattered(i) % 64;
    for (unsigned round = 0; round < 2; round++) {
        memset(log, 0, LOGGED_PAGES / 8);
        guest_prepare(guest_scatters, round);
        before = guest_exits();
        CHECK_EQUAL(GUEST_CONTINUE(), 1);
        before = guest_exits() - before - 1; /* the OUT */
        CHECK_OK(virtx_memslot_harvest(machine.memory, log, LOGGED_PAGES / 64, &dirty));
        CHECK_EQUAL(dirty, SCATTERED - 20);
        CHECK_EQUAL(memcmp(log, expected, sizeof(expected)), 0);
        CHECK_OK(virtx_memslot_harvest(machine.memory, again, LOGGED_PAGES / 64, &dirty));
        CHECK_EQUAL(dirty, 0);
    }
    return before;
}

static void dirty_log_three_ways(void)
{
    static const uint64_t without[] = {0, VIRTX_FEATURE_DIRTY_LOGGING,
                                       VIRTX_FEATURE_DIRTY_LOGGING | VIRTX_FEATURE_NESTED_AD};
    static uint64_t log[3][LOGGED_PAGES / 64];

    for (unsigned way = 0; way < 3; way++) {
        uint64_t exits;

        harness_no_watchdog = true;
        harness_disable = without[way];
        exits = scattered_exits(log[way]);
        /* Once a page is mapped: an exit for each 512 pages; none; one for each page. */
        if (has_feature(VIRTX_FEATURE_DIRTY_LOGGING) && paging_is_nested())
            CHECK_EQUAL(exits, (SCATTERED - 20) / 512);
        else if (has_feature(VIRTX_FEATURE_NESTED_AD) && paging_is_nested())
            CHECK_EQUAL(exits, 0);
        else
            CHECK(exits >= SCATTERED - 20);
        CHECK_EQUAL(memcmp(log[way], log[0], sizeof(log[0])), 0);
        bare_printf("  %s: %lu exits for %u pages\n",
                    has_feature(VIRTX_FEATURE_DIRTY_LOGGING) ? "the processor's log"
                    : has_feature(VIRTX_FEATURE_NESTED_AD)   ? "dirty flags"
                                                             : "write protection",
                    exits, SCATTERED - 20);
        machine_close();
    }
}

/* ---- G5: the guest's paging is its own ---- */

extern const char paging_toggles[], paging_toggles_end[];

static void guest_toggles_paging(void)
{
    enum { ROUNDS = 50, CODE = 0x180000, TABLE32 = 0x200000, PDPTES = 0x201000, PAE = 0x202000 };
    enum { BOTH = 0x10000000, UNPAGED = 0x3f0000, LARGE = 0xe3 }; /* P RW A D PS */
    const uint64_t cr0 = bare_read_cr0(), cr3 = bare_read_cr3(), cr4 = bare_read_cr4();
    const uint64_t efer = bare_rdmsr(0xc0000080);
    struct virtx_state s;

    machine_open();
    memcpy(machine.ram + CODE, paging_toggles, (size_t)(paging_toggles_end - paging_toggles));
    for (uint32_t i = 0; i < 1024; i++)
        ((uint32_t *)(machine.ram + TABLE32))[i] = i << 22 | LARGE;
    ((uint32_t *)(machine.ram + TABLE32))[BOTH >> 22] = GUEST_MEMORY | LARGE;
    for (uint64_t i = 0; i < 4; i++)
        ((uint64_t *)(machine.ram + PDPTES))[i] = (GUEST_MEMORY + PAE + i * PAGE) | 1;
    for (uint64_t i = 0; i < 2048; i++)
        ((uint64_t *)(machine.ram + PAE))[i] = i << 21 | LARGE;
    ((uint64_t *)(machine.ram + PAE))[BOTH >> 21] = GUEST_MEMORY | LARGE;
    *(uint32_t *)(machine.ram + 0x300000) = 1;
    *(uint32_t *)(machine.ram + 0x140000) = 0x100;
    *(uint32_t *)(machine.ram + UNPAGED) = 0x10000;
    CHECK_OK(virtx_vcpu_reset(machine.vcpu, VIRTX_PRESET_FLAT32));
    s = guest_state();
    s.rip = GUEST_MEMORY + CODE;
    s.gpr[VIRTX_RSI] = GUEST_MEMORY + TABLE32;
    s.gpr[VIRTX_RDI] = GUEST_MEMORY + PDPTES;
    s.gpr[VIRTX_RBX] = BOTH;
    s.gpr[VIRTX_RDX] = GUEST_MEMORY + UNPAGED;
    s.gpr[VIRTX_RCX] = ROUNDS;
    guest_set_state(VIRTX_STATE_GPR | VIRTX_STATE_RIP, &s);
    CHECK_EQUAL(GUEST_CONTINUE(), ROUNDS * 0x10101);
    s = guest_state();
    CHECK_EQUAL(s.cr0 & 0x80000001, 1);
    CHECK_EQUAL(s.cr3, GUEST_MEMORY + PDPTES);
    CHECK_EQUAL(s.cr4 & 0x30, 0x30);
    CHECK_EQUAL(bare_read_cr0(), cr0);
    CHECK_EQUAL(bare_read_cr3(), cr3);
    CHECK_EQUAL(bare_read_cr4() & ~(1ul << 13),
                cr4 & ~(1ul << 13)); /* VMXE came with the library */
    CHECK_EQUAL(bare_rdmsr(0xc0000080) & ~(1ul << 12), efer & ~(1ul << 12)); /* SVME */
    CHECK_OK(virtx_vcpu_put(machine.vcpu));
    CHECK_EQUAL(bare_read_cr0(), cr0);
    CHECK_EQUAL(bare_read_cr3(), cr3);
}

/* Five-level paging is not offered: CPUID does not have it, and CR4.LA57 is as reserved as on a
 * processor without it (Intel SDM "CPUID", "Control Registers"), on hosts that have it too. */
static volatile uint64_t la57_seen[3];

static void guest_wants_la57(uint64_t argument)
{
    uint64_t cr4 = bare_read_cr4();
    uint32_t eax = 7, ebx, ecx = 0, edx;

    (void)argument;
    __asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    la57_seen[0] = ecx >> 16 & 1;
    la57_seen[1] = (uint64_t)GUEST_TRY("movq %0, %%cr4", : "r"(cr4 | 1ul << 12) : "memory");
    la57_seen[2] = bare_read_cr4() ^ cr4;
    guest_done(1);
}

static void no_la57(void)
{
    struct virtx_state s;

    machine_open();
    CHECK_EQUAL(GUEST_RESULT(guest_wants_la57, 0), 1);
    CHECK_EQUAL(la57_seen[0], 0);
    CHECK_EQUAL(la57_seen[1], 13);
    CHECK_EQUAL(la57_seen[2], 0);
    s = guest_state();
    s.cr4 |= 1ul << 12;
    CHECK_STATUS(virtx_vcpu_set(machine.vcpu, VIRTX_STATE_CR, &s), VIRTX_E_INVALID);
}

/* ---- Page sizes ---- */

static uint64_t faults_of_fill(bool first)
{
    struct virtx_stats before, after;
    uint64_t generation;

    if (first) { /* the image's pages have their faults now */
        CHECK_EQUAL(GUEST_RESULT(guest_fill, PAGE), 1);
        CHECK_OK(virtx_memslot_invalidate(machine.memory, 0, GUEST_MEMORY_BYTES, &generation));
    }
    virtx_vcpu_stats(machine.vcpu, &before);
    CHECK_EQUAL(GUEST_RESULT(guest_fill, GUEST_MEMORY_BYTES), 1);
    virtx_vcpu_stats(machine.vcpu, &after);
    for (unsigned i = 0; i < GUEST_MEMORY_BYTES; i += PAGE) {
        if (machine.ram[i] != (uint8_t)(i + 1))
            CHECK_EQUAL(machine.ram[i], (uint8_t)(i + 1));
    }
    return after.faults_mapped - before.faults_mapped;
}

static void large_pages(void)
{
    machine_open();
    uint64_t faults = faults_of_fill(true);
    if (has_feature(VIRTX_FEATURE_LARGE_2M) || !paging_is_nested())
        CHECK_EQUAL(faults, 2);
    else
        CHECK(faults >= GUEST_MEMORY_BYTES / PAGE / 16);
    CHECK_EQUAL(faults_of_fill(false), 0);
}

static void small_pages(void)
{
    harness_memory_flags = VIRTX_MEMSLOT_SMALL_PAGES;
    machine_open();
    CHECK(faults_of_fill(true) >= 2);
    CHECK_EQUAL(faults_of_fill(false), 0);
}

static void just_return(void)
{
}

/* Data in large pages; what is executed is in small ones, from the first fetch on, at one fault for
 * each 2 MiB. */
static void small_execute(void)
{
    struct virtx_stats before, after;
    uint64_t large;

    harness_memory_flags = VIRTX_MEMSLOT_SMALL_EXECUTE;
    machine_open();
    large = has_feature(VIRTX_FEATURE_LARGE_2M) && paging_is_nested();
    machine.ram[0x108] = machine.ram[5 * PAGE + 0x108] =
        0xc3; /* ret; guest_fill writes before it */
    uint64_t faults = faults_of_fill(true);
    if (large)
        CHECK_EQUAL(faults, 2);
    else
        CHECK(faults >= 2);
    CHECK_EQUAL(GUEST_RESULT(guest_jump, (uintptr_t)just_return), 5); /* the image's pages */
    virtx_vcpu_stats(machine.vcpu, &before);
    CHECK_EQUAL(GUEST_RESULT(guest_jump, GUEST_MEMORY + 0x108), 5);
    CHECK_EQUAL(GUEST_RESULT(guest_jump, GUEST_MEMORY + 5 * PAGE + 0x108), 5);
    virtx_vcpu_stats(machine.vcpu, &after);
    if (large)
        CHECK_EQUAL(after.faults_mapped - before.faults_mapped, 1);
    /* The data is still there, at no further cost. */
    CHECK_EQUAL(faults_of_fill(false), 0);
    CHECK_EQUAL(GUEST_RESULT(guest_jump, GUEST_MEMORY + 0x108), 5);
}

static void large_pages_off(void)
{
    harness_disable = VIRTX_FEATURE_LARGE_2M | VIRTX_FEATURE_LARGE_1G;
    machine_open();
    CHECK(!has_feature(VIRTX_FEATURE_LARGE_2M));
    CHECK(faults_of_fill(true) >= 2);
    CHECK_EQUAL(faults_of_fill(false), 0);
}

/* A slot that begins in the middle of a large page of the host or the guest. */
static void odd_alignment(void)
{
    uint64_t generation;

    machine_open();
    CHECK_OK(virtx_memslot_remove(machine.memory, &generation));
    machine.memory = slot_make(machine.vm, GUEST_MEMORY + 3 * PAGE, machine.ram + 5 * PAGE,
                               GUEST_MEMORY_BYTES - 5 * PAGE, ALL_RIGHTS, 0);
    machine.ram[5 * PAGE] = 0x31;
    machine.ram[GUEST_MEMORY_BYTES - PAGE] = 0x32;
    CHECK_EQUAL(GUEST_RESULT(guest_read64, GUEST_MEMORY + 3 * PAGE), 0x31);
    CHECK_EQUAL(GUEST_RESULT(guest_read64, GUEST_MEMORY + GUEST_MEMORY_BYTES - 3 * PAGE), 0x32);
    guest_prepare(guest_read64, GUEST_MEMORY + 2 * PAGE);
    CHECK(EXPECT_EXIT(VIRTX_EXIT_MMIO));
    CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
    guest_prepare(guest_read64, GUEST_MEMORY + GUEST_MEMORY_BYTES - 2 * PAGE);
    CHECK(EXPECT_EXIT(VIRTX_EXIT_MMIO));
    CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
}

/* ---- Memory types ---- */

static void memory_types(void)
{
    static const uint32_t types[] = {VIRTX_MEMORY_UC, VIRTX_MEMORY_WC, VIRTX_MEMORY_WT,
                                     VIRTX_MEMORY_WP, VIRTX_MEMORY_WB};
    struct virtx_memslot_config config = {
        .size = sizeof(config), .rights = ALL_RIGHTS, .gpa = 0x60000000, .bytes = PAGE};
    struct virtx_memslot *slot;
    uint64_t generation;

    machine_open();
    config.memory = machine.ram;
    for (unsigned i = 0; i < 5; i++) {
        config.type = types[i];
        machine.ram[0] = (uint8_t)(0x40 + i);
        if (!CHECK_OK(virtx_memslot_add(machine.vm, &config, &slot)))
            continue;
        CHECK_EQUAL(GUEST_RESULT(guest_read64, 0x60000000), 0x40 + i);
        CHECK_EQUAL(GUEST_RESULT(guest_write64, 0x60000000), 1);
        CHECK_EQUAL(machine.ram[1], 0x77);
        CHECK_OK(virtx_memslot_remove(slot, &generation));
        memset(machine.ram, 0, 8);
    }
    config.type = 2;
    CHECK_STATUS(virtx_memslot_add(machine.vm, &config, &slot), VIRTX_E_INVALID);
}

/* MTRRs and PAT are the guest's own: it reads what it wrote, is refused what a processor refuses
 * (Intel SDM "Memory Type Range Registers (MTRRs)"), and the host's stay as they are. */
enum {
    MSR_MTRRCAP = 0xfe,
    MSR_MTRR_PHYSBASE0 = 0x200,
    MSR_MTRR_FIX_FIRST = 0x250,
    MSR_MTRR_FIX_LAST = 0x26f,
    MSR_MTRR_DEF_TYPE = 0x2ff,
    MSR_PAT = 0x277,
    MTRR_VARIABLE = 8,
};

static const uint32_t mtrr_fixed[] = {0x250, 0x258, 0x259, 0x268, 0x269, 0x26a,
                                      0x26b, 0x26c, 0x26d, 0x26e, 0x26f};

static uint64_t msr_pattern(uint32_t index)
{
    if (index == MSR_PAT)
        return 0x0001040506070600;
    if (index == MSR_MTRR_DEF_TYPE)
        return 0xc06;
    if (index >= MSR_MTRR_FIX_FIRST && index <= MSR_MTRR_FIX_LAST)
        return index & 1 ? 0x0605040100060504 : 0x0606060600000101;
    return index & 1 ? 0x0000000ffff00800 : (uint64_t)(index & 15) << 20 | VIRTX_MEMORY_WC;
}

static bool type_msr(unsigned i, uint32_t *index)
{
    if (i < 2 * MTRR_VARIABLE)
        *index = MSR_MTRR_PHYSBASE0 + i;
    else if (i < 2 * MTRR_VARIABLE + sizeof(mtrr_fixed) / sizeof(mtrr_fixed[0]))
        *index = mtrr_fixed[i - 2 * MTRR_VARIABLE];
    else if (i == 2 * MTRR_VARIABLE + sizeof(mtrr_fixed) / sizeof(mtrr_fixed[0]))
        *index = MSR_MTRR_DEF_TYPE;
    else if (i == 2 * MTRR_VARIABLE + sizeof(mtrr_fixed) / sizeof(mtrr_fixed[0]) + 1)
        *index = MSR_PAT;
    else
        return false;
    return true;
}

static void guest_types(uint64_t write)
{
    uint64_t bad = 0;
    uint32_t index;

    if (write) {
        for (unsigned i = 0; type_msr(i, &index); i++)
            bare_wrmsr(index, msr_pattern(index));
        bad += (bare_rdmsr(MSR_MTRRCAP) & 0xff) != MTRR_VARIABLE;
        bad += GUEST_TRY("wrmsr", : "c"(MSR_MTRRCAP), "a"(0), "d"(0)) != 13;
        bad += GUEST_TRY("wrmsr", : "c"(MSR_PAT), "a"(0x00000002), "d"(0)) != 13;
        bad += GUEST_TRY("wrmsr", : "c"(MSR_MTRR_DEF_TYPE), "a"(7), "d"(0)) != 13; /* UC- */
        bad += GUEST_TRY("wrmsr", : "c"(0x250), "a"(0x03000000), "d"(0)) != 13;
        bad += GUEST_TRY("wrmsr", : "c"(MSR_MTRR_PHYSBASE0), "a"(0x102), "d"(0)) != 13;
    }
    for (unsigned i = 0; type_msr(i, &index); i++)
        bad += bare_rdmsr(index) != msr_pattern(index);
    guest_done(bad);
}

static void types_as_written(void)
{
    enum { COUNT = 2 * MTRR_VARIABLE + sizeof(mtrr_fixed) / sizeof(mtrr_fixed[0]) + 2 };
    uint64_t host[COUNT], result = 0;
    struct virtx_vcpu *other;
    uint32_t index;

    for (unsigned i = 0; type_msr(i, &index); i++)
        host[i] = bare_rdmsr(index);
    machine_open();
    CHECK_EQUAL(GUEST_RESULT(guest_types, 1), 0);
    /* Another machine has its own, and this one keeps them while the vcpu is somewhere else. */
    struct virtx_vm *vm = vm_make(&other);
    vcpu_prepare(other, 1, guest_types, 0);
    CHECK(vcpu_continue(other, &result));
    CHECK(result >= COUNT - 1);
    CHECK_OK(virtx_vcpu_put(machine.vcpu));
    guest_prepare_again(guest_types, 0);
    CHECK_EQUAL(GUEST_CONTINUE(), 0);
    CHECK_EQUAL(guest_state().pat, msr_pattern(MSR_PAT));
    for (unsigned i = 0; type_msr(i, &index); i++)
        CHECK_EQUAL(bare_rdmsr(index), host[i]);
    CHECK_OK(virtx_vcpu_put(other));
    CHECK_OK(virtx_vcpu_destroy(other));
    CHECK_OK(virtx_vm_destroy(vm));
}

/* ---- Backing that goes and comes ---- */

static uint8_t *away, *instead;

static uint64_t backing(void *ctx, const void *va)
{
    (void)ctx;
    if (away != NULL && (uintptr_t)va / PAGE == (uintptr_t)away / PAGE)
        return instead == NULL ? UINT64_MAX : (uintptr_t)instead + (uintptr_t)va % PAGE;
    return (uintptr_t)va;
}

static void no_backing(void)
{
    static struct virtx_host_ops ops;
    uint64_t generation = 0;

    ops = bare_virtx_ops;
    ops.virt_to_phys = backing;
    harness_ops = &ops;
    away = instead = NULL;
    machine_open();
    uint8_t *other = bare_pages_alloc(1, 1);
    memset(other, 0x66, PAGE);
    machine.ram[2 * PAGE] = 0x21;
    machine.ram[3 * PAGE] = 0x31;
    CHECK_EQUAL(GUEST_RESULT(guest_read64, GUEST_MEMORY + 2 * PAGE), 0x21);
    /* The page is swapped out … */
    away = machine.ram + 2 * PAGE;
    CHECK_OK(virtx_memslot_invalidate(machine.memory, 2 * PAGE, PAGE, &generation));
    guest_prepare(guest_read64, GUEST_MEMORY + 2 * PAGE);
    if (CHECK(EXPECT_EXIT(VIRTX_EXIT_MEMORY))) {
        CHECK_EQUAL(machine.exit->memory.gpa, GUEST_MEMORY + 2 * PAGE);
        CHECK_EQUAL(machine.exit->memory.rights, ALL_RIGHTS);
    }
    CHECK(virtx_vm_settled(machine.vm, generation, false));
    CHECK_EQUAL(GUEST_RESULT(guest_read64, GUEST_MEMORY + 3 * PAGE),
                0x31); /* its neighbour stays */
    /* … and comes back elsewhere. */
    instead = other;
    CHECK_EQUAL(GUEST_RESULT(guest_read64, GUEST_MEMORY + 2 * PAGE), 0x66666666);
    away = NULL;
    CHECK_OK(virtx_memslot_invalidate(machine.memory, 2 * PAGE, PAGE, &generation));
    CHECK_EQUAL(GUEST_RESULT(guest_read64, GUEST_MEMORY + 2 * PAGE), 0x21);
    bare_pages_free(other, 1);
}

/* ---- Isolation ---- */

static void guest_probes(uint64_t argument)
{
    uint64_t sum = 0;

    (void)argument;
    for (uint64_t gva = 0; gva < 1ul << 32; gva += 16 << 20)
        sum += *(volatile uint8_t *)(uintptr_t)(gva + 8);
    guest_done(sum);
}

static void isolation(void)
{
    unsigned probes = 0;
    extern char __image_start[], __image_end[];

    machine_open();
    guest_prepare(guest_probes, 0);
    while (!guest_continue(NULL)) {
        const struct virtx_exit *exit = machine.exit;
        if (!CHECK_EQUAL(exit->reason, VIRTX_EXIT_MMIO))
            return;
        CHECK(exit->mmio.gpa < (uintptr_t)__image_start ||
              exit->mmio.gpa >= (uintptr_t)__image_end);
        CHECK_EQUAL(exit->mmio.gpa % (16 << 20), 8);
        CHECK_OK(virtx_vcpu_complete(machine.vcpu, &(uint64_t){1}));
        probes++;
    }
    CHECK_EQUAL(probes, 256 - 1); /* all but RAM at 1 GiB */
    CHECK_EQUAL(machine.exit->io.value, 255);
}

/* ---- The embedder's view ---- */

static void host_access(void)
{
    uint64_t value = 0, buffer[2] = {1, 2};
    struct virtx_translation where = {0};

    machine_open();
    *guest_pte(0x70000000) = (GUEST_MEMORY + PAGE) | PTE;
    *guest_pte(0x70001000) = (GUEST_MEMORY + 5 * PAGE) | 5; /* read-only, user */
    *guest_pte(0x70002000) = 0;
    CHECK_OK(virtx_vm_write(machine.vm, GUEST_MEMORY + PAGE - 8, buffer, 16));
    CHECK_OK(virtx_vm_read(machine.vm, GUEST_MEMORY + PAGE, &value, 8));
    CHECK_EQUAL(value, 2);
    CHECK_STATUS(virtx_vm_read(machine.vm, GUEST_HOLE, &value, 8), VIRTX_E_NOT_FOUND);
    CHECK_STATUS(virtx_vm_write(machine.vm, GUEST_MEMORY + GUEST_MEMORY_BYTES - 8, buffer, 16),
                 VIRTX_E_NOT_FOUND);
    CHECK_EQUAL(machine.ram[GUEST_MEMORY_BYTES - 8], 0); /* nothing is written on failure */
    guest_prepare(guest_read64, 0x70000000);
    CHECK_EQUAL(GUEST_CONTINUE(), 2);
    CHECK_OK(virtx_vcpu_translate(machine.vcpu, 0x70000123, VIRTX_READ, false, &where));
    CHECK_EQUAL(where.gpa, GUEST_MEMORY + PAGE + 0x123);
    CHECK_EQUAL(where.bytes, PAGE);
    CHECK_OK(virtx_vcpu_translate(machine.vcpu, GUEST_HOLE + 5, VIRTX_READ, false, &where));
    CHECK_EQUAL(where.gpa, GUEST_HOLE + 5);
    CHECK_EQUAL(where.bytes, 2 << 20);
    CHECK_OK(virtx_vcpu_write(machine.vcpu, 0x70000ff8, buffer, 8, &where));
    CHECK_EQUAL(machine.ram[2 * PAGE - 8], 1);
    CHECK_STATUS(virtx_vcpu_write(machine.vcpu, 0x70000ffc, buffer, 8, &where), VIRTX_E_FAULT);
    CHECK_EQUAL(where.error, 3); /* present, write */
    CHECK_STATUS(virtx_vcpu_read(machine.vcpu, 0x70002000, buffer, 8, &where), VIRTX_E_FAULT);
    CHECK_EQUAL(where.error, 0);
}

/* ---- F3, F4: the guest reads its tables, and CR3, as they are ---- */

static void guest_reads_tables(uint64_t cr3)
{
    uint64_t sum = 0;

    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < 512; i++)
            sum += ((volatile uint64_t *)guest_pml4)[i] + ((volatile uint64_t *)guest_pdpt)[i] +
                   ((volatile uint64_t *)guest_pd)[i];
        guest_done(bare_read_cr3() == cr3 && sum != 0);
    }
}

static void reads_tables(void)
{
    machine_open();
    CHECK_EQUAL(GUEST_RESULT(guest_reads_tables, (uintptr_t)guest_pml4), 1);
    uint64_t before = guest_exits();
    CHECK_EQUAL(GUEST_CONTINUE(), 1);
    /* The OUT that ends it, and with shadow paging the look at CR3. */
    CHECK_EQUAL(guest_exits() - before, paging_is_nested() ? 1 : 2);
    CHECK_EQUAL(guest_state().cr3, (uintptr_t)guest_pml4);
}

/* ---- The paging engine is exchanged while the guest lives ---- */

static enum virtx_status status_in_handler;

static enum virtx_verdict exchange_in_handler(struct virtx_vcpu *vcpu, struct virtx_exit *exit,
                                              void *ctx)
{
    (void)vcpu;
    (void)exit;
    (void)ctx;
    status_in_handler = virtx_vm_set_paging(
        machine.vm, virtx_vm_paging(machine.vm) == &virtx_paging_nested ? &virtx_paging_shadow
                                                                        : &virtx_paging_nested);
    return VIRTX_HANDLED;
}

/* Memory, devices and its own tables, with a stop after each. */
static void guest_lives_on(uint64_t gva)
{
    uint64_t *pte = guest_pte(gva);

    for (uint64_t i = 0; i < 8; i++) {
        *pte = (GUEST_MEMORY + (i & 1) * PAGE) | PTE;
        guest_invlpg(gva);
        *(volatile uint64_t *)gva += i;
        guest_mark(i);
        *(volatile uint32_t *)(uintptr_t)GUEST_HOLE = (uint32_t)i;
        *pte = 0;
        guest_invlpg(gva);
        if (GUEST_TRY("movq (%0), %%rax", : "r"(gva) : "rax", "memory") != 14)
            guest_done(~0u);
        guest_done(RAM64(0) << 16 | RAM64(PAGE));
    }
}

static void exchange_engines(void)
{
    static const struct virtx_paging unknown;
    const struct virtx_paging *engines[2] = {&virtx_paging_nested, &virtx_paging_shadow};
    uint64_t sums[2] = {0, 0};

    machine_open();
    CHECK_STATUS(virtx_vm_set_paging(machine.vm, &unknown), VIRTX_E_INVALID);
    CHECK_STATUS(virtx_vm_set_paging(machine.vm, NULL), VIRTX_E_INVALID);
    if (!paging_is_nested()) {
        enum virtx_status wanted =
            harness_engines()[1] == NULL ? VIRTX_E_INVALID : VIRTX_E_UNSUPPORTED;

        CHECK_STATUS(virtx_vm_set_paging(machine.vm, &virtx_paging_nested), wanted);
        not_shown("there is one engine only");
        return;
    }
    CHECK(virtx_vm_paging(machine.vm) == engines[0]);
    intercept_handler(VIRTX_INTERCEPT_PORT, VIRTX_WRITE, PORT_MARK, PORT_MARK, exchange_in_handler,
                      NULL);
    guest_prepare(guest_lives_on, 0x70000000);
    for (uint64_t i = 0; i < 8; i++) {
        status_in_handler = VIRTX_OK;
        if (!CHECK(EXPECT_EXIT(VIRTX_EXIT_MMIO)))
            return;
        CHECK_EQUAL(machine.exit->mmio.value, i);
        CHECK_STATUS(status_in_handler, VIRTX_E_BUSY);
        /* With an access pending, and without. */
        CHECK_OK(virtx_vm_set_paging(machine.vm, engines[~i & 1]));
        CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
        CHECK(virtx_vm_paging(machine.vm) == engines[~i & 1]);
        sums[i & 1] += i;
        CHECK_EQUAL(GUEST_CONTINUE(), sums[0] << 16 | sums[1]);
        if (i & 2)
            CHECK_OK(virtx_vm_set_paging(machine.vm, engines[i >> 2 & 1]));
        CHECK_EQUAL(guest_trap.error, 0);
        CHECK_EQUAL(guest_trap.cr2, 0x70000000);
    }
}

GUEST_CASES({"gva-2000-gpa-50000", g1}, {"exchange-of-the-engine", exchange_engines},
            {"guest-reads-its-tables-and-cr3", reads_tables},
            {"guest-edits-tables-without-exits", edits_tables},
            {"table-sync-policies", edits_tables_three_ways},
            {"own-faults-without-exits", own_faults}, {"ring-3-reads-a-kernel-page", kernel_page},
            {"mmio-sizes", mmio_sizes}, {"mmio-instruction-forms", mmio_forms},
            {"ram-then-mmio-in-one-access", straddle},
            {"mmio-then-ram-in-one-access", straddle_to_ram},
            {"straddling-write-faults-as-a-whole", straddle_fault}, {"read-only-slot", read_only},
            {"execute-never-slot", execute_never}, {"fetch-from-a-hole", execute_hole},
            {"rom-with-a-device-behind", rom_with_device},
            {"table-walk-in-a-read-only-slot", table_walk}, {"table-walk-in-a-hole", table_in_hole},
            {"remove-and-add-live", remove_and_add}, {"ram-over-a-former-device", add_over_device},
            {"move-live", move}, {"dirty-log", dirty_log},
            {"dirty-log-from-the-start", dirty_log_from_start},
            {"dirty-log-of-the-library's-writes", dirty_log_by_library},
            {"dirty-log-without-hardware-help", dirty_log_without_hardware_help},
            {"dirty-log-three-ways", dirty_log_three_ways},
            {"guest-toggles-pg-and-pae", guest_toggles_paging},
            {"five-level-paging-is-not-there", no_la57}, {"large-pages", large_pages},
            {"small-pages", small_pages}, {"large-pages-not-executable", small_execute},
            {"large-pages-disabled", large_pages_off}, {"odd-alignment", odd_alignment},
            {"memory-types", memory_types}, {"mtrr-and-pat-as-written", types_as_written},
            {"backing-swapped-out-and-in", no_backing}, {"probes-outside-slots", isolation},
            {"host-access-to-guest-memory", host_access});
