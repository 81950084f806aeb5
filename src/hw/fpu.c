/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * x87, SSE, AVX … and XCR0: the guest's are loaded before its first entry and stay in the processor
 * until put, or until the profile wants the host's back. No exit switches them, and no register of
 * one guest is in sight of another.
 *
 * Unless the embedder wants a vcpu lazy (virtx_vcpu_set_lazy_fpu()): then its state waits in memory
 * from load to the first use, with CR0.TS and CR0.MP set in the processor, whatever the guest has
 * in them (virtx_hw's controls.fpu_waits), and #NM intercepted.
 *
 * The memory image is the standard XSAVE format. While it is saved or loaded XCR0 holds everything
 * the guest could ever enable, so that components it has switched off keep their content. Where the
 * guest has no XSAVE, FXSAVE moves all it can reach.
 */
#include "hw/service.h"

#define XSAVE_HEADER 512u
#define MXCSR_OFFSET 24u

/* Components that no instruction reaches but by #NM while CR0.TS is set: x87, SSE, AVX, AVX-512.
 * PKRU is none of them, but out of reach while CR4.PKE is 0. */
#define BY_TS 0xe7ull
#define PKRU  (1ull << 9)

#ifdef VIRTX_UNIT
void mock_fpu_save(void *area, uint64_t mask);
void mock_fpu_load(const void *area, uint64_t mask);
uint64_t mock_xgetbv(void);
void mock_xsetbv(uint64_t value);
#define xgetbv mock_xgetbv
#define xsetbv mock_xsetbv
#else
static uint64_t xgetbv(void)
{
    uint32_t low, high;

    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static void xsetbv(uint64_t value)
{
    __asm__ volatile("xsetbv"
                     :
                     : "c"(0), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
                     : "memory");
}
#endif

/* Saves or loads under the components of XCR0; 0: FXSAVE. */
static void area_save(void *area, uint64_t mask)
{
#ifdef VIRTX_UNIT
    mock_fpu_save(area, mask);
#else
    if (mask)
        __asm__ volatile("xsave64 (%0)"
                         :
                         : "r"(area), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32))
                         : "memory");
    else
        __asm__ volatile("fxsave64 (%0)" : : "r"(area) : "memory");
#endif
}

static void area_load(const void *area, uint64_t mask)
{
#ifdef VIRTX_UNIT
    mock_fpu_load(area, mask);
#else
    if (mask)
        __asm__ volatile("xrstor64 (%0)"
                         :
                         : "r"(area), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32))
                         : "memory");
    else
        __asm__ volatile("fxrstor64 (%0)" : : "r"(area) : "memory");
#endif
}

/* Lets these instructions through whatever the host has in CR0 and CR4. */
struct fpu_access {
    uint64_t cr0, cr4;
};

static void fpu_open(struct hw_vcpu *hv, struct fpu_access *access)
{
    uint64_t wanted = CR4_OSFXSR | (hv->soft->policy.xcr0 ? CR4_OSXSAVE : 0);

    access->cr0 = x86_read_cr0();
    access->cr4 = x86_read_cr4();
    if (access->cr0 & (CR0_TS | CR0_EM))
        x86_write_cr0(access->cr0 & ~(CR0_TS | CR0_EM));
    if (~access->cr4 & wanted)
        x86_write_cr4(access->cr4 | wanted);
}

static void fpu_close(struct hw_vcpu *hv, const struct fpu_access *access)
{
    uint64_t wanted = CR4_OSFXSR | (hv->soft->policy.xcr0 ? CR4_OSXSAVE : 0);

    if (~access->cr4 & wanted)
        x86_write_cr4(access->cr4);
    if (access->cr0 & (CR0_TS | CR0_EM))
        x86_write_cr0(access->cr0);
}

#ifndef VIRTX_UNIT
#define VECTOR(n)                                                                                  \
    case n:                                                                                        \
        if (part == INSN_VECTOR_HIGH && write)                                                     \
            __asm__ volatile("vinsertf128 $1, (%0), %%ymm" #n ", %%ymm" #n                         \
                             :                                                                     \
                             : "r"(data)                                                           \
                             : "memory");                                                          \
        else if (part == INSN_VECTOR_HIGH)                                                         \
            __asm__ volatile("vextractf128 $1, %%ymm" #n ", (%0)" : : "r"(data) : "memory");       \
        else if (!write)                                                                           \
            __asm__ volatile("movups %%xmm" #n ", (%0)" : : "r"(data) : "memory");                 \
        else if (part == INSN_VECTOR_AVX)                                                          \
            __asm__ volatile("vmovups (%0), %%xmm" #n : : "r"(data) : "memory");                   \
        else                                                                                       \
            __asm__ volatile("movups (%0), %%xmm" #n : : "r"(data) : "memory");                    \
        break

/* The registers are the guest's own, so the compiler is not told that one changes: it uses none. */
static void vector_access(unsigned reg, void *data, bool write, enum insn_vector part)
{
    switch (reg & 15) {
        VECTOR(0);
        VECTOR(1);
        VECTOR(2);
        VECTOR(3);
        VECTOR(4);
        VECTOR(5);
        VECTOR(6);
        VECTOR(7);
        VECTOR(8);
        VECTOR(9);
        VECTOR(10);
        VECTOR(11);
        VECTOR(12);
        VECTOR(13);
        VECTOR(14);
        VECTOR(15);
    }
}
#else
static void vector_access(unsigned reg, void *data, bool write, enum insn_vector part)
{
    (void)reg, (void)data, (void)write, (void)part;
}
#endif

/* The executor's first use. Its own controls are obeyed at once: the processor's follow. */
static void use_now(struct hw_vcpu *hv)
{
    uint64_t flags = x86_irq_save();

    hw_fpu_use(hv);
    hw_fpu_load(hv);
    x86_irq_restore(flags);
}

bool hw_fpu_vector(struct hw_vcpu *hv, unsigned reg, void *data, bool write, enum insn_vector part)
{
    struct fpu_access access;
    uint64_t flags;
    bool good;

    if (unlikely(hv->soft->fpu_lazy & HW_LAZY_WAITS) && hv->cpu)
        use_now(hv);
    if (!hv->fpu_loaded)
        return false;
    flags = x86_irq_save();
    fpu_open(hv, &access);
    good = part == INSN_VECTOR_SSE || (hv->soft->policy.xcr0 && (xgetbv() & 6) == 6);
    if (good)
        vector_access(reg, data, write, part);
    fpu_close(hv, &access);
    x86_irq_restore(flags);
    return good;
}

/* ---- Images for the executor: FXSAVE's format, of 512 bytes ---- */

enum { LEGACY_BYTES = 512, LEGACY_X87 = 1, LEGACY_SSE = 2, LEGACY_XMM = 160 };

/* What is in memory, with components in their initial state written out. */
static void image_of_area(struct hw_vcpu *hv, uint8_t *image)
{
    const uint8_t *area = hv->fpu_area;
    const uint16_t fcw = 0x37f;
    const uint32_t mxcsr = 0x1f80;
    uint64_t present = LEGACY_X87 | LEGACY_SSE;

    memcpy(image, area, LEGACY_BYTES);
    if (hv->soft->policy.xcr0)
        memcpy(&present, area + XSAVE_HEADER, sizeof(present));
    if (!(present & LEGACY_X87)) {
        memset(image, 0, MXCSR_OFFSET);
        memcpy(image, &fcw, sizeof(fcw));
        memset(image + 32, 0, LEGACY_XMM - 32);
    }
    if (!(present & LEGACY_SSE)) {
        memcpy(image + MXCSR_OFFSET, &mxcsr, sizeof(mxcsr));
        memset(image + LEGACY_XMM, 0, 256);
    }
}

static void image_to_area(struct hw_vcpu *hv, const uint8_t *image)
{
    uint8_t *area = hv->fpu_area;
    uint64_t present;

    memcpy(area, image, LEGACY_BYTES);
    if (!hv->soft->policy.xcr0)
        return;
    memcpy(&present, area + XSAVE_HEADER, sizeof(present));
    present |= LEGACY_X87 | LEGACY_SSE;
    memcpy(area + XSAVE_HEADER, &present, sizeof(present));
}

void hw_fpu_image(struct hw_vcpu *hv, void *image, bool write)
{
    _Alignas(16) uint8_t copy[LEGACY_BYTES];
    struct fpu_access access;
    uint64_t flags;

    if (!hv->fpu_loaded) {
        if (write)
            image_to_area(hv, image);
        else
            image_of_area(hv, image);
        return;
    }
    if (write)
        memcpy(copy, image, sizeof(copy));
    flags = x86_irq_save();
    fpu_open(hv, &access);
    if (write)
        area_load(copy, 0);
    else
        area_save(copy, 0);
    fpu_close(hv, &access);
    x86_irq_restore(flags);
    if (!write)
        memcpy(image, copy, sizeof(copy));
}

#ifdef VIRTX_UNIT /* where no register is the processor's own */
static void x87_execute(unsigned opcode, unsigned modrm, void *memory, uint64_t *flags)
{
    (void)opcode, (void)modrm, (void)memory, (void)flags;
}
#else
/* x87.S: 8 bytes for each instruction. */
extern const char hw_x87_registers[], hw_x87_memory[];

/* FCMOV reads flags, FCOMI writes them, FNSTSW AX a general register. */
static void x87_execute(unsigned opcode, unsigned modrm, void *memory, uint64_t *flags)
{
    const char *code = modrm >= 0xc0 ? hw_x87_registers + 8 * ((opcode & 7) * 64 + (modrm & 63))
                                     : hw_x87_memory + 8 * ((opcode & 7) * 8 + (modrm >> 3 & 7));
    uint64_t rax = *flags | 2;

    __asm__ volatile("pushfq\n\t"
                     "andq $~0x8d5, (%%rsp)\n\t"
                     "orq %%rax, (%%rsp)\n\t"
                     "popfq\n\t"
                     "call *%2\n\t"
                     "pushfq\n\t"
                     "popq %%rax"
                     : "+a"(rax), "+D"(memory)
                     : "r"(code)
                     : "memory", "cc");
    *flags = rax & 0x8d5;
}
#endif

/* Whatever is in the processor meanwhile is put aside. */
void hw_fpu_x87(struct hw_vcpu *hv, unsigned opcode, unsigned modrm, void *image, void *memory,
                uint64_t *flags)
{
    _Alignas(16) uint8_t own[LEGACY_BYTES], copy[LEGACY_BYTES];
    struct fpu_access access;
    uint64_t irq;

    memcpy(copy, image, sizeof(copy));
    irq = x86_irq_save();
    fpu_open(hv, &access);
    area_save(own, 0);
    area_load(copy, 0);
    x87_execute(opcode, modrm, memory, flags);
    area_save(copy, 0);
    area_load(own, 0);
    fpu_close(hv, &access);
    x86_irq_restore(irq);
    memcpy(image, copy, sizeof(copy));
}

static uint32_t standard_bytes(struct hw_vcpu *hv)
{
    uint64_t components = hv->soft->policy.xcr0;
    uint32_t bytes = XSAVE_HEADER + 64;

    for (uint32_t i = 2; i < 63; i++) {
        struct virtx_cpuid_entry entry;

        if (!(components >> i & 1))
            continue;
        virtx_cpuid_lookup(hv->vcpu, 0xd, i, &entry);
        if (entry.eax + entry.ebx > bytes)
            bytes = entry.eax + entry.ebx;
    }
    return bytes;
}

enum virtx_status hw_fpu_create(struct hw_vcpu *hv)
{
    struct hw_soft *soft = hv->soft;
    const struct virtx_host_profile *profile = &hv->vcpu->virtx->profile;
    uint32_t named = profile->at_exit | profile->at_return | profile->at_put;

    soft->fpu_bytes = standard_bytes(hv);
    soft->fpu_pages = (soft->fpu_bytes + VIRTX_PAGE_SIZE - 1) / VIRTX_PAGE_SIZE;
    hv->fpu_area = virtx_pages_alloc(hv->vcpu->virtx, soft->fpu_pages);
    if (!hv->fpu_area)
        return virtx_fail(&hv->vcpu->error, VIRTX_E_NO_MEMORY, "vcpu", "the host has no pages left",
                          soft->fpu_pages);
    if (named & VIRTX_HOST_FPU) {
        soft->host_fpu = virtx_pages_alloc(hv->vcpu->virtx, soft->fpu_pages);
        if (!soft->host_fpu) {
            hw_fpu_destroy(hv);
            return virtx_fail(&hv->vcpu->error, VIRTX_E_NO_MEMORY, "vcpu",
                              "the host has no pages left", soft->fpu_pages);
        }
    }
    return VIRTX_OK;
}

void hw_fpu_destroy(struct hw_vcpu *hv)
{
    struct hw_soft *soft = hv->soft;

    if (soft->host_fpu)
        virtx_pages_free(hv->vcpu->virtx, soft->host_fpu, soft->fpu_pages);
    if (hv->fpu_area)
        virtx_pages_free(hv->vcpu->virtx, hv->fpu_area, soft->fpu_pages);
    soft->host_fpu = NULL;
    hv->fpu_area = NULL;
}

/* Intel SDM "Processor State After Reset": FCW 0x40 after RESET differs from what FNINIT leaves
 * (0x37f); MXCSR is 0x1f80. */
void hw_fpu_reset(struct hw_vcpu *hv)
{
    uint8_t *area = hv->fpu_area;
    const uint16_t fcw = 0x40;
    const uint32_t mxcsr = 0x1f80;
    const uint64_t present = 3;

    memset(area, 0, hv->soft->fpu_bytes);
    memcpy(area, &fcw, sizeof(fcw));
    area[4] = 0xff; /* the abridged tag word: after RESET all registers are valid and zero */
    memcpy(area + MXCSR_OFFSET, &mxcsr, sizeof(mxcsr));
    memcpy(area + XSAVE_HEADER, &present, sizeof(present));
    hv->fpu_loaded = false; /* what is in the processor is void */
    hv->work |= HW_WORK_FPU;
    hw_fpu_xcr0(hv); /* if it is a lazy vcpu's */
}

static bool host_wants_fpu(const struct hw_vcpu *hv)
{
    return hv->soft->host_fpu != NULL;
}

/* ---- Laziness ---- */

/*
 * XGETBV with ECX = 1 tells which components are in use, and there are components that CR0.TS does
 * not protect: a guest that can reach them has its own from the start.
 */
static bool may_wait(struct hw_vcpu *hv)
{
    const struct hw_policy *policy = &hv->soft->policy;
    uint64_t cr4 = hw_state(hv, VIRTX_STATE_CR)->cr4;

    if (cr4 & CR4_PKE)
        return false;
    return !(cr4 & CR4_OSXSAVE) || !(policy->has_xgetbv_used || (policy->xcr0 & ~(BY_TS | PKRU)));
}

void hw_fpu_begin(struct hw_vcpu *hv, bool lazy)
{
    hv->soft->fpu_lazy = lazy ? HW_LAZY_WAITS : 0;
    if (hv->controls.fpu_waits != lazy)
        hv->work |= HW_WORK_CONTROLS;
}

void hw_fpu_use(struct hw_vcpu *hv)
{
    hv->soft->fpu_lazy &= (uint8_t)~HW_LAZY_WAITS;
    hv->work |= HW_WORK_FPU | HW_WORK_CONTROLS;
}

bool hw_fpu_waits(struct hw_vcpu *hv)
{
    if (likely(!(hv->soft->fpu_lazy & HW_LAZY_WAITS)))
        return false;
    if (may_wait(hv))
        return true;
    hv->soft->fpu_lazy &= (uint8_t)~HW_LAZY_WAITS;
    hv->work |= HW_WORK_FPU;
    return false;
}

/*
 * With TS and MP both set in the guest's own CR0 there is no difference to the processor's, so the
 * exception is the guest's. Otherwise the instruction is tried again with the guest's CR0: one that
 * is to raise #NM all the same, as by EM, does so by itself.
 */
bool hw_fpu_first_use(struct hw_vcpu *hv)
{
    const uint64_t own = CR0_TS | CR0_MP;

    if (!(hv->soft->fpu_lazy & HW_LAZY_WAITS) || (hw_state(hv, VIRTX_STATE_CR)->cr0 & own) == own)
        return false;
    hw_fpu_use(hv);
    return true;
}

/* XGETBV knows no #NM, so XCR0 cannot wait with the rest. */
static void load_xcr0(struct hw_vcpu *hv)
{
    struct hw_soft *soft = hv->soft;
    struct fpu_access access;
    uint64_t now;

    if (!soft->policy.xcr0)
        return;
    fpu_open(hv, &access);
    now = xgetbv();
    if (!(soft->fpu_lazy & HW_LAZY_XCR0))
        soft->host_xcr0 = now;
    if (now != hw_state(hv, VIRTX_STATE_XCR)->xcr0)
        xsetbv(hv->state.xcr0);
    soft->fpu_lazy |= HW_LAZY_XCR0;
    fpu_close(hv, &access);
}

/* Even if the guest's CPUID has lost XSAVE meanwhile. */
static void unload_xcr0(struct hw_vcpu *hv)
{
    struct hw_soft *soft = hv->soft;
    uint64_t cr4 = x86_read_cr4();

    x86_write_cr4(cr4 | CR4_OSXSAVE);
    hv->state.xcr0 = xgetbv();
    if (host_wants_fpu(hv) && soft->host_xcr0 != hv->state.xcr0)
        xsetbv(soft->host_xcr0);
    x86_write_cr4(cr4);
    soft->fpu_lazy &= (uint8_t)~HW_LAZY_XCR0;
    hv->work |= HW_WORK_FPU;
}

/* True: nothing else is to be loaded. */
static __attribute__((noinline)) bool load_lazily(struct hw_vcpu *hv)
{
    if (hv->soft->fpu_lazy & HW_LAZY_WAITS) {
        load_xcr0(hv);
        return true;
    }
    unload_xcr0(hv); /* as if it had never been lazy */
    hv->work &= ~(uint32_t)HW_WORK_FPU;
    return false;
}

/* ---- Loading and unloading ---- */

void hw_fpu_load(struct hw_vcpu *hv)
{
    struct hw_soft *soft = hv->soft;
    uint64_t all = soft->policy.xcr0;
    struct fpu_access access;

    hv->work &= ~(uint32_t)HW_WORK_FPU;
    if (hv->fpu_loaded)
        return;
    if (unlikely(soft->fpu_lazy) && load_lazily(hv))
        return;
    fpu_open(hv, &access);
    if (all && !soft->host_fpu_saved)
        soft->host_xcr0 = xgetbv();
    if (all)
        xsetbv(all);
    if (host_wants_fpu(hv) && !soft->host_fpu_saved) {
        area_save(soft->host_fpu, all);
        soft->host_fpu_saved = true;
    }
    area_load(hv->fpu_area, all);
    if (all && hw_state(hv, VIRTX_STATE_XCR)->xcr0 != all)
        xsetbv(hv->state.xcr0);
    fpu_close(hv, &access);
    hv->fpu_loaded = true;
    hv->vcpu->stats.fpu_switches++;
}

static bool xcr0_is_guests(const struct hw_vcpu *hv)
{
    return (hv->fpu_loaded || (hv->soft->fpu_lazy & HW_LAZY_XCR0)) && hv->soft->policy.xcr0;
}

/* While its state is loaded the processor's XCR0 is the guest's, also where nobody has seen the
 * guest write it: QEMU 7.2 executes XSETBV whatever is intercepted. */
void hw_fpu_follow_xcr0(struct hw_vcpu *hv)
{
    struct fpu_access access;

    if (!xcr0_is_guests(hv))
        return;
    fpu_open(hv, &access);
    hv->state.xcr0 = xgetbv();
    fpu_close(hv, &access);
}

/* Copies what is in the processor to memory and leaves it there. */
static void save_guest(struct hw_vcpu *hv)
{
    uint64_t all = hv->soft->policy.xcr0;

    if (all) {
        hv->state.xcr0 = xgetbv();
        xsetbv(all);
    }
    area_save(hv->fpu_area, all);
}

void hw_fpu_unload(struct hw_vcpu *hv, bool restore_host)
{
    struct hw_soft *soft = hv->soft;
    uint64_t all = soft->policy.xcr0;
    struct fpu_access access;

    if (unlikely(soft->fpu_lazy & HW_LAZY_XCR0))
        unload_xcr0(hv);
    if (!hv->fpu_loaded && !(restore_host && soft->host_fpu_saved))
        return;
    fpu_open(hv, &access);
    if (hv->fpu_loaded)
        save_guest(hv);
    if (restore_host && soft->host_fpu_saved) {
        if (all)
            xsetbv(all);
        area_load(soft->host_fpu, all);
        if (all)
            xsetbv(soft->host_xcr0);
        soft->host_fpu_saved = false;
    }
    fpu_close(hv, &access);
    hv->fpu_loaded = false;
    hv->work |= HW_WORK_FPU;
}

void hw_fpu_xcr0(struct hw_vcpu *hv)
{
    struct fpu_access access;

    if (!xcr0_is_guests(hv))
        return;
    fpu_open(hv, &access);
    xsetbv(hv->state.xcr0);
    fpu_close(hv, &access);
}

size_t hw_fpu_size(const struct virtx_vcpu *vcpu)
{
    const struct hw_vcpu *hv = vcpu->backend_data;

    return hv->soft->fpu_bytes;
}

enum virtx_status hw_fpu_get(struct virtx_vcpu *vcpu, void *area)
{
    struct hw_vcpu *hv = hw_of(vcpu);
    uint64_t flags = x86_irq_save();

    if (hv->fpu_loaded) {
        struct fpu_access access;

        fpu_open(hv, &access);
        save_guest(hv);
        if (hv->soft->policy.xcr0)
            xsetbv(hv->state.xcr0);
        fpu_close(hv, &access);
    }
    x86_irq_restore(flags);
    if (!hv->soft->policy.xcr0) { /* FXSAVE writes no header */
        uint64_t present = 3;

        memset((uint8_t *)hv->fpu_area + XSAVE_HEADER, 0, 64);
        memcpy((uint8_t *)hv->fpu_area + XSAVE_HEADER, &present, sizeof(present));
    }
    memcpy(area, hv->fpu_area, hv->soft->fpu_bytes);
    return VIRTX_OK;
}

/* Intel SDM "XRSTOR—Restore Processor Extended States": what would raise #GP. */
enum virtx_status hw_fpu_set(struct virtx_vcpu *vcpu, const void *area)
{
    struct hw_vcpu *hv = hw_of(vcpu);
    const uint8_t *bytes = area;
    uint64_t header[8], allowed = hv->soft->policy.xcr0 ? hv->soft->policy.xcr0 : 3;
    /* AMD APM "MXCSR Register": bit 17, MM, comes with misaligned SSE mode. */
    uint32_t mxcsr, known = 0xffff | (hv->soft->policy.has_misaligned_sse ? 1u << 17 : 0);
    uint64_t flags;

    memcpy(header, bytes + XSAVE_HEADER, sizeof(header));
    memcpy(&mxcsr, bytes + MXCSR_OFFSET, sizeof(mxcsr));
    if (header[0] & ~allowed)
        return virtx_fail(&vcpu->error, VIRTX_E_INVALID, "XSTATE_BV",
                          "names a component that the guest does not have", header[0]);
    for (unsigned i = 1; i < 8; i++)
        if (header[i])
            return virtx_fail(&vcpu->error, VIRTX_E_INVALID, "XSAVE header",
                              "bytes 8 to 63 must be zero in the standard format", header[i]);
    if (mxcsr & ~known)
        return virtx_fail(&vcpu->error, VIRTX_E_INVALID, "MXCSR", "has a reserved bit set", mxcsr);
    flags = x86_irq_save();
    memcpy(hv->fpu_area, area, hv->soft->fpu_bytes);
    if (hv->fpu_loaded || !(hv->soft->fpu_lazy & HW_LAZY_XCR0)) {
        hv->fpu_loaded = false;
        hv->work |= HW_WORK_FPU;
    }
    x86_irq_restore(flags);
    return VIRTX_OK;
}
