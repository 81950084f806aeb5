/* SPDX-License-Identifier: BSD-2-Clause */
/* A multiboot kernel that does what its command line says, and exits with 0x2a when all was well
 * or 0x3f when a check failed. */
#include "kernel.h"

const struct boot_info *boot_info;

static _Noreturn void halt(void)
{
    for (;;)
        __asm__ volatile("cli; hlt");
}

void triple_fault(void)
{
    struct {
        uint16_t limit;
        uintptr_t base;
    } __attribute__((packed)) none = {0, 0};

    __asm__ volatile("lidt %0; ud2" : : "m"(none));
    __builtin_unreachable();
}

static void exit_with(const char *value)
{
    switch (*value) {
    case 'b': /* byte, word: the rest of the register does not count */
        out8(0xf4, (uint8_t)number(value + 1));
        break;
    case 'w':
        out16(0xf4, (uint16_t)number(value + 1));
        break;
    default:
        out32(0xf4, number(value));
    }
    halt();
}

static void run(const char *line)
{
    const char *value = find_word(line, "exit"), *way = find_word(line, "reboot");

    if (value)
        exit_with(value);
    if (way)
        test_reboot(way);
    else if (find_word(line, "info"))
        show_information();
    else if (find_word(line, "check"))
        check_information(line);
    else if (find_word(line, "halt"))
        halt();
    else if (find_word(line, "triple"))
        triple_fault();
    else if (find_word(line, "spin"))
        for (;;)
            ;
    else if (find_word(line, "reset"))
        out8(0xcf9, 6);
    else if (find_word(line, "off"))
        power_off();
    else if (find_word(line, "ports"))
        test_ports();
    else if (find_word(line, "memory-holes"))
        test_memory();
    else if (find_word(line, "bios-timer"))
        test_bios_timer();
    else if (find_word(line, "pit"))
        test_pit();
    else if (find_word(line, "lapic"))
        test_lapic();
    else if (find_word(line, "rtc"))
        test_rtc();
    else if (find_word(line, "rtc-irq"))
        test_rtc_interrupts();
    else if (find_word(line, "echo"))
        test_echo(false);
    else if (find_word(line, "echo-irq"))
        test_echo(true);
    else
        failed(__func__, __LINE__, "no such test");
}

/* Multiboot2 Specification 2.0, "Boot information format": the tag of this type. */
static const uint32_t *tag_2(uint32_t type)
{
    const uint32_t *info = at(boot_state.info);

    REQUIRE(boot_state.info % 8 == 0 && info[1] == 0);
    for (uint32_t at_byte = 8; at_byte < info[0];) {
        const uint32_t *tag = at(boot_state.info + at_byte);
        if (tag[0] == type)
            return tag;
        REQUIRE(tag[0] && tag[1] >= 8);
        at_byte += (tag[1] + 7) & ~7u;
    }
    failed(__func__, __LINE__, "a tag is missing");
}

/* What every kernel wants to know; the rest is the other version's test. */
static const char *check_multiboot2(void)
{
    const uint32_t *map = tag_2(6);
    uint64_t ram = 0;

    REQUIRE((boot_state.cr0 & 0x80000001) == 1 && !(boot_state.eflags & 0x20200));
    REQUIRE(boot_state.base == 0 && boot_state.a20);
    REQUIRE(map[2] == 24);
    for (uint32_t i = 4; i < map[1] / 4; i += 6)
        ram += map[i + 4] == 1 ? map[i + 2] | (uint64_t)map[i + 3] << 32 : 0;
    REQUIRE(ram > 4 << 20);
    REQUIRE(tag_2(15)[2] == 0x20445352); /* "RSD " */
    tag_2(0);
    return (const char *)(tag_2(1) + 2);
}

void kernel_main(void)
{
    if (boot_state.magic == 0x36d76289) {
        run(check_multiboot2());
    } else {
        boot_info = at(boot_state.info);
        REQUIRE(boot_state.magic == 0x2badb002);
        REQUIRE(boot_info->flags & 4);
        run(at(boot_info->cmdline));
    }
    print("passed\n");
    finish(0x2a);
}
