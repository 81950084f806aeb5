/* SPDX-License-Identifier: BSD-2-Clause */
/* The guest's side of the harness: tables, descriptors, exceptions. */
#include "harness.h"
#include "guest_cpu.h"

enum {
    PTE_PRESENT = 1,
    PTE_WRITE = 2,
    PTE_USER = 4,
    PTE_LARGE = 0x80,
    SPLIT_TABLES = 16,
    GATE_TRAP_USER = 0xee00, /* interrupt gate that ring 3 may call */
    VECTOR_RING3 = 0x81,
};

#define PAGE_ALIGNED __attribute__((aligned(4096)))
uint64_t guest_pml4[512] PAGE_ALIGNED, guest_pdpt[512] PAGE_ALIGNED, guest_pd[4][512] PAGE_ALIGNED;
static uint64_t split_tables[SPLIT_TABLES][512] PAGE_ALIGNED;
static unsigned split_used;
uint64_t guest_gdt[GUEST_GDT_ENTRIES] __attribute__((aligned(16)));
uint64_t guest_idt[256][2] PAGE_ALIGNED;
struct guest_cpu guest_cpus[GUEST_CPUS];

volatile struct guest_trap guest_trap;
volatile uint64_t guest_vector_count[256];
uint64_t guest_trap_resume;
bool guest_has_svm;
void (*guest_handler[256])(struct bare_frame *frame);

struct fixup {
    uint64_t from, to;
};

extern const struct fixup __fixups_start[], __fixups_end[];
extern const char guest_stubs[];

static void build_tables(void)
{
    memset(guest_pml4, 0, sizeof(guest_pml4));
    memset(guest_pdpt, 0, sizeof(guest_pdpt));
    guest_pml4[0] = (uintptr_t)guest_pdpt | PTE_PRESENT | PTE_WRITE | PTE_USER;
    for (uint64_t i = 0; i < 4; i++) {
        guest_pdpt[i] = (uintptr_t)guest_pd[i] | PTE_PRESENT | PTE_WRITE | PTE_USER;
        for (uint64_t j = 0; j < 512; j++) {
            guest_pd[i][j] =
                (i << 30) + (j << 21) + (PTE_LARGE | PTE_PRESENT | PTE_WRITE | PTE_USER);
        }
    }
    split_used = 0;
}

uint64_t *guest_pte(uint64_t gva)
{
    uint64_t *pde = &guest_pd[gva >> 30 & 3][gva >> 21 & 511];

    if (*pde & PTE_LARGE) {
        uint64_t *table = split_tables[split_used++ % SPLIT_TABLES];

        for (uint64_t i = 0; i < 512; i++)
            table[i] = (gva & ~0x1ffffful) + (i << 12) + (PTE_PRESENT | PTE_WRITE | PTE_USER);
        *pde = (uintptr_t)table | PTE_PRESENT | PTE_WRITE | PTE_USER;
    }
    return (uint64_t *)(uintptr_t)(*pde & 0xffffff000ul) + (gva >> 12 & 511);
}

static void build_gdt(void)
{
    memset(guest_gdt, 0, sizeof(guest_gdt));
    guest_gdt[GUEST_CODE / 8] = 0x00af9b000000ffff;
    guest_gdt[GUEST_DATA / 8] = 0x00cf93000000ffff;
    guest_gdt[GUEST_USER_CODE32 / 8] = 0x00cffb000000ffff;
    guest_gdt[GUEST_USER_DATA / 8] = 0x00cff3000000ffff;
    guest_gdt[GUEST_USER_CODE / 8] = 0x00affb000000ffff;
    guest_gdt[GUEST_USER_DATA_AGAIN / 8] = 0x00cff3000000ffff;
    guest_gdt[GUEST_CODE32 / 8] = 0x00cf9b000000ffff;
    for (unsigned i = 0; i < GUEST_CPUS; i++) {
        uint64_t base = (uintptr_t)guest_cpus[i].tss;
        uint64_t *tss = &guest_gdt[GUEST_TSS / 8 + 2 * i];

        tss[0] = 0x00008b0000000067 | (base & 0xffffff) << 16 | (base >> 24 & 0xff) << 56;
        tss[1] = base >> 32;
    }
}

static void build_idt(void)
{
    for (unsigned i = 0; i < 256; i++) {
        uint64_t entry = (uintptr_t)guest_stubs + 16ul * i;

        guest_idt[i][0] = (entry & 0xffff) | GUEST_CODE << 16 | (uint64_t)GATE_TRAP_USER << 32 |
                          (entry & 0xffff0000) << 32;
        guest_idt[i][1] = entry >> 32;
    }
}

void guest_reset(void)
{
    build_tables();
    build_gdt();
    build_idt();
    memset(guest_cpus, 0, sizeof(guest_cpus));
    for (unsigned i = 0; i < GUEST_CPUS; i++) {
        uint64_t top = (uintptr_t)&guest_cpus[i + 1] - 2048;

        memcpy(guest_cpus[i].tss + 4, &top, sizeof(top)); /* RSP0 */
        guest_cpus[i].tss[102] = 104; /* no I/O permission map: ring 3 may use no port */
    }
    memset(guest_handler, 0, sizeof(guest_handler));
    for (unsigned i = 0; i < 256; i++)
        guest_vector_count[i] = 0;
    guest_trap.count = 0;
    guest_trap_resume = 0;
}

static bool fix(struct bare_frame *frame)
{
    for (const struct fixup *fixup = __fixups_start; fixup < __fixups_end; fixup++) {
        if (fixup->from == frame->rip) {
            frame->rip = fixup->to;
            return true;
        }
    }
    return false;
}

bool guest_may_repeat;
volatile uint64_t guest_repeats;

/* Before the first instruction of the handler, with the IF of an interrupt gate. */
static bool repeated(const struct bare_frame *frame, unsigned vector)
{
    return guest_may_repeat && vector >= 32 && !(frame->rflags & 0x200) &&
           frame->rip == (uintptr_t)guest_stubs + 16ul * vector;
}

void guest_trapped(struct bare_frame *frame)
{
    unsigned vector = frame->vector & 0xff;

    if (repeated(frame, vector)) {
        __atomic_add_fetch(&guest_repeats, 1, __ATOMIC_RELAXED);
        return;
    }
    guest_trap.vector = frame->vector;
    guest_trap.error = frame->error;
    guest_trap.rip = frame->rip;
    guest_trap.cs = frame->cs;
    guest_trap.rflags = frame->rflags;
    guest_trap.rsp = frame->rsp;
    guest_trap.ss = frame->ss;
    if (vector == 14)
        guest_trap.cr2 = bare_read_cr2();
    guest_trap.count = guest_trap.count + 1;
    guest_vector_count[vector] = guest_vector_count[vector] + 1;
    if (guest_handler[vector] != NULL) {
        guest_handler[vector](frame);
    } else if (vector >= 32 || !fix(frame)) {
        if (guest_trap_resume == 0) {
            for (;;)
                bare_out32(PORT_TRAP, vector);
        }
        frame->rip = guest_trap_resume;
    }
}

void guest_ignore(struct bare_frame *frame)
{
    (void)frame;
}

uint64_t guest_hypercall(uint64_t number)
{
    uint64_t result;

    if (guest_has_svm)
        __asm__ volatile("vmmcall" : "=a"(result) : "a"(number) : "memory");
    else
        __asm__ volatile("vmcall" : "=a"(result) : "a"(number) : "memory");
    return result;
}
