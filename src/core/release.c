/* Release: what whoever drops a reference owes afterwards.
 *
 * Dropping is one fetch-and (descriptor.c).  Whoever leaves a small mask at 0 raises the
 * unit's hint, so that the slab's owner finds the block at its next rescan; if the slab has
 * no owner (S alone) and is empty now, the releaser adopts it and gives it back.  Whoever
 * leaves a run's mask at 0 notes it as a candidate for the next search, and punches it if the
 * heap keeps more free memory than its budget.
 *
 * A kill between the fetch-and and these duties only delays: the next rescan, trim or search
 * finds the same facts in the masks.
 */
#include "internal.h"

static void after_small(sharena_heap *h, const struct block *b, int how)
{
    uint32_t hinted;

    if (how == DROP_LAST) {
        /* hint, then a look at S: abandoning does it the other way round; all seq_cst */
        hinted = load32_seq(&b->unit->hint); /* often up already; the mask's swap is before it */
        if (!hinted)
            hinted = or32_seq(&b->unit->hint, 1);
        if (load64_seq(&b->unit->mask) == SHR_BIT_S) {
            if (shr__slab_looks_empty(h, b->head, b->index))
                (void)shr__slab_collect(h, b->head);
            else if (!hinted)
                (void)add32_release(&h->control->abandoned[b->class], 1);
        }
    }
    if (shr__slab_at(h, b->head))
        shr__slab_left(h, b->head);
}

void shr__after_drop(sharena_heap *h, const struct block *b, int how)
{
    if (how != DROP_SHARED && how != DROP_LAST)
        return;
    if (b->class) {
        after_small(h, b, how);
    } else if (how == DROP_LAST && b->size) { /* 0: a damaged heap, it was held as a small one */
        shr__run_freed(h, b->head, b->size >> SHR_UNIT_SHIFT);
        shr__retain_check(h, b->head);
        shr__decay(h);
    }
}

int shr__release(sharena_heap *h, uint64_t offset)
{
    struct shard *d = shr__lock(h, offset >> SHR_UNIT_SHIFT);
    struct block b;
    int how = shr__decode(h, offset, &b);

    if (how == 0)
        how = shr__drop(h, d, &b);
    shr__unlock(d);
    if (how < 0)
        return how == SHARENA_ECORRUPT ? how : SHARENA_ENOTHELD;
    shr__after_drop(h, &b, how);
    return 0;
}
