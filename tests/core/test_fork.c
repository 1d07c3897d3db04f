/* fork.c: a child holds what its parent held, and is a process of its own. */
#include "harness.h"
#include "internal.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

struct kit {
    sharena_heap *heap;
    void *small, *big, *counted, *sent;
    sharena_handle handle;
};

static void make_kit(struct kit *kit)
{
    kit->heap = scratch_heap(256 * MIB, 256 * MIB);
    kit->small = make_block(kit->heap, 100);
    kit->big = make_block(kit->heap, 1000000);
    kit->counted = make_block(kit->heap, 5000);
    CHECK_OK(sharena_retain(kit->heap, kit->counted));
    kit->sent = make_block(kit->heap, 300);
    CHECK_OK(sharena_export(kit->heap, kit->sent, 2, &kit->handle));
}

/* All that can be done with what was inherited; leaves nothing. */
static void use_kit(struct kit *kit)
{
    sharena_block block;
    CHECK_EQ(*(uint8_t *)kit->small, 0x42);
    CHECK_EQ(*(uint8_t *)kit->big, 0x42);
    CHECK_OK(sharena_find(kit->heap, (uint8_t *)kit->big + 999999, &block));
    CHECK_EQ((uintptr_t)block.start, (uintptr_t)kit->big);
    CHECK_OK(sharena_find(kit->heap, kit->small, &block));
    CHECK_OK(sharena_retain(kit->heap, kit->small));
    CHECK_OK(sharena_release(kit->heap, kit->small));
    CHECK_OK(sharena_release(kit->heap, kit->small));
    CHECK_EQ(sharena_release(kit->heap, kit->small), SHARENA_ENOTHELD);
    CHECK_OK(sharena_release(kit->heap, kit->big));
    CHECK_EQ(sharena_release(kit->heap, kit->big), SHARENA_ENOTHELD);
    CHECK_OK(sharena_release(kit->heap, kit->counted));
    CHECK_OK(sharena_release(kit->heap, kit->counted));
    CHECK_EQ(sharena_release(kit->heap, kit->counted), SHARENA_ENOTHELD);
    CHECK_OK(sharena_release(kit->heap, kit->sent));
}

static void child_uses_kit(struct peer *parent, void *argument)
{
    struct kit *kit = argument;
    (void)parent;
    CHECK_EQ(stats_of(kit->heap).processes, 2);
    use_kit(kit);
    void *own = make_block(kit->heap, 100);
    CHECK_OK(sharena_release(kit->heap, own));
    check_heap(kit->heap);
}

static void child_inherits_what_the_parent_holds(void)
{
    struct kit kit;
    struct peer child;
    make_kit(&kit);
    sharena_stats before = stats_of(kit.heap);
    peer_start(&child, child_uses_kit, &kit);
    peer_join(&child);
    CHECK_OK(sharena_reap(kit.heap, NULL));
    check_baseline(kit.heap, &before); /* the parent's own are untouched */
    peer_start(&child, child_uses_kit, &kit);
    use_kit(&kit); /* parent and child at once */
    peer_join(&child);
    CHECK_OK(sharena_reap(kit.heap, NULL));
    CHECK_EQ(stats_of(kit.heap).blocks, 1);
    CHECK_OK(sharena_ticket_expire(kit.heap, 0, NULL));
    CHECK_EQ(stats_of(kit.heap).blocks, 0);
    check_heap(kit.heap);
}

static void wait_then_check_data(struct peer *parent, void *argument)
{
    struct kit *kit = argument;
    peer_tell(parent);
    peer_await(parent);
    CHECK_EQ(*(uint8_t *)kit->big, 0x42);
    CHECK_EQ(*(uint8_t *)kit->small, 0x42);
    peer_tell(parent);
    peer_await(parent);
}

/* The parent drops (and fills the heap with something else): the child's are not touched. */
static void parent_drops_child_keeps(void)
{
    struct kit kit;
    struct peer child;
    make_kit(&kit);
    peer_start(&child, wait_then_check_data, &kit);
    peer_await(&child);
    CHECK_OK(sharena_release(kit.heap, kit.small));
    CHECK_OK(sharena_release(kit.heap, kit.big));
    CHECK_EQ(stats_of(kit.heap).blocks, 4);
    for (unsigned i = 0; i < 2000; i++)
        memset(make_block(kit.heap, 100), 0x99, 100);
    for (unsigned i = 0; i < 20; i++)
        memset(make_block(kit.heap, 1000000), 0x99, 1000000);
    peer_tell(&child);
    peer_await(&child);
    peer_kill(&child);
    sharena_stats held = stats_of(kit.heap);
    CHECK_OK(sharena_reap(kit.heap, NULL));
    CHECK_EQ(stats_of(kit.heap).blocks, held.blocks - 2);
    check_heap(kit.heap);
}

/* A handle made by a child of what it inherited; the child and the parent drop it. */
static void send_inherited(struct peer *parent, void *argument)
{
    struct kit *kit = argument;
    sharena_handle handles[2];
    CHECK_OK(sharena_export(kit->heap, kit->small, 1, &handles[0]));
    CHECK_OK(sharena_export(kit->heap, kit->big, 1, &handles[1]));
    peer_send(parent, handles, sizeof handles);
}

static void handles_of_inherited_blocks(void)
{
    struct kit kit;
    struct peer child;
    sharena_handle handles[2];
    make_kit(&kit);
    peer_start(&child, send_inherited, &kit);
    peer_receive(&child, handles, sizeof handles);
    peer_join(&child);
    CHECK_OK(sharena_reap(kit.heap, NULL));
    CHECK_OK(sharena_release(kit.heap, kit.small));
    CHECK_OK(sharena_release(kit.heap, kit.big));
    CHECK_EQ(stats_of(kit.heap).blocks, 4);
    for (int i = 0; i < 2; i++) {
        sharena_block block;
        CHECK_OK(sharena_acquire(kit.heap, &handles[i], &block));
        CHECK_EQ(*(uint8_t *)block.start, 0x42);
        CHECK_OK(sharena_release(kit.heap, block.start));
    }
    CHECK_EQ(stats_of(kit.heap).blocks, 2);
}

/* A child loads a handle to what it inherited: one more reference, not the same one. */
static void load_inherited(struct peer *parent, void *argument)
{
    struct kit *kit = argument;
    sharena_block block;
    (void)parent;
    CHECK_OK(sharena_acquire(kit->heap, &kit->handle, &block));
    CHECK_EQ((uintptr_t)block.start, (uintptr_t)kit->sent);
    CHECK_OK(sharena_release(kit->heap, kit->sent));
    CHECK_OK(sharena_find(kit->heap, kit->sent, &block));
    CHECK_OK(sharena_release(kit->heap, kit->sent));
    CHECK_EQ(sharena_find(kit->heap, kit->sent, &block), SHARENA_ENOTHELD);
}

static void handles_to_inherited_blocks(void)
{
    struct kit kit;
    struct peer child;
    make_kit(&kit);
    peer_start(&child, load_inherited, &kit);
    peer_join(&child);
    CHECK_EQ(stats_of(kit.heap).tickets, 1);
    CHECK_OK(sharena_reap(kit.heap, NULL));
    check_heap(kit.heap);
}

/* ---- generations ------------------------------------------------------------------------------------ */

static void descend(struct kit *kit, int generations)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        void *own = make_block(kit->heap, 700);
        if (generations > 1)
            descend(kit, generations - 1);
        CHECK_OK(sharena_release(kit->heap, own));
        use_kit(kit);
        _exit(0);
    }
    CHECK_EQ(await_child(pid, 0), 0);
}

static void grandchildren(void)
{
    struct kit kit;
    make_kit(&kit);
    sharena_stats before = stats_of(kit.heap);
    for (int i = 0; i < 5; i++)
        descend(&kit, 12);
    CHECK_OK(sharena_reap(kit.heap, NULL));
    check_baseline(kit.heap, &before);
}

/* The middle one dies: the grandchild's blocks stay. */
static void wait_for_ever(struct peer *parent, void *argument)
{
    struct kit *kit = argument;
    CHECK_EQ(*(uint8_t *)kit->big, 0x42);
    peer_tell(parent);
    for (;;)
        pause();
}

static void middle(struct peer *parent, void *argument)
{
    struct peer child;
    peer_start(&child, wait_for_ever, argument);
    peer_await(&child);
    peer_send(parent, &child, sizeof child);
    for (;;)
        pause();
}

static void orphaned_grandchild(void)
{
    struct kit kit;
    struct peer child, grandchild;
    make_kit(&kit);
    peer_start(&child, middle, &kit);
    peer_receive(&child, &grandchild, sizeof grandchild);
    peer_kill(&child);
    CHECK_OK(sharena_release(kit.heap, kit.big));
    CHECK_OK(sharena_reap(kit.heap, NULL));
    CHECK_EQ(stats_of(kit.heap).processes, 2);
    CHECK_EQ(stats_of(kit.heap).blocks, 4);
    kill(grandchild.pid, SIGKILL);
    uint64_t deadline = now_ns() + UINT64_C(10000000000);
    while (stats_of(kit.heap).blocks != 3 && now_ns() < deadline)
        CHECK_OK(sharena_reap(kit.heap, NULL));
    CHECK_EQ(stats_of(kit.heap).blocks, 3);
}

/* ---- threads ------------------------------------------------------------------------------------------ */

struct busy {
    sharena_heap *heap;
    shr_a32 stop;
    shr_a64 seed;
};

static void *work_until_told(void *argument)
{
    struct busy *busy = argument;
    uint64_t random = add64_relaxed(&busy->seed, 77);
    void *blocks[50] = {NULL};
    while (!load32_acquire(&busy->stop)) {
        unsigned i = (unsigned)(random_next(&random) % 50);
        if (blocks[i]) {
            CHECK_EQ(*(uint8_t *)blocks[i], 0x42);
            CHECK_OK(sharena_release(busy->heap, blocks[i]));
            blocks[i] = NULL;
        } else {
            blocks[i] = make_block(busy->heap,
                                   1 + random_next(&random) % (i == 7 ? 300000 : 3000));
            if (i % 5 == 0) {
                sharena_handle handle;
                sharena_block block;
                CHECK_OK(sharena_export(busy->heap, blocks[i], 1, &handle));
                CHECK_OK(sharena_acquire(busy->heap, &handle, &block));
                CHECK_OK(sharena_release(busy->heap, block.start));
            }
        }
    }
    for (unsigned i = 0; i < 50; i++)
        if (blocks[i])
            CHECK_OK(sharena_release(busy->heap, blocks[i]));
    return NULL;
}

/* What the other threads hold at the moment of fork() is the child's too, for its life. */
static void fork_while_threads_work(void)
{
#ifdef __SANITIZE_ADDRESS__
    SKIP("its malloc can't be used in a child forked while threads use it\n");
#endif
    pthread_t threads[3];
    struct kit kit;
    make_kit(&kit);
    sharena_stats before = stats_of(kit.heap);
    struct busy busy = {.heap = kit.heap};
    store64_relaxed(&busy.seed, test_seed());
    for (int t = 0; t < 3; t++)
        CHECK_EQ(pthread_create(&threads[t], NULL, work_until_told, &busy), 0);
    for (unsigned i = 0; i < 100; i++) {
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            alarm(20);
            for (unsigned k = 0; k < 20; k++)
                CHECK_OK(sharena_release(kit.heap, make_block(kit.heap, 1 + k * 200)));
            use_kit(&kit);
            if (i % 10 == 0)
                check_heap(kit.heap);
            _exit(0);
        }
        if (i % 3 == 0)
            kill(pid, SIGKILL);
        int status = await_child(pid, 0);
        CHECK(status == 0 || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
    }
    store32_release(&busy.stop, 1);
    for (int t = 0; t < 3; t++)
        CHECK_EQ(pthread_join(threads[t], NULL), 0);
    CHECK_OK(sharena_reap(kit.heap, NULL));
    check_baseline(kit.heap, &before);
}

/* Several threads fork at once. */
static void *fork_often(void *argument)
{
    struct kit *kit = argument;
    for (unsigned i = 0; i < 30; i++) {
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            alarm(20);
            use_kit(kit);
            _exit(0);
        }
        CHECK_EQ(await_child(pid, 0), 0);
    }
    return NULL;
}

static void threads_fork_at_once(void)
{
    pthread_t threads[4];
    struct kit kit;
    make_kit(&kit);
    sharena_stats before = stats_of(kit.heap);
    for (int t = 0; t < 4; t++)
        CHECK_EQ(pthread_create(&threads[t], NULL, fork_often, &kit), 0);
    for (int t = 0; t < 4; t++)
        CHECK_EQ(pthread_join(threads[t], NULL), 0);
    CHECK_OK(sharena_reap(kit.heap, NULL));
    check_baseline(kit.heap, &before);
}

/* ---- failure --------------------------------------------------------------------------------------------- */

/* fork() fails after the handlers have run: nothing is left of the child that never was. */
static void fork_that_fails(void)
{
    struct kit kit;
    if (getuid() == 0 && setuid(65534) != 0) /* root has no limit */
        SKIP("cannot change user\n");
    make_kit(&kit);
    sharena_stats before = stats_of(kit.heap);
    struct rlimit none = {0, 0};
    CHECK_EQ(setrlimit(RLIMIT_NPROC, &none), 0);
    for (unsigned i = 0; i < 200; i++)
        CHECK_EQ(fork(), -1);
    CHECK_OK(sharena_reap(kit.heap, NULL));
    check_baseline(kit.heap, &before);
    use_kit(&kit);
    CHECK_OK(sharena_ticket_expire(kit.heap, 0, NULL));
    CHECK_EQ(stats_of(kit.heap).blocks, 0);
}

static void several_heaps(void)
{
    struct kit kits[5];
    for (int i = 0; i < 5; i++)
        make_kit(&kits[i]);
    for (unsigned round = 0; round < 10; round++) {
        pid_t pid = fork();
        if (pid == 0) {
            for (int i = 0; i < 5; i++)
                use_kit(&kits[i]);
            _exit(0);
        }
        CHECK_EQ(await_child(pid, 0), 0);
    }
    for (int i = 0; i < 5; i++) {
        CHECK_OK(sharena_reap(kits[i].heap, NULL));
        CHECK_EQ(stats_of(kits[i].heap).processes, 1);
        CHECK_EQ(stats_of(kits[i].heap).blocks, 4);
        check_heap(kits[i].heap);
    }
}

/* exec gives everything up. */
static void exec_drops_everything(void)
{
    struct kit kit;
    int go[2];
    make_kit(&kit);
    CHECK_EQ(pipe(go), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(go[0], STDIN_FILENO);
        close(go[1]);
        execlp("cat", "cat", (char *)NULL);
        _exit(9);
    }
    close(go[0]);
    uint64_t deadline = now_ns() + UINT64_C(10000000000);
    do
        CHECK_OK(sharena_reap(kit.heap, NULL));
    while (stats_of(kit.heap).processes != 1 && now_ns() < deadline);
    CHECK_EQ(stats_of(kit.heap).processes, 1); /* although the program runs */
    CHECK_EQ(kill(pid, 0), 0);
    close(go[1]);
    CHECK_EQ(await_child(pid, 0), 0);
}

CASES(CASE(child_inherits_what_the_parent_holds), CASE(parent_drops_child_keeps),
      CASE(handles_of_inherited_blocks), CASE(handles_to_inherited_blocks), CASE(grandchildren),
      CASE(orphaned_grandchild), CASE_FOR(60, fork_while_threads_work),
      CASE_FOR(60, threads_fork_at_once), CASE(fork_that_fails), CASE(several_heaps),
      CASE(exec_drops_everything))
