/* What the tests of large blocks at hand have in common. */
#ifndef SHR_HAND_KIT_H
#define SHR_HAND_KIT_H

#include "hand.h"
#include "harness.h"

#define MIB (UINT64_C(1) << 20)
#define KIB64 ((size_t)65536)

static inline void *get(sharena_heap *heap, size_t size)
{
    void *block;
    CHECK_OK(sharena_allocate(heap, size, 0, 0, &block));
    return block;
}

static inline uint64_t unit_of(const sharena_heap *heap, const void *block)
{
    return (uint64_t)((const uint8_t *)block - heap->data) >> SHR_UNIT_SHIFT;
}

static inline struct unit_shm *header(const sharena_heap *heap, const void *block)
{
    return &heap->units[unit_of(heap, block)];
}

static inline uint32_t at_hand(const sharena_heap *heap)
{
    const struct lane *l = shr__lane_current(heap);
    return l ? l->hand.n : 0;
}

/* A block that was released and lies at hand. */
static inline void *released(sharena_heap *heap, size_t size)
{
    uint32_t before = at_hand(heap);
    void *block = get(heap, size);
    CHECK_OK(sharena_release(heap, block));
    CHECK_EQ(at_hand(heap), before + 1);
    return block;
}

#endif
