/* The table of tickets: where a block's tickets lie.
 *
 * Open addressing, keyed by the block.  Whoever settles a block must find every live ticket of
 * it, whatever else is in the table, and beside processes that die while they change it.  So a
 * home has a bucket word {count, reach}: count is at least the number of live tickets whose home
 * is there, reach is how far from home they may lie.  Both are raised, by one CAS, before a
 * ticket is published; the count is lowered after one ended, and at 0 reach starts anew.  A kill
 * in between leaves a count too high: then looks are longer, and right.
 *
 * A block's entries are those of its groups, 64 neighbours each, one group after the other; the
 * first is the home.  A group that is full of strangers says that the segment is full, one full
 * of the block's own tickets (an array whose rows are sent one by one) does not.  When two are,
 * the next segment is tried, and opened if need be: four times as large, committed in chunks as
 * it fills.  Nothing is moved, so a look visits every segment.
 *
 * A kill after the claim leaves a claimed entry, which the reaper of the dead resets.
 */
#include "ticket.h"

#define FULL_OF_STRANGERS 2u /* groups, until the next segment is tried */

static uint64_t entry_at(uint64_t i)
{
    return SHR_AT_TICKETS + i * sizeof(struct ticket_shm);
}

static uint32_t segments(const sharena_heap *h)
{
    uint64_t more = load64_acquire(&h->control->ticket_segments);

    return more < h->super.ticket_segments ? (uint32_t)more + 1 : h->super.ticket_segments;
}

static uint32_t groups_of(uint32_t segment)
{
    return (SHR_TICKET_FIRST / SHR_TICKET_GROUP) << 2 * segment;
}

/* splitmix64's finalizer */
static uint64_t hash_of(uint64_t offset, uint32_t segment, uint32_t group)
{
    uint64_t x = (offset >> 4) + ((uint64_t)(segment * SHR_TICKET_GROUPS + group) << 40);

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* A block's group: where it starts, and with which of its entries a look begins. */
struct group {
    uint32_t base, first;
};

static struct group group_of(uint64_t offset, uint32_t segment, uint32_t group)
{
    uint64_t hash = hash_of(offset, segment, group);
    uint32_t which = (uint32_t)(hash & (groups_of(segment) - 1));

    return (struct group){(uint32_t)SHR_TICKET_START(segment) + which * SHR_TICKET_GROUP,
                          (uint32_t)(hash >> 58)};
}

static uint32_t in_group(const struct group *g, uint32_t i)
{
    return g->base + (g->first + i) % SHR_TICKET_GROUP;
}

static uint64_t bucket_at(uint64_t offset, uint32_t segment)
{
    struct group g = group_of(offset, segment, 0);

    return SHR_AT_BUCKETS + (uint64_t)(in_group(&g, 0) >> SHR_BUCKET_SHIFT) * sizeof(shr_bucket);
}

static shr_bucket *bucket(const sharena_heap *h, uint64_t at)
{
    return (shr_bucket *)(void *)(h->base + at);
}

static uint32_t segment_of(uint32_t at)
{
    uint32_t segment = 0;

    while (segment + 1 < SHR_TICKET_SEGMENTS && at >= SHR_TICKET_START(segment + 1))
        segment++;
    return segment;
}

/* ---- looking ------------------------------------------------------------------------------ */

static int live_in_group(const sharena_heap *h, uint32_t segment, uint32_t group, uint64_t reach,
                         uint64_t offset, uint64_t number)
{
    struct group g = group_of(offset, segment, group);
    uint64_t left = reach - group * SHR_TICKET_GROUP;

    if (!shr__chunk_ready(h, entry_at(g.base)))
        return 0;
    for (uint32_t i = 0; i < SHR_TICKET_GROUP && i < left; i++) {
        const struct ticket_shm *e = shr__entry(h, in_group(&g, i));
        if (ticket_live(load64_acquire(&e->word)) && load64_relaxed(&e->offset) == offset &&
            load64_relaxed(&e->number) == number)
            return 1;
    }
    return 0;
}

/* How many entries a look reads, in the order of the block. */
static uint64_t reach_of(uint32_t segment, uint64_t word)
{
    uint32_t most = groups_of(segment);
    uint64_t reach = word >> 32 ? word & UINT32_MAX : 0;

    most = (most < SHR_TICKET_GROUPS ? most : SHR_TICKET_GROUPS) * SHR_TICKET_GROUP;
    return reach < most ? reach : most;
}

static int live_in(const sharena_heap *h, uint32_t segment, uint64_t offset, uint64_t number)
{
    uint64_t at = bucket_at(offset, segment), reach;

    if (!shr__chunk_ready(h, at))
        return 0;
    reach = reach_of(segment, load64_acquire(bucket(h, at)));
    /* from both ends: the oldest or the newest of many is what is there longest */
    for (uint32_t low = 0, high = (uint32_t)((reach + SHR_TICKET_GROUP - 1) / SHR_TICKET_GROUP);
         low < high; low++) {
        if (live_in_group(h, segment, low, reach, offset, number) ||
            (--high > low && live_in_group(h, segment, high, reach, offset, number)))
            return 1;
    }
    return 0;
}

/* Is there a live use of the block's life?  Several loads, not one snapshot: enough, as whoever
 * makes a use looks after it set T. */
int shr__ticket_live(const sharena_heap *h, uint64_t offset, uint64_t number)
{
    uint32_t n = segments(h);

    for (uint32_t segment = 0; segment < n; segment++)
        if (live_in(h, segment, offset, number))
            return 1;
    return 0;
}

uint32_t shr__entries(const sharena_heap *h)
{
    return (uint32_t)SHR_TICKET_START(segments(h));
}

int shr__entry_ready(const sharena_heap *h, uint32_t at)
{
    return at < shr__entries(h) && shr__chunk_ready(h, entry_at(at));
}

uint32_t shr__entry_next(const sharena_heap *h, uint32_t at)
{
    uint32_t end = shr__entries(h), in_chunk = (uint32_t)(SHR_CHUNK / sizeof(struct ticket_shm));

    while (at < end) {
        if (!shr__chunk_ready(h, entry_at(at)))
            at = (at / in_chunk + 1) * in_chunk; /* SHR_AT_TICKETS starts a chunk */
        else if (ticket_state(load64_relaxed(&shr__entry(h, at)->word)) == TICKET_FREE)
            at++;
        else
            return at;
    }
    return end;
}

/* ---- counting ----------------------------------------------------------------------------- */

static int raise_bucket(sharena_heap *h, uint64_t at, uint32_t reach)
{
    shr_bucket *b = bucket(h, at);
    uint64_t seen = load64_relaxed(b), far;

    do {
        if (seen >> 32 == UINT32_MAX)
            return SHARENA_ETICKETS;
        far = seen >> 32 ? seen & UINT32_MAX : 0;
        far = far > reach ? far : reach;
    } while (!cas64_acq_rel(b, &seen, ((seen >> 32) + 1) << 32 | far));
    return 0;
}

void shr__entry_left(sharena_heap *h, uint32_t at, uint64_t offset)
{
    uint64_t where = bucket_at(offset, segment_of(at)), seen, less;

    if (!shr__chunk_ready(h, where))
        return;
    seen = load64_relaxed(bucket(h, where));
    do {
        if (seen >> 32 == 0) /* damage: never below 0 */
            return;
        less = (seen >> 32) - 1;
        less = less ? less << 32 | (seen & UINT32_MAX) : 0;
    } while (!cas64_acq_rel(bucket(h, where), &seen, less));
}

/* ---- for the walker --------------------------------------------------------------------------- */

uint64_t shr__bucket_word(const sharena_heap *h, uint32_t number)
{
    uint64_t at = SHR_AT_BUCKETS + (uint64_t)number * sizeof(shr_bucket);

    return shr__chunk_ready(h, at) ? load64_acquire(bucket(h, at)) : 0;
}

uint32_t shr__entry_bucket(uint32_t at, uint64_t offset)
{
    return (uint32_t)((bucket_at(offset, segment_of(at)) - SHR_AT_BUCKETS) / sizeof(shr_bucket));
}

int shr__entry_in_reach(uint32_t at, uint64_t offset, uint64_t word)
{
    uint32_t segment = segment_of(at);
    uint64_t reach = reach_of(segment, word);

    for (uint32_t group = 0; group * SHR_TICKET_GROUP < reach; group++) {
        struct group g = group_of(offset, segment, group);
        uint32_t i = (at - g.base - g.first) % SHR_TICKET_GROUP;
        if (at - g.base < SHR_TICKET_GROUP && group * SHR_TICKET_GROUP + i < reach)
            return 1;
    }
    return 0;
}

/* ---- claiming ------------------------------------------------------------------------------ */

struct search {
    uint64_t offset, number;
    uint32_t segment;
    uint32_t own; /* tickets of this block seen in the group */
    uint32_t at; /* what was claimed */
    uint64_t word;
};

/* A kill before the bucket is raised, or before the caller publishes, leaves a claim. */
static int fill_claim(sharena_heap *h, struct search *s, uint32_t reach)
{
    struct ticket_shm *e = shr__entry(h, s->at);
    int code;

    store64_relaxed(&e->offset, s->offset);
    store64_relaxed(&e->number, s->number);
    store64_relaxed(&e->exporter, shr__exporter_word(h));
    store64_relaxed(&e->made_ms, shr__sys_real_ns() / 1000000u);
    code = raise_bucket(h, bucket_at(s->offset, s->segment), reach);
    if (code) {
        uint64_t w = s->word;
        (void)cas64_acq_rel(&e->word, &w, ticket_ended(w));
    }
    return code ? code : 1;
}

/* 1: claimed; 0: the group is full; or an error. */
static int claim_in_group(sharena_heap *h, struct search *s, uint32_t group)
{
    struct group g = group_of(s->offset, s->segment, group);
    int code = shr__chunk(h, entry_at(g.base));

    s->own = 0;
    for (uint32_t i = 0; code == 0 && i < SHR_TICKET_GROUP; i++) {
        struct ticket_shm *e = shr__entry(h, in_group(&g, i));
        uint64_t w = load64_acquire(&e->word),
                 mine = ticket_word(ticket_seq(w) + 1, TICKET_CLAIMED, h->slot + 1);
        if (ticket_state(w) == TICKET_FREE && cas64_acq_rel(&e->word, &w, mine)) {
            s->at = in_group(&g, i);
            s->word = mine;
            return fill_claim(h, s, group * SHR_TICKET_GROUP + i + 1);
        }
        s->own += load64_relaxed(&e->offset) == s->offset;
    }
    return code;
}

/* In which order a block's groups are tried.  The home first: what is sent and received in turn
 * stays there.  Then where this process's last ticket of the block was made, and on from there,
 * round to the home. */
struct tour {
    uint32_t groups, from;
};

static struct tour tour_of(const struct shard *d, uint64_t offset, uint32_t segment)
{
    struct tour t = {groups_of(segment), 1};
    int known = d->ticket_block == offset + 1 && d->ticket_segment == segment;

    t.groups = t.groups < SHR_TICKET_GROUPS ? t.groups : SHR_TICKET_GROUPS;
    if (known && d->ticket_group > 1 && d->ticket_group < t.groups)
        t.from = d->ticket_group;
    return t;
}

static uint32_t on_tour(const struct tour *t, uint32_t i)
{
    return i == 0 ? 0 : (t->from - 1 + i - 1) % (t->groups - 1) + 1;
}

static int claim_in(sharena_heap *h, struct shard *d, struct search *s)
{
    struct tour t = tour_of(d, s->offset, s->segment);
    uint32_t strange = 0;

    for (uint32_t i = 0; i < t.groups && strange < FULL_OF_STRANGERS; i++) {
        uint32_t group = on_tour(&t, i);
        int code = claim_in_group(h, s, group);
        if (code == 1) {
            d->ticket_block = s->offset + 1;
            d->ticket_segment = s->segment;
            d->ticket_group = group;
        }
        if (code)
            return code;
        strange += s->own * 2 < SHR_TICKET_GROUP;
    }
    return 0;
}

/* Opens the next segment; nothing there is published before this is done. */
static int open_segment(sharena_heap *h, uint32_t had)
{
    uint64_t seen = had - 1;

    if (had >= h->super.ticket_segments)
        return SHARENA_ETICKETS;
    (void)cas64_acq_rel(&h->control->ticket_segments, &seen, had);
    return 0;
}

int shr__entry_claim(sharena_heap *h, struct shard *d, uint64_t offset, uint64_t number,
                     uint32_t *at, uint64_t *word)
{
    struct search s = {.offset = offset, .number = number};
    int code = 0;

    /* the largest first: the others are nearly full if it was needed */
    for (uint32_t had = segments(h), todo = had; code == 0;) {
        s.segment = todo - 1;
        code = shr__chunk(h, bucket_at(offset, s.segment));
        if (code == 0)
            code = claim_in(h, d, &s);
        if (code == 0 && --todo == 0) {
            code = open_segment(h, had);
            had = todo = had + 1;
        }
    }
    if (code != 1)
        return code;
    *at = s.at;
    *word = s.word;
    return 0;
}

/* 1: most of the group is not the block's. */
static int visit_group(sharena_heap *h, uint64_t offset, struct group g,
                       void (*each)(sharena_heap *h, uint32_t at, void *), void *argument)
{
    uint32_t own = 0;

    if (!shr__chunk_ready(h, entry_at(g.base)))
        return 1;
    for (uint32_t i = 0; i < SHR_TICKET_GROUP; i++) {
        own += load64_relaxed(&shr__entry(h, in_group(&g, i))->offset) == offset;
        each(h, in_group(&g, i), argument);
    }
    return own * 2 < SHR_TICKET_GROUP;
}

void shr__entry_candidates(sharena_heap *h, uint64_t offset,
                           void (*each)(sharena_heap *h, uint32_t at, void *), void *argument)
{
    uint32_t n = segments(h);

    for (uint32_t segment = 0; segment < n; segment++) {
        struct shard *d = shr__lock(h, offset >> SHR_UNIT_SHIFT);
        struct tour t = tour_of(d, offset, segment);
        uint32_t strange = 0;
        shr__unlock(d);
        for (uint32_t i = 0; i < t.groups && strange < FULL_OF_STRANGERS; i++)
            strange += (uint32_t)visit_group(h, offset, group_of(offset, segment, on_tour(&t, i)),
                                             each, argument);
    }
}

/* ---- who made it ------------------------------------------------------------------------------ */

uint64_t shr__exporter_word(const sharena_heap *h)
{
    return h->k << 16 | (h->slot + 1);
}

int shr__exporter_word_alive(sharena_heap *h, uint64_t exporter, int *pid)
{
    uint64_t slot = exporter & 0xffffu;

    if (pid)
        *pid = 0;
    /* the same in the shape that process.c has for the slots of today */
    return slot <= SHR_SLOTS && shr__exporter_alive(h, exporter >> 16 << 8 | slot, pid);
}
