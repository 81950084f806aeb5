/* SPDX-License-Identifier: BSD-2-Clause */
/* How fast the time stamp counter and the local APIC timer run, measured with the PIT. */
#include "internal.h"

#define PIT_HZ         1193182u
#define PIT_TICKS      11932u /* 10 ms */
#define PIT_CHANNEL2   0x42
#define PIT_COMMAND    0x43
#define PIT_MODE0_CH2  0xb0 /* channel 2, both bytes, interrupt on terminal count */
#define PORT_SPEAKER   0x61
#define SPEAKER_GATE   0x01
#define SPEAKER_DATA   0x02
#define SPEAKER_OUT2   0x20
#define MAX_POLLS      100000000u
#define ASSUMED_TSC_HZ 1000000000ull /* without a PIT */

static struct bare_lock lock;
static uint64_t tsc_hz, timer_hz;

/* Lets 10 ms pass; false when the PIT does not count. */
static bool pit_wait(uint64_t *tsc, uint32_t *timer)
{
    uint8_t speaker = bare_in8(PORT_SPEAKER) & (uint8_t) ~(SPEAKER_GATE | SPEAKER_DATA);
    unsigned polls = 0;

    bare_out8(PORT_SPEAKER, speaker);
    bare_out8(PIT_COMMAND, PIT_MODE0_CH2);
    bare_out8(PIT_CHANNEL2, PIT_TICKS & 0xff);
    bare_out8(PIT_CHANNEL2, PIT_TICKS >> 8);
    uint64_t tsc_start = bare_tsc();
    uint32_t timer_start = bare_timer_read();
    bare_out8(PORT_SPEAKER, speaker | SPEAKER_GATE);
    while (!(bare_in8(PORT_SPEAKER) & SPEAKER_OUT2) && polls < MAX_POLLS)
        polls++;
    *tsc = bare_tsc() - tsc_start;
    *timer = timer_start - bare_timer_read();
    bare_out8(PORT_SPEAKER, speaker);
    return polls > 0 && polls < MAX_POLLS;
}

static void calibrate(void)
{
    uint64_t tsc;
    uint32_t timer;

    if (__atomic_load_n(&tsc_hz, __ATOMIC_ACQUIRE) != 0)
        return;
    uint64_t flags = bare_lock_irq(&lock);
    if (tsc_hz == 0) {
        struct timer_setting setting = bare_timer_measure();
        bool measured = pit_wait(&tsc, &timer);
        bare_timer_restore(setting);
        timer_hz = measured ? (uint64_t)timer * PIT_HZ / PIT_TICKS : ASSUMED_TSC_HZ;
        __atomic_store_n(&tsc_hz, measured ? tsc * PIT_HZ / PIT_TICKS : ASSUMED_TSC_HZ,
                         __ATOMIC_RELEASE);
    }
    bare_unlock_irq(&lock, flags);
}

uint64_t bare_tsc_hz(void)
{
    calibrate();
    return tsc_hz;
}

uint64_t bare_timer_hz(void)
{
    calibrate();
    return timer_hz;
}

void bare_delay_us(uint64_t microseconds)
{
    uint64_t ticks = bare_tsc_hz() / 1000000 * microseconds + 1, start = bare_tsc();

    while (bare_tsc() - start < ticks)
        bare_pause();
}
