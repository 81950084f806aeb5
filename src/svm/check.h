/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The entry checker's rules as data. One rule is one sentence of the manual, with the section it
 * stands in.
 */
#ifndef VIRTX_SVM_CHECK_H
#define VIRTX_SVM_CHECK_H

#include "svm/svm.h"

/* What the rules ask for. */
struct check {
    const struct vmcb_control *control;
    const struct vmcb_save *save;
    uint64_t beyond;    /* bits above the physical-address width */
    uint64_t cr4, efer; /* bits that this processor has */
};

struct check_rule {
    const char *what;
    const char *manual;
    const char *rule;
    enum virtx_status status;
    bool (*broken)(const struct check *c, uint64_t *value); /* value: of the field, to be shown */
};

extern const struct check_rule svm_rules[];
extern const unsigned svm_rules_count;

void svm_check_look(const struct virtx *virtx, const struct vmcb *vmcb, struct check *c);

#endif
