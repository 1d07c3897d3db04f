/* Blocks for the public: allocate, release, retain, find.
 *
 * What the hot functions (hot.c) leave: allocating from, and releasing to, the current slab of
 * the thread's own lane takes no atomic read-modify-write and no lock.  Everything else goes
 * down the ladder.  When memory is short the order is: look for the dead and for abandoned slabs,
 * then grow; at the limit: reap, sweep, trim every lane, punch what is retained, count again;
 * then messages of the dead give way; and only then fail.
 *
 * A kill after a mask was set leaves a block of the dead; before, nothing.
 */
#include "hand.h"
#include "magazine.h"
#include "ticket.h"

#define ALIGN_MAX ((size_t)2 << 20)

/* Before the heap grows: is there something to be had from the dead or the abandoned? */
static void look_around(sharena_heap *h)
{
    (void)shr__reap(h, NULL, 0);
    (void)shr__sweep_sometimes(h);
    (void)shr__slabs_collect(h);
}

static void collect(sharena_heap *h)
{
    shr__lanes_trim(h);
    (void)shr__slabs_collect(h);
    (void)shr__punch_free(h, UINT64_MAX);
    shr__recount(h);
}

/* Before a request fails.  0, or an error: interrupted, or in an interrupt this became a forked
 * child that can't go on. */
static int reclaim(sharena_heap *h)
{
    int code = shr__reap(h, NULL, 1);

    if (code == 0)
        code = shr__sweep(h, SWEEP_PATIENT);
    if (code == 0)
        code = shr__usable(h);
    collect(h);
    return code;
}

/* What may still be committed: under the limit, and where that is what is short, for memory. */
static uint64_t free_units(sharena_heap *h, int code, uint64_t wanted)
{
    uint64_t used = (load64_relaxed(&h->control->committed_meta) + SHR_UNIT - 1) / SHR_UNIT +
                    load64_relaxed(&h->control->committed_units);
    uint64_t free = used < h->limit_units ? h->limit_units - used : 0, room = UINT64_MAX;
    char where[160];

    if (code == SHARENA_EROOM)
        (void)shr__room(wanted << SHR_UNIT_SHIFT, &room, where, sizeof where);
    else if (code == SHARENA_ENOSPACE && h->super.name[0])
        room = shr__sys_free_bytes(shr__fd(h));
    room >>= SHR_UNIT_SHIFT;
    return free < room ? free : room;
}

/* The last resort: messages of the dead that may never be received give way, each time for
 * twice as much.  1: it is worth another try.  0, with the request's result in *code: it is no
 * shortage, or nothing helps, or as in reclaim(). */
static int give_way(sharena_heap *h, int *code, struct shr_shortage *s, unsigned round)
{
    int unusable;

    if (!shr__is_shortage(*code))
        return 0;
    if (shr__interrupt && shr__interrupt(shr__interrupt_argument)) {
        *code = shr__fail(SHARENA_EINTERRUPTED, "interrupted");
        return 0;
    }
    unusable = shr__usable(h);
    if (unusable) {
        *code = unusable;
        return 0;
    }
    s->code = *code;
    s->free_units = free_units(h, *code, s->units);
    if (!shr__tickets_give_way(h, s, round))
        return 0;
    collect(h);
    return 1;
}

int shr__is_shortage(int code)
{
    return code == SHARENA_EFULL || code == SHARENA_ENOSPACE || code == SHARENA_EROOM ||
           code == SHARENA_ERESERVE;
}

int shr__no_stretch(sharena_heap *h, uint64_t bytes)
{
    char name[96], size[2][24];

    return shr__fail(SHARENA_ERESERVE,
                     "%s has no free stretch of %s in its address space of %s; drop arrays, or "
                     "create the heap with a larger reserve",
                     shr__label(h, name), shr__size(bytes, size[0]),
                     shr__size(h->data_bytes, size[1]));
}

/* The heap's own limit: says what fills it. */
static int full(sharena_heap *h, uint64_t bytes)
{
    uint64_t meta = load64_relaxed(&h->control->committed_meta);
    uint64_t data = load64_relaxed(&h->control->committed_units) << SHR_UNIT_SHIFT;
    char name[96], size[5][24];

    return shr__fail(SHARENA_EFULL,
                     "%s is full: %s asked for, but of its limit of %s it uses %s, with %s of "
                     "metadata (%s are held only by handles in flight); drop arrays, receive or "
                     "expire handles, or create the heap with a larger limit",
                     shr__label(h, name), shr__size(bytes, size[0]),
                     shr__size(h->super.limit_bytes, size[1]), shr__size(meta + data, size[2]),
                     shr__size(meta, size[3]), shr__size(shr__tickets_bytes(h), size[4]));
}

/* ---- allocate ------------------------------------------------------------------------------ */

/* A class whose blocks are all aligned, or 0: the request wants a run. */
static uint32_t class_for(size_t size, size_t align)
{
    uint32_t class;

    if (size > SHR_SMALL_MAX)
        return 0;
    if (SHR_LIKELY(align <= 16))
        return shr__class_of[(size + 15) >> 4];
    if (align > SHR_PAGE)
        return 0;
    size = (size + align - 1) & ~(align - 1);
    if (size > SHR_SMALL_MAX)
        return 0;
    for (class = shr__class_of[size >> 4]; class < shr__n_classes; class += 1)
        if ((shr__classes[class].size & (align - 1)) == 0)
            return class;
    return 0;
}

/* The lane is asked for each time: an interrupt may have forked. */
static int small_try(sharena_heap *h, uint32_t class, unsigned flags, uint64_t *offset)
{
    struct lane *l = shr__lane(h);

    return l ? shr__small(h, l, class, flags, offset) : SHARENA_ENOMEM;
}

static int small_slow(sharena_heap *h, uint32_t class, uint64_t *offset)
{
    struct shr_shortage shortage = {
        .units = shr__classes[class].units, .align = 1, .class = class};
    int code = shr__usable(h);

    if (code)
        return code;
    code = small_try(h, class, 0, offset);
    if (code == SHARENA_ERESERVE) {
        look_around(h);
        code = small_try(h, class, RUN_GROW, offset);
    }
    if (shr__is_shortage(code)) {
        code = reclaim(h);
        if (code)
            return code;
        code = small_try(h, class, RUN_GROW | RUN_ANYWHERE, offset);
        for (unsigned n = 0; give_way(h, &code, &shortage, n); n++)
            code = small_try(h, class, RUN_GROW | RUN_ANYWHERE, offset);
    }
    if (code == SHARENA_EFULL)
        return full(h, shr__classes[class].size);
    return code == SHARENA_ERESERVE ? shr__no_stretch(h, shr__classes[class].size) : code;
}

/* Takes, commits and publishes a run: from here on it is in the table of holdings. */
static int run_try(sharena_heap *h, uint64_t units, uint64_t align_units, unsigned flags,
                   int zero, uint64_t *unit)
{
    uint32_t forks = h->forks;
    uint64_t at;
    struct shard *d;
    int code = shr__run_find(h, units, align_units, flags, &at);

    if (code)
        return code;
    shr__reuse(h, at, units);
    code = shr__commit(h, at, units, zero);
    if (h->forks != forks) /* in a child now: the run is its parent's */
        return code;
    if (code == 0) {
        d = shr__lock(h, at);
        code = shr__holding(d, at << SHR_UNIT_SHIFT) ? SHARENA_ECORRUPT : shr__holding_reserve(d);
        if (code == 0)
            (void)shr__holding_add(d, at << SHR_UNIT_SHIFT,
                                   load64_relaxed(&h->units[at].gen) >> 1, 1, (uint32_t)units);
        shr__unlock(d);
    }
    if (code == SHARENA_ECORRUPT) { /* this process holds it, though its mask said free */
        char name[96];
        return shr__fail(code, "the metadata of %s is damaged: a held block looked free",
                         shr__label(h, name));
    }
    if (code) {
        shr__run_undo(h, at, units);
        return code;
    }
    *unit = at;
    return 0;
}

static int run_allocate(sharena_heap *h, size_t size, size_t align, int zero, uint64_t *offset)
{
    uint64_t units = ((uint64_t)size + SHR_UNIT - 1) >> SHR_UNIT_SHIFT, unit = 0;
    uint64_t align_units = align > SHR_UNIT ? align >> SHR_UNIT_SHIFT : 1;
    struct shr_shortage shortage = {.units = units, .align = align_units};
    int code = shr__usable(h);

    if (code)
        return code;
    if (size > h->data_bytes || units > h->n_units)
        return shr__no_stretch(h, size);
    if (units > h->limit_units) {
        char name[96], text[2][24];
        return shr__fail(SHARENA_EFULL,
                         "%s asked for, but the limit of %s is %s; create the heap with a "
                         "larger limit",
                         shr__size(size, text[0]), shr__label(h, name),
                         shr__size(h->super.limit_bytes, text[1]));
    }
    code = run_try(h, units, align_units, 0, zero, &unit);
    if (code == SHARENA_ERESERVE) {
        look_around(h);
        code = run_try(h, units, align_units, RUN_GROW, zero, &unit);
    }
    if (shr__is_shortage(code)) {
        code = reclaim(h);
        if (code)
            return code;
        code = run_try(h, units, align_units, RUN_GROW | RUN_ANYWHERE, zero, &unit);
        for (unsigned n = 0; give_way(h, &code, &shortage, n); n++)
            code = run_try(h, units, align_units, RUN_GROW | RUN_ANYWHERE, zero, &unit);
    }
    if (code == 0) {
        *offset = unit << SHR_UNIT_SHIFT;
        (void)shr__lane(h); /* whose hand gets it, when it is released */
        shr__hand_look(h); /* not before: what is wanted now is not idle */
        shr__decay(h);
    }
    if (code == SHARENA_EFULL)
        return full(h, size);
    return code == SHARENA_ERESERVE ? shr__no_stretch(h, size) : code;
}

static int run(sharena_heap *h, size_t size, size_t align, int zero, uint64_t *offset)
{
    uint8_t *p = align <= SHR_UNIT ? shr__hand_get(h, size) : NULL;

    if (!p)
        return run_allocate(h, size, align, zero, offset);
    if (zero)
        memset(p, 0, shr__round_up(size, SHR_UNIT));
    *offset = (uint64_t)(p - h->data);
    return 0;
}

/* Everything that is not a small block from the lane's current slab. */
static __attribute__((noinline)) int allocate_slow(sharena_heap *h, size_t size, size_t align,
                                                   unsigned flags, void **out)
{
    uint32_t class;
    uint64_t offset;
    int code;

    if (align & (align - 1) || align > ALIGN_MAX)
        return shr__fail(SHARENA_EINVAL, "the alignment %zu is no power of two up to %zu", align,
                         ALIGN_MAX);
    if (flags & ~(SHARENA_ZERO | SHARENA_UNSHARED))
        return shr__fail(SHARENA_EINVAL, "unknown flags %#x", flags);
    size += size == 0;
    class = class_for(size, align);
    if (class) {
        code = small_slow(h, class, &offset);
        if (code == 0 && (flags & SHARENA_ZERO))
            memset(h->data + offset, 0, size);
    } else {
        code = run(h, size, align, (flags & SHARENA_ZERO) != 0, &offset);
    }
    if (code == SHARENA_ENOMEM)
        return shr__fail(code, "no private memory for the heap's own tables");
    if (code)
        return code;
    if (flags & SHARENA_UNSHARED)
        (void)shr__set_unshared(h, offset, 1);
    *out = h->data + offset;
    return 0;
}

/* In the bracket: from the lane's magazine or its current slab; NULL if they are empty. */
static void *pop(sharena_heap *h, struct lane *l, uint32_t class, uint8_t out)
{
    void *p = shr__magazine_pop(&l->magazines[class], out);
    struct slab *s = l->bins[class].current;
    uint32_t i;

    if (!p && s && load32_relaxed(&s->n_free)) {
        i = shr__slab_pop(h, s);
        store8_relaxed(&s->out[i], out);
        p = s->start + (size_t)i * s->size;
    }
    return p;
}

int shr__allocate(sharena_heap *h, size_t size, size_t align, unsigned flags, void **out)
{
    struct lane *l;
    void *p;

    shr__exit_current();
    l = shr__lane_current(h);
    if (size - 1 >= SHR_SMALL_MAX || align > 16 || (align & (align - 1)) ||
        flags > (SHARENA_ZERO | SHARENA_UNSHARED) || !l || !shr__enter(l))
        return allocate_slow(h, size, align, flags, out);
    p = pop(h, l, shr__class_of[(size + 15) >> 4], shr__out_of(flags));
    shr__exit(l);
    if (!p)
        return allocate_slow(h, size, align, flags, out);
    if (flags & SHARENA_ZERO)
        memset(p, 0, size);
    *out = p;
    return 0;
}

/* ---- release --------------------------------------------------------------------------------- */

static int release_slow(sharena_heap *h, const void *block)
{
    uint64_t offset = (uint64_t)((const uint8_t *)block - h->data);

    if (shr__hand_keep(h, offset))
        return 0;
    return shr__release(h, offset) ? shr__not_held(h, block) : 0;
}

/* In the bracket: a block of one of the lane's own slabs, back to the magazine or to the slab's
 * stack.  0, SHARENA_ENOTHELD, or SHARENA_EBUSY: plain stores won't do. */
static int push(const sharena_heap *h, struct lane *l, struct slab *s, const void *block)
{
    uint64_t within = (uint64_t)((const uint8_t *)block - s->start);
    uint32_t i = (uint32_t)(within / s->size), n = load32_relaxed(&s->n_free);

    if (atomic_load_explicit(&s->plain, memory_order_relaxed) == l &&
        shr__magazine_push(s, block))
        return 0;
    if (i >= s->capacity || (uint64_t)i * s->size != within || !load8_relaxed(&s->out[i]))
        return SHARENA_ENOTHELD;
    if (load64_relaxed(&s->descs[i].mask) != h->mine || load64_relaxed(&s->descs[i].gen) >> 62 ||
        n >= s->capacity)
        return SHARENA_EBUSY;
    store64_relaxed(&s->descs[i].mask, 0);
    s->free[n] = (uint16_t)i;
    store32_relaxed(&s->n_free, n + 1);
    store8_relaxed(&s->out[i], 0);
    return 0;
}

int shr__free(sharena_heap *h, const void *block)
{
    uint64_t offset = (uint64_t)((const uint8_t *)block - h->data);
    struct slab *s, *retired = NULL;
    struct lane *l;
    int code;

    shr__exit_current();
    if (offset >= h->data_bytes)
        return shr__not_held(h, block);
    if (!shr__slab_at(h, offset >> SHR_UNIT_SHIFT)) { /* no slab of this process */
        if (SHR_UNLIKELY(!shr__thread))
            (void)shr__lane(h); /* so that such threads don't all write to one `busy` */
        return release_slow(h, block);
    }
    l = shr__lane_current(h);
    if (!l || !shr__enter(l))
        return release_slow(h, block);
    s = shr__slab_at(h, offset >> SHR_UNIT_SHIFT);
    code = s && atomic_load_explicit(&s->lane, memory_order_relaxed) == l ? push(h, l, s, block)
                                                                          : SHARENA_EBUSY;
    if (s && !s->class)
        code = shr__hand_push(&l->hand, s, block);
    if (code == 0 && load32_relaxed(&s->list) != LIST_CURRENT)
        retired = shr__slab_housekeeping(l, s);
    shr__exit(l);
    if (code == SHARENA_EBUSY)
        return release_slow(h, block);
    if (code)
        return shr__not_held(h, block);
    shr__slab_retire(h, retired);
    return 0;
}

int sharena_retain(sharena_heap *h, const void *block)
{
    uint64_t offset = (uint64_t)((const uint8_t *)block - h->data);
    struct shard *d = shr__lock(h, offset >> SHR_UNIT_SHIFT);
    struct holding *e;
    struct block b;
    int code = shr__decode(h, offset, &b);

    if (code == 0 && !shr__is_mine(h, d, &b))
        code = SHARENA_ENOTHELD;
    if (code == 0) {
        e = shr__holding(d, offset);
        if (e) {
            code = e->count == UINT32_MAX ? SHARENA_ENOMEM : 0;
            e->count += code == 0;
            if (!b.class)
                shr__leave(h, &b);
        } else if ((code = shr__holding_reserve(d)) == 0) {
            shr__export_mark(h, &b, SHR_MARK_SHARED);
            (void)shr__holding_add(d, offset, shr__number(&b), 2, 0);
        }
    }
    shr__unlock(d);
    if (code == SHARENA_ENOMEM)
        return shr__fail(code, "no private memory for one more reference");
    return code ? shr__not_held(h, block) : 0;
}

/* ---- find ----------------------------------------------------------------------------------------- */

int sharena_find(sharena_heap *h, const void *address, sharena_block *out)
{
    uint64_t offset = (uint64_t)((const uint8_t *)address - h->data);
    struct block b;

    if (shr__decode_within(h, offset, &b) != 0 || !shr__holds(h, &b))
        return shr__not_held(h, address);
    shr__describe(h, &b, out);
    out->flags = shr__is_unshared(h, &b) ? SHARENA_UNSHARED : 0;
    if (offset - b.offset >= out->size_bytes)
        return shr__not_held(h, address);
    return 0;
}

/* ---- care ------------------------------------------------------------------------------------------- */

int sharena_trim(sharena_heap *h, uint64_t *freed_bytes)
{
    int code = shr__usable(h), refusal;
    char name[96];
    uint64_t freed;

    if (code)
        return code;
    store32_relaxed(&h->punch_errno, 0);
    code = shr__reap(h, NULL, 1);
    if (code == 0)
        code = shr__sweep(h, SWEEP_JUDGE);
    if (code)
        return code;
    shr__lanes_trim(h);
    (void)shr__slabs_collect(h);
    freed = shr__punch_free(h, UINT64_MAX);
    shr__recount(h);
    refusal = (int)load32_relaxed(&h->punch_errno);
    if (freed == 0 && refusal)
        return shr__fail(SHARENA_ESYSTEM, "%s: the kernel refused to take memory back (%s)",
                         shr__label(h, name), strerror(refusal));
    if (freed_bytes)
        *freed_bytes = freed << SHR_UNIT_SHIFT;
    return 0;
}

int sharena_reap(sharena_heap *h, unsigned *reaped)
{
    int code = shr__usable(h);

    if (code == 0)
        code = shr__reap(h, reaped, 1);
    return code ? code : shr__sweep(h, SWEEP_PATIENT);
}

void sharena_tend(sharena_heap *h)
{
    (void)shr__sweep_sometimes(h);
}

void sharena_set_interrupt(int (*callback)(void *), void *argument)
{
    shr__interrupt_argument = argument;
    shr__interrupt = callback;
}
