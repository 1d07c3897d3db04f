/* hand.c: large blocks at hand, what nobody else may see of them, and how many there may be. */
#include "hand_kit.h"

#include <stdlib.h>
#include <string.h>

/* ---- out and back -------------------------------------------------------------------------- */

/* Nothing in shared memory changes, however often. */
static void comes_and_goes_without_a_trace(void)
{
    const size_t sizes[] = {57345, KIB64, 2 * KIB64, MIB, 4 * MIB, 8 * MIB};
    sharena_heap *heap = scratch_heap(1024 * MIB, 1024 * MIB);
    for (unsigned i = 0; i < 6; i++) {
        void *block = get(heap, sizes[i]);
        struct unit_shm before = *header(heap, block);
        struct extent_shm *extent = &heap->extents[unit_of(heap, block) / heap->extent_units];
        uint32_t changes = load32_relaxed(&extent->changes);
        uint64_t retained = load64_relaxed(&heap->control->retained_units);
        for (unsigned round = 0; round < 200; round++) {
            CHECK_OK(sharena_release(heap, block));
            CHECK_EQ(sharena_release(heap, block), SHARENA_ENOTHELD);
            CHECK(sharena_malloc(heap, sizes[i]) == block);
        }
        CHECK_EQ(memcmp(&before, header(heap, block), sizeof before), 0);
        CHECK_EQ(load32_relaxed(&extent->changes), changes);
        CHECK_EQ(load64_relaxed(&heap->control->retained_units), retained);
        CHECK_OK(sharena_release(heap, block));
    }
    check_heap(heap);
    CHECK_EQ(stats_of(heap).blocks, 0);
}

static void goes_to_who_wants_as_much(void)
{
    sharena_heap *heap = scratch_heap(1024 * MIB, 1024 * MIB);
    void *first = get(heap, KIB64), *block = released(heap, 3 * KIB64), *other, *aligned;
    CHECK((uintptr_t)block % (2 * MIB) != 0 && first != block);
    CHECK((other = get(heap, 2 * KIB64)) != block);
    CHECK(get(heap, 4 * KIB64) != block);
    CHECK_EQ(at_hand(heap), 1);
    CHECK(get(heap, 2 * KIB64 + 1) == block); /* as many units */
    CHECK_OK(sharena_release(heap, block));
    CHECK_OK(sharena_allocate(heap, 3 * KIB64, KIB64, 0, &aligned));
    CHECK(aligned == block);
    CHECK_OK(sharena_release(heap, other));
    CHECK_OK(sharena_allocate(heap, 100, KIB64, 0, &aligned)); /* a small one that wants a run */
    CHECK(aligned != other);
    CHECK_OK(sharena_release(heap, block));
    CHECK_OK(sharena_allocate(heap, 3 * KIB64, 2 * MIB, 0, &aligned));
    CHECK_EQ((uintptr_t)aligned % (2 * MIB), 0);
    CHECK_EQ(sharena_allocate(heap, 3 * KIB64, 3, 0, &aligned), SHARENA_EINVAL);
    CHECK_EQ(sharena_allocate(heap, 3 * KIB64, 0, 64, &aligned), SHARENA_EINVAL);
    check_heap(heap);
}

static void the_latest_goes_first(void)
{
    sharena_heap *heap = scratch_heap(1024 * MIB, 1024 * MIB);
    void *blocks[4];
    for (unsigned i = 0; i < 4; i++)
        blocks[i] = get(heap, i == 1 ? KIB64 : MIB);
    for (unsigned i = 0; i < 4; i++)
        CHECK_OK(sharena_release(heap, blocks[i]));
    CHECK(get(heap, MIB) == blocks[3]);
    CHECK(get(heap, KIB64) == blocks[1]);
    CHECK(get(heap, MIB) == blocks[2]);
    CHECK(get(heap, MIB) == blocks[0]);
    CHECK_EQ(at_hand(heap), 0);
}

static void zeros_are_zeros(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    uint8_t *block = get(heap, MIB);
    memset(block, 0xff, MIB);
    CHECK_OK(sharena_release(heap, block));
    CHECK_OK(sharena_allocate(heap, MIB - 100, 0, SHARENA_ZERO, (void **)&block));
    for (size_t i = 0; i < MIB; i++)
        CHECK_EQ(block[i], 0);
}

static void for_who_must_not_be_held_up(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    sharena_handle handle;
    void *block = get(heap, MIB), *small = get(heap, 100), *got;
    CHECK(sharena_malloc_at_hand(heap, MIB) == NULL);
    CHECK(sharena_malloc_at_hand(heap, 0) == NULL);
    CHECK(sharena_malloc_at_hand(heap, SIZE_MAX) == NULL);
    CHECK_EQ(sharena_release_at_hand(heap, block), 0); /* not the first time */
    CHECK_OK(sharena_release(heap, block));
    CHECK_EQ(sharena_release_at_hand(heap, block), 0); /* no more */
    CHECK(sharena_malloc_at_hand(heap, MIB) == block);
    CHECK(sharena_malloc_at_hand(heap, MIB) == NULL);
    CHECK_EQ(sharena_release_at_hand(heap, (uint8_t *)block + 16), 0);
    CHECK_EQ(sharena_release_at_hand(heap, &handle), 0);
    CHECK_EQ(sharena_release_at_hand(heap, block), 1);
    CHECK_EQ(sharena_release_at_hand(heap, small), 1);
    CHECK_EQ(sharena_release_at_hand(heap, small), 0);
    CHECK(sharena_malloc_at_hand(heap, 100) == small);
    /* it does not go on for ever without the duties of the longer way */
    for (unsigned i = 0; (got = sharena_malloc_at_hand(heap, MIB)) != NULL; i++) {
        CHECK_LE(i, 1000);
        CHECK_EQ(sharena_release_at_hand(heap, got), 1);
    }
    CHECK(get(heap, MIB) == block);
    CHECK_EQ(sharena_release_at_hand(heap, block), 1);
    CHECK(sharena_malloc_at_hand(heap, MIB) == block);
    CHECK_OK(sharena_export(heap, block, 1, &handle));
    CHECK_EQ(sharena_release_at_hand(heap, block), 0);
    CHECK_OK(sharena_release(heap, block));
    CHECK_EQ(stats_of(heap).blocks, 2);
}

/* ---- it is not held ------------------------------------------------------------------------ */

static void the_program_does_not_hold_it(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    sharena_block found;
    sharena_handle handle;
    void *block = released(heap, MIB), *large = released(heap, 2 * MIB), *moved;
    CHECK(get(heap, 2 * MIB) == large); /* there is room for twice the block */
    CHECK_EQ(sharena_release(heap, block), SHARENA_ENOTHELD);
    CHECK_EQ(sharena_release(heap, (uint8_t *)block + KIB64), SHARENA_ENOTHELD);
    CHECK_EQ(sharena_release(heap, (uint8_t *)block + 1), SHARENA_ENOTHELD);
    CHECK_EQ(sharena_retain(heap, block), SHARENA_ENOTHELD);
    CHECK_EQ(sharena_find(heap, block, &found), SHARENA_ENOTHELD);
    CHECK_EQ(sharena_find(heap, (uint8_t *)block + MIB - 1, &found), SHARENA_ENOTHELD);
    CHECK_EQ(sharena_export(heap, block, 1, &handle), SHARENA_ENOTHELD);
    CHECK_EQ(sharena_export_open(heap, block, NULL, &handle), SHARENA_ENOTHELD);
    CHECK_EQ(sharena_name_set(heap, "it", block, NULL, 0), SHARENA_ENOTHELD);
    CHECK_EQ(sharena_reallocate(heap, block, 2 * MIB, &moved), SHARENA_ENOTHELD);
    CHECK_EQ(sharena_reallocate(heap, block, KIB64, &moved), SHARENA_ENOTHELD);
    CHECK_EQ(shr__hand_keep(heap, unit_of(heap, block) << SHR_UNIT_SHIFT), 0);
    CHECK_EQ(shr__release(heap, unit_of(heap, block) << SHR_UNIT_SHIFT), SHARENA_ENOTHELD);
    CHECK_EQ(at_hand(heap), 1);
    CHECK(get(heap, MIB) == block);
    CHECK_OK(sharena_find(heap, (uint8_t *)block + MIB - 1, &found));
    CHECK(found.start == block && found.size_bytes == MIB);
    CHECK_OK(sharena_release(heap, block));
    check_heap(heap);
}

/* A number is guessed, or comes from damage: it leads to nothing that lies at hand. */
static void forged_handles(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    sharena_handle handle;
    sharena_block found, got;
    void *sent = get(heap, 64), *block = get(heap, MIB);
    CHECK_OK(sharena_release(heap, block));
    CHECK(get(heap, MIB) == block);
    CHECK_OK(sharena_export(heap, sent, 1, &handle));
    CHECK_OK(sharena_find(heap, block, &found));
    handle.offset = (uint64_t)((uint8_t *)block - heap->data);
    handle.number = found.number;
    CHECK_OK(sharena_acquire(heap, &handle, &got)); /* it is held: twice now */
    CHECK_OK(sharena_release(heap, block));
    CHECK_EQ(at_hand(heap), 0);
    CHECK_OK(sharena_release(heap, block));
    CHECK_EQ(at_hand(heap), 1);
    CHECK_EQ(sharena_acquire(heap, &handle, &got), SHARENA_ESTALE);
    CHECK_EQ(sharena_release(heap, block), SHARENA_ENOTHELD);
    CHECK(get(heap, MIB) == block);
    check_heap(heap);
}

/* The handle of an earlier life never leads to a later one, at hand or out of it. */
static void stale_handles(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    sharena_handle handle;
    sharena_block got;
    void *block = get(heap, MIB);
    CHECK_OK(sharena_export(heap, block, 1, &handle));
    CHECK_OK(sharena_release(heap, block));
    CHECK_OK(sharena_acquire(heap, &handle, &got));
    CHECK_OK(sharena_release(heap, block));
    for (unsigned i = 0; i < 3; i++) {
        CHECK(get(heap, MIB) == block);
        CHECK_EQ(sharena_acquire(heap, &handle, &got), SHARENA_ESTALE);
        CHECK_OK(sharena_release(heap, block));
        CHECK_EQ(at_hand(heap), 1);
        CHECK_EQ(sharena_acquire(heap, &handle, &got), SHARENA_ESTALE);
    }
    check_heap(heap);
}

/* ---- what others know of is never kept -------------------------------------------------------- */

/* Each time it was at hand before, so that the short way was open. */
static void what_others_know_of_is_let_go(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    sharena_handle handle;
    sharena_block got;
    void *block = released(heap, MIB);
    CHECK(get(heap, MIB) == block);
    CHECK_OK(sharena_export(heap, block, 1, &handle));
    CHECK_OK(sharena_release(heap, block));
    CHECK_EQ(at_hand(heap), 0);
    CHECK_OK(sharena_acquire(heap, &handle, &got));
    CHECK_OK(sharena_release(heap, block));
    CHECK_EQ(at_hand(heap), 0);
    CHECK_EQ(load64_relaxed(&header(heap, block)->mask), 0);

    block = released(heap, MIB);
    CHECK(get(heap, MIB) == block);
    CHECK_OK(sharena_name_set(heap, "it", block, NULL, 0));
    CHECK_OK(sharena_release(heap, block));
    CHECK_EQ(at_hand(heap), 0);
    CHECK_EQ(load64_relaxed(&header(heap, block)->mask), SHR_BIT_N);
    CHECK_OK(sharena_name_remove(heap, "it"));
    check_heap(heap);
    CHECK_EQ(stats_of(heap).blocks, 0);
}

static void what_is_held_twice_is_not_at_hand(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    sharena_block found;
    void *block = released(heap, MIB);
    CHECK(get(heap, MIB) == block);
    CHECK_OK(sharena_retain(heap, block));
    CHECK_OK(sharena_release(heap, block));
    CHECK_EQ(at_hand(heap), 0);
    CHECK_OK(sharena_find(heap, block, &found));
    CHECK_OK(sharena_release(heap, block)); /* once again: may be kept */
    CHECK_EQ(at_hand(heap), 1);
    CHECK_EQ(sharena_release(heap, block), SHARENA_ENOTHELD);
}

/* It lies at hand with the size that it has now. */
static void what_was_resized(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    void *block = released(heap, MIB), *same;
    CHECK(get(heap, MIB) == block);
    CHECK_OK(sharena_reallocate(heap, block, 4 * KIB64, &same));
    CHECK(same == block);
    CHECK_OK(sharena_release(heap, block));
    CHECK(get(heap, 4 * KIB64) == block);
    check_heap(heap);
    CHECK_OK(sharena_reallocate(heap, block, 5 * KIB64, &same));
    CHECK(same == block);
    memset(same, 1, 5 * KIB64);
    CHECK_OK(sharena_release(heap, same));
    CHECK_EQ(at_hand(heap), 1);
    CHECK(get(heap, 4 * KIB64) != same);
    CHECK(get(heap, MIB) != same);
    CHECK(get(heap, 5 * KIB64) == same);
    check_heap(heap);
}

/* What a run was in an earlier life, at hand, says nothing about a later one. */
static void a_later_life_has_its_own_size(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    void *block = released(heap, MIB), *other;
    CHECK_EQ(stats_of(heap).blocks, 0);
    CHECK(get(heap, 2 * KIB64) == block);
    other = released(heap, 4 * MIB);
    CHECK(get(heap, 4 * MIB) == other); /* there is room */
    CHECK_OK(sharena_release(heap, block));
    CHECK(get(heap, MIB) != block);
    CHECK(get(heap, 2 * KIB64) == block);
    check_heap(heap);
}

/* Another process's bit passes through, and stays while the run is let go. */
static void a_stale_acquirer_passes_by(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    uint64_t other = UINT64_C(1) << 40;
    void *block = get(heap, MIB);
    (void)or64_seq(&header(heap, block)->mask, other);
    CHECK_OK(sharena_release(heap, block));
    CHECK_EQ(at_hand(heap), 0);
    CHECK_EQ(load64_relaxed(&header(heap, block)->mask), other);
    (void)and64_seq(&header(heap, block)->mask, ~other);
    block = released(heap, MIB);
    (void)or64_seq(&header(heap, block)->mask, other);
    (void)sharena_trim(heap, NULL);
    CHECK_EQ(at_hand(heap), 0);
    CHECK_EQ(load64_relaxed(&header(heap, block)->mask), other);
    (void)and64_seq(&header(heap, block)->mask, ~other);
    CHECK_EQ(stats_of(heap).blocks, 0);
    check_heap(heap);
}

static void sites_are_of_one_life(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    void *block = released(heap, MIB);
    CHECK(get(heap, MIB) == block);
    CHECK_OK(sharena_trace(heap, block, "here.py:1"));
    CHECK(load32_relaxed(&header(heap, block)->site) != 0);
    CHECK_OK(sharena_release(heap, block));
    CHECK(get(heap, MIB) == block);
    CHECK_EQ(load32_relaxed(&header(heap, block)->site), 0);
}

static unsigned noted(sharena_heap *heap, const void *block)
{
    sharena_block found;
    CHECK_OK(sharena_find(heap, block, &found));
    return found.flags;
}

/* That a run is unshared is of the life that the program sees, too. */
static void unshared_is_of_one_life(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    sharena_handle handle;
    void *block, *again;
    for (unsigned sent = 0; sent < 2; sent++) {
        CHECK_OK(sharena_allocate(heap, MIB, 0, SHARENA_UNSHARED, &block));
        CHECK_EQ(noted(heap, block), SHARENA_UNSHARED);
        CHECK_OK(sharena_release(heap, block));
        CHECK(get(heap, MIB) == block);
        CHECK_EQ(noted(heap, block), 0);
        CHECK_OK(sharena_release(heap, block));
        CHECK_OK(sharena_allocate(heap, MIB, 0, SHARENA_UNSHARED | SHARENA_ZERO, &again));
        CHECK(again == block);
        CHECK_EQ(noted(heap, block), SHARENA_UNSHARED);
        CHECK_OK(sharena_set_shared(heap, block));
        CHECK_EQ(noted(heap, block), 0);
        CHECK_OK(sharena_release(heap, block));
        CHECK_EQ(sharena_set_shared(heap, block), SHARENA_ENOTHELD);
        CHECK_OK(sharena_allocate(heap, MIB, 0, sent ? SHARENA_UNSHARED : 0, &again));
        CHECK(again == block);
        CHECK_OK(sharena_export(heap, block, 1, &handle)); /* the note becomes a mark */
        CHECK_EQ(noted(heap, block), sent ? SHARENA_UNSHARED : 0);
        CHECK_OK(sharena_release(heap, block));
        CHECK_OK(sharena_ticket_expire(heap, 0, NULL));
    }
    check_heap(heap);
    CHECK_EQ(stats_of(heap).blocks, 0);
}

/* ---- bounds ----------------------------------------------------------------------------------- */

static void so_many_and_no_more(void)
{
    enum { COUNT = 2 * HAND_RUNS };
    sharena_heap *heap = scratch_heap(1024 * MIB, 1024 * MIB);
    void *blocks[COUNT];
    for (unsigned i = 0; i < COUNT; i++)
        blocks[i] = get(heap, KIB64);
    for (unsigned i = 0; i < COUNT; i++)
        CHECK_OK(sharena_release(heap, blocks[i]));
    CHECK_EQ(at_hand(heap), HAND_RUNS);
    CHECK_EQ(shr__lane_current(heap)->hand.room, HAND_RUNS);
    (void)stats_of(heap);
    for (unsigned i = 0; i < COUNT; i++)
        blocks[i] = get(heap, 4 * MIB);
    for (unsigned i = 0; i < COUNT; i++)
        CHECK_OK(sharena_release(heap, blocks[i]));
    CHECK_EQ(at_hand(heap), 4); /* 16 MiB */
    (void)stats_of(heap);
    CHECK_OK(sharena_release(heap, get(heap, 8 * MIB + 1)));
    CHECK_EQ(at_hand(heap), 0);
    check_heap(heap);
}

/* At hand and free are of one budget. */
static void within_what_is_retained(void)
{
    sharena_heap *heap = NULL;
    void *blocks[64];
    sharena_options options = {
        .limit_bytes = 128 * MIB, .reserve_bytes = 128 * MIB, .retain_bytes = 16 * MIB};
    CHECK_OK(sharena_create(NULL, &options, &heap));
    for (unsigned i = 0; i < 64; i++)
        blocks[i] = get(heap, MIB);
    for (unsigned i = 63; i > 0; i--)
        CHECK_OK(sharena_release(heap, blocks[i]));
    CHECK_EQ(at_hand(heap), 2); /* an eighth of it */
    CHECK_LE(load64_relaxed(&heap->control->retained_units) + 32, 16 * MIB / KIB64);
    CHECK_EQ(load64_relaxed(&heap->empty_units), 32);
    CHECK_LE(load64_relaxed(&heap->control->committed_units), 17 * MIB / KIB64);
    CHECK_EQ(stats_of(heap).retained_bytes, 16 * MIB);
    CHECK_EQ(load64_relaxed(&heap->empty_units), 0);
    CHECK_OK(sharena_release(heap, blocks[0])); /* nothing may become more */
    CHECK_EQ(at_hand(heap), 0);
    CHECK_EQ(stats_of(heap).retained_bytes, 16 * MIB);
    CHECK_OK(sharena_detach(heap));
    options.retain_bytes = KIB64;
    CHECK_OK(sharena_create(NULL, &options, &heap));
    CHECK_OK(sharena_release(heap, get(heap, KIB64)));
    CHECK_EQ(at_hand(heap), 0);
}

static void make_idle(sharena_heap *heap)
{
    shr__lane_current(heap)->hand.looked_ms -= 1000;
}

/* What was not wanted for a while is let go, as the thread passes; the rest stays. */
static void what_lies_idle_is_let_go(void)
{
    sharena_heap *heap = scratch_heap(1024 * MIB, 1024 * MIB);
    void *blocks[4], *block, *large[2];
    for (unsigned i = 0; i < 4; i++)
        blocks[i] = get(heap, MIB);
    for (unsigned i = 0; i < 2; i++)
        large[i] = get(heap, 9 * MIB);
    shr__hand_look(heap);
    for (unsigned i = 0; i < 4; i++)
        CHECK_OK(sharena_release(heap, blocks[i]));
    make_idle(heap);
    shr__hand_look(heap);
    CHECK_EQ(at_hand(heap), 4); /* since the last look they came */
    shr__hand_look(heap);
    CHECK_EQ(at_hand(heap), 4); /* no tenth of a second is over */
    for (unsigned i = 0; i < 2; i++)
        blocks[i] = get(heap, MIB);
    for (unsigned i = 0; i < 2; i++)
        CHECK_OK(sharena_release(heap, blocks[i]));
    make_idle(heap);
    CHECK_OK(sharena_release(heap, large[0])); /* passes */
    CHECK_EQ(at_hand(heap), 2);
    CHECK_EQ(load64_relaxed(&heap->empty_units), 32);
    make_idle(heap);
    for (unsigned i = 0; i < 1000; i++) { /* all served from the hand: a look all the same */
        block = get(heap, MIB);
        CHECK_OK(sharena_release(heap, block));
    }
    CHECK_EQ(at_hand(heap), 1);
    block = get(heap, MIB); /* while it is out, the room for it is given up */
    make_idle(heap);
    (void)get(heap, 100);
    CHECK_EQ(load64_relaxed(&heap->empty_units), 0);
    CHECK_OK(sharena_release(heap, block));
    CHECK_EQ(at_hand(heap), 1);
    CHECK_EQ(load64_relaxed(&heap->empty_units), 16);
    make_idle(heap);
    (void)get(heap, 9 * MIB);
    make_idle(heap);
    (void)get(heap, 9 * MIB);
    CHECK_EQ(at_hand(heap), 0);
    CHECK_EQ(load64_relaxed(&heap->empty_units), 0);
    CHECK_OK(sharena_release(heap, large[1]));
    CHECK_EQ(stats_of(heap).blocks, 3);
    check_heap(heap);
}

CASES(CASE(comes_and_goes_without_a_trace), CASE(goes_to_who_wants_as_much),
      CASE(the_latest_goes_first), CASE(zeros_are_zeros), CASE(for_who_must_not_be_held_up),
      CASE(the_program_does_not_hold_it), CASE(forged_handles), CASE(stale_handles),
      CASE(what_others_know_of_is_let_go), CASE(what_is_held_twice_is_not_at_hand),
      CASE(what_was_resized), CASE(a_later_life_has_its_own_size),
      CASE(a_stale_acquirer_passes_by), CASE(sites_are_of_one_life),
      CASE(unshared_is_of_one_life), CASE(so_many_and_no_more), CASE(within_what_is_retained),
      CASE(what_lies_idle_is_let_go))
