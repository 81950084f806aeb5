/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * MMX as far as it moves data: MOVD, MOVQ, MOVNTQ, MASKMOVQ, moves to and from XMM registers, logic
 * on all bits, EMMS; and MASKMOVDQU. The registers are x87's, so they are had as its image, in
 * FXSAVE's 64-bit format (Intel SDM, "The MMX Register Set", "Effect of MMX Instructions on x87 FPU
 * Registers").
 */
#include "insn/exec.h"

enum {
    VECTOR_MF = 16,
    CR0_NE = 0x20,
    FSW_ES = 0x80,
    FSW_TOP = 0x3800,
    IMAGE_FSW = 2,
    IMAGE_FTW = 4,
    IMAGE_ST = 32,
    IMAGE_XMM = 160,
    IMAGE_BYTES = 512,
    PREFIXES = INSN_PREFIX_REP | INSN_PREFIX_REPNE | INSN_PREFIX_OPSIZE,
};

enum form {
    NONE,
    LOAD,         /* mm from mm or memory */
    STORE,        /* mm to mm or memory */
    LOAD_GENERAL, /* mm from a general register or memory, of 4 bytes or 8 */
    STORE_GENERAL,
    LOGIC,
    EMPTY,
    MM_OF_XMM,
    XMM_OF_MM,
    MASKED,
    MASKED_XMM,
};

struct mmx {
    enum form form;
    unsigned reg, rm; /* MMX registers: REX does not reach them */
    uint8_t image[IMAGE_BYTES];
};

static enum form plain_form(const struct insn *insn)
{
    bool memory = insn->modrm < 0xc0;

    switch (insn->opcode) {
    case 0x6e:
        return LOAD_GENERAL;
    case 0x6f:
        return LOAD;
    case 0x77:
        return EMPTY;
    case 0x7e:
        return STORE_GENERAL;
    case 0x7f:
        return STORE;
    case 0xdb:
    case 0xdf:
    case 0xeb:
    case 0xef:
        return LOGIC;
    case 0xe7:
        return memory ? STORE : NONE;
    case 0xf7:
        return memory ? NONE : MASKED;
    default:
        return NONE;
    }
}

static enum form form_of(const struct insn *insn)
{
    unsigned prefixes = insn->prefixes & PREFIXES;

    if (insn->encoding != INSN_LEGACY || insn->map != INSN_MAP_0F)
        return NONE;
    if (!prefixes)
        return plain_form(insn);
    if (insn->modrm < 0xc0)
        return NONE;
    if (insn->opcode == 0xd6 && (prefixes & (INSN_PREFIX_REP | INSN_PREFIX_REPNE)))
        return prefixes & INSN_PREFIX_REP ? XMM_OF_MM : MM_OF_XMM;
    return insn->opcode == 0xf7 && prefixes == INSN_PREFIX_OPSIZE ? MASKED_XMM : NONE;
}

/* MM0 to MM7 are the physical registers, which the image has from the top of the stack on. Behind
 * an MMX instruction the top is 0 and all registers are in use; behind EMMS none is. */
static void begin_mmx(struct mmx *mmx)
{
    uint8_t stack[128], *at = mmx->image + IMAGE_ST;
    uint16_t fsw;
    unsigned top;

    __builtin_memcpy(&fsw, mmx->image + IMAGE_FSW, sizeof(fsw));
    top = (fsw & FSW_TOP) >> 11;
    __builtin_memcpy(stack, at, sizeof(stack));
    for (unsigned i = 0; i < 8; i++)
        __builtin_memcpy(at + 16 * ((i + top) & 7), stack + 16 * i, 16);
    fsw &= (uint16_t)~FSW_TOP;
    __builtin_memcpy(mmx->image + IMAGE_FSW, &fsw, sizeof(fsw));
    mmx->image[IMAGE_FTW] = mmx->form == EMPTY ? 0 : 0xff;
}

static uint64_t get(const struct mmx *mmx, unsigned reg)
{
    uint64_t value;

    __builtin_memcpy(&value, mmx->image + IMAGE_ST + 16 * reg, sizeof(value));
    return value;
}

static void set(struct mmx *mmx, unsigned reg, uint64_t value)
{
    uint8_t *at = mmx->image + IMAGE_ST + 16 * reg;

    __builtin_memcpy(at, &value, sizeof(value));
    at[8] = at[9] = 0xff;
}

/* Between memory and *value. */
static enum insn_result with_memory(struct exec *exec, uint64_t *value, unsigned size, bool write)
{
    uint64_t linear;
    enum insn_result result = operand_address(exec, size, write, &linear);

    if (result)
        return result;
    return write ? write_memory(exec, linear, value, size, 0)
                 : read_memory(exec, linear, value, size, 0);
}

static enum insn_result general(struct exec *exec, struct mmx *mmx)
{
    const struct insn *insn = exec->insn;
    bool store = mmx->form == STORE_GENERAL;
    unsigned size = insn->rex & 8 ? 8 : 4;
    uint64_t value = store ? get(mmx, mmx->reg) : 0;
    enum insn_result result = INSN_OK;

    if (insn->modrm < 0xc0)
        result = with_memory(exec, &value, size, store);
    else if (store)
        stage_gpr(exec, modrm_rm(insn), size, value);
    else
        value = read_gpr(exec, modrm_rm(insn), size);
    if (!result && !store)
        set(mmx, mmx->reg, value);
    return result;
}

static uint64_t logic(unsigned opcode, uint64_t a, uint64_t b)
{
    return opcode == 0xdb ? a & b : opcode == 0xdf ? ~a & b : opcode == 0xeb ? a | b : a ^ b;
}

static enum insn_result source(struct exec *exec, struct mmx *mmx, uint64_t *value)
{
    if (exec->insn->modrm < 0xc0)
        return with_memory(exec, value, 8, false);
    *value = get(mmx, mmx->rm);
    return INSN_OK;
}

/* The bytes whose mask has the sign set, to [rDI]; each is an access by itself. */
static enum insn_result masked(struct exec *exec, const uint8_t *data, const uint8_t *mask,
                               unsigned count)
{
    const struct insn *insn = exec->insn;
    unsigned segment = insn->prefixes & INSN_PREFIX_SEGMENT ? insn->mem.segment : INSN_DS;
    uint64_t offset = read_gpr(exec, RDI, insn->address_size), linear;

    for (unsigned i = 0; i < count; i++) {
        enum insn_result result;

        if (!(mask[i] & 0x80))
            continue;
        result = segment_address(exec, segment, (offset + i) & mask_of(insn->address_size), 1, true,
                                 &linear);
        if (!result)
            result = write_memory(exec, linear, data + i, 1, 0);
        if (result)
            return result;
    }
    return INSN_OK;
}

static enum insn_result compute(struct exec *exec, struct mmx *mmx)
{
    const struct insn *insn = exec->insn;
    uint64_t value = 0, quad[2] = {0, 0};
    enum insn_result result;

    switch (mmx->form) {
    case LOAD:
    case LOGIC:
        result = source(exec, mmx, &value);
        if (!result)
            set(mmx, mmx->reg,
                mmx->form == LOAD ? value : logic(insn->opcode, get(mmx, mmx->reg), value));
        return result;
    case STORE:
        value = get(mmx, mmx->reg);
        if (insn->modrm < 0xc0)
            return with_memory(exec, &value, 8, true);
        set(mmx, mmx->rm, value);
        return INSN_OK;
    case LOAD_GENERAL:
    case STORE_GENERAL:
        return general(exec, mmx);
    case MM_OF_XMM:
        __builtin_memcpy(&value, mmx->image + IMAGE_XMM + 16 * modrm_rm(insn), 8);
        set(mmx, mmx->reg, value);
        return INSN_OK;
    case XMM_OF_MM:
        quad[0] = get(mmx, mmx->rm);
        __builtin_memcpy(mmx->image + IMAGE_XMM + 16 * modrm_reg(insn), quad, 16);
        return INSN_OK;
    case MASKED:
        return masked(exec, mmx->image + IMAGE_ST + 16 * mmx->reg,
                      mmx->image + IMAGE_ST + 16 * mmx->rm, 8);
    default: /* EMMS */
        return INSN_OK;
    }
}

static enum insn_result execute(struct exec *exec, struct mmx *mmx)
{
    const struct insn_cpu *cpu = exec->cpu;
    bool sse = mmx->form >= MM_OF_XMM && mmx->form != MASKED;
    enum insn_result result;

    if ((cpu->cr0 & CR0_EM) || (sse && !(cpu->cr4 & CR4_OSFXSR)))
        return raise(exec, VECTOR_UD);
    if (cpu->cr0 & CR0_TS)
        return raise(exec, VECTOR_NM);
    if (!exec->ops->fpu(exec->context, mmx->image, false))
        return INSN_UNSUPPORTED;
    if (mmx->form == MASKED_XMM)
        return masked(exec, mmx->image + IMAGE_XMM + 16 * modrm_reg(exec->insn),
                      mmx->image + IMAGE_XMM + 16 * modrm_rm(exec->insn), 16);
    if (mmx->image[IMAGE_FSW] & FSW_ES) /* without NE it is an interrupt's matter */
        return cpu->cr0 & CR0_NE ? raise(exec, VECTOR_MF) : INSN_UNSUPPORTED;
    begin_mmx(mmx);
    result = compute(exec, mmx);
    if (result)
        return result;
    return exec->ops->fpu(exec->context, mmx->image, true) ? INSN_OK : INSN_UNSUPPORTED;
}

bool execute_mmx(struct exec *exec, enum insn_result *result)
{
    const struct insn *insn = exec->insn;
    struct mmx mmx = {.form = form_of(insn), .reg = insn->modrm >> 3 & 7, .rm = insn->modrm & 7};

    if (mmx.form == NONE || !exec->ops->fpu)
        return false;
    *result = execute(exec, &mmx);
    return true;
}
