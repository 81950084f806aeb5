/* SPDX-License-Identifier: BSD-2-Clause */
/* fw_cfg by its port interface (QEMU documentation, "QEMU Firmware Configuration (fw_cfg) Device"):
 * without DMA, and without writing. */
#include "fwcfg.h"
#include "guest.h"

void *memcpy(void *restrict to, const void *restrict from, size_t bytes);

enum { SIGNATURE = 0, ID = 1, RAM_SIZE = 3, CPUS = 5, MAX_CPUS = 0x0f, DIRECTORY = 0x19, FIRST_FILE = 0x20,
       NAME_BYTES = 56 };

static void add(struct fwcfg *fw, uint16_t key, const void *data, uint32_t bytes)
{
    fw->item[fw->items++] = (struct fwcfg_item){key, data, bytes};
}

void fwcfg_init(struct fwcfg *fw, unsigned cpus, uint64_t memory_bytes)
{
    *fw = (struct fwcfg){.id = {1}, .cpus = {(uint8_t)cpus, (uint8_t)(cpus >> 8)}};
    add(fw, SIGNATURE, "QEMU", 4);
    add(fw, ID, fw->id, sizeof(fw->id));
    put64(fw->memory, memory_bytes);
    add(fw, RAM_SIZE, fw->memory, sizeof(fw->memory));
    add(fw, CPUS, fw->cpus, sizeof(fw->cpus));
    add(fw, MAX_CPUS, fw->cpus, sizeof(fw->cpus));
    add(fw, DIRECTORY, fw->directory, 4);
}

/* The directory is big-endian. */
static void put_be(uint8_t *p, unsigned bytes, size_t value)
{
    for (unsigned i = 0; i < bytes; i++)
        p[i] = (uint8_t)(value >> 8 * (bytes - 1 - i));
}

bool fwcfg_add_file(struct fwcfg *fw, const char *name, const void *data, size_t bytes)
{
    uint8_t *entry = fw->directory + 4 + 64 * fw->files;
    uint16_t key = (uint16_t)(FIRST_FILE + fw->files);
    size_t length = guest_strlen(name);

    if (fw->files == FWCFG_FILES || length >= NAME_BYTES || bytes > UINT32_MAX)
        return false;
    put_be(entry, 4, bytes);
    put_be(entry + 4, 2, key);
    memcpy(entry + 8, name, length + 1);
    put_be(fw->directory, 4, ++fw->files);
    for (unsigned i = 0; i < fw->items; i++)
        if (fw->item[i].key == DIRECTORY)
            fw->item[i].bytes = 4 + 64 * fw->files;
    add(fw, key, data, (uint32_t)bytes);
    return true;
}

void fwcfg_select(struct fwcfg *fw, uint16_t key)
{
    fw->selected = NULL;
    fw->offset = 0;
    for (unsigned i = 0; i < fw->items; i++)
        if (fw->item[i].key == key)
            fw->selected = &fw->item[i];
}

uint8_t fwcfg_read(struct fwcfg *fw)
{
    if (!fw->selected || fw->offset >= fw->selected->bytes)
        return 0;
    return fw->selected->data[fw->offset++];
}
