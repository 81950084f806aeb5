/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Nested faults: those the engine mends, those that are devices, and the access to the device.
 *
 * A plain MOV with one memory operand, nearly every access to a device, is recognized by the
 * decoder and completed here: the processor has said the guest-physical address already. Everything
 * else goes to the executor (execute.c).
 */
#include "hw/service.h"
#include "hw/emulation.h"

enum { EMULATION_PAGES = 2 };

static void forget_devices(struct hw_soft *soft)
{
    for (unsigned i = 0; i < ARRAY_SIZE(soft->device); i++)
        soft->device[i] = (struct hw_device){.first = UINT64_MAX};
}

enum virtx_status hw_mmio_create(struct hw_vcpu *hv)
{
    _Static_assert(sizeof(struct hw_emulation) <= EMULATION_PAGES * VIRTX_PAGE_SIZE,
                   "so many pages are allocated");
    hv->emulation = virtx_pages_alloc(hv->vcpu->virtx, EMULATION_PAGES);
    if (!hv->emulation)
        return virtx_fail(&hv->vcpu->error, VIRTX_E_NO_MEMORY, "vcpu", "the host has no pages left",
                          1);
    hw_code_reset(hv->emulation);
    return VIRTX_OK;
}

void hw_mmio_destroy(struct hw_vcpu *hv)
{
    virtx_pages_free(hv->vcpu->virtx, hv->emulation, EMULATION_PAGES);
    hv->emulation = NULL;
}

/* What a plain MOV has read reaches its register. */
static __attribute__((noinline)) void complete_part(struct hw_vcpu *hv, const struct hw_mov *mov,
                                                    uint64_t value)
{
    uint64_t *gpr = &hv->state.gpr[mov->reg];

    if (mov->kind == HW_MOV_SIGN)
        value = (uint64_t)((int64_t)(value << mov->unused) >> mov->unused);
    else
        value = value << mov->unused >> mov->unused;
    if (mov->high)
        *gpr = (*gpr & ~0xff00ull) | (value & 0xff) << 8;
    else
        hw_gpr_write(hv, mov->reg, value, mov->to_size);
}

static inline void complete_read(struct hw_vcpu *hv, const struct hw_mov *mov, uint64_t value)
{
    if (likely(mov->kind == HW_MOV_READ))
        hv->state.gpr[mov->reg] = value << mov->unused >> mov->unused;
    else
        complete_part(hv, mov, value);
}

/* Whether the access is of this size and at the address that the processor named: it may also be
 * the second half of one that straddles into this page. */
static inline bool starts_here(struct hw_vcpu *hv, const struct hw_line *line)
{
    uint64_t offset = hv->fault.gpa & (VIRTX_PAGE_SIZE - 1);

    if (unlikely(offset + line->mov.size > VIRTX_PAGE_SIZE))
        return false;
    if (offset != 0 || line->mov.size == 1)
        return true;
    if (likely(line->mov.base != HW_MOV_NO_BASE))
        offset = hv->state.gpr[line->mov.base] + (uint64_t)line->insn.disp;
    else
        offset = hw_operand_offset(hv, &line->insn);
    return (offset & (VIRTX_PAGE_SIZE - 1)) == 0;
}

/* The bytes are no instruction that the decoder knows, or not all of them could be had. */
static __attribute__((noinline)) bool undecoded(struct hw_vcpu *hv, const struct hw_fetch *fetch)
{
    if (fetch->access == HW_ACCESS_FAULT) {
        hw_raise(hv, &fetch->event);
        return true;
    }
    return hw_emulation_exit(hv, fetch->bytes, fetch->got);
}

/* What a plain MOV writes. */
static inline uint64_t value_written(struct hw_vcpu *hv, const struct hw_line *line)
{
    const struct hw_mov *mov = &line->mov;
    uint64_t value = line->insn.imm;

    if (likely(mov->kind == HW_MOV_WRITE))
        value = hv->state.gpr[mov->reg] >> mov->high;
    else if (mov->kind == HW_MOV_WRITE_RSP)
        value = hw_state(hv, VIRTX_STATE_RSP)->gpr[VIRTX_RSP];
    return value << mov->unused >> mov->unused;
}

/* Whether the line is a plain MOV that makes all of the access that faulted. */
static inline bool is_simple(struct hw_vcpu *hv, const struct hw_line *line)
{
    return line->mov.access == hv->fault.access && starts_here(hv, line);
}

_Static_assert(offsetof(struct virtx_exit_mmio, access) ==
                       offsetof(struct virtx_exit_mmio, size) + 1 &&
                   offsetof(struct hw_mov, access) == offsetof(struct hw_mov, size) + 1,
               "copied at once");

static inline void describe(struct hw_vcpu *hv, const struct hw_line *line)
{
    struct virtx_exit *exit = &hv->vcpu->exit;

    exit->reason = VIRTX_EXIT_MMIO;
    exit->length = line->insn.length;
    exit->mmio.gpa = hv->fault.gpa;
    /* size and access, which stand side by side in both */
    __builtin_memcpy(&exit->mmio.size, &line->mov.size, 2);
    exit->mmio.value = line->mov.access == VIRTX_WRITE ? value_written(hv, line) : UINT64_MAX;
}

/* Whether a rule of the table is about an access to the range. */
static bool table_meets(const struct rule_table *table, uint64_t first, uint64_t last)
{
    if (!table)
        return false;
    for (unsigned i = table->start[VIRTX_INTERCEPT_MMIO];
         i < table->start[VIRTX_INTERCEPT_MMIO + 1]; i++)
        if (table->rule[i].first <= last && table->rule[i].last >= first)
            return true;
    return false;
}

/* Remembers who serves the access that was just described, if it is one handler. Of a rule of the
 * VM's, as much as lies in the page, and if the vcpu has no rule of its own in there. */
static __attribute__((noinline)) void remember_device(struct hw_vcpu *hv)
{
    const struct virtx_exit_mmio *mmio = &hv->vcpu->exit.mmio;
    struct hw_device *device = &hv->soft->device[mmio->access == VIRTX_WRITE];
    const struct rule_table *rules = virtx_vcpu_rules(hv->vcpu);
    const struct rule *rule = virtx_rule_in(rules, VIRTX_INTERCEPT_MMIO, mmio->gpa, mmio->access);
    uint64_t first = 0, last = UINT64_MAX;

    if (!rule) {
        first = mmio->gpa & ~(uint64_t)(VIRTX_PAGE_SIZE - 1);
        last = first + VIRTX_PAGE_SIZE - 1;
        if (table_meets(rules, first, last))
            return;
        rule = virtx_rule_in(virtx_vm_rules(hv->vcpu->vm), VIRTX_INTERCEPT_MMIO, mmio->gpa,
                             mmio->access);
    }
    if (!rule || rule->action != VIRTX_ACTION_EXIT || !rule->handler)
        return;
    first = first > rule->first ? first : rule->first;
    *device = (struct hw_device){.first = first,
                                 .span = min_u64(last, rule->last) - first,
                                 .handler = rule->handler,
                                 .ctx = rule->ctx,
                                 .rules = rules};
}

/* The access may wait for its answer. */
static inline void wait(struct hw_vcpu *hv, const struct hw_line *line)
{
    __builtin_memcpy(&hv->soft->mov, &line->mov, sizeof(line->mov));
    hv->pending.kind = HW_PENDING_SIMPLE;
}

/* Whether completing a plain MOV touches memory only: not where RSP may have to be read. */
static inline bool is_plain(const struct hw_mov *mov)
{
    return mov->access == VIRTX_WRITE || mov->kind == HW_MOV_READ;
}

bool hw_mmio_plain(const struct hw_vcpu *hv)
{
    return hv->pending.kind == HW_PENDING_SIMPLE && is_plain(&hv->soft->mov);
}

/* To whoever the intercepts name. */
static __attribute__((noinline)) bool offer(struct hw_vcpu *hv)
{
    remember_device(hv);
    return hw_offer(hv, &hv->status);
}

static inline bool offer_or_loop(struct hw_vcpu *hv, const struct hw_line *line)
{
    const struct hw_soft *soft = hv->soft;
    uint64_t gpa = hv->fault.gpa;

    wait(hv, line);
    if (gpa + line->mov.size - 1 >= soft->mmio_first && gpa <= soft->mmio_last)
        return offer(hv);
    return likely(is_plain(&line->mov)) ? hw_ask_plain(hv, line->mov.access) : hw_ask(hv);
}

/* An access to a device that has not been met before, or not in this way. */
static __attribute__((noinline)) bool mmio(struct hw_vcpu *hv)
{
    const struct hw_line *line;
    struct hw_fetch fetch;

    if (hv->has_reinject || hv->fault.access == VIRTX_EXECUTE)
        return hw_emulation_exit(hv, NULL, 0);
    if (hv->fault.table_walk)
        return hw_memory_exit(hv);
    line = hw_code(hv, &fetch);
    if (!line)
        return undecoded(hv, &fetch);
    if (!is_simple(hv, line) || hw_breakpoints_on(hv))
        return hw_execute_insn(hv, &line->insn, &hv->status);
    describe(hv, line);
    return offer_or_loop(hv, line);
}

/* A plain MOV gets its answer; what is left is to retire it. */
void hw_mmio_answer(struct hw_vcpu *hv, const void *value)
{
    const struct virtx_exit_mmio *mmio = &hv->vcpu->exit.mmio;
    const struct hw_mov *mov = &hv->soft->mov;

    hw_mmio_written(hv);
    if (mmio->access == VIRTX_READ)
        complete_read(hv, mov, value ? hw_bytes(value, mov->size) : mmio->value);
}

/* The record holds the answer. As hw_complete(). */
enum virtx_status hw_mmio_complete(struct hw_vcpu *hv, const void *value)
{
    struct virtx_exit_mmio *mmio = &hv->vcpu->exit.mmio;

    if (unlikely(hv->pending.kind != HW_PENDING_SIMPLE)) {
        if (value && mmio->access == VIRTX_READ)
            mmio->value = hw_bytes(value, mmio->size);
        return hw_execute_continue(hv);
    }
    hw_mmio_answer(hv, value);
    hw_retire(hv);
    return VIRTX_OK;
}

void hw_mmio_abandon(struct hw_vcpu *hv)
{
    struct hw_emulation *em = hv->emulation;

    hv->pending.kind = HW_PENDING_NONE;
    em->replay.count = 0;
}

/* The slot forbids it, or its page is away: the embedder may change that, and the guest tries
 * again. */
bool hw_memory_exit(struct hw_vcpu *hv)
{
    struct virtx_exit *exit = hw_record(hv, VIRTX_EXIT_MEMORY);
    const struct slot_entry *slot = virtx_slot_find(virtx_slots(hv->vcpu->vm), hv->fault.gpa);

    exit->memory = (struct virtx_exit_memory){
        .gpa = hv->fault.gpa,
        .gva = hv->fault.gva,
        .access = hv->fault.access,
        .rights = slot ? (uint8_t)slot->rights : 0,
        .gva_valid = hv->fault.gva_valid,
        .table_walk = hv->fault.table_walk,
    };
    return hw_to_loop(hv);
}

/* In long mode, as the processor has just left it: it can go on there. */
static inline bool still_native(const struct hw_vcpu *hv)
{
    return (hv->state.efer & EFER_LMA) && !hv->soft->interpret && !hv->nmi_by_hand &&
           !(hv->dirty & (VIRTX_STATE_CR | VIRTX_STATE_SEG | VIRTX_STATE_RFLAGS));
}

/* Nobody else wants the exception, and nothing else waits to be delivered. */
static bool deliver_at_once(struct hw_vcpu *hv)
{
    const struct virtx_vcpu *vcpu = hv->vcpu;

    return !hv->has_reinject && !vcpu->events.has_exception &&
           !(hv->work & (HW_WORK_EVENT | HW_WORK_HALTED | HW_WORK_EXECUTE)) &&
           !virtx_rule_kind(vcpu, VIRTX_INTERCEPT_EXCEPTION) &&
           (likely(!hv->confined) || still_native(hv) || hw_place(hv) == HW_PLACE_HARDWARE);
}

/* The guest's own page fault (shadow engines): an exception like any other. */
static bool own_page_fault(struct hw_vcpu *hv, enum virtx_status *status)
{
    struct virtx_exit *exit = &hv->vcpu->exit;

    if (likely(deliver_at_once(hv))) {
        hv->inflight = (struct virtx_event){.type = VIRTX_EVENT_EXCEPTION,
                                            .vector = VECTOR_PF,
                                            .has_error = true,
                                            .error = hv->fault.error,
                                            .address = hv->fault.gva};
        hv->state.cr2 = hv->fault.gva;
        hv->injected = true;
        hv->vcpu->stats.injections++;
        hv->ops->inject(hv, &hv->inflight);
        return true;
    }
    exit->reason = VIRTX_EXIT_EXCEPTION;
    exit->exception = (struct virtx_exit_exception){
        .vector = VECTOR_PF, .has_error = true, .error = hv->fault.error, .address = hv->fault.gva};
    return hw_offer(hv, status);
}

/* Whether the access is in the first so many bytes of the hole, and that is one still. */
static inline bool in_hole(const struct hw_vcpu *hv, uint64_t bytes)
{
    const struct hw_soft *soft = hv->soft;

    return hv->fault.gpa - soft->hole_first < bytes &&
           likely(atomic_load_explicit(&hv->vcpu->vm->generation, memory_order_acquire) ==
                  soft->hole_generation);
}

/*
 * Remembers the hole between the slots that the access fell into. The first table of slots, or of
 * rules, that is published retires no other and so makes no generation; but without slots there is
 * no hole.
 */
static __attribute__((noinline)) void remember_hole(struct hw_vcpu *hv)
{
    struct hw_soft *soft = hv->soft;
    struct virtx_vm *vm = hv->vcpu->vm;
    uint64_t generation = atomic_load_explicit(&vm->generation, memory_order_acquire);
    const struct slot_table *slots = virtx_slots(vm);
    uint64_t gpa = hv->fault.gpa, first = 0, end = 0;

    if (virtx_slot_find(slots, gpa))
        return;
    for (uint32_t i = 0; slots && i < slots->count; i++) {
        if (slots->entry[i].gpa > gpa) {
            end = slots->entry[i].gpa;
            break;
        }
        first = slots->entry[i].end;
    }
    soft->hole_first = first;
    soft->hole_bytes = end - first; /* without an end it goes round, to all that is left */
    soft->named_bytes = vm->paging->nested ? soft->hole_bytes : 0;
    soft->hole_generation = generation;
    forget_devices(soft);
}

/*
 * A write that the engine allows and does not want the processor to make, as that of a guest's page
 * table. A plain MOV needs no walk: the engine has found the address, and set the flags.
 */
static __attribute__((noinline)) bool write_for(struct hw_vcpu *hv, enum virtx_status *status)
{
    const struct hw_line *line;
    struct hw_fetch fetch;
    uint64_t value;

    if (hv->has_reinject || hv->fault.access != VIRTX_WRITE || hw_breakpoints_on(hv))
        return hw_execute(hv, status);
    line = hw_code(hv, &fetch);
    if (!line || !is_simple(hv, line))
        return hw_execute(hv, status);
    value = value_written(hv, line);
    if (virtx_gpa_write(hv->vcpu->vm, hv->fault.gpa, &value, line->mov.size, false) != VIRTX_OK)
        return hw_execute(hv, status);
    hv->vcpu->stats.instructions++;
    hv->vcpu->exit.length = line->insn.length;
    hv->ops->advance(hv);
    return true;
}

/* The handler has not served it after all: what it has answered instead. */
static __attribute__((noinline)) bool not_handled(struct hw_vcpu *hv, const struct hw_line *line,
                                                  enum virtx_verdict verdict)
{
    if (verdict == VIRTX_FAULT) {
        hv->work |= HW_WORK_EVENT;
        return true;
    }
    wait(hv, line);
    return hw_ask(hv);
}

/* Calls the device's handler as virtx_backend_dispatch() does. */
static inline enum virtx_verdict call(struct virtx_vcpu *vcpu, const struct hw_device *device)
{
    enum virtx_verdict verdict;

    atomic_store_explicit(&vcpu->handler, true, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    verdict = device->handler(vcpu, &vcpu->exit, device->ctx);
    atomic_signal_fence(memory_order_seq_cst);
    atomic_store_explicit(&vcpu->handler, false, memory_order_relaxed);
    return verdict;
}

/*
 * The quick way, for what comes by the thousand: a plain MOV, met before, at a device in a hole met
 * before, with a handler met before.
 */
static __attribute__((noinline)) bool known_hole(struct hw_vcpu *hv)
{
    const struct hw_line *line = hw_line_at(hv);
    const struct hw_device *device;
    enum virtx_verdict verdict;
    struct hw_code code;

    if (unlikely(hv->has_reinject | hv->fault.table_walk) ||
        unlikely(!hw_line_holds(hv, line, &code)) || unlikely(!is_simple(hv, line)) ||
        hw_breakpoints_on(hv))
        return mmio(hv);
    describe(hv, line);
    device = &hv->soft->device[line->mov.access == VIRTX_WRITE];
    if (hv->fault.gpa - device->first > device->span ||
        unlikely(device->rules != virtx_vcpu_rules(hv->vcpu)) || unlikely(hv->cr8_shadow))
        return offer_or_loop(hv, line);
    verdict = call(hv->vcpu, device);
    if (unlikely(verdict != VIRTX_HANDLED))
        return not_handled(hv, line, verdict);
    hv->vcpu->stats.instructions++;
    if (line->mov.access == VIRTX_READ)
        complete_read(hv, &line->mov, hv->vcpu->exit.mmio.value);
    hv->ops->advance(hv);
    return true;
}

static __attribute__((noinline)) bool page_fault(struct hw_vcpu *hv, enum virtx_status *status)
{
    struct virtx_vcpu *vcpu = hv->vcpu;

    switch (vcpu->vm->paging->fault(vcpu, &hv->fault)) {
    case VIRTX_FAULT_RESUME:
        vcpu->stats.faults_mapped++;
        return true;
    case VIRTX_FAULT_NOT_MEMORY:
        if (in_hole(hv, hv->soft->hole_bytes))
            return known_hole(hv);
        remember_hole(hv);
        return mmio(hv);
    case VIRTX_FAULT_EXECUTE:
        return write_for(hv, status);
    case VIRTX_FAULT_REFLECT:
        return own_page_fault(hv, status);
    case VIRTX_FAULT_NO_MEMORY:
        *status = virtx_fail(&vcpu->error, VIRTX_E_NO_MEMORY, "page pool",
                             "has no page left for the guest's tables; fill it and run again",
                             hv->fault.gpa);
        return false;
    case VIRTX_FAULT_FORBIDDEN:
    default:
        return hw_memory_exit(hv);
    }
}

/* Where the processor names the address, the engine need not be asked about a known hole. */
bool hw_page_fault(struct hw_vcpu *hv, enum virtx_status *status)
{
    if (in_hole(hv, hv->soft->named_bytes) && likely(!hv->fault.misconfigured))
        return known_hole(hv);
    return page_fault(hv, status);
}
