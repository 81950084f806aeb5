/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A guest that looks for what is not its own: the host and another guest fill every register that
 * they have with a mark of theirs, and it reads every register that it can.
 */
#include "harness.h"

enum {
    MSR_TSC_AUX = 0xc0000103,
    MSR_SYSENTER_CS = 0x174,
    CPUID_1_ECX_XSAVE = 1 << 26,
};

/* Values that are canonical addresses and hold one of these four bytes; a 32-bit register holds the
 * four bytes themselves. The low 16 bits tell the registers apart. */
enum { HOST_MARK = 0x5ec2e75e, OTHER_MARK = 0x6b1d3a6b };
#define MARK(mark, i) ((uint64_t)(mark) << 16 | (i))

static const uint32_t wide_msrs[] = {
    0xc0000082, 0xc0000083, /* LSTAR, CSTAR */
    0xc0000081, 0xc0000102, /* STAR, KERNEL_GS_BASE */
    0xc0000100, 0xc0000101, /* FS and GS base */
    0x175,      0x176,      /* SYSENTER_ESP, SYSENTER_EIP */
};
/* What else might be let through, and holds something of the host's: read, not written. */
static const uint32_t more_msrs[] = {
    0xc0000084, 0xc0000103, 0x174, 0x1d9,      0x1db,      0x1dc,      0x1dd,      0x1de,
    0x277,      0x48,       0x49,  0x1b,       0x10a,      0x3a,       0x3b,       0x79,
    0x8b,       0xfe,       0x17,  0xce,       0x1a0,      0xc0010010, 0xc0010114, 0xc0010117,
    0x480,      0x481,      0xda0, 0xc0000080, 0xc0010015, 0xc001001a, 0xc001001d,
};

/* ---- The side that leaves marks: the host itself, or a guest ---- */

static void leave_marks(uint32_t mark)
{
    for (unsigned i = 0; i < sizeof(wide_msrs) / sizeof(wide_msrs[0]); i++)
        bare_wrmsr_safe(wide_msrs[i], MARK(mark, i));
    bare_wrmsr_safe(MSR_TSC_AUX, mark);
    bare_wrmsr_safe(MSR_SYSENTER_CS, mark);
    bare_write_cr2(MARK(mark, 0x100));
    __asm__ volatile("movq %0, %%dr0; movq %0, %%dr1; movq %0, %%dr2; movq %0, %%dr3"
                     :
                     : "r"(MARK(mark, 0x200)));
    /* All XMM registers, then MMX, which are the x87's. */
#define XMM(n) "movq %0, %%xmm" #n "; punpcklqdq %%xmm" #n ", %%xmm" #n ";"
#define MMX(n) "movq %0, %%mm" #n ";"
    __asm__ volatile(XMM(0) XMM(1) XMM(2) XMM(3) XMM(4) XMM(5) XMM(6) XMM(7) XMM(8) XMM(9) XMM(10)
                         XMM(11) XMM(12) XMM(13) XMM(14) XMM(15)
                     :
                     : "r"(MARK(mark, 0x300)));
    __asm__ volatile(MMX(0) MMX(1) MMX(2) MMX(3) MMX(4) MMX(5) MMX(6) MMX(7)
                     :
                     : "r"(MARK(mark, 0x400)));
}

static bool has_xsave(void)
{
    return bare_cpuid(1, 0).ecx & CPUID_1_ECX_XSAVE;
}

/* The upper halves of the vector registers, too, where there are any. */
static uint64_t all_xcr0(void)
{
    struct bare_cpuid d = bare_cpuid(0xd, 0);

    return (uint64_t)d.edx << 32 | d.eax;
}

static void xsetbv(uint64_t value)
{
    __asm__ volatile("xsetbv" : : "c"(0), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}

static void leave_wide_marks(uint32_t mark)
{
    static uint64_t pattern[4] __attribute__((aligned(32)));

    if (!has_xsave() || !(all_xcr0() & 4))
        return;
    bare_write_cr4(bare_read_cr4() | 1 << 18);
    xsetbv(7);
    for (unsigned i = 0; i < 4; i++)
        pattern[i] = MARK(mark, 0x500 + i);
#define YMM(n) "vmovdqa (%0), %%ymm" #n ";"
    __asm__ volatile(YMM(0) YMM(1) YMM(2) YMM(3) YMM(4) YMM(5) YMM(6) YMM(7) YMM(8) YMM(9) YMM(10)
                         YMM(11) YMM(12) YMM(13) YMM(14) YMM(15)
                     :
                     : "r"(pattern)
                     : "memory");
}

static void guest_marks(uint64_t mark)
{
    leave_marks((uint32_t)mark);
    leave_wide_marks((uint32_t)mark);
    guest_done(mark);
}

/* ---- The side that looks ---- */

static struct {
    uint8_t fxsave[512] __attribute__((aligned(64)));
    uint8_t xsave[8192] __attribute__((aligned(64)));
    uint64_t gpr[16], cr2, dr[6], wide[16], more[64];
    uint8_t gdtr[10], idtr[10];
    uint16_t selector[8];
} seen;

static void guest_looks(uint64_t argument);

/* GPRs before the compiler can touch them. RDI and RSP are the harness's. */
__attribute__((naked)) static void guest_first(uint64_t argument __attribute__((unused)))
{
    __asm__ volatile(
        "movq %%rax, %c0+0(%%rip); movq %%rcx, %c0+8(%%rip); movq %%rdx, %c0+16(%%rip);"
        "movq %%rbx, %c0+24(%%rip); movq %%rbp, %c0+40(%%rip); movq %%rsi, %c0+48(%%rip);"
        "movq %%r8, %c0+64(%%rip); movq %%r9, %c0+72(%%rip); movq %%r10, %c0+80(%%rip);"
        "movq %%r11, %c0+88(%%rip); movq %%r12, %c0+96(%%rip); movq %%r13, %c0+104(%%rip);"
        "movq %%r14, %c0+112(%%rip); movq %%r15, %c0+120(%%rip); jmp %c1"
        :
        : "i"(seen.gpr), "i"(guest_looks));
}

__attribute__((used)) static void guest_looks(uint64_t argument)
{
    __asm__ volatile("fxsave64 %0" : "=m"(seen.fxsave));
    seen.cr2 = bare_read_cr2();
    __asm__ volatile("movq %%dr0, %0; movq %%dr1, %1; movq %%dr2, %2; movq %%dr3, %3; "
                     "movq %%dr6, %4; movq %%dr7, %5"
                     : "=r"(seen.dr[0]), "=r"(seen.dr[1]), "=r"(seen.dr[2]), "=r"(seen.dr[3]),
                       "=r"(seen.dr[4]), "=r"(seen.dr[5]));
    for (unsigned i = 0; i < sizeof(wide_msrs) / sizeof(wide_msrs[0]); i++)
        bare_rdmsr_safe(wide_msrs[i], &seen.wide[i]);
    for (unsigned i = 0; i < sizeof(more_msrs) / sizeof(more_msrs[0]); i++)
        bare_rdmsr_safe(more_msrs[i], &seen.more[i]);
    __asm__ volatile("sgdt %0; sidt %1; sldt %2; str %3"
                     : "=m"(seen.gdtr), "=m"(seen.idtr), "=m"(seen.selector[0]),
                       "=m"(seen.selector[1]));
    if (has_xsave()) {
        bare_write_cr4(bare_read_cr4() | 1 << 18);
        xsetbv(all_xcr0());
        __asm__ volatile("xsave64 %0" : "+m"(seen.xsave) : "a"(-1), "d"(-1));
    }
    guest_done(argument);
}

/* Runs it to its end. MSRs that the library leaves to the loop do not exist. */
static uint64_t look(void)
{
    const struct virtx_event gp = {.type = VIRTX_EVENT_EXCEPTION, .vector = 13, .has_error = true};
    uint64_t result = 0;

    while (!guest_continue(&result)) {
        if (!CHECK_EQUAL(machine.exit->reason, VIRTX_EXIT_MSR))
            return 0;
        CHECK_OK(virtx_vcpu_fault(machine.vcpu, &gp));
    }
    return result;
}

/* Where in `seen` a mark lies; SIZE_MAX: nowhere. */
static size_t find_mark(uint32_t mark)
{
    const uint8_t *bytes = (const uint8_t *)&seen;

    for (size_t at = 0; at + sizeof(mark) <= sizeof(seen); at++)
        if (memcmp(bytes + at, &mark, sizeof(mark)) == 0)
            return at;
    return SIZE_MAX;
}

/* That marks would be found at all. */
static void marks_are_found(void)
{
    machine_open();
    memset(&seen, 0, sizeof(seen));
    guest_prepare(guest_marks, HOST_MARK);
    CHECK_EQUAL(GUEST_CONTINUE(), HOST_MARK);
    guest_prepare_again(guest_first, 1);
    CHECK_EQUAL(look(), 1);
    CHECK(memcmp(seen.fxsave + 160,
                 (uint64_t[]){MARK(HOST_MARK, has_xsave() && (all_xcr0() & 4) ? 0x500 : 0x300)},
                 8) == 0);
    CHECK_EQUAL(seen.cr2, MARK(HOST_MARK, 0x100));
    CHECK_EQUAL(seen.dr[3], MARK(HOST_MARK, 0x200));
    for (unsigned i = 0; i < sizeof(wide_msrs) / sizeof(wide_msrs[0]); i++)
        CHECK_EQUAL(seen.wide[i], MARK(HOST_MARK, i));
}

static void nothing_of_the_host(void)
{
    uint64_t saved[sizeof(wide_msrs) / sizeof(wide_msrs[0])];
    static uint8_t fpu[512] __attribute__((aligned(16)));

    harness_profile = &virtx_profile_kernel; /* so that the host has its own again */
    machine_open();
    memset(&seen, 0, sizeof(seen));
    guest_prepare(guest_first, 2);
    __asm__ volatile("fxsave64 %0" : "=m"(fpu));
    for (unsigned i = 0; i < sizeof(wide_msrs) / sizeof(wide_msrs[0]); i++)
        bare_rdmsr_safe(wide_msrs[i], &saved[i]);
    leave_marks(HOST_MARK);
    CHECK_EQUAL(look(), 2);
    for (unsigned i = 0; i < sizeof(wide_msrs) / sizeof(wide_msrs[0]); i++)
        bare_wrmsr_safe(wide_msrs[i], saved[i]);
    __asm__ volatile("fxrstor64 %0" : : "m"(fpu));
    CHECK_EQUAL(find_mark(HOST_MARK), SIZE_MAX);
    CHECK(seen.gpr[VIRTX_R15] == 0 && seen.gpr[VIRTX_RBX] == 0);
}

/* The other one has just been in the same processor; and once more after both have run. */
static void nothing_of_another_guest(void)
{
    struct virtx_vcpu *other;

    machine_open();
    struct virtx_vm *vm = vm_make(&other);

    vcpu_prepare(other, 1, guest_marks, OTHER_MARK);
    for (unsigned round = 0; round < 2; round++) {
        uint64_t result = 0;

        CHECK(vcpu_continue(other, &result));
        CHECK_EQUAL(result, OTHER_MARK);
        memset(&seen, 0, sizeof(seen));
        if (round == 0)
            guest_prepare(guest_first, 3);
        else
            guest_prepare_again(guest_first, 3);
        CHECK_EQUAL(look(), 3);
        CHECK_EQUAL(find_mark(OTHER_MARK), SIZE_MAX);
        vcpu_prepare(other, 1, guest_marks, OTHER_MARK);
    }
    CHECK_OK(virtx_vcpu_destroy(other));
    CHECK_OK(virtx_vm_destroy(vm));
}

/* ---- What CPUID offers ---- */

static uint8_t operand[8192] __attribute__((aligned(64)));

enum reg { EAX, EBX, ECX, EDX };

/* Offered: the instruction works. Not offered, and the library can see to it (`hidden`): it is
 * \#UD. The others that are not offered may work all the same, as on a processor. */
#define FEATURES(F)                                                                                \
    F(sse2, 1, 0, EDX, 26, false, "paddq %%xmm0, %%xmm0")                                          \
    F(clflush, 1, 0, EDX, 19, false, "clflush (%5)")                                               \
    F(sse3, 1, 0, ECX, 0, false, "haddps %%xmm0, %%xmm0")                                          \
    F(pclmulqdq, 1, 0, ECX, 1, false, "pclmulqdq $0, %%xmm0, %%xmm0")                              \
    F(monitor, 1, 0, ECX, 3, false, "monitor")                                                     \
    F(ssse3, 1, 0, ECX, 9, false, "pshufb %%xmm0, %%xmm0")                                         \
    F(fma, 1, 0, ECX, 12, false, "vfmadd132ps %%xmm0, %%xmm0, %%xmm0")                             \
    F(cx16, 1, 0, ECX, 13, false, "cmpxchg16b (%5)")                                               \
    F(sse41, 1, 0, ECX, 19, false, "pmulld %%xmm0, %%xmm0")                                        \
    F(sse42, 1, 0, ECX, 20, false, "pcmpgtq %%xmm0, %%xmm0")                                       \
    F(movbe, 1, 0, ECX, 22, false, "movbel (%5), %%eax")                                           \
    F(popcnt, 1, 0, ECX, 23, false, "popcntl %%eax, %%eax")                                        \
    F(aes, 1, 0, ECX, 25, false, "aesenc %%xmm0, %%xmm0")                                          \
    F(xsave, 1, 0, ECX, 26, false, "xgetbv")                                                       \
    F(avx, 1, 0, ECX, 28, false, "vaddps %%ymm0, %%ymm0, %%ymm0")                                  \
    F(f16c, 1, 0, ECX, 29, false, "vcvtph2ps %%xmm0, %%xmm0")                                      \
    F(rdrand, 1, 0, ECX, 30, false, "rdrand %%eax")                                                \
    F(fsgsbase, 7, 0, EBX, 0, false, "rdfsbase %%rax")                                             \
    F(bmi1, 7, 0, EBX, 3, false, "andn %%eax, %%eax, %%eax")                                       \
    F(avx2, 7, 0, EBX, 5, false, "vpaddd %%ymm0, %%ymm0, %%ymm0")                                  \
    F(bmi2, 7, 0, EBX, 8, false, "mulx %%eax, %%eax, %%edx")                                       \
    F(invpcid, 7, 0, EBX, 10, true, "invpcid (%5), %1")                                            \
    F(avx512f, 7, 0, EBX, 16, false, "vpaddd %%zmm0, %%zmm0, %%zmm0")                              \
    F(rdseed, 7, 0, EBX, 18, false, "rdseed %%eax")                                                \
    F(adx, 7, 0, EBX, 19, false, "adcx %%eax, %%eax")                                              \
    F(smap, 7, 0, EBX, 20, false, "clac")                                                          \
    F(clflushopt, 7, 0, EBX, 23, false, "clflushopt (%5)")                                         \
    F(clwb, 7, 0, EBX, 24, false, "clwb (%5)")                                                     \
    F(sha, 7, 0, EBX, 29, false, "sha1nexte %%xmm0, %%xmm0")                                       \
    F(pku, 7, 0, ECX, 3, false, "rdpkru")                                                          \
    F(rdpid, 7, 0, ECX, 22, false, "rdpid %%rax")                                                  \
    F(xsaveopt, 0xd, 1, EAX, 0, false, "xsaveopt (%5)")                                            \
    F(xsavec, 0xd, 1, EAX, 1, false, "xsavec (%5)")                                                \
    F(xsaves, 0xd, 1, EAX, 3, false, "xsaves (%5)")                                                \
    F(sse4a, 0x80000001, 0, ECX, 6, false, "extrq $0, $0, %%xmm0")                                 \
    F(xop, 0x80000001, 0, ECX, 11, false, "vphaddbd %%xmm0, %%xmm0")                               \
    F(fma4, 0x80000001, 0, ECX, 16, false, "vfmaddps %%xmm0, %%xmm0, %%xmm0, %%xmm0")              \
    F(tbm, 0x80000001, 0, ECX, 21, false, "blcfill %%eax, %%eax")                                  \
    F(rdtscp, 0x80000001, 0, EDX, 27, true, "rdtscp")

/* Whether it comes to its end; in the guest and natively. */
#define TRY(name, leaf, subleaf, reg, bit, hidden, text)                                           \
    static bool try_##name(void)                                                                   \
    {                                                                                              \
        uint64_t a = (uintptr_t)operand, b = 2, c = 0, d = 0;                                      \
        bool ended = false;                                                                        \
                                                                                                   \
        __asm__ volatile("7001: " text "\n movb $1, %4\n7002:\n" BARE_FIXUP("7001b", "7002b")      \
                         : "+a"(a), "+b"(b), "+c"(c), "+d"(d), "+m"(ended)                         \
                         : "S"(operand)                                                            \
                         : "memory");                                                              \
        return ended;                                                                              \
    }
#define ROW(name, leaf, subleaf, reg, bit, hidden, text)                                           \
    {#name, leaf, subleaf, reg, bit, hidden, try_##name},
FEATURES(TRY)
static const struct {
    const char *name;
    uint32_t leaf, subleaf;
    enum reg reg;
    unsigned bit;
    bool hidden;
    bool (*try)(void);
} features[] = {FEATURES(ROW)};
enum { FEATURE_COUNT = sizeof(features) / sizeof(features[0]) };
static struct tried {
    bool offered, works;
} in_guest[FEATURE_COUNT], natively[FEATURE_COUNT];

static uint32_t cpuid_register(uint32_t leaf, uint32_t subleaf, enum reg reg)
{
    struct bare_cpuid r = bare_cpuid(leaf, subleaf);

    if (bare_cpuid(leaf & 0x80000000, 0).eax < leaf)
        return 0;
    return reg == EAX ? r.eax : reg == EBX ? r.ebx : reg == ECX ? r.ecx : r.edx;
}

static void try_all(struct tried *tried)
{
    uint64_t cr4 = bare_read_cr4();

    if (has_xsave()) {
        bare_write_cr4(cr4 |= 1 << 18);
        xsetbv(all_xcr0());
    }
    if (cpuid_register(7, 0, EBX) & 1)
        bare_write_cr4(cr4 |= 1 << 16); /* FSGSBASE */
    if (cpuid_register(7, 0, ECX) & 1 << 3)
        bare_write_cr4(cr4 |= 1 << 22); /* PKE */
    for (unsigned i = 0; i < FEATURE_COUNT; i++) {
        tried[i].offered = cpuid_register(features[i].leaf, features[i].subleaf, features[i].reg) >>
                               features[i].bit &
                           1;
        /* The bytes may mean something else to a processor without the feature. */
        tried[i].works = (tried[i].offered || features[i].hidden) && features[i].try();
    }
}

static void guest_tries(uint64_t argument)
{
    try_all(in_guest);
    guest_done(argument);
}

/* The guest finds in CPUID what works, and what the processor has. */
static void offered_features_work(void)
{
    uint64_t cr4 = bare_read_cr4();
    unsigned offered = 0;

    try_all(natively);
    if (has_xsave())
        xsetbv(1);
    bare_write_cr4(cr4);
    machine_open();
    CHECK_EQUAL(GUEST_RESULT(guest_tries, 7), 7);
    for (unsigned i = 0; i < FEATURE_COUNT; i++) {
        bool good = in_guest[i].offered ? in_guest[i].works && natively[i].offered
                                        : !features[i].hidden || !in_guest[i].works;

        offered += in_guest[i].offered;
        if (in_guest[i].offered && !natively[i].works) {
            bare_printf(
                "not shown: offered-features-work: %s is in the CPUID of this model, and does "
                "not work natively\n",
                features[i].name);
            continue;
        }
        if (!good)
            bare_printf("  %s: offered %d, works %d, natively %d %d\n", features[i].name,
                        in_guest[i].offered, in_guest[i].works, natively[i].offered,
                        natively[i].works);
        CHECK(good);
    }
    CHECK(offered >= 4);
}

/* ---- Registers of features that CPUID hides ---- */

enum { FOR_INTEL = 1, FOR_AMD = 2, FOR_ALL = 3 };
/* By Intel SDM volume 4 "Architectural MSRs" and AMD APM "MSR Cross-Reference": with what each
 * comes, or that it is only written. Whose guests have it, or nobody's. */
static const struct {
    uint32_t index;
    uint8_t read;
} hidden[] = {
    {0x17, FOR_INTEL},
    {0x1a0, FOR_INTEL},
    {0x3a, 0},
    {0x79, 0},
    {0x49, 0},
    {0x10b, 0},
    {0x179, 0},
    {0x17a, 0},
    {0xfe, FOR_ALL},
    {0x200, FOR_ALL},
    {0x277, FOR_ALL},
    {0x2ff, FOR_ALL},
    {0xc0010010, FOR_AMD},
    {0xc0010015, FOR_AMD},
    {0xc001001f, FOR_AMD},
    {0xc0010020, 0},
    {0xc0010114, 0},
    {0xc0010117, 0},
    {0xc0011029, FOR_AMD},
};
static volatile int hidden_vector[sizeof(hidden) / sizeof(hidden[0])];

static void guest_reads_hidden(uint64_t argument)
{
    (void)argument;
    for (unsigned i = 0; i < sizeof(hidden) / sizeof(hidden[0]); i++)
        hidden_vector[i] = GUEST_TRY("rdmsr", : "c"(hidden[i].index) : "rax", "rdx");
    guest_done(0);
}

static void check_hidden(uint32_t without)
{
    uint8_t mine = bare_cpuid(0, 0).ebx == 0x68747541 ? FOR_AMD : FOR_INTEL;

    guest_prepare(guest_reads_hidden, 0);
    CHECK_EQUAL(GUEST_CONTINUE(), 0); /* and nothing goes to the loop */
    for (unsigned i = 0; i < sizeof(hidden) / sizeof(hidden[0]); i++) {
        bool mtrr = hidden[i].index == 0xfe || hidden[i].index == 0x200 || hidden[i].index == 0x2ff;
        bool gone =
            (mtrr && (without & 1u << 12)) || (hidden[i].index == 0x277 && (without & 1u << 16));

        if (!CHECK_EQUAL(hidden_vector[i], hidden[i].read & mine && !gone ? -1 : 13))
            bare_printf("  MSR 0x%x\n", hidden[i].index);
    }
}

static void hidden_msrs(void)
{
    struct virtx_cpuid_entry one;

    machine_open();
    check_hidden(0);
    CHECK_OK(virtx_vcpu_destroy(machine.vcpu));
    CHECK_OK(virtx_vm_cpuid_get(machine.vm, 1, 0, &one));
    one.edx &= ~(1u << 12 | 1u << 16); /* no MTRRs, no PAT */
    CHECK_OK(virtx_vm_cpuid_set(machine.vm, &one));
    machine.vcpu = vcpu_make(machine.vm, 0);
    check_hidden(1u << 12 | 1u << 16);
}

GUEST_CASES({"hidden-msrs", hidden_msrs}, {"offered-features-work", offered_features_work},
            {"marks-are-found", marks_are_found}, {"nothing-of-the-host", nothing_of_the_host},
            {"nothing-of-another-guest", nothing_of_another_guest});
