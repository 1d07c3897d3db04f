/* Fork: the child is a holder of everything its parent holds, from its first instruction on.
 *
 * The prepare handler takes every lock of every heap and a slot for the child (EMBRYO, judged
 * by its lock alone, which both sides keep alive by a mapping that this one fork inherits),
 * stops the lanes, and stamps the child's bit on every held block: touch bit, mark, mask.
 * Everything stays locked and stopped across fork(); both sides let go.  If fork fails, or
 * the child dies at once, nobody keeps the slot's lock: a dead slot, which a reaper empties.
 *
 * Guests.  A fork can't be refused.  Without a free slot, or without a descriptor to lock it by,
 * the child shares its parent's: it inherits the parent's lock page, so that the slot is dead
 * only when both are gone, and what is held at the fork is pinned for it (guest.c).
 *
 * No stamp goes on a slab's run mask, nor on a run half taken or a slab half cut: they are in
 * no table, and the child starts without its parent's lanes.
 */
#include <errno.h>
#include <stdlib.h>

#include "internal.h"

static void lock_heap(sharena_heap *h)
{
    pthread_mutex_lock(&h->lanes_lock);
    for (unsigned i = 0; i < SHR_SHARDS; i++)
        shr__shard_lock(&h->shards[i]);
    shr__lanes_stop(h);
    h->embryo_retired = shr__lanes_flush_stopped(h, 1);
    pthread_mutex_lock(&h->leaf);
}

static void unlock_heap(sharena_heap *h)
{
    pthread_mutex_unlock(&h->leaf);
    for (unsigned i = SHR_SHARDS; i-- > 0;)
        shr__unlock(&h->shards[i]);
    pthread_mutex_unlock(&h->lanes_lock);
    pthread_mutex_unlock(&h->reap_lock);
    pthread_mutex_unlock(&h->names_lock);
}

/* ---- what is held ------------------------------------------------------------------------ */

static void stamp(sharena_heap *h, const struct block *b, uint64_t child)
{
    uint64_t gen;

    shr__touch(h, b->unit, child);
    shr__export_mark(h, b, SHR_MARK_SHARED);
    (void)or64_seq(b->mask, child);
    if (!b->class) { /* on behalf of another: abort a closing */
        gen = load64_seq(b->gen);
        while ((gen & 1) && !cas64_seq(b->gen, &gen, gen & ~(uint64_t)1))
            ;
    }
}

static void pin(sharena_heap *h, const struct block *b, uint64_t unused)
{
    (void)unused;
    shr__guest_pin(h, b);
}

/* Of a slab of a stopped lane, a block that is known to nobody else: plain stores, the mark
 * first.  The lane learns of all of them at once. */
static int stamp_private(sharena_heap *h, const struct slab *s, const struct block *b,
                         uint64_t child)
{
    uint64_t gen = load64_relaxed(b->gen), note;

    if (!s || load64_relaxed(b->mask) != h->mine || (gen & SHR_MARKS))
        return 0;
    note = load8_relaxed(&s->out[b->index]) == OUT_UNSHARED ? SHR_MARK_UNSHARED : 0;
    shr__touch(h, b->unit, child);
    store64_relaxed(b->gen, gen | SHR_MARK_SHARED | note);
    shr_compiler_barrier();
    store64_release(b->mask, h->mine | child);
    return 1;
}

/* bit: the child's, or 0 for a guest. */
static void each_small(sharena_heap *h, uint64_t unit, uint32_t class, uint64_t bit,
                       void (*act)(sharena_heap *, const struct block *, uint64_t))
{
    struct slab *s = bit ? shr__slab_at(h, unit) : NULL;
    uint32_t left = 0;

    if (s && (s->unit != unit || s->class != class))
        s = NULL;
    for (uint32_t i = 0; i < shr__classes[class].capacity; i++) {
        struct block b = shr__small_at(h, unit, class, i);
        if (!(load64_relaxed(b.mask) & h->mine))
            continue;
        if (stamp_private(h, s, &b, bit))
            left++;
        else
            act(h, &b, bit);
    }
    if (left)
        shr__slab_leave(s, left);
}

/* Every block that this process holds; all locks are held, all lanes stopped. */
static void each_held(sharena_heap *h, uint64_t bit,
                      void (*act)(sharena_heap *, const struct block *, uint64_t))
{
    uint64_t used = shr__used(h);

    for (uint64_t u = 0; u < used; u++) {
        uint32_t class;
        if (!(load64_relaxed(&h->units[u].touch) & h->mine))
            continue;
        class = load32_acquire(&h->units[u].class);
        if (class && class < shr__n_classes &&
            load32_acquire(&h->units[u].pages) >= shr__classes[class].pages)
            each_small(h, u, class, bit, act);
    }
    for (unsigned i = 0; i < SHR_SHARDS; i++)
        for (uint32_t k = 0; k < h->shards[i].room; k++) {
            struct holding *e = &h->shards[i].table[k];
            struct block b;
            if (e->offset && e->units && shr__decode(h, e->offset - 1, &b) == 0 && !b.class)
                act(h, &b, bit);
        }
}

/* ---- the handlers --------------------------------------------------------------------------- */

static void take_embryo(sharena_heap *h)
{
    unsigned slot;
    int code;

    h->embryo_page = NULL;
    h->embryo_guest = 1;
    if (h->guest)
        return;
    code = shr__slot_take(h, 0, SHR_PROCESSES - 1, SLOT_EMBRYO, &slot, &h->embryo_k,
                          &h->embryo_page);
    if (code == SHARENA_EPROCESSES) {
        (void)shr__reap(h, NULL, 1);
        code = shr__slot_take(h, 0, SHR_PROCESSES - 1, SLOT_EMBRYO, &slot, &h->embryo_k,
                              &h->embryo_page);
    }
    h->guest_why = code == SHARENA_ESYSTEM ? errno : 0;
    if (code == 0) {
        h->embryo_guest = 0;
        h->embryo_slot = slot;
        shr__sys_lock_page_fork(h->embryo_page, 1);
    }
}

static void prepare(void)
{
    pthread_mutex_lock(&shr__heaps_lock);
    for (unsigned i = 0; i < SHR_HEAPS; i++) {
        sharena_heap *h = shr__heap_at(i);
        if (!h)
            continue;
        take_embryo(h);
        pthread_mutex_lock(&h->names_lock);
        pthread_mutex_lock(&h->reap_lock);
        lock_heap(h);
        if (!h->embryo_guest) {
            each_held(h, (uint64_t)1 << h->embryo_slot, stamp);
        } else {
            if (!h->guest) {
                shr__guest_admit(h);
                each_held(h, 0, pin);
            }
            if (h->guest_page)
                shr__sys_lock_page_fork(h->guest_page, 1);
            /* before there is one; a fork that fails counts too, it can't be told */
            (void)add32_relaxed(&shr__slot(h, h->slot)->guests, 1);
            shr__sys_lock_page_fork(h->lock_page, 1);
        }
    }
    shr__thread_lock();
}

static void parent(void)
{
    shr__thread_unlock();
    for (unsigned i = SHR_HEAPS; i-- > 0;) {
        sharena_heap *h = shr__heap_at(i);
        if (!h)
            continue;
        if (h->embryo_guest) {
            shr__sys_lock_page_fork(h->lock_page, 0);
            if (h->guest && h->guest_page)
                shr__sys_lock_page_fork(h->guest_page, 0);
            if (!h->guest && h->guest_page)
                shr__sys_lock_page_drop(h->guest_page);
            if (!h->guest)
                h->guest_page = NULL;
            h->guests++;
        } else {
            shr__sys_lock_page_drop(h->embryo_page);
        }
        shr__lanes_go(h);
        unlock_heap(h);
        shr__slab_retire(h, h->embryo_retired);
    }
    pthread_mutex_unlock(&shr__heaps_lock);
}

static void become(sharena_heap *h)
{
    struct slot_shm *slot;
    uint64_t state = SHR_STATE(h->embryo_k, SLOT_EMBRYO);

    h->slot = h->embryo_slot;
    h->k = h->embryo_k;
    h->mine = (uint64_t)1 << h->slot;
    h->lock_page = h->embryo_page;
    shr__sys_lock_page_fork(h->lock_page, 0);
    slot = shr__slot(h, h->slot);
    shr__slot_describe(h, h->slot);
    (void)cas64_acq_rel(&slot->state, &state, SHR_STATE(h->k, SLOT_LIVE));
}

static void child(void)
{
    for (unsigned i = 0; i < SHR_HEAPS; i++) {
        sharena_heap *h = shr__heap_at(i);
        if (!h)
            continue;
        shr__lanes_forget(h);
        for (unsigned s = 0; s < SHR_SHARDS; s++)
            store32_relaxed(&h->shards[s].sleepers, 0); /* threads of the parent */
        h->forks++;
        h->pid = shr__sys_pid();
        store64_relaxed(&h->unchecked_bytes, 0);
        store64_relaxed(&h->sweep_due_ms, 0); /* a thread of the parent was at it */
        if (h->embryo_guest) {
            h->guest = 1;
            shr__sys_lock_page_fork(h->lock_page, 0);
            if (h->guest_page)
                shr__sys_lock_page_fork(h->guest_page, 0);
        } else {
            become(h);
        }
        unlock_heap(h);
        if (!h->guest)
            shr__guests_forget(h);
    }
    shr__thread_after_fork();
    pthread_mutex_unlock(&shr__heaps_lock);
}

static void register_once(void)
{
    (void)pthread_atfork(prepare, parent, child);
}

/* Early, so that ours is the last prepare handler to run: other libraries' handlers may still
 * use the heap.  Called again by whoever makes a heap, so that a static link keeps this file. */
__attribute__((constructor)) void shr__fork_handlers(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, register_once);
}
