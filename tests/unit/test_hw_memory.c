/* SPDX-License-Identifier: BSD-2-Clause */
/* Accesses to devices and string port accesses: operands, fragments, faults and restarts. */
#include "hw_world.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#define DEVICE 0xfe000000u /* no slot is there */
#define CODE   0x1000u

static void begin(void)
{
    world_begin(&virtx_profile_bare);
}

static uint64_t rip(void)
{
    struct virtx_state state;

    world_get(VIRTX_STATE_RIP, &state);
    return state.rip;
}

static uint64_t fault_gpa;
static uint8_t fault_access;

static void exit_fault(struct hw_vcpu *hv)
{
    world_fault(hv, fault_gpa, fault_access);
}

/* Runs an instruction that the processor could not finish. */
static const struct virtx_exit *touch(const void *code, size_t length, uint64_t gpa, uint8_t access)
{
    world_code(CODE, code, length);
    fault_gpa = gpa;
    fault_access = access;
    world.at = world.length = 0;
    world_play(exit_fault);
    return world_run();
}

#define TOUCH(gpa, access, ...)                                                                    \
    touch((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), gpa, access)

static void expect(const struct virtx_exit *exit, uint64_t gpa, unsigned size, uint8_t access)
{
    ck_assert_uint_eq(exit->reason, VIRTX_EXIT_MMIO);
    ck_assert(exit->pending);
    ck_assert_uint_eq(exit->mmio.gpa, gpa);
    ck_assert_uint_eq(exit->mmio.size, size);
    ck_assert_uint_eq(exit->mmio.access, access);
}

static void answer(uint64_t value, enum virtx_status status)
{
    ck_assert_int_eq(virtx_vcpu_complete(world.vcpu, &value), status);
}

START_TEST(test_plain_reads)
{
    uint64_t *gpr = world_gpr();

    gpr[VIRTX_RBX] = DEVICE;
    gpr[VIRTX_RAX] = 0xaaaaaaaaaaaaaaaa;
    expect(TOUCH(DEVICE + 8, VIRTX_READ, 0x8b, 0x43, 0x08), DEVICE + 8, 4, VIRTX_READ);
    answer(0x12345678, VIRTX_OK); /* mov eax, [ebx + 8] */
    ck_assert_uint_eq(gpr[VIRTX_RAX], 0x12345678);
    ck_assert_uint_eq(rip(), CODE + 3);

    expect(TOUCH(DEVICE, VIRTX_READ, 0x8a, 0x23), DEVICE, 1, VIRTX_READ);
    answer(0xcd, VIRTX_OK); /* mov ah, [ebx] */
    ck_assert_uint_eq(gpr[VIRTX_RAX], 0x1234cd78);

    expect(TOUCH(DEVICE, VIRTX_READ, 0x0f, 0xb6, 0x0b), DEVICE, 1, VIRTX_READ);
    answer(0x80, VIRTX_OK); /* movzx ecx, byte [ebx] */
    ck_assert_uint_eq(gpr[VIRTX_RCX], 0x80);

    expect(TOUCH(DEVICE, VIRTX_READ, 0x0f, 0xbf, 0x0b), DEVICE, 2, VIRTX_READ);
    answer(0x8000, VIRTX_OK); /* movsx ecx, word [ebx] */
    ck_assert_uint_eq(gpr[VIRTX_RCX], 0xffff8000);

    expect(TOUCH(DEVICE, VIRTX_READ, 0x8a, 0x03), DEVICE, 1, VIRTX_READ);
    ck_assert_int_eq(virtx_vcpu_complete(world.vcpu, NULL), VIRTX_OK);
    ck_assert_uint_eq(gpr[VIRTX_RAX], 0x1234cdff); /* untouched: all ones */
}
END_TEST

/* A write has no answer to wait for: run completes it, and an access that follows in the same
 * instruction is what it returns with. */
START_TEST(test_run_completes_writes)
{
    const struct virtx_exit *exit;

    world_gpr()[VIRTX_RBX] = DEVICE;
    expect(TOUCH(DEVICE, VIRTX_WRITE, 0x89, 0x0b), DEVICE, 4, VIRTX_WRITE); /* mov [ebx], ecx */
    virtx_vcpu_kick(world.vcpu);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_KICK);
    ck_assert_uint_eq(rip(), CODE + 2);

    world_gpr()[VIRTX_RBX] = DEVICE + 0xffe; /* the same, over the end of a page */
    expect(TOUCH(DEVICE + 0xffe, VIRTX_WRITE, 0x89, 0x0b), DEVICE + 0xffe, 2, VIRTX_WRITE);
    ck_assert_int_eq(virtx_vcpu_run(world.vcpu, &exit), VIRTX_OK);
    expect(exit, DEVICE + 0x1000, 2, VIRTX_WRITE);
    virtx_vcpu_kick(world.vcpu);
    ck_assert_uint_eq(world_run()->reason, VIRTX_EXIT_KICK);
    ck_assert_uint_eq(rip(), CODE + 2);
}
END_TEST

START_TEST(test_plain_writes)
{
    const struct virtx_exit *exit;

    world_gpr()[VIRTX_RBX] = DEVICE;
    world_gpr()[VIRTX_RCX] = 0x1122334455667788;
    exit = TOUCH(DEVICE + 0x10, VIRTX_WRITE, 0x66, 0x89, 0x4b, 0x10); /* mov [ebx + 16], cx */
    expect(exit, DEVICE + 0x10, 2, VIRTX_WRITE);
    ck_assert_uint_eq(exit->mmio.value, 0x7788);
    answer(0, VIRTX_OK);
    ck_assert_uint_eq(rip(), CODE + 4);
    exit = TOUCH(DEVICE, VIRTX_WRITE, 0x88, 0x2b); /* mov [ebx], ch */
    expect(exit, DEVICE, 1, VIRTX_WRITE);
    ck_assert_uint_eq(exit->mmio.value, 0x77);
    answer(0, VIRTX_OK);
    exit = TOUCH(DEVICE, VIRTX_WRITE, 0xc7, 0x03, 0xef, 0xbe, 0xad, 0xde); /* mov dword [ebx], … */
    expect(exit, DEVICE, 4, VIRTX_WRITE);
    ck_assert_uint_eq(exit->mmio.value, 0xdeadbeef);
    answer(0, VIRTX_OK);
    ck_assert_uint_eq(rip(), CODE + 6);
}
END_TEST

START_TEST(test_read_modify_write)
{
    const struct virtx_exit *exit;

    world_gpr()[VIRTX_RBX] = DEVICE;
    exit = TOUCH(DEVICE + 4, VIRTX_WRITE, 0x83, 0x4b, 0x04, 0x01); /* or dword [ebx + 4], 1 */
    expect(exit, DEVICE + 4, 4, VIRTX_READ);
    answer(0x10, VIRTX_AGAIN);
    expect(exit, DEVICE + 4, 4, VIRTX_WRITE);
    ck_assert_uint_eq(exit->mmio.value, 0x11);
    ck_assert_uint_eq(world.hv->state.rip, CODE); /* not retired by halves */
    answer(0, VIRTX_OK);
    ck_assert_uint_eq(rip(), CODE + 4);
}
END_TEST

START_TEST(test_straddling_two_devices)
{
    const struct virtx_exit *exit;

    /* mov eax, [ebx], three bytes before the end of a page; the processor names the second page. */
    world_gpr()[VIRTX_RBX] = DEVICE + 0xffd;
    exit = TOUCH(DEVICE + 0x1000, VIRTX_READ, 0x8b, 0x03);
    expect(exit, DEVICE + 0xffd, 2, VIRTX_READ);
    answer(0x2211, VIRTX_AGAIN);
    expect(exit, DEVICE + 0xfff, 1, VIRTX_READ);
    answer(0x33, VIRTX_AGAIN);
    expect(exit, DEVICE + 0x1000, 1, VIRTX_READ);
    answer(0x44, VIRTX_OK);
    ck_assert_uint_eq(world_gpr()[VIRTX_RAX], 0x44332211);
    ck_assert_uint_eq(rip(), CODE + 2);
}
END_TEST

START_TEST(test_straddling_memory_and_device)
{
    const struct virtx_exit *exit;
    uint32_t end = WORLD_RAM_BYTES;

    world.ram[end - 2] = 0x11;
    world.ram[end - 1] = 0x22;
    world_gpr()[VIRTX_RBX] = end - 2;
    exit = TOUCH(end, VIRTX_READ, 0x8b, 0x03); /* mov eax, [ebx] */
    expect(exit, end, 2, VIRTX_READ);
    answer(0x4433, VIRTX_OK);
    ck_assert_uint_eq(world_gpr()[VIRTX_RAX], 0x44332211);
    world_gpr()[VIRTX_RAX] = 0x88776655;
    exit = TOUCH(end, VIRTX_WRITE, 0x89, 0x03); /* mov [ebx], eax */
    expect(exit, end, 2, VIRTX_WRITE);
    ck_assert_uint_eq(exit->mmio.value, 0x8877);
    answer(0, VIRTX_OK);
    ck_assert_uint_eq(world.ram[end - 2], 0x55);
    ck_assert_uint_eq(world.ram[end - 1], 0x66);
}
END_TEST

START_TEST(test_device_to_memory_string)
{
    const struct virtx_exit *exit;

    world_gpr()[VIRTX_RSI] = DEVICE;
    world_gpr()[VIRTX_RDI] = 0x2000;
    world_gpr()[VIRTX_RCX] = 2;
    exit = TOUCH(DEVICE, VIRTX_READ, 0xf3, 0xa5); /* rep movsd */
    expect(exit, DEVICE, 4, VIRTX_READ);
    answer(0x11111111, VIRTX_AGAIN);
    expect(exit, DEVICE + 4, 4, VIRTX_READ);
    answer(0x22222222, VIRTX_OK);
    ck_assert_uint_eq(world.ram[0x2003], 0x11);
    ck_assert_uint_eq(world.ram[0x2007], 0x22);
    ck_assert_uint_eq(world_gpr()[VIRTX_RCX], 0);
    ck_assert_uint_eq(world_gpr()[VIRTX_RDI], 0x2008);
    ck_assert_uint_eq(rip(), CODE + 2);
}
END_TEST

START_TEST(test_locked_exchange_on_memory_and_device)
{
    const struct virtx_exit *exit;

    world_gpr()[VIRTX_RBX] = DEVICE;
    world_gpr()[VIRTX_RAX] = 5;
    exit = TOUCH(DEVICE, VIRTX_WRITE, 0x87, 0x03); /* xchg [ebx], eax */
    expect(exit, DEVICE, 4, VIRTX_READ);
    answer(9, VIRTX_AGAIN);
    expect(exit, DEVICE, 4, VIRTX_WRITE);
    ck_assert_uint_eq(exit->mmio.value, 5);
    answer(0, VIRTX_OK);
    ck_assert_uint_eq(world_gpr()[VIRTX_RAX], 9);
}
END_TEST

static unsigned served;

static enum virtx_verdict device(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    (void)vcpu;
    (void)ctx;
    served++;
    if (exit->mmio.access == VIRTX_READ)
        exit->mmio.value = 0x40;
    else
        ck_assert_uint_eq(exit->mmio.value, 0x41);
    return VIRTX_HANDLED;
}

START_TEST(test_handler_serves_device)
{
    const struct virtx_intercept_config config = {.size = sizeof(config),
                                                  .kind = VIRTX_INTERCEPT_MMIO,
                                                  .access = VIRTX_READ | VIRTX_WRITE,
                                                  .first = DEVICE,
                                                  .last = DEVICE + 0xfff,
                                                  .handler = device};
    struct virtx_intercept *out;

    served = 0;
    ck_assert_int_eq(virtx_vm_intercept(world.vm, &config, &out), VIRTX_OK);
    world_gpr()[VIRTX_RBX] = DEVICE;
    ck_assert_uint_eq(TOUCH(DEVICE, VIRTX_READ, 0x8b, 0x03)->reason, VIRTX_EXIT_INTERRUPT);
    ck_assert_uint_eq(world_gpr()[VIRTX_RAX], 0x40);
    ck_assert_uint_eq(TOUCH(DEVICE, VIRTX_WRITE, 0x83, 0x0b, 0x01)->reason, VIRTX_EXIT_INTERRUPT);
    ck_assert_uint_eq(served, 3);
    ck_assert_uint_eq(rip(), CODE + 3);
}
END_TEST

START_TEST(test_code_may_change)
{
    /* The same address, other bytes: what was decoded before must not be believed. */
    world_gpr()[VIRTX_RBX] = DEVICE;
    expect(TOUCH(DEVICE, VIRTX_READ, 0x8b, 0x03), DEVICE, 4, VIRTX_READ);
    answer(1, VIRTX_OK);
    expect(TOUCH(DEVICE, VIRTX_READ, 0x8a, 0x03), DEVICE, 1, VIRTX_READ);
    answer(1, VIRTX_OK);
    expect(TOUCH(DEVICE, VIRTX_READ, 0x66, 0x8b, 0x03), DEVICE, 2, VIRTX_READ);
    answer(1, VIRTX_OK);
    /* Only bytes 7 to 14 differ. */
    expect(TOUCH(DEVICE, VIRTX_WRITE, 0xc7, 0x83, 0, 0, 0, 0, 1, 2, 3, 4), DEVICE, 4, VIRTX_WRITE);
    answer(0, VIRTX_OK);
    expect(TOUCH(DEVICE, VIRTX_WRITE, 0xc7, 0x83, 0, 0, 0, 0, 1, 2, 3, 5), DEVICE, 4, VIRTX_WRITE);
    ck_assert_uint_eq(world.vcpu->exit.mmio.value, 0x05030201);
    answer(0, VIRTX_OK);
}
END_TEST

START_TEST(test_unknown_instruction)
{
    const struct virtx_exit *exit;

    world_gpr()[VIRTX_RBX] = DEVICE;
    exit = TOUCH(DEVICE, VIRTX_READ, 0x0f, 0xfc, 0x03); /* paddb mm0, [ebx] */
    ck_assert_uint_eq(exit->reason, VIRTX_EXIT_EMULATION);
    ck_assert(!exit->pending);
    ck_assert_uint_eq(exit->emulation.gpa, DEVICE);
    ck_assert_uint_eq(exit->emulation.gva, CODE);
    ck_assert_uint_eq(exit->emulation.length, 15);
    ck_assert_uint_eq(exit->emulation.bytes[1], 0xfc);
    ck_assert_uint_eq(rip(), CODE);
}
END_TEST

START_TEST(test_fetch_from_device)
{
    const struct virtx_exit *exit = TOUCH(DEVICE, VIRTX_EXECUTE, 0x90);

    ck_assert_uint_eq(exit->reason, VIRTX_EXIT_EMULATION);
    ck_assert_uint_eq(exit->emulation.length, 0);
}
END_TEST

START_TEST(test_engine_answers)
{
    const struct virtx_exit *exit;

    world.fault_result = VIRTX_FAULT_RESUME;
    exit = TOUCH(0x2000, VIRTX_READ, 0x90);
    ck_assert_uint_eq(exit->reason, VIRTX_EXIT_INTERRUPT);
    ck_assert_uint_eq(rip(), CODE);
    world.fault_result = VIRTX_FAULT_FORBIDDEN;
    exit = TOUCH(0x2000, VIRTX_WRITE, 0x90);
    ck_assert_uint_eq(exit->reason, VIRTX_EXIT_MEMORY);
    ck_assert(!exit->pending);
    ck_assert_uint_eq(exit->memory.gpa, 0x2000);
    ck_assert_uint_eq(exit->memory.access, VIRTX_WRITE);
    ck_assert_uint_eq(exit->memory.rights, VIRTX_READ | VIRTX_WRITE | VIRTX_EXECUTE);
    world.fault_result = VIRTX_FAULT_NO_MEMORY;
    world.at = world.length = 0;
    world_play(exit_fault);
    ck_assert_int_eq(virtx_vcpu_run(world.vcpu, &exit), VIRTX_E_NO_MEMORY);
}
END_TEST

/* Writes that the engine wants executed, as those of page tables: a plain MOV at the address that
 * the engine found, whatever else by the executor; none where the slot forbids it. */
START_TEST(test_engine_wants_it_executed)
{
    const struct virtx_exit *exit;

    world.fault_result = VIRTX_FAULT_EXECUTE;
    world_gpr()[VIRTX_RBX] = 0x2000;
    world_gpr()[VIRTX_RAX] = 0x11223344;
    memset(world.ram + 0x2000, 0xff, 16);
    exit = TOUCH(0x2000, VIRTX_WRITE, 0x89, 0x03); /* mov [ebx], eax */
    ck_assert_uint_eq(exit->reason, VIRTX_EXIT_INTERRUPT);
    ck_assert_uint_eq(rip(), CODE + 2);
    ck_assert_mem_eq(world.ram + 0x2000, "\x44\x33\x22\x11\xff", 5);
    /* A page's first byte may be in the middle of what is written. */
    TOUCH(0x2000, VIRTX_WRITE, 0x66, 0xc7, 0x43, 0x06, 1, 2); /* mov word [ebx + 6], 0x201 */
    ck_assert_uint_eq(rip(), CODE + 6);
    ck_assert_mem_eq(world.ram + 0x2000, "\x44\x33\x22\x11\xff\xff\x01\x02\xff", 9);
    TOUCH(0x2008, VIRTX_WRITE, 0x66, 0xc7, 0x43, 0x08, 3, 4);
    ck_assert_mem_eq(world.ram + 0x2006, "\x01\x02\x03\x04\xff", 5);
    TOUCH(0x2000, VIRTX_WRITE, 0x87, 0x03); /* xchg */
    ck_assert_uint_eq(rip(), CODE + 2);
    ck_assert_uint_eq(world_gpr()[VIRTX_RAX], 0x11223344);
    ck_assert_int_eq(virtx_memslot_protect(world.slot, VIRTX_READ | VIRTX_EXECUTE, NULL), VIRTX_OK);
    world_gpr()[VIRTX_RAX] = 0;
    exit = TOUCH(0x2000, VIRTX_WRITE, 0x89, 0x03);
    ck_assert_uint_eq(exit->reason, VIRTX_EXIT_MEMORY);
    ck_assert_uint_eq(rip(), CODE);
    ck_assert_mem_eq(world.ram + 0x2000, "\x44\x33\x22\x11", 4);
}
END_TEST

START_TEST(test_abandoned_access)
{
    const struct virtx_event mc = {
        .type = VIRTX_EVENT_EXCEPTION, .vector = VECTOR_GP, .has_error = true};
    const struct virtx_exit *exit;

    world_gpr()[VIRTX_RBX] = DEVICE;
    exit = TOUCH(DEVICE, VIRTX_WRITE, 0x83, 0x0b, 0x01); /* or dword [ebx], 1 */
    ck_assert_int_eq(virtx_vcpu_fault(world.vcpu, &mc), VIRTX_OK);
    world.at = world.length = 0;
    world_play(exit_interrupt);
    world_run();
    ck_assert_uint_eq(world.injected[0].vector, VECTOR_GP);
    ck_assert_uint_eq(rip(), CODE);
    /* The next one starts from its own beginning. */
    exit = TOUCH(DEVICE, VIRTX_WRITE, 0x83, 0x23, 0x02); /* and dword [ebx], 2 */
    expect(exit, DEVICE, 4, VIRTX_READ);
    answer(3, VIRTX_AGAIN);
    ck_assert_uint_eq(exit->mmio.value, 2);
    answer(0, VIRTX_OK);
}
END_TEST

/* ---- Strings ---- */

static unsigned unit;
static bool string_in, string_rep;

static void exit_string(struct hw_vcpu *hv)
{
    if (string_in)
        world_in(hv, 0x1f0, unit, 2);
    else
        world_out(hv, 0x1f0, unit, 2);
    hv->vcpu->exit.io.string = 1;
    hv->vcpu->exit.io.rep = string_rep;
}

static const struct virtx_exit *play_string(void)
{
    world.at = world.length = 0;
    world_play(exit_string);
    return world_run();
}

static const struct virtx_exit *string(const void *code, size_t length, bool in, bool rep,
                                       unsigned size)
{
    world_code(CODE, code, length);
    string_in = in;
    string_rep = rep;
    unit = size;
    return play_string();
}

START_TEST(test_rep_outs_in_batches)
{
    const struct virtx_exit *exit;

    for (unsigned i = 0; i < 300; i++)
        world.ram[0x2000 + i] = (uint8_t)(i * 7);
    world_gpr()[VIRTX_RSI] = 0x2000;
    world_gpr()[VIRTX_RCX] = 300;
    exit = string("\xf3\x6e", 2, false, true, 1); /* rep outsb */
    ck_assert_uint_eq(exit->reason, VIRTX_EXIT_IO);
    ck_assert_uint_eq(exit->io.count, VIRTX_IO_BATCH);
    ck_assert_mem_eq(exit->io.data, world.ram + 0x2000, VIRTX_IO_BATCH);
    ck_assert_int_eq(virtx_vcpu_complete(world.vcpu, NULL), VIRTX_OK);
    ck_assert_uint_eq(world_gpr()[VIRTX_RCX], 300 - VIRTX_IO_BATCH);
    ck_assert_uint_eq(world_gpr()[VIRTX_RSI], 0x2000 + VIRTX_IO_BATCH);
    ck_assert_uint_eq(rip(), CODE); /* the rest executes, and exits, again */
    exit = play_string();
    ck_assert_uint_eq(exit->io.count, 300 - VIRTX_IO_BATCH);
    ck_assert_mem_eq(exit->io.data, world.ram + 0x2000 + VIRTX_IO_BATCH, 300 - VIRTX_IO_BATCH);
    ck_assert_int_eq(virtx_vcpu_complete(world.vcpu, NULL), VIRTX_OK);
    ck_assert_uint_eq(world_gpr()[VIRTX_RCX], 0);
    ck_assert_uint_eq(rip(), CODE + 2);
}
END_TEST

START_TEST(test_ins_backwards)
{
    struct virtx_state state;
    const struct virtx_exit *exit;
    const uint16_t words[3] = {0x1111, 0x2222, 0x3333};

    world_get(VIRTX_STATE_RFLAGS, &state);
    state.rflags |= RFLAGS_DF;
    world_set(VIRTX_STATE_RFLAGS, &state);
    world_gpr()[VIRTX_RDI] = 0x2004;
    world_gpr()[VIRTX_RCX] = 0xffff0003; /* address size 16 bits: CX counts, DI points */
    exit = string("\x67\xf3\x66\x6d", 4, true, true, 2);
    ck_assert_uint_eq(exit->io.count, 3);
    ck_assert_int_eq(virtx_vcpu_complete(world.vcpu, words), VIRTX_OK);
    ck_assert_uint_eq(world.ram[0x2004], 0x11);
    ck_assert_uint_eq(world.ram[0x2002], 0x22);
    ck_assert_uint_eq(world.ram[0x2000], 0x33);
    ck_assert_uint_eq(world_gpr()[VIRTX_RDI], 0x1ffe);
    ck_assert_uint_eq(world_gpr()[VIRTX_RCX], 0xffff0000);
    ck_assert_uint_eq(rip(), CODE + 4);
}
END_TEST

START_TEST(test_rep_with_count_zero)
{
    world_gpr()[VIRTX_RCX] = 0;
    ck_assert_uint_eq(string("\xf3\x6e", 2, false, true, 1)->reason, VIRTX_EXIT_INTERRUPT);
    ck_assert_uint_eq(rip(), CODE + 2);
}
END_TEST

START_TEST(test_segment_limit)
{
    struct virtx_state state;

    world_get(VIRTX_STATE_SEG, &state);
    state.seg[VIRTX_DS].limit = 0x20ff;
    state.seg[VIRTX_DS].attributes &= ~(uint32_t)VIRTX_SEG_G;
    world_set(VIRTX_STATE_SEG, &state);
    world_gpr()[VIRTX_RSI] = 0x20fe;
    world_gpr()[VIRTX_RCX] = 4;
    ck_assert_uint_eq(string("\xf3\x6e", 2, false, true, 1)->io.count, 2); /* as far as it goes */
    ck_assert_int_eq(virtx_vcpu_complete(world.vcpu, NULL), VIRTX_OK);
    world.injections = 0;
    play_string();
    ck_assert_uint_eq(world.injections, 1);
    ck_assert_uint_eq(world.injected[0].vector, VECTOR_GP);
    ck_assert_uint_eq(world_gpr()[VIRTX_RCX], 2);
    ck_assert_uint_eq(rip(), CODE);
}
END_TEST

/* 32-bit paging: linear 0 to 4 MiB onto itself but for one page. */
static void paging_without(uint32_t page)
{
    struct virtx_state state;
    uint32_t entry;

    for (uint32_t i = 0; i < 1024; i++) {
        entry = i * 4096 | (i == page ? 0 : 3);
        memcpy(world.ram + 0x9000 + 4 * i, &entry, 4);
    }
    entry = 0x9000 | 3;
    memcpy(world.ram + 0x8000, &entry, 4);
    world_get(VIRTX_STATE_CR, &state);
    state.cr3 = 0x8000;
    state.cr0 |= CR0_PG;
    world_set(VIRTX_STATE_CR, &state);
}

/* Points one linear page at a device. */
static void map_device(uint32_t page)
{
    uint32_t entry = DEVICE | 3;

    memcpy(world.ram + 0x9000 + 4 * page, &entry, 4);
}

START_TEST(test_nothing_is_written_when_a_half_faults)
{
    paging_without(6);
    map_device(5);
    world_gpr()[VIRTX_RBX] = 0x5ffe;
    ck_assert_uint_eq(TOUCH(DEVICE + 0xffe, VIRTX_WRITE, 0x89, 0x03)->reason, /* mov [ebx], eax */
                      VIRTX_EXIT_INTERRUPT);
    ck_assert_uint_eq(world.injections, 1);
    ck_assert_uint_eq(world.injected[0].vector, VECTOR_PF);
    ck_assert_uint_eq(world.injected[0].error, PF_WRITE);
    ck_assert_uint_eq(world.hv->state.cr2, 0x6000);
}
END_TEST

START_TEST(test_page_fault_in_outs)
{
    paging_without(3);
    world_gpr()[VIRTX_RSI] = 0x2ffe;
    world_gpr()[VIRTX_RCX] = 8;
    ck_assert_uint_eq(string("\xf3\x6e", 2, false, true, 1)->io.count, 2);
    ck_assert_int_eq(virtx_vcpu_complete(world.vcpu, NULL), VIRTX_OK);
    play_string();
    ck_assert_uint_eq(world.injections, 1);
    ck_assert_uint_eq(world.injected[0].vector, VECTOR_PF);
    ck_assert_uint_eq(world.injected[0].error, 0); /* a supervisor's read of an absent page */
    ck_assert_uint_eq(world.hv->state.cr2, 0x3000);
    ck_assert_uint_eq(world_gpr()[VIRTX_RCX], 6);
}
END_TEST

START_TEST(test_page_fault_in_ins_comes_before_the_port)
{
    paging_without(2);
    world_gpr()[VIRTX_RDI] = 0x2000;
    ck_assert_uint_eq(string("\x6c", 1, true, false, 1)->reason, VIRTX_EXIT_INTERRUPT);
    ck_assert_uint_eq(world.injected[0].vector, VECTOR_PF);
    ck_assert_uint_eq(world.injected[0].error, PF_WRITE);
    ck_assert_uint_eq(rip(), CODE);
}
END_TEST

START_TEST(test_instruction_bytes_unmapped)
{
    /* The instruction straddles into a page that is gone when the library looks at it. */
    uint8_t code[] = {0x8b, 0x83, 0, 0, 0, 0};

    paging_without(2);
    world_code(0x1ffe, code, sizeof(code));
    world_gpr()[VIRTX_RBX] = DEVICE;
    fault_gpa = DEVICE;
    fault_access = VIRTX_READ;
    world_play(exit_fault);
    world_run();
    ck_assert_uint_eq(world.injections, 1);
    ck_assert_uint_eq(world.injected[0].vector, VECTOR_PF);
    ck_assert_uint_eq(world.hv->state.cr2, 0x2000);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("hw_memory");
    TCase *c = tcase_create("memory");

    tcase_add_checked_fixture(c, begin, world_end);
    tcase_add_test(c, test_plain_reads);
    tcase_add_test(c, test_plain_writes);
    tcase_add_test(c, test_run_completes_writes);
    tcase_add_test(c, test_read_modify_write);
    tcase_add_test(c, test_straddling_two_devices);
    tcase_add_test(c, test_straddling_memory_and_device);
    tcase_add_test(c, test_device_to_memory_string);
    tcase_add_test(c, test_locked_exchange_on_memory_and_device);
    tcase_add_test(c, test_handler_serves_device);
    tcase_add_test(c, test_code_may_change);
    tcase_add_test(c, test_unknown_instruction);
    tcase_add_test(c, test_fetch_from_device);
    tcase_add_test(c, test_engine_answers);
    tcase_add_test(c, test_engine_wants_it_executed);
    tcase_add_test(c, test_abandoned_access);
    tcase_add_test(c, test_rep_outs_in_batches);
    tcase_add_test(c, test_ins_backwards);
    tcase_add_test(c, test_rep_with_count_zero);
    tcase_add_test(c, test_segment_limit);
    tcase_add_test(c, test_nothing_is_written_when_a_half_faults);
    tcase_add_test(c, test_page_fault_in_outs);
    tcase_add_test(c, test_page_fault_in_ins_comes_before_the_port);
    tcase_add_test(c, test_instruction_bytes_unmapped);
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
