/* Small blocks: the slow path of an allocation.
 *
 * What the magazine and the current slab can't give comes from another slab of the lane, from
 * an abandoned one, or from a free run that is cut.  Looking at the lane's own slabs happens in
 * its bracket; adopting, searching, committing, cutting and retiring happen outside.
 */
#include "hand.h"

#define ADOPT_LOOKS 512u /* heads looked at for a slab to adopt before another is cut */

/* A slab with free blocks that no lane knows yet: adopted, or cut. */
static int slab_new(sharena_heap *h, uint32_t class, unsigned flags, struct slab **out)
{
    const struct shr_class *c = &shr__classes[class];
    struct slab *s = shr__slab_struct(h, class);
    uint64_t unit;
    int code;

    if (!s)
        return SHARENA_ENOMEM;
    unit = shr__slab_adopt_any(h, class, flags & RUN_ANYWHERE ? UINT32_MAX : ADOPT_LOOKS);
    if (unit != UINT64_MAX) {
        shr__slab_struct_at(h, s, unit);
        shr__rescan(h, s);
        *out = s;
        return 0;
    }
    code = shr__run_find(h, c->units, 1, flags, &unit);
    if (code == 0) {
        shr__reuse(h, unit, c->units);
        code = shr__commit(h, unit, c->units, 0);
        if (code == 0)
            code = shr__slab_descriptors(h, unit, c->pages);
        if (code)
            shr__run_undo(h, unit, c->units);
    }
    if (code) {
        shr__slab_struct_free(h, s);
        return code;
    }
    shr__slab_cut(h, unit, class);
    shr__slab_struct_at(h, s, unit);
    for (uint32_t i = 0; i < c->capacity; i++)
        s->free[i] = (uint16_t)(c->capacity - 1 - i);
    for (uint32_t i = 0; i < c->capacity; i++)
        store8_relaxed(&s->out[i], 0);
    store32_relaxed(&s->n_free, c->capacity);
    *out = s;
    return 0;
}

static int rescan_if_hinted(sharena_heap *h, struct slab *s)
{
    if (load32_acquire(&h->units[s->unit].hint))
        shr__rescan(h, s);
    return shr__bin_has_free(s);
}

/* All full slabs of a class, when their number has grown by a quarter since the last time:
 * doing so before every growth would be quadratic.  Returns slabs to retire, chained. */
static struct slab *rescan_all(sharena_heap *h, struct lane *l, struct bin *b, int force)
{
    struct slab *retired = NULL, *next;

    if (!force && b->slabs < b->rescanned + b->rescanned / 4 + 1)
        return NULL;
    for (struct slab *s = b->full; s; s = next) {
        next = s->next;
        if (!load32_acquire(&h->units[s->unit].hint))
            continue;
        shr__bin_unlink(l, s);
        shr__rescan(h, s);
        s = shr__bin_place(l, s);
        if (s) {
            s->next = retired;
            retired = s;
        }
    }
    b->rescanned = b->slabs;
    return retired;
}

/* In the bracket: makes a slab with a free block current, if the lane has one. */
static struct slab *next_current(sharena_heap *h, struct lane *l, struct bin *b, int force,
                                 struct slab **retired)
{
    struct slab *s = b->current;

    if (s && (shr__bin_has_free(s) || rescan_if_hinted(h, s)))
        return s;
    if (s) {
        shr__bin_unlink(l, s);
        *retired = shr__bin_place(l, s);
    }
    if (!b->partial) {
        struct slab *more = rescan_all(h, l, b, force);
        if (*retired)
            (*retired)->next = more;
        else
            *retired = more;
    }
    s = b->partial;
    if (s) {
        shr__bin_unlink(l, s);
        shr__bin_link(l, s, LIST_CURRENT);
    }
    return s;
}

static void attach_slab(sharena_heap *h, struct lane *l, struct slab *s)
{
    struct bin *b = &l->bins[s->class];
    struct slab *old;

    while (!shr__enter(l))
        shr__lane_wait(l);
    shr__magazine_open(l, s->class);
    s->magazine = &l->magazines[s->class];
    old = b->current; /* a trimmer may have changed it */
    if (old) {
        shr__bin_unlink(l, old);
        shr__bin_link(l, old, shr__bin_has_free(old) ? LIST_PARTIAL : LIST_FULL);
    }
    b->slabs++;
    shr__bin_link(l, s, LIST_CURRENT);
    atomic_store_explicit(&s->lane, l, memory_order_release);
    shr__slab_plain(s);
    shr__bin_map(h, s, s);
    shr__exit(l);
}

int shr__small(sharena_heap *h, struct lane *l, uint32_t class, unsigned flags, uint64_t *offset)
{
    struct bin *b = &l->bins[class];
    int code;

    for (;;) {
        struct slab *retired = NULL, *s;
        uint32_t i = 0;
        while (!shr__enter(l))
            shr__lane_wait(l);
        s = next_current(h, l, b, (flags & RUN_ANYWHERE) != 0, &retired);
        if (s) {
            i = shr__slab_pop(h, s);
            *offset = ((uint64_t)s->unit << SHR_UNIT_SHIFT) + (uint64_t)i * s->size;
        }
        shr__exit(l);
        shr__slab_retire(h, retired);
        if (s)
            return 0;
        shr__hand_look(h);
        shr__decay(h);
        code = slab_new(h, class, flags, &s);
        if (code)
            return code;
        attach_slab(h, l, s);
    }
}

/* shr__bin_private() for who does not own the slab: it may just be changing hands. */
static int looks_left(const sharena_heap *h, const struct slab *s, uint64_t unit)
{
    uint32_t class = load32_acquire(&h->units[unit].class);

    return class && class < shr__n_classes &&
           shr__classes[class].capacity <= load32_relaxed(&s->n_free) + load32_relaxed(&s->left);
}

/* A block of the slab at `unit` left its lane's regime.  If it was the last private one, the
 * slab is retired here and now: by its own lane, or with the lane stopped. */
void shr__slab_left(sharena_heap *h, uint64_t unit)
{
    struct slab *s = shr__slab_at(h, unit), *retired = NULL;
    struct shr_thread *t = shr__thread;
    struct lane *l;

    if (!s || load32_relaxed(&s->list) == LIST_CURRENT || !looks_left(h, s, unit))
        return;
    l = atomic_load_explicit(&s->lane, memory_order_acquire);
    if (t && l && l == atomic_load_explicit(&t->lanes[h->index], memory_order_relaxed)) {
        while (!shr__enter(l))
            shr__lane_wait(l);
        if (shr__slab_at(h, unit) == s &&
            atomic_load_explicit(&s->lane, memory_order_relaxed) == l &&
            load32_relaxed(&s->list) != LIST_CURRENT && !shr__bin_private(s)) {
            shr__bin_unlink(l, s);
            retired = shr__bin_place(l, s);
        }
        shr__exit(l);
        shr__slab_retire(h, retired);
        return;
    }
    pthread_mutex_lock(&h->lanes_lock);
    shr__lanes_stop(h);
    s = shr__slab_at(h, unit);
    l = s ? atomic_load_explicit(&s->lane, memory_order_relaxed) : NULL;
    if (l && load32_relaxed(&s->list) != LIST_CURRENT) {
        shr__bin_unlink(l, s);
        shr__rescan(h, s);
        retired = shr__bin_place(l, s);
    }
    shr__lanes_go(h);
    pthread_mutex_unlock(&h->lanes_lock);
    shr__slab_retire(h, retired);
}
