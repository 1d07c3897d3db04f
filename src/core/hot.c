/* The hot functions: a block that lies at hand goes out, or comes back.
 *
 * They take no atomic read-modify-write, no lock, and touch no shared memory: a lane's
 * magazines are private.  Whatever else there may be to do is alloc.c's, reached by a jump, so
 * that nothing is saved on the stack here.  Every instruction counts: docs/performance.md.
 */
#include "hand.h"
#include "magazine.h"

#define HOT __attribute__((aligned(64))) /* where else they start costs up to a tenth */

/* What lies at hand, or NULL: shr__allocate() then leaves the bracket. */
static inline void *take(sharena_heap *h, size_t size, uint8_t out)
{
    struct lane *l = atomic_load_explicit(&shr__current, memory_order_relaxed);
    void *p = NULL;

    if (SHR_LIKELY(shr__enter_current(l, h)))
        p = shr__magazine_pop(shr__magazine_for(l, size), out);
    if (SHR_LIKELY(p != NULL))
        shr__exit(l);
    return p;
}

static __attribute__((noinline)) void *otherwise(sharena_heap *h, size_t size)
{
    void *p = NULL;
    int code = shr__allocate(h, size, 0, 0, &p);

    if (code)
        shr__code = code;
    return p;
}

HOT void *sharena_malloc(sharena_heap *h, size_t size)
{
    void *p = take(h, size, OUT_SHARED);

    return SHR_LIKELY(p != NULL) ? p : otherwise(h, size);
}

/* A block of the own lane, in a slab where nothing carries a mark. */
HOT int sharena_release(sharena_heap *h, const void *block)
{
    uint64_t offset = (uint64_t)((const uint8_t *)block - h->data);
    struct lane *l = atomic_load_explicit(&shr__current, memory_order_relaxed);

    if (SHR_LIKELY(offset < h->data_bytes && shr__enter_current(l, h))) {
        struct slab *s = shr__slab_at(h, offset >> SHR_UNIT_SHIFT);
        if (SHR_LIKELY(s && shr_same_acquire(&s->plain, l) && shr__magazine_push(s, block))) {
            shr__exit(l);
            return 0;
        }
    }
    return shr__free(h, block);
}

static __attribute__((noinline)) int zeroed(void *p, size_t size)
{
    memset(p, 0, size);
    return 0;
}

HOT int sharena_allocate(sharena_heap *h, size_t size, size_t align, unsigned flags, void **out)
{
    void *p = NULL;

    if (SHR_LIKELY((align | flags >> 1) <= 1))
        p = take(h, size, shr__out_of(flags));
    if (SHR_UNLIKELY(!p))
        return shr__allocate(h, size, align, flags, out);
    *out = p;
    return SHR_LIKELY(!(flags & SHARENA_ZERO)) ? 0 : zeroed(p, size);
}

void *sharena_malloc_at_hand(sharena_heap *h, size_t size)
{
    struct lane *l = shr__lane_current(h);
    void *p;

    if (!l || size == 0)
        return NULL;
    if (size > SHR_SMALL_MAX)
        return shr__hand_take(l, size);
    if (!shr__enter(l))
        return NULL;
    p = shr__magazine_pop(shr__magazine_for(l, size), OUT_SHARED);
    shr__exit(l);
    return p;
}

int sharena_release_at_hand(sharena_heap *h, const void *block)
{
    uint64_t offset = (uint64_t)((const uint8_t *)block - h->data);
    struct lane *l = shr__lane_current(h);
    struct slab *s;
    int done;

    if (!l || offset >= h->data_bytes || !shr__enter(l))
        return 0;
    s = shr__slab_at(h, offset >> SHR_UNIT_SHIFT);
    if (s && !s->class)
        done = shr__hand_push(&l->hand, s, block) == 0;
    else
        done = s && shr_same_acquire(&s->plain, l) && shr__magazine_push(s, block);
    shr__exit(l);
    return done;
}
