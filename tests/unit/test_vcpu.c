/* SPDX-License-Identifier: BSD-2-Clause */
/* vcpus: every call in every state it may not be made in, loading, pending accesses, events. */
#include "fake.h"

#include <stdlib.h>
#include <string.h>

static struct virtx *virtx;
static struct virtx_vm *vm;
static struct virtx_vcpu *vcpu;

static void begin(void)
{
    virtx = fake_open();
    vm = fake_vm(virtx);
    vcpu = fake_vcpu(vm, 0);
}

static void end(void)
{
    ck_assert_int_eq(virtx_vcpu_destroy(vcpu), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_destroy(vm), VIRTX_OK);
    fake_close(virtx);
}

/* A guest that does IN from port 0x60 when run. */
static enum virtx_status in_port(struct virtx_vcpu *v)
{
    struct virtx_exit *exit = virtx_backend_exit(v);

    memset(exit, 0, sizeof(*exit));
    exit->reason = VIRTX_EXIT_IO;
    exit->pending = true;
    exit->io.port = 0x60;
    exit->io.size = 1;
    exit->io.access = VIRTX_READ;
    exit->io.count = 1;
    return VIRTX_OK;
}

START_TEST(creation)
{
    struct virtx_vm_config config = {.size = sizeof(config), .max_vcpus = 2};
    struct virtx_vcpu *other = NULL;
    struct virtx_vm *small;
    size_t pages;

    begin();
    ck_assert_uint_eq(virtx_vcpu_id(vcpu), 0);
    ck_assert_ptr_eq(virtx_vcpu_vm(vcpu), vm);
    ck_assert_ptr_null(virtx_vcpu_user(vcpu));
    virtx_vcpu_set_user(vcpu, &config);
    ck_assert_ptr_eq(virtx_vcpu_user(vcpu), &config);
    ck_assert_int_eq(virtx_vcpu_last_error(vcpu)->status, VIRTX_OK);
    ck_assert_uint_eq(fake_of(vcpu)->state.rip, 0xfff0); /* after RESET */

    pages = fake.pages;
    ck_assert_int_eq(virtx_vcpu_create(vm, 0, &other), VIRTX_E_BUSY);
    fake_error(virtx_vm_last_error(vm), VIRTX_E_BUSY, "id");
    ck_assert_int_eq(virtx_vcpu_create(vm, 255, &other), VIRTX_E_INVALID);
    fake_error(virtx_vm_last_error(vm), VIRTX_E_INVALID, "id");
    ck_assert_int_eq(virtx_vcpu_create(vm, 1, NULL), VIRTX_E_INVALID);
    fake_error(virtx_vm_last_error(vm), VIRTX_E_INVALID, "out");
    ck_assert_int_eq(virtx_vm_create(virtx, &config, &small), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_create(small, 2, &other), VIRTX_E_INVALID);
    ck_assert_int_eq(virtx_vm_destroy(small), VIRTX_OK);

    fake.fail_status = VIRTX_E_HARDWARE;
    fake.fail_op = "vcpu_create";
    ck_assert_int_eq(virtx_vcpu_create(vm, 1, &other), VIRTX_E_HARDWARE);
    fake_error(virtx_vm_last_error(vm), VIRTX_E_HARDWARE, "vcpu_create");
    fake.fail_op = "engine_vcpu_create";
    ck_assert_int_eq(virtx_vcpu_create(vm, 1, &other), VIRTX_E_HARDWARE);
    fake.fail_op = "reset";
    fake.silent = true;
    ck_assert_int_eq(virtx_vcpu_create(vm, 1, &other), VIRTX_E_HARDWARE);
    fake_error(virtx_vm_last_error(vm), VIRTX_E_HARDWARE, "vcpu");
    fake.fail_op = NULL;
    fake.nonsense = FAKE_NO_ADDRESS;
    ck_assert_int_eq(virtx_vcpu_create(vm, 1, &other), VIRTX_E_HOST);
    fake_error(virtx_vm_last_error(vm), VIRTX_E_HOST, "ops.virt_to_phys");
    fake.nonsense = FAKE_SCATTERED; /* the backend's part is more than a page */
    ck_assert_int_eq(virtx_vcpu_create(vm, 1, &other), VIRTX_E_HOST);
    fake.nonsense = FAKE_HONEST;
    ck_assert_ptr_null(other);
    ck_assert_uint_eq(fake.pages, pages);
    ck_assert_uint_eq(vm->vcpu_count, 1);

    /* An id is free again after its vcpu. */
    other = fake_vcpu(vm, 7);
    ck_assert_int_eq(virtx_vcpu_destroy(vcpu), VIRTX_OK);
    vcpu = fake_vcpu(vm, 0);
    ck_assert_int_eq(virtx_vcpu_destroy(other), VIRTX_OK);
    end();
}
END_TEST

START_TEST(loading)
{
    const struct virtx_exit *exit = NULL;
    struct virtx_vcpu *other;
    struct virtx_state state;

    begin();
    other = fake_vcpu(vm, 1);
    fake_cpu = 1;
    ck_assert_int_eq(virtx_vcpu_run(vcpu, &exit), VIRTX_E_NOT_ENABLED);
    fake_error(virtx_vcpu_last_error(vcpu), VIRTX_E_NOT_ENABLED, "CPU");
    ck_assert_int_eq(virtx_vcpu_load(vcpu), VIRTX_E_NOT_ENABLED);
    ck_assert_int_eq(virtx_cpu_enable(virtx), VIRTX_OK);
    fake_cpu = FAKE_CPUS + 5;
    ck_assert_int_eq(virtx_vcpu_run(vcpu, &exit), VIRTX_E_HOST);
    fake_cpu = 0;

    /* Run loads once; the state stays until put. */
    ck_assert_int_eq(virtx_vcpu_run(vcpu, &exit), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_run(vcpu, &exit), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_load(vcpu), VIRTX_OK);
    ck_assert_uint_eq(fake.loads, 1);
    ck_assert_int_eq(virtx_cpu_disable(virtx), VIRTX_E_BUSY);
    fake_error(virtx_last_error(virtx), VIRTX_E_BUSY, "CPU");

    /* From another CPU nothing that needs the registers works. */
    fake_cpu = 1;
    ck_assert_int_eq(virtx_vcpu_run(vcpu, &exit), VIRTX_E_BUSY);
    fake_error(virtx_vcpu_last_error(vcpu), VIRTX_E_BUSY, "vcpu");
    ck_assert_int_eq(virtx_vcpu_load(vcpu), VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_vcpu_put(vcpu), VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_vcpu_get(vcpu, VIRTX_STATE_CR, &state), VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_vcpu_set(vcpu, VIRTX_STATE_CR, &state), VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_vcpu_reset(vcpu, VIRTX_PRESET_REAL), VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_vcpu_destroy(vcpu), VIRTX_E_BUSY);
    ck_assert_uint_eq(fake.puts, 0);
    fake_cpu = 0;
    ck_assert_int_eq(virtx_vcpu_put(vcpu), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_put(vcpu), VIRTX_OK); /* fine if not loaded */
    ck_assert_uint_eq(fake.puts, 1);
    fake_cpu = 1;
    ck_assert_int_eq(virtx_vcpu_get(vcpu, VIRTX_STATE_CR, &state), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_run(vcpu, &exit), VIRTX_OK);
    ck_assert_uint_eq(fake.loads, 2);
    ck_assert_uint_eq(vcpu->cpu, 1);

    /* A second vcpu takes the first one's place. */
    ck_assert_int_eq(virtx_vcpu_run(other, &exit), VIRTX_OK);
    ck_assert_uint_eq(fake.puts, 2);
    ck_assert_uint_eq(vcpu->cpu, VIRTX_NO_CPU);
    ck_assert_ptr_eq(virtx->cpus[1]->loaded, other);
    /* … unless somebody is inside the library with it. */
    other->running = true;
    ck_assert_int_eq(virtx_vcpu_run(vcpu, &exit), VIRTX_E_BUSY);
    fake_error(virtx_vcpu_last_error(vcpu), VIRTX_E_BUSY, "CPU");
    other->running = false;

    fake.fail_op = "load";
    fake.fail_status = VIRTX_E_HARDWARE;
    ck_assert_int_eq(virtx_vcpu_load(vcpu), VIRTX_E_HARDWARE);
    ck_assert_uint_eq(vcpu->cpu, VIRTX_NO_CPU);
    ck_assert_ptr_null(virtx->cpus[1]->loaded);
    fake.fail_op = NULL;
    ck_assert_int_eq(virtx_vcpu_run(vcpu, &exit), VIRTX_OK);

    /* Destruction puts. */
    ck_assert_int_eq(virtx_vcpu_destroy(other), VIRTX_OK);
    end();
}
END_TEST

START_TEST(emergency)
{
    const struct virtx_exit *exit;
    struct virtx_state state;

    begin();
    fake.run = in_port;
    ck_assert_int_eq(virtx_vcpu_run(vcpu, &exit), VIRTX_OK);
    virtx_cpu_emergency_off(virtx);
    fake.enabled--;
    ck_assert_int_eq(virtx_vcpu_run(vcpu, &exit), VIRTX_E_DEAD);
    fake_error(virtx_vcpu_last_error(vcpu), VIRTX_E_DEAD, "vcpu");
    ck_assert_int_eq(virtx_vcpu_get(vcpu, VIRTX_STATE_CR, &state), VIRTX_E_DEAD);
    ck_assert_int_eq(virtx_vcpu_complete(vcpu, NULL), VIRTX_E_DEAD);
    ck_assert_int_eq(virtx_vcpu_wake(vcpu), VIRTX_E_DEAD);
    ck_assert_int_eq(virtx_vcpu_put(vcpu), VIRTX_E_DEAD);
    ck_assert_uint_eq(fake.puts, 0); /* there is nothing that could be put */
    ck_assert_int_eq(virtx_cpu_enable(virtx), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_run(vcpu, &exit), VIRTX_E_DEAD);
    end();
}
END_TEST

/* While a vcpu is in run on another thread. */
START_TEST(while_running)
{
    const struct virtx_event nmi = {.type = VIRTX_EVENT_NMI, .vector = 2};
    const struct virtx_exit *exit;
    struct virtx_translation translation;
    struct virtx_state state;
    uint8_t area[576];
    unsigned calls;

    begin();
    vcpu->running = true;
    calls = fake.calls;
    ck_assert_int_eq(virtx_vcpu_run(vcpu, &exit), VIRTX_E_BUSY);
    fake_error(virtx_vcpu_last_error(vcpu), VIRTX_E_BUSY, "vcpu");
    ck_assert_int_eq(virtx_vcpu_complete(vcpu, NULL), VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_vcpu_fault(vcpu, &nmi), VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_vcpu_load(vcpu), VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_vcpu_put(vcpu), VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_vcpu_get(vcpu, VIRTX_STATE_CR, &state), VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_vcpu_set(vcpu, VIRTX_STATE_CR, &state), VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_vcpu_reset(vcpu, VIRTX_PRESET_REAL), VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_vcpu_fpu_get(vcpu, area, sizeof(area)), VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_vcpu_fpu_set(vcpu, area, sizeof(area)), VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_vcpu_inject(vcpu, &nmi), VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_vcpu_window(vcpu), VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_vcpu_irq_source(vcpu, NULL, NULL), VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_vcpu_translate(vcpu, 0, VIRTX_READ, false, &translation), VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_vcpu_read(vcpu, 0, area, 1, NULL), VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_vcpu_write(vcpu, 0, area, 1, NULL), VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_vcpu_destroy(vcpu), VIRTX_E_BUSY);
    ck_assert(vcpu->running); /* whoever has it keeps it */
    ck_assert_uint_eq(fake.calls, calls);
    vcpu->running = false;
    ck_assert_int_eq(virtx_vcpu_run(vcpu, &exit), VIRTX_OK);
    end();
}
END_TEST

START_TEST(pending)
{
    const struct virtx_event ud = {.type = VIRTX_EVENT_EXCEPTION, .vector = 6};
    const struct virtx_event bad = {.type = VIRTX_EVENT_EXCEPTION, .vector = 2};
    const struct virtx_exit *exit;
    struct virtx_state state;
    uint8_t area[576], value = 0x5c;

    begin();
    ck_assert_int_eq(virtx_vcpu_complete(vcpu, &value), VIRTX_E_NOT_PENDING);
    fake_error(virtx_vcpu_last_error(vcpu), VIRTX_E_NOT_PENDING, "vcpu");
    ck_assert_int_eq(virtx_vcpu_fault(vcpu, &ud), VIRTX_E_NOT_PENDING);

    fake.run = in_port;
    ck_assert_int_eq(virtx_vcpu_run(vcpu, &exit), VIRTX_OK);
    ck_assert_uint_eq(exit->reason, VIRTX_EXIT_IO);
    ck_assert_int_eq(virtx_vcpu_run(vcpu, &exit), VIRTX_E_PENDING);
    fake_error(virtx_vcpu_last_error(vcpu), VIRTX_E_PENDING, "vcpu");
    ck_assert_int_eq(virtx_vcpu_get(vcpu, VIRTX_STATE_ALL, &state), VIRTX_E_PENDING);
    ck_assert_int_eq(virtx_vcpu_set(vcpu, VIRTX_STATE_ALL, &state), VIRTX_E_PENDING);
    ck_assert_int_eq(virtx_vcpu_fpu_get(vcpu, area, sizeof(area)), VIRTX_E_PENDING);
    ck_assert_int_eq(virtx_vcpu_fpu_set(vcpu, area, sizeof(area)), VIRTX_E_PENDING);
    ck_assert(!vcpu->running);

    /* A further access of the same instruction is pending, too. */
    fake_of(vcpu)->again = 1;
    ck_assert_int_eq(virtx_vcpu_complete(vcpu, &value), VIRTX_AGAIN);
    ck_assert_int_eq(virtx_vcpu_run(vcpu, &exit), VIRTX_E_PENDING);
    ck_assert_int_eq(virtx_vcpu_complete(vcpu, &value), VIRTX_OK);
    ck_assert_uint_eq(virtx_vcpu_gpr(vcpu)[VIRTX_RAX], 0x5c);
    ck_assert_int_eq(virtx_vcpu_complete(vcpu, &value), VIRTX_E_NOT_PENDING);

    ck_assert_int_eq(virtx_vcpu_run(vcpu, &exit), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_fault(vcpu, &bad), VIRTX_E_INVALID);
    fake_error(virtx_vcpu_last_error(vcpu), VIRTX_E_INVALID, "event");
    ck_assert_int_eq(virtx_vcpu_fault(vcpu, NULL), VIRTX_E_INVALID);
    ck_assert(vcpu->exit.pending);
    ck_assert_int_eq(virtx_vcpu_fault(vcpu, &ud), VIRTX_OK);
    ck_assert(!vcpu->exit.pending);

    /* Reset drops it; a failed reset does not. */
    ck_assert_int_eq(virtx_vcpu_run(vcpu, &exit), VIRTX_OK);
    fake.fail_op = "reset";
    fake.fail_status = VIRTX_E_HARDWARE;
    ck_assert_int_eq(virtx_vcpu_reset(vcpu, VIRTX_PRESET_REAL), VIRTX_E_HARDWARE);
    ck_assert(vcpu->exit.pending);
    fake.fail_op = NULL;
    ck_assert_int_eq(virtx_vcpu_reset(vcpu, VIRTX_PRESET_REAL), VIRTX_OK);
    ck_assert(!vcpu->exit.pending);
    ck_assert_int_eq(virtx_vcpu_run(vcpu, &exit), VIRTX_OK);
    end();
}
END_TEST

START_TEST(bad_arguments)
{
    struct virtx_translation translation;
    struct virtx_state state;
    uint8_t area[576];
    unsigned calls;

    begin();
    calls = fake.calls;
    ck_assert_int_eq(virtx_vcpu_get(vcpu, VIRTX_STATE_ALL + 1, &state), VIRTX_E_INVALID);
    fake_error(virtx_vcpu_last_error(vcpu), VIRTX_E_INVALID, "groups");
    ck_assert_int_eq(virtx_vcpu_set(vcpu, 1u << 31, &state), VIRTX_E_INVALID);
    ck_assert_int_eq(virtx_vcpu_get(vcpu, VIRTX_STATE_ALL, NULL), VIRTX_E_INVALID);
    fake_error(virtx_vcpu_last_error(vcpu), VIRTX_E_INVALID, "state");
    ck_assert_int_eq(virtx_vcpu_set(vcpu, VIRTX_STATE_ALL, NULL), VIRTX_E_INVALID);
    ck_assert_int_eq(virtx_vcpu_reset(vcpu, VIRTX_PRESET_COUNT), VIRTX_E_INVALID);
    fake_error(virtx_vcpu_last_error(vcpu), VIRTX_E_INVALID, "preset");
    ck_assert_int_eq(virtx_vcpu_fpu_get(vcpu, area, 575), VIRTX_E_INVALID);
    fake_error(virtx_vcpu_last_error(vcpu), VIRTX_E_INVALID, "area, bytes");
    ck_assert_int_eq(virtx_vcpu_fpu_set(vcpu, area, 575), VIRTX_E_INVALID);
    ck_assert_int_eq(virtx_vcpu_fpu_get(vcpu, NULL, 576), VIRTX_E_INVALID);
    ck_assert_int_eq(virtx_vcpu_translate(vcpu, 0, 0, false, &translation), VIRTX_E_INVALID);
    ck_assert_int_eq(virtx_vcpu_translate(vcpu, 0, 8, false, &translation), VIRTX_E_INVALID);
    ck_assert_int_eq(virtx_vcpu_translate(vcpu, 0, 1, false, NULL), VIRTX_E_INVALID);
    ck_assert_uint_eq(fake.calls, calls);

    ck_assert_uint_eq(virtx_vcpu_fpu_size(vcpu), 576);
    ck_assert_int_eq(virtx_vcpu_fpu_get(vcpu, area, 576), VIRTX_OK);
    ck_assert_uint_eq(area[575], 0x5a);
    ck_assert_int_eq(virtx_vcpu_fpu_set(vcpu, area, 576), VIRTX_OK);

    /* What the backend refuses comes through, with a detail even where it gave none. */
    fake.silent = true;
    fake.fail_status = VIRTX_E_INVALID;
    fake.fail_op = "set";
    vcpu->error.status = VIRTX_OK;
    ck_assert_int_eq(virtx_vcpu_set(vcpu, VIRTX_STATE_CR, &state), VIRTX_E_INVALID);
    fake_error(virtx_vcpu_last_error(vcpu), VIRTX_E_INVALID, "state");
    fake.fail_op = "fpu_set";
    vcpu->error.status = VIRTX_OK;
    ck_assert_int_eq(virtx_vcpu_fpu_set(vcpu, area, 576), VIRTX_E_INVALID);
    fake_error(virtx_vcpu_last_error(vcpu), VIRTX_E_INVALID, "area");
    fake.fail_op = "run";
    fake.fail_status = VIRTX_E_GUEST_STATE;
    ck_assert_int_eq(virtx_vcpu_run(vcpu, &(const struct virtx_exit *){NULL}), VIRTX_E_GUEST_STATE);
    fake_error(virtx_vcpu_last_error(vcpu), VIRTX_E_GUEST_STATE, "run");
    fake.fail_op = NULL;
    end();
}
END_TEST

START_TEST(kicks)
{
    const struct virtx_exit *exit;

    begin();
    /* Before the first run, and several at once: one return. */
    virtx_vcpu_kick(vcpu);
    virtx_vcpu_kick(vcpu);
    ck_assert_uint_eq(fake.ipis, 0); /* nobody to interrupt */
    ck_assert_int_eq(virtx_vcpu_run(vcpu, &exit), VIRTX_OK);
    ck_assert_uint_eq(exit->reason, VIRTX_EXIT_KICK);
    ck_assert_int_eq(virtx_vcpu_run(vcpu, &exit), VIRTX_OK);
    ck_assert_uint_eq(exit->reason, VIRTX_EXIT_HLT);

    /* Loaded but not in run: it will look. */
    virtx_vcpu_kick(vcpu);
    ck_assert_uint_eq(fake.ipis, 0);
    ck_assert_int_eq(virtx_vcpu_run(vcpu, &exit), VIRTX_OK);
    ck_assert_uint_eq(exit->reason, VIRTX_EXIT_KICK);

    /* In run: one interrupt for the first request, none while it is outstanding. */
    vcpu->running = true;
    virtx_vcpu_kick(vcpu);
    virtx_vcpu_kick(vcpu);
    ck_assert_uint_eq(fake.ipis, 1);
    virtx_vcpu_nmi(vcpu);
    ck_assert_uint_eq(fake.ipis, 2);
    virtx_vcpu_irq_changed(vcpu);
    virtx_vcpu_irq_changed(vcpu);
    ck_assert_uint_eq(fake.ipis, 3);
    /* From its own handler: it will look when that has returned. From another CPU it must be told.
     */
    vcpu->requests = 0;
    vcpu->handler = true;
    virtx_vcpu_irq_changed(vcpu);
    ck_assert_uint_eq(fake.ipis, 3);
    vcpu->requests = 0;
    fake_cpu = 1;
    virtx_vcpu_irq_changed(vcpu);
    ck_assert_uint_eq(fake.ipis, 4);
    fake_cpu = 0;
    vcpu->handler = false;
    vcpu->running = false;

    /* A kick survives put, reset and a failed run. */
    vcpu->requests = 0;
    virtx_vcpu_kick(vcpu);
    ck_assert_int_eq(virtx_vcpu_put(vcpu), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_reset(vcpu, VIRTX_PRESET_REAL), VIRTX_OK);
    fake.fail_op = "run";
    fake.fail_status = VIRTX_E_GUEST_STATE;
    ck_assert_int_eq(virtx_vcpu_run(vcpu, &exit), VIRTX_E_GUEST_STATE);
    fake.fail_op = NULL;
    ck_assert_int_eq(virtx_vcpu_run(vcpu, &exit), VIRTX_OK);
    ck_assert_uint_eq(exit->reason, VIRTX_EXIT_KICK);
    end();
}
END_TEST

/* ---- Events ---- */

static int waiting = -1;

static int source_pending(void *ctx)
{
    ck_assert_ptr_eq(ctx, &waiting);
    return waiting;
}

static int source_take(void *ctx)
{
    int vector = source_pending(ctx);

    waiting = -1;
    return vector;
}

static void set_if(bool on)
{
    struct virtx_state state;

    ck_assert_int_eq(virtx_vcpu_get(vcpu, VIRTX_STATE_RFLAGS, &state), VIRTX_OK);
    state.rflags = on ? 0x202 : 2;
    ck_assert_int_eq(virtx_vcpu_set(vcpu, VIRTX_STATE_RFLAGS, &state), VIRTX_OK);
}

START_TEST(injection)
{
    struct virtx_event irq = {.type = VIRTX_EVENT_INTERRUPT, .vector = 0x31};
    struct virtx_event nmi = {.type = VIRTX_EVENT_NMI, .vector = 2};
    struct virtx_event gp = {.type = VIRTX_EVENT_EXCEPTION, .vector = 13, .has_error = true};
    struct virtx_event db = {.type = VIRTX_EVENT_EXCEPTION, .vector = 1};
    struct virtx_state state;

    begin();
    ck_assert(!virtx_vcpu_wakeable(vcpu));
    ck_assert_int_eq(virtx_vcpu_inject(vcpu, NULL), VIRTX_E_INVALID);
    ck_assert_int_eq(virtx_vcpu_inject(vcpu, &irq), VIRTX_OK);
    ck_assert(!virtx_vcpu_wakeable(vcpu)); /* IF is clear: it would wait for ever */
    set_if(true);
    ck_assert(virtx_vcpu_wakeable(vcpu));
    set_if(false);
    irq.vector = 0x32;
    ck_assert_int_eq(virtx_vcpu_inject(vcpu, &irq), VIRTX_E_BUSY);
    fake_error(virtx_vcpu_last_error(vcpu), VIRTX_E_BUSY, "event");
    ck_assert_uint_eq(vcpu->events.interrupt.vector, 0x31);
    ck_assert_uint_ne(vcpu->requests & VIRTX_REQUEST_EVENT, 0);
    ck_assert_uint_eq(fake.ipis, 0); /* it is the vcpu's own thread */

    /* Three NMIs: one being handled, one latched, one lost. */
    for (unsigned i = 0; i < 3; i++)
        ck_assert_int_eq(virtx_vcpu_inject(vcpu, &nmi), VIRTX_OK);
    ck_assert_uint_eq(vcpu->events.nmis, 2);

    /* The error code goes with the mode. */
    ck_assert_int_eq(virtx_vcpu_inject(vcpu, &gp), VIRTX_E_INVALID);
    fake_error(virtx_vcpu_last_error(vcpu), VIRTX_E_INVALID, "event.has_error");
    ck_assert_int_eq(virtx_vcpu_reset(vcpu, VIRTX_PRESET_FLAT32), VIRTX_OK);
    ck_assert(!vcpu->events.nmis && !vcpu->events.has_interrupt);
    ck_assert_int_eq(virtx_vcpu_inject(vcpu, &gp), VIRTX_OK);
    gp.has_error = false;
    ck_assert_int_eq(virtx_vcpu_inject(vcpu, &gp), VIRTX_E_INVALID);
    gp.has_error = true;

    /* Contributory twice: #DF; once more: shutdown. */
    ck_assert_int_eq(virtx_vcpu_inject(vcpu, &gp), VIRTX_OK);
    ck_assert_uint_eq(vcpu->events.exception.vector, 8);
    ck_assert(vcpu->events.exception.has_error);
    ck_assert_int_eq(virtx_vcpu_inject(vcpu, &gp), VIRTX_OK);
    ck_assert(!vcpu->events.has_exception);
    ck_assert_int_eq(virtx_vcpu_get(vcpu, VIRTX_STATE_INTR, &state), VIRTX_OK);
    ck_assert_uint_eq(state.activity, VIRTX_SHUTDOWN);

    ck_assert_int_eq(virtx_vcpu_reset(vcpu, VIRTX_PRESET_FLAT32), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_inject(vcpu, &db), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_window(vcpu), VIRTX_OK);
    ck_assert(vcpu->events.want_window);
    /* An NMI from elsewhere wakes, and reset forgets it. */
    ck_assert_int_eq(virtx_vcpu_reset(vcpu, VIRTX_PRESET_INIT), VIRTX_OK);
    ck_assert(!virtx_vcpu_wakeable(vcpu));
    virtx_vcpu_nmi(vcpu);
    ck_assert(virtx_vcpu_wakeable(vcpu));
    ck_assert_int_eq(virtx_vcpu_get(vcpu, VIRTX_STATE_INTR, &state), VIRTX_OK);
    state.interruptibility = VIRTX_BLOCKED_BY_NMI;
    ck_assert_int_eq(virtx_vcpu_set(vcpu, VIRTX_STATE_INTR, &state), VIRTX_OK);
    ck_assert(!virtx_vcpu_wakeable(vcpu));
    ck_assert_int_eq(virtx_vcpu_reset(vcpu, VIRTX_PRESET_RESET), VIRTX_OK);
    ck_assert(!virtx_vcpu_wakeable(vcpu));
    end();
}
END_TEST

START_TEST(sources)
{
    struct virtx_irq_source source = {.pending = source_pending};

    begin();
    ck_assert_int_eq(virtx_vcpu_irq_source(vcpu, &source, &waiting), VIRTX_E_MISSING_OP);
    fake_error(virtx_vcpu_last_error(vcpu), VIRTX_E_MISSING_OP, "source.take");
    source.take = source_take;
    source.pending = NULL;
    ck_assert_int_eq(virtx_vcpu_irq_source(vcpu, &source, &waiting), VIRTX_E_MISSING_OP);
    fake_error(virtx_vcpu_last_error(vcpu), VIRTX_E_MISSING_OP, "source.pending");
    ck_assert_ptr_null(vcpu->irq);
    source.pending = source_pending;
    ck_assert_int_eq(virtx_vcpu_irq_source(vcpu, &source, &waiting), VIRTX_OK);
    waiting = -1;
    ck_assert(!virtx_vcpu_wakeable(vcpu));
    waiting = 0;
    ck_assert(!virtx_vcpu_wakeable(vcpu));
    set_if(true);
    ck_assert(virtx_vcpu_wakeable(vcpu));
    ck_assert_int_eq(virtx_vcpu_reset(vcpu, VIRTX_PRESET_RESET), VIRTX_OK);
    ck_assert_ptr_eq(vcpu->irq, &source); /* a controller stays attached */
    ck_assert_int_eq(virtx_vcpu_irq_source(vcpu, NULL, NULL), VIRTX_OK);
    ck_assert(!virtx_vcpu_wakeable(vcpu));
    end();
}
END_TEST

/* ---- Handlers ---- */

static enum virtx_verdict answer;
static bool called;

/* What a handler may do, and what it may not. */
static enum virtx_verdict handler(struct virtx_vcpu *v, struct virtx_exit *exit, void *ctx)
{
    const struct virtx_event ud = {.type = VIRTX_EVENT_EXCEPTION, .vector = 6};
    const struct virtx_exit *out;
    struct virtx_state state;
    uint8_t byte = 7;

    called = true;
    ck_assert_ptr_eq(ctx, &answer);
    ck_assert_ptr_eq(exit, virtx_backend_exit(v));
    ck_assert_int_eq(virtx_vcpu_get(v, VIRTX_STATE_ALL, &state), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_set(v, VIRTX_STATE_ALL, &state), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_inject(v, &ud), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_write(v->vm, 0x1000, &byte, 1), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_read(v->vm, 0x1000, &byte, 1), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_run(v, &out), VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_vcpu_complete(v, NULL), VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_vcpu_fault(v, &ud), VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_vcpu_put(v), VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_vcpu_destroy(v), VIRTX_E_BUSY);
    ck_assert_int_eq(virtx_vcpu_reset(v, VIRTX_PRESET_REAL), VIRTX_E_BUSY);
    ck_assert(v->running);
    return answer;
}

static enum virtx_verdict verdict;

static enum virtx_status dispatching(struct virtx_vcpu *v)
{
    in_port(v);
    v->exit.pending = false;
    verdict = virtx_backend_dispatch(v);
    ck_assert(!v->handler);
    return VIRTX_OK;
}

START_TEST(handlers)
{
    struct virtx_intercept_config config = {.size = sizeof(config),
                                            .kind = VIRTX_INTERCEPT_PORT,
                                            .access = VIRTX_READ,
                                            .first = 0x60,
                                            .last = 0x60,
                                            .handler = handler,
                                            .ctx = &answer};
    static const enum virtx_verdict verdicts[] = {VIRTX_HANDLED, VIRTX_TO_LOOP, VIRTX_DEFAULT,
                                                  VIRTX_FAULT};
    const struct virtx_exit *exit;
    void *memory = fake_memory(1);

    begin();
    fake_slot(vm, 0x1000, 1, memory);
    ck_assert_int_eq(virtx_vcpu_intercept(vcpu, &config, NULL), VIRTX_OK);
    fake.run = dispatching;
    for (unsigned i = 0; i < ARRAY_SIZE(verdicts); i++) {
        answer = verdicts[i];
        called = false;
        vcpu->events.has_exception = false;
        ck_assert_int_eq(virtx_vcpu_run(vcpu, &exit), VIRTX_OK);
        ck_assert(called);
        ck_assert_int_eq(verdict, verdicts[i]);
    }
    answer = (enum virtx_verdict)99; /* nonsense is for the loop to see */
    vcpu->events.has_exception = false;
    ck_assert_int_eq(virtx_vcpu_run(vcpu, &exit), VIRTX_OK);
    ck_assert_int_eq(verdict, VIRTX_TO_LOOP);
    fake.run = NULL;
    end();
    free(memory);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("vcpu");
    TCase *tests = fake_case(suite, "vcpu");

    tcase_add_test(tests, creation);
    tcase_add_test(tests, loading);
    tcase_add_test(tests, emergency);
    tcase_add_test(tests, while_running);
    tcase_add_test(tests, pending);
    tcase_add_test(tests, bad_arguments);
    tcase_add_test(tests, kicks);
    tcase_add_test(tests, injection);
    tcase_add_test(tests, sources);
    tcase_add_test(tests, handlers);
    return fake_main(suite);
}
