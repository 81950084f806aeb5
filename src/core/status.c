/* SPDX-License-Identifier: BSD-2-Clause */
/* What the status codes say in English. */
#include "core/object.h"

const char *virtx_status_text(enum virtx_status status)
{
    static const char *const texts[VIRTX_STATUS_COUNT] = {
        [VIRTX_OK] = "done",
        [VIRTX_AGAIN] = "the instruction needs its next access",
        [VIRTX_E_INVALID] = "an argument is out of its range",
        [VIRTX_E_MISSING_OP] = "a required host operation is missing",
        [VIRTX_E_SIZE] = "a structure is smaller than this library can use",
        [VIRTX_E_UNSUPPORTED] = "this processor or backend cannot do it",
        [VIRTX_E_LOCKED_OUT] = "firmware has disabled virtualization and locked it",
        [VIRTX_E_IN_USE] = "virtualization is already in use on this CPU",
        [VIRTX_E_NOT_ENABLED] = "virtualization has not been enabled on this CPU",
        [VIRTX_E_NO_MEMORY] = "out of memory",
        [VIRTX_E_ALIGN] = "an address or size is not aligned",
        [VIRTX_E_RANGE] = "an address range is empty, wraps or is too wide",
        [VIRTX_E_OVERLAP] = "the range overlaps an existing one",
        [VIRTX_E_NOT_FOUND] = "there is nothing at that address",
        [VIRTX_E_BUSY] = "the object is in use",
        [VIRTX_E_PENDING] = "the last access must be completed first",
        [VIRTX_E_NOT_PENDING] = "there is no access to complete",
        [VIRTX_E_FAULT] = "the access would raise an exception in the guest",
        [VIRTX_E_GUEST_STATE] = "the guest state cannot be entered",
        [VIRTX_E_HOST_STATE] = "the host state cannot be returned to",
        [VIRTX_E_CONTROLS] = "the processor refuses the controls",
        [VIRTX_E_HARDWARE] = "an instruction failed for no known reason",
        [VIRTX_E_HOST] = "a host operation answered nonsense",
        [VIRTX_E_DEAD] = "the object is beyond use",
    };

    return (unsigned)status < VIRTX_STATUS_COUNT ? texts[status] : "unknown status";
}
