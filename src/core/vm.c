/* SPDX-License-Identifier: BSD-2-Clause */
/* Virtual machines: their life, and what an engine or backend asks of them. */
#include "core/object.h"

#define MAX_VCPUS 255u

static enum virtx_status check_config(const struct virtx_vm_config *config,
                                      struct virtx_error *error)
{
    if (config->size < sizeof(*config))
        return virtx_fail(error, VIRTX_E_SIZE, "config.size", "covers the whole structure",
                          config->size);
    if (config->max_vcpus > MAX_VCPUS)
        return virtx_fail(error, VIRTX_E_INVALID, "config.max_vcpus", "is at most 255",
                          config->max_vcpus);
    if (config->pool_pages && config->pool_reserve > config->pool_pages)
        return virtx_fail(error, VIRTX_E_INVALID, "config.pool_reserve", "is within pool_pages",
                          config->pool_reserve);
    for (size_t i = 0; i < sizeof(config->pad); i++)
        if (config->pad[i])
            return virtx_fail(error, VIRTX_E_INVALID, "config.pad", "is zero", config->pad[i]);
    return VIRTX_OK;
}

/* The engine asked for, or the first that works; NULL for backends that need none. */
/* Where the library delivers interrupts itself in some mode of the guest's, they must exit. */
static enum virtx_status check_interrupts(struct virtx *virtx, const struct virtx_vm_config *config,
                                          const struct virtx_paging *engine)
{
    if (config->table_sync > VIRTX_TABLE_SYNC_DROP)
        return virtx_fail(&virtx->error, VIRTX_E_INVALID, "config.table_sync",
                          "is one of enum virtx_table_sync", config->table_sync);
    if (config->interrupts_to_guest &&
        (!engine || !engine->nested || !(virtx->caps.features & VIRTX_FEATURE_UNPAGED_GUEST)))
        return virtx_fail(&virtx->error, VIRTX_E_UNSUPPORTED, "config.interrupts_to_guest",
                          "needs nested paging, and a processor that runs all modes with it", 0);
    return VIRTX_OK;
}

static enum virtx_status choose_engine(struct virtx *virtx, const struct virtx_paging *wanted,
                                       const struct virtx_paging **engine)
{
    *engine = NULL;
    if (virtx->paging)
        for (const struct virtx_paging *const *p = virtx->paging; *p; p++) {
            if (wanted ? *p != wanted : !virtx_paging_fits(virtx, *p))
                continue;
            if (!virtx_paging_fits(virtx, *p))
                return virtx_fail(&virtx->error, VIRTX_E_UNSUPPORTED, "config.paging",
                                  "is an engine that this processor can run", 0);
            *engine = *p;
            return VIRTX_OK;
        }
    if (wanted)
        return virtx_fail(&virtx->error, VIRTX_E_INVALID, "config.paging",
                          "is one of those given to virtx_open()", 0);
    return VIRTX_OK;
}

static void vm_free(struct virtx_vm *vm)
{
    struct virtx *virtx = vm->virtx;

    virtx_slots_destroy(vm);
    virtx_cpuid_destroy(vm);
    virtx_pool_destroy(vm);
    virtx_small_destroy(vm);
    while (vm->retired) {
        struct retired *retired = vm->retired;

        vm->retired = retired->next;
        virtx_retired_free(virtx, retired);
    }
    virtx_pages_free(virtx, vm->backend_data, pages_for(virtx->backend->vm_bytes));
    virtx_pages_free(virtx, vm, vm->pages);
}

/* What can fail, in order; on failure the caller frees everything but the engine's and the
 * backend's own. */
static enum virtx_status vm_init(struct virtx_vm *vm)
{
    struct virtx *virtx = vm->virtx;
    enum virtx_status status = VIRTX_OK;
    uint64_t flags;

    if (virtx->backend->vm_bytes)
        status = virtx_pages_get(virtx, pages_for(virtx->backend->vm_bytes), &vm->backend_data,
                                 &vm->error);
    if (status == VIRTX_OK)
        status = virtx_vm_pool_fill(vm, vm->config.pool_reserve);
    if (status != VIRTX_OK)
        return status;
    virtx_cpuid_default(vm);
    flags = virtx_vm_lock(vm);
    if (vm->paging)
        status = vm->paging->vm_create(vm);
    if (status == VIRTX_OK) {
        status = virtx->backend->vm_create(vm);
        if (status != VIRTX_OK && vm->paging)
            vm->paging->vm_destroy(vm);
    }
    virtx_vm_unlock(vm, flags);
    return status;
}

enum virtx_status virtx_vm_create(struct virtx *virtx, const struct virtx_vm_config *config,
                                  struct virtx_vm **out)
{
    static const struct virtx_vm_config defaults = {.size = sizeof(defaults)};
    const struct virtx_paging *engine;
    size_t object = (sizeof(struct virtx_vm) + 63) & ~(size_t)63, pages, room, vcpu_room;
    enum virtx_status status;
    struct virtx_vm *vm;
    void *memory;

    if (!config)
        config = &defaults;
    if (!out)
        return virtx_fail(&virtx->error, VIRTX_E_INVALID, "out", "is not NULL", 0);
    status = check_config(config, &virtx->error);
    if (status == VIRTX_OK)
        status = choose_engine(virtx, config->paging, &engine);
    if (status == VIRTX_OK)
        status = check_interrupts(virtx, config, engine);
    if (status != VIRTX_OK)
        return status;
    virtx_paging_room(virtx, &room, &vcpu_room);
    pages = pages_for(object + 2 * room);
    status = virtx_pages_get(virtx, pages, &memory, &virtx->error);
    if (status != VIRTX_OK)
        return status;
    vm = memory;
    vm->virtx = virtx;
    vm->pages = (uint32_t)pages;
    vm->config = *config;
    vm->config.size = sizeof(*config);
    if (!vm->config.max_vcpus)
        vm->config.max_vcpus = MAX_VCPUS;
    vm->error = (struct virtx_error){VIRTX_OK, "", "", "", 0};
    vm->paging = engine;
    vm->paging_data = vm->paging_base = (uint8_t *)vm + object;
    status = vm_init(vm);
    if (status != VIRTX_OK) {
        if (vm->error.status != status)
            virtx_fail(&vm->error, status, "VM", "its engine or backend could not be set up", 0);
        virtx->error = vm->error;
        vm_free(vm);
        return status;
    }
    atomic_fetch_add(&virtx->vms, 1);
    *out = vm;
    return VIRTX_OK;
}

enum virtx_status virtx_vm_destroy(struct virtx_vm *vm)
{
    struct virtx *virtx = vm->virtx;
    uint64_t flags = virtx_vm_lock(vm);

    if (vm->vcpus) {
        virtx_fail(&vm->error, VIRTX_E_BUSY, "VM", "has no vcpus when it is destroyed",
                   vm->vcpu_count);
        virtx_vm_unlock(vm, flags);
        return VIRTX_E_BUSY;
    }
    virtx->backend->vm_destroy(vm);
    if (vm->paging)
        vm->paging->vm_destroy(vm);
    virtx_intercepts_drop(vm, NULL);
    virtx_vm_unlock(vm, flags);
    vm_free(vm);
    atomic_fetch_sub(&virtx->vms, 1);
    return VIRTX_OK;
}

const struct virtx_error *virtx_vm_last_error(const struct virtx_vm *vm)
{
    return &vm->error;
}

void *virtx_backend_vm(struct virtx_vm *vm)
{
    return vm->backend_data;
}

void *virtx_paging_vm(struct virtx_vm *vm)
{
    return vm->paging_data;
}
