/* SPDX-License-Identifier: BSD-2-Clause */
/* Processors that announce features which they get wrong. */
#include "vmx/vmx.h"

#define BASIC_REVISION   0x7fffffffull
#define BASIC_REGION     (0x1fffull << 32)
#define BOCHS_REGION     (0x1000ull << 32) /* those that it models have 1 KiB */
#define BOCHS_REVISION   0x2bull
#define BOCHS_REVISION_4 4ull /* its Tiger Lake */

/*
 * Bochs 2.7 delivers a virtual interrupt that waits for RFLAGS.IF when a host's interrupt arrives,
 * in place of the exit for that: with IF = 0, in the middle of what the guest protects by it.
 * (Intel SDM "Virtual-Interrupt Delivery": only if RFLAGS.IF = 1.) No control prevents it. The rest
 * of the help with a local APIC goes with it: without delivery, what the page saves at reads of its
 * registers is less than what it costs at writes.
 */
uint64_t vmx_errata(const struct vmx_caps *caps)
{
    uint64_t revision = caps->basic & BASIC_REVISION;

    if ((caps->basic & BASIC_REGION) == BOCHS_REGION &&
        (revision == BOCHS_REVISION || revision == BOCHS_REVISION_4))
        return VMX_APIC_HELP;
    return 0;
}
