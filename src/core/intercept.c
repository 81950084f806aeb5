/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Intercepts: the objects, and the sorted rules that vcpus read.
 *
 * Each owner (the VM, or one vcpu) has a table of its own. Within one kind and one access ranges do
 * not overlap, so a binary search for the last rule that begins at or below a value finds the one
 * that covers it, if any does.
 */
#include "core/claim.h"

/* What of a description has a meaning for a kind. */
struct kind {
    uint64_t last;  /* greatest value */
    bool access;    /* reads and writes are told apart */
    bool ranged;    /* first and last count */
    bool masked;    /* mask counts */
    bool matched;   /* match counts */
    bool may_allow; /* VIRTX_ACTION_ALLOW is possible */
};

static const struct kind kinds[VIRTX_INTERCEPT_KIND_COUNT] = {
    [VIRTX_INTERCEPT_PORT] = {.last = 0xffff, .access = true, .ranged = true, .may_allow = true},
    [VIRTX_INTERCEPT_MSR] = {.last = UINT32_MAX, .access = true, .ranged = true, .may_allow = true},
    [VIRTX_INTERCEPT_CPUID] = {.last = UINT32_MAX, .ranged = true},
    [VIRTX_INTERCEPT_MMIO] = {.last = UINT64_MAX, .access = true, .ranged = true},
    [VIRTX_INTERCEPT_EXCEPTION] = {.last = 31, .ranged = true, .masked = true, .matched = true},
    [VIRTX_INTERCEPT_CR] = {.last = 15, .access = true, .ranged = true, .masked = true},
    [VIRTX_INTERCEPT_DR] = {.last = 7, .access = true, .ranged = true},
    [VIRTX_INTERCEPT_HYPERCALL] = {.last = 0},
    [VIRTX_INTERCEPT_INSTRUCTION] = {.last = VIRTX_INSN_COUNT - 1, .ranged = true},
};

/* ---- Looking up ---- */

_Static_assert(sizeof(struct rule) == 64, "a cache line");
_Static_assert(VIRTX_WRITE == 2 && VIRTX_READ == 1, "virtx_rule_in() makes a class of them");

/* The first rule for this access that meets [first, last]. */
static const struct rule *meet(const struct rule_table *table, uint32_t kind, uint64_t first,
                               uint64_t last, uint32_t access)
{
    const struct rule *rule = virtx_rule_in(table, kind, first, access);
    uint32_t class = 2 * kind + (access >> 1 & 1);

    if (rule)
        return rule;
    for (uint32_t i = table->bound[class]; i < table->bound[class + 1]; i++)
        if (table->rule[i].first > first)
            return table->rule[i].first <= last ? &table->rule[i] : NULL;
    return NULL;
}

const struct rule *virtx_rule_search(const struct virtx_vcpu *vcpu, uint32_t kind, uint64_t value,
                                     uint32_t access)
{
    const struct rule *rule = virtx_rule_in(virtx_vcpu_rules(vcpu), kind, value, access);

    if (!rule)
        rule = virtx_rule_in(virtx_vm_rules(vcpu->vm), kind, value, access);
    return rule && rule->action != VIRTX_ACTION_DEFAULT ? rule : NULL;
}

static bool any(const struct rule_table *table, uint32_t kind, uint64_t first, uint64_t last,
                uint32_t access)
{
    if (!virtx_rules_have(table, kind))
        return false;
    if (!kinds[kind].access)
        return meet(table, kind, first, last, 0) != NULL;
    return ((access & VIRTX_READ) && meet(table, kind, first, last, VIRTX_READ)) ||
           ((access & VIRTX_WRITE) && meet(table, kind, first, last, VIRTX_WRITE));
}

bool virtx_rule_any(struct virtx_vcpu *vcpu, uint32_t kind, uint64_t first, uint64_t last,
                    uint32_t access)
{
    return any(virtx_vcpu_rules(vcpu), kind, first, last, access) ||
           any(virtx_vm_rules(vcpu->vm), kind, first, last, access);
}

/* ---- Tables ---- */

/* How many rules an intercept makes. */
static uint32_t rules_of(const struct virtx_intercept_config *config)
{
    uint32_t both = VIRTX_READ | VIRTX_WRITE;

    return kinds[config->kind].access && (config->access & both) == both ? 2 : 1;
}

/* Whether `a` stands before `b` among the rules of their kind. */
static bool in_order(const struct rule *a, const struct rule *b)
{
    return a->access != b->access ? a->access < b->access : a->first <= b->first;
}

/* Puts one rule in its place among those of its kind. */
static void insert(struct rule_table *table, const struct virtx_intercept_config *config,
                   uint32_t access)
{
    struct rule rule = {
        .first = config->first,
        .last = config->last,
        .mask = config->mask,
        .match = config->match,
        .handler = config->handler,
        .ctx = config->ctx,
        .access = (uint8_t)access,
        .action = (uint8_t)config->action,
    };
    uint32_t kind = config->kind, at = table->start[kind + 1];

    memmove(&table->rule[at + 1], &table->rule[at], (table->count - at) * sizeof(rule));
    while (at > table->start[kind] && !in_order(&table->rule[at - 1], &rule)) {
        table->rule[at] = table->rule[at - 1];
        at--;
    }
    table->rule[at] = rule;
    table->count++;
    for (uint32_t k = kind + 1; k <= VIRTX_INTERCEPT_KIND_COUNT; k++)
        table->start[k]++;
}

static void table_fill(struct rule_table *table, const struct virtx_intercept *list)
{
    for (; list; list = list->next) {
        const struct virtx_intercept_config *config = &list->config;

        if (!kinds[config->kind].access)
            insert(table, config, 0);
        if (kinds[config->kind].access && (config->access & VIRTX_READ))
            insert(table, config, VIRTX_READ);
        if (kinds[config->kind].access && (config->access & VIRTX_WRITE))
            insert(table, config, VIRTX_WRITE);
    }
    for (uint32_t k = 0; k < VIRTX_INTERCEPT_KIND_COUNT; k++) {
        uint16_t at = table->start[k];

        table->bound[2 * k] = at;
        while (at < table->start[k + 1] && table->rule[at].access != VIRTX_WRITE)
            at++;
        table->bound[2 * k + 1] = at;
        table->bound[2 * k + 2] = table->start[k + 1];
    }
}

/* A table for the intercepts of a list; NULL for an empty one. */
static enum virtx_status table_make(struct virtx_vm *vm, const struct virtx_intercept *list,
                                    struct rule_table **out)
{
    uint32_t count = 0;
    enum virtx_status status;
    size_t pages;
    void *memory;

    *out = NULL;
    for (const struct virtx_intercept *i = list; i; i = i->next)
        count += rules_of(&i->config);
    if (!count)
        return VIRTX_OK;
    if (count > UINT16_MAX)
        return virtx_fail(&vm->error, VIRTX_E_NO_MEMORY, "intercepts", "are at most 65535 rules",
                          count);
    pages = pages_for(sizeof(struct rule_table) + count * sizeof(struct rule));
    status = virtx_pages_get(vm->virtx, pages, &memory, &vm->error);
    if (status != VIRTX_OK)
        return status;
    *out = memory;
    (*out)->pages = (uint32_t)pages;
    table_fill(*out, list);
    return VIRTX_OK;
}

static struct rule_table *publish(struct virtx_vm *vm, struct virtx_vcpu *vcpu,
                                  struct rule_table *table)
{
    return atomic_exchange_explicit(vcpu ? &vcpu->rules : &vm->rules, table, memory_order_acq_rel);
}

static void retire(struct virtx_vm *vm, struct rule_table *table)
{
    if (table)
        virtx_retire(vm, table, table->pages);
}

static void tell(struct virtx_vm *vm, struct virtx_vcpu *vcpu)
{
    if (vcpu) {
        virtx_request_lazily(vcpu, VIRTX_REQUEST_INTERCEPT);
        return;
    }
    for (vcpu = vm->vcpus; vcpu; vcpu = vcpu->next)
        virtx_request_lazily(vcpu, VIRTX_REQUEST_INTERCEPT);
}

/* Makes the owner's list take effect. On failure everything is as before, but for a table that
 * running vcpus may have seen for a moment. */
static enum virtx_status rebuild(struct virtx_vm *vm, struct virtx_vcpu *vcpu)
{
    struct rule_table *table;
    enum virtx_status status = table_make(vm, vcpu ? vcpu->intercepts : vm->intercepts, &table);

    if (status != VIRTX_OK)
        return status;
    table = publish(vm, vcpu, table);
    status = vm->virtx->backend->intercept_changed(vm, vcpu);
    if (status != VIRTX_OK) {
        virtx_fail(&vm->error, status, "intercept", "the backend could not make it take effect", 0);
        table = publish(vm, vcpu, table);
        vm->virtx->backend->intercept_changed(vm, vcpu);
    }
    retire(vm, table);
    tell(vm, vcpu);
    return status;
}

/* ---- The calls ---- */

static enum virtx_status check_config(struct virtx_error *error,
                                      const struct virtx_intercept_config *config)
{
    const struct kind *kind;

    if (!config)
        return virtx_fail(error, VIRTX_E_INVALID, "config", "is not NULL", 0);
    if (config->size < sizeof(*config))
        return virtx_fail(error, VIRTX_E_SIZE, "config.size", "covers the whole structure",
                          config->size);
    if (config->kind >= VIRTX_INTERCEPT_KIND_COUNT)
        return virtx_fail(error, VIRTX_E_INVALID, "config.kind", "is a virtx_intercept_kind",
                          config->kind);
    kind = &kinds[config->kind];
    if (kind->access ? !config->access || (config->access & ~(uint32_t)(VIRTX_READ | VIRTX_WRITE))
                     : config->access)
        return virtx_fail(
            error, VIRTX_E_INVALID, "config.access",
            "is VIRTX_READ, VIRTX_WRITE or both where the kind tells them apart, else 0",
            config->access);
    if (config->action > VIRTX_ACTION_DEFAULT)
        return virtx_fail(error, VIRTX_E_INVALID, "config.action", "is a virtx_intercept_action",
                          config->action);
    if (config->action == VIRTX_ACTION_ALLOW && !kind->may_allow)
        return virtx_fail(error, VIRTX_E_INVALID, "config.action",
                          "is VIRTX_ACTION_ALLOW for ports and MSRs only", config->kind);
    if (config->first > config->last || config->last > kind->last)
        return virtx_fail(error, VIRTX_E_RANGE, "config.first, last",
                          "is a range that the kind has", config->last);
    if ((config->mask && !kind->masked) || (config->match && !kind->matched))
        return virtx_fail(error, VIRTX_E_INVALID, "config.mask, match",
                          "are 0 where the kind does not use them", config->mask);
    if (config->match & ~config->mask)
        return virtx_fail(error, VIRTX_E_INVALID, "config.match", "has no bits outside the mask",
                          config->match);
    return VIRTX_OK;
}

static bool overlap(const struct virtx_intercept_config *a, const struct virtx_intercept_config *b)
{
    return a->kind == b->kind && (a->access == b->access || (a->access & b->access)) &&
           a->first <= b->last && b->first <= a->last;
}

static enum virtx_status check_overlap(struct virtx_error *error,
                                       const struct virtx_intercept *list,
                                       const struct virtx_intercept_config *config)
{
    for (; list; list = list->next)
        if (overlap(&list->config, config))
            return virtx_fail(error, VIRTX_E_OVERLAP, "config.first, last",
                              "meets no other intercept of its owner", list->config.first);
    return VIRTX_OK;
}

/* [lock] */
static enum virtx_status intercept_add(struct virtx_vm *vm, struct virtx_vcpu *vcpu,
                                       const struct virtx_intercept_config *config,
                                       struct virtx_intercept **out)
{
    struct virtx_intercept **list = vcpu ? &vcpu->intercepts : &vm->intercepts;
    struct virtx_intercept *intercept;
    enum virtx_status status = check_overlap(&vm->error, *list, config);
    bool forced = false;

    if (status != VIRTX_OK)
        return status;
    status = vm->virtx->backend->intercept_check(vm, config, &forced);
    if (status != VIRTX_OK)
        return virtx_fail(&vm->error, status, "config.kind", "can be intercepted by this processor",
                          config->kind);
    intercept = virtx_small_get(vm, &vm->error);
    if (!intercept)
        return vm->error.status;
    intercept->vm = vm;
    intercept->vcpu = vcpu;
    intercept->config = *config;
    intercept->config.size = sizeof(*config);
    intercept->forced = forced;
    intercept->next = *list;
    *list = intercept;
    status = rebuild(vm, vcpu);
    if (status != VIRTX_OK) {
        *list = intercept->next;
        virtx_small_put(vm, intercept);
        return status;
    }
    if (out)
        *out = intercept;
    return VIRTX_OK;
}

static enum virtx_status add(struct virtx_vm *vm, struct virtx_vcpu *vcpu,
                             const struct virtx_intercept_config *config,
                             struct virtx_intercept **out)
{
    uint64_t flags = virtx_vm_lock(vm);
    enum virtx_status status = check_config(&vm->error, config);

    virtx_reap(vm);
    if (status == VIRTX_OK)
        status = intercept_add(vm, vcpu, config, out);
    if (status != VIRTX_OK && vcpu)
        vcpu->error = vm->error;
    virtx_vm_unlock(vm, flags);
    return status;
}

enum virtx_status virtx_vm_intercept(struct virtx_vm *vm,
                                     const struct virtx_intercept_config *config,
                                     struct virtx_intercept **out)
{
    return add(vm, NULL, config, out);
}

enum virtx_status virtx_vcpu_intercept(struct virtx_vcpu *vcpu,
                                       const struct virtx_intercept_config *config,
                                       struct virtx_intercept **out)
{
    return add(vcpu->vm, vcpu, config, out);
}

enum virtx_status virtx_intercept_remove(struct virtx_intercept *intercept)
{
    struct virtx_vm *vm = intercept->vm;
    struct virtx_vcpu *vcpu = intercept->vcpu;
    struct virtx_intercept **link = vcpu ? &vcpu->intercepts : &vm->intercepts;
    uint64_t flags = virtx_vm_lock(vm);
    enum virtx_status status;

    virtx_reap(vm);
    while (*link != intercept)
        link = &(*link)->next;
    *link = intercept->next;
    status = rebuild(vm, vcpu);
    if (status == VIRTX_OK)
        virtx_small_put(vm, intercept);
    else
        *link = intercept;
    virtx_vm_unlock(vm, flags);
    return status;
}

enum virtx_status virtx_intercept_query(const struct virtx_intercept *intercept,
                                        struct virtx_intercept_config *config, bool *forced)
{
    if (!config)
        return virtx_fail(&intercept->vm->error, VIRTX_E_INVALID, "config", "is not NULL", 0);
    *config = intercept->config;
    if (forced)
        *forced = intercept->forced;
    return VIRTX_OK;
}

void virtx_intercepts_drop(struct virtx_vm *vm, struct virtx_vcpu *vcpu)
{
    struct virtx_intercept **list = vcpu ? &vcpu->intercepts : &vm->intercepts;

    while (*list) {
        struct virtx_intercept *intercept = *list;

        *list = intercept->next;
        virtx_small_put(vm, intercept);
    }
    retire(vm, publish(vm, vcpu, NULL));
}

enum virtx_status virtx_vcpu_set_cr3_targets(struct virtx_vcpu *vcpu, const uint64_t *values,
                                             uint32_t count)
{
    enum virtx_status status;
    bool release;

    if (count > VIRTX_CR3_TARGETS)
        return virtx_fail(&vcpu->error, VIRTX_E_RANGE, "count", "is at most VIRTX_CR3_TARGETS",
                          count);
    if (count && !values)
        return virtx_fail(&vcpu->error, VIRTX_E_INVALID, "values", "is not NULL", 0);
    status = virtx_vcpu_claim(vcpu, &release);
    if (status != VIRTX_OK)
        return status;
    for (uint32_t i = 0; i < count; i++)
        vcpu->cr3_target[i] = values[i];
    vcpu->cr3_targets = count;
    virtx_request_lazily(vcpu, VIRTX_REQUEST_INTERCEPT);
    virtx_vcpu_release(vcpu, release);
    return VIRTX_OK;
}

uint32_t virtx_vcpu_cr3_targets(const struct virtx_vcpu *vcpu, uint64_t values[VIRTX_CR3_TARGETS])
{
    for (uint32_t i = 0; i < vcpu->cr3_targets; i++)
        values[i] = vcpu->cr3_target[i];
    return vcpu->cr3_targets;
}

enum virtx_status virtx_vcpu_set_pause_filter(struct virtx_vcpu *vcpu,
                                              const struct virtx_pause_filter *filter)
{
    struct virtx_pause_filter wanted = {0};
    enum virtx_status status;
    bool release;

    if (filter)
        wanted = *filter;
    if (wanted.gap || wanted.window || wanted.count) {
        if (!(vcpu->virtx->caps.features & VIRTX_FEATURE_PAUSE_FILTER))
            return virtx_fail(&vcpu->error, VIRTX_E_UNSUPPORTED, "filter",
                              "this processor cannot tell loops from single PAUSEs", 0);
        if (wanted.gap > 0xffff)
            return virtx_fail(&vcpu->error, VIRTX_E_RANGE, "gap", "is at most 0xffff", wanted.gap);
        if (!wanted.window)
            return virtx_fail(&vcpu->error, VIRTX_E_RANGE, "window", "is at least 1", 0);
        if (!wanted.count || wanted.count > 0xffff)
            return virtx_fail(&vcpu->error, VIRTX_E_RANGE, "count", "is 1 to 0xffff", wanted.count);
    }
    status = virtx_vcpu_claim(vcpu, &release);
    if (status != VIRTX_OK)
        return status;
    vcpu->pause_filter = wanted;
    virtx_request_lazily(vcpu, VIRTX_REQUEST_INTERCEPT);
    virtx_vcpu_release(vcpu, release);
    return VIRTX_OK;
}

void virtx_vcpu_pause_filter(const struct virtx_vcpu *vcpu, struct virtx_pause_filter *filter)
{
    *filter = vcpu->pause_filter;
}
