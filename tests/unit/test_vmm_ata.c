/* SPDX-License-Identifier: BSD-2-Clause */
/* The VMM's disk against ATA/ATAPI-6: the protocols as a driver with programmed I/O follows them.
 */
#include "ata.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

enum { SECTORS = 5000, ERR = 1, DRQ = 8, DRDY = 0x40, BSY = 0x80 };

static struct ata ata;
static uint8_t disk[SECTORS * 512], expected[SECTORS * 512];

static void setup(void)
{
    for (unsigned i = 0; i < sizeof(disk); i++)
        disk[i] = expected[i] = (uint8_t)(i * 7 + (i >> 9) * 31);
    ata_init(&ata, disk, sizeof(disk));
}

static uint8_t in(unsigned reg)
{
    return (uint8_t)ata_read(&ata, reg, 1);
}

static void out(unsigned reg, uint8_t value)
{
    ata_write(&ata, reg, 1, value);
}

/* A command with a 28-bit address. */
static void command(uint8_t code, uint32_t lba, uint8_t count)
{
    out(2, count);
    out(3, (uint8_t)lba);
    out(4, (uint8_t)(lba >> 8));
    out(5, (uint8_t)(lba >> 16));
    out(6, (uint8_t)(0xe0 | lba >> 24));
    out(7, code);
}

static void command_wide(uint8_t code, uint64_t lba, uint16_t count)
{
    out(2, (uint8_t)(count >> 8));
    out(2, (uint8_t)count);
    for (unsigned i = 0; i < 3; i++) {
        out(3 + i, (uint8_t)(lba >> (24 + 8 * i)));
        out(3 + i, (uint8_t)(lba >> 8 * i));
    }
    out(6, 0xe0);
    out(7, code);
}

static void expect_done(void)
{
    ck_assert_uint_eq(in(7) & (BSY | DRDY | DRQ | ERR), DRDY);
}

static void expect_error(uint8_t error)
{
    ck_assert_uint_eq(in(7) & (BSY | DRQ | ERR), ERR);
    ck_assert_uint_eq(in(1), error);
}

/* Takes `blocks` blocks, each announced by an interrupt and by DRQ. */
static void expect_data(const uint8_t *data, unsigned blocks, unsigned sectors, unsigned width)
{
    for (; blocks--; data += sectors * 512) {
        ck_assert(ata_interrupt(&ata));
        ck_assert_uint_eq(in(7) & (BSY | DRQ | ERR), DRQ);
        ck_assert(!ata_interrupt(&ata)); /* reading the status acknowledges it */
        for (unsigned i = 0; i < sectors * 512; i += width) {
            uint32_t value = ata_read(&ata, 0, width);
            ck_assert_mem_eq(&value, data + i, width);
        }
    }
    expect_done();
}

static void send(const uint8_t *data, unsigned blocks, unsigned sectors, unsigned width)
{
    ck_assert(!ata_interrupt(&ata)); /* none before the first block */
    for (; blocks--; data += sectors * 512) {
        ck_assert_uint_eq(in(7) & (BSY | DRQ | ERR), DRQ);
        for (unsigned i = 0; i < sectors * 512; i += width) {
            uint32_t value = 0;
            memcpy(&value, data + i, width);
            ata_write(&ata, 0, width, value);
        }
        ck_assert(ata_interrupt(&ata));
    }
    expect_done();
}

START_TEST(identifies_itself)
{
    uint16_t w[256];

    command(0xec, 0, 0);
    ck_assert_uint_eq(in(7) & (DRQ | ERR), DRQ);
    for (unsigned i = 0; i < 256; i++)
        w[i] = (uint16_t)ata_read(&ata, 0, 2);
    expect_done();
    ck_assert_uint_eq(w[0] & 0x8000, 0); /* an ATA device */
    ck_assert_uint_eq(w[1], SECTORS / (16 * 63));
    ck_assert_uint_eq(w[3], 16);
    ck_assert_uint_eq(w[6], 63);
    ck_assert_uint_eq(w[27], 'V' << 8 | 'I');
    ck_assert_uint_eq(w[49] & 0x300, 0x200); /* LBA, no DMA */
    ck_assert_uint_eq(w[60] | (uint32_t)w[61] << 16, SECTORS);
    ck_assert_uint_eq(w[83] & 0xc400, 0x4400);
    ck_assert_uint_eq(w[100], SECTORS);
    ck_assert_uint_eq(w[101] | w[102] | w[103], 0);
}
END_TEST

START_TEST(reads)
{
    command(0x20, 17, 3);
    expect_data(expected + 17 * 512, 3, 1, 2);
    command(0x20, 1000, 0); /* 0 is 256 */
    expect_data(expected + 1000 * 512, 256, 1, 4);
    command_wide(0x24, 4000, 300);
    expect_data(expected + 4000 * 512, 300, 1, 2);
    command_wide(0x24, SECTORS - 1, 1);
    expect_data(expected + (SECTORS - 1) * 512, 1, 1, 2);
}
END_TEST

START_TEST(reads_by_cylinder_head_and_sector)
{
    out(2, 1);
    out(3, 5);
    out(4, 2);
    out(5, 0);
    out(6, 0xa3);
    out(7, 0x20);
    expect_data(expected + ((2 * 16 + 3) * 63 + 4) * 512, 1, 1, 2);
    out(3, 0); /* sectors count from 1 */
    out(7, 0x20);
    expect_error(0x10);
    out(3, 64);
    out(7, 0x20);
    expect_error(0x10);
}
END_TEST

START_TEST(writes)
{
    static uint8_t data[64 * 512];

    for (unsigned i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 5 + 1);
    command(0x30, 100, 2);
    send(data, 2, 1, 2);
    memcpy(expected + 100 * 512, data, 1024);
    command_wide(0x34, 2000, 64);
    send(data, 64, 1, 4);
    memcpy(expected + 2000 * 512, data, sizeof(data));
    ck_assert_mem_eq(disk, expected, sizeof(disk));
}
END_TEST

START_TEST(several_sectors_for_one_interrupt)
{
    static uint8_t data[12 * 512];

    command(0xc4, 8, 4);
    expect_error(4); /* not before SET MULTIPLE MODE */
    command(0xc6, 0, 4);
    expect_done();
    command(0xc4, 8, 8);
    expect_data(expected + 8 * 512, 2, 4, 2);
    command(0xc5, 40, 12);
    send(data, 3, 4, 2);
    memset(expected + 40 * 512, 0, sizeof(data));
    ck_assert_mem_eq(disk, expected, sizeof(disk));
    command(0xc4, 8, 2); /* the last block may be shorter */
    expect_data(expected + 8 * 512, 1, 2, 2);
    command(0xc6, 0, 32);
    expect_error(4);
    command(0xc6, 0, 3);
    expect_error(4);
}
END_TEST

START_TEST(addresses_behind_the_end)
{
    command(0x20, SECTORS, 1);
    expect_error(0x10);
    command(0x20, SECTORS - 1, 2);
    expect_error(0x10);
    command(0x30, SECTORS - 1, 2);
    expect_error(0x10);
    command_wide(0x24, 0xffffffffffff, 0);
    expect_error(0x10);
    for (unsigned bit = 13; bit < 48; bit++) {
        command_wide(0x24, 1ull << bit, 1);
        expect_error(0x10);
    }
    command(0x40, SECTORS - 2, 2);
    expect_done();
    command(0x40, SECTORS - 2, 3);
    expect_error(0x10);
    ck_assert_mem_eq(disk, expected, sizeof(disk));
}
END_TEST

START_TEST(commands_that_it_does_not_have)
{
    command(0xa1, 0, 0); /* IDENTIFY PACKET DEVICE: this is no CD drive */
    expect_error(4);
    command(0xc8, 0, 1); /* READ DMA */
    expect_error(4);
    command(0xe7, 0, 0); /* an error does not stay */
    expect_done();
}
END_TEST

START_TEST(device_1_is_absent)
{
    out(6, 0xf0);
    ck_assert_uint_eq(in(7), 0);
    ck_assert_uint_eq(ata_read_control(&ata), 0);
    out(7, 0xec);
    ck_assert(!ata_interrupt(&ata));
    out(6, 0xe0);
    ck_assert_uint_eq(in(7) & (DRDY | DRQ), DRDY);
}
END_TEST

START_TEST(reset_leaves_the_signature)
{
    command(0x20, 17, 3);
    ata_write_control(&ata, 4);
    ata_write_control(&ata, 0);
    expect_done();
    ck_assert_uint_eq(in(1), 1);
    ck_assert_uint_eq(in(2), 1);
    ck_assert_uint_eq(in(3), 1);
    ck_assert_uint_eq(in(4), 0);
    ck_assert_uint_eq(in(5), 0);
    ck_assert(!ata_interrupt(&ata));
}
END_TEST

START_TEST(interrupts_can_be_disabled)
{
    ata_write_control(&ata, 2);
    command(0x20, 0, 1);
    ck_assert(!ata_interrupt(&ata));
    ata_write_control(&ata, 0);
    ck_assert(ata_interrupt(&ata));
    ck_assert_uint_eq(ata_read_control(&ata) & DRQ, DRQ);
    ck_assert(ata_interrupt(&ata)); /* the alternate status does not acknowledge */
}
END_TEST

/* A boot sector is a disk. */
START_TEST(smallest_disk)
{
    uint16_t words[256];

    ata_init(&ata, disk, 512);
    command(0xec, 0, 0);
    for (unsigned i = 0; i < 256; i++)
        words[i] = (uint16_t)ata_read(&ata, 0, 2);
    ck_assert_uint_eq(words[1], 1);
    ck_assert_uint_eq(words[60], 1);
    command(0x20, 0, 1);
    expect_data(expected, 1, 1, 2);
    command(0x20, 1, 1);
    expect_error(0x10);
}
END_TEST

/* ---- A CD-ROM drive ---- */

enum { CD_SECTORS = 1250, REASON = 3 };

/* A packet, with a limit of bytes that the host takes at once. */
static void packet(const uint8_t bytes[12], unsigned limit)
{
    out(1, 0);
    out(4, (uint8_t)limit);
    out(5, (uint8_t)(limit >> 8));
    out(6, 0xa0);
    out(7, 0xa0);
    ck_assert_uint_eq(in(7) & (BSY | DRQ | ERR), DRQ);
    ck_assert_uint_eq(in(2) & REASON, 1); /* a command, to the device */
    for (unsigned i = 0; i < 12; i += 2)
        ata_write(&ata, 0, 2, bytes[i] | (unsigned)bytes[i + 1] << 8);
    ck_assert(ata_interrupt(&ata));
}

/* Takes the reply part by part; how many bytes there were. */
static size_t take(uint8_t *to, size_t room, unsigned limit)
{
    size_t total = 0;

    while (in(7) & DRQ) {
        size_t bytes = in(4) | (size_t)in(5) << 8;

        ck_assert_uint_eq(in(2) & REASON, 2); /* data, to the host */
        ck_assert_uint_ge(bytes, 1);
        ck_assert_uint_le(bytes, limit);
        ck_assert_uint_le(total + bytes, room);
        for (size_t i = 0; i < bytes; i += 2) {
            uint32_t word = ata_read(&ata, 0, 2);

            to[total + i] = (uint8_t)word;
            if (i + 1 < bytes)
                to[total + i + 1] = (uint8_t)(word >> 8);
        }
        ck_assert(ata_interrupt(&ata));
        total += bytes;
    }
    expect_done();
    ck_assert_uint_eq(in(2) & REASON, 3); /* the end */
    return total;
}

static void expect_sense(uint32_t sense)
{
    uint8_t reply[18];

    ck_assert_uint_eq(in(7) & (DRQ | ERR), ERR);
    ck_assert_uint_eq(in(1) >> 4, sense >> 16);
    packet((const uint8_t[12]){0x03, 0, 0, 0, 18}, 18);
    ck_assert_uint_eq(take(reply, 18, 18), 18);
    ck_assert_uint_eq(reply[0], 0x70);
    ck_assert_uint_eq(reply[2], sense >> 16);
    ck_assert_uint_eq(reply[12], sense >> 8 & 0xff);
}

START_TEST(cd_is_told_from_a_disk)
{
    uint16_t word;

    ata_init_cd(&ata, disk, sizeof(disk));
    ck_assert_uint_eq(in(4), 0x14);
    ck_assert_uint_eq(in(5), 0xeb);
    command(0xec, 0, 0);
    ck_assert_uint_eq(in(7) & (DRQ | ERR), ERR);
    ck_assert_uint_eq(in(4), 0x14);
    ck_assert_uint_eq(in(5), 0xeb);
    command(0xa1, 0, 0);
    ck_assert_uint_eq(in(7) & (DRQ | ERR), DRQ);
    word = (uint16_t)ata_read(&ata, 0, 2);
    ck_assert_uint_eq(word >> 14, 2);     /* packets */
    ck_assert_uint_eq(word >> 8 & 31, 5); /* a CD-ROM drive */
    ck_assert_uint_eq(word & 3, 0);       /* of 12 bytes */
    for (unsigned i = 1; i < 256; i++)
        ata_read(&ata, 0, 2);
    expect_done();
    command(0x08, 0, 0); /* DEVICE RESET */
    ck_assert_uint_eq(in(4), 0x14);
    command(0x30, 0, 1);
    ck_assert_uint_eq(in(7) & (DRQ | ERR), ERR);
    ata_write_control(&ata, 4);
    ata_write_control(&ata, 0);
    ck_assert_uint_eq(in(5), 0xeb);
}
END_TEST

START_TEST(cd_reads)
{
    static const unsigned limits[] = {2048, 0xfffe, 512, 0};
    static uint8_t data[3 * 2048];

    ata_init_cd(&ata, disk, sizeof(disk));
    for (unsigned i = 0; i < 4; i++) {
        unsigned limit = limits[i] ? limits[i] : 0xfffe;

        memset(data, 0, sizeof(data));
        packet((const uint8_t[12]){0x28, 0, 0, 0, 4, 0x57, 0, 0, 3}, limits[i]);
        ck_assert_uint_eq(take(data, sizeof(data), limit), sizeof(data));
        ck_assert_mem_eq(data, disk + 0x457 * 2048, sizeof(data));
        packet((const uint8_t[12]){0xa8, 0, 0, 0, 0, 7, 0, 0, 0, 1}, limits[i]);
        ck_assert_uint_eq(take(data, 2048, limit), 2048);
        ck_assert_mem_eq(data, disk + 7 * 2048, 2048);
        packet((const uint8_t[12]){0xbe, 0, 0, 0, 0, 9, 0, 0, 1, 0x10}, limits[i]);
        ck_assert_uint_eq(take(data, 2048, limit), 2048);
        ck_assert_mem_eq(data, disk + 9 * 2048, 2048);
    }
    packet((const uint8_t[12]){0x28, 0, 0, 0, 4, 0x57, 0, 0, 0},
           2048); /* nothing is not an error */
    expect_done();
    packet((const uint8_t[12]){0x28, 0, 0, 0, 4, 0xe1, 0, 0, 2}, 2048);
    expect_sense(0x52100);
    packet((const uint8_t[12]){0x28, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 1}, 2048);
    expect_sense(0x52100);
    packet((const uint8_t[12]){0xa8, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff}, 2048);
    expect_sense(0x52100);
    packet((const uint8_t[12]){0x2a, 0, 0, 0, 0, 1, 0, 0, 1}, 2048); /* WRITE */
    expect_sense(0x52000);
    ck_assert_mem_eq(disk, expected, sizeof(disk));
    out(1, 1); /* DMA is not there */
    out(7, 0xa0);
    ck_assert_uint_eq(in(7) & (DRQ | ERR), ERR);
}
END_TEST

START_TEST(cd_tells)
{
    uint8_t data[64];

    ata_init_cd(&ata, disk, sizeof(disk));
    packet((const uint8_t[12]){0}, 2048); /* TEST UNIT READY */
    expect_done();
    packet((const uint8_t[12]){0x25}, 2048);
    ck_assert_uint_eq(take(data, 8, 8), 8);
    ck_assert_mem_eq(
        data, ((const uint8_t[]){0, 0, (CD_SECTORS - 1) >> 8, (CD_SECTORS - 1) & 0xff, 0, 0, 8, 0}),
        8);
    packet((const uint8_t[12]){0x12, 0, 0, 0, 36}, 36);
    ck_assert_uint_eq(take(data, 36, 36), 36);
    ck_assert_uint_eq(data[0], 5);
    ck_assert_uint_eq(data[4], 36 - 5);
    packet((const uint8_t[12]){0x12, 0, 0, 0, 5}, 36); /* no more than asked for; an odd number */
    ck_assert_uint_eq(take(data, 5, 36), 5);
    packet((const uint8_t[12]){0x43, 2, 0, 0, 0, 0, 0, 0, 64}, 64); /* READ TOC, as times */
    ck_assert_uint_eq(take(data, 64, 64), 20);
    ck_assert_uint_eq(data[1], 18);
    ck_assert_uint_eq(data[6], 1);
    ck_assert_mem_eq(data + 9, ((const uint8_t[]){0, 2, 0}), 3); /* two seconds to sector 0 */
    ck_assert_uint_eq(data[14], 0xaa);
    ck_assert_uint_eq((data[17] * 60u + data[18]) * 75 + data[19], CD_SECTORS + 150);
    packet((const uint8_t[12]){0x43, 0, 0, 0, 0, 0, 0xaa, 0, 64}, 64); /* the lead-out alone */
    ck_assert_uint_eq(take(data, 64, 64), 12);
    ck_assert_uint_eq(data[10] << 8 | data[11], CD_SECTORS);
    packet((const uint8_t[12]){0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8}, 8);
    ck_assert_uint_eq(take(data, 8, 8), 8);
    ck_assert_uint_eq(data[2] & 0x87, 4);
    ck_assert_uint_eq(data[5], 2); /* there is a disc */
    packet((const uint8_t[12]){0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 64}, 64);
    ck_assert_uint_eq(take(data, 64, 64), 28);
    ck_assert_uint_eq(data[8], 0x2a);
    packet((const uint8_t[12]){0x5a, 0, 0x0e, 0, 0, 0, 0, 0, 64}, 64);
    expect_sense(0x52400);
}
END_TEST

START_TEST(no_drive)
{
    ata_init(&ata, NULL, 0);
    out(6, 0xe0);
    ck_assert_uint_eq(in(7), 0x7f); /* not busy, or who waits for that waits for long */
    ck_assert_uint_eq(ata_read(&ata, 0, 2), 0xffff);
    ck_assert_uint_eq(ata_read_control(&ata), 0x7f);
    out(7, 0xec);
    ck_assert(!ata_interrupt(&ata));
}
END_TEST

START_TEST(data_that_nobody_asked_for)
{
    ck_assert_uint_eq(ata_read(&ata, 0, 4), 0xffffffff);
    ata_write(&ata, 0, 4, 0);
    command(0x30, 0, 1);
    ck_assert_uint_eq(ata_read(&ata, 0, 2), 0xffff); /* the disk waits for data */
    command(0x20, 0, 1);
    ata_write(&ata, 0, 2, 0);
    expect_data(expected, 1, 1, 2);
    ck_assert_mem_eq(disk, expected, sizeof(disk));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("vmm_ata");
    TCase *tc = tcase_create("vmm_ata");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_test(tc, identifies_itself);
    tcase_add_test(tc, reads);
    tcase_add_test(tc, reads_by_cylinder_head_and_sector);
    tcase_add_test(tc, writes);
    tcase_add_test(tc, several_sectors_for_one_interrupt);
    tcase_add_test(tc, addresses_behind_the_end);
    tcase_add_test(tc, commands_that_it_does_not_have);
    tcase_add_test(tc, device_1_is_absent);
    tcase_add_test(tc, reset_leaves_the_signature);
    tcase_add_test(tc, interrupts_can_be_disabled);
    tcase_add_test(tc, smallest_disk);
    tcase_add_test(tc, cd_is_told_from_a_disk);
    tcase_add_test(tc, cd_reads);
    tcase_add_test(tc, cd_tells);
    tcase_add_test(tc, no_drive);
    tcase_add_test(tc, data_that_nobody_asked_for);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
