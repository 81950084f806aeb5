/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Glue between the instruction executor and the guest: its registers, its linear memory, and
 * devices that answer inside run or from the loop.
 *
 * The executor repeats an instruction from its start whenever an access has been answered, and
 * finds what it did before in the restart log. Here one such access is cut into pieces: at page
 * boundaries, and at a device into units of 1, 2, 4 or 8 bytes.
 */
#include "hw/emulation.h"
#include "paging/walk.h"

/* Iterations of a repeated string instruction in one go; then the guest's own interrupts have a
 * chance. */
#define ITERATIONS 64u

enum insn_mode hw_insn_mode(struct hw_vcpu *hv)
{
    const struct virtx_state *state = hw_state(hv, VIRTX_STATE_CR | VIRTX_STATE_SEG);
    uint32_t attributes = state->seg[VIRTX_CS].attributes;

    if ((state->efer & EFER_LMA) && (attributes & VIRTX_SEG_L))
        return hv->soft->policy.amd ? INSN_64_AMD : INSN_64;
    return attributes & VIRTX_SEG_DB ? INSN_32 : INSN_16;
}

uint64_t hw_operand_offset(struct hw_vcpu *hv, const struct insn *insn)
{
    const struct insn_mem *mem = &insn->mem;
    bool based = insn->mode < INSN_64 || mem->segment >= INSN_FS;
    const struct virtx_state *state =
        hw_state(hv, VIRTX_STATE_RIP | (mem->base == VIRTX_RSP ? VIRTX_STATE_RSP : 0) |
                         (based ? VIRTX_STATE_SEG : 0));
    uint64_t at = (uint64_t)insn->disp;

    if (mem->base == INSN_BASE_RIP)
        at += state->rip + insn->length;
    else if (mem->base != INSN_NO_REGISTER)
        at += state->gpr[mem->base];
    if (mem->index != INSN_NO_REGISTER)
        at += state->gpr[mem->index] << mem->scale;
    if (insn->address_size < 8)
        at &= (1ull << insn->address_size * 8) - 1;
    if (based)
        at += state->seg[mem->segment].base;
    return at & (VIRTX_PAGE_SIZE - 1);
}

/* ---- Memory ---- */

static enum insn_access_result page_fault(const struct virtx_event *event, struct insn_fault *fault)
{
    *fault = (struct insn_fault){.vector = event->vector,
                                 .has_error_code = event->has_error,
                                 .error_code = event->error,
                                 .address = event->address};
    return INSN_ACCESS_FAULT;
}

/* Translates for one page of the access. */
static enum insn_access_result locate(struct hw_vcpu *hv, const struct hw_access *access,
                                      uint64_t linear, uint64_t *gpa, struct insn_fault *fault)
{
    struct hw_emulation *em = hv->emulation;
    uint32_t what = access->write                        ? VIRTX_WRITE
                    : access->flags & INSN_ACCESS_MODIFY ? VIRTX_READ | VIRTX_WRITE
                                                         : VIRTX_READ;
    struct virtx_event event;

    switch (hw_translate(hv, linear, what, access->flags & INSN_ACCESS_SYSTEM ? WALK_IMPLICIT : 0,
                         gpa, &event)) {
    case HW_ACCESS_OK:
        return INSN_ACCESS_OK;
    case HW_ACCESS_FAULT:
        return page_fault(&event, fault);
    default:
        em->stopped = true;
        return INSN_ACCESS_PENDING;
    }
}

static unsigned piece_in_page(uint64_t linear, unsigned left)
{
    return (unsigned)min_u64(left, VIRTX_PAGE_SIZE - (linear & (VIRTX_PAGE_SIZE - 1)));
}

/* Every page of the access allows it, before anything of it has happened. */
static enum insn_access_result probe(struct hw_vcpu *hv, struct hw_access *access,
                                     struct insn_fault *fault)
{
    unsigned first = piece_in_page(access->linear, access->size);
    uint64_t gpa;
    enum insn_access_result result = locate(hv, access, access->linear, &gpa, fault);

    if (result == INSN_ACCESS_OK && first < access->size)
        result = locate(hv, access, access->linear + first, &gpa, fault);
    access->probed = result == INSN_ACCESS_OK;
    return result;
}

/* Asks the device. INSN_ACCESS_PENDING: its answer comes from the loop; the record describes it. */
static enum insn_access_result device(struct hw_vcpu *hv, struct hw_access *access, uint64_t gpa,
                                      unsigned bytes)
{
    struct virtx_exit *exit = &hv->vcpu->exit;
    struct hw_emulation *em = hv->emulation;

    while (bytes & (bytes - 1)) /* 3, 5, 6, 7 bytes: the largest power of two first */
        bytes &= bytes - 1;
    if (bytes > 8)
        bytes = 8;
    access->piece = (uint8_t)bytes;
    exit->reason = VIRTX_EXIT_MMIO;
    exit->pending = false;
    exit->length = em->insn.length;
    exit->rip = hv->state.rip;
    exit->mmio = (struct virtx_exit_mmio){
        .gpa = gpa, .size = (uint8_t)bytes, .access = access->write ? VIRTX_WRITE : VIRTX_READ};
    if (access->write)
        memcpy(&exit->mmio.value, access->data + access->done, bytes);
    else
        exit->mmio.value = UINT64_MAX;
    switch (hv->rules_mmio ? virtx_backend_dispatch(hv->vcpu) : VIRTX_DEFAULT) {
    case VIRTX_HANDLED:
        if (!access->write)
            memcpy(access->data + access->done, &exit->mmio.value, bytes);
        access->done = (uint8_t)(access->done + bytes);
        return INSN_ACCESS_OK;
    case VIRTX_FAULT:
        em->injected = true;
        return INSN_ACCESS_FAULT;
    default:
        return INSN_ACCESS_PENDING;
    }
}

/* A slot that does not allow the access, unless its writes are a device's. */
static bool forbidden(struct hw_vcpu *hv, uint64_t gpa, bool write)
{
    const struct slot_entry *slot = virtx_slot_find(virtx_slots(hv->vcpu->vm), gpa);
    struct hw_emulation *em = hv->emulation;

    if (!slot || (write && (slot->flags & VIRTX_MEMSLOT_WRITE_MMIO)))
        return false;
    em->forbidden = true;
    hv->fault = (struct virtx_page_fault){.gpa = gpa, .access = write ? VIRTX_WRITE : VIRTX_READ};
    return true;
}

/* Moves on with the access until it is done or must wait. */
static enum insn_access_result advance_access(struct hw_vcpu *hv, struct insn_fault *fault)
{
    struct hw_emulation *em = hv->emulation;
    struct hw_access *access = &em->access;
    enum insn_access_result result = INSN_ACCESS_OK;

    if (!access->probed)
        result = probe(hv, access, fault);
    while (result == INSN_ACCESS_OK && access->done < access->size) {
        uint64_t linear = access->linear + access->done, gpa;
        unsigned bytes = piece_in_page(linear, access->size - access->done);
        uint8_t *data = access->data + access->done;
        bool good;

        result = locate(hv, access, linear, &gpa, fault);
        if (result != INSN_ACCESS_OK)
            break;
        good = (access->write ? virtx_gpa_write(hv->vcpu->vm, gpa, data, bytes, false)
                              : virtx_gpa_read(hv->vcpu->vm, gpa, data, bytes)) == VIRTX_OK;
        if (good)
            access->done = (uint8_t)(access->done + bytes);
        else if (forbidden(hv, gpa, access->write))
            return INSN_ACCESS_PENDING;
        else
            result = device(hv, access, gpa, bytes);
    }
    return result;
}

static enum insn_access_result begin(struct hw_vcpu *hv, uint64_t linear, void *data, bool write,
                                     unsigned size, unsigned flags, struct insn_fault *fault)
{
    struct hw_emulation *em = hv->emulation;
    struct hw_access *access = &em->access;
    enum insn_access_result result;

    if (hw_insn_mode(hv) < INSN_64)
        linear = (uint32_t)linear;
    *access = (struct hw_access){
        .linear = linear, .size = (uint8_t)size, .write = write, .flags = (uint8_t)flags};
    if (flags & INSN_ACCESS_PROBE)
        return probe(hv, access, fault);
    if (write)
        memcpy(access->data, data, size);
    result = advance_access(hv, fault);
    if (result == INSN_ACCESS_OK && !write)
        memcpy(data, access->data, size);
    return result;
}

static enum insn_access_result read_memory(void *context, uint64_t linear, void *data,
                                           unsigned size, unsigned flags, struct insn_fault *fault)
{
    return begin(context, linear, data, false, size, flags, fault);
}

static enum insn_access_result write_memory(void *context, uint64_t linear, const void *data,
                                            unsigned size, unsigned flags, struct insn_fault *fault)
{
    uint8_t copy[16];

    if (size > sizeof(copy))
        size = sizeof(copy);
    if (!(flags & INSN_ACCESS_PROBE))
        memcpy(copy, data, size);
    return begin(context, linear, copy, true, size, flags, fault);
}

static bool exchange_16(void *at, void *expected, const void *desired)
{
    uint64_t *e = expected;
    uint64_t d[2];
    bool same;

    memcpy(d, desired, sizeof(d));
    __asm__ volatile("lock cmpxchg16b %1"
                     : "=@cce"(same), "+m"(*(uint8_t(*)[16])at), "+a"(e[0]), "+d"(e[1])
                     : "b"(d[0]), "c"(d[1])
                     : "memory");
    return same;
}

#define EXCHANGE(type)                                                                             \
    __atomic_compare_exchange_n((type *)at, (type *)expected, *(const type *)desired, false,       \
                                __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)

/* Atomically on memory that other CPUs of the guest share. `at` may be misaligned, as the guest's
 * own locked access may. */
__attribute__((no_sanitize("alignment"))) static bool exchange(void *at, void *expected,
                                                               const void *desired, unsigned size)
{
    switch (size) {
    case 1:
        return EXCHANGE(uint8_t);
    case 2:
        return EXCHANGE(uint16_t);
    case 4:
        return EXCHANGE(uint32_t);
    case 8:
        return EXCHANGE(uint64_t);
    default:
        return exchange_16(at, expected, desired);
    }
}

static enum insn_access_result compare_exchange(void *context, uint64_t linear, void *expected,
                                                const void *desired, unsigned size, unsigned flags,
                                                struct insn_fault *fault)
{
    struct hw_vcpu *hv = context;
    struct virtx_vm *vm = hv->vcpu->vm;
    struct hw_access access = {.write = true, .flags = (uint8_t)flags};
    uint64_t gpa;
    void *at;
    enum insn_access_result result;

    if (hw_insn_mode(hv) < INSN_64)
        linear = (uint32_t)linear;
    if (piece_in_page(linear, size) == size && (size < 16 || (linear & 15) == 0)) {
        result = locate(hv, &access, linear, &gpa, fault);
        if (result != INSN_ACCESS_OK)
            return result;
        at = virtx_gpa_pointer(vm, gpa, size, VIRTX_WRITE);
        if (at) {
            const struct slot_entry *slot = virtx_slot_find(virtx_slots(vm), gpa);

            if (!exchange(at, expected, desired, size))
                return INSN_ACCESS_RACED;
            if (slot)
                virtx_slot_mark(slot, gpa, size);
            virtx_gpa_written(vm, gpa, size);
            return INSN_ACCESS_OK;
        }
    }
    /* A device, or a locked access across pages: what was read a moment ago is what is there. */
    return write_memory(context, linear, desired, size, flags, fault);
}

static struct insn_msrs *system_msrs(void *context)
{
    struct hw_vcpu *hv = context;
    struct hw_emulation *em = hv->emulation;
    const struct virtx_state *state = hw_state(hv, VIRTX_STATE_SYSCALL);

    em->msrs = (struct insn_msrs){.star = state->star,
                                  .lstar = state->lstar,
                                  .fmask = state->fmask,
                                  .kernel_gs_base = state->kernel_gs_base,
                                  .sysenter_cs = state->sysenter_cs,
                                  .sysenter_esp = state->sysenter_esp,
                                  .sysenter_eip = state->sysenter_eip};
    em->has_msrs = true;
    return &em->msrs;
}

static bool vector_register(void *context, unsigned reg, void *data, bool write,
                            enum insn_vector part)
{
    return hw_fpu_vector(context, reg, data, write, part);
}

static const struct insn_ops memory_ops = {
    .read = read_memory,
    .write = write_memory,
    .compare_exchange = compare_exchange,
    .descriptors = true,
    .msrs = system_msrs,
    .vector = vector_register,
};

/* ---- Registers ---- */

#define REGISTERS                                                                                  \
    (VIRTX_STATE_GPR | VIRTX_STATE_RSP | VIRTX_STATE_RIP | VIRTX_STATE_RFLAGS | VIRTX_STATE_SEG |  \
     VIRTX_STATE_TABLES | VIRTX_STATE_CR | VIRTX_STATE_INTR)

static void registers_out(struct hw_vcpu *hv, struct insn_cpu *cpu)
{
    struct virtx_state *state = hw_state(hv, REGISTERS);

    cpu->gpr = state->gpr;
    cpu->rip = state->rip;
    cpu->rflags = state->rflags;
    cpu->cr0 = state->cr0;
    cpu->cr3 = state->cr3;
    cpu->cr4 = state->cr4;
    cpu->efer = state->efer;
    for (unsigned i = 0; i < INSN_SEGMENTS; i++)
        cpu->seg[i] = (struct insn_seg){.base = state->seg[i].base,
                                        .limit = state->seg[i].limit,
                                        .attributes = state->seg[i].attributes,
                                        .selector = state->seg[i].selector};
    cpu->gdtr = (struct insn_table){state->gdtr.base, (uint16_t)state->gdtr.limit};
    cpu->idtr = (struct insn_table){state->idtr.base, (uint16_t)state->idtr.limit};
    cpu->ldtr = (struct insn_seg){.base = state->seg[VIRTX_LDTR].base,
                                  .limit = state->seg[VIRTX_LDTR].limit,
                                  .attributes = state->seg[VIRTX_LDTR].attributes,
                                  .selector = state->seg[VIRTX_LDTR].selector};
    cpu->tr = (struct insn_seg){.base = state->seg[VIRTX_TR].base,
                                .limit = state->seg[VIRTX_TR].limit,
                                .attributes = state->seg[VIRTX_TR].attributes,
                                .selector = state->seg[VIRTX_TR].selector};
    cpu->mode = (uint8_t)hw_insn_mode(hv);
    cpu->cpl = (uint8_t)hw_cpl(hv);
    cpu->amd = hv->soft->policy.amd;
    cpu->avx = (state->cr4 & CR4_OSXSAVE) && (hv->state.xcr0 & 6) == 6;
    cpu->shadow = INSN_SHADOW_NONE;
    ((struct hw_emulation *)hv->emulation)->has_msrs = false;
}

static void segment_in(struct hw_vcpu *hv, unsigned index, const struct insn_seg *now)
{
    struct virtx_segment *seg = &hv->state.seg[index];

    if (likely(seg->base == now->base && seg->limit == now->limit &&
               seg->attributes == now->attributes && seg->selector == now->selector))
        return;
    hw_change(hv, VIRTX_STATE_SEG);
    seg->base = now->base;
    seg->limit = now->limit;
    seg->attributes = now->attributes;
    seg->selector = now->selector;
}

static void registers_in(struct hw_vcpu *hv, const struct insn_cpu *cpu)
{
    const struct hw_emulation *em = hv->emulation;
    struct virtx_state *state =
        hw_change(hv, VIRTX_STATE_GPR | VIRTX_STATE_RSP | VIRTX_STATE_RIP | VIRTX_STATE_RFLAGS);

    state->rip = cpu->rip;
    state->rflags = cpu->rflags;
    for (unsigned i = 0; i < INSN_SEGMENTS; i++)
        segment_in(hv, i, &cpu->seg[i]);
    if (unlikely(em->has_msrs) && em->msrs.kernel_gs_base != state->kernel_gs_base)
        hw_change(hv, VIRTX_STATE_SYSCALL)->kernel_gs_base = em->msrs.kernel_gs_base;
    segment_in(hv, VIRTX_LDTR, &cpu->ldtr);
    segment_in(hv, VIRTX_TR, &cpu->tr);
    if (unlikely(state->cr0 != cpu->cr0)) /* TS, by a task switch */
        hw_change(hv, VIRTX_STATE_CR)->cr0 = cpu->cr0;
    if (state->gdtr.base != cpu->gdtr.base || state->gdtr.limit != cpu->gdtr.limit ||
        state->idtr.base != cpu->idtr.base || state->idtr.limit != cpu->idtr.limit) {
        hw_change(hv, VIRTX_STATE_TABLES);
        state->gdtr.base = cpu->gdtr.base;
        state->gdtr.limit = cpu->gdtr.limit;
        state->idtr.base = cpu->idtr.base;
        state->idtr.limit = cpu->idtr.limit;
    }
}

static void single_step(struct hw_vcpu *hv)
{
    hw_raise(hv, &(struct virtx_event){
                     .type = VIRTX_EVENT_EXCEPTION, .vector = VECTOR_DB, .address = 1u << 14});
}

/* With TF set: not if only branches trap, and those do so in the processor alone. */
static bool steps(struct hw_vcpu *hv)
{
    return !(hw_state(hv, VIRTX_STATE_DR)->debugctl & 2);
}

/* What else retiring an instruction does: RF ends, the shadow is the instruction's own, and TF
 * traps. */
static void retired(struct hw_vcpu *hv, const struct insn_cpu *cpu, bool trap)
{
    struct virtx_state *state = hw_change(hv, VIRTX_STATE_INTR | VIRTX_STATE_RFLAGS);

    if (unlikely(trap))
        trap = steps(hv);
    state->interruptibility &= VIRTX_BLOCKED_BY_NMI;
    if (((struct hw_emulation *)hv->emulation)->insn.op == INSN_OP_IRET)
        state->interruptibility = 0;
    if (cpu->shadow == INSN_SHADOW_STI)
        state->interruptibility |= VIRTX_BLOCKED_BY_STI;
    else if (cpu->shadow == INSN_SHADOW_MOV_SS)
        state->interruptibility |= VIRTX_BLOCKED_BY_MOV_SS;
    if (trap && cpu->shadow != INSN_SHADOW_MOV_SS)
        single_step(hv);
    if (likely(!hv->confined)) /* else the windows are asked for, or hw_interpret() looks */
        hv->work |= HW_WORK_EVENT;
    hv->vcpu->stats.instructions++;
}

/* ---- The instruction ---- */

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
    return hw_to_loop(hv, false);
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

static bool raise_fault(struct hw_vcpu *hv, const struct insn_fault *fault,
                        enum virtx_status *status)
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
    unsigned iterations = trap || em->answers >= ITERATIONS ? 1 : ITERATIONS;
    struct insn_fault fault;

    em->forbidden = em->stopped = em->injected = false;
    switch (insn_execute(&em->insn, cpu, &memory_ops, hv, &em->replay, iterations, &fault)) {
    case INSN_OK:
        registers_in(hv, cpu);
        retired(hv, cpu, trap);
        return true;
    case INSN_AGAIN:
        registers_in(hv, cpu);
        if (trap && steps(hv)) /* after each iteration */
            single_step(hv);
        hv->work |= HW_WORK_EVENT;
        return true;
    case INSN_SYSTEM:
        if (!em->any)
            return emulation_exit_fetch(hv);
        em->any = false;
        return hw_system_instruction(hv, &em->insn, cpu->operand, status);
    case INSN_PENDING:
        if (em->stopped || em->forbidden)
            em->replay.count = 0;
        registers_in(hv, cpu); /* whole iterations of a string instruction */
        if (em->stopped)
            return emulation_exit_fetch(hv);
        if (em->forbidden)
            return hw_memory_exit(hv);
        hv->pending.kind = HW_PENDING_INSN;
        return hw_to_loop(hv, true);
    case INSN_FAULT:
        registers_in(hv, cpu);
        hv->work |= HW_WORK_EVENT;
        return em->injected || raise_fault(hv, &fault, status);
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
    if (unlikely(em->any) && wanted_trap(hv, insn))
        return hw_offer(hv, status);
    if (unlikely(em->any) && hw_instruction_wanted(hv, insn)) {
        em->any = false;
        return hw_system_instruction(hv, insn, 0, status);
    }
    registers_out(hv, &em->cpu);
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
        *next = hw_emulation_exit(hv, NULL, 0);
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

/* ---- Events ---- */

static struct insn_event delivered(const struct virtx_event *event)
{
    struct insn_event out = {.vector = event->vector,
                             .type = INSN_EVENT_EXTERNAL,
                             .has_error_code = event->has_error,
                             .error_code = event->error};

    if (event->type == VIRTX_EVENT_SOFT_INTERRUPT || event->type == VIRTX_EVENT_SOFT_EXCEPTION)
        out.type = INSN_EVENT_SOFTWARE;
    else if (event->type == VIRTX_EVENT_PRIV_EXCEPTION)
        out.type = INSN_EVENT_ICEBP;
    out.fault = event->type == VIRTX_EVENT_EXCEPTION && event->vector != VECTOR_DB;
    return out;
}

static void has_delivered(struct hw_vcpu *hv, const struct virtx_event *event)
{
    struct virtx_state *state = hw_change(hv, VIRTX_STATE_INTR);

    state->interruptibility &= VIRTX_BLOCKED_BY_NMI;
    if (event->type == VIRTX_EVENT_NMI)
        state->interruptibility |= VIRTX_BLOCKED_BY_NMI;
    state->pending_debug = 0;
    state->activity = VIRTX_ACTIVE;
}

bool hw_deliver(struct hw_vcpu *hv, const struct virtx_event *wanted)
{
    struct hw_emulation *em = hv->emulation;
    const struct virtx_event event = *wanted;
    const struct insn_event deliver = delivered(&event);
    enum insn_result result;
    struct insn_fault fault;

    em->replay.count = 0;
    registers_out(hv, &em->cpu);
    if (deliver.type != INSN_EVENT_EXTERNAL)
        em->cpu.rip = insn_advance((enum insn_mode)em->cpu.mode, em->cpu.rip, event.length);
    em->forbidden = em->stopped = em->injected = false;
    result = insn_deliver(&deliver, &em->cpu, &memory_ops, hv, &em->replay, &fault);
    if (likely(result == INSN_OK)) {
        registers_in(hv, &em->cpu);
        has_delivered(hv, &event);
        return true;
    }
    hv->reinject = event;
    hv->has_reinject = true;
    hv->work |= HW_WORK_EVENT;
    em->replay.count = 0;
    if (result == INSN_FAULT && !em->injected) {
        bool next;

        em->any = true; /* intercepts see it, as they would in the processor */
        next = raise_fault(hv, &fault, &hv->status);
        em->any = false;
        return next;
    }
    if (em->forbidden)
        return hw_memory_exit(hv);
    return hw_emulation_exit(hv, NULL, 0);
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
    if (!access->write)
        memcpy(access->data + access->done, &exit->mmio.value, access->piece);
    access->done = (uint8_t)(access->done + access->piece);
    em->forbidden = em->stopped = em->injected = false;
    switch (advance_access(hv, &fault)) {
    case INSN_ACCESS_OK:
        break;
    case INSN_ACCESS_PENDING:
        if (em->stopped || em->forbidden) {
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
