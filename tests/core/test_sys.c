/* sys.c: the promises about the kernel that the rest is built on. */
#include "harness.h"
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FILE_BYTES = 1 << 20 };

static int new_file(void)
{
    int fd = shr__sys_memfd("sharena-test");
    CHECK(fd >= 0);
    CHECK_EQ(shr__sys_truncate(fd, FILE_BYTES), 0);
    return fd;
}

/* ---- slot locks ----------------------------------------------------------------------------- */

static void lock_excludes_and_is_dropped(void)
{
    int fd = new_file();
    void *page = shr__sys_lock_page(fd, 100);
    CHECK(page != NULL);
    CHECK_EQ(shr__sys_lock_test(fd, 100), 1);
    CHECK_EQ(shr__sys_lock_test(fd, 99), 0);
    CHECK_EQ(shr__sys_lock_test(fd, 101), 0);
    errno = 0;
    CHECK(shr__sys_lock_page(fd, 100) == NULL);
    CHECK(errno == EAGAIN || errno == EACCES);
    void *other = shr__sys_lock_page(fd, 101);
    CHECK(other != NULL);
    shr__sys_lock_page_drop(page);
    CHECK_EQ(shr__sys_lock_test(fd, 100), 0);
    CHECK_EQ(shr__sys_lock_test(fd, 101), 1);
    shr__sys_lock_page_drop(other);
    shr__sys_lock_page_drop(NULL);
}

static void lock_survives_closing_everything(void)
{
    int fd = new_file();
    int keep = fcntl(fd, F_DUPFD_CLOEXEC, 200);
    CHECK(shr__sys_lock_page(fd, 7) != NULL);
    for (int i = 3; i < 1024; i++)
        if (i != keep)
            close(i);
    CHECK_EQ(shr__sys_lock_test(keep, 7), 1);
    int again = shr__sys_reopen(keep);
    close(keep);
    CHECK_EQ(shr__sys_lock_test(again, 7), 1);
}

static void take_lock(struct peer *parent, void *argument)
{
    CHECK(shr__sys_lock_page(*(int *)argument, 5) != NULL);
    peer_tell(parent);
    peer_await(parent);
}

static void lock_goes_with_a_kill(void)
{
    struct peer peer;
    int fd = new_file();
    peer_start(&peer, take_lock, &fd);
    peer_await(&peer);
    CHECK_EQ(shr__sys_lock_test(fd, 5), 1);
    peer_kill(&peer);
    CHECK_EQ(shr__sys_lock_test(fd, 5), 0);
}

/* exec drops the mapping: a program that was replaced holds nothing. */
static void lock_and_exec(struct peer *parent, void *argument)
{
    CHECK(shr__sys_lock_page(*(int *)argument, 5) != NULL);
    peer_tell(parent);
    peer_await(parent);
    dup2(parent->to, STDOUT_FILENO);
    dup2(parent->from, STDIN_FILENO);
    execlp("cat", "cat", (char *)NULL);
    FAIL("cannot exec cat: %s", strerror(errno));
}

static void lock_goes_with_exec(void)
{
    struct peer peer;
    char byte = 0;
    int fd = new_file();
    peer_start(&peer, lock_and_exec, &fd);
    peer_await(&peer);
    CHECK_EQ(shr__sys_lock_test(fd, 5), 1);
    peer_send(&peer, "12", 2); /* one for the process, one echoed by cat */
    peer_receive(&peer, &byte, 1);
    CHECK_EQ(byte, '2');
    CHECK_EQ(shr__sys_lock_test(fd, 5), 0);
    peer_kill(&peer);
}

static void idle(struct peer *parent, void *argument)
{
    (void)argument;
    peer_tell(parent);
    peer_await(parent);
}

static void child_inherits_only_on_purpose(void)
{
    struct peer child;
    int fd = new_file();
    void *page = shr__sys_lock_page(fd, 9);
    peer_start(&child, idle, NULL);
    peer_await(&child);
    shr__sys_lock_page_drop(page);
    CHECK_EQ(shr__sys_lock_test(fd, 9), 0); /* although the child lives */
    peer_tell(&child);
    peer_join(&child);

    page = shr__sys_lock_page(fd, 9);
    shr__sys_lock_page_fork(page, 1);
    peer_start(&child, idle, NULL);
    shr__sys_lock_page_fork(page, 0);
    peer_await(&child);
    shr__sys_lock_page_drop(page);
    CHECK_EQ(shr__sys_lock_test(fd, 9), 1); /* the guest keeps it */
    peer_kill(&child);
    CHECK_EQ(shr__sys_lock_test(fd, 9), 0);
}

/* The verdict must not change while a traced or stopped process is not really dead. */
static void stopped_process_keeps_its_lock(void)
{
    struct peer peer;
    int fd = new_file();
    peer_start(&peer, take_lock, &fd);
    peer_await(&peer);
    CHECK_EQ(kill(peer.pid, SIGSTOP), 0);
    CHECK(WIFSTOPPED(await_child(peer.pid, WUNTRACED)));
    CHECK_EQ(shr__sys_lock_test(fd, 5), 1);
    peer_kill(&peer);
    CHECK_EQ(shr__sys_lock_test(fd, 5), 0);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void mapping_is_aligned_and_shared(void)
{
    void *start;
    uint64_t bytes;
    int fd = new_file();
    for (uint64_t align = 4096; align <= 64 << 20; align *= 16) {
        uint8_t *p = shr__sys_map(fd, FILE_BYTES, align, &start, &bytes);
        CHECK(p != NULL);
        CHECK_EQ((uintptr_t)p % align, 0);
        CHECK_LE((uintptr_t)start, (uintptr_t)p);
        CHECK_LE((uintptr_t)p + FILE_BYTES, (uintptr_t)start + bytes);
        p[5] = (uint8_t)(align >> 8);
        uint8_t byte = 0;
        CHECK_EQ(shr__sys_read(fd, &byte, 1, 5), 0);
        CHECK_EQ(byte, (uint8_t)(align >> 8));
        shr__sys_unmap(start, bytes);
    }
    CHECK_EQ(shr__sys_read(fd, start, 10, FILE_BYTES), (uint64_t)-1);
}

static void commit_and_punch_account_for_pages(void)
{
    void *start;
    uint64_t bytes;
    int fd = new_file();
    uint8_t *p = shr__sys_map(fd, FILE_BYTES, 4096, &start, &bytes);
    CHECK_EQ(shr__sys_blocks(fd), 0);
    CHECK_EQ(shr__sys_commit(fd, 65536, 65536), 0);
    CHECK_EQ(shr__sys_commit(fd, 65536, 65536), 0); /* idempotent */
    CHECK_EQ(shr__sys_blocks(fd), 65536);
    int code = shr__sys_populate(p, 65536);
    if (code == 0)
        CHECK_EQ(shr__sys_blocks(fd), 2 * 65536);
    else
        CHECK_EQ(code, 1);
    memset(p + 65536, 7, 65536);
    CHECK_EQ(shr__sys_punch(fd, 65536, 65536), 0);
    CHECK_EQ(p[65536 + 9], 0);
    struct stat st;
    CHECK_EQ(fstat(fd, &st), 0);
    CHECK_EQ(st.st_size, FILE_BYTES); /* neither call moves the end */
}

/* What needs no descriptor does the same, page by page on old kernels. */
static void mappings_commit_and_punch_too(void)
{
    void *start;
    uint64_t bytes;
    int fd = new_file();
    uint8_t *p = shr__sys_map(fd, FILE_BYTES, 4096, &start, &bytes);
    p[4096 + 9] = 42;
    CHECK_EQ(shr__sys_populate_each(p, 65536), 0);
    CHECK_EQ(shr__sys_blocks(fd), 65536);
    for (unsigned i = 0; i < 65536; i++)
        CHECK_EQ(p[i], i == 4096 + 9 ? 42 : 0); /* nothing was written */
    CHECK_EQ(shr__sys_remove(p, 32768), 0);
    CHECK_EQ(shr__sys_blocks(fd), 32768);
    CHECK_EQ(p[4096 + 9], 0);
    CHECK_EQ(mlock(p + 32768, 4096), 0);
    if (shr__sys_remove(p + 32768, 32768) == 0)
        SKIP("mlock() does nothing under AddressSanitizer\n");
    CHECK_EQ(errno, EINVAL);
    shr__sys_unlock(p + 32768, 32768);
    CHECK_EQ(shr__sys_remove(p + 32768, 32768), 0);
    CHECK_EQ(shr__sys_blocks(fd), 4096); /* of the look at p[4096 + 9] */
}

/* Huge pages are filled with what was there, and given back in pieces. */
static void huge_pages_are_like_small_ones(void)
{
    const uint64_t bytes = 4 * SHR_HUGE, hole = SHR_HUGE + 5 * 65536;
    void *start;
    uint64_t start_bytes;
    int fd = shr__sys_memfd("test");
    CHECK(fd >= 0);
    CHECK_EQ(shr__sys_truncate(fd, bytes), 0);
    uint8_t *p = shr__sys_map(fd, bytes, SHR_HUGE, &start, &start_bytes);
    CHECK(p != NULL);
    p[3 * SHR_HUGE + 12345] = 42;
    if (shr__sys_populate_huge(p, bytes) != 0)
        SKIP("no huge pages here: %s\n", strerror(errno));
    CHECK_EQ(shr__sys_blocks(fd), bytes);
    for (uint64_t i = 0; i < bytes; i++)
        CHECK_EQ(p[i], i == 3 * SHR_HUGE + 12345 ? 42 : 0);
    for (uint64_t i = 0; i < bytes; i += 4096)
        p[i] = (uint8_t)(i >> 12 | 1);
    CHECK_EQ(shr__sys_punch(fd, hole, 65536), 0);
    CHECK_EQ(shr__sys_blocks(fd), bytes - 65536);
    CHECK_EQ(shr__sys_populate_huge(p, bytes), 0);
    for (uint64_t i = 0; i < bytes; i += 4096)
        CHECK_EQ(p[i], i >= hole && i < hole + 65536 ? 0 : (uint8_t)(i >> 12 | 1));
    CHECK_EQ(shr__sys_punch(fd, 0, bytes), 0);
    CHECK_EQ(shr__sys_blocks(fd), 0);
}

static void seal_forbids_shrinking_only(void)
{
    int fd = new_file();
    CHECK_EQ(shr__sys_seal(fd), 0);
    CHECK(shr__sys_truncate(fd, 4096) != 0);
    CHECK_EQ(shr__sys_commit(fd, 0, 4096), 0);
    CHECK_EQ(shr__sys_punch(fd, 0, 4096), 0);
}

/* A full file system is an error, never SIGBUS. */
static void full_file_system_is_reported(void)
{
    void *start;
    uint64_t bytes;
    if (unshare(CLONE_NEWNS) != 0 || mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        SKIP("no mount namespace here: %s\n", strerror(errno));
    CHECK_EQ(mount("tmpfs", "/dev/shm", "tmpfs", 0, "size=128k"), 0);
    int fd = shr__sys_tmpfile("/dev/shm", 0600);
    CHECK(fd >= 0);
    CHECK_EQ(shr__sys_truncate(fd, FILE_BYTES), 0);
    uint8_t *p = shr__sys_map(fd, FILE_BYTES, 4096, &start, &bytes);
    CHECK_EQ(shr__sys_commit(fd, 0, 65536), 0);
    CHECK_EQ(shr__sys_commit(fd, 65536, 131072), SHARENA_ENOSPACE);
    int code = shr__sys_populate(p, 262144);
    CHECK(code == SHARENA_ENOSPACE || code == 1);
    CHECK_EQ(shr__sys_populate_each(p, 262144), SHARENA_ENOSPACE);
    CHECK_EQ(shr__sys_remove(p, 262144), 0);
    CHECK_EQ(shr__sys_populate_each(p, 65536), 0);
}

static void file_size_limit_is_reported(void)
{
    struct rlimit limit = {65536, 65536};
    int fd = new_file();
    signal(SIGXFSZ, SIG_IGN);
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    int code = shr__sys_commit(fd, 0, FILE_BYTES / 2);
    CHECK(code == 0 || code == SHARENA_ENOSPACE);
}

/* ---- files ----------------------------------------------------------------------------------- */

static void publish_does_not_overwrite(void)
{
    char path[64];
    unsigned uid = 77;
    int remote = 77;
    snprintf(path, sizeof path, "/dev/shm/%s", scratch_name());
    int fd = shr__sys_tmpfile("/dev/shm", 0640), second = shr__sys_tmpfile("/dev/shm", 0640);
    CHECK(fd >= 0 && second >= 0);
    CHECK_EQ(shr__sys_publish(fd, path, 0640), 0);
    CHECK(shr__sys_publish(second, path, 0640) != 0);
    CHECK_EQ(errno, EEXIST);
    int third = shr__sys_open_path(path, &uid, &remote);
    CHECK(third >= 0);
    CHECK_EQ(uid, geteuid());
    CHECK_EQ(remote, 0);
    uint64_t dev[2], ino[2], size;
    uint32_t owner;
    CHECK_EQ(shr__sys_identity(fd, &dev[0], &ino[0], &size, &owner), 0);
    CHECK_EQ(shr__sys_identity(third, &dev[1], &ino[1], &size, &owner), 0);
    CHECK_EQ(dev[0], dev[1]);
    CHECK_EQ(ino[0], ino[1]);
    struct stat st;
    CHECK_EQ(stat(path, &st), 0);
    CHECK_EQ(st.st_mode & 0777, 0640); /* whatever the umask */
    CHECK_EQ(shr__sys_unlink(path), 0);
    CHECK(shr__sys_unlink(path) != 0);
}

static void only_regular_files_are_opened(void)
{
    char path[64], link[64];
    unsigned uid;
    int remote;
    snprintf(path, sizeof path, "/dev/shm/%s", scratch_name());
    snprintf(link, sizeof link, "/dev/shm/%s", scratch_name());
    CHECK_EQ(shr__sys_open_path(path, &uid, &remote), (uint64_t)-1);
    CHECK_EQ(errno, ENOENT);
    CHECK_EQ(mkfifo(path, 0600), 0); /* opening it would wait for a writer */
    CHECK_EQ(shr__sys_open_path(path, &uid, &remote), (uint64_t)-1);
    unlink(path);
    CHECK_EQ(symlink("/dev/null", path), 0);
    CHECK_EQ(shr__sys_open_path(path, &uid, &remote), (uint64_t)-1);
    unlink(path);
    CHECK_EQ(mkdir(path, 0700), 0);
    CHECK_EQ(shr__sys_open_path(path, &uid, &remote), (uint64_t)-1);
    rmdir(path);
    CHECK_EQ(shr__sys_open_path("/dev/zero", &uid, &remote), (uint64_t)-1);
    CHECK_EQ(shr__sys_open_path("/proc/self/status", &uid, &remote), (uint64_t)-1);
    CHECK_EQ(remote, 1); /* no file system for a heap */
}

static void move_high_keeps_the_file(void)
{
    uint64_t dev[2], ino[2], size;
    uint32_t owner;
    int fd = new_file();
    CHECK_EQ(shr__sys_identity(fd, &dev[0], &ino[0], &size, &owner), 0);
    int high = shr__sys_move_high(fd);
    CHECK_LE(48, high);
    CHECK_EQ(shr__sys_identity(high, &dev[1], &ino[1], &size, &owner), 0);
    CHECK_EQ(ino[0], ino[1]);
    CHECK_EQ(shr__sys_identity(fd, &dev[0], &ino[0], &size, &owner), (uint64_t)-1);
    CHECK_EQ(fcntl(high, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    struct rlimit low = {40, 40};
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
    fd = new_file();
    CHECK_EQ(shr__sys_move_high(fd), fd); /* no room up there */
}

struct search {
    int pid, fd, found;
};

static int found_file(int pid, int fd, void *argument)
{
    struct search *s = argument;
    s->found += pid == s->pid && fd == s->fd;
    return s->found;
}

static void scan_finds_a_memfd(void)
{
    struct search s = {.pid = getpid(), .fd = shr__sys_memfd("sharena:scan-me")};
    CHECK_EQ(shr__sys_scan_memfd("/memfd:sharena:scan-me", found_file, &s), 1);
    close(s.fd);
    s.found = 0;
    CHECK_EQ(shr__sys_scan_memfd("/memfd:sharena:scan-me", found_file, &s), 0);
}

/* Alive, a zombie, and none; its number in another process's place is the reaper's affair. */
static void the_end_of_a_process_is_seen(void)
{
    siginfo_t info;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        for (;;)
            pause();
    if (syscall(SYS_pidfd_open, child, 0) < 0)
        SKIP("no descriptors of processes here: %s\n", strerror(errno));
    CHECK_EQ(shr__sys_gone(child), 0);
    CHECK_EQ(kill(child, SIGSTOP), 0);
    await_child(child, WUNTRACED);
    CHECK_EQ(shr__sys_gone(child), 0);
    CHECK_EQ(kill(child, SIGKILL), 0);
    CHECK_EQ(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT), 0);
    struct rlimit few, none = {0, 0};
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &few), 0);
    none.rlim_max = few.rlim_max;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    CHECK_EQ(shr__sys_gone(child), 0); /* without a descriptor a zombie is not seen */
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
    CHECK_EQ(shr__sys_gone(child), 1);
    await_child(child, 0);
    CHECK_EQ(shr__sys_gone(child), 1);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    CHECK_EQ(shr__sys_gone(child), 1);
    CHECK_EQ(shr__sys_gone(1), 0); /* another user's, perhaps */
}

static void facts_about_this_process(void)
{
    char command[32];
    memset(command, 'x', sizeof command);
    shr__sys_command(command);
    CHECK(strncmp(command, "test_sys", 8) == 0 || strncmp(command, "memcheck", 8) == 0);
    CHECK(memchr(command, 0, sizeof command) != NULL);
    CHECK_EQ(shr__sys_pid(), getpid());
    CHECK(shr__sys_machine() != 0);
    CHECK_EQ(shr__sys_machine(), shr__sys_machine());
    CHECK(shr__sys_pidns() != 0);
    uint64_t first = shr__sys_now_ms(), a = 0, b = 0;
    while (shr__sys_now_ms() == first)
        continue;
    CHECK_LE(first + 1, shr__sys_now_ms());
    shr__sys_random(&a, sizeof a);
    shr__sys_random(&b, sizeof b);
    CHECK(a != b);
    CHECK_EQ(shr__sys_ram() % 4096, 0);
}

CASES(CASE(lock_excludes_and_is_dropped), CASE(lock_survives_closing_everything),
      CASE(lock_goes_with_a_kill), CASE(lock_goes_with_exec),
      CASE(child_inherits_only_on_purpose), CASE(stopped_process_keeps_its_lock),
      CASE(mapping_is_aligned_and_shared), CASE(commit_and_punch_account_for_pages),
      CASE(mappings_commit_and_punch_too), CASE(huge_pages_are_like_small_ones),
      CASE(seal_forbids_shrinking_only), CASE(full_file_system_is_reported),
      CASE(file_size_limit_is_reported), CASE(publish_does_not_overwrite),
      CASE(only_regular_files_are_opened), CASE(move_high_keeps_the_file),
      CASE(scan_finds_a_memfd), CASE(the_end_of_a_process_is_seen),
      CASE(facts_about_this_process))
