/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The checks of VM entries on the guest's segment registers: Intel SDM "Checks on Guest Segment
 * Registers".
 */
#include "vmx/check.h"

#define SEGMENTS "Checks on Guest Segment Registers"

static bool v86(const struct check *c)
{
    return c->rflags & RFLAGS_VM;
}

static bool usable(const struct check *c, unsigned seg)
{
    return !(c->attributes[seg] & VIRTX_SEG_UNUSABLE);
}

static unsigned type(const struct check *c, unsigned seg)
{
    return c->attributes[seg] & VIRTX_SEG_TYPE;
}

static unsigned dpl(const struct check *c, unsigned seg)
{
    return (c->attributes[seg] & VIRTX_SEG_DPL) >> VIRTX_SEG_DPL_SHIFT;
}

static bool tr_ti(const struct check *c, unsigned arg)
{
    (void)arg;
    return !(c->selector[VIRTX_TR] & 4);
}

static bool ldtr_ti(const struct check *c, unsigned arg)
{
    (void)arg;
    return !usable(c, VIRTX_LDTR) || !(c->selector[VIRTX_LDTR] & 4);
}

static bool ss_rpl(const struct check *c, unsigned arg)
{
    (void)arg;
    return v86(c) || c->unrestricted || (c->selector[VIRTX_SS] & 3) == (c->selector[VIRTX_CS] & 3);
}

static bool v86_base(const struct check *c, unsigned seg)
{
    return !v86(c) || vmx_vmread(vmcs_seg_base(seg)) == (uint64_t)c->selector[seg] << 4;
}

static bool v86_limit(const struct check *c, unsigned seg)
{
    return !v86(c) || vmx_vmread(vmcs_seg_limit(seg)) == 0xffff;
}

static bool v86_rights(const struct check *c, unsigned seg)
{
    return !v86(c) || c->attributes[seg] == 0xf3;
}

static bool base_canonical(const struct check *c, unsigned seg)
{
    return (seg == VIRTX_LDTR && !usable(c, seg)) || is_canonical(vmx_vmread(vmcs_seg_base(seg)));
}

static bool base_low(const struct check *c, unsigned seg)
{
    return (seg != VIRTX_CS && !usable(c, seg)) || !(vmx_vmread(vmcs_seg_base(seg)) >> 32);
}

static bool cs_type(const struct check *c, unsigned arg)
{
    unsigned t = type(c, VIRTX_CS);

    (void)arg;
    return v86(c) || ((t & 9) == 9) || (c->unrestricted && t == 3);
}

static bool ss_type(const struct check *c, unsigned arg)
{
    (void)arg;
    return v86(c) || !usable(c, VIRTX_SS) || type(c, VIRTX_SS) == 3 || type(c, VIRTX_SS) == 7;
}

static bool data_type(const struct check *c, unsigned seg)
{
    unsigned t = type(c, seg);

    return v86(c) || !usable(c, seg) || ((t & 1) && (!(t & 8) || (t & 2)));
}

/* CS is always judged, the others when usable. */
static bool judged(const struct check *c, unsigned seg)
{
    return !v86(c) && (seg == VIRTX_CS || usable(c, seg));
}

static bool code_or_data(const struct check *c, unsigned seg)
{
    return !judged(c, seg) || (c->attributes[seg] & VIRTX_SEG_S);
}

static bool cs_dpl(const struct check *c, unsigned arg)
{
    unsigned t = type(c, VIRTX_CS);

    (void)arg;
    if (v86(c))
        return true;
    if (t == 3)
        return dpl(c, VIRTX_CS) == 0;
    if (t == 9 || t == 11)
        return dpl(c, VIRTX_CS) == dpl(c, VIRTX_SS);
    return dpl(c, VIRTX_CS) <= dpl(c, VIRTX_SS);
}

static bool ss_dpl(const struct check *c, unsigned arg)
{
    (void)arg;
    return v86(c) || c->unrestricted || dpl(c, VIRTX_SS) == (c->selector[VIRTX_SS] & 3u);
}

static bool ss_dpl_real(const struct check *c, unsigned arg)
{
    (void)arg;
    return v86(c) || (type(c, VIRTX_CS) != 3 && (c->cr0 & CR0_PE)) || dpl(c, VIRTX_SS) == 0;
}

static bool data_dpl(const struct check *c, unsigned seg)
{
    return v86(c) || c->unrestricted || !usable(c, seg) || type(c, seg) > 11 ||
           dpl(c, seg) >= (c->selector[seg] & 3u);
}

static bool present(const struct check *c, unsigned seg)
{
    return !judged(c, seg) || (c->attributes[seg] & VIRTX_SEG_P);
}

static bool reserved(const struct check *c, unsigned seg)
{
    return !judged(c, seg) || !(c->attributes[seg] & 0xfffe0f00);
}

static bool cs_db(const struct check *c, unsigned arg)
{
    (void)arg;
    return v86(c) || !c->ia32e || !(c->attributes[VIRTX_CS] & VIRTX_SEG_L) ||
           !(c->attributes[VIRTX_CS] & VIRTX_SEG_DB);
}

static bool granular(const struct check *c, unsigned seg)
{
    uint64_t limit = vmx_vmread(vmcs_seg_limit(seg));

    if ((limit & 0xfff) != 0xfff && (c->attributes[seg] & VIRTX_SEG_G))
        return false;
    return !(limit & 0xfff00000) || (c->attributes[seg] & VIRTX_SEG_G);
}

static bool granularity(const struct check *c, unsigned seg)
{
    if (seg == VIRTX_TR)
        return granular(c, seg);
    if (seg == VIRTX_LDTR)
        return !usable(c, seg) || granular(c, seg);
    return !judged(c, seg) || granular(c, seg);
}

static bool tr_type(const struct check *c, unsigned arg)
{
    (void)arg;
    return type(c, VIRTX_TR) == 11 || (!c->ia32e && type(c, VIRTX_TR) == 3);
}

static bool tr_usable(const struct check *c, unsigned arg)
{
    (void)arg;
    return usable(c, VIRTX_TR);
}

static bool ldtr_type(const struct check *c, unsigned arg)
{
    (void)arg;
    return !usable(c, VIRTX_LDTR) || type(c, VIRTX_LDTR) == 2;
}

/* S is 0, P is 1, reserved bits are 0: what system segments have in common. */
static bool system_rights(const struct check *c, unsigned seg)
{
    if (seg == VIRTX_LDTR && !usable(c, seg))
        return true;
    return !(c->attributes[seg] & VIRTX_SEG_S) && (c->attributes[seg] & VIRTX_SEG_P) &&
           !(c->attributes[seg] & 0xfffe0f00);
}

#define CANONICAL "the address must be canonical"
#define HIGH      "bits 63:32 of the base must be 0"
#define V86_BASE  "in virtual-8086 mode the base must be the selector times 16"
#define V86_LIMIT "in virtual-8086 mode the limit must be 0xffff"
#define V86_RIGHT "in virtual-8086 mode the access rights must be 0xf3"
#define DATA_TYPE "a usable segment must be accessed, and readable if it is code"
#define S_BIT     "S (descriptor type) must be 1"
#define DATA_DPL  "DPL of data or non-conforming code must not be below the selector's RPL"
#define P_BIT     "P must be 1"
#define RESERVED  "reserved bits of the access rights must be 0"
#define G_BIT     "G must be 0 if any of limit bits 11:0 is 0, 1 if any of limit bits 31:20 is 1"
#define SYSTEM    "S must be 0, P 1 and the reserved bits 0"

#define SEGMENT(name, seg, field, predicate, sentence)                                             \
    {                                                                                              \
        "guest " name, SEGMENTS, sentence, field + 2 * (seg), predicate, seg                       \
    }
/* A rule that holds for all six registers. */
#define SIX(field, predicate, sentence)                                                            \
    SEGMENT("CS", VIRTX_CS, field, predicate, sentence),                                           \
        SEGMENT("SS", VIRTX_SS, field, predicate, sentence),                                       \
        SEGMENT("DS", VIRTX_DS, field, predicate, sentence),                                       \
        SEGMENT("ES", VIRTX_ES, field, predicate, sentence),                                       \
        SEGMENT("FS", VIRTX_FS, field, predicate, sentence),                                       \
        SEGMENT("GS", VIRTX_GS, field, predicate, sentence)
#define FOUR(field, predicate, sentence)                                                           \
    SEGMENT("DS", VIRTX_DS, field, predicate, sentence),                                           \
        SEGMENT("ES", VIRTX_ES, field, predicate, sentence),                                       \
        SEGMENT("FS", VIRTX_FS, field, predicate, sentence),                                       \
        SEGMENT("GS", VIRTX_GS, field, predicate, sentence)
#define SELECTORS VMCS_GUEST_ES_SELECTOR
#define BASES     VMCS_GUEST_ES_BASE
#define LIMITS    VMCS_GUEST_ES_LIMIT
#define RIGHTS    VMCS_GUEST_ES_ATTRIBUTES

const struct check_rule vmx_rules_segments[] = {
    SEGMENT("TR", VIRTX_TR, SELECTORS, tr_ti, "TI of the selector must be 0"),
    SEGMENT("LDTR", VIRTX_LDTR, SELECTORS, ldtr_ti, "TI of the selector must be 0"),
    SEGMENT("SS", VIRTX_SS, SELECTORS, ss_rpl, "RPL must be that of CS without unrestricted guest"),
    SIX(BASES, v86_base, V86_BASE),
    SEGMENT("TR", VIRTX_TR, BASES, base_canonical, CANONICAL),
    SEGMENT("FS", VIRTX_FS, BASES, base_canonical, CANONICAL),
    SEGMENT("GS", VIRTX_GS, BASES, base_canonical, CANONICAL),
    SEGMENT("LDTR", VIRTX_LDTR, BASES, base_canonical, CANONICAL),
    SEGMENT("CS", VIRTX_CS, BASES, base_low, HIGH),
    SEGMENT("SS", VIRTX_SS, BASES, base_low, HIGH),
    SEGMENT("DS", VIRTX_DS, BASES, base_low, HIGH),
    SEGMENT("ES", VIRTX_ES, BASES, base_low, HIGH),
    SIX(LIMITS, v86_limit, V86_LIMIT),
    SIX(RIGHTS, v86_rights, V86_RIGHT),
    SEGMENT("CS", VIRTX_CS, RIGHTS, cs_type,
            "the type must be accessed code (or 3 with unrestricted guest)"),
    SEGMENT("SS", VIRTX_SS, RIGHTS, ss_type, "the type must be accessed writable data (3 or 7)"),
    FOUR(RIGHTS, data_type, DATA_TYPE),
    SIX(RIGHTS, code_or_data, S_BIT),
    SEGMENT("CS", VIRTX_CS, RIGHTS, cs_dpl,
            "DPL must be 0 for type 3, SS's for non-conforming code, at most SS's for conforming"),
    SEGMENT("SS", VIRTX_SS, RIGHTS, ss_dpl,
            "DPL must be the selector's RPL without unrestricted guest"),
    SEGMENT("SS", VIRTX_SS, RIGHTS, ss_dpl_real,
            "DPL must be 0 in real mode or when CS has type 3"),
    FOUR(RIGHTS, data_dpl, DATA_DPL),
    SIX(RIGHTS, present, P_BIT),
    SIX(RIGHTS, reserved, RESERVED),
    SEGMENT("CS", VIRTX_CS, RIGHTS, cs_db, "D must be 0 in 64-bit mode"),
    SIX(RIGHTS, granularity, G_BIT),
    SEGMENT("TR", VIRTX_TR, RIGHTS, tr_usable, "must be usable"),
    SEGMENT("TR", VIRTX_TR, RIGHTS, tr_type,
            "the type must be a busy TSS: 11, or 3 outside IA-32e mode"),
    SEGMENT("TR", VIRTX_TR, RIGHTS, system_rights, SYSTEM),
    SEGMENT("TR", VIRTX_TR, RIGHTS, granularity, G_BIT),
    SEGMENT("LDTR", VIRTX_LDTR, RIGHTS, ldtr_type, "the type must be 2"),
    SEGMENT("LDTR", VIRTX_LDTR, RIGHTS, system_rights, SYSTEM),
    SEGMENT("LDTR", VIRTX_LDTR, RIGHTS, granularity, G_BIT),
};
const unsigned vmx_rules_segments_count = ARRAY_SIZE(vmx_rules_segments);
