/* SPDX-License-Identifier: BSD-2-Clause */
/* The guest's own paging: its tables, its faults, its modes; and the engine that serves it. */
#include "guest_memory.h"
#include <virtx/paging.h>

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

    if (paging_is_nested()) {
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

/* A kernel that isolates its page tables loads CR3 at each entry and exit; a page table that grows
 * meanwhile is looked at by each of these flushes. The writes are executed after a while, but not
 * many at once. */
static void guest_grows(uint64_t flush)
{
    enum { PAGES = 256 };
    uint64_t gva = 0x70000000, sum = 0, cr3 = bare_read_cr3();

    RAM64(0) = 1;
    RAM64(PAGE) = 2;
    for (uint64_t i = 0; i < PAGES; i++) {
        volatile uint64_t *pte = guest_pte(gva + i * PAGE);

        *pte = (GUEST_MEMORY + (i & 1) * PAGE) | PTE;
        if (flush)
            bare_write_cr3(cr3);
        sum += read64(gva + i * PAGE);
    }
    for (uint64_t i = 0; i < PAGES; i++)
        *guest_pte(gva + i * PAGE) = 0;
    bare_write_cr3(cr3);
    guest_done(sum);
}

static void grows(void)
{
    struct virtx_stats before, after;

    if (paging_is_nested()) {
        not_shown("paging is nested");
        return;
    }
    machine_open();
    for (unsigned round = 0; round < 3; round++) {
        uint64_t executed;

        virtx_vcpu_stats(machine.vcpu, &before);
        CHECK_EQUAL(GUEST_RESULT(guest_grows, round != 0), 3 * 128);
        virtx_vcpu_stats(machine.vcpu, &after);
        executed = after.instructions - before.instructions;
        bare_printf("  %u: %lu executed writes of 512\n", round, executed);
        CHECK(round ? executed > 128 && executed < 300 : executed == 0);
    }
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

GUEST_CASES({"exchange-of-the-engine", exchange_engines},
            {"guest-reads-its-tables-and-cr3", reads_tables},
            {"guest-edits-tables-without-exits", edits_tables},
            {"table-sync-policies", edits_tables_three_ways}, {"table-that-grows", grows},
            {"own-faults-without-exits", own_faults}, {"ring-3-reads-a-kernel-page", kernel_page},
            {"guest-toggles-pg-and-pae", guest_toggles_paging},
            {"five-level-paging-is-not-there", no_la57});
