/* Slabs when the mask has two words: an empty slab can be entered (design, section 1, "W > 1" of the slabs).
 *
 * An acquirer sets its bit by fetch-or, so it may enter an empty slab with the gen of a block let go and not yet re-used.  So the class
 * word has a closing of its own, and the acquirer looks at it after its fetch-or and before the gen.
 *   give back  class c -> closing(c) by CAS; scan all words of all small masks; raise the run's gen; CAS closing(c) -> 0 decides; drop S,
 *              then mine
 *   acquire    fetch-or; class word (closing(c): CAS it back, look again; not c: undo); gen last
 *   adopt      fetch-or mine into the run's mask (own bit was set: leave it); scan all words: another bit, or no S: undo
 * A taker whose scan straddled "S set, owner's bit gone" may leave the run's gen closing: the raise is a CAS from whatever stands.
 *
 * One unit: the run's mr[2], rg; one small block ms[2], gen (class 1).  S: bit 7 of word 0.  Slots: lanes 0 (word 0) and 1 (word 1;
 * absent with ONEL), acquirers 2 (word 1; ACQ2) and 3 (word 0; ACQ3).  Small blocks go by the closing protocol (closing.pml).
 * A kill may fall between any two steps; the threads of the dead run to their end at once.
 *
 * Invariants: as in slab.pml.  A reaper clears small masks whatever the class word says.
 *
 * Mutants: M_NOCLSCLOSE (class word stored)  M_GENFIRST (gen before class word)  M_NOCLSABORT (closing(c) taken for c)
 *   M_PLAINCOMMIT  M_MINEFIRST (mine before S)  M_NORAISE  M_NOEPOCH  M_SLATE (S after the class word)  M_REAPCLS (the reaper goes by
 *   the class word)
 */
#ifndef NT
#define NT 2
#endif
#ifndef MAXK
#define MAXK 1
#endif
#ifndef NACQ
#define NACQ 1
#endif
#ifndef NTK
#define NTK 2
#endif
#ifndef NC
#define NC 2
#endif
#ifndef NAD
#define NAD 2
#endif
#define S 128
#define WD(p) ((p)==1||(p)==2 -> 1 : 0)
#define BT(p) (1<<((p)>>1))
#define OPEN(g) (2*(g))
#define CLOS(g) (2*(g)+1)
#define C1 2
#define C1CL 3
byte mr[2]; byte ms[2]; byte gen; byte rg = 2; byte cls;      /* cls: 0, C1, C1CL */
#define O0(M,p) (M[0] & ~(WD(p)==0 -> BT(p) : 0))
#define O1(M,p) (M[1] & ~(WD(p)==1 -> BT(p) : 0))
bool dead[4]; bool reaped[4]; byte pp[9]; byte thr[4]; bool blk; byte nk; byte ntk; byte nc; byte nad;
bool bs[4*(NT+1)]; byte nb[NT+1]; byte tag; byte cur; byte hgen[NT+1]; bool sm[NT+1]; byte pl[NT+1]; byte exu;
#define BL(p,t) ((p)*(NT+1)+(t))
#define HELD(p) assert(!(bs[BL(p,cur)] && !((sm[cur] -> ms[WD(p)] : mr[WD(p)]) & BT(p))))
#define CHK HELD(0); HELD(1); HELD(2); HELD(3)
#define CLRR(p) mr[WD(p)]=mr[WD(p)]&~BT(p); CHK
#define CLRS(p) ms[WD(p)]=ms[WD(p)]&~BT(p); CHK
inline claim(p) { assert(exu == 0 && nb[cur] == 0); exu = p+1; cur = 0 }
inline life(p, s) {
    tag++; assert(nb[cur] == 0); cur = tag; sm[tag] = s; bs[BL(p, tag)] = 1; nb[tag] = 1; ht = tag;
    hgen[tag] = (s -> gen : rg)/2; pl[tag] = p+1 }
#define FINISH(p)  thr[p]--; if :: dead[p] && !thr[p] -> blk=0 :: else fi

proctype lane(byte p) provided (!blk || dead[pp[_pid]]) {
    byte g; byte st; byte ht; bool o;
    {
again:  do
    /* take a free run */
    :: atomic { st == 0 && ntk < NTK -> ntk++;
        o = ((mr[WD(p)] & BT(p)) != 0); mr[WD(p)] = mr[WD(p)] | BT(p); if :: o -> o = 0; goto again :: else fi };
        if :: O0(mr, p) -> goto undo :: else fi;
        if :: O1(mr, p) -> goto undo :: else fi;
        g = rg;
        atomic { if :: rg == g -> g = g/2; rg = CLOS(g) :: else -> goto undo fi };
        if :: O0(mr, p) -> goto undo :: else fi;
        if :: O1(mr, p) -> goto undo :: else fi;
        atomic { if :: rg == CLOS(g) -> rg = OPEN(g+1); g = 0; claim(p); assert(cls == 0); st = 1; goto again :: else fi };
undo:   atomic { CLRR(p); g = 0 }
    /* adopt */
    :: atomic { st == 0 && nad < NAD && (mr[0] & S) -> nad++;
        o = ((mr[WD(p)] & BT(p)) != 0); mr[WD(p)] = mr[WD(p)] | BT(p); if :: o -> o = 0; goto again :: else fi };
#ifdef SCAN0FIRST
        if :: O0(mr, p) != S -> goto undo :: else fi;
        if :: O1(mr, p) -> goto undo :: else fi;
        atomic { assert(exu == 0); exu = p+1 };
#else
        if :: O1(mr, p) -> goto undo :: else fi;
        atomic { if :: O0(mr, p) != S -> goto undo :: else -> assert(exu == 0); exu = p+1 fi };
#endif
        atomic { if :: cls -> st = 2; goto again :: else -> exu = 0; claim(p) fi };
        atomic { mr[0] = mr[0] & ~S; st = 1 }
    /* run held: cut, use as a block, let go */
    :: atomic { st == 1 && nc < NC -> nc++ };
#ifdef M_SLATE
        gen = OPEN(rg/2); cls = C1; atomic { mr[0] = mr[0] | S; st = 2 }
#else
#ifndef M_NOEPOCH
        gen = OPEN(rg/2);
#endif
        mr[0] = mr[0] | S;
        atomic { cls = C1; st = 2 }
#endif
    :: atomic { st == 1 && tag < NT -> life(p, 0); exu = 0; st = 3 }
    :: atomic { st == 3 -> bs[BL(p, ht)] = 0; nb[ht]--; pl[ht] = 0; ht = 0; st = 4 }; atomic { CLRR(p); st = 0 }
    :: atomic { st == 1 -> exu = 0; CLRR(p); st = 0 }
    /* slab owned: allocate (m2's closing protocol), release, give back, abandon */
    :: atomic { st == 2 && !ht && tag < NT && ms[0] == 0 };
        if :: ms[1] -> goto again :: else fi;
        g = gen;
        atomic { g = g/2; gen = CLOS(g) };
        if :: ms[0] -> goto abort :: else fi;
        if :: ms[1] -> goto abort :: else fi;
        atomic { if :: gen == CLOS(g) -> gen = OPEN(g+1) :: else -> goto abort fi };
        atomic { g = 0; if :: ms[WD(p)] & BT(p) -> goto again :: else -> ms[WD(p)] = ms[WD(p)] | BT(p); life(p, 1); goto again fi };
abort:  g = 0
    :: atomic { st == 2 && ht -> bs[BL(p, ht)] = 0; nb[ht]--; pl[ht] = 0; ht = 0; st = 5 }; atomic { CLRS(p); st = 2 }
    :: st == 2 && !ht && ms[0] == 0 ->
#ifdef M_NOCLSCLOSE
        if :: ms[1] -> goto again :: else fi;
        atomic { if :: gen/2 > rg/2 -> rg = OPEN(gen/2+1) :: else -> rg = OPEN(rg/2+1) fi };
        cls = 0;
#else
        atomic { assert(cls); cls = C1CL };
        if :: ms[0] -> cls = C1; goto again :: else fi;
        if :: ms[1] -> cls = C1; goto again :: else fi;
#ifndef M_NORAISE
        atomic { if :: gen/2 > rg/2 -> rg = OPEN(gen/2+1) :: else -> rg = OPEN(rg/2+1) fi };
#endif
#ifdef M_PLAINCOMMIT
        cls = 0;
#else
        atomic { if :: cls == C1CL -> cls = 0 :: else -> goto again fi };
#endif
#endif
#ifdef M_MINEFIRST
        atomic { exu = 0; CLRR(p); st = 0 }; mr[0] = mr[0] & ~S
#else
        mr[0] = mr[0] & ~S; atomic { exu = 0; CLRR(p); st = 0 }
#endif
    :: atomic { st == 2 && !ht -> exu = 0; CLRR(p); st = 0 }
    :: atomic { break }
    od; skip
    } unless { dead[p] };
    atomic { g = 0; st = 0; ht = 0; o = 0; FINISH(p) } }

proctype acquirer(byte p) provided (!blk || dead[pp[_pid]]) {
    byte n; byte t; bool s; byte g; bool legit; byte x;
    { do
    :: atomic { n < NACQ && tag > 0 -> if :: t = 1 :: tag > 1 -> t = 2 fi; n++; g = hgen[t]; legit = (pl[t] != 0); s = (cls != 0) };
        atomic { if :: s -> if :: ms[WD(p)] & BT(p) -> goto nxt :: else -> ms[WD(p)] = ms[WD(p)] | BT(p) fi
                   :: !s -> if :: mr[WD(p)] & BT(p) -> goto nxt :: else -> mr[WD(p)] = mr[WD(p)] | BT(p) fi fi };
        if :: !s -> goto look :: else fi;
#ifdef M_GENFIRST
        if :: gen == OPEN(g) -> skip
            :: gen == CLOS(g) -> atomic { if :: gen == CLOS(g) -> gen = OPEN(g) :: else fi }
            :: gen/2 != g -> goto und fi;
#endif
lookc:
        x = cls;
        if :: x == 0 -> goto und
            :: x == C1CL ->
#ifdef M_NOCLSABORT
                skip
#else
                atomic { if :: cls == C1CL -> cls = C1 :: else fi }; goto lookc
#endif
            :: x == C1 -> skip fi;
#ifdef M_GENFIRST
        atomic { assert(cur == t); bs[BL(p, t)] = 1; nb[t]++; goto got };
#endif
look:   atomic { x = (s -> gen : rg); if :: x == OPEN(g) -> assert(cur == t); bs[BL(p, t)] = 1; nb[t]++; goto got
                :: x == CLOS(g) -> skip :: else -> goto und fi };
        atomic { if :: s && gen == x -> gen = OPEN(g) :: !s && rg == x -> rg = OPEN(g) :: else fi };
        if :: s -> goto lookc :: else -> goto look fi;
und:    atomic { assert(!(legit && pl[t])); if :: s -> CLRS(p) :: else -> CLRR(p) fi; goto nxt };
got:    atomic { if :: break :: 1 -> bs[BL(p, t)] = 0; nb[t]-- fi };
        atomic { if :: s -> CLRS(p) :: else -> CLRR(p) fi };
nxt:    atomic { t = 0; g = 0; legit = 0; s = 0; x = 0 }
    :: atomic { break }
    od; skip
    } unless { dead[p] };
    atomic { n = 0; t = 0; g = 0; legit = 0; s = 0; x = 0; FINISH(p) } }

inline slay(p) { dead[p] = 1; nk++; i = 1;
    do :: i <= NT -> if :: bs[BL(p, i)] -> bs[BL(p, i)] = 0; nb[i]-- :: else fi;
        if :: pl[i] == p+1 -> pl[i] = 0 :: else fi; i++ :: else -> break od; i = 0;
    if :: exu == p+1 -> exu = 0 :: else fi; blk = 1 }
proctype killer() provided (!blk) { byte i;
    do :: atomic { nk < MAXK && (thr[0] || thr[1] || thr[2] || thr[3]) ->
        if :: thr[0] -> slay(0) :: thr[1] -> slay(1) :: thr[2] -> slay(2) :: thr[3] -> slay(3) fi } od }
#define END(p) assert(!(ms[WD(p)]&BT(p)) || (!dead[p] && sm[cur] && bs[BL(p,cur)])); \
    assert(!(mr[WD(p)] & BT(p)) || (!dead[p] && !sm[cur] && bs[BL(p, cur)]) || exu == p+1)
proctype reaper() provided (!blk) {
    byte q;
    do :: atomic { dead[0] && !reaped[0] -> q = 0; CLRR(q) }; goto sweep
        :: atomic { dead[1] && !reaped[1] -> q = 1; CLRR(q) }; goto sweep
        :: atomic { dead[2] && !reaped[2] -> q = 2; CLRR(q) }; goto sweep
        :: atomic { dead[3] && !reaped[3] -> q = 3; CLRR(q) }; goto sweep
        :: timeout -> break
#ifdef M_REAPCLS
sweep:  if :: cls -> atomic { CLRS(q) } :: else fi; atomic { reaped[q] = 1; q = 0 }
#else
sweep:  atomic { CLRS(q); reaped[q] = 1; q = 0 }
#endif
    od;
    skip;
    d_step { assert(!thr[0] && !thr[1] && !thr[2] && !thr[3]);
    END(0); END(1); END(2); END(3);
    if :: exu == 0 && nb[cur] == 0 -> 
            assert(ms[0] == 0 && ms[1] == 0 && mr[1] == 0 && (mr[0] == 0 || mr[0] == S));
            assert(cls == 0 || mr[0] == S) :: else fi }
}
init { atomic { byte i;
#define RUN(x,p) i = run x; pp[i]=p; thr[p]++
    RUN(lane(0), 0);
#ifndef ONEL
    RUN(lane(1), 1);
#endif
#ifdef ACQ2
    RUN(acquirer(2), 2);
#endif
#ifdef ACQ3
    RUN(acquirer(3), 3);
#endif
    i = run killer(); i = run reaper(); i = 0 } }
