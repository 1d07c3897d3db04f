/* reap.c: what the dead held comes back, whoever looks and whenever. */
#include "harness.h"
#include "internal.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

/* Holds a bit of everything, in many slabs and runs, and waits. */
static void hold_and_wait(struct peer *parent, void *argument)
{
    struct heap_address address;
    uint64_t random = process_seed();
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    for (unsigned i = 0; i < 400; i++) {
        void *block = make_block(heap, 1 + (size_t)(random_next(&random) >> (46 + i % 12)));
        if (i % 5 == 0)
            CHECK_OK(sharena_retain(heap, block));
        if (i % 7 == 0)
            CHECK_OK(sharena_release(heap, block));
    }
    peer_tell(parent);
    for (;;)
        pause();
}

static void start_holders(struct peer *peers, unsigned n, sharena_heap **heap)
{
    for (unsigned i = 0; i < n; i++)
        peer_start(&peers[i], hold_and_wait, NULL);
    *heap = scratch_heap(1024 * MIB, 2048 * MIB);
    struct heap_address address = address_of(*heap);
    for (unsigned i = 0; i < n; i++) {
        peer_send(&peers[i], &address, sizeof address);
        peer_await(&peers[i]);
    }
}

static void a_kill_leaks_nothing(void)
{
    struct peer peers[4];
    sharena_heap *heap;
    unsigned reaped = 0;
    start_holders(peers, 4, &heap);
    sharena_stats stats = stats_of(heap);
    CHECK_EQ(stats.processes, 5);
    CHECK_LE(4 * 300, stats.blocks);
    peer_kill(&peers[1]);
    check_heap(heap); /* the dead, not reaped yet, are no fault */
    CHECK_OK(sharena_reap(heap, &reaped));
    CHECK_EQ(reaped, 1);
    sharena_stats after = stats_of(heap);
    CHECK_EQ(after.processes, 4);
    CHECK_LE(after.blocks, stats.blocks - 300);
    for (int i = 0; i < 4; i++)
        if (i != 1)
            peer_kill(&peers[i]);
    CHECK_OK(sharena_reap(heap, &reaped));
    CHECK_EQ(reaped, 3);
    CHECK_OK(sharena_reap(heap, &reaped));
    CHECK_EQ(reaped, 0);
    CHECK_OK(sharena_trim(heap, NULL));
    after = stats_of(heap);
    CHECK_EQ(after.blocks, 0);
    CHECK_EQ(after.slabs, 0);
    CHECK_EQ(after.retained_bytes, 0);
    check_heap(heap);
}

/* Nobody has to ask: the dead are looked for before the heap says it is full. */
static void fill_and_wait(struct peer *parent, void *argument)
{
    struct heap_address address;
    void *block;
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    while (sharena_allocate(heap, 1000000, 0, 0, &block) == 0)
        continue;
    while (sharena_allocate(heap, 1000, 0, 0, &block) == 0)
        continue;
    peer_tell(parent);
    for (;;)
        pause();
}

static void full_of_the_dead_is_not_full(void)
{
    struct peer peer;
    void *block;
    peer_start(&peer, fill_and_wait, NULL);
    sharena_heap *heap = scratch_heap(16 * MIB, 32 * MIB);
    struct heap_address address = address_of(heap);
    peer_send(&peer, &address, sizeof address);
    peer_await(&peer);
    CHECK_EQ(sharena_allocate(heap, 8 * MIB, 0, 0, &block), SHARENA_EFULL);
    CHECK_EQ(sharena_allocate(heap, 3000, 0, 0, &block), SHARENA_EFULL);
    peer_kill(&peer);
    CHECK_OK(sharena_allocate(heap, 3000, 0, 0, &block));
    CHECK_OK(sharena_allocate(heap, 8 * MIB, 0, 0, &block));
    check_heap(heap);
}

/* Sharing: a block lives as long as one of many holders does. */
static void load_and_wait(struct peer *parent, void *argument)
{
    struct heap_address address;
    sharena_handle handles[2];
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    peer_receive(parent, handles, sizeof handles);
    for (int i = 0; i < 2; i++) {
        sharena_block block;
        CHECK_OK(sharena_acquire(heap, &handles[i], &block));
        CHECK_EQ(*(uint8_t *)block.start, 0x42);
    }
    peer_tell(parent);
    for (;;)
        pause();
}

static void shared_blocks_outlive_all_but_the_last(void)
{
    enum { N = 8 };
    struct peer peers[N];
    sharena_handle handles[2];
    uint8_t *blocks[2];
    for (int i = 0; i < N; i++)
        peer_start(&peers[i], load_and_wait, NULL);
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    struct heap_address address = address_of(heap);
    blocks[0] = make_block(heap, 100);
    blocks[1] = make_block(heap, 1000000);
    for (int i = 0; i < 2; i++)
        CHECK_OK(sharena_export(heap, blocks[i], N, &handles[i]));
    for (int i = 0; i < N; i++) {
        peer_send(&peers[i], &address, sizeof address);
        peer_send(&peers[i], handles, sizeof handles);
        peer_await(&peers[i]);
    }
    CHECK_EQ(stats_of(heap).tickets, 0);
    for (int i = 0; i < 2; i++)
        CHECK_OK(sharena_release(heap, blocks[i]));
    for (int i = 0; i < N; i++) {
        CHECK_EQ(stats_of(heap).blocks, 2);
        peer_kill(&peers[i]);
        CHECK_OK(sharena_reap(heap, NULL));
    }
    CHECK_EQ(stats_of(heap).blocks, 0);
    check_heap(heap);
}

/* Several reap the same dead at once; the number of the slots does not run out in 500 lives. */
static void reap_for_ever(struct peer *parent, void *argument)
{
    struct heap_address address;
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    peer_tell(parent);
    for (;;)
        CHECK_OK(sharena_reap(heap, NULL));
}

static void short_life(struct peer *parent, void *argument)
{
    struct heap_address address;
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    for (unsigned i = 0; i < 30; i++)
        make_block(heap, i % 3 ? 500 : 100000);
    peer_tell(parent);
    for (;;)
        pause();
}

static void reapers_compete(void)
{
    enum { LIVES = 300 };
    static struct peer lives[LIVES];
    struct peer reapers[2];
    for (int i = 0; i < 2; i++)
        peer_start(&reapers[i], reap_for_ever, NULL);
    for (int i = 0; i < LIVES; i++)
        peer_start(&lives[i], short_life, NULL);
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    struct heap_address address = address_of(heap);
    for (int i = 0; i < 2; i++) {
        peer_send(&reapers[i], &address, sizeof address);
        peer_await(&reapers[i]);
    }
    for (int i = 0; i < LIVES; i += 3) {
        for (int j = 0; j < 3; j++) {
            peer_send(&lives[i + j], &address, sizeof address);
            peer_await(&lives[i + j]);
        }
        for (int j = 0; j < 3; j++)
            peer_kill(&lives[i + j]);
        CHECK_OK(sharena_reap(heap, NULL));
    }
    for (int i = 0; i < 2; i++)
        peer_kill(&reapers[i]);
    CHECK_OK(sharena_reap(heap, NULL));
    sharena_stats stats = stats_of(heap);
    CHECK_EQ(stats.blocks, 0);
    CHECK_EQ(stats.processes, 1);
    check_heap(heap);
}

/* Reapers that are killed while they reap. */
static void killed_reapers_leave_no_trace(void)
{
    enum { ROUNDS = 60 };
    static struct peer lives[ROUNDS], reapers[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        peer_start(&lives[i], short_life, NULL);
        peer_start(&reapers[i], reap_for_ever, NULL);
    }
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    struct heap_address address = address_of(heap);
    uint64_t random = test_seed();
    for (int i = 0; i < ROUNDS; i++) {
        peer_send(&lives[i], &address, sizeof address);
        peer_await(&lives[i]);
        peer_send(&reapers[i], &address, sizeof address);
        peer_await(&reapers[i]);
        peer_kill(&lives[i]);
        uint64_t until = now_ns() + random_next(&random) % 300000;
        while (now_ns() < until)
            continue;
        peer_kill(&reapers[i]);
    }
    CHECK_OK(sharena_reap(heap, NULL));
    CHECK_EQ(stats_of(heap).blocks, 0);
    CHECK_EQ(stats_of(heap).processes, 1);
    check_heap(heap);
}

/* A reaper that is stopped delays only the re-use of a number; the memory comes back. */
static void stopped_reaper_is_in_nobodys_way(void)
{
    enum { ROUNDS = 20 };
    static struct peer lives[ROUNDS];
    struct peer reaper;
    for (int i = 0; i < ROUNDS; i++)
        peer_start(&lives[i], short_life, NULL);
    peer_start(&reaper, reap_for_ever, NULL);
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    struct heap_address address = address_of(heap);
    peer_send(&reaper, &address, sizeof address);
    peer_await(&reaper);
    for (int i = 0; i < ROUNDS; i++) {
        peer_send(&lives[i], &address, sizeof address);
        peer_await(&lives[i]);
        peer_kill(&lives[i]);
        CHECK_EQ(kill(reaper.pid, SIGSTOP), 0);
        await_child(reaper.pid, WUNTRACED);
        CHECK_OK(sharena_reap(heap, NULL));
        CHECK_EQ(stats_of(heap).blocks, 0);
        check_heap(heap);
        CHECK_EQ(kill(reaper.pid, SIGCONT), 0);
    }
    peer_kill(&reaper);
    CHECK_OK(sharena_reap(heap, NULL));
    CHECK_EQ(stats_of(heap).processes, 1);
}

/* A clean leave needs no reaper. */
static void detach_cleanly(struct peer *parent, void *argument)
{
    struct heap_address address;
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    for (unsigned round = 0; round < 20; round++) {
        sharena_heap *heap = attach_to(&address);
        for (unsigned i = 0; i < 100; i++)
            make_block(heap, 1 + i * 700);
        CHECK_OK(sharena_detach(heap));
    }
}

static void detach_drops_everything(void)
{
    struct peer peer;
    unsigned reaped = 7;
    peer_start(&peer, detach_cleanly, NULL);
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    struct heap_address address = address_of(heap);
    peer_send(&peer, &address, sizeof address);
    peer_join(&peer);
    sharena_stats stats = stats_of(heap);
    CHECK_EQ(stats.blocks, 0);
    CHECK_EQ(stats.processes, 1);
    CHECK_OK(sharena_reap(heap, &reaped));
    CHECK_EQ(reaped, 0);
    check_heap(heap);
}

CASES(CASE(a_kill_leaks_nothing), CASE(full_of_the_dead_is_not_full),
      CASE(shared_blocks_outlive_all_but_the_last), CASE_FOR(60, reapers_compete),
      CASE_FOR(40, killed_reapers_leave_no_trace), CASE(stopped_reaper_is_in_nobodys_way),
      CASE(detach_drops_everything))
