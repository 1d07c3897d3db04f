/* slab.c: small blocks through threads, other processes, death and adoption. */
#include "harness.h"
#include "internal.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

static void *make(sharena_heap *heap, size_t size)
{
    void *block;
    CHECK_OK(sharena_allocate(heap, size, 0, 0, &block));
    return block;
}

/* Each block carries a pattern over all of its bytes: two blocks that overlap show. */
static void paint(void *block, size_t size, uint64_t seed)
{
    uint8_t *p = block;
    for (size_t i = 0; i < size; i++)
        p[i] = (uint8_t)(seed + i);
}

static void check_paint(const void *block, size_t size, uint64_t seed)
{
    const uint8_t *p = block;
    for (size_t i = 0; i < size; i++)
        if (p[i] != (uint8_t)(seed + i))
            FAIL("byte %zu of a block of %zu is %u, not %u", i, size, p[i], (uint8_t)(seed + i));
}

struct live {
    void *block;
    size_t size;
    uint64_t seed;
};

/* Random work on `n` places; leaves nothing behind. */
static void churn(sharena_heap *heap, struct live *live, unsigned n, unsigned rounds,
                  size_t largest, uint64_t seed)
{
    uint64_t random = seed;
    memset(live, 0, n * sizeof *live);
    for (unsigned round = 0; round < rounds; round++) {
        struct live *l = &live[random_next(&random) % n];
        if (l->block) {
            check_paint(l->block, l->size, l->seed);
            CHECK_OK(sharena_release(heap, l->block));
            l->block = NULL;
        } else {
            l->size = 1 + random_next(&random) % largest;
            l->seed = random_next(&random);
            l->block = make(heap, l->size);
            paint(l->block, l->size, l->seed);
        }
    }
    for (unsigned i = 0; i < n; i++)
        if (live[i].block) {
            check_paint(live[i].block, live[i].size, live[i].seed);
            CHECK_OK(sharena_release(heap, live[i].block));
        }
}

static void every_class_full_and_empty_again(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    static void *blocks[3 * 4096 + 1];
    sharena_stats before = stats_of(heap);
    for (uint32_t c = 1; c < shr__n_classes; c++) {
        uint32_t size = shr__classes[c].size, n = 3 * shr__classes[c].capacity + 1;
        for (uint32_t i = 0; i < n; i++) {
            blocks[i] = make(heap, size);
            paint(blocks[i], size, i * 7);
        }
        sharena_stats stats = stats_of(heap);
        CHECK_EQ(stats.blocks, n);
        CHECK_EQ(stats.live_bytes, (uint64_t)n * size);
        for (uint32_t i = 0; i < n; i++) {
            check_paint(blocks[i], size, i * 7);
            CHECK_OK(sharena_release(heap, blocks[i]));
        }
    }
    check_baseline(heap, &before);
    CHECK_OK(sharena_trim(heap, NULL));
    CHECK_EQ(stats_of(heap).slabs, 0);
}

static void random_sizes_never_overlap(void)
{
    static struct live live[500];
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    sharena_stats before = stats_of(heap);
    churn(heap, live, 500, 60000, 600, test_seed());
    churn(heap, live, 300, 8000, 32768, test_seed() + 1);
    churn(heap, live, 100, 1500, 300000, test_seed() + 2);
    check_baseline(heap, &before);
}

struct worker {
    sharena_heap *heap;
    uint64_t seed;
    unsigned rounds;
};

static void *churn_in_thread(void *argument)
{
    struct worker *w = argument;
    struct live *live = calloc(100, sizeof *live);
    churn(w->heap, live, 100, w->rounds, 3000, w->seed);
    free(live);
    return NULL;
}

/* A finished thread's lane goes whole to the next: slabs do not grow with threads. */
static void threads_come_and_go(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    sharena_stats before = stats_of(heap);
    uint64_t slabs = 0;
    for (unsigned i = 0; i < 200; i++) {
        pthread_t threads[2];
        struct worker w[2] = {{heap, test_seed() + i, 300}, {heap, test_seed() - i, 300}};
        for (int t = 0; t < 2; t++)
            CHECK_EQ(pthread_create(&threads[t], NULL, churn_in_thread, &w[t]), 0);
        for (int t = 0; t < 2; t++)
            CHECK_EQ(pthread_join(threads[t], NULL), 0);
        if (i == 50)
            slabs = stats_of(heap).slabs;
    }
    CHECK_LE(stats_of(heap).slabs, slabs * 2);
    check_baseline(heap, &before);
    CHECK_OK(sharena_trim(heap, NULL));
    CHECK_EQ(stats_of(heap).slabs, 0);
}

static void many_threads_at_once(void)
{
    sharena_heap *heap = scratch_heap(512 * MIB, 512 * MIB);
    sharena_stats before = stats_of(heap);
    pthread_t threads[16];
    struct worker w[16];
    for (unsigned t = 0; t < 16; t++) {
        w[t] = (struct worker){heap, test_seed() + t, 6000};
        CHECK_EQ(pthread_create(&threads[t], NULL, churn_in_thread, &w[t]), 0);
    }
    for (int t = 0; t < 16; t++)
        CHECK_EQ(pthread_join(threads[t], NULL), 0);
    check_baseline(heap, &before);
}

/* One thread allocates, another releases: what the second frees must come back to the first,
 * or the heap grows with the traffic. */
static struct pipe_of_blocks {
    sharena_heap *heap;
    void *ring[256];
    shr_a64 in, out;
    unsigned total;
    size_t size;
} traffic;

static void *consume(void *argument)
{
    (void)argument;
    for (unsigned i = 0; i < traffic.total; i++) {
        while (load64_acquire(&traffic.in) <= i)
            shr_pause();
        void *block = traffic.ring[i % 256];
        check_paint(block, 16, i);
        CHECK_OK(sharena_release(traffic.heap, block));
        store64_release(&traffic.out, i + 1);
    }
    return NULL;
}

static void blocks_freed_by_a_sibling_come_back(void)
{
    pthread_t consumer;
    traffic.heap = scratch_heap(256 * MIB, 256 * MIB);
    traffic.total = 100000;
    traffic.size = 1000;
    sharena_stats before = stats_of(traffic.heap);
    CHECK_EQ(pthread_create(&consumer, NULL, consume, NULL), 0);
    for (unsigned i = 0; i < traffic.total; i++) {
        while (i - load64_acquire(&traffic.out) >= 256)
            shr_pause();
        traffic.ring[i % 256] = make(traffic.heap, traffic.size);
        paint(traffic.ring[i % 256], 16, i);
        store64_release(&traffic.in, i + 1);
    }
    CHECK_EQ(pthread_join(consumer, NULL), 0);
    /* 100 MB went through; 256 KiB were alive at any time. */
    CHECK_LE(stats_of(traffic.heap).slabs, 64);
    check_baseline(traffic.heap, &before);
}

/* The same between processes: the receiver's release is the last one. */
static void receive_and_drop(struct peer *parent, void *argument)
{
    struct heap_address address;
    sharena_handle handle;
    unsigned total;
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    peer_receive(parent, &total, sizeof total);
    sharena_heap *heap = attach_to(&address);
    for (unsigned i = 0; i < total; i++) {
        sharena_block block;
        peer_receive(parent, &handle, sizeof handle);
        CHECK_OK(sharena_acquire(heap, &handle, &block));
        check_paint(block.start, 16, i);
        CHECK_OK(sharena_release(heap, block.start));
        if (i % 16 == 15)
            peer_tell(parent);
    }
    CHECK_OK(sharena_detach(heap));
}

static void blocks_freed_by_a_process_come_back(void)
{
    struct peer peer;
    unsigned total = 20000;
    peer_start(&peer, receive_and_drop, NULL);
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    struct heap_address address = address_of(heap);
    sharena_stats before = stats_of(heap);
    peer_send(&peer, &address, sizeof address);
    peer_send(&peer, &total, sizeof total);
    for (unsigned i = 0; i < total; i++) {
        sharena_handle handle;
        void *block = make(heap, 1000);
        paint(block, 16, i);
        CHECK_OK(sharena_export(heap, block, 1, &handle));
        CHECK_OK(sharena_release(heap, block));
        peer_send(&peer, &handle, sizeof handle);
        if (i % 16 == 15)
            peer_await(&peer);
    }
    peer_join(&peer);
    CHECK_LE(stats_of(heap).slabs, 40);
    check_baseline(heap, &before);
}

/* ---- death and adoption ------------------------------------------------------------------------- */

struct handover {
    unsigned n;
    sharena_handle handles[40];
};

/* Makes 40 blocks in one slab or several, sends every 13th and waits to be killed. */
static void make_and_wait(struct peer *parent, void *argument)
{
    struct heap_address address;
    struct handover sent = {.n = 0};
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    for (unsigned i = 0; i < 40; i++) {
        void *block = make(heap, 4000);
        paint(block, 4000, i);
        if (i % 13 == 0)
            CHECK_OK(sharena_export(heap, block, 1, &sent.handles[sent.n++]));
    }
    peer_send(parent, &sent, sizeof sent);
    for (;;)
        pause();
}

static void slabs_of_the_dead_are_adopted(void)
{
    struct peer peer;
    struct handover sent;
    void *kept[40], *more[100];
    unsigned reaped = 0;
    peer_start(&peer, make_and_wait, NULL);
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    struct heap_address address = address_of(heap);
    sharena_stats before = stats_of(heap);
    peer_send(&peer, &address, sizeof address);
    peer_receive(&peer, &sent, sizeof sent);
    for (unsigned i = 0; i < sent.n; i++) {
        sharena_block block;
        CHECK_OK(sharena_acquire(heap, &sent.handles[i], &block));
        kept[i] = block.start;
    }
    peer_kill(&peer);
    CHECK_OK(sharena_reap(heap, &reaped));
    CHECK_EQ(reaped, 1);
    check_heap(heap);
    sharena_stats stats = stats_of(heap);
    CHECK_EQ(stats.blocks, sent.n);
    CHECK_LE(1, stats.abandoned_slabs);
    /* The abandoned slabs are used before new ones are cut. */
    uint64_t slabs = stats.slabs;
    for (unsigned i = 0; i < 12; i++)
        more[i] = make(heap, 4000);
    CHECK_EQ(stats_of(heap).slabs, slabs);
    CHECK_LE(stats_of(heap).abandoned_slabs, stats.abandoned_slabs - 1);
    for (unsigned i = 0; i < sent.n; i++) {
        check_paint(kept[i], 4000, 13 * i);
        CHECK_OK(sharena_release(heap, kept[i]));
    }
    for (unsigned i = 0; i < 12; i++)
        CHECK_OK(sharena_release(heap, more[i]));
    CHECK_OK(sharena_trim(heap, NULL));
    check_baseline(heap, &before);
    CHECK_EQ(stats_of(heap).slabs, 0);
}

/* A slab without an owner goes with its last block, although nobody ever allocates again. */
static void last_release_frees_an_abandoned_slab(void)
{
    struct peer peer;
    struct handover sent;
    void *kept[40];
    peer_start(&peer, make_and_wait, NULL);
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    struct heap_address address = address_of(heap);
    peer_send(&peer, &address, sizeof address);
    peer_receive(&peer, &sent, sizeof sent);
    for (unsigned i = 0; i < sent.n; i++) {
        sharena_block block;
        CHECK_OK(sharena_acquire(heap, &sent.handles[i], &block));
        kept[i] = block.start;
    }
    peer_kill(&peer);
    CHECK_OK(sharena_reap(heap, NULL));
    CHECK_LE(1, stats_of(heap).slabs);
    for (unsigned i = 0; i < sent.n; i++)
        CHECK_OK(sharena_release(heap, kept[i]));
    CHECK_EQ(stats_of(heap).slabs, 0);
    check_heap(heap);
}

/* An owner that sleeps keeps nobody from its empty slabs: what it sent away entirely is
 * abandoned at once, and freed by the last receiver. */
static void sleeping_owner_strands_nothing(void)
{
    static sharena_handle handles[400];
    struct peer peer;
    unsigned total = 400;
    peer_start(&peer, receive_and_drop, NULL);
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    struct heap_address address = address_of(heap);
    for (unsigned i = 0; i < total; i++) {
        void *block = make(heap, 4000);
        paint(block, 16, i);
        CHECK_OK(sharena_export(heap, block, 1, &handles[i]));
        CHECK_OK(sharena_release(heap, block));
    }
    sharena_stats stats = stats_of(heap);
    CHECK_LE(20, stats.slabs);
    CHECK_LE(stats.slabs, stats.abandoned_slabs + 2);
    peer_send(&peer, &address, sizeof address);
    peer_send(&peer, &total, sizeof total);
    for (unsigned i = 0; i < total; i++) {
        peer_send(&peer, &handles[i], sizeof handles[i]);
        if (i % 16 == 15)
            peer_await(&peer);
    }
    peer_join(&peer);
    stats = stats_of(heap);
    CHECK_EQ(stats.blocks, 0);
    CHECK_LE(stats.slabs, 2); /* the lane's current one */
    check_heap(heap);
}

/* Handles into a slab that was cut anew, with another class, are stale: never other data. */
static void handles_outlive_layouts(void)
{
    static sharena_handle handles[64];
    sharena_heap *heap = scratch_heap(32 * MIB, 4 * MIB);
    const size_t sizes[] = {64, 100000, 4096, 512, 65536, 16, 20000, 1024};
    unsigned stale = 0;
    for (unsigned round = 0; round < 200; round++) {
        size_t size = sizes[round % 8];
        void *blocks[8];
        for (unsigned i = 0; i < 8; i++) {
            blocks[i] = make(heap, size);
            CHECK_OK(sharena_export(heap, blocks[i], 1, &handles[round % 8 * 8 + i]));
        }
        CHECK_OK(sharena_ticket_expire(heap, 0, NULL));
        for (unsigned i = 0; i < 8; i++)
            CHECK_OK(sharena_release(heap, blocks[i]));
        CHECK_OK(sharena_trim(heap, NULL));
        void *others[8];
        for (unsigned i = 0; i < 8; i++)
            others[i] = make(heap, sizes[(round + 3) % 8]);
        for (unsigned i = 0; i < 64 && round >= 7; i++) {
            sharena_block block;
            CHECK_EQ(sharena_acquire(heap, &handles[i], &block), SHARENA_ESTALE);
            stale++;
        }
        for (unsigned i = 0; i < 8; i++)
            CHECK_OK(sharena_release(heap, others[i]));
    }
    CHECK_LE(10000, stale);
    check_heap(heap);
}

CASES(CASE(every_class_full_and_empty_again), CASE(random_sizes_never_overlap),
      CASE(threads_come_and_go), CASE(many_threads_at_once),
      CASE(blocks_freed_by_a_sibling_come_back), CASE(blocks_freed_by_a_process_come_back),
      CASE(slabs_of_the_dead_are_adopted), CASE(last_release_frees_an_abandoned_slab),
      CASE(sleeping_owner_strands_nothing), CASE(handles_outlive_layouts))
