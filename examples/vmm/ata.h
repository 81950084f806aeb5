/* SPDX-License-Identifier: BSD-2-Clause */
/* An ATA disk in memory or a CD-ROM drive, the only drive of its channel, with programmed I/O. */
#ifndef VMM_ATA_H
#define VMM_ATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "atapi.h"

#define ATA_PORTS                                                                                  \
    0x1f0 /* data, error/features, count, three of the address, device, status/command */
#define ATA_CONTROL   0x3f6
#define ATA_PORTS_2   0x170 /* of the second channel */
#define ATA_CONTROL_2 0x376
#define ATA_SECTOR    512
#define ATA_MULTIPLE  16 /* sectors that READ and WRITE MULTIPLE may move at once */

struct ata {
    uint8_t *disk; /* NULL: there is no drive */
    uint64_t sectors;
    uint8_t error, status, device, control, multiple;
    uint8_t regs[2][5]; /* features, count and address as written last, and before */
    bool interrupt;

    /* The transfer that is going on. */
    uint8_t buffer[ATA_SECTOR * ATA_MULTIPLE];
    uint32_t at, bytes; /* within the buffer */
    uint64_t sector;    /* the next one on the disk */
    uint32_t left;      /* sectors that have not been through the buffer */
    uint32_t block;     /* sectors for each interrupt */
    bool writes;
    bool is_cd, takes_packet, sends_reply;
    struct atapi cd;
};

/* The disk's length is a number of whole sectors. */
void ata_init(struct ata *ata, uint8_t *disk, uint64_t bytes);
/* A CD-ROM drive with this disc in it. */
void ata_init_cd(struct ata *ata, uint8_t *disc, uint64_t bytes);
/* As at power on, with the same disk. */
void ata_reset(struct ata *ata);
/* Registers 0 to 7; register 0 takes 16 and 32 bits too. */
uint32_t ata_read(struct ata *ata, unsigned reg, unsigned size);
void ata_write(struct ata *ata, unsigned reg, unsigned size, uint32_t value);
uint8_t ata_read_control(const struct ata *ata);
void ata_write_control(struct ata *ata, uint8_t value);
/* The interrupt line. */
bool ata_interrupt(const struct ata *ata);

#endif
