/*
 * A disk with slow syncs: every fsync and fdatasync of the process takes SLOW_FSYNC_US microseconds longer.
 *
 * Loaded with LD_PRELOAD into the ledger process (benchmarks/slow_fsync.py), or into PostgreSQL. The sync itself
 * is the real one. SLOW_FSYNC_COUNT, when set, names a file that gets one byte for each sync.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static long delay_us(void) {
    static long known = -1;
    if (known < 0) {
        const char *text = getenv("SLOW_FSYNC_US");
        known = text ? strtol(text, NULL, 10) : 0;
        if (known < 0) known = 0;
    }
    return known;
}

static void count(void) {
    static int file = -2;
    if (file == -2) {
        const char *path = getenv("SLOW_FSYNC_COUNT");
        file = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    }
    if (file >= 0 && write(file, ".", 1) < 0) file = -1;
}

static int delayed(int status) {
    int saved = errno;
    long left_us = delay_us();
    struct timespec rest = {left_us / 1000000, (left_us % 1000000) * 1000};
    while (nanosleep(&rest, &rest) < 0 && errno == EINTR) {
    }
    count();
    errno = saved;
    return status;
}

int fsync(int descriptor) {
    static int (*real)(int);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "fsync");
    return delayed(real(descriptor));
}

int fdatasync(int descriptor) {
    static int (*real)(int);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "fdatasync");
    return delayed(real(descriptor));
}
