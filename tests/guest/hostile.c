/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Hostile guests: they try every port, MSR, address and privileged instruction, storm exceptions,
 * die, and never let go of the processor. The host and a second VM must not notice.
 */
#include "hostile.h"

enum { PAGE = 4096, EXITS = 4000000 };

static volatile uint64_t guest_count, guest_bad;

/* ---- Every privileged instruction of virtualization, SMM and SGX ---- */

/* A guest never has any of these: each faults, or is answered with a fault by the loop. */
#define TRY(name, bytes)                                                                           \
    do {                                                                                           \
        int vector_ = GUEST_TRY(".byte " bytes, "+a"(a), "+c"(c), "+d"(d)                          \
                                : "b"(0ul), "S"(0ul)                                               \
                                : "memory", "cc");                                                 \
        if (vector_ != 6 && vector_ != 13)                                                         \
            guest_bad = guest_bad | 1ul << guest_count;                                            \
        guest_count = guest_count + 1;                                                             \
    } while (0)

static void guest_instructions(uint64_t argument)
{
    uint64_t a = argument, c = 0, d = 0;

    guest_count = guest_bad = 0;
    TRY("vmcall", "0x0f, 0x01, 0xc1");
    TRY("vmlaunch", "0x0f, 0x01, 0xc2");
    TRY("vmresume", "0x0f, 0x01, 0xc3");
    TRY("vmxoff", "0x0f, 0x01, 0xc4");
    TRY("vmfunc", "0x0f, 0x01, 0xd4");
    TRY("vmptrst", "0x0f, 0xc7, 0x38");
    TRY("vmptrld", "0x0f, 0xc7, 0x30");
    TRY("vmclear", "0x66, 0x0f, 0xc7, 0x30");
    TRY("vmxon", "0xf3, 0x0f, 0xc7, 0x30");
    TRY("vmread", "0x0f, 0x78, 0xc8");
    TRY("vmwrite", "0x0f, 0x79, 0xc8");
    TRY("invept", "0x66, 0x0f, 0x38, 0x80, 0x08");
    TRY("invvpid", "0x66, 0x0f, 0x38, 0x81, 0x08");
    TRY("vmrun", "0x0f, 0x01, 0xd8");
    TRY("vmmcall", "0x0f, 0x01, 0xd9");
    TRY("vmload", "0x0f, 0x01, 0xda");
    TRY("vmsave", "0x0f, 0x01, 0xdb");
    TRY("stgi", "0x0f, 0x01, 0xdc");
    TRY("clgi", "0x0f, 0x01, 0xdd");
    TRY("skinit", "0x0f, 0x01, 0xde");
    TRY("invlpga", "0x0f, 0x01, 0xdf");
    TRY("rsm", "0x0f, 0xaa");
    TRY("getsec", "0x0f, 0x37");
    TRY("encls", "0x0f, 0x01, 0xcf");
    TRY("enclu", "0x0f, 0x01, 0xd7");
    TRY("enclv", "0x0f, 0x01, 0xc0");
    TRY("pconfig", "0x0f, 0x01, 0xc5");
    TRY("xsetbv 7", "0x0f, 0x01, 0xd1");
    guest_done(guest_count);
}

static void attack_done(void (*fn)(uint64_t), uint64_t argument)
{
    guest_prepare(fn, argument);
    enum outcome outcome = hostile_run(machine.vcpu, 0, EXITS);
    if (!CHECK_EQUAL(outcome, OUTCOME_DONE))
        bare_printf("  trap: vector %lu at 0x%lx, CR2 0x%lx; count %lu; exit %s\n",
                    guest_trap.vector, guest_trap.rip, guest_trap.cr2, guest_count,
                    virtx_exit_name(machine.exit != NULL ? machine.exit->reason : 0));
    hostile_check(machine.vcpu);
}

static void privileged_instructions(void)
{
    hostile_open();
    attack_done(guest_instructions, 0x1000);
    CHECK_EQUAL(guest_count, 28);
    CHECK_EQUAL(guest_bad, 0);
    hostile_close(machine.vcpu);
}

/* ---- Every port ---- */

static void guest_ports(uint64_t argument)
{
    guest_count = guest_bad = 0;
    for (uint32_t port = (uint32_t)argument; port < 0x10000; port++) {
        uint8_t value;

        if (port >= PORT_DONE && port < PORT_DONE + 16)
            continue; /* the harness's own */
        __asm__ volatile("inb %w1, %b0" : "=a"(value) : "d"(port));
        guest_bad = guest_bad + (value != 0xff);
        __asm__ volatile("outb %b0, %w1" : : "a"(0x53), "d"(port)); /* 'S' of "Shutdown" */
        guest_count = guest_count + 1;
    }
    /* What stops one emulator when it reaches the real port, and the other. */
    for (const char *c = "Shutdown"; *c != '\0'; c++)
        __asm__ volatile("outb %b0, %w1" : : "a"(*c), "d"(0x8900));
    __asm__ volatile("outl %0, %w1" : : "a"(0x11), "d"(0xf4));
    for (uint32_t port = 0xfffd; port < 0x10000; port++) /* beyond the last one */
        __asm__ volatile("inl %w1, %%eax; outl %%eax, %w1" : : "a"(0), "d"(port));
    guest_done(guest_count);
}

static void every_port(void)
{
    hostile_open();
    attack_done(guest_ports, 0);
    CHECK_EQUAL(guest_count, 0x10000 - 16);
    CHECK_EQUAL(guest_bad, 0);
    hostile_close(machine.vcpu);
}

/* ---- Every MSR ---- */

static bool guest_rdmsr(uint32_t index, uint64_t *value)
{
    uint32_t low = 0, high = 0;
    int vector = GUEST_TRY("rdmsr", "+a"(low), "+d"(high) : "c"(index));

    *value = (uint64_t)high << 32 | low;
    return vector < 0;
}

static void guest_wrmsr(uint32_t index, uint64_t value)
{
    uint32_t low = (uint32_t)value, high = (uint32_t)(value >> 32);

    GUEST_TRY("wrmsr", "+a"(low), "+d"(high) : "c"(index) : "memory");
}

/* Those with which the guest would end itself before it is through. */
static bool suicidal(uint32_t index)
{
    return index == 0xc0000080 || index == 0x1b; /* EFER, APIC base */
}

static void guest_msr_range(uint32_t first, uint32_t last)
{
    for (uint32_t index = first; index <= last; index++) {
        uint64_t value;

        guest_count = guest_count + guest_rdmsr(index, &value);
        if (suicidal(index))
            continue;
        guest_wrmsr(index, 0);
        guest_wrmsr(index, ~0ul);
        guest_wrmsr(index, 0x5a5a5a5a00000001);
        guest_wrmsr(index, value);
    }
}

static void guest_msrs(uint64_t argument)
{
    guest_count = argument;
    guest_msr_range(0, 0x2010);
    guest_msr_range(0x3ffffff0, 0x40000110);
    guest_msr_range(0xbffffff0, 0xc0002010);
    guest_msr_range(0xc000fff0, 0xc0012010);
    guest_msr_range(0xfffffff0, 0xfffffffe);
    guest_done(guest_count);
}

static void every_msr(void)
{
    hostile_open();
    attack_done(guest_msrs, 0);
    CHECK(guest_count > 10);
    bare_printf("  the guest can read %lu MSRs\n", guest_count);
    hostile_close(machine.vcpu);
}

/* ---- The whole address space ---- */

/* A page outside all slots, and a page of the host behind it: no value of the host may appear. */
#define CANARY 0x6d6d76206568745aul

static uint64_t guest_canary; /* a host page, outside all slots */

static void guest_addresses(uint64_t step)
{
    uint64_t other = 0;

    guest_count = guest_bad = 0;
    for (uint64_t address = 0; address < 1ul << 32; address += step) {
        uint64_t value = *(const volatile uint64_t *)address;

        if (address % (1ul << 24) == 0) /* … and where the host keeps it */
            guest_bad = guest_bad + (*(const volatile uint64_t *)guest_canary == CANARY);

        if (value == CANARY)
            guest_bad = guest_bad + 1;
        other += value != ~0ul;
        guest_count = guest_count + 1;
    }
    guest_done(other);
}

static void address_space(void)
{
    extern char __image_start[], __image_end[];
    uint64_t step = bare_option_u64("step", 0x10000), inside = 0;
    uint64_t *canary;

    hostile_open();
    canary = bare_pages_alloc(64, 16);
    for (unsigned i = 0; i < 64 * PAGE / 8; i++)
        canary[i] = CANARY;
    guest_canary = (uintptr_t)canary;
    attack_done(guest_addresses, step);
    CHECK_EQUAL(guest_count, (1ul << 32) / step);
    CHECK_EQUAL(guest_bad, 0);
    /* Only slots answer: what lies in one may be ones too, the rest must be. */
    for (uint64_t address = 0; address < 1ul << 32; address += step)
        inside += (address >= (uintptr_t)__image_start && address < (uintptr_t)__image_end) ||
                  (address >= GUEST_MEMORY && address < GUEST_MEMORY + GUEST_MEMORY_BYTES);
    CHECK(machine.mark_value <= inside);
    CHECK(hostile_exits >= guest_count - inside);
    for (unsigned i = 0; i < 64 * PAGE / 8; i++) {
        if (!CHECK_EQUAL(canary[i], CANARY))
            break;
    }
    bare_pages_free(canary, 64);
    hostile_close(machine.vcpu);
}

/* ---- Storms ---- */

/* #DB whose delivery meets a breakpoint on its own handler and its own stack, for ever. */
static void guest_db_storm(uint64_t argument)
{
    uint64_t stack;

    bare_irq_enable();
    __asm__ volatile("movq %%rsp, %0" : "=r"(stack));
    __asm__ volatile("movq %0, %%dr0" : : "r"(stack - 64));
    __asm__ volatile("movq %0, %%dr1" : : "r"(stack - 128));
    __asm__ volatile("movq %0, %%dr7" : : "r"(0x99000aul | argument)); /* writes of 4 and 8 bytes */
    for (;;)
        __asm__ volatile("pushfq; orl $0x100, (%%rsp); popfq; int3; .byte 0xf1"
                         :
                         :
                         : "memory"); /* INT1 */
}

/* #AC in ring 3 whose handler returns to it. */
static void user_ac(uint64_t argument)
{
    __asm__ volatile("pushfq; orl $0x40000, (%rsp); popfq");
    for (;;)
        __asm__ volatile("incl (%0)" : : "r"(argument | 1) : "memory", "cc");
}

static void guest_ac_storm(uint64_t argument)
{
    bare_irq_enable();
    guest_handler[17] = guest_ignore; /* comes back to the same instruction */
    __asm__ volatile("movq %%cr0, %%rax; orl $0x40000, %%eax; movq %%rax, %%cr0" : : : "rax");
    guest_ring3(user_ac, argument);
}

static void guest_pf_storm(uint64_t argument)
{
    bare_irq_enable();
    guest_handler[14] = guest_ignore;
    *guest_pte(argument) = 0;
    guest_invlpg(argument);
    *(volatile uint8_t *)argument = 1;
    guest_done(0);
}

static void guest_never_lets_go(uint64_t argument)
{
    (void)argument;
    __asm__ volatile("cli; 1: jmp 1b");
}

/* Entered with interrupts off, and never anything that has to do with them. */
static void guest_spins(uint64_t argument)
{
    (void)argument;
    __asm__ volatile("1: jmp 1b");
}

static void guest_triple_fault(uint64_t argument)
{
    static struct __attribute__((packed)) {
        uint16_t limit;
        uint64_t base;
    } none;

    (void)argument;
    __asm__ volatile("lidt %0; int3" : : "m"(none));
}

static void guest_nmi_deaf(uint64_t argument)
{
    (void)argument;
    __asm__ volatile("1: cli; pushfq; popfq; movl %%ss, %%eax; movl %%eax, %%ss; jmp 1b"
                     :
                     :
                     : "rax", "memory");
}

static void storm(const char *name, void (*fn)(uint64_t), uint64_t argument, enum outcome wanted)
{
    guest_reset();
    guest_trap_resume = 0;
    guest_handler[1] = guest_handler[3] = guest_ignore;
    guest_prepare(fn, argument);
    enum outcome outcome = hostile_run(machine.vcpu, 1000000, 100000);
    if (!CHECK_EQUAL(outcome, wanted) || !hostile_check(machine.vcpu))
        bare_printf("  %s\n", name);
}

static void storms(void)
{
    hostile_open();
    storm("#DB storm", guest_db_storm, 0, OUTCOME_KICK);
    storm("#AC storm", guest_ac_storm, GUEST_MEMORY, OUTCOME_KICK);
    storm("#PF storm", guest_pf_storm, GUEST_MEMORY + PAGE, OUTCOME_KICK);
    if (engine_is("bochs") && guest_has_svm) {
        bare_printf(
            "not shown: storms: interrupts off: under Bochs' SVM the guest's IF holds off the "
            "host's interrupts\n");
        bare_printf("not shown: storms: triple fault: it resets Bochs' machine under SVM\n");
    } else {
        storm("entered with interrupts off", guest_spins, 0, OUTCOME_KICK);
        storm("interrupts off", guest_never_lets_go, 0, OUTCOME_KICK);
        storm("shadows without end", guest_nmi_deaf, 0, OUTCOME_KICK);
        storm("triple fault", guest_triple_fault, 0, OUTCOME_SHUTDOWN);
        storm("after it", guest_never_lets_go, 0, OUTCOME_KICK);
    }
    hostile_close(machine.vcpu);
}

GUEST_CASES({"privileged-instructions", privileged_instructions}, {"every-port", every_port},
            {"every-msr", every_msr}, {"whole-address-space", address_space}, {"storms", storms},
            {"random-streams", hostile_streams});
