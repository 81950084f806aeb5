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

enum virtx_status hw_mmio_create(struct hw_vcpu *hv)
{
    _Static_assert(sizeof(struct hw_emulation) <= EMULATION_PAGES * VIRTX_PAGE_SIZE,
                   "so many pages are allocated");
    hv->emulation = virtx_pages_alloc(hv->vcpu->virtx, EMULATION_PAGES);
    if (!hv->emulation)
        return virtx_fail(&hv->vcpu->error, VIRTX_E_NO_MEMORY, "vcpu", "the host has no pages left",
                          1);
    return VIRTX_OK;
}

void hw_mmio_destroy(struct hw_vcpu *hv)
{
    virtx_pages_free(hv->vcpu->virtx, hv->emulation, EMULATION_PAGES);
    hv->emulation = NULL;
}

static inline uint64_t load(const void *from, unsigned bytes)
{
    switch (bytes) {
    case 1:
        return *(const uint8_t *)from;
    case 2: {
        uint16_t value;
        __builtin_memcpy(&value, from, sizeof(value));
        return value;
    }
    case 4: {
        uint32_t value;
        __builtin_memcpy(&value, from, sizeof(value));
        return value;
    }
    default: {
        uint64_t value;
        __builtin_memcpy(&value, from, sizeof(value));
        return value;
    }
    }
}

/* What a plain MOV has read reaches its register. */
static inline void complete_read(struct hw_vcpu *hv, struct hw_mov mov, uint64_t value)
{
    unsigned unused = 64 - 8u * mov.size;
    uint64_t *gpr = &hv->state.gpr[mov.reg];

    if (mov.kind == HW_MOV_SIGN)
        value = (uint64_t)((int64_t)(value << unused) >> unused);
    else
        value = value << unused >> unused;
    if (unlikely(mov.reg == VIRTX_RSP || mov.to_size < 4)) {
        if (mov.high)
            *gpr = (*gpr & ~0xff00ull) | (value & 0xff) << 8;
        else
            hw_gpr_write(hv, mov.reg, value, mov.to_size);
        return;
    }
    *gpr = mov.to_size == 4 ? (uint32_t)value : value;
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
    const struct hw_mov mov = line->mov;
    uint64_t value = line->insn.imm;

    if (mov.kind == HW_MOV_WRITE)
        value = hw_state(hv, mov.reg == VIRTX_RSP ? VIRTX_STATE_RSP : 0)->gpr[mov.reg] >> mov.high;
    return value & hw_size_mask(mov.size);
}

bool hw_mmio(struct hw_vcpu *hv, enum virtx_status *status)
{
    struct virtx_exit *exit = &hv->vcpu->exit;
    struct hw_soft *soft = hv->soft;
    const struct hw_line *line;
    struct hw_fetch fetch;
    struct hw_mov mov;
    uint64_t gpa = hv->fault.gpa;

    if (unlikely(hv->has_reinject || hv->fault.access == VIRTX_EXECUTE))
        return hw_emulation_exit(hv, NULL, 0);
    if (unlikely(hv->fault.table_walk))
        return hw_memory_exit(hv);
    line = hw_code(hv, &fetch);
    if (unlikely(!line))
        return undecoded(hv, &fetch);
    mov = line->mov;
    if (unlikely(mov.kind == HW_MOV_NONE || mov.access != hv->fault.access ||
                 !starts_here(hv, line)))
        return hw_execute_insn(hv, &line->insn, status);

    soft->mov = mov;
    hv->pending.kind = HW_PENDING_SIMPLE;
    exit->reason = VIRTX_EXIT_MMIO;
    exit->length = mov.length;
    exit->rip = hv->state.rip;
    exit->mmio.gpa = gpa;
    exit->mmio.size = mov.size;
    exit->mmio.access = mov.access;
    exit->mmio.value = mov.access == VIRTX_WRITE ? value_written(hv, line) : UINT64_MAX;
    if (gpa + mov.size - 1 < soft->mmio_first || gpa > soft->mmio_last)
        return hw_to_loop(hv, true);
    return hw_offer(hv, status);
}

/* The record holds the answer. As hw_complete(). */
enum virtx_status hw_mmio_complete(struct hw_vcpu *hv, const void *value)
{
    struct virtx_exit_mmio *mmio = &hv->vcpu->exit.mmio;

    if (unlikely(hv->pending.kind != HW_PENDING_SIMPLE)) {
        if (value && mmio->access == VIRTX_READ)
            mmio->value = load(value, mmio->size);
        return hw_execute_continue(hv);
    }
    hv->pending.kind = HW_PENDING_NONE;
    hv->vcpu->stats.instructions++;
    if (mmio->access == VIRTX_READ) {
        const struct hw_mov mov = hv->soft->mov;

        complete_read(hv, mov, value ? load(value, mov.size) : mmio->value);
    }
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
    return hw_to_loop(hv, false);
}

/* The guest's own page fault (shadow engines): an exception like any other. */
static bool own_page_fault(struct hw_vcpu *hv, enum virtx_status *status)
{
    struct virtx_exit *exit = &hv->vcpu->exit;

    exit->reason = VIRTX_EXIT_EXCEPTION;
    exit->exception = (struct virtx_exit_exception){
        .vector = VECTOR_PF, .has_error = true, .error = hv->fault.error, .address = hv->fault.gva};
    return hw_offer(hv, status);
}

/*
 * Remembers the hole between the slots that the access fell into. Nested engines only: with others
 * the address is not there before the engine has found it.
 */
static __attribute__((noinline)) void remember_hole(struct hw_vcpu *hv)
{
    struct hw_soft *soft = hv->soft;
    struct virtx_vm *vm = hv->vcpu->vm;
    uint64_t generation = atomic_load_explicit(&vm->generation, memory_order_acquire);
    const struct slot_table *slots = virtx_slots(vm);
    uint64_t gpa = hv->fault.gpa, first = 0, end = 0;

    if (!vm->paging->nested || virtx_slot_find(slots, gpa))
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
    soft->hole_generation = generation;
    soft->hole_slots = slots;
}

static __attribute__((noinline)) bool page_fault(struct hw_vcpu *hv, enum virtx_status *status)
{
    struct virtx_vcpu *vcpu = hv->vcpu;

    switch (vcpu->vm->paging->fault(vcpu, &hv->fault)) {
    case VIRTX_FAULT_RESUME:
        vcpu->stats.faults_mapped++;
        return true;
    case VIRTX_FAULT_NOT_MEMORY:
        remember_hole(hv);
        return hw_mmio(hv, status);
    case VIRTX_FAULT_EXECUTE:
        return hw_execute(hv, status);
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

/*
 * The table of slots cannot be another one at the same address while the generation is the same: an
 * old table is freed only after its own.
 */
bool hw_page_fault(struct hw_vcpu *hv, enum virtx_status *status)
{
    const struct hw_soft *soft = hv->soft;
    struct virtx_vm *vm = hv->vcpu->vm;

    if (hv->fault.gpa - soft->hole_first < soft->hole_bytes &&
        atomic_load_explicit(&vm->generation, memory_order_acquire) == soft->hole_generation &&
        virtx_slots(vm) == soft->hole_slots && likely(!hv->fault.misconfigured))
        return hw_mmio(hv, status);
    return page_fault(hv, status);
}
