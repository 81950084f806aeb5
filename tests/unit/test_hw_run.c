/* SPDX-License-Identifier: BSD-2-Clause */
/* The run loop: what is served inside, what reaches the embedder, kicks, events and registers. */
#include "hw/service.h"
#include "hw_world.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static void begin(void)
{
    world_begin(&virtx_profile_bare);
}

static struct virtx_state get(uint32_t groups)
{
    struct virtx_state state;

    world_get(groups, &state);
    return state;
}

/* ---- CPUID ---- */

struct cpuid_answer {
    uint32_t a, b, c, d;
};

static void cpuid_of(uint32_t leaf, uint32_t subleaf, struct cpuid_answer *out)
{
    uint64_t *gpr = world_gpr();

    gpr[VIRTX_RAX] = 0xffffffff00000000 | leaf;
    gpr[VIRTX_RCX] = 0xffffffff00000000 | subleaf;
    world.at = world.length = 0;
    world_play(exit_cpuid);
    world_run();
    ck_assert_uint_eq(gpr[VIRTX_RAX] >> 32, 0); /* CPUID clears the upper halves */
    ck_assert_uint_eq(gpr[VIRTX_RCX] >> 32, 0);
    *out = (struct cpuid_answer){(uint32_t)gpr[VIRTX_RAX], (uint32_t)gpr[VIRTX_RBX],
                                 (uint32_t)gpr[VIRTX_RCX], (uint32_t)gpr[VIRTX_RDX]};
}

START_TEST(test_cpuid_served_inside)
{
    struct cpuid_answer answer;
    uint64_t rip = get(VIRTX_STATE_RIP).rip;

    cpuid_of(0, 7, &answer);
    ck_assert_uint_eq(answer.b, 0x756e6547);
    ck_assert_uint_eq(get(VIRTX_STATE_RIP).rip, rip + 2);
    ck_assert_uint_eq(world.entries, 2); /* the CPUID and the host interrupt behind it */
    ck_assert_uint_eq(world.controls, 0);
    ck_assert_uint_eq(world.flushes, 0);
    ck_assert_uint_eq(world.msr_writes, 0);
}
END_TEST

START_TEST(test_cpuid_osxsave_follows_cr4)
{
    struct cpuid_answer answer;
    struct virtx_state state;

    cpuid_of(1, 0, &answer);
    ck_assert_uint_eq(answer.c >> 27 & 1, 0);
    state = get(VIRTX_STATE_CR);
    state.cr4 |= CR4_OSXSAVE;
    world_set(VIRTX_STATE_CR, &state);
    cpuid_of(1, 0, &answer);
    ck_assert_uint_eq(answer.c >> 27 & 1, 1);
    /* XSAVE area sizes: x87 and SSE need 576 bytes, AVX 832. */
    cpuid_of(0xd, 0, &answer);
    ck_assert_uint_eq(answer.b, 576);
    state = get(VIRTX_STATE_XCR);
    state.xcr0 = 7;
    world_set(VIRTX_STATE_XCR, &state);
    cpuid_of(0xd, 0, &answer);
    ck_assert_uint_eq(answer.b, 832);
    world.xcr0 = 1; /* an XSETBV that had no exit, as on QEMU */
    cpuid_of(0xd, 0, &answer);
    ck_assert_uint_eq(answer.b, 576);
    ck_assert_uint_eq(get(VIRTX_STATE_XCR).xcr0, 1);
}
END_TEST

/* ---- Ports ---- */

static void exit_out(struct hw_vcpu *hv)
{
    world_out(hv, 0x80, 2, 1);
}

static void exit_in_byte(struct hw_vcpu *hv)
{
    world_in(hv, 0x60, 1, 2);
}

static void exit_in_long(struct hw_vcpu *hv)
{
    world_in(hv, 0x60, 4, 1);
}

START_TEST(test_out_reaches_the_loop)
{
    uint64_t rip = get(VIRTX_STATE_RIP).rip;
    const struct virtx_exit *exit;

    world_gpr()[VIRTX_RAX] = 0x12345678;
    world_play(exit_out);
    exit = world_run();
    ck_assert_uint_eq(exit->reason, VIRTX_EXIT_IO);
    ck_assert(exit->pending);
    ck_assert_uint_eq(exit->io.port, 0x80);
    ck_assert_uint_eq(exit->io.value, 0x5678);
    ck_assert_uint_eq(*(uint16_t *)exit->io.data, 0x5678);
    ck_assert_int_eq(virtx_vcpu_complete(world.vcpu, NULL), VIRTX_OK);
    ck_assert_uint_eq(get(VIRTX_STATE_RIP).rip, rip + 1);
    ck_assert_int_eq(virtx_vcpu_complete(world.vcpu, NULL), VIRTX_E_NOT_PENDING);
}
END_TEST

/* A write has no answer to wait for: run completes it, here or where it takes the vcpu. */
START_TEST(test_run_completes_writes)
{
    const struct virtx_exit *exit;
    struct virtx_state state;
    uint64_t rip = get(VIRTX_STATE_RIP).rip;

    world_play(exit_out);
    world_run();
    ck_assert_int_eq(virtx_vcpu_get(world.vcpu, VIRTX_STATE_RIP, &state), VIRTX_E_PENDING);
    if (_i == 1)
        ck_assert_int_eq(virtx_vcpu_put(world.vcpu), VIRTX_OK);
    world_play(exit_in_byte);
    exit = world_run();
    ck_assert_uint_eq(exit->rip, rip + 1);
    ck_assert_int_eq(virtx_vcpu_run(world.vcpu, &exit), VIRTX_E_PENDING); /* not so a read */
    ck_assert_int_eq(virtx_vcpu_complete(world.vcpu, NULL), VIRTX_OK);
    ck_assert_uint_eq(get(VIRTX_STATE_RIP).rip, rip + 1 + exit->length);
}
END_TEST

/* The instruction is retired by whatever looks at the registers first, and once. */
START_TEST(test_completed_instruction_is_retired_once)
{
    struct virtx_state state;
    uint64_t rip = get(VIRTX_STATE_RIP).rip;
    uint32_t cpu = world.this_cpu;

    world_play(exit_out);
    world_run();
    world.this_cpu = cpu + 1; /* loaded elsewhere: what completing needs is in memory */
    ck_assert_int_eq(virtx_vcpu_complete(world.vcpu, NULL), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_get(world.vcpu, VIRTX_STATE_RIP, &state), VIRTX_E_BUSY);
    world.this_cpu = cpu;
    switch (_i) {
    case 0: /* run */
        world_play(exit_out);
        ck_assert_uint_eq(world_run()->rip, rip + 1);
        break;
    case 1: /* another processor, by way of put */
        ck_assert_int_eq(virtx_vcpu_put(world.vcpu), VIRTX_OK);
        ck_assert_uint_eq(get(VIRTX_STATE_RIP).rip, rip + 1);
        ck_assert_int_eq(virtx_vcpu_load(world.vcpu), VIRTX_OK);
        ck_assert_uint_eq(get(VIRTX_STATE_RIP).rip, rip + 1);
        break;
    case 2: /* a jump by the embedder replaces the next address */
        state.rip = 0x5000;
        ck_assert_int_eq(virtx_vcpu_set(world.vcpu, VIRTX_STATE_RIP, &state), VIRTX_OK);
        ck_assert_uint_eq(get(VIRTX_STATE_RIP).rip, 0x5000);
        world_play(exit_out);
        ck_assert_uint_eq(world_run()->rip, 0x5000);
        break;
    default: /* RESET forgets it */
        ck_assert_int_eq(virtx_vcpu_reset(world.vcpu, VIRTX_PRESET_RESET), VIRTX_OK);
        ck_assert_uint_eq(get(VIRTX_STATE_RIP).rip, 0xfff0);
        world_play(exit_out);
        ck_assert_uint_eq(world_run()->rip, 0xfff0);
        break;
    }
}
END_TEST

START_TEST(test_in_merges_by_size)
{
    uint8_t byte = 0xab;
    uint32_t word = 0x87654321;

    world_gpr()[VIRTX_RAX] = 0x1122334455667788;
    world_play(exit_in_byte);
    world_run();
    ck_assert_int_eq(virtx_vcpu_complete(world.vcpu, &byte), VIRTX_OK);
    ck_assert_uint_eq(world_gpr()[VIRTX_RAX], 0x11223344556677ab);
    world_play(exit_in_long);
    world_run();
    ck_assert_int_eq(virtx_vcpu_complete(world.vcpu, &word), VIRTX_OK);
    ck_assert_uint_eq(world_gpr()[VIRTX_RAX], 0x87654321); /* 32-bit results clear the upper half */
    world_play(exit_in_byte);
    world_run();
    ck_assert_int_eq(virtx_vcpu_complete(world.vcpu, NULL), VIRTX_OK);
    ck_assert_uint_eq(world_gpr()[VIRTX_RAX], 0x876543ff); /* untouched: all ones */
}
END_TEST

START_TEST(test_fault_instead_of_complete)
{
    const struct virtx_event gp = {
        .type = VIRTX_EVENT_EXCEPTION, .vector = VECTOR_GP, .has_error = true, .error = 0};
    uint64_t rip = get(VIRTX_STATE_RIP).rip;

    world_play(exit_out);
    world_run();
    ck_assert_int_eq(virtx_vcpu_fault(world.vcpu, &gp), VIRTX_OK);
    world_run();
    ck_assert_uint_eq(world.injections, 1);
    ck_assert_uint_eq(world.injected[0].vector, VECTOR_GP);
    ck_assert_uint_eq(get(VIRTX_STATE_RIP).rip, rip);
}
END_TEST

/* ---- Intercepts ---- */

static unsigned handled;

static enum virtx_verdict answer_port(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    struct virtx_state state;

    handled++;
    ck_assert_ptr_eq(ctx, &handled);
    ck_assert_int_eq(virtx_vcpu_get(vcpu, VIRTX_STATE_RIP, &state), VIRTX_OK);
    ck_assert_uint_eq(state.rip, exit->rip);
    if (exit->io.access == VIRTX_READ)
        exit->io.value = 0x77;
    return VIRTX_HANDLED;
}

static enum virtx_verdict raise_gp(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    const struct virtx_event gp = {
        .type = VIRTX_EVENT_EXCEPTION, .vector = VECTOR_GP, .has_error = true};

    (void)exit;
    (void)ctx;
    ck_assert_int_eq(virtx_vcpu_inject(vcpu, &gp), VIRTX_OK);
    return VIRTX_FAULT;
}

static struct virtx_intercept *intercept(uint32_t kind, uint64_t first, uint64_t last,
                                         uint32_t access, uint32_t action, virtx_handler handler)
{
    const struct virtx_intercept_config config = {.size = sizeof(config),
                                                  .kind = kind,
                                                  .access = access,
                                                  .action = action,
                                                  .first = first,
                                                  .last = last,
                                                  .handler = handler,
                                                  .ctx = &handled};
    struct virtx_intercept *out = NULL;

    ck_assert_int_eq(virtx_vm_intercept(world.vm, &config, &out), VIRTX_OK);
    return out;
}

START_TEST(test_port_handler_inside_run)
{
    uint64_t rip = get(VIRTX_STATE_RIP).rip;

    handled = 0;
    intercept(VIRTX_INTERCEPT_PORT, 0x60, 0x60, VIRTX_READ, VIRTX_ACTION_EXIT, answer_port);
    world_play(exit_in_byte);
    world_play(exit_in_byte);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_INTERRUPT);
    ck_assert_uint_eq(handled, 2);
    ck_assert_uint_eq(world_gpr()[VIRTX_RAX] & 0xff, 0x77);
    ck_assert_uint_eq(get(VIRTX_STATE_RIP).rip, rip + 4);
    ck_assert_uint_eq(world.controls, 1); /* obeyed from the next entry on, once */
}
END_TEST

START_TEST(test_handler_faults)
{
    uint64_t rip = get(VIRTX_STATE_RIP).rip;

    intercept(VIRTX_INTERCEPT_PORT, 0x60, 0x60, VIRTX_READ, VIRTX_ACTION_EXIT, raise_gp);
    world_play(exit_in_byte);
    world_run();
    ck_assert_uint_eq(world.injections, 1);
    ck_assert_uint_eq(world.injected[0].vector, VECTOR_GP);
    ck_assert_uint_eq(get(VIRTX_STATE_RIP).rip, rip);
}
END_TEST

START_TEST(test_bitmaps_follow_intercepts)
{
    struct virtx_intercept *ports, *msrs, *deny;

    ck_assert(world.msrs[1][0x100] == (VIRTX_READ | VIRTX_WRITE)); /* FS base: by default */
    ck_assert_uint_eq(world.msrs[1][0x80], 0);                     /* EFER: never by default */
    ports = intercept(VIRTX_INTERCEPT_PORT, 0x100, 0x1ff, VIRTX_READ | VIRTX_WRITE,
                      VIRTX_ACTION_ALLOW, NULL);
    ck_assert(!world.ports[0xff] && world.ports[0x100] && world.ports[0x1ff] &&
              !world.ports[0x200]);
    intercept(VIRTX_INTERCEPT_PORT, 0x200, 0x200, VIRTX_READ, VIRTX_ACTION_ALLOW, NULL);
    ck_assert(!world.ports[0x200]); /* the bitmap cannot tell reads from writes */
    ck_assert_int_eq(virtx_intercept_remove(ports), VIRTX_OK);
    ck_assert(!world.ports[0x100]);

    msrs = intercept(VIRTX_INTERCEPT_MSR, 0x10, 0x10, VIRTX_READ, VIRTX_ACTION_ALLOW, NULL);
    ck_assert_uint_eq(world.msrs[0][0x10], VIRTX_READ);
    deny = intercept(VIRTX_INTERCEPT_MSR, 0xc0000100, 0xc0000101, VIRTX_WRITE, VIRTX_ACTION_EXIT,
                     NULL);
    ck_assert_uint_eq(world.msrs[1][0x100], VIRTX_READ);
    ck_assert_uint_eq(world.msrs[1][0x102], VIRTX_READ | VIRTX_WRITE);
    ck_assert_int_eq(virtx_intercept_remove(msrs), VIRTX_OK);
    ck_assert_int_eq(virtx_intercept_remove(deny), VIRTX_OK);
    ck_assert_uint_eq(world.msrs[0][0x10], 0);
    ck_assert_uint_eq(world.msrs[1][0x100], VIRTX_READ | VIRTX_WRITE);
}
END_TEST

static void exit_vmcall(struct hw_vcpu *hv)
{
    hv->vcpu->exit.reason = VIRTX_EXIT_HYPERCALL;
    hv->vcpu->exit.length = 3;
}

static enum virtx_verdict answer_call(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    (void)vcpu;
    (void)ctx;
    exit->hypercall.number += 1;
    return VIRTX_HANDLED;
}

START_TEST(test_hypercall)
{
    struct virtx_intercept *call;

    world_play(exit_vmcall);
    world_run();
    ck_assert_uint_eq(world.injected[0].vector, VECTOR_UD);
    call = intercept(VIRTX_INTERCEPT_HYPERCALL, 0, 0, 0, VIRTX_ACTION_EXIT, answer_call);
    world_gpr()[VIRTX_RAX] = 41;
    world_play(exit_vmcall);
    world_run();
    ck_assert_uint_eq(world_gpr()[VIRTX_RAX], 42);
    ck_assert_int_eq(virtx_intercept_remove(call), VIRTX_OK);
    intercept(VIRTX_INTERCEPT_HYPERCALL, 0, 0, 0, VIRTX_ACTION_EXIT, NULL);
    world_play(exit_vmcall);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_HYPERCALL);
    world_gpr()[VIRTX_RAX] = 7; /* in place, as the interface allows */
    ck_assert_int_eq(virtx_vcpu_complete(world.vcpu, NULL), VIRTX_OK);
    ck_assert_uint_eq(world_gpr()[VIRTX_RAX], 7);
}
END_TEST

/* ---- Kick ---- */

static void kick_now(struct hw_vcpu *hv)
{
    virtx_vcpu_kick(hv->vcpu);
}

START_TEST(test_kick_before_run)
{
    virtx_vcpu_kick(world.vcpu);
    virtx_vcpu_kick(world.vcpu);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_KICK);
    ck_assert_uint_eq(world.entries, 0);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_INTERRUPT); /* several are one */
}
END_TEST

START_TEST(test_kick_while_the_guest_runs)
{
    world.flags |= RFLAGS_IF; /* the kick's interrupt is the host's to take */
    world.on_enter = kick_now;
    world_play(exit_interrupt);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_KICK);
    ck_assert_uint_eq(world.kicks, 1);
    ck_assert_uint_eq(world.windows, 1);
    ck_assert_uint_eq(world.entries, 1);
}
END_TEST

START_TEST(test_host_interrupt)
{
    world.flags |= RFLAGS_IF;
    world_play(exit_interrupt);
    world_play(exit_interrupt);
    world_play(exit_out);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_IO);
    ck_assert_uint_eq(world.windows, 2);
}
END_TEST

/* ---- Halt ---- */

START_TEST(test_halt_and_wake)
{
    uint64_t rip = get(VIRTX_STATE_RIP).rip;
    const struct virtx_exit *exit;

    world_play(exit_hlt);
    exit = world_run();
    ck_assert_uint_eq(exit->reason, VIRTX_EXIT_HLT);
    ck_assert(!exit->pending);
    ck_assert_uint_eq(exit->rip, rip + 1);
    ck_assert_uint_eq(get(VIRTX_STATE_INTR).activity, VIRTX_HALTED);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_HLT);
    ck_assert_uint_eq(world.entries, 1);

    /* Interrupts off: an interrupt does not wake it, an NMI does. */
    world.can_interrupt = false;
    ck_assert_int_eq(
        virtx_vcpu_inject(world.vcpu,
                          &(struct virtx_event){.type = VIRTX_EVENT_INTERRUPT, .vector = 0x30}),
        VIRTX_OK);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_HLT);
    virtx_vcpu_nmi(world.vcpu);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_INTERRUPT);
    ck_assert_uint_eq(world.injections, 1);
    ck_assert_uint_eq(world.injected[0].type, VIRTX_EVENT_NMI);
    ck_assert_uint_eq(get(VIRTX_STATE_INTR).activity, VIRTX_ACTIVE);
    ck_assert(world.window_interrupt);
}
END_TEST

/* ---- Events ---- */

static int pending_vector = -1;
static unsigned taken;

static int source_pending(void *ctx)
{
    (void)ctx;
    return pending_vector;
}

static int source_take(void *ctx)
{
    int vector = pending_vector;

    (void)ctx;
    taken++;
    pending_vector = -1;
    return vector;
}

static uint8_t source_register;

static uint8_t source_tpr(void *ctx)
{
    (void)ctx;
    return source_register;
}

static void source_set_tpr(void *ctx, uint8_t tpr)
{
    (void)ctx;
    source_register = tpr;
}

static const struct virtx_irq_source source = {
    .pending = source_pending, .take = source_take, .tpr = source_tpr, .set_tpr = source_set_tpr};

static void open_window(struct hw_vcpu *hv)
{
    world.can_interrupt = true;
    exit_window(hv);
}

START_TEST(test_interrupt_two_phases)
{
    taken = 0;
    pending_vector = 0x41;
    ck_assert_int_eq(virtx_vcpu_irq_source(world.vcpu, &source, NULL), VIRTX_OK);
    virtx_vcpu_irq_changed(world.vcpu);
    world.can_interrupt = false;
    world_run();
    ck_assert_uint_eq(taken, 0);
    ck_assert_uint_eq(world.injections, 0);
    ck_assert(world.window_interrupt);
    world_play(open_window);
    world_run();
    ck_assert_uint_eq(taken, 1);
    ck_assert_uint_eq(world.injections, 1);
    ck_assert_uint_eq(world.injected[0].vector, 0x41);
    ck_assert_uint_eq(world.injected[0].type, VIRTX_EVENT_INTERRUPT);
    ck_assert(!world.window_interrupt);
}
END_TEST

START_TEST(test_priorities)
{
    const struct virtx_event ud = {.type = VIRTX_EVENT_EXCEPTION, .vector = VECTOR_UD};

    taken = 0;
    pending_vector = 0x41;
    ck_assert_int_eq(virtx_vcpu_irq_source(world.vcpu, &source, NULL), VIRTX_OK);
    virtx_vcpu_nmi(world.vcpu);
    ck_assert_int_eq(virtx_vcpu_inject(world.vcpu, &ud), VIRTX_OK);
    ck_assert_int_eq(
        virtx_vcpu_inject(world.vcpu,
                          &(struct virtx_event){.type = VIRTX_EVENT_INTERRUPT, .vector = 0x30}),
        VIRTX_OK);
    world_run();
    ck_assert_uint_eq(world.injections, 1);
    ck_assert_uint_eq(world.injected[0].vector, VECTOR_UD);
    ck_assert(world.window_nmi && world.window_interrupt);
    world_play(exit_window);
    world_run();
    ck_assert_uint_eq(world.injected[1].type, VIRTX_EVENT_NMI);
    ck_assert_uint_eq(taken, 0);
    world_play(exit_window);
    world_run();
    ck_assert_uint_eq(world.injected[2].vector, 0x30); /* the embedder's before the source's */
    world_play(exit_window);
    world_run();
    ck_assert_uint_eq(world.injected[3].vector, 0x41);
    ck_assert_uint_eq(taken, 1);
}
END_TEST

START_TEST(test_two_nmis_at_most)
{
    world.can_nmi = false;
    for (unsigned i = 0; i < 4; i++) {
        virtx_vcpu_nmi(world.vcpu);
        world_run();
    }
    ck_assert(world.window_nmi);
    ck_assert_uint_eq(world.injections, 0);
    world.can_nmi = true;
    for (unsigned i = 0; i < 4; i++) {
        world_play(exit_window);
        world_run();
    }
    ck_assert_uint_eq(world.injections, 2);
}
END_TEST

/* Intel SDM, "Handling Multiple NMIs": while one is handled, one is remembered. */
START_TEST(test_one_nmi_beside_the_handler)
{
    const struct virtx_event nmi = {.type = VIRTX_EVENT_NMI, .vector = 2};
    struct virtx_state state = {.interruptibility = VIRTX_BLOCKED_BY_NMI};

    for (unsigned how = 0; how < 2; how++) {
        world.injections = 0;
        ck_assert_int_eq(virtx_vcpu_set(world.vcpu, VIRTX_STATE_INTR, &state), VIRTX_OK);
        world.can_nmi = false;
        for (unsigned i = 0; i < 4; i++) {
            if (how)
                ck_assert_int_eq(virtx_vcpu_inject(world.vcpu, &nmi), VIRTX_OK);
            else
                virtx_vcpu_nmi(world.vcpu);
            world_run();
        }
        ck_assert(world.window_nmi);
        ck_assert_uint_eq(world.injections, 0);
        world.can_nmi = true;
        for (unsigned i = 0; i < 4; i++) {
            world_play(exit_window);
            world_run();
        }
        ck_assert_uint_eq(world.injections, 1);
    }
}
END_TEST

static struct virtx_event interrupted;

static void exit_interrupted(struct hw_vcpu *hv)
{
    exit_interrupt(hv);
    hv->reinject = interrupted;
    hv->has_reinject = true;
}

START_TEST(test_reinjection)
{
    interrupted = (struct virtx_event){.type = VIRTX_EVENT_INTERRUPT, .vector = 0x55};
    world_play(exit_interrupted);
    world_run();
    virtx_vcpu_nmi(world.vcpu);
    world_run();
    ck_assert_uint_eq(world.injections, 1);
    ck_assert_uint_eq(world.injected[0].vector, 0x55); /* once, and before the NMI */
    world_play(exit_window);
    world_run();
    ck_assert_uint_eq(world.injections, 2);
    ck_assert_uint_eq(world.injected[1].type, VIRTX_EVENT_NMI);
}
END_TEST

START_TEST(test_reinjection_without_leaving)
{
    interrupted = (struct virtx_event){.type = VIRTX_EVENT_INTERRUPT, .vector = 0x55};
    world.flags |= RFLAGS_IF;
    world_play(exit_interrupted);
    world_play(exit_out);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_IO);
    ck_assert_uint_eq(world.injections, 1);
}
END_TEST

static uint8_t second_vector;

/* An exception that an intercept asked for, raised while `interrupted` was being delivered. */
static void exit_exception(struct hw_vcpu *hv)
{
    struct virtx_exit *exit = &hv->vcpu->exit;

    exit->reason = VIRTX_EXIT_EXCEPTION;
    exit->exception = (struct virtx_exit_exception){
        .vector = second_vector, .has_error = second_vector != VECTOR_UD, .address = 0x1234};
    hv->reinject = interrupted;
    hv->has_reinject = interrupted.type != 0xff;
}

static unsigned merged(uint8_t first, uint8_t second)
{
    interrupted = (struct virtx_event){
        .type = VIRTX_EVENT_EXCEPTION, .vector = first, .has_error = first >= VECTOR_DF};
    second_vector = second;
    world.injections = 0;
    world.at = world.length = 0;
    world_play(exit_exception);
    if (world_run()->reason == VIRTX_EXIT_SHUTDOWN)
        return 100;
    ck_assert_uint_eq(world.injections, 1);
    return world.injected[0].vector;
}

/* Intel SDM, table "Conditions for Generating a Double Fault". */
START_TEST(test_merging)
{
    ck_assert_uint_eq(merged(VECTOR_UD, VECTOR_PF), VECTOR_PF);
    ck_assert_uint_eq(get(VIRTX_STATE_CR).cr2, 0x1234);
    ck_assert_uint_eq(merged(VECTOR_GP, VECTOR_PF), VECTOR_PF);
    ck_assert_uint_eq(merged(VECTOR_GP, VECTOR_NP), VECTOR_DF);
    ck_assert(world.injected[0].has_error && world.injected[0].error == 0);
    ck_assert_uint_eq(merged(VECTOR_PF, VECTOR_PF), VECTOR_DF);
    ck_assert_uint_eq(merged(VECTOR_PF, VECTOR_GP), VECTOR_DF);
    ck_assert_uint_eq(merged(VECTOR_DF, VECTOR_PF), 100);
    ck_assert_uint_eq(get(VIRTX_STATE_INTR).activity, VIRTX_SHUTDOWN);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_SHUTDOWN);
}
END_TEST

/* An exception that the embedder queues then is the second one, too. */
START_TEST(test_injected_during_delivery)
{
    const struct virtx_event np = {
        .type = VIRTX_EVENT_EXCEPTION, .vector = VECTOR_NP, .has_error = true};

    interrupted =
        (struct virtx_event){.type = VIRTX_EVENT_EXCEPTION, .vector = VECTOR_GP, .has_error = true};
    world_play(exit_interrupted);
    world_run();
    ck_assert_int_eq(virtx_vcpu_inject(world.vcpu, &np), VIRTX_OK);
    world_run();
    ck_assert_uint_eq(world.injections, 1);
    ck_assert_uint_eq(world.injected[0].vector, VECTOR_DF);
    interrupted.vector = VECTOR_DF;
    world_play(exit_interrupted);
    world_run();
    ck_assert_int_eq(virtx_vcpu_inject(world.vcpu, &np), VIRTX_OK);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_SHUTDOWN);
}
END_TEST

START_TEST(test_fault_during_interrupt_delivery)
{
    interrupted = (struct virtx_event){.type = VIRTX_EVENT_INTERRUPT, .vector = 0x55};
    second_vector = VECTOR_PF;
    world_play(exit_exception);
    world_run();
    ck_assert_uint_eq(world.injections, 1);
    ck_assert_uint_eq(world.injected[0].vector, VECTOR_PF);
    ck_assert(world.window_interrupt); /* and the interrupt is not lost */
    world_play(exit_window);
    world_run();
    ck_assert_uint_eq(world.injected[1].vector, 0x55);
}
END_TEST

START_TEST(test_fault_during_nmi_delivery)
{
    interrupted = (struct virtx_event){.type = VIRTX_EVENT_NMI, .vector = 2};
    second_vector = VECTOR_PF;
    world_play(exit_exception);
    world_run();
    ck_assert_uint_eq(world.injections, 1);
    ck_assert_uint_eq(world.injected[0].vector, VECTOR_PF);
    ck_assert(world.window_nmi);
    /* NMIs are blocked until the handler ends: the same obstacle may still be there. */
    ck_assert(get(VIRTX_STATE_INTR).interruptibility & VIRTX_BLOCKED_BY_NMI);
    world_play(exit_window);
    world_run();
    ck_assert_uint_eq(world.injected[1].type, VIRTX_EVENT_NMI);
}
END_TEST

START_TEST(test_refused_entry_keeps_the_event)
{
    const struct virtx_exit *exit;

    ck_assert_int_eq(
        virtx_vcpu_inject(world.vcpu,
                          &(struct virtx_event){.type = VIRTX_EVENT_INTERRUPT, .vector = 0x30}),
        VIRTX_OK);
    world.refuse = VIRTX_E_GUEST_STATE;
    ck_assert_int_eq(virtx_vcpu_run(world.vcpu, &exit), VIRTX_E_GUEST_STATE);
    world_run();
    ck_assert_uint_eq(world.injected[world.injections - 1].vector, 0x30);
    world_play(exit_window);
    world_run();
    ck_assert_uint_eq(world.injections, 2); /* the refused one and the one that took */
}
END_TEST

START_TEST(test_debug_exception_sets_dr6)
{
    struct virtx_state state = get(VIRTX_STATE_DR);
    const struct virtx_event db = {
        .type = VIRTX_EVENT_EXCEPTION, .vector = VECTOR_DB, .address = 1u << 14 | 2};

    state.dr6 = 0xffff0ff1;
    state.dr7 = 0x2400; /* GD */
    state.debugctl = 3;
    world_set(VIRTX_STATE_DR, &state);
    ck_assert_int_eq(virtx_vcpu_inject(world.vcpu, &db), VIRTX_OK);
    world_run();
    state = get(VIRTX_STATE_DR);
    ck_assert_uint_eq(state.dr6, 0xffff4ff2);
    ck_assert_uint_eq(state.dr7, 0x400);
    ck_assert_uint_eq(state.debugctl, 0); /* Intel SDM "Debug Exceptions": LBR and BTF */
}
END_TEST

static uint64_t rflags_pushed(uint8_t type, uint8_t vector, bool has_error)
{
    struct virtx_state state = get(VIRTX_STATE_RFLAGS);

    state.rflags &= ~(uint64_t)RFLAGS_RF;
    world_set(VIRTX_STATE_RFLAGS, &state);
    ck_assert_int_eq(virtx_vcpu_inject(world.vcpu, &(struct virtx_event){.type = type,
                                                                         .vector = vector,
                                                                         .has_error = has_error}),
                     VIRTX_OK);
    world_run();
    return get(VIRTX_STATE_RFLAGS).rflags & RFLAGS_RF;
}

/* Intel SDM "Instruction-Breakpoint Exception Condition": faults push RF set, nothing else does. */
START_TEST(test_faults_push_rf)
{
    ck_assert_uint_eq(rflags_pushed(VIRTX_EVENT_EXCEPTION, VECTOR_GP, true), RFLAGS_RF);
    ck_assert_uint_eq(rflags_pushed(VIRTX_EVENT_EXCEPTION, VECTOR_UD, false), RFLAGS_RF);
    ck_assert_uint_eq(rflags_pushed(VIRTX_EVENT_EXCEPTION, VECTOR_PF, true), RFLAGS_RF);
    ck_assert_uint_eq(rflags_pushed(VIRTX_EVENT_EXCEPTION, VECTOR_DB, false), 0);
    ck_assert_uint_eq(rflags_pushed(VIRTX_EVENT_EXCEPTION, VECTOR_MC, false), 0);
    ck_assert_uint_eq(rflags_pushed(VIRTX_EVENT_EXCEPTION, VECTOR_DF, true), 0);
    ck_assert_uint_eq(rflags_pushed(VIRTX_EVENT_INTERRUPT, 0x30, false), 0);
    /* A delivery that an exit interrupted is a fault's still, whatever the exit has saved. */
    interrupted =
        (struct virtx_event){.type = VIRTX_EVENT_EXCEPTION, .vector = VECTOR_GP, .has_error = true};
    world_play(exit_interrupted);
    world_run();
    world_run();
    ck_assert_uint_eq(get(VIRTX_STATE_RFLAGS).rflags & RFLAGS_RF, RFLAGS_RF);
}
END_TEST

static void set_stepping(uint64_t debugctl)
{
    struct virtx_state state = get(VIRTX_STATE_DR | VIRTX_STATE_RFLAGS | VIRTX_STATE_INTR);

    state.debugctl = debugctl;
    state.dr6 = 0xffff0ff0;
    state.rflags |= RFLAGS_TF;
    state.pending_debug = 0;
    world_set(VIRTX_STATE_DR | VIRTX_STATE_RFLAGS | VIRTX_STATE_INTR, &state);
    world.injections = 0;
}

/* Where the hardware has a place for the trap it is left there; elsewhere it is delivered, before
 * anything that can wait. BTF: only branches trap. */
START_TEST(test_single_step_of_a_retired_instruction)
{
    const struct virtx_event event = {.type = VIRTX_EVENT_INTERRUPT, .vector = 0x30};

    set_stepping(2);
    hw_single_step(world.hv);
    ck_assert_uint_eq(get(VIRTX_STATE_INTR).pending_debug, 0);

    set_stepping(0);
    hw_single_step(world.hv);
    world_run();
    ck_assert_uint_eq(get(VIRTX_STATE_INTR).pending_debug, DR6_BS);
    ck_assert_uint_eq(world.injections, 0);

    set_stepping(0);
    world.hv->own_traps = true;
    ck_assert_int_eq(virtx_vcpu_inject(world.vcpu, &event), VIRTX_OK);
    hw_single_step(world.hv);
    world_run();
    ck_assert_uint_eq(world.injections, 1);
    ck_assert_uint_eq(world.injected[0].vector, VECTOR_DB);
    ck_assert_uint_eq(get(VIRTX_STATE_DR).dr6, 0xffff4ff0);
    ck_assert_uint_eq(get(VIRTX_STATE_INTR).pending_debug, 0);
    ck_assert_uint_eq(get(VIRTX_STATE_RFLAGS).rflags & RFLAGS_RF, 0);
}
END_TEST

/* It is an exception like another: an intercept's. */
START_TEST(test_single_step_is_intercepted)
{
    const struct virtx_exit *exit;

    intercept(VIRTX_INTERCEPT_EXCEPTION, VECTOR_DB, VECTOR_DB, 0, VIRTX_ACTION_EXIT, NULL);
    set_stepping(0);
    world.hv->own_traps = true;
    hw_single_step(world.hv);
    exit = world_run();
    ck_assert_uint_eq(exit->reason, VIRTX_EXIT_EXCEPTION);
    ck_assert_uint_eq(exit->exception.vector, VECTOR_DB);
    ck_assert_uint_eq(exit->exception.address, DR6_BS);
    ck_assert_uint_eq(world.injections, 0);
    ck_assert_int_eq(virtx_vcpu_complete(world.vcpu, NULL), VIRTX_OK); /* which drops it */
    world_run();
    ck_assert_uint_eq(world.injections, 0);
}
END_TEST

START_TEST(test_window_for_the_embedder)
{
    world.can_interrupt = false;
    ck_assert_int_eq(virtx_vcpu_window(world.vcpu), VIRTX_OK);
    world_play(open_window);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_WINDOW);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_INTERRUPT); /* asked for once */
    virtx_vcpu_irq_changed(world.vcpu);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_INTERRUPT);
}
END_TEST

/* ---- MSRs ---- */

static uint32_t msr_index;
static uint64_t msr_value;

static void exit_rdmsr(struct hw_vcpu *hv)
{
    world_msr(hv, msr_index, false, 0);
}

static void exit_wrmsr(struct hw_vcpu *hv)
{
    world_msr(hv, msr_index, true, msr_value);
}

/* 0: served; else the reason of the exit, or 1000 + the vector raised. */
static unsigned msr(bool write, uint32_t index, uint64_t *value)
{
    unsigned before = world.injections;
    const struct virtx_exit *exit;

    msr_index = index;
    msr_value = *value;
    world.at = world.length = 0;
    world_play(write ? exit_wrmsr : exit_rdmsr);
    exit = world_run();
    if (exit->reason == VIRTX_EXIT_MSR) {
        ck_assert_uint_eq(exit->msr.index, index);
        if (write)
            ck_assert_uint_eq(exit->msr.value, *value);
        ck_assert_int_eq(virtx_vcpu_complete(world.vcpu, value), VIRTX_OK);
        return VIRTX_EXIT_MSR;
    }
    if (world.injections != before)
        return 1000 + world.injected[before].vector;
    *value = world_gpr()[VIRTX_RDX] << 32 | (uint32_t)world_gpr()[VIRTX_RAX];
    return 0;
}

static unsigned wrmsr(uint32_t index, uint64_t value)
{
    return msr(true, index, &value);
}

static uint64_t rdmsr(uint32_t index)
{
    uint64_t value = 0;

    ck_assert_uint_eq(msr(false, index, &value), 0);
    return value;
}

START_TEST(test_msrs)
{
    const unsigned gp = 1000 + VECTOR_GP;
    uint64_t value = 0x1122334455667788;

    ck_assert_uint_eq(rdmsr(MSR_PAT), 0x0007040600070406);
    ck_assert_uint_eq(wrmsr(MSR_PAT, 0x0007040600070402), gp); /* type 2 does not exist */
    ck_assert_uint_eq(wrmsr(MSR_PAT, 0x0007010600070406), 0);
    ck_assert_uint_eq(rdmsr(MSR_PAT), 0x0007010600070406);

    ck_assert_uint_eq(wrmsr(MSR_EFER, EFER_SVME), gp);
    ck_assert_uint_eq(wrmsr(MSR_EFER, EFER_NXE | EFER_LME | EFER_LMA), 0);
    ck_assert_uint_eq(rdmsr(MSR_EFER), EFER_NXE | EFER_LME); /* LMA is not software's */

    ck_assert_uint_eq(wrmsr(MSR_LSTAR, 1ull << 47), gp); /* not canonical */
    ck_assert_uint_eq(wrmsr(MSR_LSTAR, 0xffff800000000000), 0);
    ck_assert_uint_eq(rdmsr(MSR_LSTAR), 0xffff800000000000);

    ck_assert_uint_eq(wrmsr(MSR_MTRRCAP, 0), gp);
    ck_assert_uint_eq(rdmsr(MSR_MTRRCAP), 0x508);
    ck_assert_uint_eq(wrmsr(MSR_MTRR_PHYSBASE0 + 1, 1ull << 50 | 0x800), gp); /* beyond 39 bits */
    ck_assert_uint_eq(wrmsr(MSR_MTRR_PHYSBASE0 + 1, 0x7f80000800), 0);
    ck_assert_uint_eq(rdmsr(MSR_MTRR_PHYSBASE0 + 1), 0x7f80000800);
    ck_assert_uint_eq(wrmsr(MSR_MTRR_DEF_TYPE, 0xc06), 0);
    ck_assert_uint_eq(wrmsr(MSR_MTRR_DEF_TYPE, 0xc07), gp);

    ck_assert_uint_eq(rdmsr(MSR_APIC_BASE), 0xfee00900);
    ck_assert_uint_eq(wrmsr(MSR_APIC_BASE, 0xfee00900), 0);
    ck_assert_uint_eq(wrmsr(MSR_APIC_BASE, 0xfee00000), gp);
    ck_assert_uint_eq(wrmsr(MSR_FEATURE_CONTROL, 5), gp);

    /* One that the library does not know: the loop's. */
    ck_assert_uint_eq(msr(true, 0x12345, &value), VIRTX_EXIT_MSR);
    ck_assert_uint_eq(msr(false, 0x12345, &value), VIRTX_EXIT_MSR);
    ck_assert_uint_eq(world_gpr()[VIRTX_RAX], 0x55667788);
    ck_assert_uint_eq(world_gpr()[VIRTX_RDX], 0x11223344);
}
END_TEST

START_TEST(test_tsc_adjust)
{
    uint64_t before = rdmsr(MSR_TSC), after;

    ck_assert_uint_eq(rdmsr(MSR_TSC_ADJUST), 0);
    ck_assert_uint_eq(wrmsr(MSR_TSC_ADJUST, 1ull << 40), 0);
    after = rdmsr(MSR_TSC);
    ck_assert_uint_ge(after - before, 1ull << 40);
    ck_assert_uint_lt(after - before, (1ull << 40) + (1ull << 36));
    ck_assert_uint_eq(wrmsr(MSR_TSC, 0), 0);
    ck_assert_uint_lt(rdmsr(MSR_TSC), 1ull << 36);
    ck_assert_uint_ge((1ull << 40) - rdmsr(MSR_TSC_ADJUST), 1); /* it records the write */
    ck_assert_uint_eq(world.tsc_offsets >= 2, 1);
}
END_TEST

START_TEST(test_efer_lme_with_paging)
{
    struct virtx_state state = get(VIRTX_STATE_CR);

    state.cr0 |= CR0_PG;
    state.cr4 |= CR4_PAE;
    world_set(VIRTX_STATE_CR, &state);
    ck_assert_uint_eq(wrmsr(MSR_EFER, EFER_LME), 1000 + VECTOR_GP);
    ck_assert_uint_eq(wrmsr(MSR_EFER, EFER_NXE), 0);
}
END_TEST

/* ---- Control registers ---- */

static unsigned cr_reg;
static uint64_t cr_value;

static void exit_mov_to_cr(struct hw_vcpu *hv)
{
    world_cr(hv, cr_reg, true, VIRTX_RBX, cr_value);
}

static void exit_mov_from_cr(struct hw_vcpu *hv)
{
    world_cr(hv, cr_reg, false, VIRTX_RBX, 0);
}

/* The vector raised, or -1. Collects the flushes paid behind it. */
static int mov_cr(unsigned reg, uint64_t value)
{
    unsigned before = world.injections;

    cr_reg = reg;
    cr_value = value;
    world.flushed = 0;
    world.at = world.length = 0;
    world_play(exit_mov_to_cr);
    world_run();
    return world.injections == before ? -1 : world.injected[before].vector;
}

START_TEST(test_cr0_rules)
{
    uint64_t cr0 = get(VIRTX_STATE_CR).cr0;

    ck_assert_int_eq(mov_cr(0, cr0 | 1ull << 32), VECTOR_GP);
    ck_assert_int_eq(mov_cr(0, CR0_PG), VECTOR_GP);
    ck_assert_int_eq(mov_cr(0, cr0 | CR0_NW), VECTOR_GP);
    ck_assert_int_eq(mov_cr(0, cr0 | CR0_WP | 1 << 6), -1); /* reserved bits below 32 are ignored */
    ck_assert_uint_eq(get(VIRTX_STATE_CR).cr0, cr0 | CR0_WP);
    ck_assert_uint_eq(world.flushed, 0);
    ck_assert_int_eq(mov_cr(0, cr0 | CR0_PG), -1);
    ck_assert_uint_eq(world.flushed, HW_FLUSH_TAG);
    ck_assert_int_eq(mov_cr(0, cr0 | CR0_PG | CR0_WP), -1);
    ck_assert_uint_eq(world.flushed, 0);
}
END_TEST

START_TEST(test_cr0_intercept_mask)
{
    const struct virtx_intercept_config config = {
        .size = sizeof(config), .kind = VIRTX_INTERCEPT_CR, .access = VIRTX_WRITE, .mask = CR0_TS};
    uint64_t cr0 = get(VIRTX_STATE_CR).cr0;
    struct virtx_intercept *out;

    ck_assert_int_eq(virtx_vm_intercept(world.vm, &config, &out), VIRTX_OK);
    ck_assert_int_eq(mov_cr(0, cr0 | CR0_WP), -1); /* exits for the library's sake at most */
    ck_assert_uint_eq(get(VIRTX_STATE_CR).cr0, cr0 | CR0_WP);
    ck_assert_uint_eq(world.hv->controls.cr0_mask & (CR0_TS | CR0_WP), CR0_TS);
    cr_reg = 0;
    cr_value = cr0 | CR0_TS;
    world.at = world.length = 0;
    world_play(exit_mov_to_cr);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_CR);
    ck_assert_int_eq(virtx_vcpu_complete(world.vcpu, NULL), VIRTX_OK);
    ck_assert_uint_eq(get(VIRTX_STATE_CR).cr0, cr0 | CR0_TS);
}
END_TEST

START_TEST(test_long_mode)
{
    uint64_t cr0 = get(VIRTX_STATE_CR).cr0;

    ck_assert_uint_eq(wrmsr(MSR_EFER, EFER_LME), 0);
    ck_assert_int_eq(mov_cr(0, cr0 | CR0_PG), VECTOR_GP); /* without PAE */
    ck_assert_int_eq(mov_cr(4, CR4_PAE), -1);
    ck_assert_int_eq(mov_cr(0, cr0 | CR0_PG), -1);
    ck_assert_uint_eq(get(VIRTX_STATE_CR).efer, EFER_LME | EFER_LMA);
    ck_assert_int_eq(mov_cr(4, 0), VECTOR_GP); /* PAE may not go */
    ck_assert_int_eq(mov_cr(4, CR4_PAE | CR4_PGE), -1);
    ck_assert_uint_eq(world.flushed, HW_FLUSH_TAG);
    ck_assert_int_eq(mov_cr(4, CR4_PAE | CR4_PGE | CR4_TSD), -1);
    ck_assert_uint_eq(world.flushed, 0);
    ck_assert_int_eq(mov_cr(0, cr0), -1);
    ck_assert_uint_eq(get(VIRTX_STATE_CR).efer, EFER_LME);
}
END_TEST

START_TEST(test_pae_loads_pdptes)
{
    struct virtx_state state = get(VIRTX_STATE_CR);
    uint64_t pdpte[4] = {0x5001, 0, 0x6001, 0x7001};

    memcpy(world.ram + 0x3020, pdpte, sizeof(pdpte));
    state.cr3 = 0x3020;
    state.cr4 = CR4_PAE;
    world_set(VIRTX_STATE_CR, &state);
    ck_assert_int_eq(mov_cr(0, state.cr0 | CR0_PG), -1);
    state = get(VIRTX_STATE_CR);
    ck_assert_mem_eq(state.pdpte, pdpte, sizeof(pdpte));
    pdpte[1] = 0x5003; /* R/W is reserved in a PDPTE */
    memcpy(world.ram + 0x3040, pdpte, sizeof(pdpte));
    ck_assert_int_eq(mov_cr(3, 0x3040), VECTOR_GP);
    ck_assert_uint_eq(get(VIRTX_STATE_CR).cr3, 0x3020);
    ck_assert_int_eq(mov_cr(3, 0x3020), -1);
    ck_assert_uint_eq(world.flushed, HW_FLUSH_TAG);
    /* So is A, which one engine's SVM sets by itself. */
    for (unsigned amd = 0; amd < 2; amd++) {
        world.hv->soft->policy.amd = amd;
        pdpte[1] = 0x5021;
        memcpy(world.ram + 0x3040, pdpte, sizeof(pdpte));
        ck_assert_int_eq(mov_cr(3, 0x3040), amd ? -1 : VECTOR_GP);
    }
    ck_assert_uint_eq(get(VIRTX_STATE_CR).pdpte[1], 0x5001);
}
END_TEST

/* What kernels do to flush the TLB: a flush each time, unless somebody wants to see CR4. */
START_TEST(test_pge_is_a_flush)
{
    const struct virtx_intercept_config config = {.size = sizeof(config),
                                                  .kind = VIRTX_INTERCEPT_CR,
                                                  .first = 4,
                                                  .last = 4,
                                                  .access = VIRTX_WRITE};
    struct virtx_intercept *intercept;

    ck_assert_int_eq(mov_cr(4, CR4_PGE), -1);
    ck_assert_uint_eq(world.toggles, 1);
    ck_assert_uint_eq(world.flushes, 1);
    ck_assert_uint_eq(world.flushed, HW_FLUSH_TAG);
    ck_assert_uint_eq(get(VIRTX_STATE_CR).cr4, CR4_PGE);
    ck_assert_int_eq(mov_cr(4, CR4_PGE | CR4_MCE), -1); /* more than that */
    ck_assert_int_eq(mov_cr(4, CR4_PGE | CR4_VMXE), VECTOR_GP);
    ck_assert_uint_eq(world.toggles, 1);
    ck_assert_int_eq(virtx_vm_intercept(world.vm, &config, &intercept), VIRTX_OK);
    cr_reg = 4;
    cr_value = CR4_MCE;
    world.at = world.length = 0;
    world_play(exit_mov_to_cr);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_CR);
    ck_assert_uint_eq(world.toggles, 1);
    ck_assert_int_eq(virtx_vcpu_complete(world.vcpu, NULL), VIRTX_OK);
    ck_assert_uint_eq(get(VIRTX_STATE_CR).cr4, CR4_MCE);
}
END_TEST

START_TEST(test_cr4_reserved_and_hidden)
{
    ck_assert_int_eq(mov_cr(4, 1ull << 40), VECTOR_GP);
    ck_assert_int_eq(mov_cr(4, CR4_VMXE), VECTOR_GP);  /* there is no VMX for the guest */
    ck_assert_int_eq(mov_cr(4, CR4_PCIDE), VECTOR_GP); /* outside long mode */
    ck_assert_int_eq(mov_cr(4, CR4_MCE), -1);
    ck_assert_uint_eq(get(VIRTX_STATE_CR).cr4, CR4_MCE);
}
END_TEST

START_TEST(test_cr8_reaches_the_source)
{
    source_register = 0x30;
    ck_assert_int_eq(virtx_vcpu_irq_source(world.vcpu, &source, NULL), VIRTX_OK);
    cr_reg = 8;
    world_play(exit_mov_from_cr);
    world_run();
    ck_assert_uint_eq(world.hv->controls.cr_write,
                      1u << 8); /* or the source would not hear of it */
    ck_assert_uint_eq(world.hv->controls.cr_read, 1u << 8);
    ck_assert_uint_eq(world_gpr()[VIRTX_RBX], 3);
    ck_assert_int_eq(mov_cr(8, 9), -1);
    ck_assert_uint_eq(source_register, 0x90);
    ck_assert_uint_eq(get(VIRTX_STATE_CR).cr8, 9);
    ck_assert_int_eq(mov_cr(8, 16), VECTOR_GP);
}
END_TEST

/* A source with one waiting vector of class 4, which CR8 holds back from 4 on. */
static int pending_above_tpr(void *ctx)
{
    (void)ctx;
    return pending_vector >= 0 && pending_vector >> 4 > source_register >> 4 ? pending_vector : -1;
}

static const struct virtx_irq_source tpr_source = {.pending = pending_above_tpr,
                                                   .take = source_take,
                                                   .tpr = source_tpr,
                                                   .set_tpr = source_set_tpr};

static void guest_lowers_cr8(struct hw_vcpu *hv)
{
    world.tpr = 0x20; /* without an exit */
    exit_interrupt(hv);
}

static void guest_writes_same_cr8(struct hw_vcpu *hv)
{
    world.tpr &= 0xf0;
    exit_interrupt(hv);
}

START_TEST(test_cr8_habit)
{
    struct virtx_state state;

    pending_vector = -1;
    source_register = 0;
    ck_assert_int_eq(virtx_vcpu_irq_source(world.vcpu, &tpr_source, NULL), VIRTX_OK);
    for (unsigned i = 0; i < 8; i++) {
        ck_assert(!world.hv->controls.cr8_shadow);
        ck_assert_int_eq(mov_cr(8, i & 1 ? 5 : 9), -1);
    }
    ck_assert(world.hv->controls.cr8_shadow);
    ck_assert_uint_eq(world.hv->controls.cr_write & 1u << 8, 0);
    ck_assert_uint_eq(world.tpr, 0x50);
    ck_assert_uint_eq(get(VIRTX_STATE_CR).cr8, 5);
    /* An interrupt that CR8 holds back: its fall must be noticed, and nothing is taken yet. */
    taken = 0;
    pending_vector = 0x41;
    virtx_vcpu_irq_changed(world.vcpu);
    world_run();
    ck_assert_uint_eq(world.cr8_threshold, 4);
    ck_assert_uint_eq(world.hv->controls.cr_write & 1u << 8, 0);
    ck_assert_uint_eq(taken, 0);
    ck_assert_uint_eq(source_register, 0x50);
    world.at = world.length = 0;
    world_play(guest_lowers_cr8);
    world_run();
    ck_assert_uint_eq(source_register,
                      0x20); /* whoever looks at the source sees what the guest wrote */
    virtx_vcpu_irq_changed(world.vcpu);
    world_run();
    ck_assert_uint_eq(taken, 1);
    ck_assert_uint_eq(world.cr8_threshold, 0);
    /* The other way round: the source's own register is written. */
    source_register = 0x73;
    world_run();
    ck_assert_uint_eq(world.tpr, 0x73);
    /* Of the same class, CR8 still clears what it does not show. */
    world.at = world.length = 0;
    world_play(guest_writes_same_cr8);
    world_run();
    ck_assert_uint_eq(source_register, 0x70);
    /* The embedder puts back the control registers that it has read: nothing is lost. */
    source_register = 0x74;
    world_run();
    state = get(VIRTX_STATE_CR);
    world_set(VIRTX_STATE_CR, &state);
    ck_assert_uint_eq(source_register, 0x74);
    world_run();
    ck_assert_uint_eq(world.tpr, 0x74);
}
END_TEST

static uint32_t instruction;
static uint64_t instruction_value;

static void exit_instruction(struct hw_vcpu *hv)
{
    struct virtx_exit *exit = &hv->vcpu->exit;

    exit->reason = VIRTX_EXIT_INSTRUCTION;
    exit->length = 3;
    exit->instruction = (struct virtx_exit_instruction){.which = instruction};
    hv->state.gpr[VIRTX_RCX] = 0;
    hv->state.gpr[VIRTX_RAX] = (uint32_t)instruction_value;
    hv->state.gpr[VIRTX_RDX] = instruction_value >> 32;
}

static int perform(uint32_t which, uint64_t value)
{
    unsigned before = world.injections;

    instruction = which;
    instruction_value = value;
    world.at = world.length = 0;
    world_play(exit_instruction);
    world_run();
    return world.injections == before ? -1 : world.injected[before].vector;
}

START_TEST(test_instructions)
{
    struct virtx_state state = get(VIRTX_STATE_CR | VIRTX_STATE_RIP);
    uint64_t rip = state.rip;

    ck_assert_int_eq(perform(VIRTX_INSN_XSETBV, 1), VECTOR_UD); /* CR4.OSXSAVE is 0 */
    state.cr4 |= CR4_OSXSAVE;
    world_set(VIRTX_STATE_CR, &state);
    ck_assert_int_eq(perform(VIRTX_INSN_XSETBV, 2), VECTOR_GP); /* x87 cannot be off */
    ck_assert_int_eq(perform(VIRTX_INSN_XSETBV, 5), VECTOR_GP); /* AVX without SSE */
    ck_assert_int_eq(perform(VIRTX_INSN_XSETBV, 1ull << 63 | 1), VECTOR_GP);
    ck_assert_uint_eq(get(VIRTX_STATE_RIP).rip, rip);
    ck_assert_int_eq(perform(VIRTX_INSN_XSETBV, 7), -1);
    ck_assert_uint_eq(get(VIRTX_STATE_XCR).xcr0, 7);
    ck_assert_uint_eq(world.xcr0, 7); /* it is in the processor at once */
    ck_assert_uint_eq(get(VIRTX_STATE_RIP).rip, rip + 3);

    ck_assert_int_eq(perform(VIRTX_INSN_VMX, 0), VECTOR_UD);
    ck_assert_int_eq(perform(VIRTX_INSN_SVM, 0), VECTOR_UD);
    ck_assert_int_eq(perform(VIRTX_INSN_GETSEC, 0), VECTOR_UD);
    ck_assert_int_eq(perform(VIRTX_INSN_RDPMC, 0), VECTOR_GP);
    ck_assert_int_eq(perform(VIRTX_INSN_INVD, 0), -1);
    ck_assert_int_eq(perform(VIRTX_INSN_WBINVD, 0), -1);
    world.flushed = 0;
    ck_assert_int_eq(perform(VIRTX_INSN_INVLPG, 0), -1);
    ck_assert_uint_eq(world.flushed, HW_FLUSH_TAG);
}
END_TEST

/* ---- Registers ---- */

START_TEST(test_set_refuses_nonsense)
{
    struct virtx_state good = get(VIRTX_STATE_ALL), state;

    world.written = 0;

#define REFUSED(group, change)                                                                     \
    do {                                                                                           \
        state = good;                                                                              \
        change;                                                                                    \
        ck_assert_int_eq(virtx_vcpu_set(world.vcpu, group, &state), VIRTX_E_INVALID);              \
    } while (0)
    REFUSED(VIRTX_STATE_RFLAGS, state.rflags |= 1u << 3);
    REFUSED(VIRTX_STATE_CR, state.cr0 = CR0_PG);
    REFUSED(VIRTX_STATE_CR, state.cr4 |= CR4_VMXE);
    REFUSED(VIRTX_STATE_CR, state.cr3 = 1ull << 50);
    REFUSED(VIRTX_STATE_CR, state.efer |= EFER_SVME);
    REFUSED(VIRTX_STATE_CR, state.cr8 = 16);
    REFUSED(VIRTX_STATE_DR, state.dr7 |= 1ull << 32);
    REFUSED(VIRTX_STATE_MSR, state.pat = 2);
    REFUSED(VIRTX_STATE_MSR, state.apic_base |= 1);
    REFUSED(VIRTX_STATE_MSR, state.apic_base |= 1ull << 9);
    REFUSED(VIRTX_STATE_MSR, state.apic_base |= 1ull << 52);
    REFUSED(VIRTX_STATE_MSR, state.apic_base = 0xfee00400);
    REFUSED(VIRTX_STATE_SYSCALL, state.lstar = 1ull << 50);
    REFUSED(VIRTX_STATE_INTR, state.activity = 4);
    REFUSED(VIRTX_STATE_XCR, state.xcr0 = 6);
    REFUSED(VIRTX_STATE_SEG, state.seg[VIRTX_DS].attributes = 0x100);
    REFUSED(VIRTX_STATE_TABLES, state.gdtr.limit = 0x10000);
    state = get(VIRTX_STATE_ALL);
    ck_assert_uint_eq(state.cr0, good.cr0);
    ck_assert_uint_eq(state.xcr0, good.xcr0);
    ck_assert_uint_eq(world.written, 0);
    ck_assert_int_eq(virtx_vcpu_set(world.vcpu, VIRTX_STATE_ALL, &good), VIRTX_OK);
    world_run();
    ck_assert_uint_eq(world.written, VIRTX_STATE_ALL); /* all of it reaches the hardware */
}
END_TEST

START_TEST(test_reset_state)
{
    struct virtx_state state;

    ck_assert_int_eq(virtx_vcpu_reset(world.vcpu, VIRTX_PRESET_RESET), VIRTX_OK);
    state = get(VIRTX_STATE_ALL);
    /* Intel SDM, "Processor State After Reset". */
    ck_assert_uint_eq(state.rip, 0xfff0);
    ck_assert_uint_eq(state.seg[VIRTX_CS].selector, 0xf000);
    ck_assert_uint_eq(state.seg[VIRTX_CS].base, 0xffff0000);
    ck_assert_uint_eq(state.cr0, 0x60000010);
    ck_assert_uint_eq(state.rflags, 2);
    ck_assert_uint_eq(state.gpr[VIRTX_RDX], 0x306c3);
    ck_assert_uint_eq(state.dr6, 0xffff0ff0);
    ck_assert_uint_eq(state.dr7, 0x400);
    ck_assert_uint_eq(state.idtr.limit, 0xffff);
    ck_assert_uint_eq(state.xcr0, 1);
    state.pat = 0x0606060606060606;
    state.cr0 = CR0_ET | CR0_CD;
    world_set(VIRTX_STATE_MSR | VIRTX_STATE_CR, &state);
    ck_assert_int_eq(virtx_vcpu_reset(world.vcpu, VIRTX_PRESET_INIT), VIRTX_OK);
    state = get(VIRTX_STATE_ALL);
    ck_assert_uint_eq(state.pat, 0x0606060606060606); /* INIT leaves it */
    ck_assert_uint_eq(state.cr0, CR0_ET | CR0_CD);
}
END_TEST

START_TEST(test_fpu)
{
    uint8_t area[1024] = {0};
    uint64_t components = 3, tiles = 1ull << 17;
    unsigned loads = world.fpu_loads;

    world_run();
    ck_assert_uint_eq(world.fpu_loads, loads); /* eagerly, but once */
    ck_assert_uint_eq(virtx_vcpu_fpu_size(world.vcpu), 832);
    memcpy(area + 512, &components, 8);
    ck_assert_int_eq(virtx_vcpu_fpu_set(world.vcpu, area, sizeof(area)), VIRTX_OK);
    world_run();
    ck_assert_uint_eq(world.fpu_loads, loads + 1);
    memcpy(area + 512, &tiles, 8);
    ck_assert_int_eq(virtx_vcpu_fpu_set(world.vcpu, area, sizeof(area)), VIRTX_E_INVALID);
    memcpy(area + 512, &components, 8);
    area[24 + 2] = 1; /* MXCSR bit 16 */
    ck_assert_int_eq(virtx_vcpu_fpu_set(world.vcpu, area, sizeof(area)), VIRTX_E_INVALID);
    ck_assert_int_eq(virtx_vcpu_put(world.vcpu), VIRTX_OK);
    ck_assert_uint_eq(world.fpu_saves, 1);
}
END_TEST

static void exit_mov_dr(struct hw_vcpu *hv)
{
    struct virtx_exit *exit = &hv->vcpu->exit;

    exit->reason = VIRTX_EXIT_DR;
    exit->length = 3;
    exit->cr = (struct virtx_exit_cr){.reg = 0, .access = VIRTX_WRITE, .value = 0x1000};
}

static void guest_writes_dr0(struct hw_vcpu *hv)
{
    (void)hv;
    world.dr[0] = 0x1000; /* without an exit now */
    exit_interrupt(hv);
}

START_TEST(test_debug_registers_on_first_use)
{
    struct virtx_state state = get(VIRTX_STATE_DR);

    state.dr[1] = 0x2222;
    world_set(VIRTX_STATE_DR, &state);
    ck_assert_uint_eq(world.hv->controls.dr_write, 0xff);
    world_play(exit_mov_dr);
    world_play(guest_writes_dr0);
    world_run();
    ck_assert_uint_eq(world.dr[1], 0x2222);
    ck_assert_uint_eq(world.hv->controls.dr_write, 0);
    ck_assert_int_eq(virtx_vcpu_put(world.vcpu), VIRTX_OK);
    world.dr[0] = 0; /* somebody else's */
    world_run();
    ck_assert_uint_eq(get(VIRTX_STATE_DR).dr[0], 0x1000);
    ck_assert_uint_eq(world.hv->controls.dr_write, 0xff);
}
END_TEST

START_TEST(test_complete_after_put)
{
    uint64_t rip = get(VIRTX_STATE_RIP).rip;
    unsigned advances;

    world_play(exit_out);
    world_run();
    ck_assert_int_eq(virtx_vcpu_put(world.vcpu), VIRTX_OK);
    advances = world.advances;
    ck_assert_int_eq(virtx_vcpu_complete(world.vcpu, NULL), VIRTX_OK);
    ck_assert_uint_eq(world.advances, advances); /* no vendor is there to ask */
    ck_assert_uint_eq(get(VIRTX_STATE_RIP).rip, rip + 1);
}
END_TEST

/* ---- Tags, debts ---- */

START_TEST(test_tags)
{
    uint32_t tag = world.hv->tag;

    ck_assert_uint_eq(tag, 1);
    ck_assert_int_eq(virtx_vcpu_put(world.vcpu), VIRTX_OK);
    world.flushed = 0;
    world_run();
    ck_assert_uint_eq(world.hv->tag, tag); /* the same CPU, the same generation: still warm */
    ck_assert_uint_eq(world.flushed, 0);
    ck_assert_int_eq(virtx_vcpu_put(world.vcpu), VIRTX_OK);
    world.this_cpu = 1;
    ck_assert_int_eq(virtx_cpu_enable(world.virtx), VIRTX_OK);
    world_run();
    ck_assert_uint_eq(world.flushed, HW_FLUSH_TAG | HW_FLUSH_NESTED);
    ck_assert_int_eq(virtx_vcpu_put(world.vcpu), VIRTX_OK);
    world.this_cpu = 0;
    world.flushed = 0;
    world_run(); /* back: what the first CPU kept is out of date */
    ck_assert_uint_eq(world.hv->tag, 2);
    ck_assert_uint_eq(world.flushed, HW_FLUSH_TAG | HW_FLUSH_NESTED);
    ck_assert_int_eq(virtx_vcpu_put(world.vcpu), VIRTX_OK);
    world.this_cpu = 1;
    ck_assert_int_eq(virtx_cpu_disable(world.virtx), VIRTX_OK);
    world.this_cpu = 0;
}
END_TEST

START_TEST(test_dropped_slot_is_a_debt)
{
    struct virtx_memslot_config config = {.size = sizeof(config),
                                          .rights = VIRTX_READ,
                                          .type = VIRTX_MEMORY_WB,
                                          .gpa = 0x100000,
                                          .bytes = 4096,
                                          .memory = world.ram};
    struct virtx_memslot *slot;
    uint64_t generation;

    ck_assert_int_eq(virtx_memslot_add(world.vm, &config, &slot), VIRTX_OK);
    world_run();
    ck_assert_uint_eq(world.flushed, 0); /* nothing was dropped */
    ck_assert_int_eq(virtx_memslot_remove(slot, &generation), VIRTX_OK);
    world_run();
    ck_assert_uint_eq(world.flushed, HW_FLUSH_NESTED);
    ck_assert(virtx_vm_settled(world.vm, generation, false));
}
END_TEST

/* A local APIC in xAPIC mode, of which only the place matters. */
static int apic_nothing(void *ctx)
{
    (void)ctx;
    return -1;
}

static void apic_moved(void *ctx, void *page)
{
    (void)ctx;
    (void)page;
}

static uint64_t apic_place(void *ctx)
{
    return *(uint64_t *)ctx;
}

static bool apic_unchanged(void *ctx)
{
    (void)ctx;
    return false;
}

static void apic_written(void *ctx, uint32_t offset)
{
    (void)ctx;
    (void)offset;
}

static void apic_byte(void *ctx, uint8_t value)
{
    (void)ctx;
    (void)value;
}

static uint8_t apic_tpr(void *ctx)
{
    (void)ctx;
    return 0;
}

/* The page of the APIC gives way to a slot that is added over it, and to itself at another place:
 * what the TLB has of it is a debt then. */
START_TEST(test_apic_page_is_a_debt)
{
    static const struct virtx_irq_apic apic = {.move = apic_moved,
                                               .base = apic_place,
                                               .external = apic_nothing,
                                               .changed = apic_unchanged,
                                               .written = apic_written,
                                               .ended = apic_byte};
    static const struct virtx_irq_source apic_source = {.pending = apic_nothing,
                                                        .take = apic_nothing,
                                                        .tpr = apic_tpr,
                                                        .set_tpr = apic_byte,
                                                        .apic = &apic};
    struct virtx_irq_source lacking = apic_source;
    struct virtx_memslot_config config = {.size = sizeof(config),
                                          .rights = VIRTX_READ,
                                          .type = VIRTX_MEMORY_WB,
                                          .gpa = 0xfee00000 - 0x1000,
                                          .bytes = 0x2000};
    uint64_t base = 0xfee00000 | 1 << 11;

    world_end();
    world_features = VIRTX_FEATURE_APIC_ACCESS;
    world_begin(&virtx_profile_bare);
    config.memory = world.ram;
    lacking.tpr = NULL;
    ck_assert_int_eq(virtx_vcpu_irq_source(world.vcpu, &lacking, &base), VIRTX_E_MISSING_OP);
    ck_assert_int_eq(virtx_vcpu_irq_source(world.vcpu, &apic_source, &base), VIRTX_OK);
    world_run();
    ck_assert_uint_eq(world.pages_mapped, 1);
    world.flushed = 0;
    base += 0x10000;
    virtx_vcpu_irq_changed(world.vcpu);
    world_run();
    ck_assert_uint_eq(world.pages_mapped, 2);
    ck_assert_uint_eq(world.flushed, HW_FLUSH_NESTED);
    world_run(); /* which takes the request that this vcpu has left itself */
    world.flushed = 0;
    ck_assert_int_eq(virtx_memslot_add(world.vm, &config, NULL), VIRTX_OK);
    world_run();
    ck_assert_uint_eq(world.flushed, 0); /* beside it */
    config.gpa += 0x10000;
    ck_assert_int_eq(virtx_memslot_add(world.vm, &config, NULL), VIRTX_OK);
    world_run();
    ck_assert_uint_eq(world.flushed, HW_FLUSH_NESTED);
    world_features = 0;
}
END_TEST

START_TEST(test_kernel_profile_switches_back)
{
    world_end();
    world_begin(&virtx_profile_kernel);
    ck_assert_int_eq(virtx_vcpu_put(world.vcpu), VIRTX_OK);
    ck_assert_uint_eq(world.fpu_saves, 2); /* the host's at load, the guest's at put */
    ck_assert_uint_eq(world.fpu_loads, 2);
    ck_assert_uint_eq(world.xcr0, 1);
}
END_TEST

static void again(const struct virtx_host_profile *profile)
{
    world_end();
    world_begin(profile);
}

/* XSAVES in the guest stores the components of the IA32_XSS that is in the processor: the host's
 * must not be, though the guest may have none of its components. */
START_TEST(test_xss_of_the_host)
{
    world_host_xss = 0x1800; /* CET */
    world_xsaves = true;
    again(&virtx_profile_kernel);
    ck_assert_uint_eq(world.hv->soft->policy.xss, 0);
    ck_assert_int_eq(virtx_vcpu_put(world.vcpu), VIRTX_OK);
    world.msr_writes = 0;
    world_run();
    ck_assert_uint_eq(world.msr_writes, 1);
    ck_assert_uint_eq(world.msr_index[0], MSR_XSS);
    ck_assert_uint_eq(world.msr_written[0], 0);
    ck_assert_int_eq(virtx_vcpu_put(world.vcpu), VIRTX_OK);
    ck_assert_uint_eq(world.msr_writes, 2);
    ck_assert_uint_eq(world.msr_index[1], MSR_XSS);
    ck_assert_uint_eq(world.msr_written[1], 0x1800);
    world_xsaves = false;
    world_host_xss = 0;
}
END_TEST

/* Intel SDM "XSAVES": IA32_XSS exists where the guest's CPUID says so. */
START_TEST(test_xss_follows_the_policy)
{
    uint64_t value = 0;

    ck_assert_uint_eq(msr(false, MSR_XSS, &value), 1000 + VECTOR_GP);
    ck_assert_uint_eq(wrmsr(MSR_XSS, 0), 1000 + VECTOR_GP);
    world.hv->soft->policy.has_xsaves = true;
    ck_assert_uint_eq(rdmsr(MSR_XSS), 0);
    ck_assert_uint_eq(wrmsr(MSR_XSS, 0), 0);
    ck_assert_uint_eq(wrmsr(MSR_XSS, 0x800), 1000 + VECTOR_GP);
}
END_TEST

/* AMD APM "MXCSR Register": MM (bit 17) is a guest's where misaligned SSE mode is. */
START_TEST(test_mxcsr_misaligned)
{
    uint8_t area[832] = {0};
    uint64_t components = 3;

    memcpy(area + 512, &components, 8);
    area[24 + 2] = 2;
    ck_assert_int_eq(virtx_vcpu_fpu_set(world.vcpu, area, sizeof(area)), VIRTX_E_INVALID);
    world_misaligned_sse = true;
    again(&virtx_profile_kernel);
    ck_assert_int_eq(virtx_vcpu_fpu_set(world.vcpu, area, sizeof(area)), VIRTX_OK);
    area[24 + 2] = 4;
    ck_assert_int_eq(virtx_vcpu_fpu_set(world.vcpu, area, sizeof(area)), VIRTX_E_INVALID);
    world_misaligned_sse = false;
}
END_TEST

/* Intel SDM volume 4, "Architectural MSRs", the column that says with what each of them comes; AMD
 * APM "MSR Cross-Reference". A register whose feature the guest's CPUID hides is not there. */
enum { ALWAYS_GP, INTEL, AMD, MTRR, PAT, MCA, ADJUST, WRITE_INTEL, WRITE_AMD };
static const struct {
    uint32_t index;
    unsigned needs;
    uint64_t value; /* that can be written; 1: none */
} conditional[] = {
    {MSR_PLATFORM_ID, INTEL, 1},
    {MSR_MISC_ENABLE, INTEL, 1},
    {MSR_FEATURE_CONTROL, ALWAYS_GP, 1},
    {MSR_BIOS_UPDT_TRIG, WRITE_INTEL, 0x1000},
    {MSR_TSC_ADJUST, ADJUST, 0},
    {MSR_MTRRCAP, MTRR, 1},
    {MSR_MTRR_PHYSBASE0, MTRR, 0x6},
    {MSR_MTRR_PHYSBASE0 + 15, MTRR, 0x7f80000800},
    {0x250, MTRR, 0},
    {0x26f, MTRR, 0x0606060606060606},
    {MSR_MTRR_DEF_TYPE, MTRR, 0xc06},
    {MSR_PAT, PAT, 0x0007040600070406},
    {MSR_MCG_CAP, MCA, 1},
    {MSR_MCG_STATUS, MCA, 0},
    {0xc0010010, AMD, 0x40000},
    {0xc0010015, AMD, 0x10},
    {0xc001001f, AMD, 0},
    {0xc0010020, WRITE_AMD, 0x1000},
    {0xc0010055, AMD, 0},
    {0xc0010058, AMD, 0},
    {0xc0010114, ALWAYS_GP, 1},
    {0xc0010117, ALWAYS_GP, 1},
    {0xc0011020, AMD, 0},
    {0xc0011029, AMD, 2},
    {0xc001102a, AMD, 0},
};

START_TEST(test_hidden_msrs)
{
    struct hw_policy *policy = &world.hv->soft->policy;
    const unsigned gp = 1000 + VECTOR_GP;

    for (unsigned have = 0; have < 2; have++)
        for (unsigned i = 0; i < ARRAY_SIZE(conditional); i++) {
            unsigned needs = conditional[i].needs;
            bool amd = (needs == AMD || needs == WRITE_AMD) == (have == 1);
            bool read = have && needs != ALWAYS_GP && needs < WRITE_INTEL;
            bool write =
                have && needs != ALWAYS_GP && (conditional[i].value != 1 || needs == WRITE_INTEL);
            uint64_t value = 0;

            world.injections = 0;
            policy->amd = amd;
            policy->has_mtrr = !(needs == MTRR) || have;
            policy->has_pat = !(needs == PAT) || have;
            policy->has_mca = !(needs == MCA) || have;
            policy->has_tsc_adjust = !(needs == ADJUST) || have;
            ck_assert_msg(msr(false, conditional[i].index, &value) == (read ? 0 : gp),
                          "read of %x, %s", conditional[i].index, have ? "there" : "hidden");
            value = conditional[i].value == 1 ? 0x5a5a5a5a00000000 : conditional[i].value;
            if (conditional[i].index != MSR_MISC_ENABLE || !have)
                ck_assert_msg(msr(true, conditional[i].index, &value) == (write ? 0 : gp),
                              "write of %x, %s", conditional[i].index, have ? "there" : "hidden");
        }
}
END_TEST

/* Those that are commands are never read, whatever the policy. */
START_TEST(test_written_only_msrs)
{
    static const uint32_t commands[] = {MSR_PRED_CMD, 0x10b, MSR_BIOS_UPDT_TRIG, 0xc0010020};

    for (unsigned amd = 0; amd < 2; amd++)
        for (unsigned i = 0; i < ARRAY_SIZE(commands); i++) {
            uint64_t value = 0;

            world.hv->soft->policy.amd = amd;
            world.hv->soft->policy.has_ibpb = world.hv->soft->policy.has_l1d_flush = true;
            ck_assert_uint_eq(msr(false, commands[i], &value), 1000 + VECTOR_GP);
        }
}
END_TEST

/* What CPUID says is what the policy has, both ways. */
START_TEST(test_policy_of_msrs)
{
    const struct hw_policy *policy = &world.hv->soft->policy;

    ck_assert(policy->has_mtrr && policy->has_pat && !policy->has_mca && !policy->amd);
    world_hide_edx = 1u << 12;
    again(&virtx_profile_bare);
    ck_assert(!world.hv->soft->policy.has_mtrr && world.hv->soft->policy.has_pat);
    world_hide_edx = 1u << 16;
    again(&virtx_profile_bare);
    ck_assert(world.hv->soft->policy.has_mtrr && !world.hv->soft->policy.has_pat);
    world_hide_edx = 0;
}
END_TEST

/* ---- Deadlines ---- */

#define FAR 1000000000000ull /* ticks: longer than any test */

static struct {
    uint64_t due;
    int vector;
} clock_source;

static int clock_pending(void *ctx)
{
    (void)ctx;
    if (clock_source.due && x86_rdtsc() >= clock_source.due) {
        clock_source.due = 0;
        clock_source.vector = 0x52;
    }
    return clock_source.vector;
}

static int clock_take(void *ctx)
{
    int vector = clock_source.vector;

    (void)ctx;
    clock_source.vector = -1;
    return vector;
}

static uint64_t clock_deadline(void *ctx)
{
    (void)ctx;
    return clock_source.due ? clock_source.due : UINT64_MAX;
}

static const struct virtx_irq_source clock_ops = {
    .pending = clock_pending, .take = clock_take, .deadline = clock_deadline};

static void exit_timer(struct hw_vcpu *hv)
{
    hv->vcpu->exit.reason = HW_EXIT_TIMER;
}

/* Time passes while the guest runs. */
static void exit_timer_due(struct hw_vcpu *hv)
{
    clock_source.due = 1;
    exit_timer(hv);
}

static void due_in_the_host(void)
{
    clock_source.due = 1;
    world.hv->soft->deadline = 1;
}

static void begin_with_timer(bool has)
{
    world_features = has ? VIRTX_FEATURE_TIMER : 0;
    again(&virtx_profile_bare);
    world_features = 0;
    world.can_interrupt = true;
    clock_source.due = x86_rdtsc() + FAR;
    clock_source.vector = -1;
    ck_assert_int_eq(virtx_vcpu_irq_source(world.vcpu, &clock_ops, NULL), VIRTX_OK);
}

/* The vendor knows the source's next time before each entry, and its exit delivers what came then.
 */
START_TEST(test_deadline_of_the_source)
{
    uint64_t due;

    begin_with_timer(true);
    due = clock_source.due;
    world_play(exit_timer); /* too soon: the timer has no more bits */
    world_play(exit_timer_due);
    world.flags = 0; /* the host interrupt at the end ends run */
    world_run();
    ck_assert_uint_eq(world.entries, 3);
    ck_assert_uint_eq(world.deadlines, 2);
    ck_assert_uint_eq(world.deadline, HW_NO_DEADLINE);
    ck_assert_uint_eq(world.injections, 1);
    ck_assert_uint_eq(world.injected[0].vector, 0x52);
    /* A new one, announced. */
    clock_source.due = due + 5;
    virtx_vcpu_irq_changed(world.vcpu);
    world_run();
    ck_assert_uint_eq(world.deadline, due + 5);
    ck_assert_int_eq(virtx_vcpu_irq_source(world.vcpu, NULL, NULL), VIRTX_OK);
    world_run();
    ck_assert_uint_eq(world.deadline, HW_NO_DEADLINE);
}
END_TEST

/* Without a timer a host interrupt does, from that time on. */
START_TEST(test_deadline_without_a_timer)
{
    begin_with_timer(false);
    world_play(exit_interrupt); /* before that time */
    world_play(exit_interrupt);
    world_play(exit_hlt);
    world.flags = 0x200;
    world.on_window = NULL;
    world_run();
    ck_assert_uint_eq(world.deadlines, 0);
    ck_assert_uint_eq(world.injections, 0);
    world.at = world.length = 0;
    world_play(exit_interrupt);
    world_play(exit_hlt);
    world.on_window = due_in_the_host;
    ck_assert_int_eq(virtx_vcpu_wake(world.vcpu), VIRTX_OK);
    world_run();
    ck_assert_uint_eq(world.injections, 1);
}
END_TEST

/* What has gone by already comes a little later, so that the guest moves. */
static uint64_t always_over(void *ctx)
{
    (void)ctx;
    return 1;
}

static int nothing(void *ctx)
{
    (void)ctx;
    return -1;
}

START_TEST(test_deadline_gone_by)
{
    static const struct virtx_irq_source over = {
        .pending = nothing, .take = nothing, .deadline = always_over};
    uint64_t now = x86_rdtsc();

    begin_with_timer(true);
    ck_assert_int_eq(virtx_vcpu_irq_source(world.vcpu, &over, NULL), VIRTX_OK);
    world.flags = 0;
    world_run();
    ck_assert_uint_gt(world.deadline, now);
    ck_assert_uint_ne(world.deadline, HW_NO_DEADLINE);
}
END_TEST

START_TEST(test_deadline_of_the_embedder)
{
    uint64_t due;

    begin_with_timer(_i);
    due = clock_source.due;
    world.flags = 0;
    ck_assert_int_eq(virtx_vcpu_deadline(world.vcpu, due - 1),
                     VIRTX_OK); /* the sooner of the two */
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_INTERRUPT);
    if (_i)
        ck_assert_uint_eq(world.deadline, due - 1);
    ck_assert_int_eq(virtx_vcpu_deadline(world.vcpu, 0), VIRTX_OK);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_INTERRUPT);
    if (_i)
        ck_assert_uint_eq(world.deadline, due);
    /* One that has come ends the run before the guest is entered, and once. */
    world.entries = 0;
    ck_assert_int_eq(virtx_vcpu_deadline(world.vcpu, 1), VIRTX_OK);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_DEADLINE);
    ck_assert_uint_eq(world.entries, 0);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_INTERRUPT);
    ck_assert_uint_eq(world.entries, 1);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("hw_run");
    TCase *c = tcase_create("run");

    tcase_add_checked_fixture(c, begin, world_end);
    tcase_add_test(c, test_cpuid_served_inside);
    tcase_add_test(c, test_cpuid_osxsave_follows_cr4);
    tcase_add_test(c, test_out_reaches_the_loop);
    tcase_add_loop_test(c, test_run_completes_writes, 0, 2);
    tcase_add_loop_test(c, test_completed_instruction_is_retired_once, 0, 4);
    tcase_add_test(c, test_in_merges_by_size);
    tcase_add_test(c, test_fault_instead_of_complete);
    tcase_add_test(c, test_port_handler_inside_run);
    tcase_add_test(c, test_handler_faults);
    tcase_add_test(c, test_bitmaps_follow_intercepts);
    tcase_add_test(c, test_hypercall);
    tcase_add_test(c, test_kick_before_run);
    tcase_add_test(c, test_kick_while_the_guest_runs);
    tcase_add_test(c, test_host_interrupt);
    tcase_add_test(c, test_halt_and_wake);
    tcase_add_test(c, test_interrupt_two_phases);
    tcase_add_test(c, test_priorities);
    tcase_add_test(c, test_two_nmis_at_most);
    tcase_add_test(c, test_one_nmi_beside_the_handler);
    tcase_add_test(c, test_reinjection);
    tcase_add_test(c, test_reinjection_without_leaving);
    tcase_add_test(c, test_fault_during_nmi_delivery);
    tcase_add_test(c, test_cr0_intercept_mask);
    tcase_add_test(c, test_merging);
    tcase_add_test(c, test_injected_during_delivery);
    tcase_add_test(c, test_fault_during_interrupt_delivery);
    tcase_add_test(c, test_refused_entry_keeps_the_event);
    tcase_add_test(c, test_debug_exception_sets_dr6);
    tcase_add_test(c, test_faults_push_rf);
    tcase_add_test(c, test_single_step_of_a_retired_instruction);
    tcase_add_test(c, test_single_step_is_intercepted);
    tcase_add_test(c, test_window_for_the_embedder);
    tcase_add_test(c, test_msrs);
    tcase_add_test(c, test_hidden_msrs);
    tcase_add_test(c, test_written_only_msrs);
    tcase_add_test(c, test_policy_of_msrs);
    tcase_add_test(c, test_tsc_adjust);
    tcase_add_test(c, test_efer_lme_with_paging);
    tcase_add_test(c, test_cr0_rules);
    tcase_add_test(c, test_long_mode);
    tcase_add_test(c, test_pae_loads_pdptes);
    tcase_add_test(c, test_pge_is_a_flush);
    tcase_add_test(c, test_cr4_reserved_and_hidden);
    tcase_add_test(c, test_cr8_reaches_the_source);
    tcase_add_test(c, test_cr8_habit);
    tcase_add_test(c, test_instructions);
    tcase_add_test(c, test_set_refuses_nonsense);
    tcase_add_test(c, test_reset_state);
    tcase_add_test(c, test_fpu);
    tcase_add_test(c, test_debug_registers_on_first_use);
    tcase_add_test(c, test_complete_after_put);
    tcase_add_test(c, test_tags);
    tcase_add_test(c, test_dropped_slot_is_a_debt);
    tcase_add_test(c, test_apic_page_is_a_debt);
    tcase_add_test(c, test_kernel_profile_switches_back);
    tcase_add_test(c, test_xss_of_the_host);
    tcase_add_test(c, test_xss_follows_the_policy);
    tcase_add_test(c, test_mxcsr_misaligned);
    tcase_add_test(c, test_deadline_of_the_source);
    tcase_add_test(c, test_deadline_without_a_timer);
    tcase_add_test(c, test_deadline_gone_by);
    tcase_add_loop_test(c, test_deadline_of_the_embedder, 0, 2);
    suite_add_tcase(s, c);
    return s;
}

int main(void)
{
    SRunner *runner = srunner_create(suite());
    int failed;

    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
