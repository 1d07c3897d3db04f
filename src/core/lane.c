/* Lanes: who may use plain stores, and how they are stopped.
 *
 * One lane a thread and heap.  Whatever a lane does to masks, gens and its lists happens in
 * its bracket, between busy = 1 and busy = 0.  A forker, a trimmer, or a sibling that made the
 * last private block of a slab leave, holds the registry's lock, sets `stop`, calls membarrier
 * and waits for busy = 0.  Nobody waits, commits or searches inside a bracket.  Where the
 * kernel has no membarrier, lanes fence instead.
 *
 * A lane outlives its thread and goes whole to the next one, so threads that come and go
 * leave no more lanes than were alive at once.  A kill loses the lanes; the masks say all
 * that is needed.
 */
#include <stdlib.h>

#include "internal.h"

#define LANE_STOPPED 1u
#define LANE_FENCES 2u

static int no_membarrier;
static struct at_hand no_blocks[1]; /* the magazine of a class that was not used yet */

static void lanes_init(void)
{
    no_membarrier = !shr__sys_membarrier_known();
}

void shr__lanes_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, lanes_init);
}

struct lane *shr__lane(sharena_heap *h)
{
    struct shr_thread *t = shr__thread_get();
    struct lane *l;

    if (!t)
        return NULL;
    l = atomic_load_explicit(&t->lanes[h->index], memory_order_relaxed);
    if (l)
        return l;
    pthread_mutex_lock(&h->lanes_lock);
    for (l = h->lanes; l && l->owner; l = l->next)
        ;
    if (!l && (l = calloc(1, sizeof *l)) != NULL) {
        l->heap = h;
        for (unsigned c = 0; c < SHR_CLASSES_MAX; c++)
            l->magazines[c].top = l->magazines[c].end = no_blocks + 1;
        store32_relaxed(&l->stop, no_membarrier ? LANE_FENCES : 0);
        l->next = h->lanes;
        h->lanes = l;
    }
    if (l) {
        l->owner = t;
        atomic_store_explicit(&t->lanes[h->index], l, memory_order_relaxed);
    }
    pthread_mutex_unlock(&h->lanes_lock);
    return l;
}

int shr__enter_slow(struct lane *l)
{
    shr_full_fence();
    if (!(load32_acquire(&l->stop) & LANE_STOPPED))
        return 1;
    store32_release(&l->busy, 0);
    return 0;
}

/* The stopper holds the registry's lock from stop to go. */
void shr__lane_wait(struct lane *l)
{
    pthread_mutex_lock(&l->heap->lanes_lock);
    pthread_mutex_unlock(&l->heap->lanes_lock);
}

static void await_idle(struct lane *l)
{
    for (unsigned spins = 0; load32_acquire(&l->busy); spins++) {
        if (spins < 64)
            shr_pause();
        else
            shr__sys_yield();
    }
}

/* Registering waits for all threads, tens of milliseconds: not before it is needed.  A forked
 * child registers anew. */
static void fence_lanes(void)
{
    static shr_a32 registered;
    uint32_t pid = (uint32_t)shr__sys_pid();

    if (no_membarrier) {
        shr_full_fence();
        return;
    }
    if (load32_relaxed(&registered) != pid) {
        (void)shr__sys_membarrier_register();
        store32_relaxed(&registered, pid);
    }
    shr__sys_membarrier();
}

void shr__lanes_stop(sharena_heap *h)
{
    int others = 0; /* lanes that another thread may be in; an idle one needs the lock first */

    for (struct lane *l = h->lanes; l; l = l->next) {
        (void)or32_seq(&l->stop, LANE_STOPPED);
        others |= l->owner && l->owner != shr__thread;
    }
    if (others)
        fence_lanes();
    for (struct lane *l = h->lanes; l; l = l->next)
        await_idle(l);
}

void shr__lanes_go(sharena_heap *h)
{
    for (struct lane *l = h->lanes; l; l = l->next)
        (void)and32_release(&l->stop, ~LANE_STOPPED);
}
