/* SPDX-License-Identifier: BSD-2-Clause */
/* struct virtx_host_ops over bare.h: physical addresses are virtual ones. */
#include "bare.h"
#include "virtx_host.h"

/* All a kick has to do is to arrive. */
static void on_kick(struct bare_frame *frame, void *ctx)
{
    (void)frame;
    (void)ctx;
    bare_eoi();
}

/* The first call of all comes from virtx_open(), before anybody can kick: that is when the
 * vector gets its handler, so that no embedder has to remember it. */
static void *pages_alloc(void *ctx, size_t count)
{
    static bool ready;

    (void)ctx;
    if (!ready) {
        bare_handler_set(BARE_VECTOR_KICK, on_kick, NULL);
        ready = true;
    }
    return bare_pages_alloc(count, 1);
}

static void pages_free(void *ctx, void *pages, size_t count)
{
    (void)ctx;
    bare_pages_free(pages, count);
}

static uint64_t virt_to_phys(void *ctx, const void *va)
{
    (void)ctx;
    return (uintptr_t)va;
}

static void *phys_to_virt(void *ctx, uint64_t hpa)
{
    (void)ctx;
    return (void *)(uintptr_t)hpa;
}

static uint32_t this_cpu(void *ctx)
{
    (void)ctx;
    return bare_this_cpu();
}

static void kick_cpu(void *ctx, uint32_t cpu)
{
    (void)ctx;
    bare_ipi(cpu, BARE_VECTOR_KICK);
}

static void log_line(void *ctx, enum virtx_log_level level, const char *message)
{
    (void)ctx;
    if (level != VIRTX_LOG_DEBUG)
        bare_printf("virtx: %s\n", message);
}

const struct virtx_host_ops bare_virtx_ops = {
    .size = sizeof(struct virtx_host_ops),
    .pages_alloc = pages_alloc,
    .pages_free = pages_free,
    .virt_to_phys = virt_to_phys,
    .phys_to_virt = phys_to_virt,
    .this_cpu = this_cpu,
    .kick_cpu = kick_cpu,
    .log = log_line,
};
