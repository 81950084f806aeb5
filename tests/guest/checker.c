/* SPDX-License-Identifier: BSD-2-Clause */
/* The entry checker against the processor: trials, and what is told of them. */
#include "checker.h"

enum { CHANGES = 8, KNOWN = 64, SHOWN = 10 };

/* ---- Random numbers ---- */

static uint64_t random_state;

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9;
    x ^= x >> 27;
    x *= 0x94d049bb133111eb;
    return x ^ x >> 31;
}

void random_begin(uint64_t trial)
{
    random_state = mix(bare_option_u64("seed", 1) * 0x9e3779b97f4a7c15 + trial);
}

uint64_t random_bits(void)
{
    random_state += 0x9e3779b97f4a7c15;
    return mix(random_state);
}

uint64_t random_change(uint64_t value, unsigned bits)
{
    static const uint64_t edges[] = {
        0,
        1,
        0x7f,
        0x80,
        0xff,
        0x100,
        0xfff,
        0x1000,
        0xffff,
        0x10000,
        0xfffff,
        0x100000,
        0x7fffffff,
        0x80000000,
        0xffffffff,
        1ul << 32,
        1ul << 36,
        1ul << 40,
        0x7fffffffffff,
        0x800000000000,
        1ul << 48,
        1ul << 52,
        1ul << 63,
        ~0ul,
        0xffff800000000000,
        0xffff7fffffffffff,
    };
    uint64_t mask = bits == 64 ? ~0ul : (1ul << bits) - 1;

    switch (random_below(8)) {
    case 0:
        return edges[random_below(sizeof(edges) / sizeof(edges[0]))] & mask;
    case 1:
        return random_bits() & mask;
    case 2:
        return value ^ 1ul << random_below(bits) ^ 1ul << random_below(bits);
    default:
        return value ^ 1ul << random_below(bits);
    }
}

/* ---- Trials ---- */

struct change {
    const char *field;
    uint64_t from, to;
};

struct tally {
    const char *does, *what, *rule, *manual;
    uint64_t count, first;
};

static struct change changes[CHANGES];
static unsigned change_count, unexplained;
static struct tally known[KNOWN], excluded[KNOWN];
static unsigned known_count, excluded_count;
static uint64_t verdicts[VERDICT_COUNT], current_trial;
static const char *current_mode, *run_name;
static const char *const verdict_text[VERDICT_COUNT] = {
    "entered",
    "controls refused",
    "host state refused",
    "guest state refused",
    "MSR-load area refused",
    "something else",
};

void trial_begin(uint64_t trial, const char *mode)
{
    current_trial = trial;
    current_mode = mode;
    change_count = 0;
}

void trial_changed(const char *field, uint64_t from, uint64_t to)
{
    if (change_count < CHANGES)
        changes[change_count++] = (struct change){field, from, to};
}

static void tell_changes(void)
{
    bare_printf("  trial %lu, %s:", current_trial, current_mode);
    for (unsigned i = 0; i < change_count; i++)
        bare_printf(" %s 0x%lx -> 0x%lx;", changes[i].field, changes[i].from, changes[i].to);
    bare_printf("\n");
}

void trial_told(void)
{
    if (bare_option("trace") != NULL)
        tell_changes();
}

bool trial_shown(void)
{
    return bare_option("only") != NULL;
}

static void tally(struct tally *table, unsigned *count, const struct tally *row)
{
    for (unsigned i = 0; i < *count; i++) {
        if (table[i].what == row->what && table[i].rule == row->rule &&
            table[i].does == row->does) {
            table[i].count++;
            return;
        }
    }
    if (!CHECK(*count < KNOWN))
        return;
    table[*count] = *row;
    table[*count].count = 1;
    table[*count].first = current_trial;
    *count += 1;
}

void trial_known(const char *engine_does, const char *what, const char *rule, const char *manual)
{
    tally(known, &known_count, &(struct tally){engine_does, what, rule, manual, 0, 0});
    if (trial_shown()) {
        tell_changes();
        bare_printf("  known: %s: %s: %s (%s)\n", engine_does, what, rule, manual);
    }
}

void trial_excluded(const char *reason)
{
    tally(excluded, &excluded_count, &(struct tally){.does = reason});
}

void trial_unexplained(enum verdict engine, uint64_t detail, const char *what, const char *rule,
                       const char *manual)
{
    if (unexplained++ >= SHOWN)
        return;
    tell_changes();
    bare_printf("  the engine: %s (0x%lx); the library: %s%s%s%s%s%s\n", verdict_text[engine],
                detail, what != NULL ? what : "nothing is wrong", what != NULL ? ": " : "",
                what != NULL ? rule : "", what != NULL ? " (" : "", what != NULL ? manual : "",
                what != NULL ? ")" : "");
}

void trial_counted(enum verdict engine)
{
    verdicts[engine]++;
    if (trial_shown()) {
        tell_changes();
        bare_printf("  the engine: %s\n", verdict_text[engine]);
    }
}

static void summary(uint64_t rounds)
{
    bare_printf("  %lu trials with seed %lu:", rounds, bare_option_u64("seed", 1));
    for (unsigned i = 0; i < VERDICT_COUNT; i++)
        bare_printf(" %lu %s%s", verdicts[i], verdict_text[i], i + 1 < VERDICT_COUNT ? "," : "\n");
    for (unsigned i = 0; i < known_count; i++) {
        const struct tally *t = &known[i];

        bare_printf("known bug: %s: %s: %s: %s (%s), %lu times, first in trial %lu\n", run_name,
                    t->does, t->what, t->rule, t->manual, t->count, t->first);
    }
    for (unsigned i = 0; i < excluded_count; i++)
        bare_printf("not shown: %s: %s, %lu trials\n", run_name, excluded[i].does,
                    excluded[i].count);
}

void trials(const char *name, void (*one)(uint64_t trial))
{
    uint64_t rounds = bare_option_u64("rounds", 400), first = 0;

    run_name = name;
    unexplained = known_count = excluded_count = 0;
    memset(verdicts, 0, sizeof(verdicts));
    if (trial_shown()) {
        first = bare_option_u64("only", 0);
        rounds = first + 1;
    }
    for (uint64_t trial = first; trial < rounds; trial++) {
        random_begin(trial);
        one(trial);
    }
    summary(rounds - first);
    CHECK_EQUAL(unexplained, 0);
    if (!trial_shown()) {
        CHECK(verdicts[VERDICT_ENTERED] > rounds / 20);
        CHECK(verdicts[VERDICT_GUEST] + verdicts[VERDICT_CONTROLS] > rounds / 20);
    }
}

/* ---- Cases ---- */

static void random_states(void)
{
    harness_no_watchdog = true;
    machine_open_library();
    if (guest_has_svm)
        checker_svm();
    else
        checker_vmx();
}

static void instruction_errors(void)
{
    machine_open_library();
    if (guest_has_svm)
        not_shown("SVM instructions report no errors");
    else
        checker_vmx_instructions();
}

static void save_area(void)
{
    machine_open();
    if (!guest_has_svm)
        not_shown("VMX has no host save area");
    else
        checker_svm_save_area();
}

GUEST_CASES({"random-states", random_states}, {"exact-instruction-errors", instruction_errors},
            {"host-save-area", save_area});
