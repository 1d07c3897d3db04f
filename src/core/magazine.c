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

#include "internal.h"

#define MAGAZINE_MAX 512u    /* blocks at hand of a class, a cap that holds a usual batch ... */
#define MAGAZINE_BYTES ((uint64_t)2 << 20) /* ... up to 4 KiB; bigger ones by bytes */
#define MAGAZINES_MAX 16384u  /* of a lane together; then the classes to come get few */
#define MAGAZINE_MIN 16u

/* Each block at hand may pin a slab while this process sleeps: that bounds them. */
uint32_t shr__magazine_room(const sharena_heap *h, const struct lane *l, uint32_t class)
{
    uint64_t room = MAGAZINE_BYTES / shr__classes[class].size, most = h->limit_units / 16;

    most = most < MAGAZINES_MAX ? most : MAGAZINES_MAX;
    room = room < MAGAZINE_MAX ? room : MAGAZINE_MAX;
    room = room < most / 8 ? room : most / 8;
    if (l->at_hand_max + room > most || room < MAGAZINE_MIN)
        room = MAGAZINE_MIN;
    return (uint32_t)room;
}

/* NULL: no memory, or there is one. */
struct at_hand *shr__magazine_new(const struct lane *l, uint32_t class, uint32_t room)
{
    if (l->bins[class].blocks)
        return NULL;
    return calloc(room + 1, sizeof(struct at_hand));
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
    if (!s || atomic_load_explicit(&s->lane, memory_order_relaxed) != l ||
        load64_relaxed(b.mask) != h->mine || load64_relaxed(b.gen) >> 62 ||
        load32_relaxed(&s->n_free) >= s->capacity) {
        /* a stale acquirer is passing through, or the slab was abandoned on a miscount:
         * whoever owns it finds the block at the next rescan */
        shr__export_mark(h, &b, SHR_MARK_SHARED);
        (void)and64_release(b.mask, ~h->mine);
        (void)or32_release(&b.unit->hint, 1);
        return NULL;
    }
    store64_relaxed(b.mask, 0);
    n = load32_relaxed(&s->n_free);
    s->free[n] = (uint16_t)b.index;
    store32_relaxed(&s->n_free, n + 1);
    return load32_relaxed(&s->list) == LIST_CURRENT ? NULL : shr__slab_housekeeping(l, s);
}

/* In the bracket, or while the lane is stopped. */
static struct slab *flush(sharena_heap *h, struct lane *l, struct slab *retired)
{
    for (uint32_t c = 1; c < shr__n_classes; c++) {
        struct magazine *m = &l->magazines[c];
        while (m->top[-1].block) {
            struct slab *s = unload(h, l, (--m->top)->block);
            if (s) {
                s->next = retired;
                retired = s;
            }
        }
    }
    return retired;
}

struct slab *shr__lanes_flush_stopped(sharena_heap *h)
{
    struct slab *retired = NULL;

    for (struct lane *l = h->lanes; l; l = l->next)
        retired = flush(h, l, retired);
    return retired;
}

void shr__lanes_flush(sharena_heap *h)
{
    struct slab *retired;

    pthread_mutex_lock(&h->lanes_lock);
    shr__lanes_stop(h);
    retired = shr__lanes_flush_stopped(h);
    shr__lanes_go(h);
    pthread_mutex_unlock(&h->lanes_lock);
    shr__slab_retire(h, retired);
}

static void lane_leaves(struct lane *l)
{
    struct slab *retired;

    while (!shr__enter(l))
        shr__lane_wait(l);
    retired = flush(l->heap, l, NULL);
    shr__exit(l);
    shr__slab_retire(l->heap, retired);
    pthread_mutex_lock(&l->heap->lanes_lock);
    l->owner = NULL;
    pthread_mutex_unlock(&l->heap->lanes_lock);
}

/* A thread ends: its lanes wait for the next one. */
static void thread_leaves(struct shr_thread *t)
{
    pthread_mutex_lock(&shr__heaps_lock);
    for (unsigned i = 0; i < SHR_HEAPS; i++) {
        struct lane *l = atomic_load_explicit(&t->lanes[i], memory_order_relaxed);
        if (l)
            lane_leaves(l);
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
    retired = shr__lanes_flush_stopped(h);
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
        free(s->free);
        free(s);
    }
    h->slab_all = NULL;
    memset(h->slab_pool, 0, sizeof h->slab_pool);
    for (struct lane *l = h->lanes, *next; l; l = next) {
        next = l->next;
        for (unsigned c = 0; c < SHR_CLASSES_MAX; c++)
            free(l->bins[c].blocks);
        free(l);
    }
    h->lanes = NULL;
    store64_relaxed(&h->empty_units, 0);
}
