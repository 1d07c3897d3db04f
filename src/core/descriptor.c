/* Blocks: from an offset to a descriptor, and holding and dropping one.
 *
 * shr__decode() is the only road from an offset to metadata: what an offset is, its unit's
 * class word says.  Every number read from shared memory is checked here, so a damaged heap
 * gives "stale" or "corrupt", never an access outside the mapping.
 *
 * A small block that this process holds once needs no entry in the tables of holding.c: its own
 * bit in the mask says all.  A run always has an entry, so "own bit set, no entry" is
 * stale for a run (somebody of this process is just taking it), and one more reference for a
 * small block.
 *
 * A kill while holding leaves own bits set, which a reaper clears.  Setting a bit is always
 * preceded by the unit's touch bit; kills see program order, so a compiler barrier will do.
 */
#include <stdlib.h>

#include "hand.h"

#define SLAB_UNITS_MAX 8u

struct shr_class shr__classes[SHR_CLASSES_MAX];
uint32_t shr__n_classes;
uint8_t shr__class_of[SHR_SMALL_MAX / 16 + 1];

/* A slab takes the fewest units that waste at most a sixteenth at the end; above 16 KiB also
 * as many as hold eight blocks, so that not every other allocation needs a new slab. */
static uint32_t slab_units(uint32_t size)
{
    uint32_t blocks = size > 16384 ? 8 : 1, best = 1, best_waste = UINT32_MAX;

    for (uint32_t n = 1; n <= SLAB_UNITS_MAX; n++) {
        uint32_t bytes = n << SHR_UNIT_SHIFT, waste = bytes % size * 64 / n;
        if (bytes / size < blocks)
            continue;
        if (waste < best_waste) {
            best = n;
            best_waste = waste;
        }
        if (bytes % size <= bytes / 16)
            break;
    }
    return best;
}

static void add_class(uint32_t size)
{
    struct shr_class *c = &shr__classes[shr__n_classes++];

    c->size = size;
    c->units = slab_units(size);
    c->capacity = (c->units << SHR_UNIT_SHIFT) / size;
    c->pages = (uint32_t)((c->capacity * sizeof(struct desc_shm) + SHR_PAGE - 1) / SHR_PAGE);
    c->reciprocal = (((uint64_t)1 << 40) + size - 1) / size;
}

/* Multiples of 16 to 64, of 64 to 1 KiB, then eight a doubling, four above 32 KiB: at most
 * 12.5 % apart above 512 bytes (25 % above 32 KiB, where a run would waste more); a multiple
 * of 4 KiB is page aligned, as it is a class of its own. */
static void make_classes(void)
{
    uint32_t class = 1;

    shr__n_classes = 1; /* class 0 is "run" */
    for (uint32_t size = 16; size < 64; size += 16)
        add_class(size);
    for (uint32_t size = 64; size <= 1024; size += 64)
        add_class(size);
    for (uint32_t base = 1024; base < 32768; base *= 2)
        for (uint32_t i = 1; i <= 8; i++)
            add_class(base + i * base / 8);
    for (uint32_t size = 40960; size <= SHR_SMALL_MAX; size += 8192)
        add_class(size);
    for (uint32_t i = 0; i <= SHR_SMALL_MAX / 16; i++) {
        while (shr__classes[class].size < i * 16)
            class += 1;
        shr__class_of[i] = (uint8_t)class;
    }
}

void shr__classes_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, make_classes);
}

/* ---- the tiling: a run goes from its head bit to the next ------------------------------- */

static uint64_t heads_word(const sharena_heap *h, uint64_t word)
{
    uint64_t starts = (word << 6) % h->extent_units == 0;

    return load64_acquire(&h->heads[word]) ^ starts;
}

int shr__head(const sharena_heap *h, uint64_t unit)
{
    return (int)(heads_word(h, unit >> 6) >> (unit & 63) & 1);
}

/* The first head behind `unit`; used_units if there is none.  Always behind `unit`, whatever a
 * damaged heap says. */
uint64_t shr__next_head(const sharena_heap *h, uint64_t unit)
{
    uint64_t used = shr__used(h), at = unit + 1, bits;

    if (at >= used)
        return at;
    bits = heads_word(h, at >> 6) >> (at & 63);
    if (bits)
        return at + (uint64_t)__builtin_ctzll(bits);
    for (uint64_t w = (at >> 6) + 1; w << 6 < used; w++) {
        bits = heads_word(h, w);
        if (bits)
            return (w << 6) + (uint64_t)__builtin_ctzll(bits);
    }
    return used;
}

/* The head of the run that `unit` lies in. */
uint64_t shr__prev_head(const sharena_heap *h, uint64_t unit)
{
    uint64_t w = unit >> 6, bits = heads_word(h, w) << (63 - (unit & 63));

    if (bits)
        return unit - (uint64_t)__builtin_clzll(bits);
    while (w-- > 0) {
        bits = heads_word(h, w);
        if (bits)
            return (w << 6) + 63 - (uint64_t)__builtin_clzll(bits);
    }
    return 0; /* unit 0 starts an extent, and nothing precedes it that could absorb it */
}

/* ---- decoding ------------------------------------------------------------------------- */

static int decode_small(sharena_heap *h, uint64_t unit, uint32_t word, uint64_t offset,
                        struct block *b)
{
    uint32_t class = SHR_CLASS_OF(word), inner = SHR_INNER_OF(word);
    const struct shr_class *c = &shr__classes[class < SHR_CLASSES_MAX ? class : 0];
    uint64_t within;

    if (class == 0 || class >= shr__n_classes || inner >= c->units || inner > unit)
        return SHARENA_ECORRUPT;
    b->head = (uint32_t)(unit - inner);
    b->unit = &h->units[b->head];
    if (b->head + c->units > h->n_units || load32_acquire(&b->unit->pages) < c->pages)
        return SHARENA_ECORRUPT;
    if (inner && load32_acquire(&b->unit->class) != class)
        return SHARENA_ESTALE; /* the slab is being cut or given back */
    within = offset - ((uint64_t)b->head << SHR_UNIT_SHIFT);
    b->index = (uint32_t)(within * c->reciprocal >> 40);
    if (b->index >= c->capacity)
        return SHARENA_ESTALE; /* the tail of the slab */
    b->class = class;
    b->size = c->size;
    b->offset = ((uint64_t)b->head << SHR_UNIT_SHIFT) + (uint64_t)b->index * c->size;
    b->mask = &h->descs[((uint64_t)b->head << 12) + b->index].mask;
    b->gen = &h->descs[((uint64_t)b->head << 12) + b->index].gen;
    return 0;
}

int shr__decode_within(sharena_heap *h, uint64_t offset, struct block *b)
{
    uint64_t unit = offset >> SHR_UNIT_SHIFT;
    uint32_t word;

    if (offset >= h->data_bytes || unit >= shr__used(h))
        return SHARENA_ESTALE;
    word = load32_acquire(&h->units[unit].class);
    if (word)
        return decode_small(h, unit, word, offset, b);
    unit = shr__prev_head(h, unit);
    b->head = (uint32_t)unit;
    b->unit = &h->units[unit];
    b->class = 0;
    b->index = 0;
    b->offset = unit << SHR_UNIT_SHIFT;
    b->size = 0; /* the caller asks for it where it matters */
    b->mask = &b->unit->mask;
    b->gen = &b->unit->gen;
    return 0;
}

int shr__decode(sharena_heap *h, uint64_t offset, struct block *b)
{
    uint64_t unit = offset >> SHR_UNIT_SHIFT;
    uint32_t word;
    int code;

    if (offset >= h->data_bytes || unit >= shr__used(h))
        return SHARENA_ESTALE;
    word = load32_acquire(&h->units[unit].class);
    if (word) {
        code = decode_small(h, unit, word, offset, b);
        return code ? code : b->offset == offset ? 0 : SHARENA_ESTALE;
    }
    if (offset % SHR_UNIT)
        return SHARENA_ESTALE;
    b->head = (uint32_t)unit;
    b->unit = &h->units[unit];
    b->class = 0;
    b->index = 0;
    b->offset = offset;
    b->size = 0;
    b->mask = &b->unit->mask;
    b->gen = &b->unit->gen;
    return 0;
}

uint64_t shr__number(const struct block *b)
{
    uint64_t gen = load64_acquire(b->gen);

    return b->class ? gen & ~SHR_MARKS : gen >> 1;
}

uint64_t shr__marks(const struct block *b)
{
    if (b->class)
        return load64_relaxed(b->gen) & SHR_MARKS;
    return (uint64_t)load32_relaxed(&b->unit->mark) << 61;
}

/* By a holder only: so no life can end or begin under it. */
uint64_t shr__mark(const struct block *b, uint64_t marks)
{
    if (b->class)
        return or64_acq_rel(b->gen, marks) & SHR_MARKS;
    return (uint64_t)or32_acq_rel(&b->unit->mark, (uint32_t)(marks >> 61)) << 61;
}

/* I8: before the bit of a block in the unit is set.  A reaper clears it only for the dead. */
void shr__touch(sharena_heap *h, struct unit_shm *unit, uint64_t bit)
{
    (void)h;
    if (!(load64_relaxed(&unit->touch) & bit))
        (void)or64_relaxed(&unit->touch, bit);
    shr_compiler_barrier();
}

/* After the marks, so that a rescan that swallows this raise sees them. */
void shr__slab_leave(struct slab *s, uint32_t blocks)
{
    (void)add32_seq(&s->left, blocks);
    if (atomic_load_explicit(&s->plain, memory_order_seq_cst))
        atomic_store_explicit(&s->plain, NULL, memory_order_relaxed);
}

void shr__leave(sharena_heap *h, const struct block *b)
{
    struct slab *s = shr__slab_at(h, b->head);

    if (s && !b->class)
        store32_relaxed(&s->left, 1); /* hand.c */
    else if (s)
        shr__slab_leave(s, 1);
}

/* ---- private notes -------------------------------------------------------------------------- */

/* What is noted of a block of a slab of this process, or of a run that has a struct, or NULL. */
shr_a8 *shr__out(sharena_heap *h, const struct block *b)
{
    struct slab *s = shr__slab_at(h, b->head);

    return s && s->unit == b->head && b->index < s->capacity ? &s->out[b->index] : NULL;
}

/* What is noted privately, as long as the block carries no mark.  Under the unit lock. */
uint64_t shr__unshared_mark(sharena_heap *h, const struct block *b)
{
    struct holding *e = b->class ? NULL : shr__holding(shr__shard(h, b->head), b->offset);
    shr_a8 *out = shr__out(h, b);

    int noted = out ? load8_relaxed(out) == OUT_UNSHARED : e && e->unshared;

    return noted ? SHR_MARK_UNSHARED : 0;
}

/* ---- acquire and drop, under the shard's lock ------------------------------------------- */

/* Does it not lie at hand in a lane? */
static int out_of_hand(sharena_heap *h, const struct block *b)
{
    shr_a8 *out = shr__out(h, b);

    return !out || load8_relaxed(out);
}

/* One more reference to a block that this process holds without an entry. */
static int count_implicit(sharena_heap *h, struct shard *d, struct block *b, uint64_t number)
{
    if (shr__number(b) != number || !out_of_hand(h, b))
        return SHARENA_ESTALE; /* a lane of this process is in a later life of the block */
    if (shr__holding_reserve(d) != 0)
        return SHARENA_ENOMEM;
    shr__export_mark(h, b, SHR_MARK_SHARED);
    (void)shr__holding_add(d, b->offset, number, 2, 0);
    return 0;
}

static int hold_small(sharena_heap *h, struct shard *d, struct block *b, uint64_t number)
{
    uint64_t m = load64_acquire(b->mask), left;

    do {
        if (m & h->mine)
            return count_implicit(h, d, b, number);
        if (m == 0)
            return SHARENA_ESTALE;
    } while (!cas64_acquire(b->mask, &m, m | h->mine));
    if (shr__number(b) == number && load32_acquire(&b->unit->class) == b->class)
        return 0; /* the bit says all */
    left = and64_seq(b->mask, ~h->mine) & ~h->mine;
    b->undone = left == 0; /* a release like any other: the caller owes what follows it */
    return SHARENA_ESTALE;
}

/* The closing protocol: the bit is set and gen looked at with seq_cst; a taker does the
 * reverse, so one of the two sees the other. */
static int hold_run(sharena_heap *h, struct shard *d, struct block *b, uint64_t number)
{
    uint64_t m = load64_acquire(b->mask), gen;

    if (shr__holding_reserve(d) != 0)
        return SHARENA_ENOMEM;
    do {
        if (m == 0 || (m & h->mine))
            return SHARENA_ESTALE;
    } while (!cas64_seq(b->mask, &m, m | h->mine));
    gen = load64_seq(b->gen);
    while (gen == (number << 1 | 1)) { /* abort the closing of a taker */
        if (cas64_seq(b->gen, &gen, number << 1))
            gen = number << 1;
    }
    if (gen == number << 1) {
        uint64_t units = shr__next_head(h, b->head) - b->head;
        (void)shr__holding_add(d, b->offset, number, 1, (uint32_t)units);
        return 0;
    }
    if ((and64_release(b->mask, ~h->mine) & ~h->mine) == 0)
        (void)add32_release(&h->extents[b->head / h->extent_units].changes, 1);
    return SHARENA_ESTALE;
}

/* Takes one reference to life `number` of the block.  0, SHARENA_ESTALE or SHARENA_ENOMEM.  If
 * b->undone is set then, the caller owes shr__after_drop(…, DROP_LAST) after the unlock. */
int shr__hold(sharena_heap *h, struct shard *d, struct block *b, uint64_t number)
{
    struct holding *e = shr__holding(d, b->offset);

    b->undone = 0;
    if (e) {
        if (e->number != number || e->count == UINT32_MAX || !out_of_hand(h, b))
            return SHARENA_ESTALE;
        e->count++;
        if (!b->class)
            shr__leave(h, b);
        return 0;
    }
    if (shr__number(b) != number)
        return SHARENA_ESTALE;
    shr__touch(h, b->unit, h->mine);
    return b->class ? hold_small(h, d, b, number) : hold_run(h, d, b, number);
}

/* The one reference to a small block that needs no entry. */
static int drop_implicit(sharena_heap *h, const struct shard *d, struct block *b)
{
    uint64_t m = load64_relaxed(b->mask);

    if (!(m & h->mine) || !out_of_hand(h, b))
        return SHARENA_ENOTHELD;
    if (d->pins_missed && shr__marks(b))
        return DROP_KEPT;
    if (!shr__marks(b)) /* a lane's, released by a sibling */
        shr__export_mark(h, b, SHR_MARK_SHARED);
    while (!cas64_seq(b->mask, &m, m & ~h->mine)) /* before the look at the hint */
        ;
    return m & ~h->mine ? DROP_SHARED : DROP_LAST;
}

/* The struct that a run got when it was released to a hand goes with its life. */
static void forget_run(sharena_heap *h, uint64_t unit)
{
    struct slab *s = shr__slab_at(h, unit);

    if (!s || s->class)
        return;
    atomic_store_explicit(&h->slab_of[unit], NULL, memory_order_release);
    pthread_mutex_lock(&h->leaf);
    s->next = h->slab_pool[0];
    h->slab_pool[0] = s;
    pthread_mutex_unlock(&h->leaf);
}

/* Drops one reference: DROP_KEPT (this process holds more), DROP_SHARED (others do),
 * DROP_LAST (the block is free), or SHARENA_ENOTHELD.  After the unlock, the caller owes
 * shr__after_drop(). */
int shr__drop(sharena_heap *h, struct shard *d, struct block *b)
{
    struct holding *e = shr__holding(d, b->offset);
    uint64_t left, units = 0, counted = 0;

    if (!e)
        return b->class ? drop_implicit(h, d, b) : SHARENA_ENOTHELD;
    if ((e->pinned && e->count == 1) || !out_of_hand(h, b)) /* a guest's, a lane's */
        return SHARENA_ENOTHELD;
    if (--e->count > 0) {
        if (e->count == 1 && b->class && !e->pinned)
            shr__holding_remove(d, e); /* the bit says all */
        return DROP_KEPT;
    }
    units = e->units;
    if (units)
        forget_run(h, b->head);
    shr__holding_remove(d, e);
    if (b->class && !shr__marks(b))
        shr__export_mark(h, b, SHR_MARK_SHARED);
    if (units && load64_relaxed(b->mask) == h->mine)
        counted = shr__retained_add(h, b->head, units);
    left = and64_seq(b->mask, ~h->mine) & ~h->mine; /* before the look at the hint */
    if (left)
        shr__subtract(&h->control->retained_units, counted);
    else if (units && !counted)
        (void)shr__retained_add(h, b->head, units);
    if (units)
        b->size = units << SHR_UNIT_SHIFT;
    return left ? DROP_SHARED : DROP_LAST;
}

int shr__drop_bit(sharena_heap *h, struct block *b, uint64_t bit)
{
    uint64_t left, units = 0, counted = 0;

    if (!b->class) {
        units = shr__next_head(h, b->head) - b->head;
        b->size = units << SHR_UNIT_SHIFT;
        if (load64_relaxed(b->mask) == bit)
            counted = shr__retained_add(h, b->head, units);
    }
    left = and64_acq_rel(b->mask, ~bit);
    if (left == bit) {
        if (units && !counted)
            (void)shr__retained_add(h, b->head, units);
        return DROP_LAST;
    }
    shr__subtract(&h->control->retained_units, counted);
    return left & bit ? DROP_SHARED : DROP_KEPT;
}

/* The own bit is set, and the block does not lie at hand. */
int shr__holds(sharena_heap *h, const struct block *b)
{
    return (load64_relaxed(b->mask) & h->mine) && out_of_hand(h, b);
}

/* Does the program hold the block?  Not if it is kept for a guest only, nor a run that is just
 * being taken. */
int shr__is_mine(sharena_heap *h, struct shard *d, const struct block *b)
{
    const struct holding *e = shr__holding(d, b->offset);

    if (e)
        return e->count > (e->pinned != 0) && out_of_hand(h, b);
    return b->class && shr__holds(h, b);
}

struct holding *shr__exclusive(sharena_heap *h, struct shard *d, const struct block *b)
{
    struct holding *e = shr__holding(d, b->offset);

    return e && e->count == 1 && !shr__marks(b) && load64_relaxed(b->mask) == h->mine &&
                   out_of_hand(h, b)
               ? e
               : NULL;
}

void shr__export_mark(sharena_heap *h, const struct block *b, uint64_t marks)
{
    uint64_t note = shr__marks(b) ? 0 : shr__unshared_mark(h, b);

    if (!shr__mark(b, marks | note))
        shr__leave(h, b);
}
