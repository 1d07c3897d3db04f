/* What is known of processes: the machine, the own command line and namespace, whether another
 * process is gone, who has a heap open or mapped, and who may.
 *
 * Part of the level of sys.c: these are system calls too.
 *
 * A file that is mapped can be opened again by /proc/PID/map_files, but only with privileges
 * (CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN, not just in a user namespace); by /proc/PID/fd
 * without, while some process of this user has a descriptor of it. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "waiting.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

static uint64_t hash_bytes(const void *p, size_t n)
{
    const uint8_t *b = p;
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */

    for (size_t i = 0; i < n; i++)
        hash = (hash ^ b[i]) * 0x100000001b3u;
    return hash;
}

uint64_t shr__sys_machine(void)
{
    static shr_a64 machine;
    uint64_t known = load64_relaxed(&machine);

    if (!known) {
        char id[64] = "";
        int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
        ssize_t n = 0;
        if (fd >= 0) {
            n = read(fd, id, sizeof id);
            (void)close(fd);
        }
        known = hash_bytes(id, n > 0 ? (size_t)n : 0) | 1u;
        store64_relaxed(&machine, known);
    }
    return known;
}

/* Nothing is named "self" in a /proc that is only a directory. */
int shr__sys_has_proc(void)
{
    int saved = errno, found = access("/proc/self/fd", F_OK) == 0;

    errno = saved;
    return found;
}

/* Whose file it is, and its permission bits: 0, or -1. */
int shr__sys_mode(const char *path, uint32_t *uid, uint32_t *mode)
{
    struct stat st;

    if (lstat(path, &st) != 0)
        return -1;
    *uid = (uint32_t)st.st_uid;
    *mode = (uint32_t)st.st_mode & 0777u;
    return 0;
}

uint64_t shr__sys_ram(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);

    return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : (uint64_t)1 << 32;
}

uint32_t shr__sys_thread(void)
{
    return (uint32_t)syscall(SYS_gettid);
}

uint64_t shr__sys_pidns(void)
{
    struct stat st;

    return stat("/proc/self/ns/pid", &st) == 0 ? (uint64_t)st.st_ino : 0;
}

/* The start of the command line, readable: "python filter.py". */
void shr__sys_command(char out[32])
{
    char line[256] = "";
    int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, line, sizeof line - 1) : -1;
    size_t from = 0, to = 0;

    if (fd >= 0)
        (void)close(fd);
    memset(out, 0, 32);
    if (n <= 0)
        return;
    for (size_t i = 0; i < (size_t)n && line[i]; i++)
        if (line[i] == '/')
            from = i + 1;
    for (size_t i = from; i < (size_t)n && to < 31; i++) {
        unsigned char c = line[i] ? (unsigned char)line[i] : ' ';
        out[to++] = c < 32 || c == 127 ? '?' : (char)c;
    }
    while (to && out[to - 1] == ' ')
        out[--to] = 0;
}

/* Opens what a link of /proc leads to.  Only a regular file is opened for real: the link may be
 * stale and mean anything. */
static int open_link(const char *path)
{
    struct stat st;
    int at, own = -1;

    at = open(path, O_PATH | O_CLOEXEC);
    if (at < 0)
        return -1;
    if (fstat(at, &st) == 0 && S_ISREG(st.st_mode))
        own = shr__sys_reopen(at);
    else
        errno = EINVAL;
    int saved = errno;
    (void)close(at);
    errno = saved;
    return own;
}

int shr__sys_open_process(int pid, int fd)
{
    char path[64];

    (void)snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
    return open_link(path);
}

/* The file behind a mapping of one page that has no neighbour of the same kind. */
int shr__sys_open_page(const void *page)
{
    char path[96];
    uintptr_t at = (uintptr_t)page;

    (void)snprintf(path, sizeof path, "/proc/self/map_files/%llx-%llx", (unsigned long long)at,
                   (unsigned long long)at + SHR_PAGE);
    return open_link(path);
}

/* 1: the process has ended, be it a zombie.  0: it lives, or its number is another's by now, or
 * it can't be told.  The caller is in the namespace of the number. */
int shr__sys_gone(int pid)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0), gone;
    struct pollfd end = {.fd = fd, .events = POLLIN};

    if (fd < 0) /* no such process, no such call (Linux 5.3), or no number for a descriptor */
        return errno == ESRCH || (kill(pid, 0) != 0 && errno == ESRCH);
    gone = poll(&end, 1, 0) == 1 && (end.revents & POLLIN) != 0;
    (void)close(fd);
    return gone;
}

/* Each entry of /proc/PID/`kind`, a directory of links, whose target starts with `link`. */
static int each_link(int pid, const char *kind, const char *link,
                     int (*found)(int pid, const char *entry, void *), void *argument)
{
    char path[64], target[128];
    struct dirent *e;
    DIR *d;
    int stop = 0;

    (void)snprintf(path, sizeof path, "/proc/%d/%s", pid, kind);
    d = opendir(path);
    if (!d)
        return 0;
    while (!stop && (e = readdir(d)) != NULL) {
        ssize_t n = readlinkat(dirfd(d), e->d_name, target, sizeof target - 1);
        if (n <= 0)
            continue;
        target[n] = 0;
        if (strncmp(target, link, strlen(link)) == 0)
            stop = found(pid, e->d_name, argument);
    }
    (void)closedir(d);
    return stop;
}

static int open_entry(int pid, const char *entry, void *fd)
{
    char path[96];

    (void)snprintf(path, sizeof path, "/proc/%d/map_files/%.60s", pid, entry);
    *(int *)fd = open_link(path);
    return *(int *)fd >= 0 || errno == EPERM; /* then none may be opened */
}

/* A file whose link starts with `link` and that the process has mapped, or -1. */
int shr__sys_open_mapped(int pid, const char *link)
{
    int fd = -1;

    (void)each_link(pid, "map_files", link, open_entry, &fd);
    return fd;
}

struct descriptors {
    int (*found)(int pid, int fd, void *);
    void *argument;
};

static int found_descriptor(int pid, const char *entry, void *argument)
{
    const struct descriptors *d = argument;

    return d->found(pid, atoi(entry), d->argument);
}

/* Every descriptor of every process of ours whose link starts with `link`. */
int shr__sys_scan_memfd(const char *link, int (*found)(int pid, int fd, void *), void *argument)
{
    struct descriptors each = {found, argument};
    struct dirent *e;
    DIR *proc = opendir("/proc");
    int stop = 0;

    if (!proc)
        return 0;
    while (!stop && (e = readdir(proc)) != NULL) {
        int pid = atoi(e->d_name);
        if (pid > 0)
            stop = each_link(pid, "fd", link, found_descriptor, &each);
    }
    (void)closedir(proc);
    return stop;
}
