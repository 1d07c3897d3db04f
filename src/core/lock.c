/* Robust locks in the caller's own blocks, recursive, with a futex.
 *
 * One word says who holds the lock and who he is: {slot, incarnation, thread}.  So whoever wants
 * it can tell at any time whether the holder lives, and takes it over from a dead one by a swap
 * of that very word.  Nobody is ever asked for help: a waiter sleeps for SLICE_MS at most, then
 * looks at the holder's slot itself.
 *
 * Who writes what: the owner word changes by read-modify-write only: by who takes the lock, free
 * or from the dead; by waiters, who set WAITERS; by the owner, who frees it or clears DIED.  The
 * count is the owner's alone.
 *
 * What a kill leaves: before the swap that takes it, a free lock, or one of a dead owner, maybe
 * with WAITERS set, which costs one idle wake.  From that swap to the one that frees it, a lock
 * of a dead owner, whatever its count: the next one takes it.  After that, a free lock whose
 * sleepers nobody woke: they look by themselves within the slice.
 *
 * A guest shares its parent's slot, which lives as long as one of them: for it, and for a parent
 * that may have guests, the kernel is asked about the number of the thread or process as well.
 * A number that was given to another one since counts as alive.  A guest in another pid namespace
 * than its slot gets no lock: its number may be another guest's, too.
 */
#include "waiting.h"

#include "sharena/lock.h"

#define SLICE_MS 50u
#define SPINS 100u

#define WAITERS 1u /* somebody may be asleep: who frees the lock wakes one */
#define DIED 2u /* a holder died since the flag was cleared; it stays when the lock is free */
#define SLOT_SHIFT 2
#define KIND_SHIFT 8
#define THREAD_SHIFT 10
#define K_SHIFT 32
#define FLAGS ((uint64_t)(WAITERS | DIED))
#define OWNER (~FLAGS)

enum { OWN_SLOT, GUEST, GUEST_ELSEWHERE }; /* kinds */

_Static_assert(sizeof(struct lock_shm) == sizeof(sharena_lock), "one layout, two types");
_Static_assert(SHR_SLOTS < 1u << (KIND_SHIFT - SLOT_SHIFT), "a slot + 1 fits");

static unsigned slot_of(uint64_t word)
{
    return (unsigned)(word >> SLOT_SHIFT & 63u);
}

static unsigned kind_of(uint64_t word)
{
    return (unsigned)(word >> KIND_SHIFT & 3u);
}

static unsigned own_kind(const sharena_heap *h)
{
    if (!h->guest)
        return OWN_SLOT;
    return shr__sys_pidns() == load64_relaxed(&shr__slot(h, h->slot)->pidns) ? GUEST
                                                                             : GUEST_ELSEWHERE;
}

/* The owner word of this thread, without flags. */
static uint64_t own_word(const sharena_heap *h)
{
    return (h->k & UINT32_MAX) << K_SHIFT | (uint64_t)shr__thread_number() << THREAD_SHIFT |
           (uint64_t)own_kind(h) << KIND_SHIFT | (uint64_t)(h->slot + 1) << SLOT_SHIFT;
}

/* NULL, and a SHARENA_EINVAL told: no lock can be there. */
static struct lock_shm *find(const sharena_heap *h, const sharena_lock *lock)
{
    uint64_t offset = (uint64_t)((const uint8_t *)lock - h->data);
    char name[96];

    if (offset <= h->data_bytes - sizeof *lock && offset % sizeof(uint64_t) == 0)
        return (struct lock_shm *)(void *)(h->data + offset);
    (void)shr__fail(SHARENA_EINVAL,
                    "%p is no place for a lock: it must be in a block of %s, aligned to 8 bytes",
                    (const void *)lock, shr__label(h, name));
    return NULL;
}

static int damaged(const sharena_heap *h, const struct lock_shm *l)
{
    char name[96];

    return shr__fail(SHARENA_ECORRUPT,
                     "%s: the lock at %p is damaged: something else was written there",
                     shr__label(h, name), (const void *)l);
}

static int not_owner(const sharena_heap *h)
{
    char name[96];

    return shr__fail(SHARENA_EPERM, "%s: this thread does not hold the lock",
                     shr__label(h, name));
}

/* Has process or thread `number`, of the slot's pid namespace, ended? */
static int number_gone(const struct slot_shm *slot, int number)
{
    return number > 0 && load64_relaxed(&slot->pidns) == shr__sys_pidns() &&
           shr__sys_gone(number);
}

/* Has who holds it left: 1; 0: lives, or it can't be told; SHARENA_ECORRUPT: no such slot. */
static int owner_gone(sharena_heap *h, const struct lock_shm *l, uint64_t word)
{
    unsigned slot = slot_of(word);
    uint64_t state, judged;
    struct slot_shm *p;
    int number;

    if (slot == 0 || slot > SHR_SLOTS || kind_of(word) > GUEST_ELSEWHERE)
        return damaged(h, l);
    p = shr__slot(h, slot - 1);
    state = load64_acquire(&p->state);
    if ((SHR_K_OF(state) & UINT32_MAX) != word >> K_SHIFT || SHR_STATE_OF(state) == SLOT_FREE ||
        SHR_STATE_OF(state) == SLOT_CLOSING)
        return 1;
    if (shr__slot_dead(h, slot - 1, &judged))
        return judged == state;
    if (SHR_STATE_OF(state) != SLOT_LIVE || kind_of(word) == GUEST_ELSEWHERE)
        return 0;
    if (kind_of(word) == GUEST)
        number = (int)(word >> THREAD_SHIFT & ((1u << (K_SHIFT - THREAD_SHIFT)) - 1));
    else if (slot - 1 == h->slot ? h->guest != 0 : load32_relaxed(&p->guests) != 0)
        number = (int)load32_relaxed(&p->pid);
    else
        return 0;
    return number_gone(p, number) && load64_seq(&p->state) == state;
}

/* One attempt, for which *seen was loaded with acquire: 1, taken; 0; or a code.  `flags`: what
 * the new owner sets. */
static int take(sharena_heap *h, struct lock_shm *l, uint64_t *seen, uint64_t own, uint64_t flags)
{
    if (*seen & OWNER) {
        int gone = owner_gone(h, l, *seen);
        if (gone <= 0)
            return gone;
        flags |= DIED;
    }
    if (!cas64_acq_rel(&l->owner, seen, own | flags | (*seen & FLAGS)))
        return 0;
    store64_relaxed(&l->count, 1);
    return 1;
}

static int interrupted(void)
{
    return shr__interrupt && shr__interrupt(shr__interrupt_argument)
               ? shr__fail(SHARENA_EINTERRUPTED, "interrupted while waiting for a lock")
               : 0;
}

static int busy(const sharena_heap *h)
{
    char name[96];

    return shr__fail(SHARENA_EBUSY, "%s: another thread or process holds the lock",
                     shr__label(h, name));
}

/* Sleeps until the lock is free, or for one slice.  `seen` has an owner. */
static void sleep_on(struct lock_shm *l, uint64_t seen, uint64_t left_ms)
{
    if (!(seen & WAITERS) && !cas64_acq_rel(&l->owner, &seen, seen | WAITERS))
        return;
    shr__sys_wait_shared(&l->owner, (uint32_t)(seen | WAITERS),
                         left_ms < SLICE_MS ? (uint32_t)left_ms : SLICE_MS);
}

/* Others may be asleep as well: so whoever slept leaves WAITERS set. */
static int wait_for(sharena_heap *h, struct lock_shm *l, uint64_t own, int64_t timeout_ms)
{
    uint64_t since = shr__sys_mono_ns(), flags = 0, left_ms = SLICE_MS;

    for (;;) {
        uint64_t seen = load64_acquire(&l->owner);
        int code;
        if ((seen & OWNER) == own) { /* a signal handler has taken it meanwhile */
            store64_relaxed(&l->count, load64_relaxed(&l->count) + 1);
            return 0;
        }
        code = take(h, l, &seen, own, flags);
        if (code > 0)
            return 0;
        if (code == 0)
            code = interrupted();
        if (code)
            return code;
        if (timeout_ms >= 0) {
            uint64_t spent_ms = (shr__sys_mono_ns() - since) / 1000000u;
            if (spent_ms >= (uint64_t)timeout_ms)
                return busy(h);
            left_ms = (uint64_t)timeout_ms - spent_ms;
        }
        if (seen & OWNER) {
            sleep_on(l, seen, left_ms);
            flags = WAITERS;
        }
    }
}

int sharena_lock_acquire(sharena_heap *h, sharena_lock *lock, int64_t timeout_ms)
{
    struct lock_shm *l = find(h, lock);
    uint64_t seen, own = own_word(h);
    int code;

    if (!l)
        return SHARENA_EINVAL;
    if (kind_of(own) == GUEST_ELSEWHERE) /* its number is others', too */
        return shr__guest_fail(h);
    seen = load64_acquire(&l->owner);
    if ((seen & OWNER) == own) {
        store64_relaxed(&l->count, load64_relaxed(&l->count) + 1);
        return 0;
    }
    for (unsigned spins = 0; timeout_ms && (seen & OWNER) && spins < SPINS; spins++) {
        shr_pause();
        seen = load64_acquire(&l->owner);
    }
    if (!(seen & OWNER) || timeout_ms == 0) {
        uint64_t before;
        do { /* a waiter's flag is no reason to give up */
            before = seen;
            code = take(h, l, &seen, own, 0);
        } while (code == 0 && seen != before && !((seen ^ before) & OWNER));
        if (code)
            return code > 0 ? 0 : code;
    }
    return timeout_ms ? wait_for(h, l, own, timeout_ms) : busy(h);
}

int sharena_lock_release(sharena_heap *h, sharena_lock *lock)
{
    struct lock_shm *l = find(h, lock);
    uint64_t seen, count;

    if (!l)
        return SHARENA_EINVAL;
    seen = load64_relaxed(&l->owner);
    if ((seen & OWNER) != own_word(h))
        return not_owner(h);
    count = load64_relaxed(&l->count);
    if (count > 1) {
        store64_relaxed(&l->count, count - 1);
        return 0;
    }
    if (swap64_release(&l->owner, seen & DIED) & WAITERS)
        shr__sys_wake_shared(&l->owner);
    return 0;
}

uint64_t sharena_lock_count(sharena_heap *h, const sharena_lock *lock)
{
    struct lock_shm *l = find(h, lock);

    if (!l || (load64_relaxed(&l->owner) & OWNER) != own_word(h))
        return 0;
    return load64_relaxed(&l->count);
}

int sharena_lock_held(sharena_heap *h, const sharena_lock *lock)
{
    struct lock_shm *l = find(h, lock);
    uint64_t seen;
    int code;

    if (!l)
        return SHARENA_EINVAL;
    seen = load64_acquire(&l->owner);
    if (!(seen & OWNER))
        return 0;
    code = owner_gone(h, l, seen);
    return code < 0 ? code : !code;
}

int sharena_lock_abandoned(sharena_heap *h, sharena_lock *lock)
{
    struct lock_shm *l = find(h, lock);
    uint64_t seen;

    if (!l)
        return SHARENA_EINVAL;
    seen = load64_relaxed(&l->owner);
    if ((seen & OWNER) != own_word(h))
        return not_owner(h);
    if (!(seen & DIED))
        return 0;
    (void)and64_relaxed(&l->owner, ~(uint64_t)DIED);
    return 1;
}
