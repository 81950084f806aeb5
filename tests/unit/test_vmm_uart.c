/* SPDX-License-Identifier: BSD-2-Clause */
/* The VMM's serial port against the PC16550D data sheet, and against the probes of drivers. */
#include "uart.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR, FCR = IIR };

static struct uart uart;
static char sent[512];
static unsigned sent_bytes, edges;
static bool line;

static void transmit(void *ctx, uint8_t byte)
{
    ck_assert_ptr_eq(ctx, &uart);
    sent[sent_bytes++ % sizeof(sent)] = (char)byte;
}

static void set_line(void *ctx, bool level)
{
    ck_assert_ptr_eq(ctx, &uart);
    ck_assert(level != line);
    line = level;
    edges += level;
}

static void setup(void)
{
    sent_bytes = edges = 0;
    line = false;
    uart_init(&uart, transmit, set_line, &uart);
}

static uint8_t in(unsigned reg)
{
    return uart_read(&uart, reg);
}

static void out(unsigned reg, uint8_t value)
{
    uart_write(&uart, reg, value);
}

START_TEST(reset_state)
{
    ck_assert_uint_eq(in(IER), 0);
    ck_assert_uint_eq(in(IIR), 1);
    ck_assert_uint_eq(in(LCR), 0);
    ck_assert_uint_eq(in(MCR), 0);
    ck_assert_uint_eq(in(LSR), 0x60);
    ck_assert_uint_eq(in(MSR), 0xb0); /* no deltas */
}
END_TEST

START_TEST(registers_keep_what_they_have)
{
    out(IER, 0xff);
    ck_assert_uint_eq(in(IER), 0xf);
    out(MCR, 0xff);
    ck_assert_uint_eq(in(MCR), 0x1f);
    out(SCR, 0xa5);
    ck_assert_uint_eq(in(SCR), 0xa5);
    out(LSR, 0xff);
    out(MSR, 0xff);
    ck_assert_uint_eq(in(LSR), 0x60);
}
END_TEST

START_TEST(divisor_latch_hides_data_and_ier)
{
    out(IER, 5);
    out(LCR, 0x83);
    out(DATA, 0x0c);
    out(IER, 0x34);
    ck_assert_uint_eq(in(DATA), 0x0c);
    ck_assert_uint_eq(in(IER), 0x34);
    out(LCR, 3);
    ck_assert_uint_eq(in(IER), 5);
    ck_assert_uint_eq(sent_bytes, 0);
}
END_TEST

/* The order of Linux's autoconfig(): IER's width, loop-back of the modem lines, FIFOs. */
START_TEST(linux_finds_a_16550a)
{
    out(IER, 0);
    ck_assert_uint_eq(in(IER)&0xf, 0);
    out(IER, 0xf);
    ck_assert_uint_eq(in(IER)&0xf, 0xf);
    out(IER, 0);
    out(MCR, 0x1a); /* LOOP, OUT2, RTS */
    ck_assert_uint_eq(in(MSR)&0xf0, 0x90);
    out(MCR, 0);
    out(LCR, 0xbf);
    out(FCR, 0); /* the enhanced feature register of later parts */
    out(LCR, 0);
    out(FCR, 1);
    ck_assert_uint_eq(in(IIR) >> 6, 3); /* FIFOs that work: a 16550A */
    out(LCR, 0x80);
    ck_assert_uint_ne(in(IIR), 0); /* a 16650 would show its EFR, cleared */
    out(LCR, 0xbf);
    ck_assert_uint_ne(in(IIR), 0);
    /* A fast National part mirrors LOOP in the bank of LCR E0H; a plain one does not. */
    out(LCR, 0xe0);
    uint8_t bank = in(IIR);
    out(LCR, 0);
    out(MCR, 0x10);
    out(LCR, 0xe0);
    ck_assert_uint_eq((bank ^ in(IIR)) & 0x10, 0);
    out(LCR, 0);
    out(MCR, 0);
    out(IER, 0x40); /* the unit-enable bit of an XScale */
    ck_assert_uint_eq(in(IER)&0x40, 0);
    out(FCR, 0);
    ck_assert_uint_eq(in(IIR) >> 6, 0);
}
END_TEST

/* size_fifo(): 256 bytes into the loop; what comes back is the FIFO's size. */
START_TEST(loop_back_shows_the_fifos_size)
{
    unsigned count = 0;

    out(FCR, 7);
    out(MCR, 0x10);
    out(LCR, 3);
    for (unsigned i = 0; i < 256; i++)
        out(DATA, (uint8_t)i);
    ck_assert_uint_eq(in(LSR), 0x63); /* data, overrun */
    for (; in(LSR)&1; count++)
        ck_assert_uint_eq(in(DATA), count);
    ck_assert_uint_eq(count, 16);
    ck_assert_uint_eq(sent_bytes, 0);
}
END_TEST

/* serial8250_do_startup(): enabling THRI raises the interrupt each time anew. */
START_TEST(thre_interrupt_test_of_startup)
{
    out(MCR, 8);
    for (unsigned i = 0; i < 2; i++) {
        out(IER, 2);
        ck_assert(line);
        ck_assert_uint_eq(in(IIR), 2);
        ck_assert(!line);
        ck_assert_uint_eq(in(IIR), 1);
        out(IER, 0);
    }
    /* The test for transmitters that need a kick (UART_BUG_TXEN). */
    out(IER, 2);
    ck_assert_uint_eq(in(LSR)&0x40, 0x40);
    ck_assert_uint_eq(in(IIR), 2);
}
END_TEST

START_TEST(every_sent_byte_is_an_edge)
{
    out(MCR, 8);
    out(IER, 2);
    ck_assert_uint_eq(edges, 1);
    out(DATA, 'a'); /* writing the data acknowledges as well as reading IIR */
    ck_assert_uint_eq(edges, 2);
    ck_assert_uint_eq(in(IIR), 2);
    out(DATA, 'b');
    ck_assert_uint_eq(edges, 3);
    ck_assert_uint_eq(sent_bytes, 2);
    ck_assert_mem_eq(sent, "ab", 2);
}
END_TEST

START_TEST(priorities)
{
    out(MCR, 0x18); /* loop-back; DCD stays, DSR and CTS fall: deltas */
    out(IER, 0xf);
    out(DATA, 'x');
    out(DATA, 'y'); /* without FIFOs: overrun, the new one is kept */
    ck_assert_uint_eq(in(IIR), 6);
    ck_assert_uint_eq(in(LSR), 0x63);
    ck_assert_uint_eq(in(IIR), 4);
    ck_assert_uint_eq(in(DATA), 'y');
    ck_assert_uint_eq(in(IIR), 2);
    ck_assert_uint_eq(in(IIR), 0); /* modem status */
    ck_assert_uint_eq(in(MSR), 0x83);
    ck_assert_uint_eq(in(IIR), 1);
    ck_assert_uint_eq(in(LSR), 0x60);
}
END_TEST

START_TEST(trigger_levels_and_time_out)
{
    static const uint8_t levels[] = {1, 4, 8, 14};

    for (unsigned i = 0; i < 4; i++) {
        setup();
        out(MCR, 8);
        out(IER, 1);
        out(FCR, (uint8_t)(i << 6 | 7));
        for (unsigned n = 1; n <= 16; n++) {
            ck_assert(uart_can_receive(&uart));
            uart_receive(&uart, (uint8_t)n);
            ck_assert(line);
            ck_assert_uint_eq(in(IIR), n < levels[i] ? 0xcc : 0xc4);
        }
        ck_assert(!uart_can_receive(&uart));
        for (unsigned n = 1; n <= 16; n++)
            ck_assert_uint_eq(in(DATA), n);
        ck_assert(!line);
        ck_assert_uint_eq(edges, 1);
    }
}
END_TEST

START_TEST(fifo_overrun_loses_the_new_byte)
{
    out(FCR, 1);
    for (unsigned n = 0; n < 18; n++)
        uart_receive(&uart, (uint8_t)n);
    ck_assert_uint_eq(in(LSR), 0x63);
    ck_assert_uint_eq(in(LSR), 0x61); /* reading clears the overrun */
    for (unsigned n = 0; n < 16; n++)
        ck_assert_uint_eq(in(DATA), n);
    ck_assert_uint_eq(in(LSR), 0x60);
}
END_TEST

START_TEST(fifo_control)
{
    out(FCR, 1);
    uart_receive(&uart, 1);
    out(FCR, 1); /* the same again keeps the data */
    ck_assert_uint_eq(in(LSR)&1, 1);
    out(FCR, 3);
    ck_assert_uint_eq(in(LSR)&1, 0);
    uart_receive(&uart, 2);
    out(FCR, 0); /* a change of mode clears */
    ck_assert_uint_eq(in(LSR)&1, 0);
    ck_assert_uint_eq(in(IIR), 1);
    uart_receive(&uart, 3);
    out(FCR, 2); /* without the enable bit nothing is programmed */
    ck_assert_uint_eq(in(DATA), 3);
}
END_TEST

START_TEST(out2_gates_the_line)
{
    out(IER, 1);
    uart_receive(&uart, 'x');
    ck_assert(!line);
    ck_assert_uint_eq(in(IIR), 4);
    out(MCR, 8);
    ck_assert(line);
    out(MCR, 0x18);
    ck_assert(!line); /* in loop-back the pin is inactive */
    out(MCR, 8);
    ck_assert(line);
    out(MCR, 4);
    ck_assert(!line);
}
END_TEST

START_TEST(loop_back_is_shut_off_from_outside)
{
    out(MCR, 0x10);
    ck_assert(!uart_can_receive(&uart));
    uart_receive(&uart, 'x');
    ck_assert_uint_eq(in(LSR), 0x60);
    out(DATA, 'y');
    ck_assert_uint_eq(sent_bytes, 0);
    ck_assert_uint_eq(in(DATA), 'y');
}
END_TEST

/* Input waits outside until the guest's driver has finished trying out the port. */
START_TEST(bytes_are_wanted_by_who_reads)
{
    ck_assert(!uart_wants_byte(&uart));
    in(5); /* once before each byte is sent */
    out(0, 'x');
    in(5);
    in(5);
    in(0);
    ck_assert(!uart_wants_byte(&uart));
    for (unsigned i = 0; i < UART_PATIENCE; i++) {
        ck_assert(!uart_wants_byte(&uart));
        in(5);
    }
    ck_assert(uart_wants_byte(&uart)); /* polls */
    uart_receive(&uart, 'a');
    ck_assert(!uart_wants_byte(&uart));
    in(5);
    in(0);
    ck_assert(!uart_wants_byte(&uart));
    out(1, 1);
    ck_assert(!uart_wants_byte(&uart)); /* the interrupt does not reach the bus */
    out(4, 8);
    ck_assert(uart_wants_byte(&uart));
    out(3, 0x80);
    ck_assert(!uart_wants_byte(&uart));
    out(3, 3);
    out(4, 0x18);
    ck_assert(!uart_wants_byte(&uart));
    out(4, 8);
    uart_receive(&uart, 'b');
    ck_assert(!uart_wants_byte(&uart)); /* without FIFOs there is room for one */
    out(2, 1);
    ck_assert(uart_wants_byte(&uart));
}
END_TEST

/* What sets the port up is counted, and what drivers do all the time is not. */
START_TEST(setting_up_is_noticed)
{
    static const struct {
        unsigned reg;
        uint8_t value;
        bool counts;
    } steps[] = {
        {IER, 5, true},     {IER, 7, false},   {IER, 5, false},    {FCR, 1, true},
        {LCR, 0x83, true},  {IER, 1, false},   {DATA, 1, false},   {LCR, 3, true},
        {DATA, 'x', false}, {MCR, 0x0b, true}, {MCR, 0x0b, false}, {SCR, 1, false},
        {IER, 0, false},    {IER, 5, true},
    };

    for (unsigned i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        uint32_t before = uart.setups;
        out(steps[i].reg, steps[i].value);
        ck_assert_msg(uart.setups - before == steps[i].counts, "step %u", i);
    }
}
END_TEST

START_TEST(modem_lines_and_their_changes)
{
    static const struct {
        uint8_t mcr, msr;
    } steps[] = {
        {0x10, 0x0b},                                           /* DCD, DSR, CTS fall */
        {0x10, 0x00}, {0x11, 0x22}, {0x13, 0x31}, {0x17, 0x70}, /* RI rises: not reported */
        {0x13, 0x34},                                           /* … its fall is */
        {0x1b, 0xb8}, {0x1b, 0xb0},
    };

    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        out(MCR, steps[i].mcr);
        ck_assert_msg(in(MSR) == steps[i].msr, "step %zu", i);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("vmm_uart");
    TCase *tc = tcase_create("uart");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_test(tc, reset_state);
    tcase_add_test(tc, registers_keep_what_they_have);
    tcase_add_test(tc, divisor_latch_hides_data_and_ier);
    tcase_add_test(tc, linux_finds_a_16550a);
    tcase_add_test(tc, loop_back_shows_the_fifos_size);
    tcase_add_test(tc, thre_interrupt_test_of_startup);
    tcase_add_test(tc, every_sent_byte_is_an_edge);
    tcase_add_test(tc, priorities);
    tcase_add_test(tc, trigger_levels_and_time_out);
    tcase_add_test(tc, fifo_overrun_loses_the_new_byte);
    tcase_add_test(tc, fifo_control);
    tcase_add_test(tc, out2_gates_the_line);
    tcase_add_test(tc, loop_back_is_shut_off_from_outside);
    tcase_add_test(tc, bytes_are_wanted_by_who_reads);
    tcase_add_test(tc, setting_up_is_noticed);
    tcase_add_test(tc, modem_lines_and_their_changes);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
