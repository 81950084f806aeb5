/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * @brief The paging-engine plug-in: who owns the translation root that the hardware loads.
 *
 * For those who write an engine; embedders only name ready-made ones in virtx_config::paging.
 */
#ifndef VIRTX_PAGING_H
#define VIRTX_PAGING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <virtx/status.h>
#include <virtx/backend.h>

#ifdef __cplusplus
extern "C" {
#endif

struct virtx_vm;
struct virtx_vcpu;

/** @brief A translation fault that the hardware reported, or \#PF under shadow paging. */
struct virtx_page_fault {
    uint64_t gpa;        /**< Guest-physical address (nested engines). */
    uint64_t gva;        /**< Guest linear address, when gva_valid. */
    uint32_t error;      /**< \#PF error code (shadow engines). */
    uint8_t access;      /**< ::virtx_access bits attempted. */
    uint8_t present;     /**< ::virtx_access bits that the faulting entry allowed; 0: not present. */
    bool gva_valid;      /**< gva is known. */
    bool table_walk;     /**< During the guest's own table walk, not the final access. */
    bool misconfigured;  /**< The entry is one the hardware refuses (EPT misconfiguration). */
    uint8_t pad[3];      /**< Zero. */
};

/** @brief What an engine makes of a fault. */
enum virtx_fault_result {
    VIRTX_FAULT_RESUME,     /**< Mended: enter again. */
    VIRTX_FAULT_REFLECT,    /**< The guest's own fault: inject \#PF. */
    VIRTX_FAULT_NOT_MEMORY, /**< No slot there (or a write to a ROM with a device): it is MMIO. */
    VIRTX_FAULT_FORBIDDEN,  /**< The slot does not allow it, or its page has no backing now. */
    VIRTX_FAULT_NO_MEMORY,  /**< The pool is exhausted; nothing has changed. */
    VIRTX_FAULT_EXECUTE,    /**< Allowed, the guest's flags are set, gpa says where, but no table entry can say so:
                                 the library is to execute the instruction. */
};

/** @brief An engine: a constant table. All operations are required unless they say otherwise. */
struct virtx_paging {
    uint32_t size;     /**< sizeof(struct virtx_paging). */
    bool nested;       /**< The hardware adds a second translation, of which this engine owns the root. */
    bool dirty_at_grant; /**< A page's log bit is set when a translation is given the right to write, rather
                              than by collect_dirty: so the bits are taken before that is called. */
    uint8_t pad[2];    /**< Zero. */
    const char *name;  /**< "nested", "shadow". */
    size_t vm_bytes;   /**< Zeroed bytes wanted for each VM; at most a page. See virtx_paging_vm(). */
    size_t vcpu_bytes; /**< Likewise for each vcpu. See virtx_paging_vcpu(). */

    /** @name With the VM's lock held. */
    /** @{ */
    enum virtx_status (*vm_create)(struct virtx_vm *vm);       /**< Its bytes are zero. */
    void (*vm_destroy)(struct virtx_vm *vm);                   /**< Gives all pages back. */
    enum virtx_status (*vcpu_create)(struct virtx_vcpu *vcpu); /**< Its bytes are zero. */
    void (*vcpu_destroy)(struct virtx_vcpu *vcpu);             /**< It is loaded nowhere. */
    /** As virtx_backend::memory. */
    void (*memory)(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes,
                   enum virtx_memory_change change);
    /** As virtx_backend::collect_dirty. */
    void (*collect_dirty)(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes);
    /** @} */

    /** HPA of the root table that this vcpu must load. On the vcpu's thread. */
    uint64_t (*root)(struct virtx_vcpu *vcpu);
    /** Answers a fault. On the vcpu's thread, interrupts off; may take the VM's page lock. A shadow engine
     *  fills in what it finds: gpa, table_walk, and with ::VIRTX_FAULT_REFLECT the guest's error code. */
    enum virtx_fault_result (*fault)(struct virtx_vcpu *vcpu, struct virtx_page_fault *fault);
    /** Control registers (CR0, CR3, CR4, EFER in the vcpu's state) changed. NULL for nested engines. */
    void (*control_changed)(struct virtx_vcpu *vcpu, uint64_t old_cr0, uint64_t old_cr4,
                            uint64_t old_efer);
    /** The guest loads CR3 in long mode, without PCIDs, and nothing else has changed since root(): HPA of the root
     *  to be loaded, or 0: it is to be done by way of control_changed() and root(). NULL for nested engines;
     *  for others an optional quick way, used if not NULL. */
    uint64_t (*load_cr3)(struct virtx_vcpu *vcpu, uint64_t cr3);
    /** The guest changes WP of CR0 (@p reg is 0) or PGE of CR4 in long mode, without PCIDs, and nothing else has
     *  changed since root(): as load_cr3(), with the register's new value. NULL: there is no such way. */
    uint64_t (*toggle)(struct virtx_vcpu *vcpu, unsigned reg, uint64_t value);
    /** The guest executed INVLPG. NULL for nested engines. */
    void (*invlpg)(struct virtx_vcpu *vcpu, uint64_t gva);
    /** The library has written guest memory: for the guest, or for the embedder. Any thread. NULL: not
     *  wanted. */
    void (*written)(struct virtx_vm *vm, uint64_t gpa, uint64_t bytes);
    /** Maps a page outside all slots, to be read and written by all vcpus; memory() with
     *  ::VIRTX_MEMORY_REMOVED takes it away. The VM's lock is held. ::VIRTX_E_BUSY: a slot is there,
     *  ::VIRTX_E_NO_MEMORY. NULL: the engine has no such pages. */
    enum virtx_status (*map_page)(struct virtx_vm *vm, uint64_t gpa, uint64_t hpa);
};

/** @name What the objects offer to an engine. */
/** @{ */
void *virtx_paging_vm(struct virtx_vm *vm);       /**< The VM's bytes. */
void *virtx_paging_vcpu(struct virtx_vcpu *vcpu); /**< The vcpu's bytes. */
/** A zeroed page from the VM's pool, NULL when its bound is reached or the host has none. */
void *virtx_pool_get(struct virtx_vm *vm);
/** Gives a page back, to be reused once @p generation is settled (0: at once). In
 *  virtx_paging::memory that is the generation which the objects begin when it has returned:
 *  virtx_generation_coming(). */
void virtx_pool_put(struct virtx_vm *vm, void *page, uint64_t generation);
/** The generation under which what is being dropped now will be settled. The VM's lock is held. */
uint64_t virtx_generation_coming(struct virtx_vm *vm);
/** @} */

#ifdef __cplusplus
}
#endif
#endif
