/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files of the bare host know of each other and an application need not. */
#ifndef BARE_INTERNAL_H
#define BARE_INTERNAL_H

#include "bare.h"

#define SEL_CODE        0x08
#define SEL_DATA        0x10
#define SEL_TSS         0x20

#define BARE_MAPPED_END (64ull << 30) /* what boot.S maps on every processor */

extern char __image_start[], __image_end[];

/* The task-state segment of 64-bit mode, as far as the processor reads it. */
struct tss {
    uint32_t reserved0;
    uint64_t rsp[3];
    uint64_t reserved1;
    uint64_t ist[7];
    uint64_t reserved2;
    uint16_t reserved3, io_map;
} __attribute__((packed));

enum cpu_state {
    CPU_OFF,  /* waits for a start-up IPI */
    CPU_IDLE, /* sleeps */
    CPU_BUSY, /* runs, or is about to run, fn(arg) */
};

/* Everything that each processor has of its own. */
struct cpu {
    uint32_t index;
    uint32_t apic_id;
    uint64_t gdt[6];
    struct tss tss;
    enum cpu_state state;
    void (*fn)(void *arg);
    void *arg;
};

/* boot.S */
extern char bare_trampoline[], bare_trampoline_end[];
extern struct cpu *bare_ap_cpu;
extern void *bare_ap_stack;
extern char bare_first_stack[BARE_STACK_BLOCK];
_Noreturn void bare_start_first(uint32_t magic, uint32_t information);
_Noreturn void bare_start_other(struct cpu *cpu);

/* console.c */
void bare_console_init(void);
void bare_console_options(void); /* once the command line is known */
void bare_log_record(const char *text);

/* bootinfo.c, pages.c */
void bare_bootinfo_init(uint32_t magic, uint32_t address);
void bare_pages_init(void);

/* trap.S, trap.c */
extern char bare_trap_stubs[];
void bare_trap(struct bare_frame *frame);
void bare_traps_init(void); /* once */
void bare_traps_load(void); /* on each processor */

/* cpu.c */
void bare_cpu_init_first(void);
void bare_cpus_find(void);

/* firmware.c: the local APIC ids of the usable processors, at most `max`. */
unsigned bare_firmware_processors(uint32_t *ids, unsigned max);

/* apic.c */
enum {
    ICR_FIXED = 0,
    ICR_NMI = 4 << 8,
    ICR_INIT = 5 << 8,
    ICR_STARTUP = 6 << 8,
    ICR_ASSERT = 1 << 14,
};
void bare_apic_init(void); /* on each processor */
void bare_apic_send(uint32_t apic_id, uint32_t command);

/* Starts the timer with interrupts masked, and reads it: for time.c. */
struct timer_setting {
    uint32_t lvt, count;
};
struct timer_setting bare_timer_measure(void);
uint32_t bare_timer_read(void);
void bare_timer_restore(struct timer_setting setting);

#endif
