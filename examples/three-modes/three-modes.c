/* SPDX-License-Identifier: BSD-2-Clause */
/* A 16-, a 32- and a 64-bit guest at the same time, in turns on one processor. All three run the same
 * nine bytes; each mode reads them in its own way and comes to another result. */
#include <virtx/virtx.h>
#include "bare.h"
#include "virtx_host.h"

/* 1: xor %ax, %ax; dec %ax; dec %ax; out %ax, $0xe9; jmp 1b      in 16-bit mode
 * 1: xor %eax, %eax; dec %eax; dec %eax; out %eax, $0xe9; jmp 1b  in 32-bit mode
 * 1: xor %eax, %eax; dec %rax; out %eax, $0xe9; jmp 1b            in 64-bit mode, where 0x48 is a prefix */
static const uint8_t program[] = {0x31, 0xc0, 0x48, 0xff, 0xc8, 0xe7, 0xe9, 0xeb, 0xf7};

enum { PROGRAM = 0x1000, TABLES = 0x2000, GUEST_BYTES = 0x5000, TURNS = 3 };

struct guest {
    const char *name;
    enum virtx_preset preset;
    uint32_t out_bytes; /* what OUT moves in this mode … */
    uint64_t rax;       /* … and what the program has computed */
    struct virtx_vcpu *vcpu;
};

static struct guest guests[] = {
    {"16-bit", VIRTX_PRESET_REAL, 2, 0xfffe, NULL},
    {"32-bit", VIRTX_PRESET_FLAT32, 4, 0xfffffffe, NULL},
    {"64-bit", VIRTX_PRESET_FLAT64, 4, 0xffffffffffffffff, NULL},
};

static const struct virtx_config config = {
    .size = sizeof(config),
    .max_cpus = BARE_MAX_CPUS,
    .ops = &bare_virtx_ops,
    .profile = &virtx_profile_bare,
    .backends = (const struct virtx_backend *const[]){&virtx_vmx, &virtx_svm, NULL},
    .paging = (const struct virtx_paging *const[]){&virtx_paging_nested, &virtx_paging_shadow, NULL},
};

static void must(enum virtx_status status)
{
    if (status != VIRTX_OK)
        bare_panic("%s", virtx_status_text(status));
}

/* A VM with a few pages of memory and one vcpu, about to run the program. */
static void create(struct virtx *virtx, struct guest *guest)
{
    struct virtx_memslot_config memory = {.size = sizeof(memory),
                                          .type = VIRTX_MEMORY_WB,
                                          .rights = VIRTX_READ | VIRTX_WRITE | VIRTX_EXECUTE,
                                          .bytes = GUEST_BYTES,
                                          .memory = bare_pages_alloc(GUEST_BYTES / 4096, 1)};
    uint64_t *tables = (uint64_t *)memory.memory + TABLES / 8;
    struct virtx_memslot *slot;
    struct virtx_state state;
    struct virtx_vm *vm;

    memset(memory.memory, 0, GUEST_BYTES);
    tables[0] = (TABLES + 0x1000) | 3; /* for the 64-bit guest: 2 MiB at address 0 */
    tables[512] = (TABLES + 0x2000) | 3;
    tables[1024] = 0x83;
    memcpy((char *)memory.memory + PROGRAM, program, sizeof(program));
    must(virtx_vm_create(virtx, NULL, &vm));
    must(virtx_memslot_add(vm, &memory, &slot));
    must(virtx_vcpu_create(vm, 0, &guest->vcpu));
    must(virtx_vcpu_reset(guest->vcpu, guest->preset));
    must(virtx_vcpu_get(guest->vcpu, VIRTX_STATE_CR, &state));
    state.cr3 = guest->preset == VIRTX_PRESET_FLAT64 ? TABLES : 0;
    state.rip = PROGRAM;
    must(virtx_vcpu_set(guest->vcpu, VIRTX_STATE_RIP | VIRTX_STATE_CR, &state));
}

/* Runs the guest until it tells its result; whether that is what its mode makes of the program. */
static bool take_turn(struct guest *guest)
{
    const struct virtx_exit *exit;
    struct virtx_state state;
    uint32_t bytes;

    must(virtx_vcpu_run(guest->vcpu, &exit));
    if (exit->reason != VIRTX_EXIT_IO || exit->io.port != 0xe9) {
        bare_printf("%s: %s\n", guest->name, virtx_exit_name(exit->reason));
        return false;
    }
    bytes = exit->io.size;
    must(virtx_vcpu_complete(guest->vcpu, NULL));
    must(virtx_vcpu_get(guest->vcpu, VIRTX_STATE_GPR, &state));
    bare_printf("%s guest: rax %lx, told in %u bytes\n", guest->name, state.gpr[VIRTX_RAX], bytes);
    return state.gpr[VIRTX_RAX] == guest->rax && bytes == guest->out_bytes;
}

int bare_main(void)
{
    struct virtx *virtx;

    must(virtx_open(&config, &virtx, NULL));
    must(virtx_cpu_enable(virtx));
    for (unsigned i = 0; i < 3; i++)
        create(virtx, &guests[i]);
    for (unsigned turn = 0; turn < 3 * TURNS; turn++)
        if (!take_turn(&guests[turn % 3]))
            return 1;
    return 0;
}
