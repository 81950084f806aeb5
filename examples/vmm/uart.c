/* SPDX-License-Identifier: BSD-2-Clause */
/* A 16550A serial port (National Semiconductor PC16550D data sheet). */
#include "uart.h"

enum { RBR_THR, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR };

enum {
    IER_RECEIVED = 1,
    IER_EMPTY = 2,
    IER_LINE = 4,

    IIR_NONE = 1,
    IIR_EMPTY = 2,
    IIR_RECEIVED = 4,
    IIR_LINE = 6,
    IIR_FIFOS = 0xc0,

    FCR_ENABLE = 1,
    FCR_CLEAR_RECEIVE = 2,

    LCR_DLAB = 0x80,
    MCR_OUT2 = 8,
    MCR_LOOP = 0x10,

    LSR_DATA = 1,
    LSR_OVERRUN = 2,
    LSR_EMPTY = 0x60,
};

void uart_init(struct uart *uart, void (*transmit)(void *, uint8_t), void *ctx)
{
    *uart = (struct uart){.transmit = transmit, .ctx = ctx, .dll = 1};
}

static unsigned capacity(const struct uart *uart)
{
    return uart->fcr & FCR_ENABLE ? UART_FIFO : 1;
}

bool uart_can_receive(const struct uart *uart)
{
    return uart->count < capacity(uart);
}

void uart_receive(struct uart *uart, uint8_t byte)
{
    if (!uart_can_receive(uart)) {
        uart->overrun = true;
        return;
    }
    uart->fifo[(uart->head + uart->count++) % UART_FIFO] = byte;
}

static uint8_t interrupt_id(const struct uart *uart)
{
    if (uart->ier & IER_LINE && uart->overrun)
        return IIR_LINE;
    if (uart->ier & IER_RECEIVED && uart->count)
        return IIR_RECEIVED;
    if (uart->ier & IER_EMPTY && uart->thre_pending)
        return IIR_EMPTY;
    return IIR_NONE;
}

bool uart_irq(const struct uart *uart)
{
    /* On a PC, OUT2 gates the interrupt onto the bus. */
    return uart->mcr & MCR_OUT2 && interrupt_id(uart) != IIR_NONE;
}

static uint8_t take_received(struct uart *uart)
{
    uint8_t byte = 0;
    if (uart->count) {
        byte = uart->fifo[uart->head];
        uart->head = (uint8_t)((uart->head + 1) % UART_FIFO);
        uart->count--;
    }
    return byte;
}

static uint8_t modem_status(const struct uart *uart)
{
    /* In loop-back the modem inputs are the modem outputs; else a terminal is always there. */
    if (!(uart->mcr & MCR_LOOP))
        return 0xb0;
    return (uint8_t)((uart->mcr & 2) << 3 | (uart->mcr & 1) << 5 | (uart->mcr & 0xc) << 4);
}

uint8_t uart_read(struct uart *uart, unsigned reg)
{
    uint8_t value;

    switch (reg) {
    case RBR_THR:
        return uart->lcr & LCR_DLAB ? uart->dll : take_received(uart);
    case IER:
        return uart->lcr & LCR_DLAB ? uart->dlm : uart->ier;
    case IIR_FCR:
        value = interrupt_id(uart);
        if (value == IIR_EMPTY)
            uart->thre_pending = false; /* reading the identification acknowledges it */
        return value | (uart->fcr & FCR_ENABLE ? IIR_FIFOS : 0);
    case LCR:
        return uart->lcr;
    case MCR:
        return uart->mcr;
    case LSR:
        value = LSR_EMPTY | (uart->count ? LSR_DATA : 0) | (uart->overrun ? LSR_OVERRUN : 0);
        uart->overrun = false;
        return value;
    case MSR:
        return modem_status(uart);
    default:
        return uart->scr;
    }
}

static void write_data(struct uart *uart, uint8_t value)
{
    if (uart->lcr & LCR_DLAB) {
        uart->dll = value;
        return;
    }
    if (uart->mcr & MCR_LOOP)
        uart_receive(uart, value);
    else
        uart->transmit(uart->ctx, value);
    uart->thre_pending = true;
}

static void write_ier(struct uart *uart, uint8_t value)
{
    if (uart->lcr & LCR_DLAB) {
        uart->dlm = value;
        return;
    }
    /* Enabling the interrupt while the transmitter is empty raises it. */
    if (value & ~uart->ier & IER_EMPTY)
        uart->thre_pending = true;
    uart->ier = value & 0xf;
}

void uart_write(struct uart *uart, unsigned reg, uint8_t value)
{
    switch (reg) {
    case RBR_THR:
        write_data(uart, value);
        break;
    case IER:
        write_ier(uart, value);
        break;
    case IIR_FCR:
        if ((value ^ uart->fcr) & FCR_ENABLE || value & FCR_CLEAR_RECEIVE)
            uart->count = 0;
        uart->fcr = value & FCR_ENABLE ? value & 0xc9 : 0;
        break;
    case LCR:
        uart->lcr = value;
        break;
    case MCR:
        uart->mcr = value & 0x1f;
        break;
    case LSR:
    case MSR:
        break;
    default:
        uart->scr = value;
    }
}
