/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * TLB tags (VPIDs, ASIDs): who gets which, on each CPU.
 *
 * A CPU hands its tags out in order. When they are used up a new generation begins from 1: every
 * tag of the old one is void, and its holder asks again when it is next loaded there. A tag's past
 * is unknown whenever it is handed out (an earlier generation, another instance of the library, a
 * hypervisor before us), so its holder owes a flush of it. Guest-physical translations do not carry
 * the tag on every processor; what this CPU kept of them while the vcpu was elsewhere may have been
 * dropped meanwhile, so a vcpu that comes from another CPU owes those too.
 */
#include "hw/service.h"

/* Whoever had the CPU while it was not ours may have used every tag. */
void hw_tags_begin(struct hw_cpu *cpu)
{
    cpu->tag_generation++;
    cpu->tag_next = 1;
}

void hw_tag_assign(struct hw_vcpu *hv, struct hw_cpu *cpu)
{
    uint32_t tags = hv->vcpu->virtx->caps.tlb_tags;
    uint32_t debts = 0;

    if (hv->tag_cpu != cpu->index)
        debts |= HW_FLUSH_NESTED;
    if (tags &&
        (hv->tag_cpu != cpu->index || hv->tag == 0 || hv->tag_generation != cpu->tag_generation)) {
        if (cpu->tag_next > tags)
            hw_tags_begin(cpu);
        hv->tag = cpu->tag_next++;
        hv->tag_generation = cpu->tag_generation;
        debts |= HW_FLUSH_TAG;
    }
    hv->tag_cpu = cpu->index;
    if (debts)
        hw_owe(hv, debts);
}
