/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Host events that arrived in the guest and belong to the host: NMI and machine check.
 */
#include "hw/service.h"

#ifdef VIRTX_UNIT
void mock_interrupt(unsigned vector);
#define raise_vector(n) mock_interrupt(n)
#else
/* INT n pushes what the real event would have: the handler ends with the IRET that also ends the blocking of
 * NMIs. */
#define raise_vector(n) __asm__ volatile("int %0" : : "i"(n) : "memory")
#endif

void hw_host_nmi(struct virtx *virtx)
{
    if (virtx->ops.nmi)
        virtx->ops.nmi(virtx->ctx);
    else
        raise_vector(VECTOR_NMI);
}

void hw_host_machine_check(struct virtx *virtx)
{
    if (virtx->ops.machine_check)
        virtx->ops.machine_check(virtx->ctx);
    else
        raise_vector(VECTOR_MC);
}
