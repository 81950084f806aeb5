/* SPDX-License-Identifier: BSD-2-Clause */
/* Exceptions and interrupts: the IDT, handlers, fixups, and the report of what nobody expected. */
#include "internal.h"

#define GATE_INTERRUPT 0x8e00 /* present, ring 0, 64-bit interrupt gate */

struct gate {
    uint64_t low, high;
};

struct handler {
    bare_handler_fn *fn;
    void *ctx;
};

struct fixup {
    uint64_t from, to;
};

extern const struct fixup __fixups_start[], __fixups_end[];

static struct gate idt[256] __attribute__((aligned(16)));
static struct handler handlers[256];

static const char *const exception_names[32] = {
    "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", NULL,  "#TS",
    "#NP", "#SS", "#GP", "#PF", NULL,  "#MF", "#AC", "#MC", "#XM", "#VE", "#CP",
    NULL,  NULL,  NULL,  NULL,  NULL,  NULL,  "#HV", "#VC", "#SX", NULL,
};

static bool apply_fixup(struct bare_frame *frame)
{
    for (const struct fixup *fixup = __fixups_start; fixup < __fixups_end; fixup++) {
        if (fixup->from == frame->rip) {
            frame->rip = fixup->to;
            return true;
        }
    }
    return false;
}

static _Noreturn void report(const struct bare_frame *frame)
{
    static unsigned char reported;
    const char *name = frame->vector < 32 ? exception_names[frame->vector] : "interrupt";

    if (__atomic_test_and_set(&reported, __ATOMIC_RELAXED))
        bare_exit(BARE_STATUS_TRAP); /* the report itself trapped, or another processor did */
    bare_printf("bare: unexpected vector %lu %s, error code 0x%lx, on processor %u\n"
                "bare: RIP %016lx RSP %016lx RFLAGS %08lx CR2 %016lx\n"
                "bare: CR0 %08lx CR3 %016lx CR4 %08lx CS %lx SS %lx\n",
                frame->vector, name != NULL ? name : "?", frame->error, bare_this_cpu(), frame->rip,
                frame->rsp, frame->rflags, bare_read_cr2(), bare_read_cr0(), bare_read_cr3(),
                bare_read_cr4(), frame->cs, frame->ss);
    bare_printf("bare: RAX %016lx RBX %016lx RCX %016lx RDX %016lx\n"
                "bare: RSI %016lx RDI %016lx RBP %016lx R8  %016lx\n",
                frame->rax, frame->rbx, frame->rcx, frame->rdx, frame->rsi, frame->rdi, frame->rbp,
                frame->r8);
    bare_printf("bare: R9  %016lx R10 %016lx R11 %016lx R12 %016lx\n"
                "bare: R13 %016lx R14 %016lx R15 %016lx\n",
                frame->r9, frame->r10, frame->r11, frame->r12, frame->r13, frame->r14, frame->r15);
    bare_exit(BARE_STATUS_TRAP);
}

void bare_trap(struct bare_frame *frame)
{
    const struct handler *handler = &handlers[frame->vector & 0xff];

    if (frame->vector < 32 && apply_fixup(frame))
        return;
    bare_handler_fn *fn = __atomic_load_n(&handler->fn, __ATOMIC_ACQUIRE);
    if (fn != NULL)
        fn(frame, handler->ctx);
    else
        report(frame);
}

void bare_handler_set(unsigned vector, bare_handler_fn *handler, void *ctx)
{
    struct handler *entry = &handlers[vector & 0xff];

    __atomic_store_n(&entry->fn, NULL, __ATOMIC_RELEASE);
    entry->ctx = ctx;
    __atomic_store_n(&entry->fn, handler, __ATOMIC_RELEASE);
}

void bare_dispatch(unsigned vector)
{
    struct bare_frame frame = {.vector = vector & 0xff};
    uint64_t flags = bare_irq_save();

    bare_trap(&frame);
    bare_irq_restore(flags);
}

static void set_gate(unsigned vector, unsigned ist)
{
    uint64_t entry = (uintptr_t)bare_trap_stubs + 16ul * vector;

    idt[vector].high = entry >> 32;
    idt[vector].low = (entry & 0xffff) | SEL_CODE << 16 | (uint64_t)ist << 32 |
                      (uint64_t)GATE_INTERRUPT << 32 | (entry & 0xffff0000) << 32;
}

void bare_ist_enable(bool on)
{
    set_gate(2, on ? 1 : 0);
    set_gate(8, on ? 2 : 0);
    set_gate(18, on ? 3 : 0);
}

static void on_spurious(struct bare_frame *frame, void *ctx)
{
    (void)frame;
    (void)ctx;
}

static void on_wake(struct bare_frame *frame, void *ctx)
{
    (void)frame;
    (void)ctx;
    bare_eoi();
}

void bare_traps_init(void)
{
    for (unsigned vector = 0; vector < 256; vector++)
        set_gate(vector, 0);
    bare_handler_set(BARE_VECTOR_SPURIOUS, on_spurious, NULL);
    bare_handler_set(BARE_VECTOR_WAKE, on_wake, NULL);
}

void bare_traps_load(void)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) pointer = {sizeof(idt) - 1, (uintptr_t)idt};

    __asm__ volatile("lidt %0" : : "m"(pointer));
}

bool bare_rdmsr_safe(uint32_t msr, uint64_t *value)
{
    uint32_t low = 0, high = 0;
    bool done = true;

    __asm__ volatile("1: rdmsr\n"
                     "jmp 3f\n"
                     "2: movb $0, %2\n"
                     "3:\n" BARE_FIXUP("1b", "2b")
                     : "+a"(low), "+d"(high), "+q"(done)
                     : "c"(msr)
                     : "memory");
    *value = (uint64_t)high << 32 | low;
    return done;
}

bool bare_wrmsr_safe(uint32_t msr, uint64_t value)
{
    bool done = true;

    __asm__ volatile("1: wrmsr\n"
                     "jmp 3f\n"
                     "2: movb $0, %0\n"
                     "3:\n" BARE_FIXUP("1b", "2b")
                     : "+q"(done)
                     : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
                     : "memory");
    return done;
}
