/* SPDX-License-Identifier: BSD-2-Clause */
/* SVM as a vendor of seam 2, and as a backend of seam 1. */
#include "svm/svm.h"

/* V_TPR is always there: without an intercept CR8 is nothing else. */
static uint8_t svm_cr8(struct hw_vcpu *hv)
{
    return svm_of(hv)->vmcb.control.v_tpr & 0xf;
}

const struct virtx_hw svm_hw = {
    .name = "svm",
    .nested = &svm_npt,
    .cpu_bytes = sizeof(struct svm_cpu),
    .vm_bytes = sizeof(struct svm_vm),
    .vcpu_bytes = sizeof(struct svm_vcpu),
    .probe = svm_probe,
    .cpu_enable = svm_cpu_enable,
    .cpu_disable = svm_cpu_disable,
    .cpu_emergency_off = svm_cpu_emergency_off,
    .vm_create = svm_vm_create,
    .vm_destroy = svm_vm_destroy,
    .vcpu_create = svm_vcpu_create,
    .vcpu_destroy = svm_vcpu_destroy,
    .load = svm_load,
    .put = svm_put,
    .enter = svm_enter,
    .toggle_pge = svm_toggle_pge,
    .read = svm_read,
    .code = svm_code,
    .cr8 = svm_cr8,
    .advance = svm_advance,
    .inject = svm_inject,
    .can_interrupt = svm_can_interrupt,
    .can_nmi = svm_can_nmi,
    .window = svm_window,
    .set_root = svm_set_root,
    .flush = svm_flush,
    .controls = svm_controls,
    .engine = svm_engine,
    .tsc_offset = svm_tsc_offset,
    .ports = svm_ports,
    .msr = svm_msr,
    .intercept_check = svm_intercept_check,
    .check = svm_check,
    .to_host = svm_to_host,
};

const struct virtx_backend virtx_svm = HW_BACKEND("svm", &svm_hw, sizeof(struct svm_cpu),
                                                  sizeof(struct svm_vm), sizeof(struct svm_vcpu));
