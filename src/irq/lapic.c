/* SPDX-License-Identifier: BSD-2-Clause */
/* The LAPIC's heart: request, in-service and priority; what arrives and what is handed over. */
#include "irq/lapic_internal.h"

#include "core/util.h"

static uint32_t no_send(void *ctx, const struct virtx_apic_message *message)
{
    (void)ctx;
    (void)message;
    return 0;
}

static void no_eoi(void *ctx, uint8_t vector)
{
    (void)ctx;
    (void)vector;
}

bool virtx_lapic_init(struct virtx_lapic *lapic, const struct virtx_lapic_config *config)
{
    if (config->size != sizeof(*config) || config->changed == NULL || config->event == NULL ||
        config->bus_multiply == 0 || config->bus_divide == 0 || config->address_bits < 32 ||
        config->address_bits > 52)
        return false;
    memset(lapic, 0, sizeof(*lapic));
    lapic->config = *config;
    lapic->regs = lapic->own;
    lapic->id = config->id;
    lapic->version = lapic_version(config);
    virtx_lapic_connect(lapic, no_send, no_eoi, NULL);
    virtx_lapic_reset(lapic, false);
    return true;
}

void virtx_lapic_connect(struct virtx_lapic *lapic,
                         uint32_t (*send)(void *ctx, const struct virtx_apic_message *message),
                         void (*broadcast_eoi)(void *ctx, uint8_t vector), void *ctx)
{
    lapic->send = send;
    lapic->broadcast_eoi = broadcast_eoi;
    lapic->bus_ctx = ctx;
}

#define ICR_WORD (0x300 / 4)

/* Everything but IA32_APIC_BASE and the wires, which no reset of the APIC changes. */
void lapic_enter_reset_state(struct virtx_lapic *l)
{
    memset(&l->regs[LAPIC_ISR], 0, 3 * LAPIC_SET_WORDS * 4 * sizeof(uint32_t));
    l->irr_max = 0;
    l->isr_max = 0;
    l->unsaid = true;
    l->regs[LAPIC_TPR] = 0;
    l->icr = 0;
    l->esr = 0;
    l->esr_pending = 0;
    for (unsigned i = 0; i < 4; i++) {
        __atomic_store_n(&l->inbox_edge[i], 0, __ATOMIC_RELAXED);
        __atomic_store_n(&l->inbox_level[i], 0, __ATOMIC_RELAXED);
    }
    __atomic_store_n(&l->inbox_error, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&l->extint_message, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&l->ldr, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&l->dfr, UINT32_MAX, __ATOMIC_RELAXED);
    __atomic_store_n(&l->svr, 0xff, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < VIRTX_LAPIC_LVT_COUNT; i++)
        lapic_set_lvt(l, i, LVT_MASKED);
    lapic_timer_reset(l);
    if (lapic_in_page(l))
        memset(&l->regs[ICR_WORD], 0, 8 * sizeof(uint32_t)); /* or it would be believed */
    lapic_update_ppr(l);
    lapic_update_lint(l);
    lapic_show(l);
}

void virtx_lapic_reset(struct virtx_lapic *lapic, bool init)
{
    if (!init) {
        uint64_t base = VIRTX_LAPIC_DEFAULT_BASE | APIC_BASE_ENABLE;

        if (lapic->config.bsp)
            base |= APIC_BASE_BSP;
        __atomic_store_n(&lapic->base, base, __ATOMIC_RELAXED);
    }
    lapic_enter_reset_state(lapic);
}

void virtx_lapic_virtual_wire(struct virtx_lapic *lapic)
{
    __atomic_store_n(&lapic->svr, lapic->svr | SVR_ENABLE, __ATOMIC_RELAXED);
    lapic_set_lvt(lapic, VIRTX_LAPIC_LVT_LINT0, VIRTX_APIC_EXTINT << LVT_MODE_SHIFT);
    lapic_set_lvt(lapic, VIRTX_LAPIC_LVT_LINT1, VIRTX_APIC_NMI << LVT_MODE_SHIFT);
    lapic_update_lint(lapic);
}

bool virtx_lapic_enabled(const struct virtx_lapic *lapic)
{
    return (__atomic_load_n(&lapic->base, __ATOMIC_RELAXED) & APIC_BASE_ENABLE) != 0;
}

bool virtx_lapic_x2apic(const struct virtx_lapic *lapic)
{
    return (__atomic_load_n(&lapic->base, __ATOMIC_RELAXED) & APIC_BASE_X2APIC) != 0;
}

uint64_t virtx_lapic_mmio_base(const struct virtx_lapic *lapic)
{
    return lapic->base & ~0xfffull;
}

/* No reserved bit is set, and it is one of the three modes. */
bool lapic_base_good(const struct virtx_lapic *l, uint64_t value)
{
    uint64_t allowed =
        APIC_BASE_BSP | APIC_BASE_ENABLE | (((1ull << l->config.address_bits) - 1) & ~0xfffull);

    if (l->config.features & VIRTX_LAPIC_X2APIC)
        allowed |= APIC_BASE_X2APIC;
    return (value & ~allowed) == 0 && (value & APIC_BASE_MODE) != APIC_BASE_X2APIC;
}

/* Intel SDM, "x2APIC State Transitions": the only way between the two modes that goes back is
 * through "disabled", and "disabled" loses all state. */
bool lapic_write_base(struct virtx_lapic *l, uint64_t value)
{
    uint64_t old_mode = l->base & APIC_BASE_MODE;
    uint64_t mode = value & APIC_BASE_MODE;

    if (!lapic_base_good(l, value))
        return false;
    if (mode != old_mode) {
        if (mode == APIC_BASE_MODE && old_mode == 0)
            return false;
        if (mode == APIC_BASE_ENABLE && old_mode == APIC_BASE_MODE)
            return false;
    }
    __atomic_store_n(&l->base, value, __ATOMIC_RELAXED);
    if (mode == 0 && old_mode != 0)
        lapic_enter_reset_state(l);
    else if (mode == APIC_BASE_MODE && old_mode != APIC_BASE_MODE)
        l->icr &= UINT32_MAX;
    lapic_update_lint(l);
    return true;
}

/* The highest bit at or below the word of `from`; 0 if none. */
uint8_t lapic_highest(const struct virtx_lapic *l, unsigned set, uint8_t from)
{
    const uint32_t *first = &l->regs[set], *word = first + (from >> 5) * 4u;

    while (*word == 0) {
        if (word == first)
            return 0;
        word -= 4;
    }
    return (uint8_t)((word - first) * 8 + 31 - __builtin_clz(*word));
}

/* Intel SDM, "Task and Processor Priorities". */
void lapic_update_ppr(struct virtx_lapic *l)
{
    uint8_t in_service = l->isr_max & 0xf0;
    uint8_t tpr = (uint8_t)l->regs[LAPIC_TPR];
    uint8_t ppr = (tpr & 0xf0) >= in_service ? tpr : in_service;

    __atomic_store_n(&l->ppr, ppr, __ATOMIC_RELAXED);
}

uint8_t virtx_lapic_get_tpr(const struct virtx_lapic *lapic)
{
    return (uint8_t)lapic->regs[LAPIC_TPR];
}

void virtx_lapic_set_tpr(struct virtx_lapic *lapic, uint8_t tpr)
{
    lapic->regs[LAPIC_TPR] = tpr;
    if (lapic_in_page(lapic))
        lapic_fold(lapic); /* what is in service now */
    lapic_update_ppr(lapic);
}

static inline bool extint_requested(const struct virtx_lapic *l)
{
    return (__atomic_load_n(&l->lint_lines, __ATOMIC_RELAXED) & l->extint_pins) != 0 ||
           __atomic_load_n(&l->extint_message, __ATOMIC_RELAXED) != 0;
}

/* ExtINT passes the APIC's priorities by and goes to the processor as INTR would. */
static int extint_pending(const struct virtx_lapic *l)
{
    if (likely(!extint_requested(l)) || l->config.extint == NULL)
        return VIRTX_IRQ_NONE;
    return l->config.extint->pending(l->config.extint_ctx);
}

int lapic_external(struct virtx_lapic *l)
{
    lapic_fold(l);
    return extint_pending(l);
}

int virtx_lapic_pending(struct virtx_lapic *lapic)
{
    int vector;

    lapic_fold(lapic);
    if (unlikely(extint_requested(lapic))) {
        vector = extint_pending(lapic);
        if (vector >= 0)
            return vector;
    }
    if ((lapic->irr_max & 0xf0) > (lapic->ppr & 0xf0))
        return lapic->irr_max;
    return VIRTX_IRQ_NONE;
}

int virtx_lapic_take(struct virtx_lapic *lapic)
{
    uint8_t vector;
    uint32_t bit;

    lapic_fold(lapic);
    if (extint_pending(lapic) >= 0) {
        __atomic_store_n(&lapic->extint_message, 0, __ATOMIC_RELAXED);
        return lapic->config.extint->take(lapic->config.extint_ctx);
    }
    vector = lapic->irr_max;
    if ((vector & 0xf0) <= (lapic->ppr & 0xf0))
        return (uint8_t)lapic->svr;
    bit = lapic_bit(vector);
    *lapic_word(lapic, LAPIC_IRR, vector) &= ~bit;
    lapic->irr_max = lapic_highest(lapic, LAPIC_IRR, vector);
    *lapic_word(lapic, LAPIC_ISR, vector) |= bit;
    lapic->isr_max = vector;
    lapic->unsaid = true;
    lapic_update_ppr(lapic);
    return vector;
}

uint8_t virtx_lapic_tpr_threshold(struct virtx_lapic *lapic)
{
    uint8_t wanted;

    lapic_fold(lapic);
    wanted = lapic->irr_max >> 4;
    if (wanted <= lapic->isr_max >> 4 || wanted > (uint8_t)lapic->regs[LAPIC_TPR] >> 4)
        return 0;
    return wanted;
}

/* A vector has left the in-service register: who asserts a level is told. */
void lapic_ended(struct virtx_lapic *lapic, uint8_t vector)
{
    uint32_t *lint0 = &lapic->lvt[VIRTX_LAPIC_LVT_LINT0];

    if ((*lapic_word(lapic, LAPIC_TMR, vector) & lapic_bit(vector)) == 0)
        return;
    if ((*lint0 & LVT_REMOTE_IRR) != 0 && (uint8_t)*lint0 == vector) {
        lapic_set_lvt(lapic, VIRTX_LAPIC_LVT_LINT0, *lint0 & ~LVT_REMOTE_IRR);
        lapic_update_lint(lapic);
        lapic_show(lapic);
    }
    if ((lapic->svr & SVR_SUPPRESS_EOI) == 0)
        lapic->broadcast_eoi(lapic->bus_ctx, vector);
}

void virtx_lapic_eoi(struct virtx_lapic *lapic)
{
    uint8_t vector;

    if (lapic_in_page(lapic))
        lapic_fold(lapic);
    vector = lapic->isr_max;
    if (vector == 0)
        return;
    *lapic_word(lapic, LAPIC_ISR, vector) &= ~lapic_bit(vector);
    lapic->isr_max = lapic_highest(lapic, LAPIC_ISR, vector);
    lapic->unsaid = true;
    lapic_update_ppr(lapic);
    lapic_ended(lapic, vector);
}

/* Records errors; an unmasked error entry reports each kind once until the guest rearms it by
 * writing the error status (Intel SDM, "Error Handling"). */
void lapic_error(struct virtx_lapic *l, uint32_t bits)
{
    uint32_t fresh = bits & ~l->esr_pending;
    uint32_t entry = l->lvt[VIRTX_LAPIC_LVT_ERROR];

    l->esr_pending |= bits;
    if (fresh == 0 || (entry & LVT_MASKED) != 0)
        return;
    if ((uint8_t)entry >= FIRST_LEGAL_VECTOR)
        lapic_set_irr(l, (uint8_t)entry, false);
    else
        l->esr_pending |= ESR_RECEIVE_ILLEGAL_VECTOR;
}

static void fold_word(uint32_t *word, uint32_t edge, uint32_t level)
{
    word[LAPIC_IRR] |= edge | level;
    word[LAPIC_TMR] = (word[LAPIC_TMR] & ~edge) | level;
}

static inline void fold_inbox(struct virtx_lapic *l)
{
    uint32_t errors;

    /* Cleared first: what is posted from here on sets it again. */
    __atomic_fetch_and(&l->attention, ~LAPIC_POSTED, __ATOMIC_ACQ_REL);
    for (unsigned i = 0; i < ARRAY_SIZE(l->inbox_edge); i++) {
        uint64_t edge, level;

        if ((__atomic_load_n(&l->inbox_edge[i], __ATOMIC_RELAXED) |
             __atomic_load_n(&l->inbox_level[i], __ATOMIC_RELAXED)) == 0)
            continue;
        edge = __atomic_exchange_n(&l->inbox_edge[i], 0, __ATOMIC_ACQ_REL);
        level = __atomic_exchange_n(&l->inbox_level[i], 0, __ATOMIC_ACQ_REL);
        l->unsaid = true;
        fold_word(&l->regs[8 * i], (uint32_t)edge, (uint32_t)level);
        fold_word(&l->regs[8 * i + 4], (uint32_t)(edge >> 32), (uint32_t)(level >> 32));
        if ((edge | level) != 0) {
            uint8_t vector = (uint8_t)(i * 64 + 63 - (unsigned)__builtin_clzll(edge | level));

            if (vector > l->irr_max)
                l->irr_max = vector;
        }
    }
    if (__atomic_exchange_n(&l->lint_moved, 0, __ATOMIC_ACQ_REL) != 0)
        lapic_update_lint(l);
    errors = __atomic_exchange_n(&l->inbox_error, 0, __ATOMIC_ACQ_REL);
    if (errors != 0)
        lapic_error(l, errors);
}

/* What has been posted to the processor, which has not been entered since. */
static __attribute__((noinline)) void fold_posted(struct virtx_lapic *l)
{
    uint64_t set[4];

    if (!l->posted(l->vcpu, set))
        return;
    for (unsigned i = 0; i < ARRAY_SIZE(set); i++) {
        fold_word(&l->regs[8 * i], (uint32_t)set[i], 0);
        fold_word(&l->regs[8 * i + 4], (uint32_t)(set[i] >> 32), 0);
    }
    l->irr_max = lapic_highest(l, LAPIC_IRR, 255);
    l->unsaid = true;
}

void lapic_attend(struct virtx_lapic *l)
{
    uint32_t attention = __atomic_load_n(&l->attention, __ATOMIC_RELAXED);

    if (unlikely(attention & LAPIC_IN_PAGE)) {
        lapic_look(l);
        if (l->posted != NULL)
            fold_posted(l);
    }
    if (attention & LAPIC_POSTED)
        fold_inbox(l);
}

static void post(struct virtx_lapic *l)
{
    __atomic_fetch_or(&l->attention, LAPIC_POSTED, __ATOMIC_RELEASE);
    l->config.changed(l->config.ctx);
}

/* Without a word to this model. TMR is not changed that way, so of a vector that has been a level's
 * not even the edges go it. */
static __attribute__((noinline)) bool post_to_processor(struct virtx_lapic *l, uint8_t vector,
                                                        bool level)
{
    uint64_t bit = 1ull << (vector & 63), *levels = &l->levels[vector >> 6];

    if (level)
        __atomic_fetch_or(levels, bit, __ATOMIC_RELAXED);
    return (__atomic_load_n(levels, __ATOMIC_RELAXED) & bit) == 0 && l->post(l->vcpu, vector);
}

bool virtx_lapic_accept(struct virtx_lapic *lapic, enum virtx_apic_delivery delivery,
                        uint8_t vector, bool level)
{
    bool software_enabled = (__atomic_load_n(&lapic->svr, __ATOMIC_RELAXED) & SVR_ENABLE) != 0;
    uint64_t *set = level ? lapic->inbox_level : lapic->inbox_edge;

    if (!virtx_lapic_enabled(lapic))
        return false;
    switch (delivery) {
    case VIRTX_APIC_SMI:
    case VIRTX_APIC_NMI:
    case VIRTX_APIC_INIT:
    case VIRTX_APIC_SIPI:
        lapic->config.event(lapic->config.ctx, delivery, vector);
        return true;
    case VIRTX_APIC_EXTINT:
        if (!software_enabled)
            return false;
        __atomic_store_n(&lapic->extint_message, 1, __ATOMIC_RELEASE);
        lapic->config.changed(lapic->config.ctx);
        return true;
    case VIRTX_APIC_FIXED:
    case VIRTX_APIC_LOWEST_PRIORITY:
        if (!software_enabled)
            return false;
        if (vector < FIRST_LEGAL_VECTOR) {
            __atomic_fetch_or(&lapic->inbox_error, ESR_RECEIVE_ILLEGAL_VECTOR, __ATOMIC_ACQ_REL);
            post(lapic);
            return false;
        }
        if (lapic->post != NULL && post_to_processor(lapic, vector, level))
            return true;
        __atomic_fetch_or(&set[vector >> 6], 1ull << (vector & 63), __ATOMIC_ACQ_REL);
        post(lapic);
        return true;
    case VIRTX_APIC_RESERVED_MODE:
        break;
    }
    return false;
}

/* A source inside this LAPIC fires through its LVT entry. */
void lapic_raise(struct virtx_lapic *l, enum virtx_lapic_lvt entry)
{
    uint32_t value = l->lvt[entry];
    unsigned mode = lvt_mode(value);

    if ((value & LVT_MASKED) != 0)
        return;
    switch (mode) {
    case VIRTX_APIC_FIXED:
        if ((uint8_t)value < FIRST_LEGAL_VECTOR)
            lapic_error(l, ESR_RECEIVE_ILLEGAL_VECTOR);
        else
            lapic_set_irr(l, (uint8_t)value, false);
        break;
    case VIRTX_APIC_SMI:
    case VIRTX_APIC_NMI:
        l->config.event(l->config.ctx, (enum virtx_apic_delivery)mode, 0);
        break;
    default:
        break;
    }
}

void virtx_lapic_local_interrupt(struct virtx_lapic *lapic, enum virtx_lapic_lvt entry)
{
    if (entry != VIRTX_LAPIC_LVT_THERMAL && entry != VIRTX_LAPIC_LVT_PMC &&
        entry != VIRTX_LAPIC_LVT_CMCI)
        return;
    lapic_raise(lapic, entry);
    /* Intel SDM, "Generating an Interrupt on Overflow": delivery sets the mask bit. */
    if (entry == VIRTX_LAPIC_LVT_PMC)
        lapic_set_lvt(lapic, entry, lapic->lvt[entry] | LVT_MASKED);
    lapic_show(lapic);
    lapic->config.changed(lapic->config.ctx);
}

/* Works out what the LINT pins mean now: which of them are the 8259's, and whether LINT0 asserts a
 * level (Intel SDM, "Local Vector Table"; without the APIC the pins are INTR and NMI). */
void lapic_update_lint(struct virtx_lapic *l)
{
    uint8_t lines = __atomic_load_n(&l->lint_lines, __ATOMIC_RELAXED);
    uint32_t *lint0 = &l->lvt[VIRTX_LAPIC_LVT_LINT0];
    bool asserted = ((lines & 1) != 0) != ((*lint0 & LVT_ACTIVE_LOW) != 0);
    uint8_t pins = 0;

    for (unsigned pin = 0; pin < 2; pin++) {
        uint32_t entry = l->lvt[VIRTX_LAPIC_LVT_LINT0 + pin];

        if ((entry & LVT_MASKED) == 0 && lvt_mode(entry) == VIRTX_APIC_EXTINT)
            pins |= (uint8_t)(1u << pin);
    }
    if (!virtx_lapic_enabled(l))
        pins = 1;
    __atomic_store_n(&l->extint_pins, pins, __ATOMIC_RELAXED);

    if ((*lint0 & (LVT_MASKED | LVT_REMOTE_IRR | LVT_LEVEL)) != LVT_LEVEL || !asserted ||
        lvt_mode(*lint0) != VIRTX_APIC_FIXED)
        return;
    if ((uint8_t)*lint0 < FIRST_LEGAL_VECTOR) {
        lapic_error(l, ESR_RECEIVE_ILLEGAL_VECTOR);
        return;
    }
    lapic_set_lvt(l, VIRTX_LAPIC_LVT_LINT0, *lint0 | LVT_REMOTE_IRR);
    lapic_set_irr(l, (uint8_t)*lint0, true);
    lapic_show(l);
}

/* The pin of an enabled LAPIC changed and its LVT entry is not ExtINT. */
static void lint_edge(struct virtx_lapic *l, unsigned pin, bool level)
{
    enum virtx_lapic_lvt index = pin == 0 ? VIRTX_LAPIC_LVT_LINT0 : VIRTX_LAPIC_LVT_LINT1;
    uint32_t entry = __atomic_load_n(&l->lvt[index], __ATOMIC_RELAXED); /* it may change any time */
    unsigned mode = lvt_mode(entry);

    if ((entry & LVT_MASKED) != 0)
        return;
    if (mode == VIRTX_APIC_FIXED) {
        bool level_sensitive = pin == 0 && (entry & LVT_LEVEL) != 0;

        /* The registers are the vcpu's thread's: it folds in what is posted here. */
        if (level_sensitive) {
            __atomic_store_n(&l->lint_moved, 1, __ATOMIC_RELEASE);
            post(l);
        } else if (level != ((entry & LVT_ACTIVE_LOW) != 0)) {
            (void)virtx_lapic_accept(l, VIRTX_APIC_FIXED, (uint8_t)entry, false);
        }
    } else if (level &&
               (mode == VIRTX_APIC_INIT || mode == VIRTX_APIC_NMI || mode == VIRTX_APIC_SMI)) {
        l->config.event(l->config.ctx, (enum virtx_apic_delivery)mode, 0);
    }
}

void virtx_lapic_set_lint(struct virtx_lapic *lapic, unsigned pin, bool level)
{
    uint8_t bit = (uint8_t)(1u << (pin & 1));
    uint8_t before;

    if (pin > 1)
        return;
    if (level)
        before = __atomic_fetch_or(&lapic->lint_lines, bit, __ATOMIC_SEQ_CST);
    else
        before = __atomic_fetch_and(&lapic->lint_lines, (uint8_t)~bit, __ATOMIC_SEQ_CST);
    if (((before & bit) != 0) == level)
        return;
    if ((__atomic_load_n(&lapic->extint_pins, __ATOMIC_RELAXED) & bit) != 0) {
        /* A falling line takes an answer away, which nobody has to hurry for. */
        if (level)
            lapic->config.changed(lapic->config.ctx);
    } else if (virtx_lapic_enabled(lapic)) {
        lint_edge(lapic, pin, level);
    } else if (pin == 1 && level) {
        lapic->config.event(lapic->config.ctx, VIRTX_APIC_NMI, 0);
    }
}

static int source_pending(void *ctx)
{
    return virtx_lapic_pending((struct virtx_lapic *)ctx);
}

static int source_take(void *ctx)
{
    return virtx_lapic_take((struct virtx_lapic *)ctx);
}

static uint8_t source_tpr(void *ctx)
{
    return virtx_lapic_get_tpr((struct virtx_lapic *)ctx);
}

static void source_set_tpr(void *ctx, uint8_t tpr)
{
    virtx_lapic_set_tpr((struct virtx_lapic *)ctx, tpr);
}

static uint8_t source_tpr_threshold(void *ctx)
{
    return virtx_lapic_tpr_threshold((struct virtx_lapic *)ctx);
}

const struct virtx_irq_source virtx_lapic_irq_source = {
    .pending = source_pending,
    .take = source_take,
    .tpr = source_tpr,
    .set_tpr = source_set_tpr,
    .tpr_threshold = source_tpr_threshold,
};
