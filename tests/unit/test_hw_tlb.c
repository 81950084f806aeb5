/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * TLB debts and tags against a processor with the worst TLB that the manuals allow: it keeps every
 * translation for ever, serves stale ones gladly, and begins full of somebody else's.
 *
 * Several vcpus of two VMs on several CPUs, more than there are tags, do random things through the
 * public interface: run, move, are taken off, destroyed and made again; CPUs are turned off, on,
 * and refuse to; slots come, go, move, change rights, backing and log, between runs and while a
 * guest runs; guests change their tables, CR0, CR3 and CR4, with exits and without. The nested
 * engine, the slots, generations and src/hw are the real ones. Judged is
 * - every translation that a guest uses: it is this vcpu's (or its VM's, for the guest-physical
 * ones of VMX), and nothing that it says was taken back before the last entry, or has been called
 * settled;
 * - every flush: something has happened to this vcpu since the last one that needs it;
 * - every tag: it stays where it is good, and is nobody else's.
 * What the TLB is like: Intel SDM "Caching Translation Information", AMD APM "TLB Control".
 *
 * Mutations of the library with which this test has been seen to fail:
 * - tags.c: no nested debt on another CPU; no debt with a new tag; no new generation when tags run
 *   out; a tag kept on another CPU; a new tag at every load; both debts at every load
 * - lifecycle.c: tags go on where they were when a CPU is turned on again; a new vcpu is at home on
 *   CPU 0; cpu.c: a CPU that refuses to be turned on again is forgotten
 * - run.c: no debt for VIRTX_REQUEST_MEMORY, or the wrong one; debts forgotten when run is left
 *   first, paid with nothing, or still owed when paid
 * - cr.c: no debt for CR3, for CR0.PG, for CR4.PGE, for registers that the embedder sets; one for
 *   CR3 without paging, for CR0.TS, CR0.WP, CR4.TSD, a write of EFER; instruction.c: none for
 * INVLPG
 * - one with every load or request
 * - retire.c: no request, or one only for vcpus in run; those in run count as settled
 * - slot.c: no generation after remove, move, protect, invalidate, a log that begins, or a harvest;
 *   one for rights that only grow; a harvest reported before it has settled
 */
#include "hw_world.h"
#include "svm/svm.h"
#include "vmx/vmx.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CPUS   3u
#define VMS    2u
#define VCPUS  3u  /* of each VM */
#define TAGS   3u  /* fewer than vcpus */
#define LINEAR 8u  /* pages of a guest's linear memory */
#define SPACES 5u  /* guest page tables: without paging, and by CR3 */
#define PAGES  32u /* guest-physical */
#define SLOTS  3u
#define EACH   4u /* pages of a slot */
#define ROOTS  64u
#define GUEST  0x700000000000ull /* the slots' memory: asked about, never touched */
#define FRAMES (1ull << 47)

/* How the processor tags its translations. */
enum kind { VMX, VMX_UNTAGGED, SVM, SVM_UNTAGGED, KINDS };
static enum kind kind;
static bool dirty_flags;

static bool is_svm(void)
{
    return kind >= SVM;
}

static bool is_tagged(void)
{
    return kind == VMX || kind == SVM;
}

/* One translation in a TLB. `owner` 0: somebody's from before. */
struct translation {
    bool valid, dirty;
    uint8_t rights;
    uint32_t page; /* guest-physical */
    uint64_t owner, stamp, hpa;
};

struct processor {
    /* By tag (VMX_UNTAGGED: 0) and root (SVM: 0); by tag or root. */
    struct translation combined[TAGS + 1][ROOTS][LINEAR];
    struct translation physical[ROOTS][PAGES];
    uint64_t holder[TAGS + 1]; /* whose each tag is */
    bool enabled, ipi;
};

/* When a right to a page was last taken back. */
struct taken {
    uint64_t stamp, generation;
    bool at_once; /* not even the entry under way may still use it */
};

struct guest {
    struct virtx_vcpu *vcpu;
    uint64_t serial;
    unsigned tables[SPACES][LINEAR]; /* linear to guest-physical */
    uint64_t changed;                /* stamp of the last instruction that invalidates and exited */
    uint64_t entered;                /* stamp of the last entry */
    uint32_t cpu, tag;
    uint64_t root;
    uint32_t reasons; /* enum hw_flush: what may be flushed */
    uint32_t pending; /* SVM: what the next entry flushes */
};

struct machine {
    struct virtx_vm *vm;
    uint64_t serial, settled;
    struct virtx_memslot *slot[SLOTS];
    unsigned place[SLOTS]; /* first page */
    uint8_t rights[SLOTS];
    bool log[SLOTS];
    uint64_t frame[SLOTS][EACH];
    struct taken taken[PAGES][3];
    struct guest guest[VCPUS];
};

static struct processor cpus[CPUS];
static struct machine machines[VMS];
static struct virtx *virtx;
static uint64_t roots[ROOTS];
static uint64_t seed, stamp, serials, frames;
static uint32_t here; /* the CPU that executes */
static bool refuse_enable;
static struct guest *running;
static unsigned steps_left;
static uint64_t hits, flushes, wraps, tags_given, stale_allowed;

/* Check's own assertions send a message even when they hold: too dear for millions of them. */
#define must(condition, ...)                                                                       \
    do {                                                                                           \
        if (!(condition))                                                                          \
            ck_abort_msg(__VA_ARGS__);                                                             \
    } while (0)

static uint64_t next_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1dull >> 20;
}

static unsigned random_below(unsigned bound)
{
    return (unsigned)(next_random() % bound);
}

static struct machine *machine_of(const struct guest *guest)
{
    return &machines[guest >= machines[1].guest];
}

static struct guest *guest_of(const struct hw_vcpu *hv)
{
    return virtx_vcpu_user(hv->vcpu);
}

/* Those that are not known yet hold nothing but what was there before. */
static unsigned known_roots(void)
{
    unsigned count = 1;

    while (count < ROOTS && roots[count])
        count++;
    return count;
}

static unsigned root_index(uint64_t hpa)
{
    for (unsigned i = 1; i < ROOTS; i++) {
        if (!roots[i])
            roots[i] = hpa;
        if (roots[i] == hpa)
            return i;
    }
    ck_abort_msg("more roots than the model knows");
}

/* ---- Host: pages come back in a hurry, so that a root's address is soon another's ---- */

static void *free_pages[256];
static unsigned free_count;

static void *pages_alloc(void *ctx, size_t count)
{
    (void)ctx;
    if (count == 1 && free_count)
        return free_pages[--free_count];
    return aligned_alloc(VIRTX_PAGE_SIZE, count * VIRTX_PAGE_SIZE);
}

static void pages_free(void *ctx, void *pages, size_t count)
{
    (void)ctx;
    if (count == 1 && free_count < ARRAY_SIZE(free_pages))
        free_pages[free_count++] = pages;
    else
        free(pages);
}

static uint64_t virt_to_phys(void *ctx, const void *va)
{
    uint64_t page = ((uintptr_t)va - GUEST) / VIRTX_PAGE_SIZE;

    (void)ctx;
    if (page >= VMS * SLOTS * EACH)
        return (uintptr_t)va;
    return FRAMES | machines[page / (SLOTS * EACH)].frame[page / EACH % SLOTS][page % EACH] << 12;
}

static uint32_t this_cpu(void *ctx)
{
    (void)ctx;
    return here;
}

static void kick_cpu(void *ctx, uint32_t cpu)
{
    (void)ctx;
    cpus[cpu].ipi = true;
}

/* ---- What the guest-physical space is ---- */

static int slot_at(const struct machine *m, unsigned page)
{
    for (unsigned i = 0; i < SLOTS; i++)
        if (m->slot[i] && page - m->place[i] < EACH)
            return (int)i;
    return -1;
}

/* Rights to pages are gone; whoever has run in this VM may have to flush. */
static void take(struct machine *m, unsigned page, unsigned count, uint32_t rights,
                 uint64_t generation)
{
    stamp++;
    for (unsigned i = page; i < page + count; i++)
        for (unsigned r = 0; r < 3; r++)
            if (rights >> r & 1)
                m->taken[i][r] = (struct taken){.stamp = stamp, .generation = generation};
}

static void owe(struct machine *m)
{
    for (unsigned i = 0; i < VCPUS; i++)
        m->guest[i].reasons |= HW_FLUSH_NESTED;
}

/* ---- The processor ---- */

static void clear(struct translation *t, size_t count)
{
    memset(t, 0, count * sizeof(*t));
}

static void flush_tag(struct processor *p, unsigned tag)
{
    clear(&p->combined[tag][0][0], known_roots() * LINEAR);
    if (is_svm())
        clear(p->physical[tag], PAGES);
}

static void flush_root(struct processor *p, unsigned root)
{
    clear(p->physical[root], PAGES);
    for (unsigned tag = 0; tag <= TAGS; tag++)
        clear(p->combined[tag][root], LINEAR);
}

/* Whether a translation that the TLB holds may be used by this guest for this access. */
static void judge(const struct guest *g, const struct translation *t, unsigned right, bool combined)
{
    const struct machine *m = machine_of(g);
    const struct taken *taken = &m->taken[t->page][right];
    int slot;

    must(t->owner != 0, "a translation from before");
    must(t->owner == (combined ? g->serial : m->serial), "a translation of another");
    if (combined)
        must(t->stamp > g->changed, "a linear translation from before a change");
    hits++;
    if (t->stamp <= taken->stamp) {
        must(!taken->at_once, "a write that no log hears of");
        must(taken->stamp > g->entered, "stale since before the entry");
        must(taken->generation > m->settled, "stale after it has settled");
        stale_allowed++;
        return;
    }
    slot = slot_at(m, t->page);
    must(slot >= 0, "a slot that is no more, and nobody said so");
    must(t->hpa == (m->frame[slot][t->page - m->place[slot]] << 12 | FRAMES), "%s", "t->hpa");
    must(m->rights[slot] >> right & 1, "a right that the slot does not give");
}

/* The walk of the engine's tables. False: a nested page fault. */
static bool walk(const struct guest *g, unsigned page, unsigned right, struct translation *t)
{
    const struct table_format *f = is_svm() ? &svm_npt : &vmx_ept;
    uint64_t *table = (uint64_t *)(uintptr_t)g->root, *entry, need;

    for (unsigned level = 4;; level--) {
        entry = table + ((uint64_t)page << 12 >> (12 + 9 * (level - 1)) & 511);
        if (!(*entry & f->present))
            return false;
        if (level == 1)
            break;
        table = (uint64_t *)(uintptr_t)(*entry & f->address);
    }
    need = right == 0 ? f->read : right == 1 ? f->write : f->execute;
    if ((*entry & need) != need || (right == 2 && (*entry & f->no_execute)))
        return false;
    if (right == 1 && dirty_flags)
        *entry |= f->dirty;
    *t = (struct translation){.valid = true,
                              .dirty = !dirty_flags || (*entry & f->dirty),
                              .page = page,
                              .stamp = ++stamp,
                              .hpa = *entry & f->address};
    t->rights = (*entry & f->read ? VIRTX_READ : 0) | (*entry & f->write ? VIRTX_WRITE : 0);
    if (f->execute ? *entry & f->execute : !(*entry & f->no_execute))
        t->rights |= VIRTX_EXECUTE;
    return true;
}

static bool allows(const struct translation *t, unsigned right)
{
    return t->valid && (t->rights >> right & 1) && (right != 1 || t->dirty);
}

static unsigned space_of(const struct hw_vcpu *hv)
{
    return hv->state.cr0 & CR0_PG ? 1 + (hv->state.cr3 >> 12) % (SPACES - 1) : 0;
}

/* One access. False: it ends in a nested page fault. */
static bool guest_access(struct hw_vcpu *hv, struct guest *g)
{
    struct processor *p = &cpus[here];
    struct machine *m = machine_of(g);
    unsigned linear = random_below(LINEAR), right = random_below(3), page;
    unsigned tag = is_tagged() ? g->tag : 0, root = root_index(g->root);
    struct translation *c = &p->combined[tag][is_svm() ? 0 : root][linear], *t;
    int slot;

    if (allows(c, right)) {
        judge(g, c, right, true);
        return true;
    }
    page = g->tables[space_of(hv)][linear];
    t = &p->physical[is_svm() ? tag : root][page];
    if (allows(t, right)) {
        judge(g, t, right, false);
    } else {
        slot = slot_at(m, page);
        if (slot < 0 || !(m->rights[slot] >> right & 1))
            return true; /* would be MMIO, or an error: not what this is about */
        if (!walk(g, page, right, t)) {
            clear(c, 1);
            clear(t, 1);
            hv->vcpu->exit.reason = HW_EXIT_PAGE_FAULT;
            hv->fault = (struct virtx_page_fault){.gpa = (uint64_t)page << 12,
                                                  .access = (uint8_t)(1u << right)};
            return false;
        }
        t->owner = m->serial;
        judge(g, t, right, false);
    }
    *c = *t;
    c->owner = g->serial;
    /* It has been made now, of what was there when its parts were. */
    if (c->stamp <= g->changed)
        c->stamp = g->changed + 1;
    return true;
}

static void exit_cr(struct hw_vcpu *hv, struct guest *g, unsigned reg, uint64_t value)
{
    const struct virtx_state *s = &hv->state;
    uint64_t old = reg == 0 ? s->cr0 : reg == 3 ? s->cr3 : s->cr4;
    bool paged = s->cr0 & CR0_PG;

    /* "Operations that Invalidate TLBs and Paging-Structure Caches". */
    if ((reg == 0 && ((old ^ value) & CR0_PG)) || (reg == 3 && paged) ||
        (reg == 4 && paged && ((old ^ value) & CR4_PGE))) {
        g->changed = ++stamp;
        g->reasons |= HW_FLUSH_TAG;
    }
    world_cr(hv, reg, true, VIRTX_RAX, value);
}

/* What invalidates nothing: any flush would be needless. */
static void exit_in_vain(struct hw_vcpu *hv, struct guest *g)
{
    switch (random_below(5)) {
    case 0:
        exit_cr(hv, g, 0, hv->state.cr0 ^ CR0_TS);
        break;
    case 1:
        exit_cr(hv, g, 0, hv->state.cr0 ^ CR0_WP);
        break;
    case 2:
        exit_cr(hv, g, 4, hv->state.cr4 ^ CR4_TSD);
        break;
    case 3: /* IA32_EFER */
        world_msr(hv, 0xc0000080, true, hv->state.efer);
        break;
    default:
        exit_cpuid(hv);
        break;
    }
}

/* Instructions of the guest that concern its own translations. True: it exits. */
static bool guest_instruction(struct hw_vcpu *hv, struct guest *g)
{
    struct processor *p = &cpus[here];
    unsigned tag = is_tagged() ? g->tag : 0, linear = random_below(LINEAR);

    switch (random_below(8)) {
    case 0: /* MOV to CR3, no exit */
        hv->state.cr3 = (uint64_t)random_below(SPACES - 1) << 12;
        clear(&p->combined[tag][0][0], known_roots() * LINEAR);
        return false;
    case 1: /* INVLPG, no exit */
        g->tables[space_of(hv)][linear] = random_below(PAGES);
        for (unsigned root = 0; root < known_roots(); root++)
            clear(&p->combined[tag][root][linear], 1);
        return false;
    case 2: /* and with one */
        g->tables[space_of(hv)][linear] = random_below(PAGES);
        g->changed = ++stamp;
        g->reasons |= HW_FLUSH_TAG;
        hv->vcpu->exit.reason = VIRTX_EXIT_INSTRUCTION;
        hv->vcpu->exit.length = 3;
        hv->vcpu->exit.instruction =
            (struct virtx_exit_instruction){.which = VIRTX_INSN_INVLPG, .operand = linear << 12};
        return true;
    case 3:
        exit_cr(hv, g, 0, hv->state.cr0 ^ CR0_PG);
        return true;
    case 4:
        exit_cr(hv, g, 3, (uint64_t)random_below(SPACES - 1) << 12);
        return true;
    case 5:
        exit_cr(hv, g, 4, hv->state.cr4 ^ CR4_PGE);
        return true;
    case 6:
        exit_in_vain(hv, g);
        return true;
    default: /* a change that the guest does not tell: the old translation is good enough */
        g->tables[space_of(hv)][linear] = random_below(PAGES);
        return false;
    }
}

static void memory_operation(void);

static enum virtx_status enter(struct hw_vcpu *hv)
{
    struct guest *g = guest_of(hv);
    struct processor *p = &cpus[here];

    must(p->enabled, "the CPU is off");
    must(g->cpu == (here), "%s", "g->cpu");
    hv->dirty = 0;
    hv->vcpu->exit.rip = hv->state.rip;
    hv->vcpu->exit.length = 0;
    exit_interrupt(hv);
    if (kind == VMX_UNTAGGED || (is_svm() && g->pending))
        flush_tag(p, is_tagged() ? g->tag : 0);
    g->pending = 0;
    g->entered = ++stamp;
    while (!p->ipi) {
        if (!steps_left--) {
            steps_left = 0;
            return VIRTX_OK;
        }
        if (random_below(40) == 0) {
            here = (here + 1) % CPUS;
            memory_operation();
            here = g->cpu;
        } else if (random_below(12) == 0) {
            if (guest_instruction(hv, g))
                return VIRTX_OK;
        } else if (!guest_access(hv, g)) {
            return VIRTX_OK;
        }
    }
    p->ipi = false;
    return VIRTX_OK;
}

/* ---- The rest of the vendor ---- */

/* A tag that is good is kept; else the CPU has one left, or takes all back. */
static void check_tag(struct guest *g, struct hw_vcpu *hv)
{
    struct processor *p = &cpus[here];
    unsigned held = 0;

    if (!is_tagged()) {
        must(hv->tag == (0), "%s", "hv->tag");
        return;
    }
    if (g->cpu == here && p->holder[g->tag] == g->serial) {
        must(hv->tag == (g->tag), "%s", "hv->tag");
        return;
    }
    must(hv->tag - 1 < TAGS, "tag %u", hv->tag);
    for (unsigned i = 1; i <= TAGS; i++)
        held += p->holder[i] != 0;
    if (p->holder[hv->tag]) {
        must(held == TAGS, "a tag in use is handed out while another is free");
        memset(p->holder, 0, sizeof(p->holder));
        wraps++;
    }
    p->holder[hv->tag] = g->serial;
    g->tag = hv->tag;
    g->reasons |= HW_FLUSH_TAG;
    tags_given++;
}

static enum virtx_status load(struct hw_vcpu *hv, void *data)
{
    struct guest *g = guest_of(hv);

    (void)data;
    check_tag(g, hv);
    if (g->cpu != here)
        g->reasons |= HW_FLUSH_NESTED;
    g->cpu = here;
    if (kind == SVM_UNTAGGED) /* the vendor's own affair: all share one ASID */
        flush_tag(&cpus[here], 0);
    return VIRTX_OK;
}

static void set_root(struct hw_vcpu *hv, uint64_t hpa)
{
    guest_of(hv)->root = hpa;
}

static void flush(struct hw_vcpu *hv, uint32_t debts)
{
    struct guest *g = guest_of(hv);
    struct processor *p = &cpus[here];

    must(!(debts & ~g->reasons), "a needless flush: %u of %u", debts, g->reasons);
    must(debts, "no debt at all");
    flushes++;
    g->reasons &= ~debts;
    if (is_svm()) {
        g->pending |= debts;
        return;
    }
    if (debts & HW_FLUSH_NESTED)
        flush_root(p, root_index(g->root));
    if ((debts & HW_FLUSH_TAG) && is_tagged())
        flush_tag(p, g->tag);
}

static enum virtx_status cpu_enable(struct virtx *v, void *cpu, struct virtx_error *error)
{
    struct processor *p = &cpus[here];

    (void)v;
    (void)cpu;
    if (refuse_enable)
        return virtx_fail(error, VIRTX_E_IN_USE, "test", "refuses", 0);
    /* Whoever had it meanwhile used all tags, and the roots that are nobody's now. */
    for (unsigned tag = 0; tag <= TAGS; tag++)
        for (unsigned i = 0; i < ROOTS * LINEAR; i++)
            p->combined[tag][i / LINEAR][i % LINEAR] =
                (struct translation){.valid = true, .dirty = true, .rights = 7};
    for (unsigned root = 0; root < ROOTS; root++) {
        bool ours = false;

        for (unsigned i = 0; i < VMS * VCPUS; i++)
            ours |= root && machines[i / VCPUS].guest[i % VCPUS].root == roots[root];
        if (!ours || is_svm())
            for (unsigned page = 0; page < PAGES; page++)
                p->physical[root][page] =
                    (struct translation){.valid = true, .dirty = true, .rights = 7};
    }
    memset(p->holder, 0, sizeof(p->holder));
    p->enabled = true;
    return VIRTX_OK;
}

static void cpu_disable(struct virtx *v, void *cpu)
{
    (void)v;
    (void)cpu;
    cpus[here].enabled = false;
}

static enum virtx_status probe(struct virtx *v, uint64_t disable, struct virtx_caps *caps,
                               struct virtx_error *error)
{
    enum virtx_status status = world_vendor.probe(v, disable, caps, error);

    caps->features |= dirty_flags ? VIRTX_FEATURE_NESTED_AD : 0;
    if (!is_tagged()) {
        caps->features &= ~(uint64_t)VIRTX_FEATURE_TLB_TAGS;
        caps->tlb_tags = 0;
    }
    return status;
}

/* ---- The embedder ---- */

static uint64_t new_frame(void)
{
    return ++frames & 0xffffff;
}

static void new_frames(struct machine *m, unsigned slot, unsigned from, unsigned count)
{
    for (unsigned i = from; i < from + count; i++)
        m->frame[slot][i] = new_frame();
}

/* A place that no slot has, or -1. */
static int free_place(const struct machine *m)
{
    unsigned place = random_below(PAGES / EACH) * EACH;

    return slot_at(m, place) < 0 ? (int)place : -1;
}

static void add(struct machine *m, unsigned slot)
{
    struct virtx_memslot_config config = {.size = sizeof(config), .type = VIRTX_MEMORY_WB};
    int place = free_place(m);

    if (place < 0)
        return;
    new_frames(m, slot, 0, EACH);
    m->rights[slot] = (uint8_t)(VIRTX_READ | random_below(8));
    m->log[slot] = random_below(2);
    m->place[slot] = (unsigned)place;
    config.rights = m->rights[slot];
    config.flags = m->log[slot] ? VIRTX_MEMSLOT_DIRTY_LOG : 0;
    config.gpa = (uint64_t)place << 12;
    config.bytes = EACH << 12;
    config.memory = (void *)(uintptr_t)(GUEST + (((m - machines) * SLOTS + slot) * EACH << 12));
    must(virtx_memslot_add(m->vm, &config, &m->slot[slot]) == VIRTX_OK, "refused");
}

static void move(struct machine *m, unsigned slot)
{
    int place = free_place(m);
    uint64_t generation;

    if (place < 0)
        return;
    must(virtx_memslot_move(m->slot[slot], (uint64_t)place << 12, &generation) == VIRTX_OK,
         "refused");
    take(m, m->place[slot], EACH, 7, generation);
    owe(m);
    m->place[slot] = (unsigned)place;
}

static void protect(struct machine *m, unsigned slot)
{
    uint32_t rights = VIRTX_READ | random_below(8), lost = m->rights[slot] & ~rights;
    uint64_t generation;

    must(virtx_memslot_protect(m->slot[slot], rights, &generation) == VIRTX_OK, "refused");
    m->rights[slot] = (uint8_t)rights;
    if (!lost)
        return;
    take(m, m->place[slot], EACH, lost, generation);
    owe(m);
}

static void invalidate(struct machine *m, unsigned slot)
{
    unsigned from = random_below(EACH), count = 1 + random_below(EACH - from);
    uint64_t generation;

    new_frames(m, slot, from, count);
    must(virtx_memslot_invalidate(m->slot[slot], from << 12, count << 12, &generation) == VIRTX_OK,
         "refused");
    take(m, m->place[slot] + from, count, 7, generation);
    owe(m);
}

static void toggle_log(struct machine *m, unsigned slot)
{
    m->log[slot] = !m->log[slot];
    must(virtx_memslot_log(m->slot[slot], m->log[slot]) == VIRTX_OK, "refused");
    if (m->log[slot])
        take(m, m->place[slot], EACH, VIRTX_WRITE, virtx_vm_generation(m->vm));
    owe(m);
}

static void harvest(struct machine *m, unsigned slot)
{
    uint64_t bitmap = 0, before = virtx_vm_generation(m->vm);

    if (!m->log[slot])
        return;
    must(virtx_memslot_harvest(m->slot[slot], &bitmap, 1, NULL) == VIRTX_OK, "refused");
    stamp++;
    for (unsigned i = 0; i < EACH; i++)
        if (bitmap >> i & 1)
            m->taken[m->place[slot] + i][1] = (struct taken){.stamp = stamp, .at_once = true};
    if (virtx_vm_generation(m->vm) != before)
        owe(m);
}

static void drop_slot(struct machine *m, unsigned slot)
{
    uint64_t generation;

    must(virtx_memslot_remove(m->slot[slot], &generation) == VIRTX_OK, "refused");
    m->slot[slot] = NULL;
    take(m, m->place[slot], EACH, 7, generation);
    owe(m);
}

static void memory_operation(void)
{
    struct machine *m = &machines[random_below(VMS)];
    unsigned slot = random_below(SLOTS);
    uint64_t generation = virtx_vm_generation(m->vm);

    if (!m->slot[slot]) {
        add(m, slot);
        return;
    }
    switch (random_below(12)) {
    case 0:
        drop_slot(m, slot);
        break;
    case 1:
        move(m, slot);
        break;
    case 2:
    case 3:
        protect(m, slot);
        break;
    case 4:
    case 5:
        invalidate(m, slot);
        break;
    case 6:
        toggle_log(m, slot);
        break;
    case 7:
    case 8:
        harvest(m, slot);
        break;
    default:
        if (virtx_vm_settled(m->vm, generation, random_below(2)) && m->settled < generation)
            m->settled = generation;
        break;
    }
}

static void set_registers(struct guest *g)
{
    struct virtx_state state;

    if (virtx_vcpu_get(g->vcpu, VIRTX_STATE_CR, &state) != VIRTX_OK)
        return; /* loaded elsewhere */
    state.cr3 ^= 0x1000;
    must(virtx_vcpu_set(g->vcpu, VIRTX_STATE_CR, &state) == VIRTX_OK, "refused");
    g->changed = ++stamp;
    g->reasons |= HW_FLUSH_TAG;
}

static void make_vcpu(struct guest *g)
{
    struct machine *m = machine_of(g);

    memset(g, 0, sizeof(*g));
    must(virtx_vcpu_create(m->vm, (uint32_t)(g - m->guest), &g->vcpu) == VIRTX_OK, "refused");
    virtx_vcpu_set_user(g->vcpu, g);
    g->serial = ++serials;
    g->cpu = VIRTX_NO_CPU;
    g->changed = ++stamp; /* the preset sets registers */
    g->reasons = HW_FLUSH_TAG;
    for (unsigned i = 0; i < SPACES * LINEAR; i++)
        g->tables[i / LINEAR][i % LINEAR] = random_below(PAGES);
    must(virtx_vcpu_reset(g->vcpu, VIRTX_PRESET_FLAT32) == VIRTX_OK, "refused");
}

static void put(struct guest *g)
{
    uint32_t at = here, cpu = atomic_load(&g->vcpu->cpu);

    if (cpu == VIRTX_NO_CPU)
        return;
    here = cpu;
    must(virtx_vcpu_put(g->vcpu) == VIRTX_OK, "refused");
    here = at;
}

static void drop_vcpu(struct guest *g)
{
    put(g);
    must(virtx_vcpu_destroy(g->vcpu) == VIRTX_OK, "refused");
    g->root = 0;
}

static void make_vm(struct machine *m)
{
    memset(m, 0, sizeof(*m));
    must(virtx_vm_create(virtx, NULL, &m->vm) == VIRTX_OK, "refused");
    m->serial = ++serials;
    for (unsigned i = 0; i < VCPUS; i++)
        make_vcpu(&m->guest[i]);
}

static void drop_vm(struct machine *m)
{
    for (unsigned i = 0; i < VCPUS; i++)
        drop_vcpu(&m->guest[i]);
    must(virtx_vm_destroy(m->vm) == VIRTX_OK, "refused");
}

static void power(void)
{
    struct virtx_cpu *cpu = virtx->cpus[here];

    if (cpus[here].enabled) {
        if (cpu->loaded && virtx_vcpu_put(cpu->loaded) != VIRTX_OK)
            ck_abort_msg("put");
        must(virtx_cpu_disable(virtx) == VIRTX_OK, "refused");
    } else {
        refuse_enable = random_below(2);
        must(virtx_cpu_enable(virtx) == (refuse_enable ? VIRTX_E_IN_USE : VIRTX_OK), "refused");
    }
}

static void run(struct guest *g)
{
    const struct virtx_exit *exit;

    if (!cpus[here].enabled)
        return;
    if (atomic_load(&g->vcpu->cpu) != here)
        put(g);
    running = g;
    steps_left = random_below(150);
    cpus[here].ipi = false;
    if (random_below(8) == 0)
        virtx_vcpu_kick(g->vcpu);
    must(virtx_vcpu_run(g->vcpu, &exit) == VIRTX_OK, "refused");
    running = NULL;
}

static void operation(void)
{
    struct machine *m = &machines[random_below(VMS)];
    struct guest *g = &m->guest[random_below(VCPUS)];
    unsigned what = random_below(1000);

    here = random_below(CPUS);
    if (what < 700) {
        /* Mostly where it was, or every tag would be new. */
        if (random_below(3) && g->cpu != VIRTX_NO_CPU)
            here = g->cpu;
        run(g);
    } else if (what < 900) {
        memory_operation();
    } else if (what < 930) {
        put(g);
    } else if (what < 970) {
        set_registers(g);
    } else if (what < 985) {
        power();
    } else if (what < 995) {
        drop_vcpu(g);
        make_vcpu(g);
    } else {
        drop_vm(m);
        make_vm(m);
    }
}

/* ---- Tests ---- */

static void begin(struct virtx_hw *vendor, struct virtx_backend *backend)
{
    static const struct virtx_backend *backends[2];
    static const struct virtx_paging *const engines[] = {&virtx_paging_nested, NULL};
    static struct virtx_host_ops host;
    struct virtx_config config = {.size = sizeof(config),
                                  .max_cpus = CPUS,
                                  .ops = &host,
                                  .profile = &virtx_profile_bare,
                                  .backends = backends,
                                  .paging = engines};

    host = world_host;
    host.pages_alloc = pages_alloc;
    host.pages_free = pages_free;
    host.virt_to_phys = virt_to_phys;
    host.this_cpu = this_cpu;
    host.kick_cpu = kick_cpu;
    *vendor = world_vendor;
    vendor->nested = is_svm() ? &svm_npt : &vmx_ept;
    vendor->probe = probe;
    vendor->cpu_enable = cpu_enable;
    vendor->cpu_disable = cpu_disable;
    vendor->load = load;
    vendor->enter = enter;
    vendor->set_root = set_root;
    vendor->flush = flush;
    backends[0] = backend;
    memset(&world, 0, sizeof(world));
    memset(cpus, 0, sizeof(cpus));
    memset(roots, 0, sizeof(roots));
    world.flags = RFLAGS_FIXED;
    world.can_interrupt = world.can_nmi = true;
    world.cr[0] = CR0_PE | CR0_PG;
    world.cr[4] = CR4_OSFXSR | CR4_OSXSAVE;
    world.xcr0 = 1;
    world.dr[7] = 0x400;
    hits = flushes = wraps = tags_given = stale_allowed = 0;
    refuse_enable = false;
    ck_assert_int_eq(virtx_open(&config, &virtx, NULL), VIRTX_OK);
    for (here = 0; here < CPUS; here++)
        ck_assert_int_eq(virtx_cpu_enable(virtx), VIRTX_OK);
    here = 0;
    for (unsigned i = 0; i < VMS; i++)
        make_vm(&machines[i]);
}

static void end(void)
{
    for (unsigned i = 0; i < VMS; i++)
        drop_vm(&machines[i]);
    for (here = 0; here < CPUS; here++)
        if (cpus[here].enabled)
            ck_assert_int_eq(virtx_cpu_disable(virtx), VIRTX_OK);
    ck_assert_int_eq(virtx_close(virtx), VIRTX_OK);
    while (free_count)
        free(free_pages[--free_count]);
}

#define OPERATIONS 20000u
#define ROUNDS     2u * 2u * KINDS /* two seeds, with dirty flags and without, each kind */

START_TEST(no_stale_hit_no_needless_flush)
{
    static const char *const names[KINDS] = {"VPID", "no VPID", "ASID", "no ASID"};
    struct virtx_hw vendor;
    struct virtx_backend backend = HW_BACKEND("model", &vendor, sizeof(struct hw_cpu),
                                              sizeof(struct hw_vm), sizeof(struct hw_vcpu));

    kind = (enum kind)(_i % KINDS);
    dirty_flags = _i / KINDS % 2;
    seed = 0x9e3779b97f4a7c15ull + (uint64_t)_i * 7919;
    begin(&vendor, &backend);
    for (unsigned i = 0; i < OPERATIONS; i++)
        operation();
    end();
    printf("%s%s: %llu hits, %llu of them stale and allowed, %llu flushes, %llu tags, %llu wraps\n",
           names[kind], dirty_flags ? ", dirty flags" : "", (unsigned long long)hits,
           (unsigned long long)stale_allowed, (unsigned long long)flushes,
           (unsigned long long)tags_given, (unsigned long long)wraps);
    ck_assert_uint_gt(hits, OPERATIONS);
    ck_assert_uint_gt(flushes, OPERATIONS / 20);
    ck_assert_uint_gt(stale_allowed, 100);
    if (is_tagged())
        ck_assert_uint_gt(wraps, 100);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("hw_tlb");
    TCase *tests = tcase_create("hw_tlb");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tests, 100);
    tcase_add_loop_test(tests, no_stale_hit_no_needless_flush, 0, ROUNDS);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
