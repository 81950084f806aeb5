/* SPDX-License-Identifier: BSD-2-Clause */
/* What all loaders share: the map of guest memory, and what a PC's firmware leaves in it. */
#include "guest.h"

void *memcpy(void *restrict to, const void *restrict from, size_t bytes);

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

void guest_bios_data(uint8_t *low)
{
    /* push bp; mov bp, sp; or byte [bp + 6], 1; pop bp; iret */
    static const uint8_t no_bios[] = {0x55, 0x89, 0xe5, 0x80, 0x4e, 0x06, 0x01, 0x5d, 0xcf};
    enum { COM1 = 0x400, EBDA = 0x40e, EQUIPMENT = 0x410, MEMORY = 0x413, ONE_COM = 0x200 };

    put16(low + COM1, 0x3f8);
    put16(low + EBDA, GUEST_LOW_END >> 4);
    put16(low + EQUIPMENT, ONE_COM);
    put16(low + MEMORY, GUEST_LOW_END >> 10);
    low[GUEST_LOW_END] = (GUEST_HOLE - GUEST_LOW_END) >> 10;
    memcpy(low + GUEST_NO_BIOS, no_bios, sizeof(no_bios));
    for (unsigned vector = 0; vector < 256; vector++)
        put32(low + 4 * vector, (GUEST_NO_BIOS & 0xf0000) << 12 | (GUEST_NO_BIOS & 0xffff));
}

bool guest_is_low_ram(const struct guest_ram *ram, uint64_t address, uint64_t bytes)
{
    if (address < 0x100000)
        return address <= GUEST_LOW_END && bytes <= GUEST_LOW_END - address;
    return address <= ram->low_bytes && bytes <= ram->low_bytes - address;
}
