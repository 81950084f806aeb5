/* SPDX-License-Identifier: BSD-2-Clause */
/* Guest-physical memory, read and written through the slots. */
#include "core/object.h"

/* Most bytes that are copied with interrupts off. */
#define CHUNK 65536u

/* How many of the bytes at gpa lie in one page. */
static size_t in_page(uint64_t gpa, size_t bytes)
{
    return min_u64(bytes, VIRTX_PAGE_SIZE - gpa % VIRTX_PAGE_SIZE);
}

/* Host address of gpa within an entry, if its page has a backing now. */
static void *backing(struct virtx_vm *vm, const struct slot_entry *entry, uint64_t gpa)
{
    uint8_t *at = entry->memory + (gpa - entry->gpa);

    const void *page = (const void *)((uintptr_t)at & ~(uintptr_t)(VIRTX_PAGE_SIZE - 1));

    if (entry->flags & (VIRTX_MEMSLOT_PINNED | VIRTX_MEMSLOT_CONTIGUOUS))
        return at;
    return virtx_hpa(vm->virtx, page) == UINT64_MAX ? NULL : at;
}

void *virtx_gpa_pointer(struct virtx_vm *vm, uint64_t gpa, size_t bytes, uint32_t access)
{
    const struct slot_entry *entry = virtx_slot_find(virtx_slots(vm), gpa);

    if (!entry || (access & ~entry->rights) || in_page(gpa, bytes) != bytes)
        return NULL;
    return backing(vm, entry, gpa);
}

/* Whether all of the range is memory with these rights, so that a copy that follows is whole. */
static bool covered(struct virtx_vm *vm, const struct slot_table *slots, uint64_t gpa, size_t bytes,
                    uint32_t access)
{
    uint32_t hint = 0;

    while (bytes) {
        const struct slot_entry *entry = virtx_slot_find_near(slots, gpa, &hint);
        size_t part = in_page(gpa, bytes);

        if (!entry || (access & ~entry->rights) || !backing(vm, entry, gpa))
            return false;
        gpa += part;
        bytes -= part;
    }
    return true;
}

/* Copies a range that is covered. */
static void copy(struct virtx_vm *vm, const struct slot_table *slots, uint64_t gpa, void *to,
                 const void *from, size_t bytes)
{
    uint32_t hint = 0;
    size_t done = 0;

    while (done < bytes) {
        const struct slot_entry *entry = virtx_slot_find_near(slots, gpa, &hint);
        size_t part = min_u64(bytes - done, entry->end - gpa);
        uint8_t *at = entry->memory + (gpa - entry->gpa);

        if (to) {
            memcpy((uint8_t *)to + done, at, part);
        } else if (from) {
            memcpy(at, (const uint8_t *)from + done, part);
            virtx_slot_mark(entry, gpa, part);
            virtx_gpa_written(vm, gpa, part);
        }
        gpa += part;
        done += part;
    }
}

enum virtx_status virtx_gpa_read(struct virtx_vm *vm, uint64_t gpa, void *buffer, size_t bytes)
{
    const struct slot_table *slots = virtx_slots(vm);

    if (gpa + bytes < gpa || !covered(vm, slots, gpa, bytes, VIRTX_READ))
        return VIRTX_E_NOT_FOUND;
    copy(vm, slots, gpa, buffer, NULL, bytes);
    return VIRTX_OK;
}

enum virtx_status virtx_gpa_write(struct virtx_vm *vm, uint64_t gpa, const void *buffer,
                                  size_t bytes, bool force)
{
    const struct slot_table *slots = virtx_slots(vm);

    if (gpa + bytes < gpa || !covered(vm, slots, gpa, bytes, force ? VIRTX_READ : VIRTX_WRITE))
        return VIRTX_E_NOT_FOUND;
    copy(vm, slots, gpa, NULL, buffer, bytes);
    return VIRTX_OK;
}

static enum virtx_status not_memory(struct virtx_vm *vm, uint64_t gpa)
{
    return virtx_fail(&vm->error, VIRTX_E_NOT_FOUND, "gpa, bytes",
                      "lie in slots, with their memory present", gpa);
}

static enum virtx_status no_buffer(struct virtx_vm *vm)
{
    return virtx_fail(&vm->error, VIRTX_E_INVALID, "buffer", "is not NULL", 0);
}

/*
 * The lock is given up between chunks, so that a large copy does not keep interrupts off. A write
 * asks first for the whole range; slots that are removed meanwhile are their remover's affair.
 */
enum virtx_status virtx_vm_read(struct virtx_vm *vm, uint64_t gpa, void *buffer, size_t bytes)
{
    enum virtx_status status = VIRTX_OK;

    if (!buffer && bytes)
        return no_buffer(vm);
    if (gpa + bytes < gpa)
        return not_memory(vm, gpa);
    for (size_t done = 0; done < bytes && status == VIRTX_OK; done += CHUNK) {
        uint64_t flags = virtx_vm_lock(vm);

        status =
            virtx_gpa_read(vm, gpa + done, (uint8_t *)buffer + done, min_u64(bytes - done, CHUNK));
        virtx_vm_unlock(vm, flags);
    }
    return status == VIRTX_OK ? VIRTX_OK : not_memory(vm, gpa);
}

enum virtx_status virtx_vm_write(struct virtx_vm *vm, uint64_t gpa, const void *buffer,
                                 size_t bytes)
{
    enum virtx_status status = VIRTX_OK;
    bool whole = gpa + bytes >= gpa;

    if (!buffer && bytes)
        return no_buffer(vm);
    for (size_t done = 0; done < bytes && whole; done += CHUNK) {
        uint64_t flags = virtx_vm_lock(vm);

        whole = covered(vm, virtx_slots(vm), gpa + done, min_u64(bytes - done, CHUNK), VIRTX_READ);
        virtx_vm_unlock(vm, flags);
    }
    if (!whole)
        return not_memory(vm, gpa);
    for (size_t done = 0; done < bytes && status == VIRTX_OK; done += CHUNK) {
        uint64_t flags = virtx_vm_lock(vm);

        status = virtx_gpa_write(vm, gpa + done, (const uint8_t *)buffer + done,
                                 min_u64(bytes - done, CHUNK), true);
        virtx_vm_unlock(vm, flags);
    }
    return status == VIRTX_OK ? VIRTX_OK : not_memory(vm, gpa);
}
