/* SPDX-License-Identifier: BSD-2-Clause */
/* What the loader says: memory, modules, command line (Multiboot Specification 0.6.96, "Boot
 * information format"). Everything but the modules' contents is copied, because loaders like to
 * put it into the memory below 1 MiB where start-up code of other processors goes. */
#include "internal.h"

#define MULTIBOOT_MAGIC  0x2badb002
#define HAS_MEMORY_SIZES (1u << 0)
#define HAS_COMMAND_LINE (1u << 2)
#define HAS_MODULES      (1u << 3)
#define HAS_MEMORY_MAP   (1u << 6)
#define HAS_LOADER_NAME  (1u << 9)
#define MEMORY_USABLE    1
#define MAX_MEMORY       64
#define MAX_MODULES      64
#define TEXT_SIZE        16384

struct multiboot_info {
    uint32_t flags;
    uint32_t mem_lower, mem_upper; /* KiB below 640 KiB and above 1 MiB */
    uint32_t boot_device;
    uint32_t cmdline;
    uint32_t mods_count, mods_addr;
    uint32_t syms[4];
    uint32_t mmap_length, mmap_addr;
    uint32_t drives_length, drives_addr;
    uint32_t config_table;
    uint32_t boot_loader_name;
};

struct multiboot_module {
    uint32_t start, end, string, reserved;
};

struct multiboot_memory {
    uint32_t size; /* of the entry without this field */
    uint64_t start, length;
    uint32_t type;
} __attribute__((packed));

static struct bare_memory memory[MAX_MEMORY];
static unsigned memory_count;
static struct bare_module modules[MAX_MODULES];
static unsigned module_count;
static char text_pool[TEXT_SIZE];
static size_t text_used;
static const char *command_line = "", *command_words = "";
static size_t command_size;

static const void *at(uint32_t address)
{
    return (const void *)(uintptr_t)address;
}

static const char *copy_text(const char *text)
{
    const char *copy = text_pool + text_used;

    while (*text != '\0' && text_used < TEXT_SIZE - 1)
        text_pool[text_used++] = *text++;
    if (text_used < TEXT_SIZE - 1)
        text_pool[text_used++] = '\0';
    return copy;
}

/* QEMU begins the command line and each module's string with a file name; GRUB does not. */
static const char *copy_arguments(uint32_t address, bool skip_name)
{
    const char *text = address != 0 ? at(address) : "";

    if (skip_name) {
        while (*text != '\0' && *text != ' ')
            text++;
        if (*text == ' ')
            text++;
    }
    return copy_text(text);
}

static void add_memory(uint64_t start, uint64_t size, bool usable)
{
    if (memory_count < MAX_MEMORY && size > 0)
        memory[memory_count++] = (struct bare_memory){start, size, usable};
}

static void read_memory(const struct multiboot_info *info)
{
    if (info->flags & HAS_MEMORY_MAP) {
        uint32_t offset = 0;
        while (offset < info->mmap_length) {
            const struct multiboot_memory *entry = at(info->mmap_addr + offset);
            add_memory(entry->start, entry->length, entry->type == MEMORY_USABLE);
            offset += entry->size + (uint32_t)sizeof(entry->size);
        }
    } else if (info->flags & HAS_MEMORY_SIZES) {
        add_memory(0, (uint64_t)info->mem_lower << 10, true);
        add_memory(0x100000, (uint64_t)info->mem_upper << 10, true);
    }
}

static void read_modules(const struct multiboot_info *info, bool skip_name)
{
    const struct multiboot_module *list = at(info->mods_addr);

    for (uint32_t i = 0; i < info->mods_count && module_count < MAX_MODULES; i++) {
        modules[module_count++] = (struct bare_module){
            .start = at(list[i].start),
            .size = list[i].end - list[i].start,
            .string = copy_arguments(list[i].string, skip_name),
        };
    }
}

/* A second copy of the command line with a null in place of each space. */
static void split_command_line(void)
{
    char *words = text_pool + text_used;

    command_words = copy_text(command_line);
    command_size = (size_t)(text_pool + text_used - words);
    for (size_t i = 0; i < command_size; i++) {
        if (words[i] == ' ')
            words[i] = '\0';
    }
}

void bare_bootinfo_init(uint32_t magic, uint32_t address)
{
    const struct multiboot_info *info = at(address);
    bool skip_name = false;

    if (magic != MULTIBOOT_MAGIC || address == 0)
        return;
    if ((info->flags & HAS_LOADER_NAME) && info->boot_loader_name != 0)
        skip_name = memcmp(at(info->boot_loader_name), "qemu", 5) == 0;
    read_memory(info);
    if (info->flags & HAS_COMMAND_LINE) {
        command_line = copy_arguments(info->cmdline, skip_name);
        split_command_line();
    }
    if (info->flags & HAS_MODULES)
        read_modules(info, skip_name);
}

unsigned bare_memory_count(void)
{
    return memory_count;
}

const struct bare_memory *bare_memory_get(unsigned index)
{
    return index < memory_count ? &memory[index] : NULL;
}

unsigned bare_module_count(void)
{
    return module_count;
}

const struct bare_module *bare_module_get(unsigned index)
{
    return index < module_count ? &modules[index] : NULL;
}

/* The length of `name` if `text` begins with it, else 0. */
static size_t begins_with(const char *text, const char *name)
{
    size_t length = 0;

    while (name[length] != '\0' && text[length] == name[length])
        length++;
    return name[length] == '\0' ? length : 0;
}

const struct bare_module *bare_module_find(const char *string)
{
    for (unsigned i = 0; i < module_count; i++) {
        size_t length = begins_with(modules[i].string, string);
        if (length > 0 && (modules[i].string[length] == '\0' || modules[i].string[length] == ' '))
            return &modules[i];
    }
    return NULL;
}

const char *bare_command_line(void)
{
    return command_line;
}

const char *bare_option(const char *name)
{
    const char *word = command_words, *end = command_words + command_size;

    while (word < end) {
        size_t length = begins_with(word, name);
        if (length > 0 && word[length] == '\0')
            return word + length;
        if (length > 0 && word[length] == '=')
            return word + length + 1;
        while (word < end && *word != '\0')
            word++;
        word++;
    }
    return NULL;
}

uint64_t bare_option_u64(const char *name, uint64_t otherwise)
{
    const char *text = bare_option(name);
    uint64_t value = 0, base = 10;

    if (text == NULL || *text == '\0')
        return otherwise;
    if (text[0] == '0' && (text[1] | 0x20) == 'x') {
        base = 16;
        text += 2;
    }
    do {
        uint64_t digit = (uint64_t)*text - '0';
        if (digit > 9)
            digit = ((uint64_t)*text | 0x20) - 'a' + 10;
        if (digit >= base)
            return otherwise;
        value = value * base + digit;
    } while (*++text != '\0');
    return value;
}
