/* The system calls: nothing above this file asks the kernel for anything (room.c reads
 * cgroup files, and is part of this level).
 *
 * Slot locks.  The write lock on a slot's byte belongs to an open file description that only
 * a one-page mapping keeps alive; its descriptor is closed at once.  So the kernel drops the
 * lock when the process exits, is killed or calls exec, and never because the application
 * closed descriptors; and as the mapping is MADV_DONTFORK, no child inherits it (except a
 * guest, on purpose).
 *
 * Committing.  MADV_POPULATE_WRITE allocates and maps pages in one call, and reports a full
 * file system instead of raising SIGBUS; kernels before 5.14 lack it, so fallocate is the
 * other way, and where no descriptor is left for that, a futex operation on each page.  All are
 * idempotent: a kill in between leaves nothing to repair.  Huge pages are ten times as fast to
 * get, where the kernel has them.  Punching needs no descriptor either (MADV_REMOVE).
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include <linux/futex.h>
#include <linux/membarrier.h>

#include "waiting.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef F_ADD_SEALS
#define F_ADD_SEALS 1033
#define F_SEAL_SHRINK 2
#define F_SEAL_SEAL 1
#endif

int shr__sys_memfd(const char *name)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd >= 0 && fchmod(fd, 0600) != 0) { /* it is born 0777 */
        (void)close(fd);
        return -1;
    }
    return fd;
}

int shr__sys_seal(int fd)
{
    return fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL);
}

int shr__sys_reopen(int fd)
{
    char path[64];

    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, O_RDWR | O_CLOEXEC);
}

/* File systems on which another host's processes can't look dead to this one. */
static int is_local(int fd)
{
    struct statfs fs;

    if (fstatfs(fd, &fs) != 0)
        return 0;
    switch ((unsigned long)fs.f_type) {
    case 0x01021994ul: /* tmpfs */
    case 0x858458f6ul: /* ramfs */
    case 0xef53ul:     /* ext */
    case 0x58465342ul: /* xfs */
    case 0x9123683eul: /* btrfs */
    case 0xf2f52010ul: /* f2fs */
    case 0x2fc12fc1ul: /* zfs */
    case 0x794c7630ul: /* overlayfs */
        return 1;
    default:
        return 0;
    }
}

/* Opens a heap's file by path: without following a link, without side effects on what is no
 * regular file.  Returns a descriptor, or -1 with errno. */
int shr__sys_open_path(const char *path, unsigned *uid, int *why_not_local)
{
    struct stat st;
    int at = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC), fd = -1;

    *why_not_local = 0;
    if (at < 0)
        return -1;
    if (fstat(at, &st) == 0) {
        *uid = (unsigned)st.st_uid;
        if (!S_ISREG(st.st_mode)) {
            errno = EINVAL;
        } else if ((fd = shr__sys_reopen(at)) >= 0 && !is_local(fd)) {
            *why_not_local = 1;
            (void)close(fd);
            fd = -1;
            errno = EINVAL;
        }
    }
    int saved = errno;
    (void)close(at);
    errno = saved;
    return fd;
}

int shr__sys_tmpfile(const char *dir, unsigned mode)
{
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, (mode_t)mode);

    if (fd >= 0 && fchmod(fd, (mode_t)mode) != 0) {
        (void)close(fd);
        return -1;
    }
    if (fd >= 0 && !is_local(fd)) {
        (void)close(fd);
        errno = EINVAL;
        return -1;
    }
    return fd;
}

/* Gives a complete O_TMPFILE its name; a name that is taken is an error. */
int shr__sys_publish(int fd, const char *path, unsigned mode)
{
    char from[64];

    (void)mode;
    (void)snprintf(from, sizeof from, "/proc/self/fd/%d", fd);
    return linkat(AT_FDCWD, from, AT_FDCWD, path, AT_SYMLINK_FOLLOW);
}

int shr__sys_unlink(const char *path)
{
    return unlink(path);
}

int shr__sys_close(int fd)
{
    return close(fd);
}

/* Programs that close or dup2 over descriptors do so at low numbers.  A table of descriptors
 * starts with 64 places: growing it would wait for every thread of the process. */
int shr__sys_move_high(int fd)
{
    int high = fd < 48 ? fcntl(fd, F_DUPFD_CLOEXEC, 48) : -1;

    if (high < 0)
        return fd;
    (void)close(fd);
    return high;
}

/* Beyond RLIMIT_FSIZE the kernel would send SIGXFSZ, which kills by default. */
int shr__sys_truncate(int fd, uint64_t bytes)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        bytes > limit.rlim_cur) {
        errno = EFBIG;
        return -1;
    }
    return ftruncate(fd, (off_t)bytes);
}

/* What RLIMIT_AS and RLIMIT_FSIZE leave for one mapping of a file; UINT64_MAX: no limit. */
uint64_t shr__sys_mappable(void)
{
    uint64_t least = UINT64_MAX;
    struct rlimit limit;

    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        least = limit.rlim_cur / 2;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        limit.rlim_cur < least)
        least = limit.rlim_cur;
    return least;
}

int shr__sys_identity(int fd, uint64_t *dev, uint64_t *ino, uint64_t *bytes, uint32_t *uid)
{
    struct stat st;

    if (fstat(fd, &st) != 0)
        return -1;
    *dev = (uint64_t)st.st_dev;
    *ino = (uint64_t)st.st_ino;
    *bytes = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
    *uid = (uint32_t)st.st_uid;
    return 0;
}

/* Left in the file system of a file; UINT64_MAX: without bound, or not known. */
uint64_t shr__sys_free_bytes(int fd)
{
    struct statfs fs;

    if (fstatfs(fd, &fs) != 0 || fs.f_blocks == 0)
        return UINT64_MAX;
    return (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
}

uint64_t shr__sys_blocks(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 ? (uint64_t)st.st_blocks * 512u : 0;
}

int shr__sys_read(int fd, void *buffer, size_t bytes, uint64_t at)
{
    ssize_t got = pread(fd, buffer, bytes, (off_t)at);

    return got >= 0 && (size_t)got == bytes ? 0 : -1;
}

/* One mapping of the whole file, its first byte aligned; never in core dumps: writing one
 * would commit the whole heap. */
void *shr__sys_map(int fd, uint64_t bytes, uint64_t align, void **start, uint64_t *start_bytes)
{
    uint64_t room = bytes + align;
    uint8_t *raw = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                        0);
    uint8_t *base;

    if (raw == MAP_FAILED)
        return NULL;
    base = raw + (align - (uintptr_t)raw % align) % align;
    if (mmap(base, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd,
             0) == MAP_FAILED) {
        (void)munmap(raw, room);
        return NULL;
    }
    (void)madvise(base, bytes, MADV_DONTDUMP);
    *start = raw;
    *start_bytes = room;
    return base;
}

/* Zeroed private memory, committed page by page as it is touched. */
void *shr__sys_map_private(uint64_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

void shr__sys_unmap(void *p, uint64_t bytes)
{
    (void)munmap(p, bytes);
}

static int commit_code(int error)
{
    switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFAULT: /* populate: where an access would raise SIGBUS */
        return SHARENA_ENOSPACE;
    case EFBIG:  /* RLIMIT_FSIZE */
        return SHARENA_ENOSPACE;
    case ENOMEM:
        return SHARENA_EROOM;
    default:
        return SHARENA_ESYSTEM;
    }
}

int shr__sys_commit(int fd, uint64_t at, uint64_t bytes)
{
    for (;;) {
        if (fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)bytes) == 0)
            return 0;
        if (errno != EINTR)
            return commit_code(errno);
    }
}

int shr__sys_populate(void *p, uint64_t bytes)
{
    for (;;) {
        if (madvise(p, bytes, MADV_POPULATE_WRITE) == 0)
            return 0;
        if (errno == EINVAL || errno == EPERM || errno == ENOSYS)
            return 1; /* the kernel, or what filters its calls, has no such one */
        if (errno != EINTR && errno != EAGAIN)
            return commit_code(errno);
    }
}

/* For kernels without that call: an atomic "or 0" in each page, which changes nothing, whoever
 * else writes there.  It is the kernel that writes, so a page that can't be had is an error and
 * no SIGBUS.  Nobody waits for such a futex, and nobody is woken. */
int shr__sys_populate_each(uint8_t *p, uint64_t bytes)
{
    uint32_t nobody = 0;

    for (uint64_t at = 0; at < bytes;) {
        if (syscall(SYS_futex, &nobody, FUTEX_WAKE_OP_PRIVATE, 0, NULL, p + at,
                    FUTEX_OP(FUTEX_OP_OR, 0, FUTEX_OP_CMP_EQ, 0)) >= 0)
            at += SHR_PAGE;
        else if (errno != EINTR && errno != EAGAIN)
            return commit_code(errno);
    }
    return 0;
}

/* Huge pages for a stretch of whole ones, where nothing lies yet: a small page each, which
 * MADV_COLLAPSE (Linux 6.1) then replaces.  It does so whatever the settings for shared memory
 * say.  1: not all of them; whoever wants the memory populates it afterwards in any case. */
int shr__sys_populate_huge(uint8_t *p, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes; at += SHR_HUGE)
        if (shr__sys_populate(p + at, SHR_PAGE) != 0)
            return 1;
    return madvise(p, bytes, MADV_COLLAPSE) != 0;
}

int shr__sys_punch(int fd, uint64_t at, uint64_t bytes)
{
    return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)bytes);
}

/* The same by the mapping.  EINVAL: a page of it is locked in memory (mlock). */
int shr__sys_remove(void *p, uint64_t bytes)
{
    return madvise(p, bytes, MADV_REMOVE);
}

void shr__sys_unlock(void *p, uint64_t bytes)
{
    (void)munlock(p, bytes);
}

static struct flock byte_lock(uint64_t at)
{
    return (struct flock){
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)at, .l_len = 1};
}

/* NULL with errno EAGAIN when another description holds the lock. */
void *shr__sys_lock_page(int fd, uint64_t at)
{
    struct flock lock = byte_lock(at);
    int own = shr__sys_reopen(fd);
    void *page = NULL;

    if (own < 0)
        return NULL;
    if (fcntl(own, F_OFD_SETLK, &lock) != 0) {
        errno = errno == EACCES ? EAGAIN : errno;
    } else {
        page = mmap(NULL, SHR_PAGE, PROT_NONE, MAP_SHARED, own, 0);
        if (page == MAP_FAILED)
            page = NULL;
        else
            (void)madvise(page, SHR_PAGE, MADV_DONTFORK);
    }
    int saved = errno;
    (void)close(own);
    errno = saved;
    return page;
}

void shr__sys_lock_page_fork(void *page, int inherit)
{
    (void)madvise(page, SHR_PAGE, inherit ? MADV_DOFORK : MADV_DONTFORK);
}

void shr__sys_lock_page_drop(void *page)
{
    if (page)
        (void)munmap(page, SHR_PAGE);
}

int shr__sys_lock_test(int fd, uint64_t at)
{
    struct flock lock = byte_lock(at);

    if (fcntl(fd, F_OFD_GETLK, &lock) != 0)
        return -1;
    return lock.l_type != F_UNLCK;
}

int shr__sys_membarrier_known(void)
{
    int commands = (int)syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);

    return commands > 0 && (commands & MEMBARRIER_CMD_PRIVATE_EXPEDITED) != 0;
}

int shr__sys_membarrier_register(void)
{
    return (int)syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
}

void shr__sys_membarrier(void)
{
    (void)syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
}

/* Private locks only (holding.c): the word lies in this process's own memory. */
void shr__sys_wait(shr_a32 *word, uint32_t value)
{
    struct timespec most = {.tv_nsec = 2000000};

    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, &most, NULL, 0);
}

void shr__sys_wake(shr_a32 *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void shr__sys_wait_shared(shr_a64 *word, uint32_t low, uint32_t most_ms)
{
    struct timespec most = {.tv_nsec = (long)most_ms * 1000000};

    (void)syscall(SYS_futex, word, FUTEX_WAIT, low, &most, NULL, 0);
}

void shr__sys_wake_shared(shr_a64 *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

uint64_t shr__sys_now_ms(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;

    (void)clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t shr__sys_mono_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

uint64_t shr__sys_real_ns(void)
{
    return clock_ns(CLOCK_REALTIME);
}

int shr__sys_pid(void)
{
    return (int)getpid();
}

uint32_t shr__sys_uid(void)
{
    return (uint32_t)geteuid();
}

void shr__sys_random(void *p, size_t bytes)
{
    if (getrandom(p, bytes, 0) == (ssize_t)bytes)
        return;
    /* Early boot or a sandbox without the call: unique is enough, it is no secret. */
    uint64_t x = shr__sys_real_ns() ^ (uint64_t)getpid() << 32;
    for (size_t i = 0; i < bytes; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        ((uint8_t *)p)[i] = (uint8_t)(x >> 56);
    }
}

void shr__sys_yield(void)
{
    (void)sched_yield();
}
