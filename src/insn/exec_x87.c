/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * x87, FXSAVE and FXRSTOR, LDMXCSR and STMXCSR. What an instruction computes is left to the
 * processor, on an image of the guest's registers in FXSAVE's 64-bit format; here are the checks,
 * memory, and what the guest sees of instruction and operand pointers (Intel SDM, "x87 FPU
 * Execution Environment", "FXSAVE—Save x87 FPU, MMX Technology, and SSE State").
 */
#include "insn/exec.h"

enum { VECTOR_MF = 16, CR0_MP = 2, CR0_NE = 0x20, FSW_ES = 0x80, LONGEST = 108 };

/* The image. */
enum {
    IMAGE_FCW = 0,
    IMAGE_FSW = 2,
    IMAGE_FOP = 6,
    IMAGE_FIP = 8,
    IMAGE_FDP = 16,
    IMAGE_MXCSR = 24,
    IMAGE_MXCSR_MASK = 28,
    IMAGE_ST = 32,
    IMAGE_XMM = 160,
    IMAGE_SAVED =
        416, /* what FXSAVE writes in 64-bit mode; outside of it xmm8 to xmm15 are not there */
    IMAGE_SAVED_32 = 288,
    IMAGE_BYTES = 512,
};

enum { NONE = 0, WRITES = 0x80, ENVIRONMENT = 28, STATE = 108 };

/* Bytes of the memory operand by opcode and ModRM.reg; ENVIRONMENT and STATE as with 32 bits. */
static const uint8_t memory_bytes[8][8] = {
    {4, 4, 4, 4, 4, 4, 4, 4},
    {4, NONE, WRITES | 4, WRITES | 4, ENVIRONMENT, 2, WRITES | ENVIRONMENT, WRITES | 2},
    {4, 4, 4, 4, 4, 4, 4, 4},
    {4, WRITES | 4, WRITES | 4, WRITES | 4, NONE, 10, NONE, WRITES | 10},
    {8, 8, 8, 8, 8, 8, 8, 8},
    {8, WRITES | 8, WRITES | 8, WRITES | 8, STATE, NONE, WRITES | STATE, WRITES | 2},
    {2, 2, 2, 2, 2, 2, 2, 2},
    {2, WRITES | 2, WRITES | 2, WRITES | 2, 10, 8, WRITES | 10, WRITES | 8},
};

struct x87 {
    unsigned row, reg, size; /* of memory, in the guest's format */
    bool memory, writes, control;
    uint64_t linear;
    uint8_t data[LONGEST + 4];
    uint8_t image[IMAGE_BYTES];
};

static uint64_t get(const uint8_t *from, unsigned size)
{
    uint64_t value = 0;

    __builtin_memcpy(&value, from, size);
    return value;
}

static void put(uint8_t *to, uint64_t value, unsigned size)
{
    __builtin_memcpy(to, &value, size);
}

/* Those that leave the pointers as they are, and of them those that do not wait for exceptions. */
static bool is_control(const struct insn *insn, bool *waits)
{
    unsigned row = insn->opcode & 7, reg = insn->modrm >> 3 & 7;

    *waits = true;
    if (insn->modrm >= 0xc0) {
        *waits = !(row == 3 && reg == 4) && !(row == 7 && insn->modrm == 0xe0);
        return !*waits;
    }
    if (row == 1 || row == 5)
        *waits = reg < 6;
    return (row == 1 && reg >= 4) || (row == 5 && reg >= 4);
}

/* ---- Pointers in FSTENV's and FSAVE's images ---- */

/* Real mode's form has linear addresses in pieces. */
static void pointers_out(struct exec *exec, struct x87 *x)
{
    uint64_t ip = get(x->image + IMAGE_FIP, 4), dp = get(x->image + IMAGE_FDP, 4);
    uint64_t cs = get(x->image + IMAGE_FIP + 4, 2), ds = get(x->image + IMAGE_FDP + 4, 2);
    uint64_t op = get(x->image + IMAGE_FOP, 2) & 0x7ff;
    uint8_t *at = x->data + 12;

    if (real_segments(exec->cpu)) {
        ip = (uint32_t)(ip + cs * 16);
        dp = (uint32_t)(dp + ds * 16);
        put(at, ip & 0xffff, 4);
        put(at + 4, (ip >> 16) << 12 | op, 4);
        put(at + 8, dp & 0xffff, 4);
        put(at + 12, (dp >> 16) << 12, 4);
    } else {
        put(at, ip, 4);
        put(at + 4, cs | op << 16, 4);
        put(at + 8, dp, 4);
        put(at + 12, ds, 4);
    }
}

static void pointers_in(struct exec *exec, struct x87 *x)
{
    const uint8_t *at = x->data + 12;
    uint64_t ip = get(at, 4), code = get(at + 4, 4), dp = get(at + 8, 4), data = get(at + 12, 4);

    if (real_segments(exec->cpu)) {
        put(x->image + IMAGE_FIP, (ip & 0xffff) | (code >> 12 & 0xffff) << 16, 8);
        put(x->image + IMAGE_FDP, (dp & 0xffff) | (data >> 12 & 0xffff) << 16, 8);
        put(x->image + IMAGE_FOP, code & 0x7ff, 2);
    } else {
        put(x->image + IMAGE_FIP, ip | (code & 0xffff) << 32, 8);
        put(x->image + IMAGE_FDP, dp | (data & 0xffff) << 32, 8);
        put(x->image + IMAGE_FOP, code >> 16 & 0x7ff, 2);
    }
}

/* Words in place of double words, the registers behind them. */
static void to_16_bits(struct exec *exec, struct x87 *x)
{
    bool real = real_segments(exec->cpu);
    uint64_t code = get(x->data + 16, 4), data = get(x->data + 24, 4);
    uint16_t words[7];

    for (unsigned i = 0; i < 7; i++)
        words[i] = (uint16_t)get(x->data + i * 4, 2);
    if (real) {
        words[4] = (uint16_t)((code & 0xf000) | (code & 0x7ff));
        words[6] = (uint16_t)(data & 0xf000);
    }
    __builtin_memmove(x->data + 14, x->data + 28, LONGEST - 28);
    __builtin_memcpy(x->data, words, sizeof(words));
}

static void from_16_bits(struct x87 *x)
{
    uint16_t words[7];

    __builtin_memcpy(words, x->data, sizeof(words));
    __builtin_memmove(x->data + 28, x->data + 14, LONGEST - 28);
    for (unsigned i = 0; i < 7; i++)
        put(x->data + i * 4, i < 3 ? 0xffff0000u | words[i] : words[i], 4);
}

/* Pointers that the processor's own image would have are those of the library's code. */
static void hide_pointers(uint8_t *data)
{
    __builtin_memset(data + 12, 0, 16);
}

/* ---- Memory ---- */

static enum insn_result transfer(struct exec *exec, uint64_t linear, uint8_t *data, unsigned size,
                                 bool write)
{
    enum insn_result result = INSN_OK;

    if (write && size > 16) { /* faults before anything is written */
        result = probe_write(exec, linear, 16);
        if (!result)
            result = probe_write(exec, linear + size - 16, 16);
    }
    return result ? result : move_block(exec, linear, data, size, write, 0);
}

static enum insn_result fetch_operand(struct exec *exec, struct x87 *x)
{
    enum insn_result result = operand_address(exec, x->size, x->writes, &x->linear);

    if (!result && !x->writes)
        result = transfer(exec, x->linear, x->data, x->size, false);
    if (result || x->size < 14 || x->writes)
        return result;
    if (exec->insn->operand_size == 2)
        from_16_bits(x);
    return INSN_OK;
}

/* ---- x87 ---- */

static void set_pointers(struct exec *exec, struct x87 *x)
{
    const struct insn_cpu *cpu = exec->cpu;
    const struct insn *insn = exec->insn;
    bool wide = cpu->mode >= INSN_64;
    uint64_t cs = wide ? 0 : (uint64_t)cpu->seg[INSN_CS].selector << 32;

    put(x->image + IMAGE_FOP, (insn->opcode & 7u) << 8 | insn->modrm, 2);
    put(x->image + IMAGE_FIP, (wide ? cpu->rip : (uint32_t)cpu->rip) | cs, 8);
    if (x->memory)
        put(x->image + IMAGE_FDP,
            insn_offset(insn, cpu) |
                (wide ? 0 : (uint64_t)cpu->seg[insn->mem.segment].selector << 32),
            8);
}

/* With the processor's answer for x->image and x->data. */
static enum insn_result compute(struct exec *exec, struct x87 *x)
{
    const struct insn *insn = exec->insn;
    bool environment = x->memory && x->size >= 14;
    uint64_t flags = exec->cpu->rflags & FLAGS_STATUS;
    uint8_t pointers[24];

    __builtin_memcpy(pointers, x->image, sizeof(pointers));
    if (environment && !x->writes) {
        pointers_in(exec, x);
        __builtin_memcpy(pointers, x->image, sizeof(pointers));
        hide_pointers(x->data);
    }
    if (!exec->ops->x87(exec->context, insn->opcode, insn->modrm, x->image, x->data, &flags))
        return INSN_UNSUPPORTED;
    stage_flags(exec, FLAGS_STATUS, flags);
    /* FOP, FIP, FDP: the guest's. FNINIT and FNSAVE clear them. */
    if ((insn->opcode == 0xdb && insn->modrm == 0xe3) || (x->writes && x->size >= 94))
        __builtin_memset(x->image + IMAGE_FOP, 0, 18);
    else
        __builtin_memcpy(x->image + IMAGE_FOP, pointers + IMAGE_FOP, 18);
    if (!x->control)
        set_pointers(exec, x);
    if (environment && x->writes) {
        uint8_t after[24];

        __builtin_memcpy(after, x->image, sizeof(after));
        __builtin_memcpy(x->image + IMAGE_FOP, pointers + IMAGE_FOP, 18);
        pointers_out(exec, x);
        __builtin_memcpy(x->image, after, sizeof(after));
        if (insn->operand_size == 2)
            to_16_bits(exec, x);
    }
    return INSN_OK;
}

static enum insn_result execute(struct exec *exec, struct x87 *x, bool waits)
{
    enum insn_result result = INSN_OK;

    if (!exec->ops->fpu(exec->context, x->image, false))
        return INSN_UNSUPPORTED;
    if (waits &&
        (get(x->image + IMAGE_FSW, 2) & FSW_ES)) /* without NE it is an interrupt's matter */
        return exec->cpu->cr0 & CR0_NE ? raise(exec, VECTOR_MF) : INSN_UNSUPPORTED;
    if (exec->insn->opcode == 0x9b)
        return INSN_OK;
    if (x->memory)
        result = fetch_operand(exec, x);
    if (!result)
        result = compute(exec, x);
    if (!result && x->memory && x->writes)
        result = transfer(exec, x->linear, x->data, x->size, true);
    if (result)
        return result;
    if (exec->insn->opcode == 0xdf && exec->insn->modrm == 0xe0) /* FNSTSW AX */
        stage_gpr(exec, RAX, 2, get(x->image + IMAGE_FSW, 2));
    return exec->ops->fpu(exec->context, x->image, true) ? INSN_OK : INSN_UNSUPPORTED;
}

static enum insn_result execute_escape(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    uint64_t off = insn->opcode == 0x9b ? CR0_TS | CR0_MP : CR0_TS | CR0_EM;
    struct x87 x = {.row = insn->opcode & 7, .reg = insn->modrm >> 3 & 7};
    bool waits = true;

    if (insn->opcode == 0x9b ? (exec->cpu->cr0 & off) == off : exec->cpu->cr0 & off)
        return raise(exec, VECTOR_NM);
    if (insn->opcode != 0x9b) {
        x.control = is_control(insn, &waits);
        x.memory = insn->modrm < 0xc0;
        x.writes = x.memory && (memory_bytes[x.row][x.reg] & WRITES);
        x.size = memory_bytes[x.row][x.reg] & ~(unsigned)WRITES;
        if (insn->operand_size == 2 && x.size > 10)
            x.size -= 14;
    }
    return execute(exec, &x, waits);
}

/* ---- FXSAVE and its relatives (0F AE) ---- */

/* Of the pointers outside 64-bit mode, and without REX.W, 32 bits and a selector. */
static void narrow_pointers(struct exec *exec, uint8_t *image)
{
    if (exec->insn->rex & 8)
        return;
    put(image + IMAGE_FIP, get(image + IMAGE_FIP, 6), 8);
    put(image + IMAGE_FDP, get(image + IMAGE_FDP, 6), 8);
}

static enum insn_result save(struct exec *exec, uint64_t linear, uint8_t *image)
{
    unsigned size = exec->cpu->mode >= INSN_64 ? IMAGE_SAVED : IMAGE_SAVED_32;

    narrow_pointers(exec, image);
    return transfer(exec, linear, image, size, true);
}

static enum insn_result restore(struct exec *exec, uint64_t linear, uint8_t *image)
{
    unsigned size = exec->cpu->mode >= INSN_64 ? IMAGE_SAVED : IMAGE_SAVED_32;
    uint32_t mask = (uint32_t)get(image + IMAGE_MXCSR_MASK, 4);
    enum insn_result result = transfer(exec, linear, image, size, false);

    if (result)
        return result;
    if (get(image + IMAGE_MXCSR, 4) & ~(uint64_t)(mask ? mask : 0xffbf))
        return raise_code(exec, VECTOR_GP, 0);
    put(image + IMAGE_MXCSR_MASK, mask, 4);
    narrow_pointers(exec, image);
    return exec->ops->fpu(exec->context, image, true) ? INSN_OK : INSN_UNSUPPORTED;
}

static enum insn_result mxcsr(struct exec *exec, bool load, uint8_t *image)
{
    uint32_t value = (uint32_t)get(image + IMAGE_MXCSR, 4),
             mask = (uint32_t)get(image + IMAGE_MXCSR_MASK, 4);
    uint64_t linear;
    enum insn_result result = operand_address(exec, 4, !load, &linear);

    if (result || !load)
        return result ? result : write_memory(exec, linear, &value, 4, 0);
    result = read_memory(exec, linear, &value, 4, 0);
    if (!result && (value & ~(mask ? mask : 0xffbf)))
        return raise_code(exec, VECTOR_GP, 0);
    put(image + IMAGE_MXCSR, value, 4);
    if (result)
        return result;
    return exec->ops->fpu(exec->context, image, true) ? INSN_OK : INSN_UNSUPPORTED;
}

static enum insn_result execute_state(struct exec *exec)
{
    const struct insn_cpu *cpu = exec->cpu;
    unsigned reg = exec->insn->modrm >> 3 & 7;
    uint8_t image[IMAGE_BYTES];
    uint64_t linear;
    enum insn_result result;

    if (reg >= 2 && ((cpu->cr0 & CR0_EM) || !(cpu->cr4 & CR4_OSFXSR)))
        return raise(exec, VECTOR_UD);
    if (cpu->cr0 & (CR0_TS | CR0_EM))
        return raise(exec, VECTOR_NM);
    if (!exec->ops->fpu(exec->context, image, false))
        return INSN_UNSUPPORTED;
    if (reg >= 2)
        return mxcsr(exec, reg == 2, image);
    result = operand_address(exec, IMAGE_BYTES, reg == 0, &linear);
    if (result)
        return result;
    if (linear & 15)
        return raise_code(exec, VECTOR_GP, 0);
    return reg ? restore(exec, linear, image) : save(exec, linear, image);
}

bool execute_x87(struct exec *exec, enum insn_result *result)
{
    const struct insn *insn = exec->insn;

    if (insn->encoding != INSN_LEGACY || !exec->ops->fpu)
        return false;
    if (insn->map == INSN_MAP_ONE && (insn->opcode == 0x9b || (insn->opcode & 0xf8) == 0xd8)) {
        *result = exec->ops->x87 ? execute_escape(exec) : INSN_UNSUPPORTED;
        return true;
    }
    if (insn->map == INSN_MAP_0F && insn->opcode == 0xae && insn->modrm < 0xc0 &&
        (insn->modrm >> 3 & 7) < 4 &&
        !(insn->prefixes & (INSN_PREFIX_REP | INSN_PREFIX_REPNE | INSN_PREFIX_OPSIZE))) {
        *result = execute_state(exec);
        return true;
    }
    return false;
}
