/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One instruction of the guest through the executor, from RIP or from where the loop has answered.
 */
#include "hw/emulation.h"

/* Iterations of a repeated string instruction in one go; then the guest's own interrupts have a
 * chance. */
#define ITERATIONS 64u

bool hw_emulation_exit(struct hw_vcpu *hv, const uint8_t *bytes, unsigned got)
{
    struct virtx_exit *exit = hw_record(hv, VIRTX_EXIT_EMULATION);
    const struct virtx_state *state = hw_state(hv, VIRTX_STATE_SEG | VIRTX_STATE_CR);
    bool wide = (state->efer & EFER_LMA) && (state->seg[VIRTX_CS].attributes & VIRTX_SEG_L);

    memset(&exit->emulation, 0, sizeof(exit->emulation));
    exit->emulation.gpa = hv->fault.gpa;
    exit->emulation.gva = wide ? state->rip : (uint32_t)(state->seg[VIRTX_CS].base + state->rip);
    exit->emulation.length = (uint8_t)got;
    if (got)
        memcpy(exit->emulation.bytes, bytes, got);
    return hw_to_loop(hv);
}

/* With the bytes as they are now: those that do not belong to the instruction, too. */
static bool emulation_exit_fetch(struct hw_vcpu *hv)
{
    uint8_t bytes[INSN_MAX_LENGTH];
    unsigned got = hw_fetch(hv, bytes);

    return hw_emulation_exit(hv, bytes, got);
}

static struct virtx_event event_of(const struct insn_fault *fault)
{
    return (struct virtx_event){.type = VIRTX_EVENT_EXCEPTION,
                                .vector = fault->vector,
                                .has_error = fault->has_error_code,
                                .error = fault->error_code,
                                .address = fault->address};
}

/* An exception arises. In place of the processor, the executor asks the intercepts. */
static bool raise_event(struct hw_vcpu *hv, const struct virtx_event *event,
                        enum virtx_status *status)
{
    const struct hw_emulation *em = hv->emulation;
    const struct hw_controls *c = &hv->controls;
    bool wanted = event->vector < 32 && (c->exceptions >> event->vector & 1);

    if (event->vector == VECTOR_PF && ((event->error & c->pf_mask) == c->pf_match) == c->pf_unlike)
        wanted = false;
    if (likely(!wanted || !em->any)) {
        hw_raise(hv, event);
        return true;
    }
    hw_record(hv, VIRTX_EXIT_EXCEPTION)->exception =
        (struct virtx_exit_exception){.vector = event->vector,
                                      .has_error = event->has_error,
                                      .error = event->error,
                                      .address = event->address};
    return hw_offer(hv, status);
}

static bool raise_vector(struct hw_vcpu *hv, unsigned vector, enum virtx_status *status)
{
    const struct virtx_event event = {
        .type = VIRTX_EVENT_EXCEPTION, .vector = (uint8_t)vector, .has_error = vector == VECTOR_GP};

    return raise_event(hv, &event, status);
}

bool hw_raise_fault(struct hw_vcpu *hv, const struct insn_fault *fault, enum virtx_status *status)
{
    const struct virtx_event event = event_of(fault);

    return raise_event(hv, &event, status);
}

/* Executes, or goes on executing. True: enter the guest; false: the record says what is wanted. */
static bool execute(struct hw_vcpu *hv, enum virtx_status *status)
{
    struct hw_emulation *em = hv->emulation;
    struct insn_cpu *cpu = &em->cpu;
    bool trap = cpu->rflags & RFLAGS_TF;
    /* The loop's answers do not add up to more than ITERATIONS: after that it is to call run. */
    unsigned iterations = trap || em->dr7 || em->answers >= ITERATIONS ? 1 : ITERATIONS;
    struct insn_fault fault;

    em->forbidden = em->injected = false;
    switch (insn_execute(&em->insn, cpu, em->ports ? &hw_insn_port_ops : &hw_insn_ops, hv,
                         &em->replay, iterations, &fault)) {
    case INSN_OK:
        hw_registers_in(hv, cpu);
        hw_retired(hv, cpu, trap);
        return true;
    case INSN_AGAIN:
        hw_registers_in(hv, cpu);
        hw_iterated(hv);
        if (trap || em->met)
            hw_watch_end(hv, trap);
        hv->work |= HW_WORK_EVENT;
        return true;
    case INSN_SYSTEM:
        if (!em->any)
            return emulation_exit_fetch(hv);
        em->any = false;
        return hw_system_instruction(hv, &em->insn, cpu->operand, status);
    case INSN_PENDING:
        if (em->forbidden)
            em->replay.count = 0;
        hw_registers_in(hv, cpu); /* whole iterations of a string instruction */
        if (em->forbidden)
            return hw_memory_exit(hv);
        hv->pending.kind = HW_PENDING_INSN;
        return hw_ask(hv);
    case INSN_FAULT:
        hw_registers_in(hv, cpu);
        hv->work |= HW_WORK_EVENT;
        return em->injected || hw_raise_fault(hv, &fault, status);
    default:
        return emulation_exit_fetch(hv);
    }
}

/* INT3 and INTO are exceptions that an intercept may want; the record says so then. */
static bool wanted_trap(struct hw_vcpu *hv, const struct insn *insn)
{
    struct virtx_exit *exit;
    uint8_t vector = 3;

    if (insn->op == INSN_OP_INTO && (hw_state(hv, VIRTX_STATE_RFLAGS)->rflags & 0x800))
        vector = 4;
    else if (insn->op != INSN_OP_INT3)
        return false;
    if (!(hv->controls.exceptions >> vector & 1))
        return false;
    exit = hw_record(hv, VIRTX_EXIT_EXCEPTION);
    exit->exception = (struct virtx_exit_exception){.vector = vector};
    exit->length = insn->length;
    return true;
}

bool hw_execute_insn(struct hw_vcpu *hv, const struct insn *insn, enum virtx_status *status)
{
    struct hw_emulation *em = hv->emulation;

    em->insn = *insn;
    em->replay.count = 0;
    em->answers = 0;
    em->ports = false;
    if (unlikely(em->any) && wanted_trap(hv, insn))
        return hw_offer(hv, status);
    if (unlikely(em->any) && hw_instruction_wanted(hv, insn)) {
        em->any = false;
        return hw_system_instruction(hv, insn, 0, status);
    }
    hw_watch_begin(hv);
    hw_registers_out(hv, &em->cpu);
    return execute(hv, status);
}

bool hw_execute_string_io(struct hw_vcpu *hv, const struct insn *insn, enum virtx_status *status)
{
    struct hw_emulation *em = hv->emulation;

    em->insn = *insn;
    em->replay.count = 0;
    em->answers = 0;
    em->ports = true;
    hw_watch_begin(hv);
    hw_registers_out(hv, &em->cpu);
    return execute(hv, status);
}

/* The instruction lies within its segment (Intel SDM "Limit Checking"). */
static bool within_code(struct hw_vcpu *hv, unsigned length)
{
    const struct virtx_state *state = hw_state(hv, VIRTX_STATE_RIP | VIRTX_STATE_SEG);

    return hw_insn_mode(hv) >= INSN_64 || state->rip + length - 1 <= state->seg[VIRTX_CS].limit;
}

/*
 * What a fetch would have checked and set if the processor had made it: the rights of the page and
 * of the slot at `linear`, and the accessed flags. False: *next is what execution comes to instead.
 */
static bool may_fetch(struct hw_vcpu *hv, uint64_t linear, enum virtx_status *status, bool *next)
{
    const struct slot_entry *slot;
    struct virtx_event event;
    uint64_t gpa;

    switch (hw_translate(hv, linear, VIRTX_EXECUTE, 0, &gpa, &event)) {
    case HW_ACCESS_OK:
        break;
    case HW_ACCESS_FAULT:
        *next = raise_event(hv, &event, status);
        return false;
    default:
        *next = hw_memory_exit(hv);
        return false;
    }
    slot = virtx_slot_find(virtx_slots(hv->vcpu->vm), gpa);
    hv->fault = (struct virtx_page_fault){
        .gpa = gpa, .gva = linear, .gva_valid = true, .access = VIRTX_EXECUTE};
    if (slot && (slot->rights & VIRTX_EXECUTE))
        return true;
    *next = slot ? hw_memory_exit(hv) : hw_emulation_exit(hv, NULL, 0);
    return false;
}

static bool fetch_allowed(struct hw_vcpu *hv, enum virtx_status *status, bool *next)
{
    const struct virtx_state *state = hw_state(hv, VIRTX_STATE_RIP | VIRTX_STATE_SEG);
    uint64_t linear = state->rip;

    if (hw_insn_mode(hv) < INSN_64)
        linear = (uint32_t)(state->seg[VIRTX_CS].base + linear);
    return may_fetch(hv, linear, status, next);
}

bool hw_execute_any(struct hw_vcpu *hv, enum virtx_status *status)
{
    struct hw_emulation *em = hv->emulation;
    bool next;

    em->any = true;
    if (fetch_allowed(hv, status, &next))
        next = hw_execute(hv, status);
    em->any = false;
    return next;
}

bool hw_execute(struct hw_vcpu *hv, enum virtx_status *status)
{
    struct hw_fetch fetch;
    const struct hw_line *line = hw_code(hv, &fetch);

    if (line) {
        if (unlikely(!within_code(hv, line->insn.length)))
            return raise_vector(hv, VECTOR_GP, status);
        return hw_execute_insn(hv, &line->insn, status);
    }
    switch (fetch.result) {
    case INSN_MORE:
        if (!within_code(hv, fetch.got + 1u))
            return raise_vector(hv, VECTOR_GP, status);
        if (fetch.access == HW_ACCESS_FAULT)
            return raise_event(hv, &fetch.event, status);
        if (fetch.access == HW_ACCESS_NONE)
            return hw_memory_exit(hv);
        break;
    case INSN_INVALID:
        return raise_vector(hv, VECTOR_UD, status);
    case INSN_TOO_LONG:
        return raise_vector(hv, VECTOR_GP, status);
    default:
        return emulation_exit_fetch(hv);
    }
    return hw_emulation_exit(hv, fetch.bytes, fetch.got);
}

/* Instructions by which tables are written. */
static bool is_plain_write(enum insn_op op)
{
    switch (op) {
    case INSN_OP_MOV:
    case INSN_OP_XCHG:
    case INSN_OP_CMPXCHG:
    case INSN_OP_CMPXCHG8B:
    case INSN_OP_XADD:
    case INSN_OP_BTS:
    case INSN_OP_BTR:
    case INSN_OP_BTC:
    case INSN_OP_ADD:
    case INSN_OP_SUB:
    case INSN_OP_OR:
    case INSN_OP_AND:
    case INSN_OP_XOR:
        return true;
    default:
        return false;
    }
}

bool hw_can_execute_write(struct hw_vcpu *hv)
{
    struct hw_fetch fetch;
    const struct hw_line *line;

    if (hv->has_reinject) /* it was not the instruction that wrote */
        return false;
    line = hw_code(hv, &fetch);
    return line && line->result == INSN_OK && is_plain_write(line->insn.op);
}

/* Takes the loop's answer to the piece in the record. */
static void answer(struct hw_vcpu *hv)
{
    struct hw_access *access = &((struct hw_emulation *)hv->emulation)->access;
    struct virtx_exit *exit = &hv->vcpu->exit;

    if (access->port) {
        memcpy(access->data, exit->io.data, access->size);
        access->done = access->size;
        return;
    }
    if (!access->write)
        memcpy(access->data + access->done, &exit->mmio.value, access->piece);
    access->done = (uint8_t)(access->done + access->piece);
}

/* The loop has answered the piece in the record: the access goes on, and then the instruction. */
enum virtx_status hw_execute_continue(struct hw_vcpu *hv)
{
    struct hw_emulation *em = hv->emulation;
    struct virtx_exit *exit = &hv->vcpu->exit;
    struct hw_access *access = &em->access;
    struct insn_fault fault;

    hv->pending.kind = HW_PENDING_NONE;
    if (em->answers < ITERATIONS)
        em->answers++;
    em->forbidden = em->injected = false;
    answer(hv);
    switch (hw_access_advance(hv, &fault)) {
    case INSN_ACCESS_OK:
        break;
    case INSN_ACCESS_PENDING:
        if (em->forbidden) {
            em->replay.count = 0; /* the next run starts the instruction again */
            return VIRTX_OK;
        }
        hv->pending.kind = HW_PENDING_INSN;
        exit->pending = true;
        return VIRTX_AGAIN;
    default:
        em->replay.count = 0;
        if (!em->injected) {
            const struct virtx_event event = event_of(&fault);

            hw_raise(hv, &event);
        }
        return VIRTX_OK;
    }
    if (em->replay.count) {
        struct insn_access *last = &em->replay.access[em->replay.count - 1];

        memcpy(last->data, access->data, sizeof(last->data));
        last->done = 1;
    }
    if (execute(hv, &hv->status))
        return VIRTX_OK;
    return exit->pending ? VIRTX_AGAIN : VIRTX_OK;
}
