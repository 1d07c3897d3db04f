/* Lanes: who may use plain stores, and how they are stopped.
 *
 * One lane a thread and heap.  Whatever a lane does to masks, gens and its lists happens in
 * its bracket, between busy = 1 and busy = 0.  A forker, a trimmer, or a sibling that made the
 * last private block of a slab leave, holds the registry's lock, sets `stop` and takes `open`
 * away, calls membarrier and waits for busy = 0.  Nobody waits, commits or searches inside a
 * bracket.  Where the kernel has no membarrier, `open` is never given and lanes fence instead.
 *
 * A thread's shr__current is the lane that it used last.  The hot functions set its `busy`
 * before they know whether it is the right heap's, so a lane is its thread's as long as the
 * thread lives: when the heap is left, it becomes a spare one (error.c).
 *
 * A lane outlives its thread and goes whole to the next one, so threads that come and go
 * leave no more lanes than were alive at once.  A kill loses the lanes; the masks say all
 * that is needed.
 */
#include <stdlib.h>

#include "internal.h"

static int no_membarrier;

static void lanes_init(void)
{
    no_membarrier = !shr__sys_membarrier_known();
}

void shr__lanes_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, lanes_init);
}

/* Into the hot functions, with no look at `stop`.  Under the registry's lock. */
static void let_in(struct lane *l)
{
    if (!no_membarrier)
        atomic_store_explicit(&l->open, l->heap, memory_order_release);
}

static struct lane *lane_new(struct shr_thread *t)
{
    struct lane *l = shr__thread_spare(t);

    if (!l)
        return calloc(1, sizeof *l);
    memset(l, 0, offsetof(struct lane, at_hand) + l->at_hand_used * sizeof *l->at_hand);
    memset(&l->hand, 0, sizeof l->hand);
    return l;
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
    if (!l && (l = lane_new(t)) != NULL) {
        l->heap = h;
        for (unsigned c = 0; c < SHR_CLASSES_MAX; c++)
            l->magazines[c].top = l->magazines[c].last = l->at_hand;
        for (unsigned i = 0; i <= SHR_DIRECT_MAX / 16; i++)
            l->direct[i] = &l->magazines[shr__class_of[i + (i == 0)]];
        l->at_hand_used = 1;
        l->next = h->lanes;
        h->lanes = l;
    }
    if (l) {
        l->owner = t;
        atomic_store_explicit(&t->lanes[h->index], l, memory_order_relaxed);
        let_in(l);
        atomic_store_explicit(&shr__current, l, memory_order_relaxed);
    }
    pthread_mutex_unlock(&h->lanes_lock);
    return l;
}

struct lane *shr__lane_current(const sharena_heap *h)
{
    struct shr_thread *t = shr__thread;
    struct lane *l = t ? atomic_load_explicit(&t->lanes[h->index], memory_order_relaxed) : NULL;

    if (l)
        atomic_store_explicit(&shr__current, l, memory_order_relaxed);
    return l;
}

int shr__enter(struct lane *l)
{
    store32_relaxed(&l->busy, 1);
    if (no_membarrier)
        shr_full_fence();
    else
        shr_compiler_barrier();
    if (!load32_acquire(&l->stop))
        return 1;
    shr__exit(l);
    return 0;
}

/* The stopper holds the registry's lock from stop to go. */
void shr__lane_wait(struct lane *l)
{
    pthread_mutex_lock(&l->heap->lanes_lock);
    pthread_mutex_unlock(&l->heap->lanes_lock);
}

static void await_idle(const struct lane *l)
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
        store32_seq(&l->stop, 1);
        atomic_store_explicit(&l->open, NULL, memory_order_relaxed);
        others |= l->owner && l->owner != shr__thread;
    }
    if (others)
        fence_lanes();
    for (struct lane *l = h->lanes; l; l = l->next)
        await_idle(l);
}

void shr__lanes_go(sharena_heap *h)
{
    for (struct lane *l = h->lanes; l; l = l->next) {
        store32_release(&l->stop, 0);
        let_in(l);
    }
}
