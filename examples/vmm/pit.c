/* SPDX-License-Identifier: BSD-2-Clause */
/* An 8254 interval timer (Intel 8254 data sheet). A count begins with the clock in which it is
 * written, not with the next one; in mode 3 a new count waits for the whole cycle's end. */
#include "pit.h"
#include "muldiv.h"

enum {
    MODE_TERMINAL_COUNT,
    MODE_ONE_SHOT,
    MODE_RATE,
    MODE_SQUARE,
    MODE_SOFTWARE_STROBE,
    MODE_HARDWARE_STROBE,

    ACCESS_LOW = 1,
    ACCESS_HIGH = 2,
    ACCESS_BOTH = 3,

    CONTROL = 0x43,
    SYSTEM_CONTROL_B = 0x61,
    REFRESH_HZ = 66667, /* a PC's memory refresh, which bit 4 of port 0x61 shows */

    MISSED_MOST = 1000, /* periods whose interrupts are made good */
    CATCH_UP = 8,       /* in the time of one */
};

void pit_init(struct pit *pit, uint64_t tsc_hz)
{
    *pit = (struct pit){.tsc_hz = tsc_hz};
    for (unsigned i = 0; i < 3; i++)
        pit->channel[i] = (struct pit_channel){.access = ACCESS_BOTH, .period = 0x10000,
                                               .gate = i != 2};
}

/* ---- Counting ---- */

static bool periodic(const struct pit_channel *c)
{
    return c->mode == MODE_RATE || c->mode == MODE_SQUARE;
}

/* In these modes it is a rising gate that starts the count. */
static bool triggered(const struct pit_channel *c)
{
    return c->mode == MODE_ONE_SHOT || c->mode == MODE_HARDWARE_STROBE;
}

static uint64_t ticks_of(const struct pit *pit, const struct pit_channel *c, uint64_t now)
{
    uint64_t ticks = c->held;

    if (c->counting && now > c->start)
        ticks += muldiv(now - c->start, PIT_HZ, pit->tsc_hz);
    return ticks;
}

static void start(struct pit_channel *c, uint64_t now, bool counting)
{
    if (c->next)
        c->period = c->next;
    c->next = 0;
    c->start = now;
    c->held = c->served = 0;
    c->counting = counting;
}

/* Remembers an interrupt that has come due under the programming that now ends. */
static void close_account(const struct pit *pit, struct pit_channel *c, uint64_t now)
{
    uint64_t done = c->loaded ? ticks_of(pit, c, now) / c->period : 0;

    c->owed |= c->counting && done > c->served && (periodic(c) || !c->served);
}

/* Lets a count that was written during a period take over at its end. */
static void settle(const struct pit *pit, struct pit_channel *c, uint64_t now)
{
    uint64_t end;

    if (!c->next || !periodic(c) || !c->counting || ticks_of(pit, c, now) < c->period)
        return;
    end = c->start + muldiv(c->period, pit->tsc_hz, PIT_HZ);
    c->owed |= !c->served;
    start(c, end, true);
}

static uint16_t to_bcd(uint64_t value)
{
    return (uint16_t)(value / 1000 % 10 << 12 | value / 100 % 10 << 8 | value / 10 % 10 << 4 |
                      value % 10);
}

static uint32_t from_bcd(uint16_t value)
{
    return (value >> 12) * 1000u + (value >> 8 & 15) * 100u + (value >> 4 & 15) * 10u +
           (value & 15);
}

/* Mode 3 counts by two, from an even number, twice in a period. */
static uint64_t square_count(const struct pit_channel *c, uint64_t ticks)
{
    uint64_t high = (c->period + 1) / 2, phase = ticks % c->period;

    return (c->period & ~1u) - 2 * (phase < high ? phase : phase - high);
}

static uint16_t count(const struct pit *pit, const struct pit_channel *c, uint64_t now)
{
    uint64_t ticks = ticks_of(pit, c, now), value;

    if (c->mode == MODE_SQUARE)
        value = square_count(c, ticks);
    else if (c->mode == MODE_RATE)
        value = c->period - ticks % c->period;
    else /* the others go on through zero */
        value = c->period + 10000ull * 0x10000 - ticks % (10000ull * 0x10000);
    return c->bcd ? to_bcd(value) : (uint16_t)value;
}

static bool output(const struct pit *pit, const struct pit_channel *c, uint64_t now)
{
    uint64_t ticks = ticks_of(pit, c, now);

    switch (c->mode) {
    case MODE_TERMINAL_COUNT:
        return c->loaded && ticks >= c->period;
    case MODE_ONE_SHOT:
        return !c->counting || ticks >= c->period;
    case MODE_RATE:
        return !c->counting || ticks % c->period != c->period - 1;
    case MODE_SQUARE:
        return !c->counting || ticks % c->period < (c->period + 1) / 2;
    default:
        return !c->loaded || ticks != c->period;
    }
}

/* ---- Programming ---- */

static void load(const struct pit *pit, struct pit_channel *c, uint16_t value, uint64_t now)
{
    uint32_t reload = c->bcd ? from_bcd(value) : value;
    uint64_t done;

    c->next = reload ? reload : c->bcd ? 10000 : 0x10000;
    if (c->counting && periodic(c)) {
        /* The new count waits for the end of the period that is running now. */
        done = ticks_of(pit, c, now) / c->period;
        c->owed |= done > c->served;
        if (done) {
            c->start += muldiv(done * c->period, pit->tsc_hz, PIT_HZ);
            c->served = 0;
        }
    } else if (!triggered(c)) {
        close_account(pit, c, now);
        start(c, now, c->gate);
    } else if (!c->counting) {
        c->period = c->next;
    }
    c->loaded = true;
}

static void write_channel(const struct pit *pit, struct pit_channel *c, uint8_t value, uint64_t now)
{
    if (c->access == ACCESS_LOW) {
        load(pit, c, value, now);
    } else if (c->access == ACCESS_HIGH) {
        load(pit, c, (uint16_t)(value << 8), now);
    } else if (!c->write_high_next) {
        c->write_low = value;
        c->write_high_next = true;
        if (c->mode == MODE_TERMINAL_COUNT) { /* the first byte stops the count */
            close_account(pit, c, now);
            c->loaded = c->counting = false;
        }
    } else {
        c->write_high_next = false;
        load(pit, c, (uint16_t)(value << 8 | c->write_low), now);
    }
}

static void latch_count(const struct pit *pit, struct pit_channel *c, uint64_t now)
{
    if (!c->latched) {
        c->latch = count(pit, c, now);
        c->latched = true;
    }
}

static void latch_status(const struct pit *pit, struct pit_channel *c, uint64_t now)
{
    bool null_count = !c->loaded || c->next;

    if (!c->status_latched) {
        c->status = (uint8_t)(output(pit, c, now) << 7 | null_count << 6 | c->access << 4 |
                              c->mode << 1 | c->bcd);
        c->status_latched = true;
    }
}

static void program(const struct pit *pit, struct pit_channel *c, uint8_t value, uint64_t now)
{
    struct pit_channel fresh = {.access = value >> 4 & 3, .mode = value >> 1 & 7, .bcd = value & 1,
                                .period = c->period, .gate = c->gate};

    close_account(pit, c, now);
    if (fresh.mode > MODE_HARDWARE_STROBE)
        fresh.mode &= 3; /* 6 and 7 are 2 and 3 */
    fresh.owed = c->owed;
    *c = fresh;
}

static void write_control(struct pit *pit, uint8_t value, uint64_t now)
{
    unsigned select = value >> 6;

    if (select < 3) {
        if (value & 0x30)
            program(pit, &pit->channel[select], value, now);
        else
            latch_count(pit, &pit->channel[select], now);
        return;
    }
    for (unsigned i = 0; i < 3; i++) { /* read-back: the two inhibit bits are active low */
        if (!(value & 2u << i))
            continue;
        if (!(value & 0x20))
            latch_count(pit, &pit->channel[i], now);
        if (!(value & 0x10))
            latch_status(pit, &pit->channel[i], now);
    }
}

static void set_gate(const struct pit *pit, struct pit_channel *c, bool gate, uint64_t now)
{
    if (gate == c->gate)
        return;
    c->gate = gate;
    if (!c->loaded)
        return;
    if (!gate) {
        if (!triggered(c)) {
            c->held = ticks_of(pit, c, now);
            c->counting = false;
        }
    } else if (periodic(c) || triggered(c)) {
        start(c, now, true);
    } else { /* goes on from where it stopped */
        c->start = now;
        c->counting = true;
    }
}

/* ---- Ports ---- */

static uint8_t read_channel(const struct pit *pit, struct pit_channel *c, uint64_t now)
{
    uint16_t value;

    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    value = c->latched ? c->latch : count(pit, c, now);
    if (c->access == ACCESS_BOTH) {
        c->read_high_next = !c->read_high_next;
        c->latch = value; /* both bytes come from one count */
        c->latched = c->read_high_next;
        return (uint8_t)(c->read_high_next ? value : value >> 8);
    }
    c->latched = false;
    return (uint8_t)(c->access == ACCESS_HIGH ? value >> 8 : value);
}

uint8_t pit_read(struct pit *pit, uint16_t port, uint64_t now)
{
    struct pit_channel *c = &pit->channel[port == SYSTEM_CONTROL_B ? 2 : port & 3];

    if (port == CONTROL)
        return 0xff;
    settle(pit, c, now);
    if (port == SYSTEM_CONTROL_B)
        return (uint8_t)(c->gate | pit->speaker << 1 |
                         (muldiv(now, REFRESH_HZ, pit->tsc_hz) & 1) << 4 |
                         output(pit, c, now) << 5);
    return read_channel(pit, c, now);
}

void pit_write(struct pit *pit, uint16_t port, uint8_t value, uint64_t now)
{
    for (unsigned i = 0; i < 3; i++)
        settle(pit, &pit->channel[i], now);
    if (port == SYSTEM_CONTROL_B) {
        set_gate(pit, &pit->channel[2], value & 1, now);
        pit->speaker = value >> 1 & 1;
    } else if (port == CONTROL) {
        write_control(pit, value, now);
    } else {
        write_channel(pit, &pit->channel[port & 3], value, now);
    }
}

/* ---- Interrupts ---- */

/* Periods that have ended without their interrupt; those of long ago are given up. */
static uint64_t missed(const struct pit *pit, struct pit_channel *c, uint64_t now)
{
    uint64_t done = c->counting ? ticks_of(pit, c, now) / c->period : 0;

    if (done > c->served + MISSED_MOST)
        c->served = done - MISSED_MOST;
    return done > c->served ? done - c->served : 0;
}

bool pit_fired(struct pit *pit, uint64_t now)
{
    struct pit_channel *c = &pit->channel[0];
    uint64_t periods;

    settle(pit, c, now);
    close_account(pit, c, now);
    if (!c->owed || now < c->earliest)
        return false;
    c->owed = false;
    c->earliest = 0;
    periods = missed(pit, c, now);
    if (periods > 1 && periodic(c)) {
        c->earliest = now + muldiv(c->period, pit->tsc_hz, PIT_HZ) / CATCH_UP;
        periods = 1;
    }
    c->served += periods;
    return true;
}

uint64_t pit_deadline(const struct pit *pit)
{
    const struct pit_channel *c = &pit->channel[0];
    uint64_t next;

    if (c->owed)
        return c->earliest;
    if (!c->counting || (!periodic(c) && c->served))
        return UINT64_MAX;
    next = c->start + muldiv((c->served + 1) * c->period, pit->tsc_hz, PIT_HZ) + 1;
    return next > c->earliest ? next : c->earliest;
}
