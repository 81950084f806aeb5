/* SPDX-License-Identifier: BSD-2-Clause */
/* The log of what the guest has written. */
#include "guest_memory.h"

/* ---- The dirty log ---- */

static void guest_dirty(uint64_t argument)
{
    static const uint16_t pages[] = {0, 5, 511, 512, 1023};

    for (unsigned i = 0; i < 5; i++)
        RAM8(pages[i] * PAGE + argument) = (uint8_t)(argument + i);
    for (unsigned i = 0; i < GUEST_MEMORY_BYTES / PAGE; i++)
        (void)RAM8(i * PAGE); /* reading is not dirtying */
    guest_done(0);
}

static void check_log(const uint16_t *pages, unsigned count)
{
    uint64_t bitmap[16] = {0}, dirty = 0, wanted[16] = {0};

    for (unsigned i = 0; i < count; i++)
        wanted[pages[i] / 64] |= 1ul << pages[i] % 64;
    CHECK_OK(virtx_memslot_harvest(machine.memory, bitmap, 16, &dirty));
    CHECK_EQUAL(dirty, count);
    for (unsigned i = 0; i < 16; i++)
        CHECK_EQUAL(bitmap[i], wanted[i]);
}

static void dirty_log(void)
{
    static const uint16_t pages[] = {0, 5, 511, 512, 1023}, seven[] = {7}, five[] = {5};

    machine_open();
    CHECK_EQUAL(GUEST_RESULT(guest_fill, GUEST_MEMORY_BYTES), 1); /* mapped, large where possible */
    CHECK_OK(virtx_memslot_log(machine.memory, true));
    check_log(NULL, 0);
    for (unsigned round = 1; round < 4; round++) {
        GUEST_RESULT(guest_dirty, round);
        check_log(pages, 5);
        check_log(NULL, 0);
        CHECK_EQUAL(machine.ram[511 * PAGE + round], round + 2);
    }
    CHECK_OK(virtx_vm_write(machine.vm, GUEST_MEMORY + 7 * PAGE, &(uint64_t){1}, 8));
    check_log(seven, 1);
    CHECK_EQUAL(GUEST_RESULT(guest_write64, GUEST_MEMORY + 5 * PAGE), 1);
    check_log(five, 1);
    CHECK_OK(virtx_memslot_log(machine.memory, false));
    CHECK_STATUS(virtx_memslot_harvest(machine.memory, &(uint64_t){0}, 16, NULL), VIRTX_E_INVALID);
    CHECK_EQUAL(GUEST_RESULT(guest_fill, GUEST_MEMORY_BYTES), 1);
}

static void dirty_log_from_start(void)
{
    static const uint16_t pages[] = {0, 5, 511, 512, 1023};

    harness_memory_flags = VIRTX_MEMSLOT_DIRTY_LOG;
    machine_open();
    GUEST_RESULT(guest_dirty, 3);
    check_log(pages, 5);
    check_log(NULL, 0);
}

/* What the library writes for the guest is logged too: MMIO to memory by REP MOVS. */
static void guest_copies(uint64_t argument)
{
    uint64_t count = 16, from = GUEST_HOLE, to = argument;

    __asm__ volatile("rep movsb" : "+c"(count), "+S"(from), "+D"(to) : : "memory");
    guest_done(0);
}

static void dirty_log_by_library(void)
{
    static const uint16_t pages[] = {3, 4};

    harness_memory_flags = VIRTX_MEMSLOT_DIRTY_LOG;
    machine_open();
    memset(device, 0x5c, 16);
    guest_prepare(guest_copies, GUEST_MEMORY + 4 * PAGE - 8);
    CHECK(serve_device());
    CHECK_EQUAL(machine.ram[4 * PAGE], 0x5c);
    check_log(pages, 2);
}

static void dirty_log_without_hardware_help(void)
{
    harness_disable = VIRTX_FEATURE_DIRTY_LOGGING | VIRTX_FEATURE_NESTED_AD;
    dirty_log();
}

/*
 * The three ways to keep a log: the processor's own (PML), dirty flags, write protection. A harvest
 * says the same, whatever the way; what differs is the exits. Most pages are written in an order
 * that no run of addresses gives away, and some twice.
 */
enum { LOGGED_PAGES = GUEST_MEMORY_BYTES / PAGE, SCATTERED = 700 };

static uint64_t scattered(uint64_t i)
{
    return (i * 389 + 17) % LOGGED_PAGES;
}

static void guest_scatters(uint64_t from)
{
    for (uint64_t i = from; i < from + SCATTERED; i++)
        RAM64(scattered(i % (SCATTERED - 20)) * PAGE + 8) = i + 1;
    guest_done(1);
}

static uint64_t scattered_exits(uint64_t log[LOGGED_PAGES / 64])
{
    uint64_t expected[LOGGED_PAGES / 64] = {0}, before, dirty = 0, again[LOGGED_PAGES / 64] = {0};

    machine_open();
    CHECK_EQUAL(GUEST_RESULT(guest_fill, GUEST_MEMORY_BYTES), 1);
    CHECK_OK(virtx_memslot_log(machine.memory, true));
    for (unsigned i = 0; i < SCATTERED - 20; i++)
        expected[scattered(i) / 64] |= 1ul << scattered(i) % 64;
    for (unsigned round = 0; round < 2; round++) {
        memset(log, 0, LOGGED_PAGES / 8);
        guest_prepare(guest_scatters, round);
        before = guest_exits();
        CHECK_EQUAL(GUEST_CONTINUE(), 1);
        before = guest_exits() - before - 1; /* the OUT */
        CHECK_OK(virtx_memslot_harvest(machine.memory, log, LOGGED_PAGES / 64, &dirty));
        CHECK_EQUAL(dirty, SCATTERED - 20);
        CHECK_EQUAL(memcmp(log, expected, sizeof(expected)), 0);
        CHECK_OK(virtx_memslot_harvest(machine.memory, again, LOGGED_PAGES / 64, &dirty));
        CHECK_EQUAL(dirty, 0);
    }
    return before;
}

static void dirty_log_three_ways(void)
{
    static const uint64_t without[] = {0, VIRTX_FEATURE_DIRTY_LOGGING,
                                       VIRTX_FEATURE_DIRTY_LOGGING | VIRTX_FEATURE_NESTED_AD};
    static uint64_t log[3][LOGGED_PAGES / 64];

    for (unsigned way = 0; way < 3; way++) {
        uint64_t exits;

        harness_no_watchdog = true;
        harness_disable = without[way];
        exits = scattered_exits(log[way]);
        /* Once a page is mapped: an exit for each 512 pages; none; one for each page. */
        if (has_feature(VIRTX_FEATURE_DIRTY_LOGGING) && paging_is_nested())
            CHECK_EQUAL(exits, (SCATTERED - 20) / 512);
        else if (has_feature(VIRTX_FEATURE_NESTED_AD) && paging_is_nested())
            CHECK_EQUAL(exits, 0);
        else
            CHECK(exits >= SCATTERED - 20);
        CHECK_EQUAL(memcmp(log[way], log[0], sizeof(log[0])), 0);
        bare_printf("  %s: %lu exits for %u pages\n",
                    has_feature(VIRTX_FEATURE_DIRTY_LOGGING) ? "the processor's log"
                    : has_feature(VIRTX_FEATURE_NESTED_AD)   ? "dirty flags"
                                                             : "write protection",
                    exits, SCATTERED - 20);
        machine_close();
    }
}

GUEST_CASES({"dirty-log", dirty_log}, {"dirty-log-from-the-start", dirty_log_from_start},
            {"dirty-log-of-the-library's-writes", dirty_log_by_library},
            {"dirty-log-without-hardware-help", dirty_log_without_hardware_help},
            {"dirty-log-three-ways", dirty_log_three_ways});
