/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * @brief Memory slots: guest-physical ranges backed by the embedder's own memory.
 *
 * The memory stays the embedder's. Where no slot lies, accesses are MMIO. Slots are added, changed
 * and removed while vcpus run. Taking rights or memory away returns a *generation*: until
 * virtx_vm_settled() says that it has been reached, some CPU may still hold the old translation, so
 * the memory must not be reused.
 */
#ifndef VIRTX_MEMSLOT_H
#define VIRTX_MEMSLOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <virtx/status.h>
#include <virtx/exit.h>

#ifdef __cplusplus
extern "C" {
#endif

struct virtx_vm;
struct virtx_memslot;

/** @brief Memory types, with the encodings of MTRRs and EPT. */
enum virtx_memory_type {
    VIRTX_MEMORY_UC = 0, /**< Uncacheable. */
    VIRTX_MEMORY_WC = 1, /**< Write-combining. */
    VIRTX_MEMORY_WT = 4, /**< Write-through. */
    VIRTX_MEMORY_WP = 5, /**< Write-protected. */
    VIRTX_MEMORY_WB = 6, /**< Write-back; RAM. */
};

/** @brief Flags of a slot. */
enum virtx_memslot_flag {
    VIRTX_MEMSLOT_DIRTY_LOG = 1u << 0,  /**< Keep a dirty log from the start. */
    VIRTX_MEMSLOT_SMALL_PAGES = 1u << 1,/**< Never map with large pages. */
    VIRTX_MEMSLOT_WRITE_MMIO = 1u << 2, /**< With a read-only slot: writes are ::VIRTX_EXIT_MMIO (ROM with a
                                             device behind it) instead of ::VIRTX_EXIT_MEMORY. */
    VIRTX_MEMSLOT_PINNED = 1u << 3,     /**< Every page has a backing as long as the slot exists: the library reads
                                             guest page tables there without asking virt_to_phys first. */
    VIRTX_MEMSLOT_CONTIGUOUS = 1u << 4, /**< The backing is pinned and physically contiguous: large pages need
                                             only their first page looked up, and 1-GiB pages become possible. */
    VIRTX_MEMSLOT_SMALL_EXECUTE = 1u << 5, /**< Instructions are fetched from 4-KiB mappings only: large ones are not
                                             executable, and split when they are executed from. For processors on which
                                             a guest that changes the size of an executable mapping can stop the
                                             machine (Intel, "Machine Check Error Avoidance on Page Size Change"). Pieces
                                             grow together again when the range is dropped, as by
                                             virtx_memslot_invalidate(). Shadow paging makes no large mappings then. */

};

/** @brief Description of a slot. */
struct virtx_memslot_config {
    uint32_t size;    /**< sizeof(struct virtx_memslot_config). */
    uint32_t rights;  /**< ::virtx_access bits; ::VIRTX_READ is required. */
    uint32_t type;    /**< ::virtx_memory_type: WB for RAM, UC for pages of a device. With EPT any other than WB
                           overrides the guest's PAT (Intel SDM "EPT and Memory Typing"); WB leaves it its say.
                           With NPT the processor combines it with the guest's PAT, always (AMD APM "Combining
                           Memory Types, MTRRs"), and a type that the host's PAT lacks is UC. With shadow paging
                           any other than WB is UC, and the guest's PAT is not used. Guest MTRRs never count. */
    uint32_t flags;   /**< ::virtx_memslot_flag. */
    uint64_t gpa;     /**< Page-aligned start. */
    uint64_t bytes;   /**< Page-aligned length, not 0; the end is within the guest-physical width. */
    void *memory;     /**< Page-aligned host address of the backing. Pages are looked up by
                           virtx_host_ops::virt_to_phys when first touched. */
};

/**
 * @brief Adds a slot. Callable at any time, from any CPU.
 * @param vm  the VM
 * @param config  read during the call only
 * @param[out] out  the handle, on success only; may be NULL for a slot that stays as long as the VM
 * @return ::VIRTX_OK, ::VIRTX_E_SIZE, ::VIRTX_E_INVALID, ::VIRTX_E_ALIGN, ::VIRTX_E_RANGE,
 *   ::VIRTX_E_OVERLAP, ::VIRTX_E_NO_MEMORY
 */
enum virtx_status virtx_memslot_add(struct virtx_vm *vm, const struct virtx_memslot_config *config,
                                    struct virtx_memslot **out);

/** @brief Removes a slot; the handle is gone. `*generation` (may be NULL) tells when the memory is free. */
enum virtx_status virtx_memslot_remove(struct virtx_memslot *slot, uint64_t *generation);

/** @brief Moves a slot to another guest-physical address; its content and dirty log go along. */
enum virtx_status virtx_memslot_move(struct virtx_memslot *slot, uint64_t gpa,
                                     uint64_t *generation);

/** @brief Changes the rights (::virtx_access bits) of a slot. */
enum virtx_status virtx_memslot_protect(struct virtx_memslot *slot, uint32_t rights,
                                        uint64_t *generation);

/** @brief The embedder is about to change the backing of a range (swap, balloon, copy-on-write): drops
 *  its translations. Offsets in bytes within the slot, page-aligned. */
enum virtx_status virtx_memslot_invalidate(struct virtx_memslot *slot, uint64_t offset,
                                           uint64_t bytes, uint64_t *generation);

/** @brief Turns the dirty log on or off. It takes single pages, two for each 128 MiB of the slot and few
 *  more. @return also ::VIRTX_E_NO_MEMORY, ::VIRTX_E_BUSY while it is being harvested, ::VIRTX_E_RANGE for a
 *  slot above 15 TiB */
enum virtx_status virtx_memslot_log(struct virtx_memslot *slot, bool on);

/**
 * @brief Takes the dirty log: ORs one bit a page into @p bitmap, least significant bit first, and
 * clears it in the library. A write that happens during the call is in this log or in the next.
 * While vcpus run, pages are reported by the call after the one that found them: only then is
 * it certain that no CPU writes to them through an old translation. Nobody in run: all at once.
 * The VM's lock is held for 16 MiB of the slot at a time, so other calls on the VM, and interrupts, get their turn;
 * removing the slot is not among them: the handle must stay.
 * @param slot  a slot that keeps a log
 * @param[in,out] bitmap  one bit a page, page 0 of the slot in bit 0 of word 0
 * @param words  size of bitmap in 64-bit words, at least (pages + 63) / 64
 * @param[out] dirty  number of pages reported; may be NULL
 * @return ::VIRTX_E_INVALID also when the slot keeps no log; ::VIRTX_E_BUSY when it is being harvested already
 */
enum virtx_status virtx_memslot_harvest(struct virtx_memslot *slot, uint64_t *bitmap, size_t words,
                                        uint64_t *dirty);

/** @brief What a slot is now. */
void virtx_memslot_query(const struct virtx_memslot *slot, struct virtx_memslot_config *config);

/** @brief Whether no CPU can use a translation any more that was dropped at @p generation. Kicks who
 *  needs it when @p hurry. Callable from any CPU; never waits. */
bool virtx_vm_settled(struct virtx_vm *vm, uint64_t generation, bool hurry);

/** @brief The generation of the VM's last change, of slots or intercepts: what has to settle before
 *  anything that was taken away until now may be reused. Callable from anywhere. */
uint64_t virtx_vm_generation(struct virtx_vm *vm);

#ifdef __cplusplus
}
#endif
#endif
