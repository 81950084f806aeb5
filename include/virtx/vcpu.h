/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * @brief Virtual CPUs: run, complete, kick, registers, events.
 *
 * Unless a call says "from any CPU", it is for the thread that runs the vcpu, while the vcpu is not
 * in run (or from a handler inside run, where the handler's contract allows it).
 */
#ifndef VIRTX_VCPU_H
#define VIRTX_VCPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <virtx/status.h>
#include <virtx/state.h>
#include <virtx/event.h>
#include <virtx/exit.h>

#ifdef __cplusplus
extern "C" {
#endif

struct virtx_vm;
struct virtx_vcpu;
struct virtx_stats;
struct virtx_error;

/**
 * @brief Makes a vcpu in the state of ::VIRTX_PRESET_RESET.
 *
 * It would run from the reset vector, whatever its id. One that is to wait for the start-up IPI of
 * another is given the activity ::VIRTX_WAIT_FOR_SIPI (virtx_vcpu_set(), ::VIRTX_STATE_INTR), or an INIT.
 *
 * @param vm  the VM it belongs to
 * @param id  its APIC ID, unique in the VM, below virtx_vm_config::max_vcpus
 * @param[out] out  the vcpu, on success only
 * @return ::VIRTX_OK, ::VIRTX_E_INVALID, ::VIRTX_E_BUSY (id in use), ::VIRTX_E_NO_MEMORY, ::VIRTX_E_HOST
 */
enum virtx_status virtx_vcpu_create(struct virtx_vm *vm, uint32_t id, struct virtx_vcpu **out);

/** @brief Frees a vcpu. @return ::VIRTX_E_BUSY while it runs or is loaded on another CPU. */
enum virtx_status virtx_vcpu_destroy(struct virtx_vcpu *vcpu);

/** @brief The detail of the last failed call on @p vcpu. */
const struct virtx_error *virtx_vcpu_last_error(const struct virtx_vcpu *vcpu);

/** @brief The id given at creation. From any CPU. */
uint32_t virtx_vcpu_id(const struct virtx_vcpu *vcpu);

/** @brief The VM of a vcpu. From any CPU. */
struct virtx_vm *virtx_vcpu_vm(const struct virtx_vcpu *vcpu);

/** @brief A pointer for the embedder, NULL at first. */
void virtx_vcpu_set_user(struct virtx_vcpu *vcpu, void *user);
/** @brief What virtx_vcpu_set_user() stored. From any CPU. */
void *virtx_vcpu_user(const struct virtx_vcpu *vcpu);

/** @brief Puts all registers into a start state and drops pending events and a pending access.
 *  @return ::VIRTX_E_INVALID (@p preset), ::VIRTX_E_BUSY */
enum virtx_status virtx_vcpu_reset(struct virtx_vcpu *vcpu, enum virtx_preset preset);

/**
 * @brief Lets the guest run until something needs the embedder.
 *
 * Always returns: on an exit of the list of ::virtx_exit_reason, or with an error, in which case the
 * guest has not moved. Loads the vcpu on this CPU if it is not. Completes a write to a port or to memory
 * (::VIRTX_EXIT_IO, ::VIRTX_EXIT_MMIO) that the last exit has left pending; where the same instruction has a
 * further access, that is what it returns with. See host.h for the state to call it in.
 *
 * @param vcpu  the vcpu to run
 * @param[out] exit  the record, valid until the next run, not NULL; of no use without ::VIRTX_OK
 * @return ::VIRTX_OK; ::VIRTX_E_PENDING (the last access waits for its answer); ::VIRTX_E_BUSY (already
 *   running, or loaded on another CPU); ::VIRTX_E_NOT_ENABLED; ::VIRTX_E_GUEST_STATE,
 *   ::VIRTX_E_HOST_STATE, ::VIRTX_E_CONTROLS (refused entry, the detail names the rule);
 *   ::VIRTX_E_NO_MEMORY (page pool exhausted: top up and run again); ::VIRTX_E_HARDWARE; ::VIRTX_E_DEAD
 */
enum virtx_status virtx_vcpu_run(struct virtx_vcpu *vcpu, const struct virtx_exit **exit);

/**
 * @brief Completes the access of the last exit and retires its instruction.
 *
 * A repeated string instruction at a device asks again for each access, but not for ever: after some
 * iterations the answer is ::VIRTX_OK and the next run, which sees kicks and interrupts, goes on with it.
 *
 * @param vcpu  a vcpu whose last exit is pending
 * @param value  the result of a read, as many bytes as the record says (size * count for ports; 8 for
 *   MSR, CR and instructions); NULL means what the record holds, which for an untouched port or MMIO
 *   read is all ones and for CPUID the policy's answer. Ignored for writes.
 * @return ::VIRTX_OK; ::VIRTX_AGAIN when the same instruction has a further access: the exit record
 *   of the last run now describes it, and it too is pending; ::VIRTX_E_NOT_PENDING; ::VIRTX_E_BUSY (in run,
 *   or its engine is being exchanged, see virtx_vm_set_paging(): nothing has happened, and it stays pending)
 */
enum virtx_status virtx_vcpu_complete(struct virtx_vcpu *vcpu, const void *value);

/** @brief Instead of completing: the instruction raises @p event and is not retired.
 *  @return ::VIRTX_E_NOT_PENDING, ::VIRTX_E_INVALID, ::VIRTX_E_BUSY (as virtx_vcpu_complete()) */
enum virtx_status virtx_vcpu_fault(struct virtx_vcpu *vcpu, const struct virtx_event *event);

/**
 * @brief Makes the current or else the next run return with ::VIRTX_EXIT_KICK.
 *
 * From any CPU, any thread, and from interrupt and NMI handlers, at any moment of the vcpu's life, which
 * ends with the call of virtx_vcpu_destroy(). Kicks are not counted: several before one return are one. Never lost: a kick that comes after run has
 * decided to enter makes the guest exit at once.
 */
void virtx_vcpu_kick(struct virtx_vcpu *vcpu);

/** @brief Loads the vcpu onto this CPU, as run would. @return ::VIRTX_E_BUSY, ::VIRTX_E_NOT_ENABLED */
enum virtx_status virtx_vcpu_load(struct virtx_vcpu *vcpu);

/** @brief Takes the vcpu off this CPU, all its state to memory and the host's tier 3 back in place;
 *  afterwards it may run on another CPU. @return ::VIRTX_E_BUSY (loaded elsewhere); fine if not loaded */
enum virtx_status virtx_vcpu_put(struct virtx_vcpu *vcpu);

/** @brief Reads groups (::virtx_state_group) into @p state; the other fields are untouched.
 *  @return ::VIRTX_E_PENDING while an access waits to be completed (virtx_vcpu_gpr() is there then, and an
 *  intercept's handler may call this), ::VIRTX_E_INVALID, ::VIRTX_E_BUSY */
enum virtx_status virtx_vcpu_get(struct virtx_vcpu *vcpu, uint32_t groups,
                                 struct virtx_state *state);

/** @brief Writes groups. Checked at the next entry as a whole; a value that no processor of this kind could hold
 *  in the register is refused at once with ::VIRTX_E_INVALID. @return as virtx_vcpu_get() */
enum virtx_status virtx_vcpu_set(struct virtx_vcpu *vcpu, uint32_t groups,
                                 const struct virtx_state *state);

/** @brief The registers in which hypercalls and port accesses carry data: read and write in place while
 *  the vcpu is not in run, and in handlers; no call needed. RSP is not valid here. */
uint64_t *virtx_vcpu_gpr(struct virtx_vcpu *vcpu);

/** @brief Bytes of the guest's XSAVE area (standard format) with the current CPUID policy. */
size_t virtx_vcpu_fpu_size(const struct virtx_vcpu *vcpu);
/** @brief Copies the FPU state out, in XSAVE standard format. @p bytes at least virtx_vcpu_fpu_size(), else
 *  ::VIRTX_E_INVALID. */
enum virtx_status virtx_vcpu_fpu_get(struct virtx_vcpu *vcpu, void *area, size_t bytes);
/** @brief Loads FPU state in XSAVE standard format. @return ::VIRTX_E_INVALID for a malformed header */
enum virtx_status virtx_vcpu_fpu_set(struct virtx_vcpu *vcpu, const void *area, size_t bytes);

/**
 * @brief Lists the MSRs that the library keeps for the guest and that are no field of ::virtx_state: MTRRs and
 *  a few that only one vendor has, by the guest's CPUID.
 *
 * With these, all groups of virtx_vcpu_get(), virtx_vcpu_fpu_get(), virtx_vcpu_events_get() and the state of the
 * attached interrupt source a vcpu is saved whole; another one of the same CPUID table that is given them in this
 * order goes on as if it were the first.
 *
 * @param vcpu  not in run, or from its handler
 * @param[out] list  the numbers, ascending within a kind; NULL with @p room 0
 * @param room  how many fit
 * @return how many there are; only the first @p room have been written
 */
uint32_t virtx_vcpu_msr_list(struct virtx_vcpu *vcpu, uint32_t *list, uint32_t room);

/**
 * @brief Reads an MSR that the library keeps for the guest: of virtx_vcpu_msr_list(), or a field of ::virtx_state.
 *
 * Intercepts are not asked, and constants, commands and what an embedder answers in exits are no such MSRs.
 * On the vcpu's thread, as virtx_vcpu_get().
 * @return ::VIRTX_E_NOT_FOUND (no such MSR, or the guest's CPUID hides it), ::VIRTX_E_INVALID (@p value is NULL),
 *  ::VIRTX_E_PENDING, ::VIRTX_E_BUSY
 */
enum virtx_status virtx_vcpu_msr_get(struct virtx_vcpu *vcpu, uint32_t index, uint64_t *value);

/** @brief Writes one. @return as virtx_vcpu_msr_get(); ::VIRTX_E_INVALID for a value that the guest's WRMSR could not
 *  write; IA32_EFER, which paging must agree with, is checked as in virtx_vcpu_set() */
enum virtx_status virtx_vcpu_msr_set(struct virtx_vcpu *vcpu, uint32_t index, uint64_t value);

/**
 * @brief Leaves the guest's FPU, SSE, AVX and AVX-512 state in memory until the guest first uses it.
 *
 * At first, and unless this is called, the state is loaded before the first run behind virtx_vcpu_load(),
 * and no exit ever moves it. With @p lazy, from the next load on, the guest's first use after each load costs one
 * exit (\#NM, or its clearing CR0.TS or changing PE or PG), and none follows from this until virtx_vcpu_put(); a guest that does not use it
 * has nothing loaded, and nothing to be saved by put. The guest sees no difference: its CR0 reads as it was
 * written, and what \#NM it has coming by its own CR0 it gets, unless an intercept has it. Until the first use
 * its accesses to CR0 may exit, and are served inside run.
 *
 * **Warning.** Meanwhile the registers hold what the host, or another guest, left there. The architecture keeps
 * the guest from them, but processors affected by CVE-2018-3665 (LazyFP) let it read them speculatively:
 * not for guests that are not trusted with each other's and the host's secrets on such processors.
 *
 * A guest that can reach state which CR0.TS does not protect is not lazy: with CR4.PKE set (PKRU), or with CR4.OSXSAVE set
 * if its CPUID has MPX, AMX, or XGETBV with ECX = 1 (leaf 0xd, subleaf 1, EAX bit 2), which virtx_vm_cpuid_set()
 * can hide. XCR0 is always loaded. On the vcpu's thread; RESET leaves it alone.
 *
 * @param vcpu  a vcpu
 * @param lazy  whether to
 * @return ::VIRTX_OK, ::VIRTX_E_BUSY, ::VIRTX_E_DEAD
 */
enum virtx_status virtx_vcpu_set_lazy_fpu(struct virtx_vcpu *vcpu, bool lazy);

/** @brief What virtx_vcpu_set_lazy_fpu() has set. On the vcpu's thread. */
bool virtx_vcpu_lazy_fpu(const struct virtx_vcpu *vcpu);

/**
 * @brief Makes the library's instruction executor run all of the guest, in place of the processor; or lets
 *  the processor run again what it can.
 *
 * For debugging and tests: the guest runs some hundred times slower and sees no difference, but for
 * instructions that the executor does not know, which end run with ::VIRTX_EXIT_EMULATION. Every
 * 256 instructions the host's interrupts get their chance; with run called at IF = 0, or with
 * virtx_vm_config::exit_on_interrupt, that is a ::VIRTX_EXIT_INTERRUPT. The vcpu is not in run, or it is
 * called from a handler. At first, and where nothing else is said, the executor runs only what the
 * processor cannot.
 *
 * @return ::VIRTX_OK, ::VIRTX_E_BUSY, ::VIRTX_E_PENDING, ::VIRTX_E_UNSUPPORTED (the backend has no executor)
 */
enum virtx_status virtx_vcpu_interpret(struct virtx_vcpu *vcpu, bool always);

/**
 * @brief Queues an event for the guest.
 *
 * An exception replaces nothing: with one already queued the two are merged as the processor does
 * (Intel SDM "Double Fault", AMD APM "\#DF"), and so is one whose delivery the last exit has interrupted. An external interrupt queued here is delivered once, when IF allows,
 * ahead of the attached source; an NMI is latched.
 * @return ::VIRTX_E_INVALID (malformed), ::VIRTX_E_BUSY (an interrupt injected earlier still waits)
 */
enum virtx_status virtx_vcpu_inject(struct virtx_vcpu *vcpu, const struct virtx_event *event);

/** @brief Reads what is on its way to the guest; consumes nothing. On the vcpu's thread, as virtx_vcpu_get().
 *  @return ::VIRTX_E_INVALID (NULL), ::VIRTX_E_PENDING, ::VIRTX_E_BUSY */
enum virtx_status virtx_vcpu_events_get(struct virtx_vcpu *vcpu, struct virtx_events *events);

/** @brief Replaces all that is on its way to the guest, as it was saved. @return as virtx_vcpu_events_get();
 *  ::VIRTX_E_INVALID for an event of the wrong kind or form, or too many NMIs; ::VIRTX_E_UNSUPPORTED for an interrupted
 *  delivery, if the backend has no place for one. Nothing is changed then. */
enum virtx_status virtx_vcpu_events_set(struct virtx_vcpu *vcpu, const struct virtx_events *events);

/** @brief Latches an NMI. From any CPU; ends in a kick of the CPU but run does not return for it. */
void virtx_vcpu_nmi(struct virtx_vcpu *vcpu);

/**
 * @brief The INIT signal. From any CPU and context.
 *
 * The vcpu takes it at the next instruction boundary, before a SIPI that came with it, and wherever it
 * is: registers as in ::VIRTX_PRESET_INIT, its interrupt controller reset; the bootstrap processor
 * (IA32_APIC_BASE bit 8) then begins at the reset vector, any other waits for a SIPI. With
 * virtx_vm_config::exit_on_startup run returns ::VIRTX_EXIT_INIT instead. Intel SDM "Multiple-Processor
 * Initialization".
 */
void virtx_vcpu_signal_init(struct virtx_vcpu *vcpu);

/**
 * @brief A start-up IPI: real mode at physical address @p vector << 12. From any CPU and context.
 *
 * Ignored unless the vcpu waits for one (::VIRTX_WAIT_FOR_SIPI) when it looks. A newer one replaces one
 * that has not been looked at. With virtx_vm_config::exit_on_startup run returns ::VIRTX_EXIT_SIPI
 * instead.
 */
void virtx_vcpu_signal_sipi(struct virtx_vcpu *vcpu, uint8_t vector);

/** @brief Attaches the controller of external interrupts, in place of the one before, or detaches it with NULL.
 *  @p source stays valid as long as it is attached. @return ::VIRTX_E_MISSING_OP, ::VIRTX_E_BUSY */
enum virtx_status virtx_vcpu_irq_source(struct virtx_vcpu *vcpu,
                                        const struct virtx_irq_source *source, void *ctx);

/** @brief The source's answer may have changed: asks it again before the next instruction, waking a
 *  guest that runs, without making run return. From any CPU and context. */
void virtx_vcpu_irq_changed(struct virtx_vcpu *vcpu);

/**
 * @brief Makes run return ::VIRTX_EXIT_DEADLINE once the host's TSC has reached @p tsc; 0 takes that back.
 *
 * For devices of the embedder's own: with ::VIRTX_FEATURE_TIMER it need not arm a timer of its host while the guest
 * is in run. Without that feature it must, and the time is looked at whenever run takes a host interrupt. It holds
 * for one return. A guest that halts makes run return ::VIRTX_EXIT_HLT, not this. The vcpu is not in run,
 * or it is called from a handler.
 * @return ::VIRTX_OK, ::VIRTX_E_BUSY
 */
enum virtx_status virtx_vcpu_deadline(struct virtx_vcpu *vcpu, uint64_t tsc);

/** @brief Makes run return ::VIRTX_EXIT_WINDOW as soon as the guest could take an external interrupt.
 *  For embedders that inject by themselves. */
enum virtx_status virtx_vcpu_window(struct virtx_vcpu *vcpu);

/**
 * @brief Lets a halted vcpu go on behind its HLT although nothing has come for it.
 *
 * For embedders who decide by themselves what wakes: an event in the queue, or one that the attached
 * source has, needs no such call. No effect on a vcpu that is not halted.
 * @return ::VIRTX_OK, ::VIRTX_E_PENDING, ::VIRTX_E_BUSY, ::VIRTX_E_DEAD
 */
enum virtx_status virtx_vcpu_wake(struct virtx_vcpu *vcpu);

/**
 * @brief Whether something waits that a halted vcpu, or one that waits for a SIPI, would be run for:
 * a kick, an INIT, a SIPI, an NMI that is not blocked, or an interrupt with RFLAGS.IF set.
 *
 * A thread that sleeps while the guest halts asks this with the wake-up (virtx_host_ops::wake, the
 * host's own timer) held off, as with `cli` before `sti; hlt`.
 */
bool virtx_vcpu_wakeable(struct virtx_vcpu *vcpu);

/** @brief A guest page fault, or where a translation went. */
struct virtx_translation {
    uint64_t gpa;      /**< Guest-physical address, when translated. */
    uint32_t error;    /**< \#PF error code, when ::VIRTX_E_FAULT. */
    uint32_t rights;   /**< ::virtx_access bits the tables grant at this privilege, when translated. */
    uint64_t bytes;    /**< Size of the guest page: 4 KiB to 1 GiB; 4 KiB with paging off. */
};

/**
 * @brief Translates a guest linear address by the guest's own tables and mode.
 * @param vcpu  whose tables and mode
 * @param gva  the linear address
 * @param access  ::virtx_access bits of one access
 * @param user  as at CPL 3, else as at the current CPL's supervisor rights
 * @param[out] out  the translation, or the fault
 *
 * Does not set accessed or dirty flags.
 * @return ::VIRTX_E_FAULT (with the error code), ::VIRTX_E_RANGE (@p gva is not canonical in 64-bit mode),
 *   ::VIRTX_E_NOT_FOUND (a guest table lies outside slots), ::VIRTX_E_INVALID (@p access, or @p out is NULL)
 */
enum virtx_status virtx_vcpu_translate(struct virtx_vcpu *vcpu, uint64_t gva, uint32_t access,
                                       bool user, struct virtx_translation *out);

/** @brief Reads guest linear memory at the current privilege. @return as virtx_vcpu_translate();
 *  ::VIRTX_E_INVALID (@p buffer is NULL). @p fault may be NULL; it is written with ::VIRTX_E_FAULT only. */
enum virtx_status virtx_vcpu_read(struct virtx_vcpu *vcpu, uint64_t gva, void *buffer,
                                  size_t bytes, struct virtx_translation *fault);
/** @brief Writes guest linear memory; nothing is written on failure. @return as virtx_vcpu_read() */
enum virtx_status virtx_vcpu_write(struct virtx_vcpu *vcpu, uint64_t gva, const void *buffer,
                                   size_t bytes, struct virtx_translation *fault);

/** @brief The vcpu's counters. */
void virtx_vcpu_stats(const struct virtx_vcpu *vcpu, struct virtx_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
