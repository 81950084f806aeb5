/* SPDX-License-Identifier: BSD-2-Clause */
/* The first guest: it prints a line through a port and halts. One source for Intel and AMD. */
#include <virtx/virtx.h>
#include "bare.h"
#include "virtx_host.h"

/* The guest's program: 64-bit code that works wherever it is copied to. */
__asm__(".section .rodata\n"
        "guest: leaq text(%rip), %rsi\n"
        "1: lodsb; testb %al, %al; jz 2f; outb %al, $0xe9; jmp 1b\n"
        "2: hlt\n"
        "text: .asciz \"Hello from the guest\\r\\n\"\n"
        "guest_end: .text\n");
extern const char guest[], guest_end[];

enum { TABLES = 0x1000, PROGRAM = 0x4000, GUEST_BYTES = 0x5000 };

static const struct virtx_config config = {
    .size = sizeof(config),
    .max_cpus = BARE_MAX_CPUS,
    .ops = &bare_virtx_ops,
    .profile = &virtx_profile_bare,
    .backends = (const struct virtx_backend *const[]){&virtx_vmx, &virtx_svm, NULL},
    .paging = (const struct virtx_paging *const[]){&virtx_paging_nested, NULL},
};

static void must(enum virtx_status status)
{
    if (status != VIRTX_OK)
        bare_panic("%s", virtx_status_text(status));
}

int bare_main(void)
{
    struct virtx_memslot_config memory = {.size = sizeof(memory),
                                          .type = VIRTX_MEMORY_WB,
                                          .rights = VIRTX_READ | VIRTX_WRITE | VIRTX_EXECUTE,
                                          .bytes = GUEST_BYTES,
                                          .memory = bare_pages_alloc(GUEST_BYTES / 4096, 1)};
    uint64_t *tables = (uint64_t *)memory.memory + TABLES / 8;
    struct virtx_state state;
    const struct virtx_exit *exit;
    struct virtx_memslot *slot;
    struct virtx_vcpu *vcpu;
    struct virtx_vm *vm;
    struct virtx *virtx;

    memset(memory.memory, 0, GUEST_BYTES);
    tables[0] = (TABLES + 0x1000) | 3; /* levels 4, 3 and 2, where one entry maps 2 MiB */
    tables[512] = (TABLES + 0x2000) | 3;
    tables[1024] = 0x83;
    memcpy((char *)memory.memory + PROGRAM, guest, (size_t)(guest_end - guest));
    must(virtx_open(&config, &virtx, NULL));
    must(virtx_cpu_enable(virtx));
    must(virtx_vm_create(virtx, NULL, &vm));
    must(virtx_memslot_add(vm, &memory, &slot));
    must(virtx_vcpu_create(vm, 0, &vcpu));
    must(virtx_vcpu_reset(vcpu, VIRTX_PRESET_FLAT64));
    must(virtx_vcpu_get(vcpu, VIRTX_STATE_CR, &state));
    state.cr3 = TABLES;
    state.rip = PROGRAM;
    must(virtx_vcpu_set(vcpu, VIRTX_STATE_RIP | VIRTX_STATE_CR, &state));
    while (must(virtx_vcpu_run(vcpu, &exit)), exit->reason == VIRTX_EXIT_IO)
        bare_com1_write(&exit->io.value, exit->io.size);
    bare_printf("%s on %s\n", virtx_exit_name(exit->reason), virtx_caps(virtx)->backend);
    return exit->reason == VIRTX_EXIT_HLT ? 0 : 1;
}
