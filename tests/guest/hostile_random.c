/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Random instruction streams in every mode. The guest has 1 MiB of memory full of random bytes and
 * instructions that matter to a VMM, page tables some of which lie where no memory is, and
 * registers that point to all of that.
 */
#include "hostile.h"

enum {
    RAM_BYTES = 1 << 20,
    PAGE = 4096,
    CODE = 0x10000,
    CODE_BYTES = 0x10000,
    TABLES = 0x80000,
    IDT = 0x90000,
    GDT = 0x92000,
    TSS = 0x93000,
    STACK = 0x98000,
    HOLE = 0x00300000, /* no slot is there */
    STREAMS = 160,
    INSTRUCTIONS = 4000,
    EXITS = 60,
};

enum mode { REAL, PROTECTED16, PROTECTED32, PAGED32, PAE, V86, COMPATIBILITY, LONG64, MODES };
static const char *const mode_names[MODES] = {
    "real mode",  "16-bit protected mode", "protected mode",     "paged protected mode",
    "PAE paging", "virtual-8086 mode",     "compatibility mode", "64-bit mode",
};

static struct {
    struct virtx_vm *vm;
    struct virtx_vcpu *vcpu;
    uint8_t *ram;
} box;

static uint64_t below(uint64_t n)
{
    return hostile_random() % n;
}

/* ---- Memory ---- */

/* Instructions that exit, fault, or change what a VMM looks at. The operand bytes are random. */
static const struct {
    uint8_t length, bytes[4];
} interesting[] = {
    {2, {0x0f, 0x01}},
    {2, {0x0f, 0x00}},
    {2, {0x0f, 0x20}},
    {2, {0x0f, 0x22}},
    {2, {0x0f, 0x21}},
    {2, {0x0f, 0x23}},
    {2, {0x0f, 0x30}},
    {2, {0x0f, 0x32}},
    {2, {0x0f, 0xa2}},
    {2, {0x0f, 0xae}},
    {2, {0x0f, 0xc7}},
    {2, {0x0f, 0x31}},
    {2, {0x0f, 0x33}},
    {2, {0x0f, 0x06}},
    {2, {0x0f, 0x08}},
    {2, {0x0f, 0x09}},
    {2, {0x0f, 0xaa}},
    {2, {0x0f, 0x37}},
    {3, {0x0f, 0x01, 0xd1}},
    {3, {0x0f, 0x01, 0xd0}},
    {3, {0x0f, 0x01, 0xc1}},
    {3, {0x0f, 0x01, 0xd9}},
    {3, {0x0f, 0x01, 0xd8}},
    {3, {0x0f, 0x01, 0xf8}},
    {1, {0x9d}},
    {1, {0x9c}},
    {1, {0xcf}},
    {1, {0xcd}},
    {1, {0xcc}},
    {1, {0xf1}},
    {1, {0xce}},
    {1, {0xfa}},
    {1, {0xfb}},
    {1, {0xf4}},
    {1, {0x8e}},
    {1, {0x8c}},
    {1, {0xea}},
    {1, {0x9a}},
    {1, {0xcb}},
    {1, {0xe4}},
    {1, {0xe6}},
    {1, {0xec}},
    {1, {0xef}},
    {1, {0x6c}},
    {1, {0x6f}},
    {1, {0xa4}},
    {1, {0xab}},
    {2, {0xf3, 0xa5}},
    {2, {0xf2, 0xae}},
    {1, {0x0f}},
    {1, {0xf0}},
    {1, {0x66}},
    {1, {0x67}},
    {1, {0x87}},
    {2, {0x0f, 0xb1}},
    {1, {0xff}},
    {1, {0xc4}},
    {1, {0x62}},
    {3, {0x0f, 0x01, 0x3b}},
    {3, {0x66, 0x0f, 0x38}},
};

static void fill_code(uint8_t *at, size_t bytes)
{
    size_t i = 0;

    while (i + 8 < bytes) {
        uint64_t random = hostile_random();
        unsigned row = (unsigned)(random >> 8) % (sizeof(interesting) / sizeof(interesting[0]));
        unsigned length = 0;

        if (random & 1) {
            length = interesting[row].length;
            memcpy(at + i, interesting[row].bytes, length);
        }
        at[i + length] = (uint8_t)(random >> 40);
        at[i + length + 1] = (uint8_t)(random >> 48);
        i += length + 1 + (random >> 56) % 2;
    }
}

static void put(uint32_t at, uint64_t value, unsigned bytes)
{
    memcpy(box.ram + at, &value, bytes);
}

/* Long mode at TABLES, PAE at TABLES + 4 pages, 32-bit at TABLES + 9: identity for RAM and holes,
 * and one table that lies in a hole. */
static void fill_tables(void)
{
    memset(box.ram + TABLES, 0, 0x10000);
    put(TABLES, TABLES + 0x1007, 8);
    put(TABLES + 0x1000, TABLES + 0x2007, 8);
    put(TABLES + 0x1008, HOLE | 7, 8); /* a page directory in a hole */
    for (unsigned i = 0; i < 512; i++)
        put(TABLES + 0x2000 + 8 * i, (uint64_t)i << 21 | 0x87, 8);
    put(TABLES + 0x2018, HOLE | 0x1007, 8);   /* a page table in a hole */
    put(TABLES + 0x2020, TABLES | 0x2007, 8); /* tables map themselves */
    for (unsigned i = 0; i < 4; i++)
        put(TABLES + 0x4000 + 8 * i, i == 2 ? (HOLE | 1) : (TABLES + 0x2001), 8);
    for (unsigned i = 0; i < 1024; i++)
        put(TABLES + 0x9000 + 4 * i, (uint64_t)(i & 255) << 22 | 0x87, 4);
    put(TABLES + 0x9000 + 4 * 7, HOLE | 7, 4);
}

/* Gates that lead into the random code, some of them broken. */
static void fill_descriptors(enum mode mode)
{
    static const uint64_t gdt[] = {0,
                                   0x00af9b000000ffff,
                                   0x00cf93000000ffff,
                                   0x00cf9b000000ffff,
                                   0x000f9b000000ffff,
                                   0x000f93000000ffff,
                                   0x00cffb000000ffff,
                                   0x00cff3000000ffff,
                                   0x00008b0930000067,
                                   0,
                                   0x0000820000000fff,
                                   0};
    bool wide = mode >= COMPATIBILITY;
    uint64_t code = wide ? 0x08 : mode == PROTECTED16 ? 0x20 : 0x18;

    memcpy(box.ram + GDT, gdt, sizeof(gdt));
    memset(box.ram + TSS, 0, PAGE);
    put(TSS + 4, STACK, 8);
    put(TSS + 8, 0x10, 2);
    for (unsigned i = 0; i < 256; i++) {
        uint64_t entry = CODE + below(CODE_BYTES);
        uint64_t type = below(16) ? 0xee00 : hostile_random() & 0xff00;
        uint64_t gate = (entry & 0xffff) | code << 16 | type << 32 | (entry >> 16) << 48;

        if (wide) {
            put(IDT + 16 * i, gate, 8);
            put(IDT + 16 * i + 8, below(32) ? 0 : hostile_random(), 8);
        } else {
            put(IDT + 8 * i, gate, 8);
        }
    }
    if (mode == REAL || mode == V86) {
        for (unsigned i = 0; i < 256; i++)
            put(4 * i, (CODE >> 4) << 16 | below(0x10000), 4);
    }
}

/* ---- Registers ---- */

static struct virtx_segment segment(uint64_t selector, uint64_t base, uint64_t limit,
                                    uint64_t attributes)
{
    return (struct virtx_segment){.base = base,
                                  .limit = (uint32_t)limit,
                                  .attributes = (uint32_t)attributes,
                                  .selector = (uint16_t)selector};
}

static void set_segments(struct virtx_state *s, enum mode mode)
{
    bool low = mode == REAL || mode == V86, tiny = mode == PROTECTED16;
    unsigned cpl = mode == V86 ? 3 : low || tiny || below(3) ? 0 : 3;
    uint64_t code = mode == LONG64 ? 0xa09b : tiny ? 0x9b : 0xc09b;
    uint64_t data = tiny ? 0x93 : 0xc093, limit = tiny ? 0xfffff : 0xffffffff;

    if (tiny) {
        code |= VIRTX_SEG_G;
        data |= VIRTX_SEG_G;
        limit = 0xffffffff;
    }
    for (unsigned i = VIRTX_ES; i <= VIRTX_GS; i++) {
        uint64_t selector = i == VIRTX_CS ? CODE >> 4 : i == VIRTX_SS ? STACK >> 4 : below(0xa000);

        if (low)
            s->seg[i] =
                segment(selector & ~3ul, (selector & ~3ul) << 4, 0xffff, mode == V86 ? 0xf3 : 0x93);
        else
            s->seg[i] = segment((i == VIRTX_CS ? 8 : 0x10) | cpl, 0, limit,
                                (i == VIRTX_CS ? code : data) | cpl << 5);
    }
    s->seg[VIRTX_LDTR] = segment(0, 0, 0xffff, 0x82);
    /* QEMU aborts on an interrupt from ring 3 to ring 0 through a 32-bit TSS that is marked busy in
     * TR itself. */
    s->seg[VIRTX_TR] = segment(0x40, TSS, 0x67, engine_is("qemu") ? 0x89 : 0x8b);
}

static void set_registers(struct virtx_state *s, enum mode mode)
{
    bool ia32e = mode >= COMPATIBILITY, paged = mode >= PAGED32;
    static const uint64_t places[] = {
        CODE, STACK,      HOLE,       HOLE + 0x20000, RAM_BYTES - 2, TABLES + 0x2000,
        IDT,  0xfee00000, 0xfffffff0, RAM_BYTES,      CODE + 0x8000, 0x0000800000000000};

    s->cr0 = 0x30 | (paged ? 0x80000000 : 0) | (mode == REAL ? 0 : 1) | (below(2) ? 0x10000 : 0);
    s->cr4 = (below(2) ? 0x600 : 0) | (mode == PAE || ia32e ? 0x20 : 0x10);
    s->cr3 = ia32e ? TABLES : mode == PAE ? TABLES + 0x4000 : TABLES + 0x9000;
    s->efer = ia32e ? 0x500 : 0;
    if (below(2))
        s->efer |= 0x801;
    s->cr2 = s->cr8 = 0;
    s->dr7 = 0x400;
    for (unsigned i = 0; i < VIRTX_GPR_COUNT; i++)
        s->gpr[i] = below(3) ? places[below(sizeof(places) / sizeof(places[0]))] + below(64)
                             : hostile_random();
    set_segments(s, mode);
    s->rip = mode == REAL || mode == V86 ? below(CODE_BYTES) : CODE + below(CODE_BYTES);
    s->gpr[VIRTX_RSP] = mode == REAL || mode == V86 ? 0x1000 : STACK;
    if (below(8) == 0 && mode != REAL && mode != V86)
        s->rip = RAM_BYTES - 1 - below(8); /* runs out of memory in the middle */
    s->rflags =
        2 | (hostile_random() & 0x240cd5) | (mode == V86 ? 1ul << 17 : 0) | (below(4) ? 0 : 0x100);
    s->rflags &= ~(1ul << 21 | 1ul << 20 | 1ul << 19) | (mode == V86 ? 1ul << 17 : 0);
    s->gdtr.base = GDT;
    s->gdtr.limit = 0x5f;
    s->idtr.base = mode == REAL ? 0 : IDT;
    s->idtr.limit = mode == REAL ? 0x3ff : 0xfff;
    s->interruptibility = s->activity = 0;
    s->pending_debug = 0;
    if (mode == PAE)
        memcpy(s->pdpte, box.ram + TABLES + 0x4000, sizeof(s->pdpte));
}

/* ---- The streams ---- */

/* Of the host's, too: where it does more of the guest's work, and where the TSC counts time, not
 * instructions, some more. */
static uint64_t instructions(void)
{
    if (engine_is("qemu"))
        return 100 * INSTRUCTIONS;
    return has_feature(VIRTX_FEATURE_UNPAGED_GUEST) && paging_is_nested() ? INSTRUCTIONS
                                                                          : 10 * INSTRUCTIONS;
}

static enum outcome stream(uint64_t number, enum mode mode)
{
    struct virtx_state state;

    hostile_seed(number);
    memset(box.ram, 0, RAM_BYTES);
    fill_code(box.ram + CODE, CODE_BYTES);
    fill_code(box.ram + RAM_BYTES - PAGE, PAGE);
    fill_tables();
    fill_descriptors(mode);
    CHECK_OK(virtx_vcpu_reset(box.vcpu, VIRTX_PRESET_REAL));
    CHECK_OK(virtx_vcpu_get(box.vcpu, VIRTX_STATE_ALL, &state));
    set_registers(&state, mode);
    if (!CHECK_OK(virtx_vcpu_set(box.vcpu, VIRTX_STATE_ALL, &state)))
        return OUTCOME_FAILED;
    return hostile_run(box.vcpu, instructions(), EXITS);
}

static enum virtx_verdict by_default(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    (void)vcpu;
    (void)exit;
    (void)ctx;
    return VIRTX_DEFAULT;
}

/* What the engine itself does not survive is not left to it. */
static void leave_to_the_library(void)
{
    struct virtx_intercept_config config = {.size = sizeof(config), .action = VIRTX_ACTION_EXIT};
    struct virtx_intercept *intercept;

    if (engine_is("bochs")) {
        config.kind = VIRTX_INTERCEPT_INSTRUCTION;
        config.first = config.last = VIRTX_INSN_MWAIT;
        bare_printf("not shown: random-streams: MWAIT without exits: Bochs' never ends when IF is "
                    "0\n");
    } else {
        config.kind = VIRTX_INTERCEPT_DR;
        config.access = VIRTX_WRITE;
        config.last = 7; /* a write of DR0 arms it, too, if DR7 is set */
        config.handler = by_default;
        bare_printf("not shown: random-streams: armed breakpoints: QEMU dies when an exception's "
                    "frame meets one\n");
    }
    CHECK_OK(virtx_vm_intercept(box.vm, &config, &intercept));
}

void hostile_streams(void)
{
    uint64_t count = bare_option_u64("streams", STREAMS), outcomes[OUTCOME_COUNT] = {0};
    uint64_t first = bare_option_u64("stream", 0);

    hostile_open();
    if (engine_is("bochs") && guest_has_svm) {
        not_shown(
            "under Bochs' SVM nothing stops a guest that clears IF, a triple fault resets the "
            "machine, and virtual-8086 mode panics");
        hostile_close(machine.vcpu);
        return;
    }
    box.ram = bare_pages_alloc(RAM_BYTES / PAGE, 1);
    CHECK_OK(virtx_vm_create(machine.virtx, NULL, &box.vm));
    slot_make(box.vm, 0, box.ram, RAM_BYTES, ALL_RIGHTS, 0);
    box.vcpu = vcpu_make(box.vm, 0);
    leave_to_the_library();
    for (uint64_t i = first; i < first + count; i++) {
        enum mode mode = (enum mode)(i % MODES);
        enum outcome outcome;

        if (bare_option("trace") != NULL)
            bare_printf("  stream %lu, %s\n", i, mode_names[mode]);
        outcome = stream(i, mode);
        outcomes[outcome]++;
        if (outcome == OUTCOME_FAILED || !hostile_check(box.vcpu))
            bare_printf("  in stream %lu, %s\n", i, mode_names[mode]);
    }
    bare_printf("  %lu streams: %lu done, %lu kicked, %lu halted, %lu shut down, %lu refused, "
                "%lu stuck; %lu exits\n",
                count, outcomes[OUTCOME_DONE], outcomes[OUTCOME_KICK], outcomes[OUTCOME_HALTED],
                outcomes[OUTCOME_SHUTDOWN], outcomes[OUTCOME_REFUSED], outcomes[OUTCOME_STUCK],
                hostile_exits);
    CHECK(hostile_exits > count / 2);
    hostile_close(box.vcpu);
    CHECK_OK(virtx_vcpu_destroy(box.vcpu));
    CHECK_OK(virtx_vm_destroy(box.vm));
    bare_pages_free(box.ram, RAM_BYTES / PAGE);
}
