/* Scenarios for killstep: blocks of one process, from allocating to releasing. */
#include "scenarios.h"

#include <string.h>

void *make(struct role *role, unsigned i, size_t size)
{
    CHECK_OK(sharena_allocate(role->heap, size, 0, 0, &role->blocks[i]));
    memset(role->blocks[i], 0x5a, size < 64 ? size : 64);
    return role->blocks[i];
}

void export_to(struct role *role, unsigned i, unsigned handle, unsigned uses)
{
    CHECK_OK(sharena_export(role->heap, role->blocks[i], uses, &role->stage->handles[handle]));
}

void load(struct role *role, unsigned i, unsigned handle)
{
    sharena_block block;
    CHECK_OK(sharena_acquire(role->heap, &role->stage->handles[handle], &block));
    CHECK_EQ(*(uint8_t *)block.start, 0x5a);
    role->blocks[i] = block.start;
}

void drop(struct role *role, unsigned i)
{
    CHECK_OK(sharena_release(role->heap, role->blocks[i]));
    role->blocks[i] = NULL;
}

static unsigned slab_capacity(struct role *role, size_t size)
{
    sharena_stats stats = stats_of(role->heap);
    for (unsigned c = 0; c < stats.classes; c++)
        if (stats.by_class[c].size_bytes >= size && stats.by_class[c].slabs > 0)
            return stats.by_class[c].capacity / stats.by_class[c].slabs;
    FAIL("no class of %zu bytes in use", size);
}

static void fill_slab(struct role *role, size_t size)
{
    make(role, 0, size);
    unsigned capacity = slab_capacity(role, size);
    CHECK_LE(capacity, STEP_BLOCKS - 2);
    for (unsigned i = 1; i < capacity; i++)
        make(role, i, size);
    role->result = (int)capacity;
}

/* ---- allocate --------------------------------------------------------------------------- */

static void one_small(struct role *role)
{
    make(role, 0, SMALL);
}

void two_small(struct role *role)
{
    make(role, 0, SMALL);
    make(role, 1, SMALL);
}

static void another_small(struct role *role)
{
    make(role, 62, SMALL);
}

static void full_slab(struct role *role)
{
    fill_slab(role, HUGE_SMALL);
}

/* So many released that the lane has as many at hand as it will keep. */
static void many_released(struct role *role)
{
    for (unsigned i = 0; i < 60; i++)
        make(role, i, HUGE_SMALL);
    for (unsigned i = 0; i < 50; i++)
        drop(role, i);
}

static void release_more(struct role *role)
{
    for (unsigned i = 50; i < 56; i++)
        drop(role, i);
}

static void another_huge_small(struct role *role)
{
    make(role, 62, HUGE_SMALL);
}

/* Blocks of a full slab that were sent and then freed by nobody's lane. */
static void slab_freed_from_outside(struct role *role)
{
    fill_slab(role, HUGE_SMALL);
    for (int i = 0; i < role->result; i++) {
        export_to(role, (unsigned)i, 0, 1);
        drop(role, (unsigned)i);
    }
    CHECK_OK(sharena_ticket_expire(role->heap, 0, NULL));
}

void one_big(struct role *role)
{
    make(role, 0, BIG);
}

static void another_big(struct role *role)
{
    make(role, 62, BIG);
}

static void warm_big(struct role *role)
{
    make(role, 0, BIG);
    make(role, 1, BIG);
    make(role, 2, BIG);
    drop(role, 1);
}

/* Free, and not just at hand. */
static void free_big(struct role *role)
{
    warm_big(role);
    (void)stats_of(role->heap);
}

/* So many that the hand has no room for one more. */
static void many_big_released(struct role *role)
{
    for (unsigned i = 0; i < 20; i++)
        make(role, i, BIG);
    for (unsigned i = 1; i < 18; i++)
        drop(role, i);
}

static void zeroed_big(struct role *role)
{
    CHECK_OK(sharena_allocate(role->heap, BIG, 0, SHARENA_ZERO, &role->blocks[62]));
    CHECK_EQ(*(uint8_t *)role->blocks[62], 0);
}

static void aligned_big(struct role *role)
{
    CHECK_OK(sharena_allocate(role->heap, BIG, 1 << 20, 0, &role->blocks[62]));
    CHECK_EQ((uintptr_t)role->blocks[62] % (1 << 20), 0);
}

static void fill_heap(struct role *role)
{
    unsigned i = 0;
    while (i < 60 && sharena_allocate(role->heap, BIG, 0, 0, &role->blocks[i]) == 0)
        i++;
    CHECK_LE(4, i);
    role->result = (int)i;
}

static void allocate_beyond_limit(struct role *role)
{
    int code = sharena_allocate(role->heap, BIG, 0, 0, &role->blocks[62]);
    CHECK_EQ(code, SHARENA_EFULL);
}

/* What the dead held must be found, and the memory of small blocks given to big ones. */
static void victim_fills_heap(struct role *role)
{
    void *block;
    make(role, 0, SMALL);
    make(role, 1, HUGE_SMALL);
    while (sharena_allocate(role->heap, 8 * BIG, 0, 0, &block) == 0)
        continue;
    while (sharena_allocate(role->heap, BIG, 0, 0, &block) == 0)
        continue;
}

static void allocate_what_the_dead_held(struct role *role)
{
    make(role, 62, BIG);
}

/* A slab whose owner is dead, with one block that the partner holds. */
void victim_sends_small(struct role *role)
{
    make(role, 0, HUGE_SMALL);
    make(role, 1, HUGE_SMALL);
    export_to(role, 0, 0, 1);
}

static void partner_takes_it(struct role *role)
{
    load(role, 0, 0);
    CHECK_OK(sharena_reap(role->heap, NULL));
    export_to(role, 0, 1, 1);
}

void partner_passes_it_on(struct role *role)
{
    partner_takes_it(role);
    drop(role, 0);
}

static void take_second(struct role *role)
{
    load(role, 0, 1);
}

static void drop_first(struct role *role)
{
    drop(role, 0);
}

/* ---- release ---------------------------------------------------------------------------- */

void sent_small(struct role *role)
{
    two_small(role);
    export_to(role, 0, 0, 1);
}

static void sent_big(struct role *role)
{
    make(role, 0, BIG);
    export_to(role, 0, 0, 1);
}

void partner_sends(struct role *role)
{
    make(role, 0, SMALL);
    make(role, 1, BIG);
    export_to(role, 0, 0, 4);
    export_to(role, 1, 1, 4);
}

void partner_sends_and_drops(struct role *role)
{
    make(role, 0, SMALL);
    make(role, 1, BIG);
    export_to(role, 0, 0, 1);
    export_to(role, 1, 1, 1);
    drop(role, 0);
    drop(role, 1);
}

void load_small(struct role *role)
{
    load(role, 0, 0);
}

void load_big(struct role *role)
{
    load(role, 0, 1);
}

void load_twice(struct role *role)
{
    load(role, 0, 0);
    load(role, 1, 0);
}

static void retained_small(struct role *role)
{
    two_small(role);
    CHECK_OK(sharena_retain(role->heap, role->blocks[0]));
}

static void retain_first(struct role *role)
{
    CHECK_OK(sharena_retain(role->heap, role->blocks[0]));
}

static int first_ticket(const sharena_ticket *ticket, void *argument)
{
    struct role *role = argument;
    role->result |= ticket->offset == role->stage->handles[0].offset;
    return 0;
}

/* While a use is unspent the block can be had; without one it is gone, never another. */
void sent_block_is_whole_or_gone(struct role *role)
{
    sharena_block block;
    role->result = 0;
    CHECK_OK(sharena_ticket_list(role->heap, first_ticket, role));
    int code = sharena_acquire(role->heap, &role->stage->handles[0], &block);
    if (role->result)
        CHECK_EQ(code, 0);
    if (code == 0) {
        CHECK_EQ(*(uint8_t *)block.start, 0x5a);
        CHECK_OK(sharena_release(role->heap, block.start));
    } else {
        CHECK_EQ(code, SHARENA_ESTALE);
    }
}

/* ---- reallocate ------------------------------------------------------------------------- */

static void grow_in_place(struct role *role)
{
    CHECK_OK(sharena_reallocate(role->heap, role->blocks[0], 3 * BIG, &role->blocks[0]));
    CHECK_EQ(*(uint8_t *)role->blocks[0], 0x5a);
}

static void one_huge(struct role *role)
{
    make(role, 0, 4 * BIG);
}

static void shrink(struct role *role)
{
    CHECK_OK(sharena_reallocate(role->heap, role->blocks[0], BIG, &role->blocks[0]));
}

static void blocked_big(struct role *role)
{
    make(role, 0, BIG);
    make(role, 1, BIG);
    make(role, 2, BIG);
}

static void grow_small(struct role *role)
{
    CHECK_OK(sharena_reallocate(role->heap, role->blocks[0], 700, &role->blocks[0]));
}

const struct scenario block_scenarios[] = {
    {.name = "allocate_first", .act = one_small},
    {.name = "allocate_next", .prepare = one_small, .act = another_small},
    {.name = "allocate_slab_full", .prepare = full_slab, .act = another_huge_small},
    {.name = "allocate_rescan", .prepare = slab_freed_from_outside, .act = another_huge_small},
    {.name = "allocate_adopt",
     .victim = victim_sends_small,
     .partner = partner_takes_it,
     .act = another_huge_small},
    {.name = "allocate_big_first", .act = one_big},
    {.name = "allocate_big_warm", .prepare = free_big, .act = another_big},
    {.name = "allocate_big_at_hand",
     .prepare = warm_big,
     .act = another_big,
     .flags = STEP_PRIVATE},
    {.name = "allocate_big_zero", .prepare = free_big, .act = zeroed_big},
    {.name = "allocate_big_zero_at_hand",
     .prepare = warm_big,
     .act = zeroed_big,
     .flags = STEP_PRIVATE},
    {.name = "allocate_big_aligned", .prepare = one_small, .act = aligned_big},
    {.name = "allocate_full",
     .prepare = fill_heap,
     .act = allocate_beyond_limit,
     .flags = STEP_TIGHT},
    {.name = "allocate_reaping",
     .victim = victim_fills_heap,
     .act = allocate_what_the_dead_held,
     .flags = STEP_TIGHT | STEP_DIES_LATE},
    {.name = "release_not_last_in_slab",
     .prepare = two_small,
     .act = drop_first,
     .flags = STEP_PRIVATE},
    {.name = "release_last_in_slab",
     .prepare = one_small,
     .act = drop_first,
     .flags = STEP_PRIVATE},
    {.name = "release_full_slab", .prepare = full_slab, .act = drop_first, .flags = STEP_PRIVATE},
    {.name = "release_beyond_what_is_kept", .prepare = many_released, .act = release_more},
    {.name = "release_retained",
     .prepare = retained_small,
     .act = drop_first,
     .flags = STEP_PRIVATE},
    {.name = "release_sent",
     .prepare = sent_small,
     .act = drop_first,
     .verify = sent_block_is_whole_or_gone},
    {.name = "release_sent_big",
     .prepare = sent_big,
     .act = drop_first,
     .verify = sent_block_is_whole_or_gone},
    {.name = "release_big_to_hand", .prepare = one_big, .act = drop_first},
    {.name = "release_big", .prepare = many_big_released, .act = drop_first},
    {.name = "release_shared",
     .partner = partner_sends,
     .prepare = load_small,
     .act = drop_first},
    {.name = "release_shared_big",
     .partner = partner_sends,
     .prepare = load_big,
     .act = drop_first},
    {.name = "release_foreign",
     .partner = partner_sends_and_drops,
     .prepare = load_small,
     .act = drop_first},
    {.name = "release_foreign_big",
     .partner = partner_sends_and_drops,
     .prepare = load_big,
     .act = drop_first},
    {.name = "release_in_abandoned",
     .victim = victim_sends_small,
     .partner = partner_passes_it_on,
     .prepare = take_second,
     .act = drop_first},
    {.name = "retain", .prepare = two_small, .act = retain_first},
    {.name = "grow_in_place", .prepare = one_big, .act = grow_in_place},
    {.name = "grow_moving", .prepare = blocked_big, .act = grow_in_place},
    {.name = "grow_small", .prepare = two_small, .act = grow_small},
    {.name = "shrink", .prepare = one_huge, .act = shrink},
    {.name = NULL},
};
