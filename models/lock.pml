/* The robust lock (src/core/lock.c): one word {who, waiters, died}, a futex that is slept on in slices.
 *
 * Three processes want the lock once; two of them may be killed at any step.  When the first is dead, a fourth takes its slot, in the
 * next life.  Who takes the lock, but for B, looks whether what it protects is half changed: then it must have been told of a death.
 *
 * Rules: the word names the life of the holder, and is taken over by a swap of the very word that was judged; a death stays in the word
 * until it is asked about, also over a release; whoever slept leaves `waiters` set, for others may sleep as well; who sleeps looks again
 * after a slice.
 * Invariants: one living holder; nothing half changed without a death told; at the end every living one has had the lock.
 * Mutants: M_STORE (taken over by a store)  M_NOLIFE (the word names the slot only)  M_NODIED (no death told)  M_FREEFORGETS (a release
 *   forgets the death)  M_NOSLICE (sleeps until woken)
 */
#define A 1
#define B 2
#define C 3
#define NEXT 4      /* in A's slot */
byte owner; bool waiters, died;
bool half;          /* what the lock protects is being changed */
byte inside;        /* living holders, as they see it: a ghost */
bool dead[5]; bool done[5]; bool asleep[5]; byte slices[5]; bool taken; /* by _pid */

#ifdef M_NOLIFE
#define GONE(q) (dead[q] && !(q == A && taken))
#else
#define GONE(q) dead[q]
#endif

/* Time passes when nobody can do anything else; three times are more than anybody needs. */
#ifdef M_NOSLICE
#define SLICE(q) 0
#else
#define SLICE(q) (asleep[q] && !dead[q] && slices[q] < 3)
#endif
#define ME (1 << _pid)
#define WITH(q) (q != _pid && (inside >> q & 1) && !dead[q])

proctype user() provided (!dead[_pid]) {
    byte seen; bool wake, slept;
    if
    :: _pid != NEXT
    :: _pid == NEXT -> atomic { dead[A] -> taken = 1 }
    fi;
again:
    seen = owner;
    if
    :: seen == 0 ->
        atomic {
            if :: owner == 0 -> owner = _pid; waiters = waiters | slept :: else -> goto again fi;
            inside = inside | ME
        }
    :: seen != 0 && GONE(seen) ->
#ifdef M_STORE
        atomic { owner = _pid; died = 1; inside = inside | ME }
#else
        atomic {
            if :: owner == seen -> owner = _pid; waiters = waiters | slept :: else -> goto again fi;
#ifndef M_NODIED
            died = 1;
#endif
            inside = inside | ME
        }
#endif
    :: seen != 0 && !GONE(seen) ->
        atomic { if :: owner == seen -> waiters = 1 :: else -> goto again fi };
        atomic { if :: owner == seen -> asleep[_pid] = 1 :: else -> goto again fi };
        slept = 1;
        if
        :: !asleep[_pid]
        :: SLICE(_pid) && timeout -> atomic { asleep[_pid] = 0; slices[_pid]++ }
        fi;
        goto again
    fi;
    atomic {
        assert(!WITH(A) && !WITH(B) && !WITH(C) && !WITH(NEXT));
        if :: half && _pid != B -> assert(died); half = 0 :: else fi
    };
    if
    :: _pid == B        /* neither asks nor looks */
    :: _pid != B -> died = 0; half = 1; half = 0
    fi;
    atomic {
        inside = inside & ~ME;
        owner = 0;
        wake = waiters; waiters = 0;
#ifdef M_FREEFORGETS
        died = 0
#endif
    };
    if
    :: wake ->
        if
        :: atomic { asleep[A] -> asleep[A] = 0 }
        :: atomic { asleep[B] -> asleep[B] = 0 }
        :: atomic { asleep[C] -> asleep[C] = 0 }
        :: atomic { asleep[NEXT] -> asleep[NEXT] = 0 }
        :: atomic { !asleep[A] && !asleep[B] && !asleep[C] && !asleep[NEXT] -> skip }
        fi
    :: else
    fi;
    done[_pid] = 1
}
proctype last() {
    timeout && !SLICE(A) && !SLICE(B) && !SLICE(C) && !SLICE(NEXT) ->
    assert((done[A] || dead[A]) && (done[B] || dead[B]) && done[C] && (done[NEXT] || !dead[A]))
}
proctype killer() {
    if :: dead[A] = 1 :: 1 fi;
    if :: dead[B] = 1 :: 1 fi
}
init { atomic { run user(); run user(); run user(); run user(); run killer(); run last() } }
