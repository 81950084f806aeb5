/* SPDX-License-Identifier: BSD-2-Clause */
/* A guest that starts as a PC does: with a firmware in ROM at the reset vector. */
#ifndef VMM_FIRMWARE_H
#define VMM_FIRMWARE_H

#include <virtx/virtx.h>
#include "acpi_files.h"
#include "fwcfg.h"
#include "guest.h"
#include "pci.h"

#define FIRMWARE_SEGMENTS 13

struct firmware {
    struct virtx_vm *vm;
    uint8_t *low; /* guest memory; [0xc0000, 1 MiB) of it is the RAM behind the ROM */
    uint8_t *rom; /* page-aligned */
    uint64_t rom_bytes;
    struct virtx_memslot *segment[FIRMWARE_SEGMENTS];
    uint8_t rights[FIRMWARE_SEGMENTS];
    uint8_t map[2 * 20]; /* a file of fw_cfg, as are these */
    struct acpi_files acpi;
};

/* Puts the ROM under 4 GiB and its end under 1 MiB. `rom` is page-aligned and stays the caller's. */
enum virtx_status firmware_init(struct firmware *fw, struct virtx_vm *vm,
                                const struct guest_ram *ram, uint8_t *rom, uint64_t rom_bytes);
/* Obeys the host bridge's registers that say what is ROM and what is RAM under 1 MiB. */
enum virtx_status firmware_map(struct firmware *fw, const uint8_t pam[PCI_PAM_BYTES]);
/* Says in fw_cfg what the firmware wants to know. */
bool firmware_describe(struct firmware *fw, const struct guest_ram *ram, unsigned cpus,
                       struct fwcfg *cfg);

#endif
