/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The shadow paging engine: tables from guest-linear to host-physical addresses for processors
 * without nested paging, made from the guest's own as it uses them. shadow.h says what is kept and
 * what always holds.
 */
#include "paging/shadow.h"

#define LOW_TRIES 16u /* pages asked for to get one below 4 GiB */

static unsigned power_of_two(uint64_t most, unsigned limit)
{
    unsigned n = 1;

    while (n < limit && n * 2 <= most)
        n *= 2;
    return n;
}

/* Heads of lists, as many as the pool's bound makes sensible. */
static bool make_heads(struct shadow_vm *sv)
{
    uint64_t bound = sv->vm->config.pool_pages ? sv->vm->config.pool_pages : UINT64_MAX;
    unsigned hash = power_of_two(bound / 256, SHADOW_HASH);
    unsigned rmap = power_of_two(bound / 128, SHADOW_RMAP);

    for (unsigned i = 0; i < hash; i++) {
        sv->hash[i] = virtx_pool_get(sv->vm);
        if (!sv->hash[i])
            return false;
    }
    for (unsigned i = 0; i < rmap; i++) {
        sv->rmap[i] = virtx_pool_get(sv->vm);
        if (!sv->rmap[i])
            return false;
    }
    /* NOLINTNEXTLINE(bugprone-sizeof-expression): the hash is of pointers */
    sv->hash_mask = hash * (VIRTX_PAGE_SIZE / (uint32_t)sizeof(*sv->hash[0])) - 1;
    sv->rmap_mask = rmap * (VIRTX_PAGE_SIZE / (uint32_t)sizeof(*sv->rmap[0])) - 1;
    return true;
}

static bool is_low(uint64_t hpa)
{
    return hpa >> 32 == 0;
}

/* A page below 4 GiB, where CR3 can name it without long mode. */
static void *low_page(struct virtx_vm *vm)
{
    void *tried[LOW_TRIES], *page = NULL;
    unsigned count = 0;

    while (!page && count < LOW_TRIES) {
        page = virtx_pool_get(vm);
        if (!page)
            break;
        if (!is_low(virtx_hpa(vm->virtx, page))) {
            tried[count++] = page;
            page = NULL;
        }
    }
    while (count)
        virtx_pool_put(vm, tried[--count], 0);
    return page;
}

static enum virtx_status shadow_vm_create(struct virtx_vm *vm)
{
    struct shadow_vm *sv = shadow_vm_of(vm);
    unsigned bits = vm->virtx->caps.physical_bits;

    sv->vm = vm;
    sv->hpa_limit = BIT(bits);
    sv->marker = SPTE_MARKER | (bits < 52 ? SPTE_P : 0);
    if (bits < 52 && (vm->virtx->caps.features & VIRTX_FEATURE_FAULT_FILTER))
        sv->unknown = SPTE_UNKNOWN;
    sv->empty = low_page(vm);
    if (!sv->empty || !make_heads(sv)) {
        shadow_free_all(sv);
        return virtx_fail(&vm->error, VIRTX_E_NO_MEMORY, "page pool",
                          "has pages for shadow paging, one of them below 4 GiB", 0);
    }
    sv->empty_hpa = virtx_hpa(vm->virtx, sv->empty);
    sv->vain_max = SHADOW_VAIN;
    return VIRTX_OK;
}

static void shadow_vm_destroy(struct virtx_vm *vm)
{
    shadow_free_all(shadow_vm_of(vm));
}

/* The four entries of PAE format are the vcpu's own, and always there. */
static enum virtx_status shadow_vcpu_create(struct virtx_vcpu *vcpu)
{
    struct shadow_vm *sv = shadow_vm_of(vcpu->vm);
    struct shadow_vcpu *v = shadow_vcpu_of(vcpu);
    uint64_t flags = virtx_lock_irq(&sv->lock);
    uint64_t *low = low_page(vcpu->vm);
    struct shadow_page *page = low ? shadow_page_get(sv, 0, ROLE_ROOT | ROLE_ACCESS | 3) : NULL;

    if (page) {
        virtx_pool_put(vcpu->vm, page->entry, 0);
        page->entry = low;
        page->hpa = virtx_hpa(vcpu->vm->virtx, low);
        page->pins = 1;
        v->pae = page;
    } else if (low) {
        virtx_pool_put(vcpu->vm, low, 0);
    }
    v->stale = true;
    virtx_unlock_irq(&sv->lock, flags);
    if (!page)
        return virtx_fail(&vcpu->vm->error, VIRTX_E_NO_MEMORY, "page pool",
                          "has pages for a vcpu with shadow paging, one of them below 4 GiB", 0);
    return VIRTX_OK;
}

static void shadow_vcpu_destroy(struct virtx_vcpu *vcpu)
{
    struct shadow_vm *sv = shadow_vm_of(vcpu->vm);
    struct shadow_vcpu *v = shadow_vcpu_of(vcpu);
    uint64_t flags = virtx_lock_irq(&sv->lock);

    if (v->root)
        shadow_page_unpin(sv, v->root);
    v->root = NULL;
    if (v->pae) {
        shadow_page_empty(sv, v->pae);
        shadow_entries_begin(sv, v->pae->entry); /* whose memory becomes another's */
        v->pae->state = SHADOW_DEAD;
        shadow_page_unpin(sv, v->pae);
    }
    v->pae = NULL;
    shadow_settle(sv);
    virtx_unlock_irq(&sv->lock, flags);
}

/* Before an entry, when something has changed. What the guest's flush makes visible is seen here.
 */
static uint64_t shadow_root(struct virtx_vcpu *vcpu)
{
    struct shadow_vm *sv = shadow_vm_of(vcpu->vm);
    struct shadow_vcpu *v = shadow_vcpu_of(vcpu);
    const struct shadow_page *old = v->root;
    uint64_t hpa;

    virtx_lock(&sv->lock);
    sv->flushes += v->flush;
    if (v->flush && sv->unsync[SHADOW_TABLES])
        shadow_sync_tables(sv);
    if (v->stale || !v->root || v->root->state != SHADOW_LIVE)
        shadow_root_make(vcpu);
    if ((v->flush || v->root != old) && sv->unsync[SHADOW_LEAVES])
        shadow_sync_leaves(sv, v->root && shadow_level(v->root) == 4 ? v->root : NULL);
    if (v->flush)
        shadow_sync_rounds(sv);
    v->flush = false;
    hpa = v->root ? v->root->hpa : sv->empty_hpa;
    shadow_settle(sv);
    if (sv->narrowed != v->narrowed || hpa != v->root_hpa || v->root == v->pae)
        hw_owe(hw_of(vcpu), HW_FLUSH_TAG);
    v->narrowed = sv->narrowed;
    v->root_hpa = hpa;
    virtx_unlock(&sv->lock);
    return hpa;
}

/* A root that is known, after what is taken for a flush. */
static inline uint64_t enter_root(struct virtx_vcpu *vcpu, struct shadow_vm *sv,
                                  struct shadow_vcpu *v, struct shadow_page *root)
{
    uint64_t hpa = root->hpa;

    sv->flushes++;
    if (root != v->root) {
        v->root->pins--; /* it is alive: nobody waits for that */
        root->pins++;
        v->root = root;
    }
    if (sv->unsync[SHADOW_TABLES] || sv->unsync[SHADOW_LEAVES]) {
        shadow_sync_leaves(sv, root);
        shadow_sync_rounds(sv);
    }
    shadow_settle(sv);
    if (sv->narrowed != v->narrowed || hpa != v->root_hpa) {
        v->narrowed = sv->narrowed;
        v->root_hpa = hpa;
        hw_owe(hw_of(vcpu), HW_FLUSH_TAG);
    }
    return hpa;
}

/* The root, if nothing has to be found out first. */
static inline struct shadow_page *root_in_use(struct shadow_vm *sv, const struct shadow_vcpu *v)
{
    struct shadow_page *root = v->root;

    if (sv->unsync[SHADOW_TABLES])
        shadow_sync_tables(sv);
    if (unlikely(v->flush | v->stale) || !root || root->state != SHADOW_LIVE)
        return NULL;
    return root;
}

/* Most often a space that is known, and nothing that was written meanwhile. */
static uint64_t shadow_load_cr3(struct virtx_vcpu *vcpu, uint64_t cr3)
{
    struct shadow_vm *sv = shadow_vm_of(vcpu->vm);
    struct shadow_vcpu *v = shadow_vcpu_of(vcpu);
    struct shadow_page *root;
    uint64_t hpa = 0;

    virtx_lock(&sv->lock);
    root = root_in_use(sv, v);
    if (root && ((cr3 ^ v->mode.cr3) & SPTE_ADDRESS))
        root = shadow_page_find(sv, (cr3 & SPTE_ADDRESS) >> 12, root->role);
    if (root) {
        v->mode.cr3 = cr3;
        hpa = enter_root(vcpu, sv, v, root);
    }
    virtx_unlock(&sv->lock);
    return hpa;
}

/* CR0.WP: the same tables, read in another way. CR4.PGE: a flush. */
static uint64_t shadow_toggle(struct virtx_vcpu *vcpu, unsigned reg, uint64_t value)
{
    struct shadow_vm *sv = shadow_vm_of(vcpu->vm);
    struct shadow_vcpu *v = shadow_vcpu_of(vcpu);
    struct shadow_page *root;
    uint64_t hpa = 0;

    virtx_lock(&sv->lock);
    root = root_in_use(sv, v);
    if (root && reg == 0)
        root = shadow_page_find(sv, root->gfn,
                                root->role ^ v->role ^ shadow_role_wp(v->role, value, v->mode.cr4));
    if (root) {
        v->role = root->role & ROLE_MODE;
        if (reg == 0)
            v->mode.cr0 = value;
        else
            v->mode.cr4 = value;
        hpa = enter_root(vcpu, sv, v, root);
    }
    virtx_unlock(&sv->lock);
    return hpa;
}

/* MOV to a control register, INVPCID, or a new state: all of them are taken for a flush. */
static void shadow_control_changed(struct virtx_vcpu *vcpu, uint64_t old_cr0, uint64_t old_cr4,
                                   uint64_t old_efer)
{
    struct shadow_vcpu *v = shadow_vcpu_of(vcpu);

    (void)old_cr0;
    (void)old_cr4;
    (void)old_efer;
    v->flush = true;
    v->stale = true;
}

/* Compares what the address is mapped by. No root may lead there yet, as after a load of CR3 in PAE
 * format: then the page table is put off until one does. */
static void compare_address(struct shadow_vm *sv, const struct shadow_vcpu *v, uint64_t gva)
{
    struct shadow_page *page = v->root;
    unsigned index;

    if (!page || v->stale || page->state != SHADOW_LIVE) {
        sv->put_off = true;
        return;
    }
    page = shadow_lookup(v, gva, &index);
    if (page->unsync)
        shadow_compare_entry(sv, page, index);
    if (shadow_level(page) > 1 && !shadow_maps(page->entry[index]))
        sv->put_off = true;
}

/* INVLPG with tables out of sync, or a flush that follows. [lock], which it gives back. */
static __attribute__((noinline)) void invlpg_behind(struct virtx_vcpu *vcpu, uint64_t gva)
{
    struct shadow_vm *sv = shadow_vm_of(vcpu->vm);
    struct shadow_vcpu *v = shadow_vcpu_of(vcpu);

    if (sv->unsync[SHADOW_TABLES])
        shadow_sync_tables(sv);
    if (sv->unsync[SHADOW_LEAVES])
        compare_address(sv, v, gva);
    shadow_settle(sv);
    if (sv->narrowed != v->narrowed) {
        v->narrowed = sv->narrowed;
        hw_owe(hw_of(vcpu), HW_FLUSH_TAG);
    }
    virtx_unlock(&sv->lock);
}

static void shadow_invlpg(struct virtx_vcpu *vcpu, uint64_t gva)
{
    struct shadow_vm *sv = shadow_vm_of(vcpu->vm);
    const struct shadow_vcpu *v = shadow_vcpu_of(vcpu);

    virtx_lock(&sv->lock);
    if (sv->unsync[SHADOW_TABLES] || sv->unsync[SHADOW_LEAVES] || sv->freed ||
        sv->narrowed != v->narrowed) {
        invlpg_behind(vcpu, gva);
        return;
    }
    virtx_unlock(&sv->lock);
}

const struct virtx_paging virtx_paging_shadow = {
    .size = sizeof(struct virtx_paging),
    .nested = false,
    .dirty_at_grant = true,
    .name = "shadow",
    .vm_bytes = sizeof(struct shadow_vm),
    .vcpu_bytes = sizeof(struct shadow_vcpu),
    .vm_create = shadow_vm_create,
    .vm_destroy = shadow_vm_destroy,
    .vcpu_create = shadow_vcpu_create,
    .vcpu_destroy = shadow_vcpu_destroy,
    .memory = shadow_memory,
    .collect_dirty = shadow_collect_dirty,
    .root = shadow_root,
    .fault = shadow_fault,
    .control_changed = shadow_control_changed,
    .load_cr3 = shadow_load_cr3,
    .toggle = shadow_toggle,
    .invlpg = shadow_invlpg,
    .written = shadow_written,
};
