/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The instruction at the guest's RIP: fetched, decoded, and found again when it comes a second
 * time.
 *
 * A line of the cache is believed when all that it was made from is what it was: the registers
 * that govern a fetch, the entries of the guest's tables on the way to the bytes, and the bytes
 * themselves, which are all read again. So there is nothing to invalidate: the guest may change its
 * code, its tables or its mode without telling anybody. Lines are found that way in 64-bit mode
 * only, and where the 15 bytes at RIP lie in one page; elsewhere the tables are walked each time,
 * and the decoder's answer is found by mode and bytes.
 */
#include "hw/emulation.h"

/* What a fetch needs to know of the registers. */
struct code {
    struct walk_mode walk;
    uint64_t linear;
    uint32_t flags; /* of the walk */
    bool wide;      /* 64-bit mode */
    enum insn_mode mode;
};

static void code_state(struct hw_vcpu *hv, struct code *code)
{
    const struct virtx_state *state =
        hw_state(hv, VIRTX_STATE_SEG | VIRTX_STATE_CR | VIRTX_STATE_RIP);
    const struct virtx_segment *cs = &state->seg[VIRTX_CS];

    code->walk.cr0 = state->cr0;
    code->walk.cr3 = state->cr3;
    code->walk.cr4 = state->cr4;
    code->walk.efer = state->efer;
    code->walk.rflags = 0; /* AC and protection keys are about data */
    code->walk.pkru = 0;
    code->walk.physical_bits = hv->soft->policy.physical_bits;
    code->walk.no_1g = hv->soft->policy.no_1g;
    code->walk.amd = hv->soft->policy.amd;
    if (!(state->efer & EFER_LMA))
        memcpy(code->walk.pdpte, state->pdpte, sizeof(code->walk.pdpte));
    code->flags = hw_cpl(hv) == 3 ? WALK_USER : 0;
    code->wide = (state->efer & EFER_LMA) && (cs->attributes & VIRTX_SEG_L);
    if (code->wide) {
        code->linear = state->rip;
        code->mode = hv->soft->policy.amd ? INSN_64_AMD : INSN_64;
    } else {
        code->linear = (uint32_t)(cs->base + (uint32_t)state->rip);
        code->mode = cs->attributes & VIRTX_SEG_DB ? INSN_32 : INSN_16;
    }
}

/* Reads instruction bytes from one page; 0 when that cannot be. The processor has been there: the
 * accessed flags are its business. */
static unsigned fetch_piece(struct hw_vcpu *hv, const struct code *code, uint64_t linear,
                            unsigned bytes, struct walk_memo *memo, struct hw_fetch *fetch)
{
    struct walk_result walk;

    switch (walk_memo_fill(memo, hv->vcpu->vm, &code->walk, linear, code->flags, &walk)) {
    case VIRTX_OK:
        break;
    case VIRTX_E_FAULT:
        fetch->access = HW_ACCESS_FAULT;
        fetch->event = (struct virtx_event){.type = VIRTX_EVENT_EXCEPTION,
                                            .vector = VECTOR_PF,
                                            .has_error = true,
                                            .error = walk.error,
                                            .address = linear};
        return 0;
    default:
        hv->fault = hw_table_fault(linear, walk.gpa, VIRTX_READ);
        fetch->access = HW_ACCESS_NONE;
        return 0;
    }
    if (virtx_gpa_read(hv->vcpu->vm, walk.gpa, fetch->bytes + fetch->got, bytes) != VIRTX_OK) {
        fetch->access = HW_ACCESS_MMIO;
        return 0;
    }
    fetch->access = HW_ACCESS_OK;
    return bytes;
}

/* The bytes, and in `memo` how they were found if they are all in one page. */
static void fetch_bytes(struct hw_vcpu *hv, const struct code *code, struct walk_memo *memo,
                        struct hw_fetch *fetch)
{
    unsigned in_page = (unsigned)(VIRTX_PAGE_SIZE - (code->linear & (VIRTX_PAGE_SIZE - 1)));
    unsigned first = (unsigned)min_u64(INSN_MAX_LENGTH, in_page);
    uint64_t next = code->linear + first;

    fetch->got = 0;
    fetch->got = fetch_piece(hv, code, code->linear, first, memo, fetch);
    if (fetch->got < first || first == INSN_MAX_LENGTH)
        return;
    fetch->got += fetch_piece(hv, code, code->wide ? next : (uint32_t)next, INSN_MAX_LENGTH - first,
                              memo, fetch);
    memo->host = NULL;
}

unsigned hw_fetch(struct hw_vcpu *hv, uint8_t *buf)
{
    struct walk_memo memo;
    struct hw_fetch fetch;
    struct code code;

    code_state(hv, &code);
    fetch_bytes(hv, &code, &memo, &fetch);
    memcpy(buf, fetch.bytes, fetch.got);
    return fetch.got;
}

/* ---- Lines ---- */

/* Where the simple form's memory operand begins, when that takes but one register. */
static uint8_t simple_base(const struct insn *insn)
{
    const struct insn_mem *mem = &insn->mem;

    if (insn->mode >= INSN_64 && insn->address_size == 8 && mem->segment < INSN_FS &&
        mem->base < VIRTX_GPR_COUNT && mem->base != VIRTX_RSP && mem->index == INSN_NO_REGISTER)
        return mem->base;
    return HW_MOV_NO_BASE;
}

static uint8_t kind_of_read(const struct insn *insn, const struct insn_operand *to)
{
    if (insn->op == INSN_OP_MOVSX)
        return HW_MOV_SIGN;
    return to->kind == INSN_REG && to->size >= 4 && to->reg != VIRTX_RSP ? HW_MOV_READ
                                                                         : HW_MOV_READ_PART;
}

static uint8_t kind_of_write(const struct insn_operand *from)
{
    if (from->kind == INSN_IMM)
        return HW_MOV_IMMEDIATE;
    return from->kind == INSN_REG && from->reg == VIRTX_RSP ? HW_MOV_WRITE_RSP : HW_MOV_WRITE;
}

/* Recognizes the simple forms. */
static struct hw_mov simple(const struct insn *insn)
{
    const struct hw_mov none = {.access = HW_MOV_NONE};
    const struct insn_operand *to = &insn->operand[0], *from = &insn->operand[1], *reg;
    struct hw_mov mov = {.base = simple_base(insn)};

    if ((insn->op != INSN_OP_MOV && insn->op != INSN_OP_MOVZX && insn->op != INSN_OP_MOVSX) ||
        (insn->prefixes & (INSN_PREFIX_LOCK | INSN_PREFIX_REP | INSN_PREFIX_REPNE)))
        return none;
    if (from->kind == INSN_MEM) {
        mov.kind = kind_of_read(insn, to);
        mov.access = VIRTX_READ;
        mov.size = from->size;
        mov.to_size = to->size;
        reg = to;
    } else if (to->kind == INSN_MEM) {
        mov.kind = kind_of_write(from);
        mov.access = VIRTX_WRITE;
        mov.size = to->size;
        reg = from;
    } else {
        return none;
    }
    mov.unused = (uint8_t)(64 - 8 * mov.size);
    mov.reg = reg->reg & 15;
    if (reg->kind == INSN_REG_HIGH)
        mov.high = 8;
    else if (reg->kind != INSN_REG && mov.kind != HW_MOV_IMMEDIATE)
        return none; /* a segment register */
    return mov;
}

/* Decodes into a line. Without all 15 bytes it is good for this once. */
static enum insn_result decode(struct hw_line *line, const struct hw_fetch *fetch,
                               enum insn_mode mode)
{
    unsigned length;

    line->mode = 0; /* matches nothing */
    line->result = insn_decode(&line->insn, fetch->bytes, fetch->got, mode);
    if (line->result == INSN_UNKNOWN)
        line->mov = (struct hw_mov){.access = HW_MOV_NONE};
    else if (line->result == INSN_OK)
        line->mov = simple(&line->insn);
    else
        return line->result;
    if (fetch->got < INSN_MAX_LENGTH)
        return line->result;
    length = line->insn.length;
    memcpy(&line->low, fetch->bytes, sizeof(line->low));
    memcpy(&line->high, fetch->bytes + 7, sizeof(line->high));
    line->low_mask = length >= 8 ? UINT64_MAX : (1ull << length * 8) - 1;
    line->high_mask = length <= 7 ? 0 : UINT64_MAX >> (15 - length) * 8;
    line->mode = 1 + (uint32_t)mode;
    return line->result;
}

/* The long way: everything is read, and the line made or made good again. */
static __attribute__((noinline)) const struct hw_line *
find(struct hw_vcpu *hv, struct hw_line *line, struct hw_code key, struct hw_fetch *fetch)
{
    struct code code;

    code_state(hv, &code);
    line->code.key = HW_LINE_NONE; /* until all is known */
    fetch_bytes(hv, &code, &line->memo, fetch);
    if (fetch->got == INSN_MAX_LENGTH && line->mode == 1 + (uint32_t)code.mode &&
        hw_line_bytes(line, fetch->bytes))
        fetch->result = line->result;
    else
        fetch->result = decode(line, fetch, code.mode);
    if (fetch->result != INSN_OK && fetch->result != INSN_UNKNOWN)
        return NULL;
    if (code.wide && fetch->got == INSN_MAX_LENGTH && line->memo.host) {
        line->rip = code.linear;
        line->bytes = line->memo.host + (code.linear & (VIRTX_PAGE_SIZE - 1));
        line->code = key;
    }
    return line;
}

const struct hw_line *hw_code(struct hw_vcpu *hv, struct hw_fetch *fetch)
{
    struct hw_line *line = hw_line_at(hv);
    struct hw_code code;

    if (likely(hw_line_holds(hv, line, &code)))
        return line;
    return find(hv, line, code, fetch);
}

/* With a stack of its own: where the line holds, none is needed. */
static __attribute__((noinline)) const struct insn *
insn_anew(struct hw_vcpu *hv, struct hw_line *line, struct hw_code code)
{
    struct hw_fetch fetch;

    return find(hv, line, code, &fetch) ? &line->insn : NULL;
}

const struct insn *hw_insn(struct hw_vcpu *hv)
{
    struct hw_line *line = hw_line_at(hv);
    struct hw_code code;

    if (likely(hw_line_holds(hv, line, &code)))
        return &line->insn;
    return insn_anew(hv, line, code);
}

void hw_code_reset(struct hw_emulation *em)
{
    for (unsigned i = 0; i < HW_LINES; i++)
        em->line[i].code.key = HW_LINE_NONE;
}
