/* SPDX-License-Identifier: BSD-2-Clause */
/* What entry.S knows of the C structures; enter.c compares it with them. */
#ifndef VIRTX_SVM_OFFSETS_H
#define VIRTX_SVM_OFFSETS_H

#define SVM_VMCB_HPA_AT 0x1000 /* struct svm_vcpu: vmcb_hpa */
#define SVM_HOST_HPA_AT 0x1008 /* struct svm_vcpu: host_hpa */

#endif
