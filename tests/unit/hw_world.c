/* SPDX-License-Identifier: BSD-2-Clause */
/* The models behind hw_world.h. */
#include "hw_world.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

WORLD_LOCAL struct world world;

/* ---- Processor ---- */

struct cpuid_regs {
    uint32_t eax, ebx, ecx, edx;
};
struct cpuid_regs mock_cpuid(uint32_t leaf, uint32_t subleaf);
uint64_t mock_rdmsr(uint32_t index);
void mock_wrmsr(uint32_t index, uint64_t value);
uint64_t mock_irq_save(void);
void mock_irq_restore(uint64_t flags);
void mock_irq_window(void);
uint64_t mock_read_cr(unsigned n);
void mock_write_cr(unsigned n, uint64_t value);
uint64_t mock_read_dr(unsigned n);
void mock_write_dr(unsigned n, uint64_t value);
uint32_t mock_in(uint16_t port, unsigned size);
void mock_out(uint16_t port, unsigned size, uint32_t value);
void mock_fpu_save(void *area, uint64_t mask);
void mock_fpu_load(const void *area, uint64_t mask);
uint64_t mock_xgetbv(void);
void mock_xsetbv(uint64_t value);
uint32_t mock_rdpkru(void);
void mock_wrpkru(uint32_t value);
bool mock_random(bool seed, uint64_t *value);
void mock_interrupt(unsigned vector);

WORLD_LOCAL bool world_xsaves, world_misaligned_sse;
WORLD_LOCAL uint64_t world_host_xss;
WORLD_LOCAL uint32_t world_hide_edx;
WORLD_LOCAL uint64_t world_features;

/* An Intel processor of some age, with XSAVE and AVX. */
struct cpuid_regs mock_cpuid(uint32_t leaf, uint32_t subleaf)
{
    switch (leaf) {
    case 0:
        return (struct cpuid_regs){0xd, 0x756e6547, 0x6c65746e, 0x49656e69};
    case 1:
        return (struct cpuid_regs){0x306c3, 0, 0x7ffafbff, 0xbfebfbff & ~world_hide_edx};
    case 7:
        return subleaf ? (struct cpuid_regs){0} : (struct cpuid_regs){0, 0x000027ab, 0, 0};
    case 0xd:
        if (subleaf == 0)
            return (struct cpuid_regs){7, 832, 832, 0};
        if (subleaf == 1)
            return (struct cpuid_regs){world_xsaves ? 0xd : 1, 0, world_xsaves ? 0x1800 : 0, 0};
        if (subleaf == 2)
            return (struct cpuid_regs){256, 576, 0, 0};
        return (struct cpuid_regs){0};
    case 0x80000000:
        return (struct cpuid_regs){0x80000008, 0, 0, 0};
    case 0x80000001:
        return (struct cpuid_regs){0, 0, world_misaligned_sse ? 0xa1 : 0x21, 0x2c100800};
    case 0x80000008:
        return (struct cpuid_regs){0x3027, 0, 0, 0};
    default:
        return (struct cpuid_regs){0};
    }
}

uint64_t mock_rdmsr(uint32_t index)
{
    return index == MSR_XSS ? world_host_xss : 0;
}

void mock_wrmsr(uint32_t index, uint64_t value)
{
    if (world.msr_writes < 8) {
        world.msr_index[world.msr_writes] = index;
        world.msr_written[world.msr_writes] = value;
    }
    world.msr_writes++;
}

uint64_t mock_irq_save(void)
{
    return world.flags;
}

void mock_irq_restore(uint64_t flags)
{
    if ((flags ^ world.flags) & 0x200) /* so often that an assertion would be dear */
        ck_abort_msg("interrupts are not as they were");
}

void mock_irq_window(void)
{
    world.windows++;
    if (world.on_window)
        world.on_window();
}

uint64_t mock_read_cr(unsigned n)
{
    return world.cr[n];
}

void mock_write_cr(unsigned n, uint64_t value)
{
    world.cr[n] = value;
}

uint64_t mock_read_dr(unsigned n)
{
    return world.dr[n];
}

void mock_write_dr(unsigned n, uint64_t value)
{
    world.dr[n] = value;
}

uint32_t mock_in(uint16_t port, unsigned size)
{
    (void)size;
    return port;
}

void mock_out(uint16_t port, unsigned size, uint32_t value)
{
    (void)port;
    (void)size;
    (void)value;
}

void mock_fpu_save(void *area, uint64_t mask)
{
    (void)area;
    (void)mask;
    world.fpu_saves++;
}

void mock_fpu_load(const void *area, uint64_t mask)
{
    (void)area;
    (void)mask;
    world.fpu_loads++;
}

uint64_t mock_xgetbv(void)
{
    return world.xcr0;
}

void mock_xsetbv(uint64_t value)
{
    world.xcr0 = value;
}

uint32_t mock_rdpkru(void)
{
    return 0;
}

void mock_wrpkru(uint32_t value)
{
    (void)value;
}

bool mock_random(bool seed, uint64_t *value)
{
    *value = seed ? 2 : 1;
    return true;
}

void mock_interrupt(unsigned vector)
{
    (void)vector;
    world.nmis++;
}

/* ---- Vendor ---- */

static enum virtx_status probe(struct virtx *virtx, uint64_t disable, struct virtx_caps *caps,
                               struct virtx_error *error)
{
    (void)virtx;
    (void)error;
    caps->hardware = VIRTX_FEATURE_NESTED_PAGING | VIRTX_FEATURE_UNPAGED_GUEST |
                     VIRTX_FEATURE_TLB_TAGS | VIRTX_FEATURE_TPR_SHADOW | VIRTX_FEATURE_MSR_BITMAP |
                     VIRTX_FEATURE_IO_BITMAP | world_features;
    caps->features = caps->hardware & ~disable;
    caps->tlb_tags = 3;
    caps->physical_bits = 48; /* host addresses are those of this program */
    caps->linear_bits = 48;
    caps->guest_physical_bits = 48;
    return VIRTX_OK;
}

static enum virtx_status cpu_enable(struct virtx *virtx, void *cpu, struct virtx_error *error)
{
    (void)virtx;
    (void)cpu;
    (void)error;
    return VIRTX_OK;
}

static void cpu_disable(struct virtx *virtx, void *cpu)
{
    (void)virtx;
    (void)cpu;
}

static enum virtx_status vm_create(struct virtx_vm *vm, void *data)
{
    (void)vm;
    (void)data;
    return VIRTX_OK;
}

static void vm_destroy(struct virtx_vm *vm, void *data)
{
    (void)vm;
    (void)data;
}

static enum virtx_status vcpu_create(struct hw_vcpu *hv)
{
    (void)hv;
    return VIRTX_OK;
}

static void vcpu_destroy(struct hw_vcpu *hv)
{
    (void)hv;
}

static enum virtx_status load(struct hw_vcpu *hv, void *cpu)
{
    (void)hv;
    (void)cpu;
    world.loads++;
    return VIRTX_OK;
}

static void put(struct hw_vcpu *hv)
{
    hv->valid = VIRTX_STATE_ALL;
    world.puts++;
}

void exit_interrupt(struct hw_vcpu *hv)
{
    hv->vcpu->exit.reason = VIRTX_EXIT_INTERRUPT;
}

static uint32_t enter(struct hw_vcpu *hv)
{
    struct virtx_exit *exit = &hv->vcpu->exit;
    enum virtx_status refuse = world.refuse;

    world.refuse = VIRTX_OK;
    if (refuse != VIRTX_OK) {
        hv->refusal = refuse;
        return exit->reason = HW_EXIT_REFUSED;
    }
    world.entries++;
    world.written |= hv->dirty;
    if ((hv->dirty & VIRTX_STATE_CR) && world.tpr >> 4 != hv->state.cr8)
        world.tpr = (uint8_t)(hv->state.cr8 << 4);
    hv->dirty = 0;
    if (world.on_enter)
        world.on_enter(hv);
    exit->rip = hv->state.rip;
    exit->length = 0;
    if (world.at < world.length)
        world.script[world.at++](hv);
    else
        exit_interrupt(hv);
    return exit->reason;
}

/* The whole state lives in the cache: nothing is ever missing. */
static void read_groups(struct hw_vcpu *hv, uint32_t groups)
{
    world.reads++;
    hv->valid |= groups;
}

static struct hw_code code_key(struct hw_vcpu *hv)
{
    const struct virtx_state *state = &hv->state;
    struct hw_code code = {.cr3 = state->cr3};

    if (hv->dirty & (VIRTX_STATE_SEG | VIRTX_STATE_CR))
        ck_abort_msg("asked while the answer is being changed");
    code.key = (state->seg[VIRTX_CS].attributes & (VIRTX_SEG_L | VIRTX_SEG_DB)) |
               (state->seg[VIRTX_SS].attributes & 3u << VIRTX_SEG_DPL_SHIFT) |
               (state->cr4 & CR4_SMEP) | (state->efer & (EFER_LMA | EFER_NXE));
    return code;
}

static void advance(struct hw_vcpu *hv)
{
    world.advances++;
    hv->state.rip += hv->vcpu->exit.length;
    hv->state.interruptibility &= VIRTX_BLOCKED_BY_NMI;
}

static void inject(struct hw_vcpu *hv, const struct virtx_event *event)
{
    (void)hv;
    if (world.injections < 32)
        world.injected[world.injections] = *event;
    world.injections++;
}

static bool can_interrupt(struct hw_vcpu *hv)
{
    (void)hv;
    return world.can_interrupt;
}

static bool can_nmi(struct hw_vcpu *hv)
{
    (void)hv;
    return world.can_nmi;
}

static void window(struct hw_vcpu *hv, bool interrupt, bool nmi)
{
    (void)hv;
    world.window_interrupt = interrupt;
    world.window_nmi = nmi;
}

static void set_root(struct hw_vcpu *hv, uint64_t hpa)
{
    (void)hv;
    ck_assert_uint_eq(hpa, 0x5000);
    world.roots++;
}

static void flush(struct hw_vcpu *hv, uint32_t debts)
{
    (void)hv;
    world.flushed |= debts;
    world.flushes++;
}

/* Where no PDPTEs have to be read again. */
static bool toggle(struct hw_vcpu *hv, unsigned reg, uint64_t cr4)
{
    struct virtx_state *state = &hv->state;

    if (reg != 4 || (state->cr4 ^ cr4) != CR4_PGE || ((cr4 & CR4_PAE) && !(state->efer & EFER_LMA)))
        return false;
    state->cr4 = cr4;
    world.toggles++;
    return true;
}

static void controls(struct hw_vcpu *hv)
{
    (void)hv;
    world.controls++;
}

static void deadline(struct hw_vcpu *hv, uint64_t tsc)
{
    (void)hv;
    world.deadline = tsc;
    world.deadlines++;
}

static void tsc_offset(struct hw_vcpu *hv)
{
    (void)hv;
    world.tsc_offsets++;
}

static enum virtx_status ports(struct virtx_vm *vm, struct hw_vcpu *hv, uint16_t first,
                               uint16_t last, bool exit)
{
    (void)vm;
    if (!hv)
        for (uint32_t port = first; port <= last; port++)
            world.ports[port] = !exit;
    return VIRTX_OK;
}

static enum virtx_status msr(struct virtx_vm *vm, struct hw_vcpu *hv, uint32_t index,
                             uint32_t access, bool exit)
{
    unsigned range = index < 0x2000 ? 0 : index >= 0xc0010000 ? 2 : 1;
    uint8_t *bits = &world.msrs[range][index & 0x1fff];

    (void)vm;
    if (hv)
        return VIRTX_OK;
    *bits = (uint8_t)(exit ? *bits & ~access : *bits | access);
    return VIRTX_OK;
}

static enum virtx_status intercept_check(const struct virtx *virtx,
                                         const struct virtx_intercept_config *config, bool *forced)
{
    (void)virtx;
    (void)config;
    *forced = false;
    return VIRTX_OK;
}

static enum virtx_status check_state(struct hw_vcpu *hv, struct virtx_error *error)
{
    (void)hv;
    (void)error;
    return VIRTX_OK;
}

static uint8_t tpr(struct hw_vcpu *hv)
{
    ck_assert(!(hv->dirty & VIRTX_STATE_CR));
    return world.tpr;
}

static void set_tpr(struct hw_vcpu *hv, uint8_t value)
{
    (void)hv;
    world.tpr = value;
}

static void *apic_page(struct hw_vcpu *hv)
{
    return hv->vcpu->virtx->caps.features & VIRTX_FEATURE_APIC_ACCESS ? world.apic_page : NULL;
}

static void cr8_threshold(struct hw_vcpu *hv, uint8_t threshold)
{
    (void)hv;
    world.cr8_threshold = threshold;
}

static void to_host(struct hw_vcpu *hv, uint32_t mask)
{
    (void)hv;
    (void)mask;
    world.to_hosts++;
}

static uint64_t guest_dr7(struct hw_vcpu *hv)
{
    return hv->state.dr7;
}

static const struct table_format format = {.name = "model"};
const struct virtx_hw world_vendor = {
    .name = "model",
    .nested = &format,
    .cpu_bytes = sizeof(struct hw_cpu),
    .vm_bytes = sizeof(struct hw_vm),
    .vcpu_bytes = sizeof(struct hw_vcpu),
    .probe = probe,
    .cpu_enable = cpu_enable,
    .cpu_disable = cpu_disable,
    .cpu_emergency_off = cpu_disable,
    .vm_create = vm_create,
    .vm_destroy = vm_destroy,
    .vcpu_create = vcpu_create,
    .vcpu_destroy = vcpu_destroy,
    .load = load,
    .put = put,
    .enter = enter,
    .read = read_groups,
    .code = code_key,
    .dr7 = guest_dr7,
    .advance = advance,
    .tpr = tpr,
    .set_tpr = set_tpr,
    .cr8_threshold = cr8_threshold,
    .apic_page = apic_page,
    .inject = inject,
    .can_interrupt = can_interrupt,
    .can_nmi = can_nmi,
    .window = window,
    .set_root = set_root,
    .flush = flush,
    .toggle = toggle,
    .controls = controls,
    .deadline = deadline,
    .tsc_offset = tsc_offset,
    .ports = ports,
    .msr = msr,
    .intercept_check = intercept_check,
    .check = check_state,
    .to_host = to_host,
};
static const struct virtx_backend backend = HW_BACKEND(
    "model", &world_vendor, sizeof(struct hw_cpu), sizeof(struct hw_vm), sizeof(struct hw_vcpu));

/* ---- Engine ---- */

static enum virtx_status engine_vm_create(struct virtx_vm *vm)
{
    (void)vm;
    return VIRTX_OK;
}

static void engine_vm_destroy(struct virtx_vm *vm)
{
    (void)vm;
}

static enum virtx_status engine_vcpu_create(struct virtx_vcpu *vcpu)
{
    (void)vcpu;
    return VIRTX_OK;
}

static void engine_vcpu_destroy(struct virtx_vcpu *vcpu)
{
    (void)vcpu;
}

static void engine_memory(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes,
                          enum virtx_memory_change change)
{
    (void)vm;
    (void)gpa;
    (void)bytes;
    (void)change;
}

static void engine_collect(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes)
{
    (void)vm;
    (void)gpa;
    (void)bytes;
}

static uint64_t engine_root(struct virtx_vcpu *vcpu)
{
    (void)vcpu;
    return 0x5000;
}

static enum virtx_fault_result engine_fault(struct virtx_vcpu *vcpu, struct virtx_page_fault *fault)
{
    (void)vcpu;
    (void)fault;
    world.faults++;
    return world.fault_result;
}

static enum virtx_status map_page(struct virtx_vm *vm, uint64_t gpa, uint64_t hpa)
{
    (void)vm;
    (void)gpa;
    (void)hpa;
    world.pages_mapped++;
    return VIRTX_OK;
}

const struct virtx_paging world_engine = {
    .map_page = map_page,
    .size = sizeof(struct virtx_paging),
    .nested = true,
    .name = "model",
    .vm_create = engine_vm_create,
    .vm_destroy = engine_vm_destroy,
    .vcpu_create = engine_vcpu_create,
    .vcpu_destroy = engine_vcpu_destroy,
    .memory = engine_memory,
    .collect_dirty = engine_collect,
    .root = engine_root,
    .fault = engine_fault,
};

/* ---- Host ---- */

static void *pages_alloc(void *ctx, size_t count)
{
    (void)ctx;
    return aligned_alloc(VIRTX_PAGE_SIZE, count * VIRTX_PAGE_SIZE);
}

static void pages_free(void *ctx, void *pages, size_t count)
{
    (void)ctx;
    (void)count;
    free(pages);
}

static uint64_t virt_to_phys(void *ctx, const void *va)
{
    (void)ctx;
    world.translations++;
    return (uint64_t)(uintptr_t)va;
}

static void *phys_to_virt(void *ctx, uint64_t hpa)
{
    (void)ctx;
    return (void *)(uintptr_t)hpa;
}

static uint32_t this_cpu(void *ctx)
{
    (void)ctx;
    return world.this_cpu;
}

static void kick_cpu(void *ctx, uint32_t cpu)
{
    (void)ctx;
    ck_assert_uint_eq(cpu, 0);
    world.kicks++;
}

const struct virtx_host_ops world_host = {
    .size = sizeof(struct virtx_host_ops),
    .pages_alloc = pages_alloc,
    .pages_free = pages_free,
    .virt_to_phys = virt_to_phys,
    .phys_to_virt = phys_to_virt,
    .this_cpu = this_cpu,
    .kick_cpu = kick_cpu,
};

/* ---- World ---- */

void world_processor(void)
{
    memset(&world, 0, sizeof(world));
    world.flags = RFLAGS_FIXED; /* IF = 0: a host interrupt ends run */
    world.can_interrupt = world.can_nmi = true;
    world.fault_result = VIRTX_FAULT_NOT_MEMORY;
    world.cr[0] = CR0_PE | CR0_PG;
    world.cr[4] = CR4_OSFXSR | CR4_OSXSAVE;
    world.xcr0 = 1;
    world.dr[7] = 0x400;
}

void world_begin(const struct virtx_host_profile *profile)
{
    static const struct virtx_backend *const backends[] = {&backend, NULL};
    static const struct virtx_paging *const engines[] = {&world_engine, NULL};
    struct virtx_config config = {.size = sizeof(config),
                                  .max_cpus = 2,
                                  .ops = &world_host,
                                  .profile = profile,
                                  .backends = backends,
                                  .paging = engines};
    struct virtx_memslot_config slot = {.size = sizeof(slot),
                                        .rights = VIRTX_READ | VIRTX_WRITE | VIRTX_EXECUTE,
                                        .type = VIRTX_MEMORY_WB,
                                        .bytes = WORLD_RAM_BYTES};
    struct virtx_error error;

    world_processor();
    ck_assert_int_eq(virtx_open(&config, &world.virtx, &error), VIRTX_OK);
    ck_assert_int_eq(virtx_cpu_enable(world.virtx), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_create(world.virtx, NULL, &world.vm), VIRTX_OK);
    world.ram = aligned_alloc(4096, WORLD_RAM_BYTES);
    memset(world.ram, 0, WORLD_RAM_BYTES);
    slot.memory = world.ram;
    ck_assert_int_eq(virtx_memslot_add(world.vm, &slot, &world.slot), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_create(world.vm, 0, &world.vcpu), VIRTX_OK);
    world.hv = hw_of(world.vcpu);
    ck_assert_int_eq(virtx_vcpu_reset(world.vcpu, VIRTX_PRESET_FLAT32), VIRTX_OK);
    world_run(); /* loads it, and settles what creation left to do */
    ck_assert_uint_eq(world.entries, 1);
    world.entries = world.flushes = world.flushed = world.kicks = world.controls = 0;
    world.msr_writes = world.reads = world.to_hosts = 0;
}

void world_end(void)
{
    ck_assert_int_eq(virtx_vcpu_destroy(world.vcpu), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_destroy(world.vm), VIRTX_OK);
    ck_assert_int_eq(virtx_cpu_disable(world.virtx), VIRTX_OK);
    ck_assert_int_eq(virtx_close(world.virtx), VIRTX_OK);
    free(world.ram);
}

void world_play(world_exit exit)
{
    ck_assert_uint_lt(world.length, WORLD_SCRIPT);
    world.script[world.length++] = exit;
}

const struct virtx_exit *world_run(void)
{
    const struct virtx_exit *exit = NULL;

    ck_assert_int_eq(virtx_vcpu_run(world.vcpu, &exit), VIRTX_OK);
    ck_assert_ptr_nonnull(exit);
    return exit;
}

void world_code(uint32_t at, const void *bytes, size_t length)
{
    struct virtx_state state;

    memcpy(world.ram + at, bytes, length);
    world_get(VIRTX_STATE_RIP, &state);
    state.rip = at;
    world_set(VIRTX_STATE_RIP, &state);
}

uint64_t *world_gpr(void)
{
    return virtx_vcpu_gpr(world.vcpu);
}

void world_get(uint32_t groups, struct virtx_state *state)
{
    ck_assert_int_eq(virtx_vcpu_get(world.vcpu, groups, state), VIRTX_OK);
}

void world_set(uint32_t groups, const struct virtx_state *state)
{
    ck_assert_int_eq(virtx_vcpu_set(world.vcpu, groups, state), VIRTX_OK);
}

/* ---- Exits ---- */

void exit_cpuid(struct hw_vcpu *hv)
{
    hv->vcpu->exit.reason = VIRTX_EXIT_CPUID;
    hv->vcpu->exit.length = 2;
}

void exit_hlt(struct hw_vcpu *hv)
{
    hv->vcpu->exit.reason = VIRTX_EXIT_HLT;
    hv->vcpu->exit.length = 1;
}

void exit_window(struct hw_vcpu *hv)
{
    hv->vcpu->exit.reason = HW_EXIT_WINDOW;
    world.window_interrupt = false;
}

static void port(struct hw_vcpu *hv, uint16_t number, unsigned size, uint8_t length, uint8_t access)
{
    struct virtx_exit *exit = &hv->vcpu->exit;

    exit->reason = VIRTX_EXIT_IO;
    exit->length = length;
    memset(&exit->io, 0, sizeof(exit->io));
    exit->io.port = number;
    exit->io.size = (uint8_t)size;
    exit->io.access = access;
}

void world_out(struct hw_vcpu *hv, uint16_t number, unsigned size, uint8_t length)
{
    port(hv, number, size, length, VIRTX_WRITE);
}

void world_in(struct hw_vcpu *hv, uint16_t number, unsigned size, uint8_t length)
{
    port(hv, number, size, length, VIRTX_READ);
}

void world_msr(struct hw_vcpu *hv, uint32_t index, bool write, uint64_t value)
{
    struct virtx_exit *exit = &hv->vcpu->exit;

    exit->reason = VIRTX_EXIT_MSR;
    exit->length = 2;
    hv->state.gpr[VIRTX_RCX] = index;
    if (write) {
        hv->state.gpr[VIRTX_RAX] = (uint32_t)value;
        hv->state.gpr[VIRTX_RDX] = value >> 32;
    }
    exit->msr.access = write ? VIRTX_WRITE : VIRTX_READ;
}

void world_cr(struct hw_vcpu *hv, unsigned reg, bool write, unsigned gpr, uint64_t value)
{
    struct virtx_exit *exit = &hv->vcpu->exit;

    exit->reason = VIRTX_EXIT_CR;
    exit->length = 3;
    exit->cr = (struct virtx_exit_cr){.reg = (uint8_t)reg,
                                      .access = write ? VIRTX_WRITE : VIRTX_READ,
                                      .gpr = (uint8_t)gpr,
                                      .value = value};
}

void world_fault(struct hw_vcpu *hv, uint64_t gpa, uint8_t access)
{
    hv->vcpu->exit.reason = HW_EXIT_PAGE_FAULT;
    hv->fault = (struct virtx_page_fault){.gpa = gpa, .access = access};
}
