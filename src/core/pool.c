/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The pool of pages for translation tables: bounded, with a reserve that the embedder tops up. A
 * free page holds its own list link.
 *
 * A page that waits for its generation is one that processors may still be walking: what the pool
 * writes into it must read as entries that are not present. In the formats of all engines an entry
 * is present by one of its three low bits, which links, being addresses of pages, do not have;
 * generations are kept above them.
 */
#include "core/object.h"

#define GENERATION_SHIFT 3

static void push(struct retired **list, struct retired *page)
{
    __atomic_store_n(&page->next, *list, __ATOMIC_RELAXED); /* processors may be reading it */
    *list = page;
}

static struct retired *pop(struct retired **list)
{
    struct retired *page = *list;

    *list = page->next;
    return page;
}

/* [page_lock] Waiting pages whose generation has settled become free. */
static void collect(struct virtx_vm *vm)
{
    struct retired **link = &vm->pool_waiting;

    while (*link) {
        struct retired *page = *link;

        if (!virtx_is_settled(vm, page->generation >> GENERATION_SHIFT)) {
            link = &page->next;
            continue;
        }
        *link = page->next;
        vm->pool_waiting_count--;
        push(&vm->pool_free, page);
        vm->pool_free_count++;
    }
}

/* [page_lock] Whether the bound lets the pool have one more page of the host's. */
static bool may_grow(const struct virtx_vm *vm)
{
    return vm->config.pool_pages == 0 ||
           vm->pool_used + vm->pool_free_count + vm->pool_waiting_count < vm->config.pool_pages;
}

void *virtx_pool_get(struct virtx_vm *vm)
{
    void *page = NULL;

    virtx_lock(&vm->page_lock);
    if (!vm->pool_free)
        collect(vm);
    if (vm->pool_free) {
        page = pop(&vm->pool_free);
        vm->pool_free_count--;
        memset(page, 0, VIRTX_PAGE_SIZE);
    } else if (may_grow(vm)) {
        page = virtx_pages_alloc(vm->virtx, 1);
    }
    vm->pool_used += page != NULL;
    virtx_unlock(&vm->page_lock);
    return page;
}

void virtx_pool_put(struct virtx_vm *vm, void *memory, uint64_t generation)
{
    struct retired *page = memory;

    virtx_lock(&vm->page_lock);
    vm->pool_used--;
    __atomic_store_n(&page->generation, generation << GENERATION_SHIFT, __ATOMIC_RELAXED);
    if (generation == 0) {
        push(&vm->pool_free, page);
        vm->pool_free_count++;
    } else {
        push(&vm->pool_waiting, page);
        vm->pool_waiting_count++;
    }
    virtx_unlock(&vm->page_lock);
}

void virtx_pool_reap(struct virtx_vm *vm)
{
    virtx_lock(&vm->page_lock);
    collect(vm);
    while (vm->pool_free_count > vm->pool_target) {
        virtx_pages_free(vm->virtx, pop(&vm->pool_free), 1);
        vm->pool_free_count--;
    }
    virtx_unlock(&vm->page_lock);
}

/* One page at a time, so that interrupts and faults get their turn. */
static enum virtx_status grow(struct virtx_vm *vm, uint64_t pages, bool *done)
{
    uint64_t flags = virtx_lock_irq(&vm->page_lock);
    enum virtx_status status = VIRTX_OK;
    void *page = NULL;

    if (vm->pool_free_count < pages)
        collect(vm);
    if (vm->pool_target < pages)
        vm->pool_target = pages;
    *done = vm->pool_free_count >= pages;
    if (!*done && !may_grow(vm))
        status = virtx_fail(&vm->error, VIRTX_E_NO_MEMORY, "config.pool_pages", "bounds the pool",
                            vm->config.pool_pages);
    else if (!*done)
        status = virtx_pages_get(vm->virtx, 1, &page, &vm->error);
    if (page) {
        push(&vm->pool_free, page);
        vm->pool_free_count++;
    }
    virtx_unlock_irq(&vm->page_lock, flags);
    return status;
}

enum virtx_status virtx_vm_pool_fill(struct virtx_vm *vm, uint64_t pages)
{
    enum virtx_status status = VIRTX_OK;
    bool done = false;

    while (status == VIRTX_OK && !done)
        status = grow(vm, pages, &done);
    return status;
}

void virtx_pool_destroy(struct virtx_vm *vm)
{
    while (vm->pool_free)
        virtx_pages_free(vm->virtx, pop(&vm->pool_free), 1);
    while (vm->pool_waiting)
        virtx_pages_free(vm->virtx, pop(&vm->pool_waiting), 1);
    vm->pool_free_count = 0;
    vm->pool_waiting_count = 0;
}
