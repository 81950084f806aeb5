/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A LAPIC's registers on their way to another machine, or another moment.
 *
 * A saved state comes from outside: nothing is taken from it that a guest's writes could not have
 * made, and all of it is judged before any of it is taken.
 */
#include "irq/lapic_internal.h"

#include "core/util.h"

#define LINES 3u

/* 64 vectors of a set. */
static uint64_t two_words(const struct virtx_lapic *l, unsigned set, unsigned i)
{
    return l->regs[set + 8 * i] | (uint64_t)l->regs[set + 8 * i + 4] << 32;
}

static void set_two_words(struct virtx_lapic *l, unsigned set, unsigned i, uint64_t bits)
{
    l->regs[set + 8 * i] = (uint32_t)bits;
    l->regs[set + 8 * i + 4] = (uint32_t)(bits >> 32);
}

void virtx_lapic_save(struct virtx_lapic *lapic, uint64_t now, struct virtx_lapic_state *state)
{
    lapic_timer_sync(lapic, now);
    lapic_fold(lapic);
    memset(state, 0, sizeof(*state));
    state->size = sizeof(*state);
    state->base = lapic->base;
    state->icr = lapic->icr;
    state->tsc_deadline = lapic->tsc_deadline;
    for (unsigned i = 0; i < ARRAY_SIZE(state->irr); i++) {
        state->irr[i] = two_words(lapic, LAPIC_IRR, i);
        state->isr[i] = two_words(lapic, LAPIC_ISR, i);
        state->tmr[i] = two_words(lapic, LAPIC_TMR, i);
    }
    memcpy(state->lvt, lapic->lvt, sizeof(state->lvt));
    state->ldr = lapic->ldr;
    state->dfr = lapic->dfr;
    state->svr = lapic->svr;
    state->esr = lapic->esr;
    state->esr_pending = lapic->esr_pending;
    state->tpr = virtx_lapic_get_tpr(lapic);
    state->lint_lines = __atomic_load_n(&lapic->lint_lines, __ATOMIC_RELAXED);
    state->extint_message = __atomic_load_n(&lapic->extint_message, __ATOMIC_RELAXED) != 0;
    state->timer_initial = lapic->timer_initial;
    state->timer_divide = lapic->timer_divide;
    state->timer_running = lapic->timer_running;
    if (lapic->timer_running) {
        state->timer_elapsed = now > lapic->timer_base ? now - lapic->timer_base : 0;
        state->timer_next = lapic->timer_next;
    }
}

/* Vectors that cannot be requested nor served are in no set. */
static bool set_good(const uint64_t set[4])
{
    return (set[0] & 0xffff) == 0;
}

static bool lvt_good(const struct virtx_lapic *l, const struct virtx_lapic_state *state)
{
    bool disabled = (state->svr & SVR_ENABLE) == 0;

    for (int i = 0; i < VIRTX_LAPIC_LVT_COUNT; i++) {
        uint32_t may = lapic_lvt_writable(l, i);
        uint32_t entry = state->lvt[i];

        if (i == VIRTX_LAPIC_LVT_LINT0 && lvt_mode(entry) == VIRTX_APIC_FIXED &&
            (entry & LVT_LEVEL) != 0)
            may |= LVT_REMOTE_IRR;
        if ((entry & ~may) != 0 || (disabled && (entry & LVT_MASKED) == 0))
            return false;
    }
    return true;
}

static bool timer_good(const struct virtx_lapic_state *state)
{
    bool deadline = (state->lvt[VIRTX_LAPIC_LVT_TIMER] & LVT_TIMER_MODE) == LVT_TIMER_DEADLINE;

    if ((state->timer_divide & ~0xbu) != 0)
        return false;
    if (deadline)
        return !state->timer_running && state->timer_initial == 0;
    return state->tsc_deadline == 0 &&
           (!state->timer_running || (state->timer_initial != 0 && state->timer_next != 0));
}

static bool state_good(const struct virtx_lapic *l, const struct virtx_lapic_state *state)
{
    return state->size == sizeof(*state) && lapic_base_good(l, state->base) &&
           set_good(state->irr) && set_good(state->isr) && set_good(state->tmr) &&
           (state->svr & ~lapic_svr_writable(l)) == 0 && (state->ldr & 0xffffff) == 0 &&
           (state->dfr & 0xfffffff) == 0xfffffff && (state->esr & ~0xffu) == 0 &&
           (state->esr_pending & ~0xffu) == 0 && (state->lint_lines & ~LINES) == 0 &&
           (state->icr & LAPIC_ICR_RESERVED) == 0 && lvt_good(l, state) && timer_good(state);
}

static void take_timer(struct virtx_lapic *l, uint64_t now, const struct virtx_lapic_state *state)
{
    l->tsc_deadline = state->tsc_deadline;
    l->timer_initial = state->timer_initial;
    l->timer_divide = state->timer_divide;
    l->timer_running = state->timer_running;
    l->timer_base = now - state->timer_elapsed; /* may lie before time 0: differences count */
    l->timer_next = state->timer_next;
    l->timer_not_before = 0;
    if (state->timer_running && state->timer_elapsed > now) {
        /* … which the counter cannot look back to: what has passed goes off what is left. */
        uint64_t gone = lapic_timer_ticks(l, state->timer_elapsed);

        l->timer_base = now;
        l->timer_next = state->timer_next > gone ? state->timer_next - gone : 1;
    }
    lapic_timer_plan(l);
}

bool virtx_lapic_restore(struct virtx_lapic *lapic, uint64_t now,
                         const struct virtx_lapic_state *state)
{
    uint64_t old = lapic->base;

    if (!state_good(lapic, state))
        return false;
    lapic_enter_reset_state(lapic);
    __atomic_store_n(&lapic->base, state->base, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < ARRAY_SIZE(state->irr); i++) {
        set_two_words(lapic, LAPIC_IRR, i, state->irr[i]);
        set_two_words(lapic, LAPIC_ISR, i, state->isr[i]);
        set_two_words(lapic, LAPIC_TMR, i, state->tmr[i]);
    }
    memcpy(lapic->lvt, state->lvt, sizeof(lapic->lvt));
    lapic->irr_max = lapic_highest(lapic, LAPIC_IRR, 255);
    lapic->isr_max = lapic_highest(lapic, LAPIC_ISR, 255);
    __atomic_store_n(&lapic->ldr, state->ldr, __ATOMIC_RELAXED);
    __atomic_store_n(&lapic->dfr, state->dfr, __ATOMIC_RELAXED);
    __atomic_store_n(&lapic->svr, state->svr, __ATOMIC_RELAXED);
    lapic->esr = state->esr;
    lapic->esr_pending = state->esr_pending;
    __atomic_store_n(&lapic->lint_lines, state->lint_lines, __ATOMIC_RELAXED);
    __atomic_store_n(&lapic->extint_message, state->extint_message, __ATOMIC_RELAXED);
    lapic->unsaid = true;
    virtx_lapic_set_tpr(lapic, state->tpr);
    take_timer(lapic, now, state);
    lapic->icr = state->icr;
    lapic_show(lapic);
    if (lapic->restored != NULL)
        lapic->restored(lapic, old);
    lapic_update_lint(lapic);
    lapic->config.changed(lapic->config.ctx);
    return true;
}
