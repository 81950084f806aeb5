/* SPDX-License-Identifier: BSD-2-Clause */
/* The format of EPT paging structures: Intel SDM "EPT Translation Mechanism". */
#include "paging/format.h"
#include "vmx/vmx.h"

#define EPT_READ     (1ull << 0)
#define EPT_WRITE    (1ull << 1)
#define EPT_EXECUTE  (1ull << 2)
#define EPT_IPAT     (1ull << 6)
#define EPT_LARGE    (1ull << 7)
#define EPT_ACCESSED (1ull << 8)
#define EPT_DIRTY    (1ull << 9)
#define EPT_TYPE(t)  ((uint64_t)(t) << 3)

/* Memory types have the same numbers here, in MTRRs, and in virtx_memory_type. */
#define EPT_TYPES                                                                                  \
    {                                                                                              \
        [VIRTX_MEMORY_UC] = EPT_TYPE(VIRTX_MEMORY_UC),                                             \
        [VIRTX_MEMORY_WC] = EPT_TYPE(VIRTX_MEMORY_WC),                                             \
        [VIRTX_MEMORY_WT] = EPT_TYPE(VIRTX_MEMORY_WT),                                             \
        [VIRTX_MEMORY_WP] = EPT_TYPE(VIRTX_MEMORY_WP),                                             \
        [VIRTX_MEMORY_WB] = EPT_TYPE(VIRTX_MEMORY_WB),                                             \
    }

const struct table_format vmx_ept = {
    .name = "EPT",
    .present = EPT_READ | EPT_WRITE | EPT_EXECUTE,
    .address = 0x000ffffffffff000,
    .table = EPT_READ | EPT_WRITE | EPT_EXECUTE,
    .leaf = 0,
    .large = EPT_LARGE,
    .read = EPT_READ,
    .write = EPT_WRITE,
    .execute = EPT_EXECUTE,
    .no_execute = 0,
    .accessed = EPT_ACCESSED,
    .dirty = EPT_DIRTY,
    .ignore_pat = EPT_IPAT,
    .type = EPT_TYPES,
};
