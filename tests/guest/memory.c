/* SPDX-License-Identifier: BSD-2-Clause */
/* Guest-physical memory: slots and their rights, holes, page sizes, memory types. */
#include "guest_memory.h"

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

static volatile uint64_t in_image;

/* The guest's tables in a slot that may not be written: the processor's walk is refused. */
static void table_walk(void)
{
    uint64_t generation, *table;

    machine_open();
    /* A page table in the last page of RAM maps 0x70000000 to the image. */
    table = (uint64_t *)(void *)(machine.ram + GUEST_MEMORY_BYTES - PAGE);
    table[0] = (uintptr_t)&in_image / PAGE * PAGE | PTE;
    guest_pd[1][0x30000000 >> 21] = (GUEST_MEMORY + GUEST_MEMORY_BYTES - PAGE) | PTE;
    in_image = 0x4711;
    uint64_t gva = 0x70000000 + ((uintptr_t)&in_image & (PAGE - 1));
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

/* Nested faults are the processor's: the executor walks the tables in software. */
static bool no_faults(void)
{
    if (harness_interpreted())
        not_shown("the executor takes no nested faults");
    return harness_interpreted();
}

static void large_pages(void)
{
    if (no_faults())
        return;
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
    if (no_faults())
        return;
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

    if (no_faults())
        return;
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
    if (no_faults())
        return;
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
    if (!harness_interpreted()) /* the library itself reads where the embedder has the memory */
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

GUEST_CASES({"gva-2000-gpa-50000", g1}, {"read-only-slot", read_only},
            {"execute-never-slot", execute_never}, {"fetch-from-a-hole", execute_hole},
            {"rom-with-a-device-behind", rom_with_device},
            {"table-walk-in-a-read-only-slot", table_walk}, {"table-walk-in-a-hole", table_in_hole},
            {"remove-and-add-live", remove_and_add}, {"ram-over-a-former-device", add_over_device},
            {"move-live", move}, {"large-pages", large_pages}, {"small-pages", small_pages},
            {"large-pages-not-executable", small_execute},
            {"large-pages-disabled", large_pages_off}, {"odd-alignment", odd_alignment},
            {"memory-types", memory_types}, {"mtrr-and-pat-as-written", types_as_written},
            {"backing-swapped-out-and-in", no_backing}, {"probes-outside-slots", isolation},
            {"host-access-to-guest-memory", host_access});
