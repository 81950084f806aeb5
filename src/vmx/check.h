/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The entry checker's rules as data. One rule is one sentence of the manual, with the section it
 * stands in and the field whose value is shown to whoever broke it.
 */
#ifndef VIRTX_VMX_CHECK_H
#define VIRTX_VMX_CHECK_H

#include "vmx/vmx.h"

/* What most rules ask for, read once. */
struct check {
    const struct vmx_caps *caps;
    uint8_t physical_bits;
    uint32_t control[VMX_WORD_COUNT];
    uint64_t cr0, cr4, rflags, efer;
    uint32_t attributes[VIRTX_SEG_COUNT];
    uint16_t selector[VIRTX_SEG_COUNT];
    uint32_t injection;
    uint32_t activity, interruptibility;
    bool unrestricted, ia32e;
};

struct check_rule {
    const char *what;
    const char *manual;
    const char *rule;
    uint32_t field;
    bool (*holds)(const struct check *c, unsigned arg);
    unsigned arg;
};

extern const struct check_rule vmx_rules_controls[], vmx_rules_host[], vmx_rules_guest[];
extern const unsigned vmx_rules_controls_count, vmx_rules_host_count, vmx_rules_guest_count;

/* Bits above the processor's physical-address width. */
static inline uint64_t check_beyond(const struct check *c)
{
    return c->physical_bits >= 64 ? 0 : UINT64_MAX << c->physical_bits;
}

static inline bool check_pat(uint64_t pat)
{
    for (unsigned i = 0; i < 8; i++, pat >>= 8) {
        uint8_t type = (uint8_t)pat;

        if (type > 7 || type == 2 || type == 3)
            return false;
    }
    return true;
}

/* The parts of `which` of vmx_check_entry(). */
#define CHECK_CONTROLS (1u << 0)
#define CHECK_HOST     (1u << 1)
#define CHECK_GUEST    (1u << 2)

#endif
