/* process.c: slots, the verdict, and running out of slots. */
#include "harness.h"
#include "internal.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

static void attach_and_wait(struct peer *parent, void *argument)
{
    struct heap_address address;
    int code;
    sharena_heap *heap = NULL;
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    code = sharena_attach_process(address.pid, address.fd, address.uuid, &heap);
    if (code != 0)
        CHECK(strlen(sharena_detail()) > 10);
    peer_send(parent, &code, sizeof code);
    peer_await(parent);
    if (heap)
        CHECK_OK(sharena_detach(heap));
}

static int attach_peer(struct peer *peer, const struct heap_address *address)
{
    int code;
    peer_send(peer, address, sizeof *address);
    peer_receive(peer, &code, sizeof code);
    return code;
}

static void sixty_processes_and_no_more(void)
{
    enum { N = 66 };
    struct peer peers[N];
    for (int i = 0; i < N; i++)
        peer_start(&peers[i], attach_and_wait, NULL);
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    struct heap_address address = address_of(heap);
    for (int i = 0; i < 59; i++)
        CHECK_EQ(attach_peer(&peers[i], &address), 0);
    CHECK_EQ(stats_of(heap).processes, 60);
    for (int i = 59; i < 62; i++)
        CHECK_EQ(attach_peer(&peers[i], &address), SHARENA_EPROCESSES);
    /* A death makes room without anybody reaping on request: with all slots taken the
     * newcomer does it from the reaper's slot. */
    peer_kill(&peers[7]);
    CHECK_EQ(attach_peer(&peers[62], &address), 0);
    CHECK_EQ(attach_peer(&peers[63], &address), SHARENA_EPROCESSES);
    /* So does a clean leave. */
    peer_tell(&peers[8]);
    peer_join(&peers[8]);
    CHECK_EQ(attach_peer(&peers[64], &address), 0);
    CHECK_EQ(attach_peer(&peers[65], &address), SHARENA_EPROCESSES);
    CHECK_EQ(stats_of(heap).processes, 60);
    for (int i = 0; i < N; i++)
        if (i != 7 && i != 8) {
            peer_tell(&peers[i]);
            peer_join(&peers[i]);
        }
    CHECK_EQ(stats_of(heap).processes, 1);
    check_heap(heap);
}

static void all_dead_at_once(void)
{
    enum { N = 59 };
    struct peer peers[N], last;
    for (int i = 0; i < N; i++)
        peer_start(&peers[i], attach_and_wait, NULL);
    peer_start(&last, attach_and_wait, NULL);
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    struct heap_address address = address_of(heap);
    for (int i = 0; i < N; i++)
        CHECK_EQ(attach_peer(&peers[i], &address), 0);
    for (int i = 0; i < N; i++)
        peer_kill(&peers[i]);
    CHECK_EQ(attach_peer(&last, &address), 0);
    CHECK_EQ(stats_of(heap).processes, 2);
    peer_tell(&last);
    peer_join(&last);
}

/* Newcomers race for the slots: each gets its own. */
static void attach_often(struct peer *parent, void *argument)
{
    struct heap_address address;
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    for (unsigned i = 0; i < 100; i++) {
        sharena_heap *heap = NULL;
        void *block;
        CHECK_OK(sharena_attach_process(address.pid, address.fd, address.uuid, &heap));
        CHECK_EQ(SHR_STATE_OF(load64_acquire(&shr__slot(heap, heap->slot)->state)), SLOT_LIVE);
        CHECK_EQ(load32_relaxed(&shr__slot(heap, heap->slot)->pid), getpid());
        CHECK_OK(sharena_allocate(heap, 100, 0, 0, &block));
        CHECK_OK(sharena_detach(heap));
    }
}

static void attaching_races(void)
{
    enum { N = 20 };
    struct peer peers[N];
    for (int i = 0; i < N; i++)
        peer_start(&peers[i], attach_often, NULL);
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    struct heap_address address = address_of(heap);
    for (int i = 0; i < N; i++)
        peer_send(&peers[i], &address, sizeof address);
    for (int i = 0; i < N; i++)
        peer_join(&peers[i]);
    CHECK_EQ(stats_of(heap).processes, 1);
    CHECK_EQ(stats_of(heap).blocks, 0);
    check_heap(heap);
}

/* ---- the verdict --------------------------------------------------------------------------------- */

/* Closes every descriptor, as daemons do, and stays alive. */
static void close_all_and_wait(struct peer *parent, void *argument)
{
    struct heap_address address;
    void *block;
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    CHECK_OK(sharena_allocate(heap, 100000, 0, 0, &block));
    for (int i = 3; i < 2048; i++)
        if (i != parent->to && i != parent->from)
            close(i);
    peer_tell(parent);
    peer_await(parent);
    memset(block, 1, 100000);
    CHECK_OK(sharena_allocate(heap, 1000000, 0, 0, &block));
    CHECK_OK(sharena_detach(heap));
}

static void closing_descriptors_is_not_death(void)
{
    struct peer peer;
    unsigned reaped = 9;
    peer_start(&peer, close_all_and_wait, NULL);
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    struct heap_address address = address_of(heap);
    peer_send(&peer, &address, sizeof address);
    peer_await(&peer);
    CHECK_OK(sharena_reap(heap, &reaped));
    CHECK_EQ(reaped, 0);
    CHECK_EQ(stats_of(heap).blocks, 1);
    peer_tell(&peer);
    peer_join(&peer);
}

static void zombies_and_stopped_processes(void)
{
    struct peer stopped, zombie;
    unsigned reaped = 9;
    peer_start(&stopped, attach_and_wait, NULL);
    peer_start(&zombie, attach_and_wait, NULL);
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    struct heap_address address = address_of(heap);
    CHECK_EQ(attach_peer(&stopped, &address), 0);
    CHECK_EQ(attach_peer(&zombie, &address), 0);
    CHECK_EQ(kill(stopped.pid, SIGSTOP), 0);
    await_child(stopped.pid, WUNTRACED);
    CHECK_EQ(kill(zombie.pid, SIGKILL), 0);
    siginfo_t info;
    CHECK_EQ(waitid(P_PID, (id_t)zombie.pid, &info, WEXITED | WNOWAIT), 0);
    CHECK_OK(sharena_reap(heap, &reaped));
    CHECK_EQ(reaped, 1); /* nobody has waited for it yet, but it holds nothing any more */
    CHECK_EQ(stats_of(heap).processes, 2);
    peer_end(&zombie);
    peer_kill(&stopped);
    CHECK_OK(sharena_reap(heap, &reaped));
    CHECK_EQ(reaped, 1);
}

/* A process in a pid namespace of its own has another idea of its pid; its lock is as good. */
static void attach_in_namespace(struct peer *parent, void *argument)
{
    struct heap_address address;
    char path[64];
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)address.pid, address.fd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    if (unshare(CLONE_NEWPID) != 0) {
        int no = -1;
        peer_send(parent, &no, sizeof no);
        return;
    }
    pid_t pid = fork(); /* the first in the new namespace: pid 1 */
    if (pid == 0) {
        sharena_heap *heap = NULL;
        /* /proc is still the outer one, where "self" is right and pids are not. */
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        char target[64] = "";
        CHECK(readlink("/proc/self", target, sizeof target - 1) > 0);
        CHECK_OK(sharena_attach_process(atoi(target), fd, address.uuid, &heap));
        void *block;
        CHECK_OK(sharena_allocate(heap, 100, 0, 0, &block));
        peer_send(parent, &pid, sizeof pid);
        for (;;)
            pause();
    }
    peer_await(parent);
    CHECK_EQ(kill(pid, SIGKILL), 0);
    await_child(pid, 0);
    peer_tell(parent);
}

static void other_pid_namespace(void)
{
    struct peer peer;
    unsigned reaped = 9;
    int answer;
    peer_start(&peer, attach_in_namespace, NULL);
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    struct heap_address address = address_of(heap);
    peer_send(&peer, &address, sizeof address);
    peer_receive(&peer, &answer, sizeof answer);
    if (answer < 0)
        SKIP("no pid namespace here\n");
    CHECK_OK(sharena_reap(heap, &reaped));
    CHECK_EQ(reaped, 0);
    CHECK_EQ(stats_of(heap).blocks, 1);
    peer_tell(&peer);
    peer_await(&peer);
    CHECK_OK(sharena_reap(heap, &reaped));
    CHECK_EQ(reaped, 1);
    CHECK_EQ(stats_of(heap).blocks, 0);
    peer_join(&peer);
}

static int see_process(const sharena_process *p, void *argument)
{
    unsigned *seen = argument;
    if (p->pid == getpid()) {
        CHECK_EQ(p->alive, 1);
        CHECK_EQ(p->blocks, 3);
        CHECK_LE(300000, p->bytes);
        CHECK(strlen(p->command) > 3);
        CHECK_LE(1, p->started_ns);
        *seen += 1;
    } else {
        CHECK_EQ(p->blocks, 0);
        *seen += p->alive ? 100 : 10000;
    }
    return 0;
}

static void processes_are_listed(void)
{
    struct peer alive, dead;
    unsigned seen = 0;
    void *block;
    peer_start(&alive, attach_and_wait, NULL);
    peer_start(&dead, attach_and_wait, NULL);
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    struct heap_address address = address_of(heap);
    CHECK_EQ(attach_peer(&alive, &address), 0);
    CHECK_EQ(attach_peer(&dead, &address), 0);
    for (int i = 0; i < 3; i++)
        CHECK_OK(sharena_allocate(heap, 100000, 0, 0, &block));
    peer_kill(&dead);
    CHECK_OK(sharena_process_list(heap, see_process, &seen));
    CHECK_EQ(seen, 10101);
    peer_kill(&alive);
}

CASES(CASE(sixty_processes_and_no_more), CASE(all_dead_at_once), CASE(attaching_races),
      CASE(closing_descriptors_is_not_death), CASE(zombies_and_stopped_processes),
      CASE(other_pid_namespace), CASE(processes_are_listed))
