/* SPDX-License-Identifier: BSD-2-Clause */
/* The entry checker against SVM. */
#include "checker.h"

void checker_svm(void)
{
    not_shown("the SVM half does not exist yet");
}

void checker_svm_save_area(void)
{
    not_shown("the test does not exist yet");
}
