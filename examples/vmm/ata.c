/* SPDX-License-Identifier: BSD-2-Clause */
/* An ATA disk (ATA/ATAPI-6, "Command descriptions" and "PIO data-in/data-out command protocol"), or
 * a CD-ROM drive ("PACKET command protocol"). Every command is done at once: BSY is never seen. The
 * only drive of its channel, device 0: device 1's status reads as zero. Medium errors do not
 * happen; an address behind the end is an error. */
#include "ata.h"

void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memset(void *to, int value, size_t bytes);

enum {
    DATA,
    ERROR_FEATURES,
    COUNT,
    LBA_LOW,
    LBA_MID,
    LBA_HIGH,
    DEVICE,
    STATUS_COMMAND,

    STATUS_ERROR = 1,
    STATUS_DRQ = 8,
    STATUS_SEEK = 0x10,
    STATUS_READY = 0x40,
    ERROR_ABORTED = 4,
    ERROR_NOT_FOUND = 0x10,
    DEVICE_ONE = 0x10,
    DEVICE_LBA = 0x40,
    CONTROL_NO_INTERRUPT = 2,
    CONTROL_RESET = 4,
    CONTROL_HIGH_BYTE = 0x80,
    NOBODY = 0x7f, /* a resistor pulls DD7 down (ATA-6, "Signal conventions"): nobody is busy */
    NEW = 0,
    OLD = 1, /* of regs */
    REASON_COMMAND = 1,
    REASON_IN = 2, /* in the count register of a CD-ROM drive */
    CD_MID = 0x14,
    CD_HIGH = 0xeb, /* by which software knows it */
    FEATURE_DMA = 1,

    HEADS = 16,
    SECTORS_PER_TRACK = 63,
};

/* ---- Registers ---- */

static uint8_t *reg(struct ata *ata, unsigned which, unsigned index)
{
    return &ata->regs[which][index - 1];
}

static void finish(struct ata *ata, uint8_t error)
{
    ata->error = error;
    ata->status = STATUS_READY | STATUS_SEEK | (error ? STATUS_ERROR : 0);
    ata->interrupt = true;
    ata->left = 0;
    ata->bytes = ata->at = 0;
    ata->takes_packet = ata->sends_reply = false;
}

static void sign(struct ata *ata)
{
    memset(ata->regs, 0, sizeof(ata->regs));
    *reg(ata, NEW, COUNT) = 1;
    *reg(ata, NEW, LBA_LOW) = 1;
    if (ata->is_cd) {
        *reg(ata, NEW, LBA_MID) = CD_MID;
        *reg(ata, NEW, LBA_HIGH) = CD_HIGH;
    }
    ata->device = 0;
}

/* What software reset, hardware reset and EXECUTE DEVICE DIAGNOSTIC leave: the signature. */
static void reset(struct ata *ata)
{
    sign(ata);
    finish(ata, 0);
    if (ata->is_cd)
        ata->status = 0; /* ready for commands of the packet protocol only */
    ata->error = 1;      /* the diagnostic code: device 0 passed, there is no device 1 */
    ata->interrupt = false;
}

void ata_init(struct ata *ata, uint8_t *disk, uint64_t bytes)
{
    memset(ata, 0, sizeof(*ata));
    ata->disk = disk;
    ata->sectors = disk ? bytes / ATA_SECTOR : 0;
    reset(ata);
}

void ata_init_cd(struct ata *ata, uint8_t *disc, uint64_t bytes)
{
    memset(ata, 0, sizeof(*ata));
    ata->disk = disc;
    ata->is_cd = true;
    ata->cd.disc = disc;
    ata->cd.sectors = bytes / ATAPI_SECTOR;
    reset(ata);
}

void ata_reset(struct ata *ata)
{
    if (ata->is_cd)
        ata_init_cd(ata, ata->disk, ata->cd.sectors * ATAPI_SECTOR);
    else
        ata_init(ata, ata->disk, ata->sectors * ATA_SECTOR);
}

bool ata_interrupt(const struct ata *ata)
{
    return ata->interrupt && !(ata->control & CONTROL_NO_INTERRUPT);
}

/* ---- Transfers ---- */

/* The next block: from the disk, or room for what goes there. */
static void begin_block(struct ata *ata)
{
    uint32_t sectors = ata->left < ata->block ? ata->left : ata->block;

    ata->at = 0;
    ata->bytes = sectors * ATA_SECTOR;
    ata->status = STATUS_READY | STATUS_SEEK | STATUS_DRQ;
    if (!ata->writes) {
        memcpy(ata->buffer, ata->disk + ata->sector * ATA_SECTOR, ata->bytes);
        ata->sector += sectors;
        ata->left -= sectors;
        ata->interrupt = true;
    }
}

/* ---- Packets ---- */

static void end_packet(struct ata *ata)
{
    finish(ata, 0);
    *reg(ata, NEW, COUNT) = REASON_COMMAND | REASON_IN;
}

/* The next part of the reply, as long as the host takes at once: the byte count in the registers.
 */
static void begin_part(struct ata *ata)
{
    uint64_t bytes = ata->block < sizeof(ata->buffer) ? ata->block : sizeof(ata->buffer);

    if (bytes > ata->cd.left)
        bytes = ata->cd.left;
    memcpy(ata->buffer, ata->cd.data, bytes);
    ata->cd.data += bytes;
    ata->cd.left -= bytes;
    *reg(ata, NEW, COUNT) = REASON_IN;
    *reg(ata, NEW, LBA_MID) = (uint8_t)bytes;
    *reg(ata, NEW, LBA_HIGH) = (uint8_t)(bytes >> 8);
    ata->at = 0;
    ata->bytes = (uint32_t)(bytes + 1) & ~1u;
    ata->status = STATUS_READY | STATUS_DRQ;
    ata->writes = false;
    ata->sends_reply = true;
    ata->interrupt = true;
}

static void begin_packet(struct ata *ata)
{
    uint32_t limit = *reg(ata, NEW, LBA_MID) | (uint32_t)*reg(ata, NEW, LBA_HIGH) << 8;

    if (*reg(ata, NEW, ERROR_FEATURES) & FEATURE_DMA) {
        finish(ata, ERROR_ABORTED);
        return;
    }
    ata->block = limit & ~1u ? limit & ~1u : 0xfffe;
    ata->takes_packet = ata->writes = true;
    ata->sends_reply = false;
    *reg(ata, NEW, COUNT) = REASON_COMMAND;
    ata->at = 0;
    ata->bytes = ATAPI_PACKET;
    ata->error = 0;
    ata->status = STATUS_READY | STATUS_DRQ;
}

static void do_packet(struct ata *ata)
{
    ata->takes_packet = false;
    if (!atapi_command(&ata->cd, ata->buffer)) {
        finish(ata, (uint8_t)(ata->cd.sense >> 16 << 4 | ERROR_ABORTED)); /* the sense key */
        *reg(ata, NEW, COUNT) = REASON_COMMAND | REASON_IN;
    } else if (ata->cd.left) {
        begin_part(ata);
    } else {
        end_packet(ata);
    }
}

static void end_block(struct ata *ata)
{
    if (ata->takes_packet) {
        do_packet(ata);
        return;
    }
    if (ata->sends_reply) {
        if (ata->cd.left)
            begin_part(ata);
        else
            end_packet(ata);
        return;
    }
    if (ata->writes) {
        uint32_t sectors = ata->bytes / ATA_SECTOR;
        memcpy(ata->disk + ata->sector * ATA_SECTOR, ata->buffer, ata->bytes);
        ata->sector += sectors;
        ata->left -= sectors;
        ata->interrupt = true;
    }
    if (ata->left) {
        begin_block(ata);
        return;
    }
    ata->status = STATUS_READY | STATUS_SEEK;
    ata->bytes = ata->at = 0;
}

/* Software that has asked for no data gets all ones. */
static uint32_t read_data(struct ata *ata, unsigned size)
{
    uint32_t value = 0xffffffff;

    if (!(ata->status & STATUS_DRQ) || ata->writes || ata->bytes - ata->at < size)
        return value >> (32 - 8 * size);
    value = 0;
    memcpy(&value, ata->buffer + ata->at, size);
    ata->at += size;
    if (ata->at == ata->bytes)
        end_block(ata);
    return value;
}

static void write_data(struct ata *ata, unsigned size, uint32_t value)
{
    if (!(ata->status & STATUS_DRQ) || !ata->writes || ata->bytes - ata->at < size)
        return;
    memcpy(ata->buffer + ata->at, &value, size);
    ata->at += size;
    if (ata->at == ata->bytes)
        end_block(ata);
}

/* ---- Addresses ---- */

/* Where and how much the registers say; false: behind the disk's end. */
static bool locate(struct ata *ata, bool wide)
{
    const uint8_t *n = ata->regs[NEW], *o = ata->regs[OLD];
    uint64_t low = n[LBA_LOW - 1], mid = n[LBA_MID - 1], high = n[LBA_HIGH - 1];
    uint32_t count = n[COUNT - 1];
    uint64_t head = ata->device & 15u;

    if (wide) {
        count |= (uint32_t)o[COUNT - 1] << 8;
        ata->sector = low | mid << 8 | high << 16 | (uint64_t)o[LBA_LOW - 1] << 24 |
                      (uint64_t)o[LBA_MID - 1] << 32 | (uint64_t)o[LBA_HIGH - 1] << 40;
    } else if (ata->device & DEVICE_LBA) {
        ata->sector = low | mid << 8 | high << 16 | head << 24;
    } else {
        if (low == 0 || low > SECTORS_PER_TRACK)
            return false;
        ata->sector = ((mid | high << 8) * HEADS + head) * SECTORS_PER_TRACK + low - 1;
    }
    ata->left = count ? count : wide ? 0x10000 : 0x100;
    return ata->sector <= ata->sectors && ata->left <= ata->sectors - ata->sector;
}

static void begin(struct ata *ata, bool wide, bool writes, uint32_t block)
{
    if (!block) {
        finish(ata, ERROR_ABORTED);
        return;
    }
    if (!locate(ata, wide)) {
        finish(ata, ERROR_NOT_FOUND);
        return;
    }
    ata->writes = writes;
    ata->block = block;
    ata->error = 0;
    begin_block(ata);
}

/* ---- Commands ---- */

static void put16(uint8_t *words, unsigned index, uint64_t value)
{
    words[2 * index] = (uint8_t)value;
    words[2 * index + 1] = (uint8_t)(value >> 8);
}

/* Strings have their characters swapped in each word, and are padded with spaces. */
static void put_string(uint8_t *words, unsigned index, unsigned bytes, const char *string)
{
    for (unsigned i = 0; i < bytes; i++)
        words[2 * index + (i ^ 1)] = (uint8_t)(*string ? *string++ : ' ');
}

static void identify(struct ata *ata)
{
    uint8_t *w = ata->buffer;
    uint64_t cylinders = ata->sectors / (HEADS * SECTORS_PER_TRACK);
    uint64_t low = ata->sectors < 0xfffffff ? ata->sectors : 0xfffffff;

    if (cylinders > 16383)
        cylinders = 16383;
    if (!cylinders)
        cylinders = 1; /* or a BIOS finds no sector to boot from on a disk of a few sectors */
    memset(w, 0, ATA_SECTOR);
    put16(w, 0, 0x0040); /* a fixed disk */
    put16(w, 1, cylinders);
    put16(w, 3, HEADS);
    put16(w, 6, SECTORS_PER_TRACK);
    put_string(w, 10, 20, "1");
    put_string(w, 23, 8, "1.0");
    put_string(w, 27, 40, "VIRTX DISK");
    put16(w, 47, 0x8000 | ATA_MULTIPLE);
    put16(w, 48, 1);      /* 32-bit access to the data register */
    put16(w, 49, 0x0200); /* LBA */
    put16(w, 53, 1);      /* words 54 to 58 are valid */
    put16(w, 54, cylinders);
    put16(w, 55, HEADS);
    put16(w, 56, SECTORS_PER_TRACK);
    put16(w, 57, cylinders * HEADS * SECTORS_PER_TRACK);
    put16(w, 58, cylinders * HEADS * SECTORS_PER_TRACK >> 16);
    put16(w, 59, ata->multiple ? 0x100 | ata->multiple : 0);
    put16(w, 60, low);
    put16(w, 61, low >> 16);
    put16(w, 80, 0x7e);   /* ATA-1 to ATA-6 */
    put16(w, 83, 0x7400); /* 48-bit addresses, both cache flushes */
    put16(w, 84, 0x4000);
    put16(w, 86, 0x3400);
    put16(w, 87, 0x4000);
    for (unsigned i = 0; i < 4; i++)
        put16(w, 100 + i, ata->sectors >> 16 * i);
}

/* The sector that has just been made goes to the host. */
static void send_sector(struct ata *ata)
{
    ata->writes = ata->sends_reply = false;
    ata->left = 0;
    ata->at = 0;
    ata->bytes = ATA_SECTOR;
    ata->error = 0;
    ata->status = STATUS_READY | STATUS_SEEK | STATUS_DRQ;
    ata->interrupt = true;
}

static void set_multiple(struct ata *ata)
{
    uint8_t count = ata->regs[NEW][COUNT - 1];

    if (count > ATA_MULTIPLE || count & (count - 1)) {
        finish(ata, ERROR_ABORTED);
        return;
    }
    ata->multiple = count;
    finish(ata, 0);
}

/* The last address, in the registers. */
static void read_native_max(struct ata *ata)
{
    uint64_t last = ata->sectors < 0xfffffff ? ata->sectors - 1 : 0xffffffe;

    for (unsigned i = 0; i < 3; i++)
        ata->regs[NEW][LBA_LOW - 1 + i] = (uint8_t)(last >> 8 * i);
    ata->device = (uint8_t)((ata->device & 0xf0) | (last >> 24 & 15));
    finish(ata, 0);
}

/* What a CD-ROM drive knows besides packets. */
static void do_cd_command(struct ata *ata, uint8_t command)
{
    switch (command) {
    case 0x08: /* DEVICE RESET */
        finish(ata, 0);
        sign(ata);
        ata->status = 0;
        ata->interrupt = false;
        break;
    case 0x90:
        reset(ata);
        ata->interrupt = true;
        break;
    case 0xa0:
        begin_packet(ata);
        break;
    case 0xa1:
        atapi_identify(ata->buffer);
        send_sector(ata);
        break;
    case 0xe0: /* power modes */
    case 0xe1:
    case 0xe2:
    case 0xe3:
    case 0xef: /* SET FEATURES */
        finish(ata, 0);
        break;
    case 0xe5: /* CHECK POWER MODE: active */
        *reg(ata, NEW, COUNT) = 0xff;
        finish(ata, 0);
        break;
    case 0x20: /* READ SECTORS and IDENTIFY DEVICE fail with the signature */
    case 0xec:
        sign(ata);
        finish(ata, ERROR_ABORTED);
        break;
    default:
        finish(ata, ERROR_ABORTED);
    }
}

static void do_command(struct ata *ata, uint8_t command)
{
    switch (command) {
    case 0x20: /* READ SECTORS, with and without retries */
    case 0x21:
        begin(ata, false, false, 1);
        break;
    case 0x24:
        begin(ata, true, false, 1);
        break;
    case 0x29:
        begin(ata, true, false, ata->multiple);
        break;
    case 0xc4:
        begin(ata, false, false, ata->multiple);
        break;
    case 0x30: /* WRITE SECTORS */
    case 0x31:
        begin(ata, false, true, 1);
        break;
    case 0x34:
        begin(ata, true, true, 1);
        break;
    case 0x39:
        begin(ata, true, true, ata->multiple);
        break;
    case 0xc5:
        begin(ata, false, true, ata->multiple);
        break;
    case 0x40: /* READ VERIFY SECTORS */
    case 0x41:
    case 0x42:
        finish(ata, locate(ata, command == 0x42) ? 0 : ERROR_NOT_FOUND);
        break;
    case 0x90: /* EXECUTE DEVICE DIAGNOSTIC */
        reset(ata);
        ata->interrupt = true;
        break;
    case 0xc6:
        set_multiple(ata);
        break;
    case 0xec:
        identify(ata);
        send_sector(ata);
        break;
    case 0xf8:
        read_native_max(ata);
        break;
    case 0xe5: /* CHECK POWER MODE: active */
        ata->regs[NEW][COUNT - 1] = 0xff;
        finish(ata, 0);
        break;
    case 0x10: /* RECALIBRATE */
    case 0x70: /* SEEK */
    case 0x91: /* INITIALIZE DEVICE PARAMETERS; the translation stays */
    case 0xe0: /* power modes and cache flushes: nothing to do */
    case 0xe1:
    case 0xe2:
    case 0xe3:
    case 0xe7:
    case 0xea:
    case 0xef: /* SET FEATURES */
        finish(ata, 0);
        break;
    default: /* 0xa1, IDENTIFY PACKET DEVICE, tells a disk from a CD drive by this */
        finish(ata, ERROR_ABORTED);
    }
}

/* ---- Ports ---- */

static bool absent(const struct ata *ata)
{
    return ata->device & DEVICE_ONE;
}

uint32_t ata_read(struct ata *ata, unsigned index, unsigned size)
{
    if (!ata->disk)
        return index == STATUS_COMMAND ? NOBODY : 0xffffffffu >> (32 - 8 * size);
    switch (index) {
    case DATA:
        return read_data(ata, size);
    case ERROR_FEATURES:
        return ata->error;
    case DEVICE:
        return ata->device | 0xa0;
    case STATUS_COMMAND:
        if (absent(ata))
            return 0;
        ata->interrupt = false;
        return ata->status;
    default:
        return *reg(ata, ata->control & CONTROL_HIGH_BYTE ? OLD : NEW, index);
    }
}

void ata_write(struct ata *ata, unsigned index, unsigned size, uint32_t value)
{
    if (!ata->disk)
        return;
    ata->control &= (uint8_t)~CONTROL_HIGH_BYTE; /* any write to the registers clears it */
    switch (index) {
    case DATA:
        write_data(ata, size, value);
        break;
    case DEVICE:
        ata->device = (uint8_t)value;
        break;
    case STATUS_COMMAND:
        /* Both devices obey the diagnostic command; device 0 speaks for the pair. */
        if (!absent(ata) || value == 0x90) {
            ata->interrupt = false;
            if (ata->is_cd)
                do_cd_command(ata, (uint8_t)value);
            else
                do_command(ata, (uint8_t)value);
        }
        break;
    default:
        *reg(ata, OLD, index) = *reg(ata, NEW, index);
        *reg(ata, NEW, index) = (uint8_t)value;
    }
}

uint8_t ata_read_control(const struct ata *ata)
{
    if (!ata->disk)
        return NOBODY;
    return absent(ata) ? 0 : ata->status; /* the alternate status acknowledges nothing */
}

void ata_write_control(struct ata *ata, uint8_t value)
{
    bool end_of_reset = ata->control & CONTROL_RESET && !(value & CONTROL_RESET);

    if (!ata->disk)
        return;
    ata->control = value;
    if (end_of_reset)
        reset(ata);
}
