/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * String port access: INS and OUTS, with REP, between a port and guest linear memory.
 *
 * One exit carries as many units as fit VIRTX_IO_BATCH and as memory allows without a fault. What
 * is left of a REP is executed again by the guest, and exits again.
 */
#include "hw/emulation.h"

const uint64_t hw_size_masks[] = {
    0,
    0xff,
    0xffff,
    0xffffff,
    0xffffffff,
    0xffffffffff,
    0xffffffffffff,
    0xffffffffffffff,
    UINT64_MAX,
};

enum { WRITE_BYTES = 16 }; /* what hw_linear_write() takes at once */

static uint64_t address_mask(unsigned bytes)
{
    return bytes == 8 ? UINT64_MAX : (1ull << bytes * 8) - 1;
}

static void counter_write(struct hw_vcpu *hv, unsigned reg, uint64_t value, unsigned address_size)
{
    /* A 16-bit address size keeps the upper part of the register, as for any operand. */
    hw_gpr_write(hv, reg, value, address_size);
}

/* Finds out what the exit does not say: address size and segment. False: the exit is dealt with. */
static bool decode(struct hw_vcpu *hv, struct insn *insn, enum virtx_status *status)
{
    struct hw_fetch fetch;
    const struct hw_line *line = hw_code(hv, &fetch);

    if (line && (line->insn.op == INSN_OP_INS || line->insn.op == INSN_OP_OUTS)) {
        *insn = line->insn;
        hv->vcpu->exit.length = insn->length;
        return true;
    }
    if (!line && fetch.access == HW_ACCESS_FAULT)
        hw_raise(hv, &fetch.event);
    /* Otherwise another CPU has changed the code meanwhile: what is there now will run. */
    (void)status;
    return false;
}

/* Where unit `i` lies; false: an exception for it is in *event. */
static bool unit_address(struct hw_vcpu *hv, const struct insn *insn, bool write, unsigned i,
                         uint64_t *linear, struct virtx_event *event)
{
    unsigned size = hv->vcpu->exit.io.size;
    bool down = hw_state(hv, VIRTX_STATE_RFLAGS)->rflags & RFLAGS_DF;
    uint64_t offset = hv->state.gpr[write ? VIRTX_RDI : VIRTX_RSI];

    offset = down ? offset - (uint64_t)i * size : offset + (uint64_t)i * size;
    return hw_segment_address(hv, write ? VIRTX_ES : insn->mem.segment,
                              offset & address_mask(insn->address_size), size, write, linear,
                              event);
}

/* How many units from `i` lie behind each other in at most `bytes` of one page, upwards, with no
 * limit between them: what the first and the last may do, all may. 1: the unit is looked at by
 * itself. */
static unsigned stretch(struct hw_vcpu *hv, const struct insn *insn, bool write, unsigned i,
                        unsigned units, size_t bytes, uint64_t *linear)
{
    unsigned size = hv->vcpu->exit.io.size, count;
    struct virtx_event event;
    uint64_t last;

    if (hw_state(hv, VIRTX_STATE_RFLAGS)->rflags & RFLAGS_DF ||
        !unit_address(hv, insn, write, i, linear, &event))
        return 1;
    bytes = (size_t)min_u64(bytes, VIRTX_PAGE_SIZE - *linear % VIRTX_PAGE_SIZE);
    count = (unsigned)min_u64(units - i, bytes / size);
    if (count < 2 || !unit_address(hv, insn, write, i + count - 1, &last, &event) ||
        last != *linear + (uint64_t)(count - 1) * size)
        return 1;
    return count;
}

/* Fetches what OUTS writes, or makes sure that what INS reads can be stored. Returns the units that
 * can be done; 0: *event or *result says why. */
static unsigned gather(struct hw_vcpu *hv, const struct insn *insn, unsigned units, bool in,
                       struct virtx_event *event, enum hw_access_result *result)
{
    unsigned size = hv->vcpu->exit.io.size, i, count;

    *result = HW_ACCESS_OK;
    for (i = 0; i < units; i += count) {
        uint64_t linear;

        count = stretch(hv, insn, in, i, units, VIRTX_PAGE_SIZE, &linear);
        if (count > 1 && (in ? hw_linear_probe_write(hv, linear, (size_t)count * size, event)
                             : hw_linear_read(hv, linear, hv->io_buffer + i * size,
                                              (size_t)count * size, event)) == HW_ACCESS_OK)
            continue;
        count = 1; /* what is wrong is found unit by unit */
        if (!unit_address(hv, insn, in, i, &linear, event))
            *result = HW_ACCESS_FAULT;
        else if (in)
            *result = hw_linear_probe_write(hv, linear, size, event);
        else
            *result = hw_linear_read(hv, linear, hv->io_buffer + i * size, size, event);
        if (*result != HW_ACCESS_OK)
            break;
    }
    return i;
}

bool hw_io(struct hw_vcpu *hv, enum virtx_status *status)
{
    struct virtx_exit_io *io = &hv->vcpu->exit.io;
    struct hw_string *string = &hv->soft->string;
    struct virtx_event event;
    enum hw_access_result result;
    struct insn insn;
    uint64_t left = 1;
    unsigned units;
    bool in = io->access == VIRTX_READ;

    if (!decode(hv, &insn, status))
        return true;
    if (io->rep)
        left = hv->state.gpr[VIRTX_RCX] & address_mask(insn.address_size);
    if (left == 0) {
        hv->ops->advance(hv);
        return true;
    }
    if (hw_breakpoints_on(hv))
        return hw_execute_string_io(hv, &insn, status);
    units = (unsigned)min_u64(left, VIRTX_IO_BATCH / io->size);
    if (unlikely(hw_state(hv, VIRTX_STATE_RFLAGS)->rflags & RFLAGS_TF))
        units = 1; /* it traps after each iteration */
    units = gather(hv, &insn, units, in, &event, &result);
    if (units == 0 && result == HW_ACCESS_FAULT) {
        hw_raise(hv, &event);
        return true;
    }
    if (units == 0 && result == HW_ACCESS_NONE)
        return hw_memory_exit(hv);
    if (units == 0) /* memory that is itself a device: the executor reaches it */
        return hw_execute_string_io(hv, &insn, status);

    string->address_size = insn.address_size;
    string->rep = io->rep;
    io->count = units;
    io->data = hv->io_buffer;
    io->value = 0;
    if (in)
        memset(hv->io_buffer, 0xff, (size_t)units * io->size);
    else
        memcpy(&io->value, hv->io_buffer, units == 1 ? io->size : 0);
    if (in && units == 1)
        io->value = address_mask(io->size);
    return hw_offer(hv, status);
}

/* Where INS stores unit i: again computed, the registers may not have been changed meanwhile. */
static bool store(struct hw_vcpu *hv, unsigned units, unsigned *done)
{
    const struct virtx_exit_io *io = &hv->vcpu->exit.io;
    struct insn insn = {.address_size = hv->soft->string.address_size};
    struct virtx_event event;
    unsigned count;

    for (*done = 0; *done < units; *done += count) {
        uint64_t linear;
        enum hw_access_result result = HW_ACCESS_FAULT;

        count = stretch(hv, &insn, true, *done, units, WRITE_BYTES, &linear);
        if (count > 1 && hw_linear_write(hv, linear, hv->io_buffer + *done * io->size,
                                         (size_t)count * io->size, &event) == HW_ACCESS_OK)
            continue;
        count = 1;
        if (unit_address(hv, &insn, true, *done, &linear, &event))
            result =
                hw_linear_write(hv, linear, hv->io_buffer + *done * io->size, io->size, &event);
        if (result == HW_ACCESS_FAULT) {
            /* The guest's tables have changed under the access. */
            hw_raise(hv, &event);
            return false;
        }
    }
    return true;
}

/* With breakpoints on it is the executor that does the instruction. */
static void iterated(struct hw_vcpu *hv)
{
    hw_iterated(hv);
    if (unlikely(hv->state.rflags & RFLAGS_TF))
        hw_single_step(hv);
}

void hw_io_complete(struct hw_vcpu *hv)
{
    struct virtx_exit_io *io = &hv->vcpu->exit.io;
    const struct hw_string string = hv->soft->string;
    unsigned done = io->count;
    bool in = io->access == VIRTX_READ, stored = true, down;
    unsigned reg = in ? VIRTX_RDI : VIRTX_RSI;
    uint64_t bytes, left;

    if (in)
        stored = store(hv, io->count, &done);
    down = hw_state(hv, VIRTX_STATE_RFLAGS)->rflags & RFLAGS_DF;
    bytes = (uint64_t)done * io->size;
    counter_write(hv, reg, down ? hv->state.gpr[reg] - bytes : hv->state.gpr[reg] + bytes,
                  string.address_size);
    if (!string.rep) {
        if (stored)
            hw_retire(hv);
        return;
    }
    left = (hv->state.gpr[VIRTX_RCX] - done) & address_mask(string.address_size);
    counter_write(hv, VIRTX_RCX, left, string.address_size);
    if (stored && left == 0)
        hw_retire(hv);
    else if (stored)
        iterated(hv);
}
