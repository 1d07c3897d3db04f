/* room.c: the forecast follows real v1 cgroups and, with files put over those of /proc,
 * what a v2 hierarchy and a machine short of memory would say. */
#include "harness.h"
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define EVERYTHING (UINT64_C(1) << 50)

static const char *const v1_mount = "/sys/fs/cgroup/memory";

static uint64_t room_for(uint64_t want, char *where)
{
    uint64_t room = 0;
    CHECK_EQ(shr__room(want, &room, where, 200), 0);
    return room;
}

static void write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        FAIL("cannot write %s: %s", path, strerror(errno));
    close(fd);
}

static void answers_on_this_machine(void)
{
    char where[200] = "";
    uint64_t ram = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t room = room_for(EVERYTHING, where);
    CHECK_LE(room, ram);
    CHECK_LE(1, room);
    CHECK(strlen(where) > 0);
    CHECK_LE(shr__default_limit(), ram / 10 * 8 + 10);
    CHECK_LE(MIB, shr__default_limit());
    char small[8];
    CHECK_EQ(shr__room(1, &room, small, sizeof small), 0);
    CHECK_EQ(strlen(small), sizeof small - 1); /* cut, not overrun */
}

/* A real v1 cgroup of this test, with this process in `inner`. */
static char outer[200], inner[240], leave[300];

static void leave_groups(void)
{
    char pid[32];
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    snprintf(leave, sizeof leave, "%s/cgroup.procs", v1_mount);
    write_text(leave, pid);
    rmdir(inner);
    rmdir(outer);
}

static void enter(const char *group)
{
    char path[300], pid[32];
    snprintf(path, sizeof path, "%s/cgroup.procs", group);
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    write_text(path, pid);
}

static void make_groups(const char *limit)
{
    char path[300];
    snprintf(outer, sizeof outer, "%s/sharena-test-%d", v1_mount, (int)getpid());
    snprintf(inner, sizeof inner, "%s/inner", outer);
    if (mkdir(outer, 0700) != 0 || mkdir(inner, 0700) != 0)
        SKIP("no v1 memory cgroup can be made here: %s\n", strerror(errno));
    snprintf(path, sizeof path, "%s/memory.limit_in_bytes", outer);
    write_text(path, limit);
}

static void v1_ancestor_limits(void)
{
    char where[200];
    make_groups("67108864");
    enter(inner);
    uint64_t room = room_for(EVERYTHING, where);
    uint64_t limit = shr__default_limit();
    leave_groups();
    CHECK_LE(room, 64 * MIB);
    CHECK_LE(48 * MIB, room);
    CHECK(strstr(where, "/sharena-test-") && strstr(where, "64 MiB limit"));
    CHECK(!strstr(where, "inner"));
    CHECK_LE(limit, 64 * MIB / 10 * 8 + 5);
    CHECK_LE(64 * MIB / 10 * 8 - 5, limit);
}

static void v1_shared_memory_counts_file_cache_does_not(void)
{
    char where[200], path[] = "/var/tmp/sharena-test-XXXXXX";
    static char block[1 << 20];
    memset(block, 1, sizeof block);
    make_groups("67108864");
    enter(inner);
    uint64_t start = room_for(EVERYTHING, where);
    int shared = memfd_create("sharena-test", MFD_CLOEXEC);
    CHECK_EQ(ftruncate(shared, 20 << 20), 0);
    for (int i = 0; i < 20; i++)
        CHECK_EQ(write(shared, block, sizeof block), sizeof block);
    uint64_t with_shared = room_for(EVERYTHING, where);
    int file = mkstemp(path);
    unlink(path);
    for (int i = 0; i < 20; i++)
        CHECK_EQ(write(file, block, sizeof block), sizeof block);
    uint64_t with_file = room_for(EVERYTHING, where), frugal = room_for(1, where);
    leave_groups();
    CHECK_LE(with_shared + 18 * MIB, start);
    CHECK_LE(with_shared, with_file + 4 * MIB);
    /* A small wish is answered without counting the cache. */
    CHECK_LE(frugal + 15 * MIB, with_file);
}

static void v1_follows_a_move(void)
{
    char where[200];
    uint64_t before = room_for(EVERYTHING, where), deadline = now_ns() + 10000000000u, room;
    make_groups("67108864");
    enter(inner);
    do
        room = room_for(EVERYTHING, where);
    while (room > 64 * MIB && now_ns() < deadline);
    leave_groups();
    CHECK_LE(room, 64 * MIB);
    CHECK_LE(65 * MIB, before);
}

/* Files of our own over those of /proc, in a mount namespace of our own. */
static char scratch[64];

static void put_over(const char *target, const char *text)
{
    static int count;
    char path[120];
    snprintf(path, sizeof path, "%s/file%d", scratch, count++);
    write_text(path, text);
    if (mount(path, target, NULL, MS_BIND, NULL) != 0)
        SKIP("cannot mount over %s: %s\n", target, strerror(errno));
}

static void fake_surroundings(void)
{
    if (unshare(CLONE_NEWNS) != 0 || mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        SKIP("no mount namespace here: %s\n", strerror(errno));
    strcpy(scratch, "/var/tmp");
    CHECK_EQ(mount("tmpfs", scratch, "tmpfs", 0, "size=1m"), 0);
}

static void fake_group(const char *group, const char *limit, const char *used, const char *stat)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", scratch, group);
    CHECK(mkdir(path, 0700) == 0 || errno == EEXIST);
    const char *const files[][2] = {
        {"memory.max", limit}, {"memory.current", used}, {"memory.stat", stat}};
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s/%s", scratch, group, files[i][0]);
        if (files[i][1])
            write_text(path, files[i][1]);
    }
}

static void fake_v2(const char *place)
{
    char text[600];
    fake_surroundings();
    fake_group("v2", NULL, NULL, NULL);
    fake_group("v2/a", "104857600\n", "94371840\n",
               "anon 5\nfile 1\nworkingset 3\ninactive_file 20971520\nactive_file 10485760\n");
    fake_group("v2/a/b", "max\n", "1048576\n", "anon 1\n");
    snprintf(text, sizeof text,
             "20 1 8:1 / / rw - ext4 /dev/root rw\n"
             "21 20 0:20 / %s/v2 rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
             scratch);
    put_over("/proc/self/cgroup", place);
    put_over("/proc/self/mountinfo", text);
}

static void v2_ancestor_limits(void)
{
    char where[200];
    fake_v2("0::/a/b\n");
    uint64_t reserve = 100 * MIB / 16; /* left to the others in the group */
    CHECK_EQ(room_for(EVERYTHING, where), 40 * MIB - reserve);
    CHECK_STR(where, "memory cgroup /a: 100 MiB limit, 60 MiB used");
    CHECK_EQ(room_for(3 * MIB, where), 10 * MIB - reserve);
    CHECK_EQ(shr__default_limit(), 80 * MIB);
}

static void a_container_sees_only_its_own_group(void)
{
    char where[200];
    fake_v2("0::/kubepods/pod1\n");
    fake_group("v2", "52428800\n", "0\n", "anon 0\n");
    CHECK_EQ(room_for(EVERYTHING, where), 50 * MIB - 4 * MIB);
    CHECK_STR(where, "memory cgroup /: 50 MiB limit, 0 MiB used");
}

static void unreadable_files_do_not_limit(void)
{
    char where[200];
    fake_v2("garbage\n:::\n0:memory\n-1::\n");
    put_over("/proc/meminfo", "nothing of use\n");
    CHECK_EQ(room_for(EVERYTHING, where), UINT64_MAX);
    CHECK(strlen(where) > 0);
}

static void machine_limits(void)
{
    char where[200];
    fake_surroundings();
    put_over("/proc/meminfo", "MemTotal: 1048576 kB\nMemFree: 1 kB\nMemAvailable: 102400 kB\n");
    put_over("/proc/self/cgroup", "0::/\n");
    CHECK_EQ(room_for(EVERYTHING, where), 68 * MIB);
    CHECK_STR(where, "this machine: 100 MiB available");
}

static void *ask_for_ever(void *argument)
{
    char where[200];
    for (;;)
        room_for(EVERYTHING, where);
    return argument;
}

/* A thread of the parent may be in the cache at the moment of fork(). */
static void threads_and_forks(void)
{
    pthread_t threads[4];
#ifdef __SANITIZE_ADDRESS__
    SKIP("its malloc can't be used in a child forked while threads use it\n");
#endif
    for (int i = 0; i < 4; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, ask_for_ever, NULL), 0);
    for (int i = 0; i < 200; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            char where[200];
            CHECK_LE(1, room_for(EVERYTHING, where));
            _exit(0);
        }
        CHECK_EQ(await_child(pid, 0), 0);
    }
}

CASES(CASE(answers_on_this_machine), CASE(v1_ancestor_limits),
      CASE(v1_shared_memory_counts_file_cache_does_not), CASE(v1_follows_a_move),
      CASE(v2_ancestor_limits), CASE(a_container_sees_only_its_own_group),
      CASE(unreadable_files_do_not_limit), CASE(machine_limits), CASE(threads_and_forks))
