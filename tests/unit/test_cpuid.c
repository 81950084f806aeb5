/* SPDX-License-Identifier: BSD-2-Clause */
/* The default CPUID policy on recorded processors, the rules for leaves out of range, and changes.
 */
#include "fake.h"

#include <string.h>

struct leaf {
    uint32_t leaf, subleaf, eax, ebx, ecx, edx;
};

/* Core i9-7900X (2017): AVX-512, MPX, PT, SMX, performance monitoring, 20 threads. */
static const struct leaf skylake_x[] = {
    {0x0, 0, 0x16, 0x756e6547, 0x6c65746e, 0x49656e69},
    {0x1, 0, 0x00050654, 0x00200800, 0x7ffefbbf, 0xbfebfbff},
    {0x2, 0, 0x76036301, 0x00f0b5ff, 0, 0x00c30000},
    {0x4, 0, 0x3c004121, 0x01c0003f, 0x0000003f, 0},
    {0x4, 1, 0x3c004122, 0x01c0003f, 0x0000003f, 0},
    {0x4, 2, 0x3c004143, 0x03c0003f, 0x000003ff, 0},
    {0x4, 3, 0x3c07c163, 0x0280003f, 0x00004fff, 4},
    {0x5, 0, 0x40, 0x40, 3, 0x2020},
    {0x6, 0, 0x77, 2, 9, 0},
    {0x7, 0, 0, 0xd39ffffb, 0, 0},
    {0xa, 0, 0x07300404, 0, 0, 0x603},
    {0xb, 0, 1, 2, 0x100, 0},
    {0xb, 1, 5, 0x14, 0x201, 0},
    {0xd, 0, 0xff, 0xa80, 0xa80, 0},
    {0xd, 1, 0xf, 0xa00, 0x100, 0},
    {0xd, 2, 0x100, 0x240, 0, 0},
    {0xd, 3, 0x40, 0x3c0, 0, 0},
    {0xd, 4, 0x40, 0x400, 0, 0},
    {0xd, 5, 0x40, 0x440, 0, 0},
    {0xd, 6, 0x200, 0x480, 0, 0},
    {0xd, 7, 0x400, 0x680, 0, 0},
    {0xd, 8, 0x80, 0, 1, 0},
    {0xf, 0, 0, 0x4f, 0, 2},
    {0x10, 0, 0, 0xa, 0, 0},
    {0x14, 0, 1, 0xf, 7, 0},
    {0x15, 0, 2, 0x114, 0, 0},
    {0x16, 0, 0xce4, 0xfa0, 0x64, 0},
    {0x80000000, 0, 0x80000008, 0, 0, 0},
    {0x80000001, 0, 0, 0, 0x121, 0x2c100800},
    {0x80000002, 0, 0x65746e49, 0x2952286c, 0x726f4320, 0x4d542865},
    {0x80000003, 0, 0x39692029, 0x3039372d, 0x43205830, 0x40205550},
    {0x80000004, 0, 0x332e3320, 0x7a484730, 0, 0},
    {0x80000006, 0, 0, 0, 0x01006040, 0},
    {0x80000007, 0, 0, 0, 0, 0x100},
    {0x80000008, 0, 0x302e, 0, 0, 0},
};

/* Core i7-920 (2008): no AVX, no XSAVE, no leaf 7; its highest basic leaf is the topology. */
static const struct leaf nehalem[] = {
    {0x0, 0, 0xb, 0x756e6547, 0x6c65746e, 0x49656e69},
    {0x1, 0, 0x000106a5, 0x00100800, 0x0098e3bd, 0xbfebfbff},
    {0x4, 0, 0x1c004121, 0x01c0003f, 0x0000003f, 0},
    {0x4, 1, 0x1c004122, 0x00c0003f, 0x0000007f, 0},
    {0x4, 2, 0x1c004143, 0x01c0003f, 0x000001ff, 0},
    {0x4, 3, 0x1c03c163, 0x03c0003f, 0x00001fff, 2},
    {0xb, 0, 1, 2, 0x100, 0},
    {0xb, 1, 4, 8, 0x201, 0},
    {0x80000000, 0, 0x80000008, 0, 0, 0},
    {0x80000001, 0, 0, 0, 1, 0x28100800},
    {0x80000007, 0, 0, 0, 0, 0x100},
    {0x80000008, 0, 0x3024, 0, 0, 0},
};

/* Phenom II X4 940 (2008): SVM, 3DNow!, IBS. */
static const struct leaf k10[] = {
    {0x0, 0, 5, 0x68747541, 0x444d4163, 0x69746e65},
    {0x1, 0, 0x00100f42, 0x00040800, 0x00802009, 0x178bfbff},
    {0x5, 0, 0x40, 0x40, 3, 0},
    {0x80000000, 0, 0x8000001b, 0x68747541, 0x444d4163, 0x69746e65},
    {0x80000001, 0, 0x00100f42, 0x10001a86, 0x000037ff, 0xefd3fbff},
    {0x80000002, 0, 0x20444d41, 0x6e656850, 0x74286d6f, 0x4920296d},
    {0x80000003, 0, 0x34582049, 0x30343920, 0x6f725020, 0x73736563},
    {0x80000004, 0, 0x0000726f, 0, 0, 0},
    {0x80000005, 0, 0xff30ff10, 0xff30ff20, 0x40020140, 0x40020140},
    {0x80000006, 0, 0x20800000, 0x42004200, 0x02008140, 0x0030b140},
    {0x80000007, 0, 0, 0, 0, 0x1f9},
    {0x80000008, 0, 0x3030, 0, 0x2003, 0},
    {0x8000000a, 0, 1, 0x40, 0, 0xf},
    {0x80000019, 0, 0xf0300000, 0x60100000, 0, 0},
    {0x8000001a, 0, 3, 0, 0, 0},
    {0x8000001b, 0, 0x1f, 0, 0, 0},
};

/* EPYC 9004 (2022) as a hypervisor of today shows it to one of its guests: supervisor XSAVE
 * components for CET. */
static const struct leaf zen4[] = {
    {0x0, 0, 0x1c, 0x68747541, 0x444d4163, 0x69746e65},
    {0x1, 0, 0x00a10f11, 0x01020800, 0xfffa3203, 0x178bfbff},
    {0x6, 0, 4, 0, 0, 0},
    {0x7, 0, 1, 0xf1bf07ab, 0x00405fc6, 0x10},
    {0x7, 1, 0x20, 0, 0, 0},
    {0xb, 0, 0, 1, 0x100, 1},
    {0xb, 1, 5, 2, 0x201, 1},
    {0xd, 0, 0xe7, 0x980, 0x980, 0},
    {0xd, 1, 0xf, 0x9a8, 0x1800, 0},
    {0xd, 2, 0x100, 0x240, 0, 0},
    {0xd, 5, 0x40, 0x340, 0, 0},
    {0xd, 6, 0x200, 0x380, 0, 0},
    {0xd, 7, 0x400, 0x580, 0, 0},
    {0xd, 11, 0x10, 0, 1, 0},
    {0xd, 12, 0x18, 0, 1, 0},
    {0x80000000, 0, 0x80000021, 0x68747541, 0x444d4163, 0x69746e65},
    {0x80000001, 0, 0x00a10f11, 0x40000000, 0x004003f7, 0x2fd3fbff},
    {0x80000002, 0, 0x20444d41, 0x43595045, 0, 0},
    {0x80000005, 0, 0xff48ff40, 0xff48ff40, 0x20080140, 0x20080140},
    {0x80000006, 0, 0x5c002200, 0x6c004200, 0x04006140, 0x0a009140},
    {0x80000007, 0, 0, 0, 0, 0x100},
    {0x80000008, 0, 0x00303030, 0x50020005, 0x7001, 0},
    {0x8000001a, 0, 6, 0, 0, 0},
    {0x8000001d, 0, 0x121, 0x01c0003f, 0x3f, 0},
    {0x8000001e, 0, 1, 1, 0, 0},
    {0x80000021, 0, 0x204, 0, 0x86, 0},
};

static const struct leaf *processor;
static size_t leaves;

static struct cpuid_regs recorded(uint32_t leaf, uint32_t subleaf)
{
    for (size_t i = 0; i < leaves; i++)
        if (processor[i].leaf == leaf && processor[i].subleaf == subleaf)
            return (struct cpuid_regs){processor[i].eax, processor[i].ebx, processor[i].ecx,
                                       processor[i].edx};
    /* Leaves without subleaves answer the same for all. */
    if (subleaf && leaf != 4 && leaf != 7 && leaf != 0xb && leaf != 0xd && leaf != 0x8000001d)
        return recorded(leaf, 0);
    return (struct cpuid_regs){0};
}

static struct virtx *virtx;
static struct virtx_vm *vm;

#define BEGIN(table, vcpus, hz) begin(table, ARRAY_SIZE(table), vcpus, hz)

static void begin(const struct leaf *table, size_t count, uint32_t vcpus, uint64_t hz)
{
    struct virtx_vm_config config = {.size = sizeof(config), .max_vcpus = vcpus, .tsc_hz = hz};

    processor = table;
    leaves = count;
    fake.cpuid = recorded;
    virtx = fake_open();
    ck_assert_int_eq(virtx_vm_create(virtx, &config, &vm), VIRTX_OK);
    ck_assert_uint_lt(virtx_cpuid_vm(vm).vms->count, VIRTX_CPUID_ENTRIES - 16); /* room for the embedder's */
}

static void end(void)
{
    ck_assert_int_eq(virtx_vm_destroy(vm), VIRTX_OK);
    fake_close(virtx);
}

static struct virtx_cpuid_entry get(uint32_t leaf, uint32_t subleaf)
{
    struct virtx_cpuid_entry entry;

    ck_assert_int_eq(virtx_vm_cpuid_get(vm, leaf, subleaf, &entry), VIRTX_OK);
    return entry;
}

static void is(uint32_t leaf, uint32_t subleaf, uint32_t eax, uint32_t ebx, uint32_t ecx,
               uint32_t edx)
{
    struct virtx_cpuid_entry e = get(leaf, subleaf);

    ck_assert_msg(e.eax == eax && e.ebx == ebx && e.ecx == ecx && e.edx == edx,
                  "leaf %x.%u is %08x %08x %08x %08x and not %08x %08x %08x %08x", leaf, subleaf,
                  e.eax, e.ebx, e.ecx, e.edx, eax, ebx, ecx, edx);
}

static void hypervisor_leaves(uint32_t khz)
{
    static const char name[13] = "libvirtxvmm";
    struct virtx_cpuid_entry e = get(0x40000000, 0);

    ck_assert_uint_eq(e.eax, 0x40000010);
    ck_assert_mem_eq(&e.ebx, name, 4);
    ck_assert_mem_eq(&e.ecx, name + 4, 4);
    ck_assert_mem_eq(&e.edx, name + 8, 4);
    is(0x40000010, 0, khz, 0, 0, 0);
    is(0x40000001, 0, 0, 0, 0, 0);
    is(0x40000011, 0, 0, 0, 0, 0);
}

START_TEST(intel_with_avx512)
{
    BEGIN(skylake_x, 4, 3300000000u);
    is(0, 0, 0x16, 0x756e6547, 0x6c65746e, 0x49656e69);
    /* APIC ID is the vcpu's; 4 IDs; CLFLUSH of 64 bytes. ECX: SSE3 PCLMULQDQ SSSE3 FMA CX16 PCID
     * SSE4.1 SSE4.2 MOVBE POPCNT AES XSAVE AVX F16C RDRAND hypervisor. EDX: without MCE MCA PSN DS
     * ACPI TM PBE. */
    is(1, 0, 0x00050654, 0x00040800, 0xf6da3203, 0x1f8bbb7f);
    is(2, 0, 0x76036301, 0x00f0b5ff, 0, 0x00c30000);
    is(3, 0, 0, 0, 0, 0);
    /* Four cores of one thread; only the last level is shared. */
    is(4, 0, 0x0c000121, 0x01c0003f, 0x3f, 0);
    is(4, 2, 0x0c000143, 0x03c0003f, 0x3ff, 0);
    is(4, 3, 0x0c00c163, 0x0280003f, 0x4fff, 4);
    is(4, 4, 0, 0, 0, 0);
    is(5, 0, 0, 0, 0, 0);
    is(6, 0, 0, 0, 0, 0);
    /* d39ffffb without PQM, MPX and PQE; SGX was not there. PT (25) is not in d39ffffb. */
    is(7, 0, 0, 0xd19f2ffb, 0, 0);
    is(7, 1, 0, 0, 0, 0);
    is(0xa, 0, 0, 0, 0, 0);
    is(0xb, 0, 0, 1, 0x100, 0);
    is(0xb, 1, 2, 4, 0x201, 0);
    is(0xb, 2, 0, 0, 2, 0);
    /* XCR0 without the components of MPX; sizes up to the last one left. */
    is(0xd, 0, 0xe7, 0xa80, 0xa80, 0);
    is(0xd, 1, 7, 0, 0, 0); /* no XSAVES: the fake processor's feature is off */
    is(0xd, 2, 0x100, 0x240, 0, 0);
    is(0xd, 3, 0, 0, 0, 0);
    is(0xd, 8, 0, 0, 0, 0);
    is(0xf, 0, 0, 0, 0, 0);
    is(0x10, 0, 0, 0, 0, 0);
    is(0x12, 0, 0, 0, 0, 0);
    is(0x14, 0, 0, 0, 0, 0);
    is(0x15, 0, 1, 1, 3300000000u, 0);
    is(0x16, 0, 3300, 3300, 0, 0);
    hypervisor_leaves(3300000);
    is(0x80000000, 0, 0x80000008, 0, 0, 0);
    is(0x80000001, 0, 0, 0, 0x121, 0x2c100800);
    is(0x80000003, 0, 0x39692029, 0x3039372d, 0x43205830, 0x40205550);
    is(0x80000007, 0, 0, 0, 0, 0x100);
    is(0x80000008, 0, 0x3028, 0, 0, 0); /* 40 bits: what the fake hardware maps */
    /* Out of range: the highest basic leaf. */
    is(0x17, 0, 3300, 3300, 0, 0);
    is(0x12345678, 0, 3300, 3300, 0, 0);
    is(0x80000009, 0, 3300, 3300, 0, 0);
    ck_assert_uint_eq(get(0x80000009, 0).leaf, 0x16);
    end();
}
END_TEST

START_TEST(intel_without_xsave)
{
    BEGIN(nehalem, 1, 0);
    /* 0098e3bd: SSE3 SSSE3 CX16 SSE4.1 SSE4.2 POPCNT; one vcpu: no HTT. */
    is(1, 0, 0x000106a5, 0x00010800, 0x80982201, 0x0f8bbb7f);
    is(4, 3, 0x163, 0x03c0003f, 0x1fff, 2);
    is(0xb, 0, 0, 1, 0x100, 0);
    is(0xb, 1, 0, 1, 0x201, 0);
    is(0x80000001, 0, 0, 0, 1, 0x28100800);
    hypervisor_leaves(0);
    /* The highest basic leaf answers with the subleaf that was asked for. */
    is(7, 0, 0, 0, 0, 0);
    is(0xd, 1, 0, 1, 0x201, 0);
    is(0xd, 9, 0, 0, 9, 0);
    is(0x15, 0, 0, 1, 0x100, 0);
    ck_assert_uint_eq(get(0xd, 1).leaf, 0xb); /* so that whoever fills in the ID knows */
    ck_assert_uint_eq(get(0xd, 1).subleaf, 1);
    end();
}
END_TEST

START_TEST(amd_of_2008)
{
    BEGIN(k10, 4, 3000000000u);
    is(0, 0, 5, 0x68747541, 0x444d4163, 0x69746e65);
    /* 00802009: SSE3, CX16, POPCNT; MONITOR hidden. */
    is(1, 0, 0x00100f42, 0x00040800, 0x80802001, 0x178bbb7f);
    is(5, 0, 0, 0, 0, 0);
    /* 000037ff: LAHF CmpLegacy ABM SSE4A MisAlignSse 3DNowPrefetch stay; SVM ExtApic AltMovCr8 OSVW
     * IBS SKINIT WDT go. efd3fbff loses MCE, MCA and FFXSR. */
    is(0x80000001, 0, 0x00100f42, 0x10001a86, 0x1e3, 0xedd3bb7f);
    is(0x80000000, 0, 0x8000001b, 0x68747541, 0x444d4163, 0x69746e65);
    is(0x80000005, 0, 0xff30ff10, 0xff30ff20, 0x40020140, 0x40020140);
    is(0x80000007, 0, 0, 0, 0, 0x100);
    is(0x80000008, 0, 0x3028, 0, 0x2003, 0); /* 4 cores, 2 bits of APIC ID */
    is(0x8000000a, 0, 0, 0, 0, 0);
    is(0x80000019, 0, 0xf0300000, 0x60100000, 0, 0);
    is(0x8000001b, 0, 0, 0, 0, 0);
    hypervisor_leaves(3000000);
    /* Out of range: zeros. */
    is(7, 0, 0, 0, 0, 0);
    is(0xb, 1, 0, 0, 0, 0);
    is(0x15, 0, 0, 0, 0, 0);
    is(0x8000001c, 0, 0, 0, 0, 0);
    end();
}
END_TEST

START_TEST(amd_of_2022)
{
    BEGIN(zen4, 255, 0);
    ck_assert_uint_eq(get(0, 0).eax, 0x16);
    /* fffa3203 without x2APIC, TSC-deadline, OSXSAVE; the count of IDs has 8 bits. */
    is(1, 0, 0x00a10f11, 0x00ff0800, 0xf6da3203, 0x178bbb7f);
    /* f1bf07ab: INVPCID by feature, nothing else to hide. 00405fc6: RDPID by feature, LA57 not
     * there, CET (7) and PKU hidden (no PKRU in XCR0). */
    is(7, 0, 1, 0xf1bf07ab, 0x00405f46, 0x10);
    is(7, 1, 0x20, 0, 0, 0);
    is(0xb, 1, 8, 255, 0x201, 0);
    is(0xd, 0, 0xe7, 0x980, 0x980, 0);
    is(0xd, 1, 7, 0, 0, 0);
    is(0xd, 11, 0, 0, 0, 0); /* CET's supervisor state */
    /* 004003f7: SVM, AltMovCr8, OSVW and topology extensions hidden. */
    is(0x80000001, 0, 0x00a10f11, 0x40000000, 0x1e3, 0x2dd3bb7f);
    is(0x80000008, 0, 0x3028, 0x40020005 & 0x050fd205, 0x80fe, 0);
    is(0x8000001d, 0, 0, 0, 0, 0);
    is(0x8000001e, 0, 0, 0, 0, 0);
    is(0x80000021, 0, 4, 0, 0, 0);
    is(0x80000022, 0, 0, 0, 0, 0);
    end();
}
END_TEST

START_TEST(features_switched_off)
{
    struct virtx_config config = fake_config();

    processor = zen4;
    leaves = ARRAY_SIZE(zen4);
    fake.cpuid = recorded;
    config.disable = VIRTX_FEATURE_RDTSCP | VIRTX_FEATURE_INVPCID | VIRTX_FEATURE_NESTED_PAGING;
    ck_assert_int_eq(virtx_open(&config, &virtx, NULL), VIRTX_OK);
    ck_assert_int_eq(virtx_vm_create(virtx, NULL, &vm), VIRTX_OK);
    ck_assert_uint_eq(get(7, 0).ebx, 0xf1bf03ab);          /* no INVPCID */
    ck_assert_uint_eq(get(7, 0).ecx, 0x00005f46);          /* no RDPID */
    ck_assert_uint_eq(get(1, 0).ecx, 0xf6d83203);          /* no PCID */
    ck_assert_uint_eq(get(0x80000001, 0).edx, 0x25d3bb7f); /* no RDTSCP */
    end();
}
END_TEST

/* A processor with everything there is, now and later: what is not listed does not get through. */
static struct cpuid_regs everything(uint32_t leaf, uint32_t subleaf)
{
    switch (leaf) {
    case 0:
        return (struct cpuid_regs){0x40, 0x756e6547, 0x6c65746e, 0x49656e69};
    case 0x80000000:
        return (struct cpuid_regs){0x800000ff, 0, 0, 0};
    case 4:
        return subleaf < 4 ? (struct cpuid_regs){~0u, ~0u, ~0u, ~0u} : (struct cpuid_regs){0};
    case 0xd:
        return subleaf < 2 ? (struct cpuid_regs){~0u, ~0u, ~0u, ~0u}
                           : (struct cpuid_regs){64, 576 + 64 * subleaf, 0, 0};
    default:
        return (struct cpuid_regs){~0u, ~0u, ~0u, ~0u};
    }
}

START_TEST(unknown_features_are_hidden)
{
    struct virtx_cpuid_entry e;

    fake.cpuid = everything;
    virtx = fake_open();
    vm = fake_vm(virtx);
    ck_assert_uint_eq(get(0, 0).eax, 0x16);
    ck_assert_uint_eq(get(0x80000000, 0).eax, 0x80000008);
    e = get(1, 0);
    /* DTES64 MONITOR DS-CPL VMX SMX EIST TM2 CNXT SDBG xTPR PDCM 16 DCA x2APIC TSC-deadline OSXSAVE
     */
    ck_assert_uint_eq(e.ecx, ~0u & ~0x0925cdfcu);
    ck_assert_uint_eq(e.edx & (1u << 7 | 1u << 14), 0); /* MCE, MCA */
    e = get(7, 0);
    ck_assert_uint_eq(e.ebx & (1u << 2 | 1u << 12 | 1u << 14 | 1u << 15 | 1u << 25), 0);
    /* WAITPKG CET_SS TME LA57 KL ENQCMD SGX_LC PKS OSPKE */
    ck_assert_uint_eq(e.ecx & (1u << 4 | 1u << 5 | 1u << 7 | 1u << 13 | 1u << 16 | 0x1fu << 17 |
                               1u << 23 | 1u << 24 | 1u << 29 | 1u << 30 | 1u << 31),
                      0);
    ck_assert_uint_ne(e.ecx & 1u << 3, 0); /* PKU: PKRU is among the components */
    /* SRBDS HYBRID PCONFIG LBR CET_IBT AMX CORE_CAPABILITIES */
    ck_assert_uint_eq(e.edx & (1u << 9 | 1u << 15 | 1u << 18 | 1u << 19 | 1u << 20 | 1u << 22 |
                               1u << 24 | 1u << 25 | 1u << 30),
                      0);
    ck_assert_uint_eq(get(7, 1).eax, 0x1c30);
    is(7, 2, 0, 0, 0, 0);
    e = get(0xd, 0);
    ck_assert_uint_eq(e.eax, 0x2e7);
    ck_assert_uint_eq(e.edx, 0);
    ck_assert_uint_eq(e.ecx, 576 + 64 * 9 + 64);
    is(0xd, 1, 7, 0, 0, 0);
    is(0xd, 17, 0, 0, 0, 0); /* AMX */
    is(0xa, 0, 0, 0, 0, 0);
    is(0x80000007, 0, 0, 0, 0, 0x100);
    ck_assert_uint_eq(get(0x80000001, 0).ecx & (1u << 2 | 1u << 10 | 1u << 12 | 1u << 22), 0);
    ck_assert_uint_eq(get(0x80000001, 0).edx & (1u << 25), 0);
    end();
}
END_TEST

START_TEST(tsc_beyond_32_bits)
{
    BEGIN(skylake_x, 1, 5000000000u);
    is(0x15, 0, 1, 2, 2500000000u, 0);
    is(0x16, 0, 5000, 5000, 0, 0);
    hypervisor_leaves(5000000);
    end();
    BEGIN(skylake_x, 1, 0);
    is(0x15, 0, 0, 0, 0, 0);
    is(0x16, 0, 0, 0, 0, 0);
    end();
}
END_TEST

START_TEST(varying_fields)
{
    ck_assert(virtx_cpuid_varies(1, 0) && virtx_cpuid_varies(1, 5));
    ck_assert(virtx_cpuid_varies(7, 0) && !virtx_cpuid_varies(7, 1));
    ck_assert(virtx_cpuid_varies(0xb, 3) && virtx_cpuid_varies(0x1f, 0));
    ck_assert(virtx_cpuid_varies(0xd, 0) && virtx_cpuid_varies(0xd, 1));
    ck_assert(!virtx_cpuid_varies(0xd, 2) && !virtx_cpuid_varies(0, 0));
    ck_assert(!virtx_cpuid_varies(0x80000001, 0));
}
END_TEST

static enum virtx_status set(uint32_t leaf, uint32_t subleaf, uint32_t eax, uint32_t ebx,
                             uint32_t ecx, uint32_t edx)
{
    struct virtx_cpuid_entry entry = {leaf, subleaf, eax, ebx, ecx, edx};

    return virtx_vm_cpuid_set(vm, &entry);
}

START_TEST(changes)
{
    struct virtx_cpuid_entry one, entry;
    struct virtx_vcpu *vcpu;
    unsigned free_entries;

    BEGIN(skylake_x, 2, 0);
    one = get(1, 0);
    ck_assert_int_eq(virtx_vm_cpuid_set(vm, NULL), VIRTX_E_INVALID);
    ck_assert_int_eq(virtx_vm_cpuid_get(vm, 0, 0, NULL), VIRTX_E_INVALID);
    /* Take a feature away, and give it back. */
    entry = one;
    entry.ecx &= ~(1u << 30);
    ck_assert_int_eq(virtx_vm_cpuid_set(vm, &entry), VIRTX_OK);
    ck_assert_uint_eq(get(1, 0).ecx, one.ecx & ~(1u << 30));
    ck_assert_int_eq(virtx_vm_cpuid_set(vm, &one), VIRTX_OK);
    ck_assert_uint_eq(get(1, 0).ecx, one.ecx);
    /* What a LAPIC brings, and a machine check without banks; what cannot work: VMX, MONITOR, DS,
     * SVM, CET, AMX, XSS. */
    entry = one;
    entry.edx |= 1u << 7 | 1u << 14;
    ck_assert_int_eq(virtx_vm_cpuid_set(vm, &entry), VIRTX_OK);
    entry = one;
    entry.ecx |= 1u << 21 | 1u << 24;
    ck_assert_int_eq(virtx_vm_cpuid_set(vm, &entry), VIRTX_OK);
    entry.ecx |= 1u << 5;
    ck_assert_int_eq(virtx_vm_cpuid_set(vm, &entry), VIRTX_E_UNSUPPORTED);
    fake_error(virtx_vm_last_error(vm), VIRTX_E_UNSUPPORTED, "entry");
    ck_assert_uint_eq(get(1, 0).ecx, one.ecx | 1u << 21 | 1u << 24);
    entry = one;
    entry.edx |= 1u << 21;
    ck_assert_int_eq(virtx_vm_cpuid_set(vm, &entry), VIRTX_E_UNSUPPORTED);
    entry = get(7, 0);
    entry.ecx |= 1u << 7;
    ck_assert_int_eq(virtx_vm_cpuid_set(vm, &entry), VIRTX_E_UNSUPPORTED);
    ck_assert_int_eq(set(7, 1, 1u << 4, 0, 0, 0), VIRTX_E_UNSUPPORTED); /* not on this processor */
    ck_assert_int_eq(set(0xd, 0, 0xff, 0, 0, 0), VIRTX_E_UNSUPPORTED);
    ck_assert_int_eq(set(0xd, 0, 0x7, 0, 832, 0), VIRTX_OK);
    ck_assert_int_eq(set(0xd, 1, 0xf, 0, 0, 0), VIRTX_E_UNSUPPORTED);
    entry = get(0x80000001, 0);
    entry.ecx |= 1u << 2;
    ck_assert_int_eq(virtx_vm_cpuid_set(vm, &entry), VIRTX_E_UNSUPPORTED);
    ck_assert_int_eq(set(0x80000008, 0, 0x3029, 0, 0, 0), VIRTX_E_UNSUPPORTED);
    fake_error(virtx_vm_last_error(vm), VIRTX_E_UNSUPPORTED, "entry.eax");
    ck_assert_int_eq(set(0x80000008, 0, 0x3020, 0, 0, 0), VIRTX_OK);

    /* Leaves without subleaves have one entry; those with them one each. */
    ck_assert_int_eq(set(0x16, 7, 1, 2, 3, 0), VIRTX_OK);
    is(0x16, 0, 1, 2, 3, 0);
    ck_assert_int_eq(set(4, 5, 1, 2, 3, 0), VIRTX_OK);
    is(4, 5, 1, 2, 3, 0);
    is(4, 6, 0, 0, 0, 0);

    /* Another hypervisor's name, or none at all: then its range is like any other. */
    ck_assert_int_eq(set(0x40000000, 0, 0x40000001, 1, 2, 3), VIRTX_OK);
    is(0x40000000, 0, 0x40000001, 1, 2, 3);
    is(0x40000010, 0, 0, 0, 0, 0);
    entry = one;
    entry.ecx &= ~(1u << 31);
    ck_assert_int_eq(virtx_vm_cpuid_set(vm, &entry), VIRTX_OK);
    is(0x40000000, 0, 1, 2, 3, 0); /* the highest basic leaf */

    free_entries = VIRTX_CPUID_ENTRIES - virtx_cpuid_vm(vm).vms->count;
    for (unsigned i = 0; i < free_entries; i++)
        ck_assert_int_eq(set(0x40000080 + i, 0, i, 0, 0, 0), VIRTX_OK);
    ck_assert_int_eq(set(0x400000ff, 0, 0, 0, 0, 0), VIRTX_E_NO_MEMORY);
    ck_assert_int_eq(set(0x40000080, 0, 99, 0, 0, 0), VIRTX_OK); /* a replacement fits */

    vcpu = fake_vcpu(vm, 0);
    ck_assert_int_eq(virtx_vm_cpuid_set(vm, &one), VIRTX_E_BUSY);
    fake_error(virtx_vm_last_error(vm), VIRTX_E_BUSY, "VM");
    ck_assert_int_eq(virtx_vcpu_destroy(vcpu), VIRTX_OK);
    end();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cpuid");
    TCase *tests = fake_case(suite, "cpuid");

    tcase_add_test(tests, intel_with_avx512);
    tcase_add_test(tests, intel_without_xsave);
    tcase_add_test(tests, amd_of_2008);
    tcase_add_test(tests, amd_of_2022);
    tcase_add_test(tests, features_switched_off);
    tcase_add_test(tests, unknown_features_are_hidden);
    tcase_add_test(tests, tsc_beyond_32_bits);
    tcase_add_test(tests, varying_fields);
    tcase_add_test(tests, changes);
    return fake_main(suite);
}
