/* SPDX-License-Identifier: BSD-2-Clause */
/* The processors: what each one has of its own, starting them, giving them work. */
#include "internal.h"

#define CR4_OSFXSR     (1u << 9)
#define CR4_OSXMMEXCPT (1u << 10)
#define CR4_OSXSAVE    (1u << 18)
#define CPUID_1_FXSR   (1u << 24) /* EDX */
#define CPUID_1_SSE    (1u << 25) /* EDX */
#define CPUID_1_XSAVE  (1u << 26) /* ECX */
#define XCR0_AVX       7u         /* x87, SSE and AVX state */
#define STACK_PAGES    (BARE_STACK_BLOCK / BARE_PAGE_SIZE)
#define IST_COUNT      3
#define TRAMPOLINE     0x8000 /* where the start-up code goes if nothing is there */

struct cpu *bare_ap_cpu;
void *bare_ap_stack;

static struct cpu cpus[BARE_MAX_CPUS];
static unsigned cpu_count = 1;
static struct bare_lock start_lock;
static char *trampoline;

static void load_segments(struct cpu *cpu)
{
    uint64_t base = (uintptr_t)&cpu->tss;
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) pointer = {sizeof(cpu->gdt) - 1, (uintptr_t)cpu->gdt};

    cpu->gdt[SEL_CODE / 8] = 0x00af9b000000ffff;
    cpu->gdt[SEL_DATA / 8] = 0x00cf93000000ffff;
    cpu->gdt[SEL_TSS / 8] = (sizeof(cpu->tss) - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 |
                            (base >> 24 & 0xff) << 56;
    cpu->gdt[SEL_TSS / 8 + 1] = base >> 32;
    cpu->tss.io_map = sizeof(cpu->tss);
    __asm__ volatile("lgdt %0" : : "m"(pointer));
    __asm__ volatile("pushq %0\n"
                     "leaq 1f(%%rip), %%rax\n"
                     "pushq %%rax\n"
                     "lretq\n"
                     "1: movl %1, %%eax\n"
                     "movl %%eax, %%ds\n"
                     "movl %%eax, %%es\n"
                     "movl %%eax, %%ss\n"
                     "xorl %%eax, %%eax\n"
                     "movl %%eax, %%fs\n"
                     "movl %%eax, %%gs\n"
                     "movl %2, %%eax\n"
                     "ltr %%ax\n"
                     :
                     : "i"(SEL_CODE), "i"(SEL_DATA), "i"(SEL_TSS)
                     : "rax", "memory");
}

/* Not for the host, which uses no vector registers, but for guests and code that switches
 * them. */
static void enable_fpu(void)
{
    struct bare_cpuid features = bare_cpuid(1, 0);
    uint64_t cr4 = bare_read_cr4();

    if (features.edx & CPUID_1_FXSR)
        cr4 |= CR4_OSFXSR;
    if (features.edx & CPUID_1_SSE)
        cr4 |= CR4_OSXMMEXCPT;
    if (features.ecx & CPUID_1_XSAVE)
        cr4 |= CR4_OSXSAVE;
    bare_write_cr4(cr4);
    if (features.ecx & CPUID_1_XSAVE) {
        uint32_t xcr0 = bare_cpuid(13, 0).eax & XCR0_AVX;
        __asm__ volatile("xsetbv" : : "a"(xcr0), "d"(0), "c"(0));
    }
    __asm__ volatile("fninit");
}

/* A stack block: the index of the processor in the first page, then the IST stacks, a page each,
 * and the stack that everything else runs on. */
static void *prepare_stack(struct cpu *cpu, char *block)
{
    *(unsigned *)(void *)block = cpu->index;
    for (unsigned i = 0; i < IST_COUNT; i++)
        cpu->tss.ist[i] = (uintptr_t)block + (i + 2) * BARE_PAGE_SIZE;
    return block + BARE_STACK_BLOCK;
}

static void cpu_init(struct cpu *cpu)
{
    load_segments(cpu);
    bare_traps_load();
    enable_fpu();
    bare_apic_init();
}

void bare_cpu_init_first(void)
{
    prepare_stack(&cpus[0], bare_first_stack);
    cpus[0].state = CPU_BUSY;
    cpus[0].apic_id = bare_cpuid(1, 0).ebx >> 24;
    cpu_init(&cpus[0]);
}

void bare_cpus_find(void)
{
    uint32_t ids[BARE_MAX_CPUS];
    unsigned count = bare_apic_present() ? bare_firmware_processors(ids, BARE_MAX_CPUS) : 0;

    for (unsigned i = 0; i < count && cpu_count < BARE_MAX_CPUS; i++) {
        if (ids[i] == cpus[0].apic_id)
            continue;
        cpus[cpu_count].index = cpu_count;
        cpus[cpu_count].apic_id = ids[i];
        cpu_count++;
    }
}

unsigned bare_cpu_count(void)
{
    return cpu_count;
}

uint32_t bare_cpu_apic_id(unsigned cpu)
{
    return cpus[cpu < cpu_count ? cpu : 0].apic_id;
}

/* ---- On the processor that is started ---- */

_Noreturn void bare_start_other(struct cpu *cpu)
{
    cpu_init(cpu);
    __atomic_store_n(&cpu->state, CPU_IDLE, __ATOMIC_RELEASE);
    for (;;) {
        if (__atomic_load_n(&cpu->state, __ATOMIC_ACQUIRE) == CPU_BUSY) {
            cpu->fn(cpu->arg);
            bare_irq_disable();
            __atomic_store_n(&cpu->state, CPU_IDLE, __ATOMIC_RELEASE);
        }
        bare_irq_wait(); /* work that came since has left its wake-up interrupt pending */
    }
}

/* ---- On the processor that starts another ---- */

static bool trampoline_fits(uint64_t page)
{
    bool usable = false;

    for (unsigned i = 0; i < bare_memory_count(); i++) {
        const struct bare_memory *memory = bare_memory_get(i);
        if (memory->usable && memory->start <= page &&
            memory->start + memory->size >= page + BARE_PAGE_SIZE)
            usable = true;
    }
    for (unsigned i = 0; i < bare_module_count(); i++) {
        uint64_t start = (uintptr_t)bare_module_get(i)->start;
        if (start < page + BARE_PAGE_SIZE && start + bare_module_get(i)->size > page)
            usable = false;
    }
    return usable;
}

static bool place_trampoline(void)
{
    for (uint64_t page = TRAMPOLINE; trampoline == NULL && page < 0xa0000; page += BARE_PAGE_SIZE) {
        if (trampoline_fits(page)) {
            trampoline = (char *)(uintptr_t)page;
            memcpy(trampoline, bare_trampoline, (size_t)(bare_trampoline_end - bare_trampoline));
        }
    }
    return trampoline != NULL;
}

static bool wait_until_up(struct cpu *cpu, uint64_t microseconds)
{
    uint64_t ticks = bare_tsc_hz() / 1000000 * microseconds, start = bare_tsc();

    while (__atomic_load_n(&cpu->state, __ATOMIC_ACQUIRE) == CPU_OFF) {
        if (bare_tsc() - start > ticks)
            return false;
        bare_pause();
    }
    return true;
}

/* Intel SDM, "MP Initialization Protocol Algorithm for MP Systems". */
static bool start_cpu(struct cpu *cpu)
{
    char *stack = bare_pages_alloc(STACK_PAGES, STACK_PAGES);

    if (stack == NULL || !place_trampoline())
        return false;
    bare_ap_cpu = cpu;
    bare_ap_stack = prepare_stack(cpu, stack);
    uint32_t page = (uint32_t)(uintptr_t)trampoline >> 12;
    bare_apic_send(cpu->apic_id, ICR_INIT | ICR_ASSERT);
    bare_delay_us(10000);
    bare_apic_send(cpu->apic_id, ICR_STARTUP | ICR_ASSERT | page);
    if (wait_until_up(cpu, 200))
        return true;
    bare_apic_send(cpu->apic_id, ICR_STARTUP | ICR_ASSERT | page);
    return wait_until_up(cpu, 1000000);
}

bool bare_cpu_run(unsigned index, void (*fn)(void *arg), void *arg)
{
    struct cpu *cpu = &cpus[index < cpu_count ? index : 0];
    bool ready;

    if (cpu->index == 0 || cpu->index == bare_this_cpu())
        return false;
    bare_lock(&start_lock);
    ready = __atomic_load_n(&cpu->state, __ATOMIC_ACQUIRE) == CPU_OFF
                ? start_cpu(cpu)
                : __atomic_load_n(&cpu->state, __ATOMIC_ACQUIRE) == CPU_IDLE;
    if (ready) {
        cpu->fn = fn;
        cpu->arg = arg;
        __atomic_store_n(&cpu->state, CPU_BUSY, __ATOMIC_RELEASE);
        bare_ipi(index, BARE_VECTOR_WAKE);
    }
    bare_unlock(&start_lock);
    return ready;
}

void bare_cpu_wait(unsigned index)
{
    if (index == 0 || index >= cpu_count)
        return;
    while (__atomic_load_n(&cpus[index].state, __ATOMIC_ACQUIRE) == CPU_BUSY)
        bare_pause();
}
