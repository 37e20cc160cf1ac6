/* Makes system calls fail in the process that it is preloaded into, where and when a file says so.

   The file named by FAULTS holds one line for each fault: "CALL ERRNO TEXT", for example "fdatasync 5 .record". A call
   on a path that contains TEXT fails (that of its descriptor, or the first one it was given); "TEXT$" is the end of a
   path. "*" stands for every call. An ERRNO below 0 lets the call through after so many milliseconds; one of -1 lets it
   hang until the line is gone. Each call that failed or hung is noted in the file FAULTS.hit, with the name of its
   thread: "main" for the first one of the process. An empty file lets everything through. Nothing here allocates: it
   may run anywhere. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* The real syscall(): ours is below. */
static long (*real_syscall(void))(long, ...)
{
    static long (*real)(long, ...);
    if (!real)
        real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return real;
}
#define raw real_syscall()

static int rules(char *text, size_t most)
{
    const char *name = getenv("FAULTS");
    if (!name)
        return 0;
    int fd = raw(SYS_openat, AT_FDCWD, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    long length = raw(SYS_read, fd, text, most - 1);
    raw(SYS_close, fd);
    if (length <= 0)
        return 0;
    text[length] = 0;
    return 1;
}

static void note(const char *call, const char *path)
{
    char name[PATH_MAX], line[PATH_MAX + 64];
    snprintf(name, sizeof name, "%s.hit", getenv("FAULTS"));
    int fd = raw(SYS_openat, AT_FDCWD, name, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    const char *thread = raw(SYS_gettid) == getpid() ? "main" : "thread";
    int length = snprintf(line, sizeof line, "%s %s %s\n", thread, call, path);
    if (fd >= 0) {
        raw(SYS_write, fd, line, length);
        raw(SYS_close, fd);
    }
}

static int named(const char *path, char *where)
{
    size_t end = strlen(where), length = strlen(path);
    if (!end || where[end - 1] != '$')
        return strstr(path, where) != NULL;
    where[--end] = 0;
    return length >= end && !strcmp(path + length - end, where);
}

/* What the file says of a call on `path`: the number of an error, milliseconds below 0, or 0. */
static int look(const char *call, const char *path)
{
    char text[4096], *rest = text, *line;
    int found = 0;
    if (path && rules(text, sizeof text))
        while (!found && (line = strsep(&rest, "\n"))) {
            char wanted[32], where[1024] = "";
            int code;
            if (sscanf(line, "%31s %d %1023s", wanted, &code, where) >= 2
                && (!strcmp(wanted, call) || !strcmp(wanted, "*")) && named(path, where))
                found = code;
        }
    return found;
}

static void rest_for(long milliseconds)
{
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    while (nanosleep(&time, &time))
        ;
}

/* The number of the error with which a call on `path` is to fail, or 0; after the time that it is to take. */
static int fault(const char *call, const char *path)
{
    int kept = errno, found = look(call, path);
    if (found)
        note(call, path);
    if (found == -1)
        while (look(call, path) == -1)
            rest_for(5);
    else if (found < 0)
        rest_for(-found);
    errno = kept;
    return found > 0 ? found : 0;
}

static int fault_fd(const char *call, int fd)
{
    char link[64], path[PATH_MAX];
    int kept = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long length = raw(SYS_readlink, link, path, sizeof path - 1);
    errno = kept;
    if (length < 0)
        return 0;
    path[length] = 0;
    return path[0] == '/' ? fault(call, path) : 0;
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define FAIL(code) do { int failed = (code); if (failed) { errno = failed; return -1; } } while (0)
#define ON_FD(name, call, result, parameters, arguments, fd) \
    result name parameters { FAIL(fault_fd(call, fd)); REAL(name); return real arguments; }
#define ON_PATH(name, call, result, parameters, arguments, path) \
    result name parameters { FAIL(fault(call, path)); REAL(name); return real arguments; }

/* Opening to read is "open", to make or to write "create" or "change". */
static const char *manner(int flags)
{
    return flags & O_CREAT ? "create" : (flags & O_ACCMODE) == O_RDONLY ? "open" : "change";
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        va_list more; va_start(more, flags); mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0; va_end(more); \
        FAIL(fault(manner(flags), path)); \
        REAL(name); \
        return real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

ON_FD(read, "read", ssize_t, (int fd, void *data, size_t size), (fd, data, size), fd)
ON_FD(pread, "pread", ssize_t, (int fd, void *data, size_t size, off_t at), (fd, data, size, at), fd)
ON_FD(pread64, "pread", ssize_t, (int fd, void *data, size_t size, off64_t at), (fd, data, size, at), fd)
ON_FD(sendfile64, "sendfile", ssize_t, (int to, int from, off64_t *at, size_t most), (to, from, at, most), from)
ON_FD(write, "write", ssize_t, (int fd, const void *data, size_t size), (fd, data, size), fd)
ON_FD(pwrite, "pwrite", ssize_t, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), fd)
ON_FD(pwrite64, "pwrite", ssize_t, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at), fd)
ON_FD(pwritev, "pwritev", ssize_t, (int fd, const struct iovec *data, int count, off_t at), (fd, data, count, at), fd)
ON_FD(pwritev64, "pwritev", ssize_t, (int fd, const struct iovec *data, int count, off64_t at), (fd, data, count, at), fd)
ON_FD(pwritev2, "pwritev", ssize_t, (int fd, const struct iovec *data, int count, off_t at, int flags), (fd, data, count, at, flags), fd)
ON_FD(pwritev64v2, "pwritev", ssize_t, (int fd, const struct iovec *data, int count, off64_t at, int flags), (fd, data, count, at, flags), fd)
ON_FD(fallocate64, "fallocate", int, (int fd, int mode, off64_t at, off64_t length), (fd, mode, at, length), fd)
ON_FD(ftruncate64, "truncate", int, (int fd, off64_t length), (fd, length), fd)
ON_FD(fsync, "fsync", int, (int fd), (fd), fd)
ON_FD(fdatasync, "fdatasync", int, (int fd), (fd), fd)
ON_FD(syncfs, "syncfs", int, (int fd), (fd), fd)
ON_FD(copy_file_range, "copy", ssize_t, (int from, off64_t *start, int to, off64_t *at, size_t most, unsigned flags), (from, start, to, at, most, flags), to)
ON_FD(splice, "splice", ssize_t, (int from, off64_t *start, int to, off64_t *at, size_t most, unsigned flags), (from, start, to, at, most, flags), to)
ON_FD(sync_file_range, "syncrange", int, (int fd, off64_t at, off64_t length, unsigned flags), (fd, at, length, flags), fd)
ON_FD(flock, "flock", int, (int fd, int how), (fd, how), fd)
ON_PATH(truncate64, "truncate", int, (const char *path, off64_t length), (path, length), path)
ON_PATH(mkdir, "mkdir", int, (const char *path, mode_t mode), (path, mode), path)
ON_PATH(lstat64, "stat", int, (const char *path, struct stat64 *found), (path, found), path)
ON_PATH(rename, "rename", int, (const char *path, const char *target), (path, target), path)
ON_PATH(unlink, "unlink", int, (const char *path), (path), path)
ON_PATH(link, "link", int, (const char *path, const char *target), (path, target), path)
ON_PATH(linkat, "link", int, (int from, const char *path, int to, const char *target, int flags), (from, path, to, target, flags), path)

int bind(int fd, const struct sockaddr *address, socklen_t length)
{
    if (address->sa_family == AF_UNIX)
        FAIL(fault("bind", ((const struct sockaddr_un *)address)->sun_path));
    REAL(bind);
    return real(fd, address, length);
}

/* openat2 has no function of its own. What is asked for here is what the kernel has in memory, and that neither fails
   nor hangs: a path with a fault is not in memory. */
long syscall(long number, ...)
{
    long given[6];
    va_list more;
    va_start(more, number);
    for (int at = 0; at < 6; at++)
        given[at] = va_arg(more, long);
    va_end(more);
    if (number == SYS_openat2 && look("open", (const char *)given[1])) {
        errno = EAGAIN;
        return -1;
    }
    return raw(number, given[0], given[1], given[2], given[3], given[4], given[5]);
}
