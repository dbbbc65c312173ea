/* A disk that fails on command: loaded before the C library, it makes writes and syncs of files under "/store/"
 * fail as the file named by DYNARUST_FAULT_FILE says, from the moment that file appears. It holds three words:
 *
 *   write|sync|witness|read  EIO|ENOSPC|short|torn|stall  N
 *
 * witness: writes of the file PROGRESS instead.   read: reads at a place, EIO only, all from the Nth on.
 *
 * EIO, ENOSPC: the call fails; the first N times, 0: for ever.    short: half is written, and said so.
 * torn: half is written, then the call fails, and all after it.   stall: the call first waits N milliseconds.
 * Each injected fault is a line in DYNARUST_FAULT_FILE with ".hits" at its end. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum action { NONE, FAIL, SHORT, TORN, STALL };
struct fault { enum action action; int error; long number; };
static atomic_long failed;

static int is_in(int fd, const char *part)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return strstr(path, part) != NULL;
}

static void hit(const char *trigger, const char *call, const char *action)
{
    char path[4096], line[128];
    snprintf(path, sizeof path, "%s.hits", trigger);
    int length = snprintf(line, sizeof line, "%s %s\n", call, action);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd >= 0) {
        syscall(SYS_write, fd, line, length);
        close(fd);
    }
}

static struct fault wanted(int fd, const char *call)
{
    struct fault none = {NONE, 0, 0}, fault = none;
    const char *trigger = getenv("DYNARUST_FAULT_FILE");
    char text[128], which[16], action[16];
    int saved = errno;
    if (!trigger) return none;
    int file = open(trigger, O_RDONLY | O_CLOEXEC);
    if (file < 0) { errno = saved; return none; }
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    errno = saved;
    if (length <= 0) return none;
    text[length] = 0;
    if (sscanf(text, "%15s %15s %ld", which, action, &fault.number) != 3) return none;
    int witness = !strcmp(which, "witness");
    if (strcmp(witness ? "write" : which, call) != 0 || !is_in(fd, witness ? "/PROGRESS" : "/store/")) return none;
    if (!strcmp(action, "EIO")) fault.action = FAIL, fault.error = EIO;
    else if (!strcmp(action, "ENOSPC")) fault.action = FAIL, fault.error = ENOSPC;
    else if (!strcmp(action, "short")) fault.action = SHORT;
    else if (!strcmp(action, "torn")) fault.action = TORN, fault.error = EIO;
    else if (!strcmp(action, "stall")) fault.action = STALL;
    else return none;
    if (!strcmp(call, "read") && atomic_fetch_add(&failed, 1) < fault.number - 1) return none;
    if (strcmp(call, "read") && fault.action == FAIL && fault.number > 0 && atomic_fetch_add(&failed, 1) >= fault.number) return none;
    if (fault.action == TORN && atomic_fetch_add(&failed, 1) > 0) fault.action = FAIL;
    hit(trigger, call, action);
    errno = saved;
    if (fault.action == STALL) {
        struct timespec pause = {fault.number / 1000, (fault.number % 1000) * 1000000};
        while (nanosleep(&pause, &pause) != 0 && errno == EINTR) {}
        errno = saved;
        return none;
    }
    return fault;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define HALF(length) ((length) > 1 ? (length) / 2 : (length))

#define WRITER(name, parameters, fd, length, whole, half)            \
    ssize_t name parameters                                          \
    {                                                                \
        static __typeof__(&name) real;                               \
        if (!real) real = REAL(name);                                \
        struct fault fault = wanted(fd, "write");                    \
        switch (fault.action) {                                      \
        case SHORT: return half;                                     \
        case TORN: (void)!half; /* fall through */                   \
        case FAIL: errno = fault.error; return -1;                   \
        default: return whole;                                       \
        }                                                            \
    }

WRITER(write, (int fd, const void *from, size_t length), fd, length,
       real(fd, from, length), real(fd, from, HALF(length)))
WRITER(pwrite, (int fd, const void *from, size_t length, off_t at), fd, length,
       real(fd, from, length, at), real(fd, from, HALF(length), at))
WRITER(pwrite64, (int fd, const void *from, size_t length, off64_t at), fd, length,
       real(fd, from, length, at), real(fd, from, HALF(length), at))
WRITER(writev, (int fd, const struct iovec *from, int count), fd, count,
       real(fd, from, count), real(fd, from, 1))

#define READER(name, offset)                                         \
    ssize_t name(int fd, void *to, size_t length, offset at)         \
    {                                                                \
        static __typeof__(&name) real;                               \
        if (!real) real = REAL(name);                                \
        struct fault fault = wanted(fd, "read");                     \
        if (fault.action != FAIL) return real(fd, to, length, at);   \
        errno = fault.error;                                         \
        return -1;                                                   \
    }

READER(pread, off_t)
READER(pread64, off64_t)

#define SYNCER(name)                                                 \
    int name(int fd)                                                 \
    {                                                                \
        static __typeof__(&name) real;                               \
        if (!real) real = REAL(name);                                \
        struct fault fault = wanted(fd, "sync");                     \
        if (fault.action == NONE) return real(fd);                   \
        errno = fault.error ? fault.error : EIO;                     \
        return -1;                                                   \
    }

SYNCER(fdatasync)
SYNCER(fsync)
SYNCER(syncfs)
