/* SPDX-License-Identifier: BSD-2-Clause */
/* The guest's processors, and the host's processors that run them. */
#ifndef VMM_CPUS_H
#define VMM_CPUS_H

#include "board.h"

/* How the guest ended. */
struct cpus_end {
    const char *outcome;             /* a word for the log */
    uint64_t value;                  /* with "debug-exit" */
    char why[160];                   /* more about it, or "" */
    const struct virtx_error *error; /* a call of the library failed: this is the detail */
};

/* virtx_host_ops::wake. The host functions that are given to virtx_open() name it. */
void cpus_wake(void *ctx, struct virtx_vcpu *vcpu);
/* virtx_host_ops.timer: the guest has set its local APIC's timer, while it is in run. */
void cpus_timer(void *ctx, struct virtx_vcpu *vcpu, uint64_t tsc);

/* Gives the guest a processor; its id is the order of the calls. All but the first wait for a
 * start-up IPI. */
enum virtx_status cpus_add(struct board *board, struct virtx_vcpu *vcpu);

/* From now on the paging engine is exchanged after so many returns to the loop, back and
 * forth; for trying that out. All processors stop for it. */
void cpus_exchange(struct virtx_vm *vm, uint64_t every);
uint64_t cpus_exchanges(void); /* how often that was done */

/* After a reset of the guest: all but the first wait for a start-up IPI again, and cpus_run() can be
 * called again. Nothing runs meanwhile. */
enum virtx_status cpus_reset(void);

/* Runs them all, each on a processor of the host's own as long as there are enough, until the guest
 * ends. On processor 0, with interrupts off. */
struct cpus_end cpus_run(struct virtx *virtx, struct board *board);

#endif
