/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Small guests, one behaviour each.
 *
 * A test image is a bare host (examples/bare) with a table of cases. Its guests are C functions of
 * the same image: the image itself is the first memory slot, at the address where it was linked, so
 * a guest function runs in ring 0 or 3 of 64-bit mode with its own page tables, GDT, IDT and stack,
 * and shares the image's variables with the host that checks them.
 *
 * What an image writes to the log, each at the beginning of a line:
 *   ok NAME                          the case passed
 *   FAIL NAME FILE:LINE: WHAT        one expectation of the case failed
 *   not shown: NAME: REASON          this engine cannot show the behaviour
 *   known bug: NAME: WHAT            the emulator is wrong here; what failed then stands behind it
 * The exit status is 0 only if nothing failed. Words of the command line: engine=bochs|qemu,
 * model=NAME, case=NAME (only that one), paging=shadow, unaided (without HARNESS_IRQ_HELP),
 * nmi-by-hand (without VIRTX_FEATURE_VIRTUAL_NMI).
 */
#ifndef TESTS_GUEST_HARNESS_H
#define TESTS_GUEST_HARNESS_H

#include "bare.h"
#include "virtx_host.h"
#include <virtx/virtx.h>

/* ---- Cases ---- */

struct guest_case {
    const char *name; /* the behaviour, in words with dashes */
    void (*run)(void);
};

/* The image defines its cases; bare_main() is the harness's. */
extern const struct guest_case guest_cases[];
extern const unsigned guest_case_count;
#define GUEST_CASES(...)                                                                           \
    const struct guest_case guest_cases[] = {__VA_ARGS__};                                         \
    const unsigned guest_case_count = sizeof(guest_cases) / sizeof(guest_cases[0])

/* In a case, on the host's or the guest's side: note a failure and go on. The value is `good`. */
#define CHECK(condition) check(condition, #condition, __FILE__, __LINE__)
#define CHECK_EQUAL(actual, expected)                                                              \
    check_equal((uint64_t)(actual), (uint64_t)(expected), #actual, __FILE__, __LINE__)
/* A call that answers with a virtx_status; on failure the detail of the VM or vcpu is shown. */
#define CHECK_STATUS(call, expected) check_status(call, expected, #call, __FILE__, __LINE__)
#define CHECK_OK(call)               CHECK_STATUS(call, VIRTX_OK)
bool check(bool good, const char *what, const char *file, int line);
bool check_equal(uint64_t actual, uint64_t expected, const char *what, const char *file, int line);
bool check_status(enum virtx_status actual, enum virtx_status expected, const char *what,
                  const char *file, int line);

/* This engine cannot show the behaviour, for this reason. Then return from the case. */
void not_shown(const char *reason);
/* A named defect of the emulator: what fails after this in the case is reported as such. */
void known_bug(const char *what);
void known_bug_end(void); /* … up to here */

/* Which engine this is, from the command line: "bochs" or "qemu", and the processor's model. */
bool engine_is(const char *name);
bool model_is(const char *name);
/* All guests go through the library's executor (the word interpret on the command line). */
bool harness_interpreted(void);
/* NMIs, and what comes with one, are delivered in software (VMX without virtual NMIs, as by the
 * word nmi-by-hand). After machine_open(). */
bool harness_nmi_by_hand(void);
/* Which backend was chosen. After machine_open(). */
bool backend_is(const char *name);
bool has_feature(uint64_t feature);
/* The paging engines to open the library with: all, or only the one that paging= names. */
const struct virtx_paging *const *harness_engines(void);
bool paging_is_nested(void);

/* ---- Addresses ---- */

enum {
    GUEST_MEMORY = 0x40000000, /* the second slot: 4 MiB of RAM at 1 GiB, not part of the image */
    GUEST_MEMORY_BYTES = 4 << 20,
    GUEST_HOLE = 0x50000000, /* mapped by the guest's tables, backed by no slot */
    PORT_DONE = 0x500,       /* OUT here ends guest_call(); the value is its result */
    PORT_MARK = 0x504,       /* OUT here is counted in machine.marks */
    PORT_TRAP = 0x508,       /* an exception that the guest did not expect */
    GUEST_CPUS = 4,
    ALL_RIGHTS = VIRTX_READ | VIRTX_WRITE | VIRTX_EXECUTE,
};

/* Selectors in the guest's GDT, in the order that SYSCALL and SYSENTER want. */
enum {
    GUEST_CODE = 0x08,
    GUEST_DATA = 0x10,
    GUEST_USER_CODE32 = 0x18 | 3,
    GUEST_USER_DATA = 0x20 | 3,
    GUEST_USER_CODE = 0x28 | 3,
    GUEST_USER_DATA_AGAIN = 0x30 | 3,
    GUEST_CODE32 = 0x38,
    GUEST_TSS = 0x40,   /* and 0x50, 0x60, 0x70: one for each vcpu */
    GUEST_SPARE = 0x80, /* two descriptors for a case's own use */
    GUEST_GDT_ENTRIES = 18,
};

/* ---- A virtual machine ---- */

struct machine {
    struct virtx *virtx;
    struct virtx_vm *vm;
    struct virtx_vcpu *vcpu;
    struct virtx_memslot *image, *memory;
    uint8_t *ram; /* backs GUEST_MEMORY, and is readable by the host there */
    const struct virtx_exit *exit;
    uint64_t marks, mark_value;
};

/* The host's side, made anew for every case by machine_open(); machine_close() checks for leaks.
 * The variables before it say how, and have their defaults again in the next case. */
extern struct machine machine;
extern uint64_t harness_disable; /* virtx_config.disable */
/* The hardware's help for interrupt controllers. */
#define HARNESS_IRQ_HELP                                                                           \
    (VIRTX_FEATURE_TPR_SHADOW | VIRTX_FEATURE_APIC_ACCESS | VIRTX_FEATURE_APIC_REGISTERS |         \
     VIRTX_FEATURE_VIRTUAL_INTERRUPT | VIRTX_FEATURE_POSTED_INTERRUPT |                            \
     VIRTX_FEATURE_VIRTUAL_PRIORITY | VIRTX_FEATURE_VIRTUAL_X2APIC)
extern const struct virtx_host_profile *harness_profile; /* default: virtx_profile_bare */
extern const struct virtx_host_ops *harness_ops;         /* default: bare_virtx_ops */
extern bool harness_exit_on_interrupt;
extern bool harness_interrupts_to_guest;
extern enum virtx_table_sync harness_table_sync;
extern uint32_t harness_memory_flags; /* of the slot at GUEST_MEMORY */
extern bool harness_no_watchdog;      /* the case needs the host's timer, or exact counts */
extern uint64_t harness_patience;     /* so many times the usual time is given to the case */
void machine_open(void);
void machine_close(void);
/* A slot of memory type WB. */
struct virtx_memslot *slot_make(struct virtx_vm *vm, uint64_t gpa, void *memory, uint64_t bytes,
                                uint32_t rights, uint32_t flags);
/* Only the library and the CPU, without a VM; machine_close() undoes it too. */
void machine_open_library(void);
/* Another VM with the same two slots and one vcpu, or another vcpu. The case destroys them. */
struct virtx_vm *vm_make(struct virtx_vcpu **vcpu);
struct virtx_vcpu *vcpu_make(struct virtx_vm *vm, uint32_t id);

/* Sets the registers so that the guest calls fn(argument) in ring 0 of 64-bit mode. */
void guest_prepare(void (*fn)(uint64_t), uint64_t argument);
void vcpu_prepare(struct virtx_vcpu *vcpu, unsigned stack, void (*fn)(uint64_t), uint64_t argument);
/* The same without a reset: all state but RIP, RSP and RDI stays as it is. */
void guest_prepare_again(void (*fn)(uint64_t), uint64_t argument);
/* Prepares, and runs until PORT_DONE (returns true) or an exit that the harness does not know
 * (returns false, with machine.exit). Kicks, host interrupts and marks are served. */
bool guest_call(void (*fn)(uint64_t), uint64_t argument, uint64_t *result);
/* Goes on running, as guest_call() does. */
bool guest_continue(uint64_t *result);
bool vcpu_continue(struct virtx_vcpu *vcpu, uint64_t *result);
/* Runs once (a case that has failed to run reports it and gets an exit of reason NONE). */
const struct virtx_exit *guest_run(void);
const struct virtx_exit *vcpu_run(struct virtx_vcpu *vcpu);
/* guest_call() and guest_continue() which must end with PORT_DONE; its result, or ~0. */
#define GUEST_RESULT(fn, argument) guest_result(fn, argument, __FILE__, __LINE__)
#define GUEST_CONTINUE()           guest_result(NULL, 0, __FILE__, __LINE__)
uint64_t guest_result(void (*fn)(uint64_t), uint64_t argument, const char *file, int line);
/* guest_continue() which must come to an exit of this reason instead; false if it does not. */
#define EXPECT_EXIT(reason) expect_exit(reason, __FILE__, __LINE__)
bool expect_exit(enum virtx_exit_reason reason, const char *file, int line);
/* The same, and then completes the exit. */
#define SERVE(reason, value) serve(reason, value, __FILE__, __LINE__)
bool serve(enum virtx_exit_reason reason, const void *value, const char *file, int line);
/* The registers now. */
struct virtx_state guest_state(void);
void guest_set_state(uint32_t groups, const struct virtx_state *state);
/* All exits of the vcpu until now but those that host interrupts cause. */
uint64_t guest_exits(void);
/* One line about an exit: the neutral reason and its operands. */
void describe_exit(char *text, size_t size, const struct virtx_exit *exit);
enum { RW = VIRTX_READ | VIRTX_WRITE };
/* Sets an intercept; NULL (and a failure) when the library refuses. */
struct virtx_intercept *intercept(uint32_t kind, uint32_t access, uint64_t first, uint64_t last);
struct virtx_intercept *intercept_handler(uint32_t kind, uint32_t access, uint64_t first,
                                          uint64_t last, virtx_handler handler, void *ctx);
/* Lets single steps arrive in the host, where none belongs; and how many have since, which ends it.
 */
void host_steps_allow(void);
unsigned host_steps_end(void);
/* Waits for the host's timer: one interrupt on `vector`, soon. */
void host_timer(unsigned vector, uint64_t microseconds);

/* ---- The guest's side (guest.c, guest_entry.S) ---- */

/* The guest's page tables: identity, 2 MiB pages, first 4 GiB, user-accessible. */
extern uint64_t guest_pml4[512], guest_pdpt[512], guest_pd[4][512];
/* The 4 KiB entry that maps gva, which must lie below 4 GiB; splits a 2 MiB page for it. Host or
 * guest; a guest that changes an entry executes INVLPG. */
uint64_t *guest_pte(uint64_t gva);
extern uint64_t guest_gdt[GUEST_GDT_ENTRIES];
extern uint64_t guest_idt[256][2];

/* Builds tables, GDT and IDT; the harness does it for every case. */
void guest_reset(void);

/* Ends guest_call() with a result. Returns when the host continues. */
static inline void guest_done(uint64_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"((uint32_t)value), "d"((uint16_t)PORT_DONE) : "memory");
}

static inline void guest_mark(uint64_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"((uint32_t)value), "d"((uint16_t)PORT_MARK) : "memory");
}

static inline void guest_invlpg(uint64_t gva)
{
    __asm__ volatile("invlpg (%0)" : : "r"(gva) : "memory");
}

/* The hypercall instruction that this processor has; which one it is. */
extern bool guest_has_svm;
uint64_t guest_hypercall(uint64_t number);

/* What the last exception or interrupt in the guest was, and how many there have been. */
struct guest_trap {
    uint64_t count;
    uint64_t vector, error, rip, cs, rflags, rsp, ss, cr2;
};
extern volatile struct guest_trap guest_trap;
extern volatile uint64_t guest_vector_count[256];
/* Where the guest goes on after an exception that has neither handler nor GUEST_TRY, if not 0. */
extern uint64_t guest_trap_resume;
/* By vector; runs in the guest and may change the frame. */
extern void (*guest_handler[256])(struct bare_frame *frame);
/*
 * QEMU's VMRUN leaves the vector of an injected interrupt as its processor's pending exception,
 * behind the delivery. If its thread is asked to stop before anything else has been delivered, it
 * delivers that exception: the same interrupt once more, at the first instruction of its handler.
 * With the first of these set such a second time is counted by the second, and comes to no handler.
 */
extern bool guest_may_repeat;
extern volatile uint64_t guest_repeats;
/* For guest_handler: returns to where the guest was. For interrupts. */
void guest_ignore(struct bare_frame *frame);

/*
 * Runs an instruction in the guest that may fault: yields the vector, or -1 if it did not fault.
 *     GUEST_TRY("rdmsr", "=a"(low), "=d"(high) : "c"(index))
 * The fault must come from the first instruction of the text.
 */
#define GUEST_TRY(instruction, ...)                                                                \
    ({                                                                                             \
        uint64_t before_ = guest_trap.count;                                                       \
        __asm__ volatile("7001: " instruction "\n7002:\n" BARE_FIXUP("7001b", "7002b")             \
                         : __VA_ARGS__);                                                           \
        guest_trap.count == before_ ? -1 : (int)guest_trap.vector;                                 \
    })

/* Calls fn(argument) in ring 3; comes back to ring 0 when it returns. */
void guest_ring3(void (*fn)(uint64_t), uint64_t argument);
/* The same in ring 1, 2 or 3; the user segments in guest_gdt must have that DPL. */
void guest_ring(void (*fn)(uint64_t), uint64_t argument, uint64_t ring);

static inline uint16_t guest_cs(void)
{
    uint16_t cs;
    __asm__ volatile("movw %%cs, %0" : "=r"(cs));
    return cs;
}

#endif
