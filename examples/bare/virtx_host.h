/* SPDX-License-Identifier: BSD-2-Clause */
/* The library's host functions on the bare host. Give &bare_virtx_ops to virtx_open(); its context
 * is not used. */
#ifndef BARE_VIRTX_HOST_H
#define BARE_VIRTX_HOST_H

#include <virtx/virtx.h>

extern const struct virtx_host_ops bare_virtx_ops;

/* The vector by which one processor kicks another out of its guest. */
#define BARE_VECTOR_KICK 0xfd

#endif
