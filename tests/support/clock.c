/* Shifts the wall clock of the process that it is preloaded into.

   The file named by CLOCK holds one 64-bit integer: nanoseconds that are added to what the system says. It is mapped
   once, so a look at it is a read of memory, and a change counts at once, also for children that were forked. The clocks
   that no operator can set (CLOCK_MONOTONIC, CLOCK_BOOTTIME) are told as they are, and so are the times of files, which
   the kernel writes. Without the file nothing is shifted. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

static const volatile int64_t *control;
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void map(void)
{
    real_clock_gettime = (__typeof__(real_clock_gettime))dlsym(RTLD_NEXT, "clock_gettime");
    const char *name = getenv("CLOCK");
    int fd = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *place = mmap(NULL, sizeof *control, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (place != MAP_FAILED)
        control = place;
}

static int shifted(clockid_t id)
{
    return id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE || id == CLOCK_TAI;
}

int clock_gettime(clockid_t id, struct timespec *now)
{
    if (!real_clock_gettime) /* another library's constructor came first */
        real_clock_gettime = (__typeof__(real_clock_gettime))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real_clock_gettime(id, now);
    if (failed || !control || !shifted(id))
        return failed;
    int64_t by = *control;
    now->tv_sec += by / SECOND;
    now->tv_nsec += by % SECOND;
    if (now->tv_nsec >= SECOND) {
        now->tv_sec++;
        now->tv_nsec -= SECOND;
    } else if (now->tv_nsec < 0) {
        now->tv_sec--;
        now->tv_nsec += SECOND;
    }
    return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec exact;
    (void)zone; /* obsolete, and given by nobody */
    if (clock_gettime(CLOCK_REALTIME, &exact))
        return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *place)
{
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact))
        return -1;
    if (place)
        *place = exact.tv_sec;
    return exact.tv_sec;
}
