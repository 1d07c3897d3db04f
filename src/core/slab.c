/* Slabs: runs cut into small blocks of one class.
 *
 * {S, p} in a run's mask says that a lane of process p owns the slab; S alone, that it is
 * abandoned: others can empty, adopt and re-use it.  The class word says how it is cut; it is
 * stored last on the way in and first on the way out, and implies S.
 *
 *   cut        number of every small block := the largest number of the units; pass the unit
 *              locks; S; inner class words; the head's class word
 *   adopt      S → {S, mine} by CAS; pass the unit locks; class 0: drop S, it is a free run
 *   give back  owner, all masks seen 0: numbers of all units above every small one; class
 *              words to 0, the head's first; S and the own bit away
 *   abandon    owner: mark the own blocks in it; own bit away; look once more
 *
 * Here are the transitions; which lane of a process owns a slab, and which of its blocks are
 * free, is small.c's private knowledge.  Nothing here runs inside a bracket.
 *
 * A kill leaves: a free run (before S), S with class 0 (the adopter drops S), or S with a
 * class (the adopter rescans).
 */
#include "internal.h"

/* ---- cut, adopt, give back, abandon ----------------------------------------------------------------- */

/* Waits out acquirers of this process that decoded the units' earlier layout. */
static void pass_locks(sharena_heap *h, uint64_t unit, uint64_t units)
{
    for (uint64_t u = unit; u < unit + units && u < unit + SHR_SHARDS; u++)
        shr__unlock(shr__lock(h, u));
}

static uint64_t largest_number(const sharena_heap *h, uint64_t unit, uint64_t units)
{
    uint64_t largest = 0;

    for (uint64_t u = unit; u < unit + units; u++) {
        uint64_t n = load64_acquire(&h->units[u].gen) >> 1;
        largest = n > largest ? n : largest;
    }
    return largest;
}

int shr__slab_descriptors(sharena_heap *h, uint64_t unit, uint32_t pages)
{
    uint32_t have = load32_acquire(&h->units[unit].pages);
    int code;

    if (have >= pages)
        return 0;
    code = shr__commit_meta(
        h, h->super.descriptors + (unit << SHR_UNIT_SHIFT) + (uint64_t)have * SHR_PAGE,
        (uint64_t)(pages - have) * SHR_PAGE);
    if (code == 0) {
        (void)add64_relaxed(&h->control->committed_meta, (uint64_t)(pages - have) * SHR_PAGE);
        store32_release(&h->units[unit].pages, pages);
    }
    return code;
}

/* Cuts the committed run at `unit`, held in full.  Numbers first, S, inner class words, the
 * head's class word last: it makes the slab. */
void shr__slab_cut(sharena_heap *h, uint64_t unit, uint32_t class)
{
    const struct shr_class *c = &shr__classes[class];
    struct desc_shm *descs = &h->descs[unit << 12];
    uint64_t number = largest_number(h, unit, c->units);

    for (uint32_t i = 0; i < c->capacity; i++)
        store64_relaxed(&descs[i].gen, number);
    store32_relaxed(&h->units[unit].hint, 0);
    pass_locks(h, unit, c->units);
    (void)or64_acq_rel(&h->units[unit].mask, SHR_BIT_S);
    for (uint32_t i = 1; i < c->units; i++)
        store32_release(&h->units[unit + i].class, class | i << 8);
    store32_release(&h->units[unit].class, class);
}

/* Class words away, the head's first; then S and the own bit: a free run.  Whoever finds S
 * without a class does the rest of this. */
static void uncut(sharena_heap *h, uint64_t unit, uint64_t units)
{
    store32_release(&h->units[unit].class, 0);
    for (uint64_t i = 1; i < units; i++)
        if (load32_relaxed(&h->units[unit + i].class))
            store32_release(&h->units[unit + i].class, 0);
    (void)shr__retained_add(h, unit, units);
    (void)and64_release(&h->units[unit].mask, ~(SHR_BIT_S | h->mine));
    shr__run_freed(h, unit, units);
    shr__retain_check(h, unit);
}

/* Owned, every mask seen 0.  The numbers of all units rise above every small one first (I5). */
static void give_back(sharena_heap *h, uint64_t unit, uint32_t class)
{
    const struct shr_class *c = &shr__classes[class];
    uint64_t number = largest_number(h, unit, c->units);

    for (uint32_t i = 0; i < c->capacity; i++) {
        uint64_t n = load64_relaxed(&h->descs[(unit << 12) + i].gen) & ~SHR_MARKS;
        number = n > number ? n : number;
    }
    for (uint64_t u = unit; u < unit + c->units; u++) {
        uint64_t gen = load64_relaxed(&h->units[u].gen);
        while (!cas64_acq_rel(&h->units[u].gen, &gen, (number + 1) << 1))
            ;
    }
    uncut(h, unit, c->units);
}

static int all_free(const sharena_heap *h, uint64_t unit, uint32_t class)
{
    for (uint32_t i = 0; i < shr__classes[class].capacity; i++)
        if (load64_acquire(&h->descs[(unit << 12) + i].mask))
            return 0;
    return 1;
}

static int any_free(sharena_heap *h, uint64_t unit, uint32_t class)
{
    /* the hint goes first: whoever frees a block after this raises it again */
    (void)and32_acq_rel(&h->units[unit].hint, 0);
    for (uint32_t i = 0; i < shr__classes[class].capacity; i++)
        if (load64_acquire(&h->descs[(unit << 12) + i].mask) == 0)
            return 1;
    return 0;
}

/* Blocks of mine that are still private get the mark first: from now on others act on this
 * slab, and a plain store would wipe their bits. */
static void abandon(sharena_heap *h, uint64_t unit, uint32_t class)
{
    uint32_t free_blocks = 0;

    for (uint32_t i = 0; i < shr__classes[class].capacity; i++) {
        struct desc_shm *d = &h->descs[(unit << 12) + i];
        uint64_t m = load64_relaxed(&d->mask);
        free_blocks += m == 0;
        if ((m & h->mine) && !(load64_relaxed(&d->gen) & SHR_MARKS))
            (void)or64_acq_rel(&d->gen, SHR_MARK_SHARED);
    }
    if (free_blocks)
        (void)or32_release(&h->units[unit].hint, 1);
    /* seq_cst with the look at the hint, as the releaser's hint with its look at S */
    (void)and64_seq(&h->units[unit].mask, ~h->mine);
    (void)add32_release(&h->extents[unit / h->extent_units].changes, 1);
    if (free_blocks)
        (void)add32_release(&h->control->abandoned[class], 1);
    /* the last holder may have gone while it was still ours */
    if (load32_seq(&h->units[unit].hint) && all_free(h, unit, class))
        (void)shr__slab_collect(h, unit);
}

/* S alone → {S, mine}.  Returns the class word's class, 0 if the slab could not be had (or
 * was half cut, and is a free run now). */
static uint32_t adopt(sharena_heap *h, uint64_t unit)
{
    struct unit_shm *p = &h->units[unit];
    uint64_t m = SHR_BIT_S;
    uint32_t class;

    shr__touch(h, p, h->mine);
    if (!cas64_acq_rel(&p->mask, &m, SHR_BIT_S | h->mine))
        return 0;
    class = load32_acquire(&p->class);
    if (class == 0) {
        uint64_t units = shr__next_head(h, unit) - unit;
        pass_locks(h, unit, units);
        uncut(h, unit, units);
        return 0;
    }
    if (class >= shr__n_classes || load32_acquire(&p->pages) < shr__classes[class].pages ||
        shr__next_head(h, unit) - unit != shr__classes[class].units) {
        (void)and64_release(&p->mask, ~h->mine); /* damaged: the walker reports it */
        return 0;
    }
    pass_locks(h, unit, shr__classes[class].units);
    return class;
}

/* Lets an adopted slab go again.  Who emptied it while it was ours did not collect it: their
 * hint and look at S, our clearing and look at the hint are seq_cst. */
static int drop_adopted(sharena_heap *h, uint64_t unit, uint32_t class)
{
    (void)and64_seq(&h->units[unit].mask, ~h->mine);
    if (!load32_seq(&h->units[unit].hint))
        return 0;
    if (all_free(h, unit, class))
        return shr__slab_collect(h, unit);
    (void)add32_release(&h->control->abandoned[class], 1);
    return 0;
}

int shr__slab_collect(sharena_heap *h, uint64_t unit)
{
    uint32_t class = adopt(h, unit);

    if (!class)
        return 0;
    if (all_free(h, unit, class)) {
        give_back(h, unit, class);
        return 1;
    }
    return drop_adopted(h, unit, class);
}

/* A quick look from the block just freed: its neighbours are the likeliest to be held. */
int shr__slab_looks_empty(sharena_heap *h, uint64_t unit, uint32_t from)
{
    uint32_t class = load32_acquire(&h->units[unit].class);
    const struct desc_shm *descs = &h->descs[unit << 12];
    uint32_t n;

    if (class == 0)
        return 1;
    if (class >= shr__n_classes || from >= (n = shr__classes[class].capacity) ||
        load32_acquire(&h->units[unit].pages) < shr__classes[class].pages)
        return 0;
    if (from > 0 && load64_relaxed(&descs[from - 1].mask))
        return 0;
    for (uint32_t i = from + 1; i < n; i++)
        if (load64_relaxed(&descs[i].mask))
            return 0;
    for (uint32_t i = 0; i < from; i++)
        if (load64_relaxed(&descs[i].mask))
            return 0;
    return 1;
}

unsigned shr__slabs_collect(sharena_heap *h)
{
    uint64_t used = shr__used(h);
    unsigned collected = 0;

    for (uint64_t u = 0; u < used; u = shr__next_head(h, u))
        if (load64_acquire(&h->units[u].mask) == SHR_BIT_S && shr__slab_looks_empty(h, u, 0))
            collected += (unsigned)shr__slab_collect(h, u);
    return collected;
}

/* For an owner that keeps the slab in no list any more. */
void shr__slab_let_go(sharena_heap *h, uint64_t unit, uint32_t class)
{
    if (all_free(h, unit, class))
        give_back(h, unit, class);
    else
        abandon(h, unit, class);
}

/* An abandoned slab of the class with a free block, adopted: its head, or UINT64_MAX.  At most
 * so many heads are looked at. */
uint64_t shr__slab_adopt_any(sharena_heap *h, uint32_t class, uint32_t most)
{
    uint32_t seen = load32_acquire(&h->control->abandoned[class]), looks = 0;
    uint64_t used = shr__used(h);
    uint64_t u = load32_relaxed(&h->adopt_at[class]);

    if (seen == load32_relaxed(&h->adopt_seen[class]))
        return UINT64_MAX;
    for (; u < used && looks < most; u = shr__next_head(h, u), looks++) {
        struct unit_shm *p = &h->units[u];
        uint32_t got;
        if (load64_relaxed(&p->mask) != SHR_BIT_S || load32_relaxed(&p->class) != class ||
            !load32_relaxed(&p->hint))
            continue;
        store32_relaxed(&h->adopt_at[class], (uint32_t)u);
        got = adopt(h, u);
        if (got == class && any_free(h, u, class))
            return u;
        if (got) /* full, or cut anew since the look */
            (void)drop_adopted(h, u, got);
    }
    store32_relaxed(&h->adopt_at[class], u < used ? (uint32_t)u : 0);
    if (u >= used) /* all were looked at, some of them in earlier calls */
        store32_relaxed(&h->adopt_seen[class], seen);
    return UINT64_MAX;
}
