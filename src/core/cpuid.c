/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The CPUID table of a VM: what the processor has, less what the library does not virtualize.
 *
 * Features are listed by what may stay: whatever a future processor adds is hidden until somebody
 * has seen to it. Names and positions are those of Intel SDM "CPUID—CPU Identification" and AMD APM
 * "Obtaining Processor Information Via the CPUID Instruction".
 */
#include "core/object.h"
#include "x86/cpu.h"

#define HYPERVISOR         0x40000000u
#define HYPERVISOR_TSC     0x40000010u
#define EXTENDED           0x80000000u

#define MAX_BASIC          0x16u
#define MAX_EXTENDED_INTEL 0x80000008u
#define MAX_EXTENDED_AMD   0x80000021u

/* Leaf 1 ECX: SSE3 PCLMULQDQ SSSE3 FMA CX16 SSE4.1 SSE4.2 MOVBE POPCNT AES XSAVE AVX F16C RDRAND.
 * PCID goes with nested paging. Hidden: DTES64 MONITOR DS-CPL VMX SMX EIST TM2 CNXT-ID SDBG xTPR
 * PDCM DCA; x2APIC and TSC-deadline come with a LAPIC that has them. */
#define LEAF1_ECX                                                                                  \
    (BIT(0) | BIT(1) | BIT(9) | BIT(12) | BIT(13) | BIT(19) | BIT(20) | BIT(22) | BIT(23) |        \
     BIT(25) | BIT(26) | BIT(28) | BIT(29) | BIT(30))
#define LEAF1_ECX_PCID         BIT(17)
#define LEAF1_ECX_X2APIC       BIT(21)
#define LEAF1_ECX_TSC_DEADLINE BIT(24)
#define LEAF1_ECX_XSAVE        BIT(26)
#define LEAF1_ECX_OSXSAVE      BIT(27)
#define LEAF1_ECX_HYPERVISOR   BIT(31)
#define LEAF1_ECX_AVX          (BIT(12) | BIT(28) | BIT(29)) /* FMA AVX F16C */

/* Leaf 1 EDX: FPU VME DE PSE TSC MSR PAE CX8 APIC SEP MTRR PGE CMOV PAT PSE-36 CLFSH MMX FXSR SSE
 * SSE2 SS. Hidden: MCE MCA (no banks) PSN DS ACPI TM PBE. HTT says how many vcpus there are. */
#define LEAF1_EDX                                                                                  \
    (BIT(0) | BIT(1) | BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(8) | BIT(9) | BIT(11) |    \
     BIT(12) | BIT(13) | BIT(15) | BIT(16) | BIT(17) | BIT(19) | BIT(23) | BIT(24) | BIT(25) |     \
     BIT(26) | BIT(27))
#define LEAF1_EDX_HTT     BIT(28)
#define LEAF1_EDX_MCE_MCA (BIT(7) | BIT(14)) /* with no banks they may be had */

/* Leaf 7.0 EBX: FSGSBASE TSC_ADJUST BMI1 HLE AVX2 FDP_EXCPTN SMEP BMI2 ERMS RTM FCS/FDS RDSEED ADX
 * SMAP CLFLUSHOPT CLWB SHA and AVX-512. Hidden: SGX PQM MPX PQE PT. */
#define LEAF7_EBX                                                                                  \
    (BIT(0) | BIT(1) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(8) | BIT(9) | BIT(11) |    \
     BIT(13) | BIT(18) | BIT(19) | BIT(20) | BIT(23) | BIT(24) | BIT(29) | LEAF7_EBX_AVX512)
#define LEAF7_EBX_AVX     BIT(5)
#define LEAF7_EBX_INVPCID BIT(10)
#define LEAF7_EBX_AVX512                                                                           \
    (BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31))

/* Leaf 7.0 ECX: PREFETCHWT1 UMIP GFNI CLDEMOTE MOVDIRI MOVDIR64B, vector extensions. Hidden:
 * WAITPKG CET_SS TME LA57 MAWAU KL BUS_LOCK_DETECT ENQCMD SGX_LC PKS. */
#define LEAF7_ECX                                                                                  \
    (BIT(0) | BIT(2) | BIT(8) | BIT(25) | BIT(27) | BIT(28) | LEAF7_ECX_AVX | LEAF7_ECX_AVX512)
#define LEAF7_ECX_AVX    (BIT(9) | BIT(10))
#define LEAF7_ECX_AVX512 (BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14))
#define LEAF7_ECX_PKU    BIT(3)
#define LEAF7_ECX_OSPKE  BIT(4)
#define LEAF7_ECX_RDPID  BIT(22)

/* Leaf 7.0 EDX: FSRM MD_CLEAR SERIALIZE TSXLDTRK IBRS STIBP L1D_FLUSH ARCH_CAPABILITIES SSBD,
 * AVX-512. Hidden: SRBDS_CTRL HYBRID PCONFIG LBR CET_IBT AMX CORE_CAPABILITIES. */
#define LEAF7_EDX                                                                                  \
    (BIT(4) | BIT(10) | BIT(14) | BIT(16) | BIT(26) | BIT(27) | BIT(28) | BIT(29) | BIT(31) |      \
     LEAF7_EDX_AVX512)
#define LEAF7_EDX_AVX512 (BIT(2) | BIT(3) | BIT(8) | BIT(23))

/* Leaf 7.1 EAX: FZLRM FSRS FRSCC; AVX-VNNI AVX512_BF16. Hidden: LASS FRED LKGS LAM HRESET. */
#define LEAF7_1_EAX        (BIT(4) | BIT(5) | BIT(10) | BIT(11) | BIT(12))
#define LEAF7_1_EAX_AVX    BIT(4)
#define LEAF7_1_EAX_AVX512 BIT(5)

/* Leaf 0xD.1 EAX: XSAVEOPT XSAVEC XGETBV1. */
#define LEAFD_1_EAX        (BIT(0) | BIT(1) | BIT(2))
#define LEAFD_1_EAX_XSAVES BIT(3)

/* Components of XCR0: x87 SSE AVX, the three of AVX-512, PKRU. */
#define XCR0_AVX    BIT(2)
#define XCR0_AVX512 (BIT(5) | BIT(6) | BIT(7))
#define XCR0_PKRU   BIT(9)
#define XCR0_ALL    (BIT(0) | BIT(1) | XCR0_AVX | XCR0_AVX512 | XCR0_PKRU)

/* Leaf 8000_0001 ECX: LAHF ABM SSE4A MisAlignSse 3DNowPrefetch XOP FMA4 TCE TBM. Hidden: SVM
 * ExtApic AltMovCr8 OSVW IBS SKINIT WDT LWP NodeId TopologyExtensions PerfCtrExt* DBX PerfTsc
 * MONITORX. */
#define EXT1_ECX                                                                                   \
    (BIT(0) | BIT(5) | BIT(6) | BIT(7) | BIT(8) | BIT(11) | BIT(16) | BIT(17) | BIT(21))
#define EXT1_ECX_CMP_LEGACY BIT(1)
#define EXT1_ECX_AVX        (BIT(11) | BIT(16)) /* XOP FMA4 */

/* Leaf 8000_0001 EDX: SYSCALL NX MMXEXT 1-GByte pages LM 3DNow; hidden: MP FFXSR. AMD repeats leaf
 * 1's bits in those that the two have in common. */
#define EXT1_EDX        (BIT(11) | BIT(20) | BIT(22) | BIT(26) | BIT(29) | BIT(30) | BIT(31))
#define EXT1_EDX_COMMON 0x0183f3ffu
#define EXT1_EDX_RDTSCP BIT(27)

/* Leaf 8000_0008 EBX: CLZERO XSAVEERPTR WBNOINVD IBPB IBRS STIBP and their preferences, SSBD
 * SSB_NO. Hidden: INSTRET MSRs, INVLPGB, RDPRU, VIRT_SSBD, CPPC, PSFD. */
#define EXT8_EBX                                                                                   \
    (BIT(0) | BIT(2) | BIT(9) | BIT(12) | BIT(14) | BIT(15) | BIT(16) | BIT(17) | BIT(18) |        \
     BIT(19) | BIT(24) | BIT(26))

/* Leaf 8000_0021 EAX: NoNestedDataBp, LFENCE serializes, NullSelectorClearsBase. */
#define EXT21_EAX (BIT(0) | BIT(2) | BIT(6))

/* ---- The table ---- */

bool virtx_cpuid_has_subleaves(uint32_t leaf)
{
    switch (leaf) {
    case 0x4:
    case 0x7:
    case 0xb:
    case 0xd:
    case 0xf:
    case 0x10:
    case 0x12:
    case 0x14:
    case 0x17:
    case 0x18:
    case 0x1a:
    case 0x1b:
    case 0x1d:
    case 0x1e:
    case 0x1f:
    case 0x20:
    case 0x8000001d:
    case 0x80000020:
    case 0x80000026:
        return true;
    default:
        return false;
    }
}

static inline const struct virtx_cpuid_entry *find_in(const struct cpuid_table *table,
                                                      uint32_t leaf, uint32_t subleaf)
{
    for (uint32_t i = 0; i < table->count; i++)
        if (table->entry[i].leaf == leaf && table->entry[i].subleaf == subleaf)
            return &table->entry[i];
    return NULL;
}

static const struct virtx_cpuid_entry *find(const struct cpuid_view *view, uint32_t leaf,
                                            uint32_t subleaf)
{
    const struct virtx_cpuid_entry *entry = NULL;

    if (!virtx_cpuid_has_subleaves(leaf))
        subleaf = 0;
    if (view->own)
        entry = find_in(view->own, leaf, subleaf);
    return entry ? entry : find_in(view->vms, leaf, subleaf);
}

/* The leaf that answers; with `*zero` set the answer is zeros. */
static uint32_t resolve(const struct cpuid_view *view, uint32_t leaf, bool *zero)
{
    const struct virtx_cpuid_entry *basic = find(view, 0, 0), *one = find(view, 1, 0);
    const struct virtx_cpuid_entry *limit = NULL;
    uint32_t group = leaf & 0xffff0000;

    *zero = false;
    if (group == 0)
        limit = basic;
    else if (group == EXTENDED)
        limit = find(view, EXTENDED, 0);
    else if (group == HYPERVISOR && one && (one->ecx & LEAF1_ECX_HYPERVISOR))
        limit = find(view, HYPERVISOR, 0);
    if (limit && leaf <= limit->eax)
        return leaf;
    /* Out of range: Intel's highest basic leaf answers; AMD's answer is zeros, and ours in the
     * range of hypervisors. */
    *zero = !basic || virtx_cpuid_is_amd(basic->ebx) || (group == HYPERVISOR && limit);
    return *zero ? leaf : basic->eax;
}

void virtx_cpuid_answer(struct cpuid_view view, uint32_t leaf, uint32_t subleaf,
                        struct virtx_cpuid_entry *out)
{
    const struct virtx_cpuid_entry *entry;
    bool zero;
    uint32_t answers = resolve(&view, leaf, &zero);

    entry = zero ? NULL : find(&view, answers, subleaf);
    if (entry) {
        *out = *entry;
    } else {
        memset(out, 0, sizeof(*out));
        out->leaf = answers;
        /* "CPUID—CPU Identification": at every level ECX[7:0] is the one on input. */
        if (!zero && (answers == 0xb || answers == 0x1f))
            out->ecx = subleaf & 0xff;
    }
    out->subleaf = subleaf;
}

/* ---- The default policy ---- */

/* What all leaves need to know. */
struct policy {
    const struct virtx_vm *vm;
    struct cpuid_table *table;
    bool amd;
    uint32_t vcpus;   /* as the topology leaves tell */
    uint32_t id_bits; /* of an APIC ID */
    uint32_t max_basic, max_extended;
    uint64_t features; /* virtx_caps.features */
    uint64_t xcr0;     /* 0: no XSAVE */
    struct cpuid_regs one, seven;
};

static void add(struct policy *p, uint32_t leaf, uint32_t subleaf, uint32_t eax, uint32_t ebx,
                uint32_t ecx, uint32_t edx)
{
    if (p->table->count < VIRTX_CPUID_ENTRIES)
        p->table->entry[p->table->count++] =
            (struct virtx_cpuid_entry){leaf, subleaf, eax, ebx, ecx, edx};
}

static void gather(struct policy *p, const struct virtx_vm *vm, struct cpuid_table *table)
{
    struct cpuid_regs zero = x86_cpuid(0, 0), extended = x86_cpuid(EXTENDED, 0);

    memset(p, 0, sizeof(*p));
    p->vm = vm;
    p->table = table;
    table->count = 0;
    p->amd = virtx_cpuid_is_amd(zero.ebx);
    p->vcpus = vm->config.max_vcpus;
    while (p->vcpus > 1u << p->id_bits)
        p->id_bits++;
    p->features = vm->virtx->caps.features;
    p->max_basic = (uint32_t)min_u64(zero.eax, MAX_BASIC);
    p->max_extended =
        extended.eax < EXTENDED
            ? EXTENDED
            : (uint32_t)min_u64(extended.eax, p->amd ? MAX_EXTENDED_AMD : MAX_EXTENDED_INTEL);
    p->one = x86_cpuid(1, 0);
    if (p->max_basic >= 7)
        p->seven = x86_cpuid(7, 0);
    if (p->max_basic >= 0xd && (p->one.ecx & LEAF1_ECX_XSAVE)) {
        struct cpuid_regs d = x86_cpuid(0xd, 0);

        p->xcr0 = ((uint64_t)d.edx << 32 | d.eax) & XCR0_ALL;
        if ((p->xcr0 & XCR0_AVX512) != XCR0_AVX512 || !(p->xcr0 & XCR0_AVX))
            p->xcr0 &= ~XCR0_AVX512; /* they come together */
        if (!(p->seven.ecx & LEAF7_ECX_PKU))
            p->xcr0 &= ~XCR0_PKRU;
        /* A component without a size cannot be saved: emulators have been seen to offer PKRU so. */
        for (uint32_t i = 2; i < 64; i++)
            if ((p->xcr0 >> i & 1) && !x86_cpuid(0xd, i).eax)
                p->xcr0 &= ~(1ull << i);
    }
    add(p, 0, 0, p->max_basic, zero.ebx, zero.ecx, zero.edx);
}

static void leaf_1(struct policy *p)
{
    uint32_t ecx = p->one.ecx & LEAF1_ECX, edx = p->one.edx & LEAF1_EDX;
    uint32_t ebx = (p->one.ebx & 0xff00) | (1u << p->id_bits & 0xff) << 16; /* CLFLUSH, IDs */

    if (!p->xcr0)
        ecx &= ~(uint32_t)(LEAF1_ECX_XSAVE | LEAF1_ECX_AVX);
    if (!(p->xcr0 & XCR0_AVX))
        ecx &= ~(uint32_t)LEAF1_ECX_AVX;
    if (p->features & VIRTX_FEATURE_NESTED_PAGING)
        ecx |= p->one.ecx & LEAF1_ECX_PCID;
    ecx |= LEAF1_ECX_HYPERVISOR;
    if (p->vcpus > 1)
        edx |= LEAF1_EDX_HTT;
    if (p->id_bits >= 8)
        ebx |= 255u << 16; /* the field has 8 bits */
    add(p, 1, 0, p->one.eax, ebx, ecx, edx);
}

/* Caches (Intel "deterministic cache parameters", AMD's copy in 8000_001D): nothing is shared by
 * threads of a core; the last level by all. */
static void leaf_4(struct policy *p)
{
    for (uint32_t i = 0; i < 6; i++) {
        struct cpuid_regs r = x86_cpuid(4, i);
        uint32_t all = (1u << p->id_bits) - 1, cores = all > 63 ? 63 : all;

        if (!(r.eax & 0x1f))
            break;
        r.eax &= 0x3fff;
        if ((r.eax >> 5 & 7) >= 3)
            r.eax |= all << 14;
        add(p, 4, i, r.eax | cores << 26, r.ebx, r.ecx, r.edx);
    }
}

static void leaf_7(struct policy *p)
{
    uint32_t ebx = p->seven.ebx & LEAF7_EBX, ecx = p->seven.ecx & LEAF7_ECX;
    uint32_t edx = p->seven.edx & LEAF7_EDX, last = p->seven.eax ? 1 : 0;
    struct cpuid_regs more = {0};

    if (last)
        more = x86_cpuid(7, 1);
    more.eax &= LEAF7_1_EAX;
    if (p->features & VIRTX_FEATURE_INVPCID)
        ebx |= p->seven.ebx & LEAF7_EBX_INVPCID;
    if (p->features & VIRTX_FEATURE_RDTSCP)
        ecx |= p->seven.ecx & LEAF7_ECX_RDPID;
    if (p->xcr0 & XCR0_PKRU)
        ecx |= p->seven.ecx & LEAF7_ECX_PKU;
    if (!(p->xcr0 & XCR0_AVX)) {
        ebx &= ~(uint32_t)LEAF7_EBX_AVX;
        ecx &= ~(uint32_t)LEAF7_ECX_AVX;
        more.eax &= ~(uint32_t)LEAF7_1_EAX_AVX;
    }
    if (!(p->xcr0 & XCR0_AVX512)) {
        ebx &= ~(uint32_t)LEAF7_EBX_AVX512;
        ecx &= ~(uint32_t)LEAF7_ECX_AVX512;
        edx &= ~(uint32_t)LEAF7_EDX_AVX512;
        more.eax &= ~(uint32_t)LEAF7_1_EAX_AVX512;
    }
    add(p, 7, 0, last, ebx, ecx, edx);
    if (last)
        add(p, 7, 1, more.eax, 0, 0, 0);
}

/* Topology: one package, as many cores as vcpus, one thread each. */
static void leaf_b(struct policy *p)
{
    add(p, 0xb, 0, 0, 1, 0x100, 0);
    add(p, 0xb, 1, p->id_bits, p->vcpus, 0x201, 0);
}

static void leaf_d(struct policy *p)
{
    struct cpuid_regs one = x86_cpuid(0xd, 1);
    uint32_t size = 512 + 64, may = LEAFD_1_EAX;

    if (p->features & VIRTX_FEATURE_XSAVES)
        may |= LEAFD_1_EAX_XSAVES;
    for (uint32_t i = 2; i < 64; i++) {
        struct cpuid_regs r;

        if (!(p->xcr0 >> i & 1))
            continue;
        r = x86_cpuid(0xd, i);
        if (r.eax + r.ebx > size)
            size = r.eax + r.ebx;
        add(p, 0xd, i, r.eax, r.ebx, r.ecx & ~1u, 0);
    }
    add(p, 0xd, 0, (uint32_t)p->xcr0, size, size, (uint32_t)(p->xcr0 >> 32));
    add(p, 0xd, 1, one.eax & may, 0, 0, 0);
}

/* The TSC's frequency as crystal * EBX / EAX, with a crystal that fits 32 bits. */
static void leaf_15(struct policy *p)
{
    uint64_t hz = p->vm->config.tsc_hz, factor = 1;

    while (hz / factor > UINT32_MAX)
        factor++;
    if (p->max_basic >= 0x15)
        add(p, 0x15, 0, 1, (uint32_t)factor, (uint32_t)(hz / factor), 0);
    if (p->max_basic >= 0x16) {
        uint32_t mhz = (uint32_t)min_u64(hz / 1000000, 0xffff);

        add(p, 0x16, 0, mhz, mhz, 0, 0);
    }
}

static void basic_leaves(struct policy *p)
{
    struct cpuid_regs r;

    if (p->max_basic >= 1)
        leaf_1(p);
    if (p->max_basic >= 2 && !p->amd) {
        r = x86_cpuid(2, 0);
        add(p, 2, 0, r.eax, r.ebx, r.ecx, r.edx);
    }
    if (p->max_basic >= 4 && !p->amd)
        leaf_4(p);
    if (p->max_basic >= 7)
        leaf_7(p);
    if (p->max_basic >= 0xb)
        leaf_b(p);
    if (p->xcr0)
        leaf_d(p);
    if (p->vm->config.tsc_hz && !p->amd)
        leaf_15(p);
}

static void ext_1(struct policy *p)
{
    struct cpuid_regs r = x86_cpuid(EXTENDED + 1, 0);
    uint32_t ecx = r.ecx & EXT1_ECX, edx = r.edx & EXT1_EDX;

    if (!(p->xcr0 & XCR0_AVX))
        ecx &= ~(uint32_t)EXT1_ECX_AVX;
    if (p->features & VIRTX_FEATURE_RDTSCP)
        edx |= r.edx & EXT1_EDX_RDTSCP;
    if (p->amd) {
        edx |= p->one.edx & LEAF1_EDX & EXT1_EDX_COMMON & r.edx;
        if (p->vcpus > 1)
            ecx |= EXT1_ECX_CMP_LEGACY;
    }
    add(p, EXTENDED + 1, 0, r.eax, p->amd ? r.ebx : 0, ecx, edx);
}

static void ext_8(struct policy *p)
{
    const struct virtx_caps *caps = &p->vm->virtx->caps;
    struct cpuid_regs r = x86_cpuid(EXTENDED + 8, 0);
    uint32_t ecx = p->amd ? p->id_bits << 12 | (p->vcpus - 1) : 0;

    add(p, EXTENDED + 8, 0, caps->guest_physical_bits | 48u << 8,
        r.ebx & (p->amd ? EXT8_EBX : BIT(9)), ecx, 0);
}

static void extended_leaves(struct policy *p)
{
    struct cpuid_regs r = x86_cpuid(EXTENDED, 0);

    add(p, EXTENDED, 0, p->max_extended, p->amd ? r.ebx : 0, p->amd ? r.ecx : 0,
        p->amd ? r.edx : 0);
    for (uint32_t leaf = EXTENDED + 1; leaf <= p->max_extended; leaf++) {
        r = x86_cpuid(leaf, 0);
        switch (leaf - EXTENDED) {
        case 0x1:
            ext_1(p);
            break;
        case 0x2: /* the brand string */
        case 0x3:
        case 0x4:
        case 0x5: /* caches and TLBs */
        case 0x6:
        case 0x19:
        case 0x1a: /* hints about vector units */
            add(p, leaf, 0, r.eax, r.ebx, r.ecx, r.edx);
            break;
        case 0x7: /* of power management the invariant TSC only */
            add(p, leaf, 0, 0, 0, 0, r.edx & BIT(8));
            break;
        case 0x8:
            ext_8(p);
            break;
        case 0x21:
            add(p, leaf, 0, r.eax & EXT21_EAX, 0, 0, 0);
            break;
        default: /* SVM, IBS, LWP, memory encryption, topology extensions: zeros */
            break;
        }
    }
}

void virtx_cpuid_fill(const struct virtx_vm *vm, struct cpuid_table *table)
{
    struct policy p;

    gather(&p, vm, table);
    basic_leaves(&p);
    add(&p, HYPERVISOR, 0, HYPERVISOR_TSC, 0x7662696c, 0x78747269, 0x006d6d76); /* libvirtxvmm */
    add(&p, HYPERVISOR_TSC, 0, (uint32_t)(vm->config.tsc_hz / 1000), 0, 0, 0);
    extended_leaves(&p);
}

void virtx_cpuid_default(struct virtx_vm *vm)
{
    virtx_cpuid_fill(vm, &vm->cpuid_first);
    vm->cpuid_first.version = vm->cpuid_version = 1;
    atomic_store(&vm->cpuid, &vm->cpuid_first);
}

/* ---- What may be changed ---- */

/* Registers of the leaves that hold feature bits, and the bits that may be set though the default
 * policy leaves them clear: what a LAPIC provides, and what says nothing about the processor. */
static const struct features {
    uint32_t leaf, subleaf;
    uint32_t eax, ebx, ecx, edx; /* which bits are features */
    uint32_t more_ecx, more_edx; /* … and may be set at will */
} features[] = {
    {1, 0, 0, 0, UINT32_MAX, UINT32_MAX,
     LEAF1_ECX_X2APIC | LEAF1_ECX_TSC_DEADLINE | LEAF1_ECX_OSXSAVE | LEAF1_ECX_HYPERVISOR,
     LEAF1_EDX_HTT | LEAF1_EDX_MCE_MCA},
    {7, 0, 0, UINT32_MAX, UINT32_MAX, UINT32_MAX, LEAF7_ECX_OSPKE, 0},
    {7, 1, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, 0, 0},
    {7, 2, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, 0, 0},
    {0xd, 0, UINT32_MAX, 0, 0, UINT32_MAX, 0, 0},
    {0xd, 1, UINT32_MAX, 0, UINT32_MAX, UINT32_MAX, 0, 0},
    {EXTENDED + 1, 0, 0, 0, UINT32_MAX, UINT32_MAX, EXT1_ECX_CMP_LEGACY, 0},
    {EXTENDED + 8, 0, 0, UINT32_MAX, 0, 0, 0, 0},
    {EXTENDED + 0xa, 0, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, 0, 0},
    {EXTENDED + 0x21, 0, UINT32_MAX, 0, 0, 0, 0, 0},
};

/* The feature bits of an entry that neither the default policy nor the list above grants. */
uint64_t virtx_cpuid_cannot_work(const struct virtx_vm *vm, const struct virtx_cpuid_entry *wanted)
{
    struct cpuid_table table;
    struct virtx_cpuid_entry has;

    virtx_cpuid_fill(vm, &table);
    virtx_cpuid_answer((struct cpuid_view){NULL, &table}, wanted->leaf, wanted->subleaf, &has);
    if (has.leaf != wanted->leaf)
        memset(&has, 0, sizeof(has));
    for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
        const struct features *f = &features[i];

        if (f->leaf != wanted->leaf ||
            (virtx_cpuid_has_subleaves(f->leaf) && f->subleaf != wanted->subleaf))
            continue;
        return (uint64_t)(wanted->ecx & f->ecx & ~(has.ecx | f->more_ecx)) << 32 |
               (wanted->eax & f->eax & ~has.eax) | (wanted->ebx & f->ebx & ~has.ebx) |
               (wanted->edx & f->edx & ~(has.edx | f->more_edx));
    }
    /* Where the processor puts a component in the XSAVE area, and how large it is. */
    if (wanted->leaf == 0xd)
        return (wanted->eax ^ has.eax) | (wanted->ebx ^ has.ebx);
    return 0;
}
