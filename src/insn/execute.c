/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The executor's frame: dispatch, the replay log through which every access goes, faults, and
 * committing what was staged.
 */
#include "insn/exec.h"

enum insn_result raise(struct exec *exec, unsigned vector)
{
    *exec->fault = (struct insn_fault){.vector = (uint8_t)vector};
    return INSN_FAULT;
}

enum insn_result raise_code(struct exec *exec, unsigned vector, uint32_t code)
{
    /* Real mode pushes no error codes (Intel SDM, "Real-Address Mode: Interrupt and Exception"). */
    bool has_code = !real_mode(exec->cpu);

    *exec->fault = (struct insn_fault){
        .vector = (uint8_t)vector, .has_error_code = has_code, .error_code = has_code ? code : 0};
    return INSN_FAULT;
}

/* Find the log entry of the next access or open one; NULL if the log is full or does not match. */
static struct insn_access *next_access(struct exec *exec, unsigned kind, uint64_t address,
                                       unsigned size)
{
    struct insn_replay *replay = exec->replay;
    struct insn_access *access;

    if (exec->position >= INSN_REPLAY_MAX || replay->count > INSN_REPLAY_MAX)
        return NULL;
    access = &replay->access[exec->position++];
    if (exec->position <= replay->count)
        return access->kind == kind && access->address == address && access->size == size ? access
                                                                                          : NULL;
    access->address = address;
    access->kind = (uint8_t)kind;
    access->size = (uint8_t)size;
    access->done = 0;
    replay->count = exec->position;
    return access;
}

/* What an access answered, as a result; a finished one is marked in the log. */
static enum insn_result accessed(struct insn_access *access, enum insn_access_result result)
{
    switch (result) {
    case INSN_ACCESS_OK:
        access->done = 1;
        return INSN_OK;
    case INSN_ACCESS_PENDING:
        return INSN_PENDING;
    case INSN_ACCESS_RACED:
        return INSN_AGAIN;
    default:
        return INSN_FAULT;
    }
}

static void copy(void *to, const void *from, unsigned size)
{
    __builtin_memcpy(to, from, size);
}

enum insn_result read_memory(struct exec *exec, uint64_t linear, void *data, unsigned size,
                             unsigned flags)
{
    struct insn_access *access = next_access(exec, INSN_ACCESS_READ, linear, size);
    enum insn_result result = INSN_OK;

    if (!access)
        return INSN_UNSUPPORTED;
    if (!access->done)
        result = accessed(
            access, exec->ops->read(exec->context, linear, access->data, size, flags, exec->fault));
    if (result == INSN_OK)
        copy(data, access->data, size);
    return result;
}

enum insn_result write_memory(struct exec *exec, uint64_t linear, const void *data, unsigned size,
                              unsigned flags)
{
    struct insn_access *access = next_access(exec, INSN_ACCESS_WRITE, linear, size);

    if (!access)
        return INSN_UNSUPPORTED;
    if (access->done)
        return INSN_OK;
    copy(access->data, data, size);
    return accessed(
        access, exec->ops->write(exec->context, linear, access->data, size, flags, exec->fault));
}

enum insn_result move_block(struct exec *exec, uint64_t linear, void *data, unsigned size,
                            bool write, unsigned flags)
{
    enum { PIECE = 16 };
    uint8_t *bytes = data;
    enum insn_result result = INSN_OK;

    for (unsigned at = 0; at < size && !result; at += PIECE) {
        unsigned piece = size - at < PIECE ? size - at : PIECE;

        result = write ? write_memory(exec, linear + at, bytes + at, piece, flags)
                       : read_memory(exec, linear + at, bytes + at, piece, flags);
    }
    return result;
}

enum insn_result log_value(struct exec *exec, unsigned address, void *data, unsigned size)
{
    struct insn_access *access = next_access(exec, INSN_ACCESS_REGISTER, address, size);

    if (!access)
        return INSN_UNSUPPORTED;
    copy(access->done ? data : access->data, access->done ? access->data : data, size);
    access->done = 1;
    return INSN_OK;
}

/* INSN_AGAIN: raced, expected holds what is there, and the read before it now says so too. */
enum insn_result compare_exchange(struct exec *exec, uint64_t linear, void *expected,
                                  const void *desired, unsigned size)
{
    struct insn_access *access = next_access(exec, INSN_ACCESS_COMPARE_EXCHANGE, linear, size);
    enum insn_result result;

    if (!access)
        return INSN_UNSUPPORTED;
    if (access->done)
        return INSN_OK;
    copy(access->data, desired, size);
    result =
        accessed(access, exec->ops->compare_exchange(exec->context, linear, expected, access->data,
                                                     size, INSN_ACCESS_LOCKED, exec->fault));
    if (result == INSN_AGAIN) {
        exec->position--;
        exec->replay->count--;
        copy(exec->replay->access[exec->position - 1].data, expected, size);
    }
    return result;
}

/* May be repeated, and what is not RAM is taken to be writable: so it is not logged. */
enum insn_result probe_write(struct exec *exec, uint64_t linear, unsigned size)
{
    enum insn_access_result result =
        exec->ops->write(exec->context, linear, NULL, size, INSN_ACCESS_PROBE, exec->fault);

    return result == INSN_ACCESS_FAULT ? INSN_FAULT : INSN_OK;
}

enum insn_result port_in(struct exec *exec, uint16_t port, void *data, unsigned size)
{
    struct insn_access *access = next_access(exec, INSN_ACCESS_IN, port, size);
    enum insn_result result = INSN_OK;

    if (!access)
        return INSN_UNSUPPORTED;
    if (!access->done)
        result =
            accessed(access, exec->ops->in(exec->context, port, access->data, size, exec->fault));
    if (result == INSN_OK)
        copy(data, access->data, size);
    return result;
}

enum insn_result port_out(struct exec *exec, uint16_t port, const void *data, unsigned size)
{
    struct insn_access *access = next_access(exec, INSN_ACCESS_OUT, port, size);

    if (!access)
        return INSN_UNSUPPORTED;
    if (access->done)
        return INSN_OK;
    copy(access->data, data, size);
    return accessed(access, exec->ops->out(exec->context, port, access->data, size, exec->fault));
}

/* Let what was staged become the state of the CPU, and forget the accesses that led to it. */
void commit(struct exec *exec)
{
    struct insn_cpu *cpu = exec->cpu;
    unsigned written = exec->written;

    while (written) {
        unsigned reg = (unsigned)__builtin_ctz(written);

        cpu->gpr[reg] = exec->value[reg];
        written &= written - 1;
    }
    for (unsigned i = 0; exec->segments >> i; i++) {
        if (!(exec->segments >> i & 1))
            continue;
        if (i < INSN_SEGMENTS)
            cpu->seg[i] = exec->seg[i];
        else
            *(i == INSN_SEGMENTS ? &cpu->ldtr : &cpu->tr) =
                i == INSN_SEGMENTS ? exec->ldtr : exec->tr;
    }
    cpu->rflags = exec->flags;
    exec->written = 0;
    exec->segments = 0;
    exec->position = 0;
    exec->replay->count = 0;
}

static enum insn_result execute_nop(struct exec *exec)
{
    (void)exec;
    return INSN_OK;
}

/* Caches are coherent; what is left is the check of the address. */
static enum insn_result execute_flush(struct exec *exec)
{
    uint64_t linear;

    return operand_address(exec, 1, false, &linear);
}

static enum insn_result execute_undefined(struct exec *exec)
{
    return raise(exec, VECTOR_UD);
}

/* What is neither here nor in compute_of is not modelled. */
static const execute_fn functions[INSN_OP_COUNT] = {
    [INSN_OP_UNKNOWN] = execute_vector,
    [INSN_OP_NOP] = execute_nop,
    [INSN_OP_PAUSE] = execute_nop,
    [INSN_OP_FENCE] = execute_nop,
    [INSN_OP_UD] = execute_undefined,
    [INSN_OP_MOV] = execute_move,
    [INSN_OP_MOVZX] = execute_move,
    [INSN_OP_MOVSX] = execute_move,
    [INSN_OP_MOVBE] = execute_move,
    [INSN_OP_LEA] = execute_move,
    [INSN_OP_XLAT] = execute_xlat,
    [INSN_OP_CBW] = execute_convert,
    [INSN_OP_CWD] = execute_convert,
    [INSN_OP_CMOVCC] = execute_conditional,
    [INSN_OP_SETCC] = execute_conditional,
    [INSN_OP_CMPXCHG8B] = execute_cmpxchg8b,
    [INSN_OP_BSF] = execute_scan,
    [INSN_OP_BSR] = execute_scan,
    [INSN_OP_TZCNT] = execute_scan,
    [INSN_OP_LZCNT] = execute_scan,
    [INSN_OP_POPCNT] = execute_scan,
    [INSN_OP_CRC32] = execute_scan,
    [INSN_OP_MUL] = execute_multiply,
    [INSN_OP_IMUL] = execute_multiply,
    [INSN_OP_DIV] = execute_divide,
    [INSN_OP_IDIV] = execute_divide,
    [INSN_OP_AAA] = execute_bcd,
    [INSN_OP_AAS] = execute_bcd,
    [INSN_OP_AAM] = execute_bcd,
    [INSN_OP_AAD] = execute_bcd,
    [INSN_OP_DAA] = execute_bcd,
    [INSN_OP_DAS] = execute_bcd,
    [INSN_OP_SALC] = execute_bcd,
    [INSN_OP_LAHF] = execute_flags,
    [INSN_OP_SAHF] = execute_flags,
    [INSN_OP_CLC] = execute_flags,
    [INSN_OP_STC] = execute_flags,
    [INSN_OP_CMC] = execute_flags,
    [INSN_OP_CLD] = execute_flags,
    [INSN_OP_STD] = execute_flags,
    [INSN_OP_CLI] = execute_flags,
    [INSN_OP_STI] = execute_flags,
    [INSN_OP_PUSHF] = execute_flags,
    [INSN_OP_POPF] = execute_flags,
    [INSN_OP_MOVS] = execute_string,
    [INSN_OP_CMPS] = execute_string,
    [INSN_OP_STOS] = execute_string,
    [INSN_OP_LODS] = execute_string,
    [INSN_OP_SCAS] = execute_string,
    [INSN_OP_INS] = execute_string,
    [INSN_OP_OUTS] = execute_string,
    [INSN_OP_IN] = execute_io,
    [INSN_OP_OUT] = execute_io,
    [INSN_OP_PUSH] = execute_push,
    [INSN_OP_PUSH_SEG] = execute_push,
    [INSN_OP_PUSHA] = execute_push,
    [INSN_OP_POP] = execute_pop,
    [INSN_OP_POP_SEG] = execute_pop,
    [INSN_OP_POPA] = execute_pop,
    [INSN_OP_ENTER] = execute_frame,
    [INSN_OP_LEAVE] = execute_frame,
    [INSN_OP_JMP] = execute_branch,
    [INSN_OP_JCC] = execute_branch,
    [INSN_OP_CALL] = execute_branch,
    [INSN_OP_RET] = execute_branch,
    [INSN_OP_LOOP] = execute_branch,
    [INSN_OP_LOOPE] = execute_branch,
    [INSN_OP_LOOPNE] = execute_branch,
    [INSN_OP_JCXZ] = execute_branch,
    [INSN_OP_JMP_FAR] = execute_far,
    [INSN_OP_CALL_FAR] = execute_far,
    [INSN_OP_RET_FAR] = execute_far,
    [INSN_OP_IRET] = execute_far,
    [INSN_OP_INT] = execute_interrupt,
    [INSN_OP_INT3] = execute_interrupt,
    [INSN_OP_INT1] = execute_interrupt,
    [INSN_OP_INTO] = execute_interrupt,
    [INSN_OP_BOUND] = execute_interrupt,
    [INSN_OP_MOV_SEG] = execute_segment,
    [INSN_OP_LFP] = execute_segment,
    [INSN_OP_LAR] = execute_descriptor,
    [INSN_OP_LSL] = execute_descriptor,
    [INSN_OP_VERR] = execute_descriptor,
    [INSN_OP_VERW] = execute_descriptor,
    [INSN_OP_ARPL] = execute_descriptor,
    [INSN_OP_SLDT] = execute_descriptor,
    [INSN_OP_STR] = execute_descriptor,
    [INSN_OP_LLDT] = execute_descriptor,
    [INSN_OP_LTR] = execute_descriptor,
    [INSN_OP_SGDT] = execute_table,
    [INSN_OP_SIDT] = execute_table,
    [INSN_OP_LGDT] = execute_table,
    [INSN_OP_LIDT] = execute_table,
    [INSN_OP_SMSW] = execute_table,
    [INSN_OP_VMRUN] = execute_virtualization,
    [INSN_OP_VMLOAD] = execute_virtualization,
    [INSN_OP_VMSAVE] = execute_virtualization,
    [INSN_OP_STGI] = execute_virtualization,
    [INSN_OP_CLGI] = execute_virtualization,
    [INSN_OP_SKINIT] = execute_virtualization,
    [INSN_OP_INVLPGA] = execute_virtualization,
    [INSN_OP_VMLAUNCH] = execute_virtualization,
    [INSN_OP_VMRESUME] = execute_virtualization,
    [INSN_OP_VMXOFF] = execute_virtualization,
    [INSN_OP_VMXON] = execute_virtualization,
    [INSN_OP_VMCLEAR] = execute_virtualization,
    [INSN_OP_VMPTRLD] = execute_virtualization,
    [INSN_OP_VMPTRST] = execute_virtualization,
    [INSN_OP_VMREAD] = execute_virtualization,
    [INSN_OP_VMWRITE] = execute_virtualization,
    [INSN_OP_VMFUNC] = execute_virtualization,
    [INSN_OP_INVEPT] = execute_virtualization,
    [INSN_OP_INVVPID] = execute_virtualization,
    [INSN_OP_RSM] = execute_virtualization,
    [INSN_OP_SYSCALL] = execute_system_call,
    [INSN_OP_SYSRET] = execute_system_call,
    [INSN_OP_SYSENTER] = execute_system_call,
    [INSN_OP_SYSEXIT] = execute_system_call,
    [INSN_OP_SWAPGS] = execute_segment_base,
    [INSN_OP_RDFSBASE] = execute_segment_base,
    [INSN_OP_RDGSBASE] = execute_segment_base,
    [INSN_OP_WRFSBASE] = execute_segment_base,
    [INSN_OP_WRGSBASE] = execute_segment_base,
    [INSN_OP_CLFLUSH] = execute_flush,
    [INSN_OP_CLAC] = execute_access_flag,
    [INSN_OP_STAC] = execute_access_flag,
    [INSN_OP_HLT] = execute_system,
    [INSN_OP_CPUID] = execute_system,
    [INSN_OP_RDTSC] = execute_system,
    [INSN_OP_RDTSCP] = execute_system,
    [INSN_OP_RDPMC] = execute_system,
    [INSN_OP_RDPID] = execute_system,
    [INSN_OP_RDRAND] = execute_system,
    [INSN_OP_RDSEED] = execute_system,
    [INSN_OP_RDMSR] = execute_system,
    [INSN_OP_WRMSR] = execute_system,
    [INSN_OP_XGETBV] = execute_system,
    [INSN_OP_XSETBV] = execute_system,
    [INSN_OP_MOV_CR] = execute_system,
    [INSN_OP_MOV_DR] = execute_system,
    [INSN_OP_LMSW] = execute_system,
    [INSN_OP_CLTS] = execute_system,
    [INSN_OP_INVLPG] = execute_system,
    [INSN_OP_INVPCID] = execute_system,
    [INSN_OP_INVD] = execute_system,
    [INSN_OP_WBINVD] = execute_system,
    [INSN_OP_MONITOR] = execute_system,
    [INSN_OP_MWAIT] = execute_system,
    [INSN_OP_VMCALL] = execute_system,
    [INSN_OP_VMMCALL] = execute_system,
};

/* All but the staged values, which are written before they are read. */
static inline void begin(struct exec *exec, const struct insn *insn, struct insn_cpu *cpu,
                         const struct insn_ops *ops, void *context, struct insn_replay *replay,
                         struct insn_fault *fault)
{
    exec->insn = insn;
    exec->cpu = cpu;
    exec->ops = ops;
    exec->context = context;
    exec->replay = replay;
    exec->fault = fault;
    exec->position = 0;
    exec->iterations = 1;
    exec->rip = cpu->rip;
    exec->flags = cpu->rflags;
    exec->written = 0;
    exec->segments = 0;
    exec->shadow = INSN_SHADOW_NONE;
    exec->mode = cpu->mode;
    exec->cpl = cpu->cpl;
    exec->task_switched = false;
    exec->committed = false;
}

static inline enum insn_result end(struct exec *exec, enum insn_result result)
{
    if (result == INSN_OK || (exec->committed && result == INSN_FAULT)) {
        commit(exec);
        exec->cpu->rip = exec->rip;
        exec->cpu->shadow = exec->shadow;
        exec->cpu->mode = exec->mode;
        exec->cpu->cpl = exec->cpl;
        if (exec->task_switched) {
            exec->cpu->cr0 |= CR0_TS;
            exec->cpu->task_switched = true;
        }
    } else if (result != INSN_PENDING) {
        exec->replay->count = 0;
    }
    return result;
}

enum insn_result insn_execute(const struct insn *insn, struct insn_cpu *cpu,
                              const struct insn_ops *ops, void *context, struct insn_replay *replay,
                              unsigned iterations, struct insn_fault *fault)
{
    struct exec exec;
    compute_fn compute = compute_of(insn->op);
    execute_fn function = functions[insn->op];

    begin(&exec, insn, cpu, ops, context, replay, fault);
    exec.iterations = iterations ? iterations : 1;
    exec.rip = insn_advance((enum insn_mode)insn->mode, cpu->rip, insn->length);
    exec.flags &= ~(uint64_t)FLAG_RF;
    if (compute)
        return end(&exec, execute_modify(&exec, compute));
    return end(&exec, function ? function(&exec) : INSN_UNSUPPORTED);
}

enum insn_result insn_deliver(const struct insn_event *event, struct insn_cpu *cpu,
                              const struct insn_ops *ops, void *context, struct insn_replay *replay,
                              struct insn_fault *fault)
{
    const struct insn none = {.mode = cpu->mode, .operand_size = 2, .address_size = 2};
    struct exec exec;

    begin(&exec, &none, cpu, ops, context, replay, fault);
    return end(&exec, deliver(&exec, event, cpu->rip));
}
