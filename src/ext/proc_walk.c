/* A walk over the descriptors of all processes that can be seen.
 *
 * /proc/PID/fd is the table of the main thread.  Threads share it, except those that left it
 * by unshare(CLONE_FILES), and except that a main thread which has ended has none: then its
 * directory is empty, or even unreadable (it belongs to root), while the others go on.  So a
 * thorough walk goes through the tasks too; kcmp() says which share a table with one already
 * seen.  Where system calls are filtered, kcmp() could be deadly, and every task is read.
 *
 * A descriptor can move to a process already passed while the walk goes on.  Nothing here
 * helps against that; who concludes from not finding an end must look twice.
 *
 * A fork while another thread walks copies the walk's directories into the child, which
 * closes them.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/kcmp.h>

#include "judge.h"

enum level { LEVEL_PROC, LEVEL_TASKS, LEVEL_TABLE, LEVELS };

static pthread_mutex_t walking = PTHREAD_MUTEX_INITIALIZER;
static int held[LEVELS] = {-1, -1, -1}; /* changed under ext_brief_begin() */
static pthread_once_t once = PTHREAD_ONCE_INIT;

typedef struct walker {
    ext_walk *walk;
    pid_t self; /* in the numbers of this /proc */
    int proc;
} walker;

static void after_fork(void)
{
    static const pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;

    walking = fresh;
    for (int i = 0; i < LEVELS; i++) {
        if (held[i] >= 0)
            (void)close(held[i]);
        held[i] = -1;
    }
}

static void prepare(void)
{
    (void)pthread_atfork(NULL, NULL, after_fork);
}

/* ---- directories ---- */

typedef struct listing {
    int fd;
    enum level level;
    int failed;
    long next, end;
    _Alignas(8) char buffer[4096];
} listing;

typedef struct entry { /* the kernel's linux_dirent64 */
    uint64_t inode;
    int64_t offset;
    uint16_t length;
    uint8_t type;
    char name[];
} entry;

static int list_open(listing *l, enum level level, int at, const char *path)
{
    ext_brief_begin();
    l->fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int error = errno;
    held[level] = l->fd;
    ext_brief_end();
    l->level = level;
    l->failed = 0;
    l->next = l->end = 0;
    errno = error;
    return l->fd < 0 ? -1 : 0;
}

static void list_close(listing *l)
{
    ext_brief_begin();
    held[l->level] = -1;
    (void)close(l->fd);
    ext_brief_end();
}

/* The next entry that is a number, or NULL. */
static const char *list_next(listing *l)
{
    for (;;) {
        if (l->next >= l->end) {
            l->end = syscall(SYS_getdents64, l->fd, l->buffer, sizeof l->buffer);
            l->next = 0;
            if (l->end <= 0) {
                l->failed = l->end < 0 && errno != ENOENT && errno != ESRCH;
                return NULL;
            }
        }
        entry *e = (entry *)(void *)(l->buffer + l->next);
        l->next += e->length;
        if (e->name[0] >= '0' && e->name[0] <= '9')
            return e->name;
    }
}

/* ---- one table ---- */

static enum ext_table refused(walker *k, int error)
{
    switch (error) {
    case ENOENT:
    case ESRCH:
        return EXT_TABLE_GONE;
    case EACCES:
    case EPERM:
        return EXT_TABLE_UNREADABLE;
    default:
        k->walk->failed = 1;
        return EXT_TABLE_SEEN;
    }
}

/* 0, or -1: no right to look. */
static int visit(walker *k, ext_end *end, const char *number)
{
    char target[48];
    ssize_t n = readlinkat(end->dir, number, target, sizeof target - 1);

    if (n < 0) {
        if (errno == ENAMETOOLONG) /* some file */
            return 0;
        enum ext_table why = refused(k, errno);
        return why == EXT_TABLE_UNREADABLE ? -1 : 0;
    }
    target[n] = 0;
    end->number = number;
    end->inode = 0;
    if (strncmp(target, "pipe:[", 6) == 0) {
        end->kind = EXT_END_PIPE;
        end->inode = strtoull(target + 6, NULL, 10);
    } else if (strncmp(target, "socket:[", 8) == 0) {
        end->kind = EXT_END_SOCKET;
        end->inode = strtoull(target + 8, NULL, 10);
    } else if (strcmp(target, "anon_inode:[io_uring]") == 0) {
        end->kind = EXT_END_RING;
    } else {
        return 0;
    }
    k->walk->end(end, k->walk->argument, k->walk);
    return 0;
}

/* A task that has ended, whose directory belongs to root whoever it was. */
static int has_ended(const walker *k, const char *base)
{
    char path[64], text[512];

    (void)snprintf(path, sizeof path, "%s/stat", base);
    if (ext_proc_read_at(k->proc, path, text, sizeof text) < 0)
        return 0;
    const char *after = strrchr(text, ')');
    return after != NULL && after[1] == ' ' && (after[2] == 'Z' || after[2] == 'X');
}

static enum ext_table walk_table(walker *k, pid_t pid, const char *base)
{
    char path[64];
    listing table;
    const char *number;
    int any = 0, denied = 0;

    (void)snprintf(path, sizeof path, "%s/fd", base);
    if (list_open(&table, LEVEL_TABLE, k->proc, path) < 0) {
        enum ext_table why = refused(k, errno);
        if (why == EXT_TABLE_UNREADABLE && k->walk->thorough && has_ended(k, base))
            return EXT_TABLE_EMPTY;
        return why;
    }
    ext_end end = {.own = pid == k->self, .pid = pid, .proc = k->proc, .base = base};
    end.dir = table.fd;
    while (!denied && !k->walk->stop && (number = list_next(&table)) != NULL) {
        any = 1;
        denied = visit(k, &end, number) < 0;
    }
    if (table.failed)
        k->walk->failed = 1;
    list_close(&table);
    if (denied)
        return EXT_TABLE_UNREADABLE;
    return any ? EXT_TABLE_SEEN : EXT_TABLE_EMPTY;
}

/* ---- processes ---- */

static int share_a_table(const walker *k, pid_t one, pid_t other)
{
    return k->walk->compare && syscall(SYS_kcmp, one, other, KCMP_FILES, 0, 0) == 0;
}

/* Tables of tasks that differ from the main thread's, which was `leader`. */
static enum ext_table walk_tasks(walker *k, pid_t pid, enum ext_table leader)
{
    char path[64];
    listing tasks;
    const char *number;
    enum ext_table result = leader;
    pid_t last = leader == EXT_TABLE_SEEN ? pid : 0; /* a task whose table was walked */

    (void)snprintf(path, sizeof path, "%d/task", (int)pid);
    if (list_open(&tasks, LEVEL_TASKS, k->proc, path) < 0) {
        enum ext_table why = refused(k, errno);
        return why == EXT_TABLE_UNREADABLE ? why : leader;
    }
    while (!k->walk->stop && (number = list_next(&tasks)) != NULL) {
        pid_t tid = (pid_t)atoi(number);
        if (tid == pid || (last != 0 && share_a_table(k, last, tid)))
            continue;
        (void)snprintf(path, sizeof path, "%d/task/%d", (int)pid, (int)tid);
        enum ext_table one = walk_table(k, pid, path);
        if (one == EXT_TABLE_UNREADABLE) {
            result = one;
        } else if (one == EXT_TABLE_SEEN) {
            last = tid;
            if (result == EXT_TABLE_EMPTY)
                result = one;
        }
    }
    if (tasks.failed)
        k->walk->failed = 1;
    list_close(&tasks);
    return result;
}

static int has_threads(const walker *k, const char *base)
{
    char path[64];
    struct stat st;

    (void)snprintf(path, sizeof path, "%s/task", base);
    return fstatat(k->proc, path, &st, 0) != 0 || st.st_nlink > 3; /* ., .. and the first */
}

static void walk_process(walker *k, const char *name)
{
    char base[16];
    pid_t pid = (pid_t)atoi(name);

    (void)snprintf(base, sizeof base, "%d", (int)pid);
    enum ext_table seen = walk_table(k, pid, base);
    if (k->walk->thorough && !k->walk->stop &&
        (seen == EXT_TABLE_EMPTY || (seen == EXT_TABLE_SEEN && has_threads(k, base))))
        seen = walk_tasks(k, pid, seen);
    if (k->walk->process != NULL && seen != EXT_TABLE_GONE)
        k->walk->process(pid, seen, k->walk->argument, k->walk);
}

static void walk_all(walker *k)
{
    char self[16];
    listing processes;
    const char *name;

    if (list_open(&processes, LEVEL_PROC, AT_FDCWD, "/proc") < 0) {
        k->walk->failed = 1;
        return;
    }
    k->proc = processes.fd;
    ssize_t n = readlinkat(k->proc, "self", self, sizeof self - 1);
    self[n > 0 ? n : 0] = 0;
    k->self = (pid_t)atoi(self);
    k->walk->failed = k->self <= 0;
    if (k->walk->own_only && k->self > 0)
        walk_process(k, self);
    while (!k->walk->own_only && !k->walk->stop && (name = list_next(&processes)) != NULL)
        walk_process(k, name);
    if (processes.failed)
        k->walk->failed = 1;
    list_close(&processes);
}

void ext_walk_run(ext_walk *walk)
{
    walker k = {.walk = walk};

    (void)pthread_once(&once, prepare);
    (void)pthread_mutex_lock(&walking);
    walk_all(&k);
    (void)pthread_mutex_unlock(&walking);
}

/* ---- one end ---- */

long ext_end_info(const ext_end *end, const char *key)
{
    char path[96], text[2048];
    size_t length = strlen(key);

    (void)snprintf(path, sizeof path, "%s/fdinfo/%s", end->base, end->number);
    if (ext_proc_read_at(end->proc, path, text, sizeof text) < 0)
        return errno == ENOENT || errno == ESRCH   ? -2
               : errno == EACCES || errno == EPERM ? -3
                                                   : -4;
    for (const char *line = text; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, length) == 0 && line[length] == ':')
            return strtol(line + length + 1, NULL, 10);
    }
    return -1;
}

int ext_end_modes(const ext_end *end)
{
    struct stat st;

    if (fstatat(end->dir, end->number, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return -1;
    return (st.st_mode & S_IRUSR ? 4 : 0) | (st.st_mode & S_IWUSR ? 2 : 0);
}

/* A descriptor of its own for the pipe's writing end.  Never opens for real what it has not
 * looked at: by now the number may mean a device. */
static int copy_writing_end(const ext_end *end)
{
    char path[40];
    struct stat st;

    if (end->own) { /* works also where the pipe belongs to another user */
        int copy = fcntl(atoi(end->number), F_DUPFD_CLOEXEC, 0);
        int flags = copy < 0 ? -1 : fcntl(copy, F_GETFL);
        if (flags >= 0 && (flags & O_ACCMODE) == O_WRONLY)
            return copy;
        if (copy >= 0) /* the table of another thread, or changed just now */
            (void)close(copy);
    }
    int at = openat(end->dir, end->number, O_PATH | O_CLOEXEC), copy = -1;
    if (at < 0)
        return -1;
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", at);
    if (fstat(at, &st) == 0 && S_ISFIFO(st.st_mode) && st.st_ino == end->inode)
        copy = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    (void)close(at);
    return copy;
}

/* The kernel sets POLLERR on a writing end if and only if it counts no reader, wherever
 * reading ends are: in tables, in sockets, or held by a thread that is reading. */
int ext_end_unread(const ext_end *end)
{
    struct stat st;
    int result = -1;

    ext_brief_begin();
    int copy = copy_writing_end(end);
    if (copy >= 0) {
        struct pollfd p = {.fd = copy, .events = POLLOUT};
        if (fstat(copy, &st) == 0 && S_ISFIFO(st.st_mode) && st.st_ino == end->inode &&
            poll(&p, 1, 0) >= 0 && !(p.revents & POLLNVAL))
            result = (p.revents & POLLERR) != 0;
        (void)close(copy);
    }
    ext_brief_end();
    return result;
}
