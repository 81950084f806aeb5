/* SPDX-License-Identifier: BSD-2-Clause */
/* The bare host: the smallest ring-0 program that a hypervisor can be written in.
 *
 * Examples and guest tests link this little runtime; it is meant to be read in one sitting and to
 * be copied. It starts from any multiboot loader (QEMU -kernel, GRUB, the quick ROM of
 * tools/machine), switches to 64-bit mode and calls bare_main(). Its rules:
 *
 * - Memory: physical == virtual. Everything below 64 GiB (512 GiB where the processor has 1 GiB
 *   pages) is mapped, readable, writable and executable; 3 GiB .. 4 GiB is uncacheable, because
 *   the devices are there. Page zero is mapped too: a null pointer is not caught.
 * - Processor: CR0 = PG|WP|NE|ET|MP|PE; CR4 = PAE, and OSFXSR, OSXMMEXCPT, OSXSAVE where CPUID
 *   offers them; XCR0 = what there is of x87, SSE and AVX; EFER = LME|LMA, and NXE where offered.
 *   The host itself is compiled without vector and x87 instructions. GS.base holds the per-CPU
 *   structure; FS.base is free. No SYSCALL MSR is used.
 * - Selectors: code 0x08, data 0x10, a busy 64-bit TSS 0x20; each processor has its own GDT and
 *   TSS, all share one IDT and one set of page tables.
 * - Interrupts: the PICs are masked, the local APIC is on. bare_main() and the functions started
 *   with bare_cpu_run() begin with RFLAGS.IF = 0.
 * - Channels: COM1 carries whatever the application calls its console (its guest's, say); the
 *   log goes to port 0xE9. tools/machine keeps the two apart.
 *
 * Unless a comment says otherwise a function may be called on any processor at any time, also
 * from an interrupt handler.
 */
#ifndef BARE_H
#define BARE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- Start and end ---------------------------------------------------------------------- */

/* The application. Runs on processor 0; what it returns is the exit status. */
int bare_main(void);

/* Exit statuses that the runtime itself uses; an application has 0 .. 97. tools/machine adds
 * 124 (timeout), 125 (the machine died without a status) and 126 (it could not be started). */
enum bare_status {
    BARE_STATUS_NO_LONG_MODE = 98, /* the processor has no 64-bit mode */
    BARE_STATUS_TRAP = 99,         /* an unexpected exception or interrupt, or bare_panic() */
};

/* Sends what COM1 still holds, reports `status` (0 .. 125) to tools/machine and stops the
 * machine. On real hardware, where nobody listens, the processor halts. */
_Noreturn void bare_exit(int status);

/* Logs a message and exits with BARE_STATUS_TRAP. */
_Noreturn void bare_panic(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- Log (port 0xE9) -------------------------------------------------------------------- */

/* Writes a line or a part of one. The log goes to COM1 as well with the command-line word
 * `log=com1`, and by itself where there is no port 0xE9 (real hardware). */
void bare_log(const char *text);

/* Formatted log. Knows %s %c %d %i %u %x %X %p %%, the sizes l ll z, a width (also *), the flags
 * 0 and -, and a precision for %s. One call of up to 511 characters appears in one piece even
 * when several processors log at once. */
void bare_printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
void bare_vprintf(const char *format, va_list args) __attribute__((format(printf, 1, 0)));

/* The same into a buffer; always terminated when size > 0. Returns the length of what was
 * stored. */
size_t bare_snprintf(char *buffer, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
size_t bare_vsnprintf(char *buffer, size_t size, const char *format, va_list args)
    __attribute__((format(printf, 3, 0)));

/* ---- COM1 (115200 8N1) ------------------------------------------------------------------ */

enum bare_com1_state {
    BARE_COM1_INPUT = 1,  /* a character can be read */
    BARE_COM1_OUTPUT = 2, /* a character can be written */
};

/* What COM1 is ready for: a mask of enum bare_com1_state; 0 also where there is no COM1. */
unsigned bare_com1_ready(void);

/* Reads one character; -1 when there is none. Does not wait. */
int bare_com1_getc(void);

/* Writes one character; false when the transmitter is busy and it was not taken. Does not
 * wait. */
bool bare_com1_putc(char c);

/* Writes all of `length` characters and waits as long as that takes. Where there is no COM1
 * they are dropped. One caller at a time. */
void bare_com1_write(const void *data, size_t length);

/* ---- Boot information ------------------------------------------------------------------- */

struct bare_memory {
    uint64_t start;
    uint64_t size;
    bool usable; /* RAM that is free to use; otherwise reserved in some way */
};

struct bare_module {
    const void *start;  /* page aligned; stays where the loader put it */
    size_t size;        /* bytes */
    const char *string; /* given with the module, without a file name */
};

/* The memory map as the loader gave it; 0 .. bare_memory_count() - 1. */
unsigned bare_memory_count(void);
const struct bare_memory *bare_memory_get(unsigned index);

/* The modules in the order they were given. bare_module_find() finds the first one whose string
 * is `string` or begins with `string` and a space. NULL when there is none. */
unsigned bare_module_count(void);
const struct bare_module *bare_module_get(unsigned index);
const struct bare_module *bare_module_find(const char *string);

/* The command line. bare_option("x") gives "5" for the word x=5, "" for the word x, and NULL
 * without such a word. bare_option_u64 reads decimal or 0x-hexadecimal and gives `otherwise`
 * where the word is missing or is not a number. */
const char *bare_command_line(void);
const char *bare_option(const char *name);
uint64_t bare_option_u64(const char *name, uint64_t otherwise);

/* ---- What the compiler calls ------------------------------------------------------------ */

void *memcpy(void *restrict to, const void *restrict from, size_t length);
void *memmove(void *to, const void *from, size_t length);
void *memset(void *to, int value, size_t length);
int memcmp(const void *a, const void *b, size_t length);

#endif
