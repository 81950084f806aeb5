/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A guest that audits its own paging: it edits tables at random, tables that map themselves and
 * each other among them, accesses memory through them from rings 0 and 3, and compares what the
 * processor does with the reference walker's answer: data or #PF, error code, CR2, accessed and
 * dirty flags. What it compares after has been flushed as the manuals demand; between an edit and
 * the flush it goes on without comparing, as a TLB may be behind.
 *
 * All entries lead into one slot of RAM, whatever level they are met at, and what is written
 * through them are such entries again; so nothing else can be hit. `operations=N` says how many.
 */
#include "../unit/ref_walk.h"
#include "guest_memory.h"

enum {
    TABLES = 12,
    WINDOW = 1, /* entry of the top table below which all this is */
};

#define CR0_WP  (1ul << 16)
#define CR4_PGE (1ul << 7)

static uint64_t seed;

static uint64_t random_bits(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1dul;
}

static unsigned below(unsigned bound)
{
    return (unsigned)(random_bits() >> 33) % bound;
}

/* ---- The guest's memory and registers ---- */

static _Alignas(4096) uint64_t other_root[512];
static struct ref_registers regs;

/* What went wrong first, and what was done. */
static volatile struct {
    uint64_t operations, compared, faulted, gva, expected, found, what;
} seen;

static uint64_t table(unsigned n)
{
    return GUEST_MEMORY + (n < TABLES - 3 ? n : 512 + n) * 4096ul;
}

static bool read_memory(void *ctx, uint64_t address, unsigned width, uint64_t *value)
{
    (void)ctx;
    *value = width == 8 ? *(volatile uint64_t *)(uintptr_t)address
                        : *(volatile uint32_t *)(uintptr_t)address;
    return true;
}

static uint64_t random_entry(void)
{
    static const uint16_t often[] = {0x7, 0x67, 0x27, 0x25, 0x63, 0x3, 0x5, 0xe7};
    uint64_t entry = often[below(8)], frame;

    switch (below(20)) {
    case 0:
        return 0;
    case 1:
    case 2:
        frame = GUEST_MEMORY + below(1024) * 4096ul;
        break;
    case 3:
        frame = GUEST_MEMORY + below(2) * 0x200000ul;
        break;
    default:
        frame = table(below(TABLES));
        break;
    }
    entry |= frame;
    if (below(8) == 0) /* not G: what is global stays when CR3 is loaded */
        entry ^= 1ul << below(8);
    if (below(16) == 0)
        entry |= 1ul << 63;
    if (below(64) == 0)
        entry |= 1ul << 51;
    return entry;
}

static unsigned random_index(unsigned count)
{
    static const uint16_t few[] = {0, 1, 2, 511, 256, 3};

    return few[below(count)];
}

/* A page of 1 GiB is backed at its beginning only, so the index of a directory is 0 or 1. */
static uint64_t random_gva(void)
{
    return (uint64_t)WINDOW << 39 | (uint64_t)random_index(4) << 30 | (uint64_t)below(2) << 21 |
           (uint64_t)random_index(6) << 12 | (uint64_t)random_index(6) << 3;
}

static void edit(void)
{
    uint64_t *at = below(16) ? (uint64_t *)(uintptr_t)(table(below(TABLES))) + random_index(6)
                             : (uint64_t *)(uintptr_t)regs.cr3 + WINDOW;

    *(volatile uint64_t *)at = random_entry();
}

/* ---- Accesses ---- */

static volatile struct {
    uint64_t gva, value;
    bool write;
    int vector;
} done;

static void access_now(uint64_t argument)
{
    uint64_t value = done.value;

    (void)argument;
    done.vector = done.write ? GUEST_TRY("movq %0, (%1)",
                                         : "r"(value), "r"(done.gva)
                                         : "memory")
                             : GUEST_TRY("movq (%1), %0", "+r"(value)
                                         : "r"(done.gva)
                                         : "memory");
    done.value = value;
}

static void bad(unsigned what, uint64_t expected, uint64_t found)
{
    if (seen.what)
        return;
    seen.what = what;
    seen.gva = done.gva;
    seen.expected = expected;
    seen.found = found;
}

/* `compare`: no translation of the page is older than the tables. */
static void access(uint64_t gva, bool compare)
{
    struct ref_memory memory = {.read = read_memory};
    struct ref_access access = {.write = below(3) == 0, .cpl3 = below(4) == 0};
    struct ref_result walk = ref_walk(&memory, &regs, gva, &access);
    uint64_t value = access.write ? random_entry() : 0, before = 0;
    bool own = false;

    if (walk.kind == REF_OK)
        before = *(volatile uint64_t *)(uintptr_t)walk.address;
    for (unsigned i = 0; i < walk.count; i++) /* a flag of it is set by the access */
        own |= walk.entry[i].address == walk.address;
    done.gva = gva;
    done.write = access.write;
    done.value = value;
    if (access.cpl3)
        guest_ring3(access_now, 0);
    else
        access_now(0);
    if (!compare)
        return;
    seen.compared++;
    if (walk.kind != REF_OK) {
        seen.faulted++;
        if (done.vector != 14)
            bad(1, walk.error, (uint64_t)done.vector);
        else if (guest_trap.error != walk.error)
            bad(2, walk.error, guest_trap.error);
        else if (guest_trap.cr2 != gva)
            bad(3, gva, guest_trap.cr2);
        return;
    }
    if (done.vector != -1)
        bad(4, walk.address, guest_trap.error);
    else if (own)
        return;
    else if (access.write && *(volatile uint64_t *)(uintptr_t)walk.address != value)
        bad(5, value, *(volatile uint64_t *)(uintptr_t)walk.address);
    else if (!access.write && done.value != before)
        bad(6, before, done.value);
    for (unsigned i = 0; i < walk.count; i++) {
        uint64_t now = *(volatile uint64_t *)(uintptr_t)walk.entry[i].address;

        if (!(now & 0x20) || (access.write && i + 1u == walk.count && !(now & 0x40)))
            bad(7, walk.entry[i].value, now);
    }
}

static void flush_all(void)
{
    switch (below(8)) {
    case 0:
        regs.cr4 ^= CR4_PGE;
        bare_write_cr4(regs.cr4);
        break;
    case 1:
        regs.cr0 ^= CR0_WP;
        bare_write_cr0(regs.cr0);
        bare_write_cr3(regs.cr3);
        break;
    case 2:
    case 3:
        regs.cr3 ^= (uintptr_t)guest_pml4 ^ (uintptr_t)other_root;
        bare_write_cr3(regs.cr3);
        break;
    default:
        bare_write_cr3(regs.cr3);
        break;
    }
}

static void operation(void)
{
    uint64_t gva = random_gva();

    for (unsigned n = below(4); n; n--)
        edit();
    if (below(4) == 0)
        access(gva, false);
    if (below(2)) {
        guest_invlpg(gva);
        access(gva, true);
        return;
    }
    flush_all();
    for (unsigned n = 0; n < 4; n++) {
        access(random_gva(), true);
        /* What has been written may have been an entry. */
        if (done.write)
            return;
    }
}

static void audit(uint64_t count)
{
    uint32_t eax = 0, ebx, ecx = 0, edx;

    __asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    regs.amd = ebx == 0x68747541 || ebx == 0x6f677948;
    eax = 0x80000008;
    __asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    regs.maxphyaddr = eax & 0xff;
    eax = 0x80000001;
    __asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    regs.page1gb = edx >> 26 & 1;
    regs.cr0 = bare_read_cr0();
    regs.cr3 = bare_read_cr3();
    regs.cr4 = bare_read_cr4();
    regs.efer = bare_rdmsr(0xc0000080);
    for (uint64_t n = 0; n < count && !seen.what; n++) {
        seen.operations++;
        operation();
    }
    guest_done(seen.what);
}

static void tables_audited(void)
{
    uint64_t count = bare_option_u64("operations", 10000), exits;

    harness_patience += count / 10000;
    machine_open();
    seed = 0x9e3779b97f4a7c15;
    memcpy(other_root, guest_pml4, sizeof(other_root));
    guest_pml4[WINDOW] = table(0) | 0x67;
    other_root[WINDOW] = table(1) | 0x67;
    for (unsigned n = 0; n < TABLES; n++)
        for (unsigned i = 0; i < 24; i++)
            ((uint64_t *)(void *)(machine.ram + (table(n) - GUEST_MEMORY)))[random_index(6)] =
                random_entry();
    exits = guest_exits();
    GUEST_RESULT(audit, count);
    bare_printf("  %lu operations, %lu accesses compared, %lu of them faults; %lu exits\n",
                seen.operations, seen.compared, seen.faulted, guest_exits() - exits);
    if (seen.what)
        bare_printf("  operation %lu, rule %lu: %lx expected %lx, found %lx\n", seen.operations,
                    seen.what, seen.gva, seen.expected, seen.found);
    CHECK_EQUAL(seen.what, 0);
    CHECK_EQUAL(seen.operations, count);
    CHECK(seen.faulted > count / 10 && seen.compared - seen.faulted > count / 10);
}

GUEST_CASES({"tables-edited-at-random", tables_audited});
