/* Blocks made for a process's own use: SHARENA_UNSHARED.
 *
 * A hint for whoever hands over memory: programs that put all that they allocate into the heap
 * don't mean to share all of it.  The core does nothing else with it.
 *
 * Where nobody else can know the block, it is noted privately: in the byte by which a lane says
 * that a small block is out, in the holdings for a run.  So it costs the hot functions nothing.
 * Whoever sets the first mark (a fork, a handle, a name, a second reference) turns the note into
 * a mark (shr__export_mark()), which all holders see, and any of them may take off.
 *
 * A kill leaves a block that is unshared, or is not.
 */
#include "internal.h"

/* Of a block that this process holds. */
int shr__is_unshared(sharena_heap *h, const struct block *b)
{
    struct shard *d;
    uint64_t marks = shr__marks(b);

    if (marks)
        return (marks & SHR_MARK_UNSHARED) != 0;
    if (b->class)
        return shr__unshared_mark(h, b) != 0;
    d = shr__lock(h, b->head);
    marks = shr__unshared_mark(h, b);
    shr__unlock(d);
    return marks != 0;
}

static void change_marks(const struct block *b, uint64_t off, uint64_t on)
{
    if (b->class) {
        (void)or64_acq_rel(b->gen, on);
        (void)and64_acq_rel(b->gen, ~off);
    } else {
        (void)or32_acq_rel(&b->unit->mark, (uint32_t)(on >> 61));
        (void)and32_acq_rel(&b->unit->mark, ~(uint32_t)(off >> 61));
    }
}

/* The caller holds the block, or it is SHARENA_ENOTHELD. */
int shr__set_unshared(sharena_heap *h, uint64_t offset, int yes)
{
    struct shard *d = shr__lock(h, offset >> SHR_UNIT_SHIFT);
    struct holding *e = shr__holding(d, offset);
    struct block b;
    shr_a8 *out;
    int code = shr__decode(h, offset, &b);

    if (code == 0 && !shr__is_mine(h, d, &b))
        code = SHARENA_ENOTHELD;
    if (code == 0) {
        out = shr__out(h, &b);
        if (shr__marks(&b)) /* else a lane may be at its gen with plain stores */
            change_marks(&b, yes ? 0 : SHR_MARK_UNSHARED, yes ? SHR_MARK_UNSHARED : 0);
        else if (out) /* it stays: a slab is not left while it has such blocks */
            store8_relaxed(out, yes ? OUT_UNSHARED : OUT_SHARED);
        else if (e)
            e->unshared = (uint16_t)yes;
    }
    shr__unlock(d);
    return code;
}

int sharena_set_shared(sharena_heap *h, const void *block)
{
    return shr__set_unshared(h, (uint64_t)((const uint8_t *)block - h->data), 0)
               ? shr__not_held(h, block)
               : 0;
}
