/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What happens to each decoded exit: asked of an intercept's handler, served by the library, or
 * handed to the loop.
 */
#include "hw/service.h"

bool hw_ask(struct hw_vcpu *hv)
{
    const struct virtx_exit *exit = &hv->vcpu->exit;

    if (exit->reason == VIRTX_EXIT_IO && !exit->io.string)
        return hw_ask_plain(hv, exit->io.access);
    if (exit->reason == VIRTX_EXIT_MMIO && hw_mmio_plain(hv))
        return hw_ask_plain(hv, exit->mmio.access);
    hv->vcpu->exit.pending = true;
    hv->vcpu->answer = VIRTX_ANSWER_HERE;
    return false;
}

/* What a handler's answer leads to. */
bool hw_verdict(struct hw_vcpu *hv, enum virtx_verdict verdict, enum virtx_status *status)
{
    switch (verdict) {
    case VIRTX_HANDLED:
        hw_complete_record(hv);
        return true;
    case VIRTX_TO_LOOP:
        return hw_ask(hv);
    case VIRTX_FAULT:
        hv->work |= HW_WORK_EVENT;
        return true;
    case VIRTX_DEFAULT:
    default:
        return hw_exit_default(hv, status);
    }
}

enum virtx_verdict hw_dispatch(struct hw_vcpu *hv)
{
    enum virtx_verdict verdict;

    if (unlikely(hv->cr8_shadow))
        hw_tpr_pull(hv);
    verdict = virtx_backend_dispatch(hv->vcpu);
    if (unlikely(hv->cr8_shadow))
        hw_tpr_push(hv);
    return verdict;
}

/* Offers the record to its intercept. */
bool hw_offer(struct hw_vcpu *hv, enum virtx_status *status)
{
    hv->vcpu->exit.pending = false; /* a handler may read and write registers */
    return hw_verdict(hv, hw_dispatch(hv), status);
}

static bool io_exit(struct hw_vcpu *hv, enum virtx_status *status)
{
    if (hv->vcpu->exit.io.string)
        return hw_io(hv, status);
    hw_io_record(hv);
    return hv->rules_port ? hw_offer(hv, status) : hw_ask(hv);
}

static bool msr_default(struct hw_vcpu *hv)
{
    struct virtx_exit_msr *msr = &hv->vcpu->exit.msr;
    enum hw_msr result;

    if (msr->access == VIRTX_READ) {
        uint64_t value = 0;

        result = hw_msr_read(hv, msr->index, &value);
        if (likely(result == HW_MSR_OK)) {
            hv->state.gpr[VIRTX_RAX] = (uint32_t)value;
            hv->state.gpr[VIRTX_RDX] = value >> 32;
        }
    } else {
        result = hw_msr_write(hv, msr->index, msr->value);
    }
    if (likely(result == HW_MSR_OK)) {
        hv->ops->advance(hv);
        return true;
    }
    if (result == HW_MSR_UNKNOWN)
        return hw_ask(hv);
    hw_raise_error(hv, VECTOR_GP, 0);
    return true;
}

static bool msr_exit(struct hw_vcpu *hv, enum virtx_status *status)
{
    struct virtx_exit_msr *msr = &hv->vcpu->exit.msr;

    msr->index = (uint32_t)hv->state.gpr[VIRTX_RCX];
    msr->value = msr->access == VIRTX_WRITE
                     ? (hv->state.gpr[VIRTX_RDX] << 32 | (uint32_t)hv->state.gpr[VIRTX_RAX])
                     : 0;
    return hv->rules_msr ? hw_offer(hv, status) : msr_default(hv);
}

/* Only where an intercept exists for some leaf; the others never come here. */
static bool cpuid_exit(struct hw_vcpu *hv, enum virtx_status *status)
{
    struct virtx_exit_cpuid *cpuid = &hv->vcpu->exit.cpuid;
    const struct hw_cpuid_line *line;

    cpuid->leaf = (uint32_t)hv->state.gpr[VIRTX_RAX];
    cpuid->subleaf = (uint32_t)hv->state.gpr[VIRTX_RCX];
    line = hw_cpuid_answer(hv, cpuid->leaf, cpuid->subleaf);
    cpuid->eax = line->eax;
    cpuid->ebx = line->ebx;
    cpuid->ecx = line->ecx;
    cpuid->edx = line->edx;
    return hw_offer(hv, status);
}

static bool hypercall_exit(struct hw_vcpu *hv, enum virtx_status *status)
{
    struct virtx_exit *exit = &hv->vcpu->exit;

    if (!hv->rules_hypercall) {
        hw_raise_vector(hv, VECTOR_UD);
        return true;
    }
    exit->hypercall.number = hv->state.gpr[VIRTX_RAX];
    return hw_offer(hv, status);
}

/* A value that the embedder has said it need not see. */
static bool is_cr3_target(const struct virtx_vcpu *vcpu, uint64_t value)
{
    for (uint32_t i = 0; i < vcpu->cr3_targets; i++)
        if (vcpu->cr3_target[i] == value)
            return true;
    return false;
}

static bool cr_exit(struct hw_vcpu *hv, enum virtx_status *status)
{
    struct virtx_exit_cr *cr = &hv->vcpu->exit.cr;
    const struct rule *rule;

    if (cr->reg == 3 && cr->access == VIRTX_WRITE &&
        (!virtx_rule_kind(hv->vcpu, VIRTX_INTERCEPT_CR) || is_cr3_target(hv->vcpu, cr->value))) {
        if (hw_cr_write(hv, 3, cr->value))
            hv->ops->advance(hv);
        return true;
    }
    rule = virtx_rule_find(hv->vcpu, VIRTX_INTERCEPT_CR, cr->reg, cr->access);

    if (cr->reg == 8 && !rule)
        hw_tpr_exit(hv);
    if (cr->access == VIRTX_READ)
        cr->value = hw_cr_read(hv, cr->reg);
    if (rule && cr->access == VIRTX_WRITE && rule->mask && (cr->reg == 0 || cr->reg == 4) &&
        !((hw_cr_read(hv, cr->reg) ^ cr->value) & rule->mask))
        rule = NULL; /* none of the bits of interest changes */
    return rule ? hw_offer(hv, status) : hw_exit_default(hv, status);
}

static bool dr_exit(struct hw_vcpu *hv, enum virtx_status *status)
{
    struct virtx_exit_cr *cr = &hv->vcpu->exit.cr;

    if (!virtx_rule_find(hv->vcpu, VIRTX_INTERCEPT_DR, cr->reg, cr->access))
        return hw_exit_default(hv, status);
    if (cr->access == VIRTX_READ && !hw_dr_access(hv, false, cr->reg, &cr->value))
        return true;
    return hw_offer(hv, status);
}

static bool exception_exit(struct hw_vcpu *hv, enum virtx_status *status)
{
    const struct virtx_exit_exception *exception = &hv->vcpu->exit.exception;

    if (exception->vector == VECTOR_PF && !hv->vcpu->vm->paging->nested) {
        uint32_t error = exception->error;

        hv->fault = (struct virtx_page_fault){
            .gva = exception->address,
            .gva_valid = true,
            .error = error,
            .access = error & PF_FETCH   ? VIRTX_EXECUTE
                      : error & PF_WRITE ? VIRTX_WRITE
                                         : VIRTX_READ,
        };
        return hw_page_fault(hv, status);
    }
    if (exception->vector == VECTOR_NM && hw_fpu_first_use(hv))
        return true;
    return hw_offer(hv, status);
}

static bool interrupt_exit(struct hw_vcpu *hv)
{
    const struct virtx *virtx = hv->vcpu->virtx;

    if (virtx->caps.features & VIRTX_FEATURE_POSTED_INTERRUPT)
        virtx->ops.interrupt(virtx->ctx, hv->acknowledged);
    else if (hv->host_if)
        x86_irq_window();
    hw_deadline_look(hv);
    if (!hv->host_if || hv->vcpu->vm->config.exit_on_interrupt)
        return hw_to_loop(hv);
    return true;
}

static bool instruction_exit(struct hw_vcpu *hv, enum virtx_status *status)
{
    struct virtx_exit_instruction *instruction = &hv->vcpu->exit.instruction;

    if (instruction->which == VIRTX_INSN_XSETBV) {
        instruction->operand = (uint32_t)hv->state.gpr[VIRTX_RCX];
        instruction->value = hv->state.gpr[VIRTX_RDX] << 32 | (uint32_t)hv->state.gpr[VIRTX_RAX];
    }
    return hw_offer(hv, status);
}

/* Exits that end inside src/hw, counted under the nearest public reason. */
static bool internal_exit(struct hw_vcpu *hv, enum virtx_status *status)
{
    struct virtx_vcpu *vcpu = hv->vcpu;

    switch (vcpu->exit.reason) {
    case HW_EXIT_HOST:
        vcpu->stats.exits[VIRTX_EXIT_INTERRUPT]++;
        return true;
    case HW_EXIT_WINDOW:
    case HW_EXIT_NMI_WINDOW:
    case HW_EXIT_TPR:
        vcpu->stats.exits[VIRTX_EXIT_WINDOW]++;
        hv->work |= HW_WORK_EVENT;
        return true;
    case HW_EXIT_PAGE_FAULT:
    case HW_EXIT_APIC:
        vcpu->stats.exits[VIRTX_EXIT_MEMORY]++;
        return hw_page_fault(hv, status);
    case HW_EXIT_EOI:
    case HW_EXIT_APIC_WRITE:
        vcpu->stats.exits[VIRTX_EXIT_MEMORY]++;
        return hw_apic_exit(hv);
    case HW_EXIT_EXECUTE:
        return hw_interpret(hv, status);
    case HW_EXIT_EXECUTE_FAULT:
        vcpu->stats.exits[VIRTX_EXIT_EXCEPTION]++;
        return hw_interpret_fault(hv, status);
    case HW_EXIT_TIMER:
        hv->work |= HW_WORK_EVENT | HW_WORK_DEADLINE;
        vcpu->stats.exits[VIRTX_EXIT_DEADLINE]++;
        return true;
    case HW_EXIT_TABLES_LOG:
        vcpu->stats.exits[VIRTX_EXIT_NONE]++;
        return true;
    case HW_EXIT_ABORTED:
        return true;
    case HW_EXIT_REFUSED:
        *status = hv->refusal;
        return false;
    default:
        vcpu->stats.exits[VIRTX_EXIT_UNKNOWN]++;
        vcpu->exit.reason = VIRTX_EXIT_UNKNOWN;
        return hw_to_loop(hv);
    }
}

bool hw_exit(struct hw_vcpu *hv, enum virtx_status *status)
{
    switch (hv->vcpu->exit.reason) {
    case VIRTX_EXIT_IO:
        return io_exit(hv, status);
    case VIRTX_EXIT_MSR:
        return msr_exit(hv, status);
    case VIRTX_EXIT_HYPERCALL:
        return hypercall_exit(hv, status);
    case VIRTX_EXIT_HLT:
        return hw_halt(hv);
    case VIRTX_EXIT_INTERRUPT:
        return interrupt_exit(hv);
    case VIRTX_EXIT_CPUID:
        return cpuid_exit(hv, status);
    case VIRTX_EXIT_CR:
        return cr_exit(hv, status);
    case VIRTX_EXIT_DR:
        return dr_exit(hv, status);
    case VIRTX_EXIT_EXCEPTION:
        return exception_exit(hv, status);
    case VIRTX_EXIT_INSTRUCTION:
        return instruction_exit(hv, status);
    case VIRTX_EXIT_SHUTDOWN:
        hw_triple_fault(hv);
        return true;
    case VIRTX_EXIT_TASK_SWITCH:
        return hw_task_switch(hv, status);
    case VIRTX_EXIT_INIT:
    case VIRTX_EXIT_SIPI:
    case VIRTX_EXIT_UNKNOWN:
        return hw_to_loop(hv);
    default:
        return internal_exit(hv, status);
    }
}

/* An exception that nobody wanted goes where it was going. */
static void reflect(struct hw_vcpu *hv)
{
    const struct virtx_exit *exit = &hv->vcpu->exit;
    struct virtx_event event = {
        .type = VIRTX_EVENT_EXCEPTION,
        .vector = exit->exception.vector,
        .has_error = exit->exception.has_error,
        .error = exit->exception.error,
        .address = exit->exception.address,
    };

    if (exit->length && event.vector == VECTOR_DB) { /* INT1 */
        event.type = VIRTX_EVENT_PRIV_EXCEPTION;
        event.length = exit->length;
    } else if (event.vector == VECTOR_BP || event.vector == VECTOR_OF) {
        event.type = VIRTX_EVENT_SOFT_EXCEPTION;
        event.length = exit->length;
    }
    hw_raise(hv, &event);
}

/* A port that an intercept passes through, but whose access exits all the same: because it spans
 * ports that do not, or the processor has no bitmap. */
static bool port_allowed(struct hw_vcpu *hv)
{
    struct virtx_exit_io *io = &hv->vcpu->exit.io;

    for (unsigned i = 0; i < io->size; i++) {
        const struct rule *rule =
            virtx_rule_find(hv->vcpu, VIRTX_INTERCEPT_PORT, (uint16_t)(io->port + i), io->access);

        if (!rule || rule->action != VIRTX_ACTION_ALLOW)
            return false;
    }
    return true;
}

static bool io_default(struct hw_vcpu *hv)
{
    struct virtx_exit_io *io = &hv->vcpu->exit.io;

    if (!hv->rules_port || io->string || !port_allowed(hv))
        return hw_ask(hv);
    if (io->access == VIRTX_WRITE)
        x86_out(io->port, io->size, (uint32_t)io->value);
    else
        io->value = x86_in(io->port, io->size);
    hw_complete_record(hv);
    return true;
}

bool hw_exit_default(struct hw_vcpu *hv, enum virtx_status *status)
{
    struct virtx_exit *exit = &hv->vcpu->exit;

    switch (exit->reason) {
    case VIRTX_EXIT_IO:
        return io_default(hv);
    case VIRTX_EXIT_MSR:
        return msr_default(hv);
    case VIRTX_EXIT_CPUID:
        hw_complete_record(hv);
        return true;
    case VIRTX_EXIT_HYPERCALL:
        hw_raise_vector(hv, VECTOR_UD);
        return true;
    case VIRTX_EXIT_CR:
        if (exit->cr.access == VIRTX_READ)
            exit->cr.value = hw_cr_read(hv, exit->cr.reg);
        hw_complete_record(hv);
        return true;
    case VIRTX_EXIT_DR:
        if (!hv->debug_loaded && !virtx_rule_kind(hv->vcpu, VIRTX_INTERCEPT_DR)) {
            hw_debug_load(hv); /* from now on without exits; the instruction runs again */
            return true;
        }
        if (exit->cr.access == VIRTX_WRITE ||
            hw_dr_access(hv, false, exit->cr.reg, &exit->cr.value))
            hw_complete_record(hv);
        return true;
    case VIRTX_EXIT_EXCEPTION:
        reflect(hv);
        return true;
    case VIRTX_EXIT_INSTRUCTION:
        return hw_instruction_default(hv, status);
    default:
        return hw_ask(hv);
    }
}
