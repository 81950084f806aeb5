/* SPDX-License-Identifier: BSD-2-Clause */
/* The model of the 8259A pair. Inputs are numbered as on the chip, IR0 to IR7; rank 0 is the
 * highest priority, which rotation moves to any input. */
#include <virtx/pic.h>

#include "core/util.h"
#include "irq/guard.h"

#define MASTER        0u
#define SLAVE         1u
#define CASCADE       2u
#define NO_INPUT      8u

#define ICW1          0x10u
#define ICW1_IC4      0x01u
#define ICW1_SINGLE   0x02u
#define ICW1_LEVEL    0x08u
#define ICW4_AUTO_EOI 0x02u
#define ICW4_SFNM     0x10u
#define OCW3          0x08u
#define OCW3_READ     0x02u
#define OCW3_READ_ISR 0x01u
#define OCW3_POLL     0x04u
#define OCW3_ESMM     0x40u
#define OCW3_SMM      0x20u
#define OCW2_EOI      0x20u
#define OCW2_SPECIFIC 0x40u
#define OCW2_ROTATE   0x80u

/* The timer, the keyboard and the cascade, the clock and the coprocessor are edges on every PC. */
#define ELCR_MASTER 0xf8u
#define ELCR_SLAVE  0xdeu

static bool is_level(const struct virtx_pic_chip *c, unsigned input)
{
    return c->level_triggered || (c->elcr >> input & 1) != 0;
}

/* The highest-priority input in a set, NO_INPUT if it is empty. */
static unsigned first(const struct virtx_pic_chip *c, uint8_t set)
{
    unsigned turn = (c->lowest + 1u) & 7;
    unsigned rotated;

    if (set == 0)
        return NO_INPUT;
    rotated = (unsigned)set >> turn | (unsigned)set << (8 - turn);
    return ((unsigned)__builtin_ctz(rotated) + turn) & 7;
}

static unsigned rank(const struct virtx_pic_chip *c, unsigned input)
{
    return input == NO_INPUT ? NO_INPUT : (input + 7u - c->lowest) & 7;
}

/* The highest request, if it is above everything in service that counts; else NO_INPUT. */
static unsigned highest_request(const struct virtx_pic *pic, unsigned which)
{
    const struct virtx_pic_chip *c = &pic->chip[which];
    unsigned input = first(c, c->irr & (uint8_t)~c->imr);
    uint8_t in_service = c->isr;

    if (c->init_step != 0)
        return NO_INPUT;
    /* Special mask mode: a masked input in service holds back nobody. */
    if (c->special_mask)
        in_service &= (uint8_t)~c->imr;
    /* Special fully nested mode: a slave in service may interrupt itself with a higher input. */
    if ((c->icw4 & ICW4_SFNM) != 0 && which == MASTER)
        in_service &= (uint8_t)~c->icw3;
    return rank(c, input) < rank(c, first(c, in_service)) ? input : NO_INPUT;
}

/* The input that the chip asks to be served, NO_INPUT if there is none, as is most often so. */
static inline unsigned request(const struct virtx_pic *pic, unsigned which)
{
    const struct virtx_pic_chip *c = &pic->chip[which];

    return likely((c->irr & (uint8_t)~c->imr) == 0) ? NO_INPUT : highest_request(pic, which);
}

static void drive(struct virtx_pic_chip *c, unsigned input, bool level)
{
    uint8_t bit = (uint8_t)(1u << input);

    if (!level) {
        c->lines &= (uint8_t)~bit;
        c->irr &= (uint8_t)~bit;
    } else {
        if (is_level(c, input) || (c->lines & bit) == 0)
            c->irr |= bit;
        c->lines |= bit;
    }
}

/* Settles the wires behind the inputs: the slave's INT into the master, the master's to the CPU. */
static void update(struct virtx_pic *pic)
{
    bool intr;

    drive(&pic->chip[MASTER], CASCADE, request(pic, SLAVE) != NO_INPUT);
    intr = request(pic, MASTER) != NO_INPUT;
    if (intr == pic->intr)
        return;
    pic->intr = intr;
    if (pic->output != NULL)
        pic->output(pic->ctx, intr);
}

void virtx_pic_init(struct virtx_pic *pic, void (*output)(void *ctx, bool level), void *ctx)
{
    memset(pic, 0, sizeof(*pic));
    pic->output = output;
    pic->ctx = ctx;
    for (unsigned which = 0; which < 2; which++) {
        pic->chip[which].lowest = 7;
        pic->chip[which].imr = 0xff;
    }
}

void virtx_pic_set_irq(struct virtx_pic *pic, unsigned irq, bool level)
{
    uint64_t flags;

    if (irq > 15 || irq == CASCADE)
        return;
    flags = guard(&pic->lock);
    pic->chip[irq >> 3].pulses &= (uint8_t) ~(1u << (irq & 7));
    drive(&pic->chip[irq >> 3], irq & 7, level);
    update(pic);
    unguard(&pic->lock, flags);
}

void virtx_pic_pulse(struct virtx_pic *pic, unsigned irq)
{
    uint64_t flags;

    if (irq > 15 || irq == CASCADE)
        return;
    flags = guard(&pic->lock);
    /* Low first: this is an edge even if the last pulse still waits or the line was left high. */
    if ((pic->chip[irq >> 3].irr >> (irq & 7) & 1) == 0)
        drive(&pic->chip[irq >> 3], irq & 7, false);
    drive(&pic->chip[irq >> 3], irq & 7, true);
    pic->chip[irq >> 3].pulses |= (uint8_t)(1u << (irq & 7));
    update(pic);
    unguard(&pic->lock, flags);
}

/* Puts an input into service as an acknowledge or a poll does. */
static void acknowledge(struct virtx_pic_chip *c, unsigned input)
{
    uint8_t bit = (uint8_t)(1u << input);

    if ((c->pulses & bit) != 0) {
        c->pulses &= (uint8_t)~bit;
        c->lines &= (uint8_t)~bit;
        c->irr &= (uint8_t)~bit;
    } else if (!is_level(c, input)) {
        c->irr &= (uint8_t)~bit;
    }
    if ((c->icw4 & ICW4_AUTO_EOI) == 0)
        c->isr |= bit;
    else if (c->rotate_on_aeoi)
        c->lowest = (uint8_t)input;
}

/* Whether the acknowledge of the master's cascade input is answered by the slave. */
static bool is_cascaded(const struct virtx_pic *pic)
{
    return !pic->chip[MASTER].single && (pic->chip[MASTER].icw3 >> CASCADE & 1) != 0;
}

static bool slave_answers(const struct virtx_pic *pic)
{
    return (pic->chip[SLAVE].icw3 & 7) == CASCADE;
}

static int offer(struct virtx_pic *pic)
{
    unsigned input = request(pic, MASTER);

    pic->offered_slave = input == CASCADE && is_cascaded(pic);
    if (input == NO_INPUT)
        return VIRTX_IRQ_NONE;
    if (!pic->offered_slave)
        return pic->chip[MASTER].base + (int)input;
    if (!slave_answers(pic))
        return 0xff;
    /* The wires are settled after every change: the cascade asks only if the slave does. */
    return pic->chip[SLAVE].base + (int)(request(pic, SLAVE) & 7);
}

int virtx_pic_pending(struct virtx_pic *pic)
{
    uint64_t flags = guard(&pic->lock);
    int vector = offer(pic);

    unguard(&pic->lock, flags);
    return vector;
}

/* The master has frozen its cascade input: the slave puts its vector on the bus. Its INT falls, so
 * that a next request of its is a new edge to the master. */
static int take_slave(struct virtx_pic *pic)
{
    unsigned input = request(pic, SLAVE);

    acknowledge(&pic->chip[MASTER], CASCADE);
    drive(&pic->chip[MASTER], CASCADE, false);
    if (!slave_answers(pic))
        return 0xff; /* Nobody drives the bus. */
    if (input == NO_INPUT)
        return pic->chip[SLAVE].base + 7;
    acknowledge(&pic->chip[SLAVE], input);
    return pic->chip[SLAVE].base + (int)input;
}

/* INT falls with every acknowledge, so that the next request is an edge to who listens. */
static void drop_output(struct virtx_pic *pic)
{
    if (pic->intr && pic->output != NULL)
        pic->output(pic->ctx, false);
    pic->intr = false;
}

static int interrupt_acknowledge(struct virtx_pic *pic)
{
    unsigned input = request(pic, MASTER);
    bool was_slave = pic->offered_slave;
    int vector;

    pic->offered_slave = false;
    if (input == NO_INPUT && !was_slave) {
        vector = pic->chip[MASTER].base + 7;
    } else if (input == NO_INPUT || (input == CASCADE && is_cascaded(pic))) {
        /* Without a request any more, the slave's went away between the two INTA pulses. */
        vector = take_slave(pic);
    } else {
        acknowledge(&pic->chip[MASTER], input);
        vector = pic->chip[MASTER].base + (int)input;
    }
    drop_output(pic);
    update(pic);
    return vector;
}

int virtx_pic_take(struct virtx_pic *pic)
{
    uint64_t flags = guard(&pic->lock);
    int vector = interrupt_acknowledge(pic);

    unguard(&pic->lock, flags);
    return vector;
}

static void write_icw1(struct virtx_pic_chip *c, uint8_t value)
{
    c->imr = 0;
    c->isr = 0;
    c->irr = 0;
    c->lines &= (uint8_t)~c->pulses;
    c->pulses = 0;
    c->icw3 = 7;
    c->icw4 = 0;
    c->lowest = 7;
    c->special_mask = false;
    c->read_isr = false;
    c->poll = false;
    c->rotate_on_aeoi = false;
    c->single = (value & ICW1_SINGLE) != 0;
    c->need_icw4 = (value & ICW1_IC4) != 0;
    c->level_triggered = (value & ICW1_LEVEL) != 0;
    c->init_step = 2;
    /* The edge sense circuit starts afresh and needs a new edge; a level is still there. */
    for (unsigned input = 0; input < 8; input++) {
        if (is_level(c, input))
            c->irr |= c->lines & (uint8_t)(1u << input);
    }
}

static void write_ocw2(struct virtx_pic_chip *c, uint8_t value)
{
    bool rotate = (value & OCW2_ROTATE) != 0;
    bool specific = (value & OCW2_SPECIFIC) != 0;
    unsigned input = value & 7;

    if ((value & OCW2_EOI) == 0) {
        if (!specific)
            c->rotate_on_aeoi = rotate;
        else if (rotate)
            c->lowest = (uint8_t)input;
        return;
    }
    if (!specific) {
        /* In special mask mode a masked input's bit is not the one that is meant. */
        input = first(c, c->special_mask ? c->isr & (uint8_t)~c->imr : c->isr);
        if (input == NO_INPUT)
            return;
    }
    c->isr &= (uint8_t) ~(1u << input);
    if (rotate)
        c->lowest = (uint8_t)input;
}

static void write_ocw3(struct virtx_pic_chip *c, uint8_t value)
{
    if ((value & OCW3_ESMM) != 0)
        c->special_mask = (value & OCW3_SMM) != 0;
    if ((value & OCW3_READ) != 0)
        c->read_isr = (value & OCW3_READ_ISR) != 0;
    c->poll = (value & OCW3_POLL) != 0;
}

/* The odd address: the rest of the initialization, else the mask. */
static void write_data(struct virtx_pic_chip *c, uint8_t value)
{
    switch (c->init_step) {
    case 2:
        c->base = value & 0xf8;
        c->init_step = !c->single ? 3 : c->need_icw4 ? 4 : 0;
        break;
    case 3:
        c->icw3 = value;
        c->init_step = c->need_icw4 ? 4 : 0;
        break;
    case 4:
        c->icw4 = value;
        c->init_step = 0;
        break;
    default:
        c->imr = value;
        break;
    }
}

static void write_elcr(struct virtx_pic_chip *c, uint8_t value)
{
    c->elcr = value;
    for (unsigned input = 0; input < 8; input++) {
        uint8_t bit = (uint8_t)(1u << input);

        if (is_level(c, input))
            c->irr = (uint8_t)((c->irr & ~bit) | (c->lines & bit));
    }
}

static uint8_t read_poll(struct virtx_pic *pic, unsigned which)
{
    unsigned input = request(pic, which);

    pic->chip[which].poll = false;
    if (input == NO_INPUT)
        return 0;
    acknowledge(&pic->chip[which], input);
    if (which == MASTER)
        drop_output(pic);
    else
        drive(&pic->chip[MASTER], CASCADE, false);
    update(pic);
    return (uint8_t)(0x80 | input);
}

bool virtx_pic_owns_port(uint16_t port)
{
    return (port & 0xff7e) == 0x20 || (port & 0xfffe) == 0x4d0;
}

static uint8_t read_port(struct virtx_pic *pic, uint16_t port)
{
    unsigned which = (port & 0x80) != 0 ? SLAVE : MASTER;
    const struct virtx_pic_chip *c = &pic->chip[which];

    if ((port & 0xfffe) == 0x4d0)
        return pic->chip[port & 1].elcr;
    if (c->poll)
        return read_poll(pic, which);
    if ((port & 1) != 0)
        return c->imr;
    return c->read_isr ? c->isr : c->irr;
}

uint8_t virtx_pic_read(struct virtx_pic *pic, uint16_t port)
{
    uint64_t flags;
    uint8_t value;

    if (!virtx_pic_owns_port(port))
        return 0xff;
    flags = guard(&pic->lock);
    value = read_port(pic, port);
    unguard(&pic->lock, flags);
    return value;
}

void virtx_pic_write(struct virtx_pic *pic, uint16_t port, uint8_t value)
{
    struct virtx_pic_chip *c = &pic->chip[(port & 0x80) != 0 ? SLAVE : MASTER];
    uint64_t flags;

    if (!virtx_pic_owns_port(port))
        return;
    flags = guard(&pic->lock);
    if (unlikely((port & 0xfffe) == 0x4d0))
        write_elcr(&pic->chip[port & 1], value & ((port & 1) != 0 ? ELCR_SLAVE : ELCR_MASTER));
    else if ((port & 1) != 0)
        write_data(c, value);
    else if ((value & ICW1) != 0)
        write_icw1(c, value);
    else if ((value & OCW3) != 0)
        write_ocw3(c, value);
    else
        write_ocw2(c, value);
    update(pic);
    unguard(&pic->lock, flags);
}

static int source_pending(void *ctx)
{
    return virtx_pic_pending((struct virtx_pic *)ctx);
}

static int source_take(void *ctx)
{
    return virtx_pic_take((struct virtx_pic *)ctx);
}

const struct virtx_irq_source virtx_pic_irq_source = {
    .pending = source_pending,
    .take = source_take,
};

void virtx_pic_save(struct virtx_pic *pic, struct virtx_pic_state *state)
{
    uint64_t flags = guard(&pic->lock);

    memset(state, 0, sizeof(*state));
    state->size = sizeof(*state);
    memcpy(state->chip, pic->chip, sizeof(state->chip));
    state->offered_slave = pic->offered_slave;
    unguard(&pic->lock, flags);
}

bool virtx_pic_restore(struct virtx_pic *pic, const struct virtx_pic_state *state)
{
    uint64_t flags;

    if (state->size != sizeof(*state))
        return false;
    for (unsigned which = 0; which < 2; which++) {
        const struct virtx_pic_chip *c = &state->chip[which];

        if (c->lowest > 7 || c->init_step == 1 || c->init_step > 4 || (c->base & 7) != 0)
            return false;
    }
    flags = guard(&pic->lock);
    memcpy(pic->chip, state->chip, sizeof(pic->chip));
    pic->offered_slave = state->offered_slave;
    update(pic);
    unguard(&pic->lock, flags);
    return true;
}
