/* SPDX-License-Identifier: BSD-2-Clause */
/* A host, a backend and a paging engine made up for unit tests of the objects. */
#include "fake.h"

#include <stdlib.h>
#include <string.h>

#define ALLOCATIONS 512

struct fake fake;
_Thread_local uint32_t fake_cpu;

/* ---- Host ---- */

static struct allocation {
    uint8_t *memory, *handed_out;
    size_t count;
} allocations[ALLOCATIONS];

static void *take_pages(size_t count)
{
    ck_assert_uint_gt(count, 0);
    fake.allocations++;
    if (fake.fail_at && --fake.fail_at == 0)
        return NULL;
    for (size_t i = 0; i < ALLOCATIONS; i++) {
        struct allocation *a = &allocations[i];

        if (a->memory)
            continue;
        a->memory = aligned_alloc(VIRTX_PAGE_SIZE, (count + 1) * VIRTX_PAGE_SIZE);
        ck_assert_ptr_nonnull(a->memory);
        memset(a->memory, 0xa5, (count + 1) * VIRTX_PAGE_SIZE);
        a->handed_out = a->memory + (fake.nonsense == FAKE_MISALIGNED ? 64 : 0);
        a->count = count;
        fake.pages += count;
        return a->handed_out;
    }
    ck_abort_msg("more allocations than the fake host can keep");
}

static void give_pages(void *pages, size_t count)
{
    for (size_t i = 0; i < ALLOCATIONS; i++) {
        struct allocation *a = &allocations[i];

        if (!a->memory || a->handed_out != pages)
            continue;
        ck_assert_uint_eq(a->count, count);
        fake.pages -= count;
        free(a->memory);
        a->memory = NULL;
        return;
    }
    ck_abort_msg("memory given back that is not out");
}

/* Host functions are called from several threads at once. */
static struct virtx_lock pages_lock;

static void *pages_alloc(void *ctx, size_t count)
{
    void *pages;

    ck_assert_ptr_eq(ctx, &fake);
    virtx_lock(&pages_lock);
    pages = take_pages(count);
    virtx_unlock(&pages_lock);
    return pages;
}

static void pages_free(void *ctx, void *pages, size_t count)
{
    ck_assert_ptr_eq(ctx, &fake);
    virtx_lock(&pages_lock);
    give_pages(pages, count);
    virtx_unlock(&pages_lock);
}

/* Every other page is somewhere else; its own inverse. */
static uint64_t scatter(uint64_t hpa)
{
    return hpa & VIRTX_PAGE_SIZE ? hpa ^ 1ull << 40 : hpa;
}

static uint64_t virt_to_phys(void *ctx, const void *va)
{
    uint64_t hpa = (uintptr_t)va;

    ck_assert_ptr_eq(ctx, &fake);
    switch (fake.nonsense) {
    case FAKE_NO_ADDRESS:
        return UINT64_MAX;
    case FAKE_ODD_ADDRESS:
        return hpa + 8;
    case FAKE_WIDE_ADDRESS:
        return hpa | 1ull << 51;
    case FAKE_SCATTERED:
        return scatter(hpa);
    default:
        return fake.away && (uintptr_t)fake.away == (hpa & ~0xfffull) ? UINT64_MAX : hpa;
    }
}

static void *phys_to_virt(void *ctx, uint64_t hpa)
{
    ck_assert_ptr_eq(ctx, &fake);
    if (fake.nonsense == FAKE_ONE_WAY)
        hpa += VIRTX_PAGE_SIZE;
    return (void *)(uintptr_t)(fake.nonsense == FAKE_SCATTERED ? scatter(hpa) : hpa);
}

static uint32_t this_cpu(void *ctx)
{
    ck_assert_ptr_eq(ctx, &fake);
    return fake_cpu;
}

static void kick_cpu(void *ctx, uint32_t cpu)
{
    ck_assert_ptr_eq(ctx, &fake);
    ck_assert_uint_lt(cpu, FAKE_CPUS);
    atomic_fetch_add(&fake.ipis, 1);
    atomic_store(&fake.ipi[cpu], true);
}

const struct virtx_host_ops fake_ops = {
    .size = sizeof(struct virtx_host_ops),
    .pages_alloc = pages_alloc,
    .pages_free = pages_free,
    .virt_to_phys = virt_to_phys,
    .phys_to_virt = phys_to_virt,
    .this_cpu = this_cpu,
    .kick_cpu = kick_cpu,
};

/* ---- Backend ---- */

/* Counts a call, and says whether it is to fail. */
static enum virtx_status step(const char *op, struct virtx_error *error)
{
    atomic_fetch_add(&fake.calls, 1);
    if (!fake.fail_op || strcmp(fake.fail_op, op) != 0)
        return VIRTX_OK;
    if (fake.fail_after) {
        fake.fail_after--;
        return VIRTX_OK;
    }
    if (!fake.silent)
        virtx_fail(error, fake.fail_status, op, "was told to fail", 0);
    return fake.fail_status;
}

static bool all_zero(const void *memory, size_t bytes)
{
    const uint8_t *at = memory;

    while (bytes--)
        if (*at++)
            return false;
    return true;
}

struct fake_vm_data {
    void *page;
    uint8_t filler[200];
};

static void lock_is_held(struct virtx_vm *vm)
{
    /* Nobody could take it now; `page_lock` is free for the engine. */
    ck_assert(atomic_flag_test_and_set(&vm->lock.held));
    ck_assert(!atomic_flag_test_and_set(&vm->page_lock.held));
    atomic_flag_clear(&vm->page_lock.held);
}

static enum virtx_status b_probe(struct virtx *virtx, uint64_t disable, struct virtx_caps *caps,
                                 struct virtx_error *error)
{
    enum virtx_status status = step("probe", error);

    fake.virtx = virtx;
    if (status != VIRTX_OK)
        return status;
    caps->hardware = VIRTX_FEATURE_NESTED_PAGING | VIRTX_FEATURE_RDTSCP | VIRTX_FEATURE_INVPCID;
    caps->features = caps->hardware & ~disable;
    caps->physical_bits = 47;
    caps->linear_bits = 48;
    caps->guest_physical_bits = 40;
    return VIRTX_OK;
}

static enum virtx_status b_cpu_enable(struct virtx *virtx, uint32_t cpu, struct virtx_error *error)
{
    enum virtx_status status = step("cpu_enable", error);

    ck_assert_uint_eq(cpu, fake_cpu);
    if (status == VIRTX_OK) {
        uint64_t *data = virtx_backend_cpu(virtx, cpu);

        *data = cpu + 1000;
        atomic_fetch_add(&fake.enabled, 1);
    }
    return status;
}

static void b_cpu_disable(struct virtx *virtx, uint32_t cpu)
{
    uint64_t *data = virtx_backend_cpu(virtx, cpu);

    ck_assert_uint_eq(*data, cpu + 1000);
    ck_assert_uint_eq(cpu, fake_cpu);
    atomic_fetch_sub(&fake.enabled, 1);
}

static void b_cpu_emergency_off(struct virtx *virtx, uint32_t cpu)
{
    (void)virtx;
    ck_assert_uint_eq(cpu, fake_cpu);
    fake.emergencies++;
}

static enum virtx_status b_vm_create(struct virtx_vm *vm)
{
    struct fake_vm_data *data = virtx_backend_vm(vm);
    enum virtx_status status = step("vm_create", &vm->error);

    lock_is_held(vm);
    ck_assert(all_zero(data, sizeof(*data)));
    if (status != VIRTX_OK)
        return status;
    data->page = virtx_pages_alloc(vm->virtx, 1);
    return data->page ? VIRTX_OK : VIRTX_E_NO_MEMORY;
}

static void b_vm_destroy(struct virtx_vm *vm)
{
    struct fake_vm_data *data = virtx_backend_vm(vm);

    lock_is_held(vm);
    ck_assert_ptr_null(vm->vcpus);
    virtx_pages_free(vm->virtx, data->page, 1);
}

struct fake_vcpu *fake_of(struct virtx_vcpu *vcpu)
{
    return virtx_backend_vcpu(vcpu);
}

static enum virtx_status b_vcpu_create(struct virtx_vcpu *vcpu)
{
    struct fake_vcpu *data = fake_of(vcpu);
    enum virtx_status status = step("vcpu_create", &vcpu->error);

    lock_is_held(vcpu->vm);
    ck_assert_uint_eq((uintptr_t)data % VIRTX_PAGE_SIZE, 0);
    ck_assert(all_zero(data, sizeof(*data)));
    if (status != VIRTX_OK)
        return status;
    data->page = virtx_pages_alloc(vcpu->virtx, 1);
    return data->page ? VIRTX_OK : VIRTX_E_NO_MEMORY;
}

static void b_vcpu_destroy(struct virtx_vcpu *vcpu)
{
    lock_is_held(vcpu->vm);
    ck_assert(!fake_of(vcpu)->loaded || vcpu->dead);
    virtx_pages_free(vcpu->virtx, fake_of(vcpu)->page, 1);
}

static enum virtx_status b_load(struct virtx_vcpu *vcpu, uint32_t cpu)
{
    enum virtx_status status = step("load", &vcpu->error);

    ck_assert_uint_eq(cpu, fake_cpu);
    ck_assert(!fake_of(vcpu)->loaded);
    ck_assert(vcpu->running);
    if (status == VIRTX_OK) {
        fake_of(vcpu)->loaded = true;
        atomic_fetch_add(&fake.loads, 1);
    }
    return status;
}

static void b_put(struct virtx_vcpu *vcpu)
{
    ck_assert(fake_of(vcpu)->loaded);
    ck_assert(vcpu->running);
    ck_assert_uint_eq(vcpu->cpu, fake_cpu);
    if (fake.put)
        fake.put(vcpu);
    fake_of(vcpu)->loaded = false;
    atomic_fetch_add(&fake.puts, 1);
}

static enum virtx_status b_run(struct virtx_vcpu *vcpu)
{
    enum virtx_status status = step("run", &vcpu->error);
    struct virtx_exit *exit = virtx_backend_exit(vcpu);
    uint32_t requests;

    ck_assert(fake_of(vcpu)->loaded);
    ck_assert(vcpu->running);
    if (status != VIRTX_OK)
        return status;
    vcpu->stats.returns++;
    if (fake.run)
        return fake.run(vcpu);
    memset(exit, 0, sizeof(*exit));
    requests = virtx_backend_requests(vcpu, UINT32_MAX);
    if (requests & VIRTX_REQUEST_MEMORY)
        virtx_backend_settle(vcpu, atomic_load(&vcpu->vm->generation));
    exit->reason = requests & VIRTX_REQUEST_KICK ? VIRTX_EXIT_KICK : VIRTX_EXIT_HLT;
    return VIRTX_OK;
}

static enum virtx_status b_complete(struct virtx_vcpu *vcpu, const void *value)
{
    struct fake_vcpu *data = fake_of(vcpu);
    enum virtx_status status = step("complete", &vcpu->error);

    ck_assert(vcpu->exit.pending);
    if (status != VIRTX_OK)
        return status;
    if (value)
        memcpy(&data->state.gpr[VIRTX_RAX], value, 1);
    if (data->again) {
        data->again--;
        return VIRTX_AGAIN;
    }
    vcpu->exit.pending = false;
    return VIRTX_OK;
}

static enum virtx_status b_fault(struct virtx_vcpu *vcpu, const struct virtx_event *event)
{
    enum virtx_status status = step("fault", &vcpu->error);

    ck_assert(vcpu->exit.pending);
    ck_assert_int_eq(virtx_event_check(event), VIRTX_OK);
    if (status == VIRTX_OK)
        vcpu->exit.pending = false;
    return status;
}

static enum virtx_status b_reset(struct virtx_vcpu *vcpu, enum virtx_preset preset)
{
    struct fake_vcpu *data = fake_of(vcpu);
    enum virtx_status status = step("reset", &vcpu->error);

    if (status != VIRTX_OK)
        return status;
    memset(&data->state, 0, sizeof(data->state));
    data->state.cr0 = preset == VIRTX_PRESET_FLAT32 || preset == VIRTX_PRESET_FLAT64;
    data->state.rip = preset == VIRTX_PRESET_RESET ? 0xfff0 : 0;
    data->state.rflags = 2;
    return VIRTX_OK;
}

static enum virtx_status b_get(struct virtx_vcpu *vcpu, uint32_t groups, struct virtx_state *state)
{
    enum virtx_status status = step("get", &vcpu->error);

    (void)groups;
    if (status == VIRTX_OK)
        *state = fake_of(vcpu)->state;
    return status;
}

static void b_wake(struct virtx_vcpu *vcpu)
{
    struct virtx_state *state = &((struct fake_vcpu *)vcpu->backend_data)->state;

    if (state->activity == VIRTX_HALTED)
        state->activity = VIRTX_ACTIVE;
}

static enum virtx_status b_set(struct virtx_vcpu *vcpu, uint32_t groups,
                               const struct virtx_state *state)
{
    enum virtx_status status = step("set", &vcpu->error);

    (void)groups;
    if (status == VIRTX_OK)
        fake_of(vcpu)->state = *state;
    return status;
}

static uint64_t *b_gpr(struct virtx_vcpu *vcpu)
{
    return fake_of(vcpu)->state.gpr;
}

static size_t b_fpu_size(const struct virtx_vcpu *vcpu)
{
    (void)vcpu;
    return 576;
}

static enum virtx_status b_fpu_get(struct virtx_vcpu *vcpu, void *area)
{
    enum virtx_status status = step("fpu_get", &vcpu->error);

    if (status == VIRTX_OK)
        memset(area, 0x5a, 576);
    return status;
}

static enum virtx_status b_fpu_set(struct virtx_vcpu *vcpu, const void *area)
{
    (void)area;
    return step("fpu_set", &vcpu->error);
}

static void b_kick(struct virtx_vcpu *vcpu)
{
    uint32_t cpu = atomic_load(&vcpu->cpu);

    if (cpu != VIRTX_NO_CPU)
        kick_cpu(&fake, cpu);
}

static enum virtx_status b_intercept_check(const struct virtx_vm *vm,
                                           const struct virtx_intercept_config *config,
                                           bool *forced)
{
    (void)vm;
    (void)config;
    *forced = fake.forced;
    return step("intercept_check", NULL);
}

static enum virtx_status b_intercept_changed(struct virtx_vm *vm, struct virtx_vcpu *vcpu)
{
    (void)vcpu;
    lock_is_held(vm);
    return step("intercept_changed", NULL);
}

static void b_memory(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes,
                     enum virtx_memory_change change)
{
    lock_is_held(vm);
    if (fake.changes < FAKE_CHANGES)
        fake.change[fake.changes++] = (struct fake_change){gpa, bytes, change};
    if (vm->paging)
        vm->paging->memory(vm, gpa, bytes, change);
    if (fake.memory)
        fake.memory(vm, gpa, bytes, change);
}

static void b_collect_dirty(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes)
{
    lock_is_held(vm);
    if (fake.collect)
        fake.collect(vm, gpa, bytes);
}

const struct virtx_backend fake_backend = {
    .size = sizeof(struct virtx_backend),
    .name = "fake",
    .cpu_bytes = 300,
    .vm_bytes = sizeof(struct fake_vm_data),
    .vcpu_bytes = sizeof(struct fake_vcpu),
    .probe = b_probe,
    .cpu_enable = b_cpu_enable,
    .cpu_disable = b_cpu_disable,
    .cpu_emergency_off = b_cpu_emergency_off,
    .vm_create = b_vm_create,
    .vm_destroy = b_vm_destroy,
    .vcpu_create = b_vcpu_create,
    .vcpu_destroy = b_vcpu_destroy,
    .load = b_load,
    .put = b_put,
    .run = b_run,
    .complete = b_complete,
    .fault = b_fault,
    .reset = b_reset,
    .get = b_get,
    .wake = b_wake,
    .set = b_set,
    .gpr = b_gpr,
    .fpu_size = b_fpu_size,
    .fpu_get = b_fpu_get,
    .fpu_set = b_fpu_set,
    .kick = b_kick,
    .intercept_check = b_intercept_check,
    .intercept_changed = b_intercept_changed,
    .memory = b_memory,
    .collect_dirty = b_collect_dirty,
    .hw = &fake, /* needs an engine */
};

/* ---- Engine ---- */

struct engine_vm {
    void *root;
    uint64_t marker;
};

static enum virtx_status e_vm_create(struct virtx_vm *vm)
{
    struct engine_vm *data = virtx_paging_vm(vm);
    enum virtx_status status = step("engine_vm_create", &vm->error);

    lock_is_held(vm);
    ck_assert(all_zero(data, sizeof(*data)));
    if (status != VIRTX_OK)
        return status;
    data->root = virtx_pool_get(vm);
    if (!data->root)
        return VIRTX_E_NO_MEMORY;
    ck_assert(all_zero(data->root, VIRTX_PAGE_SIZE));
    return VIRTX_OK;
}

static void e_vm_destroy(struct virtx_vm *vm)
{
    struct engine_vm *data = virtx_paging_vm(vm);

    lock_is_held(vm);
    virtx_pool_put(vm, data->root, 0);
}

static enum virtx_status e_vcpu_create(struct virtx_vcpu *vcpu)
{
    uint64_t *data = virtx_paging_vcpu(vcpu);
    enum virtx_status status = step("engine_vcpu_create", &vcpu->error);

    lock_is_held(vcpu->vm);
    ck_assert_uint_eq(*data, 0);
    if (status == VIRTX_OK)
        *data = 42;
    return status;
}

static void e_vcpu_destroy(struct virtx_vcpu *vcpu)
{
    uint64_t *data = virtx_paging_vcpu(vcpu);

    lock_is_held(vcpu->vm);
    ck_assert_uint_eq(*data, 42);
    *data = 0;
}

static void e_memory(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes,
                     enum virtx_memory_change change)
{
    (void)vm;
    (void)gpa;
    (void)bytes;
    (void)change;
}

static void e_collect_dirty(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes)
{
    (void)vm;
    (void)gpa;
    (void)bytes;
}

static uint64_t e_root(struct virtx_vcpu *vcpu)
{
    struct engine_vm *data = virtx_paging_vm(vcpu->vm);

    return (uintptr_t)data->root;
}

static enum virtx_fault_result e_fault(struct virtx_vcpu *vcpu,
                                       struct virtx_page_fault *fault)
{
    (void)vcpu;
    (void)fault;
    return VIRTX_FAULT_NOT_MEMORY;
}

static void e_control_changed(struct virtx_vcpu *vcpu, uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    (void)vcpu;
    (void)cr0;
    (void)cr4;
    (void)efer;
}

static void e_invlpg(struct virtx_vcpu *vcpu, uint64_t gva)
{
    (void)vcpu;
    (void)gva;
}

#define ENGINE                                                                                     \
    .size = sizeof(struct virtx_paging), .vm_bytes = sizeof(struct engine_vm), .vcpu_bytes = 8,    \
    .vm_create = e_vm_create, .vm_destroy = e_vm_destroy, .vcpu_create = e_vcpu_create,            \
    .vcpu_destroy = e_vcpu_destroy, .memory = e_memory, .collect_dirty = e_collect_dirty,          \
    .root = e_root, .fault = e_fault

const struct virtx_paging fake_nested = {ENGINE, .name = "nested", .nested = true};
const struct virtx_paging fake_shadow = {ENGINE, .name = "shadow",
                                         .control_changed = e_control_changed, .invlpg = e_invlpg};

/* ---- Processor ---- */

struct cpuid_regs mock_cpuid(uint32_t leaf, uint32_t subleaf);

/* Something plain: no leaf but the vendor, unless the test brings a processor. */
struct cpuid_regs mock_cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid_regs none = {0};

    if (fake.cpuid)
        return fake.cpuid(leaf, subleaf);
    if (leaf == 0) {
        none.eax = 1;
        none.ebx = 0x756e6547;
        none.edx = 0x49656e69;
        none.ecx = 0x6c65746e;
    } else if (leaf == 0x80000000) {
        none.eax = 0x80000008;
    }
    return none;
}

/* ---- Around a test ---- */

void fake_begin(void)
{
    memset(&fake, 0, sizeof(fake));
    memset(allocations, 0, sizeof(allocations));
    fake_cpu = 0;
}

void fake_end(void)
{
    ck_assert_uint_eq(fake.pages, 0);
    ck_assert_uint_eq(fake.enabled, 0);
}

struct virtx_config fake_config(void)
{
    static const struct virtx_backend *const backends[] = {&fake_backend, NULL};
    static const struct virtx_paging *const paging[] = {&fake_nested, &fake_shadow, NULL};

    return (struct virtx_config){
        .size = sizeof(struct virtx_config),
        .max_cpus = FAKE_CPUS,
        .ops = &fake_ops,
        .ctx = &fake,
        .backends = backends,
        .paging = paging,
    };
}

struct virtx *fake_open(void)
{
    struct virtx_config config = fake_config();
    struct virtx *virtx = NULL;

    ck_assert_int_eq(virtx_open(&config, &virtx, NULL), VIRTX_OK);
    ck_assert_int_eq(virtx_cpu_enable(virtx), VIRTX_OK);
    return virtx;
}

struct virtx_vm *fake_vm(struct virtx *virtx)
{
    struct virtx_vm *vm = NULL;

    ck_assert_int_eq(virtx_vm_create(virtx, NULL, &vm), VIRTX_OK);
    return vm;
}

struct virtx_vcpu *fake_vcpu(struct virtx_vm *vm, uint32_t id)
{
    struct virtx_vcpu *vcpu = NULL;

    ck_assert_int_eq(virtx_vcpu_create(vm, id, &vcpu), VIRTX_OK);
    return vcpu;
}

void fake_close(struct virtx *virtx)
{
    for (uint32_t i = 0; i < FAKE_CPUS; i++) {
        fake_cpu = i;
        virtx_cpu_disable(virtx);
    }
    fake_cpu = 0;
    ck_assert_int_eq(virtx_close(virtx), VIRTX_OK);
}

void *fake_memory(size_t pages)
{
    void *memory = aligned_alloc(VIRTX_PAGE_SIZE, pages * VIRTX_PAGE_SIZE);

    ck_assert_ptr_nonnull(memory);
    memset(memory, 0, pages * VIRTX_PAGE_SIZE);
    return memory;
}

struct virtx_memslot *fake_slot(struct virtx_vm *vm, uint64_t gpa, size_t pages, void *memory)
{
    struct virtx_memslot_config config = {
        .size = sizeof(config),
        .rights = VIRTX_READ | VIRTX_WRITE | VIRTX_EXECUTE,
        .type = VIRTX_MEMORY_WB,
        .gpa = gpa,
        .bytes = pages * VIRTX_PAGE_SIZE,
        .memory = memory,
    };
    struct virtx_memslot *slot = NULL;

    ck_assert_int_eq(virtx_memslot_add(vm, &config, &slot), VIRTX_OK);
    return slot;
}

void fake_error(const struct virtx_error *error, enum virtx_status status, const char *what)
{
    ck_assert_int_eq(error->status, status);
    ck_assert_str_eq(error->what, what);
    ck_assert_uint_gt(strlen(error->rule), 0);
    ck_assert_ptr_nonnull(error->manual);
}

TCase *fake_case(Suite *suite, const char *name)
{
    TCase *tests = tcase_create(name);

    tcase_add_checked_fixture(tests, fake_begin, fake_end);
    tcase_set_timeout(tests, 100);
    suite_add_tcase(suite, tests);
    return tests;
}

int fake_main(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    int failed;

    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
