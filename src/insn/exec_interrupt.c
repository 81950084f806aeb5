/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Software interrupts, and the delivery of events (Intel SDM, "Real-Address Mode: Interrupt and
 * Exception Handling", "INT n/INTO/INT3/INT1: Call to Interrupt Procedure", "Exception and
 * Interrupt Handling in 64-bit Mode").
 */
#include "insn/segment.h"

/* One delivery in protected mode. */
struct delivery {
    const struct insn_event *event;
    uint64_t rip;
    struct descriptor gate, code;
    unsigned ext;  /* bit 0 of error codes: not the program's own doing */
    unsigned size; /* of what is pushed */
};

/* Through the real-mode vector table. */
static enum insn_result deliver_real(struct exec *exec, unsigned vector, uint64_t rip)
{
    const struct insn_cpu *cpu = exec->cpu;
    enum insn_result result;
    uint16_t entry[2];

    if (vector * 4 + 3 > cpu->idtr.limit)
        return raise_code(exec, VECTOR_GP, vector * 8 + 2);
    result = read_memory(exec, cpu->idtr.base + vector * 4ull, entry, 4, INSN_ACCESS_SYSTEM);
    if (!result)
        result = push_value(exec, cpu->rflags, 2);
    if (!result)
        result = push_value(exec, cpu->seg[INSN_CS].selector, 2);
    if (!result)
        result = push_value(exec, rip, 2);
    if (!result)
        result = jump_far(exec, entry[1], entry[0]);
    stage_flags(exec, FLAG_IF | FLAG_TF | FLAG_AC | FLAG_RF, 0);
    return result;
}

/* ---- Protected mode ---- */

static bool gate_type(const struct exec *exec, unsigned type)
{
    if (type == TYPE_INTERRUPT || type == TYPE_TRAP)
        return true;
    return !long_mode(exec) &&
           (type == TYPE_INTERRUPT_16 || type == TYPE_TRAP_16 || type == TYPE_TASK_GATE);
}

static enum insn_result read_gate(struct exec *exec, struct delivery *d)
{
    const struct insn_cpu *cpu = exec->cpu;
    unsigned vector = d->event->vector, size = long_mode(exec) ? 16 : 8;
    uint32_t code = vector * 8 + 2 + d->ext;
    enum insn_result result;
    uint64_t words[2] = {0, 0};

    if (vector * size + size - 1 > cpu->idtr.limit)
        return raise_code(exec, VECTOR_GP, code);
    result = read_memory(exec, cpu->idtr.base + vector * size, words, size, INSN_ACCESS_SYSTEM);
    if (result)
        return result;
    d->gate.low = words[0];
    d->gate.high = words[1];
    d->gate.seg = (struct insn_seg){.attributes = words[0] >> 40 & 0xff};
    if (!gate_type(exec, system_type(&d->gate.seg)))
        return raise_code(exec, VECTOR_GP, code);
    if (d->event->type == INSN_EVENT_SOFTWARE && dpl(&d->gate.seg) < cpu->cpl)
        return raise_code(exec, VECTOR_GP, code);
    if (!(d->gate.seg.attributes & AR_PRESENT))
        return raise_code(exec, VECTOR_NP, code);
    d->size = long_mode(exec) ? 8 : d->gate.seg.attributes & 8 ? 4 : 2;
    return INSN_OK;
}

static enum insn_result read_handler(struct exec *exec, struct delivery *d)
{
    uint16_t selector = (uint16_t)(d->gate.low >> 16);
    const struct insn_seg *seg = &d->code.seg;
    bool conforming;
    enum insn_result result;

    if (is_null(selector))
        return raise_code(exec, VECTOR_GP, d->ext);
    result = read_descriptor(exec, selector, VECTOR_GP, d->ext, &d->code);
    if (result)
        return result;
    conforming = seg->attributes & AR_CONFORMING;
    if (!is_code(seg) || dpl(seg) > exec->cpu->cpl)
        return raise_code(exec, VECTOR_GP, code_of(selector) | d->ext);
    if (long_mode(exec) && (seg->attributes & (AR_LONG | AR_BIG)) != AR_LONG)
        return raise_code(exec, VECTOR_GP, code_of(selector) | d->ext);
    if (virtual_8086(exec->cpu) && (conforming || dpl(seg)))
        return raise_code(exec, VECTOR_GP, code_of(selector) | d->ext);
    if (!(seg->attributes & AR_PRESENT))
        return raise_code(exec, VECTOR_NP, code_of(selector) | d->ext);
    return INSN_OK;
}

/* Where the frame goes. */
static enum insn_result choose_stack(struct exec *exec, struct delivery *d, unsigned cpl,
                                     struct stack *stack)
{
    unsigned ist = long_mode(exec) ? d->gate.low >> 32 & 7 : 0;
    enum insn_result result = INSN_OK;

    if (cpl < exec->cpu->cpl || ist) {
        result = inner_stack(exec, cpl, ist, d->ext, stack);
    } else {
        *stack = (struct stack){.seg = exec->cpu->seg[INSN_SS],
                                .top = exec->cpu->gpr[RSP],
                                .width = long_mode(exec) ? 8 : stack_size(exec),
                                .code = d->ext};
        stack->top &= mask_of(stack->width);
    }
    if (long_mode(exec))
        stack->top &= ~15ull;
    return result;
}

static enum insn_result push_frame(struct exec *exec, struct delivery *d, struct stack *stack,
                                   bool inner)
{
    const struct insn_cpu *cpu = exec->cpu;
    uint64_t flags = cpu->rflags;
    enum insn_result result = INSN_OK;

    /* Intel SDM "Instruction-Breakpoint Exception Condition": RF is 0 from the start of an
     * instruction that is an event. */
    if (d->event->type == INSN_EVENT_SOFTWARE || d->event->type == INSN_EVENT_ICEBP)
        flags &= ~(uint64_t)FLAG_RF;
    else if (d->event->fault)
        flags |= FLAG_RF;

    if (virtual_8086(cpu)) {
        static const uint8_t order[] = {INSN_GS, INSN_FS, INSN_DS, INSN_ES};

        for (unsigned i = 0; i < sizeof(order) && !result; i++)
            result = push_on(exec, stack, cpu->seg[order[i]].selector, d->size);
    }
    if (!result && (inner || long_mode(exec)))
        result = push_on(exec, stack, cpu->seg[INSN_SS].selector, d->size);
    if (!result && (inner || long_mode(exec)))
        result = push_on(exec, stack, cpu->gpr[RSP], d->size);
    if (!result)
        result = push_on(exec, stack, flags, d->size);
    if (!result)
        result = push_on(exec, stack, cpu->seg[INSN_CS].selector, d->size);
    if (!result)
        result = push_on(exec, stack, d->rip, d->size);
    if (!result && d->event->has_error_code)
        result = push_on(exec, stack, d->event->error_code, d->size);
    return result;
}

static enum insn_result deliver_protected(struct exec *exec, struct delivery *d)
{
    const struct insn_event *event = d->event;
    enum insn_result result = read_gate(exec, d);
    uint64_t offset;
    struct stack stack;
    unsigned cpl, type;
    bool inner;

    if (result)
        return result;
    type = system_type(&d->gate.seg);
    if (type == TYPE_TASK_GATE)
        return task_by_gate(exec, (uint16_t)(d->gate.low >> 16), TASK_GATE, d->rip, d->ext,
                            event->has_error_code ? &event->error_code : NULL);
    result = read_handler(exec, d);
    if (result)
        return result;
    offset = (d->gate.low & 0xffff) | (d->gate.low >> 32 & 0xffff0000) | d->gate.high << 32;
    if (!(type & 8))
        offset &= 0xffff;
    inner = !(d->code.seg.attributes & AR_CONFORMING) && dpl(&d->code.seg) < exec->cpu->cpl;
    cpl = inner ? dpl(&d->code.seg) : exec->cpu->cpl;
    result = choose_stack(exec, d, cpl, &stack);
    if (!result)
        result = push_frame(exec, d, &stack, inner);
    if (!result)
        result = stage_code(exec, &d->code, offset, cpl, d->ext);
    if (result)
        return result;
    if (inner)
        stage_stack(exec, &stack);
    else
        stage_gpr(exec, RSP, stack.width, stack.top);
    if (virtual_8086(exec->cpu)) {
        load_null(exec, INSN_ES, 0, cpl);
        load_null(exec, INSN_DS, 0, cpl);
        load_null(exec, INSN_FS, 0, cpl);
        load_null(exec, INSN_GS, 0, cpl);
    }
    stage_flags(exec, FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM | (type & 1 ? 0 : FLAG_IF), 0);
    return INSN_OK;
}

/* rip is what the handler returns to. */
enum insn_result deliver(struct exec *exec, const struct insn_event *event, uint64_t rip)
{
    struct delivery d = {.event = event, .rip = rip, .ext = event->type != INSN_EVENT_SOFTWARE};

    if (real_mode(exec->cpu))
        return deliver_real(exec, event->vector, rip);
    if (!exec->ops->descriptors)
        return INSN_UNSUPPORTED;
    return deliver_protected(exec, &d);
}

/* ---- Instructions ---- */

/* BOUND: a signed index between two bounds in memory. */
static enum insn_result bound(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    unsigned size = insn->operand[0].size;
    uint64_t linear, bounds = 0;
    int64_t index, lower, upper;
    enum insn_result result;

    result = operand_address(exec, size * 2, false, &linear);
    if (!result)
        result = read_memory(exec, linear, &bounds, size * 2, 0);
    if (result)
        return result;
    index = (int64_t)sign_extend(exec->cpu->gpr[insn->operand[0].reg], size);
    lower = (int64_t)sign_extend(bounds, size);
    upper = (int64_t)sign_extend(bounds >> bits_of(size), size);
    return index < lower || index > upper ? raise(exec, VECTOR_BR) : INSN_OK;
}

enum insn_result execute_interrupt(struct exec *exec)
{
    struct insn_event event = {.type = INSN_EVENT_SOFTWARE};

    switch (exec->insn->op) {
    case INSN_OP_BOUND:
        return bound(exec);
    case INSN_OP_INTO:
        if (!(exec->cpu->rflags & FLAG_OF))
            return INSN_OK;
        event.vector = VECTOR_OF;
        break;
    case INSN_OP_INT3:
        event.vector = VECTOR_BP;
        break;
    case INSN_OP_INT1:
        event.vector = VECTOR_DB;
        event.type = INSN_EVENT_ICEBP;
        break;
    default:
        event.vector = exec->insn->imm & 0xff;
        return virtual_8086(exec->cpu) ? virtual_interrupt(exec, &event)
                                       : deliver(exec, &event, exec->rip);
    }
    return deliver(exec, &event, exec->rip);
}
