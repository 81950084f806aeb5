/* SPDX-License-Identifier: BSD-2-Clause */
/* fw_cfg: how a virtual machine tells its firmware, and kernels that look, what the machine is like. */
#ifndef VMM_FWCFG_H
#define VMM_FWCFG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FWCFG_SELECT 0x510 /* 16 bits, write only */
#define FWCFG_DATA   0x511 /* one byte after the other */
#define FWCFG_FILES  8

struct fwcfg_item {
    uint16_t key;
    const uint8_t *data;
    uint32_t bytes;
};

struct fwcfg {
    struct fwcfg_item item[FWCFG_FILES + 6];
    unsigned items, files;
    const struct fwcfg_item *selected; /* NULL: nothing is there */
    uint32_t offset;
    uint8_t id[4], cpus[2], memory[8];
    uint8_t directory[4 + 64 * FWCFG_FILES];
};

void fwcfg_init(struct fwcfg *fw, unsigned cpus, uint64_t memory_bytes);
/* Adds a file; the data stays the caller's. False: there are too many, or the name is too long. */
bool fwcfg_add_file(struct fwcfg *fw, const char *name, const void *data, size_t bytes);
void fwcfg_select(struct fwcfg *fw, uint16_t key);
/* The next byte of the selected item; 0 behind its end and where there is none. */
uint8_t fwcfg_read(struct fwcfg *fw);

#endif
