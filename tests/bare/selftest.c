/* SPDX-License-Identifier: BSD-2-Clause */
/* The bare host tries itself out. Exit status: the number of failed checks (at most 90).
 *
 * Options: cpus=N and modules=N say what must be found; echo=N copies N bytes of COM1 input to
 * its output; exit=N ends with that status at once; crash=ud|triple|hang|break shows how the
 * runner tells the ends of a machine apart. */
#include "bare.h"

#define TIMER_VECTOR 0x40
#define IPI_VECTOR   0x41
#define TIMER_ROUNDS 10

static unsigned checks, failures;

static void check(const char *what, bool ok, uint64_t seen, uint64_t expected)
{
    checks++;
    if (!ok) {
        failures++;
        bare_printf("FAILED: %s: 0x%lx, expected 0x%lx\n", what, seen, expected);
    }
}

static void check_equal(const char *what, uint64_t seen, uint64_t expected)
{
    check(what, seen == expected, seen, expected);
}

/* ---- Text ---- */

static void expect_text(const char *seen, const char *expected)
{
    size_t i = 0;

    if (seen == NULL)
        seen = "(nothing)";
    while (seen[i] != '\0' && seen[i] == expected[i])
        i++;
    checks++;
    if (seen[i] != expected[i]) {
        failures++;
        bare_printf("FAILED: text \"%s\", expected \"%s\"\n", seen, expected);
    }
}

static void test_format(void)
{
    char text[64];

    bare_snprintf(text, sizeof(text), "%s %c %d %u %x", "a", 'b', -3, 4u, 0xfeu);
    expect_text(text, "a b -3 4 fe");
    bare_snprintf(text, sizeof(text), "%5d|%-5d|%05d|%016lx", -42, 42, -42, 0x123456789abcul);
    expect_text(text, "  -42|42   |-0042|0000123456789abc");
    bare_snprintf(text, sizeof(text), "%llx %zu %p %% %.3s %*d", ~0ull, (size_t)7,
                  (void *)(uintptr_t)0x1000, "abcdef", 4, 1);
    expect_text(text, "ffffffffffffffff 7 0x1000 % abc    1");
    check_equal("truncated length", bare_snprintf(text, 4, "%s", "abcdef"), 3);
    expect_text(text, "abc");
}

static void test_memory_functions(void)
{
    char a[40], b[40];

    for (unsigned i = 0; i < sizeof(a); i++)
        a[i] = (char)i;
    memcpy(b, a, sizeof(a));
    check_equal("memcmp of a copy", (uint64_t)memcmp(a, b, sizeof(a)), 0);
    memmove(a + 3, a, 37);
    check_equal("memmove up", (uint64_t)memcmp(a + 3, b, 37), 0);
    memmove(a, a + 3, 37);
    check_equal("memmove down", (uint64_t)memcmp(a, b, 37), 0);
    memset(a, 0xa5, 39);
    check_equal("memset", (uint8_t)a[38], 0xa5);
    check_equal("memset stops", (uint8_t)a[39], 36);
    check("memcmp order", memcmp("a", "b", 1) < 0 && memcmp("b", "a", 1) > 0, 0, 0);
}

/* ---- Boot information ---- */

static void test_bootinfo(void)
{
    uint64_t modules = bare_option_u64("modules", 0), usable = 0;

    for (unsigned i = 0; i < bare_memory_count(); i++) {
        if (bare_memory_get(i)->usable)
            usable += bare_memory_get(i)->size;
    }
    check("30 MiB of memory", usable >= 30 << 20, usable, 30 << 20);
    check_equal("option a word", (uint64_t)(bare_option("word") != NULL), 1);
    expect_text(bare_option("word"), "");
    check_equal("no such option", (uint64_t)(bare_option("wor") != NULL), 0);
    expect_text(bare_option("text"), "a,b");
    check_equal("hexadecimal option", bare_option_u64("hex", 0), 0xbeef);
    check_equal("option that is no number", bare_option_u64("text", 5), 5);
    check_equal("modules", bare_module_count(), modules);
    /* The runner's test gives two: itself as "self first" and a text as "a,b second". */
    if (modules != 2)
        return;
    const struct bare_module *self = bare_module_find("self"), *text = bare_module_find("a,b");
    check("modules by name", self == bare_module_get(0) && text == bare_module_get(1), 0, 1);
    if (self == NULL || text == NULL)
        return;
    expect_text(self->string, "self first");
    expect_text(text->string, "a,b second");
    check_equal("page aligned", (uintptr_t)text->start % BARE_PAGE_SIZE, 0);
    check_equal("contents of the first", *(const uint32_t *)self->start, 0x1badb002);
    check_equal("size of the second", text->size, bare_option_u64("size", 0));
    check_equal("contents of the second", (uint64_t)memcmp(text->start, "# SPDX", 6), 0);
}

/* ---- Pages ---- */

static bool overlaps_module(const void *block, size_t npages)
{
    uintptr_t start = (uintptr_t)block, end = start + npages * BARE_PAGE_SIZE;

    for (unsigned i = 0; i < bare_module_count(); i++) {
        uintptr_t module = (uintptr_t)bare_module_get(i)->start;
        if (module < end && module + bare_module_get(i)->size > start)
            return true;
    }
    return false;
}

/* Takes all memory in single pages, chained through themselves, and gives it back. */
static void test_all_pages(void)
{
    size_t available = bare_pages_available(), taken = 0, bad = 0;
    void **list = NULL, **page;

    while ((page = bare_pages_alloc(1, 1)) != NULL) {
        if (overlaps_module(page, 1) || (uintptr_t)page < 0x100000)
            bad++;
        *page = list;
        list = page;
        taken++;
    }
    check_equal("all pages", taken, available);
    check_equal("pages where there should be none", bad, 0);
    check_equal("none left", bare_pages_available(), 0);
    while (list != NULL) {
        page = list;
        list = *page;
        bare_pages_free(page, 1);
        taken--;
    }
    check_equal("all pages back", bare_pages_available(), available);
    check_equal("as many as were taken", taken, 0);
}

static void test_pages(void)
{
    size_t in_use = bare_pages_in_use(), available = bare_pages_available();
    char *one = bare_pages_alloc(1, 1), *odd = bare_pages_alloc(3, 4);
    char *large = bare_pages_alloc(512 * 9 + 7, 512);

    check("blocks", one != NULL && odd != NULL && large != NULL, 0, 1);
    if (one == NULL || odd == NULL || large == NULL)
        return;
    check_equal("aligned to 4 pages", (uintptr_t)odd % (4 * BARE_PAGE_SIZE), 0);
    check_equal("aligned to 2 MiB", (uintptr_t)large % (2 << 20), 0);
    check("outside of the modules", !overlaps_module(large, 512 * 9 + 7), 0, 0);
    check_equal("pages in use", bare_pages_in_use() - in_use, 1 + 3 + 512 * 9 + 7);
    memset(large, 0x55, (512 * 9 + 7) * BARE_PAGE_SIZE);
    memset(one, 0xaa, BARE_PAGE_SIZE);
    memset(odd, 0xaa, 3 * BARE_PAGE_SIZE);
    check_equal("no overlap", (uint8_t)large[(512 * 9 + 7) * BARE_PAGE_SIZE - 1], 0x55);
    check_equal("no overlap", (uint8_t)large[0], 0x55);
    bare_pages_free(one, 1);
    bare_pages_free(odd + BARE_PAGE_SIZE, 2);
    bare_pages_free(odd, 1);
    bare_pages_free(large, 512 * 9 + 7);
    check_equal("nothing leaks", bare_pages_in_use(), in_use);
    check_equal("available as before", bare_pages_available(), available);
    check("too much", bare_pages_alloc((size_t)1 << 40, 1) == NULL, 0, 0);
    check("odd alignment", bare_pages_alloc(1, 3) == NULL, 0, 0);
    test_all_pages();
    large = bare_pages_alloc(available / 2, 512);
    check("half of memory in one piece after that", large != NULL, 0, 1);
    bare_pages_free(large, available / 2);
}

/* ---- Traps ---- */

struct seen {
    unsigned count;
    uint64_t vector, error, rip, address;
    uint64_t skip; /* added to RIP */
};

static void on_trap(struct bare_frame *frame, void *ctx)
{
    struct seen *seen = ctx;

    seen->count++;
    seen->vector = frame->vector;
    seen->error = frame->error;
    seen->rip = frame->rip;
    seen->address = bare_read_cr2();
    frame->rip += seen->skip;
}

static void test_traps(void)
{
    struct seen ud = {.skip = 2}, pf = {.skip = 2};
    uint64_t value = 1, unmapped = 1ull << 46;
    struct bare_cpuid tcg = bare_cpuid(0x40000000, 0);
    bool faulted = false;

    __asm__ volatile("1: movb (%1), %%al\n" /* not canonical: #GP */
                     "jmp 3f\n"
                     "2: movb $1, %0\n"
                     "3:\n" BARE_FIXUP("1b", "2b")
                     : "+q"(faulted)
                     : "r"(1ull << 63)
                     : "rax", "memory");
    check_equal("#GP is fixed up", faulted, true);

    bare_handler_set(6, on_trap, &ud);
    __asm__ volatile("ud2" : : : "memory");
    check_equal("#UD", ud.count, 1);
    check_equal("its vector", ud.vector, 6);
    bare_handler_set(6, NULL, NULL);

    bare_handler_set(14, on_trap, &pf);
    __asm__ volatile("movb %%al, (%0)" : : "r"(unmapped) : "memory"); /* two bytes */
    check_equal("#PF", pf.count, 1);
    check_equal("its error code: write, not present", pf.error, 2);
    check_equal("its address", pf.address, unmapped);
    bare_handler_set(14, NULL, NULL);

    /* QEMU's TCG lets every access to an unknown MSR pass. */
    bool faults = memcmp(&tcg.ebx, "TCGTCGTCGTCG", 12) != 0;
    check_equal("a missing MSR faults", !bare_rdmsr_safe(0x12345678, &value), faults);
    check_equal("and reads as 0", value, 0);
    check_equal("writing it faults", !bare_wrmsr_safe(0x12345678, 0), faults);
    check("GS.base is free", bare_wrmsr_safe(0xc0000101, 0x123456789000), 0, 0);
    check("and readable", bare_rdmsr_safe(0xc0000101, &value) && value == 0x123456789000, value, 0);
    check_equal("and nobody relies on it", bare_this_cpu(), 0);
    check("writing it works", bare_wrmsr_safe(0xc0000101, value), 0, 0);
    check_equal("error-code stubs keep the registers", bare_this_cpu(), 0);
}

static void test_control_registers(void)
{
    check_equal("CR0", bare_read_cr0() & 0xe005003f, 0x80010033);
    check_equal("CR4.OSFXSR", bare_read_cr4() >> 9 & 1, bare_cpuid(1, 0).edx >> 24 & 1);
    check_equal("CR4.OSXSAVE", bare_read_cr4() >> 18 & 1, bare_cpuid(1, 0).ecx >> 26 & 1);
    check_equal("interrupts are off", bare_read_rflags() >> 9 & 1, 0);
}

/* ---- NMI, interprocessor interrupts, timer ---- */

struct arrival {
    volatile unsigned count;
    volatile unsigned cpu;
    volatile uint64_t stack;
    bool eoi;
};

static void on_arrival(struct bare_frame *frame, void *ctx)
{
    struct arrival *arrival = ctx;

    (void)frame;
    arrival->cpu = bare_this_cpu();
    arrival->stack = (uintptr_t)__builtin_frame_address(0);
    if (arrival->eoi)
        bare_eoi();
    __atomic_fetch_add(&arrival->count, 1, __ATOMIC_SEQ_CST);
}

/* True once *count has reached `expected`; half a second at most. */
static bool reaches(volatile unsigned *count, unsigned expected)
{
    for (unsigned i = 0; i < 500 && *count < expected; i++)
        bare_delay_us(1000);
    return *count == expected;
}

static bool near(uint64_t a, uint64_t b)
{
    return a > b ? a - b < 0x1000 : b - a < 0x1000;
}

static void test_nmi(void)
{
    struct arrival nmi = {0};

    bare_handler_set(2, on_arrival, &nmi);
    bare_nmi(0);
    check("NMI to this processor", reaches(&nmi.count, 1), nmi.count, 1);
    check("on the same stack", near(nmi.stack, (uintptr_t)&nmi), nmi.stack, (uintptr_t)&nmi);
    bare_ist_enable(true);
    bare_nmi(0);
    check("NMI with a stack of its own", reaches(&nmi.count, 2), nmi.count, 2);
    check("on that stack", !near(nmi.stack, (uintptr_t)&nmi), nmi.stack, (uintptr_t)&nmi);
    bare_ist_enable(false);
    bare_handler_set(2, NULL, NULL);
}

static void test_interrupts(void)
{
    struct arrival ipi = {.eoi = true};

    bare_handler_set(IPI_VECTOR, on_arrival, &ipi);
    bare_ipi(0, IPI_VECTOR);
    bare_delay_us(100);
    check_equal("an interrupt waits for STI", ipi.count, 0);
    bare_irq_enable();
    check("interrupt to this processor", reaches(&ipi.count, 1), ipi.count, 1);
    bare_irq_disable();
    bare_dispatch(IPI_VECTOR);
    check_equal("dispatched interrupt", ipi.count, 2);
    bare_ipi(0, IPI_VECTOR);
    bare_irq_wait();
    check_equal("interrupt ends HLT", ipi.count, 3);
    bare_handler_set(IPI_VECTOR, NULL, NULL);
}

static void test_timer(void)
{
    struct arrival tick = {.eoi = true};
    uint64_t tsc_hz = bare_tsc_hz(), timer_hz = bare_timer_hz();

    bare_printf("TSC %lu Hz, timer %lu Hz\n", tsc_hz, timer_hz);
    check("TSC frequency", tsc_hz >= 100000 && tsc_hz < 20000000000, tsc_hz, 100000);
    check("timer frequency", timer_hz >= 100000 && timer_hz < 20000000000, timer_hz, 100000);
    bare_handler_set(TIMER_VECTOR, on_arrival, &tick);
    uint64_t start = bare_tsc();
    bare_timer_start(TIMER_VECTOR, (uint32_t)(timer_hz / 100), true);
    while (tick.count < TIMER_ROUNDS)
        bare_irq_wait();
    uint64_t elapsed = bare_tsc() - start, expected = tsc_hz / 100 * TIMER_ROUNDS;
    check("ten periods take 100 ms", elapsed > expected / 2 && elapsed < expected * 4, elapsed,
          expected);
    bare_timer_stop();
    unsigned stopped = tick.count;
    bare_irq_enable();
    bare_delay_us(30000);
    check_equal("a stopped timer", tick.count, stopped);
    bare_timer_start(TIMER_VECTOR, (uint32_t)(timer_hz / 1000), false);
    bare_delay_us(30000);
    check_equal("a timer that runs once", tick.count, stopped + 1);
    bare_irq_disable();
    bare_handler_set(TIMER_VECTOR, NULL, NULL);
}

/* ---- Other processors ---- */

struct job {
    unsigned cpu;      /* as bare_this_cpu says */
    uint64_t cr0, cr4; /* of that processor */
    bool irq_off;
    struct arrival *ipi; /* waits for it */
    struct seen *trap;
    unsigned pages;
    volatile bool running;
};

static void work(void *arg)
{
    struct job *job = arg;
    void *pages[16];

    job->cpu = bare_this_cpu();
    job->cr0 = bare_read_cr0();
    job->cr4 = bare_read_cr4();
    job->irq_off = (bare_read_rflags() & 0x200) == 0;
    job->running = true;
    if (job->trap != NULL)
        __asm__ volatile("ud2" : : : "memory");
    for (unsigned round = 0; round < 50; round++) { /* all processors at the allocator at once */
        for (unsigned i = 0; i < 16; i++)
            pages[i] = bare_pages_alloc(1 + i, 1);
        for (unsigned i = 0; i < 16; i++) {
            job->pages += pages[i] != NULL;
            bare_pages_free(pages[i], 1 + i);
        }
    }
    if (job->ipi != NULL) {
        bare_irq_enable();
        reaches(&job->ipi->count, 1);
    }
}

static void test_one_processor(unsigned cpu)
{
    struct arrival ipi = {.eoi = true}, nmi = {0};
    struct seen ud = {.skip = 2};
    struct job job = {.ipi = &ipi, .trap = &ud};

    bare_handler_set(6, on_trap, &ud);
    bare_handler_set(IPI_VECTOR, on_arrival, &ipi);
    bare_handler_set(2, on_arrival, &nmi);
    check("a processor starts", bare_cpu_run(cpu, work, &job), cpu, 0);
    check("a busy processor takes no work", !bare_cpu_run(cpu, work, &job), cpu, 0);
    while (!job.running)
        bare_pause();
    bare_ipi(cpu, IPI_VECTOR);
    bare_cpu_wait(cpu);
    check_equal("its index", job.cpu, cpu);
    check_equal("its CR0", job.cr0, bare_read_cr0());
    check_equal("its CR4", job.cr4, bare_read_cr4());
    check_equal("its interrupts are off", job.irq_off, 1);
    check_equal("its exception", ud.count, 1);
    check_equal("its interrupt", ipi.count, 1);
    check_equal("was handled there", ipi.cpu, cpu);
    bare_nmi(cpu); /* asleep now */
    check("its NMI", reaches(&nmi.count, 1), nmi.count, 1);
    check_equal("was handled there", nmi.cpu, cpu);
    bare_handler_set(6, NULL, NULL);
    bare_handler_set(IPI_VECTOR, NULL, NULL);
    bare_handler_set(2, NULL, NULL);
}

static void test_processors(void)
{
    struct job jobs[BARE_MAX_CPUS] = {0};
    unsigned count = bare_cpu_count();

    check_equal("processors", count, bare_option_u64("cpus", 1));
    check("none beyond them", !bare_cpu_run(count, work, &jobs[0]), count, count);
    for (unsigned cpu = 1; cpu < count; cpu++)
        test_one_processor(cpu);
    size_t in_use = bare_pages_in_use();
    for (unsigned cpu = 1; cpu < count; cpu++)
        check("work again", bare_cpu_run(cpu, work, &jobs[cpu]), cpu, 0);
    work(&jobs[0]);
    for (unsigned cpu = 0; cpu < count; cpu++) {
        bare_cpu_wait(cpu);
        check_equal("pages in parallel", jobs[cpu].pages, 50 * 16);
        check_equal("this processor", jobs[cpu].cpu, cpu);
    }
    check_equal("no page lost", bare_pages_in_use(), in_use);
}

/* ---- COM1 and the ends ---- */

static void test_echo(void)
{
    uint64_t left = bare_option_u64("echo", 0);
    unsigned sum = 0;

    while (left > 0) {
        int c = bare_com1_getc();
        if (c < 0) {
            bare_pause();
            continue;
        }
        char byte = (char)c;
        sum += (unsigned)c;
        bare_com1_write(&byte, 1);
        left--;
        if (bare_option("slow") != NULL) /* input must wait for a slow reader */
            bare_delay_us(1000);
    }
    bare_printf("echo done, sum %u\n", sum);
}

static void crash(const char *how)
{
    static const struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) no_idt = {0, 0};

    bare_com1_write("crash\r\n", 7);
    if (how[0] == 't')
        __asm__ volatile("lidt %0; ud2" : : "m"(no_idt));
    if (how[0] == 'u')
        __asm__ volatile("ud2");
    if (how[0] == 'b')
        __asm__ volatile("xchg %bx, %bx");
    for (;;)
        bare_pause();
}

int bare_main(void)
{
    if (bare_option("exit") != NULL)
        return (int)bare_option_u64("exit", 1);
    if (bare_option("crash") != NULL)
        crash(bare_option("crash"));
    if (bare_option("echo") != NULL) {
        test_echo();
        return 0;
    }
    test_format();
    test_memory_functions();
    test_bootinfo();
    test_pages();
    test_control_registers();
    test_traps();
    test_nmi();
    test_interrupts();
    test_timer();
    test_processors();
    bare_com1_write("COM1 works\r\n", 12);
    bare_printf("%u checks, %u failed\n", checks, failures);
    return (int)(failures < 90 ? failures : 90);
}
