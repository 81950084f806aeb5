/* SPDX-License-Identifier: BSD-2-Clause */
/* COM1, the exit port, and words of the command line. */
#include "kernel.h"

enum { COM1 = 0x3f8, DEBUG_EXIT = 0xf4 };

static void print_char(char c)
{
    while (!(in8(COM1 + 5) & 0x20))
        ;
    out8(COM1, (uint8_t)c);
}

void print(const char *text)
{
    static bool ready;

    if (!ready) {
        out8(COM1 + 3, 0x80);
        out8(COM1, 1);
        out8(COM1 + 1, 0);
        out8(COM1 + 3, 3);
        ready = true;
    }
    for (; *text; text++)
        print_char(*text);
}

void print_hex(uint64_t value)
{
    char text[17];
    unsigned n = 16;

    text[n] = 0;
    do
        text[--n] = "0123456789abcdef"[value & 15];
    while (value >>= 4);
    print(text + n);
}

void finish(uint32_t value)
{
    while (!(in8(COM1 + 5) & 0x40)) /* or an emulator loses the last words */
        ;
    out32(DEBUG_EXIT, value);
    for (;;)
        __asm__ volatile("cli; hlt");
}

void failed(const char *function, unsigned line, const char *what)
{
    print("FAILED ");
    print(function);
    print(":");
    print_hex(line);
    print("h: ");
    print(what);
    print("\n");
    finish(0x3f);
}

const char *find_word(const char *text, const char *key)
{
    for (;;) {
        const char *k = key;

        while (*text == ' ')
            text++;
        if (!*text)
            return NULL;
        for (; *k && *text == *k; text++)
            k++;
        if (!*k && (*text == '=' || *text == ' ' || !*text))
            return *text == '=' ? text + 1 : text;
        while (*text && *text != ' ')
            text++;
    }
}

unsigned number(const char *text)
{
    unsigned value = 0;

    while (*text >= '0' && *text <= '9')
        value = value * 10 + (unsigned)(*text++ - '0');
    return value;
}

bool same_word(const char *a, const char *b)
{
    while (*a && *a != ' ' && *a == *b) {
        a++;
        b++;
    }
    return (!*a || *a == ' ') && (!*b || *b == ' ');
}
