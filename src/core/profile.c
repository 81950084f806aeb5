/* SPDX-License-Identifier: BSD-2-Clause */
/* The two ready-made host profiles. */
#include "core/object.h"

const struct virtx_host_profile virtx_profile_bare = {
    .size = sizeof(struct virtx_host_profile),
};

/*
 * Interrupts and NMIs that arrive inside run need per-CPU data and their stacks at once. The rest
 * matters first when the host runs user code or another task, which put precedes; breakpoints of
 * the guest cannot meet the host before, because every exit disables them in DR7.
 */
const struct virtx_host_profile virtx_profile_kernel = {
    .size = sizeof(struct virtx_host_profile),
    .at_exit = VIRTX_HOST_GS_BASE | VIRTX_HOST_TSS,
    .at_put = VIRTX_HOST_STATE_ALL & ~(VIRTX_HOST_GS_BASE | VIRTX_HOST_TSS),
};
