/* hot.c: blocks at hand, one heap or several, threads that come and go. */
#include "harness.h"
#include "internal.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

static void *get(sharena_heap *heap, size_t size)
{
    void *block = sharena_malloc(heap, size);
    if (!block)
        FAIL("sharena_malloc(%zu): %s", size, sharena_detail());
    return block;
}

static struct slab *slab_of(sharena_heap *heap, const void *block)
{
    return shr__slab_at(heap, (uint64_t)((const uint8_t *)block - heap->data) >> SHR_UNIT_SHIFT);
}

static void malloc_says_why(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    const size_t too_large[] = {65 * MIB, SIZE_MAX / 2, SIZE_MAX - 14, SIZE_MAX};
    for (unsigned i = 0; i < 4; i++) {
        CHECK(sharena_malloc(heap, too_large[i]) == NULL);
        CHECK(sharena_code() == SHARENA_EFULL || sharena_code() == SHARENA_ERESERVE);
        CHECK(strlen(sharena_detail()) > 10);
    }
    void *block;
    CHECK_EQ(sharena_allocate(heap, 100, 3, 0, &block), SHARENA_EINVAL);
    CHECK_EQ(sharena_code(), SHARENA_EINVAL);
    const size_t sizes[] = {0, 1, 16, 17, 1023, 1024, 1025, 57344, 57345, 65536, 1 << 20};
    for (unsigned round = 0; round < 3; round++) {
        void *blocks[11];
        for (unsigned i = 0; i < 11; i++) {
            sharena_block found;
            blocks[i] = get(heap, sizes[i]);
            memset(blocks[i], 0x5a, sizes[i]);
            CHECK_OK(sharena_find(heap, blocks[i], &found));
            CHECK(found.start == blocks[i] && found.size_bytes >= sizes[i]);
        }
        for (unsigned i = 0; i < 11; i++)
            CHECK_OK(sharena_release(heap, blocks[i]));
    }
    check_heap(heap);
}

/* At hand, on a slab's stack, in a slab that was given back: nothing is released twice, and
 * nothing that is no block. */
static void second_releases_of_every_class(void)
{
    enum { COUNT = 700 }; /* more than a magazine takes */
    sharena_heap *heap = scratch_heap(2048 * MIB, 2048 * MIB);
    static void *blocks[COUNT];
    for (uint32_t c = 1; c < shr__n_classes; c++) {
        uint32_t size = shr__classes[c].size;
        for (unsigned i = 0; i < COUNT; i++)
            blocks[i] = get(heap, size);
        const struct slab *s = slab_of(heap, blocks[COUNT / 2]);
        uint8_t *tail = s->start + (size_t)s->capacity * size;
        if (tail < s->start + ((size_t)shr__classes[c].units << SHR_UNIT_SHIFT))
            CHECK_EQ(sharena_release(heap, tail), SHARENA_ENOTHELD);
        for (unsigned i = 0; i < COUNT; i++) {
            for (uint32_t at = 1; at < size; at = at < 16 ? at + 5 : at * 2)
                CHECK_EQ(sharena_release(heap, (uint8_t *)blocks[i] + at), SHARENA_ENOTHELD);
            CHECK_OK(sharena_release(heap, blocks[i]));
            CHECK_EQ(sharena_release(heap, blocks[i]), SHARENA_ENOTHELD);
        }
        for (unsigned i = 0; i < COUNT; i++)
            CHECK_EQ(sharena_release(heap, blocks[i]), SHARENA_ENOTHELD);
        if (c % 4 == 0) { /* what is at hand goes to the slabs, empty ones are given back */
            (void)stats_of(heap);
            for (unsigned i = 0; i < COUNT; i++)
                CHECK_EQ(sharena_release(heap, blocks[i]), SHARENA_ENOTHELD);
        }
    }
    check_heap(heap);
    CHECK_EQ(stats_of(heap).blocks, 0);
}

/* No block goes out twice, whatever the order. */
static void what_is_out_is_nobody_elses(void)
{
    enum { PLACES = 3000, ROUNDS = 400000 };
    sharena_heap *heap = scratch_heap(512 * MIB, 512 * MIB);
    static uint64_t *live[PLACES];
    uint64_t random = test_seed();
    for (unsigned round = 0; round < ROUNDS; round++) {
        unsigned i = (unsigned)(random_next(&random) % PLACES);
        if (live[i]) {
            if (*live[i] != i)
                FAIL("place %u holds a block of place %llu", i, (unsigned long long)*live[i]);
            CHECK_OK(sharena_release(heap, live[i]));
            live[i] = NULL;
        } else {
            live[i] = get(heap, 8 + (random_next(&random) >> (random_next(&random) % 12 + 48)));
            *live[i] = i;
        }
    }
    for (unsigned i = 0; i < PLACES; i++)
        if (live[i])
            CHECK_OK(sharena_release(heap, live[i]));
    check_heap(heap);
    CHECK_EQ(stats_of(heap).blocks, 0);
}

/* A slab in which a block carries a mark is not plain, until the mark is gone and was seen to. */
static void a_mark_ends_plain_stores(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    sharena_handle handle;
    sharena_block block;
    void *sent = get(heap, 100), *other = get(heap, 100);
    struct slab *s = slab_of(heap, sent);
    CHECK(s == slab_of(heap, other));
    CHECK(atomic_load(&s->plain) == atomic_load(&s->lane));
    CHECK_OK(sharena_export(heap, sent, 1, &handle));
    CHECK(atomic_load(&s->plain) == NULL);
    CHECK_OK(sharena_release(heap, other)); /* goes to the stack, not to the magazine */
    CHECK_EQ(sharena_release(heap, other), SHARENA_ENOTHELD);
    CHECK_OK(sharena_release(heap, sent));
    CHECK_EQ(sharena_release(heap, sent), SHARENA_ENOTHELD);
    CHECK_OK(sharena_acquire(heap, &handle, &block));
    CHECK(block.start == sent);
    CHECK_OK(sharena_release(heap, sent));
    for (unsigned i = 0; i < 2 * shr__classes[s->class].capacity; i++)
        (void)get(heap, 100); /* at the latest when it is used up, the slab is looked through */
    CHECK(atomic_load(&s->plain) == atomic_load(&s->lane));
    check_heap(heap);
}

/* Handles with the right number of a block that was never sent: it may lie at hand. */
static void forged_handles_of_blocks_at_hand(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    sharena_handle handle;
    sharena_block found, got;
    void *sent = get(heap, 64), *block = get(heap, 4096);
    CHECK_OK(sharena_export(heap, sent, 1, &handle));
    CHECK_OK(sharena_find(heap, block, &found));
    handle.offset = (uint64_t)((uint8_t *)block - heap->data);
    handle.number = found.number;
    CHECK_OK(sharena_acquire(heap, &handle, &got)); /* it is held */
    CHECK_OK(sharena_release(heap, block));
    CHECK_OK(sharena_release(heap, block));
    block = get(heap, 2048);
    CHECK_OK(sharena_find(heap, block, &found));
    handle.offset = (uint64_t)((uint8_t *)block - heap->data);
    handle.number = found.number;
    CHECK_OK(sharena_release(heap, block));
    CHECK_EQ(sharena_acquire(heap, &handle, &got), SHARENA_ESTALE);
    check_heap(heap);
    CHECK_EQ(stats_of(heap).blocks, 1);
}

/* A spoilt class word while blocks of the slab lie at hand: nothing of this process's own is
 * written to by what it says. */
static void spoilt_class_words(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    void *blocks[16];
    for (unsigned i = 0; i < 16; i++)
        blocks[i] = get(heap, 4096);
    uint64_t offset = (uint64_t)((uint8_t *)blocks[15] - heap->data);
    uint64_t unit = offset >> SHR_UNIT_SHIFT, index = offset % SHR_UNIT / 16;
    CHECK_OK(sharena_release(heap, blocks[15]));
    store32_relaxed(&heap->units[unit].pages, 16);
    store32_relaxed(&heap->units[unit].class, 1);
    CHECK_OK(shr__commit_meta(heap, heap->super.descriptors + (unit << 16), 65536));
    store64_relaxed(&heap->descs[(unit << 12) + index].mask, heap->mine);
    (void)stats_of(heap);
    for (unsigned i = 0; i < 100; i++)
        (void)get(heap, 4096);
}

/* ---- several heaps --------------------------------------------------------------------------- */

static void heaps_in_turn(void)
{
    enum { HEAPS = 3, COUNT = 100 };
    sharena_heap *heaps[HEAPS];
    void *blocks[HEAPS][COUNT];
    for (unsigned k = 0; k < HEAPS; k++)
        heaps[k] = scratch_heap(64 * MIB, 64 * MIB);
    for (unsigned round = 0; round < 50; round++) {
        for (unsigned i = 0; i < COUNT; i++)
            for (unsigned k = 0; k < HEAPS; k++) {
                blocks[k][i] = get(heaps[k], 64);
                CHECK(sharena_heap_of(blocks[k][i]) == heaps[k]);
            }
        for (unsigned i = 0; i < COUNT; i++)
            for (unsigned k = 0; k < HEAPS; k++) {
                CHECK_EQ(sharena_release(heaps[(k + 1) % HEAPS], blocks[k][i]), SHARENA_ENOTHELD);
                CHECK_OK(sharena_release(heaps[k], blocks[k][i]));
            }
    }
    for (unsigned k = 0; k < HEAPS; k++) {
        CHECK_EQ(stats_of(heaps[k]).blocks, 0);
        CHECK_EQ(stats_of(heaps[k]).slabs, 1); /* all that was ever needed */
    }
}

static unsigned spare_lanes(void)
{
    unsigned n = 0;
    for (const struct lane *l = shr__thread->spare; l; l = l->next)
        n++;
    return n;
}

/* A thread keeps the lanes of heaps it left, and uses them again. */
static void lanes_of_left_heaps_are_used_again(void)
{
    for (unsigned i = 0; i < 100; i++) {
        sharena_heap *two[2];
        for (unsigned k = 0; k < 2; k++) {
            sharena_options options = {.limit_bytes = 64 * MIB, .reserve_bytes = 64 * MIB};
            CHECK_OK(sharena_create(NULL, &options, &two[k]));
        }
        for (unsigned k = 0; k < 400; k++)
            CHECK_OK(sharena_release(two[k % 2], get(two[k % 2], 16 + k % 7 * 100)));
        for (unsigned k = 0; k < 2; k++)
            CHECK_OK(sharena_detach(two[k]));
        CHECK_EQ(spare_lanes(), 2);
    }
}

struct elsewhere {
    sharena_heap *stays, *_Atomic goes;
    shr_a32 rounds, stop;
};

static void *work_elsewhere(void *argument)
{
    struct elsewhere *e = argument;
    while (!load32_acquire(&e->stop)) {
        sharena_heap *goes = atomic_exchange(&e->goes, NULL);
        if (goes) {
            CHECK_OK(sharena_release(goes, get(goes, 50)));
            (void)add32_release(&e->rounds, 1); /* from now on it may be left */
        }
        for (unsigned i = 0; i < 100; i++)
            CHECK_OK(sharena_release(e->stays, get(e->stays, 16 + i)));
    }
    return NULL;
}

/* The thread's last lane is of a heap that is just being left, while it works in another. */
static void a_heap_is_left_while_a_thread_works_elsewhere(void)
{
    struct elsewhere e = {.stays = scratch_heap(64 * MIB, 64 * MIB)};
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, work_elsewhere, &e), 0);
    for (uint32_t i = 1; i <= 300; i++) {
        sharena_options options = {.limit_bytes = 64 * MIB, .reserve_bytes = 64 * MIB};
        sharena_heap *goes;
        CHECK_OK(sharena_create(NULL, &options, &goes));
        atomic_store(&e.goes, goes);
        while (load32_acquire(&e.rounds) != i)
            sched_yield();
        CHECK_OK(sharena_detach(goes));
    }
    store32_release(&e.stop, 1);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    check_heap(e.stays);
    CHECK_EQ(stats_of(e.stays).blocks, 0);
}

static void take_and_go(struct peer *parent, void *heap)
{
    (void)parent;
    for (unsigned i = 0; i < 100; i++)
        CHECK_OK(sharena_release(heap, get(heap, 16 + i)));
}

static pthread_barrier_t all_ready;

static void *use_and_end(void *heap)
{
    CHECK_OK(sharena_release(heap, get(heap, 64)));
    pthread_barrier_wait(&all_ready);
    return heap;
}

/* A heap is left while the threads that used it end: their lanes go to the next one, or away,
 * once. */
static void a_heap_is_left_while_threads_end(void)
{
    enum { THREADS = 8 };
    for (unsigned round = 0; round < 200; round++) {
        sharena_options options = {.limit_bytes = 16 * MIB, .reserve_bytes = 64 * MIB};
        pthread_t threads[THREADS];
        sharena_heap *heap;
        CHECK_OK(sharena_create(NULL, &options, &heap));
        CHECK_EQ(pthread_barrier_init(&all_ready, NULL, THREADS + 1), 0);
        for (unsigned t = 0; t < THREADS; t++)
            CHECK_EQ(pthread_create(&threads[t], NULL, use_and_end, heap), 0);
        pthread_barrier_wait(&all_ready);
        for (volatile unsigned wait = 0; wait < round * 37 % 20000; wait++)
            ;
        CHECK_OK(sharena_detach(heap));
        for (unsigned t = 0; t < THREADS; t++)
            CHECK_EQ(pthread_join(threads[t], NULL), 0);
        CHECK_EQ(pthread_barrier_destroy(&all_ready), 0);
    }
}

static pthread_key_t late;

static void use_late(void *heap)
{
    CHECK_OK(sharena_release(heap, get(heap, 64)));
    CHECK_EQ(pthread_setspecific(late, heap), 0); /* as often as there are rounds */
}

static void *end_slowly(void *heap)
{
    CHECK_OK(sharena_release(heap, get(heap, 64)));
    CHECK_EQ(pthread_setspecific(late, heap), 0);
    return NULL;
}

/* Another library's destructor uses the heap after ours has run; then the thread's stack, and
 * with it its thread-local storage, is gone. */
static void a_thread_that_is_used_too_late(void)
{
#ifdef __SANITIZE_THREAD__
    SKIP("ThreadSanitizer's own thread is gone by then\n");
#endif
    sharena_options options = {.limit_bytes = 16 * MIB, .reserve_bytes = 64 * MIB};
    size_t size = 1 << 20;
    void *stack = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_attr_t attributes;
    pthread_t thread;
    sharena_heap *heap;
    CHECK(stack != MAP_FAILED);
    CHECK_OK(sharena_create(NULL, &options, &heap));
    CHECK_EQ(pthread_key_create(&late, use_late), 0);
    CHECK_EQ(pthread_attr_init(&attributes), 0);
    CHECK_EQ(pthread_attr_setstack(&attributes, stack, size), 0);
    CHECK_EQ(pthread_create(&thread, &attributes, end_slowly, heap), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(munmap(stack, size), 0);
    struct peer child;
    peer_start(&child, take_and_go, heap);
    peer_join(&child);
    check_heap(heap);
    CHECK_OK(sharena_detach(heap));
}

/* ---- stopped lanes --------------------------------------------------------------------------- */

struct worker {
    sharena_heap *heap;
    shr_a32 stop;
};

static void *work_hot(void *argument)
{
    struct worker *w = argument;
    void *blocks[40] = {NULL};
    for (unsigned i = 0; !load32_acquire(&w->stop); i++) {
        void **b = &blocks[i * 7 % 40];
        if (*b)
            CHECK_OK(sharena_release(w->heap, *b));
        *b = get(w->heap, 16 + i % 50 * 16);
    }
    for (unsigned i = 0; i < 40; i++)
        if (blocks[i])
            CHECK_OK(sharena_release(w->heap, blocks[i]));
    return NULL;
}

/* Trims, counts and forks stop the lanes at any instruction of the hot functions. */
static void lanes_are_stopped_anywhere(void)
{
    struct worker w = {.heap = scratch_heap(256 * MIB, 256 * MIB)};
    pthread_t threads[2];
    for (unsigned t = 0; t < 2; t++)
        CHECK_EQ(pthread_create(&threads[t], NULL, work_hot, &w), 0);
    for (unsigned i = 0; i < 300; i++) {
        if (i % 3 == 0)
            CHECK_OK(sharena_trim(w.heap, NULL));
        else if (i % 3 == 1)
            (void)stats_of(w.heap);
        else {
            struct peer child;
            peer_start(&child, take_and_go, w.heap);
            peer_join(&child);
        }
    }
    store32_release(&w.stop, 1);
    for (unsigned t = 0; t < 2; t++)
        CHECK_EQ(pthread_join(threads[t], NULL), 0);
    CHECK_OK(sharena_reap(w.heap, NULL));
    check_heap(w.heap);
    CHECK_EQ(stats_of(w.heap).blocks, 0);
}

CASES(CASE(malloc_says_why), CASE(second_releases_of_every_class),
      CASE(what_is_out_is_nobody_elses), CASE(a_mark_ends_plain_stores),
      CASE(forged_handles_of_blocks_at_hand), CASE(spoilt_class_words), CASE(heaps_in_turn),
      CASE(lanes_of_left_heaps_are_used_again),
      CASE(a_heap_is_left_while_a_thread_works_elsewhere), CASE(a_heap_is_left_while_threads_end),
      CASE(a_thread_that_is_used_too_late), CASE(lanes_are_stopped_anywhere))
