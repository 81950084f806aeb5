/* SPDX-License-Identifier: BSD-2-Clause */
/* A page of memory that is a device. */
#include "guest_memory.h"

uint8_t device[PAGE];

bool serve_device(void)
{
    for (;;) {
        if (guest_continue(NULL))
            return true;
        const struct virtx_exit *exit = machine.exit;
        if (!CHECK_EQUAL(exit->reason, VIRTX_EXIT_MMIO)) {
            char text[160];
            describe_exit(text, sizeof(text), exit);
            bare_printf("  exit: %s at 0x%lx; raw 0x%lx\n", text, exit->rip, exit->raw.code);
            return false;
        }
        enum virtx_status status = VIRTX_AGAIN;
        while (status == VIRTX_AGAIN) {
            uint64_t offset = exit->mmio.gpa - GUEST_HOLE;
            if (!CHECK(exit->pending) || !CHECK(offset + exit->mmio.size <= PAGE))
                return false;
            if (exit->mmio.access == VIRTX_WRITE)
                memcpy(device + offset, &exit->mmio.value, exit->mmio.size);
            status = virtx_vcpu_complete(machine.vcpu, device + offset);
        }
        if (!CHECK_OK(status))
            return false;
    }
}
