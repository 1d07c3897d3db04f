/* Hands: large blocks at hand.
 *
 * A run that nobody but this process can know, held once, is released into the hand of the
 * releasing thread's lane, and goes out again to a request for as many units, without a look at
 * shared memory and without a lock.  As in the magazines its mask stays, and its number: no
 * handle was ever made of this life.  Its entry in the table of holdings stays as well, so
 * whoever looks there asks shr__out_of_hand() too.
 *
 * The struct of a run comes with its first release in this life; whoever lets others know of
 * the run, counts another reference or changes its size raises `left` in it, and then its next
 * release goes the longer way, under the unit lock.
 *
 * A hand is bounded: HAND_RUNS runs, 16 MiB and an eighth of what the heap retains; those of all
 * processes together to half of that, as a thread that sleeps keeps what it has.  Its room is taken
 * out of the retained budget.  It is emptied before a fork, a trim, a refusal, a count, and
 * when its thread ends; what lay in it for a tenth of a second is let go as the thread passes.
 *
 * A kill leaves runs of the dead.
 */
#include <stdlib.h>

#include "hand.h"

#define HAND_UNITS 256u
#define IDLE_MS 100u
#define SERVED_MAX 256u /* requests between two looks, however fast they come */

/* ---- structs ------------------------------------------------------------------------------ */

static struct slab *struct_new(sharena_heap *h)
{
    size_t bytes = (sizeof(struct slab) + 1 + 63) / 64 * 64;
    struct slab *s = aligned_alloc(64, bytes);

    if (!s)
        return NULL;
    memset(s, 0, bytes);
    s->capacity = 1;
    store32_relaxed(&s->list, LIST_CURRENT); /* nothing to keep in order when it is released */
    pthread_mutex_lock(&h->leaf);
    s->all = h->slab_all;
    h->slab_all = s;
    pthread_mutex_unlock(&h->leaf);
    return s;
}

/* The run's own, or a spare one that is not bound yet; NULL: no memory. */
static struct slab *struct_for(sharena_heap *h, uint64_t unit)
{
    struct slab *s = shr__slab_at(h, unit);

    if (s)
        return s;
    pthread_mutex_lock(&h->leaf);
    s = h->slab_pool[0];
    if (s)
        h->slab_pool[0] = s->next;
    pthread_mutex_unlock(&h->leaf);
    return s ? s : struct_new(h);
}

/* Under the unit lock. */
static void bind(sharena_heap *h, struct slab *s, uint64_t unit, uint32_t units)
{
    s->unit = (uint32_t)unit;
    s->start = h->data + (unit << SHR_UNIT_SHIFT);
    s->size = units << SHR_UNIT_SHIFT;
    store32_relaxed(&s->left, 0);
    store8_relaxed(&s->out[0], OUT_SHARED); /* from now on this is the note, not the entry's */
    atomic_store_explicit(&h->slab_of[unit], s, memory_order_release);
}

/* ---- in the bracket --------------------------------------------------------------------------- */

static struct slab *remove_at(struct hand *hand, uint32_t i)
{
    struct slab *s = hand->runs[i];

    hand->n--;
    hand->units -= s->size >> SHR_UNIT_SHIFT;
    for (; i < hand->n; i++)
        hand->runs[i] = hand->runs[i + 1];
    return s;
}

/* Another look at what was not wanted is due: until then nothing goes out. */
static int look_is_due(const struct hand *hand)
{
    return hand->served >= SERVED_MAX;
}

static void *pop(struct hand *hand, uint32_t bytes)
{
    for (uint32_t i = hand->n; i-- > 0;) {
        struct slab *s = hand->runs[i];
        if (s->size != bytes)
            continue;
        (void)remove_at(hand, i);
        hand->idle = hand->idle < i ? hand->idle : i;
        hand->served++;
        store8_relaxed(&s->out[0], OUT_SHARED);
        return s->start;
    }
    return NULL;
}

void *shr__hand_take(struct lane *l, uint64_t size)
{
    void *p;

    if (size > HAND_RUN_UNITS << SHR_UNIT_SHIFT || look_is_due(&l->hand) || !shr__enter(l))
        return NULL;
    p = pop(&l->hand, (uint32_t)shr__round_up(size, SHR_UNIT));
    shr__exit(l);
    return p;
}

int shr__hand_push(struct hand *hand, struct slab *s, const void *block)
{
    uint32_t units = s->size >> SHR_UNIT_SHIFT;

    if (block != s->start || !load8_relaxed(&s->out[0]))
        return SHARENA_ENOTHELD;
    if (load32_relaxed(&s->left) || hand->n == HAND_RUNS || hand->units + units > hand->room)
        return SHARENA_EBUSY;
    store8_relaxed(&s->out[0], 0);
    hand->runs[hand->n++] = s;
    hand->units += units;
    return 0;
}

/* Of the lanes of all processes; of the dead until they are reaped. */
static uint64_t at_hand(const sharena_heap *h)
{
    uint64_t sum = 0;

    for (unsigned s = 0; s < SHR_SLOTS; s++)
        sum += load64_relaxed(&shr__slot(h, s)->at_hand);
    return sum;
}

static int budget_has(const sharena_heap *h, uint64_t more)
{
    uint64_t all = at_hand(h), own = load64_relaxed(&shr__slot(h, h->slot)->at_hand);

    return all + more <= h->retain_units / 2 && load64_relaxed(&h->control->retained_units) +
                                                        load64_relaxed(&h->empty_units) + all -
                                                        own + more <=
                                                    h->retain_units;
}

/* How much more room the hand needs for so many units; UINT32_MAX: it can't have that. */
static uint32_t room_wanted(const sharena_heap *h, const struct hand *hand, uint32_t units)
{
    uint64_t most = h->retain_units / 8 < HAND_UNITS ? h->retain_units / 8 : HAND_UNITS;
    uint32_t want = hand->units + units, more = want > hand->room ? want - hand->room : 0;

    if (hand->n == HAND_RUNS || want > most || (more && !budget_has(h, more)))
        return UINT32_MAX;
    return more;
}

static void room_is(sharena_heap *h, struct hand *hand, uint32_t room)
{
    shr_a64 *shared = &shr__slot(h, h->slot)->at_hand;

    if (room > hand->room) {
        (void)add64_relaxed(&h->empty_units, room - hand->room);
        (void)add64_relaxed(shared, room - hand->room);
    } else if (room < hand->room) {
        (void)sub64_relaxed(&h->empty_units, hand->room - room);
        shr__subtract(shared, hand->room - room);
    }
    hand->room = room;
}

/* ---- letting go ------------------------------------------------------------------------------- */

/* Under the unit lock, of a run that is in no hand any more: as if the program had just
 * released it.  1: it is free, and the caller owes shr__retain_check() after the unlock. */
static int let_go(sharena_heap *h, struct shard *d, struct slab *s)
{
    struct block b;

    store8_relaxed(&s->out[0], OUT_SHARED);
    if (shr__decode(h, (uint64_t)s->unit << SHR_UNIT_SHIFT, &b) != 0 || b.class ||
        shr__drop(h, d, &b) != DROP_LAST)
        return 0;
    shr__run_freed(h, b.head, b.size >> SHR_UNIT_SHIFT);
    return 1;
}

/* Which unit's lock the oldest wants; UINT64_MAX: the hand is empty. */
static uint64_t oldest(struct lane *l)
{
    uint64_t unit;

    while (!shr__enter(l))
        shr__lane_wait(l);
    unit = l->hand.n ? l->hand.runs[0]->unit : UINT64_MAX;
    shr__exit(l);
    return unit;
}

/* Lets go of the calling thread's oldest.  0: there is none. */
static int let_go_oldest(sharena_heap *h, struct lane *l)
{
    uint64_t unit = oldest(l);
    struct slab *s = NULL;
    struct shard *d;
    int freed = 0;

    if (unit == UINT64_MAX)
        return 0;
    d = shr__lock(h, unit);
    if (shr__enter(l)) { /* else it is being emptied, or looked at: once more */
        if (l->hand.n && l->hand.runs[0]->unit == unit)
            s = remove_at(&l->hand, 0);
        shr__exit(l);
    }
    if (s)
        freed = let_go(h, d, s);
    shr__unlock(d);
    if (freed)
        shr__retain_check(h, unit);
    return 1;
}

void shr__hand_look(sharena_heap *h)
{
    struct lane *l = shr__lane_current(h);
    uint32_t idle, used;
    uint64_t now;

    if (!l || !shr__enter(l))
        return;
    l->hand.served = 0;
    used = l->hand.room;
    idle = l->hand.idle;
    shr__exit(l);
    now = used ? shr__sys_now_ms() : 0;
    if (!used || now - l->hand.looked_ms < IDLE_MS)
        return;
    l->hand.looked_ms = now;
    while (idle-- > 0 && let_go_oldest(h, l))
        ;
    if (shr__enter(l)) {
        room_is(h, &l->hand, l->hand.units);
        l->hand.idle = l->hand.n;
        shr__exit(l);
    }
}

void *shr__hand_get(sharena_heap *h, uint64_t size)
{
    struct lane *l = shr__lane_current(h);

    if (l && look_is_due(&l->hand)) {
        shr__hand_look(h);
        shr__decay(h);
    }
    return l ? shr__hand_take(l, size) : NULL;
}

/* ---- keeping --------------------------------------------------------------------------------- */

static int has_room(const sharena_heap *h, struct lane *l, uint32_t units)
{
    int has;

    if (!shr__enter(l))
        return 0; /* whoever stopped it wants hands to be empty */
    has = room_wanted(h, &l->hand, units) != UINT32_MAX;
    shr__exit(l);
    return has;
}

/* Under the unit lock.  A stale acquirer's bit may be in the mask: it goes by itself. */
static int keep(sharena_heap *h, struct lane *l, const struct block *b, uint32_t units)
{
    struct slab *s = struct_for(h, b->head);
    int kept = 0;

    if (!s)
        return 0;
    bind(h, s, b->head, units);
    if (shr__enter(l)) {
        uint32_t more = room_wanted(h, &l->hand, units);
        if (more != UINT32_MAX) {
            room_is(h, &l->hand, l->hand.room + more);
            kept = shr__hand_push(&l->hand, s, s->start) == 0;
        }
        shr__exit(l);
    }
    if (kept)
        store32_relaxed(&b->unit->site, 0); /* of the life that the program sees end */
    return kept;
}

static int looks_like_run(const sharena_heap *h, uint64_t offset)
{
    return offset % SHR_UNIT == 0 && offset >> SHR_UNIT_SHIFT < shr__used(h) &&
           load32_relaxed(&h->units[offset >> SHR_UNIT_SHIFT].class) == 0;
}

int shr__hand_keep(sharena_heap *h, uint64_t offset)
{
    struct lane *l = shr__lane_current(h);
    const struct holding *e;
    struct shard *d;
    struct block b;
    int kept = 0;

    if (!l || !looks_like_run(h, offset))
        return 0;
    d = shr__lock(h, offset >> SHR_UNIT_SHIFT);
    if (shr__decode(h, offset, &b) == 0 && !b.class) {
        e = shr__exclusive(h, d, &b);
        if (e && e->units && e->units <= HAND_RUN_UNITS && has_room(h, l, e->units))
            kept = keep(h, l, &b, e->units);
    }
    shr__unlock(d);
    if (!kept)
        shr__hand_look(h);
    return kept;
}

/* ---- emptying --------------------------------------------------------------------------------- */

void shr__hand_leave(sharena_heap *h, struct lane *l)
{
    while (let_go_oldest(h, l))
        ;
    while (!shr__enter(l))
        shr__lane_wait(l);
    room_is(h, &l->hand, 0);
    shr__exit(l);
}

void shr__hands_empty(sharena_heap *h, int locked)
{
    for (struct lane *l = h->lanes; l; l = l->next) {
        while (l->hand.n) {
            struct slab *s = remove_at(&l->hand, l->hand.n - 1);
            struct shard *d = shr__shard(h, s->unit);
            if (!locked)
                shr__shard_lock(d);
            (void)let_go(h, d, s); /* whoever frees a run next, or trims, looks at the budget */
            if (!locked)
                shr__unlock(d);
        }
        room_is(h, &l->hand, 0);
        l->hand.idle = 0;
    }
}
