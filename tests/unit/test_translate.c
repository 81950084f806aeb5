/* SPDX-License-Identifier: BSD-2-Clause */
/* Guest linear memory for the embedder: modes, rights, pages that are not there. The walks
 * themselves are judged by test_walk. */
#include "fake.h"
#include "x86/defs.h"

#include <stdlib.h>
#include <string.h>

#define P  1ull
#define RW 2ull
#define US 4ull

static struct virtx *virtx;
static struct virtx_vm *vm;
static struct virtx_vcpu *vcpu;
static uint8_t *memory;
static struct virtx_state *state;

static void entry(uint64_t table, unsigned index, uint64_t value)
{
    memcpy(memory + table + index * 8, &value, 8);
}

/* 16 pages at 0: tables at 0x1000-0x4000; linear 0x400000: pages 0x8000 (user), 0x9000
 * (supervisor), 0xa000 (read-only), then nothing, then 0x100000, where no memory is. */
static void begin(void)
{
    virtx = fake_open();
    vm = fake_vm(virtx);
    vcpu = fake_vcpu(vm, 0);
    memory = fake_memory(16);
    fake_slot(vm, 0, 16, memory);
    entry(0x1000, 0, 0x2000 | P | RW | US);
    entry(0x2000, 0, 0x3000 | P | RW | US);
    entry(0x3000, 2, 0x4000 | P | RW | US);
    entry(0x4000, 0, 0x8000 | P | RW | US);
    entry(0x4000, 1, 0x9000 | P | RW);
    entry(0x4000, 2, 0xa000 | P | US);
    entry(0x4000, 4, 0x100000 | P | RW | US);
    entry(0x1000, 256, 0x200000 | P | RW | US); /* a table that is not in memory */
    state = &fake_of(vcpu)->state;
    state->cr0 = CR0_PE | CR0_PG | CR0_WP;
    state->cr3 = 0x1000;
    state->cr4 = CR4_PAE;
    state->efer = EFER_LME | EFER_LMA;
}

static void end(void)
{
    ck_assert_int_eq(virtx_vcpu_destroy(vcpu), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_destroy(vm), VIRTX_OK);
    fake_close(virtx);
    free(memory);
}

START_TEST(translations)
{
    struct virtx_translation t;

    begin();
    ck_assert_int_eq(virtx_vcpu_translate(vcpu, 0x400123, VIRTX_WRITE, true, &t), VIRTX_OK);
    ck_assert_uint_eq(t.gpa, 0x8123);
    ck_assert_uint_eq(t.bytes, 0x1000);
    ck_assert_int_eq(virtx_vcpu_translate(vcpu, 0x401000, VIRTX_READ, true, &t), VIRTX_E_FAULT);
    fake_error(virtx_vcpu_last_error(vcpu), VIRTX_E_FAULT, "gva");
    ck_assert_uint_eq(t.error, 5); /* present, user, read */
    ck_assert_int_eq(virtx_vcpu_translate(vcpu, 0x401000, VIRTX_READ, false, &t), VIRTX_OK);
    ck_assert_uint_eq(t.gpa, 0x9000);
    ck_assert_int_eq(virtx_vcpu_translate(vcpu, 0x402000, VIRTX_WRITE, false, &t), VIRTX_E_FAULT);
    ck_assert_uint_eq(t.error, 3);
    ck_assert_int_eq(virtx_vcpu_translate(vcpu, 0x403000, VIRTX_WRITE, false, &t), VIRTX_E_FAULT);
    ck_assert_uint_eq(t.error, 2);
    ck_assert_int_eq(virtx_vcpu_translate(vcpu, 0x404000, VIRTX_WRITE, false, &t), VIRTX_OK);
    ck_assert_uint_eq(t.gpa, 0x100000); /* whether memory is there is another question */
    t.gpa = 99;
    ck_assert_int_eq(virtx_vcpu_translate(vcpu, 0xffff800000000000, VIRTX_READ, false, &t),
                     VIRTX_E_NOT_FOUND);
    ck_assert_int_eq(virtx_vcpu_translate(vcpu, 0x800000000000, VIRTX_READ, false, &t),
                     VIRTX_E_RANGE);
    fake_error(virtx_vcpu_last_error(vcpu), VIRTX_E_RANGE, "gva");
    ck_assert_uint_eq(t.gpa, 99);
    /* No accessed flag was set anywhere. */
    ck_assert_uint_eq(memory[0x4000] & 0x20, 0);
    ck_assert(!vcpu->running);

    /* Without paging; the address has 32 bits. */
    state->cr0 = CR0_PE;
    state->efer = 0;
    ck_assert_int_eq(virtx_vcpu_translate(vcpu, 0xfffff123, VIRTX_WRITE, false, &t), VIRTX_OK);
    ck_assert_uint_eq(t.gpa, 0xfffff123);
    ck_assert_uint_eq(t.bytes, 0x1000);
    ck_assert_int_eq(virtx_vcpu_translate(vcpu, 0x100000000, VIRTX_WRITE, false, &t),
                     VIRTX_E_RANGE);
    /* The backend's own failure comes through. */
    fake.fail_op = "get";
    fake.fail_status = VIRTX_E_HARDWARE;
    ck_assert_int_eq(virtx_vcpu_translate(vcpu, 0, VIRTX_READ, false, &t), VIRTX_E_HARDWARE);
    fake.fail_op = NULL;
    end();
}
END_TEST

START_TEST(copies)
{
    struct virtx_translation fault = {0};
    uint8_t out[64], in[64];

    begin();
    for (unsigned i = 0; i < 64; i++)
        in[i] = (uint8_t)(i + 1);
    /* CPL 0: across the first two pages. */
    ck_assert_int_eq(virtx_vcpu_write(vcpu, 0x400fe0, in, 64, &fault), VIRTX_OK);
    ck_assert_mem_eq(memory + 0x8fe0, in, 32);
    ck_assert_mem_eq(memory + 0x9000, in + 32, 32);
    ck_assert_int_eq(virtx_vcpu_read(vcpu, 0x400fe0, out, 64, NULL), VIRTX_OK);
    ck_assert_mem_eq(out, in, 64);

    /* A fault on the second page: nothing is written on the first. */
    memset(memory + 0x9fe0, 0, 32);
    ck_assert_int_eq(virtx_vcpu_write(vcpu, 0x401fe0, in, 64, &fault), VIRTX_E_FAULT);
    ck_assert_uint_eq(fault.error, 3);
    ck_assert_uint_eq(memory[0x9fe0], 0);
    ck_assert_int_eq(virtx_vcpu_read(vcpu, 0x402fe0, out, 64, &fault), VIRTX_E_FAULT);
    ck_assert_uint_eq(fault.error, 0);
    /* Mapped, but to no memory. */
    ck_assert_int_eq(virtx_vcpu_read(vcpu, 0x404000, out, 1, &fault), VIRTX_E_NOT_FOUND);
    ck_assert_int_eq(virtx_vcpu_write(vcpu, 0x404000, in, 1, &fault), VIRTX_E_NOT_FOUND);

    /* Nothing to copy to or from. */
    ck_assert_int_eq(virtx_vcpu_read(vcpu, 0x400fe0, NULL, 8, &fault), VIRTX_E_INVALID);
    ck_assert_str_eq(virtx_vcpu_last_error(vcpu)->what, "buffer");
    ck_assert_int_eq(virtx_vcpu_write(vcpu, 0x400fe0, NULL, 8, &fault), VIRTX_E_INVALID);
    ck_assert_int_eq(virtx_vcpu_read(vcpu, 0x400fe0, NULL, 0, &fault), VIRTX_OK);

    /* CPL 3 reaches user pages only. */
    state->seg[VIRTX_SS].attributes = 3u << VIRTX_SEG_DPL_SHIFT;
    ck_assert_int_eq(virtx_vcpu_read(vcpu, 0x400000, out, 64, &fault), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_read(vcpu, 0x400fe0, out, 64, &fault), VIRTX_E_FAULT);
    ck_assert_uint_eq(fault.error, 5);
    state->seg[VIRTX_SS].attributes = 0;

    /* An access that waits to be completed is no obstacle: the loop may need the guest's memory. */
    vcpu->exit.pending = true;
    ck_assert_int_eq(virtx_vcpu_read(vcpu, 0x400000, out, 64, &fault), VIRTX_OK);
    vcpu->exit.pending = false;

    /* The 32-bit address space wraps. */
    state->cr0 = CR0_PE;
    state->efer = 0;
    fake_slot(vm, 0xfffff000, 1, memory + 0xf000);
    ck_assert_int_eq(virtx_vcpu_write(vcpu, 0xffffffe0, in, 64, &fault), VIRTX_OK);
    ck_assert_mem_eq(memory + 0xffe0, in, 32);
    ck_assert_mem_eq(memory, in + 32, 32);
    end();
}
END_TEST

START_TEST(read_only_memory)
{
    struct virtx_memslot_config config = {.size = sizeof(config),
                                          .rights = VIRTX_READ,
                                          .type = VIRTX_MEMORY_WB,
                                          .gpa = 0x100000,
                                          .bytes = 0x1000};
    uint8_t byte = 9;

    begin();
    config.memory = memory + 0xf000;
    ck_assert_int_eq(virtx_memslot_add(vm, &config, NULL), VIRTX_OK);
    ck_assert_int_eq(virtx_vcpu_read(vcpu, 0x404000, &byte, 1, NULL), VIRTX_OK);
    byte = 9;
    ck_assert_int_eq(virtx_vcpu_write(vcpu, 0x404000, &byte, 1, NULL), VIRTX_E_NOT_FOUND);
    ck_assert_uint_eq(memory[0xf000], 0);
    end();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("translate");
    TCase *tests = fake_case(suite, "translate");

    tcase_add_test(tests, translations);
    tcase_add_test(tests, copies);
    tcase_add_test(tests, read_only_memory);
    return fake_main(suite);
}
