/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * String instructions with their repeat prefixes, and port input and output.
 */
#include "insn/segment.h"

/* The TSS's bitmap (Intel SDM, "I/O Permission Bit Map"). Two bytes of it are read, whatever the
 * access. */
static enum insn_result check_map(struct exec *exec, uint16_t port, unsigned size)
{
    const struct insn_seg *tr = &exec->cpu->tr;
    uint16_t map = 0, bits = 0;
    uint32_t at;
    enum insn_result result = read_io_map(exec, &map);

    if (result)
        return result;
    at = map + port / 8u;
    if (at + 1 > tr->limit)
        return raise_code(exec, VECTOR_GP, 0);
    result = read_memory(exec, tr->base + at, &bits, 2, INSN_ACCESS_SYSTEM);
    if (!result && (bits >> (port & 7) & ((1u << size) - 1)))
        return raise_code(exec, VECTOR_GP, 0);
    return result;
}

/* I/O is free in real mode and where CPL <= IOPL; elsewhere the TSS's bitmap decides. */
enum insn_result check_io(struct exec *exec, uint16_t port, unsigned size)
{
    const struct insn_cpu *cpu = exec->cpu;
    enum insn_access_result result;

    if (real_mode(cpu) || (!virtual_8086(cpu) && cpu->cpl <= (cpu->rflags >> 12 & 3)))
        return INSN_OK;
    if (!exec->ops->io_permitted)
        return exec->ops->descriptors ? check_map(exec, port, size) : INSN_UNSUPPORTED;
    result = exec->ops->io_permitted(exec->context, port, size, exec->fault);
    return result == INSN_ACCESS_OK      ? INSN_OK
           : result == INSN_ACCESS_FAULT ? INSN_FAULT
                                         : INSN_UNSUPPORTED;
}

enum insn_result execute_io(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    bool input = insn->op == INSN_OP_IN;
    const struct insn_operand *at = &insn->operand[input ? 1 : 0];
    unsigned size = insn->operand[input ? 0 : 1].size;
    uint16_t port = (uint16_t)(at->kind == INSN_IMM ? insn->imm : exec->cpu->gpr[RDX]);
    uint64_t value = 0;
    enum insn_result result;

    result = check_io(exec, port, size);
    if (result)
        return result;
    if (!(input ? (void *)exec->ops->in : (void *)exec->ops->out))
        return INSN_SYSTEM;
    if (!input) {
        value = read_gpr(exec, RAX, size);
        return port_out(exec, port, &value, size);
    }
    result = port_in(exec, port, &value, size);
    if (!result)
        stage_gpr(exec, RAX, size, value);
    return result;
}

/* The checked address of the string element at rSI or rDI. */
static enum insn_result element(struct exec *exec, unsigned reg, unsigned size, bool write,
                                uint64_t *linear)
{
    unsigned segment = reg == RSI ? exec->insn->mem.segment : INSN_ES;

    return segment_address(exec, segment, read_gpr(exec, reg, exec->insn->address_size), size,
                           write, linear);
}

static enum insn_result read_element(struct exec *exec, unsigned reg, unsigned size,
                                     uint64_t *value)
{
    enum insn_result result;
    uint64_t linear;

    *value = 0;
    result = element(exec, reg, size, false, &linear);
    return result ? result : read_memory(exec, linear, value, size, 0);
}

static enum insn_result write_element(struct exec *exec, unsigned size, uint64_t value)
{
    enum insn_result result;
    uint64_t linear;

    result = element(exec, RDI, size, true, &linear);
    return result ? result : write_memory(exec, linear, &value, size, 0);
}

static enum insn_result input_element(struct exec *exec, unsigned size)
{
    uint16_t port = (uint16_t)exec->cpu->gpr[RDX];
    enum insn_result result;
    uint64_t linear, value = 0;

    /* The destination is checked first: a port must not be read in vain. */
    result = check_io(exec, port, size);
    if (!result && !exec->ops->in)
        result = INSN_SYSTEM;
    if (!result)
        result = element(exec, RDI, size, true, &linear);
    if (!result)
        result = probe_write(exec, linear, size);
    if (!result)
        result = port_in(exec, port, &value, size);
    return result ? result : write_memory(exec, linear, &value, size, 0);
}

static enum insn_result output_element(struct exec *exec, unsigned size)
{
    uint16_t port = (uint16_t)exec->cpu->gpr[RDX];
    enum insn_result result;
    uint64_t value;

    result = check_io(exec, port, size);
    if (!result && !exec->ops->out)
        result = INSN_SYSTEM;
    if (!result)
        result = read_element(exec, RSI, size, &value);
    return result ? result : port_out(exec, port, &value, size);
}

static void step(struct exec *exec, unsigned reg, unsigned size)
{
    uint64_t by = exec->cpu->rflags & FLAG_DF ? 0 - (uint64_t)size : size;

    stage_gpr(exec, reg, exec->insn->address_size, exec->cpu->gpr[reg] + by);
}

static enum insn_result compare_elements(struct exec *exec, unsigned size)
{
    uint64_t a = read_gpr(exec, RAX, size), b;
    enum insn_result result = INSN_OK;

    if (exec->insn->op == INSN_OP_CMPS)
        result = read_element(exec, RSI, size, &a);
    if (!result)
        result = read_element(exec, RDI, size, &b);
    if (!result)
        (void)compute_of(INSN_OP_CMP)(exec, a, b, size);
    return result;
}

/* One iteration. */
static enum insn_result iterate(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    unsigned size =
        insn->operand[0].kind == INSN_MEM_DST ? insn->operand[0].size : insn->operand[1].size;
    bool source = true, destination = true;
    enum insn_result result;
    uint64_t value;

    switch (insn->op) {
    case INSN_OP_MOVS:
        result = read_element(exec, RSI, size, &value);
        if (!result)
            result = write_element(exec, size, value);
        break;
    case INSN_OP_STOS:
        source = false;
        result = write_element(exec, size, exec->cpu->gpr[RAX]);
        break;
    case INSN_OP_LODS:
        destination = false;
        result = read_element(exec, RSI, size, &value);
        if (!result)
            stage_gpr(exec, RAX, size, value);
        break;
    case INSN_OP_INS:
        source = false;
        result = input_element(exec, size);
        break;
    case INSN_OP_OUTS:
        destination = false;
        result = output_element(exec, size);
        break;
    default:
        source = insn->op == INSN_OP_CMPS;
        result = compare_elements(exec, size);
        break;
    }
    if (source)
        step(exec, RSI, size);
    if (destination)
        step(exec, RDI, size);
    return result;
}

/* REPE and REPNE end a comparison by ZF as well. */
static bool ends(const struct exec *exec)
{
    bool equal = exec->flags & FLAG_ZF;

    if (exec->insn->op != INSN_OP_CMPS && exec->insn->op != INSN_OP_SCAS)
        return false;
    return exec->insn->prefixes & INSN_PREFIX_REP ? !equal : equal;
}

enum insn_result execute_string(struct exec *exec)
{
    const struct insn *insn = exec->insn;
    unsigned size = insn->address_size;
    enum insn_result result;

    if (!(insn->prefixes & (INSN_PREFIX_REP | INSN_PREFIX_REPNE)))
        return iterate(exec);
    for (;;) {
        uint64_t count = read_gpr(exec, RCX, size);

        if (!count)
            return INSN_OK;
        if (!exec->iterations--)
            return INSN_AGAIN;
        result = iterate(exec);
        if (result)
            return result;
        stage_gpr(exec, RCX, size, count - 1);
        if (count == 1 || ends(exec))
            return INSN_OK;
        commit(exec);
    }
}
