/* Magazines: private blocks at hand, and taking everything back from the lanes.
 *
 * A block that never left its lane and is released goes into the magazine of its class, and
 * out again, without a look at shared memory.  Its mask stays: this process holds it, whatever
 * its program thinks, and nobody else can tell, as no handle was ever made of this life.  Each
 * may pin a slab, so magazines are bounded (less in small heaps), and emptied before a fork, a
 * trim, a refusal, a count, and when their thread ends.
 *
 * A kill leaves blocks of the dead.
 */
#include <stdlib.h>

#include "hand.h"
#include "magazine.h"

#define MAGAZINE_MAX 512u /* blocks at hand of a class, a cap that holds a usual batch ... */
#define MAGAZINE_BYTES ((uint64_t)16 << 20) /* ... up to 32 KiB ... */
#define LANE_BYTES ((uint64_t)64 << 20)     /* ... until the lane may have this at hand; then */
#define MAGAZINE_BYTES_MIN ((uint64_t)2 << 20) /* the classes to come get less */

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Each block at hand may pin a slab while this process sleeps: a class may pin a 64th of the
 * heap so, a lane a quarter, and then 16 blocks of each class to come. */
static uint64_t room_for(const struct lane *l, uint32_t class)
{
    const struct shr_class *c = &shr__classes[class];
    uint64_t limit = l->heap->limit_units;
    uint64_t room = least(least(MAGAZINE_MAX, MAGAZINE_BYTES / c->size), limit / 64 / c->units);

    if (l->at_hand_bytes + room * c->size > least(LANE_BYTES, (limit << SHR_UNIT_SHIFT) / 64))
        room = least(room, MAGAZINE_BYTES_MIN / c->size);
    if (l->at_hand_used + room > AT_HAND_MAX || l->at_hand_pins + room * c->units > limit / 4)
        room = least(room, AT_HAND_MIN);
    return room ? room : 1;
}

void shr__magazine_open(struct lane *l, uint32_t class)
{
    struct magazine *m = &l->magazines[class];
    uint64_t room;

    if (m->last != l->at_hand)
        return;
    room = room_for(l, class);
    m->top = &l->at_hand[l->at_hand_used]; /* this entry stays NULL */
    m->last = m->top + room;
    l->at_hand_used += (uint32_t)room + 1;
    l->at_hand_pins += (uint32_t)room * shr__classes[class].units;
    l->at_hand_bytes += room * shr__classes[class].size;
}

/* Really frees a block at hand; returns its slab if that is to be retired now. */
static struct slab *unload(sharena_heap *h, struct lane *l, void *block)
{
    uint64_t offset = (uint64_t)((uint8_t *)block - h->data);
    struct slab *s = shr__slab_at(h, offset >> SHR_UNIT_SHIFT);
    struct block b;
    uint32_t n;

    if (shr__decode(h, offset, &b) != 0)
        return NULL;
    if (!s || s->unit != b.head || s->class != b.class ||
        atomic_load_explicit(&s->lane, memory_order_relaxed) != l ||
        load64_relaxed(b.mask) != h->mine || load64_relaxed(b.gen) >> 62 ||
        load32_relaxed(&s->n_free) >= s->capacity) {
        /* a stale acquirer is passing through, or the slab was abandoned on a miscount:
         * whoever owns it finds the block at the next rescan */
        shr__export_mark(h, &b, SHR_MARK_SHARED);
        (void)and64_release(b.mask, ~h->mine);
        (void)or32_release(&b.unit->hint, 1);
        (void)add32_release(&h->control->abandoned[b.class], 1);
        return NULL;
    }
    store64_relaxed(b.mask, 0);
    n = load32_relaxed(&s->n_free);
    s->free[n] = (uint16_t)b.index;
    store32_relaxed(&s->n_free, n + 1);
    store8_relaxed(&s->out[b.index], 0);
    return load32_relaxed(&s->list) == LIST_CURRENT ? NULL : shr__slab_housekeeping(l, s);
}

/* In the bracket, or while the lane is stopped. */
static struct slab *flush(sharena_heap *h, struct lane *l, struct slab *retired)
{
    for (uint32_t c = 1; c < shr__n_classes; c++) {
        struct magazine *m = &l->magazines[c];
        void *block;
        while ((block = shr__magazine_pop(m, OUT_SHARED)) != NULL) {
            struct slab *s = unload(h, l, block);
            if (s) {
                s->next = retired;
                retired = s;
            }
        }
    }
    return retired;
}

struct slab *shr__lanes_flush_stopped(sharena_heap *h, int locked)
{
    struct slab *retired = NULL;

    shr__hands_empty(h, locked);
    for (struct lane *l = h->lanes; l; l = l->next)
        retired = flush(h, l, retired);
    return retired;
}

void shr__lanes_flush(sharena_heap *h)
{
    struct slab *retired;

    pthread_mutex_lock(&h->lanes_lock);
    shr__lanes_stop(h);
    retired = shr__lanes_flush_stopped(h, 0);
    shr__lanes_go(h);
    pthread_mutex_unlock(&h->lanes_lock);
    shr__slab_retire(h, retired);
}

static void lane_leaves(struct shr_thread *t, struct lane *l)
{
    sharena_heap *h = l->heap;
    struct slab *retired;

    shr__hand_leave(h, l);
    while (!shr__enter(l))
        shr__lane_wait(l);
    retired = flush(h, l, NULL);
    shr__exit(l);
    shr__slab_retire(h, retired);
    pthread_mutex_lock(&h->lanes_lock);
    l->owner = NULL; /* from here on it may be another thread's, or freed */
    atomic_store_explicit(&t->lanes[h->index], NULL, memory_order_relaxed);
    pthread_mutex_unlock(&h->lanes_lock);
}

/* A thread ends: its lanes wait for the next one. */
static void thread_leaves(struct shr_thread *t)
{
    pthread_mutex_lock(&shr__heaps_lock);
    for (unsigned i = 0; i < SHR_HEAPS; i++) {
        struct lane *l = atomic_load_explicit(&t->lanes[i], memory_order_relaxed);
        if (l)
            lane_leaves(t, l);
    }
    pthread_mutex_unlock(&shr__heaps_lock);
}

__attribute__((constructor)) static void watch_threads(void)
{
    shr__thread_leaves = thread_leaves;
}

static struct slab *trim_list(sharena_heap *h, struct lane *l, struct slab *list,
                              struct slab *retired)
{
    for (struct slab *s = list, *next; s; s = next) {
        next = s->next;
        shr__bin_unlink(l, s);
        shr__rescan(h, s);
        if (shr__bin_is_empty(s) || shr__bin_private(s) == 0) {
            shr__bin_part(l, s);
            s->next = retired;
            retired = s;
        } else {
            shr__bin_link(l, s, shr__bin_has_free(s) ? LIST_PARTIAL : LIST_FULL);
        }
    }
    return retired;
}

void shr__lanes_trim(sharena_heap *h)
{
    struct slab *retired = NULL;

    pthread_mutex_lock(&h->lanes_lock);
    shr__lanes_stop(h);
    retired = shr__lanes_flush_stopped(h, 0);
    for (struct lane *l = h->lanes; l; l = l->next)
        for (uint32_t c = 1; c < shr__n_classes; c++) {
            struct bin *b = &l->bins[c];
            struct slab *current = b->current;
            if (current) {
                shr__bin_unlink(l, current);
                shr__bin_link(l, current, shr__bin_has_free(current) ? LIST_PARTIAL : LIST_FULL);
            }
            retired = trim_list(h, l, b->partial, retired);
            retired = trim_list(h, l, b->full, retired);
        }
    shr__lanes_go(h);
    pthread_mutex_unlock(&h->lanes_lock);
    shr__slab_retire(h, retired);
}

/* In a forked child, which owns no slab, and before a detach. */
void shr__lanes_forget(sharena_heap *h)
{
    for (struct slab *s = h->slab_all, *next; s; s = next) {
        next = s->all;
        if (atomic_load_explicit(&s->lane, memory_order_relaxed))
            shr__bin_map(h, s, NULL);
        else if (!s->class && shr__slab_at(h, s->unit) == s)
            atomic_store_explicit(&h->slab_of[s->unit], NULL, memory_order_release);
        free(s->free);
        free(s);
    }
    h->slab_all = NULL;
    memset(h->slab_pool, 0, sizeof h->slab_pool);
    for (struct lane *l = h->lanes, *next; l; l = next) {
        next = l->next;
        if (!l->owner) /* else its thread's */
            free(l);
    }
    h->lanes = NULL;
    store64_relaxed(&h->empty_units, 0);
}
