/* Who could have an end of a channel that can't be seen.
 *
 * That no end of a pipe is found means something only if everybody who may have one was
 * looked at.  That is who uses the heap, and their descendants, which inherit: the processes
 * themselves, and sockets and rings in which descriptors lie.  Other processes that can't be
 * looked into, some of which every machine has, don't count, or no verdict would ever be
 * given.
 *
 * Under hidepid= a process that can't be looked into is not even listed.  Its parent's list
 * of children tells it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "judge.h"

#define GENERATIONS 64 /* of ancestors; more are taken for a descent */

void ext_obstacle_set(ext_obstacles *o, const char *format, ...)
{
    va_list arguments;

    if (o->text[0] != 0)
        return;
    va_start(arguments, format);
    (void)vsnprintf(o->text, sizeof o->text, format, arguments);
    va_end(arguments);
}

/* ---- without a walk ---- */

/* Descriptors in a socket's queue are counted from Linux 5.6 on, in an accept queue from
 * 6.2 on. */
static int kernel_at_least(int major, int minor)
{
    struct utsname name;
    int a = 0, b = 0;

    if (uname(&name) != 0 || sscanf(name.release, "%d.%d", &a, &b) != 2)
        return 0;
    return a > major || (a == major && b >= minor);
}

void ext_obstacles_init(ext_obstacles *o, const sharena_inquiry *inquiry, uint8_t *seen)
{
    uint64_t space = ext_namespace("pid");

    memset(o, 0, sizeof *o);
    o->inquiry = inquiry;
    o->seen = seen;
    ext_proc_view_read(&o->view);
    if (!o->view.usable)
        ext_obstacle_set(o, "/proc doesn't show the processes of this pid namespace");
    if ((inquiry->mode & 077) != 0)
        ext_obstacle_set(o, "the heap is open to other users (mode %04o)", inquiry->mode);
    if (!kernel_at_least(5, 6))
        ext_obstacle_set(o, "this kernel doesn't tell which sockets hold descriptors");
    o->old_kernel = !kernel_at_least(6, 2);
    for (size_t i = 0; i < inquiry->n_members; i++) {
        o->guests += inquiry->members[i].guests;
        if (space == 0 || inquiry->members[i].pidns != space)
            ext_obstacle_set(o, "process %d is in another pid namespace",
                             (int)inquiry->members[i].pid);
    }
}

/* ---- descent ---- */

static int is_member(const ext_obstacles *o, pid_t pid)
{
    for (size_t i = 0; i < o->inquiry->n_members; i++)
        if (o->inquiry->members[i].pid == pid)
            return 1;
    return 0;
}

static int descends(const ext_obstacles *o, pid_t pid)
{
    ext_process_stat stat;

    for (int i = 0; i < GENERATIONS; i++) {
        if (is_member(o, pid))
            return 1;
        if (pid <= 1)
            return 0;
        if (ext_process_stat_read(pid, &stat) < 0)
            return errno != ENOENT && errno != ESRCH && !o->view.hides;
        pid = stat.parent;
    }
    return 1;
}

/* Alive, and can't be looked into; hidepid= may deny that it is there. */
static int is_hidden(pid_t pid)
{
    char path[40];
    uint64_t start;

    (void)snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)close(fd);
        return 0;
    }
    return ext_process_gone(pid, &start) != 1;
}

static void look_for_hidden_children(ext_obstacles *o, pid_t pid, const char *task)
{
    char path[64], name[32], list[16384]; /* some two thousand children */

    (void)snprintf(path, sizeof path, "/proc/%d/task/%s/children", (int)pid, task);
    ssize_t n = ext_proc_read(path, list, sizeof list);
    if (n < 0 && errno == ENOENT && access("/proc/thread-self/children", F_OK) == 0)
        return; /* it has ended */
    if ((n < 0 && errno != ESRCH) || n == (ssize_t)sizeof list - 1)
        ext_obstacle_set(o, "/proc hides processes and doesn't list the children of %d",
                         (int)pid);
    if (n < 0)
        return;
    for (char *at = list, *next; *at != 0; at = next) {
        pid_t child = (pid_t)strtol(at, &next, 10);
        if (next == at)
            break;
        if (is_hidden(child)) {
            ext_process_name(pid, name);
            ext_obstacle_set(o, "process %d, a child of %d (%s), can't be looked into",
                             (int)child, (int)pid, name);
        }
    }
}

static void look_at_children(ext_obstacles *o, pid_t pid)
{
    char path[40];
    struct dirent *e;

    (void)snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    if (tasks == NULL && errno != ENOENT && errno != ESRCH)
        ext_obstacle_set(o, "/proc hides processes and doesn't list the children of %d",
                         (int)pid);
    while (tasks != NULL && (e = readdir(tasks)) != NULL)
        if (e->d_name[0] != '.')
            look_for_hidden_children(o, pid, e->d_name);
    if (tasks != NULL)
        (void)closedir(tasks);
}

/* ---- in a walk ---- */

static int user_of(pid_t pid, uid_t *user)
{
    char path[32];
    struct stat st;

    (void)snprintf(path, sizeof path, "/proc/%d", (int)pid);
    if (stat(path, &st) != 0)
        return -1;
    *user = st.st_uid;
    return 0;
}

/* Guests are forked from a process that uses the heap, so they are younger than one that
 * has some. */
static int may_be_guest(const ext_obstacles *o, pid_t pid)
{
    ext_process_stat it, origin;
    uid_t user;

    if (o->guests == 0 || user_of(pid, &user) != 0 || user != geteuid())
        return 0;
    if (ext_process_stat_read(pid, &it) < 0)
        return errno != ENOENT && errno != ESRCH;
    for (size_t i = 0; i < o->inquiry->n_members; i++) {
        const sharena_member *m = &o->inquiry->members[i];
        if (m->guests > 0 &&
            (ext_process_stat_read(m->pid, &origin) < 0 || it.start >= origin.start))
            return 1;
    }
    return 0;
}

static void member_met(ext_obstacles *o, size_t i, enum ext_table table)
{
    pid_t pid = o->inquiry->members[i].pid;
    uid_t user;
    char name[32];

    o->seen[i] = 1;
    ext_process_name(pid, name);
    if (table == EXT_TABLE_UNREADABLE)
        ext_obstacle_set(o, "process %d (%s) can't be looked into", (int)pid, name);
    else if (table == EXT_TABLE_EMPTY && o->inquiry->members[i].guests > 0)
        ext_obstacle_set(o, "process %d has ended, and %u forked from it use the heap", (int)pid,
                         o->inquiry->members[i].guests);
    else if (user_of(pid, &user) == 0 && user != geteuid())
        ext_obstacle_set(o, "process %d (%s) belongs to another user", (int)pid, name);
}

void ext_obstacles_process(ext_obstacles *o, pid_t pid, enum ext_table table)
{
    char name[32];
    int member = 0;

    for (size_t i = 0; i < o->inquiry->n_members; i++) {
        if (o->inquiry->members[i].pid == pid) {
            member_met(o, i, table);
            member = 1;
        }
    }
    if (!member && table == EXT_TABLE_UNREADABLE) {
        ext_process_name(pid, name);
        if (descends(o, pid))
            ext_obstacle_set(o,
                             "process %d (%s), started by one that uses the heap, can't be "
                             "looked into",
                             (int)pid, name);
        else if (may_be_guest(o, pid))
            ext_obstacle_set(o,
                             "process %d (%s) can't be looked into, and may use the heap "
                             "as a fork of one that does",
                             (int)pid, name);
    }
    if (o->view.hides && table != EXT_TABLE_UNREADABLE && descends(o, pid))
        look_at_children(o, pid);
}

/* ---- what holds descriptors ---- */

static void note_waiting(uint64_t inode, void *argument)
{
    if (inode == 0)
        *(int *)argument = 1;
}

/* On kernels that don't count them: who waits to be accepted has no inode yet. */
static int anybody_waits(void)
{
    int waits = 0;

    return ext_sockets_each(note_waiting, &waits) < 0 || waits;
}

/* Only unix sockets have the line of `scm_fds`.  A ring that is busy shows nothing of
 * `UserFiles`, and counts as one that has some. */
void ext_obstacles_holder(ext_obstacles *o, const ext_end *end)
{
    int ring = end->kind == EXT_END_RING;
    long count;
    char name[32];

    if (o->text[0] != 0)
        return;
    count = ext_end_info(end, ring ? "UserFiles" : "scm_fds");
    if (count == 0 || count == -2 || (count == -1 && !ring))
        return;
    ext_process_name(end->pid, name);
    if (count == -4)
        ext_obstacle_set(o, "%s", EXT_SHORTAGE);
    else if (count == -3)
        ext_obstacle_set(o, "process %d (%s) can't be looked into", (int)end->pid, name);
    else if (ring)
        ext_obstacle_set(o, "an io_uring of process %d (%s) holds descriptors", (int)end->pid,
                         name);
    else
        ext_obstacle_set(o, "a socket of process %d (%s) holds descriptors on their way",
                         (int)end->pid, name);
}

void ext_obstacles_end(ext_obstacles *o)
{
    for (size_t i = 0; i < o->inquiry->n_members; i++) {
        const sharena_member *m = &o->inquiry->members[i];
        if (o->seen[i])
            continue;
        if (m->guests > 0)
            ext_obstacle_set(o, "process %d has ended, and %u forked from it use the heap",
                             (int)m->pid, m->guests);
        else if (m->pid <= 0 || kill(m->pid, 0) == 0 || errno != ESRCH)
            ext_obstacle_set(o, "process %d is hidden", (int)m->pid);
    }
    if (o->old_kernel && o->text[0] == 0 && anybody_waits())
        ext_obstacle_set(o, "a connection waits to be accepted, and this kernel doesn't tell "
                            "what lies in it");
}
