/* SPDX-License-Identifier: BSD-2-Clause */
/* ELF kernels of both widths (System V ABI, "Object Files"), for all loaders. */
#ifndef VMM_ELF_H
#define VMM_ELF_H

#include "guest.h"

bool elf_is(const struct guest_file *file);
/* Of 64 bits? Only for a file that elf_load() takes. */
bool elf_is_wide(const struct guest_file *file);
/* Puts the segments at their physical addresses; *entry is physical, too. NULL, or why not. */
const char *elf_load(const struct guest_ram *ram, const struct guest_file *file, uint64_t *entry,
                     struct guest_extent *extent);
/* The number that a note of 4 or 8 bytes has; false: there is no such note. */
bool elf_note(const struct guest_file *file, const char *name, uint32_t type, uint64_t *value);

#endif
