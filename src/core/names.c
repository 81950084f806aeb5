/* SPDX-License-Identifier: BSD-2-Clause */
/* Names of exit reasons and features, for logs. */
#include "core/object.h"

const char *virtx_exit_name(uint32_t reason)
{
    static const char *const names[VIRTX_EXIT_REASON_COUNT] = {
        [VIRTX_EXIT_NONE] = "none",
        [VIRTX_EXIT_KICK] = "kick",
        [VIRTX_EXIT_INTERRUPT] = "interrupt",
        [VIRTX_EXIT_IO] = "io",
        [VIRTX_EXIT_MMIO] = "mmio",
        [VIRTX_EXIT_MSR] = "msr",
        [VIRTX_EXIT_CPUID] = "cpuid",
        [VIRTX_EXIT_HYPERCALL] = "hypercall",
        [VIRTX_EXIT_HLT] = "hlt",
        [VIRTX_EXIT_EXCEPTION] = "exception",
        [VIRTX_EXIT_CR] = "cr",
        [VIRTX_EXIT_DR] = "dr",
        [VIRTX_EXIT_INSTRUCTION] = "instruction",
        [VIRTX_EXIT_MEMORY] = "memory",
        [VIRTX_EXIT_EMULATION] = "emulation",
        [VIRTX_EXIT_SHUTDOWN] = "shutdown",
        [VIRTX_EXIT_INIT] = "init",
        [VIRTX_EXIT_SIPI] = "sipi",
        [VIRTX_EXIT_TASK_SWITCH] = "task switch",
        [VIRTX_EXIT_WINDOW] = "window",
        [VIRTX_EXIT_DEADLINE] = "deadline",
        [VIRTX_EXIT_UNKNOWN] = "unknown",
    };

    return reason < VIRTX_EXIT_REASON_COUNT ? names[reason] : "not a reason";
}

const char *virtx_feature_name(uint64_t feature)
{
    static const char *const names[] = {
        "nested paging", "unpaged guest",  "TLB tags",           "next RIP",
        "decode assist", "2-MiB pages",    "1-GiB pages",        "nested A/D flags",
        "dirty logging", "MSR bitmap",     "I/O bitmap",         "TPR shadow",
        "APIC access",   "APIC registers", "virtual interrupts", "posted interrupts",
        "virtual NMI",   "timer",          "TSC scaling",        "PAUSE filter",
        "virtual GIF",   "execute-only",   "flush by tag",       "descriptor exits",
        "EFER switch",   "PAT switch",     "clean bits",         "RDTSCP",
        "INVPCID",       "XSAVES",
        "virtual-interrupt priority",          "page-fault filter",
        "virtual x2APIC",
    };

    _Static_assert(1ull << (ARRAY_SIZE(names) - 1) == VIRTX_FEATURE_VIRTUAL_X2APIC, "one name a feature");
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        if (feature == BIT(i))
            return names[i];
    return "unknown feature";
}
