/* Heaps: making, finding, joining and leaving one.
 *
 * Unnamed heaps are memfds sealed against shrinking: not bounded by the size of /dev/shm, gone
 * with their last user.  Named ones are files in /dev/shm, made whole under no name (O_TMPFILE)
 * and linked then: a creator that dies leaves nothing, and nobody ever opens half a heap.
 *
 * A file is opened by O_PATH first, must be a regular file of this user on a local file
 * system, and its superblock is checked against the layout that its own size demands; the
 * private copy is used from then on.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "internal.h"

static int bad_name(const char *name)
{
    return shr__fail(SHARENA_EINVAL,
                     "'%.80s' is no name for a heap: use 1 to 64 letters, digits, '.', '_' and "
                     "'-', not starting with '.'",
                     name);
}

static void path_of(const char *name, char path[128])
{
    (void)snprintf(path, 128, "/dev/shm/sharena.%s", name);
}

/* ---- create --------------------------------------------------------------------------------------------- */

static int open_backing(const struct super_shm *s)
{
    char name[32];
    int fd;

    if (s->name[0])
        return shr__sys_tmpfile("/dev/shm", s->mode);
    (void)snprintf(name, sizeof name, "sharena:%02x%02x%02x%02x", s->uuid[0], s->uuid[1],
                   s->uuid[2], s->uuid[3]);
    fd = shr__sys_memfd(name);
    return fd;
}

static int create_in(sharena_heap *h)
{
    const struct super_shm *s = &h->super;
    int fd = (int)load32_relaxed(&h->fd), code;
    char size[24];

    if (shr__sys_truncate(fd, s->file_bytes) != 0)
        return shr__fail(SHARENA_ESYSTEM,
                         "can't reserve a file of %s (%s); create the heap with a smaller "
                         "reserve, or raise RLIMIT_FSIZE",
                         shr__size(s->file_bytes, size), strerror(errno));
    if (!s->name[0])
        (void)shr__sys_seal(fd);
    code = shr__sys_commit(fd, 0, SHR_AT_NAMES);
    if (code)
        return shr__fail(code, "no room for a new heap (%s)", sharena_strerror(code));
    code = shr__heap_map(h);
    if (code)
        return code;
    store64_relaxed(&h->control->committed_meta, SHR_AT_NAMES);
    memcpy(h->base, s, sizeof *s);
    code = shr__heap_join(h);
    if (code == 0)
        shr__heap_go_live(h);
    return code;
}

static int cant_open(const char *what)
{
    return shr__fail(errno == ENOSPC   ? SHARENA_ENOSPACE
                     : errno == EACCES ? SHARENA_EPERM
                                       : SHARENA_ESYSTEM,
                     "can't make a file for %s (%s)", what, strerror(errno));
}

int sharena_create(const char *name, const sharena_options *options, sharena_heap **out)
{
    struct super_shm s;
    sharena_heap *h;
    char path[128];
    int fd, code;

    if (name && !shr__heap_name_valid(name))
        return bad_name(name);
    code = shr__super_fill(&s, name, options);
    if (code)
        return code;
    fd = open_backing(&s);
    if (fd < 0)
        return cant_open(name ? "a named heap in /dev/shm" : "an unnamed heap");
    h = shr__heap_new(fd);
    if (!h)
        return SHARENA_ENOMEM;
    h->super = s;
    pthread_mutex_lock(&shr__heaps_lock);
    code = create_in(h);
    if (code == 0)
        code = shr__heap_publish(h);
    if (code == 0 && name) {
        path_of(name, path);
        if (shr__sys_publish((int)load32_relaxed(&h->fd), path, s.mode) != 0) {
            code = errno == EEXIST
                       ? shr__fail(SHARENA_EEXIST,
                                   "a heap named '%s' exists; attach to it, or remove it with "
                                   "python -m sharena rm %s",
                                   name, name)
                       : cant_open(path);
            shr__heap_set(h->index, NULL);
        }
    }
    pthread_mutex_unlock(&shr__heaps_lock);
    if (code) {
        shr__heap_free(h);
        return code;
    }
    *out = h;
    return 0;
}

/* ---- attach ------------------------------------------------------------------------------------------------ */

static sharena_heap *attached(const uint8_t uuid[16])
{
    for (unsigned i = 0; i < SHR_HEAPS; i++) {
        sharena_heap *h = shr__heap_at(i);
        if (h && memcmp(h->super.uuid, uuid, 16) == 0)
            return h;
    }
    return NULL;
}

/* Joins the heap open at fd, which is closed or kept.  uuid: what it must be, or NULL; owner:
 * whose file it must be. */
static int attach_fd(int fd, const uint8_t *uuid, uint32_t owner, sharena_heap **out)
{
    uint64_t dev, ino, bytes = 0;
    struct super_shm s;
    sharena_heap *h;
    uint32_t uid = 0;
    int code;

    if (shr__sys_identity(fd, &dev, &ino, &bytes, &uid) != 0 || bytes < SHR_PAGE ||
        shr__sys_read(fd, &s, sizeof s, 0) != 0)
        code = shr__fail(SHARENA_ENOTHEAP, "the file is not a sharena heap (it has %llu bytes)",
                         (unsigned long long)bytes);
    else
        code = shr__super_check(&s, bytes, uid, owner);
    if (code == 0 && uuid && memcmp(uuid, s.uuid, 16) != 0)
        code = shr__fail(SHARENA_ENOTFOUND, "another heap is found in its place");
    if (code) {
        (void)shr__sys_close(fd);
        return code;
    }
    pthread_mutex_lock(&shr__heaps_lock);
    h = attached(s.uuid);
    if (h) {
        (void)shr__sys_close(fd);
        h->attached++;
    } else if ((h = shr__heap_new(fd)) == NULL) {
        code = SHARENA_ENOMEM;
    } else {
        h->super = s;
        code = shr__heap_map(h);
        if (code == 0)
            code = shr__heap_join(h);
        if (code == 0) {
            shr__heap_go_live(h);
            code = shr__heap_publish(h);
        }
        if (code) {
            pthread_mutex_unlock(&shr__heaps_lock);
            shr__heap_free(h);
            return code;
        }
    }
    pthread_mutex_unlock(&shr__heaps_lock);
    if (code == 0) {
        (void)shr__reap(h, NULL, 0);
        *out = h;
    }
    return code;
}

/* Why the file can't be opened for reading and writing. */
static int no_access(const char *name, const char *path)
{
    uint32_t uid = 0, mode = 0;

    if (shr__sys_mode(path, &uid, &mode) != 0)
        return shr__fail(SHARENA_EPERM, "no access to the heap '%s'", name);
    return shr__fail(SHARENA_EPERM,
                     "the heap '%s' belongs to user %u and has mode 0%o, by which this user, %u, "
                     "may not read and write it, as attaching needs; its owner must create it "
                     "with mode=0o666, or with 0o660 and a common group",
                     name, uid, mode, shr__sys_uid());
}

static int open_named(const char *name, int *fd)
{
    char path[128];
    unsigned uid;
    int remote;

    if (!shr__heap_name_valid(name))
        return bad_name(name);
    path_of(name, path);
    *fd = shr__sys_open_path(path, &uid, &remote);
    if (*fd >= 0)
        return 0;
    if (remote)
        return shr__fail(SHARENA_ENOTHEAP, "%s lies on a file system that is not local", path);
    if (errno == ENOENT && !shr__sys_has_proc())
        return shr__fail(SHARENA_ESYSTEM, "can't open %s: /proc is not mounted", path);
    if (errno == ENOENT)
        return shr__fail(SHARENA_ENOTFOUND,
                         "there is no heap named '%s'; python -m sharena ls "
                         "lists those there are",
                         name);
    if (errno == EACCES || errno == EPERM)
        return no_access(name, path);
    if (errno == EINVAL || errno == ELOOP || errno == EISDIR)
        return shr__fail(SHARENA_ENOTHEAP, "%s is not a regular file", path);
    return shr__fail(SHARENA_ESYSTEM, "can't open %s (%s)", path, strerror(errno));
}

int sharena_attach(const char *name, sharena_heap **out)
{
    return sharena_attach_owned(name, (uid_t)shr__sys_uid(), out);
}

int sharena_attach_owned(const char *name, uid_t owner, sharena_heap **out)
{
    int fd, code = open_named(name, &fd);
    char why[400];

    if (code == 0) {
        code = attach_fd(fd, NULL, (uint32_t)owner, out);
        if (code == SHARENA_ENOTHEAP || code == SHARENA_ECORRUPT || code == SHARENA_EVERSION) {
            (void)snprintf(why, sizeof why, "%s", sharena_detail());
            return shr__fail(code,
                             "can't attach to '%s': %s; if nobody needs it, remove "
                             "/dev/shm/sharena.%s",
                             name, why, name);
        }
    }
    return code;
}

static void memfd_link(const uint8_t uuid[16], char link[48])
{
    (void)snprintf(link, 48, "/memfd:sharena:%02x%02x%02x%02x", uuid[0], uuid[1], uuid[2],
                   uuid[3]);
}

int sharena_attach_process(pid_t pid, int fd, const uint8_t uuid[16], sharena_heap **out)
{
    int own = shr__sys_open_process((int)pid, fd), why = errno;
    char link[48];

    if (own < 0 && why == ENOENT && uuid) { /* closed there, but the mapping is left */
        memfd_link(uuid, link);
        own = shr__sys_open_mapped((int)pid, link);
        errno = why;
    }
    if (own < 0)
        return shr__fail(errno == EACCES || errno == EPERM ? SHARENA_EPERM : SHARENA_ENOTFOUND,
                         "can't open the heap of process %d (%s)", (int)pid, strerror(errno));
    return attach_fd(own, uuid, shr__sys_uid(), out);
}

struct wanted {
    const uint8_t *uuid;
    sharena_heap *heap;
    int code;
};

static int try_descriptor(int pid, int fd, void *argument)
{
    struct wanted *w = argument;
    int own = shr__sys_open_process(pid, fd);

    if (own < 0)
        return 0;
    w->code = attach_fd(own, w->uuid, shr__sys_uid(), &w->heap);
    return w->code == 0 || w->code == SHARENA_EPROCESSES;
}

int sharena_attach_uuid(const uint8_t uuid[16], sharena_heap **out)
{
    struct wanted w = {uuid, NULL, SHARENA_ENOTFOUND};
    char link[48];

    memfd_link(uuid, link);
    (void)shr__sys_scan_memfd(link, try_descriptor, &w);
    if (w.heap) {
        *out = w.heap;
        return 0;
    }
    if (w.code == SHARENA_EPROCESSES)
        return w.code;
    return shr__fail(SHARENA_ENOTFOUND,
                     "the heap %02x%02x%02x%02x is gone, or can't be opened: no process of this "
                     "user has a descriptor of it (closefrom(), as in daemonizing, closes them: "
                     "create the heap after that, or use a named one)",
                     uuid[0], uuid[1], uuid[2], uuid[3]);
}

int sharena_attach_handle(const sharena_handle *handle, sharena_heap **out)
{
    sharena_heap *h;
    int code;

    if (handle->machine != shr__sys_machine())
        return shr__fail(SHARENA_EREMOTE, "the handle comes from another machine; handles only "
                                          "work on the machine they were made on: send the data");
    pthread_mutex_lock(&shr__heaps_lock);
    h = attached(handle->heap);
    if (h)
        h->attached++;
    pthread_mutex_unlock(&shr__heaps_lock);
    if (h) {
        *out = h;
        return 0;
    }
    if (handle->uid != shr__sys_uid())
        return shr__fail(SHARENA_EPERM,
                         "the handle comes from user %u; heaps are private to their user",
                         handle->uid);
    code = sharena_attach_process((pid_t)handle->pid, handle->fd, handle->heap, out);
    if (code == 0 || code == SHARENA_EPROCESSES)
        return code;
    return sharena_attach_uuid(handle->heap, out);
}

/* ---- leaving ------------------------------------------------------------------------------------------------- */

int sharena_detach(sharena_heap *h)
{
    pthread_mutex_lock(&shr__heaps_lock);
    if (--h->attached > 0) {
        pthread_mutex_unlock(&shr__heaps_lock);
        return 0;
    }
    shr__heap_set(h->index, NULL);
    shr__lanes_forget(h);
    shr__thread_forget(h->index);
    pthread_mutex_lock(&h->reap_lock);
    shr__guests_look(h);
    pthread_mutex_unlock(&h->reap_lock);
    /* with guests about, the slot is theirs too: it stays for a reaper */
    if (!h->guest && h->guests == 0)
        shr__reap_self(h);
    shr__heap_free(h);
    pthread_mutex_unlock(&shr__heaps_lock);
    return 0;
}

static int count_others(const sharena_process *p, void *argument)
{
    *(unsigned *)argument += p->alive && p->pid != shr__sys_pid();
    return 0;
}

int sharena_unlink(const char *name, int force)
{
    sharena_heap *h = NULL;
    unsigned others = 0;
    char path[128];
    int fd, code = open_named(name, &fd);

    if (code)
        return code;
    path_of(name, path);
    code = attach_fd(fd, NULL, shr__sys_uid(), &h);
    if (code == 0) {
        (void)sharena_process_list(h, count_others, &others);
        (void)sharena_detach(h);
    } else if (!force) {
        return code;
    }
    if (others && !force)
        return shr__fail(SHARENA_EBUSY,
                         "the heap '%s' is in use by %u other process%s; end them, or use "
                         "force: they keep the memory, but nobody new finds it",
                         name, others, others == 1 ? "" : "es");
    if (shr__sys_unlink(path) != 0)
        return shr__fail(errno == ENOENT ? SHARENA_ENOTFOUND : SHARENA_ESYSTEM,
                         "can't remove %s (%s)", path, strerror(errno));
    return 0;
}

/* ---- looking up ------------------------------------------------------------------------------------------------ */

const uint8_t *sharena_uuid(const sharena_heap *h)
{
    return h->super.uuid;
}

const char *sharena_name(const sharena_heap *h)
{
    return h->super.name[0] ? h->super.name : NULL;
}

int sharena_descriptor(const sharena_heap *h)
{
    return (int)load32_relaxed(&h->fd);
}

int sharena_is_guest(const sharena_heap *h)
{
    return (int)h->guest;
}

sharena_heap *sharena_heap_by_uuid(const uint8_t uuid[16])
{
    return attached(uuid);
}
