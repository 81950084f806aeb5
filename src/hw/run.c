/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The loop: enter, serve the exit, enter again, until something needs the embedder.
 *
 * Why no kick is lost. Whoever kicks sets a request bit (a locked operation) and then sends an
 * interrupt to the CPU where the vcpu is loaded, whether or not the guest is running there. The
 * loop turns interrupts off, looks at the requests, and enters with interrupts still off; they are
 * taken, as a VM exit, only inside the guest. So either the bit was set before the look, and is
 * seen; or the interrupt arrives after it, stays pending until the entry, and ends the guest's run
 * before its first instruction. A request that finds the vcpu not loaded sends nothing: the load
 * that follows is ordered before the look at the requests by the fence in prepare(). Nothing says
 * "now in the guest", so the steady state needs no locked operation at all.
 *
 * Where the interrupts are the guest's, the kick is an NMI, which nothing here turns off: the
 * vendor sees to it that one is not taken between the look and the guest without being noticed
 * (virtx_hw.hold_nmi).
 */
#include "hw/service.h"

struct virtx_exit *hw_record(struct hw_vcpu *hv, uint32_t reason)
{
    struct virtx_exit *exit = &hv->vcpu->exit;

    exit->reason = reason;
    exit->pending = false;
    exit->length = 0;
    exit->rip = hw_state(hv, VIRTX_STATE_RIP)->rip;
    return exit;
}

/* Turns the requests of other CPUs into work. True: a kick was among them. */
static bool take_requests(struct hw_vcpu *hv)
{
    struct virtx_vcpu *vcpu = hv->vcpu;
    uint32_t requests = virtx_backend_requests(vcpu, UINT32_MAX);

    if (requests & VIRTX_REQUEST_INTERCEPT)
        hv->work |= HW_WORK_CONTROLS;
    if (requests & (VIRTX_REQUEST_EVENT | VIRTX_REQUEST_POSTED))
        hv->work |= HW_WORK_EVENT;
    if (requests & VIRTX_REQUEST_DEADLINE)
        hv->work |= HW_WORK_EVENT | HW_WORK_DEADLINE;
    if (requests & VIRTX_REQUEST_NMI) {
        virtx_event_nmi(&vcpu->events, hw_state(hv, VIRTX_STATE_INTR)->interruptibility);
        hv->work |= HW_WORK_EVENT;
    }
    if (requests & (VIRTX_REQUEST_INIT | VIRTX_REQUEST_SIPI))
        hv->work |= HW_WORK_STARTUP;
    hv->soft->startup |= requests & (VIRTX_REQUEST_INIT | VIRTX_REQUEST_SIPI);
    if (requests & VIRTX_REQUEST_MEMORY) {
        /* What was dropped before the request was left has a generation of at most this. The
         * debt is as good as paid once it is recorded: no entry comes before its payment. */
        uint64_t generation = atomic_load(&vcpu->vm->generation);

        hw_owe(hv, vcpu->vm->paging->nested ? HW_FLUSH_NESTED : HW_FLUSH_TAG);
        virtx_backend_settle(vcpu, generation);
        if (!vcpu->vm->paging->nested)
            hv->work |= HW_WORK_ROOT; /* the root may have gone with its table */
    }
    return requests & VIRTX_REQUEST_KICK;
}

/* Everything that must happen between two entries but not in the steady state. */
static enum hw_next prepare(struct hw_vcpu *hv)
{
    struct virtx_vcpu *vcpu = hv->vcpu;

    if (hv->work & HW_WORK_LOADED) {
        atomic_thread_fence(memory_order_seq_cst);
        hv->work &= ~(uint32_t)HW_WORK_LOADED;
    }
    if (unlikely(hv->work & HW_WORK_NMI))
        hv->ops->hold_nmi(hv, true);
    if (atomic_load_explicit(&vcpu->requests, memory_order_relaxed) && take_requests(hv)) {
        hw_record(hv, VIRTX_EXIT_KICK);
        return HW_LEAVE;
    }
    if ((hv->work & HW_WORK_STARTUP) && hw_startup(hv) == HW_LEAVE)
        return HW_LEAVE;
    if (unlikely(hv->work & HW_WORK_DEADLINE) && hw_deadline_due(hv))
        return HW_LEAVE;
    if (unlikely(hv->work & (HW_WORK_TRAP | HW_WORK_HELD)))
        hw_traps_left(hv);
    if (hv->work & HW_WORK_EVENT) {
        if (hv->ops->apic_page)
            hw_apic_follow(hv);
        hw_tpr_follow(hv);
    }
    if (unlikely(hv->work & HW_WORK_ENGINE)) {
        hv->work &= ~(uint32_t)HW_WORK_ENGINE;
        hw_change(hv, VIRTX_STATE_CR | VIRTX_STATE_SEG | VIRTX_STATE_RFLAGS | VIRTX_STATE_SYSCALL |
                          VIRTX_STATE_MSR);
        hv->ops->engine(hv);
        hv->soft->confined = hv->confined;
        hv->confined |= (hv->work & HW_WORK_EXECUTE) != 0;
    }
    if (hv->work & HW_WORK_ROOT) {
        hv->work &= ~(uint32_t)HW_WORK_ROOT;
        hv->root = vcpu->vm->paging->root(vcpu);
        hv->ops->set_root(hv, hv->root);
    }
    if (hv->work & HW_WORK_CONTROLS) { /* which depend on the root (hw_fault_bits()) */
        hw_cpuid_follow(hv);
        hv->work &= ~(uint32_t)HW_WORK_CONTROLS;
        hw_controls_compute(hv);
        hv->ops->controls(hv);
    }
    if ((hv->work & (HW_WORK_EVENT | HW_WORK_HALTED)) && hw_events(hv) == HW_LEAVE)
        return HW_LEAVE;
    if (unlikely(hv->work & HW_WORK_DEADLINE))
        hw_deadline_follow(hv);
    if (hv->work & HW_WORK_FPU)
        hw_fpu_load(hv);
    if (hv->work & HW_WORK_SWITCH)
        hw_switch_to_guest(hv);
    if (hv->work & HW_WORK_FLUSH) {
        hv->work &= ~(uint32_t)HW_WORK_FLUSH;
        hv->ops->flush(hv, hv->flush);
        hv->flush = 0;
    }
    return hv->work & (HW_WORK_EXECUTE | HW_WORK_HELD) ? HW_EXECUTE : HW_ENTER;
}

/* There was no entry: what it was to deliver waits for the next one. */
static void refused(struct hw_vcpu *hv)
{
    if (hv->injected) {
        hv->injected = false;
        hv->reinject = hv->inflight;
        hv->has_reinject = true;
        hv->work |= HW_WORK_EVENT;
    }
}

/* Puts host state of a tier back, the shared part and the vendor's. */
static inline void leave_tier(struct hw_vcpu *hv, uint32_t tier)
{
    if (unlikely(tier & hv->soft->ours))
        hw_switch_to_host(hv, tier);
    hv->ops->to_host(hv, tier);
}

/* What an exit needs beyond its service. */
static __attribute__((noinline)) void after_exit(struct hw_vcpu *hv)
{
    if (hv->vcpu->exit.reason >= HW_EXIT_ABORTED) {
        refused(hv);
        return;
    }
    if (hv->switch_exit)
        leave_tier(hv, hv->vcpu->virtx->profile.at_exit);
    if (hv->injected | hv->has_reinject)
        hw_events_delivered(hv);
}

/* The rule for an access that has exited before, if it has a handler; else NULL. */
static inline const struct rule *met_before(struct hw_vcpu *hv, uint32_t kind, uint64_t value,
                                            uint32_t access, uint32_t span)
{
    const struct rule_found *line = virtx_found_line(hv->vcpu, kind, value);

    if (unlikely(!virtx_found_is(line, kind, value, access, span) || !line->rule ||
                 line->rule->action != VIRTX_ACTION_EXIT || hv->cr8_shadow) ||
        !line->rule->handler)
        return NULL;
    return line->rule;
}

static inline enum hw_quick quick_verdict(struct hw_vcpu *hv, const struct rule *rule)
{
    enum virtx_verdict verdict;

    hv->vcpu->exit.pending = false; /* a handler may read and write registers */
    verdict = virtx_rule_call(hv->vcpu, rule);
    if (likely(verdict == VIRTX_HANDLED))
        return HW_QUICK_NO;
    return hw_verdict(hv, verdict, &hv->status) ? HW_QUICK_ENTER : HW_QUICK_LEAVE;
}

static inline enum hw_quick quick_hypercall(struct hw_vcpu *hv)
{
    struct virtx_exit *exit = &hv->vcpu->exit;
    const struct rule *rule = met_before(hv, VIRTX_INTERCEPT_HYPERCALL, 0, 0, 1);
    enum hw_quick next;

    if (!rule)
        return HW_QUICK_NO;
    exit->hypercall.number = hv->state.gpr[VIRTX_RAX];
    next = quick_verdict(hv, rule);
    if (likely(next == HW_QUICK_NO)) {
        hv->state.gpr[VIRTX_RAX] = exit->hypercall.number;
        hv->ops->advance(hv);
        return HW_QUICK_ENTER;
    }
    return next;
}

/* A plain port access; the record is filled in. */
static inline enum hw_quick quick_port(struct hw_vcpu *hv)
{
    struct virtx_exit *exit = &hv->vcpu->exit;
    const struct rule *rule;
    enum hw_quick next;

    if (!hv->rules_port) {
        hw_ask_plain(hv, exit->io.access);
        return HW_QUICK_LEAVE;
    }
    rule = met_before(hv, VIRTX_INTERCEPT_PORT, exit->io.port, exit->io.access, exit->io.size);
    if (!rule)
        return HW_QUICK_NO;
    next = quick_verdict(hv, rule);
    if (likely(next == HW_QUICK_NO)) {
        if (exit->io.access == VIRTX_READ)
            hw_rax_write(hv, &exit->io.value, exit->io.size);
        hv->ops->advance(hv);
        return HW_QUICK_ENTER;
    }
    return next;
}

/* An MSR that no intercept is set for and that the library knows. */
static inline enum hw_quick quick_msr(struct hw_vcpu *hv)
{
    uint64_t *gpr = hv->state.gpr, value = 0;
    uint32_t index = (uint32_t)gpr[VIRTX_RCX];

    if (hv->vcpu->exit.msr.access == VIRTX_READ) {
        if (unlikely(hw_msr_read(hv, index, &value) != HW_MSR_OK))
            return HW_QUICK_NO;
        gpr[VIRTX_RAX] = (uint32_t)value;
        gpr[VIRTX_RDX] = value >> 32;
    } else {
        value = gpr[VIRTX_RDX] << 32 | (uint32_t)gpr[VIRTX_RAX];
        if (unlikely(hw_msr_write(hv, index, value) != HW_MSR_OK))
            return HW_QUICK_NO;
    }
    hv->ops->advance(hv);
    return HW_QUICK_ENTER;
}

/*
 * hv->ops->enter(hv), which keeps RBP alone of the registers that other calls keep. `*hv` comes
 * back as it went, but the compiler does not know: what it has read through it is not worth a place
 * on the stack.
 */
static inline uint32_t enter(struct hw_vcpu **hv)
{
#ifdef VIRTX_UNIT /* in user space, where a sanitizer may want RBP for itself */
    return (*hv)->ops->enter(*hv);
#else
    struct hw_vcpu *argument = *hv;
    uint64_t result = (uint64_t)argument->ops->enter;

    __asm__ volatile("call *%0"
                     : "+a"(result), "+D"(argument), "+r"(*hv)
                     :
                     : "rbx", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
                       "r15", "cc", "memory");
    return (uint32_t)result;
#endif
}

/* The exits that come by the million and need no judgement; hw_exit() knows them all. */
static inline enum hw_quick quick_exit(struct hw_vcpu *hv, uint32_t reason)
{
    if (reason == VIRTX_EXIT_IO && !hv->vcpu->exit.io.string) {
        hw_io_record(hv);
        return quick_port(hv);
    }
    if (reason == VIRTX_EXIT_MSR && !hv->rules_msr)
        return quick_msr(hv);
    if (reason == VIRTX_EXIT_HYPERCALL)
        return quick_hypercall(hv);
    if (reason == VIRTX_EXIT_HLT)
        return hw_halt(hv) ? HW_QUICK_ENTER : HW_QUICK_LEAVE;
    if (reason == VIRTX_EXIT_CR)
        return hw_quick_cr(hv);
    if (reason == VIRTX_EXIT_INSTRUCTION)
        return hw_quick_invlpg(hv);
    return HW_QUICK_NO;
}

/* Not an entry after all, or not yet. False: run returns. */
static __attribute__((noinline)) bool prepared(struct hw_vcpu *hv, bool *execute)
{
    enum hw_next next = prepare(hv);

    if (next != HW_ENTER && (hv->work & HW_WORK_NMI))
        hv->ops->hold_nmi(hv, false);
    *execute = next == HW_EXECUTE;
    if (next != HW_EXECUTE)
        return next == HW_ENTER;
    return hv->work & HW_WORK_EXECUTE ? hw_interpret(hv, &hv->status)
                                      : hw_interpret_held(hv, &hv->status);
}

/* A fault of the engine's, or one of the reasons that only src/hw knows. As hw_exit(). */
static inline bool serve_uncounted(struct hw_vcpu *hv, uint32_t reason)
{
    if (likely(reason == HW_EXIT_PAGE_FAULT)) {
        hv->vcpu->stats.exits[VIRTX_EXIT_MEMORY]++;
        return hw_page_fault(hv, &hv->status);
    }
    return hw_exit(hv, &hv->status);
}

static inline void loop(struct hw_vcpu *hv)
{
    for (;;) {
        struct virtx_vcpu *vcpu = hv->vcpu;
        uint32_t reason;

        if (unlikely(atomic_load_explicit(&vcpu->requests, memory_order_relaxed) | hv->work)) {
            bool executed;

            if (!prepared(hv, &executed))
                return;
            if (executed)
                continue;
        }
        hv->vcpu->stats.entries++;
        reason = enter(&hv);
        vcpu = hv->vcpu;
        if (unlikely(hv->after_exit))
            after_exit(hv);
        if (unlikely(reason >= ARRAY_SIZE(vcpu->stats.exits))) {
            if (serve_uncounted(hv, reason))
                continue;
            return;
        }
        vcpu->stats.exits[reason]++;
        if (reason == VIRTX_EXIT_CPUID && likely(hv->serve_cpuid)) {
            hw_cpuid_serve(hv);
            hv->ops->advance(hv);
            continue;
        }
        switch (quick_exit(hv, reason)) {
        case HW_QUICK_ENTER:
            continue;
        case HW_QUICK_LEAVE:
            return;
        default:
            if (!hw_exit(hv, &hv->status))
                return;
        }
    }
}

/* The last exit's instruction: completed, or a plain write that nobody had to complete. */
static inline void retire_answered(struct hw_vcpu *hv)
{
    struct virtx_exit *exit = &hv->vcpu->exit;

    if (exit->pending) {
        exit->pending = false;
        if (exit->reason == VIRTX_EXIT_MMIO)
            hw_mmio_written(hv);
    }
    hv->retire = false;
    hv->ops->advance(hv);
}

static __attribute__((noinline)) void at_return(struct hw_vcpu *hv)
{
    if (hv->cr8_shadow)
        hw_tpr_pull(hv);
    if (hv->leave_tier)
        leave_tier(hv, hv->soft->return_tier);
}

enum virtx_status hw_run(struct virtx_vcpu *vcpu)
{
    struct hw_vcpu *hv = hw_of(vcpu);

    hv->host_if = (x86_irq_save() & RFLAGS_IF) != 0;
    hv->status = VIRTX_OK;
    if (hv->retire | vcpu->exit.pending)
        retire_answered(hv);
    if (unlikely(hv->cr8_shadow))
        hw_tpr_push(hv);
    loop(hv);
    vcpu->stats.returns++;
    hv->dirty |= hv->returned;
    if (unlikely(hv->at_return))
        at_return(hv);
    x86_irq_restore(hv->host_if ? RFLAGS_IF : 0);
    return hv->status;
}

/* Any CPU, any context. The request bit has been set by the caller; see the top of this file. */
void hw_kick(struct virtx_vcpu *vcpu)
{
    uint32_t cpu = atomic_load(&vcpu->cpu);

    if (cpu != VIRTX_NO_CPU)
        vcpu->virtx->ops.kick_cpu(vcpu->virtx->ctx, cpu);
}

uint64_t hw_nmi_return(const struct virtx *virtx, uint64_t rip)
{
    const struct virtx_hw *ops = hw_ops(virtx);

    return ops->nmi_return ? ops->nmi_return(rip) : rip;
}
