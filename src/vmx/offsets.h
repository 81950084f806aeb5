/* SPDX-License-Identifier: BSD-2-Clause */
/* What entry.S knows of the C structures; enter.c compares it with them. */
#ifndef VIRTX_VMX_OFFSETS_H
#define VIRTX_VMX_OFFSETS_H

#define VMX_CR2_AT         376 /* struct virtx_state: cr2 */
#define VMX_HOST_RSP_AT    656 /* struct hw_vcpu: entry[0] */
#define VMX_VCPU_AT        688 /* struct hw_vcpu: vcpu */
#define VMX_REQUESTS_AT    24  /* struct virtx_vcpu: requests */
#define VMX_FIELD_HOST_RSP 0x6c14

#endif
