/* SPDX-License-Identifier: BSD-2-Clause */
/* The LAPIC's timer. Nothing here counts: every question is answered from the time it is asked at,
 * so that no period, however short, costs more than one division (Intel SDM, "APIC Timer"). */
#include "irq/lapic_internal.h"

/* v * multiply / divide, rounded down (or up), UINT64_MAX if it does not fit. No 128-bit division,
 * which would need the compiler's library. */
static uint64_t scale(uint64_t v, uint32_t multiply, uint32_t divide, bool up)
{
    uint64_t whole, rest;

    if (multiply == divide)
        return v;
    whole = v / divide;
    rest = (v % divide) * multiply;
    rest = rest / divide + (up && rest % divide != 0);
    if (whole > (UINT64_MAX - rest) / multiply)
        return UINT64_MAX;
    return whole * multiply + rest;
}

/* Intel SDM, "Divide Configuration Register": 000B divides by 2, 111B by 1. */
static unsigned divide_shift(const struct virtx_lapic *l)
{
    uint32_t code = (l->timer_divide & 3) | (l->timer_divide & 8) >> 1;

    return (code + 1) & 7;
}

static bool deadline_mode(const struct virtx_lapic *l)
{
    return (l->lvt[VIRTX_LAPIC_LVT_TIMER] & LVT_TIMER_MODE) == LVT_TIMER_DEADLINE;
}

static bool periodic(const struct virtx_lapic *l)
{
    return (l->lvt[VIRTX_LAPIC_LVT_TIMER] & LVT_TIMER_MODE) == LVT_TIMER_PERIODIC;
}

/* Divided clocks in that time. */
uint64_t lapic_timer_ticks(const struct virtx_lapic *l, uint64_t time)
{
    return scale(time, l->config.bus_multiply, l->config.bus_divide, false) >> divide_shift(l);
}

/* Divided clocks since the count started. */
static uint64_t elapsed(const struct virtx_lapic *l, uint64_t now)
{
    return now <= l->timer_base ? 0 : lapic_timer_ticks(l, now - l->timer_base);
}

/* When the counter next reaches zero. */
static uint64_t expiry(const struct virtx_lapic *l)
{
    unsigned shift = divide_shift(l);
    uint64_t ticks;

    if (l->timer_next > UINT64_MAX >> shift)
        return VIRTX_LAPIC_NO_DEADLINE;
    ticks = scale(l->timer_next << shift, l->config.bus_divide, l->config.bus_multiply, true);
    if (ticks > UINT64_MAX - l->timer_base)
        return VIRTX_LAPIC_NO_DEADLINE;
    return l->timer_base + ticks;
}

/* The TSC deadline on the caller's clock; the offset counts as signed. */
static uint64_t host_deadline(const struct virtx_lapic *l)
{
    uint64_t behind = 0 - l->tsc_offset;

    if (l->tsc_offset <= INT64_MAX)
        return l->tsc_deadline > l->tsc_offset ? l->tsc_deadline - l->tsc_offset : 0;
    if (l->tsc_deadline > UINT64_MAX - behind)
        return VIRTX_LAPIC_NO_DEADLINE;
    return l->tsc_deadline + behind;
}

/* Works out when the user has to come back. A masked timer wakes nobody; what it missed is made up
 * for when somebody looks. */
void lapic_timer_plan(struct virtx_lapic *l)
{
    l->deadline = VIRTX_LAPIC_NO_DEADLINE;
    if ((l->lvt[VIRTX_LAPIC_LVT_TIMER] & LVT_MASKED) != 0)
        return;
    if (l->tsc_deadline != 0) {
        l->deadline = host_deadline(l);
    } else if (l->timer_running) {
        l->deadline = expiry(l);
        if (periodic(l) && l->deadline < l->timer_not_before)
            l->deadline = l->timer_not_before;
    }
}

void lapic_timer_reset(struct virtx_lapic *l)
{
    l->timer_running = false;
    l->timer_initial = 0;
    l->timer_divide = 0;
    l->timer_base = 0;
    l->timer_next = 0;
    l->timer_not_before = 0;
    l->tsc_deadline = 0;
    l->deadline = VIRTX_LAPIC_NO_DEADLINE;
}

/* Whether an expiry lies behind; moves the timer on to its next one. */
static bool timer_expired(struct virtx_lapic *l, uint64_t now)
{
    uint64_t count;

    if (l->tsc_deadline != 0) {
        if (now < host_deadline(l))
            return false;
        l->tsc_deadline = 0;
        return true;
    }
    if (!l->timer_running)
        return false;
    count = elapsed(l, now);
    if (count < l->timer_next)
        return false;
    if (periodic(l)) {
        l->timer_next += ((count - l->timer_next) / l->timer_initial + 1) * l->timer_initial;
        l->timer_not_before = now + l->config.min_period;
    } else {
        l->timer_running = false;
    }
    return true;
}

void lapic_timer_sync(struct virtx_lapic *l, uint64_t now)
{
    if (!timer_expired(l, now))
        return;
    lapic_raise(l, VIRTX_LAPIC_LVT_TIMER);
    lapic_timer_plan(l);
    /* Any access may be what finds the timer expired, a read of the count included. */
    l->config.changed(l->config.ctx);
}

uint32_t lapic_timer_count(struct virtx_lapic *l, uint64_t now)
{
    lapic_timer_sync(l, now);
    if (!l->timer_running)
        return 0;
    return (uint32_t)(l->timer_next - elapsed(l, now));
}

void lapic_timer_set_initial(struct virtx_lapic *l, uint32_t value, uint64_t now)
{
    /* "In TSC-deadline mode, writes to the initial-count register are ignored." */
    if (deadline_mode(l))
        return;
    lapic_timer_sync(l, now);
    l->timer_initial = value;
    l->timer_running = value != 0;
    l->timer_base = now;
    l->timer_next = value;
    l->timer_not_before = 0;
    lapic_timer_plan(l);
}

void lapic_timer_set_divide(struct virtx_lapic *l, uint32_t value, uint64_t now)
{
    uint32_t left = lapic_timer_count(l, now);

    l->timer_divide = value;
    if (!l->timer_running)
        return;
    l->timer_base = now;
    l->timer_next = left;
    lapic_timer_plan(l);
}

void lapic_timer_set_lvt(struct virtx_lapic *l, uint32_t value, uint64_t now)
{
    bool was_deadline = deadline_mode(l);

    /* What expired before this write did so under the old mask and vector. */
    lapic_timer_sync(l, now);
    lapic_set_lvt(l, VIRTX_LAPIC_LVT_TIMER, value);
    /* Changing to or from TSC-deadline mode disarms the timer. */
    if (deadline_mode(l) != was_deadline) {
        l->timer_running = false;
        l->timer_initial = 0;
        l->tsc_deadline = 0;
    }
    lapic_timer_plan(l);
}

void lapic_timer_set_deadline(struct virtx_lapic *l, uint64_t value, uint64_t now)
{
    if (!deadline_mode(l))
        return;
    lapic_timer_sync(l, now);
    l->tsc_deadline = value;
    lapic_timer_plan(l);
    lapic_timer_sync(l, now);
}

uint64_t virtx_lapic_deadline(const struct virtx_lapic *lapic)
{
    return lapic->deadline;
}

void virtx_lapic_advance(struct virtx_lapic *lapic, uint64_t now)
{
    if (now >= lapic->deadline)
        lapic_timer_sync(lapic, now);
}

void virtx_lapic_set_tsc_offset(struct virtx_lapic *lapic, uint64_t offset)
{
    lapic->tsc_offset = offset;
    lapic_timer_plan(lapic);
}
