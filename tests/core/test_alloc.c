/* alloc.c: blocks seen from outside, bad requests, and the heap's limits. */
#include "harness.h"
#include "internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

static void bad_requests(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    void *block = NULL;
    const size_t bad_align[] = {3, 24, 4097, (size_t)4 << 20, SIZE_MAX};
    for (int i = 0; i < 5; i++)
        CHECK_EQ(sharena_allocate(heap, 100, bad_align[i], 0, &block), SHARENA_EINVAL);
    const size_t too_large[] = {SIZE_MAX, SIZE_MAX - 65535, SIZE_MAX / 2, (size_t)1 << 47,
                                65 * MIB};
    for (int i = 0; i < 5; i++) {
        int code = sharena_allocate(heap, too_large[i], 0, 0, &block);
        CHECK(code == SHARENA_EFULL || code == SHARENA_ERESERVE || code == SHARENA_EINVAL ||
              code == SHARENA_EROOM);
        CHECK(strlen(sharena_detail()) > 10);
    }
    CHECK_EQ(sharena_allocate(heap, 100, 0, 0x80u, &block), SHARENA_EINVAL);
    CHECK(block == NULL);
    int on_stack;
    sharena_block found;
    sharena_handle handle;
    CHECK_EQ(sharena_release(heap, &on_stack), SHARENA_ENOTHELD);
    CHECK_EQ(sharena_retain(heap, &on_stack), SHARENA_ENOTHELD);
    CHECK_EQ(sharena_find(heap, &on_stack, &found), SHARENA_ENOTHELD);
    CHECK_EQ(sharena_export(heap, &on_stack, 1, &handle), SHARENA_ENOTHELD);
    CHECK_EQ(sharena_reallocate(heap, &on_stack, 5, &block), SHARENA_ENOTHELD);
    CHECK_OK(sharena_allocate(heap, 100, 0, 0, &block));
    uint8_t *inside = (uint8_t *)block + 16;
    CHECK_EQ(sharena_release(heap, inside), SHARENA_ENOTHELD);
    CHECK_EQ(sharena_export(heap, block, 0, &handle), SHARENA_EINVAL);
    CHECK_EQ(sharena_export(heap, block, 65536, &handle), SHARENA_EINVAL);
    CHECK_OK(sharena_release(heap, block));
    CHECK_EQ(sharena_release(heap, block), SHARENA_ENOTHELD);
    CHECK_OK(sharena_allocate(heap, 200000, 0, 0, &block));
    CHECK_EQ(sharena_release(heap, (uint8_t *)block + 65536), SHARENA_ENOTHELD);
    CHECK_OK(sharena_release(heap, block));
    CHECK_EQ(sharena_release(heap, block), SHARENA_ENOTHELD);
    check_heap(heap);
}

static void sizes_and_alignments(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 512 * MIB);
    uint64_t random = test_seed();
    sharena_stats before = stats_of(heap);
    for (unsigned round = 0; round < 3000; round++) {
        size_t size = (size_t)(random_next(&random) >> (random_next(&random) % 20 + 42));
        size_t align = round % 3 ? 0 : (size_t)1 << random_next(&random) % 22;
        uint8_t *block;
        sharena_block found;
        CHECK_OK(sharena_allocate(heap, size, align, round % 2, (void **)&block));
        CHECK_OK(sharena_find(heap, block + (size ? size - 1 : 0), &found));
        CHECK_EQ((uintptr_t)found.start, (uintptr_t)block);
        CHECK_LE(size, found.size_bytes);
        if (align)
            CHECK_EQ((uintptr_t)block % align, 0);
        if (size >= 64)
            CHECK_EQ((uintptr_t)block % 64, 0);
        if (size > 0 && size % 4096 == 0)
            CHECK_EQ((uintptr_t)block % 4096, 0);
        CHECK_EQ((uintptr_t)block % 16, 0);
        for (size_t i = 0; round % 2 && i < size; i++)
            if (block[i] != 0)
                FAIL("byte %zu of a zeroed block of %zu is %u", i, size, block[i]);
        memset(block, 0xa5, found.size_bytes);
        CHECK_OK(sharena_release(heap, block));
    }
    check_baseline(heap, &before);
}

static void classes_waste_little(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    for (size_t size = 1; size <= 32768; size += size < 600 ? 1 : 97) {
        void *block;
        sharena_block found;
        CHECK_OK(sharena_allocate(heap, size, 0, 0, &block));
        CHECK_OK(sharena_find(heap, block, &found));
        if (size > 512)
            CHECK_LE(found.size_bytes * 8, size * 9 + 8);
        else
            CHECK_LE(found.size_bytes, size + (size > 64 ? 63 : 15));
        CHECK_OK(sharena_release(heap, block));
    }
}

/* The block that an address lies in, which this process must hold. */
static void find_knows_every_byte(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    const size_t sizes[] = {16, 48, 1000, 5000, 20000, 32768, 40000, 200000};
    for (int s = 0; s < 8; s++) {
        uint8_t *block;
        sharena_block found;
        CHECK_OK(sharena_allocate(heap, sizes[s], 0, 0, (void **)&block));
        for (size_t i = 0; i < sizes[s]; i += 1 + sizes[s] / 100) {
            CHECK_OK(sharena_find(heap, block + i, &found));
            CHECK_EQ((uintptr_t)found.start, (uintptr_t)block);
        }
        uint64_t number = found.number;
        void *before = block;
        sharena_handle handle; /* what nobody else knows may stay at hand when released */
        CHECK_OK(sharena_export(heap, block, 1, &handle));
        CHECK_OK(sharena_give_back(heap, &handle));
        CHECK_OK(sharena_release(heap, block));
        CHECK_EQ(sharena_find(heap, block, &found), SHARENA_ENOTHELD);
        CHECK_OK(sharena_allocate(heap, sizes[s], 0, 0, (void **)&block));
        CHECK_OK(sharena_find(heap, block, &found));
        CHECK(found.start != before || found.number != number); /* another life */
    }
}

static void reallocate_keeps_content(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    sharena_stats before = stats_of(heap);
    uint64_t random = test_seed();
    for (unsigned round = 0; round < 40; round++) {
        size_t size = 1 + random_next(&random) % 1000;
        uint8_t *block;
        CHECK_OK(sharena_allocate(heap, size, 0, 0, (void **)&block));
        memset(block, (int)round, size);
        for (unsigned i = 0; i < 20; i++) {
            size_t wanted = (size_t)1 +
                            (random_next(&random) >> (44 + random_next(&random) % 16));
            void *moved = NULL;
            CHECK_OK(sharena_reallocate(heap, block, wanted, &moved));
            block = moved;
            for (size_t b = 0; b < (size < wanted ? size : wanted); b++)
                if (block[b] != round)
                    FAIL("byte %zu was lost from %zu to %zu", b, size, wanted);
            memset(block, (int)round, wanted);
            size = wanted;
        }
        int code = sharena_reallocate(heap, block, (size_t)1 << 40, (void **)&block);
        CHECK(code < 0);
        CHECK_EQ(block[size - 1], round);
        CHECK_OK(sharena_release(heap, block));
    }
    check_baseline(heap, &before);
}

static void a_sent_block_is_never_resized_in_place(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    uint8_t *block, *moved;
    sharena_handle handle;
    sharena_block loaded;
    CHECK_OK(sharena_allocate(heap, 100000, 0, 0, (void **)&block));
    memset(block, 3, 100000);
    CHECK_OK(sharena_export(heap, block, 1, &handle));
    CHECK_OK(sharena_reallocate(heap, block, 300000, (void **)&moved));
    CHECK(moved != block);
    memset(moved, 4, 300000);
    CHECK_OK(sharena_acquire(heap, &handle, &loaded));
    CHECK_EQ((uintptr_t)loaded.start, (uintptr_t)block);
    CHECK_EQ(*(uint8_t *)loaded.start, 3);
}

static void retain_counts(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    const size_t sizes[] = {100, 100000};
    for (int s = 0; s < 2; s++) {
        void *block;
        CHECK_OK(sharena_allocate(heap, sizes[s], 0, 0, &block));
        for (int i = 0; i < 1000; i++)
            CHECK_OK(sharena_retain(heap, block));
        for (int i = 0; i < 1000; i++)
            CHECK_OK(sharena_release(heap, block));
        CHECK_EQ(stats_of(heap).blocks, 1);
        CHECK_OK(sharena_release(heap, block));
        CHECK_EQ(stats_of(heap).blocks, 0);
        CHECK_EQ(sharena_retain(heap, block), SHARENA_ENOTHELD);
    }
}

/* ---- limits --------------------------------------------------------------------------------------- */

static void full_heap_is_refused_and_recovers(void)
{
    sharena_heap *heap = scratch_heap(16 * MIB, 64 * MIB);
    void *blocks[2000];
    for (int round = 0; round < 4; round++) {
        size_t size = round % 2 ? 20000 : 1000000;
        unsigned n = 0;
        int code;
        while (n < 2000 && (code = sharena_allocate(heap, size, 0, 0, &blocks[n])) == 0)
            n++;
        CHECK_EQ(code, SHARENA_EFULL);
        CHECK(strstr(sharena_detail(), "limit") != NULL);
        CHECK_LE(12 * MIB, n * size);
        CHECK_LE(shr__sys_blocks(sharena_descriptor(heap)), 16 * MIB);
        CHECK_LE(stats_of(heap).committed_bytes, 16 * MIB);
        while (n > 0)
            CHECK_OK(sharena_release(heap, blocks[--n]));
    }
    check_heap(heap);
}

static void trim_gives_everything_back(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    void *blocks[300];
    uint64_t freed = 0;
    for (unsigned i = 0; i < 300; i++) {
        CHECK_OK(sharena_allocate(heap, 100 + 300 * i, 0, 0, &blocks[i]));
        memset(blocks[i], 1, 100 + 300 * i);
    }
    for (unsigned i = 0; i < 300; i++)
        CHECK_OK(sharena_release(heap, blocks[i]));
    CHECK_OK(sharena_trim(heap, &freed));
    sharena_stats stats = stats_of(heap);
    CHECK_LE(MIB, freed);
    CHECK_EQ(stats.retained_bytes, 0);
    CHECK_EQ(stats.slabs, 0);
    CHECK_EQ(stats.stranded_bytes, 0);
    CHECK_EQ(stats.committed_bytes, stats.metadata_bytes);
    /* The kernel's count: nothing but metadata is left. */
    CHECK_LE(shr__sys_blocks(sharena_descriptor(heap)), stats.metadata_bytes + 65536);
    check_heap(heap);
}

static void free_memory_stays_warm_within_its_budget(void)
{
    sharena_heap *heap = NULL;
    void *blocks[40];
    sharena_options options = {
        .limit_bytes = 64 * MIB, .reserve_bytes = 64 * MIB, .retain_bytes = 8 * MIB};
    CHECK_OK(sharena_create(NULL, &options, &heap));
    for (int i = 0; i < 40; i++)
        CHECK_OK(sharena_allocate(heap, MIB, 0, 0, &blocks[i]));
    for (int i = 0; i < 40; i++)
        CHECK_OK(sharena_release(heap, blocks[i]));
    sharena_stats stats = stats_of(heap);
    CHECK_LE(stats.retained_bytes, 8 * MIB);
    CHECK_LE(4 * MIB, stats.retained_bytes);
    CHECK_LE(shr__sys_blocks(sharena_descriptor(heap)), stats.metadata_bytes + 9 * MIB);
}

/* Where there is room; a hole that just fits is used all the same. */
static void large_blocks_start_at_huge_pages(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    void *small, *large[3], *again, *fits;
    CHECK_OK(sharena_allocate(heap, 100000, 0, 0, &small));
    for (unsigned i = 0; i < 3; i++) {
        CHECK_OK(sharena_allocate(heap, 9 * MIB + i * 65536, 0, 0, &large[i]));
        CHECK_EQ((uintptr_t)large[i] % SHR_HUGE, 0);
    }
    CHECK_OK(sharena_release(heap, large[1]));
    CHECK_OK(sharena_allocate(heap, 9 * MIB + 65536, 0, 0, &again));
    CHECK(again == large[1]);
    CHECK_OK(sharena_release(heap, again));
    CHECK_OK(sharena_allocate(heap, 11 * MIB, 0, 0, &fits)); /* with what was left before it */
    CHECK(fits == (uint8_t *)large[1] - MIB);
    check_heap(heap);
}

/* KiB of this process's mappings that huge pages of shared memory back. */
static unsigned long huge_kib(void)
{
    unsigned long sum = 0, kib;
    char line[256];
    FILE *f = fopen("/proc/self/smaps", "r");
    CHECK(f != NULL);
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "ShmemPmdMapped: %lu kB", &kib) == 1)
            sum += kib;
    fclose(f);
    return sum;
}

/* From 4 MiB on, unless the last attempt failed; where they are forbidden, small ones do. */
static void large_blocks_get_huge_pages(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    uint8_t *small, *large;
    CHECK_OK(sharena_allocate(heap, 3 * MIB, 0, 0, (void **)&small));
    CHECK_EQ(huge_kib(), 0);
    CHECK_EQ(load64_relaxed(&heap->small_until_ms), 0);
    CHECK_OK(sharena_allocate(heap, 8 * MIB, 0, 0, (void **)&large));
    CHECK(huge_kib() > 0 || load64_relaxed(&heap->small_until_ms) > 0);
    CHECK_EQ(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), 0);
    store64_relaxed(&heap->small_until_ms, 0);
    unsigned long before = huge_kib();
    CHECK_OK(sharena_allocate(heap, 16 * MIB, 0, SHARENA_ZERO, (void **)&large));
    CHECK_EQ(huge_kib(), before);
    CHECK_LE(shr__sys_now_ms(), load64_relaxed(&heap->small_until_ms)); /* a rest of a second */
    for (uint64_t i = 0; i < 16 * MIB; i += 4096)
        CHECK_EQ(large[i], 0);
    check_heap(heap);
}

static int interrupted(void *argument)
{
    return ++*(int *)argument > 2;
}

static void long_work_can_be_interrupted(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    int calls = 0;
    void *block;
    sharena_set_interrupt(interrupted, &calls);
    CHECK_EQ(sharena_allocate(heap, 128 * MIB, 0, 0, &block), SHARENA_EINTERRUPTED);
    CHECK_EQ(calls, 3);
    sharena_set_interrupt(NULL, NULL);
    CHECK_EQ(stats_of(heap).blocks, 0);
    check_heap(heap);
    CHECK_OK(sharena_allocate(heap, 128 * MIB, 0, 0, &block));
}

/* ---- made for the process's own use ------------------------------------------------------------- */

static unsigned flags_of(sharena_heap *heap, const void *block)
{
    sharena_block found = {.flags = 99};
    CHECK_OK(sharena_find(heap, (const uint8_t *)block + 10, &found));
    return found.flags;
}

static const size_t unshared_sizes[] = {64, 5000, 56000, 200000, 3 * MIB};

struct unshared {
    sharena_heap *heap;
    void *blocks[5][3];
};

static void look_as_a_child(struct peer *parent, void *argument)
{
    struct unshared *u = argument;
    (void)parent;
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(flags_of(u->heap, u->blocks[i][0]), SHARENA_UNSHARED);
        CHECK_EQ(flags_of(u->heap, u->blocks[i][1]), 0);
        CHECK_EQ(flags_of(u->heap, u->blocks[i][2]), 0);
        CHECK_OK(sharena_set_shared(u->heap, u->blocks[i][0]));
        CHECK_EQ(flags_of(u->heap, u->blocks[i][0]), 0);
    }
}

static void unshared_until_it_is_said(void)
{
    struct unshared u = {.heap = scratch_heap(256 * MIB, 512 * MIB)};
    struct peer child;
    void *moved;
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 5; i++) {
            size_t size = unshared_sizes[i];
            unsigned zero = round == 1 ? SHARENA_ZERO : 0;
            for (int k = 0; k < 3; k++) {
                unsigned flags = zero | (k < 2 ? SHARENA_UNSHARED : 0);
                CHECK_OK(sharena_allocate(u.heap, size, 0, flags, &u.blocks[i][k]));
                CHECK_EQ(flags_of(u.heap, u.blocks[i][k]), flags & SHARENA_UNSHARED);
                CHECK(!zero || *(uint8_t *)u.blocks[i][k] == 0);
                memset(u.blocks[i][k], 1, size);
            }
            CHECK_OK(sharena_retain(u.heap, u.blocks[i][0]));
            CHECK_EQ(flags_of(u.heap, u.blocks[i][0]), SHARENA_UNSHARED);
            CHECK_OK(sharena_release(u.heap, u.blocks[i][0]));
            CHECK_OK(sharena_set_shared(u.heap, u.blocks[i][1]));
            CHECK_EQ(flags_of(u.heap, u.blocks[i][1]), 0);
        }
        check_heap(u.heap);
        if (round == 2) {
            peer_start(&child, look_as_a_child, &u);
            peer_join(&child);
            CHECK_OK(sharena_reap(u.heap, NULL));
            for (int i = 0; i < 5; i++) { /* what a child has said holds for all */
                export_of(u.heap, u.blocks[i][0], 1);
                CHECK_EQ(flags_of(u.heap, u.blocks[i][0]), 0);
            }
            CHECK_OK(sharena_ticket_expire(u.heap, 0, NULL));
        }
        for (int i = 0; i < 5; i++) {
            CHECK_OK(sharena_reallocate(u.heap, u.blocks[i][0], 4 * MIB, &moved));
            CHECK_EQ(flags_of(u.heap, moved), round == 2 ? 0 : SHARENA_UNSHARED);
            CHECK_OK(sharena_release(u.heap, moved));
            CHECK_OK(sharena_release(u.heap, u.blocks[i][1]));
            CHECK_OK(sharena_release(u.heap, u.blocks[i][2]));
            CHECK_EQ(sharena_set_shared(u.heap, u.blocks[i][2]), SHARENA_ENOTHELD);
        }
        for (int i = 0; i < 5; i++) /* a new life is what it is said to be */
            for (int k = 0; k < 100; k++)
                CHECK_EQ(flags_of(u.heap, make_block(u.heap, unshared_sizes[i] / 4)), 0);
        check_heap(u.heap);
    }
}

/* A slab whose `left` was raised once too often is left by its lane with private blocks in it. */
static void a_note_outlives_its_slab(void)
{
    enum { SIZE = 7000 };
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    void *blocks[64], *next;
    struct block b;
    uint32_t n = shr__classes[shr__class_of[(SIZE + 15) / 16]].capacity;
    for (uint32_t i = 0; i < n; i++)
        CHECK_OK(sharena_allocate(heap, SIZE, 0, SHARENA_UNSHARED, &blocks[i]));
    CHECK_OK(sharena_allocate(heap, SIZE, 0, SHARENA_UNSHARED, &next)); /* of the next slab */
    CHECK_OK(shr__decode(heap, (uint64_t)((uint8_t *)blocks[0] - heap->data), &b));
    (void)shr__mark(&b, SHR_MARK_SHARED | shr__unshared_mark(heap, &b));
    shr__lanes_trim(heap); /* another thread, which counts the mark */
    shr__leave(heap, &b);
    for (uint32_t i = 2; i < n; i++)
        CHECK_OK(sharena_release(heap, blocks[i]));
    shr__lanes_flush(heap);
    CHECK_EQ(flags_of(heap, blocks[0]), SHARENA_UNSHARED);
    CHECK_EQ(flags_of(heap, blocks[1]), SHARENA_UNSHARED);
    check_heap(heap);
}

CASES(CASE(bad_requests), CASE(sizes_and_alignments), CASE(classes_waste_little),
      CASE(find_knows_every_byte), CASE(reallocate_keeps_content),
      CASE(a_sent_block_is_never_resized_in_place), CASE(retain_counts),
      CASE(full_heap_is_refused_and_recovers), CASE(trim_gives_everything_back),
      CASE(free_memory_stays_warm_within_its_budget), CASE(large_blocks_start_at_huge_pages),
      CASE(large_blocks_get_huge_pages), CASE(long_work_can_be_interrupted),
      CASE(unshared_until_it_is_said), CASE(a_note_outlives_its_slab))
