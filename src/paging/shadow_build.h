/* SPDX-License-Identifier: BSD-2-Clause */
/* What is known about a fault of a guest with shadow tables on the way to its entry. */
#ifndef VIRTX_PAGING_SHADOW_BUILD_H
#define VIRTX_PAGING_SHADOW_BUILD_H

#include "paging/shadow.h"

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

static inline bool shadow_usable(const struct shadow_vm *sv, uint64_t hpa)
{
    return hpa < sv->hpa_limit && !(hpa & (VIRTX_PAGE_SIZE - 1));
}

/* Whether some table in the frame is in sync, or about to be: then it may not be written unseen. */
static inline bool shadow_is_protected(const struct shadow_vm *sv, uint64_t gfn)
{
    const struct shadow_page *page;

    if (!sv->region[gfn >> 9 & (SHADOW_REGIONS - 1)])
        return false;
    page = shadow_table_find(sv, gfn);
    while (page && page->unsync && !page->closing)
        page = shadow_table_next(page);
    return page != NULL;
}

static inline uint64_t shadow_leaf_entry(const struct slot_entry *slot, uint64_t hpa,
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
    return entry;
}

/* The guest's entry of a step of the walk, as shadow_page.copy keeps it. */
static inline uint64_t shadow_copy_of(const struct build *b, const struct shadow_page *page,
                                      unsigned step)
{
    if (page->role & (ROLE_DIRECT | ROLE_ROOT))
        return 0;
    return b->path.entry[step];
}

/* shadow_leaf.c */
/* What the processor is to allow, from what the guest's entries do. False: no entry can say it. */
bool shadow_leaf_rights(struct build *b, bool user);
/* Whether 2 MiB around the page can be one leaf, and then its HPA. */
bool shadow_large_leaf(struct build *b, uint64_t *hpa);
/* Puts the leaf in its place, if it is not there yet (b->changed), and neighbours beside it. */
void shadow_leaf_make(struct build *b, struct shadow_page *page, unsigned index, unsigned step,
                      unsigned level, uint64_t hpa);
/* Neighbours of an entry that the guest's entries say are in use. `key`: of a direct page. */
void shadow_map_ahead(struct shadow_vm *sv, const struct walk_mode *mode,
                      const struct slot_entry *slot, struct shadow_page *page, unsigned index,
                      uint64_t key);

/* A write to a table that stays in sync: the library executes it, and the engine hears of it by
 * virtx_paging.written. */
static inline bool shadow_executes(struct shadow_vm *sv, struct virtx_vcpu *vcpu, uint64_t gfn)
{
    switch (sv->vm->config.table_sync) {
    case VIRTX_TABLE_SYNC_EACH_WRITE:
        return hw_can_execute_write(hw_of(vcpu));
    case VIRTX_TABLE_SYNC_ON_FLUSH:
        return unlikely(shadow_table_costly(sv, gfn)) && hw_can_execute_write(hw_of(vcpu));
    default:
        return false;
    }
}

/* shadow_fault.c: the whole of it, where shadow_quick.c finds something unusual. */
enum virtx_fault_result shadow_fault_walk(struct virtx_vcpu *vcpu, struct virtx_page_fault *fault);
/* The processor faults again although nothing had to be changed. */
enum virtx_fault_result shadow_fault_again(struct virtx_vcpu *vcpu,
                                           const struct virtx_page_fault *fault);
enum virtx_fault_result shadow_no_memory(struct shadow_vm *sv);
/* A device that was met before, by an access that the guest's tables allowed then. */
bool shadow_known_device(const struct shadow_vm *sv, const struct shadow_vcpu *v,
                         struct virtx_page_fault *fault);

#endif
