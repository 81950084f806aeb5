/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Intercepted instructions that nobody has another idea about: what the processor would have done,
 * or #UD and #GP for what the guest is not to have.
 */
#include "hw/service.h"
#include "insn/insn.h"

#define RFLAGS_STATUS 0x8d5ull /* OF is apart: bit 11 is in 0x800 */

static bool undefined(struct hw_vcpu *hv)
{
    hw_raise_vector(hv, VECTOR_UD);
    return true;
}

static bool done(struct hw_vcpu *hv)
{
    hv->ops->advance(hv);
    return true;
}

static bool rdtsc(struct hw_vcpu *hv, bool with_aux)
{
    uint64_t tsc = x86_rdtsc() + hv->tsc_offset;

    if (with_aux && !hv->soft->policy.has_tsc_aux)
        return undefined(hv);
    hv->state.gpr[VIRTX_RAX] = (uint32_t)tsc;
    hv->state.gpr[VIRTX_RDX] = tsc >> 32;
    if (with_aux)
        hv->state.gpr[VIRTX_RCX] = (uint32_t)hw_state(hv, VIRTX_STATE_MSR)->tsc_aux;
    return done(hv);
}

static bool guest_has(struct hw_vcpu *hv, uint32_t leaf, unsigned word, unsigned bit)
{
    struct virtx_cpuid_entry entry;
    uint32_t words[3];

    virtx_cpuid_lookup(hv->vcpu, leaf, 0, &entry);
    words[0] = entry.ebx;
    words[1] = entry.ecx;
    words[2] = entry.edx;
    return words[word] >> bit & 1;
}

/* All of the tag is at least what INVLPG and any type of INVPCID ask for (Intel SDM "INVPCID—Invalidate
 * Process-Context Identifier"). */
void hw_invalidate(struct hw_vcpu *hv, uint32_t which, uint64_t address)
{
    struct virtx_vcpu *vcpu = hv->vcpu;
    const struct virtx_paging *paging = vcpu->vm->paging;
    const struct virtx_state *state;

    if (which == VIRTX_INSN_INVLPG && paging->invlpg) {
        paging->invlpg(vcpu, address);
    } else if (paging->control_changed) {
        state = hw_state(hv, VIRTX_STATE_CR);
        paging->control_changed(vcpu, state->cr0, state->cr4, state->efer);
        hv->work |= HW_WORK_ROOT;
    }
    if (paging->nested) /* else the engine has said what there is to flush */
        hw_owe(hv, HW_FLUSH_TAG);
}

#ifdef VIRTX_UNIT
bool mock_random(bool seed, uint64_t *value);
#define random_word mock_random
#else
static bool random_word(bool seed, uint64_t *value)
{
    bool good;

    if (seed)
        __asm__ volatile("rdseed %0" : "=r"(*value), "=@ccc"(good));
    else
        __asm__ volatile("rdrand %0" : "=r"(*value), "=@ccc"(good));
    return good;
}
#endif

static bool random_exit(struct hw_vcpu *hv, bool seed)
{
    const struct insn *insn;
    uint64_t value = 0, *rflags;
    bool good;

    if (!(seed ? guest_has(hv, 7, 0, 18) : guest_has(hv, 1, 1, 30)))
        return undefined(hv);
    insn = hw_insn(hv);
    if (!insn || (insn->op != INSN_OP_RDRAND && insn->op != INSN_OP_RDSEED))
        return true; /* the code has changed under us: run what is there now */
    good = random_word(seed, &value);
    hw_gpr_write(hv, insn->operand[0].reg, good ? value : 0, insn->operand[0].size);
    rflags = &hw_change(hv, VIRTX_STATE_RFLAGS)->rflags;
    *rflags = (*rflags & ~RFLAGS_STATUS) | good;
    return done(hv);
}

bool hw_instruction_default(struct hw_vcpu *hv, enum virtx_status *status)
{
    const struct virtx_exit_instruction *instruction = &hv->vcpu->exit.instruction;

    switch (instruction->which) {
    case VIRTX_INSN_RDTSC:
        return rdtsc(hv, false);
    case VIRTX_INSN_RDTSCP:
        return rdtsc(hv, true);
    case VIRTX_INSN_RDPMC: /* no counter exists */
        hw_raise_error(hv, VECTOR_GP, 0);
        return true;
    case VIRTX_INSN_INVLPG:
        hw_invalidate(hv, instruction->which, instruction->operand);
        return done(hv);
    case VIRTX_INSN_INVPCID:
        if (!guest_has(hv, 7, 0, 10))
            return undefined(hv);
        hw_invalidate(hv, instruction->which, 0);
        return done(hv);
    case VIRTX_INSN_INVD:   /* would throw away what the host has written */
    case VIRTX_INSN_WBINVD: /* caches are coherent with all that the guest can reach */
    case VIRTX_INSN_PAUSE:
        return done(hv);
    case VIRTX_INSN_MONITOR:
    case VIRTX_INSN_MWAIT: /* may always end at once */
        return guest_has(hv, 1, 1, 3) ? done(hv) : undefined(hv);
    case VIRTX_INSN_XSETBV:
        if (hw_xsetbv(hv, (uint32_t)instruction->operand, instruction->value))
            hv->ops->advance(hv);
        return true;
    case VIRTX_INSN_VMX:
    case VIRTX_INSN_SVM:
    case VIRTX_INSN_GETSEC:
    case VIRTX_INSN_SKINIT:
    case VIRTX_INSN_RSM:
        return undefined(hv);
    case VIRTX_INSN_RDRAND:
        return random_exit(hv, false);
    case VIRTX_INSN_RDSEED:
        return random_exit(hv, true);
    default: /* descriptor tables, flags, interrupts */
        return hw_execute(hv, status);
    }
}
