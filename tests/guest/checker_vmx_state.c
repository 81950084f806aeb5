/* SPDX-License-Identifier: BSD-2-Clause */
/* The VMCS of a trial: a state of each mode that the manual allows, and random changes. */
#include "checker_vmx.h"
#include "x86/cpu.h"

#define FIELD(field, kind)                                                                         \
    {                                                                                              \
        VMCS_##field, kind, #field                                                                 \
    }
#define SEGMENT(name, index)                                                                       \
    {VMCS_GUEST_ES_SELECTOR + 2 * (index), FREE, name " selector"},                                \
        {VMCS_GUEST_ES_BASE + 2 * (index), FREE, name " base"},                                    \
        {VMCS_GUEST_ES_LIMIT + 2 * (index), FREE, name " limit"},                                  \
    {                                                                                              \
        VMCS_GUEST_ES_ATTRIBUTES + 2 * (index), FREE, name " access rights"                        \
    }

const struct field vmx_fields[] = {
    FIELD(PIN, CONTROL),
    FIELD(PRIMARY, CONTROL),
    FIELD(SECONDARY, CONTROL),
    FIELD(EXIT, CONTROL),
    FIELD(ENTRY, CONTROL),
    FIELD(VPID, FREE),
    FIELD(POSTED_VECTOR, FREE),
    FIELD(IO_BITMAP_A, ADDRESS),
    FIELD(IO_BITMAP_B, ADDRESS),
    FIELD(MSR_BITMAP, ADDRESS),
    FIELD(EXIT_MSR_STORE, MSR_AREA),
    FIELD(EXIT_MSR_LOAD, MSR_AREA),
    FIELD(ENTRY_MSR_LOAD, MSR_AREA),
    FIELD(PML_ADDRESS, ADDRESS),
    FIELD(VIRTUAL_APIC, ADDRESS),
    FIELD(APIC_ACCESS, ADDRESS),
    FIELD(POSTED_DESCRIPTOR, ADDRESS),
    FIELD(FUNCTION_CONTROLS, SMALL),
    FIELD(EPTP, EPT_POINTER),
    FIELD(EPTP_LIST, ADDRESS),
    FIELD(VMREAD_BITMAP, ADDRESS),
    FIELD(VMWRITE_BITMAP, ADDRESS),
    FIELD(VE_INFORMATION, ADDRESS),
    FIELD(SUBPAGE_TABLE, ADDRESS),
    FIELD(XSS_BITMAP, FIXED),
    {0x2032, FIXED, "TSC_MULTIPLIER"},
    {0x0812, FIXED, "PML_INDEX"},
    FIELD(EXCEPTIONS, FIXED),
    FIELD(PF_MASK, FIXED),
    FIELD(PF_MATCH, FIXED),
    FIELD(CR3_TARGETS, SMALL),
    FIELD(EXIT_MSR_STORE_COUNT, MSR_COUNT),
    FIELD(EXIT_MSR_LOAD_COUNT, MSR_COUNT),
    FIELD(ENTRY_MSR_LOAD_COUNT, MSR_COUNT),
    FIELD(ENTRY_INTERRUPTION, FREE),
    FIELD(ENTRY_ERROR_CODE, FREE),
    FIELD(ENTRY_LENGTH, SMALL),
    FIELD(TPR_THRESHOLD, SMALL),
    {0x482e, FIXED, "TIMER"},
    FIELD(CR0_MASK, FIXED),
    FIELD(CR4_MASK, FIXED),

    FIELD(HOST_CR0, FREE),
    FIELD(HOST_CR3, HOST_CR3),
    FIELD(HOST_CR4, FREE),
    FIELD(HOST_ES_SELECTOR, FREE),
    FIELD(HOST_CS_SELECTOR, FREE),
    FIELD(HOST_SS_SELECTOR, FREE),
    FIELD(HOST_DS_SELECTOR, FREE),
    FIELD(HOST_FS_SELECTOR, FREE),
    FIELD(HOST_GS_SELECTOR, FREE),
    FIELD(HOST_TR_SELECTOR, FREE),
    FIELD(HOST_FS_BASE, FREE),
    FIELD(HOST_GS_BASE, FREE),
    FIELD(HOST_TR_BASE, FREE),
    FIELD(HOST_GDTR_BASE, FREE),
    FIELD(HOST_IDTR_BASE, FREE),
    FIELD(HOST_SYSENTER_CS, FREE),
    FIELD(HOST_SYSENTER_ESP, FREE),
    FIELD(HOST_SYSENTER_EIP, FREE),
    FIELD(HOST_PAT, FREE),
    FIELD(HOST_EFER, FREE),
    FIELD(HOST_PERF_GLOBAL, FREE),
    FIELD(HOST_PKRS, FREE),
    FIELD(HOST_S_CET, FREE),
    FIELD(HOST_SSP, FREE),
    FIELD(HOST_SSP_TABLE, FREE),
    FIELD(HOST_RIP, HOST_ADDRESS),

    FIELD(GUEST_CR0, FREE),
    FIELD(GUEST_CR3, FREE),
    FIELD(GUEST_CR4, FREE),
    FIELD(GUEST_DR7, FREE),
    FIELD(GUEST_DEBUGCTL, FREE),
    FIELD(GUEST_PAT, FREE),
    FIELD(GUEST_EFER, FREE),
    FIELD(GUEST_PERF_GLOBAL, FREE),
    FIELD(GUEST_BNDCFGS, FREE),
    FIELD(GUEST_PKRS, FREE),
    FIELD(GUEST_S_CET, FREE),
    FIELD(GUEST_SSP, FREE),
    FIELD(GUEST_SSP_TABLE, FREE),
    FIELD(GUEST_SYSENTER_CS, FREE),
    FIELD(GUEST_SYSENTER_ESP, FREE),
    FIELD(GUEST_SYSENTER_EIP, FREE),
    SEGMENT("ES", VIRTX_ES),
    SEGMENT("CS", VIRTX_CS),
    SEGMENT("SS", VIRTX_SS),
    SEGMENT("DS", VIRTX_DS),
    SEGMENT("FS", VIRTX_FS),
    SEGMENT("GS", VIRTX_GS),
    SEGMENT("LDTR", VIRTX_LDTR),
    SEGMENT("TR", VIRTX_TR),
    FIELD(GUEST_GDTR_BASE, FREE),
    FIELD(GUEST_GDTR_LIMIT, FREE),
    FIELD(GUEST_IDTR_BASE, FREE),
    FIELD(GUEST_IDTR_LIMIT, FREE),
    FIELD(GUEST_RIP, FREE),
    FIELD(GUEST_RSP, FREE),
    FIELD(GUEST_RFLAGS, FREE),
    FIELD(GUEST_ACTIVITY, SMALL),
    FIELD(GUEST_INTERRUPTIBILITY, SMALL),
    FIELD(GUEST_PENDING_DEBUG, FREE),
    FIELD(LINK_POINTER, LINK),
    {VMCS_GUEST_PDPTE0, FREE, "PDPTE 0"},
    {VMCS_GUEST_PDPTE0 + 2, FREE, "PDPTE 1"},
    {VMCS_GUEST_PDPTE0 + 4, FREE, "PDPTE 2"},
    {VMCS_GUEST_PDPTE0 + 6, FREE, "PDPTE 3"},
};
const unsigned vmx_field_count = ARRAY_SIZE(vmx_fields);

uint64_t vmx_value[0x7000];
#define VALUE(field) vmx_value[VMCS_##field]

enum mode { REAL, PROTECTED16, PROTECTED32, PAGED32, PAE, V86, COMPATIBILITY, LONG64, MODES };
static const char *const mode_names[MODES] = {
    "real mode",  "16-bit protected mode", "protected mode",     "paged protected mode",
    "PAE paging", "virtual-8086 mode",     "compatibility mode", "64-bit mode",
};

/* ---- Host and controls ---- */

extern const char checker_exit[];

static uint64_t host_value[0x1c + 1][4];

/* The host as it is: a trial that is entered may leave something else. */
static void host_read(void)
{
    struct __attribute__((packed)) {
        uint16_t limit;
        uint64_t base;
    } gdtr, idtr;
    uint16_t selector;
    const uint64_t *tss;

    __asm__ volatile("sgdt %0" : "=m"(gdtr));
    __asm__ volatile("sidt %0" : "=m"(idtr));
    __asm__ volatile("str %0" : "=r"(selector));
    VALUE(HOST_GDTR_BASE) = gdtr.base;
    VALUE(HOST_IDTR_BASE) = idtr.base;
    VALUE(HOST_TR_SELECTOR) = selector;
    tss = (const uint64_t *)(uintptr_t)(gdtr.base + (selector & 0xfff8));
    VALUE(HOST_TR_BASE) = (tss[0] >> 16 & 0xffffff) | (tss[0] >> 56) << 24 | tss[1] << 32;
    VALUE(HOST_CR0) = x86_read_cr0();
    VALUE(HOST_CR3) = x86_read_cr3();
    VALUE(HOST_CR4) = x86_read_cr4();
    VALUE(HOST_RIP) = (uintptr_t)checker_exit;
    __asm__ volatile("mov %%cs, %0" : "=r"(selector));
    VALUE(HOST_CS_SELECTOR) = selector;
    __asm__ volatile("mov %%ss, %0" : "=r"(selector));
    VALUE(HOST_SS_SELECTOR) = VALUE(HOST_DS_SELECTOR) = VALUE(HOST_ES_SELECTOR) = selector;
    VALUE(HOST_FS_SELECTOR) = VALUE(HOST_GS_SELECTOR) = 0;
    VALUE(HOST_FS_BASE) = VALUE(HOST_GS_BASE) = 0;
    VALUE(HOST_PAT) = x86_rdmsr(MSR_PAT);
    VALUE(HOST_EFER) = x86_rdmsr(MSR_EFER);
    VALUE(HOST_SYSENTER_CS) = VALUE(HOST_SYSENTER_ESP) = VALUE(HOST_SYSENTER_EIP) = 0;
    VALUE(HOST_PERF_GLOBAL) = VALUE(HOST_PKRS) = 0;
    VALUE(HOST_S_CET) = VALUE(HOST_SSP) = VALUE(HOST_SSP_TABLE) = 0;
}

/* Host-state fields are those with 3 in bits 11:10. */
static void host_copy(bool save)
{
    for (unsigned i = 0; i < vmx_field_count; i++) {
        uint32_t encoding = vmx_fields[i].encoding;

        if ((encoding >> 10 & 3) != 3)
            continue;
        if (save)
            host_value[encoding & 0x1f][encoding >> 13] = vmx_value[encoding];
        else
            vmx_value[encoding] = host_value[encoding & 0x1f][encoding >> 13];
    }
}

void vmx_state_host(void)
{
    host_read();
    host_copy(true);
}

static bool can(enum vmx_word word, uint32_t bits)
{
    return (bench.caps.control[word].may & bits) == bits;
}

/* The bits that are always 1, those wanted that can be, and now and then one of those that may. */
static uint32_t word(enum vmx_word which, uint32_t wanted, uint32_t sometimes)
{
    const struct vmx_allowed *allowed = &bench.caps.control[which];

    if (one_in(2))
        wanted |= sometimes & (uint32_t)random_bits();
    return allowed->must | (wanted & allowed->may);
}

static void addresses(void)
{
    static const uint16_t pages[] = {
        VMCS_IO_BITMAP_A,    VMCS_IO_BITMAP_B,       VMCS_MSR_BITMAP, VMCS_PML_ADDRESS,
        VMCS_APIC_ACCESS,    VMCS_POSTED_DESCRIPTOR, VMCS_EPTP_LIST,  VMCS_VMREAD_BITMAP,
        VMCS_VMWRITE_BITMAP, VMCS_SUBPAGE_TABLE,
    };

    for (unsigned i = 0; i < ARRAY_SIZE(pages); i++)
        vmx_value[pages[i]] = bench.page[2 + i % 3];
    VALUE(VIRTUAL_APIC) = bench.virtual_apic;
    VALUE(VE_INFORMATION) = bench.page[5];
    VALUE(EXIT_MSR_STORE) = bench.store;
    VALUE(EXIT_MSR_LOAD) = bench.load;
    VALUE(ENTRY_MSR_LOAD) = bench.msrs;
    VALUE(EPTP) = bench.page[0] | EPTP_WALK_4 | EPTP_WRITE_BACK;
    if (one_in(4) && (bench.caps.ept_vpid & BIT(21)))
        VALUE(EPTP) |= EPTP_AD;
    VALUE(LINK_POINTER) = UINT64_MAX;
}

static void controls(bool unrestricted, bool ia32e)
{
    uint32_t secondary = SECONDARY_EPT | (unrestricted ? SECONDARY_UNRESTRICTED : 0);

    VALUE(PIN) = word(VMX_PIN, PIN_INTERRUPT | PIN_NMI, PIN_VIRTUAL_NMI | PIN_TIMER);
    VALUE(PRIMARY) = word(VMX_PRIMARY, PRIMARY_HLT | PRIMARY_IO | PRIMARY_SECONDARY,
                          PRIMARY_IO_BITMAPS | PRIMARY_MSR_BITMAPS | PRIMARY_MOV_DR |
                              PRIMARY_RDTSC | PRIMARY_TPR_SHADOW);
    VALUE(SECONDARY) =
        word(VMX_SECONDARY, secondary,
             SECONDARY_VPID | SECONDARY_RDTSCP | SECONDARY_DESCRIPTOR_TABLE | SECONDARY_PML);
    VALUE(EXIT) = word(VMX_EXIT, EXIT_HOST_64 | EXIT_LOAD_EFER | EXIT_LOAD_PAT,
                       EXIT_SAVE_DEBUG | EXIT_SAVE_EFER | EXIT_SAVE_PAT);
    VALUE(ENTRY) = word(VMX_ENTRY, ENTRY_LOAD_EFER | (ia32e ? ENTRY_IA32E : 0),
                        ENTRY_LOAD_DEBUG | ENTRY_LOAD_PAT | ENTRY_LOAD_CET | ENTRY_LOAD_PKRS);
    VALUE(VPID) = 1 + random_below(0xffff);
    VALUE(FUNCTION_CONTROLS) = VALUE(CR3_TARGETS) = VALUE(TPR_THRESHOLD) = 0;
    if (one_in(2))
        VALUE(TPR_THRESHOLD) = random_below(6); /* the page has VTPR 5 */
    VALUE(EXIT_MSR_STORE_COUNT) = RANDOM_OF(0, 0, 2);
    VALUE(EXIT_MSR_LOAD_COUNT) = RANDOM_OF(0, 0, 3);
    VALUE(ENTRY_MSR_LOAD_COUNT) = RANDOM_OF(0, 0, 4);
    vmx_value[0x2032] = 1ul << 48;
    vmx_value[0x0812] = 511;
    vmx_value[0x482e] = 0;
    VALUE(EXCEPTIONS) = 0xffffffff;
    VALUE(PF_MASK) = VALUE(PF_MATCH) = VALUE(XSS_BITMAP) = 0;
    VALUE(CR0_MASK) = VALUE(CR4_MASK) = 0;
}

/* ---- The guest ---- */

static void segment(unsigned index, uint64_t selector, uint64_t base, uint64_t limit,
                    uint64_t rights)
{
    vmx_value[vmcs_seg_selector(index)] = selector;
    vmx_value[vmcs_seg_base(index)] = base;
    vmx_value[vmcs_seg_limit(index)] = limit;
    vmx_value[vmcs_seg_attributes(index)] = rights;
}

#define PRESENT         0x80u
#define CODE_OR_DATA    0x10u
#define FLAT(type, dpl) (CODE_OR_DATA | PRESENT | (uint64_t)(dpl) << 5 | (type) | VIRTX_SEG_G)

static void data_segment(unsigned index, unsigned cpl)
{
    uint64_t type = RANDOM_OF(1, 3, 5, 7, 11, 15);
    uint64_t dpl = cpl + random_below(4 - cpl);
    bool big = one_in(2);

    if (one_in(4)) {
        segment(index, 0, 0, 0, VIRTX_SEG_UNUSABLE);
        return;
    }
    segment(index, (random_bits() & 0xfffc) | cpl, random_bits() & 0xffffffff,
            big ? 0xffffffff : random_bits() & 0xfffff, FLAT(type, dpl) ^ (big ? 0 : VIRTX_SEG_G));
}

static void segments(enum mode mode)
{
    unsigned cpl = mode == V86 || one_in(3) ? 3 : 0;

    if (mode == REAL || mode == V86) {
        for (unsigned i = VIRTX_ES; i <= VIRTX_GS; i++) {
            uint64_t selector = random_bits() & 0xffff;

            segment(i, selector, selector << 4, 0xffff, mode == V86 ? 0xf3 : 0x93);
        }
        if (mode == REAL && one_in(2))
            vmx_value[vmcs_seg_attributes(VIRTX_CS)] = 0x9b;
    } else {
        uint64_t code = mode == LONG64        ? VIRTX_SEG_L | VIRTX_SEG_G
                        : mode == PROTECTED16 ? 0
                                              : VIRTX_SEG_DB | VIRTX_SEG_G;
        uint64_t stack = mode == PROTECTED16 ? 0 : VIRTX_SEG_DB | VIRTX_SEG_G;

        if (mode == PROTECTED16 && one_in(2))
            cpl = 0;
        segment(VIRTX_CS, 0x08 | cpl, 0, mode == PROTECTED16 ? 0xffff : 0xffffffff,
                (FLAT(11, cpl) & ~(uint64_t)VIRTX_SEG_G) | code);
        segment(VIRTX_SS, 0x10 | cpl, 0, mode == PROTECTED16 ? 0xffff : 0xffffffff,
                (FLAT(RANDOM_OF(3, 7), cpl) & ~(uint64_t)VIRTX_SEG_G) | stack);
        data_segment(VIRTX_DS, cpl);
        data_segment(VIRTX_ES, cpl);
        data_segment(VIRTX_FS, cpl);
        data_segment(VIRTX_GS, cpl);
        if (mode == LONG64 && one_in(2)) {
            vmx_value[vmcs_seg_base(VIRTX_FS)] |= 0xffff800000000000;
            vmx_value[vmcs_seg_base(VIRTX_GS)] &= 0x7fffffffffff;
        }
    }
    if (one_in(2))
        segment(VIRTX_LDTR, 0, 0, 0, VIRTX_SEG_UNUSABLE);
    else
        segment(VIRTX_LDTR, 0x28, random_bits() & 0xffffffff, random_bits() & 0xffff, PRESENT | 2);
    segment(VIRTX_TR, 0x40, random_bits() & 0xffffffff, 0x67 + random_below(0x1000),
            PRESENT | (mode == COMPATIBILITY || mode == LONG64 || one_in(2) ? 11 : 3));
}

static void registers(enum mode mode, bool ia32e, bool paged, bool unrestricted)
{
    uint64_t fixed0 = bench.caps.cr0_fixed0 & ~(unrestricted ? CR0_PE | CR0_PG : 0);

    VALUE(GUEST_CR0) = fixed0 | CR0_ET | (random_bits() & (CR0_MP | CR0_TS | CR0_AM)) | CR0_WP |
                       (mode == REAL ? 0 : CR0_PE) | (paged ? CR0_PG : 0);
    VALUE(GUEST_CR4) = bench.caps.cr4_fixed0 |
                       (random_bits() & bench.caps.cr4_fixed1 &
                        (CR4_VME | CR4_DE | CR4_PSE | CR4_MCE | CR4_PGE | CR4_OSFXSR | CR4_SMEP)) |
                       (ia32e || mode == PAE ? CR4_PAE : 0);
    if (ia32e && one_in(4))
        VALUE(GUEST_CR4) |= CR4_PCIDE & bench.caps.cr4_fixed1;
    VALUE(GUEST_CR3) = bench.page[1];
    VALUE(GUEST_EFER) = (random_bits() & (EFER_SCE | EFER_NXE)) | (ia32e ? EFER_LMA | EFER_LME : 0);
    VALUE(GUEST_DR7) = 0x400 | (random_bits() & 0xff);
    VALUE(GUEST_DEBUGCTL) = RANDOM_OF(0, 0, 1, 2);
    VALUE(GUEST_PAT) = 0x0007040600070406;
    VALUE(GUEST_PERF_GLOBAL) = VALUE(GUEST_BNDCFGS) = VALUE(GUEST_PKRS) = 0;
    VALUE(GUEST_S_CET) = VALUE(GUEST_SSP) = VALUE(GUEST_SSP_TABLE) = 0;
    VALUE(GUEST_SYSENTER_CS) = random_bits() & 0xffffffff;
    VALUE(GUEST_SYSENTER_ESP) = random_bits() & 0x7fffffffffff;
    VALUE(GUEST_SYSENTER_EIP) = random_bits() | 0xffff800000000000;
    VALUE(GUEST_GDTR_BASE) = VALUE(GUEST_IDTR_BASE) = random_bits() & 0x7fffffff;
    VALUE(GUEST_GDTR_LIMIT) = VALUE(GUEST_IDTR_LIMIT) = random_bits() & 0xffff;
    VALUE(GUEST_RIP) = mode == LONG64 ? random_bits() & 0x7fffffffffff
                       : mode == REAL || mode == V86 || mode == PROTECTED16
                           ? random_bits() & 0xfff0
                           : random_bits() & 0xffffffff;
    VALUE(GUEST_RSP) = random_bits();
    VALUE(GUEST_RFLAGS) = RFLAGS_FIXED | (random_bits() & 0x57fd5) | (mode == V86 ? RFLAGS_VM : 0);
    for (unsigned i = 0; i < 4; i++)
        vmx_value[VMCS_GUEST_PDPTE0 + 2 * i] =
            one_in(2) ? 0 : (random_bits() & 0x3ffff000) | 1 | (random_bits() & 0xe18);
}

static void non_register(void)
{
    bool interruptible = VALUE(GUEST_RFLAGS) & RFLAGS_IF;
    uint64_t ss = vmx_value[vmcs_seg_attributes(VIRTX_SS)];
    uint64_t pending = RANDOM_OF(0, 0, 0x4000, 0x1001, 0x5002);
    uint64_t step = (VALUE(GUEST_RFLAGS) & RFLAGS_TF) && !(VALUE(GUEST_DEBUGCTL) & DEBUGCTL_BTF)
                        ? PENDING_DEBUG_SINGLE_STEP
                        : 0;

    VALUE(GUEST_INTERRUPTIBILITY) = RANDOM_OF(0, 0, 0, 2, 8) | (interruptible && one_in(8) ? 1 : 0);
    if ((VALUE(GUEST_INTERRUPTIBILITY) & 3) == 3)
        VALUE(GUEST_INTERRUPTIBILITY) = 1;
    VALUE(GUEST_ACTIVITY) = one_in(8) && !(ss & VIRTX_SEG_DPL) &&
                                    !(VALUE(GUEST_INTERRUPTIBILITY) & 3) &&
                                    (bench.caps.misc & BIT(6))
                                ? 1
                                : 0;
    if ((VALUE(GUEST_INTERRUPTIBILITY) & 3) || VALUE(GUEST_ACTIVITY))
        pending = step;
    VALUE(GUEST_PENDING_DEBUG) = pending;
}

static void event(void)
{
    bool protected = VALUE(GUEST_CR0) & CR0_PE;

    VALUE(ENTRY_INTERRUPTION) = VALUE(ENTRY_ERROR_CODE) = 0;
    VALUE(ENTRY_LENGTH) = 1 + random_below(15);
    if (!one_in(3) || (VALUE(GUEST_INTERRUPTIBILITY) & 0xb) || VALUE(GUEST_ACTIVITY))
        return;
    switch (random_below(5)) {
    case 0:
        VALUE(GUEST_RFLAGS) |= RFLAGS_IF;
        VALUE(ENTRY_INTERRUPTION) = INTERRUPTION_VALID | (random_bits() & 0xff);
        break;
    case 1:
        VALUE(ENTRY_INTERRUPTION) = INTERRUPTION_VALID | 0x202;
        break;
    case 2:
        VALUE(ENTRY_INTERRUPTION) =
            INTERRUPTION_VALID | 0x300 | RANDOM_OF(0, 1, 3, 4, 6, 7, 16, 19);
        break;
    case 3:
        VALUE(ENTRY_INTERRUPTION) = INTERRUPTION_VALID | 0x300 |
                                    RANDOM_OF(8, 10, 11, 12, 13, 14, 17) |
                                    (protected ? INTERRUPTION_ERROR : 0);
        VALUE(ENTRY_ERROR_CODE) = random_bits() & 0x7fff;
        break;
    default:
        VALUE(ENTRY_INTERRUPTION) =
            INTERRUPTION_VALID | RANDOM_OF(4, 5, 6) << INTERRUPTION_TYPE_SHIFT | RANDOM_OF(3, 4);
        break;
    }
}

const char *vmx_state_valid(void)
{
    bool has_unrestricted = can(VMX_SECONDARY, SECONDARY_UNRESTRICTED);
    enum mode mode = (enum mode)random_below(MODES);
    bool paged, ia32e, unrestricted;

    if (!has_unrestricted && mode < PAGED32)
        mode = PAGED32;
    ia32e = mode == COMPATIBILITY || mode == LONG64;
    paged = mode >= PAGED32;
    unrestricted = has_unrestricted && (!paged || one_in(2));
    host_copy(false);
    addresses();
    controls(unrestricted, ia32e);
    segments(mode);
    registers(mode, ia32e, paged, unrestricted);
    non_register();
    event();
    if (VALUE(GUEST_ACTIVITY) != 0 && can(VMX_PIN, PIN_TIMER))
        VALUE(PIN) |= PIN_TIMER; /* which is 0: whatever the guest waits for, it exits */
    return mode_names[mode];
}

/* ---- Changes ---- */

static unsigned width(uint32_t encoding)
{
    static const uint8_t bits[] = {16, 64, 32, 64};
    return bits[encoding >> 13 & 3];
}

static uint64_t too_high(uint64_t address)
{
    unsigned lowest = (unsigned)__builtin_ctzll(bench.beyond);

    return address | 1ul << (lowest + random_below(64 - lowest));
}

static uint64_t changed_address(uint64_t value)
{
    switch (random_below(3)) {
    case 0:
        return too_high(value);
    case 1:
        return value ^ 1ul << random_below(12);
    default:
        return bench.page[2];
    }
}

static uint64_t changed_eptp(uint64_t value)
{
    switch (random_below(4)) {
    case 0:
        return too_high(value);
    case 1:
        return bench.page[1] | (value & 0xfff);
    default:
        return value ^ 1ul << random_below(12);
    }
}

/* The areas are pages full of entries that may be loaded and stored. */
static uint64_t changed_count(uint32_t encoding)
{
    uint32_t address = encoding == VMCS_EXIT_MSR_STORE_COUNT  ? VMCS_EXIT_MSR_STORE
                       : encoding == VMCS_EXIT_MSR_LOAD_COUNT ? VMCS_EXIT_MSR_LOAD
                                                              : VMCS_ENTRY_MSR_LOAD;

    vmx_value[address] = address == VMCS_EXIT_MSR_STORE  ? bench.store
                         : address == VMCS_EXIT_MSR_LOAD ? bench.load
                                                         : bench.msrs;
    if (one_in(2))
        return 1 + random_below(256);
    /* The last page below the width, and one entry too many. */
    vmx_value[address] = (1ul << __builtin_ctzll(bench.beyond)) - 4096;
    return 257 + random_below(1000);
}

static uint64_t changed_link(void)
{
    switch (random_below(4)) {
    case 0:
        return bench.vmcs;
    case 1:
        return bench.other_vmcs;
    case 2:
        return bench.other_vmcs ^ 1ul << random_below(12);
    default:
        return too_high(bench.other_vmcs);
    }
}

static uint64_t changed(const struct field *field, uint64_t value)
{
    unsigned bits = width(field->encoding);

    switch (field->kind) {
    case FIXED:
        return value;
    case ADDRESS:
        return changed_address(value);
    case MSR_AREA:
        return one_in(2) ? too_high(value) : value ^ 1ul << random_below(12);
    case EPT_POINTER:
        return changed_eptp(value);
    case HOST_CR3:
        return one_in(2) ? too_high(value) : value ^ RANDOM_OF(0x8, 0x10);
    case HOST_ADDRESS:
        return value ^ 1ul << (47 + random_below(17));
    case CONTROL:
        return value ^ 1ul << random_below(32) ^ (one_in(4) ? 1ul << random_below(32) : 0);
    case MSR_COUNT:
        return changed_count(field->encoding);
    case SMALL:
        return one_in(8) ? random_change(value, bits) : random_below(32);
    case LINK:
        return changed_link();
    default:
        return random_change(value, bits);
    }
}

/* Fields that count only with a control: half the time it is set with the change. */
static const struct {
    uint16_t field;
    uint16_t word;
    uint32_t bit;
} enabling[] = {
    {VMCS_IO_BITMAP_A, VMCS_PRIMARY, PRIMARY_IO_BITMAPS},
    {VMCS_IO_BITMAP_B, VMCS_PRIMARY, PRIMARY_IO_BITMAPS},
    {VMCS_MSR_BITMAP, VMCS_PRIMARY, PRIMARY_MSR_BITMAPS},
    {VMCS_VIRTUAL_APIC, VMCS_PRIMARY, PRIMARY_TPR_SHADOW},
    {VMCS_TPR_THRESHOLD, VMCS_PRIMARY, PRIMARY_TPR_SHADOW},
    {VMCS_APIC_ACCESS, VMCS_SECONDARY, SECONDARY_APIC_ACCESS},
    {VMCS_PML_ADDRESS, VMCS_SECONDARY, SECONDARY_PML},
    {VMCS_FUNCTION_CONTROLS, VMCS_SECONDARY, SECONDARY_FUNCTIONS},
    {VMCS_EPTP_LIST, VMCS_SECONDARY, SECONDARY_FUNCTIONS},
    {VMCS_VMREAD_BITMAP, VMCS_SECONDARY, SECONDARY_SHADOWING},
    {VMCS_VMWRITE_BITMAP, VMCS_SECONDARY, SECONDARY_SHADOWING},
    {VMCS_VE_INFORMATION, VMCS_SECONDARY, SECONDARY_VE},
    {VMCS_SUBPAGE_TABLE, VMCS_SECONDARY, SECONDARY_SUBPAGE},
    {VMCS_VPID, VMCS_SECONDARY, SECONDARY_VPID},
    {VMCS_HOST_PAT, VMCS_EXIT, EXIT_LOAD_PAT},
    {VMCS_HOST_S_CET, VMCS_EXIT, EXIT_LOAD_CET},
    {VMCS_HOST_SSP, VMCS_EXIT, EXIT_LOAD_CET},
    {VMCS_HOST_SSP_TABLE, VMCS_EXIT, EXIT_LOAD_CET},
    {VMCS_HOST_PKRS, VMCS_EXIT, EXIT_LOAD_PKRS},
    {VMCS_GUEST_PAT, VMCS_ENTRY, ENTRY_LOAD_PAT},
    {VMCS_GUEST_DR7, VMCS_ENTRY, ENTRY_LOAD_DEBUG},
    {VMCS_GUEST_DEBUGCTL, VMCS_ENTRY, ENTRY_LOAD_DEBUG},
    {VMCS_GUEST_S_CET, VMCS_ENTRY, ENTRY_LOAD_CET},
    {VMCS_GUEST_SSP, VMCS_ENTRY, ENTRY_LOAD_CET},
    {VMCS_GUEST_SSP_TABLE, VMCS_ENTRY, ENTRY_LOAD_CET},
    {VMCS_GUEST_PKRS, VMCS_ENTRY, ENTRY_LOAD_PKRS},
};

static void enable(uint32_t field)
{
    for (unsigned i = 0; i < ARRAY_SIZE(enabling); i++) {
        uint16_t word = enabling[i].word;
        enum vmx_word which = word == VMCS_SECONDARY ? VMX_SECONDARY
                              : word == VMCS_EXIT    ? VMX_EXIT
                              : word == VMCS_ENTRY   ? VMX_ENTRY
                                                     : VMX_PRIMARY;

        if (enabling[i].field == field && can(which, enabling[i].bit))
            vmx_value[word] |= enabling[i].bit;
    }
    if (field == VMCS_EPTP_LIST)
        VALUE(FUNCTION_CONTROLS) |= bench.caps.functions;
}

/* Half the time a field that some rule is about, each rule alike. */
static const struct field *pick(void)
{
    uint32_t encoding;
    unsigned rule = 0;

    if (one_in(2))
        return &vmx_fields[random_below(vmx_field_count)];
    for (unsigned i = 0; i < vmx_check_table_count; i++)
        rule += *vmx_check_tables[i].count;
    rule = (unsigned)random_below(rule);
    for (unsigned i = 0;; i++) {
        if (rule < *vmx_check_tables[i].count) {
            encoding = vmx_check_tables[i].rules[rule].field;
            break;
        }
        rule -= *vmx_check_tables[i].count;
    }
    for (unsigned i = 0; i < vmx_field_count; i++) {
        if (vmx_fields[i].encoding == encoding)
            return &vmx_fields[i];
    }
    return &vmx_fields[0];
}

const struct field *vmx_state_change(void)
{
    const struct field *field = pick();
    uint64_t old = vmx_value[field->encoding], new = changed(field, old);

    if (new == old)
        return NULL;
    vmx_value[field->encoding] = new;
    if (one_in(2))
        enable(field->encoding);
    trial_changed(field->name, old, new);
    return field;
}
