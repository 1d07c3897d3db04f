/* Guests: forked children for whom there is no slot share their parent's.
 *
 * A guest holds what its parent held at the fork, by its parent's bit: so the parent pins that,
 * by one more reference, until the guest is gone.  Guests are told apart by generation, a number
 * for each fork.  Each has a lock like a slot's, on a byte inside the slot of its parent, which
 * only it and its own children keep: when the lock is free, they are gone, or the fork failed.
 * A block remembers the last generation that it was pinned for, and is let go when no living
 * guest is as old as that.
 *
 * Without a descriptor there is no lock: what is pinned then stays so for the parent's life.
 * Without private memory a pin can't be written down: of the small blocks of its shard that
 * others know of, none is let go any more.
 *
 * Private memory of the parent only.  A kill leaves its bit, as for anything that it holds.
 */
#include <errno.h>

#include "internal.h"

#define BATCH 256u

static uint64_t lock_at(const sharena_heap *h, unsigned i)
{
    return SHR_AT_SLOTS + (uint64_t)h->slot * sizeof(struct slot_shm) + 1 + i;
}

/* In the prepare handler, under reap_lock. */
void shr__guest_admit(sharena_heap *h)
{
    int fd = shr__fd(h);

    h->guest_page = NULL;
    h->guest_generation++;
    for (unsigned i = 0; fd >= 0 && i < SHR_GUEST_LOCKS && !h->guest_page; i++) {
        if (h->guest_of[i])
            continue;
        h->guest_page = shr__sys_lock_page(fd, lock_at(h, i));
        if (h->guest_page)
            h->guest_of[i] = h->guest_generation;
        else if (errno != EAGAIN)
            break;
    }
    h->guests_for_good += !h->guest_page;
}

/* Of a block that this process holds; all locks are held, all lanes stopped. */
void shr__guest_pin(sharena_heap *h, const struct block *b)
{
    struct shard *d = shr__shard(h, b->offset >> SHR_UNIT_SHIFT);
    struct holding *e = shr__holding(d, b->offset);

    shr__export_mark(h, b, SHR_MARK_SHARED);
    if (!e && shr__holding_reserve(d) == 0)
        e = shr__holding_add(d, b->offset, shr__number(b), 1, 0);
    if (!e) /* no private memory: the guest must not see it re-used */
        d->pins_missed = 1;
    if (!e || (e->pinned && e->count == 1)) /* only an earlier guest's */
        return;
    if (!e->pinned && e->count < UINT32_MAX)
        e->count++;
    e->pinned = h->guest_generation;
    e->for_good |= !h->guest_page;
}

static int may_unpin(const struct holding *e, uint32_t below)
{
    return e->pinned && !e->for_good && e->pinned < below;
}

/* 1: let go of. */
static unsigned unpin(sharena_heap *h, uint64_t offset, uint32_t below)
{
    struct shard *d = shr__lock(h, offset >> SHR_UNIT_SHIFT);
    struct holding *e = shr__holding(d, offset);
    struct block b = {.undone = 0};
    int how = SHARENA_ENOTHELD;

    if (e && may_unpin(e, below) && shr__decode(h, offset, &b) == 0) {
        e->pinned = 0;
        how = shr__drop(h, d, &b);
    }
    shr__unlock(d);
    if (how >= 0)
        shr__after_drop(h, &b, how);
    return how >= 0;
}

/* Some that may be unpinned, from table place *at on; letting go of them moves others up. */
static unsigned gather(struct shard *d, uint32_t below, uint32_t *at, uint64_t offsets[BATCH])
{
    unsigned n = 0;

    shr__shard_lock(d);
    for (; *at < d->room && n < BATCH; ++*at) {
        const struct holding *e = &d->table[*at];
        if (e->offset && may_unpin(e, below))
            offsets[n++] = e->offset - 1;
    }
    shr__unlock(d);
    return n;
}

/* What was pinned for generations below that. */
static void unpin_all(sharena_heap *h, uint32_t below)
{
    uint64_t offsets[BATCH];

    for (unsigned s = 0; s < SHR_SHARDS; s++) {
        uint32_t at = 0, done = 0;
        for (;;) {
            unsigned n = gather(&h->shards[s], below, &at, offsets);
            for (unsigned k = 0; k < n; k++)
                done += unpin(h, offsets[k], below);
            if (n == BATCH)
                continue;
            if (!done) /* there was none, or the heap is damaged */
                break;
            at = done = 0;
        }
    }
}

/* Under reap_lock: lets go of what only dead guests held. */
void shr__guests_look(sharena_heap *h)
{
    uint32_t oldest = UINT32_MAX;
    int fd = h->guest || !h->guests ? -1 : shr__fd(h), gone = 0, left = 0;

    for (unsigned i = 0; fd >= 0 && i < SHR_GUEST_LOCKS; i++) {
        if (!h->guest_of[i])
            continue;
        if (shr__sys_lock_test(fd, lock_at(h, i)) == 0) {
            h->guest_of[i] = 0;
            gone = 1;
            continue;
        }
        left = 1;
        oldest = h->guest_of[i] < oldest ? h->guest_of[i] : oldest;
    }
    if (!gone)
        return;
    unpin_all(h, oldest);
    if (!left) {
        h->guests = h->guests_for_good;
        store32_relaxed(&shr__slot(h, h->slot)->guests, h->guests_for_good);
    }
}

static void forget_for_good(sharena_heap *h)
{
    for (unsigned s = 0; s < SHR_SHARDS; s++) {
        struct shard *d = &h->shards[s];
        shr__shard_lock(d);
        d->pins_missed = 0;
        for (uint32_t k = 0; k < d->room; k++)
            d->table[k].for_good = 0;
        shr__unlock(d);
    }
}

/* In a child that has a slot of its own: its parent's guests are not its guests. */
void shr__guests_forget(sharena_heap *h)
{
    memset(h->guest_of, 0, sizeof h->guest_of);
    h->guests_for_good = 0;
    h->guests = 0;
    if (h->guest_generation) {
        forget_for_good(h);
        unpin_all(h, UINT32_MAX);
    }
    h->guest_generation = 0;
}
