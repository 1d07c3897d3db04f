/* Threads of one process on one run: take, acquire, release with a private table (design, section 1, runs), at one mask word and (-DW2)
 * at two.
 *
 * Run v; two threads of P (slot bit 1 of word 0) and another process Q (W2: in word 1).  Every held run has an entry {v, g} in P's table.
 *
 * Actors: taker threads, which take v (as a stale hint might say: also when it is held), make a block of it, export it and release it;
 * a loader thread of P (LOAD2: two) and (LOADQ) of Q with any handle.
 * HELD: Q holds life 1 at the start and lets go some time; TAKER2: P's second taker instead of Q's.
 * A kill freezes all threads of a process between any two steps.
 *
 * Rules: W = 1: take CAS 0 -> mine, needs no lock.  W > 1: fetch-or under the unit's private lock, kept until the entry is made or the
 * take undone.  Acquire under that lock at every W; own bit set without an entry: stale, leave it.  Release under the lock: entry
 * first, then the bit.
 *
 * Invariants: a claim meets nobody; a believer's bit is set and its life is the run's; an acquirer does not fail while another process
 * surely holds; at the end a bit is set if and only if an entry or a believer is.
 *
 * Mutants: M_INHERIT (own bit and gen right without an entry: taken for inherited, as for small blocks)  M_UNDO (own bit set: undone all
 *   the same)  M_RELEASE (no lock, entry after the bit)  M_LOADNOLOCK; W2: M_TAKENOLOCK
 */
#ifndef NT
#define NT 3
#endif
#ifndef MAXK
#define MAXK 1
#endif
#ifndef NTK
#define NTK 3           /* takes tried */
#endif
#define OPEN(g) (2*(g))
#define CLOS(g) (2*(g) + 1)
#ifdef W2
#define WD(p) (p)
#else
#define WD(p) 0
#endif
#define B(p) (1 << (p))
byte m[2]; byte gen = 2;
bool lk[2]; byte cnt[2]; byte tg[2];                /* private: lock, entry */
byte bel[2]; byte tag = 1; byte excl;               /* ghosts: references believed in, the life = the number, who claims + 1 */
bool pub[NT+2]; bool sure; bool dead[3]; bool reaped[2]; byte pp[10]; byte nk; byte ntk;

#define CHK assert(!(bel[0] && !(m[0] & 1))); assert(!(bel[1] && !(m[WD(1)] & 2)))
#define SET(p) m[WD(p)] = m[WD(p)] | B(p)
#define CLR(p) atomic { m[WD(p)] = m[WD(p)] & ~B(p); CHK }
#define LOCK(p) atomic { !lk[p] -> lk[p] = 1 }
#define UNLOCK(p) lk[p] = 0
#ifdef W2
#define SCAN(p) if :: (m[0] & ~B(p)) -> goto undo :: else fi; if :: (m[1] & ~B(p)) -> goto undo :: else fi
#else
#define SCAN(p) if :: (m[0] & ~B(p)) -> goto undo :: else fi
#endif
#if defined(W2) && !defined(M_TAKENOLOCK)
#define TLOCK(p) LOCK(p)
#define TUNLOCK(p) UNLOCK(p)
#else
#define TLOCK(p) skip
#define TUNLOCK(p) skip
#endif

inline release(p) {
#ifdef M_RELEASE
    atomic { bel[p]--; c = cnt[p] };
    if :: c == 1 -> CLR(p) :: else fi;
    atomic { cnt[p] = c - 1; c = 0 }
#else
    LOCK(p);
    atomic { bel[p]--; cnt[p]--; c = cnt[p] };
    if :: c == 0 -> CLR(p) :: else fi;
    atomic { c = 0; UNLOCK(p) }
#endif
}

proctype taker(byte p) provided (!dead[pp[_pid]]) {
    byte g; byte c; bool old; bool ht;
    do
    :: !ht && ntk < NTK && tag < NT ->
        ntk++;
        TLOCK(p);
#ifdef W2
        atomic { old = ((m[WD(p)] & B(p)) != 0); SET(p) };
        if :: old -> atomic { old = 0; TUNLOCK(p) }; goto again :: else fi;
        SCAN(p);
#else
        atomic { if :: m[0] == 0 -> m[0] = B(p) :: else -> goto again fi };
#endif
        g = gen;
        atomic { if :: gen == g -> g = g/2; gen = CLOS(g) :: else -> goto undo fi };
        SCAN(p);
        atomic { if :: gen == CLOS(g) -> gen = OPEN(g+1); g = 0; assert(!bel[0] && !bel[1] && !excl); tag++; excl = p + 1
                    :: else -> goto undo fi };
#ifdef W2
        atomic { assert(!cnt[p]); cnt[p] = 1; tg[p] = tag; bel[p] = 1; excl = 0; ht = 1; TUNLOCK(p) };
#else
        LOCK(p);
        atomic { assert(!cnt[p] && excl == p + 1); cnt[p] = 1; tg[p] = tag; bel[p] = 1; excl = 0; ht = 1; UNLOCK(p) };
#endif
        goto again;
undo:   CLR(p);
        atomic { g = 0; TUNLOCK(p) }
    :: ht && !pub[tag] -> pub[tag] = 1
    :: ht -> ht = 0; release(p)
    :: break
again:  skip
    od
}
/* holds life 1 and lets go some time */
proctype holder(byte p) provided (!dead[pp[_pid]]) { byte c; sure = 0; release(p) }

proctype loader(byte p) provided (!dead[pp[_pid]]) {
    byte n; byte g; byte x; byte c; bool old; bool s;
    do
    :: n < 2 ->
        atomic {
            n++;
            if :: pub[1] -> g = 1 :: pub[2] -> g = 2
#if NT > 2
               :: pub[3] -> g = 3
#endif
            fi };
#ifndef M_LOADNOLOCK
        LOCK(p);
#endif
        atomic {
            s = (sure && g == 1);
            if :: cnt[p] && tg[p] == g -> cnt[p]++; bel[p]++; goto got
               :: cnt[p] && tg[p] != g -> goto stale
               :: else fi };
#ifdef W2
        atomic { old = ((m[WD(p)] & B(p)) != 0); SET(p) };
#else
retry:  atomic { x = m[0]; if :: x == 0 -> goto stale :: else -> old = ((x & B(p)) != 0) fi };
        if
        :: !old -> atomic { if :: m[0] == x -> SET(p) :: else -> goto retry fi }
        :: else
        fi;
#endif
        if
        :: old ->
            old = 0;
#ifdef M_INHERIT
            atomic { if :: gen/2 == g -> cnt[p] = 2; tg[p] = g; bel[p]++; assert(tag == g); goto got :: else fi };
#endif
#ifdef M_UNDO
            CLR(p);
#endif
            goto stale
        :: else
        fi;
look:   x = gen;
        if
        :: atomic { x == OPEN(g) -> cnt[p]++; tg[p] = g; bel[p]++; assert(tag == g) }; goto got
        :: x == CLOS(g) -> atomic { if :: gen == x -> gen = OPEN(g) :: else fi }; goto look
        :: else
        fi;
        CLR(p);
stale:  atomic { assert(!(s && sure)); x = 0; s = 0;
#ifndef M_LOADNOLOCK
            UNLOCK(p);
#endif
            goto next };
got:    atomic { assert(tag == g); x = 0; s = 0;
#ifndef M_LOADNOLOCK
            UNLOCK(p)
#endif
        };
        if :: release(p) :: break fi;
next:   g = 0
    :: break
    od
}
#define SLAY(p) !dead[p] -> dead[p] = 1; bel[p] = 0; cnt[p] = 0; nk++; \
    if :: excl == p + 1 -> excl = 0 :: else fi; if :: p == 1 -> sure = 0 :: else fi
proctype killer() { do :: atomic { nk < MAXK -> if :: SLAY(0) :: SLAY(1) fi } :: break od }
#define END(p) assert(((m[WD(p)] & B(p)) != 0) == (bel[p] > 0)); assert(cnt[p] == bel[p])
proctype reaper() {
    do
    :: atomic { dead[0] && !reaped[0] -> reaped[0] = 1; m[0] = m[0] & ~1; CHK }
    :: atomic { dead[1] && !reaped[1] -> reaped[1] = 1; m[WD(1)] = m[WD(1)] & ~2; CHK }
    :: timeout -> END(0); END(1); assert(!excl); break
    od
}
init {
    atomic {
        byte i;
#define RUN(x, p) i = run x; pp[i] = p
        pub[1] = 1;
        RUN(taker(0), 0); RUN(loader(0), 0);
#ifdef HELD
        SET(1); cnt[1] = 1; tg[1] = 1; bel[1] = 1; sure = 1; RUN(holder(1), 1);
#elif defined(TAKER2)
        RUN(taker(0), 0);
#else
        RUN(taker(1), 1);
#endif
#ifdef LOAD2
        RUN(loader(0), 0);
#endif
#ifdef LOADQ
        RUN(loader(1), 1);
#endif
        i = run killer(); pp[i] = 2; i = run reaper(); pp[i] = 2
    }
}
