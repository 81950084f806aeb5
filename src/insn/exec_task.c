/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Task switches (Intel SDM, "Task Switching"). Once the old task is saved and the new one's
 * registers are loaded, the switch has happened: what is wrong with its segments is a fault of the
 * new task, before its first instruction.
 */
#include "insn/segment.h"

/* The parts of a TSS, as offsets; of 32 bits and of 16. */
struct layout {
    uint8_t limit;    /* the smallest */
    uint8_t word;     /* size of a register */
    uint8_t ip;       /* IP, FLAGS, AX … DI, then the segments */
    uint8_t segments; /* ES CS SS DS (FS GS) */
    uint8_t count;    /* of segments */
    uint8_t ldt;
};
static const struct layout layouts[2] = {{0x2b, 2, 0x0e, 0x22, 4, 0x2a},
                                         {0x67, 4, 0x20, 0x48, 6, 0x60}};

enum { TSS_CR3 = 0x1c, TSS_TRAP = 0x64, VECTOR_PF = 14, DR6_BT = 1 << 15 };

struct task {
    const struct layout *layout;
    unsigned ext; /* bit 0 of the error codes */
    uint8_t image[0x68];
};

static uint32_t field(const struct task *task, unsigned at, unsigned size)
{
    uint32_t value = 0;

    __builtin_memcpy(&value, task->image + at, size);
    return value;
}

static void set_field(struct task *task, unsigned at, uint64_t value, unsigned size)
{
    __builtin_memcpy(task->image + at, &value, size);
}

/* Registers and selectors of the old task, from its instruction pointer on. */
static enum insn_result save(struct exec *exec, uint64_t rip, uint64_t flags)
{
    const struct insn_cpu *cpu = exec->cpu;
    const struct layout *layout = &layouts[cpu->tr.attributes >> 3 & 1];
    struct task old = {.layout = layout};
    unsigned word = layout->word, from = layout->ip;

    if (cpu->tr.limit < layout->limit)
        return raise_code(exec, VECTOR_TS, code_of(cpu->tr.selector));
    set_field(&old, from, rip, word);
    set_field(&old, from + word, flags, word);
    for (unsigned i = RAX; i <= RDI; i++)
        set_field(&old, from + (2 + i) * word, cpu->gpr[i], word);
    /* The words above selectors are reserved, and written as 0. */
    for (unsigned i = 0; i < layout->count; i++)
        set_field(&old, layout->segments + i * word, cpu->seg[i].selector, word);
    return move_block(exec, cpu->tr.base + from, old.image + from,
                      layout->segments + layout->count * word - from, true, INSN_ACCESS_SYSTEM);
}

static enum insn_result set_busy(struct exec *exec, const struct descriptor *tss, bool busy)
{
    uint32_t attributes = tss->seg.attributes & ~(uint32_t)AR_BUSY;

    return write_type(exec, tss, attributes | (busy ? AR_BUSY : 0));
}

static enum insn_result release_old(struct exec *exec)
{
    struct descriptor old;
    enum insn_result result = read_descriptor(exec, exec->cpu->tr.selector, VECTOR_TS, 0, &old);

    return result ? result : set_busy(exec, &old, false);
}

static enum insn_result load_task_ldt(struct exec *exec, uint16_t selector)
{
    struct descriptor descriptor;
    enum insn_result result;

    exec->ldtr = (struct insn_seg){.selector = selector, .attributes = AR_UNUSABLE};
    exec->segments |= 1u << STAGED_LDTR;
    if (is_null(selector))
        return INSN_OK;
    if (selector & 4)
        return raise_code(exec, VECTOR_TS, code_of(selector));
    result = read_descriptor(exec, selector, VECTOR_TS, 0, &descriptor);
    if (!result &&
        (system_type(&descriptor.seg) != TYPE_LDT || !(descriptor.seg.attributes & AR_PRESENT)))
        return raise_code(exec, VECTOR_TS, code_of(selector));
    exec->ldtr = descriptor.seg;
    return result;
}

static enum insn_result load_task_code(struct exec *exec, uint16_t selector, uint32_t ip)
{
    struct descriptor code;
    enum insn_result result;
    unsigned rpl = selector & 3;

    if (is_null(selector))
        return raise_code(exec, VECTOR_TS, 0);
    result = read_descriptor(exec, selector, VECTOR_TS, 0, &code);
    if (result)
        return result;
    if (!is_code(&code.seg) ||
        (code.seg.attributes & AR_CONFORMING ? dpl(&code.seg) > rpl : dpl(&code.seg) != rpl))
        return raise_code(exec, VECTOR_TS, code_of(selector));
    if (!(code.seg.attributes & AR_PRESENT))
        return raise_code(exec, VECTOR_NP, code_of(selector));
    return stage_code(exec, &code, ip, rpl, 0);
}

/* Before any is judged: the selectors are the new task's, and where CS cannot be had it is as it
 * was. */
static void load_selectors(struct exec *exec, const struct task *task, uint16_t *selectors)
{
    const struct layout *layout = task->layout;
    unsigned rpl;

    for (unsigned i = 0; i < INSN_SEGMENTS; i++)
        selectors[i] =
            i < layout->count ? (uint16_t)field(task, layout->segments + i * layout->word, 2) : 0;
    rpl = selectors[INSN_CS] & 3;
    for (unsigned i = 0; i < INSN_SEGMENTS; i++) {
        load_null(exec, i, selectors[i], rpl);
        if (i != INSN_CS)
            continue;
        exec->seg[i] = exec->cpu->seg[i];
        exec->seg[i].selector = selectors[i];
        exec->seg[i].attributes = (exec->seg[i].attributes & ~(uint32_t)AR_DPL) | rpl << 5;
    }
    exec->cpl = (uint8_t)rpl;
}

static enum insn_result load_segments(struct exec *exec, const struct task *task, uint32_t ip,
                                      uint16_t *selectors)
{
    enum insn_result result;

    if (exec->flags & FLAG_VM) {
        for (unsigned i = 0; i < INSN_SEGMENTS; i++)
            load_virtual(exec, i, selectors[i]);
        exec->rip = ip & 0xffff;
        exec->mode = INSN_16;
        exec->cpl = 3;
        return INSN_OK;
    }
    (void)task;
    result = load_task_code(exec, selectors[INSN_CS], ip);
    for (unsigned i = 0; i < INSN_SEGMENTS && !result; i++) {
        if (i == INSN_CS)
            continue;
        if (!is_null(selectors[i]))
            result = load_data(exec, i, selectors[i], VECTOR_TS);
        else if (i == INSN_SS)
            result = raise_code(exec, VECTOR_TS, 0);
    }
    return result;
}

/* The registers of the new task. */
static enum insn_result load(struct exec *exec, const struct task *task, bool nested)
{
    const struct layout *layout = task->layout;
    unsigned word = layout->word, from = layout->ip;
    uint64_t flags = field(task, from + word, word);
    const uint64_t known = 0x3f7fd5;
    uint16_t selectors[INSN_SEGMENTS];
    enum insn_result result;

    for (unsigned i = RAX; i <= RDI; i++)
        stage_gpr(exec, i, word == 2 ? 2 : 4, field(task, from + (2 + i) * word, word));
    exec->flags = (flags & known) | 2 | (nested ? FLAG_NT : 0);
    exec->rip = field(task, from, word);
    load_selectors(exec, task, selectors);
    result = load_task_ldt(exec, (uint16_t)field(task, layout->ldt, 2));
    return result ? result : load_segments(exec, task, field(task, from, word), selectors);
}

static enum insn_result push_error(struct exec *exec, unsigned size, uint32_t error)
{
    struct stack stack = {.seg = exec->seg[INSN_SS], .top = exec->value[RSP]};

    stack.width = stack.seg.attributes & AR_BIG ? 4 : 2;
    stack.flags = exec->cpl < 3 ? INSN_ACCESS_SYSTEM : 0;
    if (push_on(exec, &stack, error, size))
        return INSN_FAULT;
    stage_stack(exec, &stack);
    return INSN_OK;
}

static bool new_cr3(const struct exec *exec, const struct task *task)
{
    return task->layout->word == 4 && (exec->cpu->cr0 >> 31 & 1) &&
           field(task, TSS_CR3, 4) != (uint32_t)exec->cpu->cr3;
}

static enum insn_result read_task(struct exec *exec, const struct descriptor *tss,
                                  struct task *task)
{
    enum insn_result result;

    task->layout = &layouts[tss->seg.attributes >> 3 & 1];
    if (tss->seg.limit < task->layout->limit)
        return raise_code(exec, VECTOR_TS, code_of(tss->seg.selector));
    result = move_block(exec, tss->seg.base, task->image, task->layout->limit + 1u, false,
                        INSN_ACCESS_SYSTEM);
    if (!result && new_cr3(exec, task) && !exec->ops->task_cr3)
        return INSN_UNSUPPORTED;
    return result;
}

/* From here on the new task's. */
static enum insn_result enter_task(struct exec *exec, const struct task *task, bool nested,
                                   const uint32_t *error)
{
    enum insn_result result = INSN_OK;

    exec->committed = true;
    if (new_cr3(exec, task)) {
        exec->cpu->cr3 = field(task, TSS_CR3, 4);
        result = exec->ops->task_cr3(exec->context, exec->cpu->cr3, exec->fault) == INSN_ACCESS_OK
                     ? INSN_OK
                     : INSN_FAULT;
    }
    if (!result)
        result = load(exec, task, nested);
    if (!result && error)
        result = push_error(exec, task->layout->word, *error);
    if (result == INSN_FAULT && exec->fault->has_error_code && exec->fault->vector != VECTOR_PF)
        exec->fault->error_code |= task->ext;
    if (result || task->layout->word == 2 || !(field(task, TSS_TRAP, 2) & 1))
        return result;
    *exec->fault = (struct insn_fault){.vector = VECTOR_DB, .address = DR6_BT};
    return INSN_FAULT;
}

enum insn_result task_switch(struct exec *exec, struct descriptor *tss, uint16_t selector,
                             enum task_source source, uint64_t rip, unsigned ext,
                             const uint32_t *error)
{
    bool nested = source == TASK_CALL || source == TASK_GATE;
    uint64_t flags = exec->cpu->rflags & ~(uint64_t)(source == TASK_IRET ? FLAG_NT : 0);
    uint16_t link = exec->cpu->tr.selector;
    struct task task = {.ext = ext};
    enum insn_result result = read_task(exec, tss, &task);

    if (result)
        return result;
    tss->seg.selector = selector;
    if (source == TASK_JMP || source == TASK_IRET)
        result = release_old(exec);
    if (!result)
        result = save(exec, rip, flags);
    if (!result && nested)
        result = write_memory(exec, tss->seg.base, &link, 2, INSN_ACCESS_SYSTEM);
    if (!result && source != TASK_IRET)
        result = set_busy(exec, tss, true);
    if (result)
        return result;
    exec->tr = tss->seg;
    exec->tr.attributes |= AR_BUSY;
    exec->segments |= 1u << STAGED_TR;
    exec->task_switched = true;
    return enter_task(exec, &task, nested, error);
}

/* The TSS descriptor behind a task gate or a back link. */
enum insn_result task_by_gate(struct exec *exec, uint16_t selector, enum task_source source,
                              uint64_t rip, unsigned ext, const uint32_t *error)
{
    unsigned vector = source == TASK_IRET ? VECTOR_TS : VECTOR_GP;
    struct descriptor tss;
    enum insn_result result;
    unsigned type;
    bool busy;

    if (selector & 4 || is_null(selector))
        return raise_code(exec, vector, code_of(selector) | ext);
    result = read_descriptor(exec, selector, vector, ext, &tss);
    if (result)
        return result;
    type = system_type(&tss.seg);
    busy = type & AR_BUSY;
    if (((type & ~(unsigned)AR_BUSY) != TYPE_TSS && (type & ~(unsigned)AR_BUSY) != TYPE_TSS_16) ||
        busy != (source == TASK_IRET))
        return raise_code(exec, vector, code_of(selector) | ext);
    if (!(tss.seg.attributes & AR_PRESENT))
        return raise_code(exec, VECTOR_NP, code_of(selector) | ext);
    return task_switch(exec, &tss, selector, source, rip, ext, error);
}

/* IRET with NT: to the task that the TSS links to. */
enum insn_result task_return(struct exec *exec)
{
    uint16_t link;
    enum insn_result result = read_memory(exec, exec->cpu->tr.base, &link, 2, INSN_ACCESS_SYSTEM);

    return result ? result : task_by_gate(exec, link, TASK_IRET, exec->rip, 0, NULL);
}
