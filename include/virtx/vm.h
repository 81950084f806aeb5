/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * @brief Virtual machines: a guest-physical address space and its policy.
 */
#ifndef VIRTX_VM_H
#define VIRTX_VM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <virtx/status.h>

#ifdef __cplusplus
extern "C" {
#endif

struct virtx;
struct virtx_vm;
struct virtx_paging;
struct virtx_error;

/** @brief What shadow paging does when the guest writes its own page tables, which are write-protected
 *  once they are in use. What the guest sees is the same; the exits are not. */
enum virtx_table_sync {
    VIRTX_TABLE_SYNC_ON_FLUSH, /**< The first write of a table is let through, and all that follow without an exit, until
                                    the guest flushes its TLB; then the table is compared. One that many
                                    flushes find nearly unchanged is kept as by the next policy, until it is
                                    written many times between two flushes. */
    VIRTX_TABLE_SYNC_EACH_WRITE, /**< Each write exits and is executed by the library, if it is a simple instruction, and the
                                    table stays in sync: flushes compare nothing. A table written again and
                                    again without being used is let alone until a flush. */
    VIRTX_TABLE_SYNC_DROP,     /**< What was made of a table is thrown away with the first write, and made
                                    again when the table is used. */
};

/** @brief How to make a VM. Zeroes are good defaults everywhere but in `size`. */
struct virtx_vm_config {
    uint32_t size;                     /**< sizeof(struct virtx_vm_config). */
    uint32_t max_vcpus;                /**< Most vcpus it will have, 1 to 255; 0 means 255. */
    const struct virtx_paging *paging; /**< One of those given to virtx_open(); NULL: the first that works. */
    uint64_t pool_pages;               /**< Bound on pages for translation tables; 0: no bound. */
    uint64_t pool_reserve;             /**< Pages taken from the host now, so that exits allocate none
                                            until they are used up. virtx_vm_pool_fill() tops up. */
    uint64_t tsc_hz;                   /**< Frequency of the host's TSC, told to the guest in CPUID; 0: not told. */
    bool exit_on_interrupt;            /**< Return ::VIRTX_EXIT_INTERRUPT after every host interrupt. */
    bool exit_on_startup;              /**< Return ::VIRTX_EXIT_INIT and ::VIRTX_EXIT_SIPI, and leave what a
                                            processor does then to the loop. */
    bool interrupts_to_guest;          /**< The CPU's interrupts are the guest's: they reach its own IDT without an
                                            exit, its IF masks them, and its HLT waits for them. run is
                                            called with interrupts disabled, or one of them may end up
                                            with the host; virtx_host_ops::kick_cpu sends an NMI, and the host's
                                            NMI handler uses virtx_nmi_return(). Needs nested paging and
                                            ::VIRTX_FEATURE_UNPAGED_GUEST. */
    uint8_t table_sync;                /**< ::virtx_table_sync; of use with shadow paging only. */
    uint8_t pad[4];                    /**< Zero. */
};

/**
 * @brief Makes a VM without memory or vcpus. May be called from any CPU.
 * @param virtx  an open instance
 * @param config  NULL means all defaults
 * @param[out] out  the VM, on success only
 * @return ::VIRTX_OK, ::VIRTX_E_SIZE, ::VIRTX_E_INVALID, ::VIRTX_E_UNSUPPORTED (engine, or
 *   virtx_vm_config::interrupts_to_guest without what it needs), ::VIRTX_E_NO_MEMORY
 */
enum virtx_status virtx_vm_create(struct virtx *virtx, const struct virtx_vm_config *config,
                                  struct virtx_vm **out);

/** @brief Frees a VM with its slots and intercepts. @return ::VIRTX_E_BUSY while it has vcpus. */
enum virtx_status virtx_vm_destroy(struct virtx_vm *vm);

/**
 * @brief Exchanges the VM's paging engine for another, while the guest lives; it does not notice.
 *
 * No vcpu may be in run: kick them first. They may be loaded, and have accesses pending. The new
 * engine begins with empty tables, which the guest's accesses fill. May be called from any CPU, but not
 * from an intercept handler. Meanwhile the calls that need a vcpu for themselves, as run does, return
 * ::VIRTX_E_BUSY.
 * @param vm  the VM
 * @param paging  one of those given to virtx_open()
 * @return ::VIRTX_OK (also if it is in use already), ::VIRTX_E_BUSY while a vcpu is in run,
 *   ::VIRTX_E_INVALID, ::VIRTX_E_UNSUPPORTED, ::VIRTX_E_NO_MEMORY (the old engine goes on)
 */
enum virtx_status virtx_vm_set_paging(struct virtx_vm *vm, const struct virtx_paging *paging);

/** @brief The engine in use; NULL where the backend translates by itself. Any CPU. */
const struct virtx_paging *virtx_vm_paging(struct virtx_vm *vm);

/** @brief The detail of the last failed call on @p vm, its slots or its intercepts. */
const struct virtx_error *virtx_vm_last_error(const struct virtx_vm *vm);

/** @brief Tops the pool up to @p pages free pages. May be called from any CPU.
 *  @return ::VIRTX_E_NO_MEMORY when the bound or the host forbids; what could be had is kept. */
enum virtx_status virtx_vm_pool_fill(struct virtx_vm *vm, uint64_t pages);

/** @brief Copies from guest-physical memory. Slots only; may cross slots.
 *  @return ::VIRTX_E_NOT_FOUND when part of the range has no slot; nothing is promised of @p buffer then;
 *  ::VIRTX_E_INVALID (@p buffer is NULL).
 *  May be called from any CPU. */
enum virtx_status virtx_vm_read(struct virtx_vm *vm, uint64_t gpa, void *buffer, size_t bytes);

/** @brief Copies to guest-physical memory, read-only slots included (a debugger, a loader); marks pages dirty.
 *  @return as virtx_vm_read(); nothing is written on failure. */
enum virtx_status virtx_vm_write(struct virtx_vm *vm, uint64_t gpa, const void *buffer,
                                 size_t bytes);

/** @brief One CPUID leaf of the guest. */
struct virtx_cpuid_entry {
    uint32_t leaf;    /**< EAX. */
    uint32_t subleaf; /**< ECX; ignored for leaves without subleaves. */
    uint32_t eax;     /**< Answer. */
    uint32_t ebx;     /**< Answer. */
    uint32_t ecx;     /**< Answer. */
    uint32_t edx;     /**< Answer. */
};

/**
 * @brief Reads an entry of the VM's CPUID table.
 *
 * The table starts as the library's default policy: what the processor has, less what the library
 * does not virtualize. Fields that vary (APIC ID, OSXSAVE, OSPKE, XSAVE size) are filled in when
 * the guest asks. A leaf without an entry answers what the guest would get.
 * @return ::VIRTX_E_INVALID (@p entry is NULL)
 */
enum virtx_status virtx_vm_cpuid_get(struct virtx_vm *vm, uint32_t leaf, uint32_t subleaf,
                                     struct virtx_cpuid_entry *entry);

/**
 * @brief Replaces or adds an entry of the VM's table. Any CPU, at any time, also from intercept handlers.
 *
 * A vcpu obeys from its next entry on, with all that follows from its CPUID: which bits of CR4, EFER and XCR0
 * it may set, which MSRs and instructions it has. What it has set already stays: the registers of a guest that
 * uses a feature when it is hidden keep their bits until it writes them, and cannot be set to the same values with
 * virtx_vcpu_set(). Once a vcpu exists some things stay as they are: vendor, width of physical addresses, 1-GiB
 * pages, and the components of XSAVE.
 * @return ::VIRTX_E_UNSUPPORTED for a feature bit that cannot work, ::VIRTX_E_BUSY for what stays,
 *   ::VIRTX_E_NO_MEMORY when the table (of 64 entries) is full or the host has no page; all is as before then
 */
enum virtx_status virtx_vm_cpuid_set(struct virtx_vm *vm, const struct virtx_cpuid_entry *entry);

struct virtx_vcpu;

/** @brief The same for one vcpu: an entry of its own, which goes before the VM's of this leaf and subleaf. */
enum virtx_status virtx_vcpu_cpuid_set(struct virtx_vcpu *vcpu,
                                       const struct virtx_cpuid_entry *entry);

/** @brief The vcpu's own entries are gone: it has the VM's table again. As virtx_vcpu_cpuid_set(). */
enum virtx_status virtx_vcpu_cpuid_reset(struct virtx_vcpu *vcpu);

/** @brief As virtx_vm_cpuid_get(), with the vcpu's own entries. Any CPU. */
enum virtx_status virtx_vcpu_cpuid_get(struct virtx_vcpu *vcpu, uint32_t leaf, uint32_t subleaf,
                                       struct virtx_cpuid_entry *entry);

/** @brief Counters of a VM or vcpu; always on. They only grow. */
struct virtx_stats {
    uint64_t entries;                  /**< VM entries. */
    uint64_t exits[32];                /**< Exits by ::virtx_exit_reason as first decoded, served inside run or
                                            returned; VIRTX_EXIT_INTERRUPT counts host interrupts and
                                            VIRTX_EXIT_MEMORY nested page faults. */
    uint64_t returns;                  /**< Times run returned to the loop. */
    uint64_t control_reads;            /**< VMREADs. */
    uint64_t control_writes;           /**< VMWRITEs; for SVM, VMCB groups marked dirty. */
    uint64_t msr_writes;               /**< WRMSRs by the library for world switches. */
    uint64_t flushes;                  /**< TLB flushes (by tag, all, or address). */
    uint64_t faults_mapped;            /**< Nested or shadow faults answered by a mapping. */
    uint64_t injections;               /**< Events injected. */
    uint64_t windows;                  /**< Interrupt or NMI windows opened. */
    uint64_t instructions;             /**< Instructions executed by the library. */
    uint64_t fpu_switches;             /**< FPU state loaded for the guest. */
    uint64_t table_pages;              /**< Pages now in translation tables; the exception that also shrinks. */
};

/** @brief Sums the counters of all vcpus. May be called from any CPU; a running vcpu's are a moment old. */
void virtx_vm_stats(struct virtx_vm *vm, struct virtx_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
