/* SPDX-License-Identifier: BSD-2-Clause */
/* What every program of the library leans on: rings, registers, the first exits. */
#include "harness.h"

uint64_t registers_survive(uint64_t seed, uint64_t rounds);
uint64_t guarded_call(uint64_t (*fn)(void *), void *argument, uint64_t *result);
extern const char mode16[], mode16_end[], mode32[], mode32_end[], device16[], device16_end[];

/* ---- The first guest ---- */

static void guest_hello(uint64_t argument)
{
    guest_done(argument + 1);
}

static void hello(void)
{
    machine_open();
    CHECK_EQUAL(GUEST_RESULT(guest_hello, 41), 42);
    CHECK(machine.exit->length == 1 || machine.exit->length == 0);
}

/* ---- Rings ---- */

static volatile uint16_t user_cs, user_ss;
static volatile int user_fault;

static void in_ring3(uint64_t argument)
{
    uint16_t ss;

    (void)argument;
    user_cs = guest_cs();
    __asm__ volatile("movw %%ss, %0" : "=r"(ss));
    user_ss = ss;
    user_fault = GUEST_TRY("hlt");
}

static void guest_rings(uint64_t ring)
{
    const uint64_t dpl = 3ull << 45;

    guest_gdt[GUEST_USER_CODE / 8] = (guest_gdt[GUEST_USER_CODE / 8] & ~dpl) | ring << 45;
    guest_gdt[GUEST_USER_DATA / 8] = (guest_gdt[GUEST_USER_DATA / 8] & ~dpl) | ring << 45;
    guest_ring(in_ring3, 0, ring);
    guest_done(guest_cs());
}

static void rings(void)
{
    machine_open();
    for (uint64_t ring = 1; ring <= 3; ring++) {
        CHECK_EQUAL(GUEST_RESULT(guest_rings, ring), GUEST_CODE);
        CHECK_EQUAL(user_cs & 3, ring);
        CHECK_EQUAL(user_ss & 3, ring);
        CHECK_EQUAL(user_fault, 13); /* HLT is privileged: #GP */
    }
    CHECK_EQUAL(guest_state().seg[VIRTX_CS].attributes >> VIRTX_SEG_DPL_SHIFT & 3, 0);
}

/* Ring aliasing: a kernel that looks at its own CS sees ring 0. */
static void guest_push_cs(uint64_t argument)
{
    uint64_t cs = argument;

    __asm__ volatile("movw %%cs, %w0; pushq %0; popq %0" : "+r"(cs));
    guest_done(cs & 3);
}

static void ring_aliasing(void)
{
    machine_open();
    CHECK_EQUAL(GUEST_RESULT(guest_push_cs, 0), 0);
}

/* ---- Registers ---- */

enum { ROUNDS = 200 };

static void guest_registers(uint64_t seed)
{
    guest_done(registers_survive(seed, ROUNDS));
}

static void two_vcpus(void)
{
    machine_open();
    struct virtx_vcpu *vcpus[2] = {machine.vcpu, vcpu_make(machine.vm, 1)};
    bool done[2] = {false, false};
    uint64_t marks[2] = {0, 0};

    vcpu_prepare(vcpus[0], 0, guest_registers, 0x1111111111110000);
    vcpu_prepare(vcpus[1], 1, guest_registers, 0x2222222222220000);
    for (unsigned turn = 0; turn < 4 * ROUNDS && !(done[0] && done[1]); turn++) {
        unsigned i = turn % 2;
        if (done[i])
            continue;
        const struct virtx_exit *exit = vcpu_run(vcpus[i]);
        if (!CHECK_EQUAL(exit->reason, VIRTX_EXIT_IO))
            break;
        if (exit->io.port == PORT_DONE) {
            CHECK_EQUAL(exit->io.value, 0);
            done[i] = true;
        } else {
            CHECK_EQUAL(exit->io.value, i == 0 ? 0x11110000 : 0x22220000);
            CHECK_EQUAL(virtx_vcpu_gpr(vcpus[i])[VIRTX_R15],
                        (i == 0 ? 0x1111111111110000 : 0x2222222222220000) + 14);
            marks[i]++;
        }
        CHECK_OK(virtx_vcpu_complete(vcpus[i], NULL));
    }
    CHECK(done[0] && done[1]);
    CHECK_EQUAL(marks[0], ROUNDS);
    CHECK_EQUAL(marks[1], ROUNDS);
    CHECK_OK(virtx_vcpu_destroy(vcpus[1]));
}

static void guest_marks(uint64_t count)
{
    while (count-- > 0)
        guest_mark(count);
    guest_done(7);
}

static uint64_t run_once(void *argument)
{
    const struct virtx_exit *exit;
    enum virtx_status status = virtx_vcpu_run(argument, &exit);

    if (status == VIRTX_OK && exit->pending)
        status = virtx_vcpu_complete(argument, NULL);
    return status;
}

static void host_registers(void)
{
    uint64_t changed = 0, bad = 0;

    machine_open();
    guest_prepare(guest_marks, 10000);
    uint64_t cr0 = bare_read_cr0(), cr3 = bare_read_cr3(), cr4 = bare_read_cr4();
    for (unsigned i = 0; i < 10000; i++) {
        uint64_t status = 0;
        changed += guarded_call(run_once, machine.vcpu, &status);
        bad += status != VIRTX_OK;
    }
    CHECK_EQUAL(changed, 0);
    CHECK_EQUAL(bad, 0);
    CHECK_EQUAL(bare_read_cr0(), cr0);
    CHECK_EQUAL(bare_read_cr3(), cr3);
    CHECK_EQUAL(bare_read_cr4(), cr4);
    CHECK_EQUAL(GUEST_CONTINUE(), 7);
}

/* ---- CPUID ---- */

static struct bare_cpuid leaf_0, leaf_1, leaf_ext;
static uint64_t upper_halves;

static void guest_cpuid(uint64_t argument)
{
    uint64_t a = 0xffffffff00000000, b = a, c = a, d = a;

    (void)argument;
    leaf_0 = bare_cpuid(0, 0);
    leaf_1 = bare_cpuid(1, 0);
    leaf_ext = bare_cpuid(0x80000001, 0);
    __asm__ volatile("cpuid" : "+a"(a), "+b"(b), "+c"(c), "+d"(d));
    upper_halves = (a | b | c | d) >> 32;
    guest_done(0);
}

static void cpuid(void)
{
    struct bare_cpuid host = bare_cpuid(0, 0);
    struct virtx_cpuid_entry policy;

    machine_open();
    CHECK_EQUAL(GUEST_RESULT(guest_cpuid, 0), 0);
    CHECK_EQUAL(leaf_0.ebx, host.ebx); /* the vendor's name */
    CHECK_EQUAL(leaf_0.ecx, host.ecx);
    CHECK_EQUAL(leaf_0.edx, host.edx);
    CHECK_EQUAL(leaf_1.ecx >> 5 & 1, 0);                            /* VMX is not virtualized */
    CHECK_EQUAL(leaf_ext.ecx >> 2 & 1, 0);                          /* SVM neither */
    CHECK_EQUAL(leaf_1.ebx >> 24, 0);                               /* initial APIC ID */
    CHECK_EQUAL(leaf_1.ecx >> 27 & 1, guest_state().cr4 >> 18 & 1); /* OSXSAVE mirrors CR4 */
    CHECK_EQUAL(leaf_1.edx >> 6 & 1, 1); /* PAE: any 64-bit processor has it */
    CHECK_EQUAL(upper_halves, 0);
    CHECK_OK(virtx_vm_cpuid_get(machine.vm, 1, 0, &policy));
    CHECK_EQUAL(policy.eax, leaf_1.eax);
}

static void guest_apic_id(uint64_t argument)
{
    (void)argument;
    guest_done(bare_cpuid(1, 0).ebx >> 24);
}

static void cpuid_apic_id(void)
{
    uint64_t id = 0;

    machine_open();
    struct virtx_vcpu *vcpu = vcpu_make(machine.vm, 5);
    vcpu_prepare(vcpu, 1, guest_apic_id, 0);
    CHECK(vcpu_continue(vcpu, &id));
    CHECK_EQUAL(id, 5);
    CHECK_OK(virtx_vcpu_destroy(vcpu));
}

static void cpuid_policy(void)
{
    struct virtx_cpuid_entry entry = {.leaf = 0x40000000, .eax = 0x40000001, .ebx = 0x74726976};

    machine_open_library();
    machine.ram = bare_pages_alloc(GUEST_MEMORY_BYTES / 4096, 512);
    CHECK_OK(virtx_vm_create(machine.virtx, NULL, &machine.vm));
    CHECK_OK(virtx_vm_cpuid_set(machine.vm, &entry));
    machine.vcpu = vcpu_make(machine.vm, 0);
    struct virtx_cpuid_entry vendor;
    CHECK_OK(virtx_vm_cpuid_get(machine.vm, 0, 0, &vendor));
    vendor.ebx++;
    CHECK_STATUS(virtx_vm_cpuid_set(machine.vm, &vendor), VIRTX_E_BUSY);
    memset(&entry, 0, sizeof(entry));
    CHECK_OK(virtx_vm_cpuid_get(machine.vm, 0x40000000, 0, &entry));
    CHECK_EQUAL(entry.ebx, 0x74726976);
}

/* ---- HLT, shutdown ---- */

static void guest_hlt(uint64_t argument)
{
    (void)argument;
    guest_handler[0x50] = guest_ignore;
    __asm__ volatile(".globl after_hlt; sti; hlt; after_hlt: cli");
    guest_done(guest_vector_count[0x50]);
}

static void hlt(void)
{
    extern const char after_hlt[];
    struct virtx_event event = {.type = VIRTX_EVENT_INTERRUPT, .vector = 0x50};

    machine_open();
    guest_prepare(guest_hlt, 0);
    CHECK(EXPECT_EXIT(VIRTX_EXIT_HLT));
    CHECK(!machine.exit->pending);
    CHECK_EQUAL(guest_state().rip, (uintptr_t)after_hlt);
    CHECK_EQUAL(guest_state().activity, VIRTX_HALTED);
    CHECK(!virtx_vcpu_wakeable(machine.vcpu));
    uint64_t before = guest_exits();
    CHECK(EXPECT_EXIT(VIRTX_EXIT_HLT)); /* still halted */
    CHECK_EQUAL(guest_exits() - before, 0);
    CHECK_OK(virtx_vcpu_inject(machine.vcpu, &event));
    CHECK(virtx_vcpu_wakeable(machine.vcpu));
    CHECK_EQUAL(GUEST_CONTINUE(), 1);
    CHECK_EQUAL(guest_trap.rip, (uintptr_t)after_hlt);
}

static void guest_triple_fault(uint64_t argument)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) no_idt = {0, 0};

    (void)argument;
    __asm__ volatile("lidt %0; ud2" : : "m"(no_idt));
}

static void triple_fault(void)
{
    machine_open();
    if (engine_is("bochs") && backend_is("svm")) {
        not_shown("Bochs resets the machine at a triple fault before it looks at SVM's intercept");
        return;
    }
    guest_prepare(guest_triple_fault, 0);
    CHECK(EXPECT_EXIT(VIRTX_EXIT_SHUTDOWN));
    CHECK(!machine.exit->pending);
    CHECK_EQUAL(guest_state().activity, VIRTX_SHUTDOWN);
    CHECK(EXPECT_EXIT(VIRTX_EXIT_SHUTDOWN)); /* only a reset leads out */
    CHECK_EQUAL(GUEST_RESULT(guest_hello, 1), 2);
}

/* ---- Ports nobody serves ---- */

static uint64_t in_values[3];

static void guest_unknown_port(uint64_t argument)
{
    uint64_t a = 0x1122334455667788, b = a, c = a;

    (void)argument;
    __asm__ volatile("inb %%dx, %%al" : "+a"(a) : "d"(0x777));
    __asm__ volatile("inw %%dx, %%ax" : "+a"(b) : "d"(0x777));
    __asm__ volatile("inl %%dx, %%eax" : "+a"(c) : "d"(0x777));
    in_values[0] = a;
    in_values[1] = b;
    in_values[2] = c;
    guest_done(0);
}

static void unknown_port(void)
{
    machine_open();
    guest_prepare(guest_unknown_port, 0);
    for (unsigned i = 0; i < 3; i++) {
        if (!CHECK(EXPECT_EXIT(VIRTX_EXIT_IO)))
            return;
        CHECK(machine.exit->pending);
        CHECK_EQUAL(machine.exit->io.port, 0x777);
        CHECK_EQUAL(machine.exit->io.size, 1u << i);
        CHECK_EQUAL(machine.exit->io.access, VIRTX_READ);
        CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
    }
    GUEST_CONTINUE();
    CHECK_EQUAL(in_values[0], 0x11223344556677ff);
    CHECK_EQUAL(in_values[1], 0x112233445566ffff);
    CHECK_EQUAL(in_values[2], 0x00000000ffffffff);
}

/* ---- Three modes at the same time ---- */

static void guest_mode64(uint64_t argument)
{
    uint64_t lma = argument;

    for (;;) {
        __asm__ volatile("xorl %%eax, %%eax; incl %%eax; movabsq $0x100000000, %0; shrq $32, %0"
                         : "=r"(lma)
                         :
                         : "rax");
        guest_done(0x6400 + lma);
    }
}

struct mode_vm {
    struct virtx_vm *vm;
    struct virtx_vcpu *vcpu;
    void *page;
};

static void make_mode_vm(struct mode_vm *m, enum virtx_preset preset, const char *code,
                         size_t bytes)
{
    struct virtx_state state;

    m->page = bare_pages_alloc(1, 1);
    memset(m->page, 0, 4096);
    memcpy(m->page, code, bytes);
    CHECK_OK(virtx_vm_create(machine.virtx, NULL, &m->vm));
    slot_make(m->vm, 0, m->page, 4096, ALL_RIGHTS, 0);
    m->vcpu = vcpu_make(m->vm, 0);
    CHECK_OK(virtx_vcpu_reset(m->vcpu, preset));
    CHECK_OK(virtx_vcpu_get(m->vcpu, VIRTX_STATE_RIP | VIRTX_STATE_RSP, &state));
    state.rip = 0;
    state.gpr[VIRTX_RSP] = 0xff0;
    CHECK_OK(virtx_vcpu_set(m->vcpu, VIRTX_STATE_RIP | VIRTX_STATE_RSP, &state));
}

static void drop_mode_vm(struct mode_vm *m)
{
    CHECK_OK(virtx_vcpu_destroy(m->vcpu));
    CHECK_OK(virtx_vm_destroy(m->vm));
    bare_pages_free(m->page, 1);
}

static void three_modes(void)
{
    struct mode_vm real, flat;
    uint64_t value;

    machine_open();
    make_mode_vm(&real, VIRTX_PRESET_REAL, mode16, (size_t)(mode16_end - mode16));
    make_mode_vm(&flat, VIRTX_PRESET_FLAT32, mode32, (size_t)(mode32_end - mode32));
    guest_prepare(guest_mode64, 0);
    for (unsigned round = 0; round < 10; round++) {
        value = 0;
        CHECK(vcpu_continue(real.vcpu, &value));
        CHECK_EQUAL(value, 0x1600);
        value = 0;
        CHECK(vcpu_continue(flat.vcpu, &value));
        CHECK_EQUAL(value, 0x3203);
        CHECK_EQUAL(GUEST_CONTINUE(), 0x6401);
    }
    drop_mode_vm(&flat);
    drop_mode_vm(&real);
}

/* The first instruction that this vcpu has the library decode is 16-bit code. */
static void device_in_real_mode(void)
{
    struct mode_vm real;
    uint64_t value = 0;
    const struct virtx_exit *exit;

    machine_open();
    make_mode_vm(&real, VIRTX_PRESET_REAL, device16, (size_t)(device16_end - device16));
    CHECK_OK(virtx_vcpu_run(real.vcpu, &exit));
    if (CHECK_EQUAL(exit->reason, VIRTX_EXIT_MMIO)) {
        CHECK_EQUAL(exit->mmio.gpa, 0x50010);
        CHECK_EQUAL(exit->mmio.size, 4);
        CHECK_EQUAL(exit->mmio.access, VIRTX_READ);
        CHECK_OK(virtx_vcpu_complete(real.vcpu, &(uint32_t){0x76543210}));
        CHECK_OK(virtx_vcpu_run(real.vcpu, &exit));
    }
    if (CHECK_EQUAL(exit->reason, VIRTX_EXIT_MMIO)) {
        CHECK_EQUAL(exit->mmio.gpa, 0x50014);
        CHECK_EQUAL(exit->mmio.access, VIRTX_WRITE);
        CHECK_EQUAL(exit->mmio.value, 0x76543211);
        CHECK_OK(virtx_vcpu_complete(real.vcpu, NULL));
        CHECK(vcpu_continue(real.vcpu, &value));
        CHECK_EQUAL(value, 0x76543211);
    }
    drop_mode_vm(&real);
}

/* ---- One trace on every engine ---- */

static void guest_trace(uint64_t argument)
{
    uint64_t r11 = argument;
    uint8_t text[] = "abc";
    const void *source = text;
    uint64_t count = 3;

    bare_out8(0x80, 0x12);
    bare_out16(0x3f8, 0x3456);
    bare_in32(0xcf8);
    __asm__ volatile("rep outsb" : "+S"(source), "+c"(count) : "d"(0xe9) : "memory");
    *(volatile uint32_t *)(uintptr_t)(GUEST_HOLE + 0x10) = 0xcafe;
    (void)*(volatile uint16_t *)(uintptr_t)(GUEST_HOLE + 0x20);
    __asm__ volatile("movq %%cr3, %%r11; movq %%r11, %%cr3" : : : "r11", "memory");
    bare_wrmsr(0x12345, 0x100000002);
    guest_hypercall(0x42);
    bare_cpuid(7, 0);
    GUEST_TRY("ud2");
    guest_done(r11);
}

static const char *const expected_trace[] = {
    "io, pending, out port 0x80 size 1 count 1 value 0x12",
    "io, pending, out port 0x3f8 size 2 count 1 value 0x3456",
    "io, pending, in port 0xcf8 size 4 count 1",
    "io, pending, rep outs port 0xe9 size 1 count 3",
    "mmio, pending, write gpa 0x50000010 size 4 value 0xcafe",
    "mmio, pending, read gpa 0x50000020 size 2 value 0x0",
    "cr, pending, read register 3 gpr 11 value 0x*",
    "cr, pending, write register 3 gpr 11 value 0x*",
    "msr, pending, write index 0x12345 value 0x100000002",
    "hypercall, pending, number 0x42 cpl 0",
    "cpuid, pending, leaf 0x7 subleaf 0x0",
    "exception, pending, vector 6 error none 0x0 address 0x0",
    "io, pending, out port 0x500 size 4 count 1 value 0x63",
};

/* A star stands for the rest: addresses that the linker chose. */
static bool matches(const char *text, const char *pattern)
{
    while (*pattern != '\0' && *pattern != '*' && *text == *pattern) {
        text++;
        pattern++;
    }
    return *pattern == '*' || *text == *pattern;
}

static void trace(void)
{
    char text[200];
    bool good = true;
    unsigned count = sizeof(expected_trace) / sizeof(expected_trace[0]);

    machine_open();
    intercept(VIRTX_INTERCEPT_CR, VIRTX_READ | VIRTX_WRITE, 3, 3);
    intercept(VIRTX_INTERCEPT_HYPERCALL, 0, 0, 0);
    intercept(VIRTX_INTERCEPT_CPUID, 0, 7, 7);
    intercept(VIRTX_INTERCEPT_EXCEPTION, 0, 6, 6);
    guest_prepare(guest_trace, 0x63);
    for (unsigned i = 0; i < count; i++) {
        const struct virtx_exit *exit = guest_run();
        describe_exit(text, sizeof(text), exit);
        bare_printf("  trace: %s\n", text);
        if (!matches(text, expected_trace[i])) {
            bare_printf("  wanted: %s\n", expected_trace[i]);
            good = false;
        }
        if (exit->reason == VIRTX_EXIT_EXCEPTION) {
            struct virtx_event ud = {.type = VIRTX_EVENT_EXCEPTION, .vector = 6};
            CHECK_OK(virtx_vcpu_fault(machine.vcpu, &ud));
        } else if (exit->pending) {
            CHECK_OK(virtx_vcpu_complete(machine.vcpu, NULL));
        } else {
            good = false;
            break;
        }
    }
    CHECK(good);
    CHECK_EQUAL(guest_vector_count[6], 1);
}

/* ---- Life cycle ---- */

static void thousand_vcpus(void)
{
    machine_open();
    size_t before = bare_pages_in_use();
    for (unsigned i = 0; i < 1000; i++) {
        struct virtx_vcpu *vcpu = vcpu_make(machine.vm, 1);
        uint64_t value = 0;

        if (i % 100 == 0) {
            vcpu_prepare(vcpu, 1, guest_hello, i);
            CHECK(vcpu_continue(vcpu, &value));
            CHECK_EQUAL(value, i + 1);
        }
        if (!CHECK_OK(virtx_vcpu_destroy(vcpu)))
            break;
    }
    /* Table pages that the runs have filled. */
    bare_printf("  %lu pages more\n", bare_pages_in_use() - before);
    CHECK(bare_pages_in_use() <= before + (paging_is_nested() ? 8 : 64));
}

static void disable_and_enable(void)
{
    machine_open();
    CHECK_EQUAL(GUEST_RESULT(guest_hello, 1), 2);
    CHECK_STATUS(virtx_cpu_disable(machine.virtx), VIRTX_E_BUSY);
    CHECK_OK(virtx_vcpu_put(machine.vcpu));
    CHECK_OK(virtx_cpu_disable(machine.virtx));
    guest_prepare(guest_hello, 5);
    const struct virtx_exit *exit;
    CHECK_STATUS(virtx_vcpu_run(machine.vcpu, &exit), VIRTX_E_NOT_ENABLED);
    CHECK_OK(virtx_cpu_enable(machine.virtx));
    CHECK_OK(virtx_cpu_enable(machine.virtx)); /* again is fine */
    CHECK_EQUAL(GUEST_RESULT(guest_hello, 5), 6);
}

GUEST_CASES({"hello", hello}, {"rings", rings}, {"ring-aliasing", ring_aliasing},
            {"two-vcpus-keep-their-registers", two_vcpus},
            {"host-registers-after-10000-exits", host_registers}, {"cpuid", cpuid},
            {"cpuid-apic-id", cpuid_apic_id}, {"cpuid-policy", cpuid_policy}, {"hlt", hlt},
            {"triple-fault", triple_fault}, {"unknown-port-reads-ones", unknown_port},
            {"device-in-real-mode", device_in_real_mode}, {"three-modes-round-robin", three_modes},
            {"one-trace-on-every-engine", trace}, {"thousand-vcpus", thousand_vcpus},
            {"disable-and-enable", disable_and_enable});
