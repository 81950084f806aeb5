/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Page faults of a guest with shadow tables: the guest's own, those that are answered by an entry,
 * and devices.
 *
 * The guest's tables are walked as the processor would (src/paging/walk.c), with its flags set; if
 * that allows the access, entries are made all the way down. A leaf gives the guest's rights, less
 * those that something must be seen for: the first write of a page (the guest's dirty flag), a
 * write to a table, a write to a page that is logged. CR0.WP is always 1 in the processor.
 */
#include "paging/shadow.h"

/* Neighbours that are mapped along with a page, if the guest's entries say that they are in use. */
#define AHEAD 8u

struct build {
    struct shadow_vm *sv;
    struct shadow_vcpu *v;
    struct virtx_vm *vm;
    const struct slot_entry *slot;
    struct walk_path path;
    uint64_t gva, gpa;
    uint64_t bytes;  /* of the guest's page */
    uint64_t key;    /* bits of the leaf */
    uint32_t rights; /* ROLE_ACCESS that the leaf gives */
    bool write;
    bool changed; /* an entry was made or changed */
};

/* ---- Roots ---- */

static uint32_t role_of(const struct walk_mode *mode)
{
    uint32_t role = 0;

    if (!(mode->cr0 & CR0_PG))
        return ROLE_PAE; /* the tree is direct */
    if (!(mode->efer & EFER_LMA))
        role |= mode->cr4 & CR4_PAE ? ROLE_PAE : ROLE_32;
    if (role & ROLE_32)
        role |= mode->cr4 & CR4_PSE ? ROLE_PSE : 0;
    else
        role |= (mode->efer & EFER_NXE ? ROLE_NXE : 0) | (mode->no_1g ? 0 : ROLE_PSE);
    if (mode->cr0 & CR0_WP)
        return role | ROLE_WP;
    if (mode->cr4 & CR4_SMEP)
        role |= ROLE_SMEP;
    if (mode->cr4 & CR4_SMAP)
        role |= ROLE_SMAP;
    if (mode->cr4 & CR4_PKE)
        role |= ROLE_PKE;
    return role;
}

/* Looks at the registers; most often only CR3 is another. False: not even that. */
static bool look(struct hw_vcpu *hv, struct shadow_vcpu *v)
{
    const struct virtx_state *state = hw_state(hv, VIRTX_STATE_CR);

    if (likely(v->root && state->cr0 == v->mode.cr0 && state->cr4 == v->mode.cr4 &&
               state->efer == v->mode.efer && (state->efer & EFER_LMA))) {
        bool changed = (state->cr3 ^ v->mode.cr3) & SPTE_ADDRESS;

        v->mode.cr3 = state->cr3;
        return changed || v->root->state != SHADOW_LIVE;
    }
    if (v->root && (state->efer & EFER_LMA) && state->efer == v->mode.efer &&
        !((state->cr0 ^ v->mode.cr0) & CR0_PG) && !((state->cr4 ^ v->mode.cr4) & ~CR4_PGE)) {
        v->mode.cr0 = state->cr0;
        v->mode.cr3 = state->cr3;
        v->mode.cr4 = state->cr4;
        v->role = role_of(&v->mode);
        return true;
    }
    hw_walk_mode(hv, &v->mode);
    v->role = role_of(&v->mode);
    v->reserved = bits_mask(51, 0) & (~0ull << v->mode.physical_bits);
    if (!(state->efer & EFER_NXE))
        v->reserved |= GPTE_NX;
    return true;
}

bool shadow_root_make(struct virtx_vcpu *vcpu)
{
    struct shadow_vm *sv = shadow_vm_of(vcpu->vm);
    struct shadow_vcpu *v = shadow_vcpu_of(vcpu);
    struct shadow_page *old = v->root, *root;

    if (!look(hw_of(vcpu), v)) {
        v->stale = false;
        return true;
    }
    if ((v->mode.cr0 & CR0_PG) && (v->mode.efer & EFER_LMA)) {
        sv->stamp++;
        root = shadow_page_get(sv, (v->mode.cr3 & SPTE_ADDRESS) >> 12, v->role | ROLE_ACCESS | 4);
    } else {
        root = v->pae;
        shadow_page_empty(sv, root);
    }
    v->stale = root == NULL;
    if (root == old)
        return root != NULL;
    if (root)
        root->pins++;
    if (old)
        shadow_page_unpin(sv, old);
    v->root = root;
    return root != NULL;
}

/* ---- Leaves ---- */

/* What the processor is to allow, from what the guest's entries do. False: no entry can say it. */
static bool leaf_rights(struct build *b, bool user)
{
    const struct walk_mode *mode = &b->v->mode;
    uint64_t all = ~0ull, any = 0, leaf = GPTE_D;

    for (unsigned i = 0; i < b->path.count; i++) {
        leaf = b->path.entry[i];
        all &= leaf;
        any |= leaf;
    }
    b->rights = ROLE_X;
    if (b->path.width == 8) {
        b->rights = any & GPTE_NX ? 0 : ROLE_X;
        b->key = mode->efer & EFER_LMA ? leaf & SPTE_KEY : 0;
    }
    if (all & GPTE_U)
        b->rights |= ROLE_U;
    if (all & GPTE_W)
        b->rights |= ROLE_W;
    if (unlikely(b->v->role & ROLE_PKE) && b->write && !user && (all & GPTE_U) &&
        (mode->pkru >> 2 * (leaf >> 59 & 15) & 2))
        return false; /* write-disable keys do not bind this kernel, but the processor's CR0.WP is 1
                       */
    if (!(mode->cr0 & CR0_WP) && !(all & GPTE_W)) {
        /* The guest's kernel may write what is read-only: to its users the page is away then. */
        if (!(all & GPTE_U)) {
            b->rights |= ROLE_W;
        } else if (b->write && !user) {
            if (b->v->role & (ROLE_SMAP | ROLE_PKE))
                return false; /* U decides about more than the users' access */
            b->rights = (b->rights & ~(uint32_t)ROLE_U) | ROLE_W;
            if (b->v->role & ROLE_SMEP)
                b->rights &= ~(uint32_t)ROLE_X;
        }
    }
    if (!(leaf & GPTE_D))
        b->rights &= ~(uint32_t)ROLE_W;
    return true;
}

static uint64_t leaf_entry(const struct slot_entry *slot, uint64_t hpa, unsigned level,
                           uint32_t rights, uint64_t key)
{
    uint64_t entry = hpa | SPTE_P | SPTE_A | key;

    if (rights & ROLE_U)
        entry |= SPTE_U;
    if ((rights & ROLE_W) && (slot->rights & VIRTX_WRITE))
        entry |= SPTE_W | SPTE_D;
    if (!(rights & ROLE_X) || !(slot->rights & VIRTX_EXECUTE))
        entry |= SPTE_NX;
    if (unlikely(slot->type != VIRTX_MEMORY_WB))
        entry |= SPTE_UC;
    return level > 1 ? entry | SPTE_PS : entry;
}

/* Whether some table in the frame is in sync: then it may not be written unseen. */
static bool is_protected(const struct shadow_vm *sv, uint64_t gfn)
{
    const struct shadow_page *page = shadow_table_find(sv, gfn);

    while (page && page->unsync)
        page = shadow_table_next(page);
    return page != NULL;
}

static bool usable(const struct shadow_vm *sv, uint64_t hpa)
{
    return hpa < sv->hpa_limit && !(hpa & (VIRTX_PAGE_SIZE - 1));
}

/* Whether 2 MiB around the page can be one leaf, and then its HPA. */
static bool large_leaf(struct build *b, uint64_t *hpa)
{
    const struct virtx *virtx = b->vm->virtx;
    uint64_t span = shadow_span(2), gpa = b->gpa & ~(span - 1);
    const struct slot_entry *slot = b->slot;
    const uint8_t *memory = slot->memory + (gpa - slot->gpa);
    uint64_t first;

    if (slot->dirty || (slot->flags & (VIRTX_MEMSLOT_SMALL_PAGES | VIRTX_MEMSLOT_SMALL_EXECUTE)) ||
        gpa < slot->gpa || slot->end - gpa < span ||
        b->sv->region[gpa >> 21 & (SHADOW_REGIONS - 1)])
        return false;
    first = virtx_hpa(virtx, memory);
    if (!usable(b->sv, first) || (first & (span - 1)))
        return false;
    /* From the end, where a backing that is not contiguous shows at once. */
    for (uint64_t offset = span - VIRTX_PAGE_SIZE;
         offset && !(slot->flags & VIRTX_MEMSLOT_CONTIGUOUS); offset -= VIRTX_PAGE_SIZE)
        if (virtx_hpa(virtx, memory + offset) != first + offset)
            return false;
    *hpa = first;
    return true;
}

/* A neighbour of the page, from an entry that needs no flags set. */
static void ahead(struct build *b, struct shadow_page *page, unsigned index, uint64_t gfn,
                  uint32_t rights, uint64_t key, uint64_t copy)
{
    const struct slot_entry *slot = b->slot;
    uint64_t gpa = gfn << 12, hpa;

    if (gpa < slot->gpa || gpa >= slot->end)
        return;
    hpa = virtx_hpa(b->vm->virtx, slot->memory + (gpa - slot->gpa));
    if (!usable(b->sv, hpa))
        return;
    if (slot->dirty || ((rights & ROLE_W) && is_protected(b->sv, gfn)))
        rights &= ~(uint32_t)ROLE_W;
    shadow_entry_leaf(b->sv, page, index, leaf_entry(slot, hpa, 1, rights, key), gfn, copy);
}

/* From the guest's entry to rights, for an entry that is in use already; false: leave it. */
static bool ahead_rights(const struct build *b, const struct shadow_page *page, uint64_t entry,
                         uint32_t *rights)
{
    const struct walk_mode *mode = &b->v->mode;
    uint64_t reserved = 0;

    if (!(page->role & ROLE_32)) {
        reserved = bits_mask(page->role & ROLE_PAE ? 62 : 51, 0) & (~0ull << mode->physical_bits);
        if (!(page->role & ROLE_NXE))
            reserved |= GPTE_NX;
    }
    if ((entry & (GPTE_P | GPTE_A)) != (GPTE_P | GPTE_A) || (entry & reserved))
        return false;
    *rights = page->role & ROLE_ACCESS;
    if (!(entry & GPTE_U))
        *rights &= ~(uint32_t)ROLE_U;
    if (!(entry & GPTE_W))
        *rights &= ~(uint32_t)ROLE_W;
    if (!(page->role & ROLE_32) && (entry & GPTE_NX))
        *rights &= ~(uint32_t)ROLE_X;
    if (!(mode->cr0 & CR0_WP) && !(*rights & ROLE_U))
        *rights |= ROLE_W;
    if (!(entry & GPTE_D))
        *rights &= ~(uint32_t)ROLE_W;
    return true;
}

static void map_ahead(struct build *b, struct shadow_page *page, unsigned index)
{
    unsigned first = index & ~(AHEAD - 1);

    for (unsigned i = first; i < first + AHEAD; i++) {
        uint64_t entry, key;
        uint32_t rights;

        if (page->entry[i])
            continue;
        if (page->role & ROLE_DIRECT) {
            ahead(b, page, i, page->gfn + i, page->role & ROLE_ACCESS, b->key, 0);
            continue;
        }
        if (likely(!(page->role & ROLE_32))) {
            entry =
                __atomic_load_n((const uint64_t *)(const void *)page->guest + i, __ATOMIC_RELAXED);
            if ((entry & (GPTE_P | GPTE_A)) != (GPTE_P | GPTE_A))
                continue;
        } else {
            entry = shadow_guest_entry(page, i);
        }
        if (!ahead_rights(b, page, entry, &rights))
            continue;
        key = page->role & (ROLE_32 | ROLE_PAE) ? 0 : entry & SPTE_KEY;
        ahead(b, page, i, (entry & SPTE_ADDRESS) >> 12, rights, key, entry);
    }
}

/* The guest's entry of a step of the walk, as shadow_page.copy keeps it. */
static uint64_t copy_of(const struct build *b, const struct shadow_page *page, unsigned step)
{
    if (page->role & (ROLE_DIRECT | ROLE_ROOT))
        return 0;
    return b->path.entry[step];
}

static enum virtx_fault_result make_leaf(struct build *b, struct shadow_page *page, unsigned index,
                                         unsigned step, unsigned level, uint64_t hpa)
{
    struct shadow_vm *sv = b->sv;
    uint64_t gfn = b->gpa >> 12, entry;
    uint32_t rights = b->rights;

    if (level > 1) {
        gfn &= ~511ull;
    } else {
        if (rights & ROLE_W) {
            if (is_protected(sv, gfn)) {
                if (b->write)
                    shadow_table_written(sv, gfn);
                else
                    rights &= ~(uint32_t)ROLE_W;
            }
            if (b->slot->dirty && b->write)
                virtx_slot_mark(b->slot, gfn << 12, VIRTX_PAGE_SIZE);
            else if (b->slot->dirty)
                rights &= ~(uint32_t)ROLE_W;
        }
    }
    entry = leaf_entry(b->slot, hpa, level, rights, b->key);
    if (page->entry[index] != entry || (page->copy && page->copy[index] != copy_of(b, page, step)))
        b->changed = true;
    if (b->changed)
        shadow_entry_leaf(sv, page, index, entry, gfn, copy_of(b, page, step));
    if (level == 1)
        map_ahead(b, page, index);
    return VIRTX_FAULT_RESUME;
}

/* ---- The way down ---- */

/* The role and frame of the page that the entry of a table has to point to. */
static uint32_t next_role(const struct build *b, const struct shadow_page *page, unsigned level,
                          unsigned step, uint64_t *gfn)
{
    uint32_t role = b->v->role & ROLE_MODE, access = page->role & ROLE_ACCESS;
    uint64_t entry;

    if ((page->role & ROLE_DIRECT) || step >= b->path.count ||
        (step + 1u == b->path.count && !(page->role & ROLE_ROOT))) {
        /* Direct from here on: the guest has no tables below. */
        *gfn = (b->gpa & ~(shadow_span(level) - 1)) >> 12;
        return ROLE_DIRECT | b->rights | (uint32_t)(b->key >> 59) << ROLE_KEY | (level - 1);
    }
    if (page->role & ROLE_ROOT) {
        *gfn = b->path.root >> 12;
        role |= role & ROLE_32 ? (uint32_t)(b->gva >> 30 & 3) << ROLE_QUADRANT : 0;
        return role | ROLE_ACCESS | 2;
    }
    entry = b->path.entry[step];
    if (!(entry & GPTE_W))
        access &= ~(uint32_t)ROLE_W;
    if (!(entry & GPTE_U))
        access &= ~(uint32_t)ROLE_U;
    if (b->path.width == 8 && (entry & GPTE_NX))
        access &= ~(uint32_t)ROLE_X;
    if (role & ROLE_32) {
        *gfn = (entry & 0xfffff000) >> 12;
        return role | access | (uint32_t)(b->gva >> 21 & 1) << ROLE_QUADRANT | (level - 1);
    }
    *gfn = (entry & SPTE_ADDRESS) >> 12;
    return role | access | (level - 1);
}

/* Makes entry `index` point to the right table. NULL: no memory. */
static struct shadow_page *descend(struct build *b, struct virtx_vcpu *vcpu,
                                   struct shadow_page *page, unsigned index, unsigned level,
                                   unsigned step)
{
    uint64_t entry = page->entry[index], copy = copy_of(b, page, step), gfn;
    uint32_t role = next_role(b, page, level, step, &gfn);
    struct shadow_page *child = page->child[index];

    /* A table is used whatever its dirty flag says; where ours is for a large page it counts. */
    if (step + 1u < b->path.count || (page->role & ROLE_DIRECT))
        copy &= ~GPTE_D;
    if (likely(shadow_maps(b->sv, entry) && !shadow_is_leaf(entry, level) && child->gfn == gfn &&
               child->role == role)) {
        child->stamp = b->sv->stamp;
        if (page->copy)
            page->copy[index] = copy;
        return child;
    }
    child = shadow_page_get(b->sv, gfn, role);
    if (unlikely(!child))
        return NULL;
    /* A table that was out of sight may have been changed by other means than the guest's. */
    if (!child->parents && !child->fresh && child->guest)
        shadow_compare(b->sv, child);
    shadow_entry_table(b->sv, page, index, child, copy);
    shadow_page_touch(b->sv, child);
    b->changed = true;
    if (page->role & ROLE_ROOT)
        hw_of(vcpu)->work |= HW_WORK_ROOT; /* which are loaded with it */
    return child;
}

/* From the root to the table whose entry the walk ends at, and that entry. */
static struct shadow_page *reach(struct build *b, struct virtx_vcpu *vcpu, unsigned floor,
                                 unsigned *index, unsigned *at, unsigned *last, uint64_t *hpa)
{
    struct shadow_page *page = b->v->root;
    unsigned level = shadow_level(page), step = 0;

    for (;; level--) {
        *index = shadow_index(b->gva, level) & (page->role & ROLE_ROOT ? 3 : 511);
        *last = step;
        *at = level;
        if (level == 1 || level == floor)
            return page;
        if (level == 2 && b->slot && b->bytes > VIRTX_PAGE_SIZE && large_leaf(b, hpa))
            return page;
        page = descend(b, vcpu, page, *index, level, step);
        if (!page)
            return NULL;
        if (level != 3 || !(b->v->role & (ROLE_32 | ROLE_PAE)))
            step++;
    }
}

/* ---- MMIO ---- */

struct shadow_page *shadow_lookup(const struct shadow_vm *sv, const struct shadow_vcpu *v,
                                  uint64_t gva, unsigned *index)
{
    struct shadow_page *page = v->root;
    unsigned level;

    for (level = shadow_level(page);; level--) {
        *index = shadow_index(gva, level) & (page->role & ROLE_ROOT ? 3 : 511);
        if (!shadow_maps(sv, page->entry[*index]) || shadow_is_leaf(page->entry[*index], level))
            return page;
        page = page->child[*index];
    }
}

/* A device that was met before, by an access that the guest's tables allowed then. */
static bool known_device(const struct shadow_vm *sv, const struct shadow_vcpu *v,
                         struct virtx_page_fault *fault)
{
    unsigned index;
    struct shadow_page *page = shadow_lookup(sv, v, fault->gva, &index);
    uint64_t gpa;
    uint32_t rights;

    if (page->entry[index] != sv->marker || fault->access == VIRTX_EXECUTE)
        return false;
    if (page->role & ROLE_DIRECT) {
        gpa = (page->gfn + index) << 12;
        rights = page->role & ROLE_ACCESS;
    } else {
        gpa = page->copy[index] & SPTE_ADDRESS;
        rights = page->copy[index] & ROLE_ACCESS;
    }
    /* What other registers decide is left to the walk. */
    if (rights & ROLE_U ? (v->mode.cr4 & (CR4_SMAP | CR4_PKE)) : fault->error & PF_USER)
        return false;
    if ((fault->error & PF_WRITE) && !(rights & ROLE_W))
        return false;
    fault->gpa = gpa | (fault->gva & 0xfff);
    return true;
}

/* Remembers a device, if there is memory for it. */
static void remember_device(struct build *b, struct virtx_vcpu *vcpu)
{
    unsigned index, level, step;
    uint64_t hpa;
    struct shadow_page *page = reach(b, vcpu, 1, &index, &level, &step, &hpa);

    if (page && level == 1)
        shadow_entry_marker(b->sv, page, index,
                            (b->gpa & SPTE_ADDRESS) | (b->rights & ROLE_ACCESS));
}

/* ---- The fault ---- */

/* An access that no slot allows; as with nested paging. */
static enum virtx_fault_result refused(struct build *b, struct virtx_vcpu *vcpu,
                                       struct virtx_page_fault *fault)
{
    if (!b->slot) {
        remember_device(b, vcpu);
        return VIRTX_FAULT_NOT_MEMORY;
    }
    if (fault->access == VIRTX_WRITE && (b->slot->flags & VIRTX_MEMSLOT_WRITE_MMIO))
        return VIRTX_FAULT_NOT_MEMORY;
    return VIRTX_FAULT_FORBIDDEN;
}

/* The processor faults again although its tables allow the access by all that we know: it was the
 * guest's own fault (an implicit access under SMAP), or an old translation. */
static enum virtx_fault_result unchanged(struct build *b, struct virtx_vcpu *vcpu,
                                         const struct virtx_page_fault *fault)
{
    struct shadow_vcpu *v = b->v;

    if (v->last_gva != fault->gva || v->last_error != fault->error)
        v->spurious = 0;
    v->last_gva = fault->gva;
    v->last_error = fault->error;
    if (++v->spurious > 2 && (fault->error & PF_PRESENT) && !(fault->error & PF_RESERVED)) {
        v->spurious = 0;
        return VIRTX_FAULT_REFLECT;
    }
    hw_owe(hw_of(vcpu), HW_FLUSH_TAG);
    return VIRTX_FAULT_RESUME;
}

static enum virtx_fault_result no_memory(struct build *b)
{
    if (!b->sv->waiting)
        return VIRTX_FAULT_NO_MEMORY;
    /* Others have to flush first. */
    virtx_lock(&b->vm->page_lock);
    for (struct virtx_vcpu *vcpu = b->vm->vcpus; vcpu; vcpu = vcpu->next)
        virtx_request(vcpu, VIRTX_REQUEST_EVENT);
    virtx_unlock(&b->vm->page_lock);
    return VIRTX_FAULT_RESUME;
}

static enum virtx_fault_result map(struct build *b, struct virtx_vcpu *vcpu,
                                   struct virtx_page_fault *fault)
{
    struct shadow_page *page;
    unsigned index, level, step;
    enum virtx_fault_result result;
    uint64_t hpa;

    fault->gpa = b->gpa;
    b->slot = virtx_slot_find(virtx_slots(b->vm), b->gpa);
    if (!leaf_rights(b, fault->error & PF_USER))
        return b->slot ? VIRTX_FAULT_EXECUTE : VIRTX_FAULT_NOT_MEMORY;
    if (!b->slot || (fault->access & ~b->slot->rights))
        return refused(b, vcpu, fault);
    hpa = virtx_hpa(b->vm->virtx, b->slot->memory + ((b->gpa & SPTE_ADDRESS) - b->slot->gpa));
    if (!usable(b->sv, hpa))
        return VIRTX_FAULT_FORBIDDEN;
    page = reach(b, vcpu, 0, &index, &level, &step, &hpa);
    if (!page)
        return no_memory(b);
    result = make_leaf(b, page, index, step, level, hpa);
    if (likely(b->changed)) {
        b->v->spurious = 0;
        return result;
    }
    return unchanged(b, vcpu, fault);
}

/* Walks the guest's tables, and then ours. */
static enum virtx_fault_result walk_and_map(struct build *b, struct virtx_vcpu *vcpu,
                                            struct virtx_page_fault *fault)
{
    uint32_t flags = WALK_SET_FLAGS | (fault->error & PF_USER ? WALK_USER : 0);
    struct walk_result walk;

    if (b->v->mode.cr4 & (CR4_SMAP | CR4_PKE))
        hw_walk_mode(hw_of(vcpu), &b->v->mode); /* RFLAGS.AC, PKRU */
    switch (
        walk_guest_path(b->vm, &b->v->mode, fault->gva, fault->access, flags, &walk, &b->path)) {
    case VIRTX_OK:
        break;
    case VIRTX_E_FAULT:
        fault->error = walk.error;
        return VIRTX_FAULT_REFLECT;
    case VIRTX_E_RANGE:
        fault->access = VIRTX_WRITE;
        fault->gpa = b->path.table;
        fault->table_walk = true;
        return VIRTX_FAULT_FORBIDDEN;
    default:
        fault->gpa = b->path.table;
        fault->table_walk = true;
        return VIRTX_FAULT_FORBIDDEN;
    }
    b->gva = fault->gva;
    b->gpa = walk.gpa;
    b->bytes = b->path.count ? walk.bytes : shadow_span(2);
    return map(b, vcpu, fault);
}

/* ---- The quick way ---- */

/*
 * Most faults come where the tables above the last have been met: then the guest's are read beside
 * ours, and where each entry is the one that ours was made from, the walk is as good as done.
 * 4-level tables with CR0.WP; whatever else is unusual is left to the walk.
 */
enum way { WAY_FOUND, WAY_ABSENT, WAY_UNKNOWN };

static inline uint64_t table_entry(const uint8_t *table, unsigned index)
{
    return __atomic_load_n((const uint64_t *)(const void *)table + index, __ATOMIC_RELAXED);
}

/* Host address of a table that we have not met, for the sake of faults below it. */
static const uint8_t *unknown_table(struct build *b, uint64_t entry)
{
    const struct slot_entry *slot;
    const uint8_t *table;

    if (entry & (b->v->reserved | GPTE_PS))
        return NULL;
    slot = virtx_slot_find(virtx_slots(b->vm), entry & SPTE_ADDRESS);
    if (!slot)
        return NULL;
    table = slot->memory + ((entry & SPTE_ADDRESS) - slot->gpa);
    return virtx_hpa(b->vm->virtx, table) == UINT64_MAX ? NULL : table;
}

/* Down to the page whose entry is the last. WAY_ABSENT: an entry of the guest's is not present. */
static enum way find_way(struct build *b, struct shadow_page **out)
{
    const struct shadow_vm *sv = b->sv;
    struct shadow_page *page = b->v->root, *child;
    const uint8_t *table = page->guest;

    for (unsigned level = 4; level > 1; level--) {
        unsigned index = shadow_index(b->gva, level);
        uint64_t entry, ignored;

        if (page && (page->role & ROLE_DIRECT)) {
            if (!shadow_maps(sv, page->entry[index]) || shadow_is_leaf(page->entry[index], level))
                return WAY_UNKNOWN;
            page = page->child[index];
            continue;
        }
        if (unlikely(!table))
            return WAY_UNKNOWN;
        entry = table_entry(table, index);
        if (!(entry & GPTE_P))
            return WAY_ABSENT;
        ignored = entry & GPTE_PS ? 0 : GPTE_D;
        child = page ? page->child[index] : NULL;
        if (likely(child && shadow_maps(sv, page->entry[index]) &&
                   !((entry ^ page->copy[index]) & page->relevant & ~ignored))) {
            page = child;
            table = page->guest;
        } else {
            page = NULL;
            table = unknown_table(b, entry);
        }
    }
    *out = page;
    if (page && (page->role & ROLE_DIRECT))
        return WAY_FOUND;
    if (table && !(table_entry(table, shadow_index(b->gva, 1)) & GPTE_P))
        return WAY_ABSENT;
    return page && table ? WAY_FOUND : WAY_UNKNOWN;
}

/* Whether such rights allow the access; with SMAP and keys more counts than those. */
static bool plainly_allowed(const struct build *b, const struct virtx_page_fault *fault)
{
    uint32_t rights = b->rights;
    bool user = fault->error & PF_USER;

    if (!(b->v->role & ROLE_WP) || (b->v->mode.cr4 & (CR4_SMAP | CR4_PKE)))
        return false;
    if ((user && !(rights & ROLE_U)) || (b->write && !(rights & ROLE_W)))
        return false;
    return fault->access != VIRTX_EXECUTE ||
           ((rights & ROLE_X) && (user || !(rights & ROLE_U) || !(b->v->mode.cr4 & CR4_SMEP)));
}

/* The last entry of a table of the guest's: rights, flags, address. */
static bool take_entry(struct build *b, struct shadow_page *page, unsigned index,
                       const struct virtx_page_fault *fault)
{
    uint64_t *at = (uint64_t *)(uintptr_t)page->guest + index;
    uint64_t entry = __atomic_load_n(at, __ATOMIC_RELAXED);
    uint64_t wanted = entry | GPTE_A | (b->write ? GPTE_D : 0);

    if (!(entry & GPTE_P) || (entry & b->v->reserved))
        return false;
    b->rights = page->role & ROLE_ACCESS;
    if (!(entry & GPTE_U))
        b->rights &= ~(uint32_t)ROLE_U;
    if (!(entry & GPTE_W))
        b->rights &= ~(uint32_t)ROLE_W;
    if (entry & GPTE_NX)
        b->rights &= ~(uint32_t)ROLE_X;
    if (!plainly_allowed(b, fault))
        return false;
    if (entry != wanted) {
        const struct slot_entry *slot = virtx_slot_find(virtx_slots(b->vm), page->gfn << 12);

        if (!slot || !(slot->rights & VIRTX_WRITE) || slot->dirty ||
            !__atomic_compare_exchange_n(at, &entry, wanted, false, __ATOMIC_SEQ_CST,
                                         __ATOMIC_RELAXED))
            return false;
    }
    if (!(wanted & GPTE_D))
        b->rights &= ~(uint32_t)ROLE_W;
    b->gpa = (wanted & SPTE_ADDRESS) | (b->gva & 0xfff);
    b->key = wanted & SPTE_KEY;
    b->path.entry[0] = wanted;
    return true;
}

/* The guest's own fault on an entry that is not present, as its processor reports it. */
static void absent(const struct build *b, struct virtx_page_fault *fault)
{
    fault->error &= PF_WRITE | PF_USER | PF_FETCH;
    if (!(b->v->mode.efer & EFER_NXE) && !(b->v->mode.cr4 & CR4_SMEP))
        fault->error &= ~PF_FETCH;
}

/* True: `*result` is the answer. */
static bool quick_fault(struct build *b, struct virtx_vcpu *vcpu, struct virtx_page_fault *fault,
                        enum virtx_fault_result *result)
{
    struct shadow_page *page;
    unsigned index = shadow_index(fault->gva, 1);
    uint64_t hpa;

    b->gva = fault->gva;
    switch (find_way(b, &page)) {
    case WAY_ABSENT:
        absent(b, fault);
        *result = VIRTX_FAULT_REFLECT;
        return true;
    case WAY_UNKNOWN:
        return false;
    case WAY_FOUND:
        break;
    }
    if (page->role & ROLE_DIRECT) {
        b->rights = page->role & ROLE_ACCESS;
        b->gpa = (page->gfn + index) << 12 | (b->gva & 0xfff);
        b->key = (uint64_t)(page->role >> ROLE_KEY & 15) << 59;
        if (!plainly_allowed(b, fault))
            return false;
    } else if (!take_entry(b, page, index, fault)) {
        return false;
    }
    b->slot = virtx_slot_find(virtx_slots(b->vm), b->gpa);
    if (!b->slot || (fault->access & ~b->slot->rights))
        return false;
    hpa = virtx_hpa(b->vm->virtx, b->slot->memory + ((b->gpa & SPTE_ADDRESS) - b->slot->gpa));
    if (!usable(b->sv, hpa))
        return false;
    page->stamp = b->sv->stamp;
    fault->gpa = b->gpa;
    *result = make_leaf(b, page, index, 0, 1, hpa);
    if (likely(b->changed))
        b->v->spurious = 0;
    else
        *result = unchanged(b, vcpu, fault);
    return true;
}

enum virtx_fault_result shadow_fault(struct virtx_vcpu *vcpu, struct virtx_page_fault *fault)
{
    struct shadow_vm *sv = shadow_vm_of(vcpu->vm);
    struct shadow_vcpu *v = shadow_vcpu_of(vcpu);
    struct build b = {.sv = sv, .v = v, .vm = vcpu->vm, .write = fault->access == VIRTX_WRITE};
    enum virtx_fault_result result;
    uint64_t before;

    virtx_lock(&sv->lock);
    before = sv->narrowed;
    if (unlikely(!v->root || v->stale || v->root->state != SHADOW_LIVE)) {
        hw_of(vcpu)->work |= HW_WORK_ROOT;
        result = shadow_root_make(vcpu) ? VIRTX_FAULT_RESUME : no_memory(&b);
    } else if ((sv->marker & SPTE_P ? fault->error & PF_RESERVED : !(fault->error & PF_PRESENT)) &&
               known_device(sv, v, fault)) {
        result = VIRTX_FAULT_NOT_MEMORY;
    } else {
        sv->stamp++;
        if (shadow_level(v->root) != 4 || !quick_fault(&b, vcpu, fault, &result))
            result = walk_and_map(&b, vcpu, fault);
    }
    shadow_settle(sv);
    /* What others have narrowed may wait until this vcpu's guest flushes. */
    if (sv->narrowed != before) {
        v->narrowed = sv->narrowed;
        hw_owe(hw_of(vcpu), HW_FLUSH_TAG);
    }
    virtx_unlock(&sv->lock);
    return result;
}
