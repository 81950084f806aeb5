/* SPDX-License-Identifier: BSD-2-Clause */
/* String instructions on devices: between memory, devices and ports, across the border of memory
 * and device, answered by the loop and by handlers. What they should do, the host does on its own
 * memory. */
#include "harness.h"

enum {
    PAGE = 4096,
    PORT = 0x321,
    SOURCE = 0x70000000, /* two pages of the guest, and two more */
    DESTINATION = 0x70010000,
    RFLAGS_ZF = 0x40,
    RFLAGS_TF = 0x100,
};

enum { MOVS, STOS, LODS, CMPS, SCAS, INS, OUTS, OPERATIONS };
static const char *const names[] = {"movs", "stos", "lods", "cmps", "scas", "ins", "outs"};

static struct operation {
    uint64_t rax, rcx, rsi, rdi, rflags;
    uint8_t which, size;
    bool rep, down;
} operation;

/* The registers of one of them, as text can name them. */
#define STRING_TEXT(text)                                                                          \
    __asm__ volatile(text                                                                          \
                     : "+a"(rax), "+c"(rcx), "+S"(rsi), "+D"(rdi)                                  \
                     : "d"(PORT)                                                                   \
                     : "memory", "c"                                                               \
                                 "c")

#define STRING_REP(name)                                                                           \
    do {                                                                                           \
        if (o->rep)                                                                                \
            STRING_TEXT("rep " name);                                                              \
        else                                                                                       \
            STRING_TEXT(name);                                                                     \
    } while (0)

#define STRING_SIZES(name)                                                                         \
    do {                                                                                           \
        if (o->size == 1)                                                                          \
            STRING_REP(name "b");                                                                  \
        else if (o->size == 2)                                                                     \
            STRING_REP(name "w");                                                                  \
        else                                                                                       \
            STRING_REP(name "l");                                                                  \
    } while (0)

#define STRING_WIDE(name)                                                                          \
    do {                                                                                           \
        if (o->size == 8)                                                                          \
            STRING_REP(name "q");                                                                  \
        else                                                                                       \
            STRING_SIZES(name);                                                                    \
    } while (0)

static void execute(struct operation *o)
{
    uint64_t rax = o->rax, rcx = o->rcx, rsi = o->rsi, rdi = o->rdi;

    if (o->down)
        __asm__ volatile("std");
    switch (o->which) {
    case MOVS:
        STRING_WIDE("movs");
        break;
    case STOS:
        STRING_WIDE("stos");
        break;
    case LODS:
        STRING_WIDE("lods");
        break;
    case CMPS:
        STRING_WIDE("cmps");
        break;
    case SCAS:
        STRING_WIDE("scas");
        break;
    case INS:
        STRING_SIZES("ins");
        break;
    default:
        STRING_SIZES("outs");
        break;
    }
    __asm__ volatile("pushf; pop %0; cld" : "=r"(o->rflags));
    o->rax = rax;
    o->rcx = rcx;
    o->rsi = rsi;
    o->rdi = rdi;
}

/* Bit n of `devices`: page n of the four is the device's. */
static void guest_string(uint64_t devices)
{
    uint64_t cr3;

    for (unsigned page = 0; page < 4; page++)
        *guest_pte((page < 2 ? SOURCE : DESTINATION) + page % 2 * PAGE) =
            ((devices >> page & 1 ? GUEST_HOLE : GUEST_MEMORY) + page * PAGE) | 7;
    __asm__ volatile("mov %%cr3, %0; mov %0, %%cr3"
                     : "=r"(cr3)
                     :
                     : "memory"); /* tables have changed */
    execute(&operation);
    guest_done(0);
}

/* ---- What answers ---- */

static uint8_t device[4 * PAGE];
static uint8_t stream[1024]; /* of the port, in the order of the accesses */
static unsigned streamed;

static void answer_mmio(struct virtx_exit *exit)
{
    uint8_t *at = device + (exit->mmio.gpa - GUEST_HOLE);

    CHECK(exit->mmio.gpa >= GUEST_HOLE && exit->mmio.gpa < GUEST_HOLE + sizeof(device));
    if (exit->mmio.access == VIRTX_WRITE)
        memcpy(at, &exit->mmio.value, exit->mmio.size);
    else
        memcpy(&exit->mmio.value, at, exit->mmio.size);
}

static void answer_port(struct virtx_exit *exit)
{
    uint32_t bytes = exit->io.count * exit->io.size;

    CHECK_EQUAL(exit->io.port, PORT);
    CHECK_EQUAL(exit->io.size, operation.size);
    CHECK(exit->io.string);
    CHECK_EQUAL(exit->io.rep, operation.rep);
    CHECK(streamed + bytes <= sizeof(stream));
    if (exit->io.access == VIRTX_WRITE)
        memcpy(stream + streamed, exit->io.data, bytes);
    else
        memcpy(exit->io.data, stream + streamed, bytes);
    streamed += bytes;
}

static enum virtx_verdict on_access(struct virtx_vcpu *vcpu, struct virtx_exit *exit, void *ctx)
{
    (void)vcpu, (void)ctx;
    if (exit->reason == VIRTX_EXIT_MMIO)
        answer_mmio(exit);
    else
        answer_port(exit);
    return VIRTX_HANDLED;
}

static bool run(unsigned devices, bool handlers)
{
    unsigned exits = 0;

    guest_prepare(guest_string, devices);
    while (!guest_continue(NULL)) {
        struct virtx_exit *exit = (struct virtx_exit *)(uintptr_t)machine.exit;
        uint64_t value;

        if (!CHECK(!handlers) || !CHECK(exit->pending) || !CHECK(exits++ < 1000))
            return false;
        /* All that complete describes must be answered before the next run. */
        do {
            if (exit->reason == VIRTX_EXIT_MMIO) {
                answer_mmio(exit);
                value = exit->mmio.value;
            } else if (CHECK_EQUAL(exit->reason, VIRTX_EXIT_IO)) {
                answer_port(exit);
            } else {
                return false;
            }
        } while (virtx_vcpu_complete(
                     machine.vcpu, exit->reason == VIRTX_EXIT_MMIO ? &value : NULL) == VIRTX_AGAIN);
    }
    return true;
}

/* ---- What is to be expected ---- */

static uint8_t model[4 * PAGE], model_stream[1024];
static unsigned model_streamed;

static uint8_t *model_at(uint64_t gva)
{
    return gva < DESTINATION ? model + (gva - SOURCE) : model + 2 * PAGE + (gva - DESTINATION);
}

static void model_port(struct operation *o)
{
    uint64_t by = o->down ? -(uint64_t)o->size : o->size;

    for (uint64_t n = o->rep ? o->rcx : 1; n; n--, o->rcx -= o->rep) {
        uint8_t *at = model_stream + model_streamed;

        model_streamed += o->size;
        if (o->which == INS) {
            memcpy(model_at(o->rdi), at, o->size);
            o->rdi += by;
        } else {
            memcpy(at, model_at(o->rsi), o->size);
            o->rsi += by;
        }
    }
}

static struct operation expected(struct operation o)
{
    uint64_t rsi = (uint64_t)(uintptr_t)model_at(o.rsi) - o.rsi;
    uint64_t rdi = (uint64_t)(uintptr_t)model_at(o.rdi) - o.rdi;

    if (o.which >= INS) {
        model_port(&o);
        return o;
    }
    o.rsi += rsi;
    o.rdi += rdi;
    execute(&o);
    o.rsi -= rsi;
    o.rdi -= rdi;
    return o;
}

/* ---- Cases ---- */

static uint8_t *page_at(unsigned page, unsigned devices)
{
    return devices >> page & 1 ? device + page * PAGE : machine.ram + page * PAGE;
}

static void prepare_pages(unsigned devices, bool comparing)
{
    for (unsigned page = 0; page < 4; page++) {
        for (unsigned i = 0; i < PAGE; i++) {
            uint8_t byte = (uint8_t)(i * 7 + (comparing ? page % 2 : page) * 31);

            model[page * PAGE + i] = byte;
            page_at(page, devices)[i] = byte;
        }
    }
    for (unsigned i = 0; i < sizeof(stream); i++)
        stream[i] = model_stream[i] = (uint8_t)(i * 5 + 3);
    streamed = model_streamed = 0;
}

static bool try_one(struct operation o, unsigned devices, bool handlers)
{
    struct operation wanted;
    bool good;

    prepare_pages(devices, o.which == CMPS);
    if (o.which == SCAS) /* equal at first, where they end */
        memset(model_at(o.rdi) - 32, 0x41, 64);
    o.rax = o.which == SCAS ? 0x4141414141414141 : 0x1122334455667788;
    for (unsigned page = 0; page < 4; page++)
        memcpy(page_at(page, devices), model + page * PAGE, PAGE);
    operation = o;
    wanted = expected(o);
    good = run(devices, handlers);
    good &= operation.rax == wanted.rax && operation.rcx == wanted.rcx &&
            operation.rsi == wanted.rsi && operation.rdi == wanted.rdi;
    if (o.which == CMPS || o.which == SCAS)
        good &= !((operation.rflags ^ wanted.rflags) & 0x8d5);
    good &= streamed == model_streamed && !memcmp(stream, model_stream, sizeof(stream));
    for (unsigned page = 0; page < 4; page++)
        good &= !memcmp(page_at(page, devices), model + page * PAGE, PAGE);
    if (!CHECK(good))
        bare_printf("  %s%s size %u devices 0x%x down %u: rax 0x%lx rcx 0x%lx rsi 0x%lx rdi 0x%lx, "
                    "%u bytes; "
                    "expected 0x%lx 0x%lx 0x%lx 0x%lx, %u\n",
                    o.rep ? "rep " : "", names[o.which], o.size, devices, o.down, operation.rax,
                    operation.rcx, operation.rsi, operation.rdi, streamed, wanted.rax, wanted.rcx,
                    wanted.rsi, wanted.rdi, model_streamed);
    return good;
}

/* Nothing is left out that the instruction itself does not use. */
static bool is_used(unsigned which, unsigned devices)
{
    bool source = which != STOS && which != SCAS && which != INS;
    bool destination = which != LODS && which != OUTS;

    return (source || !(devices & 3)) && (destination || !(devices & 12));
}

/* Each begins or ends some units before the border of its two pages, and one goes across. */
static void all(bool handlers)
{
    static const uint8_t sizes[] = {1, 2, 4, 8};

    for (unsigned which = 0; which < OPERATIONS; which++)
        for (unsigned i = 0; i < (which >= INS ? 3 : 4); i++)
            for (unsigned form = 0; form < 4; form++)
                for (unsigned devices = 1; devices < 16; devices++) {
                    unsigned size = sizes[i];
                    bool down = form & 1, rep = form & 2;
                    uint64_t back = rep ? 3 * size + size / 2 : size / 2;

                    if (!is_used(which, devices))
                        continue;
                    if (down)
                        back = rep ? -(2ull * size + size / 2) : size / 2;
                    if (!try_one((struct operation){.which = (uint8_t)which,
                                                    .size = (uint8_t)size,
                                                    .rep = rep,
                                                    .down = down,
                                                    .rcx = 7,
                                                    .rsi = SOURCE + PAGE - back,
                                                    .rdi = DESTINATION + PAGE - back},
                                 devices, handlers))
                        return;
                }
}

static void by_loop(void)
{
    machine_open();
    all(false);
}

static void by_handlers(void)
{
    machine_open();
    intercept_handler(VIRTX_INTERCEPT_MMIO, VIRTX_READ | VIRTX_WRITE, GUEST_HOLE,
                      GUEST_HOLE + sizeof(device) - 1, on_access, NULL);
    intercept_handler(VIRTX_INTERCEPT_PORT, VIRTX_READ | VIRTX_WRITE, PORT, PORT, on_access, NULL);
    all(true);
}

/* More than the library does in one go: in parts, each of which the loop sees. */
static void long_one(void)
{
    machine_open();
    try_one((struct operation){.which = INS,
                               .size = 1,
                               .rep = true,
                               .rcx = 900,
                               .rsi = SOURCE,
                               .rdi = DESTINATION + PAGE - 450},
            8, false);
    try_one(
        (struct operation){
            .which = MOVS, .size = 4, .rep = true, .rcx = 300, .rsi = SOURCE, .rdi = DESTINATION},
        5, false);
}

/* TF traps after each iteration (Intel SDM, "Single-Step Exception Condition"). */
static volatile unsigned traps;
static uint64_t trapped_rcx[8];

static void on_trap(struct bare_frame *frame)
{
    if (traps < 8)
        trapped_rcx[traps] = frame->rcx;
    traps++;
    if (traps == 3)
        frame->rflags &= ~(uint64_t)RFLAGS_TF;
}

static void guest_stepped(uint64_t port)
{
    uint64_t rdi = GUEST_HOLE, rsi = GUEST_HOLE + 64, rcx = 5;

    if (port)
        __asm__ volatile("pushf; orl $0x100, (%%rsp); popf; rep insb"
                         : "+D"(rdi), "+c"(rcx)
                         : "d"(PORT)
                         : "memory", "cc");
    else
        __asm__ volatile("pushf; orl $0x100, (%%rsp); popf; rep movsb"
                         : "+D"(rdi), "+S"(rsi), "+c"(rcx)
                         :
                         : "memory", "cc");
    guest_done(rcx);
}

static void stepped(void)
{
    machine_open();
    host_steps_allow();
    intercept_handler(VIRTX_INTERCEPT_MMIO, VIRTX_READ | VIRTX_WRITE, GUEST_HOLE,
                      GUEST_HOLE + sizeof(device) - 1, on_access, NULL);
    intercept_handler(VIRTX_INTERCEPT_PORT, VIRTX_READ | VIRTX_WRITE, PORT, PORT, on_access, NULL);
    for (unsigned port = 0; port < 2; port++) {
        operation = (struct operation){.size = 1, .rep = true};
        streamed = 0;
        traps = 0;
        guest_handler[1] = on_trap;
        CHECK_EQUAL(GUEST_RESULT(guest_stepped, port), 0);
        guest_handler[1] = NULL;
        CHECK_EQUAL(traps, 3);
        for (unsigned i = 0; i < 3; i++)
            CHECK_EQUAL(trapped_rcx[i], 4 - i);
    }
    if (engine_is("bochs") && backend_is("svm"))
        known_bug("Bochs takes the guest's single-step trap along into the host");
    CHECK_EQUAL(host_steps_end(), 0);
    known_bug_end();
}

GUEST_CASES({"strings-by-the-loop", by_loop}, {"strings-by-handlers", by_handlers},
            {"strings-in-parts", long_one}, {"strings-stepped", stepped});
