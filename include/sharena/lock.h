/* A lock between processes that outlives its holders.
 *
 * It lies in a block of a heap, which whoever uses it holds: two words, all zero to begin with.
 * A thread holds it, as often as it likes, until it has released it as often.  When the process
 * of the holder dies, at whatever instruction, the next one who wants the lock gets it, within
 * 50 ms if he waits already, and can ask whether that happened.  A forked child does not hold
 * what its parent holds.  A thread that ends while its process lives leaves it locked.
 *
 * Codes and details as in sharena.h.
 */
#ifndef SHARENA_LOCK_H
#define SHARENA_LOCK_H

#include "sharena.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sharena_lock {
    uint64_t owner, count; /* for the functions below only; 0, 0: free */
} sharena_lock;

/* timeout_ms: 0 tries, below 0 waits for ever.  SHARENA_EBUSY: somebody else holds it still;
 * SHARENA_EINTERRUPTED: the callback of sharena_set_interrupt(), which is asked at least every
 * 50 ms, said so. */
SHARENA_API int sharena_lock_acquire(sharena_heap *, sharena_lock *, int64_t timeout_ms);
/* SHARENA_EPERM: this thread does not hold it. */
SHARENA_API int sharena_lock_release(sharena_heap *, sharena_lock *);
/* How often this thread has taken it; 0: it does not hold it. */
SHARENA_API uint64_t sharena_lock_count(sharena_heap *, const sharena_lock *);
/* 1: some thread of a living process holds it. */
SHARENA_API int sharena_lock_held(sharena_heap *, const sharena_lock *);
/* By its holder: 1 if a process died holding it since this was asked last, so that what it
 * protects may be half changed; else 0.  SHARENA_EPERM as above. */
SHARENA_API int sharena_lock_abandoned(sharena_heap *, sharena_lock *);

#ifdef __cplusplus
}
#endif
#endif
