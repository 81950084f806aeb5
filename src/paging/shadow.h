/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the files of the shadow engine share among themselves, and nobody else sees.
 *
 * A shadow page is a table that the processor walks, made from one table of the guest: its key is
 * the guest table's frame and a role, which says how the guest's entries were read. Tables for what
 * the guest maps with larger pages than we can, or without paging, are `direct`: their key is the
 * first frame they map. Host tables have 64-bit entries in all cases: 4 levels for a guest in long
 * mode, PAE otherwise, where a table of 1024 guest entries has a shadow page for each quadrant (of
 * a directory) or half (of a page table).
 *
 * What holds whenever shadow_vm.lock is free; tests/unit/test_shadow.c looks after each operation:
 *
 * - A leaf gives no more than its slot, and leads to its slot's memory: this protects the host, and
 *   nothing a guest does can break it.
 * - A shadow page that is not `unsync` says nothing that the guest's table does not say now, and no
 *   entry lets the guest write the table without a fault. (The guest's entry may have more accessed
 *   and dirty flags than the copy.)
 * - A shadow page that is `unsync` may be behind, as a TLB may be: until the guest executes what
 *   flushes a TLB. It is in one of the lists shadow_vm.unsync until then.
 * - Where the processor may deliver the guest's faults by itself (shadow_vm.unknown), an entry that
 * is 0 says that the guest's is not present, and what is not known has a marker. Such entries exist
 * in pages that are in sync, and only while all tables are that point to tables: so the whole way
 * there is.
 * - Every entry that is present is linked in one list: a leaf in the bucket of its frame (the
 *   reverse map), an entry that points to a table among that table's parents.
 */
#ifndef VIRTX_PAGING_SHADOW_H
#define VIRTX_PAGING_SHADOW_H

#include "hw/hw.h"
#include "paging/walk.h"
#include "x86/defs.h"

#define SPTE_P       BIT(0)
#define SPTE_W       BIT(1)
#define SPTE_U       BIT(2)
#define SPTE_UC      (BIT(3) | BIT(4)) /* PWT and PCD: uncacheable with every PAT in use */
#define SPTE_A       BIT(5)
#define SPTE_D       BIT(6)
#define SPTE_PS      BIT(7)
#define SPTE_NX      BIT(63)
#define SPTE_KEY     (15ull << 59)
#define SPTE_ADDRESS 0x000ffffffffff000ull

/*
 * MMIO, known without a walk. All address bits are 1: where the processor has fewer, reserved bits
 * make the access fault with PF_RESERVED; where it has all 52 the entry is not present. Either way
 * no memory lies at the address, so a processor that goes on speculatively with it (L1TF) finds no
 * data in its cache. The guest-physical address is kept elsewhere.
 */
#define SPTE_IS_MARKER BIT(11) /* the processor ignores it */
#define SPTE_MARKER    (SPTE_ADDRESS | SPTE_IS_MARKER)
/*
 * An entry of which nothing is known yet, where an entry of 0 means more than that. It faults with
 * PF_RESERVED, which comes with PF_PRESENT, so that the error code tells it from the guest's own
 * entries that are not present (Intel SDM "Page-Fault Exceptions").
 */
#define SPTE_UNKNOWN (SPTE_MARKER | BIT(10) | SPTE_P)

#define GPTE_P       BIT(0)
#define GPTE_W       BIT(1)
#define GPTE_U       BIT(2)
#define GPTE_A       BIT(5)
#define GPTE_D       BIT(6)
#define GPTE_PS      BIT(7)
#define GPTE_G       BIT(8)
#define GPTE_NX      BIT(63)

/* The bits of a role. */
#define ROLE_LEVEL    7u
#define ROLE_DIRECT   BIT(3)
#define ROLE_32       BIT(4) /* guest entries of 4 bytes */
#define ROLE_PAE      BIT(5) /* PAE's reserved bits */
#define ROLE_QUADRANT 6      /* 2 bits: which part of a 32-bit table */
#define ROLE_W        BIT(8) /* what the entries above allow */
#define ROLE_U        BIT(9)
#define ROLE_X        BIT(10)
#define ROLE_ACCESS   (ROLE_W | ROLE_U | ROLE_X)
#define ROLE_WP       BIT(11) /* CR0.WP */
#define ROLE_NXE      BIT(12) /* EFER.NXE, else bit 63 is reserved */
#define ROLE_PSE      BIT(13) /* CR4.PSE; in 64-bit formats: 1-GByte pages exist */
#define ROLE_SMEP     BIT(14) /* CR4.SMEP and SMAP, kept apart only while CR0.WP is 0 */
#define ROLE_SMAP     BIT(15)
#define ROLE_PKE      BIT(16) /* likewise CR4.PKE */
#define ROLE_ROOT     BIT(17) /* the four entries of a vcpu in PAE format: in no hash */
#define ROLE_KEY      20      /* 4 bits: protection key of a direct page */
/* What is the same all over a tree. */
#define ROLE_MODE                                                                                  \
    (ROLE_32 | ROLE_PAE | ROLE_WP | ROLE_NXE | ROLE_PSE | ROLE_SMEP | ROLE_SMAP | ROLE_PKE)

#define SHADOW_ENTRIES   512u
#define SHADOW_SPAN_BITS 9
#define SHADOW_BLOCK     16u /* headers in a page */
#define SHADOW_DIRECTORY 8u  /* pages of pointers to them */
#define SHADOW_MAX_PAGES 65535u
#define SHADOW_HASH      4u  /* most pages of list heads: of tables, */
#define SHADOW_RMAP      16u /* and of the reverse map */
#define SHADOW_REGIONS   1024u
#define SHADOW_VAIN      1024u /* shadow_vm.vain_max */

/*
 * A list of entries. An entry is named by the number of its page and its index, 0 is none. `prev`
 * of the first in a list names the list: a bucket of the reverse map, or a page whose parents they
 * are.
 */
struct shadow_link {
    uint32_t prev, next;
};
#define LINK_HEAD   BIT(31)
#define LINK_PARENT BIT(30) /* with LINK_HEAD */

enum shadow_state {
    SHADOW_FREE,    /* in shadow_vm.free, without entries */
    SHADOW_WAITING, /* in shadow_vm.waiting, until its generation has settled */
    SHADOW_LIVE,
    SHADOW_DEAD, /* nobody finds it any more, but a vcpu has it as its root */
};

struct shadow_page {
    uint64_t *entry; /* what the processor walks */
    struct shadow_link *link;
    uint64_t *copy; /* the guest's entries as they were read; of a marker its GPA and rights.
                       Not of direct pages */
    struct shadow_page **child; /* tables pointed to; level 2 and above */
    const uint8_t *guest; /* host address of the guest's table; NULL: not in memory, or direct */
    uint64_t hpa;
    uint64_t gfn;
    uint64_t relevant; /* bits of a guest entry whose change matters */
    struct shadow_page *hash_next;
    struct shadow_page *older, *newer; /* all live pages by age; else a list by `older` */
    struct shadow_page *unsync_prev, *unsync_next;
    struct shadow_page *absent_next; /* while absent_listed */
    uint64_t generation;             /* SHADOW_WAITING */
    uint64_t used[8];                /* bit n: something is known of entry n */
    uint32_t role;
    uint32_t number;
    uint32_t parents;     /* first entry that points here */
    uint32_t stamp;       /* fault that needs it: not to be evicted by it */
    uint32_t burst_flush; /* shadow_vm.flushes when `burst` began */
    uint16_t pins;        /* vcpus whose root it is */
    uint16_t vain;        /* entries that flushes looked at in vain, lately */
    uint8_t state;
    uint8_t idle;  /* times it was written without having been used */
    uint8_t hot;   /* how often it was written lately */
    uint8_t burst; /* writes since the last flush that were executed for the guest */
    bool unsync;
    bool fresh; /* made a moment ago: nothing has used it yet */
    bool has_markers;
    bool closing; /* unsync, but protected again: in sync once all vcpus have flushed */
    bool absent_listed;
    uint8_t absent; /* bit n: of the entries in used[n] some may be 0 */
};
_Static_assert(sizeof(struct shadow_page) * SHADOW_BLOCK <= VIRTX_PAGE_SIZE, "fit a page");

enum { SHADOW_LEAVES, SHADOW_TABLES }; /* the lists of unsync pages: level 1, and above */

struct shadow_vm {
    struct virtx_vm *vm;
    struct virtx_lock lock; /* of all that follows; inside virtx_vm.lock, outside page_lock */
    uint64_t hpa_limit;
    uint64_t marker; /* SPTE_MARKER, present where that makes it reserved */
    uint64_t
        unknown; /* SPTE_UNKNOWN if #PFs of entries that are not present need not exit, else 0 */
    uint64_t *empty; /* a root without entries, for a vcpu that can get no other */
    uint64_t empty_hpa;
    struct shadow_page *free, *waiting;
    struct shadow_page *oldest, *newest;
    struct shadow_page *unsync[2];
    struct shadow_page *absent; /* all pages that have entries of 0, and some that had */
    uint32_t pages;             /* headers made */
    uint32_t tables;            /* live pages that are not direct */
    uint32_t large;             /* large leaves */
    uint32_t markers;           /* live pages that have some, or had */
    uint32_t hash_mask, rmap_mask;
    uint32_t freed;    /* pages that processors may still walk */
    uint32_t stamp;    /* of the fault that is being answered */
    uint32_t flushes;  /* of the guest's, of a whole TLB */
    uint16_t vain_max; /* shadow_page.vain from which on writes are executed, and its most */
    uint64_t narrowed; /* how often an entry has lost rights */
    uint64_t round;    /* generation that ends `closing`; 0: no page is */
    uint64_t
        dropped;    /* VIRTX_TABLE_SYNC_DROP: tables dropped since the last flush, by frame % 64 */
    bool put_off;   /* some page table was not looked at, as no root in use led to it */
    uint32_t open;  /* unsync pages that are not closing */
    uint64_t links; /* how often an entry that points to a table has changed */
    struct shadow_page **hash[SHADOW_HASH]; /* pages of heads */
    uint32_t *rmap[SHADOW_RMAP];            /* pages of heads */
    struct shadow_page **directory[SHADOW_DIRECTORY];
    uint16_t region[SHADOW_REGIONS]; /* by 2 MiB: guest tables there, so no large leaves */
};

/* The way down the guest's 4-level tables at a fault before (shadow_quick.c). */
struct shadow_way {
    uint64_t region;                /* gva >> 21 */
    const struct shadow_page *root; /* NULL: nothing is remembered */
    const uint8_t *top;             /* the guest's table of it */
    uint64_t links, generation;     /* of shadow_vm, of the VM */
    const uint64_t *at[3];          /* the guest's entries, and what they were */
    uint64_t entry[3];
    struct shadow_page *page; /* ours; NULL: not met yet */
    const uint8_t *table;     /* the guest's */
    bool writable;            /* flags may be set in it, and nobody logs that */
};

struct shadow_vcpu {
    struct walk_mode mode;    /* as of the root */
    struct shadow_page *root; /* NULL: none yet, or the empty one is in use */
    struct shadow_page *pae;  /* this vcpu's own four entries */
    uint64_t root_hpa;        /* what the processor has */
    uint64_t narrowed;        /* the VM's as of the last flush: older translations may be stale */
    uint64_t reserved;        /* bits that must be 0 in the guest's 4-level entries */
    uint32_t role;            /* ROLE_MODE of the tree */
    uint32_t fault_bits;      /* see hw_fault_bits() */
    bool flush;               /* the guest has flushed its TLB: what is unsync must be looked at */
    bool stale;               /* the registers have changed, or the root has gone */
    uint8_t spurious;         /* faults in a row for which nothing had to be changed */
    uint32_t last_error;
    uint64_t last_gva;
    struct shadow_way way;
    const struct slot_entry *slot; /* met last, for as long as the VM's generation is this */
    uint64_t slot_gpa, slot_bytes, slot_generation;
};

static inline struct shadow_vm *shadow_vm_of(struct virtx_vm *vm)
{
    return vm->paging_data;
}

static inline struct shadow_vcpu *shadow_vcpu_of(struct virtx_vcpu *vcpu)
{
    return vcpu->paging_data;
}

static inline unsigned shadow_level(const struct shadow_page *page)
{
    return page->role & ROLE_LEVEL;
}

static inline uint64_t shadow_span(unsigned level)
{
    return BIT(12 + SHADOW_SPAN_BITS * (level - 1));
}

static inline unsigned shadow_index(uint64_t gva, unsigned level)
{
    return (unsigned)(gva >> (12 + SHADOW_SPAN_BITS * (level - 1))) & (SHADOW_ENTRIES - 1);
}

static inline bool shadow_is_leaf(uint64_t entry, unsigned level)
{
    return level == 1 || (level < 4 && (entry & SPTE_PS));
}

/* A leaf or a table, not a marker. */
static inline bool shadow_maps(uint64_t entry)
{
    return (entry & (SPTE_P | SPTE_IS_MARKER)) == SPTE_P;
}

/* What an entry is of which nothing is known. The four of PAE format may have no reserved bits. */
static inline uint64_t shadow_unknown(const struct shadow_vm *sv, const struct shadow_page *page)
{
    return page->role & ROLE_ROOT ? 0 : sv->unknown;
}

/* A role under another CR0.WP; while that is 0 SMEP, SMAP and keys are kept apart. */
static inline uint32_t shadow_role_wp(uint32_t role, uint64_t cr0, uint64_t cr4)
{
    role &= ~(uint32_t)(ROLE_WP | ROLE_SMEP | ROLE_SMAP | ROLE_PKE);
    if (cr0 & CR0_WP)
        return role | ROLE_WP;
    if (cr4 & CR4_SMEP)
        role |= ROLE_SMEP;
    if (cr4 & CR4_SMAP)
        role |= ROLE_SMAP;
    if (cr4 & CR4_PKE)
        role |= ROLE_PKE;
    return role;
}

/* Other processors may have translations of this VM, or be walking its tables. */
static inline bool shadow_alone(const struct shadow_vm *sv)
{
    return sv->vm->vcpu_count <= 1;
}

/* shadow_page.c: life of pages and their entries. All with the lock held. */
struct shadow_page *shadow_page_find(const struct shadow_vm *sv, uint64_t gfn, uint32_t role);
/* The first page of any role made from the guest's table in this frame, or the next one. */
struct shadow_page *shadow_table_find(const struct shadow_vm *sv, uint64_t gfn);
struct shadow_page *shadow_table_next(const struct shadow_page *page);
/* Finds or makes. NULL: no memory. Pages got under the same stamp are not evicted for it. */
struct shadow_page *shadow_page_get(struct shadow_vm *sv, uint64_t gfn, uint32_t role);
/* Takes it out of sight, and frees it unless it is somebody's root. */
void shadow_page_drop(struct shadow_vm *sv, struct shadow_page *page);
void shadow_page_unpin(struct shadow_vm *sv, struct shadow_page *page);
void shadow_page_touch(struct shadow_vm *sv, struct shadow_page *page);
bool shadow_page_used(struct shadow_vm *sv, struct shadow_page *page);
void shadow_settle_freed(struct shadow_vm *sv);
/* Gives other vcpus notice of pages that were freed. At the end of each operation. */
static inline void shadow_settle(struct shadow_vm *sv)
{
    if (unlikely(sv->freed))
        shadow_settle_freed(sv);
}
void shadow_free_all(struct shadow_vm *sv);
struct shadow_page *shadow_page_number(const struct shadow_vm *sv, uint32_t number);

/* shadow_entry.c: entries. */
void shadow_entry_clear(struct shadow_vm *sv, struct shadow_page *page, unsigned index);
void shadow_entry_leaf(struct shadow_vm *sv, struct shadow_page *page, unsigned index,
                       uint64_t entry, uint64_t gfn, uint64_t copy);
void shadow_entry_table(struct shadow_vm *sv, struct shadow_page *page, unsigned index,
                        struct shadow_page *child, uint64_t copy);
void shadow_entry_marker(struct shadow_vm *sv, struct shadow_page *page, unsigned index,
                         uint64_t copy);
/* The guest's entry is not present; remembered where that is of use. */
void shadow_entry_absent(struct shadow_vm *sv, struct shadow_page *page, unsigned index);
/* The guest writes the table, or some table above others: it may not be so any more. */
void shadow_forget_absent(struct shadow_vm *sv, struct shadow_page *page);
void shadow_forget_all_absent(struct shadow_vm *sv);
/* Nothing is known of any entry: memory that has not been in use as a table. */
void shadow_entries_begin(const struct shadow_vm *sv, uint64_t *entries);
void shadow_page_empty(struct shadow_vm *sv, struct shadow_page *page);
/* Frame that a leaf's (or marker's) guest entry leads to. */
uint64_t shadow_leaf_gfn(const struct shadow_page *page, unsigned index);
/* Calls back for the leaves that map any of the frames. */
typedef void (*shadow_leaf_fn)(struct shadow_vm *sv, struct shadow_page *page, unsigned index);
void shadow_for_leaves(struct shadow_vm *sv, uint64_t gfn, uint64_t count, shadow_leaf_fn fn);
/* Takes the right to write from all leaves of a frame; true: there was one. */
bool shadow_protect(struct shadow_vm *sv, uint64_t gfn);

/* shadow_sync.c */
void shadow_unsync(struct shadow_vm *sv, struct shadow_page *page);
void shadow_forget_unsync(struct shadow_vm *sv, struct shadow_page *page);
/* Compares one page with its guest table, and drops what has changed. How many entries it looked
 * at. */
unsigned shadow_compare(struct shadow_vm *sv, struct shadow_page *page);
void shadow_compare_entry(struct shadow_vm *sv, struct shadow_page *page, unsigned index);
/* The guest has flushed a TLB: what is unsync is looked at. First the tables that point to tables,
 * as what they lead to may be another thing then; of page tables those below the root, or all
 * (NULL). */
void shadow_sync_tables(struct shadow_vm *sv);
void shadow_sync_leaves(struct shadow_vm *sv, const struct shadow_page *root);
/* With several vcpus: tables that were left alone come back in sync. */
void shadow_sync_rounds(struct shadow_vm *sv);
/* The guest writes to a frame in which there are tables. */
void shadow_table_written(struct shadow_vm *sv, uint64_t gfn);
/* It was written by the library: bytes of one frame. */
void shadow_table_told(struct shadow_vm *sv, uint64_t gpa, uint64_t bytes);
/* The guest is about to write a frame in which there are tables, and that counts. Whether it is
 * cheaper executed than let through. */
bool shadow_table_costly(struct shadow_vm *sv, uint64_t gfn);
/* The guest's entry that shadow entry `index` is made from. Its table is in memory. */
uint64_t shadow_guest_entry(const struct shadow_page *page, unsigned index);

/* shadow_quick.c */
enum virtx_fault_result shadow_fault(struct virtx_vcpu *vcpu, struct virtx_page_fault *fault);
/* shadow_fault.c */
/* The entry at which the processor's walk under the vcpu's root ends, and its page. */
struct shadow_page *shadow_lookup(const struct shadow_vcpu *v, uint64_t gva, unsigned *index);
/* shadow_root.c: makes a root for the registers as they are. False: no memory. */
bool shadow_root_make(struct virtx_vcpu *vcpu);

/* shadow_slots.c */
void shadow_memory(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes,
                   enum virtx_memory_change change);
void shadow_collect_dirty(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes);
void shadow_written(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes);

#endif
