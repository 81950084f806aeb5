/* SPDX-License-Identifier: BSD-2-Clause */
/* The little PC: ports and interrupt lines. Ports with nothing behind them read all ones and
 * swallow writes, as on a PC's bus. */
#include "bare.h"
#include "board.h"
#include "guest.h"

enum {
    COM1 = 0x3f8,
    UART_SETUP_MS = 2, /* longer than a driver takes from its first write to its last */
    IRQ_TIMER = 0,
    IRQ_KEYBOARD = 1,
    IRQ_COM1 = 4,
    IRQ_CLOCK = 8,
    IRQ_DISK = 14, /* of the first channel; the second's is the next */
    RTC_DATA = 0x71,
    DEBUG_EXIT = 0xf4,
    RESET_CONTROL = 0xcf9,
    SYSTEM_CONTROL_A = 0x92,
    DEBUG_CONSOLE = 0x402,
    DEBUG_CONSOLE_MARK = 0xe9,
    TEST_DATA = 0xe0,    /* what QEMU's pc-testdev has for kvm-unit-tests: a register … */
    TEST_LINES = 0x2000, /* … and the interrupt lines */
    IOAPIC_LINES = 24,
    A20 = 2, /* in port 0x92 and in the keyboard controller's output port */
};

static void set_line(struct board *board, unsigned irq, bool level)
{
    uint32_t bit = 1u << irq;

    if (!(board->lines & bit) == !level)
        return;
    board->lines ^= bit;
    if (irq < 16)
        virtx_pic_set_irq(&board->pic, irq, level);
    virtx_ioapic_set_irq(&board->ioapic, irq == IRQ_TIMER ? 2 : irq, level);
}

/* A device's line, as far as the device itself has changed it: the test register may hold it, too.
 */
static void update_line(struct board *board, unsigned irq, bool level)
{
    uint32_t bit = 1u << irq;

    if (!(board->device_lines & bit) == !level)
        return;
    board->device_lines ^= bit;
    set_line(board, irq, level);
}

/* ---- Console ---- */

static void drain_console(struct board *board)
{
    while (board->console_count && bare_com1_putc(board->console[board->console_head])) {
        board->console_head = (board->console_head + 1) % CONSOLE_BYTES;
        board->console_count--;
    }
}

void board_flush_console(struct board *board)
{
    for (; board->console_count; board->console_count--) {
        bare_com1_write(&board->console[board->console_head], 1);
        board->console_head = (board->console_head + 1) % CONSOLE_BYTES;
    }
}

static void transmit(void *ctx, uint8_t byte)
{
    struct board *board = ctx;

    while (board->console_count == CONSOLE_BYTES)
        drain_console(board);
    board->console[(board->console_head + board->console_count++) % CONSOLE_BYTES] = (char)byte;
}

static void com1_line(void *ctx, bool level)
{
    update_line(ctx, IRQ_COM1, level);
}

static void receive(struct board *board, uint64_t now)
{
    /* Nobody types while a driver sets the port up: it would lose what came in between. */
    if (board->uart.setups != board->uart_setups) {
        board->uart_setups = board->uart.setups;
        board->input_from = now + board->tsc_hz / 1000 * UART_SETUP_MS;
    }
    if (now < board->input_from)
        return;
    while (uart_wants_byte(&board->uart) && bare_com1_ready() & BARE_COM1_INPUT) {
        int c = bare_com1_getc();
        if (c < 0)
            break;
        uart_receive(&board->uart, (uint8_t)c);
    }
}

/* ---- Ports ---- */

static uint8_t read_byte(struct board *board, uint16_t port, uint64_t now)
{
    if (port >= COM1 && port < COM1 + 8) {
        receive(board, now); /* a guest that polls need not wait until time passes */
        return uart_read(&board->uart, port - COM1);
    }
    if ((port >= 0x40 && port <= 0x43) || port == 0x61)
        return pit_read(&board->pit, port, now);
    if (port == 0x70 || port == 0x71)
        return rtc_read(&board->rtc, port, now);
    if (port == I8042_DATA || port == I8042_STATUS)
        return i8042_read(&board->keyboard, port);
    if (port == SYSTEM_CONTROL_A)
        return board->keyboard.output & A20;
    if (port == ATA_CONTROL || port == ATA_CONTROL_2)
        return ata_read_control(&board->ata[port == ATA_CONTROL_2]);
    if (port == FWCFG_DATA)
        return fwcfg_read(&board->fwcfg);
    if (port == DEBUG_CONSOLE)
        return DEBUG_CONSOLE_MARK;
    if (port >= TEST_DATA && port < TEST_DATA + 4)
        return (uint8_t)(board->test_data >> 8 * (port - TEST_DATA));
    return 0xff;
}

/* The power-management registers are where the ACPI tables say, and where a firmware has put them
 * as well; *port becomes the former. */
static bool is_pm(const struct board *board, uint16_t *port, unsigned size)
{
    uint16_t moved = pci_pm_ports(&board->pci);

    if (moved && *port >= moved && *port + size - 1 <= moved + ACPI_PORTS_LAST - ACPI_PORTS)
        *port = (uint16_t)(*port - moved + ACPI_PORTS);
    return *port >= ACPI_PORTS && *port + size - 1 <= ACPI_PORTS_LAST;
}

/* A register of one of the two channels; those of eight bits have neighbours. */
static bool is_ata(uint16_t port, unsigned size)
{
    return ((port & ~7u) == ATA_PORTS || (port & ~7u) == ATA_PORTS_2) &&
           (size == 1 || (port & 7) == 0);
}

/* A wide access to the bus of 8-bit devices is several, from the lowest address up. */
static uint32_t read_port(struct board *board, uint16_t port, unsigned size)
{
    uint64_t now = bare_tsc();
    uint32_t value = 0;
    uint16_t pm_port = port;

    if (is_pm(board, &pm_port, size))
        return acpi_pm_read(&board->pm, pm_port, size, now);
    if (is_ata(port, size))
        return ata_read(&board->ata[port < ATA_PORTS], port & 7, size);
    if (port >= PCI_ADDRESS && port < PCI_ADDRESS + 8)
        return pci_read(&board->pci, port, size);
    for (unsigned i = 0; i < size; i++)
        value |= (uint32_t)read_byte(board, (uint16_t)(port + i), now) << 8 * i;
    return value;
}

static void end(struct board *board, enum board_end how, uint32_t value)
{
    if (board->end == BOARD_RUNNING) {
        board->end = how;
        board->exit_value = value;
    }
}

static void write_byte(struct board *board, uint16_t port, uint8_t value, uint64_t now)
{
    if (port >= COM1 && port < COM1 + 8) {
        uart_write(&board->uart, port - COM1, value);
    } else if ((port >= 0x40 && port <= 0x43) || port == 0x61) {
        pit_write(&board->pit, port, value, now);
    } else if (port == 0x70 || port == 0x71) {
        rtc_write(&board->rtc, port, value, now);
    } else if (port == I8042_DATA || port == I8042_STATUS) {
        i8042_write(&board->keyboard, port, value);
    } else if (port == SYSTEM_CONTROL_A) {
        board->keyboard.output = (uint8_t)((board->keyboard.output & ~A20) | (value & A20));
    } else if (port == ATA_CONTROL || port == ATA_CONTROL_2) {
        ata_write_control(&board->ata[port == ATA_CONTROL_2], value);
    } else if (port >= TEST_DATA && port < TEST_DATA + 4) {
        board->test_data &= ~(0xffu << 8 * (port - TEST_DATA));
        board->test_data |= (uint32_t)value << 8 * (port - TEST_DATA);
    } else if (port == DEBUG_CONSOLE && board->show_debug) {
        bare_printf("%c", value);
    }
}

/* Devices whose registers are wider than a byte; false: there is none at this port. */
static bool write_wide(struct board *board, uint16_t port, unsigned size, uint32_t value)
{
    if (is_ata(port, size)) {
        ata_write(&board->ata[port < ATA_PORTS], port & 7, size, value);
    } else if (port >= PCI_ADDRESS && port < PCI_ADDRESS + 8) {
        pci_write(&board->pci, port, size, value);
        if (board->has_firmware && firmware_map(&board->firmware, pci_pam(&board->pci)))
            end(board, BOARD_ERROR, 0);
    } else if (port == FWCFG_SELECT && size == 2) {
        fwcfg_select(&board->fwcfg, (uint16_t)value);
    } else if (port >= TEST_LINES && port < TEST_LINES + IOAPIC_LINES) {
        set_line(board, port - TEST_LINES, value);
    } else {
        return false;
    }
    return true;
}

/* Only bytes do: a wide write at 0xcf8 is an address for PCI configuration. */
static bool asks_for_reset(uint16_t port, uint32_t value)
{
    return (port == RESET_CONTROL && value & 4) || (port == SYSTEM_CONTROL_A && value & 1) ||
           (port == I8042_STATUS && value == 0xfe);
}

static void write_port(struct board *board, uint16_t port, unsigned size, uint32_t value)
{
    uint64_t now = bare_tsc();
    uint16_t pm_port = port;

    if (port == DEBUG_EXIT) {
        end(board, BOARD_DEBUG_EXIT, value);
    } else if (size == 1 && asks_for_reset(port, value)) {
        end(board, BOARD_RESET, 0);
    } else if (is_pm(board, &pm_port, size)) {
        acpi_pm_write(&board->pm, pm_port, size, value);
        if (board->pm.off)
            end(board, BOARD_POWERED_OFF, 0);
    } else if (!write_wide(board, port, size, value)) {
        for (unsigned i = 0; i < size; i++)
            write_byte(board, (uint16_t)(port + i), (uint8_t)(value >> 8 * i), now);
    }
}

void board_io(struct board *board, const struct virtx_exit_io *io, void *data)
{
    uint8_t *bytes = data;

    for (uint32_t i = 0; i < io->count; i++, bytes += io->size) {
        uint32_t value = 0;
        if (io->access & VIRTX_WRITE) {
            memcpy(&value, (const uint8_t *)io->data + (size_t)i * io->size, io->size);
            write_port(board, io->port, io->size, value);
        } else {
            value = read_port(board, io->port, io->size);
            memcpy(bytes, &value, io->size);
        }
    }
    update_line(board, IRQ_KEYBOARD, i8042_interrupt(&board->keyboard));
    for (unsigned i = 0; i < 2; i++)
        update_line(board, IRQ_DISK + i, ata_interrupt(&board->ata[i]));
    /* As it is now and not a moment later: a line that register C has made fall and time raised
     * again would be no edge. */
    if (io->port == RTC_DATA)
        update_line(board, IRQ_CLOCK, rtc_active(&board->rtc));
}

/* ---- Time ---- */

uint64_t board_deadline(const struct board *board)
{
    uint64_t pit = pit_deadline(&board->pit), rtc = rtc_deadline(&board->rtc);

    return pit < rtc ? pit : rtc;
}

void board_poll(struct board *board)
{
    uint64_t now = bare_tsc();

    if (pit_fired(&board->pit, now)) {
        set_line(board, IRQ_TIMER, false);
        set_line(board, IRQ_TIMER, true);
    }
    update_line(board, IRQ_CLOCK, rtc_interrupt(&board->rtc, now));
    drain_console(board);
    receive(board, now);
}

/* ---- Set-up ---- */

/* Seconds since 1970 by the machine's own clock. */
static uint64_t machine_time(void)
{
    static const uint16_t days_before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    unsigned v[6]; /* second, minute, hour, day, month, year */
    static const uint8_t index[] = {0, 2, 4, 7, 8, 9};

    for (unsigned i = 0; i < 6; i++) {
        bare_out8(0x70, index[i]);
        uint8_t bcd = bare_in8(0x71);
        v[i] = (bcd >> 4) * 10u + (bcd & 15u);
    }
    if (v[4] < 1 || v[4] > 12)
        return 0;
    uint64_t years = v[5] + 30u; /* since 1970; this century */
    uint64_t days = years * 365 + (years + 1) / 4 + days_before[v[4] - 1] + v[3] - 1;
    if (v[5] % 4 == 0 && v[4] > 2)
        days++;
    return ((days * 24 + v[2]) * 60 + v[1]) * 60 + v[0];
}

static void pic_output(void *ctx, bool level)
{
    struct board *board = ctx;

    /* The pair's output is LINT0 of the first processor; before it has one, nobody listens. */
    if (board->bus.count)
        virtx_lapic_set_lint(&board->lapic[0], 0, level);
}

enum virtx_status board_init(struct board *board, struct virtx_vm *vm, uint64_t tsc_hz,
                             uint64_t memory_bytes)
{
    struct virtx_ioapic_config ioapic = {
        .size = sizeof(ioapic), .version = 0x11, .ignore_polarity = true, .bus = &board->bus};
    uint64_t low = memory_bytes < GUEST_LOW_MAX ? memory_bytes : GUEST_LOW_MAX;
    enum virtx_status status;

    board->tsc_hz = tsc_hz;
    board->pm.tsc_hz = tsc_hz;
    pit_init(&board->pit, tsc_hz);
    rtc_init(&board->rtc, tsc_hz, bare_tsc(), machine_time(), low, memory_bytes - low);
    i8042_init(&board->keyboard);
    uart_init(&board->uart, transmit, com1_line, board);
    virtx_apic_bus_init(&board->bus, board->lapic_table, BOARD_CPUS);
    virtx_pic_init(&board->pic, pic_output, board);
    board->pic_reset.size = sizeof(board->pic_reset);
    virtx_pic_save(&board->pic, &board->pic_reset);
    if (!virtx_ioapic_init(&board->ioapic, &ioapic) ||
        !virtx_apic_bus_add_ioapic(&board->bus, &board->ioapic))
        return VIRTX_E_INVALID;
    status = virtx_pic_attach(&board->pic, vm);
    if (!status)
        status = virtx_ioapic_attach(&board->ioapic, vm, VIRTX_IOAPIC_DEFAULT_BASE);
    return status;
}

enum virtx_status board_reset(struct board *board)
{
    for (unsigned i = 0; i < IOAPIC_LINES; i++)
        set_line(board, i, false);
    pci_init(&board->pci, board->ata[0].disk != NULL, board->ata[1].disk != NULL);
    fwcfg_select(&board->fwcfg, 0);
    board->device_lines = 0;
    board->test_data = 0;
    board->pm = (struct acpi_pm){.tsc_hz = board->tsc_hz};
    pit_init(&board->pit, board->tsc_hz);
    rtc_reset(&board->rtc);
    i8042_init(&board->keyboard);
    uart_init(&board->uart, transmit, com1_line, board);
    for (unsigned i = 0; i < 2; i++)
        ata_reset(&board->ata[i]);
    virtx_ioapic_reset(&board->ioapic);
    for (uint32_t i = 0; i < board->bus.count; i++)
        virtx_lapic_reset(&board->lapic[i], false);
    virtx_lapic_virtual_wire(&board->lapic[0]);
    board->end = BOARD_RUNNING;
    if (!virtx_pic_restore(&board->pic, &board->pic_reset))
        return VIRTX_E_INVALID;
    return board->has_firmware ? firmware_map(&board->firmware, pci_pam(&board->pci)) : VIRTX_OK;
}

void board_after_bios(struct board *board)
{
    enum { TIMER_SQUARE_WAVE = 0x36, CASCADE_INPUT = 2, MODE_8086 = 1, ICW1 = 0x11 };
    static const struct {
        uint16_t port;
        uint8_t value;
    } writes[] = {
        {0x20, ICW1},
        {0x21, GUEST_PIC_VECTORS},
        {0x21, 1 << CASCADE_INPUT},
        {0x21, MODE_8086},
        {0xa0, ICW1},
        {0xa1, GUEST_PIC2_VECTORS},
        {0xa1, CASCADE_INPUT},
        {0xa1, MODE_8086},
        {0x21, (uint8_t) ~(1 << IRQ_TIMER | 1 << IRQ_KEYBOARD | 1 << CASCADE_INPUT)},
        {0xa1, 0xff},
    };
    uint64_t now = bare_tsc();

    for (unsigned i = 0; i < sizeof(writes) / sizeof(writes[0]); i++)
        virtx_pic_write(&board->pic, writes[i].port, writes[i].value);
    pit_write(&board->pit, 0x43, TIMER_SQUARE_WAVE, now);
    for (unsigned i = 0; i < 2; i++)
        pit_write(&board->pit, 0x40, 0, now); /* 65536 */
}

enum virtx_status board_add_cpu(struct board *board, struct virtx_vcpu *vcpu)
{
    uint32_t id = virtx_vcpu_id(vcpu);
    struct virtx_lapic *lapic = &board->lapic[id];
    struct virtx_lapic_config config = {
        .size = sizeof(config),
        .id = id,
        .features = VIRTX_LAPIC_X2APIC | VIRTX_LAPIC_TSC_DEADLINE,
        .address_bits = 40,
        .bsp = id == 0,
        .bus_multiply = 1,
        .bus_divide = 1,
        .extint = id == 0 ? &virtx_pic_irq_source : NULL,
        .extint_ctx = &board->pic,
    };
    enum virtx_status status = virtx_lapic_attach(lapic, &config, vcpu);

    if (status)
        return status;
    if (!virtx_apic_bus_add_lapic(&board->bus, lapic))
        return VIRTX_E_INVALID;
    if (id == 0)
        virtx_lapic_virtual_wire(lapic);
    return VIRTX_OK;
}
