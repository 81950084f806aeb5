/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Several vcpus of one VM, spread over processors of the host: vcpu n runs on processor n modulo
 * their number, in turns with the others there. A vcpu that halts, stops at a port or is kicked
 * gives way to the next one.
 */
#ifndef TESTS_GUEST_CREW_H
#define TESTS_GUEST_CREW_H

#include "harness.h"
#include <virtx/lapic.h>

enum {
    CREW_VECTOR_TICK = 0x62, /* of processor 0's timer */
    CREW_VECTOR_WAKE = 0x63, /* somebody there may have something to do */
};

struct crew_seat {
    struct virtx_vcpu *vcpu;
    struct virtx_lapic lapic;
    unsigned number, home; /* of the vcpu; the processor of the host that runs it */
    bool halted, done, failed;
    volatile uint64_t kicks; /* runs that ended with VIRTX_EXIT_KICK */
    uint64_t result;         /* what the guest gave to PORT_DONE */
};

extern struct crew_seat crew_seats[GUEST_CPUS];
extern unsigned crew_vcpus, crew_hosts;
extern struct virtx_apic_bus crew_bus; /* of the LAPICs */

/* What a case says before crew_open(), and has its defaults again after crew_close(). */
extern bool crew_without_lapics;
/* Serves an exit before the crew does; true: it is done with, and completed if it was pending. */
extern bool (*crew_exit)(struct crew_seat *seat, const struct virtx_exit *exit);
/* Called every CREW_TICK_US or so on processor 0, in an interrupt, while the crew runs. */
extern void (*crew_tick)(void);
enum { CREW_TICK_US = 50 };

/* A machine with so many vcpus, each of which begins with guest(its number). Returns false, and has
 * noted a failure, if the machine has not so many processors as are wanted, fewer if `fewer`. */
bool crew_open(unsigned vcpus, unsigned hosts, bool fewer, void (*guest)(uint64_t number));
/* Runs them all to PORT_DONE. */
void crew_run(void);
/* Checks that each came to its end there with the value 0. */
void crew_close(void);
/* Shows where each vcpu is, and ends the test. */
_Noreturn void crew_give_up(const char *what);

/* In the guest: the number of the vcpu to whose stack something belongs. */
unsigned crew_me(const void *stack);

#endif
