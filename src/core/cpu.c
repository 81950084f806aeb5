/* SPDX-License-Identifier: BSD-2-Clause */
/* Physical CPUs: virtualization on and off. */
#include "core/object.h"

static enum virtx_status this_cpu(struct virtx *virtx, uint32_t *index, struct virtx_error *error)
{
    *index = virtx->ops.this_cpu(virtx->ctx);
    if (*index >= virtx->max_cpus)
        return virtx_fail(error, VIRTX_E_HOST, "ops.this_cpu", "is below config.max_cpus", *index);
    return VIRTX_OK;
}

enum virtx_status virtx_cpu_current(struct virtx *virtx, uint32_t *index, struct virtx_cpu **cpu,
                                    struct virtx_error *error)
{
    enum virtx_status status = this_cpu(virtx, index, error);

    if (status != VIRTX_OK)
        return status;
    *cpu = virtx->cpus[*index];
    if (!*cpu || !(*cpu)->enabled)
        return virtx_fail(error, VIRTX_E_NOT_ENABLED, "CPU",
                          "virtx_cpu_enable() has been called on it", *index);
    return VIRTX_OK;
}

enum virtx_status virtx_cpu_enable(struct virtx *virtx)
{
    struct virtx_error error = {VIRTX_OK, "", "", "", 0};
    struct virtx_cpu *cpu;
    uint64_t flags;
    uint32_t index;
    bool fresh = false;
    enum virtx_status status = this_cpu(virtx, &index, &error);

    if (status == VIRTX_OK && !virtx->cpus[index]) {
        void *memory;

        status = virtx_pages_get(virtx, virtx->cpu_pages, &memory, &error);
        if (status == VIRTX_OK)
            virtx->cpus[index] = memory;
        fresh = true;
    }
    if (status != VIRTX_OK) {
        virtx->error = error;
        return status;
    }
    cpu = virtx->cpus[index];
    if (cpu->enabled)
        return VIRTX_OK;
    flags = virtx_irq_off();
    status = virtx->backend->cpu_enable(virtx, index, &error);
    if (status == VIRTX_OK)
        cpu->enabled = true;
    virtx_irq_restore(flags);
    if (status != VIRTX_OK) {
        if (error.status != status)
            virtx_fail(&error, status, "CPU", "the backend refuses to enable it", index);
        virtx->error = error;
        /* One that has been on before is remembered: vcpus know it by its generation of tags. */
        if (fresh) {
            virtx->cpus[index] = NULL;
            virtx_pages_free(virtx, cpu, virtx->cpu_pages);
        }
    }
    return status;
}

enum virtx_status virtx_cpu_disable(struct virtx *virtx)
{
    struct virtx_cpu *cpu;
    uint64_t flags;
    uint32_t index;
    enum virtx_status status = virtx_cpu_current(virtx, &index, &cpu, &virtx->error);

    if (status != VIRTX_OK)
        return status;
    if (cpu->loaded)
        return virtx_fail(&virtx->error, VIRTX_E_BUSY, "CPU",
                          "has no vcpu loaded when it is disabled", cpu->loaded->id);
    flags = virtx_irq_off();
    virtx->backend->cpu_disable(virtx, index);
    cpu->enabled = false;
    virtx_irq_restore(flags);
    return VIRTX_OK;
}

/* `enabled` is not asked: the moment between turning on and saying so is any moment, too. */
void virtx_cpu_emergency_off(struct virtx *virtx)
{
    uint32_t index = virtx->ops.this_cpu(virtx->ctx);
    struct virtx_cpu *cpu = index < virtx->max_cpus ? virtx->cpus[index] : NULL;

    if (!cpu)
        return;
    virtx->backend->cpu_emergency_off(virtx, index);
    cpu->enabled = false;
    if (cpu->loaded) {
        /* Part of its registers is gone with the processor's. */
        cpu->loaded->dead = true;
        cpu->loaded->exit.pending = false; /* nobody can be answered any more */
        atomic_store(&cpu->loaded->cpu, VIRTX_NO_CPU);
        cpu->loaded = NULL;
    }
}

uint64_t virtx_nmi_return(const struct virtx *virtx, uint64_t rip)
{
    return virtx->backend->nmi_return ? virtx->backend->nmi_return(virtx, rip) : rip;
}

void *virtx_backend_cpu(struct virtx *virtx, uint32_t cpu)
{
    return virtx->cpus[cpu]->backend;
}
