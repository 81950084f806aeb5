/* SPDX-License-Identifier: BSD-2-Clause */
/* A 16550A serial port whose transmitter is never busy. */
#ifndef VMM_UART_H
#define VMM_UART_H

#include <stdbool.h>
#include <stdint.h>

#define UART_FIFO 16

struct uart {
    void (*transmit)(void *ctx, uint8_t byte); /* where sent bytes go */
    void *ctx;
    uint8_t ier, lcr, mcr, scr, fcr;
    uint8_t dll, dlm;
    bool thre_pending; /* "transmitter empty" has not been reported yet */
    bool overrun;
    uint8_t fifo[UART_FIFO];
    uint8_t head, count;
};

void uart_init(struct uart *uart, void (*transmit)(void *, uint8_t), void *ctx);
uint8_t uart_read(struct uart *uart, unsigned reg);
void uart_write(struct uart *uart, unsigned reg, uint8_t value);
/* Whether a byte can be received without overrun, and receiving one. */
bool uart_can_receive(const struct uart *uart);
void uart_receive(struct uart *uart, uint8_t byte);
/* The level of its interrupt line. */
bool uart_irq(const struct uart *uart);

#endif
