/* Slabs as runs with a reserved bit S, at one mask word (design, section 1, "Slabs").
 *
 * One unit U that is a run, a slab of class A or B, or the interior of a bigger run.  Descriptors: R (the run: mask[R], rg = 2g +
 * closing), two small ones (mask[0..1], gen[0..1]).  Places ("cells") of U: class word 0: cell 0 -> R.  A = 1: cell 0 -> small 0,
 * cell 1 -> small 1.  B = 2: cell 0 -> small 1, cell 1 is no block.  So an offset means another descriptor in another class.
 * m0, head: the mask of the run before U, and U's head bit.
 *
 * {S, p}: slab of a lane of p.  S alone: abandoned.  No S: a run.
 *   cut        (a run taken in full) gens of all small descriptors := the run's; pass one's own unit lock; set S; class word last
 *   adopt      CAS S -> S|mine; pass one's own unit lock; class 0: drop S, it is a run one holds; else rescan
 *   give back  owner only: every small mask seen 0; run's gen above every small gen; class word 0; drop S and mine in one step, or S
 *   abandon    drop mine; a reaper does that to the dead
 *
 * Actors: lanes of processes 0 and (without ONEL) 1; acquirers with any handle: a second thread of 0 (ACQ0), process 2 (ACQ2); BIG: U is
 * absorbed into a bigger run and split off again; NAMES: run blocks may get a name (bit N).  A kill may fall between any two steps;
 * the threads of the dead run to their end at once.  A handle is {cell, gen}; pl[t]: the maker of life t lives and has not begun to
 * let go: then an acquirer must not fail.
 *
 * Invariants: a believer's bit is set; a taker and a lane meet nobody; a class word implies S; at the end every bit has a believer, and
 * what nobody holds is a free run or an abandoned slab.
 *
 * Mutants: M_NOEPOCH (small gens not set when cut)  M_CLSFIRST (class word before gens)  M_SLATE (S after the class word)  M_STAKE (S
 *   set and undone with the take)  M_NORAISE (run's gen not raised)  M_RAISELATE (raised after class 0)  M_CLSLATE (class 0 after S)
 *   M_MINEFIRST (mine before S)  M_NOSCAN  M_NOCUTLOCK  M_NOADLOCK (own unit lock not passed)  M_NOADOPT (given back without adopting)
 *   M_PLAINADOPT (a store)  M_NAMEBIT (S is N)
 */
#ifndef NT
#define NT 3         /* lives */
#endif
#ifndef MAXK
#define MAXK 1       /* kills */
#endif
#ifndef NACQ
#define NACQ 1       /* tries of an acquirer */
#endif
#ifndef NTK
#define NTK 3        /* takes of U as a free run */
#endif
#ifndef NC
#define NC 2         /* cuts */
#endif
#ifndef NBIG
#define NBIG 1
#endif
#define R 2
#define HB 8
#ifdef M_NAMEBIT
#define S HB
#else
#define S 16
#endif
#ifdef M_STAKE
#define STK S
#else
#define STK 0
#endif
#define B(p) (1<<(p))
#define T(p,d) ((p)*3+(d))
#define BL(p,t) ((p)*(NT+1)+(t))
#define OPEN(g) (2*(g))
#define CLOS(g) (2*(g)+1)

byte mask[3]; byte gen[2]; byte rg = 2; byte cls; bool head = 1; byte m0;
bool dead[3]; bool reaped[3]; byte pp[10]; byte thr[3];
bool lk[3]; byte cnt[9]; byte tgen[9];
byte bel[4*(NT+1)]; byte nb[NT+1]; byte tag; byte cur[2]; byte dt[3]; byte pl[NT+1];
byte hcell[NT+1]; byte hgen[NT+1];
byte exu;            /* ghost: who has U to himself (run taken, or lane of the slab), +1 */
byte exg;            /* ghost: who has the bigger run to himself, +1 */
bool blk; byte nk; byte ntk; byte nc; byte nbig;

#define FINISH(p)  thr[p]--; if :: dead[p] && !thr[p] -> blk=0 :: else fi
#define UNLOCK(p) lk[p]=0
#define PASS(p)   (!lk[p])              /* lock and unlock */
#define HELD(p,d) assert(!(bel[BL(p,dt[d])] && !(mask[d] & B(p))))
#define CHK(d) HELD(0,d); HELD(1,d); HELD(2,d); HELD(3,d)
#define CLR(d,b) mask[d]=mask[d] & ~(b); CHK(d)
#define NOBODY assert(nb[cur[0]]==0 && nb[cur[1]]==0)
inline believe(p, t) { assert(cur[hcell[t]-1] == t); bel[BL(p, t)]++; nb[t]++ }
inline unbelieve(p, t)   { bel[BL(p, t)]--; nb[t]-- }
inline life(p, d) { tag++;               /* d starts a life in the present layout */
    if :: d < R && cls == 1 -> assert(nb[cur[d]] == 0); cur[d] = tag
        :: else -> assert(d == R || (d == 1 && cls == 2)); NOBODY; cur[0] = tag; cur[1] = tag fi;
    dt[d] = tag; bel[BL(p, tag)]++; nb[tag]++; ht[d] = tag; expo[d] = 0 }
/* p has U to himself as a run: no other taker, no believer; every life is over for ever */
inline claim(p) { assert(exu == 0 && exg == 0 && head); NOBODY; exu = p+1; cur[0] = 0; cur[1] = 0 }
/* steps that touch only private things (unit lock, private table, ghosts) are merged with the one shared step beside them */
inline publish(p, d) { atomic { !lk[p] -> cnt[T(p, d)] = 1; tgen[T(p, d)] = (d == R -> rg/2 : gen[d]); expo[d] = 1;
    hgen[ht[d]] = tgen[T(p, d)]; hcell[ht[d]] = 1+((d < R && cls == 1) -> d : 0); pl[ht[d]] = p+1 } }
inline drop(p, d, t, first) {                /* release through the private table; the bit goes with the last count */
    atomic { !lk[p] -> lk[p] = 1; unbelieve(p, t); cnt[T(p, d)]--; if :: first -> pl[t] = 0; st = (st == 3 -> 0 : st) :: else fi; t = 0 };
    if :: cnt[T(p, d)] == 0 -> atomic { tgen[T(p, d)] = 0; CLR(d, B(p)); UNLOCK(p) }
        :: else -> UNLOCK(p) fi }
#define RAISE e=(gen[0]>gen[1] -> gen[0] : gen[1]); e=(e > rg/2 -> e : rg/2)+1; assert(!(rg&1)); rg=OPEN(e); e=0

/* st: 0 nothing, 1 U held as a run, 2 slab owned, 3 U held as a block;  big: 1 take U to absorb it */
proctype lane(byte p) provided (!blk || dead[pp[_pid]]) {
    byte d; byte g; byte e; byte st; byte ht[3]; bool expo[3]; bool big; byte c;
    {
again:  do
    /* take U as a free run (closing protocol) */
    :: atomic { st == 0 && ntk < NTK && mask[R] == 0 -> ntk++;
#ifdef M_STAKE
        mask[R] = B(p) | S };
#else
        mask[R] = B(p) };
#endif
take:   atomic { if :: head -> g = rg :: else -> goto undo fi };
        atomic { if :: rg == g -> g = g/2; rg = CLOS(g) :: else -> goto undo fi };
        if :: (mask[R] & ~S) == B(p) -> skip :: else -> goto undo fi;
        atomic { if :: rg == CLOS(g) -> rg = OPEN(g+1); g = 0; claim(p) :: else -> goto undo fi };
        atomic { if :: big -> goto absorb :: else -> st = 1; goto again fi };
undo:   atomic { CLR(R, B(p) | STK); g = 0 };
        if :: big -> atomic { big = 0; m0 = m0 & ~B(p) } :: else fi
    /* adopt an abandoned slab */
#ifdef M_PLAINADOPT
    :: st == 0 && mask[R] == S ->
        atomic { mask[R] = S | B(p); assert(exu == 0 && head); exu = p+1 };
#else
    :: atomic { st == 0 && mask[R] == S -> mask[R] = S | B(p); assert(exu == 0 && head); exu = p+1 };
#endif
#ifdef M_NOADLOCK
        atomic {
#else
        atomic { PASS(p) ->
#endif
                if :: cls -> st = 2; goto again :: else -> exu = 0; claim(p) fi };
        atomic { CLR(R, S); st = 1 }
#ifdef M_NOADOPT     /* whoever sees it empty frees it, without adopting it */
    :: st == 0 && mask[R] == S && cls ->
        if :: mask[0] == 0 -> skip :: else -> goto again fi;
        if :: mask[1] == 0 -> skip :: else -> goto again fi;
        atomic { RAISE };
        atomic { if :: mask[R] == S -> mask[R] = 0 :: else -> goto again fi };
        cls = 0
#endif
    /* U held: cut it */
    :: atomic { st == 1 && nc < NC -> nc++; if :: c = 1 :: c = 2 fi };
#ifdef M_CLSFIRST
        mask[R] = mask[R] | S; cls = c;
#endif
#ifndef M_NOEPOCH
        atomic { assert(mask[0] == 0); gen[0] = rg/2 }; atomic { assert(mask[1] == 0); gen[1] = rg/2 };
#endif
#ifndef M_NOCUTLOCK
        PASS(p);
#endif
#ifdef M_SLATE
        cls = c; mask[R] = mask[R] | S;
#elif !defined(M_CLSFIRST)
        mask[R] = mask[R] | S; cls = c;
#endif
        atomic { st = 2; c = 0 }
    /* U held: a block of it */
    :: atomic { st == 1 && tag < NT -> life(p, R); exu = 0; st = 3 };
        publish(p, R)
#ifdef NAMES
    :: atomic { st == 3 && bel[BL(3, ht[R])] == 0 -> mask[R] = mask[R] | HB; bel[BL(3, ht[R])] = 1; nb[ht[R]]++ }
#endif
    :: st == 3 -> drop(p, R, ht[R], 1)
    /* U held: let go */
    :: atomic { st == 1 -> CLR(R, B(p)); exu = 0; st = 0 }
    /* slab: small blocks */
    :: atomic { st == 2 && tag < NT && ((cls == 1 && mask[0] == 0) || mask[1] == 0) ->
                if :: cls == 1 && mask[0] == 0 -> d = 0 :: mask[1] == 0 -> d = 1 fi;
                gen[d]++ };
        atomic { assert(mask[d] == 0); mask[d] = B(p); life(p, d); d = 0 }
    :: atomic { ht[0] || ht[1] -> if :: ht[0] -> d = 0 :: ht[1] -> d = 1 fi;
        if
        :: !expo[d] -> publish(p, d)
        :: !expo[d] -> unbelieve(p, ht[d]); ht[d] = 0; mask[d] = 0; CHK(d); d = 0; goto again     /* plain store */
        :: expo[d] -> goto rel
        fi };
        d = 0; goto again;
rel:    drop(p, d, ht[d], 1); d = 0
    /* slab: give it back */
    :: atomic { st == 2 && !ht[0] && !ht[1] && mask[0] == 0 };
#ifndef M_NOSCAN
        if :: mask[1] == 0 -> skip :: else -> goto again fi;
#endif
#if defined(M_CLSLATE)
        atomic { RAISE };
        atomic { CLR(R, S | B(p)); exu = 0; st = 0 };
        cls = 0
#elif defined(M_NORAISE)
        cls = 0;
        atomic { CLR(R, S | B(p)); exu = 0; st = 0 }
#else
#ifdef M_RAISELATE
        cls = 0;
#endif
        atomic { RAISE };
#ifndef M_RAISELATE
        cls = 0;
#endif
#ifdef M_MINEFIRST
        atomic { CLR(R, B(p)); exu = 0; st = 0 }; atomic { CLR(R, S) }
#else
        if :: atomic { CLR(R, S | B(p)); exu = 0; st = 0 }
            :: atomic { CLR(R, S); exu = 0; claim(p); st = 1 }     /* or keeps the run for a use of its own */
        fi
#endif
#endif
    /* slab: abandon it */
    :: atomic { st == 2 && !ht[0] && !ht[1] -> CLR(R, B(p)); exu = 0; st = 0 }
#ifdef BIG
    /* the run before U: take it, absorb U, use both, split U off, let go */
    :: atomic { st == 0 && nbig < NBIG && m0 == 0 -> m0 = B(p); nbig++ };
        if :: head -> atomic { big = 1; if :: mask[R] == 0 -> mask[R] = B(p); goto take :: else -> big = 0; m0 = m0 & ~B(p); goto again fi }
            :: else -> skip fi;
        goto use;
absorb: head = 0;
        atomic { CLR(R, B(p)); exu = 0; big = 0 };
use:    atomic { assert(exu == 0 && exg == 0 && !head); NOBODY; cur[0] = 0; cur[1] = 0; exg = p+1 };
        atomic { assert(exg == p+1); NOBODY; assert(exu == 0); exg = 0; if :: head = 1 :: 1 -> skip fi };   /* split, or leave it whole */
        m0 = m0 & ~B(p)
#else
    :: 0 ->
absorb: skip
#endif
    :: atomic { break }
    od;
    skip
    } unless { dead[p] };
    atomic {
        d = 0; g = 0; e = 0; st = 0; big = 0; c = 0; ht[0] = 0; ht[1] = 0; ht[2] = 0; expo[0] = 0; expo[1] = 0; expo[2] = 0; FINISH(p) }
}

proctype acquirer(byte p) provided (!blk || dead[pp[_pid]]) {
    byte n; byte t; byte d; byte g; byte m; bool legit; byte st;
    {
    do
    :: atomic { n < NACQ && (hcell[1] || hcell[2]) && !lk[p] ->
                if :: hcell[1] -> t = 1 :: hcell[2] -> t = 2
#if NT > 2
                   :: hcell[3] -> t = 3
#endif
                fi; n++; g = hgen[t]; legit = (pl[t] != 0); lk[p] = 1;
                if :: cls == 0 && hcell[t] == 1 -> d = R :: cls == 1 -> d = hcell[t]-1
                   :: cls == 2 && hcell[t] == 1 -> d = 1 :: else -> goto stale fi;
                if :: cnt[T(p, d)]>0 && tgen[T(p, d)] == g -> cnt[T(p, d)]++; believe(p, t); goto got
                   :: cnt[T(p, d)]>0 && tgen[T(p, d)] != g -> goto stale
                   :: else fi };
retry:  atomic { if :: d < R && gen[d] != g -> goto stale :: else fi };
        atomic { m = mask[d]; if :: m == 0 || (m & B(p)) -> m = 0; goto stale :: else fi };
        atomic { if :: mask[d] == m -> mask[d] = m | B(p); m = 0 :: else -> m = 0; goto retry fi };
        if :: d < R ->
                if :: atomic { gen[d] == g -> cnt[T(p, d)]++; tgen[T(p, d)] = g; believe(p, t); goto got }
                :: gen[d] != g -> skip fi
            :: else ->
look:   if :: atomic { rg == OPEN(g) -> cnt[T(p, d)]++; tgen[T(p, d)] = g; believe(p, t); goto got }
                :: rg == CLOS(g) -> atomic { if :: rg == CLOS(g) -> rg = OPEN(g) :: else fi }; goto look
                :: rg/2 != g -> skip fi
        fi;
        atomic { CLR(d, B(p)); goto stale };                          /* undo */
stale:  atomic { assert(!(legit && pl[t])); UNLOCK(p); goto next };
got:    atomic { UNLOCK(p); if :: break :: 1 -> skip fi };           /* keep it, or let go */
        drop(p, d, t, 0);
next:   atomic { legit = 0; t = 0; g = 0; d = 0; m = 0 }
    :: atomic { break }
    od;
    skip
    } unless { dead[p] };
    atomic { legit = 0; t = 0; g = 0; d = 0; n = 0; m = 0; FINISH(p) }
}

/* the threads of the dead run to their end at once (their locals are wiped: fewer states) */
inline slay(p) { dead[p] = 1; nk++;
    nb[1] = nb[1]-bel[BL(p, 1)]; bel[BL(p, 1)] = 0; nb[2] = nb[2]-bel[BL(p, 2)]; bel[BL(p, 2)] = 0;
#if NT > 2
    nb[3] = nb[3]-bel[BL(p, 3)]; bel[BL(p, 3)] = 0;
#endif
    i = 1; do :: i <= NT -> if :: pl[i] == p+1 -> pl[i] = 0 :: else fi; i++ :: else -> break od; i = 0;
    cnt[T(p, 0)] = 0; cnt[T(p, 1)] = 0; cnt[T(p, 2)] = 0; tgen[T(p, 0)] = 0; tgen[T(p, 1)] = 0; tgen[T(p, 2)] = 0; lk[p] = 0;
    if :: exu == p+1 -> exu = 0 :: else fi; if :: exg == p+1 -> exg = 0 :: else fi; blk = 1 }

proctype killer() provided (!blk) { byte i;
    do :: atomic { nk < MAXK && (thr[0] || thr[1] || thr[2]) -> if :: thr[0] -> slay(0) :: thr[1] -> slay(1) :: thr[2] -> slay(2) fi } od }
#ifdef NAMES
proctype unnamer() provided (!blk) { do :: atomic { tag > 0 && bel[BL(3, dt[R])] -> unbelieve(3, dt[R]); CLR(R, HB) } :: break od }
#endif

/* All threads of the living are at their end, all dead are reaped.  Every bit has a believer; what nobody holds can be had */
#define END(p,d) assert(!dead[p] && bel[BL(p,dt[d])] || exu==p+1 && d==R || !(mask[d] & B(p)))
#define ENDALL(p) END(p,0); END(p,1); END(p,2)
proctype reaper() provided (!blk) {
    byte q;
    do :: atomic { dead[0] && !reaped[0] -> q = 0; CLR(R, B(q)) }; goto sweep
        :: atomic { dead[1] && !reaped[1] -> q = 1; CLR(R, B(q)) }; goto sweep
        :: atomic { dead[2] && !reaped[2] -> q = 2; CLR(R, B(q)) }; goto sweep
        :: timeout -> break
sweep:  if :: cls ->
                atomic { CLR(0, B(q)) };
                atomic { CLR(1, B(q)) }
            :: else fi;
        atomic { m0 = m0 & ~B(q); reaped[q] = 1; q = 0 }
    od;
    skip;
    d_step {
    assert(!thr[0] && !thr[1] && !thr[2]);
    ENDALL(0); ENDALL(1); ENDALL(2);
    assert(!(mask[0] & (S | HB)) && !(mask[1] & (S | HB)));
    assert(!m0 && exg == 0);
    assert(!cls || (mask[R] & S));
    if :: exu == 0 && nb[cur[0]] == 0 && nb[cur[1]] == 0 ->
            assert(mask[0] == 0 && mask[1] == 0);
            assert(mask[R] == 0 || (mask[R] == S && head));
        :: else fi }
}

init { atomic {
    byte i;
#define RUN(x,p) i = run x; pp[i]=p; thr[p]++
    RUN(lane(0), 0);
#ifndef ONEL
    RUN(lane(1), 1);
#endif
#ifdef ACQ0
    RUN(acquirer(0), 0);
#endif
#ifdef ACQ2
    RUN(acquirer(2), 2);
#endif
#ifdef NAMES
    i = run unnamer(); pp[i] = 0;
#endif
    i = run killer(); pp[i] = 0; i = run reaper(); i = 0
    } }
