/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From the intercepts' rules to what the hardware is told: controls of a vcpu, and the bitmaps of
 * ports and MSRs.
 */
#include "hw/service.h"

#define ALL_BITS UINT64_MAX

enum virtx_status hw_intercept_check(const struct virtx_vm *vm,
                                     const struct virtx_intercept_config *config, bool *forced)
{
    return hw_ops(vm->virtx)->intercept_check(vm->virtx, config, forced);
}

/* ---- Bitmaps: each number gets its final value at once, so that a running guest never meets one
 * in between. ---- */

/* The rule of `table` that covers `at`, or NULL; `*end`: the last number for which that holds. */
static const struct rule *rule_at(const struct rule_table *table, uint32_t kind, uint64_t at,
                                  uint32_t access, uint64_t *end)
{
    *end = UINT64_MAX;
    if (!table)
        return NULL;
    for (unsigned i = table->start[kind]; i < table->start[kind + 1]; i++) {
        const struct rule *rule = &table->rule[i];

        if (!(rule->access & access) || rule->last < at)
            continue;
        if (rule->first <= at) {
            *end = rule->last;
            return rule;
        }
        *end = min_u64(*end, rule->first - 1);
    }
    return NULL;
}

/* What becomes of `at`: the vcpu's rule, else the VM's, else VIRTX_ACTION_DEFAULT. */
static unsigned action_at(const struct rule_table *own, const struct rule_table *vms, uint32_t kind,
                          uint64_t at, uint32_t access, uint64_t *end)
{
    uint64_t vm_end;
    const struct rule *rule = rule_at(own, kind, at, access, end);

    if (!rule) {
        rule = rule_at(vms, kind, at, access, &vm_end);
        *end = min_u64(*end, vm_end);
    }
    return rule ? rule->action : VIRTX_ACTION_DEFAULT;
}

/* A number that changes when the rules of a kind do (FNV-1a over what matters). 0: no rules. While a bitmap
 * is between two sets of rules, and after that has failed, its signature is UNKNOWN. */
#define UNKNOWN 2
static uint64_t signature(const struct rule_table *table, uint32_t kind)
{
    uint64_t hash = 0xcbf29ce484222325;

    if (!table || table->start[kind] == table->start[kind + 1])
        return 0;
    for (unsigned i = table->start[kind]; i < table->start[kind + 1]; i++) {
        const struct rule *rule = &table->rule[i];
        const uint64_t words[] = {rule->first, rule->last,
                                  (uint64_t)rule->access << 8 | rule->action};

        for (unsigned w = 0; w < ARRAY_SIZE(words); w++)
            hash = (hash ^ words[w]) * 0x100000001b3;
    }
    return hash | 1;
}

static enum virtx_status apply_ports(struct virtx_vm *vm, struct hw_vcpu *hv,
                                     const struct rule_table *own, const struct rule_table *vms)
{
    uint64_t at = 0;

    while (at <= 0xffff) {
        uint64_t read_end, write_end, end;
        bool pass = action_at(own, vms, VIRTX_INTERCEPT_PORT, at, VIRTX_READ, &read_end) ==
                    VIRTX_ACTION_ALLOW;
        enum virtx_status status;

        pass &= action_at(own, vms, VIRTX_INTERCEPT_PORT, at, VIRTX_WRITE, &write_end) ==
                VIRTX_ACTION_ALLOW;
        end = min_u64(min_u64(read_end, write_end), 0xffff);
        status = hw_ops(vm->virtx)->ports(vm, hv, (uint16_t)at, (uint16_t)end, !pass);
        if (status != VIRTX_OK)
            return status;
        at = end + 1;
    }
    return VIRTX_OK;
}

/* Whose MSR bitmap is made, and from what. */
struct msr_owner {
    struct virtx_vm *vm;
    struct hw_vcpu *hv; /* NULL: the VM's */
    const struct rule_table *own, *vms;
    uint8_t lacks; /* enum hw_lacks */
};

/* The first MSR from `index` on that the guest has by default. */
static uint64_t next_direct(const struct msr_owner *owner, uint64_t index)
{
    uint64_t next = UINT64_MAX;

    for (const struct hw_msr_direct *direct = hw_msr_direct; direct->index; direct++)
        if (direct->index >= index && !(direct->without & owner->lacks))
            next = min_u64(next, direct->index);
    return next;
}

static enum virtx_status apply_msr_range(const struct msr_owner *owner, uint32_t first,
                                         uint32_t last, uint32_t access)
{
    uint64_t at = first, direct = next_direct(owner, first);

    while (at <= last) {
        uint64_t end;
        unsigned action =
            action_at(owner->own, owner->vms, VIRTX_INTERCEPT_MSR, at, access, &end);

        for (end = min_u64(end, last); at <= end; at++) {
            bool pass = action == VIRTX_ACTION_ALLOW ||
                        (action == VIRTX_ACTION_DEFAULT && at == direct);
            enum virtx_status status =
                hw_ops(owner->vm->virtx)->msr(owner->vm, owner->hv, (uint32_t)at, access, !pass);

            if (status != VIRTX_OK && status != VIRTX_E_UNSUPPORTED)
                return status;
            if (at == direct)
                direct = next_direct(owner, at + 1);
        }
    }
    return VIRTX_OK;
}

static enum virtx_status apply_msrs(const struct msr_owner *owner)
{
    /* The ranges that the bitmaps of either vendor cover. */
    static const uint32_t ranges[] = {0, 0xc0000000, 0xc0010000};

    for (unsigned i = 0; i < ARRAY_SIZE(ranges); i++) {
        for (uint32_t access = VIRTX_READ; access <= VIRTX_WRITE; access <<= 1) {
            enum virtx_status status =
                apply_msr_range(owner, ranges[i], ranges[i] + 0x1fff, access);

            if (status != VIRTX_OK)
                return status;
        }
    }
    return VIRTX_OK;
}

/* What the features that a guest lacks add to the signature of its rules for MSRs. */
static uint64_t signature_lacks(uint8_t lacks)
{
    return (uint64_t)lacks << 60;
}

enum virtx_status hw_bitmaps_begin(struct virtx_vm *vm)
{
    struct hw_vm *data = vm->backend_data;
    const struct msr_owner owner = {.vm = vm, .lacks = hw_cpuid_lacks(virtx_cpuid_vm(vm))};

    data->msr_rules = signature_lacks(owner.lacks);
    for (uint64_t at = next_direct(&owner, 0); at != UINT64_MAX; at = next_direct(&owner, at + 1)) {
        enum virtx_status status =
            hw_ops(vm->virtx)->msr(vm, NULL, (uint32_t)at, VIRTX_READ | VIRTX_WRITE, false);

        if (status != VIRTX_OK && status != VIRTX_E_UNSUPPORTED)
            return status;
    }
    return VIRTX_OK;
}

/* A vcpu without rules of its own for a kind uses the VM's bitmap, unless it once had some; or has another CPUID. */
static enum virtx_status apply_vcpu(struct virtx_vm *vm, struct virtx_vcpu *vcpu)
{
    struct hw_vcpu *hv = hw_of(vcpu);
    const struct rule_table *vms = virtx_vm_rules(vm), *rules = virtx_vcpu_rules(vcpu);
    uint64_t own = signature(rules, VIRTX_INTERCEPT_PORT);
    uint64_t ports = own || hv->port_rules
                         ? (own * 31) ^ signature(vms, VIRTX_INTERCEPT_PORT) ^ 1
                         : 0;
    uint64_t msrs;
    struct msr_owner owner = {.vm = vm, .hv = hv, .own = rules, .vms = vms};
    enum virtx_status status;

    if (ports != hv->port_rules) {
        hv->port_rules = UNKNOWN;
        status = apply_ports(vm, hv, rules, vms);
        if (status != VIRTX_OK)
            return status;
        hv->port_rules = ports;
    }
    own = signature(rules, VIRTX_INTERCEPT_MSR);
    owner.lacks = hw_cpuid_lacks(virtx_cpuid_vcpu(vcpu));
    msrs = own || hv->msr_rules || owner.lacks != hw_cpuid_lacks(virtx_cpuid_vm(vm))
               ? (own * 31) ^ signature(vms, VIRTX_INTERCEPT_MSR) ^ 1 ^ signature_lacks(owner.lacks)
               : 0;
    if (msrs != hv->msr_rules) {
        hv->msr_rules = UNKNOWN;
        status = apply_msrs(&owner);
        if (status != VIRTX_OK)
            return status;
        hv->msr_rules = msrs;
    }
    return VIRTX_OK;
}

enum virtx_status hw_intercept_changed(struct virtx_vm *vm, struct virtx_vcpu *vcpu)
{
    struct hw_vm *data = vm->backend_data;
    const struct rule_table *rules = virtx_vm_rules(vm);
    struct msr_owner owner = {.vm = vm, .vms = rules};
    uint64_t now;
    enum virtx_status status;

    if (vcpu)
        return apply_vcpu(vm, vcpu);
    now = signature(rules, VIRTX_INTERCEPT_PORT);
    if (now != data->port_rules) {
        data->port_rules = UNKNOWN;
        status = apply_ports(vm, NULL, NULL, rules);
        if (status != VIRTX_OK)
            return status;
        data->port_rules = now;
    }
    owner.lacks = hw_cpuid_lacks(virtx_cpuid_vm(vm));
    now = signature(rules, VIRTX_INTERCEPT_MSR) ^ signature_lacks(owner.lacks);
    if (now != data->msr_rules) {
        data->msr_rules = UNKNOWN;
        status = apply_msrs(&owner);
        if (status != VIRTX_OK)
            return status;
        data->msr_rules = now;
    }
    for (vcpu = vm->vcpus; vcpu; vcpu = vcpu->next) {
        status = apply_vcpu(vm, vcpu);
        if (status != VIRTX_OK)
            return status;
    }
    return VIRTX_OK;
}

/* ---- Controls ---- */

static void add_exceptions(struct hw_controls *c, const struct rule *rule)
{
    for (uint64_t vector = rule->first; vector <= rule->last && vector < 32; vector++) {
        uint32_t mask = vector == VECTOR_PF ? (uint32_t)rule->mask : 0;

        if (vector == VECTOR_PF) {
            /* A second rule for #PF, or one for all of them: the dispatcher sorts them out. */
            if ((c->exceptions >> VECTOR_PF & 1) &&
                (c->pf_mask != mask || c->pf_match != (uint32_t)rule->match))
                mask = 0;
            c->pf_mask = mask;
            c->pf_match = mask ? (uint32_t)rule->match : 0;
        }
        c->exceptions |= 1u << vector;
    }
}

static void add_crs(struct hw_controls *c, const struct rule *rule)
{
    for (uint64_t reg = rule->first; reg <= rule->last && reg < 16; reg++) {
        uint64_t mask = rule->mask ? rule->mask : ALL_BITS;

        if (rule->access & VIRTX_READ)
            c->cr_read |= (uint16_t)(1u << reg);
        if (!(rule->access & VIRTX_WRITE))
            continue;
        c->cr_write |= (uint16_t)(1u << reg);
        if (reg == 0)
            c->cr0_mask |= mask;
        else if (reg == 4)
            c->cr4_mask |= mask;
    }
}

static void add_drs(struct hw_controls *c, const struct rule *rule)
{
    for (uint64_t reg = rule->first; reg <= rule->last && reg < 8; reg++) {
        if (rule->access & VIRTX_READ)
            c->dr_read |= (uint16_t)(1u << reg);
        if (rule->access & VIRTX_WRITE)
            c->dr_write |= (uint16_t)(1u << reg);
    }
}

static void add_rules(struct hw_controls *c, const struct rule_table *table, uint32_t kind,
                      void (*add)(struct hw_controls *c, const struct rule *rule))
{
    if (!table)
        return;
    for (unsigned i = table->start[kind]; i < table->start[kind + 1]; i++)
        if (table->rule[i].action == VIRTX_ACTION_EXIT)
            add(c, &table->rule[i]);
}

/* Which guest-physical addresses are worth a look at the rules. */
static void bound_mmio(struct hw_soft *soft, const struct rule_table *table)
{
    if (!table)
        return;
    for (unsigned i = table->start[VIRTX_INTERCEPT_MMIO]; i < table->start[VIRTX_INTERCEPT_MMIO + 1];
         i++) {
        soft->mmio_first = min_u64(soft->mmio_first, table->rule[i].first);
        if (table->rule[i].last > soft->mmio_last)
            soft->mmio_last = table->rule[i].last;
    }
}

static void add_instructions(struct hw_controls *c, const struct rule *rule)
{
    for (uint64_t which = rule->first; which <= rule->last && which < VIRTX_INSN_COUNT; which++)
        c->instructions |= 1ull << which;
}

/* Shadow paging has to see all page faults but those that the engine knows to be the guest's; and the
 * embedder those that it has asked for, which have a bit of the former, or else all exit. */
static void own_page_faults(const struct hw_vcpu *hv, struct hw_controls *c)
{
    bool asked = c->exceptions >> VECTOR_PF & 1;
    bool all = !hv->fault_bits || (asked && !(c->pf_mask & c->pf_match & hv->fault_bits));

    c->exceptions |= 1u << VECTOR_PF;
    c->pf_mask = all ? 0 : hv->fault_bits;
    c->pf_match = 0;
    c->pf_unlike = !all;
}

/* What must exit whatever the embedder wants: control bits that the guest's CPUID does not grant or that
 * the library keeps track of, and instructions the guest should not find. */
static void add_own(struct hw_vcpu *hv, struct hw_controls *c)
{
    const struct hw_policy *policy = &hv->soft->policy;

    c->cr0_mask |= CR0_PG | CR0_CD | CR0_NW;
    c->cr4_mask |= ~policy->cr4 | CR4_MCE | CR4_OSXSAVE | CR4_PKE | CR4_VMXE | CR4_SMXE;
    c->instructions |= 1ull << VIRTX_INSN_RDPMC | 1ull << VIRTX_INSN_XSETBV | 1ull << VIRTX_INSN_INVD;
    c->fpu_waits = hw_fpu_waits(hv);
    if (c->fpu_waits) {
        c->cr0_mask |= CR0_TS | CR0_MP;
        c->exceptions |= 1u << VECTOR_NM;
    }
    if (!policy->has_monitor)
        c->instructions |= 1ull << VIRTX_INSN_MONITOR | 1ull << VIRTX_INSN_MWAIT;
    if (!policy->has_invpcid)
        c->instructions |= 1ull << VIRTX_INSN_INVPCID;
    if (!policy->has_tsc_aux)
        c->instructions |= 1ull << VIRTX_INSN_RDTSCP;
    c->apic = hv->soft->apic;
    c->cr8_shadow = hv->cr8_shadow;
    if (hv->soft->follow_cr8 && !c->cr8_shadow) {
        c->cr_read |= 1u << 8;
        c->cr_write |= 1u << 8;
    }
    if (!hv->debug_loaded) {
        c->dr_read = 0xff;
        c->dr_write = 0xff;
    }
    if (!hv->vcpu->vm->paging->nested) {
        own_page_faults(hv, c);
        c->cr_read |= 1u << 3;
        c->cr_write |= 1u << 3;
        c->cr0_mask |= CR0_WP | CR0_PE;
        c->cr4_mask |= CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP | CR4_SMAP | CR4_PCIDE;
        c->instructions |= 1ull << VIRTX_INSN_INVLPG | 1ull << VIRTX_INSN_INVPCID;
    }
}

void hw_controls_compute(struct hw_vcpu *hv)
{
    struct virtx_vcpu *vcpu = hv->vcpu;
    struct hw_controls *c = &hv->controls;
    const struct rule_table *tables[] = {virtx_vm_rules(vcpu->vm), virtx_vcpu_rules(vcpu)};

    memset(c, 0, sizeof(*c));
    for (unsigned i = 0; i < ARRAY_SIZE(tables); i++) {
        add_rules(c, tables[i], VIRTX_INTERCEPT_EXCEPTION, add_exceptions);
        add_rules(c, tables[i], VIRTX_INTERCEPT_CR, add_crs);
        add_rules(c, tables[i], VIRTX_INTERCEPT_DR, add_drs);
        add_rules(c, tables[i], VIRTX_INTERCEPT_INSTRUCTION, add_instructions);
    }
    hv->soft->mmio_first = UINT64_MAX;
    hv->soft->mmio_last = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(tables); i++)
        bound_mmio(hv->soft, tables[i]);
    if (vcpu->vm->paging->nested && (c->cr_write & 1u << 3)) {
        c->cr3_target = vcpu->cr3_target;
        c->cr3_targets = vcpu->cr3_targets;
    }
    c->pause = vcpu->pause_filter;
    add_own(hv, c);
    c->hlt = c->interrupts = !vcpu->vm->config.interrupts_to_guest;
    hv->quick = !virtx_rule_kind(vcpu, VIRTX_INTERCEPT_CR) &&
                !virtx_rule_kind(vcpu, VIRTX_INTERCEPT_INSTRUCTION);
    hv->shadowed = vcpu->vm->paging->load_cr3 != NULL;
    hv->rules_port = virtx_rule_kind(vcpu, VIRTX_INTERCEPT_PORT);
    hv->rules_msr = virtx_rule_kind(vcpu, VIRTX_INTERCEPT_MSR);
    hv->rules_mmio = virtx_rule_kind(vcpu, VIRTX_INTERCEPT_MMIO);
    hv->rules_hypercall = virtx_rule_kind(vcpu, VIRTX_INTERCEPT_HYPERCALL);
    hv->serve_cpuid = !virtx_rule_kind(vcpu, VIRTX_INTERCEPT_CPUID);
    c->hypercall = hv->rules_hypercall;
}
