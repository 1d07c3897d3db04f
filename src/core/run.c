/* Runs: stretches of units that tile the data area.
 *
 * One bitmap, `heads`, is the whole truth about the tiling: a run goes from its head bit to
 * the next one.  A free run belongs to nobody; whoever wants it takes it by the closing
 * protocol: own bit into the empty mask, look whether it is still a head, gen to closing, look
 * at the mask again, gen to the next life.  A holder splits by setting a head bit, and merges
 * by taking the neighbour in full first and clearing its head bit then: each is one store that
 * decides.  After a kill at any step the run is free as soon as the dead bit is cleared.
 *
 * Finding is guesswork that a take then proves: this process's own recent releases first, then
 * a first fit by address, skipping extents that have not changed since nothing was found in
 * them.  So a search may miss a run that is held for a moment; before failing, the callers
 * look again with RUN_ANYWHERE.  Neighbouring free runs are merged when a request needs it.
 *
 * Never waits.  Never called inside a lane's bracket or with a unit lock held.
 */
#include "internal.h"

static void set_head(sharena_heap *h, uint64_t unit, int on)
{
    uint64_t bit = (uint64_t)1 << (unit & 63);

    if (on == (unit % h->extent_units != 0))
        (void)or64_release(&h->heads[unit >> 6], bit);
    else
        (void)and64_release(&h->heads[unit >> 6], ~bit);
}

/* ---- take, split, merge ------------------------------------------------------------------ */

int shr__take(sharena_heap *h, uint64_t unit)
{
    struct unit_shm *p = &h->units[unit];
    uint64_t m = 0, gen, closing;

    if (load64_relaxed(&p->mask))
        return 0;
    shr__touch(h, p, h->mine);
    if (!cas64_seq(&p->mask, &m, h->mine))
        return 0;
    if (shr__head(h, unit) && load32_relaxed(&p->class) == 0) {
        gen = load64_relaxed(&p->gen);
        while (!cas64_seq(&p->gen, &gen, gen | 1)) /* also when it is closing already */
            ;
        closing = gen | 1;
        if (gen >> 1 < SHR_NUMBER_MAX && load64_seq(&p->mask) == h->mine &&
            cas64_seq(&p->gen, &closing, closing + 1)) {
            store32_relaxed(&p->mark, 0);
            store32_relaxed(&p->site, 0);
            return 1;
        }
    }
    shr__give(h, unit);
    return 0;
}

void shr__give(sharena_heap *h, uint64_t unit)
{
    (void)and64_release(&h->units[unit].mask, ~h->mine);
    (void)add32_release(&h->extents[unit / h->extent_units].changes, 1);
}

/* Holding the run before it, merges the free run at `next`. */
int shr__run_absorb(sharena_heap *h, uint64_t next)
{
    if (!shr__take(h, next))
        return 0;
    shr__run_join(h, next);
    return 1;
}

/* Holding both: clearing the head bit decides, then the bit on what was absorbed goes. */
void shr__run_join(sharena_heap *h, uint64_t next)
{
    set_head(h, next, 0);
    (void)and64_release(&h->units[next].mask, ~h->mine);
}

/* Holding a run that `at` lies inside: the part from `at` on is a free run at once. */
void shr__run_split(sharena_heap *h, uint64_t at)
{
    set_head(h, at, 1);
}

/* ---- hints of this process ------------------------------------------------------------------ */

static unsigned hint_bin(uint64_t units)
{
    unsigned log;

    SHR_ASSERT(units > 0);
    if (units <= 8)
        return (unsigned)units - 1;
    log = 63u - (unsigned)__builtin_clzll(units);
    log = 8 + (log - 3) * 4 + (unsigned)(units >> (log - 2) & 3);
    return log < SHR_HINT_BINS ? log : SHR_HINT_BINS - 1;
}

/* The newest are kept: they are the warmest. */
static void hint_push(sharena_heap *h, uint64_t unit, uint64_t units)
{
    struct run_bin *bin = &h->hints[hint_bin(units)];

    pthread_mutex_lock(&h->leaf);
    bin->hints[bin->next++ % SHR_HINT_DEPTH] = (struct run_hint){(uint32_t)unit, (uint32_t)units};
    bin->count += bin->count < SHR_HINT_DEPTH;
    for (unsigned i = 0; i < SHR_HINT_BINS; i++)
        if (h->hints[i].from > unit)
            h->hints[i].from = (uint32_t)unit;
    pthread_mutex_unlock(&h->leaf);
}

static int hint_pop(sharena_heap *h, uint64_t units, struct run_hint *hint)
{
    struct run_bin *bin = &h->hints[hint_bin(units)];
    int found = 0;

    pthread_mutex_lock(&h->leaf);
    while (!found && bin->count) {
        *hint = bin->hints[--bin->next % SHR_HINT_DEPTH];
        bin->count--;
        found = hint->units >= units;
    }
    pthread_mutex_unlock(&h->leaf);
    return found;
}

/* Where the first fit for this size starts: below, nothing was found since this process
 * last freed something there. */
static uint64_t search_from(sharena_heap *h, uint64_t units)
{
    uint64_t from;

    pthread_mutex_lock(&h->leaf);
    from = h->hints[hint_bin(units)].from;
    pthread_mutex_unlock(&h->leaf);
    return from;
}

static void search_found(sharena_heap *h, uint64_t units, uint64_t at)
{
    pthread_mutex_lock(&h->leaf);
    h->hints[hint_bin(units)].from = (uint32_t)at;
    pthread_mutex_unlock(&h->leaf);
}

/* ---- finding ---------------------------------------------------------------------------------- */

struct wish {
    uint64_t units, align; /* in units */
};

/* Takes the free run at `first` and as many free ones behind it as the wish needs, and cuts
 * it to size.  1: held, *unit is its head. */
static int take_stretch(sharena_heap *h, uint64_t first, const struct wish *w, uint64_t *unit)
{
    uint64_t at = shr__round_up(first, w->align), need = at - first + w->units, end;

    if (!shr__take(h, first))
        return 0;
    while ((end = shr__next_head(h, first)) < first + need) {
        if (end >= shr__used(h) || !shr__run_absorb(h, end)) {
            shr__give(h, first);
            return 0;
        }
    }
    if (w->align == 1 && w->units >= SHR_LARGE_UNITS) { /* at a huge page, if there is room */
        uint64_t huge = shr__round_up(first, SHR_HUGE_UNITS);
        if (huge + w->units <= end) {
            at = huge;
            need = at - first + w->units;
        }
    }
    if (at > first) {
        shr__run_split(h, at);
        if (!shr__take(h, at)) {
            shr__give(h, first);
            return 0;
        }
        shr__give(h, first);
    }
    if (end > first + need)
        shr__run_split(h, at + w->units);
    *unit = at;
    return 1;
}

static int is_free(const sharena_heap *h, uint64_t unit)
{
    return load64_acquire(&h->units[unit].mask) == 0;
}

/* Looks through the runs that start in the extent of *at, leaving *at at the first head
 * behind it. */
static int search_extent(sharena_heap *h, uint64_t *at, uint64_t used, const struct wish *w,
                         uint64_t *unit)
{
    uint64_t u = *at, extent = u / h->extent_units, largest = 0;
    uint64_t want = w->units + (w->align - 1);
    uint32_t changes = load32_acquire(&h->extents[extent].changes);
    int runs_on = 0;

    while (u < used && u / h->extent_units == extent) {
        uint64_t end = shr__next_head(h, u);
        if (!is_free(h, u)) {
            u = end;
            continue;
        }
        while (end - u < want && end < used && is_free(h, end))
            end = shr__next_head(h, end);
        if (end - u >= w->units && take_stretch(h, u, w, unit))
            return 1;
        largest = end - u > largest ? end - u : largest;
        runs_on = end / h->extent_units != extent;
        u = end;
    }
    /* a stretch that runs on into the next extent may grow there without a change here */
    if (*at == extent * h->extent_units && !runs_on)
        store64_relaxed(&h->memo[extent], (uint64_t)changes << 32 | (largest & UINT32_MAX));
    *at = u;
    return 0;
}

/* From `from`, which may lie inside a run, up to `to`. */
static int search(sharena_heap *h, const struct wish *w, unsigned flags, uint64_t from,
                  uint64_t to, uint64_t *unit)
{
    uint64_t used = shr__used(h), u = from;

    to = to < used ? to : used;
    if (u && u < to)
        u = shr__next_head(h, u - 1);
    while (u < to) {
        uint64_t extent = u / h->extent_units, memo = load64_relaxed(&h->memo[extent]);
        if (!(flags & RUN_ANYWHERE) && (memo & UINT32_MAX) < w->units && memo &&
            memo >> 32 == load32_acquire(&h->extents[extent].changes))
            u = shr__next_head(h, (extent + 1) * h->extent_units - 1);
        else if (search_extent(h, &u, used, w, unit))
            return 1;
    }
    return 0;
}

static int search_all(sharena_heap *h, const struct wish *w, unsigned flags, uint64_t *unit)
{
    uint64_t from = flags & RUN_ANYWHERE ? 0 : search_from(h, w->units);

    if (search(h, w, flags, from, UINT64_MAX, unit) ||
        (from && search(h, w, flags, 0, from, unit))) {
        search_found(h, w->units, *unit);
        return 1;
    }
    return 0;
}

int shr__run_find(sharena_heap *h, uint64_t units, uint64_t align_units, unsigned flags,
                  uint64_t *unit)
{
    struct wish w = {units, align_units ? align_units : 1};
    struct run_hint hint;
    int code;

    while (w.align == 1 && hint_pop(h, units, &hint))
        if (is_free(h, hint.unit) && shr__head(h, hint.unit) &&
            take_stretch(h, hint.unit, &w, unit))
            return 0;
    for (unsigned tries = 0; tries < 8; tries++) {
        if (search_all(h, &w, flags, unit))
            return 0;
        if (!(flags & RUN_GROW))
            break;
        code = shr__grow(h, units + (w.align - 1));
        if (code)
            return code;
        flags |= RUN_ANYWHERE; /* the free tail and the new extents may have to be merged */
    }
    return SHARENA_ERESERVE;
}

void shr__run_freed(sharena_heap *h, uint64_t unit, uint64_t units)
{
    (void)add32_release(&h->extents[unit / h->extent_units].changes, 1);
    hint_push(h, unit, units);
}

/* A table that begins at `base` grows from `from` to `to` bytes; its last page is committed. */
static int grow_part(sharena_heap *h, uint64_t base, uint64_t from, uint64_t to, uint64_t *bytes)
{
    uint64_t first = (base + from + SHR_PAGE - 1) / SHR_PAGE * SHR_PAGE;
    uint64_t end = (base + to + SHR_PAGE - 1) / SHR_PAGE * SHR_PAGE;
    int code = first < end ? shr__commit_meta(h, first, end - first) : 0;

    if (code == 0)
        *bytes += end - first;
    return code;
}

/* Opens more of the reserve: commits the metadata of new extents, then raises used_units, the
 * one store that decides.  Another process may do so at once; then theirs counts. */
int shr__grow(sharena_heap *h, uint64_t units)
{
    uint64_t used = shr__used(h), more, to, bytes = 0;
    const struct super_shm *s = &h->super;
    int code;

    more = (units + h->extent_units - 1) / h->extent_units * h->extent_units;
    if (used > h->n_units || more > h->n_units - used) {
        /* the tail may be free: whoever asks for most of the heap needs less than that */
        more = h->n_units - (used < h->n_units ? used : h->n_units);
        if (more == 0)
            return SHARENA_ERESERVE;
    }
    to = used + more;
    code = grow_part(h, s->units_at, used * sizeof(struct unit_shm), to * sizeof(struct unit_shm),
                     &bytes);
    if (code == 0)
        code = grow_part(h, s->heads, used / 8, to / 8, &bytes);
    if (code == 0)
        code = grow_part(h, s->commit, used / 8, to / 8, &bytes);
    if (code == 0)
        code = grow_part(h, s->dirty, used / 8, to / 8, &bytes);
    if (code == 0)
        code = grow_part(h, s->extents, used / h->extent_units * sizeof(struct extent_shm),
                         to / h->extent_units * sizeof(struct extent_shm), &bytes);
    if (code == 0 && cas64_acq_rel(&h->control->used_units, &used, to))
        (void)add64_relaxed(&h->control->committed_meta, bytes);
    return code;
}
