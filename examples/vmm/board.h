/* SPDX-License-Identifier: BSD-2-Clause */
/* The little PC: what devices there are, at which ports, on which interrupt lines. */
#ifndef VMM_BOARD_H
#define VMM_BOARD_H

#include <virtx/virtx.h>
#include <virtx/lapic.h>
#include <virtx/ioapic.h>
#include <virtx/pic.h>
#include "acpi.h"
#include "ata.h"
#include "bare.h"
#include "firmware.h"
#include "i8042.h"
#include "pci.h"
#include "pit.h"
#include "rtc.h"
#include "uart.h"

#define BOARD_CPUS    8
#define CONSOLE_BYTES 65536

/* How the guest ended, when it has. */
enum board_end {
    BOARD_RUNNING,
    BOARD_POWERED_OFF, /* through ACPI */
    BOARD_DEBUG_EXIT,  /* wrote to port 0xf4 */
    BOARD_ERROR,       /* the board could not do what the guest asks for */
    BOARD_RESET,       /* asked for a reset: port 0xcf9 or 0x92, keyboard controller */
};

/* Whoever uses a board that runs holds its lock; but a LAPIC is its processor's own, and the
 * interrupt controllers have locks of their own. */
struct board {
    struct bare_lock lock;
    struct virtx_apic_bus bus;
    struct virtx_lapic *lapic_table[BOARD_CPUS];
    struct virtx_lapic lapic[BOARD_CPUS];
    struct virtx_ioapic ioapic;
    struct virtx_pic pic;
    struct virtx_pic_state pic_reset; /* its state after a reset */
    struct uart uart;
    struct pit pit;
    struct rtc rtc;
    struct acpi_pm pm;
    struct i8042 keyboard;
    struct ata ata[2]; /* one drive on each channel */
    bool has_firmware; /* then it decides what is below 1 MiB */
    bool show_debug;   /* what the firmware says at the debug port goes to the log */
    struct firmware firmware;
    struct pci pci;
    struct fwcfg fwcfg;
    uint64_t tsc_hz;
    uint64_t input_from;  /* TSC before which the console's input waits */
    uint32_t uart_setups; /* the serial port's, when that was decided */
    enum board_end end;
    uint32_t exit_value;   /* with BOARD_DEBUG_EXIT */
    uint32_t lines;        /* levels of the interrupt lines … */
    uint32_t device_lines; /* … and those that devices want */
    uint32_t test_data;
    char console[CONSOLE_BYTES]; /* what the guest has printed and COM1 has not taken yet */
    uint32_t console_head, console_count;
};

enum virtx_status board_init(struct board *board, struct virtx_vm *vm, uint64_t tsc_hz,
                             uint64_t memory_bytes);
/* Puts all devices into their state after a reset; the clock, CMOS memory and the disk's content
 * stay. While no vcpu is in run. */
enum virtx_status board_reset(struct board *board);

/* What a kernel finds that a BIOS has been before (Multiboot Specification, "Machine state": "as
 * initialized by the BIOS"): PICs whose vectors are GUEST_PIC_VECTORS and GUEST_PIC2_VECTORS, open
 * for timer and keyboard, and a timer that ticks 18.2 times a second. */
void board_after_bios(struct board *board);
/* Gives a vcpu its local APIC. */
enum virtx_status board_add_cpu(struct board *board, struct virtx_vcpu *vcpu);

/* Serves a port access of the loop. */
void board_io(struct board *board, const struct virtx_exit_io *io, void *data);

/* Lets time pass: raises the interrupts that are due, moves console bytes. */
void board_poll(struct board *board);
/* TSC at which board_poll() has something to do next, console input aside. */
uint64_t board_deadline(const struct board *board);
/* Writes out everything the guest has printed. */
void board_flush_console(struct board *board);

#endif
