/* SPDX-License-Identifier: BSD-2-Clause */
/* The entry checker against VMX: the VMCS of a trial. */
#ifndef TESTS_GUEST_CHECKER_VMX_H
#define TESTS_GUEST_CHECKER_VMX_H

#include "checker.h"
#include "vmx/check.h"

/* How a field may be changed, so that an entry which the processor takes harms nobody. */
enum kind {
    FREE,         /* in any way */
    FIXED,        /* never */
    ADDRESS,      /* of a page: to another one of the trial's, out of alignment, or too high */
    MSR_AREA,     /* as ADDRESS, but stays within the area's own two pages */
    EPT_POINTER,  /* as ADDRESS, and its low bits */
    HOST_CR3,     /* reserved bits only */
    HOST_ADDRESS, /* to something that is not canonical only */
    CONTROL,      /* one or two bits */
    MSR_COUNT,    /* what fits into a page; or with an address that is too high */
    SMALL,        /* small numbers, and now and then any */
    LINK,         /* all ones, this VMCS, another one, or no address */
};

struct field {
    uint16_t encoding;
    uint8_t kind;
    const char *name;
};

extern const struct field vmx_fields[];
extern const unsigned vmx_field_count;

/* What the trials share: pages, and what the processor has. */
struct bench {
    struct vmx_caps caps;
    struct vmx_cpu cpu;
    struct virtx_vcpu vcpu;
    struct vmx_vcpu probe;
    uint64_t beyond;  /* bits above the physical-address width */
    uint64_t page[6]; /* the first two are empty: they end every walk */
    uint64_t virtual_apic, vmcs, other_vmcs;
    uint64_t msrs, store, load; /* MSR areas, two pages each */
};
extern struct bench bench;

/* The trial's VMCS, by encoding. */
extern uint64_t vmx_value[0x7000];

/* Fills it for a mode that this processor can enter, and returns the mode's name. */
const char *vmx_state_valid(void);
/* Changes one field. Returns it, or NULL if nothing has changed. */
const struct field *vmx_state_change(void);
/* Keeps the host state as it is, for all trials. */
void vmx_state_host(void);

#endif
