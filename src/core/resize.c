/* Reallocation: in place where nobody else can know the block, else by copying.
 *
 * A run that was never exported, and is held once, shrinks by splitting its tail off and grows
 * by the free units behind it: they are taken and committed first, outside of any lock, and
 * joined under the unit lock, where it is looked at once more whether the run is still this
 * caller's alone.  A fork takes the unit locks, so it stamps the run before or after.
 *
 * A kill before the join leaves a free neighbour; after it, a run of the new size.
 */
#include "hand.h"

static int shrink_run(sharena_heap *h, struct block *b, uint64_t units)
{
    struct shard *d = shr__lock(h, b->head);
    struct holding *e = shr__exclusive(h, d, b);
    uint64_t tail = 0;

    if (e && e->units > units) {
        tail = e->units - units;
        (void)shr__retained_add(h, b->head + units, tail);
        e->units = (uint32_t)units;
        shr__leave(h, b);
        shr__run_split(h, b->head + units);
    }
    shr__unlock(d);
    if (tail) {
        shr__run_freed(h, b->head + units, tail);
        shr__retain_check(h, b->head + units);
    }
    return e != NULL;
}

/* Takes the `more` units behind the run, outside of any lock: 1 when they are held and
 * committed, 0 when they can't be had, or an error. */
static int take_neighbour(sharena_heap *h, uint64_t next, uint64_t more)
{
    uint64_t end, used = shr__used(h);
    uint32_t forks = h->forks;
    int code;

    if (next >= used || load64_relaxed(&h->units[next].mask) || !shr__take(h, next))
        return 0;
    while ((end = shr__next_head(h, next)) < next + more)
        if (end >= used || !shr__run_absorb(h, end)) {
            shr__give(h, next);
            return 0;
        }
    if (end > next + more)
        shr__run_split(h, next + more);
    shr__reuse(h, next, more);
    code = shr__commit(h, next, more, 0);
    if (h->forks != forks)
        return code;
    if (code == 0)
        return 1;
    shr__run_undo(h, next, more);
    return shr__is_shortage(code) ? 0 : code;
}

static int grow_run(sharena_heap *h, struct block *b, uint64_t have, uint64_t units)
{
    uint64_t next = b->head + have;
    struct holding *e;
    struct shard *d;
    int code = units > h->n_units - b->head ? 0 : take_neighbour(h, next, units - have);

    if (code <= 0)
        return code;
    d = shr__lock(h, b->head);
    e = shr__exclusive(h, d, b);
    if (e && e->units == have) {
        shr__run_join(h, next);
        e->units = (uint32_t)units;
        shr__leave(h, b);
    } else {
        e = NULL;
    }
    shr__unlock(d);
    if (!e)
        shr__run_undo(h, next, units - have);
    return e != NULL;
}

/* 1: the block has the new size where it is; 0: it must move; or an error. */
static int resize_in_place(sharena_heap *h, struct block *b, uint64_t old_bytes, size_t size)
{
    uint64_t units = ((uint64_t)size + SHR_UNIT - 1) >> SHR_UNIT_SHIFT;
    uint64_t have = old_bytes >> SHR_UNIT_SHIFT;

    if (shr__marks(b) || load64_relaxed(b->mask) != h->mine)
        return 0; /* others may be looking at it */
    if (b->class)
        return size <= old_bytes && size * 2 > old_bytes;
    if (size <= SHR_SMALL_MAX || units == have)
        return size > SHR_SMALL_MAX;
    return units < have ? shrink_run(h, b, units) : grow_run(h, b, have, units);
}

int sharena_reallocate(sharena_heap *h, void *block, size_t size, void **out)
{
    uint64_t offset = (uint64_t)((uint8_t *)block - h->data);
    sharena_block old;
    struct block b;
    void *fresh;
    int code = sharena_find(h, block, &old);

    if (code || old.start != block || shr__decode(h, offset, &b) != 0)
        return code ? code : shr__not_held(h, block);
    size += size == 0;
    if (size > h->data_bytes)
        return shr__no_stretch(h, size);
    code = resize_in_place(h, &b, old.size_bytes, size);
    if (code > 0)
        *out = block;
    if (code)
        return code > 0 ? 0 : code;
    code = sharena_allocate(h, size, 0, old.flags, &fresh);
    if (code)
        return code;
    memcpy(fresh, block, size < old.size_bytes ? size : old.size_bytes);
    (void)sharena_release(h, block);
    *out = fresh;
    return 0;
}
