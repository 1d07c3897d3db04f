/* The descriptor of a small block at one mask word: allocate, export, acquire, release, re-cut, adopt (design, section 1).
 *
 * One unit with two descriptors.  Class 0: cell 0 -> descriptor 0, cell 1 -> descriptor 1.  Class 1: cell 0 -> descriptor 1
 * (a block that covers both cells), cell 1 is no block.  So one offset means another descriptor after a re-cut.
 *
 * Actors: lanes of process 0 and (LANE1) 1, which hand the unit over; acquirers with any old handle: a second thread of
 * process 0 (ACQ0), one or two threads of process 1 (ACQ1, ACQ1B), process 2 (ACQ2); a reaper.
 * A kill freezes all threads of a process for ever, between any two steps (MAXK kills).
 *
 * Invariants: who believes that it holds a life (`bel`) has its bit set (CHK); no life begins while somebody believes in the
 * former one of the same cell; a plain store finds the mask at 0; at the end a bit is set if and only if a live believer has it.
 *
 * Mutants: M_NOLOCK (no process-private lock)  M_KEYCELL (lock keyed by block)  M_NORECHECK (gen not looked at after the CAS)
 *   M_SWAP (mask before gen)  M_NOEPOCH (a re-cut keeps the gens)  M_CLSFIRST (class word before the gens)
 *   M_FREEEXP (plain store frees an exported block)  M_NOUNDO  M_CASZERO (CAS from an empty mask)
 *   M_OWNBIT (a CAS although one's own bit is set)  M_NOADLOCK (the adopter does not pass its unit lock)
 */
#ifndef NT
#define NT 3            /* lives */
#endif
#ifndef MAXK
#define MAXK 1          /* kills */
#endif
#ifndef NACQ
#define NACQ 2          /* tries of an acquirer */
#endif
#define NOBODY 3
#define B(p) (1 << (p))
#define T(p, d) ((p)*2 + (d))
#define BL(p, t) ((p)*(NT+1) + (t))

byte mask[2]; byte gen[2]; byte cls;
byte owner;                             /* process whose lane owns the unit */
bool dead[3]; bool reaped[3]; byte nk;
byte pp[12];                            /* Promela pid -> process */
bool lk[6];                             /* process-private unit lock (with M_KEYCELL one a block) */
byte cnt[6]; byte tgen[6];              /* process-private table: references, incarnation */
byte tag;                               /* ghosts: lives so far, the life in each cell and descriptor, who believes what */
byte cur[2]; byte dt[2]; byte bel[3*(NT+1)]; byte nb[NT+1];
byte hcell[NT+1]; byte hgen[NT+1];      /* handles */
bool recut;

#ifdef M_NOLOCK
#define LOCK(p, k)   skip
#define UNLOCK(p, k) skip
#else
#define LOCK(p, k)   atomic { !lk[T(p,k)] -> lk[T(p,k)] = 1 }
#define UNLOCK(p, k) lk[T(p,k)] = 0
#endif
#ifdef M_KEYCELL
#define KEY(c) (c)
#else
#define KEY(c) 0
#endif
#define HELD(p, d) assert(!(bel[BL(p,dt[d])] && !(mask[d] & B(p))))
#define CHK(d) HELD(0,d); HELD(1,d); HELD(2,d)
#define CLR(p, d) atomic { mask[d] = mask[d] & ~B(p); CHK(d) }

inline believe(p, t) { assert(cur[hcell[t]-1] == t); bel[BL(p,t)]++; nb[t]++ }
inline unbelieve(p, t) { bel[BL(p,t)]--; nb[t]-- }
inline begin_life(p, d) {
    tag++;
    if
    :: cls == 0 -> assert(nb[cur[d]] == 0); cur[d] = tag
    :: else -> assert(nb[cur[0]] == 0); assert(nb[cur[1]] == 0); cur[0] = tag; cur[1] = tag
    fi;
    dt[d] = tag; bel[BL(p,tag)]++; nb[tag]++; ht[d] = tag; expo[d] = 0; fb[d] = 0
}

proctype lane(byte p) provided (!dead[pp[_pid]]) {
    byte d; bool fb[2]; bool expo[2]; byte ht[2]; byte e;
    if
    :: p == 0 -> fb[0] = 1; fb[1] = 1
    :: else ->
        atomic { owner == NOBODY -> owner = p };        /* adopt */
#ifndef M_NOADLOCK
        !lk[T(p,0)];                                    /* lock and unlock: waits out the acquires of my own process */
#endif
        skip
    fi;
    do
    :: atomic { tag < NT && ht[0] == 0 && !fb[0] && mask[0] == 0 -> fb[0] = 1 }     /* rescan */
    :: atomic { tag < NT && ht[1] == 0 && !fb[1] && mask[1] == 0 -> fb[1] = 1 }
    :: atomic { tag < NT && (fb[0] || fb[1]) ->                                     /* allocate */
            if :: fb[0] && cls == 0 -> d = 0 :: fb[1] -> d = 1 :: else -> goto again fi };
#ifdef M_SWAP
        mask[d] = B(p);
        atomic { gen[d]++; begin_life(p, d) }
#else
        atomic { assert(mask[d] == 0); gen[d]++ };                                  /* I5 */
        atomic { assert(mask[d] == 0); mask[d] = B(p); begin_life(p, d) }           /* I3 */
#endif
    :: atomic { ht[0] || ht[1] -> if :: ht[0] -> d = 0 :: ht[1] -> d = 1 fi };
        if
        :: !expo[d] ->                                                              /* export */
            expo[d] = 1;
            LOCK(p, KEY(d));
            atomic { cnt[T(p,d)] = 1; tgen[T(p,d)] = gen[d] };
            UNLOCK(p, KEY(d));
            atomic { hgen[ht[d]] = gen[d]; hcell[ht[d]] = 1 + (cls == 0 -> d : 0) }
#ifdef M_FREEEXP
        :: 1 ->
#else
        :: !expo[d] ->                                                              /* private free: plain store */
#endif
            atomic { unbelieve(p, ht[d]); ht[d] = 0; mask[d] = 0; fb[d] = 1; CHK(d) }
        :: expo[d] ->                                                               /* release */
            LOCK(p, KEY(d));
            atomic { unbelieve(p, ht[d]); ht[d] = 0; cnt[T(p,d)]-- };
            if :: cnt[T(p,d)] == 0 -> CLR(p, d) :: else fi;
            UNLOCK(p, KEY(d))
        fi
    :: atomic { !recut && tag > 0 && tag < NT && fb[0] && fb[1] ->                  /* re-cut */
            recut = 1; e = (gen[0] > gen[1] -> gen[0] : gen[1]) + 1 };
#ifdef M_CLSFIRST
        cls = 1 - cls;
#endif
#ifndef M_NOEPOCH
        atomic { assert(mask[0] == 0); gen[0] = e };
        atomic { assert(mask[1] == 0); gen[1] = e };
#endif
#ifndef M_CLSFIRST
        cls = 1 - cls
#else
        skip
#endif
    :: atomic { ht[0] == 0 && ht[1] == 0 -> owner = NOBODY; break }                 /* hand the unit over */
    :: break
again:  skip
    od
}

proctype acquirer(byte p) provided (!dead[pp[_pid]]) {
    byte n; byte t; byte d; byte g; byte m; byte k;
    do
    :: n < NACQ ->
        atomic {
            if :: hcell[1] -> t = 1 :: hcell[2] -> t = 2
#if NT > 2
               :: hcell[3] -> t = 3
#endif
            fi; n++; g = hgen[t] };
        atomic {
            if :: cls == 0 -> d = hcell[t] - 1 :: cls == 1 && hcell[t] == 1 -> d = 1 :: else -> goto next fi;
            k = KEY(hcell[t] - 1) };
        LOCK(p, k);
        atomic {
            if
            :: cnt[T(p,d)] > 0 && tgen[T(p,d)] == g -> cnt[T(p,d)]++; believe(p, t); goto got
            :: cnt[T(p,d)] > 0 && tgen[T(p,d)] != g -> goto stale
            :: else
            fi };
retry:  if :: gen[d] != g -> goto stale :: else fi;
        atomic {
            m = mask[d];
#ifndef M_CASZERO
            if :: m == 0 -> goto stale :: else fi;
#endif
#ifndef M_OWNBIT
            if :: m & B(p) -> goto stale :: else fi
#endif
        };
        atomic { if :: mask[d] == m -> mask[d] = m | B(p) :: else -> goto retry fi };
#ifdef M_NORECHECK
        atomic { cnt[T(p,d)]++; tgen[T(p,d)] = g; believe(p, t); goto got };
#endif
        if
        :: atomic { gen[d] == g -> cnt[T(p,d)]++; tgen[T(p,d)] = g; believe(p, t) }; goto got
        :: gen[d] != g -> skip
        fi;
#ifndef M_NOUNDO
        CLR(p, d);
#endif
stale:  UNLOCK(p, k); goto next;
got:    UNLOCK(p, k);
        if
        :: break                                        /* keep it */
        :: 1 ->                                         /* or let go */
            LOCK(p, k);
            atomic { unbelieve(p, t); cnt[T(p,d)]-- };
            if :: cnt[T(p,d)] == 0 -> CLR(p, d) :: else fi;
            UNLOCK(p, k)
        fi;
next:   skip
    :: break
    od
}

inline slay(p) {
    dead[p] = 1; nk++;
    nb[1] = nb[1] - bel[BL(p,1)]; bel[BL(p,1)] = 0;
    nb[2] = nb[2] - bel[BL(p,2)]; bel[BL(p,2)] = 0;
#if NT > 2
    nb[3] = nb[3] - bel[BL(p,3)]; bel[BL(p,3)] = 0
#else
    skip
#endif
}
proctype killer() {
    do
    :: nk < MAXK -> atomic { if :: !dead[0] -> slay(0) :: !dead[1] -> slay(1) :: !dead[2] -> slay(2) fi }
    :: break
    od
}

#define END(p, d) assert((!dead[p] && bel[BL(p,dt[d])]) == ((mask[d] & B(p)) != 0))
proctype reaper() {
    byte q;
    do
    :: atomic { dead[0] && !reaped[0] -> q = 0 }; goto sweep
    :: atomic { dead[1] && !reaped[1] -> q = 1 }; goto sweep
    :: atomic { dead[2] && !reaped[2] -> q = 2 }; goto sweep
    :: timeout -> END(0,0); END(0,1); END(1,0); END(1,1); END(2,0); END(2,1); break
sweep:  CLR(q, 0);
        CLR(q, 1);
        if :: atomic { owner == q -> owner = NOBODY } :: owner != q fi;
        reaped[q] = 1
    od
}

init {
    atomic {
        byte i;
#define RUN(x, p) i = run x; pp[i] = p
        RUN(lane(0), 0);
#ifdef ACQ0
        RUN(acquirer(0), 0);
#endif
#ifdef ACQ1
        RUN(acquirer(1), 1);
#endif
#ifdef ACQ1B
        RUN(acquirer(1), 1);
#endif
#ifdef LANE1
        RUN(lane(1), 1);
#endif
#ifdef ACQ2
        RUN(acquirer(2), 2);
#endif
        i = run killer(); pp[i] = 0; i = run reaper()
    }
}
