/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The LAPIC's registers in a page that the processor uses too (struct virtx_irq_apic).
 *
 * TPR, IRR, ISR and TMR are in the page and nowhere else. Of the other registers the page has what
 * the guest reads; what the guest writes into it is judged here, and the page shows what came of
 * it.
 */
#include "irq/lapic_internal.h"

#include "core/util.h"

#define PAGE_WORDS    1024u
#define ID            (0x20 / 4)
#define LDR           (0xd0 / 4)
#define CMCI          (0x2f0 / 4)
#define ICR           (0x300 / 4)
#define ICR_HIGH      (0x310 / 4)
#define INITIAL_COUNT (0x380 / 4)

void lapic_show_all(struct virtx_lapic *l)
{
    bool x2apic = virtx_lapic_x2apic(l);

    for (unsigned reg = 0; reg < LAPIC_REGISTERS; reg++) {
        if (lapic_plain[reg] != 0)
            memcpy(&l->regs[reg * 4], (const uint8_t *)l + lapic_plain[reg], sizeof(uint32_t));
    }
    l->regs[CMCI] = l->lvt[VIRTX_LAPIC_LVT_CMCI];
    l->regs[ID] = x2apic ? l->id : (l->id & 0xff) << 24;
    if (x2apic)
        l->regs[LDR] = lapic_logical_x2apic_id(l->id);
}

void lapic_move(struct virtx_lapic *l, uint32_t *page)
{
    uint32_t *to = page != NULL ? page : l->own;

    if (to == l->regs)
        return;
    if (page != NULL)
        memset(page, 0, PAGE_WORDS * sizeof(*page));
    else
        lapic_fold(l);
    memcpy(to, l->regs, sizeof(l->own));
    l->regs = to;
    l->unsaid = true;
    if (page != NULL)
        __atomic_fetch_or(&l->attention, LAPIC_IN_PAGE, __ATOMIC_RELAXED);
    else
        __atomic_fetch_and(&l->attention, ~LAPIC_IN_PAGE, __ATOMIC_RELAXED);
    lapic_show(l);
}

/* What the processor may have done since the last look. The ICR it writes without telling when the
 * guest sends itself an interrupt, and its high half always. */
void lapic_look(struct virtx_lapic *l)
{
    if (l->turns != NULL) {
        if (l->turn == *l->turns)
            return;
        l->turn = *l->turns;
    }
    l->irr_max = lapic_highest(l, LAPIC_IRR, 255);
    l->isr_max = lapic_highest(l, LAPIC_ISR, 255);
    lapic_update_ppr(l);
    if (!virtx_lapic_x2apic(l))
        l->icr = ((uint64_t)(l->regs[ICR_HIGH] & 0xff000000u) << 32 | l->regs[ICR]) &
                 ~LAPIC_ICR_RESERVED;
}

/* Remembered until it has been said: the guest may run in between, if what was folded in here has
 * not yet been announced by who posted it. */
bool lapic_changed_page(struct virtx_lapic *l)
{
    bool changed = l->unsaid;

    l->unsaid = false;
    return changed;
}

void lapic_written(struct virtx_lapic *l, uint32_t offset, uint64_t now)
{
    uint32_t reg = offset >> 4, value = l->regs[reg * 4];

    lapic_fold(l);
    lapic_write(l, reg, value, now);
    /* What guests write by the thousand changes no other register. */
    if (reg * 4 == ICR || reg * 4 == INITIAL_COUNT)
        memcpy(&l->regs[reg * 4], (const uint8_t *)l + lapic_plain[reg], sizeof(uint32_t));
    else
        lapic_show(l);
}
