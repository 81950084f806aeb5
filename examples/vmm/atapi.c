/* SPDX-License-Identifier: BSD-2-Clause */
/* The packet commands of a CD-ROM drive (ATA/ATAPI-6, "PACKET"; SCSI Multi-Media Commands 4,
 * "Commands"): a disc with one data track, which is always there. */
#include "atapi.h"

void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memset(void *to, int value, size_t bytes);

enum {
    TEST_UNIT_READY = 0x00,
    REQUEST_SENSE = 0x03,
    INQUIRY = 0x12,
    START_STOP = 0x1b,
    PREVENT_REMOVAL = 0x1e,
    READ_CAPACITY = 0x25,
    READ_10 = 0x28,
    SEEK_10 = 0x2b,
    READ_TOC = 0x43,
    GET_CONFIGURATION = 0x46,
    GET_EVENTS = 0x4a,
    READ_DISC = 0x51,
    MODE_SENSE_10 = 0x5a,
    READ_12 = 0xa8,
    SET_SPEED = 0xbb,
    READ_CD = 0xbe,

    UNKNOWN_COMMAND = 0x52000, /* sense key 5, illegal request */
    OUT_OF_RANGE = 0x52100,
    INVALID_FIELD = 0x52400,

    LEAD_OUT = 0xaa,
    CAPABILITIES = 0x2a, /* mode page */
};

static uint32_t be16(const uint8_t *p)
{
    return (uint32_t)p[0] << 8 | p[1];
}

static uint32_t be32(const uint8_t *p)
{
    return be16(p) << 16 | be16(p + 2);
}

static void put_be16(uint8_t *p, uint32_t value)
{
    p[0] = (uint8_t)(value >> 8);
    p[1] = (uint8_t)value;
}

static void put_be32(uint8_t *p, uint32_t value)
{
    put_be16(p, value >> 16);
    put_be16(p + 2, value);
}

static bool fail(struct atapi *cd, uint32_t sense)
{
    cd->sense = sense;
    cd->left = 0;
    return false;
}

/* `bytes` of the reply, but no more than the packet allows. */
static bool answer(struct atapi *cd, uint32_t bytes, uint32_t allowed)
{
    cd->data = cd->reply;
    cd->left = bytes < allowed ? bytes : allowed;
    return true;
}

static bool read(struct atapi *cd, uint32_t lba, uint32_t count)
{
    if (lba > cd->sectors || count > cd->sectors - lba)
        return fail(cd, OUT_OF_RANGE);
    cd->data = cd->disc + (uint64_t)lba * ATAPI_SECTOR;
    cd->left = (uint64_t)count * ATAPI_SECTOR;
    return true;
}

/* Only the user data of each sector, which is all that an image has. */
static bool read_cd(struct atapi *cd, const uint8_t *packet)
{
    uint32_t count = (uint32_t)packet[6] << 16 | be16(packet + 7);

    if ((packet[9] & 0xf8) != 0x10 && (packet[9] & 0xf8) != 0)
        return fail(cd, INVALID_FIELD);
    return read(cd, be32(packet + 2), packet[9] & 0xf8 ? count : 0);
}

static bool request_sense(struct atapi *cd, const uint8_t *packet)
{
    memset(cd->reply, 0, 18);
    cd->reply[0] = 0x70; /* of the last command */
    cd->reply[2] = (uint8_t)(cd->sense >> 16);
    cd->reply[7] = 10;
    cd->reply[12] = (uint8_t)(cd->sense >> 8);
    cd->reply[13] = (uint8_t)cd->sense;
    cd->sense = 0;
    return answer(cd, 18, packet[4]);
}

static bool inquiry(struct atapi *cd, const uint8_t *packet)
{
    static const uint8_t data[36] = "\x05\x80\x00\x21\x1f\0\0\0VIRTX   CD-ROM          1.0 ";

    if (packet[1] & 1)
        return fail(cd, INVALID_FIELD); /* vital product data */
    memcpy(cd->reply, data, sizeof(data));
    return answer(cd, sizeof(data), packet[4]);
}

/* An address as it stands in the table: number of the sector, or minute, second and frame. */
static void put_address(uint8_t *p, uint32_t lba, bool msf)
{
    uint32_t frames = lba + 150;

    if (msf)
        lba = frames / 75 / 60 << 16 | frames / 75 % 60 << 8 | frames % 75;
    put_be32(p, lba);
}

static uint8_t *put_track(uint8_t *p, uint8_t track, uint32_t lba, bool msf)
{
    p[1] = 0x14; /* a data track */
    p[2] = track;
    put_address(p + 4, lba, msf);
    return p + 8;
}

static bool read_toc(struct atapi *cd, const uint8_t *packet)
{
    bool msf = packet[1] & 2;
    unsigned format = packet[2] & 15 ? packet[2] & 15 : packet[9] >> 6;
    uint8_t *end = cd->reply + 4;

    memset(cd->reply, 0, 32);
    cd->reply[2] = cd->reply[3] = 1; /* first and last track, or session */
    if (format > 1 || (format == 0 && packet[6] > 1 && packet[6] != LEAD_OUT))
        return fail(cd, INVALID_FIELD);
    if (format == 1 || packet[6] <= 1)
        end = put_track(end, 1, 0, msf);
    if (format == 0)
        end = put_track(end, LEAD_OUT, (uint32_t)cd->sectors, msf);
    put_be16(cd->reply, (uint32_t)(end - cd->reply) - 2);
    return answer(cd, (uint32_t)(end - cd->reply), be16(packet + 7));
}

/* The profile is a CD-ROM's; no features are told of. */
static bool get_configuration(struct atapi *cd, const uint8_t *packet)
{
    memset(cd->reply, 0, 8);
    cd->reply[3] = 4;
    cd->reply[7] = 8;
    return answer(cd, 8, be16(packet + 7));
}

static bool get_events(struct atapi *cd, const uint8_t *packet)
{
    enum { POLLED = 1, MEDIA = 4 };

    if (!(packet[1] & POLLED))
        return fail(cd, INVALID_FIELD);
    memset(cd->reply, 0, 8);
    cd->reply[3] = 1 << MEDIA;
    if (!(packet[4] & 1 << MEDIA)) {
        cd->reply[1] = 2;
        cd->reply[2] = 0x80; /* no event of these */
        return answer(cd, 4, be16(packet + 7));
    }
    cd->reply[1] = 6;
    cd->reply[2] = MEDIA;
    cd->reply[5] = 2; /* nothing new: the disc is there */
    return answer(cd, 8, be16(packet + 7));
}

static bool mode_sense(struct atapi *cd, const uint8_t *packet)
{
    enum { HEADER = 8, PAGE = 20 };
    unsigned page = packet[2] & 0x3f;

    if ((page != CAPABILITIES && page != 0x3f) || packet[2] >> 6 == 3)
        return fail(cd, INVALID_FIELD);
    memset(cd->reply, 0, HEADER + PAGE);
    put_be16(cd->reply, HEADER + PAGE - 2);
    cd->reply[HEADER] = CAPABILITIES;
    cd->reply[HEADER + 1] = PAGE - 2;
    cd->reply[HEADER + 6] = 0x29;           /* a tray that may be locked and ejects */
    put_be16(cd->reply + HEADER + 8, 706);  /* KB/s: four times a CD's speed … */
    put_be16(cd->reply + HEADER + 12, 512); /* KiB of buffer */
    put_be16(cd->reply + HEADER + 14, 706); /* … which is also the present one */
    return answer(cd, HEADER + PAGE, be16(packet + 7));
}

bool atapi_command(struct atapi *cd, const uint8_t packet[ATAPI_PACKET])
{
    cd->left = 0;
    if (packet[0] != REQUEST_SENSE)
        cd->sense = 0;
    switch (packet[0]) {
    case TEST_UNIT_READY:
    case START_STOP:
    case PREVENT_REMOVAL:
    case SET_SPEED:
        return true;
    case SEEK_10:
        return be32(packet + 2) < cd->sectors || fail(cd, OUT_OF_RANGE);
    case REQUEST_SENSE:
        return request_sense(cd, packet);
    case INQUIRY:
        return inquiry(cd, packet);
    case READ_CAPACITY:
        put_be32(cd->reply, (uint32_t)cd->sectors - 1);
        put_be32(cd->reply + 4, ATAPI_SECTOR);
        return answer(cd, 8, 8);
    case READ_10:
        return read(cd, be32(packet + 2), be16(packet + 7));
    case READ_12:
        return read(cd, be32(packet + 2), be32(packet + 6));
    case READ_CD:
        return read_cd(cd, packet);
    case READ_TOC:
        return read_toc(cd, packet);
    case GET_CONFIGURATION:
        return get_configuration(cd, packet);
    case GET_EVENTS:
        return get_events(cd, packet);
    case MODE_SENSE_10:
        return mode_sense(cd, packet);
    default: /* READ DISC INFORMATION and all that writes */
        return fail(cd, UNKNOWN_COMMAND);
    }
}

static void put_word(uint8_t *words, unsigned index, unsigned value)
{
    words[2 * index] = (uint8_t)value;
    words[2 * index + 1] = (uint8_t)(value >> 8);
}

static void put_string(uint8_t *words, unsigned index, unsigned bytes, const char *string)
{
    for (unsigned i = 0; i < bytes; i++)
        words[2 * index + (i ^ 1)] = (uint8_t)(*string ? *string++ : ' ');
}

void atapi_identify(uint8_t words[512])
{
    memset(words, 0, 512);
    put_word(words, 0,
             0x85c0); /* packets of 12 bytes, for which it asks at once; CD-ROM; removable */
    put_string(words, 10, 20, "2");
    put_string(words, 23, 8, "1.0");
    put_string(words, 27, 40, "VIRTX CD-ROM");
    put_word(words, 48, 1);      /* 32-bit access to the data register */
    put_word(words, 49, 0x0200); /* LBA; no DMA */
    put_word(words, 80, 0x7e);   /* ATA-1 to ATA-6 */
    put_word(words, 82, 0x0210); /* PACKET, DEVICE RESET */
    put_word(words, 83, 0x4000);
    put_word(words, 84, 0x4000);
    put_word(words, 85, 0x0210);
    put_word(words, 87, 0x4000);
}
