/* SPDX-License-Identifier: BSD-2-Clause */
/* The real-time clock and CMOS memory of a PC (Motorola MC146818 data sheet): time, alarm, and the
 * periodic, alarm and update-ended interrupts. The divider always runs at 32768 Hz. */
#include "rtc.h"
#include "muldiv.h"

enum {
    SECONDS = 0,
    MINUTES = 2,
    HOURS = 4,
    ALARM = 1 /* behind each of them */,
    WEEKDAY = 6,
    DAY = 7,
    MONTH = 8,
    YEAR = 9,
    REG_A = 10,
    REG_B = 11,
    REG_C = 12,
    REG_D = 13,
    CENTURY = 0x32,

    A_RATE = 15,
    A_UPDATING = 0x80,
    B_24_HOURS = 2,
    B_BINARY = 4,
    B_UPDATED = 0x10,
    B_ALARM = 0x20,
    B_PERIODIC = 0x40,
    B_SET = 0x80,
    C_UPDATED = 0x10,
    C_ALARM = 0x20,
    C_PERIODIC = 0x40,
    C_INTERRUPT = 0x80,
    PM = 0x80,
    ANY = 0xc0, /* in a field of the alarm */
    DIVIDER_HZ = 32768,

    INDEX_PORT = 0x70,
    UPDATE_US = 2228, /* from "update in progress" to the new second: 244 us + 1984 us */
};

/* ---- Dates ---- */

static bool leap(unsigned year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

static unsigned days_in(unsigned month, unsigned year)
{
    static const uint8_t days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

    return days[month - 1] + (month == 2 && leap(year));
}

static struct rtc_date to_date(uint64_t epoch)
{
    struct rtc_date d = {.second = epoch % 60,
                         .minute = epoch / 60 % 60,
                         .hour = epoch / 3600 % 24,
                         .month = 1,
                         .year = 1970};
    uint64_t days = epoch / 86400;

    d.weekday = (unsigned)((days + 4) % 7 + 1); /* 1 January 1970 was a Thursday */
    d.year += (unsigned)(days / 146097 * 400);  /* the calendar repeats after 400 years */
    days %= 146097;
    for (; days >= 365u + leap(d.year); d.year++)
        days -= 365u + leap(d.year);
    for (; days >= days_in(d.month, d.year); d.month++)
        days -= days_in(d.month, d.year);
    d.day = (unsigned)days + 1;
    return d;
}

/* Impossible dates become possible ones. */
static uint64_t to_epoch(const struct rtc_date *d)
{
    unsigned month = d->month >= 1 && d->month <= 12 ? d->month : 1;
    uint64_t days = d->day ? d->day - 1 : 0;

    for (unsigned year = 1970; year < d->year; year++)
        days += 365u + leap(year);
    for (unsigned m = 1; m < month; m++)
        days += days_in(m, d->year);
    return days * 86400 + d->hour * 3600 + d->minute * 60 + d->second;
}

static struct rtc_date current(const struct rtc *rtc, uint64_t now)
{
    uint64_t ticks = now > rtc->start ? now - rtc->start : 0;

    return rtc->ram[REG_B] & B_SET ? rtc->held : to_date(rtc->epoch + ticks / rtc->tsc_hz);
}

/* ---- The registers' formats ---- */

static uint8_t encode(const struct rtc *rtc, unsigned value)
{
    return (uint8_t)(rtc->ram[REG_B] & B_BINARY ? value : value / 10 << 4 | value % 10);
}

static unsigned decode(const struct rtc *rtc, uint8_t value)
{
    return rtc->ram[REG_B] & B_BINARY ? value : (value >> 4) * 10u + (value & 15u);
}

static uint8_t encode_hour(const struct rtc *rtc, unsigned hour)
{
    if (rtc->ram[REG_B] & B_24_HOURS)
        return encode(rtc, hour);
    return encode(rtc, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? PM : 0);
}

static unsigned decode_hour(const struct rtc *rtc, uint8_t value)
{
    if (rtc->ram[REG_B] & B_24_HOURS)
        return decode(rtc, value);
    return decode(rtc, value & ~PM) % 12 + (value & PM ? 12 : 0);
}

/* ---- Interrupts ---- */

/* Clocks of the divider from one periodic interrupt to the next, 0: there are none. */
static uint64_t period(const struct rtc *rtc)
{
    unsigned rate = rtc->ram[REG_A] & A_RATE;

    if (!rate)
        return 0;
    return 1ull << (rate < 3 ? rate + 6 : rate - 1);
}

static uint64_t periods(const struct rtc *rtc, uint64_t now)
{
    return muldiv(now, DIVIDER_HZ, rtc->tsc_hz) / period(rtc);
}

/* Seconds since the clock was started. */
static uint64_t seconds(const struct rtc *rtc, uint64_t now)
{
    return now > rtc->start ? (now - rtc->start) / rtc->tsc_hz : 0;
}

static bool is_alarm(const struct rtc *rtc, uint64_t epoch)
{
    const uint8_t *field = rtc->ram + ALARM;
    uint8_t hour = encode_hour(rtc, epoch / 3600 % 24);

    return (field[SECONDS] >= ANY || field[SECONDS] == encode(rtc, epoch % 60)) &&
           (field[MINUTES] >= ANY || field[MINUTES] == encode(rtc, epoch / 60 % 60)) &&
           ((field[HOURS] & ANY) == ANY || field[HOURS] == hour);
}

/* The flags are raised whether or not their interrupts are on. */
static void catch_up(struct rtc *rtc, uint64_t now)
{
    enum { DAY_SECONDS = 86400 };
    uint8_t *c = &rtc->ram[REG_C];
    uint64_t from = seconds(rtc, rtc->seen), to = seconds(rtc, now);

    if (now <= rtc->seen)
        return;
    if (period(rtc) && periods(rtc, now) != periods(rtc, rtc->seen))
        *c |= C_PERIODIC;
    rtc->seen = now;
    if (rtc->ram[REG_B] & B_SET || to <= from)
        return;
    *c |= C_UPDATED;
    if (to - from > DAY_SECONDS)
        from = to - DAY_SECONDS; /* every time of day is in it */
    while (!(*c & C_ALARM) && from < to)
        if (is_alarm(rtc, rtc->epoch + ++from))
            *c |= C_ALARM;
}

bool rtc_active(const struct rtc *rtc)
{
    return rtc->ram[REG_B] & rtc->ram[REG_C] & (B_PERIODIC | B_ALARM | B_UPDATED);
}

bool rtc_interrupt(struct rtc *rtc, uint64_t now)
{
    catch_up(rtc, now);
    return rtc_active(rtc);
}

uint64_t rtc_deadline(const struct rtc *rtc)
{
    uint8_t b = rtc->ram[REG_B];
    uint64_t next = UINT64_MAX, at;

    if (rtc_active(rtc))
        return next; /* active until register C is read */
    if (b & B_PERIODIC && period(rtc)) {
        at = muldiv((periods(rtc, rtc->seen) + 1) * period(rtc), rtc->tsc_hz, DIVIDER_HZ) + 1;
        next = at;
    }
    if (b & (B_ALARM | B_UPDATED) && !(b & B_SET)) {
        at = rtc->start + (seconds(rtc, rtc->seen) + 1) * rtc->tsc_hz;
        next = at < next ? at : next;
    }
    return next;
}

/* ---- Access ---- */

void rtc_init(struct rtc *rtc, uint64_t tsc_hz, uint64_t now, uint64_t epoch, uint64_t low,
              uint64_t high)
{
    uint64_t extended = low > 0x100000 ? (low - 0x100000) >> 10 : 0;
    uint64_t above_16m = low > 0x1000000 ? (low - 0x1000000) >> 16 : 0;

    *rtc = (struct rtc){.tsc_hz = tsc_hz, .start = now, .seen = now, .epoch = epoch};
    if (extended > 0xffff)
        extended = 0xffff;
    rtc->ram[REG_A] = 0x26;
    rtc->ram[REG_B] = B_24_HOURS;
    rtc->ram[REG_D] = 0x80; /* the battery is good */
    rtc->ram[0x15] = 640 & 0xff;
    rtc->ram[0x16] = 640 >> 8;
    rtc->ram[0x17] = rtc->ram[0x30] = (uint8_t)extended;
    rtc->ram[0x18] = rtc->ram[0x31] = (uint8_t)(extended >> 8);
    rtc->ram[0x34] = (uint8_t)above_16m;
    rtc->ram[0x35] = (uint8_t)(above_16m >> 8);
    for (unsigned i = 0; i < 3; i++) /* in 64 KiB, as QEMU has it */
        rtc->ram[0x5b + i] = (uint8_t)(high >> (16 + 8 * i));
}

void rtc_reset(struct rtc *rtc)
{
    rtc->ram[REG_B] &= (uint8_t) ~(B_PERIODIC | B_ALARM | B_UPDATED);
    rtc->ram[REG_C] = 0;
}

static uint8_t read_a(const struct rtc *rtc, uint64_t now)
{
    uint64_t phase = now > rtc->start ? (now - rtc->start) % rtc->tsc_hz : 0;
    bool updating = !(rtc->ram[REG_B] & B_SET) &&
                    rtc->tsc_hz - phase <= muldiv(rtc->tsc_hz, UPDATE_US, 1000000);

    return rtc->ram[REG_A] | (updating ? A_UPDATING : 0);
}

/* Reading it clears it. */
static uint8_t read_c(struct rtc *rtc, uint64_t now)
{
    uint8_t value = rtc_interrupt(rtc, now) ? C_INTERRUPT : 0;

    value |= rtc->ram[REG_C];
    rtc->ram[REG_C] = 0;
    return value;
}

static uint8_t read_register(struct rtc *rtc, uint64_t now)
{
    struct rtc_date d = current(rtc, now);

    switch (rtc->index) {
    case SECONDS:
        return encode(rtc, d.second);
    case MINUTES:
        return encode(rtc, d.minute);
    case HOURS:
        return encode_hour(rtc, d.hour);
    case WEEKDAY:
        return encode(rtc, d.weekday);
    case DAY:
        return encode(rtc, d.day);
    case MONTH:
        return encode(rtc, d.month);
    case YEAR:
        return encode(rtc, d.year % 100);
    case CENTURY:
        return encode(rtc, d.year / 100);
    case REG_A:
        return read_a(rtc, now);
    case REG_C:
        return read_c(rtc, now);
    default:
        return rtc->ram[rtc->index];
    }
}

/* Changes one field of the date; false for a register that is not part of it. */
static bool change_date(const struct rtc *rtc, struct rtc_date *d, uint8_t value)
{
    switch (rtc->index) {
    case SECONDS:
        d->second = decode(rtc, value);
        return true;
    case MINUTES:
        d->minute = decode(rtc, value);
        return true;
    case HOURS:
        d->hour = decode_hour(rtc, value);
        return true;
    case WEEKDAY:
        d->weekday = decode(rtc, value); /* follows from the date when the clock runs again */
        return true;
    case DAY:
        d->day = decode(rtc, value);
        return true;
    case MONTH:
        d->month = decode(rtc, value);
        return true;
    case YEAR:
        d->year = d->year / 100 * 100 + decode(rtc, value) % 100;
        return true;
    case CENTURY:
        d->year = decode(rtc, value) * 100 + d->year % 100;
        return true;
    default:
        return false;
    }
}

static void write_b(struct rtc *rtc, uint8_t value, uint64_t now)
{
    bool stopped = rtc->ram[REG_B] & B_SET;

    if (value & B_SET && !stopped) {
        rtc->held = current(rtc, now);
    } else if (!(value & B_SET) && stopped) {
        rtc->epoch = to_epoch(&rtc->held);
        rtc->start = now;
    }
    if (value & B_SET)
        value &= (uint8_t)~B_UPDATED; /* there are no updates */
    rtc->ram[REG_B] = value;
}

static void write_register(struct rtc *rtc, uint8_t value, uint64_t now)
{
    struct rtc_date d = current(rtc, now);

    catch_up(rtc, now);
    if (rtc->index == REG_A) {
        rtc->ram[REG_A] = value & ~A_UPDATING;
    } else if (rtc->index == REG_B) {
        write_b(rtc, value, now);
    } else if (rtc->index == REG_C || rtc->index == REG_D) {
        return;
    } else if (!change_date(rtc, &d, value)) {
        rtc->ram[rtc->index] = value;
    } else if (rtc->ram[REG_B] & B_SET) {
        rtc->held = d;
    } else { /* the clock goes on within its second */
        if (now > rtc->start)
            rtc->start += (now - rtc->start) / rtc->tsc_hz * rtc->tsc_hz;
        rtc->epoch = to_epoch(&d);
    }
}

uint8_t rtc_read(struct rtc *rtc, uint16_t port, uint64_t now)
{
    return port == INDEX_PORT ? 0xff : read_register(rtc, now);
}

void rtc_write(struct rtc *rtc, uint16_t port, uint8_t value, uint64_t now)
{
    if (port == INDEX_PORT)
        rtc->index = value & 0x7f; /* bit 7 masks NMIs, which nothing here raises */
    else
        write_register(rtc, value, now);
}
