/* SPDX-License-Identifier: BSD-2-Clause */
/* The detail behind a failed call. */
#include "core/object.h"

enum virtx_status virtx_fail_manual(struct virtx_error *error, enum virtx_status status,
                                    const char *what, const char *rule, const char *manual,
                                    uint64_t value)
{
    if (error) {
        error->status = status;
        error->what = what;
        error->rule = rule;
        error->manual = manual;
        error->value = value;
    }
    return status;
}

enum virtx_status virtx_fail(struct virtx_error *error, enum virtx_status status, const char *what,
                             const char *rule, uint64_t value)
{
    return virtx_fail_manual(error, status, what, rule, "", value);
}
