/* SPDX-License-Identifier: BSD-2-Clause */
/* The library bound to one host: virtx_open() and virtx_close(). */
#include "core/object.h"

#define MAX_CPUS     4096u
#define ALL_FEATURES ((uint64_t)VIRTX_FEATURE_VIRTUAL_X2APIC * 2 - 1)

static const struct virtx_error no_error = {VIRTX_OK, "", "", "", 0};

/* A member of a table of functions, for the questions that are the same for all of them. */
struct member {
    const char *name;
    size_t offset;
};

/* The name of the first that is NULL, or NULL if none is. */
static const char *missing(const void *table, const struct member *members, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        void *function;

        memcpy(&function, (const char *)table + members[i].offset, sizeof(function));
        if (!function)
            return members[i].name;
    }
    return NULL;
}

static enum virtx_status check_ops(const struct virtx_host_ops *ops, struct virtx_error *error)
{
#define OP(name)                                                                                   \
    {                                                                                              \
        "ops." #name, offsetof(struct virtx_host_ops, name)                                        \
    }
    static const struct member required[] = {
        OP(pages_alloc),  OP(pages_free), OP(virt_to_phys),
        OP(phys_to_virt), OP(this_cpu),   OP(kick_cpu),
    };
#undef OP
    const char *name;

    if (!ops)
        return virtx_fail(error, VIRTX_E_INVALID, "config.ops", "is not NULL", 0);
    if (ops->size < offsetof(struct virtx_host_ops, log))
        return virtx_fail(error, VIRTX_E_SIZE, "ops.size", "covers the required operations",
                          ops->size);
    if (ops->reserved)
        return virtx_fail(error, VIRTX_E_INVALID, "ops.reserved", "is zero", ops->reserved);
    name = missing(ops, required, ARRAY_SIZE(required));
    if (name)
        return virtx_fail(error, VIRTX_E_MISSING_OP, name, "is required of every host", 0);
    return VIRTX_OK;
}

static enum virtx_status check_profile(const struct virtx_host_profile *profile,
                                       struct virtx_error *error)
{
    uint32_t twice;

    if (profile->size < sizeof(*profile))
        return virtx_fail(error, VIRTX_E_SIZE, "profile.size", "covers the three masks",
                          profile->size);
    if ((profile->at_exit | profile->at_return | profile->at_put) & ~VIRTX_HOST_STATE_ALL)
        return virtx_fail(error, VIRTX_E_INVALID, "profile", "has only bits of virtx_host_state",
                          profile->at_exit | profile->at_return | profile->at_put);
    twice = (profile->at_exit & profile->at_return) | (profile->at_exit & profile->at_put) |
            (profile->at_return & profile->at_put);
    if (twice)
        return virtx_fail(error, VIRTX_E_INVALID, "profile", "names each state in one mask at most",
                          twice);
    return VIRTX_OK;
}

static enum virtx_status check_backend(const struct virtx_backend *backend,
                                       struct virtx_error *error)
{
#define OP(name)                                                                                   \
    {                                                                                              \
        "backend." #name, offsetof(struct virtx_backend, name)                                     \
    }
    static const struct member required[] = {
        OP(name),
        OP(probe),
        OP(cpu_enable),
        OP(cpu_disable),
        OP(cpu_emergency_off),
        OP(vm_create),
        OP(vm_destroy),
        OP(vcpu_create),
        OP(vcpu_destroy),
        OP(load),
        OP(put),
        OP(run),
        OP(complete),
        OP(fault),
        OP(reset),
        OP(wake),
        OP(get),
        OP(set),
        OP(gpr),
        OP(fpu_size),
        OP(fpu_get),
        OP(fpu_set),
        OP(kick),
        OP(intercept_check),
        OP(intercept_changed),
        OP(memory),
        OP(collect_dirty),
    };
#undef OP
    const char *name;

    if (backend->size < sizeof(*backend))
        return virtx_fail(error, VIRTX_E_SIZE, "backend.size", "covers the whole table",
                          backend->size);
    name = missing(backend, required, ARRAY_SIZE(required));
    if (name)
        return virtx_fail(error, VIRTX_E_MISSING_OP, name, "is required of every backend", 0);
    if (backend->vcpu_bytes > 8 * VIRTX_PAGE_SIZE)
        return virtx_fail(error, VIRTX_E_INVALID, "backend.vcpu_bytes", "is at most 8 pages",
                          backend->vcpu_bytes);
    return VIRTX_OK;
}

static enum virtx_status check_engine(const struct virtx_paging *paging, struct virtx_error *error)
{
#define OP(name)                                                                                   \
    {                                                                                              \
        "paging." #name, offsetof(struct virtx_paging, name)                                       \
    }
    static const struct member required[] = {
        OP(name),   OP(vm_create),     OP(vm_destroy), OP(vcpu_create), OP(vcpu_destroy),
        OP(memory), OP(collect_dirty), OP(root),       OP(fault),
    };
    static const struct member shadow[] = {OP(control_changed), OP(invlpg)};
#undef OP
    const char *name;

    if (paging->size < sizeof(*paging))
        return virtx_fail(error, VIRTX_E_SIZE, "paging.size", "covers the whole table",
                          paging->size);
    name = missing(paging, required, ARRAY_SIZE(required));
    if (!name && !paging->nested)
        name = missing(paging, shadow, ARRAY_SIZE(shadow));
    if (name)
        return virtx_fail(error, VIRTX_E_MISSING_OP, name, "is required of this engine", 0);
    if (paging->vm_bytes > VIRTX_PAGE_SIZE || paging->vcpu_bytes > VIRTX_PAGE_SIZE)
        return virtx_fail(error, VIRTX_E_INVALID, "paging.vm_bytes, vcpu_bytes",
                          "are at most a page", paging->vm_bytes);
    return VIRTX_OK;
}

static enum virtx_status check_config(const struct virtx_config *config, struct virtx_error *error)
{
    enum virtx_status status;

    if (!config)
        return virtx_fail(error, VIRTX_E_INVALID, "config", "is not NULL", 0);
    if (config->size < sizeof(*config))
        return virtx_fail(error, VIRTX_E_SIZE, "config.size", "covers the whole structure",
                          config->size);
    if (config->max_cpus == 0 || config->max_cpus > MAX_CPUS)
        return virtx_fail(error, VIRTX_E_INVALID, "config.max_cpus", "is 1 to 4096",
                          config->max_cpus);
    if (config->disable & ~ALL_FEATURES)
        return virtx_fail(error, VIRTX_E_INVALID, "config.disable",
                          "has only bits of virtx_feature", config->disable & ~ALL_FEATURES);
    if (config->insist & ~ALL_FEATURES)
        return virtx_fail(error, VIRTX_E_INVALID, "config.insist", "has only bits of virtx_feature",
                          config->insist & ~ALL_FEATURES);
    status = check_ops(config->ops, error);
    if (status == VIRTX_OK && config->profile)
        status = check_profile(config->profile, error);
    if (status != VIRTX_OK)
        return status;
    if (!config->backends || !config->backends[0])
        return virtx_fail(error, VIRTX_E_INVALID, "config.backends", "names at least one", 0);
    for (const struct virtx_backend *const *b = config->backends; *b && status == VIRTX_OK; b++)
        status = check_backend(*b, error);
    if (config->paging)
        for (const struct virtx_paging *const *p = config->paging; *p && status == VIRTX_OK; p++)
            status = check_engine(*p, error);
    return status;
}

bool virtx_paging_fits(const struct virtx *virtx, const struct virtx_paging *paging)
{
    return !paging->nested || (virtx->caps.features & VIRTX_FEATURE_NESTED_PAGING);
}

/* Tries one backend on this processor, with the engines that were named. `*fits`: the processor is
 * one of its own. */
static enum virtx_status try_backend(struct virtx *virtx, const struct virtx_backend *backend,
                                     bool *fits, struct virtx_error *error)
{
    enum virtx_status status;

    memset(&virtx->caps, 0, sizeof(virtx->caps));
    virtx->backend = backend;
    virtx->caps.backend = backend->name;
    status = backend->probe(virtx, virtx->disable, &virtx->caps, error);
    if (status != VIRTX_OK)
        return status;
    *fits = true;
    if (!backend->hw)
        return VIRTX_OK; /* translates by itself */
    if (virtx->paging)
        for (const struct virtx_paging *const *p = virtx->paging; *p; p++)
            if (virtx_paging_fits(virtx, *p))
                return VIRTX_OK;
    return virtx_fail(error, VIRTX_E_UNSUPPORTED, "config.paging",
                      "names an engine that this processor can run", virtx->caps.features);
}

/* How much a refusal tells. That the processor is not a backend's is so for all but one of them,
 * and says less than what is wrong with that one. */
static unsigned telling(enum virtx_status status, bool fits)
{
    return status != VIRTX_E_UNSUPPORTED ? 3 : fits ? 2 : 1;
}

/* The first backend that works; else the most telling of the refusals. */
static enum virtx_status choose_backend(struct virtx *virtx,
                                        const struct virtx_backend *const *backends,
                                        struct virtx_error *error)
{
    enum virtx_status result = VIRTX_OK;
    unsigned most = 0;

    for (; *backends; backends++) {
        struct virtx_error detail = no_error;
        bool fits = false;
        enum virtx_status status = try_backend(virtx, *backends, &fits, &detail);
        unsigned tells = telling(status, fits);

        if (status == VIRTX_OK)
            return VIRTX_OK;
        if (detail.status != status)
            virtx_fail(&detail, status, (*backends)->name, "the backend refuses this processor", 0);
        if (tells > most) {
            most = tells;
            result = status;
            *error = detail;
        }
    }
    return result;
}

static void copy_config(struct virtx *virtx, const struct virtx_config *config)
{
    const struct virtx_host_profile *profile =
        config->profile ? config->profile : &virtx_profile_kernel;

    memcpy(&virtx->ops, config->ops, min_u64(config->ops->size, sizeof(virtx->ops)));
    virtx->ctx = config->ctx;
    virtx->profile = *profile;
    virtx->profile.size = sizeof(virtx->profile);
    virtx->paging = config->paging;
    virtx->disable = config->disable;
    virtx->insist = config->insist;
    virtx->max_cpus = config->max_cpus;
    virtx->error = no_error;
}

enum virtx_status virtx_open(const struct virtx_config *config, struct virtx **out,
                             struct virtx_error *error)
{
    struct virtx_error ignored;
    struct virtx early = {0}; /* for the allocation of the real one */
    struct virtx *virtx;
    void *memory;
    size_t pages;
    enum virtx_status status;

    if (!error)
        error = &ignored;
    *error = no_error;
    if (!out)
        return virtx_fail(error, VIRTX_E_INVALID, "out", "is not NULL", 0);
    status = check_config(config, error);
    if (status != VIRTX_OK)
        return status;

    copy_config(&early, config);
    /* NOLINTNEXTLINE(bugprone-sizeof-expression): an array of pointers follows the structure */
    pages = pages_for(sizeof(*virtx) + config->max_cpus * sizeof(*virtx->cpus));
    status = virtx_pages_get(&early, pages, &memory, error);
    if (status != VIRTX_OK)
        return status;
    virtx = memory;
    copy_config(virtx, config);
    virtx->pages = (uint32_t)pages;
    virtx->cpus = (struct virtx_cpu **)(virtx + 1);
    status = choose_backend(virtx, config->backends, error);
    if (status != VIRTX_OK) {
        virtx_pages_free(virtx, virtx, pages);
        return status;
    }
    virtx->cpu_pages = (uint32_t)pages_for(sizeof(struct virtx_cpu) + virtx->backend->cpu_bytes);
    *out = virtx;
    return VIRTX_OK;
}

enum virtx_status virtx_close(struct virtx *virtx)
{
    struct virtx copy;

    if (atomic_load(&virtx->vms))
        return virtx_fail(&virtx->error, VIRTX_E_BUSY, "virtx", "has no VM when it is closed",
                          atomic_load(&virtx->vms));
    for (uint32_t i = 0; i < virtx->max_cpus; i++)
        if (virtx->cpus[i] && virtx->cpus[i]->enabled)
            return virtx_fail(&virtx->error, VIRTX_E_BUSY, "virtx",
                              "is disabled on every CPU when it is closed", i);
    for (uint32_t i = 0; i < virtx->max_cpus; i++)
        virtx_pages_free(virtx, virtx->cpus[i], virtx->cpu_pages);
    copy.ops = virtx->ops;
    copy.ctx = virtx->ctx;
    virtx_pages_free(&copy, virtx, virtx->pages);
    return VIRTX_OK;
}

const struct virtx_error *virtx_last_error(const struct virtx *virtx)
{
    return &virtx->error;
}

const struct virtx_caps *virtx_caps(const struct virtx *virtx)
{
    return &virtx->caps;
}
