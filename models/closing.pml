/* The closing protocol of a block whose mask has two words (design, section 1), and a fork stamp "on behalf of another".
 *
 * One block.  Words w0, w1; gen word = 2g + closing.  Slots: 0 the owner lane (w0), 1 A (w0), 2 H (w1), 3 C (w1), 4 D (w0), a child
 * that H forks.  Take: close by CAS, scan both words, commit by CAS closing(g) -> open(g+1), set one's own bit by a fetch-or and look at
 * the old value.  Acquire: fetch-or (own bit was set: stale, no undo), gen: open(g) held; closing(g): abort the closing, look again.
 *
 * Actors: the lane, acquirers, a holder that lets go.  Configurations:
 *   STALE2  nobody holds; two stale acquirers in different words       OACQ  a stale acquirer in the owner's own process
 *   HAND    H holds until A has answered (a hand-over): A must succeed, C acquires too
 *   FORK2   A holds; H acquires; A lets go; H forks D, which holds from then on, and lets go
 *   FORK    H holds, forks A and lets go (the owner's scan reads w0 first)
 * A kill freezes a process between any two steps; the reaper clears its bit, nothing else.
 *
 * Invariants: a believer's bit is set; nobody believes in the old life when the commit is made (I5); an acquirer of a block that
 * somebody holds from before until after does not fail; at the end a bit is set if and only if a live believer has it.
 *
 * Mutants: M_NOSCAN  M_NOCLOSE (gen raised without closing)  M_PLAINCOMMIT (a store)  M_NOABORT (acquirer leaves the closing)
 *   M_NOPRIOR (old value of the fetch-or ignored)  M_STAMPNOABORT (stamp does not abort a closing)
 */
#ifndef NT
#define NT 3
#endif
#ifndef MAXK
#define MAXK 1
#endif
#ifndef NACQ
#define NACQ 2
#endif
#define NP 5
#define WD(p) ((p) == 4 -> 0 : (p) >> 1)
#define BT(p) ((p) == 4 -> 4 : (1 << ((p) & 1)))
#define OPEN(g) (2*(g))
#define CLOS(g) (2*(g) + 1)
#define BL(p, t) ((p)*(NT+1) + (t))
#ifdef FORK
#define BORN1 forked        /* A is the forked child */
#else
#define BORN1 1
#endif

byte m[2]; byte gen;
bool dead[NP]; bool reaped[NP]; byte pp[14]; byte nk;
bool lk[NP]; byte cnt[NP]; byte tgen[NP];                   /* private: unit lock, table */
byte bel[NP*(NT+1)]; byte nb[NT+1]; byte tag;               /* ghosts: believers, the present life */
byte hgen[NT+1]; bool pub[NT+1];                            /* handles */
bool pledge; bool pledgeA; bool forked;                     /* ghosts: H (A) will hold tag 1 until the pledge is dropped */

#define HELD(p) assert(!(bel[BL(p,tag)] && !(m[WD(p)] & BT(p))))
#define CHK HELD(0); HELD(1); HELD(2); HELD(3); HELD(4)
#define LOCK(p) atomic { !lk[p] -> lk[p] = 1 }
#define UNLOCK(p) lk[p] = 0
#define CLR(p) atomic { m[WD(p)] = m[WD(p)] & ~BT(p); CHK }
inline believe(p, t) { assert(tag == t); bel[BL(p,t)]++; nb[t]++ }
inline unbelieve(p, t) { bel[BL(p,t)]--; nb[t]-- }
inline drop(p, t) {
    LOCK(p);
    atomic { unbelieve(p, t); cnt[p]-- };
    if :: cnt[p] == 0 -> CLR(p) :: else fi;
    UNLOCK(p)
}
/* the stamp: set another's bit, abort a closing; only then may one's own go */
inline stamp(q) {
    m[WD(q)] = m[WD(q)] | BT(q);
#ifndef M_STAMPNOABORT
    atomic { if :: gen == CLOS(1) -> gen = OPEN(1) :: else fi };
#endif
    atomic { forked = 1; believe(q, 1); cnt[q] = 1; tgen[q] = 1 }
}

proctype lane(byte p) provided (!dead[pp[_pid]]) {
    byte g; byte old; bool fb; bool expo; byte ht;
    expo = 1;                                               /* the former life was exported, or one does not know */
    do
    :: tag < NT && ht == 0 && !fb ->                        /* rescan: no snapshot */
        if
        :: 1 -> if :: m[0] == 0 -> skip :: else -> goto again fi;
                if :: m[1] == 0 -> fb = 1 :: else -> goto again fi
        :: 1 -> if :: m[1] == 0 -> skip :: else -> goto again fi;
                if :: m[0] == 0 -> fb = 1 :: else -> goto again fi
        fi
    :: tag < NT && ht == 0 && fb && expo ->                 /* take */
#ifdef M_NOCLOSE
        atomic { g = gen/2; gen = OPEN(g+1); assert(nb[tag] == 0) };
#else
        atomic { g = gen/2; gen = CLOS(g) };
#endif
#ifndef M_NOSCAN
        if :: m[0] == 0 -> skip :: else -> goto abort fi;
        if :: m[1] == 0 -> skip :: else -> goto abort fi;
#endif
#if defined(M_PLAINCOMMIT)
        atomic { gen = OPEN(g+1); assert(nb[tag] == 0) };
#elif !defined(M_NOCLOSE)
        atomic { if :: gen == CLOS(g) -> gen = OPEN(g+1); assert(nb[tag] == 0) :: else -> fb = 0; goto again fi };
#endif
        atomic {
            old = m[WD(p)]; m[WD(p)] = old | BT(p);
#ifndef M_NOPRIOR
            if :: old & BT(p) -> fb = 0; goto again :: else fi;
#endif
            assert(nb[tag] == 0); tag++; ht = tag; bel[BL(p,tag)] = 1; nb[tag] = 1; fb = 0; expo = 0 };
        goto again;
abort:  atomic { fb = 0; if :: gen == CLOS(g) -> gen = OPEN(g) :: else fi }
    :: tag < NT && ht == 0 && fb && !expo ->                /* the former life was never exported: no closing */
        gen = gen + 2;
        atomic {
            old = m[WD(p)]; m[WD(p)] = old | BT(p);
            if :: old & BT(p) -> fb = 0; goto again :: else fi;
            assert(nb[tag] == 0); tag++; ht = tag; bel[BL(p,tag)] = 1; nb[tag] = 1; fb = 0 }
    :: ht && !expo ->                                       /* export */
        LOCK(p);
        atomic { expo = 1; cnt[p] = 1; tgen[p] = gen/2; hgen[ht] = gen/2; pub[ht] = 1 };
        UNLOCK(p)
    :: ht && !expo -> atomic { unbelieve(p, ht); ht = 0; fb = 1; m[WD(p)] = 0; CHK }    /* plain store of one's own word */
    :: ht && expo ->
        LOCK(p);
        atomic { unbelieve(p, ht); ht = 0; cnt[p]-- };
        if :: cnt[p] == 0 -> CLR(p) :: else fi;
        UNLOCK(p)
    :: break
again:  skip
    od
}

proctype acquirer(byte p; byte want) provided (!dead[pp[_pid]]) {
    byte n; byte t; byte g; byte x; bool free; bool legit; bool legA;
    do
    :: n < NACQ ->
        atomic {
            if :: want -> t = want :: !want && pub[1] -> t = 1 :: !want && pub[2] -> t = 2 fi;
            n++; g = hgen[t]; legit = (t == 1 && pledge); legA = (t == 1 && pledgeA) };
        LOCK(p);
        atomic {
            if
            :: cnt[p] > 0 && tgen[p] == g -> cnt[p]++; believe(p, t); goto got
            :: cnt[p] > 0 && tgen[p] != g -> goto stale
            :: else
            fi };
        atomic { free = !(m[WD(p)] & BT(p)); m[WD(p)] = m[WD(p)] | BT(p) };
#ifndef M_NOPRIOR
        if :: !free -> goto stale :: else fi;
#endif
again:  x = gen;
        if
        :: x == OPEN(g) -> atomic { cnt[p]++; tgen[p] = g; believe(p, t) }; goto got
        :: x == CLOS(g) ->
#ifdef M_NOABORT
            atomic { cnt[p]++; tgen[p] = g; believe(p, t) }; goto got
#else
            atomic { if :: gen == CLOS(g) -> gen = OPEN(g) :: else fi }; goto again
#endif
        :: else -> skip
        fi;
        atomic { assert(!(legit && pledge)); assert(!(legA && pledgeA)); CLR(p) };      /* undo: no spurious stale */
stale:  UNLOCK(p); legit = 0; legA = 0; goto next;
got:
#ifdef FORK2
        if :: p == 2 && !forked -> stamp(4) :: else fi;
#endif
        atomic { UNLOCK(p); legit = 0; legA = 0; if :: p == 1 && want -> pledgeA = 1 :: else fi };
        if :: p == 1 && want -> pledgeA = 0 :: else fi;
        if
        :: break
        :: 1 -> drop(p, t)
        fi;
next:   skip
    :: break
    od
}

/* a holder of tag 1 that lets go some time after dropping its pledge */
proctype holder(byte p) provided (!dead[pp[_pid]]) {
    do
    :: pledge -> pledge = 0
    :: !pledge -> drop(p, 1); break
    :: break
    od
}
/* p holds tag 1, forks q, lets go */
proctype forker(byte p; byte q) provided (!dead[pp[_pid]]) {
    LOCK(p);
    stamp(q);
    atomic { unbelieve(p, 1); cnt[p]-- };
    if :: cnt[p] == 0 -> CLR(p) :: else fi;
    UNLOCK(p)
}
proctype child(byte q) provided (!dead[pp[_pid]]) {
    forked ->
    if :: 1 -> drop(q, 1) :: 1 fi
}

inline slay(p) {
    dead[p] = 1; nk++;
    if
    :: p == 1 -> pledgeA = 0
    :: p == 2 -> pledge = 0;
        /* a child not born yet is not born any more; its bit, if stamped, is reaped (the verdict is its lock's) */
#ifdef FORK
        if :: !forked -> dead[1] = 1 :: else fi
#else
        if :: !forked -> dead[4] = 1 :: else fi
#endif
    :: else
    fi;
    nb[1] = nb[1] - bel[BL(p,1)]; bel[BL(p,1)] = 0;
    nb[2] = nb[2] - bel[BL(p,2)]; bel[BL(p,2)] = 0;
    nb[3] = nb[3] - bel[BL(p,3)]; bel[BL(p,3)] = 0
}
proctype killer() {
    do
    :: nk < MAXK -> atomic {
        if :: !dead[0] -> slay(0) :: !dead[1] && BORN1 -> slay(1) :: !dead[2] -> slay(2) :: !dead[3] -> slay(3) fi }
    :: break
    od
}
#define END(p) assert((!dead[p] && bel[BL(p,tag)]) == ((m[WD(p)] & BT(p)) != 0))
#define REAP(p) atomic { dead[p] && !reaped[p] -> q = p }; CLR(q); reaped[q] = 1
proctype reaper() {
    byte q;
    do
    :: REAP(0)
    :: REAP(1)
    :: REAP(2)
    :: REAP(3)
    :: REAP(4)
    :: timeout -> END(0); END(1); END(2); END(3); END(4); break
    od
}

#define HOLDS(p) m[WD(p)] = m[WD(p)] | BT(p); cnt[p] = 1; tgen[p] = 1; bel[BL(p,1)] = 1; nb[1]++
init {
    atomic {
        byte i;
#define RUN(x, p) i = run x; pp[i] = p
        gen = OPEN(1); tag = 1; hgen[1] = 1; pub[1] = 1;
        RUN(lane(0), 0);
#ifdef STALE2
        RUN(acquirer(1, 0), 1); RUN(acquirer(2, 0), 2);
#endif
#ifdef HAND
        HOLDS(2); pledge = 1; RUN(holder(2), 2); RUN(acquirer(1, 1), 1); RUN(acquirer(3, 1), 3);
#endif
#ifdef OACQ
        RUN(acquirer(0, 0), 0);
#endif
#ifdef FORK
        HOLDS(2); RUN(forker(2, 1), 2); RUN(child(1), 1);
#endif
#ifdef FORK2
        HOLDS(1); RUN(holder(1), 1); RUN(acquirer(2, 1), 2); RUN(child(4), 4);
#endif
        i = run killer(); pp[i] = 0; i = run reaper(); pp[i] = 0
    }
}
