/* shortage.c: a message gives way only for what its end gives. */
#include "harness.h"
#include "internal.h"
#include "ticket.h"

#include <pthread.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

/* A block counts once, however many handles there are of it. */
static void export_one_often(struct peer *parent, void *argument)
{
    struct heap_address address;
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    void *b = make_block(heap, 8 * MIB);
    for (int i = 0; i < 20; i++)
        export_of(heap, b, 1);
    CHECK_OK(sharena_release(heap, b));
    peer_tell(parent);
    for (;;)
        pause();
}

static void many_handles_free_no_more_than_one(void)
{
    struct peer peer;
    void *held, *big;
    peer_start(&peer, export_one_often, NULL);
    sharena_heap *heap = scratch_heap(64 * MIB, 512 * MIB);
    struct heap_address address = address_of(heap);
    peer_send(&peer, &address, sizeof address);
    peer_await(&peer);
    peer_kill(&peer);
    CHECK_OK(sharena_allocate(heap, 30 * MIB, 0, 0, &held));
    CHECK_EQ(sharena_allocate(heap, 50 * MIB, 0, 0, &big), SHARENA_EFULL);
    CHECK(strstr(sharena_detail(), "(8 MiB are held only by handles") != NULL);
    CHECK_EQ(stats_of(heap).tickets, 20);
    CHECK_OK(sharena_allocate(heap, 30 * MIB, 0, 0, &big));
    CHECK_EQ(stats_of(heap).tickets, 0);
    check_heap(heap);
}

/* Four messages of a dead maker between blocks of the living. */
static void export_between(struct peer *parent, void *argument)
{
    struct heap_address address;
    size_t size = *(size_t *)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    for (int i = 0; i < 4; i++) {
        peer_await(parent);
        void *b = make_block(heap, size);
        export_of(heap, b, 1);
        CHECK_OK(sharena_release(heap, b));
        peer_tell(parent);
    }
    for (;;)
        pause();
}

static sharena_heap *heap_of_both(uint64_t limit, uint64_t reserve, size_t held_size,
                                  size_t sent_size, void *held[4])
{
    struct peer peer;
    peer_start(&peer, export_between, &sent_size);
    sharena_heap *heap = scratch_heap(limit, reserve);
    struct heap_address address = address_of(heap);
    peer_send(&peer, &address, sizeof address);
    for (int i = 0; i < 4; i++) {
        CHECK_OK(sharena_allocate(heap, held_size, 0, 0, &held[i]));
        peer_tell(&peer);
        peer_await(&peer);
    }
    peer_kill(&peer);
    CHECK_OK(sharena_reap(heap, NULL));
    return heap;
}

static void no_stretch_no_victim(void)
{
    void *held[4], *big;
    sharena_heap *heap = heap_of_both(512 * MIB, 32 * MIB, 5 * MIB, 2 * MIB, held);
    CHECK_EQ(sharena_allocate(heap, 20 * MIB, 0, 0, &big), SHARENA_ERESERVE);
    CHECK_EQ(stats_of(heap).tickets, 4);
    CHECK_OK(sharena_release(heap, held[1])); /* 5 MiB between two of 2 */
    CHECK_OK(sharena_allocate(heap, 8 * MIB, 0, 0, &big));
    CHECK_LE(2, stats_of(heap).tickets);
    check_heap(heap);
}

/* Each of the messages is long enough, and covers no place that is aligned. */
static void no_aligned_stretch_no_victim(void)
{
    const size_t unit = SHR_UNIT;
    void *held[4], *big;
    sharena_heap *heap = heap_of_both(512 * MIB, 8 * MIB, 15 * unit, 17 * unit, held);
    CHECK_EQ(sharena_allocate(heap, 10 * unit, 2 * MIB, 0, &big), SHARENA_ERESERVE);
    CHECK_EQ(stats_of(heap).tickets, 4);
    CHECK_OK(sharena_allocate(heap, 10 * unit, 0, 0, &big));
    CHECK_EQ(stats_of(heap).tickets, 3);
    check_heap(heap);
}

/* A slab that a living process owns stays its own when it is empty. */
static void export_a_slab(struct peer *parent, void *argument)
{
    struct heap_address address;
    sharena_handle first;
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    for (int i = 0; i < 20; i++) {
        void *b = make_block(heap, 3000);
        sharena_handle handle = export_of(heap, b, 1);
        CHECK_OK(sharena_release(heap, b));
        if (i == 0)
            first = handle;
    }
    peer_send(parent, &first, sizeof first);
    for (;;)
        pause();
}

static void adopt_a_slab(struct peer *parent, void *argument)
{
    struct heap_address address;
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    void *b = make_block(heap, 3000);
    CHECK_OK(sharena_release(heap, b));
    peer_tell(parent);
    for (;;)
        pause();
}

static void a_slab_of_the_living_is_no_help(void)
{
    struct peer maker, owner;
    sharena_handle first;
    void *held, *big;
    peer_start(&maker, export_a_slab, NULL);
    peer_start(&owner, adopt_a_slab, NULL);
    sharena_heap *heap = scratch_heap(8 * MIB, 64 * MIB);
    struct heap_address address = address_of(heap);
    peer_send(&maker, &address, sizeof address);
    peer_receive(&maker, &first, sizeof first);
    peer_kill(&maker);
    CHECK_OK(sharena_reap(heap, NULL));
    peer_send(&owner, &address, sizeof address);
    peer_await(&owner);
    CHECK_EQ(stats_of(heap).slabs, 1);
    CHECK_EQ(stats_of(heap).abandoned_slabs, 0);
    while (sharena_allocate(heap, SHR_UNIT, 0, 0, &held) == 0)
        ;
    CHECK_EQ(sharena_allocate(heap, 4000, 0, 0, &big), SHARENA_EFULL); /* of another size */
    CHECK_EQ(sharena_allocate(heap, 3000, 0, 0, &big), SHARENA_EFULL); /* of that size */
    CHECK_EQ(stats_of(heap).tickets, 20);
    peer_kill(&owner);
    CHECK_OK(sharena_allocate(heap, 3000, 0, 0, &big));
    CHECK_OK(sharena_reap(heap, NULL));
    check_heap(heap);
}

/* The address space is full: a block of the size that is asked for does. */
static void a_block_for_a_block(void)
{
    struct peer maker;
    void *held, *small[64];
    sharena_handle first;
    sharena_block kept;
    int n = 0;
    peer_start(&maker, export_a_slab, NULL);
    sharena_heap *heap = scratch_heap(64 * MIB, 8 * MIB);
    struct heap_address address = address_of(heap);
    peer_send(&maker, &address, sizeof address);
    peer_receive(&maker, &first, sizeof first);
    peer_kill(&maker);
    CHECK_OK(sharena_reap(heap, NULL));
    CHECK_OK(sharena_acquire(heap, &first, &kept)); /* the slab can't go */
    while (sharena_allocate(heap, SHR_UNIT, 0, 0, &held) == 0)
        ;
    CHECK_EQ(stats_of(heap).tickets, 19);
    while (n < 64 && sharena_allocate(heap, 3000, 0, 0, &small[n]) == 0)
        n++;
    CHECK_LE(19, n);
    CHECK_EQ(stats_of(heap).tickets, 0);
    check_heap(heap);
}

/* A table full of a dead one's: who wants a handle gets one, for one of them each. */
static void fill_the_table(struct peer *parent, void *argument)
{
    struct heap_address address;
    sharena_handle handle;
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    void *block;
    for (unsigned i = 0; i < 30000; i++) {
        CHECK_OK(sharena_allocate(heap, 64, 0, 0, &block));
        (void)sharena_export(heap, block, 1, &handle);
    }
    peer_tell(parent);
    for (;;)
        pause();
}

static void a_handle_takes_the_place_of_one_of_the_dead(void)
{
    enum { N = 200 };
    struct peer peer;
    peer_start(&peer, fill_the_table, NULL);
    sharena_heap *heap = scratch_heap(8 * MIB, 16 * MIB);
    struct heap_address address = address_of(heap);
    peer_send(&peer, &address, sizeof address);
    peer_await(&peer);
    peer_kill(&peer);
    CHECK_OK(sharena_reap(heap, NULL));
    uint64_t before = stats_of(heap).tickets;
    for (unsigned i = 0; i < N; i++)
        export_of(heap, make_block(heap, 100), 1);
    CHECK_LE(before, stats_of(heap).tickets); /* none was ended in vain */
    CHECK_LE(stats_of(heap).tickets, before + N);
    sharena_handle handle;
    void *block = make_block(heap, 100);
    before = stats_of(heap).tickets;
    for (unsigned i = 0; i < N; i++) /* in a message: nobody's place */
        (void)sharena_export_open(heap, block, NULL, &handle);
    CHECK_LE(before, stats_of(heap).tickets);
    check_heap(heap);
}

/* Fills the memory under the limit, but for so many units. */
static void fill_but(sharena_heap *heap, uint64_t units)
{
    for (;;) {
        uint64_t used = (load64_relaxed(&heap->control->committed_meta) >> SHR_UNIT_SHIFT) + 1 +
                        load64_relaxed(&heap->control->committed_units);
        if (used + units >= heap->limit_units)
            return;
        make_block(heap, SHR_UNIT);
    }
}

/* What a small request needs is a slab, of seven units here. */
static void a_slab_is_more_than_a_block(void)
{
    const size_t size = 56 << 10;
    void *held[4], *big;
    sharena_heap *heap = heap_of_both(16 * MIB, 64 * MIB, SHR_UNIT, SHR_UNIT, held);
    CHECK_EQ(shr__classes[shr__class_of[size / 16]].units, 7);
    fill_but(heap, 1);
    CHECK_EQ(sharena_allocate(heap, size, 0, 0, &big), SHARENA_EFULL);
    CHECK_EQ(stats_of(heap).tickets, 4);
    CHECK_OK(sharena_release(heap, held[0]));
    CHECK_OK(sharena_release(heap, held[1]));
    CHECK_OK(sharena_allocate(heap, size, 0, 0, &big));
    CHECK_EQ(stats_of(heap).tickets, 0);
    check_heap(heap);
}

/* Six slabs, whose messages are of all ages. */
static void export_six_slabs(struct peer *parent, void *argument)
{
    enum { SLABS = 6, BLOCKS = 8 };
    struct heap_address address;
    void *blocks[SLABS][BLOCKS];
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    for (int s = 0; s < SLABS; s++)
        for (int i = 0; i < BLOCKS; i++)
            blocks[s][i] = make_block(heap, SHR_UNIT / BLOCKS);
    for (unsigned i = 0; i < BLOCKS; i++)
        for (unsigned s = 0; s < SLABS; s++) {
            sharena_handle handle = export_of(heap, blocks[s][i], 1);
            store64_relaxed(&shr__entry(heap, handle.ticket)->made_ms, 1 + i * SLABS + s);
        }
    peer_tell(parent);
    for (;;)
        pause();
}

static void slabs_go_as_a_whole(void)
{
    struct peer maker;
    void *big;
    peer_start(&maker, export_six_slabs, NULL);
    sharena_heap *heap = scratch_heap(32 * MIB, 64 * MIB);
    struct heap_address address = address_of(heap);
    peer_send(&maker, &address, sizeof address);
    peer_await(&maker);
    peer_kill(&maker);
    CHECK_OK(sharena_reap(heap, NULL));
    CHECK_EQ(stats_of(heap).slabs, 6);
    fill_but(heap, 1);
    CHECK_OK(sharena_allocate(heap, 4 * SHR_UNIT, 0, 0, &big));
    CHECK_EQ(stats_of(heap).tickets % 8, 0);
    CHECK_LE(8, stats_of(heap).tickets);
    check_heap(heap);
}

/* A stretch of address space that there would be no memory for. */
static void a_stretch_without_memory(void)
{
    const size_t unit = SHR_UNIT;
    void *held[4], *big;
    sharena_heap *heap = heap_of_both(11 * MIB, 16 * MIB, 40 * unit, unit, held);
    CHECK_OK(sharena_release(heap, held[1]));
    CHECK_OK(sharena_release(heap, held[2]));
    (void)shr__punch_free(heap, UINT64_MAX);
    while (sharena_allocate(heap, 41 * unit, 0, 0, &big) == 0) /* behind them */
        ;
    CHECK_EQ(stats_of(heap).tickets, 4);
    CHECK_EQ(sharena_allocate(heap, 81 * unit, 0, 0, &big), SHARENA_ERESERVE);
    CHECK_EQ(stats_of(heap).tickets, 4);
    CHECK_OK(sharena_release(heap, held[0])); /* memory, and no longer stretch */
    CHECK_OK(sharena_release(heap, held[3]));
    CHECK_OK(sharena_allocate(heap, 81 * unit, 0, 0, &big));
    CHECK_EQ(stats_of(heap).tickets, 3);
    check_heap(heap);
}

/* The first groups of the block are full of its own tickets. */
static void a_place_behind_thousands_of_ones_own(void)
{
    enum { OWN = 9000, MORE = 300 };
    struct peer peer;
    sharena_handle handle;
    peer_start(&peer, fill_the_table, NULL);
    sharena_heap *heap = scratch_heap(8 * MIB, 16 * MIB);
    struct heap_address address = address_of(heap);
    void *block = make_block(heap, 2 * SHR_UNIT);
    for (unsigned i = 0; i < OWN; i++)
        export_of(heap, block, 1);
    peer_send(&peer, &address, sizeof address);
    peer_await(&peer);
    peer_kill(&peer);
    CHECK_OK(sharena_reap(heap, NULL));
    uint64_t before = stats_of(heap).tickets;
    for (unsigned i = 0; i < MORE; i++)
        CHECK_OK(sharena_export(heap, block, 1, &handle));
    CHECK_LE(before, stats_of(heap).tickets);
    check_heap(heap);
}

/* Where Ctrl-C is answered, a handler may fork: the child goes on, with lanes of its own. */
static pid_t forked = -1;

static int fork_once(void *unused)
{
    (void)unused;
    if (forked < 0) {
        forked = fork();
        if (forked > 0)
            CHECK_EQ(await_child(forked, 0), 0);
    }
    return 0;
}

static void a_fork_in_an_interrupt(void)
{
    void *held[4], *block;
    sharena_heap *heap = heap_of_both(8 * MIB, 64 * MIB, SHR_UNIT, SHR_UNIT, held);
    for (unsigned i = 0; i < 100; i++)
        make_block(heap, 4096);
    fill_but(heap, 1);
    sharena_set_interrupt(fork_once, NULL);
    while (sharena_allocate(heap, 4096, 0, 0, &block) == 0)
        ;
    check_heap(heap);
    if (forked == 0)
        _exit(0);
    CHECK_LE(1, forked);
    CHECK_OK(sharena_release(heap, held[0]));
    CHECK_OK(sharena_allocate(heap, 4096, 0, 0, &block));
    check_heap(heap);
}

/* What lies in a slab that another thread's lane keeps is of no use to this one. */
enum { FORWARDED = 20 };
static sharena_heap *threads_heap;
static struct peer forwarder;
static pthread_barrier_t barrier;

static void send_on(struct peer *parent, void *argument)
{
    struct heap_address address;
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    for (int i = 0; i < FORWARDED; i++) {
        sharena_handle handle;
        sharena_block block;
        peer_receive(parent, &handle, sizeof handle);
        CHECK_OK(sharena_acquire(heap, &handle, &block));
        export_of(heap, block.start, 1);
    }
    peer_tell(parent);
    for (;;)
        pause();
}

static void *keep_a_slab(void *unused)
{
    void *blocks[FORWARDED];
    make_block(threads_heap, 3000); /* private: the slab stays this lane's */
    for (int i = 0; i < FORWARDED; i++)
        blocks[i] = make_block(threads_heap, 3000);
    for (int i = 0; i < FORWARDED; i++) {
        sharena_handle handle = export_of(threads_heap, blocks[i], 1);
        peer_send(&forwarder, &handle, sizeof handle);
    }
    peer_await(&forwarder);
    for (int i = 0; i < FORWARDED; i++)
        CHECK_OK(sharena_release(threads_heap, blocks[i]));
    (void)pthread_barrier_wait(&barrier);
    (void)pthread_barrier_wait(&barrier); /* it stays until all is said */
    return unused;
}

static void a_slab_of_another_thread_is_no_help(void)
{
    pthread_t thread;
    void *held, *block;
    CHECK_EQ(pthread_barrier_init(&barrier, NULL, 2), 0);
    peer_start(&forwarder, send_on, NULL);
    sharena_heap *heap = threads_heap = scratch_heap(8 * MIB, 64 * MIB);
    struct heap_address address = address_of(heap);
    peer_send(&forwarder, &address, sizeof address);
    CHECK_EQ(pthread_create(&thread, NULL, keep_a_slab, NULL), 0);
    (void)pthread_barrier_wait(&barrier);
    peer_kill(&forwarder);
    CHECK_OK(sharena_reap(heap, NULL));
    while (sharena_allocate(heap, SHR_UNIT, 0, 0, &held) == 0)
        ;
    CHECK_EQ(stats_of(heap).tickets, FORWARDED);
    CHECK_EQ(sharena_allocate(heap, 3000, 0, 0, &block), SHARENA_EFULL);
    CHECK_EQ(stats_of(heap).tickets, FORWARDED);
    (void)pthread_barrier_wait(&barrier);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    check_heap(heap);
}

/* The block that gets free is found, however many runs lie before it. */
static void a_block_far_away(void)
{
    struct peer maker;
    void *held, *block;
    sharena_handle first;
    sharena_block kept;
    peer_start(&maker, export_a_slab, NULL);
    sharena_heap *heap = scratch_heap(256 * MIB, 1024 * MIB);
    for (int i = 0; i < 3000; i++)
        CHECK_OK(sharena_allocate(heap, SHR_UNIT, 0, 0, &held));
    struct heap_address address = address_of(heap);
    peer_send(&maker, &address, sizeof address);
    peer_receive(&maker, &first, sizeof first);
    peer_kill(&maker);
    CHECK_OK(sharena_reap(heap, NULL));
    CHECK_OK(sharena_acquire(heap, &first, &kept)); /* the slab can't go */
    while (sharena_allocate(heap, SHR_UNIT, 0, 0, &held) == 0)
        ;
    CHECK_EQ(stats_of(heap).tickets, 19);
    CHECK_OK(sharena_allocate(heap, 3000, 0, 0, &block)); /* one was free all along */
    CHECK_OK(sharena_allocate(heap, 3000, 0, 0, &block));
    CHECK_LE(16, stats_of(heap).tickets);
    check_heap(heap);
}

CASES(CASE(many_handles_free_no_more_than_one), CASE(no_stretch_no_victim),
      CASE(no_aligned_stretch_no_victim), CASE(a_slab_of_the_living_is_no_help),
      CASE(a_block_for_a_block), CASE(a_slab_of_another_thread_is_no_help),
      CASE(a_block_far_away), CASE(a_slab_is_more_than_a_block), CASE(slabs_go_as_a_whole),
      CASE(a_stretch_without_memory), CASE(a_fork_in_an_interrupt),
      CASE(a_handle_takes_the_place_of_one_of_the_dead),
      CASE_FOR(60, a_place_behind_thousands_of_ones_own))
