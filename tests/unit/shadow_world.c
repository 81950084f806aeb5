/* SPDX-License-Identifier: BSD-2-Clause */
/* Models behind the tests of shadow paging; see shadow_world.h. */
#include "shadow_world.h"

#include <stdlib.h>
#include <string.h>

#define POOL_HPA 0x10000000ull  /* below 4 GiB, for PAE roots */
#define RAM_HPA  0x200000000ull /* guest pages, not in order */
#define HIGH_HPA 0x300000000ull /* in order */

struct world world;

static uint8_t *pool;
static enum { PAGE_FREE, PAGE_USED } page_state[POOL_PAGES];
static unsigned page_next;
static uint64_t seed;
/* Room for two tables of four entries each. */
#define SLOT_ENTRIES 4u
static _Alignas(struct slot_table)
    uint8_t slot_room[2][sizeof(struct slot_table) + SLOT_ENTRIES * sizeof(struct slot_entry)];
static unsigned slots_now;
static struct virtx_hw hw;
static struct virtx_backend backend;

static struct slot_table *slots_of(unsigned which)
{
    return (struct slot_table *)(void *)slot_room[which];
}

uint64_t world_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1dull;
}

uint32_t world_below(uint32_t bound)
{
    return (uint32_t)((world_random() >> 33) % bound);
}

/* ---- Memory ---- */

uint8_t *world_ram(uint64_t gpa)
{
    if (gpa < RAM_PAGES * PAGE)
        return world.ram + gpa;
    if (gpa >= HIGH && gpa < HIGH + HIGH_PAGES * PAGE)
        return world.ram + RAM_PAGES * PAGE + (gpa - HIGH);
    return NULL;
}

uint64_t world_hpa(uint64_t gpa)
{
    uint64_t page = gpa / PAGE;

    if (gpa < RAM_PAGES * PAGE)
        return RAM_HPA + (page * 389 % RAM_PAGES) * PAGE + gpa % PAGE;
    return HIGH_HPA + (gpa - HIGH);
}

static uint64_t virt_to_phys(void *ctx, const void *va)
{
    uint64_t offset = (uint64_t)((const uint8_t *)va - pool);

    (void)ctx;
    if (offset < POOL_PAGES * PAGE)
        return POOL_HPA + offset;
    offset = (uint64_t)((const uint8_t *)va - world.ram);
    EXPECT(offset < (RAM_PAGES + HIGH_PAGES) * PAGE);
    return offset < RAM_PAGES * PAGE ? world_hpa(offset)
                                     : world_hpa(HIGH + (offset - RAM_PAGES * PAGE));
}

static void *phys_to_virt(void *ctx, uint64_t hpa)
{
    (void)ctx;
    EXPECT(hpa - POOL_HPA < POOL_PAGES * PAGE);
    return pool + (hpa - POOL_HPA);
}

uint64_t *world_table(uint64_t hpa)
{
    EXPECT(hpa - POOL_HPA < POOL_PAGES * PAGE);
    EXPECT(page_state[(hpa - POOL_HPA) / PAGE] == PAGE_USED);
    return (uint64_t *)(void *)(pool + (hpa - POOL_HPA));
}

static bool read_guest(void *ctx, uint64_t gpa, unsigned width, uint64_t *value)
{
    const struct slot_entry *slot = virtx_slot_find(slots_of(slots_now), gpa);

    (void)ctx;
    *value = 0;
    if (!slot)
        return false;
    memcpy(value, world_ram(gpa), width);
    return true;
}

/* The processor must meet nothing but tables in use. */
static bool read_host(void *ctx, uint64_t hpa, unsigned width, uint64_t *value)
{
    (void)ctx;
    memcpy(value, (uint8_t *)world_table(hpa & ~0xfffull) + (hpa & 0xfff), width);
    return true;
}

/* ---- What src/paging asks of src/core and src/hw ---- */

const struct slot_entry *virtx_slot_find(const struct slot_table *table, uint64_t gpa)
{
    for (uint32_t i = 0; i < table->count; i++)
        if (gpa >= table->entry[i].gpa && gpa < table->entry[i].end)
            return &table->entry[i];
    return NULL;
}

void virtx_slot_mark(const struct slot_entry *entry, uint64_t gpa, uint64_t bytes)
{
    if (entry->dirty)
        for (uint64_t at = gpa; at < gpa + bytes; at += PAGE)
            ((uint64_t *)(void *)entry->dirty)[(at - entry->gpa) / PAGE / 64] |=
                BIT((at - entry->gpa) / PAGE % 64);
}

void *virtx_pool_get(struct virtx_vm *vm)
{
    (void)vm;
    if (world.pool_used >= world.pool_limit)
        return NULL;
    for (unsigned n = 0; n < POOL_PAGES; n++) {
        unsigned i = (page_next + n) % POOL_PAGES;

        if (page_state[i] != PAGE_FREE)
            continue;
        page_state[i] = PAGE_USED;
        page_next = i + 1;
        world.pool_used++;
        return memset(pool + i * PAGE, 0, PAGE);
    }
    return NULL;
}

void virtx_pool_put(struct virtx_vm *vm, void *page, uint64_t generation)
{
    uint64_t i = (uint64_t)((uint8_t *)page - pool) / PAGE;

    (void)vm;
    EXPECT(i < POOL_PAGES && page_state[i] == PAGE_USED && generation == 0);
    page_state[i] = PAGE_FREE;
    world.pool_used--;
}

uint64_t virtx_generation_next(struct virtx_vm *vm)
{
    uint64_t generation = atomic_fetch_add(&vm->generation, 1) + 1;

    for (unsigned i = 0; i < vm->vcpu_count; i++)
        atomic_fetch_or(&world.vcpu[i].requests, VIRTX_REQUEST_MEMORY);
    return generation;
}

bool virtx_is_settled(struct virtx_vm *vm, uint64_t generation)
{
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        if (atomic_load(&world.vcpu[i].settled) < generation)
            return false;
    return true;
}

void hw_walk_mode(struct hw_vcpu *hv, struct walk_mode *mode)
{
    *mode = world.mode[hv - world.hv];
}

void hw_owe(struct hw_vcpu *hv, uint32_t debts)
{
    hv->flush |= debts;
    world.debts++;
}

static void kick(struct virtx_vcpu *vcpu)
{
    (void)vcpu;
}

bool hw_can_execute_write(struct hw_vcpu *hv)
{
    (void)hv;
    return world.executes;
}

/* ---- The processor ---- */

/*
 * A TLB that keeps what it has seen until it is flushed. It is what a missing debt shows by: it
 * must never hold what the engine's tables do not say any more, once the vcpu has been entered.
 */
#define TLB 512u
static struct tlb_line {
    uint64_t gva, hpa;
    uint64_t allowed; /* by enum of access: bit (write | fetch << 1 | user << 2) */
} tlb[2][TLB];

static struct ref_registers registers(const struct walk_mode *mode)
{
    struct ref_registers r = {
        .cr0 = mode->cr0,
        .cr3 = mode->cr3,
        .cr4 = mode->cr4,
        .efer = mode->efer,
        .rflags = mode->rflags,
        .pkru = mode->pkru,
        .maxphyaddr = mode->physical_bits,
        .page1gb = !mode->no_1g,
        .amd = mode->amd,
    };

    memcpy(r.pdpte, mode->pdpte, sizeof(r.pdpte));
    return r;
}

struct ref_result world_guest(unsigned cpu, uint64_t gva, const struct ref_access *access)
{
    struct ref_registers r = registers(&world.mode[cpu]);
    struct ref_memory memory = {.read = read_guest};

    return ref_walk(&memory, &r, gva, access);
}

struct ref_result world_processor(unsigned cpu, uint64_t gva, const struct ref_access *access)
{
    struct ref_registers r = registers(&world.mode[cpu]);
    struct ref_memory memory = {.read = read_host};
    bool paged = r.cr0 & CR0_PG;

    r.cr0 |= CR0_PG | CR0_WP;
    r.cr3 = world.root[cpu];
    r.cr4 |= CR4_PAE;
    r.cr4 &= ~CR4_PCIDE;
    r.efer |= EFER_NXE;
    r.maxphyaddr = world.virtx.caps.physical_bits;
    r.page1gb = true;
    if (!paged) {
        r.cr4 &= ~(CR4_SMEP | CR4_SMAP | CR4_PKE);
        r.efer &= ~EFER_LMA;
    }
    if (!(r.efer & EFER_LMA)) {
        EXPECT(r.cr3 >> 32 == 0);
        memcpy(r.pdpte, world_table(r.cr3), sizeof(r.pdpte));
    }
    return ref_walk(&memory, &r, gva, access);
}

void world_enter(unsigned cpu)
{
    struct hw_vcpu *hv = &world.hv[cpu];
    struct virtx_vcpu *vcpu = &world.vcpu[cpu];

    if (atomic_exchange(&vcpu->requests, 0) & VIRTX_REQUEST_MEMORY) {
        hv->flush |= HW_FLUSH_TAG;
        hv->work |= HW_WORK_ROOT;
        atomic_store(&vcpu->settled, atomic_load(&world.vm.generation));
    }
    hv->valid = VIRTX_STATE_ALL;
    hv->state.cr0 = world.mode[cpu].cr0;
    hv->state.cr3 = world.mode[cpu].cr3;
    hv->state.cr4 = world.mode[cpu].cr4;
    hv->state.efer = world.mode[cpu].efer;
    if (hv->work & HW_WORK_ROOT)
        world.root[cpu] = virtx_paging_shadow.root(vcpu);
    hv->work = 0;
    if (hv->flush)
        world_forget(cpu);
    hv->flush = 0;
}

void world_forget(unsigned cpu)
{
    memset(tlb[cpu], 0, sizeof(tlb[cpu]));
    world.stale = false;
}

static unsigned kind_of(const struct ref_access *access)
{
    return access->write | access->fetch << 1 | access->cpl3 << 2;
}

void world_audit_tlb(unsigned cpu, uint64_t gva)
{
    for (unsigned i = 0; i < TLB; i++) {
        const struct tlb_line *line = &tlb[cpu][i];

        if (!line->gva || (gva != WORLD_ALL && line->gva != (gva | 0xfff)))
            continue;
        for (unsigned kind = 0; kind < 8; kind++) {
            struct ref_access access = {
                .write = kind & 1, .fetch = kind >> 1 & 1, .cpl3 = kind >> 2};
            struct ref_result guest;

            if (!(line->allowed >> kind & 1))
                continue;
            guest = world_guest(cpu, line->gva & ~0xfffull, &access);
            EXPECT(guest.kind == REF_OK);
            EXPECT(line->hpa == world_hpa(guest.address));
        }
    }
}

/* By the TLB, else by a walk that fills it. A fault takes the page's entry away (Intel SDM
 * "Operations that Invalidate TLBs and Paging-Structure Caches"). */
static struct ref_result translate(unsigned cpu, uint64_t gva, const struct ref_access *access)
{
    struct tlb_line *line = &tlb[cpu][(gva >> 12 ^ gva >> 21 ^ gva >> 30) % TLB];
    struct ref_result result;

    if (line->gva == (gva | 0xfff) && (line->allowed >> kind_of(access) & 1)) {
        if (world.vm.vcpu_count == 1 && !world.stale) {
            result = world_processor(cpu, gva, access);
            EXPECT(result.kind == REF_OK && result.address == (line->hpa | (gva & 0xfff)));
        }
        result = (struct ref_result){.kind = REF_OK, .address = line->hpa | (gva & 0xfff)};
        return result;
    }
    result = world_processor(cpu, gva, access);
    if (result.kind != REF_OK) {
        if (line->gva == (gva | 0xfff))
            memset(line, 0, sizeof(*line));
        return result;
    }
    for (unsigned i = 0; i < result.count; i++) /* accessed flags */
        if (!(result.entry[i].value & SPTE_A))
            __atomic_fetch_or(
                (uint64_t *)(void *)((uint8_t *)world_table(result.entry[i].address & ~0xfffull) +
                                     (result.entry[i].address & 0xfff)),
                SPTE_A, __ATOMIC_RELAXED);
    if (line->gva != (gva | 0xfff) || line->hpa != (result.address & ~0xfffull))
        *line = (struct tlb_line){.gva = gva | 0xfff, .hpa = result.address & ~0xfffull};
    line->allowed |= BIT(kind_of(access));
    return result;
}

static void check_reflected(unsigned cpu, uint64_t gva, const struct ref_access *access,
                            uint32_t error)
{
    struct ref_result guest = world_guest(cpu, gva, access);

    EXPECT(guest.kind == REF_PAGE_FAULT);
    EXPECT(guest.error == error);
}

enum outcome world_access(unsigned cpu, uint64_t gva, const struct ref_access *access,
                          uint64_t *hpa)
{
    for (unsigned tries = 0; tries < 24; tries++) {
        struct virtx_page_fault fault = {.gva = gva, .gva_valid = true};
        struct ref_result result;

        world_enter(cpu);
        result = translate(cpu, gva, access);
        *hpa = result.address;
        if (result.kind == REF_OK)
            return DONE;
        if (world.hv[cpu].fault_bits && !(result.error & world.hv[cpu].fault_bits)) {
            world.direct++;
            check_reflected(cpu, gva, access, result.error);
            return FAULTED;
        }
        fault.error = result.error;
        fault.access = access->fetch ? VIRTX_EXECUTE : access->write ? VIRTX_WRITE : VIRTX_READ;
        world.faults++;
        switch (virtx_paging_shadow.fault(&world.vcpu[cpu], &fault)) {
        case VIRTX_FAULT_RESUME:
            break;
        case VIRTX_FAULT_REFLECT:
            world.reflected++;
            check_reflected(cpu, gva, access, fault.error);
            return FAULTED;
        case VIRTX_FAULT_NOT_MEMORY:
            world.devices++;
            *hpa = fault.gpa;
            return DEVICE;
        case VIRTX_FAULT_EXECUTE:
            world.executed++;
            return EXECUTED;
        case VIRTX_FAULT_FORBIDDEN:
            return REFUSED;
        default:
            ck_abort_msg("no memory (operation %llu)", (unsigned long long)world.operations);
        }
        for (unsigned other = 0; other < world.vm.vcpu_count; other++) /* kicked */
            if (other != cpu && world.vcpu[other].requests)
                world_enter(other);
    }
    ck_abort_msg("a fault comes again and again (operation %llu)",
                 (unsigned long long)world.operations);
}

/* ---- Life ---- */

void world_slots(bool high, uint32_t rights, bool logging)
{
    struct slot_entry *entry;

    slots_now ^= 1;
    entry = slots_of(slots_now)->entry;
    memset(slot_room[slots_now], 0, sizeof(slot_room[0]));
    *entry++ =
        (struct slot_entry){.gpa = 0, .end = ROM_PAGE * PAGE, .memory = world.ram, .rights = 7};
    *entry++ = (struct slot_entry){.gpa = ROM_PAGE * PAGE,
                                   .end = (ROM_PAGE + 1) * PAGE,
                                   .memory = world.ram + ROM_PAGE * PAGE,
                                   .rights = VIRTX_READ | VIRTX_EXECUTE};
    *entry++ = (struct slot_entry){.gpa = (ROM_PAGE + 1) * PAGE,
                                   .end = RAM_PAGES * PAGE,
                                   .memory = world.ram + (ROM_PAGE + 1) * PAGE,
                                   .rights = 7};
    if (high)
        *entry++ = (struct slot_entry){.gpa = HIGH,
                                       .end = HIGH + HIGH_PAGES * PAGE,
                                       .memory = world.ram + RAM_PAGES * PAGE,
                                       .dirty = logging ? (void *)world.log : NULL,
                                       .rights = rights};
    slots_of(slots_now)->count = (uint32_t)(entry - slots_of(slots_now)->entry);
    for (unsigned i = 0; i < slots_of(slots_now)->count; i++)
        slots_of(slots_now)->entry[i].type = VIRTX_MEMORY_WB;
    world.logging = logging;
    atomic_store(&world.vm.slots, slots_of(slots_now));
}

void world_begin(unsigned vcpus, uint64_t pool_limit, unsigned physical_bits, bool filter,
                 enum virtx_table_sync sync)
{
    memset(&world, 0, sizeof(world));
    memset(page_state, 0, sizeof(page_state));
    memset(tlb, 0, sizeof(tlb));
    seed = 0x9e3779b97f4a7c15;
    pool = aligned_alloc(PAGE, POOL_PAGES * PAGE);
    world.ram = aligned_alloc(2 << 20, (RAM_PAGES + HIGH_PAGES) * PAGE);
    memset(world.ram, 0, (RAM_PAGES + HIGH_PAGES) * PAGE);
    world.pool_limit = pool_limit;
    backend.hw = &hw;
    backend.kick = kick;
    world.virtx.backend = &backend;
    world.virtx.caps.physical_bits = (uint8_t)physical_bits;
    world.virtx.caps.features = filter ? VIRTX_FEATURE_FAULT_FILTER : 0;
    world.virtx.ops.virt_to_phys = virt_to_phys;
    world.virtx.ops.phys_to_virt = phys_to_virt;
    world.vm.virtx = &world.virtx;
    world.vm.config.table_sync = (uint8_t)sync;
    world.vm.config.pool_pages = pool_limit;
    world.vm.paging_data = calloc(1, virtx_paging_shadow.vm_bytes);
    world_slots(true, 7, false);
    ck_assert_int_eq(virtx_paging_shadow.vm_create(&world.vm), VIRTX_OK);
    for (unsigned i = 0; i < vcpus; i++) {
        world.vcpu[i].vm = &world.vm;
        world.vcpu[i].virtx = &world.virtx;
        world.vcpu[i].backend_data = &world.hv[i];
        world.vcpu[i].paging_data = calloc(1, virtx_paging_shadow.vcpu_bytes);
        world.vcpu[i].next = i ? &world.vcpu[i - 1] : NULL;
        world.hv[i].vcpu = &world.vcpu[i];
        world.hv[i].work = HW_WORK_ROOT;
        world.mode[i] = (struct walk_mode){.cr0 = CR0_PE, .physical_bits = 40, .amd = !filter};
        ck_assert_int_eq(virtx_paging_shadow.vcpu_create(&world.vcpu[i]), VIRTX_OK);
        world.vm.vcpus = &world.vcpu[i];
        world.vm.vcpu_count = i + 1;
    }
}

void world_end(void)
{
    for (unsigned i = 0; i < world.vm.vcpu_count; i++) {
        virtx_paging_shadow.vcpu_destroy(&world.vcpu[i]);
        free(world.vcpu[i].paging_data);
    }
    virtx_paging_shadow.vm_destroy(&world.vm);
    ck_assert_uint_eq(world.pool_used, 0);
    free(world.vm.paging_data);
    free(world.ram);
    free(pool);
}

/* ---- The audit ---- */

static const struct slot_entry *slot_at(uint64_t gpa)
{
    return virtx_slot_find(slots_of(slots_now), gpa);
}

bool world_is_memory(uint64_t gpa)
{
    return slot_at(gpa) != NULL;
}

/* The guest's entry behind a shadow entry, by the manual's formats. */
static uint64_t guest_entry(const struct shadow_page *page, unsigned index)
{
    unsigned quadrant = page->role >> ROLE_QUADRANT & 3, level = page->role & ROLE_LEVEL;
    const uint8_t *table = world_ram(page->gfn << 12);
    uint64_t value = 0;

    if (page->role & ROLE_32)
        memcpy(&value,
               table + 4 * (level == 1 ? quadrant * 512 + index : quadrant * 256 + index / 2), 4);
    else
        memcpy(&value, table + 8 * index, 8);
    return value;
}

/* Every right that the leaf gives is the guest's to have, its flags are set, and its page is meant.
 */
static void audit_guest_leaf(const struct shadow_page *page, unsigned index, uint64_t gfn)
{
    unsigned level = page->role & ROLE_LEVEL;
    uint64_t leaf = page->entry[index], entry = guest_entry(page, index);
    bool u = (page->role & ROLE_U) && (entry & 4), w = (page->role & ROLE_W) && (entry & 2);
    bool x = (page->role & ROLE_X) && ((page->role & ROLE_32) || !(entry >> 63));
    uint64_t base;

    EXPECT((entry & 0x21) == 0x21);
    if (page->role & ROLE_32)
        base = level == 1 ? entry >> 12
                          : (entry >> 22 << 10 | (entry >> 13 & 0xff) << 20) + (index & 1) * 512;
    else
        base = (entry & 0x000ffffffffff000) >> 12 & (level == 1 ? ~0ull : ~511ull);
    EXPECT(base == gfn);
    if (leaf & SPTE_U)
        EXPECT(u);
    if (leaf & SPTE_W) {
        EXPECT(entry & 0x40);
        if (!(page->role & ROLE_WP))
            EXPECT(w || !(leaf & SPTE_U)); /* the guest's kernel may */
        else
            EXPECT(w);
    }
    if (!(leaf & SPTE_NX)) {
        EXPECT(x);
        if ((page->role & ROLE_SMEP) && !(leaf & SPTE_U))
            EXPECT(!u);
    }
    if (!(leaf & SPTE_U) && u)
        EXPECT(!(page->role & ROLE_WP) && !(page->role & (ROLE_SMAP | ROLE_PKE)));
}

static uint8_t sync_frame[RAM_PAGES + HIGH_PAGES];

static unsigned frame_number(uint64_t gfn)
{
    return (unsigned)(gfn < RAM_PAGES ? gfn : gfn - HIGH / PAGE + RAM_PAGES);
}

/* What protects the host, whatever the guest's tables say. */
static void audit_host(const struct shadow_vm *sv, const struct shadow_page *page, unsigned index)
{
    uint64_t leaf = page->entry[index], gfn = shadow_leaf_gfn(page, index);
    unsigned level = page->role & ROLE_LEVEL;

    for (uint64_t i = 0; i < (level == 1 ? 1 : 512); i += level == 1 ? 1 : 64) {
        const struct slot_entry *slot = slot_at((gfn + i) << 12);

        EXPECT(slot != NULL);
        EXPECT((leaf & SPTE_ADDRESS) + i * PAGE == world_hpa((gfn + i) << 12));
        if (leaf & SPTE_W) {
            EXPECT(slot->rights & VIRTX_WRITE);
            if (slot->dirty)
                EXPECT(((uint64_t *)(void *)slot->dirty)[(gfn - slot->gpa / PAGE) / 64] >>
                           ((gfn - slot->gpa / PAGE) % 64) &
                       1);
            EXPECT(!sync_frame[frame_number(gfn + i)]);
        }
        if (!(leaf & SPTE_NX))
            EXPECT(slot->rights & VIRTX_EXECUTE);
        EXPECT(level == 1 || !slot->dirty);
    }
    (void)sv;
}

static uint32_t access_below(const struct shadow_page *page, unsigned index)
{
    uint64_t entry = page->copy[index];
    uint32_t access = page->role & ROLE_ACCESS;

    if (!(entry & 2))
        access &= ~(uint32_t)ROLE_W;
    if (!(entry & 4))
        access &= ~(uint32_t)ROLE_U;
    if (!(page->role & ROLE_32) && entry >> 63)
        access &= ~(uint32_t)ROLE_X;
    return access;
}

static void audit_table(const struct shadow_page *page, unsigned index)
{
    const struct shadow_page *child = page->child[index];

    EXPECT(child->state == SHADOW_LIVE);
    EXPECT((page->entry[index] & SPTE_ADDRESS) == child->hpa);
    EXPECT((child->role & ROLE_LEVEL) + 1 == (page->role & ROLE_LEVEL));
    if ((page->role & (ROLE_DIRECT | ROLE_ROOT)) || (child->role & ROLE_DIRECT))
        return;
    EXPECT(child->gfn == (page->copy[index] & SPTE_ADDRESS) >> 12);
    EXPECT((child->role & ROLE_ACCESS) == access_below(page, index));
    EXPECT((child->role & ROLE_MODE) == (page->role & ROLE_MODE));
}

/* The guest's entry has not changed since it was copied, but for flags that were set. */
static void audit_copy(const struct shadow_page *page, unsigned index)
{
    uint64_t copy = page->copy[index], now = guest_entry(page, index), change;

    if (page->entry[index] == shadow_vm_of(&world.vm)->marker)
        return;
    change = (copy ^ now) & page->relevant;
    EXPECT(!(change & ~0x60ull));
    EXPECT(!(change & copy));
}

static void audit_page(struct shadow_vm *sv, struct shadow_page *page, uint32_t *links)
{
    unsigned level = page->role & ROLE_LEVEL;
    uint64_t unknown = page->role & ROLE_ROOT ? 0 : sv->unknown;

    for (unsigned i = 0; i < SHADOW_ENTRIES; i++) {
        uint64_t entry = page->entry[i];

        EXPECT(((page->used[i / 64] >> i % 64) & 1) == (entry != unknown));
        if (entry == unknown)
            continue;
        if (!entry) { /* which the processor tells the guest */
            EXPECT(!(page->role & ROLE_DIRECT) && !page->unsync && page->guest);
            EXPECT(!sv->unsync[SHADOW_TABLES]);
            EXPECT(!(guest_entry(page, i) & 1));
            EXPECT(page->absent >> i / 64 & 1);
            continue;
        }
        if (!(page->role & (ROLE_DIRECT | ROLE_ROOT)) && !page->unsync)
            audit_copy(page, i);
        if (!shadow_maps(entry))
            continue;
        ++*links;
        if (!shadow_is_leaf(entry, level)) {
            audit_table(page, i);
            continue;
        }
        audit_host(sv, page, i);
        if (!(page->role & ROLE_DIRECT) && !page->unsync)
            audit_guest_leaf(page, i, shadow_leaf_gfn(page, i));
    }
}

static uint32_t list_length(struct shadow_vm *sv, uint32_t id, uint32_t list)
{
    uint32_t length = 0, prev = list;

    for (; id; length++) {
        struct shadow_page *page = shadow_page_number(sv, id / SHADOW_ENTRIES);

        EXPECT(page->link[id % SHADOW_ENTRIES].prev == prev);
        EXPECT(shadow_maps(page->entry[id % SHADOW_ENTRIES]));
        prev = id;
        id = page->link[id % SHADOW_ENTRIES].next;
    }
    return length;
}

/* No processor that may be in the guest can write a table that is in sync without a fault. */
static void audit_writers(void)
{
    static uint32_t frame_at[RAM_PAGES]; /* by place in host memory, plus 1 */

    if (!frame_at[0])
        for (uint32_t i = 0; i < RAM_PAGES; i++)
            frame_at[(world_hpa(i * PAGE) - RAM_HPA) / PAGE] = i + 1;
    for (unsigned i = 0; i < world.vm.vcpu_count; i++) {
        if (world.hv[i].flush)
            continue; /* it flushes on its way there */
        for (unsigned n = 0; n < TLB; n++) {
            const struct tlb_line *line = &tlb[i][n];

            if (!line->gva || !(line->allowed & 0xaa))
                continue;
            if (line->hpa >= HIGH_HPA)
                EXPECT(!sync_frame[RAM_PAGES + (line->hpa - HIGH_HPA) / PAGE]);
            else
                EXPECT(!sync_frame[frame_at[(line->hpa - RAM_HPA) / PAGE] - 1]);
        }
    }
}

void world_audit(void)
{
    struct shadow_vm *sv = shadow_vm_of(&world.vm);
    uint32_t links = 0, listed = 0, tables = 0, large = 0;

    memset(sync_frame, 0, sizeof(sync_frame));
    for (struct shadow_page *page = sv->oldest; page; page = page->newer)
        if (!(page->role & ROLE_DIRECT) && !page->unsync && page->guest)
            sync_frame[frame_number(page->gfn)] = 1;
    audit_writers();
    for (struct shadow_page *page = sv->oldest; page; page = page->newer) {
        EXPECT(page->state == SHADOW_LIVE);
        EXPECT(shadow_page_find(sv, page->gfn, page->role) == page);
        tables += !(page->role & ROLE_DIRECT);
        audit_page(sv, page, &links);
        listed +=
            list_length(sv, page->parents, (uint32_t)(LINK_HEAD | LINK_PARENT) | page->number);
        if ((page->role & ROLE_LEVEL) > 1)
            for (unsigned i = 0; i < 512; i++)
                large += shadow_maps(page->entry[i]) &&
                         shadow_is_leaf(page->entry[i], page->role & ROLE_LEVEL);
    }
    for (unsigned i = 0; i < world.vm.vcpu_count; i++)
        audit_page(sv, shadow_vcpu_of(&world.vcpu[i])->pae, &links);
    for (uint32_t i = 0; i <= sv->rmap_mask; i++)
        if (sv->rmap[i / 1024][i % 1024])
            listed += list_length(sv, sv->rmap[i / 1024][i % 1024], (uint32_t)LINK_HEAD | i);
    EXPECT(links == listed);
    EXPECT(tables == sv->tables);
    EXPECT(large == sv->large);
}

/* All translations under the processor's root, by going through its tables. */
static void fresh_below(unsigned cpu, uint64_t table, unsigned level, unsigned entries,
                        uint64_t gva)
{
    bool wide = world.mode[cpu].efer & EFER_LMA && world.mode[cpu].cr0 & CR0_PG;

    for (unsigned i = 0; i < entries; i++) {
        uint64_t entry = world_table(table)[i], at = gva + i * shadow_span(level);

        if (!shadow_maps(entry))
            continue;
        if (wide)
            at = (uint64_t)((int64_t)(at << 16) >> 16);
        if (!shadow_is_leaf(entry, level)) {
            fresh_below(cpu, entry & SPTE_ADDRESS, level - 1, 512, at);
            continue;
        }
        for (unsigned kind = 0; kind < 8; kind++) {
            struct ref_access access = {
                .write = kind & 1, .fetch = kind >> 1 & 1, .cpl3 = kind >> 2 & 1};
            struct ref_result host, guest;

            if (access.write && access.fetch)
                continue;
            host = world_processor(cpu, at, &access);
            if (host.kind != REF_OK)
                continue;
            guest = world_guest(cpu, at, &access);
            EXPECT(guest.kind == REF_OK);
            EXPECT(host.address == world_hpa(guest.address));
            for (unsigned e = 0; e < guest.count; e++) {
                uint64_t value = guest.entry[e].value;
                bool rom = guest.entry[e].address / PAGE == ROM_PAGE;

                EXPECT(rom || value & 0x20);
                if (access.write && e + 1 == guest.count)
                    EXPECT(rom || value & 0x40);
            }
        }
    }
}

void world_audit_fresh(unsigned cpu)
{
    bool wide = world.mode[cpu].efer & EFER_LMA && world.mode[cpu].cr0 & CR0_PG;

    fresh_below(cpu, world.root[cpu], wide ? 4 : 3, wide ? 512 : 4, 0);
}
