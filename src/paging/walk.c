/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The guest's own page tables, walked in software.
 *
 * Two walks give the same answers. The careful one knows every format and rule. The quick one is
 * for the 4-level walk that is part of every exit of an SVM processor without next-RIP: it tests
 * only what cannot wait, and leaves whatever is unusual to the careful one. Intel SDM "Paging"
 * throughout; where the AMD APM "Page Translation and Protection" differs, a comment says so.
 */
#include "paging/memo.h"
#include "x86/defs.h"

#define ENTRY_P      BIT(0)
#define ENTRY_W      BIT(1)
#define ENTRY_U      BIT(2)
#define ENTRY_A      BIT(5)
#define ENTRY_D      BIT(6)
#define ENTRY_PS     BIT(7)
#define ENTRY_G      BIT(8)
#define ENTRY_NX     BIT(63)

#define ADDRESS      0x000ffffffffff000ull
#define ADDRESS_32   0xfffff000ull
#define OFFSET(size) ((size)-1)
#define SIZE_4K      0x1000ull
#define SIZE_2M      0x200000ull
#define SIZE_4M      0x400000ull
#define SIZE_1G      0x40000000ull

#define RIGHTS_ALL   (VIRTX_READ | VIRTX_WRITE | VIRTX_EXECUTE)

/* Another vcpu changing an entry each time we try to set its flags is a guest at odds with itself.
 * It then gets the #PF of an entry that changed under a TLB, which guests must expect anyway. */
#define FLAG_ATTEMPTS 64

/* The entries used, root first, for setting their flags afterwards. */
struct path {
    uint64_t root;
    uint64_t entry[4];
    uint8_t count;
    uint8_t width; /* bytes of an entry */
    uint8_t shift; /* of the root's index */
};

/* Guest RAM is mostly one slot or two, which are looked at in place. */
static inline __attribute__((always_inline)) const struct slot_entry *
find_slot(const struct slot_table *slots, uint64_t gpa)
{
    const struct slot_entry *slot;
    if (unlikely(!slots)) /* no slot has been added yet */
        return NULL;
    slot = slots->entry;
    if (unlikely(slots->count < 2))
        return slots->count && gpa >= slot->gpa && gpa < slot->end ? slot : NULL;
    if (gpa >= slot->end && unlikely(gpa >= (++slot)->end))
        return virtx_slot_find(slots, gpa);
    return gpa >= slot->gpa ? slot : NULL;
}

/* Host address of the table at a page-aligned GPA; false: it is not in memory. A page that the host
 * keeps may be read until this vcpu settles. */
static bool find_table(const struct virtx_vm *vm, const struct slot_table *slots, uint64_t gpa,
                       const uint8_t **table)
{
    const struct slot_entry *slot = find_slot(slots, gpa);
    if (!slot)
        return false;
    *table = slot->memory + (gpa - slot->gpa);
    return (slot->flags & (VIRTX_MEMSLOT_PINNED | VIRTX_MEMSLOT_CONTIGUOUS)) ||
           virtx_hpa(vm->virtx, *table) != UINT64_MAX;
}

static inline __attribute__((always_inline)) uint64_t read_entry(const uint8_t *table, uint64_t gva,
                                                                 unsigned shift)
{
    const uint64_t *entry = (const void *)(table + ((gva >> (shift - 3)) & 0xff8));
    return __atomic_load_n(entry, __ATOMIC_RELAXED);
}

static inline __attribute__((always_inline)) uint64_t read_entry_32(const uint8_t *table,
                                                                    uint64_t gva, unsigned shift)
{
    const uint32_t *entry = (const void *)(table + ((gva >> (shift - 2)) & 0xffc));
    return __atomic_load_n(entry, __ATOMIC_RELAXED);
}

/* The bits of the #PF error code that the access alone determines. */
static uint32_t access_error(const struct walk_mode *mode, uint32_t access, uint32_t flags)
{
    uint32_t error = 0;
    bool nx = (mode->cr4 & CR4_PAE) && (mode->efer & EFER_NXE);
    if (access & VIRTX_WRITE)
        error |= PF_WRITE;
    if ((flags & (WALK_USER | WALK_IMPLICIT)) == WALK_USER)
        error |= PF_USER;
    if ((access & VIRTX_EXECUTE) && (nx || (mode->cr4 & CR4_SMEP)))
        error |= PF_FETCH;
    return error;
}

/* No translation: the entry is not present, or has a reserved bit set. */
static __attribute__((noinline, cold)) enum virtx_status
no_translation(const struct walk_mode *mode, uint64_t entry, uint32_t access, uint32_t flags,
               struct walk_result *result)
{
    result->rights = 0;
    result->error = access_error(mode, access, flags);
    if (entry & ENTRY_P)
        result->error |= PF_PRESENT | PF_RESERVED;
    return VIRTX_E_FAULT;
}

static __attribute__((noinline, cold)) enum virtx_status no_table(uint64_t gpa,
                                                                  struct walk_result *result)
{
    result->gpa = gpa;
    return VIRTX_E_NOT_FOUND;
}

static __attribute__((noinline, cold)) enum virtx_status no_rights(const struct walk_mode *mode,
                                                                   uint32_t access, uint32_t flags,
                                                                   bool key,
                                                                   struct walk_result *result)
{
    result->error = access_error(mode, access, flags) | PF_PRESENT | (key ? PF_PKEY : 0);
    return VIRTX_E_FAULT;
}

/* What PKRU takes away of the rights to a user page (Intel SDM "Protection Keys"). */
static __attribute__((noinline)) uint32_t key_denies(const struct walk_mode *mode, uint64_t leaf,
                                                     bool user)
{
    uint32_t key = mode->pkru >> (2 * (leaf >> 59 & 15));
    if (key & 1)
        return VIRTX_READ | VIRTX_WRITE;
    if ((key & 2) && (user || (mode->cr0 & CR0_WP)))
        return VIRTX_WRITE;
    return 0;
}

/* Intel SDM "Determination of Access Rights". `all` and `any` are the AND and the OR of the
 * entries used. */
static inline __attribute__((always_inline)) enum virtx_status
judge(const struct walk_mode *mode, uint64_t all, uint64_t any, uint64_t leaf, uint32_t access,
      uint32_t flags, struct walk_result *result)
{
    uint32_t rights = RIGHTS_ALL, denied = 0;
    bool user = (flags & (WALK_USER | WALK_IMPLICIT)) == WALK_USER;

    if (user) {
        if (!(all & ENTRY_U))
            rights = 0;
        if (!(all & ENTRY_W))
            rights &= ~(uint32_t)VIRTX_WRITE;
    } else {
        if (!(all & ENTRY_W) && (mode->cr0 & CR0_WP))
            rights &= ~(uint32_t)VIRTX_WRITE;
        if (all & ENTRY_U) {
            if (mode->cr4 & CR4_SMEP)
                rights &= ~(uint32_t)VIRTX_EXECUTE;
            if ((mode->cr4 & CR4_SMAP) && (!(mode->rflags & RFLAGS_AC) || (flags & WALK_IMPLICIT)))
                rights &= ~(uint32_t)(VIRTX_READ | VIRTX_WRITE);
        }
    }
    if (any & ENTRY_NX)
        rights &= ~(uint32_t)VIRTX_EXECUTE;
    if (unlikely(mode->cr4 & CR4_PKE) && (mode->efer & EFER_LMA) && (all & ENTRY_U))
        denied = key_denies(mode, leaf, user);
    rights &= ~denied;

    result->rights = rights;
    if (unlikely(access & ~rights) && !(flags & WALK_PROBE))
        return no_rights(mode, access, flags, access & denied, result);
    return VIRTX_OK;
}

/* Bits that must be 0 in every 64-bit entry, together with P: in a usable entry only P is set. */
static inline __attribute__((always_inline)) uint64_t reserved_64(const struct walk_mode *mode,
                                                                  unsigned top)
{
    uint64_t mask = ENTRY_P | (bits_mask(top, 0) & (~0ull << mode->physical_bits));
    if (!(mode->efer & EFER_NXE))
        mask |= ENTRY_NX;
    return mask;
}

/* The slot with the root table, in the quick walk. The others most often lie there too. */
struct near {
    uint64_t gpa, bytes;
    uint64_t host; /* host address of GPA 0 of the slot, were it that long */
};

static inline __attribute__((always_inline)) bool
near_read(const struct near *near, uint64_t table, uint64_t gva, unsigned shift, uint64_t *entry)
{
    table &= ADDRESS;
    if (unlikely(table - near->gpa >= near->bytes))
        return false;
    *entry = read_entry((const uint8_t *)(near->host + table), gva, shift);
    return true;
}

/* What the quick walk has put off, for a page of a constant size. */
static inline __attribute__((always_inline)) bool
quick_judge(const struct walk_mode *mode, uint64_t gva, uint64_t leaf, uint64_t size, uint64_t all,
            uint64_t any, uint32_t access, uint32_t flags, struct walk_result *result)
{
    if (!(all & ENTRY_P) || (any & ADDRESS) >> mode->physical_bits)
        return false;
    if (flags & WALK_SET_FLAGS) {
        if (!(all & ENTRY_A) || ((access & VIRTX_WRITE) && !(leaf & ENTRY_D)))
            return false;
    }
    result->gpa = (leaf & ADDRESS & ~OFFSET(size)) | (gva & OFFSET(size));
    result->bytes = size;
    return judge(mode, all, any, leaf, access, flags, result) == VIRTX_OK;
}

/*
 * The quick walk: 4 levels with EFER.NXE, to a page of 4 KiB or 2 MiB, through tables in one slot
 * that is always there (VIRTX_MEMSLOT_PINNED). Reading a table named by an unusable entry does no
 * harm as long as it is in the slot, so presence and reserved bits are tested once at the end.
 * False: nothing is known.
 */
static inline __attribute__((always_inline)) bool
walk_quick(struct virtx_vm *vm, const struct walk_mode *mode, uint64_t gva, uint32_t access,
           uint32_t flags, struct walk_result *result)
{
    uint64_t root = mode->cr3 & ADDRESS, entry, all, any;
    const struct slot_entry *slot;
    struct near near;

    if (unlikely((mode->efer & (EFER_LMA | EFER_NXE)) != (EFER_LMA | EFER_NXE)))
        return false;
    slot = find_slot(virtx_slots(vm), root);
    if (unlikely(!slot) ||
        unlikely(!(slot->flags & (VIRTX_MEMSLOT_PINNED | VIRTX_MEMSLOT_CONTIGUOUS))))
        return false;
    near.gpa = slot->gpa;
    near.bytes = slot->end - slot->gpa;
    near.host = (uint64_t)slot->memory - slot->gpa;

    entry = read_entry((const uint8_t *)(near.host + root), gva, 39);
    all = any = entry;
    if (unlikely(entry & ENTRY_G)) /* some reserve it */
        return false;
    if (!near_read(&near, entry, gva, 30, &entry))
        return false;
    all &= entry;
    any |= entry;
    if (unlikely(any & ENTRY_PS) || !near_read(&near, entry, gva, 21, &entry))
        return false;
    all &= entry;
    any |= entry;
    if (entry & ENTRY_PS)
        return !(entry & bits_mask(20, 13)) &&
               quick_judge(mode, gva, entry, SIZE_2M, all, any, access, flags, result);
    if (!near_read(&near, entry, gva, 12, &entry))
        return false;
    all &= entry;
    any |= entry;
    return quick_judge(mode, gva, entry, SIZE_4K, all, any, access, flags, result);
}

static enum virtx_status walk_4level(struct virtx_vm *vm, const struct walk_mode *mode,
                                     uint64_t gva, uint32_t access, uint32_t flags,
                                     struct walk_result *result, struct path *path)
{
    static const uint8_t shifts[4] = {39, 30, 21, 12};
    uint64_t reserved = reserved_64(mode, 51);
    uint64_t entry = mode->cr3, all = ~0ull, any = 0, size = 0;
    const struct slot_table *slots = virtx_slots(vm);
    const uint8_t *table;

    path->root = mode->cr3 & ADDRESS;
    path->width = 8;
    path->shift = 39;
    for (unsigned i = 0; i < 4; i++) {
        if (!find_table(vm, slots, entry & ADDRESS, &table))
            return no_table(entry & ADDRESS, result);
        entry = read_entry(table, gva, shifts[i]);
        /* AMD APM "Long-Mode Page Translation": a PML4E has no G bit. Intel ignores it. */
        if ((entry & reserved) != ENTRY_P || (i == 0 && mode->amd && (entry & ENTRY_G)))
            goto fault;
        path->entry[i] = entry;
        path->count = (uint8_t)(i + 1);
        all &= entry;
        any |= entry;
        size = BIT(shifts[i]);
        if (i < 3 && (entry & ENTRY_PS)) {
            if (i == 0 || (i == 1 && mode->no_1g) || (entry & (size - 1) & ~OFFSET(0x2000ull)))
                goto fault;
            break;
        }
    }

    result->gpa = (entry & ADDRESS & ~OFFSET(size)) | (gva & OFFSET(size));
    result->bytes = size;
    return judge(mode, all, any, entry, access, flags, result);
fault:
    return no_translation(mode, entry, access, flags, result);
}

/*
 * PAE paging. The PDPTEs come from registers; VMX has checked their reserved bits when CR3 was
 * loaded, SVM reads them at each walk and so finds the fault here (AMD APM "Nested Paging and
 * PAE").
 */
static enum virtx_status walk_pae(struct virtx_vm *vm, const struct walk_mode *mode, uint64_t gva,
                                  uint32_t access, uint32_t flags, struct walk_result *result,
                                  struct path *path)
{
    uint64_t reserved = reserved_64(mode, 62);
    uint64_t entry, all, any, size = SIZE_2M;
    const uint8_t *table;
    const struct slot_table *slots = virtx_slots(vm);

    gva &= UINT32_MAX;
    entry = mode->pdpte[gva >> 30];
    if ((entry & (reserved | ENTRY_NX | bits_mask(8, 5) | bits_mask(2, 1))) != ENTRY_P)
        goto fault;

    path->root = entry & ADDRESS;
    path->width = 8;
    path->shift = 21;

    if (!find_table(vm, slots, path->root, &table))
        return no_table(path->root, result);
    entry = read_entry(table, gva, 21);
    if ((entry & reserved) != ENTRY_P)
        goto fault;
    path->entry[0] = all = any = entry;
    path->count = 1;
    if (entry & ENTRY_PS) {
        if (entry & bits_mask(20, 13))
            goto fault;
        goto found;
    }

    if (!find_table(vm, slots, entry & ADDRESS, &table))
        return no_table(entry & ADDRESS, result);
    entry = read_entry(table, gva, 12);
    if ((entry & reserved) != ENTRY_P)
        goto fault;
    path->entry[1] = entry;
    path->count = 2;
    all &= entry;
    any |= entry;
    size = SIZE_4K;

found:
    result->gpa = (entry & ADDRESS & ~OFFSET(size)) | (gva & OFFSET(size));
    result->bytes = size;
    return judge(mode, all, any, entry, access, flags, result);
fault:
    return no_translation(mode, entry, access, flags, result);
}

/* A 4-MByte page: PSE-36 keeps address bits 39:32 in bits 20:13, as far as MAXPHYADDR goes; the
 * rest up to bit 21 is reserved (Intel SDM "32-Bit Paging"). False: a reserved bit is set. */
static bool address_4m(const struct walk_mode *mode, uint64_t entry, uint64_t *base)
{
    unsigned high = mode->physical_bits < 40 ? mode->physical_bits : 40;
    if (entry & bits_mask(21, 13) & (~0ull << (high - 19)))
        return false;
    *base = (entry & bits_mask(31, 22)) | (entry & bits_mask(20, 13)) << 19;
    return true;
}

static enum virtx_status walk_32(struct virtx_vm *vm, const struct walk_mode *mode, uint64_t gva,
                                 uint32_t access, uint32_t flags, struct walk_result *result,
                                 struct path *path)
{
    uint64_t entry, all, base;
    const uint8_t *table;
    const struct slot_table *slots = virtx_slots(vm);

    gva &= UINT32_MAX;
    path->root = mode->cr3 & ADDRESS_32;
    path->width = 4;
    path->shift = 22;

    if (!find_table(vm, slots, path->root, &table))
        return no_table(path->root, result);
    entry = read_entry_32(table, gva, 22);
    if (!(entry & ENTRY_P))
        goto fault;
    path->entry[0] = all = entry;
    path->count = 1;
    if ((entry & ENTRY_PS) && (mode->cr4 & CR4_PSE)) {
        if (!address_4m(mode, entry, &base))
            goto fault;
        result->gpa = base | (gva & OFFSET(SIZE_4M));
        result->bytes = SIZE_4M;
        return judge(mode, all, 0, 0, access, flags, result);
    }

    if (!find_table(vm, slots, entry & ADDRESS_32, &table))
        return no_table(entry & ADDRESS_32, result);
    entry = read_entry_32(table, gva, 12);
    if (!(entry & ENTRY_P))
        goto fault;
    path->entry[1] = entry;
    path->count = 2;
    all &= entry;
    result->gpa = (entry & ADDRESS_32) | (gva & OFFSET(SIZE_4K));
    result->bytes = SIZE_4K;
    return judge(mode, all, 0, 0, access, flags, result);
fault:
    return no_translation(mode, entry, access, flags, result);
}

static enum virtx_status walk_once(struct virtx_vm *vm, const struct walk_mode *mode, uint64_t gva,
                                   uint32_t access, uint32_t flags, struct walk_result *result,
                                   struct path *path)
{
    if (!(mode->cr0 & CR0_PG)) {
        *path = (struct path){0};
        result->gpa = gva & UINT32_MAX;
        result->bytes = SIZE_4K;
        result->rights = RIGHTS_ALL;
        return VIRTX_OK;
    }
    if (mode->efer & EFER_LMA)
        return walk_4level(vm, mode, gva, access, flags, result, path);
    if (mode->cr4 & CR4_PAE)
        return walk_pae(vm, mode, gva, access, flags, result, path);
    return walk_32(vm, mode, gva, access, flags, result, path);
}

/* Replaces an entry that still has its old value. */
static bool exchange(uint8_t *at, unsigned width, uint64_t old, uint64_t new)
{
    if (width == 8)
        return __atomic_compare_exchange_n((uint64_t *)(void *)at, &old, new, false,
                                           __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    uint32_t old_32 = (uint32_t)old;
    return __atomic_compare_exchange_n((uint32_t *)(void *)at, &old_32, (uint32_t) new, false,
                                       __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

/*
 * Sets the accessed flags of the entries used and the dirty flag of the leaf (Intel SDM "Accessed
 * and Dirty Flags"). A table in a slot that may not be written is a table in ROM: the write is
 * lost. False: an entry has changed since it was read.
 */
static __attribute__((noinline)) bool set_flags(struct virtx_vm *vm, const struct path *path,
                                                uint64_t gva, bool write)
{
    const struct slot_table *slots = virtx_slots(vm);
    unsigned shift = path->shift;
    uint64_t table = path->root, mask = path->width == 8 ? 0x1ff : 0x3ff;

    for (unsigned i = 0; i < path->count; i++) {
        uint64_t old = path->entry[i], new = old | ENTRY_A;
        if (write && i + 1u == path->count)
            new |= ENTRY_D;
        if (new != old) {
            uint64_t at = table + (gva >> shift & mask) * path->width;
            const struct slot_entry *slot = virtx_slot_find(slots, at);
            if (!slot)
                return false;
            if (slot->rights & VIRTX_WRITE) {
                if (!exchange(slot->memory + (at - slot->gpa), path->width, old, new))
                    return false;
                virtx_slot_mark(slot, at, path->width);
            }
        }
        table = old & (path->width == 8 ? ADDRESS : ADDRESS_32);
        shift -= path->width == 8 ? 9 : 10;
    }
    return true;
}

/* Whether flags would have to be set in an entry that may not be written, and which. */
static bool flags_refused(struct virtx_vm *vm, const struct path *path, uint64_t gva, bool write,
                          uint64_t *gpa)
{
    const struct slot_table *slots = virtx_slots(vm);
    uint64_t table = path->root, mask = path->width == 8 ? 0x1ff : 0x3ff;
    unsigned shift = path->shift;

    for (unsigned i = 0; i < path->count; i++) {
        uint64_t entry = path->entry[i];
        uint64_t wanted = ENTRY_A | (write && i + 1u == path->count ? ENTRY_D : 0);

        if (unlikely(wanted & ~entry)) {
            const struct slot_entry *slot;

            *gpa = table + (gva >> shift & mask) * path->width;
            slot = virtx_slot_find(slots, *gpa);
            if (slot && !(slot->rights & VIRTX_WRITE))
                return true;
        }
        table = entry & (path->width == 8 ? ADDRESS : ADDRESS_32);
        shift -= path->width == 8 ? 9 : 10;
    }
    return false;
}

static __attribute__((noinline)) enum virtx_status
walk_careful(struct virtx_vm *vm, const struct walk_mode *mode, uint64_t gva, uint32_t access,
             uint32_t flags, struct walk_result *result)
{
    struct path path;
    for (unsigned attempt = 0; attempt < FLAG_ATTEMPTS; attempt++) {
        enum virtx_status status = walk_once(vm, mode, gva, access, flags, result, &path);
        uint64_t refused;
        if (status == VIRTX_OK && (flags & WALK_SET_FLAGS) &&
            flags_refused(vm, &path, gva, access & VIRTX_WRITE, &refused)) {
            result->gpa = refused;
            return VIRTX_E_RANGE;
        }
        if (status != VIRTX_OK || !(flags & WALK_SET_FLAGS) ||
            set_flags(vm, &path, gva, access & VIRTX_WRITE))
            return status;
    }
    return no_rights(mode, access, flags, false, result);
}

enum virtx_status walk_guest(struct virtx_vm *vm, const struct walk_mode *mode, uint64_t gva,
                             uint32_t access, uint32_t flags, struct walk_result *result)
{
    if (likely(walk_quick(vm, mode, gva, access, flags, result)))
        return VIRTX_OK;
    return walk_careful(vm, mode, gva, access, flags, result);
}

/* Host address of memory at gpa, NULL if there is none. */
static const uint8_t *host_of(struct virtx_vm *vm, uint64_t gpa)
{
    const uint8_t *page;
    return find_table(vm, virtx_slots(vm), gpa & ~OFFSET(SIZE_4K), &page) ? page : NULL;
}

/* Remembers the entries of a 4-level walk that led to gpa. The generation was read before all else,
 * so whatever changes meanwhile makes the memo worthless. */
static void remember(struct walk_memo *memo, struct virtx_vm *vm, uint64_t gva,
                     const struct path *path, uint64_t gpa)
{
    uint64_t table = path->root;
    unsigned shift = path->shift;

    for (unsigned i = 0; i < 4; i++) {
        unsigned last = path->count - 1u;
        if (i > last) {
            memo->at[i] = memo->at[last];
            memo->entry[i] = memo->entry[last];
            continue;
        }
        const uint8_t *page = host_of(vm, table);
        if (!page)
            return;
        memo->at[i] = (const uint64_t *)(const void *)page + (gva >> shift & 0x1ff);
        memo->entry[i] = path->entry[i];
        table = path->entry[i] & ADDRESS;
        shift -= 9;
    }
    memo->host = host_of(vm, gpa);
}

enum virtx_status walk_memo_fill(struct walk_memo *memo, struct virtx_vm *vm,
                                 const struct walk_mode *mode, uint64_t gva, uint32_t flags,
                                 struct walk_result *result)
{
    struct path path;
    enum virtx_status status;

    memo->host = NULL;
    memo->generation = atomic_load_explicit(&vm->generation, memory_order_acquire);
    status = walk_once(vm, mode, gva, VIRTX_EXECUTE, flags, result, &path);
    if (status == VIRTX_OK && (mode->efer & EFER_LMA) && (mode->cr0 & CR0_PG))
        remember(memo, vm, gva, &path, result->gpa);
    return status;
}

/* The walk ends at an entry that is not present, or that is not allowed. */
static enum virtx_status fault_path(struct virtx_vm *vm, const struct path *used, uint64_t gva,
                                    const struct walk_result *result, struct walk_path *path)
{
    uint64_t table;

    path->width = used->width;
    path->count = 0;
    if ((result->error & PF_PRESENT) || flags_refused(vm, used, gva, false, &table) ||
        !set_flags(vm, used, gva, false))
        return VIRTX_E_FAULT;
    path->count = used->count;
    for (unsigned i = 0; i < used->count; i++)
        path->entry[i] = used->entry[i] | ENTRY_A;
    return VIRTX_E_FAULT;
}

enum virtx_status walk_guest_path(struct virtx_vm *vm, const struct walk_mode *mode, uint64_t gva,
                                  uint32_t access, uint32_t flags, struct walk_result *result,
                                  struct walk_path *path)
{
    struct path used = {.count = 0};
    enum virtx_status status = VIRTX_E_FAULT;
    bool set = false;

    for (unsigned attempt = 0; attempt < FLAG_ATTEMPTS && !set; attempt++) {
        used.count = 0;
        used.width = 0;
        status = walk_once(vm, mode, gva, access, flags, result, &used);
        if (status == VIRTX_OK && (flags & WALK_SET_FLAGS) &&
            flags_refused(vm, &used, gva, access & VIRTX_WRITE, &path->table)) {
            path->count = 0;
            return VIRTX_E_RANGE;
        }
        if (status == VIRTX_E_FAULT && (flags & WALK_SET_TABLES)) {
            path->root = path->table = used.root;
            return fault_path(vm, &used, gva, result, path);
        }
        set = status != VIRTX_OK || !(flags & WALK_SET_FLAGS) ||
              set_flags(vm, &used, gva, access & VIRTX_WRITE);
    }
    if (!set)
        status = no_rights(mode, access, flags, false, result);
    path->root = path->table = used.root;
    path->width = used.width;
    path->count = used.count;
    for (unsigned i = 0; i < used.count; i++) {
        path->entry[i] = used.entry[i];
        if (flags & WALK_SET_FLAGS)
            path->entry[i] |= ENTRY_A;
        path->table = used.entry[i] & (used.width == 8 ? ADDRESS : ADDRESS_32);
    }
    if ((flags & WALK_SET_FLAGS) && used.count && (access & VIRTX_WRITE))
        path->entry[used.count - 1] |= ENTRY_D;
    return status;
}
