/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * @brief Status codes and the detail behind the last error of an object.
 *
 * Every call that can fail answers with one ::virtx_status. A call that fails has changed nothing.
 * The object it was made on keeps a ::virtx_error that says more: which argument, which rule.
 *
 * One thing is not checked: the handle itself. It is one that the library gave and that has not been
 * destroyed, removed or closed since; NULL is none.
 */
#ifndef VIRTX_STATUS_H
#define VIRTX_STATUS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** @brief What a call answers. Zero is success; everything else leaves all objects as they were. */
enum virtx_status {
    VIRTX_OK = 0,          /**< Done. */
    VIRTX_AGAIN,           /**< virtx_vcpu_complete(): taken, but the instruction needs its next
                                access, which the exit record now describes. Not an error. */
    VIRTX_E_INVALID,       /**< An argument is out of its documented range; the detail names it. */
    VIRTX_E_MISSING_OP,    /**< A required host operation is NULL; the detail names it. */
    VIRTX_E_SIZE,          /**< A structure's size field is smaller than this library can use. */
    VIRTX_E_UNSUPPORTED,   /**< This processor or backend cannot do it; see virtx_caps(). */
    VIRTX_E_LOCKED_OUT,    /**< Firmware has disabled the virtualization extension and locked it. */
    VIRTX_E_IN_USE,        /**< VMX or SVM is already turned on by somebody else on this CPU. */
    VIRTX_E_NOT_ENABLED,   /**< virtx_cpu_enable() has not been called on this CPU. */
    VIRTX_E_NO_MEMORY,     /**< A host allocation failed or the VM's page pool is exhausted. */
    VIRTX_E_ALIGN,         /**< An address or size is not aligned as required. */
    VIRTX_E_RANGE,         /**< An address range wraps, is empty or exceeds the address width. */
    VIRTX_E_OVERLAP,       /**< The range overlaps an existing one; the detail gives its start. */
    VIRTX_E_NOT_FOUND,     /**< No such object, or no translation or memory at that address. */
    VIRTX_E_BUSY,          /**< The vcpu is running or loaded on another CPU, or the object still
                                has users. */
    VIRTX_E_PENDING,       /**< The last exit's access must be completed first
                                (virtx_vcpu_complete() or virtx_vcpu_fault()). */
    VIRTX_E_NOT_PENDING,   /**< There is no access to complete. */
    VIRTX_E_FAULT,         /**< A guest access would raise a guest exception; the fault is in the
                                result record. */
    VIRTX_E_GUEST_STATE,   /**< The guest state cannot be entered; the detail names the rule. */
    VIRTX_E_HOST_STATE,    /**< The host state cannot be returned to; the detail names the rule. */
    VIRTX_E_CONTROLS,      /**< The controls were refused; the detail names the rule. */
    VIRTX_E_HARDWARE,      /**< An instruction failed in a way that no rule explains; the detail
                                keeps the raw code. */
    VIRTX_E_HOST,          /**< A host operation answered nonsense (misaligned page, unknown CPU). */
    VIRTX_E_DEAD,          /**< The object is beyond use after an earlier failure; destroy it. */
    VIRTX_STATUS_COUNT     /**< Number of codes; not a status. */
};

/** @brief A constant English sentence for @p status; never NULL, "unknown status" when out of range.
 *  Callable from anywhere. */
const char *virtx_status_text(enum virtx_status status);

/**
 * @brief Why the last failing call on an object failed.
 *
 * All strings are constants with static lifetime and never NULL. The record belongs to its object
 * and is overwritten by the next failing call on it.
 */
struct virtx_error {
    enum virtx_status status; /**< The status that was returned; ::VIRTX_OK if none failed yet. */
    const char *what;         /**< The argument, field, operation or rule name, e.g. "ops.kick_cpu"
                                   or "guest CR0". */
    const char *rule;         /**< The sentence that was broken. */
    const char *manual;       /**< The manual section by title, or "" where the rule is ours. */
    uint64_t value;           /**< The offending value, or 0. */
};

#ifdef __cplusplus
}
#endif
#endif
