/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory from the host, with its answers checked, and small objects cut from it. */
#include "core/object.h"

struct small_block {
    struct small_block *next;
};

struct small_page {
    struct small_page *next;
    _Alignas(VIRTX_SMALL_BYTES) uint8_t blocks[];
};

_Static_assert(sizeof(struct virtx_memslot) <= VIRTX_SMALL_BYTES, "fits a small block");
_Static_assert(sizeof(struct virtx_intercept) <= VIRTX_SMALL_BYTES, "fits a small block");

/* Whether the host's two views of the pages agree and they are contiguous as asked. */
static enum virtx_status judge(struct virtx *virtx, const uint8_t *memory, size_t pages,
                               struct virtx_error *error)
{
    uint64_t first;

    if ((uintptr_t)memory % VIRTX_PAGE_SIZE)
        return virtx_fail(error, VIRTX_E_HOST, "ops.pages_alloc", "returns page-aligned memory",
                          (uintptr_t)memory);
    first = virtx_hpa(virtx, memory);
    if (first % VIRTX_PAGE_SIZE || first == UINT64_MAX ||
        (virtx->caps.physical_bits && first >> virtx->caps.physical_bits))
        return virtx_fail(error, VIRTX_E_HOST, "ops.virt_to_phys",
                          "gives a page of pages_alloc a page-aligned physical address", first);
    for (size_t i = 0; i < pages; i++) {
        uint64_t hpa = virtx_hpa(virtx, memory + i * VIRTX_PAGE_SIZE);

        if (hpa != first + i * VIRTX_PAGE_SIZE)
            return virtx_fail(error, VIRTX_E_HOST, "ops.virt_to_phys",
                              "says that the pages of one pages_alloc are contiguous", hpa);
        if (virtx->ops.phys_to_virt(virtx->ctx, hpa) != memory + i * VIRTX_PAGE_SIZE)
            return virtx_fail(error, VIRTX_E_HOST, "ops.phys_to_virt", "inverts virt_to_phys", hpa);
    }
    return VIRTX_OK;
}

enum virtx_status virtx_pages_get(struct virtx *virtx, size_t pages, void **out,
                                  struct virtx_error *error)
{
    void *memory = virtx->ops.pages_alloc(virtx->ctx, pages);
    enum virtx_status status;

    *out = NULL;
    if (!memory)
        return virtx_fail(error, VIRTX_E_NO_MEMORY, "ops.pages_alloc", "the host has no pages left",
                          pages);
    status = judge(virtx, memory, pages, error);
    if (status != VIRTX_OK) {
        virtx->ops.pages_free(virtx->ctx, memory, pages);
        return status;
    }
    memset(memory, 0, pages * VIRTX_PAGE_SIZE);
    *out = memory;
    return VIRTX_OK;
}

void *virtx_pages_alloc(struct virtx *virtx, size_t pages)
{
    void *memory;

    (void)virtx_pages_get(virtx, pages, &memory, NULL);
    return memory;
}

void virtx_pages_free(struct virtx *virtx, void *memory, size_t pages)
{
    if (memory)
        virtx->ops.pages_free(virtx->ctx, memory, pages);
}

static enum virtx_status small_refill(struct virtx_vm *vm, struct virtx_error *error)
{
    void *memory;
    struct small_page *page;
    enum virtx_status status = virtx_pages_get(vm->virtx, 1, &memory, error);

    if (!memory)
        return status;
    page = memory;
    page->next = vm->small_pages;
    vm->small_pages = page;
    for (uint8_t *at = page->blocks; at + VIRTX_SMALL_BYTES <= (uint8_t *)page + VIRTX_PAGE_SIZE;
         at += VIRTX_SMALL_BYTES)
        virtx_small_put(vm, at);
    return VIRTX_OK;
}

void *virtx_small_get(struct virtx_vm *vm, struct virtx_error *error)
{
    struct small_block *block;

    if (!vm->small_free)
        (void)small_refill(vm, error);
    block = vm->small_free;
    if (!block)
        return NULL;
    vm->small_free = block->next;
    memset(block, 0, VIRTX_SMALL_BYTES);
    return block;
}

void virtx_small_put(struct virtx_vm *vm, void *memory)
{
    struct small_block *block = memory;

    block->next = vm->small_free;
    vm->small_free = block;
}

void virtx_small_destroy(struct virtx_vm *vm)
{
    while (vm->small_pages) {
        struct small_page *page = vm->small_pages;

        vm->small_pages = page->next;
        virtx_pages_free(vm->virtx, page, 1);
    }
    vm->small_free = NULL;
}
