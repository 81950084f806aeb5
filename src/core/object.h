/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The objects behind the public handles, for the layers inside the library.
 *
 * Who may touch what: fields marked [vcpu] belong to the vcpu's thread, [lock] to the holder of
 * virtx_vm.lock, [const] never change after creation, [any] are atomic.
 */
#ifndef VIRTX_CORE_OBJECT_H
#define VIRTX_CORE_OBJECT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <virtx/virtx.h>
#include <virtx/backend.h>
#include <virtx/paging.h>
#include "core/lock.h"
#include "core/util.h"

#define VIRTX_NO_CPU UINT32_MAX

/* What is per physical CPU. Selected by the embedder's CPU index; the backend's bytes follow. */
struct virtx_cpu {
    bool enabled;
    struct virtx_vcpu *loaded; /* whose state is in this processor; only this CPU writes it */
    _Alignas(16) uint8_t backend[];
};

struct virtx {
    struct virtx_host_ops ops;         /* [const] */
    void *ctx;                         /* [const] */
    struct virtx_host_profile profile; /* [const] */
    const struct virtx_backend *backend;
    const struct virtx_paging *const *paging;
    struct virtx_caps caps;
    uint64_t pat; /* the host's IA32_PAT, where translation tables refer to it */
    uint64_t disable;
    uint64_t insist; /* [const] */
    uint32_t max_cpus;
    uint32_t pages;          /* of this structure with the array of CPUs */
    uint32_t cpu_pages;      /* pages of one struct virtx_cpu */
    struct virtx_cpu **cpus; /* [max_cpus], made by virtx_cpu_enable() */
    _Atomic uint32_t vms;
    struct virtx_error error;
};

/* Memory whose last user may still be running, to be freed once `generation` has settled. Stands at
 * the start of what is retired and is written at once, so readers do not use these bytes. A dirty
 * log has VIRTX_RETIRED_LOG for pages. */
#define VIRTX_RETIRED_LOG 0u
struct retired {
    struct retired *next;
    uint64_t generation;
    uint32_t pages;
};

/*
 * A slot's dirty log: one bit a page of the slot, set atomically by anybody. What a harvest takes
 * is held apart (`taken`) until no CPU can write any more through a translation that was writable
 * then; only afterwards is it reported, so that no write falls between two logs.
 */
struct log_chunk;
struct dirty_log {
    struct retired retired;
    uint64_t generation;      /* [lock] of what is taken */
    size_t words;             /* of each of the two bitmaps */
    bool any_taken;           /* [lock] */
    bool harvested;           /* [lock] a harvest is under way */
    struct log_chunk *part[]; /* dirty.c: to the end of the page; NULL behind the last */
};

struct virtx_memslot {
    struct virtx_vm *vm;
    struct virtx_memslot_config config; /* [lock]; readers on vcpu threads use the slot table */
    struct dirty_log *log;              /* [lock] NULL: none */
    struct virtx_memslot *next;         /* [lock] in the VM's list */
};

/*
 * What a vcpu reads of a slot, by value and sorted by address. The table is immutable: a change
 * publishes a new one, and the old is freed when its generation has settled.
 */
struct slot_entry {
    uint64_t gpa, end; /* [gpa, end) */
    uint8_t *memory;
    struct dirty_log *dirty; /* NULL: none */
    uint32_t rights, type, flags;
    struct virtx_memslot *slot; /* [lock] only */
};

struct slot_table {
    struct retired retired;
    uint32_t count;
    uint32_t pages; /* host pages of this table */
    struct slot_entry entry[];
};

struct virtx_intercept {
    struct virtx_vm *vm;
    struct virtx_vcpu *vcpu; /* NULL: the VM's */
    struct virtx_intercept_config config;
    bool forced;
    struct virtx_intercept *next; /* [lock] in its owner's list */
};

/*
 * One rule as the dispatcher sees it: sorted by (kind, access, first); immutable as the slot table
 * is. An intercept of reads and writes makes two of them, so that within one access ranges never
 * overlap.
 */
struct rule {
    uint64_t first, last;
    uint64_t mask, match;
    virtx_handler handler;
    void *ctx;
    uint8_t access; /* VIRTX_READ or VIRTX_WRITE; 0 for kinds that do not tell them apart */
    uint8_t action;
    uint8_t pad[14]; /* 64 bytes: a cache line, and no multiplication to find it */
};

/* Rules of kind k: start[k] .. start[k+1]-1. Among them those for reads (and for kinds without the
 * distinction) are bound[2k] .. bound[2k+1]-1, those for writes bound[2k+1] .. bound[2k+2]-1. */
struct rule_table {
    struct retired retired;
    uint32_t count;
    uint32_t pages;
    uint16_t start[VIRTX_INTERCEPT_KIND_COUNT + 1];
    uint16_t bound[2 * VIRTX_INTERCEPT_KIND_COUNT + 1];
    _Alignas(64) struct rule rule[];
};

#define VIRTX_CPUID_ENTRIES 64

/* Immutable once a vcpu can see it, as the slot table is. A vcpu's own has the entries alone that
 * differ from the VM's. */
struct cpuid_table {
    struct retired retired;
    uint64_t version; /* no two tables of a VM have the same */
    uint32_t count;
    struct virtx_cpuid_entry entry[VIRTX_CPUID_ENTRIES];
};

struct virtx_vm {
    struct virtx *virtx; /* [const] */
    struct virtx_vm_config config;
    uint32_t pages;         /* [const] of this structure with the engine's bytes */
    struct virtx_lock lock; /* slots, intercepts, vcpu list, engine's slot-change side */
    struct virtx_error error;

    _Atomic(struct slot_table *) slots; /* published under the lock */
    _Atomic(struct rule_table *) rules;
    /* A slot that is being moved away: its translations' dirty bits still belong to its log. */
    _Atomic(const struct slot_entry *) departing;
    struct virtx_intercept *intercepts; /* [lock] */
    struct virtx_memslot *memslots;     /* [lock] */
    struct virtx_vcpu *vcpus;           /* changed under both locks, read under either */
    uint32_t vcpu_count;

    _Atomic uint64_t generation;      /* grows with every dropped translation or retired table */
    _Atomic uint64_t debt_generation; /* the last of them that left TLB debts */
    struct retired *retired;          /* [lock] */
    struct small_block *small_free;   /* [lock] alloc.c */
    struct small_page *small_pages;   /* [lock] */

    /* The engine's tables and the pool. Taken inside `lock` or alone, always with interrupts off:
     * nested faults take it on a vcpu's thread. */
    struct virtx_lock page_lock;
    struct retired *pool_free;    /* [page_lock] usable now */
    struct retired *pool_waiting; /* [page_lock] once their generation has settled */
    uint64_t pool_free_count, pool_waiting_count;
    uint64_t pool_used;   /* [page_lock] in translation tables */
    uint64_t pool_target; /* [page_lock] free pages worth keeping */

    _Atomic(struct cpuid_table *) cpuid; /* published under the lock */
    struct cpuid_table cpuid_first; /* what it points to until it is changed while vcpus exist */
    uint64_t cpuid_version;         /* [lock] of the newest table */

    const struct virtx_paging *paging; /* [lock], and no vcpu in run: exchange.c */
    void *paging_data, *paging_base;   /* two places side by side, the engine's is one of them */
    void *backend_data;
};

/* The neutral event queue (src/core/event.c). [vcpu] */
struct event_queue {
    struct virtx_event exception; /* valid when has_exception */
    struct virtx_event interrupt; /* queued by virtx_vcpu_inject() */
    union {
        struct {
            bool has_exception, has_interrupt;
            uint8_t nmis; /* 0 to 2 */
            bool want_window;
        };
        uint32_t any; /* not 0: any of these */
    };
};

/* What dispatch.c has found before: the rule for an access, NULL if none. */
#define VIRTX_FOUND_LINES 8u
struct rule_found {
    uint32_t key; /* kind, access and span; 0: nothing */
    uint64_t value;
    const struct rule *rule;
};

struct virtx_vcpu {
    struct virtx_vm *vm;       /* [const] */
    struct virtx *virtx;       /* [const] */
    void *backend_data;        /* [const] */
    _Atomic uint32_t requests; /* [any] ::virtx_request */
    uint32_t id;               /* [const] */
    _Atomic uint8_t sipi;      /* [any] start page of the last SIPI */
    struct virtx_exit exit;    /* [vcpu] */
    _Atomic(struct rule_table *)
        rules; /* this vcpu's own, NULL if none; published under the lock */
    _Atomic(struct cpuid_table *) cpuid; /* likewise */

    struct rule_found found[VIRTX_FOUND_LINES]; /* [vcpu] emptied with each look at the requests */

    uint64_t cr3_target[VIRTX_CR3_TARGETS]; /* [vcpu] */
    uint32_t cr3_targets;
    struct virtx_pause_filter pause_filter; /* [vcpu] */
    bool lazy_fpu;                          /* [vcpu] for the next load */

    struct event_queue events;
    const struct virtx_irq_source *irq;
    void *irq_ctx;
    uint64_t deadline; /* [vcpu] virtx_vcpu_deadline(); 0: none */

    _Atomic uint32_t cpu; /* where it is loaded, VIRTX_NO_CPU if nowhere */
    /* A thread is inside the library on this vcpu: in run, or in a call that touches its state or
     * reads the VM's tables for it. Set by an exchange, which orders what follows after it. */
    _Atomic bool running;
    _Atomic bool handler; /* [vcpu] an intercept handler is being called inside run */
    bool dead;
    uint8_t answer;             /* [vcpu] enum virtx_answer, of a pending exit */
    uint32_t pages;             /* [const] of this structure with the engine's bytes */
    _Atomic uint64_t settled;   /* generation whose debts are paid */
    _Atomic uint64_t quiescent; /* generation at the last look at the requests */
    uint64_t hurried;           /* [lock] generation for which it has been kicked */

    struct virtx_stats stats; /* [vcpu] */
    struct virtx_error error;
    void *user;
    void *paging_data, *paging_base;    /* as in the VM */
    struct virtx_intercept *intercepts; /* [lock] */
    struct virtx_vcpu *next;            /* [lock] */
};

/* What the access of a pending exit wants from the loop: virtx_vcpu.answer. */
enum virtx_answer {
    VIRTX_ANSWER_HERE,     /* virtx_backend.complete, on the CPU where it is loaded, if on any */
    VIRTX_ANSWER_ANYWHERE, /* the same, wherever it is loaded: all that it touches is memory */
    VIRTX_ANSWER_NONE,     /* a write: the same, or virtx_backend.run at once */
};

/* error.c: records the detail and returns the status, so that callers can `return fail(...)`. */
enum virtx_status virtx_fail(struct virtx_error *error, enum virtx_status status, const char *what,
                             const char *rule, uint64_t value);
enum virtx_status virtx_fail_manual(struct virtx_error *error, enum virtx_status status,
                                    const char *what, const char *rule, const char *manual,
                                    uint64_t value);

/* alloc.c: zeroed pages through the host ops, checked for nonsense answers (misalignment). */
void *virtx_pages_alloc(struct virtx *virtx, size_t pages);
/* The same with a reason: VIRTX_E_NO_MEMORY, or VIRTX_E_HOST for nonsense. *out is NULL then. */
enum virtx_status virtx_pages_get(struct virtx *virtx, size_t pages, void **out,
                                  struct virtx_error *error);
void virtx_pages_free(struct virtx *virtx, void *memory, size_t pages);
/* Small zeroed objects of a VM: slots and intercepts. [lock] They stay with the VM until its end.
 */
#define VIRTX_SMALL_BYTES 128u
void *virtx_small_get(struct virtx_vm *vm, struct virtx_error *error);
void virtx_small_put(struct virtx_vm *vm, void *block);
void virtx_small_destroy(struct virtx_vm *vm);
static inline uint64_t virtx_hpa(const struct virtx *virtx, const void *va)
{
    return virtx->ops.virt_to_phys(virtx->ctx, va);
}

/* inject.c: a local APIC's registers go to the processor's page, if it has one, or back. [claimed]
 */
void virtx_irq_registers(struct virtx_vcpu *vcpu, bool to_page);

/* vm.c: the locks and errors of a VM. */
static inline uint64_t virtx_vm_lock(struct virtx_vm *vm)
{
    return virtx_lock_irq(&vm->lock);
}
static inline void virtx_vm_unlock(struct virtx_vm *vm, uint64_t flags)
{
    virtx_unlock_irq(&vm->lock, flags);
}

/* exchange.c: bytes of each of the two places for an engine's data in an object. */
void virtx_paging_room(const struct virtx *virtx, size_t *vm_bytes, size_t *vcpu_bytes);

/* open.c: whether the engine can run on this processor. */
bool virtx_paging_fits(const struct virtx *virtx, const struct virtx_paging *paging);

/* cpu.c: the calling CPU's index and its structure; VIRTX_E_HOST, VIRTX_E_NOT_ENABLED. */
enum virtx_status virtx_cpu_current(struct virtx *virtx, uint32_t *index, struct virtx_cpu **cpu,
                                    struct virtx_error *error);

/* slot.c: all slots, their tables and logs, at the end of a VM. */
void virtx_slots_destroy(struct virtx_vm *vm);
/* intercept.c: likewise the intercepts of a VM or, with `vcpu`, of one vcpu. [lock] */
void virtx_intercepts_drop(struct virtx_vm *vm, struct virtx_vcpu *vcpu);

/* dirty.c: the log of a slot of so many bytes; all its bits are 0. */
enum virtx_status virtx_log_alloc(struct virtx_vm *vm, uint64_t bytes, struct dirty_log **out);
void virtx_log_free(struct virtx *virtx, struct dirty_log *log);

/* slot.c: the entry that covers gpa, or NULL. On a vcpu's thread, or under the VM's lock. */
const struct slot_entry *virtx_slot_find(const struct slot_table *table, uint64_t gpa);
static inline const struct slot_table *virtx_slots(struct virtx_vm *vm)
{
    return atomic_load_explicit(&vm->slots, memory_order_acquire);
}
/* The same for callers with locality: `*hint` is any number at first. */
static inline const struct slot_entry *virtx_slot_find_near(const struct slot_table *table,
                                                            uint64_t gpa, uint32_t *hint)
{
    const struct slot_entry *entry;

    if (likely(*hint < table->count)) {
        entry = &table->entry[*hint];
        if (likely(gpa >= entry->gpa && gpa < entry->end))
            return entry;
    }
    entry = virtx_slot_find(table, gpa);
    if (entry)
        *hint = (uint32_t)(entry - table->entry);
    return entry;
}
/* Sets the dirty bits of [gpa, gpa + bytes) in an entry's log, if it keeps one. */
void virtx_slot_mark(const struct slot_entry *entry, uint64_t gpa, uint64_t bytes);

/* guestmem.c: like virtx_vm_read/write, for the vcpu's thread, without taking the lock. A write
 * obeys the slot's rights unless `force`. VIRTX_E_NOT_FOUND: part of it is not memory. */
enum virtx_status virtx_gpa_read(struct virtx_vm *vm, uint64_t gpa, void *buffer, size_t bytes);
enum virtx_status virtx_gpa_write(struct virtx_vm *vm, uint64_t gpa, const void *buffer,
                                  size_t bytes, bool force);
/* Tells an engine that keeps copies of the guest's tables. */
static inline void virtx_gpa_written(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes)
{
    if (unlikely(vm->paging && vm->paging->written))
        vm->paging->written(vm, gpa, bytes);
}
/* Host pointer to [gpa, gpa + bytes) if one slot covers it with these rights, it does not cross a
 * page and the page has a backing now; else NULL. */
void *virtx_gpa_pointer(struct virtx_vm *vm, uint64_t gpa, size_t bytes, uint32_t access);

/*
 * retire.c: generations.
 *
 * virtx_generation_next(): translations were dropped. Called after the tables have been changed,
 * never before: a vcpu that pays its debt meanwhile could load the old translation again. Leaves
 * VIRTX_REQUEST_MEMORY with all vcpus, kicking nobody: they pay at their next entry, or sooner when
 * virtx_vm_settled() is told to hurry. The objects call it after every memory and collect_dirty
 * operation that took something away; what the engine frees in there it frees under
 * virtx_generation_coming().
 */
uint64_t virtx_generation_next(struct virtx_vm *vm); /* [lock] */
/* [lock] Frees memory that vcpus can no longer find, but may be reading, after the next settle. Its
 * first sizeof(struct retired) bytes are overwritten at once. */
void virtx_retire(struct virtx_vm *vm, void *memory, uint32_t pages);
void virtx_retired_free(struct virtx *virtx, struct retired *retired); /* nobody reads it */
void virtx_reap(struct virtx_vm *vm);                       /* [lock] frees what has settled */
void virtx_hurry(struct virtx_vm *vm, uint64_t generation); /* [lock] kicks who is behind */
/* [lock or page_lock] As virtx_vm_settled(). */
bool virtx_is_settled(struct virtx_vm *vm, uint64_t generation);

/* pool.c: virtx_pool_get() and virtx_pool_put() (paging.h) take page_lock, so the caller does not
 * hold it; interrupts are off. */
void virtx_pool_reap(struct virtx_vm *vm);    /* [lock] surplus pages back to the host */
void virtx_pool_destroy(struct virtx_vm *vm); /* nobody else knows the VM any more */

/* intercept.c: the rule for an access, the vcpu's own before the VM's; NULL if none, or if it is
 * VIRTX_ACTION_DEFAULT. On the vcpu's thread, or under the VM's lock. */
const struct rule *virtx_rule_search(const struct virtx_vcpu *vcpu, uint32_t kind, uint64_t value,
                                     uint32_t access);
static inline const struct rule_table *virtx_vm_rules(const struct virtx_vm *vm)
{
    return atomic_load_explicit(&vm->rules, memory_order_acquire);
}
static inline const struct rule_table *virtx_vcpu_rules(const struct virtx_vcpu *vcpu)
{
    return atomic_load_explicit(&vcpu->rules, memory_order_acquire);
}
/* Whether a table (NULL: no rules) has rules of a kind at all. */
static inline bool virtx_rules_have(const struct rule_table *table, uint32_t kind)
{
    return table && table->start[kind] != table->start[kind + 1];
}
/* The rule of one table (NULL: no rules), VIRTX_ACTION_DEFAULT included. The ranges are sorted and
 * disjoint, so it can only be the last that begins at or below the value. */
static inline __attribute__((always_inline)) const struct rule *
virtx_rule_in(const struct rule_table *table, uint32_t kind, uint64_t value, uint32_t access)
{
    const struct rule *rule;
    uint32_t class, count;

    if (!table)
        return NULL;
    class = 2 * kind + (access >> 1 & 1);
    rule = &table->rule[table->bound[class]];
    count = (uint32_t)table->bound[class + 1] - table->bound[class];
    if (!count)
        return NULL;
    while (count > 1) {
        uint32_t half = count / 2;

        rule += rule[half].first <= value ? half : 0;
        count -= half;
    }
    return value - rule->first <= rule->last - rule->first ? rule : NULL;
}
/* Whether this vcpu or its VM has rules of a kind: a few instructions. */
static inline bool virtx_rule_kind(const struct virtx_vcpu *vcpu, uint32_t kind)
{
    return virtx_rules_have(virtx_vcpu_rules(vcpu), kind) ||
           virtx_rules_have(virtx_vm_rules(vcpu->vm), kind);
}
static inline const struct rule *virtx_rule_find(struct virtx_vcpu *vcpu, uint32_t kind,
                                                 uint64_t value, uint32_t access)
{
    return virtx_rule_kind(vcpu, kind) ? virtx_rule_search(vcpu, kind, value, access) : NULL;
}
/* True if anything of this kind is set at the vcpu or its VM whose range meets [first, last]. */
bool virtx_rule_any(struct virtx_vcpu *vcpu, uint32_t kind, uint64_t first, uint64_t last,
                    uint32_t access);

/* cpuid.c: the tables by which a vcpu's CPUID is answered; its own (NULL: none) goes first. */
struct cpuid_view {
    const struct cpuid_table *own, *vms;
};
static inline struct cpuid_view virtx_cpuid_vm(const struct virtx_vm *vm)
{
    return (struct cpuid_view){NULL, atomic_load_explicit(&vm->cpuid, memory_order_acquire)};
}
/* On the vcpu's thread, or under the VM's lock. */
static inline struct cpuid_view virtx_cpuid_vcpu(const struct virtx_vcpu *vcpu)
{
    return (struct cpuid_view){atomic_load_explicit(&vcpu->cpuid, memory_order_acquire),
                               atomic_load_explicit(&vcpu->vm->cpuid, memory_order_acquire)};
}
/* The answer of the tables, by the rules of CPUID for leaves out of range; the fields that vary are
 * not filled in. `out->leaf` is the leaf that answers: an Intel processor answers leaves out of
 * range with its highest basic leaf. */
void virtx_cpuid_answer(struct cpuid_view view, uint32_t leaf, uint32_t subleaf,
                        struct virtx_cpuid_entry *out);
static inline void virtx_cpuid_lookup(const struct virtx_vcpu *vcpu, uint32_t leaf,
                                      uint32_t subleaf, struct virtx_cpuid_entry *out)
{
    virtx_cpuid_answer(virtx_cpuid_vcpu(vcpu), leaf, subleaf, out);
}
/* By EBX of leaf 0. */
static inline bool virtx_cpuid_is_amd(uint32_t ebx)
{
    return ebx == 0x68747541 || ebx == 0x6f677948; /* AuthenticAMD, HygonGenuine */
}
bool virtx_cpuid_has_subleaves(uint32_t leaf);
void virtx_cpuid_fill(const struct virtx_vm *vm,
                      struct cpuid_table *table); /* the default policy */
/* The feature bits of an entry that this processor and library cannot make work. */
uint64_t virtx_cpuid_cannot_work(const struct virtx_vm *vm, const struct virtx_cpuid_entry *wanted);
void virtx_cpuid_default(struct virtx_vm *vm); /* gives a new VM its table */
/* cpuid_set.c: [lock] the vcpu has no tables of its own any more. */
void virtx_cpuid_drop(struct virtx_vcpu *vcpu);
void virtx_cpuid_destroy(struct virtx_vm *vm); /* at the end of a VM */
/* Whether the answer has fields that vary with the vcpu or its registers, which src/hw fills in:
 * APIC ID, OSXSAVE, OSPKE, XSAVE sizes. */
static inline bool virtx_cpuid_varies(uint32_t leaf, uint32_t subleaf)
{
    switch (leaf) {
    case 0x1:
    case 0xb:
    case 0x1f:
    case 0x8000001e:
        return true;
    case 0x7:
        return subleaf == 0;
    case 0xd:
        return subleaf <= 1;
    default:
        return false;
    }
}

/* dispatch.c: the rule for an access as it was found last time. */
static inline uint32_t virtx_found_key(uint32_t kind, uint32_t access, uint32_t span)
{
    return 1u << 31 | kind << 16 | access << 8 | span;
}

static inline struct rule_found *virtx_found_line(struct virtx_vcpu *vcpu, uint32_t kind,
                                                  uint64_t value)
{
    return &vcpu->found[(value + kind) % VIRTX_FOUND_LINES];
}

static inline bool virtx_found_is(const struct rule_found *line, uint32_t kind, uint64_t value,
                                  uint32_t access, uint32_t span)
{
    return line->key == virtx_found_key(kind, access, span) && line->value == value;
}

/* Calls the handler of a rule for the exit in the record. */
static inline enum virtx_verdict virtx_rule_call(struct virtx_vcpu *vcpu, const struct rule *rule)
{
    enum virtx_verdict verdict;

    atomic_store_explicit(&vcpu->handler, true, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    verdict = rule->handler(vcpu, &vcpu->exit, rule->ctx);
    atomic_signal_fence(memory_order_seq_cst);
    atomic_store_explicit(&vcpu->handler, false, memory_order_relaxed);
    /* Anything else is a mistake of the handler's, which the loop had better see. */
    return (unsigned)verdict <= VIRTX_FAULT ? verdict : VIRTX_TO_LOOP;
}

/* event.c: the queue. */
enum virtx_status virtx_event_check(const struct virtx_event *event); /* OK or E_INVALID */
bool virtx_event_pushes_error(uint8_t vector);                        /* in protected mode */
/* Queues an NMI. The processor remembers one while it handles one, and loses the others. */
void virtx_event_nmi(struct event_queue *queue, uint32_t interruptibility);
/* Queues an exception, merging with a queued or in-flight one (#DF, shutdown). False: triple fault.
 */
bool virtx_event_exception(struct event_queue *queue, const struct virtx_event *event);
/* The exception that results when `second` arises while `first` was being delivered. */
enum virtx_merge { VIRTX_MERGE_SECOND, VIRTX_MERGE_DOUBLE_FAULT, VIRTX_MERGE_TRIPLE_FAULT };
enum virtx_merge virtx_event_merge(uint8_t first, uint8_t second);

/*
 * Leaves requests with a vcpu and makes it notice them before its next guest instruction. Any
 * context.
 *
 * No interrupt is sent where none is needed. A vcpu outside the library (`running` clear) looks at
 * its requests after the exchange that sets `running`; that exchange comes after this load, which
 * comes after the OR. A vcpu whose handler calls this, on its own CPU, looks at them when the
 * handler has returned; elsewhere the handler flag means nothing, as it is not ordered with the
 * look.
 */
static inline void virtx_request(struct virtx_vcpu *vcpu, uint32_t bits)
{
    uint32_t old = atomic_fetch_or(&vcpu->requests, bits);

    if (!atomic_load(&vcpu->running)) {
        /* Even where the bits were set before: who set them may have found nobody to wake. */
        if (vcpu->virtx->ops.wake)
            vcpu->virtx->ops.wake(vcpu->virtx->ctx, vcpu);
        return;
    }
    if ((old & bits) == bits)
        return;
    if (atomic_load_explicit(&vcpu->handler, memory_order_relaxed) &&
        vcpu->virtx->ops.this_cpu(vcpu->virtx->ctx) == atomic_load(&vcpu->cpu))
        return;
    vcpu->virtx->backend->kick(vcpu);
}

/* Leaves requests that are seen at the next entry, whenever that is. */
static inline void virtx_request_lazily(struct virtx_vcpu *vcpu, uint32_t bits)
{
    atomic_fetch_or(&vcpu->requests, bits);
}

#endif
