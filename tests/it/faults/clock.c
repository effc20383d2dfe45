/* The clocks of a process under test, moved from outside while it runs: preloaded, with the file that FAULTS_CLOCK names.
 *
 * The file holds two 64-bit numbers, nanoseconds to add to the wall clock and to the clock that runs through suspends. The
 * monotonic clock, which timers wait on, stays: so both moved ahead by the same is what a suspend looks like.
 *
 * A program asks libc for the time, or the system's own page of functions (the vDSO), which no preloaded library replaces.
 * So the page is replaced: this file built once more with -DPAGE, mapped as it lies on the disk, is what getauxval names.
 */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>

/* Where both find the numbers. */
#define AHEAD ((volatile const long long *)0x600000000000)

static long ask(long id, struct timespec *at) {
    long done;
    __asm__ volatile("syscall" : "=a"(done) : "a"(SYS_clock_gettime), "D"(id), "S"(at) : "rcx", "r11", "memory");
    return done;
}

static inline long moved(long id, struct timespec *at) {
    long done = ask(id, at);
    if (done != 0)
        return done;
    long long by;
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)
        by = AHEAD[0];
    else if (id == CLOCK_BOOTTIME)
        by = AHEAD[1];
    else
        return done;
    long long total = at->tv_sec * 1000000000LL + at->tv_nsec + by;
    at->tv_sec = total / 1000000000LL;
    at->tv_nsec = total % 1000000000LL;
    return done;
}

#ifdef PAGE

int __vdso_clock_gettime(clockid_t id, struct timespec *at) { return (int)moved(id, at); }

/* Whoever finds a page expects this in it. */
int __vdso_getcpu(unsigned *cpu, unsigned *node, void *unused) {
    long done;
    __asm__ volatile("syscall" : "=a"(done) : "a"(SYS_getcpu), "D"(cpu), "S"(node), "d"(unused) : "rcx", "r11", "memory");
    return (int)done;
}

#else

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void *page;

static void *map(const char *variable, void *where, int protection, int flags) {
    const char *path = getenv(variable);
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    struct stat status;
    if (file < 0 || fstat(file, &status) != 0)
        _exit(99);
    void *at = mmap(where, (size_t)status.st_size, protection, flags, file, 0);
    close(file);
    if (at == MAP_FAILED)
        _exit(99);
    return at;
}

__attribute__((constructor)) static void begin(void) {
    map("FAULTS_CLOCK", (void *)AHEAD, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE);
    page = map("FAULTS_PAGE", NULL, PROT_READ | PROT_EXEC, MAP_PRIVATE);
}

int clock_gettime(clockid_t id, struct timespec *at) {
    long done = page ? moved(id, at) : ask(id, at);
    if (done == 0)
        return 0;
    errno = (int)-done;
    return -1;
}

unsigned long getauxval(unsigned long type) {
    if (type == AT_SYSINFO_EHDR && page)
        return (unsigned long)page;
    unsigned long (*real)(unsigned long) = (unsigned long (*)(unsigned long))dlsym(RTLD_NEXT, "getauxval");
    return real ? real(type) : 0;
}

#endif
