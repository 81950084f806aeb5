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
 *   The host itself is compiled without vector and x87 instructions. FS.base, GS.base and
 *   the SYSCALL MSRs are free: a guest may leave its own in them.
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

#include "bare_x86.h"

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

/* ---- Memory ----------------------------------------------------------------------------- */

#define BARE_PAGE_SIZE 4096

/* Allocates `npages` contiguous pages at a multiple of `align_pages` pages (a power of two; 0
 * and 1 mean any page). Returns their address, physical and virtual, or NULL. The contents are
 * undefined. Up to 256 pages take constant time; larger blocks are searched for in steps of
 * 2 MiB, and any size up to all of memory can be had. Memory below 4 GiB is given out first,
 * memory below 1 MiB, the image and the modules never. */
void *bare_pages_alloc(size_t npages, size_t align_pages);

/* Returns pages, all of an allocation or a part of it. Freeing what is not allocated panics.
 * NULL is ignored. */
void bare_pages_free(void *pages, size_t npages);

/* How many pages are allocated, and how many are left (not necessarily contiguous). */
size_t bare_pages_in_use(void);
size_t bare_pages_available(void);

/* ---- Locks ------------------------------------------------------------------------------ */

/* A spinlock; zero is unlocked. Between a processor's own interrupt handler and the code it
 * interrupts the irq variants are needed; NMI handlers must not take locks. */
struct bare_lock {
    unsigned char held;
};

static inline void bare_lock(struct bare_lock *lock)
{
    while (__atomic_test_and_set(&lock->held, __ATOMIC_ACQUIRE))
        bare_pause();
}

static inline void bare_unlock(struct bare_lock *lock)
{
    __atomic_clear(&lock->held, __ATOMIC_RELEASE);
}

/* Locks with interrupts disabled; the result goes to bare_unlock_irq. */
static inline uint64_t bare_lock_irq(struct bare_lock *lock)
{
    uint64_t flags = bare_irq_save();
    bare_lock(lock);
    return flags;
}

static inline void bare_unlock_irq(struct bare_lock *lock, uint64_t flags)
{
    bare_unlock(lock);
    bare_irq_restore(flags);
}

/* ---- Exceptions and interrupts ---------------------------------------------------------- */

/* What an interrupt gate and the stub behind it leave on the stack. A handler may change it:
 * the interrupted code goes on with the values found here. */
struct bare_frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8;
    uint64_t rdi, rsi, rbp, rbx, rdx, rcx, rax;
    uint64_t vector, error; /* error: 0 for vectors without an error code */
    uint64_t rip, cs, rflags, rsp, ss;
};

typedef void bare_handler_fn(struct bare_frame *frame, void *ctx);

/* Vectors the runtime keeps for itself. */
enum bare_vector {
    BARE_VECTOR_WAKE = 0xfe,     /* wakes a processor for bare_cpu_run */
    BARE_VECTOR_SPURIOUS = 0xff, /* the local APIC's spurious interrupt; no EOI */
};

/* Calls `handler` for a vector, on all processors; NULL brings back the default, which logs the
 * vector, error code, RIP, CR2 and registers and exits with BARE_STATUS_TRAP (addr2line -e
 * name.elf finds the line). Handlers run with interrupts disabled, on the interrupted stack (but
 * see bare_ist_enable), and end interrupts of the local APIC with bare_eoi(). */
void bare_handler_set(unsigned vector, bare_handler_fn *handler, void *ctx);

/* Runs the handler of `vector` as if the interrupt had arrived, for an interrupt that a VM exit
 * acknowledged. The frame holds only the vector. */
void bare_dispatch(unsigned vector);

/* Gives NMI, double fault and machine check stacks of their own (IST 1, 2, 3), or takes them
 * away. Off at the start. For all processors. */
void bare_ist_enable(bool on);

/* An instruction that may fault: BARE_FIXUP("1b", "2b") inside an asm statement continues an
 * exception at label 1 at label 2, with all registers unchanged, before any handler sees it. */
#define BARE_FIXUP(from, to)                                                                       \
    ".pushsection .bare_fixups, \"a\"\n"                                                           \
    ".quad " from ", " to "\n"                                                                     \
    ".popsection\n"

/* RDMSR and WRMSR; false when they fault, *value is then 0. */
bool bare_rdmsr_safe(uint32_t msr, uint64_t *value);
bool bare_wrmsr_safe(uint32_t msr, uint64_t value);

/* ---- Processors ------------------------------------------------------------------------- */

#define BARE_MAX_CPUS 32

/* How many processors the firmware's tables (ACPI MADT, else the MP table) name; 0 is the one
 * that runs bare_main(). */
unsigned bare_cpu_count(void);

/* Each processor's stacks, those of bare_ist_enable() too, lie in one block of this size and
 * alignment, which begins with the processor's index. */
#define BARE_STACK_BLOCK 0x20000u

/* The index of this processor, from the stack pointer: right in every handler, and while a guest's
 * segment registers are in the processor. */
static inline unsigned bare_this_cpu(void)
{
    uintptr_t sp;
    __asm__ volatile("movq %%rsp, %0" : "=r"(sp));
    return *(const unsigned *)(sp & ~(uintptr_t)(BARE_STACK_BLOCK - 1));
}

/* The local APIC's id of a processor. */
uint32_t bare_cpu_apic_id(unsigned cpu);

/* Runs fn(arg) on another processor, which is started (INIT, start-up IPI) by the first call for
 * it. fn begins with interrupts disabled, on a stack of 112 KiB that stays the same for all calls;
 * when it returns the processor sleeps until the next call. False: no such processor, it is this
 * one or processor 0, it is still busy, or it does not start. */
bool bare_cpu_run(unsigned cpu, void (*fn)(void *arg), void *arg);

/* Waits until a processor is done with what bare_cpu_run gave it. */
void bare_cpu_wait(unsigned cpu);

/* Sends an interrupt or an NMI to a processor, also to this one. Not from an NMI handler. */
void bare_ipi(unsigned cpu, unsigned vector);
void bare_nmi(unsigned cpu);

/* Ends the interrupt being handled at the local APIC. */
void bare_eoi(void);

/* False where the processor has no local APIC: then there are no IPIs and no timer. */
bool bare_apic_present(void);

/* ---- Time ------------------------------------------------------------------------------- */

/* Frequencies in Hz, measured against the PIT: the first call of any of these three takes
 * 10 ms of the machine's time and restarts a timer that is running on this processor. */
uint64_t bare_tsc_hz(void);
uint64_t bare_timer_hz(void);

/* Waits at least so many microseconds. */
void bare_delay_us(uint64_t microseconds);

/* This processor's local APIC timer: an interrupt on `vector` (32 .. 253) after `ticks` of
 * bare_timer_hz(), once or again and again. Starting replaces what was started before. */
void bare_timer_start(unsigned vector, uint32_t ticks, bool periodic);
void bare_timer_stop(void);

/* ---- What the compiler calls ------------------------------------------------------------ */

void *memcpy(void *restrict to, const void *restrict from, size_t length);
void *memmove(void *to, const void *from, size_t length);
void *memset(void *to, int value, size_t length);
int memcmp(const void *a, const void *b, size_t length);

#endif
