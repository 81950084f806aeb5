/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the executor reaches for the guest: its linear memory, ports, and devices that answer inside
 * run or from the loop.
 *
 * The executor repeats an instruction from its start whenever an access has been answered, and
 * finds what it did before in the restart log. Here one such access is cut into pieces: at page
 * boundaries, and at a device into units of 1, 2, 4 or 8 bytes.
 */
#include "hw/emulation.h"
#include "paging/walk.h"

static enum insn_access_result page_fault(const struct virtx_event *event, struct insn_fault *fault)
{
    *fault = (struct insn_fault){.vector = event->vector,
                                 .has_error_code = event->has_error,
                                 .error_code = event->error,
                                 .address = event->address};
    return INSN_ACCESS_FAULT;
}

/* Translates for one page of the access. */
static enum insn_access_result locate(struct hw_vcpu *hv, const struct hw_access *access,
                                      uint64_t linear, uint64_t *gpa, struct insn_fault *fault)
{
    uint32_t what = access->write                        ? VIRTX_WRITE
                    : access->flags & INSN_ACCESS_MODIFY ? VIRTX_READ | VIRTX_WRITE
                                                         : VIRTX_READ;
    struct virtx_event event;

    switch (hw_translate(hv, linear, what, access->flags & INSN_ACCESS_SYSTEM ? WALK_IMPLICIT : 0,
                         gpa, &event)) {
    case HW_ACCESS_OK:
        return INSN_ACCESS_OK;
    case HW_ACCESS_FAULT:
        return page_fault(&event, fault);
    default:
        ((struct hw_emulation *)hv->emulation)->forbidden = true;
        return INSN_ACCESS_PENDING;
    }
}

static unsigned piece_in_page(uint64_t linear, unsigned left)
{
    return (unsigned)min_u64(left, VIRTX_PAGE_SIZE - (linear & (VIRTX_PAGE_SIZE - 1)));
}

/* Every page of the access allows it, before anything of it has happened. Where they lie holds for
 * all of it, as for an access of the processor's. */
static enum insn_access_result probe(struct hw_vcpu *hv, struct hw_access *access,
                                     struct insn_fault *fault)
{
    unsigned first = piece_in_page(access->linear, access->size);
    enum insn_access_result result = locate(hv, access, access->linear, &access->gpa[0], fault);

    if (result == INSN_ACCESS_OK && first < access->size)
        result = locate(hv, access, access->linear + first, &access->gpa[1], fault);
    access->probed = result == INSN_ACCESS_OK;
    return result;
}

/* Asks the device. INSN_ACCESS_PENDING: its answer comes from the loop; the record describes it. */
static enum insn_access_result device(struct hw_vcpu *hv, struct hw_access *access, uint64_t gpa,
                                      unsigned bytes)
{
    struct virtx_exit *exit = &hv->vcpu->exit;
    struct hw_emulation *em = hv->emulation;

    while (bytes & (bytes - 1)) /* 3, 5, 6, 7 bytes: the largest power of two first */
        bytes &= bytes - 1;
    if (bytes > 8)
        bytes = 8;
    access->piece = (uint8_t)bytes;
    exit->reason = VIRTX_EXIT_MMIO;
    exit->pending = false;
    exit->length = em->insn.length;
    exit->rip = hv->state.rip;
    exit->mmio = (struct virtx_exit_mmio){
        .gpa = gpa, .size = (uint8_t)bytes, .access = access->write ? VIRTX_WRITE : VIRTX_READ};
    if (access->write)
        memcpy(&exit->mmio.value, access->data + access->done, bytes);
    else
        exit->mmio.value = UINT64_MAX;
    switch (hv->rules_mmio ? hw_dispatch(hv) : VIRTX_DEFAULT) {
    case VIRTX_HANDLED:
        if (!access->write)
            memcpy(access->data + access->done, &exit->mmio.value, bytes);
        access->done = (uint8_t)(access->done + bytes);
        return INSN_ACCESS_OK;
    case VIRTX_FAULT:
        em->injected = true;
        return INSN_ACCESS_FAULT;
    default:
        return INSN_ACCESS_PENDING;
    }
}

/* A slot that does not allow the access, unless its writes are a device's. */
static bool forbidden(struct hw_vcpu *hv, uint64_t gpa, bool write)
{
    const struct slot_entry *slot = virtx_slot_find(virtx_slots(hv->vcpu->vm), gpa);
    struct hw_emulation *em = hv->emulation;

    if (!slot || (write && (slot->flags & VIRTX_MEMSLOT_WRITE_MMIO)))
        return false;
    em->forbidden = true;
    hv->fault = (struct virtx_page_fault){.gpa = gpa, .access = write ? VIRTX_WRITE : VIRTX_READ};
    return true;
}

enum insn_access_result hw_access_advance(struct hw_vcpu *hv, struct insn_fault *fault)
{
    struct hw_emulation *em = hv->emulation;
    struct hw_access *access = &em->access;
    enum insn_access_result result = INSN_ACCESS_OK;

    if (!access->probed)
        result = probe(hv, access, fault);
    while (result == INSN_ACCESS_OK && access->done < access->size) {
        uint64_t linear = access->linear + access->done;
        unsigned bytes = piece_in_page(linear, access->size - access->done);
        bool second = (access->linear ^ linear) >> 12;
        uint64_t gpa = second ? access->gpa[1] + (linear & (VIRTX_PAGE_SIZE - 1))
                              : access->gpa[0] + access->done;
        uint8_t *data = access->data + access->done;
        bool good;

        good = (access->write ? virtx_gpa_write(hv->vcpu->vm, gpa, data, bytes, false)
                              : virtx_gpa_read(hv->vcpu->vm, gpa, data, bytes)) == VIRTX_OK;
        if (good)
            access->done = (uint8_t)(access->done + bytes);
        else if (forbidden(hv, gpa, access->write))
            return INSN_ACCESS_PENDING;
        else
            result = device(hv, access, gpa, bytes);
    }
    return result;
}

static enum insn_access_result begin(struct hw_vcpu *hv, uint64_t linear, void *data, bool write,
                                     unsigned size, unsigned flags, struct insn_fault *fault)
{
    struct hw_emulation *em = hv->emulation;
    struct hw_access *access = &em->access;
    enum insn_access_result result;

    if (hw_insn_mode(hv) < INSN_64)
        linear = (uint32_t)linear;
    *access = (struct hw_access){
        .linear = linear, .size = (uint8_t)size, .write = write, .flags = (uint8_t)flags};
    if (flags & INSN_ACCESS_PROBE)
        return probe(hv, access, fault);
    if (unlikely(em->dr7) && !(flags & INSN_ACCESS_SYSTEM))
        hw_watch_data(hv, linear, size, write);
    if (write)
        memcpy(access->data, data, size);
    result = hw_access_advance(hv, fault);
    if (result == INSN_ACCESS_OK && !write)
        memcpy(data, access->data, size);
    return result;
}

static enum insn_access_result read_memory(void *context, uint64_t linear, void *data,
                                           unsigned size, unsigned flags, struct insn_fault *fault)
{
    return begin(context, linear, data, false, size, flags, fault);
}

static enum insn_access_result write_memory(void *context, uint64_t linear, const void *data,
                                            unsigned size, unsigned flags, struct insn_fault *fault)
{
    uint8_t copy[16];

    if (size > sizeof(copy))
        size = sizeof(copy);
    if (!(flags & INSN_ACCESS_PROBE))
        memcpy(copy, data, size);
    return begin(context, linear, copy, true, size, flags, fault);
}

static bool exchange_16(void *at, void *expected, const void *desired)
{
    uint64_t *e = expected;
    uint64_t d[2];
    bool same;

    memcpy(d, desired, sizeof(d));
    __asm__ volatile("lock cmpxchg16b %1"
                     : "=@cce"(same), "+m"(*(uint8_t(*)[16])at), "+a"(e[0]), "+d"(e[1])
                     : "b"(d[0]), "c"(d[1])
                     : "memory");
    return same;
}

#define EXCHANGE(type)                                                                             \
    __atomic_compare_exchange_n((type *)at, (type *)expected, *(const type *)desired, false,       \
                                __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)

/* Atomically on memory that other CPUs of the guest share. `at` may be misaligned, as the guest's
 * own locked access may. */
__attribute__((no_sanitize("alignment"))) static bool exchange(void *at, void *expected,
                                                               const void *desired, unsigned size)
{
    switch (size) {
    case 1:
        return EXCHANGE(uint8_t);
    case 2:
        return EXCHANGE(uint16_t);
    case 4:
        return EXCHANGE(uint32_t);
    case 8:
        return EXCHANGE(uint64_t);
    default:
        return exchange_16(at, expected, desired);
    }
}

static enum insn_access_result compare_exchange(void *context, uint64_t linear, void *expected,
                                                const void *desired, unsigned size, unsigned flags,
                                                struct insn_fault *fault)
{
    struct hw_vcpu *hv = context;
    struct virtx_vm *vm = hv->vcpu->vm;
    struct hw_emulation *em = hv->emulation;
    struct hw_access access = {.write = true, .flags = (uint8_t)flags};
    uint64_t gpa;
    void *at;
    enum insn_access_result result;

    if (hw_insn_mode(hv) < INSN_64)
        linear = (uint32_t)linear;
    if (piece_in_page(linear, size) == size && (size < 16 || (linear & 15) == 0)) {
        result = locate(hv, &access, linear, &gpa, fault);
        if (result != INSN_ACCESS_OK)
            return result;
        at = virtx_gpa_pointer(vm, gpa, size, VIRTX_WRITE);
        if (at) {
            const struct slot_entry *slot = virtx_slot_find(virtx_slots(vm), gpa);

            if (!exchange(at, expected, desired, size))
                return INSN_ACCESS_RACED;
            if (slot)
                virtx_slot_mark(slot, gpa, size);
            virtx_gpa_written(vm, gpa, size);
            if (unlikely(em->dr7))
                hw_watch_data(hv, linear, size, true);
            return INSN_ACCESS_OK;
        }
    }
    /* A device, or a locked access across pages: what was read a moment ago is what is there. */
    return write_memory(context, linear, desired, size, flags, fault);
}

static struct insn_msrs *system_msrs(void *context)
{
    struct hw_vcpu *hv = context;
    struct hw_emulation *em = hv->emulation;
    const struct virtx_state *state = hw_state(hv, VIRTX_STATE_SYSCALL);

    em->msrs = (struct insn_msrs){.star = state->star,
                                  .lstar = state->lstar,
                                  .fmask = state->fmask,
                                  .kernel_gs_base = state->kernel_gs_base,
                                  .sysenter_cs = state->sysenter_cs,
                                  .sysenter_esp = state->sysenter_esp,
                                  .sysenter_eip = state->sysenter_eip};
    em->has_msrs = true;
    return &em->msrs;
}

static enum insn_access_result task_cr3(void *context, uint64_t cr3, struct insn_fault *fault)
{
    struct hw_vcpu *hv = context;

    (void)fault;
    if (hw_cr_write(hv, 3, cr3))
        return INSN_ACCESS_OK;
    ((struct hw_emulation *)hv->emulation)->injected = true;
    return INSN_ACCESS_FAULT;
}

static bool vector_register(void *context, unsigned reg, void *data, bool write,
                            enum insn_vector part)
{
    return hw_fpu_vector(context, reg, data, write, part);
}

static bool fpu_image(void *context, void *image, bool write)
{
    hw_fpu_image(context, image, write);
    return true;
}

static bool x87(void *context, unsigned opcode, unsigned modrm, void *image, void *memory,
                uint64_t *flags)
{
    hw_fpu_x87(context, opcode, modrm, image, memory, flags);
    return true;
}

/* ---- Ports ---- */

/*
 * A unit of INS or OUTS whose memory is a device, so that it is the executor that goes through the
 * instruction. The record is that of any string port access of one unit.
 */
static enum insn_access_result port(struct hw_vcpu *hv, uint16_t number, void *data, unsigned size,
                                    bool write)
{
    struct virtx_exit *exit = &hv->vcpu->exit;
    struct hw_emulation *em = hv->emulation;

    em->access = (struct hw_access){.size = (uint8_t)size, .write = write, .port = true};
    if (unlikely(em->dr7))
        hw_watch_port(hv, number, size);
    exit->reason = VIRTX_EXIT_IO;
    exit->pending = false;
    exit->length = em->insn.length;
    exit->rip = hv->state.rip;
    exit->io = (struct virtx_exit_io){
        .port = number,
        .size = (uint8_t)size,
        .access = write ? VIRTX_WRITE : VIRTX_READ,
        .string = true,
        .rep = (em->insn.prefixes & (INSN_PREFIX_REP | INSN_PREFIX_REPNE)) != 0,
        .count = 1,
        .data = hv->io_buffer,
        .value = write ? hw_bytes(data, size) : hw_size_mask(size),
    };
    if (write)
        memcpy(hv->io_buffer, data, size);
    else
        memset(hv->io_buffer, 0xff, size);
    switch (hv->rules_port ? hw_dispatch(hv) : VIRTX_DEFAULT) {
    case VIRTX_HANDLED:
        if (!write)
            memcpy(data, hv->io_buffer, size);
        return INSN_ACCESS_OK;
    case VIRTX_FAULT:
        em->injected = true;
        return INSN_ACCESS_FAULT;
    default:
        return INSN_ACCESS_PENDING;
    }
}

static enum insn_access_result port_in(void *context, uint16_t number, void *data, unsigned size,
                                       struct insn_fault *fault)
{
    (void)fault;
    return port(context, number, data, size, false);
}

static enum insn_access_result port_out(void *context, uint16_t number, const void *data,
                                        unsigned size, struct insn_fault *fault)
{
    uint8_t copy[4];

    (void)fault;
    memcpy(copy, data, size);
    return port(context, number, copy, size, true);
}

#define MEMORY_AND_REGISTERS                                                                       \
    .read = read_memory, .write = write_memory, .compare_exchange = compare_exchange,              \
    .descriptors = true, .msrs = system_msrs, .task_cr3 = task_cr3, .vector = vector_register,     \
    .fpu = fpu_image, .x87 = x87

const struct insn_ops hw_insn_ops = {MEMORY_AND_REGISTERS};
const struct insn_ops hw_insn_port_ops = {MEMORY_AND_REGISTERS, .in = port_in, .out = port_out};
