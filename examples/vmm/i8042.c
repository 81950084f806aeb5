/* SPDX-License-Identifier: BSD-2-Clause */
/* The keyboard controller of a PC/AT (IBM PC/AT Technical Reference, "Keyboard Controller"): it
 * answers every command in no time. There is no mouse. The processor's reset through the output
 * port is the board's. */
#include "i8042.h"

enum {
    STATUS_OUTPUT = 1, STATUS_SYSTEM = 4, STATUS_COMMAND = 8, STATUS_UNLOCKED = 0x10,
    CONFIG_INTERRUPT = 1, CONFIG_SYSTEM = 4, CONFIG_KEYBOARD_OFF = 0x10, CONFIG_TRANSLATE = 0x40,

    READ_RAM = 0x20, WRITE_RAM = 0x60, SELF_TEST = 0xaa, TEST_KEYBOARD = 0xab,
    KEYBOARD_OFF = 0xad, KEYBOARD_ON = 0xae, READ_INPUT = 0xc0, READ_OUTPUT = 0xd0,
    WRITE_OUTPUT = 0xd1, ECHO_AS_KEYBOARD = 0xd2,

    KEYBOARD_SET_LEDS = 0xed, KEYBOARD_ECHO = 0xee, KEYBOARD_SCAN_SET = 0xf0,
    KEYBOARD_IDENTIFY = 0xf2, KEYBOARD_RATE = 0xf3, KEYBOARD_RESET = 0xff,
    ACKNOWLEDGE = 0xfa, TEST_PASSED = 0xaa,
};

void i8042_init(struct i8042 *kbc)
{
    *kbc = (struct i8042){.config = CONFIG_SYSTEM | CONFIG_TRANSLATE, .output = 3};
}

static void put(struct i8042 *kbc, uint8_t value)
{
    if (kbc->count < I8042_QUEUE)
        kbc->queue[(kbc->head + kbc->count++) % I8042_QUEUE] = value;
}

static uint8_t take(struct i8042 *kbc)
{
    uint8_t value = kbc->queue[kbc->head];

    if (kbc->count) {
        kbc->head = (uint8_t)((kbc->head + 1) % I8042_QUEUE);
        kbc->count--;
    }
    return value;
}

/* An answer of the controller stands before what the keyboard has sent. */
static void answer(struct i8042 *kbc, uint8_t value)
{
    kbc->count = 0;
    put(kbc, value);
}

static void do_command(struct i8042 *kbc, uint8_t command)
{
    kbc->command = 0;
    switch (command) {
    case READ_RAM:
        answer(kbc, kbc->config);
        break;
    case SELF_TEST:
        kbc->config |= CONFIG_SYSTEM;
        answer(kbc, 0x55);
        break;
    case TEST_KEYBOARD:
        answer(kbc, 0);
        break;
    case KEYBOARD_OFF:
        kbc->config |= CONFIG_KEYBOARD_OFF;
        break;
    case KEYBOARD_ON:
        kbc->config &= (uint8_t)~CONFIG_KEYBOARD_OFF;
        break;
    case READ_INPUT:
        answer(kbc, 0x80); /* the keyboard is not locked */
        break;
    case READ_OUTPUT:
        answer(kbc, kbc->output);
        break;
    case WRITE_RAM:
    case WRITE_OUTPUT:
    case ECHO_AS_KEYBOARD:
        kbc->command = command;
        break;
    default: /* pulses of the output port and what is not there */
        break;
    }
}

static void to_keyboard(struct i8042 *kbc, uint8_t value)
{
    uint8_t command = kbc->keyboard_command;

    kbc->keyboard_command = 0;
    kbc->config &= (uint8_t)~CONFIG_KEYBOARD_OFF; /* sending data to the keyboard enables it */
    if (command) { /* the command's parameter */
        put(kbc, ACKNOWLEDGE);
        if (command == KEYBOARD_SCAN_SET && value == 0)
            put(kbc, 0x41); /* set 2, translated */
        return;
    }
    if (value == KEYBOARD_ECHO) {
        put(kbc, KEYBOARD_ECHO);
        return;
    }
    put(kbc, ACKNOWLEDGE);
    if (value == KEYBOARD_RESET) {
        put(kbc, TEST_PASSED);
    } else if (value == KEYBOARD_IDENTIFY) {
        put(kbc, 0xab);
        put(kbc, kbc->config & CONFIG_TRANSLATE ? 0x41 : 0x83);
    } else if (value == KEYBOARD_SET_LEDS || value == KEYBOARD_RATE ||
               value == KEYBOARD_SCAN_SET) {
        kbc->keyboard_command = value;
    }
}

uint8_t i8042_read(struct i8042 *kbc, uint16_t port)
{
    if (port == I8042_DATA)
        return take(kbc);
    return STATUS_UNLOCKED | (kbc->count ? STATUS_OUTPUT : 0) |
           (kbc->config & CONFIG_SYSTEM ? STATUS_SYSTEM : 0) |
           (kbc->to_command ? STATUS_COMMAND : 0);
}

void i8042_write(struct i8042 *kbc, uint16_t port, uint8_t value)
{
    uint8_t command = kbc->command;

    kbc->to_command = port == I8042_STATUS;
    if (kbc->to_command) {
        do_command(kbc, value);
        return;
    }
    kbc->command = 0;
    if (command == WRITE_RAM)
        kbc->config = value;
    else if (command == WRITE_OUTPUT)
        kbc->output = value | 1;
    else if (command == ECHO_AS_KEYBOARD)
        answer(kbc, value);
    else
        to_keyboard(kbc, value);
}

bool i8042_interrupt(const struct i8042 *kbc)
{
    return kbc->count && kbc->config & CONFIG_INTERRUPT;
}
