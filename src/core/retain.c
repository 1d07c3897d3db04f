/* The retained budget: free memory that stays warm, and giving it back.
 *
 * Memory that is free and committed is "retained": warm pages are what makes the next
 * allocation cheap.  One budget for the whole heap: whoever frees a run beyond it punches.  It
 * decays as anyone passes: what was not used in the last tenth of a second shrinks by a
 * sixteenth, 8 MiB at most, so that nobody who passes is held up for long.  Nothing here runs
 * inside a bracket or with a unit lock held.
 *
 * Punching works on a piece of at most 8 MiB, split off and held, so that the rest of a large
 * run stays free for others; the order of its stores is commit.c's.  A kill leaves a free run
 * with C = 0, D = 1.
 */
#include "internal.h"

#define STEP_UNITS (SHR_STEP >> SHR_UNIT_SHIFT)
#define DECAY_MS 100u

void shr__reuse(sharena_heap *h, uint64_t unit, uint64_t units)
{
    uint64_t n = shr__bits_in(h->commit, unit, unit + units), now, low;

    if (!n)
        return;
    shr__subtract(&h->control->retained_units, n);
    now = load64_relaxed(&h->control->retained_units);
    low = load64_relaxed(&h->control->retained_low);
    if (now < low)
        store64_relaxed(&h->control->retained_low, now);
}

void shr__retain_check(sharena_heap *h, uint64_t unit)
{
    /* the empty slabs that this process's lanes keep are of the budget, too */
    uint64_t now = load64_relaxed(&h->control->retained_units), over;
    uint64_t empty = load64_relaxed(&h->empty_units);
    uint64_t budget = h->retain_units > empty ? h->retain_units - empty : 0;

    if (now <= budget)
        return;
    over = now - budget;
    (void)shr__punch_run(h, unit, over);
    if (load64_relaxed(&h->control->retained_units) > budget)
        (void)shr__punch_free(h, over);
}

void shr__run_undo(sharena_heap *h, uint64_t unit, uint64_t units)
{
    (void)shr__retained_add(h, unit, units);
    shr__give(h, unit);
    shr__run_freed(h, unit, units);
    shr__retain_check(h, unit);
}

/* Takes one piece of at most 8 MiB off the free run at `unit` and punches it. */
static int punch_piece(sharena_heap *h, uint64_t unit, uint64_t *end, uint64_t *freed)
{
    uint64_t step = (unit / STEP_UNITS + 1) * STEP_UNITS; /* no huge page lies across it */
    int code;

    if (!shr__take(h, unit))
        return 0;
    *end = shr__next_head(h, unit);
    if (*end > step) {
        *end = step;
        shr__run_split(h, step);
    }
    if (shr__bits_in(h->dirty, unit, *end)) {
        uint64_t n = shr__set_bits(h->commit, unit, *end, 0);
        shr_compiler_barrier();
        code = shr__punch(h, h->super.data + (unit << SHR_UNIT_SHIFT),
                          (*end - unit) << SHR_UNIT_SHIFT);
        shr_compiler_barrier();
        if (code) { /* C = 0, D = 1, as after a kill: the next commit mends it */
            shr__give(h, unit);
            return 0;
        }
        (void)shr__set_bits(h->dirty, unit, *end, 0);
        shr__subtract(&h->control->committed_units, n);
        shr__subtract(&h->control->retained_units, n);
        *freed += n;
    }
    shr__give(h, unit);
    return 1;
}

uint64_t shr__punch_run(sharena_heap *h, uint64_t unit, uint64_t want)
{
    uint64_t end = shr__next_head(h, unit), at = unit, freed = 0, next;

    while (at < end && freed < want && punch_piece(h, at, &next, &freed))
        at = next;
    return freed;
}

uint64_t shr__punch_free(sharena_heap *h, uint64_t want)
{
    uint64_t used = shr__used(h), freed = 0;
    uint64_t u = used < h->n_units ? used : h->n_units;

    while (u > 0 && freed < want) {
        u = shr__prev_head(h, u - 1);
        if (load64_relaxed(&h->units[u].mask) == 0 &&
            shr__bits_in(h->dirty, u, shr__next_head(h, u)))
            freed += shr__punch_run(h, u, want - freed);
    }
    return freed;
}

/* For callers that need a little metadata in a heap whose limit is full of retained memory. */
int shr__make_room(sharena_heap *h, int code)
{
    return (code == SHARENA_EFULL || code == SHARENA_ENOSPACE || code == SHARENA_EROOM) &&
           shr__punch_free(h, STEP_UNITS) > 0;
}

/* Called in passing, on slow paths only. */
void shr__decay(sharena_heap *h)
{
    uint64_t now = shr__sys_now_ms(), last = load64_relaxed(&h->control->decayed_ms), low;

    if (now - last < DECAY_MS || !cas64_relaxed(&h->control->decayed_ms, &last, now))
        return;
    low = load64_relaxed(&h->control->retained_low);
    store64_relaxed(&h->control->retained_low, load64_relaxed(&h->control->retained_units));
    if (low >> 4)
        (void)shr__punch_free(h, low >> 4 < STEP_UNITS ? low >> 4 : STEP_UNITS);
}

/* What was counted replaces the hint, unless somebody changed it meanwhile. */
static void correct(shr_a64 *counter, uint64_t before, uint64_t counted)
{
    (void)cas64_relaxed(counter, &before, counted);
}

static uint64_t metadata_bytes(const sharena_heap *h, uint64_t used)
{
    const struct super_shm *s = &h->super;
    uint64_t bytes = SHR_AT_NAMES + shr__chunks_ready(h) * SHR_CHUNK;

    bytes += 3 * ((used / 8 + SHR_PAGE - 1) / SHR_PAGE * SHR_PAGE);
    bytes += (used / s->extent_units * sizeof(struct extent_shm) + SHR_PAGE - 1) / SHR_PAGE *
             SHR_PAGE;
    bytes += (used * sizeof(struct unit_shm) + SHR_PAGE - 1) / SHR_PAGE * SHR_PAGE;
    for (uint64_t u = 0; u < used; u++)
        bytes += (uint64_t)load32_relaxed(&h->units[u].pages) * SHR_PAGE;
    return bytes;
}

/* The counters from the bits: before anyone is refused, and in a trim. */
void shr__recount(sharena_heap *h)
{
    uint64_t used = shr__used(h), retained = 0, before;

    before = load64_relaxed(&h->control->retained_units);
    for (uint64_t u = 0, end; u < used; u = end) {
        end = shr__next_head(h, u);
        if (load64_relaxed(&h->units[u].mask) == 0)
            retained += shr__bits_in(h->commit, u, end);
    }
    correct(&h->control->retained_units, before, retained);
    before = load64_relaxed(&h->control->committed_units);
    correct(&h->control->committed_units, before, shr__bits_in(h->commit, 0, used));
    before = load64_relaxed(&h->control->committed_meta);
    correct(&h->control->committed_meta, before, metadata_bytes(h, used));
}
