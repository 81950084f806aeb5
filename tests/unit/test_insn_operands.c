/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The operands of every modelled instruction, compared with Zydis: kind, register, size, access and
 * the parts of the address.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <Zydis/Zydis.h>

#include "insn/insn.h"

static ZydisDecoder oracle[3];
static uint64_t seed = 0x2545f4914f6cdd1d;

static uint64_t random_64(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

/* One comparison; say collects what differs. */
struct pair {
    const struct insn *ours;
    const ZydisDecodedInstruction *theirs;
    const ZydisDecodedOperand *operands;
    char say[256];
};

static unsigned general_number(ZydisRegister reg)
{
    return (unsigned)ZydisRegisterGetId(reg);
}

static unsigned mem_register(ZydisRegister reg)
{
    if (reg == ZYDIS_REGISTER_NONE)
        return INSN_NO_REGISTER;
    if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP)
        return INSN_BASE_RIP;
    return general_number(reg);
}

static void expect(struct pair *pair, const char *what, uint64_t theirs, uint64_t ours)
{
    if (theirs != ours && !pair->say[0])
        snprintf(pair->say, sizeof(pair->say), "%s: Zydis %lx, ours %lx", what, theirs, ours);
}

static void compare_register(struct pair *pair, const ZydisDecodedOperand *theirs,
                             const struct insn_operand *ours)
{
    ZydisRegister reg = theirs->reg.value;
    ZydisRegisterClass class = ZydisRegisterGetClass(reg);
    unsigned id = general_number(reg);

    switch (class) {
    case ZYDIS_REGCLASS_GPR8:
        /* AL CL DL BL AH CH DH BH SPL BPL SIL DIL R8B .. */
        if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH) {
            expect(pair, "kind", INSN_REG_HIGH, ours->kind);
            expect(pair, "register", (unsigned)(reg - ZYDIS_REGISTER_AH), ours->reg);
            break;
        }
        if (reg >= ZYDIS_REGISTER_SPL)
            id = (unsigned)(reg - ZYDIS_REGISTER_SPL) + 4;
        else
            id = (unsigned)(reg - ZYDIS_REGISTER_AL);
        __attribute__((fallthrough));
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        expect(pair, "kind", INSN_REG, ours->kind);
        expect(pair, "register", id, ours->reg);
        break;
    case ZYDIS_REGCLASS_SEGMENT:
        expect(pair, "kind", INSN_SREG, ours->kind);
        expect(pair, "register", id, ours->reg);
        break;
    case ZYDIS_REGCLASS_CONTROL:
        expect(pair, "kind", INSN_CR, ours->kind);
        expect(pair, "register", id, ours->reg);
        break;
    case ZYDIS_REGCLASS_DEBUG:
        expect(pair, "kind", INSN_DR, ours->kind);
        expect(pair, "register", id, ours->reg);
        break;
    default:
        expect(pair, "register class", class, 0xff);
        break;
    }
}

static void compare_memory(struct pair *pair, const ZydisDecodedOperand *theirs,
                           const struct insn_operand *ours)
{
    const struct insn_mem *mem = &pair->ours->mem;
    const ZydisDecodedOperandMem *known = &theirs->mem;
    uint64_t mask = ~0ul >> (64 - 8 * pair->ours->address_size);

    if (ours->kind == INSN_MEM_SRC || ours->kind == INSN_MEM_DST) {
        expect(pair, "string base", mem_register(known->base), ours->reg);
        expect(pair, "string segment", general_number(known->segment),
               ours->kind == INSN_MEM_DST ? INSN_ES : mem->segment);
        return;
    }
    expect(pair, "kind", INSN_MEM, ours->kind);
    /* SIB.base 5 with ModRM.mod 0 means 32 bits of displacement and no base, whatever REX.B; Zydis
       4.0 forgets it if the address size is 32 bits. */
    if (mem->base == INSN_NO_REGISTER && pair->ours->address_size == 4 && (pair->ours->rex & 1))
        return;
    expect(pair, "base", mem_register(known->base), mem->base);
    expect(pair, "index", mem_register(known->index), mem->index);
    if (mem->index != INSN_NO_REGISTER)
        expect(pair, "scale", known->scale, 1u << mem->scale);
    /* Of absolute addresses Zydis extends the sign; the upper bits do not matter. */
    expect(pair, "displacement",
           known->disp.has_displacement ? (uint64_t)known->disp.value & mask : 0,
           (uint64_t)pair->ours->disp & mask);
    if (ours->size) /* addresses alone have no segment worth the name */
        expect(pair, "segment", general_number(known->segment), mem->segment);
}

/* Where Zydis and we mean different things by it. */
static bool size_compares(const struct insn *insn, const struct insn_operand *operand)
{
    switch (insn->op) {
    case INSN_OP_LEA: /* an address, of no size */
    case INSN_OP_INVLPG:
    case INSN_OP_CLFLUSH: /* the line, or the byte whose line it is */
        return operand->kind != INSN_MEM;
    case INSN_OP_LAR: /* Zydis: operand size; a selector has 16 bits */
    case INSN_OP_LSL:
        return operand->access & INSN_WRITE;
    case INSN_OP_MOVSX: /* MOVSXD with 16 bits: Intel's manual has r/m16, Zydis 32 */
        return insn->opcode != 0x63 || insn->operand_size != 2;
    default:
        return true;
    }
}

static bool access_compares(const struct insn *insn)
{
    switch (insn->op) {
    case INSN_OP_CMOVCC: /* destinations that may keep their value: read for us, not for Zydis */
    case INSN_OP_BSF:
    case INSN_OP_BSR:
    case INSN_OP_LAR:
    case INSN_OP_LSL:
        return false;
    default:
        return true;
    }
}

/* Zydis hides the operands of string instructions behind the registers that they imply. */
static unsigned index_of(const struct pair *pair, unsigned index)
{
    const struct insn_operand *ours = &pair->ours->operand[index];

    if (ours->kind != INSN_MEM_SRC && ours->kind != INSN_MEM_DST)
        return index;
    for (unsigned i = 0; i < pair->theirs->operand_count; i++) {
        if (pair->operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            mem_register(pair->operands[i].mem.base) == ours->reg)
            return i;
    }
    return index;
}

static void compare_operand(struct pair *pair, unsigned index)
{
    const ZydisDecodedOperand *theirs = &pair->operands[index_of(pair, index)];
    const struct insn_operand *ours = &pair->ours->operand[index];
    unsigned op = pair->ours->op;
    unsigned access = 0;

    if (theirs->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
        access |= INSN_READ;
    if (theirs->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
        access |= INSN_WRITE;
    switch (theirs->type) {
    case ZYDIS_OPERAND_TYPE_REGISTER:
        compare_register(pair, theirs, ours);
        break;
    case ZYDIS_OPERAND_TYPE_MEMORY:
        compare_memory(pair, theirs, ours);
        break;
    case ZYDIS_OPERAND_TYPE_IMMEDIATE:
        if (index == 1 && op == INSN_OP_ENTER)
            expect(pair, "second immediate", theirs->imm.value.u, pair->ours->imm2);
        else
            expect(pair, "immediate", theirs->imm.value.u, pair->ours->imm);
        expect(pair, "kind", theirs->imm.is_relative ? INSN_REL : INSN_IMM, ours->kind);
        return;
    case ZYDIS_OPERAND_TYPE_POINTER:
        expect(pair, "kind", INSN_FAR, ours->kind);
        expect(pair, "selector", theirs->ptr.segment, pair->ours->imm2);
        expect(pair, "offset", theirs->ptr.offset, pair->ours->imm);
        return;
    default:
        expect(pair, "type", theirs->type, 0xff);
        return;
    }
    if (size_compares(pair->ours, ours))
        expect(pair, "size", theirs->size / 8u, ours->size);
    if (access_compares(pair->ours) && ours->size)
        expect(pair, "access", access, ours->access);
}

/* Operands to be compared one by one; 0 for what has none that matter. */
static unsigned operands_of(const struct insn *insn, const ZydisDecodedInstruction *known)
{
    switch (insn->op) {
    case INSN_OP_NOP: /* and PREFETCH, ENDBR */
    case INSN_OP_UD:
    case INSN_OP_VMRUN: /* rAX is implied */
    case INSN_OP_VMLOAD:
    case INSN_OP_VMSAVE:
    case INSN_OP_SKINIT:
    case INSN_OP_INVLPGA:
        return 0;
    case INSN_OP_XCHG:
        /* F3 with REX.B before 90: PAUSE for Zydis, XCHG for processors. */
        return known->mnemonic == ZYDIS_MNEMONIC_PAUSE ? 0 : insn->operands;
    case INSN_OP_LFP: /* the segment register is implied */
        return 2;
    default:
        return insn->operands;
    }
}

/* Zydis does not count the operands of string instructions as visible. */
static bool is_string(unsigned op)
{
    return op >= INSN_OP_MOVS && op <= INSN_OP_OUTS;
}

static void compare(unsigned mode, const uint8_t *bytes)
{
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecodedInstruction known;
    struct insn insn;
    unsigned count;
    struct pair pair = {&insn, &known, operands, ""};
    char text[64];

    if (insn_decode(&insn, bytes, 15, (enum insn_mode)mode) != INSN_OK)
        return;
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&oracle[mode], bytes, 15, &known, operands)))
        return; /* test_insn_length.c's business */
    count = operands_of(&insn, &known);
    if (count && !is_string(insn.op))
        expect(&pair, "operands", known.operand_count_visible, count);
    for (unsigned i = 0; i < count && !pair.say[0]; i++)
        compare_operand(&pair, i);
    expect(&pair, "address size", known.address_width / 8u, insn.address_size);
    for (int i = 0; i < 15; i++)
        snprintf(text + i * 3, 4, "%02x ", bytes[i]);
    if (pair.say[0])
        ck_abort_msg("mode %u, %s(%s): %s", mode, text, ZydisMnemonicGetString(known.mnemonic),
                     pair.say);
}

START_TEST(every_modelled_opcode)
{
    static const char *const prefixes[] = {"",     "\x66", "\x67",     "\xf3",     "\x64",
                                           "\x36", "\x48", "\x4f",     "\x66\x41", "\xf2",
                                           "\x44", "\x42", "\x67\x48", "\x66\x67", "\xf3\x48"};
    const char *prefix = prefixes[_i];
    size_t length = strlen(prefix);

    for (int i = 0; i < 3; i++) {
        static const ZydisMachineMode modes[] = {
            ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_MACHINE_MODE_LONG_64};
        static const ZydisStackWidth widths[] = {ZYDIS_STACK_WIDTH_16, ZYDIS_STACK_WIDTH_32,
                                                 ZYDIS_STACK_WIDTH_64};

        ZydisDecoderInit(&oracle[i], modes[i], widths[i]);
        ZydisDecoderEnableMode(&oracle[i], ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
        ZydisDecoderEnableMode(&oracle[i], ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
    }
    for (unsigned mode = 0; mode < 3; mode++) {
        for (unsigned code = 0; code < 3 * 65536; code++) {
            uint64_t words[4] = {random_64(), random_64(), 0, 0};
            uint8_t bytes[32];
            size_t at = length;

            memcpy(bytes, words, sizeof(bytes));
            memcpy(bytes, prefix, length);
            if (code >> 16 > 0)
                bytes[at++] = 0x0f;
            if (code >> 16 > 1)
                bytes[at++] = 0x38;
            bytes[at++] = (uint8_t)(code >> 8);
            bytes[at] = (uint8_t)code;
            compare(mode, bytes);
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("insn_operands");
    TCase *tests = tcase_create("operands");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, every_modelled_opcode, 0, 15);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
