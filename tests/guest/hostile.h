/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Hostile guests: what the cases share. After every attack the host's registers and MSRs are what
 * they were, and a second VM runs on.
 */
#ifndef TESTS_GUEST_HOSTILE_H
#define TESTS_GUEST_HOSTILE_H

#include "harness.h"

/* Opens the machine with the kernel profile, the second VM, and keeps the host's state. */
void hostile_open(void);
/* The vcpu that attacks is put; then the host and the second VM are looked at. */
bool hostile_check(struct virtx_vcpu *vcpu);
/* The same, and the second VM goes. */
void hostile_close(struct virtx_vcpu *vcpu);

/* The end of a run that the embedder answers as one that knows nothing would. */
enum outcome {
    OUTCOME_DONE, /* PORT_DONE */
    OUTCOME_KICK, /* time is over */
    OUTCOME_HALTED,
    OUTCOME_SHUTDOWN,
    OUTCOME_REFUSED, /* the guest's state cannot be entered */
    OUTCOME_STUCK,   /* what was forbidden or cannot be executed; or too many exits */
    OUTCOME_FAILED,  /* anything else: noted as a failure */
    OUTCOME_COUNT
};
/* Runs for about so many instructions (0: until it is through), and at most so many exits that come to the loop. */
enum outcome hostile_run(struct virtx_vcpu *vcpu, uint64_t instructions, unsigned exits);
extern uint64_t hostile_exits; /* that came to the loop, in all */

/* hostile_random.c */
void hostile_streams(void);

uint64_t hostile_random(void);
void hostile_seed(uint64_t seed);

#endif
