/* Scenarios for killstep: locks.  The partner holds the block that the lock lies in, and whoever
 * examines a state is one who wants the lock. */
#include "internal.h"
#include "scenarios.h"

#include <sharena/lock.h>

enum { HANDLE, LOCK_SIZE = 64 };

static sharena_lock *lock_of(struct role *role)
{
    return role->blocks[0];
}

static void partner_makes_lock(struct role *role)
{
    CHECK_OK(sharena_allocate(role->heap, LOCK_SIZE, 0, SHARENA_ZERO, &role->blocks[0]));
    CHECK_OK(sharena_export(role->heap, role->blocks[0], 65535, &role->stage->handles[HANDLE]));
}

static void partner_makes_and_holds(struct role *role)
{
    partner_makes_lock(role);
    CHECK_OK(sharena_lock_acquire(role->heap, lock_of(role), 0));
}

static void find_lock(struct role *role)
{
    sharena_block block;
    CHECK_OK(sharena_acquire(role->heap, &role->stage->handles[HANDLE], &block));
    role->blocks[0] = block.start;
}

static void find_and_hold(struct role *role)
{
    find_lock(role);
    CHECK_OK(sharena_lock_acquire(role->heap, lock_of(role), 0));
}

static void find_and_hold_twice(struct role *role)
{
    find_and_hold(role);
    CHECK_OK(sharena_lock_acquire(role->heap, lock_of(role), 0));
}

/* As a waiter leaves it that died: whoever lets go wakes somebody. */
static void find_and_hold_with_waiters(struct role *role)
{
    find_and_hold(role);
    (void)or64_relaxed(&((struct lock_shm *)role->blocks[0])->owner, 1);
}

static void acquire(struct role *role)
{
    CHECK_OK(sharena_lock_acquire(role->heap, lock_of(role), -1));
}

static void release(struct role *role)
{
    CHECK_OK(sharena_lock_release(role->heap, lock_of(role)));
}

static int second_time(void *times)
{
    return ++*(int *)times == 2;
}

/* After one sleep: no clock says when, for steps take long. */
static void give_up(struct role *role)
{
    int times = 0;
    sharena_set_interrupt(second_time, &times);
    CHECK_EQ(sharena_lock_acquire(role->heap, lock_of(role), -1), SHARENA_EINTERRUPTED);
    sharena_set_interrupt(NULL, NULL);
}

static void ask(struct role *role)
{
    CHECK_EQ(sharena_lock_abandoned(role->heap, lock_of(role)), 1);
}

/* Somebody died with the lock, as often as he had taken it. */
static void hold_for_the_dead(struct role *role)
{
    find_lock(role);
    struct lock_shm *l = role->blocks[0];
    /* a life of the actor's own slot that is over */
    store64_relaxed(&l->owner, ((role->heap->k - 1) & UINT32_MAX) << 32 | UINT64_C(4711) << 10 |
                                   (role->heap->slot + 1) << 2);
    store64_relaxed(&l->count, 7);
}

static void find_and_inherit(struct role *role)
{
    hold_for_the_dead(role);
    acquire(role);
}

/* In every state: who wants the lock gets it at once, once, and it works. */
static void anybody_gets_it(struct role *role)
{
    find_lock(role);
    CHECK_OK(sharena_lock_acquire(role->heap, lock_of(role), 0));
    CHECK_EQ(sharena_lock_count(role->heap, lock_of(role)), 1);
    role->result = sharena_lock_abandoned(role->heap, lock_of(role));
    CHECK_EQ(sharena_lock_abandoned(role->heap, lock_of(role)), 0);
    CHECK_OK(sharena_lock_release(role->heap, lock_of(role)));
    CHECK_EQ(sharena_lock_held(role->heap, lock_of(role)), 0);
    CHECK_OK(sharena_lock_acquire(role->heap, lock_of(role), 0));
    CHECK_EQ(sharena_lock_abandoned(role->heap, lock_of(role)), 0);
    CHECK_OK(sharena_lock_release(role->heap, lock_of(role)));
    CHECK_OK(sharena_release(role->heap, role->blocks[0]));
}

static int was_held(struct role *role)
{
    find_lock(role);
    uint64_t owner = load64_relaxed(&((struct lock_shm *)role->blocks[0])->owner);
    CHECK_OK(sharena_release(role->heap, role->blocks[0]));
    return (owner & ~UINT64_C(3)) != 0;
}

/* A death is told if and only if somebody died with the lock. */
static void told_if_held(struct role *role)
{
    int held = was_held(role);
    anybody_gets_it(role);
    CHECK_EQ(role->result, held);
}

static void told_in_any_case(struct role *role)
{
    anybody_gets_it(role);
    CHECK_EQ(role->result, 1);
}

/* The partner, who lives, holds it in every state. */
static void partner_keeps_it(struct role *role)
{
    find_lock(role);
    CHECK_EQ(sharena_lock_acquire(role->heap, lock_of(role), 0), SHARENA_EBUSY);
    CHECK_EQ(sharena_lock_held(role->heap, lock_of(role)), 1);
    CHECK_OK(sharena_release(role->heap, role->blocks[0]));
}

const struct scenario lock_scenarios[] = {
    {.name = "lock",
     .partner = partner_makes_lock,
     .prepare = find_lock,
     .act = acquire,
     .verify = told_if_held,
     .flags = STEP_DATA},
    {.name = "lock_again",
     .partner = partner_makes_lock,
     .prepare = find_and_hold,
     .act = acquire,
     .verify = told_in_any_case,
     .flags = STEP_DATA},
    {.name = "lock_of_the_dead",
     .partner = partner_makes_lock,
     .prepare = hold_for_the_dead,
     .act = acquire,
     .verify = told_in_any_case,
     .flags = STEP_DATA},
    {.name = "lock_in_vain",
     .partner = partner_makes_and_holds,
     .prepare = find_lock,
     .act = give_up,
     .verify = partner_keeps_it,
     .flags = STEP_DATA},
    {.name = "unlock",
     .partner = partner_makes_lock,
     .prepare = find_and_hold,
     .act = release,
     .verify = told_if_held,
     .flags = STEP_DATA},
    {.name = "unlock_once",
     .partner = partner_makes_lock,
     .prepare = find_and_hold_twice,
     .act = release,
     .verify = told_in_any_case,
     .flags = STEP_DATA},
    {.name = "unlock_with_waiters",
     .partner = partner_makes_lock,
     .prepare = find_and_hold_with_waiters,
     .act = release,
     .verify = told_if_held,
     .flags = STEP_DATA},
    {.name = "lock_ask",
     .partner = partner_makes_lock,
     .prepare = find_and_inherit,
     .act = ask,
     .verify = told_in_any_case,
     .flags = STEP_DATA},
    {.name = NULL},
};
