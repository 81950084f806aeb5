/* SPDX-License-Identifier: BSD-2-Clause */
/* A 16550A serial port whose transmitter is never busy. */
#ifndef VMM_UART_H
#define VMM_UART_H

#include <stdbool.h>
#include <stdint.h>

#define UART_FIFO     16
#define UART_PATIENCE 4 /* looks at the line status that make a guest one that polls */

struct uart {
    void (*transmit)(void *ctx, uint8_t byte); /* where sent bytes go */
    void (*line)(void *ctx, bool level);       /* the interrupt line changes */
    void *ctx;
    uint8_t ier, lcr, mcr, scr, fcr;
    uint8_t dll, dlm;
    uint8_t modem_changes; /* the delta bits of the modem status */
    bool thre_pending;     /* "transmitter empty" has not been reported yet */
    bool overrun;
    bool level; /* of the interrupt line */
    uint8_t fifo[UART_FIFO];
    uint8_t head, count;
    uint8_t looks;   /* of the guest at the line status, without another access between */
    uint32_t setups; /* writes that set the port up, counted: what lies in it then is lost */
};

void uart_init(struct uart *uart, void (*transmit)(void *, uint8_t), void (*line)(void *, bool),
               void *ctx);
/* Registers 0 to 7. */
uint8_t uart_read(struct uart *uart, unsigned reg);
void uart_write(struct uart *uart, unsigned reg, uint8_t value);
/* Whether the guest waits for a byte: it has the interrupt on, or keeps looking for one. A driver
 * that tries out the port would throw away what comes before. */
bool uart_wants_byte(const struct uart *uart);
/* Whether a byte from outside can be received without overrun, and receiving one. */
bool uart_can_receive(const struct uart *uart);
void uart_receive(struct uart *uart, uint8_t byte);

#endif
