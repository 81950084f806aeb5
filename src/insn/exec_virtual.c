/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Virtual-8086 mode where IOPL or CR4.VME decide: flags with a virtual IF, and INT n through the
 * program's own vector table (Intel SDM, "Interrupt and Exception Handling in Virtual-8086 Mode",
 * "Protected-Mode Virtual Interrupts").
 */
#include "insn/segment.h"

enum { TSS_MAP = 0x66, TSS_BYTES = 0x68, REDIRECTION_BYTES = 32 };

bool virtual_restricted(const struct exec *exec)
{
    return virtual_8086(exec->cpu) && (exec->cpu->rflags & FLAG_IOPL) != FLAG_IOPL;
}

enum insn_result virtual_flags(struct exec *exec, unsigned size)
{
    return (exec->cpu->cr4 & CR4_VME) && size == 2 ? INSN_OK : raise_code(exec, VECTOR_GP, 0);
}

uint64_t virtual_image(const struct exec *exec)
{
    uint64_t flags = exec->cpu->rflags;

    return (flags & ~(uint64_t)FLAG_IF) | FLAG_IOPL | (flags & FLAG_VIF ? FLAG_IF : 0);
}

enum insn_result virtual_pop(struct exec *exec, uint64_t image)
{
    if ((image & FLAG_TF) || ((image & FLAG_IF) && (exec->cpu->rflags & FLAG_VIP)))
        return raise_code(exec, VECTOR_GP, 0);
    stage_flags(exec, poppable_flags(exec, 2) | FLAG_VIF, /* IF is not among them */
                (image & ~(uint64_t)FLAG_VIF) | (image & FLAG_IF ? FLAG_VIF : 0));
    return INSN_OK;
}

/* Only a 32-bit TSS has maps. */
enum insn_result read_io_map(struct exec *exec, uint16_t *map)
{
    const struct insn_seg *tr = &exec->cpu->tr;

    if (!(tr->attributes & 8) || (tr->attributes & AR_UNUSABLE) || tr->limit < TSS_BYTES - 1)
        return raise_code(exec, VECTOR_GP, 0);
    return read_memory(exec, tr->base + TSS_MAP, map, 2, INSN_ACCESS_SYSTEM);
}

/* Its bit in the redirection map, which lies below the I/O permission map. */
static enum insn_result read_redirection(struct exec *exec, unsigned vector, bool *redirected)
{
    const struct insn_seg *tr = &exec->cpu->tr;
    uint16_t map = 0;
    uint8_t bits = 0;
    uint32_t at;
    enum insn_result result = read_io_map(exec, &map);

    if (result)
        return result;
    at = map - REDIRECTION_BYTES + vector / 8;
    if (at > tr->limit)
        return raise_code(exec, VECTOR_GP, 0);
    result = read_memory(exec, tr->base + at, &bits, 1, INSN_ACCESS_SYSTEM);
    *redirected = !(bits >> (vector & 7) & 1);
    return result;
}

static enum insn_result redirect(struct exec *exec, unsigned vector)
{
    const struct insn_cpu *cpu = exec->cpu;
    bool restricted = virtual_restricted(exec);
    uint16_t entry[2];
    enum insn_result result = read_memory(exec, vector * 4, entry, 4, 0);

    if (!result)
        result = push_value(exec, restricted ? virtual_image(exec) : cpu->rflags, 2);
    if (!result)
        result = push_value(exec, cpu->seg[INSN_CS].selector, 2);
    if (!result)
        result = push_value(exec, exec->rip, 2);
    if (!result)
        result = jump_far(exec, entry[1], entry[0]);
    stage_flags(exec, FLAG_TF | FLAG_RF | FLAG_NT | (restricted ? FLAG_VIF : FLAG_IF), 0);
    return result;
}

enum insn_result virtual_interrupt(struct exec *exec, const struct insn_event *event)
{
    bool redirected = false;
    enum insn_result result = INSN_OK;

    if (exec->cpu->cr4 & CR4_VME) {
        if (!exec->ops->descriptors)
            return INSN_UNSUPPORTED;
        result = read_redirection(exec, event->vector, &redirected);
    }
    if (result)
        return result;
    if (redirected)
        return redirect(exec, event->vector);
    return virtual_restricted(exec) ? raise_code(exec, VECTOR_GP, 0)
                                    : deliver(exec, event, exec->rip);
}
