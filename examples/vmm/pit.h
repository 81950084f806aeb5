/* SPDX-License-Identifier: BSD-2-Clause */
/* An 8254 interval timer computed from the TSC: nothing ticks, everything is derived on demand. */
#ifndef VMM_PIT_H
#define VMM_PIT_H

#include <stdbool.h>
#include <stdint.h>

#define PIT_HZ 1193182

struct pit_channel {
    uint64_t start;    /* TSC at which counting began, while `counting` */
    uint64_t held;     /* ticks counted before that */
    uint64_t served;   /* periods (modes 2, 3) or 1 whose interrupt has been taken */
    uint64_t earliest; /* TSC before which none is given, so that the guest sees the one before */
    uint32_t period;   /* 1 to 0x10000 */
    uint32_t next;     /* a count written while another is running; 0: none */
    uint16_t latch;
    uint8_t mode, access; /* access: 1 low, 2 high, 3 low then high */
    uint8_t write_low, status;
    bool bcd, write_high_next, read_high_next, latched, status_latched;
    bool loaded;       /* a count has been written since the control word */
    bool counting;
    bool owed;         /* an interrupt of an earlier programming has not been taken */
    bool gate;
};

struct pit {
    uint64_t tsc_hz;
    struct pit_channel channel[3];
    bool speaker; /* port 0x61 bit 1 */
};

void pit_init(struct pit *pit, uint64_t tsc_hz);
/* Ports 0x40 to 0x43 and 0x61. */
uint8_t pit_read(struct pit *pit, uint16_t port, uint64_t now);
void pit_write(struct pit *pit, uint16_t port, uint8_t value, uint64_t now);
/* Whether channel 0 has fired since the last call. Periods that were missed, because the guest was
 * not run, follow one after another, eight in the time of one: a guest that counts them keeps its
 * time. */
bool pit_fired(struct pit *pit, uint64_t now);
/* TSC at which channel 0 fires next; UINT64_MAX: never. */
uint64_t pit_deadline(const struct pit *pit);

#endif
