/* SPDX-License-Identifier: BSD-2-Clause */
/* The formatted text of the log. */
#include "bare.h"

struct output {
    char *buffer;
    size_t size, length;
};

struct conversion {
    bool left, zero;
    unsigned width;
    unsigned precision; /* UINT32_MAX: none */
    unsigned size;      /* 0 int, 1 or more: 64 bits */
};

static void put(struct output *out, char c)
{
    if (out->length + 1 < out->size)
        out->buffer[out->length++] = c;
}

static void put_padded(struct output *out, const struct conversion *conv, const char *text,
                       size_t length)
{
    size_t pad = conv->width > length ? conv->width - length : 0;

    if (!conv->left) {
        if (conv->zero && length > 0 && *text == '-') {
            put(out, *text++);
            length--;
        }
        for (; pad > 0; pad--)
            put(out, conv->zero ? '0' : ' ');
    }
    for (; length > 0; length--)
        put(out, *text++);
    for (; pad > 0; pad--)
        put(out, ' ');
}

static void put_number(struct output *out, const struct conversion *conv, uint64_t value,
                       unsigned base, bool upper, bool negative)
{
    const char *digits = upper ? "0123456789ABCDEF" : "0123456789abcdef";
    char text[24];
    unsigned at = sizeof(text);

    do {
        text[--at] = digits[value % base];
        value /= base;
    } while (value != 0);
    if (negative)
        text[--at] = '-';
    put_padded(out, conv, text + at, sizeof(text) - at);
}

static unsigned parse_number(const char **format)
{
    unsigned value = 0;

    while (**format >= '0' && **format <= '9')
        value = value * 10 + (unsigned)(*(*format)++ - '0');
    return value;
}

static const char *parse_conversion(const char *format, struct conversion *conv, va_list *args)
{
    *conv = (struct conversion){.precision = UINT32_MAX};
    for (;; format++) {
        if (*format == '-')
            conv->left = true;
        else if (*format == '0')
            conv->zero = true;
        else
            break;
    }
    if (*format == '*') {
        conv->width = (unsigned)va_arg(*args, int);
        format++;
    } else {
        conv->width = parse_number(&format);
    }
    if (*format == '.') {
        format++;
        if (*format == '*') {
            conv->precision = (unsigned)va_arg(*args, int);
            format++;
        } else {
            conv->precision = parse_number(&format);
        }
    }
    for (; *format == 'l' || *format == 'z' || *format == 'j'; format++)
        conv->size++;
    return format;
}

static void put_argument(struct output *out, const struct conversion *conv, char type,
                         va_list *args)
{
    switch (type) {
    case 'd':
    case 'i': {
        int64_t value = conv->size > 0 ? va_arg(*args, int64_t) : va_arg(*args, int);
        bool negative = value < 0;
        put_number(out, conv, negative ? 0 - (uint64_t)value : (uint64_t)value, 10, false,
                   negative);
        break;
    }
    case 'u':
    case 'x':
    case 'X': {
        uint64_t value = conv->size > 0 ? va_arg(*args, uint64_t) : va_arg(*args, unsigned);
        put_number(out, conv, value, type == 'u' ? 10 : 16, type == 'X', false);
        break;
    }
    case 'p':
        put(out, '0');
        put(out, 'x');
        put_number(out, conv, (uintptr_t)va_arg(*args, void *), 16, false, false);
        break;
    case 'c': {
        char c = (char)va_arg(*args, int);
        put_padded(out, conv, &c, 1);
        break;
    }
    case 's': {
        const char *text = va_arg(*args, const char *);
        size_t length = 0;
        if (text == NULL)
            text = "(null)";
        while (length < conv->precision && text[length] != '\0')
            length++;
        put_padded(out, conv, text, length);
        break;
    }
    default: /* %% and what this printer does not know */
        put(out, type);
        break;
    }
}

size_t bare_vsnprintf(char *buffer, size_t size, const char *format, va_list args)
{
    struct output out = {.buffer = buffer, .size = size};
    va_list rest;

    va_copy(rest, args);
    while (*format != '\0') {
        struct conversion conv;
        if (*format != '%') {
            put(&out, *format++);
            continue;
        }
        format = parse_conversion(format + 1, &conv, &rest);
        if (*format == '\0')
            break;
        put_argument(&out, &conv, *format++, &rest);
    }
    va_end(rest);
    if (size > 0)
        buffer[out.length] = '\0';
    return out.length;
}

size_t bare_snprintf(char *buffer, size_t size, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    size_t length = bare_vsnprintf(buffer, size, format, args);
    va_end(args);
    return length;
}
