/* Large blocks at hand: hand.c. */
#ifndef SHR_HAND_H
#define SHR_HAND_H

#include "internal.h"

#define HAND_RUN_UNITS 128u /* larger ones are not kept */

/* descriptor.c, under the unit lock: held once, and nobody else can know it; NULL if not so. */
struct holding *shr__exclusive(sharena_heap *h, struct shard *, const struct block *);

/* From the calling thread's lane: a block for so many bytes, aligned to a unit, or NULL. */
void *shr__hand_take(struct lane *, uint64_t size);
void *shr__hand_get(sharena_heap *h, uint64_t size); /* the same, and looks now and then */
/* In the bracket, of a struct of class 0: 0, SHARENA_ENOTHELD, or SHARENA_EBUSY: not so simply. */
int shr__hand_push(struct hand *, struct slab *, const void *block);
/* Lets go of what lay idle in the calling thread's hand. */
void shr__hand_look(sharena_heap *h);
/* The longer way to hand for what is released.  0: the caller must release it. */
int shr__hand_keep(sharena_heap *h, uint64_t offset);
/* Empties the hand of a lane of this thread, which ends. */
void shr__hand_leave(sharena_heap *h, struct lane *);
/* Empties all hands; the lanes are stopped.  locked: the caller has every unit lock. */
void shr__hands_empty(sharena_heap *h, int locked);

#endif
