/* Slabs of several units (design, section 1, end of "Slabs"), at one mask word.
 *
 * Units 0 and 1: one run of both, or two runs (`head1`: unit 1 is a head).  Each has a run descriptor (r, rg: mask and number) and a class word;
 * unit 1 has a small descriptor (sm, sg), used by a slab of both units (class 1) and by a slab of unit 1 alone (class 2).  A handle is
 * {unit, number}: class word 0 -> the run, else the small block.  All lives are at unit 1.  Closings are left out: a take is one step
 * (run.pml, slab.pml).
 *
 * Rules, slab of both units.
 *   cut        number of small descriptors := the largest number of all its units; pass all unit locks; S; inner class word, head's last
 *   give back  all small masks seen 0; every unit's number above all small ones; head's class word 0, inner ones 0; drop S and mine
 *   adopt      S -> S|mine; pass all unit locks; head's class word 0: inner ones 0 first, then drop S, it is a run; else rescan
 *
 * Actors: lanes of processes 0 and 1, which do all that, and split, merge, cut unit 1 alone, use unit 1 as a run; acquirers with any handle:
 * a second thread of process 0 (ACQ0), process 2 (ACQ2).  SPLIT: unit 1 is a run of its own at the start, with a higher number.
 * A kill may fall between any two steps; the dead run to their end at once.
 *
 * Invariants: a believer's bit is set and its life is the one at the place; a claim meets nobody; a class word other than 0 implies S on its
 * run; at the end every bit has a believer.
 *
 * Mutants: M_HEADGEN (cut: numbers from the head's alone)  M_RAISEHEAD (give back raises the head's alone)  M_HEADFIRST (cut: head's class
 *   word before the inner ones)  M_INNERFIRST (give back: inner ones before the head's)  M_ADOPTKEEP (the adopter drops S with class 0 and keeps
 *   the inner ones)  M_HEADLOCK (only the head unit's lock is passed)
 */
#ifndef NT
#define NT 2            /* lives */
#endif
#ifndef MAXK
#define MAXK 1
#endif
#ifndef NTK
#define NTK 4           /* takes and cuts */
#endif
#define S 8
#define B(p) (1 << (p))
#define BL(p, t) ((p)*(NT+1) + (t))
#define LK(p, u) lk[(p)*2 + (u)]

byte r[2]; byte rg[2] = 1; bool head1; byte cls[2]; byte sm; byte sg;
bool lk[6]; byte cnt[3]; byte cg[3]; bool csmall[3];            /* private: unit locks, an entry for the place at unit 1 */
byte tag; byte cur; bool small[NT+1]; byte hg[NT+1]; bool pub[NT+1]; bool bel[3*(NT+1)];
byte ex[2];                                                     /* ghost: who has the unit to himself + 1 */
bool dead[3]; bool reaped[3]; byte thr[3]; byte pp[9]; bool blk; byte nk; byte ntk;

#define BIT(p) ((small[cur] -> sm : r[1]) & B(p))
#define CHK1(p) assert(!(cur && bel[BL(p,cur)]) || BIT(p))
#define CHK CHK1(0); CHK1(1); CHK1(2)
#define NOBODY assert(!bel[BL(0,cur)] && !bel[BL(1,cur)] && !bel[BL(2,cur)])
#define PASS(p, u) (!LK(p,u))
#define MAX2(a, b) (a > b -> a : b)
#define FINISH(p) thr[p]--; if :: dead[p] && !thr[p] -> blk = 0 :: else fi
inline believe(p, t) { assert(cur == t); bel[BL(p,t)] = 1 }
inline claim(p, u) { assert(!ex[u]); ex[u] = p + 1; if :: u == 1 -> NOBODY; cur = 0 :: else fi }
inline begin_life(p, s) {
    NOBODY; tag++; cur = tag; small[tag] = s; bel[BL(p,tag)] = 1; hg[tag] = (s -> sg : rg[1]); ht = tag
}

/* st: 0 nothing, 1 both units, 2 slab of both, 3 unit 1, 4 slab of unit 1, 5 a block of unit 1, 6 unit 0 */
proctype lane(byte p) provided (!blk || dead[pp[_pid]]) {
    byte st; byte e; byte ht;
    {
again:
    do
    /* take, split, merge, let go */
    :: atomic { st == 0 && ntk < NTK && r[0] == 0 ->
            ntk++; r[0] = B(p); rg[0]++; claim(p, 0); st = 6;
            if :: !head1 -> claim(p, 1); st = 1 :: else fi }
    :: atomic { st == 0 && ntk < NTK && head1 && r[1] == 0 -> ntk++; r[1] = B(p); rg[1]++; claim(p, 1); st = 3 }
    :: atomic { st == 1 -> head1 = 1; ex[1] = 0; st = 6 }
    :: atomic { st == 6 && ntk < NTK && r[1] == 0 -> ntk++; r[1] = B(p); rg[1]++; claim(p, 1) };
        head1 = 0;
        atomic { r[1] = r[1] & ~B(p); st = 1 }
    :: atomic { st == 6 -> r[0] = r[0] & ~B(p); ex[0] = 0; st = 0 }
    :: atomic { st == 1 -> r[0] = r[0] & ~B(p); ex[0] = 0; ex[1] = 0; st = 0 }
    :: atomic { st == 3 -> r[1] = r[1] & ~B(p); ex[1] = 0; st = 0 }
    /* a block of unit 1 as a run */
    :: atomic { st == 3 && tag < NT -> begin_life(p, 0); ex[1] = 0; st = 5; pub[tag] = 1; cnt[p] = 1; cg[p] = rg[1]; csmall[p] = 0 }
    /* cut both */
    :: atomic { st == 1 && ntk < NTK -> ntk++ };
#ifdef M_HEADGEN
        sg = rg[0];
#else
        sg = MAX2(rg[0], rg[1]);
#endif
        PASS(p, 0);
#ifndef M_HEADLOCK
        PASS(p, 1);
#endif
        r[0] = r[0] | S;
#ifdef M_HEADFIRST
        cls[0] = 1; cls[1] = 1;
#else
        cls[1] = 1; cls[0] = 1;
#endif
        st = 2
    /* cut unit 1 */
    :: atomic { st == 3 && ntk < NTK -> ntk++; sg = rg[1] };
        PASS(p, 1);
        r[1] = r[1] | S;
        atomic { cls[1] = 2; st = 4 }
    /* adopt */
    :: atomic { st == 0 && r[0] == S -> r[0] = S | B(p); assert(!ex[0] && !ex[1] && !head1); ex[0] = p + 1; ex[1] = p + 1 };
        PASS(p, 0);
#ifndef M_HEADLOCK
        PASS(p, 1);
#endif
        if
        :: cls[0] -> st = 2
        :: else ->
#ifndef M_ADOPTKEEP
            cls[1] = 0;
#endif
            atomic { r[0] = r[0] & ~S; NOBODY; cur = 0; st = 1 }
        fi
    :: atomic { st == 0 && head1 && r[1] == S -> r[1] = S | B(p); assert(!ex[1]); ex[1] = p + 1 };
        PASS(p, 1);
        if
        :: cls[1] -> st = 4
        :: else -> atomic { r[1] = r[1] & ~S; NOBODY; cur = 0; st = 3 }
        fi
    /* small block: the class word of the unit it lies in must say so, for its handle to find it */
    :: atomic { (st == 2 || st == 4) && !ht && tag < NT && sm == 0 -> sg++ };
        atomic { assert(sm == 0); assert(cls[1]); sm = B(p); begin_life(p, 1);
            if
            :: pub[tag] = 1; cnt[p] = 1; cg[p] = sg; csmall[p] = 1
            :: 1                                                        /* never exported */
            fi }
    :: atomic { ht && !pub[ht] -> bel[BL(p,ht)] = 0; ht = 0; sm = 0; CHK }       /* plain store */
    /* release */
    :: atomic { ht && pub[ht] && !LK(p,1) -> LK(p,1) = 1; bel[BL(p,ht)] = 0; cnt[p]-- };
        atomic {
            if
            :: cnt[p] == 0 -> if :: small[ht] -> sm = sm & ~B(p) :: else -> r[1] = r[1] & ~B(p) fi; CHK
            :: else -> bel[BL(p,ht)] = 1
            fi;
            LK(p,1) = 0; ht = 0; if :: st == 5 -> st = 0 :: else fi }
    /* give back */
    :: atomic { st == 2 && !ht && sm == 0 -> e = MAX2(sg, rg[0]); e = MAX2(e, rg[1]) + 1; rg[0] = e };
#ifndef M_RAISEHEAD
        rg[1] = e;
#endif
#ifdef M_INNERFIRST
        cls[1] = 0; cls[0] = 0;
#else
        cls[0] = 0; cls[1] = 0;
#endif
        atomic {
            e = 0; NOBODY; cur = 0;
            if
            :: r[0] = r[0] & ~(S | B(p)); ex[0] = 0; ex[1] = 0; st = 0
            :: r[0] = r[0] & ~S; st = 1
            fi }
    :: atomic { st == 4 && !ht && sm == 0 -> rg[1] = MAX2(sg, rg[1]) + 1 };
        cls[1] = 0;
        atomic { NOBODY; cur = 0; r[1] = r[1] & ~(S | B(p)); ex[1] = 0; st = 0 }
    /* abandon */
    :: atomic { st == 2 && !ht -> r[0] = r[0] & ~B(p); ex[0] = 0; ex[1] = 0; st = 0 }
    :: atomic { st == 4 && !ht -> r[1] = r[1] & ~B(p); ex[1] = 0; st = 0 }
    :: atomic { break }
    od;
    skip
    } unless { dead[pp[_pid]] };
    atomic { st = 0; e = 0; ht = 0; FINISH(pp[_pid]) }
}

proctype acquirer(byte p) provided (!blk || dead[pp[_pid]]) {
    byte t; byte m; bool s; byte c;
    {
    if :: pub[1] || pub[2] :: goto out fi;
    atomic {
        !LK(p,1) -> if :: pub[1] -> t = 1 :: pub[2] -> t = 2
#if NT > 2
            :: pub[3] -> t = 3
#endif
        fi;
        LK(p,1) = 1; c = cls[1]; s = (c != 0);
        if
        :: cnt[p] && csmall[p] == s && cg[p] == hg[t] -> cnt[p]++; believe(p, t); goto got
        :: cnt[p] && !(csmall[p] == s && cg[p] == hg[t]) -> goto stale
        :: else
        fi };
retry:
    atomic { m = (s -> sm : r[1]); if :: m == 0 || (m & B(p)) -> goto stale :: else fi };
    atomic {
        if
        :: s && sm == m -> sm = m | B(p)
        :: !s && r[1] == m -> r[1] = m | B(p)
        :: else -> goto retry
        fi; m = 0 };
    atomic {
        if
        :: s && sg == hg[t] && cls[1] == c -> cnt[p] = 1; cg[p] = hg[t]; csmall[p] = s; believe(p, t); goto got
        :: !s && rg[1] == hg[t] -> cnt[p] = 1; cg[p] = hg[t]; csmall[p] = s; believe(p, t); goto got
        :: else
        fi };
    atomic { if :: s -> sm = sm & ~B(p) :: else -> r[1] = r[1] & ~B(p) fi; CHK };
stale:
    atomic { LK(p,1) = 0; goto out };
got:
    atomic { LK(p,1) = 0; if :: goto out :: 1 fi };                 /* keep it, or let go */
    atomic { !LK(p,1) -> LK(p,1) = 1; cnt[p]--; if :: cnt[p] == 0 -> bel[BL(p,t)] = 0 :: else fi };
    atomic {
        if
        :: cnt[p] == 0 -> if :: s -> sm = sm & ~B(p) :: else -> r[1] = r[1] & ~B(p) fi; CHK
        :: else
        fi;
        LK(p,1) = 0 };
out:
    skip
    } unless { dead[pp[_pid]] };
    atomic { t = 0; m = 0; s = 0; c = 0; FINISH(pp[_pid]) }
}

inline slay(p) {
    dead[p] = 1; nk++; cnt[p] = 0; cg[p] = 0; csmall[p] = 0; LK(p,0) = 0; LK(p,1) = 0;
    i = 1; do :: i <= NT -> bel[BL(p,i)] = 0; i++ :: else -> break od; i = 0;
    if :: ex[0] == p + 1 -> ex[0] = 0 :: else fi; if :: ex[1] == p + 1 -> ex[1] = 0 :: else fi;
    blk = 1             /* last: it stops the killer too */
}
proctype killer() provided (!blk) {
    byte i;
    do
    :: atomic { nk < MAXK && (thr[0] || thr[1] || thr[2]) ->
        if :: thr[0] -> slay(0) :: thr[1] -> slay(1) :: thr[2] -> slay(2) fi }
    od
}
#define END(p) assert(!(sm & B(p)) || (cur && small[cur] && bel[BL(p,cur)])); assert(!(r[0] & B(p)) || ex[0] == p + 1); \
    assert(!(r[1] & B(p)) || ex[1] == p + 1 || (cur && !small[cur] && bel[BL(p,cur)]))
proctype reaper() provided (!blk) {
    byte q;
    do
    :: atomic { dead[0] && !reaped[0] -> q = 0 }; goto sweep
    :: atomic { dead[1] && !reaped[1] -> q = 1 }; goto sweep
    :: atomic { dead[2] && !reaped[2] -> q = 2 }; goto sweep
    :: timeout -> break
sweep:
        atomic { r[0] = r[0] & ~B(q); CHK };
        atomic { r[1] = r[1] & ~B(q); CHK };
        if :: cls[1] -> atomic { sm = sm & ~B(q); CHK } :: else fi;
        atomic { reaped[q] = 1; q = 0 }
    od;
    skip;
    d_step {
        assert(!thr[0] && !thr[1] && !thr[2]);
        END(0); END(1); END(2);
        assert(!cls[0] || (r[0] & S)); assert(!cls[1] || ((head1 -> r[1] : r[0]) & S));
        assert(head1 || r[1] == 0)
    }
}
init {
    atomic {
        byte i;
#define RUN(x, p) i = run x; pp[i] = p; thr[p]++
#ifdef SPLIT
        head1 = 1; rg[1] = 2;
#endif
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
        i = run killer(); i = run reaper(); i = 0
    }
}
