/* SPDX-License-Identifier: BSD-2-Clause */
/* The real-time clock and CMOS memory of a PC (MC146818 data sheet). No alarm, no periodic
 * interrupt: register C always reads 0. */
#include "rtc.h"

enum {
    SECONDS = 0, MINUTES = 2, HOURS = 4, WEEKDAY = 6, DAY = 7, MONTH = 8, YEAR = 9,
    REG_A = 10, REG_B = 11, REG_C = 12, REG_D = 13, CENTURY = 0x32,
    B_24_HOURS = 2, B_BINARY = 4,
};

struct date {
    unsigned second, minute, hour, weekday, day, month, year;
};

static bool leap(unsigned year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

static struct date to_date(uint64_t epoch)
{
    static const uint8_t month_days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    struct date d = {.second = epoch % 60, .minute = epoch / 60 % 60, .hour = epoch / 3600 % 24,
                     .month = 1, .year = 1970};
    unsigned days = (unsigned)(epoch / 86400);

    d.weekday = (days + 4) % 7 + 1; /* 1 January 1970 was a Thursday; Sunday is 1 */
    while (days >= 365u + leap(d.year)) {
        days -= 365u + leap(d.year);
        d.year++;
    }
    for (;; d.month++) {
        unsigned length = month_days[d.month - 1] + (d.month == 2 && leap(d.year));
        if (days < length)
            break;
        days -= length;
    }
    d.day = days + 1;
    return d;
}

void rtc_init(struct rtc *rtc, uint64_t tsc_hz, uint64_t now, uint64_t epoch, uint64_t memory_bytes)
{
    uint64_t extended = memory_bytes > 0x100000 ? (memory_bytes - 0x100000) >> 10 : 0;
    uint64_t above_16m = memory_bytes > 0x1000000 ? (memory_bytes - 0x1000000) >> 16 : 0;

    *rtc = (struct rtc){.tsc_hz = tsc_hz, .start = now, .epoch = epoch};
    if (extended > 0xffff)
        extended = 0xffff;
    if (above_16m > 0xffff)
        above_16m = 0xffff;
    rtc->ram[REG_A] = 0x26;
    rtc->ram[REG_B] = B_24_HOURS;
    rtc->ram[REG_D] = 0x80; /* the battery is good */
    rtc->ram[0x15] = 640 & 0xff;
    rtc->ram[0x16] = 640 >> 8;
    rtc->ram[0x17] = rtc->ram[0x30] = (uint8_t)extended;
    rtc->ram[0x18] = rtc->ram[0x31] = (uint8_t)(extended >> 8);
    rtc->ram[0x34] = (uint8_t)above_16m;
    rtc->ram[0x35] = (uint8_t)(above_16m >> 8);
}

static uint8_t encode(const struct rtc *rtc, unsigned value)
{
    return (uint8_t)(rtc->ram[REG_B] & B_BINARY ? value : value / 10 << 4 | value % 10);
}

static uint8_t encode_hour(const struct rtc *rtc, unsigned hour)
{
    if (rtc->ram[REG_B] & B_24_HOURS)
        return encode(rtc, hour);
    return (uint8_t)(encode(rtc, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0));
}

static uint8_t read_register(const struct rtc *rtc, uint64_t now)
{
    struct date d = to_date(rtc->epoch + (now - rtc->start) / rtc->tsc_hz);

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
    default:
        return rtc->ram[rtc->index];
    }
}

uint8_t rtc_read(struct rtc *rtc, uint16_t port, uint64_t now)
{
    return port == 0x70 ? 0xff : read_register(rtc, now);
}

void rtc_write(struct rtc *rtc, uint16_t port, uint8_t value, uint64_t now)
{
    (void)now;
    if (port == 0x70)
        rtc->index = value & 0x7f; /* bit 7 masks NMIs, which nothing here raises */
    else if (rtc->index != REG_C && rtc->index != REG_D)
        rtc->ram[rtc->index] = value;
}
