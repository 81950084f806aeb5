/* SPDX-License-Identifier: BSD-2-Clause */
/* The two tables of the VMX vendor: seam 2 and, with src/hw behind it, seam 1. */
#include "vmx/vmx.h"

const struct virtx_hw vmx_hw = {
    .name = "vmx",
    .nested = &vmx_ept,
    .cpu_bytes = sizeof(struct vmx_cpu),
    .vm_bytes = sizeof(struct vmx_vm),
    .vcpu_bytes = sizeof(struct vmx_vcpu),
    .probe = vmx_probe,
    .cpu_enable = vmx_cpu_enable,
    .cpu_disable = vmx_cpu_disable,
    .cpu_emergency_off = vmx_cpu_emergency_off,
    .vm_create = vmx_vm_create,
    .vm_destroy = vmx_vm_destroy,
    .vcpu_create = vmx_vcpu_create,
    .vcpu_destroy = vmx_vcpu_destroy,
    .load = vmx_load,
    .put = vmx_put,
    .enter = vmx_enter,
    .read = vmx_read,
    .code = vmx_code,
    .advance = vmx_advance,
    .place = vmx_place,
    .inject = vmx_inject,
    .can_interrupt = vmx_can_interrupt,
    .can_nmi = vmx_can_nmi,
    .window = vmx_window,
    .set_root = vmx_set_root,
    .flush = vmx_flush,
    .controls = vmx_controls,
    .engine = vmx_engine,
    .tsc_offset = vmx_tsc_offset,
    .drain = vmx_drain,
    .ports = vmx_ports,
    .msr = vmx_msr,
    .intercept_check = vmx_intercept_check,
    .check = vmx_check,
    .to_host = vmx_to_host,
};

const struct virtx_backend virtx_vmx = HW_BACKEND("vmx", &vmx_hw, sizeof(struct vmx_cpu),
                                                  sizeof(struct vmx_vm), sizeof(struct vmx_vcpu));
