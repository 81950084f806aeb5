/* SPDX-License-Identifier: BSD-2-Clause */
/* The first and only process of a measured boot: how many ticks of the TSC the kernel took until
 * here, and how many a workload takes: processes and pipes, copy-on-write, timers, floating point.
 * Idle time is told apart. On an emulator whose clock ticks once an instruction these are
 * instructions (docs/performance.md). */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define PROCESSES 60
#define COPIED    (24u << 20)
#define PAGE      4096u

struct mark {
    uint64_t ticks, idle; /* the latter in nanoseconds */
};

/* Nanoseconds that processor 0 has slept: "idle_sleeptime" of /proc/timer_list. */
static uint64_t idle_time(void)
{
    static char text[1 << 16];
    size_t bytes = 0;
    ssize_t got;
    int fd = open("/proc/timer_list", O_RDONLY);
    const char *line;

    while (fd >= 0 && bytes < sizeof(text) - 1 &&
           (got = read(fd, text + bytes, sizeof(text) - 1 - bytes)) > 0)
        bytes += (size_t)got;
    close(fd);
    text[bytes] = 0;
    line = strstr(text, ".idle_sleeptime");
    line = line ? strchr(line, ':') : NULL;
    return line ? strtoull(line + 1, NULL, 10) : 0;
}

static struct mark now(void)
{
    struct mark mark = {.ticks = __rdtsc()};

    mark.idle = idle_time();
    return mark;
}

static void fail(const char *what)
{
    printf("measure: FAIL %s\n", what);
    fflush(stdout);
    reboot(RB_POWER_OFF);
    exit(1);
}

/* Executed anew in every process of the chain: passes on what it reads, plus one. */
static int link_of_chain(void)
{
    uint32_t value;

    if (read(0, &value, sizeof(value)) != sizeof(value))
        return 1;
    value++;
    return write(1, &value, sizeof(value)) != sizeof(value);
}

static void child(int in, int out)
{
    dup2(in, 0);
    dup2(out, 1);
    for (int fd = 3; fd < 16; fd++)
        close(fd);
    execl("/measure", "measure", "link", (char *)NULL);
    _exit(1);
}

/* Each process has a pipe to the next one. */
static void processes(void)
{
    uint32_t value = 0;

    for (int i = 0; i < PROCESSES; i++) {
        int to[2], from[2], status;
        pid_t pid;

        if (pipe(to) || pipe(from))
            fail("pipe");
        pid = fork();
        if (!pid)
            child(to[0], from[1]);
        if (write(to[1], &value, sizeof(value)) != sizeof(value) ||
            read(from[0], &value, sizeof(value)) != sizeof(value) ||
            waitpid(pid, &status, 0) != pid || status)
            fail("a process");
        for (int k = 0; k < 2; k++) {
            close(to[k]);
            close(from[k]);
        }
    }
    if (value != PROCESSES)
        fail("what went through the pipes");
}

/* A child changes every page of what the parent keeps. */
static void copy_on_write(void)
{
    volatile uint8_t *memory =
        mmap(NULL, COPIED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int status;
    pid_t pid;

    if (memory == MAP_FAILED)
        fail("memory");
    madvise((void *)(uintptr_t)memory, COPIED, MADV_NOHUGEPAGE);
    for (uint32_t i = 0; i < COPIED; i += PAGE)
        memory[i] = (uint8_t)(i / PAGE);
    pid = fork();
    if (!pid) {
        for (uint32_t i = 0; i < COPIED; i += PAGE)
            memory[i]++;
        _exit(memory[5 * PAGE] != 6);
    }
    if (waitpid(pid, &status, 0) != pid || status)
        fail("the copy");
    for (uint32_t i = 0; i < COPIED; i += PAGE)
        if (memory[i] != (uint8_t)(i / PAGE))
            fail("the original");
    munmap((void *)(uintptr_t)memory, COPIED);
}

static void timers(void)
{
    struct timespec millisecond = {.tv_nsec = 1000000};

    for (int i = 0; i < 20; i++)
        nanosleep(&millisecond, NULL);
}

static void floating_point(void)
{
    volatile double sum = 0;
    int status;
    pid_t pid = fork();

    for (int i = 1; i <= 200000; i++)
        sum = sum + 1.0 / ((double)i * i);
    if (!pid)
        _exit(0);
    if (waitpid(pid, &status, 0) != pid || sum < 1.6449290 || sum > 1.6449292)
        fail("floating point");
}

static void show(const char *name, struct mark from, struct mark to)
{
    printf("measure: %s %llu idle %llu\n", name, (unsigned long long)(to.ticks - from.ticks),
           (unsigned long long)(to.idle - from.idle));
}

int main(int argc, char **argv)
{
    struct mark start = {0, 0}, init, mark[5];

    if (argc > 1 && !strcmp(argv[1], "link"))
        return link_of_chain();
    init.ticks = __rdtsc();
    mount("proc", "/proc", "proc", 0, NULL);
    init.idle = idle_time();
    mark[0] = now();
    processes();
    mark[1] = now();
    copy_on_write();
    mark[2] = now();
    timers();
    mark[3] = now();
    floating_point();
    mark[4] = now();
    show("init", start, init);
    show("processes", mark[0], mark[1]);
    show("copy-on-write", mark[1], mark[2]);
    show("timers", mark[2], mark[3]);
    show("floating-point", mark[3], mark[4]);
    show("workload", mark[0], mark[4]);
    fflush(stdout);
    tcdrain(1); /* a machine that is off sends no more */
    reboot(RB_POWER_OFF);
    return 0;
}
