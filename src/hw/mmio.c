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

/*
 * The decoder's answer for these bytes. What was decoded before is found again by its bytes, never by
 * its address alone: the guest may change its code without telling anybody.
 */
static const struct insn *decoded(struct hw_emulation *em, const uint8_t *bytes, unsigned got,
                                  enum insn_mode mode, uint64_t rip)
{
    struct hw_decoded *line = &em->decoded[(rip ^ rip >> 3) % HW_DECODED_LINES];
    uint64_t low, high;

    if (unlikely(got < 15)) {
        memset(em->bytes + got, 0, sizeof(em->bytes) - got);
        memcpy(em->bytes, bytes, got);
        if (insn_decode(&em->insn, em->bytes, got, mode) != INSN_OK)
            return NULL;
        return &em->insn;
    }
    __builtin_memcpy(&low, bytes, sizeof(low));
    __builtin_memcpy(&high, bytes + 7, sizeof(high));
    if (likely(((low ^ line->low) & line->low_mask) == 0 &&
               ((high ^ line->high) & line->high_mask) == 0 && line->mode == mode &&
               line->insn.length))
        return &line->insn;
    if (insn_decode(&line->insn, bytes, got, mode) != INSN_OK) {
        line->insn.length = 0;
        return NULL;
    }
    line->low = low;
    line->high = high;
    line->mode = (uint8_t)mode;
    line->low_mask = line->insn.length >= 8 ? UINT64_MAX : (1ull << line->insn.length * 8) - 1;
    line->high_mask =
        line->insn.length <= 7 ? 0 : UINT64_MAX >> (15 - line->insn.length) * 8;
    return &line->insn;
}

/* Recognizes the simple forms. */
static bool simple(const struct insn *insn, struct hw_mov *mov, uint64_t *value,
                   const struct hw_vcpu *hv)
{
    const struct insn_operand *to = &insn->operand[0], *from = &insn->operand[1];

    if (insn->op != INSN_OP_MOV && insn->op != INSN_OP_MOVZX && insn->op != INSN_OP_MOVSX)
        return false;
    if (insn->prefixes & (INSN_PREFIX_LOCK | INSN_PREFIX_REP | INSN_PREFIX_REPNE))
        return false;
    if (from->kind == INSN_MEM) {
        mov->kind = insn->op == INSN_OP_MOVZX   ? HW_MOV_ZERO
                    : insn->op == INSN_OP_MOVSX ? HW_MOV_SIGN
                                                : HW_MOV_READ;
        mov->reg = to->reg;
        mov->high = to->kind == INSN_REG_HIGH;
        mov->size = from->size;
        mov->to_size = to->size;
        return to->kind == INSN_REG || to->kind == INSN_REG_HIGH;
    }
    if (to->kind != INSN_MEM)
        return false;
    mov->kind = HW_MOV_WRITE;
    mov->size = to->size;
    if (from->kind == INSN_REG)
        *value = hv->state.gpr[from->reg];
    else if (from->kind == INSN_REG_HIGH)
        *value = hv->state.gpr[from->reg] >> 8;
    else if (from->kind == INSN_IMM)
        *value = insn->imm;
    else
        return false;
    if (to->size < 8)
        *value &= (1ull << to->size * 8) - 1;
    return true;
}

/* The source is RSP, which the vendor may not have read yet. */
static bool uses_rsp(const struct insn *insn)
{
    return insn->operand[1].kind == INSN_REG && insn->operand[1].reg == VIRTX_RSP;
}

static void complete_simple(struct hw_vcpu *hv)
{
    const struct hw_mov *mov = &hv->soft->mov;
    uint64_t value = hv->vcpu->exit.mmio.value;
    unsigned unused = 64 - 8u * mov->size;

    if (mov->kind == HW_MOV_SIGN)
        value = (uint64_t)((int64_t)(value << unused) >> unused);
    else
        value = value << unused >> unused;
    if (mov->kind == HW_MOV_WRITE)
        ;
    else if (mov->high)
        hv->state.gpr[mov->reg] =
            (hv->state.gpr[mov->reg] & ~0xff00ull) | (value & 0xff) << 8;
    else
        hw_gpr_write(hv, mov->reg, value, mov->to_size);
    hv->vcpu->stats.instructions++;
    hw_retire(hv);
}

/* The access starts where the processor says only if it does not straddle into this page. */
static bool starts_here(struct hw_vcpu *hv, const struct insn *insn, unsigned size)
{
    uint64_t offset = hv->fault.gpa & (VIRTX_PAGE_SIZE - 1);

    if (offset + size > VIRTX_PAGE_SIZE)
        return false;
    if (offset != 0 || size == 1)
        return true;
    return hw_operand_offset(hv, insn) == 0;
}

bool hw_mmio(struct hw_vcpu *hv, enum virtx_status *status)
{
    struct virtx_exit *exit = &hv->vcpu->exit;
    struct hw_emulation *em = hv->emulation;
    struct virtx_event event;
    enum hw_access_result result;
    const struct insn *insn;
    enum insn_mode mode;
    uint8_t bytes[16];
    uint64_t value = 0;
    unsigned got;

    if (hv->has_reinject || hv->fault.access == VIRTX_EXECUTE)
        return hw_emulation_exit(hv, NULL, 0);
    if (hv->fault.table_walk)
        return hw_memory_exit(hv);
    got = hw_fetch_event(hv, bytes, &mode, &event, &result);
    insn = decoded(em, bytes, got, mode, hv->state.rip);
    if (!insn) {
        if (result == HW_ACCESS_FAULT) {
            hw_raise(hv, &event);
            return true;
        }
        return hw_emulation_exit(hv, bytes, got);
    }
    if (unlikely(uses_rsp(insn)))
        hw_state(hv, VIRTX_STATE_RSP);
    if (!simple(insn, &hv->soft->mov, &value, hv) ||
        (hv->soft->mov.kind == HW_MOV_WRITE) != (hv->fault.access == VIRTX_WRITE) ||
        !starts_here(hv, insn, hv->soft->mov.size))
        return hw_execute_insn(hv, insn, bytes, got, status);

    exit->reason = VIRTX_EXIT_MMIO;
    exit->length = insn->length;
    exit->rip = hv->state.rip;
    exit->mmio.gpa = hv->fault.gpa;
    exit->mmio.size = hv->soft->mov.size;
    exit->mmio.access = hv->soft->mov.kind == HW_MOV_WRITE ? VIRTX_WRITE : VIRTX_READ;
    exit->mmio.value = hv->soft->mov.kind == HW_MOV_WRITE ? value : UINT64_MAX;
    hv->pending.kind = HW_PENDING_SIMPLE;
    if (exit->mmio.gpa + exit->mmio.size - 1 < hv->soft->mmio_first ||
        exit->mmio.gpa > hv->soft->mmio_last)
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
