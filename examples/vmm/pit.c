/* SPDX-License-Identifier: BSD-2-Clause */
/* An 8254 interval timer (Intel 8254 data sheet), counting in binary. */
#include "pit.h"
#include "muldiv.h"

void pit_init(struct pit *pit, uint64_t tsc_hz)
{
    *pit = (struct pit){.tsc_hz = tsc_hz};
    for (unsigned i = 0; i < 3; i++)
        pit->channel[i] = (struct pit_channel){.access = 3, .gate = i != 2};
}

static uint64_t ticks_since(const struct pit *pit, const struct pit_channel *c, uint64_t now)
{
    return now > c->start ? muldiv(now - c->start, PIT_HZ, pit->tsc_hz) : 0;
}

static uint32_t period(const struct pit_channel *c)
{
    return c->reload ? c->reload : 0x10000;
}

static bool periodic(const struct pit_channel *c)
{
    return c->mode == 2 || c->mode == 3;
}

static uint16_t count(const struct pit *pit, const struct pit_channel *c, uint64_t now)
{
    uint64_t ticks = ticks_since(pit, c, now);

    if (!c->loaded || !c->gate)
        return c->reload;
    if (c->mode == 3) /* counts by two, twice a period */
        return (uint16_t)(period(c) - 2 * ticks % period(c));
    if (c->mode == 2)
        return (uint16_t)(period(c) - ticks % period(c));
    return (uint16_t)(period(c) - ticks); /* the others go on through zero */
}

static bool output(const struct pit *pit, const struct pit_channel *c, uint64_t now)
{
    uint64_t ticks = ticks_since(pit, c, now);

    if (!c->loaded)
        return c->mode != 0;
    switch (c->mode) {
    case 2:
        return ticks % period(c) != period(c) - 1;
    case 3:
        return ticks % period(c) < (period(c) + 1) / 2;
    default:
        return ticks >= period(c);
    }
}

static uint8_t read_channel(struct pit *pit, struct pit_channel *c, uint64_t now)
{
    uint16_t value;

    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    value = c->latched ? c->latch : count(pit, c, now);
    if (c->access == 3) {
        c->read_high_next = !c->read_high_next;
        if (c->read_high_next) {
            c->latch = value; /* both bytes come from one count */
            c->latched = true;
            return (uint8_t)value;
        }
        c->latched = false;
        return (uint8_t)(value >> 8);
    }
    c->latched = false;
    return (uint8_t)(c->access == 2 ? value >> 8 : value);
}

static void load(struct pit_channel *c, uint16_t reload, uint64_t now)
{
    c->reload = reload;
    c->start = now;
    c->served = 0;
    c->loaded = true;
}

static void write_channel(struct pit_channel *c, uint8_t value, uint64_t now)
{
    if (c->access == 1) {
        load(c, value, now);
    } else if (c->access == 2) {
        load(c, (uint16_t)(value << 8), now);
    } else if (!c->write_high_next) {
        c->write_low = value;
        c->write_high_next = true;
    } else {
        c->write_high_next = false;
        load(c, (uint16_t)(value << 8 | c->write_low), now);
    }
}

static void latch_count(struct pit *pit, struct pit_channel *c, uint64_t now)
{
    if (!c->latched) {
        c->latch = count(pit, c, now);
        c->latched = true;
    }
}

static void latch_status(struct pit *pit, struct pit_channel *c, uint64_t now)
{
    c->status = (uint8_t)(output(pit, c, now) << 7 | !c->loaded << 6 | c->access << 4 |
                          c->mode << 1);
    c->status_latched = true;
}

static void write_control(struct pit *pit, uint8_t value, uint64_t now)
{
    unsigned select = value >> 6;

    if (select == 3) { /* read-back: the two inhibit bits are active low */
        for (unsigned i = 0; i < 3; i++) {
            if (!(value & 2u << i))
                continue;
            if (!(value & 0x20))
                latch_count(pit, &pit->channel[i], now);
            if (!(value & 0x10))
                latch_status(pit, &pit->channel[i], now);
        }
        return;
    }
    struct pit_channel *c = &pit->channel[select];
    if (!(value & 0x30)) {
        latch_count(pit, c, now);
        return;
    }
    c->access = value >> 4 & 3;
    c->mode = value >> 1 & 7;
    if (c->mode > 5)
        c->mode &= 3; /* 6 and 7 are 2 and 3 */
    c->loaded = c->write_high_next = c->read_high_next = c->latched = false;
}

uint8_t pit_read(struct pit *pit, uint16_t port, uint64_t now)
{
    if (port == 0x61) /* bit 4 toggles with memory refresh: every 15 microseconds on a PC */
        return (uint8_t)(pit->channel[2].gate | pit->speaker << 1 |
                         (muldiv(now, 66667, pit->tsc_hz) & 1) << 4 |
                         output(pit, &pit->channel[2], now) << 5);
    if (port == 0x43)
        return 0xff;
    return read_channel(pit, &pit->channel[port & 3], now);
}

void pit_write(struct pit *pit, uint16_t port, uint8_t value, uint64_t now)
{
    if (port == 0x61) {
        bool gate = value & 1;
        if (gate && !pit->channel[2].gate)
            pit->channel[2].start = now; /* a rising gate starts the count */
        pit->channel[2].gate = gate;
        pit->speaker = value >> 1 & 1;
    } else if (port == 0x43) {
        write_control(pit, value, now);
    } else {
        write_channel(&pit->channel[port & 3], value, now);
    }
}

bool pit_fired(struct pit *pit, uint64_t now)
{
    struct pit_channel *c = &pit->channel[0];
    uint64_t periods;

    if (!c->loaded)
        return false;
    periods = ticks_since(pit, c, now) / period(c);
    if (!periodic(c) && periods > 1)
        periods = 1;
    if (periods <= c->served)
        return false;
    c->served = periods;
    return true;
}

uint64_t pit_deadline(const struct pit *pit)
{
    const struct pit_channel *c = &pit->channel[0];

    if (!c->loaded || (!periodic(c) && c->served))
        return UINT64_MAX;
    return c->start + muldiv((c->served + 1) * period(c), pit->tsc_hz, PIT_HZ) + 1;
}
