/* The walker: every invariant of the design, looked for in every word.
 *
 * Read-only, bounded, survives garbage, goes on after the first fault, commits nothing: it
 * reads only metadata below used_units and within committed pages.  On a heap in use it may
 * see a step half done; so a unit or entry that looks wrong is looked at again, a few times
 * with a yield in between, and reported only if it stays wrong.
 *
 *   I2 holders are sane   a mask names only slots in use, S, N, T; S only in run masks
 *   I5 numbers            no small number is beyond the limit; a class word names a class,
 *                         inner class words point to their head, a class implies S
 *   I6 committed          a held small block lies in units with C; C implies D
 *   I8 touched            every process bit of a mask is in its unit's touch word
 *   T, N                  a block that only T holds has a live use, and the reverse; N if and
 *                         only if a live name, while nobody changes the names
 *   tickets               states, claimers and makers are sane; no bucket counts less tickets
 *                         than are live, or ends before one of them; segments and chunks
 *
 * Of the buckets that is said without a second look: the live tickets are listed, the buckets
 * read, and what is still live in the same word was so when its bucket was read.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "ticket.h"

#define LOOKS 4u

struct walk {
    sharena_heap *h;
    void (*fault)(const char *, void *);
    void *argument;
    int faults;
    int speak;         /* 0: only count, for a first look */
    uint64_t in_use;   /* slots that may be named by a mask */
    uint64_t used;
};

static void fault(struct walk *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void fault(struct walk *w, const char *format, ...)
{
    char text[240];
    va_list list;

    w->faults++;
    if (!w->speak || !w->fault)
        return;
    va_start(list, format);
    (void)vsnprintf(text, sizeof text, format, list);
    va_end(list);
    w->fault(text, w->argument);
}

static void look_at_slots(struct walk *w)
{
    w->in_use = 0;
    for (unsigned s = 0; s < SHR_SLOTS; s++) {
        unsigned state = SHR_STATE_OF(load64_acquire(&shr__slot(w->h, s)->state));
        if (state == SLOT_INIT || state == SLOT_EMBRYO || state == SLOT_LIVE)
            w->in_use |= (uint64_t)1 << s;
        else if (state != SLOT_FREE && state != SLOT_CLOSING)
            fault(w, "slot %u: state %u", s, state);
    }
}

/* A mask that should be consistent with the unit's touch word and the slots (I2, I8). */
static void check_mask(struct walk *w, const struct unit_shm *p, const char *what, uint64_t at,
                       uint64_t mask)
{
    uint64_t processes = mask & SHR_BITS_PROCESSES;

    if (processes & ~w->in_use) {
        look_at_slots(w); /* somebody attached since */
        if (processes & ~w->in_use)
            fault(w, "%s at %#llx: held by slots %#llx that nobody uses (I2)", what,
                  (unsigned long long)at, (unsigned long long)(processes & ~w->in_use));
    }
    if (processes & ~load64_acquire(&p->touch))
        fault(w, "%s at %#llx: bits %#llx are not in the touch word (I8)", what,
              (unsigned long long)at,
              (unsigned long long)(processes & ~load64_acquire(&p->touch)));
}

static int bit_of(const shr_a64 *map, uint64_t unit)
{
    return (int)(load64_relaxed(&map[unit >> 6]) >> (unit & 63) & 1);
}

static int named(struct walk *w, uint64_t offset, uint64_t number)
{
    for (unsigned i = 0; i < SHR_NAMES; i++) {
        uint64_t at = SHR_AT_NAMES + (uint64_t)i * sizeof(struct name_shm);
        const struct name_shm *e = (const struct name_shm *)(const void *)(w->h->base + at);
        unsigned state;
        if (!shr__chunk_ready(w->h, at)) {
            i |= (unsigned)(SHR_CHUNK / sizeof *e) - 1;
            continue;
        }
        state = (unsigned)(load64_acquire(&e->word) & 255u);
        if (state != NAME_FREE && load64_relaxed(&e->offset) == offset &&
            load64_relaxed(&e->number) == number)
            return 1;
    }
    return 0;
}

static void check_reserved(struct walk *w, const char *what, uint64_t offset, uint64_t mask,
                           uint64_t number)
{
    /* whoever holds the block may be about to settle; the changer, to end or begin a name */
    if ((mask & SHR_BIT_T) && !(mask & SHR_BITS_PROCESSES)) {
        if (!shr__ticket_live(w->h, offset, number))
            fault(w, "%s at %#llx: T, but no unspent use (T)", what, (unsigned long long)offset);
    }
    if ((mask & SHR_BIT_N) && !load64_acquire(&w->h->control->changer) &&
        !named(w, offset, number))
        fault(w, "%s at %#llx: N, but no name (N)", what, (unsigned long long)offset);
}

static void check_small(struct walk *w, uint64_t unit, uint32_t class)
{
    const sharena_heap *h = w->h;
    const struct shr_class *c = &shr__classes[class];
    const struct unit_shm *p = &h->units[unit];

    for (uint32_t i = 0; i < c->capacity; i++) {
        const struct desc_shm *d = &h->descs[(unit << 12) + i];
        uint64_t m = load64_acquire(&d->mask), gen = load64_relaxed(&d->gen);
        uint64_t at = (unit << SHR_UNIT_SHIFT) + (uint64_t)i * c->size, last;
        if ((gen & ~SHR_MARKS) == SHR_NUMBER_MAX)
            fault(w, "block at %#llx: number at its end (I5)", (unsigned long long)at);
        if (m == 0)
            continue;
        if (m & SHR_BIT_S)
            fault(w, "block at %#llx: S in a small mask (I2)", (unsigned long long)at);
        check_mask(w, p, "block", at, m);
        last = (at + c->size - 1) >> SHR_UNIT_SHIFT;
        for (uint64_t u = at >> SHR_UNIT_SHIFT; u <= last; u++)
            if (!bit_of(h->commit, u))
                fault(w, "block at %#llx: held, but unit %llu is not committed (I6)",
                      (unsigned long long)at, (unsigned long long)u);
        if (m & (SHR_BIT_T | SHR_BIT_N))
            check_reserved(w, "block", at, m, gen & ~SHR_MARKS);
    }
}

static void check_slab(struct walk *w, uint64_t unit, uint32_t word, uint64_t end)
{
    const sharena_heap *h = w->h;
    uint32_t class = SHR_CLASS_OF(word);

    if (word != class || class >= shr__n_classes) {
        fault(w, "unit %llu: class word %#x (I5)", (unsigned long long)unit, word);
        return;
    }
    if (!(load64_acquire(&h->units[unit].mask) & SHR_BIT_S))
        fault(w, "unit %llu: class %u without S", (unsigned long long)unit, class);
    if (load32_acquire(&h->units[unit].pages) < shr__classes[class].pages) {
        fault(w, "unit %llu: descriptors of class %u are not committed (I6)",
              (unsigned long long)unit, class);
        return;
    }
    if (end - unit != shr__classes[class].units)
        fault(w, "unit %llu: slab of class %u has %llu units", (unsigned long long)unit, class,
              (unsigned long long)(end - unit));
    for (uint32_t i = 1; i < shr__classes[class].units && unit + i < end; i++)
        if (load32_acquire(&h->units[unit + i].class) != (class | i << 8))
            fault(w, "unit %llu: inner class word %#x (I5)", (unsigned long long)(unit + i),
                  load32_relaxed(&h->units[unit + i].class));
    check_small(w, unit, class);
}

/* The run or slab at a head, and the units inside it. */
static void check_run(struct walk *w, uint64_t unit, uint64_t end)
{
    const sharena_heap *h = w->h;
    uint64_t m = load64_acquire(&h->units[unit].mask);
    uint32_t word = load32_acquire(&h->units[unit].class);

    if (load64_relaxed(&h->units[unit].gen) >> 1 > SHR_NUMBER_MAX)
        fault(w, "unit %llu: number beyond the limit (I5)", (unsigned long long)unit);
    check_mask(w, &h->units[unit], "run", unit << SHR_UNIT_SHIFT, m);
    for (uint64_t u = unit; u < end; u++)
        if (bit_of(h->commit, u) && !bit_of(h->dirty, u))
            fault(w, "unit %llu: committed, but not marked as holding pages (C without D)",
                  (unsigned long long)u);
    if (word) {
        check_slab(w, unit, word, end);
        return;
    }
    for (uint64_t u = unit + 1; u < end && !(m & SHR_BIT_S); u++)
        if (load32_acquire(&h->units[u].class))
            fault(w, "unit %llu: class word inside a run (I5)", (unsigned long long)u);
    if (m & (SHR_BIT_T | SHR_BIT_N)) {
        check_reserved(w, "run", unit << SHR_UNIT_SHIFT, m,
                       load64_acquire(&h->units[unit].gen) >> 1);
        for (uint64_t u = unit; u < end; u++)
            if (!bit_of(h->commit, u))
                fault(w, "run at unit %llu: held, but unit %llu is not committed (I6)",
                      (unsigned long long)unit, (unsigned long long)u);
    }
}

static int check_ticket(const sharena_ticket *t, void *argument)
{
    struct walk *w = argument;
    struct block b;

    uint64_t m;

    if (shr__decode(w->h, t->offset, &b) != 0 || shr__number(&b) != t->number)
        return 0;
    m = load64_acquire(b.mask);
    if (m && !(m & (SHR_BIT_T | SHR_BITS_PROCESSES)))
        fault(w, "ticket %u: an unspent use, but T is not set at %#llx", t->entry,
              (unsigned long long)t->offset);
    return 0;
}

/* The number of a slot, + 1, that a word names. */
static void check_slot(struct walk *w, uint32_t entry, const char *what, uint64_t slot)
{
    if (slot == 0 || slot > SHR_SLOTS)
        fault(w, "ticket %u: %s is slot %llu", entry, what, (unsigned long long)slot - 1);
}

static void check_entry(struct walk *w, uint32_t i)
{
    const struct ticket_shm *e = shr__entry(w->h, i);
    uint64_t word = load64_acquire(&e->word);
    uint32_t state = ticket_state(word), uses = ticket_uses(word);

    if (state > TICKET_CHILD)
        fault(w, "ticket %u: state %u", i, state);
    else if (state == TICKET_FREE && uses)
        fault(w, "ticket %u: free, but with %u uses", i, uses);
    else if (state >= TICKET_OPEN && !uses)
        fault(w, "ticket %u: state %u without a use", i, state);
    else if (state >= TICKET_OPEN)
        check_slot(w, i, "its maker", load64_relaxed(&e->exporter) & 0xffffu);
    if (state != TICKET_CLAIMED)
        return;
    check_slot(w, i, "its claimer", uses);
    if (uses && uses <= SHR_SLOTS && !(w->in_use >> (uses - 1) & 1))
        fault(w, "ticket %u: claimed by slot %u, which nobody uses", i, uses - 1);
}

static void check_tickets(struct walk *w)
{
    uint64_t had = load64_acquire(&w->h->control->ticket_segments);

    if (had >= w->h->super.ticket_segments)
        fault(w, "ticket_segments is %llu of %u", (unsigned long long)had + 1,
              w->h->super.ticket_segments);
    for (uint32_t i = 0; i < shr__entries(w->h); i++) {
        if (shr__entry_ready(w->h, i))
            check_entry(w, i);
        else
            i |= (uint32_t)(SHR_CHUNK / sizeof(struct ticket_shm)) - 1;
    }
    (void)sharena_ticket_list(w->h, check_ticket, w);
}

/* ---- buckets -------------------------------------------------------------------------------- */

struct sight { /* a live ticket */
    uint64_t word, offset;
    uint32_t at;
};

static int by_bucket(const void *a, const void *b)
{
    const struct sight *x = a, *y = b;
    uint32_t i = shr__entry_bucket(x->at, x->offset), k = shr__entry_bucket(y->at, y->offset);

    return (i > k) - (i < k);
}

/* SHARENA_ENOMEM, or 0. */
static int list_live(const sharena_heap *h, struct shr_list *list)
{
    uint32_t end = shr__entries(h);

    for (uint32_t i = shr__entry_next(h, 0); i < end; i = shr__entry_next(h, i + 1)) {
        uint64_t word = load64_acquire(&shr__entry(h, i)->word);
        struct sight *s;
        if (!ticket_live(word))
            continue;
        s = shr__append(list);
        if (!s)
            return SHARENA_ENOMEM;
        *s = (struct sight){word, load64_relaxed(&shr__entry(h, i)->offset), i};
    }
    return 0;
}

static int still_there(const sharena_heap *h, const struct sight *s)
{
    return load64_acquire(&shr__entry(h, s->at)->word) == s->word;
}

/* All tickets of one bucket. */
static void check_bucket(struct walk *w, const struct sight *s, size_t n)
{
    uint32_t bucket = shr__entry_bucket(s->at, s->offset);
    uint64_t word = shr__bucket_word(w->h, bucket);
    size_t live = 0;

    for (size_t i = 0; i < n; i++) {
        if (!still_there(w->h, &s[i]))
            continue;
        live++;
        if (!shr__entry_in_reach(s[i].at, s[i].offset, word))
            fault(w, "ticket %u: not within the reach %u of bucket %u", s[i].at, (uint32_t)word,
                  bucket);
    }
    if (live > word >> 32)
        fault(w, "bucket %u counts %u tickets, but %zu are live", bucket, (uint32_t)(word >> 32),
              live);
}

/* SHARENA_ENOMEM, or 0. */
static int check_buckets(struct walk *w)
{
    struct shr_list list = {.size = sizeof(struct sight)};
    int code = list_live(w->h, &list);
    struct sight *all = list.items;
    size_t count = code ? 0 : list.count, next;

    if (count)
        qsort(all, count, sizeof *all, by_bucket);
    for (size_t i = 0; i < count; i = next) {
        for (next = i + 1; next < count && by_bucket(&all[i], &all[next]) == 0; next++)
            ;
        check_bucket(w, &all[i], next - i);
    }
    free(all);
    return code;
}

/* Chunks are committed behind the raise of `segments`: none lies beyond the table. */
static void check_chunks(struct walk *w)
{
    uint64_t end, bits;

    for (uint32_t i = 0; i < SHR_CHUNKS_MAX; i += 64) {
        bits = load64_acquire((shr_a64 *)(void *)(w->h->base + SHR_AT_CHUNKS) + i / 64);
        end = SHR_AT_TICKETS + (uint64_t)shr__entries(w->h) * sizeof(struct ticket_shm);
        for (uint32_t k = i; bits; k++, bits >>= 1)
            if ((bits & 1) && SHR_AT_NAMES + ((uint64_t)k << SHR_CHUNK_SHIFT) >= end)
                fault(w, "chunk %u is committed, beyond the table of tickets", k);
    }
}

static void check_names(struct walk *w)
{
    for (unsigned i = 0; i < SHR_NAMES; i++) {
        uint64_t at = SHR_AT_NAMES + (uint64_t)i * sizeof(struct name_shm);
        const struct name_shm *e = (const struct name_shm *)(const void *)(w->h->base + at);
        struct block b;
        uint64_t word;
        if (!shr__chunk_ready(w->h, at)) {
            i |= (unsigned)(SHR_CHUNK / sizeof *e) - 1;
            continue;
        }
        word = load64_acquire(&e->word);
        if ((word & 255u) > NAME_DYING)
            fault(w, "name %u: state %u", i, (unsigned)(word & 255u));
        if ((word & 255u) != NAME_LIVE)
            continue;
        if (load64_acquire(&w->h->control->changer))
            continue; /* may be just being removed */
        if (shr__decode(w->h, load64_relaxed(&e->offset), &b) != 0 ||
            shr__number(&b) != load64_relaxed(&e->number) ||
            !(load64_acquire(b.mask) & SHR_BIT_N))
            fault(w, "name %u: its block at %#llx does not carry N", i,
                  (unsigned long long)load64_relaxed(&e->offset));
    }
}

/* Runs a check that may see a step half done; only what stays wrong is a fault. */
static void settle_then_report(struct walk *w, uint64_t unit,
                               void (*check)(struct walk *, uint64_t))
{
    int before = w->faults;

    w->speak = 0;
    for (unsigned i = 0; i < LOOKS; i++) {
        w->faults = before;
        check(w, unit);
        if (w->faults == before)
            break;
        shr__sys_yield();
    }
    w->speak = 1;
    if (w->faults == before)
        return;
    w->faults = before;
    check(w, unit);
}

static void check_at(struct walk *w, uint64_t unit)
{
    check_run(w, unit, shr__next_head(w->h, unit));
}

static void check_tables(struct walk *w, uint64_t unit)
{
    (void)unit;
    look_at_slots(w);
    check_tickets(w);
    check_names(w);
}

int sharena_check(sharena_heap *h, void (*report)(const char *, void *), void *argument)
{
    struct walk w = {.h = h, .fault = report, .argument = argument, .speak = 1};
    uint64_t meta = load64_relaxed(&h->control->committed_meta);

    if (memcmp(h->base, &h->super, sizeof h->super) != 0)
        fault(&w, "the superblock was changed");
    w.used = load64_acquire(&h->control->used_units);
    if (w.used > h->n_units || w.used % h->extent_units) {
        fault(&w, "used_units is %llu of %llu", (unsigned long long)w.used,
              (unsigned long long)h->n_units);
        w.used = w.used < h->n_units ? w.used : h->n_units;
    }
    if (meta > h->super.data) /* counted against the limit, and never counted again */
        fault(&w, "committed_meta is %llu of %llu", (unsigned long long)meta,
              (unsigned long long)h->super.data);
    settle_then_report(&w, 0, check_tables);
    check_chunks(&w);
    if (check_buckets(&w))
        return SHARENA_ENOMEM;
    for (uint64_t u = 0; u < w.used; u = shr__next_head(h, u))
        settle_then_report(&w, u, check_at);
    return w.faults;
}
