/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Which instructions the executor refuses. Zydis names every legacy encoding; those outside vector
 * and MMX arithmetic that the executor does not execute must be the ones in the list below, and no
 * other. The word list on the command line prints all, vector instructions too.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <Zydis/Zydis.h>

#include "insn/execute.h"

/*
 * Why: T transactions, C control-flow enforcement's shadow stacks, X extended state that only the
 * processor itself can move, U user interrupts and waits, P privileged instructions of features no
 * guest is offered, O others that no guest is offered, R reserved with a repeat prefix, where
 * processors differ.
 */
static const struct {
    const char *name;
    char why;
} refused[] = {
    {"loope", 'R'},       {"loopne", 'R'},    {"xabort", 'T'},    {"xbegin", 'T'},
    {"xend", 'T'},        {"xtest", 'T'},     {"xsusldtrk", 'T'}, {"xresldtrk", 'T'},
    {"wrssd", 'C'},       {"wrussd", 'C'},    {"rstorssp", 'C'},  {"setssbsy", 'C'},
    {"saveprevssp", 'C'}, {"clrssbsy", 'C'},  {"incsspd", 'C'},   {"rdpkru", 'X'},
    {"wrpkru", 'X'},      {"uiret", 'U'},     {"testui", 'U'},    {"clui", 'U'},
    {"stui", 'U'},        {"senduipi", 'U'},  {"tpause", 'U'},    {"umonitor", 'U'},
    {"umwait", 'U'},      {"getsec", 'P'},    {"enclv", 'P'},     {"pconfig", 'P'},
    {"encls", 'P'},       {"enclu", 'P'},     {"invlpgb", 'P'},   {"tlbsync", 'P'},
    {"tdcall", 'P'},      {"seamret", 'P'},   {"seamops", 'P'},   {"seamcall", 'P'},
    {"rmpadjust", 'P'},   {"psmash", 'P'},    {"rmpupdate", 'P'}, {"pvalidate", 'P'},
    {"hreset", 'P'},      {"enqcmds", 'P'},   {"serialize", 'O'}, {"clzero", 'O'},
    {"rdpru", 'O'},       {"movdir64b", 'O'}, {"mcommit", 'O'},   {"ptwrite", 'O'},
    {"enqcmd", 'O'},
};

static ZydisDecoder oracle;
static uint64_t gpr[16];

static enum insn_access_result do_read(void *context, uint64_t linear, void *data, unsigned size,
                                       unsigned flags, struct insn_fault *fault)
{
    (void)context, (void)linear, (void)flags, (void)fault;
    memset(data, 0, size);
    return INSN_ACCESS_OK;
}

static enum insn_access_result do_write(void *context, uint64_t linear, const void *data,
                                        unsigned size, unsigned flags, struct insn_fault *fault)
{
    (void)context, (void)linear, (void)data, (void)size, (void)flags, (void)fault;
    return INSN_ACCESS_OK;
}

static enum insn_access_result do_exchange(void *context, uint64_t linear, void *expected,
                                           const void *desired, unsigned size, unsigned flags,
                                           struct insn_fault *fault)
{
    (void)context, (void)linear, (void)expected, (void)desired, (void)size, (void)flags;
    (void)fault;
    return INSN_ACCESS_OK;
}

static struct insn_msrs *do_msrs(void *context)
{
    static struct insn_msrs msrs;

    (void)context;
    return &msrs;
}

static bool do_vector(void *context, unsigned reg, void *data, bool write, enum insn_vector part)
{
    (void)context, (void)reg, (void)part;
    if (!write)
        memset(data, 0, 16);
    return true;
}

static bool do_fpu(void *context, void *image, bool write)
{
    (void)context;
    if (!write)
        memset(image, 0, 512);
    return true;
}

static bool do_x87(void *context, unsigned opcode, unsigned modrm, void *image, void *data,
                   uint64_t *flags)
{
    (void)context, (void)opcode, (void)modrm, (void)image, (void)data, (void)flags;
    return true;
}

static enum insn_result execute(const struct insn *insn)
{
    static const struct insn_ops ops = {.read = do_read,
                                        .write = do_write,
                                        .compare_exchange = do_exchange,
                                        .descriptors = true,
                                        .msrs = do_msrs,
                                        .vector = do_vector,
                                        .fpu = do_fpu,
                                        .x87 = do_x87};
    struct insn_cpu cpu = {.gpr = gpr,
                           .rip = 0x1000,
                           .rflags = 2,
                           .cr0 = 0x80000031,
                           .cr4 = 0x50620,
                           .efer = 0xd01,
                           .xcr0 = 7,
                           .mode = INSN_64,
                           .gdtr = {0, 0xffff},
                           .idtr = {0, 0xffff},
                           .avx = true};
    struct insn_replay replay = {.count = 0};
    struct insn_fault fault;

    for (unsigned i = 0; i < INSN_SEGMENTS; i++)
        cpu.seg[i] = (struct insn_seg){0, 0xffffffff, i == INSN_CS ? 0xa09b : 0xc093, 8};
    memset(gpr, 0, sizeof(gpr));
    return insn_execute(insn, &cpu, &ops, NULL, &replay, 1, &fault);
}

/* The sets whose arithmetic is not for an executor that serves devices, tables and boot code. */
static bool vector_set(const ZydisDecodedInstruction *known)
{
    switch (known->meta.isa_ext) {
    case ZYDIS_ISA_EXT_MMX:
    case ZYDIS_ISA_EXT_AMD3DNOW:
    case ZYDIS_ISA_EXT_AMD3DNOW_PREFETCH:
    case ZYDIS_ISA_EXT_SSE:
    case ZYDIS_ISA_EXT_SSE2:
    case ZYDIS_ISA_EXT_SSE3:
    case ZYDIS_ISA_EXT_SSSE3:
    case ZYDIS_ISA_EXT_SSE4:
    case ZYDIS_ISA_EXT_SSE4A:
    case ZYDIS_ISA_EXT_AES:
    case ZYDIS_ISA_EXT_PCLMULQDQ:
    case ZYDIS_ISA_EXT_SHA:
    case ZYDIS_ISA_EXT_GFNI:
    case ZYDIS_ISA_EXT_KEYLOCKER:
    case ZYDIS_ISA_EXT_KEYLOCKER_WIDE:
        return true;
    default:
        return false;
    }
}

static bool met[sizeof(refused) / sizeof(refused[0])];
static bool printed[ZYDIS_MNEMONIC_MAX_VALUE + 1];
static bool list;

static void judge(const uint8_t *bytes, const ZydisDecodedInstruction *known)
{
    const char *name = ZydisMnemonicGetString(known->mnemonic);
    unsigned i = 0, count = sizeof(refused) / sizeof(refused[0]);

    while (i < count && strcmp(refused[i].name, name))
        i++;
    if (list && !printed[known->mnemonic])
        printf("%-14s %-10s %02x %02x %02x %02x %02x\n", name,
               ZydisISAExtGetString(known->meta.isa_ext), bytes[0], bytes[1], bytes[2], bytes[3],
               bytes[4]);
    printed[known->mnemonic] = true;
    if (vector_set(known))
        return;
    if (i == count && !list)
        ck_abort_msg("%s is refused: %02x %02x %02x %02x %02x", name, bytes[0], bytes[1], bytes[2],
                     bytes[3], bytes[4]);
    if (i < count)
        met[i] = true;
}

static void try_bytes(const uint8_t *bytes)
{
    ZydisDecodedInstruction known;
    ZydisDecoderContext context;
    struct insn insn;
    enum insn_result result = insn_decode(&insn, bytes, 15, INSN_64);

    if ((result != INSN_OK && result != INSN_UNKNOWN) ||
        !ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&oracle, &context, bytes, 15, &known)))
        return;
    if (known.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY || insn.encoding != INSN_LEGACY ||
        (known.opcode_map == ZYDIS_OPCODE_MAP_0F && (known.opcode & 0xfe) == 0xa6))
        return;
    if (execute(&insn) == INSN_UNSUPPORTED)
        judge(bytes, &known);
}

START_TEST(legacy_encodings)
{
    static const uint8_t prefixes[] = {0, 0x66, 0xf3, 0xf2};
    static const uint8_t escapes[4][2] = {{0, 0}, {0x0f, 0}, {0x0f, 0x38}, {0x0f, 0x3a}};

    ZydisDecoderInit(&oracle, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisDecoderEnableMode(&oracle, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    ZydisDecoderEnableMode(&oracle, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
    memset(met, 0, sizeof(met));
    for (unsigned map = 0; map < 4; map++)
        for (unsigned prefix = 0; prefix < 4; prefix++)
            for (unsigned opcode = 0; opcode < 256; opcode++)
                for (unsigned modrm = 0; modrm < 256; modrm++) {
                    uint8_t bytes[15] = {0};
                    unsigned n = 0;

                    if (prefixes[prefix])
                        bytes[n++] = prefixes[prefix];
                    for (unsigned i = 0; i < 2; i++)
                        if (escapes[map][i])
                            bytes[n++] = escapes[map][i];
                    bytes[n++] = (uint8_t)opcode;
                    bytes[n] = (uint8_t)modrm;
                    try_bytes(bytes);
                }
    for (unsigned i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
        if (!met[i] && !list)
            ck_abort_msg("%s is not refused", refused[i].name);
}
END_TEST

int main(int argc, char **argv)
{
    Suite *suite = suite_create("insn_refused");
    TCase *tests = tcase_create("refused");
    SRunner *runner;
    int failed;

    list = argc > 1 && !strcmp(argv[1], "list");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, legacy_encodings);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
