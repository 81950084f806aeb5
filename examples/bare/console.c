/* SPDX-License-Identifier: BSD-2-Clause */
/* The two ways out: COM1 and the log on port 0xE9, and the end of the machine.
 *
 * Between the characters of the log the runtime sends tools/machine short records, lines that
 * begin with the character 1: "log" when the log begins, "com1" when COM1 takes input, "exit N"
 * at the end. */
#include "internal.h"

#define COM1       0x3f8
#define COM1_DATA  (COM1 + 0)
#define COM1_IER   (COM1 + 1)
#define COM1_FCR   (COM1 + 2)
#define COM1_LCR   (COM1 + 3)
#define COM1_MCR   (COM1 + 4)
#define COM1_LSR   (COM1 + 5)
#define COM1_SCR   (COM1 + 7)
#define LSR_DATA   0x01
#define LSR_EMPTY  0x20 /* the holding register, or all of the FIFO, is empty */
#define LSR_IDLE   0x60
#define COM1_FIFO  16
#define PORT_LOG   0xe9
#define PORT_QEMU  0xf4   /* isa-debug-exit */
#define PORT_BOCHS 0x8900 /* takes the word "Shutdown" */

static bool com1_present;
static unsigned com1_room; /* characters the transmit FIFO takes before LSR must be read again */
static bool log_on_port, log_on_com1;
static struct bare_lock log_lock;

static void com1_init(void)
{
    bare_out8(COM1_SCR, 0x5a);
    com1_present = bare_in8(COM1_SCR) == 0x5a;
    if (!com1_present)
        return;
    bare_out8(COM1_IER, 0);
    bare_out8(COM1_LCR, 0x80);
    bare_out8(COM1_DATA, 1); /* 115200 baud: the fastest, so the fewest instructions spent */
    bare_out8(COM1_IER, 0);
    bare_out8(COM1_LCR, 3);
    bare_out8(COM1_FCR, 7);
    bare_out8(COM1_MCR, 3);
}

void bare_console_init(void)
{
    com1_init();
    log_on_port = bare_in8(PORT_LOG) == PORT_LOG; /* both emulators answer with the number */
    log_on_com1 = !log_on_port;
    bare_log_record("log");
    if (com1_present)
        bare_log_record("com1");
}

void bare_console_options(void)
{
    const char *value = bare_option("log");

    if (value != NULL && memcmp(value, "com1", 5) == 0)
        log_on_com1 = true;
}

unsigned bare_com1_ready(void)
{
    if (!com1_present)
        return 0;

    unsigned lsr = bare_in8(COM1_LSR);
    if (lsr & LSR_EMPTY)
        com1_room = COM1_FIFO;
    return (lsr & LSR_DATA ? BARE_COM1_INPUT : 0) | (com1_room > 0 ? BARE_COM1_OUTPUT : 0);
}

int bare_com1_getc(void)
{
    return bare_com1_ready() & BARE_COM1_INPUT ? bare_in8(COM1_DATA) : -1;
}

bool bare_com1_putc(char c)
{
    if (com1_room == 0 && !(bare_com1_ready() & BARE_COM1_OUTPUT))
        return false;
    com1_room--;
    bare_out8(COM1_DATA, (uint8_t)c);
    return true;
}

void bare_com1_write(const void *data, size_t length)
{
    const char *text = data;

    while (com1_present && length > 0) {
        if (bare_com1_putc(*text)) {
            text++;
            length--;
        } else {
            bare_pause();
        }
    }
}

static void console_drain(void)
{
    while (com1_present && (bare_in8(COM1_LSR) & LSR_IDLE) != LSR_IDLE)
        bare_pause();
}

static void log_write(const char *text, size_t length)
{
    if (log_on_com1) {
        for (size_t i = 0; i < length; i++) {
            if (text[i] == '\n')
                bare_com1_write("\r", 1);
            bare_com1_write(text + i, 1);
        }
    }
    if (log_on_port)
        __asm__ volatile("rep outsb" : "+S"(text), "+c"(length) : "d"(PORT_LOG) : "memory");
}

/* One log call at a time; but an NMI handler may log while its own processor holds the lock, so
 * nobody waits for ever: torn lines are better than none. */
static void log_locked(const char *text, size_t length)
{
    bool locked = false;

    for (unsigned patience = 1000000; patience > 0 && !locked; patience--) {
        locked = !__atomic_test_and_set(&log_lock.held, __ATOMIC_ACQUIRE);
        if (!locked)
            bare_pause();
    }
    log_write(text, length);
    if (locked)
        __atomic_clear(&log_lock.held, __ATOMIC_RELEASE);
}

void bare_log(const char *text)
{
    size_t length = 0;

    while (text[length] != '\0')
        length++;
    log_locked(text, length);
}

void bare_vprintf(const char *format, va_list args)
{
    char text[512];

    log_locked(text, bare_vsnprintf(text, sizeof(text), format, args));
}

void bare_printf(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    bare_vprintf(format, args);
    va_end(args);
}

void bare_log_record(const char *text)
{
    char line[32];

    if (log_on_port) {
        size_t length = bare_snprintf(line, sizeof(line), "\001%s\n", text);
        const char *at = line;
        __asm__ volatile("rep outsb" : "+S"(at), "+c"(length) : "d"(PORT_LOG) : "memory");
    }
}

_Noreturn void bare_exit(int status)
{
    char record[16];
    const char *word = "Shutdown";
    size_t length = 8;

    console_drain();
    bare_snprintf(record, sizeof(record), "exit %d", status);
    bare_log_record(record);
    if (log_on_port) { /* on real hardware these ports may be anything */
        bare_out32(PORT_QEMU, (uint32_t)status);
        __asm__ volatile("rep outsb" : "+S"(word), "+c"(length) : "d"(PORT_BOCHS) : "memory");
    }
    for (;;)
        __asm__ volatile("cli; hlt");
}

_Noreturn void bare_panic(const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    bare_vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    bare_printf("bare: panic: %s\n", text);
    bare_exit(BARE_STATUS_TRAP);
}
