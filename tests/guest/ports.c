/* SPDX-License-Identifier: BSD-2-Clause */
/* Port intercepts: boundaries, handlers, string instructions. */
#include "harness.h"

enum { PAGE = 4096 };

static struct virtx_intercept *set_action(uint32_t kind, uint32_t access, uint64_t first,
                                          uint64_t last, uint32_t action)
{
    struct virtx_intercept_config config = {.size = sizeof(config),
                                            .kind = kind,
                                            .access = access,
                                            .action = action,
                                            .first = first,
                                            .last = last};
    struct virtx_intercept *result = NULL;

    CHECK_OK(virtx_vm_intercept(machine.vm, &config, &result));
    return result;
}

/* ---- Ports ---- */

static struct port_access {
    uint16_t port;
    uint8_t size;
    bool write;
} port_access;

static volatile uint32_t port_value;

static void guest_port(uint64_t argument)
{
    (void)argument;
    uint16_t port = port_access.port;

    if (port_access.write) {
        switch (port_access.size) {
        case 1:
            bare_out8(port, 0x11);
            break;
        case 2:
            bare_out16(port, 0x2211);
            break;
        default:
            bare_out32(port, 0x44332211);
        }
    } else {
        port_value = port_access.size == 1   ? bare_in8(port)
                     : port_access.size == 2 ? bare_in16(port)
                                             : bare_in32(port);
    }
    guest_done(0);
}

static bool port_exits(uint16_t port, uint8_t size, bool write)
{
    port_access = (struct port_access){port, size, write};
    guest_prepare(guest_port, 0);
    if (guest_continue(NULL))
        return false;
    CHECK_EQUAL(machine.exit->reason, VIRTX_EXIT_IO);
    CHECK_EQUAL(machine.exit->io.port, port);
    CHECK_EQUAL(machine.exit->io.size, size);
    CHECK_EQUAL(machine.exit->io.access, write ? VIRTX_WRITE : VIRTX_READ);
    CHECK_EQUAL(machine.exit->io.count, 1);
    CHECK_EQUAL(machine.exit->io.string, 0);
    if (write)
        CHECK_EQUAL(machine.exit->io.value, size == 1 ? 0x11 : size == 2 ? 0x2211 : 0x44332211);
    CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
    CHECK_EQUAL(GUEST_CONTINUE(), 0);
    return true;
}

/* Nothing answers at these ports of the emulated PCs. */
static void ports(void)
{
    static const struct {
        uint16_t port;
        uint8_t size;
        bool exits;
    } table[] = {
        {0x7ffe, 1, true}, {0x7fff, 1, false}, {0x8000, 1, true},  {0x7ffe, 2, true},
        {0x7fff, 2, true}, {0x7ffd, 4, true},  {0x7ffc, 4, true},  {0x8001, 4, true},
        {0xfffe, 1, true}, {0xffff, 1, false}, {0xffff, 2, true},  {0xfffe, 2, true},
        {0xffff, 4, true}, {0xa000, 1, false}, {0xa000, 2, false}, {0xa000, 4, false},
        {0x9fff, 2, true}, {0xa003, 1, false}, {0xa003, 2, true},  {0xa004, 1, true},
    };

    machine_open();
    set_action(VIRTX_INTERCEPT_PORT, RW, 0x7fff, 0x7fff, VIRTX_ACTION_ALLOW);
    set_action(VIRTX_INTERCEPT_PORT, RW, 0xffff, 0xffff, VIRTX_ACTION_ALLOW);
    set_action(VIRTX_INTERCEPT_PORT, RW, 0xa000, 0xa003, VIRTX_ACTION_ALLOW);
    for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        for (unsigned write = 0; write < 2; write++) {
            if (!CHECK_EQUAL(port_exits(table[i].port, table[i].size, write), table[i].exits))
                bare_printf("  port 0x%x size %u\n", table[i].port, table[i].size);
        }
    }
    struct virtx_intercept *more =
        set_action(VIRTX_INTERCEPT_PORT, RW, 0x8000, 0x8000, VIRTX_ACTION_ALLOW);
    CHECK(!port_exits(0x7fff, 2, true));
    CHECK(!port_exits(0x8000, 1, false));
    CHECK(port_exits(0x8000, 2, false));
    CHECK_OK(virtx_intercept_remove(more));
    CHECK(port_exits(0x7fff, 2, true));
    CHECK(!port_exits(0x7fff, 1, true));
}

static uint64_t handler_calls;

static enum virtx_verdict on_port(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    (void)vcpu;
    CHECK(ctx == &handler_calls);
    handler_calls++;
    if (exit->io.access == VIRTX_READ)
        exit->io.value = 0xa5a5a5a5;
    return VIRTX_HANDLED;
}

static void port_handler(void)
{
    machine_open();
    handler_calls = 0;
    intercept_handler(VIRTX_INTERCEPT_PORT, VIRTX_READ, 0x300, 0x303, on_port, &handler_calls);
    CHECK(!port_exits(0x300, 4, false));
    CHECK_EQUAL(port_value, 0xa5a5a5a5);
    CHECK(!port_exits(0x303, 1, false));
    CHECK_EQUAL(port_value, 0xa5);
    CHECK_EQUAL(handler_calls, 2);
    CHECK(port_exits(0x300, 1, true)); /* writes are not its business */
    CHECK(port_exits(0x304, 1, false));
    CHECK_EQUAL(port_value, 0xff);
    CHECK_EQUAL(handler_calls, 2);
}

/* ---- String I/O ---- */

static struct string_access {
    uint64_t address, count, final_address, final_count;
    bool write, down, rep;
    uint8_t size;
} string;

#define STRING_IO(text)                                                                            \
    __asm__ volatile(text : "+S"(address), "+D"(other), "+c"(count) : "d"(0x321) : "memory", "cc")

static void guest_string(uint64_t argument)
{
    uint64_t address = string.address, other = address, count = string.count;

    (void)argument;
    if (string.down)
        __asm__ volatile("std");
    if (string.write) {
        if (!string.rep)
            STRING_IO("outsb");
        else if (string.size == 1)
            STRING_IO("rep outsb");
        else if (string.size == 2)
            STRING_IO("rep outsw");
        else
            STRING_IO("rep outsl");
    } else {
        if (!string.rep)
            STRING_IO("insb");
        else if (string.size == 1)
            STRING_IO("rep insb");
        else if (string.size == 2)
            STRING_IO("rep insw");
        else
            STRING_IO("rep insl");
    }
    __asm__ volatile("cld");
    string.final_address = string.write ? address : other;
    string.final_count = count;
    guest_done(0);
}

/* Runs a string instruction; the accesses' bytes, in their order, go to or come from `stream`. */
static unsigned run_string(uint8_t *stream)
{
    unsigned bytes = 0;

    guest_prepare(guest_string, 0);
    while (!guest_continue(NULL)) {
        const struct virtx_exit *exit = machine.exit;
        unsigned now;

        if (!CHECK_EQUAL(exit->reason, VIRTX_EXIT_IO) || !CHECK(exit->pending))
            return 0;
        now = exit->io.count * exit->io.size;
        CHECK_EQUAL(exit->io.port, 0x321);
        CHECK_EQUAL(exit->io.size, string.size);
        CHECK(exit->io.string);
        CHECK_EQUAL(exit->io.rep, string.rep);
        CHECK(exit->io.count > 0 && now <= VIRTX_IO_BATCH);
        if (string.write)
            memcpy(stream + bytes, exit->io.data, now);
        CHECK_OK(virtx_vcpu_complete(machine.vcpu, string.write ? NULL : stream + bytes));
        bytes += now;
    }
    return bytes;
}

static uint8_t stream[8192];

static uint8_t pattern(unsigned i)
{
    return (uint8_t)(i * 13 + i / 256 + 1);
}

static void string_io(void)
{
    static const struct {
        uint32_t offset, count;
        uint8_t size;
        bool down, rep;
    } table[] = {
        {0, 1, 1, false, false},    {0, 5, 1, false, true},       {0, 3, 2, false, true},
        {0, 7, 4, false, true},     {0, 1000, 4, false, true},    {0, 600, 1, false, true},
        {0xffd, 9, 2, false, true}, {0xffe, 3, 4, false, true},   {0x800, 9, 1, true, true},
        {0x1002, 9, 4, true, true}, {0x1001, 300, 2, true, true}, {0x123, 0, 1, false, true},
    };

    machine_open();
    for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        for (unsigned write = 0; write < 2; write++) {
            unsigned size = table[i].size, count = table[i].count, total = count * size;
            uint64_t start = GUEST_MEMORY + 0x10000 + table[i].offset;
            unsigned bad = 0;

            string = (struct string_access){.address = start,
                                            .count = count,
                                            .write = write,
                                            .down = table[i].down,
                                            .rep = table[i].rep,
                                            .size = table[i].size};
            for (unsigned j = 0; j < 0x8000; j++)
                machine.ram[0xc000 + j] = write ? pattern(j) : 0;
            for (unsigned j = 0; j < sizeof(stream); j++)
                stream[j] = write ? 0 : pattern(j);
            CHECK_EQUAL(run_string(stream), total);
            for (unsigned j = 0; j < total; j++) {
                int64_t unit = (int64_t)(j / size) * size * (table[i].down ? -1 : 1);
                uint64_t at = 0x10000 + table[i].offset + (uint64_t)unit + j % size;
                bad += machine.ram[at] != stream[j];
                bad += stream[j] != (write ? pattern((unsigned)at - 0xc000) : pattern(j));
            }
            if (!CHECK_EQUAL(bad, 0))
                bare_printf("  string row %u, %s\n", i, write ? "out" : "in");
            CHECK_EQUAL(string.final_count, table[i].rep ? 0 : count);
            CHECK_EQUAL(string.final_address,
                        table[i].down ? start - total : start + (table[i].rep ? total : 1));
        }
    }
}

/* The second page is not there: what came before has happened, then the guest gets its #PF. */
static volatile int string_vector;

static void guest_string_fault(uint64_t write)
{
    uint64_t address = 0x70000ff0, other = address, count = 64;

    if (write) {
        string_vector = GUEST_TRY("rep outsb", "+S"(address), "+c"(count) : "d"(0x321) : "memory");
    } else {
        string_vector = GUEST_TRY("rep insb", "+D"(other), "+c"(count) : "d"(0x321) : "memory");
    }
    string.final_count = count;
    string.final_address = write ? address : other;
    guest_done(0);
}

static void string_fault(void)
{
    machine_open();
    for (unsigned write = 0; write < 2; write++) {
        unsigned bytes = 0;

        *guest_pte(0x70000000) = GUEST_MEMORY | 7;
        *guest_pte(0x70001000) = 0;
        memset(machine.ram, 0x61, PAGE);
        guest_prepare(guest_string_fault, write);
        while (!guest_continue(NULL)) {
            const struct virtx_exit *exit = machine.exit;
            if (!CHECK_EQUAL(exit->reason, VIRTX_EXIT_IO))
                return;
            memset(stream, 0x7a, VIRTX_IO_BATCH);
            bytes += exit->io.count;
            CHECK(bytes <= 16);
            CHECK_OK(virtx_vcpu_complete(machine.vcpu, stream));
        }
        CHECK_EQUAL(bytes, 16);
        CHECK_EQUAL(string_vector, 14);
        CHECK_EQUAL(string.final_count, 48);
        CHECK_EQUAL(string.final_address, 0x70001000);
        CHECK_EQUAL(guest_trap.cr2, 0x70001000);
        CHECK_EQUAL(guest_trap.error, write ? 0 : 2);
        CHECK_EQUAL(machine.ram[PAGE - 1], write ? 0x61 : 0x7a);
    }
}

GUEST_CASES({"port-boundaries", ports}, {"port-handler", port_handler}, {"string-io", string_io},
            {"string-io-fault-in-the-middle", string_fault});
