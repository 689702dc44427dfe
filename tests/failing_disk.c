/* Loaded before the C library: chosen calls on chosen files fail with a chosen error.

   FAILING_CALL   create, open (for reading), write, read, fsync, rename or mkdir; unset: nothing fails
   FAILING_PATH   of files whose path matches this, as fnmatch does; of a rename the new path
   FAILING_ERRNO  as a number
   FAILING_FROM   the first call that fails, counted from 1
   FAILING_TIMES  how many fail; 0: all from there on
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static atomic_long calls;

static long number(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : 0;
}

static int fails(const char *call, const char *path) {
    const char *wanted = getenv("FAILING_CALL"), *part = getenv("FAILING_PATH");
    if (!wanted || !part || strcmp(call, wanted) || fnmatch(part, path, 0)) return 0;
    long nth = atomic_fetch_add(&calls, 1) + 1;
    long from = number("FAILING_FROM"), times = number("FAILING_TIMES");
    if (nth < from || (times && nth >= from + times)) return 0;
    errno = (int)number("FAILING_ERRNO");
    return 1;
}

static int fails_at(const char *call, int descriptor) {
    char link[64], path[PATH_MAX];
    if (!getenv("FAILING_CALL")) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return fails(call, path);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define CHANGES (O_CREAT | O_WRONLY | O_RDWR)

#define OPEN(name)                                                        \
    int name(const char *path, int flags, ...) {                          \
        va_list more;                                                     \
        va_start(more, flags);                                            \
        mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;         \
        va_end(more);                                                     \
        if (fails(flags & CHANGES ? "create" : "open", path)) return -1;  \
        return NEXT(name)(path, flags, mode);                             \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                      \
    int name(int at, const char *path, int flags, ...) {                  \
        va_list more;                                                     \
        va_start(more, flags);                                            \
        mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;         \
        va_end(more);                                                     \
        if (fails(flags & CHANGES ? "create" : "open", path)) return -1;  \
        return NEXT(name)(at, path, flags, mode);                         \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int descriptor, const void *data, size_t count) {
    return fails_at("write", descriptor) ? -1 : NEXT(write)(descriptor, data, count);
}

ssize_t read(int descriptor, void *data, size_t count) {
    return fails_at("read", descriptor) ? -1 : NEXT(read)(descriptor, data, count);
}

int fsync(int descriptor) { return fails_at("fsync", descriptor) ? -1 : NEXT(fsync)(descriptor); }

int rename(const char *from, const char *to) { return fails("rename", to) ? -1 : NEXT(rename)(from, to); }

int mkdir(const char *path, mode_t mode) { return fails("mkdir", path) ? -1 : NEXT(mkdir)(path, mode); }
