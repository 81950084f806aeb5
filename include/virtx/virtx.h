/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * @brief The library bound to one host: open, capabilities, CPUs. Includes the headers of all objects.
 *
 * The interrupt controllers have headers of their own (lapic.h, ioapic.h, pic.h); backend.h and paging.h are for
 * those who write a backend or a paging engine.
 *
 * A program needs seven calls to see its first guest exit: virtx_open(), virtx_cpu_enable(),
 * virtx_vm_create(), virtx_memslot_add(), virtx_vcpu_create(), virtx_vcpu_reset() and
 * virtx_vcpu_run(). `examples/hello` is that program.
 */
#ifndef VIRTX_VIRTX_H
#define VIRTX_VIRTX_H

#include <virtx/status.h>
#include <virtx/host.h>
#include <virtx/caps.h>
#include <virtx/state.h>
#include <virtx/event.h>
#include <virtx/exit.h>
#include <virtx/intercept.h>
#include <virtx/memslot.h>
#include <virtx/vm.h>
#include <virtx/vcpu.h>

#ifdef __cplusplus
extern "C" {
#endif

struct virtx;
struct virtx_backend;
struct virtx_paging;

/** @brief Hardware virtualization on Intel processors (VMX). */
extern const struct virtx_backend virtx_vmx;
/** @brief Hardware virtualization on AMD processors (SVM). */
extern const struct virtx_backend virtx_svm;
/** @brief Two-dimensional paging by the hardware: EPT or NPT. */
extern const struct virtx_paging virtx_paging_nested;
/** @brief Tables of the library's own making, for processors without nested paging. The pool's bound
 *  (virtx_vm_config::pool_pages) is best 1024 pages or more, and at least 64; the host must have pages below 4 GiB. */
extern const struct virtx_paging virtx_paging_shadow;

/** @brief Everything virtx_open() wants to know. */
struct virtx_config {
    /** sizeof(struct virtx_config). */
    uint32_t size;
    /** Number of CPUs the host may ever run vcpus on: 1 to 4096. */
    uint32_t max_cpus;
    /** The host functions; copied. */
    const struct virtx_host_ops *ops;
    /** Passed to every host function. */
    void *ctx;
    /** What host state must survive; copied. NULL means ::virtx_profile_kernel, the safe one. */
    const struct virtx_host_profile *profile;
    /** NULL-terminated list of backends, the first that works on this processor is taken. What
     *  is not named here is not linked. Must stay valid until virtx_close(). */
    const struct virtx_backend *const *backends;
    /** NULL-terminated list of paging engines, in order of preference. As above. */
    const struct virtx_paging *const *paging;
    /** Features (::virtx_feature bits) that must not be used even if present. */
    uint64_t disable;
    /** Features (::virtx_feature bits) to use although the library knows that this processor gets them wrong,
     *  and else leaves them alone; for tests of the feature itself. `disable` goes before it. */
    uint64_t insist;
};

/**
 * @brief Binds the library to a host.
 *
 * Probes the backends on the calling CPU; turns nothing on. Several instances may be open at once.
 *
 * @param config  read during the call only, but for the lists that say otherwise
 * @param[out] out  the instance, on success only
 * @param[out] error  may be NULL; filled on failure, since there is no object yet to ask
 * @return ::VIRTX_OK, ::VIRTX_E_SIZE, ::VIRTX_E_INVALID, ::VIRTX_E_MISSING_OP,
 *   ::VIRTX_E_UNSUPPORTED (no listed backend fits this processor, or none of the listed engines fits
 *   the backend), ::VIRTX_E_LOCKED_OUT, ::VIRTX_E_NO_MEMORY, ::VIRTX_E_HOST
 */
enum virtx_status virtx_open(const struct virtx_config *config, struct virtx **out,
                             struct virtx_error *error);

/** @brief Frees the instance. @return ::VIRTX_E_BUSY while a VM exists or a CPU is enabled. */
enum virtx_status virtx_close(struct virtx *virtx);

/** @brief The detail of the last failed call on @p virtx itself. */
const struct virtx_error *virtx_last_error(const struct virtx *virtx);

/** @brief What the chosen backend can do, less what was disabled. Constant for the instance. */
const struct virtx_caps *virtx_caps(const struct virtx *virtx);

/**
 * @brief Turns virtualization on for the calling CPU (VMXON; EFER.SVME and the host save area).
 *
 * Call it on each CPU that will run vcpus, not migrating meanwhile. Each CPU is checked to have at
 * least the features that virtx_open() found.
 * @return ::VIRTX_OK, also if this instance has enabled it before; ::VIRTX_E_IN_USE,
 *   ::VIRTX_E_LOCKED_OUT, ::VIRTX_E_UNSUPPORTED, ::VIRTX_E_NO_MEMORY, ::VIRTX_E_HOST
 */
enum virtx_status virtx_cpu_enable(struct virtx *virtx);

/**
 * @brief Turns it off again on the calling CPU, before suspend or hot-unplug.
 * @return ::VIRTX_E_BUSY while a vcpu is loaded here (put it first), ::VIRTX_E_NOT_ENABLED
 */
enum virtx_status virtx_cpu_disable(struct virtx *virtx);

/**
 * @brief Turns it off whatever state this CPU is in; for a panic, an NMI or a reboot.
 *
 * Leaves VMX and SVM off and GIF set. Takes no lock and calls no host function but this_cpu. vcpus
 * loaded on this CPU lose the register state that was only in the processor.
 */
void virtx_cpu_emergency_off(struct virtx *virtx);

#ifdef __cplusplus
}
#endif
#endif
