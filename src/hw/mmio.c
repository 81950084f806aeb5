/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Nested faults: those the engine mends, those that are devices, and the access to the device.
 *
 * A plain MOV with one memory operand, nearly every access to a device, is recognized by the decoder
 * and completed here: the processor has said the guest-physical address already. Everything else
 * goes to the executor (execute.c).
 */
#include "hw/service.h"
#include "hw/emulation.h"

enum virtx_status hw_mmio_create(struct hw_vcpu *hv)
{
    _Static_assert(sizeof(struct hw_emulation) <= VIRTX_PAGE_SIZE, "one page is allocated");
    hv->emulation = virtx_pages_alloc(hv->vcpu->virtx, 1);
    if (!hv->emulation)
        return virtx_fail(&hv->vcpu->error, VIRTX_E_NO_MEMORY, "vcpu",
                          "the host has no pages left", 1);
    return VIRTX_OK;
}

void hw_mmio_destroy(struct hw_vcpu *hv)
{
    virtx_pages_free(hv->vcpu->virtx, hv->emulation, 1);
    hv->emulation = NULL;
}

/* Recognizes the simple forms. */
static struct hw_mov simple(const struct insn *insn)
{
    const struct insn_operand *to = &insn->operand[0], *from = &insn->operand[1], *reg = NULL;
    struct hw_mov mov = {.kind = HW_MOV_NONE, .length = insn->length};

    if (insn->op != INSN_OP_MOV && insn->op != INSN_OP_MOVZX && insn->op != INSN_OP_MOVSX)
        return mov;
    if (insn->prefixes & (INSN_PREFIX_LOCK | INSN_PREFIX_REP | INSN_PREFIX_REPNE))
        return mov;
    if (from->kind == INSN_MEM) {
        mov.kind = insn->op == INSN_OP_MOVSX ? HW_MOV_SIGN : HW_MOV_READ;
        mov.size = from->size;
        mov.to_size = to->size;
        reg = to;
    } else if (to->kind == INSN_MEM) {
        mov.kind = from->kind == INSN_IMM ? HW_MOV_IMMEDIATE : HW_MOV_WRITE;
        mov.size = to->size;
        reg = from;
    }
    if (reg && reg->kind == INSN_REG_HIGH)
        mov.high = 8;
    else if (reg && reg->kind != INSN_REG && mov.kind != HW_MOV_IMMEDIATE)
        mov.kind = HW_MOV_NONE; /* a segment register */
    if (reg)
        mov.reg = reg->reg & 15;
    return mov;
}

/* Decodes into a line. False: not an instruction, or not all of it is there. */
static __attribute__((noinline)) bool decode(struct hw_decoded *line, const uint8_t *bytes,
                                             unsigned got, enum insn_mode mode)
{
    uint8_t copy[16] = {0};

    memcpy(copy, bytes, got);
    line->low_mask = line->high_mask = 0;
    line->mode = HW_DECODED_NONE;
    if (insn_decode(&line->insn, copy, got, mode) != INSN_OK)
        return false;
    line->mov = simple(&line->insn);
    if (got < 15)
        return true; /* for this once */
    memcpy(&line->low, copy, sizeof(line->low));
    memcpy(&line->high, copy + 7, sizeof(line->high));
    line->mode = 1 + (uint32_t)mode;
    line->low_mask =
        line->insn.length >= 8 ? UINT64_MAX : (1ull << line->insn.length * 8) - 1;
    line->high_mask = line->insn.length <= 7 ? 0 : UINT64_MAX >> (15 - line->insn.length) * 8;
    return true;
}

/*
 * The decoder's answer for these bytes. What was decoded before is found again by its bytes, never by
 * its address alone: the guest may change its code without telling anybody.
 */
static inline const struct hw_decoded *decoded(struct hw_emulation *em, const uint8_t *bytes,
                                               unsigned got, enum insn_mode mode, uint64_t rip)
{
    struct hw_decoded *line = &em->decoded[(rip ^ rip >> 3) % HW_DECODED_LINES];
    uint64_t low, high;

    __builtin_memcpy(&low, bytes, sizeof(low));
    __builtin_memcpy(&high, bytes + 7, sizeof(high));
    if (likely(got == 15 && line->mode == 1 + (uint32_t)mode &&
               !((low ^ line->low) & line->low_mask) && !((high ^ line->high) & line->high_mask)))
        return line;
    return decode(line, bytes, got, mode) ? line : NULL;
}

static void complete_simple(struct hw_vcpu *hv)
{
    const struct hw_mov mov = hv->soft->mov;
    uint64_t value = hv->vcpu->exit.mmio.value;
    unsigned unused = 64 - 8u * mov.size;

    hv->vcpu->stats.instructions++;
    if (mov.kind >= HW_MOV_READ) {
        if (mov.kind == HW_MOV_SIGN)
            value = (uint64_t)((int64_t)(value << unused) >> unused);
        else
            value = value << unused >> unused;
        if (likely(!mov.high))
            hw_gpr_write(hv, mov.reg, value, mov.to_size);
        else
            hv->state.gpr[mov.reg] =
                (hv->state.gpr[mov.reg] & ~0xff00ull) | (value & 0xff) << 8;
    }
    hw_retire(hv);
}

/* Whether the access is of this size and at the address that the processor named: it may also be the
 * second half of one that straddles into this page. */
static inline bool starts_here(struct hw_vcpu *hv, const struct hw_decoded *line)
{
    uint64_t offset = hv->fault.gpa & (VIRTX_PAGE_SIZE - 1);

    if (offset + line->mov.size > VIRTX_PAGE_SIZE)
        return false;
    return offset != 0 || line->mov.size == 1 || hw_operand_offset(hv, &line->insn) == 0;
}

/* The bytes are no instruction that the decoder knows, or not all of them could be had. */
static __attribute__((noinline)) bool undecoded(struct hw_vcpu *hv, const uint8_t *bytes,
                                                unsigned got, const struct virtx_event *event,
                                                enum hw_access_result result)
{
    if (result == HW_ACCESS_FAULT) {
        hw_raise(hv, event);
        return true;
    }
    return hw_emulation_exit(hv, bytes, got);
}

bool hw_mmio(struct hw_vcpu *hv, enum virtx_status *status)
{
    struct virtx_exit *exit = &hv->vcpu->exit;
    struct hw_soft *soft = hv->soft;
    const struct hw_decoded *line;
    struct virtx_event event;
    enum hw_access_result result;
    enum insn_mode mode;
    uint8_t bytes[16];
    uint64_t value = UINT64_MAX;
    struct hw_mov mov;
    unsigned got;
    bool write;

    if (unlikely(hv->has_reinject || hv->fault.access == VIRTX_EXECUTE))
        return hw_emulation_exit(hv, NULL, 0);
    if (unlikely(hv->fault.table_walk))
        return hw_memory_exit(hv);
    got = hw_fetch_event(hv, bytes, &mode, &event, &result);
    line = decoded(hv->emulation, bytes, got, mode, hv->state.rip);
    if (unlikely(!line))
        return undecoded(hv, bytes, got, &event, result);
    mov = line->mov;
    write = mov.kind < HW_MOV_READ;
    if (unlikely(mov.kind == HW_MOV_NONE || write != (hv->fault.access == VIRTX_WRITE) ||
                 !starts_here(hv, line)))
        return hw_execute_insn(hv, &line->insn, bytes, got, status);

    if (mov.kind == HW_MOV_IMMEDIATE)
        value = line->insn.imm & hw_size_mask(mov.size);
    else if (write)
        value = hw_state(hv, mov.reg == VIRTX_RSP ? VIRTX_STATE_RSP : 0)->gpr[mov.reg] >>
                    mov.high & hw_size_mask(mov.size);
    soft->mov = mov;
    hv->pending.kind = HW_PENDING_SIMPLE;
    exit->reason = VIRTX_EXIT_MMIO;
    exit->length = mov.length;
    exit->rip = hv->state.rip;
    exit->mmio.gpa = hv->fault.gpa;
    exit->mmio.size = mov.size;
    exit->mmio.access = write ? VIRTX_WRITE : VIRTX_READ;
    exit->mmio.value = value;
    if (hv->fault.gpa + mov.size - 1 < soft->mmio_first || hv->fault.gpa > soft->mmio_last)
        return hw_to_loop(hv, true);
    return hw_offer(hv, status);
}

/* The record holds the answer. As hw_complete(). */
enum virtx_status hw_mmio_complete(struct hw_vcpu *hv, const void *value)
{
    struct virtx_exit_mmio *mmio = &hv->vcpu->exit.mmio;

    if (value && mmio->access == VIRTX_READ) {
        mmio->value = 0;
        memcpy(&mmio->value, value, mmio->size);
    }
    if (hv->pending.kind == HW_PENDING_SIMPLE) {
        hv->pending.kind = HW_PENDING_NONE;
        complete_simple(hv);
        return VIRTX_OK;
    }
    return hw_execute_continue(hv);
}

void hw_mmio_abandon(struct hw_vcpu *hv)
{
    struct hw_emulation *em = hv->emulation;

    hv->pending.kind = HW_PENDING_NONE;
    em->replay.count = 0;
}

/* The slot forbids it, or its page is away: the embedder may change that, and the guest tries again. */
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
    exit->exception = (struct virtx_exit_exception){.vector = VECTOR_PF,
                                                    .has_error = true,
                                                    .error = hv->fault.error,
                                                    .address = hv->fault.gva};
    return hw_offer(hv, status);
}

bool hw_page_fault(struct hw_vcpu *hv, enum virtx_status *status)
{
    struct virtx_vcpu *vcpu = hv->vcpu;

    switch (vcpu->vm->paging->fault(vcpu, &hv->fault)) {
    case VIRTX_FAULT_RESUME:
        vcpu->stats.faults_mapped++;
        return true;
    case VIRTX_FAULT_NOT_MEMORY:
        return hw_mmio(hv, status);
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
