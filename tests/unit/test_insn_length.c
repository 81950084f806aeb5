/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Instruction lengths and validity, compared with Zydis for every opcode and for random bytes.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <Zydis/Zydis.h>

#include "insn/insn.h"

static ZydisDecoder oracle[4];

static uint64_t seed;

static uint64_t random_64(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static void open_oracle(void)
{
    static const ZydisMachineMode modes[4] = {
        ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_MACHINE_MODE_LONG_64,
        ZYDIS_MACHINE_MODE_LONG_64};
    static const ZydisStackWidth widths[4] = {ZYDIS_STACK_WIDTH_16, ZYDIS_STACK_WIDTH_32,
                                              ZYDIS_STACK_WIDTH_64, ZYDIS_STACK_WIDTH_64};

    for (int i = 0; i < 4; i++) {
        ZydisDecoderInit(&oracle[i], modes[i], widths[i]);
        /* Without MPX and CLDEMOTE their opcodes are the NOPs that every processor has. */
        ZydisDecoderEnableMode(&oracle[i], ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
        ZydisDecoderEnableMode(&oracle[i], ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
    }
    ZydisDecoderEnableMode(&oracle[INSN_64_AMD], ZYDIS_DECODER_MODE_AMD_BRANCHES, ZYAN_TRUE);
    seed = 0x9e3779b97f4a7c15;
}

/* Instructions that Zydis knows and no processor with VMX or SVM has. */
static bool foreign(const ZydisDecodedInstruction *known)
{
    /* Xeon Phi (Knights Corner): MVEX, and branches on mask registers in VEX. */
    if (known->encoding == ZYDIS_INSTRUCTION_ENCODING_MVEX ||
        known->mnemonic == ZYDIS_MNEMONIC_JKZD || known->mnemonic == ZYDIS_MNEMONIC_JKNZD)
        return true;
    /* VIA PadLock. */
    return known->opcode_map == ZYDIS_OPCODE_MAP_0F &&
           (known->opcode == 0xa6 || known->opcode == 0xa7);
}

/* Encodings that we find a length for although Zydis rejects them. */
static bool not_judged(const struct insn *insn)
{
    /* Which VEX, EVEX and XOP opcodes exist with which W, L and vvvv is not in our tables: the
       result says only that the instruction is not modelled. */
    if (insn->encoding != INSN_LEGACY)
        return true;
    /* HRESET is F3 0F 3A F0 C0; the other register forms are not told apart. */
    return insn->map == INSN_MAP_0F3A && insn->opcode == 0xf0;
}

static void mismatch(const uint8_t *bytes, int mode, const char *what, unsigned theirs,
                     unsigned ours)
{
    char text[64];

    for (int i = 0; i < 15; i++)
        snprintf(text + i * 3, 4, "%02x ", bytes[i]);
    ck_abort_msg("mode %d, %s: %s (Zydis %u, ours %u)", mode, text, what, theirs, ours);
}

/* With fewer than 15 bytes at hand the fast decoder is not tried: both must find the same. */
static void compare_general(const struct insn *fast, const uint8_t *bytes, int mode)
{
    struct insn general;

    if (insn_decode(&general, bytes, 14, (enum insn_mode)mode) != INSN_OK ||
        memcmp(&general, fast, sizeof(general)))
        mismatch(bytes, mode, "fast and general decoder differ", general.length, fast->length);
}

static void compare(int mode, const uint8_t *bytes)
{
    ZydisDecoderContext context;
    ZydisDecodedInstruction known;
    ZyanStatus status = ZydisDecoderDecodeInstruction(&oracle[mode], &context, bytes, 15, &known);
    struct insn insn;
    enum insn_result result = insn_decode(&insn, bytes, 15, (enum insn_mode)mode);
    bool decoded = result == INSN_OK || result == INSN_UNKNOWN;

    if (ZYAN_SUCCESS(status)) {
        if (foreign(&known))
            return;
        if (!decoded)
            mismatch(bytes, mode, "rejected", known.length, result);
        if (insn.length != known.length)
            mismatch(bytes, mode, "length differs", known.length, insn.length);
        if (result == INSN_OK && insn.length < 15)
            compare_general(&insn, bytes, mode);
        if (result == INSN_OK && insn.length < 15 &&
            insn_decode(&insn, bytes, insn.length - 1u, (enum insn_mode)mode) != INSN_MORE)
            mismatch(bytes, mode, "decoded without its last byte", known.length, insn.length);
    } else if (decoded && !not_judged(&insn)) {
        mismatch(bytes, mode, "accepted", 0, insn.length);
    } else if (status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG && !decoded) {
        if (result != INSN_TOO_LONG && result != INSN_INVALID)
            mismatch(bytes, mode, "not too long", 0, result);
    }
}

/* Every opcode of the four maps with every ModRM, under a sample of prefixes. */
START_TEST(every_opcode)
{
    static const char *const prefixes[] = {
        "",         "\x66",     "\x67",     "\xf2",     "\xf3", "\xf0",     "\x2e",
        "\x64",     "\x48",     "\x4f",     "\x66\x48", "\x41", "\x66\xf2", "\xf3\x66",
        "\xf3\x48", "\x48\x66", "\x64\x3e", "\x66\x67", "\x44", "\xf0\x48"};
    const char *prefix = prefixes[_i];
    size_t length = strlen(prefix);

    open_oracle();
    for (int mode = 0; mode < 4; mode++) {
        for (unsigned code = 0; code < 4 * 65536; code++) {
            uint8_t bytes[32];
            size_t at = length;

            for (int i = 0; i < 2; i++) {
                uint64_t word = random_64();

                memcpy(bytes + i * 8, &word, 8);
            }
            memcpy(bytes, prefix, length);
            if (code >> 16 > 0)
                bytes[at++] = 0x0f;
            if (code >> 16 > 1)
                bytes[at++] = code >> 16 == 2 ? 0x38 : 0x3a;
            bytes[at++] = (uint8_t)(code >> 8);
            bytes[at] = (uint8_t)code;
            compare(mode, bytes);
        }
    }
}
END_TEST

/* Random bytes; two thirds begin with VEX, EVEX or XOP. */
START_TEST(random_bytes)
{
    static const uint8_t leads[] = {0xc4, 0xc5, 0x62, 0x8f};

    open_oracle();
    seed += (uint64_t)_i << 32;
    for (int n = 0; n < 1000000; n++) {
        uint64_t words[2] = {random_64(), random_64()};
        unsigned lead = random_64() % 6;
        uint8_t bytes[16];

        memcpy(bytes, words, 16);
        if (lead < 4)
            bytes[0] = leads[lead];
        compare(n & 3, bytes);
    }
}
END_TEST

/* Prefixes without end: 15 bytes are allowed, 16 raise #GP. */
START_TEST(too_long)
{
    struct insn insn;
    uint8_t bytes[16];

    memset(bytes, 0x66, sizeof(bytes));
    bytes[14] = 0x90;
    ck_assert_int_eq(insn_decode(&insn, bytes, 15, INSN_64), INSN_OK);
    ck_assert_uint_eq(insn.length, 15);
    bytes[14] = 0x66;
    bytes[15] = 0x90;
    ck_assert_int_eq(insn_decode(&insn, bytes, 16, INSN_64), INSN_TOO_LONG);
    ck_assert_int_eq(insn_decode(&insn, bytes, 14, INSN_64), INSN_MORE);
    ck_assert_int_eq(insn_decode(&insn, NULL, 0, INSN_64), INSN_MORE);
}
END_TEST

/* An operand-size prefix makes a near branch in 64-bit mode 16 bits wide on AMD processors only. */
START_TEST(amd_branch)
{
    static const uint8_t call[] = {0x66, 0xe8, 1, 2, 3, 4};
    struct insn insn;

    ck_assert_int_eq(insn_decode(&insn, call, sizeof(call), INSN_64), INSN_OK);
    ck_assert_uint_eq(insn.length, 6);
    ck_assert_uint_eq(insn.operand_size, 8);
    ck_assert_int_eq(insn_decode(&insn, call, sizeof(call), INSN_64_AMD), INSN_OK);
    ck_assert_uint_eq(insn.length, 4);
    ck_assert_uint_eq(insn.operand_size, 2);
    ck_assert_uint_eq(insn.mode, INSN_64);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("insn_length");
    TCase *tests = tcase_create("lengths");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, every_opcode, 0, 20);
    tcase_add_loop_test(tests, random_bytes, 0, 4);
    tcase_add_test(tests, too_long);
    tcase_add_test(tests, amd_branch);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
