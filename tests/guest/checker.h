/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The entry checker against the processor: what the halves of the image share.
 *
 * A trial is a control structure in a state that the manual allows, changed in a few places at
 * random. It is entered raw, past the library, and the library's checker judges the same structure.
 * Words of the command line: rounds=N trials, seed=N, only=N one trial and what it did, trace every
 * trial before it is made.
 *
 * The two must agree, but for defects of an engine that a table of the test names. There are two
 * sorts: a rule that the engine does not apply, and states that it refuses although no rule of the
 * manual is broken. Anything else is a failure.
 */
#ifndef TESTS_GUEST_CHECKER_H
#define TESTS_GUEST_CHECKER_H

#include "harness.h"

enum verdict {
    VERDICT_ENTERED,
    VERDICT_CONTROLS,
    VERDICT_HOST,
    VERDICT_GUEST,
    VERDICT_MSRS,
    VERDICT_ODD,
    VERDICT_COUNT,
};

/* ---- Random numbers: the same for the same seed and trial ---- */

void random_begin(uint64_t trial);
uint64_t random_bits(void);
/* 0 .. n - 1 */
static inline uint64_t random_below(uint64_t n)
{
    return random_bits() % n;
}
static inline bool one_in(uint64_t n)
{
    return random_below(n) == 0;
}
/* One of the arguments. */
#define RANDOM_OF(...)                                                                             \
    ({                                                                                             \
        static const uint64_t of_[] = {__VA_ARGS__};                                               \
        of_[random_below(sizeof(of_) / sizeof(of_[0]))];                                           \
    })
/* A value of `bits` bits that lies at some edge, or next to the one given, or anywhere. */
uint64_t random_change(uint64_t value, unsigned bits);

/* ---- What is told of a trial ---- */

void trial_begin(uint64_t trial, const char *mode);
/* A field was changed. */
void trial_changed(const char *field, uint64_t from, uint64_t to);
/* Before the entry: with the word trace, what is to come, in case nothing does. */
void trial_told(void);
/* Is this the one that the command line asks for? Then more is told. */
bool trial_shown(void);
/* The engine differs from the manual for this reason, which the test names. */
void trial_known(const char *engine_does, const char *what, const char *rule, const char *manual);
/* The engine differs, and nothing explains it. `what` …: the first rule broken, or NULL. */
void trial_unexplained(enum verdict engine, uint64_t detail, const char *what, const char *rule,
                       const char *manual);
/* The trial was not made, because of this. */
void trial_excluded(const char *reason);
void trial_counted(enum verdict engine);

/* All trials of a run; one() makes one. Then the summary. */
void trials(const char *name, void (*one)(uint64_t trial));

/* checker_vmx.c, checker_svm.c: after machine_open_library(). */
void checker_vmx(void);
void checker_svm(void);
void checker_vmx_instructions(void);
void checker_svm_save_area(void);

#endif
