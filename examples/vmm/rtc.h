/* SPDX-License-Identifier: BSD-2-Clause */
/* The real-time clock and CMOS memory of a PC (MC146818). */
#ifndef VMM_RTC_H
#define VMM_RTC_H

#include <stdbool.h>
#include <stdint.h>

struct rtc_date {
    unsigned second, minute, hour, day, month, year; /* day and month from 1 */
    unsigned weekday;                                /* from 1, Sunday */
};

struct rtc {
    uint64_t tsc_hz, start; /* TSC at which the clock stood at `epoch` */
    uint64_t epoch;         /* seconds since 1970 */
    struct rtc_date held;   /* what the registers hold while the guest has stopped the clock */
    uint64_t seen;          /* TSC up to which register C tells what has happened */
    uint8_t index;
    uint8_t ram[128];
};

/* `low` and `high` are the bytes of memory below and above 4 GiB, for the size registers. */
void rtc_init(struct rtc *rtc, uint64_t tsc_hz, uint64_t now, uint64_t epoch, uint64_t low,
              uint64_t high);
/* What a reset does: the interrupts are off; the time and the memory stay. */
void rtc_reset(struct rtc *rtc);
/* Brings register C up to date; whether the interrupt line is active. */
bool rtc_interrupt(struct rtc *rtc, uint64_t now);
/* The same as of the last access or look. */
bool rtc_active(const struct rtc *rtc);
/* TSC at which the line may become active next. */
uint64_t rtc_deadline(const struct rtc *rtc);
/* Ports 0x70 and 0x71. */
uint8_t rtc_read(struct rtc *rtc, uint16_t port, uint64_t now);
void rtc_write(struct rtc *rtc, uint16_t port, uint8_t value, uint64_t now);

#endif
