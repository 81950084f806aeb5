/* SPDX-License-Identifier: BSD-2-Clause */
/* What a CD-ROM drive makes of a packet. */
#ifndef VMM_ATAPI_H
#define VMM_ATAPI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ATAPI_PACKET 12
#define ATAPI_SECTOR 2048

struct atapi {
    const uint8_t *disc;
    uint64_t sectors;
    uint32_t sense; /* why the last command failed: key, code and qualifier */
    uint8_t reply[ATAPI_SECTOR];
    /* The answer as far as it has not been taken. */
    const uint8_t *data;
    uint64_t left;
};

/* False: the command has failed, and `sense` says why. */
bool atapi_command(struct atapi *cd, const uint8_t packet[ATAPI_PACKET]);
/* The 512 bytes of IDENTIFY PACKET DEVICE. */
void atapi_identify(uint8_t words[512]);

#endif
