/* SPDX-License-Identifier: BSD-2-Clause */
/* The keyboard controller (8042) with a keyboard on which nobody types. */
#ifndef VMM_I8042_H
#define VMM_I8042_H

#include <stdbool.h>
#include <stdint.h>

#define I8042_DATA   0x60
#define I8042_STATUS 0x64
#define I8042_QUEUE  8

struct i8042 {
    uint8_t config;  /* the command byte */
    uint8_t output;  /* the output port: bit 1 is A20 */
    uint8_t command; /* waits for its data byte; 0: data go to the keyboard */
    uint8_t keyboard_command; /* likewise, of the keyboard */
    uint8_t queue[I8042_QUEUE];
    uint8_t head, count;
    bool to_command; /* the last write was to port 0x64 */
};

void i8042_init(struct i8042 *kbc);
uint8_t i8042_read(struct i8042 *kbc, uint16_t port);
void i8042_write(struct i8042 *kbc, uint16_t port, uint8_t value);
/* The keyboard's interrupt line. */
bool i8042_interrupt(const struct i8042 *kbc);

#endif
