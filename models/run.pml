/* Runs: take, split, merge, retire, acquire (design, section 1), at one mask word and (-DW2) at two.
 *
 * `head`, one bit a unit, is the only truth about the tiling: a run goes from its head bit to the next one.  A descriptor a unit: mask
 * (one or two words), gen = 2g + closing.  No length word, no free flag.
 *
 * Actors: workers, who take any unit (as a stale hint might say: interiors too), merge with the next run, split, make a block of it
 * (a life, with handle {unit, g}), release, retire (from last holder to exclusive owner, to punch); acquirers with any old handle
 * (ACQRET: which may retire too); a reaper, which clears bits and does nothing else.  A kill freezes a process between any two steps.
 * In the end an undying worker takes everything and merges it into one run.
 *
 * Configurations: N units, HINIT heads at the start, NOPS operations a worker, NACQ tries an acquirer, NL lives, MAXK kills; ONEW one
 * worker, ACQ2 two acquirers, NOACQ none, NORET no retiring, INITLIFE=u: the block {u, 1} was released, its handle is about.
 *
 * Invariants (ghosts: cm[p] units p holds to itself, bm[p] units p holds as a block, lf[u] whose data unit u has): a claim meets no
 * other claim and no believer, and starts at a head; an acquirer finds its own data and no claimant; all dead reaped: masks are 0, and
 * everything merges into one run again.
 *
 * Mutants: M_NOHEAD (head bit not looked at)  M_HEADFIRST (looked at before the mask is set)  M_MERGEREL (mask released before the head
 *   bit goes)  M_MERGENOTAKE (absorbed without taking)  M_CUTUNHELD (released before the cut)  M_SPLITZERO (the rest's mask stored)
 *   M_REAPNONE  M_REAPHEADS (clears bits of heads only)  M_NOCLOSE  M_NOBUMP (no new gen)  M_MERGENOBUMP (absorbing is no new life)
 *   M_NOSCAN  M_PLAINCOMMIT  M_NOABORT  M_ACQNOUNDO  M_ACQNORECHK (gen not looked at after the CAS)  M_RETNOSCAN (retires without scan)
 *   M_PUNCHHELD (the last holder punches without retiring); W2: M_NOPRESCAN (no scan before closing)
 */
#ifndef N
#define N 4
#endif
#ifndef NOPS
#define NOPS 2
#endif
#ifndef NACQ
#define NACQ 1
#endif
#ifndef MAXK
#define MAXK 1
#endif
#ifndef HINIT
#define HINIT 5         /* units 0 and 2 are heads: two free runs of 2 */
#endif
#ifndef NL
#define NL 3
#endif
#define NP 4            /* slots 0..2; 3 is the last taker */
#define GONE(p) (done[p] || dead[p])
#define ALL ((1 << N) - 1)
#define H(x) ((head >> (x)) & 1)
#define OPEN(g) (2*(g))
#define CLOS(g) (2*(g) + 1)
#ifdef W2
#define WD(p) ((p) & 1)
#define BT(p) (1 << ((p) >> 1))
#define MW 2
#define MZ(u) (m[(u)*2] == 0 && m[(u)*2+1] == 0)
#else
#define WD(p) 0
#define BT(p) (1 << (p))
#define MW 1
#define MZ(u) (m[u] == 0)
#endif
#define M(u, p) m[(u)*MW + WD(p)]
#define CLR(u, p) M(u, p) = M(u, p) & ~BT(p)

byte head = HINIT; byte m[N*MW]; byte gen[N];
byte cm[NP]; byte bm[NP]; byte lf[N];                       /* ghosts */
byte nl; byte ls[NL+1]; byte lg[NL+1]; byte lu[NL+1];       /* lives: unit, gen (the handle), units */
bool dead[NP]; bool reaped[NP]; bool done[NP]; byte pp[10]; byte nk; bool finned;
byte i_; byte r_;                                           /* scratch, always left at 0 */

#define OTHERS(a, p) ((p == 0 -> 0 : a[0]) | (p == 1 -> 0 : a[1]) | (p == 2 -> 0 : a[2]) | (p == 3 -> 0 : a[3]))
#define ANY(a) (a[0] | a[1] | a[2] | a[3])
#define END_OF(e) d_step { do :: e < N && !H(e) -> e++ :: else -> break od }
/* another bit than p's own in a word of v's mask */
#ifdef W2
#define SCAN(v, p, other) \
    if :: (m[(v)*2] & ~(WD(p) == 0 -> BT(p) : 0)) != 0 -> goto other :: else fi; \
    if :: (m[(v)*2+1] & ~(WD(p) == 1 -> BT(p) : 0)) != 0 -> goto other :: else fi
#else
#define SCAN(v, p, other) if :: m[v] != BT(p) -> goto other :: else fi
#endif

/* r_ := the units of the run at u */
inline units_of(u) {
    i_ = u; r_ = 0;
    do
    :: r_ = r_ | (1 << i_); i_++; if :: i_ >= N || H(i_) -> break :: else fi
    od;
    i_ = 0
}
inline fill(units, life) {
    r_ = units; i_ = 0;
    do :: i_ < N -> if :: (r_ >> i_) & 1 -> lf[i_] = life :: else fi; i_++ :: else -> break od;
    i_ = 0; r_ = 0
}
/* p has the run at u to itself; own: it held it as a block before */
inline claim(p, u, own) {
    units_of(u);
    assert(!(OTHERS(cm, p) & r_)); assert(!(OTHERS(bm, p) & r_));
    assert(own || !((cm[p] | bm[p]) & r_)); assert(H(u));
    cm[p] = cm[p] | r_; r_ = 0
}
inline pick(v) {
    if :: v = 0 :: v = 1
#if N > 2
       :: v = 2
#endif
#if N > 3
       :: v = 3
#endif
    fi
}

proctype worker(byte p; bool last) provided (!dead[pp[_pid]]) {
    byte u; byte v; byte e; byte g; byte x; byte t; byte n; bool sec; bool ret; bool hd;
    u = N;                                                  /* u: run held, N: none; e: its end; t: its life */
again:
    do
    :: u == N && !last && n < NOPS -> atomic { n++; pick(v) }; goto take
    :: u == N && last -> goto take
    /* merge with the next run */
    :: u < N && !t && e < N && (n < NOPS || last) -> atomic { n++; sec = 1; v = e }; goto take
    /* split at x: one fetch-or */
    :: u < N && !t && !last && e > u+1 ->
        atomic { if :: x = u+1 :: e > u+2 -> x = u+2 :: e > u+3 -> x = u+3 fi };
#ifdef M_CUTUNHELD
        atomic { CLR(u, p); cm[p] = 0 };
        atomic { head = head | (1 << x); x = 0; u = N; e = 0; goto again };
#endif
#ifdef M_SPLITZERO
        m[x*MW] = 0;
#ifdef W2
        m[x*MW+1] = 0;
#endif
#endif
        atomic { head = head | (1 << x); cm[p] = cm[p] & ((1 << x) - 1); e = x; x = 0 }
    /* a life: write the data, publish {u, gen} */
    :: atomic {
        u < N && !t && !last && nl < NL ->
            nl++; t = nl; ls[t] = u; lg[t] = gen[u]/2; lu[t] = cm[p];
            assert(cm[p] == ((1 << e) - (1 << u)));
            fill(cm[p], t);
            bm[p] = cm[p]; cm[p] = 0 }
    /* release: one fetch-and */
    :: u < N && !last ->
#ifdef M_PUNCHHELD
        if
        :: t && M(u, p) == BT(p) -> atomic { assert(!(OTHERS(bm, p) & bm[p])); fill(bm[p], 0) }
        :: else
        fi;
#endif
        atomic { CLR(u, p); cm[p] = 0; bm[p] = 0; u = N; e = 0; t = 0 }
    /* retire: from last holder to exclusive owner, by the same protocol with one's bit there already */
#ifndef NORET
    :: u < N && t && n < NOPS -> atomic { n++; ret = 1; v = u }; goto close
#endif
    :: last && u == 0 && e == N -> assert(cm[p] == ALL); atomic { CLR(0, p); cm[p] = 0 }; break
    :: u == N && !last && n == NOPS -> break
    od;
    goto finish;

take:
#ifdef M_MERGENOTAKE
    if
    :: sec && MZ(v) && H(v) -> atomic {
        units_of(v); cm[p] = cm[p] | r_; r_ = 0; assert(!(OTHERS(cm, p) & cm[p])); assert(!(OTHERS(bm, p) & cm[p]));
        e = v+1; END_OF(e); head = head & ~(1 << v); sec = 0; v = 0; goto again }
    :: else
    fi;
#endif
#ifdef M_HEADFIRST
    atomic { hd = H(v) }; if :: !hd -> goto refused :: else fi;
#endif
#ifdef W2
    atomic { x = M(v, p) & BT(p); M(v, p) = M(v, p) | BT(p) };
    if :: x -> x = 0; assert(!last); goto refused :: else fi;
#ifndef M_NOPRESCAN
    SCAN(v, p, undo);
#endif
#else
    atomic { if :: m[v] == 0 -> m[v] = BT(p) :: else -> assert(!last); goto refused fi };
#endif
#if !defined(M_NOHEAD) && !defined(M_HEADFIRST)
    if :: !H(v) -> goto undo :: else fi;
#endif
close:
    if :: ret -> SCAN(v, p, undo) :: else fi;               /* nobody closes who has not seen himself alone */
#ifdef M_MERGENOBUMP
    if :: sec -> atomic { claim(p, v, ret) }; goto got :: else fi;
#endif
#ifdef M_NOCLOSE
    g = gen[v]/2;
    atomic { gen[v] = OPEN(g+1); claim(p, v, ret) };
    goto got;
#endif
#ifdef M_NOBUMP
    atomic { claim(p, v, ret) };
    goto got;
#endif
    g = gen[v];                                             /* open, or closing: left by a dead taker or one who backed off */
    atomic { if :: gen[v] == g -> g = g/2; gen[v] = CLOS(g) :: else -> goto undo fi };
#ifdef M_RETNOSCAN
    if :: ret -> skip :: else -> SCAN(v, p, undo) fi;
#elif !defined(M_NOSCAN)
    SCAN(v, p, undo);
#endif
#ifdef M_PLAINCOMMIT
    atomic { gen[v] = OPEN(g+1); claim(p, v, ret) };
#else
    atomic { if :: gen[v] == CLOS(g) -> gen[v] = OPEN(g+1); claim(p, v, ret) :: else -> goto undo fi };
#endif
got:
    if
    :: ret -> atomic { g = 0; ret = 0; t = 0; bm[p] = 0; fill(cm[p], 0); v = 0; goto again }    /* punched, the life is over */
    :: !ret && !sec -> atomic { g = 0; u = v; e = v+1; v = 0; END_OF(e); goto again }
    :: sec ->                                               /* absorb v: the deciding store, then its mask */
        atomic { g = 0; e = v+1; END_OF(e) };
#ifdef M_MERGEREL
        atomic { CLR(v, p) };
        head = head & ~(1 << v);
#else
        atomic { head = head & ~(1 << v) };
        atomic { CLR(v, p) };
#endif
        atomic { sec = 0; v = 0; goto again }
    fi;
undo:
    assert(!last);
    if
    :: ret -> atomic { g = 0; CLR(u, p); cm[p] = 0; bm[p] = 0; u = N; e = 0; t = 0; v = 0; ret = 0; x = 0; goto again }
    :: else -> atomic { CLR(v, p); g = 0; v = 0; sec = 0; x = 0; goto again }
    fi;
refused:
    atomic { v = 0; sec = 0; hd = 0; goto again };
finish:
    atomic { u = 0; n = 0; done[p] = 1 }
}

proctype acquirer(byte p) provided (!dead[pp[_pid]]) {
    byte n; byte t; byte x; byte o;
    do
    :: n < NACQ && nl > 0 ->
        atomic { n++; if :: t = 1 :: nl > 1 -> t = 2 :: nl > 2 -> t = 3 fi };
#ifdef W2
        atomic { o = M(ls[t], p) & BT(p); M(ls[t], p) = M(ls[t], p) | BT(p) };
        if :: o -> goto next :: else fi;
#else
retry:  x = m[ls[t]];
        if :: x == 0 -> goto next :: else fi;
        if :: x & BT(p) -> goto next :: else fi;
        atomic { if :: m[ls[t]] == x -> m[ls[t]] = x | BT(p) :: else -> goto retry fi };
#endif
again:  x = gen[ls[t]];
        if
#ifdef M_NOABORT
        :: x/2 == lg[t] -> goto got
#else
        :: x == OPEN(lg[t]) -> goto got
        :: x == CLOS(lg[t]) -> atomic { if :: gen[ls[t]] == x -> gen[ls[t]] = OPEN(lg[t]) :: else fi }; goto again
#endif
        :: else -> skip
        fi;
#ifdef M_ACQNORECHK
        goto got;
#endif
#ifdef M_ACQNOUNDO
        goto next;
#endif
        atomic { CLR(ls[t], p) }; goto next;
got:    atomic {                                            /* decided when x was read; nobody may have claimed it since */
            assert(!(OTHERS(cm, p) & lu[t])); assert(!(cm[p] & lu[t]));
            i_ = 0; do :: i_ < N -> assert(!((lu[t] >> i_) & 1) || lf[i_] == t); i_++ :: else -> break od; i_ = 0;
            bm[p] = lu[t] };
#ifdef ACQRET
        if :: 1 -> skip :: 1 -> goto release fi;
        bm[p] = 0;                                          /* needs the data no longer */
        SCAN(ls[t], p, release);
        atomic { assert(gen[ls[t]]/2 == lg[t]); gen[ls[t]] = CLOS(lg[t]) };
        SCAN(ls[t], p, release);
        atomic { if :: gen[ls[t]] == CLOS(lg[t]) -> gen[ls[t]] = OPEN(lg[t]+1); bm[p] = 0; claim(p, ls[t], 1)
                    :: else -> goto release fi };
release:
#endif
        atomic { CLR(ls[t], p); bm[p] = 0; cm[p] = 0 };
next:   atomic { t = 0; x = 0; o = 0 }
    :: n == NACQ || (GONE(0) && GONE(1)) -> break
    od;
    atomic { n = 0; done[p] = 1 }
}

#define SLAY(p) !dead[p] && !done[p] -> dead[p] = 1; nk++; cm[p] = 0; bm[p] = 0
proctype killer() {
    do :: atomic { nk < MAXK && (!GONE(0) || !GONE(1) || !GONE(2)) -> if :: SLAY(0) :: SLAY(1) :: SLAY(2) fi } od
}
proctype reaper() {
    byte q; byte i;
    goto more;
work:
    do
    :: i < N ->
#if defined(M_REAPHEADS)
        if :: H(i) -> atomic { CLR(i, q) } :: else fi;
#elif !defined(M_REAPNONE)
        atomic { CLR(i, q) };
#endif
        i++
    :: else -> break
    od;
    atomic { i = 0; reaped[q] = 1; q = 0 };
more:
    do
    :: atomic { dead[0] && !reaped[0] -> q = 0 }; goto work
    :: atomic { dead[1] && !reaped[1] -> q = 1 }; goto work
    :: atomic { dead[2] && !reaped[2] -> q = 2 }; goto work
    :: (done[0] || reaped[0]) && (done[1] || reaped[1]) && (done[2] || reaped[2]) && (!finned || done[3]) ->
        if
        :: !finned ->
            i = 0; do :: i < N -> assert(MZ(i)); i++ :: else -> break od; i = 0;
            assert(head & 1); assert(ANY(cm) == 0 && ANY(bm) == 0);
            finned = 1;
            atomic { q = run worker(3, 1); pp[q] = 3; q = 0 }
        :: else -> assert(head == 1); break
        fi
    od
}

init {
    atomic {
        byte i;
#define RUN(x, p) i = run x; pp[i] = p
#ifdef INITLIFE
        nl = 1; ls[1] = INITLIFE; lg[1] = 1; gen[INITLIFE] = OPEN(1); units_of(INITLIFE); lu[1] = r_; fill(r_, 1);
#endif
        RUN(worker(0, 0), 0);
#if !defined(ONEW)
        RUN(worker(1, 0), 1);
#elif defined(ACQ2)
        RUN(acquirer(1), 1);
#else
        done[1] = 1;
#endif
#ifndef NOACQ
        RUN(acquirer(2), 2);
#else
        done[2] = 1;
#endif
        i = run killer(); pp[i] = 3; i = run reaper(); pp[i] = 3; i = 0
    }
}
