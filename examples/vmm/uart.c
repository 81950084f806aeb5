/* SPDX-License-Identifier: BSD-2-Clause */
/* A 16550A serial port (National Semiconductor PC16550D data sheet). A byte is sent in no time, and
 * the character time-out of the receiver passes in no time too. Words always have eight bits. */
#include "uart.h"

enum { RBR_THR, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR };

enum {
    IER_RECEIVED = 1,
    IER_EMPTY = 2,
    IER_LINE = 4,
    IER_MODEM = 8,

    IIR_MODEM = 0,
    IIR_NONE = 1,
    IIR_EMPTY = 2,
    IIR_RECEIVED = 4,
    IIR_LINE = 6,
    IIR_TIMEOUT = 12,
    IIR_FIFOS = 0xc0,

    FCR_ENABLE = 1,
    FCR_CLEAR_RECEIVE = 2,
    FCR_KEPT = 0xc9,

    LCR_DLAB = 0x80,

    MCR_DTR = 1,
    MCR_RTS = 2,
    MCR_OUT1 = 4,
    MCR_OUT2 = 8,
    MCR_LOOP = 0x10,

    LSR_DATA = 1,
    LSR_OVERRUN = 2,
    LSR_EMPTY = 0x60,

    MSR_CTS = 0x10,
    MSR_DSR = 0x20,
    MSR_RI = 0x40,
    MSR_DCD = 0x80,
};

void uart_init(struct uart *uart, void (*transmit)(void *, uint8_t), void (*line)(void *, bool),
               void *ctx)
{
    *uart = (struct uart){.transmit = transmit, .line = line, .ctx = ctx, .dll = 1};
}

/* ---- Interrupts ---- */

static uint8_t receive_trigger(const struct uart *uart)
{
    static const uint8_t levels[] = {1, 4, 8, 14};

    return uart->fcr & FCR_ENABLE ? levels[uart->fcr >> 6] : 1;
}

/* The pending interrupt of the highest priority. */
static uint8_t interrupt_id(const struct uart *uart)
{
    if (uart->ier & IER_LINE && uart->overrun)
        return IIR_LINE;
    if (uart->ier & IER_RECEIVED && uart->count)
        return uart->count >= receive_trigger(uart) ? IIR_RECEIVED : IIR_TIMEOUT;
    if (uart->ier & IER_EMPTY && uart->thre_pending)
        return IIR_EMPTY;
    if (uart->ier & IER_MODEM && uart->modem_changes)
        return IIR_MODEM;
    return IIR_NONE;
}

static void update_line(struct uart *uart)
{
    /* On a PC, the pin OUT2 gates the interrupt onto the bus; in loop-back the pin is inactive. */
    bool open = (uart->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;
    bool level = open && interrupt_id(uart) != IIR_NONE;

    if (level != uart->level) {
        uart->level = level;
        uart->line(uart->ctx, level);
    }
}

/* ---- Receiver ---- */

static unsigned capacity(const struct uart *uart)
{
    return uart->fcr & FCR_ENABLE ? UART_FIFO : 1;
}

bool uart_can_receive(const struct uart *uart)
{
    return !(uart->mcr & MCR_LOOP) && uart->count < capacity(uart);
}

bool uart_wants_byte(const struct uart *uart)
{
    bool by_interrupt = uart->ier & IER_RECEIVED && uart->mcr & MCR_OUT2;

    if (uart->lcr & LCR_DLAB || !uart_can_receive(uart))
        return false;
    /* Who polls takes byte after byte; one that lies there longer may be thrown away. */
    return by_interrupt || (uart->looks >= UART_PATIENCE && uart->count == 0);
}

static void take_in(struct uart *uart, uint8_t byte)
{
    if (uart->count < capacity(uart)) {
        uart->fifo[(uart->head + uart->count++) % UART_FIFO] = byte;
        return;
    }
    uart->overrun = true;
    if (!(uart->fcr & FCR_ENABLE))
        uart->fifo[uart->head] = byte; /* without FIFOs the new character destroys the old */
}

void uart_receive(struct uart *uart, uint8_t byte)
{
    if (uart->mcr & MCR_LOOP)
        return; /* the input pin is disconnected */
    take_in(uart, byte);
    update_line(uart);
}

static uint8_t take_received(struct uart *uart)
{
    uint8_t byte = uart->fifo[uart->head];

    if (uart->count) {
        uart->head = (uint8_t)((uart->head + 1) % UART_FIFO);
        uart->count--;
    }
    return byte;
}

static uint8_t line_status(struct uart *uart)
{
    uint8_t value = LSR_EMPTY | (uart->count ? LSR_DATA : 0) | (uart->overrun ? LSR_OVERRUN : 0);

    uart->overrun = false;
    return value;
}

/* ---- Modem ---- */

/* In loop-back the modem's inputs are the outputs; else a terminal is always there. */
static uint8_t modem_inputs(uint8_t mcr)
{
    if (!(mcr & MCR_LOOP))
        return MSR_DCD | MSR_DSR | MSR_CTS;
    return (mcr & MCR_RTS ? MSR_CTS : 0) | (mcr & MCR_DTR ? MSR_DSR : 0) |
           (mcr & MCR_OUT1 ? MSR_RI : 0) | (mcr & MCR_OUT2 ? MSR_DCD : 0);
}

static uint8_t modem_status(struct uart *uart)
{
    uint8_t value = modem_inputs(uart->mcr) | uart->modem_changes;

    uart->modem_changes = 0;
    return value;
}

static void write_mcr(struct uart *uart, uint8_t value)
{
    uint8_t before = modem_inputs(uart->mcr), after = modem_inputs(value);

    /* The ring indicator reports only its trailing edge. */
    uart->modem_changes |= ((before ^ after) & (MSR_CTS | MSR_DSR | MSR_DCD)) >> 4;
    uart->modem_changes |= (before & ~after & MSR_RI) >> 4;
    uart->mcr = value & 0x1f;
}

/* ---- Registers ---- */

uint8_t uart_read(struct uart *uart, unsigned reg)
{
    bool divisor = uart->lcr & LCR_DLAB;
    uint8_t value;

    if (reg != LSR)
        uart->looks = 0;
    else if (uart->looks < UART_PATIENCE)
        uart->looks++;
    switch (reg) {
    case RBR_THR:
        value = divisor ? uart->dll : take_received(uart);
        break;
    case IER:
        return divisor ? uart->dlm : uart->ier;
    case IIR_FCR:
        value = interrupt_id(uart);
        if (value == IIR_EMPTY)
            uart->thre_pending = false; /* reading the identification acknowledges it */
        value |= uart->fcr & FCR_ENABLE ? IIR_FIFOS : 0;
        break;
    case LCR:
        return uart->lcr;
    case MCR:
        return uart->mcr;
    case LSR:
        value = line_status(uart);
        break;
    case MSR:
        value = modem_status(uart);
        break;
    default:
        return uart->scr;
    }
    update_line(uart);
    return value;
}

static void send(struct uart *uart, uint8_t value)
{
    /* The transmitter is full for a moment: the line falls and rises again, an edge for the PIC. */
    uart->thre_pending = false;
    update_line(uart);
    if (uart->mcr & MCR_LOOP)
        take_in(uart, value);
    else
        uart->transmit(uart->ctx, value);
    uart->thre_pending = true;
}

static void write_ier(struct uart *uart, uint8_t value)
{
    /* Enabling the interrupt while the transmitter is empty raises it. */
    if (value & ~uart->ier & IER_EMPTY)
        uart->thre_pending = true;
    uart->ier = value & 0xf;
}

static void write_fcr(struct uart *uart, uint8_t value)
{
    bool changed = (value ^ uart->fcr) & FCR_ENABLE;

    /* Without the enable bit no other bit is programmed. */
    if (changed || (value & FCR_ENABLE && value & FCR_CLEAR_RECEIVE))
        uart->count = 0;
    uart->fcr = value & FCR_ENABLE ? value & FCR_KEPT : 0;
}

/* A driver that does this is about to clear the receiver, or to read it empty "for luck". */
static bool sets_up(const struct uart *uart, unsigned reg, uint8_t value)
{
    if (reg == IER)
        return !(uart->lcr & LCR_DLAB) && value & ~uart->ier & IER_RECEIVED;
    return reg == IIR_FCR || reg == LCR || (reg == MCR && uart->mcr != (value & 0x1f));
}

void uart_write(struct uart *uart, unsigned reg, uint8_t value)
{
    bool divisor = uart->lcr & LCR_DLAB;

    uart->looks = 0;
    uart->setups += sets_up(uart, reg, value);
    switch (reg) {
    case RBR_THR:
        if (divisor)
            uart->dll = value;
        else
            send(uart, value);
        break;
    case IER:
        if (divisor)
            uart->dlm = value;
        else
            write_ier(uart, value);
        break;
    case IIR_FCR:
        write_fcr(uart, value);
        break;
    case LCR:
        uart->lcr = value;
        break;
    case MCR:
        write_mcr(uart, value);
        break;
    case LSR:
    case MSR:
        break;
    default:
        uart->scr = value;
    }
    update_line(uart);
}
