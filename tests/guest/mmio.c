/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory that is a device: sizes, forms of instructions, accesses that straddle. */
#include "guest_memory.h"
#include "memory_forms.h"

/* ---- Devices: sizes, forms, straddling ---- */

static uint8_t pattern(unsigned i)
{
    return (uint8_t)(0x10 + 7 * i);
}

#define DECLARE_FORM(name, undefined, text)                                                        \
    void form_##name(uint64_t base, uint64_t *out);                                                \
    __asm__(".text\nform_" #name ": call form_enter\n" text "\njmp form_leave\n");
FORMS(DECLARE_FORM)

static const struct form {
    const char *name;
    void (*fn)(uint64_t base, uint64_t *out);
    uint64_t undefined;
} forms[] = {
#define LIST_FORM(name, undefined, text) {#name, form_##name, undefined},
    FORMS(LIST_FORM)};

static uint64_t on_ram[8], on_device[8];

static void guest_form(uint64_t index)
{
    forms[index].fn(GUEST_MEMORY, on_ram);
    forms[index].fn(GUEST_HOLE, on_device);
    guest_done(0);
}

static void mmio_forms(void)
{
    static const char *const names[] = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rflags"};
    unsigned bad = 0;

    machine_open();
    for (unsigned i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        for (unsigned j = 0; j < 256; j++)
            machine.ram[j] = device[j] = pattern(j);
        guest_prepare(guest_form, i);
        bool good = serve_device();
        on_ram[6] &= ~forms[i].undefined;
        on_device[6] &= ~forms[i].undefined;
        for (unsigned j = 0; j < 7; j++) {
            if (on_ram[j] != on_device[j]) {
                bare_printf("  %s: %s 0x%lx, the processor gives 0x%lx\n", forms[i].name, names[j],
                            on_device[j], on_ram[j]);
                good = false;
            }
        }
        if (memcmp(machine.ram, device, 256) != 0) {
            bare_printf("  %s: other memory content\n", forms[i].name);
            good = false;
        }
        bad += !good;
    }
    CHECK_EQUAL(bad, 0);
}

static void guest_sizes(uint64_t gva)
{
    __asm__ volatile("movb $1, (%0); movw $2, 2(%0); movl $3, 4(%0); movq $4, 8(%0);"
                     "movb (%0), %%al; movw 2(%0), %%ax; movl 4(%0), %%eax; movq 8(%0), %%rax"
                     :
                     : "r"(gva)
                     : "rax", "memory");
    guest_done(0);
}

static void mmio_sizes(void)
{
    machine_open();
    guest_prepare(guest_sizes, GUEST_HOLE + 0x100);
    for (unsigned i = 0; i < 8; i++) {
        if (!CHECK(EXPECT_EXIT(VIRTX_EXIT_MMIO)))
            return;
        unsigned size = 1u << i % 4, offset = size == 1 ? 0 : size;
        CHECK(machine.exit->pending);
        CHECK_EQUAL(machine.exit->mmio.size, size);
        CHECK_EQUAL(machine.exit->mmio.gpa, GUEST_HOLE + 0x100 + offset);
        CHECK_EQUAL(machine.exit->mmio.access, i < 4 ? VIRTX_WRITE : VIRTX_READ);
        if (i < 4)
            CHECK_EQUAL(machine.exit->mmio.value, i + 1);
        CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
    }
    GUEST_CONTINUE();
}

static volatile uint64_t straddle_read;

static void guest_straddles(uint64_t gva)
{
    straddle_read = read64(gva);
    write64(gva, 0x0807060504030201);
    guest_done(0);
}

static void straddle(void)
{
    machine_open();
    /* RAM's last page maps in front of the device's page. */
    *guest_pte(0x70000000) = (GUEST_MEMORY + GUEST_MEMORY_BYTES - PAGE) | PTE;
    *guest_pte(0x70001000) = GUEST_HOLE | PTE;
    uint8_t *end = machine.ram + GUEST_MEMORY_BYTES;
    for (unsigned i = 0; i < 16; i++) {
        end[-1 - (int)i] = 0xa0;
        device[i] = 0xd0;
    }
    guest_prepare(guest_straddles, 0x70000ffd);
    CHECK(serve_device());
    CHECK_EQUAL(straddle_read, 0xd0d0d0d0d0a0a0a0);
    for (int i = 1; i <= 4; i++)
        CHECK_EQUAL(end[-i], i < 4 ? 4 - i : 0xa0);
    for (unsigned i = 0; i < 6; i++)
        CHECK_EQUAL(device[i], i < 5 ? 4 + i : 0xd0);
}

static void straddle_to_ram(void)
{
    machine_open();
    *guest_pte(0x70000000) = GUEST_HOLE | PTE;
    *guest_pte(0x70001000) = GUEST_MEMORY | PTE;
    memset(machine.ram, 0xa0, 16);
    memset(device, 0xd0, sizeof(device));
    guest_prepare(guest_straddles, 0x70000ffd);
    CHECK(serve_device());
    CHECK_EQUAL(straddle_read, 0xa0a0a0a0a0d0d0d0);
    CHECK_EQUAL(machine.ram[0], 4);
    CHECK_EQUAL(machine.ram[4], 8);
    CHECK_EQUAL(machine.ram[5], 0xa0);
    CHECK_EQUAL(device[0xffc], 0xd0);
    CHECK_EQUAL(device[0xffd], 1);
    CHECK_EQUAL(device[0xfff], 3);
}

/* A write of which one page faults in the guest's tables: no byte is written, the guest gets #PF.
 */
static volatile int straddle_vector;

static void guest_straddles_fault(uint64_t gva)
{
    straddle_vector = GUEST_TRY("movq %%rax, (%0)", : "r"(gva), "a"(-1ul) : "memory");
    guest_done(guest_trap.cr2 & 0xffff);
}

static void straddle_fault(void)
{
    machine_open();
    *guest_pte(0x70000000) = GUEST_HOLE | PTE;
    *guest_pte(0x70001000) = 0;
    memset(device, 0xd0, sizeof(device));
    guest_prepare(guest_straddles_fault, 0x70000ffd);
    CHECK(serve_device());
    CHECK_EQUAL(straddle_vector, 14);
    CHECK_EQUAL(guest_trap.cr2, 0x70001000);
    CHECK_EQUAL(guest_trap.error, 2);
    CHECK_EQUAL(device[0xffd], 0xd0);
}

GUEST_CASES({"mmio-sizes", mmio_sizes}, {"mmio-instruction-forms", mmio_forms},
            {"ram-then-mmio-in-one-access", straddle},
            {"mmio-then-ram-in-one-access", straddle_to_ram},
            {"straddling-write-faults-as-a-whole", straddle_fault});
