/* A magazine's two operations, inlined where a small block's nanoseconds go. */
#ifndef SHR_MAGAZINE_H
#define SHR_MAGAZINE_H

#include "internal.h"

/* For flags that are valid. */
static inline uint8_t shr__out_of(unsigned flags)
{
    return (uint8_t)(OUT_SHARED + flags / SHARENA_UNSHARED);
}

/* One that is always empty for what is no small block. */
static inline struct magazine *shr__magazine_for(struct lane *l, size_t size)
{
    if (SHR_LIKELY(size <= SHR_DIRECT_MAX))
        return l->direct[(size + 15) >> 4];
    return &l->magazines[size <= SHR_SMALL_MAX ? shr__class_of[(size + 15) >> 4] : 0];
}

/* In the bracket: the next block, or NULL.  `out`: OUT_. */
static inline void *shr__magazine_pop(struct magazine *m, uint8_t out)
{
    struct at_hand *top = m->top;
    void *p = top->block;

    if (SHR_LIKELY(p != NULL)) {
        store8_relaxed(top->out, out);
        m->top = top - 1;
    }
    return p;
}

/* In the bracket: a block of a slab of the lane in which nothing carries a mark.  0: no room,
 * or it is no block, or not out. */
static inline int shr__magazine_push(struct slab *s, const void *block)
{
    uint64_t divides = s->divides;
    __extension__ unsigned __int128 product =
        (unsigned __int128)(uint64_t)((const uint8_t *)block - s->start) * divides;
    struct magazine *m;
    struct at_hand *top;
    shr_a8 *out;

    if (SHR_UNLIKELY((uint64_t)product >= divides))
        return 0;
    out = &s->out[product >> 64];
    if (SHR_UNLIKELY(!load8_relaxed(out)))
        return 0;
    m = s->magazine;
    top = m->top;
    if (SHR_UNLIKELY(top >= m->last))
        return 0;
    top++;
    store8_relaxed(out, 0);
    top->block = (void *)(uintptr_t)block;
    top->out = out;
    m->top = top;
    return 1;
}

#endif
