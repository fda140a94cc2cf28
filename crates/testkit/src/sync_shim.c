/* Stands between a process and the system's fdatasync and fsync (LD_PRELOAD): reports each sync to a FIFO before it begins and after it has ended,
   and stalls one in so many before it begins, while what it shall make durable is written and not synced.

   SYNC_SHIM_EVENTS    the FIFO; a line for each event: "begin <milliseconds that it stalls> <path>" or "end 0 <path>"
   SYNC_SHIM_ONE_IN    one sync in this many stalls
   SYNC_SHIM_LONGEST   the longest stall, in milliseconds
   SYNC_SHIM_SEED      where the random numbers begin */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

typedef int sync_function(int);

static sync_function *real_fdatasync;
static sync_function *real_fsync;
static int events = -1;
static uint64_t one_in;
static uint64_t longest;
static uint64_t state;

static uint64_t number(const char *name) {
    const char *text = getenv(name);
    return text == NULL ? 0 : strtoull(text, NULL, 10);
}

__attribute__((constructor)) static void prepare(void) {
    const char *path = getenv("SYNC_SHIM_EVENTS");
    real_fdatasync = (sync_function *)dlsym(RTLD_NEXT, "fdatasync");
    real_fsync = (sync_function *)dlsym(RTLD_NEXT, "fsync");
    one_in = number("SYNC_SHIM_ONE_IN");
    longest = number("SYNC_SHIM_LONGEST");
    state = number("SYNC_SHIM_SEED");
    if (path != NULL)
        events = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
}

/* splitmix64; the threads share its state */
static uint64_t random_number(void) {
    uint64_t z = __atomic_add_fetch(&state, 0x9e3779b97f4a7c15u, __ATOMIC_RELAXED);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* A line is shorter than PIPE_BUF, so it is written whole. One that the pipe has no space for is dropped. */
static void report(const char *what, uint64_t stall, int fd) {
    char link[64], path[1024], line[1200];
    if (events < 0)
        return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    int written = snprintf(line, sizeof line, "%s %llu %s\n", what, (unsigned long long)stall, path);
    if (write(events, line, (size_t)written) < 0)
        return;
}

static int shimmed(sync_function *real, int fd) {
    uint64_t stall = one_in > 0 && random_number() % one_in == 0 ? random_number() % (longest + 1) : 0;
    report("begin", stall, fd);
    if (stall > 0) {
        struct timespec left = {(time_t)(stall / 1000), (long)(stall % 1000) * 1000000};
        while (nanosleep(&left, &left) != 0 && errno == EINTR) {
        }
    }
    int result = real(fd);
    int error = errno;
    report("end", 0, fd);
    errno = error;
    return result;
}

int fdatasync(int fd) { return shimmed(real_fdatasync, fd); }

int fsync(int fd) { return shimmed(real_fsync, fd); }
