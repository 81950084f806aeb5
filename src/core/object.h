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
    uint64_t disable;
    uint32_t max_cpus;
    uint32_t cpu_pages;      /* pages of one struct virtx_cpu */
    struct virtx_cpu **cpus; /* [max_cpus], made by virtx_cpu_enable() */
    _Atomic uint32_t vms;
    struct virtx_error error;
};

struct virtx_memslot {
    struct virtx_vm *vm;
    struct virtx_memslot_config config; /* [lock]; readers on vcpu threads use the slot table */
    uint64_t *dirty;                    /* one bit a page, set atomically; NULL: no log */
    size_t dirty_pages;                 /* pages of the host behind `dirty` */
};

/*
 * What a vcpu reads of a slot, by value and sorted by address. The table is immutable: a change
 * publishes a new one, and the old is freed when its generation has settled.
 */
struct slot_entry {
    uint64_t gpa, end; /* [gpa, end) */
    uint8_t *memory;
    uint64_t *dirty;
    uint32_t rights, type, flags;
    struct virtx_memslot *slot;
};

struct slot_table {
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

/* One rule as the dispatcher sees it: sorted by (kind, first); immutable as the slot table is. */
struct rule {
    uint64_t first, last;
    uint64_t mask, match;
    virtx_handler handler;
    void *ctx;
    uint8_t access, action;
};

struct rule_table {
    uint32_t count;
    uint32_t pages;
    uint16_t start[VIRTX_INTERCEPT_KIND_COUNT + 1]; /* rules of kind k: start[k] .. start[k+1]-1 */
    struct rule rule[];
};

#define VIRTX_CPUID_ENTRIES 64

/* Memory whose last user may still be running, to be freed once `generation` has settled. */
struct retired {
    struct retired *next;
    uint64_t generation;
    uint32_t pages;
};

struct virtx_vm {
    struct virtx *virtx; /* [const] */
    struct virtx_vm_config config;
    struct virtx_lock lock; /* slots, intercepts, vcpu list, pool, engine's slot-change side */
    struct virtx_error error;

    _Atomic(struct slot_table *) slots; /* published under the lock */
    _Atomic(struct rule_table *) rules;
    struct virtx_intercept *intercepts; /* [lock] */
    struct virtx_vcpu *vcpus;           /* [lock] */
    uint32_t vcpu_count;

    _Atomic uint64_t generation; /* grows with every dropped translation or retired table */
    struct retired *retired;     /* [lock] */

    struct virtx_lock page_lock; /* the engine's tables and the pool; taken inside `lock` */
    struct retired *pool_free;   /* [page_lock] */
    uint64_t pool_free_count, pool_used;

    struct virtx_cpuid_entry cpuid[VIRTX_CPUID_ENTRIES]; /* [const] once a vcpu exists */
    uint32_t cpuid_count;

    const struct virtx_paging *paging; /* [const] unless exchanged */
    void *paging_data;
    void *backend_data;
};

/* The neutral event queue (src/core/event.c). [vcpu] */
struct event_queue {
    struct virtx_event exception; /* valid when has_exception */
    struct virtx_event interrupt; /* queued by virtx_vcpu_inject() */
    bool has_exception, has_interrupt;
    uint8_t nmis; /* 0 to 2 */
    bool want_window;
};

struct virtx_vcpu {
    struct virtx_vm *vm; /* [const] */
    struct virtx *virtx; /* [const] */
    void *backend_data;  /* [const] */
    _Atomic uint32_t requests; /* [any] ::virtx_request */
    uint32_t id;               /* [const] */
    struct virtx_exit exit;    /* [vcpu] */
    struct rule_table *rules;  /* [vcpu] this vcpu's own, NULL if none; replaced under the lock */

    struct event_queue events;
    const struct virtx_irq_source *irq;
    void *irq_ctx;

    _Atomic uint32_t cpu;     /* where it is loaded, VIRTX_NO_CPU if nowhere */
    _Atomic bool running;     /* run is active; refuses a second one */
    bool dead;
    _Atomic uint64_t settled; /* generation whose debts are paid */

    struct virtx_stats stats; /* [vcpu] */
    struct virtx_error error;
    void *user;
    void *paging_data;
    struct virtx_intercept *intercepts; /* [lock] */
    struct virtx_vcpu *next;            /* [lock] */
};

/* error.c: records the detail and returns the status, so that callers can `return fail(...)`. */
enum virtx_status virtx_fail(struct virtx_error *error, enum virtx_status status, const char *what,
                             const char *rule, uint64_t value);
enum virtx_status virtx_fail_manual(struct virtx_error *error, enum virtx_status status,
                                    const char *what, const char *rule, const char *manual,
                                    uint64_t value);

/* alloc.c: zeroed pages through the host ops, checked for nonsense answers (misalignment). */
void *virtx_pages_alloc(struct virtx *virtx, size_t pages);
void virtx_pages_free(struct virtx *virtx, void *memory, size_t pages);
static inline uint64_t virtx_hpa(const struct virtx *virtx, const void *va)
{
    return virtx->ops.virt_to_phys(virtx->ctx, va);
}

/* slot.c: the entry that covers gpa, or NULL. On a vcpu's thread, or under the VM's lock. */
const struct slot_entry *virtx_slot_find(const struct slot_table *table, uint64_t gpa);
static inline const struct slot_table *virtx_slots(struct virtx_vm *vm)
{
    return atomic_load_explicit(&vm->slots, memory_order_acquire);
}
/* Sets the dirty bits of [gpa, gpa + bytes) in an entry's log, if it keeps one. */
void virtx_slot_mark(const struct slot_entry *entry, uint64_t gpa, uint64_t bytes);

/* guestmem.c: like virtx_vm_read/write, for the vcpu's thread, without taking the lock. A write
 * obeys the slot's rights unless `force`. VIRTX_E_NOT_FOUND: part of it is not memory. */
enum virtx_status virtx_gpa_read(struct virtx_vm *vm, uint64_t gpa, void *buffer, size_t bytes);
enum virtx_status virtx_gpa_write(struct virtx_vm *vm, uint64_t gpa, const void *buffer,
                                  size_t bytes, bool force);
/* Host pointer to [gpa, gpa + bytes) if one slot covers it and it does not cross a page, else NULL. */
void *virtx_gpa_pointer(struct virtx_vm *vm, uint64_t gpa, size_t bytes, uint32_t access);

/* retire.c: generations. */
uint64_t virtx_generation_next(struct virtx_vm *vm); /* [lock] also leaves VIRTX_REQUEST_MEMORY with all */
void virtx_retire(struct virtx_vm *vm, void *memory, uint32_t pages); /* [lock] frees after the next settle */
void virtx_reap(struct virtx_vm *vm);                                 /* [lock] frees what has settled */

/* intercept.c: the rule for an access, the vcpu's own before the VM's; NULL if none. */
const struct rule *virtx_rule_find(struct virtx_vcpu *vcpu, uint32_t kind, uint64_t value,
                                   uint32_t access);
/* True if anything of this kind is set at the vcpu or its VM whose range meets [first, last]. */
bool virtx_rule_any(struct virtx_vcpu *vcpu, uint32_t kind, uint64_t first, uint64_t last,
                    uint32_t access);

/* cpuid.c: the answer of the VM's table, by the rules of CPUID for leaves out of range; the fields
 * that vary are not filled in. */
void virtx_cpuid_lookup(const struct virtx_vm *vm, uint32_t leaf, uint32_t subleaf,
                        struct virtx_cpuid_entry *out);
void virtx_cpuid_default(struct virtx_vm *vm); /* fills the table with the default policy */

/* event.c: the queue. */
enum virtx_status virtx_event_check(const struct virtx_event *event); /* OK or E_INVALID */
/* Queues an exception, merging with a queued or in-flight one (#DF, shutdown). False: triple fault. */
bool virtx_event_exception(struct event_queue *queue, const struct virtx_event *event);
/* The exception that results when `second` arises while `first` was being delivered. */
enum virtx_merge { VIRTX_MERGE_SECOND, VIRTX_MERGE_DOUBLE_FAULT, VIRTX_MERGE_TRIPLE_FAULT };
enum virtx_merge virtx_event_merge(uint8_t first, uint8_t second);

static inline void virtx_request(struct virtx_vcpu *vcpu, uint32_t bits)
{
    uint32_t old = atomic_fetch_or(&vcpu->requests, bits);
    if ((old & bits) != bits)
        vcpu->virtx->backend->kick(vcpu);
}

#endif
