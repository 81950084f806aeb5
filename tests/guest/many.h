/* SPDX-License-Identifier: BSD-2-Clause */
/* What the cases of many_*.c share: the guest's tools, what each vcpu counts, crews of three sizes.
 */
#ifndef TESTS_GUEST_MANY_H
#define TESTS_GUEST_MANY_H

#include "crew.h"
#include "guest_lapic.h"

enum {
    ICR_NMI = 4 << 8,
    ICR_FIXED = 0x4000,
    LVT_MASKED = 1 << 16,
    LVT_PERIODIC = 1 << 17,
    VECTOR = 0x50, /* and a vcpu's number */
    TIMER = 0x48,  /* below the others: on a slow machine it is always there again */
    INJECTED = 0x58,
    OTHER = 0x81 + 1,
    PORT_BELL = 0x514, /* the guest wants something of the host */
    PORT_NOTE = 0x518, /* the host looks at the counters */
    PAGE = 4096,
};

/* What each vcpu counts; nobody else writes there. */
struct mine {
    uint64_t got[256];  /* by vector, in the guest's handlers */
    uint64_t misplaced; /* came at a wrong instruction */
    uint64_t depth, deepest, in_nmi, sent, ready, accepted, exits, noted;
};

extern volatile struct mine mine[GUEST_CPUS];
extern uint64_t rounds;
extern volatile uint64_t host_interrupts[BARE_MAX_CPUS];

/* ---- In the guest ---- */

/* Whose handler this is. */
volatile struct mine *seat_of(const struct bare_frame *frame);
/* Interrupts are off: the two halves of the ICR belong together. */
void send(uint64_t to, uint32_t command);
void send_safely(uint64_t to, uint32_t command);
uint64_t next_of(uint64_t self);
uint64_t before(uint64_t self);
/* Lets others of this processor have a turn. */
void give_way(void);
/* All vcpus are here, for the n-th time. */
void meet(uint64_t n);
void note(struct bare_frame *frame);
void note_and_end(struct bare_frame *frame);

/* ---- The host ---- */

/* Runs a case with two vcpus on two processors, with four on four, and with four on two. */
void with_each(void (*one)(unsigned vcpus, unsigned hosts));
/* A machine whose vcpus run `guest`, with the host's interrupts everywhere. */
bool begin(unsigned vcpus, unsigned hosts, void (*guest)(uint64_t));
/* Ends a case in which no vector came that nobody sent. */
void end(void);
bool complete(struct crew_seat *seat);
bool inject(struct crew_seat *seat, uint8_t type, uint8_t vector, bool has_error, uint32_t error,
            uint64_t address);
bool at_port(const struct virtx_exit *exit, uint16_t port);
/* SVM with nested paging on Bochs, where a case has sometimes stayed without an end, which is not
 * understood. */
bool stays(void);
/* Of all vcpus. */
uint64_t misplaced(void);

/* ---- The cases ---- */

void host_interrupts_exit(void);
void interrupt_windows(void);
void nmis_block_until_iret(void);
void nmi_blocking_is_each_vcpus_own(void);
void task_priorities(void);
void nested_faults_during_delivery(void);
void exits_in_shadows(void);
void thousand_interrupts(void);
void own_interrupts(void);

#endif
