/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What an exit does not say where the processor has no next-RIP or no decode assists: the
 * instruction at RIP is fetched and looked at.
 *
 * Another vcpu, or the guest's own page tables, may have changed under it since it exited. Then
 * the record is HW_EXIT_HOST and the guest simply meets the instruction again.
 */
#include "hw/service.h"
#include "insn/insn.h"
#include "svm/svm.h"

/* The instruction that exited; its length goes into the record. NULL: it is not there any more. */
static const struct insn *decode(struct svm_vcpu *sv, struct virtx_exit *exit)
{
    const struct insn *insn = hw_insn(&sv->hw);

    if (unlikely(!insn)) {
        exit->reason = HW_EXIT_HOST;
        return NULL;
    }
    exit->length = insn->length;
    return insn;
}

void svm_length(struct svm_vcpu *sv, struct virtx_exit *exit)
{
    decode(sv, exit);
}

static uint64_t size_mask(unsigned bytes)
{
    return bytes >= 8 ? UINT64_MAX : (1ull << bytes * 8) - 1;
}

/* Linear address of the memory operand. */
static uint64_t linear(struct svm_vcpu *sv, const struct insn *insn)
{
    const struct virtx_state *state =
        hw_state(&sv->hw, insn->mem.base == VIRTX_RSP ? VIRTX_STATE_RSP : 0);
    uint64_t offset = (uint64_t)insn->disp;

    if (insn->mem.base < VIRTX_GPR_COUNT)
        offset += state->gpr[insn->mem.base];
    else if (insn->mem.base == INSN_BASE_RIP)
        offset += state->rip + insn->length;
    if (insn->mem.index < VIRTX_GPR_COUNT)
        offset += state->gpr[insn->mem.index] << insn->mem.scale;
    offset &= size_mask(insn->address_size);
    if (insn->mode != INSN_64)
        return (uint32_t)(offset + hw_state(&sv->hw, VIRTX_STATE_SEG)->seg[insn->mem.segment].base);
    if (insn->mem.segment == INSN_FS || insn->mem.segment == INSN_GS)
        offset += hw_state(&sv->hw, VIRTX_STATE_SEG)->seg[insn->mem.segment].base;
    return offset;
}

static uint64_t gpr(struct svm_vcpu *sv, unsigned reg)
{
    uint64_t value = hw_state(&sv->hw, reg == VIRTX_RSP ? VIRTX_STATE_RSP : 0)->gpr[reg];

    return svm_is_64bit(sv) ? value : (uint32_t)value;
}

/* ---- Control registers ---- */

/* Guest memory of an operand; not there any more: the instruction will find that out by itself. */
static bool read_operand(struct svm_vcpu *sv, const struct insn *insn, uint16_t *value)
{
    struct virtx_event event;

    if (insn->operand[0].kind == INSN_REG) {
        *value = (uint16_t)gpr(sv, insn->operand[0].reg);
        return true;
    }
    return hw_linear_read(&sv->hw, linear(sv, insn), value, sizeof(*value), &event) == HW_ACCESS_OK;
}

/* CLTS, and LMSW, which loads the low four bits and cannot clear PE. */
static void cr0_by_other_means(struct svm_vcpu *sv, struct virtx_exit *exit,
                               const struct insn *insn)
{
    const uint64_t low = CR0_MP | CR0_EM | CR0_TS;
    uint64_t cr0 = hw_state(&sv->hw, VIRTX_STATE_CR)->cr0;
    uint16_t msw = 0;

    exit->cr.gpr = 0xff;
    if (insn->op == INSN_OP_CLTS)
        exit->cr.value = cr0 & ~CR0_TS;
    else if (read_operand(sv, insn, &msw))
        exit->cr.value = (cr0 & ~low) | (msw & (low | CR0_PE));
    else
        exit->reason = HW_EXIT_HOST;
}

/* SMSW reads CR0 and may store to memory: done here at once. */
static void store_msw(struct svm_vcpu *sv, struct virtx_exit *exit, const struct insn *insn)
{
    struct hw_vcpu *hv = &sv->hw;
    uint64_t cr0 = hw_state(hv, VIRTX_STATE_CR)->cr0;
    struct virtx_event event;

    exit->reason = HW_EXIT_HOST;
    if (insn->operand[0].kind == INSN_REG)
        hw_gpr_write(hv, insn->operand[0].reg, cr0, insn->operand_size);
    else if (hw_linear_write(hv, linear(sv, insn), &cr0, 2, &event) != HW_ACCESS_OK)
        return;
    svm_advance(hv);
}

/* One engine has changed EFER.LMA before a write of CR0.PG exits, which then has not been done.
 * LMA follows from LME and PG (AMD APM volume 2, "Long-Mode Active (LMA) Bit"). */
static void mend_long_mode(struct svm_vcpu *sv)
{
    struct vmcb_save *save = &sv->vmcb.save;

    save->efer &= ~EFER_LMA;
    if ((save->efer & EFER_LME) && (save->cr0 & CR0_PG))
        save->efer |= EFER_LMA;
}

void svm_decode_cr(struct svm_vcpu *sv, struct virtx_exit *exit)
{
    uint64_t code = exit->raw.code, info = sv->vmcb.control.exit_info1;
    const struct insn *insn;

    exit->reason = VIRTX_EXIT_CR;
    exit->cr.reg = code == VMEXIT_CR0_SELECTIVE ? 0 : (uint8_t)(code & 0xf);
    exit->cr.access = code < VMEXIT_CR0_WRITE ? VIRTX_READ : VIRTX_WRITE;
    if (exit->cr.reg == 0 && exit->cr.access == VIRTX_WRITE)
        mend_long_mode(sv);
    if (sv->decode_assist && (info & VMCB_CR_MOV)) {
        exit->cr.gpr = (uint8_t)(info & 0xf);
        exit->length = (uint8_t)(sv->vmcb.control.next_rip - exit->rip);
        if (exit->cr.access == VIRTX_WRITE)
            exit->cr.value = gpr(sv, exit->cr.gpr);
        return;
    }
    insn = decode(sv, exit);
    if (!insn)
        return;
    switch (insn->op) {
    case INSN_OP_MOV_CR:
        exit->cr.gpr = insn->operand[exit->cr.access == VIRTX_READ ? 0 : 1].reg;
        if (exit->cr.access == VIRTX_WRITE)
            exit->cr.value = gpr(sv, exit->cr.gpr);
        break;
    case INSN_OP_CLTS:
    case INSN_OP_LMSW:
        cr0_by_other_means(sv, exit, insn);
        break;
    case INSN_OP_SMSW:
        store_msw(sv, exit, insn);
        break;
    default:
        exit->reason = HW_EXIT_HOST;
        break;
    }
}

void svm_decode_dr(struct svm_vcpu *sv, struct virtx_exit *exit)
{
    uint64_t code = exit->raw.code;
    const struct insn *insn;

    exit->reason = VIRTX_EXIT_DR;
    exit->cr.reg = (uint8_t)(code & 0xf);
    exit->cr.access = code < VMEXIT_DR0_WRITE ? VIRTX_READ : VIRTX_WRITE;
    if (sv->decode_assist) {
        exit->cr.gpr = (uint8_t)(sv->vmcb.control.exit_info1 & 0xf);
        exit->length = (uint8_t)(sv->vmcb.control.next_rip - exit->rip);
    } else {
        insn = decode(sv, exit);
        if (!insn)
            return;
        if (insn->op != INSN_OP_MOV_DR) {
            exit->reason = HW_EXIT_HOST;
            return;
        }
        exit->cr.gpr = insn->operand[exit->cr.access == VIRTX_READ ? 0 : 1].reg;
    }
    if (exit->cr.access == VIRTX_WRITE)
        exit->cr.value = gpr(sv, exit->cr.gpr);
}

/* ---- Others ---- */

void svm_decode_invlpg(struct svm_vcpu *sv, struct virtx_exit *exit)
{
    const struct insn *insn;

    if (sv->decode_assist) {
        exit->instruction.operand = sv->vmcb.control.exit_info1;
        exit->length = (uint8_t)(sv->vmcb.control.next_rip - exit->rip);
        return;
    }
    insn = decode(sv, exit);
    if (insn)
        exit->instruction.operand = linear(sv, insn);
}

/* One engine reports INVD as WBINVD. */
void svm_decode_wbinvd(struct svm_vcpu *sv, struct virtx_exit *exit)
{
    const struct insn *insn = decode(sv, exit);

    if (insn && insn->op == INSN_OP_INVD)
        exit->instruction.which = VIRTX_INSN_INVD;
}
