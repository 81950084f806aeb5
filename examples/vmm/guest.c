/* SPDX-License-Identifier: BSD-2-Clause */
/* What all loaders share: the map of guest memory. */
#include "guest.h"

size_t guest_strlen(const char *string)
{
    size_t length = 0;
    while (string[length])
        length++;
    return length;
}

unsigned guest_map(const struct guest_ram *ram, struct guest_range ranges[GUEST_RANGES])
{
    unsigned count = 0;

    ranges[count++] = (struct guest_range){0, GUEST_LOW_END, 1};
    ranges[count++] = (struct guest_range){GUEST_LOW_END, GUEST_HOLE - GUEST_LOW_END, 2};
    ranges[count++] = (struct guest_range){GUEST_FIRMWARE, 0x100000 - GUEST_FIRMWARE, 2};
    ranges[count++] = (struct guest_range){0x100000, ram->low_bytes - 0x100000, 1};
    if (ram->high_bytes)
        ranges[count++] = (struct guest_range){GUEST_HIGH, ram->high_bytes, 1};
    return count;
}

bool guest_is_low_ram(const struct guest_ram *ram, uint64_t address, uint64_t bytes)
{
    if (address < 0x100000)
        return address <= GUEST_LOW_END && bytes <= GUEST_LOW_END - address;
    return address <= ram->low_bytes && bytes <= ram->low_bytes - address;
}
