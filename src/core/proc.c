/* What /proc and a path tell: the machine, the own command line and namespace, who has a heap
 * open, and who may.
 *
 * Part of the level of sys.c: these are system calls too. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"

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

static int scan_process(int pid, const char *link, int (*found)(int, int, void *), void *argument)
{
    char path[64], target[128];
    struct dirent *e;
    DIR *d;
    int stop = 0;

    (void)snprintf(path, sizeof path, "/proc/%d/fd", pid);
    d = opendir(path);
    if (!d)
        return 0;
    while (!stop && (e = readdir(d)) != NULL) {
        ssize_t n = readlinkat(dirfd(d), e->d_name, target, sizeof target - 1);
        if (n <= 0)
            continue;
        target[n] = 0;
        if (strncmp(target, link, strlen(link)) == 0)
            stop = found(pid, atoi(e->d_name), argument);
    }
    (void)closedir(d);
    return stop;
}

/* Every descriptor of every process of ours whose link starts with `link`. */
int shr__sys_scan_memfd(const char *link, int (*found)(int pid, int fd, void *), void *argument)
{
    struct dirent *e;
    DIR *proc = opendir("/proc");
    int stop = 0;

    if (!proc)
        return 0;
    while (!stop && (e = readdir(proc)) != NULL) {
        int pid = atoi(e->d_name);
        if (pid > 0)
            stop = scan_process(pid, link, found, argument);
    }
    (void)closedir(proc);
    return stop;
}
