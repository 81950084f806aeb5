/* SPDX-License-Identifier: BSD-2-Clause */
/* From an exit to the handler of its intercept. */
#include "core/object.h"

#define PAGE_FAULT 14u

/* Kind of the intercepts that an exit is about, plus 1; 0: none. */
static const uint8_t kind_of[VIRTX_EXIT_REASON_COUNT] = {
    [VIRTX_EXIT_IO] = VIRTX_INTERCEPT_PORT + 1,
    [VIRTX_EXIT_MMIO] = VIRTX_INTERCEPT_MMIO + 1,
    [VIRTX_EXIT_MSR] = VIRTX_INTERCEPT_MSR + 1,
    [VIRTX_EXIT_CPUID] = VIRTX_INTERCEPT_CPUID + 1,
    [VIRTX_EXIT_EXCEPTION] = VIRTX_INTERCEPT_EXCEPTION + 1,
    [VIRTX_EXIT_CR] = VIRTX_INTERCEPT_CR + 1,
    [VIRTX_EXIT_DR] = VIRTX_INTERCEPT_DR + 1,
    [VIRTX_EXIT_HYPERCALL] = VIRTX_INTERCEPT_HYPERCALL + 1,
    [VIRTX_EXIT_INSTRUCTION] = VIRTX_INTERCEPT_INSTRUCTION + 1,
};

/* What an intercept would have to match. */
struct question {
    uint32_t kind, access;
    uint64_t value;
    uint32_t span; /* values from `value` on that the access touches */
};

static inline void ask(const struct virtx_exit *exit, struct question *q)
{
    q->access = 0;
    q->span = 1;
    switch (q->kind) {
    case VIRTX_INTERCEPT_PORT:
        q->value = exit->io.port;
        q->access = exit->io.access;
        q->span = exit->io.size;
        break;
    case VIRTX_INTERCEPT_MMIO:
        q->value = exit->mmio.gpa;
        q->access = exit->mmio.access;
        q->span = exit->mmio.size;
        break;
    case VIRTX_INTERCEPT_MSR:
        q->value = exit->msr.index;
        q->access = exit->msr.access;
        break;
    case VIRTX_INTERCEPT_CPUID:
        q->value = exit->cpuid.leaf;
        break;
    case VIRTX_INTERCEPT_EXCEPTION:
        q->value = exit->exception.vector;
        break;
    case VIRTX_INTERCEPT_CR:
    case VIRTX_INTERCEPT_DR:
        q->value = exit->cr.reg;
        q->access = exit->cr.access;
        break;
    case VIRTX_INTERCEPT_INSTRUCTION:
        q->value = exit->instruction.which;
        break;
    default: /* hypercalls have no range */
        q->value = 0;
        break;
    }
}

/* An access to several ports or bytes belongs to the first of them that has an intercept. */
static __attribute__((noinline)) const struct rule *find_wide(struct virtx_vcpu *vcpu,
                                                              const struct question *q)
{
    const struct rule *found = NULL;

    if (!virtx_rule_any(vcpu, q->kind, q->value, q->value + q->span - 1, q->access))
        return NULL;
    for (uint32_t i = 0; i < q->span; i++) {
        const struct rule *rule = virtx_rule_search(vcpu, q->kind, q->value + i, q->access);

        if (rule && rule->action == VIRTX_ACTION_EXIT)
            return rule;
        if (!found)
            found = rule;
    }
    return found;
}

/* A #PF matches by its error code, too; where the vcpu's rule does not, the VM's may. */
static __attribute__((noinline)) const struct rule *find_page_fault(struct virtx_vcpu *vcpu,
                                                                    uint32_t error)
{
    const struct rule_table *const tables[] = {virtx_vcpu_rules(vcpu), virtx_vm_rules(vcpu->vm)};

    for (unsigned i = 0; i < ARRAY_SIZE(tables); i++) {
        const struct rule *rule =
            virtx_rule_in(tables[i], VIRTX_INTERCEPT_EXCEPTION, PAGE_FAULT, 0);

        if (rule && (error & rule->mask) == rule->match)
            return rule;
    }
    return NULL;
}

static __attribute__((noinline)) const struct rule *find(struct virtx_vcpu *vcpu,
                                                         const struct question *q)
{
    const struct rule *rule;

    if (!virtx_rule_kind(vcpu, q->kind))
        return NULL;
    rule = virtx_rule_in(virtx_vcpu_rules(vcpu), q->kind, q->value, q->access);
    if (!rule)
        rule = virtx_rule_in(virtx_vm_rules(vcpu->vm), q->kind, q->value, q->access);
    if (q->span > 1 && (!rule || rule->action != VIRTX_ACTION_EXIT))
        rule = find_wide(vcpu, q);
    return rule;
}

/* Accesses come again and again, and what is intercepted changes seldom. */
static inline const struct rule *find_again(struct virtx_vcpu *vcpu, const struct question *q)
{
    struct rule_found *line = virtx_found_line(vcpu, q->kind, q->value);

    if (!virtx_found_is(line, q->kind, q->value, q->access, q->span)) {
        line->rule = find(vcpu, q);
        line->value = q->value;
        line->key = virtx_found_key(q->kind, q->access, q->span);
    }
    return line->rule;
}

enum virtx_verdict virtx_backend_dispatch(struct virtx_vcpu *vcpu)
{
    struct virtx_exit *exit = &vcpu->exit;
    uint32_t kind = likely(exit->reason < VIRTX_EXIT_REASON_COUNT) ? kind_of[exit->reason] : 0;
    struct question q = {.kind = kind - 1};
    const struct rule *rule;

    if (!kind)
        return VIRTX_DEFAULT;
    ask(exit, &q);
    if (unlikely(q.kind == VIRTX_INTERCEPT_EXCEPTION && q.value == PAGE_FAULT))
        rule = find_page_fault(vcpu, exit->exception.error);
    else
        rule = find_again(vcpu, &q);
    if (!rule || rule->action != VIRTX_ACTION_EXIT)
        return VIRTX_DEFAULT;
    return rule->handler ? virtx_rule_call(vcpu, rule) : VIRTX_TO_LOOP;
}
