/* SPDX-License-Identifier: BSD-2-Clause */
/* Reference page walkers for tests; see ref_walk.h. */
#include "ref_walk.h"

static uint64_t bits(uint64_t value, unsigned high, unsigned low)
{
    return high - low == 63 ? value : (value >> low) & ((1ull << (high - low + 1)) - 1);
}

static bool bit(uint64_t value, unsigned n)
{
    return (value >> n) & 1;
}

static bool read_entry(struct ref_memory *memory, uint64_t address, unsigned width,
                       struct ref_result *result)
{
    uint64_t value;
    memory->references++;
    if (!memory->read(memory->ctx, address, width, &value))
        return false;
    result->entry[result->count++] =
        (struct ref_entry){.address = address, .value = value, .width = width};
    return true;
}

/* The registers and the access, in the manual's words. */
struct situation {
    bool cr0_pg, cr0_wp, cr4_pse, cr4_pae, cr4_smep, cr4_smap, cr4_pke, lma, nxe, ac;
    bool user_mode_access; /* else supervisor-mode access */
    bool write, fetch, implicit;
};

static struct situation describe(const struct ref_registers *r, const struct ref_access *a)
{
    struct situation s = {
        .cr0_pg = bit(r->cr0, 31),
        .cr0_wp = bit(r->cr0, 16),
        .cr4_pse = bit(r->cr4, 4),
        .cr4_pae = bit(r->cr4, 5),
        .cr4_smep = bit(r->cr4, 20),
        .cr4_smap = bit(r->cr4, 21),
        .cr4_pke = bit(r->cr4, 22),
        .lma = bit(r->efer, 10),
        .nxe = bit(r->efer, 11),
        .ac = bit(r->rflags, 18),
        .write = a->write,
        .fetch = a->fetch,
        .implicit = a->implicit,
    };
    /* "Some operations implicitly access system data structures with linear addresses; the
     * resulting accesses are supervisor-mode accesses regardless of CPL." */
    s.user_mode_access = a->cpl3 && !a->implicit;
    return s;
}

/* "Page-Fault Exceptions": the error code. */
static struct ref_result page_fault(struct ref_result result, const struct situation *s,
                                    bool present, bool reserved, bool key)
{
    result.kind = REF_PAGE_FAULT;
    result.error = 0;
    if (present)
        result.error |= 1u << 0;
    if (s->write)
        result.error |= 1u << 1;
    if (s->user_mode_access)
        result.error |= 1u << 2;
    if (reserved)
        result.error |= 1u << 3;
    if (s->fetch && (s->cr4_smep || (s->cr4_pae && s->nxe)))
        result.error |= 1u << 4;
    if (key)
        result.error |= 1u << 5;
    return result;
}

/* "Determination of Access Rights". */
static bool allowed(const struct situation *s, bool user_address, bool writable, bool no_execute)
{
    if (!s->user_mode_access) {
        if (s->fetch) {
            if (user_address && s->cr4_smep)
                return false;
            return !no_execute;
        }
        if (user_address && s->cr4_smap) {
            /* Only an explicit access with EFLAGS.AC = 1 may pass. */
            if (s->implicit || !s->ac)
                return false;
        }
        if (s->write && s->cr0_wp && !writable)
            return false;
        return true;
    }
    if (!user_address)
        return false;
    if (s->fetch)
        return !no_execute;
    if (s->write)
        return writable;
    return true;
}

static struct ref_result finish(struct ref_result result, const struct ref_registers *r,
                                const struct situation *s, uint64_t base, uint64_t page_bytes,
                                uint64_t linear)
{
    bool user_address = true, writable = true, no_execute = false, key_violation = false;
    bool nx_exists = s->cr4_pae && s->nxe;

    for (unsigned i = 0; i < result.count; i++) {
        uint64_t value = result.entry[i].value;
        user_address = user_address && bit(value, 2);
        writable = writable && bit(value, 1);
        no_execute = no_execute || (nx_exists && bit(value, 63));
    }
    if (s->lma && s->cr4_pke && user_address && !s->fetch) {
        unsigned key = (unsigned)bits(result.entry[result.count - 1].value, 62, 59);
        bool access_disable = bit(r->pkru, 2 * key);
        bool write_disable = bit(r->pkru, 2 * key + 1);
        if (access_disable)
            key_violation = true;
        if (write_disable && s->write && (s->user_mode_access || s->cr0_wp))
            key_violation = true;
    }
    if (!allowed(s, user_address, writable, no_execute) || key_violation)
        return page_fault(result, s, true, false, key_violation);
    result.kind = REF_OK;
    result.address = base + linear % page_bytes;
    result.page_bytes = page_bytes;
    return result;
}

static struct ref_result walk_32bit(struct ref_memory *memory, const struct ref_registers *r,
                                    const struct situation *s, uint64_t linear)
{
    struct ref_result result = {.kind = REF_NO_MEMORY};
    uint64_t pde, pte;
    unsigned m = r->maxphyaddr < 40 ? r->maxphyaddr : 40;

    if (!read_entry(memory, bits(r->cr3, 31, 12) << 12 | bits(linear, 31, 22) << 2, 4, &result))
        return result;
    pde = result.entry[0].value;
    if (!bit(pde, 0))
        return page_fault(result, s, false, false, false);
    if (s->cr4_pse && bit(pde, 7)) {
        uint64_t base = bits(pde, 31, 22) << 22;
        /* Bits (M-20):13 are address bits (M-1):32; bits 21:(M-19) are reserved. */
        if (m > 32)
            base |= bits(pde, m - 20, 13) << 32;
        if (bits(pde, 21, m - 19))
            return page_fault(result, s, true, true, false);
        return finish(result, r, s, base, 4ull << 20, linear);
    }
    if (!read_entry(memory, bits(pde, 31, 12) << 12 | bits(linear, 21, 12) << 2, 4, &result))
        return result;
    pte = result.entry[1].value;
    if (!bit(pte, 0))
        return page_fault(result, s, false, false, false);
    return finish(result, r, s, bits(pte, 31, 12) << 12, 4096, linear);
}

/* The reserved bits common to the 64-bit entries: above MAXPHYADDR, and XD without NXE. */
static bool reserved_bits(const struct ref_registers *r, const struct situation *s, uint64_t value,
                          unsigned top)
{
    if (bit(value, 63) && !s->nxe)
        return true;
    return r->maxphyaddr <= top && bits(value, top, r->maxphyaddr) != 0;
}

static struct ref_result walk_pae(struct ref_memory *memory, const struct ref_registers *r,
                                  const struct situation *s, uint64_t linear)
{
    struct ref_result result = {.kind = REF_NO_MEMORY};
    uint64_t pdpte = r->pdpte[bits(linear, 31, 30)], pde, pte;

    if (!bit(pdpte, 0))
        return page_fault(result, s, false, false, false);
    /* SVM: "illegal bit combinations in the PDPEs are signaled at the time that the PDPE is used".
     */
    if (bits(pdpte, 2, 1) || bits(pdpte, 8, 5) || bits(pdpte, 63, r->maxphyaddr))
        return page_fault(result, s, true, true, false);
    if (!read_entry(memory, bits(pdpte, 51, 12) << 12 | bits(linear, 29, 21) << 3, 8, &result))
        return result;
    pde = result.entry[0].value;
    if (!bit(pde, 0))
        return page_fault(result, s, false, false, false);
    if (reserved_bits(r, s, pde, 62))
        return page_fault(result, s, true, true, false);
    if (bit(pde, 7)) {
        if (bits(pde, 20, 13))
            return page_fault(result, s, true, true, false);
        return finish(result, r, s, bits(pde, 51, 21) << 21, 2ull << 20, linear);
    }
    if (!read_entry(memory, bits(pde, 51, 12) << 12 | bits(linear, 20, 12) << 3, 8, &result))
        return result;
    pte = result.entry[1].value;
    if (!bit(pte, 0))
        return page_fault(result, s, false, false, false);
    if (reserved_bits(r, s, pte, 62))
        return page_fault(result, s, true, true, false);
    return finish(result, r, s, bits(pte, 51, 12) << 12, 4096, linear);
}

static struct ref_result walk_4level(struct ref_memory *memory, const struct ref_registers *r,
                                     const struct situation *s, uint64_t linear)
{
    struct ref_result result = {.kind = REF_NO_MEMORY};
    uint64_t table = bits(r->cr3, 51, 12) << 12;

    for (unsigned level = 4; level >= 1; level--) {
        unsigned low = 12 + 9 * (level - 1);
        uint64_t value;

        if (!read_entry(memory, table | bits(linear, low + 8, low) << 3, 8, &result))
            return result;
        value = result.entry[result.count - 1].value;
        if (!bit(value, 0))
            return page_fault(result, s, false, false, false);
        if (reserved_bits(r, s, value, 51))
            return page_fault(result, s, true, true, false);
        if (level == 4 && (bit(value, 7) || (r->amd && bit(value, 8))))
            return page_fault(result, s, true, true, false);
        if (level == 3 && bit(value, 7)) {
            if (!r->page1gb || bits(value, 29, 13))
                return page_fault(result, s, true, true, false);
            return finish(result, r, s, bits(value, 51, 30) << 30, 1ull << 30, linear);
        }
        if (level == 2 && bit(value, 7)) {
            if (bits(value, 20, 13))
                return page_fault(result, s, true, true, false);
            return finish(result, r, s, bits(value, 51, 21) << 21, 2ull << 20, linear);
        }
        table = bits(value, 51, 12) << 12;
    }
    return finish(result, r, s, table, 4096, linear);
}

struct ref_result ref_walk(struct ref_memory *memory, const struct ref_registers *regs,
                           uint64_t linear, const struct ref_access *access)
{
    struct situation s = describe(regs, access);

    if (!s.cr0_pg) {
        struct ref_result result = {
            .kind = REF_OK, .address = bits(linear, 31, 0), .page_bytes = 4096};
        return result;
    }
    if (!s.cr4_pae)
        return walk_32bit(memory, regs, &s, bits(linear, 31, 0));
    if (!s.lma)
        return walk_pae(memory, regs, &s, bits(linear, 31, 0));
    return walk_4level(memory, regs, &s, linear);
}

uint64_t ref_used_entry(uint64_t value, bool leaf, bool write)
{
    value |= 1u << 5;
    if (leaf && write)
        value |= 1u << 6;
    return value;
}

/* Intel SDM "EPT Misconfigurations", for a MAXPHYADDR of 52; execute-only is supported. */
static bool ept_misconfigured(uint64_t value, unsigned level)
{
    bool leaf = level == 1 || (level < 4 && bit(value, 7));
    if (bit(value, 1) && !bit(value, 0))
        return true;
    if (!leaf)
        return bits(value, level == 4 ? 7 : 6, 3) != 0;
    if (bits(value, 5, 3) == 2 || bits(value, 5, 3) == 3 || bits(value, 5, 3) == 7)
        return true;
    if (level == 3)
        return bits(value, 29, 12) != 0;
    if (level == 2)
        return bits(value, 20, 12) != 0;
    return false;
}

static struct ref_nested walk_ept(struct ref_memory *memory, uint64_t root, uint64_t gpa)
{
    struct ref_nested n = {.read = true, .write = true, .execute = true};
    uint64_t table = root;

    for (n.level = 4;; n.level--) {
        unsigned low = 12 + 9 * (n.level - 1);
        uint64_t value;

        n.leaf_address = table | bits(gpa, low + 8, low) << 3;
        memory->references++;
        if (!memory->read(memory->ctx, n.leaf_address, 8, &value)) {
            n.kind = REF_NESTED_MISCONFIGURED;
            return n;
        }
        n.leaf = value;
        n.kind = REF_NESTED_NOT_PRESENT;
        if (!bits(value, 2, 0))
            return n;
        n.kind = REF_NESTED_MISCONFIGURED;
        if (ept_misconfigured(value, n.level))
            return n;
        n.read = n.read && bit(value, 0);
        n.write = n.write && bit(value, 1);
        n.execute = n.execute && bit(value, 2);
        if (n.level == 1 || (n.level < 4 && bit(value, 7))) {
            n.kind = REF_NESTED_OK;
            n.page_bytes = 1ull << low;
            n.hpa = (bits(value, 51, low) << low) + gpa % n.page_bytes;
            n.type = (unsigned)bits(value, 5, 3);
            n.ignore_pat = bit(value, 6);
            n.dirty = bit(value, 9);
            return n;
        }
        table = bits(value, 51, 12) << 12;
    }
}

/* AMD APM "Nested Paging": host long-mode tables, walked as user accesses with NXE. */
static struct ref_nested walk_npt(struct ref_memory *memory, uint64_t root, uint64_t gpa)
{
    struct ref_nested n = {.read = true, .write = true, .execute = true};
    uint64_t table = root;

    for (n.level = 4;; n.level--) {
        unsigned low = 12 + 9 * (n.level - 1);
        uint64_t value;
        bool leaf;

        n.leaf_address = table | bits(gpa, low + 8, low) << 3;
        memory->references++;
        if (!memory->read(memory->ctx, n.leaf_address, 8, &value)) {
            n.kind = REF_NESTED_MISCONFIGURED;
            return n;
        }
        n.leaf = value;
        n.kind = REF_NESTED_NOT_PRESENT;
        if (!bit(value, 0))
            return n;
        n.kind = REF_NESTED_MISCONFIGURED;
        leaf = n.level == 1 || (n.level < 4 && bit(value, 7));
        if ((n.level == 4 && bits(value, 8, 7)) ||
            (leaf && n.level > 1 && bits(value, low - 1, 13)))
            return n;
        /* Nested walks are user accesses. */
        n.read = n.read && bit(value, 2);
        n.write = n.write && bit(value, 1) && bit(value, 2);
        n.execute = n.execute && !bit(value, 63) && bit(value, 2);
        if (leaf) {
            n.kind = REF_NESTED_OK;
            n.page_bytes = 1ull << low;
            n.hpa = (bits(value, 51, low) << low) + gpa % n.page_bytes;
            n.type = (unsigned)(bit(value, n.level > 1 ? 12 : 7) << 2 | bits(value, 4, 3));
            n.dirty = bit(value, 6);
            return n;
        }
        table = bits(value, 51, 12) << 12;
    }
}

struct ref_nested ref_nested_walk(struct ref_memory *memory, enum ref_nested_format format,
                                  uint64_t root, uint64_t gpa)
{
    return format == REF_EPT ? walk_ept(memory, root, gpa) : walk_npt(memory, root, gpa);
}
