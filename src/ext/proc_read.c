/* What /proc says about one process, and about /proc itself.
 *
 * Start times identify a process whose number may be used again.  The kernel shows them
 * shifted by the time namespace of the reader, so the shift is taken off; where it can't be
 * known (a process that made a time namespace for its children) there is no start time.
 *
 * A fork in another thread waits while a file is open here: a child must not get it, least of
 * all the copy of a pipe's writing end (proc_walk.c), which would keep the pipe's reader from
 * the end of file for as long as the child lives.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <linux/magic.h>

#include "judge.h"

static pthread_mutex_t brief = PTHREAD_MUTEX_INITIALIZER; /* innermost */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void before_fork(void)
{
    (void)pthread_mutex_lock(&brief);
}

static void after_fork(void)
{
    (void)pthread_mutex_unlock(&brief);
}

static void prepare(void)
{
    (void)pthread_atfork(before_fork, after_fork, after_fork);
}

void ext_brief_begin(void)
{
    (void)pthread_once(&once, prepare);
    (void)pthread_mutex_lock(&brief);
}

void ext_brief_end(void)
{
    (void)pthread_mutex_unlock(&brief);
}

ssize_t ext_proc_read_at(int at, const char *path, char *out, size_t size)
{
    size_t used = 0;
    ssize_t n = -1;

    ext_brief_begin();
    int fd = openat(at, path, O_RDONLY | O_CLOEXEC);
    int error = errno;
    if (fd >= 0) {
        do {
            n = read(fd, out + used, size - 1 - used);
            error = errno;
            used += n > 0 ? (size_t)n : 0;
        } while ((n > 0 && used < size - 1) || (n < 0 && error == EINTR));
        (void)close(fd);
    }
    ext_brief_end();
    out[used] = 0;
    errno = error;
    return n < 0 ? -1 : (ssize_t)used;
}

ssize_t ext_proc_read(const char *path, char *out, size_t size)
{
    return ext_proc_read_at(AT_FDCWD, path, out, size);
}

uint64_t ext_namespace(const char *which)
{
    char path[64];
    struct stat st;

    (void)snprintf(path, sizeof path, "/proc/thread-self/ns/%s", which);
    return stat(path, &st) == 0 ? (uint64_t)st.st_ino : 0;
}

/* Clock ticks that this process's time namespace adds to start times.  0, or -1. */
static int time_shift(int64_t *ticks)
{
    uint64_t mine = ext_namespace("time");
    char text[256];
    long long s, ns;

    *ticks = 0;
    if (mine == 0) /* a kernel before 5.6, unless there is no /proc */
        return access("/proc/self/ns/pid", F_OK);
    if (ext_proc_read("/proc/self/timens_offsets", text, sizeof text) < 0)
        return -1;
    const char *line = strstr(text, "boottime");
    if (line == NULL || sscanf(line + 8, "%lld %lld", &s, &ns) != 2)
        return -1;
    if (mine != ext_namespace("time_for_children")) /* these are the children's offsets */
        return -1;
    long rate = sysconf(_SC_CLK_TCK);
    *ticks = s * rate + ns / (1000000000 / rate);
    return 0;
}

int ext_process_stat_read(pid_t pid, ext_process_stat *out)
{
    char path[40], text[1024], state;
    int parent;
    long threads;
    unsigned long long start;

    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (ext_proc_read(path, text, sizeof text) < 0)
        return -1;
    const char *after = strrchr(text, ')'); /* the name may have any characters */
    if (after == NULL || sscanf(after + 1,
                                " %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d "
                                "%*d %*d %ld %*d %llu",
                                &state, &parent, &threads, &start) != 4) {
        errno = EIO;
        return -1;
    }
    out->state = state;
    out->parent = parent;
    out->threads = threads;
    out->start = start;
    return 0;
}

/* Its state is Z also when only the main thread has ended; then others are counted. */
int ext_process_gone(pid_t pid, uint64_t *start)
{
    ext_process_stat stat;
    int64_t shift;

    *start = 0;
    if (pid <= 0)
        return 1;
    if (ext_process_stat_read(pid, &stat) < 0) /* hidepid= may hide a live one */
        return kill(pid, 0) < 0 && errno == ESRCH ? 1 : -1;
    if ((stat.state == 'Z' || stat.state == 'X') && stat.threads <= 1)
        return 1;
    if (time_shift(&shift) == 0)
        *start = (uint64_t)((int64_t)stat.start - shift);
    return 0;
}

void ext_process_name(pid_t pid, char out[32])
{
    char path[40];

    (void)snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
    if (ext_proc_read(path, out, 32) <= 0)
        (void)snprintf(out, 32, "?");
    out[strcspn(out, "\n")] = 0;
    for (char *c = out; *c != 0; c++)
        if ((unsigned char)*c < 32 || *c == 127)
            *c = '?';
}

/* The last mount on /proc is the one that is seen. */
static int is_hiding(void)
{
    char *line = NULL;
    size_t room = 0;

    ext_brief_begin();
    FILE *mounts = fopen("/proc/self/mountinfo", "re");
    int hides = mounts == NULL;
    while (mounts != NULL && getline(&line, &room, mounts) >= 0) {
        char at[64];
        if (sscanf(line, "%*s %*s %*s %*s %63s", at) == 1 && strcmp(at, "/proc") == 0)
            hides = strstr(line, "hidepid=") != NULL;
    }
    free(line);
    if (mounts != NULL)
        (void)fclose(mounts);
    ext_brief_end();
    return hides;
}

void ext_proc_view_read(ext_proc_view *out)
{
    struct statfs fs;
    char text[4096];
    int pid, seccomp = 1, end = 0;

    memset(out, 0, sizeof *out);
    out->seccomp = 1;
    if (statfs("/proc", &fs) != 0 || fs.f_type != PROC_SUPER_MAGIC ||
        ext_proc_read("/proc/self/status", text, sizeof text) < 0)
        return;
    const char *filter = strstr(text, "\nSeccomp:");
    if (filter != NULL && sscanf(filter, "\nSeccomp: %d", &seccomp) == 1)
        out->seccomp = seccomp != 0;
    /* A process's number in each namespace, from that of this /proc to its own: one. */
    const char *numbers = strstr(text, "\nNSpid:");
    out->usable = numbers != NULL && sscanf(numbers, "\nNSpid: %d%n", &pid, &end) == 1 &&
                  numbers[end] == '\n' && pid == (int)getpid();
    out->hides = is_hiding();
}
