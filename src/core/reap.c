/* Reaping: clearing the bits of the dead.
 *
 * A reaper announces {slot, k} in its own slot, looks again whether that process is still
 * judged dead, clears its bits wherever the touch words say, moves the slot to CLOSING and
 * withdraws; whoever finds no live announcement of it then frees the slot (process.c).  All
 * four of announce, look, close and look at announcements are seq_cst.  So a reaper that was
 * stopped in the middle delays only the re-use of one number, and two reapers may do the same
 * work: clearing a bit is idempotent.
 *
 * In a unit the masks go first, the touch bit last.  A block that a handle was made of needs
 * care: the dead one may have been between its last spend and settling T.  There the reaper
 * takes its own bit first, as long as the dead bit is in the mask, settles, clears the dead
 * bit and drops its own, all under the unit lock.
 *
 * A killed reaper leaves a dead slot, with some bits less.
 */
#include "ticket.h"

#define LOOK_MS 20u /* not more often, unless forced */

static int drop_marked(sharena_heap *h, struct block *b, uint64_t dead)
{
    struct shard *d = shr__lock(h, b->offset >> SHR_UNIT_SHIFT);
    struct holding *e = shr__holding(d, b->offset);
    uint64_t m = load64_acquire(b->mask);
    int mine = e || (m & h->mine), how;

    shr__touch(h, b->unit, h->mine);
    while ((m & dead) && !mine && !cas64_acq_rel(b->mask, &m, m | h->mine))
        ;
    if (!(m & dead)) {
        shr__unlock(d);
        return DROP_KEPT;
    }
    shr__settle(h, b, shr__number(b));
    how = shr__drop_bit(h, b, dead);
    if (!mine)
        how = shr__drop_bit(h, b, h->mine);
    shr__unlock(d);
    return how;
}

static void clear_block(sharena_heap *h, struct block *b, uint64_t dead)
{
    int how;

    if (!(load64_acquire(b->mask) & dead))
        return;
    if (shr__marks(b) & SHR_MARK_HANDLE)
        how = drop_marked(h, b, dead);
    else
        how = shr__drop_bit(h, b, dead);
    shr__after_drop(h, b, how);
}

static void clear_small(sharena_heap *h, uint64_t unit, uint32_t class, uint64_t dead)
{
    for (uint32_t i = 0; i < shr__classes[class].capacity; i++) {
        struct block b = shr__small_at(h, unit, class, i);
        if (load64_relaxed(b.mask) & dead)
            clear_block(h, &b, dead);
    }
}

/* The run's own mask: of a slab (clearing it is abandoning it), of a run, or of an interior
 * unit that a dead taker left. */
static void clear_run(sharena_heap *h, uint64_t unit, uint64_t dead)
{
    struct unit_shm *p = &h->units[unit];
    struct block b = {.unit = p,
                      .mask = &p->mask,
                      .gen = &p->gen,
                      .offset = unit << SHR_UNIT_SHIFT,
                      .head = (uint32_t)unit};
    uint64_t m = load64_acquire(&p->mask);
    uint32_t class = load32_acquire(&p->class);

    if (!(m & dead))
        return;
    if (!shr__head(h, unit)) { /* absorbed, before its bit was dropped */
        (void)and64_acq_rel(&p->mask, ~dead);
        return;
    }
    if (!(m & SHR_BIT_S)) {
        clear_block(h, &b, dead);
        return;
    }
    (void)or32_seq(&p->hint, 1);
    (void)and64_seq(&p->mask, ~dead); /* abandons it: then a look, as abandon() does */
    (void)add32_release(&h->extents[unit / h->extent_units].changes, 1);
    if (class < SHR_CLASSES_MAX)
        (void)add32_release(&h->control->abandoned[class], 1);
    if (load64_seq(&p->mask) == SHR_BIT_S && shr__slab_looks_empty(h, unit, 0))
        (void)shr__slab_collect(h, unit);
}

/* Every bit of the slot. */
static void clear_slot(sharena_heap *h, unsigned slot)
{
    uint64_t used = shr__used(h), dead = (uint64_t)1 << slot;

    for (uint64_t u = 0; u < used; u++) {
        struct unit_shm *p = &h->units[u];
        uint32_t class;
        if (!(load64_acquire(&p->touch) & dead))
            continue;
        class = load32_acquire(&p->class);
        if (class && class < shr__n_classes &&
            load32_acquire(&p->pages) >= shr__classes[class].pages)
            clear_small(h, u, class, dead);
        clear_run(h, u, dead);
        (void)and64_release(&p->touch, ~dead);
    }
}

static int reap_slot(sharena_heap *h, unsigned slot, uint64_t state)
{
    struct slot_shm *victim = shr__slot(h, slot), *me = shr__slot(h, h->slot);
    uint64_t k = SHR_K_OF(state), again;
    int done = 0;

    store64_seq(&me->announce, k << 8 | (slot + 1));
    if (load64_seq(&victim->state) == state && shr__slot_dead(h, slot, &again) &&
        again == state) {
        clear_slot(h, slot);
        shr__tickets_reap(h, slot);
        done = cas64_seq(&victim->state, &state, SHR_STATE(k, SLOT_CLOSING));
        if (done)
            (void)add64_relaxed(&h->control->reaps, 1);
    }
    store64_release(&me->announce, 0);
    return done;
}

/* Looks for the dead and clears up after them.  Without `force`, at most every 20 ms. */
int shr__reap(sharena_heap *h, unsigned *reaped, int force)
{
    uint64_t state, now = shr__sys_now_ms(), last = load64_relaxed(&h->last_reap_ms);
    unsigned count = 0;

    if (h->guest || (!force && now - last < LOOK_MS))
        return 0;
    pthread_mutex_lock(&h->reap_lock);
    store64_relaxed(&h->last_reap_ms, now);
    for (unsigned s = 0; s < SHR_PROCESSES; s++) /* the reaper's slot is not ours to reap */
        if (shr__slot_dead(h, s, &state))
            count += (unsigned)reap_slot(h, s, state);
    shr__slot_free_closing(h);
    shr__guests_look(h);
    pthread_mutex_unlock(&h->reap_lock);
    shr__names_repair(h);
    if (count || force)
        (void)shr__sweep(h, SWEEP_OWN); /* what the dead were writing */
    if (reaped)
        *reaped = count;
    return 0;
}

/* A clean leave: the own bits go at once, and the slot.  The caller uses the heap no more. */
void shr__reap_self(sharena_heap *h)
{
    struct slot_shm *me = shr__slot(h, h->slot);
    uint64_t state = SHR_STATE(h->k, SLOT_LIVE);

    clear_slot(h, h->slot);
    shr__tickets_reap(h, h->slot);
    (void)cas64_seq(&me->state, &state, SHR_STATE(h->k, SLOT_CLOSING));
    shr__slot_free_closing(h);
}

/* Takes the slot kept for this, clears what a killed holder of it left, reaps, and leaves. */
int shr__reap_without_slot(sharena_heap *h)
{
    uint64_t k;
    void *page;
    int code = shr__reaper_slot_take(h, &k, &page);

    if (code)
        return code;
    h->slot = SHR_REAPER_SLOT;
    h->k = k;
    h->mine = (uint64_t)1 << SHR_REAPER_SLOT;
    h->lock_page = page;
    clear_slot(h, h->slot);
    shr__tickets_reap(h, h->slot);
    (void)shr__reap(h, NULL, 1);
    clear_slot(h, h->slot);
    store64_release(&shr__slot(h, SHR_REAPER_SLOT)->state, SHR_STATE(k + 1, SLOT_FREE));
    h->lock_page = NULL;
    h->slot = SHR_SLOTS;
    shr__sys_lock_page_drop(page);
    return 0;
}
