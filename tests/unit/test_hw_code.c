/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The instruction at RIP as the library finds it again: never other than a fresh walk and a fresh
 * decoding would find it. And the hole between the slots that is remembered for devices.
 */
#include "hw_world.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "hw/emulation.h"

#define PAGE   4096u
#define DEVICE 0xfe000000u
#define CODE   0x1000u
#define ROOTS  3u

static struct virtx_memslot *extra; /* at 0x80000, 16 pages */
static uint8_t *extra_ram[2];

/* A root of 4 levels at page `at`: linear 0 to 2 MiB onto itself, present, writable, for all. */
static void make_root(unsigned at)
{
    uint64_t *tables = (uint64_t *)(void *)(world.ram + at * PAGE);

    for (unsigned level = 0; level < 3; level++)
        tables[level * 512] = (uint64_t)(at + level + 1) * PAGE | 7;
    for (uint64_t i = 0; i < 512; i++)
        tables[3 * 512 + i] = i * PAGE | 7;
}

/* The entry of a root's level 0 (PML4) to 3 for a linear address below 2 MiB. */
static uint64_t *entry_of(unsigned root, unsigned level, uint64_t linear)
{
    uint64_t *table = (uint64_t *)(void *)(world.ram + (8 + 4 * root + level) * PAGE);

    return &table[level == 3 ? linear / PAGE : 0];
}

static void add_extra(unsigned which)
{
    struct virtx_memslot_config slot = {.size = sizeof(slot),
                                        .gpa = 0x80000,
                                        .bytes = 16 * PAGE,
                                        .rights = VIRTX_READ | VIRTX_WRITE | VIRTX_EXECUTE,
                                        .type = VIRTX_MEMORY_WB,
                                        .memory = extra_ram[which]};

    ck_assert_int_eq(virtx_memslot_add(world.vm, &slot, &extra), VIRTX_OK);
}

static void begin(void)
{
    struct virtx_state state;

    world_begin(&virtx_profile_bare);
    ck_assert_int_eq(virtx_vcpu_reset(world.vcpu, VIRTX_PRESET_FLAT64), VIRTX_OK);
    for (unsigned root = 0; root < ROOTS; root++)
        make_root(8 + 4 * root);
    world_get(VIRTX_STATE_CR, &state);
    state.cr3 = 8 * PAGE;
    world_set(VIRTX_STATE_CR, &state);
    for (unsigned i = 0; i < 2; i++) {
        extra_ram[i] = aligned_alloc(PAGE, 16 * PAGE);
        memset(extra_ram[i], 0x90, 16 * PAGE);
    }
    add_extra(0);
}

static void end(void)
{
    world_end();
    free(extra_ram[0]);
    free(extra_ram[1]);
}

/* ---- One question ---- */

static struct insn found, fresh;
static bool has_found, has_fresh, was_hit;

/* Asks for the instruction, and then for the same without the cache: hw_fetch() has none. */
static void ask(struct hw_vcpu *hv)
{
    uint8_t bytes[INSN_MAX_LENGTH];
    unsigned got, before = world.translations;
    const struct insn *insn = hw_insn(hv);
    enum insn_result result;

    was_hit = world.translations == before;
    has_found = insn != NULL;
    if (insn)
        found = *insn;
    got = hw_fetch(hv, bytes);
    result = insn_decode(&fresh, bytes, got, hw_insn_mode(hv));
    has_fresh = result == INSN_OK || result == INSN_UNKNOWN;
    exit_interrupt(hv);
}

/* True: the cached answer is the fresh one. */
static bool asked(void)
{
    world.at = world.length = 0;
    world_play(ask);
    world_run();
    return has_found == has_fresh && (!has_found || memcmp(&found, &fresh, sizeof(found)) == 0);
}

static void expect(bool hit, unsigned op)
{
    ck_assert(asked());
    ck_assert_int_eq(was_hit, hit);
    ck_assert_int_eq(has_found, op != INSN_OP_UNKNOWN);
    if (has_found)
        ck_assert_uint_eq(found.op, op);
}

static void code(uint32_t at, const char *bytes, size_t length)
{
    world_code(at, bytes, length);
}

#define CODE_AT(at, text) code(at, text, sizeof(text) - 1)

START_TEST(the_second_time_is_a_hit)
{
    CODE_AT(CODE, "\x8b\x03"); /* mov eax, [rbx] */
    expect(false, INSN_OP_MOV);
    expect(true, INSN_OP_MOV);
    world.ram[CODE + 2] ^= 0xff; /* not of this instruction */
    expect(true, INSN_OP_MOV);
    CODE_AT(CODE + 3, "\x0f\xa2"); /* cpuid */
    expect(false, INSN_OP_CPUID);
    expect(true, INSN_OP_CPUID);
}
END_TEST

START_TEST(changed_bytes_are_seen)
{
    static const char longest[] =
        "\x66\x66\x66\x66\x66\x66\x67\x81\x84\x8b\1\2\3\4\5"; /* and 6: too long */
    static const char fifteen[] = "\x66\x66\x66\x67\x81\x84\x8b\1\2\3\4\5\6";

    CODE_AT(CODE, "\x8b\x03");
    expect(false, INSN_OP_MOV);
    CODE_AT(CODE, "\x87\x03"); /* xchg */
    expect(false, INSN_OP_XCHG);
    expect(true, INSN_OP_XCHG);
    /* Each byte of an instruction counts. */
    for (unsigned i = 0; i < sizeof(fifteen) - 1; i++) {
        code(CODE, fifteen, sizeof(fifteen) - 1);
        ck_assert(asked());
        ck_assert(asked());
        ck_assert(was_hit);
        world.ram[CODE + i] ^= 1;
        ck_assert(asked());
        ck_assert(!was_hit);
    }
    code(CODE, longest, sizeof(longest) - 1);
    expect(false, INSN_OP_UNKNOWN);
    expect(false, INSN_OP_UNKNOWN); /* what is no instruction is not remembered */
}
END_TEST

START_TEST(changed_tables_are_seen)
{
    for (unsigned level = 0; level < 4; level++) {
        uint64_t *entry = entry_of(0, level, CODE), old = *entry;

        CODE_AT(CODE, "\x8b\x03");
        ck_assert(asked());
        expect(true, INSN_OP_MOV);
        *entry = 0; /* nobody is told */
        expect(false, INSN_OP_UNKNOWN);
        *entry = level == 3 ? 0x2000 | 7 : *entry_of(1, level, CODE);
        CODE_AT(0x2000, "\x0f\xa2");
        CODE_AT(CODE, "\x8b\x03");
        if (level < 3)
            *entry_of(1, 3, CODE) = 0x2000 | 7;
        expect(false, INSN_OP_CPUID);
        expect(true, INSN_OP_CPUID);
        *entry = old;
        expect(false, INSN_OP_MOV);
        make_root(12);
    }
}
END_TEST

START_TEST(another_space_is_seen)
{
    struct virtx_state state;

    CODE_AT(0x2000, "\x0f\xa2");
    CODE_AT(CODE, "\x8b\x03");
    *entry_of(1, 3, CODE) = 0x2000 | 7;
    expect(false, INSN_OP_MOV);
    expect(true, INSN_OP_MOV);
    world_get(VIRTX_STATE_CR, &state);
    state.cr3 = 12 * PAGE;
    world_set(VIRTX_STATE_CR, &state);
    expect(false, INSN_OP_CPUID);
    expect(true, INSN_OP_CPUID);
}
END_TEST

START_TEST(another_mode_is_seen)
{
    struct virtx_state state;

    CODE_AT(CODE, "\x48\x8b\x03"); /* mov rax, [rbx], or dec eax */
    expect(false, INSN_OP_MOV);
    expect(true, INSN_OP_MOV);
    world_get(VIRTX_STATE_SEG, &state);
    state.seg[VIRTX_CS].attributes ^= VIRTX_SEG_L | VIRTX_SEG_DB;
    world_set(VIRTX_STATE_SEG, &state);
    expect(false, INSN_OP_DEC);
    expect(false, INSN_OP_DEC); /* outside 64-bit mode the tables are walked each time */
    state.seg[VIRTX_CS].attributes ^= VIRTX_SEG_L | VIRTX_SEG_DB;
    world_set(VIRTX_STATE_SEG, &state);
    ck_assert(asked());
    expect(true, INSN_OP_MOV);
}
END_TEST

START_TEST(an_empty_line_matches_nothing)
{
    struct virtx_state state;

    world_get(VIRTX_STATE_SEG, &state);
    state.seg[VIRTX_CS].attributes &= ~(VIRTX_SEG_L | VIRTX_SEG_DB);
    world_set(VIRTX_STATE_SEG, &state);
    CODE_AT(CODE, "\x8b\x07"); /* the first that is decoded is 16-bit code */
    expect(false, INSN_OP_MOV);
}
END_TEST

START_TEST(privilege_is_seen)
{
    struct virtx_state state;
    uint64_t *entry = entry_of(0, 3, CODE);

    CODE_AT(CODE, "\x8b\x03");
    *entry &= ~4ull; /* a supervisor's page */
    expect(false, INSN_OP_MOV);
    expect(true, INSN_OP_MOV);
    world_get(VIRTX_STATE_SEG | VIRTX_STATE_CR, &state);
    state.seg[VIRTX_SS].attributes |= 3u << VIRTX_SEG_DPL_SHIFT;
    world_set(VIRTX_STATE_SEG, &state);
    expect(false, INSN_OP_UNKNOWN); /* a #PF at CPL 3 */
    state.seg[VIRTX_SS].attributes &= ~(3u << VIRTX_SEG_DPL_SHIFT);
    world_set(VIRTX_STATE_SEG, &state);
    *entry |= 4;
    expect(false, INSN_OP_MOV);
    expect(true, INSN_OP_MOV);
    state.cr4 |= CR4_SMEP;
    world_set(VIRTX_STATE_CR, &state);
    expect(false, INSN_OP_UNKNOWN); /* a #PF: SMEP */
    state.cr4 &= ~(uint64_t)CR4_SMEP;
    state.efer |= EFER_NXE;
    world_set(VIRTX_STATE_CR, &state);
    expect(false, INSN_OP_MOV);
    expect(true, INSN_OP_MOV);
    *entry |= 1ull << 63;
    expect(false, INSN_OP_UNKNOWN); /* a #PF: NX */
}
END_TEST

START_TEST(changed_slots_are_seen)
{
    struct virtx_state state;
    uint64_t generation;

    memcpy(extra_ram[0], "\x8b\x03", 2);
    memcpy(extra_ram[1], "\x0f\xa2", 2);
    world_get(VIRTX_STATE_RIP, &state);
    state.rip = 0x80000;
    world_set(VIRTX_STATE_RIP, &state);
    expect(false, INSN_OP_MOV);
    expect(true, INSN_OP_MOV);
    ck_assert_int_eq(virtx_memslot_remove(extra, &generation), VIRTX_OK);
    expect(false, INSN_OP_UNKNOWN);
    add_extra(1);
    expect(false, INSN_OP_CPUID);
    expect(true, INSN_OP_CPUID);
    ck_assert_int_eq(virtx_memslot_invalidate(extra, 0, PAGE, &generation), VIRTX_OK);
    expect(false, INSN_OP_CPUID);
}
END_TEST

START_TEST(across_pages)
{
    CODE_AT(CODE + PAGE - 2, "\x81\x03\1\2\3\4"); /* add dword [rbx], imm */
    expect(false, INSN_OP_ADD);
    expect(false, INSN_OP_ADD);
    ck_assert_uint_eq(found.imm, 0x04030201);
    *entry_of(0, 3, CODE + PAGE) = 0x3000 | 7;
    memcpy(world.ram + 0x3000, "\5\6\7\10", 4);
    expect(false, INSN_OP_ADD);
    ck_assert_uint_eq(found.imm, 0x08070605);
    *entry_of(0, 3, CODE + PAGE) = 0;
    expect(false, INSN_OP_UNKNOWN);
    /* All of the instruction is in the first page, not all of the 15 bytes. */
    CODE_AT(CODE + PAGE - 2, "\x8b\x03");
    expect(false, INSN_OP_MOV);
}
END_TEST

/* ---- Anything may happen between two questions ---- */

static uint64_t seed = 88172645463325252u;

static uint32_t below(uint32_t n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 32) % n;
}

static void change_registers(void)
{
    struct virtx_state state;

    world_get(VIRTX_STATE_SEG | VIRTX_STATE_CR | VIRTX_STATE_RIP, &state);
    switch (below(6)) {
    case 0:
        state.cr3 = (8 + 4 * below(ROOTS)) * PAGE;
        break;
    case 1:
        state.cr4 ^= CR4_SMEP;
        break;
    case 2:
        state.efer ^= EFER_NXE;
        break;
    case 3:
        state.seg[VIRTX_CS].attributes ^= VIRTX_SEG_L | VIRTX_SEG_DB;
        break;
    case 4:
        state.seg[VIRTX_SS].attributes ^= 3u << VIRTX_SEG_DPL_SHIFT;
        break;
    default:
        state.rip = below(4) ? CODE + below(24) : 0x80000 - 20 + below(24);
        break;
    }
    world_set(VIRTX_STATE_SEG | VIRTX_STATE_CR | VIRTX_STATE_RIP, &state);
}

static void change_slots(void)
{
    static unsigned which;
    uint64_t generation;

    if (extra) {
        ck_assert_int_eq(virtx_memslot_remove(extra, &generation), VIRTX_OK);
        extra = NULL;
    } else {
        which ^= 1;
        add_extra(which);
    }
}

static void change_something(void)
{
    static const char *const samples[] = {"\x8b\x03",         "\x0f\xa2",     "\x48\x8b\x43\x08",
                                          "\xc7\x03\1\2\3\4", "\x0f\x01\xd9", "\x66\x89\x18",
                                          "\xf3\xa4"};
    uint32_t dice = below(100), linear = CODE + below(2) * PAGE;
    uint64_t *entry = entry_of(below(ROOTS), below(4), below(4) ? linear : 0x80000);

    if (dice < 25) {
        change_registers();
    } else if (dice < 35) {
        const char *sample = samples[below(7)];

        memcpy(world.ram + CODE + below(24), sample, strlen(sample));
        memcpy(extra_ram[below(2)] + below(8), sample, strlen(sample));
    } else if (dice < 40) {
        *entry ^= 1ull << (below(3) ? below(8) : 63);
    } else if (dice < 42) {
        *entry ^= (uint64_t)(1 + below(3)) * PAGE;
    } else if (dice < 46) {
        for (unsigned root = 0; root < ROOTS; root++)
            make_root(8 + 4 * root);
    } else if (dice < 47) {
        change_slots();
    }
}

START_TEST(never_other_than_fresh)
{
    unsigned hits = 0, none = 0;

    CODE_AT(CODE, "\x8b\x03");
    for (unsigned i = 0; i < 60000; i++) {
        change_something();
        if (!asked())
            ck_abort_msg("question %u", i);
        hits += was_hit && has_found;
        none += !has_found;
    }
    ck_assert_uint_gt(hits, 8000);
    ck_assert_uint_gt(none, 1000);
}
END_TEST

/* ---- The hole ---- */

static uint64_t fault_gpa;

static void exit_fault(struct hw_vcpu *hv)
{
    world_fault(hv, fault_gpa, VIRTX_READ);
}

/* Reads 4 bytes there. True: the engine was asked. */
static bool engine_asked(uint64_t gpa)
{
    unsigned before = world.faults;
    const struct virtx_exit *exit;
    uint64_t value = 1;

    CODE_AT(CODE, "\x8b\x03");
    world_gpr()[VIRTX_RBX] = gpa;
    fault_gpa = gpa;
    world.at = world.length = 0;
    world_play(exit_fault);
    exit = world_run();
    if (exit->reason == VIRTX_EXIT_MMIO)
        ck_assert_int_eq(virtx_vcpu_complete(world.vcpu, &value), VIRTX_OK);
    return world.faults != before;
}

START_TEST(a_hole_ends_with_the_slots)
{
    uint64_t generation;

    ck_assert(engine_asked(DEVICE));
    ck_assert(!engine_asked(DEVICE));
    ck_assert(!engine_asked(DEVICE + 0x1000)); /* the same hole */
    ck_assert(!engine_asked(0x90000));         /* its first byte */
    ck_assert(engine_asked(0x8fffc)); /* memory, and what the engine says of it stays its own */
    ck_assert(engine_asked(0x8fffc));
    ck_assert(engine_asked(0x40000)); /* another one */
    ck_assert(!engine_asked(0x7fffc));
    ck_assert(engine_asked(0x80000));
    ck_assert(engine_asked(DEVICE));
    ck_assert_int_eq(virtx_memslot_move(extra, DEVICE, &generation), VIRTX_OK);
    ck_assert(engine_asked(DEVICE)); /* memory now */
    ck_assert(engine_asked(DEVICE));
    ck_assert(engine_asked(0x80000)); /* none now */
    ck_assert(!engine_asked(0x80000));
    add_extra(1);
    ck_assert(engine_asked(0x80000));
}
END_TEST

/* ---- The handler of a device ---- */

static unsigned calls[2]; /* of the VM's handler and of the vcpu's own */
static enum virtx_verdict verdict;
static uint64_t seen, given;

static enum virtx_verdict on_device(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    struct virtx_state state;

    ck_assert_uint_eq(exit->reason, VIRTX_EXIT_MMIO);
    ck_assert(!exit->pending);
    ck_assert_int_eq(virtx_vcpu_get(vcpu, VIRTX_STATE_RIP, &state), VIRTX_OK);
    ck_assert_uint_eq(state.rip, CODE);
    calls[(uintptr_t)ctx]++;
    seen = exit->mmio.value;
    if (exit->mmio.access == VIRTX_READ)
        exit->mmio.value = given;
    if (verdict == VIRTX_FAULT) {
        const struct virtx_event gp = {
            .type = VIRTX_EVENT_EXCEPTION, .vector = VECTOR_GP, .has_error = true};

        ck_assert_int_eq(virtx_vcpu_inject(vcpu, &gp), VIRTX_OK);
    }
    return verdict;
}

static struct virtx_intercept *intercept(bool own, uint64_t first, uint64_t last)
{
    struct virtx_intercept *handle = NULL;
    const struct virtx_intercept_config config = {.size = sizeof(config),
                                                  .kind = VIRTX_INTERCEPT_MMIO,
                                                  .access = VIRTX_READ | VIRTX_WRITE,
                                                  .action = VIRTX_ACTION_EXIT,
                                                  .first = first,
                                                  .last = last,
                                                  .handler = on_device,
                                                  .ctx = (void *)(uintptr_t)own};

    ck_assert_int_eq(own ? virtx_vcpu_intercept(world.vcpu, &config, &handle)
                         : virtx_vm_intercept(world.vm, &config, &handle),
                     VIRTX_OK);
    calls[0] = calls[1] = 0;
    verdict = VIRTX_HANDLED;
    return handle;
}

static uint8_t fault_access;

static void exit_access(struct hw_vcpu *hv)
{
    world_fault(hv, fault_gpa, fault_access);
}

/* Runs one instruction that touches [rbx]. */
static const struct virtx_exit *access_device(const char *bytes, size_t length, uint8_t access)
{
    code(CODE, bytes, length);
    fault_gpa = world_gpr()[VIRTX_RBX];
    fault_access = access;
    world.at = world.length = 0;
    world_play(exit_access);
    return world_run();
}

#define READ(text)  access_device(text, sizeof(text) - 1, VIRTX_READ)
#define WRITE(text) access_device(text, sizeof(text) - 1, VIRTX_WRITE)

static uint64_t rip(void)
{
    struct virtx_state state;

    world_get(VIRTX_STATE_RIP, &state);
    return state.rip;
}

START_TEST(a_handler_met_before)
{
    uint64_t *gpr = world_gpr();
    struct virtx_state state;

    intercept(false, DEVICE, DEVICE + 0xfff);
    gpr[VIRTX_RBX] = DEVICE;
    given = 0x8877665544332211;
    for (unsigned i = 0; i < 3; i++) {
        gpr[VIRTX_RAX] = UINT64_MAX;
        ck_assert_uint_eq(READ("\x8b\x03")->reason, VIRTX_EXIT_INTERRUPT); /* mov eax, [rbx] */
        ck_assert_uint_eq(gpr[VIRTX_RAX], 0x44332211);
        ck_assert_uint_eq(rip(), CODE + 2);
        READ("\x48\x8b\x03"); /* rax */
        ck_assert_uint_eq(gpr[VIRTX_RAX], given);
        READ("\x66\x8b\x0b"); /* cx */
        READ("\x8a\x2b");     /* ch */
        ck_assert_uint_eq(gpr[VIRTX_RCX] & 0xffff, 0x1111);
        READ("\x48\x0f\xb7\x0b"); /* movzx rcx, word */
        ck_assert_uint_eq(gpr[VIRTX_RCX], 0x2211);
        given ^= 0x80;
        READ("\x48\x0f\xbe\x13"); /* movsx rdx, byte */
        ck_assert_uint_eq(gpr[VIRTX_RDX], 0xffffffffffffff91);
        given ^= 0x80;
        READ("\x8b\x23"); /* esp */
        world_get(VIRTX_STATE_RSP, &state);
        ck_assert_uint_eq(gpr[VIRTX_RSP], 0x44332211);
        ck_assert_uint_eq(seen, UINT64_MAX);
        gpr[VIRTX_RCX] = 0x123456789abcdef0;
        WRITE("\x48\x89\x0b"); /* mov [rbx], rcx */
        ck_assert_uint_eq(seen, gpr[VIRTX_RCX]);
        WRITE("\x88\x2b"); /* ch */
        ck_assert_uint_eq(seen, 0xde);
        WRITE("\x89\x23"); /* esp */
        ck_assert_uint_eq(seen, 0x44332211);
        WRITE("\x48\xc7\x03\xff\xff\xff\xff"); /* mov qword [rbx], -1 */
        ck_assert_uint_eq(seen, UINT64_MAX);
        WRITE("\x66\xc7\x03\x34\x12");
        ck_assert_uint_eq(seen, 0x1234);
        ck_assert_uint_eq(calls[0], 12 * (i + 1));
    }
}
END_TEST

START_TEST(what_a_handler_met_before_answers)
{
    uint64_t value = 5;

    intercept(false, DEVICE, DEVICE + 0xfff);
    world_gpr()[VIRTX_RBX] = DEVICE;
    READ("\x8b\x03");
    READ("\x8b\x03");
    ck_assert_uint_eq(calls[0], 2);
    verdict = VIRTX_TO_LOOP;
    ck_assert_uint_eq(READ("\x8b\x03")->reason, VIRTX_EXIT_MMIO);
    ck_assert_uint_eq(world.vcpu->exit.length, 2);
    ck_assert_uint_eq(world.vcpu->exit.rip, CODE);
    ck_assert_int_eq(virtx_vcpu_complete(world.vcpu, &value), VIRTX_OK);
    ck_assert_uint_eq(world_gpr()[VIRTX_RAX], 5);
    ck_assert_uint_eq(rip(), CODE + 2);
    verdict = VIRTX_DEFAULT;
    ck_assert_uint_eq(READ("\x8b\x03")->reason, VIRTX_EXIT_MMIO);
    ck_assert_int_eq(virtx_vcpu_complete(world.vcpu, &value), VIRTX_OK);
    verdict = VIRTX_FAULT;
    ck_assert_uint_eq(READ("\x8b\x03")->reason, VIRTX_EXIT_INTERRUPT);
    ck_assert_uint_eq(rip(), CODE);
    ck_assert_uint_eq(world.injections, 1);
    ck_assert_uint_eq(world.injected[0].vector, VECTOR_GP);
    ck_assert_uint_eq(calls[0], 5);
}
END_TEST

START_TEST(handlers_come_and_go)
{
    struct virtx_intercept *all = intercept(false, DEVICE, DEVICE + 0xfff), *own;
    uint64_t value = 0;

    world_gpr()[VIRTX_RBX] = DEVICE;
    READ("\x8b\x03");
    READ("\x8b\x03");
    ck_assert_uint_eq(calls[0], 2);
    own = intercept(true, DEVICE, DEVICE + 3); /* the vcpu's first */
    READ("\x8b\x03");
    READ("\x8b\x03");
    ck_assert_uint_eq(calls[0], 0);
    ck_assert_uint_eq(calls[1], 2);
    world_gpr()[VIRTX_RBX] = DEVICE + 4; /* its neighbour is still the VM's */
    READ("\x8b\x03");
    READ("\x8b\x03");
    ck_assert_uint_eq(calls[0], 2);
    world_gpr()[VIRTX_RBX] = DEVICE;
    READ("\x8b\x03");
    ck_assert_uint_eq(calls[1], 3);
    ck_assert_int_eq(virtx_intercept_remove(own), VIRTX_OK);
    READ("\x8b\x03");
    ck_assert_uint_eq(calls[0], 3);
    ck_assert_int_eq(virtx_intercept_remove(all), VIRTX_OK);
    ck_assert_uint_eq(READ("\x8b\x03")->reason, VIRTX_EXIT_MMIO);
    ck_assert_int_eq(virtx_vcpu_complete(world.vcpu, &value), VIRTX_OK);
    ck_assert_uint_eq(calls[0], 3);
    ck_assert_uint_eq(calls[1], 3);
}
END_TEST

/* The second half of an access that begins on the page before has an address that fits a plain
 * access, too. */
START_TEST(second_halves_are_told_apart)
{
    const struct virtx_exit *exit;

    intercept(false, DEVICE, DEVICE + 0xfff);
    world_gpr()[VIRTX_RBX] = DEVICE;
    READ("\x8b\x03");
    READ("\x8b\x03");
    READ("\x8b\x43\x00");
    ck_assert_uint_eq(calls[0], 3);
    *entry_of(0, 3, 0x5000) = DEVICE | 7;
    memset(world.ram + 0x4000, 0x44, PAGE);
    world_gpr()[VIRTX_RBX] = 0x4ffe;
    code(CODE, "\x8b\x03", 2);
    fault_gpa = DEVICE;
    world.at = world.length = 0;
    world_play(exit_access);
    given = 0x2211;
    exit = world_run();
    ck_assert_uint_eq(exit->reason, VIRTX_EXIT_INTERRUPT);
    ck_assert_uint_eq(calls[0], 4);
    ck_assert_uint_eq(world_gpr()[VIRTX_RAX], 0x22114444);
}
END_TEST

/* ---- An engine that finds the address itself ---- */

static uint64_t engine_finds;

static enum virtx_fault_result find(struct virtx_vcpu *vcpu, struct virtx_page_fault *fault)
{
    (void)vcpu;
    world.faults++;
    fault->gpa = engine_finds;
    return VIRTX_FAULT_NOT_MEMORY;
}

/* Reads there; what the record of the fault says before the engine is asked is of another. True:
 * a handler has served it. */
static bool served_at(uint64_t gpa, uint64_t other)
{
    unsigned calls_before = calls[0], faults_before = world.faults;
    const struct virtx_exit *exit;

    world_gpr()[VIRTX_RBX] = engine_finds = gpa;
    CODE_AT(CODE, "\x8b\x03");
    fault_gpa = other;
    world.at = world.length = 0;
    world_play(exit_fault);
    exit = world_run();
    ck_assert_uint_eq(world.faults, faults_before + 1);
    if (exit->reason == VIRTX_EXIT_MMIO) {
        ck_assert_uint_eq(exit->mmio.gpa, gpa);
        ck_assert_int_eq(virtx_vcpu_complete(world.vcpu, &given), VIRTX_OK);
    } else {
        ck_assert_uint_eq(calls[0], calls_before + 1);
        ck_assert_uint_eq(world_gpr()[VIRTX_RAX], given);
    }
    return exit->reason != VIRTX_EXIT_MMIO;
}

START_TEST(an_address_that_the_engine_finds)
{
    struct virtx_paging engine = world_engine;

    engine.nested = false;
    engine.fault = find;
    world.vm->paging = &engine;
    intercept(false, DEVICE, DEVICE + 0xfff);
    given = 0x12345678;
    for (unsigned i = 0; i < 3; i++) {
        ck_assert(served_at(DEVICE, 0));
        ck_assert(served_at(DEVICE + 8, 0x40000));
        ck_assert(!served_at(0x40000, DEVICE));
        ck_assert(!served_at(DEVICE + 0x1000, DEVICE)); /* the same hole */
    }
    world.vm->paging = &world_engine;
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("hw_code");
    TCase *c = tcase_create("code");

    tcase_add_checked_fixture(c, begin, end);
    tcase_set_timeout(c, 60);
    tcase_add_test(c, the_second_time_is_a_hit);
    tcase_add_test(c, changed_bytes_are_seen);
    tcase_add_test(c, changed_tables_are_seen);
    tcase_add_test(c, another_space_is_seen);
    tcase_add_test(c, another_mode_is_seen);
    tcase_add_test(c, an_empty_line_matches_nothing);
    tcase_add_test(c, privilege_is_seen);
    tcase_add_test(c, changed_slots_are_seen);
    tcase_add_test(c, across_pages);
    tcase_add_test(c, never_other_than_fresh);
    tcase_add_test(c, a_hole_ends_with_the_slots);
    tcase_add_test(c, a_handler_met_before);
    tcase_add_test(c, what_a_handler_met_before_answers);
    tcase_add_test(c, handlers_come_and_go);
    tcase_add_test(c, second_halves_are_told_apart);
    tcase_add_test(c, an_address_that_the_engine_finds);
    suite_add_tcase(s, c);
    return s;
}

int main(void)
{
    SRunner *runner = srunner_create(suite());
    int failed;

    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
