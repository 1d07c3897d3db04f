/* holding.c: unit locks that many threads want, and what is counted. */
#include "harness.h"
#include "internal.h"

#include <pthread.h>

#define MIB (UINT64_C(1) << 20)

static void *make(sharena_heap *heap, size_t size)
{
    void *block;
    CHECK_OK(sharena_allocate(heap, size, 0, 0, &block));
    return block;
}

static struct shard *shard_of(sharena_heap *heap, const void *block)
{
    return shr__shard(heap, (uint64_t)((const uint8_t *)block - heap->data) >> SHR_UNIT_SHIFT);
}

struct contest {
    sharena_heap *heap;
    void *block;
    struct shard *shard;
    pthread_barrier_t start;
    uint64_t inside; /* by who has the lock */
    unsigned rounds;
};

static void *count_inside(void *argument)
{
    struct contest *c = argument;
    pthread_barrier_wait(&c->start);
    for (unsigned i = 0; i < c->rounds; i++) {
        shr__shard_lock(c->shard);
        uint64_t mine = ++c->inside, until = now_ns() + (i % 64 == 0 ? 50000 : 0);
        while (now_ns() < until) /* the others go to sleep */
            ;
        CHECK_EQ(c->inside, mine);
        shr__unlock(c->shard);
    }
    return NULL;
}

static void *retain_and_release(void *argument)
{
    struct contest *c = argument;
    pthread_barrier_wait(&c->start);
    for (unsigned i = 0; i < c->rounds; i++) {
        CHECK_OK(sharena_retain(c->heap, c->block));
        CHECK_OK(sharena_release(c->heap, c->block));
    }
    return NULL;
}

static void run_threads(void *(*body)(void *), struct contest *c)
{
    pthread_t threads[4];
    CHECK_EQ(pthread_barrier_init(&c->start, NULL, 4), 0);
    for (unsigned t = 0; t < 4; t++)
        CHECK_EQ(pthread_create(&threads[t], NULL, body, c), 0);
    for (unsigned t = 0; t < 4; t++)
        CHECK_EQ(pthread_join(threads[t], NULL), 0);
}

/* One at a time, and no sleeper is forgotten: the case has a deadline. */
static void a_lock_is_one_threads(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    struct contest c = {.heap = heap, .shard = &heap->shards[3], .rounds = 3000};
    run_threads(count_inside, &c);
    CHECK_EQ(c.inside, 4 * c.rounds);
    CHECK_EQ(load32_relaxed(&c.shard->lock), 0);
    CHECK_EQ(load32_relaxed(&c.shard->sleepers), 0);
}

static void threads_count_one_block(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    const size_t sizes[] = {100, 100000};
    for (unsigned i = 0; i < 2; i++) {
        struct contest c = {.heap = heap, .block = make(heap, sizes[i]), .rounds = 20000};
        run_threads(retain_and_release, &c);
        CHECK_EQ(stats_of(heap).blocks, 1);
        CHECK_OK(sharena_release(heap, c.block));
        CHECK_EQ(sharena_release(heap, c.block), SHARENA_ENOTHELD);
        CHECK_EQ(stats_of(heap).blocks, 0);
    }
    check_heap(heap);
}

/* ---- what needs no entry --------------------------------------------------------------------- */

struct sent {
    struct heap_address address;
    sharena_handle small, run;
};

static void receive(struct peer *parent, void *unused)
{
    struct sent sent;
    sharena_block small, again, run;
    (void)unused;
    peer_receive(parent, &sent, sizeof sent);
    sharena_heap *heap = attach_to(&sent.address);
    CHECK_OK(sharena_acquire(heap, &sent.small, &small));
    struct shard *shard = shard_of(heap, small.start);
    CHECK_EQ(shard->used, 0);
    CHECK_OK(sharena_acquire(heap, &sent.small, &again));
    CHECK(again.start == small.start);
    CHECK_EQ(shard->used, 1);
    CHECK_OK(sharena_release(heap, small.start));
    CHECK_OK(sharena_release(heap, small.start));
    CHECK_EQ(shard->used, 0);
    CHECK_EQ(sharena_release(heap, small.start), SHARENA_ENOTHELD);
    CHECK_OK(sharena_acquire(heap, &sent.run, &run));
    CHECK_EQ(shard_of(heap, run.start)->used, 1);
    CHECK_OK(sharena_acquire(heap, &sent.small, &small));
    peer_tell(parent);
    peer_await(parent); /* the sender has let go: the bit alone keeps it */
    CHECK_EQ(*(int *)small.start, 42);
    CHECK_OK(sharena_retain(heap, small.start));
    CHECK_OK(sharena_release(heap, small.start));
    CHECK_EQ(*(int *)small.start, 42);
    CHECK_OK(sharena_release(heap, small.start));
    CHECK_OK(sharena_release(heap, run.start));
    CHECK_EQ(stats_of(heap).blocks, 0);
}

static void a_small_block_held_once_has_no_entry(void)
{
    struct peer child;
    peer_start(&child, receive, NULL);
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    int *small = make(heap, 100), *run = make(heap, 100000);
    struct sent sent = {.address = address_of(heap)};
    *small = 42;
    CHECK_OK(sharena_export(heap, small, 3, &sent.small));
    CHECK_OK(sharena_export(heap, run, 1, &sent.run));
    peer_send(&child, &sent, sizeof sent);
    peer_await(&child);
    CHECK_OK(sharena_release(heap, small));
    CHECK_OK(sharena_release(heap, run));
    peer_tell(&child);
    peer_join(&child);
    check_heap(heap);
    CHECK_EQ(stats_of(heap).blocks, 0);
}

CASES(CASE(a_lock_is_one_threads), CASE(threads_count_one_block),
      CASE(a_small_block_held_once_has_no_entry))
