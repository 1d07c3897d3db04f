/* Where a message goes that is written to a descriptor.
 *
 * A pipe is its inode.  A message written to a unix socket is read from the *other* socket,
 * whose inode the kernel tells by sock_diag; one that nobody has accepted yet has none.  Both
 * must be of this thread's network namespace, or the inode could not be looked for later.
 * Everything else (named FIFOs, TCP, datagrams, files) is LOOSE.
 *
 * Asking costs some microseconds, so the answer for a socket is kept by descriptor number,
 * with the inode by which a number that was used again is noticed.  A stream socket keeps
 * its peer for life.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <linux/magic.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>

#include "judge.h"

#define KNOWN 128 /* sockets; a power of two: descriptors are small numbers */

typedef struct known {
    int fd;
    dev_t device;
    ino_t inode; /* 0: unused */
    sharena_place place;
} known;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static known cache[KNOWN]; /* under `lock` */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static uint64_t pipefs; /* its device + 1, atomically; 0: not met yet */

static void after_fork(void)
{
    static const pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;

    lock = fresh; /* another thread may have been in the middle of it */
    memset(cache, 0, sizeof cache);
}

static void prepare(void)
{
    (void)pthread_atfork(NULL, NULL, after_fork);
}

/* ---- sock_diag ---- */

static int ask(int fd, uint64_t inode)
{
    struct {
        struct nlmsghdr head;
        struct unix_diag_req body;
    } request = {
        .head = {.nlmsg_len = sizeof request,
                 .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                 .nlmsg_flags = NLM_F_REQUEST},
        .body = {.sdiag_family = AF_UNIX,
                 .udiag_states = ~0u,
                 .udiag_ino = (uint32_t)inode,
                 .udiag_show = UDIAG_SHOW_PEER,
                 .udiag_cookie = {~0u, ~0u}}, /* any */
    };
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};

    return sendto(fd, &request, sizeof request, 0, (struct sockaddr *)&kernel, sizeof kernel) ==
                   (ssize_t)sizeof request
               ? 0
               : -1;
}

static int read_answer(const struct nlmsghdr *head, size_t size, uint64_t inode, uint64_t *peer)
{
    if (!NLMSG_OK(head, size))
        return -1;
    if (head->nlmsg_type == NLMSG_ERROR) {
        const struct nlmsgerr *error = NLMSG_DATA(head);
        return head->nlmsg_len >= NLMSG_LENGTH(sizeof *error) && error->error == -ENOENT ? 0 : -1;
    }
    const struct unix_diag_msg *socket = NLMSG_DATA(head);
    if (head->nlmsg_type != SOCK_DIAG_BY_FAMILY ||
        head->nlmsg_len < NLMSG_LENGTH(sizeof *socket) || socket->udiag_ino != (uint32_t)inode)
        return -1;
    *peer = 0;
    size_t left = head->nlmsg_len - NLMSG_LENGTH(sizeof *socket);
    const char *at = (const char *)socket + NLMSG_ALIGN(sizeof *socket);
    while (left >= sizeof(struct nlattr)) {
        struct nlattr attribute;
        memcpy(&attribute, at, sizeof attribute);
        if (attribute.nla_len < sizeof attribute || attribute.nla_len > left)
            break;
        if (attribute.nla_type == UNIX_DIAG_PEER && attribute.nla_len >= sizeof attribute + 4) {
            uint32_t number;
            memcpy(&number, at + sizeof attribute, sizeof number);
            *peer = number;
        }
        size_t step = NLA_ALIGN(attribute.nla_len);
        if (step >= left)
            break;
        at += step;
        left -= step;
    }
    return 1;
}

int ext_socket_find(uint64_t inode, uint64_t *peer)
{
    _Alignas(struct nlmsghdr) char answer[1024];
    int fd = -1, result = -1;

    if (inode == 0 || inode > UINT32_MAX)
        return -1;
    ext_brief_begin();
    fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (fd >= 0 && ask(fd, inode) == 0) { /* the kernel answers before sendto() returns */
        ssize_t n = recv(fd, answer, sizeof answer, MSG_DONTWAIT);
        if (n > 0)
            result = read_answer((const struct nlmsghdr *)(const void *)answer, (size_t)n, inode,
                                 peer);
    }
    if (fd >= 0)
        (void)close(fd);
    ext_brief_end();
    return result;
}

int ext_sockets_each(void (*each)(uint64_t inode, void *), void *argument)
{
    char *line = NULL;
    size_t room = 0;
    unsigned long inode;

    ext_brief_begin();
    FILE *table = fopen("/proc/thread-self/net/unix", "re");
    int result = table == NULL ? -1 : 0;
    while (table != NULL && getline(&line, &room, table) >= 0)
        if (sscanf(line, "%*s %*s %*s %*s %*s %*s %lu", &inode) == 1)
            each(inode, argument);
    if (table != NULL && ferror(table))
        result = -1;
    free(line);
    if (table != NULL)
        (void)fclose(table);
    ext_brief_end();
    return result;
}

/* ---- places ---- */

static void set_place(sharena_place *out, enum sharena_place_kind kind, uint64_t id,
                      uint64_t where)
{
    memset(out, 0, sizeof *out);
    out->kind = (uint32_t)kind;
    out->id = id;
    out->where = where;
}

/* A FIFO of the kernel's own file system, which no name leads to. */
static int is_pipe(int fd, const struct stat *st)
{
    uint64_t device = (uint64_t)st->st_dev + 1;
    struct statfs fs;

    if (__atomic_load_n(&pipefs, __ATOMIC_RELAXED) == device)
        return 1;
    if (fstatfs(fd, &fs) != 0 || fs.f_type != PIPEFS_MAGIC)
        return 0;
    __atomic_store_n(&pipefs, device, __ATOMIC_RELAXED); /* there is only one */
    return 1;
}

static int option(int fd, int name)
{
    int value = -1;
    socklen_t size = sizeof value;

    return getsockopt(fd, SOL_SOCKET, name, &value, &size) == 0 ? value : -1;
}

/* Returns whether the answer holds for the life of the socket. */
static int look_up(int fd, ino_t inode, sharena_place *out)
{
    uint64_t peer = 0, back = 0, space;

    if (option(fd, SO_DOMAIN) != AF_UNIX || option(fd, SO_TYPE) != SOCK_STREAM)
        return 1;
    if (ext_socket_find((uint64_t)inode, &peer) != 1 || peer == 0)
        return 0;
    /* A path leads into other network namespaces; the peer must be found in this one. */
    if (ext_socket_find(peer, &back) != 1 || back != (uint64_t)inode)
        return 0;
    space = ext_namespace("net");
    if (space == 0)
        return 0;
    set_place(out, SHARENA_PLACE_SOCKET, peer, space);
    return 1;
}

static void place_socket(int fd, const struct stat *st, sharena_place *out)
{
    known *k = &cache[(unsigned)fd % KNOWN];

    (void)pthread_once(&once, prepare);
    (void)pthread_mutex_lock(&lock);
    int found = k->fd == fd && k->inode == st->st_ino && k->device == st->st_dev;
    if (found)
        *out = k->place;
    (void)pthread_mutex_unlock(&lock);
    if (found || !look_up(fd, st->st_ino, out))
        return;
    (void)pthread_mutex_lock(&lock);
    *k = (known){.fd = fd, .device = st->st_dev, .inode = st->st_ino, .place = *out};
    (void)pthread_mutex_unlock(&lock);
}

int ext_place_of(int fd, sharena_place *out)
{
    struct stat st;
    int saved = errno, result = 0;

    set_place(out, SHARENA_PLACE_LOOSE, 0, 0);
    if (fstat(fd, &st) != 0)
        result = -1;
    else if (S_ISFIFO(st.st_mode) && is_pipe(fd, &st))
        set_place(out, SHARENA_PLACE_PIPE, (uint64_t)st.st_ino, 0);
    else if (S_ISSOCK(st.st_mode))
        place_socket(fd, &st, out);
    errno = saved;
    return result;
}

int ext_place_of_child(pid_t pid, sharena_place *out)
{
    ext_proc_view view;
    uint64_t start = 0, space = ext_namespace("pid");
    int saved = errno, result = -1;

    set_place(out, SHARENA_PLACE_LOOSE, 0, 0);
    ext_proc_view_read(&view);
    if (pid > 0 && view.usable && space != 0 && space <= UINT32_MAX) {
        int gone = ext_process_gone(pid, &start);
        if (gone == 1 || (gone == 0 && start != 0)) {
            set_place(out, SHARENA_PLACE_CHILD, gone ? 0 : start, space << 32 | (uint32_t)pid);
            result = 0;
        }
    }
    errno = saved;
    return result;
}
