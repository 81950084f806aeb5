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
    const struct virtx *virtx;
    uint64_t vmcs_hpa;
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

extern const struct check_rule vmx_rules_controls[], vmx_rules_host[], vmx_rules_guest[],
    vmx_rules_segments[], vmx_rules_state[];
extern const unsigned vmx_rules_controls_count, vmx_rules_host_count, vmx_rules_guest_count,
    vmx_rules_segments_count, vmx_rules_state_count;

/* The tables in the manual's order, and what breaking a rule of one means. */
struct check_table {
    const struct check_rule *rules;
    const unsigned *count;
    enum virtx_status broken;
    uint32_t part; /* CHECK_* */
};
extern const struct check_table vmx_check_tables[];
extern const unsigned vmx_check_table_count;
void vmx_check_look(const struct vmx_vcpu *v, struct check *c);

/* Bits above the processor's physical-address width. */
static inline uint64_t check_beyond(const struct check *c)
{
    return c->physical_bits >= 64 ? 0 : UINT64_MAX << c->physical_bits;
}

/* An external interrupt, or an NMI, is to be injected. */
static inline bool check_interrupting(const struct check *c)
{
    return (c->injection & (INTERRUPTION_VALID | INTERRUPTION_TYPE)) == INTERRUPTION_VALID;
}

static inline bool check_injecting_nmi(const struct check *c)
{
    return (c->injection & (INTERRUPTION_VALID | INTERRUPTION_TYPE)) ==
           (INTERRUPTION_VALID | VIRTX_EVENT_NMI << INTERRUPTION_TYPE_SHIFT);
}

/* "The address must be a multiple of 4096 within the physical-address width." */
static inline bool check_page(const struct check *c, uint64_t address)
{
    return !(address & (check_beyond(c) | 0xfff));
}

/* Bits of IA32_EFER that no processor with VMX has reserved. */
#define CHECK_EFER (EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE)

/* IA32_S_CET: bits 9:6 are reserved, bits 10 and 11 exclude each other. */
static inline bool check_cet(uint64_t cet)
{
    return !(cet & 0x3c0) && (cet & 0xc00) != 0xc00;
}

bool check_perf_global(uint64_t value);
enum virtx_status vmx_check_msrs(const struct vmx_vcpu *v, struct virtx_error *error);

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
#define CHECK_MSRS     (1u << 3) /* the VM-entry MSR-load area, once the rest is loaded */

#endif
